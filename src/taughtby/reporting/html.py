"""How a finished trace is shown: a table in the terminal, a JSON file, one page that needs nothing else.

Knows the trace's JSON document and no more: not the model, not the index. Every text in it is taken to be
hostile, since training data is: no character of it may become an escape sequence, markup or script.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taughtby.errors import TaughtbyError
from taughtby.reporting.text import (
    FLAG_MARK,
    ShownToken,
    finite_or_none,
    format_number,
    highest_weight,
    mark_top_word,
    scored_tokens,
    verdict,
    warnings,
    window_around_top,
)
from taughtby.text import collapse_whitespace, make_visible

Document = Mapping[str, Any]

MODULES = (
    "text",
    "words",
    "view",
    "answer",
    "rows",
    "links",
    "figures",
    "compare",
    "page",
)  # as they import each other

_OUTSIDE_HTML = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}

# Black on pale amber reads on dark and on light terminals alike; the foreground alone would not.
_SHADES = ((0.75, "black on color(214)"), (0.5, "black on color(222)"), (0.35, "black on color(230)"))
_AGAINST = "black on color(153)"


def render_page(document: Document) -> str:
    """One self-contained HTML page: no link leaves it, and its policy runs only its own script and style."""
    style, script = _web("page.css"), _joined()
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return _template().render(
        served=False,
        title=_title(document),
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(to_json_text(with_verdicts(document)).translate(_OUTSIDE_HTML)),
    )


def page_files() -> dict[str, str]:
    """The same page in files, by name, for a server that sends its policy and answers what ask.js asks."""
    files = {name: _web(name) for name in ("page.css", *(f"{name}.js" for name in (*MODULES, "ask")))}
    return {"page.html": _template().render(served=True, title="taughtby"), **files}


def with_verdicts(document: Document) -> dict[str, Any]:
    """The document as the page gets it: each query with its verdict in words."""
    queries: list[Document] = document.get("queries") or []
    return {**document, "queries": [{**query, "verdict": verdict(document, query)} for query in queries]}


def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_web("page.html"))


def _joined() -> str:
    """The page's modules as one script: what they import from each other stands before it, so the imports go."""
    parts = [re.sub(r"^import\b[^;]*;\n|^export ", "", _web(f"{name}.js"), flags=re.M) for name in MODULES]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def save_page(document: Document, path: str | Path) -> None:
    """Write the page whole or not at all; a TaughtbyError says why it could not be written."""
    _write(path, render_page(document).encode("utf-8"))


def save_json(document: Document, path: str | Path) -> None:
    """Write the JSON whole or not at all, a record a line; a TaughtbyError says why it could not be written."""
    _write(path, (_utf8(_lines(_strict(document))) + "\n").encode("utf-8"))


def print_trace(document: Document, console: Console) -> None:
    """Print each query and its ranked rows; words are shaded by score, the strongest is bold and underlined.

    Culprits have a mark before their rank. Where the output is no terminal, nothing but text is printed, and
    *asterisks* mark the strongest word.
    """
    queries: list[Document] = document.get("queries") or []
    if not queries:
        console.print(Text("The trace has no queries."))
    for number, query in enumerate(queries, 1):
        if len(queries) > 1:
            console.print(Text(f"Query {number} of {len(queries)}", "bold"))
        console.print(_asked(query, console))
        rows: list[Document] = query.get("rows") or []
        if told := verdict(document, query):
            console.print(Text(f"{FLAG_MARK} {told}" if any(map(_called, rows)) else told, "bold"))
        console.print(_ranked(rows, console) if rows else Text("No training row was ranked.\n"))
    method, count = document.get("method", "unknown method"), document.get("num_rows", "?")
    console.print(Text(f"{make_visible(method)[:500]}, {count} rows in the index", "dim"))
    for warning in warnings(document):
        console.print(Text(f"Warning: {warning}", "yellow"))


