"""The results table: numbers against an independent count, what may stand in one column, and notebook 04 as it runs."""

from __future__ import annotations

import ast
import csv
import gzip
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
from made_runs import SETTINGS, TASKS, attempt, draws, make_all, make_run, simulated
from ppo_codet5.helpers.results import figures, findings, scoring, statistics, tables
from ppo_codet5.helpers.results import runs as results
from ppo_codet5.helpers.runs import RunError
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from ppo_codet5 import cli
from ppo_codet5.notebooks import cell_of
from ppo_codet5.reproduce import about, command_of, keep
from ppo_codet5.running import execute

ROOT = Path(__file__).resolve().parent.parent
DRAWS = {"seed": 0, "resamples": 500}
ROWS = [name for name in results.TITLES if name != "stopping"]  # what there is without "stop"


def read(*folders: Path) -> tuple[list[results.Column], list[str]]:
    """Columns, and all sentences on what is in none."""
    runs, notes = results.collect(";".join(map(str, folders)))
    columns, more = results.columns(runs)
    return columns, [*notes, *more]


# Numbers


def counted(path: Path, strategy: str, budget: int) -> tuple[list[int], list[float]]:
    """Solved and soft score of each problem, from the file alone: none of the project's code is used."""
    best: dict[int, tuple[float, int, list[int]]] = {}
    for line in (path / "attempts.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["phase"] == "eval" and row["strategy"] == strategy and row["attempt"] < budget:
            key = (sum(row["visible_mask"]) / len(row["visible_mask"]), -row["attempt"], row["scored_mask"])
            best[row["task_id"]] = max(best.get(row["task_id"], (-1.0, 0, [])), key, key=lambda k: k[:2])
    masks = [best[task][2] for task in TASKS]
    return [int(0 not in mask) for mask in masks], [sum(mask) / len(mask) for mask in masks]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_all(tmp_path_factory.mktemp("runs"))


def test_scores_against_an_independent_count(everything):
    (column,), notes = read(everything)
    assert notes == [] and list(column.entries) == ROWS == column.strategies
    found = tables.scores([column], [], **DRAWS)[column.title]
    for name, entry in column.entries.items():
        budget = 1 if name in ("direct", "mutation", "rewriting") else SETTINGS["max_steps"]
        folder = name.replace("_sampled", "")
        counts = [counted(everything / f"{folder}_{seed}", name, budget) for seed in entry.seeds]
        pass_at_1, soft = found[results.TITLES[name]]
        assert pass_at_1.value == pytest.approx(fmean(fmean(solved) for solved, _ in counts))
        assert soft.value == pytest.approx(fmean(fmean(soft) for _, soft in counts))
        assert (pass_at_1.n, pass_at_1.seeds) == (len(TASKS), len(counts)) == (soft.n, soft.seeds)
        low, high = pass_at_1.interval
        if len(counts) == 1:
            assert (low, high) == pytest.approx(proportion_confint(sum(counts[0][0]), len(TASKS), method="wilson"))
        assert low <= pass_at_1.value <= high and soft.interval[0] <= soft.value <= soft.interval[1]
    seeds = {name: entry.seeds for name, entry in column.entries.items()}
    assert seeds["ppo"] == seeds["ppo_sampled"] == seeds["random"] == [0, 1, 2] and seeds["epic"] == [0]


def test_tests_against_statsmodels(everything):
    (column,), _ = read(everything)
    found = tables.comparisons([column], **DRAWS)
    assert [c.strategy for c in found] == [name for name in ROWS if name != "ppo"]
    for c in found:
        folder, budget = c.strategy.replace("_sampled", ""), column.entries[c.strategy].budget
        pairs = [
            (counted(everything / f"ppo_{seed}", "ppo", 4)[0], counted(everything / f"{folder}_{seed}", c.strategy, budget)[0])
            for seed in c.seeds
        ]  # fmt: skip
        if len(c.seeds) == 1:
            cross = Counter(zip(*pairs[0], strict=True))
            table = [[cross[1, 1], cross[1, 0]], [cross[0, 1], cross[0, 0]]]
            assert (c.wins, c.losses) == (cross[1, 0], cross[0, 1])
            assert c.p == pytest.approx(mcnemar(table, exact=True).pvalue if c.wins + c.losses else 1)
        else:
            sums = [sum(a[i] - b[i] for a, b in pairs) for i in range(len(TASKS))]
            assert (c.wins, c.losses) == (sum(s > 0 for s in sums), sum(s < 0 for s in sums))
        assert c.difference == pytest.approx(fmean(fmean(a) - fmean(b) for a, b in pairs))
        assert c.interval[0] <= c.difference <= c.interval[1]
    adjusted = multipletests([c.p for c in found], method="holm")[1]
    shown = [row[-1] for row in tables.comparison_table(found).rows]
    assert shown == ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in adjusted]
    tests = {row[2]: row[-3] for row in tables.comparison_table(found).rows}
    assert tests == {"20": "McNemar", "20 x 3 seeds": "sign test"}


def rows_of(strategy: str, *problems: list[list[str]], **more: Any) -> list[dict]:
    """Attempts with these outcomes, problem by problem; the last attempt of each has action 2."""
    return [
        attempt(strategy, 0, task, i, outcomes, **({"action": 2 * (i == len(tries) - 1)} | more))
        for task, tries in enumerate(problems, 1)
        for i, outcomes in enumerate(tries)
    ]


P, W, X, C, T, N = "pass", "wrong_value", "exception", "compile_error", "timeout", "not_run"


@pytest.fixture
def four(tmp_path):
    """The agent on four problems: solved at once; solved at the second try; only looks solved; never."""
    outcomes = [[[P, P, P]], [[X, X, X], [P, P, P]], [[T, N, N], [P, P, W]], [[C, C, C], [W, P, P], [W, W, W]]]
    rows = rows_of("ppo", *outcomes) + rows_of("ppo_sampled", *outcomes)
    make_run(tmp_path / "ppo", "ppo", rows=rows, task_ids=[1, 2, 3, 4], max_steps=3)
    return tmp_path


def test_requests_that_another_row_makes_too(tmp_path):
    """Of two problems: resampling asks the original twice; the agent edits, then draws; EPiC's one is greedy."""
    for name, prompts in {
        "ppo": ("edited", "plain"),
        "resampling": ("plain", "plain"),
        "epic": ("plain", "plain"),
    }.items():
        rows = [
            {**attempt(name, 0, task, i, [W, P, P]), "prompt": prompt}
            for task, many in ((1, prompts), (2, ("plain",)))
            for i, prompt in enumerate(many)
        ]
        own = {"own_settings": {"temperature": 0.0}} if name == "epic" else {}
        make_run(tmp_path / name, name, rows=rows, task_ids=[1, 2], max_steps=2, **own)
    (column,), _ = read(tmp_path)
    rows = {row[0]: row[1:] for row in tables.shared_table([column]).rows}
    assert rows["RL Agent (PPO)"] == ["3", "67", "-", "67"]
    assert rows["I.i.d. resampling"] == ["3", "67", "67", "-"]
    assert rows["EPiC"] == ["3", "0", "0", "0"]


def test_a_small_case_by_hand(four):
    (column,), _ = read(four)
    entry = column.entries["ppo"]
    assert entry.solved().tolist() == [[1, 1, 0, 0]] and entry.solved(1).tolist() == [[1, 0, 0, 0]]
    assert entry.soft()[0] == pytest.approx([1, 1, 2 / 3, 0])
    (shares,) = findings.failure_shares(column)["RL Agent (PPO)"]
    assert shares == {"": 0.5, "syntax": 0.25, "error": 0, "wrong answer": 0.25, "time-out": 0}
    gaps = findings.gaps(column, **DRAWS)
    assert gaps["RL Agent (PPO)"][:3] == (0.75, 0.5, 0.25)
    assert findings.gaps_say(gaps).endswith("of RL Agent (PPO), 25.0 %.")
    names, steps, errors = findings.action_counts(entry)
    assert names == ["direct generation", "genetic mutation", "semantic rewriting"]
    assert steps == {"1": {0: [3, 0, 1]}, "2": {0: [1, 0, 2]}, "3": {0: [0, 0, 1]}}
    seen = {"syntax": [1, 0, 0], "error": [0, 0, 1], "wrong answer": [0, 0, 1], "time-out": [0, 0, 1]}
    assert errors == {kind: {0: counts} for kind, counts in seen.items()} and findings.enough(steps) == {}
    assert "seed 0: direct generation 50.0 %" in findings.actions_say(names, steps, errors)
    assert "7 bars of fewer than 5 choices are left out" in findings.actions_say(names, steps, errors)
    assert [p["tokens"] for p in findings.budget_curves(column, **DRAWS)["RL Agent (PPO)"]] == [100, 175, 200]
    assert findings.budget_says(column).startswith(
        "With all generations allowed, RL Agent (PPO) solves 50.0 % for 200 tok"
    )
    assert tables.cost_table([column]).rows[1][1:] == ["3", "2.00", "0.00", "200", "300 generations"]
    # One of three tried again is solved, then none of one.
    assert tables.retry_table([column]).rows[1][1:] == ["25.0", "+25.0 (33)", "+0.0 (0)"]
    assert tables.seed_table([column]).rows[1][1:] == ["**50.0**", "**50.0**", "-"]  # one seed
    difficulty = tables.difficulty_table([column])
    assert [row[1:] for row in difficulty.rows[:2]] == [["n = 2", "n = 0", "n = 2"], ["**0.0**", "-", "**100.0**"]]
    (said,) = findings.edits_say(column)  # no single edits, three attempts after a failure by action 2, one by 0
    assert "direct generation 0 of 1, semantic rewriting 1 of 3" in said
    assert findings.failures_say(column) == "RL Agent (PPO) fails most by syntax (25.0 % of the problems)."


