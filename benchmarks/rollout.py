"""Environment steps per second of this project's loop, against loops that handle one problem at a time.

    python benchmarks/rollout.py --output FILE.json      # 12 minutes on 2 cores; --quick is shorter

Each loop runs in a process of its own, with the settings of the laptop profile and the generation cache off. All play
the same episodes, in the same order, with random actions drawn from (seed, task, attempt), and sample with the same
keyed noise, so in float32 they must write the same programs; in bfloat16 the shape of a batch changes the last bits.

- batched: ``RLPromptVectorEnv`` and ``load_generator``, ``num_envs`` problems at once.
- reference: one problem, one prompt, one program at a time; ``model.generate`` with its key-value cache, the same
  weights (from ``load_generator``), stop rules, limits and noise. Only batching, overlap and prefix reuse differ.
- own decoder: the loop of the reference with this project's decoder at batch size 1, a stricter reference.
- published: as the reference, but float32 weights as transformers loads them, and no early stop: each completion runs
  to its limit or to the end token, and is cut by the stop rule afterwards.

The loops that handle one problem at a time are slow: they play the first few of the episodes, and the batched loop
plays those alone once more, where they do not even fill its batch. Then the training loop (``train_agent``) runs for some
PPO updates, timed from the end of the first. Time is wall time; tokens are those that the models wrote.

The floor is the least time that the same work could take: FLOPs over the fastest matrix rate, or bytes over the
fastest memory bandwidth, both measured in the same process; whichever takes longer. Prompt tokens count once per
call where prompts start alike. Bytes are the weights once per forward pass, and the keys and values that each
generated token reads.

Prints tables; ``--output`` gets all of it after every loop. README.md shows that of ``results/speed/rollout.json``.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import _common
import numpy as np

KINDS = ("generation", "rewriting", "mutation", "sandbox", "embedding", "ppo")


@dataclass(frozen=True)
class Loop:
    """One loop: how the models are run (``kind``), and how many episodes, or timed updates of ``training``, it gets."""

    name: str
    kind: str  # batched, own decoder, reference, published, training
    dtype: str
    count: int


def loops(size):
    """All loops of a run, each batched one next to its reference."""
    few, many = size["few"], size["many"]
    plan = []
    for dtype in ("float32", "bfloat16"):
        plan += [
            Loop(f"batched {dtype}", "batched", dtype, many),
            Loop(f"batched {dtype}, few", "batched", dtype, few),
            Loop(f"reference {dtype}", "reference", dtype, few),
        ]
    return [
        *plan,
        Loop("own decoder bfloat16", "own decoder", "bfloat16", size["own"]),
        Loop("published float32", "published", "float32", size["published"]),
        Loop("training bfloat16", "training", "bfloat16", size["updates"]),
    ]


SIZES = {
    "full": {"many": 144, "few": 12, "own": 6, "published": 5, "updates": 4, "mutations": 1000},
    "quick": {"many": 24, "few": 3, "own": 2, "published": 2, "updates": 1, "mutations": 200},
}


# The reference: one prompt at a time


class KeyedNoise:
    """A logits processor that leaves only the token which the keyed sampling of this project chooses."""

    def __init__(self, request):
        self.request, self.step = request, 0

    def __call__(self, input_ids, scores):
        import torch
        from ppo_codet5.helpers.models.sampling import sample

        (token,) = sample(scores, [(self.request, self.step)])
        self.step += 1
        only = torch.full_like(scores, -torch.inf)
        only[0, token] = 0.0
        return only


class Follow:
    """A stopping criterion that follows the text as it grows, and ends it where its stop rule does if ``early``."""

    def __init__(self, request, tokenizer, ids, end_tokens, early):
        from ppo_codet5.helpers.replies import StopRule
        from tokenizers.decoders import DecodeStream

        self.backend, self.end_tokens, self.early = tokenizer.backend_tokenizer, end_tokens, early
        self.stream = DecodeStream(ids=ids, skip_special_tokens=True)
        self.rule, self.text, self.cut = StopRule(request.stop, request.prefix), request.prefix, None

    def __call__(self, input_ids, scores, **_):
        import torch

        token = int(input_ids[0, -1])
        piece = self.stream.step(self.backend, token) if token not in self.end_tokens else None
        if piece and self.cut is None:
            self.text += piece
            self.cut = self.rule.feed(piece)
        return torch.tensor([self.early and self.cut is not None])


def prompt_ids(tokenizer, request):
    """Token ids of a request's prompt and forced prefix, as a decoder-only model takes them."""
    from ppo_codet5.helpers.models import render_chat

    plain = isinstance(request.prompt, str)
    prompt = request.prompt if plain else render_chat(tokenizer, request.prompt, "the model")
    return tokenizer(prompt + request.prefix, add_special_tokens=plain, verbose=False).input_ids


