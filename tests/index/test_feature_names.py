"""Feature names include everything that the numbers depend on, so methods with other numbers have other names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from test_build import Calls

from conftest import PAIRS, Run
from taughtby.attribution.method_choice import choose_method
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.batching import collate
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import OptionError, StoreError
from taughtby.index import maintenance as upkeep
from taughtby.index.build import build_index
from taughtby.index.maintenance import add_features
from taughtby.index.reader import Index
from taughtby.index.verify import verify
from taughtby.methods import METHODS, Method, get_method
from taughtby.methods import embedding as room
from taughtby.models.model import Model, load_model

# small enough for the sketches of a tiny model to be sketches
SMALL = {
    "lesson": {"sketch_dim": 16, "tokens_per_row": 2}, "rise": {"states": 8, "residuals": 8, "errors": 8, "support": 8},
    "rapidin": {"k": 64}, "less": {"k": 64}, "logra": {"rank": 4}, "tracin": {"project": 16},
    "tracin-ln": {"project": 16}, "datainf": {"project": 16}, "lissa": {"project": 16},
}  # fmt: skip
HELD = {
    "lesson": {"layer", "state_layer", "sketch_dim", "tokens_per_row", "seed"}, "rept": {"layer"}, "repsim": {"layer"},
    "shift": {"layer"},
    "rise": {"temperature", "states", "residuals", "errors", "support", "mass", "seed"},
    "rapidin": {"k", "seed"}, "less": {"k", "seed"}, "logra": {"rank", "seed"}, "embedding": {"what"},
    **{name: {"project", "seed"} for name in ("tracin", "tracin-ln", "datainf", "lissa")},
}  # fmt: skip
Numbers = dict[str, Any]


def others(how: Method, name: str) -> Iterator[Method]:
    """The method with other values of that option."""
    kind, now = get_type_hints(type(how))[name], getattr(how, name)
    choices: tuple[Any, ...] = {int: (1, 2, 3), float: (0.5, 0.25), bool: (True, False)}.get(kind) or (
        get_args(kind) if get_args(kind) != (int, str) else (1, 2, 4)
    )
    for value in choices:
        try:
            if value != now:
                yield replace(how, **{name: value})
        except OptionError:
            continue


@pytest.fixture(scope="module")
def batch(tuned: Model) -> Any:
    rows = [tokenize(tuned.tokenizer, make_example(*pair), Encoding(128)) for pair in PAIRS[1:5]]
    return collate([row for row in rows if isinstance(row, TokenizedExample)], range(4))


def numbers(how: Method, model: Model, batch: Any, expected: dict[Method, Numbers]) -> Numbers:
    if how not in expected:
        blocks = how.features(model, batch) | how.text_features([make_example(*pair) for pair in PAIRS[1:5]])
        expected[how] = {name: blocks[name] for name in how.feature_names(model.depth)}
    return expected[how]


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return all(map(alike, one, other))
    return one.shape == other.shape and bool((one - other).norm() <= 1e-3 * one.norm())


def random_features(texts: Any) -> torch.Tensor:
    return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(len(text))) for text in texts])


def test_same_feature_name_implies_equal_features(tuned: Model, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method, each of its options changed, by default and with sketches that are narrow for the tiny model."""
    monkeypatch.setattr(room, "embed", random_features)
    by_name: dict[str, tuple[Method, Any]] = {}
    expected: dict[Method, Numbers] = {}
    message: dict[str, set[str]] = {}
    changes: dict[str, set[str]] = {}
    for kind in METHODS.values():
        plain = kind().resolve_layers(tuned.depth, None)
        for how in dict.fromkeys((plain, replace(plain, **SMALL.get(kind.name, {})))):
            mine = numbers(how, tuned, batch, expected)
            for option in fields(how):
                for other in others(how, option.name):
                    theirs = numbers(other, tuned, batch, expected)
                    if mine.keys() != theirs.keys():
                        message.setdefault(kind.name, set()).add(option.name)
                    if not all(map(alike, mine.values(), theirs.values())):
                        changes.setdefault(kind.name, set()).add(option.name)
    for how, result in expected.items():
        for name, block in result.items():
            first, same = by_name.setdefault(name, (how, block))
            assert alike(block, same), f"{how} and {first} store different numbers as {name}"
    assert message == changes == HELD  # each option does something here, and no name holds one that does nothing


