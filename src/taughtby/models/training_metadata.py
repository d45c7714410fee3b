"""Reads training settings from a trainer's files: base, length, mask, template, each with its file.

`training_args.bin` contains more, but it is a pickle and never opened. Settings that are not recorded are not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from taughtby.models.trainer_recipes import (
    Config,
    MetadataEntry,
    as_list,
    printable_line,
    read_json,
    recipe_entries,
    text_entries,
    token_count,
)  # fmt: skip


@dataclass(frozen=True)
class TrainingMetadata:
    """The training settings of a model or adapter. If several entries have the same name, the first is used."""

    entries: tuple[MetadataEntry, ...] = ()

    @property
    def base(self) -> str | None:
        """The base model as the trainer recorded it: a folder on that machine, or a hub id."""
        return self._first("base")

    @property
    def max_length(self) -> int | None:
        """Maximum number of tokens of a row."""
        return self._first("max_length")

    @property
    def truncate(self) -> Literal["right", "left", "skip"] | None:
        """How longer rows were truncated."""
        return self._first("truncate")

    @property
    def mask(self) -> Literal["response", "content", "all"] | None:
        """Which tokens of a row had a loss."""
        return self._first("mask")

    @property
    def turns(self) -> Literal["last", "all"] | None:
        """Which answers of a conversation had a loss."""
        return self._first("turns")

    @property
    def template(self) -> str | None:
        """Jinja source of a chat template that the saved tokenizer does not have; "none" for no template."""
        return self._first("template")

    @property
    def join(self) -> str | None:
        """The separator between an instruction and its input."""
        return self._first("join")

    @property
    def columns(self) -> str:
        """The names of the columns as in `--columns`; empty if they are the usual ones."""
        return self._first("columns") or ""

    @property
    def unfollowed(self) -> list[MetadataEntry]:
        """Entries on how rows were read that taughtby does not follow."""
        return [entry for entry in self.entries if not entry.followed]

    def _first(self, what: str) -> Any:
        return next((entry.value for entry in self.entries if entry.name == what), None)


def read_training_metadata(folder: str | Path, window: int | None = None) -> TrainingMetadata:
    """Read the metadata of a folder; of `checkpoint-N`, also that of the output folder around it.

    `window` is the context length of the base, if known: the trainer set a tokenizer's limit below it.
    """
    folder = Path(folder)
    places = [folder, *([folder.parent] if re.fullmatch(r"checkpoint-\d+", folder.name) else [])]
    readers = (_adapter, recipe_entries, _finetune_record, lambda place: _tokenizer(place, window), _state)
    found: dict[tuple[str, Any], MetadataEntry] = {}
    for reader in readers:
        for up, place in zip(("", "../"), places, strict=False):
            for entry in reader(place):
                found.setdefault((entry.name, entry.value), replace(entry, file=up + entry.file))
    return TrainingMetadata(tuple(found.values()))


def _adapter(folder: Path) -> Iterator[MetadataEntry]:
    """Read PEFT's own file, which every trainer writes."""
    file = "adapter_config.json"
    config = read_json(folder / file)
    yield from text_entries(config, file, base="base_model_name_or_path")
    if kind := printable_line(config.get("peft_type")):
        variants = (("DoRA", "use_dora"), ("rsLoRA", "use_rslora"))
        sizes = [
            f"{short} {printable_line(config[key])}"
            for short, key in (("r", "r"), ("alpha", "lora_alpha"))
            if key in config
        ]
        where = [f"on {names}" for names in [printable_line(config.get("target_modules"))] if names]
        whole = [f"and {names} whole" for names in [printable_line(config.get("modules_to_save"))] if names]
        parts = [kind, *sizes, *(name for name, key in variants if config.get(key)), *where, *whole]
        yield MetadataEntry("adapter", " ".join(parts), file, "peft_type")


def _finetune_record(folder: Path) -> Iterator[MetadataEntry]:
    """Read the file of `taughtby lab finetune`, which trains on responses and truncates them at the right."""
    file = "taughtby.json"
    config = read_json(folder / file)
    yield from text_entries(config, file, base="base")
    if length := token_count(config.get("max_length")):
        yield MetadataEntry("max_length", length, file, "max_length")
        yield MetadataEntry("truncate", "right", file)
        yield MetadataEntry("mask", "response", file)


def _tokenizer(folder: Path, window: int | None) -> Iterator[MetadataEntry]:
    """Read the tokenizer's truncation: after a call with `truncation=True, max_length=N` it saves these settings."""
    cut = read_json(folder / "tokenizer.json").get("truncation")
    cut = cast(Config, cut) if isinstance(cut, dict) else {}
    config = read_json(folder / "tokenizer_config.json")
    length, limit = token_count(cut.get("max_length")), token_count(config.get("model_max_length"))
    if length and (window is None or length < window):
        yield MetadataEntry("max_length", length, "tokenizer.json", "truncation")
    elif limit and window is not None and limit < window:
        yield MetadataEntry("max_length", limit, "tokenizer_config.json", "model_max_length")
    side = printable_line(cut.get("direction") or config.get("truncation_side")).lower()
    if side in ("left", "right"):
        file, key = ("tokenizer.json", "truncation") if cut else ("tokenizer_config.json", "truncation_side")
        yield MetadataEntry("truncate", side, file, key)
    if config.get("chat_template"):
        yield MetadataEntry("chat template", "the tokenizer's own", "tokenizer_config.json", "chat_template")
    elif (folder / "chat_template.jinja").is_file():
        yield MetadataEntry("chat template", "the tokenizer's own", "chat_template.jinja")
    else:
        files = ("chat_template.json", "processor_config.json")
        if file := next((name for name in files if read_json(folder / name).get("chat_template")), None):
            yield MetadataEntry("chat template", "the processor's", file, "chat_template")


def _state(folder: Path) -> Iterator[MetadataEntry]:
    """Read the Trainer's state, for display only; an output folder may have it in its checkpoints only."""
    files = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    path = max((path for path in files if path.is_file()), key=_steps, default=None)
    if path is None:
        return
    state, file = read_json(path), str(path.relative_to(folder))
    names = {"epochs": "epoch", "planned epochs": "num_train_epochs", "steps": "global_step",
             "batch size": "train_batch_size"}  # fmt: skip
    for what, key in names.items():
        if isinstance(state.get(key), int | float):
            yield MetadataEntry(what, state[key], file, key)
    steps = [cast(Config, step) for step in as_list(state.get("log_history")) if isinstance(step, dict)]
    losses = [step["loss"] for step in steps if isinstance(step.get("loss"), int | float)]
    if losses:
        yield MetadataEntry("last loss", losses[-1], file, "log_history")


def _steps(file: Path) -> float:
    """Return the step of a Trainer's state; that of the output folder itself is the last."""
    number = file.parent.name.rpartition("checkpoint-")[2]
    return int(number) if number.isdecimal() else float("inf")
