"""benchmarks/gpu.py on the CPU with tiny models: its measurements, its resuming, what goes wrong, the bytes of a step."""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import _common
import _engines
import _shapes
import cluster
import gpu
import pytest
import torch
from transformers import LlamaConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("models"))


def tiny_cases(models: str, output: Path) -> dict[str, gpu.Case]:
    return {case.name: case for case in gpu.plan(gpu.TINY, "cpu", models, output)}


# What is measured


@pytest.mark.parametrize("name", ["speed own tiny-llama", "speed own tiny-t5", "speed generate tiny-t5"])
def test_speed(name: str, models: str, tmp_path: Path) -> None:
    case = tiny_cases(models, tmp_path)[name]
    result = gpu.work(case.work, case.options)["result"]
    assert [(point["rows"], point["in_flight"]) for point in result["points"]] == [(1, 1), (4, 4)]
    for point in result["points"]:
        assert point["tokens_per_second"] * point["step_seconds"] == pytest.approx(point["rows"])
        assert point["peak_bytes"] > 50e6 and point["prefill_tokens_per_second"] > 0


def test_memory_that_runs_out_halves_the_rows_of_this_decoder(
    models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = _engines.load(_shapes.saved("tiny-llama", models), "float32", "cpu", 1)
    forward = generator.model.forward

    @functools.wraps(forward)  # what it takes is looked at
    def short_of_memory(*args: Any, **inputs: Any) -> Any:
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no more")
        return forward(*args, **inputs)

    monkeypatch.setattr(generator.model, "forward", short_of_memory)
    options = tiny_cases(models, tmp_path)["speed own tiny-llama"].options
    with pytest.warns(RuntimeWarning, match="out of memory"):
        last = gpu.speed(**options)["points"][-1]
    assert (last["rows"], last["in_flight"]) == (4, 2)
    assert last["tokens_per_second"] * last["step_seconds"] == pytest.approx(2)


def test_a_number_of_rows_that_fails_is_the_last_one(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(folder: str, dtype: str, device: str) -> Any:
        def run(texts: list[str], new: int) -> tuple[list[int], int]:
            return [new if len(texts) < 2 else 0] * len(texts), len(texts)

        return run

    monkeypatch.setitem(_engines.ENGINES, "own", engine)
    sizes = {"rows": (1, 2, 3), "prompt": 4, "new": 3, "device": "cpu", "models": models}
    first, second = gpu.speed(engine="own", model="tiny-llama", **sizes)["points"]
    assert "error" not in first
    assert second == {"rows": 2, "error": "RuntimeError: 0 tokens in 2 rows, not 3 in each of 2"}


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-t5"])
def test_exact_in_float32(model: str, models: str, tmp_path: Path) -> None:
    case = tiny_cases(models, tmp_path)[f"exact {model} float32"]
    assert gpu.exact(**case.options) == {"texts": 4, "same": 4, "tokens": 4 * 8}


@pytest.mark.slow
def test_every_case_in_its_own_process(models: str, tmp_path: Path) -> None:
    command = [sys.executable, gpu.__file__, "--device", "cpu", "--tiny", "--output", str(tmp_path), "--models", models]
    said = subprocess.run([*command, "--seconds", "1200"], capture_output=True, text=True, check=True).stdout
    records = _common.read(tmp_path / "cpu.jsonl")
    assert set(records) == set(tiny_cases(models, tmp_path)), said
    assert not {name: record["error"] for name, record in records.items() if "error" in record}
    trained = records["train codellama_a100 random"]["result"]
    assert sum(trained["shares"].values()) <= 1.01 and trained["steps"] == 4 * 2 + 2 * 2 * 2  # none is solved
    shown = subprocess.run([*command, "--table"], capture_output=True, text=True, check=True).stdout
    assert "| generate_batch | tiny-llama | 4 | 4 |" in shown and "4 of 4 texts are the same" in shown
    assert "train codellama_a100 random: " in shown and "failed" not in shown


def test_training_goes_on_from_its_last_update(models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ppo_codet5 import core

    case, update, calls = tiny_cases(models, tmp_path)["train codellama_a100 random"], core.PPOAgent.update, Counter()

    def killed(*args: Any) -> Any:
        calls["update"] += 1
        if calls["update"] == 2:
            raise RuntimeError("killed")
        return update(*args)

    monkeypatch.setattr(core.PPOAgent, "update", killed)
    assert gpu.work(case.work, case.options) == {"error": "RuntimeError: killed"}
    done = gpu.work(case.work, case.options)["result"]
    assert calls["update"] == 3  # the first update was not done again
    assert done["steps"] == 4 * 2 + 2 * 2 * 2  # 4 episodes, and 2 problems by argmax and sampled; none is solved
    assert 0 < sum(done["shares"].values()) <= 1.01 and done["parts"]["tagger"] == "none"


# Running and resuming


def cases(*names: str, seconds: float = 0.0, resumes: bool = False) -> list[gpu.Case]:
    return [gpu.Case(name, "work", {}, seconds, resumes) for name in names]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What children do, one after the other: a record, or the exception that ``in_child`` raises; and their limits."""
    script: dict[str, Any] = {"does": [], "limits": []}

    def in_child(file: str, job: dict[str, Any], seconds: float) -> Any:
        script["limits"].append(seconds)
        done = script["does"].pop(0)
        if isinstance(done, Exception):
            raise done
        return done

    monkeypatch.setattr(_common, "in_child", in_child)
    return script


def test_what_is_done_is_skipped_and_what_failed_is_retried_on_request(
    tmp_path: Path, child: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "cpu.jsonl"
    child["does"] = [{"result": 1}, {"error": "exit status -9: no message"}, {"result": 3}]
    assert gpu.measure(cases("a", "b", "c"), path, 60) == []
    assert {name: record.get("result") for name, record in _common.read(path).items()} == {"a": 1, "b": None, "c": 3}
    assert "exit status -9" in capsys.readouterr().out
    assert gpu.measure(cases("a", "b", "c"), path, 60) == []  # nothing is run: a failure is a result
    child["does"] = [{"result": 2}]
    assert gpu.measure(cases("a", "b", "c"), path, 60, retry=True) == []
    assert {name: record["result"] for name, record in _common.read(path).items()} == {"a": 1, "b": 2, "c": 3}


def test_a_case_past_its_limit_failed_and_one_that_time_cut_off_did_not(tmp_path: Path, child: dict[str, Any]) -> None:
    path, late = tmp_path / "cpu.jsonl", subprocess.TimeoutExpired("child", 1)
    child["does"] = [late, {"result": 2}, late]
    hung, good, cut = cases("hung", "good", seconds=5) + cases("cut", resumes=True)
    assert gpu.measure([hung, good, cut, *cases("later")], path, 60) == ["cut", "later"]
    assert _common.read(path)["hung"]["error"] == "it did not end within its limit of 15 s"
    assert list(_common.read(path)) == ["hung", "good"]
    assert child["limits"][:2] == [15, 15] and 59 < child["limits"][2] <= 60
    assert gpu.measure(cases("long", seconds=61), path, 60) == ["long"]  # not started: it would not end in time


def test_half_a_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "cpu.jsonl"
    path.write_text('{"name": "a", "result": 1}\n{"name": "b", "res')
    assert list(_common.read(path)) == ["a"]
    _common.append(path, {"name": "c", "result": 3})
    assert list(_common.read(path)) == ["a", "c"]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print('{\"said\": 1}')", {"said": 1}),
        ("import os; os._exit(3)", {"error": "exit status 3: no message"}),
        ("raise ValueError('why')", {"error": "exit status 1: ValueError: why"}),
    ],
)
def test_a_child_answers_or_its_end_is_told(program: str, expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(program)
    assert _common.in_child(tmp_path / "script.py", {}) == expected


def test_a_child_past_its_time_is_ended_with_what_it_started(tmp_path: Path) -> None:
    program = "import pathlib, subprocess, sys, time\nother = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    program += "\npathlib.Path('PID').write_text(str(other.pid)); time.sleep(60)".replace("PID", str(tmp_path / "pid"))
    (tmp_path / "script.py").write_text(program)
    with pytest.raises(subprocess.TimeoutExpired):
        _common.in_child(tmp_path / "script.py", {}, seconds=3)
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")
    deadline = time.monotonic() + 30  # a signal that was sent takes effect when the process is next scheduled
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_plan_names_each_case_once_and_children_can_be_told_it(tmp_path: Path) -> None:
    for scale in (gpu.FULL, gpu.TINY):
        planned = gpu.plan(scale, "cuda", tmp_path, tmp_path)
        assert max(Counter(case.name for case in planned).values()) == 1
        assert all(json.loads(json.dumps(case.options)) and case.work in gpu.WORKS for case in planned)
        assert all(case.seconds < 540 for case in planned)


# The models


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # published: the sizes of the checkpoints, 2 bytes a parameter; T5 large with a vocabulary of 32100
        ("codet5p-770m", 737_639_424),
        ("llama-3.2-3b", 3_212_749_824),
        ("codellama-7b", 6_738_546_688),
        ("smollm2-135m", 134_515_008),
        ("qwen2.5-coder-0.5b", 494_032_768),
        ("minilm", 22_713_216),
    ],
)
def test_models_have_their_published_numbers_of_parameters(name: str, parameters: int) -> None:
    assert sum(weight.numel() for weight in _shapes.build(name).parameters()) == parameters


def test_smollm2_has_the_shape_of_its_file(smollm2_dir: Path) -> None:
    published = json.loads((smollm2_dir / "config.json").read_text())
    ours = LlamaConfig(**_shapes.SHAPES["smollm2-135m"]).to_dict()
    same = [key for key in _shapes.SHAPES["smollm2-135m"] if "token_id" not in key and key != "rms_norm_eps"]
    assert {key: ours[key] for key in same} == {key: published[key] for key in same}
    assert ours["rms_norm_eps"] == pytest.approx(published["rms_norm_eps"])  # a GGUF file has it in float32


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-t5"])
def test_a_step_reads_what_the_model_touches(name: str) -> None:
    model, read, length = _shapes.build(name, "cpu").eval(), dict[int, int](), 5
    table = model.get_input_embeddings()
    ids = torch.randint(1, 1500, (1, length))
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            inputs = {"encoder_outputs": model.get_encoder()(input_ids=ids)}
            first = model(**inputs, decoder_input_ids=ids)
            cache, inputs = first.past_key_values.self_attention_cache, {**inputs, "decoder_input_ids": ids[:, :1]}
        else:
            first, inputs = model(input_ids=ids), {"input_ids": ids[:, :1]}
            cache = first.past_key_values
        cached = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers) / length
        for module in model.modules():
            if module is not table and not list(module.children()):
                module.register_forward_hook(
                    lambda module, *_: read.update({id(w): w.numel() for w in module.parameters(recurse=False)})
                )
        keyword = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # until 5.24
        model(**inputs, **{keyword: first.past_key_values})
    assert _shapes.step_values(name) == (sum(read.values()), cached)


def test_the_simulation_of_a_cluster_is_of_the_same_models() -> None:
    names = {"CodeT5+ 770M": "codet5p-770m", "CodeLlama 7B": "codellama-7b", "Llama-3.2-3B": "llama-3.2-3b"}
    for title, (parameters, cache) in cluster.MODELS.items():
        model = _shapes.build(names[title])
        assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(parameters, rel=0.01)
        sides = 2 if model.config.is_encoder_decoder else 1  # an encoder's tokens are in the cache too
        assert sides * 2 * _shapes.step_values(names[title])[1] == cache


def test_prompts_have_exact_lengths_and_no_shared_start() -> None:
    tokenizer = _shapes.tokenizer(30000)
    assert len(tokenizer) == 30000 and tokenizer.eos_token_id is None and tokenizer.is_fast
    ids = [tokenizer(text).input_ids for text in _shapes.prompts(1024, 40)]
    assert {len(one) for one in ids} == {40} and len({tuple(one) for one in ids}) == len(ids)
    assert len({one[0] for one in ids}) > 50 and tokenizer.unk_token_id not in {token for one in ids for token in one}


# The table


def test_the_table_has_all_that_is_known() -> None:
    point = {"rows": 8, "in_flight": 8, "tokens_per_second": 400.0, "step_seconds": 0.02, "bytes_per_second": 4e11}
    point |= {"prefill_tokens_per_second": 5000.0, "peak_bytes": 7e9}
    machine = {"versions": dict.fromkeys(("python", "torch", "transformers"), "9.9"), "commit": "abc"}
    machine |= {"hardware": {"gpus": ["Test 9000"]}, "cpu_model": "A processor", "cores": 4}
    rates = {"copy_bytes_per_second": 2e12, "square_flops_per_second": 5e14, "machine": machine}
    points = [point, {"rows": 4096, "error": "OutOfMemoryError: too much"}]
    records = {
        "rates": {"result": rates},
        "speed own big": {"result": {"points": points}},
        "exact big float32": {"result": {"texts": 16, "same": 16}},
        "speed vllm big": {"error": "exit status 1: no"},
    }
    text = gpu.table(records, "test-9000")
    assert "| own | big | 8 | 8 | 400 | 20.0 | 20% | 5000 | 7.0 |" in text
    assert "- speed own big, 4096 rows: OutOfMemoryError: too much" in text and "16 of 16 texts" in text
    assert "- speed vllm big failed: exit status 1: no" in text
    assert "Test 9000, A processor" in text and "Copies 2 TB/s, products 500 TFLOP/s" in text
    assert (
        gpu.table({"speed own big": records["speed own big"]}, "x").count("| own | big | 8 | 8 | 400 | 20.0 |  |") == 1
    )
