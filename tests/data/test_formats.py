"""Data formats: roles, tools and their calls, parts of messages, preferences, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taughtby.data.chat_template import RenderedText, render
from taughtby.data.dataset import read_examples
from taughtby.data.example import Example
from taughtby.data.formats import FORMATS
from taughtby.errors import DataError
from writers import delimited, jsonl, turn

Said = Callable[[dict[str, Any]], Example]
Refused = Callable[[dict[str, Any]], str]


@pytest.fixture
def said(tmp_path: Path) -> Said:
    """Return the only row of a record."""

    def one(record: dict[str, Any]) -> Example:
        (row,) = read_examples(jsonl(tmp_path / "a.jsonl", record))
        return row

    return one


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Return the error message of a record that cannot be read, without its source."""

    def why(record: dict[str, Any]) -> str:
        path = jsonl(tmp_path / "a.jsonl", record)
        with pytest.raises(DataError) as caught:
            list(read_examples(path))
        assert str(caught.value).startswith(f"{path}:1: ")
        return str(caught.value).removeprefix(f"{path}:1: ")

    return why


ANSWER = turn("assistant", "b")


# -- roles


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("human", "user"), ("Human", "user"), ("USER", "user"), ("gpt", "assistant"), ("chatgpt", "assistant"),
        ("model", "assistant"), ("bot", "assistant"), ("system", "system"), ("Developer", "system"),
        ("tool", "tool"), ("Function", "tool"), ("observation", "tool"), ("tool_response", "tool"),
    ],
)  # fmt: skip
def test_role_names_are_normalized(name: str, role: str, said: Said) -> None:
    shared = [{"from": "human", "value": "q"}, {"from": name, "value": "a"}, {"from": "gpt", "value": "b"}]
    wanted = (turn("user", "q"), turn(role, "a"), ANSWER)
    assert said({"conversations": shared}).messages == wanted
    assert said({"messages": [turn("user", "q"), turn(name, "a"), ANSWER]}).messages == wanted


@pytest.mark.parametrize("name", ["developer", "function", "ipython"])
def test_roles_known_to_templates_are_not_renamed(name: str, said: Said, tokenizer: Any) -> None:
    """A template writes the name out, or leaves the message out: the trainer had no other role to give it."""
    row = said({"messages": [turn(name, "a"), turn("user", "q"), ANSWER]})
    assert [message["role"] for message in row.messages] == [name, "user", "assistant"]
    text = render(tokenizer, row)
    assert isinstance(text, RenderedText) and text.text.startswith(f"<|{name}|>a<|end|>")
    left_out = "{% for m in messages %}{% if m.role in ('user', 'assistant') %}[{{ m.content }}]{% endif %}{% endfor %}"
    text = render(tokenizer, row, left_out)
    assert isinstance(text, RenderedText) and text.text == "[q][b]"
    shared = [{"from": name, "value": "a"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "b"}]
    assert said({"conversations": shared}).messages[0]["role"] == ("system" if name == "developer" else "tool")


def test_unknown_role_is_rejected(refused: Refused) -> None:
    assert refused({"messages": [turn("narrator", "a"), ANSWER]}) == (
        "unknown role\n  got: narrator\n  do:  rename it to system, user, assistant or tool (also accepted: bot, "
        "chatgpt, developer, function, function_call, function_response, gpt, human, ipython, model, observation, "
        "tool_call, tool_response)"
    )


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_system_prompt_column(column: str, said: Said) -> None:
    talk = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    for record in (
        {"conversations": talk}, {"instruction": "a", "output": "b"}, {"question": "a", "response": "b"},
        {"prompts": "a", "response": "b"}, {"question": "a", "chosen": "b", "rejected": "c"},
        {"messages": [turn("user", "a"), ANSWER]}, {"messages": json.dumps([turn("user", "a"), ANSWER])},
        {"prompt": [turn("user", "a")], "completion": [ANSWER]},
    ):  # fmt: skip
        assert said({column: "be kind", **record}).messages == (turn("system", "be kind"), turn("user", "a"), ANSWER)
        assert said({column: "", **record}).messages == (turn("user", "a"), ANSWER)
        for parts in ([{"text": "be "}, {"text": "kind"}], [{"type": "text", "text": "be kind"}]):  # Bedrock, Anthropic
            assert said({column: parts, **record}).messages[0] == turn("system", "be kind")


def test_conflicting_system_prompts_are_rejected(said: Said, refused: Refused) -> None:
    talk = [turn("system", "be kind"), turn("user", "a"), ANSWER]
    for record in ({"messages": talk}, {"conversations": [{"from": "system", "value": "be kind"}, *talk[1:]]}):
        assert said({"system": "be kind", **record}).messages == tuple(talk)
        assert refused({"system": "be brief", **record}) == (
            "the row has two different system prompts, one in its own column\n  got: be brief / be kind\n"
            "  do:  remove one of them"
        )
    # the same words from somebody else are no system prompt
    assert said({"system": "a", "messages": talk[1:]}).messages == (turn("system", "a"), *talk[1:])


