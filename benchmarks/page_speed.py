"""The page in Chromium, served and as one file: first view, sorting, filtering and the next answer, until the frame.

A tiny random model answers; the page shows 64 answers with 20 rows each over an index of 10,000 rows.
`python benchmarks/page_speed.py` prints a table and writes page.json. It needs Playwright and Chromium.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import uvicorn
from playwright.sync_api import Page, sync_playwright
from rich.table import Table

from common import command, parse, parser, print_table
from random_models import random_model, write_rows
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method
from taughtby.models.model import Model
from taughtby.reporting.files import save_json
from taughtby.reporting.html import save_page
from taughtby.server.app import create_app
from taughtby.server.security import access_policy
from taughtby.server.session import Session

VIEWS, ANSWERS = 6, 64
# the time at which the first row is drawn
FIRST = """(() => { const look = () => document.querySelector('#rows > li')
  ? requestAnimationFrame(() => setTimeout(() => { window.firstView = performance.now(); }))
  : requestAnimationFrame(look); requestAnimationFrame(look); })()"""
# the time from an event until its frame is drawn
EVENT = """([id, value, key]) => new Promise((done) => {
  const node = id && document.querySelector(id); const start = performance.now();
  if (node) { node.value = value; node.dispatchEvent(new Event('input', { bubbles: true })); }
  else { document.activeElement.blur(); document.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true })); }
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))); })"""
ACTIONS = {
    "sort the answers": ("#sort-answers", "most flagged first", None),
    "filter them": ("#filter-answers", "w1", None),
    "the next answer": (None, None, "]"),
}


def main() -> None:
    """Build the index, measure both forms of the page, and print and save the times in milliseconds."""
    arguments = parser("Measure the page in a browser.")
    arguments.add_argument("--rows", type=int, default=10_000, help="rows of the index")
    options = parse(arguments)
    with random_model("tiny", torch.device("cpu"), torch.float32) as model:
        index, trace = make_trace(model, options.out, options.rows)
        save_page(trace, options.out / "page.html")
        with serving(Session(index, lambda: model, [trace])) as address:
            times = {"served": measure(address), "one file": measure((options.out / "page.html").resolve().as_uri())}
    save_json({"command": command(), "rows": options.rows, "milliseconds": times}, options.out / "page.json")
    print_table(table(times))


def make_trace(model: Model, out: Path, rows: int) -> tuple[Index, dict[str, Any]]:
    """An index of random rows, and the trace of some of their answers."""
    data = out / "rows.jsonl"
    write_rows(data, rows)
    shutil.rmtree(out / "idx", ignore_errors=True)
    index = build_index(model, data, out / "idx", [get_method("lesson:sketch_dim=16")], encoding=Encoding(512),
                        layers=False)  # fmt: skip
    with data.open() as lines:
        queries = [Query(**json.loads(line)) for line, _ in zip(lines, range(ANSWERS), strict=False)]
    return index, trace_queries(index, model, queries).to_json()


@contextmanager
def serving(session: Session) -> Generator[str]:
    """The address of a server of the session, on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(session, access_policy("127.0.0.1")), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


def measure(address: str) -> dict[str, list[float]]:
    """The times of each action, in milliseconds; every view is a new one."""
    times: dict[str, list[float]] = {"first view": []} | {name: [] for name in ACTIONS}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(VIEWS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            times["first view"].append(first_view(page, address))
            for name, action in ACTIONS.items():
                times[name].append(page.evaluate(EVENT, list(action)))
            page.close()
        browser.close()
    return times


def first_view(page: Page, address: str) -> float:
    """Open the page; the milliseconds until its first row is drawn."""
    page.add_init_script(FIRST)
    page.goto(address)
    page.wait_for_selector("#rows > li", state="attached")
    while (seen := page.evaluate("window.firstView ?? null")) is None:
        time.sleep(0.05)
    page.wait_for_load_state("networkidle")
    return float(seen)


def table(times: dict[str, dict[str, list[float]]]) -> Table:
    """The median, the lowest and the highest time."""
    result = Table("ms", *times)
    for name in ("first view", *ACTIONS):
        result.add_row(name, *(f"{median(one[name]):.0f} ({min(one[name]):.0f} to {max(one[name]):.0f})"
                               for one in times.values()))  # fmt: skip
    return result


if __name__ == "__main__":
    main()
