"""What the trainer needs to know of a model family; one adapter per family, one trainer for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from turbo_fetch.dreambooth.families.facts import ModelFacts
from turbo_fetch.dreambooth.families.latent_space import LatentSpace
from turbo_fetch.dreambooth.families.noise import NoiseProcess
from turbo_fetch.dreambooth.families.precision import in_own_type
from turbo_fetch.dreambooth.families.single_file import DESCRIPTION_KEY, described
from turbo_fetch.errors import SpecError
from turbo_fetch.spec.specfile import validated
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.spec.train_tables import FIND_THEIR_RATE, USUAL_LEARNING_RATE, Part

Conditioning = dict[str, Tensor]
"""What the denoiser is told of the captions; each tensor has one row per caption."""


class Family(LatentSpace, ABC):
    """A loaded model: its components, and how to run them. Owns the pipeline, whose modules it trains.

    What is true of a family and not of others is said by its subclass, and nowhere else.
    """

    name: ClassVar[str]
    pipeline_name: ClassVar[str]
    """The pipeline class of diffusers that a `model_index.json` of the family names."""
    text_encoder_names: ClassVar[tuple[str, ...]]
    """Text encoders that can be trained, if any can."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Components that a model of the family may do without."""
    not_loaded: ClassVar[Mapping[str, Any]] = {}
    """Arguments with which the pipeline loads without what is of no use here."""
    usual_sampler: ClassVar[Literal["ddim", "auto"]] = "ddim"
    """What `scheduler` is where a spec says nothing; with `auto`, only the model's own scheduler knows the noise."""
    resolution: ClassVar[int] = 1024
    """Side in pixels of the images that models of the family are usually trained with."""
    trains_text_encoders: ClassVar[bool] = False
    """Whether the text encoders are usually trained with the denoiser, where all weights are."""
    learning_rates: ClassVar[Mapping[Part, float]] = USUAL_LEARNING_RATE
    """What is usual, by method."""
    guidance: ClassVar[float] = 7.5
    """The scale of guidance where a spec says nothing."""
    least_steps: ClassVar[int] = 1
    """With how many steps of denoising or more an image can be made."""
    has_negative_prompt: ClassVar[bool] = True
    """Whether images can be made with a prompt of what they do not show."""
    skips_layers: ClassVar[bool] = False
    """Whether its prompts can be read without the last layers of the text encoder."""
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    text_lora_targets: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj", "out_proj")
    fp32_vae: ClassVar[bool] = False
    """Whether the VAE makes black images in fp16."""
    own_type: ClassVar[Mapping[str, tuple[str, ...]]] = {"vae": ("encode", "decode")}
    """Methods of components that autocast does not reach; the VAE of some families is right in fp32 alone."""
    kohya_prefixes: ClassVar[Mapping[str, str]] = {}
    """What names of LoRA weights begin with in kohya's naming, by component; without any, diffusers' is written."""
    embedding_keys: ClassVar[Mapping[str, str]] = {}
    """The name of a text encoder in files of learned embeddings; without any, the one encoder's is the new word."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        self.notes: tuple[str, ...] = ()
        """What a person should know of how it was loaded."""
        for component, methods in self.own_type.items():
            for method in methods if getattr(pipeline, component, None) is not None else ():
                in_own_type(getattr(pipeline, component), method)
        self.spare_memory()

    @classmethod
    def with_defaults(cls, train: TrainSpec) -> TrainSpec:
        """Return `[train]` with what it leaves to the family filled in. Raises SpecError if that makes no sense."""
        filled: dict[str, Any] = {}
        if not train.resolution:
            filled["resolution"] = cls.resolution
        if train.text_encoder == "auto":
            filled["text_encoder"] = train.trains("full") and cls.trains_text_encoders
        if train.learning_rate == "auto" and train.trains_denoiser:
            usual = cls.learning_rates["lora" if train.trains("lora") else "full"]
            filled["learning_rate"] = 1.0 if train.optimiser.kind in FIND_THEIR_RATE else usual
        return validated(TrainSpec, {**train.model_dump(by_alias=True), **filled}, "[train]")

    @classmethod
    def check_options(cls, train: TrainSpec) -> None:
        """Refuse what no model of the family can do, before one is loaded. Raises SpecError."""
        if train.clip_skip and not cls.skips_layers:
            raise SpecError(
                f"train.clip_skip = {train.clip_skip}, but a {cls.name} model always reads the last layer but one; "
                "expected 0"
            )
        if train.sample_every:
            cls.check_steps(train.samples.steps, "train.samples.steps")
        if cls.text_encoder_names:
            return
        if train.text_encoder is True:
            raise SpecError(
                f"train.text_encoder = true, but the text encoder of a {cls.name} model is a language model, which is "
                "not trained here; expected false"
            )
        if train.trains("token"):
            raise SpecError(
                f"train.method = {train.method!r}, but a {cls.name} model learns no new token; expected full or lora"
            )

    @property
    def text_encoders(self) -> dict[str, Any]:
        """The text encoders that can be trained, by component name."""
        return {name: getattr(self.pipeline, name) for name in self.text_encoder_names}

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizer of each of `text_encoders`, by component name of the encoder."""
        return {
            name: getattr(self.pipeline, name.replace("text_encoder", "tokenizer"))
            for name in self.text_encoder_names
        }

    @property
    def prompt_tokenizer(self) -> Any:
        """The tokenizer that the first text encoder reads prompts with, whether that can be trained or not."""
        return self.pipeline.tokenizer

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield name and module of every component with weights."""
        for name, component in self.pipeline.components.items():
            if isinstance(component, nn.Module):
                yield name, component

    @property
    def trained_names(self) -> tuple[str, ...]:
        """Names of the components that can be trained."""
        return (self.denoiser_name, *self.text_encoder_names)

    def whole_prompts(self, prompts: list[str]) -> list[str]:
        """Return prompts as the pipeline is to be given them, so that all tokens of a new word are read, once.

        Most pipelines of diffusers put the other tokens behind the first themselves.
        """
        return prompts

    @classmethod
    def guidance_of(cls, given: float | None) -> float:
        """Return the scale of guidance that a spec means."""
        return cls.guidance if given is None else given

    @classmethod
    def check_steps(cls, steps: int, key: str = "steps") -> None:
        """Refuse fewer steps than the model's scheduler can take. Raises SpecError, naming the spec's `key`."""
        if steps < cls.least_steps:
            raise SpecError(
                f"{key} = {steps}, but the scheduler of a {cls.name} model takes no fewer than {cls.least_steps}"
            )

    @classmethod
    def check_negative(cls, negative: str, key: str = "negative") -> None:
        """Refuse a negative prompt where none is read. Raises SpecError, naming the spec's `key`."""
        if negative and not cls.has_negative_prompt:
            raise SpecError(
                f"{key} = {negative!r}, but the pipeline of a {cls.name} model reads no negative prompt; expected none"
            )

    def call_arguments(
        self, prompts: list[str], guidance: float | None, negative: str = ""
    ) -> dict[str, Any]:
        """Return with which words and guidance the pipeline is called; a guidance of None is the family's.

        Raises SpecError for a negative prompt that would not be read.
        """
        self.check_negative(negative)
        return {
            "prompt": self.whole_prompts(prompts),
            # Whether no prompt is zeros or an empty prompt is for the pipeline to know.
            "negative_prompt": [negative] * len(prompts) if negative else None,
            "guidance_scale": self.guidance_of(guidance),
        }

    @property
    def facts(self) -> ModelFacts:
        """What is true of the model beside its weights."""
        return ModelFacts.of(self.pipeline)

    @abstractmethod
    def settle_prediction(self, kind: str) -> None:
        """Have the model predict what `train.loss.kind` says, from now on and in all that is saved of it.

        Raises SpecError if it cannot.
        """

    def skip_layers(self, count: int) -> None:  # those that cannot are told by `check_options`
        """Pass over the last layers of the text encoder, from now on and in all that is saved. Raises SpecError."""

    def make_whole(self) -> None:  # most families pass over nothing
        """Put back the layers that are passed over, so that all of the model is saved; it then samples no more."""

    @abstractmethod
    def header(self) -> dict[str, str]:
        """Return which model this is, in the words of the headers that kohya's scripts and modelspec have."""

    def lora_names(self, component: str, module: str) -> tuple[str, ...]:
        """Return the names that a module has in LoRA files of ComfyUI and the web UIs: what is written, then others."""
        path = with_wrapper(component, module)
        if not self.kohya_prefixes:
            return (f"{component}.{path}",)
        return (f"{self.kohya_prefixes[component]}_{path.replace('.', '_')}",)

    def matrices_in_files(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Yield names in LoRA files of matrices of the original model, each with the modules of the denoiser in it.

        They are its rows from top to bottom. Files of Stable Diffusion have none that diffusers has not.
        """
        yield from ()

    def merge_lora(self) -> None:
        """Put the LoRA that is on the pipeline into its weights, where a LoKr or LoHa out of a file is already."""
        # Some pipelines would leave out that of the text encoders.
        beside = [
            name for name in self.trained_names if getattr(getattr(self.pipeline, name), "peft_config", None)
        ]
        if beside:
            self.pipeline.fuse_lora(beside)
            self.pipeline.unload_lora_weights()

    @abstractmethod
    def original_weights(self) -> dict[str, Tensor]:
        """Return the weights of a single file by their names in it: all, or those that are not as published."""

    def single_file_header(self) -> dict[str, str]:
        """Return what a single file says of the model beside `header`."""
        return {
            DESCRIPTION_KEY: described(self.pipeline),
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        }

    @abstractmethod
    def process(self) -> NoiseProcess:
        """Return how this model was trained to see noise. Raises ModelError if that is nothing that is trained here."""

    def token_count(self, caption: str) -> int:
        """Return a number that is the larger the more tokens the denoiser is told of a caption."""
        return 0

    def readers(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """Yield for each text encoder what it is, how many tokens a caption has for it, and how many it reads."""
        for tokenizer in self.tokenizers.values():
            yield "CLIP", len(tokenizer(caption).input_ids), tokenizer.model_max_length

    @abstractmethod
    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """Return what the denoiser is told of the captions; gradients flow if the encoders are trained.

        A caption makes tensors of as many tokens whatever it is; or as the longest of `captions`, and a tensor [B],
        which stays in main memory, says how many each has: see `token_count`.
        """

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """Return the denoiser's prediction [B, C, h, w].

        `sizes` [B, 6] is per image: original height and width, top and left of the cut, height and width of
        the target, all in pixels.
        """


def with_wrapper(component: str, module: str) -> str:
    """Return the path of a module in a text encoder as other programs know it.

    transformers 5.6 took `text_model` out of the paths of CLIP's text model.
    """
    if component.startswith("text_encoder") and not module.startswith(("text_model.", "text_projection")):
        return f"text_model.{module}"
    return module


def tokens(tokenizer: Any, captions: Sequence[str], device: torch.device | str) -> Tensor:
    """Return token ids [B, longest] on `device`, padded and cut as the CLIP families do."""
    encoded = tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids.to(device)
