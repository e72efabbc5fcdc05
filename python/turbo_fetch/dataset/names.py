"""Every name of a file or folder that a dataset has on disk, made here alone.

Shards and keys are named as img2dataset does, so that they agree between the two tools. Beside the shards lie their
metadata, their statistics, and what is for people; everything that is ours and not the data lies in `.turbo-fetch/`.
There no name ends in a suffix of data (`.parquet`, `.json`, `.tar` …): Path.rglob, Polars, DuckDB, Daft and fsspec
follow `**` into hidden folders, and must not meet what is no data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SHARD_DIGITS: Final = 5
"""Digits of shard numbers unless `fetch.output.shard_digits` says otherwise."""

METADATA_SUFFIX: Final = ".parquet"
FOLDER_METADATA: Final = "metadata.parquet"
"""In a folder of `files`: what Hugging Face's imagefolder looks for."""
README: Final = "README.md"
CROISSANT: Final = "croissant.json"
REPORT: Final = "report.html"

FOLDER: Final = ".turbo-fetch"
"""What is ours: the records of a dataset and, unless they are elsewhere, the files in progress."""
JOB: Final = f"{FOLDER}/job"
"""What a dataset is made of, as JSON."""
MANIFEST: Final = f"{FOLDER}/manifest"
"""One commit record a line, as JSON."""
METRICS: Final = f"{FOLDER}/metrics"
"""What runs say of themselves, one JSON object a line."""
SPEC: Final = f"{FOLDER}/spec.toml"
"""The spec as run."""
LEDGERS: Final = f"{FOLDER}/ledger"
REFRESH: Final = f"{FOLDER}/refresh"
"""Where a refresh reports what has changed on the web."""
REFRESH_STATE: Final = f"{REFRESH}/run"
LOGS: Final = f"{FOLDER}/logs"
"""What trackers write."""
ATTEMPTS: Final = f"{FOLDER}/attempts"
BEACON: Final = f"{FOLDER}/beacon"
STAGE_BEACON: Final = f"{FOLDER}-beacon"
"""In a folder that is no dataset."""
PROBE: Final = f"{FOLDER}/probe"
LEASES: Final = f"{FOLDER}/lease"
"""Who works on the dataset: one file for each that ever took it, or a part of it."""

LOCK: Final = "lock"
"""In the work folder of a worker of a cluster."""
DOCUMENTS: Final = "documents.sqlite"
MONITOR_LOG: Final = "monitor.log"
URL_KEYS: Final = "urls.keys"
LATER_CAPTIONS: Final = "captions.sqlite"
CONTENT_KEYS: Final = "contents.keys"

OLD_JOB: Final = "job.json"
OLD_MANIFEST: Final = "manifest.jsonl"
OLD_METRICS: Final = "metrics.jsonl"
OLD_SPEC: Final = "spec.toml"
OLD_REFRESH: Final = "refresh"
OLD_REFRESH_STATE: Final = "refresh/run.json"
OLD_LOGS: Final = "logs"
"""Where earlier versions had the same, among the data."""

_OLD_LEDGER_SUFFIX: Final = ".ledger.parquet"
_STATS_SUFFIX: Final = "_stats.json"
_LEDGER_SUFFIX: Final = ".ledger"
_REFRESH_SUFFIX: Final = ".refresh"
_SPOOL_SUFFIX: Final = ".spool"
_STAGED_SUFFIX: Final = ".part"
_REPLACED_SUFFIX: Final = ".replaced"
_LEASE: Final = re.compile(r"([\w-]+)\.(\d{6,})")
_SPOOL: Final = re.compile(rf"(\d+)({re.escape(_REFRESH_SUFFIX)})?{re.escape(_SPOOL_SUFFIX)}")
_STATS: Final = re.compile(rf"(\d+){re.escape(_STATS_SUFFIX)}")
_METADATA: Final = re.compile(rf"(\d+){re.escape(METADATA_SUFFIX)}")


def shard_name(shard: int, digits: int = SHARD_DIGITS) -> str:
    """Return the name of a shard's files without suffix, zero-padded to `digits`: `00042`."""
    return f"{shard:0{digits}d}"


def index_digits(samples_per_shard: int) -> int:
    """Return how many digits the index within a shard takes: ceil(log10(samples_per_shard))."""
    return len(str(samples_per_shard - 1)) if samples_per_shard > 1 else 0


def sample_key(shard: int, row: int, samples_per_shard: int, digits: int = SHARD_DIGITS) -> str:
    """Return the key of a row: shard number then index, zero-padded, never with a dot."""
    indices = index_digits(samples_per_shard)
    return f"{shard * 10**indices + row:0{indices + digits}d}"


def metadata(shard: str) -> str:
    """Return the name of a shard's Parquet file of metadata, which in `parquet` has the images too."""
    return f"{shard}{METADATA_SUFFIX}"


