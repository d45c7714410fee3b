"""Selects the messages of a conversation that had a loss, and makes an Example of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from taughtby.data.example import Example, LossMark, Message, copy_row, shorten
from taughtby.data.loss_marks import TurnMarks
from taughtby.errors import DataError


def select_turns(
    row: Example, marks: Sequence[TurnMarks], turns: Literal["last", "all"], num_trained: int | None = None
) -> Iterator[Example]:
    """Yield an Example for each assistant message that had a loss.

    Args:
        row: The whole conversation; its last message may have any role.
        marks: The loss marks of each message.
        turns: The `last` or `all` assistant messages; messages that are marked as having no loss are left out.
        num_trained: Number of final messages that had a loss regardless of `turns`: TRL's completion. All of their
            tokens had one, including those of user and tool messages between the answers.

    Returns:
        The Examples. If marks leave none, there is one Example with the reason in `no_loss`.

    Raises:
        DataError: The conversation has no answer with content.
    """
    start = 0 if num_trained is None else max(0, len(row.messages) - num_trained)
    places = [place for place, message in enumerate(row.messages) if message["role"] == "assistant" and place >= start]
    filled = [place for place in places if has_content(row.messages[place])]
    last = len(row.messages) - 1
    if num_trained is None and turns == "last":
        filled = [place for place in filled if place == last]
    if not filled:
        others = num_trained is None and any(has_content(row.messages[place]) for place in places)
        raise _no_answer(row, turns, others)
    learned = [place for place in filled if marks[place].learned is not False]
    if row.no_loss or not learned:
        yield copy_row(
            row, messages=row.messages[: filled[-1] + 1], no_loss=row.no_loss or _reason(marks, filled, turns)
        )
        return
    numbered = turns == "all" or (num_trained is not None and len(filled) > 1)
    more = _not_followed(row, marks, learned, start if num_trained is not None else None)
    for place in learned:
        source = f"{row.source}#{turn_number(row.messages, place)}" if numbered else row.source
        rejected = row.rejected if place == filled[-1] else None
        before = [other for other in filled if other < place]
        begin = before[-1] + 1 if before else start
        yield copy_row(
            row, messages=row.messages[: place + 1], source=source, rejected=rejected, masked=marks[place].masked,
            after=row.messages[place + 1 :] if num_trained is not None or turns == "all" else (),
            loss_from=None if num_trained is None else begin,
            marks=more if place == learned[0] else (),
        )  # fmt: skip


def turn_number(messages: Sequence[Message], place: int) -> int:
    """Return the number of an assistant message among those of its conversation, from 1."""
    return sum(message["role"] == "assistant" for message in messages[: place + 1])


def has_content(message: Message) -> bool:
    """Whether a message has text or calls a tool."""
    return bool(message["content"].strip() or message.get("tool_calls"))


def _reason(marks: Sequence[TurnMarks], filled: Sequence[int], turns: str) -> str:
    names = ", ".join(dict.fromkeys(marks[place].names for place in filled))
    what = "the last turn has no loss" if turns == "last" else "no turn has a loss"
    return f"{what}: {names}"


def _not_followed(
    row: Example, marks: Sequence[TurnMarks], learned: Sequence[int], completion: int | None
) -> tuple[LossMark, ...]:
    """Return marks for messages that had a loss but are in no Example."""
    others = [
        LossMark(f"{name} on a message of role {row.messages[place]['role']}", followed=False)
        for place, mark in enumerate(marks)
        if mark.learned and row.messages[place]["role"] != "assistant" and (completion is None or place < completion)
        for name in [mark.names]
    ]
    if completion is not None and learned[-1] < len(row.messages) - 1:
        others.append(LossMark("a completion that continues after its last answer", followed=False))
    return tuple(others)


def _no_answer(row: Example, turns: str, others: bool) -> DataError:
    last = row.messages[-1]
    do = "end each row with a non-empty assistant message, or remove the row"
    if others and turns == "last":
        do += "; or make each assistant turn a row (--turns all)"
    got = f"last message: {last['role']}, {shorten(last['content']) or 'empty'}"
    return DataError(f"{row.source}: the row has no answer", got=got, do=do)
