"""Write the marked blocks of README.md and docs/ from results/ and the code; ``--check`` exits 1 if one is out of date.

python -m ppo_codet5.reproduce --profile laptop --seeds 0 1 2 --keep results/laptop
(results/mbpp_coder: as far as the commands in its READMEs; whole it is
python -m ppo_codet5.reproduce --profile coder -p problems=mbpp.jsonl --seeds 0 1 2 --keep results/mbpp_coder/leak_free
and the same with coder_published)
python benchmarks/rollout.py --output results/speed/rollout.json
python benchmarks/decoders.py --rows 8,24,96 --output results/speed/decoders.json
python tools/update_docs.py
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, in a checkout that is not installed

import numpy as np  # noqa: E402
from ppo_codet5.helpers.results import runs, statistics, tables  # noqa: E402
from ppo_codet5.helpers.settings import model_label  # noqa: E402

from ppo_codet5.config import Config  # noqa: E402
from ppo_codet5.reproduce import CODER_TIME  # noqa: E402

MARKS = ("<!-- {}: written by tools/update_docs.py -->\n", "\n<!-- end of {} -->")
DRAWS = {"seed": 0, "resamples": 10000}


def same(what: str, values: Iterable[Any]) -> Any:
    """The value that all of them have: a caption says it once for the whole table."""
    first, *others = values
    if any(other != first for other in others):
        raise SystemExit(f"{what} differ ({[first, *others]}), and a caption gives one for all")
    return first


@cache
def columns_of_laptop() -> list[runs.Column]:
    """The committed laptop runs, a column for each form of prompt."""
    return runs.columns(runs.collect(str(ROOT / "results" / "laptop"))[0])[0]


def results() -> str:
    """The table of the committed laptop runs, what was run, and whether the agent beat the controls."""
    columns = columns_of_laptop()
    found = tables.scores(columns, [], **DRAWS)
    compared = tables.comparisons(columns, **DRAWS)
    adjusted = statistics.holm([c.p for c in compared])
    s = {
        key: same(key, (column.reference.settings[key] for column in columns))
        for key in ("code_model", "rewriter_model", "problems", "visible_tests", "max_steps", "max_episodes")
    }
    rows = [entry for column in columns for entry in column.entries.values()]
    n, seeds = same("problems and seeds of the rows", ((len(row.task_ids), row.seeds) for row in rows))
    return "\n".join(
        [
            f"{same('models', (s['code_model'], s['rewriter_model']))} writes and rewrites, asked in {len(columns)} forms; "
            f"{s['problems']} problems, {s['visible_tests']} assert visible, at most {s['max_steps']} generations a problem; "
            f"the agent learned from {s['max_episodes']} training episodes. Per cent with 95 % intervals; n = {n} held-out "
            f"problems x {len(seeds)} seeds ({', '.join(map(str, seeds))}) in every cell. Bold: the best of a column.",
            "",
            score_table(columns, found).markdown().strip(),
            "",
            " ".join(
                verdict(
                    column,
                    list(zip(compared, adjusted, strict=True)),
                    f"In {column.reference.settings['prompt_form']} form",
                )
                for column in columns
            ),
        ]
    )


def score_table(columns: list[runs.Column], found: tables.Scores) -> tables.Table:
    """Every row of every column without its n, which the caption gives; † marks rows with settings of their own."""
    header, rows = ["Strategy"], {}
    for column in columns:
        cells = found[column.title]
        own = [runs.TITLES[name] for name in column.entries if name in runs.OWN_SETTINGS]
        for index, measure in enumerate(tables.MEASURES):
            header.append(f"{column.reference.settings['prompt_form']}: {measure}")
            for title, pair in cells.items():
                rows.setdefault(f"{title} †" if title in own else title, {})[header[-1]] = str(pair[index])
    lines = [[name, *(row.get(h, "-") for h in header[1:])] for name, row in rows.items()]
    tables.mark_best(lines, range(1, len(header)))
    return tables.Table(header, lines)


@cache
def runs_on_mbpp() -> list[runs.RunDir]:
    """The kept runs of the code models, read once for all blocks."""
    return runs.collect(str(ROOT / "results" / "mbpp_coder"))[0]


@cache
def columns_on_mbpp() -> list[runs.Column]:
    """Their columns: the protocols."""
    return runs.columns(runs_on_mbpp())[0]


def mbpp() -> str:
    """The table of the code models on MBPP by protocol, what it says, and which rows were not run."""
    columns = columns_on_mbpp()
    found = tables.scores(columns, [], **DRAWS)
    s = {
        key: same(key, (column.reference.settings[key] for column in columns))
        for key in ("code_model", "rewriter_model", "max_steps", "task_ids")
    }
    first, *others = ((_protocol(c), c.reference.settings["code dtype"]) for c in columns)
    dtypes = first[1] + "".join(f" ({protocol}: {dtype})" for protocol, dtype in others if dtype != first[1])
    header = ["Strategy", *(f"{_protocol(c)}: {what}" for c in columns for what in (*tables.MEASURES, "seeds"))]
    rows, missing = [], []
    for name in columns[0].strategies:
        cells, title = [], runs.TITLES[name]
        for column in columns:
            pair = found[column.title].get(title)
            cells += [*map(str, pair), str(pair[0].seeds)] if pair else ["not run", "", ""]
        if set(cells) == {"not run", ""}:
            missing.append(title)
        else:
            rows.append([f"{title} †" if name in runs.OWN_SETTINGS else title, *cells])
    tables.mark_best(rows, [index for index in range(1, len(header)) if index % 3])  # not the seeds
    caption = (
        f"{s['code_model']} writes, {s['rewriter_model']} rewrites, both in {dtypes}; MBPP's test problems, n = "
        f"{len(s['task_ids'])} in every cell, at most {s['max_steps']} generations a problem. Per cent with 95 % intervals; "
        "the best of a column is bold."
    )
    said = [line for c in columns for line in (again(c), beside(c), runs.AGENT in c.entries and gain(c)) if line]
    said += [f"- Not run yet with this model: {'; '.join(missing)}."] if missing else []
    return "\n".join([caption, "", tables.Table(header, rows).markdown().strip(), "", *said])


def _protocol(column: runs.Column) -> str:
    visible = column.reference.settings["visible_tests"]
    return "all asserts visible" if visible == "all" else f"{visible} assert visible"


def again(column: runs.Column) -> str:
    """What drawing again is worth: resampling with the whole budget against its first draw, and what it looks like."""
    draws = column.entries.get(runs.RESAMPLING)
    if not draws:
        return ""
    first, last, budget = draws.solved(1), draws.solved(), draws.budget
    looks = draws.looks_solved()[0].mean()
    return (
        f"- {_protocol(column)}: drawing again, up to {budget} times and nothing else, lifts the share solved from "
        f"{100 * first.mean():.1f} to {100 * last.mean():.1f} % ({_points(last, first)}); {100 * looks:.1f} % look solved."
    )


@cache
def beside_draws() -> list[tuple[runs.Column, str, runs.Entry, str, str, str]]:
    """Strategies of several attempts but the agent beside resampling, over the seeds that both have: column, title, entry,
    difference from as many draws, how many draws cost no more tokens, difference from these. Holm's family: all of these."""
    found = []
    for column in (c for c in columns_on_mbpp() if runs.RESAMPLING in c.entries):
        draws = column.entries[runs.RESAMPLING]
        for as_dear, budget in tables.at_equal_tokens(column, **DRAWS):
            if (name := as_dear.strategy) not in (*runs.ONE_ATTEMPT, runs.AGENT):
                entry = column.entries[name]
                as_often = tables.compare(column, name, entry, draws, **DRAWS, budget=entry.budget)
                last = " (its last)" * (budget == draws.of(as_dear.seeds).longest)
                title = f"{runs.TITLES[name]}{_of_seeds(as_dear.seeds, entry)}"
                found.append((column, title, entry.of(as_dear.seeds), as_often, f"{budget}{last}", as_dear))
    p = iter(statistics.holm([c.p for *_, as_often, _, as_dear in found for c in (as_often, as_dear)]))
    return [
        (column, title, entry, _difference(as_often, next(p)), budget, _difference(as_dear, next(p)))
        for column, title, entry, as_often, budget, as_dear in found
    ]


