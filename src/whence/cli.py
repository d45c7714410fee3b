"""The command line: one function per verb. Heavy modules are imported inside them, so that `--help` is quick."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from whence.index import Index
    from whence.model import Model

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Trace what a fine-tuned language model says back to the training rows, and the words in them, that taught it.",
)

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, a hub id, a .gguf file, or smollm2 (embedded).")
]
DataName = Annotated[
    str, typer.Argument(metavar="DATA", help="JSONL, JSON, CSV, Parquet, a save_to_disk folder, or a hub id.")
]
Adapter = Annotated[str | None, typer.Option("--adapter", "-a", help="Folder of a PEFT adapter on top of MODEL.")]
Dtype = Annotated[
    str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 where the machine computes in it.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]


def _load(name: str, adapter: str | None, dtype: str = "auto", device: str = "auto") -> Model:
    from whence.model import load_model
    from whence.progress import stage

    with stage(_errors(), f"load {name}" + (f" with {adapter}" if adapter else ""), steps=False):
        return load_model(name, adapter, dtype=dtype, device=device)


def _errors() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _output() -> Any:
    from rich.console import Console

    return Console()


@app.command()
def index(
    model: ModelName,
    data: DataName,
    out: Out,
    adapter: Adapter = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="NAME or NAME:key=value,… ; may be given several times. [default: lesson]")] = None,
    layer: Annotated[str | None, typer.Option(help="A number, -1 for the last, a share such as 85%, or auto (the phase transition). [default: the method's]")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a row that are kept; the end of the answer is cut. [default: 1024, or the model's window]")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Compute the signature of every training row, once. Killed, the same command goes on where it stopped."""
    from whence.build import build_index
    from whence.methods import DEFAULT
    from whence.methods import method as named
    from whence.progress import stage

    methods = [named(spec, layer=layer) for spec in method or [DEFAULT]]
    loaded = _load(model, adapter, dtype, device)
    if adapter is None and any(how.name == "lesson" for how in methods):
        _errors().print("note: no --adapter given, so this model itself is taken as the untuned one", style="yellow")
    with stage(_errors(), f"index {data}") as tell:
        made = build_index(loaded, data, out, methods, max_length=max_length, progress=tell)
    skipped = made.manifest["skipped"]
    _output().print(
        f"{len(made):,} rows in {out}, blocks {', '.join(made.blocks) or 'none'}; {len(skipped):,} skipped",
        highlight=False,
    )
    for skip in skipped[:5]:
        _output().print(f"  {skip['source']}: {skip['reason']}", markup=False, highlight=False)


