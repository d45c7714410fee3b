"""Checks files of weights by their names and headers, before any weight is loaded.

Checkpoints that are quantized, truncated, sharded by rank, or Git LFS pointers are refused here, since loaders notice
that late, with unclear errors, or not at all.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from taughtby.errors import ModelError
from taughtby.text import shell_quote

Header = dict[str, dict[str, Any]]  # by name: dtype, shape and data_offsets, as in safetensors
LFS = b"version https://git-lfs"
LARGEST_HEADER = 100_000_000  # the limit of safetensors itself
# inserted into names by torch.compile, FSDP and activation checkpointing; DDP's prefix
WRAPPERS = r"(^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.)"
# tensors beside a quantized weight that are needed to dequantize it
_SCALE = re.compile(
    r"(.*)\.(weight_scale(_inv|_2)?|weight_zero_point|input_scale|scales|biases|qzeros|g_idx|absmax|SCB|weight\.absmax)$"
)
# vision and audio towers, value heads, multi-token prediction: they do not affect text answers
_UNUSED = re.compile(
    r"(^|[._])(vision|visual|image|audio|multi_modal|mm)[a-z_]*\.|(^|\.)(v_head|value_head|mtp)\.|rotary_emb\.inv_freq$"
    r"|\.attn\.(masked_)?bias$"
)
_INTEGER_DTYPES = ("I8", "U8", "I32")
_USE_UNQUANTIZED = "give the unquantized model, and the adapter with --adapter"


def read_header(file: Path) -> Header:
    """Read the names, dtypes and shapes in a safetensors file.

    Raises:
        ModelError: the file is a Git LFS pointer, truncated, or not a safetensors file.
    """
    check_content(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ModelError(f"{file} is not a safetensors file, or is truncated", got=f"{size} bytes",
                             do="copy or download it again")  # fmt: skip
        try:
            header = json.loads(stream.read(length))
            weights = {name: value for name, value in header.items() if name != "__metadata__"}
            end = 8 + length + max((value["data_offsets"][1] for value in weights.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ModelError(f"{file} is not a safetensors file", got=f"{type(error).__name__}: {error}"[:300],
                             do="copy or download it again") from error  # fmt: skip
    if size < end:
        raise ModelError(f"{file} is truncated", got=f"{size:,} of {end:,} bytes", do="copy or download it again")
    return weights


def check_content(file: Path) -> None:
    """Refuse a Git LFS pointer, whose content was not downloaded."""
    with file.open("rb") as stream:
        if stream.read(len(LFS)) == LFS:
            raise ModelError(f"{file} is a Git LFS pointer, not the file itself", got=f"{file.stat().st_size} bytes",
                             do=f"fetch the files: git -C {shell_quote(file.parent)} lfs pull")  # fmt: skip


def check_not_empty(file: Path, header: Header) -> None:
    """Refuse a file without weights, or with weights without elements, as a rank of DeepSpeed ZeRO-3 writes it."""
    empty = [name for name, value in header.items() if 0 in value["shape"]]
    if not header or empty:
        got = f"{len(empty)} of {len(header)} weights have no elements" if header else "no weights"
        do = "save it again with stage3_gather_16bit_weights_on_model_save: true, or gather it with zero_to_fp32.py"
        raise ModelError(f"{file} was saved by DeepSpeed ZeRO-3 without its weights", got=got, do=do)


def check_checkpoint(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Check that the weights in a model's folder can be loaded; return which parts of their names to remove.

    Args:
        folder: a folder with config.json.
        config: the content of config.json.

    Returns:
        The `key_mapping` for `from_pretrained`: patterns of a trainer's wrappers, if the names have them.

    Raises:
        ModelError: the weights are missing, truncated, quantized without a `quant_method`, or in another format.
    """
    if "quantization" in config and not _method(config):
        raise ModelError(f"{folder} was quantized by MLX", got=f"config.json: quantization {config['quantization']}",
                         do="give the model it was converted from, or convert it back: "
                            f"mlx_lm.convert --dequantize --hf-path {shell_quote(folder)}")  # fmt: skip
    if config.get("quantization_config") and not _method(config):
        got = f"config.json: quantization_config {config['quantization_config']}, without quant_method"
        raise ModelError(f"{folder} is quantized by an unknown method", got=got, do=_USE_UNQUANTIZED)
    wrapped = False
    for file in weight_paths(folder):
        header = read_header(file)
        check_not_empty(file, header)
        if not _method(config):
            _check_unquantized(file, header)
        if any(name.startswith("base_model.model.") for name in header):
            raise ModelError(f"{file} contains a PEFT model with an unmerged adapter",
                             got=next(name for name in header if name.startswith("base_model.model.")),
                             do="load it with PEFT, call merge_and_unload(), and save the result")  # fmt: skip
        wrapped = wrapped or any(re.search(WRAPPERS, name) for name in header)
    return {WRAPPERS: ""} if wrapped else {}


