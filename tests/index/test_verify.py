"""`verify` finds all planted damage, and reports none in an undamaged index."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from test_build import REPT, add

import taughtby.index.build
from taughtby.data.tokenize import Encoding
from taughtby.errors import StoreError
from taughtby.index.build import build_index
from taughtby.index.maintenance import delete_rows
from taughtby.index.manifest import Manifest
from taughtby.index.reader import Index, open_rows
from taughtby.index.storage import file_digest
from taughtby.index.verify import verify
from taughtby.methods import get_method
from taughtby.methods.lesson import Lesson

PLANTED = 120


@pytest.fixture(scope="module")
def world(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of several data files and a deletion, and what it was made from."""
    folder = tmp_path_factory.mktemp("verify")
    data = folder / "data.jsonl"
    add(data, *((f"why {i // 2} days", f"answer {i // 2} " * (1 + i % 3)) for i in range(30)), *[("why", "a b c")] * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taughtby.index.build, "WINDOW", 6)
        patch.setattr("taughtby.index.transaction.ROWS", 1)
        methods = [REPT, Lesson(layer=2, state_layer=3, sketch_dim=16)]
        index = build_index(tuned, data, folder / "idx", methods, encoding=Encoding(128))
    rows = list(index.examples())
    delete_rows(folder / "idx", [rows[3].id, rows[30].id, rows[32].id])
    return folder / "idx"


def test_intact_index_has_no_faults(world: Path, tuned: Any) -> None:
    result = verify(world, tuned, rows=10)
    assert (result.faults, result.pending, result.rows, result.num_recomputed) == ((), None, 31, 10)
    kinds = {name.split("/")[0] for name in Index.open(world).manifest["files"]}
    assert kinds == {"data", "_versions", "_deletions"}
    assert result.files >= 8
    assert verify(world, tuned).num_recomputed == 31


def files(path: Path) -> list[Path]:
    return sorted(path / "rows.lance" / name for name in Index.open(path).manifest["files"])


def flipped(path: Path, dice: random.Random) -> None:
    """One bit of one byte of a file that holds the rows."""
    file = dice.choice(files(path))
    held = bytearray(file.read_bytes())
    held[dice.randrange(len(held))] ^= 1 << dice.randrange(8)
    file.write_bytes(held)


def truncated(path: Path, dice: random.Random) -> None:
    file = dice.choice(files(path))
    file.write_bytes(file.read_bytes()[: dice.randrange(file.stat().st_size)])


def missing(path: Path, dice: random.Random) -> None:
    dice.choice(files(path)).unlink()


def edited(path: Path, dice: random.Random) -> None:
    """One bit of the manifest, wherever it stands."""
    file = path / "manifest.json"
    held = bytearray(file.read_bytes())
    held[dice.randrange(len(held))] ^= 1 << dice.randrange(8)
    file.write_bytes(held)


