"""Every state of the served page at three widths, light and dark: it fits the window, and axe has no serious fault.

One page serves all widths and schemes of a state. With TAUGHTBY_SHOTS=FOLDER each is also saved as a picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
from test_browser import axe, browser, serving, until  # noqa: F401  # pyright: ignore[reportUnusedImport]
from test_work_jobs import documents, index, session  # noqa: F401  # pyright: ignore[reportUnusedImport]

from taughtby.server.session import Session

pytestmark = pytest.mark.browser

WIDTHS, SCHEMES = (1280, 768, 390), ("light", "dark")
COLUMNS = ["trained", "rows removed", "bad answers", "ordinary", "clean loss", "change"]
RESULT = {
    "claims": [{"verdict": "supported by 3 trainings", "finding": "Retrained without the 3 flagged rows."}],
    "tables": [{"title": "Bad answers of the retrained models", "columns": COLUMNS, "note": "By exact McNemar tests.",
                "rows": [["without the flagged rows", "3", "0 of 6 (0% to 39%)", "0 of 2", "3.210",
                          "+0.4% (-1.0% to +2.0%)"]] * 4}],
    "folder": f"/home/somebody/{'a-long-name/' * 6}idx.retrained",
}  # fmt: skip
RECIPE = {"recipe": {"epochs": 3, "learning_rate": 0.001}, "notes": ["assumed: learning_rate 0.001"], "refusal": None}
RUNNING = {"id": "x", "state": "running", "stage": "all: fine-tune on 22 rows", "done": 12, "of": 60, "rate": 0.1,
           "ahead": 0, "error": None, "result": None}  # fmt: skip


def rows(page: Any) -> None:
    page.evaluate("for (const node of document.querySelectorAll('.info')) node.click()")


def incidents(page: Any) -> None:
    page.evaluate("document.querySelector('#queries').open = true")
    page.wait_for_selector("#queries .incident")


def linked(page: Any) -> None:
    page.locator("#answer-text .w").first.click()
    page.wait_for_selector("#links-note:visible")
    until(lambda: page.locator(".linked").count() > 0)


def verdicts(page: Any) -> None:
    for number, verdict in enumerate(("cause", "unsure")):
        row = page.locator("#rows > li:visible").nth(number)
        row.get_by_role("button", name=verdict, exact=True).click()
    page.locator("#rows > li:visible").nth(0).get_by_label("Note on this row").fill("a note " * 12)
    page.wait_for_selector("#verdicts:visible")


def cleaned(page: Any) -> None:
    page.locator("#rows > li:visible .select input").first.check()
    page.click("#run-clean")
    page.wait_for_selector("#cleaned:visible")


def retraining(page: Any) -> None:
    page.route("**/api/retraining", lambda route: route.fulfill(status=202, json=RUNNING))
    page.route("**/api/jobs/x", lambda route: route.fulfill(json=RUNNING))
    page.evaluate("document.querySelector('#retrain').open = true")
    page.click("#retrain-run")
    until(lambda: "8 min left" in page.inner_text("#job p"))
    page.locator("#retrain").scroll_into_view_if_needed()


def retrained(page: Any) -> None:
    page.route("**/api/retraining", lambda route: route.fulfill(json={**RECIPE, "job": None, "result": RESULT}))
    page.reload()
    page.wait_for_selector("#retrained table")


def data_map(page: Any) -> None:
    page.click("#tab-map")
    page.wait_for_selector("#map-legend li")
    page.select_option("#map-colour", "flag")
    page.click("#map-lasso")
    for key in ("j", "x"):
        page.locator("#map canvas").press(key)


def compared(page: Any) -> None:
    page.click("#tab-compare")
    page.select_option("#compare-select", index=1)
    page.wait_for_selector("#comparison li")


def searched(page: Any) -> None:
    page.click("#tab-data")
    page.fill("#search", "honey")
    page.keyboard.press("Enter")
    until(lambda: "with “honey”" in page.inner_text("#search-status"))
    page.locator("#browser-rows .select input").first.check()


def asking(page: Any) -> None:
    page.evaluate("document.querySelector('#ask').open = true")
    page.fill("#prompt", "why " * 300)
    page.fill("#response", "a")
    page.click("#ask .primary")
    page.wait_for_selector("#error:visible")


def about(page: Any) -> None:
    page.click("#tab-about")
    assert "template " in page.inner_text("#about-trace")  # the hashes that the trace rests on


STATES = (
    rows,
    incidents,
    linked,
    verdicts,
    cleaned,
    retraining,
    retrained,
    data_map,
    compared,
    searched,
    asking,
    about,
)


@pytest.fixture(scope="module")
def address(session: Session) -> Iterator[str]:  # noqa: F811
    with serving(session) as url:
        yield url


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_state_fits_every_window_and_is_accessible(
    browser: Any, address: str, axe: str, state: Callable[[Any], None]  # noqa: F811
) -> None:  # fmt: skip
    context = browser.new_context(bypass_csp=True, viewport={"width": WIDTHS[0], "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.goto(address)
    page.wait_for_selector("#rows > li", state="attached")
    page.wait_for_function("!document.querySelector('#retrain').hidden")  # its answer came, before a state replaces it
    state(page)
    page.evaluate(axe)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            if folder := os.environ.get("TAUGHTBY_SHOTS"):
                page.screenshot(path=Path(folder) / f"{state.__name__}-{width}-{scheme}.png", full_page=True)
            rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # the others do not depend on colours
            found = page.evaluate("(rules) => axe.run(rules).then(({ violations }) => violations)", rules)
            grave = [fault for fault in found if fault["impact"] in ("serious", "critical")]
            assert [(width, scheme, fault["id"], [node["html"][:150] for node in fault["nodes"][:3]])
                    for fault in grave] == []  # fmt: skip
    assert faults == []
    context.close()
