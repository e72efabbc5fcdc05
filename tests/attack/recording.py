"""What a command does to the files of a folder, call by call, as strace sees it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attack.disk import Disk, File, Write, applied

CALLS = (
    "open,openat,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,"
    "sendfile,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,mmap"
)
_LINE = re.compile(r"(\d+) +([\d.]+) (\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +([\d.]+ \w+\(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +[\d.]+ <\.\.\. \w+ resumed>(.*)")
_FILE = re.compile(r"(\w+)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FOLDER_AND_NAME = re.compile(rf"(?:{_FILE.pattern}, )?{_TEXT.pattern}")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that succeeded: when, its name, its arguments as strace shows them, and its result."""

    time_s: float
    name: str
    arguments: str
    result: int

    @property
    def changes_names(self) -> bool:
        """Whether it changes a name, rather than a content."""
        return self.name.startswith(("rename", "link", "unlink", "mkdir", "rmdir"))


def record(command: Sequence[str], place: Path, log: Path) -> list[Call]:
    """Run a command and return what it did in `place`; AssertionError if it did not end well."""
    strace = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-ttt",
        "-qq",
        "-s",
        str(1 << 26),
        "-e",
        f"trace={CALLS}",
        "-o",
        str(log),
    ]
    done = subprocess.run(
        [*strace, *command], capture_output=True, text=True, timeout=300, check=False, cwd="/"
    )
    assert done.returncode in {0, 1}, (done.returncode, done.stderr[-2000:])
    with log.open() as lines:
        return list(calls(lines, place))


def calls(lines: Iterator[str], place: Path) -> Iterator[Call]:
    """Yield the calls in a log of strace that are about `place`, in the order in which they took effect.

    That of a sync is what was there when it was called.
    """
    shown = "".join(f"\\x{byte:02x}" for byte in str(place).encode())
    begun: dict[str, str] = {}
    for line in lines:
        if (first := _BEGUN.match(line)) is not None:
            begun[first[1]] = first[2]
            if "sync(" not in line:
                continue
            line = f"{first[1]} {first[2]}) = 0"
        elif (rest := _RESUMED.match(line)) is not None:
            line = f"{rest[1]} {begun.pop(rest[1])}{rest[2]}"
            if "sync(" in line:
                continue
        found = _LINE.match(line)
        if found is not None and shown in line and int(found[5]) >= 0:
            yield Call(float(found[2]), found[3], found[4], int(found[5]))


@dataclass(slots=True)
class Replay:
    """Calls that are made again on a model of the disk."""

    disk: Disk
    place: str
    _now_s: float = 0.0
    _durable: set[tuple[int, int]] = field(default_factory=set)
    """Descriptors of which every write is brought to disk, by the file and their number."""
    _offsets: dict[tuple[int, int], int] = field(default_factory=dict)
    """Of descriptors, by the file and their number; -1 for those that append."""

    def make(self, call: Call) -> None:
        """Make a call."""
        name, text = call.name, call.arguments
        self._now_s = call.time_s
        if name in {"open", "openat", "creat"}:
            self._open(call)
        elif call.changes_names:
            self._change_names(call)
        elif name == "truncate":
            if (path := self._paths(text)[0]) is not None:
                self._write(self.disk.file(path), Write(int(text.rpartition(", ")[2]), None))
        elif (named := self._descriptor(text)) is not None:
            self._use(call, *named)

    def _open(self, call: Call) -> None:
        path = self._paths(call.arguments)[0]
        writes = call.name == "creat" or re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", call.arguments)
        if path is None or not writes:
            return
        file = self.disk.file(path)
        self._offsets[id(file), call.result] = -1 if "O_APPEND" in call.arguments else 0
        self._durable.discard((id(file), call.result))
        if "SYNC" in call.arguments:
            self._durable.add((id(file), call.result))
        if ("O_TRUNC" in call.arguments or call.name == "creat") and file.content():
            self._write(file, Write(0, None))

    def _change_names(self, call: Call) -> None:
        paths = self._paths(call.arguments)
        if call.name.startswith("mkdir"):
            assert paths[0] is not None
            self.disk.make_folder(paths[0])
        elif call.name.startswith(("rename", "link")):
            source, target = paths[:2]
            assert source is not None, call
            assert target is not None, call
            (self.disk.rename if call.name.startswith("rename") else self.disk.link)(source, target)
        elif paths[0] is not None:
            self.disk.remove(paths[0])

    def _use(self, call: Call, number: int, path: str) -> None:
        """Make a call on a descriptor of a file, or a folder, in the place."""
        name, text = call.name, call.arguments
        if "sync" in name:
            self.disk.sync(path)
            return
        file = self.disk.find(path)
        if not isinstance(file, File):
            return
        end = int(text.rpartition(", ")[2]) if text.rpartition(", ")[2].isdecimal() else 0
        if name == "lseek":
            self._offsets[id(file), number] = call.result
        elif name == "ftruncate":
            self._write(file, Write(end, None))
        elif name == "fallocate":
            self._write(file, Write(max(len(file.content()), sum(_numbers(text)[-2:])), None))
        elif name == "mmap":
            assert "MAP_SHARED" not in text or "PROT_WRITE" not in text, f"{path} is written to through a map"
        elif name in {"pwrite64", "pwritev", "pwritev2"}:
            offset = _numbers(text)[-2 if name == "pwritev2" else -1]
            self._write(file, Write(offset, _content(text)[: call.result]), number)
        elif name in {"write", "writev"}:
            self._append(file, number, _content(text)[: call.result])
        elif call.result:
            raise AssertionError(f"{name} of {path} is not modelled")

    def _append(self, file: File, number: int, content: bytes) -> None:
        offset = self._offsets.get((id(file), number), 0)
        self._write(file, Write(len(file.content()) if offset < 0 else offset, content), number)
        if offset >= 0:
            self._offsets[id(file), number] = offset + len(content)

    def _write(self, file: File, write: Write, number: int = -1) -> None:
        file.pending.append(write)
        file.changed_s = self._now_s
        if (id(file), number) in self._durable:
            file.synced = applied(file.synced, [write])

    def _descriptor(self, text: str) -> tuple[int, str] | None:
        """Return number and path of the first descriptor of a file in the place."""
        for number, shown, is_gone in _FILE.findall(text):
            path = self._inside(_bytes(shown).decode())
            if number.isdecimal() and not is_gone and path is not None:
                return int(number), path
        return None

    def _paths(self, text: str) -> list[str | None]:
        """Return the paths that are given as texts, None for those outside of the place."""
        found = []
        for _, folder, _, name in _FOLDER_AND_NAME.findall(text):
            base = Path(_bytes(folder).decode() or "/")
            found.append(self._inside(str(base / _bytes(name).decode())))
        return found

    def _inside(self, path: str) -> str | None:
        if path == self.place:
            return ""
        return path.removeprefix(f"{self.place}/") if path.startswith(f"{self.place}/") else None


def _content(text: str) -> bytes:
    return b"".join(map(_bytes, _TEXT.findall(text)))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(", ") if part.isdecimal()]


def _bytes(shown: str) -> bytes:
    return bytes.fromhex(shown.replace("\\x", ""))
