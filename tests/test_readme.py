"""README and docs: their figures, counted again from results/ without the code that wrote them, and what they point to."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import subprocess
from collections import Counter, defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import learning
import numpy as np
import pytest
from ppo_codet5.helpers.problems import MBPP_SPLITS, ProblemError, load_problems
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from ppo_codet5 import cli
from ppo_codet5.core import Parameters
from ppo_codet5.notebooks import load_profile, parameters_of
from tools import update_docs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "results"
ROWS = {
    "Direct Generation (Action 0, 1 attempt)": "direct",
    "Genetic Mutation (Action 1, 1 attempt)": "mutation",
    "Semantic Rewriting (Action 2, 1 attempt)": "rewriting",
    "Randomized Selection (published: 10 steps)": "random",
    "EPiC": "epic",
    "Reflexion": "reflexion",
    "RL Agent (PPO)": "ppo",
    "RL Agent (PPO, actions sampled)": "ppo_sampled",
    "I.i.d. resampling": "resampling",
    "Best fixed action": "fixed_action",
    "Best fixed mixture": "mixture",
    "Tuned fixed schedule": "schedule",
    "Contextual bandit": "bandit",
}
CELL = re.compile(r"(\*\*)?([\d.]+)(?:\*\*)? \[([\d.]+), ([\d.]+)\]")
FILE_OF = {block: name for name, blocks in update_docs.BLOCKS.items() for block in blocks}


def block(name: str) -> str:
    begin, end = (mark.format(name) for mark in update_docs.MARKS)
    text = (ROOT / FILE_OF[name]).read_text(encoding="utf-8")
    return text.split(begin)[1].split(end)[0]


def table(text: str) -> tuple[list[str], list[list[str]]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return lines[0], lines[2:]


Groups = dict[int, dict[int, list[dict[str, Any]]]]  # attempts by seed and problem


def masks(folder: str) -> dict[tuple[str, str], Groups]:
    """Attempts of a folder of results by (column, strategy); a column is a form of prompt, or a protocol."""
    found: dict = defaultdict(lambda: defaultdict(dict))
    for config in sorted((RESULTS / folder).rglob("config.json")):
        identity = json.loads(config.read_text())["identity"]
        column, seed = identity.get("prompt_form", "completion"), identity["seed"]
        if folder != "laptop":
            column = f"{identity['visible_tests']} assert{'s' * (identity['visible_tests'] == 'all')} visible"
        elif identity["strategy"] != "bank":
            assert identity["visible_tests"] == 1
        if identity["strategy"] == "bank":
            continue
        rows = [json.loads(line) for line in (config.parent / "attempts.jsonl").read_text().splitlines()]
        for strategy in {row["strategy"] for row in rows}:
            problems = defaultdict(list)
            for row in rows:
                if row["strategy"] == strategy and row["phase"] == "eval":
                    problems[row["task_id"]].append(row)
            assert set(problems) == set(identity["task_ids"])
            found[column, strategy][seed] = problems
    return found


def shares(problems: dict[int, list[dict[str, Any]]], budget: int) -> list[float]:
    """Share of scored asserts of each problem's submission."""
    result = []
    for _, rows in sorted(problems.items()):
        ordered = sorted(rows, key=lambda row: row["attempt"])[:budget]
        scored = [sum(row["scored_mask"]) / len(row["scored_mask"]) for row in ordered]
        visible = [sum(row["visible_mask"]) / len(row["visible_mask"]) for row in ordered]
        result.append(scored[visible.index(max(visible))])
    return result


def test_the_requests_that_rows_share_are_counted_again() -> None:
    """Two that decode in another way (greedily) share with each other only."""
    asked = {
        key: {
            (seed, task, row["attempt"], row["prompt"], key[1] in ("epic", "reflexion"))
            for seed, problems in groups.items()
            for task, rows in problems.items()
            for row in rows
            if row["attempt"] < 3
        }
        for key, groups in masks("laptop").items()
    }
    header, rows = table(block("requests"))
    assert {ROWS[row[0]] for row in rows} == {strategy for _, strategy in asked} and len(header) == 3
    for (name, *cells), form in ((row, header.index(h)) for row in rows for h in header[1:]):
        key = header[form].removesuffix(" form"), ROWS[name]
        others = set().union(*(theirs for other, theirs in asked.items() if other[0] == key[0] and other != key))
        assert float(cells[form - 1]) == round(100 * len(asked[key] & others) / len(asked[key]))
    assert all(float(cell) > 75 for row in rows for cell in row[1:] if ROWS[row[0]] in ("direct", "mutation", "random"))


def outcomes_by_seed(groups: Groups, budget: int) -> np.ndarray:
    """Shares of scored asserts passed, [seeds, problems]."""
    return np.array([shares(groups[seed], budget) for seed in sorted(groups)])


def outcomes_of(folder: str, budget: int) -> dict[tuple[str, str], np.ndarray]:
    """Shares of scored asserts passed, [seeds, problems], by (column, row of the table)."""
    found = {}
    for (column, strategy), seeds in masks(folder).items():
        (row,) = (name for name, key in ROWS.items() if key == strategy)
        found[column, row] = outcomes_by_seed(seeds, budget)
    return found


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], np.ndarray]:
    return outcomes_of("laptop", 3)


@pytest.fixture(scope="module")
def on_mbpp() -> dict[tuple[str, str], np.ndarray]:
    return outcomes_of("mbpp_coder", 10)


