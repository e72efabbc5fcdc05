"""Code of the user's is found by file or module, runs where its file is not, and fails in one sentence."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest

from turbo_fetch.errors import SpecError
from turbo_fetch.user_code import UserCode, split_member


def test_a_file_runs_where_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    # It has the name of a module of the library, which it may use all the same; annotations are looked up by module.
    path.write_text(
        "from __future__ import annotations\nimport json\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Thing:\n    size: int\n"
        "def text(): return json.dumps([Thing(3).size])\n"
        "def fails(): raise ValueError('here')\n"
    )
    code = pickle.loads(pickle.dumps(UserCode.read(str(path), "fetch.score.function")))
    path.unlink()
    module = code.module()
    assert module.text() == "[3]"
    with pytest.raises(ValueError, match="here") as error:
        module.fails()
    assert "def fails(): raise ValueError('here')" in "".join(traceback.format_exception(error.value))


def test_files_beside_it_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside_the_code.py").write_text("VALUE = 5")
    path = tmp_path / "code.py"
    path.write_text("from beside_the_code import VALUE")
    assert UserCode.read(str(path), "k").module().VALUE == 5


def test_a_module_is_told_from_another_text_of_it() -> None:
    assert UserCode.read("json", "k").digest != UserCode.read("csv", "k").digest
    assert UserCode.read("json.decoder", "k").module().JSONDecoder


@pytest.mark.parametrize("name", ["nowhere", "json.nowhere", "nowhere.py", "json.decoder.nowhere"])
def test_what_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(
        SpecError, match=rf"fetch\.score\.function = '{name}': cannot be imported .*; expected a"
    ):
        UserCode.read(name, "fetch.score.function")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.py:f", ("a.py", "f")),
        ("a.b:f", ("a.b", "f")),
        ("a.py", ("a.py", "")),
        ("C:/a.py:f", ("C:/a.py", "f")),
    ],
)
def test_code_and_member(name: str, expected: tuple[str, str]) -> None:
    assert split_member(name) == expected
