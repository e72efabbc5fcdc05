"""`turbo-fetch view A B`: rows of two datasets beside each other, and a real browser on them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import turbo_fetch
from album import album
from browser import browse, faults_of_sight, viewed
from jobs import job_spec, write_list
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.dataset.reader import StoredDataset, open_dataset
from turbo_fetch.monitor.view.pairs import NONE, Pairs, _partners
from turbo_fetch.monitor.view.rows import Rows

ALBUM = album(20)
HOSTILE = "<img src=x onerror='window.broken = 1'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: the right one has 18 of the 20 rows of the left one, backwards, one of them twice, and one more, which
    is not there; its images are smaller, and its shards of other sizes."""
    folder = tmp_path_factory.mktemp("comparison")
    with Origin(ALBUM) as origin:
        rows = [origin.url(name) for name in ALBUM]
        left = write_list(folder / "left.parquet", rows)
        turbo_fetch.run(job_spec(left, folder / "left", output={"samples_per_shard": 7}))
        rows[4] = f"{rows[4]}#again"
        later = [*reversed(rows[2:]), rows[5], origin.url("more.jpg")]
        right = write_list(folder / "right.parquet", later, notes=[HOSTILE] * len(later))
        turbo_fetch.run(
            job_spec(
                right,
                folder / "right",
                input={"keep_columns": ["notes"]},
                image={"size": 48},
                output={"samples_per_shard": 5},
            )
        )
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[StoredDataset, StoredDataset]:
    return open_dataset(str(folder / "left")), open_dataset(str(folder / "right"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with viewed(folder / "left", folder / "right") as address:
        yield address


def _urls(pairs: Pairs, both: Sequence[StoredDataset], show: str) -> list[list[str | None]]:
    """Return the URLs of all pairs of a kind, without fragments, page by page."""
    readers = [Rows(dataset) for dataset in both]
    found: list[list[str | None]] = []
    start: int | None = 0
    while start is not None:
        page, start = pairs.page(show, start, 4)  # type: ignore[arg-type]
        assert len(page) <= 4
        for pair in page:
            rows = [None if at is None else reader.at(at) for at, reader in zip(pair, readers, strict=True)]
            found.append([None if row is None else row["url"].partition("#")[0] for row in rows])
    return found


def test_rows_of_one_url_stand_beside_each_other_whatever_their_order(
    both: tuple[StoredDataset, StoredDataset],
) -> None:
    pairs = Pairs(*both, "url")
    found = _urls(pairs, both, "all")
    assert len(found) == 20 + 2
    assert [left for left, _ in found[:20]] == both[0].metadata()["url"].to_pylist()
    assert all(left == right for left, right in found[2:20])
    assert _urls(pairs, both, "left") == [[left, None] for left, _ in found[:2]]
    alone = [right for _, right in _urls(pairs, both, "right")]
    assert alone == [found[5][1], found[20 + 1][1]]
    assert pairs.summary["counts"] == {"all": 22, "outcome": 0, "size": 18, "left": 2, "right": 2}


def test_rows_of_one_key_stand_beside_each_other(both: tuple[StoredDataset, StoredDataset]) -> None:
    pairs = Pairs(*both, "key")
    readers = [Rows(dataset) for dataset in both]
    page, following = pairs.page("all", 0, 100)
    assert following is None
    keys = [
        [
            None if at is None else (reader.at(at) or {})["key"]
            for at, reader in zip(pair, readers, strict=True)
        ]
        for pair in page
    ]
    mine, others = (dataset.metadata()["key"].to_pylist() for dataset in both)
    assert keys[: len(mine)] == [[key, key if key in others else None] for key in mine]
    assert keys[len(mine) :] == [[None, key] for key in others if key not in mine]


def test_a_dataset_of_img2dataset_is_compared_by_its_statuses(
    folder: Path, tmp_path: Path, both: tuple[StoredDataset, StoredDataset]
) -> None:
    for path in (folder / "right").glob("0*"):
        if not path.name.endswith("_stats.json"):
            shutil.copyfile(path, tmp_path / path.name)
    foreign = open_dataset(str(tmp_path))
    assert foreign.essentials is None
    ours = Pairs(*both, "url").summary["counts"]
    assert Pairs(both[0], foreign, "url").summary["counts"] == ours


@given(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6)))
def test_the_first_belongs_to_the_first_and_the_second_to_the_second(
    left: list[int], right: list[int]
) -> None:
    found = _partners(np.array(left, np.uint64), np.array(right, np.uint64)).tolist()
    places = {name: [place for place, other in enumerate(right) if other == name] for name in left}
    expected = [places[name].pop(0) if places[name] else NONE for name in left]
    assert found == expected


