"""From a trace to a training set without its culprits: which rows go and why, or which of their words. Knows no model.

The trace is the document that `taughtby trace --json` writes, read back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from taughtby.data.dataset import DEFAULT_READ_OPTIONS, ReadOptions, detect_format, read_examples
from taughtby.data.example import CharRanges, Example, shorten
from taughtby.data.phrases import align_tokens, whole_words
from taughtby.data.readers.stream import COMPRESSED, file_type
from taughtby.data.rewrite import check_output, file_hash, preservation, rewrite
from taughtby.data.row_sources import matches_source, record_source, resolve_sources, several
from taughtby.data.spans import Edits, Marks
from taughtby.errors import DataError, OptionError
from taughtby.index.storage import storage_path
from taughtby.models.paths import absolute_name, locate
from taughtby.reporting.html import save_json
from taughtby.reporting.text import scored_tokens

Document = dict[str, Any]
ENOUGH = 0.5  # of a row's strongest score, from which on a word counts as guilty
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Removal:
    """A row that is to go: by which query (counted from 1) it ranked best, there at which rank, and why it was chosen.

    Of a row that a person ticked and no query ranked, only `source` or `id` is known.
    """

    id: str
    source: str
    rank: int | None = None
    score: float | None = None
    p_value: float | None = None
    query: int | None = None
    why: str = ""
    queries: tuple[int, ...] = ()  # all that chose it


def load_trace(path: str | Path) -> Document:
    """A trace's document from its file."""
    do = "give what `taughtby trace … --json FILE` wrote"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as fault:
        raise DataError(f"the trace {path} cannot be read", got=fault.strerror or str(fault), do=do) from None
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path} is not a trace", got=shorten(str(fault)), do=do) from None
    if not isinstance(document, dict) or document.get("version") != 2 or not isinstance(document.get("queries"), list):
        raise DataError(f"{path} is not a trace", got=shorten(document), do=do)
    return {**document, **_moved(document, Path(path).parent)}


def keep(document: Document, path: str | Path) -> None:
    """Write a trace's document to a file, from which it is found again what the trace is of."""
    save_json({**document, "home": str(Path(path).parent.resolve())}, path)


def _moved(document: Document, here: Path) -> Document:
    """Where the model, adapter and index of a trace lie, seen from the folder of its file."""

    def found(name: Any) -> Any:
        if isinstance(name, list):
            return [found(one) for one in name]
        return locate(name, document.get("home"), here) if isinstance(name, str) else name

    return {key: found(document[key]) for key in ("model", "adapter", "index") if key in document}


