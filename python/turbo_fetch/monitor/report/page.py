"""From material to the HTML of a report. Everything from outside is escaped; scripts run by nonce only."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from turbo_fetch import __version__
from turbo_fetch.errors import TurboFetchError
from turbo_fetch.monitor.report.figures import Figure, figures
from turbo_fetch.monitor.report.material import Failed, Material, Shown
from turbo_fetch.summary import human_bytes, human_time


def render(material: Material) -> bytes:
    """Return the page as UTF-8 HTML."""
    plots = list(figures(material))
    name = material.summary.path.rstrip("/").rpartition("/")[2]
    filled = {
        "title": escape(name),
        "path": escape(material.summary.path),
        "subtitle": escape(_subtitle()),
        "cards": "".join(_cards(material)),
        "plots": "".join(_plot_box(plot) for plot in plots),
        "samples": "".join(map(_sample, material.samples)) or "<p>There are no pictures to show.</p>",
        "failures": _failures(material.failures),
        "nonce": secrets.token_urlsafe(16),
    }
    inlined = {
        "css": asset("report.css"),
        "plotly": plotly_script(),
        "figures": script_json(plots),
        "script": asset("report.js"),
    }
    return _fill(asset("report.html"), inlined | {key: text.encode() for key, text in filled.items()})


def _fill(template: bytes, values: Mapping[str, bytes]) -> bytes:
    """Put values in the places of a template; what looks like a place within a value is left alone."""
    parts = re.split(rb"\{\{(\w+)\}\}", template)
    return b"".join(values[part.decode()] if number % 2 else part for number, part in enumerate(parts))


@cache
def asset(name: str) -> bytes:
    """Return a file that lies beside this module."""
    return files(__package__).joinpath(name).read_bytes()


def plotly_script() -> bytes:
    """Return plotly's JavaScript, read from the installed package without importing it."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise TurboFetchError("the package plotly is not installed; install turbo-fetch again")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()


def script_json(value: object) -> bytes:
    """Return JSON that may stand inside of a script element: nothing in it can end the element."""
    return orjson.dumps(value).replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def is_web_link(url: str) -> bool:
    """Return whether an address may become a link: of http or https, never of javascript or data."""
    try:
        return urlsplit(url).scheme.lower() in {"http", "https"}
    except ValueError:
        return False


def _subtitle() -> str:
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"turbo-fetch {__version__}, {written}"


def _cards(material: Material) -> Iterator[str]:
    summary = material.summary
    share = summary.successes / summary.rows if summary.rows else 0.0
    yield _card("samples", f"{summary.successes:,}", f"of {summary.rows:,} rows")
    yield _card("success", f"{share:.1%}", f"{summary.rows - summary.successes:,} failed")
    yield _card("dataset", human_bytes(summary.dataset_bytes), f"in {summary.shards:,} shards")
    yield _card("received", human_bytes(material.body_bytes), "bodies of all rows")
    if material.progress:
        last = material.progress[-1]
        rate = last["rows"] / max(last["elapsed_s"], 1e-9)
        yield _card("latest run", human_time(last["elapsed_s"]), f"{last['rows']:,} rows, {rate:,.0f} rows/s")


def _card(name: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><div class="name">{name}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
    )


def _plot_box(plot: Figure) -> str:
    wide = " wide" if plot["id"] in {"throughput"} else ""
    note = f' <span class="note">{escape(plot["note"])}</span>' if plot["note"] else ""
    return (
        f'<section class="box{wide}"><h2>{escape(plot["title"])}{note}</h2>'
        f'<div class="plot" id="plot-{plot["id"]}"></div></section>'
    )


def _sample(sample: Shown) -> str:
    caption = escape(sample.caption)
    picture = (
        f'<img src="{sample.picture}" alt="{caption}">'
        if sample.picture
        else '<div class="missing">cannot be shown</div>'
    )
    facts = f"{escape(sample.key)} · {escape(sample.size)}"
    return (
        f'<figure title="{escape(sample.url)}">{_link(sample.url, picture)}'
        f'<figcaption><span class="caption">{caption or "no caption"}</span><span class="note">{facts}</span>'
        "</figcaption></figure>"
    )


def _failures(failures: list[Failed]) -> str:
    if not failures:
        return "<p>No row failed in the shards that were looked into.</p>"
    rows = "".join(
        f'<tr><td><span class="tag">{escape(failure.outcome)}</span></td><td>{escape(failure.detail)}</td>'
        f'<td class="number">{failure.attempts}</td>'
        f'<td class="url" title="{escape(failure.url)}">{_link(failure.url, escape(failure.url))}</td></tr>'
        for failure in failures
    )
    return (
        "<table><thead><tr><th>outcome</th><th>reason</th><th>attempts</th><th>URL</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _link(url: str, inner: str) -> str:
    if not is_web_link(url):
        return inner
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer nofollow">{inner}</a>'
