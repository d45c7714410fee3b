"""A finished trace as one self-contained HTML page.

Reads the trace's JSON document only. Every text in it is treated as hostile: no character of it may act as markup or
script.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from taughtby.data.files import write_atomically
from taughtby.reporting.files import save_json, to_json_text
from taughtby.reporting.terminal import print_trace
from taughtby.reporting.text import verdict
from taughtby.text import collapse_whitespace, make_visible

__all__ = [
    "page_files",
    "print_trace",
    "render_page",
    "save_json",
    "save_page",
    "to_json_text",
    "with_verdicts",
]

Document = Mapping[str, Any]

MODULES = (
    "text",
    "words",
    "view",
    "answer",
    "rows",
    "links",
    "charts",
    "figures",
    "points",
    "map",
    "compare",
    "about",
    "answers",
    "tabs",
    "commands",
    "page",
)  # in the order of their imports
STYLES = ("page.css", "work.css", "map.css")
SERVED_MODULES = ("requests", "jobs", "cleaning", "retraining", "verdicts", "browser", "ask")

_OUTSIDE_HTML = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


def render_page(document: Document) -> str:
    """Return one self-contained HTML page: it has no links, and its policy allows only its own script and style."""
    style, script = "".join(map(asset, STYLES)), _script()
    policy = (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return template("page.html").render(
        served=False,
        title=_title(document),
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(to_json_text(with_verdicts(document)).translate(_OUTSIDE_HTML)),
    )


def page_files() -> dict[str, str]:
    """Return the files of the served page by name; the server sends its policy and answers their requests."""
    modules = (*MODULES, *SERVED_MODULES)
    files = {name: asset(name) for name in (*STYLES, *(f"{name}.js" for name in modules))}
    return {"page.html": template("page.html").render(served=True, title="taughtby", modules=modules), **files}


def with_verdicts(document: Document) -> dict[str, Any]:
    """Return the document as the page reads it: each query with its verdict, a sentence."""
    queries: list[Document] = document.get("queries") or []
    return {**document, "queries": [{**query, "verdict": verdict(document, query)} for query in queries]}


def template(name: str) -> Template:
    """Return an asset as a template that escapes its values."""
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(asset(name))


def _script() -> str:
    """The page's modules as one script, in the order of their imports, which are removed."""
    parts = [re.sub(r"^import\b[^;]*;\n|^export ", "", asset(f"{name}.js"), flags=re.M) for name in MODULES]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def save_page(document: Document, path: str | Path) -> None:
    """Write the page in one step.

    Raises:
        TaughtbyError: The file cannot be written.
    """
    write_atomically(path, render_page(document))


def _title(document: Document) -> str:
    queries: list[Document] = document.get("queries") or []
    prompt = collapse_whitespace(make_visible(queries[0].get("prompt") or "")) if queries else ""
    return f"{prompt[:60]}{'…' * (len(prompt) > 60)} · taughtby" if prompt else "taughtby"


def asset(name: str) -> str:
    """Return the text of an asset."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def digest(block: str) -> str:
    """Return the hash by which the policy allows a block: over the exact bytes between its tags."""
    return "sha256-" + b64encode(sha256(block.encode("utf-8")).digest()).decode("ascii")
