"""Write a training set without the selected rows of a trace, or with their top-scoring words masked. Loads no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taughtby.data.dataset import DEFAULT_READ_OPTIONS, ReadOptions, detect_format, read_examples
from taughtby.data.example import CharRanges, Example
from taughtby.data.files import file_hash
from taughtby.data.jsonl_edits import Edits, Marks
from taughtby.data.phrases import merge_ranges
from taughtby.data.readers import TABLES, TEXTS
from taughtby.data.readers.stream import COMPRESSED, file_type
from taughtby.data.rewrite import check_output, describe_preservation, rewrite_dataset
from taughtby.data.row_sources import record_source, resolve_sources
from taughtby.errors import DataError, OptionError
from taughtby.models.paths import absolute_name
from taughtby.remediation.other_data import rows_of_other_data
from taughtby.remediation.provenance import package_version
from taughtby.remediation.selection import SAME_CONVERSATION, Removal, masked_words, select_rows
from taughtby.remediation.trace_file import Document, load_trace, read_options_of
from taughtby.reporting.html import save_json

if TYPE_CHECKING:
    from taughtby.attribution.trace import Trace


NEEDS_MASK_WORDS = "add --mask-words, or omit --for: if rows are only removed, the data keeps its format"


def clean(
    trace: Trace | Mapping[str, Any] | str | Path,
    data: str | Path,
    out: str | Path,
    *,
    top_k: int | None = None,
    rows: Sequence[str] | None = None,
    mask_words: bool = False,
    read_options: ReadOptions | None = None,
    write: Writer | None = None,
) -> Document:
    """Write `data` without the rows that a trace flags, in the format of `data`.

    All other rows stay unchanged. A manifest next to `out` (`NAME.manifest.json`) records which rows were removed and
    why. Both files are written atomically; the input is never changed.

    Args:
        trace: A `Trace`, its document, or the path of its JSON file.
        data: The data that was traced: a file, folder or hub id.
        out: Where to write the cleaned data.
        top_k: Remove the top k rows of each query instead of the flagged rows.
        rows: Remove exactly these rows: ids or sources (`file:line`).
        mask_words: Keep the rows, and mask only their top-scoring words from the loss.
        read_options: How to read `data`; by default as the traced index read it.
        write: A function that writes the masked data in a trainer's format; see `trainer_formats`.

    Returns:
        The manifest.

    Raises:
        DataError: If no row is selected, or a selected row is not in `data`.
        OptionError: If the options contradict each other, or `out` cannot be overwritten.
    """
    document = load_trace(trace)
    if write is None:
        check_output(str(data), Path(out))
    elif not mask_words:
        raise OptionError("--for requires --mask-words", do=NEEDS_MASK_WORDS)
    removals = select_rows(document, top_k=top_k, rows=rows)
    options = read_options or read_options_of(document)
    plan = plan_cleaning(document, str(data), removals, read_options=options, mask_words=mask_words)
    return write_cleaned(plan, trace, out, write)


@dataclass(frozen=True)
class CleaningPlan:
    """What to change in a data set.

    A record that holds several examples is removed if any of them is.

    Attributes:
        data: The data set.
        read_options: How it is read.
        removals: The selected rows, with their sources in `data`; if rows are removed, also the other examples of their
            records.
        responses: Their responses, by row id.
        words: The characters of the responses to mask, by row id; empty if whole rows are removed.
        change: The edits to the files.
        num_examples: Number of examples in `data`.
        num_records: Number of records in `data`.
        elsewhere: Number of selected rows that are in other data of the index, by its name.
    """

    data: str
    read_options: ReadOptions
    removals: tuple[Removal, ...]
    responses: dict[str, str]
    words: dict[str, CharRanges]
    change: Edits
    num_examples: int
    num_records: int
    elsewhere: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def num_remaining(self) -> int:
        """Number of records that are not removed."""
        return self.num_records - len(self.change.dropped)

    @property
    def selected(self) -> list[Removal]:
        """The rows that were selected, without the other examples of their records."""
        return [row for row in self.removals if row.why != SAME_CONVERSATION]

    def masked_examples(self) -> Iterator[Example]:
        """Yield every example of the data with its existing masks and those of `words`."""
        for row in read_examples(self.data, self.read_options):
            yield replace(row, masked=masked_ranges(row, self.words))


def plan_cleaning(
    trace: Document,
    data: str,
    removals: Sequence[Removal],
    *,
    read_options: ReadOptions = DEFAULT_READ_OPTIONS,
    mask_words: bool = False,
    progress: Callable[[int], object] | None = None,
) -> CleaningPlan:
    """Find the selected rows in `data` by their ids or sources.

    Args:
        trace: The trace's document.
        data: The data that was traced.
        removals: The result of `select_rows`.
        read_options: How to read `data`.
        mask_words: Keep the rows and mask their top-scoring words.
        progress: Called with the number of examples read, every hundred.

    Raises:
        DataError: If no row is selected, a selected row is not in `data`, or no row would remain.
    """
    if not removals:
        do = "select rows with --top-k K or --rows FILE"
        raise DataError("no row is selected: the trace flags no rows", do=do)
    detect_format(data, read_options)
    words = masked_words(trace, removals) if mask_words else {}
    scan = _Scan(data, read_options, removals, words)
    for row in read_examples(data, read_options):
        scan.add(row)
        if progress and scan.num_examples % 100 == 0:
            progress(scan.num_examples)
    absent = [row for row in removals if (row.id or row.source) not in scan.located]
    elsewhere = rows_of_other_data(trace, data, absent) if scan.located else {}
    in_others = [row for rows in elsewhere.values() for row in rows]
    if missing := [row.source or row.id for row in absent if row not in in_others]:
        raise _not_traced(trace, data, removals, missing)
    if not mask_words and len(scan.records) == scan.num_records:
        got = f"{scan.num_records} of {scan.num_records} selected"
        raise DataError("no row would remain", got=got, do="select fewer rows")
    marks = {record: scan.marks[record] for record in scan.records} if mask_words else {}
    change = Edits(frozenset() if mask_words else frozenset(scan.records), marks)
    ordered = tuple(scan.located[removal.id or removal.source] for removal in removals if removal not in in_others)
    if not mask_words:
        ordered += tuple(scan.others(ordered))
    return CleaningPlan(
        data, read_options, ordered, scan.responses, words, change, scan.num_examples, scan.num_records,
        {name: len(rows) for name, rows in elsewhere.items()},
    )  # fmt: skip


def _not_traced(trace: Document, data: str, removals: Sequence[Removal], missing: Sequence[str]) -> DataError:
    do = f"give the data that the index was built from, read in the same way; the index is {trace.get('index')}"
    if all(row.why == "listed" for row in removals):
        do = f"check the ids and sources that are listed; or {do}"
    got = f"{len(missing)} of {len(removals)} rows are not in it: {', '.join(missing[:3])}"
    return DataError(f"{data} is not the data that was traced, or it has changed since", got=got, do=do)


Writer = Callable[[CleaningPlan, Path], Document]


@dataclass
class _Scan:
    """Finds the selected rows in one pass over the data."""

    data: str
    read_options: ReadOptions
    removals: Sequence[Removal]
    words: Mapping[str, CharRanges]
    located: dict[str, Removal] = field(default_factory=dict[str, Removal])
    responses: dict[str, str] = field(default_factory=dict[str, str])
    marks: dict[str, Marks] = field(default_factory=dict[str, Marks])
    records: set[str] = field(default_factory=set[str])
    num_examples: int = 0
    num_records: int = 0

    def __post_init__(self) -> None:
        self._by_id = {removal.id: removal for removal in self.removals if removal.id}
        self._by_source = [removal for removal in self.removals if not removal.id]
        # also for ranked rows: a listed source may be a suffix of several sources, of which the trace has one
        listed = [row.source for row in self.removals if row.source and (not row.id or row.why == "listed")]
        self._sources = resolve_sources(listed, self.data, self.read_options)
        self._record = ""  # the current one
        self._conversation: list[Example] = []  # its examples
        self._dropped: list[Example] = []  # examples of earlier records that are dropped

    def others(self, selected: Sequence[Removal]) -> Iterator[Removal]:
        """Yield the examples of the dropped records that are not selected themselves."""
        known = {row.id for row in selected}
        self._end_record()
        for row in self._dropped:
            if row.id not in known:
                self.responses[row.id] = row.response
                yield Removal(row.id, row.source, why=SAME_CONVERSATION)

    def _end_record(self) -> None:
        if len(self._conversation) > 1 and self._record in self.records:
            self._dropped += self._conversation
        self._conversation = []

    def add(self, row: Example) -> None:
        record = record_source(row)
        self.num_examples += 1
        if record != self._record:
            self._end_record()
            self._record = record
            self.num_records += 1
        self._conversation.append(row)
        matches = [other for other in self._by_source if self._sources.get(other.source) in (row.source, record)]
        matches += [self._by_id[row.id]] if row.id in self._by_id else []
        for removal in matches:
            self.located[removal.id or removal.source] = replace(removal, id=row.id, source=row.source)
        if matches:
            self.records.add(record)
            self.responses[row.id] = row.response
        if row.token_ids and row.id in self.words:
            do = "remove the rows, without --mask-words"
            raise DataError(f"{row.source}: words cannot be masked in a row of token ids", do=do)
        if ranges := masked_ranges(row, self.words):
            is_assistant = (message["role"] == "assistant" for message in row.messages)
            turn = [sum(is_assistant)] if row.source != record else []
            self.marks.setdefault(record, []).extend([start, stop, *turn] for start, stop in ranges)


def masked_ranges(row: Example, words: Mapping[str, CharRanges]) -> CharRanges:
    """Return the characters of a row's answer that have no loss: its own masked words, and those in `words` by id."""
    return tuple(merge_ranges(sorted({*row.masked, *words.get(row.id, ())}), row.response))


