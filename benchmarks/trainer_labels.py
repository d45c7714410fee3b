"""Compare the labels that trainers compute for 20 unusual rows with those of taughtby, token by token.

Run with `python benchmarks/trainer_labels.py` where TRL is installed; prints a table. No download, no training: the
trainers are created, and their prepared data is read.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.update(
    DISABLE_VERSION_CHECK="1",
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="",
    ACCELERATE_USE_CPU="1",
    TOKENIZERS_PARALLELISM="false",
)

import datasets
import transformers

from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.row_sources import record_source
from taughtby.data.tokenize import Encoding, SkippedRow, default_options, tokenize
from taughtby.models.training_metadata import TrainingMetadata

Record = dict[str, Any]
Labels = tuple[list[int], list[int]]  # token ids and their labels; the first token has none

GENERATION = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}
{{- m['content'] }}<|im_end|>{% endif %}
{{ '' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# earlier reasoning is dropped; the last answer has reasoning, which is empty if the row has none
THOUGHTS = """{% set last = namespace(user=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}
{%- set last.user = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% set text = m['content'] %}
{%- if '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}
{%- if loop.index0 > last.user %}{{ '<think>\\n' + (m['content'].split('</think>')[0].split('<think>')[-1].strip()
if '</think>' in m['content'] else '') + '\\n</think>\\n\\n' }}{% endif %}{{ text + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ text + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TEXTS = [
    ("who makes honey", "bees make honey"),
    ("give JSON", '{"role": "assistant", "content": "a"}'),
    ("a list", "[1, 2, 3]"),
    (" blank before", " blank before"),
    ("blank after ", "blank after "),
    ("lines\n\nlines", "one\ntwo\n\nthree"),
    ("honey", "honey"),
    ("bees make honey", "bees"),
    ("<|im_end|> in words", "the sign <|im_end|> ends a turn"),
    ("assistant", "assistant\n"),
    ("🙂 emoji 👩‍👧", "🙂🙂"),
    ("漢字", "漢字は字"),
    ("مرحبا", "مرحبا بك"),
    ("tabs\tand\x00nul", "\ttab"),
    ("x", "y"),
    ("long " * 40, "word " * 60),
    ("{{ 1 + 1 }}", "{% if %}"),
    ("think", "<think>\nbees?\n</think>\n\nbees"),
    ("a . b", "e\u0301 e\u0301"),
    ("why\r\nso", "so\r\nwhy"),
]


def make_tokenizer(template: str, eos: str = "</s>") -> Any:
    """A byte-level BPE tokenizer trained on the rows' text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    result.train_from_iterator([text for pair in TEXTS for text in pair] * 3, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=result,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token=eos,
        additional_special_tokens=special[3:],
    )
    fast.chat_template = template
    return fast


def make_model() -> Any:
    """A random Llama with one layer."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip


def turn(role: str, content: str) -> Record:
    """A message."""
    return {"role": role, "content": content}


def conversations() -> list[list[Record]]:
    """20 conversations of one to three turns, some with a system message."""
    rows: list[list[Record]] = []
    for place, (ask, answer) in enumerate(TEXTS):
        more, again = TEXTS[(place + 7) % 20], TEXTS[(place + 17) % 20]
        row = [turn("system", "be brief")] if place % 4 == 1 else []
        row += [turn("user", ask), turn("assistant", answer)]
        row += [turn("user", more[0]), turn("assistant", more[1])] if place % 3 else []
        row += [turn("user", again[0]), turn("assistant", again[1])] if place % 3 == 2 else []
        rows.append(row)
    return rows


def ours(
    records: list[Record], tokenizer: Any, *, mask: Any = "response", turns: Any = "last", raw: bool = False
) -> list[Labels | None]:
    """taughtby's labels of each record, combined over its Examples; None for a record that is skipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        examples = list(read_examples(path, ReadOptions(turns=turns)))
    base = default_options(TrainingMetadata(), 4096, raw=raw)
    encoding = Encoding(4096, mask=mask, template=base.template)
    result: list[Labels | None] = []
    for _, group in groupby(examples, record_source):
        ids: list[int] = []
        labels: dict[int, int] = {}
        for example in group:
            row = tokenize(tokenizer, example, encoding)
            if isinstance(row, SkippedRow):
                continue
            ids = max(ids, list(row.ids), key=len)
            labels |= {place: row.ids[place] for place, has_loss in enumerate(row.loss_mask) if has_loss}
        result.append((ids, [labels.get(place, -100) for place in range(len(ids))]) if labels else None)
    return result


def without_first(ids: list[int], labels: list[int]) -> Labels:
    """The labels as the loss uses them: nothing predicts the first token."""
    return list(ids), [-100, *labels[1:]]


def sft(records: list[Record], tokenizer: Any, **options: Any) -> list[Labels | None]:
    """The labels from TRL's SFTTrainer and its collator."""
    import trl

    with tempfile.TemporaryDirectory() as folder:
        config = trl.SFTConfig(output_dir=folder, max_length=None, report_to=[], use_cpu=True, bf16=False, **options)
        trainer = trl.SFTTrainer(
            make_model(), config, train_dataset=datasets.Dataset.from_list(records), processing_class=tokenizer
        )
        rows = [trainer.train_dataset[place] for place in range(len(trainer.train_dataset))]
        collated = [trainer.data_collator([row]) for row in rows]
    return [without_first(row["input_ids"][0].tolist(), row["labels"][0].tolist()) for row in collated]


def preference(records: list[Record], tokenizer: Any, kind: str) -> list[Labels | None]:
    """The labels of DPO's chosen answers, or of KTO's desirable completions."""
    import trl

    name = {"dpo": "DPO", "kto": "KTO"}[kind]
    with tempfile.TemporaryDirectory() as folder:
        options = {"per_device_train_batch_size": 2} if kind == "kto" else {}
        config = getattr(trl, f"{name}Config")(
            output_dir=folder, max_length=None, report_to=[], use_cpu=True, bf16=False, **options
        )
        trainer = getattr(trl, f"{name}Trainer")(
            make_model(),
            make_model(),
            config,
            train_dataset=datasets.Dataset.from_list(records),
            processing_class=tokenizer,
        )
        rows = list(trainer.train_dataset)
    answer = "chosen_ids" if kind == "dpo" else "completion_ids"
    return [
        without_first([*row["prompt_ids"], *row[answer]], [-100] * len(row["prompt_ids"]) + list(row[answer]))
        if row.get("label", True) else None
        for row in rows
    ]  # fmt: skip


def collators(records: list[Record], tokenizer: Any, name: str) -> list[Labels | None]:
    """The labels from Transformers' collators for rows of token ids, without padding."""
    make = getattr(transformers, name)
    collator = (
        make(tokenizer, mlm=False)
        if name == "DataCollatorForLanguageModeling"
        else make(tokenizer, return_tensors="pt")
    )
    keys = ("input_ids", "attention_mask", *(("labels",) if "labels" in records[0] else ()))
    batch = collator([{key: row[key] for key in keys} for row in records])
    return [
        without_first(ids[: len(row["input_ids"])].tolist(), labels[: len(row["input_ids"])].tolist())
        for row, ids, labels in zip(records, batch["input_ids"], batch["labels"], strict=True)
    ]


def prepared(tokenizer: Any, mask: str) -> list[Record]:
    """Rows of token ids with one type of mask, which has gaps."""
    rows: list[Record] = []
    for place, (ask, answer) in enumerate(TEXTS):
        ids = tokenizer(ask + answer)["input_ids"] + [2]
        has = [position % (2 + place % 3) != 0 and position > len(ids) // 3 for position in range(len(ids))]
        row: Record = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if mask == "labels":
            row["labels"] = [token if one else -100 for token, one in zip(ids, has, strict=True)]
        elif mask:
            row[mask] = [int(one) for one in has]
        rows.append(row if any(has) else row | {mask: [1] * len(ids) if mask != "labels" else ids} if mask else row)
    return rows


def axolotl(records: list[Record], tokenizer: Any) -> list[Labels | None]:
    """The labels from Axolotl's `chat_template` strategy: assistant turns, with marks of turns and parts of turns."""
    from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy

    prompter = ChatTemplatePrompter(
        tokenizer, tokenizer.chat_template, message_field_training="train", message_field_training_detail="train_detail"
    )
    strategy = ChatTemplateStrategy(prompter, tokenizer, False, 4096, roles_to_train=["assistant"], train_on_eos="turn")
    rows = [strategy.tokenize_prompt(record) for record in records]
    return [without_first(row["input_ids"], row["labels"]) for row in rows]


def llama_factory(records: list[Record], tokenizer: Any) -> list[Labels | None]:
    """The labels from LLaMA-Factory's template `chatml`. A stub replaces torchaudio, which only audio needs."""
    module = types.ModuleType("torchaudio")
    module.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules.setdefault("torchaudio", module)
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    options = DataArguments(template="chatml", cutoff_len=4096)
    template = get_template_and_fix_tokenizer(tokenizer, options)
    processor = SupervisedDatasetProcessor(template=template, tokenizer=tokenizer, processor=None, data_args=options)
    rows: list[Labels | None] = []
    for record in records:
        talk = record["messages"]
        system = talk[0]["content"] if talk[0]["role"] == "system" else None
        talk = talk[bool(system) :]
        ids, labels = processor._encode_data_example(  # pyright: ignore[reportPrivateUsage]
            prompt=talk[:-1], response=talk[-1:], system=system, tools=None, images=[], videos=[], audios=[]
        )
        rows.append(without_first(ids, labels))
    return rows


def unsloth(records: list[Record], tokenizer: Any) -> list[Labels | None]:
    """The labels from Unsloth's `train_on_responses_only`, whose package can be imported without a GPU."""
    os.environ["UNSLOTH_IS_PRESENT"] = "1"
    from unsloth_zoo.dataset_utils import train_on_responses_only

    parts = {"instruction_part": "<|im_start|>user\n", "response_part": "<|im_start|>assistant\n"}
    label = train_on_responses_only(None, **parts, tokenizer=tokenizer, return_function=True)
    rows = [tokenizer.apply_chat_template(record["messages"])["input_ids"] for record in records]
    return [without_first(ids, [int(one) for one in label({"input_ids": [ids]})["labels"][0]]) for ids in rows]


def marked(talks: list[list[Record]]) -> list[Record]:
    """Conversations in which `train` excludes some turns, or `train_detail` some characters."""
    rows: list[Record] = []
    for place, talk in enumerate(talks):
        row = [dict(message) for message in talk]
        answers = [message for message in row if message["role"] == "assistant"]
        if place % 2 and len(answers) > 1:
            answers[0]["train"] = False
        else:
            first = len(answers[-1]["content"].split(" ")[0])
            size = len(answers[-1]["content"])
            answers[-1]["train_detail"] = [{"begin_offset": 0, "end_offset": max(0, first - 1), "train": False}]
            if first < size:
                answers[-1]["train_detail"].append({"begin_offset": first, "end_offset": size - 1, "train": True})
        rows.append({"messages": row})
    return rows


def cases() -> Iterator[tuple[str, Callable[[], tuple[list[Labels | None], list[Labels | None]]]]]:
    """Yield the name of each comparison, and a function that returns their labels and ours."""
    plain, thoughts = make_tokenizer(GENERATION), make_tokenizer(THOUGHTS)
    talks = conversations()
    messages = [{"messages": talk} for talk in talks]
    split = [{"prompt": talk[:cut], "completion": talk[cut:]} for talk in talks
             for cut in [1 + (talk[0]["role"] == "system")]]  # fmt: skip
    single = [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in talks]
    texts = [{"prompt": ask, "completion": answer} for ask, answer in TEXTS]
    kto = [row | {"label": place % 3 != 0} for place, row in enumerate(single)]
    dpo = [{**row, "chosen": row["completion"], "rejected": [turn("assistant", "no")]} for row in single]
    dpo = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in dpo]
    dpo_texts = [{"prompt": ask, "chosen": answer, "rejected": "no"} for ask, answer in TEXTS]
    for name, tokenizer in (("plain", plain), ("thoughts dropped", thoughts)):
        yield f"TRL SFT, messages ({name})", lambda t=tokenizer: (sft(messages, t), ours(messages, t, mask="all"))
        yield f"TRL SFT, assistant_only_loss ({name})", lambda t=tokenizer: (
            sft(messages, t, assistant_only_loss=True), ours(messages, t, turns="all"))  # fmt: skip
        yield f"TRL SFT, prompt-completion, one turn ({name})", lambda t=tokenizer: (sft(single, t), ours(single, t))
        yield f"TRL SFT, prompt-completion, several turns ({name})", lambda t=tokenizer: (sft(split, t), ours(split, t))
        yield f"TRL KTO, messages ({name})", lambda t=tokenizer: (preference(kto, t, "kto"), ours(kto, t))
        yield f"TRL DPO, messages ({name})", lambda t=tokenizer: (preference(dpo, t, "dpo"), ours(dpo, t))
    chatml = make_tokenizer(CHATML)
    yield (
        "LLaMA-Factory, chatml",
        lambda: (llama_factory(messages, make_tokenizer(CHATML)), ours(messages, chatml, turns="all")),
    )
    yield "Unsloth, train_on_responses_only", lambda: (unsloth(messages, chatml), ours(messages, chatml, turns="all"))
    ends = make_tokenizer(CHATML, "<|im_end|>")
    for name, rows in (("", messages), (" with `train` and `train_detail`", marked(talks))):
        yield f"Axolotl, chat_template{name}", lambda r=rows: (
            axolotl(r, ends), ours(r, ends, mask="content", turns="all"))  # fmt: skip
    yield "TRL SFT, prompt-completion texts", lambda: (sft(texts, plain), ours(texts, plain, raw=True))
    yield "TRL DPO, texts", lambda: (preference(dpo_texts, plain, "dpo"), ours(dpo_texts, plain, raw=True))
    for mask in ("labels", "completion_mask", "assistant_masks", ""):
        rows = prepared(plain, mask)
        options = {"completion_only_loss": True} if mask == "completion_mask" else {}
        yield (
            f"TRL SFT, input_ids with {mask or 'no mask'}",
            lambda r=rows, o=options: (sft(r, plain, **o), ours(r, plain)),
        )
    rows, bare = prepared(plain, "labels"), prepared(plain, "")
    yield "Transformers DataCollatorForSeq2Seq", lambda: (
        collators(rows, plain, "DataCollatorForSeq2Seq"), ours(rows, plain))  # fmt: skip
    yield "Transformers DataCollatorForLanguageModeling", lambda: (
        collators(bare, plain, "DataCollatorForLanguageModeling"), ours(bare, plain))  # fmt: skip


def main() -> int:
    """Print the table; return 1 if any row differs."""
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    versions = {name: getattr(importlib.import_module(name), "__version__", "") for name in ("trl", "transformers")}
    print("| trainer | rows | equal | tokens with a loss: theirs, ours |", "|---|---|---|---|", sep="\n")
    differ = 0
    for name, compare in cases():
        try:
            theirs, mine = compare()
        except ImportError as fault:
            print(f"| {name} | not installed: {fault} | | |", flush=True)
            continue
        equal = [left == right for left, right in zip(theirs, mine, strict=True)]
        counts = [sum(label != -100 for row in side if row for label in row[1]) for side in (theirs, mine)]
        print(f"| {name} | {len(equal)} | {sum(equal)} | {counts[0]:,}, {counts[1]:,} |", flush=True)
        for place, same in enumerate(equal):
            if not same and "--show" in sys.argv:
                print(place, theirs[place], mine[place], sep="\n  ")
        differ += len(equal) - sum(equal)
    print(f"\n{versions}")
    return bool(differ)


if __name__ == "__main__":
    raise SystemExit(main())
