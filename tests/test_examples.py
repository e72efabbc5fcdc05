"""The example specs are valid and do what their first lines say; the demo runs as a user would run it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.dataset.description import load_spec

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


def gradient(width: int, height: int, shade: int) -> bytes:
    """Return a JPEG whose red grows to the right, green downwards, and whose blue is `shade`."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), np.full_like(x, shade)]
    file = io.BytesIO()
    Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


PICTURES = {f"{number}.jpg": gradient(900, 600, 40 * number) for number in range(4)}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({**PICTURES, "small.jpg": gradient(120, 90, 0)}) as origin:
        yield origin


def run_example(name: str, urls: Path, output: Path) -> None:
    """Run a spec of examples/ on another list and output, with the loopback origin allowed."""
    command = [sys.executable, "-m", "turbo_fetch", "run", str(ROOT / "examples" / name), "--quiet"]
    for change in (
        f"input.urls={urls}",
        f"output.path={output}",
        "http.allow_private_addresses=true",
    ):
        command += ["--set", f"fetch.{change}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr


def shades(image: Image.Image) -> tuple[int, ...]:
    """Return the colour in the middle of an image."""
    pixel = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_each_example_is_a_valid_spec(path: Path) -> None:
    fetch = load_spec(path).fetch
    assert fetch is not None
    assert fetch.output.path


def test_every_example_is_listed_in_the_readme() -> None:
    readme = (ROOT / "examples" / "README.md").read_text()
    assert [path.name for path in EXAMPLES if f"({path.name})" not in readme] == []


def test_laion_keeps_scores_and_resizes_the_smaller_side(origin: Origin, tmp_path: Path) -> None:
    names = [*PICTURES, "small.jpg"]
    columns = {
        "URL": [origin.url(name) for name in names],
        "TEXT": [f"text of {name}" for name in names],
        "LICENSE": ["?"] * len(names),
        "similarity": [0.25, 0.5, 0.75, 1.0, 0.125],
        "punsafe": [0.0] * len(names),
    }
    pq.write_table(pa.table(columns), tmp_path / "part.parquet")
    run_example("laion.toml", tmp_path / "*.parquet", tmp_path / "out")

    metadata = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    failed = [row for row in metadata if row["status"] != "success"]
    assert [(row["url"], row["error_message"]) for row in failed] == [
        (origin.url("small.jpg"), "image too small")
    ]
    with tarfile.open(tmp_path / "out" / "00000.tar") as shard:
        members = {member.name: (shard.extractfile(member) or io.BytesIO()).read() for member in shard}
    facts = [json.loads(body) for name, body in members.items() if name.endswith(".json")]
    assert sorted(fact["similarity"] for fact in facts) == [0.25, 0.5, 0.75, 1.0]
    for fact in facts:
        image = Image.open(io.BytesIO(members[f"{fact['key']}.jpg"]))
        assert image.size == (576, 384)
        blue = 40 * list(PICTURES).index(fact["url"].rsplit("/", 1)[1])
        assert np.abs(np.subtract(shades(image), (127, 127, blue))).max() <= 6
        assert members[f"{fact['key']}.txt"].decode().startswith("text of ")


@pytest.mark.parametrize(
    ("name", "columns", "size", "shard"),
    [
        ("cc3m", ("caption", "url"), (256, 256), "00000"),
        ("cc12m", ("url", "caption"), (384, 256), "00000"),
    ],
)
def test_conceptual_captions_come_from_tsv_with_a_header_put_before(
    origin: Origin, tmp_path: Path, name: str, columns: tuple[str, str], size: tuple[int, int], shard: str
) -> None:
    rows = [{"url": origin.url(path), "caption": f"the text of {path}"} for path in PICTURES]
    lines = ["\t".join(columns), *("\t".join(row[column] for column in columns) for row in rows)]
    (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    run_example(f"{name}.toml", tmp_path / f"{name}.tsv", tmp_path / "out")

    made = samples(tmp_path / "out" / f"{shard}.tar")
    assert sorted(text for text, _, _ in made) == sorted(row["caption"] for row in rows)
    assert {image.size for _, image, _ in made} == {size}


@pytest.mark.parametrize(
    ("name", "kept", "size", "shard"),
    [
        ("coyo", "watermark_score", (576, 384), "00000"),
        ("datacomp", "uid", (512, 341), "00000000"),
    ],
)
def test_pools_come_from_parquet_with_what_they_know_of_images(
    origin: Origin, tmp_path: Path, name: str, kept: str, size: tuple[int, int], shard: str
) -> None:
    spec = load_spec(ROOT / "examples" / f"{name}.toml").fetch
    assert spec is not None
    columns: dict[str, list[object]] = {
        "url": [origin.url(path) for path in PICTURES],
        "text": [f"the text of {path}" for path in PICTURES],
        **{column: [f"{column} {path}" for path in PICTURES] for column in spec.input.keep_columns},
    }
    columns["sha256"] = [hashlib.sha256(body).hexdigest() for body in PICTURES.values()]
    columns["face_bboxes"] = [[[0.1, 0.1, 0.3, 0.3]] for _ in PICTURES]
    pq.write_table(pa.table(columns), tmp_path / "part.parquet")
    run_example(f"{name}.toml", tmp_path / "*.parquet", tmp_path / "out")

    made = samples(tmp_path / "out" / f"{shard}.tar")
    assert sorted(str(facts[kept]) for _, _, facts in made) == sorted(str(value) for value in columns[kept])
    assert {image.size for _, image, _ in made} == {size}


def samples(path: Path) -> list[tuple[str, Image.Image, dict[str, object]]]:
    """Return caption, image and facts of the samples in an archive."""
    with tarfile.open(path) as shard:
        members = {member.name: (shard.extractfile(member) or io.BytesIO()).read() for member in shard}
    keys = sorted(name.removesuffix(".txt") for name in members if name.endswith(".txt"))
    return [
        (
            members[f"{key}.txt"].decode(),
            Image.open(io.BytesIO(members[f"{key}.jpg"])),
            json.loads(members[f"{key}.json"]),
        )
        for key in keys
    ]


def test_captions_become_parquet_with_padded_images(origin: Origin, tmp_path: Path) -> None:
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["link", "text"])
        writer.writerows([origin.url(name), f'a "{name}", with a comma'] for name in PICTURES)
    run_example("captions_to_parquet.toml", tmp_path / "captions.csv", tmp_path / "out")

    (shard,) = list((tmp_path / "out").glob("*.parquet"))
    table = pq.read_table(shard)
    assert table["caption"].to_pylist() == [f'a "{name}", with a comma' for name in PICTURES]
    for number, cell in enumerate(table["image"].to_pylist()):
        image = Image.open(io.BytesIO(cell["bytes"]))
        assert (image.format, image.size) == ("WEBP", (512, 384))
        # 900 x 600 fits as 512 x 341, so 21 rows of white are left above and below; the encoder's first
        # blocks of 16 rows hold nothing else.
        assert np.asarray(image.convert("RGB"))[:16].min() > 250
        assert np.abs(np.subtract(shades(image), (127, 127, 40 * number))).max() <= 8


def test_archive_keeps_the_bytes_as_they_came(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("".join(f"{origin.url(name)}\n" for name in PICTURES))
    run_example("archive.toml", tmp_path / "urls.txt", tmp_path / "out")

    kept = [path.read_bytes() for path in sorted((tmp_path / "out" / "00000").glob("*.jpg"))]
    assert kept == list(PICTURES.values())
    digests = pq.read_table(tmp_path / "out" / "00000.parquet")["sha512"].to_pylist()
    assert digests == [hashlib.sha512(body).hexdigest() for body in PICTURES.values()]


@pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="the demo's photographs come from a Debian package"
)
def test_the_demo_makes_a_dataset_and_shows_it() -> None:
    sheet = ROOT / ".cache" / "demo" / "contact-sheet.png"
    sheet.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2,000 of 2,005 rows" in done.stdout
    for outcome in ("http-4xx", "not-an-image", "truncated", "connect", "url"):
        assert f"\n  {outcome} " in done.stdout
    pixels = np.asarray(Image.open(sheet).convert("L"), dtype=float)
    assert pixels.shape == (5 * 128, 12 * 128)
    thumbnails = pixels.reshape(5, 128, 12, 128).swapaxes(1, 2).reshape(60, -1)
    assert thumbnails.std(axis=1).min() > 3
    assert len({thumbnail.tobytes() for thumbnail in thumbnails}) == 60
