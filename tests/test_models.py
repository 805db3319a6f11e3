"""The in-process generators: real (tiny, random) models of both kinds, and SmolLM2 where it says so."""

from __future__ import annotations

import http.server
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers import packing
from ppo_codet5.helpers.models import ModelError, Request, load_generator, render_chat, sampling
from ppo_codet5.helpers.models.local import TransformersGenerator
from ppo_codet5.helpers.models.sampling import sample, uniforms
from tiny import save_llama, save_t5, tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

FENCED = "```python\ndef add("
CHAT = (("system", "You write Python."), ("user", "Write add."))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"t5": save_t5(root / "tiny-t5"), "llama": save_llama(root / "tiny-llama")}


@pytest.fixture(scope="module", params=["t5", "llama"])
def generator(request: pytest.FixtureRequest, folders: dict[str, Path]) -> TransformersGenerator:
    return load_generator(str(folders[request.param]), device="cpu", batch_size=8)


def mixed_requests(count: int, seed: int = 0) -> list[Request]:
    """Requests of many lengths and settings."""
    draw = random.Random(seed)
    return [
        Request(
            prompt="Write a function " + "for x in text " * draw.randrange(12),
            seed=draw.getrandbits(64),
            prefix=draw.choice(["", FENCED, "def is_prime(n):\n    "]),
            max_new_tokens=draw.randrange(1, 40),
            temperature=draw.choice([0.0, 0.7, 1.3]),
            top_p=draw.choice([0.5, 0.9, 1.0]),
            stop=draw.choice(["none", "function", "line"]),
        )
        for _ in range(count)
    ]


# A request decides its text


def test_text_depends_on_the_request_alone(generator: TransformersGenerator, folders: dict[str, Path]) -> None:
    requests = mixed_requests(20)
    together = generator.generate(requests)
    assert len({c.text for c in together}) > 14
    assert [generator.generate([request])[0] for request in requests] == together
    order = list(range(len(requests)))
    random.Random(1).shuffle(order)
    small = load_generator(str(folders[generator.name.removeprefix("tiny-")]), device="cpu", batch_size=3)
    assert small is not generator and small.model is generator.model
    shuffled = small.generate([requests[i] for i in order])
    assert [shuffled[order.index(i)] for i in range(len(requests))] == together


def test_each_completion_is_handed_on_when_it_is_complete(generator: TransformersGenerator) -> None:
    requests = [replace(request, stop="none") for request in mixed_requests(20)]  # in 8 slots
    told: dict[int, tuple[object, int]] = {}
    before = generator.stats.forward_calls
    got = generator.generate(
        requests, lambda place, made: told.update({place: (made, generator.stats.forward_calls - before)})
    )
    assert [told[place][0] for place in range(20)] == got and len(told) == 20
    calls = [called for _, called in told.values()]
    assert calls == sorted(calls) and len(set(calls)) > 5 and calls[0] < calls[-1] / 3


def test_int8_is_integers_and_a_tiny_model_writes_the_same_alone_and_in_a_batch(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        model = load_generator(str(folder), dtype="int8", device="cpu", batch_size=8)
        seven = load_generator(str(folder), dtype="int7", device="cpu", batch_size=8)
        whole = load_generator(str(folder), dtype="float32", device="cpu", batch_size=8)
        bits = packing.exact_bits()
        assert seven.dtype == "int8 (weights of 7 bits)" and whole.dtype == "float32"
        assert model.dtype == ("int8" if bits == 8 else seven.dtype)
        assert any(isinstance(module, packing.Int8Linear) for module in model.model.modules())
        assert model.model.dtype == torch.float32  # also where the CPU computes in bfloat16
        requests = mixed_requests(12, seed=4)
        together = model.generate(requests)
        assert [model.generate([request])[0] for request in requests] == together
        assert together != whole.generate(requests)  # near, and not the same
        assert (seven.generate(requests) == together) == (bits == 7)
    for dtype in ("int8", "int7"):
        with pytest.raises(ModelError, match=f"{dtype} is for the CPU, not for cuda"):
            load_generator(str(folders["llama"]), dtype=dtype, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"device cuda: torch .* finds no GPU here; use 'auto' or 'cpu'"):
            load_generator(str(folders["llama"]), device="cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_f": True, "avx512_bf16": True}, "bfloat16"), ({"avx512_f": True, "avx512_bf16": False}, "float32")],
)
def test_auto_is_bfloat16_where_the_hardware_has_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    generator = load_generator(str(folders["llama"]), dtype="auto", device="cpu")
    assert generator.dtype == expected
    assert generator is load_generator(str(folders["llama"]), dtype=expected, device="cpu")


