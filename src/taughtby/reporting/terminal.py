"""A finished trace in the terminal.

Reads the trace's JSON document only. Every text in it is treated as hostile: no character of it may act as an escape
sequence or as markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.reporting.incidents import find_incidents
from taughtby.reporting.text import (
    FLAG_MARK,
    ShownToken,
    finite_or_none,
    format_method,
    format_number,
    highest_weight,
    is_flagged,
    mark_top_word,
    scored_tokens,
    verdict,
    warnings,
    window_around_top,
)
from taughtby.text import collapse_whitespace, make_visible, plural

Document = Mapping[str, Any]

# Black on pale amber is readable on dark and on light terminals; a foreground colour alone is not.
_SHADES = ((0.75, "black on color(214)"), (0.5, "black on color(222)"), (0.35, "black on color(230)"))
_NEGATIVE = "black on color(153)"


def print_trace(document: Document, console: Console) -> None:
    """Print each query and its ranked rows, with tokens shaded by score and the top-scoring word bold and underlined.

    Flagged rows have a mark before their rank. Without a terminal, the output is plain text, and the top-scoring word
    is between *asterisks*.
    """
    queries: list[Document] = document.get("queries") or []
    if not queries:
        console.print(Text("The trace has no queries."))
    if len(queries) > 1:
        console.print(_summary(document, queries))
    for number, query in enumerate(queries, 1):
        if len(queries) > 1:
            console.print(Text(f"Query {number} of {len(queries)}", "bold"))
        console.print(_query_grid(query, console))
        rows: list[Document] = query.get("rows") or []
        if sentence := verdict(document, query):
            console.print(Text(f"{FLAG_MARK} {sentence}" if any(map(is_flagged, rows)) else sentence, "bold"))
        console.print(_row_table(rows, console) if rows else Text("No training row was ranked.\n"))
    method, count = format_method(document) or "unknown method", document.get("num_rows", "?")
    size = plural(count, "row") if isinstance(count, int) else f"{make_visible(count)} rows"
    # blanks between the options, so that no word is broken at the end of a line
    console.print(Text(f"{make_visible(method)[:500].replace(',', ', ')}; {size} in the index", "dim"))
    for warning in warnings(document):
        console.print(Text(f"Warning: {warning}", "yellow"))


def _summary(document: Document, queries: list[Document]) -> Text:
    """Of several answers: how many rows are flagged in all, and a line for each incident with its common words."""
    incidents, count = find_incidents(queries), document.get("num_rows", "?")
    without = len(queries) - sum(len(incident.queries) for incident in incidents)
    num_flagged = len({row for incident in incidents for row in incident.flagged_ids})
    parts: list[str] = []
    if incidents:
        parts.append(f"{num_flagged:,} of {count} rows are flagged for {plural(len(incidents), 'incident')}")
    if without:
        parts.append(f"{plural(without, 'answer')} {'has' if without == 1 else 'have'} no flagged row")
    text = Text(f"{plural(len(queries), 'answer')}: {'; '.join(parts)}", "bold")
    for incident in incidents:
        name = incident.words or f"like query {incident.queries[0]}"
        size = f"{plural(len(incident.queries), 'answer')}, {plural(len(incident.flagged_ids), 'row')}"
        text.append(f"\n{FLAG_MARK} {name}: {size}", "not bold")
    return text.append("\n")


def _query_grid(query: Document, console: Console) -> Table:
    """The prompt, the answer shaded by weight, the span and the desired answer."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    answer = scored_tokens(query.get("answer"), "weight")
    for name, key in (("prompt", "prompt"), ("answer", "response"), ("span", "span"), ("desired", "desired")):
        tokens = answer if key == "response" and answer else [ShownToken(query.get(key) or "", None)]
        if any(token.text for token in tokens):
            grid.add_row(name, _shaded(window_around_top(tokens, 2000), highest_weight(tokens), console))
    return grid