def bootstrap(values: np.ndarray) -> np.ndarray:
    """Means over seeds and problems drawn with replacement; other draws than those of the project."""
    draw = np.random.default_rng(12345)
    seeds, problems = values.shape
    means = []
    for _ in range(4000):
        rows, columns = draw.integers(seeds, size=seeds), draw.integers(problems, size=problems)
        means.append(values[np.ix_(rows, columns)].mean())
    return np.array(means)


def test_every_cell_of_the_results_table(outcomes: dict[tuple[str, str], np.ndarray]) -> None:
    header, rows = table(block("results"))
    said = re.search(r"n = (\d+) held-out problems x (\d+) seeds", block("results")).groups()  # type: ignore[union-attr]
    assert [row[0].removesuffix(" †") for row in rows] == [row for row in ROWS if ("chat", row) in outcomes]
    assert len(header) == 5 and len({len(rows[0]) for rows in outcomes.values()}) == 1
    assert [row[0] for row in rows if row[0].endswith("†")] == ["EPiC †", "Reflexion †"]
    for row in rows:
        row[0] = row[0].removesuffix(" †")
        for title, cell in zip(header[1:], row[1:], strict=True):
            form = title.split(":")[0]
            soft = outcomes[form, row[0]]
            values = soft if title.endswith("SoftPass@1") else (soft == 1).astype(float)
            assert tuple(map(int, said)) == (values.shape[1], values.shape[0])
            check(cell, values, (title, row[0]))


def check(cell: str, values: np.ndarray, where: object) -> None:
    """A mean with its interval: Wilson's for the solved share of one seed, else a bootstrap's."""
    _, mean, low, high = CELL.fullmatch(cell).groups()  # type: ignore[union-attr]
    assert float(mean) == pytest.approx(100 * values.mean(), abs=0.0501), where
    if values.shape[0] == 1 and set(np.unique(values)) <= {0, 1}:
        bounds = proportion_confint(values.sum(), values.size, method="wilson")
        assert (float(low), float(high)) == pytest.approx([100 * b for b in bounds], abs=0.0501), where
        return
    means = 100 * bootstrap(values)
    for bound, share in ((float(low), 0.025), (float(high), 0.975)):  # few problems give few different means
        below, at_most = (means < bound - 0.0501).mean(), (means <= bound + 0.0501).mean()
        assert below - 0.01 <= share <= at_most + 0.01, (where, bound, below, at_most)


def test_every_cell_of_the_table_on_mbpp(on_mbpp: dict[tuple[str, str], np.ndarray]) -> None:
    header, rows = table(block("mbpp"))
    columns = list(dict.fromkeys(title.split(": ")[0] for title in header[1:]))
    assert {column for column, _ in on_mbpp} == set(columns)
    there = [row for row in ROWS if row in {row for _, row in on_mbpp}]
    assert [row[0].removesuffix(" †") for row in rows] == there
    missing = re.findall(r"^- Not run yet with this model: (.*)\.$", block("mbpp"), re.MULTILINE)
    assert missing == ["; ".join(row for row in ROWS if row not in there)] * (len(there) < len(ROWS))
    (n,) = {values.shape[1] for values in on_mbpp.values()}
    assert f"n = {n} in every cell" in block("mbpp")
    for row in rows:
        for title, cell in zip(header[1:], row[1:], strict=True):
            column, measure = title.split(": ")
            soft = on_mbpp.get((column, row[0].removesuffix(" †")))
            if soft is None:
                assert cell == ("not run" if measure == "Pass@1" else "")
                continue
            values = soft if measure == "SoftPass@1" else (soft == 1).astype(float)
            if measure == "seeds":
                assert cell == str(len(soft))
                continue
            check(cell, values, (title, row[0]))
            same = [v if measure == "SoftPass@1" else v == 1 for (c, _), v in on_mbpp.items() if c == column]
            best = max(round(100 * v.mean(), 1) for v in same)
            assert cell.startswith("**") == (round(100 * values.mean(), 1) == best)


def test_what_drawing_again_is_worth_is_counted_again() -> None:
    found = re.findall(r"^(\S+ asserts? visible), n = (.*(?:\n.+|\n\n\|.*)*)", block("draws"), re.MULTILINE)
    assert {column for column, _ in found} == {c for c, name in masks("mbpp_coder") if name == "resampling"}
    for column, text in found:
        seeds = masks("mbpp_coder")[column, "resampling"]
        _, rows = table(text)
        assert {"1", "10"} <= {row[0] for row in rows}
        assert text.startswith(f"{len(next(iter(seeds.values())))} problems x {len(seeds)} seed")
        for budget, cell, looks, tokens in rows:
            values = np.array([shares(seeds[seed], int(budget)) for seed in sorted(seeds)])
            check(cell, (values == 1).astype(float), (column, budget))
            made = [rows[: int(budget)] for problems in seeds.values() for rows in problems.values()]
            seen = [any(all(row["visible_mask"]) for row in rows) for rows in made]
            assert float(looks) == pytest.approx(100 * np.mean(seen), abs=0.0501)
            paid = [row["prompt_tokens"] + row["completion_tokens"] for rows in made for row in rows]
            assert float(tokens) == pytest.approx(sum(paid) / len(made), abs=0.501)


def test_the_claim_stands_beside_draws_without_an_agent(on_mbpp: dict[tuple[str, str], np.ndarray]) -> None:
    row, column = "I.i.d. resampling", "all asserts visible"
    said = r"the agents are 44\.7 and 22\.9 points .* solves ([\d.]+) with one draw and ([\d.]+) with at most 10, \+([\d.]+) points"
    first, last, gain = re.findall(said, block("claim"))[0]  # 57.58 - 12.84, 64.80 - 41.91: the published table
    assert float(gain) == pytest.approx(float(last) - float(first), abs=0.101)
    assert float(first) == pytest.approx(100 * (outcomes_of("mbpp_coder", 1)[column, row] == 1).mean(), abs=0.0501)
    assert float(last) == pytest.approx(100 * (on_mbpp[column, row] == 1).mean(), abs=0.0501)


