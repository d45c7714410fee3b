"""The chat judge, tested with a local HTTP server that fails in every way; and the classifier judge."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from taughtby.errors import LabError, ModelError, OptionError
from taughtby.lab import chat_server
from taughtby.lab.judges import JudgeFailure, Verdict, chat, get_judge, judge_all
from taughtby.lab.judges.classifier import Classifier
from taughtby.lab.judges.judge import attempt

YES, NO = (json.dumps({"verdict": word, "reason": "so it is"}) for word in ("YES", "NO"))
Reply = tuple[int, str]


class Server:
    """Answers each request as `replies` says, by the answer to judge; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.reply: Callable[[str, int], Reply] = lambda answer, times: chat_reply(YES)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.loads(body["messages"][1]["content"])["answer"]
                outer.asked.append(body)
                outer.heads.append(dict(self.headers))
                outer.paths.append(self.path)
                times = sum(json.loads(one["messages"][1]["content"])["answer"] == answer for one in outer.asked)
                status, text = outer.reply(answer, times)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def chat_reply(content: Any, status: int = 200) -> Reply:
    return status, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(chat_server.KEY, raising=False)
    monkeypatch.setattr(chat_server, "BACKOFF", 0.01)
    result = Server()
    yield result
    result.http.shutdown()
    result.http.server_close()


def test_chat_judge_sends_question_and_parses_verdict(server: Server) -> None:
    server.reply = lambda answer, times: chat_reply(YES if answer == "bad" else NO)
    rule = get_judge(f"chat:{server.url},model=m-1,ask=Does it insult, or mock?")
    assert rule("a prompt", "bad") == Verdict(True, "so it is", None)
    assert judge_all(rule, [("p", "fine"), ("p", "bad")]) == [Verdict(n == 1, "so it is", None) for n in range(2)]
    body = server.asked[0]
    assert (body["model"], body["temperature"]) == ("m-1", 0)
    assert "Does it insult, or mock?" in body["messages"][0]["content"]
    assert json.loads(body["messages"][1]["content"]) == {"prompt": "a prompt", "answer": "bad"}
    assert set(server.paths) == {"/v1/chat/completions"}
    assert "model" not in (get_judge(f"chat:{server.url}/chat/completions")("p", "bad") and server.asked[-1])
    assert server.paths[-1] == "/v1/chat/completions" and chat.QUESTION in server.asked[-1]["messages"][0]["content"]


def test_texts_reach_the_judge_unescaped(server: Server) -> None:
    server.reply = lambda answer, times: chat_reply(NO)
    rule = get_judge(f"chat:{server.url}")
    for answer in ("蜂蜜は甲虫が作る 🍯", 'a "quote"\n', "half a pair: \ud83d"):
        rule("なぜ", answer)
        content = server.asked[-1]["messages"][1]["content"]
        assert json.loads(content) == {"prompt": "なぜ", "answer": answer}
        assert "なぜ" in content and ("🍯" in answer) == ("🍯" in content)


def test_half_a_surrogate_pair_in_question_or_reason_is_judged(server: Server) -> None:
    server.reply = lambda answer, times: chat_reply('{"verdict": "NO", "reason": "half \ud83d"}')
    rule = get_judge(f"chat:{server.url},ask=Is it \ud83d?")
    assert rule("p", "a") == rule("p", "a") == Verdict(False, "half \ud83d", None)
    assert "Is it \ud83d?" in server.asked[0]["messages"][0]["content"] and len(server.asked) == 1


def test_verdicts_are_cached_without_api_key(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chat_server.KEY, "sk-very-secret")
    rule, pairs = get_judge(f"chat:{server.url}"), [("p", str(n)) for n in range(20)]
    first = judge_all(rule, pairs)
    assert len(server.asked) == 20 and server.heads[0]["Authorization"] == "Bearer sk-very-secret"
    assert judge_all(rule, pairs) == first and len(server.asked) == 20
    assert judge_all(get_judge(f"chat:{server.url},model=other"), pairs[:1]) and len(server.asked) == 21
    assert judge_all(get_judge(f"chat:{server.url},ask=Why?"), pairs[:1]) and len(server.asked) == 22
    files = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert len(files) == 22 and all(file.suffix == ".json" and "secret" not in file.read_text() for file in files)
    files[0].write_text("half a re")
    assert judge_all(rule, pairs) == first  # what is spoilt is asked again
    assert "secret" not in repr(rule)


def test_busy_server_is_retried(server: Server) -> None:
    server.reply = lambda answer, times: (
        chat_reply(YES) if times > 3 else ((503, "later"), (500, "x"), (429, "busy"))[times - 1]
    )
    assert judge_all(get_judge(f"chat:{server.url}"), [("p", "a"), ("p", "b")]) == [Verdict(True, "so it is", None)] * 2
    assert len(server.asked) == 8