def _of_seeds(seeds: list[int], entry: runs.Entry) -> str:
    """Which seeds a figure is of, if not of all that the row has."""
    return "" if seeds == entry.seeds else f" (seed {', '.join(map(str, seeds))})"


def beside(column: runs.Column) -> str:
    """What edits add to drawing again as often, by strategy, and what they cost; empty if none was run."""
    said = [
        f"{title} solves {100 * entry.solved().mean():.1f} % for {entry.tokens():.0f} tokens ({as_often})"
        for one, title, entry, as_often, *_ in beside_draws()
        if one is column
    ]
    if not said:
        return ""
    draws = column.entries[runs.RESAMPLING]
    return (
        f"- {_protocol(column)}: beside drawing again as often ({draws.tokens(draws.budget):.0f} tokens a problem; differences in "
        f"points), {'; '.join(said)}."
    )


def gain(column: runs.Column) -> str:
    """The agent against the best control of equal generations and of equal tokens, and what of it is drawing again."""
    if runs.AGENT not in column.entries:
        return f"- {_protocol(column)}: the agent is not run yet."
    compared = tables.comparisons(columns_on_mbpp(), **DRAWS)
    found = list(zip(compared, statistics.holm([c.p for c in compared]), strict=True))
    said = [verdict(column, found, f"With {_protocol(column)}"), *at_equal_tokens(column), *of_it_drawing(column)]
    return f"- {' '.join(said)}"


