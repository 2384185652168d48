"""`config.py --hv_off`: before all else, and whatever is broken, missing or locked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from panoseti.boards.board_work import Problem, Work
from panoseti.bringup import session
from panoseti.bringup.ledger import Ledger
from panoseti.bringup.ledger_file import LedgerFile
from panoseti.bringup.session_end import high_voltage_off
from panoseti.configs.board_files import QUABO_UIDS, known_uids
from panoseti.configs.load_configs import Site
from panoseti.configs.site_at_any_price import DAEMONS, find_site, not_the_head_node
from panoseti.console import Console
from panoseti.errors import ConfigError, Fault
from panoseti.flight import FlightRecorder
from panoseti.runs import activities

PROGRAM = "config.py"


def switch_off(command_dir: Path, console: Console, argv: Sequence[str]) -> list[Problem]:
    """HV off of all boards; what went wrong.

    Broken configs are replaced by the copies in a run.  Where there are none, hv_updater, which
    knows the boards, is ended (it switches off as it ends), and ConfigError tells the rest.
    """
    try:
        found = find_site(command_dir)
    except ConfigError as error:
        raise ConfigError([*error.faults[:-1], _end_updater(command_dir)]) from error
    site = replace(found.site, command_dir=command_dir)  # its daemons, whichever copies tell
    for note in found.notes:
        console.warn(note)
    data_dir: Path | None = site.head_data_dir
    if why := not_the_head_node(site):
        console.warn(
            f"{why}; HV is switched off from here all the same: if this is not the head node, type"
            " it there, too, or hv_updater there may switch it on again"
        )
        data_dir = data_dir if site.head_data_dir.is_dir() else None
    flight = FlightRecorder(data_dir, PROGRAM)
    flight.command(argv)
    work = _work(site, console, flight)
    high_voltage_off(work)
    return work.problems


def _work(site: Site, console: Console, flight: FlightRecorder) -> Work:
    book = LedgerFile(site.head_data_dir, Ledger(), keep=False)
    try:
        uids = known_uids(site.head_data_dir / QUABO_UIDS, site.obs)
    except ConfigError as error:
        console.warn(f"{error}; all boards are taken as present")
        uids = {}
    return Work(site, site.obs.quabos, book, console, flight, uids)


def _end_updater(command_dir: Path) -> Fault:
    """What is left where no config tells the boards; in words."""
    data_dir = activities.data_dir_of_daemons(command_dir, DAEMONS)
    running = activities.daemons(session.HV_UPDATER, data_dir) if data_dir is not None else []
    cut = "if in doubt cut the power of the modules, repair the configs and repeat this"
    if data_dir is None or not running:
        remedy = f"nothing tells where the boards are, and no hv_updater is found: {cut}"
        return Fault(str(command_dir), "$", "HV is not switched off", remedy)
    flight = FlightRecorder(data_dir, PROGRAM)
    ended = activities.end(running, flight, session.END_WAIT_S)
    told = ", ".join(f"hv_updater (pid {found.pid}) {how}" for found, how in ended)
    remedy = f"it switches HV off as it ends, and its log says whether that is proven; {cut}"
    return Fault(str(command_dir), "$", told, remedy)
