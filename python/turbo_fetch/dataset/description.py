"""What a dataset says it was made from: its job, and the spec as run; and whether it says so where it does today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from turbo_fetch.dataset import names
from turbo_fetch.dataset.seal import is_intact, sealed_for_people
from turbo_fetch.errors import DatasetError, InputError
from turbo_fetch.spec import Spec, specfile
from turbo_fetch.storage import Storage

Job = dict[str, Any]
"""`format`, `version`, `lists`, and as `essentials` the part of the spec that shows in the files."""


def read_job(storage: Storage) -> Job | None:
    """Return what the dataset was made from, None if there is none.

    Raises DatasetError if that is garbled, and what `refuse_old_layout` raises.
    """
    try:
        content = storage.read_bytes(names.JOB)
        job: Job = orjson.loads(content)
        _look_through(job)
        if not is_intact(content):
            raise TypeError("its content is not what was written")
    except FileNotFoundError:
        refuse_old_layout(storage)
        return None
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{storage.url}/{names.JOB} is garbled ({error}), so what the dataset was made from is not known; "
            "`turbo-fetch run` with its spec, and the list as it was, makes it again"
        ) from error
    return job


def write_job(storage: Storage, job: Job) -> None:
    """Write what the dataset is made from."""
    storage.write_bytes(names.JOB, sealed_for_people(job))


def _look_through(job: Job) -> None:
    """Raise KeyError, TypeError or AttributeError if a job has not the shape of one."""
    fetch = job["essentials"]["fetch"]
    for table in ("input", "output", "image"):
        fetch[table].keys()
    fetch["output"]["format"].islower()
    for entry in job["lists"]:
        range(entry["first_shard"])
        [entry["complete"], *(file["fingerprint"].islower() for file in entry["files"])]


def has_old_layout(storage: Storage) -> bool:
    """Return whether a dataset is there whose records lie among the data, as those of earlier versions did."""
    return storage.exists(names.OLD_JOB) and _is_job(storage.read_bytes(names.OLD_JOB))


def refuse_old_layout(storage: Storage) -> None:
    """Raise InputError, which names the command that helps, for a dataset of an earlier version."""
    if has_old_layout(storage):
        raise InputError(
            f"{storage.url} was made by an earlier version, which kept its records among the data: "
            f"`turbo-fetch migrate {storage.url}` moves them to {names.FOLDER}/, once"
        )


def load_spec(
    path: str | Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Spec:
    """Read the spec at `path` as :func:`turbo_fetch.spec.specfile.load_spec` does, with all its paths absolute.

    The output of a spec that lies in the dataset that it made is that dataset, wherever it is now.
    """
    return specfile.load_spec(path, overrides, environment, _dataset_around(Path(path).absolute()))


def read_spec(
    storage: Storage, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Spec | None:
    """Read the spec as run of the dataset in a place, None if it has none; see `load_spec`.

    Raises SpecError, and what `refuse_old_layout` raises.
    """
    try:
        content = storage.read_bytes(names.SPEC)
    except FileNotFoundError:
        refuse_old_layout(storage)
        return None
    return specfile.load_text(content, f"{storage.url}/{names.SPEC}", overrides, environment)


def _dataset_around(path: Path) -> str | None:
    """Return the dataset that a spec lies in if it is the one as run; None for any other file of that name."""
    for spec, job in ((names.SPEC, names.JOB), (names.OLD_SPEC, names.OLD_JOB)):
        folder = path.parents[spec.count("/")] if len(path.parents) > spec.count("/") else path
        if path == folder / spec and (folder / job).is_file() and _is_job((folder / job).read_bytes()):
            return str(folder)
    return None


def _is_job(content: bytes) -> bool:
    try:
        job = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(job, dict) and {"format", "essentials", "lists"} <= job.keys()
