"""The closed set of things that can happen to one URL.

Each outcome has a stable number (stored in spools and returned by the native module), a stable name
(stored in ledgers), whether trying again may help, and the status under which img2dataset files it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

Img2DatasetStatus = Literal["success", "failed_to_download", "failed_to_resize"]

_SUCCESS: Final = "success"
_DOWNLOAD: Final = "failed_to_download"
_RESIZE: Final = "failed_to_resize"


class Outcome(Enum):
    """One of the things that can happen to a URL.

    `number` fits in a uint8 and never changes meaning; `retryable` says whether the same request may
    succeed later; `img2dataset_status` is the value of img2dataset's `status` column.
    """

    SUCCESS = (0, "success", False, _SUCCESS)
    URL = (1, "url", False, _DOWNLOAD)
    ROBOTS = (2, "robots", False, _DOWNLOAD)
    OPT_OUT = (3, "opt-out", False, _DOWNLOAD)
    DNS = (4, "dns", True, _DOWNLOAD)
    NO_SUCH_HOST = (5, "no-such-host", False, _DOWNLOAD)
    ADDRESS = (6, "address", False, _DOWNLOAD)
    CONNECT = (7, "connect", True, _DOWNLOAD)
    TLS = (8, "tls", False, _DOWNLOAD)
    TIMEOUT = (9, "timeout", True, _DOWNLOAD)
    STALLED = (10, "stalled", True, _DOWNLOAD)
    PROTOCOL = (11, "protocol", True, _DOWNLOAD)
    REDIRECT = (12, "redirect", False, _DOWNLOAD)
    HTTP_4XX = (13, "http-4xx", False, _DOWNLOAD)
    HTTP_5XX = (14, "http-5xx", True, _DOWNLOAD)
    RATE_LIMITED = (15, "rate-limited", True, _DOWNLOAD)
    TOO_LARGE = (16, "too-large", False, _DOWNLOAD)
    TRUNCATED = (17, "truncated", True, _DOWNLOAD)
    HASH_MISMATCH = (18, "hash-mismatch", False, _DOWNLOAD)
    DUPLICATE = (19, "duplicate", False, _DOWNLOAD)
    DENIED = (20, "denied", False, _DOWNLOAD)
    NOT_FOUND = (21, "not-found", False, _DOWNLOAD)
    NO_ACCESS = (22, "no-access", False, _DOWNLOAD)
    UNREADABLE = (23, "unreadable", True, _DOWNLOAD)
    NO_RECORD = (24, "no-record", False, _DOWNLOAD)
    NOT_AN_IMAGE = (32, "not-an-image", False, _RESIZE)
    UNSUPPORTED = (33, "unsupported", False, _RESIZE)
    CORRUPT = (34, "corrupt", False, _RESIZE)
    TOO_MANY_PIXELS = (35, "too-many-pixels", False, _RESIZE)
    TOO_SMALL = (36, "too-small", False, _RESIZE)
    ASPECT = (37, "aspect", False, _RESIZE)
    BAD_BOXES = (38, "bad-boxes", False, _RESIZE)
    OUT_OF_MEMORY = (39, "out-of-memory", True, _RESIZE)
    FILTERED = (40, "filtered", False, _RESIZE)
    UNSCORED = (41, "unscored", True, _RESIZE)

    number: int
    label: str
    retryable: bool
    img2dataset_status: Img2DatasetStatus

    def __init__(
        self, number: int, label: str, retryable: bool, img2dataset_status: Img2DatasetStatus
    ) -> None:
        self.number = number
        self.label = label
        self.retryable = retryable
        self.img2dataset_status = img2dataset_status


BY_NUMBER: Final[dict[int, Outcome]] = {outcome.number: outcome for outcome in Outcome}
BY_LABEL: Final[dict[str, Outcome]] = {outcome.label: outcome for outcome in Outcome}

MEANINGS: Final[dict[Outcome, str]] = {
    Outcome.SUCCESS: "The image is in the dataset.",
    Outcome.URL: "The URL is malformed, or neither http nor https nor of a source.",
    Outcome.ROBOTS: "The site's robots.txt does not allow it.",
    Outcome.OPT_OUT: "The site opts out of this use, by a response header, robots.txt or tdmrep.json.",
    Outcome.DNS: "The host name could not be resolved, perhaps temporarily.",
    Outcome.NO_SUCH_HOST: "The host does not exist.",
    Outcome.ADDRESS: "The address of the host is not public, or the port is not allowed; or the row names a file or "
    "object that `[fetch.sources]` does not open.",
    Outcome.CONNECT: "The connection was refused, or closed before the response; or a store cannot be reached.",
    Outcome.TLS: "The certificate is not trusted, or the handshake failed.",
    Outcome.TIMEOUT: "The connection or the whole request took too long.",
    Outcome.STALLED: "The response paused for too long.",
    Outcome.PROTOCOL: "The response is not valid HTTP.",
    Outcome.REDIRECT: "Redirects lead nowhere, form a loop, or exceed the limit.",
    Outcome.HTTP_4XX: "The server rejects the request: not found, forbidden, gone.",
    Outcome.HTTP_5XX: "The server reports an internal error.",
    Outcome.RATE_LIMITED: "The server asks for fewer requests (429).",
    Outcome.TOO_LARGE: "The body is larger than `fetch.http.max_body_mb`.",
    Outcome.TRUNCATED: "The body ends early; or the image in it does, with the status `failed_to_resize`.",
    Outcome.HASH_MISMATCH: "The bytes do not have the hash given in the list.",
    Outcome.DUPLICATE: "An earlier row has the same URL or image.",
    Outcome.DENIED: "The URL, its domain or the hash of the bytes is on a deny list.",
    Outcome.NOT_FOUND: "There is no such file or object, or no image in the column.",
    Outcome.NO_ACCESS: "The file or object is there, but this user may not read it.",
    Outcome.UNREADABLE: "The file or object could not be read.",
    Outcome.NO_RECORD: "The bytes at the place in the list are not the WARC record of the row.",
    Outcome.NOT_AN_IMAGE: "The body is something else: a web page, text, or empty.",
    Outcome.UNSUPPORTED: "An image in a format or variant that cannot be decoded.",
    Outcome.CORRUPT: "The bytes are not valid in their format.",
    Outcome.TOO_MANY_PIXELS: "More pixels than `fetch.image.max_pixels`.",
    Outcome.TOO_SMALL: "A side shorter than `fetch.image.min_side`.",
    Outcome.ASPECT: "An aspect ratio above `fetch.image.max_aspect`.",
    Outcome.BAD_BOXES: "The boxes are malformed, or there is none to crop to, so the image is not kept.",
    Outcome.OUT_OF_MEMORY: "This machine has too little memory for the image, even while it makes no other one.",
    Outcome.FILTERED: "`fetch.score.where` does not hold for its scores, which are in its row.",
    Outcome.UNSCORED: "The function of `[fetch.score]` failed for it.",
}
"""What each means, in a sentence for people."""
