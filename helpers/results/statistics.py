"""Statistics of paired outcomes: exact McNemar, Holm, and bootstraps that resample problems and seeds.

Outcomes of one strategy are an array [seeds, problems]: solved (0 or 1) or the share of asserts passed. The same column
is the same problem everywhere. Wilson's interval is in :mod:`scoring`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import scoring

RESAMPLES = 10_000
Interval = tuple[float, float]


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact McNemar test (McNemar 1947, binomial form).

    ``wins`` and ``losses`` count the problems that only the first, only the second strategy solved. Under the null
    hypothesis each of them is a fair coin; without any the p-value is 1.
    """
    if min(wins, losses) < 0:
        raise ValueError(f"wins = {wins} and losses = {losses} must be counts, 0 or more")
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**n)


def wins_and_losses(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """Problems that ``first`` solves in more, and in fewer, of the seeds than ``second``; two arrays [seeds, problems].

    With one seed these are the discordant pairs of McNemar's test. With several it becomes the exact sign test, whose
    unit is still the problem: outcomes of one problem under several seeds are not independent, so they are not pooled.
    """
    a, b = _paired(first, second)
    difference = np.sign(a.sum(0) - b.sum(0))
    return int((difference > 0).sum()), int((difference < 0).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for a family of tests by Holm's step-down method (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def bootstrap_means(values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Means of ``resamples`` bootstrap samples of an array [seeds, problems].

    Each sample draws problems and, independently, seeds with replacement, and takes the mean over the drawn rows and
    columns (the pigeonhole bootstrap, Owen 2007). With one seed only problems are drawn. The draws depend on ``seed``
    and the shape alone, so they are the same problems for every strategy.

    Intervals from it are conservative where problems differ more than seeds. Where seeds differ much and are few they
    are too short: simulated coverage 87 % for 3 seeds of 500 problems whose Pass@1 has a deviation of 6 points.
    """
    array = _matrix(values)
    if resamples < 1:
        raise ValueError(f"resamples = {resamples} must be more than 0")
    rng, (seeds, problems) = np.random.default_rng(seed), array.shape
    columns = rng.multinomial(problems, np.full(problems, 1 / problems), size=resamples) / problems
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return np.einsum("rs,rs->r", rows, columns @ array.T)


def bootstrap_interval(
    values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the mean of an array [seeds, problems], by :func:`bootstrap_means`."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(bootstrap_means(values, seed, resamples), [tail, 1 - tail])
    return float(low), float(high)


def share_interval(solved: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95) -> Interval:
    """Interval of a share of solved problems, from 0/1 outcomes [seeds, problems].

    Wilson's for one seed. For several, the bootstrap with seeds as a level; where all outcomes are equal no resample
    differs, and it is Wilson's over the problems, as if the seeds were one.
    """
    array = _matrix(solved)
    if array.shape[0] == 1 or array.min() == array.max():
        return scoring.wilson(int(array[0].sum()), array.shape[1], confidence)
    return bootstrap_interval(array, seed, resamples, confidence)


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of ``first - second`` and its percentile interval; two arrays [seeds, problems], paired in both."""
    a, b = _paired(first, second)
    return (float((a - b).mean()), *bootstrap_interval(a - b, seed, resamples, confidence))


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"outcomes must be an array [seeds, problems], not of shape {array.shape}")
    return array


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _matrix(first), _matrix(second)
    if a.shape != b.shape:
        raise ValueError(f"paired outcomes must have one shape, not {a.shape} and {b.shape}")
    return a, b
