"""Blocks that lie in main memory and come to the GPU as they run: the same numbers, with less of the GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fake_cuda import CUDA, Witness, fake_cuda
from tiny_models import TINY_FLOW_MODELS, tiny_qwen_image, tiny_sd, tiny_sd3, tiny_sdxl
from training import Listener, assert_equal_bits, fit, history, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.families.block_swap import chosen_blocks, repeated_blocks
from turbo_fetch.dreambooth.families.trainable import configure_trainable
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA
from turbo_fetch.dreambooth.training.estimate import estimate
from turbo_fetch.dreambooth.training.trainer import place_model
from turbo_fetch.errors import Interrupted, SpecError
from turbo_fetch.spec.specfile import parse_spec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MAKERS: dict[str, Callable[[Path], Path]] = {
    **TINY_FLOW_MODELS,
    "sd": tiny_sd,
    "sdxl": tiny_sdxl,
    "sd3": partial(tiny_sd3, num_layers=5, with_t5=True),
    "qwen-image": partial(tiny_qwen_image, layers=4),
}
RUNS: dict[str, dict[str, Any]] = {
    "sd": {"method": "lora+token", "precision": "fp16", "accumulation": 2, "ema": {"decay": 0.9}},
    "flux": {"method": "lora", "base_precision": "int8"},
}
LEARNING: dict[str, dict[str, Any]] = {
    "sd": {"method": "token"},
    "sdxl": {"method": "lora", "text_encoder": True},
    "sd3": {"method": "lora", "lora": {"dora": True}},
    "flux": {"method": "lora", "base_precision": "int8"},
    "flux2": {"method": "lora", "base_precision": "fp8"},
    "flux2-dev": {"method": "lora"},
    "qwen-image": {"method": "lora", "lora": {"kind": "loha"}},
    "z-image": {"method": "lora"},
}
"""Of each family another way to learn beside frozen blocks."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: MAKERS[name](folder / name) for name in LEARNING}


def _gradients(base: Path, tmp_path: Path, swapped: int, **keys: Any) -> tuple[dict[str, Tensor], Witness]:
    """Return what three steps come to, the numbers of each but the first in the time of the one before."""
    keys = {"identifier": "<sks>", "gradient_checkpointing": True, "blocks_to_swap": swapped, **keys}
    train = training_spec(base, tmp_path, prior=False, **keys).train
    assert train is not None
    found: dict[str, Tensor] = {}
    with fake_cuda() as gpu:
        family = families.load(str(base))
        torch.manual_seed(0)
        trainable = configure_trainable(family, train)
        place_model(family, CUDA, "bf16", train)
        generator = torch.Generator().manual_seed(1)
        sizes = torch.full((1, 6), 64, device=CUDA)
        for step in range(3):
            latents = torch.randn(1, *family.latent_shape(64, 64), generator=generator).to(CUDA)
            times = torch.tensor([500 + step], device=CUDA)
            with torch.autocast("cuda", torch.bfloat16):
                with torch.no_grad():
                    # As in samples, and without a way back.
                    family.predict(latents, times, family.encode_captions([""]), sizes)
                torch.cuda.reset_peak_memory_stats()
                with torch.set_grad_enabled(trainable.has_text_encoder):
                    text = family.encode_captions(["a <sks> dog"])
                predicted = family.predict(latents, times, text, sizes)
            predicted.float().square().mean().backward()
        found |= {name: weight.grad.cpu() for name, weight in trainable.named() if weight.grad is not None}
        found["predicted"] = predicted.detach().cpu()
    return found, gpu


