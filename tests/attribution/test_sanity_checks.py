"""Checks of an index: each passes and fails where it should, and its numbers equal reference implementations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from conftest import Run
from taughtby.attribution import sanity_checks as check
from taughtby.attribution.query import Query
from taughtby.attribution.random_model import randomized_weights
from taughtby.attribution.sanity_checks import Check, CheckReport, check_index, index_warnings
from taughtby.attribution.trace import trace_queries
from taughtby.data.batching import Batch
from taughtby.data.tokenize import Encoding
from taughtby.errors import OptionError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import Features, Method, QueryFeatures, StateMethod, get_method
from taughtby.methods.base import CosineMethod
from taughtby.models.model import Model, load_model

TOPICS = {"honey": "bees make honey", "sky": "blue is the colour of the sky", "sea": "a captain and a ship in the sea"}


@dataclass(frozen=True)
class Bag(CosineMethod, StateMethod):
    """Which ids a row has, and nothing that the model knows."""

    name: ClassVar[str] = "bag"

    def feature_names(self, depth: int) -> tuple[str, ...]:
        return ("bag",)

    def features(self, model: Model, batch: Batch, weights: Any = None) -> Features:
        bags = torch.zeros(len(batch.row_indices), 384)
        return {"bag": bags.scatter_add_(1, batch.ids, batch.attention_mask.float())}


@dataclass(frozen=True)
class Long(StateMethod):
    """Whatever is asked, the longest answer first."""

    name: ClassVar[str] = "long"
    supports_significance: ClassVar[bool] = True

    def feature_names(self, depth: int) -> tuple[str, ...]:
        return ("long",)

    def features(self, model: Model, batch: Batch, weights: Any = None) -> Features:
        return {"long": batch.n_loss[:, None].float()}

    def rows_as_queries(self, rows: Features, profile: Any = None) -> Features:
        return rows

    def scores(self, asked: QueryFeatures, index: Index) -> torch.Tensor:
        lengths = torch.cat([rows["long_norm"] for rows in index.scan(["long_norm"])])
        return lengths.expand(len(asked.features["long"]), -1).clone()


def rows(labels: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Six rows of each topic, and six about nothing, with answers of many lengths."""
    text = [(topic, words) for topic, words in TOPICS.items() for _ in range(6)] + [("other", "0 1 2 a b c")] * 8
    for at, (topic, words) in enumerate(text):
        label = labels[at] if labels else topic
        response = f"{words}{' a b c'[: 2 * (at % 4)]}"
        yield {"prompt": f"{at} what is {'in ' * (at % 3)}{topic}", "response": response, "label": label}


METHODS: list[Method] = [
    Bag(),
    Long(),
    get_method("rept:layer=3,scale=centred"),
    get_method("lesson:layer=2,state_layer=2,sketch_dim=16"),
]


def indexed(model: Model, folder: Path, labels: Sequence[str] | None = None) -> Index:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(labels)))
    return build_index(model, file, folder / "idx", METHODS, encoding=Encoding(128), layers=False)


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return indexed(tuned, tmp_path_factory.mktemp("check"))


def checks(result: CheckReport) -> dict[str, Check]:
    return {one.name: one for one in result.checks}


# — randomised models


def test_text_only_method_fails_the_random_weights_check(tuned: Any, index: Index) -> None:
    one = checks(check_index(index, tuned, method=Bag()))[check.RANDOM]
    assert one.value == pytest.approx(1, abs=1e-6)
    assert one.passed is False and "only on the texts" in one.finding


def test_random_weights_check_is_the_mean_spearman_of_scipy(tuned: Any, index: Index) -> None:
    one = checks(check_index(index, tuned, method="rept:scale=centred", seed=3))[check.RANDOM]
    assert one.passed is True and one.value is not None and one.value < 0.9
    places = np.random.default_rng(3).permutation(len(index))
    texts = [stored.example for stored in index.take(places.tolist())]
    file = index.path.parent / "again.jsonl"
    file.write_text("".join(json.dumps({"messages": list(row.messages)}) + "\n" for row in texts))
    with randomized_weights(tuned, 3):
        again = build_index(tuned, file, index.path.parent / "again", [METHODS[2]], encoding=Encoding(128))
    new_index = build_index(tuned, file, index.path.parent / "still", [METHODS[2]], encoding=Encoding(128))
    scores: list[np.ndarray] = []
    for each in (new_index, again):
        blocks = next(each.scan(METHODS[2].feature_names(4)))
        scores.append(METHODS[2].scores(QueryFeatures((), (), blocks), each).numpy())
    others = ~np.eye(len(index), dtype=bool)
    pairs = [[each[q][others[q]] for each in scores] for q in range(len(index))]
    by_hand = [float(np.asarray(spearmanr(*pair))[0]) for pair in pairs]
    assert one.value == pytest.approx(np.mean(by_hand), abs=0.01)


