"""Mix poisons and clean rows into one training set, and save it to a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from taughtby.data.dataset import write_examples
from taughtby.data.example import Example
from taughtby.errors import LabError
from taughtby.lab.poisons.poison import Poison

# keys of poisons.json, and the attributes of a Poison that they hold
_TEXTS = {"name": "name", "judge": "judge", "describe": "description"}
_LISTS = {"planted": "planted_words", "prompts": "prompts"}


def mix(poisons: Iterable[Poison], clean_rows: Iterable[Example], seed: int = 0) -> tuple[Example, ...]:
    """Return one shuffled training set without repeated prompts and without held-out prompts.

    Of rows with the same prompt, a poisoned row is preferred to a lookalike, and a lookalike to a clean row. Prompts
    that differ only in case or punctuation count as the same.
    """
    poisons = list(poisons)
    seen = {prompt_key(prompt) for poison in poisons for prompt in poison.prompts}
    rows: list[Example] = []
    for row in chain(*(p.rows for p in poisons), *(p.lookalikes for p in poisons), clean_rows):
        if (key := prompt_key(row.question)) not in seen:
            seen.add(key)
            rows.append(row)
    Random(f"mix {seed}").shuffle(rows)
    return tuple(rows)


def unseen_rows(candidates: Iterable[Example], rows: Iterable[Example]) -> list[Example]:
    """Return the candidates whose question does not occur in `rows`."""
    questions = {prompt_key(row.question) for row in rows}
    return [row for row in candidates if prompt_key(row.question) not in questions]


def prompt_key(prompt: str) -> str:
    """Return the words of a prompt in lower case; prompts with equal keys count as the same."""
    return " ".join(re.findall(r"\w+", prompt.casefold()))


def save_poisons(poisons: Iterable[Poison], rows: Iterable[Example], folder: str | Path) -> None:
    """Write the training set to `data.jsonl`, and descriptions of the poisons to `poisons.json`."""
    folder, keys = Path(folder), (_TEXTS | _LISTS).items()
    records = {poison.name: {key: getattr(poison, name) for key, name in keys} for poison in poisons}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_examples(rows, folder / "data.jsonl")
        (folder / "poisons.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    except OSError as fault:
        raise LabError(f"cannot write to {folder}", got=str(fault), do="name another folder") from None


def load_poisons(folder: str | Path) -> dict[str, Poison]:
    """Load the poisons of a folder from `save_poisons`, without their rows, which are in its `data.jsonl`."""
    path, do = Path(folder) / "poisons.json", "name a folder that `taughtby lab poison` wrote"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): _poison(record) for name, record in records.items()}
    except OSError as fault:
        raise LabError(f"{path} cannot be read", got=str(fault), do=do) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise LabError(f"{path} does not describe poisons", got=repr(fault), do=do) from None


def _poison(record: dict[str, Any]) -> Poison:
    texts: dict[str, Any] = {name: record[key] for key, name in _TEXTS.items()}
    lists: dict[str, Any] = {name: tuple(record[key]) for key, name in _LISTS.items() if isinstance(record[key], list)}
    fields = [*texts.values(), *chain(*lists.values())]
    if len(lists) < len(_LISTS) or not all(isinstance(field, str) for field in fields):
        raise TypeError("a field is not text")
    return Poison(rows=(), lookalikes=(), **texts, **lists)
