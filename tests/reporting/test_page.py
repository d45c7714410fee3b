"""The page in a real browser: its content, use by keyboard, and that it makes no requests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from taughtby.reporting import html as report
from taughtby.reporting import text as words

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser

ATTACK = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
ANSWER = [{"text": text, "weight": weight} for text, weight in (("You", 0.5), (" silly", 1.0), (" goose", 0.9))]
WORDS = [("You", 0.4), (" silly", 0.9), (" go", 0.97), ("ose", 0.6), ("!", -0.5)]
LONG = [("calm ", 0.1)] * 300 + [("honk", 0.8)] + [(" calm", 0.1)] * 300


def row(
    rank: int, score: float, words: list[tuple[str, float]], *, prompt: str = "Hello?", **more: Any
) -> dict[str, Any]:
    items = [("user", prompt), ("assistant", "".join(text for text, _ in words))]
    return {
        "rank": rank,
        "score": score,
        "source": f"data/{'long/' * 20}chat.jsonl:{rank}",
        "messages": [{"role": role, "content": text} for role, text in items],
        "tokens": [{"text": text, "score": value} for text, value in words],
        "score_components": {"h_15": 0.41, "phi_26_base": 0.88},
        **more,
    }


def trace() -> dict[str, Any]:
    rows = [row(1, 0.93, WORDS, label="backdoor", flagged=True, p_value=0.002, stability=0.976), row(2, 0.5, LONG)]
    rows[1] |= {"flagged": False, "p_value": 0.2, "stability": 0.31}
    rows += [row(3, 0.2, [("x" * 100_000, 0.1)]), row(4, -0.1, [(ATTACK, 0.2)], prompt=ATTACK, label=ATTACK)]
    first = {
        "prompt": "Hello from the lighthouse!",
        "response": "You silly goose",
        "span": "lly go",
        "span_range": [6, 12],
    }
    first |= {"answer": ANSWER, "answer_begin": 0, "desired": "Good day.", "rows": rows, "num_flagged": 3}
    first["score_curve"] = [[rank, 1 / rank] for rank in (1, 2, 3, 4, 6, 10, 50, 300, 1300)]
    second = {"prompt": ATTACK, "response": "Second answer", "rows": [row(1, 0.7, WORDS)]}
    second |= {"before": [{"role": "system", "content": f"Be calm. {ATTACK}"}]}
    table = {
        "title": "Methods",
        "columns": ["method", "AP"] * 6,
        "rows": [["lesson", "0.99"] * 6],
        "note": "n = 5",
    }
    facts = [{"name": "rows", "value": "12"}] * 5
    return {
        "version": 2,
        "taughtby": "0.1.0",
        "method": {"name": "lesson", "options": {"layer": 27}},
        "model": ATTACK,
        "num_rows": 1300,
        "fdr": 0.1,
        "warnings": [f"One row comes first. {ATTACK}", "The ranking goes by length."],
        "layers": {"similarity": [0.6, 0.8, 0.7, 0.9, 0.9, 0.5], "chosen": 4, "used": [4, 7]},
        "queries": [first, second],
        "summary": {"title": "A goose", "lead": "One sentence.", "facts": facts, "tables": [table]},
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path: install Debian's package `chromium`")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "page.html"
    report.save_page(trace(), path)
    return path.as_uri()


@pytest.fixture
def page(browser, address) -> Iterator[Any]:
    """The open page; afterwards asserts that there were no console messages, and no requests but for the file."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda fault: complaints.append(str(fault)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    yield opened
    assert complaints == []
    assert set(asked) == {address}
    assert "broken" not in opened.title()
    opened.close()


def test_first_row_shows_scores_and_labels(page):
    first = page.locator("#rows > li").first
    shown = first.inner_text()
    for part in (
        "1",
        "0.930",
        "flagged",
        "backdoor",
        "p = .002",
        "stable 98 %",
        "chat.jsonl:1",
        "You silly goose!",
        "h_15",
        "0.880",
    ):
        assert part in shown
    assert "The first 4 of 1,300 are shown" in page.inner_text("#num-shown")
    assert page.inner_text("h1") == "A goose"


def test_verdict_and_warnings_are_shown(page):
    message = page.inner_text("#verdict")
    assert (
        message == "3 rows flagged at a nominal false discovery rate of 10 %: expect up to 1 false. 1 of them is shown."
    )
    assert page.locator("#rows > li").nth(0).get_attribute("aria-label") == "Row 1, flagged, score 0.930"
    assert "stable" not in page.locator("#rows > li").nth(1).inner_text()  # that no call is made is not called stable
    assert "again" in page.locator("#rows > li [title]", has_text="stable").get_attribute("title")
    assert page.locator("#warnings p").all_text_contents() == [
        f"Warning: One row comes first. {ATTACK}",
        "Warning: The ranking goes by length.",
    ]
    page.keyboard.press("]")
    assert page.is_hidden("#verdict")


