"""LoRA weights under the names of diffusers and of kohya's scripts, which ComfyUI and the web UIs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import get_peft_model_state_dict
from torch import Tensor

from turbo_fetch.dreambooth.export.files import write_safetensors
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA, KOHYA_LORA

_KOHYA_PARTS: Final = {
    ".lora_A.weight": ".lora_down.weight",
    ".lora_B.weight": ".lora_up.weight",
    ".lora_magnitude_vector": ".dora_scale",
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRA of one component: weights by peft's names, and peft's configuration."""

    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]

    @property
    def alpha(self) -> float:
        """Scale is alpha / rank."""
        return float(self.config["lora_alpha"])


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
    """Write the model's LoRA to `folder` in both namings. Raises OutputError."""
    adapters = adapters_of(family)
    write_safetensors(
        diffusers_weights(adapters), folder / DIFFUSERS_LORA, diffusers_metadata(adapters, metadata)
    )
    write_safetensors(
        kohya_weights(family, adapters), folder / KOHYA_LORA, kohya_metadata(adapters, metadata)
    )


def diffusers_weights(adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Return the weights as diffusers' `load_lora_weights` reads them."""
    return {
        f"{component}.{_diffusers_name(component, name)}": weight
        for component, adapter in adapters.items()
        for name, weight in adapter.weights.items()
    }


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
    """Return the weights as kohya's scripts name them, with one alpha per module."""
    named: dict[str, Tensor] = {}
    for component, adapter in adapters.items():
        for name, weight in adapter.weights.items():
            module, part = _split(name)
            key = f"{family.kohya_prefixes[component]}_{_with_wrapper(component, module).replace('.', '_')}"
            named[key + part] = weight[:, None] if part == ".dora_scale" and weight.ndim == 1 else weight
            named[f"{key}.alpha"] = torch.tensor(adapter.alpha)
    return named


def kohya_metadata(adapters: Mapping[str, Adapter], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the header that kohya's scripts write and the web UIs show."""
    first = next(iter(adapters.values()))
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(first.config["r"]),
        "ss_network_alpha": f"{first.alpha:g}",
        **metadata,
    }


def _diffusers_name(component: str, name: str) -> str:
    # transformers, which loads the text encoder's part, wants a full parameter name where peft wants none.
    magnitude = component.startswith("text_encoder") and name.endswith(".lora_magnitude_vector")
    return f"{name}.weight" if magnitude else name


def _split(name: str) -> tuple[str, str]:
    for part, kohya in _KOHYA_PARTS.items():
        module, found, _ = name.partition(part)
        if found:
            return module, kohya
    raise KeyError(name)


def _with_wrapper(component: str, module: str) -> str:
    # transformers 5.6 took `text_model` out of the paths of CLIP's text model; the readers expect it.
    if component.startswith("text_encoder") and not module.startswith("text_model."):
        return f"text_model.{module}"
    return module


def _stored(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float32).contiguous()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
