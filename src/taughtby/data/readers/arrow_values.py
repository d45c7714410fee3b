"""Converts Arrow values to JSON values: JSON columns are parsed, maps become objects, nulls in objects are dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pyarrow as pa

from taughtby.data.example import Record, shorten

Convert = Callable[[Any], Any]
AT_ONCE = 256  # rows converted to Python objects at a time


def batch_rows(batch: pa.RecordBatch) -> Iterator[Record]:
    """Yield the rows of a batch as a JSON file would contain them.

    Strings in a column of type JSON (Arrow's `arrow.json`, Parquet's JSON, `Json()` of `datasets`) are parsed; in any
    other column they stay strings. Nulls in objects are dropped: such a key exists only because another row has it.

    Raises:
        ValueError: A JSON column contains invalid JSON.
    """
    convert = _struct_converter(batch.schema, _features(batch.schema))
    for start in range(0, batch.num_rows, AT_ONCE):
        for row in batch.slice(start, AT_ONCE).to_pylist(maps_as_pydicts="strict"):
            yield json_like(convert(row) if convert else row)


def json_like(row: Record) -> Record:
    """Drop nulls in objects, and convert values that JSON does not have to strings, except bytes."""
    return {
        name: value if value is None or isinstance(value, str) else _json_value(value) for name, value in row.items()
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bytes) else str(value)


def _features(schema: pa.Schema) -> Any:
    """Return the column types that `datasets` stored as metadata, since the schema may have lost the JSON type."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def _struct_converter(fields: pa.Schema | pa.StructType, features: Any) -> Convert | None:
    described = cast("dict[str, Any]", features) if isinstance(features, dict) else {}
    converters = {field.name: _converter(field.type, described.get(field.name)) for field in fields}
    parsed = {name: convert for name, convert in converters.items() if convert}

    def convert(row: Any) -> Any:
        if row is None:
            return None
        return row | {name: parse(row[name]) for name, parse in parsed.items() if row[name] is not None}

    return convert if parsed else None


def _converter(type_: pa.DataType, feature: Any) -> Convert | None:
    """Return a function that parses the JSON in values of this type; None if there is none to parse."""
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    if isinstance(type_, pa.JsonType) or (
        is_text and isinstance(feature, dict) and cast("Any", feature).get("_type") == "Json"
    ):
        return _parse
    if isinstance(type_, pa.StructType):
        return _struct_converter(type_, feature)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature") if isinstance(inner, dict) and "feature" in inner else inner
        if element := _converter(cast("pa.ListType[Any]", type_).value_type, inner):
            return lambda values: [value if value is None else element(value) for value in values]
    return None


def _parse(text: Any) -> Any:
    if not isinstance(text, str):  # already parsed
        return text
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("a JSON column is nested too deeply") from None
    except ValueError as fault:
        raise ValueError(f"a JSON column contains invalid JSON: {fault} in {shorten(text)}") from None
