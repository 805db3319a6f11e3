"""Run directories for comparison: read, checked against each other, sorted into the columns of a table.

A column holds runs of one code model over the same problems, with the same visible asserts, scoring, budget and
sampling (docs/protocols.md). A run that differs is not an error: it is left out, and a sentence says why.
Nothing here loads a model or torch.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runs import RunError, read_rows, stable_hash, user_path
from ..settings import LATER, model_label
from . import scoring

PUBLISHED = {  # the rows of the published table, in its order
    "direct": "Direct Generation (Action 0, 1 attempt)",
    "mutation": "Genetic Mutation (Action 1, 1 attempt)",
    "rewriting": "Semantic Rewriting (Action 2, 1 attempt)",
    "random": "Randomized Selection (published: 10 steps)",
    "epic": "EPiC",
    "reflexion": "Reflexion",
    "ppo": "RL Agent (PPO)",
}
CONTROLS = {  # what any claim must beat, and the agent's other way to act
    "ppo_sampled": "RL Agent (PPO, actions sampled)",
    "resampling": "I.i.d. resampling",
    "fixed_action": "Best fixed action",
    "mixture": "Best fixed mixture",
    "schedule": "Tuned fixed schedule",
    "stopping": "Best fixed number of attempts",
    "bandit": "Contextual bandit",
}
TITLES = {**PUBLISHED, **CONTROLS}
AGENT, RESAMPLING, BANK = "ppo", "resampling", "bank"  # the bank is no row: draws of every action on training problems
ACTIONS = {  # an attempt's ``action`` is the place in the list of its run; runs that record none have this one
    "direct": "direct generation",
    "mutation": "genetic mutation",
    "rewriting": "semantic rewriting",
    "repair": "repair",
    "stop": "stop",
}
ONE_ATTEMPT = ("direct", "mutation", "rewriting")  # their budget is 1 by definition
EQUAL_BUDGET = ("random", RESAMPLING, "fixed_action", "mixture", "schedule", "stopping", "bandit")  # a claim beats all
OWN_SETTINGS = ("epic", "reflexion")  # define some settings themselves: the row is marked
LEARNED = ("ppo", "ppo_sampled", "bandit")
TUNED = (*LEARNED, "fixed_action", "mixture", "schedule", "stopping")  # spend something before they are scored
NEEDS_SEEDS = (*TUNED, "random")  # what they choose depends on the seed
SEEDS_WANTED = 3

_NEEDED = (
    "strategy seed problems eval_split visible_tests code_model rewriter_model max_steps temperature task_ids scored "
    "top_p max_new_tokens preamble timeout_seconds"
)
_PER_RUN = "strategy seed own_settings tuning train_limit eval_limit num_envs batch_size device"
_LEARNING = (
    "train train_problems max_episodes episodes_per_update learning_rate gamma gae_lambda clip_epsilon update_epochs minibatch_size value_coef "
    "entropy_coef max_grad_norm hidden_size success_reward penalty_scale reward_scale updates_ahead "
    "synthetic_updates eval_frequency eval_episodes observation"
)
_NEVER_OWN = "problems eval_split visible_tests code_model max_steps task_ids scored preamble timeout_seconds"
_SLIM = (
    "phase strategy seed task_id attempt action visible_mask scored_mask outcomes prompt_tokens completion_tokens "
    "rewriter_calls rewriter_prompt_tokens rewriter_completion_tokens"
)
PER_RUN = set(_PER_RUN.split())  # may differ between any two runs of a column
LEARNING = set(_LEARNING.split())  # may differ between strategies, not between seeds of one
NEVER_OWN = set(_NEVER_OWN.split())  # no strategy may define these itself
SLIM = tuple(_SLIM.split())  # what scores and figures read of an attempt
SLIM_OPTIONAL = (
    "visit",
    "after",
    "schedule",
    "hands_in",
    "asked",
)  # of training, the bank, a search, scoring.submitted
TEXTS = ("prompt", "code")  # kept where examples need them, of the project's own problems only
TRAINING = "attempts.train.jsonl.gz"  # where results/ keeps the attempts that are not scored
KINDS = ("syntax", "error", "wrong answer", "time-out")
_KIND = {"compile_error": "syntax", "wrong_value": "wrong answer", "timeout": "time-out"}

Matrix = NDArray[np.float64]
Row = Mapping[str, Any]


def slim(rows: Iterable[Row], texts: bool = False) -> list[dict[str, Any]]:
    """Attempts without feedback, and without prompts and programs unless ``texts``: small enough to commit.

    ``asked`` stays of a prompt, a number that says which attempts asked the same.
    """
    more = (*SLIM_OPTIONAL, *TEXTS) if texts else SLIM_OPTIONAL
    rows = ({"asked": stable_hash(row["prompt"], bits=40), **row} if "prompt" in row else row for row in rows)
    return [{n: row[n] for n in SLIM} | {n: row[n] for n in more if n in row} for row in rows]


def failure(outcomes: Sequence[str]) -> str:
    """Kind of the first assert that did not pass, one of ``KINDS``; empty if all passed."""
    failed = [outcome for outcome in outcomes if outcome != "pass"]
    first = next((outcome for outcome in failed if outcome != "not_run"), *failed[:1] or ("",))
    return _KIND.get(first, "error") if first else ""


# Reading


@dataclass(frozen=True)
class RunDir:
    """One complete run directory.

    ``attempts``: the scored ones in the slim form, with prompt and program where they were kept; ``before``: those of
    training, of a choice or of the bank; ``stops``: where the agent gave a scored problem up.
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    attempts: list[dict[str, Any]]
    before: list[dict[str, Any]]
    stops: list[dict[str, Any]]

    @property
    def identity(self) -> dict[str, Any]:
        return self.config["identity"]

    @property
    def strategy(self) -> str:
        return self.identity["strategy"]

    @property
    def settings(self) -> dict[str, Any]:
        """What other runs must agree with: the identity, and what the models and the tagger turned out to be.

        Notebook 01, which knows one form of prompt only, does not name it, nor old runs what could not be chosen then.
        """
        models = {role: self.config[role] for role in ("code", "rewriter") if role in self.config}
        found = {f"{role} {what}": m[what] for role, m in models.items() for what in ("revision", "dtype") if what in m}
        found |= {name: self.config[name] for name in ("tagger",) if name in self.config}
        before = {"prompt_form": "completion", "observation": "full", "actions": ",".join(self.actions)}
        return {**before, **LATER, **self.identity, **found}

    @property
    def actions(self) -> list[str]:
        """The names of the actions that it allows; runs from before there was a choice do not say."""
        return [name.strip() for name in self.identity.get("actions", "direct,mutation,rewriting").split(",")]

    @property
    def labels(self) -> dict[str, str]:
        """What figures call each action, by its name, in the order of the numbers in the log."""
        return self.config.get("actions", ACTIONS)

    def metrics(self) -> list[dict[str, Any]]:
        """One row per PPO update of a run of the agent."""
        return read_rows(self.path / "metrics.jsonl")


