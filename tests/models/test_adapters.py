"""Adapters of every kind: outputs equal PEFT's with the adapter on, and the base model's bit by bit with it off."""

from __future__ import annotations

import json
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL
from taughtby.capture.capture import capture
from taughtby.data.batching import collate
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import ModelError
from taughtby.models.model import Model, load_model

IDS = torch.tensor([[5, 40, 300, 7, 41, 12], [9, 8, 200, 201, 3, 77]])


def load(folder: Path | str, *adapters: Path, dtype: str = "float32") -> Model:
    return load_model(str(folder), [str(adapter) for adapter in adapters], dtype=dtype, device="cpu")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return (model.lm if isinstance(model, Model) else model)(input_ids=IDS, use_cache=False).logits


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def mistake(name: Path | str, *adapters: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(name), [str(adapter) for adapter in adapters], dtype="float32", device="cpu")
    return str(caught.value)


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, task_type="CAUSAL_LM", **({"target_modules": ["q_proj"]} | options))


def other(kind: str, **options: Any) -> Any:
    import peft

    return getattr(peft, kind)(task_type="CAUSAL_LM", **options)


def trained(base: Path, config: Any, to: Path, added: int = 0) -> tuple[Path, torch.Tensor]:
    """An adapter trained for two steps and saved as PEFT saves it, and the logits it had."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT thinks of some of these
        lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if added:
            lm.resize_token_embeddings(lm.config.vocab_size + added)
        lm = get_peft_model(lm, config)
        optimizer = torch.optim.AdamW([weight for weight in lm.parameters() if weight.requires_grad], lr=5e-2)
        for _ in range(2):
            lm(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        lm.save_pretrained(to)
    return to, logits(lm.eval())


KINDS: dict[str, tuple[str, Callable[[], Any], int]] = {
    "lora": ("llama", lora, 0),
    "dora": ("llama", lambda: lora(use_dora=True), 0),
    "rslora": ("llama", lambda: lora(use_rslora=True), 0),
    "all-linear": ("llama", lambda: lora(target_modules="all-linear"), 0),
    "some-layers": ("llama", lambda: lora(layers_to_transform=[1]), 0),
    "embedding": ("llama", lambda: lora(target_modules=["embed_tokens", "lm_head"]), 0),
    "modules_to_save": ("llama", lambda: lora(modules_to_save=["embed_tokens", "lm_head"]), 0),
    "norms_to_save": ("llama", lambda: lora(modules_to_save=["input_layernorm"]), 0),
    "trainable_token_indices": ("llama", lambda: lora(trainable_token_indices=[5, 40]), 0),
    "tied-embedding": ("llama-tied", lambda: lora(target_modules=["embed_tokens"]), 0),
    "tied-head": ("llama-tied", lambda: lora(target_modules=["lm_head"]), 0),
    "tied-modules_to_save": ("llama-tied", lambda: lora(modules_to_save=["lm_head"]), 0),
    "tied-trainable_token_indices": ("llama-tied", lambda: lora(trainable_token_indices=[5, 40]), 0),
    "added-tokens": ("llama", lora, 3),
    "added-tokens-modules_to_save": ("llama", lambda: lora(modules_to_save=["embed_tokens", "lm_head"]), 3),
    "added-tokens-embedding": ("llama", lambda: lora(target_modules=["embed_tokens", "lm_head"]), 3),
    "added-tokens-tied": ("llama-tied", lambda: lora(modules_to_save=["embed_tokens"]), 3),
    "removed-tokens": ("llama", lora, -4),
    "removed-tokens-modules_to_save": ("llama", lambda: lora(modules_to_save=["embed_tokens", "lm_head"]), -4),
    "experts": ("mixtral", lambda: lora(target_parameters=["mlp.experts.gate_up_proj"]), 0),
    "conv1d": ("gpt2", lambda: lora(target_modules=["c_attn"], fan_in_fan_out=True), 0),
    "ia3": ("llama", lambda: other("IA3Config", target_modules=["k_proj"], feedforward_modules=[]), 0),
    "oft": ("llama", lambda: other("OFTConfig", target_modules=["q_proj"], oft_block_size=8), 0),
    "vera": ("llama", lambda: other("VeraConfig", target_modules=["q_proj"], r=2), 0),
    "loha": ("llama", lambda: other("LoHaConfig", target_modules=["q_proj"], r=2), 0),
    # these change the base's own weights, and off they are not the base
    "pissa": ("llama", lambda: lora(init_lora_weights="pissa"), 0),
    "olora": ("llama", lambda: lora(init_lora_weights="olora"), 0),
    "bias": ("gpt2", lambda: lora(target_modules=["c_attn"], fan_in_fan_out=True, bias="all"), 0),
}  # fmt: skip
OVER = ("pissa", "olora", "bias")


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_kind_matches_peft_and_restores_base_model(
    kind: str, make_model: Callable[[str], Path], tmp_path: Path
) -> None:
    family, config, added = KINDS[kind]
    adapter, wanted = trained(make_model(family), config(), tmp_path / "a", added)
    shared = 384 + min(added, 0)
    base = logits(load(make_model(family)))[..., :shared]
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        model = load(str(adapter))
    assert not [one for one in notes if one.category is UserWarning]
    assert (wanted[..., :shared] - base).abs().max() > 0.05
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.head(model.decoder(input_ids=IDS, use_cache=False).last_hidden_state), wanted, rtol=1e-4, atol=1e-5
    )
    with model.base_model() as before:
        torch.testing.assert_close(logits(before)[..., :shared], base, rtol=1e-5, atol=1e-5)
        assert before.fingerprint["adapter"] is None and not before.has_base
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)
    assert not any(weight.requires_grad for weight in model.peft.parameters())
    assert (
        (model.separate_base is not None)
        == (kind in OVER)
        == any("overwrites base weights" in note for note in model.notes)
    )
    assert model.has_base and model.base_name is None


@pytest.mark.parametrize("kind", ["dora", "modules_to_save", "tied-head", "pissa", "added-tokens"])
def test_capture_through_adapter_matches_autograd(kind: str, make_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Gradients that autograd takes through PEFT's wrappers, one row at a time, without taughtby's capture."""
    family, config, added = KINDS[kind]
    adapter, _ = trained(make_model(family), config(), tmp_path / "a", added)
    model = load(str(adapter))
    rows = [TokenizedExample((5, 40, 300, 7, 41, 12), 3), TokenizedExample((9, 8, 200), 2)]
    result = capture(model, collate(rows, [0, 1]), [0, 2, 3])
    for number, row in enumerate(rows):
        states: dict[int, torch.Tensor] = {}
        taps = [
            model.blocks[at].register_forward_pre_hook(
                lambda _, args, kwargs, at=at, states=states: states.update(
                    {at: (args or (kwargs["hidden_states"],))[0]}
                ),
                with_kwargs=True,
            )
            for at in (0, 2, 3)
        ]
        prompt, answer = len(row.ids) - row.n_response, torch.tensor(row.response)
        with torch.enable_grad():
            embedded = model.lm.get_input_embeddings()(torch.tensor([row.ids])).detach().requires_grad_()
            logits = model.peft.base_model.model(inputs_embeds=embedded, use_cache=False).logits
            logp = logits[0, prompt - 1 : -1].log_softmax(-1)
            wanted = torch.autograd.grad(-logp[range(len(answer)), answer].mean(), [states[at] for at in (0, 2, 3)])
        for tap in taps:
            tap.remove()
        for layer, grad in zip((0, 2, 3), wanted, strict=True):
            found = result.grads[layer][number, : len(answer)]
            torch.testing.assert_close(found, grad[0, prompt - 1 : -1], rtol=1e-4, atol=1e-6)


