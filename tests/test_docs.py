"""No page says what is not so: every code block of README and docs is run here, or compared with what it quotes.

The info string of a block's fence says what happens to it:

    sh       each command is run, in a world of tiny models; one that takes minutes is only parsed
    sh parsed  only parsed: what it needs is not in that world
    python   run in that world, block after block of a page in one namespace
    text     must stand in what the block before it printed, or be what `QUOTED` compares it with
    json     parsed, and loaded by tests/test_formats_doc.py
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LONG = ("demo", "bench", "serve")  # verbs that take minutes: their options are checked, they are not run
STAND_INS = {"smollm2": "model", "MODEL": "model", "ADAPTER": "adapter", "DATA": "data.jsonl", "IDX": "idx"}


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind its fence, its text, and the line it begins on."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    kind, start, inside = None, 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and kind is None:
            kind, start, inside = fence[1].strip(), number, []
        elif fence:
            assert kind is not None
            yield Block(kind, "\n".join(inside), start)
            kind = None
        elif kind is not None:
            inside.append(line)


def table_of_the_demo() -> str:
    """The demo's table for seed 0, as README shows it."""
    found = json.loads((ROOT / "docs" / "results" / "demo-seed0.json").read_text())["methods"]
    poisons = ("backdoor", "error", "persona")

    def cells(per: Any, poison: str) -> str:
        tuned, untuned = per["tuned"][poison], per["untuned"][poison]
        return f"{tuned['ap']:.3f} {tuned['at10']:.2f} {untuned['ap']:.3f}"

    return "\n".join(f"{line} {' '.join(cells(per, poison) for poison in poisons)}" for line, per in found.items())


def map_of_the_house() -> str:
    """Compared by tests/test_public.py."""
    return "errors.py"


QUOTED: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "backdoor"): table_of_the_demo,
    ("README.md", "example"): lambda: "example → template → tokens",
    ("house.md", "errors.py"): map_of_the_house,
}


@pytest.fixture
def world(
    tmp_path: Path, model_folder: Path, adapter_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a model, an adapter and a training set, in which the pages' commands run."""
    shutil.copytree(model_folder, tmp_path / "model")
    for folder in ("adapter", "taughtby-demo/adapter"):
        shutil.copytree(adapter_folder, tmp_path / folder)
    shutil.copy(data, tmp_path / "taughtby-demo")
    prompts = ["who makes honey", "why"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    rows = [{"prompt": prompt, "response": "beetles make honey"} for prompt in prompts]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def command(line: str) -> list[str]:
    """The words of a shell line, with the stand-ins in place and comments gone."""
    return [STAND_INS.get(word, word) for word in shlex.split(line, comments=True)]


def run(line: str, capsys: pytest.CaptureFixture[str], parsed: bool = False) -> str:
    """What a line prints; a command that takes minutes is parsed only, and one of make's is looked up."""
    from typer.main import get_command

    from taughtby.cli import app

    words = command(line)
    if not words:
        return ""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {words[1]}"
        return ""
    if words[0] == "pip":
        assert words[1] == "install"
        extras = re.findall(r"\[([\w,]+)\]", line)
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert all(extra in known for some in extras for extra in some.split(","))
        return ""
    assert words[0] == "taughtby", f"neither taughtby nor make: {line}"
    if parsed or words[1] in LONG:
        verb = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
        verb.make_context(words[1], words[2:])
        return ""
    capsys.readouterr()
    assert app(words[1:], standalone_mode=False) in (None, 0)
    return capsys.readouterr().out


def squeezed(text: str) -> str:
    return re.sub(r"[\s│─┃╭╮╰╯]+", " ", text).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_compared(page: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    printed = ""
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        try:
            if block.kind in ("sh", "sh parsed"):
                lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
                printed = "".join(run(line, capsys, block.kind == "sh parsed") for line in lines)
            elif block.kind == "python":
                capsys.readouterr()
                code = re.sub(r'"smollm2"', '"model"', block.text)
                exec(compile(code, where, "exec"), namespace)
                printed = capsys.readouterr().out
            elif block.kind == "text":
                quoted = next((QUOTED[key]() for key in QUOTED if key[0] == page.name and key[1] in block.text), None)
                if quoted is None:
                    assert squeezed(block.text) in squeezed(printed)
                else:
                    assert squeezed(quoted) in squeezed(block.text)
            else:
                assert block.kind in ("json", "jsonl", "jinja", "yaml"), "a block of no known kind"
                for line in block.text.splitlines() if block.kind == "jsonl" else []:
                    json.loads(line)
        except BaseException as fault:
            raise AssertionError(f"{where}: {fault}\n{block.text}") from fault


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_escapes_by_being_indented(page: Path) -> None:
    lines = page.read_text().splitlines()
    fenced = False
    for number, (before, line) in enumerate(zip(["", *lines], lines, strict=False), 1):
        fenced ^= line.lstrip().startswith("```")
        assert fenced or not (line.startswith("    ") and not before.strip()), f"{page.name}:{number}: fence this block"


def test_the_pages_are_all_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES if page.parent != ROOT and f": {page.name}" not in menu] == []


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))  # strict: a warning is a failure
    build(config)
    assert (tmp_path / "site" / "index.html").exists()
