"""`[fetch]`: from a URL list to a dataset."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from turbo_fetch.spec.table import Location, Table

InputFormat = Literal["auto", "txt", "csv", "tsv", "json", "jsonl", "parquet", "arrow"]
Order = Literal["position", "spread"]
Quoting = Literal["auto", "standard", "none"]
ColumnType = Literal["string", "int64", "double", "bool", "date", "timestamp"]
ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop", "stretch"]
Filter = Literal["nearest", "linear", "cubic", "area", "lanczos"]
Encoding = Literal["jpg", "png", "webp", "original"]
Digest = Literal["none", "md5", "sha256", "sha512"]
HashKind = Literal["md5", "sha256", "sha512"]
DuplicateKey = Literal["url", "hash", "phash"]
OutputFormat = Literal["files", "webdataset", "parquet", "parquet_bytes", "lmdb", "tfrecord", "dummy"]
Messages = Literal["turbo-fetch", "img2dataset"]
IfExists = Literal["resume", "extend", "overwrite", "error"]

_PROXY = re.compile(r"environment|(https?|socks4a?|socks5h?)://[^/?#\s]+/?")

Side = Annotated[int, Field(gt=0, le=65_535)]


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ValueError(f"{name!r} is no name of a header")
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError(f"{name} holds a control character")
        if re.search(r"\$\{\w+\}", value):
            raise ValueError(
                f"{name} names a variable of the environment, which only the command line fills in"
            )
    return headers


class InputSpec(Table):
    """`[fetch.input]`: the list of image URLs."""

    urls: Location
    """File, folder or glob of the list, on disk or at any fsspec URL (`s3://`, `gs://`, `https://` …)."""
    format: InputFormat = "auto"
    """Format of the list; `auto` goes by the suffix. Text formats may also end in .gz .bz2 .xz .zst."""
    url_column: str = "url"
    """Column that holds the URL; `txt` lists have just one."""
    caption_column: str | None = None
    """Column that holds the caption, named `caption` in the output."""
    keep_columns: tuple[str, ...] | dict[str, str] = ()
    """Further columns to carry into the dataset, of any Arrow type; or a table that gives them new names, as
    `{ width = "list_width" }`, where the dataset has such a column itself."""
    column_types: dict[str, ColumnType] = Field(default_factory=dict)
    """Types of kept columns, by their names in the list; by default one that all values seem to fit. What does not fit
    becomes null, and is counted."""
    quoting: Quoting = "auto"
    """What quotes mean in csv and tsv. `auto`: they enclose fields; one that does not close, or that encloses whole
    rows, is text. `standard`: as `auto`, whatever is enclosed. `none`: they are text always, as in raw TSV dumps."""
    strict: bool = False
    """Whether a list ends the run, with an error, that has rows which are not as they should be: quotes taken as text,
    too few or too many fields, text that is no UTF-8, values that do not fit the type of their column."""
    hash_column: str | None = None
    """Column of hashes, in hex, that the downloaded bytes must have; others, and rows without a usable hash, end as
    hash-mismatch. The hash is in the output under the name of its kind."""
    hash_kind: HashKind = "sha256"
    """Kind of the hashes in `hash_column`."""
    on_hash_mismatch: Literal["drop", "keep"] = "drop"
    """`drop`: no picture. `keep`: the picture is kept, and the ledger's `detail` says that it is another one."""
    boxes_column: str | None = None
    """Column of boxes to make unrecognisable: lists of `[left, top, right, bottom]`, relative to the sides of the
    upright picture, 0 to 1. Null or an empty list: none."""
    order: Order = "position"
    """`position`: shards follow the list. `spread`: hosts are interleaved so that none is hit in bursts."""
    seed: int = Field(default=0, ge=0)
    """Seed of the `spread` order; the same list and seed give the same shards."""

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
                f"column_types names {stray[0]!r}, which keep_columns does not; expected a kept column"
            )
        return self

    @model_validator(mode="after")
    def _hash_options_have_a_column(self) -> InputSpec:
        defaults = {"hash_kind": "sha256", "on_hash_mismatch": "drop"}
        stray = [name for name, default in defaults.items() if getattr(self, name) != default]
        if self.hash_column is None and stray:
            raise ValueError(f"{stray[0]} is set, but there is no hash_column to compare with; expected one")
        return self


