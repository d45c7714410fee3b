"""Loading: blocks and head of every family, the base model, notes and errors."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import FAMILIES, SMALL
from taughtby.capture.capture import capture, prompt_states
from taughtby.data.batching import collate
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import ModelError
from taughtby.models.live_model import borrow_model, match_saved
from taughtby.models.model import Model, load_model

IDS = torch.tensor([[5, 40, 300, 7, 41, 12], [9, 8, 200, 201, 3, 77]])


def load(folder: Path, adapter: Path | None = None, dtype: str = "float32") -> Model:
    return load_model(str(folder), None if adapter is None else str(adapter), dtype=dtype, device="cpu")


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model.lm(input_ids=IDS, use_cache=False).logits


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


# -- all model families


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_head_and_sizes(family: str, make_model: Callable[[str], Path]) -> None:
    model = load(make_model(family))
    assert (model.depth, model.hidden_size, model.context_length) == (4, 32, 256)
    assert (model.dtype, model.device.type) == (torch.float32, "cpu")
    assert not any(weight.requires_grad for weight in model.lm.parameters())
    assert not model.lm.training

    order: list[int] = []
    hooks = [b.register_forward_hook(lambda *_, at=at: order.append(at)) for at, b in enumerate(model.blocks)]
    bias = getattr(model.lm.get_output_embeddings(), "bias", None)
    with torch.no_grad():
        if bias is not None:
            bias.normal_()
        last = model.decoder(input_ids=IDS, use_cache=False).last_hidden_state
        assert order == [0, 1, 2, 3]
        for hook in hooks:
            hook.remove()
        wanted = logits(model)
        torch.testing.assert_close(model.head(last), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.head(last[0, 2]), wanted[0, 2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits(model), wanted)  # the decoder is itself again
        plain = last @ model.lm.get_output_embeddings().weight.T
    scaled = not torch.allclose(plain, wanted, rtol=1e-2, atol=1e-2)
    assert scaled == (family in ("gemma2", "granite", "cohere", "phi"))  # a soft cap, two scales, a bias


def test_the_head_is_restored_after_an_error(tiny: Model) -> None:
    wanted = logits(tiny)
    with pytest.raises(RuntimeError):
        tiny.head(torch.zeros(2, 3))
    torch.testing.assert_close(logits(tiny), wanted)


# -- with an adapter


def test_base_model_context_gives_base_logits(model_folder: Path, tuned: Model, tiny: Model) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)(input_ids=IDS).logits.detach()
    with tuned.base_model() as before:
        torch.testing.assert_close(logits(before), base)
        assert (before.adapters, before.peft, before.fingerprint) == ((), None, tiny.fingerprint)
        assert tuned.has_base and not before.has_base
    assert (logits(tuned) - base).abs().max() > 0.1
    with tiny.base_model() as before:
        assert before is tiny and not tiny.has_base


def test_nested_base_model_contexts(tuned: Model, tiny: Model) -> None:
    wanted, base = logits(tuned), logits(tiny)
    with tuned.base_model() as before:
        with tuned.base_model() as again, before.base_model() as third:
            assert torch.equal(logits(again), base) and third is before
        assert torch.equal(logits(before), base)  # the inner end has not switched it on
    assert torch.equal(logits(tuned), wanted)


def test_adapted_logits_match_merged_peft_model(model_folder: Path, adapter_folder: Path, tuned: Model) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(adapter_folder)).merge_and_unload()
    torch.testing.assert_close(logits(tuned), merged(input_ids=IDS).logits.detach(), rtol=1e-4, atol=1e-4)


def test_base_model_context_exits_on_error(tuned: Model) -> None:
    wanted = logits(tuned)
    with pytest.raises(ZeroDivisionError), tuned.base_model():
        _ = 1 / 0
    torch.testing.assert_close(logits(tuned), wanted)


def test_adapter_stays_frozen_after_base_model_context(tuned: Model) -> None:
    with tuned.base_model():
        pass
    assert not any(weight.requires_grad for weight in tuned.peft.parameters())
    assert not tuned.peft.training


# -- full fine-tunes with a separate base model


def stepped(lm: Any, steps: int = 2) -> Any:
    optimizer = torch.optim.AdamW([weight for weight in lm.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(steps):
        lm(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return lm


@pytest.fixture(scope="module")
def full_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama, all its weights two steps further."""
    from transformers import AutoModelForCausalLM

    folder = copied(model_folder, tmp_path_factory.mktemp("full") / "m")
    stepped(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)).save_pretrained(folder)
    return folder


ROWS = [TokenizedExample((5, 40, 300, 7, 41, 12), 3), TokenizedExample((9, 8, 200), 2)]


