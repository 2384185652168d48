"""From checked JSON to the frozen objects of `site`, part by part.

Parts in which the schema found no fault are built even when others are faulty, so that the
checks between parts and files can report their faults in the same breath.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from panoseti.boards.addresses import boardloc, module_id, parse_ranges, quabo_ip
from panoseti.boards.firmware_images import BUILDS
from panoseti.configs.cross_checks import Head, Placed
from panoseti.configs.json_document import Document, Place, json_path
from panoseti.configs.site import (
    ANY_ADDRESS,
    CommandPacing,
    DaqConfig,
    DaqNode,
    DataConfig,
    Dome,
    FirmwareFiles,
    FlashParams,
    ImageConfig,
    MayBeMissing,
    Module,
    ObsConfig,
    OnDeadPipeline,
    PipelineTuning,
    PowerSwitch,
    PulseHeightConfig,
    Quabo,
    RunPolicy,
    StimParams,
)

OWN_OBS_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "command_source_port": int,
    "tftp_port": int,
    "redis_host": str,
    "redis_port": int,
    "hk_max_age_s": float,
    "ph_baseline_max_age_h": float,
    "reboot_timeout_s": float,
    "power_on_timeout_s": float,
    "recording_min_h": float,
    "recording_warn_h": float,
    "shutter_open_value": int,
    "shutter_status_open": int,
    "power_switch_api": str,
}


@dataclass(frozen=True)
class Person:
    """Who runs the command: for "~" and "$USER" in the configs."""

    home: str
    user: str

    def path(self, text: str) -> str:
        """A path with "~/" replaced and without a closing "/"."""
        full = f"{self.home.rstrip('/')}/{text[2:]}" if text.startswith("~/") else text
        return full.rstrip("/") or "/"


def placed_modules(document: Document) -> list[Placed[Module]]:
    """Every module of obs_config.json that has no fault of its own."""
    found = []
    content = document.content
    if not isinstance(content, dict) or not isinstance(content.get("domes"), list):
        return []
    echo = content.get("command_echo", True)
    for d, dome in enumerate(content["domes"]):
        modules = dome.get("modules") if isinstance(dome, dict) else None
        for m, module in enumerate(modules if isinstance(modules, list) else ()):
            place: Place = ("domes", d, "modules", m)
            if document.clean(*place):
                built = _module(module, str(dome.get("name", "")), echo is not False)
                found.append(Placed(document.name, json_path(place), built))
    return found


def _module(raw: dict[str, Any], dome: str, echo: bool) -> Module:
    base = raw["ip_addr"]
    number = module_id(base)
    addresses = tuple(quabo_ip(base, index) for index in range(4))
    quabos = tuple(Quabo(ip, index, boardloc(ip), number) for index, ip in enumerate(addresses))
    version = raw["quabo_version"]
    return Module(
        ip_addr=base,
        id=number,
        name=raw.get("name", ""),
        mobo_serialno=raw["mobo_serialno"],
        dome=dome,
        wps=raw.get("wps"),
        command_echo=raw.get("command_echo", echo),
        quabo_version=(version,) * 4 if isinstance(version, str) else tuple(version),
        azimuth_deg=raw.get("azimuth"),
        elevation_deg=raw.get("elevation"),
        position_angle_deg=raw.get("position_angle"),
        quabos=(quabos[0], quabos[1], quabos[2], quabos[3]),
        absent_quabos=tuple(sorted(int(index) for index in raw.get("absent_quabos", ()))),
    )


def power_switch_names(document: Document) -> list[str]:
    """Names of the power switches of obs_config.json, faulty or not."""
    content = document.content if isinstance(document.content, dict) else {}
    return [name for name in content if "wps" in name.lower()]


def build_obs(document: Document, person: Person) -> ObsConfig:
    """obs_config.json without faults as an object."""
    raw = document.content
    by_path = {placed.path: placed.item for placed in placed_modules(document)}
    domes = tuple(
        Dome(
            num=d,
            name=dome["name"],
            obslat_deg=dome.get("obslat"),
            obslon_deg=dome.get("obslon"),
            obsalt_m=dome.get("obsalt"),
            modules=tuple(
                by_path[json_path(("domes", d, "modules", m))] for m in range(len(dome["modules"]))
            ),
        )
        for d, dome in enumerate(raw["domes"])
    )
    overvoltage = raw.get("detector_overvoltage")
    own = {name: kind(raw[name]) for name, kind in OWN_OBS_FIELDS.items() if name in raw}
    for name in ("ssh_key", "ssh_known_hosts", "power_credentials"):
        if name in raw:
            own[name] = person.path(raw[name])
    if "alarm_hook" in raw:
        own["alarm_hook"] = (person.path(raw["alarm_hook"][0]), *raw["alarm_hook"][1:])
    if "odd_detectors" in raw:
        own["odd_detectors"] = tuple(raw["odd_detectors"])
    for name in ("firmware", "golden_firmware"):
        if name in raw:
            images = {build: raw[name].get(build) for build in BUILDS}
            own[name] = FirmwareFiles(
                **{build: person.path(file) for build, file in images.items() if file is not None}
            )
    if "run_policy" in raw:
        own["run_policy"] = _run_policy(raw["run_policy"])
    if "command_pacing" in raw:
        given, usual = raw["command_pacing"], CommandPacing()
        own["command_pacing"] = CommandPacing(
            boards_at_once=int(given.get("boards_at_once", usual.boards_at_once)),
            packets_per_ms=float(given.get("packets_per_ms", usual.packets_per_ms)),
            pings_at_once=int(given.get("pings_at_once", usual.pings_at_once)),
            transfers_at_once=int(given.get("transfers_at_once", usual.transfers_at_once)),
        )
    for name in ("wr_ip_addr", "command_echo"):
        if name in raw:
            own[name] = raw[name]
    return ObsConfig(
        name=raw["name"],
        comment=raw.get("comment", ""),
        domes=domes,
        power_switches=tuple(
            PowerSwitch(name, raw[name]["url"], int(raw[name]["quabo_socket"]))
            for name in power_switch_names(document)
        ),
        # 3.0 is a JSON integer too, but would not be the name of a calibration folder.
        detector_overvoltage_v=None if overvoltage is None else int(overvoltage),
        **own,
    )


def _run_policy(raw: dict[str, Any]) -> RunPolicy:
    usual = RunPolicy()
    missing = raw.get("may_be_missing", {})
    left_h = raw.get("min_hours_left")
    return RunPolicy(
        on_dead_pipeline=OnDeadPipeline(raw.get("on_dead_pipeline", usual.on_dead_pipeline)),
        restarts_at_most=int(raw.get("restarts_at_most", usual.restarts_at_most)),
        may_be_missing=MayBeMissing(
            **{kind: int(missing.get(kind, 0)) for kind in ("boards", "modules", "nodes")}
        ),
        min_hours_left=None if left_h is None else float(left_h),
        max_loss=float(raw.get("max_loss", usual.max_loss)),
        ph_may_be_quiet=bool(raw.get("ph_may_be_quiet", usual.ph_may_be_quiet)),
    )


def written_head(document: Document) -> Head | None:
    """The head node as written in daq_config.json; None when its fields are faulty."""
    if not isinstance(document.content, dict):
        return None
    fields = ("head_node_ip_addr", "head_node_data_dir")
    if not all(field in document.content and document.clean(field) for field in fields):
        return None
    return Head(*(document.content[field] for field in fields))


def written_nodes(document: Document) -> list[Placed[DaqNode]]:
    """Every DAQ node without a fault of its own, "~" and "$USER" not yet replaced."""
    content = document.content
    if not isinstance(content, dict) or not isinstance(content.get("daq_nodes"), list):
        return []
    return [
        Placed(document.name, json_path(("daq_nodes", n)), _node(raw))
        for n, raw in enumerate(content["daq_nodes"])
        if document.clean("daq_nodes", n)
    ]


def _node(raw: dict[str, Any]) -> DaqNode:
    return DaqNode(
        ip_addr=raw["ip_addr"],
        username=raw["username"],
        data_dir=raw["data_dir"],
        module_ids=tuple(sorted(set(parse_ranges(raw["module_ids"])))),
        bindhost=raw.get("bindhost", ANY_ADDRESS),
        ssh_port=int(raw.get("ssh_port", 22)),
        hashpipe_dir=raw.get("hashpipe_dir"),
        ready_deadline_s=float(raw.get("ready_deadline_s", 30)),
        tuning=_tuning(raw),
    )


def _tuning(raw: dict[str, Any]) -> PipelineTuning:
    standard = PipelineTuning()
    return PipelineTuning(
        capture=raw.get("capture", standard.capture),
        receive_buffer_mb=int(raw.get("receive_buffer_mb", standard.receive_buffer_mb)),
        busy_poll=raw.get("busy_poll", standard.busy_poll),
        cpus=tuple(int(cpu) for cpu in raw.get("cpus", standard.cpus)),
    )


def build_daq(head: Head, nodes: list[Placed[DaqNode]], comment: str) -> DaqConfig:
    """daq_config.json from its (expanded) parts."""
    return DaqConfig(head.ip_addr, head.data_dir, tuple(placed.item for placed in nodes), comment)


def build_data(raw: dict[str, Any]) -> DataConfig:
    """data_config.json without faults as an object."""
    image, flash, stim = (raw.get(name) for name in ("image", "flash_params", "stim_params"))
    return DataConfig(
        run_type=raw["run_type"],
        gain=raw["gain"],
        image=None
        if image is None
        else ImageConfig(
            int(image["integration_time_usec"]),
            float(image["pe_threshold"]),
            int(image["quabo_sample_size"]),
        ),
        pulse_height=_pulse_height(raw.get("pulse_height")),
        max_file_size_mb=int(raw.get("max_file_size_mb", 0)),
        flash=None
        if flash is None
        else FlashParams(int(flash["rate"]), int(flash["level"]), int(flash["width"])),
        stim=None if stim is None else StimParams(int(stim["rate"]), int(stim["level"])),
    )


def _pulse_height(raw: dict[str, Any] | None) -> PulseHeightConfig | None:
    if raw is None:
        return None
    any_trigger = raw.get("any_trigger")
    return PulseHeightConfig(
        pe_threshold=float(raw["pe_threshold"]),
        any_trigger=any_trigger is not None,
        group_ph_frames=bool(any_trigger and any_trigger["group_ph_frames"]),
        two_pixel_trigger=bool(raw.get("two_pixel_trigger", 0)),
        three_pixel_trigger=bool(raw.get("three_pixel_trigger", 0)),
    )
