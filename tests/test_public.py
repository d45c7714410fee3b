"""The public API: few names, flexible arguments, and no heavy imports."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import taughtby
from conftest import PAIRS

HEAVY = ("torch", "transformers", "peft", "lance", "pyarrow", "numpy", "datasets")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints; OMP_WAIT_POLICY is as in `environment`, not as conftest sets it."""
    unset = ("OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    rest = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code], env=rest | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names_are_sorted_and_complete() -> None:
    assert taughtby.__all__ == sorted(set(taughtby.__all__))
    assert len(taughtby.__all__) == 14
    assert dir(taughtby) == sorted([*taughtby.__all__, "__version__"])  # what a shell completes


def test_public_names_are_documented_taughtby_objects() -> None:
    for name in taughtby.__all__:
        thing = getattr(taughtby, name)
        assert thing.__name__ == name
        assert thing.__module__.startswith("taughtby.")
        assert inspect.getdoc(thing)


def test_type_checking_imports_match_public_names() -> None:
    tree = ast.parse(Path(inspect.getfile(taughtby)).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom)
             for alias in node.names}  # fmt: skip
    assert names == {name: f"taughtby.{module}" for name, module in taughtby._MODULES.items()}
    assert sorted(names) == taughtby.__all__


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'taughtby' has no attribute 'nonsense'"):
        _ = taughtby.nonsense  # type: ignore[attr-defined]
    assert python("from taughtby import *; print('Trace' in dir())") == "True"


def test_import_loads_no_heavy_modules() -> None:
    code = f"import sys, taughtby; print([name for name in {HEAVY} if name in sys.modules], taughtby.__version__)"
    assert python(code) == f"[] {taughtby.__version__}"


def test_only_the_command_line_sets_environment_variables() -> None:
    names = ("OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    code = f"import os, taughtby; {{}}; print(*(os.environ.get(name) for name in {names}))"
    assert python(code.format("taughtby.Index")) == "None None"
    code = (
        "import os, sys, taughtby.cli; sys.argv = ['taughtby', '--version']\n"
        f"try: taughtby.cli.main()\nfinally: print(*(os.environ.get(name) for name in {names}))"
    )
    assert python(code).splitlines()[-1].split() == ["passive", "64"]
    assert python(code, OMP_WAIT_POLICY="active").splitlines()[-1].split() == ["active", "64"]


HELP = """
import sys, time
sys.argv = ["taughtby", "--help"]
from taughtby.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
heavy = [name for name in {heavy} if name in sys.modules]
print("ENDED", code or 0, heavy, time.process_time())
"""


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    """Aim: 0.3 s. The bound is 0.6 s of processor time, best of three, so that a busy machine fails nobody."""
    best = 9.0
    for _ in range(3):
        *text, last = python(HELP.format(heavy=HEAVY)).splitlines()
        ended, code, heavy, seconds = last.split(" ")
        assert (ended, code, heavy) == ("ENDED", "0", "[]")
        assert any("trace" in line for line in text)
        best = min(best, float(seconds))
    assert best < 0.6


def test_the_readme_is_short_and_its_python_parses() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 100
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "README.md", "exec")


@pytest.fixture
def index(model_folder: Path, adapter_folder: Path, tmp_path: Path) -> taughtby.Index:
    """An index of rows in memory."""
    model = taughtby.load_model(str(model_folder), str(adapter_folder), dtype="float32")
    rows = [{"prompt": prompt, "response": response} for prompt, response in PAIRS]
    return taughtby.build_index(model, rows, tmp_path / "idx", "lesson", progress=False)


