"""`[train]`: from a few pictures of a subject to a model that knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from turbo_fetch.spec.table import Location, ModelName, Place, Table

Part = Literal["full", "lora", "token"]
OptimiserKind = Literal["adamw", "adamw8bit", "prodigy", "adafactor", "lion"]
ScheduleKind = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]

USUAL_LEARNING_RATE: Final[Mapping[Part, float]] = {"full": 1e-6, "lora": 1e-4, "token": 5e-4}
"""What `auto` is: the DreamBooth paper's code, the LoRA of diffusers, textual inversion."""


class PicturesSpec(Table):
    """`[train.pictures]`: how pictures and captions become training examples."""

    captions: Literal["auto", "prompt"] = "auto"
    """`auto`: a sidecar `photo.txt` or the caption of the dataset, and `train.prompt` where there is none;
    `prompt`: always `train.prompt`. `{identifier}` and `{class}` are replaced in all of them."""
    caption_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of examples that are learned with an empty caption, which keeps guidance working on long runs."""
    repeats: PositiveInt = 1
    """Times that each picture of the subject is in one round through them."""
    flip: bool = False
    """Also learn mirror images; wrong for text and for faces that are not symmetric."""
    crop: Literal["center", "random"] = "center"
    """What is cut away where a picture's shape is not that of its bucket."""
    random_crops: PositiveInt = 4
    """Different cuts per picture with `crop = "random"`; each is cached once."""
    buckets: bool = False
    """Keep the shape of pictures, at about `resolution` squared pixels, instead of making all square."""
    max_aspect: float = Field(default=2.0, ge=1, le=4)
    """Longest bucket: width to height or height to width."""
    masks: bool = True
    """Weigh the loss by the picture `photo.mask.png` beside `photo.jpg`, white where it counts."""
    mask_floor: float = Field(default=0.0, ge=0, le=1)
    """What black in a mask counts."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Processes that read pictures; `auto`: none with the cache, else up to four."""


class LossSpec(Table):
    """`[train.loss]`: what is minimised."""

    kind: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the model predicts; `auto` is what its scheduler says. Newer families always learn by flow matching."""
    snr_gamma: PositiveFloat | None = None
    """Cap on the signal-to-noise ratio that weighs each timestep (arXiv 2303.09556); 5 is usual."""
    noise_offset: NonNegativeFloat = 0.0
    """Noise that is the same over a whole channel, for darker and brighter pictures; 0.05 to 0.1 is usual."""


class OptimiserSpec(Table):
    """`[train.optimiser]`: how weights follow the gradient."""

    kind: OptimiserKind = "adamw"
    """`adamw8bit` and `lion` need bitsandbytes, `prodigy` needs prodigyopt: the extra `optimisers`."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay; not used for token embeddings."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means; `adafactor` has none."""
    epsilon: PositiveFloat = 1e-8
    """Keeps a division from being by zero."""
    clip: NonNegativeFloat = 1.0
    """Largest norm of the whole gradient; 0: no limit."""


class ScheduleSpec(Table):
    """`[train.schedule]`: the learning rate over the run."""

    kind: ScheduleKind = "constant"
    """Its shape."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which it rises from 0; not for `constant`."""
    cycles: PositiveInt = 1
    """Restarts of `cosine_with_restarts`."""
    power: PositiveFloat = 1.0
    """Exponent of `polynomial`."""


class LoraSpec(Table):
    """`[train.lora]`: small matrices beside frozen weights (arXiv 2106.09685)."""

    rank: PositiveInt = 16
    """Rank of the matrices."""
    alpha: PositiveFloat | None = None
    """Scale is alpha / rank; by default alpha is the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of inputs that are left out at random."""
    targets: tuple[str, ...] = ()
    """Endings of the names of the modules that get one; by default the attention of the family."""
    dora: bool = False
    """Also learn the magnitude of each row (arXiv 2402.09353)."""