def test_single_edits_are_compared_with_direct_generation(on_mbpp: dict[tuple[str, str], np.ndarray]) -> None:
    names = {key: row for row, key in ROWS.items()}
    _, rows = table(block("edits"))
    found = masks("mbpp_coder")
    for name, protocol, solved, against, spent, drawn in rows:
        soft = on_mbpp.get((protocol, names[name]))
        if soft is None:
            assert solved == "not run"
            continue
        assert float(solved) == pytest.approx(100 * (soft == 1).mean(), abs=0.0501)
        if name != "direct":
            gap = (soft == 1) * 1.0 - (on_mbpp[protocol, names["direct"]] == 1)
            said, low, high = map(float, re.findall(r"[+-][\d.]+", against))
            assert said == pytest.approx(100 * gap.mean(), abs=0.0501)
            assert [low, high] == pytest.approx(np.quantile(100 * bootstrap(gap), [0.025, 0.975]), abs=0.6)
        paid = tokens(found[protocol, name], 1)
        assert float(spent) == pytest.approx(paid, abs=0.501)
        if name != "direct":
            draws, _ = affordable(found[protocol, "resampling"], paid)
            again = outcomes_of("mbpp_coder", draws)[protocol, "I.i.d. resampling"] == 1
            share, said_draws = re.fullmatch(r"([\d.]+) \((\d+) draws?\)", drawn).groups()  # type: ignore[union-attr]
            assert int(said_draws) == draws and float(share) == pytest.approx(100 * again.mean(), abs=0.0501)


def test_several_attempts_are_compared_with_drawing_again(on_mbpp: dict[tuple[str, str], np.ndarray]) -> None:
    found = masks("mbpp_coder")
    several = {
        (column, row)
        for column, row in on_mbpp
        if (column, "resampling") in found and ROWS[row] not in ("direct", "mutation", "rewriting", "resampling", "ppo")
    }
    _, rows = table(block("loops"))
    assert {(row[1], row[0]) for row in rows} == several and len(rows) == len(several) > 0
    cells, gaps = [], []
    for row, column, solved, spent, *against in rows:
        assert float(solved) == pytest.approx(100 * (on_mbpp[column, row] == 1).mean(), abs=0.0501)
        assert float(spent) == pytest.approx(tokens(found[column, ROWS[row]], 10), abs=0.501)
        budget, longest = affordable(found[column, "resampling"], tokens(found[column, ROWS[row]], 10))
        assert against[1] == f"{budget}{' (its last)' * (budget == longest)}"
        for cell, draws in ((against[0], 10), (against[2], budget)):
            drawn = outcomes_of("mbpp_coder", draws)[column, "I.i.d. resampling"]
            cells.append(re.fullmatch(INTERVAL, cell).groups())  # type: ignore[union-attr]
            gaps.append(paired(on_mbpp[column, row], drawn))
    for said, gap, p in zip(cells, gaps, multipletests([*map(sign_test, gaps)], method="holm")[1], strict=True):
        check_difference(said, gap, p)
    listed = []
    for column, paid, text in re.findall(
        r"^- (.*): beside drawing again as often \((\d+) tokens a problem; differences in points\), (.*)\.$",
        block("mbpp"),
        re.MULTILINE,
    ):  # the same figures in a sentence
        assert float(paid) == pytest.approx(tokens(found[column, "resampling"], 10), abs=0.501)
        one = rf"([^;]+?) solves ([\d.]+) % for (\d+) tokens \({INTERVAL}\)"
        listed += [(column, *words) for words in re.findall(one, text)]
    assert [(name.strip(), column, *rest) for column, name, *rest in listed] == [
        (*row[:4], *re.fullmatch(INTERVAL, row[4]).groups())  # type: ignore[union-attr]
        for row in rows
    ]


def test_the_sentences_on_drawing_again_are_those_of_the_table(on_mbpp: dict[tuple[str, str], np.ndarray]) -> None:
    names = {key: row for row, key in ROWS.items()}
    first = outcomes_of("mbpp_coder", 1)
    found = re.findall(
        r"^- (.*?): drawing again, up to (\d+) times.* from ([\d.]+) to ([\d.]+) % \(([+-][\d.]+) points, 95 % interval "
        r"([+-][\d.]+) to ([+-][\d.]+)\); ([\d.]+) % look solved\.$",
        block("mbpp"),
        re.MULTILINE,
    )
    assert {line[0] for line in found} == {column for column, row in on_mbpp if row == names["resampling"]}
    for column, budget, *numbers in found:
        start, end = ((some[column, names["resampling"]] == 1) * 1.0 for some in (first, on_mbpp))
        problems = [rows for seed in masks("mbpp_coder")[column, "resampling"].values() for rows in seed.values()]
        looks = [any(all(row["visible_mask"]) for row in rows if row["attempt"] < 10) for rows in problems]
        bounds = np.quantile(bootstrap(end - start), [0.025, 0.975])
        counted = 100 * np.array([start.mean(), end.mean(), (end - start).mean(), *bounds, np.mean(looks)])
        low_and_high = np.array([0, 0, 0, 1, 1, 0], bool)
        said = np.array(numbers, float)
        assert said[~low_and_high] == pytest.approx(counted[~low_and_high], abs=0.0501) and budget == "10"
        assert said[low_and_high] == pytest.approx(counted[low_and_high], abs=0.6)