def test_full_finetune_captures_with_separate_base_model(full_folder: Path, model_folder: Path, tiny: Model) -> None:
    model = load_model(str(full_folder), base=str(model_folder), dtype="float32", device="cpu")
    assert (model.base_name, model.has_base, model.notes) == (str(model_folder), True, ())
    assert model.fingerprint == load(full_folder).fingerprint | {"base": tiny.fingerprint["model"]}
    batch = collate(ROWS, [0, 1])
    with model.base_model() as before:
        result = capture(before, batch, [2])
    wanted, own = capture(tiny, batch, [2]), capture(model, batch, [2])
    torch.testing.assert_close(result.grads[2], wanted.grads[2])
    torch.testing.assert_close(result.logp, wanted.logp)
    assert (own.logp - wanted.logp).abs().max() > 0.1


def test_lesson_logprob_gain_of_full_finetune(full_folder: Path, model_folder: Path, tiny: Model) -> None:
    from taughtby.methods import get_method

    how: Any = get_method("lesson:layer=2,state_layer=2")
    model = load_model(str(full_folder), base=str(model_folder), dtype="float32", device="cpu")
    batch = collate(ROWS, [0, 1])
    news = (capture(load(full_folder), batch, [2]).logp - capture(tiny, batch, [2]).logp).clamp(min=0)
    assert news.sum() > 0.1
    torch.testing.assert_close(how.logprob_gain(model, batch), news)


def test_merged_model_with_base_matches_adapter(
    model_folder: Path, adapter_folder: Path, tuned: Model, tiny: Model, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), str(adapter_folder))
    copied(model_folder, tmp_path / "m")
    merged.merge_and_unload().save_pretrained(tmp_path / "m")
    model = load_model(str(tmp_path / "m"), base=str(model_folder), dtype="float32", device="cpu")
    assert model.peft is None
    torch.testing.assert_close(logits(model), logits(tuned), rtol=1e-4, atol=1e-4)
    with model.base_model() as before:
        assert torch.equal(logits(before), logits(tiny))


def test_added_tokens_use_mean_embedding_in_base_model(model_folder: Path, tiny: Model, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    lm.resize_token_embeddings(386)
    own = AutoTokenizer.from_pretrained(model_folder)
    own.add_tokens(["<|im_start|>", "<|im_end|>"])
    stepped(lm).save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), base=str(model_folder), dtype="float32", device="cpu")
    assert model.notes == (f"{model_folder} lacks 2 tokens; their embeddings are the mean of the existing ones",)
    with model.base_model() as before:
        torch.testing.assert_close(logits(before)[..., :384], logits(tiny))
        rows = before.lm.get_input_embeddings().weight
        torch.testing.assert_close(rows[385], rows[:384].mean(0))
        assert capture(before, collate([TokenizedExample((5, 384, 300, 385, 41), 3)], [0]), [0]).logp.isfinite().all()


def other_base(kind: str, model_folder: Path, make_model: Callable[[str], Path], tmp_path: Path) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    if kind == "qwen2":
        return make_model(kind)
    if kind == "tokenizer":
        folder = copied(model_folder, tmp_path / "b")
        document = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = document["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        (folder / "tokenizer.json").write_text(json.dumps(document))
        return folder
    sizes = SMALL | ({"hidden_size": 64} if kind == "wider" else {"num_hidden_layers": 2})
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(tmp_path / "b")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "b")
    return tmp_path / "b"


@pytest.mark.parametrize(
    ("kind", "what", "got"),
    [
        ("qwen2", "{base} is not the base of {model}", "kind qwen2, not llama"),
        ("shallower", "{base} is not the base of {model}", "depth 2, not 4"),
        ("wider", "{base} is not the base of {model}", "width 64, not 32"),
        (
            "tokenizer", "the tokenizers of {base} and {model} differ",
            "2 of 384 tokens that have a different id or none, such as 'a'",
        ),
    ],
)  # fmt: skip
def test_mismatched_base_model_raises(
    kind: str, what: str, got: str,
    full_folder: Path, model_folder: Path, make_model: Callable[[str], Path], tmp_path: Path,
) -> None:  # fmt: skip
    base = other_base(kind, model_folder, make_model, tmp_path)
    assert mistake(full_folder, base=str(base)) == (
        f"{what.format(base=base, model=full_folder)}\n  got: {got}\n"
        f"  do:  give as --base the model that {full_folder} was fine-tuned from"
    )


# -- models in training


