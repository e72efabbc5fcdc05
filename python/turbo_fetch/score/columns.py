"""From what a function returned to the columns that the spec names: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds


class BadScores(Exception):
    """What a function returned cannot be taken; the message says what it was, and what was expected."""


def as_columns(returned: object, schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """Return the columns of `schema` for so many rows.

    `returned` is a record batch, a table, or a mapping of names to Arrow arrays, numpy arrays, tensors or sequences,
    in which None stands for no value. Raises BadScores.
    """
    named = _named(returned, schema)
    if missing := [name for name in schema.names if name not in named]:
        raise BadScores(f"returned no column {missing[0]!r}, which fetch.score.columns names")
    if stray := [name for name in named if name not in schema.names]:
        raise BadScores(f"returned a column {stray[0]!r}, which fetch.score.columns does not name")
    arrays = [_array(field, named[field.name], rows) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _named(returned: object, schema: pa.Schema) -> dict[str, Any]:
    if isinstance(returned, pa.RecordBatch | pa.Table):
        return dict(zip(returned.schema.names, returned.columns, strict=True))
    if isinstance(returned, Mapping):
        return dict(returned)
    raise BadScores(
        f"returned a {type(returned).__name__}; expected a record batch, a table, or a mapping with the keys "
        f"{', '.join(schema.names)}"
    )


def _array(field: pa.Field, values: Any, rows: int) -> pa.Array:
    if hasattr(values, "detach"):
        values = _of_tensor(values)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    try:
        found = _converted(values, field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadScores(
            f"returned {_kind(values)} for {field.name!r}; expected values of {field.type} ({reason})"
        ) from error
    if len(found) != rows:
        raise BadScores(
            f"returned {len(found)} values of {field.name!r} for {rows} images; expected one for each"
        )
    return found


def _of_tensor(tensor: Any) -> Any:
    """Return a PyTorch tensor, on whatever device and of whatever precision, as a numpy array."""
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16.
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _converted(values: Any, kind: Any) -> pa.Array:
    if isinstance(values, np.ndarray) and kinds.is_fixed_size_list(kind):
        if values.ndim != 2 or values.shape[1] != kind.list_size:
            raise ValueError(f"the shape is {values.shape}, expected (images, {kind.list_size})")
        flat = _cast(pa.array(np.ascontiguousarray(values).reshape(-1)), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    if isinstance(values, pa.Array):
        return _cast(values, kind)
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"the shape is {values.shape}, expected (images,)")
    return _cast(pa.array(values), kind) if isinstance(values, np.ndarray) else pa.array(values, kind)


def _cast(array: pa.Array, kind: Any) -> pa.Array:
    if array.type == kind:
        return array
    if kinds.is_fixed_size_list(kind) and kinds.is_fixed_size_list(array.type):
        if array.type.list_size != kind.list_size:
            raise ValueError(f"the lists have {array.type.list_size} values")
        values = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(
            _cast(values, kind.value_type), type=kind, mask=array.is_null()
        )
    if kinds.is_fixed_size_list(kind):
        return pa.array(array.to_pylist(), kind)
    # Not to a text: what a text is of, is for the function to say.
    if kinds.is_string(kind) and not (kinds.is_large_string(array.type) or kinds.is_null(array.type)):
        raise ValueError(f"the type is {array.type}")
    if kinds.is_float16(kind) and kinds.is_float64(array.type):
        return array.cast(pa.float32()).cast(kind)
    return pc.cast(array, kind)


def _kind(values: Any) -> str:
    return str(values.type) if isinstance(values, pa.Array) else f"a {type(values).__name__}"
