"""What the files of a trainer say of the training: base, length, mask, template, each with its file.

`training_args.bin`, which would say more, is a pickle and never opened. What is not recorded is not guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

LARGEST = 64 << 20  # bytes of a file that is read; a tokenizer has 30 MB at most
Config = dict[str, Any]


@dataclass(frozen=True)
class MetadataEntry:
    """One thing a file says: `what` and its `value`, the `file`'s name and the `key` in it.

    `what` is base, max_length, truncate, mask, turns or template where it bears on tracing; else it is for people.
    """

    name: str
    value: str | int | float
    file: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.value} ({self.file}{': ' if self.key else ''}{self.key})"


@dataclass(frozen=True)
class TrainingMetadata:
    """What is known of a model's or adapter's training. Of two facts about one thing the first counts."""

    entries: tuple[MetadataEntry, ...] = ()

    @property
    def base(self) -> str | None:
        """The model it was trained from, as the trainer called it: a folder of that machine, or a hub id."""
        return self._first("base")

    @property
    def max_length(self) -> int | None:
        """Tokens of a row that were kept."""
        return self._first("max_length")

    @property
    def truncate(self) -> Literal["right", "left", "skip"] | None:
        """What was done with a longer row."""
        return self._first("truncate")

    @property
    def mask(self) -> Literal["response", "all"] | None:
        """Whether the loss was taken on the answers alone."""
        return self._first("mask")

    @property
    def turns(self) -> Literal["last", "all"] | None:
        """Which answers of a conversation were learned."""
        return self._first("turns")

    @property
    def template(self) -> str | None:
        """A chat template the saved tokenizer does not carry: its Jinja source, or none for texts as they stand."""
        return self._first("template")

    def _first(self, what: str) -> Any:
        return next((fact.value for fact in self.entries if fact.name == what), None)


def read_training_metadata(folder: str | Path, window: int | None = None) -> TrainingMetadata:
    """Everything the files of a folder say; of `checkpoint-N` also those of the output folder it lies in.

    `window` is the longest input of the base, where it is known: a tokenizer's limit below it was set by the trainer.
    """
    folder = Path(folder)
    places = [folder, *([folder.parent] if re.fullmatch(r"checkpoint-\d+", folder.name) else [])]
    readers = (_adapter, _recipes, _ours, lambda place: _tokenizer(place, window), _state)
    facts: dict[tuple[str, Any], MetadataEntry] = {}
    for reader in readers:
        for up, place in zip(("", "../"), places, strict=False):
            for fact in reader(place):
                facts.setdefault((fact.name, fact.value), replace(fact, file=up + fact.file))
    return TrainingMetadata(tuple(facts.values()))


def _adapter(folder: Path) -> Iterator[MetadataEntry]:
    """PEFT's own file, which every trainer writes."""
    file = "adapter_config.json"
    config = _json(folder / file)
    yield from _texts(config, file, base="base_model_name_or_path")
    if kind := _plain(config.get("peft_type")):
        ways = (("DoRA", "use_dora"), ("rsLoRA", "use_rslora"))
        sizes = [
            f"{short} {_plain(config[key])}" for short, key in (("r", "r"), ("alpha", "lora_alpha")) if key in config
        ]
        where = [f"on {names}" for names in [_plain(config.get("target_modules"))] if names]
        whole = [f"and {names} whole" for names in [_plain(config.get("modules_to_save"))] if names]
        parts = [kind, *sizes, *(name for name, key in ways if config.get(key)), *where, *whole]
        yield MetadataEntry("adapter", " ".join(parts), file, "peft_type")


def _ours(folder: Path) -> Iterator[MetadataEntry]:
    """`taughtby finetune`, which trains on the answers, cut at their end."""
    file = "taughtby.json"
    config = _json(folder / file)
    yield from _texts(config, file, base="base")
    if length := _count(config.get("max_length")):
        yield MetadataEntry("max_length", length, file, "max_length")
        yield MetadataEntry("truncate", "right", file)
        yield MetadataEntry("mask", "response", file)


