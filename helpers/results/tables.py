"""Tables of notebook 04: the published layout with intervals, seeds, costs, retries, paired tests, and what is missing.

Shares are shown in per cent. Every function takes the columns of :mod:`runs`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs import write_atomically
from ..settings import model_label
from . import runs, statistics
from .runs import AGENT, RESAMPLING, Column, Entry, ForeignResults

# The results table of the published README (github.com/promptoptrl/PROMIS), per cent.
PUBLISHED_FILE = Path(__file__).resolve().parents[2] / "data" / "published_table.csv"
PUBLISHED_MODELS = {"codet5p": "CodeT5+ (published)", "codellama": "CodeLlama (published)"}
MEASURES = ("Pass@1", "SoftPass@1")
FIELDS = ("column", "strategy", "measure", "per_cent", "low", "high", "n", "seeds")
TEST_PROBLEMS = 500  # MBPP's test split
LEVEL = 0.05  # of Holm's p
EMPTY, FROM_FILE = "-", "from a file"
Bounds = tuple[float, float]


@dataclass
class Table:
    """Texts in rows and columns, with notes under it; JupyterLab shows it as Markdown."""

    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """A GitHub table."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return "\n\n".join([text, *self.notes]) + "\n"

    def latex(self) -> str:
        """A ``tabular`` that needs no package, the notes under it."""
        lines = [" & ".join(map(_latex, line)) + r" \\" for line in (self.header, *self.rows)]
        start = rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}"
        table = [start, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}"]
        return "\n".join([*table, *(rf"\par\footnotesize {_latex(note)}" for note in self.notes)]) + "\n"

    _repr_markdown_ = markdown
    __repr__ = markdown


_LATEX = {"\\": r"\textbackslash{}", "†": r"\dag{}", "^": r"\^{}", "~": r"\~{}", "<": "$<$"}
_LATEX |= {character: "\\" + character for character in "&%$#_{}"}


def _latex(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", "".join(_LATEX.get(character, character) for character in text))


def mark_best(rows: list[list[str]], columns: Iterable[int]) -> None:
    """Make the largest number that a cell of a column begins with bold, all of them on ties, in place."""
    for column in columns:
        found = {i: m[0] for i, row in enumerate(rows) if (m := re.match(r"[\d.]+", row[column]))}
        best = max(map(float, found.values()), default=0.0)
        for i, number in found.items():
            if float(number) == best:
                rows[i][column] = f"**{number}**{rows[i][column].removeprefix(number)}"


# The table


@dataclass(frozen=True)
class Cell:
    """Pass@1 or SoftPass@1 of one strategy in one column, as shares, with its 95 % interval."""

    value: float
    interval: Bounds
    n: int
    seeds: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]".replace("%", "")


def cells(solved: runs.Matrix, soft: runs.Matrix, seed: int, resamples: int) -> tuple[Cell, Cell]:
    """Pass@1 (Wilson for one seed) and SoftPass@1 (bootstrap) from outcomes [seeds, problems]."""
    shape, draw = (solved.shape[1], solved.shape[0]), {"seed": seed, "resamples": resamples}
    return (
        Cell(float(solved.mean()), statistics.share_interval(solved, **draw), *shape),
        Cell(float(soft.mean()), statistics.bootstrap_interval(soft, **draw), *shape),
    )


def published() -> dict[str, dict[str, list[str]]]:
    """Published per cents by model and strategy: [Pass@1, SoftPass@1] as printed there."""
    with open(PUBLISHED_FILE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        words: {
            name: [row[f"{model}_pass_at_1"], row[f"{model}_softpass_at_1"]]
            for name, row in zip(runs.PUBLISHED, rows, strict=True)
        }
        for model, words in PUBLISHED_MODELS.items()
    }


Scores = dict[str, dict[str, tuple[Cell, Cell]]]  # by column title, by row title


def scores(columns: Sequence[Column], foreign: Sequence[ForeignResults], seed: int, resamples: int) -> Scores:
    """Both measures of every row of every column, and of the files from elsewhere."""
    found: Scores = {}
    for column in columns:
        column_cells = found[column.title] = {}
        for name, entry in column.entries.items():
            column_cells[runs.TITLES[name]] = cells(entry.solved(), entry.soft(), seed, resamples)
    if foreign:
        found[FROM_FILE] = {
            runs.TITLES.get(file.name, file.name): cells(file.solved, file.soft, seed, resamples) for file in foreign
        }
    return found


