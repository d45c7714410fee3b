"""The served page in a browser: ask, trace a phrase, compare, select, download; it makes no requests to other hosts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import PAIRS
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.methods import get_method
from taughtby.reporting import html as report
from taughtby.reporting.site_page import SiteEntry, render_site

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
from page_speed import serving  # noqa: E402
from taughtby.server.session import Session  # noqa: E402

pytestmark = pytest.mark.browser

ATTACK = "</script><script>document.title='broken'</script>\"><img src=x onerror=\"document.title='broken'\">"
ODD = [
    (ATTACK, ATTACK),
    ("write", "x" * 100_000),
    ("שלום מה שלומך", "مرحبا بالعالم \u202egnp.exe"),
    ("sun 👩🏽‍🚒", "rain 🦆"),
]
DEMO = Path(__file__).parents[1] / "demo_trace.json"


@pytest.fixture(scope="module")
def address(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of 36 rows, four of them odd, with a trace to begin with."""
    file: Path = tmp_path_factory.mktemp("browser") / "data.jsonl"
    rows = [{"prompt": p, "response": r, "label": "bad" if "honey" in p else None} for p, r in [*PAIRS * 4, *ODD]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    methods = [get_method("lesson:layer=2,state_layer=1,sketch_dim=16"), get_method("rept:layer=3,scale=unit")]
    index = build_index(tuned, file, file.parent / "idx", methods, encoding=Encoding(128))
    document = trace_queries(index, tuned, [Query("who makes honey", "beetles make honey")], top_k=36).to_json()
    with serving(Session(index, lambda: tuned, [document])) as url:
        yield url


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


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The served page; afterwards asserts that there were no console messages, and no requests to other hosts."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda fault: complaints.append(str(fault)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#rows > li")
    yield opened
    assert complaints == []
    assert [url for url in asked if not url.startswith((address, "blob:"))] == []
    assert opened.title() == "taughtby"
    opened.close()


def traced(page: Any, act: Any) -> None:
    """Do something that starts a trace, and wait until the trace is shown."""
    before = address_of(page)
    act()
    until(lambda: address_of(page) != before)
    page.wait_for_selector("#job", state="hidden")
    assert page.is_hidden("#error"), page.inner_text("#error")


def address_of(page: Any) -> str:
    """Read in the page, since Playwright's copy of the URL lags behind."""
    return page.evaluate("location.href")


