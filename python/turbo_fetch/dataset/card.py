"""The dataset card (`README.md`) and its machine-readable twin (`croissant.json`): functions of the dataset alone.

Both are written when a run completes, and again by whatever changes the dataset. A README.md without our mark is
the user's, and is left alone.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from turbo_fetch.dataset import names
from turbo_fetch.dataset.croissant import croissant
from turbo_fetch.dataset.hf_features import Feature, sample_features, table_features, yaml_features
from turbo_fetch.dataset.manifest import read_manifest
from turbo_fetch.progress.summary import human_bytes
from turbo_fetch.storage import Storage

MARK: Final = (
    "# made by turbo-fetch, and made anew by the next run; delete this line to keep your own changes"
)

_LOADS: Final = {
    "webdataset": "webdataset, Hugging Face datasets, torch DataLoader",
    "files": "Hugging Face datasets (imagefolder), torchvision, anything that opens files",
    "parquet": "Hugging Face datasets, pyarrow, pandas, Polars, DuckDB",
    "parquet_bytes": "Hugging Face datasets, pyarrow, pandas, Polars, DuckDB",
    "lmdb": "lmdb, torch DataLoader",
    "tfrecord": "tf.data, PyPI tfrecord",
    "dummy": "pyarrow, pandas, Polars, DuckDB (there are no pictures)",
}
_IMAGES: Final = ("jpg", "png", "webp", "gif", "bmp", "tif", "jp2", "ico")
"""Extensions of pictures that are kept as they came, as far as imagefolder takes them."""


@dataclass(slots=True)
class Facts:
    """What is known of a dataset: its name, what was asked for, what came of it."""

    name: str
    fetch: dict[str, Any]
    """The table `[fetch]` of the spec as run; empty if there is none."""
    schema: pa.Schema | None = None
    """The columns of `NNNNN.parquet`."""
    rows: int = 0
    shards: int = 0
    bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def format(self) -> str:
        """The format of the shards."""
        return str(self.fetch["output"]["format"])


def write_card(storage: Storage) -> None:
    """Write both files into a place with a dataset; nothing if it has no shard, or no spec that wants them.

    Raises OutputError.
    """
    facts = _facts(storage)
    if facts.schema is None or not facts.fetch or not facts.fetch["output"].get("extras", True):
        return
    storage.write_bytes(names.CROISSANT, orjson.dumps(croissant(facts), option=orjson.OPT_INDENT_2))
    try:
        is_ours = MARK.encode() in storage.read_bytes(names.README)
    except FileNotFoundError:
        is_ours = True
    if is_ours:
        storage.write_bytes(names.README, card(facts).encode())


def delete_card(storage: Storage) -> None:
    """Delete both files, the card only if it is ours."""
    storage.delete(names.CROISSANT)
    try:
        is_ours = MARK.encode() in storage.read_bytes(names.README)
    except FileNotFoundError:
        return
    if is_ours:
        storage.delete(names.README)


def card(facts: Facts) -> str:
    """Return the text of the card."""
    successes = facts.outcomes["success"]
    share = successes / facts.rows if facts.rows else 0.0
    image, http, output = facts.fetch["image"], facts.fetch["http"], facts.fetch["output"]
    size = image["size"] if isinstance(image["size"], int) else " x ".join(map(str, image["size"]))
    failures = "\n".join(
        f"| {label} | {count:,} | {count / facts.rows:.2%} |"
        for label, count in sorted(facts.outcomes.items(), key=lambda item: (-item[1], item[0]))
    )
    return f"""---
{MARK}
{_loading(facts)}---

# {facts.name}

{successes:,} pictures from a list of {facts.rows:,} URLs ({share:.1%}), in {facts.shards:,} shards of up to
{output["samples_per_shard"]:,} rows, {human_bytes(facts.bytes)}. Format: {facts.format} ({_LOADS[facts.format]}).

## Load it

{_how_to_load(facts)}
## What is in it

- `NNNNN.parquet` has a row for every URL of the list, those that failed too: `status`, `error_message`, sizes and the
  columns of the list. `{names.ledger("NNNNN")}` tells what happened to each of them; print it with
  `turbo-fetch ledger`.
- Pictures: mode `{image["mode"]}`, size {size}, encoded as {image["encode"]}{_quality(image)}.
- `{names.MANIFEST}` has the sha256 of every file; check them with `turbo-fetch verify`.

## What became of the URLs

| Outcome | Rows | Share |
|---|---|---|
{failures}

## Consent