def swapped(path: Path, dice: random.Random) -> None:
    """Two data files in each other's place."""
    one, two = dice.sample([file for file in files(path) if file.parent.name == "data"], 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def test_verify_detects_all_planted_damage(world: Path, tmp_path: Path) -> None:
    dice, plants = random.Random(0), [flipped, flipped, truncated, missing, edited, swapped]
    missed = []
    for round in range(PLANTED):
        path = tmp_path / "idx"
        shutil.copytree(world, path)
        plant = plants[round % len(plants)]
        plant(path, dice)
        try:
            result = bool(verify(path).faults)
        except StoreError:
            result = plant is edited  # the manifest says no more that there is an index
        if not result:
            missed.append((round, plant.__name__))
        shutil.rmtree(path)
    print(f"{PLANTED - len(missed)} of {PLANTED} found")
    assert missed == []


# — damage with valid hashes: rows are checked by their ids, features by their norms


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Other rows in the place of those that were, and a manifest that believes in them."""
    table = change(open_rows(path).to_table())
    lance.write_dataset(table, path / "rows.lance", mode="overwrite")
    rows = open_rows(path)
    manifest = json.loads((path / "manifest.json").read_text())
    names = [file["path"] for file in rows.tracked_files(min_version=rows.version).read_all().to_pylist()]
    manifest |= {
        "version": rows.version,
        "files": {name: file_digest(path / "rows.lance" / name) for name in names if not name.startswith("_trans")},
    }
    (path / "manifest.json").write_text(Manifest.from_json(manifest).to_text())


def column(table: pa.Table, name: str, values: Any) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.chunked_array([values]))


def halves(table: pa.Table, name: str) -> Any:
    return np.array(table.column(name).combine_chunks().flatten().to_numpy()).reshape(len(table), -1)


def vectors(values: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def other_text(table: pa.Table) -> pa.Table:
    text = table.column("messages").to_pylist()
    text[5] = text[5].replace("answer", "wrong")
    return column(table, "messages", pa.array(text))


def texts_swapped(table: pa.Table) -> pa.Table:
    text = table.column("messages").to_pylist()
    text[5], text[9] = text[9], text[5]
    return column(table, "messages", pa.array(text))


def same_id(table: pa.Table) -> pa.Table:
    ids = table.column("id").to_pylist()
    return column(table, "id", pa.array([*ids[:-1], ids[0]]))


def fewer(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) - 1)


def longer(table: pa.Table) -> pa.Table:
    held = halves(table, "h_2")
    held[7] *= 1.1
    return column(table, "h_2", vectors(held))


def none(table: pa.Table) -> pa.Table:
    norms = table.column("g_2_norm").to_numpy().copy()
    norms[3] = np.nan
    return column(table, "g_2_norm", pa.array(norms))


def no_block(table: pa.Table) -> pa.Table:
    return table.drop_columns(["g_2", "g_2_norm"])


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (other_text, "row 5 (", "does not match its content"),
        (texts_swapped, "row 9 (", "does not match its content"),
        (same_id, "row 30 (", "is a duplicate"),
        (fewer, "rows.lance", "it has 30 rows, but the manifest says 31"),
        (longer, "row 7", "h_2 is not a unit vector"),
        (none, "row 3", "g_2_norm is not finite"),
        (no_block, "rows.lance", "it has the features"),
    ],
)
def test_verify_detects_inconsistent_rows(
    world: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], where: str, what: str
) -> None:
    path = shutil.copytree(world, tmp_path / "idx")
    rewritten(path, lambda table: table)
    assert verify(path).faults == ()
    rewritten(path, change)
    assert any(fault.where.startswith(where) and what in fault.what for fault in verify(path).faults)


def test_recomputation_detects_swapped_features(world: Path, tmp_path: Path, tuned: Any) -> None:
    def exchanged(table: pa.Table) -> pa.Table:
        order = [*range(5), 9, 6, 7, 8, 5, *range(10, len(table))]
        return column(table, "g_2", table.column("g_2").take(order).combine_chunks())

    path = shutil.copytree(world, tmp_path / "idx")
    rewritten(path, exchanged)
    assert verify(path).faults == ()
    result = verify(path, tuned).faults
    assert {(fault.where.split(" (")[0], fault.what) for fault in result} == {
        ("row 5", "the recomputed g_2 differs"),
        ("row 9", "the recomputed g_2 differs"),
    }


def test_truncated_index_reads_correctly_or_raises(world: Path, tmp_path: Path) -> None:
    """Wherever a file ends: rows come as they were, or an error in words."""
    whole, dice = [row.response for row in Index.open(world).examples()], random.Random(1)
    messages: list[str] = []
    for _ in range(30):
        path = shutil.copytree(world, tmp_path / "idx")
        truncated(path, dice)
        try:
            index = Index.open(path)
            assert [row.response for row in index.examples()] == whole
            assert all(bool(batch["g_2"].isfinite().all()) for batch in index.scan(["g_2"]))
        except StoreError as fault:
            messages.append(fault.do)
        shutil.rmtree(path)
    assert len(messages) >= 20, "files that hold rows were not read"
    assert all("taughtby index verify" in message or "check the folder" in message for message in messages)


def test_verify_rejects_missing_index_and_other_adapter(
    world: Path, tmp_path: Path, tiny: Any, tuned: Any, data: Path
) -> None:
    with pytest.raises(StoreError, match="is not an index"):
        verify(tmp_path)
    with pytest.raises(StoreError, match="was built with another adapter"):
        verify(world, tiny)
    texts = build_index(tuned, data, tmp_path / "texts", [get_method("bm25")], encoding=Encoding(128))
    assert verify(texts.path, tuned).faults == ()