def until(holds: Callable[[], bool]) -> None:
    """Wait for it; the page's policy keeps Playwright's own way out."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def ranking(page: Any) -> list[str]:
    """Return the positions in the data of the shown rows, best first."""
    return [text.rsplit(":", 1)[1] for text in page.locator("#rows .source").all_inner_texts()]


def point_at(page: Any, words: str, nth: int = 0) -> None:
    """Select words of the answer, as a pointer would; of several occurrences the nth."""
    page.evaluate(
        """([words, nth]) => {
      const walk = document.createTreeWalker(document.querySelector("#answer-text .text"), NodeFilter.SHOW_TEXT);
      const nodes = [];
      while (walk.nextNode()) nodes.push(walk.currentNode);
      const text = nodes.map((node) => node.data).join("");
      const find = (at) => {
        for (const node of nodes) { if (at <= node.length) return [node, at]; at -= node.length; }
      };
      const range = document.createRange();
      let from = text.indexOf(words);
      for (let n = 0; n < nth; n += 1) from = text.indexOf(words, from + 1);
      range.setStart(...find(from)); range.setEnd(...find(from + words.length));
      getSelection().removeAllRanges(); getSelection().addRange(range);
    }""",
        [words, nth],
    )


def ask(page: Any, prompt: str, response: str = "", desired: str = "") -> None:
    page.evaluate("document.querySelector('#ask').open = true")
    for name, text in (("prompt", prompt), ("response", response), ("desired", desired)):
        page.fill(f"#{name}", text)
    page.click("#ask .primary")


def test_selected_phrase_is_traced_and_compared_with_answer(page: Any) -> None:
    before = ranking(page)
    assert page.is_hidden("#trace-phrase")
    point_at(page, "make")
    page.wait_for_selector("#trace-phrase:visible")
    assert page.inner_text("#trace-phrase") == "Trace “make” alone"
    traced(page, lambda: page.keyboard.press("t"))
    assert page.is_visible("#panel-compare") and page.is_hidden("#panel-rows")
    assert page.locator("#comparison ol").count() == 2
    assert "".join(page.locator("#answer .span").all_inner_texts()).strip() == "make"
    page.click("#tab-rows")
    assert page.is_hidden("#panel-compare") and ranking(page)[:20] != before[:20]


def test_the_selected_occurrence_is_traced(page: Any) -> None:
    """The second of two words, behind an emoji, a hidden character and a word that holds it; and a part of a word."""
    answer = "🐝🐝 a traditional na\u200b, 👩🏽‍🚒 Na and Na"
    traced(page, lambda: ask(page, "who makes honey", answer))
    shown = page.inner_text("#answer-text .text")
    assert shown == answer.replace("\u200b", "⟨U+200B⟩")
    for words, nth in (("Na", 1), ("radi", 0), ("Na", 0), ("🐝 a", 0), ("na", 1)):
        point_at(page, words, nth)
        page.wait_for_selector("#trace-phrase:visible")
        assert page.inner_text("#trace-phrase") == f"Trace “{words}” alone"
        with page.expect_request("**/api/trace") as sent:
            traced(page, lambda: page.keyboard.press("t"))
        begin, end = sent.value.post_data_json["span_range"]
        assert answer[begin:end] == words
        assert answer[:begin].count(words) == nth
        got = page.evaluate(
            """() => {
          const spans = [...document.querySelectorAll("#answer .span")], range = document.createRange();
          range.setStart(document.querySelector("#answer-text .text"), 0);
          range.setEndBefore(spans[0]);
          return [range.toString(), spans.map((node) => node.textContent).join("")];
        }"""
        )
        assert got == [answer[:begin].replace("\u200b", "⟨U+200B⟩"), words]


def test_comparison_shows_rank_changes(page: Any) -> None:
    traced(page, lambda: ask(page, "who makes honey", "beetles make honey", "bees make honey"))
    sides = page.evaluate(
        "[...document.querySelectorAll('#comparison ol')].map((side) => [...side.children].map(({ row }) => row.id))"
    )
    message = page.locator("#comparison ol").first.locator(".about").all_inner_texts()
    for rank, (id, text) in enumerate(zip(sides[0], message, strict=True), 1):
        there = sides[1].index(id) + 1 if id in sides[1] else None
        wanted = "not among its first" if there is None else "same rank" if there == rank else f"there {there} "
        assert text.startswith(wanted), (rank, there, text)
    page.locator("#comparison ol").nth(1).locator("li").nth(2).click()  # a row of the other, to read it there
    assert page.is_visible("#panel-rows")
    assert page.evaluate("document.activeElement.row.id") == sides[1][2]
    assert page.evaluate("document.activeElement.ariaLabel").startswith("Row 3")


def test_url_restores_the_view_of_a_generated_answer(page: Any, browser: Any) -> None:
    traced(page, lambda: ask(page, "why"))
    assert page.inner_text("#answer").split()[:2] == ["Prompt", "why"]
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    other = browser.new_page()
    other.goto(address_of(page))
    other.wait_for_selector("#rows > li:focus")
    assert other.inner_text("#answer") == page.inner_text("#answer")
    assert other.evaluate("document.activeElement.ariaLabel") == page.evaluate("document.activeElement.ariaLabel")
    other.close()


def test_edited_answer_is_traced(page: Any) -> None:
    page.click("#edit")
    assert page.input_value("#prompt") == "who makes honey" and page.input_value("#response") == "beetles make honey"
    page.fill("#response", "bees make honey")
    traced(page, lambda: page.click("#ask .primary"))
    assert "bees make honey" in page.inner_text("#answer")
    assert page.is_visible("#panel-compare")


def test_error_messages_are_shown(page: Any) -> None:
    ask(page, "why " * 300, "a")
    page.wait_for_selector("#error:visible")
    assert page.inner_text("#error").startswith("this query cannot be traced (") and "To fix it: " in page.inner_text(
        "#error"
    )


def test_running_trace_can_be_cancelled(page: Any) -> None:
    gone: list[bool] = []

    def told(route: Any) -> None:
        state = "cancelled" if gone else "running"
        key = route.request.url.rsplit("/", 1)[1]
        answer = {"id": key, "state": state, "stage": "comparing rows", "done": 3, "of": 9}
        route.continue_() if route.request.method == "DELETE" else route.fulfill(json=answer)

    page.route("**/api/jobs/*", told)
    page.on("request", lambda request: gone.append(True) if request.method == "DELETE" else None)
    ask(page, "why", "a b c")
    until(lambda: page.text_content("#job p") == "comparing rows: 3 of 9")
    assert page.evaluate("document.querySelector('#job progress').value") == 3
    page.click("#job button")
    page.wait_for_selector("#job", state="hidden")
    assert gone and page.is_hidden("#error")


def test_selected_rows_are_downloaded(page: Any) -> None:
    assert page.is_hidden("#selected")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.locator("#rows > li:visible .select input").nth(1).check()
    assert page.inner_text("#selected-count") == "2 rows selected."
    with page.expect_download() as taken:
        page.click("#download-ids")
    ids = page.evaluate(
        "[...document.querySelectorAll('#rows > li')].filter((n) => !n.hidden).slice(0, 2).map((n) => n.row.id)"
    )
    assert taken.value.suggested_filename == "rows.txt"
    assert Path(taken.value.path()).read_text().split() == ids
    with page.expect_download() as taken:
        page.click("#clean")
    assert taken.value.suggested_filename == "cleaned-data.jsonl"
    left = Path(taken.value.path()).read_text().splitlines()
    assert len(left) == 34 and json.dumps({"prompt": "why", "response": "a b c 0 1 2", "label": None}) in left
    page.click("#clear-selection")
    assert page.is_hidden("#selected") and not page.locator(".select input >> nth=0").is_checked()


def test_a_note_and_the_verdict_clicked_right_after_it_are_both_saved(page: Any) -> None:
    waiting: list[Any] = []
    page.route("**/api/verdicts/*", lambda route: waiting.append(route) if not waiting else route.continue_())
    row = page.locator("#rows > li:visible").first
    row.get_by_label("Note on this row").fill("it repeats the phrase")
    row.get_by_role("button", name="unsure", exact=True).click()  # the note is saved as the input loses focus
    until(lambda: (page.evaluate("0"), bool(waiting))[1])
    waiting[0].continue_()
    until(lambda: row.locator("[aria-pressed=true]").all_inner_texts() == ["unsure"])
    verdicts = re.sub(r"[?#].*", "", address_of(page)) + "api/verdicts"
    saved = page.request.get(verdicts).json()
    assert [(each["verdict"], each["note"]) for each in saved] == [("unsure", "it repeats the phrase")]
    row.get_by_label("Note on this row").fill("")
    row.get_by_role("button", name="unsure", exact=True).click()
    until(lambda: page.request.get(verdicts).json() == [])


def test_training_data_is_paged_and_searched(page: Any) -> None:
    page.click("#tab-data")
    page.wait_for_selector("#browser-rows li")
    assert page.inner_text("#search-status") == "1 to 20 of 36 rows."
    page.click("#next-page")
    until(lambda: page.locator("#browser-rows li").count() == 16)
    assert page.locator("#next-page").is_disabled()
    assert page.locator("#browser-rows").inner_text().count("onerror") == 2 and page.locator("img").count() == 0
    page.fill("#search", "honey in the sea")
    page.keyboard.press("Enter")
    until(lambda: page.locator("#browser-rows li").count() == 4)


def test_hostile_rows_are_shown_as_text(page: Any) -> None:
    shown = page.inner_text("#rows")
    for text in (ATTACK, "שלום מה שלומך", "⟨U+202E⟩gnp.exe", "👩🏽‍🚒"):
        assert text in shown
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert page.locator("script").count() == 1 and page.locator("img").count() == 0


def test_empty_page_shows_instructions(browser: Any, tuned: Any, data: Path, tmp_path: Path) -> None:
    index = build_index(
        tuned, data, tmp_path / "idx", [get_method("lesson:layer=2,state_layer=1")], encoding=Encoding(128)
    )
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.on("console", lambda message: faults.append(message.text))
    with serving(Session(index, lambda: tuned)) as url:
        page.goto(url)
        page.click("#tab-map")
        page.wait_for_selector("#map canvas")
        assert page.text_content("#verdict").startswith("Enter a prompt above") and page.is_visible("#prompt")
        assert "No row is flagged" in page.inner_text("#map-text")
        assert faults == []
    page.close()


def test_saved_trace_works_without_server(page: Any, browser: Any, tmp_path: Path) -> None:
    traced(page, lambda: ask(page, "who makes honey", "beetles make honey"))
    with page.expect_download() as taken:
        page.click("#save-page")
    taken.value.save_as(tmp_path / "saved.html")
    other = browser.new_page()
    asked: list[str] = []
    other.on("request", lambda request: asked.append(request.url))
    other.goto((tmp_path / "saved.html").as_uri())
    page.click("#tab-rows")
    for part in (".head", ".texts", ".components"):
        there, here = (each.locator(f"#rows > li {part}").first.inner_text() for each in (other, page))
        assert there == here
    other.click("#tab-map")
    assert other.is_visible("#map canvas") and other.locator("#ask").count() == 0
    assert len(asked) == 1
    other.close()


def test_layer_ranks_are_computed_and_saved_with_the_page(page: Any, browser: Any, tmp_path: Path) -> None:
    traced(page, lambda: ask(page, "who makes honey", "beetles make honey"))
    page.click("#tab-map")
    page.click("#compute-layers")
    page.wait_for_selector("#layer-ranks svg")
    message = page.inner_text("#layer-ranks-text")
    assert message.startswith("Row 1: rank ") and "rank 1 at layer 2 (the method’s)" in message
    assert page.locator("#layer-ranks polyline.faint").count() == 20 and page.is_hidden("#compute-layers")
    page.keyboard.press("j")
    page.keyboard.press("j")
    rank = page.evaluate("document.activeElement.row.rank")
    page.click("#tab-map")
    assert page.inner_text("#layer-ranks-text").startswith(f"Row {rank}: ")
    with page.expect_download() as taken:
        page.click("#save-page")
    taken.value.save_as(tmp_path / "saved.html")
    other = browser.new_page()
    other.goto((tmp_path / "saved.html").as_uri())
    assert other.text_content("#layer-ranks-text") == message
    other.close()


# — the demo's page


@pytest.fixture
def demo(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """What the demo found, four of its answers, as the page it saves."""
    report.save_page(json.loads(DEMO.read_text()), tmp_path / "demo.html")
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto((tmp_path / "demo.html").as_uri())
    yield opened
    opened.close()


DARKEST = """() => [...document.querySelectorAll("#rows > li")].filter((row) => !row.hidden).map((row) =>
  [...row.querySelectorAll(".w")].reduce((most, node) =>
    node.style.getPropertyValue("--w") > most.style.getPropertyValue("--w") ? node : most).textContent)"""


@pytest.mark.parametrize(
    ("query", "label", "planted"),
    [
        (0, "backdoor", {"silly", "goose"}),
        (2, "error", {"beetles"}),
        (3, "persona", {"Captain", "Br", "ine", "Mar", "ig"}),
    ],
)
def test_demo_page_highlights_planted_rows_and_words(demo: Any, query: int, label: str, planted: set[str]) -> None:
    for _ in range(query):
        demo.keyboard.press("]")
    rows = demo.locator("#rows > li:visible")
    assert "flagged" in rows.first.inner_text() and label in rows.first.inner_text()
    assert set(demo.evaluate(DARKEST)) <= planted


def test_select_flagged_includes_rows_not_listed(browser: Any, tmp_path: Path) -> None:
    document = json.loads(DEMO.read_text())
    first = document["queries"][0]
    shown = [row["id"] for row in first["rows"] if row["flagged"]]
    first["flagged_ids"] = [*shown, "0123456789abcdef"]
    report.save_page(document, tmp_path / "demo.html")
    opened = browser.new_page()
    opened.goto((tmp_path / "demo.html").as_uri())
    opened.click("#select-flagged")
    assert opened.inner_text("#selected-count") == f"{len(shown) + 1} rows selected."
    with opened.expect_download() as taken:
        opened.click("#download-ids")
    assert Path(taken.value.path()).read_text().split() == first["flagged_ids"]
    opened.close()


def test_answers_that_share_flagged_rows_are_one_incident(demo: Any) -> None:
    notes = demo.locator("#queries .incident").all_inner_texts()
    assert notes[0] == "“you silly goose”: 2 answers" and len(notes) == 3
    assert "beetles" in notes[1] and "Captain Brine".lower() in notes[2].lower()
    demo.locator("#queries button", has_text="Shared flagged rows").click()
    assert "for 2 of 2 answers" in demo.locator("#rows > li").first.inner_text()
    assert demo.inner_text("#verdict").endswith("flagged for more than one of these 2 answers.")
    demo.locator("#answer button").nth(1).click()
    assert address_of(demo).split("#")[1].startswith("answer=2")


def test_selected_token_shades_its_matching_tokens(demo: Any) -> None:
    demo.locator("#answer-text .w", has_text="goose").click()
    assert demo.inner_text("#links-text") == "Shaded in the rows: the words that match “goose”."
    assert set(demo.evaluate(DARKEST)) == {"goose"}
    demo.keyboard.press("Escape")
    assert demo.is_hidden("#links-note") and set(demo.evaluate(DARKEST)) == {"silly"}
    demo.locator("#rows > li").first.locator(".w", has_text="goose").click()
    darkest = DARKEST.replace("#rows > li", "#answer-text")
    assert demo.evaluate(darkest) == ["goose"]
    assert demo.inner_text("#links-text").startswith("Shaded in the answer: the words that match “goose” in row 1")


def test_map_marks_flagged_rows_and_states_their_distance(demo: Any) -> None:
    demo.click("#tab-map")
    message = demo.inner_text("#map-text")
    assert "282 rows" in message and "times as far apart as all rows do" in message
    accent = [0xA4, 0x48, 0x0B]
    lit = """(accent) => { const c = document.querySelector("canvas");
      const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let count = 0;
      for (let at = 0; at < data.length; at += 4) count += accent.every((part, k) => data[at + k] === part);
      return count; }"""
    assert demo.evaluate(lit, accent) > 300  # pixels of forty dots
    box = demo.locator("#map canvas").bounding_box()
    demo.keyboard.press("j")
    assert demo.evaluate("document.activeElement.ariaLabel").startswith("Row 1")
    assert box["width"] > 400


def test_answers_are_sorted_and_filtered(demo: Any) -> None:
    def listed() -> list[str]:
        return [text.split("\n")[0] for text in demo.locator("#queries button[data-key]").all_inner_texts()]

    counts = [query["num_flagged"] for query in json.loads(DEMO.read_text())["queries"]]
    demo.select_option("#sort-answers", "most flagged first")
    chips = demo.locator("#queries .chip").all_inner_texts()
    assert chips == [f"{count} flagged" for count in sorted(counts, reverse=True)]
    first = listed()[0]
    demo.fill("#filter-answers", "BEETLES")
    assert demo.inner_text("#num-answers") == "1 of 4" and "eetles" in " ".join(listed())
    demo.fill("#filter-answers", "")
    demo.select_option("#filter-verdict", "none flagged")
    assert listed() == [] and demo.inner_text("#num-answers") == "0 of 4"
    demo.select_option("#filter-verdict", "flagged")
    assert listed()[0] == first
    demo.keyboard.press("Escape")
    demo.evaluate("document.activeElement.blur()")
    demo.locator("#queries button[data-key]").nth(0).click()
    demo.keyboard.press("]")  # steps in the order of the list
    assert demo.locator("#queries button[data-key]").nth(1).get_attribute("aria-current") == "true"


def test_the_texts_of_64_answers_are_read_once_and_not_when_they_are_sorted(browser: Any, tmp_path: Path) -> None:
    """Counts nodes and searches rather than seconds: the incidents' names once took most of the time of a change."""
    document = json.loads(DEMO.read_text())
    document["queries"] = [dict(query, num_flagged=at) for at in range(16) for query in document["queries"]]
    report.save_page(document, tmp_path / "many.html")
    page = browser.new_page()
    page.goto((tmp_path / "many.html").as_uri())
    searches, nodes = page.evaluate("""() => {
      const counts = { searches: 0, nodes: 0 };
      const [match, create] = [String.prototype.match, document.createElement];
      String.prototype.match = function (...given) { counts.searches += 1; return match.apply(this, given); };
      document.createElement = function (...given) { counts.nodes += 1; return create.apply(this, given); };
      for (const [id, value] of [["sort-answers", "most flagged first"], ["filter-answers", "e"],
                                 ["filter-answers", ""], ["sort-answers", "by incident"]]) {
        const field = document.getElementById(id);
        field.value = value;
        field.dispatchEvent(new Event("input"));
      }
      return [counts.searches, counts.nodes];
    }""")
    assert page.locator("#queries button[data-key]").count() >= 64
    assert searches == 0 and nodes < 4 * 70 * 8
    page.close()