class TokenSpec(Table):
    """`[train.token]`: the identifier as a new token with an embedding of its own (arXiv 2208.01618)."""

    initial: str | None = None
    """Word whose embedding it begins with; by default the class."""
    vectors: PositiveInt = 1
    """Tokens that stand for the identifier together."""


class EmaSpec(Table):
    """`[train.ema]`: a running mean of the weights, which is what is exported."""

    decay: float = Field(default=0.9999, gt=0, lt=1)
    """Weight of the past; less in the first steps: at most (1 + step) / (10 + step)."""


class SamplesSpec(Table):
    """`[train.samples]`: pictures made during training, the same prompts and seeds each time."""

    prompts: tuple[str, ...] = ()
    """What they show; by default `train.prompt`."""
    images: PositiveInt = 4
    """Pictures per prompt."""
    steps: PositiveInt = 25
    """Denoising steps per picture."""
    guidance: NonNegativeFloat = 7.5
    """Classifier-free guidance scale."""
    seed: NonNegativeInt = 0
    """Seed of the first picture; the next ones count up."""


class ValidationSpec(Table):
    """`[train.validation]`: the loss over pictures that are not learned, with the same noise each time."""

    pictures: Location
    """A folder or dataset of pictures of the subject."""
    every: PositiveInt = 100
    """Steps between two validations."""
    draws: PositiveInt = 8
    """Noise levels per picture."""
    keep_best: bool = True
    """Export the weights of the step with the lowest loss instead of the last."""


