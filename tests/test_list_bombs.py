"""Lists of a few kilobytes that expand to gigabytes: read in bounded memory, or refused with a sentence."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import zstandard

from processes import PATIENCE_S
from turbo_fetch.plan.columnar_lists import open_parquet, parquet_batches
from turbo_fetch.plan.expansion import PIECE_BYTES
from turbo_fetch.plan.lists import ListFile
from turbo_fetch.plan.reader import read_rows
from turbo_fetch.spec import InputSpec

URL = "http://a.example/"
ROWS = 20_000
LONG = 100_000
LIMIT_BYTES = 1 << 32
"""Address space of the process that reads, of which libraries reserve some."""

READ = """
import resource, sys
from turbo_fetch.errors import InputError
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.spec import InputSpec

limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, rows, said = peak(), 0, ""
try:
    spec = InputSpec(urls=sys.argv[1], caption_column=sys.argv[4] or None)
    for shard in Plan.of(spec, int(sys.argv[2])).shards():
        rows += shard.load().num_rows
except InputError as error:
    said = str(error)
print(rows, peak() - before, said)
"""


def read(path: Path, samples_per_shard: int = 100, caption: str = "") -> tuple[int, int, str]:
    """Plan a list and load all shards, within limits; return rows, bytes of memory, and the error if there is one."""
    arguments = [str(path), str(samples_per_shard), str(LIMIT_BYTES), caption]
    found = subprocess.run(
        [sys.executable, "-c", READ, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    rows, grown, *said = found.stdout.rstrip("\n").split(" ", 2)
    assert "\n" not in "".join(said)
    return int(rows), int(grown), "".join(said)


def shared(value: str, rows: int = ROWS) -> pa.DictionaryArray:
    """Return rows that have one value in common."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def urls(rows: int = ROWS) -> pa.Array:
    return pa.array([f"{URL}{row}" for row in range(rows)])


def parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000
    return path


def zstd(path: Path, *parts: bytes) -> Path:
    with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as writer:
        for part in parts:
            writer.write(part)
    return path


@pytest.mark.parametrize("column", ["url", "caption"])
def test_a_value_that_all_rows_share_is_not_copied_for_all_at_once(tmp_path: Path, column: str) -> None:
    long = shared(URL + "x" * LONG)
    table = pa.table({"url": urls(), "caption": long} if column == "caption" else {"url": long})
    path = parquet(tmp_path / "list.parquet", table)
    rows, grown, said = read(path, caption=column if column == "caption" else "")
    assert (rows, said) == (ROWS, "")
    assert grown < 400e6


def test_the_elements_that_all_rows_share_are_not_copied_for_all_at_once(tmp_path: Path) -> None:
    tags = pa.ListArray.from_arrays(pa.array(range(ROWS + 1), pa.int32()), shared("x" * LONG))
    path = parquet(tmp_path / "list.parquet", pa.table({"url": urls(), "tags": tags}))
    source = ListFile(str(path), None, "parquet", None, "")
    opened = open_parquet(source)
    batches = parquet_batches(source, opened, [0], ["url", "tags"])
    sizes = [(batch.num_rows, batch.nbytes) for batch in batches]
    opened.close(force=True)
    assert sum(rows for rows, _ in sizes) == ROWS
    assert max(taken for _, taken in sizes) < 2 * PIECE_BYTES


def test_a_page_that_expands_to_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    long = pa.array([URL + "x" * 1_100_000_000], pa.large_string())
    path = parquet(tmp_path / "list.parquet", pa.table({"url": long}))
    del long
    rows, grown, said = read(path)
    assert rows == 0
    assert "column 'url' of row group 0 expands from " in said
    assert grown < 100e6


def test_a_shard_of_gigabytes_is_refused_and_fits_where_it_has_fewer_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path / "list.parquet", pa.table({"url": shared(URL + "x" * LONG, 11_000)}))
    rows, _, said = read(path, samples_per_shard=11_000)
    assert rows == 0
    assert "expected at most 1,073,741,824: a smaller fetch.output.samples_per_shard" in said
    assert read(path, samples_per_shard=1000)[0] == 11_000


def _long_batch() -> pa.RecordBatch:
    return pa.record_batch([pa.array([URL + "x" * LONG] * 11_000)], names=["url"])


@pytest.mark.parametrize("is_file", [False, True])
def test_a_batch_of_arrow_that_expands_to_gigabytes_is_refused(tmp_path: Path, is_file: bool) -> None:
    batch = _long_batch()
    path = tmp_path / "list.arrow"
    make = ipc.new_file if is_file else ipc.new_stream
    with make(str(path), batch.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch.slice(0, 10))
        writer.write_batch(batch)
    packed = tmp_path / "list.arrow.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for each in (path, packed):
        _, grown, said = read(each)
        assert "a batch of rows expands from " in said
        assert grown < 200e6