class OneByOne:
    """A text generator as such loops have it: one prompt at a time through ``model.generate``. Decoder-only models."""

    def __init__(self, name, dtype, published=False):
        self.name, self.revision, self.dtype, self.published = name, "", dtype, published

    @cached_property
    def loaded(self):
        """Model and tokenizer; the weights of ``load_generator``, or plain ones for the published loop."""
        from ppo_codet5.helpers.models import load_generator

        if not self.published:
            generator = load_generator(self.name, dtype=self.dtype, device="cpu")
            return generator.model, generator.tokenizer
        import torch
        from ppo_codet5.helpers.assets import no_progress_bars, smollm2
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = str(smollm2()) if self.name == "smollm2-135m" else self.name
        with no_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, self.dtype))
            return model.eval(), AutoTokenizer.from_pretrained(folder)

    def generate(self, requests, each=None):
        """Completions in the order of ``requests``; ``each(place, completion)`` is called after each of them."""
        completions = []
        for place, request in enumerate(requests):
            completions.append(self.complete(request))
            if each:
                each(place, completions[place])
        return completions

    def complete(self, request):
        import torch
        from ppo_codet5.helpers.models import Completion

        model, tokenizer = self.loaded
        end_tokens = model.generation_config.eos_token_id
        end_tokens = end_tokens if isinstance(end_tokens, list) else [end_tokens]
        ids = prompt_ids(tokenizer, request)
        follow = Follow(request, tokenizer, ids, end_tokens, early=not self.published)
        inputs = torch.tensor([ids])
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            use_cache=True,
            max_new_tokens=request.max_new_tokens,
            pad_token_id=end_tokens[0],
            logits_processor=[KeyedNoise(request)],
            stopping_criteria=[follow],
        )[0, len(ids) :].tolist()
        ended = follow.cut is not None or output[-1] in end_tokens
        return Completion(follow.text[: follow.cut], len(ids), len(output), "stop" if ended else "length")


# The floor


class Recorder:
    """Keeps what a generator is asked and answers, so that the least work for it can be counted."""

    def __init__(self, generator):
        self.generator, self.calls, inner = generator, [], generator.generate

        def generate(requests, *args, **options):
            completions = inner(requests, *args, **options)
            self.calls.append((list(requests), completions))
            return completions

        generator.generate = generate

    def work(self, calls, forward_calls):
        """FLOPs and bytes that ``calls`` need at least, in ``forward_calls`` passes of the model; and their tokens."""
        config, linears = self.generator.model.config, list(_common.linear_layers(self.generator.model))
        heads = self.generator.model.get_output_embeddings()
        body = sum(layer.weight.numel() for layer in linears if layer is not heads)
        cached, width = _common.cached_values(config), self.generator.model.dtype.itemsize
        kv = cached * width  # bytes per token seen
        attention = 2 * cached * config.num_attention_heads // config.num_key_value_heads  # FLOPs per token seen
        new_prompt = written = seen = read = 0
        for requests, completions in calls:
            before = []
            for ids in sorted(prompt_ids(self.generator.tokenizer, request) for request in requests):
                same = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), None)
                same = min(len(before), len(ids)) if same is None else same
                new_prompt += len(ids) - same
                seen += sum(range(same + 1, len(ids) + 1))
                before = ids
            for completion in completions:
                written += completion.completion_tokens
                read += sum(completion.prompt_tokens + i for i in range(1, completion.completion_tokens))
        fed = new_prompt + written - sum(len(completions) for _, completions in calls)  # the last token is not
        flops = 2 * body * fed + 2 * heads.weight.numel() * written + attention * (seen + read)
        weights = forward_calls * sum(layer.weight.numel() for layer in linears) * width
        return {
            "flops": flops,
            "bytes": weights + kv * read,
            "new_prompt_tokens": new_prompt,
            "written_tokens": written,
        }