def read_run(path: str | Path) -> RunDir:
    """A run directory, whole or as kept in ``results/``; :class:`RunError` says what is missing."""
    path = user_path(path)
    config = _config(path / "config.json")
    if missing := [name for name in _NEEDED.split() if name not in config.get("identity", {})]:
        raise RunError(f"{path}: config.json lacks {', '.join(missing)}; left out")
    if not (path / "summary.json").exists():
        raise RunError(f"{path}: no summary.json, the run is not complete; left out")
    logs = ["attempts.jsonl", "metrics.jsonl"][: 1 + (config["identity"]["strategy"] == AGENT)]
    if missing := [name for name in logs if not (path / name).exists()]:
        raise RunError(f"{path}: no {', '.join(missing)}, so nothing can be counted; left out")
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8-sig"))
    try:
        rows = read_rows(path / "attempts.jsonl")
        attempts = slim((row for row in rows if row["phase"] == "eval"), texts=True)
        if (path / TRAINING).exists():
            with gzip.open(path / TRAINING, "rt", encoding="utf-8") as file:
                rows += map(json.loads, file)
        before = slim(row for row in rows if row["phase"] != "eval")
        stops = read_rows(path / "stops.jsonl") if (path / "stops.jsonl").exists() else []
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise RunError(f"{path}: attempts.jsonl holds a row that is no attempt ({error}); left out") from None
    return RunDir(path, config, summary, attempts, before, [row for row in stops if row["phase"] == "eval"])


