"""Dataset statistics in the terminal: one row as tokens, with its loss mask, and the counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.data.statistics import QUANTILES, DatasetStatistics, RowPreview
from taughtby.text import collapse_whitespace, make_visible

SHOWN = 300  # tokens of a long prompt, and of a long answer, that are printed


def print_statistics(found: DatasetStatistics, console: Console) -> None:
    """Print the previewed row, with its tokens with loss in ⟦ ⟧, and the counts."""
    if found.preview:
        console.print(_row(found.preview), "")
    console.print(_lengths(found), "")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, said in _facts(found):
        facts.add_row(name, Text(make_visible(said)))
    console.print(facts)


def _facts(found: DatasetStatistics) -> Iterator[tuple[str, str]]:
    n, how = found.rows, found.encoding
    what = "the prompts too" if how.mask == "all" else "the answers"
    yield "read as", f"{found.format_name or 'given'}; chat template: {found.template}; learned: {what}"
    parts = [f"{found.usable:,} of {_count(n, 'row')} can be used"]
    if found.truncated:
        side = "end" if how.truncate == "right" else "beginning"
        parts.append(f"{found.truncated:,} of them cut to {how.max_length:,} tokens at the {side}")
    yield "rows", "; ".join(parts)
    for skipped in sorted(found.skipped.values(), key=lambda one: -one.count)[:12]:
        yield "skipped", f"{skipped.count:,}: {collapse_whitespace(skipped.reason)[:300]}\n{', '.join(skipped.sources)}"
    duration = _duration(found.tokens / 1000)
    yield "tokens", f"{found.tokens:,} to read ({duration} at 1,000 a second), {found.loss_tokens:,} of them learned"
    yield "repeated", "; ".join(_repeated(found.duplicates())) or "nothing"
    if found.labels:
        yield (
            "labels",
            ", ".join(f"{collapse_whitespace(label)[:60]} {count:,}" for label, count in found.labels.most_common(12)),
        )
    yield "run", f"{n / max(found.seconds, 1e-9):,.0f} rows a second, {_peak()} of memory at its peak"


def _repeated(counts: dict[str, int]) -> Iterator[str]:
    if counts["rows"]:
        yield f"{_count(counts['rows'], 'row')} said before"
    if counts["prompts"]:
        yield f"{_count(counts['prompts'], 'row')} with a prompt that others answer otherwise"
    if counts["answers"]:
        yield f"{_count(counts['answers'], 'row')} with an answer that other prompts have too"
        yield f"the commonest answer {counts['most']:,} times"


def _peak() -> str:
    """Peak memory of this process."""
    try:
        import resource
    except ImportError:  # Windows
        return "an unknown amount"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:,.1f} h" if hours >= 2 else f"{minutes:,.0f} min" if minutes >= 2 else f"{seconds:,.0f} s"


def _lengths(found: DatasetStatistics) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    grid.add_column("tokens of a row", style="dim")
    for name in QUANTILES:
        grid.add_column(name, justify="right")
    for name, values in found.quantiles().items():
        grid.add_row(name, *(f"{value:,}" for value in values.values()))
    return grid


def _row(shown: RowPreview) -> Table:
    """The tokens of a row with bars between; tokens with loss are in ⟦ ⟧, and the answer is green and underlined."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    label = f", label {collapse_whitespace(shown.label)[:60]}" if shown.label is not None else ""
    grid.add_row("row", Text(make_visible(shown.source + label)))
    if shown.reason:
        grid.add_row("skipped", Text(make_visible(shown.reason), "yellow"))
        return grid
    start, end = shown.loss_start, shown.n_prompt
    for name, begin, stop, style in (
        ("prompt", 0, min(start, end), ""),
        (
            "learned",
            start,
            end,
            "green",
        ),  # prompts that were learned too, or what the template writes before any answer
        ("answer", end, len(shown.token_texts), "green underline"),
    ):
        if begin < stop:
            said = _bars(shown.token_texts[begin:stop], tail=name == "prompt")
            grid.add_row(name, Text(said) if name == "prompt" else Text.assemble("⟦", (said, style), "⟧"))
    if (lost := shown.full_length - len(shown.token_texts)) > 0:
        grid.add_row("cut", _count(lost, "token"))
    return grid


def _bars(pieces: Sequence[str], *, tail: bool) -> str:
    """Tokens with bars between and line breaks drawn; of many, the last ones (`tail`) or the first."""
    kept = pieces[-SHOWN:] if tail else pieces[:SHOWN]
    said = "│".join(make_visible(piece).replace("\n", "⏎") for piece in kept).replace("⏎│", "⏎│\n")
    left = len(pieces) - len(kept)
    more = f"({left:,} more)"
    return said if not left else f"{more} … {said}" if tail else f"{said} … {more}"
