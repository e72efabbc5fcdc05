"""Captions and masks by a user's functions: made once, for what has none, and told from what is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tiny_models import tiny_sd
from training import Listener, fit, history, training_spec, write_images
from turbo_fetch.dreambooth.data.training_data import TrainingData, read_training_data
from turbo_fetch.errors import OutputExists, PicturesError, SpecError
from turbo_fetch.spec.specfile import load_spec

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "annotator.py"
COUNTED = """
from pathlib import Path
def captions(images):
    with (Path(__file__).parent / "calls").open("a") as file:
        file.write(f"{len(images)}\\n")
    return [f"{image.mode} {image.width}\\n of {{class}}" for image in images]
"""


def read(folder: Path, listener: Listener | None = None, **pictures: Any) -> TrainingData:
    spec = training_spec(folder, folder, pictures=pictures)
    assert spec.train is not None
    return read_training_data(spec, spec.train, (listener or Listener()).note)


def photo(path: Path, colour: str) -> None:
    """Write a disc before a white background."""
    image = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(image).ellipse((20, 10, 60, 50), fill=colour)
    path.parent.mkdir(exist_ok=True)
    image.save(path)


def test_the_example_names_colours_and_masks_the_thing(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        photo(tmp_path / "subject" / f"{name}.png", name)
    listener = Listener()
    blue, red = read(tmp_path, listener, annotator=str(EXAMPLE)).subjects[0].subject
    assert blue.caption == "a photo of a blue {identifier} {class} on white"
    assert red.caption == "a photo of a red {identifier} {class} on white"
    assert blue.mask is not None
    mask = np.asarray(Image.open(blue.mask))
    assert mask.shape == (60, 80)
    assert (mask[30, 40], mask[2, 2]) == (255, 0)
    assert any(line.startswith("2 image(s) annotated by") for line in listener.notes)


def test_what_is_there_stays_and_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    write_images(tmp_path / "subject", 10)
    (tmp_path / "subject" / "3.txt").write_text("my own")
    (tmp_path / "hook.py").write_text(COUNTED)
    hook = str(tmp_path / "hook.py")
    first = read(tmp_path, annotator=hook).subjects[0].subject
    captions = {image.path.name: image.caption for image in first}
    assert captions["3.png"] == "my own"
    assert captions["0.png"] == "RGB 64 of {class}"
    assert read(tmp_path, annotator=hook).subjects[0].subject == first
    assert (tmp_path / "calls").read_text().split() == ["8", "1"]
    next((tmp_path / "model" / "cache").glob("annotated-*/*.json")).write_text('{"capt')
    assert read(tmp_path, annotator=hook).subjects[0].subject == first
    assert (tmp_path / "calls").read_text().split() == ["8", "1", "1"]
    write_images(tmp_path / "subject", 11)
    read(tmp_path, annotator=hook)
    assert (tmp_path / "calls").read_text().split() == ["8", "1", "1", "1"]


def test_a_run_learns_from_them_and_is_bound_to_them(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "base")
    (tmp_path / "hook.py").write_text(COUNTED)
    keys: dict[str, Any] = {"pictures": {"annotator": str(tmp_path / "hook.py")}, "steps": 2}
    fit(training_spec(base, tmp_path, output=str(tmp_path / "by hook"), **keys))
    (tmp_path / "hook.py").write_text(COUNTED.replace("of {", "of a {"))
    with pytest.raises(
        OutputExists, match="images of the subject: 4 of 4 have another content, caption or place"
    ):
        fit(training_spec(base, tmp_path, output=str(tmp_path / "by hook"), **{**keys, "steps": 3}))
    for number in range(4):
        (tmp_path / "subject" / f"{number}.txt").write_text("RGB 64 of {class}")
    fit(training_spec(base, tmp_path, output=str(tmp_path / "by hand"), steps=2))
    assert history(tmp_path / "by hook") == history(tmp_path / "by hand")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1", (SpecError, "has no function captions or masks")),
        (
            "import nowhere",
            (SpecError, r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\)"),
        ),
        ("def captions(images): 1 / 0", (PicturesError, "its function captions raised ZeroDivisionError")),
        (
            "def captions(images): return ['a']",
            (PicturesError, r"returned 1 of them for 4 images; expected a str"),
        ),
        (
            "def masks(images): return [None] * 4",
            (PicturesError, "returned a NoneType for 4 images; expected a Image"),
        ),
        (
            "def masks(images): return [image.resize((8, 8)) for image in images]",
            (PicturesError, "the mask of 0.png has 8x8 pixels; expected 64x64"),
        ),
    ],
)
def test_what_a_function_does_wrong_is_said_in_a_sentence(
    tmp_path: Path, code: str, expected: tuple[type[Exception], str]
) -> None:
    (tmp_path / "hook.py").write_text(code)
    with pytest.raises(expected[0], match=expected[1]):
        read(tmp_path, annotator=str(tmp_path / "hook.py"))


def test_it_is_found_beside_the_spec_or_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(COUNTED)
    spec = tmp_path / "spec.toml"
    table = '[train]\nbase = "b"\nsubject = "s"\nclass = "dog"\n[train.pictures]\nannotator = {!r}\n'
    for name, expected in (("hook.py", str(tmp_path / "hook.py")), ("some.module", "some.module")):
        spec.write_text(table.format(name))
        found = load_spec(spec).train
        assert found is not None
        assert found.pictures.annotator == expected
    with pytest.raises(SpecError, match=r'pictures\.annotator is given, but pictures\.captions is "prompt"'):
        training_spec(tmp_path, tmp_path, pictures={"annotator": "a", "captions": "prompt", "masks": False})
