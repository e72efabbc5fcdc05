"""A hub of datasets on loopback: the part of Hugging Face's HTTP interface by which a dataset is written and read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from jobs import job_spec, write_list
from origin import Origin
from turbo_fetch.spec import Spec

NAME = "someone/photos"
URL = f"hf://datasets/{NAME}"
TOKEN = "hf_of_the_tests"
_LARGE = (".parquet", ".tar", ".jpg", ".png", ".webp", ".lmdb", ".tfrecord")
"""What `.gitattributes` of a new repository names."""


def git_hash(content: bytes) -> str:
    """Return what Git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A repository: its commits, each a tree by path, the newest last."""

    visibility: str | None = "public"
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    large: set[str] = field(default_factory=set)
    """Paths that are stored apart."""

    def add(self, tree: dict[str, bytes]) -> str:
        """Commit a tree, whose order is that of Git."""
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(tree)}".encode()).hexdigest()
        self.commits.append((sha, dict(sorted(tree.items()))))
        return sha

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        """What the newest commit has."""
        return self.commits[-1][1]

    def tree(self, revision: str) -> dict[str, bytes] | None:
        """Return the files at a revision."""
        return self.files if revision == "main" else dict(self.commits).get(revision)


def data_of(repo: Repo) -> dict[str, str]:
    """Return the sha256 of every file that must not depend on how a run went, as `content_hashes` does."""
    return {
        path: hashlib.sha256(content).hexdigest()
        for path, content in sorted(repo.files.items())
        if not path.endswith("_stats.json")
        and not path.startswith(".")
        and path not in {"README.md", "croissant.json", "report.html"}
    }


class DatasetHub:
    """What the server holds, and what was asked of it."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        """Contents that are stored apart, by sha256."""
        self.uploads = 0
        self.ignored = re.compile("(?!)")
        """What a `.gitignore` leaves out."""
        self.before_commit: Callable[[Repo], int | None] = lambda repo: None
        """May refuse a commit by a status, or commit something before."""
        self.loses_answers = 0
        """So many commits are made, and not answered."""
        self.lock = threading.Lock()
        self.address = ""


@contextmanager
def dataset_hub() -> Iterator[DatasetHub]:
    """Run a hub on a free port of loopback while the context lasts."""
    hub = DatasetHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="dataset hub")
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def spec_into(folder: Path, origin: Origin, path: str, rows: int = 24, **output: object) -> Spec:
    """Return the spec of a run into `path`, of a list in `folder` that names the first images of an origin."""
    assert not isinstance(origin.pictures, Path)
    urls = folder / "list.parquet"
    if not urls.exists():
        write_list(urls, [origin.url(name) for name in [*origin.pictures][:rows]])
    table = {"path": path, "samples_per_shard": 8, **output}
    return job_spec(urls, Path("unused"), output=table, engine={"threads": 1, "workers": 2})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: DatasetHub

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        for pattern, known, act in _ROUTES:
            if known == method and (match := re.fullmatch(pattern, path)):
                with self.hub.lock:
                    act(self, *match.groups())
                return
        self._refuse(404, "EntryNotFound")

    @property
    def is_known(self) -> bool:
        return bool(self.headers.get("Authorization") == f"Bearer {TOKEN}")

    def repo(self, name: str) -> Repo | None:
        """Return a repository; a private one hides from strangers. Answers if there is none."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.visibility == "private" and not self.is_known):
            self._refuse(401 if repo else 404, "RepoNotFound")
            return None
        return repo

    def tree(self, name: str, revision: str) -> tuple[Repo, dict[str, bytes]] | None:
        repo = self.repo(name)
        if repo is None:
            return None
        tree = repo.tree(revision)
        if tree is None:
            self._refuse(404, "RevisionNotFound")
            return None
        return repo, tree

    def writes(self) -> bool:
        if not self.is_known:
            self._refuse(403, "", "You don't have the rights to write here")
        return self.is_known

    def create(self) -> None:
        if not self.is_known:
            return self._refuse(401, "", "Invalid username or password")
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            return self._json({"error": "exists", "url": f"{self.hub.address}/datasets/{name}"}, 409)
        self.hub.repos[name] = repo = Repo(asked.get("visibility"))
        repo.add({".gitattributes": b"*.parquet filter=lfs\n"})
        return self._json({"url": f"{self.hub.address}/datasets/{name}", "name": name})

    def info(self, name: str, revision: str | None = None) -> None:
        if (found := self.tree(name, revision or "main")) is not None:
            repo, tree = found
            sha = repo.head if revision in {None, "main"} else revision
            siblings = [{"rfilename": path} for path in tree]
            described = {"_id": name, "id": name, "sha": sha, "private": repo.visibility == "private"}
            self._json({**described, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def may_write(self, name: str) -> None:
        if self.repo(name) is not None and self.writes():
            self._json({})

    def list(self, name: str, revision: str, folder: str | None) -> None:
        if (found := self.tree(name, revision)) is None:
            return None
        repo, tree = found
        prefix = f"{folder}/" if folder else ""
        below = {path.removeprefix(prefix): path for path in tree if path.startswith(prefix)}
        if folder and not below:
            return self._refuse(404, "EntryNotFound")
        entries = {}
        is_deep = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
        for rest, path in below.items():
            first, _, deeper = rest.partition("/")
            if deeper:
                entries[first] = {"type": "directory", "path": prefix + first, "oid": "0" * 40, "size": 0}
            if not deeper or is_deep:
                entries[rest] = self._described(repo, tree, path)
        return self._json([*entries.values()])

    def paths(self, name: str, revision: str) -> None:
        if (found := self.tree(name, revision)) is None:
            return
        repo, tree = found
        asked = (
            json.loads(self.body)["paths"]
            if self.body[:1] == b"{"
            else parse_qs(self.body.decode()).get("paths", [])
        )
        answer = []
        for path in asked:
            if path in tree:
                answer.append(self._described(repo, tree, path))
            elif any(each.startswith(f"{path}/") for each in tree):
                answer.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self._json(answer)

    def _described(self, repo: Repo, tree: dict[str, bytes], path: str) -> dict[str, object]:
        content = tree[path]
        described: dict[str, object] = {"type": "file", "path": path, "size": len(content)}
        if path not in repo.large:
            return {**described, "oid": git_hash(content)}
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {**described, "oid": "0" * 40, "lfs": lfs}

    def preupload(self, name: str, revision: str) -> None:
        if (found := self.tree(name, revision)) is None or not self.writes():
            return
        repo, tree = found
        answer = []
        for each in json.loads(self.body)["files"]:
            path, sample = each["path"], base64.b64decode(each["sample"])
            is_large = path.endswith(_LARGE) or b"\0" in sample or each["size"] > 10 << 20
            now = self._described(repo, tree, path) if path in tree else {}
            lfs = now.get("lfs")
            mode = {"uploadMode": "lfs" if is_large else "regular"}
            ignored = {"shouldIgnore": bool(self.hub.ignored.search(path))}
            oid = lfs["oid"] if isinstance(lfs, dict) else now.get("oid")
            answer.append({"path": path, **mode, **ignored, "oid": oid})
        self._json({"files": answer})

    def batch(self, name: str) -> None:
        if self.repo(name) is None or not self.writes():
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            entry: dict[str, object] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.address}/objects/{each['oid']}"}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._refuse(422, "", "another content")
        self.hub.objects[oid] = self.body
        self.hub.uploads += 1
        return self._send(200, b"")

    def commit(self, name: str, revision: str) -> None:
        repo = self.repo(name)
        if repo is None or not self.writes():
            return None
        refused = self.hub.before_commit(repo)
        if refused is not None:
            return self._refuse(refused, "", "not now", {"Retry-After": "0"})
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repo.head:
            return self._refuse(412, "", "A commit has happened since. Please refresh and try again.")
        tree = dict(repo.files)
        for line in lines[1:]:
            what, value = line["key"], line["value"]
            if problem := _apply(repo, tree, what, value, self.hub.objects):
                return self._refuse(400, "", problem)
        sha = repo.add(tree)
        if self.hub.loses_answers:
            self.hub.loses_answers -= 1
            self.close_connection = True
            return None
        return self._json(
            {
                "success": True,
                "commitOid": sha,
                "commitUrl": f"{self.hub.address}/datasets/{name}/commit/{sha}",
            }
        )

    def check_yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (found := self.tree(name, revision)) is None:
            return None
        repo, tree = found
        tags = {"X-Repo-Commit": repo.head if revision == "main" else revision, "Accept-Ranges": "bytes"}
        if path not in tree:
            return self._refuse(404, "EntryNotFound", "", tags)
        content = tree[path]
        tags["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return self._send(200, content, tags)
        start, stop = int(match[1]), int(match[2]) + 1 if match[2] else len(content)
        if start >= len(content):
            return self._send(416, b"", tags)
        tags["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
        return self._send(206, content[start:stop], tags)

    def _json(self, answer: object, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, text: str = "", headers: dict[str, str] | None = None) -> None:
        tags = {"X-Error-Message": text} if text else {}
        if code:
            tags["X-Error-Code"] = code
        self._send(status, json.dumps({"error": text}).encode(), {**(headers or {}), **tags})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _apply(
    repo: Repo, tree: dict[str, bytes], what: str, value: dict[str, str], objects: dict[str, bytes]
) -> str | None:
    """Make one change of a commit; return why not, if so."""
    path = value["path"]
    if what == "file":
        tree[path] = base64.b64decode(value["content"])
        repo.large.discard(path)
    elif what == "lfsFile":
        if value["oid"] not in objects:
            return f"LFS pointer of {path} points to a file that was not uploaded"
        tree[path] = objects[value["oid"]]
        repo.large.add(path)
    elif what == "deletedFile":
        if path not in tree:
            return f"A file with this name doesn't exist: {path}"
        del tree[path]
    elif what == "deletedFolder":
        below = [each for each in tree if each.startswith(f"{path.rstrip('/')}/")]
        if not below:
            return f"A folder with this name doesn't exist: {path}"
        for each in below:
            del tree[each]
    return None


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    (r"/api/repos/create", "POST", _Handler.create),
    (r"/api/validate-yaml", "POST", _Handler.check_yaml),
    (rf"/api/datasets/{_NAME}/auth-check/write", "GET", _Handler.may_write),
    (rf"/api/datasets/{_NAME}/tree/([^/]+)(?:/(.+))?", "GET", _Handler.list),
    (rf"/api/datasets/{_NAME}/paths-info/([^/]+)", "POST", _Handler.paths),
    (rf"/api/datasets/{_NAME}/preupload/([^/]+)", "POST", _Handler.preupload),
    (rf"/api/datasets/{_NAME}/commit/([^/]+)", "POST", _Handler.commit),
    (rf"/api/datasets/{_NAME}/revision/([^/]+)", "GET", _Handler.info),
    (rf"/api/datasets/{_NAME}", "GET", _Handler.info),
    (rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    (r"/objects/(\w+)", "PUT", _Handler.put),
    (rf"/datasets/{_NAME}/resolve/([^/]+)/(.+)", "GET", _Handler.resolve),
    (rf"/datasets/{_NAME}/resolve/([^/]+)/(.+)", "HEAD", _Handler.resolve),
]
