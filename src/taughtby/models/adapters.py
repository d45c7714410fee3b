"""PEFT adapters put on a model, once it is sure that they and it belong together."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from taughtby.errors import ModelError, explain_errors
from taughtby.models.fingerprint import adapter_hash, join_hashes
from taughtby.models.model_files import nearest_file
from taughtby.text import shell_quote

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNTRACEABLE = {"alora_invocation_tokens": "wakes at certain words only", "layer_replication": "doubles layers"}


def attach_adapters(lm: Any, folders: list[Path], base_fingerprints: Sequence[str]) -> tuple[Any, str, bool]:
    """PEFT's wrapper of `lm` with the adapters of those folders, all active together, and their fingerprint.

    `known` are the base's fingerprint and those it had by earlier rules; an adapter that names none of them is
    refused. True as the third: they wrote over weights of the base, which switching them off will not undo.
    """
    if any(weight.is_meta for weight in lm.parameters()):
        raise ModelError("no adapter can be put on a model that does not fit onto its devices",
                         got="weights put off to the CPU or the disk",
                         do="merge the adapter into the model, or load it on one device, or rounded")  # fmt: skip
    for folder in folders:
        _check_folder(lm, folder)
    over = any(_overwrites(lm, folder) for folder in folders)
    rows = [num_tokens for folder in folders if (num_tokens := _vocabulary_size(lm, folder))]
    if rows and max(rows) != lm.get_input_embeddings().weight.shape[0]:
        resize_embeddings(lm, max(rows))
    base_weights = {id(weight): weight for weight in lm.parameters()}
    peft: Any = None
    names = ["default", *(f"adapter_{number}" for number in range(2, len(folders) + 1))]
    hashes: list[str] = []
    for name, folder in zip(names, folders, strict=True):
        peft = _load_adapter(peft or lm, name, folder)
        hashes.append(_check_weights(peft, name, folder))
        _check_base(folder, base_fingerprints)
    if len(folders) > 1:
        with explain_errors("these adapters cannot be active together", "give one at a time, or merge them"):
            peft.base_model.set_adapter(names, inference_mode=True)
    dtype = lm.get_input_embeddings().weight.dtype
    for weight in peft.parameters():
        if id(weight) not in base_weights and weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    return peft.eval().requires_grad_(False), join_hashes(hashes), over


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
        # these do nothing but set the flag, and whether weights are trainable; a few others do more
        usual = {kind.enable_adapters for kind in (*kinds, ModulesToSaveWrapper)}
        self.flagged = [layer for layer in layers if type(layer).enable_adapters in usual]
        self.others = [layer for layer in layers if type(layer).enable_adapters not in usual]

    @contextlib.contextmanager
    def off(self) -> Generator[None]:
        """Switch them off for as long as the context lasts."""
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
    """The fingerprint of an adapter in memory, which is the one it will have once saved."""
    from peft import get_peft_model_state_dict

    name = peft.active_adapter
    weights = get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False)
    return adapter_hash(peft.peft_config[name].to_dict(), sorted(weights.items()))


def resize_embeddings(lm: Any, num_tokens: int) -> None:
    """Make room for tokens that were added in training; the model from before gives each the mean of those it knew."""
    old = lm.get_input_embeddings().weight.shape[0]
    lm.resize_token_embeddings(num_tokens, mean_resizing=False)
    for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        layer.weight.data[old:] = layer.weight.data[:old].float().mean(0).to(layer.weight.dtype)
    lm.requires_grad_(False)


def _check_folder(lm: Any, folder: Path) -> None:
    """Whether the folder is an adapter's whose weights can be read, for this kind of model."""
    pickled = folder / "adapter_model.bin"
    if (folder / CONFIG).exists() and pickled.exists() and not (folder / WEIGHTS).exists():
        convert = f"s.save_file(t.load({str(pickled)!r}, weights_only=True), {str(folder / WEIGHTS)!r})"
        do = f"convert them: python -c {shell_quote(f'import torch as t, safetensors.torch as s; {convert}')}"
        raise ModelError(f"{folder} holds only pickled weights (.bin), which can run code when read", do=do)
    if not (folder / WEIGHTS).exists() or not (folder / CONFIG).exists():
        got = ", ".join(sorted(file.name for file in folder.glob("*"))) or "nothing there"
        do = nearest_file(folder) or f"give the folder with {CONFIG} and {WEIGHTS}"
        raise ModelError(f"{folder} is not an adapter's folder", got=got, do=do)
    for key, what in UNTRACEABLE.items():
        if _config_value(folder, CONFIG, key):
            do = "give an adapter that changes the model's layers, such as LoRA"
            raise ModelError(f"the adapter {folder} {what}, which cannot be traced", got=key, do=do)
    base = Path(_base(folder))
    kind = _config_value(base, "config.json", "model_type") if (base / "config.json").exists() else None
    if kind not in (None, lm.config.model_type):
        got = f"a {lm.config.model_type}, trained on a {kind}"
        raise ModelError(f"the adapter {folder} was trained on another model", got=got, do=_advice(folder))


