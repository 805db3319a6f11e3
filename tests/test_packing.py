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


@pytest.mark.parametrize(("hardware", "kind"), [(False, packing.UpcastLinear), (True, packing.PackedLinear)])
def test_bfloat16_is_computed_in_float32_where_the_cpu_has_no_other(
    hardware: bool, kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "has_bfloat16", lambda: hardware)
    model = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 32))).to(torch.bfloat16)
    packing.pack_linears(model)
    assert type(model[0]) is type(model[1][0]) is kind  # type: ignore[index]
    single = nn.Sequential(nn.Linear(64, 64))
    packing.pack_linears(single)
    assert type(single[0]) is packing.PackedLinear
