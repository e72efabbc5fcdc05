"""Processes of our own start light: what is put off until it is used is then as if it had not been."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from album import album
from jobs import job_spec, start, write_list
from origin import Origin
from processes import PATIENCE_S, finished

ALBUM = album(3)


def _python(code: str, folder: Path, **environment: str) -> str:
    """Run code in a process of its own, which finds the modules in a folder; return what it prints."""
    path = os.pathsep.join([str(folder), *sys.path])
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


LATE = """
import sys
from turbo_fetch import startup

startup.LATE = ("example", "example.inner")
startup.with_late_modules()
"""
"""Modules of the tests stand in for those that are late."""

EXECUTED = """
import sys, time
sys.stdout.write(f"{__name__} ")
value = 1
# Others that ask meanwhile have to wait.
time.sleep(0.05)
def later(): return value + 1
"""


def test_a_late_module_is_executed_once_however_many_threads_ask(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXECUTED)
    code = f"""{LATE}
import example, threading, types
sys.stdout.write("imported ")
answers, together = [], threading.Barrier(16)
def ask():
    together.wait()
    answers.append(example.later())
threads = [threading.Thread(target=ask) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert answers == [2] * 16, answers
assert type(example) is types.ModuleType
import example as again
assert again is example
"""
    assert _python(code, tmp_path) == "imported example "


@pytest.mark.parametrize(
    "use",
    [
        "import example.inner; print(example.inner.value)",
        "import example.inner as inner; print(inner.value)",
        "from example import inner; print(inner.value)",
        "from example.inner import value; print(value)",
        "import importlib; print(importlib.import_module('example.inner').value)",
        "import example.inner; print(vars(sys.modules['example.inner'])['__name__'], example.inner.value)",
    ],
)
def test_a_late_module_is_found_whatever_the_import_says(tmp_path: Path, use: str) -> None:
    (tmp_path / "example").mkdir()
    (tmp_path / "example" / "__init__.py").write_text("outer = 1\n")
    (tmp_path / "example" / "inner.py").write_text("import example\nvalue = example.outer + 6\n")
    assert _python(f"{LATE}{use}", tmp_path).split()[-1] == "7"


def test_a_late_module_that_cannot_be_executed_says_why_each_time(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("import nowhere\n")
    code = f"""{LATE}
import example
for _ in range(2):
    try:
        example.value
    except ModuleNotFoundError as error:
        print(error.name)
try:
    example.__path__
except AttributeError:
    print("no package")
"""
    assert _python(code, tmp_path).split() == ["nowhere", "nowhere", "no", "package"]


def test_a_module_that_is_not_installed_is_missed_when_it_is_imported(tmp_path: Path) -> None:
    code = f"{LATE}\ntry:\n    import example\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert _python(code, tmp_path).split() == ["example"]


def test_late_certificates_are_those_of_the_store_from_the_first_connection_on(tmp_path: Path) -> None:
    code = """
import ssl
from turbo_fetch.startup import late_certificates

before = ssl.create_default_context()
with late_certificates():
    late = ssl.create_default_context()
after = ssl.create_default_context()
assert not late.get_ca_certs() and before.get_ca_certs()
assert (late.verify_mode, late.check_hostname, late.options) == (
    before.verify_mode, before.check_hostname, before.options
)
late.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
assert type(late) is ssl.SSLContext
assert late.get_ca_certs() == before.get_ca_certs() == after.get_ca_certs()
"""
    with Origin({}, tls=True) as origin:
        _python(code, tmp_path, SSL_CERT_FILE=str(origin.write_authority(tmp_path)))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_run_trusts_the_certificates_of_the_store_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    with Origin(ALBUM, tls=True) as origin, Origin(ALBUM, tls=True) as stranger:
        known = origin if is_known else stranger
        monkeypatch.setenv("SSL_CERT_FILE", str(known.write_authority(tmp_path)))
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
        process = start(job_spec(urls, tmp_path / "out"), tmp_path)
        out, err = finished(process)
    assert ("3 of 3 rows" in out) is is_known, out + err
    assert ("tls 3" in out) is not is_known, out + err
