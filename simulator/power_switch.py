"""A web power switch with eight outlets, as far as its classic URLs go.

    python -m simulator.power_switch --port 8080 --user admin --password 1234 --on 1,2

`/outlet?<n>=ON|OFF` switches, `/status` shows two hex digits after `state">`.  Faults: "stuck"
(answers, does not switch), "silent" (takes the connection, never answers), "garbled" (a status
page without the state); `redirect_to` answers everything with a redirection there.
"""

from __future__ import annotations

import argparse
import base64
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

OUTLETS = range(1, 9)
SILENCE_S = 60.0


class PowerSwitchServer:
    """The switch, served by a thread while the context is open.

    on: outlets that are on at first; on_switch(outlet, on) is called, in the server's thread,
    after each switching.  `port` 0 takes a free one; `url` then tells.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        user: str = "admin",
        password: str = "1234",
        on: Iterable[int] = OUTLETS,
        on_switch: Callable[[int, bool], None] | None = None,
    ) -> None:
        self.fault = ""
        self.redirect_to = ""
        self.requests: list[str] = []
        self.on_switch = on_switch
        self._on = set(on)
        self._lock = threading.Lock()
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.authorization = f"Basic {pair}"
        self._ending = threading.Event()
        self._server = _Server((host, port), _Handler)
        self._server.switch = self
        port = self._server.server_address[1]
        self.address = f"{host}:{port}"
        self.url = f"http://{user}:{password}@{host}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> PowerSwitchServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def outlets_on(self) -> frozenset[int]:
        """The outlets that are on."""
        with self._lock:
            return frozenset(self._on)

    def switch(self, outlet: int, on: bool) -> None:
        """Put an outlet on or off (a hand at the switch)."""
        with self._lock:
            (self._on.add if on else self._on.discard)(outlet)
        if self.on_switch is not None:
            self.on_switch(outlet, on)

    def answer(self, path: str) -> tuple[int, str]:
        """HTTP code and page for a request."""
        with self._lock:
            self.requests.append(path)
        if self.fault == "silent":
            self._ending.wait(SILENCE_S)
        if self.redirect_to:
            return 302, "elsewhere"
        parts = urlsplit(path)
        if parts.path == "/status":
            return 200, self._status_page()
        if parts.path == "/outlet":
            for name, word in parse_qsl(parts.query):
                if not name.isdecimal() or int(name) not in OUTLETS or word not in ("ON", "OFF"):
                    return 400, "no such outlet or word"
                if self.fault != "stuck":
                    self.switch(int(name), word == "ON")
            return 200, "<html>done</html>"
        return 404, "no such page"

    def _status_page(self) -> str:
        if self.fault == "garbled":
            return "<html>rebooting</html>"
        bits = sum(1 << (outlet - 1) for outlet in self.outlets_on)
        return f'<html><div id="state">{bits:02x}</div></html>'


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    switch: PowerSwitchServer


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        switch = self.server.switch
        if self.headers.get("Authorization") != switch.authorization:
            code, page = 401, "who are you?"
        else:
            code, page = switch.answer(self.path)
        data = page.encode()
        try:
            self.send_response(code)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(data)))
            if code == 302:
                self.send_header("Location", switch.redirect_to + self.path)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client has gone

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.power_switch",
        description="Simulate a web power switch with eight outlets.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--user", default="admin")
    parser.add_argument("--password", default="1234")
    parser.add_argument("--on", default="", help="outlets that are on at first, e.g. 1,2")
    args = parser.parse_args(argv)
    try:
        on = {int(word) for word in args.on.split(",") if word}
    except ValueError:
        parser.error(f"--on {args.on}: not a list of outlet numbers")
    if not on <= set(OUTLETS):
        parser.error(f"--on {args.on}: outlets are 1 to 8")

    def tell(outlet: int, state: bool) -> None:
        print(f"outlet {outlet} {'ON' if state else 'OFF'}", flush=True)

    signals = {signal.SIGINT, signal.SIGTERM}
    # Before the threads start: they inherit it, and the signal waits for sigwait below.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with PowerSwitchServer(args.host, args.port, args.user, args.password, on, tell) as switch:
        print(f"ready {switch.url}", flush=True)
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
