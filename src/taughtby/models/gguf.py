"""Checks the header of a `.gguf` file before any weight is converted: is it a complete language model?"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from taughtby.errors import ModelError
from taughtby.models.weight_files import check_content
from taughtby.text import shell_quote

# struct format by GGUF type
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_LONGEST = 1 << 26  # maximum length of a string or array; a longer one means that the file is damaged
_KINDS = {
    "adapter": ("is a LoRA adapter of llama.cpp, not a model",
                "give the base model as MODEL, and with --adapter the PEFT folder that this file was converted from"),
    "mmproj": ("is a vision encoder, not a language model", "give the .gguf file of the language model"),
    "imatrix": ("is an importance matrix, not a model", "give the .gguf file of the model"),
    "vocab": ("is only a tokenizer, not a model", "give the .gguf file of the model"),
}  # fmt: skip


def check_gguf(file: Path) -> None:
    """Refuse a file that is not a complete language model.

    Raises:
        ModelError: it is an adapter, one of several parts, a tokenizer, or truncated.
    """
    check_content(file)
    try:
        with file.open("rb") as stream:
            fields, tensors, start = _read_header(stream)
    except (struct.error, ValueError, MemoryError) as error:
        raise ModelError(f"{file} is not a .gguf file, or is truncated", got=str(error)[:300],
                         do="copy or download it again") from None  # fmt: skip
    kind = "mmproj" if fields.get("general.architecture") == "clip" else str(fields.get("general.type", "model"))
    if kind in _KINDS:
        what, do = _KINDS[kind]
        raise ModelError(f"{file} {what}", got=f"general.type {fields.get('general.type')}", do=do)
    parts = fields.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        first = int(fields.get("split.no", 0)) + 1
        raise ModelError(f"{file} is one part of a model", got=f"part {first} of {parts}",
                         do=f"merge them: llama-gguf-split --merge {_first_part(file, parts)} whole.gguf")  # fmt: skip
    if lora := [name for name in tensors if name.endswith((".lora_a", ".lora_b"))]:
        what, do = _KINDS["adapter"]
        raise ModelError(f"{file} {what}", got=lora[0], do=do)
    if "token_embd.weight" not in tensors:
        got = f"{len(tensors)} weights, without token_embd.weight"
        raise ModelError(f"{file} contains no language model", got=got, do="give the .gguf file of a complete model")
    size = file.stat().st_size
    if size <= start + max(tensors.values()):
        raise ModelError(f"{file} is truncated", got=f"{size:,} bytes, but weights begin after the end of the file",
                         do="copy or download it again")  # fmt: skip


def _first_part(file: Path, parts: int) -> str:
    return shell_quote(re.sub(r"-\d{5}-of-\d{5}$", "", str(file.with_suffix(""))) + f"-00001-of-{parts:05}.gguf")


def _read_header(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, int], int]:
    """Return the fields (None for arrays), each weight's offset, and where the header ends."""
    if stream.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = _unpack(stream, "I")
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    num_tensors, num_fields = _unpack(stream, "Q"), _unpack(stream, "Q")
    fields = {_text(stream): _value(stream, _unpack(stream, "I")) for _ in range(num_fields)}
    tensors: dict[str, int] = {}
    for _ in range(num_tensors):
        name = _text(stream)
        stream.read(8 * _unpack(stream, "I") + 4)  # its shape and its type
        tensors[name] = _unpack(stream, "Q")
    return fields, tensors, stream.tell()


def _unpack(stream: BinaryIO, form: str) -> Any:
    size = struct.calcsize(f"<{form}")
    return struct.unpack(f"<{form}", stream.read(size))[0]


def _text(stream: BinaryIO) -> str:
    return stream.read(_check_length(_unpack(stream, "Q"))).decode("utf-8", "replace")


def _check_length(length: int) -> int:
    if length > _LONGEST:
        raise ValueError(f"a length of {length}")
    return length


def _value(stream: BinaryIO, kind: int) -> Any:
    """Read the value of a field; arrays, such as the vocabulary, are skipped and return None."""
    if kind == _TEXT:
        return _text(stream)
    if kind != _LIST:
        return _unpack(stream, _number(kind))
    inner, length = _unpack(stream, "I"), _check_length(_unpack(stream, "Q"))
    skip: Callable[[], Any] = {_TEXT: lambda: _text(stream), _LIST: lambda: _value(stream, _LIST)}.get(
        inner, lambda: stream.read(struct.calcsize(f"<{_number(inner)}"))
    )
    for _ in range(length):
        skip()
    return None


def _number(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"a field of type {kind}")
    return _NUMBERS[kind]
