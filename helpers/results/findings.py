"""What the figures of notebook 04 draw, and the one sentence that says what each shows; figures compute nothing.

Shares are in [0, 1], and in per cent or points in sentences. ``draws``: bootstrap seed and number of resamples.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import runs, scoring, statistics
from .runs import AGENT, RESAMPLING, TITLES, Column, Entry, RunDir

Curves = dict[str, list[dict[str, float]]]  # by row title, one point a budget
Counts = dict[str, dict[int, list[int]]]  # by group and seed, how often each action was picked
LEAST = 5  # choices that a bar needs

# Budget


def budget_curves(column: Column, seed: int, resamples: int) -> Curves:
    """Pass@1 with its interval, and tokens per problem, at each number of generations allowed, by strategy.

    A run that went on past the budget has its further points too.
    """
    curves: Curves = {}
    for name, entry in column.entries.items():
        points = curves[TITLES[name]] = []
        for budget in range(1, max(entry.budget, entry.longest) + 1):
            solved = entry.solved(budget)
            low, high = statistics.share_interval(solved, seed, resamples)
            values = {"pass_at_1": solved.mean(), "low": low, "high": high, "tokens": entry.tokens(budget)}
            points.append({"budget": budget, **values})
    return curves


def budget_says(column: Column) -> str:
    """The best row, of several the cheapest, the agent and its best control at the full budget, with what they cost."""
    best = max(column.entries, key=lambda n: (column.entries[n].solved().mean(), -column.entries[n].tokens()))
    names = dict.fromkeys([best, AGENT, column.best_control()])
    said = [
        f"{TITLES[name]} solves {_share(entry.solved().mean())} for {entry.tokens():.0f} tokens a problem"
        for name in names
        if name and (entry := column.entries.get(name))
    ]
    return f"With all generations allowed, {said[0]}, no row more{''.join(f'; {words}' for words in said[1:])}."


# Learning


def learning_says(metrics: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """How far the solved share moved between the first and the last quarter of the updates, seed by seed."""
    moved = {}
    for seed, rows in metrics.items():
        solved, quarter = [row["solved_visible"] for row in rows], max(1, len(rows) // 4)
        moved[seed] = 100 * (np.mean(solved[-quarter:]) - np.mean(solved[:quarter]))
    each = ", ".join(f"{points:+.1f} (seed {seed})" for seed, points in moved.items())
    return f"From the first to the last quarter of the updates the solved share moves by {each} points."


# Actions


def action_counts(entry: Entry) -> tuple[list[str], Counts, Counts]:
    """Names of the actions, and how often each was picked by step, and by the kind of error seen before, of each seed.

    Giving a problem up is a pick too, at the step at which it was not tried again.
    """
    labels, names = entry.runs[entry.seeds[0]].labels, entry.runs[entry.seeds[0]].actions
    numbers = [list(labels).index(name) for name in names]
    steps: Counts = {}
    errors: Counts = {kind: {} for kind in runs.KINDS}

    def count(groups: Counts, group: str, seed: int, action: int) -> None:
        groups.setdefault(group, {}).setdefault(seed, [0] * len(numbers))[numbers.index(action)] += 1

    for seed in entry.seeds:
        stops = {row["task_id"] for row in entry.runs[seed].stops if row["strategy"] == entry.strategy}
        for task, attempts in entry.attempts[seed].items():
            actions = [row["action"] for row in attempts] + [list(labels).index("stop")] * (task in stops)
            for step, action in enumerate(actions):
                count(steps, str(step + 1), seed, action)
                if step:  # visible asserts come first, and one of them failed
                    count(errors, runs.failure(attempts[step - 1]["outcomes"]), seed, action)
    by_step = dict(sorted(steps.items(), key=lambda item: int(item[0])))
    return [labels[name] for name in names], by_step, {kind: found for kind, found in errors.items() if found}


def enough(groups: Counts) -> Counts:
    """The bars that are drawn: those of ``LEAST`` choices and more."""
    kept = {
        group: {s: counts for s, counts in seeds.items() if sum(counts) >= LEAST} for group, seeds in groups.items()
    }
    return {group: seeds for group, seeds in kept.items() if seeds}


def actions_say(names: Sequence[str], steps: Counts, errors: Counts) -> str:
    """What each seed picks most, how far it heeds the kind of error, and what is not drawn."""
    said = []
    for seed in sorted({seed for seeds in steps.values() for seed in seeds}):
        total = np.sum([seeds[seed] for seeds in steps.values() if seed in seeds], axis=0)
        shares = [np.array(seeds[seed]) / sum(seeds[seed]) for seeds in enough(errors).values() if seed in seeds]
        heeds = f"{100 * np.ptp(shares, axis=0).max():.0f} points" if len(shares) > 1 else "not known"
        most = int(total.argmax())
        said.append(f"seed {seed}: {names[most]} {_share(total[most] / total.sum())}, {heeds}")
    small = sum(sum(counts) < LEAST for groups in (steps, errors) for s in groups.values() for counts in s.values())
    left_out = f" {small} bars of fewer than {LEAST} choices are left out." if small else ""
    return (
        "What a seed picks most, and the largest difference that the kind of error makes to the share of an action: "
        f"{'; '.join(said)}.{left_out}"
    )


# Edits


@dataclass(frozen=True)
class Turn:
    """One problem on which a single edit and the prompt as it stands end differently, with the same random numbers."""

    action: str
    seed: int
    direct: runs.Row
    edited: runs.Row

    @property
    def better(self) -> bool:
        return all(self.edited["scored_mask"])

    def __str__(self) -> str:
        """Both prompts, changed words in brackets, and both programs; empty if their texts were not kept."""
        if "prompt" not in self.direct or "prompt" not in self.edited:
            return ""
        before, after = (row["prompt"].split() for row in (self.direct, self.edited))
        marked: list[str] = []
        for kind, *_, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            marked += after[start:end] if kind == "equal" else [f"[{' '.join(after[start:end])}]"]
        how = "failure into success" if self.better else "success into failure"
        programs = (f"{name}:\n{row['code']}" for name, row in (("direct", self.direct), ("edited", self.edited)))
        head = f"{runs.ACTIONS[self.action]}, {how} (problem {self.direct['task_id']}, seed {self.seed})"
        return "\n".join([head, f"  {self.direct['prompt']}", f"  {' '.join(marked)}", *programs])


def turns(column: Column) -> dict[str, tuple[int, list[Turn]]]:
    """By single edit: how many first attempts stand beside the direct one, and those that end differently."""
    found = {}
    direct = column.entries.get("direct")
    for name in ("mutation", "rewriting"):
        edit = column.entries.get(name)
        seeds = [seed for seed in edit.seeds if seed in direct.seeds] if edit and direct else []
        if edit and direct and seeds:
            pairs = [(s, direct.attempts[s][t][0], edit.attempts[s][t][0]) for s in seeds for t in edit.task_ids]
            found[name] = (
                len(pairs),
                [
                    Turn(name, seed, before, after)
                    for seed, before, after in pairs
                    if all(before["scored_mask"]) != all(after["scored_mask"])
                ],
            )
    return found


def edits_say(column: Column) -> Iterator[str]:
    """How often an edit turned failure into success and back, one example of each, and the agent's retries by action."""
    for name, (pairs, found) in turns(column).items():
        better = [turn for turn in found if turn.better]
        worse = [turn for turn in found if not turn.better]
        yield (
            f"{column.title}: {runs.ACTIONS[name]} in place of the prompt as it stands turns {len(better)} of {pairs} "
            f"first attempts from failure into success, and {len(worse)} back."
        )
        examples = [next((text for turn in turned if (text := str(turn))), "") for turned in (better, worse)]
        yield from filter(None, examples)
        if found and not any(examples):
            yield "No example is shown: these runs were kept without their prompts and programs."
    if agent := column.entries.get(AGENT):
        retries: dict[int, list[bool]] = {}
        for row in (row for row in agent.rows() if row["attempt"]):
            retries.setdefault(row["action"], []).append(all(row["scored_mask"]))
        names = list(agent.runs[agent.seeds[0]].labels.values())
        words = (f"{names[action]} {sum(ok)} of {len(ok)}" for action, ok in sorted(retries.items()))
        if retries:
            yield (
                f"{column.title}: after a failure of the agent, its next attempt is right by {', '.join(words)}; back "
                "cannot be seen there, since an episode ends at its first visible pass."
            )


