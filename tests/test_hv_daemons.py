"""HV updater and temperature guard at work: simulated boards, real Redis, real capture_hk.py.

Boards run 20 times faster than real, HK counts as absent after 4 s instead of 15.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from panoseti import hv_service
from panoseti.board_files import QUABO_UIDS, load_board_db, quabo_uids_text
from panoseti.board_link import open_link
from panoseti.flight import read_flight
from panoseti.hv import HV_OFF
from panoseti.hv_service import PresentBoards, StopRun, echo_of, send_codes
from panoseti.launch import Heartbeat
from panoseti.load_configs import load_site
from panoseti.safety import read_trips
from panoseti.settings import hv_codes
from panoseti.store import Store
from simulator.client import SimulatorClient
from simulator.make_boards import write_boards
from simulator.power_switch import PowerSwitchServer
from simulator.sites import uid_of
from tests.helpers import wait_for
from tests.redis_server import PrivateRedis, private_redis
from tests.running_daemon import RunningDaemon, running_daemon
from tests.simulated import Simulation, simulation
from tests.site_files import DAQ, OBS, changed, write_site

MAX_AGE_S = 4.0
MODULES = (1, 254)


class Night:
    """A simulated site with its session daemons, started as a test wants them."""

    def __init__(self, sim: Simulation, redis: PrivateRedis, switch: PowerSwitchServer) -> None:
        self.sim, self.redis, self.switch = sim, redis, switch
        self.config_dir = sim.config_dir
        self.data_dir = sim.config_dir.parent / "data"
        self.data_dir.mkdir()
        write_site(self.config_dir, self._obs(), self._daq())
        write_boards(self.config_dir / "quabos", MODULES)
        self.site = load_site(self.config_dir)
        self.stack = ExitStack()
        self.daemons: dict[str, RunningDaemon] = {}
        self.write_uids()

    def _obs(self) -> dict[str, Any]:
        first, second = self.sim.bases
        return changed(OBS, {
            ("wps",): {"url": self.switch.url, "quabo_socket": 3},
            ("domes", 0, "modules", 0, "ip_addr"): first,
            ("domes", 0, "modules", 1, "ip_addr"): second,
            ("redis_port",): self.redis.port,
            ("hk_max_age_s",): MAX_AGE_S,
        })  # fmt: skip

    def _daq(self) -> dict[str, Any]:
        return changed(DAQ, {
            ("head_node_ip_addr",): self.sim.head,
            ("head_node_data_dir",): str(self.data_dir),
        })  # fmt: skip

    def write_uids(self, absent: tuple[str, ...] = ()) -> None:
        """What the UID scan of config.py would leave."""
        uids = {q.ip: uid_of(q.boardloc) for q in self.site.obs.quabos if q.ip not in absent}
        temporary = self.data_dir / "uids.tmp"
        temporary.write_text(quabo_uids_text(self.site.obs, uids))
        temporary.replace(self.data_dir / QUABO_UIDS)

    def start(self, name: str, *extra: str) -> RunningDaemon:
        """Start daemons/<name>.py; it ends with the test."""
        daemon = self.stack.enter_context(
            running_daemon(name, self.config_dir, self.data_dir, *extra, interval_s=0.25)
        )
        self.daemons[name] = daemon
        return daemon

    def cure(self) -> None:
        """End all faults, so that the end of the daemons need not wait for silent boards."""
        with self.client() as client:
            client.fault("all", "none")

    def boards(self) -> dict[str, Any]:
        """The simulated boards as they are."""
        with self.sim.client() as client:
            boards: dict[str, Any] = client.request(do="state", tables=False)["boards"]
            return boards

    def codes(self) -> dict[str, tuple[int, ...]]:
        """The HV codes each board has."""
        return {ip: tuple(board["hv"]["codes"]) for ip, board in self.boards().items()}

    def client(self) -> SimulatorClient:
        return self.sim.client()

    def expected(self, temps: dict[str, float]) -> dict[str, tuple[int, ...]]:
        """The codes that follow from the temperatures."""
        db = load_board_db(self.config_dir)
        return {
            q.ip: hv_codes(db.nominal_v(uid_of(q.boardloc), 3), temps[q.ip])
            for q in self.site.obs.quabos
        }

    def formula(self) -> dict[str, tuple[int, ...]]:
        """The codes that follow from the boards' temperatures as they are."""
        return self.expected(
            {ip: round(b["temp1_c"] / 0.25) * 0.25 for ip, b in self.boards().items()}
        )

    def wait_codes(self, wanted: dict[str, tuple[int, ...]], what: str, timeout_s: float) -> float:
        """Wait until every board has the wanted codes; how long that took, s."""
        begin = time.monotonic()
        wait_for(lambda: self.codes() == wanted, what, timeout_s)
        return time.monotonic() - begin

    def all_off(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.sim.quabos, HV_OFF)


