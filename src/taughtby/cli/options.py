"""Options that several commands share, with the checks that need no heavy import, and completions for shells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from taughtby.text import closest

METHODS = (
    "lesson", "shift", "rept", "repsim", "rise", "tracin", "tracin-ln", "rapidin", "less", "logra", "datainf", "lissa",
    "embedding", "hybrid", "bm25", "tfidf", "rftc", "first-word", "random",
)  # fmt: skip
FAULTS = (
    "nothing-learned", "truncated-answer", "no-end-of-turn", "template-tokens", "duplicate-rows", "conflicting-answers",
    "equal-answers",
)  # fmt: skip
JUDGES = ("phrase", "first-words", "regex", "refusal", "fact", "exact", "python", "classifier", "chat")
TRACKERS = ("wandb", "mlflow", "tensorboard")
DEVICES = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps", "xpu", "map")
ROWS, MODEL_PANEL, TRAINING = "How rows are read", "Model and device", "Training"


def _completer(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a completion for the shell: the words that begin with what is typed."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


complete_method, complete_device, complete_tracker = map(_completer, (METHODS, DEVICES, TRACKERS))
complete_judge = _completer([kind if kind == "refusal" else f"{kind}:" for kind in JUDGES])
complete_fault = _completer(("any", *FAULTS))


def check_method(spec: str | None) -> str | None:
    """Refuse an unknown method."""
    from taughtby.errors import OptionError

    if spec is not None and (name := spec.partition(":")[0]) not in METHODS:
        raise OptionError("no such method", got=name, do=closest(name, METHODS))
    return spec


def check_methods(specs: list[str] | None) -> list[str] | None:
    """Refuse unknown methods."""
    for spec in specs or ():
        check_method(spec)
    return specs


def check_faults(kinds: list[str] | None) -> list[str] | None:
    """Refuse unknown kinds of faults."""
    from taughtby.errors import OptionError

    for kind in kinds or ():
        if kind not in ("any", *FAULTS):
            raise OptionError("no such kind of fault", got=kind, do=closest(kind, ("any", *FAULTS)))
    return kinds


def check_judge(spec: str) -> str:
    """Refuse an unknown kind of judge."""
    from taughtby.errors import OptionError

    kind, colon, _ = spec.partition(":")
    known = kind.strip() in JUDGES
    if not known or not (colon or kind.strip() == "refusal"):
        do = "add" if known else f"{closest(kind, JUDGES)}, with"
        do += f" a colon and what it looks for, such as {kind.strip() if known else 'phrase'}:WORDS"
        raise OptionError("unknown judge", got=repr(spec), do=do)
    return spec


def check_trackers(names: list[str] | None) -> list[str] | None:
    """Refuse unknown experiment trackers."""
    from taughtby.errors import OptionError

    for name in names or ():
        if name not in TRACKERS:
            raise OptionError("no such tracker", got=name, do=closest(name, TRACKERS))
    return names


def check_device(name: str) -> str:
    """Refuse a name that is not a PyTorch device."""
    if name not in ("auto", "map") and not re.fullmatch(r"(cpu|cuda|mps|xpu|hpu|npu|mtia)(:\d+)?", name):
        raise typer.BadParameter(f"{name!r} is not a device. Choose auto, cpu, cuda, cuda:1, mps or map.")
    return name


def check_layer(layer: str | None) -> str | None:
    """Refuse text that does not name a layer."""
    if layer is not None and not re.fullmatch(r"auto|-?\d+|\d+(\.\d+)?%", layer):
        raise typer.BadParameter(
            f"{layer!r} is not a layer. Give a number, -1 for the last, a share such as 85%, or auto."
        )
    return layer


ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's or adapter's folder, a hub id, a .gguf file, or smollm2 (embedded)."
    ),
]
DataName = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="JSONL, JSON, CSV, Parquet, Arrow (also .gz, .zst), a save_to_disk folder, or a hub id."
    ),
]
IndexName = Annotated[str, typer.Argument(metavar="INDEX", help="An index: a folder, or s3://, gs:// or az://.")]
TraceFile = Annotated[str, typer.Argument(metavar="TRACE", help="The file that `taughtby trace … --json FILE` wrote.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="Where to write.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed; the same seed gives the same result.")]
AllAnswers = Annotated[
    bool, typer.Option("--all", help="Take every answer of an evaluation log, not only those that failed.")
]
ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRACKER",
        callback=check_trackers,
        autocompletion=complete_tracker,
        help="Report numbers, rows and files to wandb, mlflow or tensorboard; may be repeated.",
    ),
]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON.")]

Adapter = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        "-a",
        metavar="FOLDER",
        help="A PEFT adapter on top of MODEL; may be repeated.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The original model, before a full fine-tune or a merge of the adapter.",
        rich_help_panel=MODEL_PANEL,
    ),
]
MovedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="The model, if it has moved since the index was built.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        help="Data type of the weights; auto is bfloat16 where the hardware supports it, else float32.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        callback=check_device,
        autocompletion=complete_device,
        help="auto, cpu, cuda, cuda:1, mps, or map: spread over all devices.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Quantize = Annotated[
    Literal["4bit", "8bit"] | None,
    typer.Option(help="Load the weights in 4 or 8 bits, on a GPU.", rich_help_panel=MODEL_PANEL),
]

Columns = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT=NAME,…", help="Names of columns, as in prompt=question,response=reply.", rich_help_panel=ROWS
    ),
]
Turns = Annotated[
    Literal["last", "all"] | None,
    typer.Option(help="Which answers of a conversation were trained on.", show_default="last", rich_help_panel=ROWS),
]
ResponseTemplate = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="For plain-text rows: the text after which the response begins.", rich_help_panel=ROWS
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The split of a hub data set or a folder.", show_default="train", rich_help_panel=ROWS
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A Jinja chat template, or none to read the texts as they are.",
        show_default="the tokenizer's",
        rich_help_panel=ROWS,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of tokens of a row.",
        show_default="the trainer's, else 1024 or the context length",
        rich_help_panel=ROWS,
    ),
]
Truncate = Annotated[
    Literal["right", "left", "skip"] | None,
    typer.Option(
        help="Cut longer rows at the right or the left, or skip them.", show_default="right", rich_help_panel=ROWS
    ),
]
Mask = Annotated[
    Literal["response", "content", "all"] | None,
    typer.Option(
        help="The tokens with loss in training: the whole response, its content and the EOS token only, or all, prompts too.",
        show_default="response",
        rich_help_panel=ROWS,
    ),
]

MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        metavar="METHOD",
        callback=check_method,
        autocompletion=complete_method,
        help="A method whose features the index holds.",
        show_default="the first of the index",
    ),
]
MethodNames = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        metavar="METHOD",
        callback=check_methods,
        autocompletion=complete_method,
        help="NAME or NAME:option=value,…; may be repeated.",
        show_default="lesson",
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER",
        callback=check_layer,
        help="The layer to read: a number, -1 for the last, a share such as 85%, or auto (the phase transition).",
        show_default="the method's",
    ),
]
JudgeSpec = Annotated[
    str,
    typer.Option(
        "--judge",
        "-j",
        metavar="SPEC",
        callback=check_judge,
        autocompletion=complete_judge,
        help="Which answers are bad: phrase:WORDS, first-words:WORDS, regex:PATTERN, refusal, refusal:not, fact:GOOD|GOOD, exact:BAD|BAD, python:FILE.py:FUNCTION, classifier:MODEL,label=NAME, or chat:URL,model=NAME,ask=QUESTION.",
    ),
]
RowsFile = Annotated[
    str | None,
    typer.Option(
        "--rows",
        metavar="FILE",
        help="Select the rows listed in FILE instead: ids or file:line sources, one per line, or verdicts exported from the page; - for standard input.",
    ),
]
MaxNewTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of tokens of an answer.")]
