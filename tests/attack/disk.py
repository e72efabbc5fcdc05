"""A disk as it may be after power loss: what no sync has brought there is there or not, in any order, and in part.

The model is that of ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014): a sync of a file keeps
its content, and one of a folder the names in it. Of the rest any part may be there: of writes the first few, the last
of them torn, or blocks of zeros; of changes to names some, each whole, and those of one name in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset, or a new size of the file."""

    offset: int
    content: bytes | None


@dataclass(slots=True, eq=False)
class File:
    """What is on disk, and the writes since."""

    synced: bytes = b""
    changed_s: float = 0.0
    """When it was written last, since the epoch."""
    pending: list[Write] = field(default_factory=list)

    def content(self) -> bytes:
        """Return what running programs read."""
        return applied(self.synced, self.pending)


@dataclass(slots=True, eq=False)
class Folder:
    """The names in a folder, on disk and as running programs see them."""

    synced: dict[str, Node] = field(default_factory=dict)
    names: dict[str, Node] = field(default_factory=dict)


Node = File | Folder


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A change of names that is on disk whole or not at all: what each name then stands for."""

    entries: tuple[tuple[Folder, str, Node | None], ...]

    def keys(self) -> set[tuple[int, str]]:
        """Return what stands for its names."""
        return {(id(folder), name) for folder, name, _ in self.entries}


class Disk:
    """A folder on a disk, with all that is in it. Paths are relative to it."""

    def __init__(self) -> None:
        self.root = Folder()
        self._changes: list[Change] = []
        """Not on disk, in their order."""

    @classmethod
    def of(cls, place: Path) -> Disk:
        """Return what lies in a folder, all of it on disk."""
        disk = cls()
        for path in sorted(place.rglob("*")):
            node = Folder() if path.is_dir() else File(path.read_bytes(), path.stat().st_mtime)
            disk._change((path.relative_to(place).as_posix(), node))
        disk._bring_to_disk(disk._changes)
        return disk

    def find(self, path: str) -> Node | None:
        """Return what is at a path, None if nothing is."""
        node: Node | None = self.root
        for name in path.split("/") if path else ():
            node = node.names.get(name) if isinstance(node, Folder) else None
        return node

    def file(self, path: str) -> File:
        """Return the file at a path, made if absent."""
        node = self.find(path)
        if node is None:
            node = File()
            self._change((path, node))
        assert isinstance(node, File)
        return node

    def make_folder(self, path: str) -> None:
        """Make a folder."""
        self._change((path, Folder()))

    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder; what was at `target` is gone."""
        self._change((source, None), (target, self.find(source)))

    def link(self, source: str, target: str) -> None:
        """Give a file another name."""
        self._change((target, self.find(source)))

    def remove(self, path: str) -> None:
        """Take a name away."""
        self._change((path, None))

    def sync(self, path: str) -> None:
        """Bring the content of a file, or the names in a folder, to disk."""
        node = self.find(path)
        if isinstance(node, File):
            node.synced, node.pending = node.content(), []
        else:
            self._bring_to_disk(
                [each for each in self._changes if any(folder is node for folder, _, _ in each.entries)]
            )

    def tree(self) -> dict[str, bytes | None]:
        """Return what running programs see: paths with their content, None for folders."""
        return {path: node.content() if isinstance(node, File) else None for path, node in _walk(self.root)}

    def after_power_loss(self, random: Random | None) -> dict[str, File | None]:
        """Return what may be there after power loss, None for folders; without `random` only what was synced."""
        tables: dict[int, dict[str, Node]] = {}
        for change in [] if random is None else self._closed(_some(self._changes, random)):
            for folder, name, node in change.entries:
                _put(tables.setdefault(id(folder), dict(folder.synced)), name, node)
        return {
            path: File(_content(node, random), node.changed_s) if isinstance(node, File) else None
            for path, node in _walk(self.root, tables)
        }

    def _change(self, *entries: tuple[str, Node | None]) -> None:
        places = []
        for path, node in entries:
            above, _, name = path.rpartition("/")
            folder = self.find(above)
            assert isinstance(folder, Folder), path
            _put(folder.names, name, node)
            places.append((folder, name, node))
        self._changes.append(Change(tuple(places)))

    def _bring_to_disk(self, changes: Sequence[Change]) -> None:
        for change in (kept := self._closed(changes)):
            for folder, name, node in change.entries:
                _put(folder.synced, name, node)
        self._changes = [change for change in self._changes if change not in kept]

    def _closed(self, chosen: Sequence[Change]) -> list[Change]:
        """Return changes in their order, with those before them of the same names."""
        needed: set[tuple[int, str]] = set()
        found = []
        for change in reversed(self._changes):
            if change in chosen or needed & change.keys():
                needed |= change.keys()
                found.append(change)
        return found[::-1]


def applied(content: bytes, writes: Sequence[Write]) -> bytes:
    """Return what writes make of a file's content."""
    found = bytearray(content)
    for write in writes:
        size = write.offset if write.content is None else write.offset + len(write.content)
        found.extend(bytes(max(0, size - len(found))))
        if write.content is None:
            del found[size:]
        else:
            found[write.offset : size] = write.content
    return bytes(found)


def _put(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _walk(folder: Folder, tables: dict[int, dict[str, Node]] | None = None) -> Iterator[tuple[str, Node]]:
    """Yield what is in a folder, and in those within; with tables of names as they are on disk, if any are given."""
    names = folder.names if tables is None else tables.get(id(folder), folder.synced)
    for name, node in names.items():
        yield name, node
        if isinstance(node, Folder):
            yield from ((f"{name}/{path}", each) for path, each in _walk(node, tables))


def _some(changes: Sequence[Change], random: Random) -> Sequence[Change]:
    """Return changes that may have come to disk: none, all, the first few, or any."""
    way = random.choice(("none", "all", "first", "any"))
    if way == "any":
        share = random.random()
        return [change for change in changes if random.random() < share]
    return changes[: {"none": 0, "all": len(changes), "first": random.randint(0, len(changes))}[way]]


def _content(file: File, random: Random | None) -> bytes:
    """Return what may be in a file after power loss."""
    if random is None or not file.pending:
        return file.synced
    way = random.choice(("none", "all", "torn", "zeros"))
    if way == "none":
        return file.synced
    if way == "torn":
        *whole, last = file.pending[: random.randint(1, len(file.pending))]
        if last.content is not None:
            last = Write(last.offset, last.content[: random.randint(0, len(last.content))])
        return applied(file.synced, [*whole, last])
    content = bytearray(file.content())
    if way == "zeros":
        # The new size came to disk, and not every block of what was written.
        for start in range(0, len(content), BLOCK_BYTES):
            if random.random() < 0.5:
                old = file.synced[start : start + BLOCK_BYTES]
                size = len(content[start : start + BLOCK_BYTES])
                content[start : start + BLOCK_BYTES] = old[:size].ljust(size, b"\0")
    return bytes(content)
