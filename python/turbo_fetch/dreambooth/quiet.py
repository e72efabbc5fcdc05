"""Libraries that keep to themselves what a user of turbo-fetch can neither see nor change."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# At its import it sets how much it tells, which is to be before.
import diffusers  # noqa: F401
import transformers  # noqa: F401

_TALKERS: Final = (
    "diffusers",
    "huggingface_hub",
    "transformers",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning.pytorch.utilities.rank_zero",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Have them tell of errors alone while the context lasts; what matters of the rest is told by turbo-fetch."""
    levels = {name: logging.getLogger(name).level for name in _TALKERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim.lr_scheduler")
        # Of processors alone: autocast of GPUs gives both the same type.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