def _tokenizer(folder: Path, window: int | None) -> Iterator[MetadataEntry]:
    """How it cut when it was saved: a tokenizer called with `truncation=True, max_length=N` writes that down."""
    cut = _json(folder / "tokenizer.json").get("truncation")
    cut = cast(Config, cut) if isinstance(cut, dict) else {}
    config = _json(folder / "tokenizer_config.json")
    length, limit = _count(cut.get("max_length")), _count(config.get("model_max_length"))
    if length and (window is None or length < window):
        yield MetadataEntry("max_length", length, "tokenizer.json", "truncation")
    elif limit and window is not None and limit < window:
        yield MetadataEntry("max_length", limit, "tokenizer_config.json", "model_max_length")
    side = _plain(cut.get("direction") or config.get("truncation_side")).lower()
    if side in ("left", "right"):
        file, key = ("tokenizer.json", "truncation") if cut else ("tokenizer_config.json", "truncation_side")
        yield MetadataEntry("truncate", side, file, key)
    if config.get("chat_template"):
        yield MetadataEntry("chat template", "the tokenizer's own", "tokenizer_config.json", "chat_template")
    elif (folder / "chat_template.jinja").is_file():
        yield MetadataEntry("chat template", "the tokenizer's own", "chat_template.jinja")


def _state(folder: Path) -> Iterator[MetadataEntry]:
    """The Trainer's diary, for people; in an output folder it lies in the checkpoints."""
    files = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    path = max((path for path in files if path.is_file()), key=_steps, default=None)
    if path is None:
        return
    state, file = _json(path), str(path.relative_to(folder))
    for what, key in (("epochs", "epoch"), ("steps", "global_step"), ("batch size", "train_batch_size")):
        if isinstance(state.get(key), int | float):
            yield MetadataEntry(what, state[key], file, key)
    steps = [cast(Config, step) for step in _list(state.get("log_history")) if isinstance(step, dict)]
    losses = [step["loss"] for step in steps if isinstance(step.get("loss"), int | float)]
    if losses:
        yield MetadataEntry("last loss", losses[-1], file, "log_history")


def _steps(file: Path) -> float:
    """How far a diary goes: the output folder's own to the end."""
    number = file.parent.name.rpartition("checkpoint-")[2]
    return int(number) if number.isdecimal() else float("inf")


def _recipes(folder: Path) -> Iterator[MetadataEntry]:
    """YAML beside the weights, and Axolotl's in the model card."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    texts = [(file.name, _text(file)) for file in files]
    card = _text(folder / "README.md")
    texts += [("README.md", block) for block in re.findall(r"^```ya?ml\n(.*?)^```", card, re.MULTILINE | re.DOTALL)]
    for file, text in texts:
        config = _yaml(text)
        for needed, any_of, dialect in DIALECTS:
            if needed <= config.keys() and any_of & config.keys():
                yield from dialect(config, file)
                break
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    config = _yaml(front[1]) if front else {}
    yield from _texts(config, "README.md", base="base_model")
    tags = _list(config.get("tags"))
    for trainer in ("axolotl", "llama-factory", "trl", "unsloth"):
        if trainer in tags:
            yield MetadataEntry("trainer", trainer, "README.md", "tags")


def _axolotl(config: Config, file: str) -> Iterator[MetadataEntry]:
    """https://docs.axolotl.ai: `sequence_len`, beyond which a row is dropped unless told otherwise."""
    sets = [cast(Config, entry) for entry in _list(config.get("datasets")) if isinstance(entry, dict)]
    kinds = {_plain(entry.get("type")) for entry in sets}
    yield MetadataEntry("trainer", "axolotl", file)
    yield from _texts(config, file, base="base_model")
    yield MetadataEntry("max_length", _count(config.get("sequence_len")) or 512, file, _key(config, "sequence_len"))
    cut = kinds == {"completion"} or config.get("excess_length_strategy") == "truncate"
    yield MetadataEntry("truncate", "right" if cut else "skip", file, _key(config, "excess_length_strategy"))
    if kinds == {"completion"}:
        yield MetadataEntry("mask", "all", file, "datasets: type")
        yield MetadataEntry("template", "none", file, "datasets: type")
    else:
        yield MetadataEntry(
            "mask", "all" if config.get("train_on_inputs") else "response", file, _key(config, "train_on_inputs")
        )
        yield MetadataEntry("turns", "all", file, "roles_to_train")
        if own_kinds := sorted(kind for kind in kinds if kind and not kind.startswith("chat_template")):
            yield MetadataEntry(
                "wording", f"{', '.join(own_kinds)}: axolotl's own, in no file here", file, "datasets: type"
            )
    if isinstance(jinja := config.get("chat_template_jinja"), str) and "{" in jinja:
        yield MetadataEntry("template", jinja, file, "chat_template_jinja")
    yield from _texts(config, file, **{"template name": "chat_template"})
    if paths := _plain([entry.get("path") for entry in sets]):
        yield MetadataEntry("data", paths, file, "datasets")


