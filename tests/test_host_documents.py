"""Each document of a host is requested by one worker, whoever dies or fails, and all that need it get it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import turbo_fetch
from album import album
from jobs import job_spec, ledger, write_list
from origin import Origin
from turbo_fetch.fetch.documents import Document, DocumentNews, failure_lasts_s
from turbo_fetch.outcomes import Outcome
from turbo_fetch.runners.document_cache import IN_MEMORY, DocumentCache
from turbo_fetch.runners.host_documents import HostDocuments

PATIENCE_S = 30.0
FOUND = Document(200, "User-agent: *")
GONE = Document(failure=(Outcome.CONNECT, "refused"))
BUSY = Document(503, failure=(Outcome.HTTP_5XX, "robots.txt: HTTP 503"))


@pytest.fixture
def desk() -> Iterator[HostDocuments]:
    documents = _desk()
    yield documents
    documents.close()


def _desk() -> HostDocuments:
    return HostDocuments(DocumentCache(Path(IN_MEMORY)), PATIENCE_S)


def _said(desk: HostDocuments) -> dict[int, tuple[dict[str, Document], list[str]]]:
    return {worker: (answers.found, answers.to_request) for worker, answers in desk.answers()}


def _want(desk: HostDocuments, *workers: int, now_s: float = 0.0) -> None:
    for worker in workers:
        desk.take(worker, DocumentNews(wanted=["u"]), now_s)


def _tell(desk: HostDocuments, worker: int, document: Document, now_s: float = 0.0) -> None:
    desk.take(worker, DocumentNews(found={"u": document}), now_s)


def test_one_requests_and_the_others_are_told(desk: HostDocuments) -> None:
    _want(desk, 1, 2, 3)
    assert _said(desk) == {1: ({}, ["u"])}
    _tell(desk, 1, FOUND)
    assert _said(desk) == {2: ({"u": FOUND}, []), 3: ({"u": FOUND}, [])}
    _want(desk, 4)
    assert _said(desk) == {4: ({"u": FOUND}, [])}


def test_another_one_requests_what_a_dead_worker_was_to(desk: HostDocuments) -> None:
    _want(desk, 1, 2, 3)
    desk.worker_ended(2, 0.0)
    _said(desk)
    desk.worker_ended(1, 0.0)
    assert _said(desk) == {3: ({}, ["u"])}
    desk.worker_ended(3, 0.0)
    _want(desk, 4)
    assert _said(desk) == {4: ({}, ["u"])}


def test_another_one_requests_what_takes_too_long_and_the_first_answer_counts(desk: HostDocuments) -> None:
    _want(desk, 1, 2, 3)
    desk.tick(PATIENCE_S - 1)
    assert _said(desk) == {1: ({}, ["u"])}
    desk.tick(PATIENCE_S)
    assert _said(desk) == {2: ({}, ["u"])}
    _tell(desk, 1, FOUND, PATIENCE_S + 1)
    assert _said(desk) == {3: ({"u": FOUND}, [])}


def test_a_worker_that_reaches_nobody_speaks_for_itself_alone(desk: HostDocuments) -> None:
    _want(desk, 1, 2)
    _tell(desk, 1, GONE)
    assert _said(desk) == {1: ({}, ["u"]), 2: ({}, ["u"])}
    _tell(desk, 2, FOUND)
    _want(desk, 1)
    assert _said(desk) == {1: ({"u": FOUND}, [])}


def test_a_host_that_refuses_is_left_alone_by_all_for_longer_each_time(desk: HostDocuments) -> None:
    now_s = 0.0
    for in_a_row in range(1, 5):
        _want(desk, 1, 2, now_s=now_s)
        _said(desk)
        _tell(desk, 1, BUSY, now_s)
        assert _said(desk) == {2: ({"u": BUSY}, [])}
        now_s += failure_lasts_s(in_a_row)
        _want(desk, 3, now_s=now_s - 0.25)
        assert _said(desk) == {3: ({"u": replace(BUSY, lasts_s=0.25)}, [])}
    _want(desk, 1, now_s=now_s)
    _tell(desk, 1, FOUND, now_s)
    _want(desk, 2, now_s=now_s)
    assert _said(desk)[2] == ({"u": FOUND}, [])


def test_a_host_that_says_for_how_long_it_refuses_is_left_alone_by_all_until_then(
    desk: HostDocuments,
) -> None:
    _want(desk, 1)
    _tell(desk, 1, replace(BUSY, lasts_s=10.0))
    _said(desk)
    _want(desk, 2, now_s=4.0)
    assert _said(desk) == {2: ({"u": replace(BUSY, lasts_s=6.0)}, [])}
    _want(desk, 2, now_s=10.0)
    assert _said(desk) == {2: ({}, ["u"])}


@given(st.data(), st.integers(1, 4))
def test_whatever_workers_do_nobody_waits_in_vain(data: st.DataObject, count: int) -> None:
    desk = _desk()
    workers = set(range(count))
    waiting: set[int] = set()
    requesting: set[int] = set()
    alive_requests = 0
    for step in range(data.draw(st.integers(0, 30))):
        worker = data.draw(st.sampled_from(sorted(workers)))
        if data.draw(st.booleans()) and worker in requesting:
            requesting.discard(worker)
            _tell(desk, worker, data.draw(st.sampled_from([GONE, FOUND])), float(step))
        elif data.draw(st.integers(0, 5)) == 0:
            desk.worker_ended(worker, float(step))
            waiting.discard(worker)
            requesting.discard(worker)
            workers.discard(worker)
            workers.add(count + step)
        elif worker not in waiting | requesting:
            waiting.add(worker)
            _want(desk, worker, now_s=float(step))
        for each, (found, to_request) in _said(desk).items():
            assert each in waiting
            waiting.discard(each)
            if to_request:
                assert not found
                requesting.add(each)
                alive_requests += 1
        assert len(requesting) <= 1
        assert requesting or not waiting
    desk.close()


ALBUM = album(90, side=32)


@pytest.mark.parametrize("status", [200, 404])
def test_three_workers_ask_each_host_once(tmp_path: Path, status: int) -> None:
    robots = {"robots.txt": b"User-agent: *\nDisallow: /nothing"} if status == 200 else {}
    with Origin({**ALBUM, **robots}, latency_s=0.02) as one, Origin({**ALBUM, **robots}) as other:
        addresses = [host.url(name) for name in ALBUM for host in (one, other)]
        urls = write_list(tmp_path / "list.parquet", addresses)
        spec = job_spec(
            urls,
            tmp_path / "out",
            http={"robots": "respect", "tdm": "respect", "per_domain": 12},
            output={"samples_per_shard": 10},
            engine={"workers": 3, "threads": 1},
        )
        assert turbo_fetch.run(spec).fetch.successes == len(addresses)
        for origin in (one, other):
            assert origin.connections > 2
            assert origin.hits["/robots.txt"] == origin.hits["/.well-known/tdmrep.json"] == 1
    assert Counter(row["outcome"] for row in ledger(tmp_path / "out")) == {"success": len(addresses)}
