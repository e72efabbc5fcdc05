"""What pages that need no network are made of: their parts, plotly and figures, all inside of one file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import orjson

from turbo_fetch import __version__
from turbo_fetch.errors import TurboFetchError


def fill(template: bytes, values: Mapping[str, bytes]) -> bytes:
    """Put values in the places of a template; what looks like a place within a value is left alone."""
    parts = re.split(rb"\{\{(\w+)\}\}", template)
    return b"".join(values[part.decode()] if number % 2 else part for number, part in enumerate(parts))


@cache
def asset(name: str, package: str = __package__) -> bytes:
    """Return a file that lies beside the modules of a package."""
    return files(package).joinpath(name).read_bytes()


@dataclass(frozen=True, slots=True)
class Page:
    """A page with a theme to switch, and figures in the boxes of its `main`."""

    title: str
    kind: str
    """What it is, for the title of the window."""
    note: str
    """Line below the title."""
    main: bytes
    """HTML of what is below the header."""
    figures: Sequence[Mapping[str, Any]]
    css: bytes = b""
    script: bytes = b""

    def render(self) -> bytes:
        """Return the page as UTF-8 HTML. Its scripts run by nonce only."""
        texts = {"title": self.title, "kind": self.kind, "note": self.note, "nonce": token_urlsafe(16)}
        parts = {
            "main": self.main,
            "css": asset("report.css") + self.css,
            "plotly": plotly_script(),
            "figures": script_json(self.figures),
            "script": asset("report.js") + self.script,
        }
        return fill(
            asset("document.html"), parts | {name: escape(text).encode() for name, text in texts.items()}
        )


def signature() -> str:
    """Return what made a page, and when."""
    return f"turbo-fetch {__version__}, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}"


def plotly_script() -> bytes:
    """Return plotly's JavaScript, read from the installed package without importing it."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise TurboFetchError("the package plotly is not installed; reinstall turbo-fetch")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()


def script_json(value: object) -> bytes:
    """Return JSON that may stand inside of a script element: nothing in it can end the element."""
    return orjson.dumps(value).replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def card(name: str, value: str, note: str) -> str:
    """Return a box with one figure in large type."""
    return (
        f'<div class="card"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
    )


def plot_box(plot: Mapping[str, Any], wide: bool = False) -> str:
    """Return the box into which `report.js` draws a figure."""
    note = f' <span class="note">{escape(plot["note"])}</span>' if plot["note"] else ""
    return (
        f'<section class="box{" wide" if wide else ""}"><h2>{escape(plot["title"])}{note}</h2>'
        f'<div class="plot" id="plot-{plot["id"]}"></div></section>'
    )
