"""The verb that compares: bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli.options import Device, Dtype, Out, app, errors, output

if TYPE_CHECKING:
    from rich.table import Table

    from taughtby.bench.run import BenchPlan


@app.command()
def bench(
    suites: Annotated[list[str] | None, typer.Argument(metavar="[SUITE]…", help="backdoor, error, persona, howdy, late, or `easy` for these; truth-beside-lie, trigger-lookalike, refusals, rare, paraphrase, duplicates, innocent, late, two-poisons, or `hard` for these; with --data also harmful, backdoor-public, factual-Ag; or `speed`, `gradients`, `scale` or `proof` alone. [default: easy, and what --data has]")] = None,
    methods: Annotated[str | None, typer.Option("--methods", "-m", help="NAME or NAME:key=value,… with commas between. [default: all, and rept:scale=raw, which is RepT as released]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0: of the rows, the training and the queries.")] = 3,
    data: Annotated[Path | None, typer.Option(help="Folder of the public sets: harmful-tuning, backdoor, factual-Ag and their *_test.csv; with `gradients`, the training data.")] = None,
    out: Out = Path("taughtby-bench"),
    adapter: Annotated[list[str] | None, typer.Option("--adapter", "-a", metavar="SUITE=PATH", help="Take this adapter for a suite instead of teaching one; may be given several times.")] = None,
    untuned: Annotated[bool, typer.Option(help="Trace the same answers through the model that was never tuned, as a control. Without, what OUT has of it is shown.")] = True,
    resume: Annotated[bool, typer.Option(help="Go on with what is in OUT; --no-resume does all of it again.")] = True,
    rows: Annotated[int, typer.Option(min=2, help="Rows of a suite.")] = 150,
    planted: Annotated[int, typer.Option(min=1, help="How many of them teach the bad answer.")] = 40,
    model: Annotated[str, typer.Option(help="What is fine-tuned: a folder, a hub id, a .gguf file, or smollm2.")] = "smollm2",
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:  # fmt: skip
    """Teach bad answers whose rows are known, and compare how well, and at what cost, each method finds them.

    OUT gets bench.json, bench.md and pictures. Killed, the same command goes on where it stopped.

    `proof` proves what is found of backdoor, error and persona: proof.json in OUT. `speed` times indexing beside a
    plain forward pass, and queries of a million rows beside faiss: speed.json in OUT. `gradients` runs TracIn of
    --rows of --data in batches beside one row at a time, as the reference does, for an --adapter: gradients.json in
    OUT. `scale` gives an index of a million drawn rows its whole life: scale.json in OUT.
    """
    from taughtby.bench.run import BenchPlan
    from taughtby.bench.suites import HARD, OWN, PUBLIC, Size
    from taughtby.methods import METHODS

    if suites == ["speed"]:
        _speed(model, adapter, dtype, device, max(rows, 200), out)
        return
    if suites == ["gradients"]:
        _gradients(model, adapter, data, dtype, device, rows, out)
        return
    if suites == ["scale"]:
        _scale(model, dtype, device, max(rows, 1_000_000), out)
        return
    if suites == ["proof"]:
        _proof(out, seeds, model, dtype, device)
        return
    groups = {"easy": OWN, "hard": HARD}
    asked = suites or ["easy", *(PUBLIC if data else ())]
    plan = BenchPlan(
        suites=tuple(dict.fromkeys(name for given in asked for name in groups.get(given, (given,)))),
        methods=_specs(methods) if methods else (*METHODS, "rept:scale=raw"),
        out=out,
        seeds=seeds,
        untuned=untuned,
        data=data,
        adapters=_adapters(adapter or []),
        model=model,
        dtype=dtype,
        device=device,
        size=Size(rows=rows, planted=planted),
    )
    _compare(plan, resume)


def _compare(plan: BenchPlan, resume: bool) -> None:
    """Run the plan, and show and save what came of it."""
    from taughtby.bench import table
    from taughtby.bench.run import fresh, run
    from taughtby.bench.summary import document
    from taughtby.progress import progress_bar
    from taughtby.reporting import html as report

    if not resume:
        fresh(plan)
    told = run(plan, lambda title: progress_bar(errors(), title, steps="fine-tune" in title))
    settings = {"command": _typed(), "suites": list(plan.suites), "seeds": plan.seeds,
                "methods": list(plan.methods), "model": plan.model, "rows": plan.size.rows}  # fmt: skip
    made = document(told, settings)
    made["sentences"] = table.sentences(made)
    report.save_json(made, plan.out / "bench.json")
    (plan.out / "bench.md").write_text(table.markdown(made), encoding="utf-8", errors="backslashreplace")
    _draw(made, plan.out)
    console = output()
    table.show(made, console)
    console.print(f"\n{plan.out}: bench.md, bench.json and pictures")


def _typed() -> str:
    """This command, as a shell takes it again."""
    import sys

    from taughtby.text import shell_quote

    return " ".join(map(shell_quote, ["taughtby", *sys.argv[1:]]))


def _draw(made: dict[str, Any], out: Path) -> None:
    """A picture a suite, and one of cost against accuracy."""
    from taughtby.bench import table
    from taughtby.reporting import plots as pictures

    for suite in made["suites"]:
        lines = {line["method"]: line for line in suite["results"] if line["which"] == "tuned" and line["curve"]}
        best = sorted(lines.values(), key=lambda line: -line["metrics"]["ap"]["mean"])
        if best:
            curves = [(table.name(line["method"]), line["curve"], line["method"] in table.TRIVIAL) for line in best]
            pictures.precision_recall(suite["name"], curves, out / f"pr-{suite['name']}.png")
    points = table.points(made)
    if points:
        pictures.cost_accuracy(points, out / "cost.png")


def _speed(model: str, adapter: list[str] | None, dtype: str, device: str, rows: int, out: Path) -> None:
    """Both races, shown and saved as each ends."""
    import torch

    from taughtby.bench import speed
    from taughtby.cli.options import load
    from taughtby.progress import progress_bar
    from taughtby.reporting import html as report

    out.mkdir(parents=True, exist_ok=True)  # what cannot be written is known before what takes minutes
    loaded = load(model, adapter, dtype, device)
    made: dict[str, Any] = {"command": _typed(), "threads": torch.get_num_threads(), "dtype": str(loaded.dtype)}
    for name, shared in (("index", 0), ("index_chat", speed.SHARED)):
        with progress_bar(errors(), f"{rows} rows, {shared} tokens of them common", steps=True) as tell:
            made[name] = speed.indexing(loaded, rows, shared, tell)
        report.save_json(made, out / "speed.json")
        _wide(speed.index_table(made[name], shared))
    with progress_bar(errors(), "100 queries of a million rows", steps=False):
        made["queries"] = speed.queries()
    report.save_json(made, out / "speed.json")
    _wide(speed.query_table(made["queries"]))


def _gradients(
    model: str, adapter: list[str] | None, data: Path | None, dtype: str, device: str, rows: int, out: Path
) -> None:
    """Its race, saved after each turn; one row at a time in float32, as the reference has it, unless a dtype is asked."""
    import torch

    from taughtby.bench import rowwise
    from taughtby.cli import options
    from taughtby.cli.options import load
    from taughtby.data.dataset import ReadOptions, detect_format, read_examples
    from taughtby.errors import OptionError
    from taughtby.progress import progress_bar
    from taughtby.remediation.provenance import contents, provenance
    from taughtby.reporting import html as report

    if data is None:
        raise OptionError("a race of gradients needs rows", got="no --data", do="give training data with --data")
    out.mkdir(parents=True, exist_ok=True)
    loaded = load(model, adapter, dtype, device)
    fast = dtype == "auto" and loaded.dtype != torch.float32
    other = load(model, adapter, "float32", device) if fast else loaded
    ours: dict[str, Any] = {part: provenance()[part] for part in ("commit", "packages", "machine")}
    ours["inputs"] = [contents(name)[1] for name in (model, *(adapter or ()), str(data))]  # a race of others is another
    made: dict[str, Any] = {
        "command": _typed(), "threads": torch.get_num_threads(),
        "device": str(loaded.device), "batched": str(loaded.dtype), "single": str(other.dtype), **ours,
    }  # fmt: skip
    found = detect_format(str(data), ReadOptions())
    encoding = options.encoding(loaded.metadata, loaded.context_length, found, None)
    chosen = rowwise.drawn(loaded.tokenizer, list(read_examples(str(data))), encoding, rows)
    file = out / "gradients.json"
    race = _raced(file, made)
    with progress_bar(errors(), f"{len(chosen):,} rows, one at a time and in batches") as tell:
        for so_far in rowwise.race(loaded, chosen, chosen[:2], other=other, before=race):
            race = so_far
            report.save_json({**made, "race": race.to_json()}, file)
            tell(sum(race.rows), len(chosen))
    output().print(str(race), soft_wrap=True)


def _raced(file: Path, made: dict[str, Any]) -> Any:
    """What the file has of this race; a new one where it has another's, or nothing."""
    import json

    from taughtby.bench.rowwise import Race

    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        race = Race.from_json(known.pop("race"))
    except (OSError, ValueError, KeyError, TypeError):
        return Race()
    return race if known == made else Race()