def stats(shard: str) -> str:
    """Return the name of a shard's statistics, which are its commit record."""
    return f"{shard}{_STATS_SUFFIX}"


def ledger(shard: str) -> str:
    """Return the name of a shard's ledger, a Parquet file."""
    return f"{LEDGERS}/{shard}{_LEDGER_SUFFIX}"


def refresh_report(shard: str) -> str:
    """Return the name of a shard's part of the report of a refresh, a Parquet file."""
    return f"{REFRESH}/{shard}{_REFRESH_SUFFIX}"


def spool(shard: str) -> str:
    """Return the name of a shard's spool in the work folder."""
    return f"{shard}{_SPOOL_SUFFIX}"


def refresh_spool(shard: str) -> str:
    """Return the name of the spool of a shard that is refreshed."""
    return f"{shard}{_REFRESH_SUFFIX}{_SPOOL_SUFFIX}"


def staged(name: str) -> str:
    """Return the name that a file has in the work folder until it is published as `name`."""
    return f"{name.rpartition('/')[2]}{_STAGED_SUFFIX}"


def staged_stats(work: Path) -> list[Path]:
    """Return the commit records that wait in a work folder, which need not exist, to be published."""
    return sorted(work.glob(f"*{_STATS_SUFFIX}{_STAGED_SUFFIX}"))


def part_work(work: Path, scope: str) -> Path:
    """Return the folder for what one of several runs has in progress."""
    return work / f"part-{scope}"


def has_parts(work: Path) -> bool:
    """Return whether one of several runs has something in progress here."""
    return any(work.glob("part-*"))


def part_manifest(scope: str) -> str:
    """Return the name of the manifest of a part, in its work folder."""
    return f"manifest-{scope}"


def lease(scope: str, token: int) -> str:
    """Return the name of the lease with this number on `scope`, the whole dataset or a part of it."""
    return f"{LEASES}/{scope}.{token:06d}"


def scope_of_lease(name: str) -> tuple[str, int] | None:
    """Return the scope and the number of the lease that has this name in LEASES, None if it is none."""
    match = _LEASE.fullmatch(name)
    return None if match is None else (match[1], int(match[2]))


def attempt(name: str) -> str:
    """Return the folder into which a worker publishes."""
    return f"{ATTEMPTS}/{name}"


def replaced(shard: str) -> str:
    """Return the name of what an attempt says of the version of a shard that it replaces."""
    return f"{shard}{_REPLACED_SUFFIX}"


def is_replaced(name: str) -> bool:
    """Return whether what is said of a replaced version has this name in an attempt."""
    return name.endswith(_REPLACED_SUFFIX)


def deny_keys(kind: str, identity: str) -> str:
    """Return the name of a deny list made ready in the work folder."""
    return f"deny-{kind}-{identity}.keys"


def deny_lock(what: str) -> str:
    """Return the name of the lock of those who make a deny list ready."""
    return f"deny-{what}.lock"


def shard_of_stats(name: str) -> str | None:
    """Return the name of the shard whose commit record has this name, None if it is none."""
    return _first(_STATS, name) if name.endswith(_STATS_SUFFIX) else None


def shard_of_metadata(name: str) -> str | None:
    """Return the name of the shard whose metadata have this name, None if they are none."""
    return _first(_METADATA, name)


def shard_of_old_ledger(name: str) -> str | None:
    """Return the name of the shard whose ledger had this name in an earlier version, None if it is none."""
    shard = name.removesuffix(_OLD_LEDGER_SUFFIX)
    return shard if shard.isdecimal() and shard != name else None


def shard_of_refresh_report(name: str) -> str | None:
    """Return the name of the shard to which this file in REFRESH belongs, None if it belongs to none."""
    shard = name.removesuffix(_REFRESH_SUFFIX)
    return shard if shard != name else None


def spools(work: Path, of_refresh: bool = False) -> list[tuple[str, Path]]:
    """Return the spools in a work folder, which need not exist, each with the name of its shard, in order."""
    found = [
        (match, path) for path in work.glob(f"*{_SPOOL_SUFFIX}") if (match := _SPOOL.fullmatch(path.name))
    ]
    return sorted((match[1], path) for match, path in found if bool(match[2]) == of_refresh)


def shard_files(suffixes: Iterable[str], digits: int = 1) -> re.Pattern[str]:
    """Return the pattern of names of a shard's files beside `.turbo-fetch/`; its first group is the shard's name.

    `suffixes` are those of the formats.
    """
    endings = "|".join(map(re.escape, sorted({_STATS_SUFFIX, METADATA_SUFFIX, *suffixes})))
    return re.compile(rf"(\d{{{digits},}})({endings})")


def _first(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.fullmatch(name)
    return None if match is None else match[1]