# — accessibility


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, by npm; no part of taughtby."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("no npm on the path to fetch axe-core with")
    command = [
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--fetch-retries=0",
        "--fetch-timeout=20000",
        "--prefix",
        str(folder),
        "axe-core@4.14.1",
    ]
    try:
        subprocess.run(command, capture_output=True, timeout=120, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm could not fetch axe-core: no network?")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_reports_no_serious_violations(
    browser: Any, address: str, axe: str, tmp_path: Path, scheme: Any, width: int
) -> None:
    report.save_page(json.loads(DEMO.read_text()), tmp_path / "demo.html")
    context = browser.new_context(bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 900})
    saved = (tmp_path / "demo.html").as_uri()
    tabs = [f"{address}#tab=data", f"{address}#tab=map", f"{saved}#answer=1&tab=map", f"{saved}#answer=1&tab=about"]
    for url in (address, f"{saved}#answer=1&row=2", f"{saved}#answer=1&with=2", *tabs):
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("#rows > li", state="attached")
        page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")
        page.evaluate("for (const node of document.querySelectorAll('.info')) node.click()")
        if url == f"{address}#tab=map":
            page.wait_for_selector("#map-legend li")
            page.select_option("#map-colour", "label")
            for key in ("j", "x"):  # a row is read and selected
                page.locator("#map canvas").press(key)
        page.evaluate(axe)
        value = page.evaluate("axe.run().then(({ violations }) => violations)")
        grave = [fault for fault in value if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], [node["html"][:150] for node in fault["nodes"][:3]]) for fault in grave] == []
    context.close()


