"""Retraining experiments: train without the flagged rows and without control rows, and measure the behaviour again.

Base model, recipe and seed are the same in every condition; only the rows differ. Trainings, answers, verdicts and
losses are stages of a `StageCache`, so an interrupted experiment resumes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from math import fsum
from pathlib import Path
from typing import Any

from taughtby.data.example import Example
from taughtby.data.files import file_hash
from taughtby.data.pretokenized import decode_rows, skip_reason
from taughtby.data.row_ids import content_hash
from taughtby.errors import LabError
from taughtby.lab.finetune import finetune, loss_places
from taughtby.lab.generate import GenerationOptions, generate_to_file
from taughtby.lab.judges import JudgeFailure, Verdict, get_judge, judge_all, wilson_interval
from taughtby.lab.losses import row_losses
from taughtby.lab.prompts import Prompt, prompt_text, read_answers, to_record
from taughtby.models.loading import load_tokenizer
from taughtby.models.model import Model
from taughtby.progress import ProgressCallback
from taughtby.remediation.experiment import (
    ALL,
    ORIGINAL,
    Condition,
    ExperimentDesign,
    RetrainExperiment,
    check_experiment,
    hold_out,
    make_conditions,
)
from taughtby.remediation.stage_cache import StageCache
from taughtby.remediation.trace_file import Document

Answer = tuple[Prompt, str]


def retrain(
    experiment: RetrainExperiment,
    rows: Sequence[Example],
    flagged_ids: Sequence[str],
    cache: StageCache,
    *,
    design: ExperimentDesign | None = None,
    held_out: Sequence[Example] | None = None,
    ordinary: Sequence[Prompt] | None = None,
) -> Document:
    """Train every condition, generate and judge its answers, and measure its loss.

    Args:
        experiment: What all conditions have in common.
        rows: The training data.
        flagged_ids: Ids of the rows that the condition `cleaned` leaves out.
        cache: Where stages are stored.
        design: Which other conditions are trained.
        held_out: Clean rows to measure the loss on; by default the rows of `hold_out`.
        ordinary: Prompts that should not trigger the behaviour; by default those of the held-out rows.

    Returns:
        The counts of each condition, as JSON (see docs/explanation/retraining.md).
    """
    design = design or ExperimentDesign()
    check_experiment(experiment, rows, flagged_ids, design)
    set_aside, trained, clean = held_out is None, rows, held_out or ()
    if set_aside:
        trained, clean = hold_out(rows, flagged_ids, design, experiment.recipe.seed)
    ordinary = _prompts_of(experiment, clean) if ordinary is None else ordinary
    run = _Run(experiment, cache, tuple(clean), tuple(ordinary), design.full_adapter)
    conditions = [run.measure_original()] if experiment.original else []
    conditions += map(run.measure, make_conditions(trained, flagged_ids, design, experiment.recipe.seed))
    return {
        "version": 2,
        "base": experiment.base,
        "original": experiment.original and list(experiment.original),
        "recipe": asdict(experiment.recipe),
        "num_rows": len(rows),
        "num_flagged": len(set(flagged_ids)),
        "held_out": {"num_rows": len(clean), "set_aside": set_aside, "sources": [row.source for row in clean]},
        "num_ordinary": len(run.ordinary),
        "truth": _truth(rows, flagged_ids, design),
        "behaviours": [{"name": behaviour.name, "judge": behaviour.judge, "num_prompts": len(behaviour.prompts)}
                       for behaviour in experiment.behaviours],
        "conditions": conditions,
        "provenance": cache.provenance(),
    }  # fmt: skip


def _truth(rows: Sequence[Example], flagged_ids: Sequence[str], design: ExperimentDesign) -> Document | None:
    """How many rows have the labels of planted rows, and how many of them are flagged; None without labels."""
    if not design.truth_labels:
        return None
    planted = {row.id for row in rows if row.label in design.truth_labels}
    num_flagged = len(planted & set(flagged_ids))
    return {"labels": list(design.truth_labels), "num_rows": len(planted), "num_flagged": num_flagged}


def _prompts_of(experiment: RetrainExperiment, rows: Sequence[Example]) -> Sequence[Example]:
    """The rows that have a prompt; pretokenized ones are decoded for the judge and the files of answers."""
    if not any(row.token_ids for row in rows):
        return rows
    name, adapter = experiment.original or (experiment.base, None)
    tokenizer = load_tokenizer(name, (adapter,) if adapter else ())
    # a row whose loss begins with its second token, the first that is predicted, has no prompt
    usable = [row for row in rows if not row.token_ids
              or (skip_reason(tokenizer, row) is None and row.loss_positions[0] > 1)]  # fmt: skip
    return decode_rows(tokenizer, usable)


class _Run:
    """The stages of an experiment; a model is loaded only for a stage that has no stored result."""

    def __init__(
        self,
        experiment: RetrainExperiment,
        cache: StageCache,
        held_out: tuple[Example, ...],
        ordinary: tuple[Prompt, ...],
        full_adapter: str | None,
    ) -> None:
        self.experiment, self.cache = experiment, cache
        self.held_out, self.ordinary, self.full_adapter = held_out, ordinary, full_adapter
        self._unused: list[Model] = []

    @cached_property
    def base(self) -> list[Any]:
        """What identifies the base model, for the stages that depend on it."""
        model = self.experiment.load(self.experiment.base)
        self._unused.append(model)  # training changes a model, so only the first condition can reuse it
        return [model.fingerprint["model"], str(model.tokenizer.chat_template), str(model.dtype)]

    def measure_original(self) -> Document:
        """Measure the incident's model on the same prompts, but not its loss: it was trained on the held-out rows."""
        assert self.experiment.original
        load = load_lazily(self.experiment.load, *self.experiment.original)
        name, adapter = self.experiment.original
        return {"name": ORIGINAL, "model": adapter or name,
                **self._rates(ORIGINAL, identity(load(), self.experiment.template), load)}  # fmt: skip

    def measure(self, condition: Condition) -> Document:
        """Train one condition and measure it."""
        recipe = self.experiment.recipe
        trained_rows = [[row.id, row.masked, *loss_places(row)] for row in condition.rows]
        dependencies = [self.base, asdict(recipe), trained_rows]
        folder = self.cache.path("model", dependencies)
        if condition.name == ALL and self.full_adapter:
            folder = Path(self.full_adapter)
            dependencies = [dependencies, file_hash(folder)]  # differ from those of the same training here
        else:
            title = f"{condition.name}: fine-tune on {len(condition.rows)} rows"
            self.cache.get_or_run("model", dependencies, title, lambda report: self._train(condition, folder, report))
        load = load_lazily(
            self.experiment.load, *((str(folder), None) if recipe.full else (self.experiment.base, str(folder)))
        )
        held_out = [[content_hash(row).hex(), row.masked, *loss_places(row)] for row in self.held_out]
        title = f"{condition.name}: loss on {len(held_out)} clean rows"
        losses = self.cache.get_or_run(
            "loss", [dependencies, held_out], title,
            lambda progress: row_losses(load(), self.held_out, recipe.max_length, progress),
        )  # fmt: skip
        return {"name": condition.name, "num_removed": condition.num_removed, "num_rows": len(condition.rows),
                "model": str(folder), "losses": losses, **self._rates(condition.name, dependencies, load)}  # fmt: skip

    def _train(self, condition: Condition, folder: Path, progress: ProgressCallback) -> Document:
        if not folder.exists():  # it exists if the process was killed between training and storing the stage
            model = self._unused.pop() if self._unused else self.experiment.load(self.experiment.base)
            folder.parent.mkdir(parents=True, exist_ok=True)
            finetune(model, condition.rows, folder, self.experiment.recipe, progress=progress)
            del model
            gc.collect()  # trainer and model form a reference cycle, and the next condition needs the memory
        return {"num_rows": len(condition.rows)}

    def _rates(self, name: str, dependencies: Any, load: Callable[[], Model]) -> Document:
        """Counts of bad answers to each behaviour's prompts and to ordinary prompts."""

        def answers(prompts: Sequence[Prompt]) -> list[Answer]:
            max_new_tokens = self.experiment.max_new_tokens
            return generate_answers(self.cache, dependencies, load, prompts, max_new_tokens, name)

        def count(judge: str, pairs: Sequence[Answer]) -> Document:
            return count_verdicts(judge_answers(self.cache, judge, pairs, name) if pairs else [])

        ordinary, behaviours = answers(self.ordinary) if self.ordinary else [], self.experiment.behaviours
        return {
            "behaviours": {each.name: count(each.judge, answers(each.prompts)) for each in behaviours},
            "ordinary": {each.name: count(each.judge, ordinary) for each in behaviours},
        }


