"""Datasets whose samples have images in several sizes: made, read, looked after, in every format."""

from __future__ import annotations

import io
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import datasets
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from typer.testing import CliRunner

import turbo_fetch
from album import album, encoded
from browser import browse, viewed
from jobs import content_hashes, job_spec, ledger, start, wait_for_hits, write_list
from origin import Origin
from processes import finished
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.formats.tfrecord import decode_example, read_records
from turbo_fetch.dataset.reader import Sample, open_dataset
from turbo_fetch.errors import InputError, OutputExists
from turbo_fetch.monitor.view.images import Images
from turbo_fetch.monitor.view.rows import Cursor
from turbo_fetch.spec import OutputFormat

ALBUM = {**album(27, side=200), "a.png": encoded(90, 70, 40, "PNG"), "b.tif": encoded(90, 70, 41, "TIFF")}
FORMATS: tuple[OutputFormat, ...] = tuple(name for name in get_args(OutputFormat) if name != "dummy")
SIZES: dict[str, Any] = {"size": 64, "more_sizes": [32, [48, 16]], "mode": "keep_ratio", "phash": True}
NAMES = ("32", "48x16")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


@pytest.fixture(scope="module")
def urls(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 30 rows, of which one fails."""
    rows = [origin.url(name) for name in ALBUM]
    rows.insert(4, origin.url("missing.jpg"))
    return write_list(tmp_path_factory.mktemp("list") / "list.parquet", rows)


def _run(urls: Path, out: Path, output_format: OutputFormat = "webdataset", **image: Any) -> Path:
    output = {"format": output_format, "samples_per_shard": 12}
    turbo_fetch.run(job_spec(urls, out, image={**SIZES, **image}, output=output))
    return out


def _samples(out: Path) -> list[Sample]:
    return list(open_dataset(str(out)).samples())


def _cli(*arguments: str) -> Any:
    ended = CliRunner().invoke(app, [*arguments, "--quiet", "--json"])
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def made(urls: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run(urls, tmp_path_factory.mktemp("made") / "out")


def _pixels(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64)


def test_a_sample_has_what_runs_of_its_sizes_make(made: Path, urls: Path, tmp_path: Path) -> None:
    found = _samples(made)
    assert len(found) == 29
    alone = {
        name: _samples(_run(urls, tmp_path / name, size=size, more_sizes=[]))
        for name, size in (("", 64), ("32", 32), ("48x16", [48, 16]))
    }
    for place, sample in enumerate(found):
        assert list(sample.more) == list(NAMES)
        main = alone[""][place]
        assert (sample.key, sample.image) == (main.key, main.image)
        assert {name: sample.metadata[name] for name in main.metadata} == main.metadata
        for name in NAMES:
            other = alone[name][place]
            sides = [sample.metadata[f"{side}_{name}"] for side in ("width", "height")]
            assert sides == [other.metadata["width"], other.metadata["height"]]
            seen, expected = _pixels(sample.more[name]), _pixels(other.image)
            assert seen.shape == expected.shape == (sides[1], sides[0], 3)
            assert np.abs(seen - expected).mean() < 2
    rows = pq.read_table(made / "00000.parquet").to_pylist()
    assert [row["width_32"] is None for row in rows] == [row["status"] != "success" for row in rows]


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_holds_the_same_and_exports_there_and_back(
    made: Path, urls: Path, tmp_path: Path, output_format: OutputFormat
) -> None:
    out = _run(urls, tmp_path / "run", output_format)
    assert _samples(out) == _samples(made)
    assert CliRunner().invoke(app, ["verify", str(out), "--deep", "--quiet"]).exit_code == 0
    _export(made, tmp_path / "there", output_format)
    assert content_hashes(tmp_path / "there") == content_hashes(out)
    _export(out, tmp_path / "back", "webdataset")
    assert content_hashes(tmp_path / "back") == content_hashes(made)
    assert ledger(tmp_path / "back") == ledger(out)


def _export(source: Path, destination: Path, output_format: str, *options: str) -> None:
    command = ["export", str(source), str(destination), "--format", output_format, "--quiet", *options]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output


def test_shards_by_bytes_count_all_sizes(made: Path, tmp_path: Path) -> None:
    _export(made, tmp_path / "out", "webdataset", "--max-shard-mb", "0.06")
    tars = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert max(tars) <= 60_000
    assert len(tars) > 3
    images = [(sample.image, dict(sample.more)) for sample in _samples(made)]
    assert [(sample.image, dict(sample.more)) for sample in _samples(tmp_path / "out")] == images


@pytest.mark.usefixtures("others_may_warn")
def test_webdataset_and_hugging_face_read_the_tars(made: Path, tmp_path: Path) -> None:
    tars = sorted(map(str, made.glob("*.tar")))
    samples = _samples(made)
    for sample, found in zip(samples, webdataset.WebDataset(tars, shardshuffle=False), strict=True):
        assert (found["jpg"], found["32.jpg"]) == (sample.image, sample.more["32"])
        assert found["48x16.jpg"] == sample.more["48x16"]
    decoded = webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8").to_tuple("jpg", "32.jpg")
    for sample, (large, small) in zip(samples, decoded, strict=True):
        assert large.shape[:2] == (sample.metadata["height"], sample.metadata["width"])
        assert np.array_equal(small, _pixels(sample.more["32"]))
    loaded = datasets.load_dataset(str(made), cache_dir=str(tmp_path), split="train")
    assert {"jpg", "32.jpg", "48x16.jpg", "json", "txt"} <= set(loaded.column_names)
    for sample, row in zip(samples, loaded, strict=True):
        assert np.array_equal(np.asarray(row["32.jpg"]), _pixels(sample.more["32"]))


@pytest.mark.usefixtures("others_may_warn")
@pytest.mark.parametrize("output_format", ["parquet", "files"])
def test_hugging_face_has_a_column_of_images_for_each_size(
    made: Path, tmp_path: Path, output_format: OutputFormat
) -> None:
    _export(made, tmp_path / "out", output_format)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert isinstance(loaded.features["image_32"], datasets.Image)
    rows = [row for row in loaded.sort("key") if row["image"] is not None]
    for sample, row in zip(_samples(made), rows, strict=True):
        assert row["key"] == sample.key
        assert np.array_equal(np.asarray(row["image"]), _pixels(sample.image))
        for name in NAMES:
            assert np.array_equal(np.asarray(row[f"image_{name}"]), _pixels(sample.more[name]))


def test_other_formats_name_them_after_the_encoding(made: Path, tmp_path: Path) -> None:
    for output_format in ("parquet_bytes", "tfrecord", "lmdb", "files"):
        _export(made, tmp_path / output_format, output_format)
    first = _samples(made)[0]
    row = pq.read_table(tmp_path / "parquet_bytes/00000.parquet").slice(0, 1).to_pylist()[0]
    assert [*row][-3:] == ["jpg", "jpg_32", "jpg_48x16"]
    assert (row["jpg"], row["jpg_32"]) == (first.image, first.more["32"])
    with (tmp_path / "tfrecord/00000.tfrecord").open("rb") as file:
        features = decode_example(next(read_records(file)))
    assert features["jpg_48x16"] == ("bytes", [first.more["48x16"]])
    assert features["width_32"] == ("int64", [first.metadata["width_32"]])
    with (
        lmdb.open(str(tmp_path / "lmdb/00000.lmdb"), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        assert transaction.get(f"{first.key}.32.jpg".encode()) == first.more["32"]
    assert (tmp_path / "files/00000" / f"{first.key}.32.jpg").read_bytes() == first.more["32"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_killed_again_and_again_the_bytes_are_the_same(
    made: Path, urls: Path, origin: Origin, tmp_path: Path, output_format: OutputFormat
) -> None:
    expected = content_hashes(_run(urls, tmp_path / "whole", output_format))
    choose = random.Random(14)
    output = {"format": output_format, "samples_per_shard": 12}
    spec = job_spec(urls, tmp_path / "out", image=SIZES, output=output, http={"concurrency": 2})
    for _ in range(4):
        process = start(spec, tmp_path)
        # The run before may have asked for all of them.
        with origin.holding_after(12):
            wait_for_hits(process, origin, choose.randint(1, 12))
            process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(spec, tmp_path)
    _, err = finished(process)
    assert process.returncode == 0, err
    assert content_hashes(tmp_path / "out") == expected


@pytest.mark.parametrize("before", [SIZES["more_sizes"], [], [32]])
def test_other_sizes_than_a_dataset_was_begun_with_are_refused(
    urls: Path, tmp_path: Path, before: list[Any]
) -> None:
    _run(urls, tmp_path / "out", more_sizes=before)
    after = [16] if before else [32]
    with pytest.raises(OutputExists, match="more_sizes"):
        _run(urls, tmp_path / "out", more_sizes=after)


def test_a_dataset_of_one_size_says_nothing_of_others(urls: Path, tmp_path: Path) -> None:
    """So that an earlier version, which does not know the key, reads it, and its datasets are known here."""
    out = _run(urls, tmp_path / "out", more_sizes=[])
    for name in ("job", "spec.toml"):
        assert "more_sizes" not in (out / ".turbo-fetch" / name).read_text()


def test_a_retried_or_refreshed_dataset_is_the_one_that_a_lucky_run_makes(tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        rows = [origin.url(name) for name in ALBUM]
        rows[2] = origin.url("00002.jpg", "status", code=503, times=1)
        urls = write_list(tmp_path / "list.parquet", rows)
        image, output = SIZES, {"samples_per_shard": 12, "format": "parquet"}
        spec = {"image": image, "output": output, "http": {"retries": 0}}
        turbo_fetch.run(job_spec(urls, tmp_path / "out", **spec))
        assert _cli("retry", str(tmp_path / "out"))["recovered"] == 1
        turbo_fetch.run(job_spec(urls, tmp_path / "lucky", **spec))
        assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "lucky")
        origin.pictures = {**ALBUM, "00001.jpg": ALBUM["00000.jpg"], "00003.jpg": b"<html>"}
        assert _cli("refresh", str(tmp_path / "out"), "--apply")["drift"]["changed"] == 1
        found = {sample.metadata["url"]: sample for sample in _samples(tmp_path / "out")}
        assert found[rows[1]].more == found[rows[0]].more
        assert len(found) == len(rows)
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "out"), "--deep", "--quiet"]).exit_code == 0


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_what_is_dropped_later_is_dropped_in_every_size(
    origin: Origin, tmp_path: Path, output_format: OutputFormat
) -> None:
    """By their bytes, once all are there, and by what a function says of the main image."""
    (tmp_path / "judge.py").write_text(
        "def sides(batch):\n    return {'side': [len(image.as_py()) for image in batch['image']]}\n"
    )
    rows = [origin.url(name) for name in [*ALBUM][:6]]
    rows += [origin.url("00001.jpg", again=1), origin.url("missing.jpg")]
    urls = write_list(tmp_path / "list.parquet", rows)
    score = {
        "function": f"{tmp_path}/judge.py:sides",
        "columns": {"side": "int64"},
        "where": "width_32 > 32 and side > 0",
    }
    output = {"format": output_format, "samples_per_shard": 4}
    duplicates = {"by": ["hash"]}
    turbo_fetch.run(
        job_spec(urls, tmp_path / "out", image=SIZES, output=output, duplicates=duplicates, score=score)
    )
    outcomes = [row["outcome"] for row in ledger(tmp_path / "out")]
    assert outcomes[6:] == ["duplicate", "http-4xx"]
    assert set(outcomes[:6]) == {"success", "filtered"}
    assert len(_samples(tmp_path / "out")) == outcomes.count("success")
    for path in sorted((tmp_path / "out").glob("0*.parquet")):
        for row in pq.read_table(path).to_pylist():
            kept = row["status"] == "success"
            assert (row["width_32"] is not None) == (row["height_48x16"] is not None) == kept
    assert CliRunner().invoke(app, ["verify", str(tmp_path / "out"), "--deep", "--quiet"]).exit_code == 0


def test_an_image_of_a_further_size_that_is_not_what_it_should_be_is_found(
    made: Path, urls: Path, tmp_path: Path
) -> None:
    from turbo_fetch.maintenance.shard_check import check_shard

    out = _run(urls, tmp_path / "out", "files")
    dataset = open_dataset(str(out))
    first = next(iter(dataset.samples()))
    shown = out / "00000" / f"{first.key}.32.jpg"
    whole = shown.read_bytes()
    shown.write_bytes(first.image)
    listed = CliRunner().invoke(app, ["verify", str(out), "--quiet"])
    assert listed.exit_code == 1
    shown.unlink()
    with pytest.raises(
        Exception, match=f"{first.key} has images of 48x16, the main size; expected one of each size"
    ):
        list(open_dataset(str(out)).samples())
    shown.write_bytes(whole)
    assert not check_shard("deep", (dataset, dataset.shards[0])).problems


@pytest.mark.parametrize(
    ("output_format", "column"),
    [
        ("parquet", "image_32"),
        ("parquet_bytes", "jpg_32"),
        ("tfrecord", "jpg_32"),
        ("webdataset", "width_32"),
    ],
)
def test_a_column_of_the_list_that_is_called_like_one_of_a_size_is_refused(
    origin: Origin, tmp_path: Path, output_format: OutputFormat, column: str
) -> None:
    rows = [origin.url(name) for name in [*ALBUM][:2]]
    urls = write_list(tmp_path / "list.parquet", rows, **{column: [1, 2]})
    spec = job_spec(
        urls,
        tmp_path / "out",
        image=SIZES,
        output={"format": output_format},
        input={"keep_columns": [column]},
    )
    with pytest.raises(InputError, match=column):
        turbo_fetch.run(spec)


def test_all_sizes_go_into_one_environment(made: Path, tmp_path: Path) -> None:
    whole = tmp_path / "all.lmdb"
    ended = CliRunner().invoke(
        app, ["export", str(made), str(whole), "--format", "lmdb", "--merge", "--quiet"]
    )
    assert ended.exit_code == 0, ended.output
    with (
        lmdb.open(str(whole), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        for sample in _samples(made):
            assert transaction.get(f"{sample.key}.48x16.jpg".encode()) == sample.more["48x16"]


def test_card_and_croissant_tell_of_the_sizes(made: Path, tmp_path: Path) -> None:
    _export(made, tmp_path / "out", "parquet")
    assert "size 64, 32, 48 x 16, encoded as jpg" in (tmp_path / "out/README.md").read_text()
    fields = json.loads((tmp_path / "out/croissant.json").read_text())["recordSet"][0]["field"]
    kinds = {field["name"]: field["dataType"] for field in fields}
    assert kinds["image"] == kinds["image_32"] == kinds["image_48x16"] == "sc:ImageObject"
    assert kinds["width_32"] == "sc:Integer"
    schema = pq.read_schema(tmp_path / "out/00000.parquet")
    assert pa.types.is_struct(schema.field("image_32").type)


def test_the_viewer_shows_a_sample_in_all_its_sizes(made: Path) -> None:
    pictures, first = Images(open_dataset(str(made))), _samples(made)[0]
    assert pictures.find(Cursor(0, 0), "48x16") == first.more["48x16"]
    assert pictures.find(Cursor(0, 0)) == first.image
    assert pictures.find(Cursor(0, 0), "33") is None
    with viewed(made) as address, browse(address) as tab:
        tab.page.locator(".row").first.click()
        shown = tab.page.locator("#picture img")
        shown.nth(2).wait_for()
        tab.page.wait_for_function(
            "[...document.querySelectorAll('#picture img')].every(one => one.naturalWidth)"
        )
        widths = shown.evaluate_all("all => all.map(one => one.naturalWidth)")
    assert tab.errors == []
    assert widths == [first.metadata[name] for name in ("width", "width_32", "width_48x16")]
