"""LESS: the step that Adam would take on a row, against the query's gradient. arXiv 2402.04333, sections 2 and 4.

Γ = m̂ / (√v̂ + ε), with the moments that the optimizer ended with moved on by the row's own gradient. They are read
from `optimizer.safetensors` beside the adapter, as `taughtby finetune` writes; a Trainer's `optimizer.pt` is a pickle
and never opened. Without them the row's gradient is taken as it is, and the index says so. The query's side is the
plain gradient always: it is the row that would be trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open

from taughtby.capture.weight_gradients import Weight, compact_gradient, find_trained_weights, fold, weight_gradients
from taughtby.data.rewrite import file_hash as digest_of
from taughtby.data.tokenize import Batch
from taughtby.errors import ModelError, OptionError
from taughtby.methods.base import CosineMethod, Features, seeded
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MOMENTS = "optimizer.safetensors"


@dataclass(frozen=True)
class Adam:
    """Where Adam stood at the end of training: its moments by weight, its steps and its constants."""

    mean: dict[str, Tensor]
    square: dict[str, Tensor]
    steps: int
    betas: tuple[float, float]
    eps: float
    digest: str  # of the moments' file

    def step(self, name: str, gradient: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        """Γ of each row for the weight of that name."""
        if name not in self.mean or self.mean[name].numel() != gradient.shape[1]:
            raise ModelError(f"{MOMENTS} is not of this adapter", got=f"nothing for {name}",
                             do=f"remove {MOMENTS}, or put the adapter's own there")  # fmt: skip
        moments = zip((self.mean[name], self.square[name]), (gradient, gradient.square()), self.betas, strict=True)
        mean, square = (
            (beta * moment.flatten().to(new) + (1 - beta) * new) / (1 - beta ** (self.steps + 1))
            for moment, new, beta in moments
        )
        return mean / (square.sqrt() + self.eps)


@dataclass(frozen=True)
class LESS(CosineMethod):
    """Score = cos(fold(Γ row), fold(∇ query)) over all weights that learned, folded to `k` numbers by `seed`.

    The paper projects by a matrix of random signs, to 8,192; a fold adds each number, with a random sign, to one of
    `k` sums, and is off as little: by about 1/√k.
    """

    k: int = 8192
    seed: int = 0

    name: ClassVar[str] = "less"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError("less: k is below 1", got=str(self.k), do="give 8192")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """`less8192`, or `less8192s1` with the seed 1."""
        return (seeded(f"less{self.k}", self.seed),)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Γ of a row, the plain gradient of a query."""
        sums: dict[int, Tensor] = {}
        adam = _adam(model) if weights is None else None

        def add(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Tensor:
            gradient = compact_gradient(weight, x, delta)
            if adam:
                gradient = adam.step(weight.name.rsplit(".", 1)[0], gradient)
            at, part = weight.block, fold(gradient, self.k, f"{self.seed} {weight.name}")
            sums[at] = sums[at] + part if at in sums else part
            return gradient[:, :0]

        found = weight_gradients(model, batch, add, weights)
        whole = torch.stack([part.cpu() for part in sums.values()]).sum(0)
        return {self.feature_names(model.depth)[0]: whole, "loss": found.loss}

    def index_notes(self, model: Model) -> dict[str, Any]:
        """Which weights these are, and whether Adam's moments were there."""
        adam = _adam(model)
        said = f"plain gradients: no {MOMENTS}"
        if adam:
            said = f"rows as Adam would step after {adam.steps} steps, by the moments {adam.digest}"
        return {**find_trained_weights(model).notes(), "less": said}


def _adam(model: Model) -> Adam | None:
    """Adam's moments, where they lie beside the model's one adapter."""
    files = [Path(folder) / MOMENTS for folder in model.adapters]
    return _read(files[0], files[0].stat().st_mtime_ns) if len(files) == 1 and files[0].is_file() else None


@lru_cache(maxsize=1)
def _read(file: Path, _changed: int) -> Adam:
    try:
        with safe_open(file, framework="pt") as stored:
            said = stored.metadata() or {}
            moments = {key: stored.get_tensor(key).float() for key in stored.keys()}  # noqa: SIM118
        mean, square = (
            {key.removesuffix(kind): moment for key, moment in moments.items() if key.endswith(kind)}
            for kind in (".exp_avg", ".exp_avg_sq")
        )
        betas, digest = (float(said["beta1"]), float(said["beta2"])), digest_of(file)[:8]
        return Adam(mean, square, int(said["step"]), betas, float(said["eps"]), digest)
    except (SafetensorError, KeyError, ValueError) as fault:
        raise ModelError(f"{file} cannot be read", got=f"{type(fault).__name__}: {fault}",
                         do="remove it, or write it by `taughtby lab finetune`") from fault  # fmt: skip
