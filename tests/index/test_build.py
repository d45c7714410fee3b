"""Building an index: interruptions do not change the rows, and invalid features never become scores."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import taughtby
import taughtby.capture.layer_similarity
import taughtby.index.build
from conftest import PAIRS
from taughtby.capture.capture import capture
from taughtby.capture.layer_similarity import LayerSimilarity
from taughtby.capture.ragged import Ragged
from taughtby.data.batching import collate
from taughtby.data.dataset import ReadOptions
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, tokenize
from taughtby.errors import DataError, OptionError, StoreError
from taughtby.index.arrow import TEXT_COLUMNS
from taughtby.index.build import build_index, check_same_model, probe_rows
from taughtby.index.reader import Index
from taughtby.methods import METHODS, get_method
from taughtby.methods.lesson import Lesson
from taughtby.methods.rept import RepT
from writers import jsonl, turn

REPT = RepT(layer=2)
BOTH = [REPT, Lesson(layer=2, state_layer=3, sketch_dim=16)]


def columns(index: Index) -> dict[str, torch.Tensor]:
    """Return all numeric columns of the index, among them the hash of each row's id."""
    names = [f.name for f in index.dataset.schema if f.name not in TEXT_COLUMNS]
    result: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for batch in index.scan(names):
        for name in names:
            block = batch[name]
            result[name].append(block.flat if isinstance(block, Ragged) else block.double())
    return {name: torch.cat(parts) for name, parts in result.items()}


