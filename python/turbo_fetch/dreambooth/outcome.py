"""What is kept of a run that is complete: the model, in the forms in which others read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from turbo_fetch.dreambooth.checkpoint import BEST, FOLDER, read_checkpoint
from turbo_fetch.dreambooth.export.folder import save_folder
from turbo_fetch.dreambooth.export.lora import save_lora
from turbo_fetch.dreambooth.export.single_file import write_safetensors
from turbo_fetch.dreambooth.learners import fold, token_names
from turbo_fetch.dreambooth.module import DreamBooth

EMBEDDINGS_FILE: Final = "learned_embeds.safetensors"


def keep(module: DreamBooth, output: Path, note: Callable[[str], None]) -> None:
    """Write the trained model to `output`; the module is of no further use. Raises OutputError.

    All weights: a diffusers folder. LoRA: its files in the two common namings, and a folder with the matrices merged
    only if there is a new token too. A token: its embeddings, and the folder.
    """
    setup = module.setup_
    train, family = setup.train, setup.family
    _best(module, output, note)
    if module.ema is not None:
        module.ema.copy_to_weights()
    family.pipeline.to("cpu")
    learned = fold(family, setup.learners)
    if train.trains("lora"):
        save_lora(family.pipeline, output, _metadata(module))
        if not learned:
            return
        family.pipeline.fuse_lora()
        family.pipeline.unload_lora_weights()
    if learned:
        _save_embeddings(learned, token_names(train), output / EMBEDDINGS_FILE)
    for _, part in family.modules():
        if part.eval().dtype != torch.float32:
            part.to(torch.float32)
    save_folder(family.pipeline, output)


def _best(module: DreamBooth, output: Path, note: Callable[[str], None]) -> None:
    """Take the weights of the best validation, if that is wanted."""
    validation = module.setup_.train.validation
    path = output / FOLDER / f"{BEST}.ckpt"
    if validation is None or not validation.keep_best or not path.is_file():
        return
    checkpoint = read_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    if module.ema is not None:
        module.ema.load_state_dict(checkpoint["ema"])
    note(f"train: keeping the weights of step {checkpoint['global_step']:,}, whose validation loss is lowest")


def _metadata(module: DreamBooth) -> dict[str, str]:
    train = module.setup_.train
    return {
        "modelspec.title": Path(train.output).name,
        "modelspec.trigger_phrase": train.caption(),
        "ss_base_model": train.base,
        "ss_steps": str(train.steps),
        "ss_network_dim": str(train.lora.rank),
        "ss_network_alpha": str(train.lora.alpha or train.lora.rank),
    }


def _save_embeddings(learned: dict[str, torch.Tensor], names: list[str], path: Path) -> None:
    """Write a new word as textual inversion is read: one tensor of all its tokens, per text encoder."""
    word = names[0]
    single = next(iter(learned.values()))
    tensors = (
        {word: single} if len(learned) == 1 else {_sdxl_name(name): rows for name, rows in learned.items()}
    )
    stored = {name: rows.contiguous().cpu() for name, rows in tensors.items()}
    write_safetensors(stored, path, {"trigger": word})


def _sdxl_name(encoder: str) -> str:
    return {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}.get(encoder, encoder)
