"""Croissant 1.0 metadata (JSON-LD, docs.mlcommons.org/croissant) of a dataset: a pure function."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as kinds

from turbo_fetch.arrow.kept_types import is_list, kept_type
from turbo_fetch.dataset import names
from turbo_fetch.dataset.facts import Facts

_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "excludes": "cr:excludes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(facts: Facts) -> dict[str, Any]:
    """Return the JSON-LD of the dataset."""
    successes = facts.outcomes["success"]
    images = facts.images
    fields = {
        column.name: _field(column, column_id, is_image=column.name in images)
        for column, column_id in zip(facts.schema, _ids(facts.schema.names), strict=True)
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "description": (
            f"{successes:,} images from a list of {facts.rows:,} URLs, in {facts.shards:,} shards of the format "
            f"{facts.format_name}. Rows by outcome: "
            + ", ".join(f"{label} {count:,}" for label, count in sorted(facts.outcomes.items()))
            + "."
        ),
        "version": "1.0.0",
        "rai:dataCollection": "Downloaded by turbo-fetch from public URLs; the list's columns are kept.",
        "rai:dataCollectionType": ["Web Scraping"],
        "distribution": _distribution(facts),
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": "One record for each URL of the list, whether it became an image or not."
                + _left_out([name for name, field in fields.items() if field is None]),
                "key": {"@id": "rows/key"},
                "field": [field for field in fields.values() if field is not None],
            }
        ],
    }


def _distribution(facts: Facts) -> list[dict[str, Any]]:
    # Readers do not agree on `excludes`, so the pattern says how the names of shards look.
    files = [
        _file_set("metadata", names.metadata(facts.shard_pattern), "application/x-parquet"),
        _file_set("ledgers", names.ledger("*"), "application/x-parquet"),
    ]
    beside = facts.format.croissant_files
    return files if beside is None else [*files, _file_set("images", *beside(facts.image))]


def _file_set(name: str, includes: str, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": encoding,
        "includes": includes,
    }


def _left_out(names: list[str]) -> str:
    listed = ", ".join(map(repr, names))
    return (
        f" Croissant has no word for the types of the columns {listed}, which the files have too."
        if names
        else ""
    )


def _ids(names: Iterable[str]) -> list[str]:
    """Return a distinct id for each name: itself, but for characters that readers of Croissant do not take."""
    found: list[str] = []
    for name in names:
        near = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII) or "_"
        while near in found:
            near += "_"
        found.append(near)
    return found


def _field(column: pa.Field, column_id: str, *, is_image: bool) -> dict[str, Any] | None:
    """Return the field of a column, None if Croissant has no word for its type."""
    extract: dict[str, Any] = {"fileSet": {"@id": "metadata"}, "extract": {"column": column.name}}
    kind, repeated = column.type, False
    if is_image:
        data_type = "sc:ImageObject"
        if kinds.is_struct(kind):
            extract["transform"] = {"jsonPath": "bytes"}
    else:
        while is_list(kind):
            kind, repeated = kind.value_type, True
        found = _data_type(kept_type(kind))
        if found is None:
            return None
        data_type = found
    field = {
        "@type": "cr:Field",
        "@id": f"rows/{column_id}",
        "name": column.name,
        "dataType": data_type,
        "source": extract,
    }
    return {**field, "repeated": True} if repeated else field


def _data_type(kind: pa.DataType) -> str | None:
    if kinds.is_boolean(kind):
        return "sc:Boolean"
    if kinds.is_integer(kind):
        return "sc:Integer"
    if kinds.is_floating(kind) or kinds.is_decimal(kind):
        return "sc:Float"
    if kinds.is_timestamp(kind) or kinds.is_date(kind):
        return "sc:Date"
    if kinds.is_time(kind):
        return "sc:Time"
    return None if kinds.is_nested(kind) or kinds.is_duration(kind) else "sc:Text"
