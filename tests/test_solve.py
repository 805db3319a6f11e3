"""``solve``: a user's own tasks, without references, worked on by the agent and by every other strategy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ppo_codet5.helpers.models import Completion, Request
from ppo_codet5.helpers.problems import ProblemError, find_entry_point, load_tasks
from ppo_codet5.helpers.runs import RunError, read_rows
from scripted import STARTER, Coder, small
from test_cli import models, run  # noqa: F401 - a fixture

from ppo_codet5 import baselines, grid, notebooks
from ppo_codet5.core import Parts, PPOCodeT5Trainer, load_agent
from ppo_codet5.solving import solve, table

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent
MBPP = ROOT.parent / "shared" / "data" / "mbpp.jsonl"
BUDGET = 3


def quiet(line: str) -> None:
    pass


def task_file(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Six tasks as a user has them: a text, two asserts for the models to see, the rest held back; no reference."""
    rows = [
        {"text": p.text, "test_list": p.tests[:2], "challenge_test_list": p.tests[2:] + p.challenge_tests}
        for p in STARTER["test"][:6]
    ]
    return task_file(tmp_path / "tasks.jsonl", rows)


def judged(program: str, asserts: Sequence[str]) -> bool:
    """Whether CPython runs the program and all asserts without an error."""
    names: dict[str, Any] = {}
    try:
        exec(program, names)
        for line in asserts:
            exec(line, names)
    except Exception:
        return False
    return True


# Tasks


def test_a_task_needs_a_text_and_an_assert_and_no_more(tmp_path: Path) -> None:
    rows = [
        {"text": "Halve a number.", "test_list": ["assert round(half(3), 1) == 1.5", "assert half(4) == 2"]},
        {"prompt": "Roots.", "test_list": ["assert math.isclose(root(4), 2)"], "test_imports": ["import math"]},
        {"text": "A stack.", "test_list": ["assert list(Stack([1]).items()) == [1]"], "task_id": 70},
        {"text": "Twice.", "test_list": ["assert check(lambda: twice(2)) == 4"], "entry_point": "twice"},
        {
            "text": "Sorted.",
            "test_list": ["assert near(srt([2.0]), [2.0])"],
            "test_setup_code": "def near(a, b): return a == b",
        },
        {"text": "Given.", "test_list": ["assert f(g(1)) == 1"], "code": "def g(x):\n    return x\nf = int"},
    ]
    tasks = load_tasks(task_file(tmp_path / "tasks.jsonl", rows))
    assert [task.task_id for task in tasks] == [1, 2, 70, 4, 5, 6]
    assert [task.entry_point for task in tasks] == ["half", "root", "Stack", "twice", "srt", "g"]
    assert [task.reference for task in tasks[:5]] == [""] * 5 and tasks[1].setup == "import math"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "Halve."}, r"tasks\.jsonl, line 2: the field 'test_list' is missing"),
        ({"test_list": ["assert half(2) == 1"]}, "line 2: the field 'text' is missing"),
        ({"text": "Halve.", "test_list": []}, "line 2: the field 'test_list' is empty"),
        ({"text": "Halve.", "test_list": ["half(2) == 1"]}, "must be one assert statement"),
        (
            {"text": "Halve.", "test_list": ["assert 1 == 1"]},
            "calls no function to be written; name it in the field 'entry_point'",
        ),
        (
            {"text": "Halve.", "test_list": ["assert half(2) == 1"], "task_id": 1},
            "task_id 1 was used before, in .*line 1",
        ),
        (
            {"text": "Halve.", "test_list": ["assert half(2) == 1"], "test_setup_code": "import"},
            "the setup code is not valid",
        ),
    ],
)
def test_a_wrong_task_is_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    right = {"text": "Twice.", "test_list": ["assert twice(1) == 2"]}
    with pytest.raises(ProblemError, match=said):
        load_tasks(task_file(tmp_path / "tasks.jsonl", [right, row]))


def test_a_file_without_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"no tasks in .*empty\.jsonl.*with text and test_list"):
        load_tasks(task_file(tmp_path / "empty.jsonl", []))
    with pytest.raises(ProblemError, match="cannot read"):
        load_tasks(tmp_path / "none.jsonl")


@pytest.mark.parametrize("source", ["starter", "mbpp"])
def test_the_function_is_found_without_the_reference_too(source: str, tmp_path: Path) -> None:
    if source == "mbpp" and not MBPP.exists():
        pytest.skip("no copy of MBPP here")
    file = MBPP if source == "mbpp" else ROOT / "data/starter/starter.jsonl"
    rows = read_rows(file)
    stripped = [{name: value for name, value in row.items() if name != "code"} for row in rows]
    names = [task.entry_point for task in load_tasks(task_file(tmp_path / "tasks.jsonl", stripped))]
    expected = [find_entry_point(row["test_list"][0].replace("\r", ""), row["code"].replace("\r", "")) for row in rows]
    different = [(a, b) for a, b in zip(names, expected, strict=True) if a != b]
    assert len(names) > 200 and not different


