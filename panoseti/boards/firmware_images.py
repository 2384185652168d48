"""Firmware of boards: what the name of an image says, where it may go, which versions are odd.

Pure.  An image is called quabo_<FWVER>_<FWTIME in hex>.bin, after what housekeeping reports of a
board that runs it; the last digit of FWVER is even for QFP boards and odd for BGA boards.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

SECTOR_BYTES = 0x10000
FLASH_BYTES = 0x2000000
GOLDEN_END = 0x700000
SILVER_ADDRESS = 0x01010000
# Smaller than any FPGA image: a file that short was cut off.
SMALLEST_BYTES = 0x10000
FWTIME_EPOCH_UNIX = 1_000_000_000
BUILDS = ("qfp", "bga")
NAME_SHAPE = "quabo_<4 digits>_<build time in hex>.bin, such as quabo_0208_28b4667a.bin"
_NAME = re.compile(r"quabo_([0-9]{4})_(?:0x)?([0-9A-Fa-f]{1,8})\.bin")


class Area(Enum):
    """A part of the flash memory that holds firmware: first byte, first byte after it."""

    GOLDEN = (0, GOLDEN_END)
    SILVER = (SILVER_ADDRESS, FLASH_BYTES)

    @property
    def label(self) -> str:
        """As an operator calls what is there."""
        return f"{self.name.lower()} firmware"

    @property
    def address(self) -> int:
        """Where an image goes."""
        return self.value[0]

    @property
    def size_bytes(self) -> int:
        """The largest image."""
        return self.value[1] - self.value[0]


@dataclass(frozen=True)
class Release:
    """One build of the firmware: version such as "0208", build time as "0x28b4667a"."""

    version: str
    built: str

    @property
    def build(self) -> str:
        """The boards it is for: "qfp", "bga", or "" when the version does not tell."""
        last = self.version[-1:]
        return BUILDS[int(last) % 2] if last.isascii() and last.isdecimal() else ""

    def __str__(self) -> str:
        return f"{self.version} of {built_text(self.built)}"


def built_text(fwtime: str) -> str:
    """A build time ("0x%08x", Unix time - 10^9) as a date; the text itself when it is none."""
    try:
        built_unix = int(fwtime, 16) + FWTIME_EPOCH_UNIX
    except ValueError:
        return fwtime
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(built_unix))


def release_of(file_name: str) -> Release:
    """What a board would report that runs the image in a file of that name (no folder).

    ValueError when no image is called so.
    """
    found = _NAME.fullmatch(file_name)
    if found is None:
        raise ValueError(f"{file_name} is no name of an image: {NAME_SHAPE}")
    return Release(found[1], f"0x{int(found[2], 16):08x}")


def check_release(file_name: str, build: str) -> Release:
    """As release_of; ValueError as well when the image is for the other kind of board."""
    release = release_of(file_name)
    if release.build != build:
        parity = "even" if build == BUILDS[0] else "odd"
        raise ValueError(
            f"{file_name} is for {release.build.upper()} boards: the version of an image for"
            f" {build.upper()} boards ends in an {parity} digit"
        )
    return release


def check_content(data: bytes, area: Area) -> None:
    """ValueError when these bytes cannot be a whole image that fits into its part of the flash."""
    if not SMALLEST_BYTES <= len(data) <= area.size_bytes:
        raise ValueError(
            f"{len(data)} bytes are no {area.label}: {SMALLEST_BYTES} to {area.size_bytes} are"
        )
    for filling in (0x00, 0xFF):
        if data.count(filling) == len(data):
            raise ValueError(f"holds nothing but {filling:#04x}: no firmware")


def may_overwrite(area: Area, told_twice: bool) -> bool:
    """Whether an area may be written: the golden firmware, without which a board does not come
    up at all, only when that was said twice.
    """
    return area is not Area.GOLDEN or told_twice


def oddities(
    running: Mapping[str, Release | None],
    builds: Mapping[str, str],
    wanted: Mapping[str, Release],
) -> dict[str, str]:
    """What is odd about the firmware each board runs, "" = nothing.

    running: by address, None = no housekeeping; builds: kind of each board as far as it is known;
    wanted: what boards of a kind should run.  Of kinds of which that is not said, boards are odd
    that do not run what most of their kind run.
    """
    usual = {build: _most(running, builds, build) for build in BUILDS}
    found = {}
    for ip, release in running.items():
        build = builds.get(ip, "")
        if release is None:
            found[ip] = "no housekeeping: it runs the golden firmware, or is silent"
        elif build and release.build != build:
            other = release.build.upper() or "unknown"
            found[ip] = f"firmware of {other} boards on a {build.upper()} board"
        elif build in wanted:
            right = release == wanted[build]
            found[ip] = "" if right else f"not {wanted[build]}, as obs_config.json wants"
        else:
            most = usual.get(build)
            right = most is None or release == most
            found[ip] = "" if right else f"most {build.upper()} boards run {most}"
    return found


def _most(
    running: Mapping[str, Release | None], builds: Mapping[str, str], build: str
) -> Release | None:
    """What more boards of a kind run than anything else; None when nothing is."""
    counts = Counter(
        release
        for ip, release in running.items()
        if release is not None and builds.get(ip) == build == release.build
    )
    first = counts.most_common(2)
    if not first or (len(first) == 2 and first[0][1] == first[1][1]):
        return None
    return first[0][0]
