"""Bytes on the wire: addresses, commands, packets, against golden vectors and by properties."""

from __future__ import annotations

import struct
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseti.boards import addresses, commands, packets
from panoseti.boards.commands import AcqMode, Command, decode, encode
from panoseti.boards.science_packets import (
    SciencePacket,
    build_science,
    nearest_unix_ns,
    parse_science,
    wr_to_unix_ns,
)
from tests.helpers import golden


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = golden(name)["cases"]
    return found


# --- addresses ---


@pytest.mark.parametrize("case", cases("addresses"), ids=lambda case: case["base_ip"])
def test_places_of_a_module(case: dict[str, Any]) -> None:
    ips = [addresses.quabo_ip(case["base_ip"], index) for index in range(4)]
    locations = [addresses.boardloc(ip) for ip in ips]
    assert addresses.module_id(case["base_ip"]) == case["module_id"]
    assert ips == case["quabo_ips"]
    assert locations == case["boardlocs"]
    assert [addresses.redis_key(location) for location in locations] == case["redis_keys"]


@given(st.integers(0, 0xFFFFFFFF))
def test_any_address_has_a_place_and_only_bases_a_module(number: int) -> None:
    ip = ".".join(str(byte) for byte in number.to_bytes(4, "big"))
    assert addresses.boardloc(ip) == number % 1024
    assert addresses.is_loopback(ip) == (number >> 24 == 127)
    if number % 4:
        with pytest.raises(ValueError, match="base address"):
            addresses.module_id(ip)
        with pytest.raises(ValueError, match="base address"):
            addresses.quabo_ip(ip, 0)
    else:
        assert addresses.module_id(ip) == number % 1024 // 4
        assert addresses.boardloc(addresses.quabo_ip(ip, 3)) == number % 1024 + 3


@pytest.mark.parametrize("index", [-1, 4])
def test_a_module_has_four_quabos(index: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.3"):
        addresses.quabo_ip("192.168.0.4", index)


@pytest.mark.parametrize("text", ["", "192.168.0", "192.168.0.256", "quabo", "192.168.00.4"])
def test_what_is_no_address_is_refused(text: str) -> None:
    for function in (addresses.boardloc, addresses.module_id, addresses.is_loopback):
        with pytest.raises(ValueError, match=r"(?i)address|octet|leading"):
            function(text)


@pytest.mark.parametrize("case", cases("module_ranges"), ids=lambda case: case["text"])
def test_module_ranges(case: dict[str, Any]) -> None:
    if case["list"] is None:
        with pytest.raises(ValueError, match="neither a module id nor a range"):
            addresses.parse_ranges(case["text"])
    else:
        assert addresses.parse_ranges(case["text"]) == case["list"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"), ("3,", "''"), ("-3", "'-3'"), ("1-2-3", "'1-2-3'"), ("1.5", "'1.5'"),
        ("٣", "neither"), ("256", "256"), ("0-999999999", "999999999"), ("5-3", "5-3"),
        ("9" * 5000, "neither"), ("1_0", "neither"),
    ],
)  # fmt: skip
def test_ranges_are_refused_with_the_reason(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        addresses.parse_ranges(text)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=6))
def test_ranges_hold_each_module_once(pairs: list[tuple[int, int]]) -> None:
    spans = [sorted(pair) for pair in pairs]
    text = ", ".join(f"{low} - {high}" for low, high in spans)
    found = addresses.parse_ranges(text)
    assert len(found) == len(set(found))
    assert set(found) == {n for low, high in spans for n in range(low, high + 1)}


# --- commands ---


def acquisition(args: dict[str, Any]) -> commands.Acquisition:
    mode = AcqMode(0)
    for key, bit in (("do_ph", AcqMode.PH), ("do_image", AcqMode.IMAGE)):
        mode |= bit if args[key] else 0
    mode |= AcqMode.IMAGE_8BIT if args["image_8bit"] else 0
    mode |= 0 if args["bl_subtract"] else AcqMode.NO_BASELINE
    extra = dict(
        zip(("flash_rate", "flash_level", "flash_width"), args.get("flash") or (), strict=False)
    )
    if stim := args.get("stim"):
        extra |= {"stim_on": 1, "stim_rate": stim[0], "stim_level": stim[1]}
    return commands.Acquisition(mode, args["image_us"], **extra)


