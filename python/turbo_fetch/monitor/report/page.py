"""From material to the HTML of a report. Everything from outside is escaped; scripts run by nonce only."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from urllib.parse import urlsplit

from turbo_fetch.monitor.records import Line
from turbo_fetch.monitor.report.document import Page, asset, card, fill, plot_box, signature
from turbo_fetch.monitor.report.figures import figures
from turbo_fetch.monitor.report.material import Failed, Material, Shown
from turbo_fetch.monitor.report.remedies import remedies
from turbo_fetch.outcomes import BY_LABEL, MEANINGS, Outcome
from turbo_fetch.plan.list_notes import sentences
from turbo_fetch.progress.summary import counted, human_bytes, human_time


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
        "outcomes": _outcomes(material),
        "failures": _failures(material.failures),
        "runs": _runs(material.runs),
        "spec": _spec(material.spec),
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
    yield card("dataset", human_bytes(summary.dataset_bytes), f"in {counted(summary.shards, 'shard')}")
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


def _outcomes(material: Material) -> str:
    """Return one bar of successes and failures, and a line for each way to fail, on the scale of the most frequent."""
    summary = material.summary
    found = [(BY_LABEL[label], count) for label, count in summary.outcomes.most_common() if label in BY_LABEL]
    failed = [(outcome, count) for outcome, count in found if outcome is not Outcome.SUCCESS]
    share = _percent(summary.successes, summary.rows)
    good = _length("good", summary.successes, summary.rows)
    bar = f'<div class="bar" role="img" aria-label="{share} success">{good}</div>'
    text = f"<p>{summary.successes:,} of {summary.rows:,} rows became samples ({share}).</p>"
    most = max((count for _, count in failed), default=1)
    lines = (
        (
            f'<span class="tag">{outcome.label}</span>',
            f"{count:,}",
            f'{_percent(count, summary.rows)}<div class="bar thin">{_length("bad", count, most)}</div>',
            _with_code(MEANINGS[outcome]),
            "<br>".join(f"<code>{escape(each)}</code>" for each in remedies(outcome, summary.path)),
        )
        for outcome, count in failed
    )
    return bar + text + _table(("outcome", "rows", "share", "meaning", "what may change it"), lines)


def _length(kind: str, part: int, whole: int) -> str:
    # Even one row in a billion is to be seen.
    shown = max(100 * part / max(whole, 1), 0.4 if part else 0.0)
    return f'<span class="{kind}" style="width:{shown:.2f}%"></span>'


def _percent(part: int, whole: int) -> str:
    share = part / max(whole, 1)
    if part < whole and share > 0.999:
        return f"{math.floor(share * 1e5) / 1e3:.3f}%"
    return f"{share:.1%}" if share >= 0.01 or not part else f"{share * 100:.2g}%"


def _with_code(text: str) -> str:
    """Return text as HTML in which what stands between backquotes is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _failures(failures: list[Failed]) -> str:
    if not failures:
        return "<p>No row failed in the shards that were sampled.</p>"
    lines = (
        (
            f'<span class="tag">{escape(failure.outcome)}</span>',
            escape(failure.detail),
            str(failure.attempts),
            f'<span class="url">{_link(failure.url, escape(failure.url))}</span>',
        )
        for failure in failures
    )
    return _table(("outcome", "reason", "attempts", "URL"), lines)


def _runs(runs: list[list[Line]]) -> str:
    """Return every run into the dataset: when it began, how long it took, what it did and how it ended."""
    lines = [_run(run) for run in runs if run[0]["kind"] == "start"]
    if not lines:
        return ""
    head = ("began (UTC)", "took", "rows", "received", "ended", "version")
    return f'<section class="box"><h2>Runs</h2>{_table(head, lines)}</section>\n'


def _run(run: list[Line]) -> tuple[str, ...]:
    start, end = run[0], run[-1]
    last = next((line for line in reversed(run) if line["kind"] == "progress"), {})
    how = end.get("how", "") if end["kind"] == "end" else "killed, or still going on"
    return (
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(start["time"])),
        human_time(end["time"] - start["time"]),
        f"{last.get('rows', 0):,}",
        human_bytes(last.get("bytes", 0)),
        escape(str(how)),
        escape(str(start.get("version", ""))),
    )


def _spec(spec: str) -> str:
    if not spec:
        return ""
    return (
        '<section class="box"><details><summary><h2>Spec <span class="note">as the latest run had it</span></h2>'
        f"</summary><pre>{escape(spec)}</pre></details></section>\n"
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML; on a phone, each cell is a line with its name before it."""
    rows = [
        "".join(
            f'<td data-name="{name}"><div>{cell}</div></td>' for name, cell in zip(head, line, strict=True)
        )
        for line in lines
    ]
    if not rows:
        return ""
    names = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table class="stacked"><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>'


def _link(url: str, inner: str) -> str:
    if not is_web_link(url):
        return inner
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer nofollow">{inner}</a>'
