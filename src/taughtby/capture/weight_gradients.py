"""Gradients of the trained weights, for every row of a batch, in one forward and one backward pass.

The gradient of a linear layer y = x Wᵀ for a row is Σ_t δ_t ⊗ x_t, with input x_t and δ_t = ∂loss/∂y_t. Hooks read both
while `capture` runs, so no weight gets a `.grad`, there is no loop over rows, and only what `reduce` returns is kept.
The weights are those of the active adapter, or all linear layers of a model without one.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from taughtby.capture.capture import capture
from taughtby.capture.projections import SIDE_DIM, TwoSidedProjection
from taughtby.capture.transfer import to_host
from taughtby.capture.weights import USE_STATES, Weight, active_adapters, candidate_weights
from taughtby.data.batching import Batch, collate
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import ModelError
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Reduce = Callable[[Weight, "Float[Tensor, 'B T i']", "Float[Tensor, 'B T o']"], torch.Tensor]


@dataclass(frozen=True)
class Gradients:
    """What `reduce` returned for each weight, (B, …) in the model's order, and each row's loss."""

    by_weight: dict[Weight, Tensor]
    loss: Float[Tensor, " B"]

    def features(self, names: Sequence[str]) -> dict[str, Tensor | list[Tensor]]:
        """Return the values of each block by feature name, and the loss."""
        return {**dict(zip(names, self.blocks(len(names)), strict=True)), "loss": self.loss}

    def blocks(self, depth: int) -> list[Float[Tensor, "B k"]]:
        """Return the values of each block's weights, concatenated, on the CPU; one 0 for a block without weights."""
        parts: list[list[Tensor]] = [[] for _ in range(depth)]
        for weight, values in self.by_weight.items():
            parts[weight.block].append(values)
        return [to_host(torch.cat(part, 1)) if part else torch.zeros(len(self.loss), 1) for part in parts]


@dataclass(frozen=True)
class TrainedWeights:
    """The weights whose gradients an index holds.

    Attributes:
        blocks: names and shapes of the weights, block by block.
        adapter: whether they are an adapter's or the model's own.
        left_out: description of the trained parameters that are not included; "" if there are none.
    """

    blocks: tuple[dict[str, tuple[int, int]], ...]
    adapter: bool
    left_out: str

    @property
    def sizes(self) -> list[list[int]]:
        """How many numbers `compact_gradient` returns for each weight, block by block."""
        projection = TwoSidedProjection(0 if self.adapter else SIDE_DIM)
        return [[projection.width(shape) for shape in block.values()] for block in self.blocks]

    def notes(self) -> dict[str, Any]:
        """Return the manifest's notes: the weights, and a description of the gradients."""
        owner = "the adapter" if self.adapter else "the model's own linear maps, since it has no adapter"
        rest = f"; left out: {self.left_out}" if self.left_out else ""
        return {"weights": self.to_json(), "gradients": f"of {owner}{rest}"}

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's entry, with one line for each run of equal blocks."""
        shapes: dict[str, dict[str, str]] = {}
        for _, run in groupby(enumerate(self.blocks), lambda numbered: numbered[1]):
            (first, block), *rest = run
            last = rest[-1][0] if rest else first
            shapes[f"{first}-{last}"] = {name: f"{out}x{into}" for name, (out, into) in block.items()}
        return {"of": "adapter" if self.adapter else "model", "left_out": self.left_out, "shapes": shapes}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> TrainedWeights:
        """Read what `to_json` returned."""
        blocks: list[dict[str, tuple[int, int]]] = []
        for run, shapes in entry["shapes"].items():
            first, last = map(int, run.split("-"))
            pairs = {name: tuple(map(int, shape.split("x"))) for name, shape in shapes.items()}
            blocks += [{name: (pair[0], pair[1]) for name, pair in pairs.items()}] * (last - first + 1)
        return cls(tuple(blocks), entry["of"] == "adapter", entry["left_out"])


def weight_gradients(
    model: Model, batch: Batch, reduce: Reduce, weights: Float[Tensor, "B R"] | None = None
) -> Gradients:
    """Compute each row's gradient of its mean cross entropy with respect to each trained weight.

    Args:
        model: a frozen model.
        batch: the rows.
        reduce: called as `reduce(weight, x, δ)` with float32 tensors during the backward pass, the last block first;
            what it returns is kept.
        weights: weight of each token in the loss; None is 1/n each.

    Raises:
        ModelError: an adapter is used in a way that hooks on linear layers cannot follow.
    """
    results: dict[Weight, Tensor] = {}
    candidates = list(candidate_weights(model))
    with _hooks(candidates, batch, reduce, results):
        loss = capture(model, batch, [0], weights, full_sequence=True).loss
    for weight in candidates:
        if weight.adapter and weight not in results:
            raise ModelError("per-row gradients do not support how the adapter is used",
                             got=f"{weight.name}, in {type(weight.module).__name__}", do=USE_STATES)  # fmt: skip
    return Gradients({weight: results[weight] for weight in candidates if weight in results}, to_host(loss))


def find_trained_weights(model: Model) -> TrainedWeights:
    """Find the weights that have per-row gradients, by running four tokens."""
    batch = collate([TokenizedExample((1, 2, 3, 4), 2)], [0])
    weights = weight_gradients(model, batch, lambda weight, x, delta: x[:, :0, 0]).by_weight
    blocks: list[dict[str, tuple[int, int]]] = [{} for _ in range(model.depth)]
    for weight in weights:
        blocks[weight.block][weight.local_name] = weight.shape
    adapters = active_adapters(model)
    if adapters:
        covered = {f"{weight.name}.weight" for weight in weights}
        parameters = [name for name, _ in model.lm.named_parameters() if adapters & set(name.split("."))]
        left_out = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in parameters if name not in covered})
        return TrainedWeights(tuple(blocks), True, ", ".join(left_out))
    share = sum(math.prod(weight.shape) for weight in weights) / sum(p.numel() for p in model.blocks.parameters())
    return TrainedWeights(tuple(blocks), False, f"{1 - share:.0%} of the blocks' weights" if share < 0.995 else "")


@contextlib.contextmanager
def _hooks(weights: list[Weight], batch: Batch, reduce: Reduce, results: dict[Weight, Tensor]) -> Generator[None]:
    """While active, pass each weight's x and δ through `reduce` into `results`."""
    used: set[Weight] = set()

    def forward_hook(weight: Weight) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            x = args[0].detach()
            # DoRA also applies its matrices to an identity matrix, without a gradient; experts get tokens of mixed rows
            if not out.requires_grad or x.shape[:-1] != batch.ids.shape:
                return
            if weight in used:
                raise ModelError("per-row gradients do not support a weight that is used twice", got=weight.name,
                                 do=USE_STATES)  # fmt: skip
            used.add(weight)

            def backward_hook(delta: Tensor) -> None:
                results[weight] = reduce(weight, x.float(), delta.detach().float())

            out.register_hook(backward_hook)

        return hook

    handles = [weight.module.register_forward_hook(forward_hook(weight)) for weight in weights]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
