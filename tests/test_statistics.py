"""Statistics against statsmodels and SciPy, properties, and coverage in seeded simulations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.results import scoring, statistics
from scipy.stats import binomtest, bootstrap
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

counts = st.integers(0, 400)
shares = st.floats(0, 1)


@given(counts, counts)
@example(0, 0)
@example(1, 0)
@example(7, 7)
def test_mcnemar_against_statsmodels_and_symmetric(wins, losses):
    p = statistics.mcnemar_exact(wins, losses)
    expected = mcnemar([[9, wins], [losses, 5]], exact=True).pvalue if wins + losses else 1.0
    assert p == pytest.approx(expected, rel=1e-9) and 0 < p <= 1
    assert p == statistics.mcnemar_exact(losses, wins)


def test_mcnemar_by_hand_and_counts_that_are_none():
    assert statistics.mcnemar_exact(5, 0) == 2 / 32 and statistics.mcnemar_exact(4, 1) == 12 / 32
    with pytest.raises(ValueError, match="losses = -1"):
        statistics.mcnemar_exact(3, -1)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_with_one_seed_wins_and_losses_are_the_discordant_pairs(first, data):
    second = data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first)))
    wins, losses = statistics.wins_and_losses([first], [second])
    table = np.zeros((2, 2))
    np.add.at(table, (np.asarray(first, int), np.asarray(second, int)), 1)
    assert (wins, losses) == (table[1, 0], table[0, 1])


def test_with_several_seeds_the_problem_stays_the_unit():
    first = [[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0]]
    second = [[0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 1]]  # won by all, a tie, lost by one, a tie
    assert statistics.wins_and_losses(first, second) == (1, 1)
    tripled = statistics.wins_and_losses(np.repeat(first[:1], 3, 0), np.repeat(second[:1], 3, 0))
    assert tripled == statistics.wins_and_losses(first[:1], second[:1])  # the same run thrice is no new evidence


@settings(max_examples=25, deadline=None)
@given(st.lists(shares, max_size=20))
@example([0.01, 0.01, 0.04])
def test_holm_against_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1] if p_values else []
    assert statistics.holm(p_values) == pytest.approx(list(expected), abs=1e-12)


@given(st.lists(shares, min_size=1, max_size=12), st.randoms())
def test_holm_is_monotone_never_smaller_and_blind_to_order(p_values, random):
    adjusted = statistics.holm(p_values)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert all(p <= q <= 1 for p, q in pairs)
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(pairs))
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert statistics.holm([p_values[i] for i in order]) == [adjusted[i] for i in order]
    smaller = statistics.holm([*p_values, 1.0])  # one more test in the family never helps the others
    assert all(q <= s for q, s in zip(adjusted, smaller, strict=False))


def outcomes(seeds: int, problems: int, rng: np.random.Generator, mean: float = 0.5, spread: float = 0.0):
    """0/1 outcomes with difficulty by problem and quality by seed, on average near ``mean``."""
    ability = spread * rng.standard_normal((seeds, 1)) + 1.2 * rng.standard_normal((1, problems))
    chance = 1 / (1 + np.exp(-(np.log(mean / (1 - mean)) + ability)))
    return (rng.random((seeds, problems)) < chance).astype(int)


def test_bootstrap_over_problems_against_scipy():
    values = np.random.default_rng(1).random((1, 80)) ** 2
    expected = bootstrap(
        (values[0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert statistics.bootstrap_interval(values, resamples=20_000) == pytest.approx(tuple(expected), abs=0.004)


def test_bootstrap_draws_rows_and_columns_as_a_loop_would():
    values = outcomes(3, 20, np.random.default_rng(3))
    rng, means = np.random.default_rng(4), []
    for _ in range(20_000):
        rows, columns = rng.integers(0, 3, 3), rng.integers(0, 20, 20)
        means.append(values[rows][:, columns].mean())
    drawn = statistics.bootstrap_means(values, resamples=20_000)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.003)
    assert drawn.std() == pytest.approx(np.std(means), rel=0.03)
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_bootstrap_is_seeded_and_uses_the_same_problems_for_every_strategy():
    rng = np.random.default_rng(5)
    a, b = outcomes(3, 40, rng), outcomes(3, 40, rng)
    one, two = statistics.bootstrap_means(a, seed=7), statistics.bootstrap_means(b, seed=7)
    assert np.array_equal(one, statistics.bootstrap_means(a, seed=7))
    assert not np.array_equal(one, statistics.bootstrap_means(a, seed=8))
    assert one - two == pytest.approx(statistics.bootstrap_means(a - b, seed=7))


def test_paired_bootstrap_of_equal_and_of_shifted_outcomes():
    a = outcomes(2, 50, np.random.default_rng(6))
    assert statistics.paired_bootstrap(a, a) == (0, 0, 0)
    assert statistics.paired_bootstrap(a + 0.25, a) == pytest.approx((0.25, 0.25, 0.25))
    b = a.copy()
    b[:, :10] = 1 - b[:, :10]
    difference, low, high = statistics.paired_bootstrap(a, b)
    assert statistics.paired_bootstrap(b, a)[0] == -difference and low <= difference <= high


def test_pairing_makes_the_interval_shorter_when_outcomes_agree():
    a = outcomes(1, 200, np.random.default_rng(8))
    b = a.copy()
    b[0, :10] = 0
    _, low, high = statistics.paired_bootstrap(a, b)
    unpaired = np.quantile(
        statistics.bootstrap_means(a, seed=1) - statistics.bootstrap_means(b, seed=2), [0.025, 0.975]
    )
    assert high - low < 0.5 * (unpaired[1] - unpaired[0])


def test_share_interval_is_wilson_s_for_one_seed_and_never_empty():
    solved = outcomes(1, 50, np.random.default_rng(9))
    successes = int(solved.sum())
    expected = proportion_confint(successes, 50, method="wilson")
    assert statistics.share_interval(solved) == pytest.approx(expected, abs=1e-12)
    interval = binomtest(successes, 50).proportion_ci(method="wilson")
    assert statistics.share_interval(solved) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert statistics.share_interval(np.zeros((3, 50))) == scoring.wilson(0, 50)
    assert statistics.share_interval(np.ones((3, 50))) == scoring.wilson(50, 50)


@pytest.mark.parametrize(
    ("seeds", "problems", "mean", "spread"), [(1, 50, 0.5, 0), (1, 500, 0.1, 0), (3, 50, 0.6, 0.15), (5, 100, 0.3, 0.3)]
)
def test_intervals_cover_at_the_nominal_rate(seeds, problems, mean, spread):
    rng, hits, trials = np.random.default_rng(10), 0, 600
    truth = outcomes(4000, 500, rng, mean, spread).mean()
    for _ in range(trials):
        low, high = statistics.share_interval(outcomes(seeds, problems, rng, mean, spread), resamples=400)
        hits += low <= truth <= high
    assert hits / trials <= 0.995
    # three standard errors of a share of 600 below 95 %, one point for the truth's own error; above: conservative
    assert hits / trials >= 0.913


def test_few_seeds_that_differ_much_are_covered_less_as_the_docstring_says():
    rng, hits, trials = np.random.default_rng(13), 0, 300
    truth = outcomes(4000, 500, rng, 0.5, 0.3).mean()
    for _ in range(trials):
        low, high = statistics.bootstrap_interval(outcomes(3, 500, rng, 0.5, 0.3), resamples=400)
        hits += low <= truth <= high
    assert 0.82 <= hits / trials <= 0.92, hits / trials


def test_paired_interval_covers_a_true_difference():
    rng, hits, trials, problems = np.random.default_rng(11), 0, 600, 60
    many = rng.standard_normal(1_000_000) + 0.1 * rng.standard_normal(1_000_000)
    truth = np.mean(1 / (1 + np.exp(-many - 0.5)) - 1 / (1 + np.exp(-many)))
    for _ in range(trials):
        ability = rng.standard_normal((1, problems))
        first, second = (
            rng.random((3, problems)) < 1 / (1 + np.exp(-ability - shift - 0.1 * rng.standard_normal((3, 1))))
            for shift in (0.5, 0.0)
        )
        _, low, high = statistics.paired_bootstrap(first, second, resamples=400)
        hits += low <= truth <= high
    assert 0.913 <= hits / trials <= 0.998, hits / trials


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 999))
def test_variances_are_those_of_the_mean_squares_of_statsmodels(seeds, problems, seed):
    values = np.random.default_rng(seed).integers(-1, 2, (seeds, problems)).astype(float)
    rows, columns = (np.eye(n)[i.ravel()][:, 1:] for n, i in zip(values.shape, np.indices(values.shape), strict=True))
    one = np.ones((values.size, 1))
    left = {  # residual sums of squares of the nested linear models
        name: OLS(values.ravel(), np.hstack([one, *parts])).fit().ssr
        for name, parts in (("both", [rows, columns]), ("no rows", [columns]), ("no columns", [rows]))
    }
    rest = left["both"] / ((seeds - 1) * (problems - 1))
    of_rows, of_columns = (
        (left[name] - left["both"]) / (count - 1) for name, count in (("no rows", seeds), ("no columns", problems))
    )
    expected = max(0, (of_rows - rest) / problems), max(0, (of_columns - rest) / seeds), rest
    assert statistics.variances(values) == pytest.approx(expected, abs=1e-9)


def test_variances_of_known_effects_and_of_one_seed():
    rng, found = np.random.default_rng(14), []
    for _ in range(200):
        effects = 0.3 * rng.standard_normal((6, 1)) + 0.5 * rng.standard_normal((1, 50))
        found.append(statistics.variances(effects + 0.4 * rng.standard_normal((6, 50))))
    assert np.mean(found, 0) == pytest.approx([0.09, 0.25, 0.16], rel=0.1)
    values = rng.standard_normal((1, 40))
    assert statistics.variances(values) == (0, pytest.approx(values.var(ddof=1)), 0)


@given(st.integers(2, 600), st.floats(0.01, 2), st.floats(0.001, 0.1), st.floats(0.5, 0.99))
def test_the_detectable_difference_against_statsmodels(n, deviation, level, power):
    found = statistics.detectable(statistics.Variances(0, deviation**2, 0), 1, n, level, power)
    chance = NormalIndPower().power(found / deviation, n, level, ratio=0)  # of a one-sample z-test
    assert chance == pytest.approx(power, abs=0.001)  # theirs counts the other tail too, less than that at 10 %


def test_the_detectable_difference_is_found_as_often_as_it_says():
    rng, spread = np.random.default_rng(15), statistics.Variances(0.01, 0.16, 0.09)
    seeds, problems, trials = 4, 60, 4000
    means = (
        0.1 * rng.standard_normal((trials, seeds)).mean(1)
        + 0.4 * rng.standard_normal((trials, problems)).mean(1)
        + 0.3 * rng.standard_normal((trials, seeds * problems)).mean(1)
    )
    error = statistics.detectable(spread, seeds, problems, power=0.5) / 1.959964  # half the power: at the bound itself
    difference = statistics.detectable(spread, seeds, problems)
    assert np.mean(np.abs(means + difference) > 1.959964 * error) == pytest.approx(0.8, abs=0.02)
    assert np.mean(np.abs(means) > 1.959964 * error) == pytest.approx(0.05, abs=0.012)


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        statistics.bootstrap_means([0, 1, 1])
    with pytest.raises(ValueError, match="one shape"):
        statistics.paired_bootstrap([[0, 1]], [[0, 1], [1, 1]])
    with pytest.raises(ValueError, match="resamples = 0"):
        statistics.bootstrap_interval([[0, 1]], resamples=0)
    with pytest.raises(ValueError, match="outcomes must be"):
        statistics.share_interval(np.zeros((3, 0)))
