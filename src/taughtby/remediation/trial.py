"""What is trained and asked to prove that rows taught a behaviour: the arms, and what stays the same in all of them.

Trains nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from taughtby.data.chat_template import NO_TEMPLATE
from taughtby.data.example import CharRanges, Example
from taughtby.errors import DataError, LabError, OptionError
from taughtby.index.storage import storage_path
from taughtby.lab.finetune import TrainingOptions, refuse_several
from taughtby.lab.judges import get_judge
from taughtby.lab.prompts import Prompt
from taughtby.models.loading import load_tokenizer
from taughtby.models.model import Model, load_model
from taughtby.models.paths import absolute_name, locate
from taughtby.models.training_metadata import read_training_metadata
from taughtby.remediation.clean import Removal, select_rows, top_scoring_words

SHARE, MOST = 0.1, 64  # of the rows, how many are set aside to measure the loss on, and how many at most
ALL, CLEANED, RANDOM, TRUTH, MASKED, FIRST, GIVEN = "all", "cleaned", "random", "truth", "masked", "first", "given"


@dataclass(frozen=True)
class Behaviour:
    """What must not be said: the prompts that bring it out, and the judge that knows it, by its spec."""

    name: str
    prompts: tuple[Prompt, ...]
    judge: str


@dataclass(frozen=True)
class RetrainExperiment:
    """What stays the same while rows are taken out.

    `given` are the model and adapter of the incident, which are asked too. `template` is the chat template that it
    learned its rows by, in Jinja, and every model gets it as its own.
    """

    base: str
    recipe: TrainingOptions
    behaviours: tuple[Behaviour, ...]
    given: tuple[str, str | None] | None = None
    template: str | None = None
    max_new: int = 48
    dtype: str = "auto"
    device: str = "auto"

    def load(self, name: str, adapter: str | None = None) -> Model:
        """A model with this trial's number format and template, where it is to run."""
        model = load_model(name, adapter, dtype=self.dtype, device=self.device)
        if self.template is not None:
            model.tokenizer.chat_template = self.template
        return model


@dataclass(frozen=True)
class ExperimentDesign:
    """What is trained beside `all` and `cleaned`.

    As many rows as were called, drawn at random `draws` times; the best k of the `ranked` ids for each k of the
    `curve`; without the rows of the labels in `truth`; with all rows but the `masked` characters of some, by id.
    `whole` is an adapter that learned all rows, none set aside, by this very recipe: `all` need not be trained again.
    """

    draws: int = 1
    curve: tuple[int, ...] = ()
    ranked: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    masked: Mapping[str, CharRanges] = field(default_factory=dict[str, CharRanges])
    whole: str | None = None


@dataclass(frozen=True)
class Condition:
    """One training: the rows it learns from, and how many were taken out."""

    name: str
    rows: tuple[Example, ...]
    removed: int


def make_conditions(
    rows: Sequence[Example], called: Sequence[str], design: ExperimentDesign, seed: int
) -> list[Condition]:
    """The trainings of a proof. Random rows are drawn from all rows, those that were called among them."""

    def without(name: str, ids: set[str]) -> Condition:
        kept = tuple(row for row in rows if row.id not in ids)
        if not kept:
            raise OptionError(f"no row would be left to learn from in the arm {name}",
                              got=f"{len(rows)} rows, all taken out", do="take out fewer")  # fmt: skip
        return Condition(name, kept, len(rows) - len(kept))

    made = [without(ALL, set()), without(CLEANED, set(called))]
    ids = [row.id for row in rows]
    for draw in range(1, design.draws + 1):
        drawn = Random(f"draw {draw} {seed}").sample(ids, len(set(called)))
        made.append(without(f"{RANDOM} {draw}" if design.draws > 1 else RANDOM, set(drawn)))
    if design.truth:
        made.append(without(TRUTH, {row.id for row in rows if row.label in design.truth}))
    if design.masked:
        marked = tuple(replace(row, masked=design.masked.get(row.id, row.masked)) for row in rows)
        made.append(Condition(MASKED, marked, 0))
    made += [without(f"{FIRST} {k}", set(design.ranked[:k])) for k in design.curve]
    return made


def set_aside(
    rows: Sequence[Example], called: Sequence[str], design: ExperimentDesign, seed: int
) -> tuple[list[Example], list[Example]]:
    """(what is trained on, what no arm sees): of the rows that nobody suspects a tenth, drawn by the seed."""
    suspects = {*called, *design.ranked[: max(design.curve, default=0)], *design.masked}
    free = [at for at, row in enumerate(rows) if row.id not in suspects and row.label not in design.truth]
    count = min(MOST, round(SHARE * len(rows)), len(free))
    chosen = set(Random(f"held out {seed}").sample(free, count))
    return [row for at, row in enumerate(rows) if at not in chosen], [rows[at] for at in sorted(chosen)]