def _scale(model: str, dtype: str, device: str, rows: int, out: Path) -> None:
    """The life of an index of so many rows; of the model, its tokenizer alone is used."""
    from taughtby.bench import scale
    from taughtby.cli.options import load
    from taughtby.reporting import html as report

    loaded = load(model, None, dtype, device)
    made = scale.life(loaded, out, rows, tell=lambda part: errors().print(part))
    report.save_json(made, out / "scale.json")
    _wide(scale.table(made))


def _wide(table: Table) -> None:
    """Every column whole, though a pipe or a narrow terminal has 80."""
    console = output()
    console.width = max(console.width, 110)  # given to `print`, a width can only be narrower
    console.print(table)


def _proof(out: Path, seeds: int, model: str, dtype: str, device: str) -> None:
    """Every world taught, audited and proved; shown, and saved without a path of this machine."""
    from taughtby.bench import retraining as worlds
    from taughtby.progress import progress_bar
    from taughtby.remediation.statistics import markdown
    from taughtby.reporting import html as report

    plan = worlds.RetrainingPlan(out, seeds=seeds, model=model, dtype=dtype, device=device)
    made = worlds.run(plan, lambda title: progress_bar(errors(), title))
    report.save_json(made, out / "proof.json")
    told = "\n".join(map(markdown, worlds.tables(made)))
    (out / "proof.md").write_text(told, encoding="utf-8", errors="backslashreplace")
    output().print(told, soft_wrap=True)


def _specs(text: str) -> tuple[str, ...]:
    """Methods with commas between, of which some have options with commas between: `a,b:x=1,y=2,c` are three."""
    specs: list[str] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        if "=" in piece and ":" not in piece and specs:
            specs[-1] += "," + piece
        else:
            specs.append(piece)
    return tuple(dict.fromkeys(specs))


def _adapters(given: list[str]) -> dict[str, str]:
    from taughtby.errors import OptionError

    for text in given:
        if "=" not in text:
            raise OptionError("an adapter for which suite?", got=text, do="write --adapter SUITE=PATH")
    return dict(text.split("=", 1) for text in given)
