"""Replicas on a Ray cluster: the same programs as one process, through deaths at random moments; and the grid on it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ppo_codet5.helpers.models import Completion, ModelError, Request, check_model, load_generator, load_model
from ppo_codet5.helpers.models.replicas import RayGenerator, connect, parse
from tiny import save_llama

ROOT = Path(__file__).resolve().parent.parent
KILLS = 10


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ray = connect()
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("models") / "llama", context=1024)


@pytest.fixture(scope="module")
def pool(ray: Any, folder: Path) -> Iterator[RayGenerator]:
    pool = load_generator(f"ray:{folder}@2")
    assert isinstance(pool, RayGenerator) and len(pids()) == 2
    yield pool
    pool.close()


def requests(count: int, tokens: int = 16) -> list[Request]:
    words = [
        "def",
        "add",
        "subtract",
        "multiply",
        "divide",
        "the",
        "first",
        "second",
        "third",
        "number",
        "of",
        "a",
        "list",
        "text",
        "word",
    ]
    draw = random.Random(count)
    prompts = [" ".join(draw.choices(words, k=draw.randint(2, 12))) for _ in range(count)]
    return [Request(prompt, seed=seed, max_new_tokens=tokens) for seed, prompt in enumerate(prompts)]


def pids() -> list[int]:
    """Processes of the replicas, by the name that Ray gives them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::_Replica"):
            found.append(process.pid)
    return found


def test_the_name_is_read_and_a_wrong_one_refused() -> None:
    assert parse("ray:owner/name@8") == ("owner/name", 8) and parse("ray:a@b@1") == ("a@b", 1)
    for name in ("ray:name", "ray:name@0", "ray:name@many", "ray:@2"):
        with pytest.raises(ModelError, match="must have the form ray:NAME@N"):
            check_model(name)


@pytest.mark.slow
def test_two_replicas_write_the_programs_of_one_process(pool: RayGenerator, folder: Path) -> None:
    alone = load_model(str(folder), dtype="float32")
    assert (pool.name, pool.revision, pool.dtype) == (alone.name, alone.revision, alone.dtype)
    asked = requests(30)
    told = dict[int, Completion]()
    completions = pool.generate(asked, told.__setitem__)
    assert completions == alone.generate(asked) == [told[place] for place in range(30)]
    assert len({completion.text for completion in completions}) > 10
    assert pool.generate([]) == [] and pool.generate(asked[:1]) == completions[:1]
    assert load_generator(f"ray:{folder}@2") is pool  # a model that also rewrites has no replicas of its own


@pytest.mark.slow
def test_an_impossible_request_is_the_same_error_as_in_one_process(pool: RayGenerator) -> None:
    with pytest.raises(ModelError, match="can see 1024"):
        pool.generate([Request("number " * 2000, seed=1)])
    assert len(pool.generate(requests(3))) == 3


@pytest.mark.slow
def test_more_replicas_than_there_is_room_for_are_refused(ray: Any, folder: Path) -> None:
    with pytest.raises(ModelError, match="asks for 999 CPUs, of which the Ray cluster has"):
        RayGenerator(f"ray:{folder}@999")


@pytest.mark.slow
def test_killing_replicas_at_random_moments_loses_nothing_and_counts_nothing_twice(
    pool: RayGenerator, folder: Path
) -> None:
    alone, draw, killed = load_model(str(folder), dtype="float32"), random.Random(0), 0
    asked = requests(40, tokens=24)
    expected = alone.generate(asked)
    began = time.monotonic()
    assert pool.generate(asked) == expected
    seconds = time.monotonic() - began
    while killed < KILLS:
        heard, finished, rounds = Counter[int](), threading.Event(), list[int]()

        def kill(finished: threading.Event = finished, rounds: list[int] = rounds) -> None:
            while not finished.wait(draw.uniform(0, seconds)):
                if victims := pids():
                    os.kill(draw.choice(victims), signal.SIGKILL)
                    rounds.append(1)
                if len(rounds) == 5:
                    return

        killer = threading.Thread(target=kill)
        killer.start()
        completions = pool.generate(asked, lambda place, _, heard=heard: heard.update([place]))
        finished.set()
        killer.join()
        killed += len(rounds)
        assert completions == expected
        assert heard == Counter(range(len(asked)))