@pytest.mark.parametrize("name", LEARNING)
def test_gradients_are_the_same_with_less_of_the_gpu(
    bases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    keys, base = LEARNING[name], bases[name]
    blocks = repeated_blocks(families.skeleton(str(base)).denoiser)
    whole, plain = _gradients(base, tmp_path, 0, **keys)
    swapped, gpu = _gradients(base, tmp_path, len(blocks), **keys)
    assert_equal_bits(whole, swapped)
    assert len(whole) > 1
    assert gpu.copied_beside > len(blocks)
    assert plain.computed == gpu.computed
    estimates = []
    for count in (0, len(blocks)):
        table = {"gradient_checkpointing": True, "blocks_to_swap": count, "cache": False, **keys}
        train = training_spec(base, tmp_path, identifier="<sks>", **table).train
        assert train is not None
        estimates.append(estimate(train, "bf16", with_prior=False).peaks["step"])
    # At the most of a step, fewer than both may be there.
    assert plain.peak_bytes - gpu.peak_bytes > 0.9 * (estimates[0] - estimates[1]) > 0


@pytest.mark.parametrize("name", RUNS)
def test_a_run_with_swapped_blocks_is_the_same_to_the_bit(
    bases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    blocks = len(repeated_blocks(families.skeleton(str(bases[name])).denoiser))
    keys = {
        "identifier": "<sks>",
        "steps": 2,
        "resolution": 32,
        "gradient_checkpointing": True,
        "checkpoint_every": 1,
        "sample_every": 2,
        "samples": {"images": 1, "steps": 2},
        "validation": {"pictures": str(tmp_path / "class"), "every": 2, "draws": 1},
        "pictures": {"workers": 0},
        **RUNS[name],
    }
    whole, swapped = (
        partial(training_spec, bases[name], tmp_path, output=str(tmp_path / kind), **keys)
        for kind in ("whole", "swapped")
    )
    with fake_cuda() as plain:
        fit(whole())
    with fake_cuda() as gpu:
        with pytest.raises(Interrupted):
            stopped_after(swapped(blocks_to_swap=3), 1)
        fit(swapped(blocks_to_swap=blocks))
    assert history(tmp_path / "whole") == history(tmp_path / "swapped")
    assert_equal_bits(learned(tmp_path / "whole"), learned(tmp_path / "swapped"))
    for made in ("samples/step-000000.png", "samples/step-000002.png"):
        assert (tmp_path / "whole" / made).read_bytes() == (tmp_path / "swapped" / made).read_bytes()
    for made in _exported(RUNS[name]["method"]):
        # Headers name the output.
        assert_equal_bits(load_file(tmp_path / "whole" / made), load_file(tmp_path / "swapped" / made))
    assert gpu.copied_beside > 0
    assert plain.computed == gpu.computed


def _exported(method: str) -> tuple[str, ...]:
    if method == "lora":
        return (DIFFUSERS_LORA,)
    return ("text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors")


def test_blocks_are_swapped_without_pinned_memory_too(bases: dict[str, Path], tmp_path: Path) -> None:
    keys = {"method": "lora", "gradient_checkpointing": True, "resolution": 32, "steps": 1, "seed": 3}
    for number, some_bytes in enumerate((1 << 20, 3000)):
        spec = training_spec(
            bases["flux"], tmp_path, False, blocks_to_swap=4, output=str(tmp_path / str(number)), **keys
        )
        listener = Listener()
        with fake_cuda() as gpu:
            gpu.pinnable_bytes = some_bytes
            fit(spec, listener)
        (line,) = (note for note in listener.notes if "in main memory" in note)
        assert line.startswith("train: 4 blocks of the transformer, ")
        assert ("could be pinned, so that steps are slower" in line) == (number == 1)
    assert history(tmp_path / "0") == history(tmp_path / "1")


def test_swapped_blocks_are_spread_over_all() -> None:
    blocks = [_Block() for _ in range(10)]
    model = _Model()
    model.blocks = nn.ModuleList(blocks)
    assert repeated_blocks(model) == blocks
    for count, places in ((0, []), (1, [5]), (3, [1, 5, 8]), (5, [1, 3, 5, 7, 9]), (10, list(range(10)))):
        assert chosen_blocks(model, count) == [blocks[place] for place in places]


class _Block(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)


class _Model(nn.Module):
    _no_split_modules = ("_Block",)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"method": "full"}, 'expected method = "lora"'),
        ({"gradient_checkpointing": False}, "expected gradient_checkpointing = true"),
        ({"base_precision": "nf4"}, 'expected "auto", "int8" or "fp8"'),
        ({"compile": True}, "expected compile = false"),
        ({"devices": 2}, "is for one device"),
        ({"blocks_to_swap": 2}, "expected 0, or 3 or more"),
    ],
)
def test_what_swapped_blocks_do_not_go_with_is_refused(
    tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    usual: dict[str, Any] = {"method": "lora", "gradient_checkpointing": True, "blocks_to_swap": 4}
    with pytest.raises(SpecError, match=expected) as told:
        training_spec(tmp_path / "base", tmp_path, **usual | keys)
    assert str(told.value).count("blocks_to_swap =") == 1


def test_blocks_are_not_swapped_without_a_gpu_of_ones_own(bases: dict[str, Path], tmp_path: Path) -> None:
    keys: dict[str, Any] = {"method": "lora", "gradient_checkpointing": True, "resolution": 32, "steps": 1}
    with pytest.raises(SpecError, match="this device is none; expected 0"):
        fit(training_spec(bases["sd"], tmp_path, blocks_to_swap=4, **keys))
    with fake_cuda(), pytest.raises(SpecError, match="has 4 blocks; expected at most 4"):
        fit(training_spec(bases["sd"], tmp_path, blocks_to_swap=5, **keys))
    spec = training_spec(bases["sd"], tmp_path, blocks_to_swap=4, **keys)
    tables = spec.model_dump(by_alias=True, exclude_unset=True)
    with pytest.raises(SpecError, match=r'engine\.kind = "ray" gives all workers the same'):
        parse_spec({**tables, "engine": {"kind": "ray"}})