def test_greedy_is_what_transformers_generates(generator: TransformersGenerator, folders: dict[str, Path]) -> None:
    """The library's own loop, one prompt at a time, is the independent reference for masks, positions and caches."""
    folder = folders[generator.name.removeprefix("tiny-")]
    kind = AutoModelForSeq2SeqLM if generator.encoder_decoder else AutoModelForCausalLM
    model, words = kind.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts = ["", "def ", "Count the vowels of a string.", "for i in range(2, int(n**0.5) + 1):\n" * 3, "Write add"]
    requests = [Request(prompt, 0, prefix=FENCED, max_new_tokens=25, temperature=0) for prompt in prompts]
    for request, completion in zip(requests, generator.generate(requests), strict=True):
        if generator.encoder_decoder:
            inputs = words(request.prompt, return_tensors="pt")
            forced = [0, *words(FENCED, add_special_tokens=False).input_ids]
            inputs["decoder_input_ids"] = torch.tensor([forced])
            prompt_tokens = inputs.input_ids.shape[1] + len(forced) - 1
        else:
            inputs = words(request.prompt + FENCED, return_tensors="pt", return_token_type_ids=False)
            forced = inputs.input_ids[0].tolist()
            prompt_tokens = len(forced)
        out = model.generate(**inputs, max_new_tokens=25, do_sample=False)[0].tolist()[len(forced) :]
        expected = FENCED + words.decode(out, skip_special_tokens=True)
        assert completion.text == expected.rstrip("\ufffd"), request.prompt  # bytes of an unfinished character wait
        assert completion.completion_tokens == len(out)
        assert completion.prompt_tokens == prompt_tokens
        assert completion.finish_reason == ("stop" if out[-1] == 2 else "length")


def test_seeds_differ_and_global_randomness_is_neither_used_nor_changed(generator: TransformersGenerator) -> None:
    requests = [Request("Write add", seed, max_new_tokens=12, temperature=1.0) for seed in range(6)]
    torch.manual_seed(1)
    first, state = generator.generate(requests), torch.get_rng_state()
    torch.manual_seed(2)
    assert generator.generate(requests) == first
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    assert len({c.text for c in first}) == 6


def test_chat_is_the_template_without_todays_date(folders: dict[str, Path]) -> None:
    llama = load_generator(str(folders["llama"]), device="cpu", batch_size=8)
    request = Request(CHAT, 5, prefix=FENCED, max_new_tokens=20)
    written = "26 Jul 2024\n[system] You write Python.</s>[user] Write add.</s>[assistant] "
    (chat,) = llama.generate([request])
    (plain,) = llama.generate([replace(request, prompt=written)])  # <s> comes from the tokenizer here
    assert chat == plain
    t5 = load_generator(str(folders["t5"]), device="cpu")
    with pytest.raises(ModelError, match="tiny-t5 has no chat template"):
        t5.generate([request])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% else %}never{% endif %}", "2024-07-26"),
        ("{% macro head() %}{{ 'On ' + strftime_now('%B %-d, %Y') }}{% endmacro %}{{ head() }}", "On July 26, 2024"),
        ("{%- set date = strftime_now('%A %H:%M') -%}\n{{ date }}", "Friday 00:00"),
        ("{% if true %}\n  {% if true %}\n{{ strftime_now('%y') }}\n  {% endif %}\n{% endif %}\n!", "24\n!"),
        ("\n  {% if strftime_now %}\nx{% endif %}", "\nx"),  # blanks around tags go as without us
        (
            "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
            "{{ date_string }}",
            "26 Jul 2024",
        ),
        ("{{ messages[0]['content'] }} {{ date_string }}", "Write add. 26 Jul 2024"),
    ],
)
def test_no_template_sees_the_clock(template: str, text: str) -> None:
    words = tokenizer("llama")
    words.chat_template = template
    assert render_chat(words, (("user", "Write add."),), "tiny") == text


