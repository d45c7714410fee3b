"""Audit a model that misbehaves: generate answers, judge, index, trace, clean and retrain.

All stages are stored in one `StageCache`, in the formats of the CLI commands with the same names, so that each stage
can be repeated by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from taughtby.attribution.query import read_queries
from taughtby.attribution.trace import trace_queries
from taughtby.data.dataset import ReadOptions, default_read_options, detect_format, read_examples
from taughtby.data.example import Example
from taughtby.data.files import file_hash
from taughtby.data.tokenize import Encoding, default_options
from taughtby.errors import OptionError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab.answers import write_jsonl
from taughtby.lab.finetune import loss_places, refuse_distributed
from taughtby.lab.judges import get_judge
from taughtby.lab.prompts import Prompt, to_record
from taughtby.methods import DEFAULT_METHOD, get_method
from taughtby.models.model import Model, load_model
from taughtby.models.paths import absolute_name
from taughtby.progress import ProgressCallback
from taughtby.remediation.clean import manifest_path, plan_cleaning, write_cleaned
from taughtby.remediation.experiment import ORIGINAL, Behaviour
from taughtby.remediation.experiment_setup import design_from_trace, experiment_from_trace
from taughtby.remediation.retrain import count_verdicts, generate_answers, identity, judge_answers, retrain
from taughtby.remediation.selection import Removal, select_rows
from taughtby.remediation.stage_cache import STAGES, Show, StageCache, key, quiet
from taughtby.remediation.trace_file import Document, save_trace

MIN_ROWS = 20  # minimum number of rows per query in the trace
PATHS = ("model", "adapter", "index")  # keys of a trace that change when the audit's folder or the model moves


@dataclass(frozen=True)
class AuditCase:
    """A model that misbehaves, its training data, and the conditions to retrain.

    Attributes:
        model: The model's folder, hub id or `.gguf` file.
        data: The training data.
        behaviour: Prompts that elicit the behaviour, and its judge.
        adapter: The PEFT adapter that misbehaves.
        base: The model before a full fine-tune.
        read_options: Fields of `ReadOptions` that override what the model's folder says about how `data` is read.
        max_queries: Maximum number of bad answers to trace; the first ones are used.
        top_k: Remove the top k rows of each query instead of the flagged rows.
        num_random: As in `ExperimentDesign`.
        curve: As in `ExperimentDesign`.
        truth_labels: As in `ExperimentDesign`.
        mask_words: Also train on all rows with their top-scoring words masked.
        held_out: As in `retrain`.
        ordinary: As in `retrain`.
        files: The files that `held_out` and `ordinary` were read from, for the commands in the report.
        recipe: Fields of `TrainingOptions` that override what the adapter's folder says.
        max_new_tokens: Maximum tokens per answer.
        dtype: As in `load_model`.
        device: As in `load_model`.
        full_adapter: As in `ExperimentDesign`.
    """

    model: str
    data: str
    behaviour: Behaviour
    adapter: str | None = None
    base: str | None = None
    read_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_queries: int = 16
    top_k: int | None = None
    num_random: int = 1
    curve: tuple[int, ...] = ()
    truth_labels: tuple[str, ...] = ()
    mask_words: bool = False
    held_out: tuple[Example, ...] | None = None
    ordinary: tuple[Prompt, ...] | None = None
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_new_tokens: int = 48
    dtype: str = "auto"
    device: str = "auto"
    full_adapter: str | None = None


def audit(case: AuditCase, out: Path, show: Show = quiet) -> Document:
    """Run every stage that has no stored result; stop early if no answer is bad or no row is selected.

    Args:
        case: What to audit.
        out: The folder of the audit. Prompts, answers, bad answers, queries and the trace are written to files with
            these names, and all stages to `stages`.
        show: Shows a stage's title and progress.

    Returns:
        The results, as JSON. `answers` counts the bad answers. `trace`, `cleaned` and `proof` are None if the audit
        stopped before them, because the model does not misbehave or no row is flagged. `reading` and `template` are
        those of the index.

    Raises:
        OptionError: If the base model is unknown.
    """
    run = _Run(case, out, show)
    return _results(run) | {"provenance": run.cache.provenance()}


def _results(run: _Run) -> Document:
    verdicts = run.judge()
    results: Document = {
        "version": 2, "answers": count_verdicts(verdicts), "verdicts": verdicts, "index": None, "num_rows": None,
        "num_skipped": None, "trace": None, "removals": [], "cleaned": None, "proof": None, "notes": [],
        "reading": asdict(run.read_options), "template": run.encoding.template,
    }  # fmt: skip
    if not run.traceable(verdicts):
        return results
    index = run.build_index()
    trace = run.trace(index)
    removals = select_rows(trace, top_k=run.case.top_k) if run.selects_rows(trace) else []
    results |= {"index": str(index.path), "num_rows": len(index), "num_skipped": len(index.manifest["skipped"]),
                "trace": trace, "removals": [asdict(removal) for removal in removals]}  # fmt: skip
    if not removals:
        return results
    cleaned = run.clean(trace, removals)
    proof, notes = run.retrain(trace, removals)
    return results | {"cleaned": cleaned, "proof": proof, "notes": notes}


class _Run:
    """The stages of an audit; the model is loaded once."""

    def __init__(self, case: AuditCase, out: Path, show: Show) -> None:
        if case.adapter is None and case.base is None:
            do = "give its --adapter, or as --base the model that it was trained from"
            raise OptionError("the base model is not known", got=case.model, do=do)
        refuse_distributed()
        get_judge(case.behaviour.judge)
        ReadOptions(**case.read_options)  # raises for invalid options, before the model is loaded
        self.case, self.out, self.cache = case, out, StageCache(out / STAGES, show)

    @cached_property
    def model(self) -> Model:
        case = self.case
        return load_model(case.model, case.adapter, base=case.base, dtype=case.dtype, device=case.device)

    @cached_property
    def read_options(self) -> ReadOptions:
        metadata = self.model.metadata
        return replace(default_read_options(metadata), **self.case.read_options).for_mask(metadata.mask)

    @cached_property
    def encoding(self) -> Encoding:
        raw = detect_format(self.case.data, self.read_options).raw
        return default_options(self.model.metadata, self.model.context_length, raw=raw)

    def judge(self) -> list[Document]:
        """Generate and judge answers. The retraining experiment reuses these stages for the original model."""
        behaviour, template = self.case.behaviour, self.encoding.template or self.model.tokenizer.chat_template
        answers = generate_answers(self.cache, identity(self.model, template), lambda: self.model, behaviour.prompts,
                                   self.case.max_new_tokens, ORIGINAL, self.encoding.template)  # fmt: skip
        verdicts = judge_answers(self.cache, behaviour.judge, answers, ORIGINAL)
        records = [to_record(prompt, answer) for prompt, answer in answers]
        spans = [{key: verdict.get(key) for key in ("span", "span_range")} for verdict in verdicts]
        judged = [record | span for record, span in zip(records, spans, strict=True)]
        bad = [record for record, verdict in zip(judged, verdicts, strict=True) if verdict["bad"]]
        queries = [judged[index] for index in self.traceable(verdicts)[: self.case.max_queries]]
        write_jsonl((to_record(prompt, "") for prompt in behaviour.prompts), self.out / "prompts.jsonl")
        write_jsonl(records, self.out / "answers.jsonl")
        write_jsonl(bad, self.out / "bad.jsonl")
        write_jsonl(queries, self.out / "queries.jsonl")
        return verdicts

    def traceable(self, verdicts: Sequence[Document]) -> list[int]:
        """Return the indices of the bad answers that are not empty."""
        return [index for index, verdict in enumerate(verdicts) if verdict["bad"] and verdict["response"].strip()]

    def build_index(self) -> Index:
        """Return the index for the default method; built unless it is complete."""
        # all that the index stores of a row: the id depends on its content, not on its label and where it has a loss;
        # sources start with the name of the data, which depends on the working directory
        data = self.case.data
        rows = [[row.id, row.source.removeprefix(data), row.label, row.masked, *loss_places(row)]
                for row in read_examples(data, self.read_options)]  # fmt: skip
        method = get_method(DEFAULT_METHOD)
        dependencies = [self.model.fingerprint, str(self.model.dtype), absolute_name(data), rows,
                        asdict(self.read_options), asdict(self.encoding), repr(method)]  # fmt: skip
        folder = self.cache.path("index", dependencies)

        def make(progress: ProgressCallback) -> Document:
            index = build_index(self.model, data, folder, [method], read_options=self.read_options,
                                encoding=self.encoding, progress=progress)  # fmt: skip
            return {"rows": len(index)}

        self.cache.get_or_run("index", dependencies, f"index {len(rows)} rows", make)
        return Index.open(folder)

    def trace(self, index: Index) -> Document:
        """Trace the first bad answers, with as many rows as are flagged or requested."""
        queries = read_queries(self.out / "queries.jsonl")

        def make(progress: ProgressCallback) -> Document:
            first = trace_queries(index, self.model, queries, top_k=1, score_tokens=False)
            num_flagged = max(len(result.flagged or ()) for result in first.queries)
            top_k = min(len(index), max(MIN_ROWS, num_flagged, self.case.top_k or 0, *self.case.curve, 0))
            return trace_queries(index, self.model, queries, top_k=top_k, progress=progress).to_json()

        dependencies = [index.path.name, [str(query) for query in queries], self.case.top_k, self.case.curve]
        trace = self.cache.get_or_run("trace", dependencies, f"trace {len(queries)} bad answers", make)
        # the folder and the model may have moved since the trace was stored
        trace |= {"model": self.model.name, "adapter": self.model.adapter, "index": str(index.path)}
        save_trace(trace, self.out / "trace.json")
        return trace

    def selects_rows(self, trace: Document) -> bool:
        """Whether any row is selected: by rank, or because it is flagged."""
        return self.case.top_k is not None or any(query["num_flagged"] for query in trace["queries"])

    def clean(self, trace: Document, removals: Sequence[Removal]) -> str:
        """Write the data without the selected rows, in its own format; return its path."""
        data = Path(self.case.data)
        data_hash = file_hash(data) if data.exists() else None
        content = {name: value for name, value in trace.items() if name not in PATHS}
        dependencies = [key(content), [removal.id for removal in removals], data_hash]
        suffix = "".join(data.suffixes[-2:]) if data.is_file() else "" if data.is_dir() else ".jsonl"
        out = self.cache.path("cleaned", dependencies)
        out = out.with_name(out.name + suffix)

        def make(progress: ProgressCallback) -> str:
            if not (out.is_dir() and manifest_path(out).exists()):
                plan = plan_cleaning(trace, self.case.data, removals, read_options=self.read_options)
                write_cleaned(plan, self.out / "trace.json", out)
            return out.name

        self.cache.get_or_run("clean", dependencies, f"remove {len(removals)} rows from the data", make)
        return str(out)

    def retrain(self, trace: Document, removals: Sequence[Removal]) -> tuple[Document, list[str]]:
        """Run the retraining experiment; return its results, and notes on its assumptions."""
        case = self.case
        experiment, notes = experiment_from_trace(
            trace, [case.behaviour], case.recipe, base=case.base, max_new_tokens=case.max_new_tokens,
            dtype=case.dtype, device=case.device,
        )  # fmt: skip
        design = design_from_trace(
            trace, removals, num_random=case.num_random, curve=case.curve, truth_labels=case.truth_labels,
            mask_words=case.mask_words, full_adapter=case.full_adapter,
        )  # fmt: skip
        rows = list(read_examples(case.data, self.read_options))
        proof = retrain(experiment, rows, [removal.id for removal in removals], self.cache, design=design,
                        held_out=case.held_out, ordinary=case.ordinary)  # fmt: skip
        return proof, notes
