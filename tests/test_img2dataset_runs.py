"""Whole runs of the drop-in beside img2dataset's own, on one origin: the same files, rows and words."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from origin import Origin
from peer import run_peer
from peer_lists import BOX, pictures, rows, write_lists
from turbo_fetch.dataset.formats.tfrecord import decode_example, read_records
from turbo_fetch.img2dataset import download

Options = dict[str, Any]

COLUMNS: Options = {"caption_col": "TEXT", "save_additional_columns": ["score", "id"]}
PARQUET: Options = {"url_list": "parquet", "input_format": "parquet", **COLUMNS}
TARS: Options = {**PARQUET, "output_format": "webdataset"}

CASES: dict[str, list[Options]] = {
    "txt to files, all defaults": [{"url_list": "txt"}],
    "txt.gz": [{"url_list": "txt.gz", "input_format": "txt.gz"}],
    "parquet to tars": [{**TARS, "save_additional_columns": ["tags", "note", "good"]}],
    "parquet to parquet": [{**PARQUET, "output_format": "parquet"}],
    "parquet to parquet of png": [
        {**PARQUET, "output_format": "parquet", "encode_format": "png", "encode_quality": 4}
    ],
    "no caption": [{"url_list": "parquet", "input_format": "parquet", "output_format": "webdataset"}],
    "a folder of lists": [{**TARS, "url_list": "folder", "number_sample_per_shard": 4}],
    "many shards of wide names": [{**TARS, "number_sample_per_shard": 5, "oom_shard_count": 8}],
    "narrow names": [{**TARS, "number_sample_per_shard": 1, "oom_shard_count": 1}],
    "dummy": [{**PARQUET, "output_format": "dummy"}],
    "tfrecord": [
        {
            **PARQUET,
            "output_format": "tfrecord",
            "save_additional_columns": ["score", "id", "tags", "note", "good"],
        }
    ],
    "boxes": [{**TARS, "bbox_col": "faces", "resize_mode": "no"}],
    "md5": [{**TARS, "compute_hash": "md5"}],
    "sha512, no exif": [{**TARS, "compute_hash": "sha512", "extract_exif": False}],
    "no hash": [{**TARS, "compute_hash": None}],
    "verified": [{**TARS, "verify_hash": ["expected", "sha256"]}],
    "limits": [{**TARS, "min_image_size": 50, "max_image_area": 62_000, "max_aspect_ratio": 2.5}],
    "webp kept where it can be": [
        {**TARS, "encode_format": "webp", "skip_reencode": True, "resize_mode": "no"}
    ],
    "nothing re-encoded": [{**TARS, "disable_all_reencoding": True}],
    "token": [{**TARS, "user_agent_token": "DropInBot"}],
    "no directives": [{**TARS, "disallowed_header_directives": []}],
    "one directive": [{**TARS, "disallowed_header_directives": [" NoArchive"]}],
    "retries": [{**TARS, "url_list": "flaky", "retries": 2}],
    "keep_ratio": [{**TARS, "resize_mode": "keep_ratio", "image_size": 100, "resize_only_if_bigger": True}],
    "again": [TARS, TARS],
    "overwritten": [TARS, {**TARS, "image_size": 64, "incremental_mode": "overwrite"}],
    "extended": [
        {**TARS, "number_sample_per_shard": 10},
        {**TARS, "number_sample_per_shard": 10, "url_list": "folder", "incremental_mode": "extend"},
    ],
    **{
        kind: [{"url_list": kind, "input_format": kind, "output_format": "webdataset", **COLUMNS}]
        for kind in ("csv", "tsv", "json", "jsonl", "csv.gz", "tsv.gz", "json.gz", "jsonl.gz")
    },
}
LOOPBACK = ("fetch.http.allow_private_addresses=true", "fetch.http.per_domain=0", "fetch.http.backoff_s=0.01")
ORIGINALS: Final = "nothing re-encoded"
NO_IMAGES: Final = frozenset({"cut.jpg", "cut.png", "page.jpg", "empty.jpg"})
"""What img2dataset keeps in the case ORIGINALS, in which it does not look what it keeps."""
SIDES: Final = frozenset({"width", "height", "original_width", "original_height"})


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Origin, dict[str, Path], Path]]:
    """The origin, the lists by format, and the folder of what the peer made of every case."""
    folder: Path = tmp_path_factory.mktemp("peer")
    with Origin(pictures()) as origin:
        lists = write_lists(folder, rows(origin))
        tasks = []
        for name, steps in CASES.items():
            tasks += [{"download": _options(step, lists, folder / name)} for step in _as_the_peer_can(steps)]
        answers = run_peer(tasks, folder)
        assert answers == [None] * len(tasks)
        yield origin, lists, folder


@pytest.fixture(params=CASES)
def made(
    request: pytest.FixtureRequest, theirs: tuple[Origin, dict[str, Path], Path], tmp_path: Path
) -> tuple[str, Path, Path]:
    """A case, what we made of it, and what the peer made."""
    origin, lists, folder = theirs
    # Targets that recover after some requests do so for each case anew.
    origin.targets.clear()
    for step in CASES[request.param]:
        download(**_options(step, lists, tmp_path / "ours"), overrides=LOOPBACK)
    return request.param, tmp_path / "ours", folder / request.param


def _options(step: Options, lists: dict[str, Path], output: Path) -> Options:
    places = {"url_list": str(lists[step["url_list"]]), "output_folder": str(output)}
    return {"thread_count": 8, "image_size": 128, **step, **places}


def _as_the_peer_can(steps: list[Options]) -> list[Options]:
    """Leave out what is overwritten: the peer's `overwrite` deletes its own folder for temporary files, and hangs."""
    if steps[-1].get("incremental_mode") != "overwrite":
        return steps
    return [{**steps[-1], "incremental_mode": "incremental"}]


