from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import tomli_w
from pydantic import BaseModel, ValidationError

from turbo_fetch.dataset.description import load_spec
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client
from turbo_fetch.plan.lists import find_lists
from turbo_fetch.shard.transform import Transform
from turbo_fetch.spec import FetchSpec, Spec
from turbo_fetch.spec.specfile import (
    differences,
    dump_spec,
    dump_spec_for_others,
    parse_spec,
    tables_of,
)

MINIMAL = '[fetch.input]\nurls = "list.txt"\n[fetch.output]\npath = "out"\n'


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(MINIMAL)
    return path


def _fetch(spec: Spec) -> FetchSpec:
    assert spec.fetch is not None
    return spec.fetch


def test_a_minimal_spec_has_defaults_for_the_rest(minimal: Path) -> None:
    fetch = _fetch(load_spec(minimal))
    assert fetch.image.box == (256, 256)
    assert fetch.output.format == "webdataset"


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
    assert getattr(_fetch(load_spec(minimal, [override])).image, key) == value


def test_a_bare_path_with_equals_signs_stays_whole(minimal: Path) -> None:
    spec = load_spec(minimal, ["fetch.input.urls=s3://bucket/a=1/list.parquet"])
    assert _fetch(spec).input.urls == "s3://bucket/a=1/list.parquet"


@pytest.mark.parametrize("override", ["nonsense", "=3", "fetch..x=1", "fetch.input.urls.deeper=1"])
def test_an_override_without_key_and_value_is_refused(minimal: Path, override: str) -> None:
    with pytest.raises(SpecError, match="--set"):
        load_spec(minimal, [override])


def test_every_problem_is_told_at_once_with_file_key_and_value(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        '[fetch.input]\nurls = "x"\nurl_colum = "u"\n[fetch.image]\nsize = -3\nmode = "squash"\n'
        '[fetch.http]\nconcurrency = 0\nheaders = {X-Who = 1, "a b" = 2}\n'
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
    assert "fetch.http.headers.X-Who = 1" in message
    assert 'fetch.http.headers."a b" = 2' in message
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
        assert _fetch(parse_spec(tables)).image.encoder_quality == quality
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


PATHS: Final = {
    "fetch": {
        "input": {"urls": "lists/*.txt", "warc": {"prefix": "archive/"}},
        "deny": {"urls": ["deny.txt", "s3://bucket/deny.txt"], "domains": ["../domains.txt"]},
        "duplicates": {"by": ["url"], "against": ["other"]},
        "http": {"ca_file": "ca.pem"},
        "output": {"path": "out", "spool": "~/spool"},
    },
    "train": {"base": "org/model", "subject": "fetch", "class": "dog"},
    "generate": {"prompts": "prompts.txt", "lora": "./lora.safetensors"},
    "evaluate": {
        "prompts": ["a photo of {identifier}"],
        "models": ["./one", "org/model"],
        "dino": "org/dino",
    },
    "track": {"folder": "/logs"},
}


def test_relative_paths_of_a_file_begin_at_its_folder_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    (elsewhere := tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "spec.toml").write_text(tomli_w.dumps(PATHS))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for place, name in ((folder, "spec.toml"), (elsewhere, "../project/spec.toml")):
        monkeypatch.chdir(place)
        spec = load_spec(name)
        assert spec.fetch is not None
        assert spec.train is not None
        assert spec.generate is not None
        assert _fetch(spec).input.urls == str(folder / "lists" / "*.txt")
        assert spec.fetch.input.warc is not None
        assert spec.fetch.input.warc.prefix == f"{folder}/archive/"
        assert spec.fetch.deny.urls == (str(folder / "deny.txt"), "s3://bucket/deny.txt")
        assert spec.fetch.deny.domains == (str(tmp_path / "domains.txt"),)
        assert spec.fetch.duplicates.against == (str(folder / "other"),)
        assert spec.fetch.http.ca_file == str(folder / "ca.pem")
        assert spec.fetch.output.path == str(folder / "out")
        assert spec.fetch.output.spool == str(tmp_path / "home" / "spool")
        assert (spec.train.base, spec.train.subject) == ("org/model", "fetch")
        assert spec.train.output == str(folder / "model")
        assert spec.generate.prompts == str(folder / "prompts.txt")
        assert spec.generate.lora == str(folder / "lora.safetensors")
        assert spec.track.folder == "/logs"
        assert spec.evaluate is not None
        assert spec.evaluate.prompts == ("a photo of {identifier}",)
        assert spec.evaluate.models == (str(folder / "one"), "org/model")
        assert (spec.evaluate.dino, spec.evaluate.output) == ("org/dino", str(folder / "scores"))


def test_a_model_that_lies_beside_the_spec_is_no_name_on_a_hub(tmp_path: Path) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(PATHS))
    spec = load_spec(tmp_path / "spec.toml")
    assert spec.train is not None
    assert spec.train.base == str(tmp_path / "org" / "model")


