"""Loading firmware into the flash memory of boards, many at once.

A board is written only where its flash differs from the image; what was written is read back and
compared byte for byte.  A load that did not get so far is remembered (`firmware_marks`): such a
board is loaded first the next time, and does not reboot until then (`firmware.bootable`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from panoseti.boards import board_tftp
from panoseti.boards.board_tftp import READ, READ_BYTES, WRITE, Patience
from panoseti.boards.board_work import Work, addresses
from panoseti.boards.firmware import STEP, TASKS, Image, configured, images_for, unfinished
from panoseti.boards.firmware_images import SECTOR_BYTES, Area, Release, may_overwrite
from panoseti.boards.firmware_marks import Mark, Marks, read_marks
from panoseti.bringup.board_settings import firmware_inputs
from panoseti.bringup.ledger import Step, Value
from panoseti.configs.site import FirmwareFiles, Quabo
from panoseti.console import Progress
from panoseti.errors import BoardError, ObsError, RefusedError
from panoseti.runs.run_state import in_progress_text, read_holder

# What reads back wrong is written once more; then the flash itself is suspect.
TRIES = 2
QUARTERS = 4
TOLD_TWICE = "--golden_is_meant"
"""The word that says so the second time."""
T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """What a load did to a board: image, whether anything had to be written, seconds.

    The flash holds the image: that was read back.
    """

    file: str
    release: Release
    written: bool
    took_s: float


def load_firmware(
    work: Work,
    boards: Sequence[Quabo],
    files: FirmwareFiles | None = None,
    area: Area = Area.SILVER,
    told_twice: bool = False,
    patience: Patience | None = None,
) -> dict[str, Loaded]:
    """Load images into boards; what was done, by address, where it went well.

    files: instead of those of obs_config.json; told_twice: whether the golden area, if `area` is
    that, may really be written; patience: None = as long as real boards need.  Boards whose last
    load was not finished come first.  A board that fails is a fault of `work`.  RefusedError during
    a run, ConfigError without images.
    """
    if not may_overwrite(area, told_twice):
        raise RefusedError(
            "the golden firmware is what a board needs to come up at all: it is overwritten only"
            f" when that is said twice (add {TOLD_TWICE}; it would go to"
            f" {addresses([quabo.ip for quabo in boards])})"
        )
    data_dir = work.site.head_data_dir
    if (holder := read_holder(data_dir)) is not None:
        raise RefusedError(in_progress_text(holder))
    images = images_for(work, boards, files or configured(work.site.obs, area), area)
    _leave_out_other_areas(work, images, area)
    loads = _Loads(work, images, area, patience)
    first = unfinished(work)
    done: dict[str, Loaded] = {}
    for batch in ([ip for ip in images if ip in first], [ip for ip in images if ip not in first]):
        done |= loads.run(batch)
    loads.enter(done)
    return done


def would_load(work: Work, boards: Sequence[Quabo], area: Area = Area.SILVER) -> dict[str, str]:
    """Which boards load_firmware would write and why, by address; nothing is changed.

    Reads the flash of the boards up to the first difference.
    """
    images = images_for(work, boards, configured(work.site.obs, area), area)
    _leave_out_other_areas(work, images, area)
    compared = _Loads(work, images, area).compare(list(images))
    return {
        ip: f"its flash differs from {images[ip].path.name} at {address:#x}"
        for ip, address in compared.items()
        if address is not None
    } | {ip: why for ip, why in unfinished(work).items() if ip in images}


def _leave_out_other_areas(work: Work, images: dict[str, Image], area: Area) -> None:
    """A load that was not finished must be repeated before anything else is loaded."""
    marks = read_marks(work.site.head_data_dir)
    for ip in list(images):
        mark = marks.get(work.uids[ip])
        if mark is not None and mark.area is not area:
            del images[ip]
            text = (
                f"a load of {mark.file} at {mark.address:#x} was not finished; repeat that first:"
                f" {TASKS[mark.area]}"
            )
            work.board_fault(ip, STEP, text)


class _Loads:
    """Loads of several boards, each with its image."""

    def __init__(
        self, work: Work, images: Mapping[str, Image], area: Area, patience: Patience | None = None
    ) -> None:
        self._work = work
        self._images = images
        self._area = area
        self._write_patience, self._read_patience = patience or WRITE, patience or READ
        self._port = work.site.obs.tftp_port
        self._marks = Marks(work.site.head_data_dir)
        self._given_up = threading.Event()

    def run(self, ips: Sequence[str]) -> dict[str, Loaded]:
        """Load a batch: first see which boards need it, then write and compare those."""
        compared = self.compare(ips)
        done = {}
        for ip, address in compared.items():
            if address is None:
                self._marks.clear(self._work.uids[ip])
                done[ip] = self._loaded(ip, False, 0.0)
        different = [ip for ip in compared if ip not in done]
        if done:
            self._work.console.note(f"{STEP}: {addresses(list(done))}: the image is there already")
        if different:
            self._forget_boots(different)
            done |= self._write_all(different)
        return {ip: done[ip] for ip in ips if ip in done}

    def compare(self, ips: Sequence[str]) -> dict[str, int | None]:
        """Where the flash of each board begins to differ from its image; None = nowhere.

        Boards that cannot be asked, or are others than they were, become faults.
        """

        def action(ip: str) -> int | None:
            uid = board_tftp.get_uid(ip, self._port, self._read_patience, self._work.flight)
            if uid != self._work.uids[ip]:
                raise BoardError(
                    f"{ip}: another board: UID {self._work.uids[ip]} -> {uid}; read the UIDs"
                    " again: config.py --get_uids"
                )
            return self._first_difference(ip, lambda count: None)

        with self._work.console.progress(f"{STEP}: compare", len(ips)) as bar:
            return self._good(ips, action, lambda ip: bar.advance())

    def _write_all(self, ips: Sequence[str]) -> dict[str, Loaded]:
        """Write and compare, with progress in sectors."""
        sectors = {ip: -(-len(self._images[ip].data) // SECTOR_BYTES) for ip in ips}
        with self._work.console.progress(STEP, 2 * sum(sectors.values())) as bar:
            shown = {ip: _BoardProgress(bar, ip, sectors[ip]) for ip in ips}
            return self._good(ips, lambda ip: self._write(ip, shown[ip]), lambda ip: None)

    def _write(self, ip: str, shown: _BoardProgress) -> Loaded:
        image, address = self._images[ip], self._area.address
        uid, begin_s = self._work.uids[ip], time.monotonic()
        file, golden = str(image.path), self._area is Area.GOLDEN
        self._marks.set(uid, Mark(ip, file, image.sha256, address, len(image.data), time.time()))
        for trial in range(TRIES):
            board_tftp.write_flash(
                ip,
                address,
                image.data,
                self._port,
                self._watched(shown.written),
                self._write_patience,
                self._work.flight,
                golden_too=golden,
            )
            wrong = self._first_difference(ip, self._watched(shown.compared))
            if wrong is None:
                self._marks.clear(uid)
                self._work.flight.note(
                    "firmware_loaded", board=ip, file=file, sha256=image.sha256, address=address
                )
                return self._loaded(ip, True, time.monotonic() - begin_s)
            self._work.flight.note("firmware_differs", board=ip, address=wrong, trial=trial + 1)
        raise BoardError(
            f"{ip}: its flash reads back wrong at {wrong:#x} after {TRIES} loads of"
            f" {image.path.name}; do not reboot it; its flash memory is suspect"
        )

    def _watched(self, progress: Callable[[int], None]) -> Callable[[int], None]:
        """`progress`, and the way out of a transfer when the operator gives up."""

        def watch(count: int) -> None:
            if self._given_up.is_set():
                raise BoardError("given up")
            progress(count)

        return watch

    def _first_difference(self, ip: str, progress: Callable[[int], None]) -> int | None:
        data, start = self._images[ip].data, self._area.address
        watch = self._watched(progress)
        for place in range(0, len(data), READ_BYTES):
            wanted = data[place : place + READ_BYTES]
            found = board_tftp.read_flash(
                ip, start + place, len(wanted), self._port, None, self._read_patience
            )
            if found != wanted:
                pairs = zip(found, wanted, strict=True)
                within = next(n for n, (have, want) in enumerate(pairs) if have != want)
                return start + place + within
            watch(place + len(wanted))
        return None

    def _loaded(self, ip: str, written: bool, took_s: float) -> Loaded:
        image = self._images[ip]
        return Loaded(str(image.path), image.release, written, took_s)

    def enter(self, loaded: Mapping[str, Loaded]) -> None:
        """Into the ledger: which image the flash of these boards was compared with."""
        if self._area is not Area.SILVER:
            return
        for ip, found in loaded.items():
            inputs = firmware_inputs(found.file, self._images[ip].sha256)
            facts: dict[str, Value] = {"release": str(found.release), "compared": True}
            self._work.ledger.finish(ip, Step.FIRMWARE, time.time(), inputs, facts)
        self._work.book.save()

    def _forget_boots(self, ips: Sequence[str]) -> None:
        """What these boards run will not be what is in their flash: they must be rebooted."""
        if self._area is Area.SILVER:
            for ip in ips:
                self._work.ledger.forget(ip, [Step.FIRMWARE, Step.REBOOT])
            self._work.book.save()

    def _good(
        self, ips: Sequence[str], action: Callable[[str], T], progress: Callable[[str], None]
    ) -> dict[str, T]:
        """What `action` gives for the boards it goes well with; the others become faults."""
        at_once = self._work.site.obs.command_pacing.transfers_at_once
        answers = board_tftp.on_boards(ips, action, progress, at_once, self._given_up.set)
        good: dict[str, T] = {}
        for ip, answer in answers.items():
            if isinstance(answer, ObsError):
                self._work.board_fault(ip, STEP, str(answer).removeprefix(f"{ip}: "))
            else:
                good[ip] = answer
        return good


class _BoardProgress:
    """How far the load of one board is: written, then compared, each in whole sectors.

    A bar moves with every sector; words come with every quarter.
    """

    def __init__(self, bar: Progress, ip: str, sectors: int) -> None:
        self._bar = bar
        self._ip = ip
        self._sectors = sectors
        self._done = {"written": 0, "compared": 0}

    def written(self, count: int) -> None:
        """So many bytes have been sent."""
        self._advance("written", count)

    def compared(self, count: int) -> None:
        """So many bytes have been read back."""
        self._advance("compared", count)

    def _advance(self, what: str, count: int) -> None:
        now = min(self._sectors, -(-count // SECTOR_BYTES))
        while self._done[what] < now:
            before = self._done[what] * QUARTERS // self._sectors
            self._done[what] += 1
            after = self._done[what] * QUARTERS // self._sectors
            percent = 100 * after // QUARTERS
            self._bar.advance(f"{self._ip} {what} {percent} %" if after > before else "")
