"""Read damaged Arrow lists in a process of its own, which none may end: `damaged_arrow.py FOLDER SEED TRIALS`."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.ipc as ipc

from turbo_fetch.errors import InputError
from turbo_fetch.plan.reader import read_rows
from turbo_fetch.spec import InputSpec

ROWS = 50
COMPRESSIONS = (None, "lz4", "zstd")


def intact(compression: str | None) -> bytes:
    """Return a list with texts, shared texts, lists and structs."""
    columns = {
        "url": [f"http://a.example/{row}" for row in range(ROWS)],
        "caption": pa.array(["a", "bb", None, "ccc", "é"] * (ROWS // 5)).dictionary_encode(),
        "tags": [[f"t{row}", "é"] for row in range(ROWS)],
        "size": [{"width": row, "unit": "px"} for row in range(ROWS)],
    }
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=ROWS // 2 + 5)
    return bytes(sink.getvalue())


def damaged(content: bytes, random: Random) -> bytes:
    """Return a list with a few places overwritten: by ones, zeros, noise, a huge number or one flipped bit."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        at, size = random.randrange(len(changed) - 8), random.choice((1, 4, 8))
        flipped = bytes([changed[at] ^ 1 << random.randrange(8)])
        huge = (1 << 8 * size - 2).to_bytes(size, "little")
        new = random.choice((b"\xff" * size, bytes(size), random.randbytes(size), huge, flipped))
        changed[at : at + len(new)] = new
    return bytes(changed)


def main(folder: str, seed: str, trials: str) -> None:
    """Read as many lists, and print how many were read and refused."""
    random, read, refused = Random(seed), 0, 0
    path = Path(folder) / "list.arrow"
    for trial in range(int(trials)):
        path.write_bytes(damaged(intact(COMPRESSIONS[trial % 3]), random))
        spec = InputSpec(urls=str(path), caption_column="caption", keep_columns=("tags", "size"))
        try:
            for batch in read_rows(spec):
                batch.validate(full=True)
            read += 1
        except InputError:
            refused += 1
    print(read, refused)


if __name__ == "__main__":
    main(*sys.argv[1:])
