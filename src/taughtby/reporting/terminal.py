"""A finished trace in the terminal.

Reads the trace's JSON document only. Every text in it is treated as hostile: no character of it may act as an escape
sequence or as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.reporting.incidents import Incident, find_incidents, incident_rows
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
ANSWERS = 3  # of an incident that are printed above its rows
UNFLAGGED = 5  # answers without flagged rows that are printed


def print_trace(document: Document, console: Console, *, per_answer: bool = False) -> None:
    """Print each query and its ranked rows, with tokens shaded by score and the top-scoring word bold and underlined.

    Several queries begin with a summary, and each incident has one table. Flagged rows have a mark before their rank.
    Without a terminal, the output is plain text, and the top-scoring word is between *asterisks*.

    Args:
        document: The trace's document.
        console: Where to print.
        per_answer: Print a table for every query, not one for every incident.
    """
    queries: list[Document] = document.get("queries") or []
    if not queries:
        console.print(Text("The trace has no queries."))
    if len(queries) > 1:
        incidents = find_incidents(queries)
        console.print(_summary(document, queries, incidents))
        if not per_answer:
            for number, incident in enumerate(incidents, 1):
                single = f": query {incident.queries[0]}" if len(incident.queries) == 1 else ""
                console.print(Text(f"Incident {number} of {len(incidents)}{single}", "bold"))
                _print_incident(document, queries, incident, console)
            members = {number for incident in incidents for number in incident.queries}
            _print_unflagged(document, [each for each in enumerate(queries, 1) if each[0] not in members], console)
    if len(queries) == 1 or per_answer:
        for number, query in enumerate(queries, 1):
            if len(queries) > 1:
                console.print(Text(f"Query {number} of {len(queries)}", "bold"))
            _print_query(document, query, console)
    method, count = format_method(document) or "unknown method", document.get("num_rows", "?")
    size = plural(count, "row") if isinstance(count, int) else f"{make_visible(count)} rows"
    # spaces between the options, so that lines break there and not inside a word
    console.print(Text(f"{make_visible(method)[:500].replace(',', ', ')}; {size} in the index", "dim"))
    for warning in warnings(document):
        console.print(Text(f"Warning: {warning}", "yellow"))


def _summary(document: Document, queries: list[Document], incidents: list[Incident]) -> Text:
    """Of several answers: how many rows are flagged in all, and a line for each incident with its common words."""
    count = document.get("num_rows", "?")
    ranked = sum(query.get("num_flagged") is None for query in queries)
    without = len(queries) - ranked - sum(len(incident.queries) for incident in incidents)
    num_flagged = len({row for incident in incidents for row in incident.flagged_ids})
    parts: list[str] = []
    if incidents:
        parts.append(f"{num_flagged:,} of {count} rows are flagged for {plural(len(incidents), 'incident')}")
    if without:
        parts.append(f"{plural(without, 'answer')} {'has' if without == 1 else 'have'} no flagged row")
    if ranked:
        what = "ranked" if ranked == len(queries) else f"{plural(ranked, 'answer')} ranked"
        parts.append(f"{what} without p-values, so no row can be flagged")
    text = Text(f"{plural(len(queries), 'answer')}: {'; '.join(parts)}", "bold")
    for number, incident in enumerate(incidents, 1):
        size = f"{plural(len(incident.queries), 'answer')}, {plural(len(incident.flagged_ids), 'row')}"
        words = f"; common words: {incident.words}" if incident.words else ""
        text.append(f"\n{FLAG_MARK} Incident {number}: {size}{words}", "not bold")
    return text.append("\n")


def _print_incident(document: Document, queries: list[Document], incident: Incident, console: Console) -> None:
    """An incident's first answers, and the rows of all of them in one table."""
    members = [(number, queries[number - 1]) for number in incident.queries]
    if len(members) == 1:
        _print_query(document, members[0][1], console)
        return
    for number, query in members[:ANSWERS]:
        console.print(_answer_lines(number, query, console))
    if more := len(members) - ANSWERS:
        console.print(Text(f"and {plural(more, 'more answer')}", "dim"))
    rows = incident_rows(queries, incident)
    pooled = {"rows": rows, "num_flagged": len(incident.flagged_ids)}
    console.print(Text(f"{FLAG_MARK} {verdict(document, pooled)}", "bold"))
    console.print(_row_table(rows, console, len(members)))


