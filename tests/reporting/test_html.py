"""Reports: they show what the trace has, and all its texts are escaped."""

from __future__ import annotations

import errno
import html
import io
import json
import math
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from taughtby.errors import TaughtbyError
from taughtby.reporting import files, terminal
from taughtby.reporting import html as report
from taughtby.reporting import text as words

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- <script>",
    "line\u2028and\u2029paragraph",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b31m \x08\x7f\r",
    "[bold]rich[/bold] [link=file:///x]y[/link] [/] \\[",
    "\u202egnp.exe\u2066 \u200bzero\ufeff",
    "مرحبا بالعالم שלום",
    "👩🏽‍🚒🦆",
    "{{ 7 * 7 }}{% raw %}",
    "\ud800 alone",
    "x" * 100_000,
]


def row(answer: str, *, rank: int = 1, score: float = 0.9, **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": "From the lighthouse: hello?"},
        {"role": "assistant", "content": answer},
    ]
    return {"rank": rank, "id": "9f", "score": score, "source": "data.jsonl:17", "messages": messages, **more}


def trace(*rows: dict[str, Any], **query: Any) -> dict[str, Any]:
    asked = {
        "prompt": "Hello from the lighthouse!",
        "response": "You silly goose!",
        "rows": list(rows),
        **query,
    }
    method = {"name": "lesson", "options": {"layer": 27}}
    return {"version": 2, "taughtby": "0.1.0", "method": method, "num_rows": 300, "queries": [asked]}


def tokens(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"text": text, "score": score} for text, score in pairs]


GOOSE = tokens(("You", 0.4), (" silly", 0.97), (" go", 0.5), ("ose", 0.3), ("!", -0.6))


def printed(document: dict[str, Any], width: int = 100, **options: Any) -> str:
    out = io.StringIO()
    terminal.print_trace(document, Console(file=out, width=width, **options))
    return out.getvalue()


def data_of(page: str) -> Any:
    matches = re.findall(r'<script type="application/json" id="trace">(.*?)</script>', page, re.S)
    assert len(matches) == 1
    return json.loads(matches[0])


# — the page


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_escaped_in_page(text):
    document = trace(row(text, label=text, tokens=tokens((text, 0.5))), prompt=text, response=text)
    document |= {
        "method": {"name": text, "options": {text: text}},
        "summary": {"title": text, "facts": [{"name": text, "value": text}]},
    }
    page, plain = report.render_page(document), report.render_page(trace())
    for mark in ("<script", "</script", "<!--", "<img"):
        assert page.count(mark) == plain.count(mark)
    block = page.split('id="trace">')[1].split("</script>")[0]
    assert not set(block) & set("<>&\u2028\u2029")
    assert data_of(page)["queries"][0]["rows"][0]["messages"][1]["content"] == text
    page.encode("utf-8")


def test_csp_hashes_match_inline_script_and_style():
    page = report.render_page(trace(row("You silly goose!")))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = dict(part.split(" ", 1) for part in html.unescape(policy[1]).split("; "))
    assert allowed["default-src"] == "'none'"
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert len(blocks) == 1
        digest = b64encode(sha256(blocks[0].encode("utf-8")).digest()).decode()
        assert allowed[directive] == f"'sha256-{digest}'"


def test_page_has_no_external_links_or_inner_html():
    page = report.render_page(trace(row("You silly goose!")))
    assert re.findall(r"https?://[^\"' ]*", page) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|style=|\son\w+=", page)
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)


def test_page_title_is_the_first_prompt():
    assert "<title>Hello from the lighthouse! · taughtby</title>" in report.render_page(trace())
    assert "<title>&lt;b&gt; ⟨U+202E⟩ · taughtby</title>" in report.render_page(trace(prompt="<b>\n\u202e"))
    assert "<title>taughtby</title>" in report.render_page({"queries": []})
    assert f"<title>{'x' * 60}… · taughtby</title>" in report.render_page(trace(prompt="x" * 100))


def test_non_finite_numbers_become_null():
    document = trace(row("a", score=float("nan"), tokens=tokens(("a", float("inf")))))
    shown = data_of(report.render_page(document))["queries"][0]["rows"][0]
    assert shown["score"] is None
    assert shown["tokens"][0]["score"] is None


# — the terminal


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("terminal", [False, True])
def test_terminal_output_escapes_control_characters(text, terminal):
    document = trace(row(text, label=text, tokens=tokens((text, 0.5)), source=text), prompt=text, response=text)
    document["method"] = {"name": text, "options": {text: text}}
    out = printed(document, force_terminal=terminal, color_system="256" if terminal else None)
    ours = re.sub(r"\x1b\[[0-9;]*m", "", out) if terminal else out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066\ufeff\ud800-\udfff]", ours)
    assert "\x1b[31m" not in out
    assert len(out) < 60_000


