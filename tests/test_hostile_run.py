"""A whole run over hostile files and servers, under a memory limit: no crash, no hang, every row accounted for."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from album import album
from hostile_corpus import hostile_images
from jobs import job_spec, ledger, write_list
from origin import Origin
from turbo_fetch.spec.specfile import dump_spec

LIMIT_BYTES = 3 << 30
"""Address space of each process; libraries and thread stacks reserve most of it."""

LIARS = {
    "svg.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "html.jpg": b"<!doctype html><html><body>Not found</body></html>",
    "empty.jpg": b"",
}


@pytest.mark.linux
@pytest.mark.timeout(300)
def test_hostile_files_go_through_a_run_under_a_memory_limit(tmp_path: Path) -> None:
    images, good = hostile_images(), album(3)
    names = list(good)
    with Origin({**images, **good, **LIARS}) as origin:
        faults = [
            origin.url(names[0], fault)
            for fault in ("endless", "truncated", "overlong", "chunked_without_end")
        ]
        liars = [origin.url(name, "content_type", type="image/jpeg") for name in LIARS]
        urls = [*(origin.url(name) for name in images), *liars, *faults, origin.url(names[1])]
        http = {"max_body_mb": 40, "timeout_s": 20, "retries": 0}
        listed = write_list(tmp_path / "list.parquet", urls)
        spec = job_spec(listed, tmp_path / "out", http=http, image={"phash": True})
        (tmp_path / "job.toml").write_text(dump_spec(spec))
        done = subprocess.run(
            [sys.executable, "-m", "turbo_fetch", "run", str(tmp_path / "job.toml")],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES)),
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "a new worker resumes" not in done.stdout + done.stderr, "a worker died"
    rows = ledger(tmp_path / "out")
    assert [row["url"] for row in rows] == urls
    outcomes = [row["outcome"] for row in rows]
    assert outcomes[len(images) :][:3] == ["not-an-image"] * 3
    assert outcomes[len(images) + 3 :][:2] == ["too-large", "truncated"]
    assert outcomes[-2:] == ["truncated", "success"]
    counts = Counter(outcomes)
    assert counts["too-many-pixels"] >= 10, "gdk-pixbuf's bombs are stopped by their headers"
    assert counts["success"] > 800
    stats = json.loads((tmp_path / "out" / "00000_stats.json").read_text())
    assert stats["count"] == 50
