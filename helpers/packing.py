"""Linear layers laid out once for the CPU, for every model that runs here."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

_ONE_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers that a block gives the same input


class PackedLinear(nn.Module):
    """A linear layer whose weight is laid out once for oneDNN, which otherwise does so at every call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
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
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
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


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, one scale for each output, and int8 activations, one scale for each row.

    Products of integers are summed exactly, so a row's result depends on neither the other rows nor the threads, nor on
    whose kernel forms it. Both are of torch's own quantised models. oneDNN is four times as fast as float32 on a CPU with
    AVX-512 VNNI. A CPU without adds two products in 16 bits, which hold those of weights of seven bits (``exact_bits``);
    there oneDNN copies the weights at every call, and FBGEMM has them laid out: 5, 3, 2.5 and 2 times as fast as float32
    for 1, 8, 24 and 96 rows (a core with AVX2, layers of Qwen2.5-Coder 0.5B).
    """

    weight: torch.Tensor  # in oneDNN's layout; empty where FBGEMM has it
    scale: torch.Tensor
    zero: torch.Tensor
    shift: torch.Tensor

    def __init__(self, linear: nn.Linear, bits: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = linear.in_features, linear.out_features, bits
        whole, largest = torch.empty(linear.weight.shape, dtype=torch.int8), 2 ** (bits - 1) - 1
        scale = torch.empty(self.out_features)
        for rows in torch.arange(self.out_features).split(4096):  # a head in float32 takes a gigabyte
            weight = linear.weight.detach()[rows].float()
            scale[rows] = weight.abs().amax(1).clamp(min=1e-12) / largest
            whole[rows] = (weight / scale[rows, None]).round_().to(torch.int8)
        self.laid_out = None if exact_bits() == 8 else fbgemm_weight(whole, scale)
        whole = torch.ops.onednn.qlinear_prepack(whole, None) if self.laid_out is None else whole.new_empty(0)
        self.register_buffer("weight", whole)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(self.out_features, dtype=torch.int64))
        # One for each column: broadcast from a single number, the same sum takes three to six times as long.
        self.register_buffer("shift", torch.full((self.in_features,), 128.5))
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def _apply(self, *args: object, **kwargs: object) -> Int8Linear:
        return self  # the model's other layers may be turned into bfloat16; scales and biases stay as they are

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features).float()
        largest = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_())
        scale = largest.clamp_(min=1e-12).div_(127)
        # 128 stands for 0, since the operators want no sign, and the half rounds what is then cut off.
        whole = torch.addcmul(self.shift, rows, scale.reciprocal())
        if self.laid_out is not None:
            y = fbgemm_products(whole.floor_().sub_(128), self.laid_out)
        else:  # to 8 bits by way of 16: torch has vector instructions for these two conversions and none for the one
            y = byte_products(whole.to(torch.int16).to(torch.uint8), self.weight, self.scale, self.zero)
        y = y.mul_(scale) if self.bias is None else torch.addcmul(self.bias, y, scale)
        return y.to(x.dtype).view(*x.shape[:-1], -1)


class Together(nn.Module):
    """Int8 layers of one input as one: it is rounded once, and one product is formed instead of two or three small ones.

    The outputs are those of the layers apart, bit for bit.
    """

    def __init__(self, linears: Sequence[nn.Linear], bits: int) -> None:
        super().__init__()
        self.sizes = [linear.out_features for linear in linears]
        first = linears[0]
        whole = nn.Linear(first.in_features, sum(self.sizes), bias=False, device="meta")
        whole.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]), requires_grad=False)
        if first.bias is not None:
            whole.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]), requires_grad=False)
        self.layer = Int8Linear(whole, bits)
        self.input: torch.Tensor | None = None
        self.outputs: dict[int, torch.Tensor] = {}

    def output(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """The output of layer ``number``: of the product that another of the layers asked for with this very tensor."""
        if self.input is not x or number not in self.outputs:
            self.input, self.outputs = x, dict(enumerate(self.layer(x).split(self.sizes, -1)))
        y = self.outputs.pop(number)
        if not self.outputs:
            self.input = None
        return y


class OneOf(nn.Module):
    """A linear layer that is computed with others (:class:`Together`)."""

    def __init__(self, together: Together, number: int) -> None:
        super().__init__()
        self.together, self.number = together, number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.together.output(self.number, x)


def byte_products(whole: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """oneDNN's product of bytes, of which 128 stands for 0, with laid out int8 weights; summed, scaled, float32."""
    y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        whole, 1.0, 128, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y