# Failures


def failure_shares(column: Column) -> dict[str, list[dict[str, float]]]:
    """By strategy, of each seed: share of problems whose submission is right ("") and of each kind of its first failure."""
    shares = {}
    for name, entry in column.entries.items():
        kinds = [
            [runs.failure(row["outcomes"][: len(row["scored_mask"])]) for row in rows] for rows in entry.submissions()
        ]
        shares[TITLES[name]] = [{kind: seed.count(kind) / len(seed) for kind in ("", *runs.KINDS)} for seed in kinds]
    return shares


def failures_say(column: Column) -> str:
    """The most common failure of the agent and of its best control."""
    shares = failure_shares(column)
    names = [TITLES[name] for name in (AGENT, column.best_control()) if name in column.entries]
    said = []
    for name in names or list(shares)[:1]:
        failed = {kind: float(np.mean([seed[kind] for seed in shares[name]])) for kind in runs.KINDS}
        worst = max(failed, key=failed.__getitem__)
        said.append(f"{name} fails most by {worst} ({_share(failed[worst])} of the problems)")
    return f"{'; '.join(said)}."


# Visible and hidden


def gaps(column: Column, seed: int, resamples: int) -> dict[str, tuple[float, float, float, tuple[float, float]]]:
    """By strategy: share that passes all visible asserts, share that passes all asserts, the gap and its interval.

    The gap is a share too, of problems that only look solved.
    """
    found = {}
    for name, entry in column.entries.items():
        visible, everything = entry.looks_solved()
        only = visible - everything
        interval = statistics.share_interval(only, seed, resamples)
        found[TITLES[name]] = (float(visible.mean()), float(everything.mean()), float(only.mean()), interval)
    return found