def test_feature_names_of_default_and_changed_options() -> None:
    names = {
        spec: get_method(spec).resolve_layers(30, None).feature_names(30)
        for spec in ("lesson", "rise", "less", "rapidin")
    }
    assert names == {
        "lesson": ("grads_27_base", "shift_15"), "rise": ("rh_L", "gh_L"),
        "less": ("less8192",), "rapidin": ("rapidin16384",),
    }  # fmt: skip
    assert get_method("logra:seed=3").feature_names(2) == ("logra16s3_0", "logra16s3_1")
    assert get_method("rise:temperature=0.2,seed=1").feature_names(2) == (
        "rh_L_temperature0p2_seed1",
        "gh_L_temperature0p2_seed1",
    )
    assert get_method("lesson:layer=1,state_layer=1,tokens_per_row=0").feature_names(2)[0] == "grads_1_base_keep0"
    spec = "lesson:layer=1,state_layer=1,sketch_dim=64"
    assert get_method(spec).spec_string() == spec
    assert get_method("bm25").spec_string() == "bm25"


SPECS = {
    "lesson:layer=2,state_layer=3,sketch_dim=16": ("sketch_dim=8", "tokens_per_row=1", "seed=1", "state_layer=1"),
    "rise:states=8,residuals=8,errors=8": ("temperature=1", "mass=0.5", "seed=1", "support=4"),
    "less:k=64": ("seed=1", "k=32"), "logra:rank=4": ("seed=1", "rank=2"), "rapidin:k=64": ("seed=1",),
    "tracin:project=16": ("seed=1",),
}  # fmt: skip


@pytest.mark.parametrize("first", SPECS)
def test_add_method_with_other_options_and_trace_with_each(
    tuned: Model, data: Path, tmp_path: Path, first: str
) -> None:
    index = build_index(tuned, data, tmp_path / "idx", [get_method(first)], encoding=Encoding(128))
    specs = [f"{first},{option}" for option in SPECS[first]]
    more = add_features(tuned, index.path, [get_method(spec) for spec in specs])
    assert len(more.manifest["settings"]["methods"]) == 1 + len(specs)
    held = {name for spec in specs for name in get_method(spec).feature_names(tuned.depth)}
    assert held <= set(more.features)
    assert verify(index.path, tuned).faults == ()
    for spec in (first, *specs):
        assert choose_method(more, tuned, spec) == get_method(spec)
        (traced,) = trace_queries(more, tuned, [Query(*PAIRS[2])], method=spec, score_tokens=False).queries
        assert traced.rows
    for title in more.manifest["settings"]["methods"]:  # as a page that lists them asks
        assert choose_method(more, tuned, title).spec() == more.manifest["settings"]["methods"][title]


