"""One board on the network: its sockets, its timers, and its TFTP transfers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable

from panoseti.boards import addresses
from simulator.board import Board, ImageStream, Phase, PhStream, Reply
from simulator.faults import Spoil
from simulator.sites import DestinationRule
from simulator.tftp_server import (
    TftpRefusalError,
    Transfer,
    error_packet,
    open_transfer,
    parse_request,
)

DATAGRAM_BYTES = 2048
DATAGRAMS_PER_TURN = 32
TFTP_SILENCE_S = 1.0
QUEUE_LIMIT = 64  # commands a busy board remembers
Address = tuple[str, int]


class Station:
    """A board with its sockets.  `changed` is called when its science streams may differ."""

    def __init__(
        self, board: Board, rule: DestinationRule, changed: Callable[[Station], None]
    ) -> None:
        self.board = board
        self.ip = board.identity.ip
        self.spoil = Spoil()
        self.image: ImageStream | None = None
        self.ph: PhStream | None = None
        self.resets_told = board.resets
        self.hk_datagrams = 0
        self._rule = rule
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._waiting: deque[tuple[bytes, Address]] = deque()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._owed: list[asyncio.TimerHandle] = []  # answers the board is still working on
        self._transfers: dict[Address, TftpConversation] = {}

    # --- sockets ---

    def bind(self, port: int) -> socket.socket:
        """A UDP socket on the board's address; raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind((self.ip, port))
        except OSError:
            sock.close()
            raise
        return sock

    def open(self, tftp_port: int) -> None:
        """Take the board's addresses; raises OSError whose filename is "address:port"."""
        for port, ready in (
            (addresses.COMMAND_PORT, self._commands_ready),
            (tftp_port, self._tftp_ready),
        ):
            try:
                sock = self.bind(port)
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"{self.ip}:{port}") from error
            self._sockets.append(sock)
            self._loop.add_reader(sock, ready, sock)
        self.arm("hk", self._first_hk_delay_s(), self._hk_due)

    def _first_hk_delay_s(self) -> float:
        """Boards do not all send at the same moment."""
        return self.board.times.hk_period_s * (self.board.identity.boardloc * 37 % 64) / 64

    def close(self) -> None:
        """Give the addresses back and stop every timer."""
        for timer in self._timers.values():
            timer.cancel()
        self._forget_answers()
        for transfer in list(self._transfers.values()):
            transfer.close()
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def arm(self, name: str, delay_s: float, action: Callable[[], None]) -> None:
        """Do `action` later, in place of what this name was armed with before."""
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_later(delay_s, action)

    # --- commands ---

    def _commands_ready(self, sock: socket.socket) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, sender = sock.recvfrom(DATAGRAM_BYTES)
            except (BlockingIOError, ConnectionError):
                return
            if self.board.faults.hears() and self.board.listens(self._loop.time()):
                if len(self._waiting) < QUEUE_LIMIT:
                    self._waiting.append((data, sender))
                self._work_off()

    def _work_off(self) -> None:
        """Obey what has arrived; a board that is busy does it afterwards."""
        while self._waiting:
            now = self._loop.time()
            if now < self.board.busy_until_s:
                self.arm("busy", self.board.busy_until_s - now, self._work_off)
                return
            if self._owed:  # a board answers one command before it obeys the next
                return
            data, sender = self._waiting.popleft()
            interval = self.board.hk_interval
            for reply in self.board.handle(data, now):
                self._answer(reply, sender)
            if self.board.hk_interval != interval:
                self._rearm_hk()
            self._changed(self)

    def _answer(self, reply: Reply, sender: Address) -> None:
        if reply.delay_s <= 0:
            self._let_go(reply, sender)
            return

        def due() -> None:
            self._owed.remove(timer)
            self._let_go(reply, sender)
            self._work_off()

        timer = self._loop.call_later(reply.delay_s, due)
        self._owed.append(timer)

    def _let_go(self, reply: Reply, sender: Address) -> None:
        """Give an answer to the network, which may do anything with it."""
        target = (self.board.hk_destination, addresses.HK_PORT) if reply.to_hk else sender
        for delay_s in self.board.faults.departures():
            self._send_later(delay_s, reply.data, target, reply.to_hk)

    def _forget_answers(self) -> None:
        for timer in self._owed:
            timer.cancel()
        self._owed.clear()

    def _send_later(self, delay_s: float, data: bytes, target: Address, guarded: bool) -> None:
        if delay_s > 0:
            self._loop.call_later(delay_s, self._send, data, target, guarded)
        else:
            self._send(data, target, guarded)

    def _send(self, data: bytes, target: Address, guarded: bool) -> None:
        """`guarded`: the board chose the target, not the program that asked."""
        if not self._sockets or not self.board.running():
            return
        if guarded and not self._rule.allows(target[0]):
            return
        with contextlib.suppress(OSError):  # nobody there is no fault of the board
            self._sockets[0].sendto(data, target)

    # --- housekeeping ---

    def _rearm_hk(self) -> None:
        if self.board.hk_interval:
            self.arm("hk", self.board.times.hk_period_s * self.board.hk_interval, self._hk_due)
        elif "hk" in self._timers:
            self._timers["hk"].cancel()

    def _hk_due(self) -> None:
        self._rearm_hk()
        packet = self.board.hk(self._loop.time())
        if packet is None:
            return
        target = (self.board.hk_destination, addresses.HK_PORT)
        for delay_s in self.board.faults.departures(hk=True):
            self.hk_datagrams += self._rule.allows(target[0])
            self._send_later(delay_s, packet, target, True)

    # --- boot ---

    def reconfigure(self, flash_address: int) -> None:
        """What a write to /progdev causes: the reboot begins a moment later."""

        def begin() -> None:
            self.board.reboot(flash_address, self._loop.time())
            self.boot_began()

        self.arm("reload", self.board.times.reload_s, begin)

    def boot_began(self) -> None:
        """The board is silent now: end what was under way and wait for its boot."""
        for name in ("hk", "busy", "boot", "reload"):
            if name in self._timers:
                self._timers[name].cancel()
        self._waiting.clear()
        self._forget_answers()
        for transfer in list(self._transfers.values()):
            transfer.close()
        if self.board.phase is Phase.BOOTING:
            self.arm("boot", self.board.phase_until_s - self._loop.time(), self._boot_due)
        self._changed(self)

    def _boot_due(self) -> None:
        if not self.board.advance(self._loop.time()):
            self.arm("boot", 0.001, self._boot_due)
            return
        self._hk_due()
        self._changed(self)

    # --- TFTP ---

    def _tftp_ready(self, sock: socket.socket) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, client = sock.recvfrom(DATAGRAM_BYTES)
            except (BlockingIOError, ConnectionError):
                return
            if self.board.faults.hears() and self.board.listens(self._loop.time()):
                self._tftp_request(sock, data, client)

    def _tftp_request(self, sock: socket.socket, data: bytes, client: Address) -> None:
        running = self._transfers.get(client)
        if running is not None and running.request == data:
            running.asked_again()
            return
        self.board.flash.worn = self.board.faults.bad_flash
        try:
            transfer = open_transfer(
                parse_request(data), self.board.uid, self.board.flash, self.reconfigure
            )
        except TftpRefusalError as error:
            for delay_s in self.board.faults.departures():
                packet = error_packet(error.code, str(error))
                self._loop.call_later(delay_s, self._send_error, sock, packet, client)
            return
        if running is not None:
            running.close()
        self._transfers[client] = TftpConversation(self, transfer, data, client)

    def _send_error(self, sock: socket.socket, packet: bytes, client: Address) -> None:
        if self._sockets and self.board.running():
            with contextlib.suppress(OSError):
                sock.sendto(packet, client)

    def forget_transfer(self, client: Address, which: TftpConversation) -> None:
        """A conversation is over."""
        if self._transfers.get(client) is which:
            del self._transfers[client]


