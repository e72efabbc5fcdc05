"""`[train]`: from a few images of a subject to a personalised model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal

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
    word_in_name,
)

_Problems = Iterator[tuple[bool, str]]
"""Whether something is wrong, and what to say then."""


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
        problems = [reason for wrong, reason in _contradictions(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self

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


def _contradictions(train: TrainSpec) -> _Problems:
    """Yield each pair of keys that makes no sense together."""
    checks = (
        _unnamed,
        _unused,
        _of_optimiser,
        _of_method,
        _of_base_precision,
        _of_block_swap,
        _of_fused_backward,
        _of_steps,
    )
    return chain.from_iterable(check(train) for check in checks)


def _unnamed(train: TrainSpec) -> _Problems:
    """Yield what is missing of the subjects, or said twice."""
    fields = type(train).model_fields
    for name in ("subject", "class_", "identifier"):
        key, value = fields[name].alias or name, getattr(train, name)
        yield not value and not train.subjects, f"{key} is missing; expected it, or [[train.subjects]]"
        is_given = value != fields[name].default
        yield (
            is_given and bool(train.subjects),
            f"{key} is given beside [[train.subjects]], which each have their own",
        )
    words = [each.identifier for each in train.subjects]
    twice = sorted({word for word in words if words.count(word) > 1})
    yield bool(twice), f"subjects have the same identifier {twice}; expected one for each"
    plain = [word_in_name(word) for word in words]
    alike = [word for word, name in zip(words, plain, strict=True) if not name or plain.count(name) > 1]
    yield (
        bool(alike) and train.trains("token"),
        f"the files of {alike} would have the same name; expected identifiers that differ in letters or digits",
    )
    if len(classes := {each.class_ for each in train.subjects}) > 1:
        odd = sorted(name for name in classes if "/" in name or name.startswith("."))
        yield (
            bool(odd),
            f"subjects have classes {odd}, which cannot be the names of folders of class images",
        )
    pictures = "" if train.validation is None else train.validation.pictures
    given = [each.identifier for each in train.subjects if each.validation]
    yield (
        train.validation is not None and not any(train.held_out),
        "[train.validation] has no images; expected validation.pictures, or of several subjects their validation",
    )
    yield (
        bool(pictures and train.subjects),
        "validation.pictures is given, but each subject has its own validation",
    )
    yield (
        bool(given) and train.validation is None,
        f"subjects {given} have validation, but no [train.validation]",
    )


def _unused(train: TrainSpec) -> _Problems:
    """Yield what is given beside a choice that makes no use of it."""
    pictures, optimiser, schedule = train.pictures, train.optimiser, train.schedule
    kind, shape = optimiser.kind, f'schedule.kind is "{schedule.kind}"'
    drawn = train.timesteps.distribution
    lora = f'lora.kind is "{train.lora.kind}"'
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
        ("lora.factor", train.lora.kind == "lokr", lora),
        ("lora.dropout", train.lora.kind == "lora", lora),
        ("lora.dora", train.lora.kind == "lora", lora),
        ("timesteps.mean", drawn == "logit_normal", is_drawn),
        ("timesteps.deviation", drawn == "logit_normal", is_drawn),
        ("timesteps.mode_scale", drawn == "mode", is_drawn),
    ):
        table, key = name.split(".")
        options = getattr(train, table)
        is_given = getattr(options, key) != type(options).model_fields[key].default
        yield is_given and not is_used, f"{name} is given, but {reason}"


def _of_optimiser(train: TrainSpec) -> _Problems:
    """Yield what the optimiser makes no sense beside."""
    rates = {train.rates[group] for group in train.trained_groups}
    # Those of blocks are in the place of the denoiser's.
    rates |= {train.rates["denoiser"] * factor for factor in train.lora.blocks.values()}
    kind = train.optimiser.kind
    averages, named = kind == "prodigy_schedulefree", f'optimiser.kind = "{kind}"'
    yield (
        averages and train.schedule.kind != "constant",
        f'schedule.kind = "{train.schedule.kind}", but {named} needs no schedule; expected "constant"',
    )
    yield (
        averages and train.ema is not None,
        f"[train.ema] is given, but {named} averages the weights itself",
    )
    yield (
        averages and not train.optimiser.betas[0],
        f"optimiser.betas begins with 0, but {named} averages by it; expected more",
    )
    yield (
        kind in FIND_THEIR_RATE and len(rates) > 1,
        f"{kind} finds one learning rate for all that is trained, but {len(rates)} are given; expected "
        "learning_rate alone, or factors of 1 in lora.blocks, or another optimiser.kind",
    )


def _of_method(train: TrainSpec) -> _Problems:
    """Yield what is given for what is not done."""
    yield (
        train.samples != SamplesSpec() and not train.sample_every,
        "[train.samples] is given, but sample_every = 0, so none are made",
    )
    yield (
        train.strategy != "auto" and train.devices == 1,
        f'strategy = "{train.strategy}" is for several devices, but devices = 1',
    )
    yield (
        train.lora != LoraSpec() and not train.trains("lora"),
        f"[train.lora] is given, but method = {train.method!r} has no lora",
    )
    yield (
        train.token != TokenSpec() and not train.trains("token"),
        f"[train.token] is given, but method = {train.method!r} has no token",
    )
    yield (
        train.token_learning_rate is not None and not train.trains("token"),
        f"token_learning_rate is given, but method = {train.method!r} has no token",
    )
    yield (
        train.text_encoder_learning_rate is not None and not train.trains_text_encoder,
        "text_encoder_learning_rate is given, but the text encoder is not trained; "
        "expected text_encoder = true too",
    )


def _of_base_precision(train: TrainSpec) -> _Problems:
    """Yield what a base of fewer bits does not go with."""
    if train.base_precision == "auto":
        return
    named = f'base_precision = "{train.base_precision}"'
    yield (
        train.method != "lora",
        f"{named} is for a base that stays as it is and is not exported, but "
        f'method = "{train.method}" trains or saves its weights; expected method = "lora"',
    )
    yield (
        train.lora.kind != "lora",
        f'{named} goes with plain LoRA, but lora.kind = "{train.lora.kind}"; expected lora.kind = "lora"',
    )
    yield (
        train.lora.dora,
        f"{named}, but lora.dora reads the whole weights at each step; expected one of the two",
    )
    yield (
        train.devices > 1,
        f"{named} is for one device, but devices = {train.devices}",
    )
    yield (
        bool(train.compile),
        f"{named} is not compiled; expected compile = false",
    )


def _of_block_swap(train: TrainSpec) -> _Problems:
    """Yield what blocks that come and go do not go with."""
    if not train.blocks_to_swap:
        return
    named = f"blocks_to_swap = {train.blocks_to_swap}"
    yield (
        train.blocks_to_swap < 3,
        f"{named} saves nothing, as two of the swapped blocks are on the GPU at once; expected 0, or 3 or more",
    )
    yield (
        train.trains("full"),
        f'{named} is for blocks that stay as they are, but method = "{train.method}" trains them; expected '
        'method = "lora"',
    )
    yield (
        not train.gradient_checkpointing,
        f"{named}, but without gradient_checkpointing each block stays until the backward pass; expected "
        "gradient_checkpointing = true",
    )
    yield (
        train.base_precision == "nf4",
        f'{named}, but of base_precision = "nf4" bitsandbytes keeps each block until the backward pass; expected '
        '"auto", "int8" or "fp8"',
    )
    yield (bool(train.compile), f"{named} is not compiled; expected compile = false")
    yield (train.devices > 1, f"{named} is for one device, but devices = {train.devices}")


def _of_fused_backward(train: TrainSpec) -> _Problems:
    """Yield what needs all gradients at once, or those of several passes."""
    if not train.optimiser.fused_backward:
        return
    named, kind = "optimiser.fused_backward = true", train.optimiser.kind
    yield (
        train.optimiser.clip > 0,
        f"{named} never has the whole gradient, whose norm optimiser.clip = {train.optimiser.clip:g} limits; "
        "expected optimiser.clip = 0",
    )
    yield (
        train.accumulation > 1,
        f"{named} takes a step at each backward pass, but accumulation = {train.accumulation}; "
        "expected accumulation = 1",
    )
    yield (
        kind in FIND_THEIR_RATE,
        f'{named}, but optimiser.kind = "{kind}" finds its rate by all gradients; expected another kind',
    )
    yield (
        train.precision == "fp16",
        f'{named}, but precision = "fp16" scales the gradients and looks at all before a step; '
        'expected "bf16" or "fp32"',
    )
    yield (train.devices > 1, f"{named} is for one device, but devices = {train.devices}")


def _of_steps(train: TrainSpec) -> _Problems:
    """Yield what the steps are too few for, or the schedule has no use for."""
    yield (
        train.schedule.warmup_steps >= train.steps and train.schedule.warmup_steps > 0,
        f"schedule.warmup_steps = {train.schedule.warmup_steps} leaves none of the {train.steps} steps",
    )
    yield (
        train.schedule.kind == "constant" and train.schedule.warmup_steps > 0,
        'schedule.kind = "constant" has no warm-up; expected "constant_with_warmup"',
    )
    yield (
        train.validation is not None and train.validation.every > train.steps,
        f"validation.every is more than the {train.steps} steps, so validation never runs",
    )