@pytest.mark.slow
def test_a_run_on_replicas_is_that_of_one_process_although_one_is_killed(
    pool: RayGenerator, folder: Path, tmp_path: Path, parts: Any
) -> None:
    """Through the trainer: every attempt once, the same bytes."""
    from scripted import Rewriter, small

    from ppo_codet5.core import Parts, PPOCodeT5Trainer

    contents = []
    for name, kill in ((str(folder), False), (f"ray:{folder}@2", True)):
        mine = Parts(load_generator(name), Rewriter(), parts.lexicon, parts.embedder, parts.sandbox)

        def report(line: str, kill: bool = kill) -> None:
            if kill and "update   1/" in line:
                os.kill(random.choice(pids()), signal.SIGKILL)

        output = tmp_path / f"run{kill}"
        PPOCodeT5Trainer(small(code_model="the same"), parts=mine).train(output, report=report)
        assert name == str(folder) or load_generator(name) is pool
        contents.append([(output / f"{log}.jsonl").read_bytes() for log in ("attempts", "metrics")])
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_a_replica_that_is_gone_for_good_leaves_its_work_to_the_others(ray: Any, pool: Any, folder: Path) -> None:
    pool.close()  # there is room for two
    alone, asked = load_model(str(folder), dtype="float32"), requests(24, tokens=24)
    mine = RayGenerator(f"ray:{folder}@2", batch_size=4)
    gone, told = mine._actors[1], list[int]()

    def each(place: int, completion: Completion) -> None:
        if not told:
            ray.kill(gone)  # as if it had been started again too often
        told.append(place)

    try:
        assert mine.generate(asked, each) == alone.generate(asked)
        assert sorted(told) == list(range(24)) and gone not in mine._actors
        with pytest.raises(ModelError, match=r"replicas of llama: the last one died.*the same command goes on"):
            mine.generate(asked, lambda place, completion: ray.kill(mine._actors[0]))
    finally:
        mine.close()


@pytest.mark.slow
def test_a_replica_that_cannot_load_its_model_says_why(ray: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="a replica cannot start"):
        RayGenerator(f"ray:{tmp_path}@1")


def kill_one(words: str, where: Path, over: threading.Event) -> None:
    """SIGKILL what runs one task, a worker of Ray or the process that --jobs starts, once its run directory is open."""
    while not over.wait(0.05):
        runs = [path.parent for path in where.rglob("config.json") if path.parent.name.startswith(words)]
        begun = [run for run in runs if not (run / "summary.json").exists()]
        folders = {f'"{run.parent.relative_to(where)}"' for run in begun}  # as their tasks have them
        for process in psutil.process_iter(["cmdline", "cwd"]) if begun else []:
            line = process.info["cmdline"] or [""]
            theirs = "--task" in line and any(folder in line[-1] for folder in folders)
            if theirs and f"_{words}" in line[-1] and process.info["cwd"] == str(where):
                with contextlib.suppress(psutil.Error):
                    above = process.parent()
                    (above if above and above.name().startswith("ray::") else process).kill()
                    (where / "killed").touch()
                    return


