from collections.abc import Sequence
from typing import Protocol, final, type_check_only

__version__: str
__profile__: str

@type_check_only
class ArrowBatch(Protocol):
    """A record batch that any Arrow library imports through the C data interface."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...
    def __arrow_c_schema__(self) -> object: ...

@final
class Transformer:
    def __new__(
        cls,
        *,
        width: int,
        height: int,
        mode: str,
        only_if_bigger: bool,
        downscale: str,
        upscale: str,
        encode: str,
        quality: int,
        skip_reencode: bool,
        min_side: int,
        max_pixels: int,
        max_aspect: float,
        digest: str,
        exif: bool,
        threads: int,
    ) -> Transformer: ...
    def run(self, bodies: Sequence[bytes]) -> ArrowBatch: ...
    def run_pixels(
        self, bodies: Sequence[bytes], pixels: Sequence[bytes], shapes: Sequence[tuple[int, int, int, int]]
    ) -> ArrowBatch: ...
