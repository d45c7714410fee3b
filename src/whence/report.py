"""How a finished trace is shown: a table in the terminal, a JSON file, one page that needs nothing else.

Knows the trace's JSON document and no more: not the model, not the index. Every text in it is taken to be
hostile, since training data is: no character of it may become an escape sequence, markup or script.
"""

from __future__ import annotations

import json
import math
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.errors import WhenceError

Document = Mapping[str, Any]

# Control, bidirectional and invisible characters (page.js has the same): a terminal obeys some of them, and a
# poisoned row may hide its trigger in the others. The joiners that emoji and Persian need are not among them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_OUTSIDE_HTML = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}

# Black on pale amber reads on dark and on light terminals alike; the foreground alone would not.
_SHADES = ((0.75, "black on color(214)"), (0.5, "black on color(222)"), (0.35, "black on color(230)"))
_AGAINST = "black on color(153)"


def page(document: Document) -> str:
    """One self-contained HTML page: no link leaves it, and its policy runs only its own script and style."""
    style, script = _web("page.css"), _web("page.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_web("page.html"))
    return template.render(
        title=_title(document),
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(_json(document).translate(_OUTSIDE_HTML)),
    )


def save_page(document: Document, path: str | Path) -> None:
    """Write the page whole or not at all; a WhenceError says why it could not be written."""
    _write(path, page(document).encode("utf-8"))


def save(document: Document, path: str | Path) -> None:
    """Write the JSON whole or not at all; a WhenceError says why it could not be written."""
    _write(path, (_json(document, indent=1) + "\n").encode("utf-8"))


def table(document: Document, console: Console) -> None:
    """Print each query and its ranked rows; words are shaded by score, the strongest is bold and underlined.

    Where the output is no terminal, nothing but text is printed, and *asterisks* mark the strongest word.
    """
    queries: list[Document] = document.get("queries") or []
    if not queries:
        console.print(Text("The trace has no queries."))
    for number, query in enumerate(queries, 1):
        if len(queries) > 1:
            console.print(Text(f"Query {number} of {len(queries)}", "bold"))
        console.print(_asked(query, console))
        rows: list[Document] = query.get("rows") or []
        console.print(_ranked(rows, console) if rows else Text("No training row was ranked.\n"))
    method, count = document.get("method", "unknown method"), document.get("count", "?")
    console.print(Text(f"{_visible(method)[:500]}, {count} rows in the index", "dim"))


class Token(NamedTuple):
    """A piece of text, its score (None where there is none), and whether it belongs to the strongest word."""

    text: str
    score: float | None
    top: bool = False


def _asked(query: Document, console: Console) -> Table:
    """The prompt, the answer shaded by weight, and what was pointed at or wanted instead."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    answer = _tokens(query.get("answer"), "weight")
    for name, key in (
        ("prompt", "prompt"),
        ("answer", "response"),
        ("pointed at", "span"),
        ("wanted", "desired"),
    ):
        tokens = answer if key == "response" and answer else [Token(query.get(key) or "", None)]
        if any(token.text for token in tokens):
            grid.add_row(name, _painted(_around(tokens, 2000), _ceiling(tokens), console))
    return grid


def _ranked(rows: list[Document], console: Console) -> Table:
    """The rows as a table; a narrow console gets neither labels nor sources."""
    shown = {
        "label": [_visible(row.get("label") or "")[:99] for row in rows],
        # the file's name tells rows apart; the whole path stands in the JSON and on the page
        "source": [_visible(row.get("source") or "").rsplit("/", 1)[-1][:99] for row in rows],
    }
    widest = {name: min(24, max(map(cell_len, texts))) for name, texts in shown.items()}
    needs = {"label": 48, "source": 72}
    kept = [name for name, least in needs.items() if widest[name] and console.width >= least]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("rank", "score"):
        grid.add_column(name, justify="right", no_wrap=True)
    for name in kept:
        grid.add_column(name, max_width=24, overflow="fold")
    grid.add_column("row", overflow="fold")
    # Three cells stand between columns; rank and score take four and nine at most.
    line = max(16, console.width - 22 - sum(max(widest[name], len(name)) + 3 for name in kept))
    ceiling = max(_ceiling(_tokens(row.get("tokens"), "score")) for row in rows)
    for at, row in enumerate(rows):
        cells = [_visible(row.get("rank", "")), _number(row.get("score"))]
        cells += [shown[name][at] for name in kept]
        grid.add_row(*map(Text, cells), _row(row, line, ceiling, console))
    return grid


def _row(row: Document, line: int, ceiling: float, console: Console) -> Text:
    """One line of the question, and about three of the answer, around its strongest word."""
    messages: list[Document] = row.get("messages") or []
    question = " ".join(str(message.get("content") or "")[: 2 * line] for message in messages[:-1])
    asked = Text(_one_line(_visible(question)), "dim")
    asked.truncate(line, overflow="ellipsis")
    tokens = _tokens(row.get("tokens"), "score")
    if not tokens and messages:
        tokens = [Token(str(messages[-1].get("content") or ""), None)]
    tokens = _around(_with_top(tokens), 3 * line)
    flat = [token._replace(text=_one_line(token.text)) for token in tokens]
    return Text("\n").join([asked, _painted(flat, ceiling, console, strong=True)])


def _tokens(raw: Any, key: str) -> list[Token]:
    """The document's tokens; a score that is missing or not a finite number becomes None."""
    return [Token(str(token.get("text") or ""), _finite(token.get(key))) for token in raw or []]


def _ceiling(tokens: Iterable[Token]) -> float:
    return max((abs(token.score) for token in tokens if token.score is not None), default=0.0)


def _with_top(tokens: list[Token]) -> list[Token]:
    """The tokens, those of the strongest word marked: its strongest token and the letters joined to it."""
    scored = [at for at, token in enumerate(tokens) if (token.score or 0) > 0 and token.text.strip()]
    if not scored:
        return tokens
    first = last = max(scored, key=lambda at: tokens[at].score or 0.0)
    while first and _joined(tokens[first - 1].text, tokens[first].text):
        first -= 1
    while last + 1 < len(tokens) and _joined(tokens[last].text, tokens[last + 1].text):
        last += 1
    return [token._replace(top=first <= at <= last) for at, token in enumerate(tokens)]


def _joined(left: str, right: str) -> bool:
    """Whether two tokens are pieces of one word; scripts that write no spaces are not joined."""
    return all(edge.isalnum() and edge < "\u2e80" for edge in (left[-1:], right[:1]))


def _around(tokens: list[Token], limit: int) -> list[Token]:
    """About `limit` characters of the tokens, chosen so that the strongest word is among them."""
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token.text))
    if ends[-1] <= limit:
        return tokens
    top = next((ends[at] for at, token in enumerate(tokens) if token.top), 0)
    start = max(0, min(top - limit // 3, ends[-1] - limit))
    start += max(0, "".join(token.text for token in tokens)[start : start + 20].find(" ")) if start else 0
    kept: list[Token] = [Token("…", None)] if start else []
    for begin, token in zip(ends, tokens, strict=False):
        piece = token.text[max(0, start - begin) : max(0, start + limit - begin)]
        kept += [token._replace(text=piece)] if piece else []
    return [*kept, Token("…", None)] if start + limit < ends[-1] else kept


def _painted(tokens: list[Token], ceiling: float, console: Console, *, strong: bool = False) -> Text:
    """The tokens as one Text: shaded up to `ceiling`; leading space stays unshaded, so words stand apart."""
    text, starred = Text(), strong and not console.is_terminal
    for at, token in enumerate(tokens):
        shown = _visible(token.text)
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


def _visible(text: Any) -> str:
    """The text with each character that acts or hides written out, as in ⟨U+001B⟩."""
    plain = str(text).replace("\r\n", "\n").expandtabs(4)
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", plain)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _number(value: Any) -> str:
    number = _finite(value)
    if number is None:
        return "–"
    return f"{number:.3f}" if number == 0 or 1e-3 <= abs(number) < 1e4 else f"{number:.2e}"


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _title(document: Document) -> str:
    queries: list[Document] = document.get("queries") or []
    prompt = _one_line(_visible(queries[0].get("prompt") or "")) if queries else ""
    return f"{prompt[:60]}{'…' * (len(prompt) > 60)} · whence" if prompt else "whence"


def _json(document: Document, indent: int | None = None) -> str:
    """JSON that any parser reads: what is not a finite number becomes null, a lone surrogate its escape."""
    text = json.dumps(_strict(document), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    return [_strict(inner) for inner in value] if isinstance(value, list | tuple) else value


def _web(name: str) -> str:
    return (Path(__file__).parent / "web" / name).read_text(encoding="utf-8")


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
        raise WhenceError(
            f"{given} cannot be written",
            got=fault.strerror or str(fault),
            do="give a file on a disk with room, where you may write" if folder.is_dir() else f"make {folder} first",
        ) from None
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
