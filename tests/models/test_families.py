"""Model families other than those of conftest, tiny and random: nothing depends on their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL
from taughtby.capture import decoder_inputs
from taughtby.capture.capture import capture, prompt_states
from taughtby.data.batching import collate
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import ModelError
from taughtby.models.model import load_model

MOE = {"num_experts": 4, "num_experts_per_tok": 2}
SHARED = MOE | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
GPT = {"vocab_size": 384, "hidden_size": 32}
DEEPSEEK = SMALL | {"num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1}  # fmt: skip
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
JAMBA = {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
    "expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4}  # fmt: skip
MAMBA2 = {"mamba_d_head": 16, "mamba_n_heads": 4, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8}
HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2, "num_local_experts": 0,
    "shared_intermediate_size": 32, "logits_scaling": 2.0, "residual_multiplier": 0.5}  # fmt: skip
NEMOTRON_H = {"layers_block_type": ["linear_attention", "full_attention", "linear_attention", "mlp"], "head_dim": 8,
    "mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 1, "ssm_state_size": 4, "chunk_size": 8}  # fmt: skip
OPT = GPT | {"num_hidden_layers": 4, "ffn_dim": 48, "num_attention_heads": 4, "max_position_embeddings": 256}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("ApertusConfig", SMALL),
    "arcee": ("ArceeConfig", SMALL),
    "bloom": ("BloomConfig", GPT | {"n_layer": 4, "n_head": 4}),
    "cohere2": ("Cohere2Config", SMALL | {"sliding_window": 8}),
    "deepseek-v3": ("DeepseekV3Config", DEEPSEEK),
    "ernie-4.5": ("Ernie4_5Config", SMALL),
    "exaone-4": ("Exaone4Config", SMALL),
    "falcon-h1": ("FalconH1Config", SMALL | MAMBA2 | {"mamba_d_ssm": 64, "head_dim": 8, "lm_head_multiplier": 0.5}),
    "falcon": ("FalconConfig", GPT | {"num_hidden_layers": 4, "num_attention_heads": 4}),
    "glm-4": ("Glm4Config", SMALL | {"head_dim": 8}),
    "gpt-j": ("GPTJConfig", {"vocab_size": 384, "n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4}),
    "gpt-neo": ("GPTNeoConfig", GPT | {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]}),
    "gpt-oss": ("GptOssConfig", SMALL | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite-hybrid": ("GraniteMoeHybridConfig", SMALL | MAMBA2 | HYBRID),
    "granite-moe": ("GraniteMoeConfig", SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "hunyuan": ("HunYuanDenseV1Config", SMALL | {"head_dim": 8}),
    "jamba": ("JambaConfig", SMALL | JAMBA),
    "lfm2": ("Lfm2Config", SMALL | {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3}),
    "llama-4": ("Llama4TextConfig", SMALL | {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48}),
    "mamba": ("MambaConfig", GPT | {"num_hidden_layers": 4, "state_size": 4}),
    "mamba2": (
        "Mamba2Config",
        GPT | {"num_hidden_layers": 4, "num_heads": 8, "head_dim": 8, "state_size": 4, "n_groups": 2},
    ),
    "mpt": ("MptConfig", {"vocab_size": 384, "d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 256}),
    "nemotron": ("NemotronConfig", SMALL),
    "nemotron-h": ("NemotronHConfig", SMALL | NEMOTRON_H),
    "olmo": ("OlmoConfig", SMALL),
    "olmoe": ("OlmoeConfig", SMALL | MOE),
    "opt": ("OPTConfig", OPT | {"word_embed_proj_dim": 32}),
    "opt-350m": ("OPTConfig", OPT | {"word_embed_proj_dim": 16}),  # narrower at both ends than within
    "qwen2-moe": ("Qwen2MoeConfig", SMALL | SHARED),
    "qwen3.5": ("Qwen3_5TextConfig", SMALL | LINEAR | {"head_dim": 8}),
    "qwen3-next": ("Qwen3NextConfig", SMALL | SHARED | LINEAR | {"head_dim": 8}),
    "seed-oss": ("SeedOssConfig", SMALL | {"head_dim": 8}),
    "smollm3": ("SmolLM3Config", SMALL),
    "stablelm": ("StableLmConfig", SMALL),
    "starcoder2": ("Starcoder2Config", SMALL),
}
ROWS = [TokenizedExample((5, 40, 300, 7, 41, 12), 3), TokenizedExample((9, 8, 200, 201, 3, 77, 4, 4), 2)]


def saved(kind: str, options: dict[str, Any], tokenizer: Any, to: Path) -> str:
    import transformers

    torch.manual_seed(0)
    lm = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**options))
    for weight in lm.parameters():
        if weight.ndim > 1:
            weight.data += 0.15 * torch.randn_like(weight)
    lm.save_pretrained(to)
    tokenizer.save_pretrained(to)
    return str(to)


@pytest.mark.parametrize("family", OTHERS)
def test_capture_matches_full_model_autograd(family: str, tokenizer: Any, tmp_path: Path) -> None:
    """Against the model's whole forward and autograd through all of it, one row at a time."""
    model = load_model(saved(*OTHERS[family], tokenizer, tmp_path), dtype="float32", device="cpu")
    assert model.depth == 4
    batch = collate(ROWS, [0, 1])
    result, prompts = capture(model, batch, [0, 2, 4]), prompt_states(model, batch, [2])[2]
    states: dict[int, Any] = {}

    def tap(at: int) -> Callable[..., Any]:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            state = (args or (kwargs["hidden_states"],))[0]
            states[at] = state if at else state.requires_grad_()
            return None

        return hook

    hooks = [model.blocks[at].register_forward_pre_hook(tap(at), with_kwargs=True) for at in (0, 2)]
    for place, row in enumerate(ROWS):
        p, n = row.n_prompt - 1, len(row.ids) - row.n_prompt
        with torch.enable_grad():
            logits = model.lm(input_ids=torch.tensor([row.ids]), use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[0, p:-1].float(), torch.tensor(row.ids[row.n_prompt :]))
            wanted = torch.autograd.grad(loss, [states[0], states[2]])
        assert float(result.loss[place]) == pytest.approx(float(loss.detach()), rel=1e-4)
        for at, grad in zip((0, 2), wanted, strict=True):
            torch.testing.assert_close(result.states[at][place, :n], states[at][0, p:-1].detach(), rtol=1e-4, atol=1e-5)
            near = 1e-4 * float(grad.abs().max())
            torch.testing.assert_close(result.grads[at][place, :n], grad[0, p:-1], rtol=1e-3, atol=near)
        torch.testing.assert_close(prompts[place], states[2][0, p].detach(), rtol=1e-4, atol=1e-5)
    for hook in hooks:
        hook.remove()


