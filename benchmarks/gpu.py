"""Decode speed and environment steps on one GPU, with the published models at full size.

    python benchmarks/gpu.py --output results/gpu                # measure; again: measure what is missing
    python benchmarks/gpu.py --output results/gpu --report       # README.md and figures; needs no GPU

Each measurement is a line of ``measurements.jsonl``, written as soon as it is known. One that is there for this
device is skipped; one that failed is there with its error in a sentence, and ``--retry`` tries it again. Groups of
measurements that share a model run in a child process, so that a crash, a hang or a CUDA error costs one measurement:
the rest of the group goes on in a new child. The run stops before ``--seconds``; what was under way is not recorded.
``--only WORD ...`` takes the measurements whose name contains one of the words; ``--list`` prints the names.

Weights are random, of the published shapes (speed does not depend on the values), and made on the GPU in bfloat16;
SmolLM2 has its real ones if ``helpers.assets`` has them. A random model's next token would be nearly uniform over the
vocabulary, which no trained model's is and which sampling from the nucleus would pay for: the last norm is scaled so
that logits have a standard deviation of 10. No row ends early: there is no end-of-sequence token and no stop rule.

On a machine without network, with its own torch for CUDA, transformers and sentence-transformers: bring three wheels,
the same for every platform (the last one only to measure with the version that is pinned in requirements.txt; it
takes huggingface_hub >= 1.31 and tokenizers >= 0.23.1)::

    pip download --no-deps -d wheels gymnasium==1.4.0 farama-notifications transformers==5.23.0    # with network

and there, in this repository and with the folder of wheels::

    pip install --no-index --no-deps --target site wheels/*.whl; export PYTHONPATH=$PWD/site           # 10 s
    python benchmarks/gpu.py --output results/gpu --only machine                             # 30 s: does all work?
    python benchmarks/gpu.py --output results/gpu --seconds 540            # again and again, until all is measured

In all about half an hour on one H100, in the order of ``--list``, which is that of importance: decode speed against
batch size of four models 9 minutes, the environment loop with 64 problems 3, attention back ends and transformers'
``generate`` 6, rows of different lengths 2, compilation 5, the loop with 256 problems 4. Where commands may take ten
minutes at most, each call does what fits, and the folder of results must be there again at the next call. Then, on
any machine, ``--report``.

Optional: the cache folder of ``helpers.assets`` (``PPO_CODET5_CACHE``) with ``hf/smollm2-135m-instruct`` (540 MB),
``hf/all-minilm-l6-v2`` (91 MB), ``gensim`` (85 MB) and ``nltk`` (45 MB), and the wheels gensim, smart_open, nltk and
lemminflect. What is missing is replaced: SmolLM2 and the sentence embedder get random weights, and mutation leaves
prompts as they are; the results say so.
``--device cpu --tiny`` runs every path in seconds with tiny models.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import gc
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import _common

Result = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A model's architecture: ``kind`` is "t5" or "llama", ``config`` the keyword arguments of its config class."""

    kind: str
    config: dict[str, Any]


