"""From an address to the fsspec filesystem behind it, or one clear error."""

from __future__ import annotations

from typing import Any

import fsspec

from turbo_fetch.errors import PROTOCOL_EXTRAS, MissingExtra, TurboFetchError


def open_filesystem(url: str, purpose: str, refused: type[TurboFetchError]) -> tuple[Any, str]:
    """Return the filesystem of a path or fsspec URL, and the path in it; nothing is asked of it yet.

    Raises MissingExtra, which names the `purpose`, if the protocol needs a package that is not installed, and `refused`
    for an address that is empty, or none.
    """
    if not url:
        raise refused(f"{purpose} …: the address is empty; expected a path or an fsspec URL")
    try:
        filesystem, path = fsspec.url_to_fs(url)
    except ImportError as error:
        protocol = url.partition("://")[0]
        if protocol in PROTOCOL_EXTRAS:
            raise MissingExtra(*PROTOCOL_EXTRAS[protocol], purpose=f"{purpose} {url}") from error
        raise refused(f"{url}: needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise refused(f"{url}: {error}; expected a path or an fsspec URL") from error
    return filesystem, path
