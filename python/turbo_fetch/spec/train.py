"""`[train]`: from a few images of a subject to a personalised model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from turbo_fetch.spec.table import Location, ModelName, Place, Table, VaeTiling

Part = Literal["full", "lora", "token"]
LoraKind = Literal["lora", "lokr", "loha"]
OptimiserKind = Literal["adamw", "adamw8bit", "prodigy", "prodigy_schedulefree", "adafactor", "lion"]
ScheduleKind = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]

FIND_THEIR_RATE: Final[frozenset[OptimiserKind]] = frozenset({"prodigy", "prodigy_schedulefree"})
"""Optimisers that adapt one learning rate for all that is trained."""

Beta = Annotated[float, Field(ge=0, lt=1)]

USUAL_LEARNING_RATE: Final[Mapping[Part, float]] = {"full": 1e-6, "lora": 1e-4, "token": 5e-4}
"""What `auto` is unless a family says otherwise: the DreamBooth paper's code, diffusers' LoRA, textual inversion."""


def word_in_name(identifier: str) -> str:
    """Return what of an identifier is in the name of its file."""
    return re.sub(r"[^\w-]", "", identifier)


class SubjectSpec(Table):
    """`[[train.subjects]]`: one of several subjects that a run learns."""

    images: Annotated[Location, Place(words=("fetch",))]
    """Images of the subject: a folder, a dataset, or `fetch` for the output of the fetch stage."""
    class_: Annotated[str, Field(alias="class", min_length=1)]
    """Noun of the subject's class. With `[prior]`, each class has images of its own."""
    identifier: Annotated[str, Field(min_length=1)]
    """Rare word that will stand for the subject, and for no other."""
    prompt: str | None = None
    """Caption of images that have none; by default `train.prompt`."""
    weight: PositiveInt = 1
    """How many batches are of this subject, in relation to the others, however many images it has."""
    validation: Location | None = None
    """Held-out images of the subject, for `[train.validation]`."""


class PicturesSpec(Table):
    """`[train.pictures]`: how images and captions become training examples."""

    captions: Literal["auto", "prompt"] = "auto"
    """`auto`: a file such as `photo.txt` beside the image, a table of captions in the folder, or the caption of the
    dataset, otherwise `train.prompt`; `prompt`: always `train.prompt`. `{identifier}` and `{class}` are replaced in
    all of them."""
    annotator: Annotated[str, Place(or_name=True)] | None = None
    """A Python file or installed module whose functions `captions` and `masks` make them for images that have none; its
    code is run."""
    caption_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of examples trained with an empty caption, which keeps guidance working on long runs."""
    repeats: PositiveInt = 1
    """How often each image of the subject occurs in an epoch."""
    flip: bool = False
    """Also train on mirrored images; wrong for text and for asymmetric faces."""
    crop: Literal["center", "random"] = "center"
    """How images are cropped to the aspect ratio of their bucket."""
    random_crops: PositiveInt = 4
    """Different crops per image with `crop = "random"`; each is cached once."""
    buckets: bool = False
    """Keep aspect ratios, at about `resolution` squared pixels, instead of making all images square."""
    max_aspect: float = Field(default=2.0, ge=1, le=4)
    """Largest aspect ratio of a bucket: width to height or height to width."""
    masks: bool = True
    """Weight the loss by the mask `photo.mask.png` beside `photo.jpg`; white counts fully."""
    mask_floor: float = Field(default=0.0, ge=0, le=1)
    """Weight of black in a mask."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Data loading processes; `auto`: none with the cache, otherwise up to four."""


