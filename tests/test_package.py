"""The distribution: what is in the wheel, and that it works without the repository."""

from __future__ import annotations

import os
import re
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


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(tmp_path: Path) -> None:
    wheel, work = build(tmp_path), tmp_path / "work"
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "01_ppo_codet5.ipynb",
        "04_results.ipynb",
        "profiles/laptop.yaml",
        "data/published_table.csv",
        "cli.py",
    ):
        assert f"ppo_codet5/{name}" in names
    assert not [name for name in names if "test" in name or re.match(r"(ppo_codet5/)?results/", name)]
    work.mkdir()
    python = tmp_path / "venv" / "bin" / "python"
    run(work, sys.executable, "-m", "venv", tmp_path / "venv")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(work, *pip, "torch==2.13.0")  # the build that this machine has, before a dependency asks for any
    run(work, *pip, wheel)
    (package,) = (tmp_path / "venv" / "lib").glob("python*/site-packages/ppo_codet5")
    run(work, "chmod", "-R", "a-w", package)
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    cache = {"PPO_CODET5_CACHE": str(assets.cache_root()), "PYTHONDONTWRITEBYTECODE": "1"}
    command = python.with_name("ppo-codet5")

    run(work, command, "config", "--output", "config.json", "--profile", "laptop")
    few = [f"--set=training.{name}" for name in ("max_episodes=8", "episodes_per_update=4", "max_steps_per_episode=2")]
    few += ["--set=environment.eval_samples=4"]
    out = run(work, command, "train", "--config", "config.json", "--output-dir", "./results", *few, **cache)
    assert "update   2/2" in out
    out = run(work, command, "eval", "--checkpoint", "./results/final_model.pt", "--episodes", "2", **cache)
    assert re.search(r"^ppo +2 ", out, re.MULTILINE)
    assert "sandbox  level" in run(work, command, "doctor", **cache)
    run(work, command, "notebooks", "mine")
    assert (work / "mine" / "02_PPO_LlaMa.ipynb").exists()
    version = run(work, python, "-c", "import ppo_codet5; print(ppo_codet5.__version__)")
    assert version.strip() == PROJECT["version"]
    out = run(work / "mine", command, "reproduce", "--profile", "smoke", **cache)
    assert "your copies are used: profiles/smoke.yaml, 01_ppo_codet5.ipynb" in out
    assert "done in" in out and (work / "mine" / "runs" / "smoke" / "04_results" / "results_table.md").exists()
    script = "import gymnasium, ppo_codet5.envs; print(gymnasium.spec('RLPrompt-v0').entry_point)"
    assert "ppo_codet5.envs:make_env" in run(work, python, "-c", script)
    assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file()} == before
