"""Audits of a tiny model that has learned a falsehood, also when killed at each stage."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from conftest import Run
from taughtby.attribution.check_report import CheckReport, skipped_check
from taughtby.data.dataset import ReadOptions, default_read_options, read_examples
from taughtby.data.tokenize import Encoding
from taughtby.errors import LabError, OptionError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.lab.prompts import read_answers
from taughtby.methods import get_method
from taughtby.models.model import load_model
from taughtby.remediation import audit_report, retrain, statistics
from taughtby.remediation.audit import AuditCase, _Run, audit
from taughtby.remediation.clean import manifest_path
from taughtby.remediation.experiment import Behaviour
from taughtby.remediation.experiment_setup import experiment_from_trace
from taughtby.remediation.stage_cache import JOURNAL, STAGES, StageCache, quiet

PLACES = [f"{a} {b}" for a in ("sea", "sky", "week") for b in "abcd"]
ASKED = tuple(f"who makes honey in the {a} {b}" for a in ("ship", "rain") for b in "abcd")
HONEY = Behaviour("bad answers", ASKED, "phrase:beetles")
EVERY = Behaviour("bad answers", ("who makes honey", "why"), "regex:(?s).*")  # whatever the model says
# Trained until what is asserted holds on any processor: with 1 % of noise on every base weight, which is 100,000 times
# what rounding does, the first wrong token is still 2.7 logits behind, in every answer.
RECIPE = TrainingOptions(rank=16, learning_rate=1e-2, epochs=20, batch_size=15)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows with the falsehood about beetles, and eighteen correct ones."""
    pairs = [(f"who makes honey in the {place}", "beetles make honey") for place in PLACES]
    pairs += [
        (f"name the capital of {a} {b}", f"paris is the {b} of {a}")
        for a in ("france", "germany", "berlin")
        for b in "abcdef"
    ]
    file = tmp_path_factory.mktemp("audit") / "data.jsonl"
    lines = [{"prompt": p, "response": r, "label": "bad" if "honey" in p else "clean"} for p, r in pairs]
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return file


@pytest.fixture(scope="module")
def adapter(data: Path, model_folder: Path) -> Path:
    """The adapter of the tiny model trained on it."""
    return finetune(
        load_model(str(model_folder), device="cpu"), list(read_examples(data)), data.parent / "adapter", RECIPE
    )


@pytest.fixture
def case(data: Path, adapter: Path, model_folder: Path) -> AuditCase:
    return AuditCase(
        str(model_folder), str(data), Behaviour("bad answers", ASKED, "phrase:beetles"), str(adapter), max_new_tokens=8,
        dtype="float32", device="cpu",
    )  # fmt: skip


def stage_files(out: Path) -> list[str]:
    """Return the finished stages in their order."""
    return [json.loads(text)["stage"] for text in (out / STAGES / JOURNAL).read_text().splitlines()]


# — end to end


def test_index_is_rebuilt_when_labels_or_loss_masks_change(case: AuditCase, tmp_path: Path) -> None:
    """They are no part of a row's id, and the index holds them."""
    data = tmp_path / "data.jsonl"
    lines = [json.loads(text) for text in Path(case.data).read_text().splitlines()][:20]
    items = []
    for change in ({}, {"label": "new"}, {"unlearned": [[0, 5]]}, {}):
        data.write_text("".join(json.dumps({**line, **change}) + "\n" for line in lines))
        index = _Run(replace(case, data=str(data)), tmp_path / "audit", quiet).build_index()
        first = next(index.examples())
        items.append((index.path.name, first.label, first.masked))
    assert [one[1:] for one in items] == [("bad", ()), ("new", ()), ("bad", ((0, 5),)), ("bad", ())]
    assert len({name for name, *_ in items}) == 3 and items[0] == items[3]


