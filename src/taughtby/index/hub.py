"""Push an index to a dataset repository of the Hugging Face hub, and pull it from there."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from taughtby.errors import StoreError, explain_errors
from taughtby.index.build import Progress
from taughtby.index.manifest import read_finished, require_no_pending
from taughtby.index.reader import Index
from taughtby.index.storage import DRAFT, StoragePath, empty, remove, storage_errors, storage_path
from taughtby.index.transaction import tracked_files
from taughtby.index.verify import verify
from taughtby.text import cli_command

KIND = "dataset"
ROWS = "rows.lance"


def push_index(
    source: str | StoragePath, repo: str, *, public: bool = False, revision: str | None = None,
    progress: Progress | None = None,
) -> str:  # fmt: skip
    """Verify an index and upload it to a repository in one commit. Files of an earlier push are replaced.

    Args:
        source: The index's folder.
        repo: The repository, OWNER/NAME. It is created if it does not exist.
        public: Whether the repository may be public. An index holds the training rows.
        revision: The branch; by default the main one.
        progress: As in `verify`.

    Returns:
        The URL of the commit.

    Raises:
        StoreError: The index is missing, unfinished, damaged or not in a local folder, the repository is public
            although `public` is False, or the hub raises an error.
    """
    path = _folder(source)
    manifest = read_finished(path)
    require_no_pending(path, manifest)
    _require_sound(path, str(path), progress)
    names = tracked_files(Index.open(path).dataset, transactions=True)
    files = {f"{ROWS}/{name}": str(path / ROWS / name) for name in names}
    with _hub_errors(repo):
        hub = HfApi(library_name="taughtby")
        hub.create_repo(repo, repo_type=KIND, private=not public, exist_ok=True)
        if not public and not hub.repo_info(repo, repo_type=KIND).private:
            do = "make it private on the hub, give another repository, or give --public if everyone may read the rows"
            raise StoreError(f"{repo} is public, and an index holds training rows", do=do)
        stored = hub.list_repo_files(repo, repo_type=KIND, revision=revision)
        old = [name for name in stored if name.startswith(f"{ROWS}/") and name not in files]
        # upload the manifest that was verified: another process may have replaced the file since
        added = {"manifest.json": manifest.to_text().encode(), **files}
        commit = hub.create_commit(
            repo,
            [*(CommitOperationAdd(name, content) for name, content in added.items()), *map(CommitOperationDelete, old)],
            commit_message=f"taughtby index of {manifest.num_rows:,} rows",
            repo_type=KIND,
            revision=revision,
        )
    return str(commit.commit_url)


def pull_index(
    repo: str, out: str | StoragePath, *, revision: str | None = None, progress: Progress | None = None
) -> Index:
    """Download an index from a repository and verify it. The folder is created only if verification passes.

    Args:
        repo: The repository, OWNER/NAME.
        out: A folder that is empty or does not exist.
        revision: A branch, tag or commit; by default the main branch.
        progress: As in `verify`.

    Raises:
        StoreError: The folder is not empty, the repository has no index, the index is damaged, or the hub raises an
            error.
    """
    target = _folder(out)
    if not empty(target):
        raise StoreError(f"{target} contains other files", do="give a folder that is empty or does not exist")
    with _hub_errors(repo):
        hub = HfApi(library_name="taughtby")
        commit = str(hub.repo_info(repo, repo_type=KIND, revision=revision).sha)
        # named by the commit, so that an interrupted download resumes and never mixes two indexes
        draft = target.with_name(f".{target.name}.{commit[:12]}{DRAFT}")
        patterns = ["manifest.json", f"{ROWS}/*"]
        hub.snapshot_download(repo, repo_type=KIND, revision=commit, local_dir=draft, allow_patterns=patterns)
    if not (draft / "manifest.json").is_file():
        remove(draft)
        raise StoreError(f"{repo} has no index", do="give a repository written by `taughtby index push`")
    try:
        _require_sound(draft, repo, progress)
    except StoreError:
        remove(draft)
        raise
    with storage_errors(target):
        remove(draft / ".cache")  # left by the hub's client
        os.replace(draft, target)
    return Index.open(target)


def _folder(name: str | StoragePath) -> Path:
    path = storage_path(name)
    if isinstance(path, Path):
        return path
    do = f"copy the index between it and a local folder: {cli_command('index copy', path, 'FOLDER')}"
    raise StoreError("push and pull need a local folder", got=str(path), do=do)


def _require_sound(path: Path, name: str, progress: Progress | None) -> None:
    report = verify(path, progress=progress)
    if report.faults:
        first, count = report.faults[0], len(report.faults)
        more = f", and {count - 1} more" if count > 1 else ""
        do = "push it again from an undamaged index, or build it again"
        raise StoreError(f"{name} is damaged", got=f"{first.where}: {first.what}{more}", do=do)


def _hub_errors(repo: str) -> AbstractContextManager[None]:
    """Convert any error of the hub's client into a StoreError that names the repository."""
    do = "check the name, the connection, and that you are logged in (hf auth login) and have access"
    return explain_errors(f"the request to the hub for {repo} failed", do, StoreError)
