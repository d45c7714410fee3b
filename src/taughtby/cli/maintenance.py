"""The verbs that keep an index: delete, compact, copy, verify, undo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taughtby.cli import options
from taughtby.cli.options import Adapter, Base, Device, app, errors, output, reload

Idx = Annotated[
    str, typer.Argument(metavar="IDX", help="What `taughtby index` made: a folder, or s3://, gs:// or az://.")
]


@app.command()
def verify(
    idx: Idx,
    recompute: Annotated[bool, typer.Option("--recompute", help="Make the blocks of some rows again and compare: loads the model.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="How many rows are made again.")] = 64,
    seed: options.Seed = 0,
    model: Annotated[str | None, typer.Option(help="The model, where it has moved since the index was made.")] = None,
    adapter: Adapter = None,
    base: Base = None,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Look for damage: files by their hashes, ids by their rows' texts, blocks by their lengths, or by the model."""
    from taughtby.errors import StoreError
    from taughtby.index.reader import Index
    from taughtby.index.verify import verify as verified
    from taughtby.progress import progress_bar

    loaded = reload(Index.open(idx), model, adapter, base, device, None) if recompute else None
    with progress_bar(errors(), f"verify {idx}") as tell:
        found = verified(idx, loaded, rows, seed, tell)
    if found.pending:
        options.note(f"begun and not finished: {found.pending}; readers see the index as it was before")
    for fault in found.faults:
        output().print(f"{fault.where}: {fault.what}")
    if found.faults:
        do = "copy the index again from where it is sound, or make it again"
        raise StoreError(f"{idx} is damaged", got=f"{len(found.faults)} of what is told above", do=do)
    again = f", {found.num_recomputed:,} made again by the model" if recompute else ""
    output().print(f"sound: {found.files:,} files, {found.rows:,} rows{again}")


@app.command()
def delete(
    idx: Idx,
    rows: Annotated[list[str] | None, typer.Argument(metavar="ROW…", help="Ids or sources (file:line), as a trace shows them.")] = None,
    listed: Annotated[str | None, typer.Option("--rows", metavar="FILE", help="A file of them, one a line; - for standard input.")] = None,
    cleaned: Annotated[Path | None, typer.Option(metavar="FILE", help="What `taughtby clean` took out: the manifest.json beside its output.")] = None,
) -> None:  # fmt: skip
    """Take rows out of an index. Appending their file again does not bring them back."""
    from taughtby.errors import OptionError
    from taughtby.index import maintenance as upkeep
    from taughtby.text import cli_command

    chosen = [*(rows or []), *(options.ticked(listed) if listed else []), *(upkeep.removed_row_ids(cleaned) if cleaned else [])]
    if not chosen:
        raise OptionError("no rows to delete", do="name them, or give --rows FILE or --cleaned FILE")
    gone = upkeep.delete_rows(idx, chosen)
    what = "1 row" if gone == 1 else f"{gone:,} rows"
    output().print(f"{what} deleted; `{cli_command('compact', idx)}` frees the room")


@app.command()
def compact(
    idx: Idx,
    keep: Annotated[float, typer.Option(min=0, metavar="HOURS", help="Leave what was so young to those who have it open; 0 removes all.")] = 1.0,
) -> None:  # fmt: skip
    """Merge the parts of an index, and free the room of deleted rows and earlier versions."""
    from datetime import timedelta

    from taughtby.index.maintenance import compact as compacted

    done = compacted(idx, timedelta(hours=keep))
    output().print(f"parts: {done.before:,} before, {done.after:,} now; {done.freed / 1e6:,.1f} MB freed")


@app.command()
def copy(
    idx: Idx, to: Annotated[str, typer.Argument(metavar="TO", help="A new folder, or s3://, gs:// or az://.")]
) -> None:
    """Copy an index as it is now, whole, while others may go on writing to it."""
    from taughtby.index.maintenance import copy_index

    output().print(f"{len(copy_index(idx, to)):,} rows in {to}")


@app.command()
def undo(idx: Idx) -> None:
    """Give up what was begun and never finished, such as an append: the index is as it was before."""
    from taughtby.index.maintenance import undo as undone

    output().print(f"given up: {what}" if (what := undone(idx)) else "nothing was left unfinished")