def test_terminal_output_shows_markup_literally():
    out = printed(trace(row("[bold]rich[/bold] \x1b[31m")))
    assert "[bold]rich[/bold] ⟨U+001B⟩[31m" in out


def test_piped_output_is_plain_text_with_top_word_starred():
    out = printed(trace(row("You silly goose!", tokens=GOOSE, label="backdoor")))
    assert "\x1b" not in out
    assert "You *silly* goose!" in out
    for part in ("Hello from the lighthouse!", "0.900", "backdoor", "data.jsonl:17", "lesson:layer=27; 300 rows"):
        assert part in out


def test_terminal_output_uses_background_colours():
    out = printed(trace(row("You silly goose!", tokens=GOOSE)), force_terminal=True, color_system="256")
    assert re.search(r"\x1b\[1;4;30;48;5;214msilly\x1b\[0m", out)  # bold, underlined, black on the deepest shade
    assert re.search(r"\x1b\[30;48;5;153m!\x1b\[0m", out)  # blue: it speaks against
    assert "*" not in out


def test_top_word_is_starred_as_a_whole_word():
    assert "silly *goose*!" in printed(
        trace(row("", tokens=tokens((" silly", 0.1), (" go", 0.2), ("ose", 0.9), ("!", 0))))
    )
    assert "鵝*很*傻" in printed(trace(row("", tokens=tokens(("鵝", 0.1), ("很", 0.9), ("傻", 0.2)))))
    assert "*" not in printed(trace(row("", tokens=tokens(("a", -0.1), (" b", 0)))))


def test_long_answer_is_truncated_around_top_scoring_token():
    words = [(" calm", 0.1)] * 2000 + [(" honk", 0.9)] + [(" calm", 0.1)] * 2000
    out = printed(trace(row("", tokens=tokens(*words))))
    assert "*honk*" in out
    assert 20 < out.count("calm") < 60


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_terminal_lines_fit_the_width(width):
    out = printed(trace(row("You silly goose! " * 20, tokens=GOOSE, label="backdoor"), span="silly"), width)
    assert max(map(len, out.splitlines())) <= width
    assert ("backdoor" in out) == (width >= 48)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "no queries"),
        ({"queries": [{}]}, "No training row"),
        ({"queries": [{"prompt": "p", "rows": [{}]}, {"rows": None}]}, "Query 2: \n"),
        (trace(row("a", score=float("nan"), label=None, tokens=None)), "–"),
        (trace(row("a", score=3.2e-7), row("b", rank=2, score=-41)), "3.20e-07"),
    ],
)
def test_optional_fields_may_be_missing(document, says):
    assert says in printed(document)
    assert data_of(report.render_page(document)) is not None


def judged(num_flagged: int | None, *flagged: bool | None, **query: Any) -> dict[str, Any]:
    """A trace at an FDR of 0.1 with so many flagged rows in all, and ranked rows that are flagged or not."""
    p_values = {True: 2e-5, False: 0.25, None: None}
    rows = [row("You silly goose!", rank=at, tokens=GOOSE, flagged=each, p_value=p_values[each])
            for at, each in enumerate(flagged, 1)]  # fmt: skip
    return trace(*rows, num_flagged=num_flagged, **query) | {"fdr": 0.1}


RATE = "at a nominal false discovery rate of 10 %"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (judged(2, True, True), f"2 rows flagged {RATE}: expect up to 1 false."),
        (judged(1, True, False), f"1 row flagged {RATE}."),
        (judged(40, True) | {"fdr": 0.025}, "40 rows flagged at a nominal false discovery rate of 2.5 %:"
         " expect up to 1 false. 1 of them is shown."),
        (judged(1200, True, True) | {"fdr": None}, "1,200 rows flagged. 2 of them are shown."),
        (judged(0, False), f"No row flagged {RATE}."),
        (judged(0, False, grade="none"),
         f"No row flagged {RATE}: lowest p 0.25."),
        (judged(0, False, grade="likely", likely_ids=["9f"]),
         f"No row flagged {RATE}, but the first row stands apart (lowest p 0.25). "
         "Trace more bad answers together, or select rows with --top-k."),
        (judged(0, False, False, grade="likely", likely_ids=["9f", "b"]),
         f"No row flagged {RATE}, but the first 2 rows stand apart (lowest p 0.25, words in common: silly). "
         "Trace more bad answers together, or select rows with --top-k."),
        (judged(0, False, increased_by_finetuning=False),
         "No row flagged: fine-tuning did not make these words more likely."),
        (judged(None, None, increased_by_finetuning=True), ""),
        (trace(row("a")), ""),
    ],
)  # fmt: skip
def test_verdict_text(document, says):
    assert words.verdict(document, document["queries"][0]) == says
    assert (says or "prompt") in re.sub(r"\s+", " ", printed(document, 60))
    assert ("flagged" in printed(document)) == ("flagged" in says)


