"""TFTP as a quabo speaks it: octet mode, 512-byte blocks, no options.  Pure: bytes in, bytes out.

A request becomes a Transfer; the server (server.py) gives it a socket of its own, hands it every
datagram of its client, and asks it again after a silence.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from simulator.flash import Flash, FlashError

BLOCK_BYTES = 512
RRQ, WRQ, DATA, ACK, ERROR = 1, 2, 3, 4, 5
NOT_DEFINED, NOT_FOUND, DISK_FULL, ILLEGAL, UNKNOWN_ID = 0, 1, 3, 4, 5
MAX_TRIES = 6
HELP = b"/flashuid  /flash.<addr>.<len>  /flash.<addr>  /progdev  /help   (numbers in hex)\n"
_READ = re.compile(r"/?flash\.([0-9a-fA-F]{1,8})\.([0-9a-fA-F]{1,8})")
_WRITE = re.compile(r"/?flash\.([0-9a-fA-F]{1,8})")


class TftpRefusalError(Exception):
    """The request is answered with an ERROR packet."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def error_packet(code: int, text: str) -> bytes:
    """An ERROR packet."""
    return struct.pack(">HH", ERROR, code) + text.encode() + b"\0"


@dataclass(frozen=True)
class Request:
    """A parsed RRQ or WRQ."""

    opcode: int
    name: str


def parse_request(data: bytes) -> Request:
    """Read a first datagram; raises TftpRefusalError when it is no octet-mode RRQ or WRQ."""
    if len(data) < 4:
        raise TftpRefusalError(ILLEGAL, "not a request")
    (opcode,) = struct.unpack_from(">H", data)
    parts = data[2:].split(b"\0")
    if opcode not in (RRQ, WRQ) or len(parts) < 3:
        raise TftpRefusalError(ILLEGAL, "not a request")
    if parts[1].lower() != b"octet":
        raise TftpRefusalError(ILLEGAL, "octet mode only")
    return Request(opcode, parts[0].decode("latin-1"))


class Transfer:
    """One file on its way.  `done` is set when nothing more is to be sent or awaited."""

    done = False
    _last = b""
    _tries = 0

    def start(self) -> bytes:
        """The first datagram to the client."""
        raise NotImplementedError

    @property
    def last(self) -> bytes:
        """What was sent last."""
        return self._last

    def receive(self, data: bytes) -> bytes | None:
        """Take a datagram of the client; returns what to answer."""
        raise NotImplementedError

    def silence(self) -> bytes | None:
        """The client has been silent: what to send again, None = gave up (done is set)."""
        self._tries += 1
        self.done = self._tries >= MAX_TRIES
        return None if self.done else self._last

    def _send(self, packet: bytes) -> bytes:
        self._last, self._tries = packet, 0
        return packet


class ReadTransfer(Transfer):
    """The client reads `content`."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._block = 0

    def start(self) -> bytes:
        """DATA 1."""
        return self._next()

    def _next(self) -> bytes:
        start = self._block * BLOCK_BYTES
        self._block += 1
        chunk = self._content[start : start + BLOCK_BYTES]
        return self._send(struct.pack(">HH", DATA, self._block & 0xFFFF) + chunk)

    def receive(self, data: bytes) -> bytes | None:
        """An ACK moves on by one block; an old one is ignored (no doubling of blocks)."""
        if len(data) < 4:
            return None
        opcode, block = struct.unpack_from(">HH", data)
        if opcode == ERROR:
            self.done = True
        if opcode != ACK or block != self._block & 0xFFFF:
            return None
        if self._block * BLOCK_BYTES > len(self._content):
            self.done = True
            return None
        return self._next()


class WriteTransfer(Transfer):
    """The client writes; `sink` takes each chunk and says whether to acknowledge it."""

    def __init__(self, sink: Callable[[bytes], bool]) -> None:
        self._sink = sink
        self._block = 0

    def start(self) -> bytes:
        """ACK 0."""
        return self._send(struct.pack(">HH", ACK, 0))

    def receive(self, data: bytes) -> bytes | None:
        """A DATA packet: stored once, acknowledged each time it comes."""
        if len(data) < 4:
            return None
        opcode, block = struct.unpack_from(">HH", data)
        if opcode == ERROR:
            self.done = True
        if opcode != DATA:
            return None
        if block == self._block & 0xFFFF and self._block:
            return self._last
        if block != (self._block + 1) & 0xFFFF:
            return None
        try:
            acknowledge = self._sink(data[4:])
        except (FlashError, TftpRefusalError) as error:
            self.done = True
            return error_packet(getattr(error, "code", DISK_FULL), str(error))
        self._block += 1
        self._finished = len(data) < 4 + BLOCK_BYTES
        if not acknowledge:
            self.done = True
            return None
        return self._send(struct.pack(">HH", ACK, block))

    _finished = False

    def silence(self) -> bytes | None:
        """After the last block nothing is awaited: the server lingers, then is done."""
        if self._finished:
            self.done = True
            return None
        return super().silence()


def open_transfer(
    request: Request, uid: bytes, flash: Flash, reconfigure: Callable[[int], None]
) -> Transfer:
    """The transfer a quabo offers for this request.

    `reconfigure` is called with the flash address written to /progdev.  Raises TftpRefusalError for
    files there are not.
    """
    name = request.name.lstrip("/")
    try:
        if request.opcode == RRQ:
            return ReadTransfer(_content(name, uid, flash))
        if name == "progdev":
            return WriteTransfer(_progdev_sink(reconfigure))
        if found := _WRITE.fullmatch(name):
            return WriteTransfer(_flash_sink(flash, int(found[1], 16)))
    except FlashError as error:
        raise TftpRefusalError(NOT_DEFINED, str(error)) from error
    raise TftpRefusalError(NOT_FOUND, f"no file {request.name} to write")


def _content(name: str, uid: bytes, flash: Flash) -> bytes:
    if name == "flashuid":
        return uid
    if name == "help":
        return HELP
    if found := _READ.fullmatch(name):
        return flash.read(int(found[1], 16), int(found[2], 16))
    raise TftpRefusalError(NOT_FOUND, f"no file {name} to read")


def _progdev_sink(reconfigure: Callable[[int], None]) -> Callable[[bytes], bool]:
    def sink(data: bytes) -> bool:
        if len(data) != 4:
            raise TftpRefusalError(NOT_DEFINED, f"/progdev takes 4 bytes, not {len(data)}")
        reconfigure(int.from_bytes(data, "big") << 8)
        return False  # the board is gone before it could acknowledge

    return sink


def _flash_sink(flash: Flash, address: int) -> Callable[[bytes], bool]:
    flash.check_start(address)
    place = address

    def sink(data: bytes) -> bool:
        nonlocal place
        flash.program(place, data)
        place += len(data)
        return True

    return sink
