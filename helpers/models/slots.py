"""Keys and values of the rows that a model decodes together, and of the starts of prompts that came up before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IN_PARTS = "sdpa_in_parts"  # the name by which transformers knows attention_in_parts
_PART = 16  # rows
_WIDTH = 16  # columns: attention kernels of a GPU want a mask of a multiple of it, and copy another one at every layer


@dataclass(eq=False)
class Start:
    """The keys and values of a text's first tokens: one pair of [heads, tokens, head_dim] for each layer."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @cached_property
    def bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


class Starts:
    """Keys and values of starts of prompts, from one call to the next: those used last, in at most ``limit`` bytes.

    Prompts are compared in blocks of tokens, each named by a hash of all tokens up to its end. What comes up once is only
    remembered, and kept when it comes up again: the largest part of all prompts never does.
    """

    block = 16  # tokens

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: OrderedDict[int, Start] = OrderedDict()  # by id(), the one used last at the end
        self.seen: OrderedDict[int, Start | None] = OrderedDict()  # by the name of a block, with a start that holds it

    def names(self, ids: Sequence[int]) -> list[int]:
        found, last = [], 0
        for end in range(self.block, len(ids) + 1, self.block):
            last = hash((last, *ids[end - self.block : end]))
            found.append(last)
        return found

    def find(self, ids: list[int]) -> tuple[Start | None, int]:
        """A start that is kept, and how many of its tokens ``ids`` begin with; the last token is never among them."""
        best = None
        for name in self.names(ids) if self.kept else ():
            best = self.seen.get(name) or best
        if best is None:
            return None, 0
        self.kept.move_to_end(id(best))
        most = min(len(best.ids), len(ids) - 1)
        same = next((i for i in range(most) if best.ids[i] != ids[i]), most)
        return (best, same) if same else (None, 0)

    def came_up(self, ids: list[int]) -> int:
        """How many of the first tokens of ``ids`` came up before, in whole blocks; all, if all its whole blocks did."""
        names = self.names(ids)
        count = next((i for i, name in enumerate(names) if name not in self.seen), len(names))
        return len(ids) if names and count == len(names) else count * self.block

    def remember(self, ids: list[int]) -> None:
        for name in self.names(ids):
            self.seen.setdefault(name, None)
        while len(self.seen) > 2**17:
            self.seen.popitem(last=False)

    def keep(self, start: Start) -> None:
        """Keep ``start``, and drop those used longest ago if all of them are too large."""
        if start.bytes > self.limit:
            return
        self.kept[id(start)] = start
        for name in self.names(start.ids):
            self.seen[name] = start
        while sum(kept.bytes for kept in self.kept.values()) > self.limit:
            _, old = self.kept.popitem(last=False)
            for name in self.names(old.ids):
                if self.seen.get(name) is old:
                    self.seen[name] = None


@dataclass
class Window:
    """The part of the cache that the next forward pass sees: rows [first, last), columns [start, end)."""

    slots: int
    columns: int
    first: int = 0
    last: int = 0
    start: int = 0
    end: int = 0
    layers: int = 1
    keys: torch.Tensor | None = None  # of all layers, and their values: [layers, slots, heads, columns, head_dim]
    values: torch.Tensor | None = None
    known: list[tuple[int, int, Start, int]] = field(default_factory=list)  # row, first column, what goes there, tokens

    def copy_row(self, source: int, target: int) -> None:
        """In all layers at once: on a GPU each copy is a launch."""
        for slots in (self.keys, self.values):
            if slots is not None:
                slots[:, target, :, self.start : self.end] = slots[:, source, :, self.start : self.end]

    def shift_left(self, by: int) -> None:
        """Move what is seen ``by`` columns to the left, in the first ``last`` rows."""
        for slots in (self.keys, self.values):
            if slots is not None:
                for layer in slots:  # one after another: each copy takes memory
                    seen = layer[: self.last, :, self.start : self.end].clone()
                    layer[: self.last, :, self.start - by : self.end - by] = seen
        self.start, self.end = self.start - by, self.end - by


class SlotLayer(DynamicLayer):
    """Self-attention keys and values of one layer, [slots, heads, columns, head_dim], seen through the window."""

    def __init__(self, window: Window, number: int) -> None:
        super().__init__()
        self.window, self.number = window, number

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        w = self.window
        if w.keys is None or w.values is None:
            columns = w.columns + -w.columns % _WIDTH
            # Zeros, not empty: columns that are masked out are still multiplied (by 0), and 0 * NaN is NaN.
            w.keys, w.values = (
                x.new_zeros(w.layers, w.slots, x.shape[1], columns, x.shape[3]) for x in (key_states, value_states)
            )
        self.slot_keys, self.slot_values = w.keys[self.number], w.values[self.number]
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):  # type: ignore[no-untyped-def]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        w, end = self.window, self.window.end + key_states.shape[-2]
        self.slot_keys[w.first : w.last, :, w.end : end] = key_states
        self.slot_values[w.first : w.last, :, w.end : end] = value_states
        for row, first, known, count in w.known:  # after the new columns, whose padding on the left reaches into it
            keys, values = known.layers[self.number]
            self.slot_keys[row, :, first : first + count] = keys[:, :count]
            self.slot_values[row, :, first : first + count] = values[:, :count]
        rows, columns = slice(w.first, w.last), slice(w.start, end)
        return self.slot_keys[rows, :, columns], self.slot_values[rows, :, columns]

    def row(self, row: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of ``count`` columns of one row: keys and values, [heads, count, head_dim]."""
        keys, values = (slots[row, :, first : first + count] for slots in (self.slot_keys, self.slot_values))
        return keys.clone(memory_format=torch.contiguous_format), values.clone(memory_format=torch.contiguous_format)

    def get_seq_length(self) -> int:
        return self.window.end - self.window.start


def attention_in_parts(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention; of a step a few rows at a time, each few from the first column that one of them sees.

    On a CPU a step's attention takes as long as reading keys and values does, and in one call one long row makes all others
    as long.
    """
    if query.shape[2] > 1 or attention_mask is None or len(query) <= _PART:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    first = attention_mask[:, 0, 0].to(torch.uint8).argmax(1).tolist()
    outputs = []
    for begin in range(0, len(first), _PART):
        rows, columns = slice(begin, begin + _PART), slice(min(first[begin : begin + _PART]), None)
        keys, values, mask = key[rows, :, columns], value[rows, :, columns], attention_mask[rows, ..., columns]
        outputs.append(sdpa_attention_forward(module, query[rows], keys, values, mask, **settings)[0])
    return torch.cat(outputs), None


AttentionInterface.register(IN_PARTS, attention_in_parts)
AttentionMaskInterface.register(IN_PARTS, sdpa_mask)


class CrossLayer(DynamicLayer):
    """Cross-attention keys and values of one layer: written when a row is encoded, then only read, as ``keys``."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):  # type: ignore[no-untyped-def]
        w = self.window
        if not self.is_initialized:
            self.slot_keys, self.slot_values = (
                x.new_zeros(w.slots, x.shape[1], w.columns, x.shape[3]) for x in (key_states, value_states)
            )
            self.is_initialized = True
        width = key_states.shape[-2]
        self.slot_keys[w.first : w.last, :, :width] = key_states
        self.slot_values[w.first : w.last, :, :width] = value_states
        return key_states, value_states

    def show(self, rows: int, width: int) -> None:
        self.keys, self.values = self.slot_keys[:rows, :, :width], self.slot_values[:rows, :, :width]

    def copy_row(self, source: int, target: int) -> None:
        for slots in (self.slot_keys, self.slot_values):
            slots[target] = slots[source]
