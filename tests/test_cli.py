"""The command and the API as users meet them: real processes, real models of a few thousand weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ppo_codet5.helpers.runs import read_rows
from tiny import save_llama, save_t5

from ppo_codet5 import cli, grid, notebooks, reproduce, running
from ppo_codet5.config import Config

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Nothing is fetched for a plan, and without the models nothing is loaded.
EMPTY = ("PPO_CODET5_CACHE", "nothing is here")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ppo_codet5.cli", *arguments]


def run(folder: Path, *arguments: str, rc: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(command(*arguments), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == rc, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_t5(folder / "coder")
    save_llama(folder / "rewriter", context=4096)
    return folder


@pytest.fixture
def config(models: Path, tmp_path: Path) -> Callable[..., str]:
    """Writes a config of a run of seconds with tiny models; its path."""

    def write(name: str = "config.json", **changes: Any) -> str:
        config = Config.from_profile("smoke")
        config.model.codet5_model, config.model.rewriter_model = str(models / "coder"), str(models / "rewriter")
        config.model.torch_dtype, config.cache.generations = "float32", None
        config.training.max_episodes, config.training.episodes_per_update = 12, 4
        for setting, value in changes.items():
            setattr(config.training if hasattr(config.training, setting) else config, setting, value)
        return str(config.save(tmp_path / name))

    return write


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line on stderr of a command that fails, run in this process."""

    def says(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and "Traceback" not in line
        return line

    return says


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in tmp_path and in this process, which has the libraries loaded; what it prints."""
    monkeypatch.chdir(tmp_path)

    def here(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    return here


HEAVY = {"torch", "transformers", "gensim", "nltk", "matplotlib", "sentence_transformers", "gymnasium", "datasets"}


@pytest.mark.parametrize(
    "code",
    [
        "import ppo_codet5; ppo_codet5.Config()",
        "from ppo_codet5.cli import main; main(['config', '--output', 'c.json', '--profile', 'laptop'])",
        "from ppo_codet5.cli import main; main(['notebooks', 'here'])",
        "from ppo_codet5.cli import main; main(['train', '--profile', 'laptop', '--output-dir', 'run', '--plan'])",
        "import ppo_codet5; dir(ppo_codet5), ppo_codet5.__version__",
        "import contextlib\nfrom ppo_codet5.cli import main\nwith contextlib.suppress(SystemExit): main(['--help'])",
        "import contextlib\nfrom ppo_codet5.cli import main\nwith contextlib.suppress(SystemExit): main(['train', '-h'])",
    ],
)
def test_what_needs_no_model_loads_no_heavy_library(code: str, tmp_path: Path) -> None:
    code += f"\nimport sys\nassert not {HEAVY} & sys.modules.keys(), {HEAVY} & sys.modules.keys()"
    line = [sys.executable, "-c", code]
    subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT | dict([EMPTY]), check=True, stdout=subprocess.DEVNULL)


def test_config_writes_all_settings_and_keeps_a_file_that_is_there(tmp_path: Path, says: Callable[..., str]) -> None:
    path = tmp_path / "config.json"
    assert cli.main(["config", "--output", str(path)]) == 0
    assert Config.load(path) == Config()
    assert "is there already" in says("config", "--output", str(path), "--profile", "laptop")
    assert Config.load(path) == Config()
    assert cli.main(["config", "--output", str(path), "--profile", "laptop", "--force"]) == 0
    assert Config.load(path) == Config.from_profile("laptop")
    assert "unknown profile 'lap' (did you mean laptop?); known profiles: codellama_a100" in says(
        "config", "--output", "x", "--profile", "lap"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["learn"],
        ["train"],
        ["train", "--output-dir"],
        ["eval", "--checkpoint", "x", "--episodes", "0"],
        ["eval", "--checkpoint", "x", "--episodes", "many"],
        ["reproduce", "--seeds", "one"],
        ["reproduce", "--jobs", "0"],
        ["config"],
        ["train", "--config", "x", "--profile", "laptop", "--output-dir", "x"],
        ["train", "--output-dir", "x", "--control", "ppo"],
        ["train", "--output-dir", "x", "--seed", "one"],
        ["eval", "--checkpoint", "x", "--policy", "best"],
        ["reproduce", "--json"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2 and "usage: ppo-codet5" in capsys.readouterr().err


def test_train_and_eval_exactly_as_the_readme_writes_them(
    tmp_path: Path, config: Callable[..., str], here: Callable[..., str]
) -> None:
    """At the root of a clone, where results/ holds the committed ones."""
    config()
    shutil.copytree(ROOT / "results", tmp_path / "results")
    committed = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    done = run(tmp_path, "train", "--config", "config.json", "--output-dir", "./results")
    assert [int(n) for n in re.findall(r"^update +(\d+)/3 ", done.stdout, re.MULTILINE)] == [1, 2, 3]
    assert re.search(r"^ppo +2 .*\nppo_sampled +2 ", done.stdout, re.MULTILINE) and done.stderr == ""
    plan = done.stdout.partition("update ")[0]  # minutes of all that is to do, before any of it
    assert re.search(r" minutes\ntraining .*\nppo .*\nppo_sampled .*\nsum .* \d+\.\d\n", plan)
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert summary["scores"]["ppo"]["n"] == 4
    assert {path: path.read_bytes() for path in committed} == committed
    again = here("train", "--config", "config.json", "--output-dir", "./results")
    assert "is complete: read, not run again" in again and "give --control resampling too" in again
    checkpoint = ("eval", "--checkpoint", "./results/final_model.pt", "--episodes")
    out = here(*checkpoint, "50")
    assert "there are 4 problems to score, fewer than --episodes 50" in out
    (line,) = re.findall(r"^ppo .*", out, re.MULTILINE)
    assert line == re.search(r"^ppo .*", again, re.MULTILINE).group()  # type: ignore[union-attr]
    here(*checkpoint, "2", "--output-dir", "evaluation", "--set", "environment.dataset_split=test")
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text())["scores"]["ppo"]["n"] == 2


def test_controls_policies_seeds_and_json(
    tmp_path: Path,
    config: Callable[..., str],
    here: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rows(text: str) -> dict[str, str]:
        return {line.split()[0]: line for line in text.splitlines() if "[" in line}

    line = ("train", "--config", config(), "--seed", "3", "--output-dir", "run", "--control", "resampling")
    out = here(*line, "--control", "random")
    table = rows(out)
    assert list(table) == ["ppo", "ppo_sampled", "resampling", "random"]
    assert out.index("loading PyTorch") < out.index("loading /") < out.index("training: 12 episodes, on 4 problems")
    assert "compared  ppo-codet5 reproduce --notebooks 04 -p runs=run -p run_dir=run\n" in out
    for folder in (tmp_path / "run", tmp_path / "run" / "resampling"):
        assert json.loads((folder / "config.json").read_text())["identity"]["seed"] == 3
    assert cli.main([*line, "--json"]) == 0
    out, err = capsys.readouterr()
    scores = json.loads(out)["scores"]
    assert scores.keys() == {"ppo", "ppo_sampled", "resampling"} and "run is complete" in err
    # The agent as trained, drawn from as in its training's evaluation, and as the last checkpoint has it.
    assert rows(here("eval", "--checkpoint", "run/final_model.pt", "--policy", "sampled")) == {
        "ppo_sampled": table["ppo_sampled"]
    }
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "final_model.pt").unlink()
    out = here("eval", "--checkpoint", "run/checkpoint.pt")
    assert rows(out) == {"ppo": table["ppo"]} and "as it was at the last checkpoint of run" in out
    assert cli.main(["eval", "--checkpoint", "run/checkpoint.pt", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["scores"]["ppo"]
    assert evaluated["solved"] == scores["ppo"]["solved"]


def test_the_controls_of_the_command_are_those_of_the_method() -> None:
    from ppo_codet5 import core

    assert cli.CONTROLS == core.CONTROLS


def test_a_plan_says_what_would_be_done_and_does_nothing(
    tmp_path: Path, here: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path / "empty"))
    line = ("train", "--profile", "laptop", "--output-dir", "run", "--plan")
    few = ("max_episodes=96", "episodes_per_update=48", "max_steps=4", "eval_samples=20")
    out = here(*line, *(part for name in few for part in ("--set", name)), "--control", "random")
    assert re.search(r"^models    smollm2-135m writes, smollm2-135m rewrites$", out, re.MULTILINE)
    assert re.search(r"^problems  \d+ to train on, 20 to score; visible asserts: 1$", out, re.MULTILINE)
    assert "training  2 updates of 48 episodes, at most 4 generations each: 384\n" in out
    assert "scoring   ppo, ppo_sampled, random, at most 4 generations a problem: 240\n" in out
    size = r"to fetch  smollm2-135m, minilm, glove, wordnet, tagger: 280 MB, to .*empty$"
    assert re.search(f"^{size}", out, re.MULTILINE)
    once = "\nminutes   once all is fetched, measured and printed before training\n"
    assert out.endswith(f"\ndirectory run: new{once}") and list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    for name, state in (("checkpoint.pt", "goes on from its checkpoint"), ("summary.json", "complete and read")):
        (tmp_path / "run" / name).touch()
        assert here(*line).endswith(f"\ndirectory run: if of these settings, {state}{once}")
    tasks = here("reproduce", "--profile", "laptop", "--plan", "--seeds", "0")
    assert tasks.splitlines()[0].startswith("  0 stage 0  ") and re.search(f"^{size}", tasks, re.MULTILINE)
    demo = json.loads((ROOT / "results" / "speed" / "minutes.json").read_text())["commands"]["make demo"]["seconds"]
    assert f"\ntime      a seed takes {demo / 60:.0f} minutes on two CPU cores; notebooks" in tasks
    for part in (("--notebooks", "04"), ("-p", "max_episodes=96")):  # what was timed is the whole profile as it is
        assert "\ntime      not timed; notebooks" in here("reproduce", "--profile", "laptop", "--plan", *part)
    read = json.loads(here("reproduce", "--profile", "laptop", "--plan", "--seeds", "0", "--json"))
    assert len(read["tasks"]) == len(tasks.splitlines()) - 2 and read["to_fetch"][0] == "smollm2-135m"
    assert not (tmp_path / "runs").exists() and not (tmp_path / "empty").exists()


def test_a_plan_has_the_minutes_where_nothing_is_to_be_fetched(
    tmp_path: Path, config: Callable[..., str], here: Callable[..., str]
) -> None:
    line = ("train", "--config", config(), "--output-dir", "run", "--control", "random")

    def rows(out: str) -> dict[str, list[str]]:
        return {row[0]: row[1:] for row in map(str.split, out.partition("LLM calls")[2].splitlines()[1:])}

    out = here(*line, "--plan")
    assert (
        out.index("minutes   of all") < out.index("loading PyTorch") < out.index("loading /") < out.index("LLM calls")
    )
    table = rows(out)
    assert table.keys() == {"training", "ppo", "ppo_sampled", "random", "sum"}
    assert table["training"][0] == "24" and table["ppo"] == table["random"]  # 12 episodes, 4 problems, 2 generations
    minutes = [float(row[-1]) for row in table.values()]
    assert sum(minutes[:-1]) == pytest.approx(minutes[-1], abs=0.05 * len(minutes))
    longer = rows(here(*line, "--plan", "--set", "max_episodes=120000"))  # a small model makes so few in no time
    assert longer["training"][0] == "240000" and float(longer["training"][-1]) > 0
    assert not (tmp_path / "run").exists()
    here(*line)
    assert "LLM calls" not in here(*line, "--plan")  # complete


def test_both_vocabularies_are_one(
    here: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting may be given by its name in a config and by that in the notebooks, to train and to reproduce."""
    monkeypatch.setenv(*EMPTY)
    plan = ("train", "--profile", "laptop", "--output-dir", "run", "--plan", "--set")
    first, *others = (
        here(*plan, f"{name}=3") for name in ("training.max_steps_per_episode", "max_steps_per_episode", "max_steps")
    )
    assert "at most 3 generations" in first and others == [first, first]
    grid = ("reproduce", "--profile", "smoke", "--notebooks", "01", "--plan", "-p")
    first, second = (here(*grid, f"{name}=3") for name in ("max_steps", "training.max_steps_per_episode"))
    assert '"max_steps": 3' in first and first == second
    assert cli.main([*grid, "max_steps_per_episod=3"]) == 1
    assert "error: unknown parameter 'max_steps_per_episod' (did you mean max_steps?); known" in capsys.readouterr().err


def test_ctrl_c_leaves_a_run_that_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, config: Callable[..., str], here: Callable[..., str]
) -> None:
    line = ("train", "--config", config(), "--output-dir")
    here(*line, "whole")
    for broken in ("broken", "once more", "and again"):  # a run may end before the signal comes, on a busy machine
        process = subprocess.Popen(
            command(*line, broken, "--set", f"cache.generations=cold {broken}"),
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for text in process.stdout or ():
            if text.startswith("update   1/3"):
                process.send_signal(signal.SIGINT)
                break
        if process.wait(60) == 1:
            break
    assert process.returncode == 1
    assert (
        process.stderr and process.stderr.read() == "interrupted; the same command goes on from the last checkpoint\n"
    )
    assert not (tmp_path / broken / "summary.json").exists()
    out = here(*line, broken)
    assert "update   1/3" not in out and "update   3/3" in out
    for name in ("attempts.jsonl", "metrics.jsonl", "results.csv", "summary.json"):
        assert (tmp_path / broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_on_a_terminal_there_is_a_bar(tmp_path: Path, config: Callable[..., str]) -> None:
    import fcntl
    import pty
    import struct
    import termios

    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    line = command("train", "--config", config(), "--output-dir", "runs")
    process = subprocess.Popen(line, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    shown, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        try:
            shown += os.read(main, 65536)
        except OSError:  # the other side is closed
            break
    os.close(main)
    assert process.stdout and "update" not in process.stdout.read() and process.wait(30) == 0
    assert (
        "0/3" in shown.decode() and "3/3" in shown.decode() and "entropy" in shown.decode() and "\r" in shown.decode()
    )


def test_settings_decide_what_is_shown_and_kept(
    tmp_path: Path, config: Callable[..., str], here: Callable[..., str]
) -> None:
    """log_level, save_frequency, tensorboard and the looks at validation problems change nothing in the training."""
    path = config()
    here("train", "--config", path, "--output-dir", "plain")
    others = ("log_level=WARNING", "training.save_frequency=2", "training.tensorboard=true")
    looks = ("training.eval_frequency=2", "training.eval_episodes=3")
    sets = [part for pair in (*others, *looks) for part in ("--set", pair)]
    assert "update" not in here("train", "--config", path, "--output-dir", "other", *sets)
    attempts, others = (read_rows(tmp_path / name / "attempts.jsonl") for name in ("plain", "other"))
    assert [row for row in others if row["phase"] != "validation"] == attempts
    assert {row["task_id"] for row in others if row["phase"] == "validation"} and len(others) > len(attempts)
    rows, plain = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("other", "plain"))
    looked = [row.pop("validation_pass_at_1", None) for row in rows]
    assert looked[0] is looked[2] is None and looked[1] in (0, 1 / 3, 2 / 3, 1) and rows == plain
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "other" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("entropy")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("entropy")] == pytest.approx([row["entropy"] for row in plain])


def test_what_is_no_checkpoint_is_refused_in_a_sentence(
    tmp_path: Path, config: Callable[..., str], says: Callable[..., str]
) -> None:
    path, good = config(), tmp_path / "run"
    assert cli.main(["train", "--config", path, "--output-dir", str(good)]) == 0
    checkpoint, data = good / "final_model.pt", (good / "final_model.pt").read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"not a model", data[:-1]):
        checkpoint.write_bytes(damaged)
        assert "is not a checkpoint of this project, or it is damaged" in says("eval", "--checkpoint", str(checkpoint))
    import torch

    class Evil:
        def __reduce__(self) -> tuple[Any, Any]:
            return os.system, (f"touch {tmp_path / 'hacked'}",)

    torch.save({"agent": Evil()}, checkpoint)
    assert "is not a checkpoint of this project" in says("eval", "--checkpoint", str(checkpoint))
    assert not (tmp_path / "hacked").exists()
    torch.save({"agent": {"weight": torch.zeros(2)}}, checkpoint)
    assert "holds an agent of another shape" in says("eval", "--checkpoint", str(checkpoint))
    assert "no checkpoint at" in says("eval", "--checkpoint", str(tmp_path / "none.pt"))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "final_model.pt").write_bytes(data)
    assert "give the settings of its training with --config" in says(
        "eval", "--checkpoint", str(tmp_path / "alone" / "final_model.pt")
    )