def gaps_say(found: Mapping[str, tuple[float, float, float, tuple[float, float]]]) -> str:
    """The widest and the narrowest gap, and the agent's."""
    by_gap = sorted(found, key=lambda name: found[name][2])
    most, least, agent = by_gap[-1], by_gap[0], TITLES[AGENT]
    said = f"Look solved and are not: most problems of {most}, {_share(found[most][2])}, fewest of {least}, {_share(found[least][2])}"
    return f"{said}; of {agent}, {_share(found[agent][2])}." if agent in found else f"{said}."


# Resampling


def coverage(column: Column) -> list[tuple[int, float, float]]:
    """Draws k of resampling, and bounds of the share of problems of which any of k draws is right.

    Resampling stops at its first visible pass. A draw that is right passes the visible asserts too, so of the draws that
    were made only the last can be right: the lower bound is Pass@1 with k draws. What further draws would have been is
    not known where it stopped at a wrong program: the upper bound counts these, and is the share with a visible pass.
    """
    draws = column.entries.get(RESAMPLING)
    budgets = range(1, draws.longest + 1) if draws else ()
    return [(k, float(draws.solved(k).mean()), float(draws.looks_solved(k)[0].mean())) for k in budgets if draws]


def coverage_says(bounds: Sequence[tuple[int, float, float]]) -> str:
    """Where coverage starts and ends."""
    (_, first, _), (k, low, high) = bounds[0], bounds[-1]
    ends = f"at {_share(low)}" if high == low else f"between {_share(low)} and {_share(high)}"
    return f"One draw is right for {_share(first)} of the problems; {k} draws cover {ends}."


def bank_curves(bank: RunDir, seed: int, resamples: int) -> dict[str, list[tuple[int, float, float, float]]]:
    """By action, (k, pass@k, low, high) from the bank's first attempts, draws that no pass has stopped.

    Unbiased for each problem (arXiv 2107.03374), mean over the problems, bootstrap interval over them.
    """
    curves = {}
    first = [row for row in bank.before if row["phase"] == runs.BANK and row["attempt"] == 0]
    for number, name in enumerate(bank.labels.values()):
        groups: dict[int, list[bool]] = {}
        for row in (row for row in first if row["action"] == number):
            groups.setdefault(row["task_id"], []).append(all(row["scored_mask"]))
        points = []
        for k in range(1, min(map(len, groups.values()), default=0) + 1):
            each = [[scoring.pass_at_k(len(right), sum(right), k) for right in groups.values()]]
            points.append((k, float(np.mean(each)), *statistics.bootstrap_interval(each, seed, resamples)))
        if points:
            curves[name] = points
    return curves


def bank_says(banks: Mapping[str, Mapping[str, Sequence[tuple[int, float, float, float]]]]) -> str:
    """pass@1 and the last pass@k of each action, for each bank by its name."""
    lines = []
    for title, curves in banks.items():
        said = (
            f"{name} {_share(points[0][1])}, pass@{points[-1][0]} {_share(points[-1][1])}"
            for name, points in curves.items()
        )
        lines.append(f"{title}: {', '.join(said)}.")
    return f"Solved in the bank, on training problems. {' '.join(lines)}" if lines else ""


def bank_numbers(bank: RunDir) -> Iterator[str]:
    """The numbers that the bank's run reports of itself, one line each."""
    for name, value in bank.summary.get("bank", {}).items():
        yield f"{name}: {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
