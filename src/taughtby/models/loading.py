"""Loads weights and tokenizers, only from formats that cannot run code: safetensors and GGUF, no pickle.

Remote code is never trusted, and no option changes that.
"""

from __future__ import annotations

import contextlib
import filecmp
import importlib.util
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taughtby.errors import ModelError, OptionError, explain_errors
from taughtby.models.adapter_files import check_folder
from taughtby.models.decoder import not_causal
from taughtby.models.model_files import adapter_folder, base_of_adapter, is_adapter, resolve_local
from taughtby.models.trainer_recipes import read_json
from taughtby.models.training_metadata import TrainingMetadata, read_training_metadata
from taughtby.models.weight_files import check_checkpoint, check_complete, check_content

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZED_NOTE = "its weights are quantized to {}, so gradients differ (cosine .45 with full precision)"
NO_REMOTE_CODE: dict[str, Any] = {"trust_remote_code": False}
_LOAD_LOCK = threading.Lock()  # Transformers patches PyTorch while it loads: concurrent loads lose tied heads


@dataclass(frozen=True)
class LoadOptions:
    """Dtype, device (`map` spreads the weights over all devices) and quantization of the weights."""

    dtype: torch.dtype
    device: str
    quantize: str | None

    @property
    def pretrained_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""
        kwargs: dict[str, Any] = {"dtype": self.dtype}
        if self.device == "map":
            kwargs["device_map"] = "auto"
        elif self.quantize:
            kwargs["device_map"] = {"": self.device}
        if self.quantize:
            from transformers import BitsAndBytesConfig

            four: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": self.dtype}
            bits: dict[str, Any] = {f"load_in_{self.quantize}": True, **(four if self.quantize == "4bit" else {})}
            kwargs["quantization_config"] = BitsAndBytesConfig(**bits)
        return kwargs


