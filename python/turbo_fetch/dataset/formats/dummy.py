"""`dummy`: no images, only the metadata; to measure, or to check a list."""

from __future__ import annotations

from typing import Final

from turbo_fetch.dataset.formats.format import TABLE_READERS, Format

FORMAT: Final = Format(loads_in=f"{TABLE_READERS} (there are no images)")
