"""LESS: cosine of Adam's step on a row and the query's gradient. arXiv 2402.04333, sections 2 and 4.

Γ = m̂ / (√v̂ + ε), with the optimizer's last moments updated by the row's own gradient. The moments are read from
`optimizer.safetensors` beside the adapter, as `taughtby lab finetune` writes it; a Trainer's `optimizer.pt` is a
pickle and never opened. Without moments the row's plain gradient is used, and the index says so. A query's feature is
always its plain gradient, since only the row is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open

from taughtby.capture.projections import compact_gradient, fold
from taughtby.capture.transfer import to_host
from taughtby.capture.weight_gradients import weight_gradients
from taughtby.capture.weights import Weight
from taughtby.data.batching import Batch
from taughtby.data.files import file_hash
from taughtby.errors import ModelError, OptionError
from taughtby.methods.base import CosineMethod, Features, WeightMethod
from taughtby.methods.layers import name_with_seed
from taughtby.models.model import Model

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MOMENTS = "optimizer.safetensors"


@dataclass(frozen=True)
class AdamState:
    """Adam's state at the end of training.

    Attributes:
        mean: first moments by weight.
        square: second moments by weight.
        steps: number of optimizer steps.
        betas: decay rates of the moments.
        eps: Adam's ε.
        digest: hash of the file with the moments.
    """

    mean: dict[str, Tensor]
    square: dict[str, Tensor]
    steps: int
    betas: tuple[float, float]
    eps: float
    digest: str

    def step(self, name: str, gradient: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        """Return Γ of each row for the weight `name`.

        Raises:
            ModelError: there are no moments of that weight.
        """
        if name not in self.mean or self.mean[name].numel() != gradient.shape[1]:
            raise ModelError(f"{MOMENTS} belongs to another adapter", got=f"no moments for {name}",
                             do=f"remove {MOMENTS}, or replace it with that of this adapter")  # fmt: skip
        stored = (part[name].flatten().to(gradient, non_blocking=True) for part in (self.mean, self.square))
        moments = zip(stored, (gradient, gradient.square()), self.betas, strict=True)
        mean, square = (
            (beta * moment + (1 - beta) * update) / (1 - beta ** (self.steps + 1)) for moment, update, beta in moments
        )
        return mean / (square.sqrt() + self.eps)


@dataclass(frozen=True)
class LESS(CosineMethod, WeightMethod):
    """Score = cos(fold(Γ row), fold(∇ query)) over all trained weights, folded to `k` numbers by `seed`.

    The paper projects to 8,192 numbers by a matrix of random signs. Folding adds each number, with a random sign, to
    one of `k` sums, and has the same error of about 1/√k.
    """

    k: int = 8192
    seed: int = 0

    name: ClassVar[str] = "less"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError("less: k is below 1", got=str(self.k), do="give 8192")

    def feature_names(self, depth: int) -> tuple[str, ...]:
        """Return `less8192`, or `less8192s1` with the seed 1."""
        return (name_with_seed(f"less{self.k}", self.seed),)

    def features(self, model: Model, batch: Batch, weights: Float[Tensor, "B R"] | None = None) -> Features:
        """Return Γ of a row, the plain gradient of a query."""
        sums: dict[int, Tensor] = {}
        adam = _adam_state(model) if weights is None else None

        def add(weight: Weight, x: Float[Tensor, "B T i"], delta: Float[Tensor, "B T o"]) -> Tensor:
            gradient, block = compact_gradient(weight, x, delta), weight.block
            if adam:
                gradient = adam.step(weight.name.rsplit(".", 1)[0], gradient)
            part = fold(gradient, self.k, f"{self.seed} {weight.name}")
            sums[block] = sums[block] + part if block in sums else part
            return gradient[:, :0]

        loss = weight_gradients(model, batch, add, weights).loss
        total = to_host(torch.stack(list(sums.values())).sum(0))
        return {self.feature_names(model.depth)[0]: total, "loss": loss}

    def index_notes(self, model: Model) -> dict[str, Any]:
        """Return the trained weights, and whether Adam's moments are used."""
        adam = _adam_state(model)
        note = f"plain gradients: no {MOMENTS}"
        if adam:
            note = f"rows as Adam would step after {adam.steps} steps, by the moments {adam.digest}"
        return {**super().index_notes(model), "less": note}


def _adam_state(model: Model) -> AdamState | None:
    """Adam's state beside the model's adapter; None if there is none, or several adapters."""
    files = [Path(folder) / MOMENTS for folder in model.adapters]
    return _read(files[0], files[0].stat().st_mtime_ns) if len(files) == 1 and files[0].is_file() else None


@lru_cache(maxsize=1)
def _read(file: Path, _modified: int) -> AdamState:
    try:
        with safe_open(file, framework="pt") as reader:
            metadata = reader.metadata() or {}
            moments = {key: reader.get_tensor(key).float() for key in reader.keys()}  # noqa: SIM118
        mean, square = (
            {key.removesuffix(suffix): moment for key, moment in moments.items() if key.endswith(suffix)}
            for suffix in (".exp_avg", ".exp_avg_sq")
        )
        betas, digest = (float(metadata["beta1"]), float(metadata["beta2"])), file_hash(file)[:8]
        return AdamState(mean, square, int(metadata["step"]), betas, float(metadata["eps"]), digest)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{file} cannot be read", got=f"{type(error).__name__}: {error}",
                         do="remove it, or write it with `taughtby lab finetune`") from error  # fmt: skip
