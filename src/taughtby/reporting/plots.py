"""Plots with matplotlib, on white, with the name of each line and point beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taughtby.capture.layer_similarity import LayerSimilarity
from taughtby.errors import OptionError
from taughtby.text import make_visible

FIRST = "#8a3b12"
# distinguishable with most colour vision deficiencies, and in grey
COLOURS = (FIRST, "#1b6ca8", "#2e7d32", "#7b3fa0", "#c08a00", "#0f8b8d")
DARK, GREY = "#555555", "#9a9a9a"
APART = 0.042  # share of the plot's height between two names


def layer_curve(curve: LayerSimilarity, path: str | Path) -> None:
    """Plot the similarity of each layer to the one before, with the phase transition, as PNG, SVG or PDF."""
    figure, axes = _blank((7, 3.2))
    axes.plot(range(2, len(curve.similarity) + 2), curve.similarity, marker="o", markersize=3, color=FIRST)
    if curve.transition_layer > 0:
        axes.axvline(
            curve.transition_layer,
            color=FIRST,
            linestyle=":",
            label=f"phase transition: layer {curve.transition_layer}",
        )
        axes.legend(frameon=False)
    axes.set(xlabel="layer", ylabel="mean cosine with the previous layer")
    _save(figure, path)


def precision_recall(suite: str, curves: Sequence[tuple[str, Sequence[float], bool]], path: str | Path) -> None:
    """Plot interpolated precision at evenly spaced recalls, with one line per method.

    Args:
        suite: Title of the plot.
        curves: Name, values and whether it is a trivial baseline, best method first. The first few are coloured,
            trivial baselines are dashed and grey.
        path: A .png, .svg or .pdf file.
    """
    figure, axes = _blank((8, 5))
    colours = iter(COLOURS)
    ends: list[tuple[str, float, str]] = []
    for name, values, trivial in curves:
        colour = GREY if trivial else next(colours, DARK)
        style, width = ("--", 1.0) if trivial else ("-", 1.0 if colour == DARK else 2.0)
        axes.plot(np.linspace(0, 1, len(values)), values, color=colour, linewidth=width, linestyle=style)
        ends.append((name, float(values[-1]), colour))
    for (name, value, colour), height in zip(ends, _spread([value for _, value, _ in ends]), strict=True):
        _name(axes, name, (1, value), (14, height), colour)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall of the planted rows", ylabel="precision (interpolated)")
    axes.set_title(make_visible(suite), loc="left", parse_math=False)
    _save(figure, path)


def cost_accuracy(points: Sequence[tuple[str, float, float]], path: str | Path) -> None:
    """Plot one point per method: seconds to build its index, on a logarithmic axis, against mean AP."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = _blank((8, 5))
    axes.set_xscale("log")
    for n, ((name, seconds, ap), height) in enumerate(zip(points, _spread([ap for *_, ap in points]), strict=True)):
        colour = COLOURS[n % len(COLOURS)]
        axes.plot([seconds], [ap], marker="o", color=colour)
        _name(axes, name, (seconds, ap), (14, height), colour)
    seconds = [second for _, second, _ in points]
    axes.set(ylim=(0, 1.02), xlim=(min(seconds) / 1.5, max(seconds) * 3))
    axes.set(xlabel="seconds to index a suite", ylabel="AP, mean over the suites")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    _save(figure, path)


Point = tuple[int, float, float, float]  # rows removed, rate, and the ends of its interval


def removal_curve(top: Sequence[Point], flagged: Sequence[Point], random: Sequence[Point], path: str | Path) -> None:
    """Plot how often a behaviour occurs without the top k rows, without the flagged rows, and without random rows."""
    figure, axes = _blank((7, 3.6))
    for points, colour, style, name in (
        (top, FIRST, "o-", "the top k rows"), (flagged, COLOURS[1], "D", "the flagged rows"),
        (random, GREY, "s", "random rows"),
    ):  # fmt: skip
        rows, rates, low, high = zip(*points, strict=True)
        ends = [[rate - end for rate, end in zip(rates, low, strict=True)],
                [end - rate for rate, end in zip(rates, high, strict=True)]]  # fmt: skip
        axes.errorbar(rows, rates, yerr=ends, fmt=style, color=colour, capsize=3, label=f"without {name}")
    axes.set(ylim=(-0.02, 1.02), xlabel="rows removed", ylabel="bad answers, with 95 % interval")
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    _save(figure, path)


def _name(axes: Any, name: str, point: tuple[float, float], position: tuple[float, float], colour: str) -> None:
    """Write a name to the right of a point, at `position` (typographic points, height), with a line to the point."""
    axes.annotate(
        make_visible(name), point, xytext=position, textcoords=("offset points", "data"), color=colour, fontsize=9,
        va="center",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2},
        annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _spread(heights: Sequence[float]) -> list[float]:
    """Heights for names, moved apart where they would overlap."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    positions = [0.0] * len(heights)
    low = 0.0
    for n in order:
        positions[n] = max(heights[n], low)
        low = positions[n] + APART
    high = max(1.0, APART * (len(heights) - 1))
    for n in reversed(order):  # names above the top move down, and the names below them
        positions[n] = min(positions[n], high)
        high = positions[n] - APART
    return positions


def _blank(size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure and its axes, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=size, layout="constrained", facecolor="white")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: str | Path) -> None:
    from matplotlib import pyplot as plt

    try:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    except (OSError, ValueError) as fault:
        do = "give a .png, .svg or .pdf in a folder that exists"
        raise OptionError(f"the figure cannot be written to {path}", got=str(fault), do=do) from None
    finally:
        plt.close(figure)
