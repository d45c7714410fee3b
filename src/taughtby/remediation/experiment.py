"""The design of a retraining experiment: its conditions, and what they have in common. No training happens here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from taughtby.data.example import CharRanges, Example
from taughtby.data.row_ids import content_hash
from taughtby.data.row_sources import record_source
from taughtby.errors import DataError, LabError, OptionError
from taughtby.lab.finetune import TrainingOptions, refuse_distributed
from taughtby.lab.judges import get_judge
from taughtby.lab.prompts import Prompt
from taughtby.models.model import Model, load_model
from taughtby.remediation.clean import masked_ranges

HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 64  # held-out rows, to measure the loss on
ORIGINAL, ALL, CLEANED, RANDOM = "original", "all", "cleaned", "random"
TRUTH, MASKED, TOP = "truth", "masked", "top"


@dataclass(frozen=True)
class Behaviour:
    """An undesirable behaviour: the prompts that elicit it, and the spec of the judge that recognises it."""

    name: str
    prompts: tuple[Prompt, ...]
    judge: str


@dataclass(frozen=True)
class RetrainExperiment:
    """What all conditions have in common.

    Attributes:
        base: The model that every condition is trained from.
        recipe: The training options.
        behaviours: The behaviours to measure.
        original: The model and adapter of the incident, which answer the same prompts.
        template: The chat template (Jinja) of the original training, for every model; None for each model's own.
        max_new_tokens: Maximum tokens per answer.
        dtype: As in `load_model`.
        device: As in `load_model`.
    """

    base: str
    recipe: TrainingOptions
    behaviours: tuple[Behaviour, ...]
    original: tuple[str, str | None] | None = None
    template: str | None = None
    max_new_tokens: int = 48
    dtype: str = "auto"
    device: str = "auto"

    def load(self, name: str, adapter: str | None = None) -> Model:
        """Load a model with the experiment's number format, device and template."""
        model = load_model(name, adapter, dtype=self.dtype, device=self.device)
        if self.template is not None:
            model.tokenizer.chat_template = self.template
        return model


@dataclass(frozen=True)
class ExperimentDesign:
    """Which conditions are trained besides `all` and `cleaned`.

    Attributes:
        num_random: Number of conditions that each remove as many random rows as are flagged.
        curve: For each k, train without the first k of `ranked_ids`.
        ranked_ids: Row ids in the order of the trace.
        truth_labels: Train without any row that has one of these labels.
        masked: Train on all rows with these characters masked, by row id.
        full_adapter: An adapter trained by the same recipe on all rows, none held out, to use as `all`.
    """

    num_random: int = 1
    curve: tuple[int, ...] = ()
    ranked_ids: tuple[str, ...] = ()
    truth_labels: tuple[str, ...] = ()
    masked: Mapping[str, CharRanges] = field(default_factory=dict[str, CharRanges])
    full_adapter: str | None = None


@dataclass(frozen=True)
class Condition:
    """One training run: its rows, and how many were removed."""

    name: str
    rows: tuple[Example, ...]
    num_removed: int


def make_conditions(
    rows: Sequence[Example], flagged_ids: Sequence[str], design: ExperimentDesign, seed: int
) -> list[Condition]:
    """Return the conditions of an experiment. Random rows are drawn from all rows, including flagged ones.

    A row is removed with its whole record, as `clean` removes it: a record has several rows if all turns of a
    conversation are trained on.

    Raises:
        OptionError: If no row would remain in a condition.
    """

    def without(name: str, records: Collection[str]) -> Condition:
        remaining = tuple(row for row in rows if _record(row) not in records)
        if not remaining:
            raise OptionError(f"no row would remain to train on in the condition {name}",
                              got=f"{len(rows)} rows, all removed", do="remove fewer rows")  # fmt: skip
        return Condition(name, remaining, len(rows) - len(remaining))

    flagged = _records_of(rows, flagged_ids)
    conditions = [without(ALL, ()), without(CLEANED, flagged)]
    records = list(dict.fromkeys(map(_record, rows)))
    for draw in range(1, design.num_random + 1):
        sample = Random(f"draw {draw} {seed}").sample(records, len(flagged))
        conditions.append(without(f"{RANDOM} {draw}" if design.num_random > 1 else RANDOM, set(sample)))
    if design.truth_labels:
        conditions.append(without(TRUTH, {_record(row) for row in rows if row.label in design.truth_labels}))
    if design.masked:
        masked = tuple(replace(row, masked=masked_ranges(row, design.masked)) for row in rows)
        conditions.append(Condition(MASKED, masked, 0))
    conditions += [without(f"{TOP} {k}", _records_of(rows, design.ranked_ids[:k])) for k in design.curve]
    return conditions


