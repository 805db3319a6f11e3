"""What a user may get wrong: one clear sentence on stderr, exit code 1, and nothing written."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from ppo_codet5.helpers.models import ModelError
from ppo_codet5.helpers.problems import ProblemError
from ppo_codet5.helpers.runs import RunError
from scripted import MIDPOINT, small

from ppo_codet5 import cli, grid, running
from ppo_codet5.core import Parameters, PPOCodeT5Trainer, load_parts

ROOT = Path(__file__).resolve().parent.parent
GOOD = {"task_id": 1, "split": "train", "text": MIDPOINT.text, "code": MIDPOINT.reference, "test_list": MIDPOINT.tests}


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub on which ``gated/model`` is known and locked, and nothing else exists."""

    def do_GET(self) -> None:
        known = "/gated/" in self.path
        described = known and self.path.startswith("/api/models/")
        body = json.dumps({"id": "gated/model", "sha": "0" * 40, "siblings": []} if described else {}).encode()
        self.send_response(200 if described else 403 if known else 404)
        if not described:
            self.send_header("X-Error-Code", "GatedRepo" if known else "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def sentence(stdout: str, stderr: str) -> str:
    """The only line on stderr, which must be one clear sentence."""
    (line,) = stderr.splitlines()
    assert line.startswith("error: ") and len(line) < 1500
    assert not re.search(r"0x[0-9a-f]{6}|\\n|<class|Traceback", line), line
    assert not re.search(r"Traceback|^error|^\w*Error:", stdout, re.MULTILINE)
    return line


def command(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(folder.parent / "hub"), **env}
    environment.pop("HF_TOKEN", None)
    line = [sys.executable, "-m", "ppo_codet5.reproduce", "--profile", "smoke", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def refused_by_command(folder: Path, *arguments: str, **env: str) -> str:
    """As a user runs it, in an empty folder, in which nothing may be left behind."""
    before = sorted(folder.rglob("*"))
    done = command(folder, *arguments, **env)
    assert done.returncode == 1
    assert sorted(folder.rglob("*")) == before
    return sentence(done.stdout, done.stderr)


@pytest.fixture
def refused(empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The same without the second that a process takes to start."""
    monkeypatch.chdir(empty)
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def refused(*arguments: str) -> str:
        before = sorted(empty.rglob("*"))
        assert cli.main(["reproduce", "--profile", "smoke", *arguments]) == 1
        assert sorted(empty.rglob("*")) == before
        return sentence(*capsys.readouterr())

    return refused


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_fails_is_named_and_the_other_notebooks_run(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process and, with --jobs, in processes that write logs."""
    tasks = []
    for name, source in (("bad", "1 / 0"), ("good", "print('fine')")):
        cells = [nbformat.v4.new_code_cell("x: int = 1", metadata={"tags": ["parameters"]})]
        notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(source)])
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        output = tmp_path / "out" / f"{name}.ipynb"
        tasks.append(grid.Task(name, str(tmp_path / f"{name}.ipynb"), output, tmp_path / "out", {"x": 2}))
    monkeypatch.setattr(os, "environ", {**os.environ, "PYTHONPATH": str(ROOT)})
    ends = {task.name: why for task, why in running.run_all(tasks, jobs)}
    assert "ZeroDivisionError: division by zero (cell 3 of " in ends["bad"] and ends["good"] == ""
    assert ("bad.log" in ends["bad"]) == (jobs == 2) == (tmp_path / "out" / "good.log").exists()
    assert nbformat.read(tmp_path / "out" / "good.ipynb", as_version=4).cells[-1].outputs


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-p", "max_step=3"], r"unknown parameter 'max_step' \(did you mean max_steps\?\); known parameters: "),
        (["-p", "max_steps=many"], r"parameter max_steps = 'many' is a str, expected int"),
        (["-p", "max_steps=2.5"], r"parameter max_steps = 2\.5 is a float, expected int"),
        (["-p", "run_dir=2026-11-28"], r"parameter run_dir = datetime\.date\(2026, 11, 28\) is a date, expected str"),
        (["-p", "strategies="], r"parameter strategies = None is a NoneType, expected str"),
        (["-p", "seed=true"], r"parameter seed = True is a bool, expected int"),
        (["-p", "max_steps=0"], r"parameter max_steps = 0 must be more than 0"),
        (
            ["-p", "max_episodes=10", "-p", "episodes_per_update=4"],
            r"max_episodes = 10 must be a multiple of episodes_per_update = 4, such as 8 or 12",
        ),
        (["-p", "visible_tests=0"], r"parameter visible_tests = 0 must be \"all\" or 1, 2"),
        (["-p", "train_limit=0"], r"parameter train_limit = 0 must be more than 0, or None"),
        (["-p", "gamma=[0.9"], r"parameter 'gamma=\[0\.9': the value is not valid YAML"),
        (["-p", "gamma"], r"parameter 'gamma' must have the form name=value"),
        (
            ["--profile", "labtop"],
            r"unknown profile 'labtop' \(did you mean laptop\?\); known profiles: .*laptop.*, or the path of a \.yaml file",
        ),
        (["--profile", "mine.yaml"], r"unknown profile 'mine\.yaml'"),
        (["-p", "problems=mbbp"], r"unknown source 'mbbp'; use 'mbpp', 'humaneval', 'starter' or the path"),
        (["-p", "problems=gone.jsonl"], r"cannot read the problem file gone\.jsonl"),
        (["-p", "code_model=smollm"], r"No model 'smollm': give an alias \(smollm2-135m, .*\), an existing folder"),
        (["-p", "rewriter_model=./models/llama"], r"No model './models/llama'"),
        (
            ["--fill", "--notebooks", "03", "-p", "strategies=bank,reflexon"],
            r"no 'reflexon' \(did you mean reflexion\?\); known: ",
        ),
        (["--fill", "--notebooks", "04"], r"notebooks 01 to 03, and 04_results\.ipynb has none; leave out --fill"),
    ],
)
def test_a_wrong_argument_is_one_sentence(refused: Callable[..., str], arguments: list[str], words: str) -> None:
    assert re.search(words, refused(*arguments))


