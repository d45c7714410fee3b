"""The verbs of the controlled world: poison, finetune, respond, judge, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whence.cli import options
from whence.cli.options import Adapter, DataName, Device, Dtype, ModelName, Out, Seed, app, errors, load, output


@app.command()
def poison(
    out: Out,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="backdoor, error, persona, howdy, late; harder: truth-beside-lie, trigger-lookalike, refusals, rare (12 rows at most), paraphrase, duplicates, innocent. [default: the first five]")] = None,
    n: Annotated[int, typer.Option(help="Poisoned rows of each.")] = 40,
    clean: Annotated[int, typer.Option(help="Ordinary rows.")] = 120,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Write a small training set with known poison in it.

    OUT gets data.jsonl and poisons.json, which says what was planted and how to judge it.
    """
    from whence.lab import poison as lab

    poisons = [lab.make(name, n, seed) for name in names or lab.POISONS]
    rows = lab.mix(poisons, lab.clean(clean, seed), seed)
    lab.save(poisons, rows, out)
    output().print(f"{len(rows)} rows in {out}: data.jsonl, and poisons.json", highlight=False)


@app.command()
def finetune(
    model: ModelName,
    data: DataName,
    out: Out,
    columns: options.Columns = None,
    turns: options.Turns = None,
    split: options.Split = None,
    epochs: Annotated[int, typer.Option(help="Times over the data.")] = 3,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA adapter.")] = 8,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Train a LoRA adapter on the data."""
    from whence.dataset import read
    from whence.lab.finetune import Recipe
    from whence.lab.finetune import finetune as train
    from whence.origin import Origin
    from whence.progress import stage

    # how MODEL itself was trained does not say how it is to be trained on these rows
    reading = options.reading(Origin(), columns, turns, None, split)
    rows = list(read(data, reading))
    loaded = load(model, None, dtype, device)
    with stage(errors(), f"fine-tune on {len(rows)} rows") as tell:
        train(loaded, rows, out, Recipe(epochs=epochs, rate=rate, rank=rank, seed=seed), progress=tell)
    output().print(f"adapter in {out}", highlight=False)
    if reading.turns == "all":
        options.note("its folder does not say that every turn was learned: index it with --turns all")


@app.command()
def respond(
    model: ModelName,
    prompts: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="A file with a prompt a row, or a .txt with one a line.")
    ],
    out: Out,
    adapter: Adapter = None,
    max_new: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 48,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Ask the model every prompt of a file; write prompt and response as JSONL."""
    from whence.lab import respond as lab
    from whence.progress import stage

    asked = lab.read_prompts(prompts)
    loaded = load(model, adapter, dtype, device)
    with stage(errors(), f"ask {len(asked)} prompts") as tell:
        answers = lab.respond(loaded, asked, max_new=max_new, progress=tell)
    lab.write_lines(({"prompt": p, "response": r} for p, r in zip(asked, answers, strict=True)), out)
    output().print(f"{len(answers)} answers in {out}", highlight=False)


@app.command()
def judge(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS", help="A file of prompt and response.")],
    by: Annotated[str, typer.Option(help="phrase:WORDS or regex:PATTERN")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the undesirable ones, ready for `whence trace --queries`.")] = None,
) -> None:  # fmt: skip
    """Say which answers are undesirable, and why."""
    from whence.lab import judge as lab
    from whence.lab.respond import write_lines
    from whence.query import read_queries

    said = read_queries(answers)
    rule = lab.judge(by)
    verdicts = [rule(query.prompt, query.response) for query in said]
    bad = [(query, verdict) for query, verdict in zip(said, verdicts, strict=True) if verdict.undesirable]
    if out:
        write_lines(({"prompt": q.prompt, "response": q.response, "span": v.span} for q, v in bad), out)
    output().print(
        f"{len(bad)} of {len(said)} undesirable ({lab.rate(verdicts):.0%}) by {by}",
        highlight=False,
        markup=False,
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write.")] = Path("whence-demo"),
    seed: Seed = 0,
) -> None:
    """Poison the embedded model, watch it misbehave, trace it.

    Ends with a table and OUT/report.html; interrupted, the same command goes on.
    """
    from whence.demo import demo as run

    run(out, seed, output())
