"""The table of docs/proof.md: poisons whose rows are known, each taught, audited and proved with several seeds.

Every world is a folder of its own with the audit in it; killed, the same call goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from taughtby.data import dataset
from taughtby.data.example import Example
from taughtby.lab import poisons as lab
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.models import loading as weights
from taughtby.models.model import load_model
from taughtby.progress import ProgressCallback
from taughtby.remediation import audit_report as story
from taughtby.remediation.audit import AuditCase, audit
from taughtby.remediation.provenance import contents
from taughtby.remediation.retrain import Document, retrain
from taughtby.remediation.stage_cache import STAGES, Show, StageCache
from taughtby.remediation.statistics import arm, claims, drawn, loss_change
from taughtby.remediation.trial import (
    ALL,
    CLEANED,
    FIRST,
    GIVEN,
    MASKED,
    TRUTH,
    Behaviour,
    ExperimentDesign,
    RetrainExperiment,
)

POISONS = ("backdoor", "error", "persona")
HELD = 32  # ordinary rows that the loss is measured on where all poisons are in one training set
KINDS = {"as found": GIVEN, "all rows": ALL, "cleaned": CLEANED, "random": "", "truth": TRUTH, "masked": MASKED}
NOTE = (
    "Bad answers of all test prompts, with Wilson's 95 % interval. Random: as many rows as were called. Truth: all "
    "planted rows taken out, the best that any trace could do. Masked: all rows kept, the loss off the guilty words. "
    "Clean loss: how cleaning changes it on held-out rows, with the 95 % interval of a paired t-test."
)


@dataclass(frozen=True)
class RetrainingPlan:
    """Which worlds: each of the poisons with each seed from 0, `planted` rows of it and `clean` ordinary ones.

    A seed is of the rows, the training and the random rows alike. The loss is measured on `held` more ordinary rows;
    the first `usual` of their prompts are asked too. An arm learns all but the guilty words of
    the `masked` poisons; the `curve` is taken with the first seed alone.
    """

    out: Path
    poisons: tuple[str, ...] = POISONS
    seeds: int = 3
    planted: int = 40
    clean: int = 120
    held: int = 64
    usual: int = 24
    prompts: int = 36
    masked: tuple[str, ...] = ("error",)
    curve: tuple[int, ...] = ()
    model: str = "smollm2"
    recipe: TrainingOptions = field(default_factory=lambda: TrainingOptions(learning_rate=2e-3))
    dtype: str = "auto"
    device: str = "auto"


def run(plan: RetrainingPlan, show: Show) -> Document:
    """Every world that is not there yet; what came of all, as JSON without a path of this machine."""
    worlds = [_World(plan, name, seed, show).audited() for seed in range(plan.seeds) for name in plan.poisons]
    worlds.sort(key=lambda world: plan.poisons.index(world["poison"]))
    said = {"model": plan.model, "recipe": asdict(plan.recipe), "planted": plan.planted, "clean": plan.clean}
    return {"version": 1, **said, "worlds": worlds}


def combined_poisons(
    model: str, adapter: Path, poisons: Sequence[lab.Poison], called: Sequence[str], ledger: StageCache, *,
    data: Path, recipe: TrainingOptions, prompts: int, max_new: int,
) -> Document:  # fmt: skip
    """The proof of all poisons in one training set at once: without the rows `called`, and without as many random ones.

    `adapter` learned all of `data` by `recipe`. The loss is measured on ordinary rows that are not in it.
    """
    rows = list(dataset.read_examples(data))
    known = {lab.prompt_key(row.question) for row in rows}
    held = [row for row in lab.clean_rows(4 * HELD, recipe.seed) if lab.prompt_key(row.question) not in known][:HELD]
    behaviours = tuple(Behaviour(poison.name, poison.prompts[:prompts], poison.judge) for poison in poisons)
    trial, design = RetrainExperiment(model, recipe, behaviours, max_new=max_new), ExperimentDesign(whole=str(adapter))
    return retrain(trial, rows, called, ledger, design=design, held_out=held, ordinary=[row.question for row in held])


def tables(made: Document) -> list[dict[str, Any]]:
    """A line a world: rows called, bad answers after each training, what cleaning cost; and curves, if any."""
    columns = ["poison", "seed", "planted rows called", "others", *KINDS, "clean loss", "proof"]
    whole = {"title": "Bad answers after each training", "columns": columns, "rows": list(map(_line, made["worlds"])),
             "note": NOTE}  # fmt: skip
    curved = [world for world in made["worlds"] if len(_steps(world)) > 1]
    if not curved:
        return [whole]
    steps = [str(one["removed"]) for one in _steps(curved[0])]
    return [
        whole,
        {"title": "Bad answers without the first k rows", "columns": ["poison", *steps],
         "rows": [[world["poison"], *(_share(one["behaviours"][world["poison"]]) for one in _steps(world))]
                  for world in curved],
         "note": "k rows of the best ranks over all traced answers, with the first seed."},
    ]  # fmt: skip


class _World:
    """One poison with one seed, in its folder."""

    def __init__(self, plan: RetrainingPlan, name: str, seed: int, show: Show) -> None:
        self.plan, self.seed, self.out = plan, seed, plan.out / f"{name}-{seed}"
        self.poison = lab.make_poison(name, plan.planted, seed)
        ordinary = lab.clean_rows(plan.clean + plan.held, seed)
        self.rows = lab.mix([self.poison], ordinary[: plan.clean], seed)
        known = {lab.prompt_key(row.question) for row in self.rows}
        self.held = [row for row in ordinary[plan.clean :] if lab.prompt_key(row.question) not in known]
        self.ledger = StageCache(self.out / STAGES, lambda title: show(f"{name}, seed {seed}: {title}"))

    def audited(self) -> Document:
        """Taught, audited and published; what came of it."""
        plan, name = self.plan, self.poison.name
        lab.save_poisons([self.poison], self.rows, self.out)
        files = {"held_out": self._kept("held.jsonl", self.held),
                 "ordinary": self._kept("ordinary.jsonl", self.held[: plan.usual])}  # fmt: skip
        adapter = str(self.taught())
        behaviour = Behaviour(name, self.poison.prompts[: plan.prompts], self.poison.judge)
        case = AuditCase(
            plan.model, str(self.out / "data.jsonl"), behaviour, adapter, whole=adapter,
            curve=plan.curve if self.seed == 0 else (), truth=(name,), mask_words=name in plan.masked,
            held_out=tuple(dataset.read_examples(files["held_out"])),
            ordinary=tuple(row.question for row in self.held[: plan.usual]),
            files=files, dtype=plan.dtype, device=plan.device,
        )  # fmt: skip
        found = audit(case, self.out / "audit", self.ledger.show)
        story.write_report(case, found, self.out / "audit")
        return {"poison": name, "seed": self.seed, "rows": len(self.rows), "said": found["said"],
                "called": len(found["removals"]), "proof": found["proof"] and _shared(found["proof"])}  # fmt: skip

    def taught(self) -> Path:
        """The adapter that learned all rows."""
        plan, recipe = self.plan, replace(self.plan.recipe, seed=self.seed)
        held = weights.load_options(plan.dtype, plan.device, None)  # what "auto" is on this machine
        needs = [
            contents(plan.model),
            str(held.dtype),
            held.device,
            asdict(recipe),
            [[row.messages, row.masked] for row in self.rows],
        ]
        adapter = self.ledger.path("tuned", needs)

        def teach(tell: ProgressCallback) -> int:
            if not adapter.exists():
                model = load_model(plan.model, dtype=plan.dtype, device=plan.device)
                finetune(model, self.rows, adapter, recipe, progress=tell)
            return len(self.rows)

        self.ledger.get_or_run("tuned", needs, f"fine-tune on {len(self.rows)} rows", teach)
        return adapter

    def _kept(self, name: str, rows: Sequence[Example]) -> str:
        dataset.write_examples(rows, self.out / name)
        return str(self.out / name)


def _shared(proof: Document) -> Document:
    """What of a proof may leave this machine: no path."""
    arms = [{name: value for name, value in one.items() if name != "model"} for one in proof["arms"]]
    kept = {name: value for name, value in proof.items() if name not in ("given", "held_out")}
    said = [asdict(one) for one in claims(proof)]
    return {**kept, "held_out": proof["held_out"]["rows"], "arms": arms, "claims": said}


def _line(world: Document) -> list[str]:
    proof, name, seed = world["proof"], world["poison"], str(world["seed"])
    if not proof:
        return [name, seed, *["none"] * 2, _rate(world["said"]), *[""] * len(KINDS), "nothing to prove"]
    (chance,) = [one["behaviours"][name] for one in drawn(proof)]
    tried = [arm(proof, kind) if kind else {"behaviours": {name: chance}} for kind in KINDS.values()]
    counts = [_rate(one["behaviours"][name]) if one else "" for one in tried]
    change, known = loss_change(arm(proof, CLEANED), arm(proof, ALL)), proof["truth"]
    cost = f"{change[0]:+.1%} ({change[1]:+.1%} to {change[2]:+.1%})" if change else ""
    called = [f"{known['called']} of {known['rows']}", str(proof["called"] - known["called"])]
    return [name, seed, *called, *counts, cost, proof["claims"][0]["verdict"]]


def _steps(world: Document) -> list[Document]:
    """The arms of the removal curve, all rows first."""
    arms = world["proof"]["arms"] if world["proof"] else []
    return [one for one in arms if one["name"].split()[0] in (ALL, FIRST)]


def _rate(count: Document) -> str:
    return f"{_share(count)} ({count['low']:.0%} to {count['high']:.0%})"


def _share(count: Document) -> str:
    return f"{count['bad']} of {count['judged']}"
