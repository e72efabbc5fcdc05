"""`dummy`: no pictures, only the metadata; to measure, or to check a list."""

from __future__ import annotations

from turbo_fetch.dataset.samples import Samples


class Nothing:
    """Takes samples and makes no file of them."""

    def add(self, samples: Samples) -> None:
        """Drop the samples."""

    def finish(self, name: str) -> None:
        """There is no file."""

    def close(self) -> None:
        """Nothing is held open."""