def check_complete(name: str, info: dict[str, Any]) -> tuple[str, ...]:
    """Refuse a model with missing or unexpected weights, by Transformers' loading info; return notes for the user.

    Transformers initializes missing weights at random, and ignores unexpected ones.
    """
    whole = "give the folder of a causal language model as `save_pretrained` wrote it"
    if missing := info["missing_keys"]:
        raise ModelError(f"the files of the model {name} are incomplete",
                         got=f"{len(missing)} weights missing, such as {min(missing)}", do=whole)  # fmt: skip
    if mismatched := info["mismatched_keys"]:
        weight, stored, expected = min(mismatched)
        got = f"{len(mismatched)} of another shape, such as {weight}: {list(stored)}, not {list(expected)}"
        raise ModelError(f"the weights of {name} do not fit its config.json", got=got,
                         do="give the config.json that was saved with them")  # fmt: skip
    surplus = info["unexpected_keys"]
    if lora := [weight for weight in surplus if ".lora_" in weight or weight.startswith("lora_")]:
        raise ModelError(f"the files of {name} contain an unmerged adapter",
                         got=f"{len(lora)} weights, such as {min(lora)}",
                         do="merge it with PEFT (merge_and_unload), or give base and adapter separately")  # fmt: skip
    if strange := [weight for weight in surplus if not _UNUSED.search(weight)]:
        raise ModelError(f"the files of {name} contain unexpected weights",
                         got=f"{len(strange)}, such as {min(strange)}", do=whole)  # fmt: skip
    if not surplus:
        return ()
    return (f"{name}: {len(surplus)} weights do not affect text answers, such as {min(surplus)}",)


def weight_paths(folder: Path) -> list[Path]:
    """Return the safetensors files of a model's folder, those that Transformers would load.

    Raises:
        ModelError: one is missing, there is none, or there are two sets.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists():
        if index.exists() and (shards := sorted(folder.glob("model-*-of-*.safetensors"))):
            got, do = f"{whole.name} and {shards[0].name}", "remove the outdated one"
            raise ModelError(f"{folder} contains two sets of weights; one is from an earlier save", got=got, do=do)
        return [whole]
    if not index.exists():
        raise no_weights_error(folder)
    check_content(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read", got=f"{type(error).__name__}: {error}"[:300],
                         do="copy or download it again") from error  # fmt: skip
    if missing := [name for name in names if not (folder / name).exists()]:
        got = f"{len(missing)} of {len(names)} missing, such as {missing[0]}"
        raise ModelError(f"{folder} lacks weight files listed in {index.name}", got=got,
                         do="copy or download the rest")  # fmt: skip
    return [folder / name for name in names]


def no_weights_error(folder: Path) -> ModelError:
    """Return the error for a folder without safetensors, with advice for the files that are there instead."""
    if ranks := sharded_checkpoint_error(folder):
        return ranks
    convert = "convert it to the format of `save_pretrained` with the tool that wrote it"
    others = {"*.gguf": "give the .gguf file itself", "*.npz": "give the model that MLX converted"}
    others |= dict.fromkeys(("consolidated*", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx"), convert)
    for pattern, do in others.items():
        if file := next(iter(sorted(folder.glob(pattern))), None):
            return ModelError(f"{folder} contains no safetensors files", got=file.name, do=do)
    got = ", ".join(sorted(file.name for file in folder.iterdir())[:12]) or "an empty folder"
    return ModelError(f"{folder} contains no weights", got=got, do="give the folder that `save_pretrained` wrote")


def sharded_checkpoint_error(folder: Path) -> ModelError | None:
    """Return the error for a checkpoint that is sharded by rank, with the command that merges it; None for others."""
    here = shell_quote(folder)
    if shards := _first(folder, ("*.distcp", "*/*.distcp", "pytorch_model_fsdp*")):
        where = shell_quote(shards.parent if shards.suffix == ".distcp" else shards)
        return ModelError(f"{folder} is a sharded FSDP checkpoint: each rank wrote a part of the weights",
                          got=str(shards.relative_to(folder)),
                          do=f"merge them: accelerate merge-weights {where} {here}-merged, and add the config and "
                             "the tokenizer")  # fmt: skip
    if shards := _first(folder, ("*_model_states.pt", "*/*_model_states.pt", "*/*_optim_states.pt", "zero_to_fp32.py")):
        return ModelError(f"{folder} is a DeepSpeed checkpoint: each rank wrote a part of the weights",
                          got=str(shards.relative_to(folder)),
                          do=f"merge them: python {here}/zero_to_fp32.py {here} {here}-merged --safe_serialization, "
                             "and add the config and the tokenizer")  # fmt: skip
    return None


def _first(folder: Path, patterns: Iterable[str]) -> Path | None:
    return next((file for pattern in patterns for file in sorted(folder.glob(pattern))), None)


def _method(config: dict[str, Any]) -> Any:
    """Return the quantization method in the configuration, None without one."""
    quantization = config.get("quantization_config") or config.get("compression_config")
    return quantization.get("quant_method") if isinstance(quantization, dict) else None


def _check_unquantized(file: Path, header: Header) -> None:
    """Refuse quantized weights and their scales if the configuration does not mention quantization."""
    scales = [name for name in header if (match := _SCALE.match(name)) and
              any(f"{match[1]}.{weight}" in header for weight in ("weight", "qweight", "weight_packed"))]  # fmt: skip
    rounded = [name for name, value in header.items() if value["dtype"] in _INTEGER_DTYPES and len(value["shape"]) > 1
               and name.endswith((".weight", ".qweight", ".weight_packed"))]  # fmt: skip
    if scales or rounded:
        what = "weights with a scale" if scales else "quantized weights"
        got = f"{len(scales or rounded)}, such as {min(scales or rounded)}"
        raise ModelError(f"{file} contains {what}, but config.json does not describe the quantization", got=got,
                         do=f"{_USE_UNQUANTIZED}; or add the quantization_config that belongs to them")  # fmt: skip
