"""The HV updater and the temperature guard at a real site: who is there, and how it is told.

`hv.HvUpdater` and `safety.Guard` decide; here is what they look at (records, trips, which boards
are present, their nominal voltages) and what they do (HV codes to boards, stop.py, power outlets).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from panoseti.background import Background
from panoseti.boards import commands
from panoseti.boards.board_link import BoardLink, Send
from panoseti.boards.power_switch import open_switch
from panoseti.configs.board_files import (
    DETECTOR_INFO,
    QUABO_INFO,
    QUABO_UIDS,
    BoardDb,
    load_board_db,
    quabos_folder,
    read_quabo_uids,
)
from panoseti.configs.load_configs import Site
from panoseti.configs.site import Module, ObsConfig, Quabo, QuaboUids
from panoseti.configs.site import PowerSwitch as Outlet
from panoseti.errors import ConfigError, ObsError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms
from panoseti.high_voltage.hv import HV_OFF, Codes, HvActions, HvBoard, judge
from panoseti.high_voltage.hv import NAME as UPDATER
from panoseti.high_voltage.hv_asked import read_asked
from panoseti.high_voltage.hv_off import STUCK_S
from panoseti.high_voltage.hv_ramp import Off
from panoseti.high_voltage.hv_trips import (
    REHEARSED_MODULE,
    Trip,
    add_trips,
    read_trips,
    remove_trips,
)
from panoseti.high_voltage.hv_witness import WitnessActions
from panoseti.high_voltage.interlock import Interlock
from panoseti.high_voltage.rehearsal import (
    BOARDLOC,
    REHEARSAL_KEY,
    REHEARSAL_TIME,
    Rehearsal,
    RehearsalActions,
)
from panoseti.high_voltage.safety import NAME as GUARD
from panoseti.high_voltage.safety import GuardActions, GuardedModule
from panoseti.high_voltage.supervision import Partner
from panoseti.housekeeping.hk_trust import FIELDS, Blind
from panoseti.housekeeping.store import Store
from panoseti.runs.run_state import run_name_path
from panoseti.runs.stop_in_background import StopInBackground

BLIND_REPEATS = 3
# The daemons come back within a second: nobody has to wait long for a board that is silent.
SHORT_TIMEOUT_S, SHORT_TRIES = 0.3, 2
# How often the power switches are asked whether they are there.
CHECK_POWER_S = 300.0
SWITCH_TIMEOUT_S = 5.0

OpenLink = Callable[[bool], BoardLink]
"""Opens a link to the boards; the argument asks for priority over other programs."""
Stamp = tuple[tuple[int, int] | None, ...]


def add_stuck_option(parser: argparse.ArgumentParser) -> None:
    """--stuck_s, alike for guard and updater: either takes a disobedient board's power away."""
    parser.add_argument(
        "--stuck_s",
        type=float,
        default=STUCK_S,
        help="a board whose HVMON shows voltage so long after HV off costs its module the power"
        " (default: %(default)g)",
    )


