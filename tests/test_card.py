"""The dataset card and Croissant: true, valid, loadable, and never over what the user wrote."""

from __future__ import annotations

import ast
import json
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
import tomli_w
import yaml
from hypothesis import given
from hypothesis import strategies as st

import turbo_fetch
from album import album
from jobs import job_spec, write_list
from kept_columns import ODD_NAMES, dataset, every_column
from origin import Origin
from turbo_fetch.cli.progress import RowProgress
from turbo_fetch.dataset.card import MARK, write_card
from turbo_fetch.dataset.formats import format_of
from turbo_fetch.dataset.hf_features import quoted, yaml_features
from turbo_fetch.dataset.place import open_place
from turbo_fetch.maintenance.export import Export, export
from turbo_fetch.spec import Encoding, OutputFormat, Spec
from turbo_fetch.spec.fetch import CONSENT_SIGNALS
from turbo_fetch.stop import StopRequest

ALBUM = album(24, side=40)
FORMATS = get_args(OutputFormat)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spec]:
    folder = tmp_path_factory.mktemp("made")
    with Origin(ALBUM) as origin:
        rows = [origin.url(name) for name in ALBUM]
        rows[3] = origin.url("missing.jpg")
        tags = [["a", "b"]] * 24
        urls = write_list(folder / "list.parquet", rows, score=[row / 7 for row in range(24)], tags=tags)
        keep = {"keep_columns": ["score", "tags"]}
        yield job_spec(urls, folder / "cats", input=keep, output={"samples_per_shard": 10})


@pytest.fixture(scope="module")
def made(spec: Spec) -> Path:
    assert spec.fetch is not None
    turbo_fetch.run(spec)
    return Path(spec.fetch.output.path)


@pytest.fixture(autouse=True)
def _others_may_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _exported(made: Path, folder: Path, output_format: OutputFormat) -> Path:
    stop = StopRequest()
    with (folder / "log").open("w") as log, RowProgress(log, "x", None, quiet=True) as progress:
        export(Export(str(made), str(folder / output_format), output_format), progress, stop)
    stop.close()
    return folder / output_format


def test_a_run_that_completes_leaves_a_card_with_counts_consent_and_hash_recipe(made: Path) -> None:
    card = (made / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["configs"][0]["data_files"][0]["split"] == "train"
    for expected in (
        "# cats",
        "23 images from a list of 24 URLs (95.8%), in 3 shards",
        "| http-4xx | 1 | 4.17% |",
        "`noai`, `noimageai`, `noindex`, `noimageindex`",
        "sha256 of the bytes as they were downloaded",
    ):
        assert expected in text


def test_the_card_of_the_user_is_left_alone_and_ours_is_kept_true(made: Path, tmp_path: Path) -> None:
    place = open_place(str(_exported(made, tmp_path, "parquet")))
    place.write_bytes("README.md", f"{MARK}\nold".encode())
    write_card(place)
    assert b"# parquet" in place.read_bytes("README.md")
    place.write_bytes("README.md", b"my own words")
    write_card(place)
    assert place.read_bytes("README.md") == b"my own words"


def test_overwriting_a_dataset_deletes_our_card_only(spec: Spec, tmp_path: Path) -> None:
    assert spec.fetch is not None
    output = spec.fetch.output.model_copy(update={"path": str(tmp_path / "out"), "if_exists": "overwrite"})
    again = spec.model_copy(update={"fetch": spec.fetch.model_copy(update={"output": output})})
    turbo_fetch.run(again)
    (tmp_path / "out" / "README.md").write_text("my own words")
    turbo_fetch.run(again)
    assert (tmp_path / "out" / "README.md").read_text() == "my own words"


@pytest.mark.parametrize("output_format", ["webdataset", "parquet", "parquet_bytes", "files"])
def test_hugging_face_loads_the_folder_as_it_is(
    made: Path, tmp_path: Path, output_format: OutputFormat
) -> None:
    import datasets

    out = made if output_format == "webdataset" else _exported(made, tmp_path, output_format)
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    captions = [f"image {row}" for row in range(24) if row != 3]
    if output_format == "webdataset":
        assert loaded["txt"][:] == captions
        assert loaded[0]["jpg"].size == (64, 64)
    else:
        picture = "jpg" if output_format == "parquet_bytes" else "image"
        kept = [row for row in loaded if row[picture] is not None]
        # Of several folders imagefolder takes the metadata in no certain order.
        assert sorted(row["caption"] for row in kept) == sorted(captions)
        assert kept[0][picture].size == (64, 64)


@pytest.mark.parametrize("output_format", FORMATS)
def test_croissant_is_valid_and_its_records_are_the_rows(
    made: Path, tmp_path: Path, output_format: OutputFormat
) -> None:
    import mlcroissant

    out = made if output_format == "webdataset" else _exported(made, tmp_path, output_format)
    dataset: Any = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert json.loads((out / "croissant.json").read_bytes())["name"] == out.name
    records = list(dataset.records("rows"))
    assert [record["rows/caption"].decode() for record in records] == [f"image {row}" for row in range(24)]
    assert [record["rows/score"] for record in records] == [row / 7 for row in range(24)]
    columns = {"parquet": "image", "parquet_bytes": "jpg"}
    if output_format in columns:
        images = [record[f"rows/{columns[output_format]}"] for record in records]
        assert [image is None for image in images] == [row == 3 for row in range(24)]
        assert {image.size for image in images if image is not None} == {(64, 64)}


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_card_says_how_to_load_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_format: OutputFormat
) -> None:
    import datasets

    out = dataset(tmp_path, output_format, every_column(12))
    text = (out / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    variables: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], variables)
    kind = format_of(output_format)
    assert len(list(variables["data"])) == (12 if kind.hugging_face is None else 10)
    assert ("has no builder for the format" in text) == (kind.hugging_face is None and kind.column is None)


