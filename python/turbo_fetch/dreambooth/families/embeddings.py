"""New words of a model, learned by textual inversion: in its tokenizers and text encoders, and in files.

A file has the vectors of one word. With one text encoder they are under the word, or under a name that says nothing,
and then the file is named for the word; with two they are under `clip_l` and `clip_g`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from turbo_fetch.dreambooth.families.clip_vocabulary import add_words
from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.lora_files import read_header
from turbo_fetch.errors import ModelError

TRIGGER: Final = "trigger"
"""In the header of a file: its word."""
_NAMELESS: Final = "emb_params"
"""What AUTOMATIC1111's web UI calls vectors."""


def with_numbers(word: str, count: int) -> list[str]:
    """Return the tokens of a word: the word, then the word with numbers as diffusers names them."""
    return [word, *(f"{word}_{number}" for number in range(1, count))]


def stored_embedding(family: Family, word: str, learned: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a word is by text encoder as it is stored."""
    return {
        family.embedding_keys.get(encoder, word): rows.contiguous().cpu() for encoder, rows in learned.items()
    }


def add_embedding(family: Family, path: Path) -> str:
    """Teach a model the word of a file; returns the word. Raises ModelError."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as a learned word: {error}") from error
    word = read_header(path).get(TRIGGER) or _named(weights, path)
    for name, encoder in family.text_encoders.items():
        key = family.embedding_keys.get(name, next(iter(weights), ""))
        width = encoder.get_input_embeddings().embedding_dim
        if key not in weights or weights[key].shape[-1] != width:
            expected = (
                f"vectors of {width} numbers under {key!r}" if family.embedding_keys else f"{width} numbers"
            )
            raise ModelError(f"{path}: does not fit this {family.name} model; expected {expected}")
        _extend(encoder, family.tokenizers[name], word, weights[key].view(-1, width), path)
    return word


@torch.no_grad()
def _extend(encoder: Any, tokenizer: Any, word: str, rows: Tensor, path: Path) -> None:
    names = with_numbers(word, len(rows))
    if add_words(tokenizer, names) != len(names):
        raise ModelError(f"{path}: {word!r} is a token of the model already")
    table: nn.Embedding = encoder.get_input_embeddings()
    whole = nn.Embedding(table.num_embeddings + len(rows), table.embedding_dim).requires_grad_(False)
    whole.weight.data = torch.cat([table.weight, rows.to(table.weight)])
    encoder.set_input_embeddings(whole)
    encoder.config.vocab_size = whole.num_embeddings


def _named(weights: dict[str, Tensor], path: Path) -> str:
    named = list(weights)
    return named[0] if len(named) == 1 and named[0] != _NAMELESS else path.stem
