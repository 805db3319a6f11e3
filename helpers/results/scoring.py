"""Scores from attempts: what is submitted, Pass@1, SoftPass@1, intervals, solved share against budget, pass@k.

An attempt is a row of ``attempts.jsonl``: ``task_id``, ``attempt`` (0, 1, ...), ``visible_mask``, ``scored_mask``,
``code`` and costs. Masks are lists of 0/1, one entry per assert.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

from ..runs import well_formed

Row = Mapping[str, Any]
COLUMNS = ("prompt_id", "passed_testcases", "pass_at_1", "pass_at_1_mean", "generated_code")
COSTS = ("generations", "rewriter_calls", "code_tokens", "rewriter_tokens")
EXTRA = ("scored_testcases", "solved", "soft", "attempts", "action", "prompt")


def by_problem(rows: Iterable[Row], budget: int | None = None) -> dict[int, list[Row]]:
    """Attempts grouped by ``task_id`` in order of attempt, the first ``budget`` of each."""
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["task_id"]].append(row)
    return {task: sorted(group, key=lambda r: r["attempt"])[:budget] for task, group in groups.items()}


def solved_by_edit(episodes: Iterable[list[Row]], texts: Mapping[int, str]) -> list[list[Row]]:
    """The episodes of several attempts whose last one passes all scored asserts, with a prompt other than the task's text."""
    return [
        rows
        for rows in episodes
        if len(rows) > 1 and all(rows[-1]["scored_mask"]) and rows[-1]["prompt"] != texts[rows[-1]["task_id"]]
    ]


def share(mask: Sequence[int]) -> float:
    """Share of asserts passed, 0 for none."""
    return sum(mask) / len(mask) if mask else 0.0


def submitted(attempts: Sequence[Row]) -> Row:
    """The one program that a strategy hands in: best visible score, the earliest on ties.

    A method that chooses otherwise says so in the last row: ``hands_in`` is the number of that attempt (EPiC's public
    variant, and Reflexion with tests of its own, in notebook 03).
    """
    if "hands_in" in (last := max(attempts, key=lambda r: r["attempt"])):
        return next(row for row in attempts if row["attempt"] == last["hands_in"])
    return max(attempts, key=lambda r: (share(r["visible_mask"]), -r["attempt"]))


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a binomial proportion (Wilson 1927), as two shares."""
    if n == 0:
        return (0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, z2 = successes / n, z * z
    centre, half = p + z2 / (2 * n), z * ((p * (1 - p) + z2 / (4 * n)) / n) ** 0.5
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return (low if successes else 0.0, high if successes < n else 1.0)  # there the formula is off by a rounding error


def score(rows: Iterable[Row], task_ids: Sequence[int], budget: int | None = None) -> dict[str, Any]:
    """Scores of one strategy over exactly ``task_ids``; raises ``ValueError`` when a problem is missing or extra.

    Shares are in [0, 1].
    """
    groups = by_problem(rows, budget)
    if set(groups) != set(task_ids) or len(set(task_ids)) != len(task_ids):
        missing, extra = sorted(set(task_ids) - set(groups)), sorted(set(groups) - set(task_ids))
        raise ValueError(f"attempts do not cover the problem list: missing {missing[:10]}, extra {extra[:10]}")
    final = {task: submitted(group) for task, group in groups.items()}
    n, used = len(task_ids), [row for group in groups.values() for row in group]
    solved = sum(all(row["scored_mask"]) for row in final.values())
    return {
        "n": n,
        "solved": solved,
        "pass_at_1": solved / n,
        "pass_at_1_interval": wilson(solved, n),
        "soft_pass_at_1": fmean(share(row["scored_mask"]) for row in final.values()),
        "visible_pass": sum(all(row["visible_mask"]) for row in final.values()) / n,
        "budget": budget if budget is not None else max(len(group) for group in groups.values()),
        **cost(used),
    }


def cost(rows: Iterable[Row]) -> dict[str, int]:
    """What attempts cost: generations, calls of the rewriter, and the tokens of both models, prompts included."""
    rows = list(rows)
    code = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    rewriter = sum(row["rewriter_prompt_tokens"] + row["rewriter_completion_tokens"] for row in rows)
    return dict(zip(COSTS, (len(rows), sum(row["rewriter_calls"] for row in rows), code, rewriter), strict=True))


def pass_at_k(draws: int, right: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of ``k`` draws is right (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    ``right`` of ``draws`` independent draws were: one less the share of the sets of k of them without a right one.
    """
    if not 0 <= right <= draws or not 1 <= k <= draws:
        raise ValueError(f"pass@{k} cannot be estimated from {right} right of {draws} draws")
    return 1 - math.comb(draws - right, k) / math.comb(draws, k)


def budget_curve(rows: Iterable[Row], task_ids: Sequence[int], budget: int) -> list[dict[str, Any]]:
    """:func:`score` at budgets 1..``budget``: had the strategy been stopped after that many generations a problem."""
    rows = list(rows)
    return [score(rows, task_ids, b) for b in range(1, budget + 1)]


def table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Scores by strategy as text, one line each, with the 95 % Wilson interval of Pass@1 and the costs."""
    head = f"{'strategy':18s} {'budget':>6s} {'Pass@1':>7s}  {'95 % interval':15s} {'SoftPass@1':>10s}"
    lines = [f"{head} {'generations':>11s} {'rewriter calls':>14s} {'tokens':>8s}"]
    for name, s in scores.items():
        low, high = s["pass_at_1_interval"]
        interval = f"[{low:.1%}, {high:.1%}]"
        line = f"{name:18s} {s['budget']:6d} {s['pass_at_1']:7.1%}  {interval:15s} {s['soft_pass_at_1']:10.1%}"
        tokens = s["code_tokens"] + s["rewriter_tokens"]
        lines.append(f"{line} {s['generations']:11d} {s['rewriter_calls']:14d} {tokens:8d}")
    return "\n".join(lines)


def results_csv(rows: Iterable[Row]) -> str:
    """``results.csv``: one row per problem, the published columns first, code escaped onto one line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow((*COLUMNS, *EXTRA))
    for task, attempts in sorted(by_problem(rows).items()):
        row = submitted(attempts)
        mask, scored = row["test_mask"], row["scored_mask"]
        code = row["code"].replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        published = (task, json.dumps(mask), int(all(mask)), f"{sum(mask)}/{len(mask)}", code)
        ours = (
            json.dumps(scored),
            int(all(scored)),
            f"{share(scored):.4f}",
            len(attempts),
            row["action"],
            row["prompt"],
        )
        writer.writerow((*published, *ours))
    return well_formed(buffer.getvalue())