def write_cleaned(
    plan: CleaningPlan, trace: Trace | Mapping[str, Any] | str | Path, out: str | Path, write: Writer | None = None
) -> Document:
    """Write the cleaned data to `out`, and the manifest next to it.

    Args:
        plan: The result of `plan_cleaning`.
        trace: The trace that the plan was made from.
        out: Where to write the cleaned data.
        write: Writes the data and returns its entries for the manifest; by default in the format of the data.

    Returns:
        The manifest.
    """
    out, document = Path(out), load_trace(trace)
    written = (write or _write_data)(plan, out)
    file = Path(trace) if isinstance(trace, str | Path) else None
    input_hash = file_hash(Path(plan.data)) if Path(plan.data).exists() else None
    manifest: Document = {
        "version": 2,
        "created": {"by": f"taughtby {package_version('taughtby')}",
                 "at": datetime.now(UTC).isoformat(timespec="seconds")},
        "did": "masked words" if plan.words else "removed rows",
        "fdr": document.get("fdr"),
        "trace": {"file": file and absolute_name(str(file)), "sha256": file and file_hash(file),
                  **{key: document.get(key) for key in ("method", "model", "adapter", "index")}},
        "reading": plan.read_options.to_json(),
        "input": {"data": absolute_name(plan.data), "sha256": input_hash,
                  "records": plan.num_records, "examples": plan.num_examples},
        "output": {"data": absolute_name(str(out)), "sha256": file_hash(out), **written},
        "rows": [{**asdict(row), **({"unlearned": plan.words[row.id]} if plan.words else {})} for row in plan.removals],
    }  # fmt: skip
    save_json(manifest, manifest_path(out))
    return manifest


def _write_data(plan: CleaningPlan, out: Path) -> Document:
    check_output(plan.data, out)
    rewrite_dataset(plan.data, out, plan.read_options.split, plan.change)
    return {"records": plan.num_remaining, "kept": describe_preservation(plan.data)}


def manifest_path(out: Path) -> Path:
    """Return the path of the manifest, such as `cleaned.manifest.json` for `cleaned.jsonl.gz`."""
    name = out.name.removesuffix(out.suffix) if out.suffix.lower() in COMPRESSED else out.name
    known = file_type(out) in {*TEXTS, *TABLES}  # the name of a folder may have a dot
    return out.with_name(f"{Path(name).stem if known else name}.manifest.json")
