"""The Python API to build and open an index. Unlike the other modules, it also accepts paths, lists and data sets."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taughtby.data.dataset import ReadOptions, write_examples
from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, OptionError, StoreError, TaughtbyError, machine_fault
from taughtby.index import build
from taughtby.index.model_sources import model_sources
from taughtby.index.reader import Index
from taughtby.index.storage import StoragePath, storage_path
from taughtby.methods import DEFAULT_METHOD, Method, get_method
from taughtby.models.model import Model, load_model
from taughtby.progress import ProgressCallback, reported

if TYPE_CHECKING:
    from taughtby.index.distributed import RayPool

Data = str | Path | Iterable[dict[str, Any]] | Iterable[Example]  # a datasets.Dataset is an iterable of dicts
ROWS = "give a file's name, dicts, Examples or a datasets.Dataset; of a DataFrame, df.to_dict('records')"
Methods = str | Method | Sequence[str | Method]


def open_index(path: str | StoragePath) -> Index:
    """Open a finished index for reading.

    Args:
        path: The index's folder, or its address in an object store (`s3://`, `gs://`, `az://`).

    Raises:
        StoreError: There is no index, it is not finished, or it has another format.

    Example:
        >>> index = open_index("taughtby-demo/idx")
        >>> trace = index.trace("Who makes honey?", "Honey is made by beetles.")
    """
    return Index.open(path)


def build_index(
    model: Model | str | Path,
    data: Data,
    out: str | StoragePath,
    methods: Methods = DEFAULT_METHOD,
    *,
    read_options: ReadOptions | None = None,
    encoding: Encoding | None = None,
    token_budget: int | None = None,
    layers: bool = True,
    append: bool = False,
    progress: bool | ProgressCallback = True,
    pool: RayPool | None = None,
    note: Callable[[str], None] | None = None,
) -> Index:
    """Compute the features of every row of the data, and write them to an index.

    Repeat the same call to resume an interrupted run; a call with other settings raises an error.

    Args:
        model: A model from `load_model`, or a name that `load_model` accepts.
        data: A file, a folder or a hub id; or a `datasets.Dataset`, dicts or Examples, which are saved as JSONL
            next to the index (`OUT-data-….jsonl`), where `clean` and the web page find them.
        out: The index's folder, or its address in an object store.
        methods: A method, a spec such as `"rept:layer=14"`, or a list of these.
        read_options: How rows are read; by default from the training metadata in the model's folder.
        encoding: How rows are tokenized; by default from the training metadata in the model's folder.
        token_budget: Padded tokens per batch.
        layers: Whether to measure the similarity of layers, which methods with `layer=auto` need.
        append: Append the rows of `data` that a finished index does not have yet.
        progress: True for a progress bar on a terminal or in a notebook, or a function of (done, total).
        pool: Ray workers that compute the features.
        note: Called with notes on the data, such as columns and loss marks that are ignored.

    Returns:
        The finished index, open.

    Raises:
        TaughtbyError: The model, the data, a method or the folder cannot be used.
    """
    parsed = parse_methods(methods)
    if isinstance(data, Model):
        raise OptionError("the model and the data are swapped", do="give the model first, then the data")
    data, read_options = with_reading(data, read_options)
    loaded, file = as_model(model), data_file(data, out)
    with reported(progress, f"index {file}") as callback:
        return build.build_index(
            loaded, file, out, parsed, read_options=read_options, encoding=encoding, token_budget=token_budget,
            layers=layers, append=append, progress=callback, pool=pool, note=note,
        )  # fmt: skip


def with_reading(data: Data, read_options: ReadOptions | None) -> tuple[Data, ReadOptions | None]:
    """Return the data and read options. Examples are already parsed, so a trainer's columns and turns do not apply."""
    if isinstance(data, str | Path) or not isinstance(data, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        return data, read_options
    rows: Iterator[Any] = iter(data)
    first = list(islice(rows, 1))
    if first and isinstance(first[0], Example):
        read_options = read_options or ReadOptions()
    return chain(first, rows), read_options


def parse_methods(methods: Methods) -> list[Method]:
    """Return the methods, given as one or several specs or Methods."""
    chosen = list(methods) if isinstance(methods, Sequence) and not isinstance(methods, str) else [methods]
    if not chosen:
        raise OptionError("there is no method", do=f"give one, such as {DEFAULT_METHOD}")
    return [get_method(method) for method in chosen]  # pyright: ignore[reportArgumentType]


def load_indexed_model(
    index: Index,
    name: str | None = None,
    adapter: Sequence[str] | None = None,
    base: str | None = None,
    *,
    device: str = "auto",
    quantize: str | None = None,
    new_base: bool = False,
    load: Callable[..., Model] = load_model,
    note: Callable[[str], None] = lambda _: None,
) -> Model:
    """Load the model that an index was built with, from its original path or from where it moved with the index.

    Args:
        index: The index.
        name: The model's new name, if it has moved.
        adapter: The new names of its adapters, if they have moved.
        base: The new name of the base model of a full fine-tune, if it has moved.
        device: As in `load_model`.
        quantize: As in `load_model`.
        new_base: Whether `base` may be added to an index that was built without one.
        load: A function with the signature of `load_model`.
        note: Called with messages for the user.

    Raises:
        TaughtbyError: The model is missing, or is not the index's.
    """
    places = model_sources(index.manifest, index.path, name, adapter, base)
    for place in places:
        try:
            dtype = index.manifest["settings"]["dtype"]
            model = load(
                place.model, list(place.adapters), base=place.base, dtype=dtype, device=device, quantize=quantize
            )
            if not (new_base and base):
                build.check_same_model(index, model)
        except TaughtbyError as error:
            if place is places[-1] or machine_fault(error):
                raise
            note(f"the model beside {index.path} is not the one the index was built with; trying its original path")
        else:
            return model
    raise AssertionError("there is always one place")


def as_model(model: Model | str | Path) -> Model:
    """Return the model; a name or path is loaded."""
    if isinstance(model, Model):
        return model
    if not isinstance(model, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        do = "give taughtby.load_model(…), or the folder; a model in training: IndexCallback"
        raise OptionError("the model was not loaded by taughtby", got=type(model).__name__, do=do)
    return load_model(model)


def data_file(data: Data, beside: str | StoragePath) -> str:
    """Return the path of the data. Rows in memory are first saved next to `beside`, in a file named by a hash."""
    if isinstance(data, str | Path):
        return str(data)
    if not isinstance(data, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError("the data is neither a file nor rows", got=type(data).__name__, do=ROWS)
    place = storage_path(beside)
    if not isinstance(place, Path):
        do = "save the rows to a file, and pass its path"
        raise StoreError("rows in memory cannot be saved beside an index in an object store", got=str(place), do=do)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}-data.{os.getpid()}.jsonl")
    try:
        _write_rows(data, draft)
        digest = hashlib.blake2b(draft.read_bytes(), digest_size=4).hexdigest()
        file = place.with_name(f"{place.name}-data-{digest}.jsonl")
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    return str(file)


def _write_rows(data: Iterable[Any], file: Path) -> None:
    rows = iter(data)
    first = next(rows, None)
    if first is None:
        raise DataError("the data has no rows", do="give at least one")
    if isinstance(first, Example):
        examples = list(chain([first], rows))
        for number, row in enumerate(examples):
            if not isinstance(row, Example):  # pyright: ignore[reportUnnecessaryIsInstance]
                do = "give Examples alone, or dicts alone"
                raise DataError(f"row {number} of the data is not an Example", got=type(row).__name__, do=do)
        write_examples(examples, file)
        return
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
        for number, row in enumerate(chain([first], rows)):
            if not isinstance(row, dict):
                raise DataError(f"row {number} of the data is not a dict", got=type(row).__name__, do=ROWS)
            try:
                out.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
            except TypeError as error:
                do = "keep only columns of texts, numbers, dates and lists"
                raise DataError(f"row {number} of the data cannot be written as JSON", got=str(error), do=do) from None


def _plain(value: Any) -> Any:
    """Convert a value of NumPy or pandas to one of JSON: arrays, numbers, dates and missing values."""
    if type(value).__name__ in ("NAType", "NaTType"):  # missing values of pandas
        return None
    for name in ("tolist", "isoformat"):
        if hasattr(value, name):
            return getattr(value, name)()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
