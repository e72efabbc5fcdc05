"""The drop-in's options: what they mean, how they are typed, and which are refused."""

from __future__ import annotations

import inspect
import io
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import fire
import pytest
from hypothesis import given
from hypothesis import strategies as st

from album import album
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.cli.img2dataset import help_text, literal, named_by_fire, parse_arguments
from turbo_fetch.errors import SpecError
from turbo_fetch.img2dataset import download
from turbo_fetch.img2dataset.options import Img2DatasetOptions
from turbo_fetch.img2dataset.translation import named, translate
from turbo_fetch.spec import FetchSpec, HttpSpec

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = "fetch.http.allow_private_addresses=true"


def fetch(**options: Any) -> FetchSpec:
    """Return what the options mean, for a list of Parquet unless they say otherwise."""
    spec = translate({"url_list": "list.parquet", "input_format": "parquet", **options}).spec
    assert spec.fetch is not None
    return spec.fetch


def refusal(**options: Any) -> str:
    """Return the message with which the options are refused."""
    with pytest.raises(SpecError) as refused:
        translate({"url_list": "list.parquet", "input_format": "parquet", **options})
    return str(refused.value)


@pytest.mark.parametrize(
    ("option", "value", "key", "expected"),
    [
        ("url_list", "data/list.parquet", "input.urls", "data/list.parquet"),
        ("input_format", "csv.gz", "input.format", "csv"),
        ("url_col", "URL", "input.url_column", "URL"),
        ("caption_col", "TEXT", "input.caption_column", "TEXT"),
        ("save_additional_columns", ["a", "b"], "input.keep_columns", ("a", "b")),
        ("save_additional_columns", "a", "input.keep_columns", ("a",)),
        ("image_size", 512, "image.size", 512),
        ("resize_mode", "keep_ratio_largest", "image.mode", "keep_ratio_largest"),
        ("resize_only_if_bigger", True, "image.only_if_bigger", True),
        ("upscale_interpolation", "Bicubic", "image.upscale", "cubic"),
        ("downscale_interpolation", "LANCZOS4", "image.downscale", "lanczos"),
        ("encode_format", "webp", "image.encode", "webp"),
        ("encode_quality", 0, "image.quality", 1),
        ("encode_quality", 101, "image.quality", 100),
        ("skip_reencode", True, "image.skip_reencode", True),
        ("disable_all_reencoding", True, "image.encode", "original"),
        ("disable_all_reencoding", True, "image.mode", "no"),
        ("min_image_size", 32, "image.min_side", 32),
        ("max_image_area", 1e6 + 0.5, "image.max_pixels", 1_000_000),
        ("max_image_area", float("inf"), "image.max_pixels", 100_000_000),
        ("max_aspect_ratio", 2.5, "image.max_aspect", 2.5),
        ("max_aspect_ratio", float("inf"), "image.max_aspect", 0),
        ("compute_hash", None, "image.digest", "none"),
        ("compute_hash", "md5", "image.digest", "md5"),
        ("extract_exif", False, "image.exif", False),
        ("output_folder", "gs://bucket/out", "output.path", "gs://bucket/out"),
        ("output_format", "webdataset", "output.format", "webdataset"),
        ("output_format", "parquet", "output.format", "parquet_bytes"),
        ("output_format", "tfrecord", "output.format", "tfrecord"),
        ("output_format", "dummy", "output.format", "dummy"),
        ("number_sample_per_shard", 7, "output.samples_per_shard", 7),
        ("oom_shard_count", 8, "output.shard_digits", 8),
        ("incremental_mode", "incremental", "output.if_exists", "resume"),
        ("incremental_mode", "extend", "output.if_exists", "extend"),
        ("incremental_mode", "overwrite", "output.if_exists", "overwrite"),
        ("thread_count", 64, "http.concurrency", 64),
        ("timeout", 3, "http.timeout_s", 3),
        ("timeout", 3, "http.stall_timeout_s", 3),
        ("retries", 4, "http.retries", 4),
        ("disallowed_header_directives", [], "http.opt_out", ()),
        ("disallowed_header_directives", [" NoAI"], "http.opt_out", ("noai",)),
        ("ignore_ssl_certificate", True, "http.verify_tls", False),
        ("user_agent_token", "MyBot", "http.user_agent", "MyBot (compatible; turbo-fetch/{version})"),
    ],
)
def test_an_option_sets_its_key(option: str, value: Any, key: str, expected: Any) -> None:
    given: dict[str, Any] = {option: value}
    if option == "input_format":
        given["url_list"] = "list.csv.gz"
    table, name = key.split(".")
    assert getattr(getattr(fetch(**given), table), name) == expected


