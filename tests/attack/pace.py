"""Domains of several hosts, each with rules of its own, as their servers see a run: it keeps every pace and limit."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from urllib.parse import quote, urlencode

import processes
from album import album
from attack.campaign import Attack
from attack.places import may_mount
from attack.stops import hold_still
from jobs import job_spec, ledger, wait_for_hits, write_list
from origin import Origin
from processes import PATIENCE_S, descendants
from turbo_fetch.spec import DomainSpec
from turbo_fetch.spec.specfile import dump_spec

IMAGES = album(6, side=40)
DELAYS_S = (None, 0.1, 0.2, 0.3)
LATENCIES_S = (0.0, 0.02, 0.15)
TICK_S = 0.001
"""Requests wait for clocks that count milliseconds."""
PER_DOMAIN = 4


@dataclass(frozen=True, slots=True)
class Host:
    """A host of a domain; `delay_s` is the Crawl-delay that it asks for."""

    name: str
    domain: str
    delay_s: float | None
    origin: Origin

    @classmethod
    def drawn(cls, number: int, domain: str, random: Random, stack: ExitStack) -> Host:
        """Return a host whose server lives as long as the stack."""
        delay_s = random.choice(DELAYS_S)
        rules = "" if delay_s is None else f"User-agent: *\nCrawl-delay: {delay_s}"
        latency_s = random.choice(LATENCIES_S)
        served = {**IMAGES, "robots.txt": rules.encode()}
        origin = Origin(served, latency_s=latency_s, address=f"127.0.0.{10 + number}")
        return cls(f"h{number}.{domain}", domain, delay_s, stack.enter_context(origin))

    def url(self, path: str, **query: object) -> str:
        """Return the address of an image, which no other row has."""
        return f"http://{self.name}:{self.origin.port}/{quote(path)}?{urlencode(query)}"


@dataclass(frozen=True)
class Asked:
    """A request as its server saw it; `late_s` is how long before it can have been made at most."""

    at_s: float
    host: Host
    late_s: float

    def may_keep(self, delay_s: float, other: Asked) -> bool:
        """Whether it can have been made `delay_s` before another one, or after it."""
        gap_s = other.at_s - self.at_s
        return max(gap_s + self.late_s, other.late_s - gap_s) > delay_s - TICK_S


@dataclass(frozen=True)
class World:
    """Hosts, what is asked of them, and how."""

    hosts: list[Host]
    presets: dict[str, DomainSpec]
    rows: list[str]

    @classmethod
    def drawn(cls, random: Random, stack: ExitStack) -> World:
        """Return a world whose servers live as long as the stack."""
        domains = [f"d{number}.test" for number in range(random.randint(1, 3))]
        names = [domain for domain in domains for _ in range(random.randint(1, 3))]
        hosts = [Host.drawn(number, domain, random, stack) for number, domain in enumerate(names)]
        presets = {
            domain: random.choice(
                (DomainSpec(concurrency=random.randint(1, 3)), DomainSpec(delay_s=random.choice((0, 0.15))))
            )
            for domain in domains
            if random.random() < 0.4
        }
        rows = [
            _row(f"{number}", host, name, hosts, random)
            for number, host in enumerate(hosts)
            for name in IMAGES
        ]
        random.shuffle(rows)
        return cls(hosts, presets, rows)

    @property
    def hosts_file(self) -> str:
        """The text of a hosts file."""
        return "".join(f"{host.origin.address} {host.name}\n" for host in self.hosts)

    def limit(self, domain: str) -> int:
        """Return how many requests may be in flight."""
        preset = self.presets.get(domain)
        return PER_DOMAIN if preset is None or preset.concurrency is None else preset.concurrency

    def delay_s(self, host: Host) -> float:
        """Return how long the domain of a host has to be left alone after a request to it."""
        preset = self.presets.get(host.domain)
        told_s = None if preset is None else preset.delay_s
        return (host.delay_s or 0.0) if told_s is None else told_s

    def asked(self, output: Path) -> dict[str, list[Asked]]:
        """Return the requests for images, by domain, as they arrived."""
        # Of a redirect and of what it leads to, no more is known than how long both took.
        took_s = {
            url: row["first_byte_ms"] / 1000
            for row in ledger(output)
            for url in (row["url"], row["final_url"])
        }
        found: dict[str, list[Asked]] = {}
        for host in self.hosts:
            for one in host.origin.received:
                if one.target == "/robots.txt":
                    continue
                # Only of the last attempt at a row is it known when it was made. The server takes its time as well.
                is_last = host.origin.targets[one.target] == 1
                url = f"http://{host.name}:{host.origin.port}{one.target}"
                late_s = took_s[url] - host.origin.latency_s if is_last and url in took_s else float("inf")
                found.setdefault(host.domain, []).append(Asked(one.at_s, host, late_s))
        return {domain: sorted(asked, key=lambda one: one.at_s) for domain, asked in found.items()}

    def faults(self, output: Path) -> list[str]:
        """Return what a run did that it must not do."""
        faults = [
            f"{host.name} had {most} requests at a time"
            for host in self.hosts
            for most in host.origin.load.by_host_most.values()
            if most > self.limit(host.domain)
        ]
        for asked in self.asked(output).values():
            for earlier, later in pairwise(asked):
                delay_s = self.delay_s(earlier.host)
                if not earlier.may_keep(delay_s, later):
                    faults.append(
                        f"{later.host.name} was asked {later.at_s - earlier.at_s:.3f} s after {earlier.host.name}, "
                        f"or {earlier.late_s:.3f} s more, which asks for {delay_s} s"
                    )
        return faults


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attack, where names can be given to hosts."""
    place = folder / "pace"
    place.mkdir()
    return [Attack("paces and limits of domains of several hosts", _pace)] if may_mount(place) else []


