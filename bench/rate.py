"""The rate of a steady stream of events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def steady_rate(times_s: Sequence[float], skip: float = 0.25) -> float:
    """Return events per second, the first and last `skip` of them left out as start and end of the stream.

    The slope of count against time by least squares: events that come in bursts, as those of requests with
    equal latencies do, would make the time between two single events a matter of luck.
    """
    times = np.sort(np.asarray(times_s, dtype=np.float64))
    middle = times[int(len(times) * skip) : int(len(times) * (1 - skip))]
    return float(np.polyfit(middle - middle[0], np.arange(len(middle)), 1)[0])
