"""Figures: one function each, taking plain rows and returning a matplotlib figure; no numbers are computed elsewhere.

No figure has a colour twice for two things, nor more than two bands. A curve that lies on another is dashed over it, and
the legend says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .findings import LEAST
from .runs import TITLES

# Okabe and Ito (2008): colours that the colour-blind can tell apart; without yellow, which is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# As many as the table has rows, in its order: Petroff (2021, arXiv 2107.02270), and four more; markers tell them apart too
MANY = (
    *("#94a4a2", "#717581", "#b9ac70", "#a96b59", "#832db6", "#3f90da", "#000000"),
    *("#CC79A7", "#bd1f01", "#ffa90e", "#117733", "#e76300", "#332288", "#92dadb"),
)
SEEDS = tuple(colour for colour in dict.fromkeys(COLOURS + MANY) if colour != "#000000")  # black is their mean
MARKERS = "sD^vPXo*<>dHp8"
HATCHES = ("", "//", "..", "xx", "\\\\")
LINES = ("-", "--", ":", "-.", (0, (4, 1, 1, 1, 1, 1)))
Rows = Sequence[Mapping[str, Any]]


def show(figure: Figure, folder: str | Path, name: str) -> None:
    """Save as ``folder/name.png`` and ``.svg``, show in the notebook, and close."""
    from IPython.display import display

    Path(folder).mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        figure.savefig(Path(folder) / f"{name}.{suffix}", dpi=150, bbox_inches="tight", metadata=_METADATA[suffix])
    display(figure)
    plt.close(figure)


_METADATA: dict[str, dict[str, str | None]] = {"png": {"Software": None}, "svg": {"Date": None}}


def _axes(*titles: str, width: float = 6.4, height: float = 3.8, words: str = "") -> tuple[Figure, list[Any]]:
    """Axes side by side with these titles, and ``words`` in small print over all of them."""
    figure, axes = plt.subplots(1, len(titles), figsize=(width, height), layout="constrained", squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.set_title(title, fontsize=11)
    if words:
        figure.suptitle(words, fontsize=9, color="#444444")
    return figure, list(axes[0])


def _legend(axis: Any, beside: bool = True) -> None:
    axis.legend(fontsize=8, frameon=False, **({"loc": "upper left", "bbox_to_anchor": (1, 1)} if beside else {}))


def synthetic_curves(
    curves: Sequence[Sequence[float]], fixed: Mapping[str, float], oracle: float, steps_per_update: int
) -> Figure:
    """Exact expected return of each seed's policy after each update, against the fixed actions and the oracle."""
    figure, (axis,) = _axes("Synthetic task")
    updates = np.arange(1, len(curves[0]) + 1)
    for curve in curves:
        axis.plot(updates, curve, color=COLOURS[0], alpha=0.35, linewidth=1)
    label = f"PPO agent, mean of {len(curves)} seeds (thin)"
    axis.plot(updates, np.mean(curves, 0), color=COLOURS[0], linewidth=2.5, label=label)
    for (name, value), colour, line in zip(fixed.items(), COLOURS[1:], LINES[1:], strict=False):
        axis.axhline(value, color=colour, linestyle=line, label=f"always {name}")
    axis.axhline(oracle, color="black", label="oracle")
    axis.set(xlabel=f"PPO updates ({steps_per_update} steps each)", ylabel="expected return per episode")
    _legend(axis)
    return figure


def budget_curves(curves: Mapping[str, Rows], n: int) -> Figure:
    """Pass@1 against generations allowed per problem; Wilson bands of the agent and of the best of the others.

    ``curves``: by strategy, with ``_`` or a space in its name, which has its colour and marker in every figure. A
    run that went on past the budget of the others is drawn up to that.
    """
    budget = sorted(map(len, curves.values()))[-2:][0]
    shown = {name: curve[:budget] for name, curve in curves.items()}
    best = max((name for name in shown if name[:3] != "ppo"), key=lambda n: shown[n][-1]["pass_at_1"], default="")
    labels = _on_top({name: [p["pass_at_1"] for p in curve] for name, curve in shown.items()})
    figure, (axis,) = _axes(f"Solved share against budget, n = {n} problems, 1 seed")
    for name, curve in shown.items():
        colour, marker = _style(name.replace(" ", "_"))
        budgets, share = [point["budget"] for point in curve], [100 * point["pass_at_1"] for point in curve]
        line, label = labels[name]
        band = name in ("ppo", best)
        style: dict[str, Any] = {"color": colour, "marker": marker, "markeredgecolor": "white", "markeredgewidth": 0.6}
        axis.plot(budgets, share, line, label=label.replace("_", ", ") + " (band)" * band, **style)
        if band:
            low, high = np.array([point["pass_at_1_interval"] for point in curve]).T * 100
            axis.fill_between(budgets, low, high, color=colour, alpha=0.13, linewidth=0)
    axis.set(xlabel="code generations allowed per problem", ylabel="Pass@1 on held-out problems (%)")
    axis.set_xticks(range(1, budget + 1))
    _legend(axis)
    return figure


