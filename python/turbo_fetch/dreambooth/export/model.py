"""A model as files that other programs read: what a run trained, or what the command `export-model` converts."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from turbo_fetch.dreambooth.export.files import save_folder, save_single_file, write_safetensors
from turbo_fetch.dreambooth.export.lora import save_lora
from turbo_fetch.dreambooth.families import DTYPES, Family, is_empty
from turbo_fetch.dreambooth.families.block_swap import unswap_blocks
from turbo_fetch.dreambooth.families.embeddings import TRIGGER, stored_embedding
from turbo_fetch.dreambooth.families.facts import CLIP_SKIP_KEY, PREDICTION_KEY
from turbo_fetch.dreambooth.families.models import load_model, set_dtype, weights_of
from turbo_fetch.dreambooth.families.trainable import Trainable, merge_tokens
from turbo_fetch.dreambooth.run_folder import embeddings_name
from turbo_fetch.dreambooth.sampling.sampler import add_lora
from turbo_fetch.errors import OutputExists, SpecError
from turbo_fetch.spec import TrainSpec

SAFETENSORS: Final = ".safetensors"
_FILES: Final = (SAFETENSORS, ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""How files of models end, which nobody means as the name of a folder."""


def export_model(train: TrainSpec, family: Family, trainable: Trainable, output: Path) -> None:
    """Write the trained model to `output`; the family is of no further use. Raises OutputError.

    All weights: a diffusers folder. LoRA: its files in the two common namings, and a folder with the matrices merged
    only if there is a new token too. A token: its embeddings, and the folder.
    """
    for _, part in family.modules():
        if not is_empty(part):
            unswap_blocks(part)
            part.to("cpu")
    learned = merge_tokens(family, trainable)
    if train.trains("lora"):
        save_lora(family, output, _metadata(train))
        if not learned:
            return
        family.merge_lora()
    if learned:
        for number, each in enumerate(train.each_subject):
            own = slice(number * train.token.vectors, (number + 1) * train.token.vectors)
            rows = {encoder: vectors[own] for encoder, vectors in learned.items()}
            name = embeddings_name(each.identifier if train.subjects else "")
            _save_embedding(family, rows, each.identifier, output / name)
    family.make_whole()
    for _, part in family.modules():
        if part.eval().dtype != torch.float32:
            part.to(torch.float32)
    save_folder(family.pipeline, output)


def convert(
    model: str, target: Path, precision: Literal["fp32", "bf16", "fp16"], lora: str | None, lora_scale: float
) -> None:
    """Write a model, with a LoRA merged into it if given, as one safetensors file or as a diffusers folder.

    Raises SpecError, ModelError, OutputError, OutputExists if `target` is there already.
    """
    if target.suffix != SAFETENSORS and target.suffix.lower() in _FILES:
        raise SpecError(
            f"{target}: not a name for a model; expected one that ends in {SAFETENSORS}, or that of a folder"
        )
    if target.exists():
        raise OutputExists(f"{target} is there already; expected a new name, or that you delete it first")
    family = load_model(model)
    if lora is not None:
        add_lora(family, lora, lora_scale)
        family.merge_lora()
    family.make_whole()
    if target.suffix == SAFETENSORS:
        metadata = {"modelspec.title": target.stem, "turbo_fetch.source_hash": weights_of(model)}
        save_single_file(family, target, metadata, DTYPES[precision])
    else:
        set_dtype(family.pipeline, DTYPES[precision])
        save_folder(family.pipeline, target)


def _metadata(train: TrainSpec) -> dict[str, str]:
    """Return what a run was, in the words of the headers that kohya's scripts write."""
    title = Path(train.output).name
    side = train.resolution
    facts = {
        "modelspec.title": title,
        "modelspec.trigger_phrase": ", ".join(each.caption() for each in train.each_subject),
        "modelspec.resolution": f"{side}x{side}",
        "ss_base_model": train.base,
        "ss_sd_model_name": Path(train.base).name,
        "ss_output_name": title,
        "ss_resolution": f"({side}, {side})",
        "ss_steps": train.steps,
        "ss_max_train_steps": train.steps,
        "ss_unet_lr": train.rates["denoiser"],
        "ss_text_encoder_lr": train.rates["text_encoder"] if train.trains_text_encoder else None,
        "ss_optimizer": train.optimiser.kind,
        "ss_lr_scheduler": train.schedule.kind,
        "ss_lr_warmup_steps": train.schedule.warmup_steps,
        "ss_gradient_accumulation_steps": train.accumulation,
        "ss_network_dropout": train.lora.dropout,
        "ss_max_grad_norm": train.optimiser.clip,
        "ss_caption_dropout_rate": train.pictures.caption_dropout,
        "ss_prior_loss_weight": train.prior_weight,
        "ss_min_snr_gamma": train.loss.snr_gamma,
        "ss_noise_offset": train.loss.noise_offset,
        "ss_seed": train.seed,
        # Others count from 1, which is none.
        "ss_clip_skip": train.clip_skip + 1 if train.clip_skip else None,
        CLIP_SKIP_KEY: train.clip_skip or None,
        PREDICTION_KEY: None if train.loss.kind == "auto" else train.loss.kind,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _save_embedding(family: Family, learned: dict[str, Tensor], word: str, path: Path) -> None:
    """Write a new word as textual inversion is read."""
    architecture = family.header()["modelspec.architecture"]
    header = {TRIGGER: word, "modelspec.architecture": f"{architecture}/textual-inversion"}
    write_safetensors(stored_embedding(family, word, learned), path, header)