def at_equal_tokens(column: runs.Column) -> list[str]:
    """The agent against resampling that spends no more tokens, with Holm's p over all rows that are compared so."""
    found = [(one, *pair) for one in columns_on_mbpp() for pair in tables.at_equal_tokens(one, **DRAWS)]
    adjusted, said = statistics.holm([c.p for _, c, _ in found]), []
    for (one, c, budget), p in zip(found, adjusted, strict=True):
        if one is column and c.strategy == runs.AGENT:
            agent, draws = (column.entries[name].of(c.seeds) for name in (runs.AGENT, runs.RESAMPLING))
            last = ", its last," * (budget == draws.longest)
            said.append(
                f"At no more tokens than the agent's {agent.tokens():.0f} a problem{_of_seeds(c.seeds, column.entries[runs.AGENT])} "
                f"resampling draws up to {budget} times{last} and solves {100 * draws.solved(budget).mean():.1f} % for "
                f"{draws.tokens(budget):.0f}; the agent's difference from that is {_difference(c, p)}."
            )
    return said


def of_it_drawing(column: runs.Column) -> list[str]:
    """How much of the way from one direct attempt to the agent resampling goes, with as many generations."""
    if not {"direct", runs.RESAMPLING} <= set(column.entries):
        return []
    entries = [column.entries[name] for name in ("direct", runs.RESAMPLING, runs.AGENT)]
    if not (seeds := runs.common_seeds(*entries)):
        return []
    direct, draws, agent = (100 * entry.of(seeds).solved().mean() for entry in entries)
    way = f", {100 * (draws - direct) / (agent - direct):.0f} % of that way" if agent > direct else ""
    return [
        f"From direct generation to the agent{_of_seeds(seeds, column.entries[runs.AGENT])} it is {agent - direct:+.1f} points; "
        f"drawing again alone makes {draws - direct:+.1f}{way}."
    ]


def _interval(c: tables.Comparison, unit: str = "") -> str:
    low, high = (100 * bound for bound in c.interval)
    return f"{100 * c.difference:+.1f}{unit}, 95 % interval {low:+.1f} to {high:+.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _difference(c: tables.Comparison, p: float) -> str:
    """A difference with its interval and its adjusted p."""
    return f"{_interval(c)}, Holm p {_p(p)}"


def _points(first: Any, second: Any) -> str:
    gap, low, high = (100 * x for x in statistics.paired_bootstrap(first, second, **DRAWS))
    return f"{gap:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"


def claim() -> str:
    """The published figures of three rows."""
    published = tables.published()
    rows = {"one attempt": "direct", "ten random actions": "random", "the agent": runs.AGENT}
    said = [
        f"{model}: {', '.join(f'{words} {found[name][0]}' for words, name in rows.items())}"
        for model, found in published.items()
    ]
    lines = [f"Published, solved in per cent, all asserts visible. {'. '.join(said)}."]
    gains = [float(found[runs.AGENT][0]) - float(found["direct"][0]) for found in published.values()]
    for column in columns_on_mbpp():
        if column.reference.settings["visible_tests"] == "all" and (draws := column.entries.get(runs.RESAMPLING)):
            first, last = (100 * draws.solved(budget).mean() for budget in (1, None))
            lines.append(
                f"So the agents are {' and '.join(f'{gain:.1f}' for gain in gains)} points above one attempt. In that protocol, without "
                f"agent and edit: {model_label(column.reference.settings['code_model'])} solves {first:.1f} with one draw and {last:.1f} "
                f"with at most {draws.budget}, {last - first:+.1f} points. It is another model, so the levels cannot be compared."
            )
    return "\n\n".join(lines)


def choice() -> str:
    """README's sentences on the agent, or that it was not run."""
    return "\n".join(gain(column) for column in columns_on_mbpp())


def draws() -> str:
    """What drawing again is worth in each protocol, without any edit: resampling by the number of draws."""
    lines = []
    for column in (c for c in columns_on_mbpp() if runs.RESAMPLING in c.entries):
        entry = column.entries[runs.RESAMPLING]
        n = len(entry.task_ids)
        lines += [
            f"{_protocol(column)}, n = {n} problems x {len(entry.seeds)} seed{'s' * (len(entry.seeds) > 1)}:",
            "",
            "| draws at most | solved, per cent | look solved | tokens a problem |",
            "|---|---|---|---|",
        ]
        for budget in sorted({1, 2, 3, 5, entry.budget, entry.longest}):
            solved = entry.solved(budget)
            low, high = (100 * x for x in statistics.share_interval(solved, **DRAWS))
            looks = 100 * entry.looks_solved(budget)[0].mean()
            cells = f"{100 * solved.mean():.1f} [{low:.1f}, {high:.1f}] | {looks:.1f} | {entry.tokens(budget):.0f}"
            lines.append(f"| {budget} | {cells} |")
        lines.append("")
    return "\n".join(lines).strip()


