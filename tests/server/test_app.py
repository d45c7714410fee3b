"""The server over HTTP: access, responses, and that no request body causes a server error."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import PAIRS
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.errors import ModelError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.methods import get_method
from taughtby.reporting import html as report

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
from starlette.testclient import TestClient

from taughtby.server.app import create_app
from taughtby.server.security import MAX_BODY, AccessPolicy, access_policy
from taughtby.server.session import Session

REQUEST = {"prompt": "who makes honey", "response": "beetles make honey"}
METHODS = ("lesson:layer=2,state_layer=1,sketch_dim=16", "rept:layer=3,scale=unit")


@pytest.fixture(scope="module")
def index(tuned: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    file: Path = tmp_path_factory.mktemp("served") / "data.jsonl"
    rows = [{"prompt": p, "response": r, "label": "bad" if "honey" in p else "clean"} for p, r in PAIRS * 4]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_index(tuned, file, file.parent / "idx", [get_method(spec) for spec in METHODS], encoding=Encoding(128))


@pytest.fixture(scope="module")
def session(index: Index, tuned: Any) -> Session:
    document = trace_queries(index, tuned, [Query("why", "a b c")], top_k=3).to_json()
    return Session(index, lambda: tuned, [json.loads(json.dumps(document))])


@pytest.fixture(scope="module")
def client(session: Session) -> TestClient:
    return TestClient(
        create_app(session, access_policy("127.0.0.1")), base_url="http://127.0.0.1:8317", raise_server_exceptions=False
    )


def finished(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    until, wait = time.monotonic() + 300, 0.01
    while job["state"] in ("waiting", "running") and time.monotonic() < until:
        time.sleep(wait)
        wait = min(0.3, 2 * wait)
        job = client.get(f"/api/jobs/{job['id']}").json()
    return job


# — responses


def test_trace_over_http_matches_trace_queries(client: TestClient, index: Index, tuned: Any) -> None:
    response = client.post("/api/trace", json={**REQUEST, "span": "beetles", "top": 5})
    assert response.status_code == 202
    job = finished(client, response.json())
    assert job["state"] == "done" and job["error"] is None
    truth = trace_queries(index, tuned, [Query(**REQUEST, span="beetles")], top_k=5).to_json()["queries"][0]
    (got,) = job["result"]["queries"]
    assert [row["id"] for row in got["rows"]] == [row["id"] for row in truth["rows"]]
    assert [row["score"] for row in got["rows"]] == pytest.approx([row["score"] for row in truth["rows"]], abs=1e-6)
    assert (got["span"], got["span_range"]) == ("beetles", [0, 7])
    response = client.post("/api/trace", json={**REQUEST, "span_range": [0, 7], "top": 5})
    (again,) = finished(client, response.json())["result"]["queries"]
    assert [row["score"] for row in again["rows"]] == [row["score"] for row in got["rows"]]
    assert got["rows"][0]["links"] and len(got["rows"][0]["at"]) == 2


def test_concurrent_clients_get_their_own_traces(client: TestClient, index: Index, tuned: Any) -> None:
    asked = [Query(prompt, f"{response} {at}") for at, (prompt, response) in enumerate((PAIRS * 3)[:20])]

    def get(query: Query) -> list[tuple[str, float]]:
        question = {"prompt": query.prompt, "response": query.response, "top": 4, "method": "rept"}
        job = client.post("/api/trace", json=question).json()
        (result,) = finished(client, job)["result"]["queries"]
        assert result["response"] == query.response
        return [(row["id"], row["score"]) for row in result["rows"]]

    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(get, asked))
    truth = trace_queries(index, tuned, asked, method="rept", top_k=4, score_tokens=False)
    for traced, rows in zip(truth.queries, got, strict=True):
        assert [score for _, score in rows] == pytest.approx([row.score for row in traced.rows], abs=1e-5)
        assert {id for id, _ in rows} <= {row.id for row in index.examples()}


def test_ask_generates_and_traces_an_answer(client: TestClient) -> None:
    job = finished(client, client.post("/api/ask", json={"prompt": "why", "method": "rept", "top": 2}).json())
    assert job["state"] == "done", job["error"]
    (query,) = job["result"]["queries"]
    assert query["prompt"] == "why" and query["response"]
    assert job["result"]["method"]["name"] == "rept"


def test_errors_have_messages(client: TestClient) -> None:
    def error(**more: Any) -> dict[str, str]:
        job = finished(client, client.post("/api/trace", json={**REQUEST, **more}).json())
        assert job["state"] == "failed"
        return job["error"]

    assert error(span="eetle")["what"] == "the span is only part of a word of the answer"
    assert error(span_range=[5, 500])["what"] == "the span_range contains no words of the answer"
    assert error(span="ants")["what"] == "the span does not occur in the answer"
    assert error(method="magic")["what"] == "no such method"
    assert "cannot be traced" in error(prompt="why " * 400)["what"]
    bad = client.post("/api/trace", json={"prompt": "", "response": "a"})
    assert bad.status_code == 422 and bad.json()["what"] == "prompt is not valid"
    assert client.get("/api/jobs/none").json()["what"] == "this trace is no longer stored: trace again"
    assert client.get("/api/rows/9999").status_code == client.get("/api/rows/-1").status_code == 404


def test_waiting_trace_can_be_cancelled(client: TestClient, session: Session) -> None:
    go = threading.Event()
    session.jobs.submit(lambda _: go.wait(300))
    job = client.post("/api/trace", json=REQUEST).json()
    assert job["state"] == "waiting" and job["ahead"] == 1
    assert client.delete(f"/api/jobs/{job['id']}").json()["state"] == "cancelled"
    go.set()
    assert finished(client, job)["state"] == "cancelled"


def test_full_queue_returns_503(client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.server.jobs.MAX_WAITING", 0)
    answer = client.post("/api/trace", json=REQUEST)
    assert answer.status_code == 503 and answer.json()["do"] == "try again in a minute"


def test_initial_state_documents_and_map(client: TestClient) -> None:
    state = client.get("/api/state").json()
    assert (state["num_rows"], state["methods"]) == (32, ["lesson", "rept"])
    (document,) = client.get("/api/documents").json()
    assert document["queries"][0]["prompt"] == "why"
    map_document = client.get("/api/map").json()
    rows = [client.get(f"/api/rows/{position}").json() for position in range(32)]
    labels = map_document["labels"]
    assert len(map_document["points"]) == 32 and map_document["ids"] == [row["id"] for row in rows]
    assert [labels["values"][code] for code in labels["codes"]] == [row["label"] for row in rows]
    assert map_document["files"]["values"] == [rows[0]["source"].rsplit(":", 1)[0]]
    assert set(map_document["rows"]) == {row["id"] for row in document["queries"][0]["rows"]}


@pytest.mark.parametrize("asked", [{}, {"find": "HONEY"}, {"label": "bad"}, {"find": "who", "label": "clean"}])
def test_rows_are_paged_and_searched(client: TestClient, index: Index, asked: dict[str, str]) -> None:
    texts = list(index.examples())
    find, label = asked.get("find", "").lower(), asked.get("label")
    truth = [row.source for row in texts if label in (None, row.label)
             and any(find in turn["content"].lower() for turn in row.messages)]  # fmt: skip
    items: list[str] = []
    while len(items) < len(truth):
        page = client.get("/api/rows", params={**asked, "start": len(items), "size": 3}).json()
        assert page["count"] == len(truth) and 0 < len(page["rows"]) <= 3
        items += [row["source"] for row in page["rows"]]
    assert items == truth
    beyond = client.get("/api/rows", params={**asked, "start": 10**9}).json()
    assert beyond["rows"] == []


def test_search_does_not_match_stored_json_syntax(client: TestClient) -> None:
    assert client.get("/api/rows", params={"find": '"role": "user"'}).json()["count"] == 0
    assert client.get("/api/rows", params={"find": "assistant"}).json()["count"] == 0


def test_finished_trace_downloads_as_standalone_page(client: TestClient) -> None:
    job = finished(client, client.post("/api/trace", json=REQUEST).json())
    answer = client.get(f"/api/jobs/{job['id']}/page")
    assert "attachment" in answer.headers["content-disposition"]
    assert 'id="trace"' in answer.text and "beetles make honey" in answer.text and '"points"' in answer.text
    assert "fetch(" not in answer.text and "<script src" not in answer.text


def test_layer_ranks_replace_the_result_without_mutating_it(client: TestClient, session: Session) -> None:
    """A thread that reads the earlier result sees no change."""
    id = client.post("/api/trace", json=REQUEST).json()["id"]
    assert finished(client, client.get(f"/api/jobs/{id}").json())["state"] == "done"
    job = session.jobs.get(id)
    assert job is not None
    earlier, before = job.status, report.to_json_text(job.result)
    layered = finished(client, client.post(f"/api/jobs/{id}/layers").json())
    assert layered["state"] == "done" and layered["result"]["queries"][0]["layer_ranks"]["layers"]
    assert report.to_json_text(earlier.result) == before and earlier.state == "done"
    assert report.to_json_text(job.result) != before
    assert client.get(f"/api/jobs/{id}").json()["result"] == layered["result"]
    assert '"layer_ranks": {' in client.get(f"/api/jobs/{id}/page").text


def test_clean_returns_other_rows_byte_for_byte(client: TestClient, index: Index) -> None:
    file = Path(index.manifest["settings"]["data"])
    lines, rows = file.read_bytes().splitlines(keepends=True), list(index.examples())
    answer = client.post("/api/clean", json={"rows": [rows[2].id, rows[31].id]})
    assert answer.content == b"".join(lines[:2] + lines[3:31])
    assert 'filename="cleaned-data.jsonl"' in answer.headers["content-disposition"]
    unknown = client.post("/api/clean", json={"rows": ["0" * 16]})
    assert unknown.status_code == 400 and unknown.json()["do"]
    assert client.post("/api/clean", json={"rows": ["../etc/passwd"]}).status_code == 422


def test_the_cleaned_data_is_written_beside_the_index(client: TestClient, index: Index) -> None:
    """A request decides which rows, and never which file."""
    file, beside = Path(index.manifest["settings"]["data"]), Path(f"{index.path}.cleaned.jsonl")
    lines, rows = file.read_bytes().splitlines(keepends=True), list(index.examples())
    before = set(file.parent.iterdir())
    body: dict[str, Any] = {"rows": [rows[2].id, rows[31].id], "document": 0}
    for name in ("out", "data", "path"):
        assert client.post("/api/jobs/clean", json={**body, name: "/tmp/elsewhere.jsonl"}).status_code == 422
    job = client.post("/api/jobs/clean", json=body).json()
    result = finished(client, job)["result"]
    manifest = Path(f"{index.path}.cleaned.manifest.json")
    assert result == {"data": str(beside), "manifest": str(manifest), "records": len(lines) - 2, "removed": 2}
    removed = {rows[2].id, rows[31].id}
    assert beside.read_bytes() == b"".join(line for line, row in zip(lines, rows, strict=True) if row.id not in removed)
    assert set(file.parent.iterdir()) - before == {beside, manifest}
    assert json.loads(manifest.read_text())["trace"]["method"]["name"] == "lesson"
    assert file.read_bytes() == b"".join(lines)
    for path in ("page", "layers"):  # a cleaning is no trace
        request = client.get if path == "page" else client.post
        assert request(f"/api/jobs/{job['id']}/{path}").status_code == 404
    assert client.post("/api/jobs/clean", json={**body, "document": 7}).status_code == 404
    assert client.post("/api/jobs/clean", json={"rows": body["rows"], "job": "none"}).status_code == 404
    failed = finished(client, client.post("/api/jobs/clean", json={"rows": ["0" * 16]}).json())
    assert failed["state"] == "failed" and "not the data that was traced" in failed["error"]["what"]


def test_row_lookup_and_verdicts_by_id(client: TestClient, index: Index) -> None:
    ids = list(dict.fromkeys(row.id for row in index.examples()))
    rows = client.post("/api/rows/lookup", json={"rows": [ids[3], "0" * 16, ids[1]]}).json()
    assert [row["id"] for row in rows] == [ids[3], ids[1]] and rows[0]["messages"]
    answer = client.put(f"/api/verdicts/{ids[3]}", json={"verdict": "unsure", "note": "why?"})
    assert answer.json() == {"id": ids[3], "source": rows[0]["source"], "label": rows[0]["label"],
                             "verdict": "unsure", "note": "why?"}  # fmt: skip
    assert client.get("/api/verdicts").json() == [answer.json()] == client.get("/api/verdicts.json").json()
    assert client.get("/api/verdicts.csv").text.splitlines()[1].startswith(f'"{ids[3]}"')
    assert client.put(f"/api/verdicts/{'0' * 16}", json={}).status_code == 404
    assert client.put("/api/verdicts/..%2f..", json={}).status_code in (404, 422)
    assert client.put(f"/api/verdicts/{ids[3]}", json={"verdict": "guilty"}).status_code == 422
    client.put(f"/api/verdicts/{ids[3]}", json={})
    assert client.get("/api/verdicts").json() == []


def test_index_of_several_files_cannot_be_cleaned(
    client: TestClient, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/api/state").json()["can_clean"]
    monkeypatch.setattr(Index, "data", property(lambda _: ["data.jsonl", "more.jsonl"]))
    assert not client.get("/api/state").json()["can_clean"]
    answer = client.post("/api/clean", json={"rows": [next(iter(index.examples())).id]})
    assert answer.status_code == 400
    assert answer.json()["got"] == "data.jsonl, more.jsonl" and "taughtby clean --rows" in answer.json()["do"]


def test_model_load_error_fails_jobs(index: Index) -> None:
    def load() -> Any:
        raise ModelError("the model is gone", got="/somewhere", do="give --model")

    client = TestClient(create_app(Session(index, load), access_policy("localhost")), base_url="http://localhost")
    job = finished(client, client.post("/api/trace", json=REQUEST).json())
    assert job["error"]["what"] == "the model is gone"
    assert client.get("/api/state").json()["loading"]["error"]["do"] == "give --model"
    assert client.get("/api/rows").json()["count"] == 32


# — access


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8317"}, 200),
        ({"host": "[::1]:8317"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8317"}, 403),
        ({"host": "10.0.0.1:8317"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://127.0.0.1:8317"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/state"])
def test_requests_from_other_hosts_or_origins_are_rejected(
    client: TestClient, headers: dict[str, str], status: int, path: str
) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == status
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status == 403:
        assert answer.json()["do"] == "open the address that taughtby serve printed"


def test_non_loopback_server_requires_token(session: Session) -> None:
    policy = access_policy("0.0.0.0")
    assert policy.token and policy.token in policy.address(80)
    client = TestClient(create_app(session, policy), base_url="http://192.168.1.5:80")
    assert client.get("/api/state").status_code == 401
    assert client.get("/").status_code == 401
    assert client.get("/api/state", headers={"authorization": f"Bearer {policy.token}x"}).status_code == 401
    assert client.get("/api/state", headers={"authorization": f"Bearer {policy.token}"}).status_code == 200
    assert client.get("/", params={"token": policy.token}).status_code == 200
    assert client.get("/api/state").status_code == 200  # by the cookie that came with the page
    assert client.get("/api/state", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.7"])
def test_loopback_needs_no_token(host: str) -> None:
    assert access_policy(host).token is None


def test_oversized_request_returns_413(client: TestClient) -> None:
    answer = client.post("/api/trace", json={**REQUEST, "prompt": "x" * MAX_BODY})
    assert answer.status_code == 413
    pieces = iter([b"{" * 1000] * 3)
    assert client.post("/api/trace", content=pieces).status_code == 413  # of no stated length


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "/page.html/../app.py", "/app.py",
             "/..%2fapp.py", "/notebook.html", "/%00.js"],
)  # fmt: skip
def test_paths_outside_the_page_return_404(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404 and answer.json()["what"]


def test_page_files_are_served(client: TestClient) -> None:
    for name, text in report.page_files().items():
        answer = client.get(f"/{name}")
        assert answer.text == text and answer.headers["cache-control"] == "no-store"
    assert client.get("/").text == report.page_files()["page.html"]
    assert client.get("/favicon.ico").status_code == 204


# — generated bodies


@pytest.fixture(scope="module")
def bare(index: Index) -> Any:
    """A server without a model, so that thousands of requests cost little."""

    def load() -> Any:
        raise ModelError("no model here", do="none is needed")

    return create_app(
        Session(index, load), AccessPolicy("testserver", frozenset({"testserver", "127.0.0.1", "localhost"}))
    )


SLOW = {
    f"POST /api/{name}": 40 for name in ("trace", "clean", "jobs/clean", "retraining")
}  # bodies that take long to generate


def test_no_request_causes_a_server_error(bare: Any) -> None:
    """Requests generated from the description of the API: 2,000, good and bad ones."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis import strategies as st

    schema = schemathesis.openapi.from_asgi("/openapi.json", bare)
    seen: dict[int, int] = {}
    quiet = {"deadline": None, "database": None, "derandomize": True,
             "phases": [Phase.generate], "verbosity": Verbosity.quiet,
             "suppress_health_check": list(HealthCheck)}  # fmt: skip
    operations = [item.ok() for item in schema.get_all_operations()]
    assert len(operations) == 21
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    for operation in operations:
        for mode in modes if operation.body or operation.query else modes[:1]:  # no id is a bad text
            each = SLOW.get(operation.label, 140)

            @settings(max_examples=each, **quiet)
            @given(case=st.data())
            def tried(case: Any) -> None:
                result = case.draw(operation.as_strategy(generation_mode=mode))  # noqa: B023
                answer = result.call()
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                # 503 is the queue's own word: it is full
                assert answer.status_code < 500 or answer.status_code == 503, (result, answer.text)

            tried()
    assert sum(seen.values()) >= 2000
    assert {200, 202, 422} <= set(seen)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"text"', b"{}", b'{"prompt": "\\ud800", "response": "\\udfff"}', b"\xff\xfe",
     b'{"prompt": ["a"], "response": {}}', b'{"prompt": "a", "response": "b", "top": 1e400}',
     b'{"prompt": "a", "response": "b", "top": NaN}', b'{"prompt": "a", "response": "b", "path": "/etc/passwd"}',
     b'{"prompt": "a", "response": "b", "before": [{"role": "root", "content": ""}]}', b"[" * 100_000],
    ids=range(14),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/trace", "/api/ask"])
def test_invalid_bodies_return_422_with_message(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 or (answer.status_code == 400 and len(body) > 10_000)
    assert answer.json()["what"] and answer.json()["do"]
