"""The drop-in: img2dataset's `download`, with its options, done by turbo-fetch.

    from turbo_fetch.img2dataset.translation import download

    download(url_list="list.parquet", input_format="parquet", caption_col="TEXT", output_format="webdataset")

Options become a spec by a pure function, `translate`; what then runs is what `turbo-fetch run` runs. Where the two
tools differ on purpose, docs/coming-from-img2dataset.md says so.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from turbo_fetch.arrow.schemas import IMG2DATASET_RESULT_COLUMNS
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.img2dataset.options import Img2DatasetOptions
from turbo_fetch.plan.lists import READING, SUFFIXES, readable
from turbo_fetch.progress.summary import Summary
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import overridden, parse_spec, validated
from turbo_fetch.storage.filesystems import open_filesystem

_MAX_PIXELS: Final = 2**62
_RESERVED: Final = {"caption", "url", "exif", "md5", "sha256", "sha512"} | {
    field.name for field in IMG2DATASET_RESULT_COLUMNS
}
_NO_TOKEN: Final = re.compile(r"[^A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FILTERS: Final = {"bilinear": "linear", "bicubic": "cubic", "lanczos4": "lanczos"}
_OF_COLUMNS: Final = ("caption_col", "save_additional_columns", "verify_hash")
_POLICIES: Final = {"incremental": "resume", "extend": "extend", "overwrite": "overwrite"}
_ENGINES: Final = {"multiprocessing": "local", "pyspark": "spark", "ray": "ray"}


class Translation(NamedTuple):
    """What options of img2dataset mean here: a spec, and what a user should know about it."""

    spec: Spec
    notes: tuple[str, ...]


def download(*positional: Any, overrides: Sequence[str] = (), **options: Any) -> Summary:
    """Do what `img2dataset.download` does with these options; return the account of the dataset.

    `overrides` are keys of the spec, such as `fetch.http.per_domain=0`, for what img2dataset has no option for.
    Raises SpecError for options that are unknown, wrong or not to be had together, else as `turbo_fetch.run`.
    """
    from turbo_fetch import stages

    translation = translate(named(positional, options), overrides)
    for note in translation.notes:
        warnings.warn(note, stacklevel=2)
    return stages.run(translation.spec).fetch


def named(positional: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name, the positional ones by img2dataset's order. Raises SpecError for a clash."""
    names = list(Img2DatasetOptions.model_fields)
    if len(positional) > len(names):
        raise SpecError(f"img2dataset: {len(positional)} positional values; expected at most {len(names)}")
    by_position = dict(zip(names, positional, strict=False))
    if twice := sorted(by_position.keys() & options.keys()):
        raise SpecError(f"img2dataset: {', '.join(twice)} given by position and by name; expected it once")
    return {**by_position, **options}


def translate(options: Mapping[str, Any], overrides: Sequence[str] = ()) -> Translation:
    """Return what the options mean; reads nothing but whether `url_list` is a folder.

    Raises SpecError that lists every option that is unknown, wrong, or not to be had with the others.
    """
    peer = validated(Img2DatasetOptions, options, "img2dataset")
    if problems := list(_contradictions(peer)):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SpecError(f"img2dataset: {len(problems)} problem(s)\n{lines}")
    tables = spec_tables(peer, _urls(peer))
    return Translation(parse_spec(overridden(tables, overrides), "img2dataset"), tuple(_notes(peer)))


def spec_tables(peer: Img2DatasetOptions, urls: str) -> dict[str, Any]:
    """Return the tables of the spec that the options mean, for the list at `urls`: a pure function."""
    return {
        "fetch": {
            "input": _input(peer, urls),
            "http": _http(peer),
            "image": _image(peer),
            "output": _output(peer),
        },
        "engine": {"kind": _ENGINES[peer.distributor], **_workers(peer)},
        "track": {
            "report": False,
            **({"to": ["wandb"], "project": peer.wandb_project} if peer.enable_wandb else {}),
        },
    }


def _urls(peer: Img2DatasetOptions) -> str:
    """Return the list as img2dataset finds it: of a folder, the files whose suffix is the format."""
    if peer.url_list.startswith(("http://", "https://")):
        return peer.url_list
    filesystem, path = open_filesystem(peer.url_list, READING, InputError)
    with readable(peer.url_list):
        is_folder = filesystem.isdir(path)
    if is_folder:
        return f"{peer.url_list.rstrip('/')}/*.{peer.input_format}"
    return peer.url_list


def _input(peer: Img2DatasetOptions, urls: str) -> dict[str, Any]:
    where = {"urls": urls, "format": peer.input_format.removesuffix(".gz")}
    if not peer.has_columns:
        return where
    # img2dataset keeps the boxes as the last of the kept columns.
    boxes = [] if peer.bbox_col is None else [peer.bbox_col]
    return {
        **where,
        "url_column": peer.url_col,
        **({} if peer.caption_col is None else {"caption_column": peer.caption_col}),
        "keep_columns": [*(peer.save_additional_columns or ()), *boxes],
        **({} if peer.bbox_col is None else {"boxes_column": peer.bbox_col}),
        **_verification(peer),
    }


def _verification(peer: Img2DatasetOptions) -> dict[str, str]:
    if peer.verify_hash is None:
        return {}
    column, kind = peer.verify_hash
    return {"hash_column": column, "hash_kind": kind}


