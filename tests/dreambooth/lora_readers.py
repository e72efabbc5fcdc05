"""How other programs read a LoRA file, stated from their source as facts: names of modules, alpha, DoRA, header.

Below `READERS`, the same of LoKr and LoHa.

Sources: ComfyUI comfy/lora.py (`model_lora_keys_unet`, `model_lora_keys_clip`) and comfy/weight_adapter/ (`lora.py`,
`lokr.py`, `loha.py`, `base.weight_decompose`); Forge backend/patcher/lora.py and
extensions-builtin/sd_forge_lora/network.py; AUTOMATIC1111 extensions-builtin/Lora/ (`network.py`, `networks.py`,
`network_lora.py`, `network_lokr.py`, `network_hada.py`); kohya-ss/sd-scripts networks/lora.py,
library/sai_model_spec.py and library/model_util.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Path = str
"""Of a module: its component and its path in diffusers, such as `unet.mid_block.attentions.0.proj_in`."""
OriginalName = Callable[[str], str]
"""From a module's path in the UNet of diffusers to that in the original checkpoint."""


TRANSFORMERS = {"flux", "flux2", "flux2-dev", "qwen-image", "z-image"}
"""Families that neither AUTOMATIC1111 nor sd-scripts' networks/lora.py has."""


def _underscored(path: str) -> str:
    return path.replace(".", "_")


def kohya_names(family: str, path: Path, original: OriginalName) -> set[str]:
    """sd-scripts: prefix and path with underscores; XL is trained in the original layout, and read in no other."""
    component, _, module = path.partition(".")
    if family == "sd3" or family in TRANSFORMERS:
        return set()
    if component == "unet":
        return {f"lora_unet_{_underscored(original(module) if family == 'sdxl' else module)}"}
    prefix = {"text_encoder": "lora_te1" if family == "sdxl" else "lora_te", "text_encoder_2": "lora_te2"}
    return {f"{prefix[component]}_text_model_{_underscored(module)}"}


def comfyui_names(family: str, path: Path, original: OriginalName) -> set[str]:
    """ComfyUI: all of kohya's, for SD3 and Flux those of diffusers and OneTrainer, and for others more.

    It has Z-Image's three matrices of attention as one, and finds each by its name in diffusers.
    """
    component, _, module = path.partition(".")
    text = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    if component in text:
        names = {f"{text[component]}_text_model_{_underscored(module)}", f"{component}.text_model.{module}"}
        return names | (
            {f"lora_te_text_model_{_underscored(module)}"} if component == "text_encoder" else set()
        )
    if family in {"flux", "flux2", "flux2-dev"}:
        names = {f"lora_transformer_{_underscored(module)}", f"lycoris_{_underscored(module)}"}
        return {f"transformer.{module}", *names}
    if family in {"qwen-image", "z-image"}:
        names = {f"transformer.{module}", f"diffusion_model.{module}", module}
        flat = _underscored(module)
        return {*names, f"lycoris_{flat}", *([f"lora_unet_{flat}"] if family == "qwen-image" else [])}
    if family == "sd3":
        return {f"transformer.{module}", f"lora_transformer_{_underscored(module)}"}
    return {f"lora_unet_{_underscored(module)}", f"lora_unet_{_underscored(original(module))}"}


def forge_names(family: str, path: Path, original: OriginalName) -> set[str]:
    """Forge: ComfyUI's, without those of SD3's transformer; of newer families it has Flux.1 alone."""
    known = family != "sd3" and family not in TRANSFORMERS - {"flux"}
    return comfyui_names(family, path, original) if known else set()


def automatic_names(family: str, path: Path, original: OriginalName) -> set[str]:
    """AUTOMATIC1111: diffusers' blocks of the UNet are renumbered, others pass; SD3 by a table of diffusers' names."""
    component, _, module = path.partition(".")
    if family in TRANSFORMERS:
        return set()
    if family == "sd3":
        return {f"transformer.{module}"} if component == "transformer" else set()
    return kohya_names(family, path, original) | (
        comfyui_names(family, path, original) if component == "unet" else set()
    )


def _norm(weight: Tensor, axis: int) -> Tensor:
    length: Tensor = weight.norm(dim=axis, keepdim=True)
    return length


def plain(weight: Tensor, change: Tensor, scale: Tensor | None) -> Tensor:
    """sd-scripts: W + ΔW; it knows no DoRA."""
    assert scale is None
    return weight + change


def by_outputs_of_the_base(weight: Tensor, change: Tensor, scale: Tensor | None) -> Tensor:
    """ComfyUI and Forge: a factor per output [out, 1] over norms of W, one per input [1, in] over those of W + ΔW."""
    if scale is None:
        return weight + change
    if scale.shape[0] == weight.shape[0]:
        return (weight + change) * scale / _norm(weight, 1)
    return (weight + change) * scale / _norm(weight + change, 0)


