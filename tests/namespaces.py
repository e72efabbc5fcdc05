"""Machines as network namespaces: a web of many addresses and names, a router, and nodes that lose their way there.

The servers of the web run in threads of the test; the nodes run commands. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from dnslib import QTYPE, RCODE, RR, A, DNSError
from dnslib.server import BaseResolver, DNSLogger, DNSServer

T = TypeVar("T")
Cut = Literal[
    "silent", "unreachable", "carrier", "interface", "resolver silent", "resolver refuses", "two hosts"
]
"""`silent`: packets vanish beyond the router. `unreachable`: the router says that there is no way. `carrier`: the cable
of a node is pulled. `interface`: its interface is taken down. `resolver`: the name server does not answer, or is
gone. `two hosts`: packets to the first two hosts vanish, and no others."""

WEB = "10.79.1.1"
_CLONE_NEWNET = 0x4000_0000


@cache
def may_use_namespaces() -> bool:
    """Return whether network namespaces can be made here."""
    if os.geteuid() != 0:
        return False
    name = f"tf{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return True


class Names(BaseResolver):  # type: ignore[misc]  # dnslib has no types
    """Every name under example has an address of the web, until it is silent."""

    def __init__(self) -> None:
        self.is_silent = False
        self.asked = 0

    def resolve(self, request: Any, handler: Any) -> Any:
        """See dnslib."""
        self.asked += 1
        reply = request.reply()
        name = str(request.q.qname).rstrip(".")
        host = name.removesuffix(".example").removeprefix("h")
        if self.is_silent:
            raise DNSError("silent")
        if not host.isdigit():
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype == QTYPE.A:
            reply.add_answer(RR(name, QTYPE.A, rdata=A(address(int(host))), ttl=60))
        return reply


def address(number: int) -> str:
    """Return an address of the web."""
    return f"10.78.{number // 250}.{number % 250 + 1}"


def node_address(number: int) -> str:
    """Return the address of a node."""
    return f"10.79.{number + 2}.2"


class Web:
    """A namespace each for the web, the router and the nodes, and the links between them; a context manager."""

    def __init__(self, nodes: int = 1) -> None:
        self._nodes = ["node", *(f"node{number}" for number in range(1, nodes))]
        self._prefix = f"tf{os.getpid()}"
        self._stack = ExitStack()
        self._mend: Callable[[], object] = lambda: None
        self.names = Names()
        self._dns: DNSServer

    @property
    def node(self) -> list[str]:
        """How a command begins that the first node runs."""
        return self.on(0)

    def on(self, node: int) -> list[str]:
        """How a command begins that a node runs."""
        return ["ip", "netns", "exec", f"{self._prefix}-{self._nodes[node]}"]

    def __enter__(self) -> Self:
        for name in ("web", "router", *self._nodes):
            _run("ip", "netns", "add", f"{self._prefix}-{name}")
            self._stack.callback(_run, "ip", "netns", "delete", f"{self._prefix}-{name}")
        self._link("router", "10.79.1.2", "web", WEB)
        for number, node in enumerate(self._nodes):
            self._link("router", _gateway(number), node, node_address(number))
        self._ip("web", "route", "add", "local", "10.78.0.0/16", "dev", "lo")
        self._ip("web", "route", "add", "default", "via", "10.79.1.2")
        self._ip("router", "route", "add", "10.78.0.0/16", "via", WEB)
        self._forward(1)
        for number, node in enumerate(self._nodes):
            self._ip(node, "route", "add", "default", "via", _gateway(number))
            folder = Path(f"/etc/netns/{self._prefix}-{node}")
            folder.mkdir(parents=True)
            self._stack.callback(folder.rmdir)
            resolv = folder / "resolv.conf"
            resolv.write_text(f"nameserver {WEB}\noptions timeout:1 attempts:2\n")
            self._stack.callback(resolv.unlink)
        self._start_dns()
        self._stack.callback(lambda: self._stop_dns())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in the web; threads that it starts stay there."""
        result: list[T] = []

        def call() -> None:
            with Path(f"/run/netns/{self._prefix}-web").open("rb") as namespace:
                assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) == 0
            result.append(function())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return result[0]

    def cut(self, kind: Cut, node: int = 0) -> None:
        """Take the nodes off the web, in one of several ways; `carrier` and `interface` take one off everything."""
        name = self._nodes[node]
        match kind:
            case "silent":
                self._forward(0)
                self._mend = lambda: self._forward(1)
            case "unreachable":
                self._ip("router", "route", "replace", "unreachable", "10.78.0.0/16")
                self._mend = lambda: self._ip("router", "route", "replace", "10.78.0.0/16", "via", WEB)
            case "carrier":
                self._ip("router", "link", "set", f"to-{name}", "down")
                self._mend = lambda: self._ip("router", "link", "set", f"to-{name}", "up")
            case "interface":
                self._ip(name, "link", "set", "to-router", "down")
                self._mend = lambda: self._interface_up(node)
            case "two hosts":
                self._blackhole("add")
                self._mend = lambda: self._blackhole("delete")
            case "resolver silent":
                self.names.is_silent = True
                self._mend = lambda: setattr(self.names, "is_silent", False)
            case "resolver refuses":
                self._stop_dns()
                self._mend = self._start_dns

    def mend(self) -> None:
        """Undo the cut."""
        self._mend()

    def _blackhole(self, action: str) -> None:
        for number in range(2):
            self._ip("router", "route", action, "blackhole", address(number))

    def _interface_up(self, node: int) -> None:
        self._ip(self._nodes[node], "link", "set", "to-router", "up")
        self._ip(self._nodes[node], "route", "add", "default", "via", _gateway(node))

    def _start_dns(self) -> None:
        def start() -> DNSServer:
            quiet = DNSLogger("-request,-reply,-truncated,-error", prefix=False)
            server = DNSServer(self.names, address=WEB, port=53, logger=quiet)
            server.start_thread()
            return server

        self._dns = self.inside(start)

    def _stop_dns(self) -> None:
        self._dns.stop()
        self._dns.server.server_close()

    def _forward(self, value: int) -> None:
        router = f"{self._prefix}-router"
        _run("ip", "netns", "exec", router, "sysctl", "-qw", f"net.ipv4.ip_forward={value}")

    def _link(self, one: str, one_address: str, other: str, other_address: str) -> None:
        ends = {one: f"to-{other}", other: f"to-{one}"}
        spaces = {name: f"{self._prefix}-{name}" for name in ends}
        _run(
            *("ip", "link", "add", ends[one], "netns", spaces[one], "type", "veth"),
            *("peer", "name", ends[other], "netns", spaces[other]),
        )
        for name, at in ((one, one_address), (other, other_address)):
            self._ip(name, "address", "add", f"{at}/24", "dev", ends[name])
            self._ip(name, "link", "set", ends[name], "up")
            self._ip(name, "link", "set", "lo", "up")

    def _ip(self, name: str, *arguments: str) -> None:
        _run("ip", "-n", f"{self._prefix}-{name}", *arguments)


def _gateway(node: int) -> str:
    return f"10.79.{node + 2}.1"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