def one_channel(args: dict[str, Any]) -> commands.SetHv:
    return commands.SetHv(
        tuple(args["value"] if chip == args["channel"] else 0 for chip in range(4))
    )


MAKERS: dict[str, Any] = {
    "set_hv": lambda args: commands.SetHv(tuple(args["values"])),
    "set_hv_one_channel": one_channel,
    "set_acquisition": acquisition,
    "reset": lambda args: commands.Reset(),
    "focus": lambda args: commands.Focus(args["steps"]),
    "shutter_old": lambda args: commands.Focus.old_shutter(not args["closed"]),
    "fan": lambda args: commands.Focus.old_fan(args["speed"]),
    "shutter_new": lambda args: commands.Shutter(int(args["closed"])),
    "led_flasher_select": lambda args: commands.Flasher(args["value"]),
    "data_destination": lambda args: commands.DataDestination(args["ip"], args["ip"]),
    "hk_destination": lambda args: commands.HkDestination(args["ip"]),
    "channel_mask": lambda args: commands.ChannelMask(tuple(args["CHANMASK"])),
    "goe_mask": lambda args: commands.GoeMask(args["GOEMASK"]),
    "calibrate_ph_baseline": lambda args: commands.CalibratePhBaseline(),
}


@pytest.mark.parametrize("case", cases("commands"), ids=lambda c: f"{c['op']} {c['args']}"[:60])
def test_commands_are_those_of_the_deployed_software(case: dict[str, Any]) -> None:
    made = MAKERS[case["op"]](case["args"])
    echo = case["op"] == "fan"
    sent = [encode(one, echo) for one in (made if isinstance(made, tuple) else (made,))]
    assert [data.hex() for data in sent] == [packet["hex"] for packet in case["packets"]]
    assert {packet["dest_port"] for packet in case["packets"]} == {addresses.COMMAND_PORT}


def test_every_golden_command_survives_decoding() -> None:
    texts = [case["command_hex"] for case in cases("maroc_commands")]
    for case in cases("acquisition_from_data_config"):
        texts += [case["command_hex"]] if "command_hex" in case else []
    for case in cases("mask_config"):
        texts += [case["channel_mask_hex"], case["goe_mask_hex"]]
    assert len(texts) > 20
    for text in texts:
        command, echo = decode(bytes.fromhex(text))
        assert not echo
        assert bytes(command).hex() == text


def test_the_reply_to_a_maroc_load_is_one_with_the_echo_bit() -> None:
    chips = tuple(bytes((chip,)) * 104 for chip in range(1, 5))
    data = encode(commands.MarocSetup(chips), echo=True)
    assert len(data) == 492
    assert data[0] == 0x81
    assert data[108:132] == data[236:260] == data[364:388] == bytes(24)
    assert decode(data) == (commands.MarocSetup(chips), True)


ips = st.ip_addresses(v=4).map(str)


def numbers(high: int, count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, high), min_size=count, max_size=count).map(tuple)


LIMITS: dict[type[Command], dict[str, int]] = {
    commands.Acquisition: {
        "interval_field": 65535, "hold1": 15, "hold2": 15, "adc_clock_phase": 255,
        "ph_stop_channel": 255, "stim_on": 1, "stim_level": 255, "stim_rate": 7, "en_wr_uart": 1,
        "flash_rate": 7, "flash_level": 31, "flash_width": 15,
    },
    commands.Focus: {
        "target_steps": 50000, "shutter_bits": 7, "fan_speed": 15, "end_zone": 65535,
        "back_off": 65535, "step_on": 65535, "step_off": 65535,
    },
    commands.Shutter: {"value": 1},
    commands.Flasher: {"new": 1},
    commands.GoeMask: {"value": 3},
    commands.HkInterval: {"n": 255},
}  # fmt: skip