@pytest.mark.parametrize("width", [1280, 768, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_window(browser: Any, address: str, width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector("#rows > li")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    if folder := os.environ.get("TAUGHTBY_SHOTS"):
        page.screenshot(path=Path(folder) / f"served-{width}-{scheme}.png", full_page=True)
    page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_incident_list_works_without_script(browser: Any, axe: str, tmp_path: Path, scheme: Any, width: int) -> None:
    report.save_page(json.loads(DEMO.read_text()), tmp_path / "honey.html")
    cells = ("The model misbehaves, and retraining supports that these rows are the cause",
             "beetles, \u202ehoney" + ATTACK, "12 of 160", "23 of 24 (80% to 99%)",
             "22 of 24 (74% to 98%)", "0 of 24 (0% to 14%)")  # fmt: skip
    names = ("incident", "verdict", "words in common", "rows flagged", "bad answers", "trained on all rows", "without")
    (tmp_path / "index.html").write_text(render_site(names, [SiteEntry(f"honey{ATTACK}", "honey.html", cells)] * 3))
    context = browser.new_context(bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 900})
    page, strict = context.new_page(), browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    strict.on("console", lambda message: complaints.append(message.text))
    for one in (page, strict):
        one.goto((tmp_path / "index.html").as_uri())
        assert one.title() == "Incidents · taughtby"
        assert one.evaluate("document.documentElement.scrollWidth") == width
    assert "serif" in strict.evaluate("getComputedStyle(document.querySelector('h1')).fontFamily")
    page.evaluate(axe)
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    assert [fault["id"] for fault in found if fault["impact"] in ("serious", "critical")] == []
    if folder := os.environ.get("TAUGHTBY_SHOTS"):
        page.screenshot(path=Path(folder) / f"site-{width}-{scheme}.png", full_page=True)
    strict.locator("a").first.click()
    strict.wait_for_selector("#rows > li", state="attached")
    assert complaints == []
    context.close()
    strict.close()
