"""Requests of which there are very many, beside those of the client of S3: the results are the client's."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from object_store import empty_bucket, filesystem
from turbo_fetch.dataset.place import open_place
from turbo_fetch.storage.s3_requests import Entries, requests_of

ODD = ("README.md", "a b&c<d>+%41.txt", "é.tar", "00/deep", "00000/in", "99/x", "999")


@pytest.mark.parametrize("count", [3, 1300])
def test_a_list_is_what_the_client_lists_each_name_once(s3: str, tmp_path: Path, count: int) -> None:
    empty_bucket(s3)
    names = [*(f"{number * 70:05d}.tar" for number in range(count)), *ODD]
    filesystem(s3).pipe({f"data/set/{name}": name.encode() for name in names})
    found: Entries = []
    assert requests_of(fsspec.filesystem("s3")).list("data", "set/", found.extend)
    place = open_place("s3://data/set", str(tmp_path))
    assert sorted(found) == sorted((entry.name.encode(), entry.bytes) for entry in place.list())
    assert len(found) == count + len(ODD)


def test_a_bucket_that_is_not_there_is_left_to_the_client(s3: str) -> None:
    empty_bucket(s3)
    assert not requests_of(fsspec.filesystem("s3")).list("nowhere", "", lambda _: None)