@pytest.mark.parametrize(
    ("options", "table", "note"),
    [
        (
            {"caption_col": "TEXT"},
            {"caption_column": None},
            "caption_col has no effect: a txt list has only URLs",
        ),
        ({"save_additional_columns": ["a"]}, {"keep_columns": ()}, "save_additional_columns has no effect"),
        ({"verify_hash": ["h", "sha256"]}, {"hash_column": None}, "verify_hash has no effect"),
        ({"user_agent_token": "two words"}, {}, "user_agent_token is sent as 'two-words'"),
        ({"user_agent_token": "a\r\nX: b"}, {}, "user_agent_token is sent as 'a-X-b'"),
        ({"user_agent_token": "日本"}, {}, "user_agent_token is '日本', which cannot be sent"),
    ],
)
def test_what_the_peer_ignores_is_taken_and_told(
    options: dict[str, Any], table: dict[str, Any], note: str
) -> None:
    translation = translate({"url_list": "list.txt", **options})
    assert note in "\n".join(translation.notes)
    assert translation.spec.fetch is not None
    assert table.items() <= translation.spec.fetch.input.model_dump().items()


@pytest.mark.parametrize(
    ("option", "value", "key", "expected"),
    [
        ("min_image_size", 10.5, "image.min_side", 11),
        ("oom_shard_count", 0, "output.shard_digits", 1),
        ("extract_exif", None, "image.exif", False),
        ("skip_reencode", 1, "image.skip_reencode", True),
        ("encode_quality", -5, "image.quality", 1),
        ("encode_quality", 1000, "image.quality", 100),
        ("number_sample_per_shard", 1e4, "output.samples_per_shard", 10_000),
        ("timeout", "3", "http.timeout_s", 3),
        ("user_agent_token", "", "http.user_agent", HttpSpec().user_agent),
        ("output_folder", Path("out"), "output.path", "out"),
    ],
)
def test_values_that_python_takes_for_another_are_taken(
    option: str, value: Any, key: str, expected: Any
) -> None:
    table, name = key.split(".")
    assert getattr(getattr(fetch(**{option: value}), table), name) == expected


def test_wandb_is_a_tracker_with_its_project() -> None:
    track = translate({"url_list": "x.txt", "enable_wandb": True, "wandb_project": "mine"}).spec.track
    assert (track.to, track.project) == (("wandb",), "mine")
    assert translate({"url_list": "x.txt"}).spec.track.to == ()


def test_boxes_and_hashes_to_verify_are_columns_of_the_list() -> None:
    from turbo_fetch.img2dataset.translation import spec_tables

    peer = Img2DatasetOptions(
        url_list="list.parquet",
        input_format="parquet",
        save_additional_columns=("uid",),
        bbox_col="faces",
        verify_hash=("hash", "md5"),
        compute_hash="md5",
    )
    columns = spec_tables(peer, "list.parquet")["fetch"]["input"]
    assert columns["keep_columns"] == ["uid", "faces"]
    assert (columns["boxes_column"], columns["hash_column"], columns["hash_kind"]) == ("faces", "hash", "md5")


@pytest.mark.parametrize(
    ("distributor", "kind", "workers"),
    [("multiprocessing", "local", 6), ("ray", "ray", "auto"), ("pyspark", "spark", "auto")],
)
def test_distributors_are_engines(distributor: str, kind: str, workers: int | str) -> None:
    options = {"url_list": "list.txt", "distributor": distributor, "processes_count": 6}
    engine = translate(options).spec.engine
    assert (engine.kind, engine.workers) == (kind, workers)


