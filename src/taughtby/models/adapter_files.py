"""Reads and checks the folder of a PEFT adapter, its configuration and weights, without the model.

Nothing that the configuration names is imported or opened: no `auto_mapping`, no Megatron, no other adapters.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taughtby.errors import ModelError, explain_errors
from taughtby.models.model_files import nearest_file
from taughtby.models.trainer_recipes import read_json
from taughtby.models.weight_files import WRAPPERS, check_content, check_not_empty, read_header, sharded_checkpoint_error
from taughtby.text import shell_quote

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNTRACEABLE = {
    "alora_invocation_tokens": "is only active after certain tokens",
    "layer_replication": "replicates layers",
    "megatron_config": "is made for Megatron's layers",
}
_OTHER_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")
_PREFIX = "base_model.model."
_TEXT_PARTS = (("model.language_model.", "model."), ("model.", "model.language_model."),
               ("language_model.model.", "model."), ("language_model.model.", "model.language_model."))  # fmt: skip
_LORA_SUFFIX = re.compile(r"\.lora_\w+(\.weight|\.bias)?$")
# a raw state dict has the adapter's name in its keys: lora_A.default.weight
_ADAPTER_NAME = re.compile(
    r"\.((?:lora|ia3|oft|vera|hada|lokr|boft|randlora|hra|miss|fourierft|vblora)_\w+)\.(?!weight$|bias$)\w+(\.weight|\.bias)?$"
)


def check_folder(folder: Path, model_type: str) -> None:
    """Refuse a folder that is not an adapter, or whose adapter cannot be read or traced on this type of model."""
    _check_files(folder)
    with explain_errors(f"the adapter {folder} cannot be read", "copy it again"):
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key, what in UNTRACEABLE.items():
        if config_value(folder, CONFIG, key):
            do = "give an adapter that changes the model's layers, such as LoRA"
            raise ModelError(f"the adapter {folder} {what}, which cannot be traced", got=key, do=do)
    if config_value(folder, CONFIG, "peft_type") == "XLORA":
        raise ModelError(f"the adapter {folder} mixes other adapters, which cannot be traced", got="XLORA",
                         do="give the adapters that it mixes, one at a time")  # fmt: skip
    if (task := config_value(folder, CONFIG, "task_type")) in _OTHER_TASKS:
        raise ModelError(f"the adapter {folder} was not trained for causal language modeling", got=task,
                         do="give an adapter of a causal language model (CAUSAL_LM)")  # fmt: skip
    base = read_json(Path(base_name(folder)) / "config.json")
    parts = [part for part in (base, base.get("text_config")) if isinstance(part, dict)]
    kinds = [part["model_type"] for part in parts if part.get("model_type")]
    if kinds and model_type not in kinds:
        got = f"a {model_type}, trained on a {kinds[0]}"
        raise ModelError(f"the adapter {folder} was trained on another model", got=got, do=base_advice(folder))


def _check_files(folder: Path) -> None:
    """Refuse a folder without PEFT's two files, with advice for the files that are there instead."""
    if folder.suffix == ".gguf" and folder.is_file():
        raise ModelError(f"{folder} is a .gguf file, not a PEFT adapter",
                         do=f"give the folder with {CONFIG} and {WEIGHTS} that it was converted from")  # fmt: skip
    if (folder / WEIGHTS).exists() and (folder / CONFIG).exists():
        return check_content(folder / CONFIG)
    pickled = folder / "adapter_model.bin"
    if (folder / CONFIG).exists() and pickled.exists():
        convert = f"s.save_file(t.load({str(pickled)!r}, weights_only=True), {str(folder / WEIGHTS)!r})"
        do = f"convert them: python -c {shell_quote(f'import torch as t, safetensors.torch as s; {convert}')}"
        raise ModelError(f"{folder} contains only pickled weights (.bin), which can run code when loaded", do=do)
    if mlx := next((name for name in ("adapters.safetensors", "adapters.npz") if (folder / name).exists()), None):
        raise ModelError(f"{folder} is an MLX adapter, not a PEFT adapter", got=mlx,
                         do=f"fuse it: mlx_lm.fuse --adapter-path {shell_quote(folder)} --dequantize, and give the "
                            "fused model")  # fmt: skip
    if ranks := sharded_checkpoint_error(folder):
        raise ranks
    got = ", ".join(sorted(file.name for file in folder.glob("*"))) or "no files"
    do = nearest_file(folder) or f"give the folder with {CONFIG} and {WEIGHTS}"
    raise ModelError(f"{folder} is not an adapter folder", got=got, do=do)


