"""A dataset on its way: what it is made of, whether this job may go on with it, and its committed shards."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

from turbo_fetch.arrow.kept_types import type_in_parquet
from turbo_fetch.dataset import names
from turbo_fetch.dataset.attempts import discard_attempts
from turbo_fetch.dataset.card import delete_card
from turbo_fetch.dataset.description import Job, read_job, read_spec, refuse_old_layout, write_job
from turbo_fetch.dataset.facts import stored_schema
from turbo_fetch.dataset.formats import data_suffixes
from turbo_fetch.dataset.manifest import Manifest, Record, read_manifest
from turbo_fetch.dataset.replacement import discard_replacements
from turbo_fetch.errors import DatasetError, InputError, OutputError, OutputExists, SpecError
from turbo_fetch.plan.part import Part
from turbo_fetch.redaction import redact_tables
from turbo_fetch.spec import FetchSpec, InputSpec, OutputSpec, Spec
from turbo_fetch.spec.specfile import differences, dump_spec_for_others
from turbo_fetch.storage import Storage

Lists = Sequence[Mapping[str, Any]]
"""What a list is made of: for each of its files `url`, `size`, `fingerprint` and `state`."""


class Dataset:
    """A dataset that this job works on; a context manager."""

    def __init__(self, storage: Storage, job: Job, entry: dict[str, Any], part: Part | None) -> None:
        self._storage = storage
        self._job = job
        self._entry = entry
        self._manifest = Manifest.open(storage, part)

    @classmethod
    def open(cls, storage: Storage, spec: Spec, lists: Lists, version: str, part: Part | None = None) -> Self:
        """Begin a dataset, or go on with one or a part of it, as `fetch.output.if_exists` says.

        Raises OutputExists, naming the differences, if what is there is not to be continued or replaced.
        """
        fetch = spec.fetch
        assert fetch is not None
        policy = fetch.output.if_exists
        found = None if policy == "overwrite" else _found_job(storage, lists)
        if policy == "overwrite":
            refuse_old_layout(storage)
            _delete_shards(storage, _shard_file(fetch.output))
        elif (
            found is not None
            and part is None
            and policy != "error"
            and not _is_same_job(found, fetch, lists)
            and _has_nothing(storage)
        ):
            # What an earlier run left that came to nothing binds nobody. The same job goes on with it: results of a
            # cluster may lie on other machines.
            _delete_shards(storage, _shard_file(fetch.output))
            found = None
        elif found is None:
            _refuse_strangers(storage, _shard_file(fetch.output))
            discard_replacements(storage)
        elif policy == "error":
            raise OutputExists(f'{storage.url} holds a dataset already, and fetch.output.if_exists = "error"')
        job = found or {"format": 1, "essentials": _essentials(fetch), "lists": []}
        if found is not None:
            _refuse_changes(storage, found["essentials"], _essentials(fetch), is_extension=policy == "extend")
        entry = _entry_for(storage, job, lists, is_new=found is None, may_extend=policy == "extend")
        dataset = cls(storage, {**job, "version": version}, entry, part)
        dataset._write_job()
        storage.write_bytes(names.SPEC, dump_spec_for_others(spec).encode())
        return dataset

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manifest.close()

    @property
    def first_shard(self) -> int:
        """The id of the first shard of this job's list."""
        return int(self._entry["first_shard"])

    @property
    def committed(self) -> frozenset[int]:
        """The ids of all committed shards."""
        return self._manifest.committed

    def records(self) -> Iterator[Record]:
        """Yield the commit records in shard order."""
        return self._manifest.records()

    def commit(self, record: Record) -> None:
        """Add a published shard."""
        self._manifest.commit(record)

    def withdraw(self, shards: Iterable[int]) -> None:
        """Take out the records of shards that are to be written anew; see Manifest."""
        self._manifest.withdraw(shards)

    def take(self, records: Iterable[Record]) -> None:
        """Add published shards, in place of what they were; see Manifest."""
        self._manifest.take(records)

    def flush(self) -> None:
        """Bring the records to where readers of the dataset find them."""
        self._manifest.flush()

    @property
    def committed_of_list(self) -> frozenset[int]:
        """The ids of the committed shards of this job's list."""
        later = [entry["first_shard"] for entry in self._job["lists"]]
        end = min((first for first in later if first > self.first_shard), default=math.inf)
        return frozenset(shard for shard in self.committed if self.first_shard <= shard < end)

    def is_planned_from(self, lists: Lists) -> bool:
        """Whether the files of the list are in the state in which they were when shards were last made of them.

        Earlier versions did not note the state; what they made is taken to be so.
        """
        return all(
            "state" not in before or before["state"] == now["state"] is not None
            for before, now in zip(self._entry["files"], lists, strict=True)
        )

    def note_files(self, lists: Lists) -> None:
        """Note that the committed shards are those of the list with its files in this state."""
        self._entry["files"] = list(lists)
        self._write_job()

    def refuse_losses(self) -> None:
        """Raise OutputError if committed shards are not there any more."""
        lost = self._manifest.lost()
        if lost:
            first = min(lost)
            raise OutputError(
                f"{self._storage.url}: {len(lost):,} finished shards are not whole any more, for one {first}: "
                f"something has deleted {lost[first]} meanwhile. The same command makes good what is missing"
            )

    @property
    def is_complete(self) -> bool:
        """Whether all shards of this job's list are committed, and all is done that comes after."""
        # Datasets of before `shards` was noted do not know.
        count = self._entry.get("shards")
        if count is None or not self._entry["complete"]:
            return False
        return self.committed.issuperset(range(self.first_shard, self.first_shard + count))

    def complete(self) -> None:
        """Note that all shards of this job's list are committed, so that another list may follow."""
        found = {"complete": True, "shards": len(self.committed_of_list)}
        if not found.items() <= self._entry.items():
            self._entry.update(found)
            self._write_job()

    def _write_job(self) -> None:
        write_job(self._storage, self._job)


