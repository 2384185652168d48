"""Configs that are wrong: every fault at once, with file, JSON path, value and remedy."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pypff
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoseti import local_host
from panoseti.boards.addresses import parse_ranges
from panoseti.configs.cross_checks import ranges_text
from panoseti.configs.load_configs import Site, frozen_copies, load_site
from panoseti.errors import ConfigError, Fault
from tests.site_files import DAQ, DATA, OBS, REMOVE, changed, write_site

Place = tuple[str | int, ...]
Changes = dict[Place, Any]
KINDS = {"obs": OBS, "daq": DAQ, "data": DATA}
FULL = {
    **KINDS,
    "daq": changed(DAQ, {("daq_nodes", 0, "cpus"): [1, 2, 3]}),
    "obs": changed(
        OBS,
        {
            ("command_pacing",): {
                "boards_at_once": 64,
                "packets_per_ms": 1,
                "pings_at_once": 64,
                "transfers_at_once": 64,
            },
            ("domes", 0, "modules", 0, "absent_quabos"): [1],
        },
    ),
    "data": {
        **DATA,
        "flash_params": {"rate": 1, "level": 2, "width": 3},
        "stim_params": {"rate": 1, "level": 2, "mask": [True] * 4},
    },
}
MODULE: Place = ("domes", 0, "modules", 0)
NODE: Place = ("daq_nodes", 0)


def load(obs: Any = OBS, daq: Any = DAQ, data: Any = DATA) -> Site:
    with tempfile.TemporaryDirectory() as folder:
        return load_site(write_site(Path(folder), obs, daq, data))


def load_changed(kind: str, changes: dict[Place, Any]) -> Site:
    return load(**{kind: changed(KINDS[kind], changes)})


def faults(**configs: Any) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        load(**configs)
    assert caught.value.exit_code == 2
    for fault in caught.value.faults:
        assert fault.file and fault.path.startswith("$") and fault.value and fault.remedy
        assert "\n" not in str(fault)
    assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
    return list(caught.value.faults)


def path_of(place: Place) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


# kind of config, place, wrong value, shown value ("" = as JSON), a piece of the remedy
WRONG: list[tuple[str, Place, Any, str, str]] = [
    ("obs", ("name",), "a.b", "", "letters, digits or '-'"),
    ("obs", ("name",), "x" * 21, "", "1 to 20"),
    ("obs", ("domes",), [], "an empty list", "at least one dome"),
    ("obs", ("detector_overvoltage",), 4, "", "2 or 3"),
    ("obs", ("detector_overvoltage",), True, "", "2 or 3"),
    ("obs", ("wr_ip_addr",), "192.168.1", "", "neither an IPv4 address nor a host name"),
    ("obs", ("wps", "url"), "192.168.0.100", "", "http://HOST"),
    ("obs", ("wps", "url"), "http://me:a/b@10.0.0.9", '"http://***@10.0.0.9"', "write %2F, %3F or"),
    ("obs", ("wps", "quabo_socket"), 9, "", "1..8"),
    ("obs", ("wps",), "http://192.168.0.100", "", "quabo_socket"),
    ("obs", (*MODULE, "ip_addr"), "192.168.0.5", "", "nearest: 192.168.0.4"),
    ("obs", (*MODULE, "ip_addr"), "east", "", "not an IPv4 address"),
    ("obs", (*MODULE, "ip_addr"), REMOVE, "missing", "add it: address of quabo 0"),
    ("obs", (*MODULE, "mobo_serialno"), 11, "", "such as M11"),
    ("obs", (*MODULE, "quabo_version"), ["qfp"] * 3, "a list of 3", "list of four"),
    ("obs", (*MODULE, "wps"), "wps_2", "wps_2", "there: wps"),
    ("obs", (*MODULE, "command_echo"), "yes", "", "true when its boards echo"),
    ("obs", ("command_source_port",), 1024, "", "0 = any, 60000"),
    ("obs", ("ssh_key",), "id_rsa", "", "not an absolute path"),
    ("obs", ("power_credentials",), "power.json", "", "not an absolute path"),
    ("obs", ("power_switch_api",), "soap", "", '"auto", "rest" or "classic"'),
    ("obs", ("alarm_hook",), "/usr/bin/tell", "", "command and arguments"),
    ("obs", ("alarm_hook",), [], "an empty list", "command and arguments"),
    ("daq", ("head_node_ip_addr",), "head node", "", "nor a host name"),
    ("daq", ("head_node_data_dir",), "data", "", "not an absolute path"),
    ("daq", ("head_node_data_dir",), "/", "", "too wide"),
    ("daq", ("head_node_data_dir",), "~/", "", "too wide"),
    ("daq", ("head_node_data_dir",), "/data/../etc", "", '".." in it'),
    ("daq", (*NODE, "data_dir"), "/da\nta", "", "control character"),
    ("daq", (*NODE, "data_dir"), "~/data", "~/data", "home directory on 192.168.1.101"),
    ("daq", (*NODE, "username"), "a b", "", "log in"),
    ("daq", (*NODE, "module_ids"), "", "", "neither a module id nor a range"),
    ("daq", (*NODE, "module_ids"), "0-256", "", "256 is outside 0..255"),
    ("daq", (*NODE, "module_ids"), "5-2", "", "5-2"),
    ("daq", (*NODE, "module_ids"), "1;2", "", "1;2"),
    ("daq", (*NODE, "module_ids"), 1, "", "ids 0..255"),
    ("daq", (*NODE, "bindhost"), "a/b", "", "neither an interface name"),
    ("daq", (*NODE, "bindhost"), "sixteen-letters-", "", "at most 15 characters"),
    ("daq", (*NODE, "capture"), "raw", "", '"auto", "udp" or "packet"'),
    ("daq", (*NODE, "capture"), "packet", "packet", "but bindhost is 0.0.0.0: write it there"),
    ("daq", (*NODE, "busy_poll"), 1, "", "never sleeps"),
    ("daq", (*NODE, "cpus"), [1, 2], "a list of 2", "net, compute and output thread"),
    ("daq", ("daq_nodes",), [], "an empty list", "at least one DAQ node"),
    ("data", ("run_type",), "a_b", "", "letters, digits or '-'"),
    ("data", ("run_type",), "x" * 15, "", "1 to 14"),
    ("data", ("gain",), REMOVE, "missing", "add it: MAROC gain"),
    ("data", ("gain",), "60", "", "0..255"),
    ("data", ("image", "integration_time_usec"), 3000, "", "2500 and 3125"),
    ("data", ("image", "integration_time_usec"), 20, "", "with 16 bits 40..65536"),
    ("data", ("image", "quabo_sample_size"), 12, "", "8 or 16"),
    ("data", ("pulse_height", "any_trigger"), {}, "missing", "1 = combine"),
    ("data", ("pulse_height", "pe_threshold"), -1, "", "above 0"),
    ("data", ("pulse_height", "two_pixel_trigger"), 2, "", "0 or 1"),
    ("data", ("flash_params", "width"), REMOVE, "missing", "0..15"),
    ("data", ("stim_params", "rate"), 8, "", "0..7"),
    ("data", ("stim_params", "mask"), [True] * 3, "a list of 3", "four booleans"),
    ("data", ("image",), [], "an empty list", "integration_time_usec"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("hook", "index", "remedy"),
    [(["tell"], 0, "an absolute path"), (["/usr/bin/tell", 5], 1, "an argument of the command")],
)
def test_a_wrong_word_of_the_alarm_hook(hook: list[Any], index: int, remedy: str) -> None:
    (fault,) = faults(obs=changed(OBS, {("alarm_hook",): hook}))
    assert fault.path == f"$.alarm_hook[{index}]" and remedy in fault.remedy


@pytest.mark.parametrize(
    ("kind", "place", "value", "shown", "remedy"), WRONG, ids=lambda v: str(v)[:40]
)
def test_one_wrong_value(kind: str, place: Place, value: Any, shown: str, remedy: str) -> None:
    (fault,) = faults(**{kind: changed(FULL[kind], {place: value})})
    assert fault.file == f"{kind}_config.json"
    assert remedy in fault.remedy
    if shown == "missing":
        assert fault.value == "missing" and fault.path.startswith(path_of(place))
    else:
        assert (fault.path, fault.value) == (path_of(place), shown or json.dumps(value))


def test_faults_of_all_files_and_between_them_at_once() -> None:
    obs = changed(OBS, {
        ("name",): "a.b", ("domes", 0, "obslat"): 91,
        (*MODULE, "mobo_serialno"): REMOVE, ("domes", 0, "modules", 1, "wps"): "x",
    })  # fmt: skip
    daq = changed(DAQ, {(*NODE, "module_ids"): "0-200"})
    data = changed(DATA, {("gain",): 256, ("pulse_height", "three_pixel_trigger"): 7})
    found = faults(obs=obs, daq=daq, data=data)
    assert [(fault.file.partition("_")[0], fault.path) for fault in found] == [
        ("obs", "$.domes[0].modules[0].mobo_serialno"),
        ("obs", "$.domes[0].obslat"),
        ("obs", "$.name"),
        ("data", "$.gain"),
        ("data", "$.pulse_height.three_pixel_trigger"),
        ("obs", "$.domes[0].modules[1].wps"),
        ("daq", "$.daq_nodes[1].module_ids"),
    ]


@pytest.mark.parametrize(
    ("text", "value", "remedy"),
    [
        ('{"name": "x",\n}', "line", "remove the comma before the closing bracket"),
        ("{'name': 1}", "line 1, column 2", "write double quotes"),
        ('{"name": 1', "line 1, column 11", "a closing bracket or quote is missing"),
        ("", "line 1, column 1", "the file ends too early"),
        ('{"name": NaN}', "NaN", "write an ordinary number"),
        ('{"name": 1e999}', "1e999", "write an ordinary number"),
        ("[" * 100_000, "brackets", "nested too deeply"),
        ("[]", "an empty list", "object"),
        ("null", "null", "object"),
    ],
)
def test_what_is_no_json_object(text: str, value: str, remedy: str) -> None:
    (fault,) = faults(daq=text)
    assert (fault.file, fault.path) == ("daq_config.json", "$")
    assert fault.value.startswith(value)
    assert remedy in fault.remedy


def test_a_name_given_twice() -> None:
    text = json.dumps(DATA).replace('"gain": 60', '"gain": 60, "gain": 61')
    (fault,) = faults(data=text)
    assert (fault.path, fault.value) == ("$.gain", "61")
    assert fault.remedy.startswith("stands twice in one object")


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_site(tmp_path)
    assert [fault.file for fault in caught.value.faults] == [
        "obs_config.json", "daq_config.json", "data_config.json",
    ]  # fmt: skip
    assert all(str(tmp_path) in fault.value for fault in caught.value.faults)
    write_site(tmp_path)
    (tmp_path / "data_config.json").write_bytes(b"{\n\xff}")
    with pytest.raises(ConfigError, match="data_config.json: .*: line 2: not UTF-8 text"):
        load_site(tmp_path)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert load(data="\ufeff" + json.dumps(DATA)).data.gain == 60


# --- between fields and files ---


@pytest.mark.parametrize("same", ["192.168.3.248", "10.0.3.248", "127.1.3.248"])
def test_no_module_twice(same: str) -> None:
    (fault,) = faults(obs=changed(OBS, {(*MODULE, "ip_addr"): same}))
    assert (fault.path, fault.value) == ("$.domes[0].modules[1].ip_addr", "192.168.3.248")
    assert f"is module 254 as is $.domes[0].modules[0].ip_addr ({same}" in fault.remedy


@pytest.mark.parametrize(
    ("first", "second", "path", "piece"),
    [
        ("0-127", "127-255", "$.daq_nodes[1].module_ids", "has module 127 in common with"),
        ("0-255", "1,254", "$.daq_nodes[1].module_ids", "has modules 1,254 in common with"),
        ("2-127", "128-255", "$.domes[0].modules[0].ip_addr", "module 1 is in no daq_nodes[]"),
        ("1", "0", "$.domes[0].modules[1].ip_addr", "module 254 is in no daq_nodes[]"),
    ],
)  # fmt: skip
def test_each_module_has_exactly_one_node(first: str, second: str, path: str, piece: str) -> None:
    ranges: Changes = {(*NODE, "module_ids"): first, ("daq_nodes", 1, "module_ids"): second}
    (fault,) = faults(daq=changed(DAQ, ranges))
    assert fault.path == path and piece in fault.remedy


@given(st.sets(st.integers(0, 255)), st.sets(st.integers(0, 255)))
def test_a_site_loads_when_each_module_has_exactly_one_node(
    first: set[int], second: set[int]
) -> None:
    texts = [",".join(map(str, ids)) for ids in (first | {1}, second | {254})]
    ranges: Changes = {("daq_nodes", n, "module_ids"): text for n, text in enumerate(texts)}
    if (first | {1}) & (second | {254}):
        assert all("in common" in f.remedy for f in faults(daq=changed(DAQ, ranges)))
        return
    site = load_changed("daq", ranges)
    for module in site.obs.modules:
        node = site.node_of(module.id)
        assert module.id in node.module_ids and module in site.modules_of(node)
        assert [module.id in other.module_ids for other in site.daq.nodes].count(True) == 1


def test_no_node_twice_and_the_head_has_one_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_host.socket, "gethostbyname", lambda name: "192.168.1.101")
    (fault,) = faults(daq=changed(DAQ, {("daq_nodes", 1, "ip_addr"): "daq1"}))
    assert (fault.path, fault.value) == ("$.daq_nodes[1].ip_addr", "daq1")
    assert "is the same computer as $.daq_nodes[0].ip_addr (192.168.1.101)" in fault.remedy
    head: Changes = {("head_node_ip_addr",): "head", ("head_node_data_dir",): "/other"}
    (fault,) = faults(daq=changed(DAQ, head))
    assert (fault.path, fault.value) == ("$.daq_nodes[0].data_dir", "/data")
    assert "must equal head_node_data_dir (/other)" in fault.remedy


def test_run_names_have_room_for_21_characters() -> None:
    name = changed(OBS, {("name",): "n" * 12})
    assert load(name, data=changed(DATA, {("run_type",): "t" * 9})).obs.name == "n" * 12
    (fault,) = faults(obs=name, data=changed(DATA, {("run_type",): "t" * 10}))
    assert (fault.file, fault.path) == ("data_config.json", "$.run_type")
    assert "22 characters; at most 21" in fault.remedy


def test_one_coincidence_at_most() -> None:
    both: Changes = {("pulse_height", f"{n}_pixel_trigger"): 1 for n in ("two", "three")}
    (fault,) = faults(data=changed(DATA, both))
    assert fault.path == "$.pulse_height.three_pixel_trigger"


def test_no_data_product() -> None:
    (fault,) = faults(data=changed(DATA, {("image",): REMOVE, ("pulse_height",): REMOVE}))
    assert "no data products: add image, pulse_height or both" in fault.remedy


# --- what is unwise ---


@pytest.mark.parametrize(
    ("kind", "place", "value", "remedy"),
    [
        ("obs", ("nmae",), "x", "unknown field, not used; remove it"),
        ("obs", ("redis_prt",), 6379, 'did you mean "redis_port"?'),
        ("obs", ("domes", 0, "num"), 0, "computed"),
        ("obs", ("name",), "a_b", 'use "-"'),
        ("obs", ("domes", 0, "obsalt"), REMOVE, "analysis software skips this file"),
        ("obs", (*MODULE, "timing_mode"), "wr", "not used by this software"),
        ("obs", ("gps_port",), "/dev/ttyUSB0", "not used by this software"),
        ("daq", (*NODE, "user_name"), "x", "unknown field"),
        ("daq", ("comments",), "x", 'did you mean "comment"?'),
        ("data", ("image", "nsum"), 4, "not used by anything"),
        ("data", ("image", "speed"), 4, "the analysis refuses it"),
        ("data", ("interleave",), {}, "not used by this software"),
        ("data", ("long_pulse",), {"octaves": 4}, "not used by this software"),
        ("data", ("gain",), 45.5, "the analysis software skips"),
        ("data", ("image", "pe_threshold"), 0.5, "lower than the advised 1"),
        ("data", ("pulse_height", "pe_threshold"), 1.5, "lower than the advised 2"),
        ("data", ("stim_params",), {"rate": 1, "level": 1}, "analysis software skips this file"),
    ],
)
def test_warnings(kind: str, place: Place, value: Any, remedy: str) -> None:
    (warning,) = load_changed(kind, {place: value}).warnings
    assert warning.file == f"{kind}_config.json"
    assert warning.path.startswith(path_of(place)) and remedy in warning.remedy


@pytest.mark.parametrize(
    ("base", "quabo", "what"),
    [
        ("192.168.1.100", 0, "the head node"),
        ("192.168.1.100", 1, "the DAQ node 192.168.1.101"),
        ("192.168.1.252", 2, "the White Rabbit switch"),
        ("192.168.1.0", 1, "the boards' gateway"),
        ("192.168.3.252", 3, "the broadcast of 192.168.0.0/22"),
        ("192.168.0.0", 0, "the network 192.168.0.0/22"),
    ],
)
def test_addresses_that_are_taken(base: str, quabo: int, what: str) -> None:
    obs = changed(OBS, {("domes", 0, "modules", 1, "ip_addr"): base})
    daq = changed(DAQ, {(*NODE, "module_ids"): "0-255", ("daq_nodes", 1): REMOVE})
    if base == "192.168.0.0":
        obs = changed(OBS, {(*MODULE, "ip_addr"): base})
    warned = [w.remedy for w in load(obs, daq).warnings if w.file == "obs_config.json"]
    assert f"quabo {quabo} would have the address of {what}; change one" in warned


# --- ranges of all numbers ---

# kind, place, lowest, highest, whole numbers only
NUMBERS: list[tuple[str, Place, float, float, bool]] = [
    ("obs", ("domes", 0, "obslat"), -90, 90, False),
    ("obs", ("domes", 0, "obslon"), -180, 180, False),
    ("obs", (*MODULE, "azimuth"), 0, 360, False),
    ("obs", (*MODULE, "elevation"), -90, 90, False),
    ("obs", ("wps", "quabo_socket"), 1, 8, True),
    ("obs", ("tftp_port",), 1, 65535, True),
    ("obs", ("redis_port",), 1, 65535, True),
    ("obs", ("hk_max_age_s",), 4, 300, False),
    ("obs", ("ph_baseline_max_age_h",), 5e-324, 744, False),
    ("obs", ("reboot_timeout_s",), 5e-324, 3600, False),
    ("obs", ("power_on_timeout_s",), 5e-324, 3600, False),
    ("obs", ("shutter_open_value",), 0, 1, True),
    ("obs", ("shutter_status_open",), 0, 1, True),
    ("obs", ("command_pacing", "boards_at_once"), 1, 1024, True),
    ("obs", ("command_pacing", "packets_per_ms"), 0.01, 100, False),
    ("obs", ("command_pacing", "pings_at_once"), 1, 1024, True),
    ("obs", ("command_pacing", "transfers_at_once"), 1, 1024, True),
    ("obs", (*MODULE, "absent_quabos", 0), 0, 3, True),
    ("obs", ("detector_overvoltage",), 2, 3, True),
    ("daq", (*NODE, "ssh_port"), 1, 65535, True),
    ("daq", (*NODE, "ready_deadline_s"), 1, 600, False),
    ("daq", (*NODE, "receive_buffer_mb"), 1, 2000, True),
    ("daq", (*NODE, "cpus", 1), 0, 1023, True),
    ("data", ("gain",), 0, 255, False),
    ("data", ("max_file_size_mb",), 0, 1_000_000, True),
    ("data", ("image", "pe_threshold"), 5e-324, 10_000, False),
    ("data", ("pulse_height", "pe_threshold"), 5e-324, 10_000, False),
    ("data", ("flash_params", "rate"), 0, 7, True),
    ("data", ("flash_params", "level"), 0, 31, True),
    ("data", ("flash_params", "width"), 0, 15, True),
    ("data", ("stim_params", "rate"), 0, 7, True),
    ("data", ("stim_params", "level"), 0, 255, True),
]


@pytest.mark.parametrize(
    ("kind", "place", "low", "high", "whole"), NUMBERS, ids=lambda v: str(v)[-25:]
)
@settings(max_examples=15)
@given(st.data())
def test_numbers_load_in_their_range_and_nowhere_else(
    kind: str, place: Place, low: float, high: float, whole: bool, data: st.DataObject
) -> None:
    numbers = st.integers(int(low) - 3, int(high) + 3)
    edges = st.sampled_from([low, high, low - 1, high + 1, high + 1e-6])
    around = st.floats(allow_nan=False, allow_infinity=False)
    value = data.draw(st.one_of(numbers, edges, around))
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        value = int(value)
    configs = {kind: changed(FULL[kind], {place: value})}
    if low <= value <= high and (not whole or float(value).is_integer()):
        assert load(**configs)
    else:
        (fault,) = faults(**configs)
        assert (fault.file, fault.path) == (f"{kind}_config.json", path_of(place))
        assert fault.value == json.dumps(value)


@settings(max_examples=60)
@given(st.one_of(st.integers(0, 70_000), st.sampled_from([20, 25, 40, 50, 1000, 62500, 65536])),
       st.sampled_from([8, 16]))  # fmt: skip
def test_integration_times(time_us: int, bits: int) -> None:
    image = {"integration_time_usec": time_us, "pe_threshold": 2, "quabo_sample_size": bits}
    configs: dict[str, Any] = {"data": changed(DATA, {("image",): image})}
    low, high = (20, 25) if bits == 8 else (40, 65536)
    if low <= time_us <= high and 1_000_000 % time_us == 0:
        found = load(**configs).data.image
        assert found is not None and (found.integration_time_us, found.bits) == (time_us, bits)
    else:
        assert {f.path for f in faults(**configs)} == {"$.image.integration_time_usec"}


@given(st.sets(st.integers(0, 255), min_size=1))
def test_ranges_are_written_as_every_reader_takes_them(ids: set[int]) -> None:
    text = ranges_text(sorted(ids))
    assert parse_ranges(text) == sorted(ids)
    node = {**DAQ["daq_nodes"][0], "module_ids": text}
    assert pypff.models.DaqNode(**node).module_ids == sorted(ids)


# --- anything at all ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20) | st.sampled_from(["name", "192.168.0.4", "~/x", "0-2", "http://a:b@c"]),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(st.text(max_size=8) | st.sampled_from(["domes", "modules", "ip_addr"]), inner,
                      max_size=5),
    max_leaves=8,
)  # fmt: skip


def places(value: Any, at: Place = ()) -> list[Place]:
    """Every place in a JSON value."""
    found = [at] if at else []
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for step, member in pairs:
            found += places(member, (*at, step))
    return found


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_any_value_anywhere_loads_or_is_a_fault(kind: str, data: st.DataObject) -> None:
    known = data.draw(st.sampled_from(places(FULL[kind])))
    changes: Changes = {known: data.draw(JSON | st.just(REMOVE))}
    if data.draw(st.booleans()):
        changes = {("extra",): data.draw(JSON)}
    configs = {kind: changed(FULL[kind], changes)}
    try:
        site = load(**configs)
    except ConfigError:
        assert faults(**configs)
    else:
        assert sorted(frozen_copies(site)) == [f"{name}_config.json" for name in sorted(KINDS)]


@given(JSON, JSON, JSON)
def test_any_files_give_faults_and_no_crash(obs: Any, daq: Any, data: Any) -> None:
    texts = {"obs": json.dumps(obs), "daq": json.dumps(daq), "data": json.dumps(data)}
    found = {fault.file for fault in faults(**texts)}
    assert found == {"obs_config.json", "daq_config.json", "data_config.json"}


# --- copies of whatever loads ---

PE = st.floats(2, 100)
FLAG = st.integers(0, 1)
IMAGES = [
    st.fixed_dictionaries(
        {"integration_time_usec": st.sampled_from(times), "pe_threshold": PE,
         "quabo_sample_size": st.just(bits)},
        optional={"nsum": st.integers()},
    )
    for bits, times in ((8, [20, 25]), (16, [40, 50, 1000, 50000]))
]  # fmt: skip
NAMED: dict[str, st.SearchStrategy[Any]] = {
    "run_type": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,9}", fullmatch=True),
    "gain": st.integers(0, 255),
}
DATA_CONFIGS = st.fixed_dictionaries(
    NAMED,
    optional={
        "comment": st.text(),
        "max_file_size_mb": st.integers(0, 1_000_000),
        "image": st.one_of(*IMAGES),
        "flash_params": st.fixed_dictionaries(
            {"rate": st.integers(0, 7), "level": st.integers(0, 31), "width": st.integers(0, 15)}
        ),
        "stim_params": st.fixed_dictionaries(
            {"rate": st.integers(0, 7), "level": st.integers(0, 255),
             "mask": st.lists(st.booleans(), min_size=4, max_size=4)}
        ),
        "interleave": st.fixed_dictionaries({"steps": st.integers()}),
        "image_dark": st.fixed_dictionaries({}, optional={"pe_threshold": PE}),
        "note": JSON,
    },
)  # fmt: skip
PH = st.fixed_dictionaries(
    {"pe_threshold": PE},
    optional={
        "any_trigger": st.fixed_dictionaries({"group_ph_frames": FLAG}),
        "two_pixel_trigger": FLAG,
        "note": JSON,
    },
)


def test_the_analysis_takes_the_copies_of_whatever_loads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    run = tmp_path / "run"
    run.mkdir()

    @settings(max_examples=60)
    @given(DATA_CONFIGS, PH, st.sampled_from([1, 2, 4]))
    def check(data: dict[str, Any], ph: dict[str, Any], step: int) -> None:
        ids: Changes = {(*NODE, "module_ids"): ",".join(map(str, range(1, 128, step))),
               (*NODE, "port_forwarding"): {"x": 1}, ("remark",): "x"}  # fmt: skip
        site = load(daq=changed(DAQ, ids), data={**data, "pulse_height": ph})
        for name, text in frozen_copies(site).items():
            (run / name).write_text(text)
        configs = pypff.PanosetiRun(run).configs
        told = [record for record in caplog.records if record.name.startswith("pypff")]
        assert told == []
        assert len(configs) == 3
        assert configs["data_config"].gain == data["gain"]
        assert load_site(run).data == site.data

    check()