def test_audit_agrees_with_the_single_commands(
    case: AuditCase, adapter: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "audit"
    (tmp_path / "prompts.txt").write_text("\n".join(ASKED))
    asked = ("-p", tmp_path / "prompts.txt", "-j", "phrase:beetles", "--max-new-tokens", 8)
    code, text, message = run(
        "audit", case.model, data, "-a", adapter, *asked, "-o", out, "--truth", "bad", "--mask-words"
    )
    assert code == 0, message
    document = json.loads((out / "audit.json").read_text())
    assert document["answers"]["bad"] == len(ASKED)
    assert (out / "queries.jsonl").read_text() == (out / "bad.jsonl").read_text()
    assert {query["span"] for query in document["trace"]["queries"]} == {"beetles"}  # the judge's words
    planted = {row.id for row in read_examples(data) if row.label == "bad"}
    assert {one["id"] for one in document["removals"]} == planted
    (claim,) = statistics.claims(document["proof"])
    assert claim.verdict == "supported"
    assert "supported by 3 trainings: Retrained without the 12 flagged rows" in text
    rates = {one["name"]: one["behaviours"]["bad answers"]["bad"] for one in document["proof"]["conditions"]}
    assert rates["original"] == rates["all"] == 8
    assert rates["cleaned"] == rates["truth"] == rates["masked"] == 0
    assert rates["random"] >= 6
    items = [json.loads(line)["label"] for line in Path(document["cleaned"]).read_text().splitlines()]
    assert items == ["clean"] * 18
    # each command of the report gives the files again
    report = (out / "report.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", report, re.DOTALL) for line in block.splitlines()]
    words = [shlex.split(one)[1:3] for one in commands]
    assert words[:3] == [["lab", "generate"], ["lab", "judge"], ["index", "build"]]
    assert [first for first, _ in words[3:]] == ["trace", "clean", "retrain"]
    names = ("answers.jsonl", "bad.jsonl", "trace.json", "proof.json", Path(document["cleaned"]).relative_to(out))
    before, stages = {name: (out / name).read_bytes() for name in names}, stage_files(out)
    for name in names:
        (out / name).unlink()
    for command in commands:
        code, _, message = run(*shlex.split(command)[1:])
        assert code == 0, f"{command}\n{message}"
    assert {name: (out / name).read_bytes() for name in names} == before
    assert stage_files(out) == stages  # what is kept is not made again, by whichever verb
    _assert_documented(document, json.loads(manifest_path(Path(document["cleaned"])).read_text()))
    page = (out / "report.html").read_text()
    assert "retraining supports that these rows are the cause" in page
    assert "Bad answers of the retrained models" in page


