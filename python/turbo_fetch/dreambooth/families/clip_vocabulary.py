"""The tokenizer of CLIP's text models, made without a hub: from the vocabulary in open_clip's package."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from transformers import AddedToken, CLIPTokenizer

from turbo_fetch.errors import MissingExtra

_MERGES: Final = 49_152 - 256 - 2
"""Of the 16e6 vocabulary, CLIP uses as many merges as give 49,408 tokens together with the bytes and two marks."""


def clip_tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """Write CLIP's own vocabulary to `folder` and return its tokenizer. Raises MissingExtra."""
    try:
        packed = files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    except ModuleNotFoundError as error:
        raise MissingExtra("open_clip_torch", "train", "the vocabulary of CLIP") from error
    merges = gzip.decompress(packed).decode().split("\n")[1 : 1 + _MERGES]
    symbols = _byte_symbols()
    words = [
        *symbols,
        *(f"{symbol}</w>" for symbol in symbols),
        *(merge.replace(" ", "") for merge in merges),
    ]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77, pad_token=pad_token)
    return tokenizer


def add_words(tokenizer: Any, words: Sequence[str]) -> int:
    """Teach a tokenizer words, which it does not look for inside of others; returns how many were new."""
    added: int = tokenizer.add_tokens([AddedToken(word, single_word=True) for word in words])
    return added


def _byte_symbols() -> list[str]:
    """Return the 256 printable symbols with which byte-level BPE (GPT-2, CLIP) writes bytes, in its order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [*map(chr, printable), *(chr(256 + number) for number in range(256 - len(printable)))]
