"""Gradients of the weights that learned, of every row of a batch at once: one forward and one backward pass.

A linear map y = x Wᵀ gives a row the gradient Σ_t δ_t ⊗ x_t, x_t what went in and δ_t = ∂loss/∂y_t. Hooks meet both
while `capture` runs, so that no weight ever has a `.grad`, nothing loops over rows, and only what is kept of a
gradient outlives its layer. The weights are the active adapter's, or all linear maps of a model that has none.
"""

from __future__ import annotations

import contextlib
import math
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from taughtby.capture.capture import capture
from taughtby.data.batching import Batch, collate
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import ModelError
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SIDE = 32  # dimensions a side that are kept of a weight which is no adapter's: its own have 10^6 numbers a row
INSTEAD = "choose a method that reads representations, such as lesson, rept or repsim"


@dataclass(frozen=True)
class Weight:
    """A linear map that learned, in block ℓ counted from 0; its matrix is `shape`, out × in."""

    name: str
    block: int
    module: nn.Module
    shape: tuple[int, int]
    adapter: bool

    @property
    def local(self) -> str:
        """Its name within its block, such as `self_attn.q_proj.lora_A.default`."""
        return re.split(rf"\.{self.block}\.", self.name, maxsplit=1)[-1]


Take = Callable[[Weight, "Float[Tensor, 'B T i']", "Float[Tensor, 'B T o']"], torch.Tensor]


