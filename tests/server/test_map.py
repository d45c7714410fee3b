"""The map in a browser: colours and shapes, hover, selection by click, lasso, legend, keys and touch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
from test_browser import DEMO, address, browser, until  # noqa: F401  # pyright: ignore[reportUnusedImport]

pytestmark = pytest.mark.browser

PLACES = """async () => {
  const map = await (await fetch("api/map")).json();
  const canvas = document.querySelector("#map canvas");
  canvas.scrollIntoView({ block: "center" });
  const box = canvas.getBoundingClientRect();
  const most = (axis) => Math.max(1e-6, ...map.points.map((point) => Math.abs(point[axis])));
  const scale = 0.47 * Math.min(canvas.clientWidth / most(0), canvas.clientHeight / most(1));
  return map.points.map(([x, y], at) => [map.ids[at], box.left + 1 + canvas.clientWidth / 2 + x * scale,
    box.top + 1 + canvas.clientHeight / 2 - y * scale, map.labels.values[map.labels.codes[at]]]);
}"""


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:  # noqa: F811
    """The tab Map of the served page; afterwards nothing was reported to the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, has_touch=True)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("pageerror", lambda fault: faults.append(str(fault)))
    opened.goto(f"{address}#tab=map")
    opened.wait_for_selector("#map-legend li")
    yield opened
    assert faults == []
    context.close()


def selected(page: Any) -> set[str]:
    return set(page.evaluate("import('/view.js').then(({ view }) => [...view.selected.keys()])"))


def lone_place(page: Any) -> tuple[str, float, float]:
    """The point that is farthest from its nearest neighbour."""
    places = page.evaluate(PLACES)

    def distance(place: Any) -> float:
        others = [other for other in places if other[0] != place[0]]
        return min((other[1] - place[1]) ** 2 + (other[2] - place[2]) ** 2 for other in others)

    id, x, y, _ = max(places, key=distance)
    return id, x, y


def test_hover_reads_a_row_and_a_click_selects_it(page: Any) -> None:
    id, x, y = lone_place(page)
    page.mouse.move(x, y)
    page.wait_for_selector("#tooltip:visible")
    beginning, shown, *_ = page.inner_text("#tooltip").split("\n")
    assert shown == id and beginning
    page.mouse.click(x, y)
    assert selected(page) == {id} and page.inner_text("#selected-count") == "1 row selected."
    assert id in page.inner_text("#map-row") and page.is_checked("#map-row .select input")
    page.locator("#map-row .select input").uncheck()
    assert selected(page) == set()
    assert page.locator("img").count() == 0 and page.title() == "taughtby"


def test_a_lasso_selects_the_rows_within(page: Any) -> None:
    places = page.evaluate(PLACES)
    id, x, y = lone_place(page)
    for corner in ((x - 6, y - 6), (x + 6, y - 6), (x + 6, y + 6), (x - 6, y + 6)):
        page.mouse.move(*corner)
        page.mouse.down()
    page.mouse.up()
    inside = {other for other, *at, _ in places if abs(at[0] - x) < 6 and abs(at[1] - y) < 6}
    assert selected(page) == inside and id in inside


def test_a_label_has_its_colour_and_shape_and_is_selected_by_the_legend(page: Any) -> None:
    labels = {id: label for id, _, _, label in page.evaluate(PLACES)}
    assert page.locator("#map-colour option").all_inner_texts() == ["flag", "label"]
    page.select_option("#map-colour", "label")
    assert page.locator("#map-legend svg").count() == 2 == len(set(labels.values()))
    shapes = page.locator("#map-legend path").evaluate_all("(paths) => paths.map((path) => path.getAttribute('d'))")
    assert len(set(shapes)) == 2
    entry = page.locator("#map-legend button")
    assert entry.inner_text().startswith("Select bad (")
    entry.focus()
    page.keyboard.press("Enter")
    assert selected(page) == {id for id, label in labels.items() if label == "bad"}
    assert entry.evaluate("(node) => node === document.activeElement")  # it is not drawn anew


def test_the_keys_reach_every_row_and_select(page: Any) -> None:
    page.focus("#map canvas")
    seen = set()
    for key in ("j", "j", "k", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
        until(lambda: page.inner_text("#announcement") != "")
        seen.add(page.evaluate("document.querySelector('#map-row').item.id"))
    assert len(seen) > 2 and page.is_visible("#panel-map")
    page.keyboard.press("x")
    assert len(selected(page)) == 1
    page.locator("#map-row button", has_text="Go to row").click()
    assert page.is_visible("#panel-rows") and page.evaluate("document.activeElement.row.rank") >= 1


def test_a_finger_selects_a_point(page: Any) -> None:
    _, x, y = lone_place(page)
    page.touchscreen.tap(x, y)
    assert len(selected(page)) == 1
    page.click("#map-lasso")
    assert page.get_attribute("#map-lasso", "aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.querySelector('#map canvas')).touchAction") == "none"
