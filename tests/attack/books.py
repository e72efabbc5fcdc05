"""Datasets of which something was changed by others: it is told, never a traceback, and repaired to the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from typer.testing import CliRunner, Result

import turbo_fetch
from album import album
from attack.campaign import Attack
from jobs import content_hashes, job_spec, write_list
from origin import Origin
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.seal import SEAL
from turbo_fetch.errors import OutputExists
from turbo_fetch.spec import Spec

IMAGES = album(30, side=40)
COMMANDS = ("verify", "retry", "run", "export", "refresh")


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack."""
    origin = stack.enter_context(Origin(IMAGES))
    place = folder / "books"
    place.mkdir()
    rows = [origin.url(name) for name in IMAGES]
    rows[3] = origin.url("missing.jpg")
    spec = job_spec(
        write_list(place / "list.parquet", rows),
        place / "out",
        output={"samples_per_shard": 10},
        engine={"workers": 1, "threads": 1},
    )
    turbo_fetch.run(spec)
    return [
        Attack("changed bytes in a dataset", partial(_changed_bytes, place / "out")),
        Attack("a list changed in one byte", partial(_changed_list, origin)),
    ]


def _changed_bytes(whole: Path, random: Random, folder: Path) -> str | None:
    """Change a bit of a file, or of each of several; `verify` names the file, unless nothing that is read changes."""
    out = Path(shutil.copytree(whole, folder / "out"))
    files = [
        *out.glob("0*"),
        *out.glob(".turbo-fetch/ledger/*"),
        out / ".turbo-fetch/manifest",
        out / ".turbo-fetch/job",
    ]
    victims = random.sample(sorted(files), random.choice((1, 1, 1, 2, 3)))
    names = [victim.relative_to(out).as_posix() for victim in victims]
    harmless = [_change(victim, random) for victim in victims]
    verified = _run("verify", out, folder)
    told = " ".join(verified.output.split())
    if not all(harmless) and (verified.exit_code != 1 or not any(name in told for name in names)):
        return f"verify does not name a changed byte in {names}: {told[:500]}"
    ended = _run(random.choice(COMMANDS), out, folder)
    for result in (verified, ended):
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return f"a changed byte in {names}: {type(result.exception).__name__}: {result.exception}"
    # What a dataset is made from is made again by a run, and nothing is repaired before that is known.
    for command, options in (("verify", ["--repair"]), ("run", []), ("verify", ["--repair"])):
        _run(command, out, folder, *options)
    made = _run("run", out, folder)
    if made.exit_code or content_hashes(out) != content_hashes(whole):
        return f"a changed byte in {names} is not repaired: {made.output}"
    verified = _run("verify", out, folder)
    return f"after the repair of {names}: {verified.output}" if verified.exit_code else None


def _change(victim: Path, random: Random) -> bool:
    """Change a bit of a file; return whether all that is read from it stays the same."""
    before = victim.read_bytes()
    content = bytearray(before)
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    victim.write_bytes(content)
    try:
        read = [
            (orjson.loads(line), orjson.loads(new)) for line, new in _objects(victim, before, bytes(content))
        ]
    except ValueError:
        return False
    return all(
        isinstance(new, dict) and all(name == SEAL or new.get(name) == line[name] for name in line)
        for line, new in read
    )


def _objects(victim: Path, before: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the JSON objects of a file of books, with what has become of each; ValueError if it is none of those."""
    if victim.name == "manifest":
        yield from zip(before.splitlines(), after.splitlines(), strict=True)
    elif victim.name == "job" or victim.name.endswith("_stats.json"):
        yield before, after
    else:
        raise ValueError(victim)


def _run(command: str, out: Path, folder: Path, *options: str) -> Result:
    arguments = {
        "verify": ["verify", str(out), "--workers", "1"],
        "retry": ["retry", str(out)],
        "refresh": ["refresh", str(out)],
        "run": ["run", str(out / ".turbo-fetch/spec.toml"), "--set", f"fetch.output.path={out}"],
        "export": ["export", str(out), str(folder / "exported"), "--format", "files", "--workers", "1"],
    }
    return CliRunner().invoke(app, [*arguments[command], "--quiet", *options])


def _changed_list(origin: Origin, random: Random, folder: Path) -> str | None:
    """One digit of one URL is another one, in a list of which the bytes around stay."""
    rows = 130
    names = list(IMAGES)
    urls = [f"{origin.url(names[row % len(names)])}?{row:04d}" for row in range(rows)]
    padding = ["x" * random.choice((10, 6000))] * rows
    table = pa.table({"before": padding, "url": urls, "after": padding})
    listed = folder / random.choice(("list.csv", "list.parquet"))
    if listed.suffix == ".csv":
        pacsv.write_csv(table, listed)
    else:
        pq.write_table(table, listed, compression="none", use_dictionary=False, write_statistics=False)
    order = random.choice(("position", "spread"))
    spec = job_spec(
        listed,
        folder / "out",
        input={"caption_column": None, "order": order},
        engine={"workers": 1},
    )
    turbo_fetch.run(spec)
    row = random.randrange(rows)
    content = listed.read_bytes()
    listed.write_bytes(content.replace(f"?{row:04d}".encode(), f"?{row + 5000:04d}".encode()))
    if random.random() < 0.5:
        (folder / "out" / f"0000{random.randrange(3)}_stats.json").unlink()
    return (
        None
        # The shard of the row may be the one that is made anew.
        if _is_refused(spec) or not _has(folder / "out", row)
        else f"row {row} of {listed.name}"
    )


def _is_refused(spec: Spec) -> bool:
    try:
        turbo_fetch.run(spec)
    except OutputExists:
        return True
    return False


def _has(out: Path, row: int) -> bool:
    """Whether a shard has a row as it was before the list was changed."""
    return any(f"?{row:04d}" in str(pq.read_table(path)["url"].to_pylist()) for path in out.glob("*.parquet"))
