"""Commands for controlled experiments: demo, lab poison, lab finetune, lab generate, lab judge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from taughtby.cli import options
from taughtby.cli.app import app, command, lab_app
from taughtby.cli.arguments import check_arguments, check_file, check_outputs, kind_of
from taughtby.cli.console import errors, load, note, output, read_options
from taughtby.lab.training_options import check_training
from taughtby.models.paths import EMBEDDED

POISONS = "backdoor, error, persona, howdy, late; harder: truth-beside-lie, trigger-lookalike, carried, refusals, rare, paraphrase, duplicates, innocent."


@command(app, example="taughtby demo -o taughtby-demo", page="tutorial/demo", panel="Start here")
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")] = Path("taughtby-demo"),
    seed: options.Seed = 0,
) -> None:
    """Fine-tune the bundled model on poisoned data, trace its bad answers, and retrain without the flagged rows.

    Prints a table and writes DIR/report.html. An interrupted run resumes with the same command.
    """
    check_training(EMBEDDED)
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of other libraries
    from taughtby.cli.demo import demo as run

    run(out, seed, output())


@command(lab_app, example="taughtby lab poison backdoor error --num-samples 4 -o lab", page="reference/cli")
def poison(
    out: options.Out,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help=POISONS, show_default="the first five")] = None,
    num_samples: Annotated[int, typer.Option(metavar="N", help="The number of poisoned rows of each kind.")] = 40,
    share: Annotated[float | None, typer.Option(metavar="X", help="Instead of --num-samples: the share of poisoned rows among all rows, divided equally among the kinds.")] = None,
    clean: Annotated[int, typer.Option(metavar="N", help="The number of ordinary rows.")] = 120,
    seed: options.Seed = 0,
) -> None:  # fmt: skip
    """Generate a small training set with planted rows.

    OUT gets data.jsonl and poisons.json, which names the planted rows' labels and how to judge them.
    """
    from taughtby.lab import poisons as lab

    chosen, ordinary = names or list(lab.POISONS), lab.clean_rows(clean, seed)
    if share is None:
        poisons = [lab.make_poison(name, num_samples, seed) for name in chosen]
    else:
        poisons = lab.make_poisons_at_rate(chosen, share, ordinary, seed)
    rows = lab.mix(poisons, ordinary, seed)
    lab.save_poisons(poisons, rows, out)
    bad = sum(row.label in chosen for row in rows)
    output().print(
        f"{len(rows)} rows in {out}, {bad} of them poisoned ({bad / max(len(rows), 1):.1%}): data.jsonl, and poisons.json"
    )


@command(lab_app, example="taughtby lab finetune smollm2 data.jsonl -o adapter", page="how-to/clean-data")
def finetune(
    model: options.ModelName,
    data: options.DataName,
    out: options.Out,
    columns: options.Columns = None,
    turns: options.Turns = None,
    split: options.Split = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the data.")] = 3,
    learning_rate: Annotated[float | None, typer.Option(metavar="X", help="Learning rate.", show_default="1e-3; with --full 5e-5")] = None,
    rank: Annotated[int, typer.Option(metavar="N", help="Rank of the LoRA adapter.")] = 8,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows per step.")] = 8,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, in float32: OUT is a model, not an adapter.")] = False,
    seed: options.Seed = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:  # fmt: skip
    """Train a LoRA adapter on the data, or the whole model. An interrupted run resumes from its last checkpoint.

    OUT also gets its learning curve (curve.json). Words that `taughtby clean --mask-words` marked have no loss.
    """
    check_arguments("lab finetune", MODEL=model, DATA=data)
    check_training(model)
    from taughtby.data.dataset import read_examples
    from taughtby.lab import finetune as lab
    from taughtby.models.training_metadata import TrainingMetadata
    from taughtby.progress import progress_bar
    from taughtby.text import cli_command

    # the settings that MODEL was trained with say nothing about these rows
    reading = read_options(TrainingMetadata(), columns, turns, None, split)
    default = lab.FULL_RATE if full else lab.TrainingOptions.learning_rate
    rate = default if learning_rate is None else learning_rate
    recipe = lab.TrainingOptions(rank, rate, epochs, batch_size, seed=seed, full=full)
    rows = list(read_examples(data, reading))
    loaded = load(model, None, dtype, device)
    if step := lab.checkpoint_step(out):
        note(f"resuming from the checkpoint at step {step}")
    try:
        with progress_bar(errors(), f"fine-tune on {len(rows)} rows") as progress:
            lab.finetune(loaded, rows, out, recipe, progress=progress)
    except KeyboardInterrupt:
        step = lab.checkpoint_step(out)
        note(f"a checkpoint at step {step} is saved" if step else "no checkpoint yet: training will start over")
        raise
    if num_skipped := lab.num_unusable_rows(out):
        do = cli_command("data inspect", model, data)
        note(f"{num_skipped} rows were skipped: too long, or without any token to learn; {do} names the first of them")
    output().print(f"{'model' if full else 'adapter'} in {out}")
    if reading.turns == "all":
        note("its folder does not say that every turn was trained on: index it with --turns all")


@command(
    lab_app,
    example="taughtby lab generate smollm2 prompts.txt --adapter adapter -o answers.jsonl",
    page="how-to/trace-an-incident",
)
def generate(
    model: options.ModelName,
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="A .txt with one prompt per line, or rows of any format: what comes before the answer is the prompt.")],
    out: options.Out,
    adapter: options.Adapter = None,
    max_new_tokens: options.MaxNewTokens = 48,
    num_samples: Annotated[int, typer.Option(metavar="N", min=1, help="Answers to each prompt.")] = 1,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="0 is greedy.", show_default="0 for one answer, 1 for several")] = None,
    template: options.Template = None,
    seed: options.Seed = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server that knows MODEL by that name, such as vLLM at http://localhost:8000/v1. A key is read from OPENAI_API_KEY.")] = None,
    limit: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="The time that the server may take for one answer.")] = 120.0,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Parallel requests to the server.")] = 8,
) -> None:  # fmt: skip
    """Answer every prompt of a file; write prompts and responses as JSONL.

    An interrupted run resumes from OUT.draft with the same command.
    """
    _check_prompts(model, prompts, endpoint)
    if endpoint:
        _check_endpoint(adapter, template, dtype, device)
    check_outputs(out)
    from taughtby.data.rewrite import check_apart
    from taughtby.data.tokenize import Encoding
    from taughtby.lab import generate as lab
    from taughtby.lab.endpoint import Endpoint
    from taughtby.lab.prompts import read_prompts
    from taughtby.progress import progress_bar

    check_apart(str(prompts), out)
    settings = lab.GenerationOptions(max_new_tokens, num_samples, temperature, seed)
    source = Encoding().with_options(template).template
    server = Endpoint(endpoint, model, limit, concurrency) if endpoint else None
    texts = read_prompts(prompts, note=note)
    loaded = server or load(model, adapter, dtype, device)
    if not isinstance(loaded, Endpoint) and template is None:
        source = loaded.metadata.template
        for entry in loaded.metadata.entries if source else ():
            if entry.name == "template":
                note(str(entry))
    with progress_bar(errors(), f"answer {len(texts)} prompts") as progress:
        count = lab.generate_to_file(out, loaded, texts, settings, template=source, progress=progress)
    output().print(f"{count} answers in {out}")


def _check_endpoint(adapter: object, template: str | None, dtype: str, device: str) -> None:
    from taughtby.errors import OptionError

    given = {"--adapter": adapter, "--template": template, "--dtype": dtype != "auto", "--device": device != "auto"}
    if names := [name for name, value in given.items() if value]:
        do = "omit them: the server has the weights and the chat template, and MODEL is its name there"
        raise OptionError("options of a local model do not apply to a server", got=", ".join(names), do=do)


def _check_prompts(model: str, prompts: Path, endpoint: str | None) -> None:
    from taughtby.errors import OptionError
    from taughtby.text import cli_command

    if endpoint:
        check_file(prompts, "a .txt with one prompt per line, or rows of any format")
        return
    if kind_of(str(prompts)) == "MODEL" or (Path(model).is_file() and kind_of(model) != "MODEL"):
        do = f"run: {cli_command('lab generate', prompts, model)} …"
        raise OptionError("MODEL and PROMPTS are swapped", got=f"MODEL {model}, PROMPTS {prompts}", do=do)
    check_file(prompts, "a .txt with one prompt per line, or rows of any format")


@command(
    lab_app, example='taughtby lab judge answers.jsonl --judge "phrase:beetles" -o bad.jsonl', page="how-to/judges"
)
def judge(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS", help="Rows of any format: prompts and their answers; or the log of an evaluation.")],
    judge: options.JudgeSpec,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the undesirable answers, for `taughtby trace --queries`.")] = None,
    all_answers: options.AllAnswers = False,
    limit: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="Time limit of the judge for one answer.")] = 30.0,
    top_k: Annotated[int, typer.Option(min=0, metavar="K", help="The number of rows to show.")] = 20,
) -> None:  # fmt: skip
    """Report which answers are undesirable, and why; and how many, with a 95 % interval.

    Where a judge raises an error, takes too long or returns no verdict, the answer has no verdict and is listed.
    """
    check_file(answers, "a file of prompts and answers")
    check_outputs(out)
    from taughtby.data.rewrite import check_apart
    from taughtby.lab import judgements
    from taughtby.lab.answers import write_jsonl
    from taughtby.lab.judges import Verdict, get_judge, judge_all
    from taughtby.lab.prompts import prompt_text, read_answers
    from taughtby.progress import progress_bar

    if out:
        check_apart(str(answers), out)
    pairs = read_answers(answers, failed_only=not all_answers, note=note)
    rule = get_judge(judge)
    texts = [(prompt_text(prompt), answer) for prompt, answer in pairs]
    with progress_bar(errors(), f"judge {len(pairs)} answers") as progress:
        verdicts = judge_all(rule, texts, limit=limit, progress=progress)
    rows = list(judgements.undesirable_queries(pairs, verdicts))
    if out:
        write_jsonl(rows, out)
        if num_empty := sum(isinstance(verdict, Verdict) and verdict.undesirable for verdict in verdicts) - len(rows):
            note(f"{num_empty} undesirable answers are empty: there is nothing to trace, and they are not in {out}")
    if (table := judgements.verdict_table(pairs, verdicts, top_k)).rows:
        output().print(table)
    output().print(judgements.verdict_summary(verdicts, judge))
