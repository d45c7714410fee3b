"""Train a LoRA adapter with TRL: python train.py DATA OUT. `base` is the model's folder."""

import sys

from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

data, out = sys.argv[1:]
trainer = SFTTrainer(
    "base",
    SFTConfig(out, num_train_epochs=6, learning_rate=5e-4, per_device_train_batch_size=8, bf16=False, report_to="none"),
    train_dataset=load_dataset("json", data_files=data, split="train"),
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model()
