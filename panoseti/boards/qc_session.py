"""A session of qc.py with one board: requests carried out, answers in words and for programs.

No config file is needed; where the command directory has configs, their source port, echo
setting, shutter value and flight recorder are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from panoseti.boards import board_tftp, packets, qc_commands
from panoseti.boards.addresses import HK_PORT, boardloc, redis_key
from panoseti.boards.board_link import LOCK_NAME, BoardLink, Outcome, Send, Step, outgoing
from panoseti.boards.commands import CalibratePhBaseline, DataDestination
from panoseti.boards.hk_socket import HkSocket, listen_addresses
from panoseti.boards.qc_commands import HK, UID, Bench, Request
from panoseti.bringup.ledger import utc_text
from panoseti.bringup.touched import note_touched
from panoseti.configs.load_configs import DAQ_CONFIG, OBS_CONFIG, Site, load_site
from panoseti.configs.site import ObsConfig
from panoseti.errors import (
    EXIT_BAD_CONFIG,
    EXIT_FAILED,
    EXIT_OK,
    BoardError,
    ConfigError,
    ObsError,
)
from panoseti.flight import FlightRecorder

HK_WAIT_S = 10.0
STORE_POLL_S = 0.1
PORT_PATIENCE_S = 10.0
ANY_ADDRESS = "0.0.0.0"
PIXELS_PER_LINE = 16


@dataclass
class Result:
    """What became of a request.

    lines: for people; answer: for programs, None when the board has none; confirmed: whether the
    board itself confirmed it; error: what went wrong; sent, received: datagrams in hex;
    exit_code: what the error means for the caller.
    """

    command: str
    lines: list[str] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    confirmed: bool = False
    error: str | None = None
    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    exit_code: int = EXIT_OK

    def fail(self, error: str, exit_code: int = EXIT_FAILED) -> None:
        """What was asked for did not happen."""
        self.error, self.exit_code = error, exit_code

    def document(self) -> dict[str, Any]:
        """For --json."""
        shown = ("command", "answer", "confirmed", "error", "sent", "received")
        return {"ok": self.error is None} | {name: getattr(self, name) for name in shown}


@dataclass(frozen=True)
class Options:
    """How to reach the board; None = as the configs say, else the usual value.

    timeout_s: for each try; echo False: the board does not echo; hk_address: where this machine
    listens for HK; config_dir: for quabo_config.txt and, if they are there, the configs;
    hv_is_meant: HV may be more than detectors usually bear.
    """

    ip: str
    config_dir: Path = Path(".")
    tftp_port: int | None = None
    source_port: int | None = None
    timeout_s: float | None = None
    echo: bool | None = None
    hk_address: str | None = None
    hv_is_meant: bool = False


class Session:
    """Requests to one board, one after the other.

    `warn` gets what an operator must know before a command is sent.
    """

    def __init__(self, options: Options, program: str, warn: Callable[[str], None]) -> None:
        self.options = options
        self._site = _site_of(options.config_dir, warn)
        self._obs = ObsConfig("", "", (), ()) if self._site is None else self._site.obs
        self._head_ip = None if self._site is None else _head_ip(self._site)
        self.bench = Bench(
            options.config_dir,
            warn,
            self._obs.shutter_open_value,
            watched=self._watched,
            hv_is_meant=options.hv_is_meant,
        )
        self._warn = warn
        at_home = self._site is not None and self._site.is_head_node_here()
        data_dir = self._site.head_data_dir if self._site is not None and at_home else None
        self.flight = FlightRecorder(data_dir, program)
        self._lock_path = None if data_dir is None else data_dir / LOCK_NAME
        self._data_dir = data_dir

    @property
    def echo(self) -> bool:
        """Whether the board is asked for echoes."""
        if self.options.echo is not None:
            return self.options.echo
        found = [m for m in self._obs.modules if any(q.ip == self.options.ip for q in m.quabos)]
        return all(module.command_echo for module in found)

    @property
    def _is_of_site(self) -> bool:
        return any(quabo.ip == self.options.ip for quabo in self._obs.quabos)

    def _watched(self) -> bool:
        """Whether a guard looks after the board's high voltage."""
        if self._data_dir is None or not self._is_of_site:
            return False
        from panoseti.bringup import session  # as the store below: only where it is needed

        return session.state(session.TEMPERATURE_GUARD, self._data_dir).works

    # --- carrying out ---

    def plan(self, request: Request) -> list[Step]:
        """The steps of a request; UsageError when a value is out of range."""
        steps = qc_commands.plan(request, self.bench)
        timeout_s = self.options.timeout_s
        if timeout_s is None:
            return steps
        return [
            replace(step, timeout_s=timeout_s) if isinstance(step, Send) else step for step in steps
        ]

    def check(self, requests: Sequence[Request]) -> None:
        """Raise what planning them raises, before anything is sent."""
        quiet = replace(self.bench, warn=lambda text: None, hv_codes=list(self.bench.hv_codes))
        for request in requests:
            qc_commands.plan(request, quiet)

    def run(self, request: Request, dry_run: bool = False) -> Result:
        """Carry out a request; what the board failed to do is in `error`.

        dry_run: only say what would be sent, if nothing got lost.
        """
        result = Result(str(request))
        if dry_run:
            result.sent = [packet.hex() for packet in outgoing(self.plan(request), self.echo)]
            if not result.sent:
                result.lines.append(request.word.text)
            return result
        try:
            if request.word is HK:
                self._hk(result)
            elif request.word is UID:
                self._uid(result)
            else:
                self._commands(request, result)
        except ObsError as error:
            if error.exit_code == EXIT_BAD_CONFIG:
                raise
            result.fail(str(error), error.exit_code)
        return result

    def _commands(self, request: Request, result: Result) -> None:
        steps = self.plan(request)

        def tap(ip: str, goes_out: bool, data: bytes) -> None:
            (result.sent if goes_out else result.received).append(data.hex())

        port = self.options.source_port
        link = BoardLink(
            source_port=self._obs.command_source_port if port is None else port,
            head_ip=self._head_ip,
            lock_path=self._lock_path,
            flight=self.flight,
            patience_s=PORT_PATIENCE_S,
            tap=tap,
        )
        ip = self.options.ip
        # Before, since qc.py may be killed; and after, since config.py may have read the first one
        # before the board has obeyed.
        self._tell_bring_up(request)
        try:
            outcome = link.run({ip: steps}, echo={ip: self.echo})[ip]
        finally:
            self._tell_bring_up(request, quietly=True)
        if not outcome.ok:
            raise BoardError(outcome.problem)
        result.confirmed = not outcome.unconfirmed
        self._explain(steps, outcome, result)

    def _tell_bring_up(self, request: Request, quietly: bool = False) -> None:
        """Note for config.py and start.py that the board is not as they have left it.

        Only of a board of the configs; at a bench there is nobody to be told.
        """
        step, ip = request.word.undoes, self.options.ip
        if step is None or not self._is_of_site:
            return
        try:
            if self._data_dir is None:
                raise ObsError("this computer is not the head node")
            why = f"set by qc.py ({request}) at {utc_text(time.time())}"
            note_touched(self._data_dir, ip, step, why)
        except ObsError as error:
            if not quietly:
                self._warn(
                    f"config.py and start.py are not told of this ({error}); afterwards, on the"
                    f" head node: config.py --redo {step} --quabo {ip}"
                )

    def _explain(self, steps: Sequence[Step], outcome: Outcome, result: Result) -> None:
        """Answers in words; echoes need none."""
        for step, reply in zip(steps, outcome.replies, strict=True):
            if not isinstance(step, Send) or reply is None:
                continue
            if isinstance(step.command, CalibratePhBaseline):
                _explain_baseline(packets.parse_ph_baseline(reply), result)
            elif isinstance(step.command, DataDestination):
                _explain_destination(step.command, reply, result)
        if result.error is None and not result.lines:
            result.lines.append("confirmed" if result.confirmed else "sent; nothing confirms it")

    def _uid(self, result: Result) -> None:
        port = self.options.tftp_port if self.options.tftp_port is not None else self._obs.tftp_port
        uid = board_tftp.get_uid(self.options.ip, port, flight=self.flight)
        result.answer, result.confirmed = {"uid": uid}, True
        result.lines.append(uid)

    # --- housekeeping ---

    def _hk(self, result: Result) -> None:
        wait_s = self.options.timeout_s or HK_WAIT_S
        try:
            opened = HkSocket(self._hk_addresses())
        except ObsError as error:
            if self._site is None:
                raise
            self._hk_from_store(result, wait_s, error)
            return
        with opened:
            data = self._hk_from_port(opened, wait_s)
        result.received.append(data.hex())
        _explain_record(packets.hk_record(packets.parse_hk(data)), result)

    def _hk_addresses(self) -> tuple[str, ...]:
        if self.options.hk_address is not None:
            return (self.options.hk_address,)
        return (ANY_ADDRESS,) if self._head_ip is None else listen_addresses(self._head_ip)

    def _hk_from_port(self, opened: HkSocket, wait_s: float) -> bytes:
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            for datagram in opened.receive(left_s):
                if datagram.source_ip != self.options.ip:
                    continue
                try:
                    packets.parse_hk(datagram.data)
                except ValueError:
                    continue  # the report of a focus move, for example
                return datagram.data
        raise BoardError(
            f"{self.options.ip}: no HK packet at {', '.join(opened.addresses)} port {HK_PORT} in"
            f" {wait_s:g} s; does the board send them here? Tell it: hk_destination ADDRESS"
        )

    def _hk_from_store(self, result: Result, wait_s: float, why: ObsError) -> None:
        """What capture_hk, which then has the port, puts into Redis next."""
        if self._site is None:
            raise why
        from panoseti.housekeeping.store import (
            Store,  # only here: it takes longer to import than all the rest
        )

        key = redis_key(boardloc(self.options.ip))
        deadline = time.monotonic() + wait_s
        with Store(self._site.obs.redis_host, self._site.obs.redis_port) as store:
            before = store.get_record(key).get("Computer_UTC")
            while time.monotonic() < deadline:
                record = store.get_record(key)
                if record and record.get("Computer_UTC") != before:
                    _explain_record(dict(record), result)
                    return
                time.sleep(STORE_POLL_S)
        raise BoardError(f"{self.options.ip}: no new HK record in {wait_s:g} s; {why}")


