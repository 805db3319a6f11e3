"""One token for each row of a Llama-like decoder in as few kernels as torch has: on a GPU their launches are the time.

transformers' own pass launches some 45 kernels a layer, of which a step for a hundred rows fills none. Here it is 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from .slots import WIDTH, SlotLayer, Window

_LIKE_LLAMA = {"LlamaForCausalLM", "Qwen2ForCausalLM"}
_known: WeakKeyDictionary[nn.Module, Steps | None] = WeakKeyDictionary()


class Steps:
    """The layers of a model with the projections of one input laid side by side; the model's are views of these."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.base, self.head = model.model, model.lm_head
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.epsilon = config.rms_norm_eps
        self.attention = [
            side_by_side([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj])
            for layer in self.base.layers
        ]
        self.mlp = [side_by_side([layer.mlp.gate_proj, layer.mlp.up_proj]) for layer in self.base.layers]

    def logits(
        self, window: Window, layers: Sequence[SlotLayer], ids: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] after one more token a row; writes its keys and values to column ``window.end``.

        ``ids``, ``lengths``: int64 [rows], the tokens and how many columns each row has filled before. The rows are the
        first of the slots.
        """
        first = window.start - window.start % WIDTH
        last = window.end + 1 + -(window.end + 1) % WIDTH
        columns = torch.arange(first, last, device=ids.device)
        seen = (columns >= (window.end - lengths)[:, None]) & (columns <= window.end)
        x: torch.Tensor = self.base.embed_tokens(ids)
        rows, heads, groups = len(x), self.heads, self.groups
        # A step has one query a row, so the heads that share keys are the queries of one head: all see the same columns.
        mask = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill_(~seen, float("-inf"))
        mask = mask[:, None, None].expand(rows, groups, heads // groups, last - first)
        cos, sin = self.base.rotary_emb(x, lengths[:, None])
        half = sin.shape[-1] // 2
        sin = sin[..., :half]
        for layer, slots, (inputs, bias), (wide, _) in zip(
            self.base.layers, layers, self.attention, self.mlp, strict=True
        ):
            norm = F.rms_norm(x, x.shape[1:], layer.input_layernorm.weight, self.epsilon)
            projected = F.linear(norm, inputs, bias).view(rows, heads + 2 * groups, -1)
            before = projected[:, : heads + groups]  # queries and keys, to be turned by their places
            turned = before * cos
            turned[..., :half].addcmul_(before[..., half:], sin, value=-1)
            turned[..., half:].addcmul_(before[..., :half], sin)
            slots.slot_keys[:rows, :, window.end] = turned[:, heads:]
            slots.slot_values[:rows, :, window.end] = projected[:, heads + groups :]
            mixed = F.scaled_dot_product_attention(
                turned[:, :heads].view(rows, groups, heads // groups, -1),
                slots.slot_keys[:rows, :, first:last],
                slots.slot_values[:rows, :, first:last],
                attn_mask=mask,
            )
            x.addmm_(mixed.reshape(rows, -1), layer.self_attn.o_proj.weight.T)
            norm = F.rms_norm(x, x.shape[1:], layer.post_attention_layernorm.weight, self.epsilon)
            gate, up = F.linear(norm, wide).chunk(2, -1)
            x.addmm_(F.silu(gate).mul_(up), layer.mlp.down_proj.weight.T)
        return F.linear(F.rms_norm(x, x.shape[1:], self.base.norm.weight, self.epsilon), self.head.weight)


def side_by_side(linears: Sequence[nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weights and biases of layers of one input as one of each, whose parts the layers then hold."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias.detach() for linear in linears])
    sizes = [linear.out_features for linear in linears]
    for number, (linear, part) in enumerate(zip(linears, weight.split(sizes), strict=True)):
        linear.weight = nn.Parameter(part, requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias.split(sizes)[number], requires_grad=False)
    return weight, bias


def steps_of(model: Any) -> Steps | None:
    """The steps of a model, made once; None for one whose layers are not those of Llama or Qwen2, or are packed."""
    if model not in _known:
        _known[model] = Steps(model) if _is_plain(model) else None
    return _known[model]


def _is_plain(model: Any) -> bool:
    config = model.config
    if (
        type(model).__name__ not in _LIKE_LLAMA
        or config.hidden_act != "silu"
        or getattr(config, "use_sliding_window", 0)
    ):
        return False
    layers = model.model.layers
    linears = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Linear)] + [model.lm_head]
    biased = ("q_proj", "k_proj", "v_proj")  # of others a bias would be left out
    return (
        all(type(linear) is nn.Linear for linear in linears)
        and len(linears) == 7 * len(layers) + 1
        and not any(
            linear.bias is not None
            for layer in layers
            for name, linear in layer.named_modules()
            if isinstance(linear, nn.Linear) and not name.endswith(biased)
        )
    )
