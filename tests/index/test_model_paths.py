"""Paths in an index, an adapter and a trace that are used from another folder, or moved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_finetune import RECIPE, ROWS, fresh, stopping

from conftest import PAIRS, Run
from taughtby.data.tokenize import Encoding
from taughtby.errors import StoreError
from taughtby.index.build import build_index
from taughtby.index.manifest import Manifest
from taughtby.index.model_sources import ModelSource, model_sources, resolved_address
from taughtby.index.reader import Index
from taughtby.index.storage import storage_path
from taughtby.lab.finetune import finetune
from taughtby.methods import Method, get_method
from taughtby.methods.lesson import Lesson
from taughtby.methods.rept import RepT
from taughtby.models.model import load_model
from taughtby.models.model_files import base_of_adapter
from taughtby.models.paths import absolute_name, candidate_paths, locate
from taughtby.remediation.trace_file import load_trace, save_trace
from taughtby.server.session import Session

PROMPT, RESPONSE = PAIRS[2]


# — names


def test_absolute_name_resolves_local_paths_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("owner/model", "smollm2", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "blob").write_text("")
    (tmp_path / "data.jsonl").symlink_to("blob")
    (tmp_path / "latest").symlink_to("here")
    os.mkfifo(tmp_path / "pipe")
    assert absolute_name("here") == absolute_name("./here/../here") == absolute_name("latest") == str(tmp_path / "here")
    assert absolute_name("owner/model") == str(tmp_path / "owner/model")  # what is here is what is loaded
    assert absolute_name("data.jsonl") == str(tmp_path / "data.jsonl")  # whose suffix says what it holds
    assert absolute_name(".") == str(tmp_path)
    for name in ("smollm2", "owner/other", "s3://bucket/data.jsonl", "gs://b/i", "-", "pipe", "no/such/folder"):
        assert absolute_name(name) == name
    assert resolved_address(storage_path("idx")) == str(tmp_path / "idx")
    assert resolved_address(storage_path("s3://bucket/idx")) == "s3://bucket/idx"


def test_paths_beside_the_index_come_before_recorded_paths(tmp_path: Path) -> None:
    was, now = tmp_path / "was", tmp_path / "now"
    name, home, here = str(was / "adapter"), str(was / "idx"), now / "idx"
    here.mkdir(parents=True)
    assert candidate_paths(name, home, here) == []
    assert locate(name, home, here) == name
    (was / "adapter").mkdir(parents=True)
    assert candidate_paths(name, home, here) == [name]
    (now / "adapter").mkdir()
    assert candidate_paths(name, home, here) == [str(now / "adapter"), name]
    assert candidate_paths(name, home, was / "idx") == [name]
    # an index in a store has nothing beside it
    assert candidate_paths(name, "s3://b/idx", storage_path("s3://b/idx")) == [name]
    assert locate("owner/model", home, here) == "owner/model"


def test_legacy_relative_path_resolves_in_cwd_or_beside_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work/idx").mkdir(parents=True)
    (tmp_path / "work/adapter").mkdir()
    assert candidate_paths("adapter", None, tmp_path / "work/idx") == [str(tmp_path / "work/adapter")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    assert candidate_paths("adapter", None, tmp_path / "work/idx")[0] == str(tmp_path / "adapter")


def test_model_sources_resolve_each_component_separately(tmp_path: Path) -> None:
    was, now = tmp_path / "was", tmp_path / "now"
    for folder in (was / "adapter", was / "base", now / "adapter", now / "idx"):
        folder.mkdir(parents=True)
    settings = {"model": "owner/model", "adapter": str(was / "adapter"), "base": str(was / "base")}
    manifest = {"settings": settings, "home": str(was / "idx")}
    base = str(was / "base")
    assert model_sources(manifest, now / "idx") == [
        ModelSource("owner/model", (str(now / "adapter"),), base),
        ModelSource("owner/model", (str(was / "adapter"),), base),
    ]  # fmt: skip
    assert model_sources(manifest, now / "idx", "other", ["a", "b"], "c") == [ModelSource("other", ("a", "b"), "c")]
    shutil.rmtree(was / "base")
    with pytest.raises(StoreError, match=r"the base that .*idx was built with was not found") as caught:
        model_sources(manifest, now / "idx")
    assert (caught.value.got, caught.value.do) == (base, "give its new path with --base")


# — indexes


@pytest.fixture
def work(tmp_path: Path, model_folder: Path, adapter_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, an adapter and data, in which one works by their bare names; an index of them."""
    folder = tmp_path / "work"
    shutil.copytree(model_folder, folder / "model")
    shutil.copytree(adapter_folder, folder / "adapter")
    shutil.copy(data, folder / "data.jsonl")
    monkeypatch.chdir(folder)
    indexed(folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def indexed(folder: Path, out: str = "idx", **more: Any) -> Index:
    here = Path.cwd()
    names = [os.path.relpath(folder / name, here) for name in ("model", "adapter", "data.jsonl", out)]
    model = load_model(names[0], names[1], dtype="float32", device="cpu")
    methods = [get_method("lesson:layer=3,state_layer=2")]
    return build_index(model, names[2], names[3], methods, encoding=Encoding(128), **more)


def traced(run: Run, index: Path | str, *more: str) -> tuple[str, str]:
    code, out, message = run("trace", index, "-p", PROMPT, "-r", RESPONSE, "--device", "cpu", "--top-k", 8, *more)
    assert code == 0, message
    return out, message


def test_trace_from_another_folder(work: Path, run: Run) -> None:
    settings = json.loads((work / "idx/manifest.json").read_text())["settings"]
    assert settings["model"] == str(work / "model") and settings["adapter"] == str(work / "adapter")
    assert "data.jsonl:3" in traced(run, "../work/idx")[0]


def test_trace_after_model_and_index_moved_together(work: Path, tmp_path: Path, run: Run) -> None:
    work.rename(tmp_path / "moved")
    assert "data.jsonl:3" in traced(run, "../moved/idx")[0]


def test_trace_after_only_the_index_moved(work: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "far/away").mkdir(parents=True)
    (work / "idx").rename(tmp_path / "far/away/idx")
    assert "data.jsonl:3" in traced(run, tmp_path / "far/away/idx")[0]


def test_mismatched_model_beside_index_is_skipped(
    work: Path, tmp_path: Path, run: Run, make_model: Callable[[str], Path]
) -> None:
    shutil.copytree(work / "idx", tmp_path / "copy/idx")
    shutil.copytree(make_model("gpt2"), tmp_path / "copy/model")
    out, message = traced(run, tmp_path / "copy/idx")
    assert "data.jsonl:3" in out
    assert f"the model beside {tmp_path}/copy/idx is not the one the index was built with" in message


def test_missing_adapter_path_is_reported(work: Path, run: Run) -> None:
    (work / "adapter").rename(work / "mine")
    code, _, message = run("trace", work / "idx", "-p", PROMPT, "-r", RESPONSE)
    assert (code, message.strip()) == (
        1,
        f"error: the adapter that {work}/idx was built with was not found\n"
        f"  got: {work}/adapter\n  do:  give its new path with --adapter",
    )
    traced(run, work / "idx", "--adapter", str(work / "mine"))


def aged(index: Path) -> None:
    """As an earlier version wrote it: paths as they were typed, and no home."""
    manifest = json.loads((index / "manifest.json").read_text())
    del manifest["home"]
    manifest["settings"] |= {"model": "model", "adapter": "./adapter", "data": "data.jsonl"}
    manifest["history"][0]["data"] = "data.jsonl"
    (index / "manifest.json").write_text(Manifest.from_json(manifest).to_text())


def test_index_of_earlier_version_opens(work: Path, run: Run) -> None:
    aged(work / "idx")
    assert "data.jsonl:3" in traced(run, work / "idx")[0]
    assert Index.open(work / "idx").data == [str(work / "data.jsonl")]
    assert run("index", "verify", work / "idx")[0] == 0
    assert len(indexed(work)) == len(PAIRS)  # the same command, by other names: it is finished


class Calls:
    """Counts the rows that a method captures from now on; the call after `at` others fails."""

    def __init__(self, patch: pytest.MonkeyPatch, method: type[Method], at: int | None = None) -> None:
        self.rows: list[int] = []
        features = method.features

        def counted(self_: Any, model: Any, batch: Any, weights: Any = None) -> Any:
            if len(self.rows) == at:
                raise ZeroDivisionError
            self.rows.append(len(batch.row_indices))
            return features(self_, model, batch, weights)

        patch.setattr(method, "features", counted)


@pytest.mark.parametrize("old", [False, True])
def test_build_resumes_from_another_folder(
    old: bool, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taughtby.index.build.WINDOW", 2)
    with monkeypatch.context() as patch:
        Calls(patch, Lesson, at=2)
        with pytest.raises(ZeroDivisionError):
            indexed(work, "other", token_budget=1)
    if old:
        manifest = json.loads((work / "other/manifest.json").read_text())
        manifest["settings"] |= {"model": "../model", "adapter": "adapter", "data": "../data.jsonl"}
        (work / "other/manifest.json").write_text(Manifest.from_json(manifest).to_text())
    monkeypatch.chdir(tmp_path)
    calls = Calls(monkeypatch, Lesson)
    assert len(indexed(work, "other")) == len(PAIRS)
    assert sum(calls.rows) == len(PAIRS) - 2


def test_append_resumes_after_folder_moved(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (work / "data.jsonl").open("a") as out:
        out.writelines(json.dumps({"prompt": f"why honey {n}", "response": "bees"}) + "\n" for n in range(5))
    monkeypatch.setattr("taughtby.index.build.WINDOW", 2)
    with monkeypatch.context() as patch:
        Calls(patch, Lesson, at=2)
        with pytest.raises(ZeroDivisionError):
            indexed(work, append=True, token_budget=1)
    work.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    calls = Calls(monkeypatch, Lesson)
    assert len(indexed(tmp_path / "moved", append=True)) == len(PAIRS) + 5
    assert sum(calls.rows) == 3


def test_add_features_resumes_from_another_folder(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taughtby.index.maintenance import add_features

    model = load_model(str(work / "model"), str(work / "adapter"), dtype="float32", device="cpu")
    monkeypatch.setattr("taughtby.index.build.WINDOW", 2)
    with monkeypatch.context() as patch:
        Calls(patch, RepT, at=2)
        with pytest.raises(ZeroDivisionError):
            add_features(model, os.path.relpath(work / "idx"), [get_method("rept:layer=3")], token_budget=1)
    monkeypatch.chdir(tmp_path)
    calls = Calls(monkeypatch, RepT)
    assert "g_3" in add_features(model, os.path.relpath(work / "idx"), [get_method("rept:layer=3")]).features
    assert sum(calls.rows) == len(PAIRS) - 2


def test_replaced_model_is_rejected(work: Path, make_model: Callable[[str], Path]) -> None:
    shutil.rmtree(work / "model")
    shutil.copytree(make_model("llama-tied"), work / "model")
    with pytest.raises(StoreError, match=r"built with other settings\n  got: .*fingerprint.model"):
        indexed(work)


def test_open_index_survives_chdir(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    index = Index.open("idx")
    monkeypatch.chdir(tmp_path)
    assert index.path == work / "idx"
    assert index.data == [str(work / "data.jsonl")]
    assert Session(index, lambda: None).data_file == work / "data.jsonl"  # type: ignore[arg-type,return-value]


# — traces


def test_trace_file_resolves_index_from_any_folder(
    work: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    traced(run, "idx", "--json", "trace.json")
    monkeypatch.chdir(tmp_path)
    trace = load_trace("work/trace.json")
    assert (trace["model"], trace["adapter"]) == (str(work / "model"), str(work / "adapter"))
    assert trace["index"] == str(work / "idx")
    work.rename(tmp_path / "moved")
    trace = load_trace("moved/trace.json")
    assert (trace["model"], trace["index"]) == (str(tmp_path / "moved/model"), str(tmp_path / "moved/idx"))
    # one that an earlier version wrote
    (tmp_path / "moved/trace.json").write_text(json.dumps({"version": 2, "queries": [], "index": "idx"}))
    assert load_trace("moved/trace.json")["index"] == str(tmp_path / "moved/idx")


def test_trace_file_keeps_object_store_url(tmp_path: Path) -> None:
    save_trace({"version": 2, "queries": [], "index": "s3://bucket/idx", "model": "owner/model"}, tmp_path / "t.json")
    trace = load_trace(tmp_path / "t.json")
    assert (trace["index"], trace["model"]) == ("s3://bucket/idx", "owner/model")


# — adapters


def test_adapter_resolves_base_model_from_any_folder(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    finetune(load_model("model", dtype="float32"), ROWS, "made", RECIPE)
    monkeypatch.chdir(tmp_path)
    assert base_of_adapter(work / "made") == (str(work / "model"), ())
    work.rename(tmp_path / "moved")
    assert base_of_adapter(tmp_path / "moved/made") == (str(tmp_path / "moved/model"), ())
    assert load_model("moved/made", dtype="float32").name == str(tmp_path / "moved/model")


def test_training_resumes_after_folder_moved(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.lab.trainer.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        finetune(fresh(work / "model"), ROWS, work / "made", RECIPE, progress=stopping(4))
    work.rename(tmp_path / "moved")
    steps: list[int] = []
    finetune(fresh(tmp_path / "moved/model"), ROWS, tmp_path / "moved/made", RECIPE,
             progress=lambda done, _: steps.append(done))  # fmt: skip
    assert steps[0] == 4
