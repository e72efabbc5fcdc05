"""Files of this machine as images of a list: what is read, and above all what is not."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.failures import KnownFailure
from turbo_fetch.outcomes import Outcome
from turbo_fetch.sources.files import Files
from turbo_fetch.sources.source import CHUNK_BYTES, read_failure

SECRET = b"not for datasets"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an image, beside a secret."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "cat.jpg").write_bytes(b"cat")
    (folder / "deep" / "50% é.jpg").write_bytes(b"dog")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "photos-private").mkdir()
    (tmp_path / "photos-private" / "secret").write_bytes(SECRET)
    return folder


def read(address: str, *roots: Path, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(Files([str(each) for each in roots]).chunks(address, start, stop))


def outcome(address: str, *roots: Path) -> Outcome:
    with pytest.raises((KnownFailure, OSError)) as caught:
        read(address, *roots)
    return read_failure(caught.value)[0]


def test_paths_and_file_urls_name_files(root: Path) -> None:
    for address in (
        str(root / "cat.jpg"),
        "cat.jpg",
        "./deep/../cat.jpg",
        f"file://{root}/cat.jpg",
        f"FILE://localhost{root}/cat.jpg",
        f"file:{root}/cat.jpg#part",
    ):
        assert read(address, root) == b"cat", address
    odd = root / "deep" / "50% é.jpg"
    assert read(str(odd), root) == read(f"file://{quote(str(odd))}", root) == b"dog"
    assert read("%63at.jpg".replace("%63", "c"), root) == b"cat"
    assert outcome("%63at.jpg", root) is Outcome.NOT_FOUND


def test_relative_paths_are_looked_for_in_each_folder_in_turn(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert read("cat.jpg", tmp_path / "empty", root) == b"cat"


def test_nothing_outside_of_the_folders_is_read(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path)
    (root / "out.jpg").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    for address in (
        str(tmp_path / "secret"),
        "../secret",
        "deep/../../secret",
        "out.jpg",
        "out/secret",
        f"file://{root}/%2e%2e/secret",
        f"file://{root}%2F..%2Fsecret",
        f"file://{root}/../photos-private/secret",
        f"{root}-private/secret",
        "/etc/passwd",
        "//etc/passwd",
        str(root),
        f"file://elsewhere{root}/cat.jpg",
    ):
        assert outcome(address, root) is Outcome.ADDRESS, address
    for address in ("loop", str(root / "loop"), "loop/cat.jpg"):
        assert outcome(address, root) in {Outcome.NOT_FOUND, Outcome.ADDRESS, Outcome.UNREADABLE}, address
    assert outcome(f"file://{root}/cat.jpg%00", root) is Outcome.URL
    assert outcome("file:cat.jpg", root) is Outcome.URL


def test_links_that_stay_inside_are_followed(root: Path) -> None:
    (root / "link.jpg").symlink_to("deep/50% é.jpg")
    (root / "shallow").symlink_to(root / "deep")
    assert read("link.jpg", root) == read("shallow/50% é.jpg", root) == b"dog"


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder"])
def test_only_regular_files_are_opened(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    if kind == "fifo":
        os.mkfifo("odd")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("odd")
    elif kind == "folder":
        Path("odd").mkdir()
    address = "/dev/zero" if kind == "device" else "odd"
    assert outcome(address, Path("/dev") if kind == "device" else root) is Outcome.NOT_FOUND


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(root: Path, tmp_path: Path) -> None:
    from turbo_fetch.sources.files import _open_inside

    (root / "swapped").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
        _open_inside(root.resolve(), ("swapped", "secret"))
    (root / "swapped.jpg").symlink_to(tmp_path / "secret")
    with pytest.raises(KnownFailure):
        _open_inside(root.resolve(), ("swapped.jpg",))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_files_of_every_size_come_whole_in_bounded_pieces(root: Path, size: int) -> None:
    body = os.urandom(size)
    (root / "file").write_bytes(body)
    pieces = list(Files([str(root)]).chunks("file", 0, None))
    assert b"".join(pieces) == body
    assert all(len(piece) == CHUNK_BYTES for piece in pieces[:-1])
    assert len(pieces[-1]) < CHUNK_BYTES
    assert read("file", root, start=size // 3, stop=size // 2) == body[size // 3 : size // 2]


@given(st.text(st.sampled_from("./%2eEfFcat:\\~ é\0#?"), max_size=24))
def test_no_text_names_the_secret(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / "a" / "c"
        inner.mkdir(parents=True)
        (Path(folder) / "cat").write_bytes(SECRET)
        (Path(folder) / "a" / "t").write_bytes(SECRET)
        for address in (text, f"file://{inner}/{text}", f"{inner}/{text}"):
            try:
                found = read(address, inner)
            except (KnownFailure, OSError):
                continue
            assert found != SECRET


@pytest.mark.parametrize("address", ["gone.jpg", "deep/gone.jpg", "gone/gone.jpg"])
def test_a_missing_file_is_not_there_unless_a_disk_may_not_be_mounted(root: Path, address: str) -> None:
    assert outcome(str(root / address), root) is Outcome.NOT_FOUND
    (root / "deep" / "50% é.jpg").unlink()
    is_in_empty = address.startswith("deep")
    assert outcome(address, root) is (Outcome.UNREADABLE if is_in_empty else Outcome.NOT_FOUND)
    (root / "cat.jpg").unlink()
    (root / "deep").rmdir()
    assert outcome(address, root) is Outcome.UNREADABLE
    root.rmdir()
    assert outcome(str(root / address), root) is Outcome.UNREADABLE
