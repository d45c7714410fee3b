"""Fingerprints: short hashes by which an index knows the model, and an adapter its base, wherever the files have moved.

The same for a copy, held in float32 or bfloat16, on any device, by any version of the libraries; another after a step
of training, or where a single number differs.
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

# settings that change what a model computes though its weights stay; not versions, paths, caches, number formats
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
CHUNK = 2**20  # numbers that are converted at a time, which stay in a processor's cache


def model_hash(weights: str, config: Any) -> str:
    """Of the weights' hash and of the settings that change what is computed from them."""
    return _digest(weights, json.dumps(list(_settings(config)), sort_keys=True))


def weights_hash(lm: Any, name: str = "the model", prefix: str | None = None) -> str:
    """Of every weight's name, shape and numbers; those with a fraction are rounded to bfloat16.

    Rounded, because the same weights may be held in float32 or bfloat16: a change too small for bfloat16 is not seen.

    Args:
        lm: the model.
        name: what an error calls it.
        prefix: how the names of an adapter's weights begin, such as lora_, where one sits in `lm`: they are left out.

    Raises:
        ModelError: numbers are not finite. Looked for here, since every number is in a processor's cache anyway.
    """
    digest = hashlib.sha256()  # for which processors have instructions: twice as fast as BLAKE2
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
        do = "load it with --dtype bfloat16, since float16 holds no number above 65,504; else its training diverged"
    got = f"{count:,} of {weight.numel():,} in {weight_name}"
    return ModelError(f"the weights of {name} are not finite", got=got, do=do)


def sampled_hash(lm: Any) -> str:
    """What `weights_hash` was before it read all numbers: adapters that were trained then name their base by it.

    Of every weight's name, shape and 64 of its numbers, rounded to bfloat16.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in _own_weights(lm, None):
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def adapter_hash(config: dict[str, Any], weights: Iterable[tuple[str, Tensor]]) -> str:
    """Of all an adapter's numbers, given in the order of their names, and of how they are scaled."""
    settings = {key: _plain(value) for key in ADAPTER_SETTINGS if (value := config.get(key))}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8)
    for name, weight in weights:
        plain = weight.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(plain.shape)} {plain.dtype}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A setting as JSON has it: in memory some are members of an enum, or sets."""
    return sorted(value) if isinstance(value, set | list) else getattr(value, "value", value)


def join_hashes(hashes: Iterable[str]) -> str:
    """One hash of several, in their order; of one, itself."""
    first, *others = hashes
    return _digest(first, *others) if others else first


def _digest(*parts: str) -> str:
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()


def _settings(config: Any) -> Iterator[tuple[str, str]]:
    """(name, value) of what computes, alike from a file of any age: 1e-5 may be stored as 9.99999974e-06."""
    settings = config.get_text_config().to_dict()
    for key in COMPUTE_SETTINGS:
        for name, value in sorted(_leaves(key, settings.get(key))):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            yield name, f"{value:.5g}" if number else str(value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is set, without what says the same as nothing: older files leave that out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif value is not None and value is not False and value != "default" and set(_listed(value)) != {"full_attention"}:
        yield name, value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _own_weights(lm: Any, prefix: str | None) -> Iterator[tuple[str, Tensor]]:
    """The model's own weights under their own names, from beneath an adapter and from wherever they were put off to."""
    offloaded = {
        f"{path}.{name}" if path else name: getattr(module, "_hf_hook").weights_map  # noqa: B009 not ours
        for path, module in lm.named_modules()
        if getattr(getattr(module, "_hf_hook", None), "weights_map", None) is not None
        for name, _ in module.named_parameters(recurse=False)
    }
    for name, weight in lm.state_dict().items():
        path = name.split(".")
        if prefix and (
            any(part.startswith(prefix) for part in path) or {"modules_to_save", "token_adapter"} & set(path)
        ):
            continue
        value = offloaded[name][name.rpartition(".")[2]] if weight.is_meta else weight
        yield ".".join(part for part in path if part not in ("base_layer", "original_module")), value