# Strategies


@pytest.fixture
def agent(parts: Parts) -> Any:
    return load_agent(small(max_steps=BUDGET), parts)


@pytest.mark.parametrize("strategy", [name for name in grid.SOLVERS if name not in baselines.TUNED] + ["fixed_action"])
def test_every_strategy_hands_in_programs_that_are_what_it_says(
    strategy: str, own: Path, agent: Any, parts: Parts, tmp_path: Path
) -> None:
    config, tasks, folder = small(max_steps=BUDGET), load_tasks(own), tmp_path / "run"
    before = len(parts.code.requests)
    solutions = solve(config, tasks, strategy, agent, parts, folder, quiet)
    assert read_rows(folder / "solutions.jsonl") == json.loads(json.dumps(solutions))
    assert [row["task_id"] for row in solutions] == [task.task_id for task in tasks]
    for task, row in zip(tasks, solutions, strict=True):
        asserts = task.tests + task.challenge_tests
        assert row["solved"] == judged(row["program"], asserts)
        assert [(text, outcome == "pass") for text, outcome in row["asserts"]] == [
            (text, judged(row["program"], [text])) for text in asserts
        ]
        assert 1 <= len(row["attempts"]) <= BUDGET and row["cost"]["generations"] == len(row["attempts"])
        assert row["program"] in [attempt["program"] for attempt in row["attempts"]]
        program = (folder / "programs" / f"{task.task_id}_{task.entry_point}.py").read_text()
        assert program.strip() == row["program"].strip()
        for attempt in row["attempts"][:-1]:  # no attempt after one that passes what may be looked at
            assert not judged(attempt["program"], task.tests)
    asked = [str(request.prompt) for request in parts.code.requests[before:]]
    for task in tasks:
        ours = [prompt for prompt in asked if task.tests[0] in prompt]
        assert ours and all(test in prompt for test in task.tests for prompt in ours)
        assert not any(test in prompt for test in task.challenge_tests for prompt in asked)
    assert {row["solved"] for row in solutions} == {True, False} or strategy in (
        "direct",
        "mutation",
        "rewriting",
        "epic",
        "reflexion",
    )
    said = table(solutions).splitlines()
    assert said[-1] == f"{sum(row['solved'] for row in solutions)} of 6 solved" and len(said) == 8


def test_the_strategies_have_all_parameters_of_notebook_03() -> None:
    asked = notebooks.cell_of(ROOT / "03_baselines.ipynb")
    ours = baselines.BaselineParameters()
    assert {name: asked[name] for name in asked["__annotations__"] if name != "run_dir"} == {
        name: getattr(ours, name) for name in asked["__annotations__"] if name != "run_dir"
    }


def test_a_trainer_solves_a_file_with_its_agent(own: Path, parts: Parts, tmp_path: Path) -> None:
    trainer = PPOCodeT5Trainer(small(max_steps=BUDGET), parts=parts)
    with pytest.raises(RunError, match="strategy ppo needs a trained agent"):
        trainer.solve(own, report=quiet)
    drawn = trainer.solve(own, strategy="resampling", report=quiet)
    assert {attempt["action"] for row in drawn for attempt in row["attempts"]} == {"direct"}
    trainer.train(tmp_path / "trained", report=quiet)
    lines: list[str] = []
    solutions = trainer.solve(own, tmp_path / "solved", report=lines.append)
    loaded = PPOCodeT5Trainer(small(max_steps=BUDGET), parts=parts).load(tmp_path / "trained" / "final_model.pt")
    assert loaded.solve(str(own), report=quiet) == solutions
    told = [line for line in lines if line.startswith("task ")]
    assert len(told) == 6 and sum("passes its asserts" in line for line in told) == sum(
        all(outcome == "pass" for _, outcome in row["asserts"][:2]) for row in solutions
    )