class DenySpec(Table):
    """`[fetch.deny]`: what must not be in the dataset. Lists are read as `input.urls` is: txt, csv, parquet …"""

    urls: tuple[Location, ...] = ()
    """Lists of URLs, in a column `url`; they are not requested, nor used where a redirect leads to them."""
    domains: tuple[Location, ...] = ()
    """Lists of domains, in a column `domain`; each stands for itself and all its subdomains."""
    hashes: tuple[Location, ...] = ()
    """Lists of hashes of original files, in a column `hash`: md5, sha256 or sha512 in hex, told by their length."""


class DuplicatesSpec(Table):
    """`[fetch.duplicates]`: rows that show what an earlier row shows already."""

    by: tuple[DuplicateKey, ...] = ()
    """`url`: the same URL after normalisation, which is requested once. `hash`: the same original bytes. `phash`:
    nearly the same picture. The first row of the list stays, whatever arrives first."""
    max_distance: int = Field(default=4, ge=0, le=16)
    """Largest number of differing bits, out of 64, of perceptual hashes that count as the same picture."""
    against: tuple[Location, ...] = ()
    """Other datasets, folders or fsspec URLs, whose rows come before those of this one."""

    @model_validator(mode="after")
    def _options_have_a_use(self) -> DuplicatesSpec:
        if self.against and not self.by:
            raise ValueError("against is set, but by is empty; expected what is compared: url, hash, phash")
        if self.max_distance != 4 and "phash" not in self.by:
            raise ValueError('max_distance is set, but by does not name "phash", which alone has distances')
        return self

    @property
    def by_content(self) -> tuple[DuplicateKey, ...]:
        """The keys that are known only when all rows are there."""
        return tuple(key for key in self.by if key != "url")


HeaderValues = Annotated[dict[str, str], AfterValidator(_sendable)]


class DomainSpec(Table):
    """`[fetch.http.domains."example.org"]`: what is different for one registrable domain and its hosts."""

    concurrency: PositiveInt | None = None
    """Most requests in flight, of all workers together; takes the place of `fetch.http.per_domain`."""
    delay_s: float | None = Field(default=None, ge=0, le=3600)
    """Seconds from the start of one request to the start of the next; takes the place of a Crawl-delay."""
    headers: HeaderValues = Field(default_factory=dict)
    """Request headers for this domain alone; never sent elsewhere."""


# Constructed, since to validate it would build a validator in every process.
_NO_PRESET = DomainSpec.model_construct()


