"""``ppo-codet5 reproduce``: the notebooks headless, from a profile to the scores.

A profile serves several notebooks: each takes the parameters that it has. Executed notebooks go to the profile's
``run_dir``, the figures and run directories of each to a folder of its own there (with ``--seeds`` below one folder per
seed). What is complete is not run again; what was interrupted goes on. A task that fails does not stop the others. With
``--jobs``, ``--ray`` or ``--cell`` each strategy of 03 is a task of its own, before the whole notebook reads what they
left. ``python -m ppo_codet5.reproduce`` is the same command. ``ppo_codet5.cli`` has its arguments and exit codes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ppo_codet5.config import as_parameters, parameter_names, profile_parameters
from ppo_codet5.grid import TABLE, Task, check_device, check_folders, check_inputs, check_strategies, plan
from ppo_codet5.helpers.runs import RunError, check_writable, read_rows, user_path, write_atomically
from ppo_codet5.helpers.settings import model_label
from ppo_codet5.notebooks import chosen, overrides, parameters_of, resource, say_copies, shipped
from ppo_codet5.running import run_all

CODER_TIME = "about a day, half of it with --jobs 2, estimated"  # of profile coder on two CPU cores
CODER_DOWNLOAD = "about 1.6 GB"
TIMES = {"laptop": "22 minutes", **dict.fromkeys(("coder", "coder_published"), CODER_TIME)}  # a seed on two CPU cores
KEPT = "# What made these results"  # how the README of kept results begins


def run(args: argparse.Namespace) -> int:
    """Plan, check everything, run, report; 1 if a task failed."""
    started = time.monotonic()
    given = as_parameters(overrides(args.parameter))
    values = {**profile_parameters(args.profile), **given}
    side_by_side = args.jobs > 1 or args.ray is not None
    split = not args.fill and (side_by_side or args.cell is not None or args.dry_run)
    tasks = plan(args.profile, values, chosen(args.profile, args.notebooks), args.seeds, split, parameter_names())
    if args.fill:
        tasks = [replace(task, fill=True) for task in tasks if task.notebook != TABLE]
        copies = [t.notebook for t in tasks if not resource(t.notebook).samefile(shipped(t.notebook))]
        if copies:
            raise RunError(
                f"--fill runs the package's own code, not the copy of {copies[0]} in this folder: "
                "leave out --fill, or give the command in another folder"
            )
        if not tasks:
            raise RunError(f"--fill does the runs of notebooks 01 to 03, and {TABLE} has none; leave out --fill")
    if args.cell is not None:
        if not 0 <= args.cell < len(tasks):
            raise RunError(f"--cell {args.cell}: there are {len(tasks)} tasks, 0 to {len(tasks) - 1}")
        tasks = [tasks[args.cell]]
    full = [parameters_of(resource(task.notebook), task.parameters) for task in tasks]
    models = [str(parameters.get(role)) for parameters in full for role in ("code_model", "rewriter_model")]
    if side_by_side and (pools := [name for name in models if name.startswith("ray:")]):
        raise RunError(
            f"{pools[0]} with --jobs or --ray: each task would ask for replicas of its own beside its GPU; use "
            "the model itself, as the tasks run side by side already"
        )
    for parameters in full if args.fill else []:  # a notebook checks its own
        check_strategies(parameters)
    ours = [parameters for parameters in full if "problems" in parameters]
    changed = given.keys() - {"problems"}  # the same problems from another place
    whole = args.profile if not args.notebooks and not changed and args.cell is None else ""
    check_inputs(ours)
    check_folders(ours)
    if args.keep:
        check_writable(args.keep)
    if not args.json:
        say_copies(args.profile, list(dict.fromkeys(task.notebook for task in tasks)))
        if idle := [name for name in given if name != "run_dir" and all(name not in t.parameters for t in tasks)]:
            print(f"note      these notebooks have no {', '.join(idle)}: it changes nothing")
    if args.dry_run:
        return show_plan(tasks, ours, args.json, whole)
    if not args.json:
        print(time_of(whole, args.fill), flush=True)
    if args.ray is None:
        check_device(ours)
    fetch(ours)
    failed = []
    for task, why in run_all(tasks, args.jobs, args.ray):
        if why:
            print(f"error: {task.name}: {why}", file=sys.stderr, flush=True)
            failed.append(f"failed: {task.name}: {why}")
    print(f"\ndone in {round(time.monotonic() - started)} s")
    for task in tasks:
        for name, path in (
            ("executed notebook", task.output),
            ("figures", task.folder / "figures"),
            ("explorer", task.folder / "figures" / "explorer.html"),
        ):
            if path.exists():
                print(f"{name:18s} {path}")
    print(headline(tasks))
    if args.keep:
        root = user_path(values.get("run_dir", "runs"))
        for folder in dict.fromkeys(task.folder for task in tasks):
            keep(folder, Path(args.keep) / folder.relative_to(root))
        readme = Path(args.keep) / "README.md"
        if readme.exists() and not readme.read_text(encoding="utf-8").startswith(KEPT):
            print(f"{readme} is somebody else's and stays: what made these results is not written down")
        else:
            write_atomically(readme, about([task.folder for task in tasks], command_of(args)).encode())
    if args.profile in ("laptop", "smoke") and args.cell is None and not failed:
        print(f"\n{next_step()}")
    if failed and len(tasks) > 1:  # again, after all that the others printed
        print(*failed, sep="\n", file=sys.stderr)
    return int(bool(failed))


def time_of(profile: str, fill: bool = False) -> str:
    """How long a whole profile takes, where it was timed; "" is for what is no whole one."""
    measured = f"a seed takes {TIMES[profile]} on two CPU cores" if profile in TIMES else "not timed"
    said = "" if fill else "; notebooks 01 to 03 measure this machine and print their minutes before they run"
    return f"time      {measured}{said}"


def show_plan(tasks: Sequence[Task], parameters: Sequence[Mapping[str, Any]], as_json: bool, profile: str = "") -> int:
    """Print the tasks by number, how long they take and what is to be fetched for them; returns the exit code."""
    if as_json:
        print(json.dumps({"tasks": [asdict(task) for task in tasks], "to_fetch": to_fetch(parameters)}, default=str))
        return 0
    for number, task in enumerate(tasks):
        print(f"{number:3d} stage {task.stage}  {task.name}  {task.output}  {json.dumps(task.parameters)}")
    print(time_of(profile, any(task.fill for task in tasks)), f"to fetch  {words(to_fetch(parameters))}", sep="\n")
    return 0


def to_fetch(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the files of our own that the tasks with these parameters need and the cache does not have."""
    from ppo_codet5.helpers import assets

    return assets.missing(dict.fromkeys(name for values in tasks for name in assets.used_by(values)))


