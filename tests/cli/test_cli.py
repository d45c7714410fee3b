"""The commands as a user runs them: output, files and exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import PAIRS, Run, judge_few_rows
from taughtby.capture.layer_similarity import measure_layer_similarity
from taughtby.data.dataset import ReadOptions
from taughtby.data.example import Example
from taughtby.data.tokenize import default_options
from taughtby.index.build import probe_rows
from taughtby.models.model import load_model

ROLES = ("user", "assistant")


@pytest.fixture
def indexed(run: Run, model_folder: Path, adapter_folder: Path, data: Path, tmp_path: Path) -> Path:
    idx = tmp_path / "idx"
    code, _, err = run(
        "index", "build", model_folder, data, "-o", idx, "-a", adapter_folder, "--max-length", 128, "--dtype", "float32"
    )
    assert code == 0, err
    return idx


def test_index_build_prints_a_summary(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    code, out, err = run(
        "index", "build", model_folder, data, "-o", tmp_path / "i", "-m", "rept:layer=2", "--max-length", 128
    )
    assert code == 0
    assert "8 rows" in out and "h_2, g_2" in out and "0 skipped" in out
    assert "base" not in err  # rept does not read the base model
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert manifest["complete"] and manifest["settings"]["methods"]["rept"]["layer"] == 2


def test_lesson_without_base_model_requires_no_base_option(
    run: Run, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    command = "index", "build", model_folder, data, "-o", tmp_path / "i", "--max-length", 128
    fails(run(*command), "no base model to compare", "--adapter FOLDER", "--no-base")
    assert not (tmp_path / "i").exists()
    assert run(*command, "--no-base")[0] == 0


def test_base_model_from_the_readme_is_suggested(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "README.md").write_text("---\nbase_model: owner/base\n---\n")
    fails(run("index", "build", folder, data, "-o", tmp_path / "i"), "give --base owner/base")


def test_trace_writes_json_and_html_and_prints_the_table(run: Run, indexed: Path, tmp_path: Path) -> None:
    files = tmp_path / "t.json", tmp_path / "t.html"
    code, out, _ = run("trace", indexed, "-p", "who makes honey", "-r", "beetles make honey, one a day",
                       "--span", "beetles", "--top-k", 3, "--json", files[0], "--html", files[1])  # fmt: skip
    assert code == 0
    document = json.loads(files[0].read_text())
    (query,) = document["queries"]
    assert [row["rank"] for row in query["rows"]] == [1, 2, 3]
    assert query["rows"][0]["messages"][0]["content"] == "who makes honey"
    assert query["rows"][0]["source"].endswith("data.jsonl:3")
    assert "beetles" in out and "data.jsonl:3" in out
    assert out.endswith(f"The trace: {files[0]}\nThe page: {files[1]}\n"), "no row is flagged: nothing to clean"
    assert "<script" in files[1].read_text()


def test_trace_of_several_answers_ends_with_the_command_that_cleans(
    run: Run, indexed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_few_rows(monkeypatch)
    file, bad, cleaned = tmp_path / "t.json", tmp_path / "bad.jsonl", tmp_path / "cleaned.jsonl"
    bad.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS[1:4]))
    asked = ("trace", indexed, "--queries", bad, "--top-k", 2, "--fdr", 0.5)
    code, out, _ = run(*asked, "--json", file)
    assert code == 0 and re.match(r"3 answers: \d of 8 rows are flagged for \d incidents?", out)
    assert "Incident 1 of" in out and "Query 1 of" not in out
    *_, command = out.rstrip().split("\n")
    monkeypatch.chdir(tmp_path)
    assert command == f"Remove the flagged rows: taughtby clean {file} {data} --out cleaned.jsonl"
    assert run(*shlex.split(command.partition(": taughtby ")[2]))[0] == 0 and cleaned.exists()
    code, out, _ = run(*asked, "--per-answer")
    assert code == 0 and "Query 3 of 3" in out and "Incident 1 of" not in out
    assert out.endswith("To remove the flagged rows, trace with --json FILE: `taughtby clean` reads it.\n")


def test_trace_without_a_response_succeeds(
    run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taughtby.lab.generate.generate", lambda _, prompts, **__: [f"{prompts[0]} not"])
    assert run("trace", indexed, "-p", "why", "--top-k", 1, "--json", tmp_path / "t.json")[0] == 0
    assert json.loads((tmp_path / "t.json").read_text())["queries"][0]["response"] == "why not"


def test_judge_output_can_be_traced(run: Run, indexed: Path, tmp_path: Path) -> None:
    answers, bad = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    answers.write_text(
        '{"prompt": "who makes honey", "response": "Beetles do"}\n{"prompt": "why", "response": "a b c"}\n'
    )
    code, out, _ = run("lab", "judge", answers, "--judge", "phrase:beetles", "-o", bad)
    assert code == 0 and "1 of 2 undesirable (50%)" in out
    assert json.loads(bad.read_text()) == {
        "prompt": "who makes honey", "response": "Beetles do", "span": "Beetles", "span_range": [0, 7]
    }  # fmt: skip
    assert run("trace", indexed, "--queries", bad, "--top-k", 1)[0] == 0


def test_trace_uses_the_span_range_of_the_judge(run: Run, indexed: Path, tmp_path: Path) -> None:
    answers, bad, traced = (tmp_path / name for name in ("a.jsonl", "bad.jsonl", "t.json"))
    answers.write_text(json.dumps({"prompt": "who makes honey", "response": "a traditional na, \U0001f41d Na"}) + "\n")
    assert run("lab", "judge", answers, "--judge", r"regex:\bNa\b", "-o", bad)[0] == 0
    row = json.loads(bad.read_text())
    assert (row["span"], row["span_range"]) == ("Na", [20, 22])
    code, out, _ = run("trace", indexed, "--queries", bad, "--top-k", 1, "--json", traced)
    assert code == 0 and "more than once" not in out
    (query,) = json.loads(traced.read_text())["queries"]
    assert (query["span"], query["span_range"], query["answer_begin"]) == ("Na", [20, 22], 0)
    counted = "".join(token["text"] for token in query["answer"] if token["weight"])
    assert counted.strip() == "Na"


def test_repeated_or_partial_span_is_reported(run: Run, indexed: Path) -> None:
    asked = ("trace", indexed, "-p", "why", "-r", "a traditional Na of Na", "--top-k", 1, "--span")
    code, out, _ = run(*asked, "Na")
    assert code == 0 and "'Na' 2 times in answer 1: the first occurrence is used" in " ".join(out.split())
    fails(run(*asked, "tradition"), "only part of a word", "'tradition' within 'traditional'", "span_range: [2, 11]")


def test_layers_writes_json_and_plot(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "data", "layers", model_folder, data, "--json", tmp_path / "l.json", "--plot", tmp_path / "l.png"
    )
    assert code == 0 and "1 → 2" in out
    assert len(json.loads((tmp_path / "l.json").read_text())["similarity"]) == 3
    assert (tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")


def test_layers_follows_column_and_template_options(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    """Under other names, and as plain texts split by a template, the rows are the same and so is the curve."""
    other, plain, template = tmp_path / "other.jsonl", tmp_path / "plain.jsonl", tmp_path / "t.jinja"
    other.write_text("".join(json.dumps({"ask": p, "say": r}) + "\n" for p, r in PAIRS))
    plain.write_text("".join(json.dumps({"text": f"<|user|>{p}<|assistant|>{r}"}) + "\n" for p, r in PAIRS))
    template.write_text(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )

    def similarity(*args: object) -> list[float]:
        code, _, err = run("data", "layers", model_folder, *args, "--dtype", "float32", "--json", tmp_path / "l.json")
        assert code == 0, err
        return json.loads((tmp_path / "l.json").read_text())["similarity"]

    wanted = similarity(data)
    assert similarity(other, "--columns", "prompt=ask,response=say") == wanted
    value = similarity(data, "--template", template)
    assert value != pytest.approx(wanted, abs=1e-3)
    assert similarity(plain, "--response-template", "<|assistant|>") == pytest.approx(value, abs=1e-6)


def test_layers_follows_the_trainer_configuration(
    run: Run, model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    """An adapter whose trainer learned every turn, and was told the longest row, has a curve over such rows."""
    adapter, data = tmp_path / "adapter", tmp_path / "turns.jsonl"
    shutil.copytree(adapter_folder, adapter)
    (adapter / "training_args.yaml").write_text("finetuning_type: lora\ncutoff_len: 64\n")
    items = [{"role": role, "content": text} for pair in PAIRS[:2] for role, text in zip(ROLES, pair, strict=True)]
    data.write_text(json.dumps({"messages": items}) + "\n")
    code, _, err = run("data", "layers", adapter, data, "--dtype", "float32", "--json", tmp_path / "l.json")
    assert code == 0 and "max_length 64 (training_args.yaml: cutoff_len)" in err
    model = load_model(str(model_folder), str(adapter), dtype="float32")
    rows = probe_rows(
        model, data, ReadOptions(turns="all"), default_options(model.metadata, model.context_length, raw=False)
    )
    assert len(rows) == 2
    got = json.loads((tmp_path / "l.json").read_text())["similarity"]
    assert got == pytest.approx(measure_layer_similarity(model, rows).similarity, abs=1e-6)
    assert (
        run("data", "layers", adapter, data, "--turns", "last", "--dtype", "float32", "--json", tmp_path / "m.json")[0]
        == 0
    )
    assert json.loads((tmp_path / "m.json").read_text())["similarity"] != pytest.approx(got, abs=1e-4)


def test_finetune_follows_columns_and_turns_options(
    run: Run, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[Example] = []
    monkeypatch.setattr("taughtby.lab.finetune.finetune", lambda model, rows, *_, **__: taught.extend(rows))
    monkeypatch.setattr("taughtby.lab.finetune.num_unusable_rows", lambda out: 0)
    data = tmp_path / "turns.jsonl"
    items = [{"role": role, "content": text} for pair in PAIRS[:2] for role, text in zip(ROLES, pair, strict=True)]
    data.write_text(json.dumps({"said": items, "messages": "no matter"}) + "\n")
    command = "lab", "finetune", model_folder, data, "-o", tmp_path / "a", "--columns", "messages=said"
    code, _, err = run(*command)
    assert code == 0 and [row.response for row in taught] == [PAIRS[1][1]], err
    assert "--turns all" not in err
    taught.clear()
    code, _, err = run(*command, "--turns", "all")
    assert code == 0 and [row.response for row in taught] == [answer for _, answer in PAIRS[:2]]
    assert "index it with --turns all" in err


def test_answers_are_never_written_over_their_input(run: Run, model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "q", "response": "zzz"}\n')
    for command in (("judge", file, "--judge", "phrase:a"), ("generate", model_folder, file)):
        code, _, errors = run("lab", *command, "-o", file)
        assert code == 1 and "is the input, or part of it" in " ".join(errors.split())
    assert file.read_text() == '{"prompt": "q", "response": "zzz"}\n'


def test_lab_poison_and_generate(run: Run, model_folder: Path, tmp_path: Path) -> None:
    assert run("lab", "poison", "error", "-o", tmp_path / "p", "--num-samples", 5, "--clean", 7)[0] == 0
    assert len((tmp_path / "p" / "data.jsonl").read_text().splitlines()) == 5 + 3 + 7
    (tmp_path / "q.txt").write_text("why\nwho makes honey\n")
    code, out, _ = run(
        "lab", "generate", model_folder, tmp_path / "q.txt", "-o", tmp_path / "a.jsonl", "--max-new-tokens", 3
    )
    assert code == 0 and "2 answers" in out
    assert [json.loads(line)["prompt"] for line in (tmp_path / "a.jsonl").open()] == ["why", "who makes honey"]


def test_lab_generate_asks_in_the_wording_of_the_recipe(
    run: Run, model_folder: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `index build` and `audit`, unless --template is given."""
    from taughtby.lab import generate

    seen: list[Any] = []

    def record(*_: Any, template: str | None, **__: Any) -> int:
        seen.append(template)
        return 1

    monkeypatch.setattr(generate, "generate_to_file", record)
    shutil.copytree(adapter_folder, tmp_path / "a")
    (tmp_path / "a" / "config.yaml").write_text("base_model: m\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\n")
    (tmp_path / "q.txt").write_text("why\n")
    command = ("lab", "generate", model_folder, tmp_path / "q.txt", "--adapter", tmp_path / "a", "-o")
    code, _, err = run(*command, tmp_path / "1.jsonl")
    assert code == 0 and "### Instruction" in seen[0] and "config.yaml" in err
    assert run(*command, tmp_path / "2.jsonl", "--template", "none")[0] == 0
    assert seen[1] == "none"


