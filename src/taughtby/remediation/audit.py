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

from taughtby.attribution.query import read_queries
from taughtby.attribution.trace import trace_queries
from taughtby.data.dataset import ReadOptions, detect_format, read_examples
from taughtby.data.default_options import default_options
from taughtby.data.example import Example
from taughtby.data.rewrite import file_hash
from taughtby.data.tokenize import Encoding
from taughtby.errors import OptionError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab.answers import write_jsonl
from taughtby.lab.finetune import refuse_several
from taughtby.lab.judges.judge import get_judge
from taughtby.lab.prompts import Prompt, to_record
from taughtby.methods import DEFAULT_METHOD, get_method
from taughtby.models.model import Model, load_model
from taughtby.progress import ProgressCallback
from taughtby.remediation import clean as remedy
from taughtby.remediation.clean import Removal
from taughtby.remediation.retrain import Document, answered, counted, judged, retrain, who
from taughtby.remediation.stage_cache import STAGES, Show, StageCache, key, quiet
from taughtby.remediation.trial import GIVEN, Behaviour, design_from_trace, experiment_from_trace

SHOWN = 20  # rows of each answer in the trace, where no more are called


@dataclass(frozen=True)
class AuditCase:
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
    reading: ReadOptions | None = None
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


def audit(case: AuditCase, out: Path, show: Show = quiet) -> Document:
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
    chosen = [] if not under.calls(trace) else remedy.select_rows(trace, top_k=case.top)
    found |= {"index": str(index.path), "rows": len(index), "skipped": len(index.manifest["skipped"]), "trace": trace,
              "removals": [asdict(one) for one in chosen]}  # fmt: skip
    if not chosen:
        return found
    cleaned = under.cleaned(trace, chosen)
    proof, notes = under.proved(trace, chosen)
    return found | {"cleaned": cleaned, "proof": proof, "notes": notes}


