"""One index and its model, with the jobs that trace answers. It knows nothing of HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from taughtby.attribution.embedding_map import PCAMap, pca_map
from taughtby.attribution.illustrate import page_document
from taughtby.attribution.layer_ranks import layer_ranks
from taughtby.attribution.query import Query
from taughtby.attribution.saved_trace import saved_links, saved_query
from taughtby.attribution.trace import trace_queries
from taughtby.data.rewrite import rewrite_dataset
from taughtby.index.reader import Index
from taughtby.lab.generate import generate
from taughtby.models.model import Model
from taughtby.remediation.row_verdicts import RowVerdicts
from taughtby.server import cleaning
from taughtby.server.jobs import Job, JobQueue, ReportProgress
from taughtby.server.retraining import Retraining, Subject, prepare, retrain_beside
from taughtby.server.rows import RowBrowser

NUM_EXAMPLES = 4  # example prompts
MAX_EXAMPLE = 300  # characters of an example prompt
FIRST_VIEW = 3.0  # seconds to wait for the first view before loading the model, which would slow it down


class Session:
    """One index, its model, and the traces to show first.

    Args:
        index: The index.
        load: Loads the model; called once, after the first view.
        documents: Documents of saved traces.
    """

    def __init__(self, index: Index, load: Callable[[], Model], documents: Sequence[dict[str, Any]] = ()) -> None:
        self.index, self.documents = index, tuple(documents)
        self.row_browser, self.verdicts, self.jobs = RowBrowser(index), RowVerdicts(index.path), JobQueue()
        self._load, self._model = load, None
        self._pca_map: PCAMap | None = None
        self._has_pca_map, self._pca_map_lock = False, threading.Lock()
        self._first_view_done = threading.Event()
        self._link_jobs: dict[int, Job] = {}
        self.retraining_job: Job | None = None
        self.model_job = self.jobs.submit(self._preload_model)

    def pca_map(self) -> PCAMap | None:
        """Return the map of the training set, which is computed once; None if the index holds no vectors."""
        with self._pca_map_lock:
            if not self._has_pca_map:
                self._pca_map, self._has_pca_map = pca_map(self.index), True
        return self._pca_map

    def map_document(self) -> dict[str, Any] | None:
        """Return the map as the page draws it, with the points of the saved traces' rows by id."""
        pca_map = self.pca_map()
        self._first_view_done.set()  # the map is the last request of the first view
        if pca_map is None:
            return None
        row_ids = {row.get("id") for document in self.documents
                   for query in document.get("queries") or [] for row in query.get("rows") or []}  # fmt: skip
        ids = self.index.dataset.to_table(columns=["id"]).column("id").to_pylist() if row_ids else []
        positions = [position for position, id in enumerate(ids) if id in row_ids]
        points = zip(positions, pca_map.project(self.index, positions), strict=True)
        return {**pca_map.to_json(self.index), "rows": {ids[position]: point for position, point in points}}

    def state(self) -> dict[str, Any]:
        """Return size, methods and model of the index, and the state of the model."""
        settings, status = self.index.manifest["settings"], self.model_job.status
        return {
            "num_rows": len(self.index),
            "methods": list(settings["methods"]),
            "model": settings["model"],
            "adapter": settings["adapter"],
            "can_clean": self.data_file is not None,
            "example_prompts": self._example_prompts(),
            "loading": {"state": status.state, "error": status.error},
        }

    def _example_prompts(self) -> list[str]:
        """Prompts of a few rows, spread over the index."""
        step = max(1, len(self.index) // NUM_EXAMPLES)
        rows = self.index.take(list(range(0, len(self.index), step))[:NUM_EXAMPLES])
        prompts = [next((str(turn["content"]) for turn in row.example.messages if turn["role"] == "user"), "")
                   for row in rows]  # fmt: skip
        return [prompt for prompt in dict.fromkeys(prompts) if 0 < len(prompt.strip()) <= MAX_EXAMPLE]

    @property
    def data_file(self) -> Path | None:
        """The file that the index was built from; None if there are several, or if it no longer exists."""
        first, *more = self.index.data
        return Path(first) if not more and Path(first).is_file() else None

    def clean(self, ids: Sequence[str], out: Path) -> None:
        """Write the training data without these rows to `out`; every other row stays as it is.

        Raises:
            DataError: The training data is not one existing file.
        """
        plan = cleaning.plan(self.index, self.data_file, ids)
        rewrite_dataset(plan.data, out, plan.read_options.split, plan.change)

    def submit_clean(self, ids: Sequence[str], document: dict[str, Any] | None) -> Job:
        """Submit a job that writes the cleaned data and its manifest beside the index.

        Args:
            ids: The rows to remove.
            document: The trace that the manifest names; None for none.
        """

        def work(report: ReportProgress) -> dict[str, Any]:
            return cleaning.clean_beside(self.index, self.data_file, ids, document, report)

        return self.jobs.submit(work)

    @property
    def subject(self) -> Subject:
        """What a retraining experiment trains again."""
        return Subject(self.index, self.data_file, self._model)

    def submit_retraining(self, request: Retraining) -> Job:
        """Submit a job that trains without some rows and without as many random ones.

        Raises:
            TaughtbyError: Packages, data, the base model or the recipe are missing, or the request is not possible.
        """
        prepare(self.subject, request)

        def work(report: ReportProgress) -> dict[str, Any]:
            self._get_model(report)  # a loaded model has the current paths of itself and its base
            return retrain_beside(self.subject, request, report)

        self.retraining_job = self.jobs.submit(work)
        return self.retraining_job

    def submit_links(self, number: int) -> Job:
        """Submit a job that links the tokens of a saved trace; return the earlier one if it did not fail."""
        earlier = self._link_jobs.get(number)
        if earlier and earlier.state in ("waiting", "running", "done"):
            return earlier

        def work(report: ReportProgress) -> dict[str, Any]:
            model = self._get_model(report)
            report("linking tokens", 0, None)
            return {"links": saved_links(self.index, model, self.documents[number],
                                         lambda done, of: report("linking tokens", done, of))}  # fmt: skip

        self._link_jobs[number] = self._submit(work)
        return self._link_jobs[number]

    def submit_trace(self, query: Query, method: str | None, top_k: int) -> Job:
        """Submit a job whose result is the document of a trace."""

        def work(report: ReportProgress) -> dict[str, Any]:
            return self._trace(query, method, top_k, report)

        return self._submit(work)

    def submit_prompt(self, prompt: str, method: str | None, top_k: int) -> Job:
        """Submit a job that generates an answer and traces it."""

        def work(report: ReportProgress) -> dict[str, Any]:
            model = self._get_model(report)
            report("generating the answer", 0, None)
            template = self.index.manifest["settings"]["encoding"]["template"]
            query = Query(prompt, generate(model, [prompt], template=template)[0])
            return self._trace(query, method, top_k, report)

        return self._submit(work)

    def submit_layer_ranks(self, trace_job: Job) -> Job:
        """Submit a job that ranks the rows of a finished trace at other layers.

        Its result also replaces that of the trace's job. The replaced document is not changed, since another thread
        may be reading it.
        """

        def work(report: ReportProgress) -> dict[str, Any]:
            document: dict[str, Any] = trace_job.result
            model, (traced,) = self._get_model(report), document["queries"]
            positions = [row["position"] for row in traced["rows"]]
            ranks = layer_ranks(self.index, model, saved_query(traced), positions, document["method_spec"],
                                lambda done, of: report("reading the rows at other layers", done, of))  # fmt: skip
            document = {**document, "queries": [{**traced, "layer_ranks": ranks}]}
            trace_job.end("done", result=document)
            return document

        return self.jobs.submit(work)

    def _trace(self, query: Query, method: str | None, top_k: int, report: ReportProgress) -> dict[str, Any]:
        model = self._get_model(report)
        report("reading the answer", 0, None)
        index = _with_scan_progress(self.index, lambda done: report("comparing rows", done, len(self.index)))
        trace = trace_queries(index, model, [query], method=method, top_k=top_k,
                              progress=lambda done, of: report("scoring tokens", done, of))  # fmt: skip
        report("linking tokens", 0, None)
        document = page_document(trace, model, self.pca_map(), lambda done, of: report("linking tokens", done, of))
        return document | {"method_spec": method, "home": str(Path.cwd())}

    def _submit(self, work: Callable[[ReportProgress], dict[str, Any]]) -> Job:
        self._first_view_done.set()
        return self.jobs.submit(work)

    def _preload_model(self, report: ReportProgress) -> Model:
        self._first_view_done.wait(FIRST_VIEW)
        return self._get_model(report)

    def _get_model(self, report: ReportProgress) -> Model:
        """The model, loaded by the first job that needs it: a failure is then the error of each of these jobs."""
        if self._model is None:
            report("loading the model", 0, None)
            self._model = self._load()
        return self._model


@dataclass(frozen=True)
class _ScanProgress(Index):
    """An index that reports how many rows a scan has read, so that the job can be followed and cancelled."""

    report: Callable[[int], None] = field(default=print, repr=False, compare=False)

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        """Scan the index, and report after each batch."""
        done = 0
        for batch in super().scan(names, rows):
            yield batch
            first = next(iter(batch.values()))
            done += len(first.lengths) if hasattr(first, "lengths") else len(first)
            self.report(done)


def _with_scan_progress(index: Index, report: Callable[[int], None]) -> Index:
    return _ScanProgress(**{part.name: getattr(index, part.name) for part in fields(Index)}, report=report)
