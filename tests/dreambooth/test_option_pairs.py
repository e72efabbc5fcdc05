"""Every pair of options of `[train]` works, or is refused in a sentence before the start, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.optimization import TYPE_TO_SCHEDULER_FUNCTION, SchedulerType
from hypothesis import settings
from PIL import Image
from pydantic import BaseModel
from safetensors.torch import load_file

from tiny_models import TINY_MODELS
from training import Listener, fit, history, training_spec, write_images
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA
from turbo_fetch.dreambooth.training.optimisers import make_optimiser, make_schedule
from turbo_fetch.errors import SpecError
from turbo_fetch.spec import TrainSpec
from turbo_fetch.spec.train_tables import (
    LoraSpec,
    LossSpec,
    OptimiserSpec,
    PicturesSpec,
    ScheduleSpec,
    TimestepsSpec,
    TokenSpec,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
STEPS = 2
AT_ONCE = 6
"""Choices of options that are trained with in each run of the suite, those with the most pairs; `slow` takes all."""
OPTIONS: dict[str, tuple[Any, ...]] = {
    "method": ("full", "lora", "token", "full+token", "lora+token"),
    "text_encoder": (False, True),
    "clip_skip": (0, 1),
    "batch_size": (1, 2),
    "accumulation": (1, 2),
    "learning_rate": ("auto", 1e-4),
    "text_encoder_learning_rate": (None, 1e-5),
    "token_learning_rate": (None, 1e-3),
    "prior_weight": (1.0, 0.0),
    "precision": ("auto", "bf16", "fp16"),
    "compile": (False,),
    "tf32": ("auto", False, True),
    "cudnn_benchmark": (False, True),
    "base_precision": ("auto", "int8"),
    "gradient_checkpointing": (False, True),
    "blocks_to_swap": (0, 3),
    "attention": ("auto", "sdpa", "xformers"),
    "vae_tiling": ("auto", True, False),
    "cache": (True, False),
    "accelerator": ("auto", "cpu", "gpu"),
    "strategy": ("auto", "ddp", "deepspeed_stage_2"),
    "sample_every": (0, 1),
    "checkpoint_every": (100, 1),
    "pictures.captions": ("auto", "prompt"),
    "pictures.annotator": (None, str(ROOT / "examples" / "annotator.py")),
    "pictures.caption_dropout": (0.0, 0.3),
    "pictures.repeats": (1, 2),
    "pictures.flip": (False, True),
    "pictures.crop": ("center", "random"),
    "pictures.random_crops": (4, 2),
    "pictures.buckets": (False, True),
    "pictures.max_aspect": (2.0, 1.5),
    "pictures.masks": (True, False),
    "pictures.mask_floor": (0.0, 0.5),
    "pictures.workers": ("auto", 1),
    "loss.kind": ("auto", "epsilon", "v_prediction"),
    "loss.snr_gamma": (None, 5.0),
    "loss.noise_offset": (0.0, 0.1),
    "timesteps.distribution": ("auto", "uniform", "logit_normal", "mode"),
    "timesteps.mean": (0.0, 0.5),
    "timesteps.deviation": (1.0, 0.5),
    "timesteps.mode_scale": (1.29, -0.5),
    "timesteps.shift": ("auto", 2.0, "resolution"),
    "optimiser.kind": ("adamw", "adamw8bit", "prodigy", "prodigy_schedulefree", "adafactor", "lion"),
    "optimiser.weight_decay": (0.01, 0.0),
    "optimiser.betas": ((0.9, 0.999), (0.0, 0.9)),
    "optimiser.epsilon": (1e-8, 1e-6),
    "optimiser.clip": (1.0, 0.0),
    "optimiser.fused_backward": (False, True),
    "schedule.kind": (
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ),
    "schedule.warmup_steps": (0, 1),
    "schedule.cycles": (1, 2),
    "schedule.power": (1.0, 2.0),
    "lora.kind": ("lora", "lokr", "loha"),
    "lora.rank": (16, 2),
    "lora.factor": (None, 4),
    "lora.alpha": (None, 1.5),
    "lora.dropout": (0.0, 0.1),
    "lora.targets": ((), ("to_q", "to_v")),
    "lora.dora": (False, True),
    "token.initial": (None, "cat"),
    "token.vectors": (1, 2),
    "ema": (None, {"decay": 0.9}),
    "validation": (None, {"pictures": "class", "every": 1, "draws": 1}),
    "base": tuple(TINY_MODELS),
}
"""Values of each option, the usual one first."""
NOT_PAIRED = {
    *(
        "subject",
        "subjects",
        "class_",
        "identifier",
        "prompt",
        "resolution",
        "steps",
        "seed",
        "output",
        "devices",
    ),
    *(
        "checkpoints_kept",
        "log_every",
        "samples",
        "pictures",
        "loss",
        "timesteps",
        "optimiser",
        "schedule",
        "lora",
        "token",
    ),
    # Names of blocks are other ones in each family.
    "lora.blocks",
}
"""Keys without alternatives that could conflict, or whose tables are taken key by key."""

Chosen = dict[str, Any]


def _tables(chosen: Chosen) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for key, value in chosen.items():
        table, _, inner = key.rpartition(".")
        (tables.setdefault(table, {}) if table else tables)[inner] = value
    return tables


def _problem(chosen: Chosen) -> str | None:
    """Return why the spec alone refuses options, None if it does not."""
    keys = {
        "subject": ".",
        "class": "dog",
        "identifier": "<sks>",
        "steps": STEPS,
        "base": "sd",
        **_tables(chosen),
    }
    try:
        TrainSpec.model_validate({key: value for key, value in keys.items() if value is not None})
    except ValueError as error:
        return str(error)
    return None


def _pairs() -> Iterator[Chosen]:
    for (first, ones), (second, others) in combinations(OPTIONS.items(), 2):
        yield from ({first: one, second: other} for one in ones for other in others)


def _covering() -> list[Chosen]:
    """Return few choices of all options in which every pair occurs that can be trained on this machine."""
    refused: set[frozenset[str]] = set()
    waiting: list[Chosen] = []
    for pair in _pairs():
        if _problem(pair) is not None or _not_here(pair):
            refused.add(frozenset(map(str, pair.items())))
        else:
            waiting.append(pair)

    def fits(row: Chosen, pair: Chosen) -> bool:
        if any(row.get(key, value) != value for key, value in pair.items()):
            return False
        added = {str(item) for item in pair.items() if item[0] not in row}
        if any(frozenset({new, str(old)}) in refused for new in added for old in row.items()):
            return False
        return not added or _problem({**row, **pair}) is None

    rows = []
    while waiting:
        row: Chosen = {}
        for pair in waiting:
            if fits(row, pair):
                row |= pair
        waiting = [
            pair
            for pair in waiting
            if any(row[key] != value for key, value in pair.items() if key in row)
            or not pair.keys() <= row.keys()
        ]
        rows.append(row)
    return sorted(rows, key=len, reverse=True)


def _not_here(pair: Chosen) -> bool:
    """Whether a machine without a GPU, or a model of flow matching, refuses options, as other tests show."""
    flows = pair.get("base") == "sd3" and (
        pair.get("loss.snr_gamma") or pair.get("loss.kind", "auto") != "auto"
    )
    shifts = pair.get("base", "sd") != "sd3" and pair.get("timesteps.shift", "auto") != "auto"
    skips = pair.get("base") in {"sdxl", "sd3"} and pair.get("clip_skip")
    is_for_a_gpu = pair.get("tf32") is True or bool(pair.get("cudnn_benchmark"))
    return bool(flows or skips or shifts or is_for_a_gpu) or bool(
        {"gpu", "xformers", "fp16"} & {str(value) for value in pair.values()}
    )


def test_every_option_is_paired() -> None:
    tables: dict[str, type[BaseModel]] = {
        "pictures": PicturesSpec,
        "loss": LossSpec,
        "timesteps": TimestepsSpec,
        "optimiser": OptimiserSpec,
    }
    tables |= {"schedule": ScheduleSpec, "lora": LoraSpec, "token": TokenSpec}
    inner = {f"{name}.{key}" for name, table in tables.items() for key in table.model_fields}
    assert OPTIONS.keys() | NOT_PAIRED == TrainSpec.model_fields.keys() | inner


def test_what_the_spec_refuses_it_refuses_by_name() -> None:
    refused = {}
    for pair in _pairs():
        problem = _problem(pair)
        if problem is not None:
            refused[str(pair)] = problem
            named = [key.rpartition(".")[2] for key in pair] + [str(value) for value in pair.values()]
            assert any(name in problem for name in named), f"{pair}: {problem}"
    assert len(refused) > 100


@pytest.mark.parametrize(
    "rates",
    [
        {"text_encoder_learning_rate": 0.5, "text_encoder": True},
        {"learning_rate": 0.5, "method": "full+token"},
        {"token_learning_rate": 0.5, "method": "lora+token"},
    ],
)
def test_prodigy_with_two_learning_rates_is_refused_before_the_start(
    tmp_path: Path, rates: dict[str, Any]
) -> None:
    with pytest.raises(
        SpecError, match="prodigy finds one learning rate for all that is trained, but 2 are given"
    ):
        training_spec(tmp_path, tmp_path, optimiser={"kind": "prodigy"}, **rates)


@pytest.mark.parametrize(
    ("prior", "keys", "expected"),
    [
        (
            False,
            {"prior_weight": 0.5},
            r"train\.prior_weight = 0\.5 is given, but there is no table \[prior\]",
        ),
        (True, {"samples": {"images": 1}}, r"\[train\.samples\] is given, but sample_every = 0"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    tmp_path: Path, prior: bool, keys: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        training_spec(tmp_path, tmp_path, prior, **keys)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in TINY_MODELS.items()}


ROWS = _covering() if settings.get_current_profile_name() == "slow" else _covering()[:AT_ONCE]


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_options_that_are_not_refused_train(bases: dict[str, Path], tmp_path: Path, number: int) -> None:
    row = dict(ROWS[number])
    base = bases[row.pop("base", "sd")]
    write_images(tmp_path / "subject", 2, size=(64, 96))
    Image.new("L", (64, 96), 200).save(tmp_path / "subject" / "0.mask.png")
    tables = {key: value for key, value in _tables(row).items() if value is not None}
    if "validation" in tables:
        tables["validation"] = {
            **tables["validation"],
            "pictures": str(write_images(tmp_path / "held out", 1)),
        }
    samples = {"samples": {"images": 1, "steps": 1}} if tables.get("sample_every") else {}
    keys = {
        "resolution": 32,
        "text_encoder": False,
        **samples,
        "identifier": "<sks>",
        "steps": STEPS,
    }
    fit(training_spec(base, tmp_path, **{**keys, **tables}), Listener())
    assert len(history(tmp_path / "model")) == STEPS


FOLLOWED = [
    (kind, schedule)
    for kind in OPTIONS["optimiser.kind"]
    for schedule in OPTIONS["schedule.kind"]
    if _problem({"optimiser.kind": kind, "schedule.kind": schedule}) is None
]


@pytest.mark.parametrize(("kind", "schedule"), FOLLOWED)
def test_every_optimiser_follows_every_schedule(tmp_path: Path, kind: str, schedule: str) -> None:
    train = training_spec(
        tmp_path,
        tmp_path,
        steps=4,
        learning_rate="auto",
        optimiser={"kind": kind},
        schedule={"kind": schedule},
    ).train
    assert train is not None
    layer = torch.nn.Linear(8, 8)
    group = {"params": list(layer.parameters()), "lr": train.rates["denoiser"], "weight_decay": 0.0}
    optimiser = make_optimiser(train.optimiser, [group])
    follower = make_schedule(train, optimiser)
    rates = []
    for _ in range(train.steps):
        layer(torch.ones(1, 8)).sum().backward()
        optimiser.step()
        rates.append(optimiser.param_groups[0]["lr"])
        follower.step()
    assert rates[0] == train.rates["denoiser"]
    assert (rates[-1] < rates[0]) == (not schedule.startswith("constant"))


@pytest.mark.parametrize("rate", [1e-6, 3e-3])
@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ({"kind": "constant"}, {}),
        ({"kind": "constant_with_warmup", "warmup_steps": 3}, {}),
        ({"kind": "linear", "warmup_steps": 1}, {}),
        ({"kind": "cosine", "warmup_steps": 2}, {"num_cycles": 0.5}),
        ({"kind": "cosine_with_restarts", "cycles": 3}, {"num_cycles": 3}),
        ({"kind": "polynomial", "power": 1.0, "warmup_steps": 2}, {"power": 1.0}),
        ({"kind": "polynomial", "power": 2.5}, {"power": 2.5}),
    ],
)
def test_the_rate_of_each_step_is_that_of_diffusers(
    schedule: dict[str, Any], options: dict[str, float], rate: float
) -> None:
    table = {"base": "x", "subject": "x", "class": "dog", "steps": 10, "learning_rate": rate}
    train = TrainSpec.model_validate({**table, "schedule": schedule})
    weight = torch.nn.Parameter(torch.ones(3))
    own = make_optimiser(train.optimiser, [{"params": [weight], "lr": rate, "weight_decay": 0.0}])
    theirs = torch.optim.AdamW([weight], lr=rate)
    ours = make_schedule(train, own)
    function: Any = TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(train.schedule.kind)]
    steps = {"num_warmup_steps": train.schedule.warmup_steps, "num_training_steps": 10}
    known = {name: value for name, value in steps.items() if name in signature(function).parameters}
    expected = function(theirs, **known, **options)
    rates = []
    for _ in range(11):
        rates.append((ours.get_last_lr()[0], expected.get_last_lr()[0]))
        for each in (own, theirs, ours, expected):
            each.step()
    assert [first for first, _ in rates] == [second for _, second in rates]


def test_a_lora_of_text_encoders_is_written_beside_a_new_word(bases: dict[str, Path], tmp_path: Path) -> None:
    lora: dict[str, Any] = {"method": "lora+token", "text_encoder": True, "identifier": "<sks>"}
    fit(training_spec(bases["sdxl"], tmp_path, steps=1, **lora))
    names = load_file(tmp_path / "model" / DIFFUSERS_LORA)
    assert {name.partition(".")[0] for name in names} == {"unet", "text_encoder", "text_encoder_2"}
    assert not any("token_embedding" in name for name in names)


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("sd3", {"loss": {"snr_gamma": 5.0}}, "learns by flow matching"),
        ("sd", {"timesteps": {"shift": 2.0}}, "is for models of flow matching, and a sd model is none"),
        ("sd", {"devices": 2, "strategy": "deepspeed_stage_2"}, "needs the package 'deepspeed'"),
    ],
)
def test_what_base_and_machine_cannot_do_is_refused_before_anything_is_read(
    bases: dict[str, Path], tmp_path: Path, name: str, keys: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SpecError, match=expected):
        fit(training_spec(bases[name], tmp_path, subject="nowhere", **keys))
