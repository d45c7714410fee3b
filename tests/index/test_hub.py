"""Push to and pull from a hub; the hub is a fake with the signatures of the real client."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from conftest import Run
from taughtby.errors import StoreError
from taughtby.index import hub
from taughtby.index.build import build_index
from taughtby.index.hub import pull_index, push_index
from taughtby.index.maintenance import compact, delete_rows
from taughtby.index.manifest import read_finished
from taughtby.index.reader import Index
from taughtby.methods import get_method


class FakeHub:
    """Repositories in memory, each a list of commits."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.api = create_autospec(HfApi, instance=True)
        for name in ("create_repo", "repo_info", "list_repo_files", "create_commit", "snapshot_download"):
            getattr(self.api, name).side_effect = getattr(self, name)

    def create_repo(self, repo: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert repo_type == "dataset" and exist_ok
        self.commits.setdefault(repo, [{}])
        self.private.setdefault(repo, private)

    def repo_info(self, repo: str, *, repo_type: str, revision: str | None = None) -> Any:
        if repo not in self.commits:
            raise ConnectionError("404 Client Error: Repository Not Found")
        return SimpleNamespace(private=self.private[repo], sha=f"{len(self.commits[repo]) - 1:040}")

    def list_repo_files(self, repo: str, *, repo_type: str, revision: str | None) -> list[str]:
        return sorted(self.commits[repo][-1])

    def create_commit(self, repo: str, operations: Any, **options: Any) -> Any:
        files = dict(self.commits[repo][-1])
        for one in operations:
            if isinstance(one, CommitOperationDelete):
                del files[one.path_in_repo]
            else:
                assert isinstance(one, CommitOperationAdd)
                content = one.path_or_fileobj
                files[one.path_in_repo] = content if isinstance(content, bytes) else Path(str(content)).read_bytes()
        self.commits[repo].append(files)
        return SimpleNamespace(commit_url=f"https://hub/{repo}/{len(self.commits[repo])}")

    def snapshot_download(
        self, repo: str, *, repo_type: str, revision: str, local_dir: Path, allow_patterns: list[str]
    ) -> None:
        for name, content in self.commits[repo][int(revision)].items():
            if name in allow_patterns or name.startswith("rows.lance/"):
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / name).write_bytes(content)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    made = FakeHub()
    monkeypatch.setattr(hub, "HfApi", lambda library_name: made.api)
    return made


@pytest.fixture
def idx(tiny: Any, data: Path, tmp_path: Path) -> Path:
    return Path(str(build_index(tiny, data, tmp_path / "idx", [get_method("rept", layer="2")]).path))


def test_push_and_pull_roundtrip(fake: FakeHub, idx: Path, tmp_path: Path) -> None:
    address = push_index(idx, "me/idx")
    assert address == "https://hub/me/idx/2" and fake.private == {"me/idx": True}
    files = fake.commits["me/idx"][-1]
    assert {name.split("/")[0] for name in files} == {"manifest.json", "rows.lance"}
    index = pull_index("me/idx", tmp_path / "again")
    assert index.to_pandas().equals(Index.open(idx).to_pandas())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["manifest.json", "rows.lance"]
    assert not list(tmp_path.glob(".*"))


def test_a_second_push_replaces_the_first(fake: FakeHub, idx: Path, tmp_path: Path) -> None:
    push_index(idx, "me/idx")
    first = set(fake.commits["me/idx"][-1])
    fake.commits["me/idx"][-1]["README.md"] = b"mine"
    delete_rows(idx, [next(Index.open(idx).examples()).id])
    compact(idx)
    push_index(idx, "me/idx")
    files = fake.commits["me/idx"][-1]
    assert files["README.md"] == b"mine" and first - set(files)
    assert len(pull_index("me/idx", tmp_path / "again")) == 7
    assert len(fake.commits["me/idx"]) == 3  # each push is one commit: readers never see half of it