def layer_rates(model, rows, rounds=5):
    """Matrix rates (FLOP/s) of the model's own linear layers, one after the other, on this machine now: for a decode step
    of ``rows`` rows and for 1024 rows."""
    import torch

    result, head = {}, model.get_output_embeddings()
    with torch.inference_mode():
        for label, count in (("decode_step", rows), ("prefill", 1024)):
            layers = [layer for layer in _common.linear_layers(model) if layer is not head or label == "decode_step"]
            inputs = {n: torch.randn(count, n, dtype=model.dtype) for n in {layer.weight.shape[1] for layer in layers}}

            def run(layers=layers, inputs=inputs):
                for layer in layers:
                    layer(inputs[layer.weight.shape[1]])

            seconds = _common.best_seconds(run, rounds)
            result[f"{label}_seconds"] = seconds
            result[f"{label}_flops_per_second"] = 2 * count * sum(layer.weight.numel() for layer in layers) / seconds
    return result


def floor(recorder, calls, result, rows):
    """The floor for ``calls``, and how far above it the time in the model and the whole run of ``result`` are."""
    model, stats = recorder.generator.model, result["generator"]
    rates = {**layer_rates(model, rows), **_common.machine_rates(model.dtype)}
    work = recorder.work(calls, stats["forward_calls"])
    assert work["written_tokens"] == stats["completion_tokens"], "the recorder has missed calls of the generator"
    compute = work["flops"] / _common.fastest(rates, "flops")
    memory = work["bytes"] / _common.fastest(rates, "bytes")
    least = max(compute, memory)
    return {
        **work,
        **rates,
        "compute_seconds": compute,
        "memory_seconds": memory,
        "floor_seconds": least,
        "forward_above_floor": stats["forward_seconds"] / least,
        "run_above_floor": result["seconds"] / least,
    }


# What a child process runs


def shares(seconds, total):
    """Shares of ``total`` by kind of work; "other" is the rest, so they sum to 1 (less than 0: work overlapped)."""
    known = {name: seconds.get(name, 0.0) / total for name in KINDS}
    known |= {name: value / total for name, value in seconds.items() if name not in known}
    return {**known, "other": 1.0 - sum(known.values())}


class Meter:
    """What time, cores and model (that of a ``load_generator`` generator, or None) do between its making and ``stop``."""

    def __init__(self, generator=None):
        self.generator, self.first = generator, self.reading(generator)

    @staticmethod
    def reading(generator):
        stats = asdict(generator.stats) if generator else {}
        stats |= {"inside_seconds": stats.pop("seconds")} if stats else {}
        busy, own = _common.core_seconds()
        return {"seconds": time.perf_counter(), "busy": busy, "own": own, **stats}

    def stop(self):
        last = self.reading(self.generator)
        self.passed = {name: last[name] - self.first[name] for name in last}

    def result(self, rows, kinds):
        """Rates and shares of a loop that made the attempts ``rows``, with ``kinds`` seconds by kind of work.

        ``others_share`` is the share of all core time that went to other processes: the machine was not ours alone.
        """
        stats = dict(self.passed)
        seconds, others = stats.pop("seconds"), stats.pop("busy") - stats.pop("own")
        result = {
            "steps": len(rows),
            "seconds": seconds,
            "steps_per_second": len(rows) / seconds,
            "tokens": _common.tokens(rows),
            "tokens_per_second": _common.tokens(rows) / seconds,
            "shares": shares(kinds, seconds),
            "others_share": max(0.0, others) / (seconds * _common.cores()),
            "peak_memory_mb": _common.peak_memory_mb(),
        }
        return {**result, "generator": stats, "forward_share": stats["forward_seconds"] / seconds} if stats else result


