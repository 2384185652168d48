"""Science packets, bytes to values and back, and the time at which they were taken.

Pure.  All fields are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from panoseti.boards.packets import PIXELS

SCIENCE_HEADER_BYTES = 16
_SCIENCE_HEADER = struct.Struct("<BBHHII2x")
_TAI_MASK = 0x3FF
PH_SIGNED_VERSION = 1
ACQ_PH = 1
PIXEL_BYTES = {1: 2, 2: 2, 3: 2, 6: 1, 7: 1}
"""acq_mode byte of a science packet -> bytes per pixel; no other modes exist."""


@dataclass(frozen=True)
class SciencePacket:
    """A science packet.

    number: wraps after 65535.  tai: low 10 bits of the TAI second.  nsec: may exceed 999999999 a
    little.  pixels[16*i + j]: counts, or ADC counts of PH (signed from packet_ver 1 on).
    """

    acq_mode: int
    packet_ver: int
    number: int
    boardloc: int
    tai: int
    nsec: int
    pixels: tuple[int, ...]

    @property
    def module(self) -> int:
        """Module id."""
        return self.boardloc >> 2

    @property
    def quabo(self) -> int:
        """Index 0..3 within the module."""
        return self.boardloc & 3


def _pixel_format(acq_mode: int, packet_ver: int) -> struct.Struct:
    if acq_mode not in PIXEL_BYTES:
        raise ValueError(f"acq_mode {acq_mode:#04x} is not that of a science packet")
    if PIXEL_BYTES[acq_mode] == 1:
        return struct.Struct(f"<{PIXELS}B")
    signed = acq_mode == ACQ_PH and packet_ver >= PH_SIGNED_VERSION
    return struct.Struct(f"<{PIXELS}{'h' if signed else 'H'}")


def build_science(packet: SciencePacket) -> bytes:
    """The 528 or 272 bytes of a science packet; ValueError when a value does not fit."""
    pixels = _pixel_format(packet.acq_mode, packet.packet_ver)
    if not 0 <= packet.tai <= _TAI_MASK:
        raise ValueError(f"tai is {packet.tai}, not one of 0..{_TAI_MASK}")
    try:
        header = _SCIENCE_HEADER.pack(
            packet.acq_mode, packet.packet_ver, packet.number, packet.boardloc, packet.tai,
            packet.nsec,
        )  # fmt: skip
        return header + pixels.pack(*packet.pixels)
    except struct.error as error:
        raise ValueError(f"science packet: {error}") from None


def parse_science(data: bytes) -> SciencePacket:
    """The science packet in a datagram."""
    if len(data) < SCIENCE_HEADER_BYTES:
        raise ValueError(f"{len(data)} bytes are too short for a science packet")
    acq_mode, packet_ver, number, boardloc, tai, nsec = _SCIENCE_HEADER.unpack_from(data)
    pixels = _pixel_format(acq_mode, packet_ver)
    wanted = SCIENCE_HEADER_BYTES + pixels.size
    if len(data) != wanted:
        raise ValueError(f"acq_mode {acq_mode} needs {wanted} bytes, not {len(data)}")
    values = pixels.unpack_from(data, SCIENCE_HEADER_BYTES)
    return SciencePacket(acq_mode, packet_ver, number, boardloc, tai & _TAI_MASK, nsec, values)


# --- time ---

TAI_MINUS_UTC_S = 37
TAI_PERIOD_S = 1024
NS_PER_S = 1_000_000_000


def wr_to_unix_ns(tai: int, nsec: int, tv_sec: int) -> int:
    """Unix time of a packet in ns, from its 10-bit TAI second and nanoseconds.

    tv_sec: Unix second at which the computer took it.  ValueError when the clocks of board and
    computer differ by more than 1 s.
    """
    behind_s = (tv_sec - tai + TAI_MINUS_UTC_S) % TAI_PERIOD_S
    if behind_s == TAI_PERIOD_S - 1:
        behind_s = -1
    if behind_s not in (-1, 0, 1):
        away_s = behind_s if behind_s <= TAI_PERIOD_S // 2 else behind_s - TAI_PERIOD_S
        raise ValueError(
            f"the board's clock (TAI {tai}) is {away_s} s behind the computer's (Unix {tv_sec});"
            " more than 1 s cannot be reconciled"
        )
    return (tv_sec - behind_s) * NS_PER_S + nsec


def nearest_unix_ns(nsec: int, tv_sec: int, tv_usec: int) -> int:
    """Unix time in ns of a packet whose second is not known: the one nearest to the computer's.

    For boards without White Rabbit, and for clocks that cannot be reconciled.
    """
    taken_ns = tv_sec * NS_PER_S + tv_usec * 1000
    return taken_ns + (nsec - taken_ns + NS_PER_S // 2) % NS_PER_S - NS_PER_S // 2