def test_a_run_leaves_what_the_peer_leaves(made: tuple[str, Path, Path]) -> None:
    case, ours, theirs = made
    excused = NO_IMAGES if case == ORIGINALS else frozenset()
    assert _shards(ours) == _shards(theirs)
    left_out = {f"{name}.parquet" for name in _shards(ours)} if case == "dummy" else set()
    assert _visible(ours) - left_out == _visible(theirs)
    for name in _shards(theirs):
        if case != "dummy":
            _compare_metadata(ours / f"{name}.parquet", theirs / f"{name}.parquet", excused)
        if not excused:
            _compare_stats(ours / f"{name}_stats.json", theirs / f"{name}_stats.json")
    left, right = _members(ours), _members(theirs)
    for name in sorted(left.keys() | right.keys()):
        if name not in left:
            assert _is_excused(name, right, excused), f"only the peer has {name}"
        elif case == "boxes" and name.endswith(".jpg"):
            _compare_blurred(left[name], right[name])
        else:
            _compare_member(name, left[name], right[name])
    assert _features(ours) == _peer_features(theirs)


def _visible(folder: Path) -> set[str]:
    """Return the names of all files but our records; `dummy` writes metadata here, and not there."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if path.parts[0] != ".turbo-fetch"}


def _shards(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix("_stats.json") for path in folder.glob("*_stats.json"))


def _compare_metadata(ours: Path, theirs: Path, excused: frozenset[str]) -> None:
    left, right = (pq.read_table(path).sort_by("key") for path in (ours, theirs))
    assert [(field.name, field.type) for field in left.schema] == [
        (field.name, field.type) for field in right.schema
    ]
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    for one, other in pairs:
        if _path(other["url"]) in excused:
            continue
        for column in right.column_names:
            if column not in {"jpg", "png", "webp"}:
                assert _value(column, one) == _value(column, other), (column, other["url"])
            elif other[column] is not None:
                assert _psnr(one[column], other[column]) >= 34


def _value(column: str, row: Mapping[str, Any]) -> Any:
    """Return a value of a row without what differs on purpose."""
    value = row[column]
    if column == "exif" and value is not None:
        return json.loads(value)
    if column in SIDES and row["width"] == row["original_width"]:
        # In the case ORIGINALS img2dataset knows no sides.
        return None
    return _words(value) if column == "error_message" else value


def _words(message: str | None) -> str | None:
    """OpenCV tells the line of its source that minds an empty body."""
    return "Image decoding error" if message is not None and message.startswith("OpenCV(") else message


def _compare_stats(ours: Path, theirs: Path) -> None:
    left, right = (json.loads(path.read_text()) for path in (ours, theirs))
    assert left.keys() >= right.keys()
    for key in ("count", "successes", "failed_to_download", "failed_to_resize"):
        assert left[key] == right[key], key
    expected: Counter[str | None] = Counter()
    for message, count in right["status_dict"].items():
        expected[_words(message)] += count
    assert left["status_dict"] == expected


def _members(folder: Path) -> dict[str, bytes]:
    """Return the files of all samples, in folders or archives, by shard and name, in their order."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                found[f"{path.stem}/{member.name}"] = content.read()
    for path in sorted(folder.glob("[0-9]*/[0-9]*")):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    return found


