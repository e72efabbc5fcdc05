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
    NOT_AN_IMAGE = (32, "not-an-image", False, _RESIZE)
    UNSUPPORTED = (33, "unsupported", False, _RESIZE)
    CORRUPT = (34, "corrupt", False, _RESIZE)
    TOO_MANY_PIXELS = (35, "too-many-pixels", False, _RESIZE)
    TOO_SMALL = (36, "too-small", False, _RESIZE)
    ASPECT = (37, "aspect", False, _RESIZE)
    BAD_BOXES = (38, "bad-boxes", False, _RESIZE)
    OUT_OF_MEMORY = (39, "out-of-memory", True, _RESIZE)

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
