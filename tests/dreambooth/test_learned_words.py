"""A word that is learned by textual inversion is read by others, and by us, as what was learned."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from tiny_models import TINY_FLOW_MODELS, TINY_MODELS, tiny_sd
from training import training_spec
from turbo_fetch import stages
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.model import export_model
from turbo_fetch.dreambooth.families.embeddings import add_embedding
from turbo_fetch.dreambooth.families.trainable import configure_trainable, with_all_tokens
from turbo_fetch.dreambooth.run_folder import EMBEDDINGS
from turbo_fetch.errors import ModelError, SpecError
from turbo_fetch.spec.specfile import parse_spec

PROMPT = "a <dog> <dog>_1 on the moon"
KEYS = {"sd": {"<dog>"}, "sdxl": {"clip_l", "clip_g"}, "sd3": {"clip_l", "clip_g"}, "flux": {"clip_l"}}
"""What diffusers, ComfyUI (`sd1_clip.load_embed`) and AUTOMATIC1111 look for: the word, or one key per text encoder."""


@pytest.fixture(scope="module", params=KEYS)
def learned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Any]:
    """Return a family's name, the folder of its base and export, and what the trained model makes of a caption."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    base = (TINY_MODELS | TINY_FLOW_MODELS)[name](folder / "base")
    table = {"base": str(base), "subject": "photos", "class": "dog", "identifier": "<dog>", "method": "token"}
    train = parse_spec({"train": {**table, "token": {"vectors": 2}}}).train
    assert train is not None
    family = families.load(str(base))
    trainable = configure_trainable(family, train)
    torch.manual_seed(1)
    for table_of in trainable.embeddings.values():
        torch.nn.init.normal_(table_of.rows, std=0.5)
    export_model(train, family, trainable, folder / "model")
    return name, folder, family.encode_captions([PROMPT])


def test_the_file_has_what_each_program_looks_for(learned: tuple[str, Path, Any]) -> None:
    name, folder, _ = learned
    stored = load_file(folder / "model" / EMBEDDINGS)
    assert stored.keys() == KEYS[name]
    assert all(rows.shape == (2, 32) for rows in stored.values())


def test_we_read_the_file_and_the_folder_as_what_was_learned(learned: tuple[str, Path, Any]) -> None:
    _, folder, wanted = learned
    with_word = families.load(str(folder / "base"))
    assert add_embedding(with_word, folder / "model" / EMBEDDINGS) == "<dog>"
    for family in (with_word, families.load(str(folder / "model"))):
        made = family.encode_captions([PROMPT])
        assert all(torch.allclose(made[key], value, atol=1e-5) for key, value in wanted.items())


def test_diffusers_reads_the_file_as_what_was_learned(learned: tuple[str, Path, Any]) -> None:
    name, folder, wanted = learned
    if name == "sd3":
        # diffusers has no textual inversion for it.
        return
    family = families.load(str(folder / "base"))
    stored = load_file(folder / "model" / EMBEDDINGS)
    for encoder in family.text_encoders:
        family.pipeline.load_textual_inversion(
            stored[family.embedding_keys.get(encoder, "<dog>")],
            token="<dog>",
            text_encoder=family.text_encoders[encoder],
            tokenizer=family.tokenizers[encoder],
        )
    made = family.encode_captions([PROMPT])
    assert all(torch.allclose(made[key], value, atol=1e-5) for key, value in wanted.items())


def test_generate_takes_the_file(learned: tuple[str, Path, Any], tmp_path: Path) -> None:
    name, folder, _ = learned
    if name != "sd":
        return
    table = {"prompts": ["a <dog>"], "images": 1, "steps": 2, "width": 16, "height": 16}
    word = {"model": str(folder / "base"), "embedding": str(folder / "model" / EMBEDDINGS)}
    for output, model in (
        ("file", word),
        ("folder", {"model": str(folder / "model")}),
        ("base", {"model": word["model"]}),
    ):
        stages.run(parse_spec({"generate": {**table, **model, "output": str(tmp_path / output)}}))
    file, whole, base = (
        (tmp_path / output / "grid.png").read_bytes() for output in ("file", "folder", "base")
    )
    assert file == whole
    assert file != base


