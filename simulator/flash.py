"""The flash memory of a simulated quabo, and what runs when it boots from it.

Sectors that nobody wrote are not stored: the gold firmware, the two file systems and the silver
firmware are filled from a formula.  A simulated firmware image begins with one line of text that
says which version it is; real images (which say no such thing) do not run here.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from simulator.sky import NOISE

SECTOR_BYTES = 0x10000
FLASH_BYTES = 0x02000000
GOLD_ADDRESS, GOLD_END = 0x0000000, 0x0700000
FILES_ADDRESS, SILVER_ADDRESS = 0x0E00000, 0x1010000
FOCUS_ADDRESS, FOCUS_AT_FIRST = 0x0F10000, 10000
"""Where the position of the focus stage is kept, and what a new board has there."""
SILVER_BYTES = 0x200000
READ_LIMIT_BYTES = 0xFFFF
_HEADER = re.compile(rb"SIMULATED QUABO FIRMWARE (\w{4}) ([0-9a-f]{8})\n")
_ERASED = b"\xff" * SECTOR_BYTES
_FILLING = NOISE[:SECTOR_BYTES]


class FlashError(ValueError):
    """A request the flash cannot serve; the message goes to the TFTP client."""


@dataclass(frozen=True)
class Firmware:
    """Version as housekeeping reports it: four characters, and Unix build time - 1e9."""

    version: str
    time: int


DEFAULT_FIRMWARE = {
    "qfp": Firmware("0208", 0x28B4667A),
    "bga": Firmware("0209", 0x28B4667A),
}


def firmware_image(firmware: Firmware, size_bytes: int = SILVER_BYTES) -> bytes:
    """A file that can be loaded into a simulated board and then runs as this version."""
    header = f"SIMULATED QUABO FIRMWARE {firmware.version} {firmware.time:08x}\n".encode()
    filling = _FILLING * (size_bytes // SECTOR_BYTES + 1)
    return (header + filling[len(header) :])[:size_bytes]


class Flash:
    """32 MiB of sparse flash; reads and programs bytes, erasing sector by sector."""

    def __init__(self, silver: Firmware) -> None:
        self.silver = silver
        self.worn: int | None = None  # a byte whose lowest bit reads the other way round
        self._written: dict[int, bytearray] = {}

    def _fresh_sector(self, sector: int) -> bytes:
        address = sector * SECTOR_BYTES
        if SILVER_ADDRESS <= address < SILVER_ADDRESS + SILVER_BYTES:
            fresh = firmware_image(self.silver, SECTOR_BYTES)
            return fresh if address == SILVER_ADDRESS else _FILLING
        if address == FOCUS_ADDRESS:
            return struct.pack("<I", FOCUS_AT_FIRST) + _FILLING[4:]
        if GOLD_ADDRESS <= address < GOLD_END or FILES_ADDRESS <= address < SILVER_ADDRESS:
            return NOISE[sector % 251 :][:1024] * (SECTOR_BYTES // 1024)
        return _ERASED

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from `address`; raises FlashError beyond the limits."""
        if not 0 < length <= READ_LIMIT_BYTES:
            raise FlashError(f"length {length:#x} is not within 1..0xffff")
        if not 0 <= address <= FLASH_BYTES - length:
            raise FlashError(f"{address:#x} is outside the flash")
        first, last = address // SECTOR_BYTES, (address + length - 1) // SECTOR_BYTES
        joined = b"".join(
            bytes(self._written[sector]) if sector in self._written else self._fresh_sector(sector)
            for sector in range(first, last + 1)
        )
        start = address - first * SECTOR_BYTES
        found = bytearray(joined[start : start + length])
        if self.worn is not None and address <= self.worn < address + length:
            found[self.worn - address] ^= 1
        return bytes(found)

    def check_start(self, address: int) -> None:
        """Raises FlashError when programming cannot begin at `address`."""
        if address % SECTOR_BYTES:
            raise FlashError(f"{address:#x} is not the start of a {SECTOR_BYTES:#x} sector")
        if not 0 <= address < FLASH_BYTES:
            raise FlashError(f"{address:#x} is outside the flash")

    def program(self, address: int, data: bytes) -> None:
        """Write `data`; a sector is erased when its first byte is reached."""
        if address + len(data) > FLASH_BYTES:
            raise FlashError("past the end of the flash")
        while data:
            sector, within = divmod(address, SECTOR_BYTES)
            if within == 0:
                self._written[sector] = bytearray(_ERASED)
            elif sector not in self._written:
                self._written[sector] = bytearray(self._fresh_sector(sector))
            chunk = data[: SECTOR_BYTES - within]
            self._written[sector][within : within + len(chunk)] = chunk
            address += len(chunk)
            data = data[len(chunk) :]

    @property
    def focus_steps(self) -> int:
        """The position of the focus stage as the firmware keeps it."""
        return int(struct.unpack("<i", self.read(FOCUS_ADDRESS, 4))[0])

    @focus_steps.setter
    def focus_steps(self, steps: int) -> None:
        rest = self.read(FOCUS_ADDRESS + 4, SECTOR_BYTES - 4)
        self.program(FOCUS_ADDRESS, struct.pack("<i", steps) + rest)

    def firmware_at(self, address: int) -> Firmware | None:
        """What boots from there; None when nothing that runs is there."""
        if not 0 <= address <= FLASH_BYTES - 64:
            return None
        found = _HEADER.match(self.read(address, 64))
        return Firmware(found[1].decode(), int(found[2], 16)) if found else None