@pytest.mark.parametrize("name", [*ODD_NAMES, "a\u0085\u2029\ufeff\x00", "'"])
def test_any_name_is_the_same_after_yaml(name: str) -> None:
    kind = pa.struct([(name, pa.list_(pa.struct([(name, pa.int8())])))])
    lines = yaml_features([(name, kind)], "")
    (found,) = yaml.safe_load("\n".join(lines))
    assert (
        found["name"] == found["struct"][0]["name"] == found["struct"][0]["list"]["struct"][0]["name"] == name
    )


@given(st.text())
def test_any_text_is_the_same_after_yaml(text: str) -> None:
    assert yaml.safe_load(f"- {quoted(text)}") == [text]


@pytest.mark.parametrize(
    "columns", [every_column(24), dict.fromkeys(ODD_NAMES, pa.array(["a"] * 24))], ids=["types", "names"]
)
def test_croissant_describes_columns_of_any_type_and_name(
    tmp_path: Path, columns: dict[str, pa.Array]
) -> None:
    import mlcroissant

    out = dataset(tmp_path, "dummy", columns)
    described: Any = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    assert len(list(described.records("rows"))) == 24
    (rows,) = json.loads((out / "croissant.json").read_bytes())["recordSet"]
    named = {field["name"] for field in rows["field"]}
    assert all(name in named or repr(name) in rows["description"] for name in columns)


def test_the_card_tells_of_every_signal_that_decides_whether_an_image_may_be_used(tmp_path: Path) -> None:
    heard = {"robots": "ignore", "opt_out": ["noai", "noimageai"], "content_usage": [], "tdm": "respect"}
    assert heard.keys() == CONSENT_SIGNALS.keys() == _keys_read_by("consent.py") | _keys_read_by("hosts.py")
    place = open_place(str(dataset(tmp_path, "dummy", {"kept": pa.array(range(12))})))
    spec = tomllib.loads(place.read_bytes(".turbo-fetch/spec.toml").decode())
    spec["fetch"]["http"] = {**spec["fetch"]["http"], **heard}
    place.write_bytes(".turbo-fetch/spec.toml", tomli_w.dumps(spec).encode())
    write_card(place)
    consent = place.read_bytes("README.md").decode().split("## Consent\n")[1].split("\n## ")[0]
    for key, said in {
        "robots": "ignored",
        "opt_out": "respected, for `noai`, `noimageai`",
        "content_usage": "ignored",
        "tdm": "respected",
    }.items():
        assert f"- {CONSENT_SIGNALS[key]}: {said}.\n" in consent


def _keys_read_by(module: str) -> set[str]:
    """Return the keys of `[fetch.http]` that a module of `fetch/` reads."""
    tree = ast.parse((Path(turbo_fetch.__file__).parent / "fetch" / module).read_text())
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"http", "self._http"}
    }


@pytest.mark.parametrize("encode", get_args(Encoding))
def test_a_dataset_of_any_encoding_is_read_by_its_own_spec(encode: str, tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
        turbo_fetch.run(job_spec(urls, tmp_path / "out", image={"encode": encode}))
    made = turbo_fetch.load_spec(tmp_path / "out/.turbo-fetch/spec.toml").fetch
    assert made is not None
    assert (made.image.encode, turbo_fetch.open_dataset(str(tmp_path / "out")).image) == (encode, made.image)
    assert (tmp_path / "out/croissant.json").exists()