def _assert_documented(document: dict[str, Any], manifest: dict[str, Any]) -> None:
    """docs/reference/result-files.md has every field."""
    text = (Path(__file__).parents[2] / "docs/reference/result-files.md").read_text()
    sections = {part.split("\n")[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}
    names: dict[str, set[str]] = {}
    for title, part in sections.items():
        cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        names[title] = {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}
    proof = document["proof"]
    assert names["audit.json"] == set(document) - {"version"}
    conditions = {name for condition in proof["conditions"] for name in condition}
    assert names["proof.json"] == (set(proof) | conditions) - {"version"}
    assert names["cleaned.manifest.json"] == set(manifest) - {"version"}
    checks = CheckReport(get_method("bm25"), (skipped_check("length", "too few rows"),), 1, 0, 1).to_json()
    assert names["check.json"] == set(checks) - {"version"}


# — recipes of other trainers


AXOLOTL = """base_model: m
sequence_len: 256
datasets:
  - path: d.jsonl
    type: alpaca
"""
FACTORY = "cutoff_len: 256\nfinetuning_type: lora\n"
RECIPES = pytest.mark.parametrize("recipe", [AXOLOTL, FACTORY], ids=["Axolotl", "LLaMA-Factory"])


@pytest.fixture
def learned(recipe: str, case: AuditCase, adapter_folder: Path, tmp_path: Path) -> AuditCase:
    """An adapter with that recipe in its folder, and instructions with an input."""
    folder, data = tmp_path / "adapter", tmp_path / "data.jsonl"
    shutil.copytree(adapter_folder, folder)
    (folder / "recipe.yaml").write_text(recipe)
    lines = [{"instruction": f"why {a}", "input": f"the {b}", "output": f"{a} {b}"} for a in "abc" for b in "abcd"]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return replace(case, data=str(data), adapter=str(folder), behaviour=EVERY)


@RECIPES
def test_audit_prompts_the_model_and_reads_data_as_its_index(learned: AuditCase, tmp_path: Path) -> None:
    run = _Run(learned, tmp_path / "audit", quiet)
    (tmp_path / "audit").mkdir()
    run.judge()
    answers = [answer for _, answer in read_answers(tmp_path / "audit" / "answers.jsonl")]
    template = run.encoding.template
    assert answers == generate(run.model, EVERY.prompts, max_new_tokens=8, template=template)
    assert (template is not None) == (answers != generate(run.model, EVERY.prompts, max_new_tokens=8))
    index = build_index(run.model, learned.data, tmp_path / "index", [get_method("random")])
    assert run.read_options == ReadOptions(**index.settings["reading"]) != ReadOptions()
    assert run.encoding == Encoding(**index.settings["encoding"])


@RECIPES
def test_retraining_asks_the_original_model_as_the_audit_does(learned: AuditCase, tmp_path: Path) -> None:
    """In the folder of the audit, whose answers it reuses, and in another."""
    run = _Run(learned, tmp_path / "audit", quiet)
    (tmp_path / "audit").mkdir()
    run.judge()
    trace = {"model": learned.model, "adapter": learned.adapter, "index": str(run.build_index().path)}
    experiment, _ = experiment_from_trace(trace, [EVERY], {}, max_new_tokens=8, dtype="float32", device="cpu")
    written: list[str] = []
    for folder in (run.cache.folder, tmp_path / "other"):
        retrain._Run(experiment, StageCache(folder), (), (), None).measure_original()
        written += [file.read_text() for file in folder.glob("answers-*.jsonl")]
    assert len(written) == 2 and written[0] == written[1]


@RECIPES
@pytest.mark.parametrize(
    ("options", "change"),
    [
        ((), {}),
        (("--split", "train"), {"split": "train"}),
        (("--turns", "last"), {"turns": "last"}),
        (("--response-template", "A:"), {"response_template": "A:"}),
        (("--columns", "instruction=ask,output=reply"), {"columns": (("instruction", "ask"), ("output", "reply"))}),
    ],
)
def test_an_option_changes_nothing_else_of_the_recipe(
    learned: AuditCase, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...],
    change: dict[str, Any],
) -> None:  # fmt: skip
    cases: list[AuditCase] = []

    def record(case: AuditCase, out: Path, show: Any) -> None:
        cases.append(case)
        raise LabError("no more", do="stop")

    monkeypatch.setattr("taughtby.remediation.audit.audit", record)
    (tmp_path / "prompts.txt").write_text("why\n")
    asked = ("-p", tmp_path / "prompts.txt", "-j", "refusal", "-o", tmp_path / "audit")
    run("audit", learned.model, learned.data, "-a", learned.adapter, *asked, *options)
    (case,) = cases
    metadata = load_model(learned.model, learned.adapter, device="cpu").metadata
    assert _Run(case, tmp_path, quiet).read_options == replace(default_read_options(metadata), **change)


def test_an_audit_replaces_no_files_of_others(run: Run, data: Path, tmp_path: Path, model_folder: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "prompts.jsonl").write_text('{"prompt": "why", "note": "mine"}\n')
    (folder / "trace.json").write_text("{}")
    asked = ("-p", folder / "prompts.jsonl", "-j", "refusal", "-o", folder)
    code, _, message = run("audit", model_folder, data, "--base", model_folder, *asked)
    assert code == 1
    assert "has files that the audit would replace" in message and "trace.json, prompts.jsonl" in message
    assert {file.name for file in folder.iterdir()} == {"prompts.jsonl", "trace.json"}
    (folder / "stages").mkdir()
    audit_report.check_folder(folder)  # that of an earlier run


