"""`python -m turbo_fetch.runners DESCRIPTOR` is a worker process."""

from turbo_fetch.lean import importing, without_pandas

without_pandas()

with importing():
    from turbo_fetch.runners.worker import main

main()
