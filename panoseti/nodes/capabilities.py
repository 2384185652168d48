"""File capabilities as the kernel stores them (attribute security.capability of a program)."""

from __future__ import annotations

import struct

CAP_NET_RAW = 13
# linux/capability.h; those a pipeline can use.  Others are given to setcap by number.
_NAMES = {12: "cap_net_admin", CAP_NET_RAW: "cap_net_raw", 14: "cap_ipc_lock", 23: "cap_sys_nice"}
_EFFECTIVE = 1
_WORDS = "<IIIII"  # version and flags; permitted, inheritable (low); permitted, inheritable (high)


def _unpacked(text: str) -> tuple[int, int, bool]:
    """Permitted and inheritable capabilities (bit n: number n), and whether they are effective."""
    data = bytes.fromhex(text)[: struct.calcsize(_WORDS)]
    words = struct.unpack(_WORDS, data.ljust(struct.calcsize(_WORDS), b"\0"))
    flags, low, inheritable, high, inheritable_high = words
    return low | high << 32, inheritable | inheritable_high << 32, bool(flags & _EFFECTIVE)


def has_capability(text: str, number: int) -> bool:
    """Whether a program with this attribute (hexadecimal, "" = none) has the capability at once."""
    permitted, _, effective = _unpacked(text)
    return effective and bool(permitted >> number & 1)


def setcap_words(text: str) -> str:
    """What to tell `setcap` so that a program has this attribute (hexadecimal) again."""
    permitted, inheritable, effective = _unpacked(text)
    groups: dict[str, list[str]] = {}
    for number in range(64):
        how = ("e" if effective else "") if permitted >> number & 1 else ""
        how += "i" if inheritable >> number & 1 else ""
        how += "p" if permitted >> number & 1 else ""
        if how:
            groups.setdefault(how, []).append(_NAMES.get(number, str(number)))
    return " ".join(f"{','.join(names)}+{how}" for how, names in groups.items())