def same(index: Index, other: Index) -> None:
    assert list(index.examples()) == list(other.examples())
    assert [row.id for row in index.examples()] == [row.id for row in other.examples()]
    one, two = columns(index), columns(other)
    assert list(one) == list(two)
    for name in one:
        # a batch cut otherwise rounds otherwise, by a float16 step at most
        torch.testing.assert_close(
            one[name], two[name], rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert said(index) == said(other)


KEYS = ("version", "files", "seal", "history", "home")


def said(index: Index) -> dict[str, Any]:
    """Return a manifest without times and hashes of files."""
    events = [{key: value for key, value in event.items() if key != "at"} for event in index.manifest["history"]]
    other = {key: value for key, value in index.manifest.items() if key not in KEYS}
    return {**other, "history": events}


class Calls:
    """Counts the rows that each call of a method captures, and can interrupt it."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None = None, fault: Exception | None = None) -> None:
        self.rows: list[int] = []
        whole = RepT.features

        def blocks(how: RepT, model: Any, batch: Any, weights: Any = None) -> Any:
            if len(self.rows) == at and fault:
                raise fault
            self.rows.append(len(batch.row_indices))
            return whole(how, model, batch, weights)

        patch.setattr(RepT, "features", blocks)


def add(data: Path, *rows: tuple[str, str]) -> None:
    with data.open("a") as out:
        out.writelines(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows)


# — layer similarity


def test_resumed_build_keeps_planned_layer(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured again, on another processor say, near neighbours may change places: the plan's own curve counts."""
    curves = [LayerSimilarity((0.9, 0.1, 0.5)), LayerSimilarity((0.9, 0.5, 0.1))]
    monkeypatch.setattr(LayerSimilarity, "transition_layer", property(lambda curve: 2 if curve == curves[0] else 3))
    monkeypatch.setattr(taughtby.capture.layer_similarity, "measure_layer_similarity", lambda *_: curves[0])
    with monkeypatch.context() as patch:
        Calls(patch, at=0, fault=ZeroDivisionError("killed"))
        with pytest.raises(ZeroDivisionError):
            build_index(tuned, data, tmp_path / "idx", [get_method("rept:layer=auto")], encoding=Encoding(128))
    monkeypatch.setattr(taughtby.capture.layer_similarity, "measure_layer_similarity", lambda *_: curves[1])
    for _ in range(2):  # to its end, and once more
        index = build_index(tuned, data, tmp_path / "idx", [get_method("rept:layer=auto")], encoding=Encoding(128))
        assert index.manifest["settings"]["methods"]["rept"]["layer"] == 2
        assert index.manifest["layers"]["similarity"] == [0.9, 0.1, 0.5]
    other = build_index(tuned, data, tmp_path / "other", [get_method("rept:layer=auto")], encoding=Encoding(128))
    assert other.manifest["settings"]["methods"]["rept"]["layer"] == 3


# — stored features


def test_rows_equal_direct_capture(tuned: Any, data: Path, tmp_path: Path) -> None:
    index = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    result = columns(index)
    for place, (prompt, response) in enumerate(PAIRS):
        row = tokenize(tuned.tokenizer, make_example(prompt, response), Encoding(128))
        direct = capture(tuned, collate([row], [0]), [2])  # type: ignore[list-item]
        for name, vector in (("h_2", direct.states[2][0, 0]), ("g_2", direct.grads[2][0, 0])):
            torch.testing.assert_close(result[name][place].float(), vector / vector.norm(), atol=1e-3, rtol=0)
            assert result[f"{name}_norm"][place].item() == pytest.approx(vector.norm().item(), rel=1e-4)
        assert result["loss"][place].item() == pytest.approx(direct.loss.item(), rel=1e-4)
        assert result["n_prompt"][place].item() == row.n_prompt  # type: ignore[union-attr]
        assert result["n_response"][place].item() == row.n_response  # type: ignore[union-attr]
    stored = list(index.examples())
    assert [(row.question, row.response) for row in stored] == PAIRS
    assert [row.source for row in stored] == [f"{data}:{line}" for line in range(1, 9)]
    assert [row.label for row in stored] == ["clean", "clean", "bad", "bad", *["clean"] * 4]


def test_manifest_records_model_data_and_settings(tuned: Any, data: Path, tmp_path: Path) -> None:
    index = build_index(tuned, data, tmp_path / "idx", [get_method("rept:layer=50%")], encoding=Encoding(128))
    settings = index.manifest["settings"]
    assert (settings["model"], settings["adapter"], settings["data"]) == (tuned.name, tuned.adapter, str(data))
    assert set(settings["fingerprint"]) == {"model", "adapter", "base", "template", "data"}
    assert all(result for part, result in settings["fingerprint"].items() if part != "base")
    assert settings["methods"]["rept"]["layer"] == 2
    assert (settings["encoding"]["max_length"], settings["dtype"]) == (128, "float32")
    assert len(index.manifest["layers"]["similarity"]) == tuned.depth - 1
    assert index.features == {"h_2": 32, "g_2": 32}


def test_batch_and_window_size_do_not_change_the_index(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_index(tuned, data, tmp_path / "whole", BOTH, encoding=Encoding(128))
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 3)
    same(build_index(tuned, data, tmp_path / "parts", BOTH, encoding=Encoding(128), token_budget=1), whole)


def test_methods_share_features_in_one_index(tuned: Any, data: Path, tmp_path: Path) -> None:
    methods = [REPT, get_method("repsim:layer=2"), Lesson(layer=2, state_layer=3), get_method("bm25")]
    index = build_index(tuned, data, tmp_path / "idx", methods, encoding=Encoding(128))
    assert index.features == {"h_2": 32, "g_2": 32, "grads_2_base": 32, "shift_3": 32}
    assert list(index.manifest["settings"]["methods"]) == ["rept", "repsim", "lesson", "bm25"]


MANY = [turn("user", "why"), turn("assistant", "bees"), turn("user", "who"), turn("assistant", "sun")]
KINDS: dict[str, tuple[list[dict[str, Any]], ReadOptions | None]] = {
    "text completions": ([{"prompt": f"{prompt} : ", "completion": answer} for prompt, answer in PAIRS[:3]], None),
    "text": ([{"text": prompt} for prompt, _ in PAIRS[:3]], None),
    "text preferences": ([{"prompt": "who : ", "chosen": "bees do", "rejected": "beetles"}], None),
    "completions": ([{"prompt": MANY[:1], "completion": MANY[1:]}], None),
    "all turns": ([{"messages": MANY}, {"messages": MANY[:2]}], ReadOptions(turns="all")),
    "columns": ([{"q": "who", "a": "bees"}], ReadOptions((("question", "q"), ("answer", "a")))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_an_index_are_indexed_as_their_file(
    tuned: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, reading = KINDS[kind]
    # as from the trainer's files, if the model's folder has them
    monkeypatch.setattr(taughtby.index.build, "default_read_options", lambda metadata: reading or ReadOptions())
    indexes = [taughtby.build_index(tuned, jsonl(tmp_path / "a.jsonl", *rows), tmp_path / "a", "rise", progress=False)]
    for name in ("b", "c"):
        indexes.append(taughtby.build_index(tuned, indexes[-1].examples(), tmp_path / name, "rise", progress=False))
    tables = [index.dataset.to_table(columns=["n_prompt", "n_response"]).to_pylist() for index in indexes]
    assert tables[0] == tables[1] == tables[2] and len(tables[0]) > 0
    assert len({json.dumps(index.settings["encoding"]) for index in indexes}) == 1
    tokens = [[tokenize(tuned.tokenizer, row, Encoding(**index.settings["encoding"])) for row in index.examples()]
              for index in indexes]  # fmt: skip
    assert tokens[0] == tokens[1] == tokens[2]


def test_duplicate_method_raises(tuned: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a method is given twice\n  got: rept"):
        build_index(tuned, data, tmp_path / "idx", [REPT, RepT(layer=3)], encoding=Encoding(128))


def test_other_methods_than_those_of_an_index_are_named_shortly(tuned: Any, data: Path, tmp_path: Path) -> None:
    methods = [REPT, get_method("repsim:layer=2"), get_method("bm25")]
    build_index(tuned, data, tmp_path / "idx", methods, encoding=Encoding(128))
    with pytest.raises(StoreError) as caught:
        build_index(tuned, data, tmp_path / "idx", [REPT, get_method("random")], encoding=Encoding(128))
    assert caught.value.got == "methods: the index has bm25, repsim, rept, but random, rept was given"
    assert caught.value.do.startswith("add a method with `taughtby index add`")


def test_text_only_method_stores_no_features(tuned: Any, data: Path, tmp_path: Path) -> None:
    index = build_index(tuned, data, tmp_path / "idx", [METHODS["bm25"]()], encoding=Encoding(128))
    assert (len(index), index.features) == (8, {})


def test_duplicate_rows_are_all_indexed(tuned: Any, data: Path, tmp_path: Path) -> None:
    add(data, PAIRS[2], PAIRS[2])
    index = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    rows, result = list(index.examples()), columns(index)
    assert len(rows) == 10
    assert rows[2].messages == rows[8].messages == rows[9].messages
    assert len({row.id for row in rows}) == 10
    torch.testing.assert_close(result["g_2"][8], result["g_2"][2], atol=1e-3, rtol=0)


def test_progress_ends_with_all_rows(tuned: Any, data: Path, tmp_path: Path) -> None:
    add(data, ("why " * 200, "too long"), PAIRS[0])
    calls: list[tuple[int, int]] = []
    build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128), progress=lambda *at: calls.append(at))
    assert calls == sorted(calls)
    assert calls[-1] == (10, 10)


# — unusable rows


def test_manifest_records_skipped_rows(tuned: Any, data: Path, tmp_path: Path) -> None:
    add(data, ("why " * 200, "too long to be read"), PAIRS[0])
    index = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    (skipped,) = index.manifest["skipped"]
    assert skipped["source"] == f"{data}:9"
    assert skipped["reason"].startswith("no room for the answer: the prompt has ")
    assert [row.source.rpartition(":")[2] for row in index.examples()] == [*"12345678", "10"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["g_2", "loss"])
def test_rows_with_non_finite_features_are_skipped(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bad: float
) -> None:
    whole = RepT.features

    def broken(how: RepT, model: Any, batch: Any, weights: Any = None) -> Any:
        result = whole(how, model, batch, weights)
        for place, ids in enumerate(batch.ids):
            if "beetles" in model.tokenizer.decode(ids):
                result[name][place] = bad
        return result

    monkeypatch.setattr(RepT, "features", broken)
    index = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    assert index.manifest["skipped"] == [
        {"source": f"{data}:3", "reason": "its hidden states or gradients are not finite"}
    ]  # fmt: skip
    assert len(index) == 7
    assert all(bool(block.isfinite().all()) for block in columns(index).values())


def test_no_usable_rows_raises(tuned: Any, tmp_path: Path) -> None:
    add(tmp_path / "d.jsonl", ("why " * 200, "a"), ("why " * 300, "b"))
    with pytest.raises(DataError, match=r"no row of .* can be used\n  got: .*:1: no room for the answer") as caught:
        build_index(tuned, tmp_path / "d.jsonl", tmp_path / "idx", [REPT], encoding=Encoding(128))
    assert "--max-length" in caught.value.do
    assert not (tmp_path / "idx").exists()


def test_invalid_last_line_raises_before_capture(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with data.open("a") as out:
        out.write('{"prompt": "why", "respo')
    calls = Calls(monkeypatch)
    with pytest.raises(DataError, match=r"data\.jsonl:9"):
        build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    assert calls.rows == []
    assert not (tmp_path / "idx").exists()


def test_max_length_above_model_window_raises(tuned: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(257))
    assert (caught.value.got, caught.value.do) == ("--max-length 257, context length 256", "use at most 256")
    assert len(build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(256))) == 8


def test_probe_rows_are_evenly_spaced(tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taughtby.index.build, "PROBE", 4)
    add(tmp_path / "d.jsonl", *((f"why {i}", "a " * (i + 1)) for i in range(10)))
    lengths = [row.n_response for row in probe_rows(tuned, tmp_path / "d.jsonl", ReadOptions(), Encoding(128))]
    every = [
        tokenize(tuned.tokenizer, make_example(f"why {i}", "a " * (i + 1)), Encoding(128)).n_response for i in range(10)
    ]  # type: ignore[union-attr]
    assert lengths == every[::3]


def test_probe_replaces_unusable_rows_with_neighbors(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kinds of rows in turn, and every probed one of the kind that is too long."""
    monkeypatch.setattr(taughtby.index.build, "PROBE", 4)
    add(tmp_path / "d.jsonl", *[("why " * 200, "a"), PAIRS[0]] * 8)
    assert len(probe_rows(tuned, tmp_path / "d.jsonl", ReadOptions(), Encoding(128))) == 4
    assert len(build_index(tuned, tmp_path / "d.jsonl", tmp_path / "idx", [REPT], encoding=Encoding(128))) == 8


# — interruptions


def test_interrupted_build_resumes_from_last_committed_window(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 2)
    add(data, ("why " * 200, "too long"))
    whole = build_index(tuned, data, tmp_path / "whole", [REPT], encoding=Encoding(128))
    with monkeypatch.context() as patch:
        calls = Calls(patch, at=3, fault=RuntimeError("the power went"))
        with pytest.raises(RuntimeError, match="the power went"):
            build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128), token_budget=1)
        assert calls.rows == [1, 1, 1]  # the second window was half done
    with pytest.raises(StoreError, match="is not finished"):
        Index.open(tmp_path / "idx")
    calls = Calls(monkeypatch)
    index = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    assert sum(calls.rows) == 6
    same(index, whole)
    assert len(index.manifest["skipped"]) == 1
    same(build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128)), whole)
    assert sum(calls.rows) == 6


def test_killed_build_resumes(
    tuned: Any, data: Path, tmp_path: Path, model_folder: Path, adapter_folder: Path
) -> None:  # fmt: skip
    """A real `build_index` in its own process, a real SIGKILL, once the first rows are committed.

    At moments that are not chosen: test_torture.py.
    """
    add(data, *((f"why {i} days", f"answer {i} " * (1 + i % 5)) for i in range(60)))
    code = f"""
        import sys, time; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        import torch; torch.set_num_threads(1)
        import taughtby.index.build
        from test_build import BOTH
        from taughtby.models.model import load_model
        from taughtby.data.tokenize import Encoding
        taughtby.index.build.WINDOW = 2
        model = load_model({str(model_folder)!r}, {str(adapter_folder)!r}, dtype="float32", device="cpu")
        def waits(done, _):
            if done >= 20:
                print(done, flush=True)
                time.sleep(600)
        taughtby.index.build.build_index(model, {str(data)!r}, {str(tmp_path / "idx")!r}, BOTH, encoding=Encoding(128),
                                 progress=waits)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert int(process.stdout.readline()) >= 20
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(StoreError, match="is not finished"):
        Index.open(tmp_path / "idx")
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(patch)
        index = build_index(tuned, data, tmp_path / "idx", BOTH, encoding=Encoding(128))
    assert 0 < sum(calls.rows) <= 68 - 8
    same(index, build_index(tuned, data, tmp_path / "whole", BOTH, encoding=Encoding(128)))


@pytest.mark.parametrize(
    "fault",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], RuntimeError]
) -> None:
    monkeypatch.setattr("taughtby.data.batching.BATCH_OVERHEAD", 1)  # all rows in one batch
    whole = build_index(tuned, data, tmp_path / "whole", [REPT], encoding=Encoding(128))
    sizes: list[int] = []

    def small(model: Any, batch: Any, layers: Any) -> Any:
        if len(batch.row_indices) > 2:
            raise fault()
        sizes.append(len(batch.row_indices))
        return capture(model, batch, layers)

    monkeypatch.setattr("taughtby.methods.rept.capture", small)
    index = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    assert sizes == [2, 2, 2, 2]
    same(index, whole)


def test_single_row_oom_and_other_errors_propagate(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in (torch.OutOfMemoryError("out of memory"), RuntimeError("shapes do not fit")):

        def broken(*_: Any, fault: Exception = fault) -> Any:
            raise fault

        monkeypatch.setattr("taughtby.methods.rept.capture", broken)
        with pytest.raises(type(fault), match=str(fault)):
            build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))


# — other settings, other models


def test_changed_settings_are_rejected_by_name(tuned: Any, tiny: Any, data: Path, tmp_path: Path) -> None:
    build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))

    def refused(*parts: str, model: Any = tuned, methods: Any = (REPT,), max_length: int = 128) -> None:
        with pytest.raises(StoreError, match="built with other settings") as caught:
            build_index(model, data, tmp_path / "idx", methods, encoding=Encoding(max_length))
        assert caught.value.got is not None
        assert len(caught.value.got.split("; ")) == len(parts)
        for part in parts:
            assert part in caught.value.got

    refused("methods.rept.layer: the index has 2, but 3 was given", methods=[RepT(layer=3)])
    refused("encoding.max_length: the index has 128, but 64 was given", max_length=64)
    refused("methods.rept.scale: the index has raw, but unit was given", methods=[RepT(layer=2, scale="unit")])
    refused(
        f"adapter: the index has {tuned.adapter}, but None was given",
        f"fingerprint.adapter: the index has {tuned.fingerprint['adapter']}, but None was given",
        model=tiny,
    )
    add(data, ("why", "one more row"))
    refused("fingerprint.data: the index has ")


