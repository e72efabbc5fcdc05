"""What workers read on the driver's disk themselves: a machine that does not see it is told before a row is lost."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import processes
from album import album
from jobs import job_spec, ledger, start, write_list
from namespaces import may_use_namespaces
from ray_nodes import NODE, ray_cluster
from turbo_fetch.errors import InputError
from turbo_fetch.sources.landmarks import landmarks, look_for, places
from turbo_fetch.spec import FetchSpec, Spec

ALBUM = album(8, side=48)

KINDS = ["image folder", "pattern of image columns", "files", "image column", "deny list"]


def _job(what: str, folder: Path, output: Path, **engine: object) -> tuple[Spec, Path, str]:
    """Return a job of images on this disk, where they lie, and the key that says so."""
    photos = folder / "photos"
    (photos / "deep").mkdir(parents=True)
    for name, body in ALBUM.items():
        (photos / "deep" / f"{name}.jpg").write_bytes(body)
    urls = write_list(folder / "list.parquet", [f"deep/{name}.jpg" for name in ALBUM])
    tables: dict[str, Any] = {"sources": {"files": [str(photos)]}}
    key, place = "fetch.sources.files", photos
    if what == "image folder":
        urls, key, tables = photos, "fetch.input.urls", {}
    elif "image column" in what:
        urls = photos / "list.parquet"
        pq.write_table(pa.table({"image": list(ALBUM.values()), "caption": list(ALBUM)}), urls)
        urls = place = photos / "*.parquet" if "pattern" in what else urls
        key, tables = "fetch.input.urls", {"input": {"image_column": "image"}}
    elif what == "deny list":
        place = photos / "denied.txt"
        place.write_text("http://denied.example/\n")
        key = "fetch.deny.urls"
        write_list(urls, [f"photos/deep/{name}.jpg" for name in ALBUM])
        tables = {"sources": {"files": [str(folder)]}, "deny": {"urls": [str(place)]}}
    spec = job_spec(urls, output, engine=engine or {"threads": 1}, output={"samples_per_shard": 2}, **tables)
    return spec, place, key


def _fetch(spec: Spec) -> FetchSpec:
    assert spec.fetch is not None
    return spec.fetch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", ["whole", "other files", "nothing in it", "not at all"])
def test_a_machine_that_lacks_what_the_driver_sees_is_named_with_the_place(
    kind: str, there: str, tmp_path: Path
) -> None:
    spec, place, key = _job(kind, tmp_path, tmp_path / "out")
    seen = pickle.loads(pickle.dumps(landmarks(places(_fetch(spec)))))
    assert any((each.key, each.place) == (key, str(place)) for each in seen)
    photos = tmp_path / "photos"
    if there != "whole":
        photos.rename(tmp_path / "elsewhere")
    if there != "not at all":
        photos.mkdir(exist_ok=True)
    if there == "other files":
        (photos / "deep").mkdir()
        (photos / "other.jpg").write_bytes(b"")
    if there == "whole":
        look_for(seen)
        return
    expected = rf"{re.escape(str(place))} \({key}\): the machine .* does not see there what the driver sees"
    with pytest.raises(InputError, match=expected):
        look_for(seen)


def test_a_folder_from_which_files_go_is_the_same_folder(tmp_path: Path) -> None:
    spec, place, _ = _job("files", tmp_path, tmp_path / "out")
    for number in range(3):
        (place / f"{number}.jpg").write_bytes(b"")
    seen = landmarks(places(_fetch(spec)))
    shutil.rmtree(place / "deep")
    (place / "1.jpg").unlink()
    look_for(seen)


def test_what_the_driver_lacks_too_is_not_looked_for(tmp_path: Path) -> None:
    spec, place, _ = _job("files", tmp_path, tmp_path / "out")
    shutil.rmtree(place)
    assert landmarks(places(_fetch(spec))) == ()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(nodes=0) as cluster:
        yield cluster


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.skipif(not may_use_namespaces(), reason="to hide a folder from a node needs root")
@pytest.mark.parametrize("kind", ["image folder", "deny list"])
def test_a_node_without_the_images_ends_the_run_and_no_row_of_it(
    kind: str, cluster: Any, tmp_path: Path
) -> None:
    """The run goes on where the folder is there, and all rows have their images."""
    spec, place, key = _job(kind, tmp_path, tmp_path / "out", kind="ray", address=cluster.address)
    hide = f"hostname lacking && mount -t tmpfs none {tmp_path / 'photos'} && exec"
    ray = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--address={cluster.address}",
        "--num-cpus=1",
    ]
    command = ["unshare", "--mount", "--uts", "sh", "-c", f'{hide} "$@"', "sh", *ray, "--block"]
    with processes.started(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        process = start(spec, tmp_path)
        _, err = process.communicate(timeout=120)
    told = " ".join(err.split())
    assert process.returncode == 2, err
    assert f"{place} ({key}): the machine lacking does not see there what the driver sees" in told
    assert "Traceback" not in err
    assert ledger(tmp_path / "out") == []
    node = cluster.add_node(**NODE)
    try:
        process = start(spec, tmp_path)
        _, err = process.communicate(timeout=120)
    finally:
        cluster.remove_node(node)
    assert process.returncode == 0, err
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["success"] * len(ALBUM)
