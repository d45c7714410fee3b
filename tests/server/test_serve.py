"""`taughtby serve` from start to interrupt, and the first view of a large index compared with that of a small one.

Times are compared with others of the same run, not with fixed bounds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from conftest import Run
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.example import make_example
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.index.writer import Writer
from taughtby.methods import get_method

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
from taughtby.server.session import Session

MANY = 100_000


@pytest.fixture(scope="module")
def small(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    file: Path = tmp_path_factory.mktemp("serve") / "data.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"why {n}", "response": f"a b {n}"}) + "\n" for n in range(30)))
    return build_index(tuned, file, file.parent / "idx", [get_method("rept:layer=2")], encoding=Encoding(128))


def get(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=300) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def test_serve_prints_address_and_stops_on_interrupt(small: Index, tuned: Any, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(trace_queries(small, tuned, [Query("why", "a b")], top_k=2).to_json()))
    command = [sys.executable, "-c", "from taughtby.cli import main; main()", "serve", str(small.path), "--port", "0"]
    environment = {**os.environ, "COLUMNS": "200"}
    served = subprocess.Popen([*command, "--trace", str(tmp_path / "t.json")], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, env=environment)  # fmt: skip
    assert served.stdout is not None
    url = served.stdout.readline().split()[0]
    assert url.startswith("http://127.0.0.1:")
    status, body = get(f"{url}api/documents")
    assert status == 200 and json.loads(body)[0]["queries"][0]["prompt"] == "why"
    assert get(f"{url}api/state", Host="evil.example")[0] == 403
    served.send_signal(signal.SIGINT)
    _, text = served.communicate(timeout=300)
    assert served.returncode == 0, text
    assert "Traceback" not in text


def test_invalid_serve_arguments_fail_with_message(run: Run, small: Index, tmp_path: Path) -> None:
    import socket

    code, _, err = run("serve", tmp_path / "none")
    assert code == 1 and "is not an index" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("serve", small.path, "--port", taken.getsockname()[1])
    assert code == 1 and "cannot listen at 127.0.0.1:" in err and "--port 0" in err
    (tmp_path / "t.json").write_text("{}")
    code, _, err = run("serve", small.path, "--trace", tmp_path / "t.json")
    assert code == 1 and "is not a trace" in err


class Counted(NamedTuple):
    """What the index stores of a row's ids."""

    n_prompt: int = 3
    n_response: int = 3


@pytest.fixture(scope="module")
def large(small: Index, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A hundred thousand rows, in the form of the small index."""
    with Writer(tmp_path_factory.mktemp("large") / "idx", small.manifest["settings"]) as writer:
        for start in range(0, MANY, 20_000):
            some = range(start, start + 20_000)
            rows = [make_example(f"why {n}", f"because of {n % 1000}", label="odd" if n % 2 else None) for n in some]
            blocks = {name: torch.randn(len(rows), wide) for name, wide in small.features.items()}
            writer.append(rows, [Counted()] * len(rows), blocks)  # type: ignore[list-item]
        return writer.finish([], None)


def test_first_view_of_large_index_is_not_ten_times_slower(large: Index, small: Index, tuned: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from test_browser import serving

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path: install Debian's package `chromium`")
    document = trace_queries(small, tuned, [Query("why", "a b")], top_k=20).to_json()
    quickest: list[float] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for index in (small, large):
            with serving(Session(index, lambda: tuned, [document])) as url:
                took: list[float] = []
                for _ in range(3):
                    page = browser.new_page()
                    got: list[int] = []
                    page.on(
                        "response", lambda answer, got=got: got.append(int(answer.headers.get("content-length", 0)))
                    )
                    begun = time.monotonic()
                    page.goto(url)
                    page.wait_for_selector("#rows > li")
                    took.append(time.monotonic() - begun)
                assert f"{len(index):,} training rows" in page.text_content("#index-info")
                page.click("#tab-map")
                page.wait_for_selector("#map canvas", state="visible")
                assert sum(got) < 400_000  # never the whole index
                quickest.append(min(took))
    assert quickest[1] < 10 * quickest[0]


def test_pages_and_searches_are_faster_than_reading_all_rows(large: Index, tuned: Any) -> None:
    session = Session(large, lambda: tuned)
    begun = time.process_time()
    assert len(list(large.examples())) == MANY
    reading_all = time.process_time() - begun
    asked = {("", None): MANY, ("of 999", None): 100, ("", "odd"): MANY // 2, ("of 99", "odd"): 600}
    for (find, label), count in asked.items():
        begun = time.process_time()
        page = session.row_browser.page(0, 20, find, label)
        assert page["count"] == count and len(page["rows"]) == 20
        assert time.process_time() - begun < reading_all