def test_half_a_character_in_a_request_is_a_mark(generator: TransformersGenerator) -> None:
    """No tokenizer takes one."""
    broken = Request("Write \ud800add", 1, prefix="def \udfff", max_new_tokens=3)
    assert (broken.prompt, broken.prefix) == ("Write \ufffdadd", "def \ufffd")
    assert Request((("user", "\ud83d\ude00 \ud83d"),), 1).prompt == (("user", "\U0001f600 \ufffd"),)
    assert generator.generate([broken])[0].text.startswith("def \ufffd")


def test_a_folder_may_be_under_home(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folders["t5"].parent))
    named = load_generator(f"~/{folders['t5'].name}", device="cpu")
    assert named is load_generator(str(folders["t5"]), device="cpu")


# Ends and counts


def test_counts_and_reasons(generator: TransformersGenerator) -> None:
    requests = [Request("Write add", seed, max_new_tokens=30, temperature=2.0, top_p=1.0) for seed in range(24)]
    done = generator.generate(requests)
    assert {c.finish_reason for c in done} == {"stop", "length"}  # random weights emit </s> now and then
    assert all(c.completion_tokens == 30 for c in done if c.finish_reason == "length")
    assert any(c.completion_tokens < 30 for c in done if c.finish_reason == "stop")
    short = generator.generate([replace(r, max_new_tokens=7) for r in requests])
    for long, cut in zip(done, short, strict=True):
        assert cut.completion_tokens == min(7, long.completion_tokens)
        assert long.text.startswith(cut.text)


def test_a_stop_rule_saves_the_rest(generator: TransformersGenerator) -> None:
    """The text is the unstopped text, cut; the tokens are those up to the cut and no more."""
    free = [Request("Write add", seed, max_new_tokens=60, temperature=1.5) for seed in range(12)]
    whole = generator.generate(free)
    stopped = generator.generate([replace(r, stop="line") for r in free])
    assert any(c.finish_reason == "stop" and c.completion_tokens < 30 for c in stopped)
    for all_of_it, line in zip(whole, stopped, strict=True):
        assert all_of_it.text.startswith(line.text)
        assert not line.text.strip() or "\n" not in line.text.lstrip()
        if "\n" in all_of_it.text.lstrip():
            assert line.finish_reason == "stop" and line.completion_tokens <= all_of_it.completion_tokens


def test_context_is_a_limit_and_not_a_crash(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "short", context=64)
    short = load_generator(str(folder), device="cpu")
    words = AutoTokenizer.from_pretrained(folder)
    prompt = "x " * 25
    size = len(words(prompt).input_ids)
    (done,) = short.generate([Request(prompt, 1, max_new_tokens=500, temperature=1.0)])
    assert done.prompt_tokens == size
    assert done.finish_reason == "stop" or done.completion_tokens == 64 - size
    with pytest.raises(ModelError, match=r"Request 1 has a prompt of .* tokens, but short can see 64: shorten it"):
        short.generate([Request("x", 1), Request("x " * 200, 1)])


