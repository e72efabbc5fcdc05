"""Makes the images of docs/monitoring.md from the dataset of `make demo`: `python docs/screenshots.py`."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
DATASET = ROOT / ".cache" / "demo" / "dataset"
IMAGES = ROOT / "docs" / "images"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


def main() -> None:
    """Take all images."""
    IMAGES.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "turbo_fetch", "view", str(DATASET), "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer,
        sync_playwright() as playwright,
    ):
        assert viewer.stdout is not None
        address = viewer.stdout.readline().split()[0]
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        report = (DATASET / "report.html").as_uri()
        for name, url, scheme, ready in (
            ("report", report, "light", "#plot-hosts .barlayer path"),
            ("report-dark", report, "dark", "#plot-hosts .barlayer path"),
            ("view", address, "light", ".row img"),
        ):
            page = chromium.new_page(
                color_scheme="dark" if scheme == "dark" else "light", viewport={"width": 1280, "height": 860}
            )
            page.goto(url)
            page.wait_for_selector(ready, state="attached")
            page.wait_for_load_state("networkidle")
            save(page, name)
        chromium.close()
        viewer.terminate()


def save(page: Page, name: str) -> None:
    """Save what the page shows as a small WebP."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(IMAGES / f"{name}.webp", quality=72, method=6)


if __name__ == "__main__":
    main()