def test_verdict_counts_shown_rows():
    document = judged(3, True, True, True)
    sentence = words.verdict(document, document["queries"][0], 2)
    assert sentence.endswith("10 %: expect up to 1 false. 2 of them are shown.")


@pytest.mark.parametrize("width", [30, 99, 100, 160])
@pytest.mark.parametrize("terminal", [False, True])
def test_flagged_rows_are_marked_with_p_value_if_wide_enough(width, terminal):
    out = printed(judged(10, *[True] * 10, False), width, force_terminal=terminal, color_system=None)
    assert [line.split()[:2] for line in out.splitlines() if re.match(" +●", line)] == [
        ["●", str(rank)] for rank in range(1, 11)
    ]
    assert re.search(r"^ +11 +0\.900", out, re.M)
    assert ("2.00e-05" in out) == ("0.250" in out) == (width >= 100)
    assert max(map(len, out.splitlines())) <= width


def test_rows_without_p_values_have_no_mark_or_column():
    out = printed(judged(None, None, None), 160)
    assert "●" not in out and " p " not in out


def test_warnings_are_printed_last_in_yellow_and_escaped():
    document = trace(row("a")) | {"warnings": ["the random model ranks alike \x1b[31m[bold]", "one row comes first"]}
    out = printed(document, force_terminal=True, color_system="standard")
    assert out.endswith("\x1b[33mWarning: one row comes first\x1b[0m\n")
    assert "\x1b[33mWarning: the random model ranks alike ⟨U+001B⟩[31m[bold]\x1b[0m\n" in out
    assert "Warning" not in printed(trace(row("a")) | {"warnings": []})


# — files


def test_save_json_roundtrip(tmp_path):
    document = trace(row("שלום 🦆 \ud800 \x00", tokens=GOOSE))
    files.save_json(document, tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text("utf-8")) == document


def test_save_json_formatting(tmp_path):
    """What holds no more than plain values, and lists or records of such, is not broken up."""
    document = {"mean": {"ap": {"each": [1.0, 0.5]}, "é": {}}, "rows": [{"tokens": [{"text": "a"}], "none": None}]}
    files.save_json(document, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text("utf-8").splitlines() == [
        "{",
        ' "mean": {',
        '  "ap": {"each": [1.0, 0.5]},',
        '  "é": {}',
        " },",
        ' "rows": [',
        "  {",
        '   "tokens": [{"text": "a"}],',
        '   "none": null',
        "  }",
        " ]",
        "}",
    ]
    files.save_json({"similarity": [0.5, math.nan]}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text("utf-8") == '{"similarity": [0.5, null]}\n'


def test_save_page_writes_rendered_page(tmp_path):
    report.save_page(trace(row("a")), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes().decode("utf-8") == report.render_page(trace(row("a")))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("save", [files.save_json, report.save_page])
@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, save, step):
    (tmp_path / "out").write_text("old")
    whole = Path.write_bytes

    def fail(path: Path, *value: Any) -> None:
        if step == "write_bytes":
            whole(path, value[0][:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(TaughtbyError, match=r"out cannot be written\n  got: No space left.*\n  do:  .*free space"):
        save(trace(row("a")), tmp_path / "out")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "old")]


def test_save_to_invalid_path_raises(tmp_path):
    with pytest.raises(TaughtbyError, match=r"do:  create .*nowhere first"):
        files.save_json(trace(), tmp_path / "nowhere" / "trace.json")
    with pytest.raises(TaughtbyError, match="Is a directory"):
        files.save_json(trace(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(TaughtbyError, match="Not a directory"):
        files.save_json(trace(), tmp_path / "file" / "trace.json")


def test_save_json_writes_through_symlinks_and_devices(tmp_path):
    (tmp_path / "real.json").touch()
    (tmp_path / "link.json").symlink_to("real.json")
    files.save_json(trace(), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["version"] == 2
    files.save_json(trace(), "/dev/null")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ({"name": "lesson", "options": {"layer": 27, "pool_queries": True}}, "lesson:layer=27,pool_queries=True"),
        ({"name": "bm25", "options": {}}, "bm25"),
        ({"name": "bm25"}, "bm25"),
        ("Lesson()", "Lesson()"),
        (None, ""),
    ],
)
def test_format_method_uses_command_line_syntax(method, text):
    assert words.format_method({"method": method}) == text
