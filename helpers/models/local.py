"""The decode loop behind ``load_generator``: batched, seeded per request, with rows leaving and entering as they end.

All requests of a call share one set of slots. A slot is a row of a preallocated key-value cache; a request that ends
frees its slot (the last row moves into it) and waiting requests are prefilled into free slots, so the model never
runs on a finished row, and one step of the cache writes one column instead of copying the whole of it. What all
prompts of a decoder-only model start with (system prompt, examples) is computed once, and so are equal prompts; what
prompts of earlier calls started with is kept.
"""

from __future__ import annotations

import inspect
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from ..packing import give_back, type_name
from ..replies import StopRule
from .contract import Completion, ModelError, Request
from .sampling import sample
from .slots import CrossLayer, SlotLayer, Start, Starts, Window
from .sources import render_chat
from .steps import Stepper, steps_of
from .widths import CANDIDATES, prefill_tokens

_COMMON_MIN = 8  # tokens: a shorter common start is not worth a pass of its own
_ROOM = 128  # a batch that others may join has room for prompts of a multiple of so many tokens
_STARTS = {"cpu": 2**29, "cuda": 0}  # bytes of earlier prompts that are kept: a GPU computes them faster than it copies


@dataclass
class GenerationStats:
    """Totals since the generator was made.

    ``forward_calls`` and ``forward_rows`` count passes of the (decoder) model and the rows in them; equal prompts are
    one row of a prefill. ``forward_seconds`` is the time inside the model (on a GPU: the time to launch its work),
    ``seconds`` all the time inside ``generate``.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    forward_calls: int = 0
    forward_rows: int = 0
    forward_seconds: float = 0.0
    seconds: float = 0.0


@dataclass
class _Row:
    """One request in flight. ``ids`` is what the decoder has been given and has produced so far."""

    index: int
    request: Request
    ids: list[int]
    encoder_ids: list[int]
    limit: int
    stop: StopRule
    stream: DecodeStream
    prompt_tokens: int
    text: str
    generated: int = 0
    reason: str = ""
    start: Start | None = None  # that is kept of an earlier prompt,
    known: int = 0  # and how many of this row's tokens it holds


def _completion(row: _Row) -> Completion:
    return Completion(row.text, row.prompt_tokens, row.generated, row.reason)


class TransformersGenerator:
    """Completes batches of requests with a model in this process; made by ``load_generator``.

    ``batch_size`` is the most rows in flight; running out of GPU memory halves it and goes on. The text of a
    request depends on the request alone in float32; in bfloat16 the batch's shape changes the last bits of the
    logits, so texts may differ between batches.
    """

    sampler = 2  # part of every cache key: raise it when the same request may give another text

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, revision: str, batch_size: int = 32
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError(f"{name} has no fast tokenizer: convert it with AutoTokenizer(..., use_fast=True) first.")
        self.model, self.tokenizer = model, tokenizer
        self.name, self.revision, self.batch_size = name, revision, batch_size
        self.dtype = type_name(model)
        self.encoder_decoder = bool(model.config.is_encoder_decoder)
        self.stats = GenerationStats()
        self._backend = tokenizer.backend_tokenizer
        self._lock = threading.Lock()
        self._layers = getattr(model.config, "num_decoder_layers", None) or model.config.num_hidden_layers
        # Relative positions (T5) have no hard end; absolute and rotary ones end here.
        self._context = getattr(model.config, "max_position_embeddings", None) or 2**31
        accepted = inspect.signature(model.forward).parameters
        self._last_logits_only = "logits_to_keep" in accepted
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"  # until transformers 5.24
        eos = model.generation_config.eos_token_id
        if eos is None:
            eos = tokenizer.eos_token_id
        label = f"{name} {revision} {self.dtype}"
        self.prefill_tokens = prefill_tokens(model, label) if self._last_logits_only else CANDIDATES[-1]
        self._steps = None
        if model.device.type == "cuda":
            torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every width, and each step has another
            self._steps = steps_of(model)
        self._starts = Starts(_STARTS.get(model.device.type, 2**29))
        self._eos = frozenset([eos] if isinstance(eos, int) else eos or [])

    def generate(
        self,
        requests: Sequence[Request],
        each: Callable[[int, Completion], object] | None = None,
        more: Callable[[], Sequence[Request]] | None = None,
    ) -> list[Completion]:
        """Completions in the order of ``requests``. Raises ModelError for a prompt that the model cannot take.

        ``each`` is called with a request's place and its completion as soon as that is complete. ``more`` is called
        between two steps; the requests that it returns come after the others, and join them as soon as there is room.
        """
        began = time.perf_counter()
        with self._lock, torch.inference_mode():
            rows = [self._row(index, request) for index, request in enumerate(requests)]

            def joining() -> list[_Row]:
                new = [self._row(len(rows) + i, request) for i, request in enumerate(more() if more else ())]
                rows.extend(new)
                return new

            ended = (lambda row: each(row.index, _completion(row))) if each else lambda row: None
            self._decode(rows, ended, joining if more else None)
            self.stats.requests += len(rows)
            self.stats.prompt_tokens += sum(row.prompt_tokens for row in rows)
            self.stats.completion_tokens += sum(row.generated for row in rows)
            self.stats.seconds += time.perf_counter() - began
        return [_completion(row) for row in rows]

    # From request to tokens

    def check(self, index: int, request: Request) -> None:
        """Raise ModelError, which names it by ``index``, for a request with a prompt that the model cannot take."""
        self._row(index, request)

    def _row(self, index: int, request: Request) -> _Row:
        plain = isinstance(request.prompt, str)
        prompt = (
            request.prompt
            if isinstance(request.prompt, str)
            else render_chat(self.tokenizer, request.prompt, self.name)
        )
        if self.encoder_decoder:
            encoder_ids = self._encode(prompt, plain)
            start = self.model.generation_config.decoder_start_token_id
            ids = [self.model.config.decoder_start_token_id if start is None else start]
            ids += self._encode(request.prefix, False)
            prompt_tokens = len(encoder_ids) + len(ids) - 1
        else:
            encoder_ids, ids = [], self._encode(prompt + request.prefix, plain)
            prompt_tokens = len(ids)
        if not (encoder_ids if self.encoder_decoder else ids):
            raise ModelError(f"Request {index} has an empty prompt: give {self.name} at least one token.")
        if len(ids) >= self._context:
            raise ModelError(
                f"Request {index} has a prompt of {len(ids)} tokens, but {self.name} can see {self._context}: shorten it."
            )
        limit = min(request.max_new_tokens, self._context - len(ids))
        stream = DecodeStream(ids=ids, skip_special_tokens=True)
        stop = StopRule(request.stop, request.prefix, request.entry_point)
        return _Row(index, request, ids, encoder_ids, limit, stop, stream, prompt_tokens, request.prefix)

    def _encode(self, text: str, special: bool) -> list[int]:
        """Token ids; ``special`` adds the model's own marks around them (a chat template has written its own)."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        return ids

    # The loop

    def _decode(
        self, rows: list[_Row], ended: Callable[[_Row], object], joining: Callable[[], list[_Row]] | None
    ) -> None:
        """Run all rows to their end. Out of memory: start over with what they have, in half as many slots.

        ``joining`` adds to ``rows``: those that do not fit into the batch under way are in the next one.
        """
        while waiting := [row for row in rows if not row.reason]:
            # Longest first, so that a batch has like lengths and memory runs out early if at all; equal ones together.
            for row in waiting:
                row.start, row.known = self._starts.find(row.ids)
            waiting.sort(
                key=lambda row: (-len(row.encoder_ids), row.known - len(row.ids), row.encoder_ids, row.ids, row.index)
            )
            try:
                _Batch(self, waiting, ended, joining).run()
                if joining:
                    give_back()  # a process that only serves would keep all that its batches ever took
                continue
            except torch.OutOfMemoryError as error:
                slots = min(self.batch_size, len(waiting))
                if slots == 1:
                    raise ModelError(
                        f"{self.name} does not fit into the device's memory with one request: use a smaller dtype, "
                        "a shorter prompt or a larger device."
                    ) from error
            # Outside the handler: its traceback kept the cache alive.
            self._starts = Starts(self._starts.limit)
            for row in waiting:
                row.start = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.batch_size = slots // 2
            warnings.warn(
                f"out of memory: {self.name} goes on with batches of {self.batch_size}", RuntimeWarning, stacklevel=3
            )

    def _forward(self, *, cache: Cache, **inputs: object) -> torch.Tensor:
        """Logits of the last position, [rows, vocabulary], in the model's dtype."""
        inputs[self._cache_name] = cache
        began = time.perf_counter()
        if self._last_logits_only:
            inputs["logits_to_keep"] = 1
        return self._counted(self.model(**inputs, use_cache=True).logits[:, -1], began)

    def _counted(self, logits: torch.Tensor, began: float) -> torch.Tensor:
        self.stats.forward_seconds += time.perf_counter() - began
        self.stats.forward_calls += 1
        self.stats.forward_rows += len(logits)
        return logits

    def _encoded(self, ids: torch.Tensor, mask: torch.Tensor) -> object:
        """The encoder's output for right-padded prompts."""
        began = time.perf_counter()
        output = self.model.get_encoder()(input_ids=ids, attention_mask=mask)
        self.stats.forward_seconds += time.perf_counter() - began
        return output

    def _accept(self, row: _Row, token: int) -> None:
        """Add ``token`` to the row and see whether the row has ended."""
        row.ids.append(token)
        row.generated += 1
        if token in self._eos:
            row.reason = "stop"
            return
        piece = row.stream.step(self._backend, token)
        if piece:
            row.text += piece
            cut = row.stop.feed(piece)
            if cut is not None:
                row.text, row.reason = row.text[:cut], "stop"
        if not row.reason and row.generated == row.limit:
            row.reason = "length"


