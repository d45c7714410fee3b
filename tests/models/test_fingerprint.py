"""Fingerprints: equal for the same model however it is loaded, different for different models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import FAMILIES, SMALL, config
from taughtby.models.fingerprint import CHUNK, adapter_hash, join_hashes, model_hash, sampled_hash, weights_hash
from taughtby.models.model import Model, load_model


def load(folder: Path, adapter: Path | None = None, dtype: str = "float32") -> Model:
    return load_model(str(folder), None if adapter is None else str(adapter), dtype=dtype, device="cpu")


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_copy_has_same_fingerprint(model_folder: Path, adapter_folder: Path, tuned: Model, tmp_path: Path) -> None:
    again = load(copied(model_folder, tmp_path / "m"), copied(adapter_folder, tmp_path / "a"))
    assert again.fingerprint == tuned.fingerprint
    assert all(len(str(again.fingerprint[part])) == 16 for part in ("model", "adapter"))


def test_different_models_have_different_fingerprints(
    make_model: Callable[[str], Path], tiny: Model, tuned: Model
) -> None:
    others = {str(load(make_model(family)).fingerprint["model"]) for family in ("llama-tied", "qwen2", "gpt2")}
    assert len(others | {str(tiny.fingerprint["model"])}) == 4
    assert tiny.fingerprint == {"model": tuned.fingerprint["model"], "adapter": None, "base": None}


def test_training_step_changes_weights_hash(model_folder: Path, tiny: Model, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 40, 300, 7, 41, 12]])
    lm = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    assert weights_hash(lm) == weights_hash(tiny.lm)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    lm(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert weights_hash(lm) != weights_hash(tiny.lm)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_fingerprint_does_not_depend_on_dtype(dtype: str, model_folder: Path, tiny: Model) -> None:
    assert load(model_folder, dtype=dtype).fingerprint == tiny.fingerprint


ATTACHED: dict[str, dict[str, Any]] = {
    "two tokens trained": {"trainable_token_indices": [5, 6]},
    "the whole embedding trained": {"modules_to_save": ["embed_tokens"]},
    "matrices shared by all layers": {"peft_type": "VERA", "r": 4},
}


@pytest.mark.parametrize("what", ATTACHED)
@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_adapter_does_not_change_weights_hash(what: str, family: str, make_model: Callable[[str], Path]) -> None:
    from peft import get_peft_config, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
    lm = AutoModelForCausalLM.from_pretrained(make_model(family))
    alone = weights_hash(lm)
    peft: Any = get_peft_model(lm, get_peft_config(lora | ATTACHED[what]))
    for weight in peft.parameters():
        weight.data += 0.1 * weight.requires_grad
    assert weights_hash(peft.get_base_model(), prefix=peft.base_model.prefix) == alone


class Bare:
    """What of a model is hashed."""

    def __init__(self, **weights: torch.Tensor) -> None:
        self.weights = weights

    def named_modules(self) -> list[Any]:
        return []

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_weights_hash_depends_on_values_and_positions(dtype: torch.dtype) -> None:
    """Of a weight too large for a sample of it to find: one other number, two that change places, an order reversed."""
    whole = (torch.arange(3 * CHUNK) % 251).to(dtype)
    items = [weights_hash(Bare(w=whole))]
    for place in (0, 1, 70_001, CHUNK, 3 * CHUNK - 1):
        other = whole.clone()
        other[place] += 1
        items.append(weights_hash(Bare(w=other)))
    swapped, far = whole.clone(), whole.clone()
    swapped[[70_001, 70_002]] = whole[[70_002, 70_001]]
    far[[5, 2 * CHUNK]] = whole[[2 * CHUNK, 5]]
    items += [weights_hash(Bare(w=one)) for one in (swapped, far, whole.flip(0), whole.reshape(3, -1))]
    items += [weights_hash(Bare(v=whole)), weights_hash(Bare(w=whole[:CHUNK], v=whole[CHUNK:]))]
    assert len(set(items)) == len(items)
    assert len(set(map(len, items))) == 1


def test_weights_hash_ignores_memory_layout_but_not_signs() -> None:
    one = torch.randn(64, 33, generator=torch.Generator().manual_seed(0))
    assert weights_hash(Bare(w=one.t().contiguous().t())) == weights_hash(Bare(w=one))
    assert weights_hash(Bare(w=one.bfloat16())) == weights_hash(Bare(w=one)) == weights_hash(Bare(w=one.double()))
    other = one.clone()
    other[[3, 40], 5] = -other[[3, 40], 5]
    assert weights_hash(Bare(w=other)) != weights_hash(Bare(w=one))


def test_single_weight_edit_changes_fingerprint(model_folder: Path, tiny: Model, tmp_path: Path) -> None:
    """One number, at a place of which a sample knows nothing."""
    folder = copied(model_folder, tmp_path / "m")
    changed = load(folder)
    changed.lm.get_input_embeddings().weight.data[7, 9] += 0.5
    changed.lm.save_pretrained(folder)
    again = load(folder)
    assert sampled_hash(again.lm) == sampled_hash(tiny.lm)
    assert again.fingerprint["model"] != tiny.fingerprint["model"]


# -- settings that affect the computation


def hashed(**options: Any) -> str:
    from transformers import LlamaConfig

    return model_hash("w", LlamaConfig(**SMALL | options))


@pytest.mark.parametrize(
    "options",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 1e-5},
        {"num_attention_heads": 8, "head_dim": 4},
        {"num_key_value_heads": 4},
    ],
    ids=str,
)
def test_model_hash_depends_on_computational_settings(options: dict[str, Any]) -> None:
    assert hashed(**options) != hashed()


@pytest.mark.parametrize(
    "options",
    [
        {"rms_norm_eps": 9.999999974752427e-07},  # 1e-6 as a file with float32 numbers has it
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}},  # not 10000.0
        {"use_cache": False},
        {"max_position_embeddings": 128},
        {"dtype": "bfloat16"},
        {"name_or_path": "/elsewhere"},
        {"transformers_version": "5.0.0"},
        {"eos_token_id": 5},
        {"initializer_range": 0.5},
    ],
    ids=str,
)
def test_model_hash_ignores_other_settings(options: dict[str, Any]) -> None:
    assert hashed(**options) == hashed()


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("mistral", "sliding_window", 4),
        ("gemma2", "final_logit_softcapping", 30.0),
        ("gemma2", "attn_logit_softcapping", 10.0),
        ("gemma2", "query_pre_attn_scalar", 64),
        ("gemma3", "layer_types", ["full_attention"] * 4),
        ("granite", "logits_scaling", 8.0),
        ("granite", "embedding_multiplier", 2.0),
        ("cohere", "logit_scale", 0.5),
        ("gpt2", "activation_function", "relu"),
        ("gpt2", "n_head", 2),
        ("gpt-neox", "use_parallel_residual", False),
        ("mixtral", "num_experts_per_tok", 1),
        ("qwen3-moe", "norm_topk_prob", True),
    ],
)
def test_model_hash_depends_on_family_specific_settings(family: str, key: str, value: Any) -> None:
    other = config(family)
    setattr(other, key, value)
    assert model_hash("w", other) != model_hash("w", config(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_config_has_same_model_hash(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config(family).save_pretrained(tmp_path)
    assert model_hash("w", AutoConfig.from_pretrained(tmp_path)) == model_hash("w", config(family))


def test_edited_config_changes_fingerprint(model_folder: Path, tiny: Model, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "m")
    document = json.loads((folder / "config.json").read_text())
    document["rope_parameters"]["rope_theta"] = 5e5
    (folder / "config.json").write_text(json.dumps(document))
    assert load(folder).fingerprint["model"] != tiny.fingerprint["model"]
    assert weights_hash(load(folder).lm) == weights_hash(tiny.lm)


# -- adapters


WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
SAID = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": False, "base_model_name_or_path": "m"}


def test_adapter_hash_depends_on_weights_and_scaling() -> None:
    def of(text: dict[str, Any], **weights: torch.Tensor) -> str:
        return adapter_hash(SAID | text, sorted((WEIGHTS | weights).items()))

    same = of({})
    assert len(same) == 16
    assert of({"base_model_name_or_path": "elsewhere", "peft_version": "9", "lora_dropout": 0.1}) == same
    changed = WEIGHTS["a"].clone()
    changed[1, 2] += 1e-6
    others = [
        of({"lora_alpha": 32}), of({"use_dora": True}), of({"use_rslora": True}), of({"alpha_pattern": {"q": 2}}),
        of({}, a=changed), of({}, a=WEIGHTS["a"].reshape(3, 2)), of({}, a=WEIGHTS["a"].bfloat16()),
        of({}, c=torch.ones(2)),
        of({"alpha": 32}), of({"projection_prng_key": 1}), of({"scaling": 150.0}),  # LoHa's, VeRA's, FourierFT's
        of({"feedforward_modules": ["a", "b"]}),
    ]  # fmt: skip
    assert len({same, *others}) == 13
    assert of({"feedforward_modules": {"b", "a"}}) == others[-1]  # IA³'s, in memory a set


def test_edited_adapter_changes_fingerprint(
    model_folder: Path, adapter_folder: Path, tuned: Model, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = copied(adapter_folder, tmp_path / "a")
    weights = load_file(other / "adapter_model.safetensors")
    weights[min(weights)][0, 0] += 1e-3
    save_file(weights, other / "adapter_model.safetensors")
    assert load(model_folder, other).fingerprint["adapter"] != tuned.fingerprint["adapter"]


def test_join_hashes_depends_on_order() -> None:
    assert join_hashes(["a"]) == "a"
    assert len({join_hashes(["a", "b"]), join_hashes(["b", "a"]), join_hashes(["a", "b", "b"]), "a", "b"}) == 5