def score_table(found: Scores, columns: Sequence[Column], with_published: bool) -> Table:
    """Strategies x models x measures in the published layout: published figures, then ours, controls below.

    The best of each column is bold. How many problems and seeds are behind a cell stands in the notes.
    """
    old = published() if with_published else {}
    unused = set(runs.TITLES) - {name for column in columns for name in column.strategies} if columns else {"stopping"}
    titles = [title for name, title in runs.TITLES.items() if name not in unused]
    names = dict.fromkeys([*titles, *(name for column in found.values() for name in column)])
    header = ["Strategy, per cent"] + [f"{title}: {measure}" for title in (*old, *found) for measure in MEASURES]
    marks = {(c.title, runs.TITLES[n]): "†" for c in columns for n in c.entries if n in runs.OWN_SETTINGS}
    keys, rows = {title: name for name, title in runs.TITLES.items()}, []
    for name in names:
        row = [name]
        for model in old.values():
            row += model.get(keys.get(name, ""), [EMPTY] * 2)
        for title, column in found.items():
            row += [f"{cell}{marks.get((title, name), '')}" for cell in column[name]] if name in column else [EMPTY] * 2
        rows.append(row)
    mark_best(rows, range(1, len(header)))
    unnamed = [", ".join(part for part in column.parts if part not in column.title) for column in columns]
    notes = [f"{column.title}: {rest}; {_seeds(column)}." for column, rest in zip(columns, unnamed, strict=True)]
    from_file = (f"{name}, {pair[0].n} problems" for name, pair in found.get(FROM_FILE, {}).items())
    notes += [f"{FROM_FILE}: {'; '.join(from_file)}."] if FROM_FILE in found else []
    notes += [f"† {line}" for column in columns for line in _own_settings(column)]
    return Table(header, rows, notes)


def _seeds(column: Column) -> str:
    """How many seeds a row has, and which rows have another number."""
    counts = {name: len(entry.seeds) for name, entry in column.entries.items()}
    usual = Counter(counts.values()).most_common(1)[0][0]
    others = [f"{runs.TITLES[name]} {count}" for name, count in counts.items() if count != usual]
    return f"{usual} seed{'s' * (usual > 1)} a row" + (f" ({', '.join(others)})" if others else "")


def _own_settings(column: Column) -> list[str]:
    """What EPiC and Reflexion set themselves, and what the other rows have."""
    lines = []
    for name, entry in column.entries.items():
        if name in runs.OWN_SETTINGS:
            others = column.reference.identity
            words = (
                f"{key} {value!r}" + (f" (other rows {others[key]!r})" if key in others else "")
                for key, value in entry.own_settings.items()
                if others.get(key) != value
            )
            lines.append(f"{runs.TITLES[name]} in {column.title} sets by its definition: {', '.join(words)}.")
    return lines


