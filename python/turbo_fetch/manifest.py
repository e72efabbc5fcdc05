"""The manifest: one line per committed shard, in `manifest.jsonl`, checked against what is really there.

The commit record of a shard is its `NNNNN_stats.json`, published last; the manifest gathers those records. So
a parent that is killed between the two loses nothing: the next one adopts the record.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import orjson

from turbo_fetch.commit import STATS_SUFFIX
from turbo_fetch.keys import shard_name
from turbo_fetch.output_errors import explained
from turbo_fetch.storage import Storage

NAME: Final = "manifest.jsonl"
PUT_EVERY_S: Final = 30.0
"""An object store takes whole objects only, so there the manifest is put anew at most this often."""

_STATS = re.compile(rf"(\d{{5,}}){re.escape(STATS_SUFFIX)}")

Record = dict[str, Any]


class Manifest:
    """The committed shards of a dataset; a context manager. One writer at a time."""

    def __init__(self, storage: Storage, records: dict[int, Record]) -> None:
        self._storage = storage
        self._lines = {shard: _line(record) for shard, record in sorted(records.items())}
        self._file: int | None = None
        self._put_s = time.monotonic()

    @classmethod
    def open(cls, storage: Storage) -> Manifest:
        """Read the manifest, drop what is not there, adopt what it lacks, and write it anew if it changed.

        A record counts only if its `NNNNN_stats.json` is there and each of its files has the recorded size.
        """
        sizes = {entry.name: entry.bytes for entry in storage.list()}
        stored = storage.read_bytes(NAME) if NAME in sizes else b""
        records = {record["shard"]: record for record in _parse(stored) if _is_there(record, sizes)}
        for name in sizes:
            match = _STATS.fullmatch(name)
            if match is not None and int(match[1]) not in records:
                record = _read_record(storage, name)
                if record is not None and _is_there(record, sizes):
                    records[record["shard"]] = record
        manifest = cls(storage, records)
        if manifest._content() != stored:
            manifest._write_all()
        return manifest

    @property
    def committed(self) -> frozenset[int]:
        """The ids of the committed shards."""
        return frozenset(self._lines)

    def records(self) -> Iterator[Record]:
        """Yield the commit records in shard order."""
        for shard in sorted(self._lines):
            yield orjson.loads(self._lines[shard])

    def commit(self, record: Record) -> None:
        """Add a commit record, durably where the place is local."""
        line = _line(record)
        self._lines[record["shard"]] = line
        if self._storage.path is not None:
            self._append(line)
        elif time.monotonic() - self._put_s > PUT_EVERY_S:
            self._write_all()

    def close(self) -> None:
        """Write the manifest in shard order."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lines:
            self._write_all()

    def _append(self, line: bytes) -> None:
        assert self._storage.path is not None
        with explained(str(self._storage.path / NAME), len(line)):
            if self._file is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(self._storage.path / NAME, flags, 0o644)
            os.write(self._file, line)
            os.fsync(self._file)

    def _write_all(self) -> None:
        self._storage.write_bytes(NAME, self._content())
        self._put_s = time.monotonic()

    def _content(self) -> bytes:
        return b"".join(self._lines[shard] for shard in sorted(self._lines))


def _line(record: Record) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _parse(content: bytes) -> Iterator[Record]:
    """Yield the records of all whole lines; a torn or garbled line is no record."""
    for line in content.splitlines():
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if _is_record(record):
            yield record


def _read_record(storage: Storage, name: str) -> Record | None:
    try:
        record = orjson.loads(storage.read_bytes(name))
    except (orjson.JSONDecodeError, FileNotFoundError):
        return None
    return record if _is_record(record) else None


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and {"shard", "rows", "outcomes", "files", "failing_hosts"} <= value.keys()


def _is_there(record: Record, sizes: dict[str, int | None]) -> bool:
    """Return whether all files of a record are there; those of a folder are not looked at one by one."""
    if f"{shard_name(record['shard'])}{STATS_SUFFIX}" not in sizes:
        return False
    return all(
        file["name"] in sizes and sizes[file["name"]] in (None, file["bytes"]) for file in record["files"]
    )