def _config(path: Path) -> dict[str, Any]:
    """The content of a run's ``config.json``; empty for a file of that name that is not a run's."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return {}
    return config if isinstance(config, dict) and isinstance(config.get("identity"), dict) else {}


def collect(places: str) -> tuple[list[RunDir], list[str]]:
    """All runs in and under the folders of ``places`` (separated by ";"), and a sentence on each that is left out."""
    found, notes = [], []
    for place in filter(None, (part.strip() for part in places.split(";"))):
        if not user_path(place).is_dir():
            raise RunError(f"runs: there is no folder {place}; give folders of run directories, separated by ;")
        for config in sorted(user_path(place).rglob("config.json")):
            if _config(config):
                try:
                    found.append(read_run(config.parent))
                except RunError as error:
                    notes.append(str(error))
    return found, notes


# Comparing


def differences(run: RunDir, reference: RunDir) -> list[str]:
    """Names of the settings in which ``run`` may not stand in one column with ``reference``."""
    excused = PER_RUN | LEARNING
    if run.strategy in TUNED and reference.strategy in TUNED:
        excused = excused - {"max_episodes"}  # what the agent's training may pay for is what their choice may cost
    if run.strategy in LEARNED and reference.strategy in LEARNED:
        excused = excused - {"train", "observation"}
    if run.strategy in ONE_ATTEMPT:
        excused = excused | {"max_steps"}
    if run.strategy in OWN_SETTINGS:
        excused = excused | (set(run.identity.get("own_settings") or {}) - NEVER_OWN)
    mine, theirs = run.settings, reference.settings
    return sorted(k for k in (mine.keys() & theirs.keys()) - excused if mine[k] != theirs[k])


def _protocol(run: RunDir) -> tuple[Any, ...]:
    """Who writes, asked how, and who sees which asserts."""
    return tuple(run.settings.get(name) for name in ("code_model", "prompt_form", "visible_tests"))


def words(run: RunDir, reference: RunDir, names: Sequence[str]) -> str:
    """The settings of these names, one against the other."""
    mine, theirs = run.settings, reference.settings
    long = ("task_ids", "scored", "train")
    return ", ".join(
        f"other {name} ({len(mine[name])} against {len(theirs[name])})" if name == "task_ids"
        else f"other {name}" if name in long
        else f"{name} {mine.get(name)!r} against {theirs.get(name)!r}"
        for name in names
    )  # fmt: skip


@dataclass
class Entry:
    """One strategy in one column: its runs by seed, and what follows from their attempts."""

    strategy: str
    task_ids: list[int]
    budget: int
    runs: dict[int, RunDir] = field(default_factory=dict)
    attempts: dict[int, dict[int, list[Row]]] = field(default_factory=dict)  # by seed, by problem, past the budget too

    @property
    def seeds(self) -> list[int]:
        return sorted(self.runs)

    def of(self, seeds: Sequence[int]) -> Entry:
        """The row over these of its seeds alone."""
        return replace(
            self, runs={seed: self.runs[seed] for seed in seeds}, attempts={seed: self.attempts[seed] for seed in seeds}
        )

    @property
    def own_settings(self) -> dict[str, Any]:
        return self.runs[self.seeds[0]].identity.get("own_settings") or {}

    @property
    def longest(self) -> int:
        """The most generations that a problem got: more than the budget where the runs of all seeds went on past it."""
        made = {seed: max(map(len, groups.values())) for seed, groups in self.attempts.items()}
        own = {seed: (run.identity.get("own_settings") or {}).get("max_steps") or 0 for seed, run in self.runs.items()}
        # After its last one a run that was allowed fewer than the others would seem to stand still.
        return min(max(made.values()), *(max(made[seed], own[seed]) for seed in made))

    def groups(self, budget: int | None = None) -> list[list[list[Row]]]:
        """The attempts of each problem, [seeds][problems][attempts], had the budget been this one."""
        last = self.budget if budget is None else budget
        return [[self.attempts[seed][task][:last] for task in self.task_ids] for seed in self.seeds]

    def submissions(self, budget: int | None = None) -> list[list[Row]]:
        """The submitted attempt of each problem, [seeds][problems]."""
        return [[scoring.submitted(rows) for rows in problems] for problems in self.groups(budget)]

    def solved(self, budget: int | None = None) -> Matrix:
        """1 where the submission passes every scored assert, else 0; [seeds, problems]."""
        return np.array([[float(all(row["scored_mask"])) for row in rows] for rows in self.submissions(budget)])

    def soft(self) -> Matrix:
        """Share of scored asserts that the submission passes; [seeds, problems]."""
        return np.array([[scoring.share(row["scored_mask"]) for row in rows] for rows in self.submissions()])

    def looks_solved(self, budget: int | None = None) -> tuple[Matrix, Matrix]:
        """Where the submission passes all visible asserts, and where it passes all asserts; [seeds, problems]."""
        rows = self.submissions(budget)
        visible = [[float(all(row["visible_mask"])) for row in seed] for seed in rows]
        return np.array(visible), np.array([[float(set(row["outcomes"]) == {"pass"}) for row in s] for s in rows])

    def rows(self, budget: int | None = None) -> list[Row]:
        """All attempts, of all seeds, at most ``budget`` of each problem."""
        return [row for problems in self.groups(budget) for group in problems for row in group]

    def tokens(self, budget: int | None = None) -> float:
        """Tokens of code model and rewriter, prompts included, per problem."""
        names = [name for name in SLIM if name.endswith("_tokens")]
        return sum(row[name] for row in self.rows(budget) for name in names) / len(self.seeds) / len(self.task_ids)

    def cost(self) -> dict[str, float]:
        """What learning or tuning cost before the evaluation, mean over seeds; empty if it is not recorded."""
        costs = []
        for run in self.runs.values():
            parts = [run.summary.get(f"{what}_cost") or {} for what in ("training", "validation", "selection")]
            spent = {name: sum(part.get(name, 0) for part in parts) for part in parts for name in part}
            if not spent and run.strategy == AGENT:  # a run from before summaries had it
                spent = {"generations": sum(row["steps"] for row in run.metrics())}
            if {"code_tokens", "rewriter_tokens"} <= spent.keys():
                spent = {**spent, "tokens": spent["code_tokens"] + spent["rewriter_tokens"]}
            costs.append(spent)
        names = [name for name in ("generations", "tokens") if all(cost.get(name) for cost in costs)]
        return {name: float(np.mean([cost[name] for cost in costs])) for name in names}


def common_seeds(*entries: Entry) -> list[int]:
    """The seeds that all of these rows have."""
    return sorted(set.intersection(*(set(entry.seeds) for entry in entries)))


@dataclass
class Column:
    """Runs that may be compared. ``title``: code model, budget, and what else tells it from the other columns."""

    reference: RunDir
    title: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)  # by strategy, in the order of ``TITLES``
    asserts: dict[int, tuple[int, int]] = field(default_factory=dict)  # visible and scored ones, by problem
    repeats: list[Path] = field(default_factory=list)  # runs left out: their seed is there, with the same attempts

    @property
    def strategies(self) -> list[str]:
        """The rows that a column like this one has: without "stop" no number of attempts is chosen."""
        return [name for name in TITLES if name != "stopping" or "stop" in self.reference.actions]

    def best_control(self) -> str | None:
        """The control of equal budget with the highest Pass@1 over the seeds that the agent has too, if there is one.

        Of several it is the one of the fewest tokens. Choosing it on the problems that it is then compared on favours it.
        """
        agent, means = self.entries.get(AGENT), {}
        for name in (name for name in EQUAL_BUDGET if name in self.entries):
            entry = self.entries[name]
            if seeds := common_seeds(entry, agent or entry):
                shared = entry.of(seeds)
                means[name] = shared.solved().mean(), -shared.tokens()
        return max(means, key=means.__getitem__, default=None)

    @property
    def parts(self) -> list[str]:
        """What a title may name, the first two always."""
        s = self.reference.settings
        shown = "all asserts visible" if s["visible_tests"] == "all" else f"asserts visible: {s['visible_tests']}"
        problems = f"{Path(str(s['problems'])).name} {s['eval_split']}, {len(s['task_ids'])} problems"
        model = f"{model_label(s['code_model'])} ({s['prompt_form']})"
        rewriter = f"rewriter {model_label(s['rewriter_model'])}"
        more = [f"actions {', '.join(self.reference.actions)}", f"observation {s.get('observation', 'full')}"]
        return [model, f"budget {s['max_steps']}", shown, problems, rewriter, *self._trained, *more]

    @property
    def _trained(self) -> list[str]:
        """What the rows that learn or are tuned did it on, if there is one."""
        runs = [self.reference, *(run for entry in self.entries.values() for run in entry.runs.values())]
        for s in (run.settings for run in runs if run.strategy in TUNED):
            of = f" of {Path(s['train_problems']).name}" if s.get("train_problems") else ""
            return [f"{s.get('max_episodes')} training episodes{of}"]
        return []

    @property
    def words(self) -> str:
        """What a figure is over."""
        counts = [len(entry.seeds) for entry in self.entries.values()]
        seeds = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
        return f"{', '.join(self.parts[:4])}; {seeds} seed{'s' * (max(counts) > 1)} a strategy"


def _name(found: Sequence[Column]) -> None:
    """Titles as short as they can be while all differ, numbered where nothing shown tells them apart."""
    for count in range(2, 9):
        for column in found:
            column.title = ", ".join(column.parts[:count])
        if len({column.title for column in found}) == len(found):
            return
    for number, column in enumerate(found, 1):
        column.title += f" ({number})"


def columns(runs: Sequence[RunDir]) -> tuple[list[Column], list[str]]:
    """The columns that the agent's runs open, leak-free ones first, and a sentence on each run that is in none.

    A run that only repeats another has no sentence, but stands among the column's ``repeats``; a bank has none either.
    A protocol in which no agent was run, or none that its other runs may be compared with, has a column of these too if
    they are of several strategies, of the largest set that may be compared: of one alone, if it is all there is.
    """
    runs = [run for run in runs if run.strategy != BANK]
    openers = [run for run in runs if run.strategy == AGENT]
    free = [run for run in runs if all(differences(run, opener) for opener in openers)]  # an agent fits itself
    single = {AGENT, *ONE_ATTEMPT}  # the latter fit agents of other budgets too
    served = {_protocol(run) for run in runs if run not in free and run.strategy not in single}
    others = [run for run in free if _protocol(run) not in served]
    sets = {id(opener): [run for run in free if not differences(run, opener)] for opener in others}
    for opener in sorted(others, key=lambda opener: -len(sets[id(opener)])):
        several = len({run.strategy for run in sets[id(opener)]}) > 1
        if not openers or (several and _protocol(opener) not in served):
            openers.append(opener)
            served.add(_protocol(opener))
    result: list[Column] = []
    for run in openers:
        if all(differences(run, column.reference) for column in result):
            result.append(Column(run))
    result.sort(key=lambda c: (c.reference.identity["visible_tests"] == "all", -len(c.reference.identity["task_ids"])))
    _name(result)
    notes = []
    for run in sorted(runs, key=lambda run: run.strategy != AGENT):  # whose asserts the other rows must have
        fits = [column for column in result if not differences(run, column.reference)]
        for column in fits:
            notes += _place(run, column)
        if not fits:
            nearest = min(result, key=lambda column: len(differences(run, column.reference)))
            why = words(run, nearest.reference, differences(run, nearest.reference))
            notes.append(f"{run.path} is not comparable with the column {nearest.title!r}: {why}; listed apart")
    for column in result:
        column.entries = {name: column.entries[name] for name in TITLES if name in column.entries}
    return [column for column in result if column.entries], notes


def _place(run: RunDir, column: Column) -> list[str]:
    """Put a run's strategies into a column; sentences on what cannot stand there."""
    seed, notes = run.identity["seed"], []
    if run.strategy not in TITLES:
        return [f"{run.path}: strategy {run.strategy!r} is no row of the table; listed apart"]
    budget = 1 if run.strategy in ONE_ATTEMPT else column.reference.identity["max_steps"]
    for name in (AGENT, "ppo_sampled") if run.strategy == AGENT else (run.strategy,):
        rows = [row for row in run.attempts if row["strategy"] == name]
        entry = column.entries.get(name) or Entry(name, run.identity["task_ids"], budget)
        if reason := _obstacle(run, column, entry, rows):
            notes.append(f"{run.path}, {name}: {reason}")
            continue
        groups, there = scoring.by_problem(rows), entry.attempts.get(seed, {})
        if there and len(rows) <= sum(map(len, there.values())):  # other attempts would have been an obstacle
            column.repeats.append(run.path)
            continue
        column.repeats += [entry.runs[seed].path] if there else []  # the same up to the budget, and no further
        column.entries[name] = entry
        column.asserts |= {row["task_id"]: _asserts(row) for row in rows}
        entry.runs[seed], entry.attempts[seed] = run, groups
    return notes


