"""Reads training settings from configuration files: YAML of Axolotl, LLaMA-Factory and TRL, and the model card.

These files are not trusted: text is reduced to printable characters, and YAML is loaded safely.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from taughtby.models.wordings import Wording, axolotl_wording

UNFOLLOWED = "not followed: "  # key prefix of entries about how rows were read that taughtby does not follow
# Axolotl's settings for texts and roles that are not followed
AXOLOTL_READING = (
    "chat_template_kwargs", "conversation", "default_system_message", "eot_tokens", "field_messages",
    "field_system", "field_tools", "message_field_content", "message_field_role",
    "message_property_mappings", "roles", "roles_to_train",
    "split_thinking", "train_on_eos", "train_on_eot",
)  # fmt: skip
LARGEST = 64 << 20  # maximum bytes of a file; the largest tokenizer.json has 30 MB
Config = dict[str, Any]


@dataclass(frozen=True)
class MetadataEntry:
    """A training setting: its `name` and `value`, the name of the `file`, and the `key` in it.

    The names base, max_length, truncate, mask, turns, template, join and columns affect tracing; all other entries are
    for display only.
    """

    name: str
    value: str | int | float
    file: str
    key: str = ""

    @property
    def followed(self) -> bool:
        """Whether taughtby follows the entry; true for entries that do not concern how rows are read."""
        return not self.key.startswith(UNFOLLOWED) and self.name != "template name"

    def __str__(self) -> str:
        key, value = self.key.removeprefix(UNFOLLOWED), str(self.value)
        if self.name == "template" and value != "none":
            value = "as the trainer has it"  # it may be a page long
        elif self.name == "join":
            value = repr(value)
        return f"{self.name} {value} ({self.file}{': ' if key else ''}{key})"


def recipe_entries(folder: Path) -> Iterator[MetadataEntry]:
    """Read the YAML files beside the weights, and the YAML blocks and front matter of the model card."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    texts = [(file.name, read_limited_text(file)) for file in files]
    card = read_limited_text(folder / "README.md")
    texts += [("README.md", block) for block in re.findall(r"^```ya?ml\n(.*?)^```", card, re.MULTILINE | re.DOTALL)]
    for file, text in texts:
        config = _yaml(text)
        for needed, any_of, dialect in DIALECTS:
            if needed <= config.keys() and any_of & config.keys():
                yield from dialect(config, file)
                break
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    config = _yaml(front[1]) if front else {}
    yield from text_entries(config, "README.md", base="base_model")
    tags = as_list(config.get("tags"))
    for trainer in ("axolotl", "llama-factory", "trl", "unsloth"):
        if trainer in tags:
            yield MetadataEntry("trainer", trainer, "README.md", "tags")


def _axolotl(config: Config, file: str) -> Iterator[MetadataEntry]:
    """Read Axolotl's configuration (https://docs.axolotl.ai). By default, rows beyond `sequence_len` are dropped."""
    sets = [cast(Config, entry) for entry in as_list(config.get("datasets")) if isinstance(entry, dict)]
    kinds = {_kind_name(entry.get("type")) for entry in sets}
    yield MetadataEntry("trainer", "axolotl", file)
    if paths := printable_line([entry.get("path") for entry in sets]):
        yield MetadataEntry("data", paths, file, "datasets")
    yield from text_entries(config, file, base="base_model")
    yield MetadataEntry(
        "max_length", token_count(config.get("sequence_len")) or 512, file, _key(config, "sequence_len")
    )
    truncated = kinds == {"completion"} or config.get("excess_length_strategy") == "truncate"
    yield MetadataEntry("truncate", "right" if truncated else "skip", file, _key(config, "excess_length_strategy"))
    if kinds == {"completion"}:
        yield MetadataEntry("mask", "all", file, "datasets: type")
        yield MetadataEntry("template", "none", file, "datasets: type")
    else:
        chat = bool(kinds) and all(kind.startswith("chat_template") for kind in kinds)  # loss on content only
        mask = "all" if config.get("train_on_inputs") else "content" if chat else "response"
        yield MetadataEntry("mask", mask, file, _key(config, "train_on_inputs"))
        yield MetadataEntry("turns", "all", file, "roles_to_train")
        own_kinds = sorted(kind for kind in kinds if kind and not kind.startswith("chat_template"))
        wording = axolotl_wording(sets[0].get("type")) if own_kinds else None
        if wording and all(entry.get("type") == sets[0].get("type") for entry in sets):
            yield from _wording_entries(wording, own_kinds[0], file)
            return
        if own_kinds:
            names = f"{', '.join(own_kinds)}: axolotl's own"
            yield MetadataEntry("wording", names, file, f"{UNFOLLOWED}datasets: type")
    if isinstance(jinja := config.get("chat_template_jinja"), str) and "{" in jinja:
        yield MetadataEntry("template", jinja, file, "chat_template_jinja")
    yield from text_entries(config, file, **{"template name": "chat_template"})
    settings = {
        key: value for entry in (config, *sets) for key, value in entry.items() if key in AXOLOTL_READING and value
    }
    for key, value in sorted(settings.items()):
        yield MetadataEntry(key, printable_line(str(value)), file, f"{UNFOLLOWED}{key}")


def _kind_name(kind: Any) -> str:
    """Describe the `type` of a data set; a mapping is a custom format."""
    return "a format of its own" if isinstance(kind, dict) else printable_line(kind)


def _wording_entries(wording: Wording, name: str, file: str) -> Iterator[MetadataEntry]:
    """Yield a prompt format as a chat template, and how rows are read for it."""
    yield MetadataEntry("wording", f"{name}, axolotl's", file, "datasets: type")
    yield MetadataEntry("template", wording.template, file, "datasets: type")
    if wording.join is not None:
        yield MetadataEntry("join", wording.join, file, "datasets: type")
    if wording.columns:
        columns = ",".join(f"{name}={column}" for name, column in wording.columns)
        yield MetadataEntry("columns", columns, file, "datasets: type")


