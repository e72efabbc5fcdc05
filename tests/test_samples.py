"""Metadata: img2dataset's columns, in its order, with its types and nulls."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa
import pytest

from shard_data import FAILED, fails, per_shard, results, source
from turbo_fetch.arrow.schemas import RESULTS
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.dataset.names import sample_key
from turbo_fetch.dataset.samples import metadata_batch, metadata_schema
from turbo_fetch.errors import InputError
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import ImageSpec


def test_columns_are_those_of_img2dataset_in_its_order() -> None:
    listed = pa.schema(
        [
            ("url", pa.large_string()),
            ("license", pa.int8()),
            ("caption", pa.string()),
            ("similarity", pa.float32()),
        ]
    )
    schema = metadata_schema(listed, ImageSpec())
    assert schema.names == [
        *("license", "similarity", "caption", "url", "key", "status", "error_message"),
        *("width", "height", "original_width", "original_height", "exif", "sha256"),
    ]
    assert schema.field("url").type == pa.large_string()
    assert {schema.field(name).type for name in schema.names[7:11]} == {pa.int32()}


@pytest.mark.parametrize(
    ("digest", "exif", "last"), [("none", False, "original_height"), ("md5", True, "md5")]
)
def test_exif_and_hash_are_there_as_the_spec_says(digest: str, exif: bool, last: str) -> None:
    image = ImageSpec.model_validate({"digest": digest, "exif": exif})
    schema = metadata_schema(source(1).schema, image)
    assert ("exif" in schema.names, schema.names[-1]) == (exif, last)
    assert metadata_batch(source(1), results([0]), ShardKeys(0, per_shard(10)), image).schema.equals(schema)


def test_what_concerns_the_image_is_null_unless_it_succeeded() -> None:
    rows = metadata_batch(
        source(10), results(range(10)), ShardKeys(2, per_shard(100)), ImageSpec()
    ).to_pylist()
    for row, sample in enumerate(rows):
        about = [
            sample[name]
            for name in ("width", "height", "original_width", "original_height", "exif", "sha256")
        ]
        assert sample["key"] == sample_key(2, row, 100)
        assert sample["url"].endswith(f"/{row}.png")
        if fails(row):
            assert (sample["status"], sample["error_message"]) == (
                FAILED.img2dataset_status,
                "HTTP Error 404: Not Found",
            )
            assert about == [None] * 6
        else:
            assert (sample["status"], sample["error_message"]) == ("success", None)
            assert about == [9, 8 + row % 5, 90, 80, "{}", f"{row:064x}"]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_its_status_and_a_failure_always_a_message(outcome: Outcome) -> None:
    sample = sample_of(outcome=outcome.number, detail=None, original_format=None)
    assert sample["status"] == outcome.img2dataset_status
    assert sample["error_message"] == (None if outcome is Outcome.SUCCESS else outcome.label)


def sample_of(messages: str = "turbo-fetch", **values: Any) -> dict[str, Any]:
    """Return the metadata of a row with these results."""
    batch = pa.RecordBatch.from_pylist([{**results([0]).to_pylist()[0], **values}], schema=RESULTS)
    output = per_shard(10, messages=messages)
    (sample,) = metadata_batch(source(1), batch, ShardKeys(0, output), ImageSpec()).to_pylist()
    return cast(dict[str, Any], sample)


def test_a_image_that_ends_early_in_a_whole_body_did_not_fail_to_download() -> None:
    cut = sample_of(outcome=Outcome.TRUNCATED.number, original_format="JPEG")
    assert cut["status"] == "failed_to_resize"


@pytest.mark.parametrize(
    ("outcome", "detail", "expected"),
    [
        (Outcome.CORRUPT, "data is broken", "Image decoding error"),
        (Outcome.TRUNCATED, "image ends early", "Image decoding error"),
        (Outcome.TRUNCATED, "body ended early", "body ended early"),
        (Outcome.HTTP_4XX, "HTTP Error 404: Not Found", "HTTP Error 404: Not Found"),
        (Outcome.TIMEOUT, "HTTP Error 408: Request Timeout", "HTTP Error 408: Request Timeout"),
        (Outcome.TIMEOUT, "no connection within 5 s", "<urlopen error timed out>"),
        (Outcome.TIMEOUT, "not complete within 10 s", "timed out"),
        (Outcome.STALLED, "no data for 10 s", "timed out"),
        (Outcome.NO_SUCH_HOST, "no such host", "<urlopen error [Errno -2] Name or service not known>"),
        (Outcome.CONNECT, "no route to host", "<urlopen error [Errno 113] No route to host>"),
        (Outcome.TOO_LARGE, "more than 50 MB", "more than 50 MB"),
    ],
)
def test_the_peers_words_may_be_asked_for(outcome: Outcome, detail: str, expected: str) -> None:
    sample = sample_of("img2dataset", outcome=outcome.number, detail=detail)
    assert sample["error_message"] == expected


def test_rows_find_their_source_in_any_order() -> None:
    batch = metadata_batch(source(10), results([7, 0, 9]), ShardKeys(0, per_shard(10)), ImageSpec())
    assert [url[-5] for url in batch.column("url").to_pylist()] == ["7", "0", "9"]
    views = source(10, view=pa.array(range(10)).cast(pa.string()).cast(pa.string_view()))
    batch = metadata_batch(views, results([7, 0, 9]), ShardKeys(0, per_shard(10)), ImageSpec())
    assert batch.column("view").to_pylist() == ["7", "0", "9"]
    with pytest.raises(IndexError):
        metadata_batch(source(3), results([2, 3]), ShardKeys(0, per_shard(10)), ImageSpec())


@pytest.mark.parametrize("samples_per_shard", [1, 2, 10, 11, 10_000, 10_001])
def test_keys_agree_with_the_contract(samples_per_shard: int) -> None:
    rows = pa.array([0, samples_per_shard - 1], pa.uint32())
    for shard in (0, 7, 123_456):
        expected = [sample_key(shard, row, samples_per_shard) for row in rows.to_pylist()]
        assert ShardKeys(shard, per_shard(samples_per_shard)).take(rows.to_numpy()).to_pylist() == expected


@pytest.mark.parametrize("name", ["key", "status", "width", "exif", "sha256"])
def test_a_list_column_named_as_a_result_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'"):
        metadata_schema(source(1, **{name: pa.array(["x"])}).schema, ImageSpec())


@pytest.mark.parametrize("kind", [pa.month_day_nano_interval(), pa.run_end_encoded(pa.int32(), pa.string())])
def test_a_type_that_parquet_lacks_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(InputError, match="'span' has the type"):
        metadata_schema(pa.schema([("url", pa.string()), ("span", kind)]), ImageSpec())