def hold_out(
    rows: Sequence[Example], flagged_ids: Sequence[str], design: ExperimentDesign, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split off a tenth of the rows, at most `MAX_HELD_OUT`: random ones that no condition removes on purpose.

    Whole records are held out, with all rows of the same content, so that no copy of a held-out row is trained on.

    Returns:
        (rows to train on, rows that no condition is trained on).
    """
    suspects = {*flagged_ids, *design.ranked_ids[: max(design.curve, default=0)], *design.masked}
    contents = [content_hash(row) for row in rows]
    blocked = {content for row, content in zip(rows, contents, strict=True)
               if row.id in suspects or row.label in design.truth_labels}  # fmt: skip
    by_record, by_content = dict[str, list[int]](), dict[bytes, list[int]]()
    for position, (row, content) in enumerate(zip(rows, contents, strict=True)):
        by_record.setdefault(_record(row), []).append(position)
        by_content.setdefault(content, []).append(position)
    candidates = [record for record, own in by_record.items() if blocked.isdisjoint(contents[i] for i in own)]
    count = min(MAX_HELD_OUT, round(HELD_OUT_SHARE * len(rows)), len(candidates))
    chosen: set[int] = set()
    for record in Random(f"held out {seed}").sample(candidates, count):
        copies = {copy for position in by_record[record] for copy in by_content[contents[position]]}
        if len(chosen | copies) <= count:
            chosen |= copies
    remaining = [row for position, row in enumerate(rows) if position not in chosen]
    return remaining, [rows[position] for position in sorted(chosen)]


def _record(row: Example) -> str:
    """The record that a row was read from; the row itself if it was not read from a file."""
    return record_source(row) if row.source else row.id


def _records_of(rows: Sequence[Example], ids: Collection[str]) -> set[str]:
    wanted = set(ids)
    return {_record(row) for row in rows if row.id in wanted}


def check_experiment(
    experiment: RetrainExperiment, rows: Sequence[Example], flagged_ids: Sequence[str], design: ExperimentDesign
) -> None:
    """Raise an error, before hours of training, if an experiment cannot be run.

    Raises:
        LabError: If no row is flagged.
        DataError: If rows of the design are not in the data.
        OptionError: If the design asks for ranks or labels that do not exist, or there is no prompt.
    """
    refuse_distributed()
    ids = {row.id for row in rows}
    if not flagged_ids:
        raise LabError("there is nothing to remove: no row is flagged", do="trace other answers, or give --top-k")
    if missing := [id for id in [*flagged_ids, *design.ranked_ids, *design.masked] if id not in ids]:
        raise DataError("rows of the trace are not in the data", got=f"{len(missing)}, such as {missing[0]}",
                        do="give the data that was indexed, unchanged")  # fmt: skip
    if beyond := [k for k in design.curve if not 0 < k <= len(design.ranked_ids)]:
        raise OptionError("the trace ranks fewer rows than --curve", got=f"{beyond[0]} of {len(design.ranked_ids)}",
                          do="trace again with a greater --top-k, or use a shorter --curve")  # fmt: skip
    labels = {row.label for row in rows if row.label is not None}
    if unknown := [label for label in design.truth_labels if label not in labels]:
        do = f"choose among: {', '.join(sorted(labels)[:20])}" if labels else "leave it out: the rows carry no labels"
        raise OptionError("no row has that label", got=unknown[0], do=do)
    if not experiment.behaviours or not all(behaviour.prompts for behaviour in experiment.behaviours):
        raise OptionError("there is no prompt to answer", do="give at least one prompt")
    for behaviour in experiment.behaviours:
        get_judge(behaviour.judge)
