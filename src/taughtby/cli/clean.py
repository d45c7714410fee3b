"""The command that writes training data without the flagged rows: clean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli import options
from taughtby.cli.app import IndexedCommand, app, command
from taughtby.cli.arguments import check_arguments, check_file, check_outputs
from taughtby.cli.console import change_read_options, note, output, read_lines

if TYPE_CHECKING:
    from taughtby.remediation.clean import CleaningPlan

SHOWN = 5  # rows that the summary names


@command(
    app,
    example="taughtby clean trace.json data.jsonl -o cleaned.jsonl",
    page="how-to/clean-data",
    panel="Fix",
    cls=IndexedCommand,
)
def clean(
    trace: options.TraceFile,
    data: options.DataName,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write, in DATA's format.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="K", help="The best K rows of each query, instead of the flagged rows.")] = None,
    rows: options.RowsFile = None,
    mask_words: Annotated[bool, typer.Option("--mask-words", help="Keep the rows; remove only the top-scoring words from the loss.")] = False,
    trainer: Annotated[str | None, typer.Option("--for", metavar="TRAINER", help="With --mask-words: write OUT as a trainer reads it: trl, axolotl, llama-factory, labels.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would happen to every row, and write nothing.")] = False,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
) -> None:  # fmt: skip
    """Write the training data without the rows that a trace flagged.

    Every other row stays as it is. The manifest beside OUT lists what was removed, and why.
    """
    check_arguments("clean", TRACE=trace, DATA=data)
    check_file(trace, "the file that `taughtby trace … --json FILE` wrote")
    from taughtby.data.rewrite import check_output
    from taughtby.errors import OptionError
    from taughtby.remediation.clean import NEEDS_MASK_WORDS, manifest_path, plan_cleaning, write_cleaned
    from taughtby.remediation.selection import select_rows
    from taughtby.remediation.trace_file import load_trace, read_options_of

    if out is None and not dry_run:
        raise OptionError("no place to write to", do="give -o FILE, or --dry-run to see what would be removed")
    check_outputs(out, inputs=[trace, rows])
    document = load_trace(trace)
    reading = change_read_options(read_options_of(document), columns, turns, response_template, split)
    chosen = select_rows(document, top_k=top_k, rows=read_lines(rows) if rows else None)
    if trainer and not mask_words:
        raise OptionError("--for requires --mask-words", do=NEEDS_MASK_WORDS)
    write = None
    if trainer:
        from taughtby.remediation.trainer_formats import trainer_writer

        write = trainer_writer(trainer, document, data, out or Path(f"{trainer}.jsonl"), reading)
    elif out:
        check_output(data, out)
    plan = plan_cleaning(document, data, chosen, read_options=reading, mask_words=mask_words)
    _print_plan(document, plan, None if dry_run else SHOWN)
    if out and not dry_run:
        written = write_cleaned(plan, trace, out, write)["output"]
        total = plan.num_records if trainer in (None, "axolotl") else plan.num_examples
        text = f"{written['records']:,} of {total:,} rows in {out} ({written['kept']}); why: {manifest_path(out)}"
        output().print(text, soft_wrap=True)
        for reason, count in written.get("left_out", {}).items():
            note(f"left out, {reason}: {count:,}")


def _print_plan(document: dict[str, Any], plan: CleaningPlan, limit: int | None) -> None:
    """Print how many rows each query selected, and a table of the first `limit` of them (None: all)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from taughtby.reporting.text import format_number
    from taughtby.text import collapse_whitespace, make_visible, plural

    counts = [sum(number in row.queries for row in plan.removals) for number in range(1, len(document["queries"]) + 1)]
    by_query = f" ({', '.join(map(str, counts[:20]))}{', …' * (len(counts) > 20)} by query)" if len(counts) > 1 else ""
    console = output()
    what = ("has" if len(plan.removals) == 1 else "have") + " words to mask" if plan.words else "to remove"
    console.print(Text(f"{plural(len(plan.removals), 'row')} {what}{by_query}"))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("row", "rank", "score", "p", "query", "words to mask" if plan.words else "answer"):
        justify = "right" if name in ("rank", "score", "p", "query") else "left"
        grid.add_column(name, justify=justify, overflow="fold", no_wrap=name == "row")
    # rows of token ids have texts in the trace only
    ranked = [row for query in document["queries"] for row in query["rows"] if row.get("messages")]
    decoded = {row["id"]: row["messages"][-1]["content"] for row in ranked}
    for row in plan.removals[:limit]:
        answer = plan.responses[row.id] or decoded.get(row.id, "")
        parts = " · ".join(answer[begin:end] for begin, end in plan.words.get(row.id, ((0, 80),)))
        numbers = (row.rank or "", format_number(row.score), format_number(row.p_value), row.query or "")
        cells = [row.source.rsplit("/", 1)[-1], *numbers, collapse_whitespace(make_visible(parts))]
        grid.add_row(*(Text(make_visible(cell)) for cell in cells))
    console.print(grid)
    if limit and len(plan.removals) > limit:
        console.print(Text(f"and {len(plan.removals) - limit:,} more", "dim"))
    for name, count in plan.elsewhere.items():
        note(f"{count:,} selected rows are of other data of the index: clean {name} too")