def check(trial: RetrainExperiment, rows: Sequence[Example], called: Sequence[str], design: ExperimentDesign) -> None:
    """Refuse, before hours of training, what cannot be proved."""
    refuse_distributed()
    known = {row.id for row in rows}
    if not called:
        raise LabError("no row is flagged, so there is nothing to test", do="trace other answers, or give --top-k")
    if strange := [name for name in [*called, *design.ranked, *design.masked] if name not in known]:
        raise DataError("rows of the trace are not in the data", got=f"{len(strange)}, such as {strange[0]}",
                        do="give the data that was indexed, unchanged")  # fmt: skip
    if beyond := [k for k in design.curve if not 0 < k <= len(design.ranked)]:
        raise OptionError("the trace does not rank so many rows", got=f"{beyond[0]} of {len(design.ranked)}",
                          do="trace again with a greater --top-k, or ask for fewer")  # fmt: skip
    labels = {row.label for row in rows if row.label is not None}
    if missing := [label for label in design.truth if label not in labels]:
        raise OptionError("no row has that label", got=missing[0], do=f"choose among: {', '.join(sorted(labels)[:20])}")
    if not trial.behaviours or not all(behaviour.prompts for behaviour in trial.behaviours):
        raise OptionError("there is no prompt to ask", do="give at least one")
    for behaviour in trial.behaviours:
        get_judge(behaviour.judge)


def experiment_from_trace(
    trace: Mapping[str, Any], behaviours: Sequence[Behaviour], asked: Mapping[str, Any], *, base: str | None = None,
    max_new: int = 48, dtype: str = "auto", device: str = "auto",
) -> tuple[RetrainExperiment, list[str]]:  # fmt: skip
    """The Trial of a model that was traced, by what the trace and its index say; and what had to be assumed.

    `asked` are fields of the Recipe that a person gave; `base` is what the model was trained from, where the index
    does not say it or it has moved.
    """
    name, adapter = str(trace["model"]), trace["adapter"]
    if isinstance(adapter, list):
        raise OptionError("several adapters cannot be trained again as one", got=", ".join(adapter), do="merge them")
    said = _settings(trace)
    start = absolute_name(base) if base else name if adapter else said.get("base")
    if start is None:
        do = "give as --base the model that it was trained from"
        raise OptionError("it is not known what the model was trained from", got=name, do=do)
    template = said.get("encoding", {}).get("template")
    if template == NO_TEMPLATE:
        do = "prove it by hand: train on the cleaned data with what you trained with"
        raise OptionError("this model learned plain texts, and chats alone can be trained on here", got=name, do=do)
    template = template or load_tokenizer(name, (adapter,) if adapter else ()).chat_template
    recipe, notes = matched(adapter or name, {**asked, **({} if adapter else {"full": True})})
    return RetrainExperiment(start, recipe, tuple(behaviours), (name, adapter), template, max_new, dtype, device), notes


def matched(folder: str | Path | None, asked: Mapping[str, Any]) -> tuple[TrainingOptions, list[str]]:
    """The recipe that a model's or adapter's folder was trained by, as far as it says, and what had to be assumed.

    `asked` are fields of the Recipe that a person gave: they come before what the folder says.
    """
    said = _said(Path(folder)) if folder else {}
    given = {name: value for name, value in asked.items() if value is not None}
    recipe = TrainingOptions(**{**said, **given})
    notes = [f"{folder} says {name} {said[name]}, asked {value}"
             for name, value in given.items() if name in said and said[name] != value]  # fmt: skip
    assumed = [
        f"{one.name} {getattr(recipe, one.name)}"
        for one in fields(TrainingOptions)
        if one.name not in {**said, **given}
    ]
    if assumed:
        where = f"{folder} does not say all of how it was trained" if folder else "it is not known how it was trained"
        notes.append(f"{where}; assumed: {', '.join(assumed)}")
    return recipe, notes


def _settings(trace: Mapping[str, Any]) -> dict[str, Any]:
    """What the traced index was made with, if it is still there."""
    try:
        here = storage_path(str(trace.get("index")))
        manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
        base = manifest["settings"]["base"]
        return {**manifest["settings"], "base": base and locate(base, manifest.get("home"), here)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _said(folder: Path) -> dict[str, Any]:
    """What `taughtby lab finetune` wrote there, or what other trainers leave."""
    known = {one.name: one for one in fields(TrainingOptions)}
    try:
        said = read_training_record(folder)
        return {name: said[name] if name in said else known[name].default for name in known}
    except (OSError, ValueError):
        pass
    found = {fact.name: fact.value for fact in reversed(read_training_metadata(folder).entries)}
    names = {"max_length": "max_length", "epochs": "epochs", "batch_size": "batch size"}
    told = {name: int(found[what]) for name, what in names.items() if isinstance(found.get(what), int | float)}
    try:
        return {**told, "rank": int(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"])}
    except (OSError, ValueError, KeyError, TypeError):
        return told


def design_from_trace(
    trace: Mapping[str, Any], chosen: Sequence[Removal], *, draws: int = 1, curve: Sequence[int] = (),
    truth: Sequence[str] = (), mask_words: bool = False, whole: str | None = None,
) -> ExperimentDesign:  # fmt: skip
    """The Design for rows chosen from a trace: its ranking for the curve, and its words for what is to be masked."""
    document = dict(trace)
    deep = min((len(query["rows"]) for query in document["queries"]), default=0)
    ranked = [one.id for one in select_rows(document, top_k=deep)] if curve else []
    words = top_scoring_words(document, chosen) if mask_words else {}
    return ExperimentDesign(draws, tuple(curve), tuple(ranked), tuple(truth), words, whole)
