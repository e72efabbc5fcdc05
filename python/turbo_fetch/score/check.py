"""Whether the columns of a dataset go together, those of its scores included: found out before the first request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa

from turbo_fetch.arrow.schemas import RESULTS
from turbo_fetch.arrow.score_types import score_schema
from turbo_fetch.dataset.formats import check_columns
from turbo_fetch.dataset.samples import metadata_schema
from turbo_fetch.errors import SpecError
from turbo_fetch.score.messages import SCORED_BY, ScoreJob
from turbo_fetch.spec import FetchSpec, ScoreSpec

IMAGE: Final = "image"
"""The column in which the function gets the images."""


def check_output_columns(fetch: FetchSpec, source: pa.Schema) -> None:
    """Raise InputError or SpecError if no dataset can be made of rows with the columns `source`, or no scores."""
    metadata = metadata_schema(source, fetch.image)
    if fetch.score is not None:
        check_score(fetch.score, metadata)
    scores = score_schema({} if fetch.score is None else fetch.score.columns)
    check_columns(fetch.output.format, source, fetch.image, scores)


def check_score(score: ScoreSpec, metadata: pa.Schema) -> ScoreJob:
    """Return the job. Raises SpecError if there is no such code, or it does not go with the columns `metadata`."""
    from turbo_fetch.score.judgement import check_condition

    job = ScoreJob.of(score)
    _check_names(score.columns, [*metadata.names, *RESULTS.names])
    if IMAGE in metadata.names:
        raise SpecError(
            f"the dataset has a column {IMAGE!r}, and fetch.score.function gets the images by that name; expected "
            "another name for it in fetch.input.keep_columns"
        )
    check_condition(score, pa.schema([*metadata, *score_schema(score.columns)]))
    return job


def other_scores(score: ScoreSpec, records: Iterable[Mapping[str, Any]]) -> str | None:
    """Say that shards were scored with another text of the code than it has now; None if none were."""
    job = ScoreJob.of(score)
    count = sum(record.get(SCORED_BY, job.digest) != job.digest for record in records)
    if not count:
        return None
    return (
        f"the code of fetch.score.function has changed since {count:,} shards were scored: if it computes something "
        "else now, change fetch.score.version too, and score them again with `turbo-fetch score`"
    )


def _check_names(columns: Iterable[str], known: Iterable[str]) -> None:
    taken = [name for name in columns if name in known]
    if taken:
        raise SpecError(
            f"fetch.score.columns has {taken[0]!r}, which is a column of the dataset already; expected another name"
        )
