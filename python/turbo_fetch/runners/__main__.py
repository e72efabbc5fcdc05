"""`python -m turbo_fetch.runners DESCRIPTOR` is a worker process."""

from turbo_fetch.lean import without_pandas

without_pandas()

from turbo_fetch.runners.worker import main  # noqa: E402 - imports pyarrow

main()
