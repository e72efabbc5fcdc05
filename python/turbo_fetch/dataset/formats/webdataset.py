"""`webdataset`: `NNNNN.tar`, in which a sample is `key.jpg`, `key.json` and, with captions, `key.txt`.

Images of further sizes are `key.128.jpg`: readers of webdataset take all after the first dot for the name of a field.

POSIX ustar (IEEE Std 1003.1-1988) with fixed owner, mode and time, so that equal samples make equal bytes.
Headers are laid out here: the standard library's TarInfo takes longer than writing a small image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from turbo_fetch.dataset.formats.format import Format, HuggingFace, StoredImage, reading, together
from turbo_fetch.dataset.formats.images import extension_of, sized
from turbo_fetch.dataset.formats.members import TEXTS, Member, members
from turbo_fetch.dataset.formats.staged_file import StagedFile, WrittenFile
from turbo_fetch.dataset.hf_features import IMAGE, Feature, json_type
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage

SUFFIX: Final = ".tar"

_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK
_NAME_BYTES: Final = 100
_NUL: Final = bytes(1)
_MODE_AND_OWNER: Final = b"0000644" + _NUL + b"0000000" + _NUL + b"0000000" + _NUL
_TIME: Final = b"00000000000" + _NUL
_BLANK_CHECKSUM: Final = b" " * 8
_KIND_AND_MAGIC: Final = b"0" + bytes(100) + b"ustar" + _NUL + b"00"
_TAIL: Final = _KIND_AND_MAGIC.ljust(_BLOCK - 156, _NUL)
_FIXED_SUM: Final = sum(_MODE_AND_OWNER + _TIME + _BLANK_CHECKSUM + _TAIL)
END_BYTES: Final = _RECORD
"""What the end of an archive takes at most."""
_PADDING: Final = tuple(bytes(-length % _BLOCK) for length in range(_BLOCK))


class TarFile(StagedFile):
    """A tar in the work folder, filled sample by sample."""

    def __init__(self, path: Path, _metadata: pa.Schema, image: ImageSpec) -> None:
        super().__init__(path)
        self._extension = extension_of(image)

    def add(self, samples: Samples) -> None:
        """Append the samples that have an image."""
        named = members(samples, lambda _: self._extension)
        self.append(piece for member in named for piece in _entry(member))

    def finish(self, name: str) -> WrittenFile:
        """End the archive; return the file, to be published as `name`."""
        size = self.size_bytes + 2 * _BLOCK
        self.append((bytes(2 * _BLOCK + -size % _RECORD),))
        return super().finish(name)


def entry_bytes(contents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return what files of so many bytes take in an archive."""
    return _BLOCK + -(-contents // _BLOCK) * _BLOCK


def _entry(member: Member) -> Iterable[bytes | memoryview]:
    length = len(member.content)
    return _header(member.name, length), member.content, _PADDING[length % _BLOCK]


def _header(name: str, length: int) -> bytes:
    encoded = name.encode("ascii")
    size = b"%011o" % length + _NUL
    if len(encoded) > _NAME_BYTES or len(size) > 12:
        raise ValueError(f"{name} with {length} bytes does not fit a ustar header: 100 bytes of name, 8 GiB")
    checksum = b"%06o\x00 " % (_FIXED_SUM + sum(encoded) + sum(size))
    return b"".join((encoded.ljust(_NAME_BYTES, _NUL), _MODE_AND_OWNER, size, _TIME, checksum, _TAIL))


def _read_images(storage: Storage, name: str, sizes: Sequence[str]) -> Iterator[StoredImage]:
    return together(f"{storage.url}/{name}{SUFFIX}", _members(storage, name), sizes)


def _members(storage: Storage, name: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, extension and content of each image."""
    import tarfile

    with (
        reading(f"{storage.url}/{name}{SUFFIX}", tarfile.TarError),
        storage.open_file(f"{name}{SUFFIX}") as file,
        tarfile.open(fileobj=file, mode="r|") as tar,
    ):
        for member in tar:
            # The archive remembers every member otherwise.
            tar.members = []  # type: ignore[attr-defined]
            key, _, extension = member.name.partition(".")
            opened = None if extension in TEXTS else tar.extractfile(member)
            if opened is not None:
                yield key, extension, opened.read()


def _features(metadata: pa.Schema, image: ImageSpec) -> list[Feature]:
    """Return a feature for each member, as they stand in the tar."""
    images = [sized(extension_of(image), size) for size in [*sorted(image.more_boxes), ""]]
    members: list[Feature] = [
        *((name, IMAGE) for name in images),
        ("json", pa.struct([(column.name, json_type(column.type)) for column in metadata])),
    ]
    if "caption" in metadata.names:
        members.append(("txt", pa.string()))
    return [*members, ("__key__", pa.string()), ("__url__", pa.string())]


def _example(folder: str) -> list[str]:
    return [
        "",
        "# some of the shards: types are not in them, so give them along",
        f"features = datasets.load_dataset_builder({folder!r}).info.features",
        f"tars = {folder + '/*' + SUFFIX!r}",
        "data = datasets.load_dataset('webdataset', data_files=tars, features=features, split='train')",
    ]


FORMAT: Final = Format(
    loads_in="webdataset, Hugging Face datasets, torch DataLoader",
    suffix=SUFFIX,
    writer=TarFile,
    read_images=_read_images,
    hugging_face=HuggingFace(lambda shard, image: [f"{shard}{SUFFIX}"], _features, _example),
    croissant_files=lambda image: (f"*{SUFFIX}", "application/x-tar"),
)
