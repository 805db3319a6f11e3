"""benchmarks/gpu.py on the CPU: every path with tiny models, resuming, what goes wrong, the report, the byte count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_codet5.helpers.models import local as decoding
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

BENCHMARKS = str(Path(__file__).resolve().parent.parent / "benchmarks")
sys.path.insert(0, BENCHMARKS)
import gpu


def run(output: Path, *arguments: str, prelude: str = "") -> str:
    """What the script prints; ``prelude`` is run before it, with the script's module as ``gpu``."""
    program = f"import sys; sys.path.insert(0, {BENCHMARKS!r}); import gpu\n{prelude}\nsys.exit(gpu.main())"
    command = [sys.executable, "-c", program, "--output", str(output), "--device", "cpu", "--tiny", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(output: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in gpu.read(output / "measurements.jsonl")}


# The whole


def test_measures_once_and_reports(tmp_path: Path) -> None:
    wanted = ("--only", "machine", "tiny-llama b", "loop tiny", "prefill tiny-t5", "static sampled")
    said = run(tmp_path, *wanted, "--seconds", "400")
    measured = rows(tmp_path)
    assert [row["error"] for row in measured.values()] == [None] * len(measured), said
    assert {name.split()[0] for name in measured} == {"machine", "decode", "breakdown", "prefill", "loop", "generate"}
    decoded = measured["decode tiny-llama b4"]["result"]
    assert decoded["steps"] == gpu.TINY.new - 1 and decoded["attention"] == "sdpa" and decoded["weights"] == "random"
    assert decoded["tokens_per_second"] == pytest.approx(4 / decoded["step_seconds"])
    split = measured["breakdown tiny-llama b2"]["result"]
    assert split["choose"] < split["sample"] < split["step_waiting"] > split["forward"] + split["sample"]
    assert split["kernels"] > 50 and split["kernel_seconds"] > 0
    passes = [measured[f"prefill tiny-t5 w{width}"]["result"]["passes"] for width in gpu.TINY.widths]
    assert passes == [2, 1]
    (whole,) = (row["result"] for name, row in measured.items() if name.startswith("loop"))
    assert whole["steps"] == gpu.TINY.env_steps * gpu.TINY.num_envs[0] and sum(whole["shares"].values()) == (
        pytest.approx(1)
    )
    assert whole["tokens"] >= whole["steps"] * gpu.TINY.env_tokens[0]  # no program ended early

    before = (tmp_path / "measurements.jsonl").read_bytes()
    said = run(tmp_path, *wanted)
    assert (tmp_path / "measurements.jsonl").read_bytes() == before
    assert f"{len(measured)} of {len(measured)} measured, 0 failed" in said

    run(tmp_path, "--report")
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| tiny-llama | 4 |" in readme and "static sampled" in readme and "tiny-t5 + tiny-llama" in readme
    assert (tmp_path / "decode-cpu.png").stat().st_size > 10_000 and "(decode-cpu.png)" in readme


@pytest.mark.slow
def test_every_path(tmp_path: Path) -> None:
    run(tmp_path, "--seconds", "400")
    measured = rows(tmp_path)
    assert list(measured) == [measurement.name for measurement in gpu.plan(gpu.TINY)]
    failed = {name: row["error"] for name, row in measured.items() if row["error"]}
    flash = "attention tiny-llama flash_attention_2 b2"
    assert set(failed) <= {flash} and "FlashAttention2" in failed.get(flash, "FlashAttention2")
    run(tmp_path, "--report")
    assert ("### Not measured" in (tmp_path / "README.md").read_text(encoding="utf-8")) == bool(failed)


# What goes wrong

PLAN = """
import os, time, types
gpu.Bench = lambda *_: types.SimpleNamespace(tidy=lambda: None)
good = lambda bench: {"tokens_per_second": 7.0}
def boom(bench): raise ValueError("two\\nlines")
def crash(bench): os._exit(3)
def hang(bench): time.sleep(600)
def cuda(bench): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def plan(works, seconds=0.0):
    gpu.plan = lambda scale: [gpu.Measurement(n, "group", w, {}, seconds) for n, w in works.items()]
"""


def test_failures_cost_one_measurement_each_and_can_be_retried(tmp_path: Path) -> None:
    works = "plan({'a': good, 'b': boom, 'c': crash, 'd': good, 'e': hang, 'f': cuda, 'g': good}); gpu.PATIENCE = 1.0"
    said = run(tmp_path, prelude=PLAN + works)
    errors = {name: row["error"] for name, row in rows(tmp_path).items()}
    assert errors == {
        "a": None,
        "b": "ValueError: two lines",
        "c": "its process ended with exit code 3",
        "d": None,
        "e": "it did not end within its limit of 1 s",
        "f": "RuntimeError: CUDA error: an illegal memory access was encountered",
        "g": None,
    }
    assert "7 of 7 measured, 4 failed" in said and "FAILED ValueError: two lines" in said

    all_good = "plan(dict.fromkeys('abcdefg', good))"
    assert "4 failed" in run(tmp_path, prelude=PLAN + all_good)  # a failure is a result: it is not tried again
    lines = len((tmp_path / "measurements.jsonl").read_text().splitlines())
    assert "7 of 7 measured, 0 failed" in run(tmp_path, "--retry", prelude=PLAN + all_good)
    assert len((tmp_path / "measurements.jsonl").read_text().splitlines()) == lines + 4
    assert rows(tmp_path)["c"]["result"] == {"tokens_per_second": 7.0}


def test_stops_in_time_and_goes_on(tmp_path: Path) -> None:
    said = run(tmp_path, "--seconds", "3", prelude=PLAN + "plan({'a': good, 'b': hang, 'c': good})")
    assert "1 of 3 measured, 0 failed" in said and "the same command goes on" in said
    assert list(rows(tmp_path)) == ["a"]  # what was under way is not recorded
    run(tmp_path, "--seconds", "3", prelude=PLAN + "plan({'a': boom, 'b': good, 'c': good}, seconds=60)")
    assert list(rows(tmp_path)) == ["a"]  # not started: it would take longer than there is time
    run(tmp_path, prelude=PLAN + "plan({'a': boom, 'b': good, 'c': good})")
    assert {name: row["error"] for name, row in rows(tmp_path).items()} == dict.fromkeys("abc")


def test_half_a_line_and_other_devices_do_not_count(tmp_path: Path) -> None:
    other = {"name": "a", "device": "another GPU", "seconds": 1.0, "error": None, "result": {"tokens_per_second": 1.0}}
    (tmp_path / "measurements.jsonl").write_text(json.dumps(other) + '\n{"name": "a", "dev')
    assert "1 of 1 measured" in run(tmp_path, prelude=PLAN + "plan({'a': good})")
    found = gpu.read(tmp_path / "measurements.jsonl")
    assert [(row["device"], row["result"]["tokens_per_second"]) for row in found] == [("another GPU", 1), ("cpu", 7)]


def test_a_model_that_cannot_fit_says_so_before_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = gpu.Bench("cpu", gpu.TINY)
    monkeypatch.setattr(bench, "memory", lambda: 400_000)
    with pytest.raises(MemoryError, match=r"batch 4 needs at least 0\.0 GB, the device has 0\.0 GB"):
        gpu.decode(bench, "tiny-llama", 4)
    monkeypatch.setattr(bench, "memory", lambda: 2_000_000)
    assert gpu.decode(bench, "tiny-llama", 4)["batch"] == 4


def test_halved_batches_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = gpu.Bench("cpu", gpu.TINY).generator("tiny-llama", 4)
    step = decoding._Batch.step

    def short_of_memory(batch: decoding._Batch) -> None:
        if batch.window.slots > 2:
            raise torch.OutOfMemoryError("no more")
        step(batch)

    monkeypatch.setattr(decoding._Batch, "step", short_of_memory)
    with pytest.raises(RuntimeWarning, match="out of memory"):
        gpu.complete(generator, [8] * 4, 4)
    assert gpu.complete(generator, [8] * 2, 4) > 0


# The bytes of a step


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Bytes of what each decode step touches: parameters of the layers that run, and the caches as attention gets them.

    A lookup in an embedding reads a row for each token, so its table counts only where it is the output layer too.
    """
    seen: dict[str, list[int]] = {"weights": [], "kv": [], "cross": []}
    read: dict[int, int] = {}
    handles = []
    table = model.get_input_embeddings()

    def used(module: nn.Module, *_: object) -> None:
        if module is not table:
            read.update({id(weight): weight.nbytes for weight in module.parameters(recurse=False)})

    for module in model.modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(used))
    update, step, kv = decoding._SlotLayer.update, decoding._Batch.step, [0]

    def counted_update(layer: Any, *args: Any, **kwargs: Any) -> Any:
        given = update(layer, *args, **kwargs)
        kv[0] += sum(tensor.nbytes for tensor in given)
        return given

    def counted_step(batch: Any) -> None:
        read.clear()
        kv[0] = 0
        step(batch)
        seen["weights"].append(sum(read.values()))
        seen["kv"].append(kv[0])
        seen["cross"].append(sum(layer.keys.nbytes + layer.values.nbytes for layer in batch.cross_layers))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding._SlotLayer, "update", counted_update)
        patch.setattr(decoding._Batch, "step", counted_step)
        yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["tiny-t5", "tiny-llama"])
def test_bytes_are_what_a_step_touches(name: str, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = gpu.SHAPES[name]
    deeper = {"num_decoder_layers": 3} if shape.kind == "t5" else {}  # than the encoder
    changed = gpu.Shape(shape.kind, {**shape.config, **deeper, "tie_word_embeddings": tied})
    monkeypatch.setitem(gpu.SHAPES, name, changed)
    bench = gpu.Bench("cpu", gpu.TINY)
    bench.load(name)
    with watched(bench.loaded[name][0]) as seen:
        result = gpu.decode(bench, name, 3, equal=True)
    steps = result["steps"]
    for kind, touched in seen.items():
        last = touched[-steps:]
        assert result["bytes"][kind] == sum(last) / steps, kind
    assert (result["bytes"]["cross"] > 0) == (name == "tiny-t5")
    total = sum(result["bytes"].values())
    assert result["bytes_per_second"] == pytest.approx(total / result["step_seconds"])


def test_a_shorter_row_counts_for_what_it_has() -> None:
    bench = gpu.Bench("cpu", gpu.TINY)
    uneven, even = (gpu.decode(bench, "tiny-llama", 4, equal=equal) for equal in (False, True))
    column = 2 * 2 * 2 * 12 * 4  # keys and values, layers, heads, head size, float32
    assert even["bytes"]["kv"] - uneven["bytes"]["kv"] == pytest.approx(column)


# Models and texts


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # published: the sizes of the checkpoints, 2 bytes a parameter; T5 large with a vocabulary of 32100
        ("codet5p-770m", 737_639_424),
        ("llama-3.2-3b", 3_212_749_824),
        ("codellama-7b", 6_738_546_688),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_full_size_models_have_their_published_numbers_of_parameters(name: str, parameters: int) -> None:
    shape = gpu.SHAPES[name]
    with torch.device("meta"):
        if shape.kind == "t5":
            model: nn.Module = T5ForConditionalGeneration(T5Config(**shape.config))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape.config))
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_smollm2_has_the_shape_of_its_file(smollm2_dir: Path) -> None:
    published = json.loads((smollm2_dir / "config.json").read_text())
    ours = LlamaConfig(**gpu.SHAPES["smollm2-135m"].config).to_dict()
    same = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"]
    same += ["num_key_value_heads", "tie_word_embeddings", "max_position_embeddings", "rope_parameters", "hidden_act"]
    assert {key: ours[key] for key in same} == {key: published[key] for key in same}


def test_prompts_have_exact_lengths_and_no_shared_start() -> None:
    tokenizer = gpu.make_tokenizer(5000)
    assert len(tokenizer) == 5000 and tokenizer.eos_token_id is None and tokenizer.is_fast
    lengths = [3, 40, 40, 256] + [256] * 1020
    ids = [tokenizer(text).input_ids for text in gpu.prompts(tokenizer, lengths)]
    assert [len(one) for one in ids] == lengths
    assert len({tuple(one) for one in ids}) == len(ids) and len({one[0] for one in ids}) > 50
    code = "def add(a, b):\n    return a + b  # café"
    assert tokenizer.decode(tokenizer(code).input_ids) == code
    assert all(tokenizer.decode([i]).strip() for i in range(4500, 5000))  # the words that fill it up


def test_random_models_are_as_peaked_as_trained_ones() -> None:
    bench = gpu.Bench("cpu", gpu.TINY)
    for name in gpu.TINY.models:
        generator = bench.generator(name, 2)
        texts = [done.text for done in generator.generate(gpu.make_requests(generator.tokenizer, [9, 9], [6, 6]))]
        assert min(map(len, texts)) >= 6, "random weights should write ordinary words"
        calls = gpu.breakdown(bench, name, 2)["choose_calls"]
        assert calls == 1, f"{name}: the nucleus should be within the first {decoding._TOP_K[0]} candidates"
        assert not generator._eos


# The report


def test_report_compares_with_the_bound(tmp_path: Path) -> None:
    rates = {"copy_bytes_per_second": 2e12, "matmul_flops": 5e14, "launch_seconds": 4e-6, "dtype": "bfloat16"}
    rates |= {"summary": "A processor, torch 9.9, 80 GiB"}
    speed = {"batch": 8, "tokens_per_second": 400.0, "step_seconds": 0.02, "flops": 1e12, "peak_memory": 7e9}
    speed |= {"bytes": {"weights": 6e9, "kv": 2e9, "cross": 0}, "bytes_per_second": 4e11, "weights": "random"}
    speed |= {"prefill_tokens_per_second": 5000.0}
    busy = {**speed, "batch": 4096, "flops": 2e13}  # arithmetic is its bound: 40 ms
    results = {"machine": rates, "decode big b8": speed, "decode big b4096": busy}
    results["generate big static greedy b8"] = {**speed, "tokens_per_second": 1000.0, "compile_seconds": 30.0}
    lines = [{"name": n, "device": "Test 9000", "seconds": 1.0, "error": None, "result": r} for n, r in results.items()]
    lines.append({**lines[0], "name": "decode big b8192", "result": None, "error": "MemoryError: too much"})
    (tmp_path / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gpu.main(["--report", "--output", str(tmp_path)]) == 0
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in readme.splitlines() if line.startswith("| ")]
    (head,) = (line for line in cells if "times the bound" in line)
    table = {line[1]: dict(zip(head, line, strict=True)) for line in cells if len(line) == len(head)}
    assert table["8"] | {"bound ms": "4", "times the bound": "5", "of the copy rate": "20.0 %"} == table["8"]
    assert table["4096"]["bound ms"] == "40" and table["4096"]["times the bound"] == "0.5"
    assert "| big | 8 | generate static greedy | 1,000 | 20 | 2.5 | 30 |" in readme
    assert "| decode big b8192 | MemoryError: too much |" in readme
    assert "A processor, torch 9.9, 80 GiB. Copy 2.00 TB/s" in readme and (tmp_path / "decode-test-9000.png").exists()


def test_report_without_measurements_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no measurements in .*run without --report"):
        gpu.main(["--report", "--output", str(tmp_path)])
