"""From measurements to advice: pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from turbo_fetch.doctor.accelerator import Accelerator
from turbo_fetch.doctor.probe import Machine
from turbo_fetch.doctor.proxy import ProxyCheck
from turbo_fetch.progress.summary import human_bytes

Grade = Literal["good", "warning", "bad"]

FILES_PER_WORKER = 1024
SLOW_LOOKUPS_PER_S = 20
LEAST_MEMORY_BYTES = 2_000_000_000
LEAST_DISK_BYTES = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` is empty if all is well."""

    name: str
    grade: Grade
    found: str
    advice: str = ""


def findings(machine: Machine, accelerator: Accelerator | None) -> Iterator[Finding]:
    """Yield what there is to say, in the order in which it should be read."""
    if machine.lookups is not None:
        yield resolver(machine)
    yield from map(proxy, machine.proxies)
    yield open_files(machine)
    yield cores(machine)
    yield memory(machine)
    yield disk(machine)
    if accelerator is not None:
        yield training(accelerator)
        if accelerator.xformers is not None:
            yield xformers(accelerator.xformers)


def resolver(machine: Machine) -> Finding:
    """Judge the resolver: slow or failing lookups look like dead hosts and cost rows."""
    lookups = machine.lookups
    assert lookups is not None
    found = (
        f"{lookups.per_s:,.0f} lookups/s, {lookups.failed} of {lookups.asked} failed "
        f"(up to {machine.resolver_threads} at once per worker)"
    )
    local = "run a caching resolver here (unbound, or systemd-resolved) and point /etc/resolv.conf to it"
    if lookups.failed == lookups.asked and any(check.works for check in machine.proxies):
        return Finding(
            "resolver",
            "warning",
            found,
            "only the proxy can resolve names: set fetch.http.proxy, otherwise no host can be reached",
        )
    if lookups.failed == lookups.asked:
        return Finding(
            "resolver", "bad", found, "no name could be resolved: check the network and /etc/resolv.conf"
        )
    if lookups.failed > lookups.asked / 10:
        return Finding("resolver", "bad", found, f"many rows will fail with dns; {local}")
    if lookups.per_s < SLOW_LOOKUPS_PER_S:
        return Finding("resolver", "warning", found, f"lists with many hosts will wait for lookups; {local}")
    return Finding("resolver", "good", found)


def proxy(check: ProxyCheck) -> Finding:
    """Judge a proxy: one that fails costs every row, one that is not used may be the only way out."""
    if not check.was_asked and check.problem is not None:
        grade: Grade = "warning" if check.is_used is False else "bad"
        return Finding(
            "proxy", grade, f"{check.named_by} = {check.address!r} {check.problem}", "fix or unset it"
        )
    answer = check.problem or ("works" if check.was_asked else "was not tested")
    exceptions = f" (not for {check.exceptions})" if check.exceptions else ""
    found = f"{check.named_by} names {check.address}{exceptions}: {answer}"
    if check.is_used is None:
        return Finding(
            "proxy",
            "warning",
            found,
            'a spec uses it only with fetch.http.proxy = "environment"; turbo-fetch img2dataset always does',
        )
    if not check.is_used:
        return Finding(
            "proxy", "warning", f"{found}; the spec does not use it", 'set fetch.http.proxy = "environment"'
        )
    if check.problem is not None:
        return Finding(
            "proxy", "bad", found, "no request gets through: start or fix the proxy, or do not use one"
        )
    return Finding("proxy", "good", found)


def open_files(machine: Machine) -> Finding:
    """Judge the limit of open files: every connection is one."""
    limit, hard = machine.open_files, machine.open_files_hard
    if limit < 0 or limit >= FILES_PER_WORKER * 4:
        return Finding("open files", "good", "no limit" if limit < 0 else f"up to {limit:,} per process")
    room = "" if hard < 0 or hard > limit else " (as root, because the hard limit is too low as well)"
    grade: Grade = "bad" if limit < FILES_PER_WORKER else "warning"
    return Finding(
        "open files",
        grade,
        f"up to {limit:,} per process",
        f"raise it before runs with fetch.http.concurrency above {max(64, limit // 2):,}: ulimit -n 65536{room}",
    )


def cores(machine: Machine) -> Finding:
    """Judge the cores that this process may use."""
    found = f"{machine.cores} of {machine.cores_total} available"
    if machine.cores < machine.cores_total:
        return Finding(
            "cores",
            "warning",
            found,
            "taskset, a container or a batch system limits this process; request more cores",
        )
    return Finding("cores", "good", found)


def memory(machine: Machine) -> Finding:
    """Judge the free memory: a worker takes about 350 MB."""
    found = f"{human_bytes(machine.memory_free_bytes)} free of {human_bytes(machine.memory_bytes)}"
    if machine.memory_free_bytes < LEAST_MEMORY_BYTES:
        return Finding(
            "memory", "warning", found, "use fewer workers (engine.workers) or a smaller fetch.http.memory_mb"
        )
    return Finding("memory", "good", found)


def disk(machine: Machine) -> Finding:
    """Judge the free space on the disk: a million images of 256 pixels take about 20 GB."""
    found = f"{human_bytes(machine.disk_free_bytes)} free at {machine.disk}"
    if machine.disk_free_bytes < LEAST_DISK_BYTES:
        return Finding(
            "disk",
            "warning",
            found,
            "space for fewer than 500,000 images of 256 px; choose another fetch.output.path",
        )
    return Finding("disk", "good", found)


def xformers(fault: str) -> Finding:
    """Judge an xformers that has no kernels here."""
    return Finding(
        "xformers",
        "warning",
        f"installed, but {fault}",
        "nothing is lost, PyTorch's own attention is used; to use xformers, install torch for the CUDA that it is for",
    )


def training(accelerator: Accelerator) -> Finding:
    """Judge what training would run on."""
    if accelerator.device is None:
        return Finding(
            "training", "warning", "torch is not installed", "to train: pip install 'turbo-fetch[train]'"
        )
    compiled = "torch.compile works" if accelerator.compile else "no torch.compile"
    memory_text = f", {human_bytes(accelerator.memory_bytes)}" if accelerator.memory_bytes else ""
    found = (
        f"{accelerator.device} ({accelerator.name}{memory_text}), {accelerator.precision}, "
        f"attention by {accelerator.attention}, {compiled}"
    )
    if accelerator.device == "cpu":
        return Finding(
            "training", "warning", found, "training takes seconds per step on a CPU; use a machine with a GPU"
        )
    if 0 < accelerator.memory_bytes < 10_000_000_000:
        return Finding(
            "training", "warning", found, 'too little memory for full training; use train.method = "lora"'
        )
    return Finding("training", "good", found)
