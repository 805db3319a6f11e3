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
