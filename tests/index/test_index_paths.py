"""Commands that take an index report any other path, and create no file or folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, OptionError, StoreError
from taughtby.index.build import build_index
from taughtby.index.maintenance import add_features, compact, copy_index, delete_rows, undo
from taughtby.index.reader import Index
from taughtby.index.verify import verify
from taughtby.methods import get_method
from taughtby.models.model import Model

REPSIM = get_method("repsim:layer=2")
COMMANDS: dict[str, Callable[[Path, Path], list[Any]]] = {
    "compact": lambda idx, _: ["index", "compact", idx],
    "delete": lambda idx, _: ["index", "delete", idx, "data.jsonl:1"],
    "undo": lambda idx, _: ["index", "undo", idx],
    "verify": lambda idx, _: ["index", "verify", idx],
    "verify --recompute": lambda idx, _: ["index", "verify", idx, "--recompute"],
    "copy": lambda idx, folder: ["index", "copy", idx, folder / "new" / "two"],
    "trace": lambda idx, _: ["trace", idx, "-p", "why", "-r", "because"],
    "check": lambda idx, _: ["check", idx],
    "serve": lambda idx, _: ["serve", idx],
    "append": lambda idx, folder: ["index", "append", idx, folder / "data.jsonl"],
    "add": lambda idx, _: ["index", "add", idx],
}


def kinds(folder: Path) -> dict[str, Path]:
    """Paths without an index."""
    (folder / "empty").mkdir()
    (folder / "file").write_text("no index\n")
    (folder / "other").mkdir()
    (folder / "other" / "manifest.txt").write_text("{}")
    return {"missing": folder / "deep" / "idx", "beside": folder / "idx", "below a file": folder / "file" / "idx",
            "file": folder / "file", "empty": folder / "empty", "other": folder / "other"}  # fmt: skip


def seen(folder: Path) -> dict[str, bytes | None]:
    return {str(one.relative_to(folder)): one.read_bytes() if one.is_file() else None for one in folder.rglob("*")}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_missing_index_create_no_files(run: Run, tmp_path: Path, data: Path, command: str) -> None:
    places = kinds(tmp_path)
    before = seen(tmp_path)
    for name, place in places.items():
        code, out, err = run(*COMMANDS[command](place, tmp_path))
        assert (code, out) == (1, ""), (name, err)
        assert "is not an index" in err or "there is no finished index" in err, (name, err)
        assert str(place) in err
        assert seen(tmp_path) == before, name


def test_api_calls_on_missing_index_create_no_files(tuned: Model, tmp_path: Path, data: Path) -> None:
    verbs: list[Callable[[Path], Any]] = [
        lambda idx: compact(idx, timedelta(0)), lambda idx: delete_rows(idx, ["x"]), undo, verify, Index.open,
        lambda idx: copy_index(idx, tmp_path / "new" / "two"), lambda idx: add_features(tuned, idx, [REPSIM]),
        lambda idx: build_index(tuned, data, idx, [REPSIM], encoding=Encoding(128), append=True),
    ]  # fmt: skip
    places = kinds(tmp_path)
    before = seen(tmp_path)
    for place in places.values():
        for verb in verbs:
            with pytest.raises(StoreError, match="is not an index"):
                verb(place)
            assert seen(tmp_path) == before


@pytest.mark.parametrize("where", ["file", "other"])
def test_copy_and_build_reject_occupied_paths(tuned: Model, tmp_path: Path, data: Path, where: str) -> None:
    index = build_index(tuned, data, tmp_path / "idx", [REPSIM], encoding=Encoding(128))
    place = kinds(tmp_path)[where]
    before = seen(tmp_path)
    for make in (
        lambda: copy_index(index.path, place),
        lambda: build_index(tuned, data, place, [REPSIM], encoding=Encoding(128)),
    ):
        with pytest.raises(StoreError, match="contains other files"):
            make()
        assert seen(tmp_path) == before


def test_copy_succeeds_after_failed_copy(tuned: Model, tmp_path: Path, data: Path) -> None:
    """So the same command does it, once its cause is gone."""
    index = build_index(tuned, data, tmp_path / "idx", [REPSIM], encoding=Encoding(128))
    file = max((Path(index.path) / "rows.lance" / "data").iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        copy_index(index.path, tmp_path / "two")
    assert not (tmp_path / "two" / "rows.lance").exists() and not (tmp_path / "two" / "manifest.json").exists()
    file.write_bytes(whole)
    assert len(copy_index(index.path, tmp_path / "two")) == 8
    assert verify(tmp_path / "two").faults == ()


# — sources that name several rows


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Two shards with one name."""
    for at, folder in enumerate(("a", "b")):
        (tmp_path / "rows" / folder).mkdir(parents=True)
        lines = [{"prompt": f"why {at} {row}", "response": f"because {row}"} for row in range(4)]
        (tmp_path / "rows" / folder / "part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "rows"


def test_shards_with_same_name_keep_all_rows(tuned: Model, twins: Path, tmp_path: Path) -> None:
    index = build_index(tuned, twins, tmp_path / "idx", [REPSIM], encoding=Encoding(128))
    rows = list(index.examples())
    assert len({row.id for row in rows}) == len({row.source for row in rows}) == 8


def test_ambiguous_row_source_is_rejected(twins: Path) -> None:
    from taughtby.remediation.clean import plan_cleaning
    from taughtby.remediation.selection import select_rows

    def planned(spec: str) -> Any:
        trace = {"version": 2, "index": "x", "queries": []}
        return plan_cleaning(trace, str(twins), select_rows(trace, rows=[spec]))

    with pytest.raises(DataError, match=r"part.jsonl:2 matches several rows") as caught:
        planned("part.jsonl:2")
    assert caught.value.got == f"{twins}/a/part.jsonl:2, {twins}/b/part.jsonl:2"
    for spec in ("a/part.jsonl:2", f"{twins}/a/part.jsonl:2"):
        assert planned(spec).change.dropped == {f"{twins}/a/part.jsonl:2"}
    with pytest.raises(DataError, match="is not the data that was traced"):
        planned("c/part.jsonl:2")


def test_exact_source_wins_over_suffix_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taughtby.data.dataset import DEFAULT_READ_OPTIONS
    from taughtby.data.row_sources import resolve_sources

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows" / "rows").mkdir(parents=True)
    for file in ("rows/part.jsonl", "rows/rows/part.jsonl"):
        (tmp_path / file).write_text('{"prompt": "why", "response": "because"}\n' * 2)
    assert resolve_sources(["rows/part.jsonl:2", "x:1"], "rows", DEFAULT_READ_OPTIONS) == {
        "rows/part.jsonl:2": "rows/part.jsonl:2"
    }


def test_ambiguous_source_among_trace_rows_is_rejected() -> None:
    from taughtby.remediation.selection import select_rows

    def row(at: int, source: str) -> dict[str, Any]:
        return {"id": f"{at:016x}", "source": source, "rank": at, "score": 1.0}

    trace = {"queries": [{"rows": [row(1, "a/part.jsonl:2"), row(2, "b/part.jsonl:2"), row(3, "c.jsonl:2")]}]}
    with pytest.raises(DataError, match="matches several rows"):
        select_rows(trace, rows=["part.jsonl:2"])
    assert [one.rank for one in select_rows(trace, rows=["b/part.jsonl:2", "c.jsonl:2", f"{1:016x}"])] == [2, 3, 1]


def test_delete_rejects_source_naming_two_rows(tuned: Model, data: Path, tmp_path: Path) -> None:
    """As of a file that was changed and appended again."""
    build_index(tuned, data, tmp_path / "idx", [REPSIM], encoding=Encoding(128))
    lines = data.read_text().splitlines()
    data.write_text("\n".join([lines[0], '{"prompt": "who", "response": "nobody"}', *lines[2:]]) + "\n")
    index = build_index(tuned, data, tmp_path / "idx", [REPSIM], encoding=Encoding(128), append=True)
    two = [row.id for row in index.examples() if row.source == f"{data}:2"]
    assert len(two) == 2
    with pytest.raises(DataError, match="a source names several rows") as caught:
        delete_rows(index.path, [f"{data}:1", f"{data}:2"])
    assert caught.value.got == f"{data}:2: {', '.join(two)}"
    assert Index.open(index.path).manifest == index.manifest
    assert delete_rows(index.path, [f"{data}:1", two[1]]) == 2
    with pytest.raises(OptionError, match="this would delete all rows"):
        delete_rows(index.path, [row.id for row in Index.open(index.path).examples()])
