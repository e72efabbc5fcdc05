"""A training run from top to bottom: look at everything, encode once, train with Lightning, export."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.examples import Batches, Concept, Loader, Positions, Validation
from turbo_fetch.dreambooth.data.images import Unreadable
from turbo_fetch.dreambooth.data.training_data import (
    TrainingData,
    make_captions,
    make_concepts,
    read_training_data,
)
from turbo_fetch.dreambooth.export.model import export_model
from turbo_fetch.dreambooth.families.models import weights_there
from turbo_fetch.dreambooth.families.trainable import configure_trainable
from turbo_fetch.dreambooth.run_folder import (
    HISTORY,
    SAMPLES,
    best_checkpoint,
    check_record,
    essentials,
    newest_checkpoint,
    prune,
    read_checkpoint,
    write_record,
)
from turbo_fetch.dreambooth.training.callbacks import Progress, Samples, StopWhenAsked, checkpoint_writers
from turbo_fetch.dreambooth.training.checkpoint import seed_random_states
from turbo_fetch.dreambooth.training.history import Entry, History, TrainReport
from turbo_fetch.dreambooth.training.module import DreamBooth, Setup
from turbo_fetch.dreambooth.training.trainer import (
    TrainerFactory,
    device_of,
    memory_explained,
    offload,
    place_model,
    precision_of,
    set_attention,
)
from turbo_fetch.errors import Interrupted, PicturesError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.stop import StopRequest


def train_here(
    spec: Spec, train: TrainSpec, listener: ProgressListener, stop: StopRequest, factory: TrainerFactory
) -> TrainReport:
    """Train in this process, maybe together with others; raises as `launch.run`."""
    output = Path(train.output)
    with memory_explained(train):
        data = read_training_data(spec, train, listener.note)
        begun_with = essentials(train, data.digests(train), weights_there(train.base))
        before = check_record(output, begun_with)
        if before.get("steps_done") == train.steps:
            return TrainReport(str(output), train.steps, None, was_complete=True)
        write_record(output, {"essentials": begun_with, "steps_done": None})
        last, is_first = _train(train, data, (listener, stop), factory)
        if is_first:
            write_record(output, {"essentials": begun_with, "steps_done": train.steps})
    return TrainReport(str(output), train.steps, last, was_complete=False)


def _train(
    train: TrainSpec,
    data: TrainingData,
    control: tuple[ProgressListener, StopRequest],
    factory: TrainerFactory,
) -> tuple[Entry | None, bool]:
    """Run the loop and export the model; return the last entry of the history, and whether this is the first device."""
    listener, stop = control
    output = Path(train.output)
    resume, step = newest_checkpoint(output, listener.note)
    device = device_of(train, factory.local_rank)
    precision = precision_of(train, device)
    family = families.load(train.base)
    for line in family.notes:
        listener.note(line)
    # The matrices of LoRA begin at random.
    seed_random_states(train.seed)
    # Captions may name a new token, so what is trained is settled before anything is encoded.
    trainable = configure_trainable(family, train)
    place_model(family, device, precision, train)
    listener.note(set_attention(family, train.attention, device))
    concepts = make_concepts(train, family, data, listener.note)
    captions = make_captions(train, family, trainable, concepts)
    if train.cache:
        offload(family, trainable)
    trainer = factory.make(train, device, precision, _callbacks(train, listener, stop))
    history = History(output / HISTORY, step, writes=trainer.is_global_zero)
    module = DreamBooth(Setup(train, family, trainable, captions, history))
    if train.compile:
        family.denoiser.compile()
    batches = Batches(concepts["subject"], concepts.get("prior"), trainer.global_rank, trainer.world_size)
    positions = Positions(step * train.accumulation, train.steps * train.accumulation)
    try:
        trainer.fit(
            module,
            Loader(batches, positions, _readers(train)),
            _validation(concepts),
            ckpt_path=resume,
            weights_only=True,
        )
    except Unreadable as error:
        raise PicturesError(str(error).strip().rpartition("\n")[2]) from error
    if trainer.global_step < train.steps:
        raise Interrupted(
            f"interrupted after step {trainer.global_step:,} of {train.steps:,}, which is saved in {output}. "
            "Run the same command again to resume"
        )
    history.flush()
    if trainer.is_global_zero:
        _use_final_weights(module, output, listener)
        export_model(train, family, trainable, output)
        prune(output, train.checkpoints_kept)
    return history.last, trainer.is_global_zero


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


def _callbacks(train: TrainSpec, listener: ProgressListener, stop: StopRequest) -> list[Callback]:
    output = Path(train.output)
    samples = [Samples(listener, train, output / SAMPLES)] if train.sample_every else []
    return [
        StopWhenAsked(lambda: bool(stop), output, train.accumulation),
        Progress(listener, train),
        *samples,
        *checkpoint_writers(train, output),
    ]


def _readers(train: TrainSpec) -> int:
    """Return how many processes read images."""
    wanted = train.pictures.workers
    if wanted != "auto":
        return wanted
    return 0 if train.cache else min(4, max(0, (os.cpu_count() or 1) - 1))


def _validation(concepts: dict[str, Concept]) -> DataLoader[object] | None:
    concept = concepts.get("validation")
    return None if concept is None else DataLoader(Validation(concept), batch_size=None)