# -- content of messages


def test_extra_message_fields_are_kept(said: Said) -> None:
    messages = [turn("user", "a") | {"name": "Ann"}, ANSWER | {"reasoning_content": "hm", "x": {"y": [1, None]}}]
    assert said({"messages": messages}).messages == tuple(messages)
    assert said({"messages": [messages[0], ANSWER | {"name": None}]}).messages[1] == ANSWER


def test_text_parts_are_joined(said: Said) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "input_text", "text": "b"}, {"text": ""}]
    assert said({"messages": [turn("user", parts), ANSWER]}).question == "a b"


@pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "file"])
def test_media_parts_are_rejected(kind: str, refused: Refused) -> None:
    parts = [{"type": "text", "text": "what is it?"}, {"type": kind, kind: {"url": "data:…"}}]
    assert refused({"messages": [turn("user", parts), ANSWER]}) == (
        f"the user message contains more than text\n  got: {kind}\n"
        "  do:  remove the row: taughtby supports text only, not images, audio or files"
    )


@pytest.mark.parametrize("content", [None, 3, ["a"], {"text": "a"}, True, [], [3], 1.5])
def test_non_text_content_is_rejected(content: Any, refused: Refused) -> None:
    got = f"{content}"
    for role, record in (
        ("user", {"prompt": content, "response": "b"}),
        ("assistant", {"prompt": "a", "response": content}),
        ("user", {"messages": [turn("user", content), ANSWER]}),
        ("system", {"messages": [turn("system", content), ANSWER]}),
        ("user", {"prompt": content, "completion": "b"}),
    ):
        assert refused(record) == (
            f"the content of the {role} message is not text\n  got: {got}\n  do:  give a string, or remove the row"
        )


@pytest.mark.parametrize("messages", [[], {}, "hello", 3, "[1", '{"a":1}', "[]"])
def test_messages_that_are_not_a_list_are_rejected(messages: Any, refused: Refused) -> None:
    got = "{'a': 1}" if messages == '{"a":1}' else messages
    form = '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}'
    for column in ("messages", "conversations"):
        assert refused({column: messages}) == f"a row needs a list of messages\n  got: {got}\n  do:  write {form}"


@pytest.mark.parametrize("message", ["hello", {"content": "a"}, {"role": 1, "content": "a"}, None, ["user", "a"]])
def test_malformed_messages_are_rejected(message: Any, refused: Refused) -> None:
    assert refused({"messages": [message, ANSWER]}) == (
        f"a message is an object with `role` and `content`\n  got: {message}\n"
        '  do:  write each message as {"role": "user", "content": "…"}'
    )


# -- tools

CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_tool_calls_and_results_are_kept(said: Said) -> None:
    messages = [
        turn("user", "a"), {"role": "assistant", "content": None, "tool_calls": [CALL]},
        turn("tool", "sunny") | {"tool_call_id": "1", "name": "weather"}, ANSWER,
    ]  # fmt: skip
    row = said({"messages": messages, "tools": [TOOL]})
    assert row.messages == (messages[0], {**messages[1], "content": ""}, *messages[2:])
    assert row.tools == (TOOL,)
    assert said({"messages": [messages[0], {"role": "assistant", "tool_calls": [CALL]}]}).response == json.dumps(CALL)


@pytest.mark.parametrize("column", ["messages", "conversations", "prompt"])
def test_tool_definitions_accept_json_strings(column: str, said: Said) -> None:
    talk = {"prompt": "a", "response": "b"} if column == "prompt" else {column: [turn("user", "a"), ANSWER]}
    for tools in ([TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]):
        assert said({**talk, "tools": tools}).tools == (TOOL,)
    for nothing in ([], None, "", "[]", " "):
        assert said({**talk, "tools": nothing}).tools == ()


@pytest.mark.parametrize("tools", [3, "x", ["x"], [3], {"a": 1}, "[1]", "[[]]", True])
def test_invalid_tool_definitions_are_rejected(tools: Any, refused: Refused) -> None:
    assert refused({"prompt": "a", "response": "b", "tools": tools}) == (
        f"the tools are not a list of definitions\n  got: {tools}\n"
        "  do:  give a list of objects, or that list as JSON; or remove the column"
    )


@pytest.mark.parametrize("calls", [3, "x", {"a": 1}, [1]])
def test_invalid_tool_calls_are_rejected(calls: Any, refused: Refused) -> None:
    message = refused({"messages": [turn("user", "a"), {"role": "assistant", "content": "", "tool_calls": calls}]})
    assert message.startswith(
        f"`tool_calls` of the assistant message is not a list of calls\n  got: {calls}\n  do:  give a list"
    )