class PresentBoards:
    """The boards that answered the last scan, read again whenever a file about them changes."""

    def __init__(self, site: Site, data_dir: Path) -> None:
        self._site = site
        self._data_dir = data_dir
        self._uids_path = data_dir / QUABO_UIDS
        self._seen: tuple[Path, Stamp] | None = None
        self._uids = QuaboUids({})
        self._asked: frozenset[str] | None = None  # None = not known
        self._boards: tuple[HvBoard, ...] = ()

    def boards(self) -> tuple[HvBoard, ...]:
        """For the updater, with the nominal voltages; ConfigError while a file is not usable."""
        self._refresh()
        return self._boards

    def modules(self) -> tuple[GuardedModule, ...]:
        """For the guard: all modules, and who is left out; ConfigError as above."""
        self._refresh()
        try:
            self._asked = read_asked(self._data_dir)
        except ObsError:
            self._asked = None  # hv_updater tells; meanwhile all that are present are watched
        return self.as_known()

    def as_known(self) -> tuple[GuardedModule, ...]:
        """The same as of the last look at the files; all boards are absent before the first."""
        return tuple(
            GuardedModule(
                module.id,
                module.label,
                tuple((q.ip, q.boardloc) for q in module.quabos),
                outlet_of(self._site.obs, module),
                frozenset(q.ip for q in module.quabos if not self._is_watched(q.ip)),
            )
            for module in self._site.obs.modules
        )

    def _is_watched(self, ip: str) -> bool:
        return self._uids.present(ip) and (self._asked is None or ip in self._asked)

    def _refresh(self) -> None:
        folder = quabos_folder(self._site.command_dir)  # somebody may just have made it
        paths = (self._uids_path, folder / QUABO_INFO, folder / DETECTOR_INFO)
        seen = folder, tuple(_stamp(path) for path in paths)
        if seen == self._seen:
            return
        uids = read_quabo_uids(self._uids_path, self._site.obs)
        db = load_board_db(self._site.command_dir)
        self._boards = tuple(
            self._board(quabo, uids.by_ip[quabo.ip], db)
            for quabo in self._site.obs.quabos
            if uids.present(quabo.ip)
        )
        self._uids, self._seen = uids, seen

    def _board(self, quabo: Quabo, uid: str, db: BoardDb) -> HvBoard:
        place = (quabo.ip, quabo.boardloc, quabo.module_id)
        obs = self._site.obs
        try:
            volts = db.nominal_v(uid, obs.detector_overvoltage_v, obs.odd_detectors)
            return HvBoard(*place, volts)
        except ConfigError as error:
            return HvBoard(*place, None, "; ".join(str(fault) for fault in error.faults))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Something that changes when the file does; None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def send_codes(
    open_link: OpenLink,
    echo: Mapping[str, bool],
    codes: Mapping[str, Codes],
    timeout_s: float | None = None,
    tries: int | None = None,
) -> dict[str, str | None]:
    """Send HV codes to boards by address; the problem of each, None where it confirmed.

    echo: False for boards that cannot confirm; they are told "off" several times.  timeout_s,
    tries: None = the usual ones.  Where everybody is to be switched off, other programs that use
    the boards must wait.
    """
    urgent = all(four == HV_OFF for four in codes.values())
    plans = {}
    for ip, four in codes.items():
        times = 1 if echo.get(ip, True) or four != HV_OFF else BLIND_REPEATS
        plans[ip] = (Send(commands.SetHv(four), timeout_s=timeout_s, tries=tries),) * times
    try:
        with open_link(urgent) as link:
            outcomes = link.run(plans, echo)
    except ObsError as error:
        return dict.fromkeys(codes, str(error))
    return {ip: _without_name(ip, outcome.problem) for ip, outcome in outcomes.items()}


def _without_name(ip: str, problem: str | None) -> str | None:
    """A problem without the address it begins with: the daemons put it there themselves."""
    return None if problem is None else problem.removeprefix(f"{ip}: ")


def updater_actions(
    site: Site, store: Store, data_dir: Path, open_link: OpenLink, alarms: Alarms
) -> HvActions:
    """What the HV updater does to the world."""
    rehearsal = RehearsalActions(
        write=partial(store.put_record, REHEARSAL_KEY),
        erase=partial(store.delete, REHEARSAL_KEY),
        forget=partial(remove_trips, data_dir, [(REHEARSED_MODULE, "")]),
        judged_off=_rehearsed_off,
    )
    guard = Partner(GUARD, data_dir)
    return HvActions(
        records=partial(store.get_records, fields=FIELDS),
        trips=partial(read_trips, data_dir),
        latch=partial(add_trips, data_dir),
        closed=Interlock(guard.look, Rehearsal(rehearsal), alarms.hold).why_off,
        send=partial(
            send_codes,
            open_link,
            site.obs.echo_by_ip,
            timeout_s=SHORT_TIMEOUT_S,
            tries=SHORT_TRIES,
        ),
        alarms=alarms,
        booted=store.infer_boot,
        asked=partial(read_asked, data_dir),
    )


def _rehearsed_off(trips: Iterable[Trip]) -> bool:
    """Whether the updater would switch the board off that does not exist."""
    board = HvBoard("rehearsal", BOARDLOC, REHEARSED_MODULE, None)
    found = {trip.key: trip for trip in trips}.get((REHEARSED_MODULE, ""))
    want = judge(board, Blind("made up"), trip=found)
    return isinstance(want, Off) and found is not None and found.reason in want.reason


def outlet_of(obs: ObsConfig, module: Module) -> str:
    """Name of the outlet that feeds a module, "" where no power switch is configured."""
    outlet = obs.power_switch(module)
    return "" if outlet is None else _outlet_name(outlet)


def _outlet_name(outlet: Outlet) -> str:
    return f"outlet {outlet.socket} of {outlet.name}"


