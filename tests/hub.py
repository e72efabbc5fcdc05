"""A model hub on loopback: the part of Hugging Face's HTTP interface by which a model is found and fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(models: dict[str, Path]) -> Iterator[str]:
    """Serve folders as models by their ids, or as datasets (`datasets/…`), while the context lasts.

    Yields the address.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(True)

        def do_HEAD(self) -> None:
            self._answer(False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            for name, folder in models.items():
                kind = "" if name.startswith("datasets/") else "models/"
                if path.startswith(f"/api/{kind}{name}"):
                    return self._send(200, json.dumps(_described(path, name, folder)).encode(), with_body)
                if path.startswith(f"/{name}/resolve/"):
                    file = folder / path.removeprefix(f"/{name}/resolve/").partition("/")[2]
                    if file.is_file():
                        content = file.read_bytes()
                        tags = {
                            "X-Repo-Commit": COMMIT,
                            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                        }
                        return self._send(200, content, with_body, tags)
                    missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                    return self._send(404, b"", with_body, missing)
            return self._send(404, b"", with_body, {"X-Error-Code": "RepoNotFound"})

        def _send(
            self, status: int, content: bytes, with_body: bool, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="hub")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _described(path: str, name: str, folder: Path) -> object:
    """Return what the hub says of a model, or of the files in it."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    if "/tree/" in path:
        return [
            {"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": "0" * 40}
            for file in files
        ]
    return {
        "_id": name,
        "id": name,
        "modelId": name,
        "sha": COMMIT,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": file} for file in files],
    }