def test_a_word_that_does_not_fit_is_refused(learned: tuple[str, Path, Any], tmp_path: Path) -> None:
    name, folder, _ = learned
    family = families.load(str(folder / "base"))
    save_file({"<cat>": torch.zeros(1, 7)}, tmp_path / "cat.safetensors")
    with pytest.raises(ModelError, match=rf"cat.safetensors: does not fit this {name} model"):
        add_embedding(family, tmp_path / "cat.safetensors")
    add_embedding(family, folder / "model" / EMBEDDINGS)
    with pytest.raises(ModelError, match="'<dog>' is a token of the model already"):
        add_embedding(family, folder / "model" / EMBEDDINGS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("sd"))


@pytest.mark.parametrize("word", ["sks", "SKS", "dog", "a b", "<|endoftext|>"])
def test_what_is_no_new_word_is_refused(base: Path, tmp_path: Path, word: str) -> None:
    train = training_spec(base, tmp_path, method="token", identifier=word).train
    assert train is not None
    with pytest.raises(
        SpecError, match=re.escape(f"train.identifier = {word!r} is a token of the model already, or")
    ):
        configure_trainable(families.skeleton(str(base)), train)


def test_without_an_identifier_the_new_word_is_one_that_clip_does_not_have(
    base: Path, tmp_path: Path
) -> None:
    for method, expected in (("token", "<sks>"), ("lora+token", "<sks>"), ("full", "sks")):
        train = training_spec(base, tmp_path, method=method).train
        assert train is not None
        assert train.identifier == expected


def test_a_new_word_is_not_read_inside_of_others(base: Path, tmp_path: Path) -> None:
    train = training_spec(base, tmp_path, method="token", identifier="zwx", token={"vectors": 2}).train
    assert train is not None
    assert with_all_tokens(train, "a zwx, zwxy and azwx") == "a zwx zwx_1, zwxy and azwx"
    family = families.load(str(base))
    captions = ("zwxy azwx", "a zwx")
    before, changed = (family.pipeline.tokenizer(each).input_ids for each in captions)
    configure_trainable(family, train)
    assert family.pipeline.tokenizer(captions[0]).input_ids == before
    assert family.pipeline.tokenizer(captions[1]).input_ids != changed
    family.pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    saved = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert saved(captions[0]).input_ids == before


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"class": " "}, "class is missing"),
        ({"identifier": " "}, r"identifier = ' ': string should have at least 1 character"),
        ({"token": {"initial": " "}}, r"token\.initial = ' ': string should have at least 1 character"),
    ],
)
def test_a_word_without_tokens_is_refused(
    base: Path, tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        training_spec(base, tmp_path, method="token", **keys)


@pytest.mark.parametrize(
    ("method", "text_encoder"), [("token", False), *product(("full+token", "lora+token"), (True, False))]
)
def test_a_token_learns_whatever_learns_beside_it(tmp_path: Path, method: str, text_encoder: bool) -> None:
    base = tiny_sd(tmp_path / "base")
    keys = {"method": method, "text_encoder": text_encoder, "identifier": "<sks>"}
    train = training_spec(base, tmp_path, prior=False, **keys).train
    assert train is not None
    family = families.load(str(base))
    trainable = configure_trainable(family, train)
    table = trainable.embeddings["text_encoder"]
    learning = {id(parameter) for _, parameter in trainable.named()}
    assert learning == {id(parameter) for group in trainable.groups for parameter in group["params"]}
    assert id(table.rows) in learning
    assert id(table.frozen.weight) not in learning
    others = [name for name, _ in trainable.named() if "text_encoder" in name and not name.endswith(".rows")]
    assert bool(others) == text_encoder