def test_the_best_of_each_column_is_bold(outcomes: dict[tuple[str, str], np.ndarray]) -> None:
    header, rows = table(block("results"))
    for column, title in enumerate(header[1:], 1):
        form, measure = title.split(": ")
        means = {
            row: (values if measure == "SoftPass@1" else values == 1).mean()
            for (f, row), values in outcomes.items()
            if f == form
        }
        bold = [row[0].removesuffix(" †") for row in rows if row[column].startswith("**")]
        assert bold == [
            row for row in ROWS if row in means and means[row] == pytest.approx(max(means.values()), abs=1e-9)
        ]


def test_learned_and_random_rows_have_three_seeds_over_all_problems(
    outcomes: dict[tuple[str, str], np.ndarray],
) -> None:
    for form in ("completion", "chat"):
        for row in ("RL Agent (PPO)", "RL Agent (PPO, actions sampled)", "Contextual bandit"):
            assert len(outcomes[form, row]) == 3
        assert len(outcomes[form, "Randomized Selection (published: 10 steps)"]) == 3


EQUAL = ("random", "resampling", "fixed_action", "mixture", "schedule", "bandit")
INTERVAL = r"([+-][\d.]+), 95 % interval ([+-][\d.]+) to ([+-][\d.]+), Holm p ([=<]) ([\d.]+)"


def sign_test(gap: np.ndarray) -> float:
    """p of the exact sign test over problems; ``gap``: [seeds, problems]."""
    signs = np.sign(gap.sum(0))
    return binomtest(int((signs > 0).sum()), max(1, int((signs != 0).sum()))).pvalue if signs.any() else 1.0


def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences of two rows of the same seeds."""
    assert first.shape == second.shape
    return (first == 1) * 1.0 - (second == 1)


def check_difference(said: tuple[str, ...], gap: np.ndarray, p: float) -> None:
    """A difference with its interval, by other draws, and Holm's p, which others have adjusted."""
    assert float(said[0]) == pytest.approx(100 * gap.mean(), abs=0.0501)
    bounds = np.quantile(100 * bootstrap(gap), [0.025, 0.975])
    assert [float(bound) for bound in said[1:3]] == pytest.approx(bounds, abs=max(0.6, 0.1 + 100 / gap.size))
    assert said[3:] == ("<", "0.001") if p < 0.001 else float(said[4]) == pytest.approx(p, abs=0.000501)


def check_verdict(line: str, found: dict[tuple[str, str], Groups], budget: int, column: str) -> None:
    """What is said of the agent beside the best control of its column; Holm's family is all rows of all columns."""
    gaps, means = {}, {}
    for c, key in found:
        agent, row = of_both(found.get((c, "ppo"), {}), found[c, key])
        if key != "ppo" and agent:
            gaps[c, key] = paired(outcomes_by_seed(agent, budget), outcomes_by_seed(row, budget))
            if c == column and key in EQUAL:
                means[key] = (outcomes_by_seed(row, budget) == 1).mean(), -tokens(row, budget)
    (best,) = (key for row, key in ROWS.items() if f"equal budget, {row.lower()} (" in line.lower())
    assert best == max(means, key=means.__getitem__)
    gap, adjusted = gaps[column, best], multipletests([*map(sign_test, gaps.values())], method="holm")[1]
    p = adjusted[list(gaps).index((column, best))]
    said = re.search(rf"\(difference {INTERVAL}\)", line).groups()  # type: ignore[union-attr]
    check_difference(said, gap, p)
    seeds = sorted(found[column, "ppo"])
    both = sorted(set(seeds) & set(found[column, best]))
    assert (f"over the seeds that both have ({', '.join(map(str, both))})" in line) == (both != seeds)
    assert (f"one training, seed {seeds[0]})" in line) == (len(seeds) == 1 and both == seeds)
    clear = p <= 0.05 and float(said[1]) * float(said[2]) > 0 and np.sign(gap.sum(0)).sum() * gap.mean() > 0
    assert ("no gain over the controls is shown" in line) == (float(said[0]) <= 0 or not clear)
    assert ("it is below by more than chance" in line) == (float(said[0]) < 0 and clear)


def tokens(groups: Groups, last: int) -> float:
    """Tokens a problem of the first ``last`` attempts, of all models, read and written."""
    problems = [rows[:last] for seed in groups.values() for rows in seed.values()]
    return sum(v for rows in problems for row in rows for k, v in row.items() if k.endswith("_tokens")) / len(problems)


def affordable(draws: Groups, most: float) -> tuple[int, int]:
    """How many draws resampling makes for ``most`` tokens a problem, at least one; and how many it has."""
    longest = max(len(rows) for problems in draws.values() for rows in problems.values())
    return max([k for k in range(1, longest + 1) if tokens(draws, k) <= most], default=1), longest


def of_both(*rows: Groups) -> list[Groups]:
    """Rows over the seeds that all of them have."""
    return [{seed: row[seed] for seed in sorted(set.intersection(*map(set, rows)))} for row in rows]