def records(found: Scores, with_published: bool) -> list[dict[str, Any]]:
    """The table in long form, one row per cell, numbers in full: what the CSV file holds."""
    rows = [
        (title, runs.TITLES[name], measure, value, "", "", "", "")
        for title, column in (published() if with_published else {}).items()
        for name, values in column.items()
        for measure, value in zip(MEASURES, values, strict=True)
    ] + [
        (title, name, measure, 100 * cell.value, *(100 * bound for bound in cell.interval), cell.n, cell.seeds)
        for title, column in found.items()
        for name, pair in column.items()
        for measure, cell in zip(MEASURES, pair, strict=True)
    ]
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def export(folder: str | Path, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``results_table`` as .md and .tex in the published layout, and as .csv in long form."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, text in {"csv": buffer.getvalue(), "md": table.markdown(), "tex": table.latex()}.items():
        paths.append(folder / f"results_table.{suffix}")
        write_atomically(paths[-1], text.encode())
    return paths


def seed_table(columns: Sequence[Column]) -> Table:
    """Pass@1 of each seed, the mean, and, of several, how far they are apart, in points."""
    seeds = sorted({seed for column in columns for entry in column.entries.values() for seed in entry.seeds})
    header = ["Strategy, Pass@1 in per cent", *(f"seed {seed}" for seed in seeds), "mean", "largest less smallest"]
    rows: list[list[str]] = []
    for column in columns:
        block = []
        for name, entry in column.entries.items():
            each = dict(zip(entry.seeds, 100 * entry.solved().mean(1), strict=True))
            shown = [f"{each[seed]:.1f}" if seed in each else EMPTY for seed in seeds]
            apart = f"{max(each.values()) - min(each.values()):.1f}" if len(each) > 1 else EMPTY
            block.append([runs.TITLES[name], *shown, f"{sum(each.values()) / len(each):.1f}", apart])
        mark_best(block, range(1, len(header) - 1))
        rows += [[column.title, *[""] * (len(header) - 1)], *block]
    return Table(header, rows)


def cost_table(columns: Sequence[Column]) -> Table:
    """What each row spent, per problem and mean over seeds, and what was spent before the evaluation."""
    header = ["Strategy", "budget", "generations", "rewriter calls", "tokens", "before"]
    rows, notes = [], []
    for column in columns:
        rows.append([column.title, *[""] * 5])
        for name, entry in column.entries.items():
            attempts, count = entry.rows(), len(entry.seeds) * len(entry.task_ids)
            numbers = [len(attempts) / count, sum(row["rewriter_calls"] for row in attempts) / count]
            spent = [str(entry.budget), *(f"{x:.2f}" for x in numbers), f"{entry.tokens():.0f}"]
            rows.append([runs.TITLES[name], *spent, _before(entry)])
            notes += [f"{runs.TITLES[name]} in {column.title}: {words}." for words in _in_detail(entry)]
    return Table(header, rows, notes)


def _before(entry: Entry) -> str:
    words = ", ".join(f"{amount:.0f} {name}" for name, amount in entry.cost().items())
    return words or ("not recorded" if entry.strategy in runs.TUNED else "")


def _in_detail(entry: Entry) -> list[str]:
    """What a method did that no column of the table shows, over all seeds."""
    lines, of_all = [], len(entry.seeds) * len(entry.task_ids)
    stops = [row for run in entry.runs.values() for row in run.stops if row["strategy"] == entry.strategy]
    if stops:
        after = sum(row["attempt"] for row in stops) / len(stops)
        lines.append(f"gave {len(stops)} of {of_all} problems up, after {after:.1f} attempts on average")
    summaries = [run.summary for run in entry.runs.values()]
    if searches := [summary["search"] for summary in summaries if "search" in summary]:
        rewrites, mutants, reached = (
            sum(search[name] for search in searches) for name in ("rewrites", "mutants", "problems_with_mutants")
        )
        lines.append(f"{rewrites} rewrites and {mutants} mutants were tried, mutants on {reached} of {of_all} problems")
    if retries := [summary["retries"] for summary in summaries if "retries" in summary]:
        made, solved = (sum(row[name] for row in retries) for name in ("retries", "solved"))
        repeated = sum(row["repeated"] * row["retries"] for row in retries) / max(made, 1)
        lines.append(
            f"of {made} retries {repeated:.0%} wrote the program before them again, and {solved} passed the visible asserts"
        )
    return lines


def retry_table(columns: Sequence[Column]) -> Table:
    """Points of Pass@1 that each further generation adds, and the share of the problems tried once more that it solves."""
    budgets = range(2, max((entry.budget for column in columns for entry in column.entries.values()), default=1) + 1)
    header = ["Strategy", "first attempt", *(f"attempt {budget}" for budget in budgets)]
    rows: list[list[str]] = []
    for column in columns:
        block = []
        for name, entry in column.entries.items():
            gains = []
            for budget in (b for b in budgets if b <= entry.budget):
                gain = 100 * (entry.solved(budget).mean() - entry.solved(budget - 1).mean())
                again = sum(len(rows) >= budget for seed in entry.groups() for rows in seed)
                share = 100 * again / len(entry.seeds) / len(entry.task_ids)
                gains.append(f"{gain:+.1f} ({100 * gain / share:.0f})" if again else EMPTY)
            if gains:
                missing = [EMPTY] * (len(budgets) - len(gains))
                block.append([runs.TITLES[name], f"{100 * entry.solved(1).mean():.1f}", *gains, *missing])
        rows += [[column.title, *[""] * (len(header) - 1)], *block]
    return Table(header, rows)


def shared_table(columns: Sequence[Column]) -> Table:
    """Of what each row asked the code model for, the share that another row asked for too, word and seed the same.

    Such a completion is generated once and read from the cache by all others. Rows that sample in their own way share
    with those that do it in the same; runs of which no prompts were kept are left out.
    """
    rows: list[list[str]] = []
    for column in columns:
        asked = {name: _asked(entry) for name, entry in column.entries.items()}
        block = []
        for name, mine in asked.items():
            others = set[object]().union(*(theirs for other, theirs in asked.items() if other != name))
            if mine:
                sets = [others, *(asked.get(other) if other != name else None for other in (AGENT, RESAMPLING))]
                shares = [EMPTY if not theirs else f"{100 * len(mine & theirs) / len(mine):.0f}" for theirs in sets]
                block.append([runs.TITLES[name], str(len(mine)), *shares])
        rows += [[column.title, *[""] * 4], *block] if block else []
    return Table(["Strategy", "requests", "shared (%)", "with the agent (%)", "with resampling (%)"], rows)


def _asked(entry: Entry) -> set[object]:
    own = entry.own_settings
    sampling = tuple(own.get(name) for name in ("temperature", "top_p", "max_new_tokens"))
    groups = zip(entry.seeds, entry.groups(), strict=True)
    rows = [(seed, row) for seed, problems in groups for group in problems for row in group if "asked" in row]
    return {(seed, row["task_id"], row["attempt"], row["asked"], sampling) for seed, row in rows}


DIFFICULTY = ("hard", "middle", "easy")  # fewer than a third of the rows solve it, more than two thirds, the rest


def difficulty_table(columns: Sequence[Column]) -> Table:
    """Pass@1 on hard, middle and easy problems of each column: by the share of all its rows, each its mean, that solve."""
    rows: list[list[str]] = []
    for column in columns:
        share = sum(entry.solved().mean(0) for entry in column.entries.values()) / len(column.entries)
        thirds = (3 * share).round(9)  # a third that was added up may be a little more or less
        bins = [thirds < 1, (thirds >= 1) & (thirds <= 2), thirds > 2]
        block = []
        for name, entry in column.entries.items():
            solved = entry.solved().mean(0)
            values = [f"{100 * solved[inside].mean():.1f}" if inside.any() else EMPTY for inside in bins]
            block.append([runs.TITLES[name], *values])
        mark_best(block, range(1, 4))
        rows += [[column.title, *(f"n = {inside.sum()}" for inside in bins)], *block]
    return Table(["Strategy, Pass@1 in per cent", *DIFFICULTY], rows)


# Tests


@dataclass(frozen=True)
class Comparison:
    """Two rows of a column, problem by problem: the agent and ``strategy``, or ``strategy`` and resampling.

    ``difference``: the first less the second, as a share of problems; ``spread``: variances of the paired differences.
    """

    column: str
    strategy: str
    seeds: list[int]
    n: int
    wins: int
    losses: int
    difference: float
    interval: Bounds
    p: float
    spread: statistics.Variances

    @property
    def points(self) -> str:
        low, high = self.interval
        return f"{100 * self.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    @property
    def size(self) -> str:
        return f"{self.n}" + (f" x {len(self.seeds)} seeds" if len(self.seeds) > 1 else "")

    @property
    def one_way(self) -> bool:
        """Whether the test points where the mean does: with several seeds many problems may gain little and a few lose much."""
        return (self.wins - self.losses) * self.difference > 0

    @property
    def test(self) -> str:
        """With several seeds the problem stays the unit, and McNemar's test becomes the sign test."""
        return "sign test" if len(self.seeds) > 1 else "McNemar"


def compare(
    column: Column, strategy: str, first: Entry, second: Entry, seed: int, resamples: int, budget: int | None = None
) -> Comparison | None:
    """``first`` against ``second``, which has ``budget`` generations, over the seeds that both have; None without any."""
    if not (seeds := runs.common_seeds(first, second)):
        return None
    a, b = first.of(seeds).solved(), second.of(seeds).solved(budget)
    wins, losses = statistics.wins_and_losses(a, b)
    difference, low, high = statistics.paired_bootstrap(a, b, seed, resamples)
    p, spread = statistics.mcnemar_exact(wins, losses), statistics.variances(a - b)
    return Comparison(column.title, strategy, seeds, a.shape[1], wins, losses, difference, (low, high), p, spread)


def comparisons(columns: Sequence[Column], seed: int, resamples: int) -> list[Comparison]:
    """The agent against every other row, problem by problem, over the seeds that both have."""
    pairs = [(c, name, c.entries[AGENT], c.entries[name]) for c in columns if AGENT in c.entries for name in c.entries]
    found = (compare(*pair, seed, resamples) for pair in pairs if pair[1] != AGENT)
    return [comparison for comparison in found if comparison]


def comparison_table(found: Sequence[Comparison]) -> Table:
    """The comparisons with their p-values, as they are and adjusted by Holm over all rows shown.

    ``sees``: the difference that such a study finds four times in five, tested alone, and at Holm's strictest level.
    """
    header = ["Agent against", "column", "n", "better", "worse", "difference, points", "sees", "test", "p", "Holm p"]
    rows = []
    for c, adjusted in zip(found, statistics.holm([c.p for c in found]), strict=True):
        sees = _detectable(c, len(c.seeds), c.n, len(found))
        cells = [c.size, str(c.wins), str(c.losses), c.points, sees, c.test, _p(c.p), _p(adjusted)]
        rows.append([runs.TITLES[c.strategy], c.column, *cells])
    return Table(header, rows)


def ablation_table(columns: Sequence[Column], shown: Sequence[Column], seed: int, resamples: int) -> Table:
    """Agents that differ from the whole method in one setting, and random actions in its place, each paired with it.

    The whole method is the agent from which all agents together differ in the fewest settings, and of several such, as
    when there are two, one of the table of strategies (``shown``). p-values are adjusted by Holm over the rows. Agents
    that differ in several settings, or in what is scored, are named in the notes.
    """
    header = ["Agent", "Pass@1", "SoftPass@1", "tokens", "n", "better", "worse", "difference, points", "p", "Holm p"]
    agents = [column for column in columns if AGENT in column.entries]
    if not agents:
        return Table(header, [])
    apart = {id(c): sum(len(_changed(other, c)) for other in agents) for c in agents}
    known = {id(c) for c in agents for other in shown if AGENT in other.entries and not _changed(other, c)}
    whole = min(agents, key=lambda c: (apart[id(c)], id(c) not in known))
    changed = {id(column): _changed(column, whole) for column in agents}
    one = [c for c in agents if len(changed[id(c)]) == 1 and not runs.NEVER_OWN & set(changed[id(c)])]
    entries = [(runs.words(c.reference, whole.reference, changed[id(c)]), c.entries[AGENT]) for c in one]
    entries += [("random actions", whole.entries["random"])] if "random" in whole.entries else []
    pairs = [
        (words, entry, compare(whole, words, entry, whole.entries[AGENT], seed, resamples)) for words, entry in entries
    ]
    adjusted = iter(statistics.holm([c.p for *_, c in pairs if c]))
    rows = [["the whole method", *_ablated(whole.entries[AGENT], seed, resamples), *[EMPTY] * 6]]
    for words, entry, c in pairs:
        tested = [c.size, str(c.wins), str(c.losses), c.points, _p(c.p), _p(next(adjusted))] if c else [EMPTY] * 6
        rows.append([words, *_ablated(entry, seed, resamples), *tested])
    others = (c for c in agents if c is not whole and c not in one)
    notes = [f"{c.title} is left out: it differs in {', '.join(changed[id(c)])}." for c in others]
    return Table(header, rows, [f"The whole method: {', '.join(whole.parts)}.", *notes])


def _changed(column: Column, other: Column) -> list[str]:
    """The parameters in which their agents differ; the revision and type of another model go with its name."""
    found = runs.differences(column.reference, other.reference)
    return [name for name in found if f"{name.split()[0]}_model" not in found]


def _ablated(entry: Entry, seed: int, resamples: int) -> list[str]:
    return [*map(str, cells(entry.solved(), entry.soft(), seed, resamples)), f"{entry.tokens():.0f}"]


def _detectable(c: Comparison, seeds: int, n: int, family: int) -> str:
    """Alone and at Holm's strictest level; nothing where all outcomes are equal, so that there is no variance to go by."""
    if not any((c.spread.seeds, c.spread.problems, c.spread.rest)):
        return EMPTY
    return " / ".join(f"{100 * statistics.detectable(c.spread, seeds, n, LEVEL / tests):.1f}" for tests in (1, family))


def power_table(columns: Sequence[Column], found: Sequence[Comparison], seeds: int = 10, n: int = 500) -> Table:
    """What the comparison with the best control can see, as it is and with more seeds and problems.

    Points of Pass@1 that are found four times in five, tested alone and at the strictest level of Holm in this family.
    """
    header = ["Agent against the best control", "column", "difference seen", "this study", f"{seeds} seeds"]
    rows = []
    for column in columns:
        for c in found:
            if (c.column, c.strategy) == (column.title, column.best_control()):
                sizes = [(len(c.seeds), c.n), (seeds, c.n), (len(c.seeds), n), (seeds, n)]
                # One seed shows no variance between seeds, so it does not say what more of them bring.
                known = [size[0] == len(c.seeds) or len(c.seeds) > 1 for size in sizes]
                sees = [_detectable(c, *size, len(found)) if k else EMPTY for size, k in zip(sizes, known, strict=True)]
                rows.append([runs.TITLES[c.strategy], c.column, c.points, *sees])
    return Table([*header, f"{n} problems", "both"], rows)


def _judged(found: Sequence[Comparison], adjusted: Sequence[float], words: Sequence[str]) -> str:
    """Better, worse and undecided (``words``) by Holm's p, with the difference, and where its interval says otherwise."""
    kinds: list[list[str]] = [[], [], []]
    for c, p in zip(found, adjusted, strict=True):
        clear, zero = p <= LEVEL and c.one_way, c.interval[0] <= 0 <= c.interval[1]
        kind = 2 if not clear else 0 if c.difference > 0 else 1
        but = " although the interval, which draws seeds too, holds zero" if clear and zero else ""
        but = " although the interval is without zero" if not clear and not zero else but
        sign = "<" if p < 0.001 else "="
        kinds[kind].append(f"{runs.TITLES[c.strategy]} ({c.points}, p {sign} {_p(p).removeprefix('< ')}{but})")
    return "; ".join(f"{word} {', '.join(names) or 'no row'}" for word, names in zip(words, kinds, strict=True))


def verdicts(columns: Sequence[Column], found: Sequence[Comparison]) -> list[str]:
    """Than which rows of each column the agent is better or worse, by Holm's p, and what is untested."""
    adjusted, lines = statistics.holm([c.p for c in found]), []
    for column in columns:
        pairs = [(c, p) for c, p in zip(found, adjusted, strict=True) if c.column == column.title]
        if not pairs:
            continue
        words = ("better than", "worse than", "and undecided against")
        judged = _judged([c for c, _ in pairs], [p for _, p in pairs], words)
        lines.append(
            f"{column.title}: by Holm's p at {LEVEL} (difference in points, 95 % interval) the agent is {judged}."
        )
        tested = {c.strategy for c, _ in pairs}
        controls = [name for name in runs.EQUAL_BUDGET if name in column.strategies]
        if absent := [runs.TITLES[name] for name in controls if name not in tested]:
            lines.append(f"{column.title}: a claim must also beat {', '.join(absent)}, of which there is no run.")
    return lines


def at_equal_tokens(column: Column, seed: int, resamples: int) -> list[tuple[Comparison, int]]:
    """Every other row against resampling with the most generations that cost no more tokens; and how many these are.

    A row that costs less than one generation of resampling is compared with one. Direct generation is that one. Tokens
    are, as what is solved, those of the seeds that both have.
    """
    found, draws = [], column.entries.get(RESAMPLING)
    if not draws:
        return []
    for name, entry in column.entries.items():
        if name in ("direct", RESAMPLING) or not (seeds := runs.common_seeds(entry, draws)):
            continue
        most, drawn = entry.of(seeds).tokens(), draws.of(seeds)
        budget = max(1, sum(drawn.tokens(count) <= most for count in range(1, drawn.longest + 1)))
        if c := compare(column, name, entry, draws, seed, resamples, budget):
            found.append((c, budget))
    return found


def equal_token_table(columns: Sequence[Column], seed: int, resamples: int) -> Table:
    """:func:`at_equal_tokens` with p-values adjusted by Holm over all rows shown; what they say in the notes."""
    header = ["Strategy", "tokens", "Pass@1", "resampling: generations", "tokens", "Pass@1"]
    blocks = [(column, at_equal_tokens(column, seed, resamples)) for column in columns]
    family = statistics.holm([c.p for _, block in blocks for c, _ in block])
    rows, notes = [], []
    for column, block in blocks:
        if not block:
            continue
        rows.append([column.title, *[""] * 10])
        adjusted, family = family[: len(block)], family[len(block) :]
        for (c, budget), p in zip(block, adjusted, strict=True):
            whole = column.entries[c.strategy]
            entry, draws = whole.of(c.seeds), column.entries[RESAMPLING].of(c.seeds)
            cells = [f"{entry.tokens():.0f}", f"{100 * entry.solved().mean():.1f}"]
            cells += [f"{budget}{' (its last)' * (budget == draws.longest)}", f"{draws.tokens(budget):.0f}"]
            cells += [f"{100 * draws.solved(budget).mean():.1f}", str(c.wins), str(c.losses), c.points, _p(c.p), _p(p)]
            some = "" if c.seeds == whole.seeds else f" (seed {', '.join(map(str, c.seeds))})"
            rows.append([f"{runs.TITLES[c.strategy]}{some}", *cells])
        judged = _judged([c for c, _ in block], adjusted, ("better:", "worse:", "undecided:"))
        notes.append(f"{column.title}: against resampling at no more tokens, by Holm's p at {LEVEL}, {judged}.")
        notes += _out_of_reach(column, column.entries[RESAMPLING])
    return Table([*header, "better", "worse", "difference, points", "p", "Holm p"], rows, notes)


def _out_of_reach(column: Column, draws: Entry) -> list[str]:
    """Which row costs more tokens than resampling has spent at its last generation, and what would get there."""
    dearest, last = max(column.entries.values(), key=Entry.tokens), draws.tokens(draws.longest)
    if dearest.tokens() <= last:
        return []
    # What another generation costs falls as problems end, so that this many are needed at least.
    step = last - draws.tokens(draws.longest - 1) if draws.longest > 1 else last
    more = f"{runs.TITLES[dearest.strategy]} costs {dearest.tokens():.0f} tokens a problem, resampling {last:.0f} at its last"
    enough = draws.longest + math.ceil((dearest.tokens() - last) / step) if step else None
    then = (
        f"-p resampling_steps={enough} is the least that would reach it" if enough else "no problem is left to draw for"
    )
    return [f"{column.title}: {more}; {then}."]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# Reliability


def reliability(
    columns: Sequence[Column], notes: Sequence[str], foreign: Sequence[ForeignResults], with_published: bool
) -> list[str]:
    """What is missing, not comparable or thin, one sentence each; ``notes`` are those of reading the runs."""
    lines = [] if columns else ["There is no complete run: every cell of ours is empty."]
    for column in columns:
        lines += [f"{column.title}: {line}" for line in _weak_points(column)]
        if column is not columns[0]:
            why = runs.differences(column.reference, columns[0].reference)
            why_in_words = runs.words(column.reference, columns[0].reference, why)
            lines.append(f"{column.title} is not one column with {columns[0].title}: {why_in_words}.")
    if with_published:
        lines += _published_doubts(columns)
    for file in foreign:
        same = [c.title for c in columns if sorted(c.reference.identity["task_ids"]) == sorted(file.prompt_ids)]
        where = f"the problems of {', '.join(same)}" if same else "not the problems of any column"
        words = f"{file.name} is from a file: {len(file.prompt_ids)} problems, {where}; model, protocol, budget and sampling"
        lines.append(f"{words} are not in it, so it stands in a column of its own and in no test.")
        lines += [f"{file.name}: {doubt}; the masks are counted." for doubt in file.doubts]
    if repeats := dict.fromkeys(path for column in columns for path in column.repeats):
        folders = ", ".join(path.name for path in repeats)
        lines.append(f"Left out, as they repeat a seed of their row with the same attempts: {folders}.")
    return [*lines, *_audit(columns), *notes]


def _audit(columns: Sequence[Column]) -> list[str]:
    """Whether the attempts that were made before the evaluation are there, and as many as the summaries say."""
    kinds = {"train": "training_cost", "validation": "validation_cost", "selection": "selection_cost"}
    all_runs = {run.path: run for column in columns for entry in column.entries.values() for run in entry.runs.values()}
    spent = [
        (run, phase, run.summary[kind])
        for run in all_runs.values()
        for phase, kind in kinds.items()
        if kind in run.summary
    ]
    counts = [sum(row["phase"] == phase for row in run.before) for run, phase, _ in spent]
    lines = [
        f"{run.path}: {count} attempts of {phase}, and summary.json says {cost['generations']}."
        for (run, phase, cost), count in zip(spent, counts, strict=True)
        if count not in (0, cost["generations"])
    ]
    kept = f"Attempts of training and choosing are kept for {sum(map(bool, counts))} of {len(spent)} trainings and choices."
    return [kept] * bool(spent) + lines


def _weak_points(column: Column) -> list[str]:
    entries, lines = column.entries, []
    if missing := [runs.TITLES[name] for name in column.strategies if name not in entries]:
        lines.append(f"no run of {', '.join(missing)}; the rows are empty.")
    few = [n for n, e in entries.items() if n in runs.NEEDS_SEEDS and len(e.seeds) < runs.SEEDS_WANTED]
    if few:
        words = ", ".join(f"{runs.TITLES[name]} ({len(entries[name].seeds)})" for name in few)
        lines.append(f"fewer than {runs.SEEDS_WANTED} seeds of {words}: how much a new seed would change is not known.")
    if agent := entries.get(AGENT):
        shared: dict[str, list[str]] = {}
        for name, entry in entries.items():
            if entry.seeds != agent.seeds:
                both = ", ".join(str(seed) for seed in agent.seeds if seed in entry.seeds)
                words = f"over the seeds that both have ({both})" if both else "not at all, for want of a common seed"
                shared.setdefault(words, []).append(runs.TITLES[name])
        lines += [f"compared with the agent {words}: {', '.join(names)}." for words, names in shared.items()]
    all_runs = [run for entry in entries.values() for run in entry.runs.values()]
    for words, values in {
        "commits": {run.config.get("commit") for run in all_runs},
        "sandbox levels": {run.config.get("sandbox") for run in all_runs},
        "Python versions": {run.config.get("versions", {}).get("python") for run in all_runs},
    }.items():
        if len(values) > 1:
            lines.append(f"its runs come from {len(values)} {words}: {', '.join(sorted(map(str, values)))}.")
    return lines


def _published_doubts(columns: Sequence[Column]) -> list[str]:
    old, lines = published(), []
    passes = [float(values[0]) for model in old.values() for values in model.values()]
    odd = [value for value in passes if abs(round(value * TEST_PROBLEMS / 100) / TEST_PROBLEMS * 100 - value) > 0.0051]
    lines.append(
        f"published figures: {len(odd)} of {len(passes)} Pass@1 values are no whole number of {TEST_PROBLEMS} problems, so "
        "they are not all over the test split; no n, no interval and no protocol is given with them, and no test against "
        "them is made."
    )
    others = [
        column.title
        for column in columns
        if column.reference.identity["problems"] != "mbpp"
        or not model_label(column.reference.identity["code_model"]).lower().startswith(tuple(PUBLISHED_MODELS))
    ]
    if others:
        lines.append(
            f"published figures are of other code models or problems than {'; '.join(others)}: not comparable."
        )
    return lines
