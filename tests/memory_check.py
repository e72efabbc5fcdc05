"""Hostile images through the decoders that others compiled, OpenCV's and Pillow's, while valgrind watches their memory.

    python tests/memory_check.py SECONDS SEED

Files of other projects in the formats that these decode, and such files damaged, pass one by one through the transform
of a run. Valgrind tells of reads and writes beyond what was allocated, and of decisions by, and output of, memory that
nobody wrote. What it tells of other libraries is counted apart. Returns 1 if it tells of any of an image, or ends.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

TIFF = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
LARGEST_BYTES = 400_000
"""Of a file: valgrind makes all fifty times slower."""
MAX_PIXELS = 1_000_000
DAMAGED_SHARE = 0.7
MARK = "@@ "
"""Begins the lines by which the log tells where an image begins."""
ABOUT = re.compile(r"Invalid|uninitialised|overlap|Mismatched|silly")
OUTPUT = "Syscall param write"
FRAME = re.compile(r"(?:at|by) 0x[0-9A-F]+: (.*)")
LIBRARIES = re.compile(r"cv2|PIL|_imaging|_avif|pillow\.libs|opencv|_native")
VALGRIND = (
    *("valgrind", "--tool=memcheck", "--error-limit=no", "--num-callers=24", "--undef-value-errors=yes"),
    *("--leak-check=no", "--partial-loads-ok=yes", "--log-fd=2", "--child-silent-after-fork=yes"),
    # Of what decoders of AVIF do in a row it cannot translate as much at once as it does otherwise.
    "--vex-guest-max-insns=20",
)


def main(seconds: str, seed: str) -> int:
    """Watch for so many seconds; print what was tried and found."""
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        bodies = list(_bodies(Random(int(seed))))
        for number, (name, body) in enumerate(bodies):
            (Path(folder) / f"{number:05d} {name.replace('/', '_')}").write_bytes(body)
        log = Path(folder).with_suffix(".log")
        with log.open("wb") as file:
            ended = subprocess.run(
                [*VALGRIND, sys.executable, __file__, "--watched", folder, seconds],
                stderr=file,
                env={**os.environ, "PYTHONMALLOC": "malloc", "OPENCV_FOR_THREADS_NUM": "1"},
                check=False,
            )
        tried, found, elsewhere = read_log(log.read_text(errors="replace").splitlines(), ended.returncode)
        log.unlink()
    print(
        f"seed {seed}: {tried} images tried, {sum(found.values())} errors in decoders, {elsewhere} elsewhere"
    )
    for (image, what), count in found.most_common():
        print(f"{count} x {image}: {what}")
    return int(bool(found) or not tried)


def read_log(lines: Iterable[str], ended_with: int) -> tuple[int, Counter[tuple[str, str]], int]:
    """Return how many images a log is of, what valgrind says of them in decoders, and how much it says elsewhere.

    That the process ended otherwise than with 0 is found of the image that it was at.
    """
    tried, image, elsewhere = 0, "", 0
    found: Counter[tuple[str, str]] = Counter()
    block: list[str] = []
    for line in [*lines, ""]:
        if line.startswith(MARK):
            image = line.removeprefix(MARK)
            tried += bool(image)
        text = re.sub(r"^==\d+== ?", "", line)
        if text.strip() and text != line:
            block.append(text.strip())
            continue
        if block and ABOUT.search(block[0]):
            frames = [frame[1] for each in block if (frame := FRAME.match(each))]
            ours = [frame for frame in frames if LIBRARIES.search(frame)]
            # What is written out is the image, whoever copied it there.
            if image and (ours or OUTPUT in block[0]):
                found[image, f"{block[0]} at {(ours or frames or ['an unknown place'])[0]}"] += 1
            else:
                elsewhere += 1
        block = []
    if ended_with:
        found[image, f"the process ended with {ended_with}"] += 1
    return tried, found, elsewhere


def watched(folder: str, seconds: str) -> int:
    """Transform the images of a folder in turn until the time is over; runs under valgrind."""
    from sample_images import spec
    from turbo_fetch.shard.transform import Transform

    transform = Transform(spec(mode="no", encode="png", max_pixels=MAX_PIXELS), 1)
    ends_s = time.monotonic() + float(seconds)
    with open(os.devnull, "wb") as sink:  # noqa: PTH123
        for path in sorted(Path(folder).iterdir()):
            if time.monotonic() > ends_s:
                break
            os.write(2, f"\n{MARK}{path.name[6:]}\n".encode())
            record = transform.run([path.read_bytes()])
            # The kernel reads it, so valgrind tells of what nobody wrote.
            sink.write(record["image"][0].as_py() or b"")
            sink.flush()
            os.write(2, f"\n{MARK}\n".encode())
    return 0


def _bodies(random: Random) -> Iterator[tuple[str, bytes]]:
    """Yield each file that is small enough, and then damaged ones, many times as many."""
    from damage import damaged
    from hostile_corpus import hostile_corpus

    files = {name: body for name, body in hostile_corpus().items() if is_foreign(body)}
    files = {name: body for name, body in files.items() if len(body) <= LARGEST_BYTES}
    names = sorted(files)
    random.shuffle(names)
    for name in names:
        yield name, files[name]
    for number in range(3000):
        name, other = random.choice(names), random.choice(names)
        yield f"{name} damaged {number}", damaged(files[name], files[other], random)


def is_foreign(body: bytes) -> bool:
    """Whether a file is of a format that OpenCV or Pillow decodes: TIFF, AVIF, JPEG 2000."""
    is_jpeg2000 = body[:12].endswith(b"jP  \r\n\x87\n") or body.startswith(b"\xff\x4f\xff\x51")
    return body[:4] in TIFF or is_jpeg2000 or body[4:12] in {b"ftypavif", b"ftypavis", b"ftypmif1"}


if __name__ == "__main__":
    sys.exit(watched(*sys.argv[2:]) if sys.argv[1] == "--watched" else main(*sys.argv[1:]))