def _asserts(row: Row) -> tuple[int, int]:
    return len(row["visible_mask"]), len(row["scored_mask"])


def _obstacle(run: RunDir, column: Column, entry: Entry, rows: list[dict[str, Any]]) -> str:
    """Why these attempts cannot stand in the column as this row; empty if they can."""
    stated = run.summary.get("scores", {}).get(entry.strategy, {})
    try:
        scores = scoring.score(rows, entry.task_ids, stated.get("budget", entry.budget))
    except ValueError as error:
        return f"{error}; left out"
    for task, attempts in scoring.by_problem(rows).items():
        if [row["attempt"] for row in attempts] != list(range(len(attempts))):
            return f"the attempts of problem {task} are not numbered 0, 1, 2, ...; left out"
        if {_asserts(row) for row in attempts} != {column.asserts.get(task, _asserts(attempts[0]))}:
            return f"problem {task} has other visible or scored asserts than in the rows before it; left out"
    if stated.get("solved", scores["solved"]) != scores["solved"]:
        return f"summary.json says {stated['solved']} solved, attempts.jsonl {scores['solved']}; left out"
    if entry.runs:
        other = next(iter(entry.runs.values()))
        learned = run.strategy in LEARNED
        keys = (run.settings.keys() & other.settings.keys()) - PER_RUN - (set() if learned else LEARNING)
        keys |= {"tuning", "own_settings"} if run.strategy in OWN_SETTINGS else {"tuning"}  # else of its definition
        names = sorted(k for k in keys if (run.settings.get(k) or {}) != (other.settings.get(k) or {}))
        if names:
            return f"not one row with {other.path}, {words(run, other, names)}; listed apart"
    if first := entry.runs.get(run.identity["seed"]):
        names = [*SLIM, "hands_in"]  # not the texts: one of the two may have been kept without
        ours, theirs = (
            scoring.by_problem(({n: r[n] for n in names if n in r} for r in found), entry.budget)
            for found in (rows, (row for row in first.attempts if row["strategy"] == entry.strategy))
        )
        differ = 0
        for task in ours:
            one, two = (scoring.submitted(group[task])["scored_mask"] for group in (ours, theirs))
            differ += all(one) != all(two)
        if ours != theirs:
            how = f"other attempts ({differ} problems end otherwise)"
            return f"this seed is there already, in {first.path}, with {how}; left out"
    return ""


