"""Which worker requests which document of a host, and who waits for it: each host is asked once by a run.

Bookkeeping: time is passed in, messages come out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from turbo_fetch.fetch.documents import Document, DocumentAnswers, DocumentNews, failure_lasts_s
from turbo_fetch.runners.document_cache import DocumentCache

MAX_FAILURES: Final = 100_000
"""Hosts that refuse their documents and are remembered."""


@dataclass(slots=True)
class _Question:
    """A document that is being requested."""

    asker: int
    asked_s: float
    waiting: deque[int] = field(default_factory=deque)
    """The workers that need it besides."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A failure that is the host's: it answered, but not with the document."""

    document: Document
    ends_s: float
    in_a_row: int


class HostDocuments:
    """The parent's end of :mod:`turbo_fetch.fetch.documents`; a worker has `patience_s` to request a document."""

    def __init__(self, cache: DocumentCache, patience_s: float) -> None:
        self._cache = cache
        self._patience_s = patience_s
        self._questions: dict[str, _Question] = {}
        self._refusals: OrderedDict[str, _Refusal] = OrderedDict()
        self._answers: dict[int, DocumentAnswers] = {}

    def answers(self) -> Iterator[tuple[int, DocumentAnswers]]:
        """Return what there is to send, by worker, and forget it."""
        answers, self._answers = self._answers, {}
        return iter(answers.items())

    def take(self, worker: int, news: DocumentNews, now_s: float) -> None:
        """Take what a worker says."""
        self._cache.store({url: each for url, each in news.found.items() if each.failure is None})
        for url, document in news.found.items():
            self._found(worker, url, document, now_s)
        known = self._cache.find(url for url in news.wanted if url not in self._questions)
        for url in news.wanted:
            refusal = self._refusals.get(url)
            if url in known:
                self._answer(worker).found[url] = known[url]
            elif url in self._questions:
                self._questions[url].waiting.append(worker)
            elif refusal is not None and now_s < refusal.ends_s:
                left = replace(refusal.document, lasts_s=refusal.ends_s - now_s)
                self._answer(worker).found[url] = left
            else:
                self._ask(worker, url, now_s)

    def worker_ended(self, worker: int, now_s: float) -> None:
        """Let others request what a worker was to, which is gone."""
        self._answers.pop(worker, None)
        for url, question in list(self._questions.items()):
            question.waiting = deque(other for other in question.waiting if other != worker)
            if question.asker == worker:
                self._ask_next(url, question, now_s)

    def tick(self, now_s: float) -> None:
        """Let others request what a worker was to that has had its time; to be called now and then."""
        for url, question in list(self._questions.items()):
            if question.waiting and now_s - question.asked_s >= self._patience_s:
                self._ask_next(url, question, now_s)

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()

    def _found(self, worker: int, url: str, document: Document, now_s: float) -> None:
        question = self._questions.get(url)
        if document.failure is None:
            self._refusals.pop(url, None)
        elif document.status:
            self._refuse(url, document, now_s)
        else:
            # Nobody answered, which may be for want of a network where that worker is.
            if question is not None and question.asker == worker:
                self._ask_next(url, question, now_s)
            return
        if question is not None:
            del self._questions[url]
            for other in question.waiting:
                self._answer(other).found[url] = document

    def _refuse(self, url: str, document: Document, now_s: float) -> None:
        before = self._refusals.pop(url, None)
        in_a_row = 1 if before is None else before.in_a_row + 1
        ends_s = now_s + failure_lasts_s(in_a_row, document.lasts_s)
        self._refusals[url] = _Refusal(document, ends_s, in_a_row)
        if len(self._refusals) > MAX_FAILURES:
            self._refusals.popitem(last=False)

    def _ask(self, worker: int, url: str, now_s: float) -> None:
        self._questions[url] = _Question(worker, now_s)
        self._answer(worker).to_request.append(url)

    def _ask_next(self, url: str, question: _Question, now_s: float) -> None:
        if not question.waiting:
            del self._questions[url]
            return
        question.asker, question.asked_s = question.waiting.popleft(), now_s
        self._answer(question.asker).to_request.append(url)

    def _answer(self, worker: int) -> DocumentAnswers:
        return self._answers.setdefault(worker, DocumentAnswers())
