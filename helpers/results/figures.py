"""Figures: one function each, taking plain rows and returning a matplotlib figure; no numbers are computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito (2008): eight colours that the colour-blind can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
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


def _axes(columns: int = 1, width: float = 6.4) -> tuple[Figure, list[Any]]:
    figure, axes = plt.subplots(1, columns, figsize=(width, 3.8), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure, list(axes[0])


def synthetic_curves(
    curves: Sequence[Sequence[float]], fixed: Mapping[str, float], oracle: float, steps_per_update: int
) -> Figure:
    """Exact expected return of each seed's policy after each update, against the fixed actions and the oracle."""
    figure, (axis,) = _axes()
    updates = np.arange(1, len(curves[0]) + 1)
    for curve in curves:
        axis.plot(updates, curve, color=COLOURS[0], alpha=0.35, linewidth=1)
    axis.plot(
        updates, np.mean(curves, 0), color=COLOURS[0], linewidth=2.5, label=f"PPO agent, mean of {len(curves)} seeds"
    )
    for (name, value), colour in zip(fixed.items(), COLOURS[1:], strict=False):
        axis.axhline(value, color=colour, linestyle="--", label=f"always {name}")
    axis.axhline(oracle, color="black", label="oracle")
    axis.set(
        xlabel=f"PPO updates ({steps_per_update} steps each)",
        ylabel="expected return per episode",
        title="Synthetic task",
    )
    axis.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.12))
    return figure


def budget_curves(curves: Mapping[str, Rows], n: int) -> Figure:
    """Pass@1 against generations allowed per problem, one line per strategy with its Wilson band."""
    figure, (axis,) = _axes()
    for (name, curve), colour, marker in zip(curves.items(), COLOURS, "osD^vPX*", strict=False):
        budgets = [point["budget"] for point in curve]
        low, high = np.array([point["pass_at_1_interval"] for point in curve]).T * 100
        axis.plot(
            budgets, [100 * p["pass_at_1"] for p in curve], marker=marker, color=colour, label=name.replace("_", ", ")
        )
        axis.fill_between(budgets, low, high, color=colour, alpha=0.08)
    axis.set(xlabel="code generations allowed per problem", ylabel="Pass@1 on held-out problems (%)", xticks=budgets)
    axis.set_title(f"Solved share against budget, n = {n} problems, 1 seed")
    axis.legend(fontsize=8)
    return figure


def training_curves(metrics: Rows, actions: Sequence[str]) -> Figure:
    """Solved share and action shares of the training episodes of each update."""
    figure, (left, right) = _axes(2, 10)
    episodes = [row["episodes"] for row in metrics]
    solved = 100 * np.array([row["solved_visible"] for row in metrics])
    running = [solved[max(0, i - 4) : i + 1].mean() for i in range(len(solved))]
    left.plot(episodes, solved, "o", color=COLOURS[0], alpha=0.4, label="one update")
    left.plot(episodes, running, color=COLOURS[0], label="mean of the last 5 updates")
    left.set(
        xlabel="training episodes", ylabel="solved on visible asserts (%)", ylim=(0, 100), title="Training, 1 seed"
    )
    shares = 100 * np.array([row["action_shares"] for row in metrics])
    for i, (name, colour, style) in enumerate(zip(actions, COLOURS, ("-", "--", ":"), strict=False)):
        right.plot(episodes, shares[:, i], color=colour, linestyle=style, label=name)
    right.set(xlabel="training episodes", ylabel="share of actions (%)", ylim=(0, 100), title="Actions while training")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    return figure


