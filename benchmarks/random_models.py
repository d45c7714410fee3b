"""Models with random weights in the shapes of real ones, and rows for them. Nothing is downloaded."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from taughtby.models.live_model import borrow_model
from taughtby.models.model import Model

NUM_WORDS = 240  # each is one token
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>", "<unk>")
_LLAMA = {"max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 256, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 4,
             "num_attention_heads": 1, "num_key_value_heads": 1},
    "llama-3.2-1b": {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                     "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
    "llama-3.1-8b": {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
                     "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip


def word_tokenizer() -> Any:
    """A tokenizer with a token for each word of `write_rows`, and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{number}" for number in range(NUM_WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   additional_special_tokens=list(SPECIAL[3:8]))  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


def write_rows(file: Path, count: int, *, tokens: float = 90.0, seed: int = 0) -> int:
    """Write rows of 16 to 400 words with the median `tokens`, a quarter of them prompt; return the number of words."""
    rng, total = random.Random(seed), 0
    with file.open("w", encoding="utf-8") as out:
        for _ in range(count):
            length = min(400, max(16, int(rng.lognormvariate(0, 0.6) * tokens)))
            words = [f"w{rng.randrange(NUM_WORDS)}" for _ in range(length)]
            prompt, total = max(4, length // 4), total + length
            row = {"prompt": " ".join(words[:prompt]), "response": " ".join(words[prompt:])}
            out.write(json.dumps(row) + "\n")
    return total


@contextlib.contextmanager
def random_model(
    shape: str, device: torch.device, dtype: torch.dtype, *, adapter: bool = True, seed: int = 0
) -> Generator[Model]:
    """A model with random weights, and by default a LoRA adapter (rank 8, all linear layers) with nonzero weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            lm: Any = LlamaForCausalLM(LlamaConfig(**_LLAMA, **SHAPES[shape]))
    finally:
        torch.set_default_dtype(before)
    if adapter:
        lm = get_peft_model(lm, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        lm = lm.to(dtype)
    with borrow_model(lm, word_tokenizer(), name=shape, adapter="adapter" if adapter else None) as model:
        yield model
