"""Seeing the housekeeping of boards, whoever holds the HK port.

While capture_hk runs, its records and boot notes in Redis are looked at; else the port is bound
here.  A context manager either way:

    with open_watch(site) as watch:
        watch.look(0.5)
        watch.boots["192.168.3.248"].utc_s
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from panoseti.boards.addresses import FOCUS_QUABO, boardloc, redis_key
from panoseti.boards.hk_socket import HkSocket, listen_addresses
from panoseti.boards.packets import FocusReport, HkPacket, hk_record
from panoseti.bringup import session
from panoseti.configs.load_configs import Site
from panoseti.configs.site import Quabo
from panoseti.housekeeping.housekeeping import judge_datagram
from panoseti.housekeeping.store import TIME_FIELD, FocusNote, Store

POLL_S = 0.1
HVMON = tuple(f"HVMON{chip}" for chip in range(4))
HVIMON = tuple(f"HVIMON{chip}" for chip in range(4))
FIELDS = (TIME_FIELD, "FWVER", "FWTIME", *HVMON, *HVIMON, "SHUTTER_STATUS", "PCBREV_N")


@dataclass(frozen=True)
class Firmware:
    """What an HK packet says a board runs: version such as "0208", build time as "0x%08x"."""

    version: str
    built: str


@dataclass(frozen=True)
class Boot:
    """The first HK packet of a board after a boot: Unix time of its arrival, firmware."""

    utc_s: float
    firmware: Firmware


@dataclass(frozen=True)
class Shown:
    """What an HK packet shows: Unix time of its arrival, magnitudes of the bias of the four
    detectors in V, the currents of their supplies in A, SHUTTER_STATUS, PCBREV_N.
    """

    utc_s: float
    hv_v: tuple[float, ...]
    hv_a: tuple[float, ...]
    shutter_status: int
    pcbrev_n: int


def shown_in(record: Mapping[str, object]) -> Shown | None:
    """What a record shows; None when it lacks something."""
    try:
        return Shown(
            utc_s=float(str(record[TIME_FIELD])),
            hv_v=tuple(abs(float(str(record[name]))) for name in HVMON),
            hv_a=tuple(float(str(record[name])) for name in HVIMON),
            shutter_status=int(str(record["SHUTTER_STATUS"])),
            pcbrev_n=int(str(record["PCBREV_N"])),
        )
    except (KeyError, ValueError):
        return None


class HkWatch(Protocol):
    """What has been seen so far, by board address.

    boots: the latest boot packet; heard: Unix time of the latest HK packet of any kind; shown,
    firmware: what that one says; focus: the latest report of its focus stage.
    """

    boots: dict[str, Boot]
    heard: dict[str, float]
    firmware: dict[str, Firmware]
    shown: dict[str, Shown]
    focus: dict[str, FocusNote]

    def __enter__(self) -> HkWatch: ...
    def __exit__(self, *_: object) -> None: ...
    def look(self, timeout_s: float) -> None:
        """Take in what there is; waits up to `timeout_s` for news."""


class PortWatch:
    """Listens on the HK port itself.  ObsError when another program holds it."""

    def __init__(self, head_ip: str, boards: Iterable[Quabo]) -> None:
        self.boots: dict[str, Boot] = {}
        self.heard: dict[str, float] = {}
        self.firmware: dict[str, Firmware] = {}
        self.shown: dict[str, Shown] = {}
        self.focus: dict[str, FocusNote] = {}
        self._by_boardloc = {quabo.boardloc: quabo.ip for quabo in boards}
        self._known = frozenset(self._by_boardloc)
        self._socket = HkSocket(listen_addresses(head_ip))

    def __enter__(self) -> PortWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def look(self, timeout_s: float) -> None:
        """Take in the packets that have arrived, or the first one that comes."""
        for datagram in self._socket.receive(timeout_s):
            packet = judge_datagram(datagram, self._known)
            if isinstance(packet, FocusReport):
                ip = self._by_boardloc[boardloc(datagram.source_ip)]
                self.focus[ip] = FocusNote(datagram.utc_s, packet)
            if not isinstance(packet, HkPacket):
                continue
            ip = self._by_boardloc[packet.boardloc]
            firmware = Firmware(packet.fwver, f"0x{packet.fwtime:08x}")
            self.heard[ip], self.firmware[ip] = datagram.utc_s, firmware
            shown = shown_in({TIME_FIELD: datagram.utc_s, **hk_record(packet)})
            if shown is not None:
                self.shown[ip] = shown
            if packet.boot:
                self.boots[ip] = Boot(datagram.utc_s, firmware)


class StoreWatch:
    """Looks at what capture_hk keeps in Redis.  StoreError when Redis cannot be reached."""

    def __init__(self, store: Store, boards: Iterable[Quabo]) -> None:
        self.boots: dict[str, Boot] = {}
        self.heard: dict[str, float] = {}
        self.firmware: dict[str, Firmware] = {}
        self.shown: dict[str, Shown] = {}
        self.focus: dict[str, FocusNote] = {}
        self._store = store
        self._boards = tuple(boards)

    def __enter__(self) -> StoreWatch:
        self.look(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def look(self, timeout_s: float) -> None:
        """Read notes and records, after a pause in which they may change."""
        time.sleep(min(timeout_s, POLL_S))
        notes = self._store.boot_notes([quabo.boardloc for quabo in self._boards])
        keys = [redis_key(quabo.boardloc) for quabo in self._boards]
        records = self._store.get_records(keys, FIELDS)
        stages = [quabo for quabo in self._boards if quabo.index == FOCUS_QUABO]
        reports = self._store.focus_notes([quabo.boardloc for quabo in stages])
        self.focus = {q.ip: reports[q.boardloc] for q in stages if q.boardloc in reports}
        for quabo in self._boards:
            if (note := notes.get(quabo.boardloc)) is not None:
                firmware = Firmware(note.firmware_version, note.firmware_time)
                self.boots[quabo.ip] = Boot(note.utc_s, firmware)
            record = records.get(redis_key(quabo.boardloc), {})
            try:
                self.heard[quabo.ip] = float(record[TIME_FIELD])
            except (KeyError, ValueError):
                continue
            self.firmware[quabo.ip] = Firmware(record.get("FWVER", ""), record.get("FWTIME", ""))
            shown = shown_in(record)
            if shown is not None:
                self.shown[quabo.ip] = shown


def open_watch(site: Site, boards: Iterable[Quabo] | None = None) -> HkWatch:
    """A watch over boards (None = all of the site): Redis while capture_hk runs, else the port."""
    watched = site.obs.quabos if boards is None else tuple(boards)
    capturing = session.process(session.CAPTURE_HK, site.head_data_dir) is not None
    if capturing or session.elsewhere(site, [session.CAPTURE_HK]):
        return StoreWatch(Store(site.obs.redis_host, site.obs.redis_port), watched)
    return PortWatch(site.address_of(site.daq.head_node_ip_addr), watched)


def wait_heard(
    watch: HkWatch,
    ips: Iterable[str],
    since_unix: float,
    timeout_s: float,
    heard: Callable[[str], None] = lambda ip: None,
) -> set[str]:
    """Wait until each of the boards was heard after a Unix time; those that were not.

    heard: called for each board when it is.
    """
    missing = set(ips)
    deadline = time.monotonic() + timeout_s
    while True:
        for ip in sorted(missing):
            if watch.heard.get(ip, 0.0) >= since_unix:
                missing.discard(ip)
                heard(ip)
        left_s = deadline - time.monotonic()
        if not missing or left_s <= 0:
            return missing
        watch.look(min(left_s, 0.5))


def wait_shown(
    watch: HkWatch,
    ips: Iterable[str],
    since_unix: float,
    timeout_s: float,
    wanted: Callable[[str, Shown], bool],
    seen: Callable[[str], None] = lambda ip: None,
) -> dict[str, Shown | None]:
    """Wait until a packet of each board that came after a Unix time shows what is wanted of it.

    seen: called for each board whose packet does.  The boards of which none did, with what they
    show instead; None = nothing has come.
    """
    missing = list(ips)
    deadline = time.monotonic() + timeout_s
    while True:
        fresh = {ip: shown for ip, shown in watch.shown.items() if shown.utc_s >= since_unix}
        left = [ip for ip in missing if ip not in fresh or not wanted(ip, fresh[ip])]
        for ip in missing:
            if ip not in left:
                seen(ip)
        missing = left
        left_s = deadline - time.monotonic()
        if not missing or left_s <= 0:
            return {ip: fresh.get(ip) for ip in missing}
        watch.look(min(left_s, 0.5))


def wait_focus(
    watch: HkWatch, ips: Iterable[str], since_unix: float, timeout_s: float
) -> dict[str, FocusReport]:
    """Wait for reports of focus stages that come after a Unix time; those that did."""
    missing = set(ips)
    deadline = time.monotonic() + timeout_s
    while True:
        fresh = {ip: note for ip, note in watch.focus.items() if note.utc_s >= since_unix}
        left_s = deadline - time.monotonic()
        if missing <= fresh.keys() or left_s <= 0:
            return {ip: fresh[ip].report for ip in missing & fresh.keys()}
        watch.look(min(left_s, 0.5))