@dataclass(frozen=True)
class TwoSidedProjection:
    """Keeps P_out (Σ_t δ_t ⊗ x_t) P_inᵀ, laid flat, without ever forming what stands between; LoGra, arXiv 2405.13954.

    P are Gaussian, `to` rows each; a side that is no wider, or `to` = 0, stays as it is.
    """

    to: int
    seed: int = 0

    def __call__(self, weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Tensor:
        """(B, k), whose inner products are those of the gradients in expectation."""
        out, into = self.matrix(weight, "out"), self.matrix(weight, "in")
        return full_gradient(
            weight, x if into is None else x @ into.T.to(x), delta if out is None else delta @ out.T.to(delta)
        )

    def matrix(self, weight: Weight, side: str) -> Float[Tensor, "k d"] | None:
        """P_out or P_in of a weight; None where that side is kept as it is."""
        wide = weight.shape[side == "in"]
        return _gaussian(f"{self.seed} {weight.name} {side}", self.to, wide) if 0 < self.to < wide else None

    def width(self, shape: tuple[int, int]) -> int:
        """How many numbers it keeps of a weight of that shape."""
        return math.prod(min(self.to or side, side) for side in shape)


@dataclass(frozen=True)
class TrainedWeights:
    """What an index has to know of the weights: block by block their names and shapes, and whose they are.

    `adapter` says whether they are an adapter's or the model's own, `left_out` what learned and is not among them.
    """

    blocks: tuple[dict[str, tuple[int, int]], ...]
    adapter: bool
    left_out: str

    @property
    def sizes(self) -> list[list[int]]:
        """How many numbers `formed` gives of each weight, block by block."""
        keep = TwoSidedProjection(0 if self.adapter else SIDE)
        return [[keep.width(shape) for shape in block.values()] for block in self.blocks]

    def notes(self) -> dict[str, Any]:
        """What a manifest remembers: all of it, and in words whose gradients these are."""
        whose = "the adapter" if self.adapter else "the model's own linear maps, since it has no adapter"
        left = f"; left out: {self.left_out}" if self.left_out else ""
        return {"weights": self.to_json(), "gradients": f"of {whose}{left}"}

    def to_json(self) -> dict[str, Any]:
        """For the manifest: runs of blocks that are alike have one entry."""
        runs: list[tuple[int, int, dict[str, tuple[int, int]]]] = []
        for at, block in enumerate(self.blocks):
            if runs and runs[-1][2] == block:
                runs[-1] = (runs[-1][0], at, block)
            else:
                runs.append((at, at, block))
        shapes = {
            f"{first}-{last}": {name: f"{out}x{into}" for name, (out, into) in block.items()}
            for first, last, block in runs
        }
        return {"of": "adapter" if self.adapter else "model", "left_out": self.left_out, "shapes": shapes}

    @classmethod
    def from_json(cls, known: dict[str, Any]) -> TrainedWeights:
        """As `to_json` wrote it."""
        blocks: list[dict[str, tuple[int, int]]] = []
        for run, shapes in known["shapes"].items():
            first, last = map(int, run.split("-"))
            pairs = {name: tuple(map(int, shape.split("x"))) for name, shape in shapes.items()}
            blocks += [{name: (pair[0], pair[1]) for name, pair in pairs.items()}] * (last - first + 1)
        return cls(tuple(blocks), known["of"] == "adapter", known["left_out"])


@dataclass(frozen=True)
class Gradients:
    """What `take` kept of each weight's gradient, (B, …) in the model's order; and each row's loss."""

    of: dict[Weight, Tensor]
    loss: Float[Tensor, " B"]

    def blocks(self, depth: int) -> list[Float[Tensor, "B k"]]:
        """The kept numbers of each block's weights, one after the other, on the CPU."""
        parts: list[list[Tensor]] = [[] for _ in range(depth)]
        for weight, kept in self.of.items():
            parts[weight.block].append(kept.cpu())
        return [torch.cat(part, 1) if part else torch.zeros(len(self.loss), 0) for part in parts]


def weight_gradients(model: Model, batch: Batch, take: Take, weights: Float[Tensor, "B R"] | None = None) -> Gradients:
    """Each row's gradient of its loss, its mean cross entropy or with tokens counted by `weights`, through `take`.

    `take(weight, x, δ)` gets float32 and is called in the backward pass, the last block first.
    """
    found: dict[Weight, Tensor] = {}
    watched = list(candidate_weights(model))
    with _watched(watched, batch, take, found):
        seen = capture(model, batch, [0], weights, full_sequence=True)
    for weight in watched:
        if weight.adapter and weight not in found:
            raise ModelError("the adapter is used in a way that gradients by row cannot follow",
                             got=f"{weight.name}, in {type(weight.module).__name__}", do=INSTEAD)  # fmt: skip
    return Gradients({weight: found[weight] for weight in watched if weight in found}, seen.loss.cpu())


def candidate_weights(model: Model) -> Iterator[Weight]:
    """The linear maps inside the blocks that may have learned, in the model's order."""
    names = {module: name for name, module in model.lm.named_modules()}
    active = _active(model)
    count = 0
    for at, block in enumerate(model.blocks):
        for module in _adapters(block, active) if active else _maps(block):
            count += 1
            yield Weight(names[module], at, module, _shape(module), bool(active))
    if not count:
        got = type(model.peft).__name__ if active else type(model.lm).__name__
        raise ModelError("no linear map inside the blocks has learned", got=got, do=INSTEAD)


def find_trained_weights(model: Model) -> TrainedWeights:
    """The weights whose gradients there are, found by running four tokens."""
    took = weight_gradients(
        model, collate([TokenizedExample((1, 2, 3, 4), 2)], [0]), lambda weight, x, delta: x[:, :0, 0]
    )
    blocks: list[dict[str, tuple[int, int]]] = [{} for _ in range(model.depth)]
    for weight in took.of:
        blocks[weight.block][weight.local] = weight.shape
    active = _active(model)
    if active:
        inside = {f"{weight.name}.weight" for weight in took.of}
        trained = [name for name, _ in model.lm.named_parameters() if active & set(name.split("."))]
        left = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in trained if name not in inside})
        return TrainedWeights(tuple(blocks), True, ", ".join(left))
    share = sum(math.prod(weight.shape) for weight in took.of) / sum(p.numel() for p in model.blocks.parameters())
    return TrainedWeights(tuple(blocks), False, f"{1 - share:.0%} of the blocks' weights" if share < 0.995 else "")


