"""Simulated boards on the wire: every command byte for byte, and what settings do to the data."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from panoseti.boards import commands, maroc
from panoseti.boards.addresses import boardloc
from panoseti.boards.commands import AcqMode, encode
from panoseti.boards.packets import (
    HkPacket,
    hk_record,
    parse_focus_report,
    parse_hk,
    parse_ph_baseline,
    parse_ph_frame,
)
from panoseti.boards.science_packets import SciencePacket, parse_science
from panoseti.configs.board_files import SHIPPED
from panoseti.configs.quabo_config import parse_quabo_config
from simulator import sky
from simulator.client import SimulatorClient
from tests.helpers import wait_for
from tests.simulated import (
    COMMAND_PORT,
    HK_PORT,
    SCIENCE_PORT,
    TFTP_PORT,
    Simulation,
    simulation,
    udp_socket,
)

DEFAULTS = parse_quabo_config((SHIPPED / "quabo_config.txt").read_text())
WORKING = {**DEFAULTS.registers, "DAC1": (201,) * 4, "DAC2": (282,) * 4}
HV = commands.SetHv((48185, 48155, 48272, 48169))
SOURCE_PORT = 49153


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    """Two modules that have booted long ago."""
    folder = tmp_path_factory.mktemp("boards")
    with simulation(folder, modules=(254, 1), options=("--silver",)) as running:
        yield running


@pytest.fixture
def sim(site: Simulation) -> Iterator[SimulatorClient]:
    with site.client() as client:
        yield client


class Head:
    """The head node's side: commands out, answers, HK and science in."""

    def __init__(self, site: Simulation) -> None:
        self.site = site
        self.commands = udp_socket(site.head)
        self.hk = udp_socket(site.head, HK_PORT)
        self.science = udp_socket(site.head, SCIENCE_PORT)

    def close(self) -> None:
        for sock in (self.commands, self.hk, self.science):
            sock.close()

    def send(self, ip: str, data: bytes) -> bytes:
        self.commands.sendto(data, (ip, COMMAND_PORT))
        return data

    def answer(self, ip: str) -> bytes:
        """The next datagram on the command socket, which must be of this board."""
        data, sender = self.commands.recvfrom(2048)
        assert sender == (ip, COMMAND_PORT)
        return data

    def tell(self, ip: str, *told: commands.Command) -> None:
        """Send commands one by one, each after the echo of the one before."""
        for command in told:
            if isinstance(command, commands.MarocSetup):
                self.send(ip, encode(command, echo=True))
                assert len(self.answer(ip)) == 492
            else:
                sent = self.send(ip, encode(command, echo=True))
                assert self.answer(ip) == sent, command.name

    def destination(self, ip: str, to: str | None = None) -> bytes:
        to = to or self.site.head
        self.send(ip, bytes(commands.DataDestination(to, to)))
        return self.answer(ip)

    def silent(self, ip: str) -> bool:
        """Whether the board has sent nothing until now: the next to come is an echo asked for."""
        asked = self.send(ip, encode(commands.GoeMask(3), echo=True))
        return self.answer(ip) == asked

    def packet(self, ip: str, wanted: Callable[[SciencePacket], bool]) -> SciencePacket:
        """The next science packet of a board that is as wanted."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            data, sender = self.science.recvfrom(2048)
            if sender[0] != ip:
                continue
            assert sender[1] == SOURCE_PORT
            packet = parse_science(data)
            assert packet.boardloc == boardloc(ip)
            if wanted(packet):
                return packet
        pytest.fail(f"{ip}: no such science packet")

    def hk_of(self, ip: str) -> HkPacket:
        """The next housekeeping packet of a board."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            data, sender = self.hk.recvfrom(2048)
            if sender == (ip, COMMAND_PORT):
                return parse_hk(data)
        pytest.fail(f"{ip}: no housekeeping")


@pytest.fixture
def head(site: Simulation) -> Iterator[Head]:
    running = Head(site)
    try:
        yield running
    finally:
        running.close()


