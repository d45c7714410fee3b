"""The command that publishes audits: site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taughtby.cli import options
from taughtby.cli.app import app, command
from taughtby.cli.console import output


@command(app, example="taughtby site audit-honey audit-insults -o site", page="how-to/share", panel="Fix")
def site(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders that `taughtby audit` wrote.")],
    out: options.Out,
) -> None:
    """Write several audits as one static folder: a list of incidents, and the page of each."""
    from taughtby.remediation.site import write_site

    count = write_site(folders, out)
    output().print(f"{out / 'index.html'}: {count} incident{'' if count == 1 else 's'}", soft_wrap=True)
