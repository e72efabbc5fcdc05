"""`turbo-fetch view`: browse a dataset, and follow a run, in a web browser."""

from __future__ import annotations

from typing import Annotated

import typer


def view(
    dataset: Annotated[
        str,
        typer.Argument(
            help="The dataset: a folder, or any fsspec URL.", metavar="DATASET", show_default=False
        ),
    ],
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 chooses a free one.", min=0, max=65_535)
    ] = 8400,
) -> None:
    """Serve a page on this machine to browse DATASET, or to follow a run into it; Ctrl-C ends it.

    The page shows samples and failures with their metadata and ledger, filtered by outcome, text and size. It
    is reachable from this machine only; from another one, forward the port: `ssh -L 8400:127.0.0.1:8400 HOST`.
    """
    from turbo_fetch.startup import without_pandas

    without_pandas()
    from turbo_fetch.dataset.place import open_place
    from turbo_fetch.dataset.reader import may_hold_dataset
    from turbo_fetch.errors import InputError
    from turbo_fetch.monitor.view.serve import serve

    storage = open_place(dataset)
    if not may_hold_dataset(storage):
        raise InputError(f"{storage.url}: there is no dataset; expected one, or the output of a run")
    serve(storage, port, lambda url: typer.echo(f"{url}  (Ctrl-C ends it)"))
