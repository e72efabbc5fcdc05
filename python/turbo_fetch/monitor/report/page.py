"""From material to the HTML of a report. Everything from outside is escaped; scripts run by nonce only."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from urllib.parse import urlsplit

from turbo_fetch.monitor.report.document import Page, asset, card, fill, plot_box, signature
from turbo_fetch.monitor.report.figures import figures
from turbo_fetch.monitor.report.material import Failed, Material, Shown
from turbo_fetch.plan.list_notes import sentences
from turbo_fetch.progress.summary import human_bytes, human_time


def render(material: Material) -> bytes:
    """Return the page as UTF-8 HTML."""
    plots = list(figures(material))
    name = material.summary.path.rstrip("/").rpartition("/")[2]
    texts = {
        "causes": _causes(material.summary.causes),
        "cards": "".join(_cards(material)),
        "plots": "".join(plot_box(plot, plot["id"] == "throughput") for plot in plots),
        "samples": "".join(map(_sample, material.samples)) or "<p>There are no images to show.</p>",
        "list": _list_notes(sentences(material.summary.list_notes.counts)),
        "failures": _failures(material.failures),
    }
    main = fill(asset("report.html"), {key: text.encode() for key, text in texts.items()})
    return Page(name, "report", f"{material.summary.path} · {signature()}", main, plots).render()


def is_web_link(url: str) -> bool:
    """Return whether an address may become a link: of http or https, never of javascript or data."""
    try:
        return urlsplit(url).scheme.lower() in {"http", "https"}
    except ValueError:
        return False


def _causes(causes: list[str]) -> str:
    """Return why many rows failed, if there is a reason."""
    if not causes:
        return ""
    lines = "".join(f"<p>{escape(cause[0].upper() + cause[1:])}.</p>" for cause in causes)
    return f'<section class="box causes"><h2>Why rows failed</h2>{lines}</section>'


def _cards(material: Material) -> Iterator[str]:
    summary = material.summary
    share = summary.successes / summary.rows if summary.rows else 0.0
    yield card("samples", f"{summary.successes:,}", f"of {summary.rows:,} rows")
    yield card("success", f"{share:.1%}", f"{summary.rows - summary.successes:,} failed")
    yield card("dataset", human_bytes(summary.dataset_bytes), f"in {summary.shards:,} shards")
    yield card("received", human_bytes(material.body_bytes), "bodies of all rows")
    if material.latest:
        last = material.latest[-1]
        rate = last["rows"] / max(last["elapsed_s"], 1e-9)
        yield card("latest run", human_time(last["elapsed_s"]), f"{last['rows']:,} rows, {rate:,.0f} rows/s")


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


def _list_notes(notes: list[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    heading = '<h2>List <span class="note">malformed rows</span></h2>'
    return f'<section class="box">{heading}<ul>{items}</ul></section>\n' if notes else ""


def _failures(failures: list[Failed]) -> str:
    if not failures:
        return "<p>No row failed in the shards that were sampled.</p>"
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
