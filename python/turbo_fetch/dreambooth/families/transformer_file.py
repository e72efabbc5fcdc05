"""A transformer in a file, as its authors and ComfyUI keep it, maybe with other parts of the model beside it.

No such file holds a tokenizer of a language model, and most hold no encoder and no VAE. What one lacks comes from the
diffusers folder that it lies in, as in the repositories of the models, or else from the published model on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import safe_open
from torch import Tensor, nn

from turbo_fetch.dreambooth.families.clip_vocabulary import add_words
from turbo_fetch.dreambooth.families.configs import without_weights
from turbo_fetch.dreambooth.families.flow import FlowFamily
from turbo_fetch.dreambooth.families.layout import DIFFUSION_MODEL, Layout
from turbo_fetch.dreambooth.families.single_file import WORDS_KEY, contents_of, holds_whole_model
from turbo_fetch.dreambooth.model_files import index_of
from turbo_fetch.dreambooth.run_folder import MODEL_INDEX
from turbo_fetch.errors import ModelError

_PREFIXES: Final = (DIFFUSION_MODEL, "diffusion_model.", "")
"""Before the names of a transformer's weights."""
_SCALES: Final = (".scale_weight", ".weight_scale")
"""After the name of a module in ComfyUI's files of fp8: by what its weights are multiplied."""
_OF_FP8: Final = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant", *_SCALES)
"""How names end that say how fp8 is computed with, where weights are left in it."""


@dataclass(frozen=True, slots=True)
class TransformerFile:
    """A file with a transformer, the family that this is of, and where the rest of the model is."""

    path: Path
    family: type[FlowFamily]
    prefix: str
    home: str
    """A diffusers folder or hub id."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The components that are read from the file."""
        names = contents_of(self.path).weights
        others = self.family.parts_in_files.items()
        return (
            self.family.denoiser_name,
            *(part for part, prefix in others if any(name.startswith(prefix) for name in names)),
        )

    @property
    def notes(self) -> Iterator[str]:
        """What is to be told of it."""
        yield f"{self.path}: {', '.join(self.parts)}; what else the model has is from {self.home}"
        prefixes = tuple(self.family.parts_in_files.values())
        others = [
            name
            for name in contents_of(self.path).weights
            if not name.startswith((self.prefix, *prefixes)) and not name.endswith(_OF_FP8)
        ]
        if others:
            yield f"{self.path}: {len(others):,} of its weights are not read, such as {others[0]}"

    def read(self, name: str, dtype: torch.dtype) -> nn.Module:
        """Return a component that the file has, its weights as `dtype`. Raises ValueError for what does not fit."""
        module = without_weights(self.home, name, init_empty_weights(), **self._settings(name))
        shapes = {key: weight.shape for key, weight in module.state_dict().items()}
        with safe_open(self.path, "pt") as file:
            weights = {
                key: weight.to(dtype)
                for key, weight in self._weights(name, module, shapes, _Reader(file, dtype))
            }
        for key, weight in weights.items():
            if weight.shape != shapes[key]:
                raise ValueError(f"{key} is {tuple(weight.shape)}, expected {tuple(shapes[key])}")
        if "text_projection.weight" in shapes.keys() - weights.keys():
            # The first encoder of Stable Diffusion 3 projects nothing, and its files leave it out.
            weights["text_projection.weight"] = torch.eye(*shapes["text_projection.weight"], dtype=dtype)
        missing = module.load_state_dict(weights, assign=True, strict=False).missing_keys
        if hasattr(module, "tie_weights"):
            module.tie_weights()
        if any(parameter.is_meta for parameter in module.parameters()):
            raise ValueError(f"it has no {missing[0]}")
        frozen: nn.Module = module.eval().requires_grad_(False)
        return frozen

    def add_words(self, pipeline: Any) -> None:
        """Teach the tokenizers of a pipeline around the file the words that its encoders know."""
        for name, words in json.loads(contents_of(self.path).header.get(WORDS_KEY, "{}")).items():
            add_words(getattr(pipeline, name), words)

    def _settings(self, name: str) -> dict[str, Any]:
        """Return what the file says of a component, which the rest of the model may say otherwise."""
        weights = contents_of(self.path).weights
        table = weights.get(
            f"{self.family.parts_in_files.get(name)}text_model.embeddings.token_embedding.weight"
        )
        return {} if table is None else {"vocab_size": len(table)}

    def _weights(
        self, name: str, module: Any, shapes: Mapping[str, torch.Size], read: Callable[[str], Tensor]
    ) -> Iterable[tuple[str, Tensor]]:
        """Return the weights of a component by their names in diffusers or transformers."""
        if name == self.family.denoiser_name:
            layout = self.family.layout_of(module.config)
            self._refuse_more_than(layout, layout.parts(shapes).keys())
            return layout.read(shapes, lambda key: read(self.prefix + key))
        prefix = self.family.parts_in_files[name]
        keys = [key for key in contents_of(self.path).weights if key.startswith(prefix)]
        if name == "vae":
            original = {key.removeprefix(prefix): read(key) for key in keys}
            return dict(convert_ldm_vae_checkpoint(original, module.config)).items()
        # transformers 5.6 took `text_model` out of the names of CLIP's weights.
        plain = {full: key for key in shapes for full in (prefix + key, f"{prefix}text_model.{key}")}
        return [(plain[key], read(key)) for key in keys if key in plain]

    def _refuse_more_than(self, layout: Layout, known: Collection[str]) -> None:
        """Raise ValueError for weights that the transformer of `home` has not: the file is of another size or kind.

        What no transformer of the family has (the unused norm of Z-Image's authors) is left out.
        """
        words = {name.partition(".")[0] for name in (*known, *layout.ends.values())}
        # What lies below a weight tells how that is quantised, which its reader refuses.
        own = (
            name.removeprefix(self.prefix)
            for name in contents_of(self.path).weights
            if name.startswith(self.prefix) and not name.endswith(_OF_FP8) and ".weight." not in name
        )
        more = [name for name in own if name.partition(".")[0] in words and name not in known]
        if more:
            raise ValueError(
                f"it has {self.prefix}{more[0]}, of {len(more):,} weights that the transformer of {self.home} has not; "
                "expected the folder of the same model"
            )