def test_out_of_memory_halves_the_batch_and_changes_no_text(folders: dict[str, Path], monkeypatch) -> None:
    for kind in folders:
        roomy = load_generator(str(folders[kind]), device="cpu", batch_size=8)
        tight = TransformersGenerator(roomy.model, roomy.tokenizer, "tight", "1", batch_size=16)
        forward, calls = tight._forward, []

        def limited(forward=forward, calls=calls, **inputs):
            rows = len(inputs.get("input_ids", inputs.get("decoder_input_ids")))
            calls.append(rows)
            if rows > 5 or (rows > 3 and len(calls) == 20):  # the second one in the middle of a batch
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(**inputs)

        monkeypatch.setattr(tight, "_forward", limited)
        requests = mixed_requests(20, seed=3)
        with pytest.warns(RuntimeWarning, match="out of memory: tight goes on with batches of"):
            assert tight.generate(requests) == roomy.generate(requests)
        assert tight.batch_size == 2 and max(calls[-10:]) <= 2

        def never(**inputs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(tight, "_forward", never)
        with pytest.raises(ModelError, match="does not fit into the device's memory with one request"), pytest.warns():
            tight.generate(requests)


def test_finished_rows_leave_the_batch_and_waiting_rows_enter(folders: dict[str, Path]) -> None:
    """The model computes one row per generated token, whatever the lengths: nothing is spent on finished rows."""
    for folder in folders.values():
        shared = load_generator(str(folder), device="cpu", batch_size=8)
        fresh = TransformersGenerator(shared.model, shared.tokenizer, "fresh", "1", batch_size=4)
        requests = [Request(f"{seed} Write add", seed, max_new_tokens=3 + 5 * (seed % 7)) for seed in range(25)]
        done = fresh.generate(requests)
        stats = fresh.stats
        assert stats.forward_rows == stats.completion_tokens == sum(c.completion_tokens for c in done)
        assert stats.forward_rows / stats.forward_calls > 3  # of 4
        assert stats.requests == 25 and stats.prompt_tokens == sum(c.prompt_tokens for c in done)


def embedded_shapes(model: torch.nn.Module) -> list[tuple[int, ...]]:
    """A list to which every later pass of the model adds the shape of its token ids."""
    shapes: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings > 100:  # not T5's relative positions
            module.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    return shapes


def test_shared_starts_and_equal_prompts_are_computed_once(folders: dict[str, Path]) -> None:
    """Same texts as one by one, with few tokens through the model. Prompts: a long common start, three of each end."""
    start = "Count the vowels of a string. Return True or False. " * 4
    requests = [
        Request(start + end, seed, prefix=prefix, max_new_tokens=15)
        for end, prefix in (("a", ""), ("return text for", FENCED), ("b", "def is_prime("), ("def", ""))
        for seed in range(3)
    ]
    for kind, folder in folders.items():
        shared = load_generator(str(folder), device="cpu", batch_size=8)
        fresh = TransformersGenerator(shared.model, shared.tokenizer, "fresh", "1", batch_size=12)
        widths = embedded_shapes(fresh.model)
        together = fresh.generate(requests)
        widths = widths.copy()
        assert together == [shared.generate([request])[0] for request in requests]
        if kind == "llama":
            tokens = [c.prompt_tokens for c in together]
            assert widths[0][0] == 1 and widths[0][1] > 0.7 * max(tokens)  # the start, once
            assert widths[1] == (4, max(tokens) - widths[0][1])  # the ends, once each
        else:
            assert widths[0][0] == widths[1][0] == 4  # the encoder, then the forced starts
        assert all(shape[1] == 1 for shape in widths[2:])


def test_nothing_to_do(generator: TransformersGenerator) -> None:
    assert generator.generate([]) == []


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**64}, {"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"stop": "x"}]
)
def test_wrong_requests_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Request(**{"prompt": "a", "seed": 1, **wrong})


# Sampling


def nucleus(logits: list[float], temperature: float, top_p: float) -> dict[int, float]:
    """Probabilities inside the nucleus, the plain way."""
    scaled = np.array(logits) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    kept: dict[int, float] = {}
    for token in sorted(range(len(p)), key=lambda t: (-p[t], t)):
        if sum(kept.values()) >= top_p:
            break
        kept[token] = p[token]
    return {token: share / sum(kept.values()) for token, share in kept.items()}


