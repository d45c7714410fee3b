"""What the server does for a question: trace an answer, ask the model, say where rows lie. Knows no HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from taughtby.attribution.embedding_map import PCAMap, pca_map
from taughtby.attribution.illustrate import page_document
from taughtby.attribution.layer_ranks import layer_ranks
from taughtby.attribution.query import FIELDS, Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.rewrite import rewrite_dataset
from taughtby.errors import DataError
from taughtby.index.reader import Index
from taughtby.lab.generate import generate
from taughtby.models.model import Model
from taughtby.remediation.clean import plan_cleaning
from taughtby.remediation.selection import select_rows
from taughtby.remediation.trace_file import read_options_of
from taughtby.server.jobs import Job, Jobs, Tell
from taughtby.server.rows import RowBrowser

GRACE = 3.0  # seconds that the model waits for a first view, which its loading would hold up


class Session:
    """One index and its model, which loads after the first view; `documents` are traces that were made before."""

    def __init__(self, index: Index, load: Callable[[], Model], documents: Sequence[dict[str, Any]] = ()) -> None:
        self.index, self.documents, self.shelf, self.jobs = index, tuple(documents), RowBrowser(index), Jobs()
        self._load, self._model = load, None
        self._plane: PCAMap | None = None
        self._drawn, self._drawing = False, threading.Lock()
        self._begun = threading.Event()
        self.loading = self.jobs.put(self._preload)

    def plane(self) -> PCAMap | None:
        """The map of the training set; drawn once."""
        with self._drawing:
            if not self._drawn:
                self._plane, self._drawn = pca_map(self.index), True
        return self._plane

    def map(self) -> dict[str, Any] | None:
        """The map as the page draws it, with where the rows of the traces that were there lie, by id."""
        drawn = self.plane()
        self._begun.set()  # the page asks for its map once all else is on show
        if drawn is None:
            return None
        wanted = {row.get("id") for document in self.documents
                  for query in document.get("queries") or [] for row in query.get("rows") or []}  # fmt: skip
        ids = self.index.dataset.to_table(columns=["id"]).column("id").to_pylist() if wanted else []
        places = [place for place, id in enumerate(ids) if id in wanted]
        points = zip(places, drawn.project(self.index, places), strict=True)
        return {**drawn.to_json(), "rows": {ids[place]: point for place, point in points}}

    def state(self) -> dict[str, Any]:
        """The index in a few words, and whether its model is there yet."""
        settings, loading = self.index.manifest["settings"], self.loading.status
        return {
            "num_rows": len(self.index),
            "methods": list(settings["methods"]),
            "model": settings["model"],
            "adapter": settings["adapter"],
            "cleans": self.data is not None,
            "loading": {"state": loading.state, "error": loading.error},
        }

    @property
    def data(self) -> Path | None:
        """The file that the index was made from, where all its rows are of one, which is still there."""
        first, *more = self.index.data
        return Path(first) if not more and Path(first).is_file() else None

    def clean(self, ids: Sequence[str], out: Path) -> None:
        """Write the training data without these rows to `out`, every other row as it was."""
        if self.data is None:
            raise DataError("the training data is not one file that is here", got=", ".join(self.index.data),
                            do="download the list, and give it to taughtby clean --rows")  # fmt: skip
        trace = {"version": 2, "index": str(self.index.path), "queries": []}
        read_options = read_options_of(trace)
        plan = plan_cleaning(trace, str(self.data), select_rows(trace, rows=ids), read_options=read_options)
        rewrite_dataset(plan.data, out, read_options.split, plan.change)

    def trace(self, query: Query, by: str | None, top: int) -> Job:
        """A job whose result is the trace's document."""

        def work(tell: Tell) -> dict[str, Any]:
            return self._traced(query, by, top, tell)

        return self._put(work)

    def ask(self, prompt: str, by: str | None, top: int) -> Job:
        """A job that asks the model, and traces what it says."""

        def work(tell: Tell) -> dict[str, Any]:
            model = self._ready(tell)
            tell("the model answers", 0, None)
            template = self.index.manifest["settings"]["encoding"]["template"]
            return self._traced(Query(prompt, generate(model, [prompt], template=template)[0]), by, top, tell)

        return self._put(work)

    def depths(self, traced: Job) -> Job:
        """A job that says, of a finished trace's rows, which ranks they would have at other layers.

        Its result takes the place of the trace's, as a whole: what others are reading is not changed under their hands.
        """

        def work(tell: Tell) -> dict[str, Any]:
            result: dict[str, Any] = traced.result
            model, (said,) = self._ready(tell), result["queries"]
            before, after, tools = (tuple(said.get(name, ())) for name in ("before", "after", "tools"))
            query = Query(said["prompt"], said["response"], None, said["desired"], before, after, tools,
                          said["span_range"], *(tuple(said.get(name, {}).items()) for name in FIELDS))  # fmt: skip

            def layer(done: int, of: int) -> None:
                tell("reading the rows at other layers", done, of)

            found = layer_ranks(self.index, model, query, [row["place"] for row in said["rows"]], result["by"], layer)
            result = {**result, "queries": [{**said, "depths": found}]}
            traced.end("done", result=result)
            return result

        return self.jobs.put(work)

    def _traced(self, query: Query, by: str | None, top: int, tell: Tell) -> dict[str, Any]:
        model = self._ready(tell)
        tell("reading the answer", 0, None)
        watched = _watched(self.index, lambda done: tell("comparing rows", done, len(self.index)))

        def words(done: int, of: int) -> None:
            tell("reading the words of the first rows", done, of)

        found = trace_queries(watched, model, [query], method=by, top_k=top, progress=words)
        tell("linking words", 0, None)
        made = page_document(found, model, self.plane(), lambda done, of: tell("linking words", done, of))
        return made | {"by": by}

    def _put(self, work: Callable[[Tell], dict[str, Any]]) -> Job:
        self._begun.set()
        return self.jobs.put(work)

    def _preload(self, tell: Tell) -> Model:
        self._begun.wait(GRACE)
        return self._ready(tell)

    def _ready(self, tell: Tell) -> Model:
        """The model; loaded by whoever needs it first, so that a failure is told to each who asks."""
        if self._model is None:
            tell("loading the model", 0, None)
            self._model = self._load()
        return self._model


@dataclass(frozen=True)
class _Watched(Index):
    """An index that says how far a scan is, so that a job can be seen and ended."""

    seen: Callable[[int], None] = field(default=print, repr=False, compare=False)

    def scan(self, names: Sequence[str], rows: int = 4096) -> Iterator[dict[str, Any]]:
        """As any index's, telling after each batch."""
        done = 0
        for batch in super().scan(names, rows):
            yield batch
            first = next(iter(batch.values()))
            done += len(first.lengths) if hasattr(first, "lengths") else len(first)
            self.seen(done)


def _watched(index: Index, seen: Callable[[int], None]) -> Index:
    return _Watched(**{part.name: getattr(index, part.name) for part in fields(Index)}, seen=seen)