def test_push_rejects_unfinished_or_damaged_index(fake: FakeHub, idx: Path) -> None:
    manifest = read_finished(idx)
    file = idx / "manifest.json"
    whole = file.read_text()
    file.write_text(replace(manifest, pending={"did": "append", "data": "more.jsonl"}).to_text())
    with pytest.raises(StoreError, match="has an unfinished change") as error:
        push_index(idx, "me/idx")
    assert error.value.got == "appending more.jsonl"
    file.write_text(replace(manifest, complete=False).to_text())
    with pytest.raises(StoreError, match="is not finished"):
        push_index(idx, "me/idx")
    file.write_text(whole)
    name = next(iter(manifest.files))
    (idx / "rows.lance" / name).write_bytes(b"x")
    with pytest.raises(StoreError, match="is damaged") as error:
        push_index(idx, "me/idx")
    assert name in str(error.value.got)
    assert fake.commits == {}


def test_push_to_public_repo_requires_public_flag(fake: FakeHub, idx: Path) -> None:
    fake.create_repo("me/open", repo_type="dataset", private=False, exist_ok=True)
    with pytest.raises(StoreError, match="is public, and an index holds training rows"):
        push_index(idx, "me/open")
    assert fake.commits["me/open"] == [{}]
    push_index(idx, "me/open", public=True)
    push_index(idx, "me/new", public=True)
    assert fake.private["me/new"] is False and len(fake.commits["me/open"]) == 2


@pytest.mark.parametrize("change", ["byte", "missing", "manifest"])
def test_pull_of_damaged_repository_leaves_no_folder(fake: FakeHub, idx: Path, tmp_path: Path, change: str) -> None:
    push_index(idx, "me/idx")
    files = fake.commits["me/idx"][-1]
    name = f"rows.lance/{next(iter(read_finished(idx).files))}"
    if change == "byte":
        files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    elif change == "missing":
        del files[name]
    else:
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | {"num_rows": 3}).encode()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match="me/idx is damaged"):
        pull_index("me/idx", tmp_path / "again")
    assert sorted(tmp_path.iterdir()) == before


def test_pull_and_push_reject_invalid_sources_and_targets(fake: FakeHub, idx: Path, tmp_path: Path) -> None:
    fake.commits["me/other"], fake.private["me/other"] = [{"train.jsonl": b"{}"}], True
    with pytest.raises(StoreError, match="me/other has no index"):
        pull_index("me/other", tmp_path / "again")
    with pytest.raises(StoreError, match="contains other files"):
        pull_index("me/other", idx)
    with pytest.raises(StoreError, match="the request to the hub for me/none") as error:
        pull_index("me/none", tmp_path / "again")
    assert "Repository Not Found" in str(error.value.got) and "hf auth login" in error.value.do
    for call in (lambda: push_index("s3://b/idx", "me/idx"), lambda: pull_index("me/idx", "s3://b/idx")):
        with pytest.raises(StoreError, match="folder") as error:
            call()
        assert "taughtby index copy s3://b/idx" in error.value.do
    assert not (tmp_path / "again").exists()


def test_pull_into_empty_folder(fake: FakeHub, idx: Path, tmp_path: Path) -> None:
    push_index(idx, "me/idx")
    (tmp_path / "again").mkdir()
    shutil.rmtree(idx)
    assert len(pull_index("me/idx", tmp_path / "again")) == 8


def test_push_and_pull_commands(run: Run, fake: FakeHub, idx: Path, tmp_path: Path) -> None:
    code, out, told = run("index", "push", idx, "me/idx")
    assert (code, out) == (0, "https://hub/me/idx/2\n"), told
    code, out, told = run("index", "pull", "me/idx", tmp_path / "again")
    assert (code, out) == (0, f"8 rows in {tmp_path / 'again'}\n"), told


def test_hub_commands_fail_offline(run: Run, idx: Path, tmp_path: Path) -> None:
    for arguments in (("push", idx, "me/idx"), ("pull", "me/idx", tmp_path / "again")):
        code, _, told = run("index", *arguments)
        assert code == 1 and "the request to the hub for me/idx" in told and "Offline" in told