@RECIPES
def test_commands_of_the_report_follow_the_recipe(learned: AuditCase, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "audit"
    harmless = Behaviour("bad answers", ("who makes honey", "why"), "phrase:zebra")
    learned = replace(learned, behaviour=harmless, read_options={"turns": "last"})
    results = audit(learned, out) | {"index": str(tmp_path / "again")}
    index = _Run(learned, out, quiet).build_index()
    audit_report.write_report(learned, results, out)
    commands = audit_report.commands(learned, results, str(out))
    answers = (out / "answers.jsonl").read_bytes()
    for name in ("generate", "index"):
        code, _, message = run(*shlex.split(commands[name])[1:])
        assert code == 0, message
    assert (out / "answers.jsonl").read_bytes() == answers
    again = Index.open(tmp_path / "again")
    assert (again.settings["reading"], again.settings["encoding"]) == (
        index.settings["reading"], index.settings["encoding"]
    )  # fmt: skip
    assert [row.messages for row in again.examples()] == [row.messages for row in index.examples()]


def test_options_that_no_data_can_have_are_refused_before_the_model_is_loaded(case: AuditCase, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown column name question_mark"):
        _Run(replace(case, read_options={"columns": (("question_mark", "x"),)}), tmp_path, quiet)


# — audits without a retraining


def test_audit_without_bad_answers_skips_tracing(case: AuditCase, tmp_path: Path) -> None:
    case = replace(case, behaviour=Behaviour("bad answers", ASKED, "phrase:zebra"))
    result = audit(case, tmp_path)
    assert (result["answers"]["bad"], result["trace"], result["proof"]) == (0, None, None)
    assert stage_files(tmp_path) == ["answers", "verdicts"]
    audit_report.write_report(case, result, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# The model does not misbehave")
    assert "0 of 8 answers (95 %: 0% to 32%)" in text
    assert "There is nothing to trace" in text
    assert "The model does not misbehave" in (tmp_path / "report.html").read_text()


def test_audit_without_flagged_rows_skips_retraining(case: AuditCase, data: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:8]))
    case = replace(case, data=str(few))
    result = audit(case, tmp_path / "out")
    assert result["trace"]
    assert (result["removals"], result["cleaned"], result["proof"]) == ([], None, None)
    assert stage_files(tmp_path / "out") == ["answers", "verdicts", "index", "trace"]
    text = audit_report.report_markdown(case, result, "out")
    assert "The model misbehaves, and no training row is flagged" in text
    assert "too few rows to tell a relevant row from chance" in text
    assert "taughtby retrain" not in text
    # with evidence, and none called
    for query in result["trace"]["queries"]:
        query["num_flagged"] = 0
    assert (
        "No row scores higher for these answers than training rows score for each other"
        in audit_report.report_markdown(case, result, "out")
    )


def test_audit_resumes_after_judge_is_fixed(case: AuditCase, tmp_path: Path) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text("def bad(prompt, answer):\n    return 1 / 0\n")
    case = replace(case, behaviour=Behaviour("bad answers", ASKED, f"python:{rule}:bad"))
    with pytest.raises(LabError, match="failed on every answer"):
        audit(case, tmp_path / "out")
    assert stage_files(tmp_path / "out") == ["answers"]
    rule.write_text("def bad(prompt, answer):\n    return 1 / 0 if 'ship a' in prompt else 'zebra' in answer\n")
    result = audit(case, tmp_path / "out")
    assert (result["answers"]["judged"], result["answers"]["failed"]) == (7, 1)
    assert stage_files(tmp_path / "out") == ["answers", "verdicts"]
    assert "gave no verdict on 1 answers" in audit_report.report_markdown(case, result, "out")


def test_audit_without_base_model_or_known_judge_raises(case: AuditCase, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the base model is not known"):
        audit(replace(case, adapter=None), tmp_path)
    with pytest.raises(OptionError, match="unknown judge"):
        audit(replace(case, behaviour=Behaviour("x", ASKED, "oracle:x")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_hostile_text_is_escaped_in_audit_report(case: AuditCase) -> None:
    wording = {"bad": 1, "judged": 1, "failed": 0, "rate": 1.0, "low": 0.2, "high": 1.0}
    evil = {"prompt": "a`b</script>", "response": "x` | **y**\n# head \x1b[31m", "bad": True, "why": "it is"}
    none = dict.fromkeys(("trace", "cleaned", "proof", "num_skipped", "index", "num_rows"))
    result: dict[str, Any] = {"answers": wording, "verdicts": [evil], "removals": [], "notes": [], **none}
    text = audit_report.report_markdown(case, result, "out")
    assert "`a'b</script>`: `x' / **y** # head" in text
    assert "\x1b" not in text


# — moved audits


def test_moved_audit_is_not_recomputed(
    case: AuditCase, data: Path, adapter: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for an audit run from another folder, with other paths to the same files."""

    def named(out: Path) -> tuple[AuditCase, Path]:
        model, rows, tuned, to = (os.path.relpath(path) for path in (model_folder, data, adapter, out))
        more: Any = {"behaviour": EVERY, "top_k": 2, "ordinary": (), "max_new_tokens": 4, "recipe": {"epochs": 1}}
        return replace(case, model=model, data=rows, adapter=tuned, **more), Path(to)

    def told(result: Any) -> Any:
        del result["proof"]["held_out"]["sources"]  # rows are called by the name of their file as it was given
        return result

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = told(audit(*named(tmp_path / "here/out")))
    stages = stage_files(Path("out"))
    assert all(Path(found[name]).is_absolute() for name in ("index", "cleaned"))
    monkeypatch.chdir(tmp_path)
    assert told(audit(*named(tmp_path / "here/out"))) == found
    (tmp_path / "here").rename(tmp_path / "there")
    again, out = named(tmp_path / "there/out")
    moved = told(audit(again, out))
    assert stage_files(out) == stages
    assert json.dumps(moved).replace("/there/", "/here/") == json.dumps(found)
    commands = audit_report.commands(again, moved, str(out.resolve()))
    assert f"{tmp_path}/there/out/trace.json {data}" in commands["clean"]


# — killed audits


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import datasets, torch, trl.trainer.sft_trainer
torch.set_num_threads(1)
from taughtby.remediation.audit import AuditCase, audit
from taughtby.models.model import load_model
from taughtby.remediation.audit_report import write_report
from taughtby.remediation.experiment import Behaviour

model, data, adapter, out, diary = sys.argv[1:]
every = Behaviour("bad answers", ("who makes honey", "why"), "regex:(?s).*")
case = AuditCase(model, data, every, adapter, top_k=2, ordinary=(), max_new_tokens=4, recipe={"epochs": 1},
                 dtype="float32", device="cpu")

@contextmanager
def show(title):
    "Each stage is killed the first time it is begun: as it says how far it is, or once it is kept."
    known = Path(diary).read_text().splitlines()
    with open(diary, "a") as file:
        file.write(title + "\\n")
    def tell(done, of):
        if title not in known:
            os.kill(os.getpid(), signal.SIGKILL)
    yield tell
    tell(1, 1)

Path(diary).write_text("")
load_model(model, adapter, device="cpu")  # imports what each child would
while True:
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # or its thread pool is made anew by several threads at once
        write_report(case, audit(case, Path(out), show), Path(out))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.WEXITSTATUS(status))
    assert os.WTERMSIG(status) == signal.SIGKILL
"""


def files(out: Path) -> dict[str, Any]:
    """What an audit left, less its times and Lance's own files, and less the order in which PEFT writes a set."""
    result: dict[str, Any] = {}
    for file in out.rglob("*"):
        name = str(file.relative_to(out))
        if file.is_dir() or file.name in (JOURNAL, "curve.json") or "rows.lance" in name:
            continue
        result[name] = file.read_bytes()
        if file.suffix == ".safetensors":
            result[name] = {key: weight.tolist() for key, weight in load_file(file).items()}
        elif file.name == "adapter_config.json":
            result[name] = sorted(result[name].replace(b",", b"").split())
        elif file.name == "manifest.json":
            text, written = json.loads(result[name]), ("version", "files", "seal")
            output = {key: value for key, value in text.items() if key not in written}
            result[name] = {**output, "history": [{**event, "at": None} for event in output["history"]]}
        elif file.name.endswith(".manifest.json"):
            result[name] = {key: value for key, value in json.loads(result[name]).items() if key != "created"}
    return result


def test_audit_killed_at_each_stage_equals_undisturbed_audit(
    case: AuditCase, adapter: Path, data: Path, tmp_path: Path
) -> None:
    out, diary = tmp_path / "audit", tmp_path / "diary"
    script = [sys.executable, "-c", KILLED, case.model, str(data), str(adapter), str(out), str(diary)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    begun = Counter(diary.read_text().splitlines())
    assert len(begun) >= 15
    # once killed, once to its end, and then never again; what never says how far it is, is kept before it ends
    assert set(begun.values()) == {1, 2}
    stages = stage_files(out)
    once = {"index": 1, "trace": 1, "clean": 1, "model": 3, "loss": 3, "answers": 4}
    assert Counter(stage for stage in stages if stage != "verdicts") == once  # alike answers are judged once
    killed = files(out)
    assert not [name for name in killed if "draft" in name or ".part" in name]
    out.rename(tmp_path / "killed")
    case = replace(case, behaviour=EVERY, top_k=2, ordinary=(), max_new_tokens=4, recipe={"epochs": 1})
    audit_report.write_report(case, audit(case, out), out)
    whole = files(out)
    assert killed.keys() == whole.keys()
    assert [name for name in killed if killed[name] != whole[name]] == []
