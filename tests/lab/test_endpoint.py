"""Generation by an OpenAI-compatible server, tested with a local one that fails in every way."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from taughtby.data.example import Example
from taughtby.errors import LabError, OptionError
from taughtby.lab import chat_server
from taughtby.lab.endpoint import Endpoint
from taughtby.lab.generate import GenerationOptions, generate_to_file

PROMPTS = [f"question {number}" for number in range(12)]
Reply = tuple[int, str, dict[str, str]]


class Server:
    """Replies to each request as `reply` says, from its body and how often it came; remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.parallel = self.most_parallel = 0
        self.reply: Callable[[dict[str, Any], int], Reply] = lambda body, times: answered(body)
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((self.path, body, dict(self.headers)))
                    outer.parallel += 1
                    outer.most_parallel = max(outer.most_parallel, outer.parallel)
                    times = sum(other == body for _, other, _ in outer.requests)
                status, text, headers = outer.reply(body, times)
                with lock:
                    outer.parallel -= 1
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that no longer wait
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def endpoint(self, **options: Any) -> Endpoint:
        return Endpoint(self.url, "tuned-model", **options)


def answered(body: dict[str, Any]) -> Reply:
    """The question in capitals, as chat or as text."""
    if "prompt" in body:
        return 200, json.dumps({"choices": [{"text": f" {body['prompt'].upper()} "}]}), {}
    content = body["messages"][-1]["content"].upper()
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}), {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv(chat_server.KEY, raising=False)
    monkeypatch.setattr(chat_server, "BACKOFF", 0.01)
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_written_in_the_order_of_prompts(server: Server, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    out = tmp_path / "a.jsonl"
    endpoint = server.endpoint(concurrency=1)
    assert generate_to_file(out, endpoint, PROMPTS, GenerationOptions(7), progress=lambda *at: done.append(at))
    assert lines(out) == [{"prompt": text, "response": text.upper()} for text in PROMPTS]
    assert done == [(count, 12) for count in range(1, 13)] and not (tmp_path / "a.jsonl.draft").exists()
    path, body, _ = server.requests[0]
    assert path == "/v1/chat/completions"
    messages = [{"role": "user", "content": "question 0"}]
    assert body == {"model": "tuned-model", "max_tokens": 7, "temperature": 0.0, "messages": messages}


def test_a_conversation_is_sent_with_its_tools(server: Server, tmp_path: Path) -> None:
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    tool = {"type": "function", "function": {"name": "look"}}
    row = Example(messages, tools=(tool,), template_kwargs=(("enable_thinking", False),))
    generate_to_file(tmp_path / "a.jsonl", server.endpoint(), [row], GenerationOptions(7))
    body = server.requests[0][1]
    assert body["messages"] == list(messages[:-1]) and body["tools"] == [tool]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert lines(tmp_path / "a.jsonl")[0]["messages"][-1] == {"role": "assistant", "content": "TWO"}


def test_samples_have_seeds_of_their_own(server: Server, tmp_path: Path) -> None:
    options = GenerationOptions(7, num_samples=3, seed=100)
    assert generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:2], options) == 6
    assert sorted(body["seed"] for _, body, _ in server.requests) == [100, 101, 102, 103, 104, 105]
    assert {body["temperature"] for _, body, _ in server.requests} == {1.0}


def test_an_address_of_plain_text_gets_the_question_alone(server: Server, tmp_path: Path) -> None:
    endpoint = Endpoint(f"{server.url}/completions", "base")
    generate_to_file(tmp_path / "a.jsonl", endpoint, PROMPTS[:1], GenerationOptions(7))
    path, body, _ = server.requests[0]
    assert path == "/v1/completions" and body["prompt"] == "question 0" and "messages" not in body
    assert lines(tmp_path / "a.jsonl") == [{"prompt": "question 0", "response": "QUESTION 0"}]
    talk = Example(tuple({"role": role, "content": "a"} for role in ("system", "user", "assistant")), source="f:3")
    with pytest.raises(LabError, match="f:3 is a conversation, and the server reads plain text"):
        generate_to_file(tmp_path / "b.jsonl", endpoint, [talk], GenerationOptions(7))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.reply = lambda body, times: answered(body) if times == 3 else (status, "busy", {"Retry-After": "0"})
    assert generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS, GenerationOptions(7)) == 12
    assert len(server.requests) == 36


