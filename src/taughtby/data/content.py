"""Content of messages and rows that is not plain text: parts, media, and tool calls in other formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from taughtby.errors import DataError
from taughtby.text import shorten

Record = dict[str, Any]
TEXT_PARTS = (None, "text", "input_text", "output_text")
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_PLACES = ("image_path", "image_paths", "image_url", "image_urls", "image_file", "video_path", "audio_path")
MEDIA_COLUMNS = (*_MEDIA, *_PLACES)
MEDIA_KEYS = (*MEDIA_COLUMNS, "video_url", "input_audio", "file", "files", "document", "attachments")
EMPTY: tuple[Any, ...] = (None, "", [], {}, ())
# part types that OpenAI's format does not have: (name, advice)
_TOOLS = "write calls as `tool_calls`, and results as messages of role tool"
_THOUGHT = "move it to the field `reasoning_content`, if the chat template uses it"
_KINDS = {
    "tool_use": ("Anthropic's tool_use", _TOOLS), "tool_result": ("Anthropic's tool_result", _TOOLS),
    "toolUse": ("Bedrock's toolUse", _TOOLS), "toolResult": ("Bedrock's toolResult", _TOOLS),
    "thinking": ("thinking as a content part", _THOUGHT), "reasoning": ("thinking as a content part", _THOUGHT),
    "think": ("thinking as a content part", _THOUGHT), "redacted_thinking": ("redacted thinking", "remove the part"),
    "reasoningContent": ("Bedrock's reasoningContent", _THOUGHT),
}  # fmt: skip


class UnclearRow(DataError):
    """An ambiguous row; the caller adds its source."""


class UntypedText(str):
    """A CSV or TSV cell that may be text or a list of messages; the file does not say which."""

    __slots__ = ()


def is_filled(value: Any) -> bool:
    """Whether a value is not empty, at any depth: Arrow adds null fields that only other rows use."""
    if value is None or isinstance(value, str):
        return bool(value)
    if isinstance(value, list | tuple):
        return any(is_filled(inner) for inner in cast("list[Any]", value))
    if isinstance(value, Mapping):
        return any(is_filled(inner) for inner in cast("dict[str, Any]", value).values())
    if type(value).__name__ == "NAType":  # a missing value of pandas, which has no truth
        return False
    return value not in EMPTY and value == value  # or NaN


def read_content(content: Any, role: str, source: str) -> str:
    """Return the text of a message's content, a string or a list of text parts.

    Raises:
        DataError: The content is anything else, such as an image, or an `UntypedText`.
    """
    if isinstance(content, UntypedText):
        do = "save the rows as JSON Lines or Parquet, which have types"
        raise DataError(f"{source}: the cell of the {role} message may be text or a list of messages",
                        got=shorten(content), do=do)  # fmt: skip
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple) and content and all(isinstance(part, dict) for part in content):
        return "".join(_part_text(part, role, source) for part in cast("list[dict[str, Any]]", content))
    do = "give a string, or remove the row"
    raise DataError(f"{source}: the content of the {role} message is not text", got=shorten(content), do=do)


def _part_text(part: dict[str, Any], role: str, source: str) -> str:
    kind, text = part.get("type"), part.get("text")
    foreign = [name for name in _KINDS if name == kind or (kind is None and is_filled(part.get(name)))]
    if foreign:
        name, do = _KINDS[foreign[0]]
        raise DataError(f"{source}: the {role} message contains {name}", got=shorten(foreign[0]), do=do)
    media = [name for name in MEDIA_KEYS if is_filled(part.get(name))]
    if kind not in TEXT_PARTS or not isinstance(text, str) or media:
        got = kind if kind not in (None, "text") else media[0] if media else part
        raise DataError(f"{source}: the {role} message contains more than text", got=shorten(got),
                        do="remove the row: taughtby supports text only, not images, audio or files")  # fmt: skip
    return text


def reject_media(record: Record, source: str) -> None:
    """Refuse a row with images or other media in separate columns: the model saw them, and taughtby reads text only.

    Raises:
        DataError: The row has a media column that is not empty.
    """
    for name, value in record.items():
        if (name in MEDIA_COLUMNS and is_filled(value)) or (not isinstance(value, str) and _is_file(value)):
            raise DataError(f"{source}: the row has images, audio or video", got=f"column {shorten(name)}",
                            do="remove the row, or the column if the model was not trained on it")  # fmt: skip


def _is_file(value: Any) -> bool:
    """Whether a value is a file, or a list with one, as `datasets` stores images and audio."""
    files = cast("list[Any]", value if isinstance(value, list) else [value])
    return any(isinstance(file, dict) and isinstance(cast("Any", file).get("bytes"), bytes) for file in files)


def reject_foreign_message(message: Mapping[str, Any], role: str, source: str) -> None:
    """Refuse a message with media fields, or with OpenAI's old `function_call`.

    Raises:
        DataError: The message has either.
    """
    if media := [name for name in MEDIA_KEYS if is_filled(message.get(name))]:
        raise DataError(f"{source}: the {role} message contains more than text", got=media[0],
                        do="remove the row: taughtby supports text only, not images, audio or files")  # fmt: skip
    if is_filled(message.get("function_call")):
        do = 'write it as "tool_calls": [{"type": "function", "function": {"name": …, "arguments": …}}]'
        raise DataError(f"{source}: the {role} message has a function_call, which OpenAI replaced by tool_calls",
                        got=shorten(message["function_call"]), do=do)  # fmt: skip


def from_json(value: Any) -> Any:
    """Parse a string that is a JSON list or object; return anything else unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
