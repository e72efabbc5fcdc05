"""A whole model in one file, as ComfyUI and the web UIs keep them: `.safetensors`, or `.ckpt` as it was before.

See `transformer_file` for those that hold less.

A file holds weights, and at most hints of what they are of. diffusers converts them; the configs and tokenizers that it
would fetch from a hub come from here, or from the header of a file that turbo-fetch wrote.
"""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import diffusers
import torch
from diffusers.loaders.single_file_model import FromOriginalModelMixin
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from diffusers.utils import logging
from safetensors import safe_open
from transformers import CLIPTokenizer

from turbo_fetch.dreambooth.families.architectures import ABSENT, ARCHITECTURES, EXTRAS
from turbo_fetch.dreambooth.families.clip_vocabulary import add_words, clip_tokenizer
from turbo_fetch.dreambooth.model_files import WEIGHTS_SUFFIXES
from turbo_fetch.errors import ModelError

DESCRIPTION_KEY: Final = "turbo_fetch.pipeline"
"""In the header of a file that turbo-fetch wrote: all configs of the pipeline, as JSON."""
WORDS_KEY: Final = "turbo_fetch.words"
"""The same of a file that holds a transformer and not all of a model: new words by tokenizer, as JSON."""
_BYSTANDERS: Final = ("pytorch_lightning.", "lightning.", "numpy.", "omegaconf.")
"""Packages whose objects lie in checkpoints beside the weights. Stand-ins take their place, and none is built."""
_LORA: Final = re.compile(r"lora_(unet|te\d?|up|down|A|B)|\.lora\.|\.(lokr_w|hada_w)[12]")

_PARTS: Final = {
    "UNet or transformer": ("model.diffusion_model.",),
    "VAE": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.", "conditioner.embedders.", "text_encoders."),
}
"""What a whole model has, by what the names of its weights begin with."""
_EXPECTED: Final = (
    "expected Stable Diffusion 1, 2, XL, 3 or 3.5 with VAE and text encoders, or the transformer of 3, 3.5, Flux.1, "
    "Flux.2, Qwen-Image or Z-Image"
)

Configs = dict[str, Any]
"""What a diffusers folder says, file by file: `model_index`, and each component."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The names and shapes of the weights in a file, and its header."""

    weights: Mapping[str, torch.Tensor]
    """Without values."""
    header: Mapping[str, str]


def pipeline_of(path: Path) -> str:
    """Return the pipeline class of diffusers that a file is a model of. Raises ModelError."""
    return str(configs_of(path)["model_index"]["_class_name"])


def configs_of(path: Path) -> Configs:
    """Return the configs of the pipeline in a file. Raises ModelError."""
    return _configs(path, contents_of(path))