def edits() -> str:
    """Single edits as first attempts, against direct generation with the same random numbers, and what they cost."""
    lines = [
        "| first attempt | protocol | solved, per cent | against direct generation | tokens a problem | solved by draws for no more |",
        "|" + "---|" * 6,
    ]
    for column in columns_on_mbpp():
        affordable = {c.strategy: (budget, c.seeds) for c, budget in tables.at_equal_tokens(column, **DRAWS)}
        for name in runs.ONE_ATTEMPT:
            if not (entry := column.entries.get(name)):
                lines.append(f"| {name} | {_protocol(column)} | not run | | | |")
                continue
            direct = column.entries.get("direct")
            c = tables.compare(column, name, entry, direct, **DRAWS) if direct and name != "direct" else None
            against = f"{_interval(c, ' points')}{_of_seeds(c.seeds, entry)}" if c else ""
            drawn = ""
            if name in affordable:
                draws, seeds = affordable[name]
                share = 100 * column.entries[runs.RESAMPLING].of(seeds).solved(draws).mean()
                drawn = f"{share:.1f} ({draws} draw{'s' * (draws > 1)})"
            lines.append(
                f"| {name} | {_protocol(column)} | {100 * entry.solved().mean():.1f} | {against} | {entry.tokens():.0f} | {drawn} |"
            )
    return "\n".join(lines)


def loops() -> str:
    """Strategies of several attempts against drawing again, as often and for no more tokens."""
    lines = [
        "| up to 10 attempts | protocol | solved, per cent | tokens a problem | against as many draws | draws for no more tokens "
        "| against these |",
        "|" + "---|" * 7,
    ]
    for column, title, entry, as_often, budget, as_dear in beside_draws():
        lines.append(
            f"| {title} | {_protocol(column)} | {100 * entry.solved().mean():.1f} | {entry.tokens():.0f} "
            f"| {as_often} | {budget} | {as_dear} |"
        )
    return "\n".join(lines)


def bank() -> str:
    """What the bank says of choosing: rates of the actions, and what choices would gain over the best fixed action."""
    lines = []
    for run in runs_on_mbpp():
        if run.strategy != runs.BANK:
            continue
        found, visible = run.summary["bank"], run.settings["visible_tests"]
        failures = Counter(row["task_id"] for row in run.before if row["attempt"] == 1 and row["action"] == 0)
        lines += [
            f"{run.settings['code_model']} in {run.settings['code dtype']}, asserts visible: {visible}; {found['problems']} training problems, {found['draws']} draws of "
            f"every action on each, and of every action after each of {found['failures']} failures. Per cent and points.",
            "",
            f"| | {' | '.join(found['actions'])} |",
            "|---|" + "---|" * len(found["actions"]),
            *(
                f"| {what} | {' | '.join(f'{100 * rate:.1f}' for rate in found[key])} |"
                for what, key in (("a first attempt solves", "first"), ("an attempt after a failure solves", "after"))
            ),
            "",
            "| choosing, after a failure unless it says at first, by | gain over the best fixed action, with its 95 % interval |",
            "|---|---|",
            *(
                f"| {name}{of_problems(name, failures)} | {100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
                f"{NOTHING * (low == value == high == 0)} |"
                for name, (value, low, high) in found["gains"].items()
            ),
            "",
            "In one attempt no mixture beats the best fixed action, so these gains are over both. "
            + worth(found["gains"]),
            "",
            *in_bank(found.get("agent", [])),
        ]
    return "\n".join(lines).strip()


NOTHING = ": no problem came out differently"
# Choices of two attempts, and the failures of a problem that their value needs.
TWO_ATTEMPTS = {"a fixed mixture, two attempts": 2, "the problem, two attempts, over the best fixed mixture": 4}


def of_problems(name: str, failures: Counter[int]) -> str:
    """What must be said of a line of two attempts: of how many problems it is, the hardest."""
    if name not in TWO_ATTEMPTS:
        return ""
    least = TWO_ATTEMPTS[name]
    return f" (of the {sum(n >= least for n in failures.values())} problems with {least} failures or more)"


def worth(gains: dict[str, list[float]]) -> str:
    """In words whether the bank shows that there is something to choose."""
    clear = [name for name, (_, low, _) in gains.items() if low > 0]
    most = 100 * max(high for name, (_, _, high) in gains.items() if name not in TWO_ATTEMPTS)
    if clear:
        return f"Choosing by {'; by '.join(clear)} gains more than chance, by intervals that allow for one choice each."
    return (
        f"**No choice gains more than chance**; the intervals leave room for at most {most:.1f} points in one attempt, for a "
        "rule that knows as much; one that knew the chances themselves might gain more."
    )


def in_bank(found: list[dict[str, float]]) -> list[str]:
    """What an agent that was trained in the bank alone solves there, beside the best rules."""
    if not found:
        return []
    means = (f"{name} {100 * np.mean([seed[name] for seed in found]):.1f}" for name in found[0])
    return [
        "An agent trained in the bank alone, on half of its problems and for as many episodes as the real one, with the PPO settings of "
        f"notebook 01's first cell, then played on the other half; solved on the visible asserts within the budget, per cent, mean of {len(found)} seeds: "
        f"{'; '.join(means)} (it knows the draws of those problems, so it has their luck too: a bound, not an estimate).",
        "",
    ]