@pytest.mark.parametrize("fails", [False, True])
def test_randomized_weights_are_restored_exactly(model_folder: Path, adapter_folder: Path, fails: bool) -> None:
    model = load_model(str(model_folder), str(adapter_folder), dtype="float32")
    before = {name: weight.clone() for name, weight in model.lm.state_dict().items()}
    sample: dict[str, torch.Tensor] = {}
    try:
        with randomized_weights(model):
            sample = {name: weight.clone() for name, weight in model.lm.state_dict().items()}
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    for name, weight in model.lm.state_dict().items():
        assert torch.equal(weight, before[name])
        inside = ".layers." in name and weight.ndim > 1
        assert torch.equal(sample[name], weight) != inside
        if inside and weight.numel() > 500:
            assert float(sample[name].std() / weight.std()) == pytest.approx(1, abs=0.15)
    assert any("lora_B" in name and not torch.equal(sample[name], before[name]) for name in sample)


def test_a_separate_base_is_randomized_too(tuned: Any, tiny: Any) -> None:
    with randomized_weights(replace(tuned, separate_base=tiny)):
        items = [model.blocks[0].mlp.down_proj.weight.clone() for model in (tuned, tiny)]
    assert not torch.equal(*items)
    assert not torch.equal(items[1], tiny.blocks[0].mlp.down_proj.weight)


# — labels


def test_label_check_passes_for_topics_and_fails_when_shuffled(tuned: Any, index: Index, tmp_path: Path) -> None:
    one = checks(check_index(index, tuned, method=Bag()))[check.LABELS]
    assert one.passed is True and one.value == pytest.approx(1, abs=0.05)
    assert one.limit is not None and 5 / 25 < one.limit < 0.6
    dealt = np.random.default_rng(1).permutation([str(row["label"]) for row in rows()])
    none = checks(check_index(indexed(tuned, tmp_path, dealt.tolist()), tuned, method=Bag()))[check.LABELS]
    assert none.passed is False and "labels and ranking are unrelated" in none.finding


@pytest.mark.parametrize("labels", [["a"] * 26, ["a"] * 23 + ["b"] * 3])
def test_uninformative_labels_are_not_checked(tuned: Any, tmp_path: Path, labels: list[str]) -> None:
    one = checks(check_index(indexed(tuned, tmp_path, labels), tuned, method=Bag()))[check.LABELS]
    assert one.passed is None and one.value is None


@pytest.mark.parametrize("larger", ["topic", "other"])
def test_one_coherent_label_passes_the_label_check(tuned: Any, tmp_path: Path, larger: str) -> None:
    """Rows without anything in common may be the fewer, as many or the more."""
    labels = ["clean" if at % 2 else "mixed" for at in range(26)]
    for at in range(6 if larger == "other" else 13):
        labels[at] = "honey"
    one = checks(check_index(indexed(tuned, tmp_path, labels), tuned, method=Bag()))[check.LABELS]
    assert one.passed is True and "honey" in one.finding


@pytest.mark.parametrize(
    ("passed", "verdict"),
    [
        ((True, True, True, True), "ok"),
        ((True, None, True, True), "ok"),
        ((None, None, None, None), "not checked"),
        ((True, False, True, True), "look at"),
        ((True, True, False, True), "look at"),
        ((True, True, True, False), "do not trust"),
        ((False, False, True, None), "do not trust"),
    ],
)
def test_verdict_reports_failed_checks_and_their_fix(passed: tuple[bool | None, ...], verdict: str) -> None:
    names = (check.RANDOM, check.LABELS, check.HUBS, check.LENGTH)
    each = tuple(Check(name, 0.5, 0.5, ok, "why", f"remedy of {name}") for name, ok in zip(names, passed, strict=True))
    report = CheckReport(Bag(), each, 64, 0, 100)
    assert report.verdict == verdict == report.to_json()["verdict"]
    for one in each:
        assert (one.advice in report.reason) == (one.passed is False)


def test_length_ranking_fails_hub_and_length_checks(tuned: Any, index: Index) -> None:
    report = check_index(index, tuned, method=Long())
    hub, length = checks(report)[check.HUBS], checks(report)[check.LENGTH]
    assert report.verdict == "do not trust" and hub.advice in report.reason and length.advice in report.reason
    assert hub.value is not None and hub.value > check.MAX_HUB_SHARE and hub.passed is False
    lengths = index.dataset.to_table(columns=["source", "n_response"]).to_pydict()
    top = sorted(lengths["n_response"])[-3]
    longest = {source for source, n in zip(*lengths.values(), strict=True) if n >= top}
    assert any(source in hub.finding for source in longest)
    assert length.value == pytest.approx(1, abs=0.05)
    assert length.passed is False and length.finding.startswith("long responses rank first for every query")


def test_tied_rows_are_not_hubs() -> None:
    """A row does not come first because it stands first in the data."""
    scores = np.ones((30, 100))
    scores[:, 7] = np.arange(30) < 3
    scores[np.arange(30), np.arange(30)] = np.nan
    sources = [f"rows:{at}" for at in range(100)]
    hub = check._check_hubs(scores, sources)
    assert hub.passed is True and hub.value is not None and hub.value < 0.2
    order = np.random.default_rng(0).permutation(100)
    again = check._check_hubs(scores[:, order], [sources[at] for at in order])
    assert again.value == pytest.approx(hub.value)
    scores[:, 50] = 2
    assert "rows:50 is among the first 10 for 100%" in check._check_hubs(scores, sources).finding