def state(sim: SimulatorClient, ip: str) -> dict[str, Any]:
    found: dict[str, Any] = sim.state(ip)["boards"][ip]
    return found


ECHOED = (
    HV,
    commands.Acquisition(
        AcqMode.NO_BASELINE, 4999, 1, 2, 3, 69, 1, 200, 7, 1, 7, 31, 15
    ),
    commands.Reset(),
    commands.ChannelMask(tuple(range(8)) + (0x155,)),
    commands.Shutter(1),
    commands.Flasher(0),
    commands.HkDestination("127.0.0.1"),
    commands.WritePhBaseline(tuple(range(600, 856))),
    commands.GoeMask(2),
)  # fmt: skip


def test_the_table_below_is_of_every_command_that_is_echoed() -> None:
    echoable = {kind for kind in commands.COMMANDS if kind.echoable}
    assert {type(command) for command in ECHOED} == echoable


@pytest.mark.parametrize("command", ECHOED, ids=lambda command: command.name)
def test_commands_are_echoed_byte_for_byte_when_asked(
    site: Simulation, head: Head, sim: SimulatorClient, command: commands.Command
) -> None:
    ip = site.quabos[0]
    before = state(sim, ip)["commands"]
    data = bytearray(encode(command, echo=True))
    if len(data) == 64:
        data[40:] = bytes(range(24))  # also what means nothing comes back
    sent = head.send(ip, bytes(data))
    assert head.answer(ip) == sent
    head.send(ip, encode(command))
    assert head.silent(ip)
    after = state(sim, ip)["commands"]
    assert after == {"obeyed": before["obeyed"] + 3, "ignored": before["ignored"]}
    head.tell(ip, commands.HkDestination(site.head))


def test_what_is_told_is_what_is_set(site: Simulation, head: Head, sim: SimulatorClient) -> None:
    ip = site.quabos[1]
    head.tell(ip, *ECHOED)
    board = state(sim, ip)
    assert board["hv"]["codes"] == list(HV.codes)
    assert board["acquisition"] == {**vars(ECHOED[1]), "mode": 0x10}
    assert board["channel_mask"] == [*range(8), 0x155]
    assert board["goe_mask"] == 2
    assert board["shutter_open"] is False
    assert board["new_flasher"] is False
    assert board["hk_destination"] == "127.0.0.1"
    assert board["baseline"] == list(range(600, 856))
    head.tell(ip, commands.Shutter(0), commands.HkDestination(site.head))
    assert state(sim, ip)["shutter_open"] is True


JUNK = (
    b"", b"\x02", bytes(64), b"\x30" + bytes(63), b"\x87" + bytes(63), b"\xa0\x01" + bytes(62),
    b"\x02" + bytes(62), b"\x81" + bytes(490), b"\x0d" + bytes(100),
    random.Random(1).randbytes(700),
)  # fmt: skip