def test_server_that_asks_to_wait_is_given_the_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(chat_server.time, "sleep", waits.append)
    headers = {2: {"Retry-After": "7"}, 3: {"Retry-After": "9999"}}
    server.reply = lambda body, times: answered(body) if times == 4 else (429, "", headers.get(times, {}))
    generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))
    assert waits == [0.01, 7.0, chat_server.MAX_WAIT]


def test_requests_run_in_parallel_up_to_the_limit(server: Server, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=30)

    def reply(body: dict[str, Any], _: int) -> Reply:
        together.wait()  # passes only if three requests are open
        return answered(body)

    server.reply = reply
    generate_to_file(tmp_path / "a.jsonl", server.endpoint(concurrency=3), PROMPTS, GenerationOptions(7))
    assert server.most_parallel == 3


def test_dead_server_is_reported_and_the_draft_goes_on(server: Server, tmp_path: Path) -> None:
    fails = {"question 5"}
    server.reply = lambda body, _: (
        (503, "no GPU left", {}) if body["messages"][0]["content"] in fails else answered(body)
    )
    out = tmp_path / "a.jsonl"
    with pytest.raises(LabError) as error:
        generate_to_file(out, server.endpoint(concurrency=1), PROMPTS, GenerationOptions(7))
    assert f"{server.url} cannot be reached, tried 4 times" in str(error.value) and "503: no GPU left" in str(
        error.value
    )
    assert not out.exists()
    fails.clear()
    earlier = len(server.requests)
    assert generate_to_file(out, server.endpoint(), PROMPTS, GenerationOptions(7)) == 12
    assert len(server.requests) - earlier == 7 and len(lines(out)) == 12


def test_unused_port_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server, "BACKOFF", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(LabError, match="cannot be reached, tried 4 times"):
        generate_to_file(tmp_path / "a.jsonl", Endpoint(url, "m"), PROMPTS, GenerationOptions(7))


def test_silent_server_times_out(server: Server, tmp_path: Path) -> None:
    over = threading.Event()

    def reply(body: dict[str, Any], _: int) -> Reply:
        over.wait(60)
        return answered(body)

    server.reply = reply
    with pytest.raises(LabError, match="does not reply, tried 4 times"):
        generate_to_file(tmp_path / "a.jsonl", server.endpoint(limit=0.2), PROMPTS[:1], GenerationOptions(7))
    over.set()


@pytest.mark.parametrize("status", [400, 401, 404])
def test_rejected_request_is_not_repeated_and_the_key_stays_secret(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv(chat_server.KEY, "sk-very-secret")
    server.reply = lambda *_: (status, '{"error": "no model sk-very-secret here"}', {})
    with pytest.raises(LabError) as error:
        generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))
    assert f"{status}: " in str(error.value) and "sk-very-secret" not in str(error.value)
    assert len(server.requests) == 1
    assert server.requests[0][2]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_requests_to_this_machine_use_no_proxy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url)  # a request through it has the whole address as its path
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv(chat_server.KEY, "sk-very-secret")
    for number, host in enumerate(("localhost", "127.0.0.1")):
        endpoint = Endpoint(server.url.replace("127.0.0.1", host), "m")
        generate_to_file(tmp_path / f"{number}.jsonl", endpoint, PROMPTS[:1], GenerationOptions(7))
    assert [path for path, _, _ in server.requests] == ["/v1/chat/completions"] * 2


@pytest.mark.parametrize("key", ["sk-very-secret\n", "  sk-very-secret\r\n"])
def test_blanks_around_the_key_are_not_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(chat_server.KEY, key)
    generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))
    assert server.requests[0][2]["Authorization"] == "Bearer sk-very-secret"


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very\x1bsecret", "sk-very-secrét"])
def test_key_that_cannot_be_sent_is_refused_and_stays_secret(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(chat_server.KEY, key)
    with pytest.raises(OptionError, match=f"the key in {chat_server.KEY} has characters that no key has") as error:
        generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))
    assert "very" not in str(error.value) and not server.requests