T5 = dict(pad_token_id=0, eos_token_id=None, decoder_start_token_id=0, feed_forward_proj="relu", d_kv=64)
LLAMA = dict(pad_token_id=0, bos_token_id=None, eos_token_id=None, rms_norm_eps=1e-5)
SHAPES = {
    # Salesforce/codet5p-770m-py, config.json. CodeT5+ 770M follows the architecture of T5 large (arXiv 2305.07922,
    # section 4.1): 1024 wide, 4096 in the feed-forward layers, 16 heads of 64 (arXiv 1910.10683, section 3.7).
    "codet5p-770m": Shape(
        "t5", dict(**T5, vocab_size=32100, d_model=1024, d_ff=4096, num_heads=16, num_layers=24, num_decoder_layers=24)
    ),
    # meta-llama/Llama-3.2-3B-Instruct, config.json.
    "llama-3.2-3b": Shape(
        "llama",
        dict(
            **LLAMA,
            **dict(vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, head_dim=128),
            **dict(num_attention_heads=24, num_key_value_heads=8, tie_word_embeddings=True),
            max_position_embeddings=131072,
            rope_parameters={
                **dict(rope_type="llama3", rope_theta=5e5, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0),
                "original_max_position_embeddings": 8192,
            },
        ),
    ),
    # codellama/CodeLlama-7b-Instruct-hf, config.json: Llama 2 7B with 16 more tokens and a rotary base of 10^6
    # (arXiv 2308.12950, section 2.4).
    "codellama-7b": Shape(
        "llama",
        dict(
            **LLAMA,
            **dict(vocab_size=32016, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, head_dim=128),
            **dict(num_attention_heads=32, num_key_value_heads=32, tie_word_embeddings=False),
            max_position_embeddings=16384,
            rope_parameters=dict(rope_type="default", rope_theta=1e6),
        ),
    ),
    # HuggingFaceTB/SmolLM2-135M-Instruct, config.json, and equal to what the published GGUF file says.
    "smollm2-135m": Shape(
        "llama",
        dict(
            **LLAMA,
            **dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, head_dim=64),
            **dict(num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True),
            max_position_embeddings=8192,
            rope_parameters=dict(rope_type="default", rope_theta=1e5),
        ),
    ),
    "tiny-t5": Shape(
        "t5",
        dict(T5, vocab_size=1500, d_model=32, d_ff=48, d_kv=8, num_heads=3, num_layers=2, num_decoder_layers=2),
    ),
    "tiny-llama": Shape(
        "llama",
        dict(
            **LLAMA,
            **dict(vocab_size=1500, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=12),
            **dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False),
            max_position_embeddings=1024,
        ),
    ),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured. Lengths in tokens."""

    models: tuple[str, ...]
    compared: tuple[str, ...]  # models of the comparisons
    compiled: tuple[tuple[str, str], ...]  # model and mode of torch.compile
    pairs: tuple[tuple[str, str], ...]  # code model and rewriter of the environment loop
    batches: tuple[int, ...]
    compare_at: tuple[int, ...]  # batch sizes of the comparisons; the last one for compilation
    prompt: int
    new: int
    widths: tuple[int, ...]  # tokens in one prefill pass
    ragged: tuple[int, tuple[int, ...]]  # requests of different lengths, and slots to run them in
    num_envs: tuple[int, ...]
    env_steps: int  # measured, after one that is not
    env_tokens: tuple[int, int, int]  # limits of a program, a rewrite and a reflection
    copy_bytes: int
    matmul: int


FULL = Scale(
    models=("codet5p-770m", "llama-3.2-3b", "codellama-7b", "smollm2-135m"),
    compared=("codet5p-770m", "llama-3.2-3b"),
    compiled=(("codet5p-770m", "default"), ("llama-3.2-3b", "default"), ("llama-3.2-3b", "reduce-overhead")),
    pairs=(("codet5p-770m", "llama-3.2-3b"), ("codellama-7b", "llama-3.2-3b"), ("smollm2-135m", "smollm2-135m")),
    batches=(1, 8, 32, 64, 128, 256, 512, 1024),
    compare_at=(8, 64),
    prompt=256,
    new=128,
    widths=(1024, 4096, 16384),
    ragged=(256, (64, 256)),
    num_envs=(64, 256),
    env_steps=3,
    env_tokens=(128, 48, 48),
    copy_bytes=2**32,
    matmul=8192,
)
TINY = Scale(
    models=("tiny-t5", "tiny-llama"),
    compared=("tiny-t5", "tiny-llama"),
    compiled=(("tiny-llama", "default"),),
    pairs=(("tiny-t5", "tiny-llama"),),
    batches=(1, 2, 4),
    compare_at=(2,),
    prompt=24,
    new=6,
    widths=(32, 64),
    ragged=(6, (2,)),
    num_envs=(4,),
    env_steps=2,
    env_tokens=(8, 6, 6),
    copy_bytes=2**20,
    matmul=64,
)


@dataclass(frozen=True)
class Measurement:
    """``work(bench, **options)`` gives the result; ``seconds`` is about what it takes on a GPU."""

    name: str
    group: str
    work: Callable[..., Result]
    options: dict[str, Any]
    seconds: float


def plan(scale: Scale) -> list[Measurement]:
    """All measurements in the order in which they run, those of a group one after the other."""
    rows: list[Measurement] = []

    def add(group: str, name: str, work: Callable[..., Result], seconds: float, **options: Any) -> None:
        rows.append(Measurement(name, group, work, options, seconds))

    add("machine", "machine", machine, 20)
    last = scale.compare_at[-1]
    for model in scale.models:
        for batch in scale.batches:
            add(f"decode {model}", f"decode {model} b{batch}", decode, 7 + batch / 50, model=model, batch=batch)
        for batch in scale.compare_at if model in scale.compared else (last,):
            add(f"decode {model}", f"breakdown {model} b{batch}", breakdown, 15, model=model, batch=batch)
        for width in scale.widths if model in scale.compared else ():
            add(f"decode {model}", f"prefill {model} w{width}", prefill, 4, model=model, batch=last, width=width)

    def environments(count: int) -> None:
        for code, rewriter in scale.pairs:
            name, models = f"loop {code} + {rewriter} n{count}", {"code": code, "rewriter": rewriter}
            add(f"loop {code} {count}", name, loop, 35 + count / 6, **models, num_envs=count)

    environments(scale.num_envs[0])
    for model in scale.compared:
        flash = ("flash_attention_2",) if SHAPES[model].kind == "llama" else ()  # T5 has none
        for kind in ("eager", *flash):
            at = {"model": model, "batch": last, "attention": kind}
            add(f"others {model}", f"attention {model} {kind} b{last}", decode, 10, **at)
        add(f"others {model}", f"attention {model} equal b{last}", decode, 10, model=model, batch=last, equal=True)
        for batch in scale.compare_at:
            for cache, sampling in (("dynamic", "sampled"), ("static", "sampled"), ("static", "greedy")):
                name, at = f"generate {model} {cache} {sampling} b{batch}", {"model": model, "batch": batch}
                add(f"others {model}", name, generate, 30, **at, cache=cache, sampled=sampling == "sampled")
    for model in (m for m in scale.compared if SHAPES[m].kind == "llama"):
        for slots in scale.ragged[1]:
            for name, work in (("own", ragged), ("generate_batch", generate_batch)):
                at = {"model": model, "rows": scale.ragged[0], "slots": slots}
                add(f"{name} {model}", f"ragged {model} {name} s{slots}", work, 25, **at)
    for model, mode in scale.compiled:
        at = {"model": model, "batch": last, "compiled": mode}
        add(f"compile {model} {mode}", f"compile {model} {mode} b{last}", decode, 90, **at)
    for count in scale.num_envs[1:]:
        environments(count)
    if scale is TINY:  # one child for all: starting one takes longer than its measurements
        return [dataclasses.replace(row, group="tiny", seconds=0.5) for row in rows]
    return rows


# Running: a parent that never imports torch, and one child process for each group

PATIENCE = 60.0  # seconds for importing and making models, on top of three times what a measurement should take


def device_name(device: str) -> str:
    """What identifies results; asked of the driver, because a process that has touched CUDA cannot fork children."""
    if device == "cpu":
        return "cpu"
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"error: no NVIDIA GPU found ({sentence(error)}); for a trial use --device cpu --tiny")


def sentence(error: BaseException) -> str:
    """An error in one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def read(path: Path, start: int = 0) -> list[Result]:
    """The lines of the file from byte ``start`` on, the last of each (device, name); half lines are skipped."""
    rows: dict[tuple[str, str], Result] = {}
    for line in path.read_bytes()[start:].splitlines() if path.exists() else []:
        with suppress(ValueError):  # half a line, left by a kill
            row = json.loads(line)
            rows[row["device"], row["name"]] = row
    return list(rows.values())


@dataclass
class Run:
    """One call of this script: where it writes, on what it measures, and until when (``time.monotonic()``)."""

    path: Path
    device: str
    label: str  # of the device
    scale: Scale
    deadline: float

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.start = self.path.stat().st_size if self.path.exists() else 0

    def recorded(self) -> set[str]:
        """Names that this call has recorded so far."""
        return {row["name"] for row in read(self.path, self.start)}

    def record(self, name: str, seconds: float, result: Result | None, error: str | None) -> None:
        row = {"name": name, "device": self.label, "seconds": round(seconds, 1), "error": error, "result": result}
        whole = not self.path.exists() or not (text := self.path.read_bytes()) or text.endswith(b"\n")
        with self.path.open("ab") as file:  # in one write; after half a line on a line of its own
            file.write((b"" if whole else b"\n") + json.dumps(row).encode() + b"\n")
        print(f"{name:46s} {seconds:6.1f} s  {f'FAILED {error}' if error else headline(result)}", flush=True)

    def group(self, todo: list[Measurement]) -> None:
        """Run the measurements of one group, in as few children as it takes."""
        while todo and time.monotonic() + todo[0].seconds < self.deadline:
            process = multiprocessing.get_context("fork").Process(target=self.child, args=(todo,))
            process.start()
            try:
                trouble = self.watch(process, todo)
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid or 0, signal.SIGKILL)  # with what it has started and perhaps left behind
                process.kill()
                process.join()
            recorded = self.recorded()
            left = [measurement for measurement in todo if measurement.name not in recorded]
            if left and trouble:
                self.record(left.pop(0).name, 0.0, None, trouble)
            elif len(left) == len(todo):
                return
            todo = left

    def watch(self, process: multiprocessing.process.BaseProcess, todo: list[Measurement]) -> str | None:
        """Wait for a child; what went wrong with the measurement it was at, None if nothing did or time is up."""
        count, since = 0, time.monotonic()
        while process.is_alive():
            process.join(0.1)
            if time.monotonic() > self.deadline:
                return None
            recorded = self.recorded()
            now = sum(measurement.name in recorded for measurement in todo)
            if now > count:
                count, since = now, time.monotonic()
            limit = PATIENCE + 3 * todo[min(count, len(todo) - 1)].seconds
            if time.monotonic() - since > limit:
                return f"it did not end within its limit of {limit:.0f} s"
        return f"its process ended with exit code {process.exitcode}" if process.exitcode else None

    def child(self, todo: list[Measurement]) -> None:
        """Measure one after the other and record each; ends early when time is up or CUDA has broken."""
        os.setsid()  # the parent ends this process together with all that it has started
        bench = Bench(self.device, self.scale)
        for measurement in todo:
            if time.monotonic() + measurement.seconds > self.deadline:
                return
            began, result, error = time.monotonic(), None, None
            try:
                result = measurement.work(bench, **measurement.options)
            except Exception as caught:
                error = sentence(caught)
            self.record(measurement.name, time.monotonic() - began, result, error)
            if error and "CUDA error" in error:  # every later call would fail too
                return
            bench.tidy()


