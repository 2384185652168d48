"""The C packet source as the Python side sees it: settings in, exact accounts out."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panoseti.boards import addresses
from simulator.board import ImageStream, PhStream
from simulator.faults import Spoil

PROGRAM = Path(__file__).resolve().parent / "packet_source" / "packet_source"
LINE_LIMIT_BYTES = 1 << 20
ANSWER_TIMEOUT_S = 20.0


class SourceError(Exception):
    """The packet source is not there, ended, or refused a command."""


def _table(values: Sequence[int], code: str) -> str:
    return struct.pack(f"<{len(values)}{code}", *values).hex()


class PacketSource:
    """One running packet source; every coroutine raises SourceError when it has ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lock = asyncio.Lock()
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())
        self.accounts: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        self.stderr_text = ""

    @classmethod
    async def start(cls, network: str | None = None) -> PacketSource:
        """Start the program; it may send to loopback and into `network` (CIDR)."""
        if not PROGRAM.is_file():
            raise SourceError(f"{PROGRAM} is not built: make -C {PROGRAM.parent}")
        arguments = ["--network", network] if network else []
        process = await asyncio.create_subprocess_exec(
            str(PROGRAM),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT_BYTES,
            start_new_session=True,  # Ctrl-C is for the simulator, which then asks it to end
        )
        source = cls(process)
        await source.sync()
        return source

    async def _read(self) -> None:
        if self._process.stdout is None or self._process.stderr is None:
            raise RuntimeError("the packet source was started without pipes")
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            if "quabo" in answer:
                self.accounts[answer.pop("quabo")] = answer
            elif answer["event"] == "error":
                self.errors.append(f"{answer.get('command')}: {answer['what']}")
            else:
                await self._answers.put(answer)
        self.stderr_text = (await self._process.stderr.read()).decode(errors="replace").strip()
        await self._answers.put(None)

    def tell(self, line: str) -> None:
        """Send a command line (packet_source/commands.h); lost when the program has ended."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(line.encode() + b"\n")

    async def _ask(self, line: str, event: str) -> dict[str, Any]:
        async with self._lock:
            self.tell(line)
            while True:
                try:
                    answer = await asyncio.wait_for(self._answers.get(), ANSWER_TIMEOUT_S)
                except TimeoutError as error:
                    raise SourceError(f"the packet source did not answer {line!r}") from error
                if answer is None:
                    self._answers.put_nowait(None)
                    raise SourceError(f"the packet source has ended: {self.stderr_text}")
                if answer["event"] == event:
                    return answer

    async def sync(self) -> None:
        """Return when every earlier command has been obeyed."""
        await self._ask("sync 0", "sync")

    async def counters(self) -> dict[str, Any]:
        """Fresh accounts into `accounts`; returns the totals of the program."""
        return await self._ask("counters", "counters_end")

    async def died(self) -> str:
        """Waits for the program to end, and says how."""
        code = await self._process.wait()
        await asyncio.wait((self._reader,))
        return f"exit code {code}"

    async def quit(self) -> None:
        """End the program; `accounts` then holds the final ones."""
        self.tell("quit")
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), ANSWER_TIMEOUT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader

    # --- what the boards want ---

    def add_board(self, ip: str, boardloc: int) -> None:
        """Declare a board."""
        self.tell(f"board {ip} boardloc={boardloc}")

    def reset_numbers(self, ip: str) -> None:
        """Packet numbers of a board back to 0."""
        self.tell(f"reset {ip}")

    def spoil(self, ip: str, spoil: Spoil) -> None:
        """Spoil the packets of a board from now on."""
        self.tell(f"spoil {ip} {spoil.words()}")

    def image(self, ip: str, old: ImageStream | None, new: ImageStream | None) -> None:
        """Change the image stream of a board; only what differs is disturbed."""
        if new is None:
            self.tell(f"stop {ip} image")
            return
        if old is None or old.levels != new.levels:
            self.tell(f"levels {ip} {_table(new.levels, 'H')}")
        if old is None or _without_tables(old) != _without_tables(new):
            self.tell(
                f"image {ip} dest={new.destination}:{addresses.SCIENCE_PORT} acq={new.acq_mode} "
                f"period_ns={new.period_us * 1000}"
            )

    def ph(self, ip: str, old: PhStream | None, new: PhStream | None) -> None:
        """Change the pulse-height stream of a board."""
        if new is None:
            self.tell(f"stop {ip} ph")
            return
        if old is None or old.pattern != new.pattern:
            self.tell(f"pattern {ip} {_table(new.pattern, 'h')}")
        if old is None or old.offset != new.offset:
            self.tell(f"offset {ip} {_table(new.offset, 'h')}")
        if old is None or _without_tables(old) != _without_tables(new):
            self.tell(
                f"ph {ip} dest={new.destination}:{addresses.SCIENCE_PORT} acq={new.acq_mode} "
                f"poisson_hz={new.poisson_hz!r} period_ns={new.period_us * 1000} "
                f"external={int(new.external)}"
            )


def _without_tables(stream: ImageStream | PhStream) -> tuple[object, ...]:
    return tuple(value for value in vars(stream).values() if not isinstance(value, tuple))
