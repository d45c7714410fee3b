"""Commands that maintain an index: index info, verify, compact, delete, copy, undo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taughtby.cli import options
from taughtby.cli.app import command, index_app
from taughtby.cli.arguments import check_file, check_index
from taughtby.cli.console import errors, note, output, read_lines, reload

PAGE = "how-to/maintain-an-index"


@command(index_app, example="taughtby index info idx", page=PAGE)
def info(idx: options.IndexName) -> None:
    """Print the model, data, methods, features and history of an index."""
    check_index(idx)
    from taughtby.index.reader import Index, join_names

    index = Index.open(idx)
    settings, console = index.manifest["settings"], output()
    adapter = settings["adapter"] or ()
    lines = {
        "index": index.path,
        "rows": f"{len(index):,}, {len(index.manifest['skipped']):,} skipped",
        "data": ", ".join(index.data),
        "model": index.located(settings["model"]),
        "adapter": ", ".join(map(index.located, [adapter] if isinstance(adapter, str) else adapter)),
        "base": index.located(settings["base"]) if settings["base"] else "",
        "dtype": settings["dtype"],
        "methods": ", ".join(settings["methods"]),
        "features": join_names(f"{name} ({width})" for name, width in index.features.items()),
        "max length": f"{settings['encoding']['max_length']:,} tokens",
        "history": ", ".join(str(event["did"]) for event in index.manifest["history"]),
    }
    for name, value in lines.items():
        if str(value):
            console.print(f"{name + ':':<12}{value}", soft_wrap=True)


@command(index_app, example="taughtby index verify idx --recompute", page=PAGE)
def verify(
    idx: options.IndexName,
    recompute: Annotated[bool, typer.Option("--recompute", help="Compute the features of some rows again and compare: loads the model.")] = False,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="The number of rows to compute again.")] = 64,
    seed: options.Seed = 0,
    model: options.MovedModel = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    device: options.Device = "auto",
) -> None:  # fmt: skip
    """Check an index for damage: files by their hashes, ids by their texts, features by their lengths or the model."""
    check_index(idx)
    from taughtby.errors import StoreError
    from taughtby.index.reader import Index
    from taughtby.index.verify import verify as verify_index
    from taughtby.progress import progress_bar

    loaded = reload(Index.open(idx), model, adapter, base, device, None) if recompute else None
    with progress_bar(errors(), f"verify {idx}") as progress:
        report = verify_index(idx, loaded, rows, seed, progress)
    if report.pending:
        note(f"unfinished: {report.pending}; readers see the index as it was before")
    for fault in report.faults:
        output().print(f"{fault.where}: {fault.what}")
    if report.faults:
        do = "copy the index again from an undamaged copy, or build it again"
        raise StoreError(f"{idx} is damaged", got=f"{len(report.faults)} faults, printed above", do=do)
    again = f", {report.num_recomputed:,} computed again by the model" if recompute else ""
    output().print(f"sound: {report.files:,} files, {report.rows:,} rows{again}")


@command(index_app, example="taughtby index delete idx --rows rows.txt", page=PAGE)
def delete(
    idx: options.IndexName,
    names: Annotated[list[str] | None, typer.Argument(metavar="ROW", help="Ids or file:line sources, as a trace shows them.")] = None,
    rows: Annotated[str | None, typer.Option("--rows", metavar="FILE", help="A file with one id or source per line; - for standard input.")] = None,
    cleaned: Annotated[Path | None, typer.Option(metavar="FILE", help="The rows that `taughtby clean` removed: the manifest.json beside its output.")] = None,
) -> None:  # fmt: skip
    """Delete rows from an index. Appending their file again does not bring them back."""
    check_index(idx)
    check_file(rows, "a file with one id or file:line source per line")
    from taughtby.errors import OptionError
    from taughtby.index.maintenance import delete_rows, removed_row_ids
    from taughtby.text import cli_command

    chosen = [*(names or []), *(read_lines(rows) if rows else []), *(removed_row_ids(cleaned) if cleaned else [])]
    if not chosen:
        raise OptionError("no rows to delete", do="name them, or give --rows FILE or --cleaned FILE")
    count = delete_rows(idx, chosen)
    text = "1 row" if count == 1 else f"{count:,} rows"
    output().print(f"{text} deleted; `{cli_command('index compact', idx)}` frees the disk space")


@command(index_app, example="taughtby index compact idx", page=PAGE)
def compact(
    idx: options.IndexName,
    keep: Annotated[float, typer.Option(min=0, metavar="HOURS", help="Keep versions younger than this for readers that have them open; 0 removes all.")] = 1.0,
) -> None:  # fmt: skip
    """Merge the fragments of an index, and free the space of deleted rows and earlier versions."""
    check_index(idx)
    from datetime import timedelta

    from taughtby.index.maintenance import compact as compact_index

    result = compact_index(idx, timedelta(hours=keep))
    output().print(f"fragments: {result.before:,} before, {result.after:,} now; {result.freed / 1e6:,.1f} MB freed")


@command(index_app, example="taughtby index copy idx s3://bucket/idx", page=PAGE)
def copy(
    idx: options.IndexName,
    to: Annotated[str, typer.Argument(metavar="TO", help="A new folder, or s3://, gs:// or az://.")],
) -> None:
    """Copy an index as it is now, checking every file, while others may write to it."""
    check_index(idx)
    from taughtby.index.maintenance import copy_index

    output().print(f"{len(copy_index(idx, to)):,} rows in {to}")


@command(index_app, example="taughtby index undo idx", page=PAGE)
def undo(idx: options.IndexName) -> None:
    """Revert an unfinished change, such as an append: the index is as it was before."""
    check_index(idx)
    from taughtby.index.maintenance import undo as undo_change

    output().print(f"reverted: {change}" if (change := undo_change(idx)) else "nothing is unfinished")