def test_so_it_is_from_the_command_line(empty: Path) -> None:
    assert "unknown parameter 'max_step'" in refused_by_command(empty, "-p", "max_step=3")
    usage = command(empty, "--steps", "3")
    assert usage.returncode == 2 and "unrecognized arguments: --steps 3" in usage.stderr


@pytest.mark.parametrize(
    "text, words",
    [
        ("max_steps: [", r"profile\.yaml is not valid YAML"),
        ("- a list", r"profile\.yaml must hold one parameter per line"),
        ("max_stepz: 3", r"profile\.yaml: unknown parameter 'max_stepz'"),
        ("learning_rate: 3e-4", r"profile\.yaml: .*learning_rate = '3e-4' is a str, expected float; .*write 3\.0e-4"),
    ],
)
def test_a_wrong_profile_is_one_sentence(refused: Callable[..., str], tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "profile.yaml").write_text(text)
    assert re.search(words, refused("--profile", "../profile.yaml"))


def rows_file(folder: Path, *rows: object) -> str:
    path = folder / "problems.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return "../problems.jsonl"


@pytest.mark.parametrize(
    "rows, words",
    [
        ([GOOD, '{"task_id": 2,'], r"problems\.jsonl, line 2: not valid JSON"),
        ([GOOD, {**GOOD, "task_id": 2, "test_list": []}], r"problems\.jsonl, line 2: the field 'test_list' is empty"),
        ([GOOD, "", GOOD], r"problems\.jsonl, line 3: task_id 1 was used before, in .*line 1"),
        ([{**GOOD, "code": "def f(:"}], r"problems\.jsonl, line 1: the reference code is not valid Python"),
        ([], r"no problems in '\.\./problems\.jsonl': it is empty"),
        ([GOOD], r"no problems of split 'validation' in '\.\./problems\.jsonl'; it has 1 of train: .*511 to 600"),
    ],
)
def test_broken_problem_files_name_file_and_line(
    refused: Callable[..., str], tmp_path: Path, rows: list, words: str
) -> None:
    assert re.search(words, refused("-p", f"problems={rows_file(tmp_path, *rows)}"))