def _style(strategy: str) -> tuple[str, str]:
    """Colour and marker of a strategy."""
    index = list(TITLES).index(strategy)
    return MANY[index], MARKERS[index]


def _on_top(curves: Mapping[str, Sequence[float]]) -> dict[str, tuple[Any, str]]:
    """Line and label of each curve: dashed, and with the name of the one under it, where it lies on another."""
    first: dict[tuple[float, ...], str] = {}
    under = {name: first.setdefault(tuple(values), name) for name, values in curves.items()}
    return {name: ("-", name) if name == other else ("--", f"{name} = {other}") for name, other in under.items()}


def training_curves(metrics: Rows, actions: Sequence[str]) -> Figure:
    """Solved share, and the share of each of ``actions`` (as ``action_shares`` has them), of each update's episodes."""
    figure, (left, right) = _axes("Training, 1 seed", "Actions while training", width=10)
    episodes = [row["episodes"] for row in metrics]
    solved = 100 * np.array([row["solved_visible"] for row in metrics])
    left.plot(episodes, solved, "o", color="black", alpha=0.35, label="one update", markersize=4)
    left.plot(episodes, _running(solved), color="black", label="mean of the last 5 updates")
    left.set(xlabel="training episodes", ylabel="solved on visible asserts (%)", ylim=(0, 100))
    shares = 100 * np.array([row["action_shares"] for row in metrics])
    for name, share, colour, line in zip(actions, shares.T, itertools.cycle(COLOURS), itertools.cycle(LINES)):
        right.plot(episodes, share, color=colour, linestyle=line, label=name)
    right.set(xlabel="training episodes", ylabel="share of actions (%)", ylim=(0, 100))
    _legend(left, beside=False)
    _legend(right)
    return figure


def _running(values: Any, window: int = 5) -> list[float]:
    return [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]


def actions_by_step(attempts: Rows, actions: Mapping[int, str]) -> Figure:
    """Share of each action at each step of an evaluation; ``actions``: names by the number that an attempt has.

    They are drawn in the order that they are given in. Steps with fewer than five choices are left out.
    """
    steps, places = max(row["attempt"] for row in attempts) + 1, {number: i for i, number in enumerate(actions)}
    counts = np.zeros((steps, len(actions)), int)
    for row in attempts:
        counts[row["attempt"], places[row["action"]]] += 1
    drawn = {f"{i + 1}\nn = {row.sum()}": row for i, row in enumerate(counts) if row.sum() >= LEAST}
    figure, (axis,) = _axes("What the agent picks, evaluation, 1 seed")
    _stacked(axis, range(len(drawn)), drawn.values(), list(actions.values()))
    axis.set_xticks(range(len(drawn)), list(drawn))
    axis.set(xlabel=f"step of the episode (n = choices, {LEAST} or more)", ylabel="share of actions (%)", ylim=(0, 100))
    _legend(axis)
    return figure


