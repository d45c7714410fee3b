"""Jobs of the served page in a browser: retraining that survives a reload, and links of a served trace file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import taughtby
from conftest import PAIRS
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
from test_browser import browser, serving, until  # noqa: F401  # pyright: ignore[reportUnusedImport]

from taughtby.lab import training_options
from taughtby.reporting.notebook import render_cell
from taughtby.server.session import Session

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    file: Path = tmp_path_factory.mktemp("jobs") / "data.jsonl"
    rows = [{"prompt": p, "response": f"{r} {n}"} for n in range(3) for p, r in PAIRS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    methods = [get_method(spec) for spec in ("lesson:layer=2,state_layer=1,sketch_dim=16", "bm25")]
    return build_index(tuned, file, file.parent / "idx", methods, encoding=Encoding(128))


@pytest.fixture(scope="module")
def documents(index: Index, tuned: Any) -> list[dict[str, Any]]:
    """Two saved traces, in which three rows of each answer are flagged; the second is by words only."""
    queries = [
        Query("who makes honey", "beetles make honey"),
        Query("who makes honey in the sea", "beetles"),
        Query("why", "a b c"),
    ]
    result: list[dict[str, Any]] = []
    for method in (None, "bm25"):
        document = trace_queries(index, tuned, queries, method=method, top_k=6).to_json()
        for query in document["queries"]:
            query["flagged_ids"] = [row["id"] for row in query["rows"][:3]]
            query["num_flagged"] = 3
            for row in query["rows"][:3]:
                row["flagged"] = True
        result.append(json.loads(json.dumps(document)))
    return result


@pytest.fixture(scope="module")
def session(index: Index, tuned: Any, documents: list[dict[str, Any]]) -> Session:
    return Session(index, lambda: tuned, documents)


@pytest.fixture
def page(browser: Any, session: Session) -> Iterator[Any]:  # noqa: F811
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    opened.on("pageerror", lambda fault: faults.append(str(fault)))
    opened.on("console", lambda message: faults.append(f"{message.text} {message.location['url']}"))
    with serving(session) as url:
        opened.goto(url)
        opened.wait_for_selector("#rows > li")
        opened.wait_for_selector("#retrain", state="visible")
        yield opened
    assert faults == []
    opened.close()


def test_retraining_runs_from_the_page_and_survives_a_reload(page: Any, session: Session, index: Index) -> None:
    assert page.inner_text("#retrain summary").startswith("Retrain now")
    page.evaluate("document.querySelector('#retrain').open = true")
    assert "assumed: learning_rate 0.001" in page.inner_text("#retrain-why")
    assert page.input_value("#retrain-prompts").split("\n") == ["who makes honey", "who makes honey in the sea"]
    assert page.inner_text("#retrain-run") == "Retrain without the 3 flagged rows"
    page.fill("#retrain-words", "beetles")
    page.fill("#retrain-epochs", "1")
    started, go_on = threading.Event(), threading.Event()
    session.jobs.submit(lambda _: (started.set(), go_on.wait(300)))  # the experiment waits while the page is reloaded
    assert started.wait(300)
    with page.expect_response("**/api/retraining") as sent:
        page.click("#retrain-run")
    assert sent.value.status == 202
    until(lambda: page.inner_text("#job p") == "1 job before yours")
    page.reload()
    until(lambda: page.is_visible("#job") and page.inner_text("#job p") == "1 job before yours")
    go_on.set()
    page.wait_for_selector("#retrained table", timeout=300_000)
    assert page.is_hidden("#job") and page.is_hidden("#error")
    assert page.locator("#retrained tbody tr").count() == 4
    assert page.inner_text("#retrained p >> nth=0").startswith("inconclusive: ")
    assert f"{index.path}.retrained" in page.inner_text("#retrained")
    with page.expect_download() as taken:
        page.click("#retrained a")
    assert json.loads(Path(taken.value.path()).read_text())["recipe"]["epochs"] == 1
    page.reload()  # the result is on disk
    page.wait_for_selector("#retrained table")


def test_retraining_shows_its_pace_and_is_cancelled(page: Any) -> None:
    stage = {"stage": "all: fine-tune on 22 rows", "done": 12, "of": 60}
    job = {"id": "x", "state": "running", **stage, "rate": 0.1, "ahead": 0, "error": None, "result": None}
    page.route("**/api/retraining", lambda route: route.fulfill(status=202, json=job))
    page.route("**/api/jobs/x", lambda route: route.fulfill(json=job))
    page.evaluate("document.querySelector('#retrain').open = true")
    page.click("#retrain-run")
    until(lambda: page.inner_text("#job p") == "all: fine-tune on 22 rows: 12 of 60, 10.0 s each, 8 min left")
    page.evaluate("document.querySelector('#ask').open = true")
    page.fill("#prompt", "why")
    page.click("#ask .primary")
    assert page.inner_text("#error").startswith("One job runs at a time")
    page.click("#job button")
    assert page.is_hidden("#job")


def test_reason_is_shown_where_nothing_can_be_trained(
    browser: Any, session: Session, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(training_options, "find_spec", lambda _: None)
    opened = browser.new_page()
    with serving(session) as url:
        opened.goto(url)
        opened.wait_for_selector("#retrain", state="visible")
        opened.evaluate("document.querySelector('#retrain').open = true")
        assert "To fix it: pip install 'taughtby[train]'" in opened.inner_text("#retrain-why")
        assert opened.is_hidden("#retrain form")
    opened.close()


def test_words_of_a_served_trace_file_are_linked_both_ways(page: Any) -> None:
    assert page.locator(".linked").count() == 0
    page.locator("#answer-text .w").first.click()  # the first click computes the links of the file
    until(lambda: page.inner_text("#links-text").startswith("Shaded in the rows: the words that match “beetles”"))
    assert page.locator("#rows .linked .w[data-link]").count() > 0
    page.click("#clear-links")
    assert page.locator(".linked").count() == 0
    page.locator("#rows > li:visible .turn:last-child .w.top").nth(1).hover()
    page.wait_for_selector("#answer.linked .w[data-link]")
    assert page.is_hidden("#links-note")
    page.hover("#verdict")
    until(lambda: page.locator(".linked").count() == 0)
    page.keyboard.press("]")  # the links are those of all answers of the file
    page.locator("#rows > li:visible .turn:last-child .w.top").first.click()
    assert page.inner_text("#links-text").startswith("Shaded in the answer: ")


def test_a_trace_without_links_says_so(page: Any) -> None:
    page.goto(page.url.split("#")[0] + "#answer=4")
    page.reload()
    page.wait_for_selector("#rows > li .w")
    page.locator("#rows > li:visible .turn:last-child .w.top").first.click()
    until(lambda: page.inner_text("#links-text") == "The method of this trace does not link words.")


def test_a_notebook_cell_links_words_both_ways(browser: Any, index: Index, tuned: Any) -> None:  # noqa: F811
    queries = [("who makes honey", "beetles make honey"), ("why", "a b c")]
    trace = taughtby.trace_queries(index, tuned, queries, top_k=6, links=True, progress=False)
    other = taughtby.trace_queries(index, tuned, queries[1:], top_k=6, links=True, progress=False)
    assert all(row["links"] for query in trace.to_json()["queries"] for row in query["rows"])
    page = browser.new_page()
    page.set_content(render_cell(trace.to_json()) + render_cell(other.to_json()))  # two cells of a notebook
    marked = "[...document.querySelectorAll('[data-w]')].filter((node) => getComputedStyle(node).outlineStyle"
    words = f"{marked} === 'solid').map((node) => [node.closest('section').className, node.dataset.w])"
    first = page.locator("section").first
    assert page.evaluate(words) == []
    _, token, _ = trace.links[0, trace.queries[0].rows[0].position][0]  # the strongest link of the first row
    first.locator(f"[data-w=a-{token}]").hover()
    matches = page.evaluate(words)
    assert matches and {scope for scope, _ in matches} == {first.get_attribute("class")}
    assert all(word[0].isdigit() for _, word in matches)
    first.locator(f"[data-w='{matches[0][1]}']").hover()
    assert page.evaluate(words)[0][1].startswith("a-")
    page.close()
    plain = taughtby.trace_queries(index, tuned, queries, top_k=6, progress=False)
    assert "data-w" not in render_cell(plain.to_json())