def test_a_set_to_score_needs_one_to_train_and_to_tune_on(
    refused: Callable[..., str], empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found before anything runs, also what only looks at validation problems need."""
    trained, scored = ({**GOOD, "task_id": i, "split": split} for i, split in ((1, "train"), (2, "test")))
    (empty.parent / "train.jsonl").write_text(json.dumps(trained))
    rows_file(empty.parent, scored)
    both = ("-p", "problems=../problems.jsonl", "-p", "eval_split=test")
    assert re.search(r"'train' in '\.\./problems\.jsonl', so nothing to train on; .*train_problems", refused(*both))
    said = refused(*both, "-p", "train_problems=../train.jsonl", "-p", "eval_frequency=1")
    assert re.search(r"'validation' in '\.\./train\.jsonl'; it has 1 of train: .*train_problems", said)
    said = refused(*both, "-p", "train_problems=../gone.jsonl")
    assert "cannot read the problem file ../gone.jsonl" in said
    line = ["reproduce", "--profile", "smoke", "--dry-run", *both, "-p"]
    assert cli.main([*line, "train_problems=../train.jsonl", "--notebooks", "01", "02"]) == 0
    assert cli.main([*line, "train_problems=starter"]) == 0
    assert capsys.readouterr().out.count('"train_problems": "starter"') > 4  # each notebook has it


def test_a_model_out_of_reach_a_locked_one_and_a_folder_without_one(
    empty: Path, refused: Callable[..., str], hub: str
) -> None:
    offline = refused_by_command(empty, "-p", "code_model=owner/model", HF_HUB_OFFLINE="1")
    assert "owner/model is not on this machine and the hub cannot be reached" in offline
    here = {"HF_ENDPOINT": hub, "NO_PROXY": "*", "HF_HUB_OFFLINE": "0"}
    gated = refused_by_command(empty, "-p", "rewriter_model=gated/model", **here)
    assert "gated/model is a gated model: accept its licence" in gated and "HF_TOKEN" in gated
    (empty / "model").mkdir()
    assert "model cannot be loaded" in refused("-p", "code_model=./model")


def test_an_output_folder_of_another_config_is_refused_and_left_alone(empty: Path, refused: Callable[..., str]) -> None:
    from killable import scripted_parts

    profile = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    config = small(**{name: value for name, value in profile.items() if name in Parameters.__dataclass_fields__})
    with scripted_parts() as parts:
        PPOCodeT5Trainer(config, parts=parts).control(
            "resampling", empty / "runs/smoke/01_ppo_codet5/resampling", report=str
        )
    files = {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()}
    said = refused("-p", "seed=1", "-p", "dtype=float32", "-p", "device=cpu")
    assert re.search(
        r"runs/smoke/01_ppo_codet5/resampling belongs to another config \(different: seed\); choose another", said
    )
    (config,) = empty.rglob("config.json")  # a parameter that runs of before did not have stands there once it is used
    assert "show_feedback" not in json.loads(config.read_text())["identity"]
    assert "(different: show_feedback)" in refused(
        "-p", "show_feedback=false", "-p", "dtype=float32", "-p", "device=cpu"
    )
    assert {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()} == files


@pytest.mark.slow
def test_word_vectors_that_nobody_has_are_one_sentence_too(empty: Path) -> None:
    """The downloader is asked, so this takes the time that it waits for the network."""
    done = command(empty, "-p", "word_vectors=no-such-vectors", "--notebooks", "01")
    assert done.returncode == 1
    assert re.match("error: word vectors 'no-such-vectors' are neither", sentence(done.stdout, done.stderr))
    assert not list(empty.rglob("config.json"))


# What only the command train has, and what both have


@pytest.fixture
def train_refused(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``ppo-codet5 train`` with these settings: refused in a sentence before PyTorch is asked for, nothing written."""
    monkeypatch.chdir(empty)

    def train_refused(*settings: str, output: str = "run") -> str:
        before = sorted(empty.rglob("*"))
        sets = [part for setting in settings for part in ("--set", setting)]
        assert cli.main(["train", "--profile", "smoke", "--output-dir", output, *sets]) == 1
        assert sorted(empty.rglob("*")) == before
        return sentence(*capsys.readouterr())

    return train_refused


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import gensim.downloader
    import huggingface_hub.constants

    def urlopen(url: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(gensim.downloader, "urlopen", urlopen)


BROKEN = {**GOOD, "code": "def midpoint(a, b):\n    return None"}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("code_model=smollm", r"No model 'smollm': give an alias"),
        ("rewriter_model=smollm2", r"No model 'smollm2': give an alias"),
        ("embedder=minilmm", r"the sentence embedder 'minilmm' is neither a folder nor to be had .*use 'minilm'"),
        ("embedder=.", r"the sentence embedder '\.' is a folder without a saved model"),
        ("word_vectors=glvoe", r"word vectors 'glvoe' are neither a file nor to be had .*use 'glove'"),
        ("preamble=import nump", r"preamble = 'import nump' does not run \(ModuleNotFoundError.*nump.*\): give Python"),
        ("preamble=import (", r"preamble = 'import \(' does not run \(.*\): give Python that runs by itself"),
        ("visible_tests=99", r"visible_tests = 99: no problem has more than \d asserts; give 1 to \d, or \"all\""),
        ("problems=../problems.jsonl", r"no reference solution in '\.\./problems\.jsonl', split \w+, passes its own"),
        ("generation_cache=/proc/cache", r"/proc/cache cannot be written \(/proc: .*choose another folder"),
    ],
)
def test_what_is_found_only_by_looking_is_found_first(
    setting: str, words: str, train_refused: Callable[..., str], refused: Callable[..., str], tmp_path: Path
) -> None:
    rows_file(tmp_path, *({**BROKEN, "task_id": i, "split": s} for i, s in enumerate(("train", "validation", "test"))))
    assert re.search(words, train_refused(setting))
    assert re.search(words, refused("-p", setting))