def _compare_blurred(ours: bytes, theirs: bytes) -> None:
    """Far from the box the images are equal; in it ours shows less than the peer's, whose blur is too weak."""
    left, right = (
        np.asarray(Image.open(io.BytesIO(body)).convert("L"), np.float64) for body in (ours, theirs)
    )
    height, width = left.shape
    assert left.shape == right.shape
    outside = np.s_[: round(height * 0.2), : round(width * 0.15)]
    assert np.abs(left[outside] - right[outside]).mean() < 2
    rows, columns = (
        slice(round(BOX[0 + k] * n) + 2, round(BOX[2 + k] * n) - 2) for k, n in ((1, height), (0, width))
    )
    contrast = [float(image[rows, columns].std()) for image in (left, right)]
    assert contrast[0] < contrast[1]


def _features(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the features of our records by key, without those whose type the peer takes from the value."""
    found = {}
    for path in folder.glob("*.tfrecord"):
        with path.open("rb") as file:
            for content in read_records(file):
                features = decode_example(content)
                found[features["key"][1][0].decode()] = {  # type: ignore[union-attr]
                    name: _plain(each) for name, each in features.items()
                }
    return found


def _peer_features(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the peer has handed to TensorFlow, in the same form."""
    found = {}
    for path in folder.glob("*.tfrecord"):
        for features in pickle.loads(path.read_bytes()):
            found[features["key"][1][0].decode()] = {name: _plain(each) for name, each in features.items()}
    return found


def _plain(feature: tuple[str, Any]) -> tuple[str, list[Any]]:
    """Return kind and values as TensorFlow reads them, images by their size."""
    kind, values = feature
    if kind == "float":
        return kind, [float(np.float32(value)) for value in values]
    if kind == "bytes" and bytes(values[0]).startswith(b"\xff\xd8"):
        return kind, [Image.open(io.BytesIO(values[0])).size]
    return kind, [bytes(value) if kind == "bytes" else value for value in values]


def _compare_member(name: str, ours: bytes, theirs: bytes) -> None:
    suffix = name.rpartition(".")[2]
    if suffix == "txt":
        assert ours == theirs
    elif suffix == "json":
        left, right = json.loads(ours), json.loads(theirs)
        # A hash that was verified is where the list's column is; in the peer's JSON, but not its Parquet, it is last.
        assert [key for key in left if key != "sha256"] == [key for key in right if key != "sha256"]
        assert left.keys() == right.keys()
        assert {key: _value(key, left) for key in left} == {key: _value(key, right) for key in right}
    else:
        assert ours == theirs or _psnr(ours, theirs) >= 34


def _is_excused(name: str, members: Mapping[str, bytes], excused: frozenset[str]) -> bool:
    facts = json.loads(members[f"{name.rpartition('.')[0]}.json"])
    return _path(facts["url"]) in excused


def _path(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


def _psnr(left: bytes, right: bytes) -> float:
    one, other = (np.asarray(Image.open(io.BytesIO(body)), np.float64) for body in (left, right))
    assert one.shape == other.shape
    error = float(np.mean((one - other) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 99.0