def measure(args: argparse.Namespace) -> int:
    """Run what is not there yet; returns 0."""
    began, scale = time.monotonic(), TINY if args.tiny else FULL
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    label, path = device_name(args.device), args.output / "measurements.jsonl"
    known = {row["name"] for row in read(path) if row["device"] == label and not (args.retry and row["error"])}
    wanted = [m for m in plan(scale) if not args.only or any(word in m.name for word in args.only)]
    todo = [m for m in wanted if m.name not in known]
    run = Run(path, args.device, label, scale, began + args.seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that children end too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that children end too
    for group in dict.fromkeys(m.group for m in todo):
        run.group([m for m in todo if m.group == group])
    missing = len({m.name for m in todo} - run.recorded())
    failed = sum(row["error"] is not None for row in read(path) if row["device"] == label)
    print(
        f"{label}: {len(wanted) - missing} of {len(wanted)} measured, {failed} failed, {time.monotonic() - began:.0f} s"
    )
    if missing:
        print("time is up; the same command goes on")
    return 0


# What measurements share


class Bench:
    """A child's state: the models that are loaded. Imports torch."""

    def __init__(self, device: str, scale: Scale) -> None:
        import torch

        self.device, self.scale, self.cuda = device, scale, device == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.loaded: dict[str, tuple[Any, Any]] = {}
        self.compiled: tuple[str, int] | None = None  # model and rows that ``generate`` last compiled for
        if not self.cuda:
            torch.set_num_threads(1)

    def tidy(self) -> None:
        """Give back what the last measurement left."""
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done all it was given."""
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    def memory(self) -> int | None:
        """Bytes that the device has; None on a CPU."""
        import torch

        return torch.cuda.get_device_properties(0).total_memory if self.cuda else None

    def peak(self, reset: bool = False) -> int:
        """Most bytes in use since the last reset (on a CPU: of the process, ever)."""
        import torch

        if reset and self.cuda:
            torch.cuda.reset_peak_memory_stats()
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        return int(1e6 * _common.peak_memory_mb())

    def load(self, *names: str) -> None:
        """Have these models in memory and no others."""
        self.loaded = {name: parts for name, parts in self.loaded.items() if name in names}
        self.tidy()
        for name in names:
            if name not in self.loaded:
                self.loaded[name] = make_model(name, self.device, self.dtype)

    def generator(self, name: str, batch: int) -> Any:
        """The product's generator around a loaded model."""
        from ppo_codet5.helpers.models.local import TransformersGenerator

        if name not in self.loaded:
            self.load(name)
        model, tokenizer = self.loaded[name]
        return TransformersGenerator(model, tokenizer, name=name, revision="benchmark", batch_size=batch)


def real_weights(name: str) -> Path | None:
    """The folder of SmolLM2's weights if it is there; nothing is fetched."""
    from ppo_codet5.helpers.assets import cache_root

    folder = cache_root() / "hf" / "smollm2-135m-instruct"
    return folder if name == "smollm2-135m" and folder.exists() else None


def make_model(name: str, device: str, dtype: Any) -> tuple[Any, Any]:
    """Model and tokenizer: real weights if they are there, else random ones, made on the device."""
    import torch
    from ppo_codet5.helpers.assets import no_progress_bars
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    if folder := real_weights(name):
        with no_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        return model, AutoTokenizer.from_pretrained(folder)
    shape = SHAPES[name]
    config_class, model_class = {
        "t5": (T5Config, T5ForConditionalGeneration),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[shape.kind]
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = model_class(config_class(**shape.config)).eval()
    finally:
        torch.set_default_dtype(before)
    # A random T5 repeats its last token. An ordinary one to start from, as special ones are no text to keep.
    model.generation_config = GenerationConfig(
        pad_token_id=0, decoder_start_token_id=300 if shape.kind == "t5" else None
    )
    # As peaked as a trained model's next-token distribution: see the top of this file.
    ids = torch.randint(1, shape.config["vocab_size"], (4, 16), device=device)
    with torch.inference_mode():
        inputs = {"input_ids": ids, "decoder_input_ids": ids} if shape.kind == "t5" else {"input_ids": ids}
        spread = model(**inputs).logits.float().std().item()
    last_norm = model.decoder.final_layer_norm if shape.kind == "t5" else model.model.norm
    with torch.no_grad():
        last_norm.weight.mul_(10 / spread)
    return model, make_tokenizer(shape.config["vocab_size"])


@functools.cache
def problem_words() -> tuple[str, ...]:
    """The words of the starter problems as they follow each other."""
    from ppo_codet5.helpers.problems import load_problems

    texts = [problem.text for problem in load_problems("starter", "train")]
    return tuple(word for text in texts for word in text.split() if word.isalpha())


def make_tokenizer(size: int) -> Any:
    """Byte-level BPE of the starter problems, filled up to ``size`` with made-up words of three to five letters."""
    from ppo_codet5.helpers.problems import load_problems
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    problems = load_problems("starter", "train")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, 4000), special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator([f"{p.text}\n{p.reference}\n{' '.join(p.tests)}" for p in problems], trainer)
    bpe = json.loads(trained.to_str())["model"]
    vocabulary: dict[str, int] = bpe["vocab"]
    number = 26**3
    while len(vocabulary) < size:
        letters, rest = "", number
        while rest:
            letters, rest = chr(97 + rest % 26) + letters, rest // 26
        vocabulary.setdefault(f"\u0120{letters}", len(vocabulary))
        number += 1
    merges = [tuple(pair) for pair in bpe["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = trained.pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    tokenizer.chat_template = (
        "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant\n{% endif %}"
    )
    return tokenizer


def prompts(tokenizer: Any, lengths: list[int], seed: int = 0) -> list[str]:
    """Texts of exactly that many tokens: the starter problems' words that are one token, each from another place on.

    So no two are equal (those would be computed once), and trained weights find them plausible.
    """
    import numpy as np

    words = problem_words()
    single = {word for word in set(words) if len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1}
    words = tuple(word for word in words if word in single)
    starts = np.random.default_rng(seed).permutation(len(words))[: len(lengths)]
    return [
        "".join(f" {words[(start + i) % len(words)]}" for i in range(length))
        for start, length in zip(starts, lengths, strict=True)
    ]


def make_requests(tokenizer: Any, lengths: list[int], new: list[int]) -> list[Any]:
    """Sampled as in the profiles, never stopped by a rule."""
    from ppo_codet5.helpers.models import Request

    texts = prompts(tokenizer, lengths)
    return [
        Request(text, seed=i, max_new_tokens=limit, temperature=0.7, top_p=0.9, stop="none")
        for i, (text, limit) in enumerate(zip(texts, new, strict=True))
    ]


@contextmanager
def endless(generator: Any) -> Iterator[None]:
    """No token ends a row (SmolLM2's real tokenizer has one that would)."""
    kept, generator._eos = generator._eos, frozenset()
    try:
        yield
    finally:
        generator._eos = kept


def row_lengths(batch: int, prompt: int) -> list[int]:
    """Prompt lengths: one row is a token shorter, so that attention needs its mask, as it does with real prompts."""
    return [prompt] * (batch - 1) + [prompt - (batch > 1)]


def complete(generator: Any, lengths: list[int], new: int | list[int]) -> float:
    """Generate for prompts of these lengths up to these limits; raises if any row did otherwise. Returns seconds."""
    limits = [new] * len(lengths) if isinstance(new, int) else new
    requests = make_requests(generator.tokenizer, lengths, limits)
    with warnings.catch_warnings(), endless(generator):
        warnings.filterwarnings("error", "out of memory")  # else it goes on with half of the batch
        began = time.perf_counter()
        done = generator.generate(requests)
        seconds = time.perf_counter() - began
    if [(c.prompt_tokens, c.completion_tokens) for c in done] != list(zip(lengths, limits, strict=True)):
        raise RuntimeError(f"rows did not read and write as many tokens as asked for, the first one: {done[0]}")
    return seconds


class Stopwatch:
    """Times calls of functions, by replacing them; ``seconds[name]`` has one entry for each call.

    ``targets``: name -> (owner, attribute). With ``inside``, calls count only while the function of that name runs.
    ``after``: name -> what to call, within the time, when the function has returned.
    """

    def __init__(
        self,
        targets: dict[str, tuple[Any, str]],
        inside: str = "",
        after: dict[str, Callable[[], None]] | None = None,
    ) -> None:
        self.targets, self.inside, self.after = targets, inside, after or {}
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.running = not inside

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.running |= name == self.inside
            counts, began = self.running, time.perf_counter()
            result = function(*args, **kwargs)
            if name in self.after:
                self.after[name]()
            if counts:
                self.seconds[name].append(time.perf_counter() - began)
            self.running &= name != self.inside
            return result

        return timed

    def __enter__(self) -> Stopwatch:
        self.patches = ExitStack()
        for name, (owner, attribute) in self.targets.items():
            self.patches.enter_context(mock.patch.object(owner, attribute, self.wrap(name, getattr(owner, attribute))))
        return self

    def __exit__(self, *_: object) -> None:
        self.patches.close()


def step_bytes(model: Any, batch: int, columns: float, encoder_columns: float = 0) -> dict[str, float]:
    """The fewest bytes that one decode step must read, by kind.

    ``weights``: every parameter of the decoder and the output embedding, once; not the input embedding where it is
    another tensor (one row a token), nor the matrices that made the cross-attention's keys and values. ``kv``: keys
    and values of ``batch`` rows and ``columns`` tokens, the new one included, in all layers. ``cross``: those of the
    encoder's tokens.
    """
    config = model.config
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    read = {id(head): head}
    for name, weight in model.get_decoder().named_parameters():
        if weight is not table and ".EncDecAttention.k." not in name and ".EncDecAttention.v." not in name:
            read[id(weight)] = weight
    if config.is_encoder_decoder:
        token = 2 * config.num_decoder_layers * config.num_heads * config.d_kv
    else:
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    token *= head.element_size()
    return {
        "weights": sum(weight.nbytes for weight in read.values()),
        "kv": batch * columns * token,
        "cross": batch * encoder_columns * token,
    }


def check_fits(bench: Bench, model: Any, batch: int, prompt: int, new: int) -> None:
    """Raise MemoryError if weights, cache and logits cannot fit, rather than find out by trying."""
    encoder = prompt if model.config.is_encoder_decoder else 0
    cache = step_bytes(model, batch, prompt + new - encoder, encoder)
    weights, logits = sum(weight.nbytes for weight in model.parameters()), 4 * 4 * batch * model.config.vocab_size
    need, there = weights + cache["kv"] + cache["cross"] + logits, bench.memory()
    if there is not None and need > there:
        raise MemoryError(f"batch {batch} needs at least {need / 1e9:.1f} GB, the device has {there / 1e9:.1f} GB")


# Measurements


def machine(bench: Bench) -> Result:
    """Names and versions, and the rates that bound everything else."""
    import torch

    scale = bench.scale

    def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
        times = []
        for _ in range(repeats):
            bench.wait()
            began = time.perf_counter()
            work()
            bench.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times[3:])

    source = torch.randn(scale.copy_bytes // 8, device=bench.device).view(torch.uint8)  # half to read, half to write
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / median_seconds(lambda: target.copy_(source))
    size = (scale.matmul, scale.matmul)
    left, right = (torch.randn(size, device=bench.device, dtype=bench.dtype) for _ in range(2))
    product = 2 * scale.matmul**3 / median_seconds(lambda: left @ right)
    small = torch.zeros(1, device=bench.device)
    launch = median_seconds(lambda: [small.add_(1) for _ in range(1000)]) / 1000
    about, more = _common.machine(), []
    for package in ("triton", "flash-attn"):
        with suppress(importlib.metadata.PackageNotFoundError):
            more.append(f"{package} {importlib.metadata.version(package)}")
    if bench.cuda:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.split("\n")[0]
        more += [f"CUDA {torch.version.cuda}", f"driver {driver}", f"{(bench.memory() or 0) / 2**30:.0f} GiB"]
    rates = {"copy_bytes_per_second": copied, "matmul_flops": product, "launch_seconds": launch}
    about |= {"summary": ", ".join([_common.describe(about), *more]), "dtype": str(bench.dtype).removeprefix("torch.")}
    return {**about, **rates}


def decode(
    bench: Bench, model: str, batch: int, attention: str = "", compiled: str = "", equal: bool = False
) -> Result:
    """Decode and prefill speed of the product's loop; with another attention back end, with a compiled model, or
    with ``equal`` prompt lengths, which need no mask."""
    from ppo_codet5.helpers.models import local as decoding

    prompt, new = bench.scale.prompt, bench.scale.new
    generator = bench.generator(model, batch)
    net, usual = generator.model, generator.model.config._attn_implementation
    check_fits(bench, net, batch, prompt, new)
    lengths = [prompt] * batch if equal else row_lengths(batch, prompt)
    more: Result = {}
    try:
        if attention:
            net.set_attn_implementation(attention)
        if compiled:
            more = compile_model(bench, generator, lengths, compiled)
        else:
            complete(generator, lengths[-4:], 3)
            complete(generator, row_lengths(batch, 8), 4)  # short prompts, to see the shapes of a step
        bench.peak(reset=True)
        watch = Stopwatch({"step": (decoding._Batch, "step"), "prefill": (decoding._Batch, "admit")})
        with watch:
            seconds = complete(generator, lengths, new)
    finally:
        vars(net).pop("forward", None)
        if attention:
            net.set_attn_implementation(usual)
    steps, filling = watch.seconds["step"], sum(watch.seconds["prefill"])
    step, mean = statistics.mean(steps), statistics.mean(lengths)
    # Tokens in the decoder's cache at a step, the new one included: from one more than the prompt has.
    columns = (1 if generator.encoder_decoder else mean) + (len(steps) + 1) / 2
    size = step_bytes(net, batch, columns, mean if generator.encoder_decoder else 0)
    return {
        "batch": batch,
        "steps": len(steps),
        "step_seconds": step,
        "step_seconds_median": statistics.median(steps),
        "tokens_per_second": batch / step,
        "prefill_seconds": filling,
        "prefill_tokens_per_second": sum(lengths) / filling,
        "seconds": seconds,
        "bytes": size,
        "bytes_per_second": sum(size.values()) / step,
        "flops": 2 * batch * size["weights"] / net.get_output_embeddings().weight.element_size(),
        "peak_memory": bench.peak(),
        "weights": "real" if real_weights(model) else "random",
        "attention": attention or usual,
        **more,
    }


def compile_model(bench: Bench, generator: Any, lengths: list[int], mode: str) -> Result:
    """Compile the model's forward pass for the product's loop, and run until nothing is compiled any more.

    Every step has another length, hence dynamic shapes. On a CPU without code generation, to try the path. Beyond
    torch's limit of recompilations the model runs as it is: ``graphs`` tells.
    """
    import torch

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    how = {"mode": mode} if bench.cuda else {"backend": "eager"}
    began = time.perf_counter()
    generator.model.forward = torch.compile(generator.model.forward, dynamic=True, **how)
    for _ in range(3 if mode == "reduce-overhead" else 2):  # graphs are recorded the second time, replayed the third
        complete(generator, lengths, bench.scale.new)
    stats = torch._dynamo.utils.counters["stats"]
    return {"compile_seconds": time.perf_counter() - began, "graphs": stats["unique_graphs"]}


def prefill(bench: Bench, model: str, batch: int, width: int) -> Result:
    """Prefill speed with passes of at most ``width`` tokens."""
    from ppo_codet5.helpers.models import local as decoding

    generator, lengths = bench.generator(model, batch), row_lengths(batch, bench.scale.prompt)
    with mock.patch.object(decoding, "_PREFILL_TOKENS", width):
        for _ in range(2):
            with Stopwatch({"prefill": (decoding._Batch, "admit")}) as watch:
                complete(generator, lengths, 2)
    passes = watch.seconds["prefill"]
    result = {"batch": batch, "width": width, "passes": len(passes), "prefill_seconds": sum(passes)}
    return {**result, "prefill_tokens_per_second": sum(lengths) / sum(passes)}


def breakdown(bench: Bench, model: str, batch: int) -> Result:
    """Where a step's time goes: host and device, forward pass, sampling and what is done for each row.

    Three runs: as it is; waiting for the device after each forward pass, which parts its work from the sampling's;
    and a few steps under torch's profiler, for the time that kernels run.
    """
    from ppo_codet5.helpers.models import local as decoding

    generator, lengths = bench.generator(model, batch), row_lengths(batch, bench.scale.prompt)
    check_fits(bench, generator.model, batch, bench.scale.prompt, bench.scale.new)
    complete(generator, lengths, 3)
    targets = {
        "step": (decoding._Batch, "step"),
        "forward": (generator, "_forward"),
        "sample": (decoding, "sample"),
        "choose": (decoding, "_choose"),
        "accept": (generator, "_accept"),
    }
    with Stopwatch(targets, inside="step") as free:
        complete(generator, lengths, bench.scale.new)
    with Stopwatch(targets, inside="step", after={"forward": bench.wait}) as waiting:
        complete(generator, lengths, bench.scale.new)
    steps = len(free.seconds["step"])

    def each(watch: Stopwatch, name: str) -> float:
        return sum(watch.seconds[name]) / steps

    return {
        "batch": batch,
        "steps": steps,
        "step": each(free, "step"),
        "step_waiting": each(waiting, "step"),
        "forward_launch": each(free, "forward"),
        "forward": each(waiting, "forward"),
        "sample": each(waiting, "sample"),
        "choose": each(waiting, "choose"),
        "choose_calls": len(waiting.seconds["choose"]) / steps,
        "accept": each(waiting, "accept"),
        **profile_steps(bench, generator, lengths, min(bench.scale.new, 9)),
    }


def profile_steps(bench: Bench, generator: Any, lengths: list[int], new: int) -> Result:
    """Kernels per step, seconds per step in which one runs, and which take longest (on a CPU: operators)."""
    import torch
    from ppo_codet5.helpers.models import local as decoding
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    profile = torch.profiler.profile(activities=[ProfilerActivity.CUDA if bench.cuda else ProfilerActivity.CPU])
    step, count = decoding._Batch.step, 0

    def counted(self: Any) -> None:
        nonlocal count
        if not count:  # not before: the prefill is not a step
            bench.wait()
            profile.start()
        count += 1
        step(self)

    with mock.patch.object(decoding._Batch, "step", counted):
        complete(generator, lengths, new)
    bench.wait()
    profile.stop()
    device = DeviceType.CUDA if bench.cuda else DeviceType.CPU
    seconds: dict[str, float] = defaultdict(float)
    events = [event for event in profile.events() if event.device_type == device]
    for event in events:
        micro = event.time_range.elapsed_us() if bench.cuda else event.self_cpu_time_total
        seconds[event.name[:80]] += 1e-6 * micro / count
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:10]
    return {"kernels": len(events) / count, "kernel_seconds": sum(seconds.values()), "longest": dict(longest)}


def generate(bench: Bench, model: str, batch: int, cache: str, sampled: bool) -> Result:
    """transformers' own ``generate`` on the same rows, the peer: with cache "static" it compiles the forward pass and
    replays CUDA graphs. Timed from the first token to the last, as the steps of this loop are."""
    import torch

    generator = bench.generator(model, batch)
    net, tokenizer = generator.model, generator.tokenizer
    prompt, new = bench.scale.prompt, bench.scale.new
    check_fits(bench, net, batch, prompt, new)
    texts, side = prompts(tokenizer, row_lengths(batch, prompt)), "right" if generator.encoder_decoder else "left"
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False)
    inputs = {name: inputs[name].to(bench.device) for name in ("input_ids", "attention_mask")}
    times: list[float] = []

    def tick(input_ids: Any, scores: Any, **_: Any) -> Any:
        bench.wait()
        times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0} if sampled else {"do_sample": False}
    config = copy.deepcopy(net.generation_config)
    config.update(**sampling, max_new_tokens=new, eos_token_id=None, cache_implementation=cache)

    def run() -> float:
        times.clear()
        began = time.perf_counter()
        net.generate(**inputs, generation_config=config, stopping_criteria=[tick])
        if len(times) != new:
            raise RuntimeError(f"{len(times)} tokens instead of {new}")
        return time.perf_counter() - began

    if bench.compiled != (model, batch):
        torch._dynamo.reset()
        bench.compiled = model, batch
    warm = sum(run() for _ in range(3 if cache == "static" else 1))
    bench.peak(reset=True)
    seconds = run()
    step = (times[-1] - times[0]) / (new - 1)
    return {"batch": batch, "step_seconds": step, "tokens_per_second": batch / step, "seconds": seconds} | {
        "compile_seconds": warm,
        "peak_memory": bench.peak(),
    }


