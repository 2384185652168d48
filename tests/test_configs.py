"""Configs that are right: real examples, the shipped site, the templates, and their copies."""

from __future__ import annotations

import json
import logging
import os
import pwd
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pypff
import pytest

from panoseti import local_host
from panoseti.configs.json_document import SCHEMAS
from panoseti.configs.load_configs import Site, frozen_copies, load_site
from panoseti.configs.site import (
    CommandPacing,
    DaqNode,
    FlashParams,
    ImageConfig,
    MayBeMissing,
    OnDeadPipeline,
    PipelineTuning,
    PulseHeightConfig,
    Quabo,
    RunPolicy,
)
from panoseti.errors import ConfigError
from tests.helpers import REPO, pypff_warnings, spec_data
from tests.site_files import DAQ, DATA, OBS, changed, write_site

TEMPLATES = sorted(path for path in (REPO / "docs" / "sites").iterdir() if path.is_dir())
SHIPPED = [REPO, *TEMPLATES]
OBS_EXAMPLES = ("lick_3mod", "lick_astrograph", "lick_barnard", "lick_crocker", "ucb")
DATA_EXAMPLES = ("dual", "example", "im", "lick", "ph", "ucb2")


def example_site(
    folder: Path, obs: str = "lick_3mod", daq: str = "ucb", data: str = "dual"
) -> Path:
    """A command directory made of real example files."""
    for kind, name in (("obs", obs), ("daq", daq), ("data", data)):
        source = spec_data() / "example_configs" / f"{kind}_config_{name}.json"
        shutil.copy(source, folder / f"{kind}_config.json")
    return folder


def warned(site: Site) -> list[tuple[str, str]]:
    return [(warning.file, warning.path) for warning in site.warnings]


@pytest.mark.parametrize("obs", OBS_EXAMPLES)
def test_real_obs_config_loads(tmp_path: Path, obs: str) -> None:
    site = load_site(example_site(tmp_path, obs=obs))
    raw = json.loads((tmp_path / "obs_config.json").read_text())
    assert [module.ip_addr for module in site.obs.modules] == [
        module["ip_addr"] for dome in raw["domes"] for module in dome["modules"]
    ]
    assert {path.rpartition(".")[2] for _, path in warned(site)} <= {"url", "name", "gps_port"}
    assert "PASSWORD" not in "".join(str(warning) for warning in site.warnings)


@pytest.mark.parametrize("data", DATA_EXAMPLES)
def test_real_data_config_loads(tmp_path: Path, data: str) -> None:
    site = load_site(example_site(tmp_path, data=data))
    raw = json.loads((tmp_path / "data_config.json").read_text())
    assert (site.data.image is not None) == ("image" in raw)
    assert (site.data.pulse_height is not None) == ("pulse_height" in raw)
    unused = ("$.image.nsum", "$.long_pulse") if data == "example" else ()
    expected = [("data_config.json", path) for path in unused]
    assert [entry for entry in warned(site) if entry[0] == "data_config.json"] == expected


def test_real_names_that_do_not_resolve_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_host.socket, "gethostbyname", _no_such_name)
    site = load_site(example_site(tmp_path, daq="lick2"))
    unresolved = [(w.path, w.value) for w in site.warnings if "resolve" in w.remedy]
    assert unresolved == [
        ("$.head_node_ip_addr", "headnode"),
        ("$.daq_nodes[0].ip_addr", "daq1"),
        ("$.daq_nodes[1].ip_addr", "daq2"),
    ]
    with pytest.raises(ConfigError, match=r"daq_nodes\[1\].ip_addr: daq2: does not resolve"):
        site.address_of("daq2")
    with pytest.raises(ConfigError, match="headnode"):
        site.is_head_node_here()


