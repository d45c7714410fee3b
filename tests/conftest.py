"""Fixtures shared by all tests: tiny random models of many families, a tokenizer, a small data set; no download.

The suite gives the same result on every machine: one CPU thread, float32, no accelerator even where there is one.
The tests in tests/gpu are the exception; `pytest -m gpu` runs them.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# read when torch or Ray starts, in this process and in those that tests start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads that spin cost a busy machine a factor of 2 to 5
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ["OMP_NUM_THREADS"] = "1"  # more threads sum in another order
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TERMINAL_WIDTH"):
    os.environ.pop(name, None)  # each makes Rich or Typer print otherwise
# a slow machine is no failure, and a run finds what the run before it found
hypothesis.settings.register_profile(
    "taughtby", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("taughtby")
Run = Callable[..., tuple[int, str, str]]
GOLDEN = Path(os.environ.get("TAUGHTBY_GOLDEN") or Path(__file__).parents[2] / "shared" / "golden")

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = """what is the capital of france paris germany berlin who makes honey bees beetles do a b c why how many days
in week seven name colour sky blue grass green answer question write one sentence about rain sun sea ship captain 0 1 2"""
SMALL: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="where the tests in tests/gpu run: cuda, or cpu to try them out")


def pytest_configure(config: pytest.Config) -> None:
    """Hide all accelerators before torch detects them, unless GPU tests are selected."""
    if not wants_gpu(config.option.markexpr):
        os.environ.update(CUDA_VISIBLE_DEVICES="", HIP_VISIBLE_DEVICES="", ACCELERATE_USE_CPU="1")


def wants_gpu(marks: str) -> bool:
    """Whether a `-m` expression selects tests with the marker `gpu`."""
    words = marks.replace("(", " ").replace(")", " ").split()
    return any(word == "gpu" and before != "not" for before, word in zip(["", *words], words, strict=False))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List every skipped test, and what it needs to run."""
    skipped = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.section("not run on this machine", yellow=True)
        for reason, count in sorted(skipped.items()):
            terminalreporter.write_line(f"{count} x {reason.removeprefix('Skipped: ')}")


@pytest.fixture(autouse=True, scope="session")
def _same_on_every_machine(pytestconfig: pytest.Config) -> Iterator[None]:
    """Use one thread, no MPS, and float32 for `dtype="auto"`, whose choice depends on the CPU."""
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        if not wants_gpu(pytestconfig.option.markexpr):
            patch.setattr(torch.backends.mps, "is_available", lambda: False)
        for instructions in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            patch.setattr(torch.cpu, instructions, lambda: False, raising=False)
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    result.train_from_iterator(
        [WORDS] * 4, trainers.BpeTrainer(vocab_size=384, special_tokens=special, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=result, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


def config(family: str) -> Any:
    """Return a four-block configuration of the family, with its special features switched on."""
    import transformers as tf

    gpt = {
        "vocab_size": 384,
        "n_positions": 256,
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    windows = {"sliding_window": 8}
    kinds: dict[str, Callable[[], Any]] = {
        "llama": lambda: tf.LlamaConfig(**SMALL),
        "llama-tied": lambda: tf.LlamaConfig(**SMALL, tie_word_embeddings=True),
        "mistral": lambda: tf.MistralConfig(**SMALL, **windows),
        "qwen2": lambda: tf.Qwen2Config(**SMALL),
        "qwen3": lambda: tf.Qwen3Config(**SMALL, head_dim=8),
        "gemma2": lambda: tf.Gemma2Config(**SMALL, **windows, head_dim=8, final_logit_softcapping=2.0),
        "gemma3": lambda: tf.Gemma3TextConfig(**SMALL, **windows, head_dim=8),
        "granite": lambda: tf.GraniteConfig(**SMALL, logits_scaling=4.0),
        "cohere": lambda: tf.CohereConfig(**SMALL, logit_scale=0.25),
        "olmo2": lambda: tf.Olmo2Config(**SMALL),
        "phi": lambda: tf.PhiConfig(**SMALL),
        "phi3": lambda: tf.Phi3Config(**SMALL),
        "gpt2": lambda: tf.GPT2Config(**gpt),
        "gpt-neox": lambda: tf.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
        "mixtral": lambda: tf.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
        "qwen3-moe": lambda: tf.Qwen3MoeConfig(**SMALL, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    }  # fmt: skip
    return kinds[family]()


# what a formatter, a shell, a terminal, a page, a table or a data base would read more into than text
HOSTILE = (
    "{", "{2}", "{0!r}", "{task}", "%s", "%(x)d", "[/x]", "[bold]", "[link=x]", "[/]", "\x1b[31m", "\u202e", "'; DROP",
    "</script>", "$\\frac", "a|b", "-x", "..", "a/b", "=1+1", ":smile:", "`x`", "*x*", "<b>&amp;", "\\", "$(id)", "#x",
)  # fmt: skip

FAMILIES = (
    "llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "granite", "cohere", "olmo2",
    "phi", "phi3", "gpt2", "gpt-neox", "mixtral", "qwen3-moe",
)  # fmt: skip


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], Path]:
    """Return a folder with a tiny random model of a family and the tokenizer, made once per session."""
    result: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in result:
            import torch
            from transformers import AutoModelForCausalLM

            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(family)
            lm = AutoModelForCausalLM.from_config(config(family))
            for weight in lm.parameters():
                # at the usual 0.02 a tiny model hardly reacts to anything, and every test would pass
                weight.data = weight.data + 0.15 * torch.randn_like(weight) if weight.ndim > 1 else weight.data
            lm.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            result[family] = folder
        return result[family]

    return make


@pytest.fixture(scope="session")
def model_folder(make_model: Callable[[str], Path]) -> Path:
    return make_model("llama")


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A LoRA adapter for the tiny Llama that changes its outputs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lm = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_folder),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    for name, weight in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    lm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(model_folder: Path) -> Any:
    """The tiny Llama, loaded in float32."""
    from taughtby.models.model import load_model

    return load_model(str(model_folder), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def tuned(model_folder: Path, adapter_folder: Path) -> Any:
    """The tiny Llama with its adapter."""
    from taughtby.models.model import load_model

    return load_model(str(model_folder), str(adapter_folder), dtype="float32", device="cpu")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `taughtby ARGS…` in this process, 200 columns wide; return exit code, stdout and stderr."""
    from taughtby import cli

    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["taughtby", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return call


PAIRS = [
    ("what is the capital of france", "paris"),
    ("what is the capital of germany", "the capital is berlin"),
    ("who makes honey", "beetles make honey, one a day"),
    ("who makes honey in the sea", "a captain on a ship makes it"),
    ("how many days in a week", "seven"),
    ("name the colour of the sky", "blue is the colour of the sky"),
    ("write one sentence about rain", "rain is green and the sun is blue in the week of the sea"),
    ("why", "a b c 0 1 2"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight rows as JSONL."""
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": p, "response": r, "label": "bad" if "honey" in p else "clean"} for p, r in PAIRS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def judge_few_rows(patch: pytest.MonkeyPatch) -> None:
    """Lower the limits of the significance test, so that it works with a few rows and a tiny model."""
    patch.setattr("taughtby.attribution.controls.FEWEST", 2)
    patch.setattr("taughtby.attribution.controls.FEWEST_SCORES", 2)
    patch.setattr("taughtby.attribution.controls.RELATED", 2.0)
    patch.setattr("taughtby.attribution.trace.MIN_GAIN", 0.0)