def test_challenge_asserts_that_are_not_scored_count_for_the_gap_only(tmp_path):
    outcomes = [[[P, P, P, W]], [[P, P, P, P]], [[P, P, X, P]]]
    rows = [row for name in ("ppo", "ppo_sampled") for row in rows_of(name, *outcomes)]
    rows = [{**row, "visible_mask": row["full_mask"][:3], "scored_mask": row["full_mask"][:3]} for row in rows]
    make_run(tmp_path / "ppo", "ppo", rows=rows, task_ids=[1, 2, 3], visible_tests="all")
    (column,), _ = read(tmp_path)
    (shares,) = findings.failure_shares(column)["RL Agent (PPO)"]
    assert (shares[""], shares["error"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert findings.gaps(column, **DRAWS)["RL Agent (PPO)"][:3] == pytest.approx((2 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ([P, P], ""),
        ([P, W], "wrong answer"),
        ([N, T], "time-out"),
        ([C], "syntax"),
        ([P, "oom"], "error"),
        ([N], "error"),
    ],
)
def test_the_kind_of_a_failure_is_that_of_its_first_failed_assert(outcomes, kind):
    assert results.failure(outcomes) == kind


def test_budget_curves_agree_with_the_summaries(everything):
    (column,), _ = read(everything)
    curves = findings.budget_curves(column, **DRAWS)
    for name, entry in column.entries.items():
        if len(entry.seeds) == 1:
            scored = scoring.budget_curve(entry.rows(), TASKS, entry.budget)
            for point, score in zip(curves[results.TITLES[name]], scored, strict=True):
                assert point["pass_at_1"] == pytest.approx(score["pass_at_1"])
                assert (point["low"], point["high"]) == pytest.approx(score["pass_at_1_interval"])
                assert point["tokens"] == pytest.approx((score["code_tokens"] + score["rewriter_tokens"]) / len(TASKS))


def test_actions_are_named_as_in_the_method():
    tree = ast.parse((ROOT / "ppo_codet5" / "core.py").read_text())
    names = (n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "ACTIONS")  # type: ignore[attr-defined]
    assert ast.literal_eval(next(names).value) == results.ACTIONS


def test_an_action_that_was_added_in_notebook_01_is_read_with_its_label(tmp_path):
    """Run directories record what the numbers in their log stand for, so 04 needs to know of no new action."""
    labels = {**results.ACTIONS, "steps": "ask for steps"}
    rows = rows_of("ppo", [[W, W], [P, P]], [[W, W], [W, W]])
    rows[1]["action"] = rows[3]["action"] = 5
    ids = sorted({row["task_id"] for row in rows})
    make_run(tmp_path / "run", "ppo", rows=rows, task_ids=ids, record={"actions": labels}, actions="steps,direct")
    (column,), _ = read(tmp_path)
    names, steps, _ = findings.action_counts(column.entries["ppo"])
    assert names == ["ask for steps", "direct generation"] and steps == {"1": {0: [0, 2]}, "2": {0: [2, 0]}}
    assert "its next attempt is right by ask for steps 1 of 2" in " ".join(findings.edits_say(column))


# Past the budget, stops, the bank, and what single methods report


def test_resampling_past_the_budget_is_scored_at_it_and_compared_at_equal_tokens(tmp_path):
    tries = [[[W, W], [W, W], [W, W], [P, P]], [[P, P]], [[W, W], [P, W]], [[W, W], [W, W], [P, P]]]
    ids = [1, 2, 3, 4]
    make_run(
        tmp_path / "resampling", "resampling", rows=rows_of("resampling", *tries, action=0), task_ids=ids, max_steps=2
    )
    short = rows_of("resampling", *(row[:2] for row in tries), action=0)
    make_run(tmp_path / "again", "resampling", rows=short, task_ids=ids, max_steps=2)
    outcomes = [[[W, W], [P, P]], [[P, P]], [[W, W], [W, W]], [[W, W], [W, W]]]
    costly = rows_of("random", *outcomes, rewriter_calls=1, rewriter_prompt_tokens=60, rewriter_completion_tokens=1)
    make_run(tmp_path / "random", "random", rows=costly, task_ids=ids, max_steps=2)
    (column,), notes = read(tmp_path)
    entry = column.entries["resampling"]
    assert notes == [] and column.repeats == [tmp_path / "again"]
    assert (entry.longest, entry.solved().tolist(), entry.tokens()) == (4, [[0, 1, 0, 0]], 175)
    assert [entry.tokens(k) for k in (1, 2, 3, 4)] == [100, 175, 225, 250]
    # Random spends 7 x 161 / 4 = 282 tokens, and all four draws of resampling cost less.
    ((c, generations),) = tables.at_equal_tokens(column, **DRAWS)
    assert (c.strategy, generations, c.wins, c.losses, c.difference) == ("random", 4, 0, 1, -0.25)
    table = tables.equal_token_table([column], **DRAWS)
    assert table.rows[1][1:6] == ["282", "50.0", "4 (its last)", "250", "75.0"]
    # Its fourth generation cost 25 tokens a problem, so that two more are missing.
    assert "costs 282 tokens a problem, resampling 250 at its last; -p resampling_steps=6 is" in table.notes[1]
    del column.entries["random"]
    assert tables.equal_token_table([column], **DRAWS).notes == []
    assert findings.coverage(column) == [(1, 0.25, 0.25), (2, 0.25, 0.5), (3, 0.5, 0.75), (4, 0.75, 1.0)]
    assert "4 draws cover between 75.0 % and 100.0 %" in findings.coverage_says(findings.coverage(column))
    assert [p["budget"] for p in findings.budget_curves(column, **DRAWS)["I.i.d. resampling"]] == [1, 2, 3, 4]
    # A seed that was allowed three draws says nothing of a fourth; one that needed a single one of four, all.
    for seed, found, steps in ((1, [row[:3] for row in tries], 3), (2, [[[P, P]]] * 4, 4)):
        rows = [{**row, "seed": seed} for row in rows_of("resampling", *found, action=0)]
        own = {"max_steps": steps, "actions": "direct"}
        make_run(tmp_path / f"{seed}", "resampling", seed, rows=rows, task_ids=ids, max_steps=2, own_settings=own)
    (column,), notes = read(tmp_path)
    assert notes == [] and (column.entries["resampling"].seeds, column.entries["resampling"].longest) == ([0, 1, 2], 3)


def test_a_problem_that_was_given_up_is_a_pick_and_no_attempt(tmp_path):
    rows = [r for name in ("ppo", "ppo_sampled") for r in rows_of(name, [[X, X]], [[W, W], [P, P]], action=0)]
    stops = [{"phase": phase, "strategy": "ppo", "task_id": 1, "visit": 0, "attempt": 1} for phase in ("train", "eval")]
    actions = {"actions": "direct, repair,stop"}
    make_run(tmp_path / "ppo", "ppo", rows=rows, task_ids=[1, 2], stops=tuple(stops), **actions)
    (column,), _ = read(tmp_path)
    names, steps, errors = findings.action_counts(column.entries["ppo"])
    assert names == ["direct generation", "repair", "stop"]
    assert steps == {"1": {0: [2, 0, 0]}, "2": {0: [1, 0, 1]}}
    assert errors == {"error": {0: [0, 0, 1]}, "wrong answer": {0: [1, 0, 0]}}
    assert any("gave 1 of 2 problems up, after 1.0 attempts" in note for note in tables.cost_table([column]).notes)
    assert "stopping" in column.strategies
    assert "Best fixed number of attempts" in "".join(tables.verdicts([column], tables.comparisons([column], **DRAWS)))
    assert "Best fixed number" in tables.score_table({}, [column], False).markdown()
    assert "Best fixed number" not in tables.score_table({}, [], False).markdown()


def test_a_bank_is_no_row_and_gives_unbiased_pass_at_k(tmp_path):
    rows = draws([1, 2, 3], 4)
    make_run(tmp_path / "runs" / "bank", "bank", rows=rows, task_ids=[], summary={"scores": {}, "bank": {"gain": 0.1}})
    make_run(tmp_path / "runs" / "random", "random")
    keep(tmp_path / "runs", tmp_path / "kept")
    for folder in (tmp_path / "runs", tmp_path / "kept"):
        runs, notes = results.collect(str(folder))
        (column,), more = results.columns(runs)
        assert list(column.entries) == ["random"] and notes == more == []
        (bank,) = (run for run in runs if run.strategy == results.BANK)
        assert {row.get("after") for row in bank.before} == {None, 0}
        curves = findings.bank_curves(bank, **DRAWS)
        assert list(curves) == list(results.ACTIONS.values())[:3]
        for action, points in enumerate(curves.values()):
            for k, mean, low, high in points:
                sets = [
                    [r for r in rows if (r["task_id"], r["action"], r["attempt"]) == (task, action, 0)]
                    for task in (1, 2, 3)
                ]
                right = [
                    fmean(any(all(r["scored_mask"]) for r in some) for some in itertools.combinations(its, k))
                    for its in sets
                ]
                assert mean == pytest.approx(fmean(right)) and low <= mean <= high
        (said,) = findings.bank_says({"seed 0": curves}).splitlines()
        assert "seed 0: direct generation " in said and said.count("pass@4") == 3


def test_what_single_methods_report_stands_under_the_costs(tmp_path):
    search = {"search": {"mutants": 4, "rewrites": 10, "problems_with_mutants": 2}}
    make_run(tmp_path / "epic", "epic", summary=search)
    make_run(tmp_path / "reflexion", "reflexion", summary={"retries": {"retries": 8, "repeated": 0.25, "solved": 3}})
    (column,), _ = read(tmp_path)
    epic, reflexion = tables.cost_table([column]).notes
    assert epic.endswith("10 rewrites and 4 mutants were tried, mutants on 2 of 20 problems.")
    assert reflexion.endswith("of 8 retries 25% wrote the program before them again, and 3 passed the visible asserts.")


def test_a_summary_of_before_loads(tmp_path):
    path = make_run(tmp_path / "random", "random") / "summary.json"
    summary = json.loads(path.read_text())
    summary["scores"]["random"]["oracle"] = 0.5
    path.write_text(json.dumps(summary))
    assert list(read(tmp_path)[0][0].entries) == ["random"]


def test_edits_that_turned_the_first_attempt_show_both_prompts(tmp_path):
    outcomes = {"direct": [P, W, W, P], "mutation": [W, P, W, P]}
    texts = {"direct": "Sum the list.", "mutation": "Add the list."}
    for name, ends in outcomes.items():
        rows = rows_of(name, *([[end, end]] for end in ends), prompt=texts[name])
        make_run(tmp_path / "runs" / name, name, rows=rows, task_ids=[1, 2, 3, 4])
    (column,), _ = read(tmp_path / "runs")
    (pairs, found) = findings.turns(column)["mutation"]
    assert pairs == 4 and [(turn.edited["task_id"], turn.better) for turn in found] == [(1, False), (2, True)]
    said, better, worse = findings.edits_say(column)
    assert "turns 1 of 4 first attempts from failure into success, and 1 back" in said
    assert "failure into success (problem 2, seed 0)" in better and "[Add] the list." in better
    assert "success into failure (problem 1, seed 0)" in worse and worse.count("def f(): pass") == 2
    for name in outcomes:  # as kept of somebody else's problems
        log = tmp_path / "runs" / name / "attempts.jsonl"
        rows = results.slim(json.loads(line) for line in log.read_text().splitlines())
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(findings.edits_say(read(tmp_path / "runs")[0][0]))[1].startswith("No example is shown")


def test_an_ablation_is_paired_with_the_whole_method(tmp_path):
    """The whole is the agent that the others differ least from; the differences are counted from the files alone."""
    whole, bare = {"memory_size": 3, "rewrite_style": "plan"}, {"memory_size": 0, "rewrite_style": "plan"}
    for seed in (0, 1):
        make_run(tmp_path / f"whole{seed}", "ppo", seed, skill=1.5, **whole)
        make_run(tmp_path / f"bare{seed}", "ppo", seed, skill=-1.0, **bare)
        make_run(tmp_path / f"random{seed}", "random", seed, skill=0.5, **whole)
    make_run(tmp_path / "scalars", "ppo", 0, skill=1.0, observation="scalars", **whole)
    make_run(tmp_path / "told", "ppo", 0, skill=1.0, show_feedback=False, **whole)
    make_run(tmp_path / "two", "ppo", 0, memory_size=0, rewrite_style="sentence")
    columns, _ = read(tmp_path)
    table = tables.ablation_table(columns, [], **DRAWS)
    rows = {row[0]: row for row in table.rows}
    names = ["memory_size 0 against 3", "observation 'scalars' against 'full'", "show_feedback False against True"]
    assert table.rows[0][0] == "the whole method" and set(rows) == {"the whole method", *names, "random actions"}
    p = []
    for name, folder, strategy, seeds in (
        (names[0], "bare", "ppo", (0, 1)),
        (names[1], "scalars", "ppo", (0,)),
        (names[2], "told", "ppo", (0,)),
        ("random actions", "random", "random", (0, 1)),
    ):
        mine = [counted(tmp_path / (f"{folder}{s}" if len(seeds) > 1 else folder), strategy, 4)[0] for s in seeds]
        theirs = [counted(tmp_path / f"whole{s}", "ppo", 4)[0] for s in seeds]
        apart = [sum(a) - sum(b) for a, b in zip(zip(*mine, strict=True), zip(*theirs, strict=True), strict=True)]
        better, worse = sum(x > 0 for x in apart), sum(x < 0 for x in apart)
        points = 100 * sum(apart) / len(seeds) / len(TASKS)
        row = rows[name]
        assert row[1].startswith(f"{100 * fmean(map(fmean, mine)):.1f} ") and row[7].startswith(f"{points:+.1f} [")
        assert row[5:7] == [str(better), str(worse)]
        p.append(binomtest(better, better + worse).pvalue if better + worse else 1.0)
        assert row[8] == ("< 0.001" if p[-1] < 0.001 else f"{p[-1]:.3f}")
    order = [list(rows).index(name) for name in (*names, "random actions")]
    adjusted = dict(zip(order, multipletests(p, method="holm")[1], strict=True))
    assert [row[9] for row in table.rows[1:]] == [
        "< 0.001" if adjusted[i] < 0.001 else f"{adjusted[i]:.3f}" for i in sorted(adjusted)
    ]
    assert any("left out: it differs in memory_size, rewrite_style" in note for note in table.notes)
    assert tables.ablation_table([], [], **DRAWS).rows == []
    # Of two agents each is one setting from the other: the whole method is the one of the table of strategies.
    for name in ("whole0", "whole1", "bare0", "bare1"):
        shutil.copytree(tmp_path / name, tmp_path / "pair" / name)
    pair, _ = read(tmp_path / "pair")
    for known, other in (("whole0", names[0]), ("bare0", "memory_size 3 against 0")):
        shown, _ = read(tmp_path / known)
        assert [row[0] for row in tables.ablation_table(pair, shown, **DRAWS).rows] == ["the whole method", other]


def test_the_power_of_a_comparison_is_that_of_its_variances(everything):
    (column,), _ = read(everything)
    column.entries = {name: entry for name, entry in column.entries.items() if len(entry.seeds) > 1}
    found = tables.comparisons([column], **DRAWS)
    (row,) = tables.power_table([column], found).rows
    means = {n: (e.solved().mean(), -e.tokens()) for n, e in column.entries.items() if n in results.EQUAL_BUDGET}
    best = max(means, key=means.__getitem__)  # of two that are level the cheaper
    c = next(c for c in found if c.strategy == best)
    assert row[:3] == [results.TITLES[best], column.title, c.points]
    sees = [100 * statistics.detectable(c.spread, len(c.seeds), 20, 0.05 / m) for m in (1, len(found))]
    assert row[3] == "{:.1f} / {:.1f}".format(*sees) and float(row[-1].split()[0]) < sees[0]


def test_one_seed_does_not_say_what_more_seeds_bring(tmp_path):
    for name in ("ppo", "random"):
        make_run(tmp_path / name, name)
    (column,), _ = read(tmp_path)
    (row,) = tables.power_table([column], tables.comparisons([column], **DRAWS)).rows
    assert [cell == "-" for cell in row[3:]] == [False, True, False, True]


def test_rows_of_other_seeds_are_compared_over_those_that_both_have(tmp_path):
    """Tokens too: the agent of seed 1 spends as much as three draws, and that of seed 0 as one."""
    for seed, outcomes in ((0, [[P, P]]), (1, [[W, W], [W, W], [W, W]])):
        rows = [row for name in ("ppo", "ppo_sampled") for row in rows_of(name, *[outcomes] * 4)]
        rows = [{**row, "seed": seed} for row in rows]
        make_run(tmp_path / f"ppo{seed}", "ppo", seed, rows=rows, task_ids=[1, 2, 3, 4], max_steps=3)
    rows = rows_of("resampling", *[[[W, W], [W, W], [P, P]]] * 4, action=0)
    make_run(tmp_path / "resampling", "resampling", rows=rows, task_ids=[1, 2, 3, 4], max_steps=3)
    (column,), _ = read(tmp_path)
    assert column.entries["ppo"].tokens() == 200 and column.entries["ppo"].of([0]).tokens() == 100
    found = tables.at_equal_tokens(column, **DRAWS)
    assert [(c.strategy, c.seeds, budget, c.difference) for c, budget in found] == [
        ("ppo", [0], 1, 1.0),
        ("ppo_sampled", [0], 1, 1.0),
    ]
    row = tables.equal_token_table([column], **DRAWS).rows[1]
    assert row[:6] == ["RL Agent (PPO) (seed 0)", "100", "100.0", "1", "100", "0.0"]


def test_thirds_of_the_rows_that_solve_a_problem_are_between_hard_and_easy(tmp_path):
    ids = [1, 2, 3, 4]
    for i, name in enumerate(("direct", "random", "resampling")):  # problem k is solved by k - 1 of the three rows
        rows = rows_of(name, *([[P, P] if i < k else [W, W]] for k in range(4)))
        make_run(tmp_path / name, name, rows=rows, task_ids=ids, max_steps=2)
    (column,), _ = read(tmp_path)
    assert tables.difficulty_table([column]).rows[0][1:] == ["n = 1", "n = 2", "n = 1"]


def test_an_agent_of_other_settings_leaves_the_other_rows_their_column(tmp_path):
    for name in ("direct", "random", "resampling"):
        make_run(tmp_path / name, name)
    make_run(tmp_path / "ppo", "ppo", memory_size=0, max_steps=3)
    columns, notes = read(tmp_path)
    assert sorted(map(sorted, (c.entries for c in columns))) == [
        ["direct", "ppo", "ppo_sampled"],
        ["direct", "random", "resampling"],
    ]
    assert notes == []


def test_a_model_of_another_type_is_no_part_of_the_whole_method(tmp_path):
    def record(dtype):
        return {"code": {"name": "smollm2-135m", "revision": "1", "dtype": dtype}}

    for name, changed in (("whole", {}), ("bare", {"memory_size": 0}), ("told", {"show_feedback": False})):
        settings = {"memory_size": 3, "show_feedback": True, **changed}
        make_run(tmp_path / name, "ppo", record=record("int8"), **settings)
    make_run(tmp_path / "exact", "ppo", record=record("float32"), memory_size=3, show_feedback=True)
    table = tables.ablation_table(read(tmp_path)[0], [], **DRAWS)
    assert [row[0] for row in table.rows][1:] == [
        "memory_size 0 against 3",
        "code dtype 'float32' against 'int8'",
        "show_feedback False against True",
    ]


def test_equal_outcomes_say_nothing_of_power(everything):
    (column,), _ = read(everything)
    agent = column.entries["ppo"]
    same = tables.compare(column, "random", agent, agent, **DRAWS)
    assert tables.comparison_table([same]).rows[0][6] == "-"


# What is kept


def test_what_is_kept_gives_the_same_table_and_examples(everything, tmp_path):
    (tmp_path / "figures").mkdir()
    keep(everything, tmp_path / "kept")
    (whole,), _ = read(everything)
    (kept,), notes = read(tmp_path / "kept")
    assert notes == []
    assert tables.scores([whole], [], **DRAWS) == tables.scores([kept], [], **DRAWS)
    for function in (findings.budget_curves, findings.gaps):
        assert function(whole, **DRAWS) == function(kept, **DRAWS)
    assert tables.cost_table([whole]).rows == tables.cost_table([kept]).rows
    assert list(findings.edits_say(whole)) == list(findings.edits_say(kept))
    for name, texts in (("ppo", results.TEXTS), ("direct", results.TEXTS)):
        text = (tmp_path / "kept" / f"{name}_0" / "attempts.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        assert all(tuple(row) == (*results.SLIM, "visit", "asked", *texts) and row["phase"] == "eval" for row in rows)
        assert "fails" not in text  # feedback
        assert rows == results.slim(whole.entries[name].runs[0].attempts, bool(texts))


@pytest.mark.parametrize("others", [{"problems": "mbpp"}, {"train_problems": "mbpp"}])
def test_texts_of_problems_that_are_not_ours_are_not_kept(tmp_path, others):
    names = {"summary.json", "config.json", "metrics.jsonl", "stops.jsonl", "attempts.jsonl"}
    for strategy, more in (("ppo", {results.TRAINING}), ("direct", set())):
        run = make_run(tmp_path / "runs" / strategy, strategy, **others)
        (run / "results.csv").write_text("Write a function.\n")
        keep(tmp_path / "runs", tmp_path / "kept")
        kept = {p.name: p.read_bytes() for p in (tmp_path / "kept" / strategy).iterdir()}
        assert set(kept) == names | more
        for name, packed in kept.items():
            text = gzip.decompress(packed) if name == results.TRAINING else packed
            assert b"def f" not in text and b"Write a function" not in text and b"fails" not in text


def test_training_is_kept_compressed_with_the_same_bytes_each_time_and_audited(tmp_path):
    cost = {"training_cost": {"generations": 1}}
    make_run(tmp_path / "runs" / "ppo", "ppo", summary=cost)
    make_run(tmp_path / "runs" / "bandit", "bandit", summary=cost)  # no attempts of its training
    keep(tmp_path / "runs", tmp_path / "kept")
    packed = (tmp_path / "kept" / "ppo" / results.TRAINING).read_bytes()
    keep(tmp_path / "runs", tmp_path / "kept")
    assert (tmp_path / "kept" / "ppo" / results.TRAINING).read_bytes() == packed
    (row,) = map(json.loads, gzip.decompress(packed).splitlines())
    assert (row["phase"], row["task_id"], row["visit"]) == ("train", 1, 0)
    assert not (tmp_path / "kept" / "bandit" / results.TRAINING).exists()
    columns, _ = read(tmp_path / "kept")
    lines = tables.reliability(columns, [], [], False)
    assert "Attempts of training and choosing are kept for 1 of 2 trainings and choices." in lines
    path = tmp_path / "kept" / "ppo" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training_cost": {"generations": 7}}))
    columns, _ = read(tmp_path / "kept")
    lines = tables.reliability(columns, [], [], False)
    assert any(line.endswith("1 attempts of train, and summary.json says 7.") for line in lines)


def test_the_looks_at_validation_problems_are_part_of_what_learning_cost(tmp_path):
    kinds = {"training_cost": 1000, "validation_cost": 300}
    cost = {kind: {"generations": n, "code_tokens": 10 * n, "rewriter_tokens": n} for kind, n in kinds.items()}
    path = make_run(tmp_path / "ppo", "ppo", summary=cost) / "summary.json"
    (column,), _ = read(tmp_path)
    assert column.entries["ppo"].cost() == {"generations": 1300, "tokens": 14300}
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {k: {**summary[k], "rewriter_tokens": 0} for k in kinds}))
    cost = read(tmp_path)[0][0].entries["ppo"].cost()  # an agent that never asks the rewriter
    assert cost == {"generations": 1300, "tokens": sum(summary[k]["code_tokens"] for k in kinds)}


def test_one_figure_is_kept_of_those_that_are_equal(tmp_path):
    for seed, name in itertools.product((0, 1), ("01_a", "02_b")):
        folder = tmp_path / "runs" / f"seed{seed}" / name
        (folder / "figures").mkdir(parents=True)
        (folder / "figures" / "synthetic.png").write_bytes(b"the same")
        (folder / "figures" / "budget.png").write_bytes(f"{seed} {name}".encode())
        for _ in range(2):
            keep(folder, tmp_path / "kept" / f"seed{seed}" / name)
    kept = sorted(str(p.relative_to(tmp_path / "kept")) for p in (tmp_path / "kept").rglob("*.png"))
    assert kept.count("seed0/01_a/figures/synthetic.png") == 1 and len(kept) == 5


def test_what_a_method_hands_in_itself_is_kept(tmp_path):
    first, last = rows_of("reflexion", [[P, W], [P, P]])
    (tmp_path / "runs" / "figures").mkdir(parents=True)
    make_run(tmp_path / "runs" / "one", "reflexion", rows=[first, last], task_ids=[1])
    make_run(tmp_path / "runs" / "two", "reflexion", 1, rows=[first, {**last, "hands_in": 1}], task_ids=[1])
    keep(tmp_path / "runs", tmp_path / "kept")
    (column,), notes = read(tmp_path / "kept")
    assert notes == [] and column.entries["reflexion"].solved().tolist() == [[0], [1]]


def test_a_run_that_is_not_complete_is_not_kept_as_one(tmp_path):
    make_run(tmp_path / "runs" / "ppo", "ppo", finish=False)
    make_run(tmp_path / "runs" / "random", "random")
    keep(tmp_path / "runs", tmp_path / "kept")
    assert not (tmp_path / "kept" / "ppo" / "attempts.jsonl").exists()
    assert list(read(tmp_path / "kept")[0][0].entries) == ["random"]


# What may stand in one column


@pytest.fixture
def agent(tmp_path):
    make_run(tmp_path / "ppo", "ppo")
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("visible_tests", "all"),
        ("max_steps", 5),
        ("temperature", 0.7),
        ("max_new_tokens", 64),
        ("preamble", "import math"),
        ("timeout_seconds", 9.0),
        ("eval_split", "validation"),
        ("code_model", "other"),
        ("rewriter_model", "other"),
        ("task_ids", TASKS[:-1]),
        ("scored", "hash of other problems"),
        ("prompt_form", "chat"),
    ],
)
def test_another_setting_is_refused_and_named(agent, setting, value):
    make_run(agent / "resampling", "resampling", **{setting: value})
    (column,), (note,) = read(agent)
    assert "resampling" not in column.entries
    assert re.search(rf"/resampling is not comparable with the column .*{setting}.*listed apart", note)