def _vocabulary_size(lm: Any, folder: Path) -> int | None:
    """How many tokens the adapter's embedding or head has, where it brings one: more, if some were added."""
    ends: dict[str, int] = {}
    for path, module in lm.named_modules():
        if module is lm.get_input_embeddings():
            ends |= {f"{path}.weight": 0, f"{path}.base_layer.weight": 0, f"{path}.lora_embedding_A": 1}
        if module is lm.get_output_embeddings():
            ends |= {f"{path}.weight": 0, f"{path}.base_layer.weight": 0, f"{path}.lora_B.weight": 0}
    with _open_weights(folder) as file:
        shapes = {name.removeprefix("base_model.model."): file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return max((shapes[name][axis] for name, axis in ends.items() if name in shapes), default=None)


def _overwrites(lm: Any, folder: Path) -> bool:
    """Whether it brings other numbers for the base's own weights: biases, or an embedding that grew and was trained."""
    base_weights = lm.state_dict()
    with _open_weights(folder) as file:
        beside = json.loads((folder / CONFIG).read_text()).get("modules_to_save") or []
        for key in file.keys():  # noqa: SIM118
            weight = base_weights.get(key.removeprefix("base_model.model."))
            if weight is None or weight.is_meta or set(beside) & set(key.split(".")):
                continue
            value = file.get_tensor(key)[: len(weight)].to(weight)
            if not torch.equal(value, weight[: len(value)]):
                return True
    return False


@contextlib.contextmanager
def _open_weights(folder: Path) -> Generator[Any]:
    from safetensors import safe_open

    with (
        explain_errors(f"the adapter {folder} cannot be read", "copy it again"),
        safe_open(folder / WEIGHTS, "pt") as file,
    ):
        yield file


def _load_adapter(on: Any, name: str, folder: Path) -> Any:
    """The adapter on a bare model, or beside those that a wrapped one carries."""
    from peft import PeftModel

    beside = isinstance(on, PeftModel)
    what = f"the adapter {folder} does not fit {'the one before it' if beside else 'this model'}"
    with explain_errors(what, "give it alone" if beside else _advice(folder)), warnings.catch_warnings():
        # Transformers tells peft, not its users, that a name was changed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)  # of merging
        # as stored, in the model's own format: peft would otherwise compute the adapter in float32
        if beside:
            on.load_adapter(str(folder), adapter_name=name, autocast_adapter_dtype=False)
            return on
        return PeftModel.from_pretrained(on, str(folder), adapter_name=name, autocast_adapter_dtype=False)


def _check_weights(peft: Any, name: str, folder: Path) -> str:
    """The adapter's fingerprint, if each of its weights found its place and each place its weight."""
    from peft import get_peft_model_state_dict

    if peft.peft_config[name].is_prompt_learning:
        raise ModelError(f"the adapter {folder} only adds to what the model reads, which cannot be traced",
                         got=_config_value(folder, CONFIG, "peft_type"),
                         do="give an adapter that changes the model's layers, such as LoRA")  # fmt: skip
    # "auto" would look up the base model's config on the hub, and warn where there is no network
    expected = set(get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False))
    with _open_weights(folder) as file:
        stored = set(file.keys())
        surplus = stored - expected - set(peft.state_dict())  # where a vocabulary grew, peft writes some weights twice
        missing = (expected - stored) | {key for key in surplus if key.replace(".modules_to_save", "") not in expected}
        if missing:
            got = f"{len(missing)} weights without a counterpart, such as {min(missing)}"
            raise ModelError(f"the adapter {folder} does not fit this model", got=got, do=_advice(folder))
        weights = ((key, file.get_tensor(key)) for key in sorted(expected))
        return adapter_hash(json.loads((folder / CONFIG).read_text()), weights)


def _check_base(folder: Path, base_fingerprints: Sequence[str]) -> None:
    """`taughtby finetune` leaves the fingerprint of the base."""
    if (folder / "taughtby.json").exists() and (
        recorded := _config_value(folder, "taughtby.json", "model")
    ) not in base_fingerprints:
        got = f"fingerprint {base_fingerprints[0]}, trained on {recorded or 'one not recorded'}"
        raise ModelError(f"the adapter {folder} was trained on another model", got=got, do=_advice(folder))


def _advice(folder: Path) -> str:
    return f"give the base model the adapter was trained on, which is {_base(folder)}"


def _base(folder: Path) -> str:
    return _config_value(folder, CONFIG, "base_model_name_or_path") or "not recorded in it"


def _config_value(folder: Path, file: str, key: str) -> str:
    try:
        return str(json.loads((folder / file).read_text())[key] or "")
    except (ValueError, KeyError, TypeError):
        return ""