def test_sharegpt_function_calls_are_assistant_tool_calls(said: Said) -> None:
    call = {"name": "weather", "arguments": {"city": "Paris"}}
    talk = [{"from": "human", "value": "a"}, {"from": "function_call", "value": json.dumps(call)}]
    result = {"type": "function", "function": call}
    assert said({"conversations": talk}).messages[1] == turn("assistant", "") | {"tool_calls": [result]}
    talk[1]["value"] = json.dumps([call, call])
    assert said({"conversations": talk}).messages[1]["tool_calls"] == [result, result]
    for text in ("weather(Paris)", "[]", "3", '{"a": 1}', "[1]"):  # no call that can be read: a text
        assert said({"conversations": [talk[0], {"from": "tool_call", "value": text}]}).messages[1] == turn(
            "assistant", text
        )


# -- Alpaca


def test_alpaca_input_and_history(said: Said) -> None:
    record = {"instruction": "do", "input": "this", "output": "b"}
    assert said(record).question == "do\n\nthis"
    row = said({**record, "history": [["one", "1"], ["two", "2"]], "system": "be kind"})
    assert [(m["role"], m["content"]) for m in row.messages] == [
        ("system", "be kind"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2"),
        ("user", "do\n\nthis"), ("assistant", "b"),
    ]  # fmt: skip
    for nothing in ([], None, ""):
        assert said({**record, "input": nothing, "history": nothing}).question == "do"


def test_dolly_context_is_appended_to_the_instruction(said: Said) -> None:
    record = {"instruction": "do", "context": "this", "response": "b", "category": "x"}
    assert said(record).question == "do\n\nthis"


@pytest.mark.parametrize("history", [3, [["a"]], [["a", "b", "c"]], ["a"], [["a", 3]], {"a": "b"}])
def test_malformed_history_is_rejected(history: Any, refused: Refused) -> None:
    fault = "message is not text" if history == [["a", 3]] else "the history contains something other than pairs"
    assert fault in refused({"instruction": "do", "output": "b", "history": history})


@pytest.mark.parametrize("value", [3, ["a"], {"a": 1}])
def test_non_text_input_is_rejected(value: Any, refused: Refused) -> None:
    assert refused({"instruction": "do", "input": value, "output": "b"}).startswith(
        f"the content of the user message is not text\n  got: {value}\n"
    )


# -- preferences


def test_preference_after_a_conversation(said: Said) -> None:
    before = [turn("system", "be kind"), turn("user", "one"), turn("assistant", "1"), turn("user", "a")]
    wanted = (*before, ANSWER)
    for record in (
        {"prompt": before, "chosen": [ANSWER], "rejected": [turn("assistant", "c")]},
        {"prompt": before, "chosen": "b", "rejected": "c"},
        {"chosen": [*before, ANSWER], "rejected": [*before, turn("assistant", "c")]},
        {"prompt": "one", "chosen": [*before, ANSWER], "rejected": [*before, turn("assistant", "c")]},
        {"messages": before, "chosen": ANSWER, "rejected": {"from": "gpt", "value": "c"}},
        {"messages": [*before, ANSWER], "rejected": "c"},  # as `write` writes it
    ):
        row = said(record)
        assert (row.messages, row.rejected) == (wanted, "c")


def test_rejected_conversation_without_answer_raises(refused: Refused) -> None:
    row = {"chosen": [turn("user", "a"), ANSWER], "rejected": [ANSWER, turn("user", "a")]}
    assert refused(row) == (
        "the rejected conversation does not end with an answer\n  got: user\n"
        "  do:  end it with an assistant message, or remove the row"
    )


def test_preferences_without_a_common_prefix(said: Said) -> None:
    row = said({"chosen": "yes", "rejected": "no"})
    assert (row.question, row.response, row.rejected) == ("", "yes", "no")


# -- unknown formats


def test_unknown_columns_are_reported_with_known_formats(refused: Refused) -> None:
    assert refused({"ask": "a", "reply": "b"}) == (
        "no known column layout matches\n  got: ask, reply\n  do:  map the columns, as in --columns "
        "prompt=question,response=reply, or rename them to one of: input_ids; chosen + rejected; messages; "
        "conversations; conversation; prompts + response; prompt + response; prompt + completion; "
        "instruction + output; instruction + response; question + answer; question + response; "
        "query + response; query + answer; input + output; text"
    )
    assert "got: no columns\n" in refused({})
    assert len(refused({f"column {number}": 1 for number in range(1000)})) < 900


def test_csv_messages_must_be_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    items = [turn("user", "a"), ANSWER]
    path.write_text(delimited([{"messages": items}]))
    assert next(read_examples(path)).messages == tuple(items)
    path.write_text(delimited([{"messages": str(items)}]))
    with pytest.raises(DataError, match=r"a\.csv:2: a row needs a list of messages"):
        list(read_examples(path))


def test_format_names_are_unique() -> None:
    assert len({form.name for form in FORMATS}) == len(FORMATS)
