"""The board link against simulated boards: many at once, every fault, the fixed source port."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from panoseti.boards import commands, port_lock
from panoseti.boards.board_link import LOCK_NAME, BoardLink, Pause, Send, open_link
from panoseti.boards.data_flow import link_to_stop, stop_data_flow
from panoseti.boards.packets import parse_destination_reply, parse_ph_baseline
from panoseti.configs.load_configs import load_site
from panoseti.errors import ConfigError, ObsError, RefusedError
from panoseti.flight import FlightRecorder, read_flight
from simulator.client import SimulatorClient
from tests.helpers import wait_for
from tests.simulated import Simulation, simulation
from tests.site_files import DAQ, OBS, changed, write_site

MODULES = tuple(range(100, 118))
HV = commands.SetHv((100, 200, 300, 400))
RESET = commands.Reset()
MAROC = commands.MarocSetup(tuple(bytes([chip + 1]) * 103 + b"\0" for chip in range(4)))
SOURCE_PORT = 60000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    """72 boards that have booted long ago."""
    with simulation(
        tmp_path_factory.mktemp("link"), modules=MODULES, options=("--silver",)
    ) as running:
        yield running


@pytest.fixture
def sim(site: Simulation) -> Iterator[SimulatorClient]:
    with site.client() as client:
        yield client
        client.fault("all", "none")


def hv_of(sim: SimulatorClient, ip: str) -> list[int]:
    codes: list[int] = sim.state(ip)["boards"][ip]["hv"]["codes"]
    return codes


def test_every_board_of_a_site_is_told_and_confirms(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    flight = FlightRecorder(tmp_path, "test")
    plan = [Send(HV), Send(commands.HkDestination(site.head)), Send(MAROC)]
    done: list[str] = []
    outcomes = BoardLink(flight=flight).run(dict.fromkeys(site.quabos, plan), progress=done.append)
    assert list(outcomes) == list(site.quabos)
    assert [o.problem for o in outcomes.values()] == [None] * len(site.quabos)
    assert sorted(done) == sorted(site.quabos)
    assert all(not o.unconfirmed and None not in o.replies for o in outcomes.values())
    boards = sim.state()["boards"]
    assert all(board["hv"]["codes"] == [100, 200, 300, 400] for board in boards.values())
    assert all(board["hk_destination"] == site.head for board in boards.values())
    sends = [line for line in read_flight(tmp_path) if line.what == "send"]
    assert len(sends) == sum(o.packets for o in outcomes.values())
    first = next(line.text for line in sends if site.quabos[5] in line.text)
    assert 'command="set HV" hex="82' in first


def test_answers_of_their_own_come_back_parsed(site: Simulation, sim: SimulatorClient) -> None:
    plan = [
        Send(commands.DataDestination(site.head, site.head)),
        Send(commands.CalibratePhBaseline()),
        Send(commands.ReadPhFrame()),
    ]
    begin = time.monotonic()
    outcomes = BoardLink().run(dict.fromkeys(site.quabos[:12], plan))
    spent_s = time.monotonic() - begin
    for outcome in outcomes.values():
        assert outcome.ok, outcome.problem
        destination, baseline, frame = outcome.replies
        assert destination is not None and baseline is not None and frame is not None
        assert parse_destination_reply(destination).ph_found
        assert all(0 < value < 4096 for value in parse_ph_baseline(baseline))
        assert frame[0] == 0x87
        assert outcome.packets == 3
    assert spent_s < 2.0, "boards were calibrated one after the other"


@pytest.mark.parametrize("fault", ["unreachable", "mute"])
def test_a_silent_board_is_named_and_costs_the_others_nothing(
    site: Simulation, sim: SimulatorClient, fault: str
) -> None:
    silent = site.quabos[7]
    sim.fault(silent, fault)
    codes = (7, 7, 7, 7) if fault == "mute" else (8, 8, 8, 8)
    plan = [Send(commands.SetHv(codes), timeout_s=0.2), Send(RESET, timeout_s=0.2)]
    ended: dict[str, float] = {}

    def note(ip: str) -> None:
        ended[ip] = time.monotonic() - begin

    begin = time.monotonic()
    outcomes = BoardLink().run(dict.fromkeys(site.quabos, plan), progress=note)
    spent_s = time.monotonic() - begin
    assert [ip for ip, outcome in outcomes.items() if not outcome.ok] == [silent]
    assert f"{silent}: no answer to set HV (5 tries in 1 s)" in str(outcomes[silent].problem)
    assert outcomes[silent].packets == 5
    assert 1.0 <= spent_s < 3.0
    assert ended[silent] == max(ended.values())
    obeyed = hv_of(sim, silent) == list(codes)
    assert obeyed == (fault == "mute")


@pytest.mark.parametrize(
    ("fault", "parameters"),
    [
        ("lossy", {"fraction": 0.1, "seed": 3}),
        ("slow", {"delay_s": 0.15}),
        ("duplicating", {}),
        ("reordering", {}),
    ],
)
def test_what_can_be_repeated_gets_through_a_bad_network(
    site: Simulation, sim: SimulatorClient, fault: str, parameters: dict[str, Any]
) -> None:
    chosen = site.quabos[:16]
    for ip in chosen:
        sim.fault(ip, fault, **parameters)
    other = commands.MarocSetup(tuple(bytes([len(fault)]) * 103 + b"\0" for _ in range(4)))
    repeats = fault in ("lossy", "slow")
    timeout_s, tries = (0.1, 30) if repeats else (2.0, 2)
    plan = [
        Send(commands.SetHv((1, 1, 1, 1)), timeout_s=timeout_s, tries=tries),
        Send(other, timeout_s=timeout_s, tries=tries),
        Send(commands.SetHv((2, 2, 2, 2)), timeout_s=timeout_s, tries=tries),
    ]
    outcomes = BoardLink().run(dict.fromkeys(chosen, plan))
    assert [o.problem for o in outcomes.values()] == [None] * len(chosen)
    assert all(hv_of(sim, ip) == [2, 2, 2, 2] for ip in chosen)
    total = sum(o.packets for o in outcomes.values())
    assert total > 4 * len(chosen) if repeats else total == 4 * len(chosen)


def test_boards_that_are_all_slow_are_not_flooded(site: Simulation, sim: SimulatorClient) -> None:
    """As when the network is busy, or one machine simulates too many boards."""
    sim.fault("all", "slow", delay_s=0.4)
    codes = [commands.SetHv((n, n, n, n)) for n in range(1, 7)]
    plan = [Send(command, timeout_s=0.2, tries=5) for command in codes]
    outcomes = BoardLink().run(dict.fromkeys(site.quabos, plan))
    assert [o.problem for o in outcomes.values()] == [None] * len(site.quabos)
    most = max(o.packets for o in outcomes.values())
    assert most < 2 * len(codes), "only the first answers come later than they are awaited"
    plan = [Send(command, timeout_s=0.2, tries=5) for command in codes[:3]]
    outcomes = BoardLink(priority=True).run(dict.fromkeys(site.quabos, plan))
    assert all(o.ok for o in outcomes.values())
    assert min(o.packets for o in outcomes.values()) >= 2 * len(plan), "HV off does not wait"


def test_a_command_that_must_not_be_repeated_is_lost_once_for_all(
    site: Simulation, sim: SimulatorClient
) -> None:
    silent, well = site.quabos[:2]
    sim.fault(silent, "mute")
    plan = [Send(commands.CalibratePhBaseline(), timeout_s=0.6)]
    outcomes = BoardLink().run({silent: plan, well: plan})
    assert outcomes[well].ok
    assert outcomes[silent].packets == 1
    assert "no answer to calibrate PH baseline (0.6 s)" in str(outcomes[silent].problem)


def test_boards_that_do_not_echo_are_told_once_and_reported(
    site: Simulation, sim: SimulatorClient
) -> None:
    plain, echoing = site.quabos[:2]
    plan = [Send(commands.SetHv((5, 5, 5, 5))), Send(RESET)]
    outcomes = BoardLink().run({plain: plan, echoing: plan}, echo={plain: False})
    assert outcomes[plain].ok and outcomes[echoing].ok
    assert outcomes[plain].unconfirmed == ("set HV", "reset")
    assert outcomes[plain].packets == 2
    assert outcomes[echoing].unconfirmed == ()
    wait_for(lambda: hv_of(sim, plain) == [5, 5, 5, 5], "the board to obey")


def test_each_board_has_its_own_plan(site: Simulation, sim: SimulatorClient) -> None:
    first, second, third = site.quabos[:3]
    begin = time.monotonic()
    outcomes = BoardLink().run(
        {first: [Pause(0.3, "wait"), Send(RESET)], second: [Send(HV), Send(RESET)], third: []}
    )
    assert time.monotonic() - begin >= 0.3
    assert all(o.ok for o in outcomes.values())
    assert [o.packets for o in outcomes.values()] == [1, 2, 0]
    assert BoardLink().run({}) == {}


def test_traffic_is_paced(site: Simulation, sim: SimulatorClient) -> None:
    times: list[float] = []

    def tap(ip: str, outgoing: bool, data: bytes) -> None:
        if outgoing:
            times.append(time.monotonic())

    plan = [Send(RESET)]
    link = BoardLink(packets_per_ms=0.25, tap=tap)
    begin = time.monotonic()
    assert all(o.ok for o in link.run(dict.fromkeys(site.quabos, plan)).values())
    # A burst of 8 may go at once; the other 64 of 72 packets need 4 ms each.
    assert times[-1] - begin >= 63 * 0.004
    active: set[str] = set()
    most = 0

    def count(ip: str, outgoing: bool, data: bytes) -> None:
        nonlocal most
        (active.add if outgoing else active.discard)(ip)
        most = max(most, len(active))

    link = BoardLink(boards_at_once=3, tap=count)
    assert all(o.ok for o in link.run(dict.fromkeys(site.quabos, plan)).values())
    assert most == 3


def test_an_address_without_a_route_spoils_nothing(site: Simulation, sim: SimulatorClient) -> None:
    well, nowhere = site.quabos[0], "255.255.255.255"  # sending there is not permitted
    outcomes = BoardLink().run({nowhere: [Send(RESET, timeout_s=0.05)], well: [Send(RESET)]})
    assert outcomes[well].ok
    assert re.search(r"unreachable|ermi(tted|ssion denied)", str(outcomes[nowhere].problem))


def test_a_port_nobody_listens_on_is_one_silent_board(
    site: Simulation, sim: SimulatorClient
) -> None:
    nobody = site.head
    outcomes = BoardLink().run(
        {nobody: [Send(RESET, timeout_s=0.05)]} | dict.fromkeys(site.quabos, [Send(RESET)])
    )
    assert [ip for ip, o in outcomes.items() if not o.ok] == [nobody]


# --- the fixed source port ---


def test_commands_leave_from_the_fixed_port_and_it_is_given_back(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    held = []

    def tap(ip: str, outgoing: bool, data: bytes) -> None:
        held.append(port_lock.who_holds_udp(site.head, SOURCE_PORT))

    link = BoardLink(SOURCE_PORT, site.head, tmp_path / LOCK_NAME, tap=tap)
    for _ in range(2):
        outcomes = link.run(dict.fromkeys(site.quabos[:4], [Send(RESET)]))
        assert all(o.ok for o in outcomes.values())
    assert all(f"pid {os.getpid()} " in holder for holder in held)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free_again:
        free_again.bind((site.head, SOURCE_PORT))


@contextmanager
def other_program(folder: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """A program that holds the command port."""
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(({address!r}, {SOURCE_PORT}))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    script = folder / "old_tool.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate("")


def test_who_holds_the_port_is_named_but_hv_off_does_not_wait(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    board = site.quabos[0]
    off = {board: [Send(commands.SetHv((0, 0, 0, 0)))]}
    flight = FlightRecorder(tmp_path, "test")
    lock = tmp_path / LOCK_NAME
    with other_program(tmp_path, site.head) as holder:
        link = BoardLink(SOURCE_PORT, site.head, lock, patience_s=0.2)
        with pytest.raises(RefusedError, match=rf"held by pid {holder.pid} .*old_tool\.py"):
            link.run(off)
        urgent = BoardLink(SOURCE_PORT, site.head, lock, flight, priority=True, patience_s=0.2)
        begin = time.monotonic()
        assert urgent.run(off)[board].ok
        assert time.monotonic() - begin < 2.0
    assert hv_of(sim, board) == [0, 0, 0, 0]
    assert any(line.what == "urgent_from_any_port" for line in read_flight(tmp_path))


def test_an_address_that_is_not_ours_is_a_config_mistake() -> None:
    link = BoardLink(SOURCE_PORT, "192.0.2.1", patience_s=0.1)
    with pytest.raises(ObsError, match=r"192\.0\.2\.1:60000: not an address of this machine"):
        link.run({"127.1.2.3": [Send(RESET)]})


@pytest.mark.parametrize("broken", ["lock", "address"])
def test_hv_off_is_sent_whatever_keeps_it_from_the_fixed_port(
    site: Simulation, sim: SimulatorClient, tmp_path: Path, broken: str
) -> None:
    """No lock can be made (as on a read-only disk); the head node's address has gone."""
    board = site.quabos[0]
    blocked = tmp_path / "file"
    blocked.touch()
    lock = (blocked if broken == "lock" else tmp_path) / LOCK_NAME
    head = "192.0.2.1" if broken == "address" else site.head
    on = {board: [Send(commands.SetHv((20000,) * 4))]}
    off = {board: [Send(commands.SetHv((0, 0, 0, 0)))]}
    assert BoardLink().run(on)[board].ok and hv_of(sim, board) == [20000] * 4
    with pytest.raises(ObsError, match="cannot be opened" if broken == "lock" else "not an addr"):
        BoardLink(SOURCE_PORT, head, lock, patience_s=0.2).run(off)
    urgent = BoardLink(SOURCE_PORT, head, lock, priority=True, patience_s=0.2)
    assert urgent.run(off)[board].ok
    assert hv_of(sim, board) == [0, 0, 0, 0]