@pytest.fixture
def live(model_folder: Path) -> Any:
    """A PEFT model in the middle of its training, dropout and all, with the norms trained beside the adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    lora = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], lora_dropout=0.5, task_type="CAUSAL_LM"
    )
    return stepped(
        get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), lora).train()
    )


def test_borrowed_model_equals_saved_model(live: Any, model_folder: Path, tiny: Model, tmp_path: Path) -> None:
    live.save_pretrained(tmp_path)
    saved = load(model_folder, tmp_path)
    batch = collate(ROWS, [0, 1])
    with borrow_model(live, tiny.tokenizer, name=str(model_folder), adapter=str(tmp_path)) as model:
        assert (model.name, model.adapter, model.has_base) == (str(model_folder), str(tmp_path), True)
        assert model.fingerprint == saved.fingerprint
        result, wanted = capture(model, batch, [0, 2, 4]), capture(saved, batch, [0, 2, 4])
        for layer in (0, 2, 4):
            torch.testing.assert_close(result.grads[layer], wanted.grads[layer])
        with model.base_model() as before:
            torch.testing.assert_close(logits(before), logits(tiny))
            assert before.fingerprint == tiny.fingerprint


@pytest.mark.parametrize("fault", [False, True])
def test_borrow_model_restores_training_state(fault: bool, live: Any, tiny: Model) -> None:
    live.base_model.model.model.norm.eval()  # somebody keeps this part out of training
    live(input_ids=IDS, labels=IDS).loss.backward()

    def state() -> Any:
        weights = {
            name: (w.requires_grad, None if w.grad is None else w.grad.clone()) for name, w in live.named_parameters()
        }
        return [module.training for module in live.modules()], weights

    was = state()
    assert {True, False} == set(was[0]) == {asks for asks, _ in was[1].values()}
    fate = pytest.raises(ZeroDivisionError) if fault else contextlib.nullcontext()
    with fate, borrow_model(live, tiny.tokenizer, name="live") as model:
        assert not any(module.training for module in live.modules())
        capture(model, collate(ROWS, [0, 1]), [1])
        with model.base_model() as before:
            capture(before, collate(ROWS, [0, 1]), [1])
        assert not any(weight.requires_grad for weight in live.parameters())
        assert 1 / (not fault)
    now = state()
    assert now[0] == was[0]
    for name, (asks, grad) in was[1].items():
        assert now[1][name][0] == asks
        assert (grad is None and now[1][name][1] is None) or torch.equal(grad, now[1][name][1])
    stepped(live, 1)


def test_borrow_full_model_with_base_model(full_folder: Path, tiny: Model) -> None:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(full_folder, dtype=torch.float32).train()
    lm.gradient_checkpointing_enable()
    lm.enable_input_require_grads()
    plain = load(full_folder)
    with borrow_model(lm, tiny.tokenizer, name=str(full_folder)) as live:
        model = match_saved(live, tiny.name)
        assert model.lm is lm
        assert model.fingerprint == plain.fingerprint | {"base": tiny.fingerprint["model"]}
        assert model.base_name == tiny.name and model.adapter is None
        result, wanted = (capture(each, collate(ROWS, [0, 1]), [0, 2]) for each in (model, plain))
        torch.testing.assert_close(result.grads[0], wanted.grads[0])
        with model.base_model() as before:
            torch.testing.assert_close(logits(before), logits(tiny))
    assert all(weight.requires_grad for weight in lm.parameters()) and lm.training


# -- models on several devices


def spread(family: str) -> dict[str, str]:
    """Everything on the CPU, but every other module offloaded to disk."""
    if family == "gpt2":
        front, blocks, back = (
            ["transformer.wte", "transformer.wpe", "transformer.drop"],
            "transformer.h",
            ["transformer.ln_f"],
        )
    else:
        front, blocks, back = ["model.embed_tokens", "model.rotary_emb"], "model.layers", ["model.norm"]
    parts = [*front, *(f"{blocks}.{at}" for at in range(4)), *back, "lm_head"]
    tied = family in ("gemma2", "gpt2")
    return {part: "disk" if at % 2 and not (tied and part == "lm_head") else "cpu" for at, part in enumerate(parts)}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi"])
def test_offloaded_model_gives_same_capture(
    family: str, make_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load(make_model(family))
    options = {
        "dtype": torch.float32,
        "device_map": spread(family if family != "phi" else "llama"),
        "offload_folder": str(tmp_path),
    }
    if family == "phi":
        options["device_map"]["model.final_layernorm"] = options["device_map"].pop("model.norm")
        options["device_map"]["model.embed_dropout"] = "cpu"
    monkeypatch.setattr("taughtby.models.loading.LoadOptions.pretrained_kwargs", options)
    model = load_model(str(make_model(family)), dtype="float32", device="map")
    assert any(weight.is_meta for weight in model.lm.parameters()) and model.device.type == "cpu"
    assert model.fingerprint == plain.fingerprint
    batch = collate([*ROWS, TokenizedExample((5, 6, 7, 8, 9, 10, 11, 12), 1)], [0, 1, 2])
    for _ in range(2):
        result, wanted = (capture(each, batch, range(5)) for each in (model, plain))
        for layer in range(5):
            torch.testing.assert_close(result.grads[layer], wanted.grads[layer])
            torch.testing.assert_close(result.states[layer], wanted.states[layer])
        torch.testing.assert_close(prompt_states(model, batch, [1, 3]), prompt_states(plain, batch, [1, 3]))


def test_accelerate_wrapped_decoder_is_restored(
    model_folder: Path, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "dtype": torch.float32,
        "device_map": {"model": "disk", "lm_head": "cpu"},
        "offload_folder": str(tmp_path),
    }
    monkeypatch.setattr("taughtby.models.loading.LoadOptions.pretrained_kwargs", options)
    model = load_model(str(model_folder), dtype="float32", device="map")
    own = vars(model.decoder)["forward"]
    result, wanted = (capture(each, collate(ROWS, [0, 1]), [1]) for each in (model, tiny))
    torch.testing.assert_close(result.grads[1], wanted.grads[1])
    assert vars(model.decoder)["forward"] is own
    assert torch.equal(logits(model), logits(tiny))


def test_device_map_on_one_device_with_an_adapter(model_folder: Path, adapter_folder: Path, tuned: Model) -> None:
    model = load_model(str(model_folder), str(adapter_folder), dtype="float32", device="map")
    if not torch.cuda.is_available():
        assert torch.equal(logits(model), logits(tuned))
    assert model.fingerprint == tuned.fingerprint


def test_adapter_on_offloaded_model_raises(
    model_folder: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"dtype": torch.float32, "device_map": spread("llama"), "offload_folder": str(tmp_path)}
    monkeypatch.setattr("taughtby.models.loading.LoadOptions.pretrained_kwargs", options)
    assert mistake(model_folder, adapter=str(adapter_folder)) == (
        "adapters cannot be attached to an offloaded model\n"
        "  got: weights offloaded to the CPU or disk\n"
        "  do:  merge the adapter, or load the model on one device or with --quantize"
    )


# -- data types


def test_auto_dtype_is_float32_or_bfloat16(model_folder: Path) -> None:
    assert load(model_folder, dtype="auto").dtype == torch.float32  # conftest hides what computes bfloat16


# -- notes


@pytest.mark.parametrize("base", ["kept", "owner/name", None])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_loading_is_silent_and_sends_no_request(
    base: str | None, offline: str, model_folder: Path, adapter_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Whatever the adapter calls its base, and whether or not there is a network: nobody is asked, nothing is said."""
    adapter = copied(adapter_folder, tmp_path / "a")
    if base != "kept":
        config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
    asked: list[str] = []
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("peft.utils.other.file_exists", lambda *args, **_: asked.append(args[0]))
    with warnings.catch_warnings(record=True) as notes, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        load(model_folder, adapter)
    shown = [str(one.message) for one in notes if not issubclass(one.category, DeprecationWarning)]
    assert (shown, asked, caplog.messages) == ([], [], [])
    assert capfd.readouterr() == ("", "")


