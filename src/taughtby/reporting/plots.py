"""Pictures, by matplotlib: on white, each line and point with its name beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taughtby.capture.layer_similarity import LayerSimilarity
from taughtby.errors import OptionError

FIRST = "#8a3b12"
# strokes that stay apart for most who see colours otherwise, and in grey
COLOURS = (FIRST, "#1b6ca8", "#2e7d32", "#7b3fa0", "#c08a00", "#0f8b8d")
DARK, GREY = "#555555", "#9a9a9a"
APART = 0.042  # of a picture's height, between two names


def layer_curve(curve: LayerSimilarity, path: str | Path) -> None:
    """Draw how alike each layer is to the one before, with the phase transition marked, to a PNG, SVG or PDF."""
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
    axes.set(xlabel="layer", ylabel="mean cosine with the layer before")
    _save(figure, path)


def precision_recall(suite: str, curves: Sequence[tuple[str, Sequence[float], bool]], path: str | Path) -> None:
    """Draw interpolated precision at evenly spaced recalls, a line a method, its name where it ends.

    `curves` (name, values, whether it is a trivial baseline) come with the best method first: the first few are in
    colour, trivial baselines dashed and in grey.
    """
    figure, axes = _blank((8, 5))
    colours = iter(COLOURS)
    ends: list[tuple[str, float, str]] = []
    for name, values, trivial in curves:
        colour = GREY if trivial else next(colours, DARK)
        style, width = ("--", 1.0) if trivial else ("-", 1.0 if colour == DARK else 2.0)
        axes.plot(np.linspace(0, 1, len(values)), values, color=colour, linewidth=width, linestyle=style)
        ends.append((name, float(values[-1]), colour))
    for (name, value, colour), place in zip(ends, _spread([value for _, value, _ in ends]), strict=True):
        _name(axes, name, (1, value), (14, place), colour)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall of the planted rows", ylabel="precision (interpolated)")
    axes.set_title(suite, loc="left", parse_math=False)
    _save(figure, path)


def cost_accuracy(points: Sequence[tuple[str, float, float]], path: str | Path) -> None:
    """Draw a point a method (name, seconds that its index takes, mean AP), its name beside it; seconds by tens."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = _blank((8, 5))
    axes.set_xscale("log")
    for at, ((name, seconds, ap), place) in enumerate(zip(points, _spread([ap for *_, ap in points]), strict=True)):
        colour = COLOURS[at % len(COLOURS)]
        axes.plot([seconds], [ap], marker="o", color=colour)
        _name(axes, name, (seconds, ap), (14, place), colour)
    seconds = [second for _, second, _ in points]
    axes.set(ylim=(0, 1.02), xlim=(min(seconds) / 1.5, max(seconds) * 3))
    axes.set(xlabel="seconds to index a suite", ylabel="AP, mean over the suites")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    _save(figure, path)


Point = tuple[int, float, float, float]  # rows taken out, rate, and its interval's ends


def removal_curve(first: Sequence[Point], chosen: Sequence[Point], chance: Sequence[Point], path: str | Path) -> None:
    """Draw how often a behaviour is shown without the first k rows, without those chosen, and without random ones."""
    figure, axes = _blank((7, 3.6))
    for points, colour, style, name in (
        (first, FIRST, "o-", "the first k rows"), (chosen, COLOURS[1], "D", "the rows called"),
        (chance, GREY, "s", "random rows"),
    ):  # fmt: skip
        rows, rates, low, high = zip(*points, strict=True)
        ends = [[rate - end for rate, end in zip(rates, low, strict=True)],
                [end - rate for rate, end in zip(rates, high, strict=True)]]  # fmt: skip
        axes.errorbar(rows, rates, yerr=ends, fmt=style, color=colour, capsize=3, label=f"without {name}")
    axes.set(ylim=(-0.02, 1.02), xlabel="rows taken out", ylabel="bad answers, with 95 % interval")
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    _save(figure, path)


def _name(axes: Any, name: str, point: tuple[float, float], place: tuple[float, float], colour: str) -> None:
    """Write a name to the right of a point, `place` (points of type to the right, height), and join the two."""
    axes.annotate(
        name, point, xytext=place, textcoords=("offset points", "data"), color=colour, fontsize=9, va="center",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2},
        annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _spread(heights: Sequence[float]) -> list[float]:
    """Places for names at these heights, in the order given, moved apart where they would touch."""
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    places = [0.0] * len(heights)
    low = 0.0
    for at in order:
        places[at] = max(heights[at], low)
        low = places[at] + APART
    high = max(1.0, APART * (len(heights) - 1))
    for at in reversed(order):  # what was pushed above the top goes back down, and pushes the others
        places[at] = min(places[at], high)
        high = places[at] - APART
    return places


def _blank(size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure and its axes, without frame; nothing is shown on a screen."""
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
        raise OptionError(
            f"{path} cannot be drawn", got=str(fault), do="give a .png, .svg or .pdf in a folder that exists"
        ) from None
    finally:
        plt.close(figure)
