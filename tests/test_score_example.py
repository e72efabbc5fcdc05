"""The example with a small pretrained model does what its first lines say."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

import turbo_fetch
from jobs import job_spec, ledger, write_list
from origin import Origin
from turbo_fetch.progress.listener import ProgressListener

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "scores.py"
COLUMNS = {"sharpness": "float32", "brightness": "float32", "embedding": "float16[1280]"}


PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def _jpeg(name: str, quality: int = 95, blur: float = 0.0) -> bytes:
    image = Image.fromarray(getattr(skimage.data, name)())
    file = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(blur)).save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture
def origin() -> Iterator[Origin]:
    files = {f"{name}.jpg": _jpeg(name) for name in PHOTOS}
    files |= {f"{name}-again.jpg": _jpeg(name, quality=85) for name in PHOTOS[:2]}
    files |= {f"{name}-blurred.jpg": _jpeg(name, blur=12) for name in PHOTOS[:2]}
    with Origin(files) as origin:
        yield origin


def test_blurred_and_repeated_images_are_found(origin: Origin, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    names = [*PHOTOS, *(f"{name}-{how}" for how in ("again", "blurred") for name in PHOTOS[:2])]
    urls = write_list(tmp_path / "list.parquet", [origin.url(f"{name}.jpg") for name in names])
    spec = job_spec(
        urls,
        tmp_path / "out",
        image={"size": 224, "encode": "png"},
        score={"function": f"{EXAMPLE}:Looks", "columns": COLUMNS, "where": "sharpness >= 50"},
        duplicates={"by": ["embedding"], "embedding_column": "embedding", "min_similarity": 0.95},
    )
    turbo_fetch.run(spec, ProgressListener())
    outcomes = [row["outcome"] for row in ledger(tmp_path / "out")]
    assert outcomes == ["success"] * 4 + ["duplicate"] * 2 + ["filtered"] * 2
    for sample in turbo_fetch.open_dataset(str(tmp_path / "out")).samples():
        grey = np.asarray(Image.open(io.BytesIO(sample.image)).convert("L"), float)
        assert sample.metadata["brightness"] == pytest.approx(grey.mean(), abs=1)
        # OpenCV's Laplacian of aperture 1, with mirrored edges.
        padded = np.pad(grey, 1, mode="reflect")
        laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
        assert sample.metadata["sharpness"] == pytest.approx(laplacian.var(), rel=0.02)
        assert len(sample.metadata["embedding"]) == 1280
