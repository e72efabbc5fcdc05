"""The command line as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from album import album
from jobs import job_spec, start, write_list
from origin import Origin
from processes import PATIENCE_S, finished
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(20)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "turbo_fetch", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_run_ends_with_a_summary_of_samples_failures_and_place(tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        rows = [*(origin.url(name) for name in ALBUM), origin.url("missing.jpg"), "no url"]
        urls = write_list(tmp_path / "list.parquet", rows)
        process = start(job_spec(urls, tmp_path / "out"), tmp_path)
        out, err = finished(process)
    assert process.returncode == 0, err
    assert f"dataset   {tmp_path / 'out'}" in out
    assert "20 of 22 rows (90.9%) in 1 shard," in out
    assert re.search(r"failures\s+.*http-4xx 1", out)
    assert re.search(r"failures\s+.*url 1", out)
    assert re.search(r"failing\s+127\.0\.0\.1 1", out)


def test_set_overrides_a_key(tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
        spec = job_spec(urls, tmp_path / "out")
        process = start(spec, tmp_path, "--set", "fetch.output.samples_per_shard=7", "--quiet")
        out, err = finished(process)
    assert process.returncode == 0, err
    assert "in 3 shards" in out
    assert err == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input": {"urls": "/nowhere/list.parquet"}}, "/nowhere/list.parquet"),
        ({"input": {"url_column": "URL"}}, "url"),
        ({"output": {"path": "/proc/turbo-fetch"}}, "/proc/turbo-fetch"),
    ],
)
def test_bad_input_is_one_clear_message_without_a_traceback(
    tmp_path: Path, change: dict[str, dict[str, str]], expected: str
) -> None:
    urls = write_list(tmp_path / "list.parquet", ["http://127.0.0.1:1/x.jpg"])
    process = start(job_spec(urls, tmp_path / "out", **change), tmp_path)
    out, err = finished(process)
    assert process.returncode in {1, 2}
    assert expected in err
    assert "Traceback" not in err
    assert out == ""
    assert not list(tmp_path.glob("out/*.tar"))


def test_a_wrong_column_leaves_no_output_behind(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", ["http://127.0.0.1:1/x.jpg"])
    process = start(job_spec(urls, tmp_path / "out", input={"keep_columns": ["licence"]}), tmp_path)
    _, err = finished(process)
    assert process.returncode == 2
    assert "licence" in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_exits_with_2_and_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text('[fetch.input]\nurl = "x"\n[fetch.output]\npath = "y"\n')
    done = _run("run", str(path))
    assert done.returncode == 2
    assert "fetch.input.url: unknown key; did you mean 'urls'?" in done.stderr


def test_usage_errors_exit_with_2() -> None:
    assert _run("run").returncode == 2
    assert _run("fetch", "x").returncode == 2


def test_the_schema_describes_what_the_program_accepts() -> None:
    schema = json.loads(_run("schema").stdout)
    assert schema == Spec.model_json_schema()
    assert schema["$defs"]["ImageSpec"]["properties"]["mode"]["enum"][-1] == "stretch"


def test_the_version_is_that_of_the_package() -> None:
    cargo = tomllib.loads((Path(__file__).parent.parent / "Cargo.toml").read_text())
    assert _run("--version").stdout == f"turbo-fetch {cargo['workspace']['package']['version']}\n"


def test_help_names_the_exit_codes() -> None:
    text = _run("run", "--help").stdout
    assert "130" in text
    assert "--set" in text


def test_spec_dumped_by_the_example_in_the_readme_is_valid(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for block in blocks:
        spec = Spec.model_validate(tomllib.loads(block))
        assert Spec.model_validate(tomllib.loads(dump_spec(spec))) == spec


STARTS = {
    "run spec.toml": 1,
    "run --quiet spec.toml --set fetch.http.retries=0": 1,
    "run --set=fetch.http.retries=0 -q spec.toml": 1,
    "run cluster.toml --set engine.kind=local": 1,
    "run cluster.toml": 0,
    "run spec.toml --set engine.kind=ray": 0,
    'run spec.toml --set engine.kind="spark"': 0,
    "run spec.toml --help": 0,
    "run spec.toml --nonsense": 0,
    "run spec.toml --set": 0,
    "run spec.toml cluster.toml": 0,
    "run": 0,
    "run train.toml --set train.nonsense=1": 0,
    "run torn.toml": 0,
    "run nowhere.toml": 0,
    f"run {'x' * 300}.toml": 0,
    "plan spec.toml": 0,
    "img2dataset --url_list=nowhere.txt": 1,
    "img2dataset nowhere.txt": 1,
    "img2dataset --url_list=nowhere.txt --distributor=ray": 0,
    "img2dataset --url_list=nowhere.txt --set=engine.kind=spark": 0,
    "img2dataset --url-list nowhere.txt --print_spec": 0,
    "img2dataset --url_lst=nowhere.txt": 0,
    "img2dataset --help": 0,
    "img2dataset": 0,
    "--help": 0,
    "": 0,
}
"""How many workers a command line starts on a machine of few cores. The list is missing, so that none gets to work."""

COUNT_STARTS = """
import json, sys
from turbo_fetch.cli import main
from turbo_fetch.runners import processes

lines, counts = json.loads(sys.argv[1]), []
start = processes._start

def counted():
    counts[-1] += 1
    return start()

processes._start = counted
for line in lines:
    counts.append(0)
    sys.argv = ["turbo-fetch", *line.split()]
    try:
        main()
    except SystemExit:
        pass
with open("counts.json", "w") as file:
    json.dump(counts, file)
"""


def test_a_worker_is_started_early_only_for_what_fetches_on_this_machine(tmp_path: Path) -> None:
    fetch = '[fetch.input]\nurls = "nowhere.txt"\n[fetch.output]\npath = "out"\n'
    (tmp_path / "spec.toml").write_text(f"{fetch}[engine]\nworkers = 1\n")
    (tmp_path / "cluster.toml").write_text(f'{fetch}[engine]\nkind = "ray"\n')
    (tmp_path / "train.toml").write_text('[train]\nbase = "model"\nsubject = "photos"\nclass = "dog"\n')
    (tmp_path / "torn.toml").write_text("[fetch")
    subprocess.run(
        [sys.executable, "-c", COUNT_STARTS, json.dumps(list(STARTS))],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    counts = json.loads((tmp_path / "counts.json").read_bytes())
    assert dict(zip(STARTS, counts, strict=True)) == STARTS


def test_a_worker_that_was_started_in_vain_is_ended(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('[fetch.input]\nurls = "nowhere.txt"\n[fetch.output]\npath = "out"\n')
    code = (
        "import sys, psutil\n"
        "from turbo_fetch.cli import main\n"
        "from turbo_fetch.runners import processes\n"
        f"sys.argv = ['turbo-fetch', 'run', {str(spec)!r}]\n"
        "started = []\n"
        "start = processes._start\n"
        "processes._start = lambda: started.append(start()) or started[-1]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 2\n"
        "assert len(started) == 1, started\n"
        "assert not psutil.Process().children()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=PATIENCE_S)
