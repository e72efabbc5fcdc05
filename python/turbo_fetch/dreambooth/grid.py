"""Many pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

GAP = 4
LABEL_HEIGHT = 16


def grid(
    pictures: Sequence[Sequence[Image.Image]], labels: Sequence[str] = (), side: int | None = None
) -> Image.Image:
    """Return the pictures line by line, each line under its label if there are any.

    All get the size of the first one, or fit `side` pixels square; small ones are enlarged without smoothing.
    """
    first = pictures[0][0]
    cell = (side, side) if side else first.size
    top = LABEL_HEIGHT if labels else 0
    width = max(len(line) for line in pictures) * (cell[0] + GAP) - GAP
    sheet = Image.new("RGB", (width, len(pictures) * (cell[1] + GAP + top) - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, line in enumerate(pictures):
        y = row * (cell[1] + GAP + top)
        if labels:
            pen.text((2, y + 2), labels[row], fill="black")
        for column, picture in enumerate(line):
            smooth = Image.Resampling.NEAREST if picture.width < cell[0] else Image.Resampling.LANCZOS
            sheet.paste(picture.convert("RGB").resize(cell, smooth), (column * (cell[0] + GAP), y + top))
    return sheet
