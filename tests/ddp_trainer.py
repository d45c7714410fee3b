"""A training by several processes: torchrun --nproc-per-node 2 ddp_trainer.py MODEL ROWS.jsonl OUT.

Each process writes to OUT.RANK what it finds once its training, with the callback, has returned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import distributed
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from taughtby.index.trainer_callback import IndexCallback


def encode(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    asked = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    wording = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": row["response"]}], tokenize=False)
    ids, start = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (wording, prompt))
    return {"input_ids": ids, "labels": [-100] * len(start) + ids[len(start) :]}


def main(base: str, data: str, out: str) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [encode(tokenizer, json.loads(line)) for line in Path(data).read_text().splitlines()]
    args = TrainingArguments(
        output_dir=f"{out}-trainer", max_steps=2, per_device_train_batch_size=2, use_cpu=True, ddp_backend="gloo",
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    hook = IndexCallback(data, out, ["rept:layer=3"])
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = Trainer(
        model=get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora), args=args, train_dataset=rows,
        processing_class=tokenizer, data_collator=DataCollatorForSeq2Seq(tokenizer), callbacks=[hook],
    )  # fmt: skip
    trainer.train()
    manifest = Path(out) / "manifest.json"
    result = {
        "processes": distributed.get_world_size(),
        "complete": manifest.exists() and json.loads(manifest.read_text())["complete"],
        "index": len(hook.index) if hook.index else None,
        "error": hook.error and str(hook.error),
    }
    distributed.barrier()  # the process group still works
    Path(f"{out}.{distributed.get_rank()}").write_text(json.dumps(result))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
