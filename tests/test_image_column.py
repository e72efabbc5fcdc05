"""Images in a column: datasets that are made again from what they hold, without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import turbo_fetch
from album import album, encoded
from jobs import job_spec, ledger, write_list
from origin import Origin
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.monitor.view.pairs import Pairs
from turbo_fetch.sources.columns import ImageColumn
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import parse_spec

ALBUM = [*album(40, side=40).values()]


def column_spec(urls: Path, output: Path, /, **tables: dict[str, Any]) -> Spec:
    fetch: dict[str, dict[str, Any]] = {
        "input": {"urls": str(urls), "image_column": "image"},
        "image": {"encode": "original"},
        "output": {"path": str(output), "format": "parquet", "samples_per_shard": 16},
    }
    for name, table in tables.items():
        fetch[name] = {**fetch.get(name, {}), **table}
    return parse_spec({"fetch": fetch, "engine": {"threads": 1}})


def samples(output: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(output.glob("[0-9]*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_dataset_of_hugging_face_is_processed_again(tmp_path: Path) -> None:
    """Written by their library, with captions and no URLs, and an image that is missing."""
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    images = [{"bytes": body, "path": None} for body in ALBUM]
    images[7] = None  # type: ignore[call-overload]
    texts = [f"caption {number}" for number in range(len(images))]
    table = datasets.Dataset.from_dict({"image": images, "text": texts}, features=features)
    table.to_parquet(tmp_path / "train.parquet", batch_size=13)
    table.save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    for number, source in enumerate((tmp_path / "train.parquet", arrow)):
        out = tmp_path / str(number)
        turbo_fetch.run(column_spec(source, out, input={"caption_column": "text"}))
        found = samples(out)
        assert [row["caption"] for row in found] == texts
        assert found[7]["error_message"] == "no image in the column"
        assert {row["outcome"] for row in ledger(out)} == {"success", "not-found"}
        del found[7]
        expected = [*ALBUM[:7], *ALBUM[8:]]
        assert [row["image"]["bytes"] for row in found] == expected
        assert [row["sha256"] for row in found] == [hashlib.sha256(body).hexdigest() for body in expected]
        assert found[0]["url"] == f"{source}#0"
    again = datasets.load_dataset("parquet", data_files=str(tmp_path / "0" / "*.parquet"), split="train")
    assert isinstance(again[0]["image"], Image.Image)


def test_a_smaller_size_made_of_a_dataset_has_its_keys_and_captions(tmp_path: Path) -> None:
    with Origin(album(20, side=200)) as origin:
        names = [f"{number:05d}.jpg" for number in range(20)]
        rows = [origin.url(name) for name in [*names[:3], "gone.jpg", *names[3:]]]
        urls = write_list(tmp_path / "list.parquet", rows)
        output = {"format": "parquet", "samples_per_shard": 8}
        turbo_fetch.run(job_spec(urls, tmp_path / "large", image={"size": 128}, output=output))
        hits = origin.hits.total()
        listed = {"urls": str(tmp_path / "large" / "*.parquet"), "caption_column": "caption"}
        image = {"size": 64, "encode": "jpg"}
        output = {"format": "webdataset", "samples_per_shard": 8}
        turbo_fetch.run(column_spec(tmp_path, tmp_path / "small", input=listed, image=image, output=output))
        assert origin.hits.total() == hits
    large, made = (open_dataset(str(tmp_path / place)).metadata() for place in ("large", "small"))
    for column in ("key", "url", "caption"):
        assert made[column].to_pylist() == large[column].to_pylist()
    assert [row["outcome"] for row in ledger(tmp_path / "small")].count("not-found") == 1
    pairs = Pairs(open_dataset(str(tmp_path / "large")), open_dataset(str(tmp_path / "small")), "key")
    assert pairs.summary["counts"] == {"all": 21, "outcome": 1, "size": 20, "left": 0, "right": 0}


def test_what_was_fetched_is_resized_and_filtered_without_a_network(tmp_path: Path) -> None:
    list_of_images = tmp_path / "first.parquet"
    columns: dict[str, Iterable[object]] = {
        "url": [f"http://nowhere.invalid/{n}.jpg" for n in range(40)],
        "image": ALBUM,
        "score": range(40),
    }
    pq.write_table(
        pa.table({name: list(values) for name, values in columns.items()}), list_of_images, row_group_size=7
    )
    rows = {"where": "score >= 5", "sample": 0.5, "seed": 3, "keep_columns": ["score"]}
    changes: dict[str, dict[str, Any]] = {"image": {"encode": "png", "size": 16}, "input": rows}
    turbo_fetch.run(column_spec(list_of_images, tmp_path / "out", **changes))
    found = samples(tmp_path / "out")
    assert 5 < len(found) < 30
    assert min(row["score"] for row in found) >= 5
    for row in found:
        assert row["url"] == f"http://nowhere.invalid/{row['score']}.jpg"
        assert row["sha256"] == hashlib.sha256(ALBUM[row["score"]]).hexdigest()
        assert (row["width"], row["height"]) == (16, 16)


def test_one_bad_image_fails_alone(tmp_path: Path) -> None:
    images = [encoded(40, 40, 1), b"no image", b"\0" * 2_000_000, b"", encoded(40, 40, 2)]
    pq.write_table(pa.table({"image": images}), tmp_path / "list.parquet")
    turbo_fetch.run(column_spec(tmp_path / "list.parquet", tmp_path / "out", http={"max_body_mb": 1}))
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == [
        "success", "not-an-image", "too-large", "not-an-image", "success",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (
            {"picture": [b"x"]},
            {},
            "there is no column 'image'; did you mean|there is no column 'image'. Columns",
        ),
        ({"image": ["x"]}, {}, "is of type string; expected images as binary"),
        ({"image": [b"x"]}, {"url_column": "link"}, "there is no column 'link'"),
    ],
)
def test_a_column_that_is_none_of_images_is_refused(
    tmp_path: Path, table: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=message):
        turbo_fetch.run(column_spec(tmp_path / "list.parquet", tmp_path / "out", input=changes))


def test_lists_of_text_hold_no_images(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,image\nhttp://a.example/,x\n")
    with pytest.raises(InputError, match="for Parquet and Arrow files, and this is csv"):
        turbo_fetch.run(column_spec(tmp_path / "list.csv", tmp_path / "out"))
    with pytest.raises(SpecError, match="asks no hosts"):
        column_spec(tmp_path / "list.csv", tmp_path / "out", input={"order": "spread"})


def test_a_column_of_text_is_no_place_of_images(tmp_path: Path) -> None:
    """The same list as a list of URLs is still that."""
    urls = write_list(tmp_path / "list.parquet", ["http://a.invalid/"])
    with pytest.raises(InputError, match="no column 'image'"):
        turbo_fetch.run(column_spec(urls, tmp_path / "out"))


@given(
    st.integers(1, 60),
    st.integers(1, 20),
    st.lists(st.sets(st.integers(0, 59), min_size=1), min_size=1, max_size=4),
    st.sampled_from(["parquet", "arrow"]),
)
def test_every_row_has_its_own_image_in_whatever_order_parts_are_read(
    rows: int, group: int, parts: list[set[int]], kind: str
) -> None:
    import tempfile

    values = [None if row % 7 == 3 else bytes([row]) * row for row in range(rows)]
    table = pa.table({"other": list(range(rows)), "a.b": pa.array(values, pa.large_binary())})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"list.{kind}"
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=group)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=group)
        column = ImageColumn("a.b")
        for part in parts:
            wanted = sorted(row for row in part if row < rows)
            if wanted:
                found = [each for piece in column.images(str(path), wanted) for each in piece]
                images = [(number, None if image is None else bytes(image)) for number, image in found]
                assert images == [(row, values[row]) for row in wanted]
        column.close()
