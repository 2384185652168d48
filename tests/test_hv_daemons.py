"""HV updater and temperature guard at work: simulated boards, real Redis, real capture_hk.py.

Boards run 20 times faster than real, HK comes every 0.1 s and counts as absent after 4 s.  How
long it takes from each cause to HV off: test_hv_times.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from panoseti.boards.board_link import open_link
from panoseti.bringup.session import state
from panoseti.configs.board_files import QUABO_UIDS, load_board_db, quabo_uids_text
from panoseti.configs.load_configs import load_site
from panoseti.flight import FlightRecorder, read_flight
from panoseti.high_voltage.alarms import AlarmState, read_alarms, standing_alarms
from panoseti.high_voltage.hv import HV_OFF
from panoseti.high_voltage.hv_asked import ASKED_FILE, ask
from panoseti.high_voltage.hv_ramp import step_codes
from panoseti.high_voltage.hv_service import PresentBoards, outlet_of, send_codes
from panoseti.high_voltage.hv_trips import acknowledge, read_trips
from panoseti.high_voltage.rehearsal import REHEARSAL_KEY
from panoseti.high_voltage.safety import NAME as GUARD
from panoseti.launch import Heartbeat
from panoseti.runs import stop_in_background
from panoseti.runs.stop_in_background import StopInBackground
from simulator.make_boards import write_boards
from simulator.sites import uid_of
from tests.helpers import wait_for
from tests.hv_night import OUTLET, REAL, HvNight, Pace, hv_night
from tests.hv_promises import FULL_DISK, PROMISED, SLACK_S
from tests.site_files import OBS, changed, write_site

ALL_OUTLETS = set(range(1, 9))


@pytest.fixture
def night(tmp_path: Path) -> Iterator[HvNight]:
    with hv_night(tmp_path) as running:
        yield running


def sent_codes(night: HvNight, ip: str) -> list[tuple[int, ...]]:
    """The HV codes that hv_updater has sent to a board, in order, repetitions left out."""
    found: list[tuple[int, ...]] = []
    for line in read_flight(night.data_dir):
        match = re.search(rf'board="{ip}" .*hex="([0-9a-f]+)"', line.text)
        if line.program == "hv_updater" and line.what == "send" and match:
            packet = bytes.fromhex(match[1]).ljust(64, b"\0")
            codes = tuple(int.from_bytes(packet[i : i + 2], "little") for i in (2, 4, 6, 8))
            if packet[0] & 0x7F == 0x02 and found[-1:] != [codes]:
                found.append(codes)
    return found


def standing_kinds(night: HvNight) -> list[str]:
    return [alarm.kind for alarm in standing_alarms(night.data_dir)]


def test_on_in_steps_after_a_rehearsal_and_off_at_the_end(night: HvNight) -> None:
    updater = night.start("hv_updater")
    reason = updater.wait_for(lambda beat: bool(beat.details["interlock"]), "a reason")
    assert "temperature_guard has never run" in reason.details["interlock"]
    # Alarms are written by a thread of their own, beside the heartbeats.
    wait_for(lambda: standing_kinds(night) == ["interlock"], "the alarm")
    night.start("capture_hk")
    night.start("temperature_guard")
    night.wait_on()
    wait_for(lambda: standing_kinds(night) == [], "its end")
    assert "rehearsal of the interlock passed" in updater.log()
    assert night.store.get_record(REHEARSAL_KEY) == {} and read_trips(night.data_dir) == ()
    assert night.switch.outlets_on == ALL_OUTLETS and not night.switch.requests[8:]
    ip = night.ips[2]
    full = night.formula()[ip]
    steps = [step_codes(full, step) for step in range(4)]  # type: ignore[arg-type]
    assert sent_codes(night, ip) == [HV_OFF, *steps]
    with night.sim.client() as client:
        client.set(ip, temp1_c=36.25)
    night.wait_codes(night.formula(), "HV of the warm board")
    assert all(old < new for old, new in zip(full, night.codes()[ip], strict=True))
    assert updater.stop() == 0
    assert night.codes() == night.all_off() and max(night.volts().values()) < 1


@pytest.mark.long
def test_a_trip_lasts_until_it_is_acknowledged(night: HvNight) -> None:
    got = night.data_dir / "got"
    hook = night.data_dir / "hook"
    hook.write_text(f"#!{sys.executable}\nimport sys\nopen({str(got)!r}, 'ab').write(sys.stdin.buffer.read())\n")  # fmt: skip  # noqa: E501
    hook.chmod(0o700)
    night.write_site(alarm_hook=[str(hook)])
    night.hv_on()
    victim = night.site.obs.modules[0]
    ips = [quabo.ip for quabo in victim.quabos]
    others = [ip for ip in night.ips if ip not in ips]
    night.control.set(ips[3], temp2_c=85.5)
    wait_for(lambda: OUTLET not in night.switch.outlets_on, "the outlet to be off", 8)
    assert night.switch.outlets_on == ALL_OUTLETS - {OUTLET}, "no other outlet"
    night.wait_codes(night.formula() | dict.fromkeys(ips, HV_OFF), "HV of the module off")
    (trip,) = wait_for(
        lambda: [t for t in read_trips(night.data_dir) if not t.board], "the trip on disk"
    )
    assert trip.module_id == victim.id and trip.reason.startswith(f"{ips[3]}: FPGA temperature")
    wait_for(lambda: got.exists() and "hv_trip" in got.read_text(), "the hook")
    assert json.loads(got.read_text().splitlines()[0])["source"] in (
        "temperature_guard",
        "hv_updater",
    )
    night.control.set(ips[3], temp2_c=50.0)
    for name in ("hv_updater", "temperature_guard"):
        assert night.daemons[name].stop() == 0
        night.start(name)
    night.wait_on(off=ips)
    beat = night.daemons["temperature_guard"].wait_for(alarmed, "the alarm after its restart")
    assert beat.state == "alarm" and f"module {victim.id}" in beat.details["trips"]
    assert {t.module_id for t in acknowledge(night.data_dir).trips} == {victim.id}
    night.wait_on()
    assert max(night.volts()[ip] for ip in others) > 50


def alarmed(beat: Heartbeat) -> bool:
    return bool(beat.details.get("trips"))


@pytest.mark.long
def test_boards_that_are_absent_come_go_or_are_mute(night: HvNight) -> None:
    gone, mute, other = night.ips[5], night.ips[3], night.ips[4]
    night.write_uids(absent=(gone,))
    night.start("capture_hk")
    night.start("temperature_guard")
    updater = night.start("hv_updater")
    night.wait_on(off=[gone])
    night.write_uids()
    night.wait_on()
    night.write_uids(absent=(gone,))
    night.wait_codes(night.formula() | {gone: HV_OFF}, "HV off of a board that has gone")
    updater.wait_for(lambda beat: gone not in beat.details["boards"], "it to be forgotten")
    night.control.fault(mute, "mute")
    night.control.set(other, temp1_c=35.0)
    wait_for(lambda: night.codes()[other] == night.formula()[other], "another board's HV", 5)
    wait_for(lambda: night.volts()[mute] < 1, "HV off of the mute board, unheard", 10)
    assert updater.stop() == 1
    assert f"HV off is not proven: {mute}: " in updater.log()
    assert max(night.volts().values()) < 1
    assert "housekeeping" in {alarm.kind for alarm in read_alarms(night.data_dir)}


def test_a_board_that_does_not_obey_loses_its_power(night: HvNight) -> None:
    """Outlets feed boards here; the switch fails at first."""
    fed = [quabo.ip for quabo in night.site.obs.modules[0].quabos]

    def feed(outlet: int, on: bool) -> None:
        if outlet == OUTLET and not on:
            with night.sim.client() as client:
                client.power("module:1", False)

    night.switch.on_switch = feed
    night.hv_on("--stuck_s", "1")
    night.control.fault(fed[1], "hv_stuck")
    night.switch.redirect_to = "http://127.0.0.1:9"
    night.control.set(fed[1], temp1_c=300.0)
    guard = night.daemons["temperature_guard"]
    beat = guard.wait_for(lambda beat: bool(beat.details["power_pending"]), "the trouble")
    assert "answered 302" in str(beat.details["power_pending"])
    assert night.volts()[fed[1]] > 50 > 1 > max(night.volts()[ip] for ip in (fed[0], fed[2]))
    night.switch.redirect_to = ""
    wait_for(lambda: night.volts()[fed[1]] < 1, "the power to be cut", 8)
    (trip,) = read_trips(night.data_dir)
    assert re.match(rf"{fed[1]}: HVMON shows 5\d\.\d V 1 s after HV off", trip.reason)
    guard.wait_for(lambda beat: beat.details["powered_off"] == ["outlet 3 of wps"], "the outlet")
    assert set(night.formula()) - set(fed) == {ip for ip, v in night.volts().items() if v > 50}


@pytest.mark.long
def test_the_guard_alone_keeps_everything_off(night: HvNight) -> None:
    """And finds out before it needs the power switch that it could not use it."""
    credentials = night.data_dir / "power.json"
    credentials.write_text('{"wps": {"user": "admin", "password": "1234"}}')
    night.switch.rest = night.switch.digest = True
    night.write_site(
        power_credentials=str(credentials),
        wps={"url": f"http://{night.switch.address}", "quabo_socket": OUTLET},
    )
    night.start("capture_hk")
    guard = night.start("temperature_guard", "--patience_s", "2")
    beat = guard.wait_for(lambda beat: bool(beat.details["power"]), "the alarm")
    assert "lets others at it; type: chmod 600" in beat.details["power"]["wps"]
    (alarm,) = wait_for(
        lambda: [a for a in standing_alarms(night.data_dir) if a.kind == "power_switch"], "it"
    )
    assert alarm.state is AlarmState.RAISED and alarm.subject == "wps"
    credentials.chmod(0o600)
    guard.wait_for(lambda b: b.state == "ok" and not b.details["unproven"], "all off and proven")
    by_hand = night.ips[4]
    send_codes(
        lambda priority: open_link(night.site, None, priority),
        night.site.obs.echo_by_ip,
        {by_hand: (20000,) * 4},
    )
    wait_for(lambda: night.volts()[by_hand] < 1, "HV off that nobody keeps", 8)
    guard.wait_for(lambda beat: not beat.details["unproven"], "it to be proven")
    victim = night.ips[0]
    send_codes(
        lambda priority: open_link(night.site, None, priority),
        night.site.obs.echo_by_ip,
        {victim: (20000,) * 4},
    )
    night.new_packet(victim)
    night.control.fault(victim, "unreachable")
    wait_for(lambda: OUTLET not in night.switch.outlets_on, "the outlet to be off", 15)
    trip = read_trips(night.data_dir)[0]
    assert trip.reason.startswith(f"{victim}: HV off ") and "no HVMON has shown it" in trip.reason


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 8 MB at an empty folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")
@pytest.mark.parametrize(
    "pace", [Pace(), pytest.param(REAL, marks=pytest.mark.long)], ids=["fast", "real"]
)
def test_a_full_disk_is_told_by_its_name(tmp_path: Path, pace: Pace) -> None:
    """Nobody can write heartbeat, log or alarm: HV goes off, and the hook says why."""
    with hv_night(tmp_path, pace) as night, small_disk(night.data_dir):
        got = tmp_path / "got.jsonl"
        hook = ["/bin/sh", "-c", f"cat >> {got}"]
        night.write_site(alarm_hook=hook)
        night.write_uids()
        night.hv_on()
        ballast = night.data_dir / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(65536))
        night.begin()
        limit_s = PROMISED[FULL_DISK](pace)
        took_s = night.time_off(night.ips, limit_s + SLACK_S, FULL_DISK)
        print(f"{FULL_DISK}: {took_s:.2f} s (promised {limit_s:g} s)")
        wait_for(lambda: got.exists() and "is full" in got.read_text(), "the hook")
        words = f"the disk of {night.data_dir}/log is full, so that no heartbeat can be written"
        assert words in got.read_text()
        for name in ("hv_updater", "temperature_guard"):
            wait_for(lambda name=name: words in state(name, night.data_dir).problem, "it", 30)  # type: ignore[misc]
        ballast.unlink()
        night.wait_on()


# --- the parts between ---


def test_the_run_is_stopped_once_and_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "panoseti.runs.stop_in_background")
    (tmp_path / "log").mkdir()
    script = tmp_path / "stop.py"
    script.write_text(
        "import os, sys, time\n"
        "print('stopping in', os.getcwd(), flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "os.remove('run_name')\nsys.exit(1)\n"
    )
    monkeypatch.setattr(stop_in_background, "STOP_SCRIPT", script)
    stop_run = StopInBackground(tmp_path, tmp_path, None, GUARD, FlightRecorder(None, GUARD))
    output = stop_in_background.output_path(tmp_path, GUARD)
    (tmp_path / "run_name").write_text("obs_...")
    begin = time.monotonic()
    stop_run("too hot")
    stop_run("still too hot")
    assert time.monotonic() - begin < 1
    wait_for(lambda: output.read_text().endswith("\n"), "stop.py to begin")
    assert output.read_text() == f"stopping in {tmp_path}\n"
    (tmp_path / "go").touch()
    wait_for(lambda: not (tmp_path / "run_name").exists(), "stop.py to end")

    def ended() -> bool:
        stop_run.look()
        return "exit 1" in caplog.text

    wait_for(ended, "the guard to notice")
    assert caplog.text.count("stopping the run") == 1


def test_boards_that_cannot_confirm_are_told_off_three_times(night: HvNight) -> None:
    modules = json.loads((night.config_dir / "obs_config.json").read_text())["domes"]
    night.write_site(domes=changed(modules, {(0, "modules", 1, "command_echo"): False}))
    site = load_site(night.config_dir)
    ips = [quabo.ip for quabo in site.obs.modules[1].quabos]
    before = {ip: night.boards()[ip]["commands"]["obeyed"] for ip in ips}
    problems = send_codes(
        lambda priority: open_link(site, None, priority),
        site.obs.echo_by_ip,
        dict.fromkeys(ips, HV_OFF),
    )
    assert problems == dict.fromkeys(ips)
    wait_for(
        lambda: {ip: b["commands"]["obeyed"] - before[ip] for ip, b in night.boards().items()
                 if ip in before} == dict.fromkeys(ips, 3),
        "three commands at each board",
    )  # fmt: skip


def test_present_boards_follow_the_files(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path / "site"))
    write_boards(tmp_path / "site" / "quabos", [1])
    present = PresentBoards(site, tmp_path)
    with pytest.raises(Exception, match="config.py --get_uids"):
        present.boards()
    uids = {"192.168.0.4": uid_of(4), "192.168.3.249": uid_of(1017)}
    (tmp_path / QUABO_UIDS).write_text(quabo_uids_text(site.obs, uids))
    one, other = present.boards()
    assert (one.ip, one.boardloc, one.module_id) == ("192.168.0.4", 4, 1)
    assert one.nominal_v == load_board_db(tmp_path / "site").nominal_v(uid_of(4), 3)
    assert other.nominal_v is None and "quabo_info.json" in other.remedy
    assert [m.module_id for m in present.modules()] == [1, 254]
    # For the guard one that HV was not asked for is as good as absent.
    both = {"192.168.0.4", "192.168.3.249"}
    all_ips = {quabo.ip for quabo in site.obs.quabos}
    for asked in (set(), {"192.168.3.249"}, both):
        ask(tmp_path, asked, anew=True)
        assert set().union(*(m.absent for m in present.modules())) == all_ips - asked
    (tmp_path / ASKED_FILE).write_text("{")
    assert set().union(*(m.absent for m in present.modules())) == all_ips - both
    assert [m.outlet for m in present.modules()] == ["outlet 1 of wps", ""]
    assert outlet_of(site.obs, site.obs.modules[0]) == "outlet 1 of wps"
    (tmp_path / "site" / "quabos").rename(tmp_path / "aside")
    later = PresentBoards(site, tmp_path)
    assert later.boards()[1].nominal_v is not None, "those shipped with the program"
    (tmp_path / "aside").rename(tmp_path / "site" / "quabos")
    assert later.boards() == (one, other), "a folder that was made later is found"
    detectors = tmp_path / "site" / "quabos" / "detector_info.json"
    content = json.loads(detectors.read_text())
    content[0]["breakdown_voltage"] = "61.5"
    detectors.write_text(json.dumps(content))
    assert present.boards()[0].nominal_v is None
    assert "at 64.5 V: over 3 V from the" in present.boards()[0].remedy
    odd = load_site(
        write_site(tmp_path / "odd", {**OBS, "odd_detectors": [content[0]["serialno"]]})
    )
    shutil.copytree(detectors.parent, tmp_path / "odd" / "quabos")
    assert (PresentBoards(odd, tmp_path).boards()[0].nominal_v or [0.0])[0] == 64.5
    (tmp_path / QUABO_UIDS).write_text(" ")
    with pytest.raises(Exception, match=QUABO_UIDS):
        present.boards()
