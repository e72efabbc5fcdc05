"""`turbo-fetch view`: browse a dataset, and follow a run, in a web browser."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def view(
    dataset: Annotated[
        str,
        typer.Argument(
            help="The dataset: a folder, or any fsspec URL.", metavar="DATASET", show_default=False
        ),
    ],
    other: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Argument(help="Another dataset, to be seen beside it.", metavar="OTHER", show_default=False),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 chooses a free one.", min=0, max=65_535)
    ] = 8400,
) -> None:
    """Serve a page on this machine to browse DATASET, to follow a run into it, or to compare it; Ctrl-C ends it.

    The page shows samples and failures with their metadata and ledger, filtered by outcome, text and size. With
    OTHER, rows of the same URL or key stand beside each other, and those whose outcome or size differs are found.
    The page is reachable from this machine only; from another one, forward the port:
    `ssh -L 8400:127.0.0.1:8400 HOST`.
    """
    from turbo_fetch.startup import without_pandas

    without_pandas()
    from turbo_fetch.dataset.place import open_place
    from turbo_fetch.dataset.reader import may_hold_dataset
    from turbo_fetch.errors import InputError
    from turbo_fetch.monitor.view.serve import serve

    storages = [open_place(place) for place in (dataset, other) if place is not None]
    for storage in storages:
        if not may_hold_dataset(storage):
            raise InputError(f"{storage.url}: there is no dataset; expected one, or the output of a run")
    serve(storages, port, lambda url: typer.echo(f"{url}  (Ctrl-C ends it)"))