def check_rest(line: str, found: dict[tuple[str, str], Groups], budget: int, column: str) -> None:
    """What is said of the agent at equal tokens and of drawing again; Holm's family: all rows that are compared so."""
    family, p_values, gaps, allowed = [], [], [], []
    for c, key in ((c, key) for c, key in found if (c, "resampling") in found and key not in ("direct", "resampling")):
        row, draws = of_both(found[c, key], found[c, "resampling"])
        if not row:
            continue
        allowed.append(affordable(draws, tokens(row, budget)))
        gaps.append(paired(outcomes_by_seed(row, budget), outcomes_by_seed(draws, allowed[-1][0])))
        p_values.append(sign_test(gaps[-1]))
        family.append((c, key))
    here = family.index((column, "ppo"))
    said = re.search(
        r"At no more tokens than the agent's (\d+) a problem(?: \(seed ([\d, ]+)\))? resampling draws up to (\d+) times(, its last,)? "
        rf"and solves ([\d.]+) % for (\d+); the agent's difference from that is {INTERVAL}\.",
        line,
    ).groups()  # type: ignore[union-attr]
    agent, draws = of_both(found[column, "ppo"], found[column, "resampling"])
    assert said[1] == (", ".join(map(str, agent)) if len(agent) < len(found[column, "ppo"]) else None)
    assert (said[2], said[3] is not None) == (str(allowed[here][0]), allowed[here][0] == allowed[here][1])
    assert float(said[0]) == pytest.approx(tokens(agent, budget), abs=0.501)
    assert float(said[4]) == pytest.approx(100 * (outcomes_by_seed(draws, allowed[here][0]) == 1).mean(), abs=0.0501)
    assert float(said[5]) == pytest.approx(tokens(draws, allowed[here][0]), abs=0.501)
    check_difference(said[6:], gaps[here], multipletests(p_values, method="holm")[1][here])
    rows = of_both(*(found[column, key] for key in ("direct", "resampling", "ppo")))
    direct, again, agent = (100 * (outcomes_by_seed(row, budget) == 1).mean() for row in rows)
    ends = re.search(r"it is ([+-][\d.]+) points; drawing again alone makes ([+-][\d.]+)(?:, (\d+) % of|\.)", line)
    assert ends and float(ends[1]) == pytest.approx(agent - direct, abs=0.0501)
    assert float(ends[2]) == pytest.approx(again - direct, abs=0.0501) and (ends[3] is None) == (agent <= direct)
    assert ends[3] is None or float(ends[3]) == pytest.approx(100 * (again - direct) / (agent - direct), abs=0.501)


def test_the_verdicts_name_the_best_control_and_the_difference() -> None:
    *_, paragraph = block("results").strip().splitlines()
    lines = re.findall(r"In (?:completion|chat) form .*?\.(?= In |$)", paragraph)
    assert " ".join(lines) == paragraph and len(lines) == 2
    for form, line in zip(("completion", "chat"), lines, strict=True):
        assert line.startswith(f"In {form} form ")
        check_verdict(line, masks("laptop"), 3, form)


def test_the_agent_on_mbpp_is_counted_again(on_mbpp: dict[tuple[str, str], np.ndarray]) -> None:
    for title in ("mbpp", "choice"):
        for column in {column for column, _ in on_mbpp}:
            lines = re.findall(rf"^- (?:With )?{column}:? the agent .*$", block(title), re.MULTILINE)
            if (column, "RL Agent (PPO)") not in on_mbpp:
                assert lines == ([] if title == "mbpp" else [f"- {column}: the agent is not run yet."])
                continue
            (line,) = lines
            check_verdict(line, masks("mbpp_coder"), 10, column)
            check_rest(line, masks("mbpp_coder"), 10, column)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (1,)])