class HttpSpec(Table):
    """`[fetch.http]`: how requests are made."""

    concurrency: PositiveInt = 256
    """Requests in flight per worker process."""
    per_domain: int = Field(default=8, ge=0)
    """Most requests in flight per registrable domain, of all workers together; 0 means no limit. Fewer are made
    while a server answers slowly or refuses."""
    timeout_s: PositiveFloat = 10
    """Seconds that one request may take from its start to its last byte, redirects included."""
    connect_timeout_s: PositiveFloat = 5
    """Seconds that one connection may take, name resolution and TLS included."""
    stall_timeout_s: PositiveFloat = 10
    """Seconds that a response may pause between two chunks."""
    retries: int = Field(default=2, ge=0, le=100)
    """Further attempts after a failure that may pass: timeouts, resets, 429, 5xx, DNS trouble."""
    backoff_s: PositiveFloat = 0.5
    """First pause before a retry; it doubles each time, with jitter, unless Retry-After says otherwise."""
    max_backoff_s: PositiveFloat = 30
    """Longest pause before a retry; rows of a server that asks for more end as `rate-limited`."""
    max_redirects: int = Field(default=5, ge=0, le=20)
    """Redirects to follow before giving up."""
    max_body_mb: PositiveFloat = 50
    """Largest body in megabytes (10^6 bytes); larger ones are cut off and counted as too-large."""
    memory_mb: PositiveInt = 64
    """Megabytes of bodies that may be held at once, per worker; downloads wait when it is reached."""
    user_agent: str = "turbo-fetch/{version} (dataset builder; contact unset)"
    """User-Agent header; `{version}` is filled in. Say who you are and how to reach you."""
    robots: Literal["respect", "ignore"] = "respect"
    """`respect`: obey each host's robots.txt (RFC 9309), asked for once; `ignore`: do not ask for it."""
    opt_out: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """X-Robots-Tag directives that forbid use; `[]` ignores the header."""
    content_usage: tuple[str, ...] = ("train-ai",)
    """Uses that a `Content-Usage` header or rule of robots.txt may forbid (IETF AIPREF); `[]` ignores both."""
    tdm: Literal["respect", "headers", "ignore"] = "headers"
    """TDM reservations: `headers` obeys the response header; `respect` also asks each host once for
    /.well-known/tdmrep.json."""
    allow_private_addresses: bool = False
    """Whether loopback, private, link-local and other special addresses may be connected to."""
    ports: Literal["web", "any"] | tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = "web"
    """`web`: all ports but those of other protocols, as browsers do; `any`; or the only ports allowed."""
    proxy: str | None = None
    """Proxy for all requests: `http://host:port`, also of https, socks4, socks4a, socks5 and socks5h, with
    `user:password@` before the host if need be. `environment`: those that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and
    NO_PROXY name where the run is started. Without it, no proxy is used."""
    verify_tls: bool = True
    """Whether certificates are checked."""
    ca_file: Location | None = None
    """PEM file of further certificate authorities to trust."""
    headers: HeaderValues = Field(default_factory=dict)
    """Further request headers, sent to every host of the list; secret ones do not follow redirects elsewhere.
    `${NAME}` stands for a variable of the environment."""
    secret_headers: tuple[str, ...] = ()
    """Names of request headers that are secret, beside `Authorization`, `Cookie` and all others whose name says so, and
    beside those that are filled in from the environment."""
    domains: dict[str, DomainSpec] = Field(default_factory=dict)
    """Presets for single registrable domains."""

    @model_validator(mode="after")
    def _addresses_are_usable(self) -> HttpSpec:
        if self.proxy is not None and not _PROXY.fullmatch(self.proxy):
            raise ValueError(
                'proxy: expected "environment", or http://host:port, or the same of https, socks4, socks4a, socks5 or '
                "socks5h"
            )
        for domain in self.domains:
            if not re.fullmatch(r"[a-z0-9.:\[\]_-]+", domain):
                raise ValueError(
                    f"domains: {domain!r} is no domain; expected one such as example.org, in lower case"
                )
        return self

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


