"""A batch of results as the payload of a frame: an Arrow IPC stream of its own, written and read without copies."""

from __future__ import annotations

import io

import pyarrow as pa

from turbo_fetch.spool.frames import Frame, Piece


def batch_pieces(results: pa.RecordBatch) -> list[Piece]:
    """Return what to write; large values are views of where they lie."""
    sink = _Gathered()
    with pa.ipc.new_stream(sink, results.schema) as stream:
        stream.write_batch(results)
    return sink.pieces


def parse_batch(content: pa.Buffer, frame: Frame) -> pa.RecordBatch:
    """Return the batch in `frame`, whose buffers are views of `content`."""
    with pa.ipc.open_stream(content.slice(frame.start, frame.stop - frame.start)) as stream:
        return stream.read_next_batch()


class _Gathered(io.RawIOBase):
    """A file that keeps what is written as the pieces that were handed in: Arrow hands in its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Piece] = []

    def writable(self) -> bool:
        """Return True; see io.RawIOBase."""
        return True

    def write(self, content: Piece, /) -> int:  # type: ignore[override]
        """Keep `content`; return its length in bytes."""
        self.pieces.append(memoryview(content))
        return len(content)
