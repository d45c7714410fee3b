"""Derive a retraining experiment from a trace: base model, chat template, training options and conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeGuard

from taughtby.data.chat_template import NO_TEMPLATE
from taughtby.errors import OptionError
from taughtby.index.storage import storage_path
from taughtby.lab.finetune import FULL_RATE, TrainingOptions, read_training_record
from taughtby.models.loading import load_tokenizer
from taughtby.models.paths import absolute_name, locate
from taughtby.models.training_metadata import read_training_metadata
from taughtby.remediation.experiment import Behaviour, ExperimentDesign, RetrainExperiment
from taughtby.remediation.selection import Removal, masked_words, select_rows

MAX_COUNT = 10_000_000  # a Trainer on data of unknown length plans sys.maxsize epochs


def experiment_from_trace(
    trace: Mapping[str, Any], behaviours: Sequence[Behaviour], overrides: Mapping[str, Any], *,
    base: str | None = None, max_new_tokens: int = 48, dtype: str = "auto", device: str = "auto",
) -> tuple[RetrainExperiment, list[str]]:  # fmt: skip
    """Return the experiment that repeats the training of a traced model.

    Args:
        trace: The trace's document.
        behaviours: What to measure.
        overrides: Fields of `TrainingOptions` that override what the model's folder says.
        base: The base model, if the index does not name it or it has moved.
        max_new_tokens: Maximum tokens per answer.
        dtype: As in `load_model`.
        device: As in `load_model`.

    Returns:
        The experiment, and notes on its assumptions.

    Raises:
        OptionError: If the training cannot be repeated here.
    """
    name, adapter = str(trace["model"]), trace["adapter"]
    if isinstance(adapter, list):
        raise OptionError("several adapters cannot be retrained as one", got=", ".join(adapter), do="merge them first")
    settings = _index_settings(trace)
    base = absolute_name(base) if base else name if adapter else settings.get("base")
    if base is None:
        raise OptionError("the base model is not known", got=name, do="give the model it was trained from with --base")
    template = settings.get("encoding", {}).get("template")
    if template == NO_TEMPLATE:
        do = "train on the cleaned data with the trainer you used"
        raise OptionError("this model was trained on plain text, and only chats can be retrained here", got=name, do=do)
    template = template or load_tokenizer(name, (adapter,) if adapter else ()).chat_template
    recipe, notes = read_recipe(adapter or name, {**overrides, **({} if adapter else {"full": True})})
    experiment = RetrainExperiment(
        base, recipe, tuple(behaviours), (name, adapter), template, max_new_tokens, dtype, device
    )
    return experiment, notes


def with_seeds(experiment: RetrainExperiment, num_seeds: int) -> list[RetrainExperiment]:
    """Return the experiment once for each of `num_seeds` consecutive seeds, starting with its own."""
    recipe = experiment.recipe
    return [replace(experiment, recipe=replace(recipe, seed=recipe.seed + number)) for number in range(num_seeds)]


def read_recipe(folder: str | Path | None, overrides: Mapping[str, Any]) -> tuple[TrainingOptions, list[str]]:
    """Return the training options recorded in a model's or adapter's folder, and notes on assumptions.

    Args:
        folder: The folder; None if there is none.
        overrides: Fields of `TrainingOptions` that override what the folder says; None values are ignored.
    """
    recorded, nearest = _recorded_options(Path(folder)) if folder else ({}, {})
    used = nearest | {name: value for name, value in overrides.items() if value is not None}
    known = {**recorded, **used}
    full = bool(known.get("full"))
    options: dict[str, Any] = {"learning_rate": FULL_RATE, **known} if full else known
    recipe = TrainingOptions(**options)
    notes = [f"{folder} says {name} {recorded[name]}; this run uses {value}"
             for name, value in used.items() if name in recorded and recorded[name] != value]  # fmt: skip
    values = {option.name: getattr(recipe, option.name) for option in fields(TrainingOptions)}
    unused = {*known, "rank"} if full else known
    assumed = [f"{name} {value}" for name, value in values.items()
               if name not in unused and value is not None and value is not False]  # fmt: skip
    if assumed:
        where = f"{folder} does not record all training options" if folder else "the training options are not known"
        notes.append(f"{where}; assumed: {', '.join(assumed)}")
    return recipe, notes


def _index_settings(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the traced index; empty if it no longer exists."""
    try:
        folder = storage_path(str(trace.get("index")))
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        base = manifest["settings"]["base"]
        return {**manifest["settings"], "base": base and locate(base, manifest.get("home"), folder)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _recorded_options(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The training options that `taughtby lab finetune` or another trainer stored in the folder.

    Returns:
        (options as recorded, whole numbers to use instead).
    """
    try:
        record = read_training_record(folder)
        return {option.name: record[option.name] for option in fields(TrainingOptions) if option.name in record}, {}
    except (OSError, ValueError):
        pass
    facts = {fact.name: fact.value for fact in reversed(read_training_metadata(folder).entries)}
    names = {"max_length": "max_length", "epochs": "epochs", "batch_size": "batch size"}
    options: dict[str, Any] = {name: facts[fact] for name, fact in names.items() if _is_count(facts.get(fact))}
    nearest = {name: max(1, round(value)) for name, value in options.items()}
    if _is_count(planned := facts.get("planned epochs")):  # a Trainer may end at 2.98 of 3
        nearest["epochs"] = max(1, round(planned))
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        options["rank"] = int(config["r"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return options, nearest


def _is_count(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 < value < MAX_COUNT


def design_from_trace(
    trace: Mapping[str, Any], removals: Sequence[Removal], *, num_random: int = 1, curve: Sequence[int] = (),
    truth_labels: Sequence[str] = (), mask_words: bool = False, full_adapter: str | None = None,
) -> ExperimentDesign:  # fmt: skip
    """Return the design for rows selected from a trace; its ranking gives the curve, its token scores the masks."""
    document = dict(trace)
    depth = min((len(query["rows"]) for query in document["queries"]), default=0)
    ranked_ids = [removal.id for removal in select_rows(document, top_k=depth)] if curve else []
    words = masked_words(document, removals) if mask_words else {}
    return ExperimentDesign(num_random, tuple(curve), tuple(ranked_ids), tuple(truth_labels), words, full_adapter)