def test_check_same_model_rejects_other_adapter(tuned: Any, tiny: Any, data: Path, tmp_path: Path) -> None:
    index = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    check_same_model(index, tuned)
    with pytest.raises(StoreError, match="was built with another adapter") as caught:
        check_same_model(index, tiny)
    assert caught.value.got == f"adapter: the index has {tuned.fingerprint['adapter']}, but None was given"


def test_check_same_model_rejects_other_model(tiny: Any, data: Path, tmp_path: Path, make_model: Any) -> None:
    from taughtby.models.model import load_model

    index = build_index(tiny, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    with pytest.raises(StoreError, match="was built with another model"):
        check_same_model(index, load_model(str(make_model("qwen2")), dtype="float32"))


def test_rows_marked_as_untrained_are_indexed_where_all_tokens_have_a_loss(tuned: Any, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "who"}, {"role": "assistant", "content": "bees", **mark}]}
            for mark in ({}, {"weight": 0})]  # fmt: skip
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for mask, count in (("all", 2), ("response", 1)):
        encoding = Encoding(max_length=64, mask=mask)  # type: ignore[arg-type]
        index = build_index(tuned, tmp_path / "d.jsonl", tmp_path / mask, [get_method("repsim")], encoding=encoding)
        assert len(index) == count
        # recorded only where it is not the default, so that older indexes are the same
        assert index.manifest["settings"]["reading"].get("follow_marks") is (False if mask == "all" else None)
