"""The HV updater and the temperature guard at a real site: who is there, and how it is told.

`hv.HvUpdater` and `safety.Guard` decide; here is what they look at (records, trips, which boards
are present, their nominal voltages) and what they do (HV codes to boards, stop.py, power outlets).
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from panoseti import commands
from panoseti.board_files import (
    DETECTOR_INFO,
    QUABO_INFO,
    QUABO_UIDS,
    BoardDb,
    load_board_db,
    quabos_folder,
    read_quabo_uids,
)
from panoseti.board_link import BoardLink, Send
from panoseti.errors import ConfigError, ObsError
from panoseti.hv import HV_OFF, Codes, HvActions, HvBoard
from panoseti.launch import log_dir
from panoseti.load_configs import Site
from panoseti.power_switch import PowerSwitch
from panoseti.run_state import run_name_path
from panoseti.safety import GuardActions, GuardedModule, read_trips, write_trips
from panoseti.site import Module, Quabo, QuaboUids
from panoseti.store import Store

logger = logging.getLogger(__name__)

STOP_SCRIPT = Path(__file__).resolve().parent.parent / "stop.py"
BLIND_REPEATS = 3
STOP_OUTPUT = "temperature_guard.stop.out"

OpenLink = Callable[[bool], BoardLink]
"""Opens a link to the boards; the argument asks for priority over other programs."""
Stamp = tuple[tuple[int, int] | None, ...]


class Runs(Protocol):
    """What a started stop.py is watched by."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""


class PresentBoards:
    """The boards that answered the last scan, read again whenever a file about them changes."""

    def __init__(self, site: Site, data_dir: Path) -> None:
        self._site = site
        self._uids_path = data_dir / QUABO_UIDS
        folder = quabos_folder(site.command_dir)
        self._paths = (self._uids_path, folder / QUABO_INFO, folder / DETECTOR_INFO)
        self._seen: Stamp | None = None
        self._uids = QuaboUids({})
        self._boards: tuple[HvBoard, ...] = ()

    def boards(self) -> tuple[HvBoard, ...]:
        """For the updater, with the nominal voltages; ConfigError while a file is not usable."""
        self._refresh()
        return self._boards

    def modules(self) -> tuple[GuardedModule, ...]:
        """For the guard: modules with at least one board present; ConfigError as above."""
        self._refresh()
        guarded = []
        for module in self._site.obs.modules:
            present = tuple((q.ip, q.boardloc) for q in module.quabos if self._uids.present(q.ip))
            if present:
                guarded.append(
                    GuardedModule(module.id, module.label, present, self._outlet_off(module))
                )
        return tuple(guarded)

    def _refresh(self) -> None:
        stamp = tuple(_stamp(path) for path in self._paths)
        if stamp == self._seen:
            return
        uids = read_quabo_uids(self._uids_path, self._site.obs)
        db = load_board_db(self._site.command_dir)
        self._boards = tuple(
            self._board(quabo, uids.by_ip[quabo.ip], db)
            for quabo in self._site.obs.quabos
            if uids.present(quabo.ip)
        )
        self._uids, self._seen = uids, stamp

    def _board(self, quabo: Quabo, uid: str, db: BoardDb) -> HvBoard:
        place = (quabo.ip, quabo.boardloc, quabo.module_id)
        try:
            return HvBoard(*place, db.nominal_v(uid, self._site.obs.detector_overvoltage_v))
        except ConfigError as error:
            return HvBoard(*place, None, "; ".join(str(fault) for fault in error.faults))

    def _outlet_off(self, module: Module) -> Callable[[], None] | None:
        outlet = self._site.obs.power_switch(module)
        if outlet is None:
            return None
        return partial(PowerSwitch(outlet.name, outlet.url).switch, outlet.socket, on=False)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Something that changes when the file does; None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def send_codes(
    open_link: OpenLink, echo: Mapping[str, bool], codes: Mapping[str, Codes]
) -> dict[str, str | None]:
    """Send HV codes to boards by address; the problem of each, None where it confirmed.

    echo: False for boards that cannot confirm; they are told "off" several times.  Where
    everybody is to be switched off, other programs that use the boards must wait.
    """
    urgent = all(four == HV_OFF for four in codes.values())
    plans = {}
    for ip, four in codes.items():
        times = 1 if echo.get(ip, True) or four != HV_OFF else BLIND_REPEATS
        plans[ip] = (Send(commands.SetHv(four)),) * times
    try:
        with open_link(urgent) as link:
            outcomes = link.run(plans, echo)
    except ObsError as error:
        return dict.fromkeys(codes, str(error))
    return {ip: _without_name(ip, outcome.problem) for ip, outcome in outcomes.items()}


def _without_name(ip: str, problem: str | None) -> str | None:
    """A problem without the address it begins with: the daemons put it there themselves."""
    return None if problem is None else problem.removeprefix(f"{ip}: ")


def echo_of(site: Site) -> dict[str, bool]:
    """Whether each board of the site echoes commands, by address."""
    return {q.ip: module.command_echo for module in site.obs.modules for q in module.quabos}


def updater_actions(
    store: Store, data_dir: Path, open_link: OpenLink, echo: Mapping[str, bool]
) -> HvActions:
    """What the HV updater does to the world."""
    return HvActions(
        records=store.get_records,
        trips=partial(read_trips, data_dir),
        send=partial(send_codes, open_link, echo),
    )


class StopRun:
    """Runs stop.py in the background when a run is in progress; called again, it looks after it."""

    def __init__(self, config_dir: Path, data_dir: Path) -> None:
        self._config_dir = config_dir
        self._data_dir = data_dir
        self._stopping: Runs | None = None

    def __call__(self, reason: str) -> None:
        """Stop the run because of `reason`, unless that is under way; nothing to stop is fine."""
        self.look()
        name = run_name_path(self._data_dir)
        if self._stopping is not None or not name.exists():
            return
        logger.critical("stopping the run of %s: %s", name, reason)
        try:
            with (log_dir(self._data_dir) / STOP_OUTPUT).open("ab") as out:
                self._stopping = subprocess.Popen(
                    [sys.executable, str(STOP_SCRIPT)],
                    cwd=self._config_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            logger.error("stop.py cannot be started: %s", error)

    def look(self) -> None:
        """Notice, and log, that stop.py has ended."""
        code = None if self._stopping is None else self._stopping.poll()
        if code is None:
            return
        self._stopping = None
        where = log_dir(self._data_dir) / STOP_OUTPUT
        logger.log(logging.ERROR if code else logging.INFO, "stop.py: exit %d (%s)", code, where)


def guard_actions(
    store: Store,
    data_dir: Path,
    open_link: OpenLink,
    echo: Mapping[str, bool],
    stop_run: StopRun,
) -> GuardActions:
    """What the temperature guard does to the world."""

    def hv_off(ips: Iterable[str]) -> dict[str, str | None]:
        return send_codes(open_link, echo, dict.fromkeys(ips, HV_OFF))

    return GuardActions(
        records=store.get_records,
        hv_off=hv_off,
        stop_run=stop_run,
        save=partial(write_trips, data_dir),
    )
