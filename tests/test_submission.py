"""Jobs on a Ray cluster through its Jobs API, as a user submits them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import processes
from album import album
from jobs import amid, content_hashes, job_spec, write_list
from origin import Origin
from processes import PATIENCE_S, finished, free_port, wait_until
from ray_nodes import ray_cluster, worker_processes
from turbo_fetch.errors import ClusterError
from turbo_fetch.runners.ray.submission import bundle
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(60, side=96)

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with ray_cluster(nodes=1, dashboard_port=port):
        wait_until(
            "an answer of the dashboard", lambda: not _ray_job("list", "--address", address).returncode
        )
        yield address


def _ray_job(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Ray's own command."""
    command = [str(Path(sys.executable).with_name("ray")), "job", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def _run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run turbo-fetch; nothing of this checkout is on the path of the cluster's processes but what is sent."""
    return subprocess.run(
        [sys.executable, "-m", "turbo_fetch", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=folder,
        env=dict(os.environ),
    )


def _write(folder: Path, rows: list[str], **changes: dict[str, object]) -> Path:
    urls = write_list(folder / "list.parquet", rows)
    path = folder / "job.toml"
    path.write_text(dump_spec(job_spec(urls, folder / "out", **changes)))
    return path


def test_a_job_runs_is_followed_and_its_dataset_is_there(dashboard: str, tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        spec = _write(tmp_path, [origin.url(name) for name in ALBUM])
        done = _run("submit", str(spec), "--address", dashboard, "--id", "first", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job       first" in done.stdout
    assert "60 of 60 rows (100.0%)" in done.stdout
    assert "Uploading" not in done.stdout + done.stderr
    assert "WebSocket" not in done.stdout + done.stderr
    assert len(content_hashes(tmp_path / "out")) == 4


def test_a_job_that_is_stopped_goes_on_when_it_is_submitted_again(dashboard: str, tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        patient: dict[str, object] = {"timeout_s": 500, "stall_timeout_s": 500}
        spec = _write(tmp_path, [origin.url(name) for name in ALBUM], http=patient)
        with origin.holding_after(20):
            begun = _run(
                "submit", str(spec), "--address", dashboard, "--id", "long", "--no-wait", folder=tmp_path
            )
            assert begun.returncode == 0, begun.stdout + begun.stderr
            wait_until("20 requests", lambda: origin.hits.total() >= 20)
            stopped = _ray_job("stop", "long", "--address", dashboard)
            assert stopped.returncode == 0, stopped
        hits = origin.hits.total()
        again = _run("submit", str(spec), "--address", dashboard, folder=tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "60 of 60 rows (100.0%)" in again.stdout
        assert origin.hits.total() - hits < 60
    assert worker_processes() == []


def test_ctrl_c_leaves_the_job_and_names_the_commands_for_it(dashboard: str, tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        patient: dict[str, object] = {"timeout_s": 500, "stall_timeout_s": 500}
        spec = _write(tmp_path, [origin.url(name) for name in ALBUM], http=patient)
        process = processes.start(
            [sys.executable, "-m", "turbo_fetch", "submit", spec, "--address", dashboard, "--id", "left"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
        )
        with amid(process, origin, 10):
            process.send_signal(signal.SIGINT)
            _, err = finished(process)
        assert process.returncode == 130, err
        commands = re.findall(r"`ray job ([^`]*)`", " ".join(err.split()))
        assert len(commands) == 2, err
        assert "Traceback" not in err
        followed = _ray_job(*commands[0].split())
        assert "60 of 60 rows (100.0%)" in followed.stdout
    assert _ray_job(*commands[1].split()).returncode == 0


def test_a_job_that_fails_ends_with_its_message_and_its_code(dashboard: str, tmp_path: Path) -> None:
    spec = _write(tmp_path, ["http://127.0.0.1:9/x.jpg"], input={"caption_column": "capton"})
    done = _run("submit", str(spec), "--address", dashboard, folder=tmp_path)
    assert done.returncode == 2, done
    assert "capton" in done.stdout + done.stderr


def test_no_dashboard_is_one_clear_message(tmp_path: Path) -> None:
    spec = _write(tmp_path, ["http://127.0.0.1:9/x.jpg"])
    done = _run("submit", str(spec), "--address", "http://127.0.0.1:9", folder=tmp_path)
    assert done.returncode == 2
    assert "the Ray cluster at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_sent_runs_by_itself(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", ["http://127.0.0.1:9/x.jpg"])
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle(job_spec(urls, tmp_path / "out"), folder)
    sent = tomllib.loads((folder / "spec.toml").read_text())
    assert sent["fetch"]["input"]["urls"] == ["lists/000000-list.parquet"]
    assert sent["engine"]["kind"] == "ray"
    assert (folder / "lists" / "000000-list.parquet").read_bytes() == urls.read_bytes()
    code = "import json, turbo_fetch; print(json.dumps([turbo_fetch.__file__, turbo_fetch.__version__]))"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    place, version = json.loads(told.stdout)
    assert Path(place).is_relative_to(folder)
    assert version


def test_a_folder_of_images_stays_where_all_machines_see_it(tmp_path: Path) -> None:
    photos, folder = tmp_path / "photos", tmp_path / "bundle"
    for each in (photos, folder):
        each.mkdir()
    for name, body in list(ALBUM.items())[:2]:
        (photos / name).write_bytes(body)
    bundle(job_spec(photos, tmp_path / "out"), folder)
    sent = tomllib.loads((folder / "spec.toml").read_text())
    assert sent["fetch"]["input"]["urls"] == str(photos)
    assert not (folder / "lists").exists()


def test_the_code_of_a_function_is_sent_along(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", ["http://127.0.0.1:9/x.jpg"])
    path = tmp_path / "looks.py"
    path.write_text("def looks(batch): return {'x': [1.0] * batch.num_rows}")
    folder = tmp_path / "bundle"
    folder.mkdir()
    score = {"function": f"{path}:looks", "columns": {"x": "float32"}}
    bundle(job_spec(urls, tmp_path / "out", score=score), folder)
    sent = tomllib.loads((folder / "spec.toml").read_text())
    assert sent["fetch"]["score"]["function"] == "code/looks.py:looks"
    assert (folder / "code" / "looks.py").read_bytes() == path.read_bytes()


def test_an_output_that_only_this_machine_means_is_refused(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", ["http://127.0.0.1:9/x.jpg"])
    with pytest.raises(ClusterError, match="'out', which means another folder on every machine"):
        bundle(job_spec(urls, Path("out")), tmp_path)


@contextmanager
def _service(answer: bytes | None) -> Iterator[int]:
    """Run a service that answers every request so, or with None never; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as callers:

        def serve() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                if answer is None:
                    callers.callback(caller.close)
                    continue
                with caller:
                    caller.recv(65_536)
                    caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (_http("200 OK", '{"name": "another service"}'), "not the dashboard of a Ray cluster"),
        (_http("401 Unauthorized", "no token"), "Authentication required"),
        (b"\x00\x01\x02", "Failed to connect"),
        (None, "did not answer in time"),
    ],
)
def test_what_is_no_dashboard_is_one_clear_message_within_seconds(
    tmp_path: Path, answer: bytes | None, expected: str
) -> None:
    spec = _write(tmp_path, ["http://127.0.0.1:9/x.jpg"])
    with _service(answer) as port:
        done = _run("submit", str(spec), "--address", f"http://127.0.0.1:{port}", folder=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_cluster_whose_nodes_take_no_jobs_is_told_with_the_port(tmp_path: Path) -> None:
    """As it is where two clusters share a machine, and the second one's agent cannot listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        # The agent listens on all addresses of the node.
        taken = stack.enter_context(socket.create_server(("0.0.0.0", 0))).getsockname()[1]
        stack.enter_context(ray_cluster(nodes=0, dashboard_port=port, agent_port=taken))
        spec = _write(tmp_path, ["http://127.0.0.1:9/x.jpg"])
        done = _run("submit", str(spec), "--address", f"http://127.0.0.1:{port}", folder=tmp_path)
    assert done.returncode == 2, done
    assert "--dashboard-agent-listen-port" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_service_is_no_cluster(tmp_path: Path) -> None:
    spec = _write(tmp_path, ["http://127.0.0.1:9/x.jpg"])
    with _service(_http("200 OK", "{}")) as port:
        address = f"127.0.0.1:{port}"
        engine = ["--set", "engine.kind=ray", "--set", f"engine.address={address}"]
        done = _run("run", str(spec), *engine, folder=tmp_path)
    assert done.returncode == 2
    assert f"no Ray cluster at {address}: something listens there" in done.stderr
    assert "Traceback" not in done.stderr
