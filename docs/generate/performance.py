"""The performance page and its plots, from the JSON of bench/results."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"
OURS, PEER = "turbo-fetch", "img2dataset"
COLOURS = {OURS: "#4051b5", PEER: "#b0b4c3"}

INTRODUCTION = """\
# Performance

Everything here is measured by `make bench` and drawn from its raw results in `bench/results`, where each row has the
exact command, the machine, all versions and every repeat. Both programs got the same list from the same server in the
same run: 2,000 real photographs, 135 KB and 0.8 megapixels on average, a quarter of them progressive, resized to 256
pixels, quality 95, WebDataset.
"""

COMPARED = {
    "http": "over http",
    "https": "over https",
    "original": "original bytes kept",
    "small": "1,000 images only",
    "faulty": "slow and faulty server",
}
FIGURES = """
## Work per image

![CPU-seconds per 1,000 images of both programs](images/cpu.svg)

CPU time of all processes, start-up included: this is what you pay for.

## Time of a whole run

![Seconds of a run of both programs](images/wall.svg)

In the last run, the server responds after 100 ms, with 1 % missing images, 1 % resets, and 0.5 % bodies that take 20
seconds each. img2dataset waits for the slowest row of each shard.

## Memory

![Peak memory of both programs](images/memory.svg)

Peak memory of all processes together. It does not grow with the list: {memory}.

## Figures

| Run, requests | turbo-fetch | img2dataset | Ratio |
|---|---|---|---|
"""


def performance_page() -> str:
    """Return the page."""
    rows = _rows()
    memory = rows["memory"]
    peak = f"{memory['value']:.0f} {memory['unit']} at most with a list of 10 million rows"
    lines = []
    for name, title in COMPARED.items():
        ours, peer = (rows[name]["figures"][program] for program in (OURS, PEER))
        requests = rows[name]["parameters"]["requests"]
        ratio = peer["cpu_s_per_1000"] / ours["cpu_s_per_1000"]
        lines.append(
            f"| {title}, {requests:,} | {_shown(ours)} | {_shown(peer)} | {ratio:.1f} times less CPU |"
        )
    first, latency = rows["first-request"], rows["latency"]
    return (
        INTRODUCTION
        + FIGURES.format(memory=peak)
        + "\n".join(lines)
        + "\n\n"
        + f"- A list of 10 million rows: {first['value']:.1f} s from start to the first request.\n"
        + f"- A server 200 ms away: {latency['value']:.0%} of the possible requests per second.\n"
        + f"- {rows['limit-share']['value']:.0%} of the upper limit: the same images fetched by bare sockets, then "
        + "decoded, resized and encoded from memory, and nothing else.\n"
    )


def _shown(figures: Mapping[str, float]) -> str:
    return (
        f"{figures['cpu_s_per_1000']:.2f} CPU-s per 1,000, {figures['wall_s']:.1f} s, "
        f"{figures['images_per_s']:.0f} images/s, {figures['peak_pss_mb']:.0f} MB"
    )


def _rows() -> dict[str, Any]:
    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return {row["row"]: row for row in rows if "row" in row}


def plots() -> dict[str, str]:
    """Return the plots as SVG by file name."""
    rows = _rows()
    figures = {name: rows[name]["figures"] for name in COMPARED}
    return {
        "cpu.svg": _bars(figures, "cpu_s_per_1000", "CPU-seconds per 1,000 images"),
        "wall.svg": _bars(figures, "wall_s", "seconds"),
        "memory.svg": _bars(figures, "peak_pss_mb", "MB at peak, all processes"),
    }


def _bars(figures: Mapping[str, Any], key: str, label: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Without salt and date, the same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "turbo-fetch", "svg.fonttype": "none", "font.size": 10})
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for shift, program in ((-0.2, OURS), (0.2, PEER)):
        places = [place + shift for place in range(len(figures))]
        values = [each[program][key] for each in figures.values()]
        bars = axes.barh(places, values, 0.38, label=program, color=COLOURS[program])
        axes.bar_label(bars, fmt="%.3g", padding=3, color="#555555", fontsize=9)
    axes.set_yticks(range(len(figures)), [COMPARED[name] for name in figures])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower right")
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None}, facecolor="white")
    return "\n".join(line.rstrip() for line in svg.getvalue().splitlines()) + "\n"