def test_the_settings_that_may_differ_are_parameters_of_the_notebooks():
    known = {"strategy", "own_settings", "tuning", "train", "scored", "task_ids"}  # what identities add
    for name in ("01_ppo_codet5.ipynb", "03_baselines.ipynb"):
        known |= set(cell_of(ROOT / name)["__annotations__"])
    assert known >= results.PER_RUN | results.LEARNING | results.NEVER_OWN


def test_another_revision_of_the_model_is_refused(agent):
    make_run(agent / "random", "random", record={"code": {"name": "smollm2-135m", "revision": "2"}})
    assert "code revision '2' against '1'" in read(agent)[1][0]


@pytest.mark.parametrize(
    ("setting", "value"), [("num_envs", 99), ("learning_rate", 0.5), ("batch_size", 2), ("seed", 3)]
)
def test_what_other_strategies_do_not_depend_on_may_differ(agent, setting, value):
    make_run(agent / "random", "random", **{setting: value})
    (column,), notes = read(agent)
    assert "random" in column.entries and notes == []


def test_own_settings_are_those_of_epic_and_reflexion_and_never_the_protocol(agent):
    own = {"temperature": 0.0, "population": 5}
    make_run(agent / "epic", "epic", temperature=0.0, own_settings=own)
    make_run(agent / "random", "random", temperature=0.0, own_settings=own)
    make_run(agent / "reflexion", "reflexion", visible_tests=3, own_settings={"visible_tests": 3})
    (column,), notes = read(agent)
    assert set(column.entries) == {"ppo", "ppo_sampled", "epic"}
    assert len(notes) == 2 and "temperature" in notes[0] and "visible_tests 3 against 1" in notes[1]
    table = tables.score_table(tables.scores([column], [], **DRAWS), [column], True)
    assert any(note.endswith("1 seed a row.") for note in table.notes)
    marked = [row[0] for row in table.rows if any("†" in cell for cell in row)]
    assert marked == ["EPiC"]
    assert table.notes[-1].endswith("temperature 0.0 (other rows 0.4), population 5.")


