"""`python -m turbo_fetch` is `turbo-fetch`."""

from turbo_fetch.cli import main

main()