def test_png_takes_its_own_default_and_refuses_a_quality_that_is_none() -> None:
    assert fetch(encode_format="png").image.encoder_quality == 6
    assert fetch(encode_format="png", encode_quality=0).image.encoder_quality == 0
    assert "encode_quality is 95, but for png it is the compression, 0 to 9" in refusal(
        encode_format="png", encode_quality=95
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"imagesize": 3}, "imagesize: unknown key; did you mean 'image_size'?"),
        ({"resize_mode": "crop"}, "resize_mode = 'crop': input should be 'no'"),
        ({"image_size": "big"}, "image_size = 'big': input should be a valid integer"),
        ({"compute_hash": "crc"}, "compute_hash = 'crc'"),
        ({"incremental_mode": "maybe"}, "incremental_mode = 'maybe'"),
        ({"max_aspect_ratio": 0.5}, "max_aspect_ratio = 0.5"),
        ({"timeout": 0}, "timeout = 0"),
        ({"verify_hash": ["hash", "md5"]}, "verify_hash has the kind md5, but compute_hash is sha256"),
        ({"input_format": "txt", "bbox_col": "boxes"}, "bbox_col: a txt list has only URLs"),
        ({"encode_format": "png", "encode_quality": -1}, "encode_quality is -1"),
        (
            {"save_additional_columns": ["a", "width"]},
            "save_additional_columns names width, which the dataset",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(options: dict[str, Any], expected: str) -> None:
    assert expected in refusal(**options)


def test_every_problem_is_told_at_once() -> None:
    message = refusal(image_size=0, retries=-1, what="x")
    assert "3 problem(s)" in message
    assert all(name in message for name in ("image_size", "retries", "what"))


def test_a_list_whose_suffix_is_not_the_default_format_is_refused() -> None:
    with pytest.raises(SpecError, match=r"input_format is txt by default, but url_list is 'x\.parquet'"):
        translate({"url_list": "x.parquet"})
    assert translate({"url_list": "x.parquet", "input_format": "txt"}).spec.fetch
    assert translate({"url_list": "urls"}).spec.fetch


def test_options_without_effect_are_noted_and_those_with_one_are_not() -> None:
    assert translate({"url_list": "x.txt", "retries": 3}).notes == ()
    notes = translate({"url_list": "x.txt", "subjob_size": 10, "max_shard_retry": 3}).notes
    assert [note.split()[0] for note in notes] == ["subjob_size", "max_shard_retry"]


def test_a_folder_means_its_files_of_the_format(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert fetch(url_list=f"{folder}/").input.urls == f"{folder}/*.parquet"
    assert fetch(url_list=folder, input_format="csv.gz").input.urls == f"{folder}/*.csv.gz"


def test_values_may_be_given_by_position_as_in_the_peer() -> None:
    assert named(["list.txt", 512, "out"], {"retries": 1}) == {
        "url_list": "list.txt",
        "image_size": 512,
        "output_folder": "out",
        "retries": 1,
    }
    with pytest.raises(SpecError, match="url_list given by position and by name"):
        named(["list.txt"], {"url_list": "other.txt"})


def test_overrides_reach_what_the_peer_has_no_option_for() -> None:
    spec = translate({"url_list": "x.txt"}, ["fetch.http.per_domain=3", "engine.threads=2"]).spec
    assert spec.fetch is not None
    assert (spec.fetch.http.per_domain, spec.engine.threads) == (3, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("1e6", 1e6),
        ("True", True),
        ("None", None),
        ("word", "word"),
        ('"word"', "word"),
        ("'12'", "12"),
        ("[]", []),
        ("[noai, noindex]", ["noai", "noindex"]),
        ('["a","b"]', ["a", "b"]),
        ("(a, 2)", ("a", 2)),
        ("a,b", ("a", "b")),
        ("{a: b}", {"a": "b"}),
        ("-5", -5),
        ("path/to/list.txt", "path/to/list.txt"),
        ("a-b", "a-b"),
        ("s3://bucket/list#1", "s3://bucket/list#1"),
        ("two words", "two words"),
        ("f(x)", "f(x)"),
        ("", ""),
    ],
)
def test_values_are_read_as_fire_reads_them(text: str, value: Any) -> None:
    assert literal(text) == value


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("--image_size=512", {"image_size": 512}),
        ("--image_size 512", {"image_size": 512}),
        ("--image-size 512", {"image_size": 512}),
        ("-image_size=512", {"image_size": 512}),
        ("--skip_reencode", {"skip_reencode": True}),
        ("--skip_reencode --image_size=5", {"skip_reencode": True, "image_size": 5}),
        ("--noextract_exif", {"extract_exif": False}),
        ("-b=boxes", {"bbox_col": "boxes"}),
        ("--url_list='a=b.txt'", {"url_list": "a=b.txt"}),
        ("--encode_quality -1", {"encode_quality": -1}),
    ],
)
def test_flags_are_read_as_fire_reads_them(typed: str, options: dict[str, Any]) -> None:
    assert parse_arguments(shlex.split(typed)).options == options


