"""The linear layers that fine-tuning may have changed: the active adapter's, or the model's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from taughtby.errors import ModelError
from taughtby.models.model import Model

USE_STATES = "choose a method that uses hidden states, such as lesson, rept or repsim"


@dataclass(frozen=True)
class Weight:
    """A linear layer inside block ℓ (counted from 0); its matrix has the shape (out, in)."""

    name: str
    block: int
    module: nn.Module
    shape: tuple[int, int]
    adapter: bool

    @property
    def local_name(self) -> str:
        """Its name within its block, such as `self_attn.q_proj.lora_A.default`."""
        return re.split(rf"\.{self.block}\.", self.name, maxsplit=1)[-1]


def candidate_weights(model: Model) -> Iterator[Weight]:
    """Yield the linear layers inside the blocks that may have been trained, in the model's order.

    Raises:
        ModelError: there are none.
    """
    names = {module: name for name, module in model.lm.named_modules()}
    adapters = active_adapters(model)
    count = 0
    for number, block in enumerate(model.blocks):
        for module in _adapter_layers(block, adapters) if adapters else _own_layers(block):
            count += 1
            yield Weight(names[module], number, module, _shape(module), bool(adapters))
    if not count:
        got = type(model.peft).__name__ if adapters else type(model.lm).__name__
        raise ModelError("the blocks have no trained linear layer", got=got, do=USE_STATES)


def active_adapters(model: Model) -> set[str]:
    """Return the names of the adapters that are switched on."""
    if model.peft is None or any(getattr(part, "disable_adapters", None) is True for part in model.peft.modules()):
        return set()
    return set(model.peft.active_adapters)


def _adapter_layers(block: nn.Module, adapters: set[str]) -> Iterator[nn.Module]:
    """The linear layers of these adapters in a block: LoRA's A and B."""
    for part in block.modules():
        for kind in getattr(part, "adapter_layer_names", ()):
            layers = getattr(part, kind, None)
            if isinstance(layers, nn.ModuleDict):
                names = sorted(adapters & set(layers))
                yield from (layers[name] for name in names if isinstance(layers[name], nn.Linear))


def _own_layers(block: nn.Module) -> Iterator[nn.Module]:
    """A block's own linear layers, without those of adapters that are switched off."""
    kinds = {kind for part in block.modules() for kind in getattr(part, "adapter_layer_names", ())}
    for name, part in block.named_modules():
        if not kinds & set(name.split(".")) and (isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"):
            yield part


def _shape(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return module.nf, module.nx  # GPT-2's Conv1D is a linear layer with a transposed matrix