def test_what_is_no_command_is_ignored_and_counted(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[2]
    before = state(sim, ip)
    for data in JUNK:
        head.send(ip, data)
    assert head.silent(ip)
    after = state(sim, ip)
    assert after["commands"]["ignored"] == before["commands"]["ignored"] + len(JUNK)
    assert after["baseline"] == before["baseline"]
    assert after["hk_interval"] == 1


def test_maroc_answers_with_the_load_before(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[3]
    load = maroc.setup(WORKING)
    other = maroc.setup({**WORKING, "DAC1": (1, 2, 3, 1023)})
    sent = head.send(ip, encode(load, echo=True))
    first = head.answer(ip)
    assert len(first) == 492
    assert first[0] == 0x81
    assert not maroc.used_bits_equal(sent, first)  # the state after power-up is not defined
    head.send(ip, sent)
    second = head.answer(ip)
    assert maroc.used_bits_equal(sent, second)
    assert maroc.differing_tags(sent, second) == ()
    assert second != sent  # spare bits are not zero
    assert [second[place] >> 5 for place in (107, 235, 363, 491)] == [7] * 4
    assert second[108:132] == second[236:260] == second[364:388] == bytes(24)
    head.send(ip, encode(other))
    assert head.silent(ip)
    head.send(ip, sent)
    assert maroc.used_bits_equal(head.answer(ip), other)
    assert state(sim, ip)["maroc"] == [chip.hex() for chip in load.chips]


def test_the_ph_baseline_takes_its_time_and_comes_byte_exactly(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[4]
    head.tell(ip, maroc.setup(WORKING), HV)
    asked_s = time.monotonic()
    head.send(ip, bytes(commands.CalibratePhBaseline()))
    late = head.send(ip, encode(commands.GoeMask(1), echo=True))
    reply = head.answer(ip)
    assert time.monotonic() - asked_s >= 0.1  # 2 s, 20 times faster
    assert len(reply) == 516
    assert reply[:4] == b"\x07\0\0\0"
    values = parse_ph_baseline(reply)
    assert all(650 <= value <= 900 for value in values)
    assert head.answer(ip) == late  # a busy board obeys afterwards
    assert state(sim, ip)["baseline"] == list(values)
    wait_for(lambda: min(state(sim, ip)["hv"]["volts"]) > 54, "the HV to come back")
    head.send(ip, bytes(commands.ReadPhFrame()))
    frame = parse_ph_frame(head.answer(ip))
    # 10 was subtracted from what was stored, the frame is raw.
    assert all(abs(pixel - value - 10) < 5 for pixel, value in zip(frame, values, strict=True))


def test_destinations_are_answered_with_macs_or_after_arp_without(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[5]
    head.send(ip, bytes(commands.DataDestination("127.0.0.1", site.head)))
    own = bytes(int(part) for part in site.head.split("."))
    assert head.answer(ip) == bytes.fromhex("02537f000001") + b"\x02\x53" + own
    asked_s = time.monotonic()
    head.send(ip, bytes(commands.DataDestination(site.head, "192.168.1.100")))
    assert head.answer(ip) == b"\x02\x53" + own + b"\xff" * 6
    assert time.monotonic() - asked_s >= 3.5 / 20
    board = state(sim, ip)
    assert (board["ph_destination"], board["image_destination"]) == (site.head, "192.168.1.100")


def test_housekeeping_comes_when_asked_and_stops_when_told(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip, other = site.quabos[6], site.quabos[7]
    head.tell(ip, commands.HkDestination(site.head), HV)
    head.tell(other, commands.HkDestination(site.head))
    wait_for(lambda: min(state(sim, ip)["hv"]["volts"]) > 54, "the HV to rise")
    sim.set(ip, temp1_c=-10.25, light=1)
    head.send(ip, bytes(commands.HkInterval(0)))

    def last() -> dict[str, Any]:
        return hk_record(head.hk_of(ip))

    record = last()
    while record["TEMP1"] != -10.25:  # packets from before the change
        record = last()
    assert record["BOARDLOC"] == boardloc(ip)
    assert record["LIGHT_SENSOR_STATUS"] == 1
    assert record["StartUp"] == 0
    assert (record["FWVER"], record["FWTIME"]) == ("0208", "0x28b4667a")
    assert record["UID"] == "0x1716151413121110"
    assert [record[f"HVMON{chip}"] for chip in range(4)] == pytest.approx([-54.1] * 4, abs=0.3)
    assert record["RAWHVMON"] == pytest.approx(72.5, abs=0.1)
    assert all(abs(record[f"DETR{chip}_CURR"] - 0.4e-6) < 0.3e-6 for chip in range(4))
    sent = state(sim, ip)["hk_sent"]
    for _ in range(3):
        head.hk_of(other)
    assert state(sim, ip)["hk_sent"] == sent
    head.send(ip, bytes(commands.HkInterval(1)))
    for _ in range(2):
        assert head.hk_of(ip).boardloc == boardloc(ip)


def test_every_focus_packet_moves_the_stage_and_the_board_is_deaf_meanwhile(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[0]
    head.tell(ip, commands.HkDestination(site.head))
    head.send(ip, bytes(commands.Focus(25000)))
    lost = encode(commands.GoeMask(1), echo=True)
    head.send(ip, lost)
    while True:
        data, sender = head.hk.recvfrom(2048)
        if sender[0] == ip and data[0] == 5:
            break
    assert data == b"\x05\0\0\0" + struct.pack("<4i", 10000, 15000, 25000, 0) + bytes(44)
    assert parse_focus_report(data).final == 25000
    assert head.silent(ip)
    # Fan only: an echo, and the stage goes to its zero though nobody wanted that.
    fan = head.send(ip, encode(commands.Focus.old_fan(7), echo=True))
    assert head.answer(ip) == fan
    wait_for(lambda: state(sim, ip)["focus_steps"] == 0, "the stage to go to zero")
    assert state(sim, ip)["fan_speed"] == 7
    assert state(sim, ip)["focus_recalibrations"] == 1


# --- science ---

MODES = {
    0x01: {1}, 0x11: {1}, 0x02: {2}, 0x12: {2}, 0x03: {1, 3}, 0x06: {6}, 0x07: {1, 7},
}  # fmt: skip


def acquisition(mode: int, interval_us: int = 1000) -> commands.Acquisition:
    # The flasher makes PH events at 381 Hz.
    return commands.Acquisition(AcqMode(mode), interval_us - 1, flash_rate=3, flash_level=5)


@contextmanager
def lit(head: Head, ip: str, sim: SimulatorClient) -> Iterator[None]:
    """A board that sees light; stopped afterwards."""
    shutter = ip.rsplit(".", 1)[0] + f".{(boardloc(ip) & 0xFC | 1) & 255}"
    head.tell(shutter, commands.Shutter(0))
    masks = commands.ChannelMask(DEFAULTS.channel_mask), commands.GoeMask(3)
    head.tell(ip, maroc.setup(WORKING), *masks, HV)
    wait_for(lambda: min(state(sim, ip)["hv"]["volts"]) > 54, "the HV to rise")
    assert head.destination(ip) != b"\xff" * 12
    try:
        yield
    finally:
        head.tell(ip, acquisition(0x10), commands.SetHv((0,) * 4))


def of_mode(acq_mode: int) -> Callable[[SciencePacket], bool]:
    return lambda packet: packet.acq_mode == acq_mode


def is_image(packet: SciencePacket) -> bool:
    return packet.acq_mode in (2, 3, 6, 7)


def test_each_mode_sends_the_packets_of_its_table(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[4]
    with lit(head, ip, sim):
        for mode, wanted in MODES.items():
            head.tell(ip, acquisition(0x10), commands.Reset(), acquisition(mode))
            streams = state(sim, ip)["streams"]
            assert {s["acq_mode"] for s in streams.values() if s} == wanted, hex(mode)
            for acq_mode in wanted:
                first = head.packet(ip, of_mode(acq_mode))
                assert first.packet_ver == (acq_mode == 1)
        head.tell(ip, acquisition(0x10))
        stopped = state(sim, ip)["science"]
        assert state(sim, ip)["streams"] == {"image": None, "ph": None}
        head.silent(ip)
        assert state(sim, ip)["science"] == stopped


def test_pixels_on_the_wire_are_those_the_state_foretells(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[5]
    with lit(head, ip, sim):
        head.tell(ip, commands.Reset(), acquisition(0x03))
        streams = state(sim, ip)["streams"]
        levels = streams["image"]["levels"]
        assert max(levels) > 20
        for _ in range(5):
            image = head.packet(ip, of_mode(3))
            assert list(image.pixels) == sky.image_pixels(levels, image.boardloc, image.number)
        pattern, offset = streams["ph"]["pattern"], streams["ph"]["offset"]
        for _ in range(3):
            event = head.packet(ip, of_mode(1))
            wanted = sky.ph_pixels(pattern, offset, event.boardloc, event.number)
            assert list(event.pixels) == wanted


def image_sum(head: Head, ip: str, sim: SimulatorClient) -> int:
    """Counts of an image that was taken with the present settings."""
    head.tell(ip, acquisition(0x10), commands.Reset(), acquisition(0x02))
    levels = state(sim, ip)["streams"]["image"]["levels"]
    packet = head.packet(
        ip,
        lambda p: list(p.pixels) == sky.image_pixels(levels, p.boardloc, p.number),
    )
    return sum(packet.pixels)


def test_settings_show_in_the_counts(site: Simulation, head: Head, sim: SimulatorClient) -> None:
    ip = site.quabos[6]
    with lit(head, ip, sim):
        full = image_sum(head, ip, sim)
        head.tell(ip, maroc.setup({**WORKING, "DAC1": (240,) * 4}))
        assert 0 < image_sum(head, ip, sim) < full
        head.tell(ip, maroc.setup({**WORKING, "DAC1": (201, 1023, 201, 201)}))
        assert 0 < image_sum(head, ip, sim) < full
        head.tell(ip, maroc.setup(WORKING), commands.SetHv((0,) * 4))
        wait_for(lambda: max(state(sim, ip)["hv"]["volts"]) == 0, "the HV to fall")
        assert image_sum(head, ip, sim) == 0


def test_a_new_destination_counts_from_the_next_acquisition_command_on(
    site: Simulation, head: Head, sim: SimulatorClient
) -> None:
    ip = site.quabos[7]
    first, second, third = site.head.rsplit(".", 1)[0].split(".")
    elsewhere = f"{first}.{second}.{third}.77"
    with lit(head, ip, sim), udp_socket(elsewhere, SCIENCE_PORT) as other:
        head.tell(ip, acquisition(0x02))
        head.packet(ip, is_image)
        head.destination(ip, elsewhere)
        assert state(sim, ip)["streams"]["image"]["destination"] == site.head
        head.packet(ip, is_image)
        head.tell(ip, acquisition(0x02))
        data, sender = other.recvfrom(2048)
        assert sender == (ip, SOURCE_PORT)
        assert parse_science(data).boardloc == boardloc(ip)
        head.destination(ip, "192.168.1.100")
        head.tell(ip, acquisition(0x02))
        assert state(sim, ip)["streams"]["image"] is None  # never sent to


# --- boot ---


def order_reboot(sock: socket.socket, ip: str) -> None:
    """Write the silver address to /progdev; nothing acknowledges the data."""
    sock.sendto(b"\0\2/progdev\0octet\0", (ip, TFTP_PORT))
    data, sender = sock.recvfrom(2048)
    assert data == b"\0\4\0\0"
    sock.sendto(b"\0\3\0\1\0\1\1\0", sender)


def test_a_board_boots_gold_is_rebooted_and_then_sends_housekeeping(tmp_path: Path) -> None:
    with simulation(tmp_path, modules=(3,), options=("--hk_period_s", "0.1")) as site:
        head = Head(site)
        try:
            ip = site.quabos[0]
            with site.client() as sim:
                head.tell(ip, HV, maroc.setup(WORKING))
                assert state(sim, ip)["phase"] == "gold"
                head.send(ip, bytes(commands.HkInterval(1)))
                assert head.silent(ip)
                order_reboot(head.commands, ip)
                assert head.hk_of(ip).boot  # the first packet that ever came
                assert [head.hk_of(ip).boot for _ in range(2)] == [False, False]
                board = state(sim, ip)
                assert board["phase"] == "silver"
                assert board["maroc"] is None
                assert board["hv"] == {"enabled": False, "codes": [0] * 4, "volts": [0.0] * 4}
                phases = [state(sim, other)["phase"] for other in site.quabos[1:]]
                assert phases == ["gold"] * 3
        finally:
            head.close()
