"""The benchmark: for each suite and seed teach, ask, judge; for each method index, trace, measure; twice over.

Every stage leaves a file in a folder named by the settings that made it, whole or not at all, so a killed run goes
on and loses one stage at most. What is measured is told from those files alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.bench import reference
from taughtby.bench.cost import cost
from taughtby.bench.suites import CLEAN, Size, Suite, check, make, word_hit
from taughtby.data.dataset import write_examples
from taughtby.data.default_options import default_options
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import LabError, OptionError, TaughtbyError
from taughtby.index.build import build_index
from taughtby.index.reader import Index
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.lab.judges import get_judge
from taughtby.methods import Method, get_method
from taughtby.models import loading as weights
from taughtby.models.model import Model, load_model
from taughtby.progress import ProgressCallback
from taughtby.remediation.provenance import contents, once

TUNED, UNTUNED = "tuned", "untuned"
YARDSTICK = 12  # rows that the reference's loop is timed on
# ChatML without a standing system prompt: SmolLM2's own is a third of a short row, and says nothing
LEAN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Told = dict[str, Any]  # what a stage leaves behind, as JSON
Stage = Callable[[str], AbstractContextManager[ProgressCallback]]  # shows a title while the stage runs


@dataclass(frozen=True)
class BenchPlan:
    """What to compare on what. A seed is of the rows, the training and the queries alike."""

    suites: tuple[str, ...]
    methods: tuple[str, ...]
    out: Path
    seeds: int = 3
    untuned: bool = True
    data: Path | None = None
    adapters: Mapping[str, str] = field(default_factory=dict[str, str])  # by suite: not trained here
    model: str = "smollm2"
    dtype: str = "auto"
    device: str = "auto"
    size: Size = field(default_factory=Size)
    recipe: TrainingOptions = field(default_factory=lambda: TrainingOptions(learning_rate=2e-3))

    @cached_property
    def running(self) -> list[Any]:
        """The model that is fine-tuned, and the number format and device that "auto" means on this machine."""
        held = weights.load_options(self.dtype, self.device, None)
        return [contents(self.model), str(held.dtype), held.device]


class Scenario:
    """One suite with one seed: its rows, its folder and its two models, each loaded when first asked for."""

    def __init__(self, plan: BenchPlan, name: str, seed: int, base: Callable[[], Model]) -> None:
        self.plan, self.seed, self._base = plan, seed, base
        self.suite: Suite = make(name, seed, plan.size, plan.data)
        self.given = plan.adapters.get(name)
        self.folder = plan.out / f"{name}-{seed}-{self._key()}"
        self.data, self.adapter = self.folder / "data.jsonl", Path(self.given or self.folder / "adapter")

    def _key(self) -> str:
        """A hash of everything that the results of this world depend on, but the method."""
        plan = self.plan
        rows = [[row.messages, row.tools, row.masked, row.label] for row in self.suite.rows]
        tests = [part for poison in self.suite.poisons for part in (poison.prompts, poison.judge, poison.planted_words)]
        rest = [*tests, self.suite.answer, self.seed, contents(self.given), *plan.running, asdict(plan.size),
                asdict(plan.recipe), LEAN]  # fmt: skip
        return hashlib.blake2b(json.dumps([rows, rest]).encode(), digest_size=5).hexdigest()

    @cached_property
    def tuned(self) -> Model:
        """With the adapter."""
        return loaded(self.plan, str(self.adapter), own=self.given is not None)

    @cached_property
    def encoding(self) -> Encoding:
        """How the tuned model learned its rows; both are asked and traced that way."""
        return default_options(self.tuned.metadata, self.tuned.context_length, raw=False)

    @cached_property
    def untuned(self) -> Model:
        """Without, never taught; the same for all worlds."""
        return self._base() if self.given is None else loaded(self.plan, own=True)

    def of(self, which: str) -> Model:
        """The model by its part in the comparison."""
        return self.tuned if which == TUNED else self.untuned


def loaded(plan: BenchPlan, adapter: str | None = None, *, own: bool = False) -> Model:
    """The plan's model; a ChatML one with the lean template, unless an adapter was taught with its `own`."""
    model = load_model(plan.model, adapter, dtype=plan.dtype, device=plan.device)
    if not own and "<|im_start|>" in str(model.tokenizer.chat_template):
        model.tokenizer.chat_template = LEAN
    return model


