"""What an operator should know of alarms and trips, and how a trip is acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daq.daq_facts import utc_text
from panoseti.configs.load_configs import Site
from panoseti.console import Console
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms, standing_alarms
from panoseti.high_voltage.hv_trips import ACKNOWLEDGE, Trip, acknowledge, read_trips


@dataclass(frozen=True)
class SafetyStatus:
    """What stands: trips, alarms (one line each), and why the trips cannot be read."""

    trips: tuple[str, ...]
    alarms: tuple[str, ...]
    problem: str = ""

    def lines(self) -> list[str]:
        """For people; empty when all is well."""
        told = [f"TRIPPED {trip}; then: {ACKNOWLEDGE}" for trip in self.trips]
        return [*told, *(f"ALARM {text}" for text in self.alarms)]


def safety_status(data_dir: Path) -> SafetyStatus:
    """How it is in a head node's data directory."""
    trips: Sequence[Trip] = ()
    problem = ""
    try:
        trips = read_trips(data_dir)
    except ObsError as error:
        problem = str(error)
    alarms = [
        f"{alarm.kind}: {alarm.text} ({alarm.source}, since {utc_text(alarm.time_unix)})"
        for alarm in standing_alarms(data_dir)
    ]
    return SafetyStatus(
        tuple(str(trip) for trip in trips if not trip.made_up), tuple(alarms), problem
    )


def why_no_power(data_dir: Path) -> dict[int, str]:
    """Modules whose power must stay off, with the reason and what ends it.

    ObsError when the trips cannot be read: then no module may be switched on.
    """
    return {
        trip.module_id: f"{trip}; then: {ACKNOWLEDGE}"
        for trip in read_trips(data_dir)
        if not trip.board and not trip.made_up
    }


def acknowledge_hv(
    site: Site, modules: Iterable[int] | None, console: Console, flight: FlightRecorder
) -> list[Trip]:
    """`config.py --ack_hv`: an operator has looked; says what was taken away (None = all).

    Raises ObsError when the file cannot be written.
    """
    done = acknowledge(site.head_data_dir, modules)
    with Alarms(site.head_data_dir, flight.program, site.obs.alarm_hook) as alarms:
        if done.problem:
            console.warn(f"{done.problem}; made anew: look at every board")
            alarms.tell("acknowledged", f"{done.problem}; made anew")
        for trip in done.trips:
            flight.note("acknowledged", trip=str(trip))
            alarms.tell("acknowledged", str(trip), trip.board or f"module {trip.module_id}")
            console.out(f"acknowledged: {trip}")
    if not done.trips and not done.problem:
        console.out("no trip stands")
    return list(done.trips)
