"""`files`: a folder `NNNNN` with `key.jpg`, `key.json` and, with captions, `key.txt` of each sample."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Final

from turbo_fetch.output_errors import write_error
from turbo_fetch.samples import Samples
from turbo_fetch.spec import ImageSpec
from turbo_fetch.writers.members import members
from turbo_fetch.writers.staged import WrittenFile

EXTENSIONS: Final = {"jpeg": "jpg", "tiff": "tif", "jpeg2000": "jp2"}


class Folder:
    """A folder in the work folder, filled sample by sample; what an earlier attempt left there is removed."""

    def __init__(self, path: Path, image: ImageSpec) -> None:
        self._path = path
        self._encoding = image.encode
        self._bytes = 0
        self._lines: list[str] = []
        try:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        except OSError as error:
            raise write_error(error, str(path), 0) from error

    def add(self, samples: Samples) -> None:
        """Write the files of the samples that have a picture."""
        for member in members(samples, self._extension):
            path = self._path / member.name
            length = len(member.content)
            try:
                path.write_bytes(member.content)
            except OSError as error:
                raise write_error(error, str(path), length) from error
            self._bytes += length
            self._lines.append(f"{member.name} {length} {hashlib.sha256(member.content).hexdigest()}\n")

    def finish(self, name: str) -> WrittenFile:
        """Return the folder, to be published as `name`."""
        digest = hashlib.sha256("".join(sorted(self._lines)).encode())
        return WrittenFile(name, self._path, self._bytes, digest.hexdigest(), is_folder=True)

    def close(self) -> None:
        """Nothing is held open."""

    def _extension(self, original_format: str | None) -> str:
        if self._encoding != "original":
            return self._encoding
        found = (original_format or "bin").lower()
        return EXTENSIONS.get(found, found)
