"""`[fetch]`: from a URL list to a dataset."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from turbo_fetch.spec.bounds import MOST_ROWS_PER_SHARD
from turbo_fetch.spec.formats import OutputFormat
from turbo_fetch.spec.numbers import Concurrency, Count, Megabits, Megabytes, Seconds, Seed, WholeMegabytes
from turbo_fetch.spec.score import ScoreSpec
from turbo_fetch.spec.sources import SourcesSpec, WarcSpec
from turbo_fetch.spec.table import Location, Table

InputFormat = Literal["auto", "txt", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "images"]
Order = Literal["position", "spread"]
Quoting = Literal["auto", "standard", "none"]
ColumnType = Literal["string", "int64", "double", "bool", "date", "timestamp"]
ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop", "stretch"]
Filter = Literal["nearest", "linear", "cubic", "area", "lanczos"]
Encoding = Literal["jpg", "png", "webp", "original"]
Digest = Literal["none", "md5", "sha256", "sha512"]
HashKind = Literal["md5", "sha256", "sha512"]
DuplicateKey = Literal["url", "hash", "phash", "embedding"]
BoxesUse = Literal["blur", "crop_largest", "crop_first"]
Messages = Literal["turbo-fetch", "img2dataset"]
IfExists = Literal["resume", "extend", "overwrite", "error"]

_PROXY = re.compile(r"environment|(https?|socks4a?|socks5h?)://[^/?#\s]+/?")

Side = Annotated[int, Field(gt=0, le=65_535)]


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ValueError(f"{name!r} is not a valid header name")
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError(f"{name} contains a control character")
        if re.search(r"\$\{\w+\}", value):
            raise ValueError(
                f"{name} refers to an environment variable, which only the command line fills in"
            )
    return headers


def _one_line(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("contains a control character; expected the text of a header")
    return text


class InputSpec(Table):
    """`[fetch.input]`: the list of image URLs."""

    urls: Location | Annotated[tuple[Location, ...], Field(min_length=1)]
    """File, folder or glob of the list, on disk or at any fsspec URL (`s3://`, `gs://`, `https://` …); or several of
    them, read one after the other."""
    format: InputFormat = "auto"
    """Format of the list; `auto` infers it from the suffix. Text formats may also end in .gz .bz2 .xz .zst. `images`:
    the list is a folder of images, as `auto` takes one that has images and no list."""
    column_names: tuple[str, ...] = ()
    """Names of the columns of csv and tsv files that have no header; by default their first line has the names."""
    separator: str | None = None
    """Character between the fields of csv and tsv files; by default a comma and a tab. A line `sep=;` at the beginning
    of a file, as Excel writes it, says it too."""
    url_column: str = "url"
    """Column that holds the URL; `txt` lists have only one."""
    image_column: str | None = None
    """Parquet and Arrow: column that holds the images themselves, as bytes or as Hugging Face's struct of `bytes` and
    `path`. Nothing is requested then. The column `url` may be missing; rows are then named by file and number."""
    warc: WarcSpec | None = None
    """Where the rows are in WARC files; by default each is requested from its URL."""
    caption_column: str | None = None
    """Column that holds the caption, named `caption` in the output."""
    keep_columns: tuple[str, ...] | dict[str, str] = ()
    """Further columns to copy into the dataset, of any Arrow type; or a table that renames them, such as
    `{ width = "list_width" }`, where the dataset has a column of that name itself."""
    column_types: dict[str, ColumnType] = Field(default_factory=dict)
    """Types of kept columns, by their names in the list; inferred from the values by default. Values that do not fit
    become null and are counted."""
    quoting: Quoting = "auto"
    """Meaning of quotes in csv and tsv. `auto`: they enclose fields; a quote that is not closed, or that encloses
    whole rows, is text. `standard`: like `auto`, whatever they enclose. `none`: always text, as in raw TSV dumps."""
    strict: bool = False
    """Whether malformed rows in the list fail the run: quotes taken as text, too few or too many fields, text that is
    not UTF-8, values that do not fit the type of their column."""
    hash_column: str | None = None
    """Column of hashes, in hex, that the downloaded bytes must have; other bytes, and rows without a usable hash, end
    as hash-mismatch. The output has the hash in a column named after its kind."""
    hash_kind: HashKind = "sha256"
    """Kind of the hashes in `hash_column`."""
    on_hash_mismatch: Literal["drop", "keep"] = "drop"
    """`drop`: no image. `keep`: the image is kept, and the ledger's `detail` says that its hash differs."""
    boxes_column: str | None = None
    """Column of boxes: lists of `[left, top, right, bottom]`, relative to the sides of the upright image, 0 to 1. Null
    or an empty list: no boxes."""
    boxes_use: BoxesUse = "blur"
    """`blur` all boxes; or crop the image to one of them before it is resized, the largest by area or the first of the
    row. Rows without a box then end as `bad-boxes`."""
    where: str | None = None
    """Which rows to take: a condition on columns of the list, such as `similarity > 0.3 and width >= 256`. Rows where
    it is false or null are left out."""
    sample: float = Field(default=1.0, gt=0, le=1)
    """Share of the rows to take, drawn at random by `seed`."""
    rows: Count | None = None
    """Most rows to take, the first of those that `where` and `sample` let through."""
    order: Order = "position"
    """`position`: shards follow the list. `spread`: hosts are interleaved, so that none gets a burst of requests."""
    seed: Seed = 0
    """Seed of `sample` and of the `spread` order; the same list and seed give the same shards."""

    @property
    def kept(self) -> dict[str, str]:
        """The kept columns, and their names in the dataset."""
        keep = self.keep_columns
        return keep if isinstance(keep, dict) else {name: name for name in keep}

    @model_validator(mode="after")
    def _kept_columns_are_distinct(self) -> InputSpec:
        names = list(self.kept.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"keep_columns gives the name {twice[0]!r} to several columns; expected distinct names"
            )
        if stray := sorted(self.column_types.keys() - self.kept.keys()):
            raise ValueError(
                f"column_types names {stray[0]!r}, which is not in keep_columns; expected a kept column"
            )
        return self

    @model_validator(mode="after")
    def _column_names_can_be_read(self) -> InputSpec:
        names = self.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"column_names has {twice[0]!r} more than once; expected distinct names")
        unfit = rf'[\x00-\x1f",{re.escape(self.separator or ",")}]'
        if odd := [name for name in names if not name or re.search(unfit, name)]:
            raise ValueError(
                f"column_names has {odd[0]!r}; expected names without quotes, commas, separators and control characters"
            )
        if names and self.format not in {"auto", "csv", "tsv"}:
            raise ValueError(
                f"column_names is set, but only csv and tsv have headers, and format is {self.format!r}"
            )
        return self

    @model_validator(mode="after")
    def _separator_is_a_character(self) -> InputSpec:
        if self.separator is None:
            return self
        if (
            not re.fullmatch(r"[\t -~]", self.separator)
            or self.separator in {'"', " "}
            or self.separator.isalnum()
        ):
            raise ValueError(f"separator is {self.separator!r}; expected one character, such as ';'")
        if self.format not in {"auto", "csv", "tsv"}:
            raise ValueError(
                f"separator is set, but only csv and tsv have separators, and format is {self.format!r}"
            )
        return self

    @model_validator(mode="after")
    def _bytes_come_from_one_place(self) -> InputSpec:
        if self.image_column is None:
            return self
        if self.warc is not None:
            raise ValueError("image_column and warc are both set; expected one of them")
        if self.order == "spread":
            raise ValueError(
                'order is "spread", but image_column asks no hosts; expected order = "position", by which files are '
                "read from front to back"
            )
        return self

    @property
    def crops(self) -> bool:
        """Whether images are cropped to a box."""
        return self.boxes_use != "blur"

    @model_validator(mode="after")
    def _boxes_have_a_column(self) -> InputSpec:
        if self.crops and self.boxes_column is None:
            raise ValueError(
                f"boxes_use is {self.boxes_use!r}, but boxes_column is not set; expected the column of boxes"
            )
        return self

    @model_validator(mode="after")
    def _hash_options_have_a_column(self) -> InputSpec:
        defaults = {"hash_kind": "sha256", "on_hash_mismatch": "drop"}
        stray = [name for name, default in defaults.items() if getattr(self, name) != default]
        if self.hash_column is None and stray:
            raise ValueError(f"{stray[0]} is set, but hash_column is not; expected the column of hashes")
        return self