def of_limits(kind: type[Any], **more: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        kind, **more, **{name: st.integers(0, high) for name, high in LIMITS[kind].items()}
    )


modes = st.sets(st.sampled_from(list(AcqMode))).map(lambda bits: AcqMode(sum(bits)))
BY_KIND: dict[type[Command], st.SearchStrategy[Any]] = {
    commands.MarocSetup: st.builds(
        commands.MarocSetup,
        st.lists(st.binary(min_size=104, max_size=104), min_size=4, max_size=4).map(tuple),
    ),
    commands.SetHv: st.builds(commands.SetHv, numbers(0xFFFF, 4)),
    commands.Acquisition: of_limits(commands.Acquisition, mode=modes),
    commands.Reset: st.builds(commands.Reset),
    commands.Focus: of_limits(commands.Focus),
    commands.ChannelMask: st.builds(commands.ChannelMask, numbers(0xFFFFFFFF, 9)),
    commands.CalibratePhBaseline: st.builds(commands.CalibratePhBaseline),
    commands.Shutter: of_limits(commands.Shutter),
    commands.Flasher: of_limits(commands.Flasher),
    commands.DataDestination: st.builds(commands.DataDestination, ips, ips),
    commands.HkDestination: st.builds(commands.HkDestination, ips),
    commands.ReadPhFrame: st.builds(commands.ReadPhFrame),
    commands.WritePhBaseline: st.builds(commands.WritePhBaseline, numbers(0xFFFF, 256)),
    commands.GoeMask: of_limits(commands.GoeMask),
    commands.HkInterval: of_limits(commands.HkInterval),
}
ALL = st.sampled_from(commands.COMMANDS).flatmap(lambda kind: BY_KIND[kind])
LENGTHS = {0x01: 492, 0x0D: 514}


@settings(max_examples=300, deadline=None)
@given(ALL, st.booleans())
def test_every_command_comes_back_from_its_bytes(command: Command, echo: bool) -> None:
    data = encode(command, echo and not command.ignores_echo_bit)
    assert len(data) == LENGTHS.get(command.opcode, 64)
    assert data[0] & 0x7F == command.opcode
    again, had_echo = decode(data)
    assert again == command
    assert type(again) is type(command)
    assert had_echo == (echo and not command.ignores_echo_bit)
    assert encode(again, had_echo) == data
    assert hash(again) == hash(command)


def test_each_type_of_the_interface_has_one_class() -> None:
    assert [kind.opcode for kind in commands.COMMANDS] == [*range(1, 15), 0x20]
    assert set(BY_KIND) == set(commands.COMMANDS)
    assert len({kind.name for kind in commands.COMMANDS}) == 15


def test_what_may_be_repeated_until_its_echo_comes() -> None:
    silent = {kind.opcode for kind in commands.COMMANDS if not kind.echoable}
    assert silent == {0x01, 0x05, 0x07, 0x0A, 0x0C, 0x20}


@pytest.mark.parametrize("opcode", [0x07, 0x20])
def test_fixed_types_are_not_run_with_the_echo_bit(opcode: int) -> None:
    assert decode(bytes((opcode, 1)) + bytes(62))[0].opcode == opcode
    with pytest.raises(ValueError, match=f"{opcode | 0x80:#x} is no command"):
        decode(bytes((opcode | 0x80, 1)) + bytes(62))
    kind = next(kind for kind in commands.COMMANDS if kind.opcode == opcode)
    with pytest.raises(ValueError, match="echo bit"):
        encode(kind.from_packet(bytes(64)), echo=True)


