"""Checkpoints as they are written: whole or not there, with the random states of all libraries in them."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from turbo_fetch.dreambooth.run_folder import PARTIAL
from turbo_fetch.storage.disk import sync_one
from turbo_fetch.storage.failures import explained


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when all of it is on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Publish a checkpoint. Raises OutputError, for instance if the disk is full; the last one stays."""
        final = Path(path)
        partial = final.with_name(f"{final.name}{PARTIAL}")
        try:
            with explained(str(final)):
                final.parent.mkdir(parents=True, exist_ok=True)
                _write(checkpoint, partial)
                partial.rename(final)
                sync_one(final.parent)
        finally:
            partial.unlink(missing_ok=True)


def random_states() -> dict[str, Any]:
    """Return the states of the generators of all libraries, as what `torch.load` reads safely."""
    kind, numbers, place, has_gauss, gauss = np.random.get_state(legacy=True)
    states = {
        "python": _plain(random.getstate()),
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(numbers).astype(np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def seed_random_states(seed: int) -> None:
    """Put the generators of all libraries where a run with this seed begins."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put the generators of all libraries into saved states."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, place, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, _numpy(keys).astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def _numpy(values: Tensor) -> Any:
    return values.cpu().numpy()


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            # PyTorch's writer hides what the system said behind an exception of its own.
            cause = error.__context__ or error.__cause__
            if isinstance(cause, OSError):
                raise cause from None
            file.write(b"\0" * (1 << 20))
            file.flush()
            raise
        file.flush()
        os.fsync(file.fileno())