def verdict(column: runs.Column, found: list[tuple[tables.Comparison, float]], where: str) -> str:
    """Whether the agent beat the best control of equal budget: by the interval, and by Holm's p over all rows.

    ``found``: the agent against every row of all columns, with Holm's p. ``where``: how the sentence begins.
    """
    best = column.best_control()
    pairs = [pair for pair in found if (pair[0].column, pair[0].strategy) == (column.title, best)]
    if not best or not pairs:
        return f"{where} the agent is run, and no control of equal budget with a seed of its."
    c, p = pairs[0]
    gap, low, high = 100 * c.difference, *c.interval
    place = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if np.round(gap, 1) else "level with"
    clear = p <= tables.LEVEL and c.one_way and not low <= 0 <= high
    claim = "**no gain over the controls is shown**" if gap <= 0 or not clear else "it is above by more than chance"
    if gap < 0 and clear:
        claim += ", and it is below by more than chance"
    seeds, one = column.entries[runs.AGENT].seeds, ""
    if c.seeds != seeds:
        where += f" and over the seeds that both have ({', '.join(map(str, c.seeds))})"
    elif len(seeds) == 1:
        one = f" (one training, seed {seeds[0]})"
    return (
        f"{where} the agent{one} is {place} the best control of equal budget, {runs.TITLES[best]} "
        f"(difference {_difference(c, p)}): {claim}."
    )


def _record(name: str) -> dict[str, Any]:
    """What a benchmark wrote, by its path in ``results/``."""
    record: dict[str, Any] = json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))
    return record


def _cores(machine: dict[str, Any]) -> str:
    """Number and kind of the cores of a benchmark's machine."""
    return f"{machine['cores']} cores ({machine['cpu_model']})"


def speed() -> str:
    """Steps per second of the loops, and what they are compared for."""
    record = _record("speed/rollout.json")
    machine, versions = record["machine"], record["machine"]["versions"]
    lines = [
        f"{_cores(machine)}, SmolLM2-135M, Python {versions['python']}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}, generation cache off:",
        "",
        "| loop | environment steps/s | tokens/s | inside the model | memory |",
        "|---|---|---|---|---|",
    ]
    for loop in record["loops"]:
        inside = (
            f"{loop['forward_share']:.0%} | {loop['peak_memory_mb'] / 1000:.1f} GB |"
            if "forward_share" in loop
            else "| |"
        )
        rates = f"{loop['steps_per_second']:.2f} | {loop['tokens_per_second']:.0f}"
        lines.append(f"| {loop['name']} | {rates} | {inside}")
    lines += ["", "| what | measured | wanted | |", "|---|---|---|---|"]
    for check in record["checks"]:
        verdict = "" if check["pass"] is None else "yes" if check["pass"] else "**no**"
        lines.append(f"| {check['name']} | {check['value']:.4g} {check['unit']} | {check['bound'] or ''} | {verdict} |")
    return "\n".join(lines)


def neighbour() -> str:
    """What a second process costs, by how idle threads wait."""
    record = _record("speed/neighbour.json")
    machine = record["machine"]
    lines = [
        f"{_cores(machine)}, SmolLM2-135M, seconds of one generation against the default "
        f"alone, median of {record['rounds']}:",
        "",
        "| setting | alone | two at once |",
        "|---|---|---|",
    ]
    ratios = record["ratio_to_default_alone"]
    return "\n".join([*lines, *(f"| {name} | {r['alone']:.2f} | {r['two']:.2f} |" for name, r in ratios.items())])


WHAT = {  # what each command does, for the table of minutes
    "make assets .venv/bin/.requirements-dev": "the install: packages, those of the tests too, and the small models",
    "make demo": "laptop profile, all four notebooks, both forms of prompt",
    "make demo-quick": "smoke profile: every cell, no result",
    "make test": "all fast tests",
    "make test-slow": "CartPole, whole-run repeats, the wheel in a fresh environment, a server, Ray",
}


def minutes() -> str:
    """How long the commands took where they were last timed."""
    record = _record("speed/minutes.json")
    lines = [
        f"Minutes in a fresh clone, nothing generated before, on {record['machine']} (`benchmarks/minutes.py`):",
        "",
        "| command | what | minutes |",
        "|---|---|---|",
    ]
    for name, words in WHAT.items():
        taken = record["commands"].get(name)
        lines.append(f"| `{name}` | {words} | {format(taken['seconds'] / 60, '.0f') if taken else 'not timed'} |")
    lines.append(f"| `make demo PROFILE=coder` | Qwen2.5-Coder on MBPP, in chat form | {CODER_TIME} |")
    lines.append("| `make demo PROFILE=codet5_a100` | published setting: one GPU of 80 GB, and the hub | not run yet |")
    return "\n".join(lines)


