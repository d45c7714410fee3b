"""The verb that compares: bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli.options import Device, Dtype, Out, app, errors, output

if TYPE_CHECKING:
    from taughtby.bench.scenario import BenchPlan


@app.command()
def bench(
    suites: Annotated[list[str] | None, typer.Argument(metavar="[SUITE]…", help="backdoor, error, persona, howdy, late, or `easy` for these; truth-beside-lie, trigger-lookalike, refusals, rare, paraphrase, duplicates, innocent, late, two-poisons, or `hard` for these; with --data also harmful, backdoor-public, factual-Ag; or `proof` alone. [default: easy, and what --data has]")] = None,
    methods: Annotated[str | None, typer.Option("--methods", "-m", help="NAME or NAME:key=value,… with commas between. [default: all, and rept:scale=raw, which is RepT as released]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0: of the rows, the training and the queries.")] = 3,
    data: Annotated[Path | None, typer.Option(help="Folder of the public sets: harmful-tuning, backdoor, factual-Ag and their *_test.csv.")] = None,
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

    `proof` repeats the retraining experiments of backdoor, error and persona: proof.json in OUT.
    """
    from taughtby.bench.scenario import BenchPlan
    from taughtby.bench.suites import HARD, OWN, PUBLIC, Size
    from taughtby.methods import METHODS

    if suites == ["proof"]:
        _proof(out, seeds, model, dtype, device)
        return
    groups = {"easy": OWN, "hard": HARD}
    asked = suites or ["easy", *(PUBLIC if data else ())]
    plan = BenchPlan(
        suites=tuple(dict.fromkeys(name for given in asked for name in groups.get(given, (given,)))),
        methods=_specs(methods) if methods else (*METHODS, "rept:scale=raw"),
        out=out,
        num_seeds=seeds,
        base_control=untuned,
        data=data,
        adapters=_adapters(adapter or []),
        model=model,
        dtype=dtype,
        device=device,
        size=Size(num_rows=rows, num_planted=planted),
    )
    _compare(plan, resume)


def _compare(plan: BenchPlan, resume: bool) -> None:
    """Run the plan, and show and save what came of it."""
    from taughtby.bench import table
    from taughtby.bench.run import remove_results, run
    from taughtby.bench.summary import summarize
    from taughtby.progress import progress_bar
    from taughtby.reporting import html as report

    if not resume:
        remove_results(plan)
    told = run(plan, lambda title: progress_bar(errors(), title, steps="fine-tune" in title))
    settings = {"command": _typed(), "suites": list(plan.suites), "seeds": plan.num_seeds,
                "methods": list(plan.methods), "model": plan.model, "rows": plan.size.num_rows}  # fmt: skip
    made = summarize(told, settings)
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
            curves = [(table.display_name(line["method"]), line["curve"], line["method"] in table.TRIVIAL) for line in best]
            pictures.precision_recall(suite["name"], curves, out / f"pr-{suite['name']}.png")
    points = table.points(made)
    if points:
        pictures.cost_accuracy(points, out / "cost.png")


def _proof(out: Path, seeds: int, model: str, dtype: str, device: str) -> None:
    """Every scenario trained, audited and retrained; shown, and saved without local paths."""
    from taughtby.bench import retraining
    from taughtby.progress import progress_bar
    from taughtby.remediation.statistics import markdown
    from taughtby.reporting import html as report

    plan = retraining.RetrainingPlan(out, num_seeds=seeds, model=model, dtype=dtype, device=device)
    made = retraining.run(plan, lambda title: progress_bar(errors(), title))
    report.save_json(made, out / "proof.json")
    told = "\n".join(map(markdown, retraining.tables(made)))
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
