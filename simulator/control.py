"""The control socket: one JSON request per line, one JSON answer per line (client.py)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from simulator.client import SOCKET_NAME, short_socket_path

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
REQUEST_LIMIT_BYTES = 1 << 20


class ControlError(Exception):
    """A request that cannot be served; the message is the answer's "error"."""


def select(addresses: Iterable[str], quabo: object) -> list[str]:
    """The boards a request means: an address, "all", or "module:<address of its quabo 0>" or id.

    Raises ControlError when there is none.
    """
    known = list(addresses)
    if quabo == "all":
        return known
    if isinstance(quabo, str) and quabo in known:
        return [quabo]
    if isinstance(quabo, str) and quabo.startswith("module:"):
        wanted = quabo.removeprefix("module:")
        found = [ip for ip in known if str(_module(ip)) == wanted]
        if found:
            return found
    raise ControlError(f'no simulated board {quabo!r}: an address, "module:<id>" or "all"')


def _module(ip: str) -> int:
    low, last = (int(part) for part in ip.split(".")[2:])
    return ((low * 256 + last) & 0x3FF) >> 2


class Control:
    """Serves requests in a state directory until closed."""

    def __init__(self, state_dir: Path, handler: Handler) -> None:
        self._handler = handler
        self._directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
        self._path = short_socket_path(self._directory)
        self._server: asyncio.AbstractServer | None = None
        self._place = state_dir / SOCKET_NAME

    async def open(self) -> None:
        """Begin; raises ControlError when another simulator serves this directory."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self._path)
            except OSError:
                self._place.unlink(missing_ok=True)
            else:
                raise ControlError(
                    f"{self._place}: another simulator is running here: end it, "
                    "or give this one another --state_dir"
                )
        self._server = await asyncio.start_unix_server(
            self._serve, self._path, limit=REQUEST_LIMIT_BYTES
        )

    def close(self) -> None:
        """Take no more requests, and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._place.unlink(missing_ok=True)
        os.close(self._directory)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client went away, or sent a line beyond all measure
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ControlError("a request is a JSON object")
            return {"ok": True} | await self._handler(request)
        except (ControlError, ValueError, TypeError) as error:
            return {"ok": False, "error": str(error)}