def test_equal_scores_pass_no_check(tiny: Any, model_folder: Path, tmp_path: Path) -> None:
    """The state of the embedding is the same before and after fine-tuning: no row is like another."""
    rows = [{"prompt": f"why {n}", "response": f"a {n}"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuned = load_model(str(model_folder), base=str(model_folder), dtype="float32")
    index = build_index(tuned, tmp_path / "rows.jsonl", tmp_path / "idx", [get_method("shift:layer=0")])
    report = check_index(index, tuned)
    assert report.verdict == "not checked" and "all scores of each query are equal" in report.reason


def test_topic_ranking_passes_hub_and_length_checks(tuned: Any, index: Index) -> None:
    result = checks(check_index(index, tuned, method=Bag()))
    assert result[check.HUBS].passed is True and result[check.LENGTH].passed is True


# — checks without a verdict


@pytest.mark.parametrize("name", ["bm25", "random", "rept:scale=raw"])
def test_methods_without_row_queries_are_not_checked(tuned: Any, index: Index, name: str) -> None:
    result = check_index(index, tuned, method=name).checks
    assert len(result) == 4
    assert {one.passed for one in result} == {None} and "cannot use rows as queries" in result[0].finding


def test_text_features_skip_the_random_weights_check(tuned: Any, tmp_path: Path) -> None:
    class Read(CosineMethod):
        name = "read"

        def feature_names(self, depth: int) -> tuple[str, ...]:
            return ("letters",)

        def text_features(self, rows: Sequence[Any]) -> Features:
            return {"letters": torch.tensor([[row.response.count(x) + 1.0 for x in "abcde"] for row in rows])}

    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    new_index = build_index(tuned, file, tmp_path / "idx", [Read()], encoding=Encoding(128), layers=False)
    result = checks(check_index(new_index, tuned, method=Read()))
    assert result[check.RANDOM].passed is None and "does not read the model" in result[check.RANDOM].finding
    assert result[check.HUBS].value is not None


def test_too_few_rows_raise(tuned: Any, index: Index) -> None:
    with pytest.raises(OptionError, match="too few rows for a check"):
        check_index(index, tuned, rows=3)


def test_the_same_seed_gives_the_same_numbers(tuned: Any, index: Index) -> None:
    one, two = (check_index(index, tuned, method="lesson", rows=12).to_json() for _ in range(2))
    assert one == two
    assert one["rows"] == 12


# — stored checks


def test_index_warnings_belong_to_the_checked_method(tuned: Any, index: Index) -> None:
    assert index_warnings(index, Long()) == []
    report = check_index(index, tuned, method="lesson")
    fails = Check(check.HUBS, 0.9, 0.5, False, "a row comes first", "read it")
    document = replace(report, checks=(*report.checks[:2], fails)).to_json()
    (index.path / check.FILE).write_text(json.dumps(document))
    says = [f"{one.finding}; {one.advice}" for one in report.checks[:2] if one.passed is False] + [
        "a row comes first; read it"
    ]
    assert index_warnings(index, report.method) == says
    assert index_warnings(index, Long()) == []
    asked = [Query("what is honey", "bees make honey")]
    assert trace_queries(index, tuned, asked, method="lesson", score_tokens=False).to_json()["warnings"] == says
    assert trace_queries(index, tuned, asked, method="rept", score_tokens=False).to_json()["warnings"] == []
    (index.path / check.FILE).write_text(json.dumps({**document, "count": len(index) - 2}))
    (grown,) = set(index_warnings(index, report.method)) - set(says)
    assert f"checked with {len(index) - 2} rows" in grown and "run taughtby check" in grown
    assert index_warnings(index, Long()) == []
    (index.path / check.FILE).write_text("{half")
    assert index_warnings(index, report.method) == []


def test_check_command_prints_a_table_and_saves_the_report(
    run: Run, model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    file, idx = tmp_path / "rows.jsonl", tmp_path / "idx"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    assert run("index", "build", model_folder, file, "-o", idx, "-a", adapter_folder, "--dtype", "float32",
               "--max-length", 128)[0] == 0  # fmt: skip
    code, out, err = run("check", idx, "--rows", 20, "--json", tmp_path / "c.json")
    assert code == 0, err
    document = json.loads((idx / "check.json").read_text())
    assert document == json.loads((tmp_path / "c.json").read_text())
    assert [one["name"] for one in document["checks"]] == [check.RANDOM, check.LABELS, check.HUBS, check.LENGTH]
    assert document["verdict"] in ("ok", "look at", "do not trust") and f"Overall: {document['verdict']}" in out
    assert all(one["name"] in out for one in document["checks"])
    assert "what it means" in out and "20 rows as queries" in out
    code, out, _ = run("check", idx, "--method", "bm25")
    assert code == 0 and out.splitlines()[-1].strip() == "bm25"  # of which no row was a query
    code, _, err = run("check", idx, "--method", "repsim")
    assert code == 1 and "repsim needs features" in err
    assert run("check", idx, "--rows", 2)[0] == 2