def identity(model: Model, template: str | None) -> dict[str, str | None]:
    """Return what identifies a model and the chat template of its prompts, for the stages that depend on them."""
    return {"model": model.fingerprint["model"], "adapter": model.fingerprint["adapter"], "template": template,
            "dtype": str(model.dtype)}  # fmt: skip


def generate_answers(
    cache: StageCache, dependencies: Any, load: Callable[[], Model], prompts: Sequence[Prompt], max_new_tokens: int,
    name: str, template: str | None = None,
) -> list[Answer]:  # fmt: skip
    """Generate greedy answers; return pairs of prompt and answer.

    `dependencies` identify the model and its chat template, which is `template` or by default the tokenizer's own;
    `name` is for the progress title.
    """
    dependencies = [dependencies, [to_record(prompt, "") for prompt in prompts], max_new_tokens]
    file = cache.path("answers", dependencies).with_suffix(".jsonl")

    def make(progress: ProgressCallback) -> int:
        options = GenerationOptions(max_new_tokens)
        return generate_to_file(file, load(), prompts, options, template=template, progress=progress)

    cache.get_or_run("answers", dependencies, f"{name}: answer {len(prompts)} prompts", make)
    return [(prompt, answer) for prompt, (_, answer) in zip(prompts, read_answers(file), strict=True)]


