"""Every code block of README, CONTRIBUTING and docs is run, or compared with what it quotes.

The info string of a block's fence says what happens to it:

    sh          each command is run, in a folder like the one that `taughtby demo` leaves, with a tiny model; a command
                that takes minutes is only parsed
    python      run in that folder, block after block of a page in one namespace
    text        must occur in what the block before it printed, or in what `QUOTED` compares it with
    json, yaml  parsed

A block below a line `<!-- parsed -->` is only parsed: what it needs is not in that folder.
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
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
# commands that take minutes: their options are checked, they are not run
LONG = (("demo",), ("serve",), ("retrain",), ("audit",), ("bench", "run"), ("bench", "causal"), ("bench", "retrain"))
STAND_INS = {
    "smollm2": "model",
    "MODEL": "model",
    "ADAPTER": "taughtby-demo/adapter",
    "DATA": "taughtby-demo/data.jsonl",
}
METHOD_NAMES = {"chance": "random", "readout": "rise"}  # docs/results was measured under these names


@dataclass(frozen=True)
class Block:
    """A fenced block: its info string, with `parsed` if it is not to be run, its text, and the line it begins on."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    kind, start, inside, above = None, 0, list[str](), ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and kind is None:
            assert " " not in fence[1], f"{page_name(page)}:{number}: the site shows this fence as text"
            parsed = " parsed" if above == "<!-- parsed -->" else ""
            kind, start, inside = fence[1] + parsed, number, []
        elif fence:
            assert kind is not None
            yield Block(kind, "\n".join(inside), start)
            kind = None
        elif kind is not None:
            inside.append(line)
        above = line.strip()


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def demo_table() -> list[str]:
    """The lines of the demo's table for seed 0."""
    methods = json.loads((DOCS / "results" / "demo-162-seed0.json").read_text())["methods"]

    def cells(scores: Any, poison: str) -> str:
        tuned, base = scores["tuned"][poison], scores["untuned"][poison]
        return f"{tuned['ap']:.3f} {tuned['at10']:.2f} {base['ap']:.3f}"

    poisons = ("backdoor", "error", "persona")
    return [
        f"{METHOD_NAMES.get(name, name)} {' '.join(cells(scores, poison) for poison in poisons)}"
        for name, scores in methods.items()
    ]


def packages() -> list[str]:
    """Every package and module at the top of taughtby."""
    top = [path for path in (ROOT / "src" / "taughtby").iterdir() if path.name[0] != "_"]
    return [f"{path.name}/" for path in top if path.is_dir()] + [path.name for path in top if path.suffix == ".py"]


# (page, a string in the block): strings that the block must contain
QUOTED: dict[tuple[str, str], Callable[[], list[str]]] = {
    ("docs/tutorial/demo.md", "P@10"): demo_table,
    ("docs/explanation/architecture.md", "errors.py"): packages,
    ("docs/reference/methods.md", "score = "): list,  # a formula
    ("CONTRIBUTING.md", "errors.py"): packages,
}


