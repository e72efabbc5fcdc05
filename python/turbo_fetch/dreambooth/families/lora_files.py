"""LoRA in files that other programs write and read: names of modules and parts, alpha, and the magnitude of DoRA.

peft, and with it diffusers, applies DoRA as m · (W + ΔW) / |W + ΔW|, and ComfyUI as d · (W + ΔW) / |W|, with a norm and
a factor per output in both. So d = m · |W| / |W + ΔW|, which needs the weights that the LoRA is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from turbo_fetch.dreambooth.families.facts import CLIP_SKIP_KEY, PREDICTION_KEY
from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.lycoris_files import ALPHA, is_lycoris
from turbo_fetch.dreambooth.families.lycoris_files import weight_change as lycoris_change
from turbo_fetch.errors import ModelError

DOWN: Final = "lora_A.weight"
UP: Final = "lora_B.weight"
MAGNITUDE: Final = "lora_magnitude_vector"
"""Parts of a module as peft names them."""
DORA_SCALE: Final = "dora_scale"
KOHYA_DOWN: Final = "lora_down.weight"
KOHYA_UP: Final = "lora_up.weight"
_PART: Final = re.compile(r"[._]lora[._]")
"""Between module and part in the names that diffusers converts to."""

Place = tuple[str, str]
"""Component and module."""
Places = tuple[Place, ...]


def module_weight(pipeline: Any, component: str, module: str) -> Tensor:
    """Return the weight that a LoRA changes, in fp32."""
    layer: Any = getattr(pipeline, component).get_submodule(module)
    weight: Tensor = getattr(layer, "base_layer", layer).weight
    return weight.detach().float()


def scale_from_magnitude(magnitude: Tensor, weight: Tensor, change: Tensor) -> Tensor:
    """Return ComfyUI's factor [out, 1, …] for peft's magnitude of a DoRA that adds `change` to `weight`."""
    factor = magnitude.flatten() * _norms(weight) / _norms(weight + change)
    return factor.view(-1, *[1] * (weight.ndim - 1))


def magnitude_from_scale(scale: Tensor, weight: Tensor, change: Tensor) -> Tensor:
    """Return peft's magnitude for ComfyUI's factor: [out], or [1, out, 1, …] of a convolution."""
    magnitude = scale.flatten().float() * _norms(weight + change) / _norms(weight)
    return magnitude if weight.ndim == 2 else magnitude.view(1, -1, *[1] * (weight.ndim - 2))


def weight_change(down: Tensor, up: Tensor, scale: float, weight: Tensor) -> Tensor:
    """Return what a LoRA adds to `weight`."""
    product = up.float().flatten(1) @ down.float().flatten(1)
    return scale * product.to(weight.device).view_as(weight)


def _norms(weight: Tensor) -> Tensor:
    norms: Tensor = weight.flatten(1).norm(dim=1)
    return norms


def read_lora(family: Family, path: Path) -> dict[str, Tensor] | None:
    """Return the weights of a LoRA file as diffusers' `load_lora_weights` takes them; None where it reads the file.

    diffusers leaves out the magnitudes of DoRA, and knows no other naming for a family than its own. Raises ModelError.
    """
    weights = _tensors(path)
    has_dora = any(key.endswith(f".{DORA_SCALE}") for key in weights)
    is_kohya = any(key.endswith(f".{KOHYA_DOWN}") for key in weights)
    if not has_dora and (family.kohya_prefixes or not is_kohya):
        return None
    return {
        key: weight
        for places, parts in _by_module(family, weights, path).items()
        for place, own in _each(family, places, parts, path)
        for key, weight in _for_diffusers(family, place, own, path).items()
    }


def refuse_strange_modules(family: Family, lora: str, file: Mapping[str, str]) -> None:
    """Raise ModelError if a LoRA that diffusers reads has a module that the denoiser has not, which it would leave out.

    `file` is diffusers' `weight_name`, where the LoRA is one file of a folder.
    """
    name = family.denoiser_name
    # As the pipelines ask for it, since blocks of XL are counted in another way in files.
    config = {"unet_config": family.denoiser.config} if name == "unet" else {}
    read: Any = family.pipeline.lora_state_dict(lora, **file, **config)
    weights = read[0] if isinstance(read, tuple) else read
    # Of attention, diffusers' older names are those of a processor within it.
    places = {
        key[: part.start()].replace(".processor.", ".") for key in weights if (part := _PART.search(key))
    }
    there = {f"{name}.{module}" for module, _ in family.denoiser.named_modules()}
    strange = sorted(
        place
        for place in places - there
        if place.startswith(f"{name}.") or not hasattr(family.pipeline, place.partition(".")[0])
    )
    if strange:
        raise _does_not_fit(family, lora, strange)


def _does_not_fit(family: Family, lora: object, strange: Sequence[str]) -> ModelError:
    more = f" and {len(strange) - 1} more" if strange[1:] else ""
    return ModelError(f"{lora}: does not fit this {family.name} model: it has no module {strange[0]}{more}")


def _each(
    family: Family, places: Places, parts: Mapping[str, Tensor], path: Path
) -> Iterator[tuple[Place, Mapping[str, Tensor]]]:
    """Yield the parts of each module in a matrix: what comes to its rows. Raises ModelError."""
    rows = [len(module_weight(family.pipeline, *place)) for place in places]
    if len(places) == 1:
        yield places[0], parts
        return
    cut = [name for name in (KOHYA_UP, UP, DORA_SCALE) if name in parts]
    for name in cut:
        if len(parts[name]) != sum(rows):
            raise ModelError(
                f"{path}: {name} of {', '.join(module for _, module in places)} has {len(parts[name])} rows; "
                f"expected {sum(rows)}"
            )
    pieces = {name: parts[name].split(rows) for name in cut}
    for number, place in enumerate(places):
        yield place, {**parts, **{name: found[number] for name, found in pieces.items()}}


def _by_module(family: Family, weights: Mapping[str, Tensor], path: Path) -> dict[Places, dict[str, Tensor]]:
    """Return the parts of each matrix by the modules that are its rows. Raises ModelError for one that is not there."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        name, part = _split(key)
        modules.setdefault(name, {})[part] = weight
    known = _known_names(family)
    strange = sorted(modules.keys() - known.keys())
    if strange:
        raise _does_not_fit(family, path, strange)
    return {known[name]: parts for name, parts in modules.items()}