class Broken(Coder):
    """Fails for good after some batches, as a machine does that is switched off."""

    def __init__(self, coder: Coder, batches: int) -> None:
        super().__init__(coder.problems.values(), coder.rule)
        self.left = batches

    def generate(
        self, requests: Sequence[Request], each: Callable[[int, Completion], object] = lambda i, c: None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().generate(requests, each)


@pytest.mark.parametrize("batches", [0, 1, 2, 4])
def test_an_interrupted_call_goes_on(batches: int, own: Path, agent: Any, parts: Parts, tmp_path: Path) -> None:
    config = small(max_steps=BUDGET, num_envs=1, actions="direct,mutation,rewriting,repair,stop")
    agent = load_agent(config, parts)
    whole = solve(config, own, "ppo_sampled", agent, parts, tmp_path / "whole", quiet)
    with pytest.raises(KeyboardInterrupt):
        broken = Parts(Broken(parts.code, batches), parts.rewriter, parts.lexicon, parts.embedder, parts.sandbox)
        solve(config, own, "ppo_sampled", agent, broken, tmp_path / "run", quiet)
    assert not (tmp_path / "run" / "solutions.jsonl").exists()
    assert solve(config, own, "ppo_sampled", agent, parts, tmp_path / "run", quiet) == whole
    for name in ("solutions.jsonl", "attempts.jsonl", "stops.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = Parts(Broken(parts.code, 0), parts.rewriter, parts.lexicon, parts.embedder, parts.sandbox)
    said: list[str] = []
    assert solve(config, own, "ppo_sampled", agent, again, tmp_path / "run", said.append) == json.loads(
        json.dumps(whole)
    )
    assert "is complete: read, not run again" in said[0]


def test_a_folder_belongs_to_its_tasks_agent_and_strategy(own: Path, agent: Any, parts: Parts, tmp_path: Path) -> None:
    config, tasks = small(max_steps=BUDGET), load_tasks(own)
    solve(config, tasks, "ppo", agent, parts, tmp_path / "run", quiet)
    other = load_agent(small(max_steps=BUDGET, seed=1), parts)
    for wrong in ((tasks[1:], "ppo", agent), (tasks, "resampling", None), (tasks, "ppo", other)):
        with pytest.raises(RunError, match="belongs to another config"):
            solve(config, *wrong, parts, tmp_path / "run", quiet)


# The command


def test_the_command_solves_with_an_agent_and_without(models: Path, own: Path, tmp_path: Path) -> None:  # noqa: F811
    tiny = [f"codet5_model={models / 'coder'}", f"rewriter_model={models / 'rewriter'}", "torch_dtype=float32"]
    sets = [part for pair in (*tiny, "generation_cache=null", "max_new_tokens=8") for part in ("--set", pair)]
    few = ["--set", "max_episodes=4", "--set", "episodes_per_update=4", "--set", "eval_limit=2"]
    run(tmp_path, "train", "--profile", "smoke", "--output-dir", "trained", *sets, *few)
    solved = ["solve", "tasks.jsonl", "--budget", "2", "--json"]
    done = run(tmp_path, *solved, "--checkpoint", "trained/final_model.pt", "--output-dir", "a")
    rows = json.loads(done.stdout)
    assert [row["task_id"] for row in rows] == [1, 2, 3, 4, 5, 6] and "ppo on 6 tasks, at most 2 gener" in done.stderr
    assert all(row["cost"]["generations"] == 2 and not row["solved"] for row in rows)  # of weights that say nothing
    assert len(list((tmp_path / "a" / "programs").glob("*.py"))) == 6
    assert run(tmp_path, *solved, "--checkpoint", "trained/final_model.pt", "--output-dir", "a").stdout == done.stdout
    plain = run(tmp_path, *solved[:-1], "--profile", "smoke", "--strategy", "epic", "--output-dir", "b", *sets).stdout
    assert (
        "task 6: not solved after 2 generations" in plain and "0 of 6 solved" in plain and "b/solutions.jsonl" in plain
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tasks.jsonl",), "strategy ppo needs a trained agent: give the checkpoint of one, or another strategy"),
        (("tasks.jsonl", "--strategy", "resample"), r"unknown strategy 'resample' .did you mean resampling\?.; choose"),
        (
            ("tasks.jsonl", "--checkpoint", "none.pt"),
            "no checkpoint at none.pt; ppo-codet5 train writes final_model.pt",
        ),
        (("none.jsonl", "--strategy", "direct"), r"cannot read the problem file none\.jsonl"),
        (("tasks.jsonl", "--strategy", "direct", "--set", "code_model=./none"), "none"),
    ],
)
def test_what_cannot_be_solved_is_one_sentence(
    arguments: tuple[str, ...], said: str, own: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(tmp_path, "solve", *arguments, "--output-dir", "run", rc=1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and re.search(said, line)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_tasks_that_the_docs_show(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    (tmp_path / "tasks.jsonl").write_text(page.split("<!-- tasks: tests solve them -->\n```json\n")[1].split("```")[0])
    halve, longest = load_tasks(tmp_path / "tasks.jsonl")
    assert (halve.task_id, halve.entry_point, longest.entry_point) == (1, "halve", "longest")
    assert longest.challenge_tests == ("assert longest('') == ''",)
    (shown,) = [
        line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "A task is a line" in line
    ]
    (tmp_path / "one.jsonl").write_text(shown.split("`")[1])
    assert load_tasks(tmp_path / "one.jsonl")[0].entry_point == "halve"
