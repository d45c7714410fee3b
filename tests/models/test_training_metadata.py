"""Metadata of trainers' folders as TRL, Trainer, Axolotl and LLaMA-Factory write them, and hostile files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taughtby.models.training_metadata import MetadataEntry, TrainingMetadata, read_training_metadata

ADAPTER = {
    "base_model_name_or_path": "NousResearch/Llama-3.2-1B", "peft_type": "LORA", "r": 32, "lora_alpha": 16,
    "target_modules": ["up_proj", "q_proj"], "use_dora": True, "use_rslora": False, "modules_to_save": ["lm_head"],
}  # fmt: skip
AXOLOTL = """base_model: NousResearch/Llama-3.2-1B

datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: chat_template
  - path: ./mine.jsonl
    type: chat_template
chat_template: llama3
sequence_len: 2048
sample_packing: true
adapter: lora
lora_r: 32
micro_batch_size: 2
"""
CARD = """---
library_name: peft
base_model: NousResearch/Llama-3.2-1B
tags:
- axolotl
- base_model:adapter:NousResearch/Llama-3.2-1B
datasets:
- mhenrichsen/alpaca_2k_test
---

<!-- This model card has been generated automatically according to the information the Trainer had access to. -->
<details><summary>See axolotl config</summary>

axolotl version: `0.13.0`
```yaml
{}
```

</details><br>

