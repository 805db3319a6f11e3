"""The distribution: what is in the wheel, and that it works without the repository."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ppo_codet5.helpers import assets

import ppo_codet5

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(folder: Path, *line: str | Path, **environment: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")}
    done = subprocess.run(
        [str(part) for part in line], cwd=folder, env=env | environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def build(folder: Path) -> Path:
    run(folder, sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_pins_are_inside_the_ranges_and_name_no_build() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[\d.]+", version) for version in pins.values())
    dev = (ROOT / "requirements-dev.txt").read_text().splitlines()
    pins |= dict(line.split("==") for line in dev if "==" in line)
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]):
        requirement = Requirement(text)
        assert requirement.name in pins, f"{text}: no pin"
        assert requirement.specifier.contains(pins[requirement.name]), text


def test_the_package_says_its_version_and_its_names() -> None:
    assert ppo_codet5.__version__ == PROJECT["version"]
    assert {*ppo_codet5.__all__, "__version__", "__path__"} <= set(dir(ppo_codet5))
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = ppo_codet5.Trainer


def interpreter(version: str) -> str:
    """A Python of this version: the one that runs the tests, pyenv's, or the system's."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    path = str(found[-1]) if found else shutil.which(f"python{version}")
    if path is None:
        pytest.skip(f"no Python {version} here")
    return path


@pytest.fixture
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The interpreter of a fresh environment with the wheel, of the Python version that the test asks for.

    The version that runs the tests sees what is installed for them; another gets all from the package index.
    """
    python, other = tmp_path / "venv" / "bin" / "python", interpreter(request.param)
    run(tmp_path, other, "-m", "venv", tmp_path / "venv")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if other == sys.executable:
        (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
        (packages / "pinned.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    else:
        (torch,) = re.findall(r"^torch==.*", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
        run(tmp_path, *pip, torch)  # first, as README says
    run(tmp_path, *pip, build(tmp_path))
    return python


def readme(kind: str) -> str:
    """The code of README's section on use that starts with the package's command, or imports it."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Use it")[1]
    (block,) = [code for code in re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) if "make " not in code]
    return block


@pytest.mark.slow
@pytest.mark.parametrize("installed", ["3.11", "3.13"], indirect=True)
def test_the_wheel_does_what_readme_says_without_the_repository(installed: Path, tmp_path: Path) -> None:
    (wheel,), work = tmp_path.glob("*.whl"), tmp_path / "work"
    names = set(zipfile.ZipFile(wheel).namelist())
    files = "01_ppo_codet5.ipynb 04_results.ipynb profiles/laptop.yaml data/published_table.csv cli.py baselines.py"
    assert {f"ppo_codet5/{name}" for name in files.split()} <= names
    assert not [name for name in names if "test" in name or re.match(r"(ppo_codet5/)?results/", name)]
    (package,) = (tmp_path / "venv" / "lib").glob("python*/site-packages/ppo_codet5")
    run(tmp_path, "chmod", "-R", "a-w", package)
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    work.mkdir()
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Use it")[1]
    (work / "tasks.jsonl").write_text(re.search(r'`(\{"text": .*?\})`', section)[1])  # type: ignore[index]

    cache = {"PPO_CODET5_CACHE": str(assets.cache_root()), "PYTHONDONTWRITEBYTECODE": "1"}
    cache["PATH"] = os.pathsep.join([str(installed.parent), os.environ["PATH"]])
    first = run(work, installed, "-V").startswith("Python 3.11")  # as README has it once, then smaller
    profile, budget = ("laptop", 3) if first else ("smoke", 2)
    said = {}
    for line in readme("bash").splitlines():
        short = line.partition("  #")[0].rstrip().replace("--profile laptop", f"--profile {profile}")
        more = " --plan" * short.startswith("ppo-codet5 reproduce")  # as it stands it takes an hour
        said[short.split()[1]] = run(work, "bash", "-c", short + more, **cache)
    assert list(said) == ["config", "train", "eval", "solve", "doctor", "reproduce"]
    assert "update   2/2" in said["train"] and re.search(rf"^ppo +{budget} ", said["eval"], re.MULTILINE)
    assert re.search(r"^[01] of 1 solved$", said["solve"], re.MULTILINE) and "sandbox  level" in said["doctor"]
    assert said["reproduce"].count("stage 0") >= 9 and "to fetch  nothing" in said["reproduce"]
    out = run(work, installed, "-c", readme("python").replace('"laptop"', f'"{profile}"'), **cache)
    assert re.search(r"^[01]\.\d+ \d+\n", out, re.MULTILINE) and "def halve(" in out
    run(work, installed.with_name("ppo-codet5"), "notebooks", "mine")
    assert (work / "mine" / "02_PPO_LlaMa.ipynb").exists()
    version = run(work, installed, "-c", "import ppo_codet5; print(ppo_codet5.__version__)")
    assert version.strip() == PROJECT["version"]
    script = "import gymnasium, ppo_codet5.envs; print(gymnasium.spec('RLPrompt-v0').entry_point)"
    assert "ppo_codet5.envs:make_env" in run(work, installed, "-c", script)
    if first:
        out = run(
            work / "mine",
            installed.with_name("ppo-codet5"),
            "reproduce",
            "--profile",
            "smoke",
            "--notebooks",
            "01",
            "04",
            **cache,
        )
        assert "your copies are used: profiles/smoke.yaml, 01_ppo_codet5.ipynb" in out
        assert "done in" in out and (work / "mine" / "runs" / "smoke" / "04_results" / "results_table.md").exists()
    assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file()} == before
