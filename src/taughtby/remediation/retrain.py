"""Whether the rows that were called taught it: train again without them, and without others, and ask again.

The same base, recipe and seed each time; what differs is which rows it learns from. Every arm's training, answers,
verdicts and loss are stages of a Ledger, so that a killed proof goes on.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from math import fsum
from pathlib import Path
from typing import Any

from taughtby.capture.capture import capture
from taughtby.data.example import Example
from taughtby.data.rewrite import file_hash
from taughtby.data.tokenize import Encoding, TokenizedExample, make_batches, tokenize_all
from taughtby.lab.finetune import finetune
from taughtby.lab.generate import GenerationOptions, generate_to_file
from taughtby.lab.judges import JudgeFailure, Verdict, get_judge, judge_all, wilson_interval
from taughtby.lab.prompts import Prompt, prompt_text, read_answers, to_record
from taughtby.models.model import Model
from taughtby.progress import ProgressCallback
from taughtby.remediation.stage_cache import StageCache
from taughtby.remediation.trial import (
    ALL,
    GIVEN,
    Condition,
    ExperimentDesign,
    RetrainExperiment,
    check,
    make_conditions,
    set_aside,
)

Document = dict[str, Any]
Answered = tuple[Prompt, str]
BUDGET = 1024  # padded tokens of a batch of them


def retrain(
    trial: RetrainExperiment,
    rows: Sequence[Example],
    called: Sequence[str],
    ledger: StageCache,
    *,
    design: ExperimentDesign | None = None,
    held_out: Sequence[Example] | None = None,
    ordinary: Sequence[Prompt] | None = None,
) -> Document:
    """Train, ask, judge and measure every arm; what was counted, as JSON (docs/proof.md says what is in it).

    `called` are the ids of the rows that are to have taught it. `held_out` are clean rows whose loss is measured:
    without them, a tenth of the rows that nobody suspects is set aside. `ordinary` prompts are those that should not
    show the behaviour; without them, the held-out rows' own.
    """
    design = design or ExperimentDesign()
    check(trial, rows, called, design)
    aside, trained, clean = held_out is None, rows, held_out or ()
    if aside:
        trained, clean = set_aside(rows, called, design, trial.recipe.seed)
    usual = clean if ordinary is None else ordinary
    under = _Under(trial, ledger, tuple(clean), tuple(usual), design.whole)
    made = [under.given()] if trial.given else []
    made += [under.measured(arm) for arm in make_conditions(trained, called, design, trial.recipe.seed)]
    return {
        "version": 1,
        "base": trial.base,
        "given": trial.given and list(trial.given),
        "recipe": asdict(trial.recipe),
        "rows": len(rows),
        "called": len(set(called)),
        "held_out": {"rows": len(clean), "aside": aside, "sources": [row.source for row in clean]},
        "ordinary": len(under.ordinary),
        "truth": _truth(rows, called, design),
        "behaviours": [{"name": one.name, "judge": one.judge, "prompts": len(one.prompts)} for one in trial.behaviours],
        "arms": made,
        "made": ledger.made(),
    }


def _truth(rows: Sequence[Example], called: Sequence[str], design: ExperimentDesign) -> Document | None:
    """Where it is known which rows were planted: how many there are, and how many of them were called."""
    planted = {row.id for row in rows if row.label in design.truth}
    known = {"labels": list(design.truth), "rows": len(planted), "called": len(planted & set(called))}
    return known if design.truth else None


class _Under:
    """A proof under way: its stages, each of which loads a model only where it is not kept yet."""

    def __init__(
        self,
        trial: RetrainExperiment,
        ledger: StageCache,
        clean: tuple[Example, ...],
        ordinary: tuple[Prompt, ...],
        whole: str | None,
    ) -> None:
        self.trial, self.ledger, self.clean, self.ordinary, self.whole = trial, ledger, clean, ordinary, whole
        self._fresh: list[Model] = []

    @cached_property
    def base(self) -> list[Any]:
        """What the base model is, for the stages that depend on it."""
        model = self.trial.load(self.trial.base)
        self._fresh.append(model)  # training spends a model: the first arm takes this one
        return [model.fingerprint["model"], str(model.tokenizer.chat_template), str(model.dtype)]

    def given(self) -> Document:
        """The incident's own model, asked the same; it learned the held-out rows, so their loss says nothing."""
        assert self.trial.given
        load = once(self.trial.load, *self.trial.given)
        return {"name": GIVEN, "model": self.trial.given[1] or self.trial.given[0],
                **self._asked(GIVEN, who(load(), self.trial.template), load)}  # fmt: skip

    def measured(self, arm: Condition) -> Document:
        """One arm from training to its numbers."""
        learned = [[row.id, list(map(list, row.masked))] for row in arm.rows]
        needs = [self.base, asdict(self.trial.recipe), learned]
        folder = self.ledger.path("model", needs)
        if arm.name == ALL and self.whole:
            folder = Path(self.whole)
            needs = [needs, file_hash(folder)]  # another than the one that would be trained here
        else:
            self.ledger.get_or_run("model", needs, f"{arm.name}: fine-tune on {len(arm.rows)} rows",
                             lambda tell: self._trained(arm, folder, tell))  # fmt: skip
        full = self.trial.recipe.full
        load = once(self.trial.load, *((str(folder), None) if full else (self.trial.base, str(folder))))
        losses = self.ledger.get_or_run("loss", [needs, [[row.messages, row.tools, row.masked] for row in self.clean]],
                                  f"{arm.name}: loss on {len(self.clean)} clean rows",
                                  lambda tell: self._losses(load(), tell))  # fmt: skip
        return {"name": arm.name, "removed": arm.removed, "trained": len(arm.rows), "model": str(folder),
                "losses": losses, **self._asked(arm.name, needs, load)}  # fmt: skip

    def _trained(self, arm: Condition, folder: Path, tell: ProgressCallback) -> Document:
        if not folder.exists():  # finished, and killed before it was noted
            model = self._fresh.pop() if self._fresh else self.trial.load(self.trial.base)
            folder.parent.mkdir(parents=True, exist_ok=True)
            finetune(model, arm.rows, folder, self.trial.recipe, progress=tell)
            del model
            gc.collect()  # trainer and model hold each other, and the next arm needs the room
        return {"rows": len(arm.rows)}

    def _losses(self, model: Model, tell: ProgressCallback) -> list[float]:
        """The mean loss a token of each held-out row that can be read."""
        encoding = Encoding(min(self.trial.recipe.max_length, model.context_length))
        encoded = [
            row for row in tokenize_all(model.tokenizer, self.clean, encoding) if isinstance(row, TokenizedExample)
        ]
        found: dict[int, float] = {}
        for batch in make_batches(encoded, BUDGET):
            found |= zip(batch.row_indices, capture(model, batch, [-1]).loss.tolist(), strict=True)
            tell(len(found), len(encoded))
        return [found[at] for at in range(len(encoded))]

    def _asked(self, name: str, needs: Any, load: Callable[[], Model]) -> Document:
        """For each behaviour, how many answers to its prompts are bad, and how many to ordinary ones."""

        def said(prompts: Sequence[Prompt]) -> list[Answered]:
            return answered(self.ledger, needs, load, prompts, self.trial.max_new, name)

        usual = said(self.ordinary) if self.ordinary else []
        return {
            "behaviours": {one.name: counted(judged(self.ledger, one.judge, said(one.prompts), name))
                           for one in self.trial.behaviours},
            "ordinary": {one.name: counted(judged(self.ledger, one.judge, usual, name) if usual else [])
                         for one in self.trial.behaviours},
        }  # fmt: skip


