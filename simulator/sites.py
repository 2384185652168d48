"""Which quabos a command directory describes: addresses, identities, calibration truth.

Only what the simulator needs is read from obs_config.json (module addresses, tftp_port); the
checks of a config are config.py's work.  Identities come from quabos/quabo_info.json (looked for
in the command directory first) where it knows the board, else they follow from its place.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseti.boards import addresses, packets
from simulator.response import Truth

REPO = Path(__file__).resolve().parent.parent


class SiteError(Exception):
    """The site cannot be simulated; the message is one line for the user."""


@dataclass(frozen=True)
class Identity:
    """One quabo: its place, its flash UID (text form) and board type, and its true calibration."""

    ip: str
    boardloc: int
    uid: str
    version: str
    truth: Truth

    @property
    def module(self) -> int:
        """Module id."""
        return self.boardloc >> 2

    @property
    def quabo(self) -> int:
        """Index 0..3 within the module."""
        return self.boardloc & 3


@dataclass(frozen=True)
class SimulatedSite:
    """All quabos of a command directory, modules in the order of its config."""

    quabos: tuple[Identity, ...]
    tftp_port: int


def uid_of(boardloc: int) -> str:
    """The flash UID of the simulated board at a place: 6a5 and, at the end, its BOARDLOC."""
    return packets.uid_text((0x06A5_0000_0000_0000 | boardloc).to_bytes(8, "little"))


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SiteError(f"{path}: {error}") from error


def _quabos_folder(config_dir: Path) -> Path:
    own = config_dir / "quabos"
    return own if own.is_dir() else REPO / "quabos"


def _truth(folder: Path, serial: str) -> Truth:
    """What the calibration file of a board says is the truth of its simulation."""
    path = folder / "detovervol_3v" / "ph" / f"quabo_calib_{serial[3:]}.json"
    if not path.is_file():
        return Truth()
    data = _load(path)
    quadrants = data["quadrants"]
    default = Truth()

    def line(name: str, missing: tuple[float, ...]) -> tuple[float, ...]:
        values = tuple(float(quadrant.get(name, 0)) for quadrant in quadrants)
        return values if all(values) else missing

    return Truth(
        image_slope=line("a", default.image_slope),
        image_pedestal=line("b", default.image_pedestal),
        ph_slope=line("ah", default.ph_slope),
        ph_pedestal=line("bh", default.ph_pedestal),
        pixel_gain=tuple(tuple(float(value) for value in column) for column in data["pixel_gain"]),
    )


def _identity(ip: str, folder: Path, known: dict[str, Any]) -> Identity:
    boardloc = addresses.boardloc(ip)
    uid = uid_of(boardloc)
    info = known.get(uid, {})
    return Identity(
        ip=ip,
        boardloc=boardloc,
        uid=uid,
        version=info.get("board_version", "qfp"),
        truth=_truth(folder, info["serialno"]) if "serialno" in info else Truth(),
    )


def read_site(config_dir: Path) -> SimulatedSite:
    """Read obs_config.json and the board files; raises SiteError with the file and the fault."""
    path = config_dir / "obs_config.json"
    config = _load(path)
    folder = _quabos_folder(config_dir)
    info_path = folder / "quabo_info.json"
    infos = _load(info_path) if info_path.is_file() else []
    known = {entry["uid"]: entry for entry in infos}
    try:
        bases = [module["ip_addr"] for dome in config["domes"] for module in dome["modules"]]
        quabos = tuple(
            _identity(addresses.quabo_ip(base, index), folder, known)
            for base in bases
            for index in range(4)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SiteError(f"{path}: not a usable list of modules: {error}") from error
    if len({quabo.boardloc for quabo in quabos}) != len(quabos):
        raise SiteError(f"{path}: two modules have the same low 10 bits of their address")
    if not quabos:
        raise SiteError(f"{path}: no modules")
    return SimulatedSite(quabos, int(config.get("tftp_port", addresses.TFTP_PORT)))


class DestinationRule:
    """Where a simulated board may send: loopback, and the network of its own test host."""

    def __init__(self, test_network: str | None = None) -> None:
        """Raises SiteError when the network is not one, or this host has a way out."""
        self.network: ipaddress.IPv4Network | None = None
        if test_network is None:
            return
        try:
            self.network = ipaddress.IPv4Network(test_network)
        except ValueError as error:
            raise SiteError(f"--test_network {test_network}: {error}") from error
        if self.network.prefixlen < 8 or self.network.is_multicast:
            raise SiteError(f"--test_network {test_network}: wider than a test host needs")
        if has_default_route():
            raise SiteError(
                f"--test_network {test_network} is refused: this host has a default route, "
                "so it is no test host; simulate on loopback addresses"
            )

    def allows(self, address: str) -> bool:
        """Whether datagrams to this address may leave."""
        target = ipaddress.IPv4Address(address)
        if self.network is None:
            return target.is_loopback
        edges = {self.network.network_address, self.network.broadcast_address}
        inside = target in self.network and (self.network.prefixlen > 30 or target not in edges)
        return target.is_loopback or inside


def has_default_route(table: Path = Path("/proc/self/net/route")) -> bool:
    """Whether this network namespace has an IPv4 default route."""
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return any(row[1] == "00000000" and row[7] == "00000000" for row in rows if len(row) > 7)