def fbgemm_weight(whole: torch.Tensor, scale: torch.Tensor) -> object | None:
    """int8 weights and their scales in FBGEMM's layout; None where this build of torch has none of it."""
    engines, zeros = torch.backends.quantized, torch.zeros(len(scale), dtype=torch.int64)
    before = engines.engine
    try:
        engines.engine = "fbgemm"
        with warnings.catch_warnings():  # torch means to give up quantised tensors; here one is made on the way
            warnings.simplefilter("ignore")
            tensor = torch._make_per_channel_quantized_tensor(whole, scale.double(), zeros, 0)
            laid_out: object = torch.ops.quantized.linear_prepack(tensor, None)
        fbgemm_products(torch.ones(1, whole.shape[1]), laid_out)
    except (AttributeError, RuntimeError, TypeError):
        return None
    finally:
        engines.engine = before
    return laid_out


def fbgemm_products(whole: torch.Tensor, laid_out: object) -> torch.Tensor:
    """FBGEMM's product of whole numbers from -128 to 127 with laid out int8 weights; summed, scaled, float32."""
    y: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(whole, 1.0, 128, laid_out)
    return y


@functools.cache
def exact_bits() -> int:
    """The bits of an int8 weight for which this CPU adds up oneDNN's products of bytes exactly: 8, or without VNNI 7."""
    ones = torch.ones(64, 64)
    weight = torch.ops.onednn.qlinear_prepack(ones.to(torch.int8) * 127, None)
    y = byte_products((ones * 255).to(torch.uint8), weight, ones[0], torch.zeros(64, dtype=torch.int64))
    return 8 if (y == 64 * 127 * (255 - 128)).all() else 7


def type_name(model: nn.Module) -> str:
    """The type that a model computes in, as its texts depend on it: "float32", "int8", "int8 (weights of 7 bits)"."""
    for module in model.modules():
        if isinstance(module, Int8Linear):
            return "int8" if module.bits == 8 else f"int8 (weights of {module.bits} bits)"
    return str(model.dtype).removeprefix("torch.")


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return any(value is True for name, value in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def pack_linears(model: nn.Module, int8_bits: int | None = None) -> None:
    """Replace the linear layers of a model on the CPU by packed ones; afterwards it can neither train nor move.

    With ``int8_bits`` they compute in int8, with as many bits a weight; else in the model's own type.
    One decode step of SmolLM2-135M for 16 to 48 rows takes 0.7 to 0.9 of the time. The operators are those that
    torch.compile uses; they are not public, so where a build of torch lacks them the model stays as it is.
    """
    kind: Callable[[nn.Linear], nn.Module] = PackedLinear
    if int8_bits:
        kind = functools.partial(Int8Linear, bits=int8_bits)
    elif next(model.parameters()).dtype == torch.bfloat16 and not has_bfloat16():
        kind = UpcastLinear
    try:
        kind(nn.Linear(16, 16, bias=False, dtype=next(model.parameters()).dtype))(
            next(model.parameters()).new_ones(1, 16)
        )
    except (AttributeError, RuntimeError, TypeError):
        if int8_bits:
            raise
        return
    # A list of all modules would keep every layer that is replaced until the end.
    for module in [module for module in model.modules() if type(module) is not nn.Linear]:
        for group in _ONE_INPUT:
            linears = [child for name in group if type(child := getattr(module, name, None)) is nn.Linear]
            if int8_bits and len(linears) == len(group):
                together = Together(linears, int8_bits)
                for number, name in enumerate(group):
                    setattr(module, name, OneOf(together, number))
        names = [name for name, child in module.named_children() if type(child) is nn.Linear]
        for name in names:
            setattr(module, name, kind(getattr(module, name)))
        if names:
            give_back()


def give_back() -> None:
    """Return freed memory to the system: of loading Qwen2.5-Coder 0.5B in float32, glibc would keep 1.4 GB."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
