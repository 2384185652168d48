"""Commands to quabos: one UDP socket, any number of boards at once.

    with open_link(site, flight) as link:
        outcomes = link.run({"192.168.3.248": [Send(commands.Reset()), Pause(1, "settle")], ...})

Each board works through its own plan (`board_plans`); an answer counts when it comes from the
board's address *and* has the content that is awaited.  A silent board costs its own time-outs and
nobody else's; where all boards are slow to answer, packets are repeated later.

The socket is opened for each run, so that no late answer of another run is met; with a fixed source
port (boards before firmware v20) it is held for that run only, under a lock.
"""

from __future__ import annotations

import errno
import heapq
import select
import socket
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from panoseti.boards.addresses import COMMAND_PORT
from panoseti.boards.board_plans import Conversation, Outcome, Pause, Reply, Send, Step, outgoing
from panoseti.boards.port_lock import turn, who_holds_udp
from panoseti.configs.load_configs import Site
from panoseti.configs.site import CommandPacing
from panoseti.errors import ObsError, RefusedError
from panoseti.flight import FlightRecorder

__all__ = [
    "BoardLink", "Outcome", "Pause", "Reply", "Send", "Step", "open_link", "outgoing",
]  # fmt: skip

LOCK_NAME = "command_port.lock"
# All boards there can be; the packet rate alone keeps switches and buffers from overflowing.
BOARDS_AT_ONCE = CommandPacing.boards_at_once
PACKETS_PER_MS = CommandPacing.packets_per_ms
BURST_PACKETS = 8
RECEIVE_BUFFER_BYTES = 4 << 20
LARGEST_DATAGRAM = 2048
DATAGRAMS_PER_TURN = 256
# An urgent batch (HV off) waits so long for the fixed port, then takes any other.
URGENT_PATIENCE_S = 2.0
PATIENCE_S = 60.0
BIND_PATIENCE_S = 2.0
SEND_BUFFER_WAIT_MS = 100
# An answer is awaited for so many times what answers take at present, but no longer than that.
ANSWER_TIMES, LONGEST_WAIT_S = 2.0, 5.0
ANSWERS_AVERAGED = 16

Tap = Callable[[str, bool, bytes], None]
"""Told of each datagram: board, whether it goes out, bytes."""