# -- several adapters


def test_several_adapters_are_enabled_and_disabled_together(
    model_folder: Path, make_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The sum of what each adds to the weights, in any order; the one with a head of its own brings that too."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    one, _ = trained(model_folder, lora(), tmp_path / "one")
    two, _ = trained(
        model_folder, lora(target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]), tmp_path / "two"
    )
    truth = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    base, own = logits(truth), dict(truth.named_parameters())
    for adapter in (one, two):
        weights = load_file(adapter / "adapter_model.safetensors")
        for name, a in weights.items():
            place = name.removeprefix("base_model.model.").replace(".lora_A", "")
            if "lora_A" in name:
                own[place].data += 8 / 2 * weights[name.replace("lora_A", "lora_B")] @ a  # alpha is 8, r is 2
            elif "lora_B" not in name:
                own[place].data = a
    prints: list[Any] = []
    for adapters in ((one, two), (two, one)):
        model = load(model_folder, *adapters)
        assert model.adapter == [str(adapter) for adapter in adapters]
        torch.testing.assert_close(logits(model), logits(truth), rtol=1e-4, atol=1e-4)
        with model.base_model() as before:
            assert torch.equal(logits(before), base)
        torch.testing.assert_close(logits(model), logits(truth), rtol=1e-4, atol=1e-4)
        prints.append(model.fingerprint["adapter"])
    assert len({*prints, load(model_folder, one).fingerprint["adapter"], load(one, two).fingerprint["adapter"]}) == 3
    assert load(one, two).adapters == (str(one), str(two))  # the first as the model's name


