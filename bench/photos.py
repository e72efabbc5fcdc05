"""Real photographs to make a corpus of: files of Debian's wallpaper packages, fetched once into a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Package:
    """A Debian package and the photographs in it (drawings, renderings and blurred ones are left out)."""

    name: str
    licence: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Photo:
    """One photograph on disk, with the words that describe it and its package's licences."""

    path: Path
    title: str
    licence: str


_LOMIRI_16: Final = Package(
    "lomiri-wallpapers-16.04",
    "CC-BY-4.0, CC-BY-SA-4.0 and CC0-1.0",
    tuple(
        f"usr/share/backgrounds/{name}.jpg"
        for name in (
            "Bridge_by_Sander_Klootwijk",
            "Dragonfly_by_Bolly",
            "Picture_0B_by_freespace",
            "Picture_1A_by_freespace",
            "Wine_by_Jakkub_Mede",
            "aitzgorri_by_Aitzol_Berasategi",
            "friends_by_Aitzol_Berasategi",
            "life_by_Aitzol_Berasategi",
            "picosdeeuropa_by_Aitzol_Berasategi",
            "seeding_by_Clements_Engelhardt",
            "sunset_by_Aitzol_Berasategi",
        )
    ),
)
_LOMIRI_20: Final = Package(
    "lomiri-wallpapers-20.04",
    "CC-BY-SA-3.0",
    (
        "usr/share/backgrounds/Infinite-Sea_by_Aury88.jpg",
        "usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg",
    ),
)
_MATE: Final = Package(
    "mate-backgrounds",
    "GPL-2+",
    tuple(
        f"usr/share/backgrounds/mate/nature/{name}.jpg"
        for name in (
            "Blinds",
            "Dune",
            "Garden",
            "GreenMeadow",
            "LadyBird",
            "RainDrops",
            "TwoWings",
            "Wood",
            "YellowFlower",
        )
    ),
)
_PLASMA: Final = Package(
    "plasma-workspace-wallpapers",
    "GPL-2+",
    tuple(
        f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in (
            "BytheWater",
            "ColdRipple",
            "ColorfulCups",
            "EveningGlow",
            "FallenLeaf",
            "Kite",
            "OneStandsOut",
            "Path",
        )
    ),
)

FEW: Final = (_LOMIRI_16, _LOMIRI_20)
"""27 MB of packages with 13 photographs: enough for a demo."""
ALL: Final = (*FEW, _MATE, _PLASMA)
"""168 MB of packages with 30 photographs."""


def fetch_photos(packages: tuple[Package, ...], cache: Path) -> tuple[Photo, ...]:
    """Return the photographs of `packages`, downloading what `cache` lacks, in a stable order.

    Raises `subprocess.CalledProcessError` when apt cannot download a package, and `FileNotFoundError`
    when a package no longer holds one of its files.
    """
    photos = []
    for package in packages:
        root = _unpacked(package.name, cache / "packages")
        for name in package.files:
            path = root / name
            if not path.is_file():
                raise FileNotFoundError(f"the package {package.name} has no file {name}")
            photos.append(Photo(path, _title(name), package.licence))
    return tuple(photos)


def _unpacked(name: str, packages: Path) -> Path:
    folder = packages / name
    if not folder.is_dir():
        packages.mkdir(parents=True, exist_ok=True)
        work = packages / f".{name}-{uuid.uuid4().hex[:8]}"
        work.mkdir()
        try:
            _download(name, work, packages)
            (archive,) = work.glob("*.deb")
            subprocess.run(["dpkg", "-x", archive.name, "files"], cwd=work, check=True)
            (work / "files").rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _download(name: str, folder: Path, packages: Path) -> None:
    """Put the package's file into `folder`, with apt's own lists or, where they are missing, private ones."""
    first = subprocess.run(["apt-get", "download", name], cwd=folder, capture_output=True, check=False)
    if first.returncode == 0:
        return
    # Private lists need no root, and leave the system as it is.
    state = packages / ".apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    private = [
        "-o",
        f"Dir::State::Lists={(state / 'lists').resolve()}",
        "-o",
        f"Dir::Cache={(state / 'cache').resolve()}",
        "-o",
        "APT::Sandbox::User=" + ("root" if os.geteuid() == 0 else ""),
    ]
    subprocess.run(["apt-get", *private, "-qq", "update"], check=True)
    subprocess.run(["apt-get", *private, "-qq", "download", name], cwd=folder, check=True)


def _title(name: str) -> str:
    path = Path(name)
    words = path.stem if path.parent.name != "images" else path.parts[-4]
    return words.replace("_", " ").replace("-", " ")
