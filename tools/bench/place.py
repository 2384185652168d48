"""Where to measure: two network namespaces joined by a veth pair, or loopback without root."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

_MAC = "02:00:00:00:00:fa"
_NETWORK = "192.168.0.0"  # its low 10 bits are zero: boards are 192.168.0.4 and on
_HEAD = "192.168.3.250"
_RECEIVER, _SENDER = "receiver", "sender"
_PORT = 60001

# Before every program that is started: it does not outlive the benchmark, however that ends.
MORTAL = ("setpriv", "--pdeathsig", "KILL")


@dataclass(frozen=True)
class Place:
    """A receiving and a sending side: what to put before programs, addresses, interface."""

    label: str
    receive: tuple[str, ...]
    send: tuple[str, ...]
    network: str
    head: str
    port: int
    interface: str = ""
    mac: str = ""

    @property
    def captures(self) -> tuple[str, ...]:
        """Ways of capturing that can be measured here."""
        return ("packet", "udp") if self.interface else ("udp",)

    def bindhost(self, capture: str) -> str:
        """What the pipeline is told to bind to."""
        return self.interface if capture == "packet" else self.head

    def sender_words(self) -> list[str]:
        """The last arguments of the sender."""
        raw = [_SENDER, self.mac] if self.interface else []
        return [self.network, self.head, str(self.port), *raw]


@contextmanager
def _namespace() -> Iterator[int]:
    """A network namespace that lasts as long as its holder; the holder's process id."""
    holder = subprocess.Popen([*MORTAL, "unshare", "--net", "sleep", "infinity"])
    try:
        mine = os.readlink("/proc/self/ns/net")
        for _ in range(1000):  # the program is there before its namespace
            if holder.poll() is not None:
                break
            if os.readlink(f"/proc/{holder.pid}/ns/net") != mine:
                yield holder.pid
                return
            time.sleep(0.005)
        raise SystemExit("bench: cannot make a network namespace (unshare --net)")
    finally:
        holder.kill()
        holder.wait()


def _run(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def two_hosts() -> Iterator[Place]:
    """Two namespaces and a veth pair; needs root, leaves nothing behind."""
    with ExitStack() as stack:
        receiver, sender = (stack.enter_context(_namespace()) for _ in range(2))
        inside = {
            side: ("nsenter", "--target", str(pid), "--net")
            for side, pid in ((_RECEIVER, receiver), (_SENDER, sender))
        }
        _run(
            [*inside[_RECEIVER], "ip", "link", "add", _RECEIVER, "address", _MAC, "type", "veth",
             "peer", "name", _SENDER, "netns", str(sender)]
        )  # fmt: skip
        _run([*inside[_RECEIVER], "ip", "address", "add", f"{_HEAD}/22", "dev", _RECEIVER])
        for side in (_RECEIVER, _SENDER):
            _run([*inside[side], "ip", "link", "set", "lo", "up"])
            _run([*inside[side], "ip", "link", "set", side, "up"])
        yield Place(
            "two network namespaces, a veth pair, raw frames",
            inside[_RECEIVER], inside[_SENDER], _NETWORK, _HEAD, _PORT, _RECEIVER, _MAC,
        )  # fmt: skip


@contextmanager
def loopback() -> Iterator[Place]:
    """Loopback addresses of a prefix picked at random."""
    first, second = random.randint(64, 250), 4 * random.randint(0, 63)
    head = f"127.{first}.{second + 3}.250"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((head, 0))
        port = probe.getsockname()[1]
    yield Place("LOOPBACK, not root", (), (), f"127.{first}.{second}.0", head, port)
