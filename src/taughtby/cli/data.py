"""Commands that inspect training data: data inspect, data layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taughtby.cli import options
from taughtby.cli.app import command, data_app
from taughtby.cli.arguments import check_arguments, check_outputs
from taughtby.cli.console import encoding_options, errors, explain_reading, load, note, output, read_options

if TYPE_CHECKING:
    from taughtby.data.quality import Finding
    from taughtby.data.statistics import DatasetStatistics


@command(data_app, example="taughtby data inspect smollm2 data.jsonl", page="how-to/inspect-data")
def inspect(
    model: options.ModelName,
    data: options.DataName,
    adapter: options.Adapter = None,
    row: Annotated[int | None, typer.Option(min=1, metavar="N", help="The row to print, counted from 1.", show_default="the first usable one")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Read only the first N rows.", show_default="all")] = None,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
    template: options.Template = None,
    max_length: options.MaxLength = None,
    truncate: options.Truncate = None,
    mask: options.Mask = None,
    json: options.Json = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 if the data marks tokens without loss and the marks are not read.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Look for faults: rows without loss, truncated answers, template tokens in texts, duplicates, prompts with different answers, equal answers.")] = False,
    fail_on: Annotated[list[str] | None, typer.Option(metavar="KIND", callback=options.check_faults, autocompletion=options.complete_fault, help="Look for faults, and exit with code 1 if there is one of this kind, or any; may be repeated.")] = None,
) -> None:  # fmt: skip
    """Print a training row as the model sees it, lengths, duplicates and unusable rows.

    Reads the tokenizer of MODEL and no weights. DATA may be - for standard input.
    """
    check_arguments("data inspect", MODEL=model, DATA=data)
    check_outputs(json, inputs=[data])
    from taughtby.data.dataset import open_dataset
    from taughtby.data.quality import QualityChecks
    from taughtby.data.statistics import collect_statistics
    from taughtby.data.tokenize import followed_metadata
    from taughtby.models.loading import load_without_weights
    from taughtby.progress import progress_bar

    tokenizer, metadata, context_length = load_without_weights(model, adapter or ())
    reading = read_options(metadata, columns, turns, response_template, split).for_mask(mask or metadata.mask)
    form, rows = open_dataset(data, reading)
    encoding = encoding_options(metadata, context_length, form, template, max_length, truncate, mask)
    for entry in followed_metadata(metadata, encoding):
        note(str(entry))
    explain_reading(metadata, encoding, form, tokenizer, template, turns, mask)
    if encoding.max_length > context_length:
        note(f"the model reads {context_length:,} tokens at most: an index cannot use {encoding.max_length:,}")
    checks = QualityChecks(tokenizer, encoding) if check or fail_on else None
    with progress_bar(errors(), f"inspect {data}") as progress:
        statistics = collect_statistics(
            rows, tokenizer, encoding,
            preview_row=row, limit=limit, format_name=form.name, progress=progress, checks=checks,
        )  # fmt: skip
        findings = checks.findings() if checks else None
    _show(statistics, findings, json)
    _fail(statistics if strict else None, [f for f in findings or () if {f.kind, "any"} & {*(fail_on or ())}])


def _show(statistics: DatasetStatistics, findings: list[Finding] | None, json: Path | None) -> None:
    """Save and print the statistics, and the findings if they were looked for."""
    from taughtby.reporting.dataset_report import print_statistics
    from taughtby.reporting.files import save_json
    from taughtby.reporting.findings_report import print_findings

    if json:
        entry = {} if findings is None else {"findings": [finding.to_json() for finding in findings]}
        save_json(statistics.to_json() | entry, json)
    print_statistics(statistics, output())
    if findings is not None:
        print_findings(findings, output())


def _fail(statistics: DatasetStatistics | None, findings: list[Finding]) -> None:
    """Exit with code 1 if loss marks are not followed, or if there are findings."""
    from taughtby.errors import DataError

    if statistics and (marks := statistics.unfollowed()):
        got = "; ".join(f"{mark}: {count:,} rows" for mark, count in marks.items())
        do = "remove the marks if the trainer ignored them too, or omit --strict"
        raise DataError("the data has loss marks that are not followed", got=got, do=do)
    if findings:
        got = "; ".join(f"{finding.kind}: {finding.count:,} rows" for finding in findings)
        do = "correct or remove the rows, or omit that --fail-on"
        raise DataError("the data has faults", got=got, do=do)


@command(data_app, example="taughtby data layers smollm2 data.jsonl", page="how-to/inspect-data")
def layers(
    model: options.ModelName,
    data: options.DataName,
    adapter: options.Adapter = None,
    columns: options.Columns = None,
    turns: options.Turns = None,
    response_template: options.ResponseTemplate = None,
    split: options.Split = None,
    template: options.Template = None,
    json: options.Json = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curve (PNG, SVG or PDF).")] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Print how similar neighbouring layers are, and where the phase transition is."""
    check_arguments("data layers", MODEL=model, DATA=data)
    check_outputs(json, plot, inputs=[data])
    from taughtby.capture.layer_similarity import measure_layer_similarity
    from taughtby.data.dataset import detect_format
    from taughtby.data.tokenize import followed_metadata
    from taughtby.index.build import probe_rows
    from taughtby.progress import progress_bar
    from taughtby.reporting.html import save_json
    from taughtby.reporting.plots import layer_curve

    loaded = load(model, adapter, dtype, device)
    reading = read_options(loaded.metadata, columns, turns, response_template, split)
    encoding = encoding_options(loaded.metadata, loaded.context_length, detect_format(data, reading), template)
    for entry in followed_metadata(loaded.metadata, encoding):
        note(str(entry))
    with progress_bar(errors(), "read the probe rows", steps=False):
        curve = measure_layer_similarity(loaded, probe_rows(loaded, data, reading, encoding))
    if json:
        save_json(curve.to_json(), json)
    if plot:
        layer_curve(curve, plot)
    console = output()
    for layer, value in enumerate(curve.similarity, 1):
        bar = "▇" * round(40 * max(0.0, value))
        mark = "  ← phase transition" if layer + 1 == curve.transition_layer else ""
        console.print(f"{layer:>3} → {layer + 1:<3} {value:.4f} {bar}{mark}")
    console.print(
        f"layer {curve.transition_layer} (by the rule of the reference implementation: {curve.reference_layer})"
    )
