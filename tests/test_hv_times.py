"""From each cause to HV off, measured at the simulated boards, against what is promised.

What a night of tests prints with `-rP` or `-s`: "cause: measured (promised)".
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from panoseti.boards.addresses import redis_key
from panoseti.boards.board_link import LOCK_NAME
from panoseti.boards.port_lock import turn
from panoseti.flight import read_flight
from panoseti.high_voltage.alarms import read_alarms
from panoseti.high_voltage.hv_trips import TRIPS_FILE, acknowledge
from panoseti.housekeeping.store import Value
from tests.helpers import REPO
from tests.hv_night import (
    HASTY,
    OUTLET,
    REAL,
    HvNight,
    Pace,
    feed_modules,
    hv_night,
    two_outlets,
)
from tests.hv_promises import FULL_DISK, PROMISED, SLACK_S

# Longer while another program has the fixed command port.
FIXED_PORT_S = 2.0
Cure = Callable[[], None]
Cause = Callable[[HvNight], tuple[Iterable[str], Cure]]


def measure(night: HvNight, promise: str, what: str, cause: Cause) -> None:
    """Bring a cause about; its boards must be below 1 V in time; then cure it."""
    limit_s = PROMISED[promise](night.pace)
    night.begin()
    ips, cure = cause(night)
    took_s = night.time_off(ips, limit_s + SLACK_S, what)
    print(f"{what}: {took_s:.2f} s (promised {limit_s:g} s)")
    cure()


def measure_together(night: HvNight, causes: list[tuple[str, str, Cause]]) -> None:
    """The same for causes that do not meet: one after the other begins, then all are looked at."""
    waiting, cures = [], []
    for promise, what, cause in causes:
        night.begin()
        ips, cure = cause(night)
        cures.append(cure)
        waiting.append((what, ips, night.begin_s, PROMISED[promise](night.pace)))
    for what, ips, begin_s, limit_s in sorted(waiting, key=lambda one: one[3]):
        night.begin_s = begin_s
        took_s = night.time_off(ips, limit_s + SLACK_S, what)
        print(f"{what}: at most {took_s:.2f} s (promised {limit_s:g} s)")
    for cure in cures:
        cure()


# --- causes: each gives the boards that must be off, and what undoes it ---


def odd_hk(board: int, whole_module: bool = False, **said: float) -> Cause:
    """Housekeeping of a board says something else than is so; what is off then."""

    def cause(night: HvNight) -> tuple[Iterable[str], Cure]:
        ip = night.ips[board]
        night.control.fault(ip, "odd_hk", **said)
        return module_of(night, ip) if whole_module else [ip], lambda: restore(night, ip)

    return cause


def module_of(night: HvNight, ip: str) -> list[str]:
    """All boards of a board's module."""
    module_id = night.site.obs.quabo(ip).module_id
    return [quabo.ip for quabo in night.site.obs.module(module_id).quabos]


def restore(night: HvNight, ip: str) -> None:
    """Housekeeping of a board is true again, and its temperature as always."""
    night.control.fault(ip, "none")
    night.control.set(ip, temp1_c=25.0)
    for _ in range(3):
        night.new_packet(ip)
    acknowledge(night.data_dir)


def creeping(night: HvNight) -> tuple[Iterable[str], Cure]:
    ip = night.ips[6]
    for detector_c in (33.0, 41.0, 49.0, 57.0, 60.0):
        night.control.set(ip, temp1_c=detector_c)
        night.new_packet(ip)
    night.begin()
    night.control.set(ip, temp1_c=60.25)
    return module_of(night, ip), lambda: restore(night, ip)


def no_hk(night: HvNight) -> tuple[Iterable[str], Cure]:
    night.control.fault(night.ips[2], "no_hk")
    return [night.ips[2]], night.cure


def spoilt_record(board: int, **said: str) -> Cause:
    """Redis holds what no board can have sent; a field that is missing is one without a number."""

    def cause(night: HvNight) -> tuple[Iterable[str], Cure]:
        ip = night.ips[board]
        night.control.fault(ip, "no_hk")
        night.begin()
        for second in (False, True):
            if second:
                time.sleep(night.pace.hk_period_s)  # it is sent so often
            record: dict[str, Value] = {**night.record(ip), "Computer_UTC": time.time(), **said}
            night.store.put_record(redis_key(night.site.obs.quabo(ip).boardloc), record)
        return [ip], lambda: restore(night, ip)

    return cause


def killed(*names: str) -> Cause:
    def cause(night: HvNight) -> tuple[Iterable[str], Cure]:
        for name in names:
            os.kill(night.daemons[name].process.pid, signal.SIGKILL)

        def cure() -> None:
            for name in names:
                night.daemons[name].kill()
                night.start(name)

        return night.ips, cure

    return cause


def ended(name: str) -> Cause:
    def cause(night: HvNight) -> tuple[Iterable[str], Cure]:
        night.daemons[name].process.send_signal(signal.SIGTERM)

        def cure() -> None:
            assert night.daemons[name].process.wait(30) == 0
            night.start(name)

        return night.ips, cure

    return cause


