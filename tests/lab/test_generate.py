"""Greedy answers compared with a plain loop, sampling with the softmax, and resuming after a kill."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taughtby.data.example import Example, make_example
from taughtby.data.pretokenized import decode_rows
from taughtby.data.tokenize import prompt_ids
from taughtby.errors import DataError, LabError, OptionError
from taughtby.lab import generate as module
from taughtby.lab.generate import GenerationOptions, generate, generate_to_file
from taughtby.lab.prompts import read_prompts
from taughtby.models.model import load_model

PROMPTS = [
    "what is the capital of france",
    "why",
    "name the colour of the sky and the sea",
    "who makes honey",
    "a b c 0 1 2",
]


def test_pretokenized_prompt_is_answered_as_its_text(tuned: Any) -> None:
    """The chat template is in its tokens, and is not applied a second time."""
    ids = [tuple(prompt_ids(tuned.tokenizer, prompt)) for prompt in PROMPTS]
    rows = [Example(make_example("", "").messages, token_ids=(*one, 5, 6), loss_positions=(len(one), len(one) + 1))
            for one in ids]  # fmt: skip
    answers = generate(tuned, PROMPTS, max_new_tokens=6)
    assert generate(tuned, rows, max_new_tokens=6) == answers
    assert generate(tuned, decode_rows(tuned.tokenizer, rows), max_new_tokens=6, template="none") == answers
    assert len(set(answers)) > 1


def plain(model: Any, prompt: str, max_new: int) -> str:
    """One prompt, one token at a time, no cache, no padding, no `generate`."""
    ids = prompt_ids(model.tokenizer, prompt)
    start = len(ids)
    while len(ids) < start + max_new:
        with torch.no_grad():
            best = int((model.peft or model.lm)(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(best)
        if best == model.lm.config.eos_token_id:
            break
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch", [1, 70, 4096])
def test_greedy_answers_match_plain_decoding_loop(tuned: Any, batch: int) -> None:
    truth = [plain(tuned, prompt, 12) for prompt in PROMPTS]
    assert len(set(truth)) == len(PROMPTS)
    assert generate(tuned, PROMPTS, max_new_tokens=12, token_budget=batch) == truth


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_padding_does_not_change_answers_of_other_families(make_model: Any, family: str) -> None:
    model = load_model(str(make_model(family)), dtype="float32")
    assert generate(model, PROMPTS, max_new_tokens=8) == [plain(model, prompt, 8) for prompt in PROMPTS]


def test_pad_token_inside_prompt_is_attended(tuned: Any) -> None:
    """As where the token that closes a turn also pads."""
    truth = [plain(tuned, prompt, 8) for prompt in PROMPTS]
    before = tuned.tokenizer.pad_token
    tuned.tokenizer.pad_token = "<|end|>"
    try:
        assert tuned.tokenizer.pad_token_id in prompt_ids(tuned.tokenizer, PROMPTS[0])
        answers = generate(tuned, PROMPTS, max_new_tokens=8)
    finally:
        tuned.tokenizer.pad_token = before
    assert answers == truth


def test_generation_stops_at_eos_token(tuned: Any) -> None:
    """A token in the middle of an answer becomes the end token: what stood behind it is gone."""
    whole = generate(tuned, PROMPTS[:1], max_new_tokens=8)[0]
    ids = prompt_ids(tuned.tokenizer, PROMPTS[0])
    calls: list[int] = []
    while len(set(calls)) < 2:
        with torch.no_grad():
            calls.append(int(tuned.peft(torch.tensor([ids + calls])).logits[0, -1].argmax()))
    assert len(calls) < 8
    before = tuned.lm.generation_config.eos_token_id
    tuned.lm.generation_config.eos_token_id = calls[-1]
    try:
        cut = generate(tuned, PROMPTS[:1], max_new_tokens=8)[0]
    finally:
        tuned.lm.generation_config.eos_token_id = before
    assert cut == tuned.tokenizer.decode(calls, skip_special_tokens=True).strip()
    assert cut != whole


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_rows_leave_the_batch_when_their_answers_are_complete(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = load_model(str(make_model(family)), dtype="float32")
    whole = [plain_ids(model, prompt, 12) for prompt in PROMPTS]
    end = next(token for token in whole[0][:6] if any(token not in ids for ids in whole))  # the end of some answers
    monkeypatch.setattr(model.lm.generation_config, "eos_token_id", end)
    cut = [ids[: ids.index(end) + 1] if end in ids else ids for ids in whole]
    sizes: list[int] = []
    model.lm.get_input_embeddings().register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(module, "STEPS", 3)
    texts = [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in cut]
    assert generate(model, PROMPTS, max_new_tokens=12) == texts
    assert sizes[0] == len(PROMPTS) and 0 < sizes[-1] < len(PROMPTS)
    several = {"max_new_tokens": 12, "num_samples": 2, "seed": 1}
    parts = generate(model, PROMPTS, **several)
    monkeypatch.setattr(module, "STEPS", 12)
    assert parts == generate(model, PROMPTS, **several)


@pytest.mark.parametrize(
    "setting",
    [{"use_cache": False}, {"num_beams": 2}, {"stop_strings": ["x"]}, {"prompt_lookup_num_tokens": 2}],
    ids=str,
)
def test_settings_of_generation_that_answers_cannot_follow(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    """A model that was saved during training has `use_cache` false; an answer is greedy whatever its files say."""
    model = load_model(str(make_model("llama")), dtype="float32")
    whole = [plain_ids(model, prompt, 12) for prompt in PROMPTS]
    end = next(token for token in whole[0][:6] if any(token not in ids for ids in whole))
    monkeypatch.setattr(model.lm.generation_config, "eos_token_id", end)
    monkeypatch.setattr(module, "STEPS", 3)
    answers = generate(model, PROMPTS, max_new_tokens=12)
    for name, value in setting.items():
        monkeypatch.setattr(model.lm.generation_config, name, value)
    assert generate(model, PROMPTS, max_new_tokens=12) == answers


def plain_ids(model: Any, prompt: str, count: int) -> list[int]:
    """The token ids of an answer, one at a time, without an end."""
    ids = prompt_ids(model.tokenizer, prompt)
    start = len(ids)
    while len(ids) < start + count:
        with torch.no_grad():
            ids.append(int(model.lm(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def test_batch_that_exceeds_memory_is_halved(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, plain_batch, sizes = generate(tuned, PROMPTS, max_new_tokens=4), module._generate, list[int]()

    def small(model: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return plain_batch(model, prompts, *rest)

    monkeypatch.setattr(module, "_generate", small)
    monkeypatch.setattr(module, "halve_budget", lambda _: None)
    assert generate(tuned, PROMPTS, max_new_tokens=4) == truth
    assert sizes == [5, 2, 1, 1, 1, 1, 1]


def test_base_model_context_generates_with_base_model(tuned: Any, tiny: Any) -> None:
    with tuned.base_model():
        base = generate(tuned, PROMPTS, max_new_tokens=8)
    assert base == generate(tiny, PROMPTS, max_new_tokens=8)
    assert base != generate(tuned, PROMPTS, max_new_tokens=8)


def test_generate_reports_progress_and_accepts_no_prompts(tuned: Any) -> None:
    calls: list[tuple[int, int]] = []
    lengths = sorted(len(prompt_ids(tuned.tokenizer, prompt)) for prompt in PROMPTS)
    generate(tuned, PROMPTS, max_new_tokens=1, token_budget=2 * (lengths[1] + 1), progress=lambda *at: calls.append(at))
    assert calls[0] == (2, 5) and calls[-1] == (5, 5)
    assert generate(tuned, []) == []


def test_prompt_longer_than_window_raises(tuned: Any) -> None:
    with pytest.raises(
        LabError, match=r"exceed the model's context length\n  got: .* tokens, context length 256: why why"
    ):
        generate(tuned, ["why", "why " * 300])


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_a_prompt_that_cannot_be_asked_is_named_by_its_line(tuned: Any, tmp_path: Path, name: str) -> None:
    texts = ["why", "", "why " * 300, "oh " * 300]
    lines = texts if name == "p.txt" else [json.dumps({"prompt": text}) if text else "" for text in texts]
    (tmp_path / name).write_text("\n".join(lines))
    prompts = read_prompts(tmp_path / name)
    with pytest.raises(LabError, match=rf"{name}:3 and its answer exceed the .* \(one of 2 such prompts\)"):
        generate(tuned, prompts)
    refuse = "{% if messages[0].content | length > 99 %}{{ raise_exception('too much') }}{% endif %}"
    with pytest.raises(DataError, match=rf"{name}:3 cannot be rendered\n  got: .* raises an error for the row: too m"):
        generate(tuned, prompts, template=refuse)


def test_a_conversation_is_rendered_as_in_training(tuned: Any) -> None:
    turns = [("system", "a b c"), ("user", "why"), ("assistant", "sun"), ("user", "who makes honey"), ("assistant", "")]
    row = Example(tuple({"role": role, "content": text} for role, text in turns))
    text = "<|system|>a b c<|end|>\n<|user|>why<|end|>\n<|assistant|>sun<|end|>\n<|user|>who makes honey<|end|>\n"
    raw = text + "<|assistant|>"
    assert generate(tuned, [row], max_new_tokens=8) == generate(
        tuned, [raw], max_new_tokens=8, template="{{ messages[0].content }}"
    )
    assert generate(tuned, [row], max_new_tokens=8) != generate(tuned, ["who makes honey"], max_new_tokens=8)


# — sampling


def test_sampling_follows_softmax(tuned: Any) -> None:
    """First tokens of 3,000 answers, against the probabilities of one plain pass: a chi-square test."""
    from scipy.stats import chisquare

    heat, count = 0.7, 3000
    with torch.no_grad():
        logits = tuned.peft(torch.tensor([prompt_ids(tuned.tokenizer, "why")])).logits[0, -1]
    wanted = (logits / heat).softmax(-1).double()
    places = torch.arange(count).tolist()
    chance = module._GumbelNoise(GenerationOptions(1, count, heat), places)
    sample = Counter(chance(torch.empty(0), logits.expand(count, -1)).argmax(-1).tolist())
    usual = [token for token in range(len(wanted)) if wanted[token] * count >= 5]
    assert len(usual) > 5
    seen = [sample[token] for token in usual]
    expected = [float(wanted[token]) * count for token in usual]
    seen.append(count - sum(seen))
    expected.append(count - sum(expected))
    assert chisquare(seen, expected).pvalue > 0.001
    assert chisquare(seen, torch.tensor(expected).roll(1).tolist()).pvalue < 1e-6  # the test can fail


def test_samples_do_not_depend_on_batch(tuned: Any) -> None:
    answers = generate(tuned, PROMPTS, max_new_tokens=10, num_samples=3, seed=5)
    assert len(answers) == 15 and len(set(answers)) == 15
    for batch in (1, 150):
        assert generate(tuned, PROMPTS, max_new_tokens=10, num_samples=3, seed=5, token_budget=batch) == answers
    torch.manual_seed(99)
    assert generate(tuned, PROMPTS, max_new_tokens=10, num_samples=3, seed=5) == answers
    assert generate(tuned, PROMPTS[:2], max_new_tokens=10, num_samples=3, seed=5) == answers[:6]
    assert not set(generate(tuned, PROMPTS, max_new_tokens=10, num_samples=3, seed=6)) & set(answers)
    assert generate(tuned, PROMPTS, max_new_tokens=10, temperature=1.0, seed=5) != generate(
        tuned, PROMPTS, max_new_tokens=10
    )


def test_low_temperature_samples_equal_greedy(tuned: Any) -> None:
    greedy = generate(tuned, PROMPTS, max_new_tokens=6)
    assert generate(tuned, PROMPTS, max_new_tokens=6, temperature=1e-4) == greedy
    assert generate(tuned, PROMPTS, max_new_tokens=6, temperature=0.0) == greedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0), ("num_samples", 0), ("temperature", -1.0), ("temperature", float("nan")),
        ("temperature", 1e999),
    ],
)  # fmt: skip
def test_invalid_generation_options_raise(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match="no answer can be generated"):
        GenerationOptions(**{name: value})


def test_several_samples_that_would_all_be_the_same_are_refused() -> None:
    with pytest.raises(OptionError, match="all answers are the same"):
        GenerationOptions(num_samples=2, temperature=0.0)


# — writing a file


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_answer_file_follows_prompt_order(tuned: Any, tmp_path: Path) -> None:
    out, how = tmp_path / "a.jsonl", GenerationOptions(6, num_samples=2, seed=1)
    assert generate_to_file(out, tuned, PROMPTS, how) == 10
    answers = generate(tuned, PROMPTS, max_new_tokens=6, num_samples=2, seed=1)
    wanted = [{"prompt": PROMPTS[at // 2], "response": text, "sample": at % 2} for at, text in enumerate(answers)]
    assert lines(out) == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert generate_to_file(out, tuned, PROMPTS[:1], GenerationOptions(6)) == 1
    assert lines(out) == [{"prompt": PROMPTS[0], "response": generate(tuned, PROMPTS[:1], max_new_tokens=6)[0]}]


def in_a_child(work: Callable[[], Any]) -> int:
    """Begin the work in a fork of this process, whose number comes back."""
    if child := os.fork():
        return child
    try:
        work()
    finally:
        os._exit(0)


def test_killed_generation_resumes_without_repeating_prompts(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, draft, how = tmp_path / "a.jsonl", tmp_path / "a.jsonl.draft", GenerationOptions(6, num_samples=2, seed=3)
    plain, calls = module._generate, list[None]()

    def waits(*value: Any) -> Any:
        calls.append(None)
        if len(calls) == 5:  # until it is killed
            time.sleep(600)
        return plain(*value)

    with monkeypatch.context() as patch:
        patch.setattr(module, "generation_budget", lambda _: 1)
        patch.setattr(module, "_generate", waits)
        child = in_a_child(lambda: generate_to_file(out, tiny, PROMPTS, how))
    ends = time.monotonic() + 300
    while time.monotonic() < ends and not (draft.exists() and draft.read_bytes().count(b"\n") >= 4):
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    rest = draft.read_bytes().count(b"\n") - 1
    assert 3 <= rest <= 4 and not out.exists()
    with draft.open("ab") as file:
        file.write(b'{"place": 9, "resp')  # as a kill in the middle of a line leaves it

    asked: list[int] = []

    def counted(model: Any, prompts: Any, how: Any, places: Any) -> Any:
        asked.extend(places)
        return plain(model, prompts, how, places)

    monkeypatch.setattr(module, "_generate", counted)
    events: list[tuple[int, int]] = []
    assert generate_to_file(out, tiny, PROMPTS, how, progress=lambda *at: events.append(at)) == 10
    assert len(asked) == len(set(asked)) == 10 - rest and events == [(10, 10)]
    assert [row["response"] for row in lines(out)] == generate(tiny, PROMPTS, max_new_tokens=6, num_samples=2, seed=3)
    assert not draft.exists()


def test_draft_without_answers_is_begun_anew_with_any_settings(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="exceed the model's context length"):
        generate_to_file(tmp_path / "a", tiny, PROMPTS, GenerationOptions(10_000))
    assert generate_to_file(tmp_path / "a", tiny, PROMPTS, GenerationOptions(2)) == 5


def test_token_0_may_end_an_answer(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Pythia, whose end of text it is."""
    forward, start = tuned.lm.forward, len(prompt_ids(tuned.tokenizer, PROMPTS[0]))

    def ending(*arguments: Any, **more: Any) -> Any:
        output = forward(*arguments, **more)
        if more["attention_mask"].shape[1] == start + 3:  # once, so that anything behind it would be seen
            output.logits[..., 0] = 1e4
        return output

    (begun,) = generate(tuned, PROMPTS[:1], max_new_tokens=3)
    end = tuned.tokenizer.decode([0], skip_special_tokens=True)
    monkeypatch.setattr(tuned.lm, "forward", ending)
    monkeypatch.setattr(tuned.lm.generation_config, "eos_token_id", 0)
    assert generate(tuned, PROMPTS[:1], max_new_tokens=40) == [(begun + end).strip()]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": GenerationOptions(7)}, "max_new_tokens: the draft has 6, but 7 was given"),
        ({"options": GenerationOptions(6, seed=1)}, "seed: the draft has 0, but 1 was given"),
        ({"prompts": PROMPTS[1:]}, "prompts: the draft has"),
        ({"template": "none"}, "template: the draft has None, but none was given"),
        ({"model": "tuned"}, "adapter: the draft has None, but"),
    ],
)
def test_draft_with_other_settings_is_rejected(
    tiny: Any, tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, named: str
) -> None:
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    argument = {"model": tiny, "prompts": PROMPTS, "options": GenerationOptions(6)}
    with monkeypatch.context() as patch:
        patch.setattr(module, "_generate", stopped)
        with pytest.raises(KeyboardInterrupt):
            generate_to_file(tmp_path / "a", **argument)
    with (tmp_path / "a.draft").open("a") as draft:
        draft.write('{"place": 0, "response": "finished"}\n')
    other = {key: tuned if value == "tuned" else value for key, value in change.items()}
    with pytest.raises(LabError, match="started with other settings") as raised:
        generate_to_file(tmp_path / "a", **{**argument, **other})
    assert named in str(raised.value.got) and ";" not in str(raised.value.got)
    assert generate_to_file(tmp_path / "a", **argument) == 5
