"""Make bench/results/README.md, the table of all measured rows, from the JSON files beside it.

`python bench/report.py`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
_ORDER: Final = (
    "http",
    "http-area",
    "https",
    "https-3.12",
    "original",
    "small",
    "faulty",
    "limit-share",
    "memory",
    "first-request",
    "latency",
    "steady-cost",
)
_TITLES: Final = {
    "http": "CPU per image over http, against img2dataset",
    "http-area": "the same with the peer's filter, area, in place of Lanczos",
    "https": "CPU per image over https",
    "https-3.12": "the same on Python 3.12, where the peer need not load certificates per connection",
    "original": "the same, download only (original bytes kept)",
    "small": "wall time of a whole 1,000-image run, process start included",
    "faulty": "wall time with 100 ms latency, 1 % 404, 1 % resets, 0.5 % bodies of 20 s that all arrive",
    "limit-share": "CPU of the bare download and transform, as a share of a whole run's",
    "memory": "peak memory of all processes, short list and 10-million-row list",
    "first-request": "10-million-row Parquet list: start to first request",
    "latency": "200 ms latency: requests per second ÷ (concurrency ÷ latency)",
    "steady-cost": "CPU per row in the first, a middle and the last tenth of a million rows, most over least",
}
Row = Mapping[str, Any]


def main() -> None:
    """Read all rows and write the table."""
    sys.path[0] = str(RESULTS.parents[1])
    from bench.dreambooth_report import training_section

    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    rows = sorted((row for row in rows if row.get("row") in _ORDER), key=lambda row: _ORDER.index(row["row"]))
    path = RESULTS / "README.md"
    lines = [*_document(rows), "", *training_section(RESULTS)]
    path.write_text("\n".join(lines).rstrip() + "\n")
    print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}: {len(rows)} rows")


def _document(rows: list[Row]) -> Iterable[str]:
    yield "# Measured figures"
    yield ""
    yield "Made by `python bench/report.py` from the JSON files here, which hold every repeat, the exact"
    yield "commands, the machine and all versions. How each row is measured: [bench/README.md](../README.md)."
    yield ""
    yield "| Measure | Must reach | Measured | turbo-fetch | img2dataset | |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield _line(row)
    yield ""
    yield from _latency(rows)
    yield "## Where and how"
    yield ""
    yield "| Row | Date (UTC) | Machine | turbo-fetch at | Command |"
    yield "|---|---|---|---|---|"
    for row in rows:
        machine = row["machine"]
        load = machine["load_average_before"]
        hardware = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
            f"{machine['system']}, Python {machine['python']}, load before {load:.1f}"
        )
        commit = row["versions"]["ours"]["commit"]
        link = f"[{row['row']}]({row['row']}.json)"
        yield f"| {link} | {row['date'][:16]} | {hardware} | {commit} | `{row['command']}` |"


def _line(row: Row) -> str:
    relation = {"<=": "≤", ">=": "≥"}[row["relation"]]
    verdict = "met" if row["met"] else "**missed**"
    figures = row["figures"]
    return (
        f"| {_TITLES[row['row']]} | {relation} {_number(row['target'])} {_unit(row)} "
        f"| {_number(row['value'])} {_unit(row)} | {_program(row, figures.get('turbo-fetch'))} "
        f"| {_program(row, figures.get('img2dataset'))} | {verdict} |"
    )


def _program(row: Row, figures: Row | None) -> str:
    """Tell what one program reached, in the terms of the row."""
    if row["row"] == "limit-share" and figures is not None:
        bare = row["figures"]["bare"]
        return f"{figures['cpu_s_per_1000']:.2f} CPU-s per 1,000, bare {bare['cpu_s_per_1000']:.2f}"
    if figures is None:
        return "-"
    if row["row"] == "first-request":
        return f"{figures['first_request_s']:.1f} s, {figures['peak_pss_mb']:.0f} MB until then"
    if row["row"] == "steady-cost":
        return (
            f"{figures['cpu_ms_per_row']:.2f} ms of CPU per row, {figures['rows_per_core_s']:.0f} rows/s per core, "
            f"{figures['peak_pss_mb']:.0f} MB"
        )
    if row["row"] == "memory":
        return ", ".join(f"{name} {each['peak_pss_mb']:.0f} MB" for name, each in figures.items())
    cost = f"{figures['cpu_s_per_1000']:.2f} CPU-s per 1,000"
    return f"{cost}, {figures['wall_s']:.1f} s, {figures['peak_pss_mb']:.0f} MB"


def _latency(rows: list[Row]) -> Iterable[str]:
    for row in rows:
        if row["row"] == "latency":
            yield "Requests per second from an origin that answers after 200 ms, one worker process:"
            yield ""
            yield "| Concurrency | Requests/s | Share of the possible | Cores busy |"
            yield "|---|---|---|---|"
            for point in row["figures"]["points"]:
                yield (
                    f"| {point['concurrency']} | {point['requests_per_s']:.0f} | {point['share']:.1%} "
                    f"| {point['cores_busy']:.2f} |"
                )
            yield ""


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _unit(row: Row) -> str:
    unit: str = row["unit"]
    return {"times": "of the peer", "share": ""}.get(unit, unit)


if __name__ == "__main__":
    main()
