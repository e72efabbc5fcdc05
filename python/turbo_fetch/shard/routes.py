"""How each row of a shard gets its bytes: it is requested, read from a source, or neither."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from turbo_fetch.arrow.rows import rows_at
from turbo_fetch.arrow.schemas import IMAGE_AT, RECORD
from turbo_fetch.fetch.failures import Failure
from turbo_fetch.fetch.request import Request
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.urls import ParsedUrls, parse_urls
from turbo_fetch.shard.deny_lists import DenyList
from turbo_fetch.sources.addresses import Sources
from turbo_fetch.sources.column_pool import Series
from turbo_fetch.sources.identity import Identities, place_of
from turbo_fetch.sources.reading_pool import Reading
from turbo_fetch.spec import FetchSpec

Headers = Mapping[int, Mapping[str, str]]
NOWHERE: Failure = (Outcome.NO_RECORD, "the list does not say where the record is")


@dataclass(slots=True)
class Routes:
    """What is done about rows."""

    requests: list[Request] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    ended: list[tuple[int, tuple[Outcome, str | None]]] = field(default_factory=list)
    """Rows that end at once."""


class Router:
    """Decides for the rows of a job. Nothing is read here, nor asked for."""

    def __init__(self, fetch: FetchSpec, deny: DenyList | None) -> None:
        self._sources = Sources(fetch)
        self._deny = deny
        self._identities = None if deny is None else Identities(fetch)
        self._prefix = "" if fetch.input.warc is None else fetch.input.warc.prefix

    def routes(
        self, rows: Sequence[int], source: pa.RecordBatch, headers: Headers, duplicates: Mapping[int, str]
    ) -> Routes:
        """Return how `rows` get their bytes; `source` has all rows of the shard."""
        wanted = [name for name in ("url", IMAGE_AT, *RECORD) if name in source.schema.names]
        source = rows_at(source.select(wanted), np.asarray(rows, np.uint32))
        texts = source.column("url")
        urls = parse_urls(texts)
        refused, found = self._refused(rows, source, urls, duplicates), Routes()
        if IMAGE_AT not in source.schema.names and RECORD[0] not in source.schema.names:
            self._by_url(rows, texts, urls, headers, refused, found)
            return found
        found.ended += refused.items()
        left = [(place, row) for place, row in enumerate(rows) if row not in refused]
        if IMAGE_AT in source.schema.names:
            _by_column(left, source.column(IMAGE_AT).to_pylist(), found)
        else:
            self._by_record(left, source.select(RECORD).to_pylist(), headers, found)
        return found

    def _by_url(
        self,
        rows: Sequence[int],
        texts: pa.StringArray,
        urls: ParsedUrls,
        headers: Headers,
        refused: Mapping[int, Failure],
        found: Routes,
    ) -> None:
        parsed = zip(rows, urls.normalised, urls.domain, urls.error, strict=True)
        for place, (row, url, domain, error) in enumerate(parsed):
            if row in refused:
                found.ended.append((row, refused[row]))
            elif url is None or domain is None:
                self._elsewhere(row, texts[place].as_py(), error, found)
            else:
                found.requests.append(Request(row, url, domain, headers.get(row)))

    def _elsewhere(
        self,
        row: int,
        text: str | None,
        error: str | None,
        found: Routes,
        place: tuple[int, int | None] = (0, None),
    ) -> None:
        """Route a row whose text is no address of the web, by the error that it has as one, or to bytes at a place."""
        reading = self._sources.reading(row, text, *place)
        if isinstance(reading, Reading):
            found.readings.append(reading)
        else:
            found.ended.append((row, reading or (Outcome.URL, error)))

    def _by_record(
        self,
        left: Sequence[tuple[int, int]],
        records: Sequence[dict[str, str]],
        headers: Headers,
        found: Routes,
    ) -> None:
        """Route rows, each with its place among `records`, to byte ranges of archives."""
        addresses = [f"{self._prefix}{record[RECORD[0]] or ''}" for record in records]
        parsed = parse_urls(pa.array(addresses, pa.string()))
        for index, row in left:
            file, offset, length = (records[index][name] for name in RECORD)
            place = place_of(offset, length)
            url, domain = parsed.normalised[index], parsed.domain[index]
            if not file or place is None:
                found.ended.append((row, NOWHERE))
            elif url is not None and domain is not None:
                wanted = {**headers.get(row, {}), "Range": f"bytes={place[0]}-{place[1] - 1}"}
                found.requests.append(Request(row, url, domain, wanted))
            else:
                self._elsewhere(row, addresses[index], parsed.error[index], found, place)

    def _refused(
        self, rows: Sequence[int], source: pa.RecordBatch, urls: ParsedUrls, duplicates: Mapping[int, str]
    ) -> dict[int, Failure]:
        """Return why some rows are neither requested nor read."""
        refused: dict[int, Failure] = {
            row: (Outcome.DUPLICATE, duplicates[row]) for row in rows if row in duplicates
        }
        if self._deny is None or self._identities is None:
            return refused
        known = self._identities.of(pa.Table.from_batches([source]))
        for row, identity, host in zip(rows, known, urls.host, strict=True):
            reason = None if identity is None else self._deny.reason(identity, host)
            if reason is not None:
                refused[row] = Outcome.DENIED, reason
        return refused


def _by_column(left: Sequence[tuple[int, int]], places: Sequence[str], found: Routes) -> None:
    """Route rows to the images in columns, each with its place among the texts that say where these are."""
    by_file: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, row in left:
        number, _, file = places[index].partition(" ")
        by_file[file].append((int(number), row))
    found.series += [Series(file, tuple(sorted(rows))) for file, rows in by_file.items()]
