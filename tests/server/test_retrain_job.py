"""Retraining from the page over HTTP: early errors, progress, cancelling, and the files written."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import PAIRS
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab import training_options
from taughtby.methods import get_method
from taughtby.remediation import retrain

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("trl", reason="the extra [train] is not installed")
from starlette.testclient import TestClient

from taughtby.server.app import create_app
from taughtby.server.security import access_policy
from taughtby.server.session import Session


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    file: Path = tmp_path_factory.mktemp("retraining") / "data.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": p, "response": f"{r} {n}"}) + "\n" for n in range(3) for p, r in PAIRS)
    )
    method = get_method("lesson:layer=2,state_layer=1,sketch_dim=16")
    return build_index(tuned, file, file.parent / "idx", [method], encoding=Encoding(128))


@pytest.fixture
def client(index: Index, tuned: Any) -> TestClient:
    document = trace_queries(index, tuned, [Query("why", "a b c")], top_k=3).to_json()
    session = Session(index, lambda: tuned, [json.loads(json.dumps(document))])
    return TestClient(create_app(session, access_policy("127.0.0.1")), base_url="http://127.0.0.1:8317")


@pytest.fixture
def body(index: Index) -> dict[str, Any]:
    ids = [row.id for row in index.examples() if "beetles" in row.response]
    return {"rows": ids, "prompts": ["who makes honey", "why"] * 3, "words": "beetles", "epochs": 1}


def follow(client: TestClient, job: dict[str, Any], until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + 300
    while not until(job):
        assert time.monotonic() < end
        time.sleep(0.005)
        job = client.get(f"/api/jobs/{job['id']}").json()
    return job


def ended(job: dict[str, Any]) -> bool:
    return job["state"] not in ("waiting", "running")


def test_the_experiment_is_written_beside_the_index(
    client: TestClient, index: Index, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, train = threading.Event(), retrain.finetune

    def train_until_seen(*args: Any, progress: Callable[[int, int], Any]) -> Path:
        """The training waits at its second step, so that a request cannot miss it."""
        return train(*args, progress=lambda done, of: (progress(done, of), done == 2 and seen.wait(100)))

    monkeypatch.setattr(retrain, "finetune", train_until_seen)
    state = client.get("/api/retraining").json()
    assert state["recipe"]["rank"] == 2 and state["refusal"] is state["job"] is state["result"] is None
    assert "assumed: learning_rate 0.001" in state["notes"][0]
    assert client.get("/api/retraining.json").status_code == 404
    before = set(index.path.parent.iterdir())  # type: ignore[union-attr]
    job = client.post("/api/retraining", json=body).json()
    assert client.get("/api/retraining").json()["job"] == job["id"]  # a page that is opened now can follow it
    job = follow(client, job, lambda job: job["stage"] == "all: fine-tune on 22 rows" and job["done"] == 2)
    assert job["of"] == 3 and job["rate"] > 0
    seen.set()
    job = follow(client, job, ended)
    assert job["error"] is None
    folder = Path(f"{index.path}.retrained")
    assert set(index.path.parent.iterdir()) - before == {folder}  # type: ignore[union-attr]
    result, proof = job["result"], json.loads((folder / "proof.json").read_text())
    assert [row[0] for row in result["tables"][0]["rows"]] == [
        "the original model", "on all rows", "without the flagged rows", "without random rows",
    ]  # fmt: skip
    assert result["claims"][0]["finding"] and result["folder"] == str(folder)
    assert all((Path(model["path"]) / "adapter_config.json").is_file() for model in result["models"])
    assert [one["num_removed"] for one in proof["conditions"][2:]] == [3, 3] and proof["recipe"]["epochs"] == 1
    state = client.get("/api/retraining").json()
    assert state["result"] == result and state["job"] is None
    assert client.get("/api/retraining.json").json() == proof
    again = follow(client, client.post("/api/retraining", json=body).json(), ended)
    assert again["result"]["tables"] == result["tables"]  # from the stored stages


def test_cancelled_training_leaves_no_result_and_other_jobs_run(
    client: TestClient, index: Index, body: dict[str, Any]
) -> None:
    before = client.get("/api/retraining").json()["result"]
    job = client.post("/api/retraining", json={**body, "epochs": 200, "learning_rate": 0.01}).json()
    follow(client, job, lambda job: "fine-tune" in job["stage"] and job["done"] > 1)
    assert client.delete(f"/api/jobs/{job['id']}").json()["state"] == "cancelled"
    answer = client.post("/api/trace", json={"prompt": "why", "response": "a b c", "top": 2}).json()
    assert follow(client, answer, ended)["state"] == "done"
    state = client.get("/api/retraining").json()
    assert state["job"] is None and state["result"] == before


def test_what_cannot_be_trained_is_refused_beforehand(
    client: TestClient, index: Index, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(**more: Any) -> str:
        answer = client.post("/api/retraining", json={**body, **more})
        assert answer.status_code == 400 and answer.json()["do"]
        return answer.json()["what"]

    assert refusal(rows=["0" * 16]) == "rows of the trace are not in the data"
    for more in ({"rows": []}, {"prompts": []}, {"prompts": [" "]}, {"words": ""}, {"epochs": 0}, {"learning_rate": -1},
                 {"out": "/tmp/x"}, {"judge": "python:/tmp/x.py:judge"}):  # fmt: skip
        assert client.post("/api/retraining", json={**body, **more}).status_code == 422
    with monkeypatch.context() as patch:
        patch.setattr(training_options, "find_spec", lambda _: None)
        assert refusal() == "packages that fine-tuning needs are not installed"
        assert client.get("/api/retraining").json()["refusal"]["do"] == "pip install 'taughtby[train]'"
    with monkeypatch.context() as patch:
        patch.setattr(Index, "data", property(lambda _: ["data.jsonl", "more.jsonl"]))
        assert refusal() == "the training data is not a single local file"
    with monkeypatch.context() as patch:
        patch.setitem(index.settings, "adapter", None)  # a full fine-tune whose base model nobody named
        patch.setitem(index.settings, "base", None)
        manifest = Path(str(index.path)) / "manifest.json"
        moved = manifest.rename(manifest.with_name("moved.json"))
        assert refusal() == "the base model is not known"
    moved.rename(manifest)


def test_tokens_of_a_saved_trace_are_linked_once(client: TestClient) -> None:
    assert client.post("/api/documents/1/links").status_code == 404
    job = client.post("/api/documents/0/links").json()
    (links,) = follow(client, job, ended)["result"]["links"]
    assert len(links) == 3 and all(links)
    assert client.post("/api/documents/0/links").json()["id"] == job["id"]
