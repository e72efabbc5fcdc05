"""A real browser, headless, that reports what goes wrong on a page."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import processes
from processes import PATIENCE_S

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
            page.set_default_timeout(1000 * PATIENCE_S)
            tab = Tab(page)
            page.on("pageerror", lambda error: tab.errors.append(str(error)))
            page.on("console", lambda line: tab.errors.append(line.text) if line.type == "error" else None)
            page.on("request", lambda request: tab.requests.append(request.url))
            page.goto(url)
            yield tab
        finally:
            chromium.close()


@contextmanager
def viewed(*places: Path) -> Iterator[str]:
    """Serve `turbo-fetch view` of one dataset, or of two; yield its address."""
    command = [sys.executable, "-m", "turbo_fetch", "view", *map(str, places), "--port", "0"]
    with processes.started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0


LOW_CONTRAST = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const layer = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = layer(getComputedStyle(each).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!says || element.closest("script, style, svg, option") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [high, low] = [luminance(layer(style.color)), luminance(behind(element))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
  }
  return found;
}
"""
"""Elements whose text has less contrast than WCAG 2.2 asks for at level AA (success criterion 1.4.3)."""

SPILT = """
() => {
  const width = document.documentElement.clientWidth;
  const clips = (element) =>
    element && (getComputedStyle(element).overflowX !== "visible" || clips(element.parentElement));
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && !element.closest("svg"))
    .filter((element) => element.getBoundingClientRect().right > width + 1 && !clips(element.parentElement))
    .map((element) => element.outerHTML.slice(0, 120));
}
"""
"""Elements that stick out of the window on the right, unless what is around them scrolls or cuts them."""

SQUEEZED = """
() => [...document.querySelectorAll("body *")]
  .filter((element) => element.checkVisibility() && !element.children.length && element.textContent.trim())
  .filter((element) => element.offsetWidth < 60)
  .filter((element) => element.offsetHeight > 3.5 * parseFloat(getComputedStyle(element).fontSize))
  .map((element) => `squeezed ${element.outerHTML.slice(0, 120)}`)
"""
"""Elements so narrow that their text is a column of letters."""


def faults_of_sight(page: Page) -> list[str]:
    """Return what is hard to see on a page as it is now: text of low contrast, cut off or squeezed."""
    return [fault for check in (LOW_CONTRAST, SPILT, SQUEEZED) for fault in page.evaluate(check)]
