"""The grid as a list of tasks: one *task* is one notebook with one seed and, for notebook 03, one form of prompt.

04 comes last and reads what the others left. Each strategy of 03 can be a task of its own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ppo_codet5.helpers import settings
from ppo_codet5.helpers.runs import RunError, check_writable, user_path
from ppo_codet5.notebooks import FORMS, NOTEBOOKS, check_names, chosen

if TYPE_CHECKING:
    from ppo_codet5.helpers.problems import Problem

TABLE = NOTEBOOKS[-1]
STRATEGIES = (  # of notebook 03
    *("bank", "direct", "mutation", "rewriting", "resampling", "random"),
    *("fixed_action", "mixture", "schedule", "bandit", "epic", "reflexion"),
)
AGENT = ("ppo", "ppo_sampled")  # strategies of a trained agent
SOLVERS = (*AGENT, *(name for name in STRATEGIES if name != "bank"))  # what may work on tasks of one's own


@dataclass(frozen=True)
class Task:
    """One execution of one notebook: what it is called, where its output goes, what it is given."""

    name: str
    notebook: str
    output: Path
    folder: Path  # its run directories and figures
    parameters: dict[str, Any]
    stage: int = 0  # after all tasks of the stages before
    fill: bool = False  # its runs alone, by the package's own code

    @property
    def log(self) -> Path:
        """What it printed, when it ran beside others."""
        return self.output.with_suffix(".log")


def plan(
    profile: str,
    values: dict[str, Any],
    notebooks: Sequence[str],
    seeds: Sequence[int] = (),
    split: bool = False,
    others: Mapping[str, str] | None = None,
) -> list[Task]:
    """The tasks for these notebooks, 04 last. Each takes of ``values`` the parameters that it has.

    ``split`` makes each strategy of notebook 03 a task; the notebook as a whole, which reads them, is in stage 1 then.
    A name that none of the project's notebooks has is an error; ``others``: what else a parameter may be called, for a hint.
    """
    types, top = check_names(values, others), user_path(values.get("run_dir", "runs"))
    served = [FORMS[name] for name in chosen(profile, None) if name in FORMS]
    tasks = []
    for seed in dict.fromkeys(seeds) or (None,):
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
        ours = {
            "runs": str(top),
            "figure_dir": str(folder / "figures"),
            "export_dir": str(folder),
            "link_from": str(top),
        }
        given = ours | {k: v for k, v in values.items() if k in types[TABLE]}
        tasks.append(Task(folder.name, TABLE, top / TABLE, folder, given, 2))
    return sorted(tasks, key=lambda task: task.stage)


def strategies_of(values: dict[str, Any]) -> list[str]:
    """The strategies that these parameters ask notebook 03 for."""
    names, stopping = values.get("strategies", "all"), "stop" in str(values.get("actions", ""))
    return [*STRATEGIES, *["stopping"] * stopping] if names == "all" else [name.strip() for name in names.split(",")]


def check_strategies(values: dict[str, Any]) -> None:
    """Raise RunError for a strategy that the package's notebook 03 does not have."""
    known = strategies_of({**values, "strategies": "all"})
    if unknown := [name for name in strategies_of(values) if name not in known]:
        hint = settings.did_you_mean(unknown[0], {name: name for name in known})
        raise RunError(f"parameter strategies: there is no {unknown[0]!r}{hint}; known: {', '.join(known)}")


def problem_sources(values: Mapping[str, Any]) -> list[tuple[str, str, int | None]]:
    """Source, split and limit of the problems that a notebook with these parameters trains on, tunes on and scores."""
    own, scored = values["train_problems"] or values["problems"], values["eval_split"]
    found = [(own, "train", values["train_limit"])]
    if values.get("eval_frequency"):
        found.append((own, "validation", None))
    return [*found, (values["problems"], scored, values["eval_limit"])]


