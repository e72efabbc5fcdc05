"""The dataset card (`README.md`) and its machine-readable twin (`croissant.json`): functions of the dataset alone.

Both are written when a run completes, and again by whatever changes the dataset. A README.md without our mark is
the user's, and is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from turbo_fetch.dataset import names
from turbo_fetch.dataset.croissant import croissant
from turbo_fetch.dataset.facts import Facts
from turbo_fetch.dataset.hf_features import Feature, table_features, yaml_features
from turbo_fetch.progress.summary import human_bytes
from turbo_fetch.spec.fetch import CONSENT_SIGNALS
from turbo_fetch.storage import Storage

MARK: Final = (
    "# made by turbo-fetch, and made anew by the next run; delete this line to keep your own changes"
)


def write_card(storage: Storage) -> None:
    """Write both files into a place with a dataset; nothing if it has no shard, or no spec that wants them.

    Raises OutputError.
    """
    facts = Facts.of(storage)
    if facts is None or not facts.fetch["output"].get("extras", True):
        return
    storage.write_bytes(names.CROISSANT, orjson.dumps(croissant(facts), option=orjson.OPT_INDENT_2))
    if is_ours(storage):
        storage.write_bytes(names.README, card(facts).encode())


def delete_card(storage: Storage) -> None:
    """Delete both files, the card only if it is ours."""
    storage.delete(names.CROISSANT)
    if is_ours(storage):
        storage.delete(names.README)


def is_ours(storage: Storage) -> bool:
    """Return whether the card of a dataset, if it has one, is not one of the user's own."""
    try:
        return MARK.encode() in storage.read_bytes(names.README)
    except FileNotFoundError:
        return True


def card(facts: Facts) -> str:
    """Return the text of the card."""
    successes = facts.outcomes["success"]
    share = successes / facts.rows if facts.rows else 0.0
    image, http, output = facts.fetch["image"], facts.fetch["http"], facts.fetch["output"]
    sizes = ", ".join(map(_size, [image["size"], *image.get("more_sizes", ())]))
    failures = "\n".join(
        f"| {label} | {count:,} | {count / facts.rows:.2%} |"
        for label, count in sorted(facts.outcomes.items(), key=lambda item: (-item[1], item[0]))
    )
    return f"""---
{MARK}
{_loading(facts)}---

# {facts.name}

{successes:,} images from a list of {facts.rows:,} URLs ({share:.1%}), in {facts.shards:,} shards of up to
{output["samples_per_shard"]:,} rows, {human_bytes(facts.bytes)}. Format: {facts.format_name} ({facts.format.loads_in}).

## Load it

{_how_to_load(facts)}
## What is in it

- `NNNNN.parquet` has a row for every URL of the list, those that failed too: `status`, `error_message`, sizes and the
  columns of the list. `{names.ledger("NNNNN")}` tells what happened to each of them; print it with
  `turbo-fetch ledger`.
- Images: mode `{image["mode"]}`, size {sizes}, encoded as {image["encode"]}{_quality(image)}.
- `{names.MANIFEST}` has the sha256 of every file; check them with `turbo-fetch verify`.

## What became of the URLs

| Outcome | Rows | Share |
|---|---|---|
{failures}

## Consent

{_consent(http)}
The images belong to whoever made them. This card claims no licence for them.

## Hashes

{_hashes(image)}
Keys are the shard's number followed by the row's index in it, so the row of the list that a sample comes from is known.
`{names.SPEC}` makes the same dataset again, as far as the web has not changed.
"""


def _loading(facts: Facts) -> str:
    """Return the YAML by which `datasets.load_dataset(folder)` picks the right files and knows their types."""
    kind = facts.format
    if kind.hugging_face is None:
        paths: Sequence[str] = [names.metadata(facts.shard_pattern)]
        features: Sequence[Feature] = table_features(facts.schema, facts.images)
    else:
        paths = kind.hugging_face.data_files(facts.shard_pattern, facts.image)
        features = kind.hugging_face.features(facts.schema, facts.image)
    info = ["dataset_info:", "  features:", *yaml_features(features, "  ")] if features else []
    data_files = ["  data_files:", "  - split: train", "    path:", *(f'    - "{path}"' for path in paths)]
    return "\n".join([*info, "configs:", "- config_name: default", *data_files, ""])


def _how_to_load(facts: Facts) -> str:
    folder, kind = facts.loaded_as, facts.format
    lines = ["import datasets", "", f"data = datasets.load_dataset({folder!r}, split='train')"]
    told = "This file says which files are the data, and of which types they are."
    if kind.hugging_face is not None:
        lines += kind.hugging_face.example(folder)
    elif kind.column is None:
        told = (
            f"Hugging Face datasets has no builder for the format {facts.format_name}: it reads the rows of "
            "`NNNNN.parquet`, without images."
        )
    return "\n".join(["```python", *lines, "```", "", told, ""])


def _size(size: int | list[int]) -> str:
    return str(size) if isinstance(size, int) else " x ".join(map(str, size))


def _quality(image: dict[str, Any]) -> str:
    return f", quality {image['quality']}" if image["encode"] in {"jpg", "webp"} else ""


def _consent(http: dict[str, Any]) -> str:
    told = [f"- {what}: {_respected(http.get(key))}.\n" for key, what in CONSENT_SIGNALS.items()]
    return f"- User agent: `{http['user_agent']}`\n{''.join(told)}\nWhat a respected signal forbids was left out.\n"


def _respected(said: Any) -> str:
    """Return what the spec says of a signal; a dataset of an earlier version may have known nothing of it."""
    if not said or said == "ignore":
        return "ignored"
    if isinstance(said, list):
        return f"respected, for {', '.join(f'`{each}`' for each in said)}"
    return "respected" if said == "respect" else f"respected in {said}"


def _hashes(image: dict[str, Any]) -> str:
    if image["digest"] == "none":
        return "No hash of the original bytes was recorded.\n"
    return (
        f"The column `{image['digest']}` is the {image['digest']} of the bytes as they were downloaded, before any "
        "change, in lower-case hex.\n"
    )
