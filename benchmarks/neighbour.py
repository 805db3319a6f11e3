"""What a second process with PyTorch on the same cores costs, by how OpenMP's idle threads wait for work.

    python benchmarks/neighbour.py --output results/speed/neighbour.json

One generation (smollm2-135m, the same prompts, greedy) is timed in a process that is alone, and in two at once until both
have ended. All settings take turns in every round, and each is compared with the default alone: 2.0 is half speed. About
4 minutes, on a machine where nothing else runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import _common

SETTINGS = {"default": {}, "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"}}
SETTINGS |= {f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": str(n)} for n in (0, 1000, 3000, 5000, 10_000, 100_000)}
INHERITED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")  # would hide what is compared


def work(prompts, tokens):
    """The process that is timed: a generation for each line on stdin, its seconds as a line on stdout."""
    import torch  # noqa: F401 - before this package, whose own setting then comes too late to matter
    from ppo_codet5.helpers.models import Request, load_generator

    generator = load_generator("smollm2-135m", "auto", "cpu", prompts)
    texts = [f"Write a Python function f{i} that returns the sum of {i} numbers.\n" for i in range(prompts)]
    requests = [Request(text, 0, max_new_tokens=tokens, temperature=0.0) for text in texts]
    generator.generate(requests)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        generator.generate(requests)
        print(time.perf_counter() - began, flush=True)


def together(*processes):
    """Seconds of one generation in each of these processes, started at once."""
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(process.stdout.readline()) for process in processes]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--rounds", type=int, default=5, help="repeats; all settings take turns in each")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of a generation, one batch")
    parser.add_argument("--tokens", type=int, default=8, help="new tokens of each, at most")
    parser.add_argument("--worker", action="store_true", help="be one of the processes that are timed")
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.prompts, arguments.tokens)
    plain = {name: value for name, value in os.environ.items() if name not in INHERITED}
    line = [sys.executable, *sys.argv, "--worker"]  # ends when its stdin does
    pairs, pipes = {}, {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    for name, setting in SETTINGS.items():
        pairs[name] = [subprocess.Popen(line, env=plain | setting, **pipes) for _ in range(2)]
        if [process.stdout.readline() for process in pairs[name]] != ["ready\n"] * 2:
            sys.exit(f"{name}: a process could not start")
    seconds = {name: {"alone": [], "two": []} for name in SETTINGS}
    (busy, mine), start = _common.core_seconds(), time.monotonic()
    for _ in range(arguments.rounds):
        for name, (first, second) in pairs.items():
            seconds[name]["alone"] += together(first)
            seconds[name]["two"].append(max(together(first, second)))
            print(name, *(f"{case} {taken[-1]:.2f} s" for case, taken in seconds[name].items()), file=sys.stderr)
    (busy_then, mine_then), wall = _common.core_seconds(), time.monotonic() - start
    base = statistics.median(seconds["default"]["alone"])
    others = (busy_then - busy - (mine_then - mine)) / (_common.cores() * wall)
    ratios = {n: {case: statistics.median(taken) / base for case, taken in s.items()} for n, s in seconds.items()}
    about = _common.machine()
    print(f"{_common.describe(about)}; other programs used {others:.1%} of the cores, {wall:.0f} s\n")
    for name, ratio in ratios.items():
        print(f"{name:24s} alone {ratio['alone']:5.2f}   two {ratio['two']:5.2f}")
    if arguments.output:
        sizes = {"rounds": arguments.rounds, "prompts": arguments.prompts, "tokens": arguments.tokens}
        result = {"machine": about, **sizes, "others_share": others, "seconds": seconds}
        _common.write(arguments.output, result | {"ratio_to_default_alone": ratios})


if __name__ == "__main__":
    main()
