"""Settings of the whole suite: Hypothesis profiles, an object store, and what is skipped elsewhere than on Linux."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import sys
import warnings
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

import processes

if TYPE_CHECKING:
    from dataset_hub import DatasetHub
    from turbo_fetch.storage import Storage

# The same examples each time, so that a change is judged by itself; "slow" looks for new ones.
settings.register_profile(
    "fast", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "slow", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# Tests run side by side, one per core: threads of PyTorch on top of that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read by Ray when it is first imported, by whichever test, and by every process that it starts.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Its workers give way to all other programs by default: to other tests, for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
# `nohup` has it ignored by all that a test starts, also where a test is about it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# As in an activated environment: a job's entry point is the `python` of the path.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server with an empty bucket `data`, to which fsspec is configured."""
    from object_store import configured, s3_server

    with s3_server() as address, configured(address):
        yield address


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty place for a dataset, on disk and in an object store."""
    from object_store import empty_bucket
    from turbo_fetch.dataset.place import open_place

    if request.param == "local":
        return open_place(str(tmp_path / "out"))
    empty_bucket(request.getfixturevalue("s3"))
    return open_place("s3://data/set", str(tmp_path / "spool"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    """A hub of datasets that this process and those it starts know, and a home of their own."""
    import huggingface_hub.constants

    from dataset_hub import TOKEN, dataset_hub

    with dataset_hub() as hub:
        known = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        homes = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        for name, value in {**known, **homes}.items():
            monkeypatch.setenv(name, value)
        # Read when the package is imported.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield hub


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with clusters, which wait more than they work, and with what may take long."""
    begins: dict[str, tuple[bool, float]] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        begin = (item.get_closest_marker("cluster") is None, -limit.args[0] if limit else 0.0)
        begins[item.location[0]] = min(begin, begins.get(item.location[0], begin))
    items.sort(key=lambda item: begins[item.location[0]])


def pytest_collection_finish() -> None:
    """Have no collection of garbage look through what was imported by then, which takes half a second each time."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """One for clusters beside one for each core."""
    cores = len(psutil.Process().cpu_affinity() or ()) if sys.platform == "linux" else psutil.cpu_count()
    return 1 + (cores or 1)


class FilesAndClusters(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A file goes to one worker, which makes its fixtures once; all clusters go to one, and are one at a time."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        # Which marks a test has, only workers know.
        return "cluster" if "pytest.mark.cluster" in _content(self.config.rootpath / file) else file


@cache
def _content(file: Path) -> str:
    return file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesAndClusters:
    """Take the scheduler of this suite."""
    return FilesAndClusters(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what asks for more than POSIX, elsewhere."""
    if sys.platform != "linux" and item.get_closest_marker("linux"):
        pytest.skip("needs Linux")


@pytest.fixture(autouse=True)
def _processes_end_with_their_test() -> Iterator[None]:
    with processes.ended():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Let go of what a failed test left open: Python would warn of it in the next test, which would fail for it."""
    result = yield
    # pytest keeps the last exception for debuggers, and with it all that its frames hold, until the next test begins.
    names = [name for name in ("last_type", "last_value", "last_traceback", "last_exc") if hasattr(sys, name)]
    if names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                delattr(sys, name)
            gc.collect()
    return result


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Spare a measurement of time the collections of garbage: what other tests have imported makes them long."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def others_may_warn() -> Iterator[None]:
    """Leave warnings of other people's libraries, such as files that they do not close, to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()
