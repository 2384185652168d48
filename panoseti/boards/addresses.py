"""Addresses of boards and modules, UDP ports, and module ranges: pure arithmetic.

Only the low 10 bits of a board's address count (BOARDLOC = module id * 4 + quabo); the prefix
is free, 192.168.0-3.x on real sites, 127.a.b-b+3.x on simulated ones.
"""

from __future__ import annotations

import ipaddress
import re

COMMAND_PORT = 60000
SCIENCE_PORT = 60001
HK_PORT = 60002
TFTP_PORT = 69

QUABOS_PER_MODULE = 4
FOCUS_QUABO = 0
"""The board of a module that has the focus stage."""
BOARDLOC_MASK = 0x3FF
MODULE_ID_MAX = 255
_RANGE = re.compile(r"([0-9]{1,9})\s*(?:-\s*([0-9]{1,9}))?")


def is_loopback(ip: str) -> bool:
    """Whether the address is in 127/8; ValueError when it is no IPv4 address."""
    return ipaddress.IPv4Address(ip).is_loopback


def boardloc(ip: str) -> int:
    """BOARDLOC that the board at this address puts into its packets (0..1023)."""
    return int(ipaddress.IPv4Address(ip)) & BOARDLOC_MASK


def module_id(base_ip: str) -> int:
    """Module id (0..255) from the address of its quabo 0.

    ValueError when the last number of the address is not a multiple of 4.
    """
    if int(ipaddress.IPv4Address(base_ip)) % QUABOS_PER_MODULE:
        raise ValueError(f"{base_ip} is not the base address of a module (a multiple of 4)")
    return boardloc(base_ip) >> 2


def quabo_ip(base_ip: str, index: int) -> str:
    """Address of quabo `index` (0..3) of the module at `base_ip`."""
    if not 0 <= index < QUABOS_PER_MODULE:
        raise ValueError(f"quabo {index} is outside 0..{QUABOS_PER_MODULE - 1}")
    module_id(base_ip)
    return str(ipaddress.IPv4Address(base_ip) + index)


def redis_key(boardloc: int) -> str:
    """Key of a board's HK record in the store and in hk.pff."""
    return f"QUABO_{boardloc}"


def parse_ranges(text: str) -> list[int]:
    """Module ids of a range string such as "0-2, 5-6", each once, in the order given.

    ValueError says which item is wrong and why.
    """
    found: dict[int, None] = {}
    for item in text.split(","):
        match = _RANGE.fullmatch(item.strip())
        if match is None:
            raise ValueError(f"{item.strip()!r} is neither a module id nor a range such as 0-5")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if max(first, last) > MODULE_ID_MAX:
            raise ValueError(f"module {max(first, last)} is outside 0..{MODULE_ID_MAX}")
        if last < first:
            raise ValueError(f"range {first}-{last} runs backwards")
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)