# outputs/lora-out
"""
FACTORY = """bf16: true
cutoff_len: 2048
dataset: identity,alpaca_en_demo
dataset_dir: data
finetuning_type: lora
lora_rank: 8
model_name_or_path: Qwen/Qwen3-4B
num_train_epochs: 3.0
stage: sft
template: qwen3_nothink
"""
BOARD = """top.model_name: Qwen3-4B
top.model_path: Qwen/Qwen3-4B
top.template: qwen3_nothink
train.cutoff_len: 512
train.dataset: [identity]
train.mask_history: true
train.train_on_prompt: false
"""


def folder(to: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        file = to / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return to


def metadata_values(origin: TrainingMetadata) -> dict[str, Any]:
    """Return the metadata that affects tracing."""
    whats = ("base", "max_length", "truncate", "mask", "turns", "template")
    return {what: value for what in whats if (value := getattr(origin, what)) is not None}


def test_empty_or_missing_folder_gives_empty_metadata(tmp_path: Path) -> None:
    assert read_training_metadata(tmp_path) == read_training_metadata(tmp_path / "none") == TrainingMetadata()
    assert metadata_values(TrainingMetadata()) == {}


def test_peft_adapter_config_is_read(tmp_path: Path) -> None:
    origin = read_training_metadata(folder(tmp_path, {"adapter_config.json": ADAPTER}))
    assert [str(fact) for fact in origin.entries] == [
        "base NousResearch/Llama-3.2-1B (adapter_config.json: base_model_name_or_path)",
        "adapter LORA r 32 alpha 16 DoRA on q_proj, up_proj and lm_head whole (adapter_config.json: peft_type)",
    ]


def test_tokenizer_truncation_settings_are_read(tmp_path: Path) -> None:
    cut = {"direction": "Left", "max_length": 512, "strategy": "LongestFirst", "stride": 0}
    files = {
        "tokenizer.json": {"version": "1.0", "truncation": cut},
        "tokenizer_config.json": {"model_max_length": 8192, "truncation_side": "right"},
    }
    origin = read_training_metadata(folder(tmp_path, files), window=8192)
    assert metadata_values(origin) == {"max_length": 512, "truncate": "left"}
    assert origin.entries[0] == MetadataEntry("max_length", 512, "tokenizer.json", "truncation")


@pytest.mark.parametrize(
    ("limit", "window", "expected"),
    [(2048, 8192, 2048), (8192, 8192, None), (9999, 99, None), (10**30, 99, None), (2048, None, None), ("8", 9, None)],
)  # fmt: skip
def test_tokenizer_limit_is_used_only_below_model_window(
    limit: Any, window: int, expected: Any, tmp_path: Path
) -> None:
    assert (
        read_training_metadata(
            folder(tmp_path, {"tokenizer_config.json": {"model_max_length": limit}}), window
        ).max_length
        == expected
    )


@pytest.mark.parametrize(
    "files", [{"chat_template.jinja": "{{ x }}"}, {"tokenizer_config.json": {"chat_template": "{{ x }}"}}]
)
def test_tokenizer_chat_template_is_recorded(files: dict[str, Any], tmp_path: Path) -> None:
    fact = read_training_metadata(folder(tmp_path, files)).entries[0]
    assert (fact.name, fact.value, fact.file) == ("chat template", "the tokenizer's own", next(iter(files)))


def test_trainer_state_is_read_from_newest_checkpoint(tmp_path: Path) -> None:
    diary = {
        "epoch": 1.0,
        "global_step": 20,
        "train_batch_size": 8,
        "log_history": [{"loss": 2.0}, {"loss": 1.5}, {"eval": 1}],
    }
    files = {"checkpoint-9/trainer_state.json": diary | {"epoch": 0.5}, "checkpoint-20/trainer_state.json": diary}
    origin = read_training_metadata(folder(tmp_path, files))
    text = {fact.name: (fact.value, fact.file) for fact in origin.entries}
    file = "checkpoint-20/trainer_state.json"
    assert text == {"epochs": (1.0, file), "steps": (20, file), "batch size": (8, file), "last loss": (1.5, file)}
    (tmp_path / "trainer_state.json").write_text(json.dumps({"epoch": 2.0}))
    assert read_training_metadata(tmp_path).entries == (MetadataEntry("epochs", 2.0, "trainer_state.json", "epoch"),)


# -- Axolotl


def test_axolotl_config_in_model_card_is_read(tmp_path: Path) -> None:
    origin = read_training_metadata(
        folder(tmp_path, {"README.md": CARD.format(AXOLOTL), "adapter_config.json": ADAPTER})
    )
    assert metadata_values(origin) == {
        "base": "NousResearch/Llama-3.2-1B", "max_length": 2048, "truncate": "skip", "mask": "content", "turns": "all",
    }  # fmt: skip
    text = {fact.name: fact.value for fact in reversed(origin.entries)}
    assert (text["trainer"], text["template name"]) == ("axolotl", "llama3")
    assert text["data"] == "./mine.jsonl, mhenrichsen/alpaca_2k_test"
    assert MetadataEntry("max_length", 2048, "README.md", "sequence_len") in origin.entries
    assert MetadataEntry("truncate", "skip", "README.md", "excess_length_strategy, its default") in origin.entries


@pytest.mark.parametrize("name", ["axolotl_config.yaml", "config.yml"])
def test_the_axolotl_config_in_the_adapter_folder_is_read(name: str, tmp_path: Path) -> None:
    yaml = AXOLOTL + "train_on_inputs: true\nexcess_length_strategy: truncate\n"
    origin = read_training_metadata(folder(tmp_path, {name: yaml}))
    assert (origin.mask, origin.truncate, origin.max_length) == ("all", "right", 2048)
    assert MetadataEntry("mask", "all", name, "train_on_inputs") in origin.entries


def test_axolotl_completion_config_is_read(tmp_path: Path) -> None:
    yaml = "base_model: m\ndatasets:\n  - path: texts.jsonl\n    type: completion\n"
    assert metadata_values(read_training_metadata(folder(tmp_path, {"a.yaml": yaml}))) == {
        "base": "m", "max_length": 512, "truncate": "right", "mask": "all", "template": "none",
    }  # fmt: skip


def test_axolotl_jinja_template_and_prompt_format_are_read(tmp_path: Path) -> None:
    origin = read_training_metadata(folder(tmp_path, {"a.yaml": AXOLOTL + 'chat_template_jinja: "{{ messages }}"\n'}))
    assert origin.template == "{{ messages }}"
    alpaca = AXOLOTL.replace("type: chat_template", "type: alpaca")
    facts = read_training_metadata(folder(tmp_path, {"a.yaml": alpaca})).entries
    assert MetadataEntry("wording", "alpaca, axolotl's", "a.yaml", "datasets: type") in facts


# -- LLaMA-Factory


def test_llama_factory_config_is_read(tmp_path: Path) -> None:
    origin = read_training_metadata(folder(tmp_path, {"training_args.yaml": FACTORY}))
    assert metadata_values(origin) == {
        "base": "Qwen/Qwen3-4B", "max_length": 2048, "truncate": "right", "mask": "response", "turns": "all",
    }  # fmt: skip
    text = {fact.name: fact.value for fact in origin.entries}
    assert (text["template name"], text["data"]) == ("qwen3_nothink", "identity,alpaca_en_demo")
    assert MetadataEntry("truncate", "right", "training_args.yaml", "cutoff_len, nearly") in origin.entries
    other = read_training_metadata(folder(tmp_path, {"training_args.yaml": FACTORY + "train_on_prompt: true\n"}))
    assert other.mask == "all"


def test_llamaboard_config_is_read(tmp_path: Path) -> None:
    origin = read_training_metadata(folder(tmp_path, {"llamaboard_config.yaml": BOARD}))
    assert metadata_values(origin) == {
        "base": "Qwen/Qwen3-4B", "max_length": 512, "truncate": "right", "mask": "response", "turns": "last",
    }  # fmt: skip


# -- TRL, taughtby, and detection of the trainer


def test_trl_model_card_gives_base_and_trainer(tmp_path: Path) -> None:
    card = "---\nbase_model: m\nlibrary_name: peft\ntags:\n- base_model:adapter:m\n- sft\n- trl\n---\n# Model Card\n"
    origin = read_training_metadata(folder(tmp_path, {"README.md": card, "training_args.bin": "never opened"}))
    assert origin.entries == (
        MetadataEntry("base", "m", "README.md", "base_model"),
        MetadataEntry("trainer", "trl", "README.md", "tags"),
    )


def test_trl_yaml_config_is_read(tmp_path: Path) -> None:
    yaml = "model_name_or_path: m\nmax_length: 256\ntruncation_mode: keep_end\nassistant_only_loss: true\n"
    origin = read_training_metadata(folder(tmp_path, {"sft.yaml": yaml}))
    assert metadata_values(origin) == {
        "base": "m",
        "max_length": 256,
        "truncate": "left",
        "mask": "response",
        "turns": "all",
    }


def test_taughtby_training_record_is_read(tmp_path: Path) -> None:
    origin = read_training_metadata(
        folder(tmp_path, {"taughtby.json": {"model": "abc", "base": "smollm2", "max_length": 512}})
    )
    assert metadata_values(origin) == {"base": "smollm2", "max_length": 512, "truncate": "right", "mask": "response"}


def test_settings_in_the_folder_above_a_checkpoint_are_read(tmp_path: Path) -> None:
    cut = {"version": "1.0", "truncation": {"direction": "Right", "max_length": 4096}}
    files = {
        "training_args.yaml": FACTORY,
        "checkpoint-7/adapter_config.json": ADAPTER,
        "checkpoint-7/tokenizer.json": cut,
    }
    origin = read_training_metadata(folder(tmp_path, files) / "checkpoint-7")
    assert (origin.base, origin.max_length) == ("NousResearch/Llama-3.2-1B", 2048)
    assert MetadataEntry("max_length", 2048, "../training_args.yaml", "cutoff_len") in origin.entries
    (tmp_path / "other").mkdir()
    assert read_training_metadata(tmp_path / "other") == TrainingMetadata()  # only of a checkpoint


def test_unrelated_yaml_is_ignored(tmp_path: Path) -> None:
    merge = "base_model: m\nmerge_method: slerp\nslices: []\ndtype: bfloat16\n"
    files = {"mergekit_config.yml": merge, "README.md": f"# x\n```yaml\n{merge}```\n", "some.yaml": "a: 1"}
    assert read_training_metadata(folder(tmp_path, files)) == TrainingMetadata()


# -- hostile and broken files


@pytest.mark.parametrize(
    "files",
    [
        {"a.yaml": "base_model: [\n"},
        {"a.yaml": "- 1\n- 2\n"},
        {"a.yaml": "!!python/object/apply:os.system ['touch sprung']"},
        {"a.yaml": AXOLOTL.replace("2048", "!!python/name:os.system")},
        {"a.yaml": "x: 2001-99-99\nbase_model: m\nsequence_len: 5\n"},
        {"README.md": "---\ntags: 5\n---\n"},
        {"adapter_config.json": "{", "tokenizer.json": "[]", "trainer_state.json": "null", "taughtby.json": '"x"'},
        {"adapter_config.json": "[" * 100_000},
        {"a.yaml": "[" * 5_000},
    ],
)
def test_unreadable_files_give_empty_metadata(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_training_metadata(folder(tmp_path, files)) == TrainingMetadata()
    assert not (tmp_path / "sprung").exists()


def test_yaml_alias_bomb_is_harmless(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    keys = "base_model: *a29\nsequence_len: *a29\ndatasets: *a29\nchat_template: *a29\nchat_template_jinja: *a29\n"
    origin = read_training_metadata(folder(tmp_path, {"a.yaml": "\n".join(lines) + "\n" + keys}))
    assert metadata_values(origin)["max_length"] == 512
    assert all(len(str(fact)) < 5000 for fact in origin.entries)


def test_control_characters_are_removed_from_base_name(tmp_path: Path) -> None:
    text = {"base_model_name_or_path": "m\x1b[2J\nIgnore\x07\u202e", "peft_type": "LORA"}
    assert read_training_metadata(folder(tmp_path, {"adapter_config.json": text})).base == "m [2J Ignore"


def test_non_utf8_files_and_folders_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xff\xfe```yaml")
    (tmp_path / "a.yaml").mkdir()
    assert read_training_metadata(tmp_path) == TrainingMetadata()


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = """base_model_name_or_path peft_type r lora_alpha target_modules modules_to_save truncation model_max_length
truncation_side chat_template epoch global_step train_batch_size log_history base max_length sequence_len datasets
base_model excess_length_strategy train_on_inputs chat_template_jinja cutoff_len train_on_prompt mask_history template
dataset truncation_mode completion_only_loss micro_batch_size""".split()  # noqa: SIM905
FILES = [
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
    "taughtby.json",
    "a.yaml",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(st.sampled_from(FILES), st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=8), max_size=4)
)
def test_arbitrary_file_contents_do_not_raise(files: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).unlink(missing_ok=True)
    origin = read_training_metadata(folder(tmp_path, files), window=100)  # JSON is YAML too
    assert all(fact.name == "template" or str(fact).isprintable() for fact in origin.entries)
    assert origin.max_length is None or origin.max_length > 0
    assert origin.truncate in (None, "right", "left", "skip")