def test_paths_of_overrides_begin_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "spec.toml").write_text(tomli_w.dumps(PATHS))
    monkeypatch.chdir(tmp_path / "here")
    spec = load_spec("../spec.toml", ["fetch.output.path=mine", 'fetch.deny.urls=["a.txt"]'])
    assert spec.fetch is not None
    assert spec.fetch.output.path == str(tmp_path / "here" / "mine")
    assert spec.fetch.deny.urls == (str(tmp_path / "here" / "a.txt"),)


def test_a_folder_whose_name_looks_like_a_pattern_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]"
    (folder / "lists").mkdir(parents=True)
    (folder / "lists" / "a.txt").write_text("http://example.org/a.jpg\n")
    (folder / "spec.toml").write_text(
        '[fetch.input]\nurls = "lists/*.txt"\n[fetch.output]\npath = "out"\n', encoding="utf-8-sig"
    )
    spec = load_spec(folder / "spec.toml")
    assert spec.fetch is not None
    assert [file.local_path for file in find_lists(spec.fetch.input)] == [folder / "lists" / "a.txt"]


def test_the_spec_in_a_dataset_runs_from_anywhere_and_means_the_dataset_that_it_lies_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = parse_spec({"fetch": {"input": {"urls": "list.txt"}, "output": {"path": "out"}}})
    told = dump_spec_for_others(spec)
    (moved := tmp_path / "moved" / ".turbo-fetch").mkdir(parents=True)
    (moved / "spec.toml").write_text(told)
    (moved / "job").write_text('{"format": 1, "essentials": {}, "lists": []}')
    monkeypatch.chdir("/")
    again = load_spec(moved / "spec.toml")
    assert again.fetch is not None
    assert again.fetch.input.urls == str(tmp_path / "list.txt")
    assert again.fetch.output.path == str(tmp_path / "moved")
    assert f'path = "{tmp_path}/out"' in told


@pytest.mark.parametrize(
    ("before", "now", "differ"),
    [
        ("deny.txt", "/x/deny.txt", False),
        ("lists/deny.txt", "/x/lists/deny.txt", False),
        ("deny.txt", "/x/not-deny.txt", True),
        ("/x/deny.txt", "/y/deny.txt", True),
        ("lists/deny.txt", "/x/deny.txt", True),
        (["a.txt", "s3://b/c"], ["/x/a.txt", "s3://b/c"], False),
        (["a.txt"], ["/x/a.txt", "/x/b.txt"], True),
        ("jpg", "png", True),
    ],
)
def test_a_path_that_became_absolute_is_no_other_one(before: object, now: object, differ: bool) -> None:
    assert bool(list(differences({"key": before}, {"key": now}))) is differ


def test_a_spec_beside_another_programs_job_file_keeps_its_output(tmp_path: Path, minimal: Path) -> None:
    for content in ("{}", "[]", "not JSON"):
        (tmp_path / "job.json").write_text(content)
        assert _fetch(load_spec(minimal)).output.path == str(tmp_path / "out")


NUMBERS: Final = (
    float("inf"), float("-inf"), float("nan"), -1, 0, 0.5, 1.5, 1e300, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30,
)  # fmt: skip
PLACES: Final[dict[str, dict[str, object]]] = {
    "fetch.input": {"urls": "/list.txt"},
    "fetch.output": {"path": "/out"},
    "fetch.score": {"function": "/scores.py:f", "columns": {"x": "float32"}},
}


