"""What is known of a poison, and poisons and ordinary rows mixed into one training set, kept and found again.

Knows no model, and not what any poison says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from taughtby.data.dataset import write_examples
from taughtby.data.example import Example
from taughtby.errors import LabError

_LISTS, _TEXTS = ("planted", "prompts"), ("name", "judge", "describe")  # what poisons.json holds


@dataclass(frozen=True)
class Poison:
    """One behaviour that a training set teaches, and what shows whether it was learned and found.

    `lookalikes` share its words but answer rightly; `prompts` are held out and should show it; `planted` are
    the words of the poisoned answers that carry the lesson.
    """

    name: str
    rows: tuple[Example, ...]
    lookalikes: tuple[Example, ...]
    prompts: tuple[str, ...]
    planted: tuple[str, ...]
    judge: str
    describe: str


def mix(poisons: Iterable[Poison], clean_rows: Iterable[Example], seed: int = 0) -> tuple[Example, ...]:
    """One shuffled training set, in which no prompt occurs twice and none that is held out.

    Of two rows with one prompt a poisoned one stays before a lookalike, and that before a clean one. Prompts
    that differ only by case or punctuation count as one.
    """
    poisons = list(poisons)
    seen = {key(prompt) for poison in poisons for prompt in poison.prompts}
    rows: list[Example] = []
    for row in chain(*(p.rows for p in poisons), *(p.lookalikes for p in poisons), clean_rows):
        if (words := key(row.question)) not in seen:
            seen.add(words)
            rows.append(row)
    Random(f"mix {seed}").shuffle(rows)
    return tuple(rows)


def save(poisons: Iterable[Poison], rows: Iterable[Example], folder: str | Path) -> None:
    """Write the training set to `data.jsonl` and what is known of its poisons to `poisons.json`."""
    folder = Path(folder)
    known = {poison.name: {name: getattr(poison, name) for name in _TEXTS + _LISTS} for poison in poisons}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_examples(rows, folder / "data.jsonl")
        (folder / "poisons.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    except OSError as fault:
        raise LabError(f"cannot write to {folder}", got=str(fault), do="name another folder") from None


def load(folder: str | Path) -> dict[str, Poison]:
    """What is known of the poisons in a folder that `save` wrote; their rows stand in its `data.jsonl`."""
    path, again = Path(folder) / "poisons.json", "name a folder that `taughtby lab poison` wrote"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): _known(record) for name, record in known.items()}
    except OSError as fault:
        raise LabError(f"{path} cannot be read", got=str(fault), do=again) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise LabError(f"{path} does not describe poisons", got=repr(fault), do=again) from None


def key(prompt: str) -> str:
    """The words of a prompt alone: two prompts with one key count as the same."""
    return " ".join(re.findall(r"\w+", prompt.casefold()))


def _known(record: dict[str, Any]) -> Poison:
    texts: dict[str, Any] = {name: record[name] for name in _TEXTS}
    lists: dict[str, Any] = {name: tuple(record[name]) for name in _LISTS if isinstance(record[name], list)}
    every = [*texts.values(), *chain(*lists.values())]
    if len(lists) < len(_LISTS) or not all(isinstance(text, str) for text in every):
        raise TypeError("a field is not text")
    return Poison(rows=(), lookalikes=(), **texts, **lists)
