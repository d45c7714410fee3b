"""Traces in notebooks: texts in the cell are escaped, and the tables have the trace's results."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conftest import PAIRS
from taughtby.attribution.query import Query
from taughtby.attribution.result import FlaggedRow
from taughtby.attribution.trace import Trace, trace_queries
from taughtby.errors import StoreError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method
from taughtby.reporting import notebook
from taughtby.reporting import text as words

HOSTILE = [
    "<script>document.title='broken'</script>",
    '"><img src=x onerror="document.title=\'broken\'">',
    "</style></div><style>body{display:none}</style>",
    "'><svg/onload=document.title='broken'>",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;",
    "$\\href{javascript:alert(1)}{x}$ \\(y\\)",
    "\u202egnp.exe \u200b\x1b[31m",
    "שלום مرحبا",
    "👩🏽‍🚒🦆",
    "\ud800 alone",
]


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("notebook")
    rows = [f'{{"prompt": "{p}", "response": "{r}", "label": "l{n}"}}' for n, (p, r) in enumerate(PAIRS)]
    (folder / "data.jsonl").write_text("\n".join(rows))
    return build_index(tuned, folder / "data.jsonl", folder / "idx", [get_method("rept"), get_method("lesson")])


@pytest.fixture(scope="module")
def trace(tuned: Any, index: Index) -> Trace:
    queries = [Query("who makes honey", "beetles make it", span="beetles"), Query("why", "the sea", desired="a b c")]
    return trace_queries(index, tuned, queries, top_k=5)


def document(text: str, score: float = 0.9, **more: Any) -> dict[str, Any]:
    """A trace whose texts are all the same."""
    items = [{"role": role, "content": text} for role in ("system", "user", "assistant")]
    words = [{"text": text, "score": score}, {"text": " calm", "score": -0.4}]
    row = {"rank": 1, "id": "9f", "score": score, "source": text, "label": text, "messages": items,
           "score_components": {"h_3": 0.5}, "tokens": words}  # fmt: skip
    query = {"prompt": text, "response": text, "span": text, "desired": text, "rows": [row],
             "answer": [{"text": text, "weight": 1.0}]}  # fmt: skip
    return {"version": 2, "method": {"name": text, "options": {text: text}}, "num_rows": 8, "queries": [query], **more}


class Seen(HTMLParser):
    """The tags, attributes and text of a page, from an independent parser."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# — the cell


def test_cell_shows_queries_and_rows(trace: Trace) -> None:
    """As IPython's formatter does: it looks for `_repr_html_` on the object and takes the string."""
    page = trace._repr_html_()
    text = re.sub(r"\s+", " ", " ".join(Seen(page).texts))
    for query in trace.queries:
        assert query.query.prompt in text
        for row in query.rows:
            assert f" {row.rank} " in text and notebook.format_number(row.score) in text
            assert str(row.example.label) in text and row.example.question in text
    assert "span beetles" in text and "desired a b c" in text
    assert "8 rows in the index" in text and words.format_method(trace.to_json()) in text
    strongest = max(trace.queries[0].rows[0].tokens, key=lambda token: token.score)
    assert notebook.format_number(strongest.score) in text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_escaped_in_cell(text: str) -> None:
    calm, hostile = Seen(notebook.render_cell(document("goose"))), Seen(notebook.render_cell(document(text)))
    assert hostile.tags == calm.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in calm.attributes]
    assert {"script", "img", "svg", "a", "link"}.isdisjoint(hostile.tags)
    shown = "".join(hostile.texts)
    assert notebook.make_visible(text) in shown
    assert not re.search("[\u202a-\u202e\u200b\x1b\ud800]", shown)


def test_cell_disables_mathjax() -> None:
    assert ("class", "taughtby tex2jax_ignore mathjax_ignore") in Seen(notebook.render_cell(document("$x$"))).attributes


def test_cell_contains_no_script_or_url(trace: Trace) -> None:
    page = trace._repr_html_()
    assert not re.search(r"<script|\bon\w+=|javascript:|https?:|@import|url\(", page)
    assert page.startswith("<div") and page.endswith("</div>")


def test_token_shades_follow_scores() -> None:
    page = notebook.render_cell(document("goose", 0.8))
    assert '<span class="for top" style="--w:1.00" title="0.800">goose</span>' in page
    assert '<span class="against" style="--w:0.50" title="-0.400">calm</span>' in page


