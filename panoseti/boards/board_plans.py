"""What a board is to be told, step by step, and how it goes: pure, times and datagrams in.

A plan is a sequence of steps for one board.  A `Conversation` works through it: `act(now)` says
what to send, `receive(data, now)` takes what the board sent.  `board_link.py` has the socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from panoseti.boards import commands, maroc
from panoseti.boards.commands import Command

ECHO_TIMEOUT_S, ECHO_TRIES = 0.5, 5
# A board that does not confirm gets its next command no sooner; it may still be at work.
UNCONFIRMED_GAP_S = 0.01
# Read-backs that differ may be late answers to an earlier load; so many loads settle it.
READ_BACK_MISMATCHES = 3
TAGS_SHOWN = 4


class Reply(Enum):
    """What confirms a command.

    NONE: nothing, sent once; ECHO: the packet itself comes back; OWN: the answer of this command
    (0x07, 0x0a, 0x0c), sent once; READ_BACK: MAROC setup, loaded twice, the second shift-out must
    hold what was loaded.
    """

    NONE = "none"
    ECHO = "echo"
    OWN = "own"
    READ_BACK = "read_back"


# First byte (None = any) and length of an answer, and how long it may take: 0x07 needs 2 s, 0x0a
# up to 5 s of ARP for each of two addresses, 0x0c switches HV off and on as 0x07 does.
_OWN: dict[type, tuple[int | None, int, float]] = {
    commands.CalibratePhBaseline: (0x07, 516, 6.0),
    commands.DataDestination: (None, 12, 12.0),
    commands.ReadPhFrame: (0x87, 516, 6.0),
}


def usual_reply(command: Command) -> Reply:
    """The best confirmation there is for a command."""
    if isinstance(command, commands.MarocSetup):
        return Reply.READ_BACK
    if type(command) in _OWN:
        return Reply.OWN
    return Reply.ECHO if command.echoable else Reply.NONE


@dataclass(frozen=True)
class Send:
    """Send a command and see it confirmed.

    reply, timeout_s (for each try), tries: None = what suits the command (`usual_reply`; 0.5 s
    and 5 tries for echoes; the board's own time and one try for answers).  Commands that must
    not be repeated (0x05, 0x07, 0x0a, 0x0c, 0x20) are sent once, whatever is asked.
    go_on: silence is noted as a problem, but the rest of the plan is carried out.
    """

    command: Command
    reply: Reply | None = None
    timeout_s: float | None = None
    tries: int | None = None
    go_on: bool = False

    def __post_init__(self) -> None:
        command, name = self.command, self.command.name
        is_maroc = isinstance(command, commands.MarocSetup)
        if self.expected is Reply.READ_BACK and not is_maroc:
            raise ValueError(f"{name} cannot be read back")
        if self.expected is Reply.OWN and type(command) not in _OWN:
            raise ValueError(f"{name} has no answer of its own")
        if self.expected is Reply.ECHO and (is_maroc or command.ignores_echo_bit):
            raise ValueError(f"{name} is not echoed")
        if (self.tries is not None and self.tries < 1) or (self.timeout_s or 1.0) <= 0:
            raise ValueError(f"{name}: tries {self.tries} or timeout_s {self.timeout_s} below 1, 0")

    @property
    def expected(self) -> Reply:
        """The confirmation that is asked for."""
        return usual_reply(self.command) if self.reply is None else self.reply

    @property
    def wait_s(self) -> float:
        """How long a try may remain unanswered."""
        if self.timeout_s is not None:
            return self.timeout_s
        return _OWN[type(self.command)][2] if self.expected is Reply.OWN else ECHO_TIMEOUT_S

    @property
    def limit(self) -> int:
        """How often it may be sent; a read-back takes one more."""
        may_repeat = self.expected in (Reply.ECHO, Reply.READ_BACK) and (
            self.command.echoable or self.expected is Reply.READ_BACK
        )
        return (self.tries or ECHO_TRIES) if may_repeat else 1

    def packet(self, echo: bool) -> bytes:
        """The bytes to send; `echo` False: the board is known not to echo."""
        asked = echo and self.expected in (Reply.ECHO, Reply.READ_BACK)
        return commands.encode(self.command, echo=asked)


@dataclass(frozen=True)
class Pause:
    """Wait before the next step; `why` is for people."""

    seconds: float
    why: str = ""


Step = Send | Pause


@dataclass(frozen=True)
class Outcome:
    """How a board's plan went.

    problem: one line that begins with the board's address, None when all that can be confirmed
    was; replies: one for each step, None where there was none; unconfirmed: names of commands
    that were sent but cannot be confirmed; packets: number of datagrams sent; once_lost: a command
    that is sent only once has not been answered.
    """

    ip: str
    problem: str | None
    replies: tuple[bytes | None, ...]
    unconfirmed: tuple[str, ...] = ()
    packets: int = 0
    once_lost: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return self.problem is None


def outgoing(steps: Sequence[Step], echo: bool = True) -> list[bytes]:
    """The datagrams of a plan when nothing gets lost, in order."""
    packets = []
    for step in steps:
        if isinstance(step, Send):
            twice = echo and step.expected is Reply.READ_BACK
            packets += [step.packet(echo)] * (2 if twice else 1)
    return packets


class Conversation:
    """One board working through its plan.

    `wake_s`: when `act` is due next (any clock that only goes forward).  echo False: the board
    is known not to echo, its commands are sent once and reported as unconfirmed.
    """

    def __init__(self, ip: str, steps: Sequence[Step], echo: bool = True) -> None:
        self.ip = ip
        self.wake_s = 0.0
        self.trouble = ""  # what the network said about this board last
        self._steps = tuple(steps)
        self._echo = echo
        self._replies: list[bytes | None] = [None] * len(self._steps)
        self._problems: list[str] = []
        self._unconfirmed: list[str] = []
        self._packets = 0
        self._once_lost = False
        self._index = 0
        self._begin_step()

    def _begin_step(self) -> None:
        self._tries = 0
        self._waited_s = 0.0  # for answers to all tries
        self._asked_s = 0.0
        self._awaiting = b""
        self._loads = 0  # answers to MAROC loads of this step
        self._mismatches: list[bytes] = []
        self._pausing = False

    @property
    def done(self) -> bool:
        """Whether nothing more is to be sent or awaited."""
        return self._index >= len(self._steps)

    @property
    def step(self) -> Step:
        """The step under way."""
        return self._steps[self._index]

    def outcome(self) -> Outcome:
        """How it went so far."""
        problem = "; ".join(self._problems)
        return Outcome(
            ip=self.ip,
            problem=f"{self.ip}: {problem}" if problem else None,
            replies=tuple(self._replies),
            unconfirmed=tuple(self._unconfirmed),
            packets=self._packets,
            once_lost=self._once_lost,
        )

    def act(self, now_s: float, patience_s: float = 0.0) -> bytes | None:
        """What to send at this moment, which is not before `wake_s`; None = nothing.

        patience_s: how long to wait for the answer at least.
        """
        step = self.step
        if isinstance(step, Pause):
            if self._pausing:
                self._next(now_s)
            else:
                self._pausing, self.wake_s = True, now_s + step.seconds
            return None
        if self._tries >= step.limit or len(self._mismatches) >= READ_BACK_MISMATCHES:
            self._fail(step, now_s)
            return None
        self._tries += 1
        self._packets += 1
        packet = step.packet(self._echo)
        if step.expected is Reply.NONE or (not self._echo and step.expected is not Reply.OWN):
            self._unconfirmed.append(step.command.name)
            self._next(now_s + UNCONFIRMED_GAP_S)
            return packet
        self._awaiting = packet
        self.wake_s = now_s + max(step.wait_s, patience_s)
        self._waited_s += self.wake_s - now_s
        if self._tries == 1:
            self._asked_s = now_s
        return packet

    def waiting_s(self, now_s: float) -> float | None:
        """How long ago an answer that comes at once was first asked for; None = none is."""
        step = None if self.done or not self._awaiting else self.step
        at_once = isinstance(step, Send) and step.expected in (Reply.ECHO, Reply.READ_BACK)
        return now_s - self._asked_s if at_once else None

    def receive(self, data: bytes, now_s: float) -> bool:
        """Take a datagram of this board; False: it is not what is awaited, and is forgotten."""
        if self.done or not self._awaiting or not isinstance(self.step, Send):
            return False
        match self.step.expected:
            case Reply.ECHO:
                fits = data == self._awaiting
            case Reply.OWN:
                first, length, _ = _OWN[type(self.step.command)]
                fits = len(data) == length and first in (None, data[0])
            case _:
                return self._read_back(data, now_s)
        if fits:
            self._replies[self._index] = data
            self._next(now_s)
        return fits

    def _read_back(self, data: bytes, now_s: float) -> bool:
        """What a MAROC load shifted out: after the first load of no interest, then compared."""
        if len(data) != len(self._awaiting) or data[0] != self._awaiting[0]:
            return False
        self._loads += 1
        if self._loads == 1:
            self._tries, self._waited_s = 0, 0.0
            self._awaiting, self.wake_s = b"", now_s
            return True
        if maroc.used_bits_equal(self._awaiting, data):
            self._replies[self._index] = data
            self._next(now_s)
            return True
        # It may answer an earlier load (late, or twice): wait on, and load again at the time-out.
        self._mismatches.append(data)
        return False

    def _next(self, when_s: float) -> None:
        self._index += 1
        self.wake_s = when_s
        self._begin_step()

    def _fail(self, step: Send, now_s: float) -> None:
        name = step.command.name
        self._once_lost |= step.limit == 1
        if self._mismatches:
            tags = maroc.differing_tags(self._awaiting, self._mismatches[-1])
            more = f" and {len(tags) - TAGS_SHOWN} more" if len(tags) > TAGS_SHOWN else ""
            self._problems.append(
                f"{name} reads back wrong: {', '.join(tags[:TAGS_SHOWN])}{more};"
                " load it again, and if it stays suspect the MAROC chips or their supply"
            )
        else:
            tries = f"{self._tries} tries in " if self._tries > 1 else ""
            said = f", {self.trouble}" if self.trouble else ""
            self._problems.append(
                f"no answer to {name} ({tries}{self._waited_s:.3g} s{said});"
                " is it powered, booted and connected? Try: config.py --ping"
            )
        if step.go_on:
            self._next(now_s)
        else:
            self._index = len(self._steps)
