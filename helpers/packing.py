"""Linear layers laid out once for the CPU, for every model that runs here."""

from __future__ import annotations

import contextlib
import ctypes

import torch
from torch import nn


class PackedLinear(nn.Module):
    """A linear layer whose weight is laid out once for oneDNN, which otherwise does so at every call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        # Named as in nn.Linear: models look at its dtype.
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


class UpcastLinear(nn.Module):
    """A bfloat16 linear layer on a CPU that does not compute in it: float32, a block of the weight at a time.

    The weight stays in half the memory. oneDNN's emulation takes 3 to 6 times as long as float32 for 8 to 512 rows, this
    1.0 to 1.7 times (2 cores with AVX-512, the layers of a model of 1.5 G parameters).
    """

    weight: torch.Tensor
    block = 256  # rows of the weight: in float32 they fit into a core's cache

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self.register_buffer("weight", linear.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        y = x.new_empty(len(rows), len(self.weight))
        part = rows.new_empty(self.block, rows.shape[1])
        for start in range(0, len(self.weight), self.block):
            weight = self.weight[start : start + self.block]
            product = rows @ part[: len(weight)].copy_(weight).T
            if self.bias is not None:
                product += self.bias[start : start + self.block]
            y[:, start : start + self.block] = product
        return y.view(*x.shape[:-1], -1)


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return any(value is True for name, value in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def pack_linears(model: nn.Module) -> None:
    """Replace the linear layers of a model on the CPU by packed ones; afterwards it can neither train nor move.

    One decode step of SmolLM2-135M for 16 to 48 rows takes 0.7 to 0.9 of the time. The operators are those that
    torch.compile uses; they are not public, so where a build of torch lacks them the model stays as it is.
    """
    kind: type[PackedLinear] | type[UpcastLinear] = PackedLinear
    if next(model.parameters()).dtype == torch.bfloat16 and not has_bfloat16():
        kind = UpcastLinear
    try:
        kind(nn.Linear(16, 16, bias=False, dtype=next(model.parameters()).dtype))(
            next(model.parameters()).new_ones(1, 16)
        )
    except (AttributeError, RuntimeError, TypeError):
        return
    # A list of all modules would keep every layer that is replaced until the end.
    for module in [module for module in model.modules() if type(module) is not nn.Linear]:
        names = [name for name, child in module.named_children() if type(child) is nn.Linear]
        for name in names:
            setattr(module, name, kind(getattr(module, name)))
        if names:
            give_back()


def give_back() -> None:
    """Return freed memory to the system: of loading Qwen2.5-Coder 0.5B in float32, glibc would keep 1.4 GB."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
