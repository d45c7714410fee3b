"""Hostile user input is shown as text by every command: judges, prompts, labels, names and paths."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import HOSTILE, PAIRS, Run
from taughtby.text import make_visible, shell_quote

FOLDER = "a[1] {x} %s"
SHORT = ("--max-length", 128, "--dtype", "float32")


def lines(rows: list[dict[str, Any]], file: Path) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(params=["terminal", "pipe"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bars are drawn on a terminal alone."""
    if request.param == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
    return request.param


@pytest.fixture
def house(tmp_path: Path, model_folder: Path, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a hostile name with a model, an adapter and rows whose texts and labels are hostile."""
    home = tmp_path / FOLDER
    shutil.copytree(model_folder, home / "model")
    shutil.copytree(adapter_folder, home / "adapter [/x]")
    rows = [{"prompt": p, "response": r, "label": "honey" if "honey" in p else "clean"} for p, r in PAIRS]
    rows += [{"prompt": f"why {text}", "response": f"beetles {text} honey", "label": text} for text in HOSTILE]
    lines(rows, home / "data #{0}.jsonl")
    monkeypatch.chdir(home)
    return home


def test_commands_work_in_a_folder_with_special_characters(run: Run, house: Path, where: str) -> None:
    """By relative and by whole paths in turn."""

    def does(*args: object) -> str:
        code, out, err = run(*args)
        assert code == 0, err
        return out + err

    data, model, adapter = house / "data #{0}.jsonl", "model", "adapter [/x]"
    idx, trace = house / "idx [bold]", house / "{trace}.json"
    does("data", "inspect", model, data)
    message = does("index", "build", model, data.name, "-o", idx.name, "-a", adapter, *SHORT)
    assert "idx [bold]" in message and "index data #{0}.jsonl" in message and "load model with adapter [/x]" in message
    does("trace", idx, "-p", "who makes honey", "-r", "beetles make honey", "--json", trace, "--html", "%s.html")
    assert (house / "%s.html").exists()
    does("check", idx.name, "--rows", 10)
    does("data", "layers", model, data, "--plot", "$\\frac {}.png")
    does("clean", trace.name, data.name, "--top-k", 2, "-o", "cleaned [*].jsonl")
    message = does("index", "delete", idx, "--cleaned", "cleaned [*].manifest.json")
    (offered,) = re.findall(r"`(taughtby index compact .*?)` frees", message.replace("\n", " "))
    assert shlex.split(offered) == ["taughtby", "index", "compact", str(idx)]
    more = lines([{"prompt": "why", "response": "seven days a week"}], house / "more?.jsonl")
    does("index", "append", idx.name, more)
    does("index", "compact", idx, "--keep", 0)
    does("index", "copy", idx.name, "copy {x}")
    assert "sound" in does("index", "verify", "copy {x}", "--recompute", "--rows", 4)
    assert "nothing" in does("index", "undo", house / "copy {x}")


@pytest.mark.parametrize("name", ["~", "a:b", "-x", "*?"])
def test_special_relative_paths_are_taken_literally(
    run: Run, tmp_path: Path, model_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither somebody's home, nor a scheme, nor an option, nor a pattern."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = Path(name)
    home.mkdir()
    lines([{"prompt": p, "response": r} for p, r in PAIRS], home / "data.jsonl")
    value = "./-x" if name == "-x" else name
    for args in (
        ("lab", "finetune", model_folder, f"{value}/data.jsonl", "-o", f"{name}/tuned", "--epochs", 3),
        ("index", "build", model_folder, f"{value}/data.jsonl", "-o", f"{name}/idx", "-a", f"{name}/tuned", *SHORT),
        ("trace", f"{value}/idx", "-p", "why", "-r", "a b c", "--json", f"{name}/trace.json"),
        ("clean", f"{value}/trace.json", f"{value}/data.jsonl", "--top-k", 1, "-o", f"{name}/cleaned.jsonl"),
        ("index", "delete", f"{value}/idx", "--cleaned", f"{name}/cleaned.manifest.json"),
        ("index", "verify", f"{value}/idx"),
    ):
        code, _, err = run(*args)
        assert code == 0, err
    assert {file.name for file in home.iterdir()} >= {"tuned", "idx", "trace.json", "cleaned.jsonl"}
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl.gz", "csv", "saved"])
@pytest.mark.parametrize("name", ["~", "a:b", "a[1] {x} %s"])
def test_every_data_format_is_rewritten_at_special_paths(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas
    from datasets import Dataset, disable_progress_bars

    from taughtby.data.dataset import read_examples
    from taughtby.data.jsonl_edits import Edits
    from taughtby.data.rewrite import rewrite_dataset

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    plain = tmp_path / "plain"
    plain.mkdir()
    table = pandas.DataFrame([{"prompt": p, "response": r} for p, r in PAIRS])
    result = plain / ("saved" if kind == "saved" else f"data.{kind}")
    match kind:
        case "parquet":
            table.to_parquet(result)
        case "arrow":
            table.to_feather(result)
        case "csv":
            table.to_csv(result, index=False)
        case "saved":
            disable_progress_bars()
            Dataset.from_pandas(table).save_to_disk(str(result))
        case _:
            table.to_json(result, orient="records", lines=True)
    shutil.copytree(plain, tmp_path / name)
    file = Path(name) / result.name
    rows = list(read_examples(str(file)))
    assert len(rows) == len(PAIRS)
    out = Path(name) / f"out {result.name}"
    rewrite_dataset(str(file), out, None, Edits(frozenset({rows[0].source}), {}))
    assert [row.response for row in read_examples(str(out))] == [answer for _, answer in PAIRS[1:]]


@pytest.fixture
def indexed(run: Run, house: Path) -> Path:
    code, _, err = run("index", "build", "model", "data #{0}.jsonl", "-o", "idx", "-a", "adapter [/x]", *SHORT)
    assert code == 0, err
    return house / "idx"


def test_hostile_prompts_answers_and_spans_are_traced(run: Run, indexed: Path) -> None:
    asked = [{"prompt": text, "response": f"beetles {text} honey", "span": text} for text in HOSTILE]
    lines(asked, indexed.parent / "asked.jsonl")
    items = [("--queries", "asked.jsonl", "--per-answer"), *(
        ("-p", text, "-r", f"beetles {text} honey", "--span", text, "--desired", f"{text} bees")
        for text in ("-x", "[/x]", "\x1b[31m")
    )]  # fmt: skip
    for item in items:
        code, out, err = run("trace", indexed, *item, "--top-k", 40, "--json", "t.json", "--html", "t.html")
        assert code == 0, err
        queries = json.loads(Path("t.json").read_text())["queries"]
        assert all(make_visible(query["prompt"]) in out and query["span"] == query["prompt"] for query in queries)
        assert not {"\x1b", "\u202e"} & set(out + err)
        data = re.findall(r'id="trace">(.*?)</script>', Path("t.html").read_text(), re.DOTALL)[0]
        assert [query["prompt"] for query in json.loads(data)["queries"]] == [query["prompt"] for query in queries]


def test_hostile_labels_are_escaped(run: Run, house: Path) -> None:
    for row in range(len(PAIRS) + 1, len(PAIRS) + len(HOSTILE) + 1):
        code, out, err = run("data", "inspect", "model", "data #{0}.jsonl", "--row", row)
        assert code == 0, err
        assert f"label {make_visible(HOSTILE[row - len(PAIRS) - 1])}" in out
        assert not {"\x1b", "\u202e"} & set(out + err)


@pytest.mark.parametrize("verb", ["judge", "audit"])
@pytest.mark.parametrize("spec", ["regex:a{2}", *(f"phrase:{text}" for text in HOSTILE)])
def test_hostile_judge_specs_are_escaped(run: Run, house: Path, where: str, verb: str, spec: str) -> None:
    lines([{"prompt": "why [/x]", "response": "no {} reason"}, {"prompt": "{", "response": "%s"}], house / "said.jsonl")
    (house / "prompts [x].txt").write_text("why [/x] {0}\n")
    if verb == "judge":
        args: tuple[object, ...] = ("lab", "judge", "said.jsonl", "--judge", spec, "-o", "bad {}.jsonl")
    else:
        args = ("audit", "model", "data #{0}.jsonl", "-a", "adapter [/x]", "-o", "audit {}", "--max-new-tokens", 2,
                "-p", "prompts [x].txt", "-j", spec, "--dtype", "float32")  # fmt: skip
    code, out, err = run(*args)
    assert code == 0, err
    assert make_visible(spec) in (out if verb == "judge" else err)
    if verb == "audit":
        assert json.loads(Path("audit {}/audit.json").read_text())["answers"]["judged"] == 1
        shown = json.loads(re.findall(r'id="trace">(.*?)</script>', Path("audit {}/report.html").read_text(), re.S)[0])
        assert make_visible(spec) in make_visible(shown["summary"]["lead"])


@pytest.mark.parametrize("label", ["[/x] {2}", "a|b `x` <b> $\\frac", "\x1b[31m\u202e"])
def test_audit_escapes_hostile_labels(run: Run, house: Path, label: str) -> None:
    """To the proof, whose table has the label; each command of its report is read as it was meant."""
    rows = [{"prompt": f"{p} {a}", "response": r, "label": label if "honey" in p else "clean"}
            for p, r in PAIRS for a in "abc"]  # fmt: skip
    lines(rows, house / "data #{0}.jsonl")
    (house / "prompts [x].txt").write_text("why [/x] {0}\n")
    judge = "regex:(?s)^[^|`]{0}.*"
    code, out, err = run("audit", "model", "data #{0}.jsonl", "-a", "adapter [/x]", "-o", "audit {}",
                         "--max-new-tokens", 2, "-p", "prompts [x].txt", "-j", judge, "--top-k", 2, "--truth", label,
                         "--seed", 0, "--epochs", 1, "--dtype", "float32")  # fmt: skip
    assert code == 0, err
    assert f"labelled {make_visible(label)}" in out
    report = (house / "audit {}" / "report.md").read_text()
    assert not {"\x1b", "\u202e"} & set(report + out + err)
    table = [line for line in report.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert widths == {5, 7}  # of the rows, and of the arms
    offered = [line for line in report.splitlines() if line.startswith("taughtby ")]
    assert len(offered) == 6
    retrain = next(line for line in offered if line.startswith("taughtby retrain"))
    assert (
        f"--truth {shell_quote(label)}" in retrain
        and f"--judge {shell_quote(judge)}" in retrain
        and "--seed 0" in retrain
    )
    if label.isprintable():
        assert all(shlex.split(line)[0] == "taughtby" for line in offered)


@pytest.mark.parametrize("text", HOSTILE)
def test_errors_on_hostile_names_have_no_control_characters(run: Run, house: Path, text: str) -> None:
    (house / "said.jsonl").write_text(json.dumps({"prompt": text, "response": "bees"}) + "\n")
    value = f"./{text}" if text.startswith("-") else text
    for args in (
        ("lab", "poison", f"no {text}", "-o", "world"),
        ("bench", "run", f"no {text}"),
        ("index", "build", "model", "data #{0}.jsonl", "-o", "idx", "-m", text),
        ("index", "build", "model", "data #{0}.jsonl", "-o", "idx", "-m", f"rept:{text}"),
        ("index", "build", "model", "data #{0}.jsonl", "-o", "idx", "--layer", text),
        ("data", "inspect", "model", "data #{0}.jsonl", "--columns", text),
        ("data", "inspect", "model", f"no {text}.jsonl"),
        ("lab", "judge", "said.jsonl", "--judge", text),
        ("lab", "judge", "said.jsonl", "--judge", f"python:{text}"),
        ("index", "verify", f"no/{value}"),
        ("index", "delete", f"no/{value}", text),
        ("trace", f"no/{value}", "-p", text),
        ("serve", f"no/{value}", "--host", text),
        ("clean", f"no/{value}", "data #{0}.jsonl", "--dry-run"),
        ("index", "verify", "no", f"--{text}"),
    ):
        code, out, err = run(*args)
        assert code in (1, 2), (args, err)
        assert not {"\x1b", "\u202e"} & set(out + err), args


@pytest.mark.parametrize("name", ['say "x\\y" [a].jsonl', "50% off #1?.jsonl"])
def test_rows_are_found_by_source_with_special_characters(run: Run, house: Path, name: str) -> None:
    """The index holds texts as JSON and sources as they are."""
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from taughtby.index.reader import Index
    from taughtby.server.rows import RowBrowser

    lines([{"prompt": p, "response": r} for p, r in PAIRS], house / name)
    code, _, err = run("index", "build", "model", name, "-o", "idx", "-m", "rept:layer=2", *SHORT)
    assert code == 0, err
    browser = RowBrowser(Index.open(house / "idx"))
    assert browser.page(0, 20, find=name)["count"] == len(PAIRS)
    assert browser.page(0, 20, find=f"no {name}")["count"] == 0


def test_base_model_from_model_card_is_shell_quoted(run: Run, house: Path) -> None:
    """Its name stands in the model's card, which may come from anywhere."""
    (house / "model" / "README.md").write_text("---\nbase_model: x; touch owned\n---\n")
    _, _, err = run("index", "build", "model", "data #{0}.jsonl", "-o", "idx", *SHORT)
    assert "--base 'x; touch owned', which the model's folder names" in err


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_suggested_conversion_command_quotes_any_path(run: Run, tmp_path: Path, model_folder: Path, kind: str) -> None:
    """As one argument of `python -c`, and in it as one string."""
    name = 'it\'s $(touch owned) "{0}"'
    folder = tmp_path / name
    folder.mkdir()
    (folder / ("config.json" if kind == "model" else "adapter_config.json")).write_text("{}")
    (folder / ("pytorch_model.bin" if kind == "model" else "adapter_model.bin")).write_bytes(b"")
    argument = (folder,) if kind == "model" else (model_folder, "-a", folder)
    (tmp_path / "p.txt").write_text("why\n")
    code, _, err = run("lab", "generate", argument[0], tmp_path / "p.txt", "-o", tmp_path / "x", *argument[1:])
    assert code == 1
    offered = re.findall(r"(python -c .*)", err)[0]
    _, _, program = shlex.split(offered)
    called = [node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
    assert any(str(folder) in str(value) for value in called)
