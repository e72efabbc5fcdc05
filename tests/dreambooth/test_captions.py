"""Captions as people keep them: used, or told. Folders of other trainers: understood, or explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tiny_models import TINY_FLOW_MODELS, tiny_sd3, tiny_sdxl
from training import Listener, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.captions import read_text
from turbo_fetch.dreambooth.data.folder import read_folder
from turbo_fetch.dreambooth.data.sources import image_warnings, length_warnings
from turbo_fetch.errors import PicturesError


def _folder(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def _read(folder: Path, what: str = "subject") -> tuple[dict[str, str | None], str]:
    """Return the caption of each image, and what was told."""
    listener = Listener()
    images = read_folder(folder, what, listener.note)
    return {image.path.name: image.caption for image in images}, "\n".join(listener.notes)


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.png.txt", "a.caption", "a.png.caption", "a.Caption"])
def test_a_caption_beside_an_image_is_used_under_each_usual_name(tmp_path: Path, name: str) -> None:
    (_folder(tmp_path, "a.png") / name).write_text("a dog")
    assert _read(tmp_path) == ({"a.png": "a dog"}, "")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("name", ["a.txt", "metadata.jsonl", "metadata.csv", "meta_cap.json"])
def test_every_usual_encoding_and_line_end_is_read(
    tmp_path: Path, name: str, end: str, encoding: str
) -> None:
    text = {
        "a.txt": f"ein Hündchen 小犬{end}",
        "metadata.jsonl": json.dumps({"file_name": "a.png", "text": "ein Hündchen 小犬"}, ensure_ascii=False)
        + end,
        "metadata.csv": f"file_name,text{end or chr(10)}a.png,ein Hündchen 小犬{end}",
        "meta_cap.json": json.dumps(
            {"C:\\images\\a.png": {"caption": "ein Hündchen 小犬"}}, ensure_ascii=False
        )
        + end,
    }[name]
    (_folder(tmp_path, "a.png") / name).write_bytes(text.encode(encoding))
    assert _read(tmp_path) == ({"a.png": "ein Hündchen 小犬"}, "")


@given(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")),  # type: ignore[arg-type]
    st.sampled_from(["utf-8-sig", "utf-16"]),
)
def test_any_text_with_a_byte_order_mark_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "text.txt"
    path.write_bytes(text.encode(encoding))
    assert read_text(path) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"caf\xe9", "byte 4 is not UTF-8"),
        ("dog".encode("utf-16-le"), "holds zero bytes"),
        (b"\xff\xfea", "UTF-16"),
    ],
)
def test_bytes_that_are_no_text_are_named_before_anything_is_learned(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    (_folder(tmp_path, "a.png") / "a.txt").write_bytes(content)
    with pytest.raises(PicturesError, match=rf"a\.txt: .*{expected}"):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "first"}\n\n{"file_name": "b.png", "text": "second"}',
        ),
        (
            "metadata.jsonl",
            '{"file_name": "train/a.png", "caption": "first"}\n{"file_name": "b.png", "caption": "second"}',
        ),
        ("metadata.csv", "file_name;text\na.png;first\nb.png;second\n"),
        ("metadata.csv", 'text,file_name\n"first",a.png\n"second\n",b.png\n'),
        (
            "meta_lat.json",
            '{"/data/a": {"caption": "first", "train_resolution": [8, 8]}, "b.png": {"tags": "second"}}',
        ),
    ],
)
def test_captions_of_many_images_come_from_the_tables_of_other_programs(
    tmp_path: Path, name: str, content: str
) -> None:
    (_folder(tmp_path, "a.png", "b.png") / name).write_text(content)
    assert _read(tmp_path) == ({"a.png": "first", "b.png": "second"}, "")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("metadata.jsonl", "{broken\n", r"metadata\.jsonl, line 1: .*expected a JSON object per line"),
        ("metadata.jsonl", "[1]\n", r"metadata\.jsonl, line 1: expected a JSON object"),
        (
            "metadata.csv",
            "name,label\na.png,dog\n",
            "has name, label; expected file_name, and one of text, caption",
        ),
    ],
)
def test_a_table_that_cannot_be_understood_is_named(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    (_folder(tmp_path, "a.png") / name).write_text(content)
    with pytest.raises(PicturesError, match=expected):
        _read(tmp_path)


def test_what_is_missing_is_counted_and_named(tmp_path: Path) -> None:
    _folder(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "b.txt").write_text(" \n")
    (tmp_path / "lost.txt").write_text("a cat")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "a bird"}')
    captions, told = _read(tmp_path)
    assert captions == {"a.png": "a dog", "b.png": "", "c.png": None}
    assert "1 empty caption(s), the prompt is used instead: b.png" in told
    assert "1 of 3 images have no caption, the prompt is used instead: c.png" in told
    assert "1 caption(s) without an image of that name: lost.txt" in told
    assert "metadata.jsonl: 1 caption(s) of images that are not there: gone.png" in told


def test_several_captions_of_an_image_in_a_table_are_told(tmp_path: Path) -> None:
    _folder(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,first\nsub/a.png,second\n")
    captions, told = _read(tmp_path)
    assert captions == {"a.png": "second"}
    assert "metadata.csv: several captions of an image, of which the last is used: a.png" in told


def test_the_caption_beside_an_image_counts_before_a_table_and_that_is_told(tmp_path: Path) -> None:
    _folder(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("beside")
    (tmp_path / "a.caption").write_text("other")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,table\n")
    captions, told = _read(tmp_path)
    assert captions == {"a.png": "beside"}
    assert "a.png: several captions, of which a.txt is used" in told
    assert "both beside images and in metadata.csv; those beside count: a.png" in told


def test_masks_of_other_programs_are_no_images(tmp_path: Path) -> None:
    _folder(tmp_path, "a.png", "b.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "a-masklabel.png")
    Image.new("L", (8, 8)).save(tmp_path / "b.mask.png")
    Image.new("L", (8, 8)).save(tmp_path / "lost.mask.png")
    listener = Listener()
    images = read_folder(tmp_path, "subject", listener.note)
    assert [image.mask and image.mask.name for image in images] == ["a-masklabel.png", "b.mask.png"]
    told = "\n".join(listener.notes)
    assert "1 image(s) with a mask that is black all over: b.png" in told
    assert "1 mask(s) without an image of that name, or not PNG: lost.mask.png" in told


def test_a_folder_for_kohyas_scripts_is_explained_with_the_lines_to_write(tmp_path: Path) -> None:
    _folder(tmp_path / "10_sks golden retriever", "a.png")
    (tmp_path / "log").mkdir()
    with pytest.raises(PicturesError, match="kohya") as raised:
        _read(tmp_path)
    lines = str(raised.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "[train]",
        f"subject = '{tmp_path / '10_sks golden retriever'}'",
        "identifier = 'sks'",
        "class = 'golden retriever'",
        "[train.pictures]",
        "repeats = 10",
    ]


def test_one_of_its_subfolders_tells_what_its_name_means(tmp_path: Path) -> None:
    subject = _folder(tmp_path / "10_sks dog", "a.png", "b.png", "c.png")
    images = read_folder(subject, "subject", Listener().note)
    spec = training_spec(tmp_path, tmp_path, subject=str(subject))
    assert spec.train is not None
    told = "\n".join(image_warnings(spec.train, images, ["a photo of sks dog"] * 3))
    assert "to kohya's scripts the name means 10 repeats of 'sks dog', but train.pictures.repeats = 1" in told
    spec = training_spec(tmp_path, tmp_path, subject=str(subject), pictures={"repeats": 10})
    assert spec.train is not None
    assert "kohya" not in "\n".join(image_warnings(spec.train, images, ["a photo of sks dog"] * 3))


def test_class_images_of_kohyas_scripts_are_a_source(tmp_path: Path) -> None:
    _folder(tmp_path / "1_dog", "a.png")
    with pytest.raises(PicturesError, match=r"\[prior\]\n  source = '.*1_dog'"):
        _read(tmp_path, "class")


def test_images_in_other_subfolders_are_pointed_at(tmp_path: Path) -> None:
    _folder(tmp_path / "train", "a.png", "b.png")
    with pytest.raises(PicturesError, match=r"its subfolders hold some; expected one of them: train/ \(2\)"):
        _read(tmp_path)
    path = tmp_path / "photo.png"
    path.write_bytes(b"")
    with pytest.raises(PicturesError, match="a file; expected a folder"):
        _read(path)


LONG = {
    "sdxl": (tiny_sdxl, [(77, "CLIP")]),
    "sd3": (lambda folder: tiny_sd3(folder, with_t5=True), [(77, "CLIP"), (77, "T5")]),
    "flux": (TINY_FLOW_MODELS["flux"], [(77, "CLIP"), (512, "T5")]),
    "flux2": (TINY_FLOW_MODELS["flux2"], [(512, "Qwen3")]),
    "flux2-dev": (TINY_FLOW_MODELS["flux2-dev"], [(512, "Mistral")]),
    "qwen-image": (TINY_FLOW_MODELS["qwen-image"], [(1058, "Qwen2.5")]),
    "z-image": (TINY_FLOW_MODELS["z-image"], [(512, "Qwen3")]),
}
"""Families, with how many tokens each of their text encoders reads."""


@pytest.mark.parametrize("name", LONG)
def test_captions_that_are_cut_are_counted_for_each_encoder(tmp_path: Path, name: str) -> None:
    make, expected = LONG[name]
    family = families.load(str(make(tmp_path / "model")))  # type: ignore[no-untyped-call]
    longest, short = "an old dog " * 700, "an old dog"
    told = list(length_warnings(family, [longest, short, longest]))
    assert [line.partition(" reads")[0] for line in told] == [
        f"2 of 3 captions are longer than the {most} tokens that the {encoder}" for most, encoder in expected
    ]
    assert all("an old dog" in line and len(line) < 200 for line in told)
    # What is behind the end is not read, whatever it is.
    texts = [
        family.encode_captions([text])["hidden"]
        for text in (longest, f"{longest} in red", short, f"{short} in red")
    ]
    assert torch.equal(texts[0], texts[1])
    assert texts[2].shape != texts[3].shape or not torch.equal(texts[2], texts[3])
