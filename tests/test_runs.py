"""Run directories: who may open them, what a crash leaves behind, and that resuming leaves no trace of it."""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ppo_codet5.helpers import runs
from ppo_codet5.helpers.runs import Run, RunError, finished, load_model, read_rows, stable_hash, user_path, well_formed

ROOT = Path(__file__).resolve().parent.parent
IDENTITY = {"seed": 1, "strategy": "ppo", "limit": None, "task_ids": [1, 2]}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and time of change."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def complete(path: Path, rows: int = 3) -> dict:
    with Run(path, IDENTITY) as run:
        for i in range(rows):
            run.log("attempts", {"i": i})
        run.checkpoint({"n": rows})
        return run.finish({"score": (0.1, 0.2)})


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A real process that runs ``script`` with the project on its path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_run_from_start_to_end(tmp_path):
    path = tmp_path / "deep" / "run"
    assert finished(path, IDENTITY) is None and not path.parent.exists()
    with Run(path, IDENTITY, {"models": {"code": "m"}}) as run:
        assert run.state is None and run.summary is None
        run.log("attempts", {"task_id": 1, "text": "größer"})
        run.log("metrics", {"loss": 0.5})
        assert run.rows("attempts") == [{"task_id": 1, "text": "größer"}] and run.rows("timings") == []
        run.checkpoint({"update": 1, "weights": torch.ones(2)})
        assert finished(path, IDENTITY) is None
        summary = run.finish({"curve": [(0.0, 1.0)]})
        assert run.rows("metrics") == [{"loss": 0.5}]
    assert summary == {"curve": [[0.0, 1.0]]} == finished(path, IDENTITY)  # the same before and after it is read back
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    assert config["identity"] == IDENTITY and config["models"] == {"code": "m"}
    assert (
        config["versions"]["torch"] == torch.__version__.split("+")[0]
        or config["versions"]["torch"] in torch.__version__
    )
    assert {p.name for p in path.iterdir() if p.name[0] != "."} == {
        "config.json", "summary.json", "checkpoint.pt", "attempts.jsonl", "stops.jsonl", "metrics.jsonl", "timings.jsonl",
    }  # fmt: skip
    (plain := tmp_path / "plain").write_text("")
    modes = {p.stat().st_mode for p in path.iterdir() if p.name[0] != "."}
    assert modes == {plain.stat().st_mode}  # colleagues can read what the umask lets them


def test_a_complete_run_is_read_and_not_touched(tmp_path):
    summary = complete(tmp_path / "run")
    before = contents(tmp_path)
    assert finished(tmp_path / "run", IDENTITY) == summary
    with Run(tmp_path / "run", IDENTITY) as run:
        assert run.summary == summary and run.rows("attempts") == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert contents(tmp_path) == before


def test_finished_writes_nothing_into_an_interrupted_run(tmp_path):
    with Run(tmp_path / "run", IDENTITY) as run:
        run.log("attempts", {"i": 0})
        run.checkpoint({})
        run.log("attempts", {"i": 1})
    before = contents(tmp_path)
    assert finished(tmp_path / "run", IDENTITY) is None and contents(tmp_path) == before


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed"),
        ({"limit": 0}, "limit"),
        ({"new": 1}, "new"),
        ({"task_ids": [2, 1], "seed": 3}, "seed, task_ids"),
    ],
)
def test_another_identity_is_refused_and_nothing_changes(tmp_path, change, named, end):
    path = tmp_path / "run"
    if end:
        complete(path)
    else:
        with Run(path, IDENTITY) as run:
            run.log("attempts", {"i": 0})
    before = contents(tmp_path)
    for attempt in (finished, Run):
        with pytest.raises(RunError, match=rf"belongs to another config \(different: {named}\); choose another folder"):
            attempt(path, {**IDENTITY, **change})
    assert contents(tmp_path) == before


def test_identity_is_compared_as_it_is_stored(tmp_path):
    complete(tmp_path / "run")
    same = {"task_ids": (1, 2), "limit": None, "strategy": "ppo", "seed": 1}  # a tuple, another order
    assert finished(tmp_path / "run", same) == {"score": [0.1, 0.2]}


def test_a_folder_with_other_files_or_a_file_is_refused_and_nothing_changes(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("[1, 2")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[1, 2]")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for name, words in [
        ("notes", "is not a run's: it holds a.txt and no config.json"),
        ("model", "belongs to another config"),
        ("broken", "is not a run's"),
        ("list", "is not a run's"),
        ("file", "is a file"),
    ]:
        for attempt in (finished, Run):
            with pytest.raises(RunError, match=words):
                attempt(tmp_path / name, IDENTITY)
    assert contents(tmp_path) == before


