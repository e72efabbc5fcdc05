"""A real browser, headless, that reports what goes wrong on a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium")
"""Without it, Chrome where its installer puts it."""
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(slots=True)
class Tab:
    """A page with the errors that it had and the requests that it made."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def browse(url: str, scheme: str = "light", width: int = 1280, height: int = 800) -> Iterator[Tab]:
    """Open `url` in a new tab of a new browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, channel=None if CHROMIUM else "chrome", args=FLAGS
        )
        try:
            page = chromium.new_page(
                color_scheme="dark" if scheme == "dark" else "light",
                viewport={"width": width, "height": height},
            )
            tab = Tab(page)
            page.on("pageerror", lambda error: tab.errors.append(str(error)))
            page.on("console", lambda line: tab.errors.append(line.text) if line.type == "error" else None)
            page.on("request", lambda request: tab.requests.append(request.url))
            page.goto(url)
            yield tab
        finally:
            chromium.close()