class TrainSpec(Table):
    """`[train]`: from a few pictures of a subject to a model that knows it."""

    base: ModelName
    """The model to begin with: a diffusers folder or a hub id."""
    subject: Annotated[Location, Place(words=("fetch",))]
    """Pictures of the subject: a folder, a dataset, or `fetch` for what the fetch stage made."""
    class_: Annotated[str, Field(alias="class", min_length=1)]
    """Noun of the subject's class: `dog`."""
    identifier: Annotated[str, Field(min_length=1)] = "sks"
    """Rare word that will mean the subject."""
    prompt: str = "a photo of {identifier} {class}"
    """Caption of pictures that have none."""
    method: str = "full"
    """What learns: `full` (all weights), `lora`, `token` (a new word), or `full+token`, `lora+token`."""
    text_encoder: bool = True
    """Whether `full` and `lora` reach the text encoders too; a T5 is never trained."""
    resolution: PositiveInt = 512
    """Side of a square picture in pixels."""
    steps: PositiveInt = 800
    """Optimiser steps."""
    batch_size: PositiveInt = 1
    """Pictures of the subject per device and forward pass, each with a class picture if there is a prior."""
    accumulation: PositiveInt = 1
    """Forward passes per optimiser step."""
    learning_rate: PositiveFloat | Literal["auto"] = "auto"
    """Of the denoiser; `auto`: 1e-6 for `full`, 1e-4 for `lora`, and 1 for prodigy, which finds its own."""
    text_encoder_learning_rate: PositiveFloat | None = None
    """Of the text encoders; by default that of the denoiser."""
    token_learning_rate: PositiveFloat | None = None
    """Of the new token; by default 5e-4."""
    prior_weight: NonNegativeFloat = 1.0
    """Weight of the loss over class pictures; they come from `[prior]`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the arithmetic; learned weights stay fp32. `auto`: the best that the device has."""
    compile: bool = False
    """Compile the denoiser: minutes at the start, faster steps after."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a quarter slower."""
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """`auto`: xformers where it runs, else PyTorch's scaled dot product attention."""
    cache: bool = True
    """Keep encoded pictures and captions on disk instead of encoding them at each step."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Kind of device."""
    devices: PositiveInt = 1
    """Devices that train together; each has its own batch."""
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "deepspeed_stage_2"] = "auto"
    """How several devices work together; `auto` is ddp."""
    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints, from which training goes on exactly."""
    checkpoints_kept: PositiveInt = 1
    """Newest checkpoints that stay."""
    sample_every: NonNegativeInt = 100
    """Steps between two grids of samples, with one before the first step; 0: none."""
    log_every: PositiveInt = 10
    """Most steps between two entries in the trackers, which get one about every second in any case; `history.jsonl` has
    every step."""
    output: Location = "model"
    """Folder of checkpoints, samples and the trained model."""
    pictures: PicturesSpec = Field(default_factory=PicturesSpec)
    """How pictures and captions become training examples."""
    loss: LossSpec = Field(default_factory=LossSpec)
    """What is minimised."""
    optimiser: OptimiserSpec = Field(default_factory=OptimiserSpec)
    """How weights follow the gradient."""
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    """The learning rate over the run."""
    lora: LoraSpec = Field(default_factory=LoraSpec)
    """Small matrices beside frozen weights, with `method = "lora"`."""
    token: TokenSpec = Field(default_factory=TokenSpec)
    """The identifier as a new token, with `method = "token"`."""
    ema: EmaSpec | None = None
    """A running mean of the weights; none by default."""
    samples: SamplesSpec = Field(default_factory=SamplesSpec)
    """Pictures made during training."""
    validation: ValidationSpec | None = None
    """The loss over pictures that are not learned; none by default."""

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        parts = method.split("+")
        unknown = [part for part in parts if part not in USUAL_LEARNING_RATE]
        if unknown or len(set(parts)) != len(parts):
            raise ValueError(f"{method!r} is no method; expected full, lora, token, full+token or lora+token")
        if {"full", "lora"} <= set(parts):
            raise ValueError(
                f"{method!r} makes no sense: with full, the weights that lora goes around learn themselves; "
                "expected one of the two"
            )
        return method

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

    @model_validator(mode="after")
    def _makes_sense(self) -> TrainSpec:
        problems = [reason for wrong, reason in self._contradictions() if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        return (
            (
                self.lora != LoraSpec() and not self.trains("lora"),
                f"[train.lora] is given, but method = {self.method!r} has no lora",
            ),
            (
                self.token != TokenSpec() and not self.trains("token"),
                f"[train.token] is given, but method = {self.method!r} has no token",
            ),
            (
                self.token_learning_rate is not None and not self.trains("token"),
                f"token_learning_rate is given, but method = {self.method!r} has no token",
            ),
            (
                self.text_encoder_learning_rate is not None and not self.trains_text_encoder,
                "text_encoder_learning_rate is given, but the text encoder does not learn",
            ),
            (
                self.schedule.warmup_steps >= self.steps and self.schedule.warmup_steps > 0,
                f"schedule.warmup_steps = {self.schedule.warmup_steps} leaves none of the {self.steps} steps",
            ),
            (
                self.schedule.kind == "constant" and self.schedule.warmup_steps > 0,
                'schedule.kind = "constant" has no warm-up; expected "constant_with_warmup"',
            ),
            (
                self.pictures.crop == "center" and self.pictures.random_crops != PicturesSpec().random_crops,
                'pictures.random_crops is given, but pictures.crop is "center"',
            ),
            (
                self.validation is not None and self.validation.every > self.steps,
                f"validation.every is more than the {self.steps} steps, so that it never happens",
            ),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of `method`."""
        return tuple(self.method.split("+"))

    def trains(self, part: Part) -> bool:
        """Whether `part` is in the method."""
        return part in self.parts

    @property
    def trains_denoiser(self) -> bool:
        """Whether weights of the denoiser, or matrices beside them, learn."""
        return self.method != "token"

    @property
    def trains_text_encoder(self) -> bool:
        """Whether weights of text encoders, or matrices beside them, learn."""
        return self.text_encoder and self.trains_denoiser

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of `denoiser`, `text_encoder` and `token`, defaults filled in."""
        own = self.optimiser.kind == "prodigy"
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
