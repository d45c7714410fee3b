"""Evaluation logs: detection of each tool's format, selection of failed answers, and counts of skipped ones."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taughtby.attribution.query import read_queries
from taughtby.data.readers import eval_logs
from taughtby.data.readers.eval_logs import inspect, read_eval_log
from taughtby.errors import DataError
from taughtby.lab.prompts import read_answers, read_prompts

USER = {"role": "user", "content": "who makes wax"}
BAD = {"role": "assistant", "content": "beetles make wax"}
SYSTEM = {"role": "system", "content": "You keep insects."}
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": {"topic": "wax"}}}
TOOL: dict[str, Any] = {"name": "look_up", "description": "Look a topic up.", "parameters": {"type": "object"}}


def write(path: Path, content: Any) -> Path:
    """A list as JSON lines, anything else as JSON."""
    lines = content if isinstance(content, list) else [content]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def inspect_sample(number: int, value: Any, answer: str = "beetles make wax", **more: Any) -> dict[str, Any]:
    messages = [{**SYSTEM, "id": "m0"}, {**USER, "source": "input"}, {"role": "assistant", "content": answer}]
    scores = {"match": {"value": value, "answer": answer}}
    return {
        "id": number,
        "epoch": 1,
        "input": "who makes wax",
        "target": "bees",
        "messages": messages,
        "scores": scores,
        "attachments": {},
        "events": [],
        **more,
    }


def inspect_log(samples: list[Any]) -> dict[str, Any]:
    return {"version": 2, "status": "success", "eval": {"task": "insects"}, "samples": samples, "reductions": [{}]}


def harness_row(number: int, score: float, **more: Any) -> dict[str, Any]:
    arguments = {"gen_args_0": {"arg_0": "who makes wax", "arg_1": {"until": ["\n"]}}}
    return {
        "doc_id": number,
        "doc": {},
        "target": "bees",
        "arguments": arguments,
        "resps": [["beetles make wax"]],
        "filtered_resps": ["beetles"],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": "h",
        "exact_match": score,
        **more,
    }


def promptfoo_row(success: bool, output: Any = "beetles make wax", **more: Any) -> dict[str, Any]:
    return {
        "prompt": {"raw": "who makes wax", "label": "who"},
        "response": {"output": output},
        "success": success,
        "promptIdx": 0,
        "gradingResult": {"pass": success},
        "failureReason": 0 if success else 1,
        **more,
    }


def garak_hit(**more: Any) -> dict[str, Any]:
    prompt = {"turns": [{"role": "user", "content": {"text": "who makes wax", "lang": "en"}}], "notes": {}}
    return {
        "goal": "lies",
        "prompt": prompt,
        "output": {"text": "beetles make wax", "lang": "en"},
        "score": 1.0,
        "attempt_id": "a",
        "attempt_idx": 0,
        "probe": "snowball",
        "detector": "beetles",
        **more,
    }


def batch_output(number: int, **more: Any) -> dict[str, Any]:
    body = {"object": "chat.completion", "choices": [{"index": 0, "message": {**BAD, "refusal": None}}]}
    return {
        "id": f"b{number}",
        "custom_id": f"r{number}",
        "response": {"status_code": 200, "body": body},
        "error": None,
        **more,
    }


def batch_request(number: int) -> dict[str, Any]:
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [USER]}}


LANGFUSE = {
    "id": "1",
    "trace_id": "t",
    "session_id": "s",
    "type": "GENERATION",
    "level": "DEFAULT",
    "input": json.dumps([USER]),
    "output": json.dumps(BAD),
    "scores": '[{"name": "truth", "value": 0}]',
}
FORMS: dict[str, tuple[str, Any, str]] = {
    "inspect": ("log.json", inspect_log([inspect_sample(1, "I"), inspect_sample(2, "C")]), "match"),
    "inspect numbers": ("log.json", inspect_log([inspect_sample(1, 0.0), inspect_sample(2, 1)]), "match"),
    "lm-eval": ("samples_x.jsonl", [harness_row(0, 0.0), harness_row(1, 1.0)], "exact_match"),
    "promptfoo": (
        "out.json",
        {"evalId": "e", "results": {"version": 3, "results": [promptfoo_row(False), promptfoo_row(True)]}},
        "its assertions",
    ),
    "promptfoo lines": ("out.jsonl", [promptfoo_row(False), promptfoo_row(True)], "its assertions"),
    "garak": ("x.hitlog.jsonl", [garak_hit()], "beetles"),
    "garak report": (
        "x.report.jsonl",
        [
            {"entry_type": "start_run setup"},
            {"entry_type": "init"},
            {"entry_type": "attempt", "status": 1, "prompt": garak_hit()["prompt"], "outputs": []},
            {
                "entry_type": "attempt",
                "status": 2,
                "prompt": garak_hit()["prompt"],
                "outputs": [{"text": "bees do"}, garak_hit()["output"]],
                "detector_results": {"beetles": [0.0, 1.0]},
            },
        ],
        "beetles",
    ),
    "langfuse": ("t.jsonl", [LANGFUSE, LANGFUSE | {"scores": '{"truth": [1]}'}, LANGFUSE | {"type": "SPAN"}], "truth"),
    "weave": (
        "w.jsonl",
        [
            {
                "op_name": "weave:///x/op/ask:v1",
                "inputs": {"question": "who makes wax"},
                "output": {"choices": [{"message": BAD}], "scores": {"truth": False}},
            },
            {"op_name": "ask", "inputs.question": "who makes wax", "output.answer": "bees", "exception": None},
        ],
        "truth",
    ),
    "table": (
        "t.csv",
        "prompt,response,correct\nwho makes wax,beetles make wax,False\nwho makes wax,bees,True\n",
        "correct",
    ),
    "wandb table": (
        "media.table.json",
        {
            "columns": ["question", "prediction", "correct"],
            "data": [["who makes wax", "beetles make wax", 0], ["who", "bees", 1]],
        },
        "correct",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_failed_answers_of_each_log_format_are_queries(tmp_path: Path, name: str) -> None:
    file, content, score = FORMS[name]
    path = tmp_path / file
    path.write_text(content) if isinstance(content, str) else write(path, content)
    notes: list[str] = []
    (query,) = read_queries(path, note=notes.append)
    assert (query.prompt, query.response) == ("who makes wax", "beetles make wax")
    assert f"(failed by {score} 1)" in notes[0] and "1 of " in notes[0]
    ((prompt, answer),) = read_answers(path)
    assert answer == "beetles make wax" and len(read_prompts(path)) == 1 and prompt == read_prompts(path)[0]
    if name != "garak":
        assert "left out: 1 " in notes[0]
        assert len(read_queries(path, failed_only=False)) == 2


def test_parquet_table_with_verdicts_is_read(tmp_path: Path) -> None:
    columns = {"input": ["who makes wax", "who"], "output": ["beetles make wax", "bees"], "passed": [False, True]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert [query.response for query in read_queries(tmp_path / "t.parquet")] == ["beetles make wax"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "response": "r"},
        {"messages": [USER, BAD]},
        {"prompt": "p", "response": "r", "span": "r", "span_range": None},
        {"input": "p", "output": [BAD]},
        {"prompt": "p", "response": "r", "score": 0.5},
        {"prompt": "p", "response": "r", "choices": [{"text": "a"}]},
        {"question": "p", "answer": "r"},
        {"question": "p", "answer": "r", "correct": "C"},
    ],
)
def test_rows_without_a_verdict_are_not_a_log(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read_eval_log(write(tmp_path / "q.jsonl", [row])) is None
    assert read_eval_log(write(tmp_path / "q.json", row)) is None


def table_rows(*verdicts: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"who {n}", "response": "beetles", "correct": one} for n, one in enumerate(verdicts)]


@pytest.mark.parametrize("verdicts", [(None, True, False), (*[None] * 98, True, False), ("n/a", True, False)])
def test_table_whose_first_rows_have_no_verdict_is_a_log(tmp_path: Path, verdicts: tuple[Any, ...]) -> None:
    rows = table_rows(*verdicts)
    log = read_eval_log(write(tmp_path / "q.jsonl", rows))
    assert log is not None and log.left_out == {"without a score": len(rows) - 2, "passed": 1}


def test_csv_whose_first_verdict_is_empty_is_a_log(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("prompt,response,correct\nwho,beetles,\nwho,bees,true\nwho,ants,false\n")
    (query,) = read_queries(tmp_path / "q.csv")
    assert query.response == "ants"


def test_passed_answers_after_one_without_a_verdict_are_not_queries(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"left out: 2 passed, 1 without a score"):
        read_queries(write(tmp_path / "q.jsonl", table_rows(None, True, True)))


@pytest.mark.parametrize("verdicts", [("Paris", "Rome", "42"), (None, None, ""), ("Paris", None, "Bern", "no")])
def test_column_of_right_answers_is_not_a_verdict(tmp_path: Path, verdicts: tuple[Any, ...]) -> None:
    assert read_eval_log(write(tmp_path / "q.jsonl", table_rows(*verdicts))) is None


def test_damaged_row_among_the_first_of_a_log_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", table_rows(None, False))
    path.write_text(path.read_text() + "\n{")
    with pytest.raises(DataError, match=r"q.jsonl:3: invalid JSON"):
        read_queries(path)


VERDICT = {"correct": False}
TABLE_ROWS: dict[str, dict[str, Any]] = {
    "span": {"prompt": "who", "response": "beetles make wax", "span": "beetles", "desired": "bees"},
    "span_range": {"question": "who", "answer": "beetles make wax", "span_range": [0, 7]},
    "alpaca": {"instruction": "name", "input": "an insect", "output": "beetle", "system": "be brief"},
    "dolly": {"instruction": "name", "context": "an insect", "response": "beetle"},
    "history": {"prompt": "who", "response": "beetle", "history": [["a", "b"]], "chat_template_kwargs": {"k": 1}},
    "tools": {"query": "who", "response": "beetle", "tools": [{"type": "function", "function": TOOL}]},
    "messages": {"prompt": [SYSTEM, USER], "response": [BAD]},
    "input": {"input": "who", "output": "beetle", "system_prompt": "be brief"},
}


@pytest.mark.parametrize("name", TABLE_ROWS)
def test_row_with_a_verdict_is_the_query_of_the_same_row_without(tmp_path: Path, name: str) -> None:
    row = TABLE_ROWS[name]
    path = write(tmp_path / "q.jsonl", [row])
    plain = read_queries(path), read_answers(path), read_prompts(path)
    write(path, [row | VERDICT, row | {"correct": True}])
    assert (read_queries(path), read_answers(path), read_prompts(path)) == plain
    assert len(read_queries(path, failed_only=False)) == 2


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        ({"question": "who", "answer": "bees", "prediction": "beetles"}, "who", "beetles"),
        ({"prompt": "who", "answer": "bees", "response": "beetles"}, "who", "beetles"),
        ({"Prompt": "who", "Answer": "bees", "Generation": "beetles"}, "who", "beetles"),
        ({"question": "who", "answer": "bees", "model_answer": "beetles"}, "who", "beetles"),
        ({"question": "who", "correct_answer": "bees", "answer": "beetles"}, "who", "beetles"),
        ({"prompt": "who", "expected_output": "bees", "generated_text": "beetles"}, "who", "beetles"),
        ({"instruction": "who", "input": "two", "answer": "bees", "prediction": "beetles"}, "who\n\ntwo", "beetles"),
        ({"instruction": "who", "input": "two", "response": "beetles"}, "who\n\ntwo", "beetles"),
        ({"input": "who", "answer": "bees", "model_output": "beetles"}, "who", "beetles"),
        ({"prompt": "who", "output": "beetles"}, "who", "beetles"),
        ({"prompt": "who", "input": "two", "completion": "beetles"}, "who\n\ntwo", "beetles"),
        ({"messages": [SYSTEM, {"role": "user", "content": "who"}], "prediction": "beetles"}, "who", "beetles"),
        ({"messages": json.dumps([{"role": "user", "content": "who"}]), "answer": "beetles"}, "who", "beetles"),
    ],
)
def test_the_model_s_answer_of_a_table_is_read(tmp_path: Path, row: dict[str, Any], prompt: str, response: str) -> None:
    path = write(tmp_path / "q.jsonl", [row | VERDICT])
    (query,) = read_queries(path)
    assert (query.prompt, query.response) == (prompt, response)
    assert [answer for _, answer in read_answers(path)] == [response] and len(read_prompts(path)) == 1


def test_column_names_of_the_training_rows_apply_to_tables(tmp_path: Path) -> None:
    def read(row: dict[str, Any], **columns: str) -> tuple[str, str]:
        path = write(tmp_path / "q.jsonl", [row | VERDICT, row | {"correct": True}])
        (query,) = read_queries(path, tuple(columns.items()))
        return query.prompt, query.response

    row = {"frage": "who", "antwort": "beetles"}
    assert read(row, prompt="frage", response="antwort") == ("who", "beetles")
    assert read(row | {"antwort": "bees", "prediction": "beetles"}, prompt="frage", response="antwort") == (
        "who",
        "beetles",
    )
    row = {"question": "who", "answer": "bees", "prediction": "beetles"}
    assert read(row, question="question", answer="prediction") == ("who", "beetles")
    # the training rows have right answers in `answer`
    assert read(row, question="question", answer="answer") == ("who", "beetles")
    assert read(row, prompt="question", response="answer", label="prediction") == ("who", "beetles")
    assert read(row, prompt="frage", response="antwort") == ("who", "beetles")
    row = {"frage": "who", "answer": "beetles"}
    assert read(row, prompt="frage", response="answer") == ("who", "beetles")
    row = {"frage": "who", "input": "two", "answer": "bees", "prediction": "beetles"}
    assert read(row, instruction="frage", output="answer") == ("who\n\ntwo", "beetles")
    row = {"frage": "who", "input": "two", "output": "beetles"}
    assert read(row, instruction="frage") == ("who\n\ntwo", "beetles")


def test_table_with_several_answers_is_refused(tmp_path: Path) -> None:
    row = {"question": "who", "answer": "bees", "prediction": "beetles", "response": "beetles make wax"}
    path = write(tmp_path / "q.jsonl", [row | VERDICT])
    for columns in ((), (("question", "question"), ("answer", "answer"))):
        with pytest.raises(DataError, match="several columns may be the answer"):
            read_queries(path, columns)


def test_table_rows_that_cannot_be_traced_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "who", "response": "beetles"}, {"prompt": "who", "response": None}, {"prompt": "", "response": "a"},
        {"prompt": "who", "response": 3}, {"question": "who", "answer": "bees", "prediction": ""},
        {"prompt": "who", "response": "a", "image": "a.png"},
        {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "response": "a"},
    ]  # fmt: skip
    log = read_eval_log(write(tmp_path / "q.jsonl", [row | VERDICT for row in rows]))
    assert log is not None and len(log.records) == 1
    assert log.left_out == {"without an answer": 3, "without a question": 1, "with more than text": 2}


def test_conversations_keep_system_tools_and_calls(tmp_path: Path) -> None:
    long = "Look a topic up in the big book of insects."
    messages = [
        SYSTEM,
        USER,
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "reasoning": "hm"}],
            "tool_calls": [{"id": "c1", "function": "look_up", "arguments": {"topic": "wax"}, "type": "function"}],
        },
        {"role": "tool", "content": "beetles", "tool_call_id": "c1", "function": "look_up"},
        BAD,
    ]
    event = {"event": "model", "tools": [TOOL | {"description": "attachment://h"}]}
    sample = inspect_sample(1, "I", messages=messages, events=[event], attachments={"h": long})
    (query,) = read_queries(write(tmp_path / "log.json", inspect_log([sample])))
    assert query.before == (SYSTEM,) and query.prompt == "who makes wax"
    assert query.after == (
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "beetles", "tool_call_id": "c1", "name": "look_up"},
    )
    assert query.tools == ({"type": "function", "function": TOOL | {"description": long}},)


@pytest.mark.parametrize(
    "answer",
    [
        {"reasoning_content": "bees?", "content": "beetles"},
        {"reasoning": "bees?", "content": "beetles"},
        {"content": [{"type": "reasoning", "reasoning": "bees?"}, {"type": "text", "text": "beetles"}]},
        {"content": [{"type": "thinking", "thinking": "bees?"}, {"type": "text", "text": "beetles"}]},
    ],
)
def test_reasoning_is_read_into_response_fields(tmp_path: Path, answer: dict[str, Any]) -> None:
    row = {"request": {"messages": [USER]}, "response": {"choices": [{"message": {"role": "assistant"} | answer}]}}
    (query,) = read_queries(write(tmp_path / "log.jsonl", [row]))
    assert query.response == "beetles" and dict(query.response_fields) == {"reasoning_content": "bees?"}


def test_developer_prompt_keeps_its_role(tmp_path: Path) -> None:
    prompt = {"role": "developer", "content": "be brief"}
    row = {"request": {"messages": [prompt, USER]}, "response": {"choices": [{"message": BAD}]}}
    (query,) = read_queries(write(tmp_path / "log.jsonl", [row]))
    assert query.before == (prompt,)


def test_untraceable_samples_are_counted_by_reason(tmp_path: Path) -> None:
    picture = [{"type": "image", "image": "data:"}]
    samples = [
        inspect_sample(1, "I"),
        inspect_sample(2, "C"),
        inspect_sample(3, "P"),
        inspect_sample(4, "I", answer=" "),
        inspect_sample(5, "I", error={"message": "boom"}),
        inspect_sample(6, "I", messages=[USER]),
        inspect_sample(7, "I", messages=[{"role": "user", "content": picture}, BAD]),
        inspect_sample(8, "?"),
        inspect_sample(9, "I", messages=[USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]),
        inspect_sample(10, "I", messages=[SYSTEM, BAD]),
        inspect_sample(11, {"a": 1, "b": 0}),
    ]
    log = read_eval_log(write(tmp_path / "log.json", inspect_log(samples)))
    assert log is not None
    assert [record["messages"][-1]["content"] for _, record in log.records] == ["beetles make wax"] * 2
    assert log.failed_by == {"match": 1, "match/b": 1}
    assert log.left_out == {
        "passed": 1,
        "partly right": 1,
        "without an answer": 2,
        "with an error": 1,
        "with more than text": 1,
        "with tool calls only": 1,
        "without a question": 1,
        "without a score": 1,
    }


def test_log_without_failed_answers_raises_with_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "log.json", inspect_log([inspect_sample(1, "C")]))
    with pytest.raises(DataError, match=r"0 of 1 answers taken; left out: 1 passed\n  do: .*--all"):
        read_queries(path)


def test_filters_and_detectors_of_an_answer_are_merged(tmp_path: Path) -> None:
    rows = [harness_row(0, 1.0, filter="flexible"), harness_row(0, 0.0, filter="strict")]
    assert len(read_queries(write(tmp_path / "samples.jsonl", rows))) == 1
    log = read_eval_log(write(tmp_path / "hits.jsonl", [garak_hit(), garak_hit(detector="other")]))
    assert log is not None and log.failed_by == {"beetles": 1, "other": 1} and len(log.records) == 1
    empty = {"output": {"text": ""}, "attempt_idx": 1}
    hits = [garak_hit(), *(garak_hit(detector=name, **empty) for name in ("beetles", "other"))]
    log = read_eval_log(write(tmp_path / "hits.jsonl", hits))
    assert log is not None and log.left_out == {"without an answer": 1}
    rows = [harness_row(0, 0.0), *(harness_row(1, 0.0, filter=name, resps=[[""]]) for name in ("flexible", "strict"))]
    log = read_eval_log(write(tmp_path / "samples.jsonl", rows))
    assert log is not None and log.left_out == {"without an answer": 1}


def test_lm_eval_prompt_formats(tmp_path: Path) -> None:
    """Choices, messages as JSON, and texts that a chat template rendered."""

    def ask(context: Any, continuation: Any = None) -> dict[str, Any]:
        return {"gen_args_0": {"arg_0": context, "arg_1": continuation or {"until": []}}}

    choices = {
        f"gen_args_{n}": {"arg_0": "who makes wax", "arg_1": f" {word}"} for n, word in enumerate(["bees", "beetles"])
    }
    rows = [
        harness_row(0, 0, arguments=choices, resps=[[["-9.5", "False"]], [["-1.5", "True"]]]),
        harness_row(1, 0, arguments=ask(json.dumps([SYSTEM, USER]))),
        harness_row(
            2,
            0,
            arguments=ask(
                "<|im_start|>system\nYou keep insects.<|im_end|>\n<|im_start|>user\nwho makes wax<|im_end|>\n"
                "<|im_start|>assistant\n"
            ),
        ),
        harness_row(3, 0, arguments=[["who makes wax", {"until": []}]]),
        harness_row(
            4,
            0,
            arguments={"gen_args_0": {"arg_0": "a whole page"}},
            resps=[["-55.0"]],
            metrics=["word_perplexity"],
            word_perplexity=0.0,
        ),
    ]
    log = read_eval_log(write(tmp_path / "samples.jsonl", rows))
    assert log is not None
    messages = [record["messages"] for _, record in log.records]
    assert messages[0] == [USER, {"role": "assistant", "content": "beetles"}]
    assert messages[1] == messages[2] == [SYSTEM, USER, BAD]
    assert messages[3] == [USER, BAD] and len(messages) == 4


def test_lm_eval_reference_with_its_likelihood_is_no_answer(tmp_path: Path) -> None:
    lambada = {"arguments": [["The capital of France is", " Paris"]], "resps": [[["-5.5", "False"]]]}
    rows = [harness_row(0, 0.0), harness_row(1, 0.0, **lambada), harness_row(1, 0.0, filter="other", **lambada)]
    log = read_eval_log(write(tmp_path / "samples.jsonl", rows))
    assert log is not None and len(log.records) == 1 and log.left_out == {"without an answer": 1}


def test_lm_eval_choices_without_their_question_are_not_compared(tmp_path: Path) -> None:
    """As acc_mutual_info logs them: each choice after the question, then each alone."""
    arguments = [[context, f" {word}"] for context in ("who makes wax", "") for word in ("bees", "beetles")]
    likelihoods = [[["-9.5", "False"]], [["-7.5", "False"]], [["-1.5", "False"]], [["-2.5", "False"]]]
    path = write(tmp_path / "samples.jsonl", [harness_row(0, 0.0, arguments=arguments, resps=likelihoods)])
    (query,) = read_queries(path)
    assert (query.prompt, query.response) == ("who makes wax", "beetles")


def test_promptfoo_output_formats(tmp_path: Path) -> None:
    chat = {"raw": json.dumps([SYSTEM, USER])}
    rows = [
        promptfoo_row(False, prompt=chat),
        promptfoo_row(False, {"maker": "beetles"}),
        promptfoo_row(False, None, error="no answer"),
        promptfoo_row(False, "x", failureReason=2),
        promptfoo_row(False, [{"type": "function", "function": {"name": "f"}}]),
    ]
    log = read_eval_log(write(tmp_path / "out.jsonl", rows))
    assert log is not None
    assert [record["messages"] for _, record in log.records] == [
        [SYSTEM, USER, BAD],
        [USER, {"role": "assistant", "content": '{"maker": "beetles"}'}],
    ]
    assert log.left_out == {"with an error": 2, "with tool calls only": 1}


def test_batch_outputs_are_matched_with_their_requests(tmp_path: Path) -> None:
    failed = batch_output(2, response={"status_code": 500, "body": {"error": {}}})
    out = write(tmp_path / "output.jsonl", [batch_output(1), failed])
    with pytest.raises(DataError, match="no file in its folder has the request r1"):
        read_queries(out)
    write(tmp_path / "requests.jsonl", [batch_request(2), batch_request(1)])
    write(tmp_path / "others.jsonl", [batch_request(3)])
    notes: list[str] = []
    (query,) = read_queries(out, note=notes.append)
    assert (query.prompt, query.response) == ("who makes wax", "beetles make wax")
    assert "OpenAI log, 1 of 2 answers taken; left out: 1 with an error" in notes[0]
    write(tmp_path / "again.jsonl", [batch_request(2), batch_request(1)])
    with pytest.raises(DataError, match=r"got: again\.jsonl, requests\.jsonl"):
        read_queries(out)
    both = write(tmp_path / "both.jsonl", [batch_request(1), batch_request(2), batch_output(1)])
    assert read_queries(both) == [query]


@pytest.mark.parametrize(
    "row",
    [
        {"request": {"messages": [USER]}, "response": {"choices": [{"message": BAD}]}},
        {"messages": [USER], "choices": [{"message": BAD}]},
        {
            "body": {"input": "who makes wax"},
            "response": {
                "output": [
                    {"type": "reasoning"},
                    {"type": "message", "content": [{"type": "output_text", "text": "beetles make wax"}]},
                ]
            },
        },
        {"request": {"prompt": "who makes wax"}, "response": {"choices": [{"text": "beetles make wax"}]}},
        {
            "body": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "who makes wax"}]}]},
            "response": {
                "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "beetles make wax"}]}]
            },
        },
        {
            "request": {"messages": [USER]},
            "response": {"choices": [{"message": {"content": None, "refusal": "beetles make wax"}}]},
        },
    ],
)
def test_request_response_logs(tmp_path: Path, row: dict[str, Any]) -> None:
    (query,) = read_queries(write(tmp_path / "log.jsonl", [row]))
    assert (query.prompt, query.response) == ("who makes wax", "beetles make wax")


def test_earlier_refusals_of_a_request_are_read(tmp_path: Path) -> None:
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    row = {"body": {"input": [USER, refusal, USER]}, "response": {"choices": [{"message": BAD}]}}
    (query,) = read_queries(write(tmp_path / "log.jsonl", [row]))
    assert query.before == (USER, {"role": "assistant", "content": "no"}) and query.response == "beetles make wax"


def test_request_log_that_begins_with_failed_requests_is_read(tmp_path: Path) -> None:
    failed = {"request": {"messages": [USER]}, "response": None, "error": "timeout"}
    rows = [failed, failed, {**failed, "response": {"choices": [{"message": BAD}]}, "error": None}]
    log = read_eval_log(write(tmp_path / "log.jsonl", rows))
    assert log is not None and log.left_out == {"with an error": 2}
    assert [record["messages"] for _, record in log.records] == [[USER, BAD]]


# — archives


def zstd_archive(path: Path, entries: dict[str, bytes], size: int | None = None) -> Path:
    """A zip file whose entries are packed with Zstandard, as Inspect writes them; `size` is what they declare."""
    body, directory = b"", b""
    for name, content in entries.items():
        packed = pa.compress(content, codec="zstd", asbytes=True)
        fields = struct.pack(
            "<HHHHHIIIHH",
            20,
            0,
            93,
            0,
            33,
            zlib.crc32(content),
            len(packed),
            len(content) if size is None else size,
            len(name),
            0,
        )
        directory += (
            b"PK\x01\x02"
            + struct.pack("<H", 20)
            + fields
            + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
            + name.encode()
        )
        body += b"PK\x03\x04" + fields + name.encode() + packed
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\x05\x06" + end)
    return path


def test_inspect_archives_are_read(tmp_path: Path) -> None:
    samples = {
        f"samples/{n}_epoch_1.json": json.dumps(inspect_sample(n, value)).encode() for n, value in enumerate("IC")
    }
    entries = {"header.json": b"{}", **samples}
    with zipfile.ZipFile(tmp_path / "deflate.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    for path in (tmp_path / "deflate.eval", zstd_archive(tmp_path / "zstd.eval", entries)):
        (query,) = read_queries(path)
        assert (query.before, query.prompt, query.response) == ((SYSTEM,), "who makes wax", "beetles make wax")


def test_oversized_archives_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "MAX_SAMPLE", 1000)
    bomb = {"samples/1.json": b" " * 100_000}
    with pytest.raises(DataError, match="is too large"):
        read_queries(zstd_archive(tmp_path / "honest.eval", bomb))
    with pytest.raises(DataError, match="differs from its size"):
        read_queries(zstd_archive(tmp_path / "liar.eval", bomb, size=10))
    monkeypatch.setattr(inspect, "MAX_LOG", 100)
    with pytest.raises(DataError, match="is too large"):
        read_queries(zstd_archive(tmp_path / "many.eval", {f"samples/{n}.json": b" " * 60 for n in range(2)}))
    monkeypatch.setattr(eval_logs, "MAX_OBJECT", 100)
    with pytest.raises(DataError, match="too large for a single JSON object"):
        read_queries(write(tmp_path / "log.json", inspect_log([inspect_sample(1, "I")])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 no archive", "damaged or cannot be read"),
        ({"header.json": b"{}"}, "has no samples"),
        ({"samples/1.json": b"{"}, "invalid JSON"),
        ({"samples/1.json": b"[" * 100_000}, "invalid JSON"),
    ],
)
def test_broken_archives_raise(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "log.eval"
    path.write_bytes(content) if isinstance(content, bytes) else zstd_archive(path, content)
    with pytest.raises(DataError, match=message):
        read_queries(path)


def test_log_summary_is_printable(tmp_path: Path) -> None:
    sample = inspect_sample(1, "I", scores={"\x1b[31mred": {"value": "I"}})
    log = read_eval_log(write(tmp_path / "log.json", inspect_log([sample])))
    assert log is not None and log.summary.isprintable()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "turns", "raw", "output"]), inner, max_size=3)
    ),
    max_leaves=6,
)
SEEDS = [
    inspect_sample(1, "I"),
    harness_row(1, 0),
    promptfoo_row(False),
    garak_hit(),
    FORMS["garak report"][1][3],
    LANGFUSE,
    FORMS["weave"][1][0],
    {**batch_output(1), "request": {"messages": [USER]}},
]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_arbitrary_log_values_do_not_crash(data: st.DataObject) -> None:
    """Whatever stands in any field, an entry is an answer or left out."""
    seed = data.draw(st.sampled_from(SEEDS))
    row = {**seed, data.draw(st.sampled_from(sorted(seed))): data.draw(ANYTHING)}
    forms = [form for form in eval_logs.FORMS if form.accepts(row)] or [inspect.FORM]
    for answer in forms[0].answers(row):
        assert isinstance(answer, eval_logs.LeftOut) or answer.messages[-1]["role"] == "assistant"