@pytest.mark.parametrize("status", [200, 400, 503])
def test_key_in_a_reply_stays_secret(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv(chat_server.KEY, "sk-very-secret")
    server.reply = lambda *_: (status, f"{'x' * 190} sk-very-secret", {})  # the message is cut within the key
    with pytest.raises(LabError) as error:
        generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))
    assert "xxx" in str(error.value) and "sk-v" not in str(error.value)
    server.reply = lambda *_: (status, "sk-very-secret", {})
    with pytest.raises(LabError, match="…") as error:
        generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))
    assert "secret" not in str(error.value)


def test_half_a_surrogate_pair_is_sent(server: Server, tmp_path: Path) -> None:
    generate_to_file(tmp_path / "a.jsonl", server.endpoint(), ["half \ud83d, wax 蜜"], GenerationOptions(7))
    assert server.requests[0][1]["messages"][0]["content"] == "half \ud83d, wax 蜜"
    assert server.requests[0][2]["Content-Type"] == "application/json"
    assert lines(tmp_path / "a.jsonl") == [{"prompt": "half \ud83d, wax 蜜", "response": "HALF \ud83d, WAX 蜜"}]


@pytest.mark.parametrize("proxy", ["socks5://me:word@127.0.0.1:1", "gopher://me:word@127.0.0.1:1"])
def test_proxy_that_cannot_be_used_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if not installed
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("all_proxy", proxy)
    endpoint = Endpoint("https://model.invalid/v1", "m")
    with pytest.raises(OptionError, match=r"proxy cannot be used\n  got: .*ALL_PROXY.*\n  do:  unset it") as error:
        generate_to_file(tmp_path / "a.jsonl", endpoint, PROMPTS[:1], GenerationOptions(7))
    assert "word" not in str(error.value)


def test_reply_in_a_wrong_encoding_is_reported(server: Server, tmp_path: Path) -> None:
    server.reply = lambda body, _: (200, "plain text", {"Content-Encoding": "gzip"})
    with pytest.raises(LabError, match=r"cannot be reached, tried 4 times\n  got: .*header"):
        generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))


@pytest.mark.parametrize("text", ["<html>", "[]", '{"choices": []}', '{"choices": [{"message": null}]}'])
def test_reply_of_another_kind_is_reported(server: Server, tmp_path: Path, text: str) -> None:
    server.reply = lambda *_: (200, text, {})
    with pytest.raises(LabError, match="did not send an answer"):
        generate_to_file(tmp_path / "a.jsonl", server.endpoint(), PROMPTS[:1], GenerationOptions(7))


@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        ("localhost:8000", {}, "address is not valid"),
        ("http://", {}, "address is not valid"),
        ("http://me:key@localhost/v1", {}, "must not contain a key"),
        ("https://host/v1?api-key=1", {}, "must not contain a key"),
        ("http://localhost/v1", {"limit": 0.0}, "no request can be sent"),
        ("http://localhost/v1", {"concurrency": 0}, "no request can be sent"),
    ],
)
def test_invalid_options_are_refused(url: str, options: dict[str, Any], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        Endpoint(url, "m", **options)


def test_draft_of_another_model_is_refused(server: Server, tmp_path: Path) -> None:
    server.reply = lambda *_: (400, "", {})
    out = tmp_path / "a.jsonl"
    with pytest.raises(LabError, match="rejected"):
        generate_to_file(out, server.endpoint(), PROMPTS, GenerationOptions(7))
    with (tmp_path / "a.jsonl.draft").open("a") as draft:
        draft.write('{"place": 0, "response": "finished"}\n')
    with pytest.raises(LabError, match="started with other settings"):
        generate_to_file(out, Endpoint(server.url, "other"), PROMPTS, GenerationOptions(7))


def test_command_line_answers_prompts_by_a_server(server: Server, tmp_path: Path, run: Any) -> None:
    prompts, out = tmp_path / "p.txt", tmp_path / "a.jsonl"
    prompts.write_text("why\n")
    code, text, _ = run("lab", "generate", "tuned-model", prompts, "--endpoint", server.url, "-o", out)
    assert code == 0 and "1 answers in" in text and lines(out) == [{"prompt": "why", "response": "WHY"}]
    code, _, text = run("lab", "generate", "m", prompts, "--endpoint", server.url, "-o", out, "--device", "cpu")
    assert code != 0 and "options of a local model do not apply to a server" in text and "--device" in text