def in_short() -> str:
    """The two commands of README, from the table of minutes."""
    record = _record("speed/minutes.json")
    names = ("make assets .venv/bin/.requirements-dev", "make demo", "make test")
    install, demo, test = (format(record["commands"][name]["seconds"] / 60, ".0f") for name in names)
    return f"Minutes on {record['machine']}: the install {install}, then `make demo` {demo}, `make test` {test}."


def half(rows: list[dict]) -> int:
    """The largest number of replicas up to which each keeps at least half of what the first one does."""
    first = rows[0]["attempts_per_second"]
    return max(r["replicas"] for r in rows if r["attempts_per_second"] / first / r["replicas"] >= 0.5)


def cluster() -> str:
    """Hours of the table, and attempts per second by replicas, as benchmarks/cluster.py found them."""
    record = _record("speed/cluster.json")
    about, hours, curves = record["about"], record["hours"], record["curves"]
    seconds = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in about["seconds"].items())
    lines = [
        f"Measured: {about['attempts']} attempts of {about['mean_tokens'][1]:.1f} tokens of code and "
        f"{about['mean_tokens'][3]:.1f} of rewriting; {seconds} (mean per program, text and update, "
        f"{about['machine']['cpu_model']}); {about['timeouts']:.1%} of the programs ran into the time limit. "
        f"Assumed: {about['reached']:.0%} of an A100's bandwidth and matrix rate, {about['start_seconds']:.0f} s to start a "
        f"task and {about['load_bytes'] / 1e9:.0f} GB of weights read a second, 2 dollars an hour.",
        "",
        f"The whole published table and controls of equal budget (without the best fixed mixture), both code models, 3 seeds: {hours['longest']['tasks']} tasks, the longest "
        f"({hours['longest']['task']}) {60 * hours['longest']['hours']:.0f} minutes.",
        "",
        "| A100s | hours | GPU hours of work | dollars |",
        "|---|---|---|---|",
        *(f"| {r['gpus']} | {r['hours']:.1f} | {r['gpu_hours']:.1f} | {r['dollars']:.0f} |" for r in hours["table"]),
        "",
        f"Attempts per second of one run with {about['code']}, and the share of the time that its learner is busy:",
        "",
        "| replicas | " + " | ".join(curves) + " |",
        "|---|" + "---|" * len(curves),
    ]
    for rows in zip(*curves.values(), strict=True):
        cells = " | ".join(f"{row['attempts_per_second']:.0f}, learner {row['busy']['learner']:.0%}" for row in rows)
        lines.append(f"| {rows[0]['replicas']} | {cells} |")
    halves = [f"{name}, {half(rows)}" for name, rows in curves.items()]
    lines += ["", f"The last number of replicas that keeps half of the first one's rate for each: {'; '.join(halves)}."]
    return "\n".join(lines)


