"""`turbo-fetch report`: the report of a dataset, at any time."""

from __future__ import annotations

from typing import Annotated

import typer

DatasetUrl = Annotated[
    str,
    typer.Argument(help="The dataset: a folder, or any fsspec URL.", metavar="DATASET", show_default=False),
]


def report(dataset: DatasetUrl) -> None:
    """Write `report.html` into DATASET: throughput, outcomes, hosts, sizes, samples and failures on one page.

    The page needs no network to be looked at. A run writes it by itself when it ends; while one goes on, this
    shows what is committed so far.
    """
    from turbo_fetch.startup import without_pandas

    without_pandas()
    from turbo_fetch.monitor.records import REPORT
    from turbo_fetch.monitor.report import write_report
    from turbo_fetch.storage import open_storage

    storage = open_storage(dataset)
    write_report(storage)
    typer.echo(f"{storage.url}/{REPORT}")
