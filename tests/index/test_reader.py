"""Reading and writing an index: round trips, errors of damaged ones, and resuming after a kill or a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import lance
import pytest
import torch

from taughtby.capture.ragged import Ragged
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import StoreError
from taughtby.index.reader import Index, join_names
from taughtby.index.writer import Writer

SETTINGS: dict[str, Any] = {
    "model": "m", "data": "data.jsonl", "methods": {"rept": {"name": "rept", "layer": 20}}, "max_length": 64,
}  # fmt: skip


def made(count: int, start: int = 0) -> tuple[list[Example], list[TokenizedExample]]:
    """Rows r0, r1, … whose prompts are 1, 2, … tokens long."""
    rows = [
        Example(make_example(f"q{i}", f"r{i}").messages, "odd" if i % 2 else None, f"data.jsonl:{i + 1}", f"id{i}")
        for i in range(start, start + count)
    ]
    return rows, [TokenizedExample(tuple(range(i + 3)), i + 1) for i in range(start, start + count)]


def blocks(count: int, start: int = 0, width: int = 8) -> dict[str, Any]:
    """Every shape a block has; a row's numbers depend on its place alone."""

    def draw(i: int, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(i))

    places = range(start, start + count)
    return {
        "h_2": torch.stack([50 * draw(i, width) for i in places]),
        "g_2": torch.stack([1e-9 * draw(i + 1000, width) for i in places]),
        "grads_2_base": [draw(i + 2000, 1 + i % 3, 4) for i in places],
        "loss": torch.tensor([float(i) for i in places]),
    }


def filled(path: Path, parts: tuple[int, ...] = (3, 1, 4), skipped: tuple[dict[str, str], ...] = ()) -> Index:
    with Writer(path, SETTINGS) as writer:
        start = 0
        for count in parts:
            writer.append(*made(count, start), blocks(count, start))
            start += count
        return writer.finish(skipped, {"layer": 2})


def joined(batches: Iterator[dict[str, Any]], name: str) -> torch.Tensor:
    return torch.cat([batch[name].flat if isinstance(batch[name], Ragged) else batch[name] for batch in batches])


# — round trips


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 4096])
@pytest.mark.parametrize("parts", [(8,), (3, 1, 4), (1,) * 8])
def test_scan_keeps_order_for_any_fragments_and_batch_size(tmp_path: Path, parts: tuple[int, ...], rows: int) -> None:
    index, value = filled(tmp_path / "idx", parts), blocks(8)
    names = ["h_2", "h_2_norm", "g_2", "g_2_norm", "grads_2_base", "loss"]
    batches = list(index.scan(names, rows))
    assert all(len(batch["loss"]) <= rows for batch in batches)
    for name in ("h_2", "g_2"):
        unit = joined(iter(batches), name)
        norms = joined(iter(batches), f"{name}_norm")
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(8), atol=1e-3, rtol=0)
        torch.testing.assert_close(norms, value[name].norm(dim=1), rtol=1e-6, atol=0)
        torch.testing.assert_close(unit * norms[:, None] / norms.max(), value[name] / norms.max(), atol=1e-3, rtol=0)
    assert joined(iter(batches), "loss").tolist() == list(range(8))
    torch.testing.assert_close(
        joined(iter(batches), "grads_2_base"), torch.cat(value["grads_2_base"]), atol=2e-3, rtol=0
    )
    lengths = torch.cat([batch["grads_2_base"].lengths for batch in batches])
    assert lengths.tolist() == [len(words) for words in value["grads_2_base"]]


def test_scan_limits_rows_per_batch_of_wide_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(tmp_path / "idx", parts=(8,))
    whole = joined(index.scan(["h_2", "g_2"]), "g_2")
    monkeypatch.setattr("taughtby.index.reader.SCAN", 50)  # three rows of 2 x 8 numbers
    sizes = [len(batch["h_2"]) for batch in index.scan(["h_2", "g_2"])]
    assert sizes == [3, 3, 2]
    assert torch.equal(joined(index.scan(["h_2", "g_2"]), "g_2"), whole)
    assert [len(batch["loss"]) for batch in index.scan(["loss"])] == [8]
    monkeypatch.setattr("taughtby.index.reader.SCAN", 1)
    assert [len(batch["h_2"]) for batch in index.scan(["h_2"])] == [1] * 8