def test_incompatible_adapters_raise(model_folder: Path, tmp_path: Path) -> None:
    one, _ = trained(model_folder, lora(modules_to_save=["lm_head"]), tmp_path / "one")
    two, _ = trained(model_folder, lora(modules_to_save=["lm_head"]), tmp_path / "two")
    three, _ = trained(model_folder, KINDS["ia3"][1](), tmp_path / "three")
    message = mistake(model_folder, one, two)
    assert message.startswith(
        "these adapters cannot be active together\n  got: ValueError: Only one adapter can be set"
    )
    assert message.endswith("do:  give one at a time, or merge them")
    message = mistake(model_folder, one, three)
    assert message.startswith(
        f"the adapter {three} does not fit the previous adapter\n  got: ValueError: Cannot combine"
    )
    assert message.endswith("do:  give it alone")


# -- invalid adapters, and adapters of other models


def test_missing_adapter_raises(model_folder: Path, tmp_path: Path) -> None:
    message = "do:  give the folder with adapter_config.json and adapter_model.safetensors"
    missing = tmp_path / "none"
    assert mistake(model_folder, missing) == f"{missing} is not an adapter folder\n  got: no files\n  {message}"
    missing.mkdir()
    (missing / "adapter_config.json").write_text("{}")
    files = "adapter_config.json"
    assert mistake(model_folder, missing) == f"{missing} is not an adapter folder\n  got: {files}\n  {message}"