def rollout(loop, options):
    """Play episodes with random actions; the record of one loop."""
    import torch
    from ppo_codet5.helpers.results.scoring import score

    from ppo_codet5.core import load_parts

    num_envs = options["num_envs"] if loop.kind == "batched" else 1
    sizes = {"batch_size": num_envs, "num_envs": num_envs}
    config = _common.laptop(**{**options["config"], **sizes}, dtype=loop.dtype, seed=options["seed"])
    alone = OneByOne(config.code_model, loop.dtype, loop.kind == "published")
    alone = alone if loop.kind in ("reference", "published") else None
    parts = load_parts(config, code=alone, rewriter=alone)
    _common.warm(parts)
    recorder = None if alone else Recorder(parts.code)
    world = _common.new_world(config, parts)
    meter = Meter(None if alone else parts.code)
    rows = _common.play(world, num_envs if loop.kind == "batched" else None, loop.count)
    meter.stop()
    result = {**meter.result(rows, world.seconds), "threads": torch.get_num_threads()}
    if recorder:
        result["floor"] = floor(recorder, recorder.calls, result, num_envs)
    scored = score(rows, list(dict.fromkeys(row["task_id"] for row in rows)), config.max_steps)
    result |= {"solved_share": scored["pass_at_1"], "visible_solved_share": scored["visible_pass"]}
    programs = [[row["task_id"], row["visit"], row["attempt"], row["prompt"], row["code"]] for row in rows]
    return {**result, "programs": sorted(programs)}


def training(loop, options):
    """``train_agent`` for some updates of a longer run; then mutation alone, and the cache.

    Timed from the end of the first update on. The run is broken off before its last update, in which no later episodes
    fill the batch.
    """
    import torch
    from ppo_codet5.helpers.models import CachedGenerator

    from ppo_codet5.core import PPOCodeT5Trainer, load_parts

    def settings(updates):
        same = {**options["config"], "dtype": loop.dtype, "seed": options["seed"]}
        return _common.laptop(**same, max_episodes=updates * _common.laptop(**same).episodes_per_update)

    config = settings(loop.count + 2)
    parts = load_parts(config)
    _common.warm(parts)
    recorder, rows, marks, meters = Recorder(parts.code), [], [], []

    def end_of_update(line):
        marks.append((len(rows), len(recorder.calls)))
        if len(marks) == 1:
            meters.append(Meter(parts.code))
        elif len(marks) == loop.count + 1:
            meters[0].stop()
            raise Enough

    timings = train(PPOCodeT5Trainer(config, parts=parts), rows, end_of_update)
    (first, first_call), (last, last_call) = marks[0], marks[-1]
    kinds = defaultdict(float)
    for row in timings[1:]:
        for name in row.keys() - {"phase", "update", "total"}:
            kinds[name] += row[name]
    result = {
        "episodes_per_update": config.episodes_per_update,
        "threads": torch.get_num_threads(),
        **meters[0].result(rows[first:last], kinds),
    }
    result["floor"] = floor(recorder, recorder.calls[first_call:last_call], result, config.batch_size)
    result["mutation"] = mutation(parts, config, options["mutations"])
    config, runs = settings(1), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            cached = CachedGenerator(parts.code, folder)
            began = time.perf_counter()
            train(PPOCodeT5Trainer(config, parts=replace(parts, code=cached, rewriter=cached)), [], lambda line: None)
            seconds = time.perf_counter() - began
            runs.append({"seconds": seconds, **asdict(cached.stats), "hit_rate": cached.stats.hit_rate})
    return {**result, "cache": {"first": runs[0], "second": runs[1]}}


class Enough(Exception):
    """Breaks off a training."""