def test_what_is_said_of_an_agent_is_counted_again(seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sentences on other runs: those of the laptop, which have an agent in two columns; controls of fewer seeds."""
    read = update_docs.runs.collect(str(RESULTS / "laptop"))[0]
    columns = update_docs.runs.columns([r for r in read if r.strategy == "ppo" or r.identity["seed"] in seeds])[0]
    monkeypatch.setattr(update_docs, "columns_on_mbpp", lambda: columns)
    found = {
        (form, key): {s: rows for s, rows in groups.items() if key.startswith("ppo") or s in seeds}
        for (form, key), groups in masks("laptop").items()
    }
    for column in columns:
        form = column.reference.settings["prompt_form"]
        check_verdict(update_docs.gain(column), found, 3, form)
        check_rest(update_docs.gain(column), found, 3, form)


def test_the_published_scores_are_counted_again_and_lie_inside_our_intervals() -> None:
    cases = json.loads((RESULTS / "published" / "humaneval.json").read_text())["cases"]
    _, rows = table(block("published"))
    for (name, case), row in zip(cases.items(), rows, strict=True):
        size = name.partition("-")[0]
        assert row[0].startswith(f"{size.upper()}, ") and row[0].endswith(case["dtype"])
        ids = case["solved_ids"]
        assert case["n"] == 164 and len(set(ids)) == len(ids) == case["solved"] and set(ids) <= set(range(164))
        bounds = proportion_confint(len(ids), 164, method="wilson")
        said = [float(number) for number in re.findall(r"[\d.]+", row[1])]
        assert said == pytest.approx([100 * len(ids) / 164, *(100 * bound for bound in bounds)], abs=0.0501)
        assert float(row[2]) == {"0.5b": 61.6, "1.5b": 70.7}[size]  # arXiv 2409.12186v3, table 16
        assert ("-" in name) or said[1] <= float(row[2]) <= said[2]
    plain, begun = (100 * cases[name]["solved"] / 164 for name in ("0.5b-plain", "0.5b"))
    assert f"solves {plain:.1f} % where it solves {begun:.1f} with it" in " ".join(
        (ROOT / "docs/models.md").read_text().split()
    )
    said_in_readme = re.findall(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", block("held"))
    shown = [cases[name] for size in ("0.5b", "1.5b") for name in (size, f"{size}-int8") if name in cases]
    for numbers, case in zip(said_in_readme, shown, strict=True):
        solved = len(case["solved_ids"])
        expected = [solved / 164, *proportion_confint(solved, 164, method="wilson")]
        assert [float(number) for number in numbers] == pytest.approx([100 * x for x in expected], abs=0.0501)


def test_forms_of_the_prompt_and_int8_are_counted_again() -> None:
    header, rows = table(block("forms"))
    cases = json.loads((RESULTS / "published" / "prompt_forms.json").read_text())["cases"]
    assert sum(cell != "" for row in rows for cell in row[2:]) == len(cases)
    for row in rows:
        for form, cell in zip(header[2:], row[2:], strict=True):
            if not cell:  # not tried, and counted above
                continue
            case = cases[f"{row[0].partition(',')[0]} {row[1]} {form}"]
            solved, tokens = (float(number) for number in re.findall(r"[\d.]+", cell))
            assert len(set(case["solved_ids"])) == case["solved"] and row[0].endswith(case["dtype"])
            assert solved == pytest.approx(100 * len(case["solved_ids"]) / 90, abs=0.0501)
            assert tokens == pytest.approx(case["tokens"] / 90, abs=0.501)
    cases = json.loads((RESULTS / "published" / "int8.json").read_text())["cases"]
    rows = table(block("int8"))[1]
    assert len(rows) == 2 * len(cases)
    for row in rows:
        model, _, types = row[0].partition(", ")
        case = cases[f"{model}, {types.partition(' and ')[2]}"][row[1].partition(",")[0]]
        only_float, only_int8 = len(set(case["only_float"])), len(set(case["only_int8"]))
        solved = [float(cell) * case["n"] / 100 for cell in row[2:4]]
        assert solved == pytest.approx(case["solved"], abs=case["n"] * 0.000501)
        assert case["solved"][1] - case["solved"][0] == only_int8 - only_float
        values = np.array([[1.0] * only_int8 + [-1.0] * only_float + [0.0] * (case["n"] - only_float - only_int8)])
        said = [float(number) for number in re.findall(r"[+-][\d.]+", row[4])]
        assert said[0] == pytest.approx(100 * values.mean(), abs=0.0501)
        drawn = 100 * bootstrap(values)  # of whole problems: a bound may lie between two, so its share of draws is held
        for bound, share in zip(said[1:], (0.025, 0.975), strict=True):
            assert (drawn < bound - 0.0501).mean() <= share + 0.01 and (drawn <= bound + 0.0501).mean() >= share - 0.01
        assert float(row[5]) == pytest.approx(binomtest(only_int8, only_int8 + only_float).pvalue, abs=0.00501)


def test_wordings_are_counted_again() -> None:
    record = json.loads((RESULTS / "published" / "wordings.json").read_text())
    said = re.search(r"MBPP's (\d+) validation problems .* is shown on (\d+)\.", block("wordings"))
    assert said and [int(number) for number in said.groups()] == [record["n"], record["failed"]]
    rows, styles = table(block("wordings"))[1], record["styles"]
    again = np.array(styles["direct"]["solved"], float)
    assert len(rows) == len(styles) == 4
    for row, (style, found) in zip(rows, styles.items(), strict=True):
        solved = np.array(found["solved"], float)
        assert set(solved) <= {0, 1} and len(solved) == record["failed"]
        assert row[1] == f"{solved.sum():.0f} of {record['failed']}"
        if style != "direct":
            assert style in row[0]
            gain, low, high = (float(number) for number in re.findall(r"[+-][\d.]+", row[2]))
            assert gain == pytest.approx(100 * (solved - again).mean(), abs=0.0501)
            expected = np.quantile(100 * bootstrap((solved - again)[None]), [0.025, 0.975])
            assert [low, high] == pytest.approx(expected, abs=2.05)  # a step of one problem


def test_both_models_fit_as_it_is_said() -> None:
    record = json.loads((RESULTS / "speed" / "memory.json").read_text())
    loaded, worked = record["stages"].values()
    said = [float(number) for number in re.findall(r"([\d.]+) GB", block("memory"))]
    assert said == pytest.approx(
        [case[kind] / 1000 for case in (loaded, worked) for kind in ("resident_mb", "peak_mb")], abs=0.0501
    )
    assert said[-1] < 8 and record["rows"] == 64 and record["dtype"] == "int8"  # what coder is meant to fit in


def test_the_speed_ratios_are_those_of_the_loops() -> None:
    record = json.loads((RESULTS / "speed" / "rollout.json").read_text())
    rate = {loop["name"]: loop["steps_per_second"] for loop in record["loops"]}
    _, loops = table(block("speed").split("\n\n")[1])
    assert {row[0]: float(row[1]) for row in loops} == pytest.approx(rate, abs=0.0051)
    _, checks = table(block("speed").split("\n\n")[2])
    said = {row[0]: float(row[1].split()[0]) for row in checks}
    pairs = {
        "float32 against the reference": ("batched float32", "reference float32"),
        "bfloat16 against the reference": ("batched bfloat16", "reference bfloat16"),
        "bfloat16 against the published loop": ("batched bfloat16", "published float32"),
    }
    for name, (ours, theirs) in pairs.items():
        assert said[name] == pytest.approx(rate[ours] / rate[theirs], rel=1e-3)
    training = next(loop for loop in record["loops"] if loop["kind"] == "training")
    assert said["training: inside the model's forward pass"] == pytest.approx(100 * training["forward_share"], rel=1e-3)
    parts = sum(training["shares"][name] for name in ("mutation", "embedding", "sandbox"))
    assert said["training: mutation, embedding, sandbox"] == pytest.approx(100 * parts, rel=1e-3)
    assert said["training: peak memory"] == pytest.approx(training["peak_memory_mb"] / 1000, rel=1e-3)


def test_the_minutes_are_those_that_were_measured() -> None:
    measured = json.loads((RESULTS / "speed" / "minutes.json").read_text())
    _, rows = table(block("minutes"))
    assert {row[0].split("`")[1]: row[-1] for row in rows if row[-1][0].isdigit()} == {
        name: f"{entry['seconds'] / 60:.0f}" for name, entry in measured["commands"].items()
    }


def test_the_minutes_in_readme_are_those_of_the_table() -> None:
    _, rows = table(block("minutes"))
    taken = {row[0].strip("`"): row[-1] for row in rows}
    install, demo, test = re.search(
        r"install (\d+), then `make demo` (\d+), `make test` (\d+)\.", block("in short")
    ).groups()  # type: ignore[union-attr]
    assert install == taken["make assets .venv/bin/.requirements-dev"]
    assert (demo, test) == (taken["make demo"], taken["make test"])


def test_the_blocks_are_what_the_tool_writes() -> None:
    for blocks in update_docs.BLOCKS.values():
        for title, write in blocks.items():
            assert block(title) == write()


def test_a_caption_for_all_rows_needs_rows_that_agree() -> None:
    assert update_docs.same("budgets", iter([4, 4])) == 4
    with pytest.raises(SystemExit, match="budgets differ"):
        update_docs.same("budgets", [4, 4, 10])


def test_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.splitlines()) <= 150
    assert set(re.findall(r"^- \[(docs/\w+\.md)\]\(\1\): ", README, re.MULTILINE)) == {
        f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")
    }


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_what_a_page_links_to_or_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"`((?:profiles|results|slurm|tests|tools|benchmarks|data)/[\w./-]+)`", text)
    for path in [*(page.parent / link for link in links), *(ROOT / name for name in named)]:
        assert path.exists(), path


def test_the_ablations_of_the_docs_each_change_what_they_name(tmp_path, monkeypatch, capsys):
    """The loop as bash expands it, and each of its commands as a plan: one setting differs from the first, the whole."""
    page = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    (loop,) = re.findall(r"```bash\n(for change in .*?)```", page, re.S)
    said = subprocess.run(["bash", "-ec", f'ppo-codet5() {{ printf "%q " "$@"; echo; }}\n{loop}'], capture_output=True)
    lines = [shlex.split(line) for line in said.stdout.decode().splitlines()]
    monkeypatch.chdir(tmp_path)
    plans = []
    for line in lines[:-1]:
        assert cli.main([*line, "-p", "problems=starter", "--dry-run", "--json"]) == 0
        tasks = json.loads(capsys.readouterr().out)["tasks"]
        plans.append([parameters_of(ROOT / "02_PPO_LlaMa.ipynb", task["parameters"]) for task in tasks])
    assert len(plans) == 7 and all([plan["seed"] for plan in seeds] == [0, 1] for seeds in plans)
    whole = plans[0][0]
    assert whole["memory_size"] == 3 and whole["eval_split"] == "validation"
    changed = [{name for name in whole if name != "run_dir" and seeds[0][name] != whole[name]} for seeds in plans]
    wanted = ["memory_size", "show_feedback", "rewrite_style", "edit_base", "observation", "rewriter_model"]
    assert changed == [set(), *({name} for name in wanted)]
    kept = [line[line.index("--keep") + 1] for line in lines[:-1]]
    place = lines[-1].index("ablations=results/ablations")
    assert lines[-1][place - 1] == "-p" and f"runs={kept[0]}" in lines[-1]
    assert len(set(kept)) == 7 and {Path(folder).parent for folder in kept} == {Path("results/ablations")}


def test_the_example_of_problems_of_one_s_own_works_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    rows = re.search(r"<!-- example: [^>]*-->\n```json\n(.*?)```", page, re.DOTALL)[1]
    check = re.search(r"<!-- check: [^>]*-->\n```python\n(.*?)```", page, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text(rows, encoding="utf-8")
    exec(compile(check, "docs/running.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == "3 problems; references that fail: {}"
    found = {split: load_problems("mine.jsonl", split) for split in ("train", "validation", "test")}
    assert [len(problems) for problems in found.values()] == [1, 1, 1]
    table = page.split("## Problems of your own")[1].split("For example")[0]
    described = set(re.findall(r"^\| `(\w+)`(?: \(or `\w+`\))? \|", table, re.MULTILINE))
    used = set().union(*(json.loads(row) for row in rows.splitlines()))
    assert used <= described and {"test_setup_code", "task_id"} <= described
    needed = set(re.findall(r"^\| `(\w+)`.* needed \|", table, re.MULTILINE))
    for field in described:  # what the page calls needed is, and the rest is not
        row = {k: v for k, v in json.loads(rows.splitlines()[0]).items() if k != field}
        Path("less.jsonl").write_text(json.dumps(row), encoding="utf-8")
        with pytest.raises(ProblemError, match=f"'{field}' is missing") if field in needed else nullcontext():
            load_problems("less.jsonl")
    for split, ids in MBPP_SPLITS.items():
        assert f"{ids[0]} to {ids[-1]} `{split}`" in table.replace("\n", " ")
    for error in re.findall(r"^error: (.*)", page.split("## Problems of your own")[1], re.MULTILINE):
        first, second = rows.splitlines()[1:], json.loads(rows.splitlines()[1]) | {"test_list": []}
        bad = first if "split" in error else [rows.splitlines()[0], json.dumps(second)]
        Path("mine.jsonl").write_text("\n".join(bad), encoding="utf-8")
        with pytest.raises(ProblemError) as caught:
            load_problems("mine.jsonl", "train")
        assert str(caught.value).startswith(error.removesuffix("..."))


def test_the_map_shows_the_tree() -> None:
    drawn = README.split("## Where things are\n\n```\n")[1].split("```")[0]
    helpers = ROOT / "helpers"
    assert sorted(re.findall(r"^  (\w+(?:/|\.py)) ", drawn, re.MULTILINE)) == sorted(
        f"{path.name}/" if path.is_dir() else path.name for path in helpers.glob("[!_.]*")
    )
    models = " ".join(re.findall(r"^    (\w.*)", drawn, re.MULTILINE))
    assert sorted(re.findall(r"\w+\.py", models)) == sorted(p.name for p in (helpers / "models").glob("[!_]*.py"))
    for folder, words in re.findall(r"^(\w+)/(.*(?:\n {8}.*)*)", drawn, re.MULTILINE):
        for name in re.findall(r"\w+\.py", words):
            assert (ROOT / folder / name).exists(), f"{folder}/{name}"
    for folder in re.findall(r"(?:^|(?<=/  ))(\w+)/", drawn, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_the_bank_s_rates_are_counted_again_and_direct_generation_is_where_it_says(
    on_mbpp: dict[tuple[str, str], np.ndarray],
) -> None:
    (folder,) = {path.parent for path in (RESULTS / "mbpp_coder").rglob("bank_*/config.json")}
    identity = json.loads((folder / "config.json").read_text())["identity"]
    lines = gzip.decompress((folder / "attempts.train.jsonl.gz").read_bytes()).decode().splitlines()
    right: dict = defaultdict(lambda: defaultdict(list))
    for row in map(json.loads, lines):
        assert row["attempt"] in (0, 1)
        right[row["attempt"], row["action"]][row["task_id"]].append(all(row["scored_mask"]))
    names, *rates = [
        cells for _, *cells in [table(block("bank"))[0], *table(block("bank").split("\n\n| choosing")[0])[1]]
    ]
    assert names == ["direct", "mutation", "rewriting"]
    found = json.loads((folder / "summary.json").read_text())["bank"]
    for name in found.get("agent", [{}])[0]:
        (said_of,) = re.findall(rf"{name} ([\d.]+)", block("bank"))
        assert float(said_of) == pytest.approx(100 * np.mean([seed[name] for seed in found["agent"]]), abs=0.0501)
    clear = [name for name, (_, low, _) in found["gains"].items() if low > 0]
    assert (clear == []) == ("No choice gains more than chance" in block("bank"))
    (room,) = re.findall(r"at most ([\d.]+) points in one attempt", block("bank"))
    one = [high for name, (*_, high) in found["gains"].items() if "two attempts" not in name]
    assert float(room) == pytest.approx(100 * max(one), abs=0.0501)
    failures = Counter(task for task, draws in right[1, 0].items() for _ in draws)
    for least in (2, 4):
        said_of = rf"two attempts.* \(of the {sum(n >= least for n in failures.values())} problems with {least} failures or more\)"
        assert re.search(said_of, block("bank"))
    for attempt, said in enumerate(rates):
        for action, cell in enumerate(said):
            draws = [draw for some in right[attempt, action].values() for draw in some]
            assert float(cell) == pytest.approx(100 * np.mean(draws), abs=0.0501)
    shares_of_bank = np.array([[np.mean(some) for some in right[0, 0].values()]])
    bank = np.quantile(bootstrap(shares_of_bank), [0.025, 0.975])
    solved = on_mbpp[f"{identity['visible_tests']} assert visible", "Direct Generation (Action 0, 1 attempt)"] == 1
    test = proportion_confint(solved[0].sum(), solved[0].size, method="wilson")
    assert max(bank[0], test[0]) <= min(bank[1], test[1]), "two independent counts of one rate"


def test_what_ppo_learns_by_its_settings_is_counted_again() -> None:
    record = json.loads((RESULTS / "learning" / "planted.json").read_text())
    header, rows = table(block("learning"))
    found = {(row["settings"], row["task"]): row for row in record["rows"]}
    kinds = header[1:-1]
    assert len(found) == len(rows) * len(kinds) == len(record["rows"])
    for name, *cells, at_once in rows:
        for kind, cell in zip(kinds, cells, strict=True):
            assert float(cell) == pytest.approx(np.mean(found[name, kind]["gains"]), abs=0.0501)
        assert float(at_once) == pytest.approx(np.mean([found[name, kind]["at_once"] for kind in kinds]), abs=0.501)
    profile = load_profile("coder")
    options = {**vars(Parameters()), **profile}
    taken = tuple(options[name] for name in learning.SETTINGS)
    sums = {name: sum(np.array(found[name, kind]["gains"]) for kind in kinds) for name, *_ in rows}
    ours = next(sums[name] for name in sums if learning.VARIANTS[name] == taken)
    best = max(sums.values(), key=np.mean)  # what the profile takes is no worse than it by what chance allows
    assert np.mean(best) - np.mean(ours) <= 2 * np.hypot(np.std(best), np.std(ours)) / len(ours) ** 0.5
    assert learning.EPISODES == profile["max_episodes"] == record["episodes"]
