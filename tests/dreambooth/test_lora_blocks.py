"""A LoRA in chosen blocks of the denoiser, each with a rate of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny_models import tiny_flux, tiny_sd
from training import assert_equal_bits, fit, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA
from turbo_fetch.dreambooth.sampling.sampler import add_lora
from turbo_fetch.errors import Interrupted, SpecError

RATE = 1e-3
INNER = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {"sd": tiny_sd(folder / "sd"), "flux": tiny_flux(folder / "flux")}


def lora_in(blocks: dict[str, float], **keys: Any) -> dict[str, Any]:
    """Return keys of a run whose first step moves each weight of the LoRA by its rate, as AdamW does."""
    lora = {"rank": 2, "blocks": blocks, **keys.pop("lora", {})}
    return {"method": "lora", "learning_rate": RATE, "optimiser": {"weight_decay": 0}, "lora": lora, **keys}


@pytest.mark.parametrize(
    ("name", "blocks", "kept"),
    [
        ("sd", {"up_blocks": 1.0, "mid_block": 0.5, INNER: 0.1}, ("up_blocks", "mid_block")),
        ("flux", {"single_transformer_blocks.1": 2.0}, ("single_transformer_blocks.1",)),
    ],
)
def test_what_is_named_learns_at_its_rate_and_nothing_else_does(
    bases: dict[str, Path], tmp_path: Path, name: str, blocks: dict[str, float], kept: tuple[str, ...]
) -> None:
    spec = training_spec(bases[name], tmp_path, prior=False, **lora_in(blocks, steps=1, lora={"rank": 2}))
    fit(spec)
    weights = load_file(tmp_path / "model" / DIFFUSERS_LORA)
    paths = {key: key.partition(".")[2] for key in weights}
    assert all(path.startswith(kept) for path in paths.values())
    moved: dict[str, list[float]] = {}
    for key, weight in weights.items():
        if ".lora_B." in key:
            inside = max((block for block in blocks if paths[key].startswith(f"{block}.")), key=len)
            moved.setdefault(inside, []).append(float(weight.abs().max()))
    assert moved.keys() == {block for block in blocks if any(p.startswith(block) for p in paths.values())}
    for block, most in moved.items():
        assert most == pytest.approx([RATE * blocks[block]] * len(most), rel=1e-3)
    # And it is read as it was written.
    family = families.load(str(bases[name]))
    add_lora(family, str(tmp_path / "model"), 1.0)
    read = {key for key, _ in family.denoiser.named_parameters() if ".lora_B." in key}
    assert len(read) == sum(map(len, moved.values()))


def test_a_run_of_chosen_blocks_resumes_to_the_bit(bases: dict[str, Path], tmp_path: Path) -> None:
    keys = lora_in({"mid_block": 0.5, "up_blocks": 1.0}, steps=3, lora={"kind": "lokr"})
    whole, broken = (
        training_spec(bases["sd"], tmp_path, output=str(tmp_path / name), **keys)
        for name in ("whole", "broken")
    )
    fit(whole)
    with pytest.raises(Interrupted):
        stopped_after(broken, 1)
    fit(broken)
    assert_equal_bits(learned(tmp_path / "whole"), learned(tmp_path / "broken"))
    saved = torch.load(next((tmp_path / "whole" / "checkpoints").glob("*3.ckpt")), weights_only=True)
    rates = {group["name"]: group["lr"] for group in saved["optimizer_states"][0]["param_groups"]}
    assert rates == {"unet mid_block": RATE / 2, "unet up_blocks": RATE}


def test_a_block_that_is_not_there_is_refused_with_those_that_are(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    for name, blocks, expected in (
        ("sd", {"middle": 1.0}, r"begins with \['middle'\]; expected .*down_blocks\.1, .*mid_block"),
        ("sd", {"up": 1.0, "mid_block": 1.0}, r"begins with \['up'\]"),
        ("sd", {"conv_in": 1.0}, r"nothing that gets LoRA in the unet begins with \['conv_in'\]"),
        ("flux", {"mid_block": 1.0}, r"expected .*transformer_blocks\.0, .*single_transformer_blocks\.0"),
    ):
        with pytest.raises(SpecError, match=rf"train\.lora\.blocks: .*{expected}"):
            fit(training_spec(bases[name], tmp_path, **lora_in(blocks)))
    assert not (tmp_path / "model").exists()
    prodigy = {"optimiser": {"kind": "prodigy"}, "learning_rate": "auto"}
    with pytest.raises(SpecError, match=r"prodigy finds one learning rate"):
        training_spec(bases["sd"], tmp_path, **(lora_in({"mid_block": 0.5}) | prodigy))
    training_spec(bases["sd"], tmp_path, **(lora_in({"mid_block": 1.0}) | prodigy))