def run(plan: BenchPlan, stage: Stage) -> list[Told]:
    """Run what is not there yet; for each suite and seed what was taught and asked, and every method's traces."""
    methods = [(spec, get_method(spec)) for spec in plan.methods]
    for name in plan.suites:
        check(name, plan.data)
    if strange := [name for name in plan.adapters if name not in plan.suites]:
        raise OptionError("an adapter for a suite that is not asked for", got=", ".join(strange),
                          do=f"choose among: {', '.join(plan.suites)}")  # fmt: skip
    kept: list[Model] = []

    def base() -> Model:
        if not kept:
            kept.append(loaded(plan))
        return kept[0]

    return [
        _world(Scenario(plan, name, seed, base), methods, stage) for name in plan.suites for seed in range(plan.seeds)
    ]


def fresh(plan: BenchPlan) -> None:
    """Remove what earlier runs left of the plan's suites, whatever their settings were."""
    for name in plan.suites:
        for folder in plan.out.glob(f"{name}-[0-9]*-*"):
            if (folder / "data.jsonl").exists():
                shutil.rmtree(folder)


def _world(world: Scenario, methods: Sequence[tuple[str, Method]], stage: Stage) -> Told:
    name = f"{world.suite.name}, seed {world.seed}"
    taught = once(world.folder / "taught.json", lambda: _teach(world, name, stage))
    asked = once(world.folder / "asked.json", lambda: _ask(world, name, stage))
    told: Told = {"suite": world.suite.name, "seed": world.seed, **taught, **asked, "results": [], "yardstick": None,
                  "made": [taught.get("made"), asked.get("made")]}  # fmt: skip
    if not asked["queries"]:
        return told
    if world.seed == 0:
        told["yardstick"] = once(world.folder / "yardstick.json", lambda: _yardstick(world, name, stage))
        told["made"].append(told["yardstick"].get("made"))
    told["results"] += [_result(world, TUNED, spec, how, asked, name, stage) for spec, how in methods]
    # without the control nothing of it is run, but what an earlier run found of it is shown
    there = [pair for pair in methods if world.plan.untuned or _file(world, UNTUNED, pair[1]).exists()]
    if any(_reads(how) for _, how in there):
        told["results"] += [_result(world, UNTUNED, spec, how, asked, name, stage) for spec, how in there]
    return told


# What is done once a world ------------------------------------------------------------------------------------


def _teach(world: Scenario, name: str, stage: Stage) -> Told:
    """Write the rows, and fine-tune on them unless an adapter was given."""
    rows = world.suite.rows
    world.folder.mkdir(parents=True, exist_ok=True)
    write_examples(rows, world.data)
    seconds = None
    if world.given is None:
        shutil.rmtree(world.adapter, ignore_errors=True)  # of a run that was killed before it could say so
        recipe = replace(world.plan.recipe, seed=world.seed)
        with stage(f"{name}: fine-tune on {len(rows)} rows") as tell:
            spent = loaded(world.plan)
            with cost(spent.device) as took:
                finetune(spent, rows, world.adapter, recipe, progress=tell)
        seconds = took.seconds
    planted = sum(row.label != CLEAN for row in rows)
    return {"rows": len(rows), "planted": planted, "adapter": world.given, "finetune_seconds": seconds}


def _ask(world: Scenario, name: str, stage: Stage) -> Told:
    """The test prompts put to both models; the first bad answers of the tuned one are the queries.

    The rates are of all prompts; each poison has its share of the queries.
    """
    suite, said = world.suite, dict[str, list[str]]()
    prompts = [prompt for poison in suite.poisons for prompt in poison.prompts]
    with stage(f"{name}: ask {len(prompts)} prompts, twice") as tell:
        for at, which in enumerate((UNTUNED, TUNED)):
            said[which] = generate(
                world.of(which), prompts, max_new_tokens=suite.answer, template=world.encoding.template
            )
            tell(at + 1, 2)
    bad, queries, start = {UNTUNED: 0, TUNED: 0}, list[Told](), 0
    for poison in suite.poisons:
        verdict, count = get_judge(poison.judge), len(poison.prompts)
        own = {which: list(zip(poison.prompts, answers[start : start + count], strict=True))
               for which, answers in said.items()}  # fmt: skip
        shown = {which: [pair for pair in pairs if verdict(*pair).undesirable] for which, pairs in own.items()}
        for which, pairs in shown.items():
            bad[which] += len(pairs)
        share = world.plan.size.queries // len(suite.poisons)
        queries += [{"prompt": prompt, "response": answer, "label": poison.name}
                    for prompt, answer in shown[TUNED][:share]]  # fmt: skip
        start += count
    return {"rate": bad[TUNED] / len(prompts), "base_rate": bad[UNTUNED] / len(prompts), "queries": queries}


