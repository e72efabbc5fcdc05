"""`turbo-fetch view`: pages of rows, a real browser on them, and strangers that are turned away."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

import turbo_fetch
from album import album
from browser import browse, faults_of_sight, viewed
from jobs import job_spec, write_list
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset, open_dataset
from turbo_fetch.monitor.recorder import recorded
from turbo_fetch.monitor.view import live
from turbo_fetch.monitor.view.images import Images
from turbo_fetch.monitor.view.rows import Cursor, Query, Rows
from turbo_fetch.monitor.view.server import Viewer
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.tally import Tally
from turbo_fetch.spec import TrackSpec

ALBUM = album(30)
HOSTILE = "<img src=x onerror='window.broken = 1'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    with Origin(ALBUM) as origin:
        rows = [origin.url(name) for name in ALBUM]
        rows.insert(15, origin.url("gone.jpg"))
        urls = write_list(folder / "list.parquet", rows, notes=[HOSTILE] * len(rows))
        keep = {"keep_columns": ["notes"]}
        turbo_fetch.run(job_spec(urls, folder / "out", input=keep, output={"samples_per_shard": 12}))
    return folder / "out"


@pytest.fixture(scope="module")
def dataset(folder: Path) -> StoredDataset:
    return open_dataset(str(folder))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with viewed(folder) as address:
        yield address


def _keys(dataset: StoredDataset, query: Query, limit: int) -> list[str]:
    """Return the keys of all pages, read to the end."""
    rows, keys, at = Rows(dataset), [], Cursor(0, 0)
    while True:
        page = rows.page(query, at, limit)
        assert len(page.rows) <= limit
        keys += [row["key"] for row in page.rows]
        if page.next is None:
            return keys
        at = page.next


@pytest.mark.parametrize("limit", [1, 5, 12, 100])
def test_pages_hold_every_row_once_and_in_order(dataset: StoredDataset, limit: int) -> None:
    keys = _keys(dataset, Query(), limit)
    assert len(keys) == 31
    assert keys == sorted(set(keys))


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (Query(outcome="success"), 30),
        (Query(outcome="failed"), 1),
        (Query(outcome="http-4xx"), 1),
        (Query(text="IMAGE 1"), 11),
        (Query(text="gone.jpg"), 1),
        (Query(text="%"), 0),
        (Query(min_side=160), 30),
        (Query(min_side=161), 0),
        (Query(outcome="failed", min_side=1), 0),
    ],
)
def test_filters_find_what_they_say(dataset: StoredDataset, query: Query, count: int) -> None:
    assert len(_keys(dataset, query, 4)) == count


def test_a_dataset_of_img2dataset_has_rows_without_a_ledger(folder: Path, tmp_path: Path) -> None:
    for name in ("00000.tar", "00000.parquet"):
        shutil.copyfile(folder / name, tmp_path / name)
    page = Rows(open_dataset(str(tmp_path))).page(Query(outcome="failed"), Cursor(0, 0), 100)
    assert page.next is None
    whole = Rows(open_dataset(str(tmp_path))).page(Query(outcome="success"), Cursor(0, 0), 100)
    assert len(whole.rows) == 12


def test_images_are_found_in_any_order(dataset: StoredDataset) -> None:
    expected = {sample.key: sample.image for sample in dataset.samples()}
    pictures, rows = Images(dataset), Rows(dataset).page(Query(), Cursor(0, 0), 100).rows
    for row in [*reversed(rows), *rows]:
        assert pictures.find(Cursor.parse(row["at"])) == expected.get(row["key"])
    assert pictures.find(Cursor(99, 0)) is None
    assert pictures.find(Cursor(0, 99)) is None


def test_a_browser_shows_filters_pages_and_details_without_errors(address: str) -> None:
    with browse(address) as tab:
        page = tab.page
        page.wait_for_selector(".row img")
        loaded = "all => all.filter(one => one.naturalWidth > 0).length"
        while page.eval_on_selector_all(".row img", loaded) < 30:
            page.wait_for_timeout(20)
        assert page.locator(".row").count() == 31
        page.locator(".row").first.click()
        assert HOSTILE in page.inner_text("#values")
        assert "total_ms" in page.inner_text("#values")
        page.click("#close")
        page.select_option("select[name=outcome]", "failed")
        page.get_by_text("1 of 1 matching rows").wait_for()
        failed = page.inner_text(".failures tbody tr")
        assert "http-4xx" in failed
        assert "HTTP Error 404: Not Found" in failed
        assert (page.locator(".failures a").get_attribute("href") or "").endswith("/gone.jpg")
        broken = page.evaluate("window.broken")
    assert broken is None
    assert tab.errors == []
    assert all(url.startswith((address, "data:")) for url in tab.requests)


def test_the_address_says_what_is_looked_at_and_the_browser_goes_back(address: str) -> None:
    with browse(f"{address}?text=image+2&density=large") as tab:
        page = tab.page
        page.get_by_text("11 of 11 matching rows").wait_for()
        assert page.input_value("input[name=text]") == "image 2"
        assert page.locator("main.large").count() == 1
        page.fill("input[name=min_side]", "100000")
        page.click("text=Search")
        page.get_by_text("No row matches.").wait_for()
        assert "min_side=100000" in page.url
        page.go_back()
        page.get_by_text("11 of 11 matching rows").wait_for()
        assert page.input_value("input[name=min_side]") == ""
    assert tab.errors == []


def test_arrow_keys_go_through_the_rows(address: str) -> None:
    with browse(address) as tab:
        page = tab.page
        page.locator(".row").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert "2 of the 31" in page.inner_text("#place")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert "0000003" in page.inner_text("#values")
        page.keyboard.press("ArrowLeft")
        assert "3 of the 31" in page.inner_text("#place")
        link = page.locator("#values a").first.get_attribute("href")
        assert (link or "").startswith("http://127.0.0.1")
    assert tab.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable_on_a_desk_and_on_a_phone_in_both_themes(
    address: str, scheme: str, width: int
) -> None:
    with browse(address, scheme, width) as tab:
        tab.page.wait_for_selector(".row img")
        assert faults_of_sight(tab.page) == []
        columns = (
            "() => getComputedStyle(document.querySelector('main')).gridTemplateColumns.split(' ').length"
        )
        assert tab.page.evaluate(columns) >= 2
        tab.page.locator(".row").first.click()
        assert faults_of_sight(tab.page) == []
        tab.page.click("#close")
        tab.page.select_option("select[name=outcome]", "failed")
        tab.page.wait_for_selector(".failures a")
        assert faults_of_sight(tab.page) == []


def test_a_sample_is_of_shards_all_over_and_the_same_for_the_same_seed(dataset: StoredDataset) -> None:
    rows = Rows(dataset)
    first = rows.sample(Query(outcome="success"), 1, 9)
    assert len(first) == 9
    assert {row["key"][:5] for row in first} == {"00000", "00001", "00002"}
    assert rows.sample(Query(outcome="success"), 1, 9) == first
    assert rows.sample(Query(outcome="success"), 2, 9) != first
    assert len(rows.sample(Query(), 1, 200)) == 31
    assert len(rows.sample(Query(outcome="failed"), 1, 9)) == 1


@pytest.mark.parametrize(
    "query", [Query(), Query("failed"), Query(text="image 2"), Query("success", "image", 200)]
)
def test_matches_are_counted_from_any_shard_on(dataset: StoredDataset, query: Query) -> None:
    rows = Rows(dataset)
    keys = _keys(dataset, query, 7)
    assert rows.count(query, 0) == (len(keys), None)
    assert rows.count(query, 1).rows == len([key for key in keys if key >= "00001"])
    assert rows.count(query, 99) == (0, None)


def _status(url: str, host: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("", None, 200),
        ("", "evil.example:80", 403),
        ("api/rows", "evil.example", 403),
        ("", "127.0.0.1.evil.example:80", 403),
        ("picture/0/0", None, 200),
        ("picture/0/../../etc/passwd", None, 404),
        ("picture/%2e%2e/0", None, 404),
        ("..%2f..%2fetc/passwd", None, 404),
        ("spec.toml", None, 404),
        ("picture/0/999999", None, 404),
        ("api/rows?from=x", None, 400),
        ("api/rows?from=-1:0", None, 400),
        (f"api/rows?min_side={10**20}", None, 200),
        (f"api/rows?min_side=-{10**20}", None, 200),
        (f"api/rows?from={10**20}:{10**20}", None, 200),
        ("api/sample?seed=x", None, 400),
        (f"api/sample?seed={10**20}", None, 200),
        ("api/count?from=x", None, 400),
        (f"api/count?from={10**20}", None, 200),
    ],
)
def test_only_pages_of_its_own_are_answered(address: str, path: str, host: str | None, status: int) -> None:
    assert _status(f"{address}{path}", host) == status


async def test_an_image_may_be_the_first_thing_asked_for(folder: Path) -> None:
    application = Viewer(open_place(str(folder))).application()
    async with TestClient(TestServer(application)) as client, client.get("/picture/0/0") as answer:
        assert answer.status == 200


def test_an_empty_place_is_one_clear_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "turbo_fetch", "view", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_goes_on_is_followed(address: str, folder: Path) -> None:
    with recorded(TrackSpec(), "fetch", open_place(str(folder)), ProgressListener()) as recorder:
        recorder.total(1000, is_estimate=False)
        recorder.add(0, Tally(Counter({"success": 240, "timeout": 10}), body_bytes=5_000_000, in_flight=17))
        recorder._record(2.0)
        with browse(address) as tab:
            tab.page.wait_for_selector("#live-plot .main-svg", state="attached")
            facts = tab.page.inner_text("#live-facts")
    assert "250 of 1,000 rows" in facts
    assert "125 rows/s" in facts
    assert "timeout 10" in facts
    assert tab.errors == []
    assert not live.state(open_place(str(folder)))["running"]