def _row(number: str, host: Host, name: str, hosts: list[Host], random: Random) -> str:
    """Return an address: of an image, of one that is refused once, or of a redirect to one."""
    kind = random.choice(("image", "image", "image", "refused", "redirect"))
    if kind == "refused":
        return host.url(name, row=number, fault="status", code=random.choice((429, 500, 503)), times=1)
    if kind == "redirect":
        onward = random.choice(hosts).url(name, led_from=f"{number}{name}")
        return host.url(name, row=number, fault="redirect_to", to=onward)
    return host.url(name, row=number)


def _kill(running: subprocess.Popen[str], random: Random, seconds: float) -> None:
    """Kill a worker."""
    workers = descendants(running, "turbo_fetch.runners")
    if workers:
        processes.kill(random.choice(workers))


def _pace(random: Random, folder: Path) -> str | None:
    with ExitStack() as stack:
        world = World.drawn(random, stack)
        spec = job_spec(
            write_list(folder / "list.parquet", world.rows),
            folder / "out",
            http={"robots": "respect", "per_domain": PER_DOMAIN, "retries": 3, "domains": world.presets},
            output={"samples_per_shard": random.randint(2, 8)},
            engine={"workers": random.randint(1, 3), "threads": 1},
        )
        (folder / "spec.toml").write_text(dump_spec(spec))
        (folder / "hosts").write_text(world.hosts_file)
        running = processes.start(
            ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" /etc/hosts && shift && exec "$@"', "sh",
             folder / "hosts", sys.executable, "-m", "turbo_fetch", "run", folder / "spec.toml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        disturb = random.choice((None, None, _kill, hold_still))
        if disturb is not None:
            wait_for_hits(running, random.choice(world.hosts).origin, random.randrange(1, 8))
            disturb(running, random, random.uniform(0.1, 1.5))
        out, _ = running.communicate(timeout=PATIENCE_S)
        if running.returncode:
            return f"ended with {running.returncode}: {out[-1000:]}"
        outcomes = Counter(row["outcome"] for row in ledger(folder / "out"))
        if outcomes != {"success": len(world.rows)}:
            return f"outcomes: {dict(outcomes)}"
        return "; ".join(world.faults(folder / "out")) or None