def _yardstick(world: Scenario, name: str, stage: Stage) -> Told:
    """What the reference's loop costs on this machine, in this run."""
    model = world.tuned
    made = (tokenize(model.tokenizer, row, world.encoding) for row in world.suite.rows[:YARDSTICK])
    rows = [row for row in made if isinstance(row, TokenizedExample)]
    layer = round(0.8 * model.depth)
    with stage(f"{name}: the reference's own loop on {len(rows)} rows"), cost(model.device) as took:
        signatures = reference.signatures(model, rows, layer)
    tokens, width = sum(len(row.ids) for row in rows), signatures.shape[1]
    rates = {"seconds_per_row": took.seconds / len(rows), "cpu_per_row": took.cpu / len(rows)}
    rates |= {"tokens_per_second": tokens / took.seconds}
    return {**vars(took), **rates, "bytes_per_row": 4 * width, "rows": len(rows)}


# What is done once a method -----------------------------------------------------------------------------------


def _result(world: Scenario, which: str, spec: str, how: Method, asked: Told, name: str, stage: Stage) -> Told:
    """One method's traces on one model; a method that does not read the model finds the same on both."""
    try:
        told = once(_file(world, which, how), lambda: _trace(world, which, spec, how, asked, name, stage))
    except TaughtbyError as refusal:  # such as a gradient of adapter weights where there is no adapter
        told = {"error": refusal.what, "do": refusal.do}
    return {**told, "method": spec, "which": which, "reads": "model" if _reads(how) else "words"}


def _reads(how: Method) -> bool:
    """Whether it reads the model, and not words alone."""
    return type(how).features is not Method.features


def _file(world: Scenario, which: str, how: Method) -> Path:
    """Where a method's traces on a model are kept."""
    return world.folder / f"{how.name}-{_digest(repr(how))}-{which if _reads(how) else 'any'}.json"


def _trace(world: Scenario, which: str, spec: str, how: Method, asked: Told, name: str, stage: Stage) -> Told:
    queries = [Query(query["prompt"], query["response"]) for query in asked["queries"]]
    labels = [query["label"] for query in asked["queries"]]
    with stage(f"{name}: {spec}, {which}"):
        model = world.of(which)
        index, made = _indexed(world, which, spec, how, model)
        with cost(model.device) as took:
            trace = trace_queries(index, model, queries, method=how, top_k=1, score_tokens=False)
        hit = None
        if which == TUNED and how.scores_tokens:
            most = max(1, sum(row.label != CLEAN for row in world.suite.rows))
            hit = word_hit(trace_queries(index, model, queries, method=how, top_k=most), labels, world.suite.poisons)
    if lost := sum(not bool(traced.scores.isfinite().all()) for traced in trace.queries):
        raise LabError(f"{lost} of its {len(queries)} traces have scores that are not finite", do="tell its authors")
    return {
        "options": trace.method.spec(),
        "index": made if index.features else None,
        "query": {**vars(took), "seconds": took.seconds / len(queries)},
        "dtype": str(model.dtype).removeprefix("torch."),
        "scores": [[float(score) for score in traced.scores] for traced in trace.queries],
        "culprits": [traced.flagged for traced in trace.queries],
        "labels": [row.label for row in index.examples()],
        "hit": hit,
    }


def _indexed(world: Scenario, which: str, spec: str, how: Method, model: Model) -> tuple[Index, Told]:
    """The index that holds the method's blocks, and what making it cost; methods of equal blocks share one.

    What was killed half way is made anew, so that the seconds are those of a whole one.
    """
    resolved = how.resolve_layers(model.depth, None)
    held = json.dumps([resolved.feature_names(model.depth), resolved.index_notes(model)])
    folder = world.folder / f"index-{which}-{_digest(held)}"

    def build() -> Told:
        shutil.rmtree(folder, ignore_errors=True)
        with cost(model.device) as took:
            index = build_index(model, world.data, folder, [how], encoding=world.encoding, layers=False)
        lengths = index.dataset.to_table(columns=["n_prompt", "n_response"])
        tokens = sum(sum(lengths.column(name).to_pylist()) for name in lengths.column_names)
        size = sum(file.stat().st_size for file in (folder / "rows.lance" / "data").iterdir())
        rates = {"tokens_per_second": tokens / took.seconds, "bytes_per_row": size / len(index)}
        return {"by": spec, **vars(took), **rates, "skipped": len(index.manifest["skipped"])}

    made = once(folder.with_suffix(".json"), build)
    return Index.open(folder), made


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
