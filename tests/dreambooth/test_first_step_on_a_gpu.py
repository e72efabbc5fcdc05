"""All stages that run a model, on a GPU that is not there: what is on the wrong device or of the wrong type fails."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.dreambooth_gpu import Plan, measured

from fake_cuda import CUDA, DENOISERS, Witness, fake_cuda
from tiny_models import (
    TINY_FLOW_MODELS,
    tiny_clip,
    tiny_dino,
    tiny_qwen_image,
    tiny_sd,
    tiny_sd3,
    tiny_sdxl,
)
from training import Listener, history, write_images
from turbo_fetch import stages
from turbo_fetch.doctor.accelerator import best_precision
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.families import DTYPES
from turbo_fetch.dreambooth.run_folder import checkpoints, read_checkpoint
from turbo_fetch.dreambooth.training.machine import kernels_chosen, uses_tf32
from turbo_fetch.dreambooth.training.trainer import compile_denoiser
from turbo_fetch.errors import Interrupted, SpecError
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.spec.train_tables import EmaSpec, SamplesSpec, ScheduleSpec
from turbo_fetch.stop import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd": tiny_sd,
    "sd, v": partial(tiny_sd, prediction="v_prediction"),
    "sdxl": tiny_sdxl,
    "sd3": partial(tiny_sd3, with_t5=True, num_layers=3),
    **TINY_FLOW_MODELS,
    "qwen-image": partial(tiny_qwen_image, layers=3),
}
DIFFUSION = {"sd", "sd, v", "sdxl"}
ONLY_LANGUAGE = {"flux2", "flux2-dev", "qwen-image", "z-image"}
"""Families none of whose text encoders is trained."""
KEPT_IN_FP32 = {"Encoder", "Decoder", "QwenImageEncoder3d", "QwenImageDecoder3d"}

VARIED: dict[str, tuple[Any, ...]] = {
    "family": tuple(FAMILIES),
    "method": ("full", "lora", "token", "full+token", "lora+token"),
    "precision": ("bf16", "fp16", "fp32", "auto"),
    "optimiser": ("adamw", "adamw8bit", "prodigy", "prodigy_schedulefree", "adafactor", "lion"),
    "cache": (False, True),
    "text_encoder": (True, False),
    "more": (
        "nothing",
        "gradient_checkpointing",
        "compile",
        "blocks",
        "accumulation",
        "dora",
        "lokr",
        "loha",
        "int8",
        "fp8",
        "swap",
        # Here in half precision, also where each value occurs but once.
        "nf4",
        "int8 and swap",
        "tiles",
    ),
}
"""What a run is made of."""


LORA: dict[str, dict[str, Any]] = {"dora": {"dora": True}, "lokr": {"kind": "lokr"}, "loha": {"kind": "loha"}}


@dataclass(frozen=True)
class Case:
    """One value of each of `VARIED`."""

    family: str
    method: str
    precision: str
    optimiser: str
    cache: bool
    text_encoder: bool
    more: str

    def __str__(self) -> str:
        return f"{self.family} {self.method} {self.precision} {self.optimiser} {self.more}"

    @property
    def keys(self) -> dict[str, Any]:
        """Keys of `[train]`."""
        averages, swaps = self.optimiser == "prodigy_schedulefree", "swap" in self.more
        held = self.more.partition(" ")[0] if self.more.startswith(("int8", "fp8", "nf4")) else "auto"
        method = self.method
        if self.family in ONLY_LANGUAGE:
            method = "lora" if "lora" in method or method == "token" else "full"
        if held != "auto":
            method = "lora"
        elif swaps:
            method = method.replace("full", "lora")
        with_lora = "lora" in method
        return {
            "method": method,
            "precision": self.precision,
            "optimiser": {"kind": self.optimiser},
            "cache": self.cache,
            "text_encoder": self.text_encoder and self.family not in ONLY_LANGUAGE and method != "token",
            **({"identifier": "<sks>"} if "token" in method else {}),
            **({"lora": {"rank": 2, **LORA.get(self.more, {})}} if with_lora else {}),
            **({"loss": {"snr_gamma": 5, "noise_offset": 0.1}} if self.family in DIFFUSION else {}),
            **({"gradient_checkpointing": True} if self.more == "gradient_checkpointing" or swaps else {}),
            **({"blocks_to_swap": 3} if swaps else {}),
            "base_precision": held,
            "vae_tiling": True if self.more == "tiles" else "auto",
            **({"compile": True, "cudnn_benchmark": True} if self.more == "compile" else {}),
            **({"compile": "blocks"} if self.more == "blocks" else {}),
            **({"accumulation": 2} if self.more == "accumulation" else {}),
            **({"ema": {"decay": 0.9}} if self.more == "accumulation" and not averages else {}),
        }


def each_value_once() -> list[Case]:
    """Return cases in which every value occurs."""
    longest = max(map(len, VARIED.values()))
    return [Case(*(values[row % len(values)] for values in VARIED.values())) for row in range(longest)]


def each_pair_once() -> list[Case]:
    """Return cases in which every pair of values occurs; greedily, so about as few as can be."""
    names = list(VARIED)
    wanted = {
        ((a, first), (b, second))
        for a, b in combinations(names, 2)
        for first, second in product(VARIED[a], VARIED[b])
    }
    found = []
    while wanted:
        best = max(product(*VARIED.values()), key=lambda row: len(_pairs(names, row) & wanted))
        wanted -= _pairs(names, best)
        found.append(Case(*best))
    return found


def _pairs(names: list[str], row: tuple[Any, ...]) -> set[tuple[Any, Any]]:
    return set(combinations(zip(names, row, strict=True), 2))


class StopAtOnce(StopRequest):
    """Asks to stop at the end of the first step."""

    def __bool__(self) -> bool:
        return True


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        **{name: make(folder / name) for name, make in FAMILIES.items()},
        "clip": tiny_clip(folder / "clip"),
        "dino": tiny_dino(folder / "dino"),
        "photos": write_images(folder / "photos", 2, seed=5, size=(32, 32)),
    }


def _spec(case: Case, places: dict[str, Path], folder: Path) -> Spec:
    photos = str(places["photos"])
    train = {
        "base": str(places[case.family]),
        "subject": photos,
        "class": "dog",
        "resolution": 32,
        "steps": 2,
        "sample_every": 2,
        "samples": {"images": 1, "steps": 2},
        "checkpoint_every": 1,
        "validation": {"pictures": photos, "every": 2, "draws": 1},
        "pictures": {"workers": 0},
        "output": str(folder / "model"),
    }
    return parse_spec({"prior": {"source": photos}, "train": train | case.keys})


@pytest.fixture
def gpu() -> Iterator[Witness]:
    with fake_cuda() as witness:
        yield witness


@pytest.mark.parametrize(
    "case", each_pair_once() if "EVERY_PAIR" in os.environ else each_value_once(), ids=str
)
def test_a_run_trains_samples_stops_and_resumes_on_a_gpu(
    case: Case, places: dict[str, Path], tmp_path: Path, gpu: Witness
) -> None:
    spec = _spec(case, places, tmp_path)
    with pytest.raises(Interrupted):
        stages.run(spec, Listener(), StopAtOnce(), names=("train",))
    stages.run(spec, Listener(), StopRequest(), names=("train",))
    _check_training(case, spec, gpu)


@pytest.mark.parametrize("family", ["sdxl"])
def test_images_are_made_and_scored_on_a_gpu(
    family: str, places: dict[str, Path], tmp_path: Path, gpu: Witness
) -> None:
    images = {"steps": 1, "width": 32, "height": 32, "scheduler": "auto", "batch_size": 2}
    model = str(places[family])
    tables = {
        "generate": {
            "model": model,
            "prompts": ["a dog"],
            "images": 2,
            "output": str(tmp_path / "images"),
            **images,
        },
        "evaluate": {
            "models": [model],
            "subject": str(places["photos"]),
            "prompts": ["a dog"],
            "images": 2,
            "metrics": ["dino", "clip_t", "div"],
            "clip": str(places["clip"]),
            "dino": str(places["dino"]),
            "output": str(tmp_path / "scores"),
            **images,
        },
    }
    stages.run(parse_spec(tables), Listener(), StopRequest())
    dtypes = {model: {dtype for dtype, _ in made} for model, made in gpu.computed.items()}
    assert dtypes.pop("Decoder") == {torch.float32 if family == "sdxl" else torch.float16}
    assert dtypes.pop("ViTModel") == {torch.float32}
    assert {device for made in gpu.computed.values() for _, device in made} == {CUDA.type}
    (denoiser,) = DENOISERS & dtypes.keys()
    assert dtypes[denoiser] == {torch.float16}


def _check_training(case: Case, spec: Spec, gpu: Witness) -> None:
    assert spec.train is not None
    precision = "bf16" if case.precision == "auto" else case.precision
    assert gpu.pinned
    for model, made in gpu.computed.items():
        assert {device for _, device in made} == {CUDA.type}, model
    kept = KEPT_IN_FP32 & gpu.computed.keys()
    assert len(kept) == 2
    for model in kept:
        assert {dtype for dtype, _ in gpu.computed[model]} == {torch.float32}, model
    (denoiser,) = DENOISERS & gpu.computed.keys()
    assert {dtype for dtype, _ in gpu.computed[denoiser]} == {DTYPES[precision]}
    losses = [entry["loss"] for entry in history(spec.train.output)]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    saved = read_checkpoint(checkpoints(Path(spec.train.output))[2])
    assert {value.dtype for value in saved["state_dict"].values()} == {torch.float32}
    assert (saved.get("MixedPrecision") is not None) == (precision == "fp16")


def test_a_step_whose_gradient_overflows_moves_neither_schedule_nor_mean(
    places: dict[str, Path], tmp_path: Path, gpu: Witness
) -> None:
    case = Case("sd", "lora", "fp16", "adamw", True, False, "nothing")
    spec = _spec(case, places, tmp_path)
    assert spec.train is not None
    changes = {
        # Its gradient is beyond fp16 for any scale that the first steps try.
        "prior_weight": 1e9,
        "ema": EmaSpec(decay=0.9),
        "schedule": ScheduleSpec(kind="linear", warmup_steps=1),
        "steps": 3,
        "sample_every": 0,
        "samples": SamplesSpec(),
        "validation": None,
    }
    spec = spec.model_copy(update={"train": spec.train.model_copy(update=changes)})
    assert spec.train is not None
    listener = Listener()
    stages.run(spec, listener, StopRequest(), names=("train",))
    assert "train: in 3 step(s) a gradient overflowed in fp16" in "\n".join(listener.notes)
    saved = read_checkpoint(checkpoints(Path(spec.train.output))[3])
    assert saved["ema"]["steps"] == 0
    assert saved["lr_schedulers"][0]["last_epoch"] == 0
    assert [entry["learning_rate"] for entry in history(spec.train.output)] == [0.0] * 3


@pytest.mark.timeout(400)
def test_the_script_for_a_gpu_runs_to_its_end(tmp_path: Path, gpu: Witness) -> None:
    variants = ("lora, bf16, blocks compiled", "full, bf16, xformers")
    plan = Plan(
        small=True,
        families=("sdxl",),
        methods=("lora",),
        precisions=("fp16",),
        quantised=("int8",),
        variants=variants,
    )
    result = measured(tmp_path, plan)
    whole = result["correctness"]
    assert whole["sdxl lora"]["equal"], whole
    assert whole["sdxl fp16"]["not black"], whole
    assert whole["sdxl, blocks swapped"]["equal to the bit"], whole
    assert 0 < whole["sdxl, base in int8"]["relative difference"] < 0.05, whole
    assert result["speed and memory"]["lora, bf16, blocks compiled"]["s_per_step"] > 0, result
    # No kernel runs on a GPU that is not there, and what fails stops nothing else.
    assert "xformers" in result["speed and memory"]["full, bf16, xformers"]["failed"]
    json.dumps(result)


@pytest.mark.parametrize(
    ("wanted", "precision", "capability", "expected"),
    [
        ("auto", "bf16", (8, 0), True),
        ("auto", "fp32", (8, 0), False),
        (True, "fp32", (8, 6), True),
        (False, "bf16", (9, 0), False),
        ("auto", "fp16", (7, 5), False),
    ],
)
def test_fp32_is_computed_as_tf32_where_a_card_has_it_and_it_is_not_asked_for_fp32(
    wanted: Any, precision: str, capability: tuple[int, int], expected: bool
) -> None:
    keys = {"base": "b", "subject": "s", "class": "dog", "tf32": wanted, "cudnn_benchmark": True}
    train = TrainSpec.model_validate(keys)
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    with fake_cuda(capability), kernels_chosen(train, CUDA, precision):
        assert (torch.get_float32_matmul_precision() == "high", cudnn.allow_tf32) == (expected, expected)
        assert cudnn.benchmark
    assert (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark) == before


def test_what_a_device_has_not_is_refused() -> None:
    for key, value, expected in (
        ("tf32", True, "has no TF32"),
        ("cudnn_benchmark", True, "is for NVIDIA GPUs"),
    ):
        train = TrainSpec.model_validate({"base": "b", "subject": "s", "class": "dog", key: value})
        with pytest.raises(SpecError, match=expected), kernels_chosen(train, torch.device("cpu"), "fp32"):
            pass
    train = TrainSpec.model_validate({"base": "b", "subject": "s", "class": "dog", "tf32": True})
    with fake_cuda((7, 5)), pytest.raises(SpecError, match="has no TF32"):
        uses_tf32(train, CUDA, "fp16")


def test_blocks_are_compiled_once_for_all_of_them(places: dict[str, Path]) -> None:
    for name, kind in (("sdxl", "BasicTransformerBlock"), ("sd3", "JointTransformerBlock")):
        denoiser = families.skeleton(str(places[name])).denoiser
        compile_denoiser(denoiser, "blocks")
        compiled = {type(module).__name__ for module in denoiser.modules() if module._compiled_call_impl}
        assert compiled == {kind}
    with pytest.raises(SpecError, match="has no blocks that repeat"):
        compile_denoiser(torch.nn.Linear(1, 1), "blocks")


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_bf16_is_taken_where_a_card_has_it(capability: tuple[int, int], precision: str) -> None:
    with fake_cuda(capability):
        assert torch.cuda.is_bf16_supported()
        assert best_precision(torch.device("cuda", 0)) == precision