def test_one_attempt_strategies_have_a_budget_of_one_in_every_column(tmp_path):
    make_run(tmp_path / "a" / "ppo", "ppo")
    make_run(tmp_path / "b" / "ppo", "ppo", max_steps=2)
    make_run(tmp_path / "direct", "direct", max_steps=4, own_settings={"max_steps": 1})
    columns, notes = read(tmp_path)
    assert [c.title for c in columns] == ["smollm2-135m (completion), budget 4", "smollm2-135m (completion), budget 2"]
    assert notes == [] and all(c.entries["direct"].budget == 1 for c in columns)
    assert any(f"{columns[1].title} is not one column with {columns[0].title}: max_steps 2 against 4" in line
               for line in tables.reliability(columns, [], [], False))  # fmt: skip
    table = tables.score_table(tables.scores(columns, [], **DRAWS), columns, False)
    assert "1 attempt" in table.rows[0][0] and "†" not in "".join(table.rows[0])


def test_every_protocol_of_the_agent_is_a_column_the_leak_free_one_first(tmp_path):
    for visible, form in (("all", "completion"), (1, "completion"), (1, "chat")):
        folder = tmp_path / f"{'a' if visible == 'all' else 'b'}_{form}"  # the leak-free ones last by name
        for strategy in ("ppo", "random"):
            rows = None
            if visible == "all":
                names = ("ppo", "ppo_sampled")[: 1 + (strategy == "ppo")]
                rows = [r for n in names for r in simulated(n if strategy == "ppo" else strategy, 0, TASKS, 4, 0.2)]
                rows = [
                    {**row, "visible_mask": row["full_mask"][:3], "scored_mask": row["full_mask"][:3]} for row in rows
                ]
            make_run(folder / strategy, strategy, rows=rows, visible_tests=visible, prompt_form=form)
    columns, notes = read(tmp_path)
    assert notes == [] and [list(c.entries) for c in columns] == [["random", "ppo", "ppo_sampled"]] * 3
    assert columns[2].reference.identity["visible_tests"] == "all" and "all asserts visible" in columns[2].title
    assert {"chat" in c.title for c in columns[:2]} == {True, False} and len({c.title for c in columns}) == 3


