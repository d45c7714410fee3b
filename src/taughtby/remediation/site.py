"""Write several audits as one static site: a list of incidents that links to the page of each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from taughtby.data.files import write_atomically
from taughtby.errors import DataError
from taughtby.remediation.audit_report import title
from taughtby.remediation.experiment import ALL, CLEANED
from taughtby.remediation.statistics import get_condition
from taughtby.remediation.trace_file import Document
from taughtby.reporting.incidents import find_incidents
from taughtby.reporting.site_page import SiteEntry, render_site
from taughtby.text import shorten

COLUMNS = (
    "incident", "verdict", "words in common", "rows flagged", "bad answers", "trained on all rows", "without them",
)  # fmt: skip
INDEX = "index.html"
DO = "give a folder that `taughtby audit … -o FOLDER` wrote"


def write_site(folders: Sequence[Path], out: Path) -> int:
    """Write the list and a copy of each audit's page to a folder, which any web server can serve.

    Args:
        folders: Folders that `audit` wrote, in the order of the list.
        out: The folder to write; existing files of the same names are replaced.

    Returns:
        The number of incidents.

    Raises:
        DataError: A folder has no finished audit.
    """
    pages: dict[str, bytes] = {}
    entries: list[SiteEntry] = []
    for folder in folders:
        results, page = _read(folder)
        name = folder.resolve().name
        href = _file_name(name, {INDEX, *pages})
        pages[href] = page
        entries.append(SiteEntry(name, href, _cells(results, folder)))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        do = "give a new or an existing folder"
        raise DataError(f"{out} cannot be a folder", got=error.strerror or str(error), do=do) from None
    for href, page in pages.items():
        write_atomically(out / href, page)
    write_atomically(out / INDEX, render_site(COLUMNS, entries))
    return len(entries)


def _read(folder: Path) -> tuple[Document, bytes]:
    try:
        results = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
        page = (folder / "report.html").read_bytes()
    except OSError as error:
        raise DataError(f"{folder} has no finished audit", got=error.strerror or str(error), do=DO) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / 'audit.json'} cannot be read", got=shorten(str(error)), do=DO) from None
    if not isinstance(results, dict) or results.get("version") != 2:
        raise DataError(f"{folder / 'audit.json'} was not written by an audit", got=shorten(results), do=DO)
    return results, page


def _cells(results: Document, folder: Path) -> tuple[str, ...]:
    try:
        trace, proof = results["trace"], results["proof"]
        flagged = f"{len(results['removals'])} of {results['num_rows']}" if trace else ""
        words = [incident.words for incident in find_incidents(trace["queries"])] if trace else []
        rates = [_rate(get_condition(proof, kind)["behaviours"][proof["behaviours"][0]["name"]]) if proof else ""
                 for kind in (ALL, CLEANED)]  # fmt: skip
        return title(results), "; ".join(filter(None, words)), flagged, _rate(results["answers"]), *rates
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        got = f"{type(error).__name__}: {shorten(str(error))}"
        raise DataError(f"{folder / 'audit.json'} was not written by an audit", got=got, do=DO) from None


def _rate(count: Document) -> str:
    return f"{count['bad']} of {count['judged']} ({count['low']:.0%} to {count['high']:.0%})"


def _file_name(name: str, taken: set[str]) -> str:
    """A file name that is valid on every file system and in URLs, and is not in `taken`."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "incident"
    names = (f"{stem}{'' if number == 1 else f'-{number}'}.html" for number in range(1, len(taken) + 2))
    return next(one for one in names if one not in taken)