def _tables(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        for inner in tables_of(field.annotation):
            yield from _tables(inner, f"{path}.{name}")


def _numbers() -> Iterator[str]:
    """Yield the keys of `[fetch]`, `[engine]` and `[track]` that may hold a number."""
    for stage in ("fetch", "engine", "track"):
        (root,) = tables_of(Spec.model_fields[stage].annotation)
        for path, model in _tables(root, stage):
            for name, field in model.model_fields.items():
                if re.search(r"\b(int|float)\b", str(field.annotation)) and "dict" not in str(
                    field.annotation
                ):
                    yield f"{path}.{name}"


def _with(key: str, value: object) -> Spec:
    tables: dict[str, Any] = {
        "fetch": {"input": dict(PLACES["fetch.input"]), "output": dict(PLACES["fetch.output"])}
    }
    *path, name = key.split(".")
    table = tables
    for depth, part in enumerate(path, 1):
        table = table.setdefault(part, dict(PLACES.get(".".join(path[:depth]), {})))
    table[name] = value
    return parse_spec(tables)


def _attempt(key: str, value: object) -> tuple[str, Spec | None]:
    """Return why a spec is refused, or the spec."""
    try:
        return "", _with(key, value)
    except SpecError as error:
        return str(error), None


def test_the_keys_with_numbers_are_found() -> None:
    assert {"fetch.http.max_body_mb", "fetch.image.size", "engine.threads", "fetch.score.timeout_s"} <= {
        *_numbers()
    }


@pytest.mark.parametrize("key", sorted(_numbers()))
def test_a_number_is_refused_with_its_key_or_can_be_worked_with(key: str) -> None:
    for value in NUMBERS:
        refusal, spec = _attempt(key, value)
        assert spec is not None or key.rpartition(".")[2] in refusal, value
        if spec is None:
            continue
        assert parse_spec(tomllib.loads(dump_spec(spec))) == spec
        fetch = _fetch(spec)
        Transform(fetch.image, 1).run([b"no image"])
        Client(fetch.http, ByteBudget(fetch.http.memory_mb * 1_000_000))
        counted = fetch.output.samples_per_shard, fetch.input.rows or 0, fetch.input.seed
        assert all(number < 1 << 63 for number in counted)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("engine.threads", 100_000, "engine.threads = 100000: input should be less than or equal to 1024"),
        (
            "engine.workers",
            2000,
            'engine: workers is 2000, but kind is "local"; expected at most 1024 processes on a machine',
        ),
        ("engine.workers", 0, "engine.workers = 0: input should be greater than 0"),
        ("engine.workers", "all", "engine.workers = 'all': input should be 'auto'"),
    ],
)
def test_a_number_or_a_word_is_refused_in_one_sentence(key: str, value: object, problem: str) -> None:
    assert _attempt(key, value)[0] == f"spec: 1 problem(s)\n  {problem}"


def test_a_limit_of_the_body_may_not_be_infinite() -> None:
    with pytest.raises(SpecError, match=r"fetch\.http\.max_body_mb = inf: input should be a finite number"):
        _with("fetch.http.max_body_mb", float("inf"))


@pytest.mark.parametrize("user_agent", ["a/1\r\nX: y", "a\0", "a\x7f"])
def test_a_user_agent_is_the_text_of_one_header(user_agent: str) -> None:
    with pytest.raises(SpecError, match=r"fetch\.http\.user_agent: contains a control character"):
        _with("fetch.http.user_agent", user_agent)


def test_an_integer_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(MINIMAL + "samples_per_shard = " + "9" * 5000)
    with pytest.raises(SpecError, match="not valid TOML"):
        load_spec(path)


def test_of_a_list_with_a_wrong_item_the_item_alone_is_told() -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec({"generate": {"model": "", "prompts": ["a dog", ""]}})
    lines = [line.strip() for line in str(refused.value).splitlines()]
    expected = "string should have at least 1 character"
    assert lines == [
        "spec: 2 problem(s)",
        f"generate.model = '': {expected}",
        f"generate.prompts.1 = '': {expected}",
    ]
