"""An S3 server: a real process that speaks the protocol, with a bucket `data`."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import s3fs

import processes

CREDENTIALS = {"key": "test", "secret": "test"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server on a free port of loopback; yield its address."""
    read, write = os.pipe()
    code = (
        "import os, sys\n"
        "from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)\n"
        "server.start()\n"
        "os.write(int(sys.argv[1]), str(server.get_host_and_port()[1]).encode() + b'\\n')\n"
        "sys.stdin.read()\n"
    )
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-c", code, str(write)]
    with processes.started(command, pass_fds=[write], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet):
        os.close(write)
        with os.fdopen(read) as ready:
            address = f"http://127.0.0.1:{int(ready.readline())}"
        yield address


def empty_bucket(address: str) -> None:
    """Forget all that the server holds, and make the bucket `data`."""
    request = urllib.request.Request(f"{address}/moto-api/reset", method="POST")
    urllib.request.urlopen(request).close()
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem(address).mkdir("data")


def filesystem(address: str) -> Any:
    """Return a client of the server, apart from the one under test."""
    return s3fs.S3FileSystem(endpoint_url=address, use_listings_cache=False, **CREDENTIALS)


@contextmanager
def configured(address: str) -> Iterator[None]:
    """Make `s3://` URLs mean the server, by the configuration that fsspec reads."""
    before = dict(fsspec.config.conf)
    settings = {"endpoint_url": address, **CREDENTIALS}
    fsspec.config.conf["s3"] = settings
    # For the processes that are started meanwhile.
    variables = {f"FSSPEC_S3_{name.upper()}": value for name, value in settings.items()}
    kept = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        fsspec.config.conf.clear()
        fsspec.config.conf.update(before)
        s3fs.S3FileSystem.clear_instance_cache()
