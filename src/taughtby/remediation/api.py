"""Clean training data from Python, from a trace in memory or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from taughtby.attribution.trace import Trace
from taughtby.errors import OptionError
from taughtby.index.api import Data, data_file
from taughtby.remediation.clean import clean as clean_file
from taughtby.remediation.trace_file import load_trace, save_trace
from taughtby.remediation.trainer_formats import trainer_writer


def clean(
    trace: Trace | str | Path,
    data: Data,
    out: str | Path,
    *,
    top_k: int | None = None,
    rows: Sequence[str] | str | None = None,
    mask_words: bool = False,
    trainer: str | None = None,
) -> dict[str, Any]:
    """Write the training data without the rows that a trace flagged.

    `NAME.manifest.json` next to `out` lists what was removed and why. The input is not changed.

    Args:
        trace: A trace, which is saved next to `out` as `NAME.trace.json`; or the path of a saved one.
        data: The data that was indexed: a file, a folder, or the same rows in memory.
        out: The file to write, in the format of `data`.
        top_k: Remove the top k rows of each query instead of the flagged rows.
        rows: Remove these rows: ids or sources (`file:line`); also a single one.
        mask_words: Keep the rows, and mask only their top-scoring words from the loss.
        trainer: With `mask_words`, the trainer whose format to write: `trl`, `axolotl`, `llama-factory` or `labels`.

    Returns:
        The manifest, which lists what was removed and what was preserved.

    Raises:
        TaughtbyError: The trace flags no row, the data is not what was traced, or `out` cannot be written.
    """
    out, rows = Path(out), _row_list(rows)
    if top_k is not None and (not isinstance(top_k, Integral) or isinstance(top_k, bool)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError("top_k is not a number of rows", got=repr(top_k), do="give 1 or more")
    file = trace if isinstance(trace, str | Path) else out.with_name(f"{out.stem}.trace.json")
    if isinstance(trace, Trace):
        save_trace(trace.to_json(), file)
    source = data_file(data, out)
    write = trainer_writer(trainer, load_trace(file), str(source), out) if trainer else None
    return clean_file(file, source, out, top_k=top_k, rows=rows, mask_words=mask_words, write=write)


def _row_list(rows: Sequence[str] | str | None) -> list[str] | None:
    """Return the rows as a list, which must not be empty; None if no rows are given."""
    if rows is None:
        return None
    listed = [rows] if isinstance(rows, str) else list(rows)
    if not listed or not all(isinstance(row, str) for row in listed):  # pyright: ignore[reportUnnecessaryIsInstance]
        do = 'give ids or sources, as in rows=["data.jsonl:12"]'
        raise OptionError("rows are not ids or sources of rows", got=repr(rows)[:80], do=do)
    return listed
