"""What native code may do at worst ends as an outcome, an error, or a part of a batch: never as a run that hangs."""

from __future__ import annotations

import os
import signal
import struct
import time
import zlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import turbo_fetch
from album import album
from jobs import job_spec, ledger, start, write_list
from origin import Origin
from processes import finished
from sample_images import encoded, scene, spec
from turbo_fetch.arrow.binaries import lengths
from turbo_fetch.cli.commands import app
from turbo_fetch.outcomes import Outcome
from turbo_fetch.shard.transform import Transform

PANIC = """
import sys

if "turbo_fetch.runners" in sys.orig_argv:
    from turbo_fetch.shard.transform import Transform

    class PanicException(BaseException):
        pass

    def parts(self, bodies, boxes=()):
        raise PanicException("index out of bounds")

    Transform.parts = parts
"""
"""What PyO3 raises for a panic is no Exception; run at the start of every Python process on this path."""


def test_a_panic_in_a_batch_ends_the_run_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PANIC)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    images = album(2)
    with Origin(images) as origin:
        listed = write_list(tmp_path / "list.parquet", [origin.url(name) for name in images])
        running = start(job_spec(listed, tmp_path / "out", engine={"workers": 1, "threads": 1}), tmp_path)
        _, errors = finished(running)
    assert running.returncode == 1
    assert "PanicException: index out of bounds" in errors
    assert "the 8th time in a row that one got nowhere" in errors


DEATH = """
import os, sys

if "turbo_fetch.runners" in sys.orig_argv:
    from turbo_fetch.shard.transform import Transform

    whole = Transform.parts

    def parts(self, bodies, boxes=()):
        if any(b"deadly" in bytes(body) for body in bodies):
            os.kill(os.getpid(), {signal})
        return whole(self, bodies, boxes)

    Transform.parts = parts
"""


@pytest.mark.parametrize(
    ("death", "outcome", "retried"),
    [
        (signal.SIGKILL, Outcome.OUT_OF_MEMORY, Outcome.SUCCESS),
        (signal.SIGSEGV, Outcome.CORRUPT, Outcome.CORRUPT),
    ],
)
def test_an_image_that_ends_the_process_is_blamed_by_how_it_ended_and_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: int, outcome: Outcome, retried: Outcome
) -> None:
    images = album(12, side=24)
    images["deadly"] = encoded(scene(24, 24), "PNG") + b"deadly"
    (tmp_path / "sitecustomize.py").write_text(DEATH.format(signal=int(death)))
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{before}")
    with Origin(images) as origin:
        listed = write_list(tmp_path / "list.parquet", [origin.url(name) for name in images])
        turbo_fetch.run(job_spec(listed, tmp_path / "out", engine={"workers": 1, "threads": 1}))
        found = {row["url"].rpartition("/")[2]: row["outcome"] for row in ledger(tmp_path / "out")}
        assert found.pop("deadly") == outcome.label, ledger(tmp_path / "out")
        assert set(found.values()) == {"success"}
        monkeypatch.setenv("PYTHONPATH", before)
        done = CliRunner().invoke(app, ["retry", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
    found = {row["url"].rpartition("/")[2]: row["outcome"] for row in ledger(tmp_path / "out")}
    assert found.pop("deadly") == retried.label
    assert set(found.values()) == {"success"}


def test_small_bodies_that_become_huge_files_come_in_parts() -> None:
    huge = png_of_zeros(13_000, 7_000)
    small = encoded(scene(20, 20), "PNG")
    bodies = [small, huge, b"no image", small]
    assert sum(map(len, bodies)) < 2_000_000
    transform = Transform(spec(encode="png", quality=0), 1)
    parts = []
    for places, records in transform.parts(bodies):
        assert lengths(records["image"]).sum() < 300_000_000
        assert records["outcome"].to_pylist() == [[0, 0, 32, 0][place] for place in places]
        assert records["width"].to_pylist() == [[20, 13_000, None, 20][place] for place in places]
        parts.append(places)
    assert parts == [[0, 1], [2, 3]]


def png_of_zeros(width: int, height: int) -> bytes:
    """Return a black RGB image."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.usefixtures("no_collections")
def test_directories_of_exif_that_all_lead_to_one_are_read_in_time() -> None:
    count, entry = 65_000, struct.Struct("<HHII")
    second = 10 + count * entry.size
    pointers = entry.pack(0x8825, 4, 1, second) * count
    unknown = entry.pack(0x0112, 99, 1, 0) * count
    counted = struct.pack("<H", count)
    body = encoded(scene(16, 16), "PNG", exif=b"II*\0\x08\0\0\0" + counted + pointers + counted + unknown)
    began = time.process_time()
    (record,) = Transform(spec(exif=True), 1).run([body]).to_pylist()
    assert record["outcome"] == 0
    assert time.process_time() - began < 1


def test_a_string_of_exif_that_many_would_be_kept_in_bounds() -> None:
    length = 30_000_000
    exif = struct.pack("<4sIHHHII", b"II*\0", 8, 1, 270, 2, length, 26) + b"\0\0\0\0" + b"\xff" * length
    body = encoded(scene(16, 16), "PNG", exif=exif)
    (record,) = Transform(spec(exif=True), 1).run([body]).to_pylist()
    assert record["outcome"] == 0
    assert 100_000 < len(record["exif"]) < 4_000_000
