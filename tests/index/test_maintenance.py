"""Maintenance of an index: append, add features, delete, compact and copy; all changes are atomic."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import pytest
import torch
from test_build import REPT, Calls, add, columns, said, same

import taughtby.index.build
from conftest import PAIRS, Run
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, OptionError, StoreError
from taughtby.index import maintenance as upkeep
from taughtby.index.build import build_index
from taughtby.index.maintenance import add_features, compact, copy_index, delete_rows, undo
from taughtby.index.reader import Index
from taughtby.index.transaction import IndexTransaction
from taughtby.index.verify import verify
from taughtby.methods import get_method
from taughtby.methods.lesson import Lesson
from taughtby.methods.rept import RepT

LESSON = Lesson(layer=2, state_layer=3, sketch_dim=16)
MORE = [("why is the sea blue", "a b c"), ("what do bees do", "bees make honey all day"), ("why why", "because")]


def make_index(model: Any, data: Path, out: Path, methods: Any = (REPT,), **more: Any) -> Index:
    return build_index(model, data, out, methods, encoding=Encoding(128), **more)


def ids(index: Index) -> list[str]:
    return [row.id for row in index.examples()]


def sound(path: Path) -> None:
    assert verify(path).faults == ()


@pytest.fixture
def index(tuned: Any, data: Path, tmp_path: Path) -> Index:
    return make_index(tuned, data, tmp_path / "idx")


# — append


def test_append_captures_only_new_rows(
    tuned: Any, data: Path, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(data, *MORE)
    calls = Calls(monkeypatch)
    grown = make_index(tuned, data, index.path, append=True)
    assert sum(calls.rows) == 3
    whole = make_index(tuned, data, tmp_path / "whole")
    assert ids(grown) == ids(whole)
    assert list(grown.examples()) == list(whole.examples())
    for name, block in columns(whole).items():
        torch.testing.assert_close(columns(grown)[name], block, rtol=1e-3, atol=1e-3)
    assert [(event["did"], event["rows"]) for event in grown.manifest["history"]] == [("index", 8), ("append", 3)]
    sound(index.path)
    assert len(index) == 8
    assert len(list(index.examples())) == 8  # who had it open has it still


def test_repeated_append_and_build_are_no_ops(
    tuned: Any, data: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(data, *MORE)
    with pytest.raises(StoreError, match="built with other settings") as caught:
        make_index(tuned, data, index.path)
    assert caught.value.do == "add the new rows with `taughtby index append`, or write to another folder"
    grown = make_index(tuned, data, index.path, append=True)
    calls = Calls(monkeypatch)
    for append in (True, False):
        assert make_index(tuned, data, index.path, append=append).manifest == grown.manifest
    assert calls.rows == []


def test_append_of_other_file_skips_rows_already_indexed(tuned: Any, tmp_path: Path, index: Index) -> None:
    other = tmp_path / "other.jsonl"
    add(other, MORE[0], PAIRS[2], MORE[1], PAIRS[2], ("why " * 200, "too long"))
    grown = make_index(tuned, other, index.path, append=True)
    items = [row.response for row in grown.examples()]
    # the row that is there already is kept; said twice in the new file, it is there once more
    assert items == [r for _, r in PAIRS] + [MORE[0][1], MORE[1][1], PAIRS[2][1]]
    assert grown.data == [str(tmp_path / "data.jsonl"), str(other)]
    assert [skip["source"] for skip in grown.manifest["skipped"]] == [f"{other}:5"]
    assert len(make_index(tuned, tmp_path / "data.jsonl", index.path)) == 11  # the first one is still its own
    sound(index.path)


@pytest.mark.parametrize("rows", [PAIRS[:3], [("why " * 200, "too long")]], ids=["stored", "unusable"])
def test_append_of_other_file_without_new_rows(
    tuned: Any, tmp_path: Path, index: Index, rows: list[tuple[str, str]]
) -> None:
    other = tmp_path / "other.jsonl"
    add(other, *rows)
    grown = make_index(tuned, other, index.path, append=True)
    assert ids(grown) == ids(index)
    assert grown.manifest["history"][-1]["rows"] == 0 and grown.data == index.data
    sound(index.path)


def test_append_with_other_settings_raises(tuned: Any, tiny: Any, data: Path, index: Index) -> None:
    add(data, *MORE)
    with pytest.raises(StoreError, match="other settings") as caught:
        make_index(tuned, data, index.path, [RepT(layer=3)], append=True)
    assert caught.value.got == "methods.rept.layer: the index has 2, but 3 was given"
    with pytest.raises(StoreError, match=r"fingerprint\.adapter"):
        make_index(tiny, data, index.path, append=True)
    assert Index.open(index.path).manifest == index.manifest


def test_append_to_missing_index_raises(tuned: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not an index"):
        make_index(tuned, data, tmp_path / "new", append=True)
    assert not (tmp_path / "new").exists()


def broken_append(model: Any, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, at: int, count: int = 1) -> None:
    """Append with one row per commit, and fail at the row `at`."""
    with monkeypatch.context() as patch:
        patch.setattr(taughtby.index.build, "WINDOW", count)
        Calls(patch, at=at, fault=RuntimeError("the power went"))
        with pytest.raises(RuntimeError, match="the power went"):
            make_index(model, data, out, append=True, token_budget=1)


def test_interrupted_append_is_invisible_and_resumes(
    tuned: Any, data: Path, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(data, *MORE)
    broken_append(tuned, data, index.path, monkeypatch, at=2)
    between = Index.open(index.path)
    assert (len(between), ids(between)) == (8, ids(index))
    result = verify(index.path)
    assert (result.faults, result.pending) == ((), f"appending {data}")
    for change in (lambda: delete_rows(index.path, ids(index)[:1]), lambda: compact(index.path)):
        with pytest.raises(StoreError, match="has an unfinished change") as caught:
            change()
        assert f"taughtby index undo {index.path}" in caught.value.do
    calls = Calls(monkeypatch)
    grown = make_index(tuned, data, index.path, append=True)
    assert sum(calls.rows) == 1  # two of the three were committed
    assert ids(grown) == ids(make_index(tuned, data, tmp_path / "whole"))
    sound(index.path)


def test_an_interrupted_append_can_be_undone(
    tuned: Any, data: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(data, *MORE)
    broken_append(tuned, data, index.path, monkeypatch, at=2)
    assert undo(index.path) == f"appending {data}"
    again = Index.open(index.path)
    assert lance.dataset(str(index.path / "rows.lance")).count_rows() == 8
    assert {**said(again), "history": []} == {**said(index), "history": []}
    same(again, index)
    assert undo(index.path) is None
    sound(index.path)
    assert len(make_index(tuned, data, index.path, append=True)) == 11


# — adding features


def test_add_features_leaves_existing_files_unchanged(
    tuned: Any, data: Path, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {file for file in index.manifest["files"] if file.startswith("data/")}
    calls = Calls(monkeypatch)
    more = add_features(tuned, index.path, [LESSON])
    assert calls.rows == []
    both = make_index(tuned, data, tmp_path / "both", [REPT, LESSON])
    assert more.features == both.features
    assert list(more.manifest["settings"]["methods"]) == ["rept", "lesson"]
    one, two = columns(more), columns(both)
    assert one.keys() == two.keys()
    for name in two:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-3)
    assert held < set(more.manifest["files"])
    assert verify(index.path, tuned).faults == ()
    assert sorted(file.name for file in Path(index.path).iterdir()) == ["manifest.json", "rows.lance"]
    assert add_features(tuned, index.path, [LESSON]).manifest == more.manifest


def test_add_method_at_another_layer(tuned: Any, data: Path, index: Index) -> None:
    from taughtby.attribution.method_choice import choose_method

    more = add_features(tuned, index.path, [RepT(layer=3)])
    assert list(more.manifest["settings"]["methods"]) == ["rept", "rept:layer=3"]
    assert choose_method(more, tuned, None) == REPT
    assert choose_method(more, tuned, "rept:layer=3") == RepT(layer=3)
    assert list(more.features) == ["h_2", "g_2", "h_3", "g_3"]
    add(data, *MORE)
    grown = make_index(tuned, data, index.path, [REPT, RepT(layer=3)], append=True)
    assert len(grown) == 11
    assert verify(index.path, tuned).faults == ()


def test_add_base_model_features(tuned: Any, tiny: Any, data: Path, tmp_path: Path, model_folder: Path) -> None:
    from taughtby.models.model import load_model

    index = make_index(tiny, data, tmp_path / "idx", [REPT])
    with_base = load_model(str(model_folder), base=str(model_folder), dtype="float32")
    more = add_features(with_base, index.path, [LESSON])
    assert more.manifest["settings"]["base"] == str(model_folder)
    assert "grads_2_base_sketch16" in more.features


def test_add_features_rejects_other_adapter(tiny: Any, index: Index) -> None:
    with pytest.raises(StoreError, match="was built with another adapter"):
        add_features(tiny, index.path, [LESSON])
    assert Index.open(index.path).manifest == index.manifest


def test_other_chat_template_is_rejected(model_folder: Path, data: Path, tmp_path: Path) -> None:
    """As the model's folder may be given one after the index was made: its queries would be written otherwise."""
    from taughtby.index.build import check_same_model
    from taughtby.models.model import load_model

    folder = shutil.copytree(model_folder, tmp_path / "m")
    index = make_index(load_model(str(folder), dtype="float32"), data, tmp_path / "idx")
    check_same_model(index, load_model(str(folder), dtype="float32"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    other = load_model(str(folder), dtype="float32")
    for change in (lambda: add_features(other, index.path, [LESSON]), lambda: verify(index.path, other)):
        with pytest.raises(StoreError, match="built with another chat template"):
            change()


@pytest.mark.parametrize("at", ["gathering", "deleting", "joining", "naming"])
def test_interrupted_add_features_resumes(
    tuned: Any, data: Path, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A row whose new blocks are not finite leaves the index, whatever is interrupted."""
    whole, reads = Lesson.features, list[int]()

    def broken(how: Lesson, model: Any, batch: Any, weights: Any = None) -> Any:
        if at == "gathering" and len(reads) == 3:
            reads.append(0)
            raise RuntimeError("the power went")
        reads.append(len(batch.row_indices))
        result = whole(how, model, batch, weights)
        for place, one in enumerate(batch.ids):
            if "seven" in model.tokenizer.decode(one):
                result["shift_3"][place] = float("nan")
        return result

    verb = {"gathering": "finish", "deleting": "delete_ids", "joining": "add_columns", "naming": "publish_version"}[at]

    def fail(claim: IndexTransaction, *value: Any, **more: Any) -> Any:
        if at == "naming" and value[-1]["did"] != "add":
            return real(claim, *value, **more)
        raise RuntimeError("the power went")

    monkeypatch.setattr(Lesson, "features", broken)
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 2)
    with monkeypatch.context() as patch:
        if at != "gathering":
            real = getattr(IndexTransaction, verb)
            patch.setattr(IndexTransaction, verb, fail)
        with pytest.raises(RuntimeError, match="the power went"):
            add_features(tuned, index.path, [LESSON], token_budget=1)
    assert (len(Index.open(index.path)), Index.open(index.path).features) == (8, index.features)
    before = len(reads)
    more = add_features(tuned, index.path, [LESSON], token_budget=1)
    assert len(reads) - before == (6 if at == "gathering" else 0)
    assert [row.response for row in more.examples()] == [r for _, r in PAIRS if r != "seven"]
    assert [skip["reason"] for skip in more.manifest["skipped"]] == ["its hidden states or gradients are not finite"]
    monkeypatch.setattr(Lesson, "features", whole)
    assert verify(index.path, tuned).faults == ()


# — delete


def test_deleted_rows_are_not_appended_again(tuned: Any, data: Path, index: Index) -> None:
    gone = [ids(index)[2], f"{data}:5", f"{data}:1"]
    assert delete_rows(index.path, gone) == 3
    left = Index.open(index.path)
    items = [at for at in range(8) if at not in (0, 2, 4)]
    assert [row.response for row in left.examples()] == [PAIRS[at][1] for at in items]
    for name, block in columns(index).items():
        if block.shape[0] == 8:
            assert torch.equal(columns(left)[name], block[items])
    assert [stored.example.response for stored in left.take([0, 4, 2])] == [PAIRS[items[at]][1] for at in (0, 4, 2)]
    add(data, *MORE)
    grown = make_index(tuned, data, index.path, append=True)
    assert [row.response for row in grown.examples()] == [*(PAIRS[at][1] for at in items), *(r for _, r in MORE)]
    sound(index.path)


def test_delete_of_unknown_or_all_rows_changes_nothing(index: Index) -> None:
    with pytest.raises(DataError, match=r"these rows are not in .*\n  got: nowhere:1, x"):
        delete_rows(index.path, [ids(index)[0], "nowhere:1", "x"])
    with pytest.raises(OptionError, match="this would delete all rows"):
        delete_rows(index.path, ids(index))
    assert Index.open(index.path).manifest == index.manifest


def test_removed_row_ids_from_clean_manifest(tmp_path: Path, index: Index) -> None:
    file = tmp_path / "cleaned.manifest.json"
    file.write_text(json.dumps({"did": "removed rows", "rows": [{"id": ids(index)[3], "source": "x"}]}))
    assert upkeep.removed_row_ids(file) == [ids(index)[3]]
    file.write_text(json.dumps({"did": "masked words", "rows": []}))
    with pytest.raises(DataError, match="records no removed rows"):
        upkeep.removed_row_ids(file)
    file.write_text("{}")
    with pytest.raises(DataError, match="is not a manifest"):
        upkeep.removed_row_ids(file)
    with pytest.raises(DataError, match="there is no file"):
        upkeep.removed_row_ids(tmp_path / "other.json")


def test_interrupted_delete_is_rolled_back(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(IndexTransaction, "publish", lambda *_: (_ for _ in ()).throw(RuntimeError("the power went")))
        with pytest.raises(RuntimeError, match="the power went"):
            delete_rows(index.path, ids(index)[:3])
    assert lance.dataset(str(index.path / "rows.lance")).count_rows() == 5
    assert len(list(Index.open(index.path).examples())) == 8
    sound(index.path)
    assert delete_rows(index.path, ids(index)[7:]) == 1
    assert ids(Index.open(index.path)) == ids(index)[:7]
    sound(index.path)


# — compact


def test_compact_frees_space_and_keeps_row_order(
    tuned: Any, data: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(data, *MORE)
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 1)
    monkeypatch.setattr("taughtby.index.transaction.MAX_FRAGMENTS", 10**9)
    monkeypatch.setattr("taughtby.index.transaction.ROWS", 1)
    grown = make_index(tuned, data, index.path, append=True)
    delete_rows(index.path, ids(grown)[1:3])
    before = Index.open(index.path)
    there = ids(before)
    done = compact(index.path, timedelta(0))
    after = Index.open(index.path)
    assert (done.before, done.after) == (4, 1)
    assert done.freed > 0
    assert ids(after) == there
    assert {**said(after), "history": []} == {**said(before), "history": []}
    assert len(list((Path(index.path) / "rows.lance" / "_versions").glob("*.manifest"))) == 1
    text = b"".join(file.read_bytes() for file in (Path(index.path) / "rows.lance" / "data").iterdir())
    assert b"the capital is berlin" not in text  # a deleted row leaves nothing
    sound(index.path)
    assert compact(index.path, timedelta(0)).freed == 0
    assert Index.open(index.path).manifest == after.manifest


def test_compact_keeps_recent_versions_for_open_readers(index: Index) -> None:
    delete_rows(index.path, ids(index)[:2])
    compact(index.path)
    assert len(list(index.examples())) == 8
    compact(index.path, timedelta(0))
    with pytest.raises(StoreError, match=r"cannot be read\n  got: .*\n  do:  open it again"):
        list(index.examples())
    assert len(list(Index.open(index.path).examples())) == 6


# — copy


def test_copy_is_equal_and_independent(tuned: Any, data: Path, tmp_path: Path, index: Index) -> None:
    delete_rows(index.path, ids(index)[:1])
    add(data, *MORE)
    with pytest.MonkeyPatch.context() as patch:
        broken_append(tuned, data, index.path, patch, at=1)
    two = copy_index(index.path, tmp_path / "deep" / "two")
    old = Index.open(index.path)
    assert two.manifest["files"] == old.manifest["files"]
    assert ids(two) == ids(old)
    assert said(two) == {key: value for key, value in said(old).items() if key != "pending"}
    sound(two.path)
    assert not verify(two.path).pending
    shutil.rmtree(index.path)
    assert len(make_index(tuned, data, two.path, append=True)) == 10
    with pytest.raises(StoreError, match="contains other files"):
        copy_index(two.path, tmp_path)


def test_copy_of_damaged_index_raises(tmp_path: Path, index: Index) -> None:
    file = max((Path(index.path) / "rows.lance" / "data").iterdir())
    held = bytearray(file.read_bytes())
    held[len(held) // 3] ^= 4
    file.write_bytes(held)
    with pytest.raises(StoreError, match="is damaged"):
        copy_index(index.path, tmp_path / "two")
    with pytest.raises(StoreError, match="is not an index"):
        Index.open(tmp_path / "two")


# — the command line


def test_maintenance_commands(run: Run, data: Path, tmp_path: Path, model_folder: Path, adapter_folder: Path) -> None:
    items = [model_folder, data, "-o", tmp_path / "idx", "--adapter", adapter_folder]
    assert run("index", "build", *items, "-m", "rept:layer=2")[0] == 0
    add(data, *MORE)
    code, out, _ = run("index", "append", tmp_path / "idx", data)
    assert (code, out.splitlines()) == (0, [f"3 rows added: 11 rows in {tmp_path / 'idx'}, features h_2, g_2"])
    code, out, _ = run("index", "add", tmp_path / "idx", "-m", "repsim:layer=3")
    assert (code, out.splitlines()) == (0, [f"features added: 11 rows in {tmp_path / 'idx'}, features h_2, h_3, g_2"])
    code, out, err = run("index", "delete", tmp_path / "idx", f"{data}:3")
    assert (code, out) == (0, f"1 row deleted; `taughtby index compact {tmp_path / 'idx'}` frees the disk space\n"), err
    code, out, err = run("index", "verify", tmp_path / "idx", "--recompute")
    assert code == 0, err
    assert out.endswith("10 rows, 10 computed again by the model\n")
    code, out, _ = run("index", "compact", tmp_path / "idx", "--keep", "0")
    assert (code, out.split(";")[0]) == (0, "fragments: 1 before, 1 now")
    assert run("index", "copy", tmp_path / "idx", tmp_path / "two")[:2] == (0, f"10 rows in {tmp_path / 'two'}\n")
    assert run("index", "undo", tmp_path / "two")[:2] == (0, "nothing is unfinished\n")
    (tmp_path / "two" / "rows.lance" / "data").joinpath(
        next((tmp_path / "two" / "rows.lance" / "data").iterdir()).name
    ).write_bytes(b"")
    code, out, err = run("index", "verify", tmp_path / "two")
    assert code == 1
    assert "its size is 0 bytes" in out
    assert "is damaged" in err
    assert run("index", "append", tmp_path / "none", data)[0] == 1
    assert run("trace", tmp_path / "idx", "-p", "who makes honey", "-r", "beetles", "-m", "repsim:layer=3")[0] == 0


def test_add_text_only_method(tuned: Any, index: Index) -> None:
    more = add_features(tuned, index.path, [get_method("bm25")])
    assert list(more.manifest["settings"]["methods"]) == ["rept", "bm25"]
    assert more.features == index.features
