"""Tasks that run at the same time: each with a model of its own, and all with one that a further process has for them.

    python benchmarks/shared.py --output results/speed/shared.json    # 10 minutes on 2 cores that nothing else uses

Every task generates the same number of texts, again and again, as late steps of a run do; a model of its own has its
share of the cores. The two ways are measured one after the other. Per case: tokens per second of all tasks together, and
the memory of all processes.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _common

KINDS = ("own", "shared")


def work(name, dtype, rows, tokens):
    """One task: a generation of ``rows`` texts for each line on stdin, and a line on stdout once it is done."""
    from ppo_codet5.helpers.models import Request, load_generator

    generator = load_generator(name, dtype, "cpu", rows)
    texts = [f"Write a Python function f{os.getpid()}_{i} that returns the sum of {i} numbers.\n" for i in range(rows)]
    requests = [Request(text, i, max_new_tokens=tokens, temperature=1.0) for i, text in enumerate(texts)]
    generator.generate(requests)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(sum(reply.completion_tokens for reply in generator.generate(requests)), flush=True)


def measured(kind, rows, arguments):
    """Tokens per second of each round, and the memory of all processes in MB."""
    from ppo_codet5.helpers.models import shared

    threads = {"OMP_NUM_THREADS": str(max(1, _common.cores() // arguments.tasks))} if kind == "own" else {}
    line = [sys.executable, *sys.argv, "--worker", str(rows)]  # ends when its stdin does
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        if kind == "shared":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(shared.serving(Path(folder) / "models.log"))
        tasks = [
            stack.enter_context(subprocess.Popen(line, env=os.environ | threads, **pipes))
            for _ in range(arguments.tasks)
        ]
        if [task.stdout.readline() for task in tasks] != ["ready\n"] * len(tasks):
            sys.exit(f"{kind}, {rows} rows: a task could not start")
        rates = []
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            for task in tasks:
                task.stdin.write("go\n")
                task.stdin.flush()
            rates.append(sum(int(task.stdout.readline()) for task in tasks) / (time.perf_counter() - began))
        memory = _common.resident_mb()
        for task in tasks:
            task.stdin.close()
    return rates, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", default="2,8,32", help="texts that a task asks for at once")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="new tokens of each text, at most")
    parser.add_argument("--worker", type=int, help="be one of the tasks, with so many rows")
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.model, arguments.dtype, arguments.worker, arguments.tokens)
    cases = []
    for rows in map(int, arguments.rows.split(",")):
        case = {"rows": rows}
        for kind in KINDS:
            rates, memory = measured(kind, rows, arguments)
            case[kind] = {"tokens_per_second": rates, "memory_mb": memory}
        medians = {kind: statistics.median(case[kind]["tokens_per_second"]) for kind in KINDS}
        case["ratio"] = medians["shared"] / medians["own"]
        print(f"{rows:4d} rows a task", *(f"{kind} {rate:.1f} tokens/s" for kind, rate in medians.items()), flush=True)
        cases.append(case)
    if arguments.output:
        sizes = {name: getattr(arguments, name) for name in ("model", "dtype", "tasks", "rounds", "tokens")}
        _common.write(arguments.output, {"machine": _common.machine(), **sizes, "cases": cases})


if __name__ == "__main__":
    main()