def budget_and_tokens(curves: Mapping[str, Rows], bands: Sequence[str], words: str, budget: int) -> Figure:
    """Pass@1 against generations allowed and against tokens spent, one line per strategy, points for single attempts.

    ``curves``: by title; ``bands``: those with their 95 % band, the first in front; ``words``: over what. Left, a run that
    went on past the ``budget`` is cut there.
    """
    figure, axes = _axes("By generations", "By tokens", width=12, height=4.2, words=words)
    left = {name: [p["pass_at_1"] for p in curve[:budget]] for name, curve in curves.items()}
    labels = _on_top({name: values if len(values) > 1 else [float(i)] for i, (name, values) in enumerate(left.items())})
    order = sorted(curves, key=lambda name: -left[name][-1])
    for name in order:
        colour, marker = _style(next(strategy for strategy, title in TITLES.items() if title == name))
        style: dict[str, Any] = {"color": colour, "marker": marker, "markeredgecolor": "white"}
        style |= {"markersize": 6 if len(curves[name]) > 1 else 8, "markeredgewidth": 0.6}
        style["label"] = labels[name][1] + " (band)" * (name in bands)
        front = name in bands[:1]
        for axis, key, last in zip(axes, ("budget", "tokens"), (budget, None), strict=True):
            curve = curves[name][:last]
            x = [point[key] for point in curve]
            share, low, high = (100 * np.array([point[k] for point in curve]) for k in ("pass_at_1", "low", "high"))
            line = labels[name][0] if len(curve) > 1 else ""
            axis.plot(
                x,
                share,
                linestyle=line,
                linewidth=2.5 if front else 1.4,
                zorder=5 if not line else 4 if front else 3,
                **style,
            )
            if name in bands:
                axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes[0].set(xlabel="code generations allowed per problem", ylabel="Pass@1 (%)")
    axes[0].set_xticks(range(1, budget + 1))
    axes[1].set(xlabel="LLM tokens spent per problem, prompts included", xlim=(0, None))
    _legend(axes[1])
    return figure


def learning_curves(metrics: Mapping[int, Rows], words: str) -> Figure:
    """Solved share and mean return of the training episodes: running mean of each seed, and the mean over seeds."""
    titles = "Solved while training", "Return while training"
    figure, axes = _axes(*titles, width=10, words=f"{words}; running mean of 5 updates")
    shortest = min(len(rows) for rows in metrics.values())
    for axis, key, factor, label in (
        (axes[0], "solved_visible", 100, "solved on visible asserts (%)"),
        (axes[1], "mean_return", 1, "mean return of an episode"),
    ):
        smooth = []
        for i, (seed, rows) in enumerate(metrics.items()):
            smooth.append(_running([factor * row[key] for row in rows]))
            style = {
                "color": SEEDS[i % len(SEEDS)],
                "linestyle": LINES[1:][i % 4],
                "linewidth": 1.2,
                "label": f"seed {seed}",
            }
            axis.plot([row["episodes"] for row in rows], smooth[-1], **style)
        if len(smooth) > 1:
            episodes = [row["episodes"] for row in next(iter(metrics.values()))[:shortest]]
            mean = np.mean([line[:shortest] for line in smooth], 0)
            axis.plot(episodes, mean, color="black", linewidth=2.5, label="mean of the seeds")
        axis.set(xlabel="training episodes", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes[1])
    return figure


