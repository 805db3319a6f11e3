"""The grid as a list of tasks: one *task* is one notebook with one seed and, for notebook 03, one form of prompt.

04 comes last and reads what the others left. Each strategy of 03 can be a task of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ppo_codet5.helpers import settings
from ppo_codet5.helpers.runs import RunError
from ppo_codet5.notebooks import FORMS, NOTEBOOKS, check_names, chosen

TABLE = NOTEBOOKS[-1]
STRATEGIES = (  # of notebook 03
    *("direct", "mutation", "rewriting", "resampling", "random"),
    *("fixed_action", "schedule", "bandit", "epic", "reflexion"),
)


@dataclass(frozen=True)
class Task:
    """One execution of one notebook: what it is called, where its output goes, what it is given."""

    name: str
    notebook: str
    output: Path
    folder: Path  # its run directories and figures
    parameters: dict[str, Any]
    stage: int = 0  # after all tasks of the stages before

    @property
    def log(self) -> Path:
        """What it printed, when it ran beside others."""
        return self.output.with_suffix(".log")


def plan(
    profile: str, values: dict[str, Any], notebooks: Sequence[str], seeds: Sequence[int] = (), split: bool = False
) -> list[Task]:
    """The tasks for these notebooks, 04 last. Each takes of ``values`` the parameters that it has.

    ``split`` makes each strategy of notebook 03 a task; the notebook as a whole, which reads them, is in stage 1 then.
    A name that none of the project's notebooks has is an error.
    """
    types, top = check_names(values), Path(values.get("run_dir", "runs"))
    served = [FORMS[name] for name in chosen(profile, None) if name in FORMS]
    tasks = []
    for seed in seeds or (None,):
        root = top if seed is None else top / f"seed{seed}"
        for name in (name for name in notebooks if name != TABLE):
            folder, plays_strategies = root / Path(name).stem, "strategies" in types[name]
            given = {k: v for k, v in values.items() if k in types[name]} | {"run_dir": str(folder)}
            given |= {} if seed is None else {"seed": seed}
            every_form = plays_strategies and "prompt_form" not in given
            for asked in [{"prompt_form": form} for form in served] if every_form else [{}]:
                stem = "_".join([folder.name, *asked.values()])
                label = stem if seed is None else f"{stem} seed {seed}"
                parts = strategies_of(given) if split and plays_strategies else []
                for strategy in parts:
                    output = root / "cells" / f"{stem}_{strategy}.ipynb"
                    only = given | asked | {"strategies": strategy}
                    tasks.append(Task(f"{label} {strategy}", name, output, folder, only))
                tasks.append(Task(label, name, root / f"{stem}.ipynb", folder, given | asked, int(bool(parts))))
    if TABLE in notebooks:
        folder = top / Path(TABLE).stem
        ours = {"runs": str(top), "figure_dir": str(folder / "figures"), "export_dir": str(folder)}
        given = ours | {k: v for k, v in values.items() if k in types[TABLE]}
        tasks.append(Task(folder.name, TABLE, top / TABLE, folder, given, 2))
    return sorted(tasks, key=lambda task: task.stage)


def strategies_of(values: dict[str, Any]) -> list[str]:
    """The strategies that these parameters ask notebook 03 for."""
    names = values.get("strategies", "all")
    return list(STRATEGIES) if names == "all" else [name.strip() for name in names.split(",")]


def problem_sources(values: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    """Source, split and limit of the problems that a notebook with these parameters trains on, tunes on and scores."""
    own, scored = values["train_problems"] or values["problems"], values["eval_split"]
    found = [(own, "train", values["train_limit"])]
    if values.get("eval_frequency") or ("strategies" in values and scored != "validation"):
        found.append((own, "validation", None))
    return [*found, (values["problems"], scored, values["eval_limit"])]


def check_inputs(tasks: Sequence[dict[str, Any]]) -> None:
    """Load the problems, look for the models and at the run directories: what is wrong is found before anything is
    written. Takes the parameters of all tasks, and asks for each thing once. Downloads no weights."""
    from ppo_codet5.helpers import models, problems

    for source in dict.fromkeys(source for values in tasks for source in problem_sources(values)):
        problems.load_problems(*source)
    for name in sorted({values[role] for values in tasks for role in ("code_model", "rewriter_model")}):
        models.check_model(name)
    for values in tasks:
        decisive = settings.decisive(SimpleNamespace(**values))
        # Notebook 03 keeps the runs of several models and seeds side by side.
        beside = ("code_model", "prompt_form", "seed") if "strategies" in values else ()
        for config in sorted(Path(values["run_dir"]).glob("*/config.json")):
            identity = json.loads(config.read_text(encoding="utf-8")).get("identity", {})
            if any(identity.get(name) != decisive[name] for name in beside):
                continue
            if differ := [name for name, value in decisive.items() if identity.get(name, value) != value]:
                raise RunError(
                    f"{config.parent} belongs to another config (different: {', '.join(differ)}); "
                    "choose another run_dir or delete this one"
                )