def alike(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((got - wanted).norm() <= 1e-4 * wanted.norm() + 1e-9)


@pytest.mark.parametrize("family", OTHERS)
def test_shared_prefix_does_not_change_capture(
    family: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose rows begin alike, as with one system prompt: as without sharing it, and as row by row."""
    model = load_model(saved(*OTHERS[family], tokenizer, tmp_path), dtype="float32", device="cpu")
    torch.manual_seed(1)
    begin = torch.randint(3, 384, (21,)).tolist()
    sizes = [(1, 1), (9, 3), (2, 12), (5, 7)]
    rows = [TokenizedExample((*begin, *torch.randint(3, 384, (p + n,)).tolist()), 21 + p) for p, n in sizes]
    batch, layers = collate(rows, range(4)), [0, 2, 4]
    shared, prompts = capture(model, batch, layers), prompt_states(model, batch, layers)
    monkeypatch.setattr(decoder_inputs, "MIN_SAVED_TOKENS", 10**9)
    whole = capture(model, batch, layers)
    for at, (row, (_, n)) in enumerate(zip(rows, sizes, strict=True)):
        alone = capture(model, collate([row], [0]), layers)
        for layer in layers:
            for item in (shared, whole):
                assert alike(item.states[layer][at, :n], alone.states[layer][0])
                assert alike(item.grads[layer][at, :n], alone.grads[layer][0])
            assert alike(prompts[layer][at], alone.states[layer][0, 0])


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "linear"])
def test_capture_with_length_dependent_rope_matches_single_rows(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Beyond the length of the first training Phi 3 rotates all positions otherwise, those of the beginning too."""
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [6.0] * 4, "original_max_position_embeddings": 64}
    options = SMALL | {"rope_parameters": rope, "max_position_embeddings": 256 if kind == "longrope" else 64}
    model = load_model(saved("LlamaConfig", options, tokenizer, tmp_path), dtype="float32", device="cpu")
    torch.manual_seed(1)
    begin = torch.randint(3, 384, (40,)).tolist()
    rows = [TokenizedExample((*begin, *torch.randint(3, 384, (40,)).tolist()), 60) for _ in range(3)]
    result = capture(model, collate(rows, range(3)), [2, 4])
    for at, row in enumerate(rows):
        alone = capture(model, collate([row], [0]), [2, 4])
        assert alike(result.states[4][at], alone.states[4][0]) and alike(result.grads[2][at], alone.grads[2][0])


def test_model_with_several_states_per_token_raises(tokenizer: Any, tmp_path: Path) -> None:
    options = SMALL | {"head_dim": 8, "vocab_size_per_layer_input": 384, "hidden_size_per_layer_input": 8,
                       "laurel_rank": 4, "num_kv_shared_layers": 0, "altup_num_inputs": 2}  # fmt: skip
    name = saved("Gemma3nTextConfig", options, tokenizer, tmp_path)
    with pytest.raises(ModelError, match="several states per token and cannot be traced\n  got: Gemma3nForCausalLM"):
        load_model(name, dtype="float32", device="cpu")
