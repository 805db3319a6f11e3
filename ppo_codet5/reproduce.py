"""Run the notebooks headless: ``ppo-codet5 reproduce --profile laptop``.

A profile serves several notebooks: each takes the parameters that it has. One *task* is one notebook with one seed and,
for notebook 03, one form of prompt; 04 comes last and reads what the others left. Executed notebooks go to the
profile's ``run_dir``, the figures and run directories of each to a folder of its own there (with ``--seeds`` below one
folder per seed). What is complete is not run again; what was interrupted goes on. A task that fails does not stop the
others. With ``--jobs``, ``--ray`` or ``--cell`` each strategy of 03 is a task of its own, before the whole notebook reads
what they left. Exit codes: 0 done, 1 failed, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ppo_codet5

NOTEBOOKS = ("01_ppo_codet5.ipynb", "02_PPO_LlaMa.ipynb", "03_baselines.ipynb", "04_results.ipynb")
TABLE = NOTEBOOKS[-1]
PARENT = "PPO_CODET5_PARENT"  # process id, to a task in a process of its own
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # 3e-4, which YAML reads as text
FORMS = {"01_ppo_codet5.ipynb": "completion", "02_PPO_LlaMa.ipynb": "chat"}  # 03 plays the baselines of each
STRATEGIES = (  # of notebook 03
    *("direct", "mutation", "rewriting", "resampling", "random"),
    *("fixed_action", "schedule", "bandit", "epic", "reflexion"),
)
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
            values[name] = float(value) if _FLOAT.fullmatch(value) else yaml.safe_load(value)
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
    types = check_names(values)
    tasks = []
    each: Sequence[int | None] = seeds or [None]
    for seed in each:
        for name in (name for name in notebooks if name != TABLE):
            given = {k: v for k, v in values.items() if k in types[name]}
            root = Path(given.get("run_dir", "runs")) / ("" if seed is None else f"seed{seed}")
            given |= {"run_dir": str(root / Path(name).stem)} | ({} if seed is None else {"seed": seed})
            forms = FORMS.values() if "strategies" in types[name] and "prompt_form" not in given else [None]
            for form in forms:
                if form and not any(FORMS.get(served) == form for served in chosen(profile, None)):
                    continue
                stem = Path(name).stem + (f"_{form}" if form else "")
                label = stem if seed is None else f"{stem} seed {seed}"
                form_given = given | ({"prompt_form": form} if form else {})
                folder, stage = root / Path(name).stem, 0
                if split and "strategies" in types[name]:
                    stage = 1
                    for strategy in strategies_of(form_given):
                        output = root / "cells" / f"{stem}_{strategy}.ipynb"
                        only = form_given | {"strategies": strategy}
                        tasks.append(Task(f"{label} {strategy}", name, output, folder, only))
                tasks.append(Task(label, name, root / f"{stem}.ipynb", folder, form_given, stage))
    if TABLE in notebooks:
        root = Path(values.get("run_dir", "runs"))
        folder = root / Path(TABLE).stem
        ours = {"runs": str(root), "figure_dir": str(folder / "figures"), "export_dir": str(folder)}
        given = ours | {k: v for k, v in values.items() if k in types[TABLE]}
        tasks.append(Task(Path(TABLE).stem, TABLE, root / TABLE, folder, given, 2))
    return sorted(tasks, key=lambda task: task.stage)


def check_names(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook with their types; raises RunError for a name that no notebook has."""
    from ppo_codet5.helpers import settings

    types = {name: cell_of(resource(name))["__annotations__"] for name in NOTEBOOKS}
    every = {parameter for annotations in types.values() for parameter in annotations}
    settings.check_parameters({k: v for k, v in values.items() if k not in every}, dict.fromkeys(every))
    return types


def strategies_of(values: dict[str, Any]) -> list[str]:
    """The strategies that these parameters ask notebook 03 for."""
    names = values.get("strategies", "all")
    return list(STRATEGIES) if names == "all" else [name.strip() for name in names.split(",")]


@functools.cache
def check_model(name: str) -> None:
    """Raise ModelError if a model cannot be had; asked once, however many tasks use it."""
    from ppo_codet5.helpers import models

    models.check_model(name)


