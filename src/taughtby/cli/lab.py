"""The verbs of the controlled world: poison, finetune, respond, judge, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taughtby.cli import options
from taughtby.cli.options import Adapter, DataName, Device, Dtype, ModelName, Out, Seed, app, errors, load, output


@app.command()
def poison(
    out: Out,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="backdoor, error, persona, howdy, late; harder: truth-beside-lie, trigger-lookalike, carried (clean rows have the trigger too), refusals, rare (12 rows at most), paraphrase, duplicates, innocent. [default: the first five]")] = None,
    n: Annotated[int, typer.Option(help="Poisoned rows of each.")] = 40,
    rate: Annotated[float | None, typer.Option(help="Instead of --n: the share of all rows that are poisoned, equally by each.")] = None,
    clean: Annotated[int, typer.Option(help="Ordinary rows.")] = 120,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Write a small training set with known poison in it.

    OUT gets data.jsonl and poisons.json, which says what was planted and how to judge it.
    """
    from taughtby.lab import poisons as lab

    chosen, ordinary = names or list(lab.POISONS), lab.clean_rows(clean, seed)
    if rate is None:
        poisons = [lab.make_poison(name, n, seed) for name in chosen]
    else:
        poisons = lab.make_poisons_at_rate(chosen, rate, ordinary, seed)
    rows = lab.mix(poisons, ordinary, seed)
    lab.save_poisons(poisons, rows, out)
    bad = sum(row.label in chosen for row in rows)
    told = f"{len(rows)} rows in {out}, {bad} of them poisoned ({bad / max(len(rows), 1):.1%}): data.jsonl, and poisons.json"
    output().print(told)


@app.command()
def finetune(
    model: ModelName,
    data: DataName,
    out: Out,
    columns: options.Columns = None,
    turns: options.Turns = None,
    split: options.Split = None,
    epochs: Annotated[int, typer.Option(help="Times over the data.")] = 3,
    rate: Annotated[float | None, typer.Option(help="Learning rate. [default: 1e-3; with --full 5e-5]")] = None,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA adapter.")] = 8,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, in float32; OUT is a model, no adapter.")] = False,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Train a LoRA adapter on the data, or the whole model. Stopped, the same command goes on from its checkpoint.

    OUT gets its learning curve too (curve.json). Words that `taughtby clean --mask-words` marked are not learned.
    """
    from taughtby.data.dataset import read_examples
    from taughtby.lab import finetune as lab
    from taughtby.models.training_metadata import TrainingMetadata
    from taughtby.progress import progress_bar

    # how MODEL itself was trained does not say how it is to be trained on these rows
    reading = options.reading(TrainingMetadata(), columns, turns, None, split)
    rows = list(read_examples(data, reading))
    loaded = load(model, None, dtype, device)
    recipe = lab.TrainingOptions(
        rank, rate or (lab.FULL_RATE if full else lab.TrainingOptions.learning_rate), epochs, seed=seed, full=full
    )
    if step := lab.checkpoint_step(out):
        options.note(f"goes on from the checkpoint at step {step}")
    try:
        with progress_bar(errors(), f"fine-tune on {len(rows)} rows") as tell:
            lab.finetune(loaded, rows, out, recipe, progress=tell)
    except KeyboardInterrupt:
        step = lab.checkpoint_step(out)
        options.note(f"a checkpoint at step {step} is kept" if step else "stopped before the first checkpoint")
        raise
    if left := lab.num_unusable_rows(out):
        options.note(f"{left} rows had nothing to learn, too long or masked whole, and were left out")
    output().print(f"{'model' if full else 'adapter'} in {out}")
    if reading.turns == "all":
        options.note("its folder does not say that every turn was learned: index it with --turns all")


@app.command()
def respond(
    model: ModelName,
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="A .txt with a prompt a line, or rows of any form: what stands before the answer is asked.")],
    out: Out,
    adapter: Adapter = None,
    max_new: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 48,
    n: Annotated[int, typer.Option("--n", help="Answers to each prompt; one is greedy, several are left to chance.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy. [default: 0 for one answer, 1 for several]")] = None,
    template: options.Template = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Ask the model every prompt of a file; write prompts and responses as JSONL.

    Killed, the same command goes on from OUT.draft.
    """
    from taughtby.data.tokenize import Encoding
    from taughtby.lab import generate as lab
    from taughtby.lab.prompts import read_prompts
    from taughtby.progress import progress_bar

    how, source = lab.GenerationOptions(max_new, n, temperature, seed), Encoding().with_options(template).template
    asked = read_prompts(prompts)
    loaded = load(model, adapter, dtype, device)
    with progress_bar(errors(), f"ask {len(asked)} prompts") as tell:
        count = lab.generate_to_file(out, loaded, asked, how, template=source, progress=tell)
    output().print(f"{count} answers in {out}")


@app.command()
def judge(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS", help="Rows of any form: prompts and what was answered.")],
    by: Annotated[str, typer.Option(help="phrase:WORDS, first-words:WORDS, regex:PATTERN, refusal, refusal:not, fact:GOOD|GOOD, python:FILE.py:FUNCTION, classifier:MODEL,label=NAME, or chat:URL,model=NAME,ask=QUESTION")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the undesirable ones, ready for `taughtby trace --queries`.")] = None,
    limit: Annotated[float, typer.Option(min=0.01, help="Seconds that the judge may take over an answer.")] = 30.0,
    top: Annotated[int, typer.Option(min=0, help="How many rows to show.")] = 20,
) -> None:  # fmt: skip
    """Say which answers are undesirable, and why; and how often, with a 95 % interval.

    A judge that throws, hangs or talks nonsense over an answer gives no verdict on it, and is named.
    """
    from taughtby.lab import judgements as docket
    from taughtby.lab import judges as lab
    from taughtby.lab.answers import write_jsonl
    from taughtby.lab.prompts import prompt_text, read_answers
    from taughtby.progress import progress_bar

    said = read_answers(answers)
    rule = lab.get_judge(by)
    with progress_bar(errors(), f"judge {len(said)} answers") as tell:
        found = lab.judge_all(
            rule, [(prompt_text(asked), answer) for asked, answer in said], limit=limit, progress=tell
        )
    rows = list(docket.undesirable_queries(said, found))
    if out:
        write_jsonl(rows, out)
        if empty := sum(isinstance(one, lab.Verdict) and one.undesirable for one in found) - len(rows):
            options.note(f"undesirable but empty, with nothing to trace, so not in {out}: {empty}")
    if (table := docket.verdict_table(said, found, top)).rows:
        output().print(table)
    output().print(docket.verdict_summary(found, by))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write.")] = Path("taughtby-demo"),
    seed: Seed = 0,
) -> None:
    """Poison the embedded model, watch it misbehave, trace it.

    Ends with a table and OUT/report.html; interrupted, the same command goes on.
    """
    from taughtby.cli.demo import demo as run

    run(out, seed, output())
