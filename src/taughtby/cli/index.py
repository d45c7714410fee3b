"""Commands that fill an index: index build, index append, index add."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taughtby.cli import options
from taughtby.cli.app import command, index_app
from taughtby.cli.arguments import check_arguments, check_index
from taughtby.cli.console import (
    change_read_options,
    encoding_options,
    errors,
    explain_reading,
    load,
    note,
    output,
    read_options,
    reload,
)
from taughtby.cli.workers import Ray, RayCommand, RayIndexedCommand, Workers, worker_pool
from taughtby.errors import OptionError

if TYPE_CHECKING:
    from taughtby.data.formats import DataFormat
    from taughtby.data.tokenize import Encoding
    from taughtby.index.reader import Index
    from taughtby.models.model import Model

COMPARES_WITH_BASE = ("lesson", "shift")  # methods that read the base model too
PAGE = "how-to/build-an-index"


@command(
    index_app, cls=RayCommand, page=PAGE, example="taughtby index build smollm2 data.jsonl --adapter adapter -o idx"
)
def build(
    ctx: typer.Context, model: options.ModelName, data: options.DataName, out: options.Out,
    adapter: options.Adapter = None, base: options.Base = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Index MODEL alone, without a base model to compare with.", rich_help_panel=options.MODEL_PANEL)] = False,
    method: options.MethodNames = None, layer: options.Layer = None, columns: options.Columns = None,
    turns: options.Turns = None, response_template: options.ResponseTemplate = None, split: options.Split = None,
    template: options.Template = None, max_length: options.MaxLength = None, truncate: options.Truncate = None,
    mask: options.Mask = None, dtype: options.Dtype = "auto", device: options.Device = "auto",
    quantize: options.Quantize = None, ray: Ray = None, workers: Workers = None,
) -> None:  # fmt: skip
    """Compute the features of every training row, once. An interrupted run resumes with the same command."""
    check_arguments("index build", MODEL=model, DATA=data)
    if no_base and (adapter or base):
        raise OptionError("--no-base contradicts --adapter and --base", do="omit one of them")
    specs = method or ["lesson"]
    compares = None if no_base else _compares(specs)
    if compares and not (adapter or base):
        _require_base(model, compares)
    from taughtby.data.dataset import detect_format
    from taughtby.index.api import build_index
    from taughtby.index.reader import join_names
    from taughtby.index.storage import storage_path
    from taughtby.methods import get_method
    from taughtby.progress import progress_bar

    methods = [get_method(spec, layer=layer) for spec in specs]
    pool = worker_pool(ctx, ray, workers, device, quantize)
    if pool:  # this process only plans: the workers hold the devices
        device = device if quantize else "cpu"
        dtype = "bfloat16" if pool.has_gpus and dtype == "auto" else dtype
    loaded = load(model, adapter, dtype, device, base=base, quantize=quantize)
    if compares and not loaded.has_base:
        raise _no_base(model, compares, loaded.metadata.base)
    reading = read_options(loaded.metadata, columns, turns, response_template, split)
    form = detect_format(data, reading)
    encoding = encoding_options(loaded.metadata, loaded.context_length, form, template, max_length, truncate, mask)
    _explain_encoding(loaded, form, encoding, mask, template, turns)
    with progress_bar(errors(), f"index {data}") as progress:
        if pool:
            pool.set_note = progress.set_note
        index = build_index(loaded, data, out, methods, read_options=reading, encoding=encoding, progress=progress,
                            pool=pool, note=note)  # fmt: skip
    skipped = index.manifest["skipped"]
    output().print(f"{len(index):,} rows in {storage_path(out)}, features {join_names(index.features)}; "
                   f"{len(skipped):,} skipped")  # fmt: skip
    for name, text in index.manifest["settings"]["notes"].items():
        if isinstance(text, str):
            note(f"{name}: {text}")
    for row in skipped[:5]:
        output().print(f"  {row['source']}: {row['reason']}")


def _compares(specs: list[str]) -> str | None:
    """The first method that reads the base model too."""
    return next((name for name in COMPARES_WITH_BASE if name in [spec.partition(":")[0] for spec in specs]), None)


def _require_base(model: str, method: str) -> None:
    """Refuse a local model that is not an adapter before it is loaded; a hub id may be an adapter, so it is loaded first."""
    from taughtby.models.training_metadata import read_training_metadata

    folder = Path(model)
    if folder.is_dir() and (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise _no_base(model, method, read_training_metadata(folder).base)
    if model == "smollm2" or model.endswith(".gguf"):
        raise _no_base(model, method, None)


def _no_base(model: str, method: str, named: str | None) -> Exception:
    from taughtby.text import shell_quote

    do = "give --adapter FOLDER, or the original model as --base MODEL"
    if named:
        do = f"give --base {shell_quote(named)}, which the model's folder names, or another --base or --adapter"
    instead = "give --no-base" if method == "lesson" else "choose another method"
    what = f"no base model to compare {model} with, and {method} compares a fine-tuned model with its base model"
    return OptionError(what, got="neither --adapter nor --base", do=f"{do}; or {instead}")


def _explain_encoding(
    model: Model, form: DataFormat, encoding: Encoding, mask: str | None, template: str | None, turns: str | None
) -> None:
    """Print how rows are read, and where that comes from."""
    from taughtby.data.tokenize import followed_metadata

    note("; ".join([f"rows read as {form.name}", *map(str, followed_metadata(model.metadata, encoding))]))
    explain_reading(model.metadata, encoding, form, model.tokenizer, template, turns, mask)


@command(
    index_app, cls=RayIndexedCommand, page="how-to/maintain-an-index", example="taughtby index append idx more.jsonl"
)
def append(
    ctx: typer.Context, idx: options.IndexName, data: options.DataName, columns: options.Columns = None,
    turns: options.Turns = None, response_template: options.ResponseTemplate = None, split: options.Split = None,
    template: options.Template = None, max_length: options.MaxLength = None, truncate: options.Truncate = None,
    mask: options.Mask = None, model: options.MovedModel = None, adapter: options.Adapter = None,
    base: options.Base = None, device: options.Device = "auto", quantize: options.Quantize = None, ray: Ray = None,
    workers: Workers = None,
) -> None:  # fmt: skip
    """Add the rows of DATA that the index does not hold. Readers see the index as it was until all rows are there."""
    check_arguments("index append", INDEX=idx, DATA=data)
    check_index(idx)
    from taughtby.data.dataset import ReadOptions
    from taughtby.data.tokenize import Encoding
    from taughtby.index.api import build_index
    from taughtby.index.reader import Index, join_names
    from taughtby.methods import get_method
    from taughtby.progress import progress_bar

    before = Index.open(idx)
    settings = before.manifest["settings"]
    pool = worker_pool(ctx, ray, workers, device, quantize)
    loaded = reload(before, model, adapter, base, "cpu" if pool and not quantize else device, quantize)
    reading = change_read_options(ReadOptions(**settings["reading"]), columns, turns, response_template, split)
    encoding = Encoding(**settings["encoding"]).with_options(
        template, max_length=max_length, truncate=truncate, mask=mask
    )
    methods = [get_method(spec) for spec in settings["methods"].values()]
    with progress_bar(errors(), f"append {data}") as progress:
        if pool:
            pool.set_note = progress.set_note
        index = build_index(
            loaded, data, idx, methods,
            read_options=reading, encoding=encoding, append=True, progress=progress, pool=pool,
        )  # fmt: skip
    added = len(index) - len(before)
    output().print(f"{added:,} rows added: {len(index):,} rows in {index.path}, features {join_names(index.features)}")


@command(index_app, example="taughtby index add idx --method repsim:layer=3", page="how-to/maintain-an-index")
def add(
    idx: options.IndexName,
    method: options.MethodNames = None,
    layer: options.Layer = None,
    model: options.MovedModel = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    device: options.Device = "auto",
    quantize: options.Quantize = None,
) -> None:
    """Add the features of another method for all rows. An interrupted run resumes with the same command."""
    check_index(idx)
    from taughtby.index.maintenance import add_features
    from taughtby.index.reader import Index
    from taughtby.methods import get_method
    from taughtby.progress import progress_bar

    methods = [get_method(spec, layer=layer) for spec in method or ["lesson"]]
    before = Index.open(idx)
    loaded = reload(before, model, adapter, base, device, quantize, new_base=True)
    with progress_bar(errors(), f"add to {idx}") as progress:
        index = add_features(loaded, idx, methods, progress=progress)
    _print_added(before, index)


def _print_added(before: Index, index: Index) -> None:
    """Print which features were added, or that there was nothing to add."""
    from taughtby.index.reader import join_names

    old, new = before.manifest["settings"]["methods"], index.manifest["settings"]["methods"]
    text = "nothing to add, the index has it already"
    if set(index.features) - set(before.features):
        text = "features added"
    elif more := [name for name in new if name not in old]:
        text = f"{', '.join(more)} added, with features that were there already"
    output().print(f"{text}: {len(index):,} rows in {index.path}, features {join_names(index.features)}")