class DenySpec(Table):
    """`[fetch.deny]`: what must not be in the dataset. Lists in any format of `input.urls`: txt, csv, parquet …"""

    urls: tuple[Location, ...] = ()
    """Lists of URLs, in a column `url`; they are not requested, and images from redirects to them are
    dropped."""
    domains: tuple[Location, ...] = ()
    """Lists of domains, in a column `domain`; each includes all its subdomains."""
    hashes: tuple[Location, ...] = ()
    """Lists of hashes of original files, in a column `hash`: md5, sha256 or sha512 in hex, recognised by length."""


class DuplicatesSpec(Table):
    """`[fetch.duplicates]`: rows that repeat an earlier row."""

    by: tuple[DuplicateKey, ...] = ()
    """`url`: the same URL, path, object or `data:` URL after normalisation, which is requested once. `hash`: the same
    original bytes. `phash`: nearly the same image. `embedding`: images that a model finds alike. The first row of the
    list stays, whatever arrives first."""
    max_distance: int = Field(default=4, ge=0, le=16)
    """Most bits, out of 64, in which perceptual hashes of the same image may differ."""
    embedding_column: str | None = None
    """Column of `fetch.score.columns` with the embeddings, lists of a fixed length."""
    min_similarity: float = Field(default=0.95, gt=0, le=1)
    """Least cosine similarity of the embeddings of images that are the same."""
    captions: Literal["first", "all"] = "first"
    """With `url`. `all`: samples have a column `captions`, a list of the captions of all rows of the list with their
    URL, their own first and each once. `first`: they have their own alone."""
    against: tuple[Location, ...] = ()
    """Other datasets, folders or fsspec URLs, whose rows take precedence over those of this one."""

    @model_validator(mode="after")
    def _options_have_a_use(self) -> DuplicatesSpec:
        if self.captions == "all" and "url" not in self.by:
            raise ValueError('captions is "all", but by does not name "url"; expected by = ["url"]')
        if self.against and not self.by:
            raise ValueError("against is set, but by is empty; expected url, hash, phash or embedding in by")
        if self.max_distance != 4 and "phash" not in self.by:
            raise ValueError('max_distance is set, but by does not name "phash", the only key with distances')
        if ("embedding" in self.by) != (self.embedding_column is not None):
            raise ValueError('expected "embedding" in by and embedding_column together, or none of them')
        if self.min_similarity != 0.95 and "embedding" not in self.by:
            raise ValueError('min_similarity is set, but by does not name "embedding", whose it is')
        return self

    @property
    def by_content(self) -> tuple[DuplicateKey, ...]:
        """The keys that are known only when all rows are there."""
        return tuple(key for key in self.by if key != "url")