@contextmanager
def night(folder: Path) -> Iterator[Night]:
    with (
        private_redis(folder) as redis,
        PowerSwitchServer() as switch,
        simulation(folder, MODULES, options=("--silver",)) as sim,
    ):
        running = Night(sim, redis, switch)
        with running.stack:
            yield running
            running.cure()


@pytest.fixture
def obs(tmp_path: Path) -> Iterator[Night]:
    with night(tmp_path) as running:
        yield running


def hv_on(night: Night) -> RunningDaemon:
    """capture_hk and hv_updater at work, HV on by the formula."""
    night.start("capture_hk")
    updater = night.start("hv_updater")
    night.wait_codes(night.formula(), "HV on everywhere", 10)
    return updater


def test_hv_comes_on_by_the_formula_and_follows_the_temperature(obs: Night) -> None:
    updater = hv_on(obs)
    assert updater.wait_for(lambda beat: beat.state == "ok", "all on").details["problem"] == ""
    warm = obs.sim.quabos[2]
    with obs.client() as client:
        client.set(warm, temp1_c=41.25)
    obs.wait_codes(obs.formula(), "HV of the warm board", 5)
    before = obs.expected({ip: b["temp1_c"] for ip, b in obs.boards().items()} | {warm: 25.0})
    assert all(old < new for old, new in zip(before[warm], obs.codes()[warm], strict=True))
    assert updater.stop() == 0
    assert obs.codes() == obs.all_off(), "its end is the end of the HV"
    sent = [line.text for line in read_flight(obs.data_dir) if line.program == "hv_updater"]
    assert len([line for line in sent if "send" in line]) >= 3 * len(obs.sim.quabos)


def test_capture_killed_and_redis_killed_mean_off_in_time(obs: Night) -> None:
    updater = hv_on(obs)
    obs.daemons["capture_hk"].kill()
    took_s = obs.wait_codes(obs.all_off(), "HV off after capture_hk died", MAX_AGE_S + 6)
    assert took_s > MAX_AGE_S - 1.5, "not before the last HK is too old"
    reasons = updater.beat().details["boards"].values()
    assert all("s old (limit 4 s)" in board["reason"] for board in reasons)
    obs.start("capture_hk")
    obs.wait_codes(obs.formula(), "HV on again", 10)
    obs.redis.kill()
    took_s = obs.wait_codes(obs.all_off(), "HV off without Redis", 6)
    assert took_s < 3, "no record can be read: nothing to wait for"
    updater.wait_for(lambda beat: "is not reachable" in str(beat.details["boards"]), "its reason")
    obs.redis.start()
    obs.wait_codes(obs.formula(), "HV on with Redis back", 10)


def test_frozen_redis_and_impossible_values_mean_off(obs: Night) -> None:
    updater = hv_on(obs)
    with obs.redis.frozen():
        obs.wait_codes(obs.all_off(), "HV off while Redis hangs", 8)
    obs.wait_codes(obs.formula(), "HV on again", 10)
    victim = obs.site.obs.quabo(obs.sim.quabos[0])
    with obs.client() as client:
        client.fault(victim.ip, "no_hk")
    key = f"QUABO_{victim.boardloc}"
    with Store(port=obs.redis.port) as store:
        record = store.get_record(key)
        for name, value in (("TEMP1", "nan"), ("BOARDLOC", "5")):
            store.put_record(key, {**record, "Computer_UTC": time.time(), name: value})
            wanted = obs.formula() | {victim.ip: HV_OFF}
            obs.wait_codes(wanted, f"HV off with {name} {value}", 4)
            reason = updater.wait_for(
                lambda beat: beat.details["boards"][victim.ip]["hv"] == "off", "it to be told"
            ).details["boards"][victim.ip]["reason"]
            assert "impossible HK" in reason and name in reason
            store.put_record(key, {**record, "Computer_UTC": time.time()})
            obs.wait_codes(obs.formula(), "HV on again", 4)
        store.delete(key)
        obs.wait_codes(obs.formula() | {victim.ip: HV_OFF}, "HV off without a record", 4)