def ragged_lengths(bench: Bench, count: int) -> tuple[list[int], list[int]]:
    """Prompt lengths and limits that vary fourfold and eightfold, as programs of different problems do."""
    import numpy as np

    rng, scale = np.random.default_rng(0), bench.scale
    lengths = rng.integers(scale.prompt // 4, scale.prompt, size=count, endpoint=True)
    limits = rng.integers(max(1, scale.new // 8), scale.new, size=count, endpoint=True)
    return lengths.tolist(), limits.tolist()


def ragged(bench: Bench, model: str, rows: int, slots: int) -> Result:
    """The product's loop on rows of different lengths: rows that end make room for waiting ones."""
    lengths, limits = ragged_lengths(bench, rows)
    generator = bench.generator(model, slots)
    complete(generator, row_lengths(min(slots, rows), bench.scale.prompt), 3)
    bench.peak(reset=True)
    seconds = complete(generator, lengths, limits)
    return {"slots": slots, "seconds": seconds, "tokens_per_second": sum(limits) / seconds} | {
        "peak_memory": bench.peak()
    }


def generate_batch(bench: Bench, model: str, rows: int, slots: int) -> Result:
    """transformers' continuous batching on the same rows, sampling and start-up apart (greedy; it is warmed up)."""
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    generator = bench.generator(model, slots)
    net, tokenizer = generator.model, generator.tokenizer
    lengths, limits = ragged_lengths(bench, rows)
    texts = prompts(tokenizer, lengths)
    inputs = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    # Without the package it would ask the hub for kernels.
    flash = importlib.util.find_spec("flash_attn") is not None
    options = {"max_requests_per_batch": slots, "auto_switch_to_flash": flash}
    if not bench.cuda:
        options |= {"num_blocks": 64, "max_batch_tokens": 64}
    known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
    config = ContinuousBatchingConfig(**{name: value for name, value in options.items() if name in known})
    sampling = GenerationConfig(max_new_tokens=bench.scale.new, do_sample=False, eos_token_id=-1, pad_token_id=0)
    usual = net.config._attn_implementation
    with net.continuous_batching_context_manager(
        generation_config=sampling, continuous_batching_config=config
    ) as manager:

        def run(limits: list[int]) -> list[int]:
            names = [manager.add_request(ids, max_new_tokens=limit) for ids, limit in zip(inputs, limits, strict=True)]
            written: dict[str, int] = {}
            while len(written) < len(names) and manager.is_running():
                result = manager.get_result(timeout=1)
                if result is not None and result.is_finished():
                    if result.error:
                        raise RuntimeError(result.error)
                    written[result.request_id] = len(result.generated_tokens)
            return [written.get(name, 0) for name in names]

        run([2] * rows)
        bench.peak(reset=True)
        began = time.perf_counter()
        written = run(limits)
        seconds = time.perf_counter() - began
        attention = net.config._attn_implementation
    net.set_attn_implementation(usual)
    if written != limits:
        raise RuntimeError(f"{sum(written)} tokens in {len(written)} rows instead of {sum(limits)} in {len(limits)}")
    return {"slots": slots, "seconds": seconds, "tokens_per_second": sum(limits) / seconds} | {
        "peak_memory": bench.peak(),
        "attention": attention,
    }


class Utilisation:
    """Share of time in which the GPU runs a kernel, and its power, as the driver reports them ten times a second."""

    def __init__(self, bench: Bench) -> None:
        self.rows: list[tuple[float, float]] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True) if bench.cuda else None

    def watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            gpu = pynvml.nvmlDeviceGetHandleByIndex(0)

            def look() -> tuple[float, float]:
                return pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100, pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3
        except Exception:  # no such package, or a driver that does not answer it: ask the command, twice a second

            def look() -> tuple[float, float]:
                command = ["nvidia-smi", "--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader,nounits"]
                share, power = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0].split(",")
                return float(share) / 100, float(power)

        while not self.stop.wait(0.1):
            with suppress(Exception):
                self.rows.append(look())

    def __enter__(self) -> Utilisation:
        if self.thread:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if self.thread:
            self.thread.join()

    def result(self) -> Result:
        means = [statistics.mean(column) for column in zip(*self.rows, strict=True)] or [None, None]
        return {"gpu_share": means[0], "gpu_watts": means[1], "samples": len(self.rows)}


def loop(bench: Bench, code: str, rewriter: str, num_envs: int) -> Result:
    """The environment with random actions: mutation, rewriting, generation, sandbox and embedding, in batches."""
    from ppo_codet5.helpers.problems import load_problems
    from ppo_codet5.helpers.sandbox import Sandbox

    sandbox = Sandbox(preamble="import math, re")
    sandbox.start()
    try:
        import numpy as np

        from ppo_codet5 import core

        program, rewrite, reflection = bench.scale.env_tokens
        config = core.Parameters(
            num_envs=num_envs,
            max_steps=10,
            temperature=0.7,
            max_new_tokens=program,
            rewrite_tokens=rewrite,
            reflection_tokens=reflection,
        )
        bench.load(code, rewriter)
        writer = bench.generator(code, num_envs)
        editor = writer if rewriter == code else bench.generator(rewriter, num_envs)
        with tempfile.TemporaryDirectory() as folder:
            lexicon, embedder = make_lexicon(bench), make_embedder(bench, Path(folder))
            parts = core.Parts(writer, editor, lexicon, embedder, sandbox)
            world = core.PromptWorld(config, parts, load_problems("starter", "train"), strategy="random")
            envs = core.RLPromptVectorEnv(world, num_envs)
            rng = np.random.default_rng(0)
            envs.reset(seed=0)
            envs.step(rng.integers(3, size=num_envs))
            world.seconds.clear()
            bench.peak(reset=True)
            generators = [writer] if writer is editor else [writer, editor]
            before = [(g.stats.completion_tokens, g.stats.forward_seconds, g.stats.requests) for g in generators]
            began = time.perf_counter()
            with Utilisation(bench) as utilisation:
                for _ in range(bench.scale.env_steps):
                    envs.step(rng.integers(3, size=num_envs))
                seconds = time.perf_counter() - began
            after = [(g.stats.completion_tokens, g.stats.forward_seconds, g.stats.requests) for g in generators]
    finally:
        sandbox.close()
    tokens, forward, calls = (sum(a[i] - b[i] for a, b in zip(after, before, strict=True)) for i in range(3))
    steps = num_envs * bench.scale.env_steps
    shares = {name: part / seconds for name, part in world.seconds.items()}
    return {
        "num_envs": num_envs,
        "steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "model_calls": calls,
        "forward_share": forward / seconds,
        "shares": {**shares, "other": 1 - sum(shares.values())},
        "limits": bench.scale.env_tokens,
        "weights": {name: "real" if real_weights(name) else "random" for name in (code, rewriter)},
        "lexicon": type(lexicon).__name__,
        "embedder": embedder.name if embedder.name == "minilm" else "MiniLM's shape, random weights",
        "sandbox": sandbox.level,
        "peak_memory": bench.peak(),
        **utilisation.result(),
    }


class NoSynonyms:
    """Stands in for the lexicon where its data is missing: the real tokenizer, and no word may change."""

    def tokenize(self, text: str) -> list[tuple[str, bool]]:
        from ppo_codet5.helpers.language import tokenize

        return tokenize(text)

    def tag(self, words: list[str]) -> list[str]:
        return ["NN"] * len(words)

    def is_stop_word(self, word: str) -> bool:
        return False

    def synonyms(self, word: str, tag: str) -> tuple[str, ...]:
        return ()


def make_lexicon(bench: Bench) -> Any:
    """The real lexicon if its data and packages are there; nothing is fetched."""
    from ppo_codet5.helpers.assets import cache_root

    there = all(
        (cache_root() / name).exists() for name in ("gensim/glove-6b-50d", "nltk/corpora/wordnet", "nltk/taggers")
    )
    if there and bench.cuda:
        with suppress(ImportError):
            from ppo_codet5.helpers.language import Lexicon

            lexicon = Lexicon()
            lexicon.synonyms("list", lexicon.tag(["list"])[0])
            lexicon.is_stop_word("list")
            return lexicon
    return NoSynonyms()


def make_embedder(bench: Bench, folder: Path) -> Any:
    """The real sentence embedder if it is there, else one of its shape with random weights, in ``folder``."""
    from ppo_codet5.helpers.assets import cache_root, no_progress_bars
    from ppo_codet5.helpers.language import Embedder

    if bench.cuda and (cache_root() / "hf" / "all-minilm-l6-v2").exists():
        return Embedder()
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(dict.fromkeys(("[PAD]", "[UNK]", *problem_words())))}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.model_max_length = 256
    # all-MiniLM-L6-v2, config.json.
    sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    if not bench.cuda:
        sizes = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    with no_progress_bars():
        BertModel(BertConfig(vocab_size=30522, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Embedder(str(folder))  # a plain BERT: the library adds the mean over tokens


# The report


def headline(result: Result | None) -> str:
    """The number of a result that a reader of the terminal wants."""
    units = {
        "steps_per_second": "env steps/s",
        "tokens_per_second": "tokens/s",
        "kernels": "kernels a step",
        "prefill_tokens_per_second": "prefill tokens/s",
        "copy_bytes_per_second": "bytes/s copied",
    }
    return next((f"{result[key]:,.0f} {unit}" for key, unit in units.items() if result and key in result), "")


Column = Callable[[list[str], Result], object]


def table(results: dict[str, Result], columns: dict[str, Column]) -> str:
    """A Markdown table, a line for each result; a column computes its cell from the words of the name and the result.
    Floats have three significant digits."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        return "" if value is None else str(value)

    lines = [[cell(column(name.split(), result)) for column in columns.values()] for name, result in results.items()]
    numbers = [all(line[i][:1] in "-0123456789" for line in lines) for i in range(len(columns))]
    marks = ["---:" if number else "---" for number in numbers]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(columns), marks, *lines])


def scaled(key: str, factor: float) -> Column:
    """``key`` of the result times ``factor``; nothing if it has none."""
    return lambda _, result: None if result.get(key) is None else factor * result[key]


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def bound(result: Result, rates: Result) -> float:
    """Seconds that a decode step takes at least: its bytes at the copy rate or its operations at the matrix rate."""
    moved = sum(result["bytes"].values()) / rates["copy_bytes_per_second"]
    return max(moved, result["flops"] / rates["matmul_flops"])


MODEL: dict[str, Column] = {"model": lambda name, _: name[1], "rows": lambda _, r: r["batch"]}
TOKENS: dict[str, Column] = {"tokens/s": scaled("tokens_per_second", 1)}
STEP: dict[str, Column] = {"ms per step": scaled("step_seconds", 1e3)}
PEAK: dict[str, Column] = {"peak GB": scaled("peak_memory", 1e-9)}

INTRODUCTION = f"""# Speed on a GPU

Written by `python benchmarks/gpu.py --report` from `measurements.jsonl`, which `python benchmarks/gpu.py` measures.
Models have their published shapes and random weights, except where it says real; every row runs to its limit.
A prompt has {FULL.prompt} tokens (one row has a token less) and {FULL.new} are generated; temperature 0.7, top-p 0.9.

The bytes of a decode step are the fewest that it must read:

    bytes = weights + rows x columns x 2 x layers x key-value heads x head size x bytes per value
                    + rows x encoder tokens x (the same, cross-attention; encoder-decoder models only)

`weights`: every parameter of the decoder and the output embedding once; not a separate input embedding, nor the
matrices that made the cross-attention's keys and values. `columns`: tokens in the cache, the new one included, mean
over rows and steps. Achieved bytes/s = bytes / time per step, which runs from the start of a step to its tokens on the
host. "Of the copy rate" compares it with a device-to-device copy (bytes read and written) on the same machine. "Bound"
is the larger of bytes / copy rate and 2 x weights x rows / matrix rate; "times the bound" is the step against it."""

DECODE = "Left: dashed, what the bound allows. Right: 100 % is the rate of a copy. One run per point."
BREAKDOWN = (
    'Milliseconds per step. "Launches" is the host\'s time in the forward pass as it runs; the columns from "forward" to '
    '"rest" are of a run that waits for the device after the forward pass: until it is done, sampling (top-k on the '
    'device, the copy to the host and the choice there), bookkeeping of the rows, and the rest. "Kernels running" is the '
    "time in which a kernel runs, from a profile of a few steps: what is missing to the step, the device waits for the "
    "host."
)
OTHERS = (
    '"Against this loop" is the ratio of tokens/s to that of the same rows in the table of decode speed. `generate` with '
    "a static cache compiles the forward pass and replays CUDA graphs; greedy, it has no sampling to do. `equal`: all "
    "prompts of one length, so that attention needs no mask. Graphs: what compilation made of the forward pass."
)
RAGGED = (
    f"{FULL.ragged[0]} rows with prompts of {FULL.prompt // 4} to {FULL.prompt} tokens and {FULL.new // 8} to {FULL.new} "
    "new ones, prefill included. `own` is this loop, `generate_batch` transformers' continuous batching: greedy, after "
    "its warm-up."
)
LOOP = (
    "Random actions, starter problems. With random weights every text runs to its limit and every rewrite is asked for "
    'twice: the most that a step can cost. "In the model" counts the host\'s time in forward passes.'
)


def report(folder: Path) -> None:
    """Write README.md and the figures from ``measurements.jsonl``; a section for each device."""
    rows = read(folder / "measurements.jsonl")
    if not rows:
        sys.exit(f"error: no measurements in {folder}; run without --report on the machine with the GPU first")
    devices = dict.fromkeys(row["device"] for row in rows)
    sections = [section(folder, device, [row for row in rows if row["device"] == device]) for device in devices]
    (folder / "README.md").write_text("\n\n".join([INTRODUCTION, *sections]) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'README.md'}")


def section(folder: Path, device: str, rows: list[Result]) -> str:
    """The tables of one device."""
    kinds: dict[str, dict[str, Result]] = defaultdict(dict)
    for row in rows:
        if row["error"] is None:
            kinds[row["name"].split()[0]][row["name"]] = row["result"]
    parts = [f"## {device}"]
    rates, decoded = kinds["machine"].get("machine"), kinds["decode"]
    if rates:
        parts.append(
            f"{rates['summary']}. Copy {rates['copy_bytes_per_second'] / 1e12:.2f} TB/s, {rates['dtype']} matrix product "
            f"{rates['matmul_flops'] / 1e12:.3g} TFLOP/s, launch of a small kernel {1e6 * rates['launch_seconds']:.1f} us."
        )
    if decoded and rates:
        limits: dict[str, Column] = {
            "bound ms": lambda _, r: 1e3 * bound(r, rates),
            "times the bound": lambda _, r: r["step_seconds"] / bound(r, rates),
            "GB per step": lambda _, r: sum(r["bytes"].values()) / 1e9,
            "achieved GB/s": scaled("bytes_per_second", 1e-9),
            "of the copy rate": lambda _, r: percent(r["bytes_per_second"] / rates["copy_bytes_per_second"]),
            "prefill tokens/s": scaled("prefill_tokens_per_second", 1),
        }
        weights: dict[str, Column] = {"weights": lambda _, r: r["weights"]}
        figure = f"decode-{re.sub('[^a-z0-9]+', '-', device.lower())}.png"
        draw_decode(folder / figure, decoded, rates)
        parts += ["### Decode", table(decoded, {**MODEL, **TOKENS, **STEP, **limits, **PEAK, **weights})]
        parts += [f"![Decode speed against rows]({figure})", DECODE]
    if split := kinds["breakdown"]:
        keys = {"step": "step", "launches": "forward_launch", "forward": "forward", "sampling": "sample"}
        keys |= {"of it choosing": "choose", "bookkeeping": "accept", "kernels running": "kernel_seconds"}
        for result in split.values():
            parted = result["forward"] + result["sample"] + result["accept"]
            result["rest"] = result["step_waiting"] - parted
        times: dict[str, Column] = {name: scaled(key, 1e3) for name, key in keys.items()}
        counts = {"kernels": scaled("kernels", 1), "choices": scaled("choose_calls", 1)}
        parts += ["### Where a step's time goes", BREAKDOWN]
        parts.append(table(split, {**MODEL, **times, "rest": scaled("rest", 1e3), **counts}))
        for name, result in split.items():
            longest = [f"{1e3 * seconds:.2f} ms `{kernel}`" for kernel, seconds in list(result["longest"].items())[:5]]
            parts.append(f"{' '.join(name.split()[1:])}, longest kernels of a step: {', '.join(longest)}.")
    if others := {**kinds["attention"], **kinds["compile"], **kinds["generate"]}:
        for name, result in others.items():
            same = decoded.get(f"decode {name.split()[1]} {name.split()[-1]}")
            result["ratio"] = result["tokens_per_second"] / same["tokens_per_second"] if same else None
        what: dict[str, Column] = {"what": lambda name, _: " ".join([name[0], *name[2:-1]])}
        more: dict[str, Column] = {"against this loop": scaled("ratio", 1), "warm-up s": scaled("compile_seconds", 1)}
        ordered = dict(sorted(others.items(), key=lambda item: (item[0].split()[1], item[1]["batch"])))
        graphs: dict[str, Column] = {"graphs": lambda _, r: r.get("graphs")}
        parts += ["### Attention back ends, compilation, and transformers' `generate`", OTHERS]
        parts.append(table(ordered, {**MODEL, **what, **TOKENS, **STEP, **more, **graphs, **PEAK}))
    if filled := kinds["prefill"]:
        passes: dict[str, Column] = {"tokens in a pass": lambda _, r: r["width"], "passes": lambda _, r: r["passes"]}
        speed = {"prefill tokens/s": scaled("prefill_tokens_per_second", 1)}
        parts += ["### Prefill", table(filled, {**MODEL, **passes, **speed})]
    if mixed := kinds["ragged"]:
        which: dict[str, Column] = {"model": lambda name, _: name[1], "loop": lambda name, _: " ".join(name[2:-1])}
        run: dict[str, Column] = {"slots": lambda _, r: r["slots"], **TOKENS, "seconds": scaled("seconds", 1)}
        parts += ["### Rows of different lengths", RAGGED, table(mixed, {**which, **run, **PEAK})]
    if whole := kinds["loop"]:
        pair: dict[str, Column] = {
            "code model + rewriter": lambda name, _: " ".join(name[1:-1]),
            "environments": lambda _, r: r["num_envs"],
            "env steps/s": scaled("steps_per_second", 1),
            **TOKENS,
            "in the model": lambda _, r: percent(r["forward_share"]),
            "GPU busy": lambda _, r: percent(r["gpu_share"]),
            "watts": scaled("gpu_watts", 1),
        }
        for kind in ("generation", "rewriting", "mutation", "sandbox", "embedding", "other"):
            pair[kind] = lambda _, r, kind=kind: percent(r["shares"].get(kind, 0.0))  # type: ignore[misc]
        first = next(iter(whole.values()))
        program, rewrite, reflection = first["limits"]
        note = f"{LOOP} Limits: {program} tokens a program, {rewrite} a rewrite, {reflection} a reflection. Lexicon: "
        note += f"{first['lexicon']}. Embedder: {first['embedder']}. Sandbox: {first['sandbox']}."
        parts += ["### The environment loop", note, table(whole, {**pair, **PEAK})]
    if failed := {row["name"]: row for row in rows if row["error"] is not None}:
        why: dict[str, Column] = {"what": lambda name, _: " ".join(name), "why": lambda _, row: row["error"]}
        parts += ["### Not measured", table(failed, why)]
    return "\n\n".join(parts)


def draw_decode(path: Path, decoded: dict[str, Result], rates: Result) -> None:
    """Tokens/s and the share of the copy rate against the number of rows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from ppo_codet5.helpers.results.figures import COLOURS

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    models = dict.fromkeys(name.split()[1] for name in decoded)
    for model, colour, marker in zip(models, COLOURS, "osD^vPX*", strict=False):
        results = sorted((r for n, r in decoded.items() if n.split()[1] == model), key=lambda r: r["batch"])
        rows = [r["batch"] for r in results]
        left.plot(rows, [r["tokens_per_second"] for r in results], marker=marker, color=colour, label=model)
        left.plot(rows, [r["batch"] / bound(r, rates) for r in results], "--", color=colour, alpha=0.6)
        share = [100 * r["bytes_per_second"] / rates["copy_bytes_per_second"] for r in results]
        right.plot(rows, share, marker=marker, color=colour)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("rows decoded at once")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    left.set(yscale="log", ylabel="tokens per second", title="Decode speed, 1 run")
    right.set(ylabel="achieved bytes/s (% of the copy rate)", ylim=(0, None), title="Use of the bandwidth, 1 run")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("results/gpu"), help="folder of measurements and report")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="measurements whose name contains one of the words")
    parser.add_argument("--seconds", type=float, default=540.0, help="stop before this many seconds")
    parser.add_argument("--retry", action="store_true", help="measure again what failed")
    parser.add_argument("--report", action="store_true", help="write README.md and figures, measure nothing")
    parser.add_argument("--list", action="store_true", help="print the names and the seconds they should take")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try every path")
    args = parser.parse_args(arguments)
    if args.report:
        report(args.output)
    elif args.list:
        for measurement in plan(TINY if args.tiny else FULL):
            print(f"{measurement.name:46s} {measurement.seconds:5.0f} s")
    else:
        return measure(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