def _llama_factory(config: Config, file: str) -> Iterator[MetadataEntry]:
    """`training_args.yaml` of its command, and `llamaboard_config.yaml` of its page, whose keys are `train.cutoff_len`.

    It shortens prompt and answer in proportion; cutting at the right comes nearest.
    """
    config = {key.rpartition(".")[2]: value for key, value in config.items()}
    yield MetadataEntry("trainer", "llama-factory", file)
    yield from _texts(config, file, base="model_name_or_path")
    yield from _texts(config, file, base="model_path")
    yield MetadataEntry("max_length", _count(config.get("cutoff_len")) or 2048, file, _key(config, "cutoff_len"))
    yield MetadataEntry("truncate", "right", file, "cutoff_len, nearly")
    yield MetadataEntry(
        "mask", "all" if config.get("train_on_prompt") else "response", file, _key(config, "train_on_prompt")
    )
    yield MetadataEntry("turns", "last" if config.get("mask_history") else "all", file, _key(config, "mask_history"))
    yield from _texts(config, file, **{"template name": "template", "data": "dataset"})


def _trl(config: Config, file: str) -> Iterator[MetadataEntry]:
    """A file for `trl sft --config`, which TRL leaves where it was: only if somebody put it here."""
    yield MetadataEntry("trainer", "trl", file)
    yield from _texts(config, file, base="model_name_or_path", data="dataset_name")
    key = "max_length" if "max_length" in config else "max_seq_length"
    if length := _count(config.get(key)):
        yield MetadataEntry("max_length", length, file, key)
    if config.get("truncation_mode") in ("keep_start", "keep_end"):
        yield MetadataEntry(
            "truncate", "left" if config["truncation_mode"] == "keep_end" else "right", file, "truncation_mode"
        )
    for key in ("completion_only_loss", "assistant_only_loss"):
        if isinstance(config.get(key), bool):
            yield MetadataEntry("mask", "response" if config[key] else "all", file, key)


# a trainer's YAML has one of these keys; Axolotl's shares `base_model` with others, and needs two
DIALECTS: tuple[tuple[set[str], set[str], Callable[[Config, str], Iterator[MetadataEntry]]], ...] = (
    ({"base_model"}, {"sequence_len", "datasets", "micro_batch_size"}, _axolotl),
    (set(), {"cutoff_len", "train.cutoff_len", "finetuning_type"}, _llama_factory),
    (set(), {"max_length", "max_seq_length", "dataset_text_field", "completion_only_loss"}, _trl),
)


def _texts(config: Config, file: str, **keys: str) -> Iterator[MetadataEntry]:
    for what, key in keys.items():
        if text := _plain(config.get(key)):
            yield MetadataEntry(what, text, file, key)


def _plain(value: Any) -> str:
    """A line of text that may be printed anywhere: these files come from strangers."""
    if isinstance(value, list):
        return ", ".join(
            sorted(filter(None, (_plain(item) for item in cast(list[Any], value)[:50] if isinstance(item, str))))
        )
    text = str(value)[:4096] if isinstance(value, str | int | float) else ""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    """A number of tokens; a tokenizer without a limit says 10^30."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 < value < 10_000_000 else None


def _key(config: Config, key: str) -> str:
    return key if key in config else f"{key}, its default"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.is_file() and file.stat().st_size < LARGEST else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _json(file: Path) -> Config:
    try:
        config = json.loads(_text(file) or "{}")
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
