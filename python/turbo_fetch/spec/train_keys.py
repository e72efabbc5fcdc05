"""The keys of `[train]`, what each means, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from turbo_fetch.spec.numbers import Seed
from turbo_fetch.spec.table import Location, ModelName, Place, Table, VaeTiling, Word
from turbo_fetch.spec.train_tables import (
    FIND_THEIR_RATE,
    USUAL_LEARNING_RATE,
    EmaSpec,
    LoraSpec,
    LossSpec,
    OptimiserSpec,
    Part,
    PicturesSpec,
    SamplesSpec,
    ScheduleSpec,
    SubjectSpec,
    TimestepsSpec,
    TokenSpec,
    ValidationSpec,
)


class TrainKeys(Table):
    """The keys of `[train]`, and what follows from them."""

    base: ModelName
    """The base model: a diffusers folder, a single file (`.safetensors`, `.ckpt`), or a hub id."""
    subject: Annotated[Location, Place(words=("fetch",))] = ""
    """Images of the subject: a folder, a dataset, or `fetch` for the output of the fetch stage. Required, and so is
    `class`, unless there are `subjects`."""
    class_: Annotated[str, StringConstraints(strip_whitespace=True), Field(alias="class")] = ""
    """Noun of the subject's class, such as `dog`."""
    identifier: Word = "sks"
    """Rare word that will stand for the subject. Where `method` learns a new word, by default `<sks>`: `sks` is a token
    of CLIP's already."""
    prompt: str = "a photo of {identifier} {class}"
    """Caption of images that have none."""
    method: str = "full"
    """What is trained: `full` (all weights), `lora`, `token` (a new word), or `full+token`, `lora+token`."""
    text_encoder: bool | Literal["auto"] = "auto"
    """Whether `full` and `lora` also train the text encoders; a T5, Qwen or Mistral is never trained. `auto`: with
    `full` those of Stable Diffusion 1 and 2, no others."""
    clip_skip: NonNegativeInt = 0
    """Layers at the end of the text encoder that are passed over, for Stable Diffusion 1 and 2; 1 is what the web UIs
    call a clip skip of 2."""
    resolution: Annotated[int, Field(ge=0, le=8192)] = 0
    """Side of a square training image in pixels; 0: what the family was trained with, 512 for Stable Diffusion 1 and 2,
    1024 for the others."""
    steps: PositiveInt = 800
    """Optimiser steps."""
    batch_size: PositiveInt = 1
    """Images of the subject per device and forward pass, each with a class image if there is a prior."""
    accumulation: PositiveInt = 1
    """Gradient accumulation: forward passes per optimiser step."""
    learning_rate: PositiveFloat | Literal["auto"] = "auto"
    """Learning rate of the denoiser; `auto`: 1e-6 for `full`, 4e-7 for SDXL, 1e-4 for `lora`, and 1 for prodigy, which
    adapts it."""
    text_encoder_learning_rate: PositiveFloat | None = None
    """Learning rate of the text encoders; by default that of the denoiser."""
    token_learning_rate: PositiveFloat | None = None
    """Learning rate of the new token; by default 5e-4."""
    prior_weight: NonNegativeFloat = 1.0
    """Weight of the loss over class images, which come from `[prior]`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of computation; trained weights stay fp32. `auto`: the best that the device supports."""
    base_precision: Literal["auto", "int8", "fp8", "nf4"] = "auto"
    """How the frozen denoiser under a LoRA is held: `auto`: in `precision`; `int8` and `fp8`: a byte for each weight
    of its matrices (torchao); `nf4`: half a byte (bitsandbytes). The LoRA learns in fp32 beside it. The extra
    `quantised`."""
    tf32: bool | Literal["auto"] = "auto"
    """On NVIDIA GPUs since Ampere: compute what is in fp32 with 10 of its 23 bits, which is several times faster.
    `auto`: not with `precision = "fp32"`, and otherwise for what stays in fp32, such as the VAE."""
    cudnn_benchmark: bool = False
    """On NVIDIA GPUs: measure which kernels are fastest for each size of images. A run may then resume with other
    roundings."""
    compile: bool | Literal["blocks"] = False
    """Compile the denoiser: takes minutes at the start, then steps are faster. `blocks` compiles the block that it is
    made of once, which takes a fraction of that."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of storing them: less memory, about a quarter slower."""
    blocks_to_swap: NonNegativeInt = 0
    """Block swap: of how many of the blocks that a frozen denoiser repeats the matrices lie in main memory, and come to
    the GPU each time their block runs, two at once: less memory of the GPU, slower, the same numbers. Needs
    `gradient_checkpointing`."""
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention implementation; `auto`: xformers where it runs, otherwise PyTorch's scaled dot product attention."""
    vae_tiling: VaeTiling = "auto"
    """Encode images, and decode samples, in overlapping tiles of the size that the autoencoder was made for: less
    memory, slightly different. `auto`: those of more than 2 megapixels (2 · 1024²)."""
    cache: bool = True
    """Cache encoded images and captions on disk instead of encoding them at each step."""
    seed: Seed = 0
    """Seed of everything random."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Type of device."""
    devices: PositiveInt = 1
    """Devices that train together; each has its own batch."""
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "deepspeed_stage_2"] = "auto"
    """Distributed strategy; `auto` is ddp."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints, from which training resumes exactly."""
    checkpoints_kept: PositiveInt = 2
    """Number of newest checkpoints to keep. With 1 there is none to fall back on if its file is damaged."""
    sample_every: NonNegativeInt = 100
    """Steps between sample grids, plus one grid before the first step; 0: none."""
    log_every: PositiveInt = 10
    """Most steps between two entries in the trackers, which get one about every second anyway; `history.jsonl` has
    every step."""
    output: Location = "model"
    """Folder of checkpoints, samples and the trained model."""
    subjects: tuple[SubjectSpec, ...] = ()
    """Several subjects that are learned together, instead of `subject`, `class` and `identifier`."""
    pictures: PicturesSpec = Field(default_factory=PicturesSpec)
    """How images and captions become training examples."""
    loss: LossSpec = Field(default_factory=LossSpec)
    """What is minimised."""
    timesteps: TimestepsSpec = Field(default_factory=TimestepsSpec)
    """From which noise levels is learned how often."""
    optimiser: OptimiserSpec = Field(default_factory=OptimiserSpec)
    """The optimiser."""
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    """The learning rate schedule."""
    lora: LoraSpec = Field(default_factory=LoraSpec)
    """Low-rank matrices beside frozen weights, with `method = "lora"`."""
    token: TokenSpec = Field(default_factory=TokenSpec)
    """The identifier as a new token, with `method = "token"`."""
    ema: EmaSpec | None = None
    """An exponential moving average of the weights; none by default."""
    samples: SamplesSpec = Field(default_factory=SamplesSpec)
    """Images generated during training."""
    validation: ValidationSpec | None = None
    """The loss over held-out images; none by default."""

    @model_validator(mode="before")
    @classmethod
    def _new_word(cls, values: Any) -> Any:
        """Fill in a word that CLIP does not have, where one is to be learned and none is given."""
        if not isinstance(values, dict) or "identifier" in values or values.get("subjects"):
            return values
        return values | ({"identifier": "<sks>"} if "token" in str(values.get("method")).split("+") else {})

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        parts = method.split("+")
        unknown = [part for part in parts if part not in USUAL_LEARNING_RATE]
        if unknown or len(set(parts)) != len(parts):
            raise ValueError(
                f"{method!r} is not a method; expected full, lora, token, full+token or lora+token"
            )
        if {"full", "lora"} <= set(parts):
            raise ValueError(
                f"{method!r} combines full and lora, but full already trains the weights that lora leaves frozen; "
                "expected one of the two"
            )
        return method

    @property
    def each_subject(self) -> tuple[Self, ...]:
        """The same for each subject alone, with its images, words, and prompt, as if it were the only one."""
        if not self.subjects:
            return (self,)
        return tuple(
            self.model_copy(
                update={
                    "subject": each.images,
                    "class_": each.class_,
                    "identifier": each.identifier,
                    "prompt": self.prompt if each.prompt is None else each.prompt,
                    "subjects": (),
                }
            )
            for each in self.subjects
        )

    @property
    def weights(self) -> tuple[int, ...]:
        """How often each subject comes, in relation to the others."""
        return tuple(each.weight for each in self.subjects) or (1,)

    @property
    def held_out(self) -> tuple[str, ...]:
        """Where the held-out images of each subject are; empty where it has none."""
        if self.validation is None:
            return ("",) * len(self.weights)
        return tuple(each.validation or "" for each in self.subjects) or (self.validation.pictures,)

    @field_validator("prompt")
    @classmethod
    def _has_identifier(cls, prompt: str) -> str:
        try:
            prompt.format_map({"identifier": "", "class": ""})
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{prompt!r} has an unknown or broken field ({error}); expected {{identifier}} and {{class}} only"
            ) from None
        return prompt

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of `method`."""
        return tuple(self.method.split("+"))

    def trains(self, part: Part) -> bool:
        """Whether `part` is in the method."""
        return part in self.parts

    @property
    def trained_groups(self) -> Iterator[str]:
        """The names in `rates` of what learns."""
        if self.trains_denoiser:
            yield "denoiser"
        if self.trains_text_encoder:
            yield "text_encoder"
        if self.trains("token"):
            yield "token"

    @property
    def trains_denoiser(self) -> bool:
        """Whether weights of the denoiser, or matrices beside them, learn."""
        return self.method != "token"

    @property
    def trains_text_encoder(self) -> bool:
        """Whether weights of text encoders, or matrices beside them, learn."""
        wanted = self.trains("full") if self.text_encoder == "auto" else self.text_encoder
        return wanted and self.trains_denoiser

    @property
    def learns_words(self) -> bool:
        """Whether gradients go through a text encoder."""
        return self.trains_text_encoder or self.trains("token")

    @property
    def frees_text_encoders(self) -> bool:
        """Whether text encoders are needed before the first step alone, so that they and the denoiser never meet."""
        return self.cache and not self.learns_words

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of `denoiser`, `text_encoder` and `token`, defaults filled in."""
        own = self.optimiser.kind in FIND_THEIR_RATE
        usual = USUAL_LEARNING_RATE["lora" if self.trains("lora") else "full"]
        denoiser = self.learning_rate if self.learning_rate != "auto" else 1.0 if own else usual
        token = self.learning_rate if self.method == "token" and self.learning_rate != "auto" else None
        return {
            "denoiser": denoiser,
            "text_encoder": self.text_encoder_learning_rate or denoiser,
            "token": self.token_learning_rate or token or (1.0 if own else USUAL_LEARNING_RATE["token"]),
        }

    def caption(self, template: str | None = None) -> str:
        """Return `template`, by default `prompt`, with identifier and class filled in."""
        text = self.prompt if template is None else template
        return text.replace("{identifier}", self.identifier).replace("{class}", self.class_)