HeaderValues = Annotated[dict[str, str], AfterValidator(_sendable)]


class DomainSpec(Table):
    """`[fetch.http.domains."example.org"]`: settings for one registrable domain and its hosts."""

    concurrency: Concurrency | None = None
    """Most requests in flight, for all workers together; overrides `fetch.http.per_domain`."""
    delay_s: float | None = Field(default=None, ge=0, le=3600)
    """Seconds from the start of one request to the start of the next; overrides Crawl-delay."""
    headers: HeaderValues = Field(default_factory=dict)
    """Request headers for this domain alone, also where redirects lead to it; secret ones not where those of other
    domains do."""


# Constructed, since to validate it would build a validator in every process.
_NO_PRESET = DomainSpec.model_construct()


class HttpSpec(Table):
    """`[fetch.http]`: how requests are made."""

    concurrency: Concurrency = 256
    """Requests in flight per worker process."""
    per_domain: int = Field(default=8, ge=0, le=100_000)
    """Most requests in flight per registrable domain, for all workers together; 0 means no limit. Lowered while a
    server responds slowly or refuses requests."""
    timeout_s: Seconds = 10
    """Timeout of a whole request in seconds, from its start to its last byte, redirects included."""
    connect_timeout_s: Seconds = 5
    """Timeout of a connection in seconds, name resolution and TLS included."""
    stall_timeout_s: Seconds = 10
    """Longest pause between two chunks of a response, in seconds."""
    retries: int = Field(default=2, ge=0, le=100)
    """Retries after a temporary failure: timeouts, resets, 429, 5xx, DNS errors."""
    backoff_s: Seconds = 0.5
    """Seconds before the first retry; doubles each time, with jitter, unless Retry-After says otherwise."""
    max_backoff_s: Seconds = 30
    """Most seconds before a retry; rows of a server that asks for more end as `rate-limited`."""
    network_patience_s: Seconds = 3600
    """Longest outage of the network or the resolver of this side, in seconds, that a run waits for; then it stops, and
    the same command resumes it. No row ends and no attempt counts meanwhile."""
    max_redirects: int = Field(default=5, ge=0, le=20)
    """Redirects to follow before giving up."""
    max_body_mb: Megabytes = 50
    """Largest body in megabytes (10^6 bytes); larger ones are cut off and counted as too-large."""
    memory_mb: WholeMegabytes = 64
    """Megabytes of bodies in memory at once, per worker; downloads wait when the limit is reached. The images made of
    them take up to four times as much; a larger one is made alone."""
    max_mbps: Megabits | None = None
    """Most megabits (10^6 bits) of bodies to download per second, for all workers together, each an even share; by
    default there is no limit. Few requests are in flight then, so that what arrives is even."""
    user_agent: Annotated[str, AfterValidator(_one_line)] = (
        "turbo-fetch/{version} (dataset builder; contact unset)"
    )
    """User-Agent header; `{version}` is filled in. Say who you are and how to reach you."""
    robots: Literal["respect", "ignore"] = "respect"
    """`respect`: obey each host's robots.txt (RFC 9309), requested once; `ignore`: do not request it."""
    opt_out: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """X-Robots-Tag directives that forbid use; `[]` ignores the header."""
    content_usage: tuple[str, ...] = ("train-ai",)
    """Uses that a `Content-Usage` header or rule of robots.txt may forbid (IETF AIPREF); `[]` ignores both."""
    tdm: Literal["respect", "headers", "ignore"] = "headers"
    """TDM reservations: `headers` obeys the response header; `respect` also requests
    /.well-known/tdmrep.json once per host."""
    allow_private_addresses: bool = False
    """Whether to connect to loopback, private, link-local and other special addresses."""
    ports: Literal["web", "any"] | tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = "web"
    """`web`: all ports except those of other protocols, as in browsers; `any`; or a list of allowed ports."""
    proxy: str | None = None
    """Proxy for all requests: `http://host:port`, or with https, socks4, socks4a, socks5 or socks5h, with
    `user:password@` before the host if needed. `environment`: the proxies in HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and
    NO_PROXY where the run is started. By default no proxy is used."""
    verify_tls: bool = True
    """Whether to verify certificates."""
    ca_file: Location | None = None
    """PEM file of additional certificate authorities to trust."""
    headers: HeaderValues = Field(default_factory=dict)
    """Additional request headers, sent to every host of the list; secret ones do not follow redirects to other hosts.
    `${NAME}` is replaced by the environment variable NAME."""
    secret_headers: tuple[str, ...] = ()
    """Additional names of secret request headers. `Authorization`, `Cookie`, others whose name says so, and headers
    filled in from the environment are always secret."""
    domains: dict[str, DomainSpec] = Field(default_factory=dict)
    """Settings for single registrable domains."""

    @model_validator(mode="after")
    def _addresses_are_usable(self) -> HttpSpec:
        if self.proxy is not None and not _PROXY.fullmatch(self.proxy):
            raise ValueError(
                'proxy: expected "environment", or http://host:port, or the same with https, socks4, socks4a, socks5 '
                "or socks5h"
            )
        for domain in self.domains:
            if not re.fullmatch(r"[a-z0-9.:\[\]_-]+", domain):
                raise ValueError(
                    f"domains: {domain!r} is not a domain; expected one such as example.org, in lower case"
                )
        return self

    @property
    def max_bytes_per_s(self) -> float | None:
        """Most bytes of bodies per second, None for no limit."""
        return None if self.max_mbps is None else self.max_mbps * 125_000

    def preset(self, domain: str) -> DomainSpec:
        """Return the preset of a registrable domain, an empty one if it has none."""
        return self.domains.get(domain, _NO_PRESET)

    def limit_of(self, preset: DomainSpec) -> int:
        """Return the most requests that may be in flight to a domain with a preset, 0 for no limit."""
        return preset.concurrency or self.per_domain

    @property
    def has_contact(self) -> bool:
        """Whether the User-Agent says how to reach who runs this: a URL or a mail address."""
        return (
            "contact unset" not in self.user_agent and re.search(r"\w@\w|://\w", self.user_agent) is not None
        )


