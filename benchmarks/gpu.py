"""Speed, memory and exactness of generation, and training, on one GPU, in calls of at most ten minutes.

    python benchmarks/gpu.py                   # measure what is not there yet; again and again, until all is
    python benchmarks/gpu.py --only rates      # half a minute: does it work here?
    python benchmarks/gpu.py --table           # what is there, in Markdown; needs no GPU

Each case runs in a process of its own, so that a crash or a hang costs no other, and is a line of the file in
``--output`` that is named after the GPU, written as soon as the case is done. A case that is there is skipped; one that
failed is there with its error in a sentence, and ``--retry`` runs it again. A call ends within ``--seconds``; what was
under way is not recorded and starts anew, except training, which goes on from its last update.

- rates: what bounds the rest, matrix products and copies; with the description of the machine.
- speed ENGINE MODEL: tokens per second against the rows decoded at once, prefill, and peak memory, of this project's
  decoder (own) and, on the same prompts, of transformers' generate and generate_batch, and of vLLM where it is installed.
  Prompts of 256 tokens, 128 new ones, temperature 0.7, top-p 0.9. A run of one token and a run of all, once each, give
  the rate of decoding, free of prefill and of what starts with each call; prefill is the run of one token, with both.
  Where memory runs out, own halves its batch and goes on (in_flight); the others end there.
- exact MODEL DTYPE: how many texts are the same alone and in a batch: all in float32, some in bfloat16.
- train PROFILE: ``PPOCodeT5Trainer`` from the first update to the scores, in ``--output/runs``: steps per second, and
  shares by kind of work; once with the laptop's models, once with random ones of a published pair's shapes, whose texts
  all run to their limits and whose prompts are never mutated.

Models are random ones of the published shapes, made once in ``--models`` (24 GB) without network; "real" is SmolLM2
from ``helpers.assets``, from which "train laptop" has all its parts. All takes about 25 minutes on an H100, by estimate.
A machine without network and with a torch and transformers of its own needs the wheels gymnasium and
farama-notifications (``pip install --no-deps``). ``--device cpu --tiny`` runs each path with tiny models.
"""

import argparse
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import _common
import _engines
import _shapes


@dataclass(frozen=True)
class Scale:
    """How much is measured; lengths in tokens."""

    models: tuple
    rows: tuple
    prompt: int
    new: int
    exact: tuple  # models of which texts are compared
    texts: int  # how many
    pair: tuple  # code model, rewriter and embedder of the training with random models
    changes: dict  # of its profile's parameters


SHORT = {"problems": "starter", "max_episodes": 100, "eval_limit": 8, "max_steps": 4}
FULL = Scale(
    models=("codellama-7b", "codet5p-770m", "qwen2.5-coder-0.5b", "smollm2-135m", "llama-3.2-3b"),
    rows=(1, 8, 64, 256, 1024),
    prompt=256,
    new=128,
    exact=("codellama-7b", "codet5p-770m", "real"),
    texts=16,
    pair=("codellama-7b", "llama-3.2-3b", "minilm"),
    changes=SHORT,
)
FEW = {"max_episodes": 4, "episodes_per_update": 2, "eval_limit": 2, "max_steps": 2, "num_envs": 4, "dtype": "float32"}
FEW |= {"max_new_tokens": 8, "rewrite_tokens": 6, "reflection_tokens": 4}
TINY = Scale(
    models=("tiny-llama", "tiny-t5"),
    rows=(1, 4),
    prompt=12,
    new=16,
    exact=("tiny-llama", "tiny-t5"),
    texts=4,
    pair=("tiny-llama", "tiny-llama", "tiny-minilm"),
    changes={**SHORT, **FEW},
)


@dataclass(frozen=True)
class Case:
    """``WORKS[work](**options)`` in a child; ``seconds`` is what it should take on a GPU, and the limit three times that.

    One that ``resumes`` has no limit: time that is left is never too short for it, and what it did is not lost.
    """

    name: str
    work: str
    options: dict
    seconds: float
    resumes: bool = False