def test_adding_methods_with_existing_features_reads_no_rows(
    tuned: Model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = get_method("lesson:layer=2,state_layer=3,sketch_dim=16")
    index = build_index(tuned, data, tmp_path / "idx", [lesson, get_method("tracin")], encoding=Encoding(128))
    monkeypatch.setattr(upkeep, "capture_into", lambda *_: pytest.fail("rows are read"))
    assert add_features(tuned, index.path, [lesson]).manifest == index.manifest
    more = add_features(tuned, index.path, [get_method("datainf"), replace(lesson, state_weight=0.5)])  # type: ignore[call-arg]
    assert list(more.manifest["settings"]["methods"]) == ["lesson", "tracin", "datainf", "lesson:state_weight=0.5"]
    assert (more.features, more.manifest["history"][-1]["did"]) == (index.features, "add")
    assert verify(index.path, tuned).faults == ()


def test_add_features_computes_only_missing_features(
    tuned: Model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build_index(tuned, data, tmp_path / "idx", [get_method("rept:layer=2")], encoding=Encoding(128))
    calls = Calls(monkeypatch)  # of rept
    more = add_features(tuned, index.path, [get_method("rept:layer=2,h=2"), get_method("repsim:layer=3")])
    assert calls.rows == []
    assert list(more.features) == ["h_2", "g_2", "h_3"]


def test_add_command_reports_added_features(
    run: Run, data: Path, tmp_path: Path, model_folder: Path, adapter_folder: Path
) -> None:
    items = [model_folder, data, "-o", tmp_path / "idx", "--adapter", adapter_folder]
    assert run("index", "build", *items, "-m", "rept:layer=2")[0] == 0
    held = f"8 rows in {tmp_path / 'idx'}, features h_2, g_2\n"
    for spec, text in (
        ("rept:layer=2", "nothing to add, the index has it already"),
        ("repsim:layer=2", "repsim added, with features that were there already"),
        ("repsim:layer=2", "nothing to add, the index has it already"),
    ):
        code, out, err = run("index", "add", tmp_path / "idx", "-m", spec)
        assert (code, out) == (0, f"{text}: {held}"), err
    code, out, _ = run("index", "append", tmp_path / "idx", data)
    assert (code, out) == (0, f"0 rows added: {held}")


def test_pending_change_keeps_captured_features(
    tuned: Model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding another method meanwhile is refused before anything is removed."""
    index = build_index(tuned, data, tmp_path / "idx", [get_method("rept:layer=2")], encoding=Encoding(128))
    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "_join_features", lambda *_: (_ for _ in ()).throw(RuntimeError("the power went")))
        with pytest.raises(RuntimeError, match="the power went"):
            add_features(tuned, index.path, [get_method("repsim:layer=3")])
    with pytest.raises(StoreError, match="has an unfinished change"):
        add_features(tuned, index.path, [get_method("repsim:layer=1")])
    monkeypatch.setattr(upkeep, "capture_into", lambda *_: pytest.fail("rows are read again"))
    assert "h_3" in add_features(tuned, index.path, [get_method("repsim:layer=3")]).features


def test_less_features_require_same_optimizer_moments(
    model_folder: Path, adapter_folder: Path, data: Path, tmp_path: Path
) -> None:
    """With other moments of the optimizer the model gives other blocks: that is said, and not taken for damage."""
    from safetensors.torch import load_file, save_file

    def load() -> Model:
        return load_model(str(model_folder), str(adapter), dtype="float32")

    def moments(size: float) -> None:
        weights = load_file(adapter / "adapter_model.safetensors")
        rest = {f"{name.removesuffix('.weight').removeprefix('base_model.model.')}{kind}": torch.full_like(w, size)
                for name, w in weights.items() for kind in (".exp_avg", ".exp_avg_sq")}  # fmt: skip
        text = {"step": "3", "beta1": "0.9", "beta2": "0.999", "eps": "1e-8"}
        save_file(rest, adapter / "optimizer.safetensors", metadata=text)

    adapter = tmp_path / "adapter"
    shutil.copytree(adapter_folder, adapter)
    moments(0.5)
    index = build_index(load(), data, tmp_path / "idx", [get_method("less:k=64")], encoding=Encoding(128))
    assert verify(index.path, load()).faults == ()
    moments(0.75)
    for change in (
        lambda: verify(index.path, load()),
        lambda: add_features(load(), index.path, [get_method("less:k=32")]),
    ):
        with pytest.raises(StoreError, match="no longer matches the features"):
            change()
    assert Index.open(index.path).manifest == index.manifest