@pytest.mark.parametrize("temperature, top_p", [(0.7, 0.9), (1.0, 1.0), (2.0, 0.6)])
def test_frequencies_are_the_probabilities_of_the_nucleus(temperature: float, top_p: float) -> None:
    logits = [2.0, 1.0, 1.0, 0.5, -1.0, -3.0, 1.9]
    expected = nucleus(logits, temperature, top_p)
    rows = [(Request("a", seed, temperature=temperature, top_p=top_p), seed % 50) for seed in range(40_000)]
    drawn = np.bincount(sample(torch.tensor([logits]).expand(len(rows), -1), rows), minlength=len(logits)) / len(rows)
    assert set(np.flatnonzero(drawn)) == set(expected)
    for token, share in expected.items():
        assert abs(drawn[token] - share) < 4 * np.sqrt(share / len(rows))


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.integers(-12, 12), min_size=1, max_size=40),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**64 - 1),
    keep=st.lists(st.integers(1, 8), max_size=2),
)
def test_the_short_list_changes_nothing(
    logits: list[int], temperature: float, top_p: float, seed: int, keep: list[int]
) -> None:
    """Integer logits, so that ties are common, as they are in bfloat16: they go by token id at every list length."""
    row = [(Request("a", seed, temperature=temperature, top_p=top_p), 3)]
    values = torch.tensor([logits], dtype=torch.float32) / 4
    full = sampling._TOP_K
    (chosen,) = sample(values, row)
    try:
        sampling._TOP_K = tuple(keep)
        assert sample(values, row) == [chosen]
    finally:
        sampling._TOP_K = full
    if temperature == 0:
        assert chosen == int(np.argmax(logits))
    else:
        assert chosen in nucleus([x / 4 for x in logits], temperature, top_p + 1e-6)  # float32 sums at the edge


def plainly(logits: torch.Tensor, rows: list[tuple[Request, int]]) -> list[int]:
    """Sampling in several passes over a sorted vocabulary, in float64."""
    tokens = []
    for line, (request, step) in zip(logits.double().numpy(), rows, strict=True):
        order = np.lexsort((np.arange(len(line)), -line))
        scaled = line[order] / (request.temperature or 1.0)
        logp = scaled - scaled[0] - np.log(np.exp(scaled - scaled[0]).sum())
        inside = np.cumsum(np.exp(logp)) - np.exp(logp) < request.top_p
        noise = -np.log(-np.log(uniforms(np.array(request.seed), np.array(step), order)))
        best = 0 if request.temperature == 0 else int(np.argmax(np.where(inside, logp + noise, -np.inf)))
        tokens.append(int(order[best]))
    return tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [151_936, 49_152, 32_100, 9_001, 130])
def test_one_pass_over_the_vocabulary_draws_what_several_passes_draw(vocabulary: int, dtype: torch.dtype) -> None:
    torch.manual_seed(vocabulary)
    logits = 2.5 * torch.randn(24, vocabulary)
    logits[:16, :40] += 12 * torch.rand(16, 40)  # a nucleus of few tokens, as usual; the others have wide ones
    logits = logits.to(dtype)
    settings = [(t, p) for t in (0.0, 0.4, 0.7, 1.5) for p in (0.5, 0.9, 1.0)]
    rows = [
        (Request("a", seed, temperature=settings[seed % 12][0], top_p=settings[seed % 12][1]), seed)
        for seed in range(24)
    ]
    assert sample(logits, rows) == plainly(logits, rows)
    assert [sample(logits[i : i + 1], rows[i : i + 1])[0] for i in range(24)] == sample(logits, rows)