class ImageSpec(Table):
    """`[fetch.image]`: what becomes of each picture."""

    size: Side | tuple[Side, Side] = 256
    """Target side in pixels, or `[width, height]`."""
    mode: ResizeMode = "center_crop"
    """`no`: keep; `border`: fit inside and pad white; `keep_ratio`: smaller side = size;
    `keep_ratio_largest`: larger side = size; `center_crop`: fill and crop; `stretch`: ignore the ratio."""
    only_if_bigger: bool = False
    """Leave pictures alone that are not larger than the target (border and keep_ratio_largest compare the
    larger side, the others the smaller one)."""
    downscale: Filter = "lanczos"
    """Filter for making pictures smaller; all but `nearest` are antialiased."""
    upscale: Filter = "lanczos"
    """Filter for making pictures larger."""
    encode: Encoding = "jpg"
    """Format of the pictures written; `original` keeps the downloaded bytes and only checks them."""
    quality: int = Field(default=95, ge=0, le=100)
    """JPEG and WebP: quality 1 to 100 (WebP 100 is lossless). PNG: compression level 0 to 9."""
    skip_reencode: bool = False
    """Keep the original bytes where the picture needs no change and already has the format of `encode`."""
    min_side: int = Field(default=0, ge=0)
    """Smallest allowed side of the original in pixels; 0 means no limit."""
    max_pixels: PositiveInt = 100_000_000
    """Largest allowed area of the original in pixels, checked in the header before decoding."""
    max_aspect: float = Field(default=0, ge=0)
    """Largest allowed ratio of the longer to the shorter side of the original; 0 means no limit."""
    digest: Digest = "sha256"
    """Hash of the original bytes, recorded per picture; `none` leaves the column out."""
    exif: bool = True
    """Whether the EXIF tags of the original are recorded, as JSON."""
    phash: bool = False
    """Whether the perceptual hash of the original is recorded: 64 bits in hex, as imagehash's `phash`."""

    @model_validator(mode="after")
    def _quality_fits_the_encoding(self) -> ImageSpec:
        if self.encode == "png" and self.quality > 9 and "quality" in self.model_fields_set:
            raise ValueError(f"quality is {self.quality}, but for png it is the compression level, 0 to 9")
        if self.encode in {"jpg", "webp"} and self.quality < 1:
            raise ValueError(f"quality is {self.quality}, but for {self.encode} it is 1 to 100")
        return self

    @property
    def box(self) -> tuple[int, int]:
        """Target width and height in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def encoder_quality(self) -> int:
        """Quality as the encoder takes it; png falls back to compression level 6."""
        return 6 if self.encode == "png" and self.quality > 9 else self.quality


class OutputSpec(Table):
    """`[fetch.output]`: the dataset."""

    path: Location
    """Folder of the dataset, on disk or at any fsspec URL."""
    format: OutputFormat = "webdataset"
    """`webdataset`: tar shards; `files`: folders; `parquet`: pictures in a column; `lmdb`: one environment per
    shard; `tfrecord`: tf.train.Example records; `dummy`: no pictures. `parquet` is a Hugging Face dataset;
    `parquet_bytes` has img2dataset's plain column, named after the encoding."""
    samples_per_shard: PositiveInt = 10_000
    """Rows of the list per shard."""
    shard_digits: int = Field(default=5, ge=1, le=18)
    """Digits to which shard numbers are padded, in the names of files and in keys."""
    messages: Messages = "turbo-fetch"
    """Wording of `error_message`: our own, or `img2dataset`, as close as can be. The ledger has ours."""
    extras: bool = True
    """Whether `README.md`, `croissant.json` and, in the folders of `files`, `metadata.parquet` are written, which
    img2dataset does not have."""
    if_exists: IfExists = "resume"
    """`resume`: go on; `extend`: add this list after what is there; `overwrite`: delete first; `error`."""
    spool: Location | None = None
    """Local folder for shards in progress; by default inside the output, or in the user's cache folder
    when the output is remote."""


class FetchSpec(Table):
    """`[fetch]`: from a URL list to a dataset."""

    input: InputSpec
    """The list."""
    http: HttpSpec = Field(default_factory=HttpSpec)
    """The requests."""
    image: ImageSpec = Field(default_factory=ImageSpec)
    """The pictures."""
    deny: DenySpec = Field(default_factory=DenySpec)
    """What must not be in the dataset."""
    duplicates: DuplicatesSpec = Field(default_factory=DuplicatesSpec)
    """What need not be in it twice."""
    output: OutputSpec
    """The dataset."""
    min_success: float = Field(default=0, ge=0, le=1)
    """Smallest share of the rows, 0 to 1, that must become samples. Below it, a run that is complete exits with 1; its
    dataset is whole all the same. A run without a single sample always does."""

    @model_validator(mode="after")
    def _tables_fit_together(self) -> FetchSpec:
        if self.input.boxes_column is not None and self.image.encode == "original":
            raise ValueError(
                'input.boxes_column is set, but image.encode = "original" keeps the bytes and so what is in the '
                "boxes; expected jpg, png or webp"
            )
        if self.duplicates.by and self.output.samples_per_shard > 1 << 24:
            raise ValueError(
                f"output.samples_per_shard is {self.output.samples_per_shard}; with duplicates.by, expected at most "
                f"{1 << 24}"
            )
        if "phash" in self.duplicates.by and not self.image.phash:
            raise ValueError('duplicates.by names "phash"; expected image.phash = true')
        if "hash" in self.duplicates.by and self.image.digest == "none":
            raise ValueError('duplicates.by names "hash", but image.digest = "none"; expected a kind of hash')
        return self