def reading_of(trace: Document) -> ReadOptions:
    """How the traced index read its data, if it is still there; plainly, if not."""
    try:
        said = json.loads((storage_path(str(trace.get("index"))) / "manifest.json").read_text(encoding="utf-8"))
        return ReadOptions(**said["settings"]["reading"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_READ_OPTIONS


def select_rows(trace: Document, *, top_k: int | None = None, rows: Sequence[str] | None = None) -> list[Removal]:
    """The rows that are to go, each once, in the order of their best rank.

    Those called culprits by any query; or the best `top` of each query; or just `rows`, which are ids or sources
    (`file:line`), whether ranked or not.
    """
    if top_k is not None and rows is not None:
        raise OptionError("rows are chosen twice", got="--top-k and --rows", do="give one of them")
    if rows is not None:
        return _ticked(trace, rows)
    chosen: dict[str, Removal] = {}
    for number, query in enumerate(trace["queries"], 1):
        for row in _culprits(trace, query) if top_k is None else _best(query, number, top_k):
            why = "called a culprit" if top_k is None else f"among the first {top_k}"
            found = _removal(row, number, why)
            known = chosen.get(found.id)
            best = found if known is None or (found.rank or 0) < (known.rank or 0) else known
            chosen[found.id] = replace(best, queries=(*(known.queries if known else ()), number))
    return sorted(chosen.values(), key=lambda one: (one.rank or 0, one.query or 0))


def _removal(row: Document, query: int, why: str) -> Removal:
    return Removal(row["id"], row["source"], row["rank"], row["score"], row.get("p_value"), query, why, (query,))


def _culprits(trace: Document, query: Document) -> list[Document]:
    if query.get("num_flagged") is None:
        do = "choose by --top-k K, or tick --rows, or trace by a method that calls culprits (lesson)"
        if query.get("no_evidence"):
            do = "choose by --top-k K, or tick --rows, or trace again without the desired answer"
        raise DataError("this trace calls no culprits", got=shorten(trace.get("method")), do=do)
    shown = {row["id"]: row for row in query["rows"] if row.get("flagged") is True}
    # `called` has all ids, the best first; those that are not shown are known by their ids alone
    ids = dict.fromkeys([*(query.get("flagged_ids") or ()), *shown])
    found = [shown.get(id) or {"id": id, "source": "", "rank": rank, "score": None} for rank, id in enumerate(ids, 1)]
    if len(found) < query["num_flagged"]:
        got = f"{len(found)} of {query['num_flagged']} culprits of an answer"
        raise DataError("the trace does not name all that it calls", got=got, do="trace again: it does now")
    return found


def _best(query: Document, number: int, top: int) -> list[Document]:
    if top < 1 or top > len(query["rows"]):
        got = f"--top-k {top}, the trace has {len(query['rows'])} rows of query {number}"
        raise OptionError("the trace does not name so many rows", got=got, do=f"trace again with --top-k {max(top, 1)}")
    return query["rows"][:top]


def _ticked(trace: Document, rows: Sequence[str]) -> list[Removal]:
    """Rows that a person ticked, with what the trace knows of them."""
    ranked = sorted(
        (_removal(row, number, "ticked") for number, query in enumerate(trace["queries"], 1) for row in query["rows"]),
        key=lambda one: one.rank or 0,
    )
    chosen: list[Removal] = []
    for spec in dict.fromkeys(row.strip() for row in rows if row.strip()):
        known = [one for one in ranked if spec in (one.id, one.source)]
        known = known or [one for one in ranked if matches_source(spec, one.source)]
        if len(rows_meant := dict.fromkeys(f"{one.source} ({one.id})" for one in known)) > 1:
            raise several(spec, list(rows_meant))
        unknown = Removal(spec, "", why="ticked") if _ID.fullmatch(spec) else Removal("", spec, why="ticked")
        queries = tuple(sorted({number for one in known for number in one.queries}))
        chosen.append(replace(known[0], queries=queries) if known else unknown)
    return chosen


# — the words in a row


def top_scoring_words(trace: Document, chosen: Sequence[Removal]) -> dict[str, CharRanges]:
    """Which characters of each chosen row's answer are to be unlearned, by id: whole words, over all its queries.

    Words whose score is at least half of the row's strongest by the same query. Where a row's words cannot be placed
    in its answer, or none speaks for the query, all of the answer.
    """
    found: dict[str, CharRanges] = {}
    for one in chosen:
        ranked = [row for number in one.queries for row in trace["queries"][number - 1]["rows"] if row["id"] == one.id]
        if not any(row.get("tokens") for row in ranked):
            most = max(query.get("num_flagged") or 0 for query in trace["queries"])
            do = "trace by a method that scores words (lesson)" if ranked else f"trace again with --top-k {most}"
            what = f"the trace has no words of the row {one.source or one.id}"
            raise DataError(what, got=shorten(trace.get("method")), do=do)
        answer = Example(tuple(ranked[0]["messages"])).response
        parts = sorted({part for row in ranked for part in _strong(row, answer)})
        found[one.id] = tuple(_merged(parts, answer)) or ((0, len(answer)),)
    return found


def _strong(row: Document, answer: str) -> Iterator[tuple[int, int]]:
    """The strong words of a row by one query."""
    tokens = scored_tokens(row.get("tokens"), "score")
    least = ENOUGH * max((token.score or 0.0 for token in tokens), default=0.0)
    text = "".join(token.text for token in tokens)
    at = align_tokens(text, answer)
    if at is None or least <= 0:
        return
    for token in tokens:
        begin, stop = at + len(token.text) - len(token.text.lstrip()), at + len(token.text.rstrip())
        at += len(token.text)
        begin, stop = max(begin, 0), min(stop, len(answer))
        if begin < stop and (token.score or 0.0) >= least:
            yield whole_words(answer, begin, stop)


def _merged(parts: Sequence[tuple[int, int]], answer: str) -> list[tuple[int, int]]:
    """Ranges in order, those with nothing but blanks between them as one."""
    whole: list[tuple[int, int]] = []
    for begin, stop in parts:
        if whole and not answer[whole[-1][1] : begin].strip():
            begin, stop = whole[-1][0], max(whole.pop()[1], stop)
        whole.append((begin, stop))
    return whole


# — the data set without them


@dataclass(frozen=True)
class CleaningPlan:
    """What is to be done to a data set: `chosen` are the rows with their sources there, `change` what it comes to.

    `answers` are theirs by id, and `words` what of those goes, empty where whole rows go. A record goes if any of its
    answers was chosen.
    """

    data: str
    reading: ReadOptions
    chosen: tuple[Removal, ...]
    answers: dict[str, str]
    words: dict[str, CharRanges]
    change: Edits
    examples: int
    records: int

    @property
    def left(self) -> int:
        """How many records are kept."""
        return self.records - len(self.change.dropped)


def plan_cleaning(
    trace: Document,
    data: str,
    chosen: Sequence[Removal],
    *,
    reading: ReadOptions = DEFAULT_READ_OPTIONS,
    mask_words: bool = False,
) -> CleaningPlan:
    """Find the chosen rows in `data`, by their ids, and refuse data that does not hold them all.

    With `mask_words` the rows stay, and their guilty words are marked.
    """
    if not chosen:
        raise DataError("no row is to go: the trace calls no culprits", do="choose by --top-k K, or tick --rows")
    detect_format(data, reading)
    words = top_scoring_words(trace, chosen) if mask_words else {}
    wanted = {one.id: one for one in chosen if one.id}
    pointed = [one for one in chosen if not one.id]
    meant = resolve_sources([one.source for one in pointed], data, reading)
    here: dict[str, Removal] = {}
    answers: dict[str, str] = {}
    marks: dict[str, Marks] = {}
    gone: set[str] = set()
    examples, records, last = 0, 0, ""
    for row in read_examples(data, reading):
        every, record = reading.turns == "all", record_source(row, reading)
        examples, records, last = examples + 1, records + (record != last), record
        found = [one for one in pointed if meant.get(one.source) in (row.source, record)]
        found += [wanted[row.id]] if row.id in wanted else []
        here |= {one.id or one.source: replace(one, id=row.id, source=row.source) for one in found}
        if found:
            gone.add(record)
            answers[row.id] = row.response
        if parts := _merged(sorted({*row.masked, *words.get(row.id, ())}), row.response):
            turn = [sum(message["role"] == "assistant" for message in row.messages)] if every else []
            marks.setdefault(record, []).extend([begin, stop, *turn] for begin, stop in parts)
    if missing := [one.source or one.id for one in chosen if (one.id or one.source) not in here]:
        got = f"{len(missing)} of {len(chosen)} rows are not in it: {', '.join(missing[:3])}"
        raise DataError(f"{data} is not the data that was traced, or was changed since", got=got, do=_same(trace))
    if not mask_words and len(gone) == records:
        raise DataError("no row would be left", got=f"{records} of {records} chosen", do="choose fewer")
    change = Edits(frozenset(), {at: marks[at] for at in gone}) if mask_words else Edits(frozenset(gone), {})
    order = tuple(here[one.id or one.source] for one in chosen)
    return CleaningPlan(data, reading, order, answers, words, change, examples, records)


def _same(trace: Document) -> str:
    return f"give the data that the index was made from, read in the same way; it is {trace.get('index')}"


def clean(made: CleaningPlan, trace: str | Path, out: str | Path) -> Document:
    """Write the data as planned to `out`, and what was done beside it as `NAME.manifest.json`; the latter's document.

    `trace` is the file that the plan was made from. Both are written whole or not at all; the input is never touched.
    """
    out, document = Path(out), load_trace(trace)
    check_output(made.data, out)
    rewrite(made.data, out, made.reading.split, made.change)
    there = Path(made.data).exists()
    manifest: Document = {
        "version": 1,
        "made": {"by": f"taughtby {version('taughtby')}", "at": datetime.now(UTC).isoformat(timespec="seconds")},
        "did": "masked words" if made.words else "removed rows",
        "rate": document.get("fdr"),
        "trace": {"file": absolute_name(str(trace)), "sha256": file_hash(Path(trace)),
                  **{key: document.get(key) for key in ("method", "model", "adapter", "index")}},
        "reading": asdict(made.reading),
        "input": {"data": absolute_name(made.data), "sha256": file_hash(Path(made.data)) if there else None,
                  "records": made.records, "examples": made.examples},
        "output": {"data": absolute_name(str(out)), "sha256": file_hash(out), "records": made.left,
                   "kept": preservation(made.data)},
        "rows": [{**asdict(one), **({"unlearned": made.words[one.id]} if made.words else {})} for one in made.chosen],
    }  # fmt: skip
    save_json(manifest, manifest_of(out))
    return manifest


def manifest_of(out: Path) -> Path:
    """Where the manifest of cleaned data lies: `cleaned.manifest.json` beside `cleaned.jsonl.gz`."""
    name = out.name.removesuffix(out.suffix) if out.suffix.lower() in COMPRESSED else out.name
    return out.with_name(f"{Path(name).stem if file_type(out) else name}.manifest.json")
