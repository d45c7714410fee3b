"""Score rows and tokens with bergson's command line: TrackStar, EK-FAC, gradient cosine, MAGIC.

Writes the configuration file that a user of bergson would write, runs `bergson FILE`, and reads its scores. Runs in
bergson's own environment; see README.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from bergson import load_gradients
from bergson.data import load_scores
from peer_files import (
    align_tokens,
    copy_adapter,
    folder_bytes,
    make_parser,
    read_examples,
    write_examples,
    write_scores,
)

INDEX_STAGES = {"trackstar": "Step 1/5", "ekfac": "Step 2/4", "magic": "Using max sequence length"}  # for rows only
STAGE = re.compile(r"Step \d+/\d+|Using max sequence length|Query(?=:? )")  # MAGIC prints the last two


def parse_options() -> Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__ or "", ["trackstar", "ekfac", "cosine", "magic"])
    parser.add_argument("--projection-dim", type=int, default=16, help="trackstar: side of each projected gradient")
    parser.add_argument("--damping", type=float, default=0.1, help="ekfac: damping factor")
    _add_training_options(parser)
    return parser.parse_args()


def _add_training_options(parser: ArgumentParser) -> None:
    """Options of MAGIC, which trains its own adapter with the shape of the given one."""
    parser.add_argument("--epochs", type=int, default=1, help="magic: passes over the rows")
    parser.add_argument("--batch-size", type=int, default=8, help="magic: rows a step")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="magic: highest learning rate")
    parser.add_argument("--schedule", default="cosine", help="magic: learning rate schedule")
    parser.add_argument("--warmup", type=float, default=0.05, help="magic: share of the steps that warm up")
    parser.add_argument("--seed", type=int, default=0, help="magic: seed of the training")


class Run:
    """The configuration of one method: the steps that `bergson FILE` runs."""

    def __init__(self, options: Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.rows, self.queries = read_examples(options.rows), read_examples(options.queries)
        row_file = write_examples(work / "rows.jsonl", self.rows)
        query_file = write_examples(work / "queries.jsonl", self.queries)
        self.row_data, self.query_data = {"dataset": str(row_file)}, {"dataset": str(query_file), "aggregation": "none"}
        model = options.model.resolve()
        positions = json.loads((model / "config.json").read_text())["max_position_embeddings"]
        adapter = copy_adapter(options.adapter, model, work / "adapter")
        self.index = {"model": str(adapter), "tokenizer": str(model), "token_batch_size": min(2048, positions)}

    def configure(self, name: str, **settings: Any) -> dict[str, Any]:
        """Settings for the rows' gradients, which are written to a subfolder of the work folder."""
        return {**self.index, "run_path": str(self.work / name), "data": self.row_data, **settings}

    def list_steps(self) -> list[dict[str, Any]]:
        """The steps of the method."""
        return getattr(self, f"_{self.options.method}")()

    def _trackstar(self) -> list[dict[str, Any]]:
        projected = {"projection_dim": self.options.projection_dim}
        normalize = {"unit_normalize": True}
        steps = [{"trackstar": {
            "index_cfg": self.configure("trackstar", **projected),
            "trackstar_cfg": {"query": self.query_data, "preprocess_cfg": normalize},
        }}]  # fmt: skip
        hessian = {**normalize, "hessian_path": str(self.work / "trackstar" / "mixed_hessian")}
        return steps + self._token_step("trackstar/query", "gradient", hessian, projected)

    def _ekfac(self) -> list[dict[str, Any]]:
        steps = [{"ekfac": {
            "index_cfg": self.configure("ekfac"),
            "hessian_cfg": {"method": "kfac", "ev_correction": True},
            "score_cfg": {},
            "preprocess_cfg": {},
            "hessian_pipeline_cfg": {"query": self.query_data,
                                     "inversion_cfg": {"damping_factor": self.options.damping}},
        }}]  # fmt: skip
        return steps + self._token_step("ekfac/kfac_query", "output")

    def _cosine(self) -> list[dict[str, Any]]:
        query = {key: value for key, value in self.query_data.items() if key != "aggregation"}
        score = {"query_path": str(self.work / "cosine" / "query")}
        steps: list[dict[str, Any]] = [
            {"build": {"index_cfg": self.configure("cosine/query", data=query), "preprocess_cfg": {}}},
            {"score": {"score_cfg": score, "index_cfg": self.configure("cosine/scores"),
                       "preprocess_cfg": {"unit_normalize": True}}},
        ]  # fmt: skip
        return steps + self._token_step("cosine/query", "output")

    def _token_step(
        self,
        query: str,
        influence: str,
        preprocess: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """A step that scores the tokens of the rows with the method's own queries."""
        if not self.options.tokens:
            return []
        score = {"query_path": str(self.work / query), "token_influence": influence}
        index = self.configure("tokens", attribute_tokens=True, **(settings or {}))
        return [{"score": {"score_cfg": score, "index_cfg": index, "preprocess_cfg": preprocess or {}}}]

    def _magic(self) -> list[dict[str, Any]]:
        options = self.options
        lora = json.loads((options.adapter / "adapter_config.json").read_text())
        targets = lora["target_modules"]
        shape = {"r": lora["r"], "lora_alpha": lora["lora_alpha"], "task_type": "CAUSAL_LM",
                 "target_modules": targets if isinstance(targets, str) else "|".join(sorted(targets))}  # fmt: skip
        return [{"magic": {
            "run_path": str(self.work / "magic"), "model": self.index["tokenizer"], "data": self.row_data,
            "query": self.query_data, "peft_init_kwargs": ",".join(f"{key}={value}" for key, value in shape.items()),
            "num_epochs": options.epochs, "batch_size": options.batch_size, "seed": options.seed,
            "lr_schedule": {"lr": options.learning_rate, "lr_scheduler_type": options.schedule,
                            "warmup_steps": options.warmup},
            "eps_root": 1e-8, "attribute_tokens": True, "wandb_project": "",
        }}]  # fmt: skip


def run_bergson(steps: list[dict[str, Any]], work: Path) -> list[tuple[str, float]]:
    """Run `bergson FILE`, and return the stages that it prints, with the seconds since its start."""
    file = work / "steps.yaml"
    file.write_text(json.dumps({"run_path": str(work / "pipeline"), "steps": steps}, indent=1))  # JSON is valid YAML
    settings = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "data")}
    start, stages, lines = time.perf_counter(), [("start", 0.0)], []
    command = [str(Path(sys.executable).with_name("bergson")), str(file)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | settings
    ) as run:
        assert run.stdout
        for line in run.stdout:
            lines.append(line)
            if line.startswith("Baseline loss"):  # MAGIC: the result of its own training
                print(line, end="")
            if stage := STAGE.search(line):
                label = f"[Pipeline] {stage[0]}" if "[Pipeline]" in line else stage[0]
                stages.append((label, time.perf_counter() - start))
    if run.returncode:
        sys.exit(f"bergson failed:\n{''.join(lines[-40:])}")
    return [*stages, ("end", time.perf_counter() - start)]


