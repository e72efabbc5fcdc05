"""Functions for `[fetch.score]` in tests, as a user would write them, in a file of their own."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

BRIGHTNESS = """
    import io
    import os
    import time
    import numpy as np
    from PIL import Image

    class Brightness:
        def __init__(self, marks=None):
            if marks:
                with open(marks, "a") as file:
                    file.write(f"{os.getpid()}\\n")

        def __call__(self, batch):
            images = [np.asarray(Image.open(io.BytesIO(each))) for each in batch["image"].to_pylist()]
            means = np.array([image.mean(axis=(0, 1)) for image in images])
            return {"brightness": means.mean(axis=1), "colour": means}
"""
"""The mean of all pixels, and of each channel."""

COLUMNS = {"brightness": "float32", "colour": "float16[3]"}

FAULTY = """
    import os
    import signal
    import time

    def faulty(batch, how="raise", bad=()):
        captions = batch["caption"].to_pylist()
        if not bad or set(bad) & set(captions):
            if how == "raise":
                raise ValueError("the model does not like it")
            if how == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if how == "hang":
                time.sleep(600)
            if how == "rows":
                captions = captions[:-1]
            if how == "type":
                captions = ["long"] * len(captions)
        return {"length": [len(caption) if caption != "long" else caption for caption in captions]}
"""
"""A function that fails, in ways that `how` names, for batches with one of the captions `bad`, or for all."""

HELD = """
    class Held(Brightness):
        def __call__(self, batch):
            with open(os.environ["CALLS"], "a") as file:
                file.write(" ".join(batch["caption"].to_pylist()) + "\\n")
            while "image 17" in batch["caption"].to_pylist() and os.path.exists(os.environ["HELD"]):
                time.sleep(0.005)
            return super().__call__(batch)
"""
"""After `BRIGHTNESS`: it notes its calls, and stays in one of them while a file is there."""


def written(folder: Path, code: str, name: str = "scores.py") -> Path:
    """Write the code into a file, and return its path."""
    path = folder / name
    path.write_text(dedent(code))
    return path