SPREAD_WINDOWS: Final = 2
"""Which windows of a list the order `spread` has: raised when the same list and seed give other shards."""
_RULES: Final = ("hash_column", "hash_kind", "on_hash_mismatch", "boxes_column")


def _essentials(spec: FetchSpec) -> dict[str, Any]:
    """Return the part of a spec that shows in the files, and so must not change while a dataset is made."""
    fetch = spec.model_dump(mode="json")
    shown = {
        "input": ("url_column", "caption_column", "order", "seed", *_RULES),
        "output": ("format", "samples_per_shard", "shard_digits", "messages"),
    }
    picked = {table: {key: fetch[table][key] for key in keys} for table, keys in shown.items()}
    picked["input"] |= _reading(spec.input)
    # Earlier builds knew no other keys than numbers.
    picked["output"] |= {
        key: value for key in ("key_prefix", "key_column") if (value := fetch["output"][key])
    }
    if spec.input.order == "spread":
        # Earlier builds cut a list otherwise.
        picked["input"]["spread_windows"] = SPREAD_WINDOWS
    whole = {table: fetch[table] for table in ("image", "deny", "duplicates")}
    if spec.duplicates.embedding_column is None:
        # Earlier builds knew no such keys.
        whole["duplicates"] = {
            key: value
            for key, value in whole["duplicates"].items()
            if key not in {"embedding_column", "min_similarity"}
        }
    if spec.score is not None:
        # How its batches are made, and where its code lies, does not show.
        score = {key: fetch["score"][key] for key in ("columns", "where", "arguments", "version")}
        whole["score"] = {"function": spec.score.function.rpartition("/")[2], **score}
    if spec.duplicates.captions == "first":
        # Earlier builds knew nothing else.
        del whole["duplicates"]["captions"]
    return {"fetch": redact_tables({**picked, **whole})}


def _reading(spec: InputSpec) -> dict[str, Any]:
    """Return which columns are kept, in order, under which names; how rows are read and chosen, if not as usual."""
    keep = [name if name == new else f"{name} = {new}" for name, new in spec.kept.items()]
    usual: dict[str, Any] = {
        "quoting": "auto",
        "column_types": {},
        "column_names": [],
        "separator": None,
        "boxes_use": "blur",
        "image_column": None,
        "warc": None,
        "where": None,
        "sample": 1.0,
        "rows": None,
    }
    given = spec.model_dump(mode="json", include=set(usual))
    return {"keep_columns": keep, **{key: value for key, value in given.items() if value != usual[key]}}


