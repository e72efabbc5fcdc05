"""A run that is stopped, killed, damaged or out of disk resumes as if nothing had been: bit for bit."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from processes import lines_of, wait_until
from tiny_models import tiny_sd
from training import Child, Listener, assert_equal_bits, fit, history, learned, stopped_after, training_spec
from turbo_fetch.dreambooth.run_folder import newest_checkpoint, read_checkpoint
from turbo_fetch.dreambooth.training.checkpoint import WholeFiles
from turbo_fetch.errors import Interrupted, OutputError, OutputExists

VARIED: dict[str, dict[str, Any]] = {
    "cached": {"checkpoint_every": 8, "pictures": {"flip": True}},
    "workers": {
        "checkpoint_every": 8,
        "cache": False,
        "text_encoder": True,
        "pictures": {"flip": True, "crop": "random", "caption_dropout": 0.3, "workers": 2},
    },
    "lora, mean, schedule": {
        "checkpoint_every": 8,
        "method": "lora",
        "text_encoder": True,
        "lora": {"rank": 2, "dropout": 0.2},
        "ema": {"decay": 0.9},
        "accumulation": 2,
        "schedule": {"kind": "cosine", "warmup_steps": 2},
    },
    "token": {"checkpoint_every": 8, "method": "full+token", "identifier": "<sks>"},
    "buckets, snr": {
        "checkpoint_every": 8,
        "batch_size": 2,
        "pictures": {"buckets": True},
        "loss": {"snr_gamma": 5, "noise_offset": 0.1},
        "timesteps": {"distribution": "mode"},
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("keys", VARIED.values(), ids=VARIED)
def test_three_steps_and_five_are_bit_for_bit_eight(base: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    whole = training_spec(base, tmp_path, output=str(tmp_path / "whole"), **keys)
    fit(whole)
    parts = training_spec(base, tmp_path, output=str(tmp_path / "parts"), **keys)
    with pytest.raises(Interrupted, match="after step 3 of 8, which is saved in"):
        stopped_after(parts, 3)
    assert len(history(tmp_path / "parts")) == 3
    fit(parts)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))


def test_killed_in_mid_step_it_goes_on_from_the_last_checkpoint(base: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"checkpoint_every": 2, "steps": 16}
    whole = training_spec(base, tmp_path, output=str(tmp_path / "whole"), **keys)
    fit(whole)
    parts = training_spec(base, tmp_path, output=str(tmp_path / "parts"), **keys)
    with Child.running(parts, tmp_path, killed_at="step-000012.ckpt") as child:
        assert child.end() == -signal.SIGKILL
    fit(parts)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_130(base: Path, tmp_path: Path, number: signal.Signals) -> None:
    spec = training_spec(base, tmp_path, steps=100_000, checkpoint_every=100_000)
    lines = tmp_path / "model" / "history.jsonl"
    with Child.running(spec, tmp_path) as child:
        wait_until("a step", lambda: lines_of(lines), child.process, child.errors)
        child.process.send_signal(number)
        assert child.end() == 130
    assert "Run the same command again to resume" in child.errors.read_text()
    assert "Traceback" not in child.errors.read_text()
    (saved,) = (tmp_path / "model" / "checkpoints").glob("step-*.ckpt")
    assert read_checkpoint(saved)["global_step"] == len(history(tmp_path / "model"))


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(base: Path, tmp_path: Path) -> None:
    first = training_spec(base, tmp_path, steps=3)
    assert first.train is not None
    fit(first.model_copy(update={"train": first.train.model_copy(update={"checkpoint_every": 3})}))
    saved = tmp_path / "model" / "checkpoints" / "step-000003.ckpt"
    content = saved.read_bytes()
    longer = training_spec(base, tmp_path, steps=6, checkpoint_every=3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"step-000006\.ckpt: the file size limit is used up"):
            fit(longer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert saved.read_bytes() == content
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    whole = training_spec(base, tmp_path, steps=6, checkpoint_every=3, output=str(tmp_path / "whole"))
    fit(longer)
    fit(whole)
    assert history(tmp_path / "model") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "model"), learned(tmp_path / "whole"))


def test_killed_in_mid_save_the_last_checkpoint_is_the_one_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.ckpt"
    WholeFiles().save_checkpoint({"weights": torch.zeros(1000)}, path)
    child = os.fork()
    if child == 0:

        class Fatal(torch.Tensor):
            """Kills the process that writes it."""

            def __reduce_ex__(self, protocol: Any) -> Any:
                os.kill(os.getpid(), signal.SIGKILL)

        WholeFiles().save_checkpoint({"a": torch.ones(10), "b": torch.ones(1).as_subclass(Fatal)}, path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert torch.equal(read_checkpoint(path)["weights"], torch.zeros(1000))


def test_another_spec_is_refused_with_the_difference(base: Path, tmp_path: Path) -> None:
    fit(training_spec(base, tmp_path, steps=1))
    changed = training_spec(base, tmp_path, steps=1, seed=7)
    with pytest.raises(OutputExists, match=r"train\.seed was 0, is now 7"):
        fit(changed)


def test_other_images_and_captions_are_refused(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path, steps=1)
    fit(spec)
    (tmp_path / "class" / "1.txt").write_text("a dog asleep")
    with pytest.raises(OutputExists, match="images of the class: 1 of 4 have another content, caption"):
        fit(spec)
    (tmp_path / "class" / "1.txt").unlink()
    (tmp_path / "subject" / "0.png").rename(tmp_path / "subject" / "9.png")
    with pytest.raises(OutputExists, match="images of the subject: 4 of 4 have another"):
        fit(spec)
    (tmp_path / "subject" / "9.png").unlink()
    with pytest.raises(OutputExists, match="images of the subject: were 4, are now 3"):
        fit(spec)


def test_a_complete_run_is_left_alone(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path, steps=1)
    fit(spec)
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert "complete already" in fit(spec).text()
    assert weights.stat().st_mtime_ns == before


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change_weights(path: Path) -> None:
    """Flip one bit of a weight, which PyTorch's own reader takes as it is."""
    weight = read_checkpoint(path)["state_dict"]["parts.unet.conv_in.weight"].numpy().tobytes()
    content = path.read_bytes()
    at = content.index(weight) + len(weight) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    torch.load(path, weights_only=True)