class LossSpec(Table):
    """`[train.loss]`: what is minimised."""

    kind: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the model predicts; `auto` is what its scheduler says. Newer families always use flow matching."""
    snr_gamma: PositiveFloat | None = None
    """Cap on the signal-to-noise ratio that weights each timestep (arXiv 2303.09556); 5 is usual."""
    noise_offset: NonNegativeFloat = 0.0
    """Noise that is constant over each channel, for darker and brighter images; 0.05 to 0.1 is usual."""


class TimestepsSpec(Table):
    """`[train.timesteps]`: from which noise levels is learned how often."""

    distribution: Literal["auto", "uniform", "logit_normal", "mode"] = "auto"
    """`auto`: `uniform` for models of diffusion, `logit_normal` for those of flow matching, as they were trained.
    `logit_normal` is the sigmoid of normal numbers, and `mode` prefers the middle less strongly (both arXiv 2403.03206,
    section 3.1)."""
    mean: float = 0.0
    """Mean of the normal numbers of `logit_normal`: above 0 more noise, below 0 less."""
    deviation: PositiveFloat = 1.0
    """Standard deviation of the normal numbers of `logit_normal`."""
    mode_scale: float = Field(default=1.29, ge=-1, le=1.75)
    """How much `mode` prefers the middle; below 0 it prefers both ends."""
    shift: PositiveFloat | Literal["auto", "resolution"] = "auto"
    """For flow matching: how far levels are shifted towards noise; 1: not at all; `auto`: as the model's scheduler
    says; `resolution`: further the larger an image is, as Flux is sampled."""


class OptimiserSpec(Table):
    """`[train.optimiser]`: the optimiser."""

    kind: OptimiserKind = "adamw"
    """Algorithm. `adamw8bit` and `lion` need bitsandbytes, `prodigy` prodigyopt, and
    `prodigy_schedulefree`, which averages the weights instead of following a schedule (arXiv 2405.15682),
    prodigy-plus-schedule-free: the extra `optimisers`."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay; not used for token embeddings."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the running means; `adafactor` has none."""
    epsilon: PositiveFloat = 1e-8
    """Avoids division by zero."""
    clip: NonNegativeFloat = 1.0
    """Gradient clipping: largest norm of the whole gradient; 0: no limit."""
    fused_backward: bool = False
    """Have each weight take its step during the backward pass, as soon as its gradient is there, which is then freed:
    the same numbers with less memory. It needs `clip = 0`."""


class ScheduleSpec(Table):
    """`[train.schedule]`: the learning rate schedule."""

    kind: ScheduleKind = "constant"
    """Shape of the schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which the rate rises from 0; not for `constant`."""
    cycles: PositiveInt = 1
    """Restarts of `cosine_with_restarts`; of no other."""
    power: PositiveFloat = 1.0
    """Exponent of `polynomial`."""


class LoraSpec(Table):
    """`[train.lora]`: low-rank matrices beside frozen weights (arXiv 2106.09685)."""

    kind: LoraKind = "lora"
    """What is beside them: `lora`, the product of two matrices; `lokr`, a Kronecker product (arXiv 2309.14859), which
    is smaller; `loha`, two such products, multiplied element by element (arXiv 2108.06098)."""
    rank: PositiveInt = 16
    """Rank of the matrices."""
    alpha: PositiveFloat | None = None
    """Scale is alpha / rank; by default alpha is the rank."""
    factor: PositiveInt | None = None
    """Of a `lokr`: size of the smaller factor, where the sides of a weight can be divided by it; a smaller one trains
    more numbers. By default about the square root of each side."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability of the inputs of a `lora`."""
    targets: tuple[str, ...] = ()
    """Suffixes of the names of the modules that get LoRA; by default the attention of the family. A text encoder that
    is trained, but has no module of these names, gets LoRA in its attention."""
    dora: bool = False
    """Also learn the magnitude of each row of a `lora` (arXiv 2402.09353)."""


class TokenSpec(Table):
    """`[train.token]`: the identifier as a new token with its own embedding (arXiv 2208.01618)."""

    initial: str | None = None
    """Word whose embedding initialises it; by default the class."""
    vectors: PositiveInt = 1
    """Number of tokens that together stand for the identifier."""