@pytest.mark.parametrize("score", [math.nan, math.inf, 0.0])
def test_non_finite_or_zero_score_has_no_shade(score: float) -> None:
    cell = notebook.render_cell(document("goose", score))
    assert "nan" not in cell and "inf" not in cell
    assert 'class="for top"' not in cell


@pytest.mark.parametrize("queries", [[], [{}], [{"prompt": "a", "response": "b", "rows": []}], [{"rows": [{}]}]])
def test_cell_and_table_accept_missing_fields(queries: list[dict[str, Any]]) -> None:
    assert notebook.render_cell({"queries": queries}).endswith("</div>")
    assert notebook.to_table({"queries": queries}).num_rows == sum(len(query.get("rows", [])) for query in queries)


def test_cell_limits_queries_and_rows() -> None:
    short = document("goose")["queries"][0]
    query = short | {"rows": short["rows"] * 25}
    page = notebook.render_cell({"queries": [query] * 9})
    assert page.count("and 15 more") == notebook.QUERIES
    assert "4 more queries" in page
    assert page.count("<tr>") == notebook.QUERIES * (1 + notebook.ROWS)


def test_long_row_is_truncated_around_top_scoring_token() -> None:
    result = document("goose")
    row = result["queries"][0]["rows"][0]
    calm = [{"text": " calm", "score": 0.1}] * 500
    row["tokens"] = [*calm, {"text": " honk", "score": 0.8}, *calm, {"text": " ", "score": 0}, *row["tokens"]]
    shown = Seen(notebook.render_cell(result)).texts
    assert "goose" in "".join(shown) and "honk" not in "".join(shown)  # far before the strongest, which is goose
    assert 10 < "".join(shown).count("calm") < 100
    row["tokens"] = row["tokens"][:1001]
    assert '<span class="for top" style="--w:1.00" title="0.800">honk</span>' in notebook.render_cell(result)
    assert len(notebook.render_cell(result)) < 20_000


def test_trace_repr_is_short(trace: Trace) -> None:
    assert repr(trace).startswith("Trace(2 queries × 5 rows by RepT(layer=3")
    assert len(repr(trace)) < 400


def judged(score: float = 0.9) -> dict[str, Any]:
    """A trace with twelve flagged rows, all of them ranked."""
    result = document("goose", score) | {"fdr": 0.1, "warnings": ["the ranking goes by <b>length</b>"]}
    (query,) = result["queries"]
    sure = {"p_value": 0.0004, "flagged": True, "stability": 0.975}
    query |= {
        "increased_by_finetuning": True,
        "num_flagged": 12,
        "rows": [query["rows"][0] | sure | {"rank": at} for at in range(1, 13)],
    }
    query["rows"].append(query["rows"][0] | {"rank": 13, "p_value": 0.5, "flagged": False, "stability": 0.25})
    return result


def test_the_cell_shows_flagged_rows_with_their_evidence() -> None:
    result = judged()
    text = " ".join(Seen(notebook.render_cell(result)).texts)
    wording = words.verdict(result, result["queries"][0], notebook.ROWS)
    assert wording.endswith("10 of them are shown.") and wording in text
    assert text.count("●") == notebook.ROWS
    assert text.count("p = 4.00e-04") == text.count("stable 98 %") == notebook.ROWS
    assert "Warning: the ranking goes by <b>length</b>" in text
    result["queries"][0]["rows"] = result["queries"][0]["rows"][-1:]
    text = " ".join(Seen(notebook.render_cell(result)).texts)
    assert "p = 0.500" in text and "●" not in text and "stable" not in text


def test_cell_without_p_values_shows_no_verdict() -> None:
    page = notebook.render_cell(document("goose"))
    assert 'class="verdict"' not in page and 'class="warning"' not in page and "●" not in page and "p =" not in page


# — the tables


def test_table_contains_p_values_flags_and_stability() -> None:
    frame = notebook.to_table(judged()).to_pandas()
    assert frame["flagged"].tolist() == [True] * 12 + [False]
    assert frame["p_value"].tolist() == [0.0004] * 12 + [0.5]
    assert frame["stability"].tolist() == [0.975] * 12 + [0.25]
    (line,) = notebook.to_table(document("goose")).to_pylist()
    assert line["p_value"] is line["flagged"] is line["stability"] is None


