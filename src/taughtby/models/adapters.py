"""Attaches PEFT adapters to a model, after checking that they belong to it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taughtby.errors import ModelError, explain_errors
from taughtby.models.adapter_files import (
    CONFIG,
    PlacedWeights,
    base_advice,
    check_folder,
    config_value,
    place_weights,
    read_weights,
)
from taughtby.models.fingerprint import adapter_hash, join_hashes

if TYPE_CHECKING:
    from torch import Tensor

    Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Attached:
    """Adapters on a model, all active together.

    Attributes:
        peft: PEFT's wrapper of the model.
        fingerprint: Their hash.
        overwrites: Whether they replace weights of the base, which switching them off does not undo.
        notes: Notes for the user.
    """

    peft: Any
    fingerprint: str
    overwrites: bool
    notes: tuple[str, ...]


def attach_adapters(lm: Any, folders: list[Path], base_fingerprints: Sequence[str]) -> Attached:
    """Attach the adapters in these folders to `lm`.

    Args:
        lm: the model.
        folders: the folders of the adapters.
        base_fingerprints: the base's fingerprint, and those that earlier versions computed.

    Raises:
        ModelError: an adapter cannot be read, changes nothing, or belongs to another model.
    """
    if any(weight.is_meta for weight in lm.parameters()):
        raise ModelError("adapters cannot be attached to an offloaded model",
                         got="weights offloaded to the CPU or disk",
                         do="merge the adapter, or load the model on one device or with --quantize")  # fmt: skip
    for folder in folders:
        check_folder(folder, lm.config.model_type)
    modules = {path for path, _ in lm.named_modules()}
    placed = [place_weights(read_weights(folder), modules) for folder in folders]
    stored = [adapter.weights for adapter in placed]
    overwrites = any(_overwrites(lm, folder, weights) for folder, weights in zip(folders, stored, strict=True))
    rows = [num_tokens for weights in stored if (num_tokens := _vocabulary_size(lm, weights))]
    if rows and max(rows) != lm.get_input_embeddings().weight.shape[0]:
        resize_embeddings(lm, max(rows))
    base_weights = {id(weight): weight for weight in lm.parameters()}
    peft: Any = None
    names = ["default", *(f"adapter_{number}" for number in range(2, len(folders) + 1))]
    hashes: list[str] = []
    for name, folder, adapter in zip(names, folders, placed, strict=True):
        peft, complete = _load_adapter(peft or lm, name, folder, adapter)
        hashes.append(_check_weights(peft, name, folder, adapter.weights, complete))
        _check_base(folder, base_fingerprints)
    if len(folders) > 1:
        with explain_errors("these adapters cannot be active together", "give one at a time, or merge them"):
            peft.base_model.set_adapter(names, inference_mode=True)
    dtype = lm.get_input_embeddings().weight.dtype
    for weight in peft.parameters():
        if id(weight) not in base_weights and weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    notes = tuple(filter(None, (_other_base(folder, lm.name_or_path) for folder in folders))) + tuple(
        f"{folder}: {len(left)} weights of the adapter do not affect text answers, such as {left[0]}"
        for folder, left in zip(folders, [adapter.left_out for adapter in placed], strict=True) if left
    )  # fmt: skip
    return Attached(peft.eval().requires_grad_(False), join_hashes(hashes), overwrites, notes)


class AdapterSwitch:
    """Switches the adapters of a PEFT model off.

    PEFT's `disable_adapter` does the same, but examines every layer each time, which takes 40 ms at 1 B parameters, and
    makes the adapters trainable again.
    """

    def __init__(self, peft: Any) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        layers: list[Any] = [part for part in peft.modules() if isinstance(part, kinds)]
        # these methods only set the flag and `requires_grad`; those of a few other classes do more
        usual = {kind.enable_adapters for kind in (*kinds, ModulesToSaveWrapper)}
        self.flagged = [layer for layer in layers if type(layer).enable_adapters in usual]
        self.others = [layer for layer in layers if type(layer).enable_adapters not in usual]

    @contextlib.contextmanager
    def off(self) -> Generator[None]:
        """Switch the adapters off inside the context."""
        flagged, others = ([layer for layer in layers if not layer._disable_adapters]
                           for layers in (self.flagged, self.others))  # fmt: skip
        try:
            for layer in flagged:
                layer._disable_adapters = True
            for layer in others:
                layer.enable_adapters(False)
            yield
        finally:
            for layer in flagged:
                layer._disable_adapters = False
            for layer in others:
                layer.enable_adapters(True)
                layer.requires_grad_(False)


def live_adapter_hash(peft: Any) -> str:
    """Return the fingerprint of an adapter in memory, which equals that of the saved adapter."""
    from peft import get_peft_model_state_dict

    name = peft.active_adapter
    weights = get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False)
    return adapter_hash(peft.peft_config[name].to_dict(), sorted(weights.items()))


def resize_embeddings(lm: Any, num_tokens: int) -> None:
    """Resize the embeddings for tokens that were added in training; each new row is the mean of the old rows."""
    old = lm.get_input_embeddings().weight.shape[0]
    lm.resize_token_embeddings(num_tokens, mean_resizing=False)
    for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        layer.weight.data[old:] = layer.weight.data[:old].float().mean(0).to(layer.weight.dtype)
    lm.requires_grad_(False)


def _vocabulary_size(lm: Any, weights: Weights) -> int | None:
    """Return the number of tokens in the adapter's embedding or head; None if it has neither."""
    ends: dict[str, int] = {}
    for path, module in lm.named_modules():
        if module is lm.get_input_embeddings():
            ends |= {f"{path}.weight": 0, f"{path}.base_layer.weight": 0, f"{path}.lora_embedding_A": 1}
        if module is lm.get_output_embeddings():
            ends |= {f"{path}.weight": 0, f"{path}.base_layer.weight": 0, f"{path}.lora_B.weight": 0}
    shapes = {name.removeprefix("base_model.model."): weight.shape for name, weight in weights.items()}
    return max((shapes[name][axis] for name, axis in ends.items() if name in shapes), default=None)


