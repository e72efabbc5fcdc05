"""From an address to the fsspec filesystem behind it, or one clear error.

fsspec is imported for addresses that need it: it looks through the metadata of all installed packages for plugins.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from turbo_fetch.errors import PROTOCOL_EXTRAS, MissingExtra, TurboFetchError

_NO_PATHS: Final = ("file:", "local:", "data:")


def path_of(url: str) -> Path | None:
    """Return the absolute path that an address without a protocol is, None for a URL.

    The home folder is filled in, and no `..` is left, so that one place has one name.
    """
    if not url or "://" in url or "::" in url or url.startswith(_NO_PATHS):
        return None
    # Unlike Path.expanduser, it leaves alone what names no user.
    path = Path(os.path.expanduser(url)).absolute()  # noqa: PTH111
    if ".." not in path.parts:
        return path
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name


def protocols(filesystem: Any) -> set[str]:
    """Return the names of a filesystem's protocol."""
    protocol = filesystem.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def is_local(filesystem: Any) -> bool:
    """Return whether a filesystem is that of this machine."""
    return "file" in protocols(filesystem)


def open_filesystem(
    url: str, purpose: str, refused: type[TurboFetchError], options: Mapping[str, Any] | None = None
) -> tuple[Any, str]:
    """Return the filesystem of a path or fsspec URL, and the path in it; nothing is asked of it yet.

    `options` are for its client.

    Raises MissingExtra, which names the `purpose`, if the protocol needs a package that is not installed, and `refused`
    for an address that is empty, or none.
    """
    if not url:
        raise refused(f"{purpose} …: the address is empty; expected a path or an fsspec URL")
    import fsspec

    try:
        filesystem, path = fsspec.url_to_fs(url, **(options or {}))
    except ImportError as error:
        protocol = url.partition("://")[0]
        if protocol in PROTOCOL_EXTRAS:
            raise MissingExtra(*PROTOCOL_EXTRAS[protocol], purpose=f"{purpose} {url}") from error
        raise refused(f"{url}: needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise refused(f"{url}: {error}; expected a path or an fsspec URL") from error
    return filesystem, path


def why_unreached(error: FileNotFoundError) -> str | None:
    """Return why a place could not be asked for a file, None if the file is not there.

    fsspec says that a file of the web is not there whatever its server, or the way to it, does.
    """
    cause = error.__cause__
    is_of_network = isinstance(cause, OSError | TimeoutError) or type(cause).__module__.startswith("aiohttp.")
    if not is_of_network or isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in {404, 410}:
        return None
    return " ".join(str(cause).split())[:500] or type(cause).__name__
