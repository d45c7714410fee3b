"""Pictures, by matplotlib."""

from __future__ import annotations

from pathlib import Path

from whence.errors import OptionError
from whence.layers import Curve


def layer_curve(curve: Curve, path: str | Path) -> None:
    """Draw how alike each layer is to the one before, with the phase transition marked, to a PNG, SVG or PDF."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(range(2, len(curve.similarity) + 2), curve.similarity, marker="o", markersize=3, color="#8a3b12")
    if curve.layer > 0:
        axes.axvline(curve.layer, color="#8a3b12", linestyle=":", label=f"phase transition: layer {curve.layer}")
        axes.legend(frameon=False)
    axes.set(xlabel="layer", ylabel="mean cosine with the layer before")
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as fault:
        raise OptionError(
            f"{path} cannot be drawn", got=str(fault), do="give a .png, .svg or .pdf in a folder that exists"
        ) from None
    finally:
        plt.close(figure)