def _http(peer: Img2DatasetOptions) -> dict[str, Any]:
    opt_out = peer.disallowed_header_directives
    return {
        "concurrency": peer.thread_count,
        "timeout_s": peer.timeout,
        "connect_timeout_s": peer.timeout,
        "stall_timeout_s": peer.timeout,
        "retries": peer.retries,
        "verify_tls": not peer.ignore_ssl_certificate,
        "proxy": "environment",
        # What the peer has no option for is off, so that the same list gives the same rows; `--set` turns it on.
        "robots": "ignore",
        "content_usage": [],
        "tdm": "ignore",
        "ports": "any",
        **({} if opt_out is None else {"opt_out": [directive.strip().lower() for directive in opt_out]}),
        **({"user_agent": _user_agent(token)} if (token := _token(peer)) else {}),
    }


def _token(peer: Img2DatasetOptions) -> str:
    """Return the word by which servers address us: what the user gave, without what none can have."""
    return _NO_TOKEN.sub("-", peer.user_agent_token or "").strip("-")


def _user_agent(token: str) -> str:
    # The product token, by which X-Robots-Tag may address us, stands first.
    return f"{token} (compatible; turbo-fetch/{{version}})"


def _image(peer: Img2DatasetOptions) -> dict[str, Any]:
    limits = {
        "min_side": math.ceil(peer.min_image_size),
        "max_aspect": 0 if peer.max_aspect_ratio == float("inf") else peer.max_aspect_ratio,
        **({"max_pixels": int(peer.max_image_area)} if peer.max_image_area < _MAX_PIXELS else {}),
    }
    facts = {"digest": peer.compute_hash or "none", "exif": peer.extract_exif}
    if peer.disable_all_reencoding:
        return {"mode": "no", "encode": "original", **limits, **facts}
    return {
        "size": peer.image_size,
        "mode": peer.resize_mode,
        "only_if_bigger": peer.resize_only_if_bigger,
        "downscale": _filter(peer.downscale_interpolation),
        "upscale": _filter(peer.upscale_interpolation),
        "encode": peer.encode_format,
        "skip_reencode": peer.skip_reencode,
        **_quality(peer),
        **limits,
        **facts,
    }


def _filter(interpolation: str) -> str:
    return _FILTERS.get(interpolation, interpolation)


def _quality(peer: Img2DatasetOptions) -> dict[str, int]:
    """OpenCV takes 0 for 1 and, for webp, anything above 100 for lossless, which is 100 here."""
    if peer.encode_format == "png":
        return {"quality": peer.encode_quality} if "encode_quality" in peer.model_fields_set else {}
    return {"quality": min(100, max(1, peer.encode_quality))}


def _output(peer: Img2DatasetOptions) -> dict[str, Any]:
    return {
        "path": peer.output_folder,
        "format": "parquet_bytes" if peer.output_format == "parquet" else peer.output_format,
        "samples_per_shard": peer.number_sample_per_shard,
        "shard_digits": max(1, peer.oom_shard_count),
        "messages": "img2dataset",
        "extras": False,
        "if_exists": _POLICIES[peer.incremental_mode],
    }


def _workers(peer: Img2DatasetOptions) -> dict[str, int]:
    """On a cluster img2dataset's processes are the cluster's affair, and `auto` is one worker per machine or more."""
    return {"workers": peer.processes_count} if peer.distributor == "multiprocessing" else {}


def _contradictions(peer: Img2DatasetOptions) -> list[str]:
    """Return what the options ask for that cannot be, or would silently not happen in img2dataset."""
    problems = []
    if peer.verify_hash is not None and peer.verify_hash[1] != peer.compute_hash:
        problems.append(
            f"verify_hash has the kind {peer.verify_hash[1]}, but compute_hash is {peer.compute_hash}; expected one"
        )
    if not peer.has_columns and peer.bbox_col is not None:
        problems.append(
            f"bbox_col: a {peer.input_format} list has nothing but URLs, so nothing would be blurred"
        )
    if taken := sorted(_RESERVED.intersection(peer.save_additional_columns or ())):
        problems.append(
            f"save_additional_columns names {', '.join(taken)}, which the dataset has itself; rename it in the list"
        )
    suffix = PurePosixPath(peer.url_list.partition("?")[0].removesuffix(".gz")).suffix.removeprefix(".")
    if "input_format" not in peer.model_fields_set and SUFFIXES.get(suffix, "txt") != "txt":
        problems.append(
            f"input_format is txt by default, but url_list is {peer.url_list!r}; expected {suffix!r}"
        )
    is_given = "encode_quality" in peer.model_fields_set
    if peer.encode_format == "png" and is_given and not 0 <= peer.encode_quality <= 9:
        problems.append(f"encode_quality is {peer.encode_quality}, but for png it is the compression, 0 to 9")
    return problems


def _notes(peer: Img2DatasetOptions) -> list[str]:
    """Return what of the options has no effect here, and why."""
    given, notes = peer.model_fields_set, []
    if "subjob_size" in given:
        notes.append("subjob_size has no effect: shards go to workers one by one, so there are no subjobs")
    if "max_shard_retry" in given:
        notes.append("max_shard_retry has no effect: a shard goes on in a new worker until it is complete")
    if not peer.has_columns:
        ignored = [name for name in _OF_COLUMNS if getattr(peer, name)]
        notes += [
            f"{name} has no effect: a {peer.input_format} list has nothing but URLs" for name in ignored
        ]
    if peer.user_agent_token and (token := _token(peer)) != peer.user_agent_token.strip():
        notes.append(
            f"user_agent_token is sent as {token!r}: servers address a robot by one word without spaces or slashes"
            if token
            else f"user_agent_token is {peer.user_agent_token!r}, of which nothing can be sent"
        )
    if peer.disable_all_reencoding:
        useless = sorted(given & {"skip_reencode", "encode_format", "encode_quality"})
        notes += [f"{name} has no effect beside disable_all_reencoding" for name in useless]
    return notes
