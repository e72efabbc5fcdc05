"""What the autoencoder takes of memory: batches image by image, and large images tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from torch import Tensor

from turbo_fetch.spec.table import VaeTiling

LARGE_PIXELS: Final = 2 * 1024**2
"""Images of more pixels are tiled where a spec says nothing; no published model is trained with such."""


def is_tiled(wish: VaeTiling, pixels: int) -> bool:
    """Return whether images of so many pixels go through the autoencoder in tiles."""
    return pixels > LARGE_PIXELS if wish == "auto" else wish


def can_tile(vae: Any) -> bool:
    """Return whether an autoencoder of diffusers works in tiles."""
    return hasattr(vae, "use_tiling")


def spare_memory(vae: Any, scale: int, wish: Callable[[], VaeTiling]) -> None:
    """Have an autoencoder take one image of a batch at a time, which changes nothing, and tiles by `is_tiled`.

    `scale` is how many pixels along a side it makes one latent of.
    """
    if hasattr(vae, "use_slicing"):
        vae.enable_slicing()
    if can_tile(vae):
        for method, pixels_each in (("encode", 1), ("decode", scale**2)):
            _tile(vae, method, pixels_each, wish)


def _tile(vae: Any, method: str, pixels_each: int, wish: Callable[[], VaeTiling]) -> None:
    run: Callable[..., Any] = getattr(vae, method)

    @wraps(run)
    def in_tiles(given: Tensor, *args: Any, **kwargs: Any) -> Any:
        height, width = given.shape[-2:]
        vae.use_tiling = is_tiled(wish(), height * width * pixels_each)
        return run(given, *args, **kwargs)

    setattr(vae, method, in_tiles)