def ignore(value: object) -> None:
    """A statement made of an expression."""


def hanging(*names: str) -> Cause:
    def cause(night: HvNight) -> tuple[Iterable[str], Cure]:
        processes = [night.daemons[name].process for name in names]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
            # However the test ends; a later cause may have ended that one by then.
            night.stack.callback(process.send_signal, signal.SIGCONT)

        def cure() -> None:
            for process in processes:
                process.send_signal(signal.SIGCONT)

        return night.ips, cure

    return cause


def redis_killed(night: HvNight) -> tuple[Iterable[str], Cure]:
    night.redis.kill()
    return night.ips, night.redis.start


def redis_hangs(night: HvNight) -> tuple[Iterable[str], Cure]:
    frozen = night.redis.frozen()
    cured: list[Cure] = []
    night.stack.enter_context(once(frozen, cured))
    return night.ips, lambda: cured[0]()


@contextmanager
def once(frozen: object, cured: list[Cure]) -> Iterator[None]:
    """Enter a context that may be left early by `cured[0]`."""
    frozen.__enter__()  # type: ignore[attr-defined]
    left: list[bool] = []

    def leave() -> None:
        if not left:
            left.append(True)
            frozen.__exit__(None, None, None)  # type: ignore[attr-defined]

    cured.append(leave)
    try:
        yield
    finally:
        leave()


def trips_broken(night: HvNight) -> tuple[Iterable[str], Cure]:
    (night.data_dir / TRIPS_FILE).write_text("{")
    return night.ips, lambda: ignore(acknowledge(night.data_dir))


def stuck(night: HvNight) -> tuple[Iterable[str], Cure]:
    """A board ignores HV off."""
    feed_modules(night)
    night.control.fault(night.ips[1], "hv_stuck")
    night.daemons[UPDATER].kill()
    return night.ips[:4], lambda: None


def gone_with_hv(night: HvNight) -> tuple[Iterable[str], Cure]:
    """Nothing reaches a board any more, and nothing comes from it; its HV stays on."""
    feed_modules(night)
    night.control.fault(night.ips[5], "unreachable")
    return night.ips[4:], lambda: None


GUARD, UPDATER = "temperature_guard", "hv_updater"
# promise, what it was, how; each on a board of its own
SENSORS: list[tuple[str, str, Cause]] = [
    ("a temperature creeps over its limit", "TEMP1 creeps to 60.25 degC", creeping),
    ("HK of a board stops", "HK of a board stops", no_hk),
    ("a temperature is impossible", "TEMP1 reads 300 degC", odd_hk(0, temp1_c=300.0)),
    ("a temperature jumps to and fro with every packet", "TEMP1 reads 25-40-25-40 degC",
     odd_hk(1, temp1_c=40.0, every=2)),
    ("HVMON is too high", "HVMON reads 70 V", odd_hk(3, hvmon_v=70.0)),
]  # fmt: skip
MORE_SENSORS: list[tuple[str, str, Cause]] = [
    ("a temperature jumps over its limit", "TEMP1 jumps to 80 degC",
     odd_hk(7, True, temp1_c=80.0)),
    ("a temperature jumps over its limit", "TEMP1 jumps to -40 degC",
     odd_hk(6, True, temp1_c=-40.0)),
    ("a temperature jumps over its limit", "TEMP2 jumps to 95 degC",
     odd_hk(5, True, temp2_c=95.0)),
    ("a temperature is impossible", "TEMP2 reads -273 degC", odd_hk(2, temp2_c=-273.15)),
    ("a temperature is impossible", "TEMP1 reads -128 degC", odd_hk(3, temp1_c=-128.0)),
    ("a temperature is impossible", "HVMON of -95 V in Redis", spoilt_record(1, HVMON2="-95")),
    ("a temperature is impossible", "a record without HVMON", spoilt_record(0, HVMON0="")),
    ("a temperature is impossible", "a record without TEMP1", spoilt_record(2, TEMP1="")),
    ("a temperature jumps to and fro with every packet", "TEMP2 reads 50-75-50-75 degC",
     odd_hk(4, temp2_c=75.0, every=2)),
]  # fmt: skip
REDIS_KILLED = ("Redis is killed", "Redis killed", redis_killed)
GUARD_HANGS = ("temperature_guard hangs", "temperature_guard hangs", hanging(GUARD))
PROGRAMS: list[tuple[str, str, Cause]] = [
    ("temperature_guard is killed or ends", "temperature_guard killed", killed(GUARD)),
    ("hv_updater is killed or ends", "hv_updater killed", killed(UPDATER)),
    ("updater and guard are killed together", "updater and guard killed", killed(UPDATER, GUARD)),
    REDIS_KILLED,
    GUARD_HANGS,
]
CAPTURE_HK_KILLED = ("capture_hk is killed or hangs", "capture_hk killed", killed("capture_hk"))
MORE: list[tuple[str, str, Cause]] = [
    CAPTURE_HK_KILLED,
    ("temperature_guard is killed or ends", "temperature_guard ended", ended(GUARD)),
    ("hv_updater is killed or ends", "hv_updater ended", ended(UPDATER)),
    ("hv_updater hangs", "hv_updater hangs", hanging(UPDATER)),
    ("updater and guard hang together", "updater and guard hang", hanging(UPDATER, GUARD)),
    ("temperature_guard is killed or ends", "guard and capture_hk killed",
     killed(GUARD, "capture_hk")),
    ("hv_updater is killed or ends", "updater and capture_hk killed",
     killed(UPDATER, "capture_hk")),
    ("capture_hk is killed or hangs", "capture_hk hangs", hanging("capture_hk")),
    ("Redis hangs", "Redis hangs", redis_hangs),
    ("hv_trips.json cannot be read", "hv_trips.json broken", trips_broken),
]  # fmt: skip
POWER: list[tuple[str, str, Cause]] = [
    ("a board shows nothing at all: power cut", "board is gone, its HV stays on", gone_with_hv),
    ("a board does not obey (HVMON shows it): power cut", "board ignores HV off", stuck),
]