_WORDS = st.sampled_from(
    [
        *(
            "list.txt",
            "256",
            "-1",
            "1e6",
            "0x10",
            "None",
            "True",
            "false",
            "[]",
            "[a]",
            "[a, b]",
            "a,b",
            "~/x",
        ),
        *("(a, b)", "{a: b}", "two words", "", "a=b", "'quoted'", "s3://b/x?y=z", "1+2", "2024-01-01", "a.b"),
        *("'a", "[a", "b'x'", "nan", "*.txt", "0123", "1.", "[1, [2, a]]", "[a-b]", "日本", "('a')", "f(x)"),
        *("['a', \"b\"]", "True, None"),
    ]
)
_NAMES = st.sampled_from([*Img2DatasetOptions.model_fields, "unknown", "extract-exif", "image-size"])
_TYPED = st.one_of(
    st.tuples(_NAMES, _WORDS).map(lambda both: [f"--{both[0]}={both[1]}"]),
    st.tuples(_NAMES, _WORDS).map(lambda both: [f"--{both[0]}", both[1]]),
    _NAMES.map(lambda name: [f"--{name}"]),
    _NAMES.map(lambda name: [f"-{name}"]),
    _NAMES.map(lambda name: [f"--no{name}"]),
    _NAMES.map(lambda name: [f"-{name[0]}"]),
    _WORDS.map(lambda word: [word]),
)


def _by_fire(typed: list[str]) -> dict[str, Any] | None:
    """Return what Fire calls a function with that has img2dataset's options; None if it refuses."""
    missing = object()
    called: dict[str, Any] = {}
    names = list(Img2DatasetOptions.model_fields)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(names[0], kind)]
    parameters += [inspect.Parameter(name, kind, default=missing) for name in names[1:]]

    def download(*positional: Any, **options: Any) -> None:
        called.update(dict(zip(names, positional, strict=False)) | options)

    download.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        try:
            fire.Fire(download, command=typed, name="img2dataset")
        except fire.core.FireExit:
            return None
    return {name: value for name, value in called.items() if value is not missing}


@given(st.lists(_TYPED, max_size=5).map(lambda parts: [word for part in parts for word in part]))
def test_a_command_line_is_read_as_fire_reads_it(typed: list[str]) -> None:
    expected = _by_fire(typed)
    try:
        read = named_by_fire(parse_arguments(typed))
    except SpecError:
        assert expected is None
        return
    if expected is None:
        assert "url_list" not in read or not Img2DatasetOptions.model_fields.keys() >= read.keys()
    else:
        assert repr(sorted(read.items())) == repr(sorted(expected.items()))


def test_an_ambiguous_letter_is_refused_by_its_meanings() -> None:
    with pytest.raises(SpecError, match="-i matches image_size, input_format"):
        parse_arguments(["-i", "5"])


