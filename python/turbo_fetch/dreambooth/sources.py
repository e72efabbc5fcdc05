"""Where pictures come from: a folder, a dataset of turbo-fetch, or what the fetch stage of the same spec made."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from turbo_fetch.dataset import names
from turbo_fetch.dataset.description import read_job
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.pictures import Picture
from turbo_fetch.dreambooth.preflight import read_folder
from turbo_fetch.errors import SpecError
from turbo_fetch.spec import Spec
from turbo_fetch.storage.failures import explained

FETCHED = "fetch"


def read_pictures(place: str, what: str, work: Path, note: Callable[[str], None]) -> list[Picture]:
    """Return the pictures at a place, opened and checked; `work` is for those of a dataset.

    A place with a job is a dataset, in any format; what has none is a folder of pictures. Raises
    PicturesError, InputError, DatasetError, MissingExtra.
    """
    if "://" not in place and read_job(open_place(place)) is None:
        return read_folder(Path(place), what, note)
    return read_folder(_unpacked(place, work), what, note)


def _unpacked(place: str, work: Path) -> Path:
    """Write the pictures of a dataset and their captions as files, unless they are there already."""
    from turbo_fetch.dataset.reader import StoredDataset

    storage = open_place(place)
    folder = work / f"pictures-{hashlib.sha256(storage.read_bytes(names.MANIFEST)).hexdigest()[:32]}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with explained(str(folder)):
        partial.mkdir(parents=True)
        for sample in StoredDataset.open(storage).samples():
            (partial / f"{sample.key}.{sample.extension}").write_bytes(sample.image)
            if sample.caption:
                (partial / f"{sample.key}.txt").write_text(sample.caption, encoding="utf-8")
        # Several devices may have done the same at once.
        if not folder.is_dir():
            partial.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return folder


def subject_place(spec: Spec, place: str, key: str) -> str:
    """Return where pictures are, with `fetch` resolved. Raises SpecError."""
    if place != FETCHED:
        return place
    if spec.fetch is None:
        raise SpecError(f'{key} = "fetch", but the spec has no [fetch]; expected it, or a folder or dataset')
    return spec.fetch.output.path
