"""LoRA weights under the names of diffusers and of kohya's scripts, which ComfyUI and the web UIs read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor

from turbo_fetch.dreambooth.export.files import write_safetensors
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.families.family import with_wrapper
from turbo_fetch.dreambooth.families.lora_files import (
    DORA_SCALE,
    DOWN,
    KOHYA_DOWN,
    KOHYA_UP,
    MAGNITUDE,
    UP,
    magnitude_name,
    module_weight,
    scale_from_magnitude,
    weight_change,
)
from turbo_fetch.dreambooth.families.lycoris_files import ALPHA, PARTS, is_lycoris, stored_parts
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA, KOHYA_LORA


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRA of one component: weights by peft's names, and peft's configuration."""

    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]

    @property
    def alpha(self) -> float:
        """Scale is alpha / rank."""
        return float(self.config["alpha" if self.is_lycoris else "lora_alpha"])

    @property
    def is_lycoris(self) -> bool:
        """Whether it is a LoKr or LoHa."""
        return is_lycoris(self.weights)

    @property
    def modules(self) -> dict[str, dict[str, Tensor]]:
        """The parts of each module."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, weight in self.weights.items():
            part = next(part for part in (DOWN, UP, MAGNITUDE, *PARTS) if name.endswith(f".{part}"))
            found.setdefault(name.removesuffix(f".{part}"), {})[part] = weight
        return found


def adapters_of(family: Family) -> dict[str, Adapter]:
    """Return the LoRA of each component that has one."""
    found = {}
    for component in family.trained_names:
        module = getattr(family.pipeline, component)
        config = getattr(module, "peft_config", {}).get("default")
        if config is not None:
            # A table that a new word made longer is saved with the word, and is no part of the LoRA.
            weights = get_peft_model_state_dict(module, adapter_name="default", save_embedding_layers=False)
            found[component] = Adapter(
                {key: _stored(weight) for key, weight in weights.items()}, config.to_dict()
            )
    return found


def save_lora(family: Family, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write the model's LoRA to `folder` in both namings, a LoKr or LoHa in LyCORIS' alone. Raises OutputError."""
    adapters = adapters_of(family)
    if not any(adapter.is_lycoris for adapter in adapters.values()):
        write_safetensors(
            diffusers_weights(adapters), folder / DIFFUSERS_LORA, diffusers_metadata(adapters, metadata)
        )
    weights = kohya_weights(family, adapters)
    header = kohya_metadata(family, adapters, metadata)
    # By this hash of the weights alone the web UIs and civitai know a LoRA whose header was edited.
    header["sshs_model_hash"] = weights_hash(weights)
    write_safetensors(weights, folder / KOHYA_LORA, header)


def diffusers_weights(adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Return the weights as diffusers' `load_lora_weights` reads them, whatever the version of transformers."""
    named: dict[str, Tensor] = {}
    for component, adapter in adapters.items():
        for module, parts in adapter.modules.items():
            path = with_wrapper(component, module)
            for part, weight in parts.items():
                name = magnitude_name(component, path) if part == MAGNITUDE else f"{path}.{part}"
                named[f"{component}.{name}"] = weight
    return named


def diffusers_metadata(adapters: Mapping[str, Adapter], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the header with which diffusers restores alpha, targets and DoRA."""
    config = {
        f"{component}.{key}": value
        for component, adapter in adapters.items()
        for key, value in adapter.config.items()
    }
    plain = json.dumps(config, default=_plain, sort_keys=True)
    return {"format": "pt", "lora_adapter_metadata": plain, **metadata}


def kohya_weights(family: Family, adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Return the weights as ComfyUI and the web UIs read them.

    That is kohya's naming, with one alpha per module; and for a family that they know by diffusers' names, those,
    which have no place for alpha: it is in the weights.
    """
    named: dict[str, Tensor] = {}
    for component, adapter in adapters.items():
        for module, parts in adapter.modules.items():
            name = family.lora_names(component, module)[0]
            if adapter.is_lycoris:
                stored = stored_parts(parts, adapter.alpha, adapter.config["r"])
                named |= {f"{name}.{part}": weight for part, weight in stored.items()}
                continue
            scale = adapter.alpha / len(parts[DOWN])
            if family.kohya_prefixes:
                named[f"{name}.{KOHYA_DOWN}"], named[f"{name}.{KOHYA_UP}"] = parts[DOWN], parts[UP]
                named[f"{name}.{ALPHA}"] = torch.tensor(adapter.alpha)
            else:
                named[f"{name}.{DOWN}"], named[f"{name}.{UP}"] = parts[DOWN], parts[UP] * scale
            if MAGNITUDE in parts:
                weight = module_weight(family.pipeline, component, module).cpu()
                change = weight_change(parts[DOWN], parts[UP], scale, weight)
                named[f"{name}.{DORA_SCALE}"] = scale_from_magnitude(parts[MAGNITUDE], weight, change)
    return named


def kohya_metadata(
    family: Family, adapters: Mapping[str, Adapter], metadata: Mapping[str, str]
) -> dict[str, str]:
    """Return the header that kohya's scripts write, by which the web UIs sort, show and hide what there is."""
    first = next(iter(adapters.values()))
    model = family.header()
    arguments = _network_arguments(first)
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        **model,
        "modelspec.architecture": f"{model['modelspec.architecture']}/lora",
        "ss_network_module": "lycoris.kohya" if arguments else "networks.lora",
        "ss_network_dim": str(first.config["r"]),
        "ss_network_alpha": f"{first.alpha:g}",
        "ss_network_args": json.dumps(arguments),
        **metadata,
    }


def _network_arguments(adapter: Adapter) -> dict[str, str]:
    """Return what LyCORIS is told of what is no plain LoRA."""
    if adapter.is_lycoris:
        kind = str(adapter.config["peft_type"].value).lower()
        return {"algo": kind} | (
            {"factor": str(adapter.config["decompose_factor"])} if kind == "lokr" else {}
        )
    return {"algo": "lora", "dora_wd": "True", "wd_on_out": "True"} if adapter.config["use_dora"] else {}


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a safetensors file without its header."""
    file = save(dict(weights))
    return hashlib.sha256(memoryview(file)[8 + int.from_bytes(file[:8], "little") :]).hexdigest()


def _stored(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float32).contiguous()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