CONSENT_SIGNALS: Final[Mapping[str, str]] = {
    "robots": "robots.txt (RFC 9309)",
    "opt_out": "X-Robots-Tag headers",
    "content_usage": "Content-Usage in headers and robots.txt (IETF AIPREF)",
    "tdm": "TDM reservations (TDMRep)",
}
"""Keys of `[fetch.http]` that say whether a signal against the use of images is respected, and what the signal is."""


_QUALITY: Final = 95


def _box(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


class ImageSpec(Table):
    """`[fetch.image]`: how each image is processed."""

    size: Side | tuple[Side, Side] = 256
    """Target side in pixels, or `[width, height]`."""
    more_sizes: tuple[Side | tuple[Side, Side], ...] = Field(default=(), exclude_if=operator.not_)
    """Further sizes: each sample has an image in every one of them too, made of the same decoded pixels. That of 128
    pixels is `key.128.jpg` beside `key.jpg`, in columns `image_128` or `jpg_128`, with `width_128` and `height_128`."""
    mode: ResizeMode = "center_crop"
    """`no`: keep the size; `border`: fit inside and pad white; `keep_ratio`: smaller side = size;
    `keep_ratio_largest`: larger side = size; `center_crop`: fill and crop; `stretch`: ignore the aspect ratio."""
    only_if_bigger: bool = False
    """Do not resize images that are not larger than the target (border and keep_ratio_largest compare the larger
    side, the others the smaller one)."""
    downscale: Filter = "lanczos"
    """Filter for downscaling; all but `nearest` are antialiased."""
    upscale: Filter = "lanczos"
    """Filter for upscaling."""
    encode: Encoding = "jpg"
    """Format of the stored images; `original` keeps the downloaded bytes and only checks them."""
    quality: int = Field(default=_QUALITY, ge=0, le=100)
    """JPEG and WebP: quality 1 to 100 (WebP 100 is lossless). PNG: compression level 0 to 9, 6 unless set."""
    skip_reencode: bool = False
    """Keep the original bytes where the image needs no change and already has the format of `encode`."""
    min_side: int = Field(default=0, ge=0, lt=1 << 31)
    """Smallest allowed side of the original in pixels, and of what `input.boxes_use` crops it to; 0 means no limit."""
    max_pixels: Count = 100_000_000
    """Largest allowed area of the original in pixels, checked in the header before decoding."""
    max_aspect: float = Field(default=0, ge=0, le=1_000_000_000)
    """Largest allowed ratio of the longer to the shorter side of the original, and of what `input.boxes_use` crops it
    to; 0 means no limit."""
    digest: Digest = "sha256"
    """Hash of the original bytes, recorded per image; `none` omits the column."""
    exif: bool = True
    """Whether to record the EXIF tags of the original, as JSON."""
    phash: bool = False
    """Whether to record the perceptual hash of the original: 64 bits in hex, the same as imagehash's `phash`."""

    @model_validator(mode="after")
    def _quality_fits_the_encoding(self) -> ImageSpec:
        # The spec of a dataset has the default written out, and must be read as it was meant.
        if self.encode == "png" and self.quality > 9 and self.quality != _QUALITY:
            raise ValueError(f"quality is {self.quality}, but for png it is the compression level, 0 to 9")
        if self.encode in {"jpg", "webp"} and self.quality < 1:
            raise ValueError(f"quality is {self.quality}, but for {self.encode} it is 1 to 100")
        return self

    @model_validator(mode="after")
    def _sizes_are_distinct(self) -> ImageSpec:
        if self.more_sizes and self.encode == "original":
            raise ValueError(
                'more_sizes is set, but encode = "original" keeps the bytes as they are; expected jpg, png or webp'
            )
        if self.more_sizes and self.mode == "no":
            raise ValueError(
                'more_sizes is set, but mode = "no" resizes nothing; expected a mode that does, such as "center_crop"'
            )
        boxes = [self.box, *self.more_boxes.values()]
        if len(self.more_boxes) < len(self.more_sizes) or boxes[0] in boxes[1:]:
            raise ValueError(
                f"more_sizes is {[*self.more_sizes]}, with size = {self.size}; expected sizes that are all different"
            )
        return self

    @property
    def box(self) -> tuple[int, int]:
        """Target width and height in pixels."""
        return _box(self.size)

    @property
    def more_boxes(self) -> dict[str, tuple[int, int]]:
        """Target width and height of each further size, by what it is called in names: `128`, or `640x480`."""
        boxes = [_box(size) for size in self.more_sizes]
        return {
            str(width) if width == height else f"{width}x{height}": (width, height) for width, height in boxes
        }

    @property
    def encoder_quality(self) -> int:
        """Quality as the encoder takes it; png falls back to compression level 6."""
        return 6 if self.encode == "png" and self.quality > 9 else self.quality


class OutputSpec(Table):
    """`[fetch.output]`: the dataset."""

    path: Location
    """Folder of the dataset, on disk or at any fsspec URL."""
    format: OutputFormat = "webdataset"
    """`webdataset`: tar shards; `files`: folders; `parquet`: images in a column; `lmdb`: one environment per
    shard; `tfrecord`: tf.train.Example records; `dummy`: no images. `parquet` is a Hugging Face dataset;
    `parquet_bytes` has img2dataset's plain column, named after the encoding."""
    samples_per_shard: int = Field(default=10_000, gt=0, le=MOST_ROWS_PER_SHARD)
    """Rows of the list per shard."""
    shard_digits: int = Field(default=5, ge=1, le=18)
    """Digits of shard numbers, zero-padded, in file names and keys."""
    key_prefix: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,15})?$")
    """What keys begin with: up to 16 letters, digits, `_` and `-`, a letter or digit first."""
    key_column: str | None = None
    """Kept column, of strings or integers, from which keys are made; by default they are the numbers of shard and row.
    Other characters than letters, digits, `_` and `-` become `_`; a row whose key is empty, or that of an earlier row
    of its shard, has its number in it, and is counted."""
    messages: Messages = "turbo-fetch"
    """Wording of `error_message`: that of turbo-fetch, or as close as possible to img2dataset. The ledger always has
    turbo-fetch's."""
    extras: bool = True
    """Whether `README.md`, `croissant.json` and, in the folders of `files`, `metadata.parquet` are written, which
    img2dataset does not have."""
    if_exists: IfExists = "resume"
    """If the dataset exists: `resume` it; `extend` it with this list; `overwrite` it; or stop with an `error`."""
    spool: Location | None = None
    """Local folder for shards in progress; by default inside the output, or in the user's cache folder if
    the output is remote."""


