"""A server of Google Cloud Storage on loopback: gcp-storage-emulator, in a process, with a bucket `data`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest

import processes

# Read when gcsfs is imported: it would ask by gRPC what kind of bucket it is, for a minute each time.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

SERVER = """
import os, sys
from gcp_storage_emulator.handlers import objects

def whole(handle):
    # What the emulator does not know: conditions, rights, and servers that are busy, as the documentation has them.
    def handled(request, response, storage, *rest, **more):
        name = request.params.get("object_id") or ""
        if "forbidden" in name or "busy" in name:
            response.status = objects.HTTPStatus.FORBIDDEN if "forbidden" in name else objects.HTTPStatus(503)
            return response.json({"error": {"message": "no"}})
        meta = (request.data or {}).get("meta", {}) if handle is insert and isinstance(request.data, dict) else {}
        name = (request.query.get("name") or [meta.get("name")])[0]
        if request.query.get("ifGenerationMatch") == ["0"]:
            try:
                storage.get_file_obj(request.params["bucket_name"], name)
            except Exception:
                pass
            else:
                response.status = objects.HTTPStatus.PRECONDITION_FAILED
                return response.json({"error": {"message": "conditionNotMet"}})
        return handle(request, response, storage, *rest, **more)
    return handled

insert = objects.insert
for name in ("insert", "get", "download"):
    setattr(objects, name, whole(getattr(objects, name)))

# Its routes are to these when it is imported.
from gcp_storage_emulator import server as emulator

def move(request, response, storage):
    # Nor does it know this: gcsfs asks for it again for half a minute before it copies and deletes.
    request.params["dest_bucket_name"] = request.params["bucket_name"]
    objects.copy(request, response, storage)
    if response.status == objects.HTTPStatus.OK:
        storage.delete_file(request.params["bucket_name"], request.params["object_id"])

route = r"^/storage/v1/b/(?P<bucket_name>[^/]+)/o/(?P<object_id>[^/]+)/moveTo/o/(?P<dest_object_id>[^/]+)$"
emulator.HANDLERS = ((route, {emulator.POST: move}), *emulator.HANDLERS)
server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="data")
server.start()
os.write(int(sys.argv[1]), str(server._api._httpd.server_port).encode() + b"\\n")
sys.stdin.read()
"""


@contextmanager
def google_store() -> Iterator[str]:
    """Run a server on a free port of loopback, and have `gs://` mean it; yield its address."""
    read, write = os.pipe()
    command = [sys.executable, "-c", SERVER, str(write)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with processes.started(command, pass_fds=[write], stdin=subprocess.PIPE, **quiet):
        os.close(write)
        with os.fdopen(read) as ready, pytest.MonkeyPatch.context() as environment:
            address = f"http://127.0.0.1:{int(ready.readline())}"
            environment.setenv("STORAGE_EMULATOR_HOST", address)
            # For this process, and for those that are started meanwhile.
            environment.setitem(fsspec.config.conf, "gs", {"token": "anon"})
            environment.setenv("FSSPEC_GS_TOKEN", "anon")
            yield address
    fsspec.get_filesystem_class("gs").clear_instance_cache()
