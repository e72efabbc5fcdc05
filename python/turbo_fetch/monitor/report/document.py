"""What pages that need no network are made of: their parts, plotly and figures, all inside of one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from turbo_fetch.errors import TurboFetchError


def fill(template: bytes, values: Mapping[str, bytes]) -> bytes:
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