def actions_by_step(attempts: Rows, actions: Sequence[str]) -> Figure:
    """Share of each action at each step of an evaluation, as stacked bars."""
    figure, (axis,) = _axes()
    steps = max(row["attempt"] for row in attempts) + 1
    counts = np.zeros((steps, len(actions)))
    for row in attempts:
        counts[row["attempt"], row["action"]] += 1
    totals, bottom = counts.sum(1), np.zeros(steps)
    labels = [f"{step + 1}\nn = {int(total)}" for step, total in enumerate(totals)]
    for i, (name, colour, hatch) in enumerate(zip(actions, COLOURS, ("", "//", ".."), strict=False)):
        height = 100 * counts[:, i] / totals
        axis.bar(labels, height, bottom=bottom, color=colour, hatch=hatch, edgecolor="white", label=name)
        bottom += height
    axis.set(
        xlabel="step of the episode", ylabel="share of actions (%)", title="What the agent picks, evaluation, 1 seed"
    )
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the ``index``-th of up to 14 strategies (without yellow, which is faint as a line)."""
    colours = [colour for colour in COLOURS if colour != "#F0E442"]
    line = ("-", "--")[index // len(colours) % 2]
    return {"color": colours[index % len(colours)], "marker": "osD^vPX*<>hdp8"[index % 14], "linestyle": line}


def budget_and_tokens(curves: Mapping[str, Rows], names: Sequence[str], agent: str, words: str) -> Figure:
    """Pass@1 against generations allowed and against tokens spent, one line per strategy with its 95 % band.

    ``names``: all strategies, which fixes the style of each; ``agent``: the one in front; ``words``: over what.
    """
    figure, axes = _axes(2, 12)
    single = [name for name, curve in curves.items() if len(curve) == 1]
    for name, curve in curves.items():
        style, front = _style(list(names).index(name)), name == agent
        share, low, high = (100 * np.array([point[key] for point in curve]) for key in ("pass_at_1", "low", "high"))
        for axis, key in zip(axes, ("budget", "tokens"), strict=True):
            x = np.array([point[key] for point in curve], float)
            if name in single:  # one attempt by definition: a point with its interval, beside the others of its kind
                x += 0.06 * (single.index(name) - (len(single) - 1) / 2) * (key == "budget")
                axis.errorbar(x, share, [share - low, high - share], label=name, capsize=3, **style)
            else:
                axis.plot(x, share, label=name, markersize=5, linewidth=3 if front else 1.3, zorder=2 + front, **style)
                axis.fill_between(x, low, high, color=style["color"], alpha=0.2 if front else 0.05)
    axes[0].set(xlabel="code generations allowed per problem", ylabel="Pass@1 (%)")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    axes[1].set(xlabel="LLM tokens spent per problem, prompts included", xlim=(0, None))
    by_name = dict(zip(*axes[1].get_legend_handles_labels()[::-1], strict=True))
    axes[1].legend([by_name[n] for n in curves], list(curves), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"Solved share against budget: {words}", fontsize=10)
    return figure


def learning_curves(metrics: Mapping[int, Rows], words: str, window: int = 5) -> Figure:
    """Solved share and mean return of the training episodes, each seed (running mean) and the mean over seeds."""
    figure, axes = _axes(2, 10)
    shortest = min(len(rows) for rows in metrics.values())
    for axis, key, factor, label in (
        (axes[0], "solved_visible", 100, "solved on visible asserts (%)"),
        (axes[1], "mean_return", 1, "mean return of an episode"),
    ):
        smooth: list[list[float]] = []
        for rows in metrics.values():
            values = [factor * row[key] for row in rows]
            smooth.append([np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))])
            episodes = [row["episodes"] for row in rows]
            first = "_" * bool(smooth[1:])  # a label that starts so stands in no legend
            axis.plot(episodes, values, "o", color=COLOURS[5], alpha=0.35, markersize=3, label=f"{first}one update")
            axis.plot(episodes, smooth[-1], color=COLOURS[0], alpha=0.4, linewidth=1, label=f"{first}one seed")
        mean = np.mean([line[:shortest] for line in smooth], 0)
        axis.plot(episodes[:shortest], mean, color=COLOURS[0], linewidth=2.5, label="mean of the seeds")
        axis.set(xlabel="training episodes", ylabel=label)
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"Training, running mean of {window} updates: {words}", fontsize=10)
    return figure


def action_shares(steps: Mapping[str, Any], errors: Mapping[str, Any], actions: Sequence[str], words: str) -> Figure:
    """Share of each action by step, and by the kind of error before it; values are counts by action."""
    figure, axes = _axes(2, 11)
    for axis, groups, label in (
        (axes[0], steps, "step of the episode"),
        (axes[1], errors, "kind of error that the agent saw before it acted"),
    ):
        labels = [f"{name}\nn = {sum(counts)}" for name, counts in groups.items()]
        heights = {
            name: [100 * counts[i] / sum(counts) for counts in groups.values()] for i, name in enumerate(actions)
        }
        _stacked(axis, labels, heights)
        axis.set(xlabel=label, ylim=(0, 100))
    axes[0].set(ylabel="share of actions (%)")
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"What the agent picks: {words}", fontsize=10)
    return figure


def failure_kinds(shares: Mapping[str, Mapping[str, float]], words: str) -> Figure:
    """Problems by strategy: solved, and the kind of the first failure of the submitted program."""
    figure, (axis,) = _axes(1, 8.5)
    figure.set_figheight(1.5 + 0.28 * len(shares))
    kinds = list(next(iter(shares.values())))
    heights = {kind or "solved": [100 * row[kind] for row in shares.values()] for kind in kinds}
    _stacked(axis, list(shares), heights, horizontal=True)
    axis.set(xlabel="share of problems (%)", xlim=(0, 100))
    axis.invert_yaxis()
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"What became of the submitted programs\n{words}", fontsize=10)
    return figure


def gaps(found: Mapping[str, Any], words: str) -> Figure:
    """By strategy, the share of problems that look solved by the visible asserts and are not, with its interval."""
    figure, (axis,) = _axes(1, 8.5)
    figure.set_figheight(1.5 + 0.28 * len(found))
    gap, low, high = 100 * np.array([(row[2], *row[3]) for row in found.values()]).T
    axis.errorbar(gap, list(found), xerr=[gap - low, high - gap], fmt="o", color=COLOURS[1], capsize=3)
    axis.set(xlabel="pass all visible asserts, fail another (% of problems)", xlim=(0, None))
    axis.invert_yaxis()
    axis.margins(y=0.1)
    figure.suptitle(f"Visible minus hidden\n{words}", fontsize=10)
    return figure


def _stacked(
    axis: Any, labels: Sequence[str], heights: Mapping[str, Sequence[float]], horizontal: bool = False
) -> None:
    before = np.zeros(len(labels))
    axis.set_axisbelow(True)
    hatches = ("", "//", "..", "xx", "\\\\")
    for (name, values), colour, hatch in zip(heights.items(), COLOURS, hatches, strict=False):
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": name}
        if horizontal:
            axis.barh(labels, values, left=before, **style)
        else:
            axis.bar(labels, values, bottom=before, **style)
        before += values