def test_noise_is_uniform_and_differs_in_every_counter() -> None:
    seeds, steps, tokens = np.meshgrid(np.arange(40), np.arange(40), np.arange(40))
    noise = uniforms(seeds, steps, tokens)
    assert len(np.unique(noise)) == noise.size and noise.min() > 0 and noise.max() < 1
    share = np.bincount((noise * 16).astype(int).ravel(), minlength=16) / noise.size
    assert abs(share - 1 / 16).max() < 5 * np.sqrt(1 / 16 / noise.size)
    for axis in range(3):  # neighbours in any counter are not correlated
        a, b = noise.take(range(39), axis).ravel(), noise.take(range(1, 40), axis).ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)
    assert uniforms(np.array(2**64 - 1, dtype=np.uint64), np.array(0), np.array(0)).shape == ()


def test_like_logits_with_one_seed_mostly_give_the_same_token() -> None:
    """Common random numbers: two prompts that mean the same are compared under the same noise."""
    base = torch.randn(500, 1000, generator=torch.Generator().manual_seed(0)) * 3
    other = base + 0.1 * torch.randn(500, 1000, generator=torch.Generator().manual_seed(1))
    rows = [(Request("a", seed), 0) for seed in range(500)]
    same = np.mean(np.array(sample(base, rows)) == np.array(sample(other, rows)))
    apart = np.mean(
        np.array(sample(base, rows)) == np.array(sample(other, [(Request("a", s + 500), 0) for s in range(500)]))
    )
    assert same > 0.8 > 0.5 > apart


# Loading


def test_the_same_model_is_loaded_once_and_let_go(folders: dict[str, Path], tmp_path: Path) -> None:
    first = load_generator(str(folders["llama"]), device="cpu", batch_size=8)
    assert load_generator(str(folders["llama"]), device="cpu", batch_size=8) is first
    assert load_generator(str(folders["llama"]), dtype="bfloat16", device="cpu", batch_size=8) is not first
    copy = load_generator(str(save_llama(tmp_path / "tiny-llama")), device="cpu")
    other = load_generator(str(save_llama(tmp_path / "other" / "tiny-llama", seed=1)), device="cpu")
    assert first.name == copy.name == other.name == "tiny-llama"
    assert first.revision == copy.revision != other.revision  # by content


def test_packed_layers_compute_the_same_and_are_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_llama(tmp_path / "packed")
    packed = load_generator(str(folder), device="cpu")

    def missing(linear: torch.nn.Linear) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(packing, "PackedLinear", missing)
    plain = load_generator(str(save_llama(tmp_path / "plain")), device="cpu")
    assert any(type(module) is torch.nn.Linear for module in plain.model.modules())
    ids = torch.arange(4, 60)[None]
    with torch.inference_mode():
        torch.testing.assert_close(packed.model(ids).logits, plain.model(ids).logits, rtol=1e-4, atol=1e-3)
    requests = mixed_requests(8)
    assert packed.generate(requests) == plain.generate(requests)


