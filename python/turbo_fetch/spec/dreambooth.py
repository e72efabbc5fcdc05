"""`[prior]`, `[generate]` and `[evaluate]`: what comes before and after training (`train.py`)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from turbo_fetch.spec.numbers import DenoisingSteps, Seed, Side
from turbo_fetch.spec.table import Location, ModelName, Place, Table, VaeTiling, Word

Scheduler = Literal[
    "auto",
    "ddim",
    "ddpm",
    "pndm",
    "plms",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpm++2m",
    "dpm++2m_karras",
    "unipc",
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Metric = Literal["dino", "clip_i", "clip_t", "pres", "div", "class_div", "lpips"]
Prompt = Annotated[str, Field(min_length=1)]
PAPER: Final = ("paper", "paper-live")
"""The prompts of the paper, by name."""

OFFLINE = "efficientnet-lite0"
"""The image encoder that is installed as a package (extra `demo`), for machines without access to a hub."""


class SamplingTable(Table):
    """How images are sampled; part of `[prior]`, `[generate]` and `[evaluate]`."""

    scheduler: Scheduler | None = None
    """Sampler; `auto` is the one that comes with the model. By default `ddim`, and `auto` for flow-matching models,
    which have no other."""
    steps: DenoisingSteps = 50
    """Denoising steps per image."""
    guidance: NonNegativeFloat | None = None
    """Classifier-free guidance scale; 1 or less turns it off. By default what is usual for the family: 7.5, 3.5 for
    Flux, which is told it, 4 for Flux.2."""
    negative: str = ""
    """Negative prompt; has no effect without guidance. Flux has none."""
    seed: Seed = 0
    """Seed of the first image; each image has its own seed, whatever the batch size."""
    width: Side | None = None
    """Width in pixels; by default that of the model."""
    height: Side | None = None
    """Height in pixels; by default that of the model."""
    batch_size: PositiveInt = 4
    """Images per batch; larger batches are faster and need more memory."""
    precision: Precision = "auto"
    """Floating-point precision; `auto`: fp16 on a GPU, fp32 on a CPU."""
    vae_tiling: VaeTiling = "auto"
    """Decode images in overlapping tiles of the size that the autoencoder was made for: less memory, and slight
    differences of brightness between tiles. `auto`: images of more than 2 megapixels (2 · 1024²)."""

    @field_validator("width", "height")
    @classmethod
    def _whole_latents(cls, side: int | None) -> int | None:
        if side is not None and side % 8:
            raise ValueError(f"{side} pixels; expected a multiple of 8")
        return side


class PriorSpec(SamplingTable):
    """`[prior]`: images of the subject's class, which keep the model from forgetting it."""

    images: PositiveInt = 200
    """Number of class images."""
    prompt: Prompt = "a photo of a {class}"
    """Prompt for them; `{class}` is `train.class`."""
    source: Annotated[Prompt, Place(words=("generate",))] = "generate"
    """`generate`: make them with the base model; or a folder or dataset of existing images."""
    output: Location | None = None
    """Folder of the generated images; by default `train.output` with `-class` at the end."""

    @model_validator(mode="after")
    def _makes_them(self) -> PriorSpec:
        fields = type(self).model_fields
        unused = [
            name
            for name in (*SamplingTable.model_fields, "output")
            if getattr(self, name) != fields[name].default
        ]
        if self.source != "generate" and unused:
            raise ValueError(
                f"{', '.join(unused)} given beside source = {self.source!r}, with which no images are made"
            )
        return self


