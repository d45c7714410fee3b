"""Layer options, and the names of features that come from a layer."""

from __future__ import annotations

from taughtby.capture.capture import resolve_layer
from taughtby.capture.layer_similarity import LayerSimilarity
from taughtby.errors import OptionError

Layer = int | str  # a number, "auto" (the phase transition) or a share of the depth such as "85%"


def layer_number(layer: Layer, depth: int, similarity: LayerSimilarity | None) -> int:
    """Return a layer option as a number from 0 to `depth`.

    Args:
        layer: a number, -1 for the last, "auto" for the phase transition, or a share of the depth such as "85%".
        depth: the number of blocks.
        similarity: the layer similarity curve, which "auto" needs.

    Raises:
        OptionError: there is no such layer.
    """
    text = str(layer).strip()
    if text == "auto":
        if similarity is None:
            do = "give a layer's number, or a share such as 85%"
            raise OptionError("layer `auto` needs the layer similarity curve", got="auto", do=do)
        return resolve_layer(similarity.transition_layer, depth)
    share = text.removesuffix("%")
    try:
        value = float(share) / 100 * depth if text.endswith("%") else int(text)
    except ValueError:
        do = f"choose 0 to {depth}, -1 for the last, auto, or a share such as 85%"
        raise OptionError("no such layer", got=text, do=do) from None
    if text.endswith("%") and not 0 <= value <= depth:
        raise OptionError("no such layer", got=text, do="choose 0% to 100%")
    return resolve_layer(round(value), depth)


def feature_name(kind: str, layer: int, depth: int, *, base: bool = False) -> str:
    """Return a feature's name: `h_15`, `g_L` (after the final norm), `grads_27_base` (of the base model)."""
    label = "L" if layer == depth else str(layer)
    return f"{kind}_{label}_base" if base else f"{kind}_{label}"


def name_with_seed(name: str, seed: int) -> str:
    """Return a name with the seed of its random projection: `p128`, or `p128s1` for a seed other than 0."""
    return f"{name}s{seed}" if seed else name