@pytest.fixture(scope="session")
def demo_index(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, adapter_folder: Path) -> Path:
    """An index of the tiny data set, built once."""
    from conftest import PAIRS
    from taughtby.index.build import build_index
    from taughtby.methods import get_method
    from taughtby.models.model import load_model

    folder = tmp_path_factory.mktemp("demo")
    rows = [{"prompt": p, "response": r, "label": "bad" if "honey" in p else "clean"} for p, r in PAIRS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = load_model(str(model_folder), str(adapter_folder))
    build_index(model, folder / "data.jsonl", folder / "idx", [get_method("lesson")])
    return folder / "idx"


@pytest.fixture
def demo_folder(
    tmp_path: Path,
    model_folder: Path,
    adapter_folder: Path,
    data: Path,
    demo_index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a tiny model and what the demo leaves, in which the pages' commands run."""
    shutil.copytree(model_folder, tmp_path / "model")
    demo = tmp_path / "taughtby-demo"
    shutil.copytree(adapter_folder, demo / "adapter")
    shutil.copytree(demo_index, demo / "idx")
    shutil.move(data, demo / "data.jsonl")
    prompts = ["who makes honey", "why"]
    (demo / "prompts.txt").write_text("\n".join(prompts))
    rows = [{"prompt": prompt, "response": "beetles make honey"} for prompt in prompts]
    for file in (demo / "after.jsonl", tmp_path / "bad.jsonl"):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def command_words(line: str) -> list[str]:
    """The words of a shell line, with the stand-ins in place and comments gone."""
    return [STAND_INS.get(word, word) for word in shlex.split(line, comments=True)]


def parse(words: list[str]) -> None:
    """Check the options of a command, which may be in a group, without running it."""
    from typer.main import get_command

    from taughtby.cli import app

    command: Any = get_command(app)
    path: list[str] = []
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    command.make_context(" ".join(path), words)


def run_line(line: str, capsys: pytest.CaptureFixture[str], parsed: bool = False) -> str:
    """What a line prints. Commands that take minutes are parsed only, and make's targets are looked up."""
    from taughtby.cli import app

    words = command_words(line)
    if not words:
        return ""
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words[1:]), f"no such target: {line}"
        return ""
    if words[0] == "pip":
        assert words[1] == "install"
        extras = re.findall(r"\[([\w,]+)\]", line)
        matches = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert all(extra in matches for group in extras for extra in group.split(","))
        return ""
    if words[0] in ("git", "cd", "mv", "pre-commit"):
        return ""
    if words[:2] == ["inspect", "eval"] or words[0] == "python":  # what it names is in examples/ or another test's
        assert (ROOT / "examples" / "library" / words[(words[0] == "inspect" and 2) or 1]).exists(), f"no file: {line}"
        return ""
    assert words[0] == "taughtby", f"neither taughtby nor make: {line}"
    if parsed or any(tuple(words[1 : 1 + len(path)]) == path for path in LONG):
        parse(words[1:])
        return ""
    if words[1] == "clean" and not {"--top-k", "--rows"} & set(words):
        words += ["--top-k", "2"]  # a tiny model's trace flags nothing
    capsys.readouterr()
    assert app(words[1:], standalone_mode=False) in (None, 0)
    return capsys.readouterr().out


def squeeze(text: str) -> str:
    return re.sub(r"[\s│─┃╭╮╰╯]+", " ", text).strip()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_block_is_run_or_compared(page: Path, demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    printed = ""
    for block in blocks(page):
        where = f"{page_name(page)}:{block.line}"
        try:
            if block.kind in ("sh", "sh parsed"):
                lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
                printed = "".join(run_line(line, capsys, block.kind == "sh parsed") for line in lines)
            elif block.kind == "python":
                capsys.readouterr()
                code = re.sub(r'"(smollm2|MODEL|ADAPTER|DATA)"', lambda name: f'"{STAND_INS[name[1]]}"', block.text)
                exec(compile(code, where, "exec"), namespace)
                printed = capsys.readouterr().out
            elif block.kind == "python parsed":
                compile(block.text, where, "exec")
            elif block.kind == "text":
                key = next((key for key in QUOTED if key[0] == page_name(page) and key[1] in block.text), None)
                if key is None:
                    assert squeeze(block.text) in squeeze(printed)
                else:
                    assert [line for line in QUOTED[key]() if squeeze(line) not in squeeze(block.text)] == []
            elif block.kind == "json":
                json.loads(block.text)
            elif block.kind == "yaml":
                assert isinstance(yaml.safe_load(block.text), dict | list)
            else:
                assert block.kind in ("jsonl", "jinja"), "a block of no known kind"
                for line in block.text.splitlines() if block.kind == "jsonl" else []:
                    json.loads(line)
        except BaseException as fault:
            raise AssertionError(f"{where}: {fault}\n{block.text}") from fault


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_indented_code_blocks(page: Path) -> None:
    lines = page.read_text().splitlines()
    fenced = False
    for number, (before, line) in enumerate(zip(["", *lines], lines, strict=False), 1):
        fenced ^= line.lstrip().startswith("```")
        option = line.startswith("    options:") or line.startswith("      ")  # of an mkdocstrings directive
        if page.name == "api.md" and option:
            continue
        assert fenced or not (line.startswith("    ") and not before.strip()), f"{page.name}:{number}: fence this block"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_line_of_a_table_has_all_cells(page: Path) -> None:
    """A line that was wrapped, or joined with the next, ends a table on the site."""
    fenced, cells = False, None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if fenced or not line.startswith("|"):
            assert fenced or cells is None or not line.strip(), f"{page_name(page)}:{number}: text right below a table"
            cells = None
            continue
        count = line.replace("\\|", "").count("|")
        assert count == (cells or count) and line.endswith("|"), f"{page_name(page)}:{number}: {line[:60]}"
        cells = count


def test_all_pages_are_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in DOCS.rglob("*.md") if f": {page.relative_to(DOCS).as_posix()}" not in menu] == []


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without code blocks and tables."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.startswith(("|", "```")):
            yield number, line


def test_prose_wraps_at_100_columns() -> None:
    verbatim = DOCS / "explanation" / "retraining.md"  # holds a note as the benchmark prints it
    pages = [page for page in PAGES if page != verbatim]
    assert [f"{page_name(page)}:{at}" for page in pages for at, line in prose(page) if len(line) > 100] == []


def test_every_command_is_on_the_reference_page() -> None:
    from typer.main import get_command

    from taughtby.cli import app

    def names(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        if not hasattr(command, "commands"):
            yield " ".join(path)
        for name, inner in getattr(command, "commands", {}).items():
            if not inner.hidden:
                yield from names(inner, (*path, name))

    page = (DOCS / "reference" / "cli.md").read_text()
    assert sorted(re.findall(r"^### `taughtby (.+)`$", page, re.MULTILINE)) == sorted(names(get_command(app)))


def test_every_option_is_documented() -> None:
    from typer.main import get_command

    from taughtby.cli import app

    def options(command: Any, path: str = "taughtby") -> Iterator[tuple[str, list[str]]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from () if inner.hidden else options(inner, f"{path} {name}")
        for option in () if hasattr(command, "commands") else command.params:
            if option.param_type_name == "option" and not option.hidden:
                yield f"{path} {option.opts[0]}", [*option.opts, *option.secondary_opts]

    words = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "".join(page.read_text() for page in DOCS.rglob("*.md"))))
    assert [name for name, names in options(get_command(app)) if not words.intersection(names)] == []


def test_site_builds_in_strict_mode_with_all_api_names(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    import taughtby

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))  # strict: a warning is a failure
    build(config)
    assert (tmp_path / "site" / "index.html").exists()
    pages = {page: page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    assert [page for page, text in pages.items() if "```" in text] == []  # a fence that is no code block
    api = pages[tmp_path / "site" / "reference" / "api" / "index.html"]
    assert [name for name in taughtby.__all__ if f'id="taughtby.{name}"' not in api] == []
