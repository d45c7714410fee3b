"""Adapter folders of many trainer versions: loaded if PEFT can, else reported by what they are."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import SMALL
from taughtby.errors import ModelError
from taughtby.models.model import Model, load_model

IDS = torch.tensor([[5, 40, 300, 7, 41, 12], [9, 8, 200, 201, 3, 77]])
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Weights = dict[str, torch.Tensor]


def load(base: Path, adapter: Path) -> Model:
    return load_model(str(base), str(adapter), dtype="float32", device="cpu")


def mistake(base: Path, adapter: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(base, adapter)
    return str(caught.value)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return (model.lm if isinstance(model, Model) else model)(input_ids=IDS, use_cache=False).logits


@pytest.fixture
def folder(adapter_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter_folder, tmp_path / "a"))


def change(folder: Path, by: Callable[[Weights], Weights]) -> None:
    save_file(by(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})


def rename(folder: Path, by: Callable[[str], str]) -> None:
    change(folder, lambda weights: {by(name): weight for name, weight in weights.items()})


def configure(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | settings))


# -- names


@pytest.mark.parametrize(
    "by",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}".replace("self_attn", "_fsdp_wrapped_module.self_attn"),
        lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: name.replace(".weight", ".sft.weight"),
        lambda name: name.removeprefix("base_model.model."),
        lambda name: "_orig_mod." + name.replace(".weight", ".default.weight"),
    ],
    ids=["compiled", "ddp", "fsdp", "checkpointed", "default", "another-name", "no-prefix", "two"],
)
def test_wrapped_adapter_weight_names_are_accepted(
    by: Callable[[str], str], folder: Path, model_folder: Path, tuned: Model
) -> None:
    rename(folder, by)
    model = load(model_folder, folder)
    assert torch.equal(logits(model), logits(tuned))
    assert model.fingerprint == tuned.fingerprint


def test_file_with_several_adapters_raises(folder: Path, model_folder: Path) -> None:
    both = [(".weight", f".{name}.weight") for name in ("default", "reference")]
    change(
        folder,
        lambda weights: {name.replace(*how): one.clone() for how in both for name, one in weights.items()},
    )
    assert mistake(model_folder, folder).startswith(f"{folder / WEIGHTS} contains several adapters\n")


def vision_language(kind: str) -> Any:
    import transformers as tf

    text = SMALL | {"head_dim": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    linear = {
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    tower = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32,
             "patch_size": 14, "num_position_embeddings": 16}  # fmt: skip
    tokens = {"image_token_id": 383, "video_token_id": 382, "vision_start_token_id": 380, "vision_end_token_id": 381}
    return {
        "gemma3": lambda: tf.Gemma3Config(
            text_config=text, vision_config=vision, image_token_index=383, mm_tokens_per_image=4
        ),
        "llava": lambda: tf.LlavaConfig(
            text_config=tf.LlamaConfig(**SMALL), vision_config=tf.CLIPVisionConfig(**vision), image_token_index=383
        ),
        "mistral3": lambda: tf.Mistral3Config(
            text_config=tf.MistralConfig(**text), vision_config=tf.PixtralVisionConfig(**vision), image_token_index=383
        ),
        "qwen3.5": lambda: tf.Qwen3_5Config(text_config=text | linear, vision_config=tower, **tokens),
    }[kind]()


@pytest.fixture
def picture_model(request: pytest.FixtureRequest, tokenizer: Any, tmp_path: Path) -> Path:
    import transformers as tf

    torch.manual_seed(0)
    lm = tf.AutoModelForImageTextToText.from_config(vision_language(request.param))
    for weight in lm.parameters():
        weight.data += 0.15 * torch.randn_like(weight) if weight.ndim > 1 else 0.0
    lm.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def trained(base: Path, to: Path, **options: Any) -> torch.Tensor:
    """An adapter as PEFT saves it after a training of the whole vision-language model, and the logits it had."""
    import peft
    import transformers as tf

    torch.manual_seed(1)
    lm = tf.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    lm = peft.get_peft_model(lm, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **options))
    for name, weight in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    lm.save_pretrained(to)
    return logits(lm.eval())


@pytest.mark.parametrize("picture_model", ["gemma3", "llava", "mistral3", "qwen3.5"], indirect=True)
@pytest.mark.parametrize("old", ["language_model.model.", None])
def test_vision_language_adapter_matches_peft_logits(old: str | None, picture_model: Path, tmp_path: Path) -> None:
    """Rows of text pass the tower by. Before Transformers 4.52 the text model had another name."""
    wanted = trained(picture_model, tmp_path / "a", target_modules=r".*language_model.*\.(q_proj|v_proj)")
    if old:
        rename(tmp_path / "a", lambda name: name.replace("model.language_model.", old))
    model = load(picture_model, tmp_path / "a")
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)
    with model.base_model() as before:
        assert (logits(before) - wanted).abs().max() > 0.05


@pytest.mark.parametrize("picture_model", ["qwen3.5"], indirect=True)
def test_adapter_weights_of_an_unloaded_tower_are_reported(picture_model: Path, tmp_path: Path) -> None:
    wanted = trained(picture_model, tmp_path / "a", target_modules="all-linear")
    model = load(picture_model, tmp_path / "a")
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)
    assert [note for note in model.notes if "weights of the adapter do not affect text answers" in note]


@pytest.mark.parametrize("picture_model", ["llava"], indirect=True)
def test_adapter_of_vision_tower_only_raises(picture_model: Path, tmp_path: Path) -> None:
    trained(picture_model, tmp_path / "a", target_modules=r".*vision_tower.*\.(q_proj|v_proj)")
    message = mistake(picture_model, tmp_path / "a")
    assert message.startswith(f"the adapter {tmp_path / 'a'} does not change the outputs of {picture_model}\n")


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
def test_per_expert_adapter_matches_manual_merge(
    family: str, make_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """As PEFT wrote it before Transformers 5 joined the experts: against the weights summed by hand."""
    from transformers import AutoModelForCausalLM

    base = make_model(family)
    parts = {"mixtral": ("w1", "w3", "w2"), "qwen3-moe": ("gate_proj", "up_proj", "down_proj")}[family]
    block = {"mixtral": "block_sparse_moe", "qwen3-moe": "mlp"}[family]
    truth = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    base_logits = logits(truth)
    torch.manual_seed(1)
    weights: Weights = {}
    for at, layer in enumerate(truth.model.layers):
        for expert in range(4):
            added: list[torch.Tensor] = []
            for part in parts:
                stacked = layer.mlp.experts.down_proj if part == parts[2] else layer.mlp.experts.gate_up_proj
                out, inner = stacked.shape[1] // (1 if part == parts[2] else 2), stacked.shape[2]
                a, b = torch.randn(2, inner), 0.3 * torch.randn(out, 2)
                name = f"base_model.model.model.layers.{at}.{block}.experts.{expert}.{part}"
                weights |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
                added.append(4 * b @ a)  # alpha is 8, r is 2
            layer.mlp.experts.gate_up_proj.data[expert] += torch.cat(added[:2])
            layer.mlp.experts.down_proj.data[expert] += added[2]
    (tmp_path / CONFIG).write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 8, "target_modules": list(parts),
        "base_model_name_or_path": str(base), "peft_version": "0.17.0"}))  # fmt: skip
    save_file(weights, tmp_path / WEIGHTS, {"format": "pt"})
    model = load(base, tmp_path)
    assert (logits(truth) - base_logits).abs().max() > 0.05
    torch.testing.assert_close(logits(model), logits(truth), rtol=1e-4, atol=1e-4)
    with model.base_model() as before:
        torch.testing.assert_close(logits(before), base_logits, rtol=1e-5, atol=1e-5)


def test_adapter_not_fitting_its_named_base_suggests_merging(folder: Path, model_folder: Path) -> None:
    rename(folder, lambda name: name.replace("self_attn.q_proj", "self_attn.query"))
    message = mistake(model_folder, folder)
    assert "does not fit this model" in message
    assert message.endswith(
        "do:  merge it with the PEFT and Transformers versions used for training, and give the merged model"
    )


# -- values


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("count", [1, 8])
def test_non_finite_adapter_weights_raise(value: float, count: int, folder: Path, model_folder: Path) -> None:
    def spoil(weights: Weights) -> Weights:
        for weight in list(weights.values())[:count]:
            weight.view(-1)[0] = value
        return weights

    change(folder, spoil)
    message = mistake(model_folder, folder)
    assert message.startswith(f"the adapter {folder} has weights that are not finite\n  got: {count} of ")
    assert f"in {count} weights such as base_model.model.model.layers." in message
    assert message.endswith("its training diverged: give an earlier checkpoint")


def test_untrained_adapter_raises(folder: Path, model_folder: Path) -> None:
    change(folder, lambda weights: {name: 0 * one if "lora_B" in name else one for name, one in weights.items()})
    message = mistake(model_folder, folder)
    assert message.startswith(f"the adapter {folder} changes nothing: it is untrained\n")


def test_zero_scaled_adapter_raises(folder: Path, model_folder: Path) -> None:
    configure(folder, lora_alpha=0)
    message = mistake(model_folder, folder)
    assert message.startswith(
        f"the adapter {folder} does not change the outputs of {model_folder}\n  got: equal logits in "
    )
    assert "lora_alpha" in message


def test_adapter_with_non_finite_output_raises(folder: Path, model_folder: Path) -> None:
    change(folder, lambda weights: {name: torch.full_like(one, 1e30) for name, one in weights.items()})
    assert mistake(model_folder, folder).startswith(f"the outputs of {model_folder} with {folder} are not finite\n")


@pytest.mark.parametrize("rest", ["none", "empty"])
def test_empty_zero3_adapter_weights_raise(rest: str, folder: Path, model_folder: Path) -> None:
    change(folder, lambda weights: {} if rest == "none" else {name: torch.empty(0) for name in weights})
    message = mistake(model_folder, folder)
    assert message.startswith(f"{folder / WEIGHTS} was saved by DeepSpeed ZeRO-3 without its weights\n")
    assert "stage3_gather_16bit_weights_on_model_save" in message


# -- other files


def test_mlx_gguf_and_fsdp_adapters_raise(folder: Path, model_folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapters.safetensors")
    message = mistake(model_folder, folder)
    assert message.startswith(f"{folder} is an MLX adapter, not a PEFT adapter\n")
    assert "mlx_lm.fuse --adapter-path" in message
    (folder / "adapters.safetensors").rename(tmp_path / "lora.gguf")
    assert mistake(model_folder, tmp_path / "lora.gguf").startswith(f"{tmp_path / 'lora.gguf'} is a .gguf file")
    (folder / "pytorch_model_fsdp_0").mkdir()
    assert mistake(model_folder, folder).startswith(f"{folder} is a sharded FSDP checkpoint")


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_git_lfs_pointer_raises(file: str, folder: Path, model_folder: Path) -> None:
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert mistake(model_folder, folder).startswith(f"{folder / file} is a Git LFS pointer")


def test_loftq_adapter_without_bitsandbytes_raises(
    folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(folder, init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1})
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "bitsandbytes" else real(name))
    message = mistake(model_folder, folder)
    assert "a base quantized by LoftQ" in message and "pip install 'taughtby[quantized]'" in message


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
def test_non_causal_task_adapter_raises(task: str, folder: Path, model_folder: Path) -> None:
    configure(folder, task_type=task)
    assert mistake(model_folder, folder).startswith(
        f"the adapter {folder} was not trained for causal language modeling\n  got: {task}"
    )


def test_unknown_peft_type_raises(folder: Path, model_folder: Path) -> None:
    configure(folder, peft_type="OF_TOMORROW")
    message = mistake(model_folder, folder)
    assert (
        message.startswith(f"the configuration of the adapter {folder} cannot be read\n") and "OF_TOMORROW" in message
    )
    assert "update PEFT" in message


# -- safety


def test_adapter_config_never_imports_named_modules(
    folder: Path, model_folder: Path, tuned: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trap", "megatron_trap"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    configure(folder, auto_mapping={"base_model_class": "Trap", "parent_library": "trap"}, task_type=None)
    assert torch.equal(logits(load(model_folder, folder)), logits(tuned))
    configure(folder, megatron_config={"x": 1}, megatron_core="megatron_trap")
    assert "is made for Megatron's layers" in mistake(model_folder, folder)
    configure(folder, megatron_config=None, peft_type="XLORA", adapters={"0": str(tmp_path)})
    assert "mixes other adapters" in mistake(model_folder, folder)
    assert not (tmp_path / "sprung").exists() and not {"trap", "megatron_trap"} & set(sys.modules)


@pytest.mark.parametrize(
    ("named", "told"),
    [("meta-llama/Other-1B-Instruct", True), ("", False), ("someone/{name}", False), ("{folder}", False)],
)
def test_adapter_naming_other_base_adds_note(
    model_folder: Path, adapter_folder: Path, tmp_path: Path, named: str, told: bool
) -> None:
    folder = Path(shutil.copytree(adapter_folder, tmp_path / "a"))
    (folder / "taughtby.json").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base = named.format(name=model_folder.name.upper(), folder=model_folder)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    notes = load_model(str(model_folder), str(folder), dtype="float32", device="cpu").notes
    assert [note for note in notes if f"names {base} as its base" in note] == (list(notes) if told else [])
    assert bool(notes) == told


def test_mismatched_tokenizer_beside_adapter_raises(model_folder: Path, adapter_folder: Path, tmp_path: Path) -> None:
    """A few tokens may be renamed; where most have other numbers, every row would be read as other words."""
    folder = Path(shutil.copytree(adapter_folder, tmp_path / "a"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder / name, folder / name)
    text = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = text["model"]["vocab"]
    words = sorted((token for token in vocabulary if len(token) == 1), key=vocabulary.get)
    for tokens, refused in ((words[:2], False), (words, True)):
        changed = vocabulary | dict(zip(tokens, [vocabulary[token] for token in reversed(tokens)], strict=True))
        text["model"]["vocab"] = changed
        (folder / "tokenizer.json").write_text(json.dumps(text))
        if refused:
            with pytest.raises(ModelError, match=f"the tokenizer in {folder} is not that of its base {model_folder}"):
                load_model(str(model_folder), str(folder), dtype="float32", device="cpu")
        else:
            assert load_model(str(model_folder), str(folder), dtype="float32", device="cpu").tokenizer
