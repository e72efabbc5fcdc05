"""What it costs to share the permits of domains among workers: `python bench/micro/rate_limiter_cost.py`.

Both ends, with the messages pickled between them, in one process: batches of rows are announced, granted, fetched by
nobody and returned, as a worker does with a shard. Told per row, for the worker and for the parent apart, and for
lists of few and of many domains; a download costs a worker some 150 µs.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[2]
ROWS: Final = 10_000
BATCHES: Final = 20
WORKERS: Final = 4


def main() -> None:
    """Measure, print and save."""
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    from bench.machine import describe_machine, now, our_versions

    cases = {
        "every row at another domain": [f"host-{number}.example.org" for number in range(ROWS)],
        "ten rows per domain": [f"host-{number // 10}.example.org" for number in range(ROWS)],
        "one domain": ["one.example.org"] * ROWS,
    }
    figures = {case: _measure(domains) for case, domains in cases.items()}
    result = {
        "micro": "rate-limiter-cost",
        "date": now(),
        "command": "python bench/micro/rate_limiter_cost.py",
        "machine": describe_machine(),
        "versions": our_versions(),
        "workers": WORKERS,
        "rows_per_batch": ROWS,
        "figures": figures,
    }
    Path("bench/results/micro-rate-limiter-cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def _measure(domains: list[str]) -> dict[str, float]:
    """Return the least microseconds and the bytes per row, over batches of workers in turn that share all domains."""
    from turbo_fetch.fetch.limiter_client import LimiterClient
    from turbo_fetch.runners.rate_limiter import RateLimiter
    from turbo_fetch.spec import HttpSpec

    http = HttpSpec()
    limiter = RateLimiter(http)
    clients = [LimiterClient(http) for _ in range(WORKERS)]
    worker_s, parent_s, sizes = [], [], []
    for batch in range(BATCHES):
        number = batch % WORKERS
        client = clients[number]
        spent_s = [0.0, 0.0]
        size = 0

        begun_s = time.process_time()
        client.announce(domains)
        demand = pickle.dumps(client.collect())
        spent_s[0] += time.process_time() - begun_s
        begun_s = time.process_time()
        limiter.take(number, pickle.loads(demand), begun_s)
        grant = pickle.dumps(limiter.grants()[number])
        spent_s[1] += time.process_time() - begun_s
        size += len(demand) + len(grant)
        begun_s = time.process_time()
        for _ in client.apply(pickle.loads(grant)):
            pass
        for domain in domains:
            allocation = client.allocation(domain)
            client.begin(domain, allocation)
            client.start(domain, allocation)
            client.end(domain, allocation)
            client.row_ended(domain)
        demand = pickle.dumps(client.collect())
        spent_s[0] += time.process_time() - begun_s
        begun_s = time.process_time()
        limiter.take(number, pickle.loads(demand), begun_s)
        limiter.tick(begun_s)
        limiter.grants()
        spent_s[1] += time.process_time() - begun_s
        size += len(demand)
        worker_s.append(spent_s[0])
        parent_s.append(spent_s[1])
        sizes.append(size)
    return {
        "worker_us_per_row": min(worker_s) / ROWS * 1e6,
        "parent_us_per_row": min(parent_s) / ROWS * 1e6,
        "message_bytes_per_row": sum(sizes) / len(sizes) / ROWS,
    }


if __name__ == "__main__":
    main()
