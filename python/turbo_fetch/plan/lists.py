"""The files of a list: found, named, and told apart by their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Literal, cast

from turbo_fetch.errors import InputError, TurboFetchError
from turbo_fetch.plan.image_files import fingerprint, images_in, is_image
from turbo_fetch.spec import InputFormat, InputSpec
from turbo_fetch.storage.filesystems import is_local, open_filesystem, path_of, protocols, why_unreached

ListFormat = Literal["txt", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "images"]

SUFFIXES: Final[dict[str, ListFormat]] = {
    "txt": "txt",
    "csv": "csv",
    "tsv": "tsv",
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "arrow": "arrow",
    "arrows": "arrow",
    "feather": "arrow",
}
COMPRESSIONS: Final = ("gz", "bz2", "xz", "zst")
FINGERPRINT_BYTES: Final = 256 * 1024
READING: Final = "Reading"


@dataclass(frozen=True, slots=True)
class ListFile:
    """A file of a list, or a folder of images: where it is, how many bytes, how to read it, and a digest of it.

    `url` is a path of this machine or an fsspec URL. `size` is in bytes, None where the server does not
    say. `compression` is what the name says; readers go by the contents. `fingerprint` is over size and
    entity tag, or size and the first and last 256 KiB, and tells one list from another. `state` is what the
    file system says of a file of this machine: while it is the same, so are all bytes.
    """

    url: str
    size: int | None
    format: ListFormat
    compression: str | None
    fingerprint: str
    state: str | None = None

    def current_state(self) -> str | None:
        """Return `state` as it is now, None where it is not known."""
        return None if self.state is None or self.local_path is None else _state(self.local_path)

    def open(self) -> IO[bytes]:
        """Open for reading, seekable where the place allows it; InputError if it cannot be."""
        with readable(self.url):
            if self.local_path is not None:
                return self.local_path.open("rb")
            filesystem, path = open_filesystem(self.url, READING, InputError)
            return cast(IO[bytes], filesystem.open(path, "rb"))

    @property
    def local_path(self) -> Path | None:
        """The path on this machine, None if the file is elsewhere."""
        if (path := path_of(self.url)) is not None:
            return path
        filesystem, stripped = open_filesystem(self.url, READING, InputError)
        return Path(stripped) if is_local(filesystem) else None


def find_lists(spec: InputSpec) -> list[ListFile]:
    """Return the files that `urls` of the spec names: of each entry one file, a folder's, or those of a glob, sorted.

    Of a folder, the files with a suffix of the format count, but none whose name starts with `.` or `_`;
    a glob matches none that starts with `.`. Raises InputError if there are none, if a name does not tell
    its format, if a folder holds several, or if a file is named twice; MissingExtra if the protocol needs another
    package.
    """
    entries = [spec.urls] if isinstance(spec.urls, str) else spec.urls
    files = [file for urls in entries for file in _find(urls, spec.format)]
    names = [file.url for file in files]
    if twice := sorted({name for name in names if names.count(name) > 1}) if len(entries) > 1 else []:
        raise InputError(f"{twice[0]}: fetch.input.urls names this file more than once; expected each once")
    of_cells = {"column_names": spec.column_names, "separator": spec.separator}
    given = [name for name, value in of_cells.items() if value]
    if given and (other := [file for file in files if file.format not in {"csv", "tsv"}]):
        raise InputError(
            f"{other[0].url}: fetch.input.{given[0]} is for csv and tsv, and this is {other[0].format}"
        )
    return files


def _find(urls: str, wanted: InputFormat) -> list[ListFile]:
    local = path_of(urls)
    if local is not None and local.is_file():
        return [_local_file(local, wanted)]
    filesystem, path = open_filesystem(urls, READING, InputError)
    with readable(urls):
        # A long-lived process may have listed this place before.
        filesystem.invalidate_cache()
        if _is_image_folder(filesystem, path, wanted):
            return [_image_folder(filesystem, path, urls)]
        paths = _find_paths(filesystem, path, urls, wanted)
    is_chained = "::" in urls
    found = [urls if is_chained else _url_of(filesystem, each) for each in paths]
    formats = [_format_of(url, wanted) for url in found]
    if len(kinds := sorted({kind for kind, _ in formats})) > 1:
        raise InputError(
            f"{urls}: the files have several formats: {', '.join(kinds)}; "
            "expected one: set fetch.input.format, or use a glob"
        )
    return [
        _list_file(filesystem, path, url, *kind)
        for path, url, kind in zip(paths, found, formats, strict=True)
    ]


def image_folders(spec: InputSpec) -> list[str]:
    """Return the folders of images that a list is; a store's is taken at its word.

    What lies in them may be read, for their user named them, which is not so with folders that lists lie in.
    """
    entries = [spec.urls] if isinstance(spec.urls, str) else spec.urls
    found = []
    for urls in entries:
        path = path_of(urls)
        if path is not None and spec.format in {"auto", "images"} and path.is_dir():
            filesystem, folder = open_filesystem(urls, READING, InputError)
            if _is_image_folder(filesystem, folder, spec.format):
                found.append(str(path))
        elif path is None and spec.format == "images":
            found.append(urls)
    return found


def _is_image_folder(filesystem: Any, path: str, wanted: str) -> bool:
    """Whether an address is a folder of images: one of this machine that has no list but images, or any if wanted."""
    if wanted != "auto":
        return wanted == "images"
    return is_local(filesystem) and _holds_images(filesystem, path, wanted)


def holds_images(urls: str) -> bool:
    """Whether an address, also one in a store, is a folder that has images but no list. InputError if unreachable."""
    filesystem, path = open_filesystem(urls, READING, InputError)
    with readable(urls):
        return _holds_images(filesystem, path, "auto")


def _holds_images(filesystem: Any, path: str, wanted: str) -> bool:
    if not filesystem.isdir(path):
        return False
    names = [_name(each) for each in filesystem.ls(path, detail=False)]
    # A text file of an image's name is its caption.
    stems = {PurePosixPath(name).stem for name in names if is_image(name)}
    others = [
        name for name in names if PurePosixPath(name).stem not in stems and not name.startswith((".", "_"))
    ]
    if any(_is_of_format(name, wanted) for name in others):
        return False
    return bool(stems) or next(images_in(filesystem, path), None) is not None


def _image_folder(filesystem: Any, path: str, urls: str) -> ListFile:
    with readable(urls):
        if not filesystem.isdir(path):
            raise InputError(f"{urls}: there is no such folder; expected one of images")
        if next(images_in(filesystem, path), None) is None:
            raise InputError(f"{urls}: this folder has no images")
        found = fingerprint(images_in(filesystem, path), path)
    return ListFile(_url_of(filesystem, path), None, "images", None, found)


@contextmanager
def readable(url: str) -> Iterator[None]:
    """Turn whatever goes wrong while reading a file of a list into an InputError that names it."""
    url = str(path_of(url) or url)
    try:
        yield
    except TurboFetchError:
        raise
    except FileNotFoundError as error:
        if (reason := why_unreached(error)) is not None:
            raise InputError(f"{url}: cannot be reached: {reason}") from error
        raise InputError(f"{url}: there is no such file") from error
    # fsspec's backends and Arrow's decoders raise exceptions without a common base.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{url}: cannot be read: {reason[:500]}") from error


def _find_paths(filesystem: Any, path: str, urls: str, wanted: InputFormat) -> list[str]:
    is_web = "http" in protocols(filesystem)
    if is_web or filesystem.isfile(path):
        return [path]
    if filesystem.isdir(path):
        found = filesystem.ls(path, detail=True)
        files = [entry["name"] for entry in found if entry["type"] == "file"]
        names = [name for name in files if not _name(name).startswith((".", "_"))]
        paths = [name for name in names if _is_of_format(name, wanted)]
        if not paths:
            expected = "of a known format" if wanted == "auto" else f"named *.{wanted}"
            raise InputError(f"{urls}: this folder has no file {expected}")
    elif any(character in path for character in "*?["):
        found = filesystem.glob(path, detail=True).values()
        files = [entry["name"] for entry in found if entry["type"] == "file"]
        paths = [name for name in files if not _name(name).startswith(".")]
        if not paths:
            raise InputError(f"{urls}: no file matches this glob")
    elif filesystem.exists(path):
        raise InputError(f"{urls}: this is neither a file nor a folder")
    else:
        raise FileNotFoundError(path)
    return sorted(paths)


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _suffixes(path: str) -> tuple[str, str | None]:
    """Return the suffix that tells the format, and the compression; a URL's query is no part of either."""
    name = _name(path.partition("?")[0]) if "://" in path else _name(path)
    suffixes = [suffix.lower() for suffix in name.split(".")[1:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else None
    return (suffixes[-1] if suffixes else ""), compression


def _is_of_format(path: str, wanted: str) -> bool:
    found = SUFFIXES.get(_suffixes(path)[0])
    return found is not None and wanted in {"auto", found}


def _format_of(url: str, wanted: str) -> tuple[ListFormat, str | None]:
    suffix, compression = _suffixes(url)
    kind = SUFFIXES.get(suffix) if wanted == "auto" else cast(ListFormat, wanted)
    if kind is None:
        known = ", ".join(f".{suffix}" for suffix in SUFFIXES)
        raise InputError(
            f"{url}: the format cannot be inferred from the name; expected one of {known}, "
            f"each also with .{', .'.join(COMPRESSIONS)}, or a format in fetch.input.format"
        )
    if kind == "parquet" and compression:
        raise InputError(
            f"{url}: Parquet files are compressed internally; expected one without .{compression}"
        )
    return kind, compression


def _url_of(filesystem: Any, path: str) -> str:
    return path if is_local(filesystem) else str(filesystem.unstrip_protocol(path))


def _local_file(path: Path, wanted: str) -> ListFile:
    kind, compression = _format_of(str(path), wanted)
    with readable(str(path)), path.open("rb") as file:
        size = path.stat().st_size
        state = _state(path)
        return ListFile(str(path), size, kind, compression, _fingerprint(file, size), state)


def _list_file(filesystem: Any, path: str, url: str, kind: ListFormat, compression: str | None) -> ListFile:
    with readable(url):
        info = filesystem.info(path)
        size = info.get("size")
        tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
        if tag and not is_local(filesystem):
            fingerprint = hashlib.sha256(f"{size}\n{tag}".encode()).hexdigest()
        else:
            with filesystem.open(path, "rb") as file:
                fingerprint = _fingerprint(file, size)
        state = _state(Path(path)) if is_local(filesystem) else None
    return ListFile(url, size, kind, compression, fingerprint, state)


def _state(path: Path) -> str | None:
    """Return which file it is and when its bytes or its description last changed, None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    # The time of the description too: unlike that of the bytes, no program can set it back.
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _fingerprint(file: IO[bytes], size: int | None) -> str:
    """Return the digest of a file's size, start and end."""
    digest = hashlib.sha256(f"{size}\n".encode())
    digest.update(file.read(FINGERPRINT_BYTES))
    if size is not None and size > FINGERPRINT_BYTES:
        file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
        digest.update(file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()
