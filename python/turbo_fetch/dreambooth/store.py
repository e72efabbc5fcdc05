"""Arrays on disk that are computed once: known by a fingerprint, whole or not there, mapped into memory."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from turbo_fetch.storage.disk import sync_one
from turbo_fetch.storage.failures import explained

Arrays = dict[str, NDArray[np.float32]]


def fingerprint(*parts: Any) -> str:
    """Return a name for what can be written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 over names, kinds and values of all weights of a module."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def stored(folder: Path, shapes: Mapping[str, tuple[int, ...]], fill: Callable[[Arrays], None]) -> Arrays:
    """Return the arrays in `folder`, read only; if it is not there, `fill` computes them first.

    What `fill` leaves behind when it is interrupted is not used again. Raises OutputError if the disk is full.
    """
    if not folder.is_dir():
        # Of this process: devices that train together fill the same cache at the same time.
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            _write(unfinished, shapes, fill)
            try:
                unfinished.rename(folder)
            except OSError as error:
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes}


def _write(folder: Path, shapes: Mapping[str, tuple[int, ...]], fill: Callable[[Arrays], None]) -> None:
    arrays: Arrays = {}
    with explained(str(folder), sum(4 * math.prod(shape) for shape in shapes.values())):
        folder.mkdir(parents=True)
        for name, shape in shapes.items():
            path = folder / f"{name}.npy"
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            _take_space(path)
    fill(arrays)
    with explained(str(folder)):
        for name, array in arrays.items():
            assert isinstance(array, np.memmap)
            array.flush()
            sync_one(folder / f"{name}.npy")


def _take_space(path: Path) -> None:
    """Take the disk space of a mapped file now: a page that finds the disk full later kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