def _asked(query: Document, console: Console) -> Table:
    """The prompt, the answer shaded by weight, and what was pointed at or wanted instead."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    answer = scored_tokens(query.get("answer"), "weight")
    for name, key in (
        ("prompt", "prompt"),
        ("answer", "response"),
        ("pointed at", "span"),
        ("wanted", "desired"),
    ):
        tokens = answer if key == "response" and answer else [ShownToken(query.get(key) or "", None)]
        if any(token.text for token in tokens):
            grid.add_row(name, _painted(window_around_top(tokens, 2000), highest_weight(tokens), console))
    return grid


def _ranked(rows: list[Document], console: Console) -> Table:
    """The rows as a table; a narrow console gets neither labels nor sources, and only a wide one p-values."""
    shown = {
        "p": [format_number(row["p_value"]) if finite_or_none(row.get("p_value")) is not None else "" for row in rows],
        "label": [make_visible(row.get("label") or "")[:99] for row in rows],
        # the file's name tells rows apart; the whole path stands in the JSON and on the page
        "source": [make_visible(row.get("source") or "").rsplit("/", 1)[-1][:99] for row in rows],
    }
    widest = {name: min(24, max(map(cell_len, texts))) for name, texts in shown.items()}
    needs = {"p": 100, "label": 48, "source": 72}
    kept = [name for name, least in needs.items() if widest[name] and console.width >= least]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("rank", "score"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name in kept:
        grid.add_column(name, justify="right" if name == "p" else "left", max_width=24, overflow="fold")
    grid.add_column("row", overflow="fold")
    ranks = [make_visible(row.get("rank", "")) for row in rows]
    if any(map(_called, rows)):
        wide = max(map(len, ranks))
        ranks = [f"{FLAG_MARK if _called(row) else ' '} {rank:>{wide}}" for rank, row in zip(ranks, rows, strict=True)]
    # Three cells stand between columns; rank and score take four and nine at most, or a mark more.
    beside = max(4, *map(len, ranks)) + sum(max(widest[name], len(name)) + 3 for name in kept)
    line = max(16, console.width - 18 - beside)
    ceiling = max(highest_weight(scored_tokens(row.get("tokens"), "score")) for row in rows)
    for at, row in enumerate(rows):
        cells = [ranks[at], format_number(row.get("score"))]
        cells += [shown[name][at] for name in kept]
        grid.add_row(*map(Text, cells), _row(row, line, ceiling, console))
    return grid


def _called(row: Document) -> bool:
    return row.get("flagged") is True


def _row(row: Document, line: int, ceiling: float, console: Console) -> Text:
    """One line of the question, and about three of the answer, around its strongest word."""
    messages: list[Document] = row.get("messages") or []
    question = " ".join(str(message.get("content") or "")[: 2 * line] for message in messages[:-1])
    asked = Text(collapse_whitespace(make_visible(question)), "dim")
    asked.truncate(line, overflow="ellipsis")
    tokens = scored_tokens(row.get("tokens"), "score")
    if not tokens and messages:
        tokens = [ShownToken(str(messages[-1].get("content") or ""), None)]
    tokens = window_around_top(mark_top_word(tokens), 3 * line)
    flat = [token._replace(text=collapse_whitespace(token.text)) for token in tokens]
    return Text("\n").join([asked, _painted(flat, ceiling, console, strong=True)])


def _painted(tokens: list[ShownToken], ceiling: float, console: Console, *, strong: bool = False) -> Text:
    """The tokens as one Text: shaded up to `ceiling`; leading space stays unshaded, so words stand apart."""
    text, starred = Text(), strong and not console.is_terminal
    for at, token in enumerate(tokens):
        shown = make_visible(token.text)
        core = shown.strip()
        before, after = (
            shown[: len(shown) - len(shown.lstrip())],
            shown[len(shown.rstrip()) :] if core else "",
        )
        opens = starred and token.top and not (at and tokens[at - 1].top)
        closes = starred and token.top and not (at + 1 < len(tokens) and tokens[at + 1].top)
        style = _shade(token.score, ceiling) + (" bold underline" if strong and token.top else "")
        text.append(before).append("*" * opens).append(core, style.strip()).append("*" * closes).append(after)
    return text


def _shade(score: float | None, ceiling: float) -> str:
    if score is None or not ceiling:
        return ""
    if score < 0:
        return _AGAINST if -score / ceiling > 0.45 else ""
    return next((style for least, style in _SHADES if score / ceiling >= least), "")


def _title(document: Document) -> str:
    queries: list[Document] = document.get("queries") or []
    prompt = collapse_whitespace(make_visible(queries[0].get("prompt") or "")) if queries else ""
    return f"{prompt[:60]}{'…' * (len(prompt) > 60)} · taughtby" if prompt else "taughtby"


def to_json_text(value: Any) -> str:
    """JSON that any parser reads: what is not a finite number becomes null, a lone surrogate its escape."""
    return _utf8(_line(_strict(value)))


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(value: Any, begin: str = "\n") -> str:
    """A record on one line, with the plain lists and records in it: short enough to keep, and to see what changed."""
    if _depth(value) <= 2:
        return _line(value)
    inner = begin + " "
    if isinstance(value, dict):
        parts, ends = [f"{_line(key)}: {_lines(part, inner)}" for key, part in value.items()], "{}"
    else:
        parts, ends = [_lines(part, inner) for part in value], "[]"
    return ends[0] + inner + f",{inner}".join(parts) + begin + ends[1]


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list | tuple) else value


def _web(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def _digest(block: str) -> str:
    """The block as the policy names it: browsers hash what stands between the tags, to the byte."""
    return "sha256-" + b64encode(sha256(block.encode("utf-8")).digest()).decode("ascii")


def _write(path: str | Path, content: bytes) -> None:
    """Put the content at `path` in one step, by way of a file beside it; a pipe is written straight."""
    given = Path(path)
    part: Path | None = None
    try:
        if given.exists() and not given.is_file():
            given.write_bytes(content)
            return
        target = given.resolve()  # a link stays a link, and what it names is replaced
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(target)
    except OSError as fault:
        folder = given.parent
        raise TaughtbyError(
            f"{given} cannot be written",
            got=fault.strerror or str(fault),
            do="give a file on a disk with room, where you may write" if folder.is_dir() else f"make {folder} first",
        ) from None
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
