"""Loss marks: fields of a row, a message or a content part that say what had a loss.

OpenAI, Mistral and Together write `weight`, LLaMA-Factory `loss_weight`, Axolotl `train`, `training` and
`train_detail`, ms-swift `loss`, torchtune `masked`, others `trainable`; TRL's KTO has a `label`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from taughtby.data.example import ROLES, CharRanges, LossMark, Record, shorten
from taughtby.data.message_parts import is_moved
from taughtby.errors import DataError

LEARNED = ("train", "training", "trainable", "learnable", "loss", "weight", "loss_weight")  # false or 0: no loss
MASKED = ("masked",)  # true: no loss
DETAILS = ("train_detail", "training_detail")  # ranges of characters, the last one included
KTO = ("kto_tag", "label")  # false: an undesirable example
# words in names that may concern the loss; a bird's `weight` does not, so these are reported and not followed
_WORDS = re.compile(
    r"(?:^|_)(?:loss|losses|mask|masks|masked|weight|weights|train|training|trainable|learnable)(?:_|$)"
)
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


@dataclass(frozen=True)
class TurnMarks:
    """The loss marks of one message.

    Attributes:
        learned: Whether it had a loss; None without a mark.
        masked: Characters of its text without a loss.
        marks: The marks that were read.
    """

    learned: bool | None = None
    masked: CharRanges = ()
    marks: tuple[LossMark, ...] = ()

    @property
    def names(self) -> str:
        """Names of the marks that taughtby follows, as a reason to skip the message."""
        return ", ".join(dict.fromkeys(mark.name for mark in self.marks if mark.followed))


NO_MARKS = TurnMarks()
_PLAIN = {"role", "content", "from", "value"}  # fields of a message that are no marks


def read_turn_marks(message: Any, source: str) -> TurnMarks:
    """Read the marks of a raw message, before its content parts are joined.

    Raises:
        DataError: `train_detail` is not a list of ranges.
    """
    if not isinstance(message, dict):
        return NO_MARKS
    if message.keys() <= _PLAIN and all(isinstance(value, str) for value in message.values()):
        return NO_MARKS
    content = next((message[key] for key in ("content", "value") if message.get(key) is not None), None)
    learned, marks = _flags(message)
    masked: CharRanges = ()
    if isinstance(content, list | tuple) and any(isinstance(part, dict) for part in content):
        masked, more = _part_marks(content)
        marks += more
    elif details := next((message[key] for key in DETAILS if message.get(key)), None):
        masked = _detail_ranges(_parse(details), str(content or ""), source)
        marks.append(LossMark(next(key for key in DETAILS if message.get(key))))
    marks += [LossMark(key, followed=False) for key in _unknown(message, {*LEARNED, *MASKED, *DETAILS})]
    return TurnMarks(learned, masked, tuple(marks))


def _flags(holder: Mapping[str, Any]) -> tuple[bool | None, list[LossMark]]:
    """Return whether a message or part had a loss (None without flags), and its flags; a single false flag decides."""
    flags: list[bool] = []
    marks: list[LossMark] = []
    for key in (*LEARNED, *MASKED):
        if (value := holder.get(key)) is None:
            continue
        learned = _truth(value)
        marks.append(LossMark(f"{key} {shorten(json.dumps(value, default=str), 20)}", _is_flag(value)))
        if learned is not None:
            flags.append(learned != (key in MASKED))
    return (all(flags) if flags else None), marks


def _truth(value: Any) -> bool | None:
    """Convert a flag or weight to bool: true if it is positive. None for anything else."""
    if isinstance(value, bool | int | float):
        return value > 0
    if not isinstance(value, str):
        return None
    try:
        return float(value) > 0  # from CSV
    except ValueError:
        return _TRUTH.get(value.strip().lower())


def _is_flag(value: Any) -> bool:
    """Whether a value is a clear yes or no: no method can follow a fractional weight."""
    if isinstance(value, str):
        return _truth(value) is not None and value.strip().lower() in (*_TRUTH, "0.0", "1.0")
    return _truth(value) is not None and (value in (0, 1) or value < 0)


def _part_marks(parts: Iterable[Any]) -> tuple[CharRanges, list[LossMark]]:
    """Return the ranges of the parts without a loss in the joined text, and the marks of all parts."""
    ranges: list[tuple[int, int]] = []
    marks: list[LossMark] = []
    place = 0
    for part in parts:
        fields: dict[str, Any] = part if isinstance(part, dict) else {}
        text, moved = fields.get("text"), is_moved(fields)
        size = len(text) if isinstance(text, str) and not moved else 0
        learned, part_marks = _flags(fields)
        if learned is False and size:
            begin = ranges.pop()[0] if ranges and ranges[-1][1] == place else place
            ranges.append((begin, place + size))
        lost = moved and learned is False  # only text can be masked, not thinking and tool calls
        marks += [LossMark(f"{mark.name} of a part", mark.followed and not lost) for mark in part_marks]
        marks += [LossMark(f"{key} of a part", followed=False) for key in _unknown(fields, {*LEARNED, *MASKED})]
        place += size
    return tuple(ranges), marks


def _detail_ranges(details: Any, text: str, source: str) -> CharRanges:
    """Return the ranges of characters without a loss; as in Axolotl, characters outside of all details have none."""
    try:
        parts = [(int(d["begin_offset"]), int(d["end_offset"]) + 1, _truth(d["train"])) for d in details]
        valid = all(0 <= begin < end for begin, end, _ in parts)
    except (KeyError, TypeError, ValueError):
        parts, valid = [], False
    if not valid:
        do = 'write [{"begin_offset": 0, "end_offset": 8, "train": true}, …], counted in characters, both inclusive'
        raise DataError(f"{source}: `train_detail` is not a list of ranges", got=shorten(details), do=do)
    learned = [any(begin <= place < end and train for begin, end, train in parts) for place in range(len(text))]
    for begin, end, train in parts:
        if not train:
            learned[begin:end] = [False] * len(learned[begin:end])
    edges = [place for place in range(len(text) + 1) if _at(learned, place - 1) != _at(learned, place)]
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def _at(learned: list[bool], place: int) -> bool:
    return learned[place] if 0 <= place < len(learned) else True


def _parse(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _unknown(holder: Mapping[str, Any], names: set[str]) -> list[str]:
    """Return keys whose name and value suggest a loss mark, but that are not followed."""
    return [key for key, value in holder.items() if key not in names and _may_be_mark(key) and _may_mark(value)]


@lru_cache(maxsize=4096)
def _may_be_mark(key: str) -> bool:
    return bool(_WORDS.search(key))


def _may_mark(value: Any) -> bool:
    """Whether a value may be a loss mark: a flag, a number, a list or object, or a role (NeMo's `mask`)."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(part, bool | int | float | list | dict) for part in value)
    if isinstance(value, str):
        return value.strip().lower() in {*_TRUTH, *ROLES}
    return isinstance(value, bool | int | float | dict)


def read_row_marks(
    record: Record, used: frozenset[str], *, completion: bool, named: set[str]
) -> tuple[tuple[LossMark, ...], str]:
    """Return the loss marks among a row's columns, and why the row had no loss ("" if it had).

    Args:
        record: The row.
        used: The columns that its format reads.
        completion: Whether the row is a prompt and its completion; with a `label` of true or false it is TRL's KTO.
        named: The columns that the user named; a `label` among them is not KTO's.
    """
    marks = [LossMark(key, followed=False) for key in _unknown(record, {*used, *KTO})]
    reason = ""
    for key in KTO:
        if key in named or (value := record.get(key)) is None:
            continue
        text = value.strip().lower() if isinstance(value, str) else json.dumps(value) if value in (True, False) else ""
        if isinstance(value, int | float) and not isinstance(value, bool):  # a class, or false stored as 0
            marks += [LossMark(f"{key} 0 (ignored; is it KTO's?)", False)] if completion and value == 0 else []
            continue
        if text not in ("true", "false"):
            continue
        certain = completion or key == "kto_tag"
        if certain or text == "false":
            marks.append(LossMark(f"{key} {text}" + ("" if certain else " (ignored; is it KTO's?)"), certain))
        if certain and text == "false":
            reason = f"undesirable KTO example: {key} false"
    return tuple(marks), reason