def test_bfloat16_runs_both_kinds(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        half = load_generator(str(folder), dtype="bfloat16", device="cpu")
        assert half.dtype == "bfloat16"
        assert [c.prompt_tokens > 0 for c in half.generate(mixed_requests(6))] == [True] * 6


def test_wrong_arguments_name_the_right_ones(tmp_path: Path) -> None:
    for name in ("smollm3", str(tmp_path / "missing"), "./nowhere", "a/b/c"):
        with pytest.raises(ModelError, match=r"alias \(smollm2-135m, .*\), an existing folder .* or a hub id"):
            load_generator(name)
    with pytest.raises(ModelError, match="float32, bfloat16"):
        load_generator("smollm2-135m", dtype="int4")
    with pytest.raises(ModelError, match="batch_size is 0"):
        load_generator("smollm2-135m", batch_size=0)
    with pytest.raises(ModelError, match=r"cannot be loaded: "):
        load_generator(str(tmp_path))  # a folder without a model


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as these answers need: models known to it are gated, others do not exist."""

    def do_GET(self) -> None:
        known = "/gated/" in self.path
        if known and self.path.startswith("/api/models/"):
            body = json.dumps({"id": "gated/model", "sha": "0" * 40, "siblings": []}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
        else:
            body = b"{}"
            self.send_response(403 if known else 404)
            self.send_header("X-Error-Code", "GatedRepo" if known else "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


ASK = """
import sys
from ppo_codet5.helpers.models import ModelError, load_generator
for name in sys.argv[1:]:
    try:
        load_generator(name)
    except ModelError as error:
        print(error)
"""


def ask(tmp_path: Path, *names: str, **env: str) -> list[str]:
    """What load_generator says about ``names`` in a process of its own: the hub's library reads its settings once."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0", **env}
    run = subprocess.run([sys.executable, "-c", ASK, *names], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "Retry" not in run.stderr  # the library's five retries take 23 s for each file
    return run.stdout.splitlines()


def test_gated_and_missing_models_say_what_to_do(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        gated, missing = ask(tmp_path, "gated/model", "someone/typo", HF_ENDPOINT=endpoint, NO_PROXY="127.0.0.1")
    finally:
        server.shutdown()
        server.server_close()
    assert "gated/model is a gated model: accept its licence" in gated and "hf auth login" in gated
    assert "The hub has no model someone/typo" in missing


def test_unreachable_hub_fails_at_once_with_the_ways_out(tmp_path: Path) -> None:
    (silent,) = ask(tmp_path, "owner/model", HF_ENDPOINT="http://127.0.0.1:9", NO_PROXY="127.0.0.1")  # nobody listens
    (offline,) = ask(tmp_path, "owner/model", HF_HUB_OFFLINE="1")
    assert silent == offline
    for way_out in ("HF_HUB_OFFLINE=1", "a folder", "smollm2-135m"):
        assert way_out in silent


def test_the_contract_is_importable_without_torch() -> None:
    """The sandbox's server is forked before torch is loaded, by a process that has imported the contract."""
    code = "import sys, ppo_codet5.helpers.models; sys.exit('torch' in sys.modules)"
    root = str(Path(__file__).parent.parent)
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0


# The real small model


@pytest.mark.slow
def test_smollm2_text_depends_on_the_request_alone() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    smol = load_generator("smollm2-135m", device="cpu", batch_size=8)
    requests = smollm2_requests(8)
    together = smol.generate(requests)
    assert smol.generate(requests[::-1])[::-1] == together
    assert [smol.generate([request])[0] for request in requests] == together
    assert sum(c.finish_reason == "stop" for c in together) >= 6
    assert all(c.text.startswith(request.prefix) for c, request in zip(together, requests, strict=True))


@pytest.mark.slow
def test_smollm2_bfloat16_divergence_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    half = load_generator("smollm2-135m", dtype="bfloat16", device="cpu", batch_size=4)
    requests = [replace(request, max_new_tokens=16) for request in smollm2_requests(4)]
    together, alone = half.generate(requests), [half.generate([request])[0] for request in requests]
    same = sum(a == b for a, b in zip(together, alone, strict=True))
    with capsys.disabled():
        print(f"\nbfloat16: {same} of {len(requests)} texts are the same alone and in a batch of {len(requests)}")
    fresh = TransformersGenerator(half.model, half.tokenizer, half.name, half.revision, half.batch_size)
    assert fresh.generate(requests) == together  # the same batch gives the same texts, where no start of it was kept


def smollm2_requests(count: int) -> list[Request]:
    tasks = {
        "add": "returns the sum of two numbers",
        "count_vowels": "counts the vowels in a string",
        "is_prime": "checks whether a number is prime",
        "merge": "merges two sorted lists into one",
    }
    return [
        Request(
            (("user", f"Write a Python function named {name} that {task}."),),
            seed=1000 + i,
            prefix=f"```python\ndef {name}(",
            max_new_tokens=48,
            stop="function",
        )
        for i, (name, task) in zip(range(count), list(tasks.items()) * count, strict=False)
    ]