def test_too_hot_is_off_for_good_and_absent_boards_get_nothing(obs: Night) -> None:
    hot, gone = obs.sim.quabos[1], obs.sim.quabos[5]
    obs.write_uids(absent=(gone,))
    obs.start("capture_hk")
    updater = obs.start("hv_updater")
    obs.wait_codes(obs.formula() | {gone: HV_OFF}, "HV on where boards are", 10)
    with obs.client() as client:
        client.set(hot, temp1_c=60.5)
        off = {hot: HV_OFF, gone: HV_OFF}
        obs.wait_codes(obs.formula() | off, "HV of the hot board off", 4)
        client.set(hot, temp1_c=25.0)
    rounds = updater.beat().updated_unix
    updater.wait_for(lambda beat: beat.updated_unix > rounds + 2, "some more rounds")
    assert obs.codes() == obs.formula() | off
    assert "off until hv_updater.py is restarted" in str(updater.beat().details["boards"][hot])
    obs.write_uids()
    obs.wait_codes(obs.formula() | {hot: HV_OFF}, "HV of a board that has come", 5)
    obs.write_uids(absent=(gone,))
    obs.wait_codes(obs.formula() | off, "HV off of a board that has gone", 5)


def test_a_mute_board_keeps_nobody_else_from_being_served(obs: Night) -> None:
    mute = obs.sim.quabos[3]
    updater = hv_on(obs)
    with obs.client() as client:
        client.fault(mute, "mute")
        others = obs.sim.quabos[4]
        client.set(others, temp1_c=35.0)
        wait_for(lambda: obs.codes()[others] == obs.formula()[others], "another board's HV", 8)
        updater.wait_for(
            lambda beat: beat.details["boards"][mute]["hv"] == "unknown", "the mute one"
        )
        assert updater.stop() == 1
        assert f"HV off was not confirmed by {mute}" in updater.log()
        assert obs.codes() == obs.all_off()


# --- temperature guard ---


def alarm(beat: Heartbeat) -> bool:
    return bool(beat.details.get("trips"))


def test_a_trip_switches_hv_and_outlet_off_for_the_module(obs: Night) -> None:
    hv_on(obs)
    guard = obs.start("temperature_guard")
    guard.wait_for(lambda beat: beat.state == "ok", "all calm")
    assert read_trips(obs.data_dir) == {}
    victim = obs.site.obs.modules[0]
    ips = [quabo.ip for quabo in victim.quabos]
    with obs.client() as client:
        client.set(ips[3], temp2_c=85.5)
    wait_for(lambda: 3 not in obs.switch.outlets_on, "the outlet to be off", 5)
    assert obs.switch.outlets_on == set(range(1, 9)) - {3}, "no other outlet"
    obs.wait_codes(obs.formula() | dict.fromkeys(ips, HV_OFF), "HV of the module off", 5)
    beat = guard.wait_for(alarm, "the alarm")
    reason = beat.details["trips"][str(victim.id)]
    assert reason.startswith(f"{ips[3]}: FPGA temperature 85.") and "is above 85 degC" in reason
    assert read_trips(obs.data_dir)[victim.id].reason == reason
    with obs.client() as client:
        client.set(ips[3], temp2_c=50.0)
    seen = guard.beat().updated_unix
    guard.wait_for(lambda beat: beat.updated_unix > seen + 2, "some more rounds")
    assert obs.codes() == obs.formula() | dict.fromkeys(ips, HV_OFF), "off for good"
    assert guard.stop() == 0
    obs.start("temperature_guard").wait_for(lambda beat: beat.state == "ok", "a new guard")
    assert read_trips(obs.data_dir) == {}
    obs.wait_codes(obs.formula(), "HV on when the guard was started again", 5)