def load_options(dtype: str, device: str, quantize: str | None) -> LoadOptions:
    """Validate the options and resolve `auto`; `torch.device` and `torch.dtype` objects are accepted too."""
    device, dtype = str(device), str(dtype).removeprefix("torch.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelError("unknown dtype", got=dtype, do=f"use one of: auto, {', '.join(DTYPES)}")
    if quantize not in (None, "4bit", "8bit"):
        raise OptionError("unknown quantization", got=quantize, do="use 4bit, 8bit, or omit it")
    if quantize:
        _check_bitsandbytes(f"{quantize} weights")
    return LoadOptions(_fastest_dtype(device) if dtype == "auto" else DTYPES[dtype], device, quantize)


def _fastest_dtype(device: str) -> torch.dtype:
    """Return the fastest dtype for a device, bfloat16 or float32."""
    if device.startswith(("cuda", "map")) and torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # without bfloat16 instructions a CPU is many times slower in bfloat16 than in float32
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return torch.bfloat16 if any(bool(getattr(torch.cpu, test, bool)()) for test in tests) else torch.float32


def _check_bitsandbytes(what: str) -> None:
    if not torch.cuda.is_available():
        raise OptionError(f"{what} need a GPU", got="no CUDA", do="load the unquantized weights, without --quantize")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise OptionError(f"{what} need bitsandbytes", got="not installed", do="pip install 'taughtby[quantized]'")


def _check_device(name: str) -> None:
    """Refuse a device that PyTorch does not know, or that this machine does not have."""
    if name == "map":
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError("no such device", got=name, do="give cpu, cuda, cuda:1, auto or map") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        do = f"give cuda:0 to cuda:{count - 1}, or auto" if count else "give --device cpu, or auto"
        raise OptionError("this machine has no such GPU", got=f"{name} ({count} available)", do=do)


def load_weights(name: str, options: LoadOptions) -> tuple[Any, tuple[str, ...]]:
    """Load the frozen Transformers model; return it with notes for the user."""
    path = resolve_local(name)
    renames = check_files(path)
    _check_device(options.device)
    with _explain_loading(name), _LOAD_LOCK, _quiet_transformers():
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(path, **NO_REMOTE_CODE)
        stored = _stored_quantization(config, name)
        loaded: Any = _auto_class(config, name).from_pretrained(
            path, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
            key_mapping=renames or None, **_without_adapter_kwargs(path), **options.pretrained_kwargs, **NO_REMOTE_CODE
        )  # fmt: skip
    lm, info = loaded
    unused = check_complete(name, info)
    lm = lm.eval().requires_grad_(False)
    if "device_map" not in options.pretrained_kwargs and not stored:
        with _explain_loading(name):
            lm = lm.to(options.device)
    quantization = options.quantize or stored
    return lm, (*((f"{name}: {QUANTIZED_NOTE.format(quantization)}",) if quantization else ()), *unused)


def check_files(path: str) -> dict[str, str]:
    """Check the files of a model's folder; return the `key_mapping` for `from_pretrained`."""
    folder = Path(path)
    if not folder.is_dir():
        return {}
    check_content(folder / "config.json")
    return check_checkpoint(folder, read_json(folder / "config.json"))


@contextlib.contextmanager
def _quiet_transformers() -> Generator[None]:
    """Silence Transformers' progress bars and its report on weights, which `check_complete` replaces."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _auto_class(config: Any, name: str) -> Any:
    """Return the class that loads the model: for causal language models, or for vision-language models."""
    import transformers as tf

    if type(config) in tf.MODEL_FOR_CAUSAL_LM_MAPPING:
        return tf.AutoModelForCausalLM
    if type(config) in tf.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return tf.AutoModelForImageTextToText
    raise not_causal(name, f"{type(config).__name__}, model_type {config.model_type}")


def _without_adapter_kwargs(path: str) -> dict[str, Any]:
    """Keep Transformers from attaching an adapter whose config a merge left in the model's folder."""
    return {"adapter_kwargs": {"subfolder": "no adapter here"}} if Path(path).is_dir() else {}


def load_tokenizer(name: str, adapters: tuple[str, ...] = ()) -> Any:
    """Load the tokenizer and its chat template from the last adapter that has one, else from the model.

    `name` may itself be an adapter's folder; no weights are read.
    """
    from transformers import AutoTokenizer

    if is_adapter(name):
        name, adapters = base_of_adapter(adapter_folder(name))[0], (name, *adapters)
    folders = [adapter_folder(adapter) for adapter in adapters]
    with_tokenizer = [
        folder for folder in folders if any((folder / file).exists() for file in ("tokenizer.json", "tokenizer.model"))
    ]
    path = str(with_tokenizer[-1]) if with_tokenizer else resolve_local(name)
    with _explain_loading(str(with_tokenizer[-1]) if with_tokenizer else name):
        tokenizer = AutoTokenizer.from_pretrained(path, **NO_REMOTE_CODE)
        if not tokenizer.chat_template and (template := _processor_template(path)):
            tokenizer.chat_template = template
    if with_tokenizer:
        _check_token_ids(tokenizer, with_tokenizer[-1], Path(resolve_local(name)))
    return tokenizer


def _check_token_ids(tokenizer: Any, adapter: Path, base: Path) -> None:
    """Refuse an adapter whose folder has the tokenizer of another model, which has other ids for the same tokens.

    Up to a tenth may differ, because reserved tokens may have been renamed.
    """
    files = [folder / "tokenizer.json" for folder in (adapter, base)]
    if not all(file.is_file() for file in files) or filecmp.cmp(*files, shallow=False):
        return
    from transformers import AutoTokenizer

    old, new = AutoTokenizer.from_pretrained(str(base), **NO_REMOTE_CODE).get_vocab(), tokenizer.get_vocab()
    changed = sorted(token for token, number in old.items() if new.get(token) != number)
    if len(changed) > len(old) // 10:
        got = f"{len(changed):,} of {len(old):,} tokens have a different id or none, such as {changed[0]!r}"
        do = "give the base that the adapter was trained on, or remove the tokenizer from its folder"
        raise ModelError(f"the tokenizer in {adapter} is not that of its base {base}", got=got, do=do)


def _processor_template(path: str) -> str | None:
    """Return the chat template of a processor: vision models before 2025 have it nowhere else."""
    from transformers.utils.hub import cached_file

    quiet: dict[str, Any] = {
        f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")
    }
    for name in () if Path(path).is_file() else ("chat_template.json", "processor_config.json"):
        file = cached_file(path, name, **quiet)
        template = read_json(Path(file)).get("chat_template") if file else None
        if isinstance(template, str) and template:
            return template
    return None


def _explain_loading(name: str) -> Any:
    do = "give a folder with config.json and *.safetensors, a .gguf file, a hub id, or smollm2"
    return explain_errors(f"the model {name} cannot be loaded", do)


def _stored_quantization(config: Any, name: str) -> str | None:
    """Return how the stored weights are quantized, None if they are not; refuse those without gradients."""
    quantization = getattr(config, "quantization_config", None)
    if not quantization:
        return None
    method = str(quantization["quant_method"] if isinstance(quantization, dict) else quantization.quant_method)
    if "bitsandbytes" in method:
        _check_bitsandbytes(f"the bitsandbytes weights of {name}")
        return "4 or 8 bits"
    raise ModelError(f"the weights of {name} are quantized by a method without gradients", got=method,
                     do="give the unquantized model, and the adapter with --adapter")  # fmt: skip


def load_without_weights(name: str, adapters: Sequence[str] = ()) -> tuple[Any, TrainingMetadata, int]:
    """Load the tokenizer, training metadata and context length of a model, without reading its weights."""
    from transformers import AutoConfig

    if is_adapter(name):
        name, adapters = base_of_adapter(adapter_folder(name))[0], (name, *adapters)
    tokenizer = load_tokenizer(name, tuple(adapters))
    with explain_errors(f"the model {name} cannot be read", "give a folder with config.json, a hub id, or smollm2"):
        config = AutoConfig.from_pretrained(resolve_local(name), trust_remote_code=False)
    window = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1_000_000)
    folders = [adapter_folder(adapter) for adapter in adapters]
    for folder in folders:
        check_folder(folder, config.model_type)
    folder = folders[-1] if folders else Path(name)
    return tokenizer, read_training_metadata(folder, window) if folder.is_dir() else TrainingMetadata(), window