class FetchSpec(Table):
    """`[fetch]`: from a URL list to a dataset."""

    input: InputSpec
    """The list of image URLs."""
    http: HttpSpec = Field(default_factory=HttpSpec)
    """How requests are made."""
    sources: SourcesSpec = Field(default_factory=SourcesSpec)
    """Which addresses are read that are not of the web."""
    image: ImageSpec = Field(default_factory=ImageSpec)
    """How each image is processed."""
    score: ScoreSpec | None = None
    """What a function of yours says of finished images."""
    deny: DenySpec = Field(default_factory=DenySpec)
    """What must not be in the dataset."""
    duplicates: DuplicatesSpec = Field(default_factory=DuplicatesSpec)
    """Rows that repeat an earlier row."""
    output: OutputSpec
    """The dataset."""
    min_success: float = Field(default=0, ge=0, le=1)
    """Smallest share of the rows, 0 to 1, that must become samples. Below it, a finished run exits with 1, although its
    dataset is complete. A run of rows without a single sample always does; one that has no rows to take, since the list
    is empty or `where` lets none through, exits with 0, and the summary says so."""

    @model_validator(mode="after")
    def _tables_fit_together(self) -> FetchSpec:
        if self.input.boxes_column is not None and self.image.encode == "original":
            raise ValueError(
                'input.boxes_column is set, but image.encode = "original" keeps the bytes as they are; expected jpg, '
                "png or webp"
            )
        if self.output.key_column is not None and self.output.key_column not in self.input.kept.values():
            raise ValueError(
                f"output.key_column is {self.output.key_column!r}; expected the name of a column of input.keep_columns"
            )
        if self.duplicates.by and self.output.samples_per_shard > 1 << 24:
            raise ValueError(
                f"output.samples_per_shard is {self.output.samples_per_shard}; with duplicates.by, expected at most "
                f"{1 << 24}"
            )
        if self.duplicates.captions == "all" and self.input.caption_column is None:
            raise ValueError(
                'duplicates.captions is "all", but input.caption_column is not set; expected the column of captions'
            )
        if self.duplicates.captions == "all" and "captions" in self.input.kept.values():
            raise ValueError(
                'duplicates.captions is "all", which makes a column "captions", but input.keep_columns has one of that '
                "name; expected another: give it a new name there"
            )
        if "phash" in self.duplicates.by and not self.image.phash:
            raise ValueError('duplicates.by names "phash"; expected image.phash = true')
        column = self.duplicates.embedding_column
        if column is not None and "[" not in (self.score.columns if self.score else {}).get(column, ""):
            raise ValueError(
                f"duplicates.embedding_column is {column!r}; expected a list in score.columns, such as "
                '{ clip = "float16[512]" }'
            )
        if "hash" in self.duplicates.by and self.image.digest == "none":
            raise ValueError('duplicates.by names "hash", but image.digest = "none"; expected a kind of hash')
        return self
