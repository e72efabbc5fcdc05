"""`python -m turbo_fetch.monitor DESCRIPTOR` is the monitor process."""

from turbo_fetch.monitor.process import main

main()
