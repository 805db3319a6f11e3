"""``solve``: a user's own tasks, without references, worked on by the agent and by every other strategy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ppo_codet5.helpers.models import Completion, Request
from ppo_codet5.helpers.problems import load_tasks
from ppo_codet5.helpers.runs import RunError, read_rows
from ppo_codet5.helpers.sandbox import Sandbox
from scripted import STARTER, Coder, Scripted, small
from test_cli import here, models, run  # noqa: F401 - fixtures
from test_problems import task_file

from ppo_codet5 import baselines, cli, grid, notebooks
from ppo_codet5.core import Parts, PPOCodeT5Trainer, load_agent
from ppo_codet5.solving import solve, table

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent
BUDGET = 3


def quiet(line: str) -> None:
    pass


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


# Strategies


@pytest.fixture
def agent(parts: Parts) -> Any:
    return load_agent(small(max_steps=BUDGET), parts)


@pytest.mark.parametrize("strategy", grid.SOLVERS)
def test_every_strategy_hands_in_programs_that_are_what_it_says(
    strategy: str, own: Path, agent: Any, parts: Parts, tmp_path: Path
) -> None:
    few = {"selection_limit": 3, "mixture_parts": 2, "schedule_beam": 2, "epic_population": 1}
    config = baselines.BaselineParameters(**vars(small(max_steps=BUDGET)) | few)
    tasks, folder = load_tasks(own), tmp_path / "run"
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
    asked = [str(request.prompt) for request in parts.code.requests[before:]]  # and for what the choice was made on
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


def test_a_program_is_handed_in_with_all_that_it_ran_with(parts: Parts, tmp_path: Path) -> None:
    """What the preamble, the task's imports and a HumanEval prelude give a program is in its file."""
    rows = [{"text": "Root.", "test_list": ["assert root(16) == 2"], "test_imports": ["import math"]}]
    (task,) = load_tasks(task_file(tmp_path / "tasks.jsonl", rows))
    task = replace(task, prelude="two = 2")
    code = "def root(x):\n    return math.isqrt(math.isqrt(x)) * two // operator.index(2)"
    config = small(max_steps=BUDGET, preamble="import operator", prompt_form="chat-fenced")
    with Sandbox(workers=1, preamble=config.preamble) as sandbox:
        written = replace(parts, code=Always(code), sandbox=sandbox)
        (solution,) = solve(config, [task], "resampling", None, written, tmp_path / "run", quiet)
    assert solution["solved"] and solution["program"] == code and not judged(code, task.tests)
    assert judged((tmp_path / "run" / "programs" / "1_root.py").read_text(), task.tests)


class Always(Scripted):
    """One program, whatever it is asked."""

    def __init__(self, code: str) -> None:
        super().__init__("always")
        self.code = code

    def answer(self, request: Request) -> str:
        return f"{self.code}\n```"


def test_an_agent_of_other_actions_is_refused(own: Path, parts: Parts) -> None:
    agent = load_agent(small(max_steps=BUDGET, actions="direct,mutation,repair"), parts)
    with pytest.raises(
        RunError, match="trained with actions = direct,mutation,repair, and not with direct,mutation,rew"
    ):
        solve(small(max_steps=BUDGET), own, "ppo", agent, parts, report=quiet)


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


def test_the_command_solves_with_an_agent_and_without(
    models: Path,  # noqa: F811
    own: Path,
    tmp_path: Path,
    here: Callable[..., str],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = [f"codet5_model={models / 'coder'}", f"rewriter_model={models / 'rewriter'}", "torch_dtype=float32"]
    sets = [part for pair in (*tiny, "generation_cache=null", "max_new_tokens=8") for part in ("--set", pair)]
    few = ["--set", "max_episodes=4", "--set", "episodes_per_update=4", "--set", "eval_limit=2"]
    here("train", "--profile", "smoke", "--output-dir", "trained", *sets, *few)
    solved = ["solve", "tasks.jsonl", "--budget", "2", "--json"]
    done = run(tmp_path, *solved, "--checkpoint", "trained/final_model.pt", "--output-dir", "a")
    rows = json.loads(done.stdout)
    assert [row["task_id"] for row in rows] == [1, 2, 3, 4, 5, 6] and "ppo on 6 tasks, at most 2 gener" in done.stderr
    assert all(row["cost"]["generations"] == 2 and not row["solved"] for row in rows)  # of weights that say nothing
    assert len(list((tmp_path / "a" / "programs").glob("*.py"))) == 6
    assert here(*solved, "--checkpoint", "trained/final_model.pt", "--output-dir", "a") == done.stdout
    other = ("--profile", "smoke", "--set", "actions=direct,mutation,repair")
    assert cli.main([*solved, "--checkpoint", "trained/final_model.pt", "--output-dir", "c", *other]) == 1
    assert (
        "was trained with actions = 'direct,mutation,rewriting', and the settings say 'direct,mutation,repair'"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "c").exists()
    plain = here(*solved[:-1], "--profile", "smoke", "--strategy", "epic", "--output-dir", "b", *sets)
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
        (("tasks.jsonl", "--strategy", "direct", "--set", "code_model=./none"), "No model .\./none.: give an alias"),
        (("tasks.jsonl", "--strategy", "direct", "--set", "preamble=import"), "preamble = 'import' does not run"),
        (
            ("tasks.jsonl", "--strategy", "epic", "--set", "epic_population=0"),
            "epic_population = 0 must be more than 0",
        ),
    ],
)
def test_what_cannot_be_solved_is_one_sentence(
    arguments: tuple[str, ...],
    said: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert cli.main(["solve", *arguments, "--output-dir", "run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(said, line)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
