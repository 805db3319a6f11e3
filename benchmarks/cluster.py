"""What 1 to 128 GPUs would give: hours for the published table, and where adding replicas stops helping.

    python benchmarks/cluster.py --output results/speed/cluster.json --figure results/speed/cluster.png    # 2 minutes

Nothing here ran on a cluster. Measured are the tokens of every attempt and rewrite of the random strategy in committed
runs (by default ``results/laptop``), scaled to the mean length of MBPP's reference solutions, and how many programs
timed out there; in this process, the seconds of each reference program in the sandbox, of an embedding and of a PPO
update. Calculated are the seconds of a decode step: bytes over bandwidth, for the published models on an A100 of 80 GB,
divided by ``--reached``, the share of the bandwidth that decoding reaches, an assumption until ``benchmarks/gpu.py`` has
measured it. Of the published table: how many problems are solved after 1 and after 10 attempts, a power law between.
The simulation (SimPy) plays what helpers/models/replicas.py does: every vector step splits its rewrites, then its generations,
into chunks for the replicas, while finished programs go to the sandbox; then the learner embeds and chooses. N replicas
are N of the code model and N of the rewriter, each on a card of its own; in the hours of the table a task has one card
for both. Prints tables; all goes to ``--output``, the curves to ``--figure``. ``--calculation`` prints the hours alone.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import _common
import numpy as np
import simpy
import torch
from ppo_codet5.helpers.problems import load_problems
from ppo_codet5.helpers.results import runs as results
from ppo_codet5.helpers.sandbox import Program, Sandbox

from ppo_codet5.core import PPOAgent

# Mean tokens (SmolLM2's tokenizer) of the 974 reference solutions of MBPP, at most 256 each; of text with its asserts.
MBPP_CODE_TOKENS, MBPP_PROMPT_TOKENS = 66.3, 115.5
A100_BYTES, A100_FLOPS = 2.039e12, 312e12  # a second; NVIDIA's data sheet of the 80 GB SXM module, bfloat16
# Parameters, bytes in the cache of keys and values for a token; profiles/codellama_a100.yaml shows the second.
MODELS = {"CodeT5+ 770M": (0.74e9, 196_608), "CodeLlama 7B": (6.74e9, 524_288), "Llama-3.2-3B": (3.21e9, 114_688)}
REWRITER = "Llama-3.2-3B"
PROBLEMS, BUDGET, EPISODES, SEEDS = 500, 10, 1000, 3  # the published setting: MBPP test, steps, training episodes
# Solved after one attempt and after ten: the published rows of direct generation and of random actions.
SOLVED = {"CodeT5+ 770M": (0.1284, 0.3112), "CodeLlama 7B": (0.4191, 0.4908)}
START_SECONDS, LOAD_BYTES = 60.0, 1e9  # assumed: for a task's process to start, and of weights read a second
TIMEOUT_SECONDS = 2.0  # what a program that never ends takes, at least (timeout_seconds)
ROWS = 64  # in flight on a replica
REPLICAS = (1, 2, 4, 8, 16, 32, 64, 80, 128)
DOLLARS = 2.0  # for an hour of an A100, an assumption


def step_seconds(model, rows, context, reached):
    """One decode step of ``rows`` sequences: weights and caches are read once."""
    parameters, cache = MODELS[model]
    return (2 * parameters + rows * context * cache) / (A100_BYTES * reached)


def prefill_seconds(model, tokens, reached):
    return 2 * MODELS[model][0] * tokens / (A100_FLOPS * reached)


def unsolved(code, attempts):
    """Share of problems not solved after so many attempts: 1 - first * attempts ** power, through both figures."""
    first, tenth = SOLVED[code]
    return 1 - first * attempts ** math.log10(tenth / first) if attempts else 1.0


def measured_attempts(folder):
    """[(code prompt, code, rewriter prompt, rewriter tokens)] of the attempts with random actions under a folder, in
    tokens; and the share of all programs there that ran into the time limit."""
    runs, _ = results.collect(str(folder))
    names = ("prompt_tokens", "completion_tokens", "rewriter_prompt_tokens", "rewriter_completion_tokens")
    rows = [row for run in runs for row in run.attempts]
    drawn = [tuple(row[name] for name in names) for row in rows if row["strategy"] == "random"]
    if not drawn:
        raise SystemExit(f"no runs of the strategy random under {folder}: give a folder of run directories")
    return drawn, sum("timeout" in row["outcomes"] for row in rows) / len(rows)


def measured_here():
    """Seconds on this machine: of the sandbox for each program, of embedding a text, of a PPO update."""
    problems = load_problems("starter", "train")
    programs = [Program(p.reference, (*p.tests, *p.challenge_tests)) for p in problems]
    with Sandbox(workers=1, cache_size=0) as sandbox:
        sandbox.run(programs[:20])
        sandbox_seconds = []
        for program in programs:
            began = time.perf_counter()
            sandbox.run([program])
            sandbox_seconds.append(time.perf_counter() - began)
    from ppo_codet5.helpers.language import Embedder

    embedder = Embedder()
    embedder.encode(["warm up"])
    began = time.perf_counter()
    embedder.encode([p.text for p in problems])
    embedding_seconds = (time.perf_counter() - began) / len(problems)
    config, size, steps = _common.laptop(learning_rate=3e-4), 2 * embedder.dim + 17, 50 * 6
    agent, generator = PPOAgent(config, size, 3, 0), torch.Generator().manual_seed(0)
    batch = {"observations": torch.randn(steps, size), "actions": torch.randint(3, (steps,))}
    batch |= {"log_probs": torch.full((steps,), -1.0), "values": torch.zeros(steps), "advantages": torch.randn(steps)}
    batch |= {"returns": torch.randn(steps), "rewards": torch.zeros(steps), "terminated": torch.zeros(steps)}
    agent.update(dict(batch), generator)
    began = time.perf_counter()
    agent.update(dict(batch), generator)
    return {"sandbox": sandbox_seconds, "embedding": embedding_seconds, "ppo": time.perf_counter() - began}


class Cluster:
    """Replicas of both models, sandbox workers and the learner of one run, in simulated time.

    ``shared``: code model and rewriter take turns on the same cards.
    """

    def __init__(self, replicas, code, here, attempts, timeouts, reached, workers, shared, seed=0):
        self.env, self.draw, self.count, self.timeouts = simpy.Environment(), random.Random(seed), replicas, timeouts
        self.cards = {code: simpy.Resource(self.env, replicas)}
        self.cards[REWRITER] = self.cards[code] if shared else simpy.Resource(self.env, replicas)
        self.workers, self.code, self.here, self.attempts = simpy.Resource(self.env, workers), code, here, attempts
        self.reached, self.scale = reached, MBPP_CODE_TOKENS / np.mean([a[1] for a in attempts])
        self.busy = {"replicas": 0.0, "rewriters": 0.0, "sandbox": 0.0, "learner": 0.0}

    def hold(self, resource, seconds, name):
        with resource.request() as turn:
            yield turn
            self.busy[name] += seconds
            yield self.env.timeout(seconds)

    def chunk(self, model, work, judge):
        """One chunk on one replica: as long as its longest reply; then its programs go to the sandbox."""
        prompts, tokens = zip(*work, strict=True)
        context = np.mean(prompts) + np.mean(tokens) / 2
        seconds = prefill_seconds(model, sum(prompts), self.reached)
        seconds += max(tokens) * step_seconds(model, len(work), context, self.reached)
        yield from self.hold(self.cards[model], seconds, "replicas" if model == self.code else "rewriters")
        if judge:
            yield self.env.all_of([self.env.process(self.judge()) for _ in work])

    def judge(self):
        late = self.draw.random() < self.timeouts
        yield from self.hold(
            self.workers, TIMEOUT_SECONDS if late else self.draw.choice(self.here["sandbox"]), "sandbox"
        )

    def spread(self, model, work, judge=False):
        """Chunks of like length over all replicas, as RayGenerator cuts them."""
        work = sorted(work)
        size = max(1, min(ROWS, -(-len(work) // self.count)))
        chunks = [work[start : start + size] for start in range(0, len(work), size)]
        return self.env.all_of([self.env.process(self.chunk(model, chunk, judge)) for chunk in chunks])

    def learner(self, seconds):
        self.busy["learner"] += seconds
        return self.env.timeout(seconds)

    def run(self, episodes, in_flight, per_update=0):
        """Play ``episodes``; ``per_update`` of them make a PPO update, 0 for evaluation. Attempts in all."""
        waiting, active, attempts, ended = episodes, [], 0, 0
        while waiting or active:
            while waiting and len(active) < in_flight:
                active.append(0)
                waiting -= 1
            drawn = [self.draw.choice(self.attempts) for _ in active]
            scale = self.scale
            rewrites = [(p, r * scale) for _, _, p, r in drawn if r]
            if rewrites:
                yield self.spread(REWRITER, rewrites)
            yield self.spread(self.code, [(MBPP_PROMPT_TOKENS, c * scale) for _, c, _, _ in drawn], judge=True)
            yield self.learner(2 * len(active) * self.here["embedding"])
            attempts += len(active)
            left = [self.draw.random() < unsolved(self.code, n + 1) / unsolved(self.code, n) for n in active]
            going = [n + 1 for n, on in zip(active, left, strict=True) if on and n + 1 < BUDGET]
            if per_update:
                updates = (ended + len(active) - len(going)) // per_update - ended // per_update
                yield self.learner(updates * self.here["ppo"])
            ended += len(active) - len(going)
            active = going
        return attempts


def simulate(replicas, code, here, measured, options, episodes, in_flight, per_update=0, shared=False):
    """Attempts per second, and the share of the time that each part was busy."""
    cluster = Cluster(replicas, code, here, *measured, options.reached, options.workers, shared)
    made = cluster.env.run(cluster.env.process(cluster.run(episodes, in_flight, per_update)))
    seconds = cluster.env.now
    room = {"replicas": replicas, "rewriters": replicas, "sandbox": options.workers, "learner": 1}
    busy = {name: cluster.busy[name] / seconds / count for name, count in room.items()}
    return {"replicas": replicas, "attempts_per_second": made / seconds, "seconds": seconds, "busy": busy}


def grid(code):
    """[(task, episodes)] of the table for one code model and one seed, and what training and tuning cost."""
    tasks = [("agent, argmax and sampled, resampling, random", EPISODES + 4 * PROBLEMS, BUDGET)]  # notebook 01 or 02
    tasks += [(name, PROBLEMS, 1) for name in ("direct", "mutation", "rewriting")]
    tasks += [(name, PROBLEMS, BUDGET) for name in ("random", "epic", "reflexion", "resampling")]
    tasks += [(name, PROBLEMS + EPISODES, BUDGET) for name in ("bandit", "schedule", "fixed_action")]
    reached = sum(unsolved(code, step) for step in range(BUDGET))  # attempts of an episode
    return [(name, episodes * (1 if budget == 1 else reached)) for name, episodes, budget in tasks]


def hours(here, measured, options):
    """Hours of the whole table by number of GPUs: independent tasks, the longest first, one GPU each."""
    durations = []
    for code in SOLVED:
        one = simulate(1, code, here, measured, options, PROBLEMS, ROWS, shared=True)
        start = START_SECONDS + 2 * (MODELS[code][0] + MODELS[REWRITER][0]) / LOAD_BYTES
        for name, count in grid(code):
            durations += [((start + count / one["attempts_per_second"]) / 3600, code, name)] * SEEDS
    durations.sort(reverse=True)
    table = []
    for gpus in (1, 8, 80):
        ends = [0.0] * gpus
        for duration, *_ in durations:
            ends[ends.index(min(ends))] += duration
        total = sum(duration for duration, *_ in durations)
        table.append({"gpus": gpus, "hours": max(ends), "gpu_hours": total, "dollars": gpus * max(ends) * DOLLARS})
    longest = {"task": " ".join(durations[0][1:]), "hours": durations[0][0], "tasks": len(durations)}
    return {"table": table, "longest": longest}


def draw_figure(curves, path):
    from ppo_codet5.helpers.results.figures import COLOURS

    figure, axes = _common.panels(2 * ["replicas of each of the two models (one A100 each, simulated)"], width=5.5)
    for (name, rows), colour, marker in zip(curves.items(), COLOURS, "osD^", strict=False):
        x = [row["replicas"] for row in rows]
        first = rows[0]["attempts_per_second"]
        share = [100 * row["attempts_per_second"] / first / row["replicas"] for row in rows]
        axes[0].plot(x, [row["attempts_per_second"] for row in rows], marker=marker, color=colour, label=name)
        axes[1].plot(x, share, marker=marker, color=colour, label=name)
    for axis in axes:
        _common.ticks(axis, REPLICAS, [str(n) if n != 80 else "" for n in REPLICAS])
    axes[0].set(ylabel="attempts per second", yscale="log")
    axes[1].set(ylabel="efficiency (% of the first replica's share)", ylim=(0, 105))
    axes[1].legend(fontsize=8)
    _common.save_figure(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--attempts", default=str(_common.ROOT / "results" / "laptop"), help="folder of run directories"
    )
    parser.add_argument("--reached", type=float, default=0.5, help="share of bandwidth and matrix rate (assumed)")
    parser.add_argument("--workers", type=int, default=16, help="sandbox workers beside the learner")
    parser.add_argument("--code", default="CodeLlama 7B", choices=list(SOLVED))
    parser.add_argument("--calculation", action="store_true", help="print the hours of the table only")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    here, measured = measured_here(), measured_attempts(options.attempts)
    tokens, means = np.mean(measured[0], axis=0), {name: float(np.mean(values)) for name, values in here.items()}
    print("measured here:", ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in means.items()))
    print(
        f"measured attempts: {len(measured[0])}, {tokens[1]:.1f} tokens of code and {tokens[3]:.1f} of rewriting each"
    )
    print(f"programs that timed out: {measured[1]:.2%}")
    expected = hours(here, measured, options)
    print(f"\nthe published table, {SEEDS} seeds: {expected['longest']['tasks']} tasks of one GPU each, the longest ")
    print(f"({expected['longest']['task']}) {expected['longest']['hours']:.1f} h")
    for row in expected["table"]:
        print(
            f"{row['gpus']:4d} A100: {row['hours']:7.1f} h, {row['gpu_hours']:.0f} GPU hours of work, {row['dollars']:.0f} dollars"
        )
    if options.calculation:
        return
    few = {"sandbox": here["sandbox"], "embedding": 0.0, "ppo": here["ppo"]}
    cases = {
        "one training run (50 episodes an update, 2 ahead)": (here, EPISODES, 150, 50),
        "evaluation of 500 problems": (here, PROBLEMS, PROBLEMS, 0),
        "a long queue, 64 episodes a replica": (here, None, None, 0),
        "the same, embeddings for nothing": (few, None, None, 0),
    }
    curves = {}
    for name, (costs, episodes, in_flight, per_update) in cases.items():
        curves[name] = [
            simulate(n, options.code, costs, measured, options, episodes or 512 * n, in_flight or ROWS * n, per_update)
            for n in REPLICAS
        ]
        print(
            f"\n{name}, {options.code}\n replicas  attempts/s  efficiency   busy: replicas  rewriters  sandbox  learner"
        )
        for row in curves[name]:
            share = row["attempts_per_second"] / curves[name][0]["attempts_per_second"] / row["replicas"]
            busy = "  ".join(f"{row['busy'][part]:7.0%}" for part in row["busy"])
            print(f"{row['replicas']:9d} {row['attempts_per_second']:11.2f} {share:11.0%}          {busy}")
    if options.output:
        about = {"code": options.code, "reached": options.reached, "workers": options.workers, "seconds": means}
        about |= {"attempts": len(measured[0]), "mean_tokens": tokens.tolist(), "timeouts": measured[1]}
        about |= {"start_seconds": START_SECONDS, "load_bytes": LOAD_BYTES, "machine": _common.machine()}
        _common.write(options.output, {"about": about, "hours": expected, "curves": curves})
    if options.figure:
        draw_figure(curves, options.figure)


if __name__ == "__main__":
    main()