class BoardLink:
    """Sends plans to boards.

    source_port: 0 = any, else it is bound to `head_ip` (None = the address that faces the boards)
    for one run at a time, under the lock at `lock_path` (None = no lock).  priority: for HV off
    and the end of a recording; served before others that wait, and after 2 s sent from any port,
    since these must not wait for anybody (answers to the fixed port are then lost, and reported as
    silence).
    boards_at_once, packets_per_ms: bounds of the traffic.  tap: sees every datagram.
    """

    def __init__(
        self,
        source_port: int = 0,
        head_ip: str | None = None,
        lock_path: Path | None = None,
        flight: FlightRecorder | None = None,
        priority: bool = False,
        boards_at_once: int = BOARDS_AT_ONCE,
        packets_per_ms: float = PACKETS_PER_MS,
        patience_s: float | None = None,
        tap: Tap | None = None,
    ) -> None:
        if boards_at_once < 1 or packets_per_ms <= 0:
            raise ValueError(f"boards_at_once {boards_at_once}, packets_per_ms {packets_per_ms}")
        self._source_port = source_port
        self._head_ip = head_ip
        self._lock_path = lock_path
        self._flight = flight
        self._priority = priority
        self._boards_at_once = boards_at_once
        self._packets_per_ms = packets_per_ms
        self._patience_s = patience_s or (URGENT_PATIENCE_S if priority else PATIENCE_S)
        self._bind_patience_s = min(self._patience_s, BIND_PATIENCE_S)
        self._tap = tap

    def __enter__(self) -> BoardLink:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: each run gives back what it took."""

    def run(
        self,
        plans: Mapping[str, Sequence[Step]],
        echo: Mapping[str, bool] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> dict[str, Outcome]:
        """Carry out a plan for each board, all at once; what became of each, in that order.

        echo: boards known not to echo are False; progress: called with a board's address when
        its plan has ended.  A board that fails is an Outcome with a problem; ObsError (before
        anything is sent) when the fixed port cannot be had.
        """
        conversations = [
            Conversation(ip, steps, (echo or {}).get(ip, True)) for ip, steps in plans.items()
        ]
        if conversations:
            with self._opened(conversations[0].ip) as opened:
                _Batch(
                    opened,
                    conversations,
                    _Pace(self._packets_per_ms),
                    _AnswerTime(self._priority),
                    self._boards_at_once,
                    self._sent,
                    self._tap,
                    lambda talk: self._ended(talk, progress),
                ).run()
        return {talk.ip: talk.outcome() for talk in conversations}

    # --- records ---

    def _sent(self, ip: str, name: str, packet: bytes) -> None:
        if self._tap is not None:
            self._tap(ip, True, packet)
        if self._flight is None:
            return
        if len(packet) <= 64:
            self._flight.note("send", board=ip, command=name, hex=packet.rstrip(b"\0").hex())
        else:
            crc = f"{zlib.crc32(packet):08x}"
            self._flight.note("send", board=ip, command=name, bytes=len(packet), crc32=crc)

    def _ended(self, talk: Conversation, progress: Callable[[str], None] | None) -> None:
        outcome = talk.outcome()
        if self._flight is not None and outcome.problem:
            self._flight.note("board_problem", board=talk.ip, problem=outcome.problem)
        if progress is not None:
            progress(talk.ip)

    # --- the socket ---

    @contextmanager
    def _opened(self, some_board: str) -> Iterator[socket.socket]:
        if not self._source_port:
            with _socket() as opened:
                yield opened
            return
        with self._fixed_port(some_board) as opened:
            yield opened

    @contextmanager
    def _fixed_port(self, some_board: str) -> Iterator[socket.socket]:
        """The fixed port while its turn lasts; for an urgent batch, in the end, any other.

        Whatever is wrong (port or lock held, disk read-only, address gone) costs an urgent batch
        no more than its answers.
        """
        with ExitStack() as held:
            try:
                address = self._head_ip or own_address_towards(some_board)
                if self._lock_path is not None:
                    held.enter_context(turn(self._lock_path, self._priority, self._patience_s))
                opened = held.enter_context(_socket())
                self._bind(opened, address)
            except ObsError as error:
                if not self._priority:
                    raise
                if self._flight is not None:
                    self._flight.note("urgent_from_any_port", why=str(error))
                opened = held.enter_context(_socket())
            yield opened

    def _bind(self, opened: socket.socket, address: str) -> None:
        deadline = time.monotonic() + self._bind_patience_s
        while True:
            try:
                opened.bind((address, self._source_port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise self._cannot_bind(address, error) from error
            time.sleep(0.02)

    def _cannot_bind(self, address: str, error: OSError) -> ObsError:
        where = f"command port {address}:{self._source_port}"
        if error.errno == errno.EADDRINUSE:
            holder = who_holds_udp(address, self._source_port)
            return RefusedError(f"{where}: held by {holder}; wait until it has ended, or end it")
        if error.errno == errno.EADDRNOTAVAIL:
            return ObsError(
                f"{where}: not an address of this machine; correct head_node_ip_addr in"
                " daq_config.json"
            )
        return ObsError(f"{where}: {error.strerror}; correct command_source_port in obs_config")


def _socket() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    return opened


def own_address_towards(ip: str) -> str:
    """The address of this machine that packets to `ip` leave from; ObsError without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, COMMAND_PORT))
        except OSError as error:
            raise ObsError(f"{ip}: {error.strerror}; check the network of this machine") from error
        address: str = probe.getsockname()[0]
        return address


def open_link(
    site: Site,
    flight: FlightRecorder | None = None,
    priority: bool = False,
    patience_s: float | None = None,
) -> BoardLink:
    """The link as the configs of a site want it; patience_s: for a fixed port, None = usual.

    ConfigError when the head node's name does not resolve and there is a fixed port; where priority
    is asked for, the address that faces the boards does instead.
    """
    port, pacing = site.obs.command_source_port, site.obs.command_pacing
    head = site.daq.head_node_ip_addr
    head_ip = None
    if port:
        head_ip = site.addresses.get(head) if priority else site.address_of(head)
    return BoardLink(
        source_port=port,
        head_ip=head_ip,
        lock_path=site.head_data_dir / LOCK_NAME if port else None,
        flight=flight,
        priority=priority,
        patience_s=patience_s,
        boards_at_once=pacing.boards_at_once,
        packets_per_ms=pacing.packets_per_ms,
    )