class TftpConversation:
    """One transfer on a socket of its own, bound to the board's address."""

    def __init__(
        self, station: Station, transfer: Transfer, request: bytes, client: Address
    ) -> None:
        self.request = request
        self._station = station
        self._transfer = transfer
        self._client = client
        self._heard = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = station.bind(0)
        self._loop.add_reader(self._socket, self._ready)
        self._send(transfer.start())

    def asked_again(self) -> None:
        """The request has come once more: the first answer was lost, or is on its way."""
        if self._socket is not None and not self._heard:
            self._send(self._transfer.last)

    def close(self) -> None:
        """Forget the client; nothing more is sent."""
        if self._socket is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        self._station.forget_transfer(self._client, self)

    def _ready(self) -> None:
        if self._socket is None:
            return
        try:
            data, sender = self._socket.recvfrom(DATAGRAM_BYTES)
        except (BlockingIOError, ConnectionError):
            return
        faults = self._station.board.faults
        if sender != self._client or not faults.hears() or not self._station.board.running():
            return
        self._heard += 1
        if faults.tftp_stall is not None and self._heard >= faults.tftp_stall:
            return
        answer = self._transfer.receive(data)
        if answer is not None:
            self._send(answer)
        if self._transfer.done:
            # What was sent last may be delayed by a fault; the socket outlives that.
            self._wait(self._station.board.faults.slow_s + 0.2, self.close)

    def _send(self, packet: bytes) -> None:
        for delay_s in self._station.board.faults.departures():
            if delay_s > 0:
                self._loop.call_later(delay_s, self._send_now, packet)
            else:
                self._send_now(packet)
        self._wait(TFTP_SILENCE_S + self._station.board.faults.slow_s, self._silence)

    def _send_now(self, packet: bytes) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(packet, self._client)

    def _wait(self, delay_s: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, action)

    def _silence(self) -> None:
        again = self._transfer.silence()
        if again is None:
            self.close()
        else:
            self._send(again)
