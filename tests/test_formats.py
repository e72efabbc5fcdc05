"""The registry of formats: each has its module, and nothing else knows of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast, get_args

import pytest

from kept_columns import dataset, every_column
from shard_data import samples
from turbo_fetch.dataset.formats import all_formats, data_suffixes, format_of, write_shard
from turbo_fetch.dataset.names import METADATA_SUFFIX
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.errors import DatasetError
from turbo_fetch.spec import ImageSpec, OutputFormat

PACKAGE = Path(__file__).parent.parent / "python" / "turbo_fetch"
KNOW_FORMATS = ("dataset/formats/", "spec/", "img2dataset/")
FORMATS = get_args(OutputFormat)
IMAGE = ImageSpec(encode="png", quality=6)


def test_every_format_of_the_spec_has_a_module_and_every_module_of_a_format_is_in_the_spec() -> None:
    folder = PACKAGE / "dataset" / "formats"
    described = {
        path.stem for path in folder.glob("*.py") if re.search(r"^FORMAT\b", path.read_text(), re.MULTILINE)
    }
    assert described == set(FORMATS) == set(all_formats())


def test_a_format_that_is_unknown_is_named() -> None:
    with pytest.raises(
        DatasetError, match="'rar' is not a format of shards; expected one of files, webdataset"
    ):
        format_of(cast(OutputFormat, "rar"))


def _texts(path: Path) -> Iterator[str]:
    """Yield the string constants of a module that are not docstrings."""
    tree = ast.parse(path.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def test_no_name_and_no_suffix_of_a_format_stands_elsewhere_in_the_program() -> None:
    # Words for other things too: formats of lists, and files of a commit record.
    names = set(FORMATS) - {"parquet", "files"}
    suffixes = data_suffixes() - {METADATA_SUFFIX, ""}
    word = re.compile("|".join([*(rf"\b{name}\b" for name in names), *(rf"\{each}\b" for each in suffixes)]))
    found = {
        f"{path.relative_to(PACKAGE)}: {text!r}"
        for path in PACKAGE.rglob("*.py")
        if not path.relative_to(PACKAGE).as_posix().startswith(KNOW_FORMATS)
        for text in _texts(path)
        if word.search(text)
    }
    assert not found


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_shard_is_its_metadata_and_what_the_format_says_of_its_images(
    tmp_path: Path, output_format: OutputFormat
) -> None:
    kind = format_of(output_format)
    names = [file.name for file in write_shard(output_format, samples(9, IMAGE), tmp_path, "00000", IMAGE)]
    expected = [] if kind.writer is None else [f"00000{kind.suffix}"]
    assert names == [*expected, f"00000{METADATA_SUFFIX}"]
    assert len(list(tmp_path.iterdir())) == len(names)


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_format_of_a_dataset_that_does_not_say_it_is_found_by_its_files(
    tmp_path: Path, output_format: OutputFormat
) -> None:
    out = dataset(tmp_path, output_format, {"kept": every_column(24)["c5 int64"]})
    found = open_dataset(str(out))
    assert found.format == output_format
    has_images = format_of(output_format).has_images
    keys = [sample.key for sample in found.samples()]
    assert (
        keys
        == [f"{shard:05d}{row:02d}" for shard in (0, 1) for row in range(12) if row % 7 != 3] * has_images
    )