def _row_table(rows: list[Document], console: Console) -> Table:
    """The ranked rows; p-values, labels and sources only where the console is wide enough."""
    columns = {
        "p": [format_number(row["p_value"]) if finite_or_none(row.get("p_value")) is not None else "" for row in rows],
        "label": [make_visible(row.get("label") or "")[:99] for row in rows],
        # the file name tells rows apart; the JSON and the page have the whole path
        "source": [make_visible(row.get("source") or "").rsplit("/", 1)[-1][:99] for row in rows],
    }
    widths = {name: min(24, max(map(cell_len, texts))) for name, texts in columns.items()}
    minimum = {"p": 100, "label": 48, "source": 72}  # width of the console
    shown = [name for name, width in minimum.items() if widths[name] and console.width >= width]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("rank", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right" if name == "p" else "left", max_width=24, overflow="fold")
    table.add_column("row", overflow="fold")
    ranks = _ranks(rows)
    # three cells are between columns; rank and score take at most four and nine cells, and a mark more
    fixed = max(4, *map(len, ranks)) + sum(max(widths[name], len(name)) + 3 for name in shown)
    width = max(16, console.width - 18 - fixed)
    ceiling = max(highest_weight(scored_tokens(row.get("tokens"), "score")) for row in rows)
    for number, row in enumerate(rows):
        cells = [ranks[number], format_number(row.get("score")), *(columns[name][number] for name in shown)]
        table.add_row(*map(Text, cells), _row_text(row, width, ceiling, console))
    return table


def _ranks(rows: list[Document]) -> list[str]:
    ranks = [make_visible(row.get("rank", "")) for row in rows]
    if not any(map(is_flagged, rows)):
        return ranks
    width = max(map(len, ranks))
    return [f"{FLAG_MARK if is_flagged(row) else ' '} {rank:>{width}}" for rank, row in zip(ranks, rows, strict=True)]


def _row_text(row: Document, width: int, ceiling: float, console: Console) -> Text:
    """One line of the prompt, and about three lines of the response around its top-scoring word."""
    messages: list[Document] = row.get("messages") or []
    prompt = " ".join(str(message.get("content") or "")[: 2 * width] for message in messages[:-1])
    line = Text(collapse_whitespace(make_visible(prompt)), "dim")
    line.truncate(width, overflow="ellipsis")
    tokens = scored_tokens(row.get("tokens"), "score")
    if not tokens and messages:
        tokens = [ShownToken(str(messages[-1].get("content") or ""), None)]
    tokens = window_around_top(mark_top_word(tokens), 3 * width)
    flat = [token._replace(text=collapse_whitespace(token.text)) for token in tokens]
    return Text("\n").join([line, _shaded(flat, ceiling, console, mark_top=True)])


def _shaded(tokens: list[ShownToken], ceiling: float, console: Console, *, mark_top: bool = False) -> Text:
    """The tokens, shaded by score up to `ceiling`, except for the space around them."""
    text, starred = Text(), mark_top and not console.is_terminal
    for number, token in enumerate(tokens):
        shown = make_visible(token.text)
        core = shown.strip()
        before, after = (
            shown[: len(shown) - len(shown.lstrip())],
            shown[len(shown.rstrip()) :] if core else "",
        )
        opens = starred and token.top and not (number and tokens[number - 1].top)
        closes = starred and token.top and not (number + 1 < len(tokens) and tokens[number + 1].top)
        style = _shade(token.score, ceiling) + (" bold underline" if mark_top and token.top else "")
        text.append(before).append("*" * opens).append(core, style.strip()).append("*" * closes).append(after)
    return text


def _shade(score: float | None, ceiling: float) -> str:
    if score is None or not ceiling:
        return ""
    if score < 0:
        return _NEGATIVE if -score / ceiling > 0.45 else ""
    return next((style for share, style in _SHADES if score / ceiling >= share), "")
