"""Commands that share an index on the hub: index push, index pull."""

from __future__ import annotations

from typing import Annotated

import typer

from taughtby.cli import options
from taughtby.cli.app import command, index_app
from taughtby.cli.arguments import check_index
from taughtby.cli.console import errors, output

PAGE = "how-to/share"
Repo = Annotated[str, typer.Argument(metavar="REPO", help="A data set repository of the hub, OWNER/NAME.")]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="The branch.", show_default="main")]


@command(index_app, example="taughtby index push idx owner/incident-index", page=PAGE)
def push(
    idx: options.IndexName,
    repo: Repo,
    public: Annotated[bool, typer.Option("--public", help="Let everyone read it. An index holds the training rows.")] = False,
    revision: Revision = None,
) -> None:  # fmt: skip
    """Send an index to a private repository of the Hugging Face hub, in one commit."""
    check_index(idx)
    from taughtby.index.hub import push_index
    from taughtby.progress import progress_bar

    with progress_bar(errors(), f"verify {idx}") as progress:
        address = push_index(idx, repo, public=public, revision=revision, progress=progress)
    output().print(address, soft_wrap=True)


@command(index_app, example="taughtby index pull owner/incident-index idx", page=PAGE)
def pull(
    repo: Repo,
    to: Annotated[str, typer.Argument(metavar="OUT", help="A folder that is empty or does not exist.")],
    revision: Annotated[str | None, typer.Option(metavar="NAME", help="A branch, tag or commit.", show_default="main")] = None,
) -> None:  # fmt: skip
    """Fetch an index from the Hugging Face hub, and check every file of it."""
    from taughtby.index.hub import pull_index
    from taughtby.progress import progress_bar

    with progress_bar(errors(), f"verify {repo}") as progress:
        index = pull_index(repo, to, revision=revision, progress=progress)
    output().print(f"{len(index):,} rows in {index.path}")