def words(names: Sequence[str]) -> str:
    """Names of such files with their size and where they go."""
    from ppo_codet5.helpers import assets

    size = assets.size(sum(assets.ASSETS[name].megabytes for name in names))
    return f"{', '.join(names)}: {size}, to {assets.cache_root()}" if names else "nothing"


def fetch(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Fetch what the models of tasks with these parameters need, here, where it can be seen."""
    from ppo_codet5.helpers import assets

    if names := to_fetch(tasks):
        print(f"fetching {words(names)}", flush=True)
        assets.fetch(names)


def headline(tasks: Sequence[Task]) -> str:
    """One line per strategy of each task, from the summaries in its folder."""
    from ppo_codet5.helpers.results import scoring

    lines: list[str] = []
    for folder in dict.fromkeys(task.folder for task in tasks):
        scores: dict[str, Any] = {}
        paths = sorted(folder.glob("*/summary.json"))
        for path in paths:
            summary = json.loads(path.read_text(encoding="utf-8"))
            form = "" if folder.name[:2] in ("01", "02") else path.parent.name.split("_")[-2]
            scores |= {f"{name} {form}".strip(): score for name, score in summary["scores"].items()}
        if paths:
            lines += [*(f"summary            {path}" for path in paths), "", scoring.table(scores), ""]
    return "\n".join(lines).rstrip("\n")


def next_step() -> str:
    """How to go on from the small model: with make in a checkout, where the command may not be installed."""
    root = Path(__file__).resolve().parent.parent
    make = Path.cwd() == root and (root / "Makefile").exists()
    command = "make demo PROFILE=coder" if make else "ppo-codet5 reproduce --profile coder"
    given = 'ARGS="-p problems=mbpp.jsonl"' if make else "-p problems=mbpp.jsonl"
    data = f"MBPP from the hub, or with {given} from a file"
    return f"next, a real code model: {command} (two CPU cores: {CODER_TIME}; downloads {CODER_DOWNLOAD} once; {data})"


def keep(run_dir: Path, target: Path) -> None:
    """Copy the small files of a notebook's runs to a folder that can be committed.

    Of the attempts it keeps what scores, notebook 04 and a look into the training read; those that are not scored are
    compressed. Prompts and programs stay of the project's own problems only, since others have owners. A figure that was
    kept of another notebook or seed already is not kept again.
    """
    from ppo_codet5.helpers import results, runs

    small = ("*/summary.json", "*/config.json", "*/metrics.jsonl", "*/stops.jsonl", "figures/*.png", "results_table.*")
    root = target.parents[target.parent.name.startswith("seed")]
    for path in (path for pattern in small for path in run_dir.glob(pattern)):
        copy, data = target / path.relative_to(run_dir), path.read_bytes()
        others = root.rglob(path.name) if path.suffix == ".png" else ()
        if any(other != copy and other.read_bytes() == data for other in others):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, data)
    for folder in (summary.parent for summary in run_dir.glob("*/summary.json")):
        copy, identity = target / folder.name, json.loads((folder / "config.json").read_bytes())["identity"]
        ours = {identity["problems"], identity.get("train_problems") or "starter"} == {"starter"}
        rows, lines = runs.read_rows(folder / "attempts.jsonl"), {}
        for scored in (True, False):
            chosen = results.slim((row for row in rows if (row["phase"] == "eval") == scored), texts=ours and scored)
            lines[scored] = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in chosen)
        write_atomically(copy / "attempts.jsonl", lines[True].encode())
        if lines[False]:  # without a time in it: the same bytes each time
            write_atomically(copy / results.TRAINING, gzip.compress(lines[False].encode(), mtime=0))
        if ours and (folder / "results.csv").exists():
            write_atomically(copy / "results.csv", (folder / "results.csv").read_bytes())


def command_of(args: argparse.Namespace) -> str:
    """The command that these arguments come from; of files, folders and servers elsewhere the names only."""
    line = ["ppo-codet5", "reproduce", "--profile", plain(args.profile)]
    line += ["--seeds", *map(str, args.seeds)] if args.seeds else []
    line += ["--notebooks", *args.notebooks] if args.notebooks else []
    for pair in args.parameter:
        name, _, value = pair.partition("=")
        line += ["-p", f"{name}={plain(value)}"]
    return shlex.join([*line, "--keep", plain(args.keep)])


def plain(value: str) -> str:
    """A value without what only this machine knows: of each path from the root or from home its name, no server's URL."""
    parts = (part.partition("@http")[0] for part in value.split(";"))
    return ";".join(Path(part).name if part.startswith(("/", "~")) else part for part in parts)


def about(folders: Sequence[Path], command: str) -> str:
    """What ``README.md`` says of kept results: the command, and the machine, versions and minutes of these runs."""
    paths = sorted({path for folder in folders for path in folder.rglob("config.json")})
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    logs = [path.with_name("timings.jsonl") for path in paths if path.with_name("timings.jsonl").exists()]
    # Runs of before log kinds of work and no total for a search.
    spent = [
        row.get("total", sum(v for v in row.values() if isinstance(v, float))) for log in logs for row in read_rows(log)
    ]
    parts: dict[str, set[str]] = {}
    for config in filter(lambda config: "versions" in config, configs):
        machine, versions = config["hardware"], config["versions"]
        models = [(role, config[role]) for role in ("code", "rewriter") if role in config]
        said = {
            "machine": f"{machine.get('processor') or machine['machine']}, {machine['cpus']} cores, "
            f"{', '.join(machine['gpus']) or 'no GPU'}",
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version[0].isdigit()),
            "models": ", ".join(
                f"{model_label(model['name'])} in {model.get('dtype')} ({role})" for role, model in models
            ),
            "commit": config["commit"][:12],
        }
        for name, text in said.items():
            parts.setdefault(name, set()).add(text)
    minutes = f"{sum(spent) / 60:.0f} of training and evaluation, summed over {len(configs)} runs"
    lines = [f"| {name} | {'; '.join(sorted(texts))} |" for name, texts in parts.items()]
    return "\n".join(
        [
            f"{KEPT}\n\n```bash\n{command}\n```\n",
            "| | |",
            "|---|---|",
            *lines,
            f"| minutes | {minutes}; what was in the cache of completions already took none |",
            "",
            "In float32 the same command gives the same attempts on the same machine. On another processor, in int8 where some",
            "completions were in the cache, and in bfloat16 with another number of threads, programs may differ. Prompts and",
            "programs are kept of the project's own problems only.",
            "",
        ]
    )


if __name__ == "__main__":
    from ppo_codet5 import cli

    sys.exit(cli.main(["reproduce", *sys.argv[1:]]))