def _llama_factory(config: Config, file: str) -> Iterator[MetadataEntry]:
    """Read `training_args.yaml`, or `llamaboard_config.yaml` of LLaMA Board, with keys such as `train.cutoff_len`.

    LLaMA-Factory truncates prompt and answer in proportion; truncating at the right is closest to that.
    """
    config = {key.rpartition(".")[2]: value for key, value in config.items()}
    yield MetadataEntry("trainer", "llama-factory", file)
    yield from text_entries(config, file, base="model_name_or_path")
    yield from text_entries(config, file, base="model_path")
    yield MetadataEntry("max_length", token_count(config.get("cutoff_len")) or 2048, file, _key(config, "cutoff_len"))
    yield MetadataEntry("truncate", "right", file, "cutoff_len, nearly")
    yield MetadataEntry(
        "mask", "all" if config.get("train_on_prompt") else "response", file, _key(config, "train_on_prompt")
    )
    yield MetadataEntry("turns", "last" if config.get("mask_history") else "all", file, _key(config, "mask_history"))
    yield MetadataEntry("join", "\n", file, "between an instruction and its input")
    yield from text_entries(config, file, **{"template name": "template", "data": "dataset"})
    for key in ("default_system", "tool_format"):
        if text := printable_line(config.get(key)):
            yield MetadataEntry(key, text, file, f"{UNFOLLOWED}{key}")


def _trl(config: Config, file: str) -> Iterator[MetadataEntry]:
    """Read a file for `trl sft --config`. TRL does not copy it, so it is here only if the user put it here."""
    yield MetadataEntry("trainer", "trl", file)
    yield from text_entries(config, file, base="model_name_or_path", data="dataset_name")
    key = "max_length" if "max_length" in config else "max_seq_length"
    if length := token_count(config.get(key)):
        yield MetadataEntry("max_length", length, file, key)
    if config.get("truncation_mode") in ("keep_start", "keep_end"):
        yield MetadataEntry(
            "truncate", "left" if config["truncation_mode"] == "keep_end" else "right", file, "truncation_mode"
        )
    yield from _trl_mask(config, file)
    for key in ("chat_template_path", "chat_template", "chat_template_kwargs", "dataset_text_field", "system_prompt"):
        text = printable_line(str(config.get(key) or ""))
        if text and (key, text) != ("dataset_text_field", "text"):
            yield MetadataEntry(key, text, file, f"{UNFOLLOWED}{key}")


def _trl_mask(config: Config, file: str) -> Iterator[MetadataEntry]:
    """Read whether the loss is on all assistant turns, or on completions only.

    Without either option, TRL decides by the data: whole conversations, or only the completions of prompts.
    """
    if config.get("assistant_only_loss") is True:
        yield MetadataEntry("mask", "response", file, "assistant_only_loss")
        yield MetadataEntry("turns", "all", file, "assistant_only_loss")
    for key in ("completion_only_loss", "assistant_only_loss"):
        if isinstance(config.get(key), bool):
            yield MetadataEntry("mask", "response" if config[key] else "all", file, key)


# keys that identify a trainer's YAML; Axolotl's needs two, since others have `base_model` too
DIALECTS: tuple[tuple[set[str], set[str], Callable[[Config, str], Iterator[MetadataEntry]]], ...] = (
    ({"base_model"}, {"sequence_len", "datasets", "micro_batch_size"}, _axolotl),
    (set(), {"cutoff_len", "train.cutoff_len", "finetuning_type"}, _llama_factory),
    (
        set(),
        {"max_length", "max_seq_length", "dataset_text_field", "completion_only_loss", "assistant_only_loss"},
        _trl,
    ),
)


def text_entries(config: Config, file: str, **keys: str) -> Iterator[MetadataEntry]:
    """Yield entries for the keys that have text, given as `name=key`."""
    for what, key in keys.items():
        if text := printable_line(config.get(key)):
            yield MetadataEntry(what, text, file, key)


def printable_line(value: Any) -> str:
    """Convert a value of an untrusted file to one line of printable text."""
    if isinstance(value, list):
        return ", ".join(
            sorted(
                filter(None, (printable_line(item) for item in cast(list[Any], value)[:50] if isinstance(item, str)))
            )
        )
    text = str(value)[:4096] if isinstance(value, str | int | float) else ""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, else an empty one."""
    return cast(list[Any], value) if isinstance(value, list) else []


def token_count(value: Any) -> int | None:
    """Return a plausible number of tokens, else None; a tokenizer without a limit has 10^30."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 < value < 10_000_000 else None


def _key(config: Config, key: str) -> str:
    return key if key in config else f"{key}, its default"


def read_limited_text(file: Path) -> str:
    """Return a file's text; empty if it is missing, too large or not UTF-8."""
    try:
        return file.read_text(encoding="utf-8") if file.is_file() and file.stat().st_size < LARGEST else ""
    except (OSError, UnicodeDecodeError):
        return ""


def read_json(file: Path) -> Config:
    """Read a JSON object; empty if the file is missing or contains anything else."""
    try:
        config = json.loads(read_limited_text(file) or "{}")
    except (ValueError, RecursionError):
        return {}
    return cast(Config, config) if isinstance(config, dict) else {}


def _yaml(text: str) -> Config:
    import yaml

    try:
        config = yaml.safe_load(text[:1_000_000])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return {str(key): value for key, value in cast(Config, config).items()} if isinstance(config, dict) else {}