def _of_a_later_version(path: Path) -> None:
    held = torch.load(path, weights_only=True)
    torch.save({**held, "format": held["format"] + 1}, path)


def _of_another_step(path: Path) -> None:
    path.write_bytes(path.with_name("step-000002.ckpt").read_bytes())


KEPT: dict[str, Any] = {"checkpoint_every": 2, "checkpoints_kept": 9}
DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": _cut_short,
    "a flipped bit": _change_weights,
    "empty": lambda path: path.write_bytes(b""),
    "other content": lambda path: path.write_bytes(b"not a checkpoint"),
    "not there": Path.unlink,
    "from a later version": _of_a_later_version,
    "of another step": _of_another_step,
}


@pytest.fixture(scope="module")
def runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of six steps, `whole`, and one of four, `parts`: a checkpoint of every two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("whole", 6), ("parts", 4)):
        fit(training_spec(base, folder, steps=steps, output=str(folder / name), **KEPT))
    return folder


@pytest.fixture
def parts(runs: Path, tmp_path: Path) -> Path:
    """Return a copy of the run of four steps."""
    return Path(shutil.copytree(runs / "parts", tmp_path / "model"))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_newest_checkpoint_that_is_not_damaged_is_found_and_told(
    parts: Path, damage: Callable[[Path], object]
) -> None:
    older, newest = (parts / "checkpoints" / f"step-00000{step}.ckpt" for step in (2, 4))
    damage(newest)
    told: list[str] = []
    assert newest_checkpoint(parts, told.append) == (older, 2)
    assert told[-1] == "train: resumes after step 2"
    damaged = told[:-1]
    assert len(damaged) == newest.exists()
    why = "a damaged checkpoint|written by a later version|holds the weights of step 2; expected those of step 4"
    assert all(re.match(f"train: {newest}: ({why})", note) for note in damaged)


def test_a_run_whose_newest_checkpoint_is_damaged_learns_what_it_would_have(
    base: Path, runs: Path, parts: Path
) -> None:
    _change_weights(parts / "checkpoints" / "step-000004.ckpt")
    listener = Listener()
    fit(training_spec(base, runs, steps=6, output=str(parts), **KEPT), listener)
    assert any("step-000004.ckpt: a damaged checkpoint" in note for note in listener.notes)
    names = sorted(path.name for path in (parts / "checkpoints").iterdir())
    whole = [f"step-00000{step}.ckpt" for step in (2, 4, 6)]
    assert names == sorted([*whole, "step-000004.ckpt.unreadable"])
    assert history(parts) == history(runs / "whole")
    assert_equal_bits(learned(parts), learned(runs / "whole"))


def test_an_empty_folder_of_checkpoints_is_a_run_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert newest_checkpoint(tmp_path, print) == (None, 0)


def test_a_run_with_damaged_checkpoints_only_is_not_started_over(base: Path, runs: Path, parts: Path) -> None:
    before = history(parts)
    for path in (parts / "checkpoints").iterdir():
        _cut_short(path)
    with pytest.raises(OutputError, match=r"step-000002\.ckpt: a damaged checkpoint .*; no other is left"):
        fit(training_spec(base, runs, steps=6, output=str(parts), **KEPT))
    assert history(parts) == before


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "step-000001.ckpt"
    WholeFiles().save_checkpoint({"step": 1, "weights": torch.arange(40.0)}, path)
    return path


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_checkpoint_with_a_changed_bit_is_refused_or_holds_what_it_held(
    small_checkpoint: Path, at: float, bit: int
) -> None:
    content = bytearray(small_checkpoint.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    changed = small_checkpoint.with_name("changed.ckpt")
    changed.write_bytes(content)
    with suppress(OutputError):
        read = read_checkpoint(changed)
        assert read["step"] == 1
        assert torch.equal(read["weights"], torch.arange(40.0))
