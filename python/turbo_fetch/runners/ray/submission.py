"""Jobs on a Ray cluster through its Jobs API: the spec, its lists and this version of turbo-fetch are sent along."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import turbo_fetch
from turbo_fetch.errors import ClusterError, MissingExtra, TurboFetchError
from turbo_fetch.plan.lists import find_lists
from turbo_fetch.score.messages import ScoreJob
from turbo_fetch.spec import EngineSpec, FetchSpec, Spec
from turbo_fetch.spec.specfile import dump_spec
from turbo_fetch.user_code import split_member

try:
    import requests
    from ray.job_submission import JobSubmissionClient
except ModuleNotFoundError as error:
    raise MissingExtra("ray", "ray", "turbo-fetch submit") from error

SPEC: Final = "spec.toml"
LISTS: Final = "lists"
CODE: Final = "code"
MAX_LIST_BYTES: Final = 400_000_000
"""Ray keeps what is sent along in the head node's memory, and takes at most 500 MiB."""

CONNECT_S: Final = 8.0
SILENCE_S: Final = 60.0
"""How long the dashboard may take to say who it is, and how long to do something; Ray itself would wait for ever."""

_TALKATIVE: Final = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Ray's loggers that have a level of their own."""
_NOT_SENT: Final = shutil.ignore_patterns("__pycache__", "*.pyc")


class _Client(JobSubmissionClient):
    """Ray's client, which sets no limit of time."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        silence_s = CONNECT_S if endpoint == "/api/version" else SILENCE_S
        return super()._do_request(method, endpoint, **{"timeout": (CONNECT_S, silence_s), **options})


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job stands: `PENDING`, `RUNNING`, `STOPPED`, `SUCCEEDED` or `FAILED`; its exit code once it has one."""

    status: str
    message: str | None
    exit_code: int | None


class Jobs:
    """The jobs of a cluster; raises ClusterError if it cannot be reached or refuses."""

    def __init__(self, address: str | None) -> None:
        # What it is uploading, and that a socket closed, is of no use to a user.
        for name in ("ray", *_TALKATIVE):
            logging.getLogger(name).setLevel(logging.ERROR)
        with _told(address):
            self._client = _Client(address)
        self._address = address

    def submit(self, spec: Spec, job: str | None = None, *, install: bool = False) -> str:
        """Start a job and return its id; `job` asks for one.

        With `install`, the nodes install the packages that turbo-fetch needs from their package index; else they
        must have them. Raises SpecError or InputError if the spec cannot be sent.
        """
        with TemporaryDirectory(prefix="turbo-fetch-") as folder:
            bundle(spec, Path(folder))
            environment: dict[str, Any] = {"working_dir": folder}
            if install:
                environment["pip"] = requirements()
            with _told(self._address):
                return self._client.submit_job(
                    entrypoint=f"python -m turbo_fetch run {SPEC}",
                    submission_id=job,
                    runtime_env=environment,
                    metadata={"turbo-fetch": turbo_fetch.__version__},
                )

    def state(self, job: str) -> JobState:
        """Return how a job stands."""
        with _told(self._address):
            info = self._client.get_job_info(job)
        return JobState(str(info.status), info.message, info.driver_exit_code)

    async def logs(self, job: str) -> AsyncIterator[str]:
        """Yield what a job prints, from its beginning, until it is over."""
        with _told(self._address):
            async for lines in self._client.tail_job_logs(job):
                yield lines


def bundle(spec: Spec, folder: Path) -> None:
    """Put into `folder` what a job needs: this package, the spec, and lists and code that only this machine has.

    Raises ClusterError for an output that other machines cannot see, or lists too large to be sent, SpecError for code
    that is not there.
    """
    package = Path(turbo_fetch.__file__).parent
    shutil.copytree(package, folder / "turbo_fetch", ignore=_NOT_SENT)
    changes: dict[str, Any] = {"engine": _on_this_cluster(spec.engine)}
    if spec.fetch is not None:
        changes["fetch"] = _with_code(_with_lists(spec.fetch, folder), folder)
    (folder / SPEC).write_text(dump_spec(spec.model_copy(update=changes)), encoding="utf-8")