def one_after_the_other(folder: Path, causes: list[tuple[str, str, Cause]]) -> None:
    with hv_night(folder) as night:
        night.hv_on()
        for promise, what, cause in causes:
            measure(night, promise, what, cause)
            night.wait_on()


def test_sensor_faults_and_programs_that_end_or_hang(tmp_path: Path) -> None:
    """A sample of all causes."""
    with hv_night(tmp_path) as night:
        night.hv_on()
        measure_together(night, SENSORS)
        for cause in (CAPTURE_HK_KILLED, REDIS_KILLED, GUARD_HANGS):
            night.wait_on()
            measure(night, *cause)
        why = [alarm.text for alarm in read_alarms(night.data_dir) if alarm.kind == "interlock"]
        assert any("temperature_guard (pid" in text and "hangs" in text for text in why), why


@pytest.mark.long
def test_programs_that_die(tmp_path: Path) -> None:
    one_after_the_other(tmp_path, PROGRAMS)


def test_power_that_is_cut(tmp_path: Path) -> None:
    with hv_night(tmp_path, HASTY) as night:
        two_outlets(night)
        night.hv_on()
        measure_together(night, POWER)
        assert night.switch.outlets_on == set(range(1, 9)) - {OUTLET, OUTLET + 1}


@pytest.mark.long
def test_more_sensor_faults(tmp_path: Path) -> None:
    one_after_the_other(tmp_path, MORE_SENSORS)


@pytest.mark.long
def test_while_another_program_has_the_fixed_port(tmp_path: Path) -> None:
    """Neither the other one's turn nor its end is waited for."""
    with hv_night(tmp_path) as night:
        night.write_site(command_source_port=60000)
        night.hv_on()
        lock = night.data_dir / LOCK_NAME
        limit_s = PROMISED["hv_updater is killed or ends"](night.pace) + FIXED_PORT_S
        with turn(lock, False, 10.0):
            night.begin()
            killed(UPDATER)(night)
            took_s = night.time_off(night.ips, limit_s + SLACK_S, "the port is taken")
        print(f"hv_updater killed, fixed port taken: {took_s:.2f} s (promised {limit_s:g} s)")
        flights = [line.what for line in read_flight(night.data_dir) if line.program == GUARD]
        assert "urgent_from_any_port" in flights


@pytest.mark.long
def test_more_causes(tmp_path: Path) -> None:
    one_after_the_other(tmp_path, MORE)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "case", [*SENSORS, *MORE_SENSORS, *PROGRAMS, *MORE, *POWER], ids=lambda case: case[1]
)
def test_at_the_real_pace(tmp_path: Path, case: tuple[str, str, Cause]) -> None:
    """Intervals, housekeeping and way down as at a real site."""
    with hv_night(tmp_path, REAL) as night:
        two_outlets(night)
        night.hv_on()
        measure(night, *case)


def test_every_promise_is_measured() -> None:
    cases = {case[0] for case in (*SENSORS, *MORE_SENSORS, *PROGRAMS, *MORE, *POWER)}
    assert cases | {FULL_DISK} == set(PROMISED), "the disk: test_hv_daemons.py"


def test_the_manual_promises_the_same() -> None:
    table = {
        cells[0]: cells[1]
        for line in (REPO / "docs" / "safety.md").read_text().splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) >= 2
    }
    pace = Pace(interval_s=1.0, hk_period_s=3.0, max_age_s=15.0)
    for cause, promised_s in PROMISED.items():
        found = re.match(r"(\d+) s", table.get(cause, ""))
        assert found is not None, f"docs/safety.md says nothing of: {cause}"
        assert float(found[1]) == promised_s(pace), cause
