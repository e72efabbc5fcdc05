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

    The page needs no network. A run writes it when it ends; during a run, this command shows what is committed so
    far.
    """
    from turbo_fetch.startup import without_pandas

    without_pandas()
    from turbo_fetch.dataset.names import REPORT
    from turbo_fetch.dataset.place import open_place
    from turbo_fetch.monitor.report import write_report

    storage = open_place(dataset)
    write_report(storage)
    typer.echo(f"{storage.url}/{REPORT}")