def test_agents_that_learned_from_different_sets_are_two_columns_and_the_titles_say_so(tmp_path):
    make_run(tmp_path / "same", "ppo", train_problems=None)
    make_run(tmp_path / "other", "ppo", train_problems="sets/more.jsonl", train="hash of others")
    make_run(tmp_path / "random", "random", train_problems="sets/more.jsonl", train="hash of others")  # does not train
    columns, notes = read(tmp_path)
    assert notes == [] and ["random" in column.entries for column in columns] == [True, True]
    assert sorted("of more.jsonl" in column.title for column in columns) == [False, True]
    assert all("24 training episodes" in column.title for column in columns)


def test_without_the_agent_the_largest_comparable_set_is_shown(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"random{seed}", "random", seed)
    make_run(tmp_path / "resampling", "resampling", temperature=1.0)
    (column,), (note,) = read(tmp_path)
    assert column.entries["random"].seeds == [0, 1] and "temperature 1.0 against 0.4" in note
    assert not any("training" in part for part in column.parts)  # nothing in it has learned
    assert tables.comparisons([column], **DRAWS) == [] and tables.verdicts([column], []) == []


def test_a_protocol_without_an_agent_yet_is_a_column_if_several_strategies_were_run(agent):
    rows = {
        name: [
            {**row, "visible_mask": row["full_mask"][:3], "scored_mask": row["full_mask"][:3]}
            for row in simulated(name, 0, TASKS, 4, 0.2)
        ]
        for name in ("random", "resampling", "bandit")
    }
    make_run(agent / "all_random", "random", rows=rows["random"], visible_tests="all")
    (_,), (note,) = read(agent)  # one alone is likelier a mistake than a table
    assert "/all_random is not comparable" in note
    make_run(agent / "all_resampling", "resampling", rows=rows["resampling"], visible_tests="all")
    make_run(agent / "all_bandit", "bandit", rows=rows["bandit"], visible_tests="all", temperature=1.0)
    (first, second), (note,) = read(agent)
    assert "ppo" in first.entries and list(second.entries) == ["random", "resampling"]
    assert "/all_bandit is not comparable" in note and "temperature" in note
    assert {c.strategy for c in tables.comparisons([first, second], **DRAWS)} <= set(first.entries)


def test_the_best_control_is_the_best_over_the_seeds_that_the_agent_has_too(agent):
    """Random is best over all of its seeds, and the bandit over the agent's; a control of other seeds is in no comparison."""
    make_run(agent / "bandit", "bandit", skill=0.3)
    make_run(agent / "random0", "random", 0, skill=-0.3)
    for seed in (1, 2, 3):
        make_run(agent / f"random{seed}", "random", seed, skill=0.6)
    make_run(agent / "resampling", "resampling", 1, skill=0.9)
    (column,), notes = read(agent)
    solved = {name: entry.solved().mean() for name, entry in column.entries.items()}
    assert notes == [] and solved["resampling"] > solved["random"] > solved["bandit"]
    assert column.best_control() == "bandit"
    assert "bandit" in {c.strategy for c in tables.comparisons([column], **DRAWS)}


def test_seeds_of_one_row_agree_in_what_they_learn_with(agent):
    make_run(agent / "ppo1", "ppo", 1)
    make_run(agent / "ppo2", "ppo", 2, learning_rate=0.1)
    (column,), notes = read(agent)
    assert column.entries["ppo"].seeds == [0, 1] and len(notes) == 2
    assert all("not one row with" in note and "learning_rate 0.1 against 0.001" in note for note in notes)


@pytest.mark.parametrize(
    ("setting", "value"), [("max_episodes", 48), ("train", "another training set"), ("observation", "scalars")]
)
def test_strategies_that_learn_do_so_on_equal_terms_or_in_another_column(agent, setting, value):
    make_run(agent / "bandit", "bandit", **{setting: value})
    make_run(agent / "schedule", "schedule", **{setting: value})
    (column, *more), notes = read(agent)
    assert "bandit" not in column.entries
    # It chooses on other problems, looks at nothing, and may pay for that what the training pays.
    assert ("schedule" in column.entries) == (setting != "max_episodes")
    if setting == "max_episodes":  # the two agree with each other, so they have a column of theirs
        assert notes == [] and [list(c.entries) for c in more] == [["schedule", "bandit"]]
    else:
        assert not more and re.search(rf"/bandit is not comparable .*{setting}", *notes)
    make_run(agent / "ppo1", "ppo", 0, **{setting: value})
    (one, two), notes = read(agent)
    assert notes == [] and "bandit" in two.entries and "bandit" not in one.entries and one.title != two.title
    assert setting != "max_episodes" or "48 training episodes" in two.title


@pytest.mark.parametrize("name", ["top_p", "preamble", "scored"])
def test_a_run_that_does_not_say_what_matters_is_left_out(agent, name):
    path = make_run(agent / "random", "random") / "config.json"
    config = json.loads(path.read_text())
    del config["identity"][name]
    path.write_text(json.dumps(config))
    (column,), (note,) = read(agent)
    assert "random" not in column.entries and f"config.json lacks {name}; left out" in note


@pytest.mark.parametrize(
    "record", [{"code": {"name": "smollm2-135m", "revision": "1", "dtype": "float32"}}, {"tagger": "x"}]
)
def test_what_a_setting_turned_out_to_be_is_compared_too(tmp_path, record):
    same = {"code": {"name": "smollm2-135m", "revision": "1", "dtype": "bfloat16"}, "tagger": "y"}
    make_run(tmp_path / "ppo", "ppo", record=same)
    make_run(tmp_path / "random", "random", record={**same, **record})
    (column,), (note,) = read(tmp_path)
    assert "random" not in column.entries and re.search("code dtype 'float32'|tagger 'x'", note)


def test_repeated_runs_are_one_line_however_many_rows_and_columns_they_repeat(agent):
    for name in ("resampling", "resampling_again", "resampling_b"):
        make_run(agent / name, "resampling")
    assert tables.reliability(*read(agent), [], False)[-1].endswith(" attempts: resampling_again, resampling_b.")
    make_run(agent / "ppo_again", "ppo")  # both of its rows
    make_run(agent / "short", "ppo", max_steps=3)  # opens a column
    for name in ("direct", "direct_again"):
        make_run(agent / name, "direct")  # in both columns
    columns, notes = read(agent)
    assert notes == [] and {len(column.repeats) for column in columns} == {1, 5}
    said = [line for line in tables.reliability(columns, ["a note"], [], False) if "they repeat a seed" in line]
    (names,) = (line.removesuffix(".").rpartition(": ")[2].split(", ") for line in said)
    assert sorted(names) == ["direct_again", "ppo_again", "resampling_again", "resampling_b"]


def test_a_control_of_notebook_01_and_the_same_of_03_are_one_row(agent):
    make_run(agent / "01" / "random", "random")
    for seed in range(3):  # 03 has parameters that 01 has not, and the other way round
        make_run(agent / "03" / f"random{seed}", "random", seed, own_settings={}, tuning={}, learning_rate=0.0)
    (column,), notes = read(agent)
    assert column.entries["random"].seeds == [0, 1, 2]
    assert notes == [] and column.repeats == [agent / "03" / "random0"]