def score(case: dict) -> str:
    """Per cent with its interval."""
    low, high = case["interval"]
    return f"{100 * case['solved'] / case['n']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def published() -> str:
    """HumanEval beside the published scores, and what of the difference is whose."""
    record = _record("published/humaneval.json")
    cases = record["cases"]
    processors = " and ".join(dict.fromkeys(case["cpu_model"] for case in cases.values()))
    kinds = {
        "": "as it is used",
        "exact": "nothing rounded: transformers' own loader",
        "int8": "computed in int8",
        "plain": "the reply not begun for it",
    }
    others = ("solved_as_it_stands", "solved_with_400_tokens")
    lines = [
        f"HumanEval, {cases['0.5b']['n']} problems, greedy, at most {cases['0.5b']['max_tokens']} tokens, in EvalPlus's chat form (the "
        "function's head in a block, the reply begun up to its own block), scored by our sandbox on HumanEval's own asserts; "
        "published: arXiv 2409.12186v3, table 16, unquantised weights. Per cent with Wilson intervals of 95 %. "
        f"`benchmarks/published.py`, {record['machine']['cores']} cores of {processors}.",
        "",
        "| model | Pass@1 | published | the block as it stands | with 400 tokens | replies cut |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        size, _, kind = name.partition("-")
        share = " | ".join(f"{100 * case[key] / case['n']:.1f}" for key in others)
        lines.append(
            f"| {size.upper()}, {kinds[kind]}, {case['dtype']} | {score(case)} | {100 * case['published']:.1f} | {share} "
            f"| {', '.join(map(str, case['cut'])) or 'none'} |"
        )
    return "\n".join(lines)


def held() -> str:
    """README's sentence on the published scores."""
    record = _record("published/humaneval.json")
    cases = record["cases"]
    int8 = {size: f"; in int8 {score(cases[f'{size}-int8'])}" if f"{size}-int8" in cases else "" for size in cases}
    words = [
        f"Qwen2.5-Coder {size.upper()} solves {score(case)} % in {case['dtype']}{int8[size]} (published for the unquantised weights: "
        f"{100 * case['published']:.1f})"
        for size, case in cases.items()
        if "-" not in size
    ]
    return (
        f"Held against somebody else's numbers, greedy on HumanEval's {record['cases']['0.5b']['n']} problems: {' and '.join(words)}; what the "
        "difference is made of: [docs/models.md](docs/models.md)."
    )


CHATS = ("chat", "chat-fenced", "chat-free")


def forms() -> str:
    """Greedy first attempts on MBPP's validation problems by form of prompt, and the forms that the profiles take."""
    record = _record("published/prompt_forms.json")
    table: dict[tuple[str, str], dict[str, dict]] = {}
    for key, case in record["cases"].items():
        model, visible, form = key.split()
        table.setdefault((model, visible), {})[form] = case
    columns = [form for form in ("completion", *CHATS) if any(form in cases for cases in table.values())]
    n = same("numbers of problems", (case["n"] for case in record["cases"].values()))
    lines = [
        f"Chosen on MBPP's {n} validation problems, greedy first attempts, all asserts scored (`benchmarks/prompt_forms.py`): solved, in "
        "per cent, with tokens written for a reply. Wilson intervals are about 10 points to either side, so a form that is ahead by "
        "less is a choice and not a finding.",
        "",
        f"| model | asserts visible | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for (model, visible), cases in table.items():
        found = [cases.get(form) for form in columns]
        cells = [f"{100 * c['solved'] / n:.1f} ({c['tokens'] / n:.0f})" if c else "" for c in found]
        dtype = same("dtypes", (c["dtype"] for c in cases.values()))
        lines.append(f"| {model}, {dtype} | {visible} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory() -> str:
    """What one process with both models of a profile takes (``benchmarks/memory.py``)."""
    record = _record("speed/memory.json")
    sizes = (stage[kind] for stage in record["stages"].values() for kind in ("resident_mb", "peak_mb"))
    loaded, loading, worked, most = (f"{size / 1000:.1f} GB" for size in sizes)
    return (
        f"{record['code_model']} and {record['rewriter_model']} in {record['dtype']}, in one process with its sandbox: {loaded} once "
        f"both are loaded, {loading} at most while they are; {worked} after each has worked on a batch of {record['rows']}, {most} at "
        "most in all (`benchmarks/memory.py`)."
    )


def int8() -> str:
    """What int8 changes in greedy first attempts on problems that no table scores."""
    cases = _record("published/int8.json")["cases"]
    lines = [
        "Greedy first attempts, one assert visible, solved by all asserts, in per cent; the difference with its paired interval of "
        "95 % and McNemar's exact p (`benchmarks/int8.py`):",
        "",
        "| model | problems | float | int8 | difference | p | replies that are equal |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in cases.values():
        for split in ("validation", "train"):
            case = found[split]
            shares = " | ".join(f"{100 * solved / case['n']:.1f}" for solved in case["solved"])
            gap, low, high = (100 * x for x in case["difference"])
            lines.append(
                f"| {found['model']}, {' and '.join(found['dtypes'])} | {split}, {case['n']} | {shares} | {gap:+.1f} [{low:+.1f}, {high:+.1f}] "
                f"| {case['p']:.2f} | {case['equal'] / case['n']:.0%} |"
            )
    return "\n".join(lines)


def requests() -> str:
    """Of what each row of the laptop runs asked the code model for, the share that another row asked for too."""
    columns = columns_of_laptop()
    lines = ["| | " + " | ".join(f"{column.reference.settings['prompt_form']} form" for column in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    found = [{row[0]: row[2] for row in tables.shared_table([column]).rows[1:]} for column in columns]
    lines += [f"| {name} | " + " | ".join(shares[name] for shares in found) + " |" for name in found[0]]
    return "\n".join(lines)


def shared() -> str:
    """What tasks at the same time write, with a model each and with one for all."""
    record = _record("speed/shared.json")
    machine = record["machine"]
    lines = [
        f"{record['tasks']} tasks on {_cores(machine)}, {record['model']}, dtype {record['dtype']}; tokens "
        f"per second of all together, median of {record['rounds']}:",
        "",
        "| texts that a task asks for at once | a model each | one for all | ratio | memory, a model each | one for all |",
        "|---|---|---|---|---|---|",
    ]
    for case in record["cases"]:
        rates = (f"{median(case[kind]['tokens_per_second']):.0f}" for kind in ("own", "shared"))
        memory = (f"{case[kind]['memory_mb'] / 1000:.1f} GB" for kind in ("own", "shared"))
        lines.append(f"| {case['rows']} | {' | '.join(rates)} | {case['ratio']:.2f} | {' | '.join(memory)} |")
    return "\n".join(lines)


def learning() -> str:
    """What PPO finds of what is planted, by its settings."""
    record = _record("learning/planted.json")
    kinds = dict.fromkeys(row["task"] for row in record["rows"])
    found = {(row["settings"], row["task"]): row for row in record["rows"]}
    seeds = same("seeds", (len(row["gains"]) for row in record["rows"]))
    room = ", ".join(f"{next(r['room'] for r in record['rows'] if r['task'] == kind):.1f}" for kind in kinds)
    lines = [
        f"| episodes an update, clip range | {' | '.join(kinds)} | attempts at once |",
        "|---" * (2 + len(kinds)) + "|",
    ]
    errors = [np.std(row["gains"], ddof=1) / seeds**0.5 for row in record["rows"]]
    for name in dict.fromkeys(row["settings"] for row in record["rows"]):
        rows = [found[name, kind] for kind in kinds]
        cells = [f"{np.mean(row['gains']):+.1f}" for row in rows] + [f"{np.mean([row['at_once'] for row in rows]):.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(
        [
            f"Points above the best fixed action after {record['episodes']} episodes, mean of {seeds} seeds, with standard errors of "
            f"{min(errors):.1f} to {max(errors):.1f}; the best policy is {room} above it. 8 epochs unless said. Attempts at once: mean.",
            "",
            *lines,
        ]
    )


def wordings() -> str:
    """What the next attempt solves after each wording of the rewrite, of the problems whose first attempt failed."""
    record = _record("published/wordings.json")
    writer, rewriter = (f"{record[role]['name']} in {record[role]['dtype']}" for role in ("code", "rewriter"))
    lines = [
        f"{writer} writes, {rewriter} rewrites; of MBPP's {record['n']} {record['split']} problems the first direct attempt fails "
        f"the assert that it is shown on {record['failed']}. Of these the next attempt solves, by all asserts, with the gain over one more draw and its "
        "paired interval of 95 % (`benchmarks/wordings.py`):",
        "",
        "| the next attempt | solved | gain per draw, points |",
        "|---|---|---|",
    ]
    for style, found in record["styles"].items():
        gain, low, high = (100 * x for x in found["gain"])
        against = "" if style == "direct" else f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]"
        name = "drawn again, the task as it is" if style == "direct" else f"rewritten, {style}"
        lines.append(f"| {name} | {sum(found['solved'])} of {record['failed']} | {against} |")
    return "\n".join(lines)


def decoders() -> str:
    """Tokens per second of ways to generate, by rows at once; the first rows are ours."""
    record = _record("speed/decoders.json")
    machine, sets = (
        record["machine"],
        [name for name in record["instruction_sets"] if name.startswith(("avx2", "avx512_v", "amx"))],
    )
    rows = sorted({run["rows"] for case in record["cases"] for run in case["runs"]})
    lines = [
        f"{machine['cores']} cores ({machine['cpu_model']}; {', '.join(sets)}), {record['new']} tokens for each row, one run:",
        "",
        "| model, engine | " + " | ".join(f"{count} rows" for count in rows) + " | memory |",
        "|---|" + "---|" * (len(rows) + 1),
    ]
    for case in record["cases"]:
        rates = {run["rows"]: run for run in case["runs"]}
        cells = " | ".join(f"{rates[count]['tokens_per_second']:.1f}" for count in rows)
        name = f"{case['model']}, {case['engine']} {case['dtype']}"
        lines.append(f"| {name} | {cells} | {case['peak_memory_mb'] / 1000:.1f} GB |")
        if case["engine"] == "own":
            floors = " | ".join(f"{rates[count]['tokens'] / rates[count]['floor']['seconds']:.1f}" for count in rows)
            lines.append(f"| its linear layers alone | {floors} | |")
    return "\n".join(lines)


BLOCKS = {
    "README.md": {"mbpp": mbpp, "held": held, "in short": in_short},
    "docs/findings.md": {
        "claim": claim,
        "draws": draws,
        "edits": edits,
        "loops": loops,
        "bank": bank,
        "choice": choice,
    },
    "docs/models.md": {"published": published, "forms": forms, "memory": memory, "int8": int8, "wordings": wordings},
    "docs/protocols.md": {"requests": requests},
    "docs/running.md": {"minutes": minutes, "results": results},
    "docs/scaling.md": {"cluster": cluster, "shared": shared},
    "docs/settings.md": {"settings": Config().table, "learning": learning},
    "docs/speed.md": {"speed": speed, "decoders": decoders, "neighbour": neighbour},
}


def main() -> int:
    stale = False
    for name, blocks in BLOCKS.items():
        text = new = (ROOT / name).read_text(encoding="utf-8")
        for block, write in blocks.items():
            begin, end = (mark.format(block) for mark in MARKS)
            before, rest = new.split(begin)
            new = f"{before}{begin}{write()}{end}{rest.split(end)[1]}"
        if "--check" not in sys.argv:
            (ROOT / name).write_text(new, encoding="utf-8")
        elif new != text:
            print(f"{name}: out of date; run python tools/update_docs.py")
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
