"""Retraining experiments on known poisons: fine-tune, audit and retrain each scenario with several seeds.

Every scenario has its own folder, which contains the audit. An interrupted run resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from taughtby.data.dataset import read_examples, write_examples
from taughtby.data.example import Example
from taughtby.lab import poisons as lab
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.models.loading import load_options
from taughtby.models.model import load_model
from taughtby.progress import ProgressCallback
from taughtby.remediation.audit import AuditCase, audit
from taughtby.remediation.audit_report import write_report
from taughtby.remediation.experiment import (
    ALL,
    CLEANED,
    MASKED,
    ORIGINAL,
    TOP,
    TRUTH,
    Behaviour,
    ExperimentDesign,
    RetrainExperiment,
)
from taughtby.remediation.provenance import name_and_hash
from taughtby.remediation.retrain import retrain
from taughtby.remediation.stage_cache import STAGES, Show, StageCache
from taughtby.remediation.statistics import (
    bad_of_judged,
    claims,
    format_rate,
    get_condition,
    loss_change,
    random_conditions,
)
from taughtby.remediation.trace_file import Document

POISONS = ("backdoor", "error", "persona")
NUM_HELD_OUT = 32  # ordinary rows to measure the loss on, if all poisons are in one training set
COLUMNS = {"original": ORIGINAL, "all rows": ALL, "cleaned": CLEANED, "random": "", "truth": TRUTH, "masked": MASKED}
NOTE = (
    "Bad answers to all test prompts, with Wilson's 95 % interval. Random: as many random rows removed as rows are "
    "flagged. Truth: all planted rows removed, the best possible result. Masked: all rows kept, their top-scoring "
    "words masked. Clean loss: how cleaning changes it on held-out rows, with the 95 % interval of a paired t-test."
)


@dataclass(frozen=True)
class RetrainingPlan:
    """Which scenarios to run: each poison with each seed, which determines rows, training and random rows.

    Attributes:
        out: The folder of the results.
        poisons: Names of the poisons.
        num_seeds: Number of seeds, starting from 0.
        num_planted: Planted rows per scenario.
        num_clean: Ordinary rows per scenario.
        num_held_out: Further ordinary rows, to measure the loss on.
        num_ordinary: How many prompts of these rows are answered too.
        num_prompts: Maximum number of test prompts.
        masked: Poisons with a condition that masks the top-scoring words.
        curve: Sizes of the removal curve, for the first seed only.
        model: The model to fine-tune.
        recipe: The training options.
        dtype: As in `load_model`.
        device: As in `load_model`.
    """

    out: Path
    poisons: tuple[str, ...] = POISONS
    num_seeds: int = 3
    num_planted: int = 40
    num_clean: int = 120
    num_held_out: int = 64
    num_ordinary: int = 24
    num_prompts: int = 36
    masked: tuple[str, ...] = ("error",)
    curve: tuple[int, ...] = ()
    model: str = "smollm2"
    recipe: TrainingOptions = field(default_factory=lambda: TrainingOptions(learning_rate=2e-3))
    dtype: str = "auto"
    device: str = "auto"


def run(plan: RetrainingPlan, show: Show) -> Document:
    """Run every scenario that has no stored result; return the results of all, as JSON without local paths."""
    scenarios = [_Scenario(plan, name, seed, show).run() for seed in range(plan.num_seeds) for name in plan.poisons]
    scenarios.sort(key=lambda scenario: plan.poisons.index(scenario["poison"]))
    return {"version": 2, "model": plan.model, "recipe": asdict(plan.recipe), "num_planted": plan.num_planted,
            "num_clean": plan.num_clean, "scenarios": scenarios}  # fmt: skip


def combined_poisons(
    model: str, adapter: Path, poisons: Sequence[lab.Poison], flagged_ids: Sequence[str], cache: StageCache, *,
    data: Path, recipe: TrainingOptions, num_prompts: int, max_new_tokens: int,
) -> Document:  # fmt: skip
    """Return the retraining experiment for several poisons in one training set.

    Args:
        model: The base model.
        adapter: The adapter trained on all of `data` by `recipe`.
        poisons: The poisons in `data`.
        flagged_ids: Ids of the rows to remove.
        cache: Where stages are stored.
        data: The training data. The loss is measured on ordinary rows that are not in it.
        recipe: The training options of every condition.
        num_prompts: Maximum number of test prompts per poison.
        max_new_tokens: Maximum tokens per answer.
    """
    rows = list(read_examples(data))
    held_out = lab.unseen_rows(lab.clean_rows(4 * NUM_HELD_OUT, recipe.seed), rows)[:NUM_HELD_OUT]
    behaviours = tuple(Behaviour(poison.name, poison.prompts[:num_prompts], poison.judge) for poison in poisons)
    experiment = RetrainExperiment(model, recipe, behaviours, max_new_tokens=max_new_tokens)
    design = ExperimentDesign(full_adapter=str(adapter))
    ordinary = [row.question for row in held_out]
    return retrain(experiment, rows, flagged_ids, cache, design=design, held_out=held_out, ordinary=ordinary)


def tables(results: Document) -> list[dict[str, Any]]:
    """Return a line per scenario (rows flagged, bad answers by condition, effect on the loss), and removal curves."""
    columns = ["poison", "seed", "planted rows flagged", "others", *COLUMNS, "clean loss", "verdict"]
    lines = [_line(scenario) for scenario in results["scenarios"]]
    main = {"title": "Bad answers after each training", "columns": columns, "rows": lines, "note": NOTE}
    curves = [scenario for scenario in results["scenarios"] if len(_curve_steps(scenario)) > 1]
    if not curves:
        return [main]
    steps = [str(condition["num_removed"]) for condition in _curve_steps(curves[0])]
    rows = [[name := scenario["poison"], *(bad_of_judged(step["behaviours"][name]) for step in _curve_steps(scenario))]
            for scenario in curves]  # fmt: skip
    note = "Rows in the order of their best rank for any traced answer, with the first seed; the first k are removed."
    return [main, {"title": "Bad answers without the top k rows", "columns": ["poison", *steps], "rows": rows,
                   "note": note}]  # fmt: skip


class _Scenario:
    """One poison with one seed, in its folder."""

    def __init__(self, plan: RetrainingPlan, name: str, seed: int, show: Show) -> None:
        self.plan, self.seed, self.out = plan, seed, plan.out / f"{name}-{seed}"
        self.poison = lab.make_poison(name, plan.num_planted, seed)
        ordinary = lab.clean_rows(plan.num_clean + plan.num_held_out, seed)
        self.rows = lab.mix([self.poison], ordinary[: plan.num_clean], seed)
        self.held_out = lab.unseen_rows(ordinary[plan.num_clean :], self.rows)
        self.cache = StageCache(self.out / STAGES, lambda title: show(f"{name}, seed {seed}: {title}"))

    def run(self) -> Document:
        """Fine-tune, audit and report; return the results without local paths."""
        plan, name = self.plan, self.poison.name
        lab.save_poisons([self.poison], self.rows, self.out)
        ordinary = self.held_out[: plan.num_ordinary]
        files = {
            "held_out": self._save("held.jsonl", self.held_out),
            "ordinary": self._save("ordinary.jsonl", ordinary),
        }
        adapter = str(self.fine_tune())
        behaviour = Behaviour(name, self.poison.prompts[: plan.num_prompts], self.poison.judge)
        case = AuditCase(
            plan.model, str(self.out / "data.jsonl"), behaviour, adapter, full_adapter=adapter,
            curve=plan.curve if self.seed == 0 else (), truth_labels=(name,), mask_words=name in plan.masked,
            held_out=tuple(read_examples(files["held_out"])), ordinary=tuple(row.question for row in ordinary),
            files=files, dtype=plan.dtype, device=plan.device,
        )  # fmt: skip
        results = audit(case, self.out / "audit", self.cache.show)
        write_report(case, results, self.out / "audit")
        proof = results["proof"] and _without_paths(results["proof"])
        return {"poison": name, "seed": self.seed, "num_rows": len(self.rows), "answers": results["answers"],
                "num_flagged": len(results["removals"]), "proof": proof}  # fmt: skip

    def fine_tune(self) -> Path:
        """Train an adapter on all rows, and return its folder."""
        plan, recipe = self.plan, replace(self.plan.recipe, seed=self.seed)
        options = load_options(plan.dtype, plan.device, None)  # resolves "auto" on this machine
        rows = [[row.messages, row.masked] for row in self.rows]
        dependencies = [name_and_hash(plan.model), str(options.dtype), options.device, asdict(recipe), rows]
        adapter = self.cache.path("tuned", dependencies)

        def make(progress: ProgressCallback) -> int:
            if not adapter.exists():
                model = load_model(plan.model, dtype=plan.dtype, device=plan.device)
                finetune(model, self.rows, adapter, recipe, progress=progress)
            return len(self.rows)

        self.cache.get_or_run("tuned", dependencies, f"fine-tune on {len(self.rows)} rows", make)
        return adapter

    def _save(self, name: str, rows: Sequence[Example]) -> str:
        write_examples(rows, self.out / name)
        return str(self.out / name)


def _without_paths(proof: Document) -> Document:
    conditions = [{name: value for name, value in one.items() if name != "model"} for one in proof["conditions"]]
    rest = {name: value for name, value in proof.items() if name not in ("original", "held_out")}
    return {**rest, "num_held_out": proof["held_out"]["num_rows"], "conditions": conditions,
            "claims": [asdict(claim) for claim in claims(proof)]}  # fmt: skip


def _line(scenario: Document) -> list[str]:
    proof, name, seed = scenario["proof"], scenario["poison"], str(scenario["seed"])
    if not proof:
        return [name, seed, *["none"] * 2, format_rate(scenario["answers"]), *[""] * len(COLUMNS), "nothing to retrain"]
    (control,) = [condition["behaviours"][name] for condition in random_conditions(proof)]
    conditions = [get_condition(proof, kind) if kind else {"behaviours": {name: control}} for kind in COLUMNS.values()]
    rates = [format_rate(condition["behaviours"][name]) if condition else "" for condition in conditions]
    change, truth = loss_change(get_condition(proof, CLEANED), get_condition(proof, ALL)), proof["truth"]
    loss = f"{change[0]:+.1%} ({change[1]:+.1%} to {change[2]:+.1%})" if change else ""
    flagged = [f"{truth['num_flagged']} of {truth['num_rows']}", str(proof["num_flagged"] - truth["num_flagged"])]
    return [name, seed, *flagged, *rates, loss, proof["claims"][0]["verdict"]]


def _curve_steps(scenario: Document) -> list[Document]:
    """The conditions of the removal curve, all rows first."""
    conditions = scenario["proof"]["conditions"] if scenario["proof"] else []
    return [condition for condition in conditions if condition["name"].split()[0] in (ALL, TOP)]
