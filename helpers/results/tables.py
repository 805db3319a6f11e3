"""Tables of notebook 04: the published layout with intervals, costs, gaps, paired tests, and what is missing.

Shares are shown in per cent. Every function takes the columns of :mod:`runs`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs import write_atomically
from ..settings import model_label
from . import runs, statistics
from .runs import AGENT, Column, Entry, ForeignResults

# The results table of the published README (github.com/promptoptrl/PROMIS), per cent.
PUBLISHED_FILE = Path(__file__).resolve().parents[2] / "data" / "published_table.csv"
PUBLISHED_MODELS = {"codet5p": "CodeT5+ (published)", "codellama": "CodeLlama (published)"}
MEASURES = ("Pass@1", "SoftPass@1")
FIELDS = ("column", "strategy", "measure", "per_cent", "low", "high", "n", "seeds")
TEST_PROBLEMS = 500  # MBPP's test split
ORACLE = "Oracle: the best attempt of the agent"
EMPTY = "-"
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
    return "".join(_LATEX.get(character, character) for character in text)


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
        n = f"n = {self.n}" + (f" x {self.seeds} seeds" if self.seeds > 1 else "")
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}], {n}".replace("%", "")


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
    """Both measures of every row of every column, the oracle among them, and of the files from elsewhere."""
    found: Scores = {}
    for column in columns:
        column_cells = found[column.title] = {}
        for name, entry in column.entries.items():
            column_cells[runs.TITLES[name]] = cells(entry.solved(), entry.soft(), seed, resamples)
        if agent := column.entries.get(AGENT):
            best = agent.best()
            column_cells[ORACLE] = cells((best == 1).astype(float), best, seed, resamples)
    if foreign:
        found["from a file"] = {
            runs.TITLES.get(file.name, file.name): cells(file.solved, file.soft, seed, resamples) for file in foreign
        }
    return found


def score_table(found: Scores, columns: Sequence[Column], with_published: bool) -> Table:
    """Strategies x models x measures in the published layout: published figures, then ours, controls below."""
    old = published() if with_published else {}
    names = dict.fromkeys([*runs.TITLES.values(), ORACLE, *(name for column in found.values() for name in column)])
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
    notes = [f"{column.title}: {', '.join(column.parts[2:])}." for column in columns]
    notes += [f"† {line}" for column in columns for line in _own_settings(column)]
    return Table(header, rows, notes)


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


def cost_table(columns: Sequence[Column]) -> Table:
    """What each row spent, per problem and mean over seeds, and what was spent before the evaluation."""
    header = ["Strategy", "budget", "generations", "rewriter calls", "tokens", "any attempt right, %", "before"]
    rows = []
    for column in columns:
        rows.append([column.title, *[""] * 6])
        for name, entry in column.entries.items():
            attempts, count = entry.rows(), len(entry.seeds) * len(entry.task_ids)
            numbers = [len(attempts) / count, sum(row["rewriter_calls"] for row in attempts) / count]
            spent = [str(entry.budget), *(f"{x:.2f}" for x in numbers), f"{entry.tokens():.0f}"]
            rows.append([runs.TITLES[name], *spent, f"{(entry.best() == 1).mean():.1%}"[:-1], _before(entry)])
    return Table(header, rows)


def _before(entry: Entry) -> str:
    words = ", ".join(f"{amount:.0f} {name}" for name, amount in entry.cost().items())
    return words or ("not recorded" if entry.strategy in runs.TUNED else "")


# What the figures draw


def budget_curves(column: Column, seed: int, resamples: int) -> dict[str, list[dict[str, float]]]:
    """Pass@1 with its interval, and tokens per problem, at each number of generations allowed, by strategy."""
    curves: dict[str, list[dict[str, float]]] = {}
    for name, entry in column.entries.items():
        points = curves[runs.TITLES[name]] = []
        for budget in range(1, entry.budget + 1):
            solved = entry.solved(budget)
            low, high = statistics.share_interval(solved, seed, resamples)
            values = {"pass_at_1": solved.mean(), "low": low, "high": high, "tokens": entry.tokens(budget)}
            points.append({"budget": budget, **values})
    return curves


def action_counts(entry: Entry, actions: int = 3) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """How often each action was picked, by step and by the kind of error that the agent saw before it."""
    steps: dict[str, list[int]] = {}
    errors: dict[str, list[int]] = {kind: [0] * actions for kind in runs.KINDS}
    for seed in entry.seeds:
        for attempts in entry.attempts[seed].values():
            for before, row in zip([None, *attempts], attempts, strict=False):
                steps.setdefault(str(row["attempt"] + 1), [0] * actions)[row["action"]] += 1
                if before:
                    seen = runs.failure(before["outcomes"])  # visible asserts come first, and one of them failed
                    errors.setdefault(seen, [0] * actions)[row["action"]] += 1
    return dict(sorted(steps.items(), key=lambda item: int(item[0]))), {k: v for k, v in errors.items() if sum(v)}


def failure_shares(column: Column) -> dict[str, dict[str, float]]:
    """By strategy, the share of problems whose submission is right, and of each kind of its first scored failure."""
    shares = {}
    for name, entry in column.entries.items():
        kinds = [
            runs.failure(row["outcomes"][: len(row["scored_mask"])]) for rows in entry.submissions() for row in rows
        ]
        shares[runs.TITLES[name]] = {kind: kinds.count(kind) / len(kinds) for kind in ("", *runs.KINDS)}
    return shares


def gaps(column: Column, seed: int, resamples: int) -> dict[str, tuple[float, float, float, Bounds]]:
    """By strategy: share that passes all visible asserts, share that passes all asserts, the gap and its interval.

    The gap is a share too, of problems that only look solved.
    """
    found = {}
    for name, entry in column.entries.items():
        visible, everything = entry.looks_solved()
        only = visible - everything
        interval = statistics.share_interval(only, seed, resamples)
        found[runs.TITLES[name]] = (float(visible.mean()), float(everything.mean()), float(only.mean()), interval)
    return found


# Tests


@dataclass(frozen=True)
class Comparison:
    """The agent against one row of its column. ``difference``: agent minus row, as a share of problems."""

    column: str
    strategy: str
    seeds: list[int]
    n: int
    wins: int
    losses: int
    difference: float
    interval: Bounds
    p: float


def comparisons(columns: Sequence[Column], seed: int, resamples: int) -> list[Comparison]:
    """The agent against every other row, problem by problem, over the seeds that both have."""
    found = []
    for column in columns:
        agent = column.entries.get(AGENT)
        for name, other in column.entries.items():
            seeds = [s for s in agent.seeds if s in other.seeds] if agent else []
            if agent and seeds and name != AGENT:
                a, b = (entry.solved()[[entry.seeds.index(s) for s in seeds]] for entry in (agent, other))
                wins, losses = statistics.wins_and_losses(a, b)
                difference, low, high = statistics.paired_bootstrap(a, b, seed, resamples)
                p = statistics.mcnemar_exact(wins, losses)
                values = (column.title, name, seeds, a.shape[1], wins, losses, difference, (low, high), p)
                found.append(Comparison(*values))
    return found


def comparison_table(found: Sequence[Comparison]) -> Table:
    """The comparisons with their p-values, as they are and adjusted by Holm over all rows shown."""
    header = ["Agent against", "column", "n", "better", "worse", "difference, points", "McNemar p", "Holm p"]
    rows = []
    for c, adjusted in zip(found, statistics.holm([c.p for c in found]), strict=True):
        low, high = c.interval
        n = f"{c.n}" + (f" x {len(c.seeds)} seeds" if len(c.seeds) > 1 else "")
        difference = f"{100 * c.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        cells = [n, str(c.wins), str(c.losses), difference, _p(c.p), _p(adjusted)]
        rows.append([runs.TITLES[c.strategy], c.column, *cells])
    return Table(header, rows)


def verdicts(found: Sequence[Comparison], level: float = 0.05) -> list[str]:
    """Which rows of each column the agent beats, by Holm's p and an interval without zero, and what is untested."""
    adjusted, lines = statistics.holm([c.p for c in found]), []
    for title in dict.fromkeys(c.column for c in found):
        words: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
        for c, p in zip(found, adjusted, strict=True):
            if c.column == title:
                clear = p <= level and not c.interval[0] <= 0 <= c.interval[1]
                kind = "open" if not clear else "better" if c.difference > 0 else "worse"
                words[kind].append(runs.TITLES[c.strategy])
        better, worse, unclear = (", ".join(names) or "no row" for names in words.values())
        lines.append(
            f"{title}: with Holm p up to {level} and an interval without zero, the agent is better than {better}; "
            f"worse than {worse}; no difference is shown against {unclear}."
        )
        tested = {c.strategy for c in found if c.column == title}
        if absent := [runs.TITLES[name] for name in runs.EQUAL_BUDGET if name not in tested]:
            lines.append(f"{title}: a claim must also beat {', '.join(absent)}, of which there is no run.")
    return lines


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
    return [*lines, *notes]


def _weak_points(column: Column) -> list[str]:
    entries, lines = column.entries, []
    if missing := [title for name, title in runs.TITLES.items() if name not in entries]:
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