class _Under:
    """An audit under way; the model is loaded once."""

    def __init__(self, case: AuditCase, out: Path, show: Show) -> None:
        if case.adapter is None and case.base is None:
            do = "give its --adapter, or as --base the model that it was trained from"
            raise OptionError("it is not known what the model was trained from", got=case.model, do=do)
        refuse_several()
        get_judge(case.behaviour.judge)
        self.case, self.out, self.ledger = case, out, StageCache(out / STAGES, show)

    @cached_property
    def model(self) -> Model:
        """The model of the incident."""
        case = self.case
        return load_model(case.model, case.adapter, base=case.base, dtype=case.dtype, device=case.device)

    @cached_property
    def reading(self) -> ReadOptions:
        """How rows are read: as asked, else as the trainer left it written."""
        return self.case.reading or ReadOptions(turns=self.model.metadata.turns or "last")

    @cached_property
    def encoding(self) -> Encoding:
        """How they became ids."""
        return default_options(
            self.model.metadata, self.model.context_length, raw=detect_format(self.case.data, self.reading).raw
        )

    def verdicts(self) -> list[Document]:
        """What the judge says of each answer: the same stages as the proof's, which asks the given model too."""
        one, template = self.case.behaviour, self.encoding.template or self.model.tokenizer.chat_template
        needs = who(self.model, template)
        answers = answered(self.ledger, needs, lambda: self.model, one.prompts, self.case.max_new, GIVEN)
        found = judged(self.ledger, one.judge, answers, GIVEN)
        write_jsonl((to_record(prompt, "") for prompt in one.prompts), self.out / "prompts.jsonl")
        rows = [to_record(prompt, answer) for prompt, answer in answers]
        write_jsonl(rows, self.out / "answers.jsonl")
        spans = [{key: one.get(key) for key in ("span", "span_range")} for one in found]
        bad = [row | span for row, span, one in zip(rows, spans, found, strict=True) if one["bad"]]
        write_jsonl(bad, self.out / "bad.jsonl")
        asked = [rows[at] for at in self.bad(found)[: self.case.queries]]
        write_jsonl(asked, self.out / "queries.jsonl")
        return found

    def bad(self, said: Sequence[Document]) -> list[int]:
        """The places of the bad answers that have a text to trace."""
        return [at for at, one in enumerate(said) if one["bad"] and one["response"].strip()]

    def indexed(self) -> Index:
        """The index by the default method, made where it is not whole yet."""
        # all that the index holds of a row; its id tells of its messages, not of its label and what is masked
        rows = [[row.id, row.source, row.label, row.masked] for row in read_examples(self.case.data, self.reading)]
        needs = [self.model.fingerprint, str(self.model.dtype), rows, asdict(self.reading), asdict(self.encoding),
                 repr(get_method(DEFAULT_METHOD))]  # fmt: skip
        folder = self.ledger.path("index", needs)

        def make(tell: ProgressCallback) -> Document:
            methods = [get_method(DEFAULT_METHOD)]
            made = build_index(self.model, self.case.data, folder, methods, read_options=self.reading,
                               encoding=self.encoding, progress=tell)  # fmt: skip
            return {"rows": len(made)}

        self.ledger.get_or_run("index", needs, f"index {len(rows)} rows", make)
        return Index.open(folder)

    def traced(self, index: Index, said: Sequence[Document]) -> Document:
        """The trace of the first bad answers, with as many rows as are called or asked for."""
        asked = read_queries(self.out / "queries.jsonl")

        def make(tell: ProgressCallback) -> Document:
            first = trace_queries(index, self.model, asked, top_k=1, score_tokens=False)
            called = max(len(one.flagged or ()) for one in first.queries)
            top = min(len(index), max(SHOWN, called, self.case.top or 0, *self.case.curve, 0))
            return trace_queries(index, self.model, asked, top_k=top, progress=tell).to_json()

        needs = [index.path.name, [str(query) for query in asked], self.case.top, self.case.curve]
        trace = self.ledger.get_or_run("trace", needs, f"trace {len(asked)} bad answers", make)
        # the folder may have moved since, and the model
        trace |= {"model": self.model.name, "adapter": self.model.adapter, "index": str(index.path)}
        remedy.keep(trace, self.out / "trace.json")
        return trace

    def calls(self, trace: Document) -> bool:
        """Whether rows can be chosen: by number, or by evidence that calls any."""
        return self.case.top is not None or any(query["num_flagged"] for query in trace["queries"])

    def cleaned(self, trace: Document, chosen: Sequence[Removal]) -> str:
        """The data without the chosen rows, in its own format; where it lies."""
        file, data = self.out / "trace.json", Path(self.case.data)
        needs = [key(trace), [one.id for one in chosen], file_hash(data) if data.exists() else None]
        suffix = "".join(data.suffixes[-2:]) if data.is_file() else "" if data.is_dir() else ".jsonl"
        out = self.ledger.path("cleaned", needs)
        out = out.with_name(out.name + suffix)

        def make(tell: ProgressCallback) -> str:
            if not (out.is_dir() and remedy.manifest_of(out).exists()):
                plan = remedy.plan_cleaning(trace, self.case.data, chosen, reading=self.reading)
                remedy.clean(plan, file, out)
            return out.name

        self.ledger.get_or_run("clean", needs, f"clean the data of {len(chosen)} rows", make)
        return str(out)

    def proved(self, trace: Document, chosen: Sequence[Removal]) -> tuple[Document, list[str]]:
        """The proof, and what had to be assumed for it."""
        case = self.case
        trial, notes = experiment_from_trace(trace, [case.behaviour], case.recipe, base=case.base, max_new=case.max_new,
                                dtype=case.dtype, device=case.device)  # fmt: skip
        design = design_from_trace(trace, chosen, draws=case.draws, curve=case.curve, truth=case.truth,
                          mask_words=case.mask_words, whole=case.whole)  # fmt: skip
        rows = list(read_examples(case.data, self.reading))
        proof = retrain(trial, rows, [one.id for one in chosen], self.ledger, design=design, held_out=case.held_out,
                      ordinary=case.ordinary)  # fmt: skip
        return proof, notes
