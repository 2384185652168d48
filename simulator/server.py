"""The simulated observatory at work: all boards, the packet source, requests, start and end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import sys
from typing import Any

from simulator.board import Board, Times
from simulator.client import READY_NAME
from simulator.control import Control, ControlError, select
from simulator.faults import Spoil
from simulator.options import Options
from simulator.sites import DestinationRule, SimulatedSite, SiteError, read_site
from simulator.source import PacketSource, SourceError
from simulator.station import Station

BIND_TRIES, BIND_PAUSE_S = 10, 0.1
FILES_PER_BOARD, SPARE_FILES = 4, 64
# What a thousand boards send next takes seconds to work out; they answer in between.
REFRESH_TURN_S = 0.003


class Observatory:
    """All boards of a site, with everything that connects them."""

    def __init__(self, site: SimulatedSite, options: Options, rule: DestinationRule) -> None:
        self._options = options
        self._tftp_port = options.tftp_port or site.tftp_port
        self._rule = rule
        self._source: PacketSource | None = None
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        times = Times.scaled(options.time_scale, options.boot_time_s, options.hk_period_s)
        self.stations: dict[str, Station] = {}
        for identity in site.quabos:
            board = Board(identity, times, rule.allows, options.power_on_destination)
            if options.silver:
                board.start_in_silver()
            self.stations[identity.ip] = Station(board, rule, self.changed)
        self._by_boardloc = {
            station.board.identity.boardloc: station for station in self.stations.values()
        }
        self._shutters = {
            station.board.identity.module: station.board.shutter_open
            for station in self.stations.values()
        }
        self._stale: dict[str, Station] = {}
        self._refreshing = False

    async def open(self) -> None:
        """Take all addresses and start the packet source; raises SiteError or SourceError."""
        _allow_files(FILES_PER_BOARD * len(self.stations) + SPARE_FILES)
        for station in self.stations.values():
            await self._open_station(station)
        self._source = await PacketSource.start(self._options.test_network)
        for ip, station in self.stations.items():
            self._source.add_board(ip, station.board.identity.boardloc)
            self.refresh(station)
        await self._source.sync()
        for text in self._options.faults:
            self.switch_fault(*_parse_fault(text))

    async def _open_station(self, station: Station) -> None:
        """Bind a board's ports; a port another program borrowed for a moment is waited for."""
        for trial in range(BIND_TRIES):
            try:
                station.open(self._tftp_port)
                return
            except OSError as error:
                station.close()
                if error.errno != errno.EADDRINUSE or trial == BIND_TRIES - 1:
                    raise SiteError(_explain_bind(error)) from error
            await asyncio.sleep(BIND_PAUSE_S)

    async def close(self) -> None:
        """End the packet source and give all addresses back."""
        self._stale.clear()
        for station in self.stations.values():
            station.close()
        if self._source is not None:
            await self._source.quit()

    async def wait(self) -> None:
        """Until somebody asks to end; raises SourceError when the packet source dies."""
        if self._source is None:
            raise SourceError("the packet source was not started")
        ended = asyncio.create_task(self.ended.wait())
        died = asyncio.create_task(self._source.died())
        await asyncio.wait((ended, died), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            ended.cancel()
            raise SourceError(
                f"the packet source died: {self._source.stderr_text or died.result()}"
            )
        died.cancel()

    # --- science streams ---

    def changed(self, station: Station) -> None:
        """The board's streams may differ from now on; answers of boards go before that."""
        self._stale[station.ip] = station
        if not self._refreshing:
            self._refreshing = True
            self._loop.call_soon(self._refresh_some)

    def _refresh_some(self) -> None:
        self._refresh_stale(self._loop.time() + REFRESH_TURN_S)
        self._refreshing = bool(self._stale)
        if self._refreshing:
            self._loop.call_soon(self._refresh_some)

    def _refresh_stale(self, until_s: float | None = None) -> None:
        """Refresh boards that have changed, in their order, until they are done or it is time."""
        while self._stale and (until_s is None or self._loop.time() < until_s):
            self.refresh(self._stale.pop(next(iter(self._stale))))

    def refresh(self, station: Station) -> None:
        """Bring the packet source up to the board's present settings."""
        module = station.board.identity.module
        shutter_open = self._module_shutter(module)
        if self._shutters[module] != shutter_open:
            self._shutters[module] = shutter_open
            for quabo in range(4):
                if sibling := self._by_boardloc.get(4 * module + quabo):
                    self._refresh_streams(sibling, shutter_open)
        self._refresh_streams(station, shutter_open)

    def _module_shutter(self, module: int) -> bool:
        """Quabo 1 drives the shutter of the whole module."""
        driver = self._by_boardloc.get(4 * module + 1)
        return driver is not None and driver.board.shutter_open

    def _refresh_streams(self, station: Station, shutter_open: bool) -> None:
        if self._source is None:
            return
        now = self._loop.time()
        image, ph = station.board.streams(now, shutter_open)
        if station.board.resets != station.resets_told:
            station.resets_told = station.board.resets
            self._source.reset_numbers(station.ip)
        if image != station.image:
            self._source.image(station.ip, station.image, image)
            station.image = image
        if ph != station.ph:
            self._source.ph(station.ip, station.ph, ph)
            station.ph = ph
        again = station.board.next_change_s(now)
        if again is not None:
            station.arm("change", max(0.001, again - now), lambda: self.changed(station))

    # --- requests ---

    async def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Serve one request of the control socket; raises ControlError or ValueError."""
        fields = dict(request)
        what = fields.pop("do", None)
        self._refresh_stale()
        if what == "quit":
            self._loop.call_later(0.05, self.ended.set)
            return {}
        quabo = fields.pop("quabo", "all")
        if what == "state":
            return await self.state(quabo, tables=bool(fields.pop("tables", True)))
        if what == "fault":
            self.switch_fault(quabo, str(fields.pop("fault", "")), fields)
        elif what == "science":
            self._spoil(quabo, fields)
        elif what == "set":
            self._set(quabo, fields)
        elif what == "power":
            self._power(quabo, bool(fields.pop("on")))
        else:
            raise ControlError(f"no request {what!r}: state, fault, science, set, power, quit")
        if self._source is not None:
            await self._source.sync()
        return {}

    def _chosen(self, quabo: object) -> list[Station]:
        return [self.stations[ip] for ip in select(self.stations, quabo)]

    def switch_fault(self, quabo: object, name: str, parameters: dict[str, Any]) -> None:
        """Make boards misbehave; raises ControlError or ValueError."""
        for station in self._chosen(quabo):
            station.board.faults.switch_on(name, parameters)
            self._tell_spoil(station, Spoil() if name == "none" else station.spoil)
            if name == "rebooting":
                station.board.reboot_by_itself(self._loop.time())
                station.boot_began()
            self.refresh(station)

    def _tell_spoil(self, station: Station, spoil: Spoil) -> None:
        station.spoil = spoil
        # The packets of an unplugged board are made, and numbered, but all get lost.
        cut = station.board.faults.unreachable
        if self._source is not None:
            self._source.spoil(station.ip, Spoil(loss=1.0) if cut else spoil)

    def _spoil(self, quabo: object, fields: dict[str, Any]) -> None:
        if "kinds" in fields:
            fields["kinds"] = tuple(fields["kinds"])
        spoil = Spoil(**fields)
        for station in self._chosen(quabo):
            self._tell_spoil(station, spoil)

    def _set(self, quabo: object, fields: dict[str, Any]) -> None:
        kinds = {"temp1_c": float, "temp2_c": float, "light": bool}
        for name in fields:
            if name not in kinds:
                raise ControlError(f"cannot set {name!r}: {', '.join(kinds)}")
        for station in self._chosen(quabo):
            for name, value in fields.items():
                setattr(station.board, name, kinds[name](value))

    def _power(self, quabo: object, on: bool) -> None:
        for station in self._chosen(quabo):
            station.board.power(on, self._loop.time())
            station.boot_began()

    async def state(self, quabo: object, tables: bool) -> dict[str, Any]:
        """Registers of boards, and what exactly they have sent."""
        if self._source is None:
            raise ControlError("the packet source is not running")
        chosen = self._chosen(quabo)
        totals = await self._source.counters()
        now = self._loop.time()
        boards = {}
        for station in chosen:
            accounts = self._source.accounts.get(station.ip, {})
            boards[station.ip] = station.board.describe(now) | {
                "hk_datagrams": station.hk_datagrams,
                "science": {kind: accounts.get(kind) for kind in ("image", "ph")},
                "streams": {
                    "image": _stream_fields(station.image, tables),
                    "ph": _stream_fields(station.ph, tables),
                },
                "spoil": vars(station.spoil),
            }
        return {
            "boards": boards,
            "time_scale": self._options.time_scale,
            "tftp_port": self._tftp_port,
            "max_lag_ns": totals["max_lag_ns"],
            "source_errors": self._source.errors,
        }


def _stream_fields(stream: object, tables: bool) -> dict[str, Any] | None:
    """A stream as JSON; `tables` False leaves the 256 values of each table out."""
    if stream is None:
        return None
    return {
        name: value
        for name, value in vars(stream).items()
        if tables or not isinstance(value, tuple)
    }


def _parse_fault(text: str) -> tuple[str, str, dict[str, Any]]:
    """QUABO=FAULT[,key=value...] of the command line; raises SiteError."""
    quabo, _, rest = text.partition("=")
    name, *pairs = rest.split(",")
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SiteError(f"--fault {text}: expected QUABO=FAULT[,key=value...]")
        try:
            parameters[key] = json.loads(value)
        except ValueError:
            parameters[key] = value
    return quabo, name, parameters


def _explain_bind(error: OSError) -> str:
    where = error.filename
    remedy = {
        errno.EADDRINUSE: "another simulator runs on this address, or a program holds the port: "
        "end it, or use other addresses in obs_config.json",
        errno.EACCES: "ports below 1024 are for root: set tftp_port in obs_config.json "
        "(for example 6969)",
        errno.EADDRNOTAVAIL: "not an address of this machine: simulate on 127.x.y.z, "
        "or inside a test host that has the address",
    }.get(error.errno or 0, "")
    return f"cannot bind {where}: {error.strerror}: {remedy}".rstrip(": ")


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files as far as needed; raises SiteError when not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SiteError(f"{wanted} open files are needed, the limit is {hard}: ulimit -n {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(options: Options) -> None:
    """Run until asked to end; raises SiteError, SourceError or ControlError."""
    rule = DestinationRule(options.test_network)
    site = read_site(options.config_dir)
    for identity in site.quabos:
        if not rule.allows(identity.ip):
            raise SiteError(
                f"{options.config_dir / 'obs_config.json'}: board {identity.ip} is neither on "
                "loopback (127.x.y.z) nor inside --test_network: real boards are not simulated"
            )
    options.state_dir.mkdir(parents=True, exist_ok=True)
    observatory = Observatory(site, options, rule)
    control = Control(options.state_dir, observatory.request)
    ready = options.state_dir / READY_NAME
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, observatory.ended.set)
    try:
        await control.open()
        await observatory.open()
        ready.write_text(f"{os.getpid()}\n")
        print("ready", flush=True)
        try:
            await observatory.wait()
        finally:
            ready.unlink(missing_ok=True)
    finally:
        control.close()
        await observatory.close()


def run(options: Options) -> int:
    """Simulate until told to end; 0 then, 1 (and one line that says why) when it could not."""
    try:
        asyncio.run(serve(options))
    except (SiteError, SourceError, ControlError, ValueError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    return 0