{_consent(http)}
The pictures belong to whoever made them. This card claims no licence for them.

## Hashes

{_hashes(image)}
Keys are the shard's number followed by the row's index in it, so the row of the list that a sample comes from is known.
`{names.SPEC}` makes the same dataset again, as far as the web has not changed.
"""


def stored_schema(storage: Storage, record: dict[str, Any]) -> pa.Schema:
    """Return the columns of `NNNNN.parquet` of a committed shard."""
    with storage.open_file(names.metadata(record["name"])) as file:
        return pq.read_schema(file)


def _facts(storage: Storage) -> Facts:
    name = PurePosixPath(storage.url.rstrip("/")).name or "dataset"
    try:
        fetch = tomllib.loads(storage.read_bytes(names.SPEC).decode()).get("fetch", {})
    except FileNotFoundError:
        fetch = {}
    facts = Facts(name, fetch)
    for record in read_manifest(storage):
        if facts.schema is None:
            facts.schema = stored_schema(storage, record)
        facts.rows += record["rows"]
        facts.shards += 1
        facts.bytes += sum(file["bytes"] for file in record["files"])
        facts.outcomes.update(record["outcomes"])
    return facts


def _loading(facts: Facts) -> str:
    """Return the YAML by which `datasets.load_dataset(folder)` picks the right files and knows their types."""
    assert facts.schema is not None
    digits = "[0-9]" * facts.fetch["output"].get("shard_digits", 5)
    extension = _extension(facts)
    features: list[Feature] = []
    match facts.format:
        case "webdataset":
            paths = [f"{digits}.tar"]
            features = sample_features(facts.schema, extension)
        case "files":
            # The types are in `metadata.parquet`. A pattern for all files would make it a dataset of JSON.
            found = _IMAGES if facts.fetch["image"]["encode"] == "original" else (extension,)
            paths = [*(f"{digits}/*.{each}" for each in found), f"{digits}/{names.FOLDER_METADATA}"]
        case "parquet":
            paths = [names.metadata(digits)]
            features = table_features(facts.schema, "image")
        case _:
            paths = [names.metadata(digits)]
            features = table_features(facts.schema, extension if facts.format == "parquet_bytes" else None)
    info = ["dataset_info:", "  features:", *yaml_features(features, "  ")] if features else []
    data_files = ["  data_files:", "  - split: train", "    path:", *(f'    - "{path}"' for path in paths)]
    return "\n".join([*info, "configs:", "- config_name: default", *data_files, ""])


def _how_to_load(facts: Facts) -> str:
    folder = f"./{facts.name}"
    lines = ["import datasets", "", f"data = datasets.load_dataset({folder!r}, split='train')"]
    told = "This file says which files are the data, and of which types they are."
    if facts.format == "webdataset":
        lines += [
            "",
            "# some of the shards: types are not in them, so give them along",
            f"features = datasets.load_dataset_builder({folder!r}).info.features",
            f"tars = {folder + '/*.tar'!r}",
            "data = datasets.load_dataset('webdataset', data_files=tars, features=features, split='train')",
        ]
    elif facts.format in {"lmdb", "tfrecord", "dummy"}:
        told = (
            f"Hugging Face datasets has no builder for the format {facts.format}: it reads the rows of "
            "`NNNNN.parquet`, without pictures."
        )
    return "\n".join(["```python", *lines, "```", "", told, ""])


def _extension(facts: Facts) -> str:
    """Return the extension of pictures, as in the shards."""
    encode = str(facts.fetch["image"]["encode"])
    return "jpg" if encode == "original" else encode


def _quality(image: dict[str, Any]) -> str:
    return f", quality {image['quality']}" if image["encode"] in {"jpg", "webp"} else ""


def _consent(http: dict[str, Any]) -> str:
    asked = [f"- User agent: `{http['user_agent']}`"]
    directives = http.get("opt_out", [])
    if directives:
        names = ", ".join(f"`{name}`" for name in directives)
        asked.append(f"- Pictures whose X-Robots-Tag header says {names} were left out.")
    else:
        asked.append("- X-Robots-Tag headers were not heeded.")
    robots = http.get("robots")
    if robots is not None:
        asked.append(f"- robots.txt: {robots}.")
    return "\n".join(asked) + "\n"


def _hashes(image: dict[str, Any]) -> str:
    if image["digest"] == "none":
        return "No hash of the original bytes was recorded.\n"
    return (
        f"The column `{image['digest']}` is the {image['digest']} of the bytes as they were downloaded, before any "
        "change, in lower-case hex.\n"
    )