def test_hidden_files_do_not_stop_a_run(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert complete(tmp_path) == {"score": [0.1, 0.2]}


def test_a_folder_held_by_another_process_is_refused_until_that_process_is_killed(tmp_path):
    path = tmp_path / "run"
    child = python(
        """
        import json, sys
        from ppo_codet5.helpers.runs import Run
        run = Run(sys.argv[1], json.loads(sys.argv[2]))
        run.log("attempts", {"i": 0})
        run.checkpoint({"n": 1})
        print("held", flush=True)
        sys.stdin.read()
        """,
        path,
        json.dumps(IDENTITY),
    )
    try:
        assert child.stdout and child.stdout.readline() == "held\n"
        before = contents(tmp_path)
        with pytest.raises(RunError, match="in use by another process"):
            Run(path, IDENTITY)
        assert contents(tmp_path) == before
    finally:
        child.kill()
        child.wait()
    with Run(path, IDENTITY) as run:
        assert run.state == {"n": 1} and run.rows("attempts") == [{"i": 0}]


def test_two_runs_in_one_process_exclude_each_other_too_and_a_failed_start_holds_nothing(tmp_path):
    with Run(tmp_path / "run", IDENTITY) as run:
        run.log("attempts", {"i": 0})
        run.checkpoint({})
        with pytest.raises(RunError, match="in use"):
            Run(tmp_path / "run", IDENTITY)
    os.truncate(tmp_path / "run" / "attempts.jsonl", 3)
    before, errors = contents(tmp_path), []
    for _ in range(2):  # the second is refused for the same reason, not because the first still holds the lock
        with pytest.raises(RunError, match="shorter than it was at the last checkpoint") as error:
            Run(tmp_path / "run", IDENTITY)
        errors.append(error)  # the traceback lives on, as in a notebook
    assert contents(tmp_path) == before


def test_rows_after_the_checkpoint_are_cut_even_if_half_written(tmp_path):
    with Run(tmp_path, IDENTITY) as run:
        run.log("attempts", {"i": 0})
        run.log("timings", {"t": 0})
        run.checkpoint({"n": 1, "rng": torch.get_rng_state(), "memory": [[[1, 0], "task", "note"]]})
        run.log("attempts", {"i": 1})
    with open(tmp_path / "attempts.jsonl", "ab") as log:
        log.write(b'{"i": 2, "text": "cut sho')
    assert read_rows(tmp_path / "attempts.jsonl") == [{"i": 0}, {"i": 1}]  # a reader leaves the cut line out
    with Run(tmp_path, IDENTITY) as run:
        assert run.state is not None and run.state["memory"] == [[[1, 0], "task", "note"]]
        assert torch.equal(run.state["rng"], torch.get_rng_state())
        assert run.rows("attempts") == [{"i": 0}] and run.rows("timings") == [{"t": 0}] and run.rows("metrics") == []


WORKER = """
    import json, os, random, signal, sys
    from pathlib import Path
    import torch
    from ppo_codet5.helpers import runs

    # metadata and git take most of the time of a start; what they return is not looked at here
    runs.environment = lambda: {"versions": {}}
    ours = {runs.__file__, "<string>"}

    def kill_after(lines):
        left = [lines]
        def trace(frame, event, arg):
            if frame.f_code.co_filename not in ours:
                return None
            left[0] -= event == "line"
            if left[0] == 0:
                os.kill(os.getpid(), 9)
            return trace
        sys.settrace(trace)

    def work(path):
        with runs.Run(path, {"task": "count"}) as run:
            if run.summary:  # killed between its last line and its end
                return
            state = run.state or {"n": 0, "total": torch.zeros(3)}
            while state["n"] < 40:
                n = state["n"]
                run.log("attempts", {"n": n, "text": "x" * (1 + 997 * n % 9000)})  # longer than what a file buffers
                run.log("timings", {"n": n})
                if n % 3 == 2:
                    run.log("metrics", {"rows": len(run.rows("attempts"))})
                state = {"n": n + 1, "total": state["total"] + torch.tensor([1.0, n, n * n])}
                if n % 4 == 3:
                    run.checkpoint(state)
            run.save("final_model.pt", {"agent": {"total": state["total"]}})
            runs.write_atomically(Path(path) / "results.csv", b"a,b" * 5000)
            run.finish({"n": state["n"]})

    straight, broken, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    work(straight)
    draw, killed = random.Random(seed), 0
    while True:
        lines = draw.randrange(1, 500)
        child = os.fork()  # torch is loaded once; the child is a process of its own
        if child == 0:
            kill_after(lines)
            try:
                work(broken)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9
        if not os.WIFSIGNALED(status):
            print(json.dumps({"status": status, "killed": killed}), flush=True)
            break
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_random_points_ends_as_if_never_interrupted(tmp_path, seed):
    child = python(WORKER, tmp_path / "straight", tmp_path / "broken", seed)
    output, _ = child.communicate()
    result = json.loads(output)
    assert result["status"] == 0 and result["killed"] >= 3, output
    straight, broken = ({n: data for n, (data, _) in contents(tmp_path / f).items()} for f in ("straight", "broken"))
    assert straight.keys() == broken.keys() and not any(name.endswith(".tmp") for name in broken)
    assert [name for name in straight if straight[name] != broken[name]] == []
    rows = read_rows(tmp_path / "broken" / "attempts.jsonl")
    assert [row["n"] for row in rows] == list(range(40))
    assert finished(tmp_path / "broken", {"task": "count"}) == {"n": 40}


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    runs.write_atomically(tmp_path / "a", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_atomically(tmp_path / "a", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}


def test_two_that_write_the_same_file_at_once_do_not_disturb_each_other(tmp_path):
    texts = [bytes([letter]) * 100_000 for letter in b"abcd"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: runs.write_atomically(tmp_path / "probe.json", texts[n % 4]), range(80)))
    assert [p.name for p in tmp_path.iterdir()] == ["probe.json"] and (tmp_path / "probe.json").read_bytes() in texts


def agent(hidden: int = 4) -> dict[str, torch.Tensor]:
    return torch.nn.Sequential(torch.nn.Linear(3, hidden), torch.nn.Linear(hidden, 2)).state_dict()


def test_load_model_gives_back_what_was_saved(tmp_path):
    weights = agent()
    with Run(tmp_path, IDENTITY) as run:
        path = run.save("final_model.pt", {"agent": weights})
    loaded = load_model(path, agent())
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[k], weights[k]) for k in weights)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_load_model_refuses_what_is_not_such_a_model_in_one_sentence(tmp_path):
    good = tmp_path / "good.pt"
    torch.save({"agent": agent()}, good)
    files = {
        "truncated": good.read_bytes()[: good.stat().st_size // 2],
        "empty": b"",
        "text": b"hello",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save({"state_dict": agent()}, tmp_path / "foreign")
    torch.save(agent(), tmp_path / "bare")
    torch.save({"agent": {"layer": "text"}}, tmp_path / "no tensors")
    torch.save([1, 2], tmp_path / "list")
    torch.save({"agent": Malicious(tmp_path / "was here")}, tmp_path / "malicious")
    (tmp_path / "folder").mkdir()
    for name in [*files, "foreign", "bare", "no tensors", "list", "malicious", "folder"]:
        with pytest.raises(RunError, match=r"is not a checkpoint of this project, or it is damaged \(\w+\)$"):
            load_model(tmp_path / name, agent())
    assert not (tmp_path / "was here").exists()  # weights_only: nothing in the file is run
    with pytest.raises(RunError, match=r"no checkpoint at .*missing"):
        load_model(tmp_path / "missing", agent())
    with pytest.raises(RunError, match="holds an agent of another shape"):
        load_model(good, agent(hidden=5))
    with pytest.raises(RunError, match="another shape"):
        load_model(good, {**agent(), "more": torch.zeros(1)})


def test_the_agent_of_a_run_under_way_is_in_its_checkpoint(tmp_path):
    weights = agent()
    with Run(tmp_path, IDENTITY) as run:
        run.checkpoint({"agent": weights, "update": 1})
        loaded = load_model(tmp_path / "checkpoint.pt", agent())
        run.checkpoint({"update": 0})
        with pytest.raises(RunError, match="is not a checkpoint of this project"):
            load_model(tmp_path / "checkpoint.pt", agent())
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[k], weights[k]) for k in weights)


def test_what_cannot_be_written_is_told_and_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "new" / "run"):
        runs.check_writable(folder)
    for folder, words in ((tmp_path / "file" / "run", "Not a directory"), ("/proc/run", "/proc: ")):
        with pytest.raises(RunError, match=f"cannot be written .*{words}.*; choose another folder"):
            runs.check_writable(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_leaves_no_lock(tmp_path):
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"), Run(tmp_path / "run", IDENTITY) as run:
            run._logs["attempts.jsonl"].close()
            run._logs["attempts.jsonl"] = open("/dev/full", "ab")  # noqa: SIM115 - the run closes it
            run.log("attempts", {"i": 0})
            run.checkpoint({})
    assert finished(tmp_path / "run", IDENTITY) is None


def test_checkpoints_load_without_running_code(tmp_path):
    with Run(tmp_path, IDENTITY) as run:
        run.checkpoint({"agent": agent(), "memory": [[["a", 1], "task", "note"]], "rate": 1e-3})
    torch.load(tmp_path / "checkpoint.pt", weights_only=True)


def test_scratch_is_the_folder_given_or_one_that_goes_away(tmp_path):
    with runs.scratch(tmp_path / "mine") as folder:
        assert folder == tmp_path / "mine"
    with runs.scratch(None) as folder:
        complete(folder)
    assert not folder.exists()


def test_what_is_measured_is_measured_once_for_its_settings_in_a_folder(tmp_path):
    asked = []

    def measure():
        asked.append(1)
        return {"code": (0.5, 100.0), "times": len(asked)}

    found = [runs.measured(tmp_path / "new", "probe", {"seed": seed}, measure) for seed in (1, 1, 2, 1)]
    assert [one["times"] for one in found] == [1, 1, 2, 1] and found[0]["code"] == [0.5, 100.0]
    assert runs.measured(tmp_path / "other", "probe", {"seed": 1}, measure)["times"] == 3
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert runs.measured(tmp_path / "new", "probe", {"seed": 1}, measure)["times"] == 4
    finally:
        torch.set_num_threads(before)


def test_stable_hash_is_the_same_everywhere_and_within_its_bits():
    assert (
        stable_hash(0, "train", 11, 2, "code")
        == int.from_bytes(hashlib.sha256(b'[0, "train", 11, 2, "code"]').digest()[:8], "big") >> 1
    )
    script = "from ppo_codet5.helpers.runs import stable_hash; print(stable_hash({'b': 1, 'a': 2.5}, None))"
    assert int(python(script).communicate()[0]) == stable_hash({"a": 2.5, "b": 1}, None)


@given(st.lists(st.one_of(st.integers(), st.text(), st.none()), max_size=4), st.integers(1, 64))
def test_stable_hash_bits(parts, bits):
    assert 0 <= stable_hash(*parts, bits=bits) < 2**bits


def test_the_commit_recorded_is_ours_and_never_that_of_a_repository_around_us(tmp_path):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    copy = tmp_path / "site-packages" / "runs.py"
    copy.parent.mkdir()
    copy.write_bytes(Path(runs.__file__).read_bytes())

    def commit() -> str:
        spec = importlib.util.spec_from_file_location("installed_runs", copy)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.environment()["commit"]

    assert commit() == "not in a git repository"
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert commit() == head


@given(
    st.text(st.characters(), max_size=20), st.lists(st.characters(categories=["Cs"]), max_size=3), st.integers(0, 20)
)
def test_well_formed_text_is_kept_and_any_text_can_be_written(text, halves, place):
    assert well_formed(text) == text
    broken = text[:place] + "".join(halves) + text[place:]
    assert well_formed(well_formed(broken)) == well_formed(broken)
    assert well_formed(broken).encode().decode() == well_formed(broken)
    assert well_formed("a\ud83d\ude00\ud83d") == "a\U0001f600\ufffd"


def test_half_a_character_in_a_row_an_identity_or_a_summary_is_written_as_a_mark(tmp_path):
    identity = {**IDENTITY, "preamble": "x = '\ud800'"}
    with Run(tmp_path / "run", identity) as run:
        run.log("attempts", {"code": "a\ud800b", "\udfff": 1})
        run.finish({"title": "\udc80"})
        assert run.rows("attempts") == [{"code": "a\ufffdb", "\ufffd": 1}]
    assert finished(tmp_path / "run", identity) == {"title": "\ufffd"}


def test_home_is_known_and_a_byte_order_mark_is_no_part_of_a_row(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Run("~/run", IDENTITY) as run:
        run.log("attempts", {"i": 0})
        run.save("final_model.pt", {"agent": {}})
        run.finish({})
    assert (tmp_path / "run" / "summary.json").exists() and finished("~/run", IDENTITY) == {}
    assert load_model("~/run/final_model.pt", {}) == {}
    log = tmp_path / "run" / "attempts.jsonl"
    log.write_bytes(codecs.BOM_UTF8 + log.read_bytes())
    assert read_rows("~/run/attempts.jsonl") == [{"i": 0}]
    assert user_path("a/~/b") == Path("a/~/b") and user_path("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
