"""Tasks of one's own, worked on by a trained agent or by one of the strategies that it is compared with."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ppo_codet5 import baselines, core
from ppo_codet5.grid import AGENT, check_strategy
from ppo_codet5.helpers import runs, settings
from ppo_codet5.helpers.problems import Problem, load_tasks, problem_set_hash
from ppo_codet5.helpers.results import scoring


def solve(
    config: Any,
    tasks: Sequence[Problem] | str | Path,
    strategy: str = "ppo",
    agent: core.PPOAgent | None = None,
    parts: core.Parts | None = None,
    output_dir: str | Path | None = None,
    report: Callable[[str], object] = runs.report,
) -> list[dict[str, Any]]:
    """Work on tasks within ``config.max_steps`` generations each, and hand in a program for each.

    All asserts of a task are for the models to see, whatever ``config.visible_tests`` says: they are what there is to
    go by. Its ``challenge_tests`` are kept from them and judge what is handed in.

    Args:
        config: parameters or a ``Config``; those that only notebook 03 has are its defaults unless given.
        tasks: problems, or the path of a file as ``problems.load_tasks`` reads it.
        strategy: one of ``grid.SOLVERS``. Those of ``baselines.TUNED`` are chosen or trained on the training problems of
            ``config`` first, which may take more generations than the agent's training.
        agent: what "ppo" and "ppo_sampled" need, trained with the actions of ``config``.
        parts: what ``core.load_parts`` gives; loaded if None.
        output_dir: a run directory, in which an interrupted call goes on; in it are ``solutions.jsonl`` and, with all
            that the sandbox ran beside it (preamble, setup), a file for each program. None keeps nothing.

    Returns:
        For each task a dict: ``task_id``, ``solved`` (all asserts pass), ``program``, ``asserts`` (pairs of assert and
        outcome), ``attempts`` (``action``, ``prompt``, ``program``, ``outcomes``, ``feedback``) and ``cost``
        (``generations``, ``rewriter_calls``, ``code_tokens``, ``rewriter_tokens``).

    Raises:
        RunError: an unknown strategy, no agent, or a folder that belongs to other tasks or settings.
    """
    check_strategy(strategy, agent)
    tasks = load_tasks(tasks) if isinstance(tasks, str | Path) else list(tasks)
    flat = parameters(config)
    if agent is not None and agent.config.actions != flat.actions:
        raise runs.RunError(f"the agent was trained with actions = {agent.config.actions}, and not with {flat.actions}")
    player = _Player(flat, tasks, strategy, agent, parts)
    with runs.scratch(output_dir) as folder:
        identity = player.identity(strategy)
        if runs.finished(folder, identity):
            report(f"{folder} is complete: read, not run again")
            return runs.read_rows(folder / "solutions.jsonl")
        with runs.Run(folder, identity, player.parts.record()) as run:
            player.play(run, report)
            solutions = [_solution(task, rows) for task, rows in player.attempts(run)]
            _write(run.path, solutions, tasks, flat.preamble)
            run.finish({"strategy": strategy, "tasks": len(tasks), "solved": sum(s["solved"] for s in solutions)})
            return solutions


def parameters(config: Any) -> types.SimpleNamespace:
    """All parameters that a strategy may need, those of notebook 03 by default, with every assert visible."""
    values = vars(config.to_parameters() if hasattr(config, "to_parameters") else config)
    known = {field.name for field in fields(baselines.BaselineParameters)}
    flat = baselines.BaselineParameters(**{name: value for name, value in values.items() if name in known})
    shared = {"visible_tests": "all", "resampling_steps": flat.max_steps}  # the budget is that of every strategy
    return types.SimpleNamespace(**{**vars(settings.validate(flat)), **shared})


class _Player(baselines.Baselines):
    """A strategy on these tasks, in place of the scored problems of ``config``."""

    def __init__(
        self,
        config: types.SimpleNamespace,
        tasks: Sequence[Problem],
        strategy: str,
        agent: core.PPOAgent | None,
        parts: core.Parts | None,
    ) -> None:
        self.config, self.given, self._parts = config, (None, None), parts
        self.strategy, self.agent = strategy, agent
        self.problems = {"eval": list(tasks)} | (
            baselines.tuning_problems(config) if strategy in baselines.TUNED else {}
        )

    def identity(self, strategy: str) -> dict[str, Any]:
        """What decides the content of the run."""
        weights = [t.tolist() for t in self.agent.state_dict().values()] if self.agent and strategy in AGENT else []
        hashes = {name: problem_set_hash(problems) for name, problems in self.problems.items()}
        return {"solve": strategy, **settings.decisive(self.config), "agent": runs.stable_hash(*weights), **hashes}

    def policy(self, run: runs.Run, strategy: str, world: Any, state: Any, report: Any) -> Any:
        if strategy in AGENT:
            return core.policies(self.config, self.agent)[strategy], {}
        return super().policy(run, strategy, world, state, report)

    def play(self, run: runs.Run, report: Callable[[str], object]) -> None:
        """Every task once, from where the run was left, with a line when one is done with."""
        state = run.state or {"update": 0, "memory": [], "evaluated": {}}
        world = self.world(run, "eval", self.strategy)
        choose, _ = self.policy(run, self.strategy, world, state, report)
        world.memory.entries = list(state["memory"])

        def told(name: str, row: dict[str, Any]) -> None:
            run.log(name, row)
            made = row["attempt"] + (name == "attempts")
            solved = name == "attempts" and all(row["visible_mask"])
            if row["task_id"] not in reported and (solved or name == "stops" or made == world.config.max_steps):
                reported.add(row["task_id"])
                verdict = "passes its asserts" if solved else "given up" if name == "stops" else "not solved"
                report(f"task {row['task_id']}: {verdict} after {made} generation{'s' * (made > 1)}")

        reported = set[int]()
        world.log = told
        look = "next" if self.strategy in (*AGENT, "bandit") else "none"
        core.evaluate_policy(run, world, choose, state, look, report=lambda line: None)

    def attempts(self, run: runs.Run) -> list[tuple[Problem, list[scoring.Row]]]:
        """Each task with what was tried on it."""
        rows = [row for row in run.rows("attempts") if row["phase"] == "eval"]
        groups = scoring.by_problem(rows)
        return [(task, groups[task.task_id]) for task in self.problems["eval"]]


def _solution(task: Problem, rows: Sequence[scoring.Row]) -> dict[str, Any]:
    final, actions = scoring.submitted(rows), list(core.ACTIONS)
    return {
        "task_id": task.task_id,
        "solved": all(final["full_mask"]),
        "program": final["code"],
        "asserts": [list(pair) for pair in zip(task.tests + task.challenge_tests, final["outcomes"], strict=True)],
        "attempts": [
            {
                "action": actions[row["action"]],
                "prompt": row["prompt"],
                "program": row["code"],
                "outcomes": row["outcomes"],
                "feedback": row["feedback"],
            }
            for row in rows
        ],
        "cost": scoring.cost(rows),
    }


def _write(folder: Path, solutions: Sequence[dict[str, Any]], tasks: Sequence[Problem], preamble: str) -> None:
    """The solutions, and each program as a file that runs by itself: with all that the sandbox runs beside it."""
    lines = "".join(runs.well_formed(json.dumps(row, ensure_ascii=False)) + "\n" for row in solutions)
    runs.write_atomically(folder / "solutions.jsonl", lines.encode())
    (folder / "programs").mkdir(exist_ok=True)
    for task, row in zip(tasks, solutions, strict=True):
        path = folder / "programs" / f"{task.task_id}_{task.entry_point}.py"
        parts = (preamble, task.program(row["program"]).code, task.setup)
        runs.write_atomically(path, ("\n\n".join(part.strip("\n") for part in parts if part) + "\n").encode())


def table(solutions: Sequence[dict[str, Any]]) -> str:
    """A line for each task, and how many are solved for how many tokens."""
    lines = [f"{'task':>8s}  {'solved':6s} {'asserts':>7s} {'generations':>11s} {'tokens':>8s}"]
    for row in solutions:
        passed, cost = sum(outcome == "pass" for _, outcome in row["asserts"]), row["cost"]
        tokens = cost["code_tokens"] + cost["rewriter_tokens"]
        shares = f"{passed}/{len(row['asserts'])}"
        verdict = "yes" if row["solved"] else "no"
        lines.append(f"{row['task_id']:8d}  {verdict:6s} {shares:>7s} {cost['generations']:11d} {tokens:8d}")
    lines.append(f"{sum(row['solved'] for row in solutions)} of {len(solutions)} solved")
    return "\n".join(lines)
