"""Every exception that turbo-fetch raises on purpose.

A bad sample is data (see :mod:`turbo_fetch.outcomes`); a bad job is one of these::

    TurboFetchError
    ├── SpecError            the spec, or a command-line override, is wrong      exit code 2
    ├── InputError           the URL list cannot be read or lacks a column       exit code 2
    ├── PicturesError        the images to learn from do not do                exit code 2
    ├── ModelError           a model is missing, broken, or of no known family   exit code 2
    ├── TrainingFailed       out of memory, or the loss is no number             exit code 1
    ├── OutputError          the output cannot be written, or is full            exit code 1
    │   ├── OutputExists     the output holds something this job must not touch  exit code 2
    │   └── OutputHeld       another run has the output, or took it over         exit code 75
    ├── DatasetError         a finished dataset is damaged, or not one        exit code 1
    ├── MissingExtra         an optional package is needed and not installed     exit code 2
    ├── ClusterError         no cluster, or one that cannot do this job            exit code 2
    ├── Unreachable          no network, resolver or proxy: nobody answers        exit code 1
    ├── TooFewSamples        fewer rows became samples than the spec demands      exit code 1
    ├── ScoringFailed        the function of [fetch.score] fails for all images  exit code 1
    ├── ShardFailed          a shard could not be finished                       exit code 1
    └── Interrupted          stopped by a signal; the run can be resumed         exit code 130
"""

from __future__ import annotations

import errno

PROTOCOL_EXTRAS = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "hf": ("huggingface-hub", "hub"),
}
"""Package and extra that an fsspec protocol needs, as MissingExtra takes them."""


class TurboFetchError(Exception):
    """Base of all deliberate errors; the message says what, the value, and what was expected."""

    exit_code: int = 1


class SpecError(TurboFetchError):
    """The spec is wrong; the message lists every problem with file, key, value and expectation."""

    exit_code = 2


class InputError(TurboFetchError):
    """The URL list is missing, unreadable, or lacks a column that the spec names."""

    exit_code = 2


class PicturesError(TurboFetchError):
    """The images to learn from are missing, unreadable, too small or too few; the message lists them all."""

    exit_code = 2


class ModelError(TurboFetchError):
    """A model cannot be found or loaded, or is of a family that is not known."""

    exit_code = 2


class TrainingFailed(TurboFetchError):
    """Training cannot go on: out of memory, or a loss that is no number. The last checkpoint stays good."""


class OutputError(TurboFetchError):
    """The output place cannot be written to, or not be read."""


class OutputExists(OutputError):
    """The output place holds a dataset that this job may not continue or replace."""

    exit_code = 2


class OutputHeld(OutputError):
    """Another run works on the output: it has it, or took it over while this one was silent. Try again later."""

    exit_code = 75


class DatasetError(TurboFetchError):
    """A finished dataset, or a file of it, is damaged, missing, or not what it says."""


class MissingExtra(TurboFetchError):
    """A feature was asked for whose optional dependency is not installed."""

    exit_code = 2

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}'. Install it with: pip install 'turbo-fetch[{extra}]'"
        )


class ClusterError(TurboFetchError):
    """The cluster is not there, or a node lacks a package, has another version, or does not see the output."""

    exit_code = 2


class ScoringFailed(TurboFetchError):
    """The function of `[fetch.score]` fails for every image, or cannot be made ready; the message has its traceback."""


class ShardFailed(TurboFetchError):
    """A shard could not be finished after all restarts; the others are complete."""


class Unreachable(TurboFetchError):
    """The run was stopped since this machine reaches nobody; its state is saved, and it can be resumed."""


class TooFewSamples(TurboFetchError):
    """The dataset is complete, but no row became a sample, or fewer than `fetch.min_success` demands.

    `report` is the account of the dataset, as text.
    """

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


class Interrupted(TurboFetchError):
    """The run was stopped by a signal after its state was saved."""

    exit_code = 130


def named(kind: str, message: str) -> TurboFetchError:
    """Return the error that another process told of, by the name of its class and what it says."""
    error = globals()[kind](message)
    assert isinstance(error, TurboFetchError)
    return error


def shortage(error: BaseException) -> str | None:
    """Return a sentence for an error by which the system refuses more files, or more threads; None for another one."""
    if getattr(error, "errno", None) in {errno.EMFILE, errno.ENFILE}:
        return "too many open files: expected a higher limit (ulimit -n), or a smaller fetch.http.concurrency"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return (
            "no more threads can be started: expected a higher limit of processes (ulimit -u, or the container's), "
            "fewer workers (engine.workers), or a smaller fetch.sources.concurrency"
        )
    return None
