"""Cost of an environment step against the problems stepped at once, and against the problems in the queue.

    python benchmarks/scaling.py --output FILE.json --figure FILE.png      # about 20 minutes on 2 cores

The batched loop of ``rollout.py``: laptop settings, generation cache off, random actions, each point in a process of
its own. Against the environments, the queue holds ``--per-env`` episodes for each of them, and ``--least`` at least;
against the queue, ``--num-envs`` problems are stepped at once. A queue always ends with a batch that runs empty, which
weighs less the longer it is. Cost per step should stay flat or fall along both. Prints a table for each, and writes all
points to ``--output`` and the curves to ``--figure``.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import _common
from rollout import Loop, run_child, without_programs

SLACK = 1.1  # timings of one point vary by some per cent between runs


def points(arguments):
    """(series, environments, episodes) of each measurement."""
    numbers = [(n, max(arguments.least, arguments.per_env * n)) for n in arguments.envs]
    queues = [(arguments.num_envs, count) for count in arguments.queues]
    return [("environments", *pair) for pair in numbers] + [("queue", *pair) for pair in queues]


def flat_or_falling(costs):
    """Whether no cost is more than ``SLACK`` times the least before it."""
    return all(cost <= SLACK * min(costs[:i]) for i, cost in enumerate(costs) if i)


def draw(series, path, title):
    """Steps per second and milliseconds per step, against environments and against queue length."""
    from ppo_codet5.helpers.results.figures import COLOURS

    at_once = ", ".join(sorted({str(row["environments"]) for row in series["queue"]}))
    environments, queue = "problems stepped at once", f"problems in the queue ({at_once} stepped at once)"
    panels = [
        ("environments", "environments", "steps_per_second", environments, "environment steps per second"),
        ("environments", "environments", "ms_per_step", environments, "cost of a step (ms)"),
        ("queue", "episodes", "ms_per_step", queue, "cost of a step (ms)"),
    ]
    figure, axes = _common.panels([xlabel for *_, xlabel, _ in panels])
    for axis, (name, x, y, _, ylabel), colour, marker in zip(axes, panels, COLOURS, "osD", strict=False):
        rows = series[name]
        axis.plot([row[x] for row in rows], [row[y] for row in rows], marker=marker, color=colour)
        _common.ticks(axis, [row[x] for row in rows])
        axis.set(ylabel=ylabel, ylim=(0, 1.1 * max((row[y] for row in rows), default=1)))
    figure.suptitle(title, fontsize=10)
    _common.save_figure(figure, path)


def main():
    def numbers(text):
        return [int(number) for number in text.split(",") if number]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=numbers, default=[1, 2, 4, 8, 16, 32, 48, 96], help="problems stepped at once")
    parser.add_argument("--queues", type=numbers, default=[24, 96, 192], help="episodes in the queue")
    parser.add_argument("--num-envs", type=int, default=96, help="problems stepped at once for --queues")
    parser.add_argument("--per-env", type=int, default=2, help="episodes for each environment of --envs")
    parser.add_argument("--least", type=int, default=12, help="least episodes of a point of --envs")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads, 0 for as many as there are cores")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON of parameters to change")
    parser.add_argument("--output", type=Path, help="write everything to this JSON file")
    parser.add_argument("--figure", type=Path, help="draw the curves into this file")
    arguments = parser.parse_args()
    began, results = time.perf_counter(), []
    for series, environments, episodes in points(arguments):
        twin = [row for row in results if (row["environments"], row["episodes"]) == (environments, episodes)]
        if twin:  # measured already, for the other series
            results.append({**twin[0], "series": series})
            continue
        options = {"num_envs": environments, "config": arguments.config}
        options |= {"seed": arguments.seed, "threads": arguments.threads}
        name = f"{environments} environments, {episodes} episodes"
        result = without_programs(run_child(Loop(name, "batched", arguments.dtype, episodes), options))
        if "error" not in result:
            result["ms_per_step"] = 1000 / result["steps_per_second"]
        results.append({"series": series, "environments": environments, "episodes": episodes, **result})
        print(f"# {name}: {result.get('steps_per_second', 'failed')} steps/s", file=sys.stderr, flush=True)
    about = _common.machine()
    print(f"# {_common.describe(about)}")
    print(f"# {arguments.dtype}, seed {arguments.seed}, {time.perf_counter() - began:.0f} s in all")
    series, checks = {}, {}
    for name in ("environments", "queue"):
        series[name] = [row for row in results if row["series"] == name and "error" not in row]
        columns = ("problems", "episodes", "steps", "steps/s", "ms/step", "tokens/s", "forward", "MB", "others")
        print("\n" + "".join(f"{column:>10}" for column in columns))
        for row in series[name]:
            line = f"{row['environments']:10}{row['episodes']:10}{row['steps']:10}{row['steps_per_second']:10.3f}"
            line += f"{row['ms_per_step']:10.0f}{row['tokens_per_second']:10.1f}{row['forward_share']:10.1%}"
            print(f"{line}{row['peak_memory_mb']:10.0f}{row['others_share']:10.1%}")
        checks[name] = flat_or_falling([row["ms_per_step"] for row in series[name]])
        verdict = "PASS" if checks[name] else "short of it"
        print(f"cost per step against {name}, flat within {SLACK - 1:.0%} or falling: {verdict}")
    for row in results:
        if "error" in row:
            print(f"{row['name']} failed: {row['error']}")
    if arguments.output:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("output", "figure")}
        _common.write(
            arguments.output, {"machine": about, "settings": settings, "points": results, "flat_or_falling": checks}
        )
    if arguments.figure:
        model = arguments.config.get("code_model", "smollm2-135m")
        title = f"{Path(model).name}, {arguments.dtype}, {about['cpu_model']}, {about['cores']} cores, 1 run a point"
        draw(series, arguments.figure, title)
    if any("error" in row for row in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
