"""Near-duplicates by embedding: what going through the rows one by one gives, whatever the blocks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import turbo_fetch
from album import encoded, pixels
from jobs import job_spec, ledger, write_list
from origin import Origin
from scoring import written
from turbo_fetch.duplicates import alike as module
from turbo_fetch.duplicates.alike import alike
from turbo_fetch.errors import SpecError
from turbo_fetch.progress.listener import ProgressListener

COLOURS = """
    import numpy as np
    import turbo_fetch

    def colours(batch):
        images = turbo_fetch.pixels(batch)
        return {"look": np.array([image.reshape(-1, 3)[::97].ravel()[:96] - 128.0 for image in images])}
"""


def _one_by_one(vectors: npt.NDArray[np.float32], least: float) -> dict[int, int]:
    stays: list[int] = []
    found = {}
    for row, vector in enumerate(vectors):
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or length == 0:
            continue
        for other in stays:
            if float(vector @ vectors[other]) / (length * np.linalg.norm(vectors[other])) >= least:
                found[row] = other
                break
        else:
            stays.append(row)
    return found


@given(
    st.integers(0, 60), st.integers(1, 4), st.integers(1, 9), st.integers(1, 13), st.integers(0, 2**32 - 1)
)
def test_pairs_are_those_of_going_through_the_rows(
    rows: int, length: int, block: int, batch: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    # Few directions, so that many are alike, and none is at the limit; some have no direction.
    directions = generator.integers(-3, 4, (8, length)).astype(np.float32)
    scales = generator.integers(1, 9, rows).astype(np.float32)
    vectors = directions[generator.integers(0, 8, rows)] * scales[:, None]
    vectors[generator.random(rows) < 0.05] = np.nan
    places = np.arange(rows, dtype=np.uint64) * 3 + 7
    batches = [(places[at : at + batch], vectors[at : at + batch]) for at in range(0, rows, batch)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        pairs = alike(batches, 0.9999)
    expected = _one_by_one(vectors, 0.9999)
    assert pairs.tolist() == [[row * 3 + 7, original * 3 + 7] for row, original in expected.items()]


@pytest.fixture
def origin() -> Iterator[Origin]:
    # Six images, each as it is, at another quality, and mirrored, which is another look.
    files = {}
    for seed in range(6):
        files[f"{seed}-a.jpg"] = encoded(64, 64, seed, quality=95)
        files[f"{seed}-b.jpg"] = encoded(64, 64, seed, quality=70)
        mirrored = io.BytesIO()
        Image.fromarray(pixels(64, 64, seed)[:, ::-1]).save(mirrored, "JPEG", quality=95)
        files[f"{seed}-c.jpg"] = mirrored.getvalue()
    with Origin(files) as origin:
        yield origin


def test_images_that_a_model_finds_alike_are_dropped_and_counted(origin: Origin, tmp_path: Path) -> None:
    names = [f"{seed}-{kind}.jpg" for kind in "abc" for seed in range(6)]
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in names])
    spec = job_spec(
        urls,
        tmp_path / "out",
        score={
            "function": f"{written(tmp_path, COLOURS)}:colours",
            "columns": {"look": "float16[96]"},
        },
        duplicates={"by": ["embedding"], "embedding_column": "look", "min_similarity": 0.97},
        output={"samples_per_shard": 5},
    )
    summary = turbo_fetch.run(spec, ProgressListener()).fetch
    rows = ledger(tmp_path / "out")
    assert [row["outcome"] for row in rows] == ["success"] * 6 + ["duplicate"] * 6 + ["success"] * 6
    assert [row["detail"] for row in rows[6:12]] == [f"duplicate of {row['key']}" for row in rows[:6]]
    assert summary.outcomes["duplicate"] == 6
    assert pq.read_schema(tmp_path / "out" / "00000.parquet").field("look").type.list_size == 96


def test_a_column_that_holds_no_embeddings_is_refused(tmp_path: Path) -> None:
    score = {"function": "scores.py:f", "columns": {"beauty": "float32"}}
    with pytest.raises(SpecError, match=r"embedding_column is 'beauty'; expected a list in score\.columns"):
        job_spec(
            tmp_path / "list.parquet",
            tmp_path / "out",
            score=score,
            duplicates={"by": ["embedding"], "embedding_column": "beauty"},
        )