class EmaSpec(Table):
    """`[train.ema]`: an exponential moving average of the weights, which is exported instead of them."""

    decay: float = Field(default=0.9999, gt=0, lt=1)
    """Decay; lower in the first steps: at most (1 + step) / (10 + step)."""


class SamplesSpec(Table):
    """`[train.samples]`: images generated during training, with the same prompts and seeds each time."""

    prompts: tuple[str, ...] = ()
    """Prompts; by default `train.prompt`."""
    images: PositiveInt = 4
    """Images per prompt."""
    steps: PositiveInt = 25
    """Denoising steps per image."""
    guidance: NonNegativeFloat | None = None
    """Classifier-free guidance scale; by default what is usual for the family."""
    seed: NonNegativeInt = 0
    """Seed of the first image; the next ones count up."""


class ValidationSpec(Table):
    """`[train.validation]`: the loss over held-out images, with the same noise each time."""

    pictures: Location = ""
    """A folder or dataset of images of the subject; of several, `validation` of each."""
    every: PositiveInt = 100
    """Steps between validations."""
    draws: PositiveInt = 8
    """Noise levels per image."""
    keep_best: bool = True
    """Export the weights of the step with the lowest loss instead of the last."""


class TrainSpec(Table):
    """`[train]`: from a few images of a subject to a personalised model."""

    base: ModelName
    """The base model: a diffusers folder, a single file (`.safetensors`, `.ckpt`), or a hub id."""
    subject: Annotated[Location, Place(words=("fetch",))] = ""
    """Images of the subject: a folder, a dataset, or `fetch` for the output of the fetch stage. Required, and so is
    `class`, unless there are `subjects`."""
    class_: Annotated[str, Field(alias="class")] = ""
    """Noun of the subject's class, such as `dog`."""
    identifier: Annotated[str, Field(min_length=1)] = "sks"
    """Rare word that will stand for the subject."""
    prompt: str = "a photo of {identifier} {class}"
    """Caption of images that have none."""
    method: str = "full"
    """What is trained: `full` (all weights), `lora`, `token` (a new word), or `full+token`, `lora+token`."""
    text_encoder: bool | Literal["auto"] = "auto"
    """Whether `full` and `lora` also train the text encoders; a T5 or Qwen is never trained. `auto`: with `full` those
    of Stable Diffusion 1 and 2, no others."""
    clip_skip: NonNegativeInt = 0
    """Layers at the end of the text encoder that are passed over, for Stable Diffusion 1 and 2; 1 is what the web UIs
    call a clip skip of 2."""
    resolution: NonNegativeInt = 0
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
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention implementation; `auto`: xformers where it runs, otherwise PyTorch's scaled dot product attention."""
    vae_tiling: VaeTiling = "auto"
    """Encode images, and decode samples, in overlapping tiles of the size that the autoencoder was made for: less
    memory, slightly different. `auto`: those of more than 2 megapixels (2 · 1024²)."""
    cache: bool = True
    """Cache encoded images and captions on disk instead of encoding them at each step."""
    seed: NonNegativeInt = 0
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
    def each_subject(self) -> tuple[TrainSpec, ...]:
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

    @model_validator(mode="after")
    def _makes_sense(self) -> TrainSpec:
        problems = [reason for wrong, reason in self._contradictions() if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        return (*self._unnamed(), *self._unused(), *self._conflicts())

    def _unnamed(self) -> Iterator[tuple[bool, str]]:
        """Yield what is missing of the subjects, or said twice."""
        fields = type(self).model_fields
        for name in ("subject", "class_", "identifier"):
            key, value = fields[name].alias or name, getattr(self, name)
            yield not value and not self.subjects, f"{key} is missing; expected it, or [[train.subjects]]"
            is_given = value != fields[name].default
            yield (
                is_given and bool(self.subjects),
                f"{key} is given beside [[train.subjects]], which each have their own",
            )
        words = [each.identifier for each in self.subjects]
        twice = sorted({word for word in words if words.count(word) > 1})
        yield bool(twice), f"subjects have the same identifier {twice}; expected one for each"
        plain = [word_in_name(word) for word in words]
        alike = [word for word, name in zip(words, plain, strict=True) if not name or plain.count(name) > 1]
        yield (
            bool(alike) and self.trains("token"),
            f"the files of {alike} would have the same name; expected identifiers that differ in letters or digits",
        )
        if len(classes := {each.class_ for each in self.subjects}) > 1:
            odd = sorted(name for name in classes if "/" in name or name.startswith("."))
            yield (
                bool(odd),
                f"subjects have classes {odd}, which cannot be the names of folders of class images",
            )
        pictures = "" if self.validation is None else self.validation.pictures
        given = [each.identifier for each in self.subjects if each.validation]
        yield (
            self.validation is not None and not any(self.held_out),
            "[train.validation] has no images; expected validation.pictures, or of several subjects their validation",
        )
        yield (
            bool(pictures and self.subjects),
            "validation.pictures is given, but each subject has its own validation",
        )
        yield (
            bool(given) and self.validation is None,
            f"subjects {given} have validation, but no [train.validation]",
        )

    def _unused(self) -> Iterator[tuple[bool, str]]:
        """Yield what is given beside a choice that makes no use of it."""
        pictures, optimiser, schedule = self.pictures, self.optimiser, self.schedule
        kind, shape = optimiser.kind, f'schedule.kind is "{schedule.kind}"'
        drawn = self.timesteps.distribution
        lora = f'lora.kind is "{self.lora.kind}"'
        is_drawn = f'timesteps.distribution is "{drawn}"'
        for name, is_used, reason in (
            (
                "pictures.annotator",
                pictures.captions == "auto" or pictures.masks,
                'pictures.captions is "prompt" and pictures.masks is false',
            ),
            ("pictures.random_crops", pictures.crop == "random", f'pictures.crop is "{pictures.crop}"'),
            ("pictures.max_aspect", pictures.buckets, "pictures.buckets is false"),
            ("pictures.mask_floor", pictures.masks, "pictures.masks is false"),
            ("optimiser.betas", kind != "adafactor", f"{kind} has none"),
            ("optimiser.epsilon", kind not in {"adafactor", "lion"}, f"{kind} has none"),
            ("schedule.cycles", schedule.kind == "cosine_with_restarts", shape),
            ("schedule.power", schedule.kind == "polynomial", shape),
            ("lora.factor", self.lora.kind == "lokr", lora),
            ("lora.dropout", self.lora.kind == "lora", lora),
            ("lora.dora", self.lora.kind == "lora", lora),
            ("timesteps.mean", drawn == "logit_normal", is_drawn),
            ("timesteps.deviation", drawn == "logit_normal", is_drawn),
            ("timesteps.mode_scale", drawn == "mode", is_drawn),
        ):
            table, key = name.split(".")
            options = getattr(self, table)
            is_given = getattr(options, key) != type(options).model_fields[key].default
            yield is_given and not is_used, f"{name} is given, but {reason}"

    def _conflicts(self) -> tuple[tuple[bool, str], ...]:
        rates = {self.rates[group] for group in self._trained_groups}
        kind = self.optimiser.kind
        averages, named = kind == "prodigy_schedulefree", f'optimiser.kind = "{kind}"'
        return (
            (
                averages and self.schedule.kind != "constant",
                f'schedule.kind = "{self.schedule.kind}", but {named} needs no schedule; expected "constant"',
            ),
            (
                averages and self.ema is not None,
                f"[train.ema] is given, but {named} averages the weights itself",
            ),
            (
                averages and not self.optimiser.betas[0],
                f"optimiser.betas begins with 0, but {named} averages by it; expected more",
            ),
            (
                kind in FIND_THEIR_RATE and len(rates) > 1,
                f"{kind} finds one learning rate for all that is trained, but {len(rates)} are given; expected "
                "learning_rate alone, or another optimiser.kind",
            ),
            (
                self.samples != SamplesSpec() and not self.sample_every,
                "[train.samples] is given, but sample_every = 0, so none are made",
            ),
            (
                self.strategy != "auto" and self.devices == 1,
                f'strategy = "{self.strategy}" is for several devices, but devices = 1',
            ),
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
                "text_encoder_learning_rate is given, but the text encoder is not trained; "
                "expected text_encoder = true too",
            ),
            (
                self.base_precision != "auto" and self.method != "lora",
                f'base_precision = "{self.base_precision}" is for a base that stays as it is and is not exported, but '
                f'method = "{self.method}" trains or saves its weights; expected method = "lora"',
            ),
            (
                self.base_precision != "auto" and self.lora.kind != "lora",
                f'base_precision = "{self.base_precision}" goes with plain LoRA, but lora.kind = "{self.lora.kind}"; '
                'expected lora.kind = "lora"',
            ),
            (
                self.base_precision != "auto" and self.lora.dora,
                f'base_precision = "{self.base_precision}", but lora.dora reads the whole weights at each step; '
                "expected one of the two",
            ),
            (
                self.base_precision != "auto" and self.devices > 1,
                f'base_precision = "{self.base_precision}" is for one device, but devices = {self.devices}',
            ),
            (
                self.base_precision != "auto" and bool(self.compile),
                f'base_precision = "{self.base_precision}" is not compiled; expected compile = false',
            ),
            *((self.optimiser.fused_backward and wrong, reason) for wrong, reason in self._not_fused()),
            (
                self.schedule.warmup_steps >= self.steps and self.schedule.warmup_steps > 0,
                f"schedule.warmup_steps = {self.schedule.warmup_steps} leaves none of the {self.steps} steps",
            ),
            (
                self.schedule.kind == "constant" and self.schedule.warmup_steps > 0,
                'schedule.kind = "constant" has no warm-up; expected "constant_with_warmup"',
            ),
            (
                self.validation is not None and self.validation.every > self.steps,
                f"validation.every is more than the {self.steps} steps, so validation never runs",
            ),
        )

    def _not_fused(self) -> tuple[tuple[bool, str], ...]:
        """Return what needs all gradients at once, or those of several passes."""
        named, kind = "optimiser.fused_backward = true", self.optimiser.kind
        return (
            (
                self.optimiser.clip > 0,
                f"{named} never has the whole gradient, whose norm optimiser.clip = {self.optimiser.clip:g} limits; "
                "expected optimiser.clip = 0",
            ),
            (
                self.accumulation > 1,
                f"{named} takes a step at each backward pass, but accumulation = {self.accumulation}; "
                "expected accumulation = 1",
            ),
            (
                kind in FIND_THEIR_RATE,
                f'{named}, but optimiser.kind = "{kind}" finds its rate by all gradients; expected another kind',
            ),
            (
                self.precision == "fp16",
                f'{named}, but precision = "fp16" scales the gradients and looks at all before a step; '
                'expected "bf16" or "fp32"',
            ),
            (self.devices > 1, f"{named} is for one device, but devices = {self.devices}"),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of `method`."""
        return tuple(self.method.split("+"))

    def trains(self, part: Part) -> bool:
        """Whether `part` is in the method."""
        return part in self.parts

    @property
    def _trained_groups(self) -> Iterator[str]:
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

    def changed(self, **keys: Any) -> TrainSpec | None:
        """Return the same with other keys; None if they make no sense beside the rest."""
        try:
            return TrainSpec.model_validate(self.model_dump(by_alias=True, exclude_unset=True) | keys)
        except ValidationError:
            return None

    def caption(self, template: str | None = None) -> str:
        """Return `template`, by default `prompt`, with identifier and class filled in."""
        text = self.prompt if template is None else template
        return text.replace("{identifier}", self.identifier).replace("{class}", self.class_)
