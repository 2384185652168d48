"""Which boards can be reached: the system's ping, or TFTP where a ping means nothing.

The kernel itself answers pings of every 127/8 address; a simulated board there counts as reached
when it serves a read-only TFTP file.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterable

from panoseti.boards import board_tftp
from panoseti.boards.addresses import TFTP_PORT, is_loopback
from panoseti.boards.board_tftp import Patience
from panoseti.configs.site import CommandPacing
from panoseti.errors import BoardError, ObsError

AT_ONCE = CommandPacing.pings_at_once
LOOPBACK_TRIES = 4
PING_INTERVAL_S = "0.3"  # from 0.2 on it needs no privilege


def ping(
    ips: Iterable[str],
    tftp_port: int = TFTP_PORT,
    timeout_s: float = 2.0,
    progress: Callable[[str], None] | None = None,
    at_once: int = AT_ONCE,
) -> dict[str, bool]:
    """Whether each board answers within `timeout_s`; in the order given.

    progress: called with a board's address when it is known; at_once: how many boards are asked
    side by side, so that silent ones cost one time-out together.  ObsError when this machine cannot
    ping at all.
    """
    found = board_tftp.on_boards(
        ips, lambda ip: _answers(ip, tftp_port, timeout_s), progress, at_once
    )
    for answer in found.values():
        if isinstance(answer, ObsError):
            raise answer
    return {ip: answer is True for ip, answer in found.items()}


def _answers(ip: str, tftp_port: int, timeout_s: float) -> bool:
    if not is_loopback(ip):
        return _icmp(ip, timeout_s)
    patience = Patience(timeout_s / LOOPBACK_TRIES, LOOPBACK_TRIES, timeout_s)
    try:
        board_tftp.get_uid(ip, tftp_port, patience)
    except BoardError:
        return False
    return True


def _icmp(ip: str, timeout_s: float) -> bool:
    """Several echo requests a second until one is answered."""
    wait_s = max(1, math.ceil(timeout_s))
    words = ["ping", "-n", "-q", "-c", "1", "-i", PING_INTERVAL_S, "-w", str(wait_s), ip]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=wait_s + 5,
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError as error:
        raise ObsError(
            f"ping cannot be run: {error.strerror}; install it: sudo apt-get install iputils-ping"
        ) from error
    words_said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode > 1 and "ermitted" in words_said:
        raise ObsError(
            f"ping: {words_said}; allow it: sudo setcap cap_net_raw+ep $(command -v ping)"
        )
    return done.returncode == 0