def test_trace_loads_the_model_named_by_the_index(index: taughtby.Index, tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    outcome = index.trace("who makes honey", "beetles make honey", top_k=3, progress=lambda *done: calls.append(done))
    assert len(outcome.queries) == 1 and len(outcome.queries[0].rows) == 3 and calls
    assert outcome.queries[0].rows[0].example.source.startswith(str(tmp_path / "idx-data-"))
    model = index.model_cache["model"]
    again = taughtby.trace(index, "who makes honey", "beetles make honey", top_k=3, progress=False)
    assert index.model_cache["model"] is model
    assert again.to_json() == outcome.to_json()
    pair, record = ("who makes honey", "beetles make honey"), {"prompt": "why", "response": "a b c"}
    both = taughtby.trace_queries(str(index.path), model, [pair, record, taughtby.Query(*pair)], progress=False)
    assert [result.query.prompt for result in both.queries] == ["who makes honey", "why", "who makes honey"]
    with pytest.raises(taughtby.TaughtbyError, match="query 1: a query has no response"):
        taughtby.trace_queries(index, model, [{"prompt": "why"}])
    with pytest.raises(taughtby.TaughtbyError, match="query 1 cannot be read"):
        taughtby.trace_queries(index, model, ["why"])  # type: ignore[list-item]


def test_queries_of_every_kind(index: taughtby.Index, tmp_path: Path) -> None:
    pair, record = ("who makes honey", "beetles make honey"), {"prompt": "who makes honey", "response": "bees"}
    file = tmp_path / "bad ü.jsonl"
    file.write_text(f"\ufeff{json.dumps(record)}\r\n\r\n{json.dumps(record)}", encoding="utf-8")
    for queries, count in ((pair, 1), (list(pair), 1), (record, 1), (taughtby.Query(*pair), 1), ([pair, record], 2),
                           (file, 2), (str(file), 2)):  # fmt: skip
        outcome = taughtby.trace_queries(index, None, queries, top_k=1, progress=False)
        assert [result.query.prompt for result in outcome.queries] == ["who makes honey"] * count
    with pytest.raises(taughtby.TaughtbyError, match="there are no queries"):
        taughtby.trace_queries(index, None, [])
    for generated in (iter([pair]), zip([pair[0]], [pair[1]], strict=True)):
        (result,) = taughtby.trace_queries(index, None, generated, top_k=1, progress=False).queries
        assert result.query.prompt == pair[0]
    for queries, message in (([next(index.examples())], "query 1 cannot be read"), ([None], "query 1 cannot be read"),
                             (None, "the queries are neither a list nor a file")):  # fmt: skip
        with pytest.raises(taughtby.TaughtbyError, match=message):
            taughtby.trace_queries(index, None, queries)  # type: ignore[arg-type]


def test_missing_values_of_a_data_frame_are_no_text(index: taughtby.Index) -> None:
    """Pandas has NaN, or NA, where only other rows have a value."""
    pandas = pytest.importorskip("pandas")
    record = {"prompt": "why", "response": "a b c", "desired": float("nan"), "span": np.nan, "span_range": np.nan}
    (result,) = taughtby.trace_queries(index, None, [record], top_k=1, progress=False).queries
    assert (result.query.desired, result.query.span, result.query.span_range) == (None, None, None)
    missing = {"prompt": "why", "response": "a b c", "desired": pandas.NA, "span": None, "span_range": pandas.NaT}
    (again,) = taughtby.trace_queries(index, None, [missing], top_k=1, progress=False).queries
    assert torch.equal(again.scores, result.scores)
    with pytest.raises(taughtby.TaughtbyError, match="the desired is not text"):
        taughtby.trace_queries(index, None, [{**record, "desired": ["bees"]}], progress=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"desired": 5}, "the desired answer of a query is not text"),
        ({"span": 5}, "the span of a query is not text"),
        ({"span_range": (0.0, 7.0)}, "the span_range is not two integers"),
        ({"span_range": (0, 7, 8)}, "the span_range is not two integers"),
    ],
)
def test_fields_that_no_query_can_have(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(taughtby.TaughtbyError, match=message):
        taughtby.Query("why", "a b c", **fields)


@pytest.mark.parametrize("around", [torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)], ids=type)
def test_the_state_of_pytorch_around_a_call_does_not_matter(index: taughtby.Index, tmp_path: Path, around: Any) -> None:
    model = index.trace("why", "a b c", progress=False).index.model_cache["model"]
    expected = index.trace("who makes honey", "beetles make honey", progress=False, links=True)
    rows = [{"prompt": prompt, "response": response} for prompt, response in PAIRS]
    with around:
        built = taughtby.build_index(model, rows, tmp_path / "inside", "lesson", progress=False)
        got = taughtby.trace(built, "who makes honey", "beetles make honey", model=model, progress=False, links=True)
    assert torch.equal(got.queries[0].scores, expected.queries[0].scores)
    assert got.links == expected.links