def _explain_record(record: dict[str, Any], result: Result) -> None:
    result.answer, result.confirmed = record, True
    result.lines += [
        f"{name:<18} {value:.6g}" if isinstance(value, float) else f"{name:<18} {value}"
        for name, value in record.items()
    ]


def _explain_baseline(values: Sequence[int], result: Result) -> None:
    result.answer = {"baseline": list(values)}
    mean = sum(values) / len(values)
    result.lines.append(
        f"PH baseline, ADC counts: mean {mean:.1f}, lowest {min(values)}, highest {max(values)}"
    )
    for start in range(0, len(values), PIXELS_PER_LINE):
        row = values[start : start + PIXELS_PER_LINE]
        result.lines.append(" ".join(f"{value:5d}" for value in row))


def _explain_destination(command: DataDestination, reply: bytes, result: Result) -> None:
    found = packets.parse_destination_reply(reply)
    macs = {"ph_mac": found.ph_mac.hex(":"), "image_mac": found.image_mac.hex(":")}
    result.answer = dict(macs)
    if not (found.ph_found and found.image_found):
        result.fail(
            f"nobody at {command.image_ip} answers the board's ARP: it will send no data;"
            " check that address and its cable"
        )
    else:
        result.lines.append(f"{command.image_ip} is at {macs['image_mac']}")


def _site_of(folder: Path, warn: Callable[[str], None]) -> Site | None:
    """The configs of the command directory; None when it has none, or none that can be used."""
    if not all((folder / name).is_file() for name in (OBS_CONFIG, DAQ_CONFIG)):
        return None
    try:
        site = load_site(folder, data_config=False)
        _head_ip(site)
    except ConfigError as error:
        warn(f"the configs in {folder} are not used: {str(error).splitlines()[0]}")
        return None
    return site


def _head_ip(site: Site) -> str:
    return site.address_of(site.daq.head_node_ip_addr)
