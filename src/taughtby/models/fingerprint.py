"""Fingerprints: short hashes that identify an index's model and an adapter's base, wherever the files are.

A copy has the same fingerprint, in float32 or bfloat16, on any device, with any version of the libraries. A training
step changes it, as does a single value that differs in bfloat16.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from taughtby.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

# settings that change a model's outputs for the same weights; not versions, paths, caches, dtypes
COMPUTE_SETTINGS = (
    "activation_function", "hidden_act", "hidden_activation",
    "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "rms_norm_eps",
    "num_attention_heads", "n_head", "num_key_value_heads", "head_dim", "use_parallel_residual",
    "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor", "rotary_pct",
    "sliding_window", "layer_types", "no_rope_layers", "clip_qkv", "qkv_clip",
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
    "attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
    "num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group", "scoring_func",
)  # fmt: skip
ADAPTER_SETTINGS = (
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "bias",
    "alpha", "randlora_alpha", "scaling", "projection_prng_key", "random_loc_seed", "feedforward_modules",
    "coft", "eps", "use_cayley_neumann", "num_cayley_neumann_terms", "apply_GS", "variant",
)  # fmt: skip
WRAPPERS = ("base_layer", "original_module", "token_adapter")  # PEFT's modules around those of the model
CHUNK = 2**20  # elements converted at a time; they fit into the CPU's cache


def model_hash(weights: str, config: Any) -> str:
    """Hash the weights' hash together with the settings that change a model's outputs."""
    return _digest(weights, json.dumps(list(_settings(config)), sort_keys=True))


def weights_hash(lm: Any, name: str = "the model", prefix: str | None = None) -> str:
    """Hash every weight's name, shape and values, with floats rounded to bfloat16.

    Rounding makes the hash independent of the dtype, so a change too small for bfloat16 does not change it.

    Args:
        lm: the model.
        name: the model's name in errors.
        prefix: prefix of the adapter weights in `lm`, such as lora_, which are left out; None without an adapter.

    Raises:
        ModelError: weights are not finite. Checked here because every value is read anyway.
    """
    digest = hashlib.sha256()  # CPUs have instructions for it: twice as fast as BLAKE2
    for weight_name, weight in _own_weights(lm, prefix):
        digest.update(f"{weight_name} {tuple(weight.shape)}".encode())
        for part in weight.detach().reshape(-1).split(CHUNK):
            rounded = part.to(torch.bfloat16) if part.is_floating_point() else part
            if rounded.dtype == torch.bfloat16 and part.numel() and not torch.stack(rounded.aminmax()).isfinite().all():
                raise _not_finite(name, weight_name, weight)
            raw: Any = rounded.cpu().view(torch.uint8).numpy()
            digest.update(raw)
    return digest.hexdigest()[:16]


def _not_finite(name: str, weight_name: str, weight: Tensor) -> ModelError:
    count = int((~weight.isfinite()).sum())
    do = "its training diverged: give an earlier checkpoint"
    if weight.dtype == torch.float16:
        do = "load it with --dtype bfloat16, since float16 overflows above 65,504; or its training diverged"
    got = f"{count:,} of {weight.numel():,} in {weight_name}"
    return ModelError(f"the weights of {name} are not finite", got=got, do=do)


def sampled_hash(lm: Any) -> str:
    """Compute the `weights_hash` of earlier versions, which adapters trained with them recorded for their base.

    It hashes every weight's name, shape and about 64 of its values, rounded to bfloat16.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in _own_weights(lm, None):
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def adapter_hash(config: dict[str, Any], weights: Iterable[tuple[str, Tensor]]) -> str:
    """Hash all weights of an adapter, given in the order of their names, and the settings that scale them."""
    settings = {key: _plain(value) for key in ADAPTER_SETTINGS if (value := config.get(key))}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8)
    for name, weight in weights:
        plain = weight.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(plain.shape)} {plain.dtype}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Convert a setting to its JSON value: in memory some are enum members or sets."""
    return sorted(value) if isinstance(value, set | list) else getattr(value, "value", value)


def join_hashes(hashes: Iterable[str]) -> str:
    """Combine hashes in order; a single hash is returned unchanged."""
    first, *others = hashes
    return _digest(first, *others) if others else first


def _digest(*parts: str) -> str:
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()


def _settings(config: Any) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of the compute settings, rounded, since older files may store 1e-5 as 9.99999974e-06."""
    settings = config.get_text_config().to_dict()
    for key in COMPUTE_SETTINGS:
        for name, value in sorted(_leaves(key, settings.get(key))):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            yield name, f"{value:.5g}" if number else str(value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are not defaults, since older files omit defaults."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif value is not None and value is not False and value != "default" and set(_listed(value)) != {"full_attention"}:
        yield name, value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _own_weights(lm: Any, prefix: str | None) -> Iterator[tuple[str, Tensor]]:
    """Yield the model's own weights by their original names, without an adapter's, and with offloaded ones."""
    offloaded = {
        f"{path}.{name}" if path else name: getattr(module, "_hf_hook").weights_map  # noqa: B009 not ours
        for path, module in lm.named_modules()
        if getattr(getattr(module, "_hf_hook", None), "weights_map", None) is not None
        for name, _ in module.named_parameters(recurse=False)
    }
    for name, weight in lm.state_dict().items():
        path = name.split(".")
        if prefix and _is_adapter_weight(path, prefix):
            continue
        value = offloaded[name][name.rpartition(".")[2]] if weight.is_meta else weight
        yield ".".join(part for part in path if part not in WRAPPERS), value


def _is_adapter_weight(path: list[str], prefix: str) -> bool:
    """Whether a weight is an adapter's: its own, one that its layers share (VeRA), or a trained copy of the model's."""
    names = (prefix.removesuffix("lambda_"), "trainable_tokens_")
    return "modules_to_save" in path or any(part.startswith(names) for part in path)