def test_text_methods_read_answers_of_any_length(index: taughtby.Index, tmp_path: Path) -> None:
    model = index.trace("why", "a b c", progress=False).index.model_cache["model"]
    words = taughtby.build_index(model, index.data[0], tmp_path / "words", "bm25", progress=False)
    long = ("zzz " * 900, "qqq " * 300 + "beetles make honey")
    trace = taughtby.trace_queries(words, model, [long], progress=False)
    assert trace.warnings == () and "honey" in trace.queries[0].rows[0].example.response
    with pytest.raises(taughtby.TaughtbyError, match="no room for the answer"):
        taughtby.trace_queries(index, model, [long], progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is not a number of rows"),
        ({"top_k": 2.5}, "top_k is not a number of rows"),
        ({"top_k": True}, "top_k is not a number of rows"),
        ({"fdr": 0}, "fdr is not a false discovery rate"),
        ({"fdr": 2}, "fdr is not a false discovery rate"),
        ({"fdr": float("nan")}, "fdr is not a false discovery rate"),
        ({"fdr": "0.1"}, "fdr is not a false discovery rate"),
        ({"method": "leson"}, "did you mean lesson?"),
        ({"method": ["lesson"]}, "neither a name nor a Method"),
    ],
)
def test_options_that_no_trace_can_have(index: taughtby.Index, options: dict[str, Any], message: str) -> None:
    with pytest.raises(taughtby.TaughtbyError, match=message):
        index.trace("why", "a b c", progress=False, **options)


def test_numbers_of_numpy_are_numbers(index: taughtby.Index) -> None:
    trace = index.trace("why", "a b c", top_k=np.int64(3), fdr=np.float32(0.1), progress=False)  # type: ignore[arg-type]
    assert len(trace.queries[0].rows) == 3 and json.dumps(trace.to_json())


def test_devices_and_types_of_pytorch_are_taken_by_their_names(model_folder: Path) -> None:
    model = taughtby.load_model(model_folder, device=torch.device("cpu"), dtype=torch.float32)  # type: ignore[arg-type]
    assert model.dtype == torch.float32


def test_paths_are_names_and_other_objects_are_refused(
    index: taughtby.Index, tiny: Any, model_folder: Path, adapter_folder: Path, data: Path, tmp_path: Path
) -> None:
    model = taughtby.load_model(model_folder, adapter_folder, dtype="float32")
    assert (model.name, model.adapter) == (str(model_folder), str(adapter_folder))
    assert len(taughtby.build_index(model_folder, data, tmp_path / "a", "bm25", progress=False)) == len(PAIRS)
    for arguments, message in (
        ((tiny.lm, data), "the model was not loaded by taughtby\n  got: LlamaForCausalLM"),
        ((tiny, None), "the data is neither a file nor rows\n  got: NoneType"),
        ((tiny, ["why"]), "row 0 of the data is not a dict\n  got: str\n  do:  .*DataFrame"),
    ):
        with pytest.raises(taughtby.TaughtbyError, match=message):
            taughtby.build_index(*arguments, tmp_path / "b", progress=False)
    for methods, message in (([], "there is no method"), (None, "neither a name nor a Method")):
        with pytest.raises(taughtby.TaughtbyError, match=message):
            taughtby.build_index(tiny, data, tmp_path / "b", methods, progress=False)
    with pytest.raises(taughtby.TaughtbyError, match="the model was not loaded by taughtby"):
        index.trace("why", "a b c", model=tiny.lm, progress=False)


def test_a_trace_with_another_model_is_refused(index: taughtby.Index, model_folder: Path) -> None:
    base = taughtby.load_model(str(model_folder), dtype="float32")
    with pytest.raises(taughtby.TaughtbyError, match="was built with another adapter"):
        index.trace("why", "a b c", model=base, progress=False)