def _no_such_name(name: str) -> str:
    raise OSError(name)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (
            "daq",
            "example",
            {f"$.daq_nodes[{n}].username": 'rename "user_name" to "username"' for n in range(3)},
        ),
        (
            "data",
            "ucb1",
            {
                "$.gain": "add it: MAROC gain",
                "$.image.pe_threshold": "add it: photoelectrons",
                "$.image.quabo_sample_size": "add it: bits per pixel",
            },
        ),
        ("daq", "lick1", {"$.daq_nodes[0].data_dir": "/home/panosetigraph/data"}),
    ],
)
def test_real_config_with_mistakes(
    tmp_path: Path, kind: str, name: str, expected: dict[str, str]
) -> None:
    folder = example_site(tmp_path, **{kind: name})
    with pytest.raises(ConfigError) as caught:
        load_site(folder)
    assert [fault.path for fault in caught.value.faults] == list(expected)
    for fault in caught.value.faults:
        assert fault.file == f"{kind}_config.json"
        assert expected[fault.path] in fault.remedy
    assert caught.value.exit_code == 2


def test_typo_of_lick1_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/home/panosetgraph/data: headnode is the head node"):
        load_site(example_site(tmp_path, daq="lick1"))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_shipped_sites_load_without_a_warning(folder: Path) -> None:
    assert load_site(folder).warnings == ()


def test_templates_are_the_three_topologies() -> None:
    sites = {folder.name: load_site(folder) for folder in TEMPLATES}
    head = {name: [site.is_on_head_node(node) for node in site.daq.nodes]
            for name, site in sites.items()}  # fmt: skip
    assert head == {
        "head_apart": [False, False],
        "head_is_node": [True, False],
        "one_computer": [True],
    }
    assert all(site.nodes_in_use() == site.daq.nodes for site in sites.values())