def test_our_own_flags_are_told_apart() -> None:
    read = parse_arguments(
        shlex.split("list.txt 64 --quiet --set a.b=1 --set=c.d=x --print_spec --retries 2")
    )
    assert read.positional == ["list.txt", 64]
    assert read.overrides == ["a.b=1", "c.d=x"]
    assert (read.quiet, read.print_spec, read.options) == (True, True, {"retries": 2})


def test_help_and_the_docs_tell_every_option() -> None:
    page = (ROOT / "docs" / "coming-from-img2dataset.md").read_text()
    for name in Img2DatasetOptions.model_fields:
        assert f"--{name} (" in help_text()
        assert f"| `{name}` |" in page, name


def _command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "turbo_fetch", "img2dataset", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_first_example_of_the_peers_readme_runs(tmp_path: Path) -> None:
    with Origin(album(3)) as origin:
        (tmp_path / "myimglist.txt").write_text("".join(f"{origin.url(f'{n:05d}.jpg')}\n" for n in range(3)))
        example = "--url_list=myimglist.txt --output_folder=output_folder --thread_count=64 --image_size=256"
        done = _command(*example.split(), "--quiet", "--set", LOOPBACK, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "3 of 3 rows" in done.stdout
    made = sorted(path.name for path in (tmp_path / "output_folder" / "00000").glob("*.jpg"))
    assert made == ["000000000.jpg", "000000001.jpg", "000000002.jpg"]


def test_the_printed_spec_is_one_that_runs_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["list.txt", "64", "out", "--encode_format=webp", "--max_shard_retry", "2"]
    done = _command(*arguments, "--print_spec", folder=tmp_path)
    assert "max_shard_retry has no effect" in done.stderr
    path = tmp_path / "spec.toml"
    path.write_text(done.stdout)
    from turbo_fetch.spec.specfile import dump_spec, load_spec

    expected = {"url_list": "list.txt", "image_size": 64, "output_folder": "out", "encode_format": "webp"}
    monkeypatch.chdir(tmp_path)
    assert dump_spec(load_spec(path)) == dump_spec(translate(expected).spec, root=tmp_path)


def test_bad_usage_is_one_clear_message_and_exit_code_2(tmp_path: Path) -> None:
    done = _command("--url_list=missing.txt", "--imagesize=3", folder=tmp_path)
    assert done.returncode == 2
    assert "imagesize: unknown key; did you mean 'image_size'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert _command(folder=tmp_path).returncode == 2
    assert _command("--help", folder=tmp_path).returncode == 0
    missing = _command("--url_list=missing.txt", "--quiet", folder=tmp_path)
    assert missing.returncode == 2
    assert "missing.txt: there is no such file" in missing.stderr


def test_notes_of_the_function_are_warnings(tmp_path: Path) -> None:
    with Origin(album(1)) as origin:
        (tmp_path / "list.txt").write_text(origin.url("00000.jpg"))
        with pytest.warns(UserWarning, match="subjob_size has no effect"):
            summary = download(
                str(tmp_path / "list.txt"),
                64,
                str(tmp_path / "out"),
                subjob_size=2,
                output_format="webdataset",
                overrides=[LOOPBACK],
            )
    assert (summary.rows, summary.successes) == (1, 1)


def test_options_names_order_and_defaults_are_the_peers() -> None:
    """Checked against the signature in the peer's own source, as its environment has it."""
    from bench.peers import ensure_peer

    folder = ensure_peer(ROOT / ".cache").parent.parent
    (source,) = folder.glob("lib/python*/site-packages/img2dataset/main.py")
    declared = re.search(r"def download\((.*?)\n\):", source.read_text(), re.DOTALL)
    assert declared is not None
    scope: dict[str, Any] = {}
    exec(f"from typing import *\ndef peer({declared[1]}\n): ...", scope)
    parameters = inspect.signature(scope["peer"]).parameters
    ours = list(Img2DatasetOptions.model_fields)
    assert ours == [*parameters, "ignore_ssl_certificate"]
    for name, parameter in parameters.items():
        field = Img2DatasetOptions.model_fields[name]
        assert field.is_required() == (parameter.default is inspect.Parameter.empty)
        assert field.is_required() or field.default == parameter.default, name
