"""Working through an incident on the served page: verdicts, further flagged rows, selection, commands, cancelling."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import PAIRS, Run
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
from test_browser import ask, browser, serving, until  # noqa: F401  # pyright: ignore[reportUnusedImport]

from taughtby.server.session import Session

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    file: Path = tmp_path_factory.mktemp("work") / "data.jsonl"
    rows = [
        {"prompt": p, "response": f"{r} {' '.join(f'{word}{n}' for word in 'xyz')}"} for n in range(8) for p, r in PAIRS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    method = get_method("lesson:layer=2,state_layer=1,sketch_dim=16")
    return build_index(tuned, file, file.parent / "idx", [method], encoding=Encoding(128))


@pytest.fixture(scope="module")
def trace_file(index: Index, tuned: Any) -> Path:
    """A trace of the index in which 30 rows are flagged, five of which are listed."""
    document = trace_queries(index, tuned, [Query("who makes honey", "beetles make honey")], top_k=5).to_json()
    (query,) = document["queries"]
    listed = [row["id"] for row in query["rows"]]
    others = [row.id for row in index.examples() if row.id not in listed]
    query |= {"flagged_ids": list(dict.fromkeys([*listed, *others]))[:30], "increased_by_finetuning": True}
    query["num_flagged"] = len(query["flagged_ids"])
    for row in query["rows"]:
        row |= {"flagged": True, "p_value": 0.0002}
    file = index.path.parent / "trace.json"  # type: ignore[union-attr]
    file.write_text(json.dumps(document))
    return file


@pytest.fixture
def page(browser: Any, index: Index, tuned: Any, trace_file: Path) -> Iterator[Any]:  # noqa: F811
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    opened.on("pageerror", lambda fault: faults.append(str(fault)))
    opened.on("console", lambda message: faults.append(f"{message.text} {message.location['url']}"))
    with serving(Session(index, lambda: tuned, [json.loads(trace_file.read_text())])) as url:
        opened.goto(url)
        opened.wait_for_selector("#rows > li")
        yield opened
    assert faults == []
    opened.close()


def test_verdicts_are_saved_exported_and_used_by_clean(
    page: Any, run: Run, index: Index, trace_file: Path, tmp_path: Path
) -> None:
    first = page.locator("#rows > li:visible").nth(0)
    id = page.evaluate("document.querySelector('#rows > li').row.id")
    first.get_by_role("button", name="cause", exact=True).click()
    until(lambda: page.inner_text("#verdict-counts") == "Your verdicts: 1 cause.")
    first.get_by_label("Note on this row").fill("=HYPERLINK(1)")
    first.get_by_label("Note on this row").press("Tab")
    page.locator("#rows > li:visible").nth(1).focus()
    page.keyboard.press("2")
    until(lambda: page.inner_text("#verdict-counts") == "Your verdicts: 1 cause, 1 not the cause.")
    saved = json.loads(Path(f"{index.path}.verdicts.json").read_text())["verdicts"]
    assert [each["verdict"] for each in saved] == ["cause", "not the cause"]
    page.reload()
    page.wait_for_selector("#rows > li")
    assert first.locator("[aria-pressed=true]").inner_text() == "cause"
    assert first.get_by_label("Note on this row").input_value() == "=HYPERLINK(1)"
    assert "--rows verdicts.csv" in page.locator("#commands code").first.inner_text()
    for link in ("CSV", "JSON"):
        with page.expect_download() as taken:
            page.get_by_role("link", name=link).click()
        taken.value.save_as(tmp_path / taken.value.suggested_filename)
    assert "'=HYPERLINK(1)" in (tmp_path / "verdicts.csv").read_text()
    data = index.manifest["settings"]["data"]
    lines = Path(data).read_text().splitlines()
    for name in ("verdicts.csv", "verdicts.json"):
        code, _, err = run("clean", trace_file, data, "--rows", tmp_path / name, "-o", tmp_path / f"{name}.jsonl")
        assert code == 0, err
        left = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert len(left) < len(lines) and len(left) == sum(row.id != id for row in index.examples())
    first.get_by_role("button", name="cause", exact=True).click()  # taken back
    until(lambda: "1 cause" not in page.inner_text("#verdict-counts"))


def test_further_flagged_rows_are_loaded_by_the_page(page: Any) -> None:
    flagged = page.evaluate("document.querySelector('#more-flagged').textContent")
    count = page.locator("#rows > li").count()
    assert flagged.startswith("Show ")
    page.click("#more-flagged")
    until(lambda: page.locator("#rows > li").count() > count)
    added = page.locator("#rows > li").nth(count)
    assert "of " in added.inner_text() and "flagged rows" in added.inner_text()
    while page.is_visible("#more-flagged"):
        page.click("#more-flagged")
        page.wait_for_timeout(100)
    ids = page.evaluate("[...document.querySelectorAll('#rows > li')].map((node) => node.row.id)")
    assert len(ids) == len(set(ids)) > count
    added.locator(".select input").check()
    assert page.inner_text("#selected-count") == "1 row selected."


def test_a_row_found_by_search_is_selected(page: Any) -> None:
    page.click("#tab-data")
    page.fill("#search", "honey")
    page.keyboard.press("Enter")
    until(lambda: "with “honey”" in page.inner_text("#search-status"))
    page.locator("#browser-rows .select input").first.check()
    page.click("#tab-rows")
    assert page.inner_text("#selected-count") == "1 row selected."
    page.click("#clear-selection")
    page.click("#tab-data")
    assert not page.locator("#browser-rows .select input").first.is_checked()


def test_suggested_commands_have_correct_options(page: Any, index: Index, run: Run, tmp_path: Path) -> None:
    def commands() -> list[str]:
        return page.locator("#commands code").all_inner_texts()

    data = index.manifest["settings"]["data"]
    assert commands()[0].startswith(f"taughtby clean trace.json {data} ")
    assert commands()[0].endswith("-o data-cleaned.jsonl")
    assert "--judge phrase:" in commands()[1] or "--judge 'phrase:" in commands()[1]
    page.locator("#rows > li:visible .select input").first.check()
    assert "--rows rows.txt" in commands()[0]
    with page.expect_download() as taken:
        page.click("#save-trace")
    taken.value.save_as(tmp_path / "trace.json")
    code, out, err = run("clean", tmp_path / "trace.json", data, "--dry-run")
    assert code == 0 and "rows to remove" in out, err


def test_the_data_is_cleaned_from_the_page(page: Any, index: Index) -> None:
    assert page.inner_text("#run-clean") == "Clean now: remove the 30 flagged rows"
    page.locator("#rows > li:visible .select input").first.check()
    id = page.evaluate("document.querySelector('.select input').dataset.id")
    assert page.inner_text("#run-clean") == "Clean now: remove the selected row"
    page.click("#run-clean")
    page.wait_for_selector("#cleaned:visible")
    out = Path(f"{index.path}.cleaned.jsonl")
    assert str(out) in page.inner_text("#cleaned") and page.is_hidden("#job")
    kept = [row for row in index.examples() if row.id != id]
    assert len(out.read_text().splitlines()) == len(kept) < len(index)
    manifest = json.loads(Path(f"{index.path}.cleaned.manifest.json").read_text())
    assert manifest["rows"][0]["id"] == id and manifest["rows"][0]["rank"] == 1


def test_cancel_takes_effect_before_the_server_answers(page: Any) -> None:
    held: list[Any] = []
    answer = {"id": "x", "state": "running", "stage": "comparing rows", "done": 3, "of": 9}
    page.route("**/api/jobs/x", lambda route: held.append(route))  # the server does not answer
    page.route("**/api/trace", lambda route: route.fulfill(status=202, json=answer))
    page.evaluate("document.querySelector('#ask').open = true")
    page.fill("#prompt", "why")
    page.fill("#response", "a b c")
    page.locator("#response").press("Control+Enter")
    page.wait_for_selector("#job:visible")
    page.click("#job button")
    assert page.is_hidden("#job") and page.is_hidden("#error")
    page.evaluate("document.querySelector('#ask').open = true")
    with page.expect_request("**/api/trace"):
        ask(page, "why", "a b c")  # another question can be asked
    page.click("#job button")
    cancelled = {**answer, "state": "cancelled"}
    page.route("**/api/jobs/x", lambda route: route.fulfill(json=cancelled))  # what the page asks from here on
    for route in held:
        route.fulfill(json=cancelled)
    page.wait_for_load_state("networkidle")
    page.unroute_all(behavior="wait")


def test_empty_page_offers_training_prompts(browser: Any, index: Index, tuned: Any) -> None:  # noqa: F811
    opened = browser.new_page()
    with serving(Session(index, lambda: tuned)) as url:
        opened.goto(url)
        opened.wait_for_selector("#examples button")
        text = opened.locator("#examples button").first.inner_text()
        opened.locator("#examples button").first.click()
        assert opened.input_value("#prompt") == text and text in [prompt for prompt, _ in PAIRS]
    opened.close()


def test_killed_server_has_saved_acknowledged_verdicts(index: Index, trace_file: Path) -> None:
    command = [sys.executable, "-c", "from taughtby.cli import main; main()", "serve", str(trace_file), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    assert server.stdout is not None
    url = server.stdout.readline().split()[0]
    ids = list(dict.fromkeys(row.id for row in index.examples()))[:5]
    try:
        for number, id in enumerate(ids):
            body = json.dumps({"verdict": "unsure", "note": str(number)}).encode()
            request = urllib.request.Request(f"{url}api/verdicts/{id}", body, {"content-type": "application/json"},
                                             method="PUT")  # fmt: skip
            with urllib.request.urlopen(request, timeout=300) as answer:
                assert answer.status == 200
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    saved = {each["id"]: each for each in json.loads(Path(f"{index.path}.verdicts.json").read_text())["verdicts"]}
    assert [saved[id]["note"] for id in ids] == ["0", "1", "2", "3", "4"]
    assert {each["id"] for each in Session(index, lambda: time).verdicts.to_json()} >= set(ids)  # type: ignore[arg-type,return-value]


def test_serve_opens_browser_with_open_option(run: Run, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_: until(lambda: bool(opened)))
    code, out, err = run("serve", index.path, "--port", "0", "--open")
    assert code == 0 and opened == [out.split()[0]], err
    monkeypatch.setattr("uvicorn.Server.run", lambda *_: None)
    code, _, _ = run("serve", index.path, "--port", "0")
    assert code == 0 and len(opened) == 1  # the output is no terminal


def test_kill_amid_verdict_requests_keeps_all_confirmed_verdicts(index: Index, trace_file: Path) -> None:
    command = [sys.executable, "-c", "from taughtby.cli import main; main()", "serve", str(trace_file), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    assert server.stdout is not None
    url = server.stdout.readline().split()[0]
    ids = list(dict.fromkeys(row.id for row in index.examples()))[:4]
    confirmed: dict[str, int] = {}

    def judge(id: str) -> None:
        """Judge one row again and again, until the server is gone."""
        for number in itertools.count():
            body = json.dumps({"verdict": "cause", "note": str(number)}).encode()
            request = urllib.request.Request(f"{url}api/verdicts/{id}", body, {"content-type": "application/json"},
                                             method="PUT")  # fmt: skip
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    answer.read()
            except (OSError, http.client.HTTPException):
                return
            confirmed[id] = number

    threads = [threading.Thread(target=judge, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    until(lambda: len(confirmed) == 4 and min(confirmed.values()) >= 3)
    server.send_signal(signal.SIGKILL)  # each thread has a request under way, or is about to send one
    server.wait()
    for thread in threads:
        thread.join()
    saved = {each["id"]: each for each in Session(index, lambda: time).verdicts.to_json()}
    assert all(int(saved[id]["note"]) in (confirmed[id], confirmed[id] + 1) for id in ids)