def check_inputs(values: dict[str, Any]) -> None:
    """Load the problems, look for the models and at the run directories: what is wrong is found before anything is
    written. Downloads no weights."""
    from ppo_codet5.helpers import problems, settings

    for split, limit in (("train", values["train_limit"]), (values["eval_split"], values["eval_limit"])):
        problems.load_problems(values["problems"], split, limit, values["seed"])
    for name in sorted({values["code_model"], values["rewriter_model"]}):
        check_model(name)
    decisive = settings.decisive(argparse.Namespace(**values))
    # Notebook 03 keeps the runs of several models and seeds side by side.
    beside = ("code_model", "prompt_form", "seed") if "strategies" in values else ()
    for config in sorted(Path(values["run_dir"]).glob("*/config.json")):
        identity = json.loads(config.read_text(encoding="utf-8")).get("identity", {})
        if any(identity.get(name) != decisive[name] for name in beside):
            continue
        if differ := [name for name, value in decisive.items() if identity.get(name, value) != value]:
            raise InputError(
                f"{config.parent} belongs to another config (different: {', '.join(differ)}); "
                "choose another run_dir or delete this one"
            )


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
        return [name for name in NOTEBOOKS if name not in LEFT_OUT.get(Path(profile).stem, ())]
    if unknown := [n for n in numbers if not any(name.startswith(f"{n}_") for name in NOTEBOOKS)]:
        raise InputError(f"no notebook {', '.join(unknown)}; known numbers: {', '.join(n[:2] for n in NOTEBOOKS)}")
    return [name for name in NOTEBOOKS if name[:2] in numbers]


def run_all(tasks: Sequence[Task], jobs: int, ray_address: str | None = None) -> Iterator[tuple[Task, str]]:
    """Execute the tasks stage by stage; yields each with what went wrong, "" if nothing.

    One at a time in this process, or ``jobs`` at a time in processes of their own, or as Ray tasks, one per GPU.
    """
    if jobs == 1 and ray_address is None:
        for task in tasks:
            print(f"{task.name}: run directory {task.folder}", flush=True)
            try:
                execute(resource(task.notebook), task.output, task.parameters, "python3")
                yield task, ""
            except (InputError, RuntimeError, ValueError, OSError) as error:
                yield task, str(error)
        return
    start = _with_ray(ray_address) if ray_address is not None else _with_processes(jobs)
    for stage in sorted({task.stage for task in tasks}):
        group = [task for task in tasks if task.stage == stage]
        began = time.monotonic()
        for task, why in start(group):
            if not why:
                print(f"{task.name}: done, {time.monotonic() - began:.0f} s after the start of its stage", flush=True)
            yield task, why


def _with_processes(jobs: int) -> Callable[[Sequence[Task]], Iterator[tuple[Task, str]]]:
    """Runs tasks in ``jobs`` processes at a time, which share the cores and take turns with the GPUs."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
    for number in range(jobs):
        gpus.put(_visible_gpu(number))

    def one(task: Task) -> tuple[Task, str]:
        gpu = gpus.get()
        try:
            print(f"{task.name}: started, log {task.log}", flush=True)
            share = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
            return task, in_a_process(task, {"OMP_NUM_THREADS": str(threads), **os.environ, **share})
        finally:
            gpus.put(gpu)

    def start(group: Sequence[Task]) -> Iterator[tuple[Task, str]]:
        pool = ThreadPoolExecutor(jobs)
        try:
            for future in as_completed([pool.submit(one, task) for task in group]):
                yield future.result()
        finally:  # after Ctrl-C those that have not started must not
            pool.shutdown(cancel_futures=True)

    return start


def _visible_gpu(number: int) -> str:
    """The GPU for one of several processes, "" where there is at most one. Asks the driver, so torch stays unloaded."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return ""
        visible = ",".join(str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU "))
    names = [name for name in visible.split(",") if name]
    return names[number % len(names)] if len(names) > 1 else ""


def _with_ray(address: str) -> Callable[[Sequence[Task]], Iterator[tuple[Task, str]]]:
    """Runs tasks on a Ray cluster; all nodes must see this folder under the same path."""
    from ppo_codet5.helpers import cluster

    ray = cluster.connect(address)
    have = [node["Resources"] for node in cluster.nodes(ray)]
    gpus = [node for node in have if node.get("GPU", 0)]
    threads = min((int(node.get("CPU", 1) // node["GPU"]) for node in gpus), default=1)
    share = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 1}
    folder = os.getcwd()

    def remote(task: Task) -> str:
        os.chdir(folder)
        return in_a_process(task, {"OMP_NUM_THREADS": str(max(1, threads))})  # Ray has set it to 1

    work = ray.remote(max_retries=3, **share)(remote)  # of a task whose node died: it goes on from its checkpoint

    def start(group: Sequence[Task]) -> Iterator[tuple[Task, str]]:
        waiting = {work.remote(task): task for task in group}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(ready)
            try:
                yield task, ray.get(ready)
            except ray.exceptions.RayError as error:
                yield task, f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (log: {task.log})"

    return start


def in_a_process(task: Task, environment: Mapping[str, str]) -> str:
    """Execute a task in a process of its own that prints to the task's log; what went wrong, "" if nothing.

    It dies with this one (on Linux): a task that is started again must not find its run directory in use.
    """
    task.output.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "ppo_codet5.reproduce", "--task", json.dumps(asdict(task), default=str)]
    with open(task.log, "wb") as log:
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
            check=False,
        )
    if done.returncode == 0:
        return ""
    lines = task.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else f'exit code {done.returncode}'} (log: {task.log})"


