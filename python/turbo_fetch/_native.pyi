from collections.abc import Sequence

__version__: str
__profile__: str

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
    def run(self, bodies: Sequence[bytes]) -> RecordBatchCapsule: ...
    def run_pixels(
        self, bodies: Sequence[bytes], pixels: Sequence[bytes], shapes: Sequence[tuple[int, int, int, int]]
    ) -> RecordBatchCapsule: ...
