"""Run directories with known attempts, written by the real ``Run`` class; no model is involved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ppo_codet5.helpers.results import scoring
from ppo_codet5.helpers.runs import Run

TASKS = list(range(3001, 3021))
SETTINGS: dict[str, Any] = {
    "problems": "starter",
    "eval_split": "test",
    "eval_limit": None,
    "visible_tests": 1,
    "code_model": "smollm2-135m",
    "rewriter_model": "smollm2-135m",
    "max_steps": 4,
    "temperature": 0.4,
    "top_p": 0.9,
    "max_new_tokens": 48,
    "preamble": "",
    "timeout_seconds": 2.0,
    "max_episodes": 24,
    "learning_rate": 1e-3,
    "num_envs": 8,
    "scored": "hash of the problems",
    "train": "hash of the training problems",
}
FAILURES = ("wrong_value", "exception", "compile_error", "timeout")


def attempt(strategy: str, seed: int, task: int, number: int, outcomes: list[str], **more: Any) -> dict[str, Any]:
    """A row as notebook 01 writes it, with one visible assert and all asserts scored; ``more`` replaces entries."""
    mask = [int(outcome == "pass") for outcome in outcomes]
    row: dict[str, Any] = {
        "phase": "eval",
        "strategy": strategy,
        "seed": seed,
        "task_id": task,
        "visit": 0,
        "attempt": number,
        "action": 0,
        "prompt": "Write a function.",
        "code": "def f(): pass",
        "extraction": "",
        "finish_reason": "stop",
        "visible_mask": mask[:1],
        "test_mask": mask[:3],
        "scored_mask": mask,
        "full_mask": mask,
        "outcomes": outcomes,
        "feedback": "f() fails.",
        "prompt_tokens": 70,
        "completion_tokens": 30,
        "rewriter_calls": 0,
        "rewriter_prompt_tokens": 0,
        "rewriter_completion_tokens": 0,
    }
    return row | more


def simulated(strategy: str, seed: int, tasks: list[int], steps: int, skill: float) -> list[dict[str, Any]]:
    """Attempts of one strategy, drawn from the seed: each problem until its visible assert passes or ``steps``."""
    rows = []
    rng = np.random.default_rng([seed, *strategy.encode()])
    for task in tasks:
        hardness = np.random.default_rng(task).normal()
        for number in range(steps):
            right = rng.random() < 1 / (1 + np.exp(hardness - skill))
            lucky = rng.random() < 0.15  # the visible assert alone passes
            failed = [FAILURES[rng.choice(4, p=[0.55, 0.25, 0.15, 0.05])]] * 6
            outcomes = ["pass"] * 6 if right else ["pass", *["wrong_value"] * 5] if lucky else failed
            action = int(rng.integers(3))
            calls = {"rewriter_calls": 1, "rewriter_prompt_tokens": 90, "rewriter_completion_tokens": 25}
            rows.append(
                attempt(strategy, seed, task, number, outcomes, action=action, **(calls if action == 2 else {}))
            )
            if right or lucky:
                break
    return rows


def draws(tasks: list[int], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a bank: ``count`` draws of the first three actions as first attempts, and after a failed direct one."""
    rng, rows = np.random.default_rng(seed), []
    for task in tasks:
        chance = np.random.default_rng(task).random()
        for visit in range(count):
            for action in range(3):
                for number in range(2):
                    outcomes = ["pass" if rng.random() < chance else "wrong_value"] * 6
                    after = {"after": 0} if number else {}
                    row = attempt("bank", seed, task, number, outcomes, phase="bank", visit=visit, action=action)
                    rows.append(row | after)
    return rows


def make_run(
    path: Path,
    strategy: str,
    seed: int = 0,
    rows: list[dict[str, Any]] | None = None,
    skill: float = 0.0,
    record: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    finish: bool = True,
    stops: tuple[dict[str, Any], ...] = (),
    **settings: Any,
) -> Path:
    """One run directory; ``rows`` are its attempts, simulated with ``skill`` if not given."""
    values = {**SETTINGS, "task_ids": TASKS, **settings}
    names = ("ppo", "ppo_sampled") if strategy == "ppo" else (strategy,)
    steps = 1 if strategy in ("direct", "mutation", "rewriting") else values["max_steps"]
    if rows is None:
        rows = [row for name in names for row in simulated(name, seed, values["task_ids"], steps, skill)]
    record = {"code": {"name": "smollm2-135m", "revision": "1"}, "sandbox": "limits", **(record or {})}
    with Run(path, {"strategy": strategy, "seed": seed, **values}, record) as run:
        if strategy == "ppo":
            rng = np.random.default_rng(seed)
            for update in range(12):
                solved = 0.3 + 0.02 * update + 0.05 * rng.normal()
                log = {"update": update + 1, "episodes": 12 * (update + 1), "steps": 25}
                run.log("metrics", {**log, "solved_visible": solved, "mean_return": 2 * solved - 0.3})
            run.log("attempts", {**attempt("ppo", seed, 1, 0, ["pass"]), "phase": "train"})
        for row in rows:
            run.log("attempts", row)
        for row in stops:
            run.log("stops", row)
        if finish:
            scored = [row for row in rows if row["phase"] == "eval"]
            by_name = {n: [r for r in scored if r["strategy"] == n] for n in names}
            scores = {n: scoring.score(its, values["task_ids"], steps) for n, its in by_name.items() if its}
            run.finish({"strategy": strategy, "scores": scores, **(summary or {})})
    return path


def make_all(root: Path, tasks: list[int] = TASKS, seeds: int = 3, **settings: Any) -> Path:
    """Every row of the table without "stop", the learned and the random ones with ``seeds`` seeds."""
    skills = {"ppo": 0.3, "random": -0.3, "resampling": 0.1, "bandit": 0.2, "fixed_action": 0.0, "schedule": 0.1}
    skills["mixture"] = 0.0
    for strategy in (*skills, "direct", "mutation", "rewriting", "epic", "reflexion"):
        own = {"own_settings": {"temperature": 0.9}} if strategy == "epic" else {}
        cost = (
            {"selection_cost": {"generations": 120, "tokens": 9000}} if strategy in ("schedule", "fixed_action") else {}
        )
        cost |= {"training_cost": {"generations": 500, "tokens": 40000}} if strategy in ("ppo", "bandit") else {}
        for seed in range(seeds if strategy in ("ppo", "random", "bandit", "resampling") else 1):
            values = {"task_ids": tasks, **own, **settings}
            make_run(
                root / f"{strategy}_{seed}", strategy, seed, skill=skills.get(strategy, -0.2), summary=cost, **values
            )
    return root