def grid(tmp_path: Path, *arguments: str, rc: int | None = 0, kill: str = "") -> subprocess.CompletedProcess:
    save_llama(tmp_path / "coder", context=4096)
    save_llama(tmp_path / "rewriter", context=4096)
    line = [sys.executable, "-m", "ppo_codet5.cli", "reproduce", "--profile", "smoke", "-p", "code_model=coder"]
    line += ["-p", "rewriter_model=rewriter", "-p", "prompt_form=chat-fenced", *arguments]
    line += [] if "--notebooks" in arguments else ["--notebooks", "03", "04"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("RAY_ADDRESS", None)
    over = threading.Event()
    if kill:
        threading.Thread(target=kill_one, args=(kill, tmp_path, over)).start()
    try:
        done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    finally:
        over.set()
    assert rc is None or done.returncode == rc, done.stdout[-3000:] + done.stderr[-3000:]
    return done


ONE, FEW = ("-p", "strategies=direct"), ("-p", "strategies=direct, random")


@pytest.mark.slow
@pytest.mark.parametrize("where", [("--jobs", "2"), ("--ray", "local")])
def test_the_grid_runs_as_independent_tasks(where: tuple[str, str], tmp_path: Path) -> None:
    """A cell that fails does not stop the others, and is named with its log; so is one whose process dies.

    Ray starts that one again itself.
    """
    ray = where[0] == "--ray"
    broken = tmp_path / "runs/smoke/seed1/03_baselines/direct_coder_chat-fenced_seed1"
    broken.mkdir(parents=True)
    (broken / "notes").touch()  # not a run's folder
    done = grid(tmp_path, *ONE, "--notebooks", "03", "--seeds", "0", "1", *where, kill="direct", rc=1)
    folder = tmp_path / "runs" / "smoke"
    found = {path.parent.name for path in folder.rglob("summary.json")}
    assert found == {"direct_coder_chat-fenced_seed0"}  # where it was killed, the whole notebook went on with it
    assert (tmp_path / "killed").exists()
    failures = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    (line,) = [line for line in failures if "seed 1 direct" in line]
    assert "holds notes and no config.json" in line
    of_seed_0 = [line for line in failures if "seed 0" in line]  # where it was killed, unless Ray starts it again
    assert len(of_seed_0) == (not ray) and all("seed 0 direct" in line for line in of_seed_0)
    log = folder / "seed1" / "cells" / "03_baselines_direct.log"
    assert str(log.relative_to(tmp_path)) in line and "is not a run's" in log.read_text()
    (broken / "notes").unlink()
    grid(tmp_path, *ONE, "--seeds", "0", "1", *where)
    assert len(list(folder.rglob("summary.json"))) == 2
    assert (folder / "04_results" / "results_table.md").exists()
    for path in folder.rglob("attempts.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert set(Counter((r["phase"], r["task_id"], r["visit"], r["attempt"]) for r in rows).values()) == {1}


def test_replicas_and_tasks_side_by_side_are_refused(tmp_path: Path) -> None:
    done = grid(tmp_path, "--jobs", "2", "-p", "code_model=ray:coder@2", rc=1)
    assert "error: ray:coder@2 with --jobs or --ray: each task would ask for replicas" in done.stderr


@pytest.mark.slow
def test_one_cell_of_the_grid(tmp_path: Path) -> None:
    """What a task of a Slurm array runs, twice as after a requeue."""
    said = grid(tmp_path, *FEW, "--dry-run").stdout.splitlines()
    listed = [line for line in said if "stage " in line]
    after = [line.split("  ")[0] for line in said[len(listed) :]]
    assert after[:2] == ["time", "to fetch"]  # after the tasks, how long they take and what has to be there before them
    assert [line.split()[0] for line in listed] == ["0", "1", "2", "3"]
    assert [line.split("stage ")[1][0] for line in listed] == ["0", "0", "1", "2"]
    for _ in range(2):
        grid(tmp_path, *FEW, "--cell", "1")
        (summary,) = (tmp_path / "runs").rglob("summary.json")
        assert json.loads(summary.read_text())["strategy"] == "random"
    assert "there are 4 tasks, 0 to 3" in grid(tmp_path, *FEW, "--cell", "4", rc=1).stderr


@pytest.mark.slow
def test_run_directories_are_filled_without_notebooks_and_read_by_them(tmp_path: Path) -> None:
    """--fill does the runs of each notebook, several at a time; the notebooks find them complete."""
    said = grid(tmp_path, *FEW, "--notebooks", "02", "03", "--fill", "--jobs", "2").stdout
    folder = tmp_path / "runs" / "smoke"
    assert not list(folder.rglob("*.ipynb")) and "executed notebook" not in said
    filled = {path: path.read_bytes() for path in folder.rglob("attempts.jsonl")}
    names = sorted(path.parent.name.split("_")[0] for path in filled)
    assert names == sorted(["ppo", "resampling", "random", "direct", "random"])
    assert len(list(folder.rglob("summary.json"))) == len(filled)
    grid(tmp_path, *FEW, "--notebooks", "03")
    assert "complete, will be read: direct, random" in (folder / "03_baselines.ipynb").read_text()
    assert {path: path.read_bytes() for path in folder.rglob("attempts.jsonl")} == filled
