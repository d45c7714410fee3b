"""The list of incidents as one HTML page without a script: a link to each incident's page, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from taughtby.reporting.html import asset, digest, template
from taughtby.text import make_visible


@dataclass(frozen=True)
class SiteEntry:
    """A line of the list: the incident's name, the address of its page, and its cells."""

    name: str
    href: str
    cells: tuple[str, ...]


def render_site(columns: Sequence[str], entries: Sequence[SiteEntry]) -> str:
    """Return the page. Its texts are escaped, and its policy allows its own style only."""
    style = asset("page.css")
    policy = f"default-src 'none'; style-src '{digest(style)}'; base-uri 'none'; form-action 'none'"
    shown = [SiteEntry(make_visible(entry.name), entry.href, tuple(map(make_visible, entry.cells)))
             for entry in entries]  # fmt: skip
    return template("site.html").render(policy=policy, style=Markup(style), columns=columns, entries=shown)
