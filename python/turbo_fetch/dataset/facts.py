"""What is known of a dataset, for those who write about it: what was asked for, and what came of it."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats import Format, format_of
from turbo_fetch.dataset.manifest import read_manifest
from turbo_fetch.dataset.metadata_files import opened
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage

_HUB: Final = re.compile("hf://datasets/([^/]+/[^/@]+)")
"""A dataset that is a whole repository."""


@dataclass(slots=True)
class Facts:
    """What is known of a dataset that has a shard."""

    name: str
    loaded_as: str
    """What `datasets` loads it by, from the folder around it or, on the Hub, from anywhere."""
    fetch: dict[str, Any]
    """The table `[fetch]` of the spec as run."""
    schema: pa.Schema
    """The columns of `NNNNN.parquet`."""
    rows: int = 0
    shards: int = 0
    bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, storage: Storage) -> Facts | None:
        """Return what is known of the dataset in a place, None if it has no shard or no spec."""
        try:
            fetch = tomllib.loads(storage.read_bytes(names.SPEC).decode()).get("fetch", {})
        except FileNotFoundError:
            fetch = {}
        facts = None
        for record in read_manifest(storage) if fetch else ():
            if facts is None:
                name = PurePosixPath(storage.url.rstrip("/")).name or "dataset"
                of_hub = _HUB.fullmatch(storage.url)
                facts = cls(name, of_hub[1] if of_hub else f"./{name}", fetch, stored_schema(storage, record))
            facts.rows += record["rows"]
            facts.shards += 1
            facts.bytes += sum(file["bytes"] for file in record["files"])
            facts.outcomes.update(record["outcomes"])
        return facts

    @property
    def format_name(self) -> str:
        """What the format of the shards is called."""
        return str(self.fetch["output"]["format"])

    @property
    def format(self) -> Format:
        """The format of the shards."""
        return format_of(self.fetch["output"]["format"])

    @property
    def image(self) -> ImageSpec:
        """How the images were made."""
        return ImageSpec.model_validate(self.fetch["image"])

    @property
    def images(self) -> list[str]:
        """The columns of images in `NNNNN.parquet`."""
        return self.format.image_columns(self.schema, tuple(self.image.more_boxes))

    @property
    def shard_pattern(self) -> str:
        """A pattern of the names of shards, without suffix."""
        return "[0-9]" * int(self.fetch["output"].get("shard_digits", names.SHARD_DIGITS))


def stored_schema(storage: Storage, record: dict[str, Any]) -> pa.Schema:
    """Return the columns of `NNNNN.parquet` of a committed shard; DatasetError if it is damaged."""
    with opened(storage, names.metadata(record["name"])) as table:
        return table.schema_arrow
