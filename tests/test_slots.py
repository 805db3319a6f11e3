"""What is kept of earlier prompts: found by their tokens, in bounded memory, and equal to what would be computed anew."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.models import Request, slots
from ppo_codet5.helpers.models import load_model as load
from ppo_codet5.helpers.models.local import TransformersGenerator
from ppo_codet5.helpers.models.slots import Start, Starts
from test_models import embedded_shapes
from tiny import save_llama

pytestmark = pytest.mark.usefixtures("one_thread")


def start(ids: list[int], bytes_each: int = 4) -> Start:
    return Start(ids, [(torch.zeros(1, len(ids), bytes_each, dtype=torch.int8), torch.zeros(0))])


prompts = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=70), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(kept=prompts, asked=st.lists(st.integers(0, 1), min_size=1, max_size=90), grow=st.booleans())
def test_what_is_found_is_a_start_and_the_longest_but_for_a_block(
    kept: list[list[int]], asked: list[int], grow: bool
) -> None:
    starts = Starts(10**6)
    for ids in kept:
        starts.keep(start(ids + asked if grow and ids == kept[0] else ids))
    found, known = starts.find(asked)
    assert known < len(asked) and (found is None) == (known == 0)
    if found:
        assert found.ids[:known] == asked[:known]
    common = max(
        next(
            (i for i, pair in enumerate(zip(s.ids, asked, strict=False)) if pair[0] != pair[1]),
            min(len(s.ids), len(asked)),
        )
        for s in starts.kept.values()
    )
    assert known <= common
    assert known >= min(common // starts.block * starts.block, len(asked) - 1)


@settings(max_examples=100, deadline=None)
@given(kept=prompts, limit=st.integers(0, 600))
def test_memory_stays_within_its_limit_and_the_last_used_stay(kept: list[list[int]], limit: int) -> None:
    starts = Starts(limit)
    for ids in kept:
        starts.keep(start(ids))
        assert sum(s.bytes for s in starts.kept.values()) <= limit
    if 4 * len(kept[-1]) <= limit:
        assert list(starts.kept.values())[-1].ids == kept[-1]
    alive = {id(s) for s in starts.kept.values()}
    assert all(s is None or id(s) in alive for s in starts.seen.values())  # no other is held in memory


def test_a_prompt_came_up_before_by_whole_blocks_and_whole_if_all_of_them_did() -> None:
    starts, ids = Starts(0), list(range(40))
    assert starts.came_up(ids) == 0
    starts.remember(ids)
    assert starts.came_up(ids) == 40 and starts.came_up([*ids[:20], *range(90, 110)]) == 16
    assert starts.came_up(list(range(10))) == 0  # shorter than a block


def texts(rounds: int) -> list[list[Request]]:
    """Calls as an episode makes them: a fixed task, and what changes from step to step behind it."""
    draw, calls = random.Random(0), []
    for step in range(rounds):
        calls.append(
            [
                Request(
                    f"You write Python. Number {i % 7}. "
                    + "Count the vowels of a string. Return True or False. " * 4
                    + (f"Step {step}: " + "for x in text " * draw.randrange(9) if i % 2 else ""),
                    seed=100 * step + i,
                    max_new_tokens=12,
                )
                for i in range(14)
            ]
        )
    return calls


def test_later_calls_compute_only_what_is_new_and_write_the_same(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "tiny")
    model = load(str(folder), device="cpu", batch_size=8)
    shapes = embedded_shapes(model.model)
    tokens, calls = [], texts(4)
    for requests in calls:
        shapes.clear()
        got = model.generate(requests)
        tokens.append(sum(rows * width for rows, width in shapes) - sum(c.completion_tokens for c in got) + len(got))
        fresh = TransformersGenerator(model.model, model.tokenizer, "fresh", "1", batch_size=5)
        assert got == [fresh.generate([request])[0] for request in requests]
    assert tokens[2] < tokens[0] / 2 and tokens[3] < tokens[0] / 2  # the second call keeps what it sees again
    again = embedded_shapes(model.model)
    again.clear()
    model.generate(calls[3][::2])  # all of it came up before
    assert max(width for _, width in again) < Starts.block


def test_what_is_kept_is_bounded_for_a_model_too(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "tiny")
    model = load(str(folder), device="cpu", batch_size=8)
    kept = TransformersGenerator(model.model, model.tokenizer, "small", "1", batch_size=8)
    kept._starts = Starts(120_000)
    for requests in texts(3):
        assert kept.generate(requests) == model.generate(requests)
        assert sum(s.bytes for s in kept._starts.kept.values()) <= 120_000
    assert kept._starts.kept


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=70),
    groups=st.sampled_from([(4, 4), (6, 2), (3, 1)]),
    seed=st.integers(0, 99),
)
def test_attention_in_parts_is_attention(lengths: list[int], groups: tuple[int, int], seed: int) -> None:
    """Held against a softmax row by row over the columns that a row sees; what it does not see may be anything finite."""
    heads, shared = groups
    rows, columns = len(lengths), max(lengths)
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(rows, h, n, 8, generator=generator, dtype=torch.float64)
        for h, n in ((heads, 1), (shared, columns), (shared, columns))
    )
    mask = (torch.arange(columns) >= columns - torch.tensor(lengths)[:, None])[:, None, None]
    module = torch.nn.Module()
    module.num_key_value_groups = heads // shared
    found, _ = slots.attention_in_parts(module, query, key, value, mask)
    assert found.shape == (rows, 1, heads, 8)
    for row, length in enumerate(lengths):
        for head in range(heads):
            keys, values = (x[row, head * shared // heads, columns - length :] for x in (key, value))
            weights = (keys @ query[row, head, 0] / 8**0.5).softmax(0)
            torch.testing.assert_close(found[row, 0, head], weights @ values)


def test_a_long_row_does_not_make_the_others_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    whole = slots.sdpa_attention_forward

    def noted(module: object, query: torch.Tensor, key: torch.Tensor, *rest: object, **more: object) -> object:
        if query.shape[2] == 1:
            seen.append((len(query), key.shape[2]))
        return whole(module, query, key, *rest, **more)

    generator = load(str(save_llama(tmp_path / "llama", context=4096)), device="cpu", batch_size=64)
    short = [Request(f"row {i}", i, max_new_tokens=4, temperature=0.0) for i in range(40)]
    alone = [generator.generate([request])[0] for request in short]
    monkeypatch.setattr(slots, "sdpa_attention_forward", noted)
    together = generator.generate([Request("word " * 400, 0, max_new_tokens=4, temperature=0.0), *short])
    assert together[1:] == alone
    assert {rows for rows, columns in seen if columns > 400} == {16}
    assert sum(columns < 40 for _, columns in seen) == 2 * sum(columns > 400 for _, columns in seen)
