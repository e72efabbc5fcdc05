"""`[fetch.score]`: what a function of the user's says of finished images."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field, model_validator

from turbo_fetch.spec.numbers import Count, Seconds, Threads
from turbo_fetch.spec.table import Place, Table

Argument = str | int | float | bool
_TYPE: Final = re.compile(r"bool|string|(int32|int64|float16|float32|float64)(\[[1-9][0-9]{0,5}\])?")


class ScoreSpec(Table):
    """`[fetch.score]`: columns that a function of yours computes from finished images, and which images they drop.

    The function is called with batches of samples: an Arrow record batch of their metadata and the column `image`, the
    bytes as they are stored. It returns the columns that are named here.
    """

    function: Annotated[str, Place(or_name=True, has_member=True)]
    """`file.py:name`, or `module:name` of an installed module: a function, or a class that is made once and then
    called. Its code is run."""
    columns: dict[str, str] = Field(min_length=1)
    """Names and types of the columns: `bool`, `string`, `int32`, `int64`, `float16`, `float32`, `float64`; with a
    length, as in `float16[512]`, lists such as embeddings."""
    where: str | None = None
    """Which images stay: a condition like that of `fetch.input.where`, on these columns and all others of the dataset,
    such as `aesthetic >= 5 and watermark < 0.5`. Images for which it is false or null end as `filtered`."""
    arguments: dict[str, Argument | tuple[Argument, ...]] = Field(default_factory=dict)
    """Keyword arguments for the class, or for each call of the function."""
    version: str = ""
    """To be changed when the function computes something else: shards with other scores are not mixed then."""
    batch_size: Count = 64
    """Images per call."""
    processes: Threads = 1
    """Processes per machine that run the function; they are shared by all workers, and each loads the model once. Their
    numbers, from 0, are in the environment variable TURBO_FETCH_SCORER."""
    timeout_s: Seconds = 300
    """Longest time of a call in seconds; after it the process is ended, and what it was called for has failed."""

    @model_validator(mode="after")
    def _names_a_function(self) -> ScoreSpec:
        code, _, member = self.function.rpartition(":")
        if not code or not re.fullmatch(r"[^\W\d]\w*", member):
            raise ValueError(
                f"function is {self.function!r}; expected a file or module and a name in it: scores.py:Aesthetic"
            )
        return self

    @model_validator(mode="after")
    def _types_are_known(self) -> ScoreSpec:
        for name, word in self.columns.items():
            if not _TYPE.fullmatch(word):
                raise ValueError(
                    f"columns has {name} = {word!r}; expected bool, string, int32, int64, float16, float32 or float64, "
                    "the numbers also as lists: float16[512]"
                )
        return self
