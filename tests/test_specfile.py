from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from turbo_fetch.errors import SpecError
from turbo_fetch.spec import Spec
from turbo_fetch.specfile import differences, dump_spec, load_spec, parse_spec

MINIMAL = '[fetch.input]\nurls = "list.txt"\n[fetch.output]\npath = "out"\n'


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(MINIMAL)
    return path


def test_a_minimal_spec_has_defaults_for_the_rest(minimal: Path) -> None:
    spec = load_spec(minimal)
    assert spec.fetch.image.box == (256, 256)
    assert spec.fetch.output.format == "webdataset"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("fetch.image.size=512", "size", 512),
        ("fetch.image.size=[640, 480]", "size", (640, 480)),
        ('fetch.image.mode="border"', "mode", "border"),
        ("fetch.image.mode=border", "mode", "border"),
        ("fetch.image.only_if_bigger = true", "only_if_bigger", True),
    ],
)
def test_overrides_are_toml_values_or_bare_strings(
    minimal: Path, override: str, key: str, value: object
) -> None:
    assert getattr(load_spec(minimal, [override]).fetch.image, key) == value


def test_a_bare_path_with_equals_signs_stays_whole(minimal: Path) -> None:
    spec = load_spec(minimal, ["fetch.input.urls=s3://bucket/a=1/list.parquet"])
    assert spec.fetch.input.urls == "s3://bucket/a=1/list.parquet"


@pytest.mark.parametrize("override", ["nonsense", "=3", "fetch..x=1", "fetch.input.urls.deeper=1"])
def test_an_override_without_key_and_value_is_refused(minimal: Path, override: str) -> None:
    with pytest.raises(SpecError, match="--set"):
        load_spec(minimal, [override])


def test_every_problem_is_told_at_once_with_file_key_and_value(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        '[fetch.input]\nurls = "x"\nurl_colum = "u"\n[fetch.image]\nsize = -3\nmode = "squash"\n'
        "[fetch.http]\nconcurrency = 0\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert str(path) in message
    assert "fetch.input.url_colum: unknown key; did you mean 'url_column'?" in message
    assert "fetch.image.size = -3" in message
    assert "fetch.image.mode = 'squash'" in message
    assert "'center_crop'" in message
    assert "fetch.http.concurrency = 0" in message
    assert "fetch.output: missing" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[fetch", "not valid TOML"), ("fetch = 3", "fetch = 3"), ("[fecth]", "did you mean 'fetch'")],
)
def test_garbled_files_are_explained(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=expected.replace("[", r"\[")):
        load_spec(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.toml: no such file"):
        load_spec(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("encode", "quality", "fits"),
    [("png", 9, True), ("png", 10, False), ("jpg", 0, False), ("jpg", 100, True), ("webp", 0, False)],
)
def test_quality_is_checked_against_the_encoding(encode: str, quality: int, fits: bool) -> None:
    tables = {
        "fetch": {
            "input": {"urls": "x"},
            "output": {"path": "y"},
            "image": {"encode": encode, "quality": quality},
        }
    }
    if fits:
        assert parse_spec(tables).fetch.image.encoder_quality == quality
    else:
        with pytest.raises(SpecError, match="quality"):
            parse_spec(tables)


def test_a_dumped_spec_reads_back_equal(minimal: Path, tmp_path: Path) -> None:
    spec = load_spec(minimal, ["fetch.input.keep_columns=['a', 'b']"])
    again = tmp_path / "again.toml"
    again.write_text(dump_spec(spec))
    assert load_spec(again) == spec


def test_differences_name_key_and_both_values(minimal: Path) -> None:
    before = load_spec(minimal).model_dump(mode="json")
    after = load_spec(minimal, ["fetch.image.size=512"]).model_dump(mode="json")
    assert list(differences(before, after)) == ["fetch.image.size was 256, is now 512"]
    assert list(differences(before, before)) == []


def test_specs_are_frozen(minimal: Path) -> None:
    spec = load_spec(minimal)
    with pytest.raises(ValidationError, match="frozen"):
        spec.engine.workers = 3  # type: ignore[misc]


def test_every_key_is_documented_in_the_json_schema() -> None:
    schema = Spec.model_json_schema()
    for name, table in schema["$defs"].items():
        for key, field in table["properties"].items():
            assert field.get("description"), f"{name}.{key} has no docstring"


def test_a_spec_with_every_stage_is_the_same_after_it_was_written_out() -> None:
    tables = {
        "prior": {},
        "train": {"base": "model", "subject": "photos", "class": "dog"},
        "generate": {"prompts": ["a photo of sks dog"]},
    }
    spec = parse_spec(tables)
    assert parse_spec(tomllib.loads(dump_spec(spec))) == spec