class GenerateSpec(SamplingTable):
    """`[generate]`: from prompts to images."""

    model: ModelName | None = None
    """A diffusers folder, a single file, a hub id, or a checkpoint of `[train]`; by default the model that this spec
    trains."""
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)] | Annotated[Prompt, Place(words=PAPER)]
    """A list of prompts, or a text file with one prompt per line, or `paper` or `paper-live`, as in `[evaluate]`.
    `{identifier}` and `{class}` are those of `[train]`."""
    images: PositiveInt = 4
    """Images per prompt."""
    fixed_code: bool = False
    """Start every prompt from the same noise, so that only the words make a difference."""
    grid: bool = True
    """Also arrange all images on `grid.png`, one row per prompt."""
    lora: ModelName | None = None
    """A LoRA to apply to the model: a file or folder in diffusers' or kohya's naming, or a hub id."""
    lora_scale: NonNegativeFloat = 1.0
    """Scale of the LoRA."""
    embedding: ModelName | None = None
    """A file of textual inversion, such as `learned_embeds.safetensors`, whose word the prompts may use."""
    output: Location = "pictures"
    """Folder of the images, on disk or at any fsspec URL."""


class EvaluateSpec(SamplingTable):
    """`[evaluate]`: from models to scores, by the protocol of the DreamBooth paper (arXiv 2208.12242)."""

    models: tuple[Annotated[Prompt, Place(or_name=True)], ...] = ()
    """Models in the order of their training: diffusers folders, hub ids, checkpoints of `[train]`, or LoRA, which
    are applied to `base`; `*` in a path matches anything. By default the existing checkpoints of this spec's
    `[train]`, and the model it trained."""
    base: ModelName | None = None
    """The model they were trained from, which is scored too, as step 0, from which drift is measured; by default
    `train.base`."""
    subject: Annotated[Location, Place(words=("fetch",))] | None = None
    """The real images: a folder, a dataset, or `fetch`; by default `train.subject`."""
    identifier: Word | None = None
    """Word that stands for the subject; by default `train.identifier`."""
    class_: Annotated[Word | None, Field(alias="class")] = None
    """Noun of the subject's class; by default `train.class`."""
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)] | Annotated[Prompt, Place(words=PAPER)] = (
        "paper"
    )
    """`paper`: the paper's 25 for objects; `paper-live`: its 25 for living subjects; or a list, or a text file with
    one prompt per line. `{identifier}` and `{class}` are replaced."""
    images: PositiveInt = 4
    """Images per prompt; `div` and `lpips` need at least two."""
    class_prompt: Prompt = "a photo of a {class}"
    """Prompt for images of the class."""
    class_images: PositiveInt = 16
    """Images of the class alone, for `pres` and `class_div`."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = (
        "dino",
        "clip_i",
        "clip_t",
        "pres",
        "div",
        "class_div",
    )
    """`dino` and `clip_i`: similarity to the real images; `clip_t`: similarity to the prompt; `pres`: similarity of
    the class to the subject, where lower is better; `div` and `class_div`: diversity of the images of one prompt, and
    of the class, by the features of `dino`; `lpips`: diversity of one prompt as the paper measures it, with weights
    that PyTorch downloads."""
    dino: Annotated[Prompt, Place(or_name=True)] = "facebook/dino-vits16"
    """Encoder of `dino`, `pres`, `div` and `class_div`: a path, a hub id, or `efficientnet-lite0`, which needs
    no hub."""
    clip: Annotated[Prompt, Place(or_name=True)] = "openai/clip-vit-base-patch32"
    """Encoder of `clip_i` and `clip_t`: a path, a hub id, or for `clip_i` alone `efficientnet-lite0`."""
    output: Location = "scores"
    """Folder of images, `scores.json` and `report.html`, on disk or at any fsspec URL."""

    @model_validator(mode="after")
    def _can_be_measured(self) -> EvaluateSpec:
        if "clip_t" in self.metrics and self.clip == OFFLINE:
            raise ValueError(
                f"clip is {OFFLINE!r}, which does not read text, but metrics has 'clip_t'; "
                "expected a CLIP model, or metrics without 'clip_t'"
            )
        for metric, key in (("div", "images"), ("lpips", "images"), ("class_div", "class_images")):
            if metric in self.metrics and getattr(self, key) < 2:
                raise ValueError(
                    f"{key} is 1, but metrics has {metric!r}, which compares images of one prompt; "
                    f"expected {key} of at least 2, or metrics without {metric!r}"
                )
        return self

    def measures(self, *metrics: Metric) -> bool:
        """Return whether any of these is wanted."""
        return any(metric in self.metrics for metric in metrics)
