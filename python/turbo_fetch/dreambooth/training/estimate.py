"""How much memory of a GPU a run would take, by the shapes of its tensors: no weights are read, no GPU is needed.

The model is made from its configuration, and encodes, takes a step and makes a sample, on PyTorch's device `meta`,
whose tensors have a shape and a type but no content, with CUDA's rules for types; the bytes that are alive are counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from turbo_fetch.dreambooth.data.cache import CAPTIONS_AT_ONCE
from turbo_fetch.dreambooth.families import DTYPES, Conditioning, Family, skeleton
from turbo_fetch.dreambooth.families.block_swap import AT_ONCE, swapped_matrices
from turbo_fetch.dreambooth.families.quantised import bytes_saved
from turbo_fetch.dreambooth.families.trainable import Trainable, configure_trainable
from turbo_fetch.dreambooth.training.cuda_autocast import cuda_autocast
from turbo_fetch.dreambooth.training.objectives import example_errors
from turbo_fetch.dreambooth.training.trainer import blocks_swapped, place_model
from turbo_fetch.spec import TrainSpec
from turbo_fetch.spec.train_tables import OptimiserSpec

META: Final = torch.device("meta")
CONTEXT_BYTES: Final = 700_000_000
"""What CUDA takes of a card for itself and for libraries, with what its allocator leaves between tensors."""
_STATE_BYTES: Final = {
    "adamw": 8,
    "adamw8bit": 2,
    "lion": 4,
    "prodigy": 16,
    "prodigy_schedulefree": 5,
    "adafactor": 0,
}
"""Of an optimiser, for each number that it trains; those that Adafactor and, beside the weights that it averages, the
schedule-free Prodigy have are of the size of a row and a column."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most bytes of a GPU that are in use at once, by what the run is doing: `encode`, `step`, `sample`."""

    peaks: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        """Of the whole run."""
        return max(self.peaks.values())


def estimate(train: TrainSpec, precision: str, with_prior: bool) -> Estimate:
    """Return what a run would take. Raises ModelError, SpecError as the run does."""
    return Estimator(precision, with_prior).estimate(train)


class Estimator:
    """Estimates of one spec with changes: what is the same in several of them is counted once."""

    def __init__(self, precision: str, with_prior: bool) -> None:
        self._precision, self._with_prior = precision, with_prior
        self._counted: dict[tuple[str, str], int] = {}

    def estimate(self, train: TrainSpec) -> Estimate:
        """Return what a run would take. Raises ModelError, SpecError as the run does."""
        family = skeleton(train.base)
        train = family.with_defaults(train)
        trainable = configure_trainable(family, train)
        place_model(family, META, self._precision, train)
        denoiser, vae, texts = _resident(family, train)
        learning = CONTEXT_BYTES + denoiser + _state_bytes(trainable, train)
        frees, dtype, with_prior = train.frees_text_encoders, DTYPES[self._precision], self._with_prior
        peaks = {}
        if train.cache:
            before = CONTEXT_BYTES if frees else learning
            beside = self._beside("encode", train, lambda: _encoding(family, train))
            peaks["encode"] = before + vae + texts + beside
        needed = (0 if frees else texts) + (0 if train.cache else vae)
        beside = self._beside("step", train, lambda: _step(family, trainable, train, dtype, with_prior))
        peaks["step"] = learning + needed + beside
        if train.sample_every:
            beside = self._beside("sample", train, lambda: _sampling(family, train, dtype))
            peaks["sample"] = learning + vae + (0 if frees else texts) + beside
        return Estimate(peaks)

    def _beside(self, part: str, train: TrainSpec, count: Callable[[], int]) -> int:
        """Return what is alive beside weights and state, on which how these are held has no influence."""
        optimiser = OptimiserSpec(clip=0, fused_backward=train.optimiser.fused_backward)
        usual = {"base_precision": "auto", "blocks_to_swap": 0, "sample_every": 0, "optimiser": optimiser}
        key = part, train.model_copy(update=usual).model_dump_json()
        if key not in self._counted:
            self._counted[key] = count()
        return self._counted[key]


