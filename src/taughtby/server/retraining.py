"""The page's retraining experiment: without some rows, and without as many random ones. Written next to the index.

It is the experiment of `taughtby retrain`, and resumes from its finished stages. A request cannot name a path: bad
answers are recognised by a phrase, since other judges read files or call servers.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from taughtby.data.dataset import read_examples
from taughtby.data.example import Example
from taughtby.errors import TaughtbyError
from taughtby.index.model_sources import model_sources
from taughtby.index.reader import Index
from taughtby.lab.training_options import check_training
from taughtby.models.model import Model
from taughtby.progress import ProgressCallback
from taughtby.remediation.audit_report import save_proof
from taughtby.remediation.experiment import Behaviour, ExperimentDesign, RetrainExperiment, check_experiment
from taughtby.remediation.experiment_setup import experiment_from_trace
from taughtby.remediation.retrain import retrain
from taughtby.remediation.stage_cache import STAGES, StageCache
from taughtby.remediation.statistics import claims, tables
from taughtby.remediation.trace_file import Document, read_options_of
from taughtby.server.cleaning import beside, require_data
from taughtby.server.jobs import ReportProgress

FOLDER, PROOF = "retrained", "proof.json"


@dataclass(frozen=True)
class Retraining:
    """What a request decides.

    Attributes:
        rows: The ids of the rows to leave out.
        prompts: Prompts that elicit the behaviour.
        words: The words that make an answer bad.
        options: Training options that override the recipe.
    """

    rows: tuple[str, ...]
    prompts: tuple[str, ...]
    words: str
    options: Mapping[str, Any]

    @property
    def behaviour(self) -> Behaviour:
        """The prompts and their judge."""
        return Behaviour("bad answers", self.prompts, f"phrase:{self.words}")


@dataclass(frozen=True)
class Subject:
    """What is trained again: an index, the file of its data, and its model if that is loaded already."""

    index: Index
    data: Path | None
    model: Model | None = None

    @property
    def trace(self) -> Document:
        """The names of the model, its adapters and the index, as a trace has them."""
        if self.model:
            name, adapter = self.model.name, self.model.adapter
        else:
            source = model_sources(self.index.manifest, self.index.path)[0]
            name = source.model
            adapter = list(source.adapters) if len(source.adapters) > 1 else next(iter(source.adapters), None)
        return {"model": name, "adapter": adapter, "index": str(self.index.path)}

    def rows(self) -> list[Example]:
        """Return the training rows."""
        return list(read_examples(str(self.data), read_options_of(self.trace)))


def prepare(subject: Subject, request: Retraining | None = None) -> tuple[RetrainExperiment, list[str]]:
    """Return the experiment and notes on what it assumes, without loading a model; a request is checked.

    Raises:
        TaughtbyError: Packages, the data, the base model or the recipe are missing, or the request is not possible.
    """
    check_training(str(subject.index.settings["model"]))
    require_data(subject.index, subject.data)
    beside(subject.index, FOLDER)
    behaviours, options = ([request.behaviour], request.options) if request else ([], {})
    base = subject.model.base_name if subject.model else None
    experiment, notes = experiment_from_trace(subject.trace, behaviours, options, base=base)
    if request:
        check_experiment(experiment, subject.rows(), request.rows, ExperimentDesign())
    return experiment, notes


def describe(subject: Subject) -> dict[str, Any]:
    """Return the training options and notes on them; raise as `prepare` does if nothing can be trained."""
    experiment, notes = prepare(subject)
    return {"recipe": asdict(experiment.recipe), "notes": notes}


def retrain_beside(subject: Subject, request: Retraining, report: ReportProgress) -> dict[str, Any]:
    """Train, answer and judge in every condition, and write the models and proof.json to `INDEX.retrained`.

    Returns:
        The result, as `read_result` returns it.
    """

    @contextmanager
    def show(title: str) -> Generator[ProgressCallback]:
        report(title, 0, None)
        yield lambda done, total: report(title, done, total)

    experiment, notes = prepare(subject, request)
    folder = beside(subject.index, FOLDER)
    proof = retrain(experiment, subject.rows(), request.rows, StageCache(folder / STAGES, show)) | {"notes": notes}
    save_proof(proof, folder)
    return _result(proof, folder)


def proof_path(index: Index) -> Path:
    """Return the file of the last result."""
    return beside(index, FOLDER) / PROOF


def read_result(index: Index) -> dict[str, Any] | None:
    """Return the last result for the page: sentences, tables and paths; None if there is none."""
    try:
        file = proof_path(index)
        return _result(json.loads(file.read_text(encoding="utf-8")), file.parent)
    except (TaughtbyError, OSError, ValueError, LookupError, TypeError):
        return None


def _result(proof: Document, folder: Path) -> dict[str, Any]:
    return {
        "claims": [{"verdict": claim.headline, "finding": claim.finding} for claim in claims(proof)],
        "tables": tables(proof),
        "notes": proof.get("notes") or [],
        "folder": str(folder),
        "models": [{"name": condition["name"], "path": condition["model"]} for condition in proof["conditions"]],
    }
