"""The plots of a report as plotly takes them: pure functions from material to JSON, without importing plotly.

Colours are names of the page's palette (`@good`), which the page replaces, since they differ by theme.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from turbo_fetch.monitor.report.material import Material
from turbo_fetch.progress.size_histogram import aspect_centre, side_edges
from turbo_fetch.progress.summary import human_bytes
from turbo_fetch.progress.tally import SECONDS_EDGES

HOSTS_SHOWN: Final = 15
POINTS_SHOWN: Final = 2000
FEW_POINTS: Final = 5
"""So many are shown as points, too."""

Figure = dict[str, Any]


def figures(material: Material) -> Iterator[Figure]:
    """Yield the plots for which there is something to show: `id`, `title`, `note`, `data` and `layout`."""
    lines = _thinned(material.progress)
    if len(lines) > 1:
        yield _throughput(lines)
    if material.hosts:
        yield _hosts(material)
    if material.shapes.sides:
        yield _sides(material)
        yield _aspects(material)
    if lines and sum(lines[-1]["seconds"]):
        yield _seconds(lines[-1]["seconds"])
    if len(lines) > 1:
        yield _resources(lines)


def _figure(name: str, title: str, data: list[dict[str, Any]], note: str = "", **layout: Any) -> Figure:
    return {"id": name, "title": title, "note": note, "data": data, "layout": layout}


def _thinned(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    step = max(1, -(-len(lines) // POINTS_SHOWN))
    return [*lines[:-1:step], *lines[-1:]]


def _mode(points: Sequence[object]) -> str:
    """Return how points are joined: a line of one alone would be nothing at all."""
    return "lines+markers" if len(points) <= FEW_POINTS else "lines"


def _throughput(lines: Sequence[dict[str, Any]]) -> Figure:
    time, per_s, bytes_per_s = _rates(lines)
    rows = {
        "type": "scatter",
        "mode": _mode(time),
        "name": "rows/s",
        "x": time,
        "y": per_s,
        "line": {"color": "@good", "width": 2},
        "fill": "tozeroy",
        "fillcolor": "@good-soft",
        "hovertemplate": "%{y:,.0f} rows/s",
    }
    megabytes = {
        "type": "scatter",
        "mode": _mode(time),
        "name": "MB/s",
        "x": time,
        "y": [rate / 1e6 for rate in bytes_per_s],
        "yaxis": "y2",
        "line": {"color": "@accent", "width": 2},
        "hovertemplate": "%{y:,.1f} MB/s",
    }
    return _figure(
        "throughput",
        "Throughput",
        [rows, megabytes],
        "all runs, end to end",
        xaxis={"title": {"text": "seconds since the start"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "rows/s"}, "rangemode": "tozero"},
        yaxis2={
            "title": {"text": "MB/s"},
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
            "tickmode": "auto",
            "nticks": 6,
        },
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.12, "x": 0},
    )


def _rates(lines: Sequence[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Return times, rows and bytes per second, each over a window long enough to smooth out single batches."""
    window_s = max(2.0, lines[-1]["elapsed_s"] / 100)
    times, rows, sizes = [], [], []
    start = 0
    for line in lines[1:]:
        while lines[start + 1]["elapsed_s"] < line["elapsed_s"] - window_s:
            start += 1
        first = lines[start]
        elapsed = max(line["elapsed_s"] - first["elapsed_s"], 1e-9)
        times.append(line["elapsed_s"])
        rows.append(round((line["rows"] - first["rows"]) / elapsed, 2))
        sizes.append(round((line["bytes"] - first["bytes"]) / elapsed))
    return times, rows, sizes


def _hosts(material: Material) -> Figure:
    top = material.hosts.most_common(HOSTS_SHOWN)
    failing = material.summary.failing_hosts
    names = [host for host, _ in top]
    good = [max(0, count - failing[host]) for host, count in top]
    bad = [failing[host] for host in names]
    bars = [
        _host_bar("success", names, good, "@good"),
        _host_bar("failed", names, bad, "@bad"),
    ]
    return _figure(
        "hosts",
        "Top hosts",
        bars,
        "by registrable domain; the most frequent of each shard",
        barmode="stack",
        xaxis={"title": {"text": "rows"}},
        # A single host would be one huge bar.
        yaxis={"range": [max(len(top), 6) - 0.5, -0.5], "automargin": True, "type": "category"},
        legend={"orientation": "h", "y": 1.12, "x": 0},
    )


def _host_bar(name: str, hosts: Sequence[str], counts: Sequence[int], colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(hosts),
        "x": list(counts),
        "marker": {"color": colour},
        "hovertemplate": f"%{{y}}: %{{x:,}} {name}<extra></extra>",
    }


def _sides(material: Material) -> Figure:
    sides = material.shapes.sides
    classes = range(min(sides), max(sides) + 1)
    labels = ["{} to {}".format(*side_edges(number)) for number in classes]
    return _histogram(
        "sides", "Sizes", labels, [sides[number] for number in classes], "square root of the area, in pixels"
    )


def _aspects(material: Material) -> Figure:
    aspects = material.shapes.aspects
    classes = range(min(aspects), max(aspects) + 1)
    labels = [f"{aspect_centre(number):.2f}" for number in classes]
    return _histogram(
        "aspects", "Aspect ratios", labels, [aspects[number] for number in classes], "width ÷ height"
    )


def _seconds(counts: Sequence[int]) -> Figure:
    edges = [f"≤ {edge:g}" for edge in SECONDS_EDGES]
    last = f"> {SECONDS_EDGES[-1]:g}"
    return _histogram(
        "seconds", "Request durations", [*edges, last], list(counts), "seconds, in the latest run"
    )


def _histogram(name: str, title: str, labels: list[str], counts: list[int], axis: str) -> Figure:
    bars = {
        "type": "bar",
        "x": labels,
        "y": counts,
        "marker": {"color": "@accent"},
        "hovertemplate": "%{x}: %{y:,}<extra></extra>",
    }
    return _figure(
        name,
        title,
        [bars],
        xaxis={"type": "category", "title": {"text": axis}},
        yaxis={"title": {"text": "images" if name != "seconds" else "requests"}},
        bargap=0.08,
        showlegend=False,
    )


def _resources(lines: Sequence[dict[str, Any]]) -> Figure:
    """Return the processor and memory use of each worker over time."""
    numbers = sorted({worker["worker"] for line in lines for worker in line["workers"]})
    data = []
    for number in numbers:
        points = [
            (line["elapsed_s"], worker)
            for line in lines
            for worker in line["workers"]
            if worker["worker"] == number
        ]
        data.append(
            {
                "type": "scatter",
                "mode": _mode(points),
                "name": f"worker {number}",
                "x": [time for time, _ in points],
                "y": [worker["memory_bytes"] / 1e6 for _, worker in points],
                "customdata": [
                    f"{human_bytes(worker['memory_bytes'])}, {worker['cpu_s']:.1f} CPU-seconds, "
                    f"{worker['open_files']} open files"
                    for _, worker in points
                ],
                "hovertemplate": "%{customdata}",
            }
        )
    return _figure(
        "resources",
        "Memory of the workers",
        data,
        "hover for CPU time and open files",
        xaxis={"title": {"text": "seconds since the start"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "MB"}, "rangemode": "tozero"},
        hovermode="x unified",
        showlegend=len(numbers) <= 16,
        legend={"orientation": "h", "y": 1.12, "x": 0},
    )