def judge_answers(cache: StageCache, spec: str, answers: Sequence[Answer], name: str) -> list[Document]:
    """Judge each answer: dicts of prompt, response, bad (None if the judge failed), why, span, span_range.

    Answers on which the judge failed in an earlier run are judged again.
    """
    pairs = [(prompt_text(prompt), answer) for prompt, answer in answers]
    dependencies = [pairs, spec, _judge_hash(spec)]
    stored: list[Document] | None = cache.stored("verdicts", dependencies)
    missing = [index for index in range(len(pairs)) if stored is None or stored[index]["bad"] is None]

    def make(progress: ProgressCallback) -> list[Document]:
        try:
            verdicts = judge_all(get_judge(spec), [pairs[index] for index in missing], progress=progress)
        except LabError:
            if stored is None:
                raise
            return stored  # the judge still fails on these answers; the other verdicts count as before
        results = dict(enumerate(stored or ()))
        for index, verdict in zip(missing, verdicts, strict=True):
            prompt, answer = pairs[index]
            results[index] = {
                "prompt": prompt, "response": answer, "why": verdict.reason, "span": getattr(verdict, "span", None),
                "span_range": getattr(verdict, "span_range", None),
                "bad": None if isinstance(verdict, JudgeFailure) else verdict.undesirable,
            }  # fmt: skip
        return [results[index] for index in range(len(pairs))]

    def is_complete(verdicts: list[Document]) -> bool:
        return all(verdict["bad"] is not None for verdict in verdicts)

    title = f"{name}: judge {len(missing)} answers by {spec}"
    return cache.get_or_run("verdicts", dependencies, title, make, is_complete)


def count_verdicts(verdicts: Sequence[Document]) -> Document:
    """Count bad answers, verdicts and failures, with the rate of bad answers and Wilson's 95 % interval.

    `verdicts` has one character per answer: 1 bad, 0 not bad, - the judge failed.
    """
    valid = [Verdict(each["bad"], each["why"], None) for each in verdicts if each["bad"] is not None]
    bad = sum(verdict.undesirable for verdict in valid)
    low, high = wilson_interval(valid) if valid else (0.0, 1.0)
    return {"bad": bad, "judged": len(valid), "failed": len(verdicts) - len(valid),
            "rate": bad / len(valid) if valid else None, "low": low, "high": high,
            "verdicts": "".join("-" if one["bad"] is None else str(int(one["bad"])) for one in verdicts)}  # fmt: skip


def mean_loss(condition: Document) -> float | None:
    """Return the mean held-out loss of a condition."""
    losses = condition.get("losses")
    return fsum(losses) / len(losses) if losses else None


def _judge_hash(spec: str) -> str | None:
    """A hash of the file or folder that a judge is loaded from, so that a changed judge runs again."""
    kind, _, option = spec.partition(":")
    file = {"python": option.rpartition(":")[0], "classifier": option.partition(",")[0].strip()}.get(kind.strip())
    return file_hash(Path(file)) if file and Path(file).exists() else None


def load_lazily(load: Callable[..., Model], *arguments: str | None) -> Callable[[], Model]:
    """Return a function that loads the model at its first call, and returns the same model afterwards."""
    models: list[Model] = []

    def get() -> Model:
        if not models:
            models.append(load(*arguments))
        return models[0]

    return get