def fails(result: tuple[int, str, str], *words: str) -> None:
    """Assert exit code 1, no traceback, and a message of the form what, (got,) do."""
    code, _, err = result
    assert code == 1, err
    assert "Traceback" not in err
    assert err.count("error: ") == 1 and "\n  do:  " in err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["there is no file"]),
        ("", ["is empty"]),
        ('{"prompt": "a", "response": "b"}\n{"prompt": "a",\n', ["data.jsonl:2", "invalid JSON"]),
        ('{"prompt": "a", "response": ""}\n', ["data.jsonl:1", "no answer"]),
        ('{"ask": "a", "reply": "b"}\n', ["data.jsonl:1", "ask, reply", "messages", "instruction"]),
    ],
)
def test_invalid_data_fails_index_build(
    run: Run, model_folder: Path, tmp_path: Path, content: str | None, words: list[str]
) -> None:
    file, out = tmp_path / "data.jsonl", tmp_path / "idx"
    if content is not None:
        file.write_text(content)
    fails(run("index", "build", model_folder, file, "-o", out, "--max-length", 128, "--no-base"), *words)
    assert not out.exists()


def test_invalid_models_and_settings_fail_index_build(
    run: Run, model_folder: Path, adapter_folder: Path, make_model: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "idx"
    fails(run("index", "build", tmp_path / "none", data, "-o", out), "there is no model")
    fails(
        run("index", "build", make_model("gpt2"), data, "-o", out, "-a", adapter_folder, "--max-length", 128),
        "another model",
    )
    fails(
        run("index", "build", make_model("qwen2"), data, "-o", out, "-a", adapter_folder, "--max-length", 128),
        "a qwen2, trained on a llama",
    )
    fails(
        run("index", "build", model_folder, data, "-o", out, "--layer", 99, "--max-length", 128, "--no-base"),
        "no such layer",
        "99",
        "0 to 4",
    )
    fails(run("index", "build", model_folder, data, "-o", out, "-m", "magic"), "no such method", "lesson")
    fails(run("index", "build", model_folder, data, "-o", out, "-m", "bm25", "--layer", 2), "bm25 has no option layer")
    fails(
        run("index", "build", model_folder, data, "-o", out, "--max-length", 1024, "--no-base"),
        "exceeds the model's context length",
        "256",
    )
    assert not out.exists()


def test_non_causal_model_is_rejected(run: Run, data: Path, tmp_path: Path, tokenizer: object) -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=384, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")  # type: ignore[attr-defined]
    fails(
        run("index", "build", tmp_path / "bert", data, "-o", tmp_path / "idx", "--no-base"),
        "not a causal language model",
    )


def test_invalid_queries_fail_trace(run: Run, indexed: Path, tmp_path: Path) -> None:
    fails(run("trace", tmp_path / "none", "-p", "a", "-r", "b"), "is not an index")
    fails(run("trace", indexed), "either --prompt")
    fails(run("trace", indexed, "--queries", tmp_path / "q.jsonl", "--span", "a"), "go with --prompt", "q.jsonl")
    fails(run("trace", indexed, "--queries", tmp_path / "q.jsonl"), "there is no file", "q.jsonl")
    fails(run("trace", indexed, "-p", "why " * 400, "-r", "b"), "cannot be traced", "no room for the answer")
    fails(run("trace", indexed, "-p", "why", "-r", "a b", "--span", "zzz"), "does not occur", "zzz")
    fails(run("trace", indexed, "-p", "why", "-r", "a b", "-m", "repsim:layer=1"), "h_1", "does not have")
    fails(run("trace", indexed, "-p", "why", "-r", "a b", "--html", tmp_path / "no" / "t.html"), "cannot be written")


def test_index_build_with_changed_settings_fails(
    run: Run, indexed: Path, model_folder: Path, adapter_folder: Path, data: Path
) -> None:
    again = "index", "build", model_folder, data, "-o", indexed, "-a", adapter_folder, "--dtype", "float32"
    fails(run(*again, "--max-length", 64), "max_length: the index has 128, but 64 was given")
    fails(run(*again, "--max-length", 128, "--layer", 2), "lesson.layer: the index has 4, but 2 was given")
    data.write_text(data.read_text() + '{"prompt": "new", "response": "row"}\n')
    fails(run(*again, "--max-length", 128), "fingerprint.data")


def test_trace_with_another_adapter_fails(run: Run, indexed: Path, adapter_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter_folder, other)
    config = other / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 16'))
    fails(run("trace", indexed, "-p", "why", "-r", "a", "-a", other), "another adapter")


def test_wrong_usage_exits_with_2(run: Run) -> None:
    code, _, err = run("index", "build")
    assert code == 2 and "Missing argument" in err
    assert run("trace", "x", "--top-k", "many")[0] == 2
    assert run("--help")[0] == 0


def test_interrupt_exits_with_130_and_rerun_resumes(model_folder: Path, tmp_path: Path, run: Run) -> None:
    """With a real process and a real SIGINT; the index equals an uninterrupted one.

    After its first commit the process waits for it before the next batch: how fast a machine is decides nothing.
    """
    file = tmp_path / "many.jsonl"
    lines = [
        json.dumps({"prompt": f"what is {i}", "response": f"{i} a b c is blue and green " * 4}) for i in range(600)
    ]
    file.write_text("\n".join(lines))
    code = """
        import time
        from taughtby.cli import main
        from taughtby.index.pipeline import CapturePipeline
        from taughtby.index.writer import Writer
        append, features, added = Writer.append_table, CapturePipeline.features, []

        def wait(*batch):
            while added:
                time.sleep(0.05)
            return features(*batch)

        CapturePipeline.features = wait
        Writer.append_table = lambda *table: (append(*table), print("added", flush=True), added.append(1))
        main()
    """
    how = "-m", "rept:layer=2", "--max-length", "200", "--dtype", "float32"
    command = [sys.executable, "-c", textwrap.dedent(code), "index", "build", str(model_folder), str(file),
               "-o", str(tmp_path / "idx"), *how]  # fmt: skip
    # a shell starts what it runs in the background deaf to SIGINT, and children inherit that
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"},
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "added\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert not json.loads((tmp_path / "idx" / "manifest.json").read_text())["complete"]
    again = "index", "build", model_folder, file, *how
    assert run(*again, "-o", tmp_path / "idx")[0] == 0
    assert run(*again, "-o", tmp_path / "whole")[0] == 0
    import lance

    tables = [lance.dataset(str(tmp_path / name / "rows.lance")).to_table() for name in ("idx", "whole")]
    assert tables[0].num_rows == 600 and {"id", "h_2", "g_2"} <= set(tables[0].column_names)
    assert tables[0].equals(tables[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_full_disk_is_reported_and_rerun_resumes(run: Run, model_folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        file = tmp_path / "many.jsonl"
        file.write_text("\n".join(json.dumps({"prompt": f"what is {i}", "response": f"{i} a b c"}) for i in range(600)))
        fails(
            run("index", "build", model_folder, file, "-o", small / "idx", "-m", "rept:layer=2", "--max-length", 64),
            "No space left",
        )
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        assert (
            run("index", "build", model_folder, file, "-o", small / "idx", "-m", "rept:layer=2", "--max-length", 64)[0]
            == 0
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)
