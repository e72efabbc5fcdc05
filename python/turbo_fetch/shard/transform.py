"""From downloaded bodies to the images that are kept: the only importer of the native transform.

Rust decodes JPEG, PNG, WebP, GIF, BMP and icons. AVIF, TIFF and JPEG 2000 it recognises, checks against the limits
and hands back with the decoder that reads them right; `foreign` decodes those, and Rust finishes them like the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from turbo_fetch import _native
from turbo_fetch.arrow.binaries import Blob, blobs, view_array
from turbo_fetch.arrow.schemas import image_columns
from turbo_fetch.outcomes import Outcome
from turbo_fetch.shard import other_decoders as foreign

if TYPE_CHECKING:
    from turbo_fetch.spec import HashKind, ImageSpec

Boxes = Sequence[tuple[float, float, float, float]]
"""Boxes of one image: left, top, right, bottom, relative to its sides."""

POSTPONED: Final = 253
"""Outcome number of an image that the native module wants to be brought again, in another batch; it never leaves."""
_FOREIGN: Final = frozenset({foreign.OPENCV, foreign.PILLOW})
_UNFINISHED: Final = _FOREIGN | {POSTPONED}
PART_BYTES: Final = 64 << 20
"""A part of a batch ends with the image whose file brings it here."""
MEMORY_BYTES: Final = 256_000_000
_BYTES_PER_PIXEL: Final = 12
"""What an image takes that is decoded here: of 8 bits, Pillow's four channels, a copy of them, and what Rust makes of
them; of 16 bits, the samples and their copy."""
_EVERYTHING: Final = (1 << 64) - 1

if _native.__profile__ == "debug":
    warnings.warn(
        "turbo_fetch._native is a debug build, many times slower; build it with `maturin develop --release`",
        RuntimeWarning,
        stacklevel=2,
    )


class Transform:
    """Transforms batches of bodies with one spec and a fixed number of threads.

    Images that are made at once take `memory_bytes` together, unless it is a single one: others wait for their memory.
    With `crop`, a box of an image is what is kept of it, instead of being blurred.
    Immutable; `run` may be called from several threads at once and releases the GIL while it works.
    """

    def __init__(
        self, image: ImageSpec, threads: int, memory_bytes: int = MEMORY_BYTES, crop: bool = False
    ) -> None:
        self.decodes = image.encode != "original" or image.phash
        """Whether images are decoded, by which their batches keep all cores busy for long."""
        width, height = image.box
        self._native = _native.Transformer(
            width=width,
            height=height,
            more_sizes=list(image.more_boxes.values()),
            mode=image.mode,
            only_if_bigger=image.only_if_bigger,
            downscale=image.downscale,
            upscale=image.upscale,
            encode=image.encode,
            quality=image.encoder_quality,
            skip_reencode=image.skip_reencode,
            min_side=image.min_side,
            max_pixels=image.max_pixels,
            max_aspect=image.max_aspect,
            digest=image.digest,
            exif=image.exif,
            phash=image.phash,
            crop=crop,
            threads=threads,
            memory_bytes=memory_bytes,
        )

    def run(self, bodies: Sequence[Blob], boxes: Sequence[Boxes] = ()) -> pa.RecordBatch:
        """Return one record (`transformed_schema`) per body, in order. Never raises for a bad image.

        `boxes` are those of each image, or empty if there are none in any: left, top, right, bottom, relative to the
        sides of the upright image. All of them are blurred or, if the transform is to `crop`, the first one is kept.
        """
        parts = list(self.parts(bodies, boxes))
        if len(parts) == 1 and parts[0][0] == list(range(len(bodies))):
            return parts[0][1]
        records = {place: batch.slice(row, 1) for places, batch in parts for row, place in enumerate(places)}
        return pa.concat_batches([records[place] for place in range(len(bodies))])

    def parts(
        self, bodies: Sequence[Blob], boxes: Sequence[Boxes] = ()
    ) -> Iterator[tuple[list[int], pa.RecordBatch]]:
        """Yield what :meth:`run` returns as soon as it is there: places of bodies, and their records.

        Small bodies may become files of hundreds of megabytes. A part holds few of those, so that a caller that
        lets go of each holds few as well; usually there is one part.
        """
        places = list(range(len(bodies)))
        while True:
            chosen = [bodies[place] for place in places]
            batch = self._native.run(chosen, [boxes[place] for place in places] if boxes else [])
            outcomes = batch["outcome"].to_pylist()
            if _UNFINISHED.isdisjoint(outcomes):
                yield places, _with_bodies(batch, chosen)
                return
            native = [row for row, outcome in enumerate(outcomes) if outcome not in _UNFINISHED]
            if native:
                kept = pa.concat_batches([batch.slice(row, 1) for row in native])
                yield [places[row] for row in native], _with_bodies(kept, [chosen[row] for row in native])
            yield from self._foreign(
                [
                    (place, batch.slice(row, 1))
                    for row, place in enumerate(places)
                    if outcomes[row] in _FOREIGN
                ],
                bodies,
                boxes,
            )
            places = [place for place, outcome in zip(places, outcomes, strict=True) if outcome == POSTPONED]
            if not places:
                return

    def _foreign(
        self, asked: Sequence[tuple[int, pa.RecordBatch]], bodies: Sequence[Blob], boxes: Sequence[Boxes]
    ) -> Iterator[tuple[list[int], pa.RecordBatch]]:
        places: list[int] = []
        records: list[pa.RecordBatch] = []
        held = 0
        for number, (place, record) in enumerate(asked, 1):
            finished = self._finish(
                record["outcome"][0].as_py(), bodies[place], record, boxes[place] if boxes else ()
            )
            places.append(place)
            records.append(finished)
            held += sum(len(blobs(finished[name])[0] or b"") for name in image_columns(finished.schema))
            if held > PART_BYTES or number == len(asked):
                yield places, _with_bodies(pa.concat_batches(records), [bodies[place] for place in places])
                places, records, held = [], [], 0

    def _finish(self, reader: int, body: Blob, record: pa.RecordBatch, boxes: Boxes) -> pa.RecordBatch:
        """Return the record of an image that is decoded here; where memory is short, once no other one is made."""
        pixels = record["original_width"][0].as_py() * record["original_height"][0].as_py()
        with self._holding(pixels * _BYTES_PER_PIXEL):
            finished = self._decoded(reader, body, record, boxes)
        if finished["outcome"][0].as_py() == Outcome.OUT_OF_MEMORY.number:
            with self._holding(_EVERYTHING):
                finished = self._decoded(reader, body, record, boxes)
        return finished

    def _decoded(self, reader: int, body: Blob, record: pa.RecordBatch, boxes: Boxes) -> pa.RecordBatch:
        try:
            found = foreign.decode(reader, record["original_format"][0].as_py(), body)
        except foreign.DecodeError as error:
            return _rejected(record, error)
        shape = (found.width, found.height, found.layout, found.bits)
        finished: pa.RecordBatch = self._native.run_pixels(body, found.samples, shape, boxes)
        return finished

    @contextmanager
    def _holding(self, count: int) -> Iterator[None]:
        """Wait until images that are made leave so many bytes, or there is none, and hold them meanwhile."""
        self._native.take_memory(count)
        try:
            yield
        finally:
            self._native.give_back_memory(count)


def digests(kind: HashKind, bodies: Sequence[Blob]) -> list[str]:
    """Return the hash of each body in lower-case hex, the GIL released."""
    return [found for found in _native.digests(kind, bodies) if found is not None]


def _rejected(record: pa.RecordBatch, error: foreign.DecodeError) -> pa.RecordBatch:
    """Return the record of an image that yielded no pixels; `record` asked for them."""
    columns = {name: record[name] for name in record.schema.names}
    columns["outcome"] = pa.array([error.outcome.number], pa.uint8())
    columns["detail"] = pa.array([f"{record['original_format'][0].as_py()} {error.reason}"])
    return pa.record_batch(list(columns.values()), schema=record.schema)


def _with_bodies(batch: pa.RecordBatch, bodies: Sequence[Blob]) -> pa.RecordBatch:
    """Return the batch with the bodies that are kept as they came: the native module copies none, but leaves a null."""
    success = [outcome == Outcome.SUCCESS.number for outcome in batch["outcome"].to_pylist()]
    for name in image_columns(batch.schema):
        if batch[name].null_count:
            rows = zip(success, blobs(batch[name]), bodies, strict=True)
            images = [body if image is None and kept else image for kept, image, body in rows]
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, batch.schema.field(place), view_array(images))
    return batch
