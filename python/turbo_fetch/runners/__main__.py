"""`python -m turbo_fetch.runners DESCRIPTOR` is a worker process."""

import signal

# Ctrl-C, and a terminal that is closed, reach the whole process group, from the first moment on; what comes of it, the
# parent decides.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)

from turbo_fetch.startup import importing, late_certificates, with_late_modules, without_pandas  # noqa: E402

without_pandas()
with_late_modules()

with importing(), late_certificates():
    from turbo_fetch.runners.worker import main

main()