def plan(scale, device, models, output):
    """All cases, the most wanted first. ``models`` and ``output`` are folders."""
    where = {"device": device, "models": str(models)}

    def speed_of(engine, name):
        options = {"engine": engine, "model": name, "rows": scale.rows, "prompt": scale.prompt, "new": scale.new}
        return Case(f"speed {engine} {name}", "speed", {**options, **where}, 60)

    def takes(engine, name):
        return engine in ("own", "generate") or _shapes.SHAPES[name]["model_type"] != "t5"

    def training(name, **options):
        folder = str(Path(output) / "runs" / name.replace(" ", "-"))
        return Case(f"train {name}", "train", {**options, "folder": folder, **where}, 60, resumes=True)

    cases = [Case("rates", "rates", {"device": device, "tiny": scale is TINY}, 20)]
    cases += [speed_of("own", name) for name in scale.models]
    for name in scale.exact:
        for dtype in ("float32", "bfloat16"):
            options = {"model": name, "dtype": dtype, "texts": scale.texts, "new": scale.new // 2, **where}
            cases.append(Case(f"exact {name} {dtype}", "exact", options, 60))
    cases.append(training("codellama_a100 random", profile="codellama_a100", changes=scale.changes, pair=scale.pair))
    peers = ["generate", "generate_batch", *(["vllm"] if importlib.util.find_spec("vllm") else [])]
    cases += [speed_of(engine, name) for engine in peers for name in scale.models if takes(engine, name)]
    return [*cases, training("laptop", profile="laptop", changes={})] if scale is FULL else cases


# Running


def sentence(error):
    """An error in one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def device_name(device):
    """The GPU's name by its driver: this process does not touch CUDA, which would take memory from the children's."""
    if device == "cpu":
        return "cpu"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"error: no NVIDIA GPU found ({sentence(error)}); for a trial use --device cpu --tiny")
    return re.sub("[^a-z0-9]+", "-", said.splitlines()[0].lower()).strip("-")


def measure(cases, path, seconds, retry=False):
    """Run the cases that ``path`` does not have; returns the names of those that time did not allow."""
    deadline, known = time.monotonic() + seconds, _common.read(path)
    todo = [case for case in cases if case.name not in known or (retry and "error" in known[case.name])]
    for place, case in enumerate(todo):
        began, left = time.monotonic(), deadline - time.monotonic()
        if left < case.seconds:
            return [later.name for later in todo[place:]]
        limit = left if case.resumes else min(left, 3 * case.seconds)
        try:
            record = _common.in_child(__file__, {"name": case.work, "options": case.options}, limit)
        except subprocess.TimeoutExpired:
            if limit == left:
                return [later.name for later in todo[place:]]
            record = {"error": f"it did not end within its limit of {limit:.0f} s"}
        record = {"name": case.name, "seconds": round(time.monotonic() - began, 1), **record}
        _common.append(path, record)
        print(f"{case.name:40s} {record['seconds']:6.1f} s  {record.get('error', 'done')}", flush=True)
    return []


# What a child measures


def rates(device, tiny):
    """FLOP/s and bytes/s of the device, and what machine it is."""
    import torch

    dtype, sizes = torch.float32, {"square": 64, "copied": 4096}
    if device == "cuda":
        dtype, sizes = torch.bfloat16, {"square": 8192, "copied": 2**29}
    elif not tiny:
        sizes = {}
    return {**_common.machine_rates(dtype, device, **sizes), "machine": _common.machine()}


def peak_bytes(device):
    """Most bytes in use on the device (of a CPU: by this process) since the reset, or since the start."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else int(1e6 * _common.peak_memory_mb())


def speed(engine, model, rows, prompt, new, device, models):
    """Decoding and prefill of one model by one engine, a point for each number of rows.

    ``bytes_per_second``: the fewest bytes that a step must read (``_shapes.step_values``) over the time of a step.
    vLLM's memory is another process's, and not counted.
    """
    import torch

    dtype, width = ("bfloat16", 2) if device == "cuda" else ("float32", 4)
    folder, began, points = _shapes.saved(model, models, device), time.perf_counter(), []
    run, load_seconds = _engines.ENGINES[engine](folder, dtype, device), time.perf_counter() - began
    weights, cached = _shapes.step_values(model)
    encoder = prompt if _shapes.SHAPES[model]["model_type"] == "t5" else 0

    def seconds(texts, limit):
        started = time.perf_counter()
        written, in_flight = run(texts, limit)
        passed = time.perf_counter() - started
        if written != [limit] * len(texts):
            raise RuntimeError(f"{sum(written)} tokens in {len(written)} rows, not {limit} in each of {len(texts)}")
        return passed, in_flight

    for count in rows:
        texts = _shapes.prompts(count, prompt)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds(texts, new)  # to warm up, to compile, and to find how many rows fit
            (first, _), (whole, in_flight) = seconds(texts, 1), seconds(texts, new)
        except Exception as error:
            points.append({"rows": count, "error": sentence(error)})
            break
        step = (whole - first) / (new - 1) * in_flight / count  # rows that did not fit had steps of their own
        columns = (1 if encoder else prompt) + new / 2  # in the decoder's cache, the new one included, the mean
        size = width * (weights + in_flight * (columns + encoder) * cached)
        points.append(
            {
                "rows": count,
                "in_flight": in_flight,
                "tokens_per_second": in_flight / step,
                "step_seconds": step,
                "bytes_per_second": size / step,
                "prefill_tokens_per_second": count * prompt / first,
                "seconds": whole,
                "peak_bytes": peak_bytes(device),
            }
        )
    return {"dtype": dtype, "prompt": prompt, "new": new, "load_seconds": load_seconds, "points": points}


def exact(model, dtype, texts, new, device, models):
    """Generate for the starter problems' texts one by one and all at once, and count those that are the same."""
    from ppo_codet5.helpers.problems import load_problems

    name = "smollm2-135m" if model == "real" else _shapes.saved(model, models, device)
    generator = _engines.load(name, dtype, device, texts)
    problems = load_problems("starter", "train")[:texts]
    requests = [_engines.sampled(problem.text, seed, new) for seed, problem in enumerate(problems)]
    together, alone = generator.generate(requests), [generator.generate([request])[0] for request in requests]
    same = sum(a.text == b.text for a, b in zip(together, alone, strict=True))
    return {"texts": len(requests), "same": same, "tokens": sum(one.completion_tokens for one in alone)}


def train(profile, changes, folder, device, models, pair=()):
    """Train and score an agent, from where it is; what the whole run took, by its logs."""
    from ppo_codet5.core import PPOCodeT5Trainer, load_parts

    if pair:
        roles = zip(("code_model", "rewriter_model", "embedder"), pair, strict=True)
        changes = {**changes, **{role: _shapes.saved(name, models, device) for role, name in roles}}
    config = _common.settings(profile, **{**changes, "device": device})
    parts = load_parts(config)
    parts.lexicon = _shapes.NoSynonyms() if pair else parts.lexicon
    try:
        summary = PPOCodeT5Trainer(config, parts=parts).train(folder)
    finally:
        parts.sandbox.close()
    timings, attempts = (
        [json.loads(line) for line in (Path(folder) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("timings", "attempts")
    )
    seconds = Counter()
    for row in timings:
        seconds.update({name: value for name, value in row.items() if name not in ("phase", "update", "problems")})
    total = seconds.pop("total")
    return {
        "steps": len(attempts),
        "run_seconds": total,
        "steps_per_second": len(attempts) / total,
        "tokens_per_second": _common.tokens(attempts) / total,
        "shares": {name: value / total for name, value in seconds.items()},
        "peak_bytes": peak_bytes(device),
        "scores": summary["scores"],
        "parts": parts.record(),
    }


WORKS = {work.__name__: work for work in (rates, speed, exact, train)}


def work(name, options):
    """What a child does: {"result": ...}, or {"error": ...} in a sentence."""
    try:
        return {"result": WORKS[name](**options)}
    except Exception as error:
        return {"error": sentence(error)}


# The table


def cells(name, point, copy):
    """A row of the table of speed: cells by title. ``copy`` is the rate of copies in bytes/s, None if not measured."""
    _, engine, model = name.split(" ")
    return {
        "engine": engine,
        "model": model,
        "rows": point["rows"],
        "in flight": point["in_flight"],
        "tokens/s": f"{point['tokens_per_second']:.0f}",
        "ms a step": f"{1e3 * point['step_seconds']:.1f}",
        "of the copy rate": f"{point['bytes_per_second'] / copy:.0%}" if copy else "",
        "prefill tokens/s": f"{point['prefill_tokens_per_second']:.0f}",
        "peak GB": f"{point['peak_bytes'] / 1e9:.1f}",
    }


def said(name, record):
    """A record in a sentence; None if the table of speed has it, or the heading."""
    result = record.get("result", {})
    if "error" in record:
        return f"{name} failed: {record['error']}"
    if "same" in result:
        return f"{name}: {result['same']} of {result['texts']} texts are the same alone and in a batch"
    if "shares" in result:
        shares = ", ".join(f"{part} {share:.0%}" for part, share in result["shares"].items())
        rates = f"{result['steps_per_second']:.2f} steps/s, {result['tokens_per_second']:.0f} tokens/s"
        return f"{name}: {rates}, {result['peak_bytes'] / 1e9:.1f} GB at most; {shares}"
    missing = [point for point in result.get("points", []) if "error" in point]
    return f"{name}, {missing[0]['rows']} rows: {missing[0]['error']}" if missing else None


def table(records, label):
    """What is known of a GPU, in Markdown."""
    bounds, heading = records.get("rates", {}).get("result"), [f"## {label}", ""]
    if bounds:
        copy, product = (_common.fastest(bounds, unit) / 1e12 for unit in ("bytes", "flops"))
        machine = _common.describe(bounds["machine"])
        heading += [f"{machine}. Copies {copy:.3g} TB/s, products {product:.3g} TFLOP/s.", ""]
    copy = bounds and bounds["copy_bytes_per_second"]
    points = [(name, point) for name, record in records.items() for point in record.get("result", {}).get("points", [])]
    rows = [cells(name, point, copy) for name, point in points if "error" not in point]
    body = [[*rows[0]], ["---"] * len(rows[0]), *(row.values() for row in rows)] if rows else []
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in body]
    notes = [f"- {note}" for name, record in records.items() if (note := said(name, record))]
    return "\n".join([*heading, *lines, "", *notes])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/gpu"), help="folder of the results")
    parser.add_argument("--models", type=Path, help="folder of the random models, by default in that of helpers.assets")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="cases whose name has one of the words")
    parser.add_argument("--seconds", type=float, default=540.0, help="end within this many seconds")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--table", action="store_true", help="print what is there, and measure nothing")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try each path")
    arguments = parser.parse_args()
    if arguments.table:
        paths = sorted(arguments.output.glob("*.jsonl"))
        print(
            "\n\n".join(table(_common.read(path), path.stem) for path in paths)
            or f"nothing is in {arguments.output} yet"
        )
        return
    from ppo_codet5.helpers.assets import cache_root

    models, scale = arguments.models or cache_root() / "random", TINY if arguments.tiny else FULL
    cases = plan(scale, arguments.device, models.absolute(), arguments.output.absolute())
    cases = [case for case in cases if any(word in case.name for word in arguments.only)]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return
    path = arguments.output / f"{device_name(arguments.device)}.jsonl"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the child ends too
    left = measure(cases, path, arguments.seconds, arguments.retry)
    print(f"{len(cases) - len(left)} of {len(cases)} cases are done" + "; the same command goes on" * bool(left))


if __name__ == "__main__":
    _common.start(main, work)
