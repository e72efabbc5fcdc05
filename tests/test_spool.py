"""The spool: what was appended comes back sorted, whatever happens to the process or the disk."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import processes
from processes import wait_until
from shard_data import picture, result, results
from turbo_fetch import _native
from turbo_fetch.arrow.schemas import RESULTS
from turbo_fetch.errors import OutputError, OutputExists
from turbo_fetch.shard.results import rows_digest
from turbo_fetch.spec import Filter, ImageSpec, ResizeMode
from turbo_fetch.spool import spool as spool_module
from turbo_fetch.spool.spool import Spool


def _open(path: Path, rows: int = 40, digest: str = "d") -> Spool:
    return Spool.open(path, shard=3, rows=rows, rows_digest=digest)


def _sorted(spool: Spool, rows_per_batch: int = 256) -> list[dict[str, object]]:
    return [row for batch in spool.sorted_batches(rows_per_batch) for row in batch.to_pylist()]


def _expected(rows: list[int]) -> list[dict[str, object]]:
    return list(results(sorted(rows)).to_pylist())


@st.composite
def _interleavings(draw: st.DrawFn) -> list[list[int]]:
    rows = draw(st.permutations(range(40)))
    cuts = sorted(draw(st.sets(st.integers(1, 39), max_size=12)))
    return [list(rows[start:stop]) for start, stop in pairwise([0, *cuts, 40])]


@settings(max_examples=60, deadline=None)
@given(_interleavings(), st.integers(1, 50))
def test_any_interleaving_gives_the_same_sorted_rows(batches: list[list[int]], rows_per_batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = _open(Path(folder) / "s")
        for rows in batches:
            spool.intend(rows)
            spool.append(results(rows))
        read = _sorted(spool, rows_per_batch)
        spool.close()
    assert read == _expected(list(range(40)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_recovers_whole_batches_only(data: st.DataObject) -> None:
    batches = [[5, 1], [0], [7, 3, 2], [39]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        spool = _open(path)
        ends = [0]
        for rows in batches:
            spool.append(results(rows))
            ends.append(path.stat().st_size)
        spool.close()
        cut = data.draw(st.integers(0, ends[-1]))
        os.truncate(path, cut)
        whole = sum(end <= cut for end in ends[1:])
        kept = [row for rows in batches[:whole] for row in rows]
        spool = _open(path)
        assert spool.done.nonzero()[0].tolist() == sorted(kept)
        assert _sorted(spool) == _expected(kept)
        spool.append(results([20]))
        spool.close()
        again = _open(path)
        assert _sorted(again) == _expected([*kept, 20])
        again.close()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_an_altered_byte_never_gives_a_wrong_row(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        spool = _open(path)
        for rows in ([5, 1], [0], [7, 2]):
            spool.append(results(rows))
        spool.close()
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        recovered = _open(path)
        read = _sorted(recovered)
        assert read == _expected(recovered.done.nonzero()[0].tolist())
        recovered.close()


def test_a_image_that_holds_the_bytes_of_a_frame_is_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "s"
    spool = _open(path)
    start = path.stat().st_size
    spool.append(results([1]))
    frame = path.read_bytes()[start:]
    spool.append(pa.RecordBatch.from_pylist([result(2, image=b"\0" * 16 + frame * 3)], schema=RESULTS))
    spool.close()
    content = path.read_bytes()
    inside = content.index(frame, start + len(frame))
    path.write_bytes(content[: start + len(frame)] + content[inside:])
    recovered = _open(path)
    assert recovered.done.nonzero()[0].tolist() == [1]
    recovered.close()


def test_rows_twice_or_outside_are_refused_and_leave_the_spool_as_it_was(tmp_path: Path) -> None:
    spool = _open(tmp_path / "s")
    spool.append(results([1, 2]))
    size = (tmp_path / "s").stat().st_size
    for rows in ([2], [4, 4], [40]):
        with pytest.raises(ValueError, match=r"in the spool already|outside of the shard"):
            spool.append(results(rows))
    assert (tmp_path / "s").stat().st_size == size
    assert _sorted(spool) == _expected([1, 2])
    spool.close()


@pytest.mark.parametrize(("rows", "digest"), [(41, "d"), (40, "other")])
def test_a_spool_of_other_work_is_refused_with_the_difference(tmp_path: Path, rows: int, digest: str) -> None:
    _open(tmp_path / "s").close()
    with pytest.raises(OutputExists, match=f"expected {rows}" if rows == 41 else "'d', expected 'other'"):
        _open(tmp_path / "s", rows, digest)


def test_a_spool_that_is_held_for_too_long_is_taken_with_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "LOCK_WAIT_S", 0.1)
    held = _open(tmp_path / "s")
    held.append(results([3]))
    taken = _open(tmp_path / "s")
    assert taken.done.nonzero()[0].tolist() == [3]
    held.append(results([4]))
    held.delete()
    taken.append(results([5]))
    taken.close()
    assert _open(tmp_path / "s").done.nonzero()[0].tolist() == [3, 5]


def test_delete_removes_the_file_and_a_new_one_starts_empty(tmp_path: Path) -> None:
    spool = _open(tmp_path / "s")
    spool.append(results([1]))
    spool.delete()
    assert not (tmp_path / "s").exists()
    fresh = _open(tmp_path / "s")
    assert not fresh.done.any()
    fresh.close()


def test_a_closed_spool_writes_nowhere(tmp_path: Path) -> None:
    spool = _open(tmp_path / "s")
    spool.close()
    with pytest.raises(ValueError, match="is closed"):
        spool.append(results([1]))


_CHILD = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from shard_data import results
from turbo_fetch.spool.spool import Spool
spool = Spool.open(Path({path!r}), 3, 40, "d")
for step in {steps!r}:
    kind, rows = step
    spool.intend(rows) if kind == "intend" else spool.append(results(rows))
{end}
"""


