"""Standard input, output and error of a command, so that neither their reader nor their encoding can end it."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_GONE: Final = frozenset({errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET})
"""What a write meets whose reader, or terminal, is no more: nobody misses what is dropped."""
_UNENCODABLE: Final = "turbo-fetch"
_PLAIN: Final = {"\N{HORIZONTAL ELLIPSIS}": "...", "\N{RIGHTWARDS ARROW}": "->", "\N{MIDDLE DOT}": "|"}
"""What our own texts have beyond ASCII."""


class _Output(io.RawIOBase):
    """A descriptor to which writing never fails: after an error, what is written to it is dropped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_gone = False
        """Whether the reader is no more."""
        self.lost: OSError | None = None
        """Why something is missing that somebody may read, such as a disk that is full."""

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, content: ReadableBuffer, /) -> int:
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:
                # Whoever shares the pipe may have set it so.
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.is_gone = error.errno in _GONE
                self.lost = None if self.is_gone else error
                _open_nothing(self._descriptor)
                return memoryview(content).nbytes


@contextmanager
def safe_streams() -> Iterator[None]:
    """Put such streams into `sys` for the rest of this process; whether all was written shows at the end.

    A closed one leads nowhere, so that no file or socket gets its number. If standard output was lost, other than by
    the will of its reader, that is told, and an exit code of 0 becomes 1.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_nothing(descriptor)
    codecs.register_error(_UNENCODABLE, _readable)
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        # Somebody captures what this process prints.
        yield
        return
    output = _Output(1)
    sys.stdout, sys.stderr = _text(output, sys.stdout), _text(_Output(2), sys.stderr, is_error=True)
    try:
        yield
    except SystemExit as end:
        sys.stdout.flush()
        if output.lost is not None:
            sys.stderr.write(
                f"turbo-fetch: standard output: {output.lost.strerror}; the output is incomplete\n"
            )
            raise SystemExit(end.code or 1) from end
        raise


def has_reader() -> bool:
    """Return whether it makes sense to write more to standard output."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return not (isinstance(raw, _Output) and raw.is_gone)


def _text(output: _Output, before: TextIO | None, is_error: bool = False) -> TextIO:
    """Return a stream of text into `output`, in the encoding of the one `before`, None for a closed one."""
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding="utf-8" if before is None else before.encoding,
        errors=_UNENCODABLE,
        line_buffering=is_error or output.isatty() or bool(os.environ.get("PYTHONUNBUFFERED")),
    )


def _readable(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks, and parts of file names that are no text: a codec's error handler."""
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    escaped = (
        _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()
        for character in characters
    )
    return "".join(escaped), error.end


def _open_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nothing, descriptor)
        os.close(nothing)
