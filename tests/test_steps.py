"""The step of a GPU in few kernels against transformers' own pass, on a CPU, where both compute in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_codet5.helpers.models import Request
from ppo_codet5.helpers.models.local import TransformersGenerator
from ppo_codet5.helpers.models.steps import steps_of
from tiny import tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

pytestmark = pytest.mark.usefixtures("one_thread")


def made(kind: str, **changes: Any) -> Any:
    """A small model with grouped heads; its weights are large enough for texts that depend on all of the prompt."""
    words, classes = (
        tokenizer("llama"),
        {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)},
    )
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6}
    config = classes[kind][0](
        **sizes,
        num_key_value_heads=2,
        vocab_size=len(words),
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=2,
        **changes,
    )
    torch.manual_seed(1)
    model = classes[kind][1](config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(1 + 0.3 * torch.randn_like(weight) if "norm" in name else 0.2 * torch.randn_like(weight))
    return model


def texts(model: Any, steps: Any, requests: list[Request], batch_size: int = 5) -> list[str]:
    generator = TransformersGenerator(model, tokenizer("llama"), "tiny", "1", batch_size)
    assert generator._steps is None  # as it is on a CPU
    generator._steps = steps
    return [completion.text for completion in generator.generate(requests)]


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500.0}
KINDS = [
    ("qwen2", {}),
    ("llama", {}),
    ("llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}}),
]


@pytest.mark.parametrize(("kind", "changes"), KINDS, ids=["qwen2", "llama", "llama3"])
def test_texts_are_those_of_the_model_s_own_pass(kind: str, changes: dict[str, Any]) -> None:
    """Rows of different lengths that end at different steps, more than there are slots."""
    starts = ("def add(a, b):", "x", "Write a Python function named add that returns the sum of two numbers. " * 3)
    requests = [
        Request(
            starts[seed % 3] + " a" * seed, seed=seed, temperature=0.8, top_p=0.95, max_new_tokens=10 + 7 * (seed % 5)
        )
        for seed in range(14)
    ]
    plain = texts(made(kind, **changes), None, requests)
    model = made(kind, **changes)
    assert texts(model, steps_of(model), requests) == plain
    assert len(set(plain)) > 10  # not all the same, which would show nothing
    alone = [texts(model, steps_of(model), [request])[0] for request in requests]
    assert alone == plain


def test_logits_are_those_of_the_model_in_float64() -> None:
    model = made("qwen2").double()
    expected, found = [], []
    request = Request("def add(a, b):", seed=3, temperature=1.0, max_new_tokens=40)
    for steps, seen in ((None, expected), (steps_of(model), found)):
        generator = TransformersGenerator(model, tokenizer("llama"), "tiny", "1", 4)
        generator._steps = steps
        counted = generator._counted

        def keep(logits: torch.Tensor, began: float, seen: Any = seen, counted: Any = counted) -> torch.Tensor:
            seen.append(logits.clone())
            return counted(logits, began)

        generator._counted = keep  # type: ignore[method-assign]
        generator.generate([request, dataclasses.replace(request, prompt="x = 1; y", seed=4)])
        assert generator.stats.forward_calls == len(seen)
    assert len(found) == len(expected) >= 40
    assert max((a - b).abs().max().item() for a, b in zip(expected, found, strict=True)) < 1e-5  # of float32 cosines
    assert min(a.std().item() for a in expected) > 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_steps_are_captured_and_texts_are_those_of_the_model_s_own_pass() -> None:
    starts = ("def add(a, b):", "x = 1", "Write a Python function named add. " * 3)
    requests = [
        Request(starts[i % 3] + " a" * i, seed=i, temperature=0.0, max_new_tokens=12 + 9 * (i % 4)) for i in range(40)
    ]
    model = made("qwen2").cuda()
    generator = TransformersGenerator(model, tokenizer("llama"), "tiny", "1", 16)
    steps = generator._steps
    assert steps is not None
    captured = [completion.text for completion in generator.generate(requests)]
    assert steps.ran == {8, 16}  # numbers of rows that were captured
    generator._steps = None
    assert [completion.text for completion in generator.generate(requests)] == captured


def test_weights_are_held_once_and_the_steps_are_made_once() -> None:
    model = made("qwen2")
    steps = steps_of(model)
    assert steps is not None and steps_of(model) is steps
    weight, bias = steps.attention[0]
    for projection in (model.model.layers[0].self_attn.v_proj, model.model.layers[0].self_attn.q_proj):
        assert projection.weight.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
        assert bias is not None and projection.bias.untyped_storage().data_ptr() == bias.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("llama", {"hidden_act": "gelu"}),
        ("qwen2", {"use_sliding_window": True}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}}),
    ],
)
def test_a_model_with_other_layers_keeps_its_own_pass(kind: str, changes: dict[str, Any]) -> None:
    assert steps_of(made(kind, **changes)) is None


def test_packed_layers_keep_their_own_pass(tmp_path: Path) -> None:
    from ppo_codet5.helpers.packing import pack_linears

    model = made("llama")
    pack_linears(model)
    assert steps_of(model) is None
