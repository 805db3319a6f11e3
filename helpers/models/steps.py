"""One token for each row of a Llama-like decoder in few kernels and one launch: on a GPU their launches are the time.

transformers' own pass launches some 45 kernels a layer, of which a step for a hundred rows fills none. Here it is 16, and
they are captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from .slots import SlotLayer, Window

_LIKE_LLAMA = {"LlamaForCausalLM", "Qwen2ForCausalLM"}
_ROWS = [8 * 4**n for n in range(12)]  # of captures, of which each takes some ten steps' time
_known: WeakKeyDictionary[nn.Module, Steps | None] = WeakKeyDictionary()  # None: not such a model


class Steps:
    """The layers of a model with the projections of one input laid side by side; the model's are views of these."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.base, self.head = model.model, model.lm_head
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.epsilon = config.rms_norm_eps
        self.ran: set[int] = set()  # rows with which a step was captured before
        self.attention = [
            side_by_side([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj])
            for layer in self.base.layers
        ]
        self.mlp = [side_by_side([layer.mlp.gate_proj, layer.mlp.up_proj]) for layer in self.base.layers]

    def logits(
        self, layers: Sequence[SlotLayer], ids: torch.Tensor, lengths: torch.Tensor, end: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] after one more token a row; writes its keys and values to column ``end``.

        ``ids``, ``lengths``: int64 [rows], the tokens and how many columns each row has filled before; ``end``: int64 [1].
        The rows are the first of the slots. Nothing depends on a value of these on the host.
        """
        columns = torch.arange(layers[0].slot_keys.shape[2], device=ids.device)
        seen = (columns >= (end - lengths)[:, None]) & (columns <= end)
        x: torch.Tensor = self.base.embed_tokens(ids)
        rows, heads, groups = len(x), self.heads, self.groups
        # A step has one query a row, so the heads that share keys are the queries of one head: all see the same columns.
        mask = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill_(~seen, float("-inf"))
        mask = mask[:, None, None].expand(rows, groups, heads // groups, len(columns))
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
            keys, values = slots.slot_keys[:rows], slots.slot_values[:rows]
            keys.index_copy_(2, end, turned[:, heads:, None])
            values.index_copy_(2, end, projected[:, heads + groups :, None])
            queries = turned[:, :heads].view(rows, groups, heads // groups, -1)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            x.addmm_(mixed.reshape(rows, -1), layer.self_attn.o_proj.weight.T)
            norm = F.rms_norm(x, x.shape[1:], layer.post_attention_layernorm.weight, self.epsilon)
            gate, up = F.linear(norm, wide).chunk(2, -1)
            x.addmm_(F.silu(gate).mul_(up), layer.mlp.down_proj.weight.T)
        return F.linear(F.rms_norm(x, x.shape[1:], self.base.norm.weight, self.epsilon), self.head.weight)

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """Where steps are captured; kept, for cuBLAS has a workspace on each stream that it was used on."""
        return torch.cuda.Stream()


class Stepper:
    """The steps of one batch: each number of rows, rounded up, is captured once and then replayed."""

    def __init__(self, steps: Steps, layers: Sequence[SlotLayer], window: Window) -> None:
        self.steps, self.layers, self.window = steps, layers, window
        self.replays: dict[int, tuple[torch.Tensor, Callable[[], torch.Tensor]]] = {}
        self.pool: Any = None

    def logits(self, ids: list[int], lengths: list[int]) -> torch.Tensor:
        """Logits [rows, vocabulary], good until the next call, after the last tokens of the first rows."""
        count = len(ids)
        rows = min(self.window.slots, next(size for size in _ROWS if size >= count))
        more = [0] * (rows - count)  # a row of no length sees itself alone; its slot is free
        given = torch.tensor([*ids, *more, *lengths, *more, self.window.end])
        if rows not in self.replays:
            inputs = given.to(self.layers[0].slot_keys.device)
            at = inputs[:rows], inputs[rows:-1], inputs[-1:]
            self.replays[rows] = inputs, self.captured(lambda: self.steps.logits(self.layers, *at), rows)
        inputs, replay = self.replays[rows]
        inputs.copy_(given)
        return replay()[:count]

    def captured(self, work: Callable[[], torch.Tensor], rows: int) -> Callable[[], torch.Tensor]:
        """``work`` as a CUDA graph, which one launch runs whole; on a CPU as it is."""
        if self.layers[0].slot_keys.device.type != "cuda":
            return work
        here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        self.steps.stream.wait_stream(here)
        with torch.cuda.stream(self.steps.stream):
            if rows not in self.steps.ran:
                work()  # loads kernels and makes workspaces, which may not be captured
                self.steps.ran.add(rows)
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                output = work()
            finally:
                graph.capture_end()
        here.wait_stream(self.steps.stream)

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay


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
    turned = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    like = type(model).__name__ in _LIKE_LLAMA and config.hidden_act == "silu" and turned in ("default", "llama3")
    if not like or getattr(config, "use_sliding_window", False):  # other turns ask the host how far the rows have come
        return False
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    biased = ("q_proj", "k_proj", "v_proj")  # of others a bias would be left out
    return len(linears) == 7 * len(model.model.layers) + 1 and all(
        type(linear) is nn.Linear and (linear.bias is None or name.endswith(biased)) for name, linear in linears.items()
    )
