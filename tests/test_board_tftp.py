"""TFTP with simulated boards: UID, flash memory, reboot; everything bounded in time."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from panoseti.boards import board_tftp, reach
from panoseti.boards.board_tftp import Patience
from panoseti.errors import BoardError, ObsError
from panoseti.flight import FlightRecorder, read_flight
from simulator.client import SimulatorClient
from tests.helpers import golden, wait_for
from tests.simulated import Simulation, private_prefix, simulation

HASTY = Patience(silence_s=0.1, tries=3, total_s=1.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    """Eight boards that boot in half a second."""
    with simulation(
        tmp_path_factory.mktemp("tftp"), modules=(1, 254), options=("--silver",), time_scale=20
    ) as running:
        yield running


@pytest.fixture
def sim(site: Simulation) -> Iterator[SimulatorClient]:
    with site.client() as client:
        yield client
        client.fault("all", "none")


def test_uids_of_many_boards(site: Simulation, sim: SimulatorClient) -> None:
    absent = site.quabos[2]
    sim.fault(absent, "unreachable")
    known = {ip: board["uid"] for ip, board in sim.state()["boards"].items()}
    done: list[str] = []
    begin = time.monotonic()
    uids = board_tftp.on_boards(
        site.quabos, lambda ip: board_tftp.get_uid(ip, site.tftp_port, HASTY), done.append
    )
    assert time.monotonic() - begin < 2.0
    assert sorted(done) == sorted(site.quabos)
    failed = uids.pop(absent)
    known.pop(absent)
    assert uids == known
    assert isinstance(failed, BoardError)
    assert str(failed).startswith(f"{absent}: TFTP /flashuid: no answer (given up after ")


def test_a_bug_in_an_action_is_not_taken_for_a_silent_board() -> None:
    def action(ip: str) -> int:
        raise KeyError(ip)

    with pytest.raises(KeyError):
        board_tftp.on_boards(["127.0.0.5"], action)


def test_flash_is_written_and_read_back(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    board = site.quabos[0]
    data = os.urandom(0x10000 + 512 * 3)  # whole blocks: the end is an empty one
    written: list[int] = []
    read: list[int] = []
    flight = FlightRecorder(tmp_path, "test")
    board_tftp.write_flash(
        board, 0x1010000, data, site.tftp_port, written.append, HASTY, flight=flight
    )
    back = board_tftp.read_flash(board, 0x1010000, len(data), site.tftp_port, read.append)
    assert back == data
    assert written[-1] == len(data)
    assert written == sorted(written)
    assert read == [0x8000, 0x10000, len(data)]
    assert board_tftp.read_flash(board, 0x1010000 + 5, 10, site.tftp_port) == data[5:15]
    (line,) = [line for line in read_flight(tmp_path) if line.what == "tftp_put"]
    assert f'board="{board}" file="/flash.1010000" bytes={len(data)}' in line.text


def test_what_must_not_be_written_is_not(site: Simulation, sim: SimulatorClient) -> None:
    board, port = site.quabos[0], site.tftp_port
    for address, length, said in (
        (0x1010001, 1, "begins no sector"),
        (0x600000, 1, "golden firmware"),
        (0x1FF0000, 0x10001, "outside"),
        (-1, 1, "outside"),
    ):
        with pytest.raises(BoardError, match=rf"{board}: .*{said}"):
            board_tftp.write_flash(board, address, bytes(length), port)
    with pytest.raises(BoardError, match="outside"):
        board_tftp.read_flash(board, 0x2000000, 1, port)


def test_files_are_called_as_the_deployed_software_calls_them(
    site: Simulation, sim: SimulatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def record(
        ip: str,
        port: int,
        name: str,
        patience: Patience,
        data: bytes | None,
        hook: Callable[[object], None],
    ) -> bytes:
        request: dict[str, object] = {"kind": "download" if data is None else "upload"}
        request["remote"] = name
        if data is not None:
            request["data"] = data.hex() if len(data) < 64 else len(data)
        asked.append(request)
        return bytes(int(name.split(".")[-1], 16) if name.startswith("/flash.") else 8)

    monkeypatch.setattr(board_tftp, "_transfer", record)
    wanted = {case["op"]: case["requests"] for case in golden("tftp")["cases"]}
    operations = {
        "get_uid": lambda: board_tftp.get_uid("192.168.3.248"),
        "reboot": lambda: board_tftp.reboot("192.168.3.248"),
        "load_firmware_100000_bytes": lambda: board_tftp.write_flash(
            "192.168.3.248", 0x1010000, bytes(100000)
        ),
        "put_mb_file_4096_bytes": lambda: board_tftp.write_flash(
            "192.168.3.248", 0xF10000, bytes(4096)
        ),
        "get_mb_file": lambda: board_tftp.read_flash("192.168.3.248", 0xF10000, 0x100000),
    }
    for name, operation in operations.items():
        asked.clear()
        operation()
        assert asked == wanted[name], name


def test_reboot_is_ordered_though_never_acknowledged(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    board = site.quabos[1]
    flight = FlightRecorder(tmp_path, "test")
    before = sim.state(board)["boards"][board]["hk_sent"]
    begin = time.monotonic()
    board_tftp.reboot(board, site.tftp_port, flight=flight)
    assert time.monotonic() - begin < 1.5

    def back() -> bool:
        state = sim.state(board)["boards"][board]
        return state["phase"] == "silver" and state["hk_sent"] < before + 2

    wait_for(back, "the board to come back and count from the beginning")
    assert 'file="/progdev" hex="00010100"' in read_flight(tmp_path)[0].text


def test_reboot_of_an_absent_board_fails(site: Simulation, sim: SimulatorClient) -> None:
    sim.fault(site.quabos[3], "unreachable")
    with pytest.raises(BoardError, match=rf"{site.quabos[3]}: TFTP /progdev: no answer"):
        board_tftp.reboot(site.quabos[3], site.tftp_port, patience=HASTY)
    with pytest.raises(BoardError, match=r"/progdev"):
        board_tftp.reboot("255.255.255.255", site.tftp_port, patience=HASTY)


TRANSFER_BYTES = 0x4000
BLOCKS = TRANSFER_BYTES // 512


def stall(site: Simulation, sim: SimulatorClient, blocks: Sequence[int]) -> None:
    """Transfers that stall at these blocks, one for each board: each ends, naming its board."""
    stalled = dict(zip(site.quabos, blocks, strict=False))
    for ip, block in stalled.items():
        sim.fault(ip, "tftp_stall", block=block)
    port, data, patience = site.tftp_port, bytes(TRANSFER_BYTES), HASTY

    def read(ip: str) -> bytes:
        return board_tftp.read_flash(ip, 0x1010000, TRANSFER_BYTES, port, patience=patience)

    def write(ip: str) -> bytes:
        board_tftp.write_flash(ip, 0x1010000, data, port, patience=patience)
        return b""

    for action in (read, write):
        begin = time.monotonic()
        for ip, answer in board_tftp.on_boards(stalled, action).items():
            assert isinstance(answer, BoardError), (ip, stalled[ip])
            assert re.match(rf"{ip}: TFTP /flash\.1010000.*: no answer", str(answer)), answer
        assert time.monotonic() - begin < HASTY.total_s + 1.0
    sim.fault("all", "none")
    patience = board_tftp.READ
    assert list(board_tftp.on_boards(stalled, write).values()) == [b""] * len(stalled)
    assert list(board_tftp.on_boards(stalled, read).values()) == [data] * len(stalled)


def test_a_stalled_transfer_ends(site: Simulation, sim: SimulatorClient) -> None:
    """The first and the last block, and some between."""
    stall(site, sim, [1, BLOCKS, *random.Random(4).sample(range(2, BLOCKS), 6)])


@pytest.mark.long
def test_a_transfer_that_stalls_at_any_block_ends(site: Simulation, sim: SimulatorClient) -> None:
    for begin in range(1, BLOCKS + 1, len(site.quabos)):
        stall(site, sim, range(begin, min(BLOCKS + 1, begin + len(site.quabos))))


def test_lost_packets_are_made_up_for(site: Simulation, sim: SimulatorClient) -> None:
    board, port = site.quabos[5], site.tftp_port
    sim.fault(board, "lossy", fraction=0.05, seed=5)
    data = os.urandom(5000)
    # The board repeats a block of its own after a second; that may be lost as well.
    patience = Patience(silence_s=0.1, tries=50, total_s=30.0)
    board_tftp.write_flash(board, 0x1010000, data, port, patience=patience)
    assert board_tftp.read_flash(board, 0x1010000, len(data), port, patience=patience) == data


def test_refusals_say_what_the_board_said(site: Simulation, sim: SimulatorClient) -> None:
    with pytest.raises(BoardError, match=r"refused: .*no file"):
        board_tftp._read(site.quabos[0], site.tftp_port, "/nothing", HASTY)
    assert b"flashuid" in board_tftp._read(site.quabos[0], site.tftp_port, "/help", HASTY)


@contextmanager
def odd_server(answer: Callable[[int], bytes]) -> Iterator[tuple[str, int]]:
    """Answers the first request with packet after packet, 20 ms apart, for ever."""
    stop = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((private_prefix() + ".9", 0))
        server.settimeout(5)

        def serve() -> None:
            _, client = server.recvfrom(2048)
            count = 0
            while not stop.wait(0.02):
                count += 1
                server.sendto(answer(count), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        lambda count: struct.pack(">HH", 4, 0 if count == 1 else 9),  # acknowledges the future
        lambda count: struct.pack(">HH", 4, 0),
        lambda count: b"\0\4\0",
        lambda count: b"\0\x63garbage",
        lambda count: b"\0\1\xff\xfe\xff",
        lambda count: struct.pack(">HH", 5, 0) + b"busy\0",
        lambda count: b"",
    ],
)
def test_a_server_that_talks_nonsense_is_left_in_time(
    answer: Callable[[int], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with odd_server(answer) as (ip, port):
        begin = time.monotonic()
        with pytest.raises(BoardError, match=rf"{ip}: TFTP /flash.1010000: "):
            board_tftp.write_flash(ip, 0x1010000, bytes(2000), port, patience=HASTY)
        assert time.monotonic() - begin < HASTY.total_s + 1.0
    said = capsys.readouterr()
    assert said.out + said.err == ""


def test_the_library_is_silent(
    site: Simulation, sim: SimulatorClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(BoardError):
        board_tftp.get_uid(site.head, site.tftp_port, HASTY)
    assert [record for record in caplog.records if record.name.startswith("tftpy")] == []


# --- reach ---


def test_on_loopback_a_board_is_reached_when_it_serves_tftp(
    site: Simulation, sim: SimulatorClient
) -> None:
    sim.fault(site.quabos[0], "unreachable")
    sim.fault(site.quabos[1], "mute")
    begin = time.monotonic()
    reached = reach.ping([*site.quabos, site.head], site.tftp_port, timeout_s=0.4)
    assert time.monotonic() - begin < 2.0
    assert list(reached) == [*site.quabos, site.head]
    assert [ip for ip, answers in reached.items() if not answers] == [
        *site.quabos[:2],
        site.head,
    ]


def test_elsewhere_the_ping_of_the_system_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "ping"
    fake.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$*" >> "$(dirname "$0")/calls"\ntest "$9" = 192.0.2.1\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    reached = reach.ping(["192.0.2.1", "192.0.2.2"], timeout_s=1.0)
    assert reached == {"192.0.2.1": True, "192.0.2.2": False}
    assert "-n -q -c 1 -i 0.3 -w 1 192.0.2.2" in (tmp_path / "calls").read_text().splitlines()


def test_a_real_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ping") is None:
        pytest.skip("no ping on this machine")
    monkeypatch.setattr(reach, "is_loopback", lambda ip: False)
    assert reach.ping(["127.0.0.1"], timeout_s=1.0) == {"127.0.0.1": True}


def test_without_ping_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ObsError, match="sudo apt-get install iputils-ping"):
        reach.ping(["192.0.2.1"])