def _print_query(document: Document, query: Document, console: Console) -> None:
    console.print(_query_grid(query, console))
    rows: list[Document] = query.get("rows") or []
    if sentence := verdict(document, query):
        console.print(Text(f"{FLAG_MARK} {sentence}" if any(map(is_flagged, rows)) else sentence, "bold"))
    console.print(_row_table(rows, console) if rows else Text("No training row was ranked.\n"))


def _print_unflagged(document: Document, queries: list[tuple[int, Document]], console: Console) -> None:
    """The first answers without flagged rows, each with what is known of its causes and its first row."""
    for number, query in queries[:UNFLAGGED]:
        console.print(_answer_lines(number, query, console))
        if sentence := verdict(document, query):
            console.print(Text(sentence, "bold"))
        rows: list[Document] = query.get("rows") or []
        console.print(_row_table(rows[:1], console) if rows else Text("No training row was ranked.\n"))
    if more := len(queries[UNFLAGGED:]):
        console.print(Text(f"and {plural(more, 'more answer')} without flagged rows (--per-answer prints all)\n"))


def _answer_lines(number: int, query: Document, console: Console) -> Text:
    """The prompt and the answer of a query, on one line each."""
    title = f"Query {number}: "
    prompt, answer = (collapse_whitespace(make_visible(query.get(key) or "")[:1000]) for key in ("prompt", "response"))
    lines = [Text.assemble((title, "dim"), prompt), Text(" " * len(title) + answer)]
    for line in lines:
        line.truncate(console.width, overflow="ellipsis")
    return Text("\n").join(lines)


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


def _row_table(rows: Sequence[Document], console: Console, num_queries: int = 1) -> Table:
    """The ranked rows; p-values, labels and sources only where the console is wide enough."""
    columns = {
        "p": [format_number(row["p_value"]) if finite_or_none(row.get("p_value")) is not None else "" for row in rows],
        "answers": [f"{row['num_queries']}/{num_queries}" if "num_queries" in row else "" for row in rows],
        "label": [make_visible(row.get("label") or "")[:99] for row in rows],
        # the file name tells rows apart; the JSON and the page have the whole path
        "source": [make_visible(row.get("source") or "").rsplit("/", 1)[-1][:99] for row in rows],
    }
    minimum = {"p": 100, "answers": 90, "label": 48, "source": 72}  # width of the console
    shown = {name: cells for name, cells in columns.items() if any(cells) and console.width >= minimum[name]}
    shown = {"rank": _ranks(rows), "score": [format_number(row.get("score")) for row in rows], **shown}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    width = console.width - 2  # at the ends
    for name, cells in shown.items():
        widest = max(map(cell_len, [name, *cells]))
        limit = 24 if name in ("label", "source") else widest
        table.add_column(name, justify="left" if name in ("label", "source") else "right", max_width=limit,
                         overflow="fold", no_wrap=name in ("rank", "score"))  # fmt: skip
        width -= min(limit, widest) + 3  # with the space and the line between columns
    table.add_column("row", overflow="fold")
    ceiling = max(highest_weight(scored_tokens(row.get("tokens"), "score")) for row in rows)
    for number, row in enumerate(rows):
        cells = [cells[number] for cells in shown.values()]
        table.add_row(*map(Text, cells), _row_text(row, max(16, width), ceiling, console))
    return table


def _ranks(rows: Sequence[Document]) -> list[str]:
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
