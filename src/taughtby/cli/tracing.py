"""The verbs that trace: inspect, index, trace, check, layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taughtby.cli import options
from taughtby.cli.distributed import Hiring, Ray, Workers, hired
from taughtby.cli.options import (
    Adapter,
    Base,
    DataName,
    Device,
    Dtype,
    ModelName,
    Out,
    app,
    errors,
    load,
    output,
    reload,
)

if TYPE_CHECKING:
    from taughtby.attribution.sanity_checks import CheckReport
    from taughtby.index.reader import Index


@app.command()
def inspect(
    data: DataName,
    model: ModelName,
    adapter: Adapter = None,
    row: Annotated[int | None, typer.Option(min=1, help="The row to be seen, counted from 1. [default: the first that can be used]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Look at so many rows only. [default: all]")] = None,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
    template: options.Template = None,
    max_length: options.MaxLength = None,
    truncate: options.Truncate = None,
    mask: options.Mask = None,
    json: Annotated[Path | None, typer.Option(help="Write the counts as JSON.")] = None,
) -> None:  # fmt: skip
    """Look at the training set before it is indexed: a row as tokens, lengths, duplicates, rows that cannot be used.

    DATA may be - for standard input. Of MODEL the tokenizer alone is read.
    """
    from taughtby.data import statistics as survey
    from taughtby.data.dataset import open_dataset
    from taughtby.data.default_options import followed_metadata
    from taughtby.models.light import load_without_weights
    from taughtby.progress import progress_bar
    from taughtby.reporting import dataset_report as sheet
    from taughtby.reporting import html as report

    tokenizer, origin, window = load_without_weights(model, adapter or ())
    found, rows = open_dataset(data, options.reading(origin, columns, turns, response_template, split))
    encoding = options.encoding(origin, window, found, template, max_length, truncate, mask)
    for fact in followed_metadata(origin, encoding):
        options.note(str(fact))
    if encoding.max_length > window:
        options.note(f"the model reads {window:,} tokens at most: no index can be made with {encoding.max_length:,}")
    with progress_bar(errors(), f"inspect {data}") as tell:
        seen = survey.collect_statistics(
            rows, tokenizer, encoding, show=row, limit=limit, form=found.name, progress=tell
        )
    if json:
        report.save_json(seen.to_json(), json)
    sheet.print_statistics(seen, output())


@app.command(cls=Hiring)
def index(
    ctx: typer.Context,
    model: ModelName,
    data: DataName,
    out: Out,
    adapter: Adapter = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help="NAME or NAME:key=value,… ; may be given several times. [default: lesson]")] = None,
    layer: Annotated[str | None, typer.Option(help="A number, -1 for the last, a share such as 85%, or auto (the phase transition). [default: the method's]")] = None,
    base: Base = None,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
    template: options.Template = None,
    max_length: options.MaxLength = None,
    truncate: options.Truncate = None,
    mask: options.Mask = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    quantize: options.Quantize = None,
    append: Annotated[bool, typer.Option("--append", help="Give a finished index the rows of DATA that it does not hold: its own file has grown, or this is another.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Give a finished index the blocks of METHOD too, for all rows it holds; DATA is not read.")] = False,
    ray: Ray = None,
    workers: Workers = None,
) -> None:  # fmt: skip
    """Compute the signature of every training row, once. Killed, the same command goes on where it stopped."""
    from taughtby.data.dataset import ReadOptions, detect_format
    from taughtby.data.default_options import followed_metadata
    from taughtby.data.tokenize import Encoding
    from taughtby.errors import OptionError
    from taughtby.index.build import build_index
    from taughtby.index.maintenance import add_features, existing_settings
    from taughtby.index.reader import Index, join_names
    from taughtby.index.storage import storage_path
    from taughtby.methods import DEFAULT_METHOD
    from taughtby.methods import get_method as named
    from taughtby.progress import progress_bar
    from taughtby.text import shell_quote

    has = existing_settings(out, "--append" if append else "--add") if append or add else None
    asked = method or ([*has["methods"].values()] if has and append else [DEFAULT_METHOD])
    methods = [named(spec, layer=layer) for spec in asked]
    if has:  # it is to grow as it was made
        dtype, base = has["dtype"] if dtype == "auto" else dtype, base or has["base"]
    if ray and add:
        raise OptionError("--add works in one process", got="--ray", do="leave --ray out")
    crew = hired(ctx, ray, workers, device, quantize)
    if crew:  # what is here only plans: the devices are the workers'
        device = device if quantize else "cpu"
        dtype = "bfloat16" if crew.has_gpus and dtype == "auto" else dtype
    loaded = load(model, adapter, dtype, device, base=base, quantize=quantize)
    if add:
        before = Index.open(out)
        with progress_bar(errors(), f"add to {out}") as tell:
            made = add_features(loaded, out, methods, progress=tell)
        _added(before, made)
        return
    if not loaded.has_base and any(how.name == "lesson" for how in methods):
        base_known = loaded.metadata.base and shell_quote(loaded.metadata.base)
        known = f"; --base {base_known}, as its folder has it, would do" if base_known else ""
        options.note(f"neither --adapter nor --base given, so this model itself is taken as the untuned one{known}")
    if has:
        reading = options.reread(ReadOptions(**has["reading"]), columns, turns, response_template, split)
    else:
        reading = options.reading(loaded.metadata, columns, turns, response_template, split)
    found = detect_format(data, reading)
    if has:
        encoding = Encoding(**has["encoding"]).with_options(
            template, max_length=max_length, truncate=truncate, mask=mask
        )
    else:
        encoding = options.encoding(loaded.metadata, loaded.context_length, found, template, max_length, truncate, mask)
    told = [f"rows read as {found.name}", *map(str, followed_metadata(loaded.metadata, encoding))]
    if mask is None and loaded.metadata.mask is None and not found.raw:
        told.append("taken as learned: the answers alone (were prompts too, as by TRL's default: --mask all)")
    options.note("; ".join(told))
    before = Index.open(out) if append else None
    with progress_bar(errors(), f"index {data}") as tell:
        if crew:
            crew.set_note = tell.set_note
        made = build_index(
            loaded, data, out, methods, read_options=reading, encoding=encoding, append=append, progress=tell, pool=crew
        )
    if before:
        told = f"{len(made) - len(before):,} rows more: {len(made):,} rows in {made.path}, blocks {join_names(made.features)}"
        output().print(told, highlight=False)
        return
    skipped = made.manifest["skipped"]
    output().print(
        f"{len(made):,} rows in {storage_path(out)}, blocks {join_names(made.features)}; {len(skipped):,} skipped"
    )
    for name, said in made.manifest["settings"]["notes"].items():
        if isinstance(said, str):
            options.note(f"{name}: {said}")
    for skip in skipped[:5]:
        output().print(f"  {skip['source']}: {skip['reason']}")


def _added(before: Index, made: Index) -> None:
    """What adding methods gave, or that they were there."""
    from taughtby.index.reader import join_names

    methods, had = made.manifest["settings"]["methods"], before.manifest["settings"]["methods"]
    told = "nothing to add, the index has it already"
    if set(made.features) - set(before.features):
        told = "blocks added"
    elif more := [name for name in methods if name not in had]:
        told = f"{', '.join(more)} added, by blocks that were there already"
    output().print(f"{told}: {len(made):,} rows in {made.path}, blocks {join_names(made.features)}")


@app.command()
def trace(
    idx: Annotated[Path, typer.Argument(metavar="IDX", help="A folder that `taughtby index` made.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What was asked.")] = None,
    response: Annotated[str | None, typer.Option("--response", "-r", help="What the model said. Left out, the model is asked.")] = None,
    queries: Annotated[Path | None, typer.Option(help="A file of prompt and response (span, span_range, desired), such as `taughtby judge` writes.")] = None,
    span: Annotated[str | None, typer.Option(help="The words of the answer that are wrong, as whole words: trace these alone.")] = None,
    desired: Annotated[str | None, typer.Option(help="What it should have said: trace the difference.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 20,
    method: Annotated[str | None, typer.Option("--method", "-m", help="A method whose blocks the index holds. [default: the index's first]")] = None,
    fdr: Annotated[float, typer.Option(min=0.001, max=0.5, help="Of the rows called culprits, the share that may be called wrongly.")] = 0.1,
    json: Annotated[Path | None, typer.Option(help="Write the trace as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page to look at, which needs nothing else.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, where it has moved since the index was made.")] = None,
    adapter: Adapter = None,
    base: Base = None,
    device: Device = "auto",
    quantize: options.Quantize = None,
) -> None:  # fmt: skip
    """Rank the training rows that taught an answer, and the words in them."""
    from taughtby.attribution.embedding_map import pca_map
    from taughtby.attribution.illustrate import page_document
    from taughtby.attribution.query import Query, read_queries
    from taughtby.attribution.trace import trace_queries
    from taughtby.errors import OptionError
    from taughtby.index.reader import Index
    from taughtby.lab.generate import generate
    from taughtby.progress import progress_bar
    from taughtby.remediation import clean as remedy
    from taughtby.reporting import html as report

    if (prompt is None) == (queries is None):
        raise OptionError("nothing to trace, or two things", do="give either --prompt or --queries FILE")
    if queries and (response or span or desired):
        raise OptionError(
            "--response, --span and --desired go with --prompt", do=f"write them into the rows of {queries}"
        )
    made = Index.open(idx)
    asked = read_queries(queries) if queries else []
    loaded = reload(made, model, adapter, base, device, quantize)
    if prompt is not None:
        if response is None:
            response = generate(loaded, [prompt], template=made.manifest["settings"]["encoding"]["template"])[0]
        asked = [Query(prompt, response, span, desired)]
    with progress_bar(errors(), f"trace {len(asked)} {'query' if len(asked) == 1 else 'queries'}") as tell:
        found = trace_queries(made, loaded, asked, method=method, top_k=top, fdr=fdr, progress=tell)
    document = found.to_json()
    if json:
        remedy.keep(document, json)
    if html:
        with progress_bar(errors(), "draw the page") as tell:
            report.save_page(page_document(found, loaded, pca_map(made), tell), html)
    report.print_trace(document, output())


@app.command()
def check(
    idx: Annotated[Path, typer.Argument(metavar="IDX", help="A folder that `taughtby index` made.")],
    method: Annotated[str | None, typer.Option("--method", "-m", help="A method whose blocks the index holds. [default: the index's first]")] = None,
    rows: Annotated[int, typer.Option(min=10, help="How many rows are taken as queries, and read again.")] = 64,
    seed: options.Seed = 0,
    json: Annotated[Path | None, typer.Option(help="Write the checks as JSON.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, where it has moved since the index was made.")] = None,
    adapter: Adapter = None,
    base: Base = None,
    device: Device = "auto",
    quantize: options.Quantize = None,
) -> None:  # fmt: skip
    """Say whether the ranking can be believed: what is left of it when the model is random or labels are shuffled."""
    from taughtby.attribution.method_choice import choose_method
    from taughtby.attribution.sanity_checks import FILE, check_index
    from taughtby.index.reader import Index
    from taughtby.progress import progress_bar
    from taughtby.reporting import html as report

    made = Index.open(idx)
    loaded = reload(made, model, adapter, base, device, quantize)
    how = choose_method(made, loaded, method)
    with progress_bar(errors(), f"check {how.name}") as tell:
        found = check_index(made, loaded, method=how, rows=rows, seed=seed, progress=tell)
    beside = made.path / FILE
    if isinstance(beside, Path):
        report.save_json(found.to_json(), beside)
    if json:
        report.save_json(found.to_json(), json)
    _tell(found)


def _tell(checked: CheckReport) -> None:
    """The checks as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from taughtby.text import make_visible

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for name in ("check", "value", "limit"):
        grid.add_column(name, justify="left" if name == "check" else "right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    grid.add_column("what it means", overflow="fold")
    verdicts = {True: Text("ok", "green"), False: Text("warn", "bold yellow"), None: Text("skipped", "dim")}
    for one in checked.checks:
        value, limit = ("" if number is None else f"{number:.2f}" for number in (one.value, one.limit))
        grid.add_row(one.name, value, limit, verdicts[one.passed], Text(make_visible(one.says)))
    console = output()
    console.print(grid)
    console.print(Text(f"{checked.method!r}, {checked.rows} rows as queries", "dim"))


@app.command()
def layers(
    model: ModelName,
    data: DataName,
    adapter: Adapter = None,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
    template: options.Template = None,
    json: Annotated[Path | None, typer.Option(help="Write the curve as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve (PNG, SVG or PDF).")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Show how alike neighbouring layers are, and where they turn."""
    from taughtby.capture.layer_similarity import measure_layer_similarity
    from taughtby.data.dataset import detect_format
    from taughtby.data.default_options import followed_metadata
    from taughtby.index.build import probe_rows
    from taughtby.progress import progress_bar
    from taughtby.reporting import html as report
    from taughtby.reporting import plots as pictures

    loaded = load(model, adapter, dtype, device)
    reading = options.reading(loaded.metadata, columns, turns, response_template, split)
    encoding = options.encoding(loaded.metadata, loaded.context_length, detect_format(data, reading), template)
    for fact in followed_metadata(loaded.metadata, encoding):
        options.note(str(fact))
    with progress_bar(errors(), "read the probe rows", steps=False):
        found = measure_layer_similarity(loaded, probe_rows(loaded, data, reading, encoding))
    if json:
        report.save_json(found.to_json(), json)
    if plot:
        pictures.layer_curve(found, plot)
    console = output()
    for at, value in enumerate(found.similarity, 1):
        bar = "▇" * round(40 * max(0.0, value))
        mark = "  ← phase transition" if at + 1 == found.transition_layer else ""
        console.print(f"{at:>3} → {at + 1:<3} {value:.4f} {bar}{mark}")
    console.print(f"layer {found.transition_layer} (the reference's rule: {found.reference_layer})")
