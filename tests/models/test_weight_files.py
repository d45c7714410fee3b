"""Weight files that do not fit the model are reported before they are loaded."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from taughtby.errors import ModelError
from taughtby.models import loading
from taughtby.models.model import load_model
from taughtby.models.weight_files import read_header

IDS = torch.tensor([[5, 40, 300, 7, 41, 12]])
Q = "model.layers.1.self_attn.q_proj"


def load(folder: Path | str, **options: Any) -> Any:
    return load_model(str(folder), **{"dtype": "float32", "device": "cpu", **options})


def mistake(folder: Path | str, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder, **options)
    return str(caught.value)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "m"))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if any weight is read."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", fail)


def change(folder: Path, by: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """The weights of a folder after `by` changed them, or as it returns them."""
    weights = load_file(folder / "model.safetensors")
    save_file(by(weights) or weights, folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


# -- checks of names and headers


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_git_lfs_pointer_raises(file: str, folder: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5000000\n"
    (folder / file).write_text(pointer)
    assert mistake(folder) == (
        f"{folder / file} is a Git LFS pointer, not the file itself\n  got: {len(pointer)} bytes\n"
        f"  do:  fetch the files: git -C {folder} lfs pull"
    )


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("rest", [0, 4, 9, 500, -1])
def test_truncated_safetensors_raises(rest: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:rest])
    message = mistake(folder)
    assert message.startswith(str(file)) and message.endswith("copy or download it again")


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "scales", "input_scale", "qzeros"])
def test_scales_without_quantization_config_raise(name: str, folder: Path) -> None:
    change(folder, lambda weights: weights | {f"{Q}.{name}": torch.ones(1)})
    message = mistake(folder)
    assert message.startswith(f"{folder / 'model.safetensors'} contains weights with a scale, but config.json does not")
    assert f"got: 1, such as {Q}.{name}" in message and "give the unquantized model" in message


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_packed_weights_without_quantization_config_raise(dtype: torch.dtype, folder: Path) -> None:
    change(folder, lambda weights: weights | {f"{Q}.weight": torch.zeros(32, 16, dtype=dtype)})
    assert (
        f"contains quantized weights, but config.json does not describe the quantization\n  got: 1, such as {Q}.weight"
        in (mistake(folder))
    )


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("beside", [{}, {"quantization_config": {"group_size": 32, "bits": 4}}])
def test_mlx_quantized_model_raises(beside: dict[str, Any], folder: Path) -> None:
    configure(folder, quantization={"group_size": 32, "bits": 4}, **beside)
    message = mistake(folder)
    assert message.startswith(f"{folder} was quantized by MLX\n") and "mlx_lm.convert --dequantize" in message


@pytest.mark.usefixtures("unread")
def test_quantization_without_method_raises(folder: Path) -> None:
    configure(folder, quantization_config={"bits": 4, "group_size": 128})
    assert mistake(folder).startswith(f"{folder} is quantized by an unknown method\n  got: config.json: ")


@pytest.mark.parametrize("place", ["", "checkpoint-9"])
def test_fsdp_checkpoint_raises(place: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    shards = folder / "pytorch_model_fsdp_0"
    shards.mkdir()
    (shards / "__0_0.distcp").write_bytes(b"x")
    message = mistake(folder)
    assert message.startswith(f"{folder} is a sharded FSDP checkpoint") and "distcp" in message
    assert f"accelerate merge-weights {shards} {folder}-merged" in message
    (folder / "config.json").unlink()
    assert "is a sharded FSDP checkpoint" in mistake(folder)


def test_deepspeed_checkpoint_raises(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "global_step9").mkdir()
    (folder / "global_step9" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"x")
    message = mistake(folder)
    assert message.startswith(f"{folder} is a DeepSpeed checkpoint")
    assert f"python {folder}/zero_to_fp32.py {folder} {folder}-merged" in message


@pytest.mark.usefixtures("unread")
def test_empty_zero3_weights_raise(folder: Path) -> None:
    change(folder, lambda weights: {name: torch.empty(0) for name in weights})
    assert "was saved by DeepSpeed ZeRO-3 without its weights\n  got: 39 of 39 weights have no elements" in (
        mistake(folder)
    )


@pytest.mark.parametrize(
    ("file", "do"),
    [
        ("model-q4.gguf", "give the .gguf file itself"),
        ("weights.npz", "give the model that MLX converted"),
        ("consolidated.00.pth", "with the tool that wrote it"),
        ("epoch=3.ckpt", "with the tool that wrote it"),
    ],
)
def test_other_weight_formats_raise(file: str, do: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / file)
    message = mistake(folder)
    assert message.startswith(f"{folder} contains no safetensors files\n  got: {file}\n") and message.endswith(do)


def test_peft_prefixed_model_weights_raise(folder: Path) -> None:
    change(folder, lambda weights: {f"base_model.model.{name}": weight for name, weight in weights.items()})
    assert "contains a PEFT model with an unmerged adapter" in mistake(folder) and "merge_and_unload" in mistake(folder)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_header_or_raise_model_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.mktemp("junk") / "model.safetensors"
    for start in (b"", len(content).to_bytes(8, "little"), (len(content) + 2).to_bytes(8, "little") + b"{}"):
        file.write_bytes(start + content)
        with contextlib.suppress(ModelError):
            assert all(value["data_offsets"] for value in read_header(file).values())


# -- checks of the loaded model


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.layers.0.self_attn.q_norm.weight", "contain unexpected weights"),
        ("score.weight", "contain unexpected weights"),
        (f"{Q}.lora_A.weight", "contain an unmerged adapter"),
    ],
)
def test_unexpected_weights_raise(name: str, what: str, folder: Path) -> None:
    change(folder, lambda weights: weights | {name: torch.ones(2, 2)})
    message = mistake(folder)
    assert message.startswith(f"the files of {folder} {what}\n  got: 1") and name in message


@pytest.mark.parametrize(
    "name", ["v_head.summary.weight", "model.vision_tower.proj.weight", "mtp.layers.0.norm.weight"]
)
def test_weights_unused_for_text_are_noted(name: str, folder: Path, tiny: Any) -> None:
    change(folder, lambda weights: weights | {name: torch.ones(2, 2)})
    model = load(folder)
    assert model.notes == (f"{folder}: 1 weights do not affect text answers, such as {name}",)
    assert model.fingerprint == tiny.fingerprint


def test_weights_of_other_shape_raise(folder: Path) -> None:
    configure(folder, intermediate_size=64)
    message = mistake(folder)
    assert message.startswith(
        f"the weights of {folder} do not fit its config.json\n  got: 12 of another shape, such as "
    )
    assert "[32, 48], not [32, 64]" in message


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model._orig_mod."])
def test_wrapped_weight_names_are_accepted(prefix: str, folder: Path, tiny: Any) -> None:
    """torch.compile, DistributedDataParallel, and a compiled part."""
    if prefix == "model._orig_mod.":
        change(folder, lambda weights: {name.replace("model.", prefix): one for name, one in weights.items()})
    else:
        change(folder, lambda weights: {prefix + name: one for name, one in weights.items()})
    assert load(folder).fingerprint == tiny.fingerprint


def test_adapter_config_in_merged_model_folder_is_ignored(folder: Path, adapter_folder: Path, tiny: Any) -> None:
    """Transformers would look for the adapter's weights."""
    shutil.copy(adapter_folder / "adapter_config.json", folder)
    model = load(folder)
    assert model.fingerprint == tiny.fingerprint and model.peft is None