def test_table_matches_trace_rows(trace: Trace) -> None:
    table = trace.to_arrow()
    wanted = [(at, row, traced) for at, traced in enumerate(trace.queries, 1) for row in traced.rows]
    assert table.num_rows == len(wanted) == 10
    for line, (at, row, traced) in zip(table.to_pylist(), wanted, strict=True):
        assert (line["query"], line["prompt"], line["response"]) == (at, traced.query.prompt, traced.query.response)
        assert (line["rank"], line["score"], line["id"]) == (row.rank, row.score, row.example.id)
        assert (line["p_value"], line["flagged"]) == (row.p_value, row.flagged)
        assert line["stability"] == row.stability
        assert (line["source"], line["label"]) == (row.example.source, row.example.label)
        assert (line["row_prompt"], line["row_answer"]) == (row.example.question, row.example.response)
        assert {name: line[name] for name in row.score_components} == row.score_components
        best = max(row.tokens, key=lambda token: token.score)
        assert best.text.strip() in (line["word"] or "") or best.score <= 0


def test_to_pandas_matches_to_arrow(trace: Trace) -> None:
    frame = trace.to_pandas()
    assert list(frame.columns) == trace.to_arrow().column_names
    assert frame["score"].tolist() == [row.score for traced in trace.queries for row in traced.rows]


def test_flagged_rows_are_a_data_frame(trace: Trace) -> None:
    rows = list(trace.index.examples())[:2]
    flagged = tuple(FlaggedRow(row.id, row.source, row.label, row, (1, 2)[: at + 1], at) for at, row in enumerate(rows))
    frame = replace(trace, flagged=flagged).flagged_to_pandas()
    assert frame["id"].tolist() == [row.id for row in rows] and frame["num_queries"].tolist() == [1, 2]
    assert list(frame["queries"][1]) == [1, 2] and frame["row_answer"].tolist() == [row.response for row in rows]
    empty = replace(trace, flagged=()).flagged_to_pandas()
    assert len(empty) == 0 and list(empty.columns) == list(frame.columns)


@pytest.mark.parametrize("text", HOSTILE)
def test_table_accepts_hostile_text(text: str) -> None:
    (line,) = notebook.to_table(document(text)).to_pylist()
    assert line["prompt"] == text.encode("utf-8", "backslashreplace").decode()


def test_empty_table_has_columns() -> None:
    assert notebook.to_table({"queries": []}).column_names[:3] == ["query", "prompt", "response"]


def test_index_to_arrow_contains_rows(index: Index) -> None:
    table = index.to_arrow()
    rows = list(index.examples())
    assert table.column("prompt").to_pylist() == [prompt for prompt, _ in PAIRS]
    assert table.column("response").to_pylist() == [response for _, response in PAIRS]
    for name in ("id", "source", "label"):
        assert table.column(name).to_pylist() == [getattr(row, name) for row in rows]
    assert not set(table.column_names) & set(index.features)
    assert {"n_prompt", "n_response", "loss"} <= set(table.column_names)
    assert index.to_pandas().shape == (8, table.num_columns)


def test_index_to_arrow_returns_features_by_name(index: Index) -> None:
    name = next(iter(index.features))
    column = index.to_arrow([name]).column(name)
    assert pa.types.is_fixed_size_list(column.type)
    scanned = next(index.scan([name]))[name]
    assert column.combine_chunks().flatten().to_pylist() == scanned.flatten().tolist()
    with pytest.raises(StoreError, match="has no feature h_99"):
        index.to_arrow(["h_99"])


# — in a browser


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_does_not_run_hostile_text(scheme: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path: install Debian's package `chromium`")
    cells = "".join(notebook.render_cell(document(text)) for text in HOSTILE)
    file = tmp_path / "notebook.html"
    page = f"<!doctype html><meta charset=utf-8><title>calm</title><body style='color-scheme:light dark'>{cells}"
    file.write_bytes(page.encode())
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page(color_scheme=scheme)
        shown.goto(file.as_uri())
        assert shown.title() == "calm"
        assert shown.locator("img, script, svg").count() == 0
        assert shown.locator(".taughtby").count() == len(HOSTILE)
        assert shown.locator("body").is_visible()
        word = shown.locator(".taughtby span.top").first
        background = word.evaluate("node => getComputedStyle(node).backgroundColor")
        assert re.fullmatch(r"rgba\(245, 158, 11, 0\.6\)", background)
        browser.close()