def _overwrites(lm: Any, folder: Path, weights: Weights) -> bool:
    """Whether the adapter replaces weights of the base: biases, or an embedding that was resized and trained."""
    base_weights = lm.state_dict()
    replaced = json.loads((folder / CONFIG).read_text()).get("modules_to_save") or []
    for key, stored in weights.items():
        weight = base_weights.get(key.removeprefix("base_model.model."))
        if weight is None or weight.is_meta or set(replaced) & set(key.split(".")):
            continue
        value = stored[: len(weight)].to(weight)
        if not torch.equal(value, weight[: len(value)]):
            return True
    return False


def _load_adapter(on: Any, name: str, folder: Path, adapter: PlacedWeights) -> tuple[Any, bool]:
    """Load an adapter onto a bare model or onto a PeftModel; return it, and whether all weights matched.

    Like `PeftModel.from_pretrained`, but with weights that were already read and checked. PEFT converts their names if
    Transformers has since renamed or fused the model's modules.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    has_adapter = isinstance(on, PeftModel)
    what = f"the adapter {folder} does not fit {'the previous adapter' if has_adapter else 'this model'}"
    do = "give it alone" if has_adapter else base_advice(folder, on.name_or_path)
    with explain_errors(f"the configuration of the adapter {folder} cannot be read", "copy it again, or update PEFT"):
        config: Any = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning:
        raise ModelError(f"the adapter {folder} only adds virtual tokens (prompt learning), which cannot be traced",
                         got=config_value(folder, CONFIG, "peft_type"),
                         do="give an adapter that changes the model's layers, such as LoRA")  # fmt: skip
    config.inference_mode = True
    if adapter.modules:  # the configuration has their old names
        config.target_modules = set(adapter.modules)
    _check_loftq(config, folder)
    with explain_errors(what, do), warnings.catch_warnings():
        # PEFT's code triggers this deprecation, not the user's
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)  # once converted
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)  # of merging
        # keep the stored dtype: PEFT would otherwise compute the adapter in float32
        if has_adapter:
            on.add_adapter(name, config, autocast_adapter_dtype=False)
        else:
            on = PeftModel(on, config, adapter_name=name, autocast_adapter_dtype=False)
        result = set_peft_model_state_dict(on, adapter.weights, adapter_name=name)
    missing_here = [key for key in result.missing_keys if name in key.split(".")]
    return on, not missing_here and not result.unexpected_keys


def _check_loftq(config: Any, folder: Path) -> None:
    """Refuse an adapter initialized by LoftQ, which quantizes the base, if bitsandbytes is not installed."""
    if getattr(config, "init_lora_weights", None) == "loftq" and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"the adapter {folder} needs a base quantized by LoftQ, and bitsandbytes is not installed",
                         got='init_lora_weights "loftq"',
                         do="pip install 'taughtby[quantized]', or merge the adapter where it was trained and give "
                            "the merged model")  # fmt: skip


def _check_weights(peft: Any, name: str, folder: Path, weights: Weights, complete: bool) -> str:
    """Return the adapter's fingerprint, after checking that its weights and those expected match."""
    from peft import get_peft_model_state_dict

    # "auto" would look up the base model's config on the hub, and warn without a network
    expected = set(get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False))
    stored = set(weights)
    surplus = stored - expected - set(peft.state_dict())  # PEFT saves some weights of resized embeddings twice
    missing = (expected - stored) | {key for key in surplus if key.replace(".modules_to_save", "") not in expected}
    if missing and not complete:
        got = f"{len(missing)} weights without a counterpart, such as {min(missing)}"
        do = base_advice(folder, peft.get_base_model().name_or_path)
        raise ModelError(f"the adapter {folder} does not fit this model", got=got, do=do)
    hashed = sorted(stored if missing else expected)
    return adapter_hash(json.loads((folder / CONFIG).read_text()), ((key, weights[key]) for key in hashed))


def _other_base(folder: Path, given: str) -> str:
    """Return a note if the adapter's files name another base than the model it is attached to; "" otherwise.

    Shapes do not show this: they are equal for any model of that size, such as a base model and its instruct model.
    """
    named = config_value(folder, CONFIG, "base_model_name_or_path").rstrip("/")
    if not named or (folder / "taughtby.json").exists() or is_same_name(named, given):
        return ""
    return f"{folder} names {named} as its base, but is used with {given}: if they differ, scores are wrong"


def is_same_name(named: str, given: str) -> bool:
    """Whether two names of models have the same last component, or are the same path."""
    return Path(named).name.lower() == Path(given).name.lower() or Path(named).resolve() == Path(given).resolve()


def _check_base(folder: Path, base_fingerprints: Sequence[str]) -> None:
    """Compare the base with the fingerprint that `taughtby lab finetune` recorded, if it did."""
    if (folder / "taughtby.json").exists() and (
        recorded := config_value(folder, "taughtby.json", "model")
    ) not in base_fingerprints:
        got = f"fingerprint {base_fingerprints[0]}, trained on {recorded or 'one not recorded'}"
        raise ModelError(f"the adapter {folder} was trained on another model", got=got, do=base_advice(folder))
