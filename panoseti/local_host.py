"""Addresses of the machine we run on, and host names to IPv4 addresses."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterable

import psutil

from panoseti.boards.addresses import is_loopback
from panoseti.configs.json_formats import is_address

RESOLVE_TIMEOUT_S = 3.0


def local_addresses() -> frozenset[str]:
    """The IPv4 addresses of this machine's interfaces."""
    return frozenset(
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    )


def is_local(address: str) -> bool:
    """Whether an IPv4 address is this machine: one of its interfaces, or anything in 127/8."""
    return is_loopback(address) or address in local_addresses()


def resolve(names: Iterable[str], timeout_s: float = RESOLVE_TIMEOUT_S) -> dict[str, str]:
    """IPv4 addresses of host names; those that do not resolve in time are left out.

    Addresses stand for themselves.  Names are looked up side by side, so that a dead name server
    costs one time-out and not one for each name.
    """
    found = {name: name for name in names if is_address(name)}
    wanted = {name for name in names if name not in found}
    answers: queue.Queue[tuple[str, str | None]] = queue.Queue()
    for name in wanted:
        threading.Thread(target=_look_up, args=(name, answers), daemon=True).start()
    deadline = time.monotonic() + timeout_s
    for _ in wanted:
        try:
            name, address = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if address is not None:
            found[name] = address
    return found


def _look_up(name: str, answers: queue.Queue[tuple[str, str | None]]) -> None:
    try:
        answers.put((name, socket.gethostbyname(name)))
    except (OSError, UnicodeError):
        answers.put((name, None))
