"""img2dataset's options as a spec, by a pure function: `translate`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from turbo_fetch.arrow.schemas import IMG2DATASET_RESULT_COLUMNS
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.img2dataset.options import Img2DatasetOptions
from turbo_fetch.plan.lists import READING, SUFFIXES, readable
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import parse_spec, validated
from turbo_fetch.spec.toml import overridden
from turbo_fetch.storage.filesystems import open_filesystem

_MAX_PIXELS: Final = 10**15
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
    chosen = validated(Img2DatasetOptions, options, "img2dataset")
    if problems := list(_contradictions(chosen)):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SpecError(f"img2dataset: {len(problems)} problem(s)\n{lines}")
    tables = spec_tables(chosen, _urls(chosen))
    return Translation(parse_spec(overridden(tables, overrides), "img2dataset"), tuple(_notes(chosen)))


def spec_tables(chosen: Img2DatasetOptions, urls: str) -> dict[str, Any]:
    """Return the tables of the spec that the options mean, for the list at `urls`: a pure function."""
    return {
        "fetch": {
            "input": _input(chosen, urls),
            "http": _http(chosen),
            "image": _image(chosen),
            "output": _output(chosen),
        },
        "engine": {"kind": _ENGINES[chosen.distributor], **_workers(chosen)},
        "track": {
            "report": False,
            **({"to": ["wandb"], "project": chosen.wandb_project} if chosen.enable_wandb else {}),
        },
    }


def _urls(chosen: Img2DatasetOptions) -> str:
    """Return the list as img2dataset finds it: of a folder, the files whose suffix is the format."""
    if chosen.url_list.startswith(("http://", "https://")):
        return chosen.url_list
    filesystem, path = open_filesystem(chosen.url_list, READING, InputError)
    with readable(chosen.url_list):
        is_folder = filesystem.isdir(path)
    if is_folder:
        return f"{chosen.url_list.rstrip('/')}/*.{chosen.input_format}"
    return chosen.url_list


def _input(chosen: Img2DatasetOptions, urls: str) -> dict[str, Any]:
    where = {"urls": urls, "format": chosen.input_format.removesuffix(".gz")}
    if not chosen.has_columns:
        return where
    # img2dataset keeps the boxes as the last of the kept columns.
    boxes = [] if chosen.bbox_col is None else [chosen.bbox_col]
    return {
        **where,
        "url_column": chosen.url_col,
        **({} if chosen.caption_col is None else {"caption_column": chosen.caption_col}),
        "keep_columns": [*(chosen.save_additional_columns or ()), *boxes],
        **({} if chosen.bbox_col is None else {"boxes_column": chosen.bbox_col}),
        **_verification(chosen),
    }


def _verification(chosen: Img2DatasetOptions) -> dict[str, str]:
    if chosen.verify_hash is None:
        return {}
    column, kind = chosen.verify_hash
    return {"hash_column": column, "hash_kind": kind}


def _http(chosen: Img2DatasetOptions) -> dict[str, Any]:
    opt_out = chosen.disallowed_header_directives
    return {
        "concurrency": chosen.thread_count,
        "timeout_s": chosen.timeout,
        "connect_timeout_s": chosen.timeout,
        "stall_timeout_s": chosen.timeout,
        "retries": chosen.retries,
        "verify_tls": not chosen.ignore_ssl_certificate,
        "proxy": "environment",
        # What the peer has no option for is off, so that the same list gives the same rows; `--set` turns it on.
        "robots": "ignore",
        "content_usage": [],
        "tdm": "ignore",
        "ports": "any",
        **({} if opt_out is None else {"opt_out": [directive.strip().lower() for directive in opt_out]}),
        **({"user_agent": _user_agent(token)} if (token := _token(chosen)) else {}),
    }


def _token(chosen: Img2DatasetOptions) -> str:
    """Return the word by which servers address us: what the user gave, without what none can have."""
    return _NO_TOKEN.sub("-", chosen.user_agent_token or "").strip("-")


def _user_agent(token: str) -> str:
    # The product token, by which X-Robots-Tag may address us, stands first.
    return f"{token} (compatible; turbo-fetch/{{version}})"


def _image(chosen: Img2DatasetOptions) -> dict[str, Any]:
    limits = {
        "min_side": math.ceil(chosen.min_image_size),
        "max_aspect": 0 if chosen.max_aspect_ratio == float("inf") else chosen.max_aspect_ratio,
        **({"max_pixels": int(chosen.max_image_area)} if chosen.max_image_area < _MAX_PIXELS else {}),
    }
    facts = {"digest": chosen.compute_hash or "none", "exif": chosen.extract_exif}
    if chosen.disable_all_reencoding:
        return {"mode": "no", "encode": "original", **limits, **facts}
    return {
        "size": chosen.image_size,
        "mode": chosen.resize_mode,
        "only_if_bigger": chosen.resize_only_if_bigger,
        "downscale": _filter(chosen.downscale_interpolation),
        "upscale": _filter(chosen.upscale_interpolation),
        "encode": chosen.encode_format,
        "skip_reencode": chosen.skip_reencode,
        **_quality(chosen),
        **limits,
        **facts,
    }


def _filter(interpolation: str) -> str:
    return _FILTERS.get(interpolation, interpolation)


def _quality(chosen: Img2DatasetOptions) -> dict[str, int]:
    """OpenCV takes 0 for 1 and, for webp, anything above 100 for lossless, which is 100 here."""
    if chosen.encode_format == "png":
        return {"quality": chosen.encode_quality} if "encode_quality" in chosen.model_fields_set else {}
    return {"quality": min(100, max(1, chosen.encode_quality))}


def _output(chosen: Img2DatasetOptions) -> dict[str, Any]:
    return {
        "path": chosen.output_folder,
        "format": "parquet_bytes" if chosen.output_format == "parquet" else chosen.output_format,
        "samples_per_shard": chosen.number_sample_per_shard,
        "shard_digits": max(1, chosen.oom_shard_count),
        "messages": "img2dataset",
        "extras": False,
        "if_exists": _POLICIES[chosen.incremental_mode],
    }


def _workers(chosen: Img2DatasetOptions) -> dict[str, int]:
    """On a cluster img2dataset's processes are the cluster's affair, and `auto` is one worker per machine or more."""
    return {"workers": chosen.processes_count} if chosen.distributor == "multiprocessing" else {}


def _contradictions(chosen: Img2DatasetOptions) -> list[str]:
    """Return what the options ask for that cannot be, or would silently not happen in img2dataset."""
    problems = []
    if chosen.verify_hash is not None and chosen.verify_hash[1] != chosen.compute_hash:
        problems.append(
            f"verify_hash has the kind {chosen.verify_hash[1]}, but compute_hash is {chosen.compute_hash}; expected one"
        )
    if not chosen.has_columns and chosen.bbox_col is not None:
        problems.append(f"bbox_col: a {chosen.input_format} list has only URLs, so nothing would be blurred")
    if taken := sorted(_RESERVED.intersection(chosen.save_additional_columns or ())):
        problems.append(
            f"save_additional_columns names {', '.join(taken)}, which the dataset has itself; rename them in the list"
        )
    suffix = PurePosixPath(chosen.url_list.partition("?")[0].removesuffix(".gz")).suffix.removeprefix(".")
    if "input_format" not in chosen.model_fields_set and SUFFIXES.get(suffix, "txt") != "txt":
        problems.append(
            f"input_format is txt by default, but url_list is {chosen.url_list!r}; expected {suffix!r}"
        )
    is_given = "encode_quality" in chosen.model_fields_set
    if chosen.encode_format == "png" and is_given and not 0 <= chosen.encode_quality <= 9:
        problems.append(
            f"encode_quality is {chosen.encode_quality}, but for png it is the compression, 0 to 9"
        )
    return problems


def _notes(chosen: Img2DatasetOptions) -> list[str]:
    """Return what of the options has no effect here, and why."""
    given, notes = chosen.model_fields_set, []
    if "subjob_size" in given:
        notes.append("subjob_size has no effect: shards go to workers one by one")
    if "max_shard_retry" in given:
        notes.append("max_shard_retry has no effect: a new worker resumes the shard until it is complete")
    if not chosen.has_columns:
        ignored = [name for name in _OF_COLUMNS if getattr(chosen, name)]
        notes += [f"{name} has no effect: a {chosen.input_format} list has only URLs" for name in ignored]
    if chosen.user_agent_token and (token := _token(chosen)) != chosen.user_agent_token.strip():
        notes.append(
            f"user_agent_token is sent as {token!r}: servers address a crawler by one word without spaces or slashes"
            if token
            else f"user_agent_token is {chosen.user_agent_token!r}, which cannot be sent; expected a word"
        )
    if chosen.disable_all_reencoding:
        useless = sorted(given & {"skip_reencode", "encode_format", "encode_quality"})
        notes += [f"{name} has no effect with disable_all_reencoding" for name in useless]
    return notes
