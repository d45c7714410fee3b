"""A benchmark's plan, and one scenario of it: a suite with a seed, its folder and its two models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taughtby.bench.suites import Size, Suite, check_suite, make
from taughtby.data.tokenize import Encoding, default_options
from taughtby.lab.finetune import TrainingOptions
from taughtby.models.loading import load_options
from taughtby.models.model import Model, load_model
from taughtby.remediation.provenance import name_and_hash

TUNED, UNTUNED = "tuned", "untuned"  # the fine-tuned model and the base model, in the results
# ChatML without SmolLM2's default system prompt, which is a third of a short row
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class BenchPlan:
    """Which methods to compare on which suites. A seed determines rows, training and queries.

    Attributes:
        suites: Names of suites.
        methods: Method specs.
        out: The folder of the results.
        num_seeds: Number of seeds, starting from 0.
        base_control: Whether to also trace the same answers through the base model.
        data: The folder of the public sets.
        adapters: Adapters by suite, to use instead of training one.
        model: The model to fine-tune.
        dtype: As in `load_model`.
        device: As in `load_model`.
        size: The size of a suite.
        recipe: The training options.
    """

    suites: tuple[str, ...]
    methods: tuple[str, ...]
    out: Path
    num_seeds: int = 3
    base_control: bool = True
    data: Path | None = None
    adapters: Mapping[str, str] = field(default_factory=dict[str, str])
    model: str = "smollm2"
    dtype: str = "auto"
    device: str = "auto"
    size: Size = field(default_factory=Size)
    recipe: TrainingOptions = field(default_factory=lambda: TrainingOptions(learning_rate=2e-3))

    @cached_property
    def model_key(self) -> list[Any]:
        """The model, and the number format and device to which "auto" resolves on this machine."""
        options = load_options(self.dtype, self.device, None)
        return [name_and_hash(self.model), str(options.dtype), options.device]

    def load(self, adapter: str | None = None, *, own_template: bool = False) -> Model:
        """Load the model; unless it keeps its own template, a ChatML model gets the shorter one."""
        model = load_model(self.model, adapter, dtype=self.dtype, device=self.device)
        if not own_template and "<|im_start|>" in str(model.tokenizer.chat_template):
            model.tokenizer.chat_template = TEMPLATE
        return model


class Scenario:
    """One suite with one seed."""

    def __init__(self, plan: BenchPlan, name: str, seed: int, load_base: Callable[[], Model]) -> None:
        self.plan, self.seed, self._load_base = plan, seed, load_base
        self.suite: Suite = make(name, seed, plan.size, plan.data)
        self.external_adapter = plan.adapters.get(name)
        self.folder = plan.out / f"{name}-{seed}-{self._key()}"
        self.data = self.folder / "data.jsonl"
        self.adapter = Path(self.external_adapter or self.folder / "adapter")
        self.title = f"{name}, seed {seed}"

    def _key(self) -> str:
        """A hash of all that the results depend on, except the method."""
        plan = self.plan
        rows = [[row.messages, row.tools, row.masked, row.label] for row in self.suite.rows]
        tests = [part for poison in self.suite.poisons for part in (poison.prompts, poison.judge, poison.planted_words)]
        rest = [*tests, self.suite.max_new_tokens, self.seed, name_and_hash(self.external_adapter), *plan.model_key,
                asdict(plan.size), asdict(plan.recipe), TEMPLATE]  # fmt: skip
        return hashlib.blake2b(json.dumps([rows, rest]).encode(), digest_size=5).hexdigest()

    @cached_property
    def tuned(self) -> Model:
        """The fine-tuned model."""
        return self.plan.load(str(self.adapter), own_template=self.external_adapter is not None)

    @cached_property
    def base(self) -> Model:
        """The base model, shared by all scenarios; with an external adapter, with the chat template of that folder."""
        if self.external_adapter is None:
            return self._load_base()
        model = self.plan.load(own_template=True)
        model.tokenizer.chat_template = self.tuned.tokenizer.chat_template
        return model

    @cached_property
    def encoding(self) -> Encoding:
        """How the fine-tuned model's rows were tokenized; used for both models."""
        return default_options(self.tuned.metadata, self.tuned.context_length, raw=False)

    def model(self, which: str) -> Model:
        """Return the fine-tuned model or the base model."""
        return self.tuned if which == TUNED else self.base


def make_scenarios(plan: BenchPlan) -> list[Scenario]:
    """Return every suite with every seed. They share one base model, loaded on first use.

    Raises:
        OptionError: A suite does not exist.
        DataError: A public suite is not in the plan's folder.
    """
    for name in plan.suites:
        check_suite(name, plan.data)
    bases: list[Model] = []

    def load_base() -> Model:
        if not bases:
            bases.append(plan.load())
        return bases[0]

    return [Scenario(plan, name, seed, load_base) for name in plan.suites for seed in range(plan.num_seeds)]
