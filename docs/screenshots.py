"""Makes the images of docs/monitoring.md from the dataset of `make demo`: `python docs/screenshots.py`."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
DATASET = ROOT / ".cache" / "demo" / "dataset"
OTHER = DATASET.with_name("small")
IMAGES = ROOT / "docs" / "images"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]

WITHOUT_ROOT = """
(root) => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(root, "");
}
"""
"""Shows paths as they are in any clone of the repository."""


def main() -> None:
    """Take all images."""
    IMAGES.mkdir(exist_ok=True)
    prepare()
    report = (DATASET / "report.html").as_uri()
    with (
        viewed(DATASET) as one,
        viewed(DATASET, OTHER) as two,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for name, url, scheme, ready in (
            ("report", report, "light", "#plot-hosts .barlayer path"),
            ("report-dark", report, "dark", "#plot-hosts .barlayer path"),
            ("view", one, "light", ".row img"),
            ("comparison", f"{two}?by=key", "light", ".row img"),
        ):
            page = chromium.new_page(
                color_scheme="dark" if scheme == "dark" else "light", viewport={"width": 1280, "height": 860}
            )
            page.goto(url)
            page.wait_for_selector(ready, state="attached")
            page.wait_for_load_state("networkidle")
            page.evaluate(WITHOUT_ROOT, f"{ROOT}/")
            save(page, name)
        chromium.close()


def prepare() -> None:
    """Write the report anew, and make the images of the demo once more, smaller, as docs/reprocessing.md shows."""
    folder = OTHER.with_name("parquet")
    command = [sys.executable, "-m", "turbo_fetch"]
    subprocess.run([*command, "report", str(DATASET)], check=True)
    subprocess.run([*command, "export", str(DATASET), str(folder), "--format", "parquet"], check=True)
    spec = f"""
[fetch.input]
urls = "{folder}/*.parquet"
image_column = "image"
caption_column = "caption"
[fetch.image]
size = 160
[fetch.output]
path = "{OTHER}"
samples_per_shard = 500
if_exists = "overwrite"
"""
    OTHER.with_suffix(".toml").write_text(spec)
    subprocess.run([*command, "run", str(OTHER.with_suffix(".toml")), "--quiet"], check=True)


@contextmanager
def viewed(*datasets: Path) -> Iterator[str]:
    """Serve the viewer and yield its address."""
    command = [sys.executable, "-m", "turbo_fetch", "view", *map(str, datasets), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
        assert viewer.stdout is not None
        yield viewer.stdout.readline().split()[0]
        viewer.terminate()


def save(page: Page, name: str) -> None:
    """Save what the page shows as a small WebP."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(IMAGES / f"{name}.webp", quality=72, method=6)


if __name__ == "__main__":
    main()