def misspelt(folder: Path) -> str:
    (folder / "mine.yaml").write_text("max_step: 3\n")
    return str(folder / "mine.yaml")


def test_train_takes_another_set_to_train_on(
    tmp_path: Path, config: Callable[..., str], here: Callable[..., str], says: Callable[..., str]
) -> None:
    """Scores the validation problems (profile smoke) of a file that has no others."""
    row = {"task_id": 1, "split": "validation", "text": "Write a function that doubles a number."}
    row |= {"code": "def double(n):\n    return 2 * n", "test_list": ["assert double(2) == 4"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    line = ("train", "--config", config(), "--output-dir", str(tmp_path / "run"))
    mine = ("--set", f"environment.dataset_name={tmp_path / 'mine.jsonl'}")
    assert "nothing to train on" in says(*line, *mine) and not (tmp_path / "run").exists()
    here(*line, *mine, "--set", "environment.train_dataset_name=starter")
    rows = read_rows(tmp_path / "run" / "attempts.jsonl")
    assert {row["task_id"] for row in rows if row["phase"] == "eval"} == {1}
    assert all(row["task_id"] > 1000 for row in rows if row["phase"] == "train")
    assert Config.from_run(tmp_path / "run").environment.train_dataset_name == "starter"


@pytest.mark.parametrize(
    ("arguments", "fails", "said"),
    [
        ([], False, True),
        (["--profile", "smoke"], False, True),
        (["--profile", "smoke"], True, False),
        (["--profile", "coder", "-p", "problems=starter"], False, False),
    ],
)
def test_the_demo_says_how_to_go_on(
    arguments: list[str],
    fails: bool,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With make where the checkout is the working directory, and with the command anywhere else."""
    monkeypatch.setattr(reproduce, "run_all", lambda tasks, *_: [(task, "no" * fails) for task in tasks])
    monkeypatch.setattr(reproduce, "check_inputs", lambda values: None)
    monkeypatch.setattr(reproduce, "headline", lambda tasks: "a table")
    commands = {tmp_path: "ppo-codet5 reproduce --profile coder", ROOT: "make demo PROFILE=coder"}
    for folder, command in commands.items():
        monkeypatch.chdir(folder)
        assert cli.main(["reproduce", *arguments]) == int(fails)
        last = capsys.readouterr().out.splitlines()[-1]
        assert said == (f": {command} (" in last) == last.startswith("next, ")
        if said:
            assert reproduce.CODER_TIME in last and reproduce.CODER_DOWNLOAD in last


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_alone_says_what_there_is() -> None:
    said = subprocess.run(["make", "--directory", str(ROOT)], capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()  # type: ignore[union-attr]
    assert {line.split()[1] for line in said.splitlines() if line.startswith("make ")} == set(targets)


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_hands_further_arguments_on() -> None:
    line = ["make", "--dry-run", "--directory", str(ROOT), "demo", "PROFILE=coder"]
    for more, end in (([], ""), (["ARGS=-p problems=mbpp.jsonl --seeds 0 1"], " -p problems=mbpp.jsonl --seeds 0 1")):
        done = subprocess.run([*line, *more], capture_output=True, text=True, check=True).stdout
        (command,) = [text for text in done.splitlines() if "ppo_codet5.reproduce" in text]
        assert command.rstrip().endswith(f"-m ppo_codet5.reproduce --profile coder{end}")


def test_train_refuses_what_it_cannot_run(tmp_path: Path, config: Callable[..., str], says: Callable[..., str]) -> None:
    path, out = config(), ("--output-dir", str(tmp_path / "out"))
    assert "training.gamma = 2 must be between 0 and 1" in says(
        "train", "--config", path, *out, "--set", "training.gamma=2"
    )
    hints = {
        "optimizer.lr": "",
        "save.x": "",
        "seed.x": "",
        "max_step": " (did you mean training.max_steps_per_episode?)",
    }
    for name, hint in hints.items():
        assert f"unknown setting {name}{hint}; " in says("train", "--config", path, *out, "--set", f"{name}=1")
    assert "unknown parameter 'max_step'" in says("config", "--output", "x", "--profile", misspelt(tmp_path))
    assert "must be a multiple of" in says("train", "--config", path, *out, "--set", "training.max_episodes=7")
    assert "no config at" in says("train", "--config", str(tmp_path / "none.json"), *out)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert "is not a run's: it holds thesis.tex" in says("train", "--config", path, *out)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["thesis.tex"]


def test_notebooks_are_copied_and_never_overwritten_unasked(tmp_path: Path, says: Callable[..., str]) -> None:
    folder = tmp_path / "mine"
    assert cli.main(["notebooks", str(folder)]) == 0
    names = {"01_ppo_codet5.ipynb", "02_PPO_LlaMa.ipynb", "03_baselines.ipynb", "04_results.ipynb"}
    assert {path.name for path in folder.glob("*.ipynb")} == names
    assert (folder / "profiles" / "laptop.yaml").read_bytes() == (ROOT / "profiles" / "laptop.yaml").read_bytes()
    (folder / "01_ppo_codet5.ipynb").write_text("my changes")
    (folder / "profiles" / "smoke.yaml").unlink()
    assert "01_ppo_codet5.ipynb" in says("notebooks", str(folder))
    assert (folder / "01_ppo_codet5.ipynb").read_text() == "my changes"
    assert not (folder / "profiles" / "smoke.yaml").exists()
    assert cli.main(["notebooks", str(folder), "--force"]) == 0
    assert (folder / "01_ppo_codet5.ipynb").read_bytes() == (ROOT / "01_ppo_codet5.ipynb").read_bytes()


def test_the_copy_of_04_opens_without_an_error_and_reads_what_the_others_leave(
    tmp_path: Path, here: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here("notebooks", "mine")
    here("notebooks", "mine", "--force")
    (tmp_path / "mine").rename(tmp_path / "moved")
    notebook = tmp_path / "moved" / "04_results.ipynb"
    assert notebooks.cell_of(notebook)["runs"] == "runs" != notebooks.cell_of(ROOT / notebook.name)["runs"]
    monkeypatch.chdir(notebook.parent)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    task = grid.Task("04", notebook.name, tmp_path / "out" / "04.ipynb", tmp_path / "out", {})
    assert list(running.run_all([task], 1)) == [(task, "")]
    assert (notebook.parent / "runs" / "04_results" / "results_table.md").exists()


def test_copies_are_used_in_their_folder_and_that_is_said(
    tmp_path: Path,
    here: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here("notebooks", ".")
    profile, notebook = tmp_path / "profiles" / "smoke.yaml", tmp_path / "01_ppo_codet5.ipynb"
    profile.write_text(profile.read_text().replace("max_steps: 2", "max_steps: 1"))
    notebook.write_text(notebook.read_text().replace("hidden_size: int = 64", "hidden_size: int = 8"))
    plan = ("reproduce", "--profile", "smoke", "--notebooks", "01", "03", "--plan")
    out = here(*plan)
    assert "your copies are used: profiles/smoke.yaml, 01_ppo_codet5.ipynb, 03_baselines.ipynb\n" in out
    assert '"max_steps": 1' in out and '"max_steps": 2' not in out
    assert "your copies are used: profiles/smoke.yaml, 01_ppo_codet5.ipynb, 02_PPO_LlaMa.ipynb\n" in here(
        "config", "--output", "c.json", "--profile", "smoke"
    )
    training = Config.load("c.json").training
    assert (training.max_steps_per_episode, training.hidden_size) == (1, 8)
    ran = []
    monkeypatch.setattr(running, "execute", lambda source, output, values: ran.append(source.absolute()))
    assert running.attempt(grid.Task("01", notebook.name, tmp_path / "out.ipynb", tmp_path, {})) == ""
    assert ran == [notebook]
    notebook.write_text("{}")
    assert cli.main(list(plan)) == 1
    assert "01_ppo_codet5.ipynb has no cell tagged parameters that can be read" in capsys.readouterr().err
    notebook.unlink()
    assert "03_baselines.ipynb; the package's 01_ppo_codet5.ipynb\n" in here(*plan)
    monkeypatch.chdir(ROOT)
    assert "your copies" not in here(*plan, "-p", f"run_dir={tmp_path / 'elsewhere'}")


def test_doctor_says_what_works_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "all that laptop needs works here" in out and re.search(r"^ok  sandbox  level \w+", out, re.MULTILINE)
    import huggingface_hub.constants
    import torch
    from ppo_codet5.helpers import assets, problems

    def hub_rows(dataset: str, config: str | None) -> None:
        raise problems.ProblemError(f"cannot load the data set {dataset} from the Hugging Face hub")

    def word_vectors(name: str) -> None:
        if name != "glove":
            raise assets.AssetError(f"word vectors {name!r} are not to be had; use 'glove'")

    monkeypatch.setattr(problems, "_hub_rows", hub_rows)
    monkeypatch.setattr(assets, "check_word_vectors", word_vectors)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["doctor", "--profile", "codellama_a100"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^NO  device .*no GPU\n +> install a CUDA build", out, re.MULTILINE)
    assert re.search(r"^NO  models   codellama/CodeLlama-7b-Instruct-hf .*\n +> .*cannot be reached", out, re.MULTILINE)
    assert re.search(r"^NO  data     problems mbpp, split train, .*\n +> cannot load the data set .*mbpp", out, re.M)
    assert re.search(r"^NO  data     embedder sentence-transformers/all-MiniLM-L6-v2 .*\n +> .*reached", out, re.M)
    assert re.search(r"^NO  data     word_vectors fasttext-wiki-news-subwords-300 .*\n +> .*'glove'", out, re.M)
    assert "must be mended first" in out
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(assets, "ask_index", lambda package: None)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^--  assets   not in the cache yet: smollm2-135m, .*\n +> fetched at .*about 280 MB", out, re.M)
    assert "humaneval" not in out
    assert cli.main(["doctor", "--profile", "coder"]) in (0, 1)  # as the machine's memory is
    out = capsys.readouterr().out
    assert re.search(r"^(ok|NO)  memory   \d+ GB, 8 needed", out, re.M)
    assert re.search(r"^--  assets   .*qwen2\.5-coder-0\.5b, qwen2\.5-coder-1\.5b, .*\n +> .*about 1\.8 GB", out, re.M)
    (tmp_path / "humaneval.yaml").write_text("problems: humaneval\n")
    assert cli.main(["doctor", "--profile", str(tmp_path / "humaneval.yaml")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^--  assets   not in the cache yet: .*humaneval, .*$", out, re.M)
    assert re.search(r"^--  memory   \d+ GB, not known how many needed$", out, re.M)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cli.main(["doctor", "--profile", "coder"]) == 1
    assert re.search(
        r"^NO  device   dtype int8 is for the CPU, .*\n +> give dtype=auto, or device=cpu",
        capsys.readouterr().out,
        re.M,
    )


def test_int8_is_refused_on_a_gpu_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from ppo_codet5.helpers.runs import RunError

    from ppo_codet5 import grid

    values = {
        "code_model": "qwen2.5-coder-0.5b",
        "rewriter_model": "openai:small@http://x",
        "device": "auto",
        "dtype": "int8",
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for refused in (values, values | {"dtype": "int7", "device": "cuda"}):
        with pytest.raises(RunError, match=r"int[78]' is for the CPU, and there is a GPU: give dtype=auto"):
            grid.check_device([refused])
    grid.check_device([values | {"device": "cpu"}])
    grid.check_device([values | {"code_model": "openai:large@http://x"}])  # it runs elsewhere
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    grid.check_device([values])


def test_a_parameter_that_no_chosen_notebook_has_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["reproduce", "--plan", "--notebooks", "03", "-p", "learning_rate=0.5", "-p", "seed=3", "-p", "run_dir=here"]
    assert cli.main(line) == 0
    assert "note      these notebooks have no learning_rate: it changes nothing\n" in capsys.readouterr().out


def test_doctor_does_not_say_that_all_works_where_nothing_is_there_and_no_index_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PPO_CODET5_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert re.search(
        r"^NO  assets   not in the cache yet: smollm2-135m, .* \(280 MB\)\n +> cannot download llm-", out, re.M
    )
    assert out.endswith("\n1 of these must be mended first\n")
    assert cli.main(["doctor", "--json"]) == 1
    read = json.loads(capsys.readouterr().out)
    assert not read["works"] and [f["check"] for f in read["findings"] if f["works"] is False] == ["assets"]
    assert not (tmp_path / "empty").exists()


def test_ctrl_c_promises_to_go_on_only_where_something_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "final_model.pt").write_bytes(b"")
    line = ["eval", "--checkpoint", str(tmp_path / "final_model.pt")]

    def stop(args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_eval", stop)
    for more, said in (([], ""), (["--output-dir", "kept"], "; the same command goes on from the last checkpoint")):
        assert cli.main([*line, *more]) == 1
        assert capsys.readouterr().err == f"interrupted{said}\n"


@pytest.mark.filterwarnings("ignore:.*An exception occurred")  # models cannot be copied into the spec
def test_a_damaged_checkpoint_of_a_run_is_named(
    tmp_path: Path,
    config: Callable[..., str],
    says: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run").mkdir()
    line = ("train", "--config", config(), "--output-dir", str(tmp_path / "run"))
    from ppo_codet5.helpers import runs

    def stop(self: Any, state: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "checkpoint", stop)
        assert cli.main(list(line)) == 1
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half of something")
    assert "checkpoint.pt is damaged" in says(*line)


def test_the_environment_is_registered_with_gymnasium(parts: Any) -> None:
    import gymnasium
    from scripted import small

    env = gymnasium.make("ppo_codet5.envs:RLPrompt-v0", config=small(), parts=parts)
    assert env.action_space.n == 3 and env.unwrapped.spec.id == "RLPrompt-v0"
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and info["task_id"]
    assert env.observation_space.contains(env.step(1)[0])


def test_the_api_of_the_readme(models: Path, tmp_path: Path, parts: Any) -> None:
    from scripted import small

    from ppo_codet5 import (
        Epic_GA,
        EpicGA,
        PPOAgent,
        PPOCodeT5Trainer,
        PromptRewriter,
        ReflexionMemory,
        RLPromptEnv,
    )

    assert Epic_GA is EpicGA and all((PPOAgent, PromptRewriter, ReflexionMemory, RLPromptEnv))
    config = Config.from_parameters(vars(small()))
    trainer = PPOCodeT5Trainer(config, parts=parts)
    results = trainer.train(tmp_path / "outputs")
    assert results["scores"]["ppo"]["n"] == 4
    evaluated = trainer.evaluate(num_episodes=2)
    assert evaluated["scores"]["ppo"]["n"] == 2
    fresh = PPOCodeT5Trainer(Config.from_run(tmp_path / "outputs"), parts=parts).load(
        tmp_path / "outputs/final_model.pt"
    )
    assert fresh.evaluate(num_episodes=2)["scores"] == evaluated["scores"]
    # The same run as the notebook's with these parameters.
    same = PPOCodeT5Trainer(small(), parts=parts)
    assert same.identity("ppo", same.scored) == trainer.identity("ppo", trainer.scored)
