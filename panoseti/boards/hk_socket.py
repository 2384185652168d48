"""The housekeeping port: UDP datagrams that boards send to the head node, port 60002."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from panoseti.boards.addresses import HK_PORT, is_loopback
from panoseti.errors import ObsError

# Where boards send HK after power-on or a reboot, until they are told otherwise (firmware).
POWER_ON_DESTINATION = "192.168.1.100"
LOOPBACK_POWER_ON_DESTINATION = "127.0.0.1"
# Room for some 3000 packets: two seconds of 1024 boards while Redis hangs.
RECEIVE_BUFFER_BYTES = 4 << 20
LARGEST_DATAGRAM = 2048


class HasFileno(Protocol):
    """Anything select() takes."""

    def fileno(self) -> int:
        """The file descriptor."""


@dataclass(frozen=True)
class Datagram:
    """One datagram: payload, sender's address, Unix time (s) at which it was taken."""

    data: bytes
    source_ip: str
    utc_s: float


def listen_addresses(head_node_ip: str) -> tuple[str, ...]:
    """Where HK may arrive: at the head node's address, and where a rebooted board sends it.

    Never 0.0.0.0: two observatories on one machine each hear their own boards.
    """
    after_boot = (
        LOOPBACK_POWER_ON_DESTINATION if is_loopback(head_node_ip) else POWER_ON_DESTINATION
    )
    return tuple(dict.fromkeys((head_node_ip, after_boot)))


class HkSocket:
    """The bound HK port, on one or more local addresses; a context manager.

    The first address must be one of this machine; further ones are left out where they are
    not.  Raises ObsError when the port is taken.
    """

    WHAT = "HK port"
    HOLDER = "is capture_hk.py or config.py running already?"

    def __init__(self, addresses: Sequence[str], port: int = HK_PORT) -> None:
        self._sockets: list[socket.socket] = []
        self.addresses: tuple[str, ...] = ()
        try:
            for address in addresses:
                self._bind(address, port)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> HkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back."""
        for opened in self._sockets:
            opened.close()
        self._sockets = []

    def receive(
        self, timeout_s: float, wake: HasFileno | None = None, at_most: int = 4096
    ) -> list[Datagram]:
        """What has arrived; waits up to `timeout_s` for the first datagram.

        Returns early and empty when `wake` becomes readable.
        """
        watched: list[HasFileno] = list(self._sockets)
        if wake is not None:
            watched.append(wake)
        ready = select.select(watched, [], [], max(0.0, timeout_s))[0]
        datagrams: list[Datagram] = []
        for opened in self._sockets:
            if opened in ready:
                self._drain(opened, datagrams, at_most)
        return datagrams

    def _drain(self, opened: socket.socket, datagrams: list[Datagram], at_most: int) -> None:
        while len(datagrams) < at_most:
            try:
                data, source = opened.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            datagrams.append(Datagram(data, source[0], time.time()))

    def _bind(self, address: str, port: int) -> None:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sockets.append(opened)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        try:
            opened.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and self.addresses:
                self._sockets.remove(opened)
                opened.close()
                return
            remedy = {
                errno.EADDRINUSE: f"another program holds it: {self.HOLDER} Look with:"
                f" ss -lunp sport = :{port}",
                errno.EADDRNOTAVAIL: "not an address of this machine; correct"
                " head_node_ip_addr in daq_config.json",
            }.get(error.errno or 0, error.strerror)
            raise ObsError(f"{self.WHAT} {address}:{port}: {remedy}") from error
        self.addresses += (address,)
