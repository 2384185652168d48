"""Which firmware boards should run, which they run, and which of them must not boot it.

Which image is for which kind of board is `firmware` in obs_config.json; what a board that runs it
reports is in the name of the image (`firmware_images`).  `firmware_load` brings images into the
flash memory of boards.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from panoseti.boards.board_work import Work
from panoseti.boards.firmware_images import (
    BUILDS,
    Area,
    Release,
    check_content,
    check_release,
    oddities,
    release_of,
)
from panoseti.boards.firmware_marks import read_marks
from panoseti.bringup.ledger import Step, utc_text
from panoseti.configs.load_configs import OBS_CONFIG
from panoseti.configs.site import FirmwareFiles, ObsConfig, Quabo
from panoseti.errors import ConfigError, Fault
from panoseti.housekeeping.hk_watch import Firmware, open_watch, wait_heard

STEP = "firmware"
FIELDS = {Area.SILVER: "firmware", Area.GOLDEN: "golden_firmware"}
"""The field of obs_config.json that names the images of an area."""
TASKS = {Area.SILVER: "config.py --loads", Area.GOLDEN: "config.py --load_golden"}
"""What loads them."""
# An HK packet comes every 3 s.
HK_WAIT_S = 7.0


@dataclass(frozen=True)
class Image:
    """A firmware image: path, what a board reports that runs it, content."""

    path: Path
    release: Release
    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """Digest of the content."""
        return hashlib.sha256(self.data).hexdigest()


def read_image(file: str, build: str, area: Area = Area.SILVER) -> Image:
    """The image in a file, for boards of a kind; ConfigError when it is missing or none."""
    path = Path(file)
    place = f"$.{FIELDS[area]}.{build}"
    try:
        release = check_release(path.name, build)
        data = path.read_bytes()
        check_content(data, area)
    except OSError as error:
        remedy = f"cannot be read: {error.strerror}; copy the image there, or correct the path"
        raise ConfigError([Fault(OBS_CONFIG, place, file, remedy)]) from error
    except ValueError as error:
        raise ConfigError([Fault(OBS_CONFIG, place, file, str(error))]) from error
    return Image(path, release, data)


def images_for(
    work: Work, boards: Sequence[Quabo], files: FirmwareFiles, area: Area
) -> dict[str, Image]:
    """The image of each board by address; a board of unknown kind becomes a fault instead.

    ConfigError with every image that is needed and missing or wrong.
    """
    builds = {quabo.ip: board_build(work, quabo.ip) for quabo in boards}
    by_build: dict[str, Image] = {}
    faults: list[Fault] = []
    for build in BUILDS:
        if build not in builds.values():
            continue
        file = files.of(build)
        if file is None:
            remedy = f"add the path of the image for {build.upper()} boards"
            faults.append(Fault(OBS_CONFIG, f"$.{FIELDS[area]}.{build}", "missing", remedy))
            continue
        try:
            by_build[build] = read_image(file, build, area)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    for ip, build in builds.items():
        if not build:
            uid = work.uids.get(ip) or "unknown"
            work.board_fault(
                ip, STEP, f"which image is for it is unknown: add UID {uid} to quabo_info.json"
            )
    return {ip: by_build[build] for ip, build in builds.items() if build}


def configured(obs: ObsConfig, area: Area) -> FirmwareFiles:
    """The images of an area that obs_config.json names."""
    return obs.firmware if area is Area.SILVER else obs.golden_firmware


def board_build(work: Work, ip: str) -> str:
    """The kind of a board by quabo_info.json, "" when it is not listed."""
    board = work.settings.db.boards.get(work.uids.get(ip, ""))
    return board.board_version if board else ""


def wanted_releases(files: FirmwareFiles) -> dict[str, Release]:
    """What boards of each kind should run, by the names of the configured images."""
    named = {build: files.of(build) for build in BUILDS}
    return {build: release_of(Path(file).name) for build, file in named.items() if file}


# --- loads that were not finished -------------------------------------------------------------


def unfinished(work: Work) -> dict[str, str]:
    """Why boards at work must not boot from their flash, by address: a load was not finished."""
    marks = read_marks(work.site.head_data_dir)
    found = {}
    for quabo in work.boards:
        mark = marks.get(work.uids.get(quabo.ip, ""))
        if mark is not None:
            found[quabo.ip] = (
                f"{Path(mark.file).name}, begun at {utc_text(mark.begun_unix)}, was not loaded to"
                f" the end: what is in its flash is unknown; load it again: {TASKS[mark.area]}"
            )
    return found


def bootable(work: Work, boards: Sequence[Quabo]) -> list[Quabo]:
    """Those of the boards that may boot what is in their flash; the others become faults."""
    reasons = unfinished(work)
    for quabo in boards:
        if quabo.ip in reasons:
            work.board_fault(quabo.ip, Step.REBOOT, reasons[quabo.ip])
    return [quabo for quabo in boards if quabo.ip not in reasons]


# --- versions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoardVersion:
    """The firmware of one board; release None = it sends no housekeeping.

    build: its kind by quabo_info.json, "" = not listed; odd: what is odd about it, "" = nothing.
    """

    ip: str
    serialno: str
    build: str
    release: Release | None
    odd: str


def versions(work: Work, boards: Sequence[Quabo]) -> list[BoardVersion]:
    """What boards run, by their housekeeping: from Redis while capture_hk runs, else by listening.

    Takes up to 7 s where nobody captures housekeeping.
    """
    since_unix = time.time() - work.site.obs.hk_max_age_s
    ips = [quabo.ip for quabo in boards]
    with open_watch(work.site, boards) as watch:
        silent = wait_heard(watch, ips, since_unix, HK_WAIT_S)
        running = {ip: None if ip in silent else _release(watch.firmware[ip]) for ip in ips}
    return judged(work, running)


def judged(work: Work, running: Mapping[str, Release | None]) -> list[BoardVersion]:
    """The boards that run these releases (None = no housekeeping), odd ones marked.

    A load that was not finished is odd whatever runs.
    """
    builds = {ip: board_build(work, ip) for ip in running}
    odd = oddities(running, builds, wanted_releases(work.site.obs.firmware)) | unfinished(work)
    return [
        BoardVersion(
            ip, work.settings.serialno(work.uids.get(ip, "")), builds[ip], release, odd[ip]
        )
        for ip, release in running.items()
    ]


def _release(firmware: Firmware) -> Release:
    return Release(firmware.version, firmware.built)
