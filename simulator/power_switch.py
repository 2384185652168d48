"""A web power switch with eight outlets: classic URLs, and REST where it has that.

    python -m simulator.power_switch --port 8080 --user admin --password 1234 --on 1,2 --rest

Classic: `/outlet?<n>=ON|OFF` switches, `/status` shows two hex digits after `state">`.  REST:
GET `/restapi/relay/outlets/<n-1>/physical_state/`, PUT `.../state/` with value=true or false and
the header X-CSRF.  With `digest` it takes digest authentication alone, as new switches can be set.

Faults: "stuck" (answers, does not switch), "silent" (takes the connection, never answers),
"drip" (answers, a byte now and then, and never ends), "garbled" (answers without a state in
them); `redirect_to` answers everything with a redirection there.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from urllib.parse import parse_qsl, urlsplit

OUTLETS = range(1, 9)
REALM = "power"
_REST_PATH = re.compile(r"/restapi/relay/outlets/([0-7])/(state|physical_state)/")
_DIGEST_FIELD = re.compile(r'(\w+)="?([^",]*)"?')
SILENCE_S = 60.0
DRIP_S = 0.1


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
        rest: bool = False,
        digest: bool = False,
    ) -> None:
        self.rest, self.digest = rest, digest
        self.fault = ""
        self.redirect_to = ""
        self.requests: list[str] = []
        self.on_switch = on_switch
        self._on = set(on)
        self._lock = threading.Lock()
        self._user, self._password = user, password
        self._nonce = secrets.token_hex(8)
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

    def __exit__(self, *_: object) -> None:
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

    @property
    def challenge(self) -> str:
        """What it asks of one it does not know."""
        if self.digest:
            return f'Digest realm="{REALM}", qop="auth", nonce="{self._nonce}", algorithm=MD5'
        return f'Basic realm="{REALM}"'

    def knows(self, authorization: str | None, method: str) -> bool:
        """Whether a request with this header comes from somebody who has the password."""
        scheme, _, rest = (authorization or "").partition(" ")
        if not self.digest:
            pair = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
            return (scheme, rest) == ("Basic", pair)
        given = dict(_DIGEST_FIELD.findall(rest))
        if scheme != "Digest" or given.get("nonce") != self._nonce:
            return False
        who = _md5(f"{self._user}:{REALM}:{self._password}")
        what = _md5(f"{method}:{given.get('uri')}")
        words = (given.get(name, "") for name in ("nonce", "nc", "cnonce", "qop"))
        return given.get("response") == _md5(":".join((who, *words, what)))

    def answer(self, method: str, path: str, body: str = "", csrf: bool = False) -> tuple[int, str]:
        """HTTP code and page for a request."""
        with self._lock:
            self.requests.append(path if method == "GET" else f"{method} {path} {body}")
        if self.fault == "silent":
            self._ending.wait(SILENCE_S)
        if self.redirect_to:
            return 302, "elsewhere"
        parts = urlsplit(path)
        if self.rest and (found := _REST_PATH.fullmatch(parts.path)):
            return self._rest_answer(method, int(found[1]) + 1, found[2], body, csrf)
        if method != "GET":
            return 405, "no such method"
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

    def _rest_answer(
        self, method: str, outlet: int, what: str, body: str, csrf: bool
    ) -> tuple[int, str]:
        if method == "GET":
            state = "true" if outlet in self.outlets_on else "false"
            return 200, "<html>starting</html>" if self.fault == "garbled" else state
        value = dict(parse_qsl(body)).get("value")
        if method != "PUT" or what != "state" or value not in ("true", "false"):
            return 400, "not understood"
        if not csrf:
            return 403, "X-CSRF is missing"
        if self.fault != "stuck":
            self.switch(outlet, value == "true")
        return 204, ""

    def drip(self, out: BufferedIOBase) -> None:
        """The beginning of an answer that never ends."""
        self.requests.append("drip")
        try:
            out.write(b"HTTP/1.0 200 OK\r\nX-Drip: ")
            while self.fault == "drip" and not self._ending.wait(DRIP_S):
                out.write(b"x")
        except OSError:
            pass  # the client has gone

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
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        switch = self.server.switch
        if switch.fault == "drip":
            switch.drip(self.wfile)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("latin-1")
        if not switch.knows(self.headers.get("Authorization"), self.command):
            code, page = 401, "who are you?"
        else:
            csrf = "X-CSRF" in self.headers
            code, page = switch.answer(self.command, self.path, body, csrf)
        data = page.encode()
        try:
            self.send_response(code)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(data)))
            if code == 302:
                self.send_header("Location", switch.redirect_to + self.path)
            if code == 401:
                self.send_header("WWW-Authenticate", switch.challenge)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client has gone

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def _md5(text: str) -> str:
    """What digest authentication of these switches is made of."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


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
    parser.add_argument("--rest", action="store_true", help="it has the REST interface too")
    parser.add_argument("--digest", action="store_true", help="digest authentication alone")
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
    with PowerSwitchServer(
        args.host, args.port, args.user, args.password, on, tell, args.rest, args.digest
    ) as switch:
        print(f"ready {switch.url}", flush=True)
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
