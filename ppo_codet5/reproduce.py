"""Run the notebooks headless: ``python -m ppo_codet5.reproduce --profile laptop``.

A profile may serve several notebooks: each takes the parameters that it has. Executed notebooks go to the profile's
``run_dir``, the figures and run directories of each to a folder of its own there. What is complete is not run again;
what was interrupted goes on. Exit codes: 0 done, 1 failed, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ppo_codet5

NOTEBOOKS = ("01_ppo_codet5.ipynb", "02_PPO_LlaMa.ipynb", "03_baselines.ipynb", "04_results.ipynb")
# Profiles of one code model leave out the notebook of the other one.
LEFT_OUT = {"codet5_a100": ("02_PPO_LlaMa.ipynb",), "codellama_a100": ("01_ppo_codet5.ipynb",)}


class InputError(Exception):
    """What the user gave cannot be run; the message says what to do."""


def resource(name: str) -> Path:
    """A file that ships with the package: beside it in a checkout, inside it in an installed wheel."""
    return next((Path(p) / name for p in ppo_codet5.__path__ if (Path(p) / name).exists()), Path(name))


def load_profile(name: str) -> dict[str, Any]:
    """Parameters of a profile: a name in ``profiles/`` or the path of a YAML file."""
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else resource("profiles") / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in resource("profiles").glob("*.yaml"))
        raise InputError(f"unknown profile {name!r}; known profiles: {', '.join(known)}, or the path of a .yaml file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold one parameter per line, as name: value")
    return values


def overrides(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` arguments, the values read as YAML."""
    import yaml

    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InputError(f"parameter {pair!r} must have the form name=value")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"parameter {pair!r}: the value is not valid YAML, put text in quotes") from None
    return values


def cell_of(notebook: Path) -> dict[str, Any]:
    """What the parameters cell of a notebook defines: its defaults and, in ``__annotations__``, their types."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    cell = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    namespace: dict[str, Any] = {}
    # Flat literals, from our own notebook; without this module's "annotations" future, which makes types texts.
    exec(compile(cell.source, "parameters", "exec", dont_inherit=True), namespace)
    return namespace


def parameters_of(notebook: Path, values: dict[str, Any]) -> dict[str, Any]:
    """All parameters of the notebook with ``values`` over its defaults; a wrong name, type or range is an error."""
    from ppo_codet5.helpers import settings

    namespace = cell_of(notebook)
    settings.check_parameters(values, namespace["__annotations__"])
    return vars(settings.read_parameters({**namespace, **values}))


def share(values: dict[str, Any], notebooks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each of ``notebooks`` takes of ``values``: the parameters that it has, and a ``run_dir`` of its own.

    A name that none of the project's notebooks has is an error.
    """
    from ppo_codet5.helpers import settings

    known = {name: cell_of(resource(name))["__annotations__"] for name in NOTEBOOKS}
    every = {parameter for annotations in known.values() for parameter in annotations}
    settings.check_parameters({k: v for k, v in values.items() if k not in every}, dict.fromkeys(every))
    taken = {name: {k: v for k, v in values.items() if k in known[name]} for name in notebooks}
    for name, its in taken.items():
        if isinstance(its.get("run_dir"), str):
            its["run_dir"] = str(Path(its["run_dir"]) / Path(name).stem)
        if "runs" in known[name] and "run_dir" in values:  # notebook 04 reads what the others have written
            folder = Path(values["run_dir"]) / Path(name).stem
            its |= {"runs": values["run_dir"], "figure_dir": str(folder / "figures"), "export_dir": str(folder)} | its
    return taken


def check_inputs(values: dict[str, Any]) -> None:
    """Load the problems, look for the models and at the run directories: what is wrong is found before anything is
    written. Downloads no weights."""
    from ppo_codet5.helpers import problems, settings

    for split, limit in (("train", values["train_limit"]), (values["eval_split"], values["eval_limit"])):
        problems.load_problems(values["problems"], split, limit, values["seed"])
    for name in sorted({values["code_model"], values["rewriter_model"]}):
        check_model(name)
    decisive = {name: value for name, value in values.items() if name not in settings.NOT_IN_IDENTITY}
    # Notebook 03 keeps the runs of several models and seeds side by side.
    beside = ("code_model", "prompt_form", "seed") if "strategies" in values else ()
    for config in sorted(Path(values["run_dir"]).glob("*/config.json")):
        identity = json.loads(config.read_text(encoding="utf-8")).get("identity", {})
        if any(identity.get(name) != values[name] for name in beside):
            continue
        if differ := [name for name, value in decisive.items() if identity.get(name, value) != value]:
            raise InputError(
                f"{config.parent} belongs to another config (different: {', '.join(differ)}); "
                "choose another run_dir or delete this one"
            )


