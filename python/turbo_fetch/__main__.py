"""`python -m turbo_fetch` is `turbo-fetch`."""

import sys

try:
    from turbo_fetch.cli import main
except ModuleNotFoundError as error:
    # A job on a cluster brings turbo-fetch along, but maybe not what it needs.
    print(
        f"turbo-fetch: {sys.executable} lacks the package {error.name!r}; expected all that turbo-fetch needs: "
        "install it there, or `turbo-fetch submit --install`",
        file=sys.stderr,
    )
    raise SystemExit(2) from error

if __name__ == "__main__":
    main()