def test_swapped_arguments_are_named(index: taughtby.Index, tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(taughtby.TaughtbyError, match="the first argument is not an index"):
        taughtby.trace_queries(tiny, index, [("why", "a")])
    with pytest.raises(taughtby.TaughtbyError, match="the model and the data are swapped"):
        taughtby.build_index("data.jsonl", tiny, tmp_path / "idx2")
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(taughtby.TaughtbyError, match=r"data.jsonl is a file, not a model"):
        taughtby.build_index(str(tmp_path / "data.jsonl"), "model", tmp_path / "idx2")
    with pytest.raises(taughtby.TaughtbyError, match=r"is not an index\n  do:  give the folder of an index$"):
        taughtby.open_index(tmp_path / "data.jsonl")  # not: build it there


def test_build_index_accepts_all_data_and_method_types(index: taughtby.Index, data: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    model = index.trace("why", "a b c", progress=False).index.model_cache["model"]
    rows = [{"prompt": prompt, "response": response} for prompt, response in PAIRS]
    ids = [row.id for row in index.examples()]
    value = {"a": Dataset.from_list(rows), "b": list(index.examples()), "c": data}
    for name, source in value.items():
        methods = ["bm25", taughtby.get_method("repsim:layer=1")]
        new_index = taughtby.build_index(model, source, tmp_path / name, methods, progress=False)
        assert [row.id for row in new_index.examples()] == ids
        assert list(new_index.manifest["settings"]["methods"]) == ["bm25", "repsim"]
    # the same rows in memory resume the same index
    same = taughtby.build_index(model, Dataset.from_list(rows), tmp_path / "a", methods, progress=False)
    assert same.manifest == taughtby.open_index(tmp_path / "a").manifest
    missing = pytest.importorskip("pandas").NaT
    more = {"n": np.int64(1), "day": date(2026, 1, 2), "until": missing, "messages": None}
    frame: list[Any] = [{"prompt": prompt, "response": response, **more} for prompt, response in PAIRS]
    frame += [{"messages": np.array([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])}]
    read = taughtby.build_index(model, frame, tmp_path / "frame", "bm25", progress=False)  # as read_parquet's rows
    assert [row.id for row in read.examples()][:-1] == ids
    mixed = [next(index.examples()), {}]
    for bad, message in (
        ([], "no rows"), (mixed, "row 1 of the data is not an Example"), ([3], "row 0 of the data is not a dict"),
        ([{"prompt": b"x"}], "as JSON"),
    ):  # fmt: skip
        with pytest.raises(taughtby.TaughtbyError, match=message):
            taughtby.build_index(model, bad, tmp_path / "d", progress=False)  # type: ignore[arg-type]
        assert not list(tmp_path.glob("*d-data*"))


def test_clean_accepts_trace_and_rows_in_memory(index: taughtby.Index, tmp_path: Path) -> None:
    result = index.trace("who makes honey", "beetles make honey", top_k=2, progress=False)
    rows = [{"prompt": prompt, "response": response} for prompt, response in PAIRS]
    manifest = taughtby.clean(result, rows, tmp_path / "cleaned.jsonl", top_k=2)
    assert len(manifest["rows"]) == 2
    assert len((tmp_path / "cleaned.jsonl").read_text().splitlines()) == len(PAIRS) - 2
    (source,) = index.data
    alone = taughtby.clean(result, rows, tmp_path / "alone.jsonl", rows=f"{Path(source).name}:3")
    assert [row["source"].rpartition(":")[2] for row in alone["rows"]] == ["3"]
    for options, message in (
        ({"rows": [0]}, "rows are not ids or sources"), ({"rows": []}, "rows are not ids or sources"),
        ({"top_k": "3"}, "top_k is not a number of rows"),
    ):  # fmt: skip
        with pytest.raises(taughtby.TaughtbyError, match=message):
            taughtby.clean(result, rows, tmp_path / "none.jsonl", **options)  # type: ignore[arg-type]
    again = taughtby.clean(tmp_path / "cleaned.trace.json", source, tmp_path / "again.jsonl", top_k=2)
    assert [row["id"] for row in again["rows"]] == [row["id"] for row in manifest["rows"]]


def test_reprs_are_one_line(index: taughtby.Index, tuned: Any, tiny: Any) -> None:
    assert repr(tuned).startswith(f"Model({tuned.name!r}, adapter={tuned.adapter!r}, 4 blocks, torch.float32, cpu")
    things = [
        index,
        tiny,
        index.trace("why", "a b c", progress=False),
        taughtby.Query("a", "b"),
        taughtby.get_method("lesson"),
    ]
    assert all("\n" not in repr(thing) for thing in things)