VALID: dict[type[Command], Any] = {
    commands.Acquisition: commands.Acquisition(AcqMode.PH),
    commands.Focus: commands.Focus(1),
    commands.Shutter: commands.Shutter(0),
    commands.Flasher: commands.Flasher(0),
    commands.GoeMask: commands.GoeMask(0),
    commands.HkInterval: commands.HkInterval(0),
}


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, limits in LIMITS.items() for field in limits],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_does_not_fit_is_refused_by_name(kind: type[Command], field: str) -> None:
    high = LIMITS[kind][field]
    assert bytes(replace(VALID[kind], **{field: high}))
    for value in (high + 1, -1, 1 << 40, 1.5):
        with pytest.raises(ValueError, match=rf"{kind.name}: {field} is .*{high}"):
            replace(VALID[kind], **{field: value})


def test_the_limits_above_are_those_of_every_plain_field() -> None:
    for kind, limits in LIMITS.items():
        assert {field.name for field in fields(kind)} - {"mode"} == set(limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: commands.SetHv((1, 2, 3)), "set HV: codes has 3 values"),
        (lambda: commands.SetHv((1, 2, 65536, 4)), r"codes\[2\] is 65536"),
        (lambda: commands.SetHv((-1, 0, 0, 0)), r"codes\[0\] is -1"),
        (lambda: commands.ChannelMask((0,) * 8), "words has 8 values instead of 9"),
        (lambda: commands.ChannelMask((0,) * 8 + (1 << 32,)), r"words\[8\]"),
        (lambda: commands.WritePhBaseline((0,) * 255), "values has 255"),
        (lambda: commands.WritePhBaseline((0,) * 255 + (70000,)), r"values\[255\] is 70000"),
        (lambda: commands.MarocSetup((b"",) * 4), r"chips\[0\] has 0 bytes instead of 104"),
        (lambda: commands.MarocSetup((bytes(104),) * 3), "chips has 3"),
        (lambda: commands.Acquisition(AcqMode(0x08)), "mode is 0x08"),
        (lambda: commands.Acquisition(AcqMode(0x100)), "mode is 0x100"),
        (lambda: commands.HkDestination("192.168.1"), "HK destination: ip"),
        (lambda: commands.DataDestination("1.2.3.4", "1.2.3.400"), "data destination: image_ip"),
        (lambda: commands.DataDestination("x", "1.2.3.4"), "data destination: ph_ip"),
    ],
)
def test_wrong_lists_and_addresses_are_refused_by_name(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x02", bytes(64), b"\x30" + bytes(63), b"\x0f" + bytes(63), b"\xff" + bytes(63),
        b"\x02" + bytes(62), b"\x02" + bytes(64), b"\x01" + bytes(63), b"\x01" + bytes(492),
        b"\x0d" + bytes(63), b"\x0d" + bytes(512), b"\x08\x02" + bytes(62),
        b"\x03\0\x20" + bytes(61), b"\x03" + bytes(5) + b"\x10" + bytes(57),
        b"\x05\0\0\0\xff\xff" + bytes(58),
    ],
    ids=lambda data: f"{data[:6].hex()} {len(data)}",
)  # fmt: skip
def test_what_no_board_would_run_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"command|instead of|less than|is \d+|unknown bits"):
        decode(data)


@given(st.binary(max_size=600))
def test_decoding_takes_or_refuses_but_never_breaks(data: bytes) -> None:
    try:
        command, echo = decode(data)
    except ValueError:
        return
    assert decode(encode(command, echo)) == (command, echo)


def test_bytes_without_meaning_are_not_looked_at() -> None:
    data = bytearray(encode(commands.GoeMask(2)))
    data[4] |= 0xFC
    data[20] = 9
    assert decode(bytes(data)) == (commands.GoeMask(2), False)
    longer = encode(commands.WritePhBaseline((5,) * 256), echo=True) + b"\0\0"
    assert decode(longer) == (commands.WritePhBaseline((5,) * 256), True)
    assert decode(b"\x09\xfe" + bytes(62)) == (commands.Flasher(0), False)


# --- UIDs ---