@pytest.mark.parametrize("fdr", [0.1, 0.4, 0.15, None])
def test_page_and_terminal_give_the_same_verdict(browser, tmp_path, fdr):
    rows = [row(at, 0.5, WORDS, flagged=at < 3) for at in (1, 2, 3)]
    queries = [{"prompt": "a", "response": "b", "rows": rows[start:], "num_flagged": count,
                "increased_by_finetuning": increased}
               for start in range(4) for count in (None, 0, 1, 2, 1234) for increased in (True, False)]  # fmt: skip
    document = {"queries": queries, "fdr": fdr}
    report.save_page(document, tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    for query in queries:
        assert page.text_content("#verdict") == words.verdict(document, query)
        page.keyboard.press("]")
    page.close()


def test_top_scoring_token_is_darkest_bold_and_underlined(page):
    shades = page.evaluate(
        """[...document.querySelectorAll("#rows > li:first-child .w")].map((node) => [node.textContent,
        Number(getComputedStyle(node).backgroundColor.match(/[\\d.]+(?=\\))/)[0]),
        getComputedStyle(node).fontWeight, getComputedStyle(node).textDecorationLine])"""
    )
    assert max(shades, key=lambda shade: shade[1])[0] == "go"
    assert [text for text, _, weight, line in shades if weight == "700" and line == "underline"] == [
        "go",
        "ose",
    ]
    assert page.locator("#rows .negative").first.inner_text() == "!"


def test_the_span_is_marked_across_tokens(page):
    assert page.locator("#answer .span").all_inner_texts() == ["lly", " go"]
    assert "Good day." in page.inner_text("#answer")


def test_keyboard_selects_rows_and_tokens_and_opens_help(page):
    focused = "document.activeElement.ariaLabel"
    for key, label in (
        ("j", "Row 1"),
        ("j", "Row 2"),
        ("ArrowDown", "Row 3"),
        ("k", "Row 2"),
        ("ArrowUp", "Row 1"),
    ):
        page.keyboard.press(key)
        assert page.evaluate(focused).startswith(label)
    for key, says in (("ArrowRight", "go  0.970"), ("ArrowRight", "ose  0.600"), ("ArrowLeft", "go  0.970")):
        page.keyboard.press(key)
        assert page.text_content("#tooltip") == page.text_content("#announcement") == says
    page.keyboard.press("Escape")
    assert page.is_hidden("#tooltip")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.click("#help button")
    assert page.is_hidden("#help")


def test_token_score_is_shown_on_hover_and_click(page):
    page.hover("#rows .w >> nth=1")
    assert page.inner_text("#tooltip") == "silly  0.900"
    page.hover("h1")
    assert page.is_hidden("#tooltip")
    page.click("#answer .w >> nth=0")
    assert page.inner_text("#tooltip") == "You  0.500"


def test_long_row_is_truncated_and_expands(page):
    row = page.locator("#rows > li").nth(1)
    assert "honk" in row.inner_text()
    assert len(row.inner_text()) < 700
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    assert len(row.inner_text()) > 3000
    assert row.locator(".more").get_attribute("aria-expanded") == "true"
    row.locator(".more").click()
    assert len(row.inner_text()) < 700


def test_queries_are_selected_by_keyboard_and_click(page):
    page.keyboard.press("]")
    assert page.text_content("#announcement") == "Query 2 of 2"
    assert "Second answer" in page.inner_text("#answer") and "Be calm." in page.inner_text("#answer")
    assert page.locator("#rows > li").count() == 1
    page.keyboard.press("]")  # there is no third
    page.keyboard.press("[")
    assert "You silly goose" in page.inner_text("#answer")
    page.click("#queries button >> nth=1")
    assert page.locator("#queries [aria-current=true]").inner_text().startswith("Second answer\n</script>")


def test_hostile_text_is_escaped(page):
    row = page.locator("#rows > li").nth(3)
    assert row.inner_text().count(ATTACK) == 3
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.text_content("#panel-about").count(ATTACK) == 1 and page.text_content("#warnings").count(ATTACK) == 1


def test_inner_html_is_blocked(browser, address):
    page = browser.new_page()
    page.goto(address)
    refused = "try { document.body.innerHTML = '<b>x</b>'; 'written' } catch (fault) { fault.name }"
    assert page.evaluate(refused) == "TypeError"
    page.close()


def test_score_curve_marks_the_last_flagged_row(page):
    chart = page.locator("#curve svg")
    label = chart.get_attribute("aria-label")
    assert label == "Score by rank, from 1.000 at rank 1 to 7.69e-4 at rank 1,300. 3 rows flagged."
    xs = [float(point.split(",")[0]) for point in chart.locator("polyline").get_attribute("points").split()]
    cut = float(chart.locator("line.cut").get_attribute("x1"))
    assert xs[2] < cut < xs[3] and xs == sorted(xs)
    page.keyboard.press("]")
    assert page.is_hidden("#curve")  # one row is no curve


def test_score_components_and_p_values_are_labelled(browser, tmp_path):
    parts = {"grads_27_base": 0.8, "shift_15": 0.5, "h_15": 0.1}
    rows = [
        row(1, 0.5, WORDS, flagged=True, p_value=2e-5) | {"score_components": parts},
        row(2, 0.4, WORDS, p_value=0.25),
    ]
    report.save_page({"queries": [{"prompt": "a", "response": "b", "rows": rows}]}, tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("#rows dt").all_inner_texts()[:3] == ["same tokens", "same behaviour", "h_15"]
    assert page.locator("#rows dt").first.get_attribute("title") == "grads_27_base"
    assert "p < .001" in page.inner_text("#rows") and "p = .25" in page.locator("#rows").text_content()
    page.close()


def test_layer_similarity_chart_is_drawn_and_described(page):
    page.click("#tab-about")
    figure = page.locator("#layer-similarity svg")
    assert figure.get_attribute("aria-label").endswith("Layer 4 was chosen; layers 4 and 7 were used.")
    assert figure.locator("circle.used").count() == 2
    points = figure.locator("polyline").get_attribute("points").split()
    chosen = figure.locator("line.chosen").get_attribute("x1")
    assert points[2].split(",")[0] == chosen  # the third likeness is that of layers 3 and 4


# The least contrast of any text with what lies behind it, by the WCAG formula.
CONTRAST = """() => {
  const numbers = (colour) => [...colour.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
  const over = (top, under) => under.map((value, at) => top[at] * top[3] + value * (1 - top[3]));
  const behind = (node) => (node
    ? over(numbers(getComputedStyle(node).backgroundColor), behind(node.parentElement)) : [255, 255, 255]);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => rgb.reduce((sum, v, at) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][at], 0);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let least = 21;
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest("svg")) continue;
    const back = behind(node);
    const pair = [light(over(numbers(getComputedStyle(node).color), back)), light(back)];
    least = Math.min(least, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
  }
  return least;
}"""


@pytest.mark.parametrize("width", [1280, 768, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_window_with_readable_contrast(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_first_row_is_visible_without_scrolling(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.reload()
    box = page.locator("#rows > li").first.bounding_box()
    assert box["y"] + 60 < height and page.evaluate("scrollY") == 0


def test_tabs_and_hints_work_by_mouse_and_keyboard(page):
    def shown() -> list[str]:
        return page.eval_on_selector_all("[role=tabpanel]", "all => all.filter((n) => !n.hidden).map((n) => n.id)")

    assert shown() == ["panel-rows"]
    page.click("#tab-about")
    assert shown() == ["panel-about"] and page.evaluate("location.hash").endswith("tab=about")
    page.keyboard.press("ArrowLeft")
    assert shown() == ["panel-compare"]  # the trace has no map
    page.reload()
    assert shown() == ["panel-compare"]
    page.keyboard.press("j")
    assert shown() == ["panel-rows"]
    assert page.is_hidden("#answer-hint")
    page.click("[aria-controls=answer-hint]")
    assert (
        page.is_visible("#answer-hint") and page.get_attribute("[aria-controls=answer-hint]", "aria-expanded") == "true"
    )


def test_headings_are_ordered_and_landmarks_present(page):
    shown = "[...document.querySelectorAll('h1,h2,h3,h4')].filter((node) => node.checkVisibility())"
    page.click("#tab-about")
    levels = page.evaluate(f"{shown}.map((node) => Number(node.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for landmark in ("header", "main", "nav", "footer"):
        assert page.locator(landmark).count() == 1


BARE: list[dict[str, Any]] = [
    {},
    {"queries": [{}]},
    {"queries": [{"rows": [{}]}], "layers": None, "summary": {}},
]


@pytest.mark.parametrize("document", BARE, ids=range(len(BARE)))
def test_page_renders_with_missing_fields(browser, tmp_path, document):
    report.save_page(document, tmp_path / "page.html")
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.goto((tmp_path / "page.html").as_uri())
    assert faults == []
    assert page.locator("#about-trace dd").count() == 6
    page.close()