@app.command()
def trace(
    idx: Annotated[Path, typer.Argument(metavar="IDX", help="A folder that `whence index` made.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What was asked.")] = None,
    response: Annotated[str | None, typer.Option("--response", "-r", help="What the model said. Left out, the model is asked.")] = None,
    queries: Annotated[Path | None, typer.Option(help="A file of prompt and response (span, desired), such as `whence judge` writes.")] = None,
    span: Annotated[str | None, typer.Option(help="The words of the answer that are wrong: trace these alone.")] = None,
    desired: Annotated[str | None, typer.Option(help="What it should have said: trace the difference.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 20,
    method: Annotated[str | None, typer.Option("--method", "-m", help="A method whose blocks the index holds. [default: the index's first]")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the trace as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page to look at, which needs nothing else.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, where it has moved since the index was made.")] = None,
    adapter: Adapter = None,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Rank the training rows that taught an answer, and the words in them."""
    from whence import report
    from whence.errors import OptionError
    from whence.index import Index
    from whence.lab.respond import respond
    from whence.progress import stage
    from whence.query import Query, read_queries
    from whence.trace import trace_queries

    if (prompt is None) == (queries is None):
        raise OptionError("nothing to trace, or two things", do="give either --prompt or --queries FILE")
    if queries and (response or span or desired):
        raise OptionError(
            "--response, --span and --desired go with --prompt", do=f"write them into the rows of {queries}"
        )
    made = Index.open(idx)
    asked = read_queries(queries) if queries else []
    loaded = _reload(made, model, adapter, device)
    if prompt is not None:
        if response is None:
            response = respond(loaded, [prompt])[0]
        asked = [Query(prompt, response, span, desired)]
    with stage(_errors(), f"trace {len(asked)} {'query' if len(asked) == 1 else 'queries'}") as tell:
        document = trace_queries(made, loaded, asked, by=method, top=top, progress=tell).to_json()
    if json:
        report.save(document, json)
    if html:
        report.save_page(document, html)
    report.table(document, _output())


def _reload(made: Index, name: str | None, adapter: str | None, device: str) -> Model:
    """The model an index was made with, from where it was then or from where it is now."""
    from whence.build import check_model

    settings = made.manifest["settings"]
    loaded = _load(name or settings["model"], adapter or settings["adapter"], settings["dtype"], device)
    check_model(made, loaded)
    return loaded


@app.command()
def layers(
    model: ModelName,
    data: DataName,
    adapter: Adapter = None,
    json: Annotated[Path | None, typer.Option(help="Write the curve as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve (PNG, SVG or PDF).")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Show how alike neighbouring layers are, and where they turn."""
    from whence import report
    from whence.bench import pictures
    from whence.build import LONGEST, probe
    from whence.layers import curve
    from whence.progress import stage

    loaded = _load(model, adapter, dtype, device)
    with stage(_errors(), "read the probe rows", steps=False):
        found = curve(loaded, probe(loaded, data, min(LONGEST, loaded.window)))
    if json:
        report.save(found.to_json(), json)
    if plot:
        pictures.layer_curve(found, plot)
    console = _output()
    for at, value in enumerate(found.similarity, 1):
        bar = "▇" * round(40 * max(0.0, value))
        mark = "  ← phase transition" if at + 1 == found.layer else ""
        console.print(f"{at:>3} → {at + 1:<3} {value:.4f} {bar}{mark}", highlight=False)
    console.print(f"layer {found.layer} (the reference's rule: {found.reference})", highlight=False)


@app.command()
def poison(
    out: Out,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="backdoor, error, persona. [default: all three]")] = None,
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
    _output().print(f"{len(rows)} rows in {out}: data.jsonl, and poisons.json", highlight=False)


@app.command()
def finetune(
    model: ModelName,
    data: DataName,
    out: Out,
    epochs: Annotated[int, typer.Option(help="Times over the data.")] = 3,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA adapter.")] = 8,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Train a LoRA adapter on the data."""
    from whence.example import read
    from whence.lab.finetune import Recipe
    from whence.lab.finetune import finetune as train
    from whence.progress import stage

    rows = list(read(data))
    loaded = _load(model, None, dtype, device)
    with stage(_errors(), f"fine-tune on {len(rows)} rows") as tell:
        train(loaded, rows, out, Recipe(epochs=epochs, rate=rate, rank=rank, seed=seed), progress=tell)
    _output().print(f"adapter in {out}", highlight=False)


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
    loaded = _load(model, adapter, dtype, device)
    with stage(_errors(), f"ask {len(asked)} prompts") as tell:
        answers = lab.respond(loaded, asked, max_new=max_new, progress=tell)
    lab.write_lines(({"prompt": p, "response": r} for p, r in zip(asked, answers, strict=True)), out)
    _output().print(f"{len(answers)} answers in {out}", highlight=False)


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
    _output().print(
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

    run(out, seed, _output())


def main() -> None:
    """Run a verb; a person's mistake ends with a message and 1, an interruption with 130."""
    from whence.errors import WhenceError

    # what libraries tell each other's developers is not for the person at this terminal
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        code = app(standalone_mode=False)
    except WhenceError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except typer.Exit as end:
        code = end.exit_code
    except Exception as fault:
        if hasattr(fault, "format_message") and hasattr(fault, "exit_code"):  # click's usage errors
            fault.show()  # pyright: ignore[reportAttributeAccessIssue]
            sys.exit(2)
        raise
    if code == 130:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