def test_a_batch_of_arrow_that_is_compressed_as_a_whole_is_refused(tmp_path: Path) -> None:
    batch = _long_batch()
    path = tmp_path / "list.arrow.zst"
    with (
        path.open("wb") as file,
        zstandard.ZstdCompressor().stream_writer(file) as packed,
        ipc.new_stream(packed, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    del batch
    rows, grown, said = read(path)
    assert rows == 0
    assert "a message expands from " in said
    assert grown < 200e6


def test_a_value_that_all_rows_of_arrow_share_is_not_copied_for_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "list.arrow"
    batch = pa.record_batch([shared(URL + "x" * LONG)], names=["url"])
    with ipc.new_stream(str(path), batch.schema) as writer:
        writer.write_batch(batch)
    rows, grown, said = read(path)
    assert (rows, said) == (ROWS, "")
    assert grown < 400e6


@pytest.mark.parametrize("compressed", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("options", [{}, {"compression": "lz4"}, {"compression": "zstd"}])
def test_arrow_inside_of_another_compression_is_read(
    tmp_path: Path, compressed: Callable[[bytes], bytes], options: dict[str, str]
) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"url": urls(100), "caption": shared("a word", 100)})
    with ipc.new_file(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=30)
    path = tmp_path / "list.arrow.gz"
    path.write_bytes(compressed(sink.getvalue().to_pybytes()))
    assert read(path, caption="caption")[0] == 100


def test_damaged_lists_of_arrow_are_read_or_refused_and_end_no_process(tmp_path: Path) -> None:
    program = Path(__file__).with_name("damaged_arrow.py")
    tried = subprocess.run(
        [sys.executable, str(program), str(tmp_path), "1", "600"], check=False, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr[-2000:]
    read, refused = map(int, tried.stdout.split())
    assert read > 50
    assert refused > 200


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("list.txt", b"http://a.example/"),
        ("list.csv", b"url,caption\nhttp://a.example/,"),
        ("list.tsv", b'url\tcaption\nhttp://a.example/\t"'),
        ("list.jsonl", b'{"url":"http://a.example/'),
        ("list.json", b'[{"url":"http://a.example/'),
        ("list.json", b'{"url":["http://a.example/'),
    ],
)
def test_a_line_of_a_gigabyte_is_refused(tmp_path: Path, name: str, head: bytes) -> None:
    path = zstd(tmp_path / f"{name}.zst", head, *[b"x" * 1_000_000] * 1000)
    assert path.stat().st_size < 100_000
    rows, grown, said = read(path)
    assert rows == 0
    assert "longer than 67" in said or "more than 536" in said
    assert grown < 900e6


@pytest.mark.parametrize("name", ["list.jsonl", "list.json"])
def test_millions_of_empty_values_in_a_line_make_a_malformed_row(tmp_path: Path, name: str) -> None:
    head, end = (b"[", b"]") if name == "list.json" else (b"", b"")
    row, between = b'{"url":"http://a.example/1","tags":[{}', b"\n" if not head else b","
    path = zstd(
        tmp_path / f"{name}.zst",
        head, b'{"url":"http://a.example/0"}', between, row, *[b",{}" * 10_000] * 1000, b"]}", end,
    )  # fmt: skip
    rows, grown, said = read(path)
    assert (rows, said) == (2, "")
    assert grown < 400e6


def test_an_object_of_millions_of_empty_values_is_refused(tmp_path: Path) -> None:
    path = zstd(tmp_path / "list.json.zst", b'{"url":[""', *[b',""' * 10_000] * 2000, b"]}")
    rows, grown, said = read(path)
    assert rows == 0
    assert "more than 16,777,216 values; expected an array of objects, or jsonl" in said
    assert grown < 400e6


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_row_that_is_nested_deeply_touches_no_other(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "list.jsonl"
    nested = "[" * depth + "]" * depth
    path.write_text(
        f'{{"url": "{URL}0"}}\n{{"url": "{URL}1", "tags": {nested}}}\n{{"url": "{URL}2"}}\n', "ascii"
    )
    found = [row["url"] for batch in read_rows(InputSpec(urls=str(path))) for row in batch.to_pylist()]
    assert (len(found), found[0], found[2]) == (3, f"{URL}0", f"{URL}2")


@pytest.mark.parametrize("compressed", [bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress])
def test_frames_follow_each_other_with_zeros_between(
    tmp_path: Path, compressed: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "list.txt.xz"
    path.write_bytes(b"".join(compressed(f"{URL}{number}\n".encode()) + bytes(4) for number in range(3)))
    found = [row["url"] for batch in read_rows(InputSpec(urls=str(path))) for row in batch.to_pylist()]
    assert found == [f"{URL}{number}" for number in range(3)]
