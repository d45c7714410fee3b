"""Escaping of texts for shells, Markdown, format strings and terminals."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from rich.console import Console
from rich.table import Table

from conftest import HOSTILE
from taughtby.errors import StoreError
from taughtby.index.reader import Index
from taughtby.index.storage import address, storage_path
from taughtby.progress import ProgressCallback, Terminal, progress_bar
from taughtby.remediation.stage_cache import StageCache
from taughtby.remediation.statistics import markdown
from taughtby.reporting import plots as pictures
from taughtby.text import cli_command, closest, make_visible, markdown_code, markdown_text, shell_quote

ECHO = "import sys; sys.stdout.buffer.write(b'\\0'.join(map(__import__('os').fsencode, sys.argv[1:])))"


@pytest.mark.parametrize(
    "text", [*HOSTILE, "", "two\nlines", "a\tb", "'", "\\", "it's \x07", "caf\udce9", "`id`", "$(id)"]
)
def test_shell_quote_roundtrips_through_bash(text: str) -> None:
    line = f"{shell_quote(sys.executable)} -c {shell_quote(ECHO)} {shell_quote(text)}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode("utf-8", "surrogateescape") == text
    assert shell_quote(text).isprintable()  # so it cannot act on the terminal it is copied from


def test_cli_command_quotes_arguments_and_options() -> None:
    result = cli_command(
        "retrain", "-x", "a b", judge="-x", top_k=0, seed=None, mask_words=True, full=False, truth=["a|b", "c"]
    )
    assert result == "taughtby retrain ./-x 'a b' --judge=-x --top-k 0 --mask-words --truth 'a|b' --truth c"


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_renders_hostile_text_literally(text: str) -> None:
    """By a reader of Markdown; `Console` has one, markdown-it."""
    markdown_it = pytest.importorskip("markdown_it")
    reader = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])

    def shown(source: str) -> str:
        inline = [token for token in reader.parse(source) if token.type == "inline"]
        assert {child.type for token in inline for child in token.children} <= {"text", "text_special", "code_inline"}
        return "".join(child.content for token in inline for child in token.children)

    assert shown(f"see {markdown_text(text)} there") == f"see {make_visible(text)} there"
    assert shown(f"see {markdown_code(text)} there") == f"see {make_visible(text)} there"
    table = {"title": "t", "columns": ["one", text], "rows": [["x", text]], "note": "n"}
    cells = [token.content for token in reader.parse(markdown(table)) if token.type == "inline"]
    assert len(cells) == 6, "each cell is one cell"


CONSOLES: dict[str, Callable[..., Console]] = {"rich's own": Console, "ours": Terminal}


@pytest.mark.parametrize("console", CONSOLES.values(), ids=CONSOLES)
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("title", HOSTILE)
def test_progress_bar_shows_hostile_titles(title: str, terminal: bool, console: Callable[..., Console]) -> None:
    out = io.StringIO()
    with progress_bar(console(file=out, force_terminal=terminal, width=200), f"judge by {title}") as bar:
        bar.set_note(title)
        bar(1, 2)
    last = out.getvalue().splitlines()[-1]
    assert f"judge by {make_visible(title)}" in last
    assert terminal or "\x1b" not in last


@pytest.mark.parametrize("text", HOSTILE)
def test_console_prints_strings_without_markup(text: str) -> None:
    out = io.StringIO()
    console = Terminal(file=out, width=200)
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    console.print(text)
    console.print(text, markup=True, emoji=True, style="red")
    console.print(table)
    shown = make_visible(text)
    assert out.getvalue().count(shown) == 6
    assert "\x1b" not in out.getvalue() and "\u202e" not in out.getvalue()


def test_stage_is_saved_before_display_errors(tmp_path: Path) -> None:
    """What a display raises costs no work."""
    items: list[int] = []

    @contextmanager
    def breaks(title: str) -> Generator[ProgressCallback]:
        yield lambda done, of: None
        raise ValueError(title)

    def make(_: ProgressCallback) -> int:
        items.append(1)
        return 7

    for show in (breaks, None):
        ledger = StageCache(tmp_path, show) if show else StageCache(tmp_path)
        try:
            assert ledger.get_or_run("answers", 1, "[/x]", make) == 7
        except ValueError:
            assert show
    assert items == [1]


@pytest.mark.parametrize("text", HOSTILE)
def test_plots_accept_hostile_text(text: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    with plt.rc_context({"svg.fonttype": "none"}):  # text stays text
        pictures.precision_recall(text, [(text, [1.0, 0.5], False)], one)
        pictures.cost_accuracy([(text, 1.0, 0.5)], two)
    assert make_visible(text) in "".join(ElementTree.parse(one).getroot().itertext())
    assert make_visible(text) in "".join(ElementTree.parse(two).getroot().itertext())


@pytest.mark.parametrize(
    "name", ["a[1] {x} %s", "a:b", "s3:x", "memory:x", "file:x", "~", "~root", "a%20b", "a#b?c", "'; DROP", "-x"]
)
@pytest.mark.parametrize("whole", [True, False], ids=["absolute", "relative"])
def test_index_is_written_to_folders_with_special_names(
    name: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lance reads a scheme into a relative `a:b`, and somebody's home into `~`."""
    import pyarrow as pa

    from taughtby.index.manifest import Manifest
    from taughtby.index.transaction import IndexTransaction

    monkeypatch.chdir(tmp_path)
    place = storage_path(tmp_path / name / "idx" if whole else f"{name}/idx")
    table = pa.table({"id": ["a", "b'"], "source": ["x", "y"]})
    with IndexTransaction(place, new=True) as claim:
        claim.append_table(table)
        claim.delete_ids(["b'"])
        claim.publish_version(Manifest(settings={}))
    assert len(Index.open(place)) == 1
    assert (tmp_path / name / "idx" / "rows.lance" / "_versions").is_dir()


@pytest.mark.parametrize("path", ["a\x1b[31m", "two\nlines", "caf\udce9"])
def test_unsupported_path_characters_raise_before_any_write(path: str, tmp_path: Path) -> None:
    from taughtby.index.transaction import IndexTransaction

    with pytest.raises(StoreError, match="cannot be the path of an index"):
        IndexTransaction(tmp_path / path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address_", ["s3://bucket/a#b", "gs://bucket/a?b"])
def test_store_url_with_fragment_or_query_raises(address_: str) -> None:
    """Behind `#` and `?` a URL has other parts: the index would be written to a prefix of another name."""
    with pytest.raises(StoreError, match="cannot be the address"):
        storage_path(address_)
    assert address(storage_path("s3://bucket/a b")) == "s3://bucket/a b"


def test_error_suggests_shell_quoted_command(tmp_path: Path) -> None:
    folder: Any = tmp_path / "a b; echo $HOME"
    with pytest.raises(StoreError) as caught:
        Index.open(folder)
    assert f"taughtby index build MODEL DATA -o {shell_quote(folder)}" in str(caught.value)
    assert shell_quote(folder).startswith("'")


def test_the_closest_name_comes_first() -> None:
    names = ("lesson", "conflicting-answers", "rept")
    assert closest("lessn", names) == "did you mean lesson? choose one of: lesson, conflicting-answers, rept"
    assert closest("conflict", names).startswith("did you mean conflicting-answers?")
    assert closest("", names) == closest("zzz", names) == "choose one of: lesson, conflicting-answers, rept"