@pytest.mark.parametrize("case", cases("uids"), ids=lambda case: case["uid"])
def test_uids(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["flashuid_hex"])
    assert packets.uid_text(data) == case["uid"]
    assert packets.uid_bytes(case["uid"]) == data


@given(st.binary(min_size=8, max_size=8))
def test_uids_come_back(data: bytes) -> None:
    assert packets.uid_bytes(packets.uid_text(data)) == data


@pytest.mark.parametrize("text", ["", "xyz", "1" * 17])
def test_what_is_no_uid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no flash UID"):
        packets.uid_bytes(text)


def test_a_uid_has_eight_bytes() -> None:
    with pytest.raises(ValueError, match="not 7"):
        packets.uid_text(bytes(7))


# --- housekeeping ---

HK_CASES = cases("hk_packets")


@pytest.mark.parametrize("case", HK_CASES, ids=lambda case: case["name"])
def test_hk_records(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["packet_hex"])
    if case["key"] is None:
        with pytest.raises(ValueError, match="first byte"):
            packets.parse_hk(data)
        return
    packet = packets.parse_hk(data)
    record = packets.hk_record(packet)
    assert addresses.redis_key(packet.boardloc) == case["key"]
    assert list(record) == list(case["fields"])
    for name, wanted in case["fields"].items():
        assert type(record[name]) is type(wanted), name
        if isinstance(wanted, float):
            wanted = pytest.approx(wanted, rel=1e-12, abs=1e-18)
        assert record[name] == wanted, name
    if data[1] in (0, 0xAA):
        assert packets.build_hk(packet) == data


words = st.integers(0, 0xFFFF)
fours = numbers(0xFFFF, 4)
HK_PACKETS = st.builds(
    packets.HkPacket,
    boot=st.booleans(), boardloc=words, hvmon=fours, hvimon=fours, rawhvmon=words, v12mon=words,
    v18mon=words, v33mon=words, v37mon=words, i10mon=words, i18mon=words, i33mon=words,
    temp1=st.integers(-32768, 32767), temp2=words, vccint=words, vccaux=words,
    uid=st.integers(0, (1 << 64) - 1), shutter_status=st.integers(0, 1),
    light_sensor_status=st.integers(0, 1), pcbrev_n=st.integers(0, 1),
    fwtime=st.integers(0, 0xFFFFFFFF),
    fwver=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=4, max_size=4),
)  # fmt: skip


@given(HK_PACKETS)
def test_hk_packets_come_back(packet: packets.HkPacket) -> None:
    data = packets.build_hk(packet)
    assert len(data) == 64
    assert packets.parse_hk(data) == packet


@given(st.binary(min_size=63, max_size=63))
def test_any_64_bytes_of_the_hk_type_make_a_record(rest: bytes) -> None:
    record = packets.hk_record(packets.parse_hk(b"\x20" + rest))
    assert set(record) == set(HK_CASES[0]["fields"])
    assert isinstance(record["FWVER"], str)


@pytest.mark.parametrize("data", [b"", b"\x20" + bytes(62), b"\x20" + bytes(64), bytes(64)])
def test_what_is_no_hk_packet_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="housekeeping"):
        packets.parse_hk(data)


@pytest.mark.parametrize("change", [{"fwver": "20.8x"}, {"v12mon": 65536}, {"temp1": 40000}])
def test_hk_values_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    packet = packets.parse_hk(bytes.fromhex(HK_CASES[0]["packet_hex"]))
    with pytest.raises(ValueError, match="|".join([*change, "firmware version"])):
        packets.build_hk(replace(packet, **change))