# -- values that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", ["model.layers.3.mlp.down_proj.weight", "model.embed_tokens.weight", "model.norm.weight"]
)
def test_non_finite_weights_raise(name: str, value: float, folder: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights[name].view(-1)[-1] = value

    change(folder, spoil)
    size = load_file(folder / "model.safetensors")[name].numel()
    assert mistake(folder) == (
        f"the weights of {folder} are not finite\n  got: 1 of {size:,} in {name}\n"
        "  do:  its training diverged: give an earlier checkpoint"
    )


def test_float16_overflow_raises(folder: Path) -> None:
    change(folder, lambda weights: weights | {"model.norm.weight": torch.full((32,), 1e6)})
    message = mistake(folder, dtype="float16")
    assert "got: 32 of 32 in model.norm.weight" in message and "--dtype bfloat16" in message
    assert load(folder, dtype="bfloat16").depth == 4


def test_weights_with_non_finite_output_raise(folder: Path) -> None:
    change(folder, lambda weights: weights | {"model.layers.3.mlp.down_proj.weight": torch.full((32, 48), 3e38)})
    assert mistake(folder).startswith(f"the outputs of {folder} are not finite\n  got: in float32\n")


# -- vision towers


def test_non_text_model_raises(tokenizer: Any, tmp_path: Path) -> None:
    import transformers as tf

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tf.CLIPModel(tf.CLIPConfig(text_config=sizes, vision_config=sizes | {"image_size": 28})).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = mistake(tmp_path)
    assert message.startswith(f"{tmp_path} is not a causal language model\n  got: CLIPConfig, model_type clip")


def test_transformers_load_report_is_not_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(folder, lambda weights: weights | {"score.weight": torch.ones(2, 2)})
    mistake(folder)
    printed = capfd.readouterr()
    assert "score.weight" not in printed.out + printed.err
    from transformers.utils import logging

    level = logging.get_verbosity()
    with loading._quiet_transformers():
        assert logging.get_verbosity() >= level
    assert logging.get_verbosity() == level


def test_two_sets_of_weights_raise(folder: Path) -> None:
    """A save with other shards beside what an earlier one left: loaders take one without a word."""
    weights = load_file(folder / "model.safetensors")
    shard = "model-00001-of-00001.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}))
    assert load(folder)  # an index that nothing belongs to says nothing
    save_file(weights, folder / shard, {"format": "pt"})
    assert mistake(folder) == (
        f"{folder} contains two sets of weights; one is from an earlier save\n"
        f"  got: model.safetensors and {shard}\n  do:  remove the outdated one"
    )
