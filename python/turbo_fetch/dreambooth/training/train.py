"""A training run from top to bottom: look at everything, encode once, train with Lightning, export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.cache import Advance, Captions
from turbo_fetch.dreambooth.data.examples import Batches, Loader, Positions, SubjectExamples, Validation
from turbo_fetch.dreambooth.data.image_set import Turns
from turbo_fetch.dreambooth.data.images import Unreadable
from turbo_fetch.dreambooth.data.training_data import (
    TrainingData,
    make_captions,
    make_concepts,
    read_training_data,
)
from turbo_fetch.dreambooth.export.model import export_model
from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.models import weights_there
from turbo_fetch.dreambooth.families.trainable import Trainable, configure_trainable, settle
from turbo_fetch.dreambooth.run_folder import (
    HISTORY,
    SAMPLES,
    best_checkpoint,
    check_export,
    check_machine,
    check_record,
    check_steps,
    essentials,
    exported_files,
    is_complete,
    newest_checkpoint,
    prune,
    read_checkpoint,
    read_record,
    set_aside,
    with_same_step,
    write_record,
)
from turbo_fetch.dreambooth.sampling.image_folder import RunControl
from turbo_fetch.dreambooth.sampling.remembered_prompts import RememberedPrompts
from turbo_fetch.dreambooth.training.callbacks import (
    Checkpoints,
    OwnSignals,
    Progress,
    Samples,
    StopWhenAsked,
    sample,
    sample_prompts,
)
from turbo_fetch.dreambooth.training.checkpoint import seed_random_states
from turbo_fetch.dreambooth.training.history import Entry, History, TrainReport
from turbo_fetch.dreambooth.training.machine import (
    check_block_swap_device,
    device_of,
    kernels_chosen,
    precision_of,
    set_attention,
)
from turbo_fetch.dreambooth.training.memory_advice import memory_explained
from turbo_fetch.dreambooth.training.module import DreamBooth, Setup
from turbo_fetch.dreambooth.training.trainer import (
    TrainerFactory,
    compile_denoiser,
    component_types,
    place_model,
    place_part,
    swap_note,
)
from turbo_fetch.dreambooth.training.validation import Validations
from turbo_fetch.errors import Interrupted, PicturesError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.stop import StopRequest


@dataclass(frozen=True)
class Run:
    """What a run is about to do: with what, from what, where, and who looks on and may stop it."""

    train: TrainSpec
    data: TrainingData
    factory: TrainerFactory
    control: RunControl
    record: Mapping[str, Any]
    """For `train.json`, once there is something to lose."""

    @property
    def output(self) -> Path:
        """Where all of it goes."""
        return Path(self.train.output)

    @property
    def machine(self) -> tuple[torch.device, str]:
        """The device of this process and the precision in which it computes. Raises SpecError."""
        device = device_of(self.train, self.factory.local_rank)
        return device, precision_of(self.train, device)

    def begin(self) -> None:
        """Bind later runs to this one; called before anything is saved. Raises OutputError."""
        write_record(self.output, self.record)

    def end(self) -> None:
        """Say that the model is there. Raises OutputError."""
        exported = exported_files(self.output)
        write_record(self.output, {**self.record, "steps_done": self.train.steps, "exported": exported})

    def encoded(self, what: str) -> Advance:
        """Return what tells how many images or captions are encoded; it raises Interrupted if asked to stop."""

        def advance(done: int, total: int) -> None:
            if self.control.stop:
                raise Interrupted(
                    f"interrupted while encoding {what}. Run the same command again to start over"
                )
            self.control.listener.phase(done, total, f"{what} encoded")

        return advance


def train_here(
    spec: Spec, train: TrainSpec, listener: ProgressListener, stop: StopRequest, factory: TrainerFactory
) -> TrainReport:
    """Train in this process, maybe together with others; raises as `launch.run`."""
    output = Path(train.output)
    before = read_record(output)
    # What is complete has no need of its base any more.
    family = families.FAMILIES.get(before.get("pipeline", "")) or families.family_of(train.base)
    train = family.with_defaults(train)
    with memory_explained(train):
        data = read_training_data(spec, train, listener.note)
        now = essentials(train, data.digests(), weights_there(train.base))
        done = before.get("steps_done")
        if before:
            check_record(output, before, now)
            check_steps(output, done or 0, train)
        if is_complete(output, train.steps):
            return TrainReport(str(output), train.steps, None, was_complete=True)
        check_export(output, before, listener.note)
        record: dict[str, Any] = {"essentials": now, "pipeline": family.pipeline_name, "steps_done": None}
        run = Run(train, data, factory, RunControl(listener, stop), record)
        device, precision = run.machine
        machine: dict[str, Any] = {
            "accelerator": device.type,
            "precision": precision,
            "devices": factory.processes,
        }
        if before:
            check_machine(output, before, machine)
            machine["devices"] = before.get("ran_on", machine)["devices"]
            run = replace(run, train=with_same_step(output, train, machine["devices"], factory.processes))
        if run.train.accumulation != train.accumulation:
            listener.note(
                f"train: begun on {machine['devices']} devices, goes on on {factory.processes}; a step has the same "
                f"batches (accumulation {run.train.accumulation} instead of {train.accumulation}) and rounds otherwise"
            )
        record["ran_on"] = machine
        check_block_swap_device(train, device)
        with kernels_chosen(train, device, precision):
            return TrainReport(str(output), train.steps, _train(run), was_complete=False)


def _train(run: Run) -> Entry | None:
    """Run the loop and export the model; return the last entry of the history."""
    train, output, listener = run.train, run.output, run.control.listener
    device, precision = run.machine
    resume, step = newest_checkpoint(output, listener.note)
    check_steps(output, step, train)
    family, trainable, subjects, captions = _loaded(run)
    listener.note(set_attention(family, train.attention, device))
    trainer = run.factory.make(train, device, precision, _callbacks(run, subjects))
    if trainer.is_global_zero:
        set_aside(output, step)
        # A run may have been killed between a checkpoint and this.
        prune(output, train.checkpoints_kept)
    history = History(output / HISTORY, step, writes=trainer.is_global_zero)
    if history.lost:
        listener.note(f"train: {HISTORY} lacks {history.lost:,} of the {step:,} steps that are done")
    module = DreamBooth(Setup(train, family, trainable, captions, history))
    compile_denoiser(family.denoiser, train.compile)
    turns = Turns(train.seed, train.weights)
    batches = Batches(subjects, turns, trainer.global_rank, trainer.world_size)
    positions = Positions(step * train.accumulation, train.steps * train.accumulation)
    try:
        loader = Loader(batches, positions, _readers(train), pinned=device.type == "cuda")
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    except Unreadable as error:
        raise PicturesError(str(error).strip().rpartition("\n")[2]) from error
    if trainer.global_step < train.steps:
        done = trainer.global_step
        where = (
            f"after step {done:,} of {train.steps:,}, which is saved in {output}" if done else "before a step"
        )
        raise Interrupted(f"interrupted {where}. Run the same command again to resume")
    history.flush()
    if module.skipped_steps:
        listener.note(
            f"train: in {module.skipped_steps:,} step(s) a gradient overflowed in fp16, and nothing was learned"
        )
    if trainer.is_global_zero:
        _use_final_weights(module, output, listener)
        _bring_back(train, family)
        export_model(train, family, trainable, output)
        run.end()
    return history.last


def _loaded(run: Run) -> tuple[Family, Trainable, Sequence[SubjectExamples], Captions]:
    """Load, encode what is cached, and settle what is trained, with no more in memory at once than has to be."""
    train, listener = run.train, run.control.listener
    device, precision = run.machine
    adapter = families.family_of(train.base)
    types = component_types(adapter, train, precision)
    later = (adapter.denoiser_name,) if train.frees_text_encoders else ()
    family = families.load(train.base, types, later)
    for line in family.notes:
        listener.note(line)
    settle(family, train)
    # Captions may name a new token, so where that is trained, it is settled before anything is encoded.
    trainable = None if later else _settled(run, family)
    place_model(family, device, precision, train)
    subjects = make_concepts(train, family, run.data, listener.note, run.encoded("images"))
    captions = make_captions(train, family, subjects, listener.note, run.encoded("captions"))
    if train.sample_every and later:
        remembered = RememberedPrompts(family)
        for prompt in sample_prompts(train):
            remembered.keep(partial(sample, family, train, prompt, 0))
    if train.cache:
        family.vae.to("cpu")
    if trainable is None:
        families.let_go(family, [name for name, _ in family.modules() if "text_encoder" in name])
        families.bring(family, train.base, family.denoiser_name, types[family.denoiser_name])
        trainable = _settled(run, family)
        place_part(family, family.denoiser_name, device, precision, train)
    if train.blocks_to_swap:
        listener.note(swap_note(family, train))
    return family, trainable, subjects, captions


def _settled(run: Run, family: Family) -> Trainable:
    # The matrices of LoRA begin at random.
    seed_random_states(run.train.seed)
    return configure_trainable(family, run.train)


def _bring_back(train: TrainSpec, family: Family) -> None:
    """Load what was let go of and is a part of the model that is exported."""
    empty = [name for name, module in family.modules() if families.is_empty(module)]
    if not train.trains("full") or not empty:
        return
    # What is passed over of an encoder that is replaced is none of the new one's.
    family.make_whole()
    for name in empty:
        families.bring(family, train.base, name, torch.float32)
    if train.clip_skip:
        family.skip_layers(train.clip_skip)


def _use_final_weights(module: DreamBooth, output: Path, listener: ProgressListener) -> None:
    """Take the weights of the best validation if that is wanted, and the running mean if there is one."""
    validation = module.setup_.train.validation
    best = best_checkpoint(output)
    if validation is not None and validation.keep_best and best.is_file():
        saved = read_checkpoint(best)
        module.take(saved)
        listener.note(
            f"train: keeping the weights of step {saved['global_step']:,}, whose validation loss is lowest"
        )
    if module.ema is not None:
        module.ema.copy_to_weights()


def _callbacks(run: Run, subjects: Sequence[SubjectExamples]) -> list[Callback]:
    """Return what happens at the end of a step, in this order: what has a checkpoint is done with."""
    train, control = run.train, run.control
    checkpoints = Checkpoints(train, run.begin)
    held_out = {each.identifier: each.validation for each in subjects if each.validation is not None}
    validations = [Validations(train, Validation(held_out), control, checkpoints)] if held_out else []
    samples = [Samples(control, train, run.output / SAMPLES)] if train.sample_every else []
    stopping = StopWhenAsked(control.stop, checkpoints)
    progress = Progress(control.listener, train)
    return [OwnSignals(), progress, *validations, *samples, checkpoints, stopping]


def _readers(train: TrainSpec) -> int:
    """Return how many processes read images."""
    wanted = train.pictures.workers
    if wanted != "auto":
        return wanted
    return 0 if train.cache else min(4, max(0, (os.cpu_count() or 1) - 1))