def check_model(name: str) -> None:
    """Raise ModelError if the configuration of a model cannot be read: unknown, gated, private, or out of reach."""
    from ppo_codet5.helpers import models

    if name in models.ALIASES:
        return
    source, is_folder = models._source(name)
    from transformers import AutoConfig

    try:
        revision, local = (None, True) if is_folder else models._resolve(source, None)
        AutoConfig.from_pretrained(source, revision=revision, local_files_only=local)
    except (OSError, ValueError) as error:
        raise models._explained(name, error) from error


def execute(notebook: Path, output: Path, values: dict[str, Any], kernel: str | None) -> None:
    """Run one notebook through papermill, in the current folder, with a line per cell of its output on the terminal."""
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Sockets in a folder of their own: kernels that are started at the same time race for TCP ports.
        with tempfile.TemporaryDirectory(prefix="ppo-codet5-") as folder:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=values,
                kernel_name=kernel,
                progress_bar=sys.stderr.isatty(),
                stdout_file=sys.stdout,
                autosave_cell_every=0,
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}),
            )
    except PapermillExecutionError as error:
        reason = " ".join(error.evalue.split())
        raise InputError(f"{error.ename}: {reason} (cell {error.exec_count} of {output})") from None


def chosen(profile: str, numbers: Sequence[str] | None) -> list[str]:
    """The notebooks to run, in their order: those with the given numbers, else those that the profile is for."""
    if numbers is None:
        return [name for name in NOTEBOOKS if name not in LEFT_OUT.get(profile, ())]
    if unknown := [n for n in numbers if not any(name.startswith(f"{n}_") for name in NOTEBOOKS)]:
        raise InputError(f"no notebook {', '.join(unknown)}; known numbers: {', '.join(n[:2] for n in NOTEBOOKS)}")
    return [name for name in NOTEBOOKS if name[:2] in numbers]


def headline(run_dirs: Sequence[Path]) -> str:
    """Where everything is, and one line per strategy of each notebook, from the summaries under ``run_dirs``."""
    from ppo_codet5.helpers import scoring

    lines = []
    for run_dir in run_dirs:
        paths, scores = sorted(run_dir.glob("*/summary.json")), {}
        for path in paths:
            scores.update(json.loads(path.read_text(encoding="utf-8"))["scores"])
        if paths:
            lines += [*(f"summary            {path}" for path in paths), "", scoring.table(scores), ""]
    return "\n".join(lines).rstrip("\n")


def keep(run_dir: Path, target: Path) -> None:
    """Copy the small files of a notebook's runs to a folder that can be committed.

    Of ``attempts.jsonl`` it keeps what scores and notebook 04 read: no prompts, programs and feedback, no training.
    """
    from ppo_codet5.helpers import results, runs

    small = ("*/summary.json", "*/config.json", "*/metrics.jsonl", "*/results.csv", "figures/*.png", "results_table.*")
    for pattern in small:
        for path in run_dir.glob(pattern):
            copy = target / path.relative_to(run_dir)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for summary in run_dir.glob("*/summary.json"):
        rows = results.slim(runs.read_rows(summary.with_name("attempts.jsonl")))
        lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        (target / summary.parent.name / "attempts.jsonl").write_text(lines, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ppo_codet5.reproduce", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="laptop", help="a profile's name, or the path of a .yaml file")
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set one parameter"
    )
    parser.add_argument("--notebooks", nargs="+", metavar="NN", help="run these notebooks only, by number: 01 03")
    parser.add_argument("--keep", metavar="DIR", help="copy summaries, metrics, configs and figures to this folder")
    args = parser.parse_args(arguments)
    root = str(Path(ppo_codet5.__file__).parent.parent)  # the kernel finds the package in any folder
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    started = time.monotonic()
    try:
        values = {**load_profile(args.profile), **overrides(args.parameter)}
        taken, folders = share(values, chosen(args.profile, args.notebooks)), {}
        for name, its in taken.items():  # all of them before the first one starts
            full = parameters_of(resource(name), its)
            if "problems" in full:
                check_inputs(full)
            folders[name] = Path(full.get("run_dir") or full["export_dir"])
        for name, folder in folders.items():
            print(f"{name}: profile {args.profile}, run directory {folder}", flush=True)
            execute(resource(name), folder.parent / name, taken[name], "python3")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    except (InputError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = round(time.monotonic() - started)
    print(f"\ndone in {seconds} s")
    for name, folder in folders.items():
        print(f"executed notebook  {folder.parent / name}\nfigures            {folder / 'figures'}")
    print(headline(list(folders.values())))
    if args.keep:
        for folder in folders.values():
            keep(folder, Path(args.keep) / folder.name)
        (Path(args.keep) / "run.json").write_text(json.dumps({"seconds": seconds}) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