def requirements() -> list[str]:
    """Return the packages that turbo-fetch needs without extras, as pip takes them."""
    return [line for line in distribution("turbo-fetch").requires or () if "extra ==" not in line]


def _on_this_cluster(engine: EngineSpec) -> EngineSpec:
    return engine.model_copy(update={"kind": "ray", "address": "auto"})


def check_output(path: str) -> None:
    """Raise ClusterError for an output, as the user gave it, that is not the same on all machines."""
    if "://" not in path and not Path(path).is_absolute():
        raise ClusterError(
            f"fetch.output.path is {path!r}, which means another folder on every machine; expected the URL "
            "of an object store, or an absolute path of a folder that all machines of the cluster share"
        )


def _with_lists(fetch: FetchSpec, folder: Path) -> FetchSpec:
    check_output(fetch.output.path)
    files = find_lists(fetch.input)
    # A folder of images is read by the nodes, which have to see it.
    local = [None if file.format == "images" else file.local_path for file in files]
    if all(path is None for path in local):
        return fetch
    size = sum(file.size or 0 for file, path in zip(files, local, strict=True) if path is not None)
    if size > MAX_LIST_BYTES:
        raise ClusterError(
            f"the list {', '.join(file.url for file in files[:3])} has {size:,} bytes, too many to send along "
            f"(at most {MAX_LIST_BYTES:,}); "
            "expected a larger one in an object store, with its URL in fetch.input.urls"
        )
    lists = folder / LISTS
    lists.mkdir()
    urls = []
    for number, (file, path) in enumerate(zip(files, local, strict=True)):
        name = f"{LISTS}/{number:06d}-{path.name if path is not None else ''}"
        if path is not None:
            shutil.copyfile(path, folder / name)
        urls.append(file.url if path is None else name)
    return fetch.model_copy(update={"input": fetch.input.model_copy(update={"urls": tuple(urls)})})


def _with_code(fetch: FetchSpec, folder: Path) -> FetchSpec:
    """Take the file along in which the function of `[fetch.score]` is; the driver gives its text to all nodes."""
    if fetch.score is None:
        return fetch
    code = ScoreJob.of(fetch.score).code
    if code.text is None:
        return fetch
    name = f"{CODE}/{Path(code.name).name}"
    (folder / CODE).mkdir()
    (folder / name).write_bytes(code.text)
    function = f"{name}:{split_member(fetch.score.function)[1]}"
    return fetch.model_copy(update={"score": fetch.score.model_copy(update={"function": function})})


@contextmanager
def _told(address: str | None) -> Iterator[None]:
    """Turn what the Jobs API raises into a ClusterError: it has exceptions of many kinds, also for what is no Ray."""
    try:
        yield
    except TurboFetchError:
        raise
    except Exception as error:
        raise ClusterError(
            f"the Ray cluster at {address or 'RAY_ADDRESS'}: {_reason(error)}; expected the address of its dashboard, "
            "such as http://127.0.0.1:8265, and, if it uses tokens, RAY_AUTH_MODE=token with its token in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError | json.JSONDecodeError):
        return "something answers there, but it is not the dashboard of a Ray cluster"
    if "No available agent" in str(error):
        return (
            "its nodes take no jobs; it may have begun just now, or the port for that is held by another Ray on its "
            "machine (`ray start --dashboard-agent-listen-port`, by default 52365)"
        )
    if isinstance(error, requests.Timeout):
        return "something listens there, but it did not answer in time"
    # Ray adds advice, of which the sentence around this one has the gist.
    text = re.split(r" Note: |\.\. ", " ".join(str(error).split()), maxsplit=1)[0]
    return text[:500].rstrip(".") or type(error).__name__