class _Pace:
    """Lets so many packets through per millisecond, a few at a time."""

    def __init__(self, packets_per_ms: float) -> None:
        self._gap_s = 1e-3 / packets_per_ms
        self.free_s = 0.0

    def take(self, now_s: float) -> bool:
        """Whether a packet may go now; it then counts."""
        self.free_s = max(self.free_s, now_s - BURST_PACKETS * self._gap_s)
        if self.free_s > now_s:
            return False
        self.free_s += self._gap_s
        return True


class _AnswerTime:
    """How long answers take at present.

    When those of all boards are late, the network or this machine is busy, and packets that are
    repeated too early would only add to it.  What is `urgent` is repeated all the same.
    """

    def __init__(self, urgent: bool) -> None:
        self._urgent = urgent
        self._mean_s = 0.0

    def note(self, seconds: float) -> None:
        """An answer has come."""
        self._mean_s += (seconds - self._mean_s) / ANSWERS_AVERAGED

    @property
    def patience_s(self) -> float:
        """How long an answer should be awaited at least."""
        return 0.0 if self._urgent else min(LONGEST_WAIT_S, ANSWER_TIMES * self._mean_s)


class _Batch:
    """The event loop of one run: receive, send what is due, wait."""

    def __init__(
        self,
        opened: socket.socket,
        conversations: Sequence[Conversation],
        pace: _Pace,
        answer_time: _AnswerTime,
        boards_at_once: int,
        sent: Callable[[str, str, bytes], None],
        tap: Tap | None,
        ended: Callable[[Conversation], None],
    ) -> None:
        self._socket = opened
        self._poll = select.poll()
        self._poll.register(opened, select.POLLIN)
        self._by_ip = {talk.ip: talk for talk in conversations}
        self._waiting = deque(conversations)
        self._due: list[tuple[float, int, Conversation]] = []
        self._order = 0
        self._active = 0
        self._pace = pace
        self._answer_time = answer_time
        self._boards_at_once = boards_at_once
        self._sent, self._tap, self._ended = sent, tap, ended

    def run(self) -> None:
        """Until every plan has ended."""
        while self._waiting or self._active:
            while self._waiting and self._active < self._boards_at_once:
                self._active += 1
                self._later(self._waiting.popleft())
            self._receive()
            self._send_due()
            if self._active:
                self._wait()

    def _later(self, talk: Conversation) -> None:
        """See to a board again at its time, or take leave of it."""
        if talk.done:
            self._active -= 1
            self._ended(talk)
            return
        self._order += 1
        heapq.heappush(self._due, (talk.wake_s, self._order, talk))

    def _receive(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, (ip, port) = self._socket.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of some board; its own time-out tells
            talk = self._by_ip.get(ip)
            if talk is None or port != COMMAND_PORT:
                continue
            if self._tap is not None:
                self._tap(ip, False, data)
            now = time.monotonic()
            waiting_s = talk.waiting_s(now)
            if not talk.done and talk.receive(data, now):
                if waiting_s is not None:
                    self._answer_time.note(waiting_s)
                self._later(talk)

    def _send_due(self) -> None:
        while self._due:
            now = time.monotonic()
            wake_s, _, talk = self._due[0]
            if talk.done or wake_s != talk.wake_s:
                heapq.heappop(self._due)  # an answer came in the meantime
                continue
            if wake_s > now or not self._pace.take(now):
                return
            heapq.heappop(self._due)
            step = talk.step
            packet = talk.act(now, self._answer_time.patience_s)
            if packet is not None and isinstance(step, Send):
                self._transmit(talk, step.command.name, packet)
            self._later(talk)

    def _transmit(self, talk: Conversation, name: str, packet: bytes) -> None:
        """Send; what goes wrong here concerns this board alone and counts as a lost packet."""
        self._sent(talk.ip, name, packet)
        try:
            try:
                self._socket.sendto(packet, (talk.ip, COMMAND_PORT))
            except BlockingIOError:  # the socket's buffer is full for a moment
                room = select.poll()
                room.register(self._socket, select.POLLOUT)
                room.poll(SEND_BUFFER_WAIT_MS)
                self._socket.sendto(packet, (talk.ip, COMMAND_PORT))
        except OSError as error:
            talk.trouble = error.strerror or str(error)

    def _wait(self) -> None:
        """Until a datagram comes or something is due."""
        next_s = self._due[0][0] if self._due else time.monotonic()
        delay_s = max(next_s, self._pace.free_s) - time.monotonic()
        if delay_s > 0:
            self._poll.poll(delay_s * 1000)