def _plain_name(name: str, prefix: str) -> str:
    """Return the name that PEFT's `save_pretrained` gives a weight."""
    name = re.sub(WRAPPERS, "", name).replace(".modules_to_save.default.", ".")
    return prefix + _ADAPTER_NAME.sub(r".\1\2", name)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read an adapter's weights on the CPU, by PEFT's names without those of training wrappers.

    Raises:
        ModelError: there are none, they are not finite, or they change nothing.
    """
    from safetensors import safe_open

    file = folder / WEIGHTS
    header = read_header(file)
    check_not_empty(file, header)
    prefix = "" if any("base_model." in name for name in header) else _PREFIX
    names: dict[str, str] = {}
    for name in header:
        plain = _plain_name(name, prefix)
        if other := names.get(plain):
            got = f"{other} and {name}"
            raise ModelError(f"{file} contains several adapters", got=got, do="save each of them separately")
        names[plain] = name
    with explain_errors(f"the adapter {folder} cannot be read", "copy it again"), safe_open(file, "pt") as stored:
        weights = {plain: stored.get_tensor(name) for plain, name in names.items()}
    bad = {name: count for name, weight in weights.items() if (count := int((~weight.isfinite()).sum()))}
    if bad:
        first, total = min(bad), sum(weight.numel() for weight in weights.values())
        got = f"{sum(bad.values()):,} of {total:,}, in {len(bad)} weights such as {first}"
        raise ModelError(f"the adapter {folder} has weights that are not finite", got=got,
                         do="its training diverged: give an earlier checkpoint")  # fmt: skip
    lora_b = [weight for name, weight in weights.items() if "lora_B" in name or "lora_embedding_B" in name]
    if lora_b and not any(bool(weight.any()) for weight in lora_b) and all("lora_" in name for name in weights):
        what = f"the adapter {folder} changes nothing: it is untrained"
        raise ModelError(what, got=f"{len(lora_b)} lora_B weights, all zero",
                         do="give the adapter that was saved at the end of training")  # fmt: skip
    return weights


@dataclass(frozen=True)
class PlacedWeights:
    """An adapter's weights, renamed to match a model's modules.

    Attributes:
        weights: The weights of modules that the model has.
        left_out: Names of the other weights.
        modules: The modules that the weights change, if they were renamed; else empty. The configuration has the
            old names.
    """

    weights: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


def place_weights(weights: dict[str, Tensor], modules: set[str]) -> PlacedWeights:
    """Rename an adapter's weights to match the model's modules.

    The text model of a vision-language checkpoint is loaded alone in some families, and as a submodule in others; the
    adapter may have been trained on the other form. Its weights of the vision tower are left out, since they do not
    affect text answers. Names that PEFT itself converts are left unchanged.
    """
    places = {name: _LORA_SUFFIX.sub("", name.removeprefix(_PREFIX)) for name in weights}
    if any(place in modules for place in places.values()):
        return PlacedWeights(weights)
    for old, new in _TEXT_PARTS:
        moved = {name: new + place.removeprefix(old) for name, place in places.items() if place.startswith(old)}
        if moved and all(place in modules for place in moved.values()):
            placed = {
                _PREFIX + moved[name] + name.removeprefix(_PREFIX + places[name]): weights[name] for name in moved
            }
            return PlacedWeights(placed, tuple(sorted(set(weights) - set(moved))), tuple(sorted(set(moved.values()))))
    return PlacedWeights(weights)


def base_advice(folder: Path, requested: str = "") -> str:
    """Return advice for an adapter that does not fit the model `requested`, which may be the one it was trained on."""
    base = base_name(folder)
    if requested and any(Path(path).resolve() == Path(requested).resolve() for path in (base, folder / base)):
        return "merge it with the PEFT and Transformers versions used for training, and give the merged model"
    return f"give the base model the adapter was trained on, which is {base}"


def base_name(folder: Path) -> str:
    """Return the base model that the adapter's configuration names."""
    return config_value(folder, CONFIG, "base_model_name_or_path") or "not recorded"


def config_value(folder: Path, file: str, key: str) -> str:
    """Return a value of a JSON file in the folder as text; empty if there is none."""
    try:
        return str(json.loads((folder / file).read_text())[key] or "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