def _in_a_process(path: Path, steps: list[tuple[str, list[int]]], dies: bool = True) -> None:
    end = "os.kill(os.getpid(), signal.SIGKILL)" if dies else "spool.close()"
    code = _CHILD.format(tests=str(Path(__file__).parent), path=str(path), steps=steps, end=end)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == (-signal.SIGKILL if dies else 0)


def test_after_kill_9_all_that_was_appended_is_there_and_the_rest_is_suspect(tmp_path: Path) -> None:
    _in_a_process(
        tmp_path / "s", [("intend", [1, 2]), ("append", [2, 1]), ("intend", [3, 4]), ("append", [4])]
    )
    spool = _open(tmp_path / "s")
    assert _sorted(spool) == _expected([1, 2, 4])
    assert spool.suspects == {3: 1}
    spool.append(results([3]))
    assert spool.suspects == {}
    spool.close()


def test_a_row_that_dies_alone_collects_the_blame(tmp_path: Path) -> None:
    path = tmp_path / "s"
    _in_a_process(path, [("intend", [1, 2, 3])])
    spool = _open(path)
    assert spool.suspects == {1: 0, 2: 0, 3: 0}
    spool.close()
    _in_a_process(path, [("intend", [1]), ("append", [1]), ("intend", [2])])
    _in_a_process(path, [("intend", [8, 9]), ("intend", [2])])
    spool = _open(path)
    assert spool.suspects == {2: 2, 3: 0, 8: 0, 9: 0}
    spool.close()


def test_a_clean_end_blames_no_row(tmp_path: Path) -> None:
    _in_a_process(tmp_path / "s", [("intend", [1])], dies=False)
    spool = _open(tmp_path / "s")
    assert spool.suspects == {}
    spool.close()