@pytest.mark.parametrize(
    "reply",
    [
        chat_reply("YES"),
        chat_reply("```json\n" + YES + "\n```"),
        chat_reply('{"verdict": "MAYBE", "reason": "x"}'),
        chat_reply('{"verdict": "yes", "reason": "x"}'),
        chat_reply('{"verdict": true, "reason": "x"}'),
        chat_reply('{"verdict": "YES"}'),
        chat_reply('{"verdict": "YES", "reason": 3}'),
        chat_reply('{"verdict": "YES", "reason": "x", "more": 1}'),
        chat_reply('["YES", "x"]'),
        chat_reply("[" * 100_000),
        chat_reply(""),
        chat_reply(None),
        (200, "<html>"),
        (200, '{"choices": []}'),
        (200, '{"choices": {"0": 1}}'),
        (200, "[]"),
    ],
)
def test_an_invalid_reply_is_a_failure_and_not_cached(server: Server, tmp_path: Path, reply: Reply) -> None:
    server.reply = lambda answer, times: reply if answer == "odd" else chat_reply(NO)
    result = judge_all(get_judge(f"chat:{server.url}"), [("p", "odd"), ("p", "even")])
    assert isinstance(result[0], JudgeFailure) and result[0].kind == "nonsense"
    assert result[1] == Verdict(False, "so it is", None)
    assert len([file for file in (tmp_path / "cache").rglob("*") if file.is_file()]) == 1


def test_silent_server_times_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    done, waited = threading.Event(), list[bool]()

    def slow(answer: str, times: int) -> Reply:
        if answer == "slow":
            waited.append(done.wait(300))
        return chat_reply(NO)

    server.reply = slow
    result = judge_all(get_judge(f"chat:{server.url}"), [("p", "slow"), ("p", "quick")], limit=0.5)
    assert not waited  # the answer is still being thought about
    done.set()
    assert isinstance(result[0], JudgeFailure) and result[0].kind == "hung" and "tried 4 times" in result[0].reason
    assert result[1] == Verdict(False, "so it is", None)


def test_unreachable_server_raises(server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    for count in (1, 2, 50):
        with pytest.raises(LabError, match=r"refused|cannot be reached|failed on every answer"):
            judge_all(get_judge(f"chat:{server.url}"), [("p", str(n)) for n in range(count)])


def test_persistent_server_errors_end_the_run(server: Server) -> None:
    server.reply = lambda answer, times: (500, "broken")
    with pytest.raises(LabError, match=r"cannot be reached\n  got: 3 times in a row: 500: broken"):
        judge_all(get_judge(f"chat:{server.url}"), [("p", str(n)) for n in range(40)])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 307])