def _entry_for(storage: Storage, job: Job, lists: Lists, is_new: bool, may_extend: bool) -> dict[str, Any]:
    """Return the entry of the job's list, a new one if it is not there and may be added."""
    if (known_entry := _known_entry(job, lists)) is not None:
        return known_entry
    if not (is_new or may_extend or job["lists"]):
        raise OutputExists(
            f"{storage.url} has shards that `turbo-fetch export` has cut anew, which follow no list, so that a run "
            "cannot go on with them: run the dataset that they were cut from and export it again, or set "
            'fetch.output.if_exists to "extend" (add this list after what is there) or "overwrite"'
        )
    if not (is_new or may_extend):
        known = ", ".join(file["url"] for entry in job["lists"] for file in entry["files"][:3])
        given = ", ".join(file["url"] for file in lists[:3])
        raise OutputExists(
            f"{storage.url} was made from another list ({known}) than the one given ({given}), or the list has "
            "changed since. Restore it, or choose another fetch.output.path, or set fetch.output.if_exists to "
            '"extend" (add this list after what is there) or "overwrite"'
        )
    unfinished = [entry for entry in job["lists"] if not entry["complete"]]
    if unfinished:
        names = ", ".join(file["url"] for file in unfinished[0]["files"][:3])
        raise OutputExists(
            f"{storage.url} is not complete yet for the list before ({names}); finish that first, for where its "
            "shards end is not known before"
        )
    # A dataset that is begun has none; nor has another part, then, written any that would be in the way.
    committed = () if is_new else Manifest.open(storage).committed
    entry = {"files": list(lists), "first_shard": max(committed, default=-1) + 1, "complete": False}
    job["lists"].append(entry)
    return entry


def _known_entry(job: Job, lists: Lists) -> dict[str, Any] | None:
    """Return the entry of these lists in a job."""
    fingerprints = [file["fingerprint"] for file in lists]
    entries: list[dict[str, Any]] = job["lists"]
    return next(
        (entry for entry in entries if [file["fingerprint"] for file in entry["files"]] == fingerprints), None
    )


def refuse_changes(storage: Storage, fetch: FetchSpec, but: Container[str] = ()) -> None:
    """Raise InputError if there is no dataset, OutputExists, naming the differences, if it was made otherwise.

    Tables in `but` may differ.
    """
    found = read_job(storage)
    if found is None:
        raise InputError(f"{storage.url}: there is no dataset; expected one that turbo-fetch has begun")
    before, now = (
        {table: value for table, value in essentials["fetch"].items() if table not in but}
        for essentials in (found["essentials"], _essentials(fetch))
    )
    _refuse_changes(storage, {"fetch": before}, {"fetch": now})


def replace_essentials(storage: Storage, spec: Spec, tables: Container[str]) -> None:
    """Note that a dataset is, as far as these tables go, one of another spec from now on."""
    job = read_job(storage)
    assert job is not None
    assert spec.fetch is not None
    kept = {table: value for table, value in job["essentials"]["fetch"].items() if table not in tables}
    now = {table: value for table, value in _essentials(spec.fetch)["fetch"].items() if table in tables}
    write_job(storage, {**job, "essentials": {"fetch": {**kept, **now}}})
    storage.write_bytes(names.SPEC, dump_spec_for_others(spec).encode())


def refuse_other_types(storage: Storage, columns: pa.Schema) -> None:
    """Raise InputError if shards that are there have columns of the list in other types: no reader takes both."""
    record = next(read_manifest(storage), None)
    stored = pa.schema([]) if record is None else stored_schema(storage, record)
    for column in columns:
        before = stored.field(column.name).type if column.name in stored.names else column.type
        if type_in_parquet(before) != type_in_parquet(column.type):
            raise InputError(
                f"the list's column {column.name!r} has the type {column.type}, and {before} in the shards that "
                f"{storage.url} has already; expected the same type: cast it in the list, or choose another "
                "fetch.output.path"
            )


