"""Which keys of `[train]` make no sense together, each as a sentence that says what was expected."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from turbo_fetch.spec.train_keys import TrainKeys
from turbo_fetch.spec.train_tables import (
    END_OF_POLYNOMIAL,
    FIND_THEIR_RATE,
    LoraSpec,
    SamplesSpec,
    TokenSpec,
    word_in_name,
)

_Problems = Iterator[tuple[bool, str]]
"""Whether something is wrong, and what to say then."""


def contradictions(train: TrainKeys) -> _Problems:
    """Yield each pair of keys that makes no sense together."""
    checks = (
        _unnamed,
        _unused,
        _of_optimiser,
        _of_method,
        _of_base_precision,
        _of_block_swap,
        _of_fused_backward,
        _of_steps,
    )
    return chain.from_iterable(check(train) for check in checks)


def _unnamed(train: TrainKeys) -> _Problems:
    """Yield what is missing of the subjects, or said twice."""
    fields = type(train).model_fields
    for name in ("subject", "class_", "identifier"):
        key, value = fields[name].alias or name, getattr(train, name)
        yield not value and not train.subjects, f"{key} is missing; expected it, or [[train.subjects]]"
        is_given = value != fields[name].default
        yield (
            is_given and bool(train.subjects),
            f"{key} is given beside [[train.subjects]], which each have their own",
        )
    words = [each.identifier for each in train.subjects]
    twice = sorted({word for word in words if words.count(word) > 1})
    yield bool(twice), f"subjects have the same identifier {twice}; expected one for each"
    plain = [word_in_name(word) for word in words]
    alike = [word for word, name in zip(words, plain, strict=True) if not name or plain.count(name) > 1]
    yield (
        bool(alike) and train.trains("token"),
        f"the files of {alike} would have the same name; expected identifiers that differ in letters or digits",
    )
    if len(classes := {each.class_ for each in train.subjects}) > 1:
        odd = sorted(name for name in classes if "/" in name or name.startswith("."))
        yield (
            bool(odd),
            f"subjects have classes {odd}, which cannot be the names of folders of class images",
        )
    pictures = "" if train.validation is None else train.validation.pictures
    given = [each.identifier for each in train.subjects if each.validation]
    yield (
        train.validation is not None and not any(train.held_out),
        "[train.validation] has no images; expected validation.pictures, or of several subjects their validation",
    )
    yield (
        bool(pictures and train.subjects),
        "validation.pictures is given, but each subject has its own validation",
    )
    yield (
        bool(given) and train.validation is None,
        f"subjects {given} have validation, but no [train.validation]",
    )


def _unused(train: TrainKeys) -> _Problems:
    """Yield what is given beside a choice that makes no use of it."""
    pictures, optimiser, schedule = train.pictures, train.optimiser, train.schedule
    kind, shape = optimiser.kind, f'schedule.kind is "{schedule.kind}"'
    drawn = train.timesteps.distribution
    lora = f'lora.kind is "{train.lora.kind}"'
    is_drawn = f'timesteps.distribution is "{drawn}"'
    for name, is_used, reason in (
        (
            "pictures.annotator",
            pictures.captions == "auto" or pictures.masks,
            'pictures.captions is "prompt" and pictures.masks is false',
        ),
        ("pictures.random_crops", pictures.crop == "random", f'pictures.crop is "{pictures.crop}"'),
        ("pictures.max_aspect", pictures.buckets, "pictures.buckets is false"),
        ("pictures.mask_floor", pictures.masks, "pictures.masks is false"),
        ("optimiser.betas", kind != "adafactor", f"{kind} has none"),
        ("optimiser.epsilon", kind not in {"adafactor", "lion"}, f"{kind} has none"),
        ("schedule.cycles", schedule.kind == "cosine_with_restarts", shape),
        ("schedule.power", schedule.kind == "polynomial", shape),
        ("lora.factor", train.lora.kind == "lokr", lora),
        ("lora.dropout", train.lora.kind == "lora", lora),
        ("lora.dora", train.lora.kind == "lora", lora),
        ("timesteps.mean", drawn == "logit_normal", is_drawn),
        ("timesteps.deviation", drawn == "logit_normal", is_drawn),
        ("timesteps.mode_scale", drawn == "mode", is_drawn),
    ):
        table, key = name.split(".")
        options = getattr(train, table)
        is_given = getattr(options, key) != type(options).model_fields[key].default
        yield is_given and not is_used, f"{name} is given, but {reason}"


def _of_optimiser(train: TrainKeys) -> _Problems:
    """Yield what the optimiser makes no sense beside."""
    rates = {train.rates[group] for group in train.trained_groups}
    # Those of blocks are in the place of the denoiser's.
    rates |= {train.rates["denoiser"] * factor for factor in train.lora.blocks.values()}
    kind = train.optimiser.kind
    averages, named = kind == "prodigy_schedulefree", f'optimiser.kind = "{kind}"'
    yield (
        averages and train.schedule.kind != "constant",
        f'schedule.kind = "{train.schedule.kind}", but {named} needs no schedule; expected "constant"',
    )
    yield (
        averages and train.ema is not None,
        f"[train.ema] is given, but {named} averages the weights itself",
    )
    yield (
        averages and not train.optimiser.betas[0],
        f"optimiser.betas begins with 0, but {named} averages by it; expected more",
    )
    yield (
        kind in FIND_THEIR_RATE and len(rates) > 1,
        f"{kind} finds one learning rate for all that is trained, but {len(rates)} are given; expected "
        "learning_rate alone, or factors of 1 in lora.blocks, or another optimiser.kind",
    )


def _of_method(train: TrainKeys) -> _Problems:
    """Yield what is given for what is not done."""
    yield (
        train.samples != SamplesSpec() and not train.sample_every,
        "[train.samples] is given, but sample_every = 0, so none are made",
    )
    yield (
        train.strategy != "auto" and train.devices == 1,
        f'strategy = "{train.strategy}" is for several devices, but devices = 1',
    )
    yield (
        train.lora != LoraSpec() and not train.trains("lora"),
        f"[train.lora] is given, but method = {train.method!r} has no lora",
    )
    yield (
        train.token != TokenSpec() and not train.trains("token"),
        f"[train.token] is given, but method = {train.method!r} has no token",
    )
    yield (
        train.token_learning_rate is not None and not train.trains("token"),
        f"token_learning_rate is given, but method = {train.method!r} has no token",
    )
    yield (
        train.text_encoder is True and not train.trains_denoiser,
        f"text_encoder = true, but method = {train.method!r} trains the new word alone; expected false, or lora+token",
    )
    yield (
        train.text_encoder_learning_rate is not None and not train.trains_text_encoder,
        "text_encoder_learning_rate is given, but the text encoder is not trained; "
        "expected text_encoder = true too",
    )


def _of_base_precision(train: TrainKeys) -> _Problems:
    """Yield what a base of fewer bits does not go with."""
    if train.base_precision == "auto":
        return
    named = f'base_precision = "{train.base_precision}"'
    yield (
        train.method != "lora",
        f"{named} is for a base that stays as it is and is not exported, but "
        f'method = "{train.method}" trains or saves its weights; expected method = "lora"',
    )
    yield (
        train.lora.kind != "lora",
        f'{named} goes with plain LoRA, but lora.kind = "{train.lora.kind}"; expected lora.kind = "lora"',
    )
    yield (
        train.lora.dora,
        f"{named}, but lora.dora reads the whole weights at each step; expected one of the two",
    )
    yield (
        train.devices > 1,
        f"{named} is for one device, but devices = {train.devices}",
    )
    yield (
        bool(train.compile),
        f"{named} is not compiled; expected compile = false",
    )


def _of_block_swap(train: TrainKeys) -> _Problems:
    """Yield what blocks that come and go do not go with."""
    if not train.blocks_to_swap:
        return
    named = f"blocks_to_swap = {train.blocks_to_swap}"
    yield (
        train.blocks_to_swap < 3,
        f"{named} saves nothing, as two of the swapped blocks are on the GPU at once; expected 0, or 3 or more",
    )
    yield (
        train.trains("full"),
        f'{named} is for blocks that stay as they are, but method = "{train.method}" trains them; expected '
        'method = "lora"',
    )
    yield (
        not train.gradient_checkpointing,
        f"{named}, but without gradient_checkpointing each block stays until the backward pass; expected "
        "gradient_checkpointing = true",
    )
    yield (
        train.base_precision == "nf4",
        f'{named}, but of base_precision = "nf4" bitsandbytes keeps each block until the backward pass; expected '
        '"auto", "int8" or "fp8"',
    )
    yield (bool(train.compile), f"{named} is not compiled; expected compile = false")
    yield (train.devices > 1, f"{named} is for one device, but devices = {train.devices}")


def _of_fused_backward(train: TrainKeys) -> _Problems:
    """Yield what needs all gradients at once, or those of several passes."""
    if not train.optimiser.fused_backward:
        return
    named, kind = "optimiser.fused_backward = true", train.optimiser.kind
    yield (
        train.optimiser.clip > 0,
        f"{named} never has the whole gradient, whose norm optimiser.clip = {train.optimiser.clip:g} limits; "
        "expected optimiser.clip = 0",
    )
    yield (
        train.accumulation > 1,
        f"{named} takes a step at each backward pass, but accumulation = {train.accumulation}; "
        "expected accumulation = 1",
    )
    yield (
        kind in FIND_THEIR_RATE,
        f'{named}, but optimiser.kind = "{kind}" finds its rate by all gradients; expected another kind',
    )
    yield (
        train.precision == "fp16",
        f'{named}, but precision = "fp16" scales the gradients and looks at all before a step; '
        'expected "bf16" or "fp32"',
    )
    yield (train.devices > 1, f"{named} is for one device, but devices = {train.devices}")


def _of_steps(train: TrainKeys) -> _Problems:
    """Yield what the steps are too few for, or the schedule has no use for."""
    yield (
        train.schedule.warmup_steps >= train.steps and train.schedule.warmup_steps > 0,
        f"schedule.warmup_steps = {train.schedule.warmup_steps} leaves none of the {train.steps} steps",
    )
    yield (
        train.schedule.kind == "constant" and train.schedule.warmup_steps > 0,
        'schedule.kind = "constant" has no warm-up; expected "constant_with_warmup"',
    )
    rate = train.rates[next(train.trained_groups)]
    yield (
        train.schedule.kind == "polynomial" and rate <= END_OF_POLYNOMIAL,
        f'schedule.kind = "polynomial" falls to {END_OF_POLYNOMIAL:g}, but begins at {rate:g}; expected more',
    )
    yield (
        train.validation is not None and train.validation.every > train.steps,
        f"validation.every is more than the {train.steps} steps, so validation never runs",
    )