def test_a_browser_shows_both_and_what_differs(address: str) -> None:
    with browse(address) as tab:
        page = tab.page
        page.get_by_text("22 of 22 rows").wait_for()
        loaded = "all => all.filter(one => one.complete && one.naturalWidth > 0).length"
        while page.eval_on_selector_all(".row img", loaded) < 20 + 18 + 1:
            page.wait_for_timeout(20)
        assert page.inner_text("#name") == "left beside right"
        assert "64 \u00d7 64" in page.inner_text(".row:nth-child(3)")
        assert "48 \u00d7 48" in page.inner_text(".row:nth-child(3)")
        assert "not in right" in page.inner_text(".row:nth-child(1)")
        page.locator(".row").nth(2).click()
        assert HOSTILE in page.inner_text("#values")
        differing = page.locator("tr.differs td:first-child").all_inner_texts()
        assert {"key", "width", "height", "notes"} <= {*differing}
        assert not {"url", "sha256", "original_width"} & {*differing}
        page.keyboard.press("ArrowRight")
        assert "4 of the 22" in page.inner_text("#place")
        page.click("#close")
        page.select_option("select[name=show]", "right")
        page.get_by_text("2 of 2 rows").wait_for()
        assert "show=right" in page.url
        page.select_option("select[name=show]", "outcome")
        page.get_by_text("There is no such row.").wait_for()
        page.go_back()
        page.get_by_text("2 of 2 rows").wait_for()
        broken = page.evaluate("window.broken")
    assert broken is None
    assert tab.errors == []
    assert all(url.startswith((address, "data:")) for url in tab.requests)


def test_changed_outcomes_are_counted(folder: Path, tmp_path: Path) -> None:
    with Origin(
        {name: body for name, body in ALBUM.items() if name not in {"00003.jpg", "00007.jpg"}}
    ) as origin:
        found = []
        for into, names in (("before", list(ALBUM)[:3] * 3), ("after", [*list(ALBUM)[:2], "00003.jpg"] * 3)):
            rows = [origin.url(name) for name in names]
            urls = write_list(tmp_path / f"{into}.parquet", rows)
            turbo_fetch.run(job_spec(urls, tmp_path / into))
            found.append(open_dataset(str(tmp_path / into)))
    summary = Pairs(found[0], found[1], "key").summary
    assert summary["changes"] == [["success", "http-4xx", 3]]
    assert summary["counts"]["outcome"] == 3
    assert Pairs(found[0], found[1], "url").summary["counts"] == {
        "all": 12,
        "outcome": 0,
        "size": 0,
        "left": 3,
        "right": 3,
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable_on_a_desk_and_on_a_phone_in_both_themes(
    address: str, scheme: str, width: int
) -> None:
    with browse(address, scheme, width) as tab:
        tab.page.wait_for_selector(".row img")
        assert faults_of_sight(tab.page) == []
        tab.page.locator(".row").nth(2).click()
        assert faults_of_sight(tab.page) == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("api/pairs?by=key&show=size&from=2&limit=1", 200),
        ("api/pairs?by=name", 400),
        ("api/pairs?show=x", 400),
        ("api/pairs?from=-5", 200),
        (f"api/pairs?from={10**30}", 200),
        ("api/comparison?by=caption", 400),
        ("other/0/0", 200),
        ("other/9/0", 404),
        ("other/0/../../etc/passwd", 404),
    ],
)
def test_odd_requests_are_answered_clearly(address: str, path: str, status: int) -> None:
    try:
        with urllib.request.urlopen(f"{address}{path}") as answer:
            found = answer.status
    except urllib.error.HTTPError as error:
        with error:
            found = error.code
    assert found == status


def test_a_place_without_a_dataset_is_named(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "turbo_fetch", "view", str(folder / "left"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
