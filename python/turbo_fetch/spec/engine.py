"""`[engine]`: where the work runs."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from turbo_fetch.spec.table import Table


class EngineSpec(Table):
    """`[engine]`: where the work runs."""

    kind: Literal["local"] = "local"
    """`local`: worker processes on this machine."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Worker processes. One event loop feeds about eight cores of decoding, so `auto` is one per eight."""
    threads: PositiveInt | Literal["auto"] = "auto"
    """Decoding threads per worker; `auto` shares the cores among the workers."""
