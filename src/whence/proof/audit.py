"""From a model that misbehaves to the proof of what taught it: ask, judge, index, trace, clean, prove.

Every stage is kept in one Ledger, and what it gives stands there as the verb of its name takes and leaves it, so that
each can be made again by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from whence import remedy
from whence.build import build_index
from whence.dataset import Reading, form, read
from whence.errors import OptionError
from whence.example import Example
from whence.habits import habits
from whence.index import Index
from whence.lab.answers import write_lines
from whence.lab.finetune import refuse_several
from whence.lab.judge import judge
from whence.lab.prompts import Prompt, line
from whence.methods import DEFAULT, method
from whence.model import Model, load_model
from whence.progress import Tell
from whence.proof.ledger import STAGES, Ledger, Show, key, quiet
from whence.proof.prove import Document, answered, counted, judged, prove, who
from whence.proof.trial import GIVEN, Behaviour, designed, trial_of
from whence.query import read_queries
from whence.remedy import Removal
from whence.rewrite import digest
from whence.tokens import Encoding
from whence.trace import trace_queries

SHOWN = 20  # rows of each answer in the trace, where no more are called


@dataclass(frozen=True)
class Case:
    """What misbehaves, what it learned from, and what is to be tried.

    `base` is the model from before, where all weights were tuned. Of the bad answers the first `queries` are traced;
    `top` takes the best rows of each instead of the culprits. `recipe` are fields of the Recipe that a person gave;
    `files` are those that `held_out` and `ordinary` were read from. The others are as in `Design` and `prove`.
    """

    model: str
    data: str
    behaviour: Behaviour
    adapter: str | None = None
    base: str | None = None
    reading: Reading | None = None
    queries: int = 16
    top: int | None = None
    draws: int = 1
    curve: tuple[int, ...] = ()
    truth: tuple[str, ...] = ()
    mask_words: bool = False
    held_out: tuple[Example, ...] | None = None
    ordinary: tuple[Prompt, ...] | None = None
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_new: int = 48
    dtype: str = "auto"
    device: str = "auto"
    whole: str | None = None


def audit(case: Case, out: Path, show: Show = quiet) -> Document:
    """Run every stage that is not kept yet, as far as there is something to do; what was found, as JSON.

    The folder `out` gets what was asked, answered, bad and traced, by those names, and in `stages` all that was made.
    `said` counts the bad answers. `trace`, `cleaned` and `proof` are None where it did not come to that: because the
    model never misbehaved, or because no row was called.
    """
    under = _Under(case, out, show)
    return _found(under) | {"made": under.ledger.made()}


def _found(under: _Under) -> Document:
    """What was found, as far as there was something to do."""
    case, said = under.case, under.verdicts()
    found: Document = {
        "version": 1, "said": counted(said), "verdicts": said, "index": None, "rows": None, "skipped": None,
        "trace": None, "removals": [], "cleaned": None, "proof": None, "notes": [],
    }  # fmt: skip
    if not under.bad(said):
        return found
    index = under.indexed()
    trace = under.traced(index, said)
    chosen = [] if not under.calls(trace) else remedy.removals(trace, top=case.top)
    found |= {"index": str(index.path), "rows": len(index), "skipped": len(index.manifest["skipped"]), "trace": trace,
              "removals": [asdict(one) for one in chosen]}  # fmt: skip
    if not chosen:
        return found
    cleaned = under.cleaned(trace, chosen)
    proof, notes = under.proved(trace, chosen)
    return found | {"cleaned": cleaned, "proof": proof, "notes": notes}


class _Under:
    """An audit under way; the model is loaded once."""

    def __init__(self, case: Case, out: Path, show: Show) -> None:
        if case.adapter is None and case.base is None:
            do = "give its --adapter, or as --base the model that it was trained from"
            raise OptionError("it is not known what the model was trained from", got=case.model, do=do)
        refuse_several()
        judge(case.behaviour.judge)
        self.case, self.out, self.ledger = case, out, Ledger(out / STAGES, show)

    @cached_property
    def model(self) -> Model:
        """The model of the incident."""
        case = self.case
        return load_model(case.model, case.adapter, base=case.base, dtype=case.dtype, device=case.device)

    @cached_property
    def reading(self) -> Reading:
        """How rows are read: as asked, else as the trainer left it written."""
        return self.case.reading or Reading(turns=self.model.origin.turns or "last")

    @cached_property
    def encoding(self) -> Encoding:
        """How they became ids."""
        return habits(self.model.origin, self.model.window, raw=form(self.case.data, self.reading).raw)

    def verdicts(self) -> list[Document]:
        """What the judge says of each answer: the same stages as the proof's, which asks the given model too."""
        one, template = self.case.behaviour, self.encoding.template or self.model.tokenizer.chat_template
        needs = who(self.model, template)
        answers = answered(self.ledger, needs, lambda: self.model, one.prompts, self.case.max_new, GIVEN)
        found = judged(self.ledger, one.judge, answers, GIVEN)
        write_lines((line(prompt, "") for prompt in one.prompts), self.out / "prompts.jsonl")
        rows = [line(prompt, answer) for prompt, answer in answers]
        write_lines(rows, self.out / "answers.jsonl")
        spans = [{key: one.get(key) for key in ("span", "span_range")} for one in found]
        bad = [row | span for row, span, one in zip(rows, spans, found, strict=True) if one["bad"]]
        write_lines(bad, self.out / "bad.jsonl")
        asked = [rows[at] for at in self.bad(found)[: self.case.queries]]
        write_lines(asked, self.out / "queries.jsonl")
        return found

    def bad(self, said: Sequence[Document]) -> list[int]:
        """The places of the bad answers that have a text to trace."""
        return [at for at, one in enumerate(said) if one["bad"] and one["response"].strip()]

    def indexed(self) -> Index:
        """The index by the default method, made where it is not whole yet."""
        # all that the index holds of a row; its id tells of its messages, not of its label and what is masked
        rows = [[row.id, Path(row.source).name, row.label, row.masked] for row in read(self.case.data, self.reading)]
        needs = [self.model.fingerprint, str(self.model.dtype), rows, asdict(self.reading), asdict(self.encoding),
                 repr(method(DEFAULT))]  # fmt: skip
        folder = self.ledger.path("index", needs)

        def make(tell: Tell) -> Document:
            methods = [method(DEFAULT)]
            made = build_index(self.model, self.case.data, folder, methods, reading=self.reading,
                               encoding=self.encoding, progress=tell)  # fmt: skip
            return {"rows": len(made)}

        self.ledger.kept("index", needs, f"index {len(rows)} rows", make)
        return Index.open(folder)

    def traced(self, index: Index, said: Sequence[Document]) -> Document:
        """The trace of the first bad answers, with as many rows as are called or asked for."""
        asked = read_queries(self.out / "queries.jsonl")

        def make(tell: Tell) -> Document:
            first = trace_queries(index, self.model, asked, top=1, words=False)
            called = max(len(one.culprits or ()) for one in first.queries)
            top = min(len(index), max(SHOWN, called, self.case.top or 0, *self.case.curve, 0))
            return trace_queries(index, self.model, asked, top=top, progress=tell).to_json()

        needs = [index.path.name, [str(query) for query in asked], self.case.top, self.case.curve]
        trace = self.ledger.kept("trace", needs, f"trace {len(asked)} bad answers", make)
        # the folder may have moved since, and the model
        trace |= {"model": self.model.name, "adapter": self.model.adapter, "index": str(index.path)}
        remedy.keep(trace, self.out / "trace.json")
        return trace

    def calls(self, trace: Document) -> bool:
        """Whether rows can be chosen: by number, or by evidence that calls any."""
        return self.case.top is not None or any(query["culprits"] for query in trace["queries"])

    def cleaned(self, trace: Document, chosen: Sequence[Removal]) -> str:
        """The data without the chosen rows, in its own format; where it lies."""
        file, data = self.out / "trace.json", Path(self.case.data)
        # without the paths, which are others once the folder has moved
        ranking = {name: part for name, part in trace.items() if name not in ("model", "adapter", "index", "home")}
        needs = [key(ranking), [one.id for one in chosen], digest(data) if data.exists() else None]
        suffix = "".join(data.suffixes[-2:]) if data.is_file() else "" if data.is_dir() else ".jsonl"
        out = self.ledger.path("cleaned", needs)
        out = out.with_name(out.name + suffix)

        def make(tell: Tell) -> str:
            if not (out.is_dir() and remedy.manifest_of(out).exists()):
                plan = remedy.plan(trace, self.case.data, chosen, reading=self.reading)
                remedy.clean(plan, file, out)
            return out.name

        self.ledger.kept("clean", needs, f"clean the data of {len(chosen)} rows", make)
        return str(out)

    def proved(self, trace: Document, chosen: Sequence[Removal]) -> tuple[Document, list[str]]:
        """The proof, and what had to be assumed for it."""
        case = self.case
        trial, notes = trial_of(trace, [case.behaviour], case.recipe, base=case.base, max_new=case.max_new,
                                dtype=case.dtype, device=case.device)  # fmt: skip
        design = designed(trace, chosen, draws=case.draws, curve=case.curve, truth=case.truth,
                          mask_words=case.mask_words, whole=case.whole)  # fmt: skip
        rows = list(read(case.data, self.reading))
        proof = prove(trial, rows, [one.id for one in chosen], self.ledger, design=design, held_out=case.held_out,
                      ordinary=case.ordinary)  # fmt: skip
        return proof, notes