def test_join_names_abbreviates_numbered_runs() -> None:
    many = [f"p128_{at}" for at in range(30)]
    assert join_names(["h_2", *many, "grads_27_base"]) == "h_2, p128_0 … p128_29, grads_27_base"
    assert join_names(f"{name} (64)" for name in many) == "p128_0 (64) … p128_29 (64)"
    assert join_names(many[:3]) == "p128_0, p128_1, p128_2"
    assert join_names([]) == "no features"


def test_tiny_gradients_keep_direction_and_norm(tmp_path: Path) -> None:
    grads = torch.tensor([[1e-9, 0, 0], [0, -3e-12, 4e-12], [0, 0, 0]])
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        writer.append(*made(3), {"g_L": grads})
        index = writer.finish([], None)
    (batch,) = index.scan(["g_L", "g_L_norm"])
    torch.testing.assert_close(batch["g_L"], torch.tensor([[1.0, 0, 0], [0, -0.6, 0.8], [0, 0, 0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(batch["g_L_norm"], torch.tensor([1e-9, 5e-12, 0]), rtol=1e-5, atol=0)


def test_ragged_feature_with_empty_rows(tmp_path: Path) -> None:
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        writer.append(*made(3), {"grads_2": [torch.zeros(0, 4), torch.ones(2, 4), torch.zeros(0, 4)]})
        index = writer.finish([], None)
    (batch,) = index.scan(["grads_2"])
    assert batch["grads_2"].lengths.tolist() == [0, 2, 0]
    assert batch["grads_2"].owner.tolist() == [1, 1]


def test_ragged_owner_gives_row_of_each_vector() -> None:
    assert Ragged(torch.zeros(6, 2), torch.tensor([2, 0, 3, 1])).owner.tolist() == [0, 0, 2, 2, 2, 3]


def test_take_preserves_requested_order(tmp_path: Path) -> None:
    index, (rows, _) = filled(tmp_path / "idx"), made(8)
    stored = index.take([6, 0, 4])
    assert [one.position for one in stored] == [6, 0, 4]
    assert [one.example for one in stored] == [rows[6], rows[0], rows[4]]
    assert [one.example.id for one in stored] == ["id6", "id0", "id4"]
    assert index.take([]) == []


def test_examples_roundtrip(tmp_path: Path) -> None:
    result, (rows, _) = list(filled(tmp_path / "idx").examples()), made(8)
    assert result == rows
    assert [row.id for row in result] == [row.id for row in rows]


def test_mean_is_of_unit_vectors_over_all_rows(tmp_path: Path) -> None:
    value = blocks(8)["h_2"]
    truth = torch.nn.functional.normalize(value, dim=1).mean(0)
    torch.testing.assert_close(filled(tmp_path / "idx").mean("h_2"), truth, atol=1e-3, rtol=0)


def test_subset_keeps_order_and_full_index_mean(tmp_path: Path) -> None:
    index, places = filled(tmp_path / "idx"), [6, 0, 4]
    part = index.subset(places, ["h_2", "grads_2_base"])
    whole = joined(index.scan(["h_2"]), "h_2")
    assert len(part) == 3
    assert torch.equal(joined(part.scan(["h_2"]), "h_2"), whole[places])
    assert torch.equal(
        joined(part.scan(["h_2_norm"]), "h_2_norm"), joined(index.scan(["h_2_norm"]), "h_2_norm")[places]
    )
    words = [blocks(1, place)["grads_2_base"][0] for place in places]
    torch.testing.assert_close(joined(part.scan(["grads_2_base"]), "grads_2_base"), torch.cat(words), atol=2e-3, rtol=0)
    for few in (part, part.subset([1, 0], ["h_2"])):
        assert torch.equal(few.mean("h_2"), index.mean("h_2"))


def test_lone_surrogates_are_stored(tmp_path: Path) -> None:
    row = Example(make_example("q \ud800", "r").messages, "bad\ud83d", "d\udcff.jsonl:1", "id")
    with Writer(tmp_path / "idx", {**SETTINGS, "data": "d\udcff.jsonl"}) as writer:
        writer.append([row], [TokenizedExample((1, 2), 1)], {"loss": torch.zeros(1)})
        (stored,) = writer.finish([{"source": "d\udcff.jsonl:2", "reason": "ü"}], None).take([0])
    assert stored.example.messages == row.messages
    assert stored.example.label == "bad\\ud83d"


def test_manifest_describes_settings_and_contents(tmp_path: Path) -> None:
    skipped = {"source": "data.jsonl:9", "reason": "too long"}
    index = filled(tmp_path / "idx", skipped=(skipped,))
    manifest = json.loads((tmp_path / "idx" / "manifest.json").read_text())
    version, files, seal = (manifest.pop(key) for key in ("version", "files", "seal"))
    at = manifest["history"][0].pop("at")
    assert manifest == {
        "format": 5, "settings": SETTINGS, "home": str(tmp_path / "idx"),
        "complete": True, "num_rows": 8, "skipped": [skipped], "layers": {"layer": 2},
        "features": {"h_2": 8, "g_2": 8, "grads_2_base": 4},
        "history": [{"did": "index", "data": "data.jsonl", "digest": None, "rows": 8, "skipped": 1}],
    }  # fmt: skip
    assert datetime.fromisoformat(at).tzinfo is not None
    assert len(seal) == 32
    assert lance.dataset(str(tmp_path / "idx" / "rows.lance")).version == version
    for name, (size, hash) in files.items():
        held = (tmp_path / "idx" / "rows.lance" / name).read_bytes()
        assert (len(held), hashlib.blake2b(held, digest_size=16).hexdigest()) == (size, hash)
    assert {name.split("/")[0] for name in files} == {"data", "_versions"}
    assert (len(index), index.features) == (8, manifest["features"])
    assert "8 rows of data.jsonl; h_2 (8), g_2 (8), grads_2_base (4)" in repr(index)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["idx"]
    assert sorted(file.name for file in (tmp_path / "idx").iterdir()) == ["manifest.json", "rows.lance"]


# — damaged indexes


def refused(path: Path, *words: str) -> None:
    with pytest.raises(StoreError) as caught:
        Index.open(path)
    message = str(caught.value)
    assert "do:" in message
    for word in (str(path), *words):
        assert word in message


def test_open_rejects_paths_without_index(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not an index", "taughtby index build MODEL DATA -o")
    refused(tmp_path, "is not an index")


def test_open_rejects_unfinished_index(tmp_path: Path) -> None:
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        writer.append(*made(2), blocks(2))
    refused(tmp_path / "idx", "is not finished", "resumes")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ('{"format": 1, "complete": true}', ("another format", "format 1", "reads format 5")),
        ('{"format": 5, "complete"', ("cannot be read", "JSONDecodeError")),
        ('["format"]', ("cannot be read",)),
        ("{}", ("cannot be read",)),
        ('{"format": 5}', ("cannot be read", "KeyError: 'complete'")),
        ('{"format": 5, "settings": {}, "complete": true}', ("cannot be read", "KeyError: 'version'")),
    ],
)
def test_open_rejects_invalid_manifest(tmp_path: Path, manifest: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "idx"
    filled(path)
    (path / "manifest.json").write_text(manifest)
    refused(path, *words)
    with pytest.raises(StoreError), Writer(path, SETTINGS):
        pass


def test_open_rejects_index_without_rows(tmp_path: Path) -> None:
    filled(tmp_path / "idx")
    shutil.rmtree(tmp_path / "idx" / "rows.lance")
    refused(tmp_path / "idx", "the rows of", "are missing")


def test_require_features_reports_missing_features(tmp_path: Path) -> None:
    index = filled(tmp_path / "idx")
    index.require_features(["h_2", "g_2"], "rept")
    with pytest.raises(
        StoreError, match=r"lesson needs features .* does not have: h_3, x\n  got: h_2, g_2, grads_2_base"
    ):
        index.require_features(["h_3", "g_2", "x"], "lesson")


# — writing: one writer, the same settings, resuming


def test_writer_rejects_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="contains other files"), Writer(tmp_path, SETTINGS):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    assert not Path(f"{tmp_path}.lock").exists()


def test_writer_accepts_empty_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert len(filled(tmp_path / "empty")) == 8
    assert len(filled(tmp_path / "deep" / "er" / "idx")) == 8


def test_writer_reports_each_changed_setting(tmp_path: Path) -> None:
    filled(tmp_path / "idx")
    asked = {**SETTINGS, "methods": {"rept": {"name": "rept", "layer": 16}}, "max_length": 32, "dtype": "float32"}
    with pytest.raises(StoreError) as caught, Writer(tmp_path / "idx", asked):
        pass
    assert caught.value.got == (
        "methods.rept.layer: the index has 20, but 16 was given; max_length: the index has 64, but 32 was given; "
        "dtype: the index has nothing, but float32 was given"
    )


def test_writer_resumes_with_committed_rows(tmp_path: Path) -> None:
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        assert (writer.row_ids, writer.complete) == (set(), False)
        writer.append(*made(3), blocks(3))
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        assert (writer.row_ids, writer.complete) == ({"id0", "id1", "id2"}, False)
        writer.append(*made(2, 3), blocks(2, 3))
        index = writer.finish([], None)
    assert [row.id for row in index.examples()] == [f"id{i}" for i in range(5)]
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        assert writer.complete


def test_finish_without_rows_raises_with_reason(tmp_path: Path) -> None:
    with Writer(tmp_path / "idx", SETTINGS) as writer, pytest.raises(StoreError) as caught:
        writer.finish([{"source": "data.jsonl:1", "reason": "no room for the answer"}], None)
    assert caught.value.what == "no row of data.jsonl can be used"
    assert caught.value.got == "data.jsonl:1: no room for the answer"


def test_second_writer_is_rejected_until_lock_is_released(tmp_path: Path) -> None:
    path = tmp_path / "idx"
    with Writer(path, SETTINGS), pytest.raises(StoreError, match="written by another process"), Writer(path, SETTINGS):
        pass
    with pytest.raises(ZeroDivisionError), Writer(path, SETTINGS):
        _ = 1 / 0
    with pytest.raises(StoreError, match="other settings"), Writer(path, {}):
        pass
    with Writer(path, SETTINGS) as writer:
        assert not writer.complete
    assert [file.name for file in tmp_path.iterdir()] == ["idx"]


def test_lock_excludes_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "idx"
    with Writer(path, SETTINGS):
        other = child(path, "with Writer(path, SETTINGS): pass")
        assert other.wait(300) != 0
        assert other.stderr is not None
        assert "is being written by another process" in other.stderr.read()
    assert child(path, "with Writer(path, SETTINGS): pass").wait(300) == 0


def child(path: Path, code: str) -> subprocess.Popen[str]:
    head = f"""
        import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        from pathlib import Path
        from test_reader import SETTINGS, Writer, blocks, made
        path = Path({str(path)!r})
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("wait", [0.0, 0.031, 0.073])
def test_writer_resumes_after_kill_during_append(tmp_path: Path, wait: float) -> None:
    """A real process, a real SIGKILL, at a moment that is not chosen: between commits or inside one."""
    path = tmp_path / "idx"
    process = child(path, """
        with Writer(path, SETTINGS) as writer:
            for i in range(100_000):
                writer.append(*made(3, 3 * i), blocks(3, 3 * i))
                print(i, flush=True)
    """)  # fmt: skip
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()
    committed = 4 + len(process.stdout.read().split())
    refused(path, "is not finished")
    with Writer(path, SETTINGS) as writer:
        there = len(writer.row_ids)
        assert there % 3 == 0
        assert 3 * committed <= there <= 3 * committed + 3  # the last may be written and not yet told
        assert writer.row_ids == {f"id{i}" for i in range(there)}
        writer.append(*made(2, there), blocks(2, there))
        index = writer.finish([], None)
    assert [row.id for row in index.examples()] == [f"id{i}" for i in range(there + 2)]
    torch.testing.assert_close(joined(index.scan(["loss"]), "loss"), torch.arange(there + 2.0))


@pytest.mark.parametrize("left", ["manifest.json.draft", "rows.lance/data/part.lance", "rows.lance/_versions/.tmp"])
def test_writer_resumes_after_kill_before_first_commit(tmp_path: Path, left: str) -> None:
    path = tmp_path / "idx"
    if left.startswith("rows"):
        with Writer(path, SETTINGS):
            pass
    (path / left).parent.mkdir(parents=True)
    (path / left).write_bytes(b"half")
    assert len(filled(path)) == 8
    assert not (path / "rows.lance" / "data" / "part.lance").exists()


def test_failed_finish_leaves_index_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        writer.append(*made(3), blocks(3))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", _full)
            with pytest.raises(StoreError):
                writer.finish([], None)
    refused(tmp_path / "idx", "is not finished")
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        assert len(writer.finish([], None)) == 3


def _full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_full_disk_raises_and_append_can_be_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        writer.append(*made(3), blocks(3))
        with monkeypatch.context() as patch:
            patch.setattr(lance, "write_dataset", _full)
            with pytest.raises(StoreError) as caught:
                writer.append(*made(3, 3), blocks(3, 3))
        assert str(caught.value) == (
            f"{tmp_path / 'idx'} cannot be read or written\n  got: No space left on device\n"
            "  do:  make room on the disk, and run the same command again: it resumes"
        )
        writer.append(*made(3, 3), blocks(3, 3))
        index = writer.finish([], None)
    assert [row.id for row in index.examples()] == [f"id{i}" for i in range(6)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_writer_resumes_after_real_full_disk(small_disk: Path) -> None:
    wide = {"width": 4096}
    with Writer(small_disk / "idx", SETTINGS) as writer:
        writer.append(*made(10), blocks(10, **wide))
        (small_disk / "holiday.mov").write_bytes(bytes(1_600_000))
        with pytest.raises(StoreError, match="No space left on device") as caught:
            writer.append(*made(30, 10), blocks(30, 10, **wide))
        assert caught.value.do.startswith("make room")
    (small_disk / "holiday.mov").unlink()
    with Writer(small_disk / "idx", SETTINGS) as writer:
        assert writer.row_ids == {f"id{i}" for i in range(10)}
        writer.append(*made(30, 10), blocks(30, 10, **wide))
        index = writer.finish([], None)
    assert joined(index.scan(["loss"]), "loss").tolist() == list(range(40))


def test_tools_and_rejected_answers_roundtrip(tmp_path: Path) -> None:
    plain = make_example("q", "r").messages
    tools = ({"type": "function", "function": {"name": "f", "about": "half \ud800"}},)
    rows = [
        Example(plain, None, "a:1", "1"), Example(plain, "x", "a:2", "2", tools, "no\udc00"),
        Example(plain, None, "a:3", "3", rejected=""), Example(plain, None, "a:4", "4", tools),
    ]  # fmt: skip
    with Writer(tmp_path / "idx", SETTINGS) as writer:
        for row in rows:  # each a commit of its own
            writer.append([row], [TokenizedExample((1, 2), 1)], {"loss": torch.zeros(1)})
        index = writer.finish([], None)
    assert list(index.examples()) == rows
    assert [one.example for one in index.take([3, 1])] == [rows[3], rows[1]]