def test_shipped_site_is_the_simulated_observatory() -> None:
    site = load_site(REPO)
    assert [(m.id, m.ip_addr) for m in site.obs.modules] == [(254, "127.0.3.248"), (1, "127.0.0.4")]
    assert site.is_head_node_here()
    assert site.head_data_dir == Path.home() / "panoseti-sim" / "head"
    node = site.node_of(254)
    assert node == site.node_of(1) == site.daq.nodes[0]
    assert node.data_dir == str(site.head_data_dir)
    assert node.username == pwd.getpwuid(os.geteuid()).pw_name
    assert site.destination_of(node.ip_addr) == "127.0.0.1"
    assert site.data.image == ImageConfig(1000, 2.0, 16)
    assert site.data.pulse_height is not None


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_analysis_accepts_the_copies(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _assert_accepted(load_site(folder), tmp_path / "run", caplog)


@pytest.mark.parametrize("obs", OBS_EXAMPLES)
@pytest.mark.parametrize("data", DATA_EXAMPLES)
def test_analysis_accepts_the_copies_of_real_sites(
    tmp_path: Path, obs: str, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = load_site(example_site(tmp_path, obs=obs, data=data))
    _assert_accepted(site, tmp_path / "run", caplog)
    assert "PASSWORD" not in (tmp_path / "run" / "obs_config.json").read_text()


def test_analysis_accepts_the_fields_about_safety(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    obs = OBS | {
        "power_credentials": "/etc/power.json",
        "power_switch_api": "rest",
        "alarm_hook": ["/usr/bin/tell"],
    }
    _assert_accepted(load_site(write_site(tmp_path, obs)), tmp_path / "run", caplog)


def _assert_accepted(site: Site, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pypff skips with a logged warning what it does not accept."""
    run.mkdir()
    for name, text in frozen_copies(site).items():
        (run / name).write_text(text)
    caplog.set_level(logging.WARNING)
    configs = pypff.PanosetiRun(run).configs
    assert pypff_warnings(caplog) == []
    assert sorted(configs) == ["daq_config", "data_config", "obs_config"]
    assert [node.module_ids for node in configs["daq_config"].daq_nodes] == [
        list(node.module_ids) for node in site.daq.nodes
    ]


def test_analysis_refuses_what_the_copies_leave_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The originals of this test are skipped by pypff: without rewriting the test would fail."""
    obs = changed(OBS, {("domes", 0, "remark"): "dome sticks", ("domes", 0, "num"): 0})
    daq = changed(
        DAQ,
        {
            ("daq_nodes", 0, "module_ids"): "0-2, 5-6",
            ("daq_nodes", 1, "module_ids"): " 254 ",
            ("shift",): "night",
        },
    )
    data = changed(DATA, {("max_file_size_mb",): 0, ("image", "nsum"): 64})
    folder = write_site(tmp_path / "site", obs, daq, data)
    pypff.PanosetiRun(folder).configs  # noqa: B018 - the property reads the files
    assert len([m for m in pypff_warnings(caplog) if m.startswith("Skipping config")]) == 3
    caplog.clear()
    site = load_site(folder)
    assert ("obs_config.json", "$.domes[0].remark") in warned(site)
    assert ("daq_config.json", "$.shift") in warned(site)
    _assert_accepted(site, tmp_path / "run", caplog)


def test_copies_hold_no_secret_and_load_again(tmp_path: Path) -> None:
    obs = changed(
        OBS,
        {
            ("wps", "url"): "http://admin:se%2Fcr@t@192.168.0.100",
            ("WPS_2",): {"url": "http://admin:s3cret@10.0.0.1", "quabo_socket": 2},
            ("redis_password",): "se/cr@t",
            ("comment",): "switch at http://admin:s3cret@10.0.0.1",
        },
    )
    daq = changed(DAQ, {("head_node_data_dir",): "~/data", ("daq_nodes", 0, "username"): "$USER"})
    site = load_site(write_site(tmp_path / "site", obs, daq))
    assert site.obs.power_switches[0].url == "http://admin:se%2Fcr@t@192.168.0.100"
    run = tmp_path / "run"
    run.mkdir()
    for name, text in frozen_copies(site).items():
        (run / name).write_text(text)
    everything = "".join(frozen_copies(site).values()) + str(site.warnings)
    everything += repr(site.obs.power_switches)
    assert "s3cret" not in everything
    assert "se/cr" not in everything and "se%2Fcr" not in everything
    again = load_site(run)
    assert again.daq == site.daq
    assert again.data == site.data
    assert again.obs.domes == site.obs.domes
    assert again.obs.power_switches[0].url == "http://***@192.168.0.100"


def test_fields_arrive(tmp_path: Path) -> None:
    own = {
        "command_source_port": 60000,
        "command_echo": False,
        "tftp_port": 6900,
        "redis_host": "10.0.0.9",
        "redis_port": 6380,
        "ssh_key": "~/.ssh/site",
        "ssh_known_hosts": "/etc/site_hosts",
        "hk_max_age_s": 20,
        "ph_baseline_max_age_h": 12,
        "reboot_timeout_s": 30,
        "power_on_timeout_s": 90,
        "shutter_open_value": 1,
        "shutter_status_open": 0,
        "power_credentials": "~/power.json",
        "power_switch_api": "rest",
        "alarm_hook": ["~/bin/tell", "--to", "~/ops"],
    }
    obs = changed(
        {**OBS, **own},
        {("domes", 0, "modules", 0, "command_echo"): True,
         ("domes", 0, "modules", 0, "azimuth"): 10,
         ("domes", 0, "modules", 0, "name"): "West",
         ("domes", 0, "modules", 0, "absent_quabos"): [3, 1],
         ("command_pacing",): {"boards_at_once": 32, "pings_at_once": 7, "transfers_at_once": 3}},
    )  # fmt: skip
    node = {"ssh_port": 2222, "hashpipe_dir": "/opt/hashpipe/", "ready_deadline_s": 12,
            "bindhost": "enp3s0", "data_dir": "/mnt/a b/", "capture": "packet",
            "receive_buffer_mb": 64, "busy_poll": True, "cpus": [4, 5, 6]}  # fmt: skip
    daq = changed(DAQ, {("daq_nodes", 0, name): value for name, value in node.items()})
    data = changed(
        DATA,
        {("flash_params",): {"rate": 7, "level": 1, "width": 15},
         ("stim_params",): {"rate": 3, "level": 128, "mask": [True] * 4},
         ("pulse_height", "any_trigger"): {"group_ph_frames": 1},
         ("pulse_height", "two_pixel_trigger"): 1},
    )  # fmt: skip
    site = load_site(write_site(tmp_path, obs, daq, data))
    for name, value in own.items():
        if not name.startswith(("ssh", "power_credentials", "alarm")):
            assert getattr(site.obs, name) == value
    assert site.obs.ssh_key == str(Path.home() / ".ssh/site")
    assert site.obs.ssh_known_hosts == "/etc/site_hosts"
    assert site.obs.power_credentials == str(Path.home() / "power.json")
    assert site.obs.alarm_hook == (str(Path.home() / "bin/tell"), "--to", "~/ops")
    first, second = site.obs.modules
    assert (first.id, first.label) == (1, "module 1 (West, M1)")
    assert (first.command_echo, second.command_echo) == (True, False)
    assert (first.azimuth_deg, second.azimuth_deg) == (10, None)
    assert first.quabos[3] == Quabo("192.168.0.7", 3, 7, 1)
    assert site.obs.known_absent == {"192.168.0.5", "192.168.0.7"}
    usual = CommandPacing()
    assert site.obs.command_pacing == CommandPacing(32, usual.packets_per_ms, 7, 3)
    assert site.obs.power_switch(first) == site.obs.power_switches[0]
    assert site.obs.power_switch(second) is None
    assert site.daq.nodes[0] == DaqNode(
        "192.168.1.101", "observer", "/mnt/a b", tuple(range(128)), "enp3s0", 2222,
        "/opt/hashpipe", 12.0, PipelineTuning("packet", 64, True, (4, 5, 6)),
    )  # fmt: skip
    assert site.modules_of(site.daq.nodes[0]) == (first,)
    assert site.data.flash == FlashParams(7, 1, 15)
    assert site.data.stim is not None and site.data.stim.level == 128
    assert site.data.pulse_height == PulseHeightConfig(12.5, True, True, True, False)
    assert site.data.group_ph_frames


def test_run_policy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = {
        "on_dead_pipeline": "stop",
        "restarts_at_most": 2,
        "may_be_missing": {"boards": 3, "nodes": 1},
        "min_hours_left": 0.2,
        "max_loss": 0.01,
        "ph_may_be_quiet": True,
    }
    site = load_site(write_site(tmp_path / "site", {**OBS, "run_policy": written}))
    assert site.warnings == ()
    assert site.obs.run_policy == RunPolicy(
        OnDeadPipeline.STOP, 2, MayBeMissing(boards=3, modules=0, nodes=1), 0.2, 0.01, True
    )
    assert site.obs.min_hours_left == 0.2
    _assert_accepted(site, tmp_path / "run", caplog)
    assert load_site(tmp_path / "run").obs == site.obs


def test_usual_run_policy(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path, {**OBS, "recording_min_h": 0.5}))
    assert site.obs.run_policy == RunPolicy()
    assert site.obs.run_policy.may_be_missing == MayBeMissing(0, 0, 0)
    assert site.obs.min_hours_left == 0.25


def test_run_policy_with_mistakes(tmp_path: Path) -> None:
    written = {
        "on_dead_pipeline": "hope",
        "may_be_missing": {"boards": -1, "modul": 2},
        "max_loss": "1",
        "ph_may_be_quiet": 1,
    }
    with pytest.raises(ConfigError) as refused:
        load_site(write_site(tmp_path, {**OBS, "run_policy": written}))
    faults = {fault.path: fault for fault in refused.value.faults}
    assert set(faults) == {
        "$.run_policy.on_dead_pipeline",
        "$.run_policy.may_be_missing.boards",
        "$.run_policy.max_loss",
        "$.run_policy.ph_may_be_quiet",
    }
    assert "must be what is done" in faults["$.run_policy.on_dead_pipeline"].remedy


def test_defaults(tmp_path: Path) -> None:
    data = changed(DATA, {("max_file_size_mb",): 500})
    site = load_site(write_site(tmp_path, data=data))
    assert site.obs.command_source_port == 0
    assert site.obs.hk_max_age_s == 15
    assert site.obs.ph_baseline_max_age_h == 24
    assert site.daq.nodes[0].bindhost == "0.0.0.0"
    assert site.data.max_file_size_mb == 500
    assert not site.data.group_ph_frames
    assert site.warnings == ()


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    site = load_site(write_site(tmp_path, changed(OBS, {("detector_overvoltage",): 3.0})))
    assert f"detovervol_{site.obs.calibration_overvoltage_v}v" == "detovervol_3v"


def test_without_data_config(tmp_path: Path) -> None:
    folder = write_site(tmp_path, data="{ not JSON")
    site = load_site(folder, data_config=False)
    assert sorted(frozen_copies(site)) == ["daq_config.json", "obs_config.json"]
    with pytest.raises(ConfigError, match="data_config.json"):
        _ = site.data


def test_head_node_by_interface_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"headnode": "192.0.2.7", "daq1": "192.0.2.8", "same": "192.0.2.7"}
    monkeypatch.setattr(local_host.socket, "gethostbyname", lambda name: names[name])
    daq = changed(DAQ, {("head_node_ip_addr",): "headnode", ("daq_nodes", 0, "ip_addr"): "same"})
    site = load_site(write_site(tmp_path, daq=daq))
    assert site.is_on_head_node(site.daq.nodes[0])
    for own, expected in ((("192.0.2.7", "127.0.0.1"), True), (("192.0.2.9",), False)):
        monkeypatch.setattr(local_host, "local_addresses", lambda own=own: frozenset(own))
        assert site.is_head_node_here() is expected


def test_own_addresses_are_local() -> None:
    addresses = local_host.local_addresses()
    assert "127.0.0.1" in addresses
    assert all(local_host.is_local(address) for address in addresses)
    assert local_host.is_local("127.45.6.7")
    assert not local_host.is_local("192.0.2.1")


def test_resolve_waits_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def slow(name: str) -> str:
        if name == "slow":
            released.wait(10)
        return "192.0.2.1"

    monkeypatch.setattr(local_host.socket, "gethostbyname", slow)
    try:
        found = local_host.resolve(["slow", "quick", "192.0.2.3"], timeout_s=0.3)
        assert found == {"quick": "192.0.2.1", "192.0.2.3": "192.0.2.3"}
    finally:
        released.set()


def test_loopback_name_is_no_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's /etc/hosts gives a computer's own name 127.0.1.1."""
    monkeypatch.setattr(local_host.socket, "gethostbyname", lambda name: "127.0.1.1")
    daq = changed(DAQ, {("head_node_ip_addr",): "headnode"})
    site = load_site(write_site(tmp_path, daq=daq))
    assert ("daq_config.json", "$.head_node_ip_addr") in warned(site)
    with pytest.raises(ConfigError, match="headnode: means 127.0.1.1"):
        site.destination_of("headnode")


@pytest.mark.parametrize("schema", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_schemas_are_schemas(schema: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(
        json.loads(schema.read_text(), object_pairs_hook=without_doubles)
    )


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names stand once each: of two the first would silently be lost."""
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), names
    return dict(pairs)


def named(schema: dict[str, Any]) -> Iterator[str]:
    """The fields of a config file that are used, at any depth."""
    for name, field in schema.get("properties", {}).items():
        if "x-unused" not in field:
            yield name
            yield from named(field)
    for inner in (schema.get("items"), *schema.get("$defs", {}).values()):
        if isinstance(inner, dict):
            yield from named(inner)


@pytest.mark.parametrize(
    "kind",
    ["obs_config", "daq_config", "data_config", "quabo_info", "detector_info", "quabo_calib"],
)
def test_each_field_is_described(kind: str) -> None:
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    code = re.findall(r"`([^`]+)`", (REPO / "docs" / "sites" / "README.md").read_text())
    described = set(re.findall(r"\w+", " ".join(code)))
    fields = set(named(schema))
    assert fields
    assert not fields - described