def check_inputs(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Look for all that the parameters of these tasks name, each once, before anything is written; fetches no weights.

    Loads the problems and runs their references. What is wrong is an error with what to do.
    """
    from ppo_codet5.helpers.problems import load_problems

    load = functools.cache(load_problems)
    for values in tasks:
        check_asserts(values["visible_tests"], [problem for s in problem_sources(values) for problem in load(*s)])
    check_models(tasks)
    for preamble in dict.fromkeys(values["preamble"] for values in tasks):
        sources = dict.fromkeys(s for v in tasks if v["preamble"] == preamble for s in problem_sources(v))
        check_programs(preamble, {source: load(*source) for source in sources})


def check_strategy(strategy: str, agent: object) -> None:
    """Raise RunError for a strategy that cannot solve tasks, and for one that needs an agent where there is none."""
    if strategy not in SOLVERS:
        hint = settings.did_you_mean(strategy, {name: name for name in SOLVERS})
        raise RunError(f"unknown strategy {strategy!r}{hint}; choose one of {', '.join(SOLVERS)}")
    if strategy in AGENT and agent is None:
        raise RunError(
            f"strategy {strategy} needs a trained agent: give the checkpoint of one, or another strategy, such as resampling"
        )


def check_models(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Look for the models, embedders and vectors that these parameters name, each once."""
    from ppo_codet5.helpers import assets, models

    for name in sorted({values[role] for values in tasks for role in ("code_model", "rewriter_model")}):
        models.check_model(name)
    for name in sorted({values["embedder"] for values in tasks}):
        assets.check_embedder(name)
    for name in sorted({values["word_vectors"] for values in tasks}):
        assets.check_word_vectors(name)


def check_asserts(visible: int | str, problems: Sequence[Problem]) -> None:
    """Raise RunError if more asserts are to be visible than any problem has."""
    most = max(len(problem.tests) for problem in problems)
    if isinstance(visible, int) and visible > most:
        raise RunError(
            f'parameter visible_tests = {visible}: no problem has more than {most} asserts; give 1 to {most}, or "all"'
        )


def check_programs(preamble: str, sets: Mapping[tuple[str, str, int | None], Sequence[Problem]]) -> None:
    """Raise RunError if the preamble does not run, or no reference of one of these sets passes its own asserts.

    Single references that fail are told when a run begins (``problems.failing_references``).
    """
    from ppo_codet5.helpers.sandbox import Program, Sandbox

    with Sandbox(preamble=preamble) as sandbox:
        (empty,) = sandbox.run([Program("def f():\n    return 1", ("assert f() == 1",))])
        if not empty.passed:
            raise RunError(
                f"parameter preamble = {preamble!r} does not run ({empty.messages[0]}): give Python that runs by itself, "
                'e.g. "import math, re"'
            )
        for (source, split, _), problems in sets.items():
            verdicts = sandbox.run_patiently([problem.program(problem.reference) for problem in problems])
            if not any(verdict.passed for verdict in verdicts):
                raise RunError(
                    f"no reference solution in {source!r}, split {split}, passes its own asserts (task "
                    f"{problems[0].task_id}: {verdicts[0].error_message or verdicts[0].error_type}); mend its fields "
                    "code and test_list, or the preamble"
                )


def wants_cpu(dtype: str, device: str) -> bool:
    """Whether a type is for CPUs only, and a GPU would be taken if there is one."""
    return dtype.startswith("int") and device != "cpu"


def check_device(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Raise RunError if a model is to run in this process on a GPU and there is none that PyTorch can use, or in a type
    that a GPU does not have."""
    here = [
        v for v in tasks for role in ("code_model", "rewriter_model") if not v[role].startswith(("openai:", "ray:"))
    ]
    whole = next((v["dtype"] for v in here if wants_cpu(v["dtype"], v["device"])), "")
    if all(values["device"] != "cuda" for values in here) and not whole:
        return
    import torch

    if whole and torch.cuda.is_available():
        raise RunError(
            f"parameter dtype = {whole!r} is for the CPU, and there is a GPU: give dtype=auto (-p or --set), or device=cpu"
        )
    if not torch.cuda.is_available() and any(values["device"] == "cuda" for values in here):
        raise RunError(
            f"parameter device = 'cuda': torch {torch.__version__} finds no GPU here; give 'auto' or 'cpu', or install a "
            "CUDA build of torch on a machine with an NVIDIA GPU (ppo-codet5 doctor says what there is)"
        )


def check_folders(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Raise RunError if a run directory of these tasks belongs to another config, or cannot be written."""
    for values in tasks:
        for name in ("run_dir", "generation_cache"):
            if values[name] is not None:
                check_writable(values[name])
        decisive = settings.decisive(SimpleNamespace(**values))
        # Notebook 03 keeps the runs of several models and seeds side by side.
        beside = ("code_model", "prompt_form", "seed") if "strategies" in values else ()
        for config in sorted(Path(values["run_dir"]).glob("*/config.json")):
            identity = json.loads(config.read_text(encoding="utf-8")).get("identity", {})
            if any(identity.get(name) != decisive[name] for name in beside):
                continue
            before = {**decisive, **settings.LATER, **identity}
            if differ := [name for name, value in {**settings.LATER, **decisive}.items() if before[name] != value]:
                raise RunError(
                    f"{config.parent} belongs to another config (different: {', '.join(differ)}); "
                    "choose another run_dir or delete this one"
                )
