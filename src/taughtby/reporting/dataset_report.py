"""Dataset statistics in the terminal: one row as tokens, with its loss mask, and the counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.data.statistics import QUANTILES, DatasetStatistics, RowPreview
from taughtby.text import collapse_whitespace, make_visible, plural

SHOWN = 300  # tokens of a long prompt or answer that are printed, unless the row was requested


def print_statistics(statistics: DatasetStatistics, console: Console) -> None:
    """Print the previewed row, with its tokens with loss in ⟦ ⟧, and the counts."""
    if statistics.preview:
        console.print(_row(statistics.preview), "")
    console.print(_lengths(statistics), "")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, fact in _facts(statistics):
        facts.add_row(name, Text(make_visible(fact)))
    console.print(facts)


def _facts(statistics: DatasetStatistics) -> Iterator[tuple[str, str]]:
    n, encoding = statistics.rows, statistics.encoding
    kinds = {"all": "the prompts and the answers", "content": "the words of the answers and the EOS"}
    what = kinds.get(encoding.mask, "the answers")
    yield "read as", f"{statistics.format_name or 'given'}; chat template: {statistics.template}; loss on {what}"
    parts = [f"{statistics.usable:,} of {plural(n, 'row')} can be used"]
    if statistics.truncated:
        side = "end" if encoding.truncate == "right" else "beginning"
        parts.append(f"{statistics.truncated:,} of them cut to {encoding.max_length:,} tokens at the {side}")
    yield "rows", "; ".join(parts)
    for skipped in sorted(statistics.skipped.values(), key=lambda one: -one.count)[:12]:
        yield "skipped", f"{skipped.count:,}: {collapse_whitespace(skipped.reason)[:300]}\n{', '.join(skipped.sources)}"
    lost = statistics.unfollowed()
    followed = {mark.name: count for mark, count in statistics.marks.items() if mark.name not in lost}
    for name, counts in (("followed", followed), ("not followed", lost)):
        if counts:
            yield name, "; ".join(f"{collapse_whitespace(mark)[:60]}: {plural(count, 'row')}" for mark, count in
                                  sorted(counts.items(), key=lambda one: -one[1])[:12])  # fmt: skip
    duration = _duration(statistics.tokens / 1000)
    yield (
        "tokens",
        f"{statistics.tokens:,} to read ({duration} at 1,000 a second), {statistics.loss_tokens:,} of them with loss",
    )
    yield "repeated", "; ".join(_repeated(statistics.duplicates())) or "nothing"
    if statistics.labels:
        yield (
            "labels",
            ", ".join(
                f"{collapse_whitespace(label)[:60]} {count:,}" for label, count in statistics.labels.most_common(12)
            ),
        )
    yield "run", f"{n / max(statistics.seconds, 1e-9):,.0f} rows a second, peak memory {_peak()}"


def _repeated(counts: dict[str, int]) -> Iterator[str]:
    if counts["rows"]:
        yield f"{plural(counts['rows'], 'row')} identical to an earlier one"
    if counts["prompts"]:
        yield f"{plural(counts['prompts'], 'row')} with a prompt that has several answers"
    if counts["answers"]:
        yield f"{plural(counts['answers'], 'row')} with an answer to several prompts"
        yield f"the most common answer {counts['most']:,} times"


def _peak() -> str:
    """Peak memory of this process."""
    try:
        import resource
    except ImportError:  # Windows
        return "unknown"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:,.1f} h" if hours >= 2 else f"{minutes:,.0f} min" if minutes >= 2 else f"{seconds:,.0f} s"


def _lengths(statistics: DatasetStatistics) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    grid.add_column("tokens of a row", style="dim")
    for name in QUANTILES:
        grid.add_column(name, justify="right")
    for name, values in statistics.quantiles().items():
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
    end = shown.n_prompt
    start = next((place for place, has_loss in enumerate(shown.loss_mask) if has_loss), len(shown.loss_mask))
    for name, begin, stop in (
        ("prompt", 0, min(start, end)),
        ("learned", start, end),  # prompts that were learned too, or what the template writes before any answer
        ("answer", end, len(shown.token_texts)),
    ):
        if begin < stop:
            grid.add_row(name, _runs(shown, begin, stop, "green underline" if name == "answer" else "green"))
    if (lost := shown.full_length - len(shown.token_texts)) > 0:
        grid.add_row("cut", plural(lost, "token"))
    return grid


def _runs(shown: RowPreview, begin: int, stop: int, style: str) -> Text:
    """Part of a row, each run of tokens with loss in ⟦ ⟧."""
    text, mask = Text(), shown.loss_mask
    limit = len(mask) if shown.whole else SHOWN
    edges = [begin, *(place for place in range(begin + 1, stop) if mask[place] != mask[place - 1]), stop]
    for left, right in pairwise(edges):
        bars = _bars(shown.token_texts[left:right], tail=begin == 0 and not mask[left], limit=limit)
        if mask[left]:
            text.append("⟦").append(bars, style).append("⟧")
        else:
            text.append(bars if begin == 0 else f" {bars} ", "" if begin == 0 else "dim")
    return text


def _bars(pieces: Sequence[str], *, tail: bool, limit: int) -> str:
    """Tokens with bars between and line breaks drawn; of many, the last ones (`tail`) or the first."""
    shown = pieces[-limit:] if tail else pieces[:limit]
    line = "│".join(make_visible(piece).replace("\n", "⏎") for piece in shown).replace("⏎│", "⏎│\n")
    left = len(pieces) - len(shown)
    more = f"({left:,} more)"
    return line if not left else f"{more} … {line}" if tail else f"{line} … {more}"