def test_a_seed_that_is_there_twice_is_counted_once_and_says_what_differs(tmp_path):
    first, second = rows_of("random", [[P]], [[W]], [[X], [P]]), rows_of("random", [[P]], [[P]], [[W]])
    for name, rows in (("a", first), ("b", first), ("c", second)):
        make_run(tmp_path / name, "random", rows=rows, task_ids=[1, 2, 3])
    (column,), (other,) = read(tmp_path)
    assert column.entries["random"].solved().tolist() == [[1, 0, 1]]
    assert column.repeats == [tmp_path / "b"] and str(tmp_path / "c") in other
    assert other.endswith(f"already, in {tmp_path / 'a'}, with other attempts (2 problems end otherwise); left out")


def test_what_is_no_complete_sound_run_is_left_out_with_its_reason(agent):
    make_run(agent / "a", "random", finish=False)
    (make_run(agent / "b", "random") / "attempts.jsonl").unlink()
    rows = simulated("random", 0, TASKS, 4, 0.0)
    make_run(agent / "c", "random", rows=rows)
    log = agent / "c" / "attempts.jsonl"
    log.write_bytes(log.read_bytes() * 2)
    make_run(agent / "d", "resampling", rows=[{**r, "strategy": "resampling"} for r in rows], summary={"scores": {"resampling": {"solved": 99}}})  # fmt: skip
    make_run(agent / "e", "evaluation of agent 1f", rows=[{**r, "strategy": "ppo"} for r in rows], summary={})
    log = make_run(agent / "f", "bandit") / "attempts.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"task_id": 3002' not in line))
    more = [{**r, "strategy": "schedule", "visible_mask": r["full_mask"][:2]} for r in rows]
    make_run(agent / "g", "schedule", rows=more)
    log = make_run(agent / "h", "fixed_action") / "attempts.jsonl"
    log.write_text('{"phase": "eval"}\n')
    (agent / "model").mkdir()
    (agent / "model" / "config.json").write_text('{"model_type": "llama"}')
    (agent / "model2").mkdir()
    (agent / "model2" / "config.json").write_text("{")
    (column,), notes = read(agent)
    assert list(column.entries) == ["ppo", "ppo_sampled"]
    expected = {
        "/a: ": "not complete",
        "/b: ": "no attempts.jsonl",
        "/c, random: ": "not numbered",
        "/d, resampling: ": "summary.json says 99 solved",
        "/e: ": "'evaluation of agent 1f' is no row",
        "/f, bandit: ": r"missing \[3002\]",
        "/g, schedule: ": "other visible or scored asserts",
        "/h: ": "no attempt",
    }
    assert len(notes) == len(expected)
    for place, words in expected.items():
        assert [n for n in notes if place in n and re.search(words, n)], (place, notes)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RunError, match="there is no folder"):
        results.collect(str(tmp_path / "nothing"))


def test_reliability_names_what_is_missing_and_thin(agent):
    make_run(agent / "random", "random", 1, record={"sandbox": "namespaces"})
    columns, notes = read(agent)
    text = "\n".join(tables.reliability(columns, [*notes, "a note"], [], True))
    assert "no run of Direct Generation" in text and "EPiC" in text and "Contextual bandit; the rows are empty" in text
    assert "fewer than 3 seeds of Randomized Selection (published: 10 steps) (1), RL Agent (PPO) (1)" in text
    assert "not at all, for want of a common seed: Randomized" in text
    assert "2 sandbox levels: limits, namespaces" in text and text.endswith("a note")
    assert "11 of 14 Pass@1 values are no whole number of 500 problems" in text
    assert tables.comparisons(columns, **DRAWS)[0].strategy == "ppo_sampled"  # nothing is paired with random
    assert tables.reliability([], [], [], False) == ["There is no complete run: every cell of ours is empty."]


def test_verdicts_are_by_holm_s_p_and_say_where_the_interval_disagrees(agent):
    (column,), _ = read(agent)

    def case(strategy: str, wins: int, losses: int, interval: tuple[float, float], p: float) -> tables.Comparison:
        difference, none = (wins - losses) / 50, statistics.Variances(0.0, 0.0, 0.0)
        return tables.Comparison(column.title, strategy, [0], 50, wins, losses, difference, interval, p, none)

    family = [
        case("direct", 20, 1, (0.2, 0.5), 1e-5),
        case("random", 2, 20, (-0.5, 0.0), 1e-4),
        case("epic", 12, 2, (-0.01, 0.4), 1e-3),
        case("resampling", 9, 2, (0.02, 0.3), 0.03),  # Holm: 0.06 in a family of which it is the second but last
        case("bandit", 5, 5, (-0.1, 0.1), 1.0),
    ]
    first, second = tables.verdicts([column], family)
    better, worse, undecided = re.search(
        r"better than (.*); worse than (.*); and undecided against (.*)", first
    ).groups()
    assert "Direct" in better and "+38.0 [+20.0, +50.0], p < 0.001)" in better and "EPiC" in better
    assert re.fullmatch(
        r"Randomized .*\(-36.0 \[-50.0, \+0.0\], p < 0.001 although the interval, .*, holds zero\)", worse
    )
    assert re.match(
        r"I\.i\.d\. .* p = 0.060 although the interval is without zero\), Contextual .* p = 1.000\)", undecided
    )
    assert "no difference" not in first
    # Of several seeds: 60 problems gained by one seed of three, 25 lost by all; the sign test and the mean disagree.
    (opposed, _) = tables.verdicts([column], [replace(case("epic", 60, 25, (-0.1, 0.1), 1e-4), difference=-0.01)])
    assert re.search(r"better than no row; worse than no row; and undecided against EPiC", opposed)
    assert second.endswith(
        "must also beat Best fixed action, Best fixed mixture, Tuned fixed schedule, of which there is no run."
    )


# Files from elsewhere


HEADER = "prompt_id,passed_testcases,pass_at_1,pass_at_1_mean,generated_code\n"


def test_a_foreign_file_stands_in_the_table(agent, tmp_path):
    path = tmp_path / "theirs.csv"
    code = '"def f():\\n    return 1, 2"'
    path.write_text(f'{HEADER}11,"[1, 0, 0]",0,1/3,{code}\n12,"[1, 1, 1]",1,3/3,{code}\n13,"[0, 1]",1,1/2,x\n')
    (file,) = files = results.read_foreign(f"direct={path}; ")
    assert file.solved.tolist() == [[0, 1, 0]] and file.soft[0] == pytest.approx([1 / 3, 1, 0.5])
    columns, _ = read(agent)
    table = tables.score_table(tables.scores(columns, files, **DRAWS), columns, False)
    assert table.header[-2:] == ["from a file: Pass@1", "from a file: SoftPass@1"]
    low, high = proportion_confint(1, 3, method="wilson")
    assert table.rows[0][-2] == f"**33.3** [{100 * low:.1f}, {100 * high:.1f}]"
    assert table.rows[0][-1].startswith("**61.1** [") and table.rows[0][1] == "-"
    assert any(note.startswith("from a file: Direct Generation") and "3 problems" in note for note in table.notes)
    lines = tables.reliability(columns, [], files, False)
    assert any("3 problems, not the problems of any column" in line and "in no test" in line for line in lines)
    assert "direct: pass_at_1 contradicts passed_testcases in 1 rows; the masks are counted." in lines
    (other,) = results.read_foreign(f"Somebody's={path}")
    table = tables.score_table(tables.scores(columns, [other], **DRAWS), columns, False)
    assert table.rows[-1][0] == "Somebody's" and table.rows[0][-1] == "-"


def test_our_own_results_csv_reads_as_a_foreign_file(tmp_path):
    rows = simulated("random", 0, TASKS, 4, 0.0)
    (tmp_path / "results.csv").write_text(scoring.results_csv(rows))
    (file,) = results.read_foreign(f"random={tmp_path / 'results.csv'}")
    shown = {task: scoring.submitted(group)["test_mask"] for task, group in scoring.by_problem(rows).items()}
    assert file.prompt_ids == TASKS and file.doubts == []
    assert file.soft[0] == pytest.approx([scoring.share(shown[task]) for task in TASKS])