@pytest.mark.parametrize(
    ("temp1", "temp2", "hv", "status"),
    [
        (25, 50, -55, ("ok,", 0)),
        (-10, 50, -55, ("ok,", 0)),
        (-10.25, 50, -55, ("detr_temp:warn,", 16)),
        (55, 50, -55, ("detr_temp:warn,", 16)),
        (60, 50, -55, ("detr_temp:crit,", 32)),
        (255.75, 50, -55, ("ok,", 0)),  # -0.25 degC without its sign
        (25, 80, -55, ("FPGA_temp:warn,", 16)),
        (25, 4.9, -55, ("FPGA_temp:warn,", 16)),
        (25, 85, -55, ("FPGA_temp:crit,", 32)),
        (25, 50, 0, ("detr_hv:info,", 8)),
        (61, 82, 0, ("FPGA_temp:warn,detr_temp:crit,detr_hv:info,", 32)),
    ],
)
def test_status_of_a_record(temp1: float, temp2: float, hv: float, status: tuple[str, int]) -> None:
    record = {"TEMP1": temp1, "TEMP2": temp2}
    record |= {f"HVMON{chip}": hv if chip == 2 else -55 for chip in range(4)}
    assert packets.aggregate_status(record) == status


def test_status_by_other_rules() -> None:
    rule = packets.StatusRule("supply", ("V12MON",), (("ok", ((1.1, 1.3),)), ("info", ((0, 9),))))
    assert packets.aggregate_status({"V12MON": 2.0}, (rule,)) == ("supply:info,", 8)
    assert packets.aggregate_status({"V12MON": 10.0}, (rule,)) == ("ok,", 0)


# --- replies ---


@pytest.mark.parametrize("case", cases("ph_baseline_replies"), ids=lambda case: case["name"])
def test_ph_baseline_replies(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["reply_hex"])
    assert list(packets.parse_ph_baseline(data)) == case["coefs"]
    assert packets.build_ph_baseline(case["coefs"]) == data
    with pytest.raises(ValueError, match="PH frame"):
        packets.parse_ph_frame(data)
    frame = packets.build_ph_frame(case["coefs"])
    assert frame == b"\x87" + data[1:]
    assert list(packets.parse_ph_frame(frame)) == case["coefs"]
    for wrong in (frame, data[:-1], data + b"\0", b""):
        with pytest.raises(ValueError, match="PH baseline"):
            packets.parse_ph_baseline(wrong)


@pytest.mark.parametrize("values", [[0] * 255, [0] * 257, [0] * 255 + [65536], [-1] + [0] * 255])
def test_ph_values_that_do_not_fit_are_refused(values: list[int]) -> None:
    with pytest.raises(ValueError, match="PH values"):
        packets.build_ph_baseline(values)


def test_destination_replies() -> None:
    mac = bytes.fromhex("025300000001")
    reply = packets.parse_destination_reply(packets.build_destination_reply(mac, packets.NO_MAC))
    assert reply == packets.DestinationReply(mac, b"\xff" * 6)
    assert (reply.ph_found, reply.image_found) == (True, False)
    for wrong in (b"", mac, bytes(13)):
        with pytest.raises(ValueError, match="destination reply"):
            packets.parse_destination_reply(wrong)
    with pytest.raises(ValueError, match="6 bytes"):
        packets.build_destination_reply(mac, b"")


int32 = st.integers(-(1 << 31), (1 << 31) - 1)


@given(st.builds(packets.FocusReport, int32, int32, int32, int32))
def test_focus_reports(report: packets.FocusReport) -> None:
    data = packets.build_focus_report(report)
    assert len(data) == 64
    assert data[0] == 5
    assert struct.unpack_from("<4i", data, 4) == tuple(vars(report).values())
    assert packets.parse_focus_report(data) == report


def test_what_is_no_focus_report_is_refused() -> None:
    for data in (b"", b"\x05" + bytes(62), b"\x20" + bytes(63)):
        with pytest.raises(ValueError, match="focus report"):
            packets.parse_focus_report(data)
    with pytest.raises(ValueError, match="moved=4294967296"):
        packets.build_focus_report(packets.FocusReport(0, 1 << 32, 0, 0))


# --- science packets ---