class _Reader:
    """Reads weights, those of fp8 by their scale. Raises ValueError for what is quantised otherwise."""

    def __init__(self, file: Any, dtype: torch.dtype) -> None:
        self._file, self._dtype, self._names = file, dtype, frozenset(file.keys())

    def __call__(self, name: str) -> Tensor:
        if name not in self._names:
            raise ValueError(f"it has no {name}")
        weight: Tensor = self._file.get_tensor(name)
        if not weight.is_floating_point():
            raise ValueError(
                f"{name} is quantised as {str(weight.dtype).removeprefix('torch.')}; expected fp32, fp16, bf16 or fp8"
            )
        module = name.removesuffix(".weight")
        scales = [module + end for end in _SCALES if name != module and module + end in self._names]
        if not scales:
            return weight.to(self._dtype)
        scale = self._file.get_tensor(scales[0]).float()
        if scale.numel() not in {1, len(weight)}:
            raise ValueError(
                f"{scales[0]} is {tuple(scale.shape)} for {tuple(weight.shape)}; expected one, or one for each row"
            )
        scaled: Tensor = weight.float() * scale.view(-1, *[1] * (weight.ndim - 1))
        return scaled.to(self._dtype)


def find(path: Path, families: Iterable[type[Any]]) -> TransformerFile | None:
    """Return what a file holds of one of these families, or None if it is no transformer's. Raises ModelError."""
    weights = contents_of(path).weights
    for family in families:
        for prefix in _PREFIXES if issubclass(family, FlowFamily) else ():
            if all(prefix + mark in weights for mark in family.marks):
                home = _beside(path, family)
                if home is None and holds_whole_model(path):
                    return None
                return TransformerFile(path, family, prefix, home or _published(path, family, prefix))
    return None


def _published(path: Path, family: type[FlowFamily], prefix: str) -> str:
    """Return the hub id of the rest of a model. Raises ModelError if it is out of reach."""
    weights = contents_of(path).weights.items()
    own = {name.removeprefix(prefix): weight for name, weight in weights if name.startswith(prefix)}
    try:
        home = family.published(own)
        index_of(home)
    except ModelError as error:
        raise ModelError(
            f"{path}: the transformer of a {family.name} model; the rest of it is looked for in the diffusers folder "
            f"that the file lies in, or else on the hub: {error}"
        ) from error
    return home


def _beside(path: Path, family: type[FlowFamily]) -> str | None:
    """Return the diffusers folder of the family that a file lies in, if it does."""
    folder = path.absolute().parent
    if (
        not (folder / MODEL_INDEX).is_file()
        or index_of(str(folder)).get("_class_name") != family.pipeline_name
    ):
        return None
    return str(folder)