def load_pipeline(
    path: Path, type_of: Callable[[str], torch.dtype], given: Mapping[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    """Return the pipeline in a file, on the CPU, and what to tell of it; `given` are arguments for what is not loaded.

    `type_of` says the type of a component. Raises ModelError, MissingExtra, and what diffusers raises for a file that
    is not whole.
    """
    contents = contents_of(path)
    configs = _configs(path, contents)
    kind = getattr(diffusers, configs["model_index"]["_class_name"])
    verbosity = logging.get_verbosity()
    # It warns of modules that must stay fp32, whether there are any or not.
    logging.set_verbosity_error()
    try:
        with TemporaryDirectory() as folder, _nothing_run(path):
            _write(configs, Path(folder))
            # Each is read by itself: of the file no more is in memory at a time, and each has a type of its own.
            parts = {
                name: made.from_single_file(
                    str(path), config=folder, subfolder=name, local_files_only=True, dtype=type_of(name)
                )
                for name, made in _models(configs["model_index"])
                if name not in given
            }
            encoders = type_of("text_encoder")
            loaded = kind.from_single_file(
                str(path), config=folder, local_files_only=True, dtype=encoders, **parts, **given
            )
    finally:
        logging.set_verbosity(verbosity)
    return loaded, tuple(_guesses(path, contents, configs))


def _models(index: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the components of a pipeline that are diffusers' own, which reads each from a file."""
    for name, kind in index.items():
        made = (
            getattr(diffusers, kind[1]) if isinstance(kind, list | tuple) and kind[0] == "diffusers" else None
        )
        if made is not None and issubclass(made, FromOriginalModelMixin):
            yield name, made


@contextmanager
def config_folder(path: Path) -> Iterator[Path]:
    """Yield a folder with the configs and tokenizers of the pipeline in a file. Raises ModelError, MissingExtra."""
    with TemporaryDirectory() as folder:
        _write(configs_of(path), Path(folder))
        yield Path(folder)


def _guesses(path: Path, contents: Contents, configs: Configs) -> Iterator[str]:
    """Yield what a file does not say, or holds and is not read."""
    if any(name.startswith("text_encoders.t5") for name in contents.weights):
        yield (
            f"{path}: its T5 is not read, as files hold no tokenizer for it; the two CLIP encoders read the prompts. "
            "In the diffusers folder of its model it would be read"
        )
    if DESCRIPTION_KEY in contents.header:
        return
    if configs["scheduler"].get("prediction_type") == "v_prediction" and _prediction(path, contents) is None:
        yield f"{path}: does not say what it predicts and is taken for v_prediction; train.loss.kind says otherwise"


def described(pipeline: Any) -> str:
    """Return what a file needs to say of a pipeline so that `load_pipeline` makes the same of it."""
    configs: Configs = {"model_index": json.loads(pipeline.to_json_string())}
    for name, component in pipeline.components.items():
        if hasattr(component, "add_tokens") and not isinstance(component, CLIPTokenizer):
            # A file holds no vocabulary of a language model, so that its encoder is of no use.
            absent = (name, name.replace("tokenizer", "text_encoder"))
            configs["model_index"] |= {each: [None, None] for each in absent}
        elif hasattr(component, "add_tokens"):
            configs[name] = {"pad_token": component.pad_token, "added_tokens": new_words(component)}
        elif hasattr(component, "config"):
            config = component.config
            configs[name] = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    index = configs["model_index"]
    configs = {name: config for name, config in configs.items() if index.get(name) != [None, None]}
    return json.dumps(configs, default=list)


def new_words(tokenizer: Any) -> list[str]:
    """Return the words that a CLIP's tokenizer was taught, in the order of their numbers."""
    added = sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    return [word for word, _ in added if not word.startswith("<|")]


def holds_whole_model(path: Path) -> bool:
    """Return whether a file holds all parts of a model. Raises ModelError for what cannot be read."""
    contents = contents_of(path)
    return DESCRIPTION_KEY in contents.header or all(
        _has(contents.weights, prefixes) for prefixes in _PARTS.values()
    )


def holds_model(path: Path) -> bool:
    """Return whether a file holds weights of a model, and not a LoRA or what cannot be read."""
    try:
        return not any(_LORA.search(name) for name in contents_of(path).weights)
    except ModelError:
        return False


def contents_of(path: Path) -> Contents:
    """Return the header of a file, read once as long as it is the same file; raises as `_read_contents`."""
    try:
        stat = path.stat()
    except OSError:
        return _read_contents(path)
    return _contents_as_of(path.absolute(), stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=4)
def _contents_as_of(path: Path, *_state: int) -> Contents:
    return _read_contents(path)


def _read_contents(path: Path) -> Contents:
    """Read the header of a file. Raises ModelError for what is no file of weights, or holds more than that."""
    if path.suffix not in WEIGHTS_SUFFIXES:
        raise ModelError(
            f"{path}: not a file of weights; expected a diffusers folder, a hub id, or a name that ends in "
            f"{', '.join(WEIGHTS_SUFFIXES)}"
        )
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
                weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
                return Contents(weights, file.metadata() or {})
        with _nothing_run(path):
            loaded = torch.load(path, map_location="meta", weights_only=True)
    except ModelError:
        raise
    except Exception as error:
        # Whatever a file that is no pickle makes PyTorch's reader raise.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"{path}: not a whole file of weights: {reason}") from error
    while isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise ModelError(f"{path}: holds a {type(loaded).__name__}; expected weights by name")
    return Contents({name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}, {})


class _Bystander:
    """Stands for an object beside the weights, of which nothing is built and nothing run."""

    def __init__(self, *_given: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


@contextmanager
def _nothing_run(path: Path) -> Iterator[None]:
    """Have PyTorch's reader of weights alone pass over what trainers left beside them. Raises ModelError for others."""
    found: list[str] = []
    if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    unknown = sorted(name for name in found if not name.startswith(_BYSTANDERS))
    if unknown:
        raise ModelError(
            f"{path}: holds more than weights ({', '.join(unknown)}), which could run any program when it is loaded; "
            "expected the same model as .safetensors"
        )
    with torch.serialization.safe_globals([(_Bystander, name) for name in found]):
        yield


def _configs(path: Path, contents: Contents) -> Configs:
    """Return the configs of the pipeline that a file is of. Raises ModelError."""
    if DESCRIPTION_KEY in contents.header:
        configs: Configs = json.loads(contents.header[DESCRIPTION_KEY])
        return configs
    if any(_LORA.search(name) for name in contents.weights):
        raise ModelError(f"{path}: a LoRA; expected a whole model here, and a LoRA as generate.lora")
    try:
        kind = infer_diffusers_model_type(contents.weights)
    except (KeyError, AttributeError, IndexError, ValueError):
        kind = "v1"
    if kind not in ARCHITECTURES:
        raise ModelError(f"{path}: a model of the kind {kind!r}, of no known family; {_EXPECTED}")
    if missing := [part for part, prefixes in _PARTS.items() if not _has(contents.weights, prefixes)]:
        raise ModelError(f"{path}: no whole model, it has no {' and no '.join(missing)}; {_EXPECTED}")
    return _published(path, kind, contents)


def _has(weights: Mapping[str, torch.Tensor], prefixes: tuple[str, ...]) -> bool:
    return any(name.startswith(prefixes) for name in weights)


def _published(path: Path, kind: str, contents: Contents) -> Configs:
    """Return the configs of a published model, with what a file says otherwise."""
    pipeline, components = ARCHITECTURES[kind]
    index: dict[str, Any] = {"_class_name": pipeline, **EXTRAS.get(pipeline, {})}
    index |= dict.fromkeys(ABSENT[pipeline], (None, None))
    configs: Configs = {name: {**_defaults(config), **config} for name, config in components.items()}
    for name, config in configs.items():
        library = "diffusers" if "_class_name" in config else "transformers"
        index[name] = (
            library,
            config.get("_class_name") or config.get("architectures", ["CLIPTokenizer"])[0],
        )
    prediction = _prediction(path, contents)
    if prediction is not None:
        configs["scheduler"]["prediction_type"] = prediction
        if kind == "v2" and prediction == "epsilon":
            # The smaller of the two published models.
            configs["unet"]["sample_size"] = 64
    if "ztsnr" in contents.weights:
        configs["scheduler"] |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {**configs, "model_index": index}


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a class of diffusers, which converts weights by configs as they are written."""
    if "_class_name" not in config:
        return {}
    parameters = inspect.signature(getattr(diffusers, config["_class_name"]).__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _prediction(path: Path, contents: Contents) -> str | None:
    """Return what a model predicts by the marks of ComfyUI, modelspec and the web UI; None if nothing says so."""
    if "v_pred" in contents.weights:
        return "v_prediction"
    said = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
    if (marked := contents.header.get("modelspec.prediction_type", "")) in said:
        return said[marked]
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        return None
    named = re.search(
        r"parameterization\s*:\s*[\"']?(\w+)", beside.read_text(encoding="utf-8", errors="replace")
    )
    return said.get(named[1], "epsilon") if named else "epsilon"


def _write(configs: Configs, folder: Path) -> None:
    """Write configs and tokenizers as they lie in a diffusers folder. Raises MissingExtra."""
    (folder / "model_index.json").write_text(json.dumps(configs["model_index"]), encoding="utf-8")
    for name, config in configs.items():
        if name == "model_index":
            continue
        (folder / name).mkdir()
        if "pad_token" in config:
            tokenizer = clip_tokenizer(folder / name, config["pad_token"])
            add_words(tokenizer, config.get("added_tokens", []))
            tokenizer.save_pretrained(folder / name)
        else:
            file = "scheduler_config.json" if name == "scheduler" else "config.json"
            (folder / name / file).write_text(json.dumps(config), encoding="utf-8")