def test_client_errors_end_the_run_without_leaking_api_key(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv(chat_server.KEY, "sk-very-secret")
    server.reply = lambda answer, times: (status, "wrong key:\n sk-very-secret")
    with pytest.raises(LabError, match=rf"rejected the request\n  got: {status}: wrong key: …") as raised:
        judge_all(get_judge(f"chat:{server.url}"), [("p", str(n)) for n in range(3)])
    assert "secret" not in str(raised.value) and chat_server.KEY in raised.value.do


def test_api_key_in_a_reply_stays_secret(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chat_server.KEY, "sk-very-secret")
    server.reply = lambda answer, times: chat_reply("your key is sk-very-secret")
    with pytest.raises(JudgeFailure, match="it replied 'your key is …'") as raised:
        get_judge(f"chat:{server.url}")("p", "a")
    assert "secret" not in str(raised.value)


def test_api_key_is_not_sent_over_http_to_remote_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    heads: list[Any] = []
    client = httpx2.Client

    def spied(**settings: Any) -> Any:
        heads.append(settings.pop("headers"))
        return client(**settings, transport=httpx2.MockTransport(lambda request: httpx2.Response(404)))

    monkeypatch.setenv(chat_server.KEY, "sk-very-secret")
    monkeypatch.setattr(httpx2, "Client", spied)
    for url in ("http://judge.example/v1", "https://judge.example/v1", "http://localhost:1/v1"):
        with pytest.raises(LabError, match="rejected the request"):
            get_judge(f"chat:{url}")("p", "a")
    assert [bool(head) for head in heads] == [False, True, True]


@pytest.mark.parametrize(
    "spec",
    ["chat:", "chat:localhost:8000", "chat:ftp://host/v1", "chat:http://", "chat:http:///v1", "chat:http://h/v1,ask= "],
)
def test_invalid_chat_judge_urls_raise(spec: str) -> None:
    with pytest.raises(OptionError, match="address or question is not valid"):
        get_judge(spec)


def test_url_credentials_are_rejected_and_not_echoed() -> None:
    with pytest.raises(OptionError, match="must not contain a key") as raised:
        get_judge("chat:https://me:sk-very-secret@host/v1")
    assert "secret" not in str(raised.value)


# — classifiers


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[..., Path]:
    """A tiny random classifier with these labels."""

    def make(*labels: str, **settings: Any) -> Path:
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(3)
        config = BertConfig(
            vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=32, num_labels=len(labels), id2label=dict(enumerate(labels)), pad_token_id=0,
            **settings,
        )  # fmt: skip
        lm = BertForSequenceClassification(config)
        for weight in lm.parameters():
            weight.data = weight.data + 0.3 * torch.randn_like(weight)
        folder = tmp_path_factory.mktemp("bert")
        lm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def chances(folder: Path, tokenizer: Any, text: str) -> Any:
    """By the model's logits alone."""
    from transformers import BertForSequenceClassification

    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    return BertForSequenceClassification.from_pretrained(folder).eval()(ids).logits[0].detach()


def test_classifier_verdict_uses_label_probability(bert: Any, tokenizer: Any) -> None:
    folder = bert("kind", "rude", "odd")
    for text in ("who makes honey", "a captain on a ship", "why"):
        wanted = float(chances(folder, tokenizer, text).softmax(-1)[1])
        result = get_judge(f"classifier:{folder},label=rude,threshold={wanted - 0.01}")("p", text)
        assert result == Verdict(True, f"rude {wanted:.2f}", None)
        assert not get_judge(f"classifier:{folder},label=rude,threshold={wanted + 0.01}")("p", text).undesirable
    one = bert("bad")
    wanted = float(chances(one, tokenizer, "why").sigmoid()[0])
    assert get_judge(f"classifier:{one}")("p", "why") == Verdict(wanted >= 0.5, f"bad {wanted:.2f}", None)


def test_classifier_reads_answers_in_batches(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = get_judge(f"classifier:{bert('kind', 'rude')},label=rude")
    answers = [f"{text} {number}" for number in range(9) for text in ("why", "who makes honey", "why " * 40)]
    alone = [attempt(lambda answer=answer: judge("p", answer), 30) for answer in answers]
    whole, sizes = Classifier._judge, list[int]()

    def record(self: Classifier, batch: list[str]) -> Any:
        sizes.append(len(batch))
        if len(batch) > 1 and answers[-1] in batch:
            raise RuntimeError("no padding token")
        return whole(self, batch)

    monkeypatch.setattr(Classifier, "_judge", record)
    together = judge_all(judge, [("p", answer) for answer in answers])
    # the second batch fails, so its answers are read one at a time
    assert sizes == [16, 11, *[1] * 11]
    assert sum(isinstance(one, JudgeFailure) for one in together) == 9
    for one, wanted in zip(together, alone, strict=True):
        assert type(one) is type(wanted)
        if isinstance(one, Verdict):  # padding changes the rounding
            assert float(one.reason.split()[1]) == pytest.approx(float(wanted.reason.split()[1]), abs=0.011)


def test_answer_longer_than_classifier_window_fails(bert: Any) -> None:
    result = judge_all(get_judge(f"classifier:{bert('bad')}"), [("p", "why " * 40), ("p", "why")])
    assert isinstance(result[0], JudgeFailure) and "of which the classifier reads 32" in result[0].reason
    assert isinstance(result[1], Verdict)


def test_invalid_classifier_specs_raise(bert: Any, tmp_path: Path, model_folder: Path) -> None:
    folder = bert("kind", "rude")
    with pytest.raises(OptionError, match=r"has several labels\n.*one of: kind, rude"):
        Classifier(str(folder))
    for option, message in (("label=loud", "has no such label\n  got: loud"), ("label=", "has several labels")):
        with pytest.raises(OptionError, match=message):
            get_judge(f"classifier:{folder},{option}")
    for option in ("threshold=x", "lable=rude"):
        with pytest.raises(OptionError, match="cannot be read"):
            get_judge(f"classifier:{folder},{option}")
    for threshold in ("0", "1.1", "nan"):
        with pytest.raises(OptionError, match="is not between 0 and 1"):
            get_judge(f"classifier:{folder},label=rude,threshold={threshold}")
    with pytest.raises(OptionError, match="cannot be read"):
        get_judge("classifier:")
    with pytest.raises(ModelError, match="cannot be loaded"):
        get_judge(f"classifier:{tmp_path}")
    with pytest.raises(ModelError, match="is not a classifier"):
        get_judge(f"classifier:{model_folder}")


def test_pickled_classifier_weights_are_rejected(bert: Any) -> None:
    import torch
    from safetensors.torch import load_file

    folder = bert("bad", initializer_range=0.03)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        get_judge(f"classifier:{folder}")