def action_shares(steps: Mapping[str, Any], errors: Mapping[str, Any], actions: Sequence[str], words: str) -> Figure:
    """Share of each action by step, and by the kind of error before it, one bar a seed.

    ``steps``, ``errors``: counts by action, by group and seed.
    """
    titles = "By step of the episode", "By the error seen before"
    figure, axes = _axes(*titles, width=11, words=words)
    for axis, groups, prefix in zip(axes, (steps, errors), ("step ", ""), strict=True):
        positions: list[float] = []
        ticks, bars = [], []
        for group, seeds in groups.items():
            start = positions[-1] + 1.8 if positions else 0.0
            middle = list(seeds)[len(seeds) // 2]
            for offset, (seed, counts) in enumerate(seeds.items()):
                positions.append(start + offset)
                ticks.append(f"{seed}\n{prefix}{group}" if seed == middle else str(seed))
                bars.append(counts)
        _stacked(axis, positions, bars, actions)
        axis.set_xticks(positions, ticks, fontsize=8)
        axis.set(xlabel="seed", ylim=(0, 100))
    axes[0].set(ylabel="share of actions (%)")
    _legend(axes[1])
    return figure


def failure_kinds(shares: Mapping[str, Sequence[Mapping[str, float]]], words: str) -> Figure:
    """Problems by strategy and seed, one bar a seed: solved, and the kind of the submitted program's first failure."""
    most = max(map(len, shares.values()))
    height = 1.7 + (0.28 + 0.08 * (most - 1)) * len(shares)
    figure, (axis,) = _axes("What became of the submitted programs", width=8.5, height=height, words=words)
    kinds = list(next(iter(shares.values()))[0])
    bars = [[seed[kind] for kind in kinds] for seeds in shares.values() for seed in seeds]
    thick = 0.8 / most
    places = [
        i + (j - (len(seeds) - 1) / 2) * thick for i, seeds in enumerate(shares.values()) for j in range(len(seeds))
    ]
    _stacked(axis, places, bars, [kind or "solved" for kind in kinds], horizontal=0.92 * thick)
    axis.set_yticks(range(len(shares)), list(shares))
    axis.margins(y=0.02)
    axis.set(xlabel="share of problems (%)", xlim=(0, 100))
    axis.invert_yaxis()
    _legend(axis)
    return figure


def gaps(found: Mapping[str, Any], words: str) -> Figure:
    """By strategy, the share of problems that look solved by the visible asserts and are not, with its interval."""
    figure, (axis,) = _axes("Visible minus hidden", width=8.5, height=1.7 + 0.28 * len(found), words=words)
    gap, low, high = 100 * np.array([(row[2], *row[3]) for row in found.values()]).T
    axis.errorbar(gap, list(found), xerr=[gap - low, high - gap], fmt="o", color=COLOURS[0], capsize=3)
    axis.set(xlabel="pass all visible asserts, fail another (% of problems)", xlim=(0, None))
    axis.invert_yaxis()
    axis.margins(y=0.1)
    return figure


def coverage(bounds: Sequence[tuple[int, float, float]], words: str) -> Figure:
    """Between which bounds the share of problems lies of which any of k draws of resampling is right."""
    figure, (axis,) = _axes("Coverage of resampling", words=words)
    k, low, high = np.array(bounds).T
    axis.fill_between(k, 100 * low, 100 * high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axis.plot(k, 100 * high, "^--", color=COLOURS[1], markersize=4, label="upper bound: a visible pass among k")
    axis.plot(k, 100 * low, "o-", color=COLOURS[0], markersize=4, label="lower bound: Pass@1 with k draws")
    axis.set(xlabel="draws k", ylabel="share of problems (%)")
    axis.xaxis.get_major_locator().set_params(integer=True)
    _legend(axis, beside=False)
    return figure


def pass_at_k(banks: Mapping[str, Mapping[str, Sequence[tuple[int, float, float, float]]]], words: str) -> Figure:
    """Unbiased pass@k of each action's first attempts, a panel for each bank by its name, with the band of the first."""
    titles = [f"pass@k of the bank, {name}" for name in banks]
    figure, axes = _axes(*titles, width=max(6.4, 3.6 * len(banks)), words=words)
    for axis, curves in zip(axes, banks.values(), strict=True):
        labels = _on_top({name: [point[1] for point in points] for name, points in curves.items()})
        for i, (name, points) in enumerate(curves.items()):
            k, share, low, high = np.array(points).T
            line, label = labels[name]
            style = {"marker": MARKERS[i], "linestyle": LINES[i] if line == "-" else line, "color": COLOURS[i]}
            axis.plot(k, 100 * share, label=label + " (band)" * (i == 0), **style)
            if i == 0:
                axis.fill_between(k, 100 * low, 100 * high, color=COLOURS[0], alpha=0.15, linewidth=0)
        axis.sharey(axes[0])
        axis.set(xlabel="draws k")
        axis.xaxis.get_major_locator().set_params(integer=True)
        _legend(axis, beside=False)
    axes[0].set(ylabel="first attempts (%)")
    return figure


def _stacked(
    axis: Any,
    positions: Sequence[float],
    bars: Iterable[Sequence[float]],
    names: Sequence[str],
    horizontal: float = 0.0,
) -> None:
    """Bars of shares that sum to 100 %, one at each position; ``bars``: counts or shares by name.

    ``horizontal``: how thick they are if they lie.
    """
    heights = np.array([100 * np.asarray(bar) / np.sum(bar) for bar in bars]).reshape(len(positions), len(names)).T
    before = np.zeros(len(positions))
    for name, height, colour, hatch in zip(names, heights, itertools.cycle(COLOURS), itertools.cycle(HATCHES)):
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5, "label": name}
        if horizontal:
            axis.barh(positions, height, left=before, height=horizontal, **style)
        else:
            axis.bar(positions, height, bottom=before, width=0.85, **style)
        before += height