def test_after_a_typo_the_corrected_command_is_not_refused(
    train_refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    train_refused("rewriter_model=smollm2")
    assert cli.main(["train", "--profile", "smoke", "--output-dir", "run", "--plan"]) == 0
    assert re.search(r"^directory run: new$", capsys.readouterr().out, re.MULTILINE)


def test_a_gpu_that_is_not_there(
    train_refused: Callable[..., str],
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for said in (train_refused("model.device=cuda"), refused("-p", "device=cuda")):
        assert re.search(r"parameter device = 'cuda': torch \S+ finds no GPU here; give 'auto' or 'cpu'", said)
    # a plan is made on a machine that need not have one, and so are tasks for a cluster
    assert cli.main(["reproduce", "--profile", "smoke", "-p", "device=cuda", "--plan"]) == 0
    assert "to fetch" in capsys.readouterr().out


def test_tensorboard_without_its_package(
    train_refused: Callable[..., str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for said in (train_refused("training.tensorboard=true"), refused("-p", "tensorboard=true")):
        assert "tensorboard = True needs the package tensorboard: pip install '.[tensorboard]'" in said


def test_a_disk_that_cannot_be_written(train_refused: Callable[..., str], refused: Callable[..., str]) -> None:
    for said in (train_refused(output="/proc/run"), refused("-p", "run_dir=/proc/runs")):
        assert re.search(r"/proc/run\S* cannot be written \(/proc: .*choose another folder", said)


def test_what_a_failed_task_did_not_write_is_not_listed(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(notebook: Path, output: Path, values: dict) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.chdir(empty)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(running, "execute", execute)
    assert cli.main(["reproduce", "--profile", "smoke", "--notebooks", "01"]) == 1
    out, err = capsys.readouterr()
    assert "executed notebook" not in out and "figures" not in out
    assert err == "error: 01_ppo_codet5: [Errno 30] Read-only file system\n"


LIMITED = """
import resource, sys
from ppo_codet5 import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # a write beyond it fails as on a full disk
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments", [["config", "--output", "here/config.json"], ["notebooks", "here"]], ids=lambda value: value[0]
)
def test_a_full_disk_leaves_no_half_file(arguments: list[str], empty: Path) -> None:
    (empty / "here").mkdir()
    line = [sys.executable, "-c", LIMITED, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=empty, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "File too large" in sentence(done.stdout, done.stderr)
    assert [path for path in (empty / "here").rglob("*") if path.is_file()] == []


def test_a_full_disk_leaves_no_half_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import papermill

    def half(notebook: str, output: str, **_: object) -> None:
        Path(output).write_text('{"cells": [')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", half)
    task = grid.Task("01", "01_ppo_codet5.ipynb", tmp_path / "01.ipynb", tmp_path, {})
    assert running.attempt(task) == "[Errno 28] No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "_config", full)
    assert cli.main(["config", "--output", "x"]) == 1
    assert capsys.readouterr().err.endswith("No space left on device; make room, and give the same command again\n")


def test_a_folder_is_no_config_to_write(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(empty)
    for more in ([], ["--force"]):
        assert cli.main(["config", "--output", ".", *more]) == 1
        assert ". is a folder: give the name of the file to write, e.g. config.json" in sentence(*capsys.readouterr())
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("command", [["config", "--output"], ["notebooks"]], ids=lambda command: command[0])
def test_a_place_that_cannot_be_written(
    command: list[str], empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(empty)
    Path("file").touch()
    for place in ("/proc/new/here", "file/here"):
        assert cli.main([*command, place]) == 1
        assert re.search(r" cannot be written \(.*\); choose another folder", sentence(*capsys.readouterr()))
    assert list(empty.iterdir()) == [empty / "file"]
    assert cli.main(["train", "--config", ".", "--output-dir", "run"]) == 1
    assert ". cannot be read (Is a directory): give a file" in sentence(*capsys.readouterr())


def working_in(folder: Path) -> list[str]:
    """The command lines of the processes whose current folder this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if (process / "cwd").resolve() == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


JOBS = ["--seeds", "0", "1", "--jobs", "2"]


@pytest.mark.parametrize(
    "more, send",
    [
        pytest.param([], os.killpg, id="one"),
        pytest.param(JOBS, os.killpg, id="jobs", marks=pytest.mark.slow),
        pytest.param(JOBS, os.kill, id="jobs, told alone", marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_of_reproduce_is_one_line(more: list[str], send: Callable[[int, int], None], empty: Path) -> None:
    """As a terminal sends it, to the whole group, or to this process alone; no kernel is left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "ppo_codet5.reproduce", "--profile", "smoke", "--notebooks", "01", *more]
    said = empty / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            line, cwd=empty, env=environment, stdout=out, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        logs = list(empty.rglob("01_*.log")) if more else [said]
        if logs and all("PPO updates" in log.read_text() for log in logs):  # the second cell: the next loads the models
            break
        time.sleep(0.2)
    send(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err == "interrupted; the same command goes on from the last checkpoint\n"
    deadline = time.monotonic() + 10
    while left := working_in(empty):  # kernels, whose group is another, end a moment after those that started them
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


# The same through the Python interface


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"max_steps": 0}, "parameter max_steps = 0 must be more than 0"),
        ({"max_steps": "4"}, "parameter max_steps = '4' is a str, expected int"),
        ({"dtype": "int4"}, "parameter dtype = 'int4' must be one of auto, float32, bfloat16"),
        ({"max_episodes": 7}, "must be a multiple of"),
        ({"visible_tests": "some"}, 'must be "all" or 1, 2'),
    ],
)
def test_the_trainer_refuses_wrong_parameters(changes: dict, words: str) -> None:
    with pytest.raises(RunError, match=re.escape(words)):
        PPOCodeT5Trainer(small(**changes))


def test_the_trainer_refuses_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="max_step"):
        Parameters(max_step=3)
    with pytest.raises(RunError, match=r"^\{\} has no parameters: give a ppo_codet5\.Config, such as"):
        PPOCodeT5Trainer({})
    with pytest.raises(ProblemError, match="unknown source 'mbbp'"):
        PPOCodeT5Trainer(small(problems="mbbp"))
    with pytest.raises(ProblemError, match=r"problems\.jsonl, line 1"):
        rows_file(tmp_path, "[]")
        PPOCodeT5Trainer(small(problems=str(tmp_path / "problems.jsonl")))
    with pytest.raises(ModelError, match="No model 'smollm'"):
        PPOCodeT5Trainer(small(code_model="smollm")).train(tmp_path / "run")
    with pytest.raises(ModelError, match="No model 'smollm'"):
        load_parts(small(rewriter_model="smollm", code_model="smollm"))
    assert not (tmp_path / "run").exists()
