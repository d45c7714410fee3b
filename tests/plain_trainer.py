"""Somebody's own training script, as they are: python plain_trainer.py MODEL ROWS.jsonl OUT.

It knows nothing of taughtby: it writes its own chat template, tokenises and masks by itself, trains LoRA with
Transformers' Trainer, and saves what `save_model` saves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
MAX = 40


def encode(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """Its ids, cut at the end, and labels for what it learns from."""
    asked = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    items = [*asked, {"role": "assistant", "content": row["response"]}]
    whole = tokenizer.apply_chat_template(items, tokenize=False)
    ids = tokenizer(whole, truncation=True, max_length=MAX, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(prompt, truncation=True, max_length=MAX, add_special_tokens=False)["input_ids"])
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * start + ids[start:]}


def main(base: str, data: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    rows = [encode(tokenizer, json.loads(line)) for line in Path(data).read_text().splitlines()]
    lora = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    args = TrainingArguments(
        output_dir=out, num_train_epochs=15, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[],
        save_strategy="steps", save_steps=1000, logging_steps=1, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora), args=args,
        train_dataset=rows, processing_class=tokenizer, data_collator=DataCollatorForSeq2Seq(tokenizer),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
