"""Running tasks of the grid: one after the other, in several processes, or on a Ray cluster.

``python -m ppo_codet5.running --task PARENT JSON`` is the process of one task; only ``in_a_process`` calls it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ppo_codet5
from ppo_codet5.grid import Task, strategies_of
from ppo_codet5.helpers.runs import RunError
from ppo_codet5.notebooks import parameters_of, resource


def run_all(tasks: Sequence[Task], jobs: int, ray_address: str | None = None) -> Iterator[tuple[Task, str]]:
    """Execute the tasks stage by stage; yields each with what went wrong, "" if nothing.

    One at a time in this process, or ``jobs`` at a time in processes of their own, or as Ray tasks, one per GPU.
    """
    root = str(Path(ppo_codet5.__file__).parent.parent)  # kernels and processes import this package in any folder
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    if jobs == 1 and ray_address is None:
        for task in tasks:
            print(f"{task.name}: run directory {task.folder}; starting, which may take a minute", flush=True)
            yield task, attempt(task)
        return
    for stage in sorted({task.stage for task in tasks}):
        group, began = [task for task in tasks if task.stage == stage], time.monotonic()
        for task, why in _with_processes(group, jobs) if ray_address is None else _with_ray(group, ray_address):
            if not why:
                print(f"{task.name}: done, {time.monotonic() - began:.0f} s after the start of its stage", flush=True)
            yield task, why


def attempt(task: Task) -> str:
    """Execute a task in this process; what went wrong, "" if nothing."""
    try:
        if task.fill:
            fill(task)
        else:
            execute(resource(task.notebook), task.output, task.parameters)
    except (RuntimeError, ValueError, OSError) as error:
        return str(error)
    return ""


def fill(task: Task) -> None:
    """The runs of a task's notebook by the package's own code: what the notebook then reads, without its other cells."""
    from ppo_codet5 import baselines, core

    config = types.SimpleNamespace(**parameters_of(resource(task.notebook), task.parameters))
    if hasattr(config, "strategies"):
        player = baselines.Baselines(config)  # loads models only where a run is not complete
        for name in strategies_of(vars(config)):
            player.run(name)
    else:
        trainer = core.PPOCodeT5Trainer(config)
        trainer.train(task.folder / "ppo")
        for name in core.CONTROLS:
            trainer.control(name, task.folder / name)


def execute(notebook: Path, output: Path, values: dict, kernel: str = "python3") -> None:
    """Run one notebook through papermill, in the current folder, with a line per cell of its output on the terminal."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    kernels: list[KernelManager] = []

    class KernelManager(AsyncKernelManager):
        """Lets the kernel end its last reply: shutting down interrupts it first, and a kernel in a reply complains."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            kernels.append(self)

        async def _async_interrupt_kernel(self) -> None:
            if isinstance(sys.exc_info()[1], KeyboardInterrupt):
                # Ctrl-C here, in the middle of a cell: the kernel and those that wait for it have nothing to report.
                asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
                for waiting in asyncio.all_tasks() - {asyncio.current_task()}:
                    waiting.cancel()
                await self._async_kill_kernel()
                return
            if self.shutting_down:
                await asyncio.sleep(0.5)  # the client does not wait for the end of what it asked last
            await super()._async_interrupt_kernel()

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Sockets in a folder of their own: kernels that are started at the same time race for TCP ports.
        with tempfile.TemporaryDirectory(prefix="ppo-codet5-") as folder, _ended(kernels):
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=values,
                kernel_name=kernel,
                progress_bar=sys.stderr.isatty(),
                stdout_file=sys.stdout,
                autosave_cell_every=0,
                kernel_manager_class=KernelManager,
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}),
            )
    except PapermillExecutionError as error:
        reason = " ".join(error.evalue.split())
        raise RunError(f"{error.ename}: {reason} (cell {error.exec_count} of {output})") from None
    except OSError:  # a full disk leaves half a notebook
        output.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _ended(kernels: Sequence[Any]) -> Iterator[None]:
    """Leaves no kernel behind: one that was still starting at Ctrl-C would complain that its sockets' folder is gone."""
    try:
        yield
    finally:
        for process in filter(None, (getattr(kernel.provisioner, "process", None) for kernel in kernels)):
            process.kill()
            process.wait()