def test_peft_warnings_are_shown(
    model_folder: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    real = peft.PeftModel.__init__

    def warn(*args: Any, **options: Any) -> None:
        warnings.warn("something is odd with this adapter", UserWarning, stacklevel=1)
        real(*args, **options)

    monkeypatch.setattr(peft.PeftModel, "__init__", warn)
    with pytest.warns(UserWarning, match="something is odd"):
        load(model_folder, adapter_folder)


# -- models that are not causal language models


def mistake(name: Path | str, dtype: str = "float32", **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(name), dtype=dtype, device="cpu", **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["BertConfig", "RobertaConfig"])
@pytest.mark.parametrize(("dtype", "spread"), [("float32", 0.01), ("float32", 0.1), ("bfloat16", 0.1)])
def test_encoder_model_raises(kind: str, dtype: str, spread: float, tokenizer: Any, tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = getattr(transformers, kind)(vocab_size=384, initializer_range=spread, **sizes)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = mistake(tmp_path, dtype=dtype)
    assert message.startswith(f"{tmp_path} is not a causal language model\n  got: {kind[:4]}")
    assert message.endswith("do:  give a decoder-only model, such as a Llama, Qwen, Gemma, Mistral or GPT")


def test_encoder_decoder_model_raises(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "T5Config" in mistake(tmp_path)