def test_the_urgent_one_is_served_first(tmp_path: Path) -> None:
    path = tmp_path / "log" / LOCK_NAME
    order: list[str] = []
    release = threading.Event()

    def work(name: str, urgent: bool, until: threading.Event | None = None) -> None:
        with port_lock.turn(path, urgent, 20.0):
            order.append(name)
            if until is not None:
                until.wait(20.0)

    def urgent_waits() -> bool:
        """Whether somebody holds the gate shared: only an urgent one does."""
        with open(f"{path}.urgent", "rb") as gate:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                try:
                    fcntl.flock(gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True
            return False

    threads = [threading.Thread(target=work, args=("first", False, release))]
    threads[0].start()
    wait_for(lambda: order == ["first"], "the first to hold the port")
    threads += [threading.Thread(target=work, args=(f"usual {n}", False)) for n in range(3)]
    for thread in threads[1:]:
        thread.start()
    threads.append(threading.Thread(target=work, args=("urgent", True)))
    threads[-1].start()
    wait_for(urgent_waits, "the urgent one to wait")
    release.set()
    for thread in threads:
        thread.join(20.0)
    assert order[:2] == ["first", "urgent"]
    assert sorted(order[2:]) == ["usual 0", "usual 1", "usual 2"]


def test_a_turn_that_does_not_come_names_the_holder(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    with port_lock.turn(path, False, 1.0):
        begin = time.monotonic()
        with pytest.raises(RefusedError, match=rf"in use by pid {os.getpid()} "):
            with port_lock.turn(path, False, 0.2):
                pass
        assert 0.2 <= time.monotonic() - begin < 2.0
    with port_lock.turn(path, True, 0.2):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom panoseti.boards.port_lock import turn\n"
        "with turn(Path(sys.argv[1]), False, 1.0):\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait()
    with port_lock.turn(path, False, 0.5):
        pass


def site_with_fixed_port(site: Simulation, folder: Path, **daq: str) -> Path:
    """A command directory whose boards are the simulated ones of two modules."""
    modules = [
        {"mobo_serialno": "S", "quabo_version": "qfp", "ip_addr": base} for base in site.bases[:2]
    ]
    places: dict[tuple[str | int, ...], Any] = {
        ("domes", 0, "modules"): modules,
        ("command_source_port",): SOURCE_PORT,
    }
    head = {
        ("head_node_ip_addr",): site.head,
        ("head_node_data_dir",): str(folder / "data"),
        ("daq_nodes", 0, "ip_addr"): site.head,
        ("daq_nodes", 0, "data_dir"): str(folder / "data"),
    }
    head |= {(name,): value for name, value in daq.items()}
    return write_site(folder / "site", changed(OBS, places), changed(DAQ, head))


def test_the_link_of_a_site_is_as_its_configs_say(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    config_dir = site_with_fixed_port(site, tmp_path)
    with open_link(load_site(config_dir)) as link:
        outcomes = link.run(dict.fromkeys(site.quabos[:8], [Send(RESET)]))
    assert all(o.ok for o in outcomes.values())
    lock = tmp_path / "data" / LOCK_NAME
    assert lock.read_text().strip() == str(os.getpid()), "not under the lock of the data directory"


def test_the_data_flow_is_stopped_though_the_fixed_port_cannot_be_had(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    """Its lock cannot be opened, and the head node's name does not resolve: from any port, then."""
    (tmp_path / "data").write_text("no folder")
    config_dir = site_with_fixed_port(site, tmp_path, head_node_ip_addr="head.invalid")
    loaded = load_site(config_dir)
    with pytest.raises(ConfigError, match="head.invalid"):
        open_link(loaded)
    with link_to_stop(loaded, FlightRecorder(None, "")) as link:
        outcomes = stop_data_flow(loaded, link, loaded.obs.quabos)
    assert all(outcome.ok for outcome in outcomes.values()), outcomes
