"""The drop-in: img2dataset's `download`, with its options, done by turbo-fetch.

    from turbo_fetch.img2dataset import download

    download(url_list="list.parquet", input_format="parquet", caption_col="TEXT", output_format="webdataset")

Options become a spec (`translation`); what then runs is what `turbo-fetch run` runs. Where the two tools differ on
purpose, docs/coming-from-img2dataset.md says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turbo_fetch.progress.summary import Summary

__all__ = ["download"]


def download(*positional: Any, overrides: Sequence[str] = (), **options: Any) -> Summary:
    """Do what `img2dataset.download` does with these options; return the account of the dataset.

    `overrides` are keys of the spec, such as `fetch.http.per_domain=0`, for what img2dataset has no option for.
    Raises SpecError for options that are unknown, wrong or not to be had together, else as `turbo_fetch.run`.
    """
    from turbo_fetch import stages
    from turbo_fetch.img2dataset.translation import named, translate

    translation = translate(named(positional, options), overrides)
    for note in translation.notes:
        warnings.warn(note, stacklevel=2)
    return stages.run(translation.spec).fetch