# Files from elsewhere


@dataclass(frozen=True)
class ForeignResults:
    """Outcomes that another program wrote with the published columns: nothing is known of how they were made."""

    name: str
    prompt_ids: list[int]
    soft: Matrix  # share of asserts passed, [1, problems]
    doubts: list[str]

    @property
    def solved(self) -> Matrix:
        return (self.soft == 1).astype(float)


def read_foreign(files: str) -> list[ForeignResults]:
    """``results.csv`` files, given as "NAME=PATH" separated by ";", NAME a strategy of the table or any other.

    Columns ``prompt_id,passed_testcases,pass_at_1,pass_at_1_mean,generated_code``, at least the first two. Scores are
    counted from ``passed_testcases``; rows whose ``pass_at_1`` says otherwise are counted as doubts.
    """
    result: dict[str, ForeignResults] = {}
    for part in filter(None, (part.strip() for part in files.split(";"))):
        name, separator, path = (text.strip() for text in part.partition("="))
        if not (separator and name and path) or name in result:
            raise RunError(f"foreign: {part!r} must have the form NAME=PATH, each name once, separated by ;")
        result[name] = _read_foreign(name, user_path(path))
    return list(result.values())


_SPELLINGS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def _number(text: str) -> float:
    """A number, or a truth value as others spell it."""
    word = text.strip().strip("'\"").lower()
    return _SPELLINGS[word] if word in _SPELLINGS else float(word)