def test_a_process_killed_while_it_appends_leaves_a_prefix(tmp_path: Path) -> None:
    code = _CHILD.format(
        tests=str(Path(__file__).parent),
        path=str(tmp_path / "s"),
        steps=[],
        end="print('go', flush=True)\nfor row in range(40): spool.append(results([row]))\nsignal.pause()",
    )
    child = processes.start([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    size = (tmp_path / "s").stat().st_size
    wait_until("some rows", lambda: (tmp_path / "s").stat().st_size >= size + 3000, child)
    child.kill()
    child.wait()
    child.stdout.close()
    spool = _open(tmp_path / "s")
    rows = spool.done.nonzero()[0].tolist()
    assert rows
    assert rows == list(range(len(rows)))
    assert _sorted(spool) == _expected(rows)
    spool.close()


def test_a_file_that_may_not_grow_leaves_the_spool_valid(tmp_path: Path) -> None:
    spool = _open(tmp_path / "s")
    spool.append(results([1]))
    size = (tmp_path / "s").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
    try:
        with pytest.raises(OutputError, match=r"used up, [\d,]+ bytes needed, [\d,]+ bytes free"):
            spool.append(results([2, 3]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "s").stat().st_size == size
    spool.append(results([3, 2]))
    assert _sorted(spool) == _expected([1, 2, 3])
    spool.close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root")
def test_a_full_disk_leaves_the_spool_valid(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        spool = _open(disk / "s")
        big = [result(row, image=bytes([row]) * 300_000) for row in range(1, 3)]
        spool.append(pa.RecordBatch.from_pylist(big, schema=RESULTS))
        too_big = pa.RecordBatch.from_pylist([result(4, image=bytes(600_000))], schema=RESULTS)
        with pytest.raises(OutputError, match="disk space or quota is used up"):
            spool.append(too_big)
        spool.append(results([5]))
        spool.close()
        recovered = _open(disk / "s")
        assert [row["row"] for row in _sorted(recovered)] == [1, 2, 5]
        recovered.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.linux
def test_reading_a_large_spool_keeps_memory_flat(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import pyarrow as pa
from shard_data import result
from turbo_fetch.arrow.schemas import RESULTS
from turbo_fetch.spool.spool import Spool
def anonymous_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024
spool = Spool.open(Path({str(tmp_path / "s")!r}), 0, 700, "d")
body = bytes(range(256)) * 2000
def big(row):
    return result(row, image=body) | {{"outcome": 0, "image": body}}
for start in range(0, 700, 7):
    rows = [(start + step * 101) % 700 for step in range(7)]
    rows = [row for row in rows if not spool.done[row]]
    batch = [big(row) for row in rows]
    if batch:
        spool.append(pa.RecordBatch.from_pylist(batch, schema=RESULTS))
rest = [row for row in range(700) if not spool.done[row]]
for row in rest:
    spool.append(pa.RecordBatch.from_pylist([big(row)], schema=RESULTS))
before, most, total = anonymous_mb(), 0, 0
for batch in spool.sorted_batches():
    total += sum(len(image) for image in batch.column("image").to_pylist())
    most = max(most, anonymous_mb())
assert total == 700 * len(body), total
spool.close()
spool = Spool.open(Path({str(tmp_path / "s")!r}), 0, 700, "d")
assert spool.done.all()
print(most - before)
"""
    grown_mb = int(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    )
    assert grown_mb < 120, f"{grown_mb} MB to read 358 MB"


def test_images_come_back_as_the_bytes_that_went_in(tmp_path: Path) -> None:
    spool = _open(tmp_path / "s")
    spool.append(results([2, 0]))
    (batch,) = spool.sorted_batches()
    assert batch.column("image").to_pylist() == [picture(0), picture(2)]
    assert batch.schema.equals(RESULTS)
    spool.close()


@given(st.lists(st.integers(0, 700_000) | st.integers(0, 9), max_size=12), st.integers(0, 99))
def test_pieces_of_any_length_are_written_one_after_the_other(lengths: list[int], offset: int) -> None:
    pieces = [bytes([number + 1]) * length for number, length in enumerate(lengths)]
    with tempfile.TemporaryFile() as file:
        _native.write_at(file.fileno(), pieces, offset)
        assert file.read() == (bytes(offset) + b"".join(pieces) if any(lengths) else b"")


def test_a_spool_that_has_to_be_there_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone\.spool"):
        Spool.open(tmp_path / "gone.spool", 0, 3, "d", is_there=True)
    assert not list(tmp_path.iterdir())


SIDES = st.integers(1, 65_535)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "size": SIDES | st.tuples(SIDES, SIDES),
        "mode": st.sampled_from(get_args(ResizeMode)),
        "only_if_bigger": st.booleans(),
        "downscale": st.sampled_from(get_args(Filter)),
        "encode": st.sampled_from(["jpg", "webp", "original"]),
        "quality": st.integers(1, 100),
        "min_side": st.integers(0, (1 << 31) - 1),
        "max_pixels": st.integers(1, 10**15),
        "max_aspect": st.floats(0, 1e9) | st.integers(0, 100),
        "phash": st.booleans(),
    },
)


@settings(max_examples=200, deadline=None)
@given(OPTIONS)
def test_what_a_spool_was_made_with_is_told_by_the_json_of_the_options(options: dict[str, Any]) -> None:
    # Those that an earlier version left are to be known again.
    image, rows = ImageSpec(**options), pa.record_batch({"url": ["http://example.org/1.jpg"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_batch(rows)
    expected = hashlib.sha256(image.model_dump_json().encode() + sink.getvalue().to_pybytes())
    assert rows_digest(rows, image) == expected.hexdigest()
