"""The token that a request draws: the same one for the same request, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .contract import Request

_TOP_K = (64, 2048)  # candidates to look at: 64 hold most nuclei at usual settings; then more, then the vocabulary
_LOOK = 16  # of these, those that are looked at first
_BLOCK = 128  # neighbours in the vocabulary; what is largest in each block is looked at before all else
_CACHE = 2**22  # bytes of float32 logits that are worked on together on a CPU: they stay in its caches


def uniforms(seeds: np.ndarray, steps: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """One uniform in (0, 1) per (seed, step, token id), as a hash of the three: there is no state to share or order.

    SplitMix64's finaliser (Steele, Lea and Flood 2014) over each counter in turn. Arrays broadcast; float64.
    """

    def mix(x: np.ndarray) -> np.ndarray:
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64
        x = mix(seeds.astype(np.uint64) + golden)
        x = mix(x + golden * (steps.astype(np.uint64) + np.uint64(1)))
        x = mix(x + golden * (tokens.astype(np.uint64) + np.uint64(1)))
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def sample(logits: torch.Tensor, rows: Sequence[tuple[Request, int]]) -> list[int]:
    """One token id per row of ``logits`` (floats [rows, vocabulary]); ``rows`` has each row's request and step.

    The nucleus (Holtzman et al. 2020) is the smallest set of most likely tokens, ties by token id, that holds at
    least ``top_p``. Within it, the largest log-probability plus Gumbel noise wins (Gumbel 1954), and the noise is
    keyed by (seed, step, token id): like prompts with one seed get like texts, which makes comparisons less noisy.
    """
    vocabulary = logits.shape[1]
    temperature = torch.tensor([request.temperature or 1.0 for request, _ in rows], device=logits.device)[:, None]
    chosen, left = np.zeros(len(rows), dtype=np.int64), np.arange(len(rows))
    for size in (*_TOP_K, vocabulary):
        some = slice(None) if len(left) == len(rows) else left.tolist()
        logp, ids = (x.cpu().numpy() for x in _likeliest(logits[some], temperature[some], min(size, vocabulary)))
        for first in sorted({min(_LOOK, ids.shape[1]), ids.shape[1]}):  # the likeliest come first, and most often do
            token, enough = _choose(logp[:, :first], ids[:, :first], [rows[i] for i in left.tolist()], vocabulary)
            chosen[left[enough]], left = token[enough], left[~enough]
            logp, ids = logp[~enough], ids[~enough]
            if not len(left):
                break
        if not len(left):
            break
    tokens: list[int] = chosen.tolist()
    return tokens


def _likeliest(logits: torch.Tensor, temperature: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and ids [rows, size] of each row's ``size`` most likely tokens, the likeliest first.

    Level with the last of them there may be others. On a CPU a few rows at a time, which are read once from memory and
    never copied as a whole.
    """
    at_once = len(logits) if logits.is_cuda else max(1, _CACHE // (4 * logits.shape[1]))
    parts = zip(logits.split(at_once), temperature.split(at_once), strict=True)
    logp, ids = zip(*(_likeliest_at_once(some, t, size) for some, t in parts), strict=True)
    return torch.cat(logp), torch.cat(ids)


def _likeliest_at_once(logits: torch.Tensor, temperature: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    scaled = logits.float() / temperature
    blocks = scaled.shape[1] // _BLOCK
    if size < blocks:
        # The size largest of a row lie in the size blocks with the largest maxima, and behind the last whole block.
        largest = scaled[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK)).amax(-1).topk(size, sorted=False).indices
        inside = torch.arange(_BLOCK, device=scaled.device)
        places = (largest[:, :, None] * _BLOCK + inside).flatten(1)
        behind = torch.arange(blocks * _BLOCK, scaled.shape[1], device=scaled.device)
        places = torch.cat([places, behind.expand(len(scaled), -1)], 1)
        top, at = scaled.gather(1, places).topk(size)
        ids = places.gather(1, at)
    else:
        top, ids = scaled.topk(size)
    peak = top[:, :1].clone()
    return top - peak - scaled.sub_(peak).exp_().sum(-1, keepdim=True).log(), ids


def _choose(
    logp: np.ndarray, ids: np.ndarray, rows: Sequence[tuple[Request, int]], vocabulary: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose among the candidates ``ids`` [rows, k] with ``logp``; also whether the k candidates were enough."""
    order = np.lexsort((ids, -logp), axis=-1)
    logp = np.take_along_axis(logp, order, -1).astype(np.float64)
    ids = np.take_along_axis(ids, order, -1)
    top_p = np.array([request.top_p for request, _ in rows])[:, None]
    greedy = np.array([request.temperature == 0 for request, _ in rows])
    mass = np.exp(logp)
    inside = np.cumsum(mass, -1) - mass < top_p
    # Candidates level with the last one may have equals beyond the k: only those above it are known to be in order.
    above = logp > logp[:, -1:]
    enough = np.where(greedy, above[:, 0], (mass * above).sum(-1) >= top_p[:, 0])
    seeds = np.array([request.seed for request, _ in rows], dtype=np.uint64)[:, None]
    steps = np.array([step for _, step in rows])[:, None]
    noise = -np.log(-np.log(uniforms(seeds, steps, ids)))
    best = np.where(greedy, 0, np.argmax(np.where(inside, logp + noise, -np.inf), -1))
    return ids[np.arange(len(ids)), best], enough | (ids.shape[1] == vocabulary)
