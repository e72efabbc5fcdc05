"""The worker's end of :mod:`turbo_fetch.fetch.documents`: what it needs is asked of the parent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from turbo_fetch.fetch.documents import Document, DocumentAnswers, DocumentNews
from turbo_fetch.outcomes import Outcome

Ask = Callable[[str], Awaitable[Document]]
"""Requests the address of a document; never raises."""


class SharedDocuments:
    """What a worker asks for and is told; belongs to one event loop."""

    def __init__(self) -> None:
        self._news = DocumentNews()
        self._has_news = asyncio.Event()
        self._answers: dict[str, asyncio.Future[Document | None]] = {}
        """Of the parent; None is that this worker is to request the document."""

    async def get(self, url: str, ask: Ask) -> Document:
        """Return the document at `url`, asked for if no worker has done so within a day; one call per address at a
        time."""
        answer: asyncio.Future[Document | None] = asyncio.get_running_loop().create_future()
        self._answers[url] = answer
        self._news.wanted.append(url)
        self._has_news.set()
        found = await answer
        if found is not None:
            return found
        document = Document(failure=(Outcome.CONNECT, "cancelled"))
        try:
            document = await ask(url)
        finally:
            self._news.found[url] = document
            self._has_news.set()
        return document

    def apply(self, answers: DocumentAnswers) -> None:
        """Take what the parent says."""
        for url, document in (*answers.found.items(), *((url, None) for url in answers.to_request)):
            waiting = self._answers.pop(url, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(document)

    async def next_news(self) -> DocumentNews:
        """Return what there is to say next, as soon as there is something."""
        await self._has_news.wait()
        self._has_news.clear()
        news, self._news = self._news, DocumentNews()
        return news