def _mask(text: str) -> list[int]:
    """``[1, 0]`` in any spelling of the two, in brackets or parentheses, with commas or, as NumPy prints it, without."""
    inside = text.strip()
    values = [_number(word) for word in inside[1:-1].replace(",", " ").split()]
    if inside[:1] + inside[-1:] not in ("[]", "()") or not values or set(values) - {0, 1}:
        raise ValueError(f"{text!r} is not a list of 0 and 1, or of False and True")
    return [int(value) for value in values]


def _whole(text: str) -> int:
    """``11``, or ``11.0`` as pandas writes it where another row has none."""
    return int(text.strip().removesuffix(".0"))


def _read_foreign(name: str, path: Path) -> ForeignResults:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"foreign: {path} cannot be read as CSV: {error}") from None
    if not rows or not {"prompt_id", "passed_testcases"} <= set(rows[0]):
        raise RunError(f"foreign: {path} has no rows with the columns {', '.join(scoring.COLUMNS[:2])}")
    ids, soft, doubtful = [], [], 0
    for line, row in enumerate(rows, 1):
        try:
            mask = _mask(row["passed_testcases"])
            said = row.get("pass_at_1")
            doubtful += (_number(said) if said and said.strip() else all(mask)) != all(mask)
            ids.append(_whole(row["prompt_id"]))
        except (ValueError, TypeError, AttributeError) as error:
            wrong = "prompt_id, passed_testcases or pass_at_1 is wrong"
            raise RunError(f"foreign: {path}, row {line}: {wrong} ({error})") from None
        soft.append(scoring.share(mask))
    if repeated := [task for task, count in Counter(ids).items() if count > 1]:
        raise RunError(f"foreign: {path} has more than one row for prompt_id {repeated[:5]}")
    doubts = [f"pass_at_1 contradicts passed_testcases in {doubtful} rows"] * bool(doubtful)
    return ForeignResults(name, ids, np.array([soft]), doubts)
