"""The tables within `[train]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from turbo_fetch.spec.numbers import DenoisingSteps, Seed
from turbo_fetch.spec.table import Location, Place, Table, Word

Part = Literal["full", "lora", "token"]
LoraKind = Literal["lora", "lokr", "loha"]
OptimiserKind = Literal["adamw", "adamw8bit", "prodigy", "prodigy_schedulefree", "adafactor", "lion"]
ScheduleKind = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]

FIND_THEIR_RATE: Final[frozenset[OptimiserKind]] = frozenset({"prodigy", "prodigy_schedulefree"})
"""Optimisers that adapt one learning rate for all that is trained."""

END_OF_POLYNOMIAL: Final = 1e-7
"""The learning rate to which that schedule falls, as diffusers has it."""

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
    class_: Annotated[Word, Field(alias="class")]
    """Noun of the subject's class. With `[prior]`, each class has images of its own."""
    identifier: Word
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
    """Exponent of `polynomial`, which falls to a rate of 1e-7."""


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
    blocks: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Which parts of the denoiser learn, and how fast: beginnings of names of its modules, such as `mid_block` or
    `up_blocks.1`, each with a factor of the learning rate. Of several that fit the longest counts, and what none fits
    does not learn. By default all learn alike."""
    dora: bool = False
    """Also learn the magnitude of each row of a `lora` (arXiv 2402.09353)."""


class TokenSpec(Table):
    """`[train.token]`: the identifier as a new token with its own embedding (arXiv 2208.01618)."""

    initial: Word | None = None
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
    steps: DenoisingSteps = 25
    """Denoising steps per image."""
    guidance: NonNegativeFloat | None = None
    """Classifier-free guidance scale; by default what is usual for the family."""
    seed: Seed = 0
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
