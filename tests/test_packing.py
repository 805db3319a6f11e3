"""Linear layers as they are laid out for the CPU give what torch's own give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers import packing
from torch import nn


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 600),
    st.booleans(),
    st.sampled_from([(1,), (5,), (2, 3)]),
    st.integers(0, 2**31),
)
@torch.inference_mode()
def test_an_upcast_layer_is_the_float32_layer_of_its_weights(
    inputs: int, outputs: int, bias: bool, rows: tuple[int, ...], seed: int
) -> None:
    torch.manual_seed(seed)
    half = nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(*rows, inputs, dtype=torch.bfloat16)
    single = nn.Linear(inputs, outputs, bias=bias)
    single.load_state_dict(half.state_dict())
    y = packing.UpcastLinear(half)(x)
    assert y.dtype == torch.bfloat16 and y.shape == (*rows, outputs)
    torch.testing.assert_close(y.float(), single(x.float()), rtol=2**-8, atol=1e-5)  # one rounding to 8 bits


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 90),
    st.booleans(),
    st.sampled_from([(1,), (5,), (2, 3)]),
    st.sampled_from([1e-3, 1.0, 300.0]),
    st.sampled_from(sorted({7, packing.exact_bits()})),
    st.integers(0, 2**31),
)
@torch.inference_mode()
def test_an_int8_layer_is_within_its_rounding_of_the_float_layer(
    inputs: int, outputs: int, bias: bool, rows: tuple[int, ...], size: float, bits: int, seed: int
) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias)
    x = size * torch.randn(*rows, inputs, dtype=torch.float64)
    y = packing.Int8Linear(linear, bits)(x.float())
    weight = linear.weight.double()
    w_step, x_step = weight.abs().amax(1) / (2 ** (bits - 1) - 1), x.abs().amax(-1, keepdim=True) / 127
    # Each factor is off by half a step at most.
    most = x_step / 2 * (weight.abs().sum(1) + inputs * w_step / 2) + w_step / 2 * x.abs().sum(-1, keepdim=True)
    exact = x @ weight.T + (linear.bias.double() if bias else 0)
    rounding = 1e-5 * size + 2**-22 * exact.abs()  # of float32, in which the sums are scaled and the bias is added
    assert y.shape == exact.shape and bool(((y - exact).abs() <= 1.001 * most + rounding).all())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 90), st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
@torch.inference_mode()
def test_an_int8_layer_sums_integers_on_every_cpu(
    inputs: int, outputs: int, rows: int, largest: bool, seed: int
) -> None:
    """Whole numbers stay what they are; without VNNI two products with larger weights do not fit into 16 bits."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(-127, 128, (rows, inputs), generator=draw).float()
    for bits in {7, packing.exact_bits()}:
        most = 2 ** (bits - 1) - 1
        weight = torch.randint(-most, most + 1, (outputs, inputs), generator=draw).float()
        if largest:
            weight, x = weight.sign() * most, x.sign() * 127
        weight[:, 0], x[:, 0] = most, 127  # so that all scales are 1
        linear = nn.Linear(inputs, outputs, bias=False)
        linear.weight.copy_(weight)
        # float32 holds all whole numbers up to 2 ** 24
        assert torch.equal(packing.Int8Linear(linear, bits)(x), x @ weight.T)


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="torch without FBGEMM")
@torch.inference_mode()
def test_both_kernels_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So runs and kept completions do not depend on which one a CPU takes."""
    for inputs, outputs, bias in ((300, 200, True), (64, 1000, False), (1, 1, True)):
        linear, layers = nn.Linear(inputs, outputs, bias=bias), []
        for laid_out in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(packing, "exact_bits", lambda: 7)
                if not laid_out:
                    patch.setattr(packing, "fbgemm_weight", lambda *_: None)
                layers.append(packing.Int8Linear(linear, 7))
        assert layers[0].laid_out is not None and layers[1].laid_out is None
        assert layers[0].weight.untyped_storage().nbytes() == 0  # the weights are held once
        for rows in (1, 2, 7, 33, 97):
            x = torch.randn(rows, inputs) * 10 ** torch.randn(rows, 1)
            assert torch.equal(layers[0](x), layers[1](x))


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_layers_of_one_input_give_together_what_they_give_apart(bias: bool) -> None:
    linears = [nn.Linear(96, outputs, bias=bias) for outputs in (64, 8, 8)]
    apart = [packing.Int8Linear(linear, 7) for linear in linears]
    block = nn.Module()
    for name, linear in zip(("q_proj", "k_proj", "v_proj"), linears, strict=True):
        block.add_module(name, linear)
    packing.pack_linears(block, 7)
    products: list[int] = []
    block.q_proj.together.layer.register_forward_hook(lambda *_: products.append(1))  # type: ignore[union-attr]
    order = [block.q_proj, block.k_proj, block.v_proj]
    for x in (torch.randn(5, 96), torch.randn(2, 3, 96)):
        for layer, alone in zip(order, apart, strict=True):
            assert torch.equal(layer(x), alone(x))
    assert len(products) == 2
    # As cross-attention has it: keys and values of another input than the queries, and a layer that is asked twice.
    x, other = torch.randn(5, 96), torch.randn(7, 96)
    for number, given_ in [(0, x), (1, other), (2, other), (0, x), (0, x), (1, other)]:
        assert torch.equal(order[number](given_), apart[number](given_))
    assert sum(type(module) is packing.Int8Linear for module in block.modules()) == 1  # the weights are held once


@torch.inference_mode()
def test_a_row_of_an_int8_layer_does_not_depend_on_the_others() -> None:
    layer, x = packing.Int8Linear(nn.Linear(300, 200), 7), torch.randn(33, 300)
    together = layer(x)
    assert all(torch.equal(layer(x[i : i + 1])[0], together[i]) for i in range(len(x)))
    assert torch.equal(layer(x[None, ::2])[0], together[::2])
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16 and torch.equal(half, layer(x.bfloat16().float()).bfloat16())
    assert torch.equal(layer(torch.zeros(1, 300))[0], layer.bias)


@pytest.mark.parametrize(("hardware", "kind"), [(False, packing.UpcastLinear), (True, packing.PackedLinear)])
def test_bfloat16_is_computed_in_float32_where_the_cpu_has_no_other(
    hardware: bool, kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = packing.has_bfloat16() or torch.backends.cpu.get_cpu_capability() != "AVX2"
    monkeypatch.setattr(packing, "has_bfloat16", lambda: hardware)
    model = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 32))).to(torch.bfloat16)
    packing.pack_linears(model)
    if hardware and not real:  # oneDNN cannot lay out what this CPU cannot compute: the model stays as it is
        kind = nn.Linear
    assert type(model[0]) is type(model[1][0]) is kind  # type: ignore[index]
    single = nn.Sequential(nn.Linear(64, 64))
    packing.pack_linears(single)
    assert type(single[0]) is packing.PackedLinear