def train(trainer, rows, report):
    """One training without evaluation, in a folder that is deleted; its attempts go into ``rows``.

    Returns the ``timings`` rows of its updates. ``report`` may raise Enough after one of them.
    """
    from ppo_codet5.helpers.runs import Run

    from ppo_codet5.core import PromptWorld, load_agent, train_agent

    with tempfile.TemporaryDirectory() as folder:
        identity = trainer.identity("ppo", trainer.scored)
        with Run(Path(folder) / "run", identity, trainer.parts.record()) as run:

            def log(name, row):
                rows.append(row)
                run.log(name, row)

            world = PromptWorld(trainer.config, trainer.parts, trainer.problems["train"], "train", "ppo", log)
            state = {"update": 0, "memory": [], "rollout": None, "evaluated": {}}
            with contextlib.suppress(Enough):
                train_agent(run, load_agent(trainer.config, trainer.parts), world, state, report)
            return run.rows("timings")


def mutation(parts, config, count):
    """One ``EpicGA.mutate`` of ``count`` task texts, after a warm-up that mutates each distinct text once."""
    from ppo_codet5.core import EpicGA, clean_task, load_split

    splits = [load_split(config, split) for split in ("train", "validation", "test")]
    texts = list(dict.fromkeys(clean_task(problem.text) for split in splits for problem in split))
    epic = EpicGA(parts.lexicon, parts.embedder, config.mutation_rate, config.min_similarity)
    epic.mutate(texts, [np.random.default_rng([1, i]) for i in range(len(texts))])
    many = [texts[i % len(texts)] for i in range(count)]
    encode, inside = parts.embedder.encode, []

    def timed(texts):
        began = time.perf_counter()
        vectors = encode(texts)
        inside.append(time.perf_counter() - began)
        return vectors

    parts.embedder.encode = timed
    began = time.perf_counter()
    mutants = epic.mutate(many, [np.random.default_rng([2, i]) for i in range(count)])
    seconds = time.perf_counter() - began
    parts.embedder.encode = encode
    changed = sum(mutant != text for mutant, text in zip(mutants, many, strict=True))
    return {
        "prompts": count,
        "distinct_texts": len(texts),
        "seconds": seconds,
        "embedding_seconds": sum(inside),
        "changed_share": changed / count,
        "distinct_mutants": len(set(mutants)),
    }


# What the parent makes of it


def run_child(loop, options):
    """The record of one loop from a process of its own, or {"error": ...}."""
    environment = {"OMP_NUM_THREADS": str(options["threads"])} if options["threads"] else {}
    job = {"loop": asdict(loop), "options": options}
    return {**asdict(loop), **_common.in_child(__file__, job, **environment)}


def without_programs(result):
    """A loop's record with a hash in place of its programs."""
    if "programs" not in result:
        return result
    digest = hashlib.sha256(json.dumps(result["programs"]).encode()).hexdigest()
    return {**{name: value for name, value in result.items() if name != "programs"}, "programs_sha256": digest}


def same_programs(ours, other):
    """How many of the attempts of the shorter list the longer one made too, and with the same text and program."""
    ours, other = ({tuple(row[:3]): row[3:] for row in programs} for programs in (ours, other))
    tasks = {key[:2] for key in ours} & {key[:2] for key in other}
    keys = [{key for key in rows if key[:2] in tasks} for rows in (ours, other)]
    both = keys[0] & keys[1]
    equal = sum(ours[key] == other[key] for key in both)
    first = [key for key in both if key[2] == 0]
    return {
        "attempts_in_both": len(both),
        "attempts_in_one_only": len(keys[0] ^ keys[1]),
        "equal": equal,
        "divergence": 1 - sum(ours[key][1] == other[key][1] for key in both) / max(1, len(both)),
        "first_attempt_divergence": 1 - sum(ours[key][1] == other[key][1] for key in first) / max(1, len(first)),
    }


def compare(results):
    """Which programs agree, and the solved shares of both dtypes over the episodes of the batched loops."""
    done = {result["name"]: result for result in results if "programs" in result}
    pairs = [
        ("batched float32", "reference float32"),
        ("batched float32", "batched float32, few"),
        ("batched float32", "published float32"),
        ("batched float32", "batched bfloat16"),
        ("reference float32", "reference bfloat16"),
        ("batched bfloat16", "reference bfloat16"),
    ]
    return [
        {"first": a, "second": b, **same_programs(done[a]["programs"], done[b]["programs"])}
        for a, b in pairs
        if a in done and b in done
    ]