def headline(tasks: Sequence[Task]) -> str:
    """One line per strategy of each task, from the summaries in its folder."""
    from ppo_codet5.helpers import scoring

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``ppo-codet5 reproduce``."""
    parser.add_argument("--profile", default="laptop", help="a profile's name, or the path of a .yaml file")
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set one parameter"
    )
    parser.add_argument("--notebooks", nargs="+", metavar="NN", help="run these notebooks only, by number: 01 03")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="repeat with each of these seeds")
    parser.add_argument(
        "--jobs", type=count_from_1, default=1, metavar="N", help="tasks run at the same time, one per GPU"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help='run the tasks on a Ray cluster ("auto", host:port, "local")')
    parser.add_argument("--cell", type=int, metavar="N", help="run task N of the --dry-run list only (Slurm arrays)")
    parser.add_argument("--dry-run", action="store_true", help="number the tasks that would run, and their parameters")
    parser.add_argument("--keep", metavar="DIR", help="copy summaries, metrics, configs and figures to this folder")
    parser.add_argument("--task", help=argparse.SUPPRESS)


def count_from_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def models_on_ray(values: Mapping[str, Any]) -> list[str]:
    """The models of these parameters that are replicas on Ray."""
    return [str(values[name]) for name in ("code_model", "rewriter_model") if str(values.get(name)).startswith("ray:")]


def find_the_package() -> None:
    """Let kernels and other processes that we start import this package, in any folder."""
    root = str(Path(ppo_codet5.__file__).parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


def die_with(parent: int) -> None:
    """Have the kernel end this process when the one that started it ends, however that is; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was too late
            sys.exit(1)


def run_task(text: str) -> int:
    """One task, given as JSON by ``in_a_process``."""
    if parent := os.environ.pop(PARENT, ""):
        die_with(int(parent))
    values: dict[str, Any] = json.loads(text)
    task = Task(**{**values, "output": Path(values["output"]), "folder": Path(values["folder"])})
    try:
        execute(resource(task.notebook), task.output, task.parameters, "python3")
    except (InputError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}")
        return 1
    return 0


def run(args: argparse.Namespace) -> int:
    """``ppo-codet5 reproduce``."""
    find_the_package()
    if args.task:
        return run_task(args.task)
    started = time.monotonic()
    try:
        values = {**load_profile(args.profile), **overrides(args.parameter)}
        split = args.jobs > 1 or args.ray is not None or args.cell is not None
        tasks = plan(args.profile, values, chosen(args.profile, args.notebooks), args.seeds, split or args.dry_run)
        if args.cell is not None:
            if not 0 <= args.cell < len(tasks):
                raise InputError(f"--cell {args.cell}: there are {len(tasks)} tasks, 0 to {len(tasks) - 1}")
            tasks = [tasks[args.cell]]
        for task in tasks:  # all of them before the first one starts
            full = parameters_of(resource(task.notebook), task.parameters)
            if (args.jobs > 1 or args.ray is not None) and (pools := models_on_ray(full)):
                raise InputError(
                    f"{pools[0]} with --jobs or --ray: each task would ask for replicas of its own beside its GPU; use "
                    "the model itself, as the tasks run side by side already"
                )
            if "problems" in full:
                check_inputs(full)
        if args.dry_run:
            for number, task in enumerate(tasks):
                print(f"{number:3d} stage {task.stage}  {task.name}  {task.output}  {json.dumps(task.parameters)}")
            return 0
        failed = []
        for task, why in run_all(tasks, args.jobs, args.ray):
            if why:
                print(f"error: {task.name}: {why}", file=sys.stderr, flush=True)
                failed.append((task, why))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    except (InputError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = round(time.monotonic() - started)
    print(f"\ndone in {seconds} s")
    for task in tasks:
        print(f"executed notebook  {task.output}\nfigures            {task.folder / 'figures'}")
    print(headline(tasks))
    if args.keep:
        root = Path(values.get("run_dir", "runs"))
        for folder in dict.fromkeys(task.folder for task in tasks):
            keep(folder, Path(args.keep) / folder.relative_to(root))
    for task, why in failed if len(tasks) > 1 else []:  # again, after all that the others printed
        print(f"failed: {task.name}: {why}", file=sys.stderr)
    return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ppo_codet5.reproduce", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