def test_pickled_adapter_raises_with_working_conversion(
    model_folder: Path, adapter_folder: Path, tuned: Model, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    adapter = copied(adapter_folder, tmp_path / "a")
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    message = mistake(model_folder, adapter)
    assert message.startswith(
        f"{adapter} contains only pickled weights (.bin), which can run code when loaded\n"
        "  do:  convert them: python -c "
    )
    assert mistake(adapter) == message  # the adapter's folder as MODEL
    exec(shlex.split(message.partition("python -c ")[2])[0])  # what a person would run
    assert torch.equal(logits(load(model_folder, adapter)), logits(tuned))


def test_adapter_of_other_width_raises(tokenizer: Any, adapter_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    AutoModelForCausalLM.from_config(LlamaConfig(**SMALL | {"hidden_size": 64})).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = mistake(tmp_path, adapter_folder)
    base = json.loads((adapter_folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert message.startswith(f"the adapter {adapter_folder} does not fit this model\n  got: ")
    assert message.endswith(f"do:  give the base model the adapter was trained on, which is {base}")


def test_adapter_of_other_depth_raises(tokenizer: Any, adapter_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    for depth in (2, 6):
        folder = tmp_path / str(depth)
        AutoModelForCausalLM.from_config(LlamaConfig(**SMALL | {"num_hidden_layers": depth})).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft speaks of missing keys, and so do we
            message = mistake(folder, adapter_folder)
        assert f"{8} weights without a counterpart, such as base_model.model.model.layers." in message


def test_adapter_with_modules_missing_in_model_raises(
    make_model: Callable[[str], Path], adapter_folder: Path, tmp_path: Path
) -> None:
    """Where the adapter does not say what it was trained on, its modules' names have to tell."""
    adapter = copied(adapter_folder, tmp_path / "a")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    message = mistake(make_model("gpt2"), adapter)
    assert message.startswith(f"the adapter {adapter} does not fit this model\n  got: ")
    assert "Target modules" in message


def test_adapter_of_other_architecture_raises(make_model: Callable[[str], Path], adapter_folder: Path) -> None:
    message = mistake(make_model("qwen2"), adapter_folder)
    assert message.startswith(
        f"the adapter {adapter_folder} was trained on another model\n  got: a qwen2, trained on a llama"
    )


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "taughtby.json"])
def test_invalid_adapter_file_raises(file: str, model_folder: Path, adapter_folder: Path, tmp_path: Path) -> None:
    adapter = copied(adapter_folder, tmp_path / "a")
    (adapter / file).write_bytes(b"{")
    assert str(adapter) in mistake(model_folder, adapter).partition("\n")[0]


def test_adapter_of_other_model_with_same_shape_raises(
    model_folder: Path, adapter_folder: Path, tiny: Model, tmp_path: Path
) -> None:
    from taughtby.models.fingerprint import model_hash, sampled_hash

    adapter = copied(adapter_folder, tmp_path / "a")
    # by some of the weights, with the settings or without: how adapters of earlier versions name their base
    sampled = sampled_hash(tiny.lm)
    for fingerprint in (tiny.fingerprint["model"], model_hash(sampled, tiny.lm.config), sampled):
        (adapter / "taughtby.json").write_text(json.dumps({"model": fingerprint}))
        assert load(model_folder, adapter).fingerprint["model"] == tiny.fingerprint["model"]
    other = copied(model_folder, tmp_path / "m")
    changed = load(model_folder)
    changed.lm.get_input_embeddings().weight.data += 0.01
    changed.lm.save_pretrained(other)
    result = load(other).fingerprint["model"]
    assert mistake(other, adapter).startswith(
        f"the adapter {adapter} was trained on another model\n"
        f"  got: fingerprint {result}, trained on {sampled}\n"
        "  do:  give the base model the adapter was trained on, which is "
    )
    assert load(other, adapter_folder).fingerprint["model"] == result  # without taughtby.json nobody can tell


def test_prompt_tuning_adapter_raises(model_folder: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model_folder)
    get_peft_model(lm, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path)
    message = mistake(model_folder, tmp_path)
    assert message == (
        f"the adapter {tmp_path} only adds virtual tokens (prompt learning), which cannot be traced\n"
        "  got: PROMPT_TUNING\n  do:  give an adapter that changes the model's layers, such as LoRA"
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"alora_invocation_tokens": [5, 6]}, "is only active after certain tokens"),
        ({"layer_replication": [(0, 4), (1, 4)]}, "replicates layers"),
    ],
)
def test_untraceable_adapters_raise(options: dict[str, Any], what: str, model_folder: Path, tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    lm = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), lora(**options))
    lm.save_pretrained(tmp_path)
    assert mistake(model_folder, tmp_path) == (
        f"the adapter {tmp_path} {what}, which cannot be traced\n  got: {next(iter(options))}\n"
        "  do:  give an adapter that changes the model's layers, such as LoRA"
    )


# -- data types


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loads_with_its_adapter(
    dtype: str, model_folder: Path, adapter_folder: Path, tuned: Model
) -> None:
    half = load(model_folder, adapter_folder, dtype=dtype)
    assert {weight.dtype for weight in half.peft.parameters()} == {getattr(torch, dtype)}
    near = torch.nn.functional.cosine_similarity(logits(half).float(), logits(tuned), dim=-1)
    assert near.min() > 0.99
    with half.base_model() as before:
        assert logits(before).dtype == getattr(torch, dtype)
    assert half.separate_base is None and half.fingerprint["adapter"] == tuned.fingerprint["adapter"]


@pytest.mark.parametrize("kind", ["lora", "lora and a whole head", "norms"])
def test_adapter_switch_matches_peft_disable_adapter(model_folder: Path, kind: str) -> None:
    from peft import LNTuningConfig, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from taughtby.models.adapters import AdapterSwitch

    torch.manual_seed(0)
    lora = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    config = LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM")
    if kind != "norms":
        config = LoraConfig(**lora, modules_to_save=["lm_head"] if "head" in kind else None)
    lm = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), config).eval()
    for weight in lm.parameters():
        if weight.requires_grad:
            weight.data += 0.3 * torch.randn_like(weight)
    lm.requires_grad_(False)
    ids = torch.arange(1, 9)[None]
    on = lm(input_ids=ids).logits
    with lm.disable_adapter():
        off = lm(input_ids=ids).logits
    lm.requires_grad_(False)
    switch = AdapterSwitch(lm)
    with switch.off(), switch.off():
        assert torch.equal(lm(input_ids=ids).logits, off)
    assert torch.equal(lm(input_ids=ids).logits, on)
    assert not torch.equal(on, off)
    assert not any(weight.requires_grad for weight in lm.parameters())
