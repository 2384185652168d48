"""The daemons of a session: which of them run, starting them, ending them.

capture_hk brings housekeeping to Redis, temperature_guard watches it, hv_updater sets the high
voltage.  They are started in this order, and only where what they need is there; hv_updater ends
first, and switches the high voltage of every board off as it does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from panoseti.boards.addresses import HK_PORT
from panoseti.boards.port_lock import udp_holders
from panoseti.configs.load_configs import Site
from panoseti.errors import ObsError, RefusedError
from panoseti.flight import FlightRecorder
from panoseti.housekeeping.store import Store
from panoseti.launch import ENDED, Heartbeat, launch, read_heartbeat, why_unwritable
from panoseti.runs import activities
from panoseti.words import joined

CAPTURE_HK, TEMPERATURE_GUARD, HV_UPDATER = "capture_hk", "temperature_guard", "hv_updater"
SESSION_DAEMONS = (CAPTURE_HK, TEMPERATURE_GUARD, HV_UPDATER)
# The updater's last act is HV off with re-sending; a silent board costs it some seconds.
END_WAIT_S = 30.0


@dataclass(frozen=True)
class DaemonState:
    """A daemon of the session: pid (None = it does not run), last heartbeat, what is wrong.

    problem: "" while it does all of its work.
    """

    name: str
    pid: int | None
    beat: Heartbeat | None
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether it runs and beats."""
        return self.pid is not None and not self.problem

    @property
    def killed(self) -> bool:
        """Whether it is gone without having come to its end: killed, or the power failed."""
        return self.pid is None and self.beat is not None and self.beat.state not in ENDED


def process(name: str, data_dir: Path) -> psutil.Process | None:
    """The process that runs as daemon `name` for a data directory."""
    found = activities.daemons(name, data_dir)
    return found[0].process if found else None


def state(name: str, data_dir: Path) -> DaemonState:
    """How a daemon is."""
    running = process(name, data_dir)
    try:
        beat = read_heartbeat(data_dir, name)
    except ObsError as error:
        return DaemonState(name, running.pid if running else None, None, str(error))
    if running is None:
        return DaemonState(name, None, beat, "does not run")
    # After a power cut the pid may be that of the one before: its last beat is not of this one.
    if beat is None or beat.pid != running.pid or beat.started_unix < running.create_time() - 1:
        return DaemonState(name, running.pid, None, "has not begun to work")
    if not beat.is_fresh(time.time()):
        silence = f"no heartbeat for {beat.age_s(time.time()):.0f} s"
        disk = why_unwritable(data_dir)
        why = f"{silence}: {disk}" if disk else f"hangs ({silence})"
        return DaemonState(name, running.pid, beat, why)
    return DaemonState(name, running.pid, beat)


def start(site: Site, name: str, flight: FlightRecorder, extra: Sequence[str] = ()) -> bool:
    """Start a daemon unless it works; whether it was started.  ObsError when it does not come up.

    One that hangs is ended first.
    """
    found = state(name, site.head_data_dir)
    if found.works:
        return False
    if found.pid is not None:
        end(site, [name], flight)
    pid = launch(name, site.command_dir, site.head_data_dir, extra)
    flight.note("daemon_started", name=name, pid=pid)
    return True


def end(site: Site, names: Iterable[str], flight: FlightRecorder) -> dict[str, str]:
    """End daemons one after the other; the problem of each that ran, "" where it went well.

    Also those that work for another data directory: of each there must be one, or none.  One that
    does not go is killed; what it should have done at its end was then not done.
    """
    problems: dict[str, str] = {}
    for name in names:
        others = {one.activity: one.data_dir for one in elsewhere(site, [name])}
        running = activities.daemons(name, site.head_data_dir)
        for found, how in activities.end([*running, *others], flight, END_WAIT_S):
            folder = others.get(found, site.head_data_dir)
            label = f"{name} of {folder}" if found in others else name
            problems[label] = _problem(folder, name, found.pid, how)
    return problems


def elsewhere(site: Site, names: Sequence[str] = SESSION_DAEMONS) -> list[activities.Elsewhere]:
    """Daemons of this session that work for another data directory than the configs name now.

    They keep high voltage and housekeeping of the same boards, by trips of their own.
    """
    head_ip = site.addresses.get(site.daq.head_node_ip_addr, "")
    return activities.daemons_elsewhere(
        names, site.command_dir, site.head_data_dir, lambda: udp_holders(head_ip, HK_PORT)
    )


def refuse_elsewhere(found: Sequence[activities.Elsewhere]) -> None:
    """RefusedError naming daemons that work for another data directory, if there are any."""
    if found:
        raise RefusedError(elsewhere_text(found))


def elsewhere_text(found: Sequence[activities.Elsewhere]) -> str:
    """What is to be known of them."""
    return (
        f"{joined([str(one) for one in found])}, while head_node_data_dir in daq_config.json names"
        " another directory: put that back, or end them (HV off first): config.py --shutdown"
    )


def _problem(data_dir: Path, name: str, pid: int, how: str) -> str:
    if how == "killed":
        return f"(pid {pid}) did not end within {END_WAIT_S:g} s and was killed"
    if how != "ended":
        return f"(pid {pid}) {how}; end it by hand: kill {pid}"
    try:
        beat = read_heartbeat(data_dir, name)
    except ObsError:
        return ""
    if beat is not None and beat.pid == pid and beat.state == "failed":
        return str(beat.details.get("error", "failed"))
    return ""


def require_redis(site: Site) -> None:
    """Raise ObsError, saying how to start it, unless Redis answers."""
    with Store(site.obs.redis_host, site.obs.redis_port) as store:
        try:
            store.ping()
        except ObsError as error:
            raise ObsError(
                f"{error}; to start it here: redis-server --port {site.obs.redis_port}"
                " --daemonize yes (or: sudo systemctl start redis-server)"
            ) from error
