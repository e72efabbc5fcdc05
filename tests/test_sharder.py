"""How lists become shards: every row in exactly one, the same ones every time, without reading ahead."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turbo_fetch.errors import InputError
from turbo_fetch.plan import parquet_ranges, sharder
from turbo_fetch.plan.columnar_lists import parquet_batches
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import find_lists
from turbo_fetch.plan.sharder import InlineRows, ParquetRange, Plan, Shard, SpreadRange, cut, plan_shards
from turbo_fetch.spec import InputSpec, Order

Format = Literal["txt", "csv", "jsonl", "parquet", "arrow"]
_URLS = pa.schema({"url": pa.string()})
FORMATS: tuple[Format, ...] = ("txt", "csv", "jsonl", "parquet", "arrow")


def make_list(path: Path, urls: list[str], group_rows: int = 7) -> Path:
    table = pa.table({"url": pa.array(urls, pa.string())})
    match path.suffix:
        case ".txt":
            path.write_text("\n".join(urls))
        case ".csv":
            path.write_text("\n".join(["url", *urls]))
        case ".jsonl":
            path.write_text("".join(f'{{"url": "{url}"}}\n' for url in urls))
        case ".parquet":
            pq.write_table(table, path, row_group_size=group_rows)
        case _:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=group_rows)
    return path


def numbered(count: int, hosts: int = 5) -> list[str]:
    return [f"http://www.host{number % hosts}.example/{number}" for number in range(count)]


def urls_of(shard: Shard) -> list[str]:
    urls: list[str] = shard.load()["url"].to_pylist()
    assert len(urls) == shard.count
    return urls


def plan(path: Path, size: int, first: int = 0, skip: Any = (), **other: Any) -> list[Shard]:
    return list(plan_shards(InputSpec(urls=str(path), **other), size, first, skip))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("count", [1, 9, 10, 11, 50])
def test_position_follows_the_list(tmp_path: Path, suffix: Format, count: int) -> None:
    urls = numbered(count)
    shards = plan(make_list(tmp_path / f"list.{suffix}", urls), 10, first=3)
    assert [shard.id for shard in shards] == list(range(3, 3 + -(-count // 10)))
    assert [urls_of(shard) for shard in shards] == [urls[at : at + 10] for at in range(0, count, 10)]


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    size=st.integers(1, 50),
    suffix=st.sampled_from(FORMATS),
    order=st.sampled_from(["position", "spread"]),
    seed=st.integers(0, 5),
    skip=st.sets(st.integers(0, 20)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_row_is_in_exactly_one_shard(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    size: int,
    suffix: Format,
    order: Order,
    seed: int,
    skip: set[int],
) -> None:
    folder = tmp_path_factory.mktemp("list")
    urls = numbered(sum(counts))
    starts = [sum(counts[:index]) for index in range(len(counts))]
    for index, (start, count) in enumerate(zip(starts, counts, strict=True)):
        make_list(folder / f"{index}.{suffix}", urls[start : start + count])
    shards = plan(folder, size, order=order, seed=seed)
    rows = [urls_of(shard) for shard in shards]
    assert Counter(url for shard in rows for url in shard) == Counter(urls)
    assert [shard.id for shard in shards] == list(range(len(shards)))
    assert all(1 <= shard.count <= size for shard in shards)
    assert len(shards) == sum(-(-count // size) for count in counts)
    rest = plan(folder, size, skip=skip, order=order, seed=seed)
    assert [(shard.id, urls_of(shard)) for shard in rest] == [
        (shard.id, urls) for shard, urls in zip(shards, rows, strict=True) if shard.id not in skip
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_spread_interleaves_hosts_by_the_seed(tmp_path: Path, suffix: Format) -> None:
    urls = sorted(numbered(100))
    path = make_list(tmp_path / f"list.{suffix}", urls)
    shards = plan(path, 10, order="spread", seed=1)
    for shard in shards:
        hosts = [url.split("/")[2] for url in urls_of(shard)]
        assert Counter(hosts) == {f"www.host{number}.example": 2 for number in range(5)}
    again, other = plan(path, 10, order="spread", seed=1), plan(path, 10, order="spread", seed=2)
    assert [urls_of(shard) for shard in again] == [urls_of(shard) for shard in shards]
    assert [urls_of(shard) for shard in other] != [urls_of(shard) for shard in shards]


def test_spread_keeps_to_its_windows_of_which_the_very_first_is_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharder, "WINDOW_ROWS", 25)
    monkeypatch.setattr(sharder, "FIRST_WINDOW_ROWS", 15)
    urls = numbered(95)
    for number, part in enumerate([urls[:55], urls[55:]]):
        make_list(tmp_path / f"{number}.txt", part)
    shards = plan(tmp_path, 10, order="spread")
    rows = [url for shard in shards for url in urls_of(shard)]
    for start, stop in pairwise([0, 10, 30, 50, 55, 75, 95]):
        assert sorted(rows[start:stop]) == sorted(urls[start:stop])
        assert start in {0, 50} or rows[start:stop] != urls[start:stop]


def test_spread_gives_the_same_shards_for_every_format(tmp_path: Path) -> None:
    urls = numbered(500, hosts=17)
    plans = [
        [urls_of(shard) for shard in plan(make_list(tmp_path / f"list.{suffix}", urls), 40, order="spread")]
        for suffix in FORMATS
    ]
    assert all(rows == plans[0] for rows in plans)


def test_rows_of_a_parquet_list_are_references(tmp_path: Path) -> None:
    path = make_list(tmp_path / "list.parquet", numbered(30))
    shards = plan(path, 10, skip={1})
    assert [type(shard.rows) for shard in shards] == [ParquetRange, ParquetRange]
    assert len(pickle.dumps(shards[0])) < 2000
    copies = pickle.loads(pickle.dumps(shards))
    assert [urls_of(shard) for shard in copies] == [numbered(30)[:10], numbered(30)[20:]]


def test_rows_of_a_parquet_list_in_spread_order_are_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharder, "WINDOW_ROWS", 20)
    urls = numbered(50)
    shards = plan(make_list(tmp_path / "list.parquet", urls), 10, order="spread")
    assert {type(shard.rows) for shard in shards} == {SpreadRange}
    assert max(len(pickle.dumps(shard)) for shard in shards) < 2000
    backwards = {shard.id: urls_of(shard) for shard in reversed(pickle.loads(pickle.dumps(shards)))}
    expected = plan(make_list(tmp_path / "list.txt", urls), 10, order="spread")
    assert backwards == {shard.id: urls_of(shard) for shard in expected}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_by_number_are_those_of_the_file_whatever_was_read_before(
    tmp_path: Path, data: st.DataObject
) -> None:
    groups = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=6), "row groups")
    total = sum(groups)
    paths = [tmp_path / f"{name}.parquet" for name in ("one", "other")]
    for path in paths:
        urls = iter([f"{path.stem}{row}" for row in range(total)])
        with pq.ParquetWriter(path, pa.schema({"url": pa.string()})) as writer:
            for size in groups:
                writer.write_batch(pa.record_batch({"url": pa.array(islice(urls, size), pa.string())}))
    lists = [find_lists(InputSpec(urls=str(path)))[0] for path in paths]
    for _ in range(data.draw(st.integers(1, 12), "reads")):
        number = data.draw(st.integers(0, 1), "file")
        first = data.draw(st.integers(0, total), "first row")
        rows = range(first, data.draw(st.integers(first, total + 2), "last row"))
        shard = ParquetRange(lists[number], rows.start, len(rows), Columns("url"), _URLS)
        if rows.stop > total:
            with pytest.raises(InputError, match="incomplete"):
                shard.load(ListNotes())
        else:
            expected = [f"{paths[number].stem}{row}" for row in rows]
            assert shard.load(ListNotes())["url"].to_pylist() == expected


def test_a_row_group_is_read_once_for_all_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = numbered(1000)
    shards = plan(make_list(tmp_path / "list.parquet", urls, group_rows=1000), 10)
    begun: list[range] = []

    def counted(source: Any, parquet: Any, groups: range, *rest: Any) -> Any:
        begun.append(groups)
        return parquet_batches(source, parquet, groups, *rest)

    monkeypatch.setattr(parquet_ranges, "parquet_batches", counted)
    # A shard in between may have gone to another worker.
    assert [urls_of(shard) for shard in shards[::2]] == [
        urls[start : start + 10] for start in range(0, 1000, 20)
    ]
    assert begun == [range(1)]


def test_vast_row_groups_are_read_once(tmp_path: Path) -> None:
    urls = numbered(2000)
    path = make_list(tmp_path / "list.parquet", urls, group_rows=2000)
    shards = plan(path, 10)
    assert {type(shard.rows) for shard in shards} == {InlineRows}
    assert [url for shard in shards for url in urls_of(shard)] == urls


def test_kept_columns_have_the_same_types_in_all_shards(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["u"], "n": pa.array([1], pa.int64())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"url": ["v", "w"], "n": [2.0, 0.5]}), tmp_path / "2.parquet")
    shards = plan(tmp_path, 10, keep_columns=("n",))
    assert [shard.load().schema for shard in shards] == [
        pa.schema({"url": pa.string(), "n": pa.float64()})
    ] * 2
    assert [shard.load()["n"].to_pylist() for shard in shards] == [[1.0], [2.0, 0.5]]


def test_a_list_that_has_shrunk_is_an_error(tmp_path: Path) -> None:
    path = make_list(tmp_path / "list.parquet", numbered(30))
    shards = plan(path, 10)
    assert urls_of(shards[0]) == numbered(10)
    make_list(path, numbered(25))
    with pytest.raises(InputError, match=r"list\.parquet: rows 20 to 30 are incomplete"):
        shards[2].load()
    path.unlink()
    with pytest.raises(InputError, match=r"list\.parquet: there is no such file"):
        shards[0].load()


def test_the_plan_says_what_the_list_is_made_of(tmp_path: Path) -> None:
    path = make_list(tmp_path / "list.csv", numbered(3))
    [before] = Plan.of(InputSpec(urls=str(path)), 10).fingerprint
    assert before["url"] == str(path)
    assert before["size"] == path.stat().st_size
    make_list(path, list(reversed(numbered(3))))
    [after] = Plan.of(InputSpec(urls=str(path)), 10).fingerprint
    assert after["size"] == before["size"]
    assert after["fingerprint"] != before["fingerprint"]


def test_rows_are_counted_or_estimated(tmp_path: Path) -> None:
    for number in range(4):
        make_list(tmp_path / f"{number}.csv", numbered(50_000))
    plan = Plan.of(InputSpec(urls=str(tmp_path)), 10_000)
    assert plan.total_rows() == (None, True)
    totals = [plan.total_rows() for _ in plan.shards()]
    assert all(is_estimate for _, is_estimate in totals)
    assert all(rows is not None and 180_000 < rows < 220_000 for rows, _ in totals)
    assert plan.total_rows() == (200_000, False)


def test_the_rows_of_parquet_lists_are_known_at_once(tmp_path: Path) -> None:
    plan = Plan.of(InputSpec(urls=str(make_list(tmp_path / "list.parquet", numbered(95)))), 10)
    next(plan.shards())
    assert plan.total_rows() == (95, False)


@given(st.lists(st.integers(0, 20)), st.integers(1, 30))
def test_cut_gives_tables_of_one_size_in_order(sizes: list[int], size: int) -> None:
    numbers = iter(range(sum(sizes)))
    batches = [
        pa.record_batch({"n": pa.array([next(numbers) for _ in range(rows)], pa.int64())}) for rows in sizes
    ]
    tables = list(cut(batches, "a list", size))
    assert [row for table in tables for row in table["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(table.num_rows == size for table in tables[:-1])
    assert all(1 <= table.num_rows <= size for table in tables)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_first_shard_of_a_long_list_takes_little_memory(tmp_path: Path, suffix: Format) -> None:
    """A list of 100 MB in one row group is not loaded, neither for its first shard nor for all."""
    path = make_list(tmp_path / f"list.{suffix}", [], group_rows=1 << 30)
    url = "http://www.host.example/" + "x" * 200
    table = pa.table({"url": [f"{url}{row}" for row in range(500_000)]})
    if suffix == "parquet":
        pq.write_table(table, path, row_group_size=1 << 30, compression="none", use_dictionary=False)
    else:
        with path.open("w") as file:
            file.writelines(["url\n", *(f"{value}\n" for value in table["url"].to_pylist())])
    del table
    code = (
        "import resource, sys\n"
        "from turbo_fetch.plan.sharder import Plan\n"
        "from turbo_fetch.spec import InputSpec\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "plan = Plan.of(InputSpec(urls=sys.argv[1]), 1000)\n"
        "rows = sum(shard.load().num_rows for shard in plan.shards())\n"
        "assert rows == 500_000, rows\n"
        "print(peak() - before)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    assert path.stat().st_size > 100e6
    assert int(run.stdout) < 75e6