def is_complete(storage: Storage) -> bool:
    """Return whether all lists of the dataset have been worked through."""
    job = read_job(storage)
    return job is not None and all(entry["complete"] for entry in job["lists"])


def _found_job(storage: Storage, lists: Lists) -> Job | None:
    """Return the job of the dataset that is there; a garbled one is made again from the spec as run.

    It then stands for this list alone, in a state that is not known, so that the finished shards are compared with it.
    """
    try:
        return read_job(storage)
    except DatasetError as error:
        try:
            spec = read_spec(storage)
        except SpecError:
            spec = None
        if spec is None or spec.fetch is None:
            raise OutputExists(
                f"{storage.url}: neither {names.JOB} nor {names.SPEC} can be read ({error}); choose another path, or "
                'set fetch.output.if_exists = "overwrite"'
            ) from error
        files = [{**file, "state": None} for file in lists]
        entry = {"files": files, "first_shard": 0, "complete": False}
        return {"format": 1, "essentials": _essentials(spec.fetch), "lists": [entry]}


def _refuse_strangers(storage: Storage, shard_file: re.Pattern[str]) -> None:
    strangers = sorted(
        entry.name for entry in storage.list() if entry.name and shard_file.fullmatch(entry.name)
    )
    if strangers:
        raise OutputExists(
            f"{storage.url} holds shards of something else ({', '.join(strangers[:3])} …, and no {names.JOB}); "
            'choose another path, or set fetch.output.if_exists = "overwrite" to delete them'
        )


def _is_same_job(job: Job, fetch: FetchSpec, lists: Lists) -> bool:
    """Return whether a dataset was begun with this spec and these lists."""
    is_known = _known_entry(job, lists) is not None
    return is_known and not any(differences(job["essentials"], _essentials(fetch)))


def _has_nothing(storage: Storage) -> bool:
    """Return whether no row has come of what was begun in a place, by this machine or by a cluster."""
    pattern = names.shard_files(data_suffixes())
    return (
        not any(pattern.fullmatch(entry.name) for entry in storage.list())
        and not storage.exists(names.ATTEMPTS)
        and not names.has_parts(storage.work)
        and not _has_results(storage.work)
    )


def _has_results(work: Path) -> bool:
    """Return whether a spool in a work folder has a result of any row."""
    spools = [*names.spools(work), *names.spools(work, of_refresh=True)]
    if not spools:
        return False
    from turbo_fetch.spool.spool import holds_results

    return any(holds_results(path) for _, path in spools)


def _refuse_changes(
    storage: Storage, before: Mapping[str, Any], now: Mapping[str, Any], is_extension: bool = False
) -> None:
    changed = "\n".join(f"  {line}" for line in differences(before, now))
    if changed and is_extension:
        raise OutputExists(
            f"{storage.url} was begun with another spec:\n{changed}\n"
            'fetch.output.if_exists = "extend" adds a list whose rows are read, chosen and made into images as those '
            "before: restore these keys, or choose another fetch.output.path"
        )
    if changed:
        raise OutputExists(
            f"{storage.url} was begun with another spec:\n{changed}\n"
            'Restore it, choose another fetch.output.path, or set fetch.output.if_exists = "overwrite"'
        )


def _shard_file(output: OutputSpec) -> re.Pattern[str]:
    """Return the pattern of the names of a shard's files."""
    return names.shard_files(data_suffixes(), output.shard_digits)


def _delete_shards(storage: Storage, shard_file: re.Pattern[str]) -> None:
    """Delete all that a run makes, the commit records first, and nothing else."""
    discard_replacements(storage)
    ours = [entry.name for entry in storage.list() if shard_file.fullmatch(entry.name)]
    records = [name for name in ours if names.shard_of_stats(name) is not None]
    storage.delete_files(records)
    storage.delete_files(sorted({*ours} - {*records}))
    for name in (
        names.MANIFEST,
        names.JOB,
        names.SPEC,
        names.METRICS,
        names.REPORT,
        names.REFRESH,
        names.LEDGERS,
    ):
        storage.delete(name)
    discard_attempts(storage)
    delete_card(storage)
    for _, path in [*names.spools(storage.work), *names.spools(storage.work, of_refresh=True)]:
        path.unlink()