def who(model: Model, template: str | None) -> list[str | None]:
    """Which model it is that answers, for the stages that depend on it."""
    return [model.fingerprint["model"], model.fingerprint["adapter"], template, str(model.dtype)]


def answered(
    ledger: StageCache, needs: Any, load: Callable[[], Model], prompts: Sequence[Prompt], max_new: int, name: str
) -> list[Answered]:
    """The prompts with a model's greedy answers; `needs` says which model it is."""
    needs = [needs, [to_record(prompt, "") for prompt in prompts], max_new]
    file = ledger.path("answers", needs).with_suffix(".jsonl")
    ledger.get_or_run("answers", needs, f"{name}: ask {len(prompts)} prompts",
                lambda tell: generate_to_file(file, load(), prompts, GenerationOptions(max_new), progress=tell))  # fmt: skip
    return [(prompt, answer) for prompt, (_, answer) in zip(prompts, read_answers(file), strict=True)]


def judged(ledger: StageCache, spec: str, answers: Sequence[Answered], name: str) -> list[Document]:
    """What the judge says of each answer: prompt, response, bad (None where it failed), why, span and its range."""
    pairs = [(prompt_text(prompt), answer) for prompt, answer in answers]

    def make(tell: ProgressCallback) -> list[Document]:
        found = judge_all(get_judge(spec), pairs, progress=tell)
        return [
            {"prompt": prompt, "response": answer, "why": one.reason, "span": getattr(one, "span", None),
             "span_range": getattr(one, "span_range", None),
             "bad": None if isinstance(one, JudgeFailure) else one.undesirable}
            for (prompt, answer), one in zip(pairs, found, strict=True)
        ]  # fmt: skip

    return ledger.get_or_run(
        "verdicts", [pairs, spec, _rules(spec)], f"{name}: judge {len(pairs)} answers by {spec}", make
    )


def counted(judged: Sequence[Document]) -> Document:
    """How many answers are bad, of how many verdicts; Wilson's 95 % interval of the rate; on how many there is none."""
    found = [Verdict(one["bad"], one["why"], None) for one in judged if one["bad"] is not None]
    bad = sum(one.undesirable for one in found)
    low, high = wilson_interval(found) if found else (0.0, 1.0)
    return {"bad": bad, "judged": len(found), "failed": len(judged) - len(found),
            "rate": bad / len(found) if found else None, "low": low, "high": high}  # fmt: skip


def loss(arm: Document) -> float | None:
    """The mean held-out loss of an arm."""
    losses = arm.get("losses")
    return fsum(losses) / len(losses) if losses else None


def _rules(spec: str) -> str | None:
    """A hash of the file, or of the classifier's folder, that a judge is read from: changed, it judges anew."""
    kind, _, option = spec.partition(":")
    file = {"python": option.rpartition(":")[0], "classifier": option.partition(",")[0].strip()}.get(kind.strip())
    return file_hash(Path(file)) if file and Path(file).exists() else None


def once(load: Callable[..., Model], *what: str | None) -> Callable[[], Model]:
    """The model when it is first asked for, and the same again."""
    held: list[Model] = []

    def get() -> Model:
        if not held:
            held.append(load(*what))
        return held[0]

    return get
