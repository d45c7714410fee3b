"""GGUF files that are not complete language models: detected from their headers, before any conversion."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_loading import gguf_of

from taughtby.errors import ModelError
from taughtby.models.gguf import check_gguf
from taughtby.models.model import load_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mistake(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(file), dtype="float32", device="cpu")
    return str(caught.value)


def written(to: Path, fields: dict[str, Any], *tensors: str, kind: str = "llama") -> Path:
    import gguf

    file = gguf.GGUFWriter(str(to), kind)
    for name, value in fields.items():
        file.add_uint16(name, value) if isinstance(value, int) else file.add_string(name, value)
    for name in tensors:
        file.add_tensor(name, np.ones((2, 32), dtype=np.float32))
    file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()
    return to


@pytest.mark.parametrize(
    ("fields", "tensors", "kind", "what"),
    [
        ({"general.type": "adapter"}, ["blk.0.attn_q.weight.lora_a"], "llama", "is a LoRA adapter"),
        ({}, ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"], "llama", "is a LoRA adapter"),
        ({"general.type": "mmproj"}, ["v.patch_embd.weight"], "clip", "is a vision encoder"),
        ({}, ["v.patch_embd.weight"], "clip", "is a vision encoder"),
        ({"general.type": "imatrix"}, ["blk.0.attn_q.weight.in_sum2"], "llama", "is an importance matrix"),
        ({"general.type": "vocab"}, [], "llama", "is only a tokenizer"),
        ({}, [], "llama", "contains no language model"),
        ({"split.count": 3, "split.no": 1}, ["token_embd.weight"], "llama", "is one part of a model"),
    ],
)  # fmt: skip
def test_gguf_without_language_model_raises(
    fields: dict[str, Any], tensors: list[str], kind: str, what: str, tmp_path: Path, cache: Path
) -> None:
    file = written(tmp_path / "odd.gguf", fields, *tensors, kind=kind)
    assert mistake(file).startswith(f"{file} {what}")
    assert not cache.exists()


def test_split_gguf_error_suggests_merge_command(tmp_path: Path) -> None:
    file = tmp_path / "big-00002-of-00003.gguf"
    message = mistake(written(file, {"split.count": 3, "split.no": 1}, "token_embd.weight"))
    assert "got: part 2 of 3" in message
    assert f"llama-gguf-split --merge {tmp_path}/big-00001-of-00003.gguf whole.gguf" in message


def test_git_lfs_pointer_raises(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert mistake(file).startswith(f"{file} is a Git LFS pointer")


def test_truncated_gguf_raises(tiny: Any, tmp_path: Path) -> None:
    file = gguf_of(tiny.lm, tiny.tokenizer, tmp_path / "tiny.gguf")
    check_gguf(file)
    whole = file.read_bytes()
    for item in (10, 1000, len(whole) // 2):
        file.write_bytes(whole[:item])
        message = mistake(file)
        assert str(file) in message and message.endswith("copy or download it again")


def test_gguf_with_missing_weights_raises(tiny: Any, tmp_path: Path, cache: Path) -> None:
    """Transformers fills them with random numbers, and the copy in the cache would be taken from then on."""
    weights = dict(tiny.lm.state_dict())
    del weights["model.layers.2.mlp.up_proj.weight"]

    class Lacking:
        def state_dict(self) -> Any:
            return weights

    file = gguf_of(Lacking(), tiny.tokenizer, tmp_path / "tiny.gguf")
    assert f"the files of the model {file} are incomplete\n  got: 1 weights missing" in mistake(file)
    assert not list(cache.rglob("*.safetensors"))


@given(st.binary(max_size=100), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_arbitrary_bytes_raise_model_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, tensors: int, fields: int
) -> None:
    """A header may claim any number of fields: what it claims is not set aside in memory."""
    file = tmp_path_factory.mktemp("junk") / "m.gguf"
    tracemalloc.start()
    for start in (b"", b"GGUF", b"GGUF" + struct.pack("<IQQ", 3, tensors, fields)):
        file.write_bytes(start + content)
        with pytest.raises(ModelError, match=r"m\.gguf"):
            check_gguf(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