def _resident(family: Family, train: TrainSpec) -> tuple[int, int, int]:
    """Return the bytes that are on the GPU of the denoiser, the VAE and all text encoders."""
    kind = train.base_precision
    saved = {} if kind == "auto" else bytes_saved(family.denoiser, kind)
    sizes = {name: _bytes_of(module) for name, module in family.modules()}
    sizes[family.denoiser_name] -= sum(saved.values())
    for name in sizes:
        blocks = [
            sum(matrix.nbytes - saved.get(id(matrix), 0) for _, _, matrix in swapped_matrices(block))
            for block in blocks_swapped(family, name, train)
        ]
        sizes[name] -= sum(sorted(blocks)[:-AT_ONCE])
    return sizes.pop(family.denoiser_name), sizes.pop("vae"), sum(sizes.values())


def _bytes_of(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum({tensor.untyped_storage()._cdata: tensor.nbytes for tensor in tensors}.values())


def _state_bytes(trainable: Trainable, train: TrainSpec) -> int:
    """Return the bytes of the optimiser and of the running mean."""
    numbers = sum(parameter.numel() for _, parameter in trainable.named())
    return numbers * (_STATE_BYTES[train.optimiser.kind] + (4 if train.ema else 0))


def _encoding(family: Family, train: TrainSpec) -> int:
    with _counted(family) as live, torch.no_grad():
        family.encode_images(torch.empty(1, 3, train.resolution, train.resolution, device=META))
        family.encode_captions([""] * CAPTIONS_AT_ONCE)
    return live.peak


def _step(
    family: Family, trainable: Trainable, train: TrainSpec, dtype: torch.dtype, with_prior: bool
) -> int:
    """Return the bytes of activations and gradients at their most: a forward and a backward pass of a batch."""
    count = train.batch_size * (2 if with_prior else 1)
    shape = family.latent_shape(train.resolution, train.resolution)
    freed = [parameter for _, parameter in trainable.named() if train.optimiser.fused_backward]
    hooks = [parameter.register_post_accumulate_grad_hook(_free_gradient) for parameter in freed]
    remembered = _remembered(family, train, count)
    with _counted(family) as live, cuda_autocast(dtype):
        if not train.cache:
            with torch.no_grad():
                family.encode_images(torch.empty(count, 3, train.resolution, train.resolution, device=META))
        with torch.set_grad_enabled(trainable.has_text_encoder):
            text = remembered or family.encode_captions([""] * count)
        latents = torch.empty(count, *shape, device=META)
        times = torch.zeros(count, dtype=torch.long, device=META)
        predicted = family.predict(latents, times, text, torch.empty(count, 6, device=META))
        example_errors(predicted, latents).mean().backward()
        del predicted, text
    for _, parameter in trainable.named():
        parameter.grad = None
    for hook in hooks:
        hook.remove()
    return live.peak


@torch.no_grad()
def _remembered(family: Family, train: TrainSpec, count: int) -> Conditioning | None:
    """Return what captions came to, if the encoders, which are freed, have left it; nothing of them is counted."""
    return family.encode_captions([""] * count) if train.frees_text_encoders else None


def _free_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _sampling(family: Family, train: TrainSpec, dtype: torch.dtype) -> int:
    latents = torch.empty(2, *family.latent_shape(train.resolution, train.resolution), device=META)
    remembered = _remembered(family, train, 2)
    with _counted(family) as live, torch.no_grad():
        with cuda_autocast(dtype):
            text = remembered or family.encode_captions(["", ""])
            times = torch.zeros(2, dtype=torch.long, device=META)
            family.predict(latents, times, text, torch.empty(2, 6, device=META))
        family.decode(latents[:1])
    return live.peak


@contextmanager
def _counted(family: Family) -> Iterator[_LiveBytes]:
    """Count what is alive beside the model's weights, and the most of it."""
    weights = {
        tensor.untyped_storage()._cdata
        for _, module in family.modules()
        for tensor in (*module.parameters(), *module.buffers())
    }
    with _LiveBytes(weights) as live:
        yield live


class _LiveBytes(TorchDispatchMode):
    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_iter(made):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