def by_inputs(weight: Tensor, change: Tensor, scale: Tensor | None) -> Tensor:
    """AUTOMATIC1111: always a factor per input [1, in] over the norms of W + ΔW."""
    return weight + change if scale is None else (weight + change) * scale / _norm(weight + change, 0)


@dataclass(frozen=True)
class Reader:
    """A program that reads LoRA files."""

    names: Callable[[str, Path, OriginalName], set[str]]
    merge: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    reads_a_and_b: bool = True
    """Whether it knows peft's names of the two matrices beside kohya's."""

    def merged(
        self, file: Mapping[str, Tensor], family: str, weights: Mapping[Path, Tensor], original: OriginalName
    ) -> dict[Path, Tensor]:
        """Return the weights that it makes of `weights`. Raises KeyError for a key that it does not understand."""
        left, made = dict(file), dict(weights)
        for path, weight in weights.items():
            for name in self.names(family, path, original):
                found = self._taken(left, name)
                if found is not None:
                    down, up, alpha, scale = found
                    factor = 1.0 if alpha is None else float(alpha) / down.shape[0]
                    made[path] = self.merge(weight, factor * (up @ down), scale)
        if left:
            raise KeyError(f"not understood: {sorted(left)[:3]}")
        return made

    def _taken(
        self, left: dict[str, Tensor], name: str
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None:
        pairs = [("lora_down", "lora_up"), *([("lora_A", "lora_B")] if self.reads_a_and_b else [])]
        for down, up in pairs:
            if f"{name}.{down}.weight" in left:
                return (
                    left.pop(f"{name}.{down}.weight"),
                    left.pop(f"{name}.{up}.weight"),
                    left.pop(f"{name}.alpha", None),
                    left.pop(f"{name}.dora_scale", None),
                )
        return None


READERS = {
    "ComfyUI": Reader(comfyui_names, by_outputs_of_the_base),
    "Forge": Reader(forge_names, by_outputs_of_the_base),
    "AUTOMATIC1111": Reader(automatic_names, by_inputs),
    "sd-scripts": Reader(kohya_names, plain, reads_a_and_b=False),
}


def automatic_version(header: Mapping[str, str]) -> str:
    """AUTOMATIC1111: for which models a LoRA is shown; it hides an XL one from XL if this is not SDXL."""
    if header.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if header.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if header else "Unknown"


def forge_version(header: Mapping[str, str]) -> str:
    """Forge: the same, by modelspec first; it knows no SD3."""
    architecture = header.get("modelspec.architecture")
    if architecture == "stable-diffusion-xl-v1-base/lora" or header.get(
        "ss_base_model_version", ""
    ).startswith("sdxl_"):
        return "SDXL"
    if header.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if architecture == "stable-diffusion-v1/lora" else "Unknown"


KOHYA_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2_v", "sdxl": "sdxl_base_v1-0", "sd3": "medium"}
"""sd-scripts: `ss_base_model_version`, for an SD2 that predicts v and the first SD3."""
KOHYA_VERSIONS |= {
    "flux": "flux1",
    "flux2": "flux_2_klein_4b",
    "flux2-dev": "flux_2_dev",
    "qwen-image": "qwen_image",
    "z-image": "z_image",
}
"""The same; for all but the first musubi-tuner, which is by the same author."""
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sd3": "stable-diffusion-3-medium",
    "flux": "flux-1-dev",
    "flux2": "Flux.2-klein-4b",
    "flux2-dev": "Flux.2-dev",
    "qwen-image": "Qwen-Image",
    "z-image": "Z-Image",
}
"""sd-scripts and musubi-tuner: `modelspec.architecture`; a LoRA's ends in `/lora`."""


def lycoris_change(file: dict[str, Tensor], name: str, weight: Tensor) -> Tensor | None:
    """ComfyUI comfy/weight_adapter/lokr.py and loha.py, AUTOMATIC1111 network_lokr.py and network_hada.py.

    What a LoKr or LoHa of a module adds to a weight, by which its keys are used up; None if there is none. The scale is
    alpha by the rank, which is the rows of a second matrix; of a LoKr without matrices of low rank it is 1.
    """
    parts = {key.removeprefix(f"{name}."): file.pop(key) for key in list(file) if key.startswith(f"{name}.")}
    if "hada_w1_a" in parts:
        change = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
        return change.reshape(weight.shape) * (parts["alpha"] / parts["hada_w1_b"].shape[0])
    if not parts:
        return None
    scale = torch.tensor(1.0)
    if "lokr_w2" not in parts:
        parts["lokr_w2"] = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
        scale = parts["alpha"] / parts["lokr_w2_b"].shape[0]
    first, second = parts["lokr_w1"], parts["lokr_w2"]
    if second.ndim == 4:
        first = first[:, :, None, None]
    return scale * torch.kron(first, second).reshape(weight.shape)


def equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two weights are equal but for rounding."""
    return torch.allclose(one, other, atol=1e-5, rtol=1e-4)
