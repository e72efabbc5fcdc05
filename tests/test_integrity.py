"""Hashes verified, boxes made unrecognisable, deny lists and duplicates: whole jobs against the origin."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import turbo_fetch
from album import album
from jobs import content_hashes, job_spec, ledger, manifest, write_list
from origin import Origin
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import parse_spec

ALBUM = album(12, 96)
NAMES = list(ALBUM)
SHA256 = [hashlib.sha256(body).hexdigest() for body in ALBUM.values()]
SMALL = {"output": {"samples_per_shard": 4}}


def _resized(body: bytes, quality: int) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(body)).resize((300, 240)).save(out, "JPEG", quality=quality)
    return out.getvalue()


COPIES = {
    "copy-of-3.jpg": ALBUM[NAMES[3]],
    "copy-of-9.jpg": ALBUM[NAMES[9]],
    "like-5.jpg": _resized(ALBUM[NAMES[5]], 70),
}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({**ALBUM, **COPIES}) as origin:
        yield origin


def _run(origin: Origin, tmp_path: Path, names: list[str], /, **changes: Any) -> list[dict[str, Any]]:
    columns = changes.pop("columns", {})
    output = tmp_path / changes.pop("into", "out")
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in names], **columns)
    turbo_fetch.run(job_spec(urls, output, **changes))
    return ledger(output)


def _outcomes(rows: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(row["outcome"], row["detail"]) for row in rows]


def test_a_hash_of_the_list_is_verified_over_the_original_bytes(origin: Origin, tmp_path: Path) -> None:
    hashes = [SHA256[0], SHA256[1].upper(), SHA256[0], "x" * 64, SHA256[4][:-1], None]
    changes = {"input": {"hash_column": "h"}, "columns": {"h": hashes}}
    rows = _run(origin, tmp_path, NAMES[:6], **changes)
    malformed = ("hash-mismatch", "hash mismatch: the list's is no sha256 in hex")
    assert _outcomes(rows) == [
        ("success", None),
        ("success", None),
        ("hash-mismatch", "hash mismatch"),
        malformed,
        malformed,
        ("hash-mismatch", "hash mismatch: the list has none"),
    ]
    metadata = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert metadata.column_names[:4] == ["caption", "sha256", "url", "key"]
    assert metadata.column_names.count("sha256") == 1
    assert metadata["sha256"].to_pylist() == [SHA256[0], SHA256[1], None, None, None, None]
    assert metadata["error_message"][2].as_py() == "hash mismatch"


def test_a_hash_of_another_kind_than_the_recorded_one_keeps_the_words_of_the_list(
    origin: Origin, tmp_path: Path
) -> None:
    hashes = [hashlib.md5(ALBUM[NAMES[0]]).hexdigest(), "0" * 32]
    changes = {"input": {"hash_column": "h", "hash_kind": "md5"}, "columns": {"h": hashes}}
    rows = _run(origin, tmp_path, NAMES[:2], **changes)
    assert [row["outcome"] for row in rows] == ["success", "hash-mismatch"]
    metadata = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert metadata["md5"].to_pylist() == hashes
    assert metadata["sha256"].to_pylist() == [SHA256[0], None]


def test_a_mismatch_is_kept_on_request_and_noted_in_the_ledger(origin: Origin, tmp_path: Path) -> None:
    changes = {
        "input": {"hash_column": "h", "on_hash_mismatch": "keep"},
        "columns": {"h": [SHA256[0], SHA256[0]]},
    }
    rows = _run(origin, tmp_path, NAMES[:2], **changes)
    assert _outcomes(rows) == [("success", None), ("success", "hash mismatch")]
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        assert len(tar.getnames()) == 6


def test_boxes_of_the_list_are_blurred_and_odd_ones_keep_the_image_out(
    origin: Origin, tmp_path: Path
) -> None:
    boxes = [[[0.25, 0.25, 0.75, 0.75]], [], None, [[0.5, 0.5, 0.4, 0.9]], [[0.1, 0.2, 0.3]]]
    changes = {
        "input": {"boxes_column": "faces"},
        "image": {"size": 96, "encode": "png", "quality": 1},
        "columns": {"faces": pa.array(boxes, pa.list_(pa.list_(pa.float64())))},
    }
    rows = _run(origin, tmp_path, NAMES[:5], **changes)
    assert [row["outcome"] for row in rows] == ["success", "success", "success", "bad-boxes", "bad-boxes"]
    assert "box 1 of 1 cannot be used" in rows[3]["detail"]
    plain = _run(origin, tmp_path, NAMES[:1], image=changes["image"], into="plain")
    assert plain[0]["outcome"] == "success"
    blurred, whole = (
        np.asarray(Image.open(io.BytesIO(next(open_dataset(str(tmp_path / place)).samples()).image))).astype(
            float
        )
        for place in ("out", "plain")
    )
    inside, corner = (slice(30, 66), slice(30, 66)), (slice(0, 12), slice(0, 12))
    assert np.abs(np.diff(blurred[inside], axis=0)).max() < np.abs(np.diff(whole[inside], axis=0)).max() / 2
    assert np.array_equal(blurred[corner], whole[corner])


def test_deny_lists_by_url_domain_and_hash(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(f"{origin.url(NAMES[0])}#part\n\n")
    (tmp_path / "domains.csv").write_text("domain\nexample.org\n")
    digests = [SHA256[2].upper(), hashlib.md5(ALBUM[NAMES[3]]).hexdigest()]
    pq.write_table(pa.table({"hash": digests}), tmp_path / "hashes.parquet")
    urls = [
        *(origin.url(name) for name in NAMES[:5]),
        "http://a.b.example.org/x.jpg",
        "http://myexample.org/",
    ]
    urls[4] = origin.url(NAMES[1], "redirect_to", to=origin.url(NAMES[0]))
    listed = write_list(tmp_path / "list.parquet", urls)
    deny = {
        "urls": [str(tmp_path / "urls.txt")],
        "domains": [str(tmp_path / "domains.csv")],
        "hashes": [str(tmp_path / "hashes.parquet")],
    }
    turbo_fetch.run(_and(job_spec(listed, tmp_path / "out", http={"retries": 0}), deny=deny))
    assert _outcomes(ledger(tmp_path / "out"))[:6] == [
        ("denied", "URL is on a deny list"),
        ("success", None),
        ("denied", "sha256 is on a deny list"),
        ("denied", "md5 is on a deny list"),
        ("denied", "URL is on a deny list, to which it redirects"),
        ("denied", "domain is on a deny list"),
    ]
    assert ledger(tmp_path / "out")[6]["outcome"] != "denied"


@pytest.mark.parametrize("kind", ["urls", "domains"])
def test_a_denied_address_is_not_asked_for_where_a_redirect_leads_there(
    origin: Origin, tmp_path: Path, kind: str
) -> None:
    with Origin(ALBUM, address="127.0.0.2") as denied:
        # It would fail for a while, and it would lead on.
        targets = [
            denied.url(NAMES[0], "status", code=503),
            denied.url(NAMES[1], "redirect_to", to=origin.url(NAMES[1])),
        ]
        (tmp_path / "urls.txt").write_text("\n".join(targets))
        (tmp_path / "domains.txt").write_text("127.0.0.2")
        urls = [origin.url(NAMES[2], "redirect_to", to=to) for to in targets]
        listed = write_list(tmp_path / "list.parquet", urls)
        http = {"retries": 2, "robots": "respect"}
        spec = job_spec(listed, tmp_path / "out", http=http)
        turbo_fetch.run(_and(spec, deny={kind: [str(tmp_path / f"{kind}.txt")]}))
        assert not denied.hits
    what = "URL" if kind == "urls" else "domain"
    assert (
        _outcomes(ledger(tmp_path / "out"))
        == [("denied", f"{what} is on a deny list, to which it redirects")] * 2
    )
    assert [row["redirects"] for row in ledger(tmp_path / "out")] == [[target] for target in targets]


@pytest.mark.parametrize("kind", ["urls", "domains"])
def test_a_denied_address_is_known_though_its_secrets_are_not_told(
    origin: Origin, tmp_path: Path, kind: str
) -> None:
    host = origin.base.removeprefix("http://")
    signed, named = f"{origin.url(NAMES[0])}?token=hush", f"http://user:hush@{host}/{NAMES[0]}?token=hush"
    (tmp_path / "urls.txt").write_text(signed)
    (tmp_path / "domains.txt").write_text("127.0.0.1")
    urls = [
        origin.url(NAMES[1], "redirect_to", to=to).replace("127.0.0.1", "localhost", 1)
        for to in (signed, named)
    ]
    listed = write_list(tmp_path / "list.parquet", urls)
    deny = {kind: [str(tmp_path / f"{kind}.txt")]}
    turbo_fetch.run(_and(job_spec(listed, tmp_path / "out", http={"retries": 0}), deny=deny))
    # To one with a password nobody goes, denied or not.
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["denied", "redirect"]
    told = [(row["final_url"], row["detail"]) for row in ledger(tmp_path / "out")]
    assert "hush" not in str(told)


def test_a_deny_list_of_something_else_is_refused_before_anything_is_requested(
    origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "hashes.txt").write_text("not a hash\n")
    with pytest.raises(InputError, match="'not a hash' is not a hash; expected md5"):
        _with(origin, tmp_path, NAMES[:1], deny={"hashes": [str(tmp_path / "hashes.txt")]})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("urls.csv", "url\nhttp://a.example/1.jpg\nhttp://a.example/a,b.jpg\n", "too many fields"),
        ("urls.csv", 'url,why\n"http://a.example/1.jpg,x\n', "quote"),
        ("urls.csv", "why,url\nspam\n", "too few fields"),
        ("urls.jsonl", '{"url": "http://a.example/1.jpg"}\n{"url": "http://a.example/2.jpg",}\n', "JSON"),
        (
            "urls.jsonl",
            '{"url": "http://a.example/1.jpg"}\n{"uri": "http://a.example/2.jpg"}\n',
            "row 2 .*no 'url'",
        ),
        ("urls.txt", "http://a.example/1.jpg\nhttp://[a.example/2.jpg\n", "is not an address"),
        ("urls.txt", "a.example/1.jpg\n", "is not an address"),
        ("urls.txt", "http://a.example/\udcff.jpg\n", "UTF-8"),
        ("domains.csv", "domain\na.example,b.example\n", "too many fields"),
        ("hashes.jsonl", '{"hash": null}\n', "row 1 .*no 'hash'"),
    ],
)
def test_a_deny_list_with_a_row_that_cannot_be_read_is_refused(
    origin: Origin, tmp_path: Path, name: str, text: str, expected: str
) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=expected):
        _with(origin, tmp_path, NAMES[:1], deny={name.partition(".")[0]: [str(tmp_path / name)]})


def _with(origin: Origin, tmp_path: Path, names: list[str], **tables: Any) -> list[dict[str, Any]]:
    """Run with further tables of `[fetch]`."""
    into = tables.pop("into", "out")
    changes = {name: tables.pop(name) for name in ("image", "output", "engine", "http") if name in tables}
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in names])
    turbo_fetch.run(_and(job_spec(urls, tmp_path / into, **changes), **tables))
    return ledger(tmp_path / into)


def _and(spec: Spec, **tables: Any) -> Spec:
    """Return the spec with further tables of `[fetch]`."""
    table = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    table["fetch"].update(tables)
    return parse_spec(table)


TWICE = [*NAMES[:6], NAMES[2], "copy-of-3.jpg", "like-5.jpg", "copy-of-9.jpg", NAMES[9], NAMES[0]]
ALL_KEYS = {"image": {"size": 64, "phash": True}, "duplicates": {"by": ["url", "hash", "phash"]}, **SMALL}


def test_duplicates_name_the_first_row_that_shows_the_same(origin: Origin, tmp_path: Path) -> None:
    rows = _with(origin, tmp_path, TWICE, **ALL_KEYS)
    assert _outcomes(rows) == [
        *[("success", None)] * 6,
        ("duplicate", "duplicate of 000002"),
        ("duplicate", "duplicate of 000003"),
        ("duplicate", "duplicate of 000011"),
        ("success", None),
        ("duplicate", "duplicate of 000021"),
        ("duplicate", "duplicate of 000000"),
    ]
    assert rows[6]["attempts"] == 0
    assert [record["outcomes"] for record in manifest(tmp_path / "out")] == [
        {"success": 4},
        {"success": 2, "duplicate": 2},
        {"duplicate": 3, "success": 1},
    ]
    samples = list(open_dataset(str(tmp_path / "out")).samples())
    assert [sample.key for sample in samples] == [row["key"] for row in rows if row["outcome"] == "success"]
    last = pq.read_table(tmp_path / "out" / "00002.parquet").to_pylist()[0]
    assert last["error_message"] == "duplicate of 000011"
    assert {last[name] for name in ("width", "sha256", "phash", "exif")} == {None}
    stats = json.loads((tmp_path / "out" / "00002_stats.json").read_text())
    assert (stats["successes"], stats["failed_to_download"]) == (1, 3)


def test_the_same_duplicates_whatever_the_workers_and_however_often_it_runs(
    origin: Origin, tmp_path: Path
) -> None:
    _with(origin, tmp_path, TWICE, **ALL_KEYS)
    first = content_hashes(tmp_path / "out")
    _with(origin, tmp_path, TWICE, **ALL_KEYS)
    assert content_hashes(tmp_path / "out") == first
    others = {**ALL_KEYS, "engine": {"workers": 3, "threads": 1}, "http": {"concurrency": 2}}
    _with(origin, tmp_path, TWICE, into="other", **others)
    assert content_hashes(tmp_path / "other") == first


def test_a_pass_that_ended_between_two_shards_goes_on_to_the_same_bytes(
    origin: Origin, tmp_path: Path
) -> None:
    _with(origin, tmp_path, TWICE, **ALL_KEYS)
    first = content_hashes(tmp_path / "out")
    (tmp_path / "out" / "00001_stats.json").unlink()
    _with(origin, tmp_path, TWICE, **ALL_KEYS)
    assert content_hashes(tmp_path / "out") == first


@pytest.mark.parametrize("output_format", ["files", "parquet", "dummy", "lmdb", "tfrecord"])
def test_duplicates_leave_every_format(origin: Origin, tmp_path: Path, output_format: str) -> None:
    output = {"samples_per_shard": 4, "format": output_format}
    rows = _with(origin, tmp_path, TWICE, **{**ALL_KEYS, "output": output})
    dataset = open_dataset(str(tmp_path / "out"))
    kept = [row["key"] for row in rows if row["outcome"] == "success"]
    assert len(kept) == 7
    if output_format != "dummy":
        assert [sample.key for sample in dataset.samples()] == kept
    statuses = [
        status for shard in dataset.shards for status in dataset.metadata(shard)["status"].to_pylist()
    ]
    assert statuses.count("success") == 7


def test_another_dataset_comes_before_this_one(origin: Origin, tmp_path: Path) -> None:
    _with(origin, tmp_path, [NAMES[3], NAMES[5], NAMES[9]], image={"phash": True}, into="before")
    against = {"by": ["url", "hash", "phash"], "against": [str(tmp_path / "before")]}
    names = [NAMES[9], "copy-of-3.jpg", NAMES[0], "like-5.jpg"]
    rows = _with(origin, tmp_path, names, image={"phash": True}, duplicates=against)
    where = f" in {tmp_path / 'before'}"
    assert _outcomes(rows) == [
        ("duplicate", f"duplicate of 0000002{where}"),
        ("duplicate", f"duplicate of 0000000{where}"),
        ("success", None),
        ("duplicate", f"duplicate of 0000001{where}"),
    ]


def test_a_list_added_later_is_compared_with_what_is_there(origin: Origin, tmp_path: Path) -> None:
    _with(origin, tmp_path, NAMES[:4], **ALL_KEYS)
    later = {**ALL_KEYS, "output": {"samples_per_shard": 4, "if_exists": "extend"}}
    rows = _with(origin, tmp_path, [NAMES[2], "copy-of-3.jpg", NAMES[7]], **later)
    assert _outcomes(rows)[4:] == [
        ("duplicate", "duplicate of 000002"),
        ("duplicate", "duplicate of 000003"),
        ("success", None),
    ]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"input": {"hash_kind": "md5"}}, "but hash_column is not"),
        ({"input": {"boxes_column": "b"}, "image": {"encode": "original"}}, "keeps the bytes"),
        ({"input": {"boxes_use": "crop_first"}}, "but boxes_column is not set"),
        ({"duplicates": {"by": ["phash"]}}, "expected image.phash = true"),
        ({"duplicates": {"by": ["hash"]}, "image": {"digest": "none"}}, "expected a kind of hash"),
        ({"duplicates": {"against": ["x"]}}, "by is empty"),
        ({"duplicates": {"by": ["url"], "max_distance": 2}}, "the only key with distances"),
    ],
)
def test_combinations_without_sense_are_refused(tables: dict[str, Any], message: str) -> None:
    fetch: dict[str, Any] = {"input": {"urls": "x.txt"}, "output": {"path": "out"}}
    for name, table in tables.items():
        fetch[name] = {**fetch.get(name, {}), **table}
    with pytest.raises(SpecError, match=message):
        parse_spec({"fetch": fetch})


def test_a_missing_hash_column_names_the_nearest(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'checksum'"):
        _run(origin, tmp_path, NAMES[:1], input={"hash_column": "cheksum"}, columns={"checksum": ["0"]})