def test_without_hk_the_guard_too_switches_hv_off_but_not_the_power(obs: Night) -> None:
    hv_on(obs)
    os.kill(obs.daemons["hv_updater"].process.pid, signal.SIGSTOP)
    try:
        guard = obs.start("temperature_guard")
        guard.wait_for(lambda beat: beat.state == "ok", "all calm")
        obs.daemons["capture_hk"].kill()
        obs.wait_codes(obs.all_off(), "HV off by the guard alone", MAX_AGE_S + 5)
        beat = guard.wait_for(lambda beat: len(beat.details["blind"]) == 8, "all blind")
        assert (beat.state, beat.details["trips"]) == ("alarm", {})
        assert obs.switch.outlets_on == set(range(1, 9))
    finally:
        os.kill(obs.daemons["hv_updater"].process.pid, signal.SIGCONT)


def test_a_board_neither_seen_nor_heard_costs_its_module_the_power(obs: Night) -> None:
    obs.start("capture_hk")
    guard = obs.start("temperature_guard", "--patience_s", "1")
    guard.wait_for(lambda beat: beat.state == "ok", "all calm")
    victim = obs.sim.quabos[0]
    with obs.client() as client:
        client.fault(victim, "unreachable")
    wait_for(lambda: 3 not in obs.switch.outlets_on, "the outlet to be off", MAX_AGE_S + 10)
    reason = next(iter(read_trips(obs.data_dir).values())).reason
    assert reason.startswith(f"{victim}: HK is ") and "HV off unconfirmed for" in reason


def test_a_switch_that_fails_is_tried_again(obs: Night) -> None:
    hv_on(obs)
    obs.switch.fault = "garbled"
    guard = obs.start("temperature_guard")
    guard.wait_for(lambda beat: beat.state == "ok", "all calm")
    with obs.client() as client:
        client.set(obs.sim.quabos[0], temp1_c=-20.5)
    beat = guard.wait_for(lambda beat: bool(beat.details.get("power_pending")), "the trouble")
    assert "/status page has no state" in str(beat.details["power_pending"])
    assert set(obs.codes()[obs.sim.quabos[1]]) == {0}, "HV did not wait for it"
    obs.switch.fault = ""
    wait_for(lambda: 3 not in obs.switch.outlets_on, "the outlet to be off", 8)


# --- the parts between ---


def test_the_run_is_stopped_once_and_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "panoseti.hv_service")
    (tmp_path / "log").mkdir()
    script = tmp_path / "stop.py"
    script.write_text(
        "import os, sys, time\n"
        "print('stopping in', os.getcwd(), flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "os.remove('run_name')\nsys.exit(1)\n"
    )
    monkeypatch.setattr(hv_service, "STOP_SCRIPT", script)
    stop_run = StopRun(tmp_path, tmp_path)
    stop_run("too hot")
    assert not (tmp_path / "log" / hv_service.STOP_OUTPUT).exists(), "no run, nothing to stop"
    (tmp_path / "run_name").write_text("obs_...")
    begin = time.monotonic()
    stop_run("too hot")
    stop_run("still too hot")
    assert time.monotonic() - begin < 1
    output = tmp_path / "log" / hv_service.STOP_OUTPUT
    wait_for(lambda: output.read_text(), "stop.py to begin")
    assert output.read_text() == f"stopping in {tmp_path}\n"
    (tmp_path / "go").touch()
    wait_for(lambda: not (tmp_path / "run_name").exists(), "stop.py to end")

    def ended() -> bool:
        stop_run.look()
        return "exit 1" in caplog.text

    wait_for(ended, "the guard to notice")
    assert caplog.text.count("stopping the run") == 1


def test_boards_that_cannot_confirm_are_told_off_three_times(obs: Night) -> None:
    silent = obs.site.obs.modules[1]
    write_site(
        obs.config_dir,
        changed(obs._obs(), {("domes", 0, "modules", 1, "command_echo"): False}),
        obs._daq(),
    )
    site = load_site(obs.config_dir)
    ips = [quabo.ip for quabo in silent.quabos]
    before = {ip: obs.boards()[ip]["commands"]["obeyed"] for ip in ips}
    problems = send_codes(
        lambda priority: open_link(site, None, priority),
        echo_of(site),
        dict.fromkeys(ips, HV_OFF),
    )
    assert problems == dict.fromkeys(ips)
    wait_for(
        lambda: {ip: b["commands"]["obeyed"] - before[ip] for ip, b in obs.boards().items()
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
    assert present.modules()[0].outlet_off is not None
    assert present.modules()[1].outlet_off is None
    (tmp_path / QUABO_UIDS).write_text(" ")
    with pytest.raises(Exception, match=QUABO_UIDS):
        present.boards()