class _Batch:
    """The slots, the rows in them, and the cache they share, for one pass over a list of waiting rows."""

    def __init__(
        self,
        generator: TransformersGenerator,
        waiting: list[_Row],
        ended: Callable[[_Row], object],
        joining: Callable[[], list[_Row]] | None = None,
    ) -> None:
        self.generator, self.waiting, self.ended, self.joining = generator, deque(waiting), ended, joining
        self.device, self.starts = generator.model.device, generator._starts
        self.active: list[_Row] = []
        slots = generator.batch_size if joining else min(generator.batch_size, len(waiting))
        # Rows end at one common column. It starts here, where every prompt fits; no row is longer than prompt + limit.
        self.prefill = max(len(row.ids) for row in waiting)
        if joining:  # and those that come later, of which most are not much longer
            self.prefill += -self.prefill % _ROOM
        self.left = max(row.limit - row.generated for row in waiting)
        self.window = Window(slots, self.prefill + self.left, end=self.prefill, layers=generator._layers)
        self.self_layers = [SlotLayer(self.window, number) for number in range(generator._layers)]
        self.stepper = generator._steps and Stepper(generator._steps, self.self_layers, self.window)
        own = Cache(layers=list(self.self_layers))
        self.cache: Cache | EncoderDecoderCache = own
        self.cross_layers: list[CrossLayer] = []
        if generator.encoder_decoder:
            self.cross_window = Window(slots, max(len(row.encoder_ids) for row in waiting))
            self.cross_layers = [CrossLayer(self.cross_window) for _ in range(generator._layers)]
            self.cache = EncoderDecoderCache(own, Cache(layers=list(self.cross_layers)))

    def run(self) -> None:
        self._compute_common()
        while self.waiting or self.active:
            if self.joining:
                new = self.joining()
                self.waiting.extend(row for row in new if self.fits(row))
                if not all(map(self.fits, new)):
                    self.joining = None  # the next batch begins with those: this one must come to its end
            free = self.window.slots - len(self.active)
            # A few rows at a time: one by one costs a forward pass each, and waiting for all leaves slots idle.
            if self.waiting and (not self.active or free >= min(len(self.waiting), max(1, self.window.slots // 4))):
                self.admit(free)
            else:
                self.step()

    def fits(self, row: _Row) -> bool:
        """Whether a row that came later has room in the columns that there are."""
        return not self.cross_layers and len(row.ids) <= self.prefill and row.limit <= self.left

    def _compute_common(self) -> None:
        """Keep the keys and values of the tokens that all rows start with, if that saves work."""
        first, *others = (row.ids for row in self.waiting)
        if self.cross_layers or not self.starts.limit or not any(ids != first for ids in others):
            return
        length = min(len(ids) for ids in (first, *others)) - 1  # each row keeps a token of its own, for its logits
        while any(ids[:length] != first[:length] for ids in others):
            length -= 1
        start, known = self.starts.find(first[: length + 1])
        if length - known < _COMMON_MIN:
            return
        restored = [(0, 0, start, known)] if start else []
        window = Window(1, length, last=1, end=known, layers=self.window.layers, known=restored)
        layers = [SlotLayer(window, layer.number) for layer in self.self_layers]
        ids = torch.tensor([first[known:length]], device=self.device)
        self.generator._forward(cache=Cache(layers=list(layers)), input_ids=ids)
        self.starts.keep(Start(first[:length], [layer.row(0, 0, length) for layer in layers]))

    def admit(self, free: int) -> None:
        """Prefill waiting rows into at most ``free`` slots and take their first token.

        One forward pass for the next few distinct prompts, right-aligned with the rows that are there; rows with an
        equal prompt are copies.
        """
        w, count = self.window, len(self.active)
        if not self.active:
            w.end = self.prefill
        groups: dict[tuple[tuple[int, ...], ...], list[_Row]] = {}
        width = 0
        while self.waiting and free:
            row = self.waiting[0]
            key = (tuple(row.ids), tuple(row.encoder_ids))
            if key not in groups:
                row.start, row.known = self.starts.find(row.ids)
                width = max(width, len(row.ids) - row.known + len(row.encoder_ids))
                if groups and width * (len(groups) + 1) > self.generator.prefill_tokens:
                    break
            groups.setdefault(key, []).append(self.waiting.popleft())
            free -= 1
        distinct = [group[0] for group in groups.values()]
        copies = [(i, row) for i, group in enumerate(groups.values()) for row in group[1:]]
        logits = self._prefill(distinct)
        for slot, (source, _) in enumerate(copies, start=count + len(distinct)):
            self._copy_row(count + source, slot)
        self.active += distinct + [row for _, row in copies]
        self._take(logits[[*range(len(distinct)), *(source for source, _ in copies)]], count)

    def _prefill(self, rows: list[_Row]) -> torch.Tensor:
        """Logits after each row's tokens, whose keys and values end up in the slots after the active ones."""
        w, end = self.window, self.window.end
        lengths = torch.tensor([len(row.ids) for row in rows], device=self.device)[:, None]
        ids, _ = self._padded([row.ids[row.known :] for row in rows], left=True)
        w.first, w.last = len(self.active), len(self.active) + len(rows)
        w.start, w.end = end - max(len(row.ids) for row in rows), end - ids.shape[1]
        columns = torch.arange(w.start, end, device=self.device)
        mask = columns >= end - lengths
        places = [(slot, end - len(row.ids)) for slot, row in enumerate(rows, start=w.first)]
        w.known = [(*at, row.start, row.known) for at, row in zip(places, rows, strict=True) if row.start]
        if self.cross_layers:
            encoder_ids, encoder_mask = self._padded([row.encoder_ids for row in rows], left=False)
            encoded = self.generator._encoded(encoder_ids, encoder_mask)
            self.cross_window.first, self.cross_window.last = w.first, w.last
            self._cross_is_cached(False)
            logits = self.generator._forward(
                cache=self.cache,
                encoder_outputs=encoded,
                attention_mask=encoder_mask,
                decoder_input_ids=ids,
                decoder_attention_mask=mask,
            )
        else:
            positions = (columns[-ids.shape[1] :] - (end - lengths)).clamp(min=0)
            logits = self.generator._forward(
                cache=self.cache, input_ids=ids, attention_mask=mask, position_ids=positions
            )
        w.end, w.known = end, []
        for at, row in zip(places, rows, strict=True) if not self.cross_layers and self.starts.limit else ():
            again = self.starts.came_up(row.ids)
            if again >= row.known + _COMMON_MIN:
                self.starts.keep(Start(row.ids[:again], [layer.row(*at, again) for layer in self.self_layers]))
            self.starts.remember(row.ids)
            row.start = None
        return logits

    def step(self) -> None:
        """One token for every active row."""
        w, rows = self.window, self.active
        filled = [len(row.ids) - 1 for row in rows]  # columns
        if w.end == w.columns:  # rows that ended have left unused columns on the left
            by = min(w.start, w.end - self.prefill)
            w.shift_left(by)
        if self.stepper:
            began = time.perf_counter()
            logits = self.stepper.logits([row.ids[-1] for row in rows], filled)
            self.generator._counted(logits, began)
        else:
            logits = self._model_step(filled)
        w.end += 1
        self._take(logits, 0)

    def _model_step(self, filled: list[int]) -> torch.Tensor:
        """Logits of a step by the model's own pass; ``filled``: how many columns each row has."""
        w = self.window
        lengths = torch.tensor(filled, device=self.device)
        ids = torch.tensor([[row.ids[-1]] for row in self.active], device=self.device)
        mask = torch.arange(w.start, w.end + 1, device=self.device) >= (w.end - lengths)[:, None]
        if self.cross_layers:
            return self._step_encoded(ids, mask)
        return self.generator._forward(
            cache=self.cache, input_ids=ids, attention_mask=mask, position_ids=lengths[:, None]
        )

    def _step_encoded(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        widths = torch.tensor([len(row.encoder_ids) for row in self.active], device=self.device)
        width = int(max(len(row.encoder_ids) for row in self.active))
        for layer in self.cross_layers:
            layer.show(len(self.active), width)
        self._cross_is_cached(True)
        # The cross-attention reads its cached keys; of the encoder's output only the shape is looked at.
        model = self.generator.model
        shape_only = torch.zeros(1, dtype=model.dtype, device=self.device).expand(len(ids), width, model.config.d_model)
        return self.generator._forward(
            cache=self.cache,
            encoder_outputs=BaseModelOutput(last_hidden_state=shape_only),
            attention_mask=torch.arange(width, device=self.device) < widths[:, None],
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
        )

    def _copy_row(self, source: int, target: int) -> None:
        self.window.copy_row(source, target)
        for cross in self.cross_layers:
            cross.copy_row(source, target)

    def _cross_is_cached(self, cached: bool) -> None:
        """Tell the model to read the cross-attention's keys from the cache, or to compute and store them."""
        assert isinstance(self.cache, EncoderDecoderCache)
        self.cache.is_updated = dict.fromkeys(range(len(self.cross_layers)), cached)

    def _padded(self, lists: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and their mask, both int64 [rows, longest], padded on one side (with id 0: it is masked)."""
        width = max(len(ids) for ids in lists)
        ids, mask = np.zeros((2, len(lists), width), dtype=np.int64)
        for i, row in enumerate(lists):
            at = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, at], mask[i, at] = row, 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def _take(self, logits: torch.Tensor, first: int) -> None:
        """Sample for rows ``first`` and after, then move the last rows into the slots of those that ended."""
        rows = self.active[first:]
        for row, token in zip(rows, sample(logits, [(r.request, r.generated) for r in rows]), strict=True):
            self.generator._accept(row, token)
            if row.reason:
                self.ended(row)
        w = self.window
        for slot in reversed(range(len(self.active))):
            if self.active[slot].reason:
                last = len(self.active) - 1
                if slot != last:
                    w.first, w.last = 0, last + 1
                    w.start = w.end - (len(self.active[last].ids) - 1)
                    self._copy_row(last, slot)
                    self.active[slot] = self.active[last]
                self.active.pop()
        w.first, w.last = 0, len(self.active)
        w.start = w.end - max((len(row.ids) - 1 for row in self.active), default=0)
        for row in rows:
            if row.reason:
                row.ids = []  # a call that others join may go on for hours
