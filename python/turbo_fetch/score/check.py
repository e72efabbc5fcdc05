"""Whether the columns of a dataset go together, those of its scores included: found out before the first request."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from turbo_fetch.arrow.score_types import score_schema
from turbo_fetch.dataset.formats import check_columns
from turbo_fetch.dataset.samples import metadata_schema
from turbo_fetch.errors import SpecError
from turbo_fetch.score.messages import ScoreJob
from turbo_fetch.spec import FetchSpec, ScoreSpec

IMAGE = "image"
"""The column in which the function gets the images."""


def check_output_columns(fetch: FetchSpec, source: pa.Schema) -> None:
    """Raise InputError or SpecError if no dataset can be made of rows with the columns `source`, or no scores."""
    metadata = metadata_schema(source, fetch.image)
    if fetch.score is not None:
        check_score(fetch.score, metadata)
    scores = score_schema({} if fetch.score is None else fetch.score.columns)
    check_columns(fetch.output.format, source, fetch.image, scores)


def check_score(score: ScoreSpec, metadata: pa.Schema) -> None:
    """Raise SpecError if there is no such code, or it does not go with a dataset that has the columns `metadata`."""
    from turbo_fetch.score.judgement import check_condition

    ScoreJob.of(score)
    _check_names(score.columns, [*metadata.names, IMAGE])
    if IMAGE in metadata.names:
        raise SpecError(
            f"the dataset has a column {IMAGE!r}, and fetch.score.function gets the images by that name; expected "
            "another name for it in fetch.input.keep_columns"
        )
    check_condition(score, pa.schema([*metadata, *score_schema(score.columns)]))


def _check_names(columns: Iterable[str], known: Iterable[str]) -> None:
    taken = [name for name in columns if name in known]
    if taken:
        raise SpecError(
            f"fetch.score.columns has {taken[0]!r}, which is a column of the dataset already; expected another name"
        )
