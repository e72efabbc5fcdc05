"""Prometheus: an endpoint that says how the run stands whenever it is asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app
from prometheus_client.registry import Collector, CollectorRegistry

from turbo_fetch.progress.tally import BYTES_EDGES, SECONDS_EDGES

PREFIX: Final = "turbo_fetch"
_GAUGES: Final = {
    "rows_done": "Finished rows, including those of earlier runs.",
    "in_flight": "Requests in flight.",
    "waiting": "Rows that wait for a busy domain or for their next attempt.",
    "to_score": "Images that wait for the function of [fetch.score].",
    "held": "Rows that wait until an outage is over, or until it is known whose fault it was that they failed.",
    "outages": "Workers that reach no host, no resolver or no proxy now.",
    "open_shards": "Open shards, not yet committed.",
    "shards": "Committed shards, including those of earlier runs.",
}
_WORKER_GAUGES: Final = {
    "memory_bytes": "Resident memory of a worker.",
    "open_files": "Files and sockets that a worker has open.",
    "in_flight": "Requests of a worker in flight.",
}
_WORKER_COUNTERS: Final = {
    "rows": "Rows that a worker finished.",
    "bytes": "Bytes of bodies that a worker received.",
    "cpu_s": "CPU time of a worker in seconds.",
}


class Prometheus(Collector):
    """Serves the last line taken, on a socket that is bound already."""

    def __init__(self, listener: socket.socket) -> None:
        self._lines: dict[str, Mapping[str, Any]] = {}
        registry = CollectorRegistry()
        registry.register(self)
        address = listener.getsockname()
        self._server = ThreadingWSGIServer(address[:2], _Silent, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        # What server_bind would have set; it would also look up the host's name.
        self._server.server_name, self._server.server_port = address[0], address[1]
        self._server.setup_environ()
        self._server.set_app(make_wsgi_app(registry))
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, line: Mapping[str, Any]) -> None:
        """See Tracker."""
        self._lines[line["kind"]] = line

    def close(self) -> None:
        """See Tracker."""
        self._server.shutdown()
        self._server.server_close()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the last lines; called by the server's threads."""
        if progress := self._lines.get("progress"):
            yield from _fetch_metrics(progress)
            yield from _worker_metrics(progress["workers"])
        if step := self._lines.get("step"):
            labels = ["stage"]
            done = GaugeMetricFamily(f"{PREFIX}_step", "Completed steps of the stage.", labels=labels)
            done.add_metric([step["stage"]], step["step"])
            yield done
            values = GaugeMetricFamily(
                f"{PREFIX}_step_value", "A metric of the stage.", labels=["stage", "name"]
            )
            for name, value in step["values"].items():
                values.add_metric([step["stage"], name], value)
            yield values


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Write no access log."""


def _fetch_metrics(line: Mapping[str, Any]) -> Iterator[Metric]:
    rows = CounterMetricFamily(f"{PREFIX}_rows", "Rows finished in this run.", labels=["outcome"])
    for outcome, count in line["outcomes"].items():
        rows.add_metric([outcome], count)
    yield rows
    yield CounterMetricFamily(f"{PREFIX}_received_bytes", "Bytes of bodies received.", value=line["bytes"])
    yield CounterMetricFamily(f"{PREFIX}_retries", "Retries.", value=line["retries"])
    yield _histogram(
        "request_seconds", "Durations of requests.", SECONDS_EDGES, line["seconds"], line["seconds_sum"]
    )
    yield _histogram("body_bytes", "Sizes of bodies.", BYTES_EDGES, line["sizes"], line["bytes"])
    # Not the `rows_total` of the line: that is the name of the counter above.
    if line["rows_total"] is not None:
        yield GaugeMetricFamily(f"{PREFIX}_list_rows", "Rows of the list.", value=line["rows_total"])
    for name, text in _GAUGES.items():
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=line[name])


def _worker_metrics(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    for name, text in _WORKER_GAUGES.items():
        gauge = GaugeMetricFamily(f"{PREFIX}_worker_{name}", text, labels=["worker"])
        for worker in workers:
            gauge.add_metric([str(worker["worker"])], worker[name])
        yield gauge
    for name, text in _WORKER_COUNTERS.items():
        public = "cpu_seconds" if name == "cpu_s" else name
        counter = CounterMetricFamily(f"{PREFIX}_worker_{public}", text, labels=["worker"])
        for worker in workers:
            counter.add_metric([str(worker["worker"])], worker[name])
        yield counter


def _histogram(
    name: str, text: str, edges: Sequence[float], counts: Sequence[int], total: float
) -> HistogramMetricFamily:
    """Return a histogram as Prometheus wants it: counts up to each edge, all lower classes included."""
    buckets, so_far = [], 0
    for edge, count in zip([*map(str, edges), "+Inf"], counts, strict=True):
        so_far += count
        buckets.append((edge, so_far))
    return HistogramMetricFamily(f"{PREFIX}_{name}", text, buckets=buckets, sum_value=total)
