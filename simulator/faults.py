"""Ways a simulated quabo can be told to misbehave, and how that changes its datagrams.

| fault | parameters (default) | effect |
|---|---|---|
| none | | every fault of the board ends, science spoiling too |
| unreachable | | nothing arrives, nothing leaves: HK, science, TFTP, commands |
| mute | | commands are obeyed, but no answer, no TFTP and no HK leaves; science goes on |
| no_hk | | only housekeeping stops |
| slow | delay_s (1.0) | every answer comes so much later |
| lossy | fraction (0.3), seed (0) | each command, answer, TFTP and HK datagram may be lost |
| duplicating | | every answer and HK packet comes twice |
| reordering | | every second answer or HK packet comes 50 ms later, after its successor |
| rebooting | | the board reboots now, by itself; it forgets what a reboot forgets |
| hot | temp1_c (65.0) | the detector temperature; TEMP2 is 30 degrees above |
| odd_hk | temp1_c, temp2_c, hvmon_v, hvimon_a (none), every (1) | what every so-manyth HK says |
| wrong_firmware | version ("0104"), time (0x20000000) | what HK reports after a reboot |
| wrong_uid | uid ("badbadbad") | what /flashuid says |
| tftp_stall | block (1) | TFTP transfers hang after so many datagrams of the client |
| bad_flash | address (0x01010100) | the lowest bit of that byte of flash memory cannot be kept |
| hot_pixels | pixels ([0]), factor (30.0) | so many times the dark counts of others |
| dead_pixels | pixels ([0]) | these (numbers in packet order) never count |
| odd_baseline | pixels ([0]), counts (100) | their PH level is so much higher; adds up |
| hv_stuck | | high voltage stays as it is, whatever is commanded (and echoed) |
| needs_priming | | no PH events until PH mode was started and stopped once since the boot |
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from simulator.flash import Firmware
from simulator.monitor import Readings
from simulator.sky import PIXELS, mix

NAMES = (
    "none", "unreachable", "mute", "no_hk", "slow", "lossy", "duplicating", "reordering",
    "rebooting", "hot", "odd_hk", "wrong_firmware", "wrong_uid", "tftp_stall", "bad_flash",
    "hot_pixels", "dead_pixels", "odd_baseline", "hv_stuck", "needs_priming",
)  # fmt: skip
_PARAMETERS: dict[str, dict[str, Any]] = {
    "slow": {"delay_s": 1.0},
    "lossy": {"fraction": 0.3, "seed": 0},
    "hot": {"temp1_c": 65.0},
    "odd_hk": {"temp1_c": None, "temp2_c": None, "hvmon_v": None, "hvimon_a": None, "every": 1},
    "wrong_firmware": {"version": "0104", "time": 0x20000000},
    "wrong_uid": {"uid": "badbadbad"},
    "tftp_stall": {"block": 1},
    "bad_flash": {"address": 0x01010100},
    "hot_pixels": {"pixels": [0], "factor": 30.0},
    "dead_pixels": {"pixels": [0]},
    "odd_baseline": {"pixels": [0], "counts": 100},
}
REORDER_DELAY_S = 0.05
MALFORMED_KINDS = ("length", "acq_mode", "unknown_module", "source_mismatch")


@dataclass
class OddHk:
    """What every so-manyth HK packet, from the next one on, says instead of the truth (None)."""

    temp1_c: float | None
    temp2_c: float | None
    hvmon_v: float | None
    hvimon_a: float | None
    every: int
    _turn: int = 0

    def spoil(self, readings: Readings) -> Readings:
        """What the packet of these readings says."""
        self._turn += 1
        if (self._turn - 1) % self.every:
            return readings
        said: dict[str, Any] = {
            "temp1_c": self.temp1_c, "temp2_c": self.temp2_c, "hvimon_a": self.hvimon_a,
        }  # fmt: skip
        if self.hvmon_v is not None:
            said["volts"] = (self.hvmon_v,) * 4
        return replace(readings, **{n: value for n, value in said.items() if value is not None})


@dataclass
class Faults:
    """The faults of one quabo that are switched on."""

    unreachable: bool = False
    mute: bool = False
    no_hk: bool = False
    slow_s: float = 0.0
    loss: float = 0.0
    duplicating: bool = False
    reordering: bool = False
    hot_c: float | None = None
    odd_hk: OddHk | None = None
    firmware: Firmware | None = None
    uid: str | None = None
    tftp_stall: int | None = None
    bad_flash: int | None = None
    hot_pixels: frozenset[int] = frozenset()
    hot_factor: float = 1.0
    dead_pixels: frozenset[int] = frozenset()
    baseline_shift: dict[int, int] = field(default_factory=dict)
    hv_stuck: bool = False
    needs_priming: bool = False
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    _random: random.Random = field(default_factory=lambda: random.Random(0))
    _turn: int = 0

    def switch_on(self, name: str, parameters: dict[str, Any]) -> None:
        """Add a fault; raises ValueError naming what is wrong.  "none" ends all."""
        if name not in NAMES:
            raise ValueError(f"no fault {name!r}: one of {', '.join(NAMES)}")
        known = _PARAMETERS.get(name, {})
        for key, value in parameters.items():
            if key not in known:
                raise ValueError(f"fault {name} has no parameter {key!r}")
            if isinstance(known[key], str) != isinstance(value, str):
                raise ValueError(f"fault {name}: {key} cannot be {value!r}")
        if name == "none":
            self.__dict__.update(Faults().__dict__)
            return
        values = known | parameters
        self._apply(name, values)
        if name != "rebooting":
            self.active[name] = values

    def _apply(self, name: str, values: dict[str, Any]) -> None:
        if name in (
            "unreachable",
            "mute",
            "no_hk",
            "duplicating",
            "reordering",
            "hv_stuck",
            "needs_priming",
        ):
            setattr(self, name, True)
        elif name == "slow":
            self.slow_s = float(values["delay_s"])
        elif name == "lossy":
            self.loss = float(values["fraction"])
            self._random = random.Random(int(values["seed"]))
        elif name == "hot":
            self.hot_c = float(values["temp1_c"])
        elif name == "odd_hk":
            temp1_c, temp2_c, hvmon_v, hvimon_a = (
                None if values[key] is None else float(values[key])
                for key in ("temp1_c", "temp2_c", "hvmon_v", "hvimon_a")
            )
            self.odd_hk = OddHk(temp1_c, temp2_c, hvmon_v, hvimon_a, max(1, int(values["every"])))
        elif name == "wrong_firmware":
            self.firmware = Firmware(values["version"], int(values["time"]))
        elif name == "wrong_uid":
            self.uid = values["uid"]
        elif name == "tftp_stall":
            self.tftp_stall = int(values["block"])
        elif name == "bad_flash":
            self.bad_flash = int(values["address"])
        elif name == "hot_pixels":
            self.hot_pixels, self.hot_factor = _pixels(values), float(values["factor"])
        elif name == "dead_pixels":
            self.dead_pixels = _pixels(values)
        elif name == "odd_baseline":
            self.baseline_shift.update(dict.fromkeys(_pixels(values), int(values["counts"])))

    def hears(self) -> bool:
        """Whether a datagram to the board arrives."""
        return not self.unreachable and not self._lost()

    def _lost(self) -> bool:
        return self.loss > 0 and self._random.random() < self.loss

    def departures(self, hk: bool = False) -> list[float]:
        """When (seconds from now) the copies of an outgoing datagram leave; [] = never."""
        if self.unreachable or self.mute or (hk and self.no_hk) or self._lost():
            return []
        delay = 0.0 if hk else self.slow_s
        if self.reordering:
            self._turn += 1
            delay += REORDER_DELAY_S * (self._turn % 2)
        return [delay, delay] if self.duplicating else [delay]


def _pixels(values: dict[str, Any]) -> frozenset[int]:
    """The packet pixels in "pixels": a list, or one number."""
    given = values["pixels"]
    found = frozenset(int(pixel) for pixel in (given if isinstance(given, list) else [given]))
    if not found <= set(range(PIXELS)):
        raise ValueError(f"pixels {given} are not all within 0..{PIXELS - 1}")
    return found


@dataclass(frozen=True)
class Spoil:
    """Spoiling of a board's science packets (packet_source/streams.h).

    Fractions loss, duplicate, reorder, malformed; depth = packets that overtake a reordered
    one; kinds of malformed packets; skew_ns is added to image time stamps; late_pps_ns: so long
    into a second the nanoseconds still count on past 999999999.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    malformed: float = 0.0
    depth: int = 1
    kinds: tuple[str, ...] = MALFORMED_KINDS[:2]
    seed: int = 0
    skew_ns: int = 0
    late_pps_ns: int = 0

    def __post_init__(self) -> None:
        fractions = (self.loss, self.duplicate, self.reorder, self.malformed)
        if min(fractions) < 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions {fractions} are not within 0..1 or sum to more than 1")
        if not 1 <= self.depth <= 64:
            raise ValueError(f"depth {self.depth} is not within 1..64")
        for kind in self.kinds:
            if kind not in MALFORMED_KINDS:
                raise ValueError(f"no malformed kind {kind!r}: {', '.join(MALFORMED_KINDS)}")

    def words(self) -> str:
        """The parameters as the packet source reads them."""
        bits = sum(1 << MALFORMED_KINDS.index(kind) for kind in set(self.kinds))
        return (
            f"loss={self.loss!r} duplicate={self.duplicate!r} reorder={self.reorder!r} "
            f"malformed={self.malformed!r} depth={self.depth} kinds={bits} seed={self.seed} "
            f"skew_ns={self.skew_ns} late_pps_ns={self.late_pps_ns}"
        )


def packet_fate(spoil: Spoil, boardloc: int, stream: int, count: int) -> str:
    """What becomes of packet number `count` (all since the start of the packet source).

    One of "good", "lost", "duplicated", "reordered", "followed_by_malformed".
    """
    base = mix((spoil.seed + boardloc * 2 + stream) & 0xFFFFFFFFFFFFFFFF)
    u = (mix((base + count) & 0xFFFFFFFFFFFFFFFF) >> 32) / 4294967296.0
    limit = 0.0
    for fate, fraction in (
        ("lost", spoil.loss),
        ("duplicated", spoil.duplicate),
        ("reordered", spoil.reorder),
        ("followed_by_malformed", spoil.malformed),
    ):
        limit += fraction
        if u < limit:
            return fate
    return "good"
