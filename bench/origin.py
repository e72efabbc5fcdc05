"""A real web server for benchmarks and the demo: nginx over http and https, on loopback ports of its own.

One worker process, no access log, everything it writes below one folder. It is started and stopped by its
process id, and is never counted among the processes that a benchmark measures.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_START_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.01

_CONFIGURATION: Final = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off;
    types {{ image/jpeg jpg; text/html html; }}
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    keepalive_timeout 60s;
    open_file_cache max=8192 inactive=60s;
    client_body_temp_path temporary/body;
    proxy_temp_path temporary/proxy;
    fastcgi_temp_path temporary/fastcgi;
    uwsgi_temp_path temporary/uwsgi;
    scgi_temp_path temporary/scgi;
    ssl_certificate certificate.pem;
    ssl_certificate_key key.pem;
    ssl_session_cache shared:tls:10m;
    server {{
        listen 127.0.0.1:{http_port} backlog=4096;
        listen 127.0.0.1:{https_port} ssl backlog=4096;
        root "{root}";
{answers}
    }}
}}
"""


@dataclass(frozen=True)
class Origin:
    """A running server: where it listens, and the certificate that a client must trust for https."""

    http_url: str
    https_url: str
    certificate: Path


def find_nginx() -> str | None:
    """Return the path of nginx, or None where it is not installed."""
    # Debian puts it in /usr/sbin, which is not on the path of ordinary users.
    return shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


@contextmanager
def serve(root: Path, prefix: Path, answers: str = "") -> Iterator[Origin]:
    """Serve the files of `root` until the block ends; nginx keeps its own files below `prefix`.

    `answers` are locations in its language, for what is no file.

    Raises `FileNotFoundError` without nginx, and `RuntimeError` with its error log when it does not start.
    """
    nginx = find_nginx()
    if nginx is None:
        raise FileNotFoundError("nginx is not installed; on Debian: apt-get install nginx-light")
    (prefix / "temporary").mkdir(parents=True, exist_ok=True)
    certificate = prefix / "certificate.pem"
    make_certificate(certificate, prefix / "key.pem")
    http_port, https_port = free_ports(2)
    configuration = prefix / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            user=_user_line(),
            root=root.resolve(),
            http_port=http_port,
            https_port=https_port,
            answers=answers,
        )
    )
    arguments = [nginx, "-p", str(prefix.resolve()), "-c", str(configuration.resolve())]
    with (prefix / "start.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_until_listening(process, https_port, prefix)
        yield Origin(f"http://127.0.0.1:{http_port}", f"https://127.0.0.1:{https_port}", certificate)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that this program started: a request first, force after ten seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def free_ports(count: int) -> list[int]:
    """Return distinct loopback ports that nothing listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def make_certificate(certificate: Path, key: Path) -> None:
    """Make a self-signed certificate for loopback, good for 30 days, unless a fresh one is there."""
    if certificate.is_file() and key.is_file() and time.time() - certificate.stat().st_mtime < 20 * 86_400:
        return
    # Python 3.13 and later accept only roots that say what they may sign.
    extensions = (
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "keyUsage=critical,digitalSignature,keyCertSign",
    )
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    command += ["-subj", "/CN=turbo-fetch benchmark", "-keyout", str(key), "-out", str(certificate)]
    for extension in extensions:
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True)


def trusted_bundle(certificate: Path, path: Path) -> Path:
    """Write the system's authorities and `certificate` to `path`: what a client that trusts both loads.

    A bundle with one certificate alone would load much faster than what clients load in the real world.
    """
    system = ssl.get_default_verify_paths().cafile or ssl.get_default_verify_paths().openssl_cafile
    authorities = Path(system) if Path(system).is_file() else Path("/etc/ssl/certs/ca-certificates.crt")
    path.write_bytes(authorities.read_bytes() + b"\n" + certificate.read_bytes())
    return path


def _user_line() -> str:
    """Started by root, nginx would drop to a user who cannot read the cache folder."""
    return f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, prefix: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(_POLL_S)
    logs = [path.read_text() for path in (prefix / "start.log", prefix / "error.log") if path.is_file()]
    raise RuntimeError("nginx did not start:\n" + "\n".join(logs))
