"""Rates of the sharder and the CSV reader on one core, from a seeded list of URLs as the web has them.

Run from the project's folder: `python -m bench.micro.sharder`; writes bench/results/micro-sharder.json.
CPU time counts, because other work on the machine stretches wall time.
"""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from bench.machine import describe_machine, now, our_versions

from turbo_fetch import _native
from turbo_fetch.plan.sharder import WINDOW_ROWS, spread_order

RESULT: Final = Path("bench/results/micro-sharder.json")
TARGET_ROWS_PER_S: Final = 1_500_000
ROWS: Final = 4 * WINDOW_ROWS
REPEATS: Final = 7
SUFFIXES: Final = (
    "com",
    "net",
    "org",
    "co.uk",
    "de",
    "com.au",
    "io",
    "s3.amazonaws.com",
    "blogspot.com",
    "com.br",
)
PATHS: Final = (
    "/s/files/1/0123/4567/products/blue-cotton-shirt_{}x1024.jpg?v=1571438",
    "/wp-content/uploads/2019/03/IMG_{}-300x225.jpg",
    "/images/I/71kz%20Q2-{}._AC_UL320_.jpg",
    "/736x/ab/cd/ef/{}abcdef0123456789.jpg",
    "/fotos/café {}.png",
)


def make_urls(rows: int) -> list[str]:
    """Return URLs of Zipf-distributed hosts, a fifth plain http, a fifth in need of percent-encoding."""
    random = np.random.default_rng(0)
    hosts = (random.zipf(1.3, rows) % 100_000).tolist()
    return [
        f"http{'' if row % 5 == 0 else 's'}://{'www.' if host % 3 else 'cdn.'}site{host}."
        f"{SUFFIXES[host % len(SUFFIXES)]}{PATHS[row % len(PATHS)].format(row)}"
        for row, host in enumerate(hosts)
    ]


def rates(rows: int, work: Callable[[], object]) -> dict[str, float]:
    """Return rows per CPU-second and per second: medians of several runs."""
    cpu_s, wall_s = [], []
    for _ in range(REPEATS):
        start = (time.process_time(), time.perf_counter())
        work()
        cpu_s.append(time.process_time() - start[0])
        wall_s.append(time.perf_counter() - start[1])
    return {
        "rows_per_cpu_s": round(rows / statistics.median(cpu_s)),
        "rows_per_cpu_s_best": round(rows / min(cpu_s)),
        "rows_per_wall_s": round(rows / statistics.median(wall_s)),
    }


def sharder_rates(urls: list[str]) -> dict[str, Any]:
    """Rates of parsing alone, of ordering alone, and of both, window by window."""
    windows = [pa.array(urls[at : at + WINDOW_ROWS]) for at in range(0, len(urls), WINDOW_ROWS)]
    domains = [pa.record_batch(_native.parse_urls(window)).column("domain") for window in windows]
    whole = [pa.chunked_array([window]) for window in windows]
    return {
        "parse, normalise, registrable domain": rates(
            len(urls), lambda: [_native.parse_urls(window) for window in windows]
        ),
        "spread": rates(len(urls), lambda: [_native.spread(each, 0) for each in domains]),
        "parse, normalise, registrable domain, assign": rates(
            len(urls), lambda: [spread_order(window, 0) for window in whole]
        ),
    }


def csv_rates(urls: list[str]) -> dict[str, Any]:
    """Rates of CSV readers on the same text, in memory: three columns, of which two are read."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["url", "caption", "score"])
    writer.writerows((url, f'photo "{row}", with a caption', row / 7) for row, url in enumerate(urls))
    data = text.getvalue().encode()
    return {
        "bytes": len(data),
        "native (lenient, streaming)": rates(len(urls), lambda: _read_native(data, len(urls))),
        "Python csv module": rates(len(urls), lambda: _read_python(data, len(urls))),
        "pyarrow.csv (strict, one thread)": rates(len(urls), lambda: _read_pyarrow(data, len(urls))),
    }


def _read_native(data: bytes, rows: int) -> None:
    reader = _native.CsvReader(",", "auto")
    block_bytes = 256 << 10
    found = 0
    for at in range(0, len(data), block_bytes):
        reader.feed(data[at : at + block_bytes], is_last=at + block_bytes >= len(data))
        if at == 0:
            reader.header()
        while (batch := pa.record_batch(reader.read([0, 1], 16_384))).num_rows:
            found += batch.num_rows
    assert found == rows


def _read_python(data: bytes, rows: int) -> None:
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""))
    next(reader)
    found = 0
    cells: list[list[str]] = []
    for row in reader:
        cells.append(row[:2])
        if len(cells) == 16_384:
            found += _as_batch(cells)
            cells = []
    assert found + _as_batch(cells) == rows


def _as_batch(cells: list[list[str]]) -> int:
    pa.record_batch([pa.array([row[at] for row in cells]) for at in (0, 1)], ["url", "caption"])
    return len(cells)


def _read_pyarrow(data: bytes, rows: int) -> None:
    reader = pa.csv.open_csv(
        pa.py_buffer(data),
        read_options=pa.csv.ReadOptions(use_threads=False),
        convert_options=pa.csv.ConvertOptions(include_columns=["url", "caption"]),
    )
    assert sum(batch.num_rows for batch in reader) == rows


def main() -> None:
    if _native.__profile__ != "release":
        sys.exit("the native module is a debug build; build it with: maturin develop --release")
    machine = describe_machine()
    urls = make_urls(ROWS)
    sharder = sharder_rates(urls)
    value = sharder["parse, normalise, registrable domain, assign"]["rows_per_cpu_s"]
    result = {
        "row": "sharder (parse, normalise, registrable domain, assign) on one core",
        "value": value,
        "unit": "URLs per CPU-second",
        "target": TARGET_ROWS_PER_S,
        "met": value >= TARGET_ROWS_PER_S,
        "date": now(),
        "command": "python -m bench.micro.sharder",
        "machine": machine,
        "versions": our_versions() | {"fsspec": metadata.version("fsspec")},
        "parameters": {
            "rows": ROWS,
            "repeats": REPEATS,
            "window_rows": WINDOW_ROWS,
            "mean_url_characters": round(sum(map(len, urls)) / len(urls), 1),
            "domains": len(set(parsed_domains(urls))),
            "load_average_after": os.getloadavg()[0],
        },
        "sharder": sharder,
        "csv": csv_rates(urls[:WINDOW_ROWS]),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=2, ensure_ascii=False))


def parsed_domains(urls: list[str]) -> list[str | None]:
    domains: list[str | None] = (
        pa.record_batch(_native.parse_urls(pa.array(urls))).column("domain").to_pylist()
    )
    return domains


if __name__ == "__main__":
    main()