@st.composite
def science_packets(draw: st.DrawFn) -> SciencePacket:
    acq_mode = draw(st.sampled_from([1, 2, 3, 6, 7]))
    packet_ver = draw(st.integers(0, 1))
    low, high = 0, 255 if acq_mode >= 6 else 65535
    if acq_mode == 1 and packet_ver == 1:
        low, high = -32768, 32767
    seed = draw(st.lists(st.integers(low, high), min_size=4, max_size=16))
    return SciencePacket(
        acq_mode, packet_ver, draw(words), draw(words), draw(st.integers(0, 1023)),
        draw(st.integers(0, 0xFFFFFFFF)), tuple(seed[n % len(seed)] for n in range(256)),
    )  # fmt: skip


@given(science_packets())
def test_science_packets_come_back(packet: SciencePacket) -> None:
    data = build_science(packet)
    assert len(data) == (272 if packet.acq_mode >= 6 else 528)
    assert parse_science(data) == packet
    assert packet.module * 4 + packet.quabo == packet.boardloc


def test_only_ten_bits_of_the_seconds_count() -> None:
    data = bytearray(build_science(SciencePacket(2, 0, 1, 4, 5, 6, (0,) * 256)))
    data[7:10] = b"\xfc\xff\xff"
    assert parse_science(bytes(data)).tai == 5


@pytest.mark.parametrize(
    ("mode", "length"),
    [(0, 528), (4, 528), (5, 272), (0x11, 528), (255, 528), (1, 272), (2, 527), (2, 529), (6, 528),
     (7, 271), (2, 15), (2, 0)],
)  # fmt: skip
def test_what_is_no_science_packet_is_refused(mode: int, length: int) -> None:
    with pytest.raises(ValueError, match=r"acq_mode|too short"):
        parse_science((bytes((mode,)) + bytes(600))[:length])


@pytest.mark.parametrize(
    "change",
    [{"tai": 1024}, {"number": 65536}, {"acq_mode": 4}, {"pixels": (0,) * 255},
     {"pixels": (-1,) * 256}],
)  # fmt: skip
def test_science_values_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    packet = SciencePacket(2, 0, 1, 4, 5, 6, (0,) * 256)
    with pytest.raises(ValueError, match=r"tai|science packet"):
        build_science(replace(packet, **change))


# --- time ---


@pytest.mark.parametrize("case", cases("wr_to_unix"), ids=lambda c: f"{c['pkt_tai']} {c['tv_sec']}")
def test_unix_time_of_a_packet(case: dict[str, Any]) -> None:
    numbers_in = case["pkt_tai"], case["pkt_nsec"], case["tv_sec"]
    if case["unix"] is None:
        with pytest.raises(ValueError, match="cannot be reconciled"):
            wr_to_unix_ns(*numbers_in)
    else:
        assert abs(wr_to_unix_ns(*numbers_in) / 1e9 - case["unix"]) < 1.3e-6


@given(
    st.integers(10**18, 4 * 10**18),
    st.integers(-999_999_999, 999_999_999),
)
def test_time_survives_clocks_that_differ_by_less_than_a_second(unix_ns: int, off_ns: int) -> None:
    second, nsec = divmod(unix_ns, 10**9)
    tai = (second + 37) % 1024
    tv_sec = (unix_ns + off_ns) // 10**9
    assert wr_to_unix_ns(tai, nsec, tv_sec) == unix_ns


@given(st.integers(2, 1022), st.integers(0, 1 << 32))
def test_clocks_further_apart_are_an_error(behind_s: int, tv_sec: int) -> None:
    with pytest.raises(ValueError, match=f"Unix {tv_sec}"):
        wr_to_unix_ns((tv_sec + 37 - behind_s) % 1024, 0, tv_sec)


@given(st.integers(10**18, 4 * 10**18), st.integers(-499_999, 499_999))
def test_time_without_white_rabbit_is_that_nearest_to_the_computers(
    unix_ns: int, off_us: int
) -> None:
    tv_sec, left_ns = divmod(unix_ns + off_us * 1000, 10**9)
    found = nearest_unix_ns(unix_ns % 10**9, tv_sec, left_ns // 1000)
    assert found == unix_ns
