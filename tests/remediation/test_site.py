"""Several audits as one folder: a list with a link to each page; hostile texts are escaped."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_retrain import counts
from test_retrain import proof as make_proof

from conftest import HOSTILE, Run
from taughtby.errors import DataError
from taughtby.remediation.site import _file_name, write_site
from taughtby.reporting.html import save_json, save_page
from taughtby.reporting.site_page import SiteEntry, render_site


def write_audit(folder: Path, word: str = " beetles", proof: bool = True) -> Path:
    """What an audit leaves of an incident."""
    row = {"id": "a" * 16, "flagged": True, "tokens": [{"text": word, "score": 1.0}]}
    queries = [{"prompt": "who", "rows": [row, {**row, "id": "b" * 16}], "flagged_ids": ["a" * 16, "b" * 16]}]
    trace = {"version": 2, "queries": queries}
    results: dict[str, Any] = {
        "version": 2, "answers": counts(23), "num_rows": 160, "trace": trace, "removals": [{}] * 12,
        "proof": make_proof(original=23, all=22, cleaned=0, random=21) if proof else None,
    }  # fmt: skip
    folder.mkdir(parents=True)
    save_json(results, folder / "audit.json")
    save_page(trace, folder / "report.html")
    return folder


def cells(page: str) -> list[list[str]]:
    lines = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line)] for line in lines]


def test_site_lists_each_incident_with_its_page(run: Run, tmp_path: Path) -> None:
    one, two = write_audit(tmp_path / "a" / "Honey"), write_audit(tmp_path / "b" / "honey", proof=False)
    code, out, told = run("site", one, two, "-o", tmp_path / "site")
    assert code == 0 and "2 incidents" in out, told
    page = (tmp_path / "site" / "index.html").read_text()
    head, first, second = cells(page)
    assert head[:3] == ["incident", "verdict", "words in common"]
    assert first[0] == "Honey" and "retraining supports" in first[1]
    assert first[2:4] == ["beetles", "12 of 160"]
    assert [cell.partition(" (")[0] for cell in first[4:]] == ["23 of 24", "22 of 24", "0 of 24"]
    assert "(80% to 99%)" in first[4]
    assert second[0] == "honey" and second[5:] == ["", ""]
    assert re.findall(r'href="([^"]*)"', page) == ["honey.html", "honey-2.html"]
    for name, folder in (("honey.html", one), ("honey-2.html", two)):
        assert (tmp_path / "site" / name).read_bytes() == (folder / "report.html").read_bytes()


def test_audit_without_bad_answers_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "fine"
    folder.mkdir()
    results = {"version": 2, "answers": counts(0), "num_rows": None, "trace": None, "removals": [], "proof": None}
    save_json(results, folder / "audit.json")
    (folder / "report.html").touch()
    assert write_site([folder], tmp_path / "site") == 1
    _, line = cells((tmp_path / "site" / "index.html").read_text())
    assert line == ["fine", "The model does not misbehave", "", "", "0 of 24 (0% to 14%)", "", ""]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_escaped(tmp_path: Path, text: str) -> None:
    page = render_site(("name", "verdict"), [SiteEntry(text, "a.html", (text,))])
    assert "\x1b" not in page and "\u202e" not in page
    plain = render_site(("name", "verdict"), [SiteEntry("x", "a.html", ("x",))])
    tags = re.compile(r"<[a-z/!][^>]*>")
    assert tags.findall(page) == tags.findall(plain)
    assert "default-src 'none'" in unescape(page) and "<script" not in page


@given(st.lists(st.text(), min_size=1))
def test_page_file_names_are_unique(names: list[str]) -> None:
    taken = {"index.html"}
    for name in names:
        file = _file_name(name, taken)
        assert file not in taken and re.fullmatch(r"[a-z0-9_-]+\.html", file)
        taken.add(file)


def test_a_file_is_no_place_for_a_site(tmp_path: Path) -> None:
    folder = write_audit(tmp_path / "one")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="cannot be a folder"):
            write_site([folder], out)


def test_invalid_audit_folders_raise_and_write_nothing(tmp_path: Path) -> None:
    folder = write_audit(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no finished audit"):
        write_site([folder, tmp_path / "empty"], tmp_path / "site")
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "was not written by an audit"),
        ('{"version": 2}', "was not written by an audit"),
    ):
        (folder / "audit.json").write_text(text)
        with pytest.raises(DataError, match=message):
            write_site([folder], tmp_path / "site")
    results = json.loads((write_audit(tmp_path / "two") / "audit.json").read_text())
    results["answers"]["low"] = None
    (tmp_path / "two" / "audit.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match="was not written by an audit"):
        write_site([tmp_path / "two"], tmp_path / "site")
    assert not (tmp_path / "site").exists()