@pytest.mark.parametrize(
    ("mask", "passes", "share"),
    [
        ("[True, False, False]", "False", 1 / 3),
        ("[true, true]", "true", 1),
        ("[1.0, 0.0]", "0.0", 0.5),
        ("(1, 0, 1)", "", 2 / 3),
        ("[ True  True]", "True", 1),
        ("['True', 'False']", "FALSE", 0.5),
        ('[""yes"", ""no""]', "no", 0.5),
        ("[1,]", "1.0", 1),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_masks_are_read_in_the_spellings_that_others_write(tmp_path, monkeypatch, mask, passes, share, mark):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text(f'{mark}{HEADER}11.0,"{mask}",{passes},?,x\n', encoding="utf-8")
    (file,) = results.read_foreign("x=~/a.csv")
    assert (file.prompt_ids, file.soft.tolist(), file.doubts) == ([11], [[pytest.approx(share)]], [])


@pytest.mark.parametrize("passes", ["True", "1", "yes", "0.5", "nan"])
def test_a_pass_that_its_mask_contradicts_is_a_doubt_however_it_is_spelled(tmp_path, passes):
    (tmp_path / "a.csv").write_text(f'{HEADER}11,"[True, False]",{passes},1/2,x\n')
    (file,) = results.read_foreign(f"x={tmp_path / 'a.csv'}")
    assert file.solved.tolist() == [[0]] and "in 1 rows" in file.doubts[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("a,b\n1,2\n", "has no rows with the columns prompt_id, passed_testcases"),
        (HEADER + "1,nonsense,0,0/3,x\n", "row 1: prompt_id, passed_testcases"),
        (HEADER + '1,"[1]",1,1/1,x\n2,"[2]",1,1/1,x\n', r"row 2: .*not a list of 0 and 1"),
        (HEADER + '1,"[]",1,1/1,x\n', "row 1"),
        (HEADER + '1,"[1, 0",0,1/2,x\n', "row 1: .*not a list of 0 and 1"),
        (HEADER + '1,"[True, None]",0,1/2,x\n', "row 1: .*none"),
        (HEADER + '1,"[True, 0.5]",0,1/2,x\n', "row 1: .*not a list of 0 and 1"),
        (HEADER + '1,"[1]",1,1/1,x\n2,"[1]",perhaps,1/1,x\n', "row 2: .*'perhaps'"),
        (HEADER + '1.5,"[1]",1,1/1,x\n', "row 1: .*1.5"),
        (HEADER + 'one,"[1]",1,1/1,x\n', "row 1"),
        (HEADER + '1,"[1]",1,1/1,x\n1,"[1]",1,1/1,x\n', r"more than one row for prompt_id \[1\]"),
    ],
)
def test_a_foreign_file_that_cannot_be_read_is_one_clear_error(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(RunError, match=words):
        results.read_foreign(f"x={tmp_path / 'a.csv'}")


def test_foreign_must_name_each_file_once(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + '1,"[1]",1,1/1,x\n')
    for files in (f"{tmp_path}/a.csv", "x=", f"x={tmp_path}/a.csv;x={tmp_path}/a.csv"):
        with pytest.raises(RunError, match="NAME=PATH"):
            results.read_foreign(files)
    with pytest.raises(RunError, match="cannot be read"):
        results.read_foreign(f"x={tmp_path}/none.csv")


# Layout


def test_the_published_figures_are_in_their_rows():
    lines = list(csv.reader((ROOT / "data" / "published_table.csv").open(encoding="utf-8")))
    table = tables.score_table({}, [], True)
    assert [[cell.strip("*") for cell in row[1:]] for row in table.rows[:7]] == [line[1:] for line in lines[1:]]
    assert [row[0] for row in table.rows if "**" in "".join(row)] == ["RL Agent (PPO)"]
    for row, line in zip(table.rows, lines[1:], strict=False):
        assert row[0].split(" (")[0] == line[0].split(" (")[0]
    assert all(set(row[1:]) == {"-"} for row in table.rows[7:])
    assert all("Pass@1" in head for head in table.header[1:])


def test_exports_hold_the_same_numbers(everything, tmp_path):
    columns, _ = read(everything)
    found = tables.scores(columns, [], **DRAWS)
    table = tables.score_table(found, columns, True)
    paths = tables.export(tmp_path / "new" / "folder", table, tables.records(found, True))
    assert [path.name for path in paths] == [f"results_table.{suffix}" for suffix in ("csv", "md", "tex")]
    records = list(csv.DictReader(paths[0].open(encoding="utf-8")))
    ours = {(r["strategy"], r["measure"]): r for r in records if r["column"] == columns[0].title}
    assert len(ours) == 2 * len(ROWS) and len(records) == len(ours) + 28
    markdown = [line.strip("| ").split(" | ") for line in paths[1].read_text().splitlines() if line.startswith("|")]
    latex = [line[:-3].split(" & ") for line in paths[2].read_text().splitlines() if line.endswith("\\\\")]
    assert len(markdown) == len(latex) + 1 and {len(line) for line in (*markdown, *latex)} == {7}
    for row, tex in zip(markdown[2:], latex[1:], strict=True):
        for measure, cell, same in zip(("Pass@1", "SoftPass@1"), row[-2:], tex[-2:], strict=True):
            record = ours[row[0], measure]
            numbers = [float(record[name]) for name in ("per_cent", "low", "high")]
            assert cell.replace("*", "").startswith("{:.1f} [{:.1f}, {:.1f}]".format(*numbers))
            assert same == re.sub(r"\*\*(.*)\*\*", r"\\textbf{\1}", cell).replace("†", r"\dag{}")
    for column in range(1, 7):
        shown = [(float(row[column].strip("*").split("*")[0].split()[0]), "**" in row[column]) for row in markdown[2:] if row[column] != "-"]  # fmt: skip
        assert all(bold == (value == max(shown)[0]) for value, bold in shown)
    assert paths[2].read_text().count(r"\textbf") == sum(cell.count("**") // 2 for row in markdown for cell in row)
    assert paths[2].read_text().count("{tabular}") == 2


def test_latex_and_markdown_escape_what_they_must():
    table = tables.Table(["a_b", "50 %"], [["x & y", "p < 0.001|{1}"]], ["#1 ^ ~ \\ $"])
    text = table.latex()
    assert r"a\_b & 50 \%" in text and r"x \& y & p $<$ 0.001|\{1\}" in text
    assert r"\#1 \^{} \~{} \textbackslash{} \$" in text
    assert "p < 0.001\\|{1}" in table.markdown()


def test_nothing_imports_torch():
    code = "import sys\nfrom ppo_codet5.helpers import settings\nfrom ppo_codet5.helpers.results import figures, statistics, tables\n"
    code += "print([name for name in ('torch', 'transformers', 'gensim', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


# Figures


CURVE = [{"budget": b, "pass_at_1": 0.1 * b, "low": 0.05, "high": 0.9, "tokens": 50 * b} for b in (1, 2, 3)]


def drawn(figure: Any) -> list[tuple[list[str], int]]:
    """Of each axis the legend's labels, and the number of bands."""
    return [
        (axis.get_legend_handles_labels()[1], sum("Poly" in type(c).__name__ or "FillBetween" in type(c).__name__ for c in axis.collections))
        for axis in figure.axes
    ]  # fmt: skip


def test_every_row_has_a_colour_and_a_marker_of_its_own():
    for many in (figures.MANY, figures.MARKERS):
        assert len(set(many)) == len(many) == len(results.TITLES)
    for few in (figures.COLOURS, figures.HATCHES, figures.LINES):
        assert len(set(few)) == len(few) >= len(results.ACTIONS)


def test_two_bands_a_title_and_curves_that_coincide_are_marked():
    names = list(results.TITLES.values())
    curves = {name: [dict(p) for p in CURVE] for name in names[3:9]}
    for i, name in enumerate(names[4:9], 1):
        for point in curves[name]:
            point["pass_at_1"] += 0.01 * i
    curves[names[9]] = curves[names[8]]
    curves[names[8]] = [*curves[names[8]], {**CURVE[-1], "budget": 4, "tokens": 900}]
    curves |= {name: CURVE[:1] for name in names[:3]}
    few = figures.budget_and_tokens({name: curves[name] for name in (names[0], names[8])}, [], "two rows", 3)
    assert [max(len(line.get_xdata()) for line in axis.lines) for axis in few.axes] == [3, 4]  # left to the budget
    figure = figures.budget_and_tokens(curves, [names[6], names[8]], "over what", 3)
    (left, bands), (right, same) = drawn(figure)
    assert bands == same == 2 and len(left) == len(right) == 10 and len(set(left)) == 10
    assert f"{names[9]} = {names[8]}" in left and sum("(band)" in label for label in left) == 2
    assert max(x for line in figure.axes[0].lines for x in line.get_xdata()) == 3
    assert max(x for line in figure.axes[1].lines for x in line.get_xdata()) == 900
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert len(set(colours)) == len(colours) and all(axis.get_title() for axis in figure.axes)
    plt.close(figure)
    wilson = {"ppo": [{**p, "pass_at_1_interval": (0.0, 1.0)} for p in CURVE]}
    wilson["resampling"] = [{**p, "pass_at_1": 0.2, "budget": b} for b in range(1, 17) for p in wilson["ppo"][:1]]
    wilson["random"] = wilson["ppo"]
    figure = figures.budget_curves(wilson, 20)
    assert drawn(figure) == [(["ppo (band)", "resampling", "random = ppo (band)"], 2)]
    plt.close(figure)


@pytest.mark.parametrize(
    "names",
    [
        list(results.ACTIONS)[:3],
        list(results.ACTIONS),
        ["direct", "repair"],
        ["rewriting", "direct", "mutation"],
        [*results.ACTIONS, "steps"],
    ],
)
def test_figures_follow_the_names_that_they_are_given(names):
    numbers = {[*results.ACTIONS, "steps"].index(name): name for name in names}  # as the log has them
    shares = [1 / len(names)] * len(names)
    metrics = [{"episodes": 10 * u, "solved_visible": 0.5, "mean_return": 0.1, "action_shares": shares} for u in (1, 2)]
    picked = [number for i, number in enumerate(numbers) for _ in range(5 + i)]  # each another number of times
    rows = [{"attempt": 0, "action": n} for n in picked] + [{"attempt": 1, "action": picked[-1]}]
    for figure in (figures.training_curves(metrics, names), figures.actions_by_step(rows, numbers)):
        assert drawn(figure)[-1][0] == names and all(axis.get_title() for axis in figure.axes)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([100 * (5 + i) / len(picked) for i in range(len(names))])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        f"1\nn = {len(picked)}"
    ]  # no bar of n = 1
    counts = {"1": {0: [3] * len(names), 1: [2] * len(names)}, "2": {1: [5] * len(names)}}
    figure = figures.action_shares(counts, {}, names, "over what")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1\nstep 1", "1\nstep 2"]
    assert len(figure.axes[0].patches) == 3 * len(names)
    plt.close("all")


def test_what_became_of_programs_has_a_bar_for_every_seed():
    kinds = ("", *results.KINDS)
    seeds = [dict(zip(kinds, mix, strict=True)) for mix in ([0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.25, 0.75])]
    figure = figures.failure_kinds({"one row": seeds, "another": seeds[:1]}, "over what")
    (axis,) = figure.axes
    lie: dict[float, list[float]] = {}
    for bar in axis.patches:
        lie.setdefault(round(bar.get_y() + bar.get_height() / 2, 6), []).append(bar.get_width())
    assert lie == {-0.2: [50, 50, 0, 0, 0], 0.2: [0, 0, 0, 25, 75], 1: [50, 50, 0, 0, 0]}
    assert drawn(figure)[0][0] == ["solved", *results.KINDS] and axis.get_title()
    plt.close(figure)


def test_seeds_have_colours_of_their_own_and_one_band_is_that_of_the_first():
    rows = [{"episodes": 10 * u, "solved_visible": 0.1 * u, "mean_return": 0.2} for u in (1, 2, 3)]
    figure = figures.learning_curves(dict.fromkeys(range(10), rows), "over what")
    for axis in figure.axes:
        assert len({line.get_color() for line in axis.lines}) == len(axis.lines) == 11 and axis.get_title()
    assert figure.axes[0].lines[-1].get_ydata().tolist() == pytest.approx([10, 15, 20])  # the mean, running
    points = [(k, 0.1 * k, 0.0, 1.0) for k in (1, 2)]
    curves = {"direct": points, "mutation": points, "rewriting": [(1, 0.3, 0, 1)]}
    figure = figures.pass_at_k({"seed 0": curves, "seed 1": {"direct": points}}, "over what")
    assert drawn(figure) == [(["direct (band)", "mutation = direct", "rewriting"], 1), (["direct (band)"], 1)]
    first, second = figure.axes
    assert first.get_title().endswith("seed 0") and second.get_title().endswith("seed 1")
    assert first.get_ylim() == second.get_ylim()
    figure = figures.coverage([(1, 0.2, 0.3), (2, 0.3, 0.4)], "over what")
    upper, lower = (line.get_ydata().tolist() for line in figure.axes[0].lines)
    assert (lower, upper) == (pytest.approx([20, 30]), pytest.approx([30, 40])) and figure.axes[0].get_title()
    figure = figures.gaps({"one row": (0.5, 0.4, 0.1, (0.05, 0.2))}, "over what")
    (bar,) = figure.axes[0].containers
    assert bar[0].get_xdata().tolist() == [10] and figure.axes[0].get_title()
    (ends,) = bar[2][0].get_segments()
    assert ends[:, 0].tolist() == pytest.approx([5, 20])
    figure = figures.synthetic_curves([[0.1, 0.2], [0.3, 0.4]], {"direct": 0.2, "mutation": 0.1}, 0.9, 64)
    assert figure.axes[0].get_title() and figure.axes[0].lines[2].get_ydata().tolist() == pytest.approx([0.2, 0.3])
    assert len({(line.get_color(), line.get_alpha()) for line in figure.axes[0].lines[1:]}) == 5
    plt.close("all")


# The notebook


def outputs(path: Path) -> tuple[str, int]:
    """All texts that the cells of an executed notebook show, and the number of figures."""
    text, figures = "", 0
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr", output
            text += output.get("text", "") + output.get("data", {}).get("text/markdown", "")
            figures += "image/png" in output.get("data", {})
    return text, figures


def test_the_notebook_shows_two_columns_and_a_foreign_file(everything, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    make_all(tmp_path / "all", seeds=1, prompt_form="chat")
    make_run(tmp_path / "apart", "random", 5, temperature=1.5)
    (tmp_path / "theirs.csv").write_text(HEADER + '11,"[1, 0, 0]",0,1/3,x\n12,"[1, 1, 1]",1,3/3,y\n')
    parameters = {
        "runs": f"{everything};{tmp_path / 'all'};{tmp_path / 'apart'}",
        "foreign": f"direct={tmp_path / 'theirs.csv'}",
        "figure_dir": str(tmp_path / "figures"),
        "export_dir": str(tmp_path / "export"),
        "link_from": str(tmp_path),
        "resamples": 300,
    }
    execute(ROOT / "04_results.ipynb", tmp_path / "out.ipynb", parameters, "python3")
    text, figures = outputs(tmp_path / "out.ipynb")
    assert figures == 12 and len(list((tmp_path / "figures").glob("results_*_[12].png"))) == 12
    (link,) = re.findall(r"\]\((\S*explorer\.html)\)", text)
    assert not link.startswith("/") and (tmp_path / link).read_text().startswith("<!doctype html>")  # beside out.ipynb
    (first, second), _ = read(everything, tmp_path / "all")
    for column in (first, second):
        assert column.title in text
        for measured in tables.scores([column], [], seed=0, resamples=300)[column.title].values():
            assert all(str(cell) in text.replace("**", "") for cell in measured)
    for line in (findings.budget_says(first), *findings.edits_say(second)):
        assert line in text
    assert f"{tmp_path / 'apart'} is not comparable with the column" in text and "temperature 1.5 against 0.4" in text
    assert "direct is from a file: 2 problems" in text
    assert (tmp_path / "export" / "results_table.md").read_text().split("\n\n")[0] in text


def test_committed_outputs_are_of_the_committed_results():
    """Every number that the committed notebook shows in its tables is counted again from results/laptop."""
    text, figures = outputs(ROOT / "04_results.ipynb")
    columns, _ = read(ROOT / "results" / "laptop")
    for column in columns:
        for cells in tables.scores([column], [], 0, 10_000)[column.title].values():
            assert all(str(cell) in text.replace("**", "") for cell in cells)
    compared = tables.comparison_table(tables.comparisons(columns, 0, 10_000))
    for table in (tables.cost_table(columns), tables.seed_table(columns), compared):
        assert table.markdown() in text
    assert figures == 7 * len(columns)  # the seventh has a panel for each seed's bank


# Between the notebooks


def test_runs_of_the_trainer_and_of_notebook_03_fill_one_column(tmp_path):
    from killable import scripted_parts
    from notebooks import module_of
    from scripted import small

    from ppo_codet5.core import PPOCodeT5Trainer

    settings = {"train_limit": 4, "eval_limit": 6, "max_steps": 3, "max_episodes": 8, "episodes_per_update": 4}
    settings |= {"num_envs": 4, "dtype": "float32", "device": "cpu", "generation_cache": None}
    with scripted_parts() as parts:
        trainer = PPOCodeT5Trainer(small(**settings), parts=parts)
        trainer.train(tmp_path / "01" / "ppo", report=lambda line: None)
        trainer.control("random", tmp_path / "01" / "random", report=lambda line: None)
        nb = module_of("03_baselines.ipynb", **settings, selection_limit=3, run_dir=str(tmp_path / "03"))
        baselines = nb.Baselines(nb.config, parts=parts)
        for strategy in set(ROWS) - {"ppo", "ppo_sampled"}:
            baselines.run(strategy, report=lambda line: None)
        trainer.evaluate(3, tmp_path / "evaluated", report=lambda line: None)
    (column,), notes = read(tmp_path)
    assert list(column.entries) == ROWS
    assert len(column.repeats) == len(notes) == 1 and "/evaluated" in notes[0]
    table = tables.score_table(tables.scores([column], [], **DRAWS), [column], True)
    assert [row[0] for row in table.rows if "†" in row[-1]] == ["EPiC", "Reflexion"]
    before = {row[0]: row[-1] for row in tables.cost_table([column]).rows}
    for name in set(results.TUNED) - {"stopping"}:
        assert re.match(r"\d+ generations", before[results.TITLES[name]]), name
    assert len(tables.comparisons([column], **DRAWS)) == len(ROWS) - 1


def test_kept_results_say_what_made_them(tmp_path):
    """The command without paths of this machine, the machine, the versions and the minutes that the runs logged."""
    runs, models = (
        tmp_path / "runs",
        {"code": {"name": "/models/one", "dtype": "int8"}, "rewriter": {"name": "two", "dtype": "int8"}},
    )
    for name, seconds in {"direct": [60.0, 30.0], "random": [210.0]}.items():
        make_run(runs / name, name, record=models)
        lines = [json.dumps({"phase": name, "total": value, "generation": 1.0}) + "\n" for value in seconds]
        search = json.dumps({"phase": "selection", "steps": 3, "generation": 40.0, "sandbox": 20.0})  # has no total
        (runs / name / "timings.jsonl").write_text("".join(lines) + f"{search}\n" * (name == "random"))
    arguments = ["reproduce", "--profile", "laptop", "--seeds", "0", "1", "--keep", "results/x"]
    more = [
        "problems=/home/me/mine.jsonl",
        "runs=a;/home/me/b",
        "code_model=openai:q@http://10.0.0.5:80/v1",
        "max_steps=2",
    ]
    parsed = cli._parser().parse_args([*arguments, *(part for pair in more for part in ("-p", pair))])
    said = about([runs / "direct", runs / "random"], command_of(parsed))
    command = (
        "ppo-codet5 reproduce --profile laptop --seeds 0 1 -p problems=mine.jsonl -p 'runs=a;b' "
        "-p code_model=openai:q -p max_steps=2 --keep results/x"
    )
    assert f"```bash\n{command}\n```" in said and not re.search(r"/home|10\.0|/models", said)
    assert "| minutes | 6 of training and evaluation, summed over 2 runs;" in said
    assert "| models | one in int8 (code), two in int8 (rewriter) |" in said
    recorded = json.loads((runs / "direct" / "config.json").read_text())
    assert f"torch {recorded['versions']['torch']}" in said and f"{recorded['hardware']['cpus']} cores" in said