class Outlets:
    """The power outlets of a site, switched and asked in the background.

    A switch that is silent costs its thread some seconds, and nobody else anything.
    """

    def __init__(
        self,
        obs: ObsConfig,
        check_every_s: float = CHECK_POWER_S,
        flight: FlightRecorder | None = None,
        timeout_s: float = SWITCH_TIMEOUT_S,
    ) -> None:
        self._obs = obs
        self._timeout_s = timeout_s
        self._flight = flight or FlightRecorder(None, "")
        self._outlets = {_outlet_name(outlet): outlet for outlet in obs.power_switches}
        self._work = Background()
        self._trouble: dict[str, str] = {}
        self._check_every_s = check_every_s
        self._check_at_s: float | None = None
        self._problems: dict[str, str] = {}

    def off(self, name: str, trip_unix: float) -> str | None:
        """Switch an outlet off: "" = it is off, None = at work, else what is wrong; ask again.

        trip_unix: since when the trip stands that asks for it.  What came of a request for an
        earlier one says nothing: power may have been switched on since.
        """
        piece = f"off {name} for {trip_unix}"
        done = self._work.result(piece)
        if done is not None and not done.problem:
            self._trouble.pop(piece, None)
            return ""
        if done is not None:
            self._trouble[piece] = done.problem
        self._work.begin(piece, partial(self._switch_off, self._outlets[name]))
        return self._trouble.get(piece)

    def check(self, now_s: float) -> dict[str, str]:
        """What is wrong with the switches, by name: they must be there *before* they are needed.

        Each is asked now and then; the answers are those of the last time.
        """
        names = {outlet.name: outlet for outlet in self._outlets.values()}
        for name in names:
            done = self._work.result(f"ask {name}")
            if done is not None:
                self._problems[name] = done.problem
        if self._check_at_s is None or now_s >= self._check_at_s:
            self._check_at_s = now_s + self._check_every_s
            for name, outlet in names.items():
                self._work.begin(f"ask {name}", partial(self._ask, outlet))
        return {name: problem for name, problem in self._problems.items() if problem}

    def _switch_off(self, outlet: Outlet) -> None:
        self._flight.note("power", switch=outlet.name, outlet=outlet.socket, on=False)
        open_switch(self._obs, outlet, self._timeout_s).switch(outlet.socket, on=False)

    def _ask(self, outlet: Outlet) -> None:
        open_switch(self._obs, outlet, self._timeout_s).is_on(outlet.socket)


def guard_actions(
    site: Site,
    store: Store,
    data_dir: Path,
    open_link: OpenLink,
    stop_run: StopInBackground,
    outlets: Outlets,
    alarms: Alarms,
) -> GuardActions:
    """What the temperature guard does to the world."""

    def stop_the_run(reason: str) -> None:
        if run_name_path(data_dir).exists():
            stop_run(reason)

    return GuardActions(
        records=partial(store.get_records, fields=(*FIELDS, REHEARSAL_TIME)),
        trips=partial(read_trips, data_dir),
        save=partial(add_trips, data_dir),
        updater=Partner(UPDATER, data_dir).look,
        hv_off=_sender_of_off(site, open_link),
        stop_run=stop_the_run,
        power_off=outlets.off,
        alarms=alarms,
    )


def tell_failed_stop(stop_run: StopInBackground, data_dir: Path, alarms: Alarms) -> None:
    """That the run of a tripped module goes on, since its stop.py has failed; until it is over."""
    stop_run.look()
    if not run_name_path(data_dir).exists():
        stop_run.failure = ""  # the next run is another one
    text = f"the run goes on, type stop.py: {stop_run.failure}" if stop_run.failure else ""
    alarms.hold("stop_failed", "", text)


def witness_actions(
    site: Site, data_dir: Path, open_link: OpenLink, alarms: Alarms
) -> WitnessActions:
    """What capture_hk does to the world when nobody keeps the high voltage."""
    return WitnessActions(
        updater=Partner(UPDATER, data_dir).look,
        guard=Partner(GUARD, data_dir).look,
        hv_off=_sender_of_off(site, open_link),
        alarms=alarms,
    )


def _sender_of_off(
    site: Site, open_link: OpenLink
) -> Callable[[Iterable[str]], dict[str, str | None]]:
    def hv_off(ips: Iterable[str]) -> dict[str, str | None]:
        codes = dict.fromkeys(ips, HV_OFF)
        return send_codes(open_link, site.obs.echo_by_ip, codes, SHORT_TIMEOUT_S, SHORT_TRIES)

    return hv_off