def _with_processes(group: Sequence[Task], jobs: int) -> Iterator[tuple[Task, str]]:
    """Run tasks in ``jobs`` processes at a time, which share the cores and take turns with the GPUs.

    Without a GPU, and where memory has no room for as many models, one more process has the models, for all of them.
    """
    from ppo_codet5.helpers.models import shared

    threads = max(1, (os.cpu_count() or 1) // jobs)
    gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
    running: list[subprocess.Popen] = []
    values = [parameters_of(resource(task.notebook), task.parameters) for task in group]
    names = _gpus() if any(parameters.get("device") != "cpu" for parameters in values) else []
    for number in range(jobs):
        gpus.put(names[number % len(names)] if len(names) > 1 else "")

    def one(task: Task) -> tuple[Task, str]:
        gpu = gpus.get()
        try:
            print(f"{task.name}: started, log {task.log}", flush=True)
            share = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
            return task, in_a_process(task, {"OMP_NUM_THREADS": str(threads), **os.environ, **share}, running)
        finally:
            gpus.put(gpu)

    shares = len(group) > 1 and not names and _memory_needed(values) * min(jobs, len(group)) > memory()
    pool = ThreadPoolExecutor(jobs)
    with shared.serving(group[0].output.parent / "models.log") if shares else contextlib.nullcontext():
        try:
            for future in as_completed([pool.submit(one, task) for task in group]):
                yield future.result()
        finally:  # after Ctrl-C, of which only a terminal tells the tasks: those that have not started must not
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            pool.shutdown()


def memory() -> int:
    """Bytes of memory that this machine has, or this container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
    return total


def _memory_needed(tasks: Sequence[Mapping[str, Any]]) -> float:
    """Bytes that the largest of the tasks with these parameters takes with models of its own, while it loads them.

    On a CPU. A model takes 1.4 times its files in int8 and up to 2.2 times in float32, the rest of a task 1 GB, as
    measured with ``benchmarks/memory.py`` and ``benchmarks/shared.py``.
    """
    from ppo_codet5.helpers.models import INT8, weight_bytes

    most = 0.0
    for values in tasks:
        names = {str(values[role]) for role in ("code_model", "rewriter_model") if role in values}
        files = sum(weight_bytes(name) for name in names)
        most = max(most, 1e9 + files * (1.5 if values.get("dtype") in INT8 else 2.2))
    return most


def _gpus() -> list[str]:
    """Names of the GPUs that may be used. Asks the driver, so torch stays unloaded."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        try:
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return []
        visible = ",".join(str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU "))
    return [name for name in visible.split(",") if name not in ("", "-1")]


def _with_ray(group: Sequence[Task], address: str) -> Iterator[tuple[Task, str]]:
    """Run tasks on a Ray cluster; all nodes must see this folder under the same path."""
    from ppo_codet5.helpers.models import replicas

    ray = replicas.connect(address)
    have = [node["Resources"] for node in replicas.nodes(ray)]
    gpus = [node for node in have if node.get("GPU", 0)]
    threads = min((int(node.get("CPU", 1) // node["GPU"]) for node in gpus), default=1)
    share = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 1}
    folder = os.getcwd()

    def remote(task: Task) -> str:
        os.chdir(folder)
        return in_a_process(task, {"OMP_NUM_THREADS": str(max(1, threads))})  # Ray has set it to 1

    work = ray.remote(max_retries=3, **share)(remote)  # of a task whose node died: it goes on from its checkpoint
    waiting = {work.remote(task): task for task in group}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        task = waiting.pop(ready)
        try:
            yield task, ray.get(ready)
        except ray.exceptions.RayError as error:
            yield task, f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (log: {task.log})"


def in_a_process(task: Task, environment: Mapping[str, str], running: list[subprocess.Popen] | None = None) -> str:
    """Execute a task in a process of its own that prints to the task's log; what went wrong, "" if nothing.

    The process is appended to ``running``, for whoever may have to end it.

    It dies with this one (on Linux): a task that is started again must not find its run directory in use.
    """
    task.output.parent.mkdir(parents=True, exist_ok=True)
    text, env = json.dumps(asdict(task), default=str), {**os.environ, **environment}
    line = [sys.executable, "-m", "ppo_codet5.running", "--task", str(os.getpid()), text]
    with open(task.log, "wb") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)
        if running is not None:
            running.append(process)
        code = process.wait()
    if code == 0:
        return ""
    lines = task.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else f'exit code {code}'} (log: {task.log})"


def die_with(parent: int) -> None:
    """Have the kernel end this process when the one that started it ends, however that is; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was too late
            sys.exit(1)


def main() -> int:
    """One task, in the process that ``in_a_process`` starts."""
    parent, text = sys.argv[-2:]
    die_with(int(parent))
    values = json.loads(text)
    why = attempt(Task(**{**values, "output": Path(values["output"]), "folder": Path(values["folder"])}))
    if why:
        print(f"error: {why}")
    return int(bool(why))


if __name__ == "__main__":
    sys.exit(main())