def checks(results, compared):
    """What must be reached: name, value, bound, whether it holds; nothing for a loop that is missing."""
    done, found = {result["name"]: result for result in results if "error" not in result}, []

    def check(name, value, bound, holds, unit=""):
        holds = None if bound is None else bool(holds)
        found.append({"name": name, "value": value, "bound": bound, "unit": unit, "pass": holds})

    def ratio(name, ours, other, least=None):
        if ours in done and other in done:
            value = done[ours]["steps_per_second"] / done[other]["steps_per_second"]
            check(name, value, least and f"at least {least}", least and value >= least, "x steps/s")

    def equal(other):
        for pair in compared:
            if (pair["first"], pair["second"]) == ("batched float32", other):
                total = pair["attempts_in_both"] + pair["attempts_in_one_only"]
                check(f"same programs, float32: {other}", pair["equal"], f"all {total}", pair["equal"] == total)

    ratio("float32 against the reference", "batched float32", "reference float32", 4)
    ratio("   on the reference's episodes only", "batched float32, few", "reference float32")
    equal("reference float32")
    equal("batched float32, few")
    ratio("bfloat16 against the reference", "batched bfloat16", "reference bfloat16", 6)
    ratio("   on the reference's episodes only", "batched bfloat16, few", "reference bfloat16")
    ratio("   against the own decoder, one by one", "batched bfloat16", "own decoder bfloat16")
    ratio("bfloat16 against the published loop", "batched bfloat16", "published float32", 10)
    trained = next((result for result in done.values() if result["kind"] == "training"), None)
    if trained:
        small = sum(trained["shares"][name] for name in ("mutation", "embedding", "sandbox"))
        check(
            "training: inside the model's forward pass",
            100 * trained["forward_share"],
            "at least 60",
            trained["forward_share"] >= 0.6,
            "%",
        )
        check("training: mutation, embedding, sandbox", 100 * small, "less than 10", small < 0.1, "%")
        check(
            "training: cache hits of a second run",
            100 * trained["cache"]["second"]["hit_rate"],
            "all, 100",
            trained["cache"]["second"]["misses"] == 0,
            "%",
        )
        mutated = trained["mutation"]
        check(
            f"mutation of {mutated['prompts']} prompts",
            mutated["seconds"],
            "less than 2 for 1000",
            mutated["seconds"] < 2 * mutated["prompts"] / 1000,
            "s",
        )
        check(
            "training: peak memory",
            trained["peak_memory_mb"] / 1000,
            "less than 3",
            trained["peak_memory_mb"] < 3000,
            "GB",
        )
    return found


