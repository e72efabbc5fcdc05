"""img2dataset's options: its names, order, types and defaults, and what each means in a spec."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator

from turbo_fetch.spec import ResizeMode, Table

Interpolation = Annotated[
    Literal["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]
Flag = Annotated[bool, BeforeValidator(lambda value: False if value is None else value)]
"""None is false in Python, and so in img2dataset."""
Address = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, PurePath) else value)]
HashKind = Literal["md5", "sha256", "sha512"]
PeerInputFormat = Literal[
    "txt",
    "txt.gz",
    "csv",
    "csv.gz",
    "tsv",
    "tsv.gz",
    "json",
    "json.gz",
    "jsonl",
    "jsonl.gz",
    "parquet",
]


class Img2DatasetOptions(Table):
    """The options of `img2dataset.download`, in its order, so that they can be given by position."""

    # Like img2dataset, which has `inf` for no limit, and a command line without types.
    model_config = ConfigDict(coerce_numbers_to_str=True, strict=False, allow_inf_nan=True)

    url_list: Address
    """List: a file or a folder of files: `fetch.input.urls`."""
    image_size: PositiveInt = 256
    """Side in pixels: `fetch.image.size`."""
    output_folder: Address = "images"
    """Where the dataset goes: `fetch.output.path`."""
    processes_count: PositiveInt = 1
    """Worker processes: `engine.workers`."""
    resize_mode: ResizeMode = "border"
    """no, border, keep_ratio, keep_ratio_largest or center_crop: `fetch.image.mode`."""
    resize_only_if_bigger: Flag = False
    """Do not resize smaller images: `fetch.image.only_if_bigger`."""
    upscale_interpolation: Interpolation = "lanczos"
    """nearest, linear, cubic, area or lanczos: `fetch.image.upscale`."""
    downscale_interpolation: Interpolation = "area"
    """The same for downscaling: `fetch.image.downscale`."""
    encode_quality: int = 95
    """Quality; for png the compression, 0 to 9: `fetch.image.quality`."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """Format of the stored images: `fetch.image.encode`."""
    skip_reencode: Flag = False
    """Keep the bytes of images that need no change: `fetch.image.skip_reencode`."""
    output_format: Literal["files", "webdataset", "parquet", "tfrecord", "dummy"] = "files"
    """Format of the dataset: `fetch.output.format`."""
    input_format: PeerInputFormat = "txt"
    """Format of the list: `fetch.input.format`."""
    url_col: str = "url"
    """Column of the URLs: `fetch.input.url_column`."""
    caption_col: str | None = None
    """Column of the captions: `fetch.input.caption_column`."""
    bbox_col: str | None = None
    """Column of boxes to blur: `fetch.input.boxes_column`."""
    thread_count: PositiveInt = 256
    """Requests in flight per process: `fetch.http.concurrency`."""
    number_sample_per_shard: PositiveInt = 10_000
    """Rows per shard: `fetch.output.samples_per_shard`."""
    extract_exif: Flag = True
    """Record EXIF tags: `fetch.image.exif`."""
    save_additional_columns: tuple[str, ...] | None = None
    """Further columns to keep: `fetch.input.keep_columns`."""
    timeout: PositiveFloat = 10
    """Seconds per request: `fetch.http.timeout_s`."""
    enable_wandb: Flag = False
    """Send metrics to Weights & Biases: `track.to`."""
    wandb_project: str = "img2dataset"
    """Weights & Biases project: `track.project`."""
    oom_shard_count: Annotated[int, Field(ge=0, le=18)] = 5
    """Digits of shard numbers: `fetch.output.shard_digits`."""
    compute_hash: HashKind | None = "sha256"
    """Hash of the original bytes: `fetch.image.digest`."""
    verify_hash: tuple[str, HashKind] | None = None
    """Column of expected hashes and their kind: `fetch.input.hash_column`, `hash_kind`."""
    distributor: Literal["multiprocessing", "pyspark", "ray"] = "multiprocessing"
    """Where the work runs: `engine.kind`."""
    subjob_size: PositiveInt = 1000
    """Shards per Spark job: not needed."""
    retries: Annotated[int, Field(ge=0)] = 0
    """Retries after temporary failures: `fetch.http.retries`."""
    disable_all_reencoding: Flag = False
    """Keep the original bytes: `fetch.image.encode = "original"`."""
    min_image_size: Annotated[float, Field(ge=0, lt=float("inf"))] = 0
    """Smallest side: `fetch.image.min_side`."""
    max_image_area: Annotated[float, Field(ge=1)] = float("inf")
    """Largest area: `fetch.image.max_pixels`."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = float("inf")
    """Largest aspect ratio: `fetch.image.max_aspect`."""
    incremental_mode: Literal["incremental", "overwrite", "extend"] = "incremental"
    """What to do with an existing dataset: `fetch.output.if_exists`."""
    max_shard_retry: Annotated[int, Field(ge=0)] = 1
    """Retries of failed shards: not needed."""
    user_agent_token: str | None = None
    """Word by which servers address your crawler: `fetch.http.user_agent`."""
    disallowed_header_directives: tuple[str, ...] | None = None
    """X-Robots-Tag directives that forbid use: `fetch.http.opt_out`."""
    ignore_ssl_certificate: Flag = False
    """Do not verify certificates: `fetch.http.verify_tls`."""

    @field_validator("save_additional_columns", "disallowed_header_directives", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        """On the command line `[a]` is a list, and `a` a user's list of one."""
        return (value,) if isinstance(value, str) else value

    @property
    def has_columns(self) -> bool:
        """Whether the list has columns beside the URL."""
        return not self.input_format.startswith("txt")