def full_gradient(_: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Float[Tensor, "B k"]:
    """Σ_t δ_t ⊗ x_t of each row, laid flat as W is."""
    return torch.bmm(delta.mT, x).flatten(1)


def compact_gradient(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Float[Tensor, "B k"]:
    """The gradient itself of an adapter's small matrices; of a model's own, what SIDE dimensions a side keep of it."""
    return TwoSidedProjection(0 if weight.adapter else SIDE)(weight, x, delta)


def fold(vectors: Float[Tensor, "B d"], to: int, draw: str) -> Float[Tensor, "B k"]:
    """`to` sums of the numbers, shuffled and each with a random sign, both fixed by `draw`.

    Inner products stay what they were in expectation, off by about 1/√to of the product of the lengths.
    """
    order, signs = _shuffle(draw, vectors.shape[1], to)
    padded = nn.functional.pad(vectors, (0, len(order) - vectors.shape[1]))
    mixed = padded.index_select(1, order.to(vectors.device)) * signs.to(vectors.device)
    return mixed.view(len(vectors), to, -1).sum(-1)


@contextlib.contextmanager
def _watched(weights: list[Weight], batch: Batch, take: Take, found: dict[Weight, Tensor]) -> Generator[None]:
    """While it lasts, each weight's x and δ go through `take` into `found`."""
    met: set[Weight] = set()

    def watch(weight: Weight) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            x = args[0].detach()
            # DoRA also runs its matrices on a unit matrix, without a gradient; experts see rows mixed
            if not out.requires_grad or x.shape[:-1] != batch.ids.shape:
                return
            if weight in met:
                raise ModelError("a weight is used twice, which gradients by row cannot follow", got=weight.name,
                                 do=INSTEAD)  # fmt: skip
            met.add(weight)

            def pulled(delta: Tensor) -> None:
                found[weight] = take(weight, x.float(), delta.detach().float())

            out.register_hook(pulled)

        return weight.module.register_forward_hook(hook)

    handles = [watch(weight) for weight in weights]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _active(model: Model) -> set[str]:
    """The adapters that are switched on."""
    if model.peft is None or any(getattr(part, "disable_adapters", None) is True for part in model.peft.modules()):
        return set()
    return set(model.peft.active_adapters)


def _adapters(block: nn.Module, active: set[str]) -> Iterator[nn.Module]:
    """The linear maps that those adapters put into a block: LoRA's A and B."""
    for part in block.modules():
        for kind in getattr(part, "adapter_layer_names", ()):
            kept = getattr(part, kind, None)
            if isinstance(kept, nn.ModuleDict):
                yield from (kept[name] for name in sorted(active & set(kept)) if isinstance(kept[name], nn.Linear))


def _maps(block: nn.Module) -> Iterator[nn.Module]:
    """The block's own linear maps; an adapter that is switched off is none."""
    kinds = {kind for part in block.modules() for kind in getattr(part, "adapter_layer_names", ())}
    for name, part in block.named_modules():
        if not kinds & set(name.split(".")) and (isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"):
            yield part


def _shape(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return module.nf, module.nx  # GPT-2's Conv1D is a linear map that keeps its matrix the other way round


def _seeded(draw: str) -> torch.Generator:
    # on the CPU, so that every machine draws the same
    return torch.Generator().manual_seed(zlib.crc32(draw.encode()))


@lru_cache(maxsize=4096)
def _gaussian(draw: str, to: int, wide: int) -> Float[Tensor, "k d"]:
    return torch.randn(to, wide, generator=_seeded(draw)) / math.sqrt(to)


@lru_cache(maxsize=4096)
def _shuffle(draw: str, wide: int, to: int) -> tuple[Tensor, Tensor]:
    """Where each place of the shuffled numbers, a multiple of `to` many, is taken from, and its sign."""
    generator, size = _seeded(draw), to * math.ceil(wide / to)
    order = torch.randperm(size, generator=generator, dtype=torch.int32)
    return order, (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(torch.int8)