def sum_stages(stages: list[tuple[str, float]], method: str, num_steps: int, tokens: bool) -> dict[str, float]:
    """Seconds to load the program, index the rows, process the queries, and score the tokens."""
    token_step = f"[Pipeline] Step {num_steps}/{num_steps}" if tokens and num_steps > 1 else ""
    seconds = {"start": 0.0, "index": 0.0, "query": 0.0, "tokens": 0.0}
    part = "start"
    for (label, begin), (_, end) in pairwise(stages):
        if label == token_step:
            part = "tokens"
        elif label != "start" and part != "tokens":
            part = "index" if label == INDEX_STAGES.get(method) else "query"
        seconds[part] += end - begin
    return seconds


def read_rows(folder: Path, num_queries: int) -> list[list[float]]:
    """The scores of the rows, (queries, rows)."""
    scores = np.asarray(load_scores(folder)[:], dtype=np.float64)
    assert scores.shape[1] == num_queries, scores.shape
    return scores.T.tolist()


def read_tokens(folder: Path, rows: list[dict[str, list[int]]], sign: int = 1) -> list[list[list[float]]]:
    """The scores of the tokens of each row, for each query."""
    scores = load_scores(folder)
    values, offsets = sign * np.asarray(scores[:], dtype=np.float64), scores.offsets
    assert offsets is not None and len(offsets) == len(rows) + 1
    return [
        [align_tokens(values[first:last, q].tolist(), len(row["input_ids"]))
         for row, (first, last) in zip(rows, pairwise(offsets), strict=True)]
        for q in range(scores.num_scores)
    ]  # fmt: skip


def normalize_tokens(tokens: list[list[list[float]]], rows: list[list[float]], query: Path) -> list[list[list[float]]]:
    """Divide tokens' dot products by both norms, so that they sum to the rows' cosines.

    bergson's scores of single tokens are plain dot products. A row's norm is computed with the query for which its
    cosine is largest: norm = dot product / (cosine * norm of the query).
    """
    norms = np.linalg.norm(np.asarray(load_gradients(query), dtype=np.float64), axis=1)
    dots = np.array([[sum(row) for row in of_query] for of_query in tokens]) / norms[:, None]
    cosines = np.array(rows)
    best = np.abs(cosines).argmax(0), np.arange(cosines.shape[1])
    row_norms = dots[best] / cosines[best]
    return [[(np.array(row) / (norm * length)).tolist() for row, length in zip(of_query, row_norms, strict=True)]
            for of_query, norm in zip(tokens, norms, strict=True)]  # fmt: skip


def score(options: Namespace, work: Path) -> None:
    """Run one method and write its scores."""
    run = Run(options, work)
    steps = run.list_steps()
    seconds = sum_stages(run_bergson(steps, work), options.method, len(steps), options.tokens)
    folder = work / options.method
    tokens = None
    if options.method == "magic":  # its scores have the sign of the query's loss
        tokens = read_tokens(folder / "scores", run.rows, -1)
        rows = [[sum(row) for row in of_query] for of_query in tokens]
    else:
        rows = read_rows(folder / "scores", len(run.queries))
        if options.tokens:
            tokens = read_tokens(work / "tokens", run.rows)
    if tokens and options.method == "cosine":
        tokens = normalize_tokens(tokens, rows, folder / "query")
    write_scores(options.out, tool="bergson", version=version("bergson"), method=options.method,
                 options={"steps": steps}, rows=rows, tokens=tokens, seconds=seconds,
                 stored=folder_bytes(folder, work / "tokens"))  # fmt: skip


def main() -> None:
    """Score in a temporary folder, or in `--work`, which is kept."""
    options = parse_options()
    if options.work:
        options.work.mkdir(parents=True)
        score(options, options.work.resolve())
    else:
        with tempfile.TemporaryDirectory() as work:
            score(options, Path(work))


if __name__ == "__main__":
    main()
