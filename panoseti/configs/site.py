"""The site as typed, frozen objects: what the config files and board files say, after all checks.

Below `load_configs` and `board_files` nobody sees a JSON dict.  Pure facts: no file is read here.
Units are in the names; the sources of ranges are the JSON Schemas in `panoseti/configs/schemas/`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

OVERVOLTAGE_DEFAULT_V = 3
"""Detector overvoltage that selects the calibration when obs_config.json names none."""

ANY_ADDRESS = "0.0.0.0"


@dataclass(frozen=True)
class Quabo:
    """One board: address, index 0..3 in its module, BOARDLOC (module id * 4 + index)."""

    ip: str
    index: int
    boardloc: int
    module_id: int


@dataclass(frozen=True)
class Module:
    """One telescope module.

    ip_addr: base address (= quabo 0); id: 0..255; name: label, "" when it has none;
    mobo_serialno: label on the motherboard; dome: name of its dome; wps: key of the power switch
    that feeds it; command_echo: whether its boards echo commands; azimuth_deg, elevation_deg,
    position_angle_deg: pointing, None when not given; quabos: four, index 0 first;
    absent_quabos: indices of those known to be missing.
    """

    ip_addr: str
    id: int
    name: str
    mobo_serialno: str
    dome: str
    wps: str | None
    command_echo: bool
    quabo_version: tuple[str, ...]
    azimuth_deg: float | None
    elevation_deg: float | None
    position_angle_deg: float | None
    quabos: tuple[Quabo, Quabo, Quabo, Quabo]
    absent_quabos: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """How an operator knows it: "module 254 (East, M11)"."""
        words = ", ".join(word for word in (self.name, self.mobo_serialno) if word)
        return f"module {self.id} ({words})" if words else f"module {self.id}"


@dataclass(frozen=True)
class Dome:
    """One dome: num counts from 0 in the order of the file; position in degrees and
    metres, None where not given.
    """

    num: int
    name: str
    obslat_deg: float | None
    obslon_deg: float | None
    obsalt_m: float | None
    modules: tuple[Module, ...]


@dataclass(frozen=True)
class PowerSwitch:
    """A web power switch: its key in obs_config.json, URL, outlet 1..8 of the quabos.

    The URL may hold a password: it is kept out of repr(); show `power_switch.masked_url(url)`.
    """

    name: str
    url: str = field(repr=False)
    socket: int


@dataclass(frozen=True)
class FirmwareFiles:
    """Absolute paths of the firmware images for each kind of board, None = not given."""

    qfp: str | None = None
    bga: str | None = None

    def of(self, build: str) -> str | None:
        """The image for "qfp" or "bga" boards."""
        return {"qfp": self.qfp, "bga": self.bga}[build]


class OnDeadPipeline(StrEnum):
    """What is done when the pipeline of a node dies within a run."""

    RESTART = "restart"
    GO_ON = "go_on"
    STOP = "stop"


@dataclass(frozen=True)
class MayBeMissing:
    """How much start.py --partial may leave out: boards of modules that record otherwise, modules
    of nodes that record otherwise, and nodes.
    """

    boards: int = 0
    modules: int = 0
    nodes: int = 0


@dataclass(frozen=True)
class RunPolicy:
    """run_policy of obs_config.json: what may be missing in a run, and what is done when it fails.

    restarts_at_most: of the pipeline of each node within one run; min_hours_left: a run is ended
    when a disk lasts less than that, None = half of recording_min_h; max_loss: fraction of packets
    lost on the way that raises an alarm; ph_may_be_quiet: a run of pulse heights alone may begin
    though nothing has triggered on some boards.
    """

    on_dead_pipeline: OnDeadPipeline = OnDeadPipeline.RESTART
    restarts_at_most: int = 5
    may_be_missing: MayBeMissing = MayBeMissing()
    min_hours_left: float | None = None
    max_loss: float = 0.001
    ph_may_be_quiet: bool = False


@dataclass(frozen=True)
class CommandPacing:
    """Limits of the traffic to boards.

    boards_at_once, packets_per_ms: commands to how many boards at once, packets in each ms;
    pings_at_once: boards that are pinged, asked for their UIDs or told to reboot at once;
    transfers_at_once: boards whose flash memory is read or written at once.
    """

    boards_at_once: int = 1024
    packets_per_ms: float = 4.0
    pings_at_once: int = 128
    transfers_at_once: int = 32


@dataclass(frozen=True)
class ObsConfig:
    """obs_config.json.

    Fields of our own, all optional in the file, with their defaults:
    command_source_port: 0 = ephemeral, 60000 for firmware before v20; command_echo: default for
    modules; tftp_port: of the boards; ssh_key, ssh_known_hosts: absolute paths on the head node,
    None = the user's own; hk_max_age_s: older HK counts as absent; ph_baseline_max_age_h: a run
    is refused with an older baseline; reboot_timeout_s, power_on_timeout_s: how long a board may
    be silent; recording_min_h, recording_warn_h: a run is refused, or warned of, when a disk lasts
    less than that at the rate of the data config; shutter_open_value: what opens the shutter in
    command 0x08 (0 or 1); shutter_status_open: SHUTTER_STATUS of an open one; command_pacing:
    limits of the traffic; firmware: the silver images, which boards should run; golden_firmware:
    the golden ones, which they boot after power-on; power_credentials: file
    with users and passwords of the power switches, power_switch_api: "auto", "rest" or "classic";
    alarm_hook: command that alarms are given to, () = none; run_policy: what may fail in a run.
    odd_detectors: serial numbers of those whose voltage is right though far from all others.
    detector_overvoltage_v is None when the file has none.
    """

    name: str
    comment: str
    domes: tuple[Dome, ...]
    power_switches: tuple[PowerSwitch, ...]
    detector_overvoltage_v: int | None = None
    wr_ip_addr: str = "192.168.1.254"
    command_source_port: int = 0
    command_echo: bool = True
    tftp_port: int = 69
    redis_host: str = "127.0.0.1"
    redis_port: int = 6379
    ssh_key: str | None = None
    ssh_known_hosts: str | None = None
    hk_max_age_s: float = 15.0
    ph_baseline_max_age_h: float = 24.0
    reboot_timeout_s: float = 60.0
    power_on_timeout_s: float = 60.0
    recording_min_h: float = 0.1
    recording_warn_h: float = 4.0
    shutter_open_value: int = 0
    shutter_status_open: int = 1
    command_pacing: CommandPacing = CommandPacing()
    firmware: FirmwareFiles = FirmwareFiles()
    golden_firmware: FirmwareFiles = FirmwareFiles()
    power_credentials: str | None = None
    power_switch_api: str = "auto"
    alarm_hook: tuple[str, ...] = ()
    run_policy: RunPolicy = RunPolicy()
    odd_detectors: tuple[int, ...] = ()

    @property
    def modules(self) -> tuple[Module, ...]:
        """All modules, domes and modules in the order of the file."""
        return tuple(module for dome in self.domes for module in dome.modules)

    @property
    def quabos(self) -> tuple[Quabo, ...]:
        """All boards that the config knows (present or not), in the order of the file."""
        return tuple(quabo for module in self.modules for quabo in module.quabos)

    @property
    def min_hours_left(self) -> float:
        """A run is ended when a disk lasts less than this."""
        given = self.run_policy.min_hours_left
        return self.recording_min_h / 2 if given is None else given

    @property
    def known_absent(self) -> frozenset[str]:
        """Addresses of the boards that the config itself says are missing."""
        return frozenset(
            module.quabos[index].ip for module in self.modules for index in module.absent_quabos
        )

    @property
    def echo_by_ip(self) -> dict[str, bool]:
        """Whether each board echoes commands, by address."""
        return {q.ip: module.command_echo for module in self.modules for q in module.quabos}

    @property
    def calibration_overvoltage_v(self) -> int:
        """The overvoltage that selects the calibration folder."""
        if self.detector_overvoltage_v is None:
            return OVERVOLTAGE_DEFAULT_V
        return self.detector_overvoltage_v

    def module(self, module_id: int) -> Module:
        """The module of that id; KeyError when the config has none."""
        for module in self.modules:
            if module.id == module_id:
                return module
        raise KeyError(module_id)

    def quabo(self, ip: str) -> Quabo:
        """The board at that address; KeyError when the config has none."""
        for quabo in self.quabos:
            if quabo.ip == ip:
                return quabo
        raise KeyError(ip)

    def power_switch(self, module: Module) -> PowerSwitch | None:
        """The switch that feeds the module, None when the config names none."""
        for switch in self.power_switches:
            if switch.name == module.wps:
                return switch
        return None


@dataclass(frozen=True)
class PipelineTuning:
    """How a node's pipeline takes packets; the defaults are those of the pipeline.

    capture: "auto", "udp" or "packet"; receive_buffer_mb: of the kernel; busy_poll: the net thread
    never sleeps; cpus: of the net, compute and output thread, empty = any.
    """

    capture: str = "auto"
    receive_buffer_mb: int = 64
    busy_poll: bool = False
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class DaqNode:
    """One recording computer.

    ip_addr: address or host name as in the file; data_dir: absolute path on the node;
    module_ids: every id it would record, ascending, in use or not; bindhost: interface name or
    address for the capture.  Of our own: ssh_port; hashpipe_dir: prefix of an installed HASHPIPE
    whose launcher is to be used (None = our own engine); ready_deadline_s: how long the pipeline
    may take until it records; tuning: options of the pipeline.
    """

    ip_addr: str
    username: str
    data_dir: str
    module_ids: tuple[int, ...]
    bindhost: str = ANY_ADDRESS
    ssh_port: int = 22
    hashpipe_dir: str | None = None
    ready_deadline_s: float = 30.0
    tuning: PipelineTuning = PipelineTuning()

    @property
    def binds_interface(self) -> bool:
        """Whether bindhost names an interface, not an address."""
        try:
            ipaddress.ip_address(self.bindhost)
        except ValueError:
            return True
        return False


@dataclass(frozen=True)
class DaqConfig:
    """daq_config.json; head_node_data_dir is an absolute path ("~" already replaced)."""

    head_node_ip_addr: str
    head_node_data_dir: str
    nodes: tuple[DaqNode, ...]
    comment: str = ""


@dataclass(frozen=True)
class ImageConfig:
    """Image mode: integration time in us, threshold in photoelectrons, 8 or 16 bits per pixel."""

    integration_time_us: int
    pe_threshold: float
    bits: int

    @property
    def frames_per_second(self) -> float:
        """Images of each quabo per second."""
        return 1e6 / self.integration_time_us


@dataclass(frozen=True)
class PulseHeightConfig:
    """Pulse-height mode: threshold in photoelectrons, trigger options.

    group_ph_frames counts only with any_trigger: the events of the four boards become ph1024.
    """

    pe_threshold: float
    any_trigger: bool = False
    group_ph_frames: bool = False
    two_pixel_trigger: bool = False
    three_pixel_trigger: bool = False

    @property
    def coincidence(self) -> bool:
        """Whether two or three pixels must fire together."""
        return self.two_pixel_trigger or self.three_pixel_trigger


@dataclass(frozen=True)
class FlashParams:
    """LED flasher: rate 0..7, level 0..31, width 0..15 as the board takes them."""

    rate: int
    level: int
    width: int


@dataclass(frozen=True)
class StimParams:
    """Test pulse: rate 0..7, level 0..255 as the board takes them."""

    rate: int
    level: int


@dataclass(frozen=True)
class DataConfig:
    """data_config.json: what to record; max_file_size_mb in 10^6 bytes, 0 = no limit."""

    run_type: str
    gain: float
    image: ImageConfig | None
    pulse_height: PulseHeightConfig | None
    max_file_size_mb: int = 0
    flash: FlashParams | None = None
    stim: StimParams | None = None

    @property
    def group_ph_frames(self) -> bool:
        """Whether the pipeline combines the PH events of a module to ph1024 frames."""
        ph = self.pulse_height
        return ph is not None and ph.any_trigger and ph.group_ph_frames


@dataclass(frozen=True)
class BoardInfo:
    """A board of quabo_info.json: serialno "SNnnn", version "qfp" or "bga", four detectors."""

    uid: str
    serialno: str
    board_version: str
    detector_serialno: tuple[int, int, int, int]


@dataclass(frozen=True)
class Detector:
    """A detector of detector_info.json; one of the two voltages is given."""

    serialno: int
    breakdown_v: float | None
    operating_v: float | None


@dataclass(frozen=True)
class Quadrant:
    """Threshold lines of one detector: DAC1 = a*gain*pe + b, DAC2 = ah*gain*pe + bh."""

    detserial: int
    a: float
    b: float
    ah: float
    bh: float


@dataclass(frozen=True)
class Calibration:
    """One quabo_calib_<nn>.json.

    file: its path as an operator finds it; serialno: of the board; pixel_gain[x][y]: relative
    gain correction of pixel (x, y), 16 x 16; quadrants: index = detector = MAROC chip 0..3.
    """

    file: str
    serialno: str
    pixel_gain: tuple[tuple[float, ...], ...]
    quadrants: tuple[Quadrant, Quadrant, Quadrant, Quadrant]


@dataclass(frozen=True)
class QuaboUids:
    """quabo_uids.json: board address -> UID, "" = the board did not answer the scan."""

    by_ip: Mapping[str, str]

    def present(self, ip: str) -> bool:
        """Whether the board answered."""
        return bool(self.by_ip.get(ip, ""))


@dataclass(frozen=True)
class PhBaseline:
    """quabo_ph_baseline.json: Unix time of the calibration; UID -> 256 ADC counts."""

    date_unix: float
    coefs: Mapping[str, tuple[int, ...]]
