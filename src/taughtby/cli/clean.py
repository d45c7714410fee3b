"""The verb that cleans a training set of what a trace found: clean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli import options
from taughtby.cli.options import DataName, app, output

if TYPE_CHECKING:
    from taughtby.remediation.clean import CleaningPlan

SHOWN = 5  # rows that the summary names


@app.command()
def clean(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What `taughtby trace … --json FILE` wrote.")],
    data: DataName,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write, in DATA's format.")] = None,
    top: Annotated[int | None, typer.Option(help="The best K rows of each query, instead of the culprits.")] = None,
    rows: Annotated[str | None, typer.Option(metavar="FILE", help="Just these rows: ids or file:line sources, one a line; - for standard input.")] = None,
    mask_words: Annotated[bool, typer.Option("--mask-words", help="Keep the rows; take the loss off their guilty words only.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, to every row, and write nothing.")] = False,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
) -> None:  # fmt: skip
    """Write the training data without the rows that a trace called culprits.

    Every other row stays as it was. Beside OUT, a manifest.json says what went, and why.
    """
    from taughtby.data.rewrite import check_output, describe_preservation
    from taughtby.errors import OptionError
    from taughtby.remediation.clean import manifest_path, plan_cleaning, write_cleaned
    from taughtby.remediation.selection import select_rows
    from taughtby.remediation.trace_file import load_trace, read_options_of

    if out is None and not dry_run:
        raise OptionError("there is nowhere to write", do="give -o FILE, or --dry-run to see what would go")
    document = load_trace(trace)
    reading = options.reread(read_options_of(document), columns, turns, response_template, split)
    chosen = select_rows(document, top_k=top, rows=options.ticked(rows) if rows else None)
    if out:
        check_output(data, out)
    made = plan_cleaning(document, data, chosen, read_options=reading, mask_words=mask_words)
    _tell(document, made, None if dry_run else SHOWN)
    if out and not dry_run:
        remedy.clean(made, trace, out)
        text = f"{made.left:,} of {made.records:,} rows in {out} ({describe_preservation(data)}); why: {remedy.manifest_of(out)}"
        output().print(text, soft_wrap=True)


def _tell(document: dict[str, Any], made: CleaningPlan, limit: int | None) -> None:
    """How many rows each query gave, and the first of them: which they are, why, and what of them goes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from taughtby.reporting.text import format_number
    from taughtby.text import collapse_whitespace, make_visible

    gave = [sum(number in one.queries for one in made.removals) for number in range(1, len(document["queries"]) + 1)]
    union = (
        f" ({', '.join(map(str, gave[:20]))}{', …' * (len(gave) > 20)} by the queries in turn)" if len(gave) > 1 else ""
    )
    what = "rows have words that go" if made.words else "rows go"
    console = output()
    console.print(Text(f"{len(made.removals):,} {what}{union}"))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("row", "rank", "score", "p", "query", "words that go" if made.words else "answer"):
        grid.add_column(name, justify="right" if name in ("rank", "score", "p", "query") else "left", overflow="fold")
    for one in made.removals[:limit]:
        answer = made.responses[one.id]
        parts = [answer[begin:end] for begin, end in made.words.get(one.id, ((0, 80),))]
        cells = [
            one.source.rsplit("/", 1)[-1],
            one.rank or "",
            format_number(one.score),
            format_number(one.p_value),
            one.query or "",
        ]
        grid.add_row(
            *(Text(make_visible(cell)) for cell in cells), Text(collapse_whitespace(make_visible(" · ".join(parts))))
        )
    console.print(grid)
    if limit and len(made.removals) > limit:
        console.print(Text(f"and {len(made.removals) - limit:,} more", "dim"))
