"""The main job on real photographs, from a URL list to a dataset, in one command: `python examples/demo.py`.

Makes 200 images, serves them over HTTP on loopback, writes a list of 2,000 URLs of them with captions and a
few that fail, runs `turbo-fetch run examples/demo.toml`, reads the dataset back, and lays it out on a sheet.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(".cache")
FOLDER = CACHE / "demo"
SPEC = Path("examples/demo.toml")
SHEET = FOLDER / "contact-sheet.png"
REQUESTS_PER_IMAGE = 10
COLUMNS, LINES = 12, 5
THUMBNAIL_SIDE = 128

if TYPE_CHECKING:
    from bench.corpus import Corpus
    from PIL import Image


def main() -> int:
    """Run the demo; return the exit code of the job, or 1 when its dataset is not what it should be."""
    # The paths of the spec are relative to the repository, and bench/ makes the images and serves them.
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    from bench.corpus import SMALL, build_corpus

    started_s = time.monotonic()
    say("Cutting 200 images from real photographs (Debian's lomiri-wallpapers, 27 MB, downloaded once)")
    corpus = build_corpus(SMALL, CACHE)
    with served(make_site(corpus)) as (base_url, server):
        rows = write_list(base_url, corpus)
        say(f"Serving them with {server} at {base_url}; list of {rows:,} URLs in {FOLDER / 'list.parquet'}")
        exit_code = run_job()
    if exit_code != 0:
        return exit_code
    shown = lay_out(FOLDER / "dataset")
    show_failures(FOLDER / "dataset")
    say(f"Read back with webdataset: {shown:,} samples. The first ones are on {SHEET}")
    print(f"Done in {time.monotonic() - started_s:.0f} s. Look around in {FOLDER / 'dataset'}")
    return 0 if shown == len(corpus.pictures) * REQUESTS_PER_IMAGE else 1


def say(text: str) -> None:
    """Print a step of the demo."""
    print(f"\n== {text}", flush=True)


def make_site(corpus: Corpus) -> Path:
    """Link the images into a folder to serve, beside two files that are no good."""
    site = FOLDER / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for image in corpus.pictures:
        (site / image.name).symlink_to((corpus.folder / image.name).resolve())
    (site / "page.jpg").write_text("<!doctype html><title>Moved</title><p>This image has moved.")
    whole = (corpus.folder / corpus.pictures[0].name).read_bytes()
    (site / "damaged.jpg").write_bytes(whole[: len(whole) // 2])
    return site


@contextmanager
def served(site: Path) -> Iterator[tuple[str, str]]:
    """Serve `site` with nginx, or where that is not installed with the benchmarks' own server."""
    from bench.faulty_origin import serve_faulty
    from bench.origin import find_nginx, serve

    if find_nginx() is not None:
        with serve(site, FOLDER / "nginx") as origin:
            yield origin.http_url, "nginx"
    else:
        with serve_faulty(site, latency_ms=0) as plain:
            yield plain.url, "a small server of its own"


def write_list(base_url: str, corpus: Corpus) -> int:
    """Write the URL list, in which some rows fail in the ways of the real web; return its length."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from bench.origin import free_ports

    (closed_port,) = free_ports(1)
    failing = [
        (f"{base_url}/gone.jpg", "an image that is gone"),
        (f"{base_url}/page.jpg", "a web page under an image's name"),
        (f"{base_url}/damaged.jpg", "half an image"),
        (f"http://127.0.0.1:{closed_port}/dead.jpg", "a dead host"),
        ("htp:/no-url", "not a URL"),
    ]
    rows: list[tuple[str, str, str | None]] = []
    for number in range(len(corpus.pictures) * REQUESTS_PER_IMAGE):
        image = corpus.pictures[number % len(corpus.pictures)]
        rows.append((f"{base_url}/{image.name}?n={number}", image.title, image.licence))
    for number, (url, caption) in enumerate(failing):
        rows.insert(100 + 400 * number, (url, caption, None))
    urls, captions, licences = zip(*rows, strict=True)
    pq.write_table(pa.table({"url": urls, "caption": captions, "license": licences}), FOLDER / "list.parquet")
    return len(rows)


def run_job() -> int:
    """Run the job as a user would, in this terminal."""
    command = [str(Path(sys.executable).parent / "turbo-fetch"), "run", str(SPEC)]
    say(f"$ {shlex.join(['turbo-fetch', *command[1:]])}")
    return subprocess.run(command, check=False).returncode


def lay_out(dataset: Path) -> int:
    """Read every sample with the webdataset library and lay the first ones out; return how many there are."""
    import webdataset
    from PIL import Image

    shards = [str(path) for path in sorted(dataset.glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "txt", "json")
    sheet = Image.new("RGB", (COLUMNS * THUMBNAIL_SIDE, LINES * THUMBNAIL_SIDE), "white")
    count = 0
    for image, _caption, _facts in samples:
        if count < COLUMNS * LINES:
            sheet.paste(_thumbnail(image), _place(count))
        count += 1
    sheet.save(SHEET)
    return count


def _thumbnail(image: Image.Image) -> Image.Image:
    return image.convert("RGB").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE))


def _place(number: int) -> tuple[int, int]:
    return number % COLUMNS * THUMBNAIL_SIDE, number // COLUMNS * THUMBNAIL_SIDE


def show_failures(dataset: Path) -> None:
    """Print what became of the rows that are not in the dataset, from its ledger."""
    import pyarrow.compute as pc

    import turbo_fetch

    ledger = turbo_fetch.open_dataset(str(dataset)).ledger()
    table = ledger.filter(pc.field("outcome") != "success").select(["outcome", "attempts", "url", "detail"])
    say("Rows that failed, as the ledger has them")
    for row in table.to_pylist():
        print(f"  {row['outcome']:14} {row['attempts']} attempt(s)  {row['url']:42}  {row['detail'] or ''}")


if __name__ == "__main__":
    sys.exit(main())
