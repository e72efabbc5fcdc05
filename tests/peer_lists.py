"""Lists for both img2dataset and turbo-fetch: rows that go well and that fail in every way, in every list format."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from album import encoded, pixels
from origin import Origin

BOX = [0.3, 0.4, 0.7, 0.8]
"""Left, top, right and bottom of what is to be blurred in every image."""
CLOSED = "http://127.0.0.1:9/closed.jpg"
"""Nothing listens on the port `discard`."""


def pictures() -> dict[str, bytes]:
    """Return bodies by path: images of several formats and sizes, one with EXIF, and no images."""
    camera = Image.Exif()
    camera[0x010F], camera[0x0110], camera[0x8298] = "Maker", "Model ünï", "someone"
    camera.get_ifd(0x8769)[0x829A] = (1, 125)
    translucent = Image.fromarray(pixels(120, 90, 3))
    translucent.putalpha(Image.fromarray(pixels(120, 90, 4)).convert("L"))
    file = io.BytesIO()
    translucent.save(file, "PNG")
    return {
        "camera.jpg": encoded(300, 200, 1, exif=camera.tobytes()),
        "small.png": encoded(60, 40, 2, "PNG"),
        "alpha.png": file.getvalue(),
        "tall.webp": encoded(100, 300, 5, "WEBP"),
        "plain.jpg": encoded(256, 256, 6),
        "cut.jpg": encoded(300, 200, 7)[:4000],
        "cut.png": encoded(300, 200, 8, "PNG")[:4000],
        "page.jpg": b"<html>gone</html>",
        "empty.jpg": b"",
    }


def rows(origin: Origin) -> list[dict[str, Any]]:
    """Return the rows of the list: url, caption and further columns of several types."""
    urls = [
        *(origin.url(name) for name in pictures()),
        origin.url("missing.jpg"),
        origin.url("plain.jpg", "status", code=500),
        origin.url("plain.jpg", "header", name="X-Robots-Tag", value="noai"),
        origin.url("plain.jpg", "header", name="X-Robots-Tag", value="dropinbot: noindex"),
        origin.url("plain.jpg", "header", name="X-Robots-Tag", value="otherbot: noindex, noai"),
        origin.url("plain.jpg", "header", name="X-Robots-Tag", value="noarchive"),
        origin.url("plain.jpg", "redirect", hops=2),
        origin.url("plain.jpg", "chunked", size=100),
        origin.url("plain.jpg", "close_before_headers"),
        CLOSED,
    ]
    return [
        {
            "url": url,
            "TEXT": f'a "picture", number {number}\tünï' if number % 4 else "",
            "id": 10_000_000_000 + number,
            "score": number / 8,
            "good": number % 2 == 0,
            "note": None if number == 1 else f"note {number}",
        }
        for number, url in enumerate(urls)
    ]


def write_lists(folder: Path, listed: list[dict[str, Any]]) -> dict[str, Path]:
    """Write the rows in every format that img2dataset reads; return the files, and a folder of two, by format."""
    paths = {
        kind: folder / f"list.{kind}"
        for kind in (
            "txt",
            "csv",
            "tsv",
            "json",
            "jsonl",
            "txt.gz",
            "csv.gz",
            "tsv.gz",
            "json.gz",
            "jsonl.gz",
        )
    }
    texts = {
        "txt": "".join(f"{row['url']}\n" for row in listed),
        "csv": _cells(listed, ","),
        "tsv": _cells(listed, "\t"),
        "json": json.dumps(listed),
        "jsonl": "".join(f"{json.dumps(row)}\n" for row in listed),
    }
    for kind, path in paths.items():
        content = texts[kind.removesuffix(".gz")].encode()
        path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    table = pa.Table.from_pylist(
        [
            {
                **row,
                "TEXT": row["TEXT"] or None,
                "tags": ["a", str(number)],
                "expected": _expected(row),
                "faces": [BOX],
            }
            for number, row in enumerate(listed)
        ]
    )
    paths["parquet"] = folder / "list.parquet"
    pq.write_table(table, paths["parquet"])
    paths["flaky"] = folder / "flaky.parquet"
    pq.write_table(pa.concat_tables([table, _flaky(table)]), paths["flaky"])
    paths["folder"] = folder / "parts"
    paths["folder"].mkdir()
    pq.write_table(table.slice(0, 7), paths["folder"] / "part-1.parquet")
    pq.write_table(table.slice(7), paths["folder"] / "part-0.parquet")
    return paths


def _expected(row: dict[str, Any]) -> str:
    """Return the hash that the row's image has, and for those called small another one."""
    path = row["url"].rpartition("/")[2].partition("?")[0]
    return hashlib.sha256(b"another" if path == "small.png" else pictures().get(path, b"")).hexdigest()


def _flaky(table: pa.Table) -> pa.Table:
    """Return a row whose address answers well at the third request."""
    row = table.slice(0, 1)
    address = f"{row['url'][0].as_py()}?fault=status&code=503&times=2"
    return row.set_column(row.schema.get_field_index("url"), "url", pa.array([address]))


def _cells(listed: list[dict[str, Any]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(listed[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()