def merge_lycoris(family: Family, path: Path, scale: float) -> bool:
    """Add what a file of LoKr or LoHa holds to the weights; return whether it is one. Raises ModelError."""
    weights = _tensors(path)
    if not is_lycoris(weights):
        return False
    for places, parts in _by_module(family, weights, path).items():
        layers: list[Any] = [getattr(family.pipeline, part).get_submodule(module) for part, module in places]
        rows = [len(layer.weight) for layer in layers]
        try:
            change = lycoris_change(parts, (sum(rows), *layers[0].weight.shape[1:]))
        except ModelError as error:
            raise ModelError(f"{path}: {', '.join(module for _, module in places)} {error}") from None
        for layer, own in zip(layers, change.split(rows), strict=True):
            layer.weight.data += (scale * own).to(layer.weight)
    return True


def read_header(path: Path) -> dict[str, str]:
    """Return the header of a safetensors file; empty for any other file."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def settle_training(family: Family, header: Mapping[str, str]) -> None:
    """Have the model be what a LoRA of ours was trained with, where its base says otherwise."""
    family.settle_prediction(header.get(PREDICTION_KEY, "auto"))
    if CLIP_SKIP_KEY in header:
        family.skip_layers(int(header[CLIP_SKIP_KEY]))


def _for_diffusers(
    family: Family, place: tuple[str, str], parts: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    component, module = place
    if not parts.keys() & {KOHYA_DOWN, DOWN} or not parts.keys() & {KOHYA_UP, UP}:
        raise ModelError(
            f"{path}: {module} has {', '.join(sorted(parts))}; expected the two matrices of a LoRA"
        )
    down = parts[KOHYA_DOWN if KOHYA_DOWN in parts else DOWN].float()
    up = parts[KOHYA_UP if KOHYA_UP in parts else UP].float()
    if ALPHA in parts:
        up = up * (float(parts[ALPHA]) / down.shape[0])
    converted = {f"{component}.{module}.{DOWN}": down, f"{component}.{module}.{UP}": up}
    if DORA_SCALE in parts:
        weight = module_weight(family.pipeline, component, module).cpu()
        scale = parts[DORA_SCALE]
        if scale.shape[0] != weight.shape[0]:
            raise ModelError(
                f"{path}: a DoRA with a factor for each input of a layer, which diffusers cannot apply; "
                "expected one with a factor for each output"
            )
        magnitude = magnitude_from_scale(scale, weight, weight_change(down, up, 1.0, weight))
        converted[f"{component}.{magnitude_name(component, module)}"] = magnitude
    return converted


def magnitude_name(component: str, module: str) -> str:
    """Return the name of a magnitude: transformers wants a full parameter name where peft wants none."""
    return f"{module}.{MAGNITUDE}{'.weight' if component.startswith('text_encoder') else ''}"


def _known_names(family: Family) -> dict[str, Places]:
    """Return the modules that are the rows of a matrix by every name that it has in files."""
    of_the_original = {
        name: tuple((family.denoiser_name, module) for module in modules)
        for names, modules in family.matrices_in_files()
        for name in names
    }
    return of_the_original | {
        name: ((component, module),)
        for component in family.trained_names
        for module, layer in getattr(family.pipeline, component).named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        for name in family.lora_names(component, module)
    }


def _split(key: str) -> tuple[str, str]:
    for part in (KOHYA_DOWN, KOHYA_UP, DOWN, UP):
        if key.endswith(f".{part}"):
            return key.removesuffix(f".{part}"), part
    name, _, part = key.rpartition(".")
    return name, part


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError:
        # Of another kind, for diffusers to read or to refuse.
        return {}