def show(results, compared, found):
    """The tables for the terminal."""
    columns = ("steps/s", "tokens/s", *KINDS, "other", "forward", "MB", "others")
    print(f"{'loop':26}{'episodes':>9}{'steps':>7}" + "".join(f"{name:>11}" for name in columns))
    for result in results:
        if "error" in result:
            print(f"{result['name']:26}  failed: {result['error']}")
            continue
        episodes = result["count"] * result.get("episodes_per_update", 1)
        line = f"{result['name']:26}{episodes:9}{result['steps']:7}"
        line += f"{result['steps_per_second']:11.3f}{result['tokens_per_second']:11.1f}"
        line += "".join(f"{result['shares'][name]:11.1%}" for name in (*KINDS, "other"))
        forward = f"{result['forward_share']:.1%}" if "forward_share" in result else "-"
        print(f"{line}{forward:>11}{result['peak_memory_mb']:11.0f}{result['others_share']:11.1%}")
    print(
        f"\n{'programs that are the same':44}{'equal':>7}{'of':>5}{'one only':>10}{'divergence':>12}{'first try':>11}"
    )
    for pair in compared:
        line = f"{pair['first'] + ' / ' + pair['second']:44}{pair['equal']:7}{pair['attempts_in_both']:5}"
        print(
            f"{line}{pair['attempts_in_one_only']:10}{pair['divergence']:12.1%}{pair['first_attempt_divergence']:11.1%}"
        )
    for result in results:
        if "solved_share" in result:
            solved = f"solved on all asserts {result['solved_share']:.1%}, on the visible one {result['visible_solved_share']:.1%}"
            print(f"{result['name']:26} {solved} of {result['count']} episodes")
    print(
        f"\n{'floor':26}{'GFLOP/s':>9}{'GB/s':>7}{'compute s':>11}{'memory s':>10}{'forward above':>15}{'run above':>11}"
    )
    for result in results:
        if bound := result.get("floor"):
            rate, width = _common.fastest(bound, "flops") / 1e9, _common.fastest(bound, "bytes") / 1e9
            line = f"{result['name']:26}{rate:9.0f}{width:7.1f}{bound['compute_seconds']:11.2f}{bound['memory_seconds']:10.2f}"
            print(f"{line}{bound['forward_above_floor']:14.1f}x{bound['run_above_floor']:10.1f}x")
    for result in results:
        if mutated := result.get("mutation"):
            print(
                f"\nmutation: {mutated['prompts']} prompts in {mutated['seconds']:.2f} s, {mutated['embedding_seconds']:.2f} s of it "
                f"embeddings; {mutated['changed_share']:.0%} changed, {mutated['distinct_mutants']} distinct"
            )
            first, second = result["cache"]["first"], result["cache"]["second"]
            print(
                f"cache: first run {first['seconds']:.1f} s, second {second['seconds']:.1f} s with {second['hit_rate']:.0%} hits"
            )
    print()
    for item in found:
        line = f"{item['name']:44}{item['value']:10.2f} {item['unit']:10}"
        print(
            line + (f" must be {item['bound']:22} {'PASS' if item['pass'] else 'short of it'}" if item["bound"] else "")
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few episodes of each loop")
    parser.add_argument("--output", type=Path, help="write everything to this JSON file")
    parser.add_argument("--only", help="run only the loops whose names contain one of these words, comma-separated")
    parser.add_argument("--num-envs", type=int, default=96, help="problems at once in the batched loops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of each loop, 0 for as many as there are cores")
    parser.add_argument("--sizes", type=json.loads, default={}, help="JSON of sizes to change, such as many and few")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON of parameters to change, for all loops")
    arguments = parser.parse_args()
    size = {**SIZES["quick" if arguments.quick else "full"], **arguments.sizes}
    options = {
        "config": arguments.config,
        "num_envs": arguments.num_envs,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "mutations": size["mutations"],
    }
    wanted = arguments.only.split(",") if arguments.only else [""]
    if not any(word in loop.name for word in wanted for loop in loops(size)):
        parser.error(f"--only {arguments.only} names no loop: {', '.join(loop.name for loop in loops(size))}")
    about, began, results = _common.machine(), time.perf_counter(), []
    for loop in loops(size):
        if not any(word in loop.name for word in wanted):
            continue
        results.append(run_child(loop, options))
        rate = results[-1].get("steps_per_second")
        print(f"# {loop.name}: {f'{rate:.3f} steps/s' if rate else 'failed'}", file=sys.stderr, flush=True)
        compared = compare(results)
        record = {
            "machine": about,
            "sizes": size,
            "options": options,
            "seconds": time.perf_counter() - began,
            "loops": [without_programs(result) for result in results],
            "programs": compared,
            "checks": checks(results, compared),
        }
        if arguments.output:  # after every loop, so that a run that is broken off leaves what it has
            _common.write(arguments.output, record)
    print(f"# {_common.describe(about)}")
    print(f"# {options['num_envs']} problems at once, seed {options['seed']}, {record['seconds']:.0f} s in all")
    show(record["loops"], record["programs"], record["checks"])
    if any("error" in result for result in results):
        sys.exit(1)


def work(loop, options):
    """What the child does: one loop, given as a dict."""
    loop = Loop(**loop)
    return (training if loop.kind == "training" else rollout)(loop, options)


if __name__ == "__main__":
    _common.start(main, work)
