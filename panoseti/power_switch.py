"""Outlets of a Digital Loggers web power switch, by its classic URLs.

`<url>/outlet?<n>=ON` and `=OFF` switch outlet n; `<url>/status` gives the state of all: two hex
digits after the text `state">`, bit n-1 = outlet n on.  A password in the URL is sent as basic
authentication to that host alone and never shown.
"""

from __future__ import annotations

import base64
import http.client
import re
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from panoseti.errors import ObsError

OUTLETS = range(1, 9)
_STATE = re.compile(r'state">\s*([0-9a-fA-F]{2})')
_STATUS_BYTES = 1 << 20


class PowerSwitchError(ObsError):
    """The power switch cannot be reached, refuses, or does not switch."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is an answer to us: following it would show the password elsewhere."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        return None


def masked_url(url: str) -> str:
    """The URL with user and password replaced by `***`; for every text that people see."""
    try:
        parts = urlsplit(url)
        if parts.username is None and parts.password is None:
            return url
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "***"
    return urlunsplit(parts._replace(netloc=f"***@{host}"))


class PowerSwitch:
    """One switch.  `name` is its key in obs_config.json, `url` as given there.

    Every method raises PowerSwitchError (one line: name, masked URL, what, remedy) after at
    most `timeout_s` per request.
    """

    def __init__(self, name: str, url: str, timeout_s: float = 5.0) -> None:
        self.name = name
        self.shown = f"power switch {name} ({masked_url(url)})"
        self._timeout_s = timeout_s
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("not http://HOST")
        except ValueError as error:
            raise PowerSwitchError(
                f"{self.shown}: not a URL of the form http://USER:PASSWORD@HOST;"
                f" correct {name}.url in obs_config.json"
            ) from error
        host = parts.netloc.rpartition("@")[2]
        self._base = urlunsplit(parts._replace(netloc=host, query="", fragment="")).rstrip("/")
        self._headers = {}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        # The environment's web proxy must not stand between us and a device in the dome.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def is_on(self, outlet: int) -> bool:
        """Whether the outlet (1..8) is on."""
        check_outlet(outlet)
        return bool(self._states() >> (outlet - 1) & 1)

    def states(self) -> dict[int, bool]:
        """Outlet (1..8) -> whether it is on."""
        bits = self._states()
        return {outlet: bool(bits >> (outlet - 1) & 1) for outlet in OUTLETS}

    def switch(self, outlet: int, on: bool, settle_s: float = 3.0) -> None:
        """Switch an outlet and return when the switch itself says that it is so.

        Raises PowerSwitchError when its state is not the wanted one within `settle_s`.
        """
        check_outlet(outlet)
        word = "ON" if on else "OFF"
        self._get(f"/outlet?{outlet}={word}", redirect_is_fine=True)
        deadline = time.monotonic() + settle_s
        while self.is_on(outlet) != on:
            if time.monotonic() > deadline:
                raise PowerSwitchError(
                    f"{self.shown}: outlet {outlet} was told {word} but is still"
                    f" {'OFF' if on else 'ON'}; is the outlet locked? Look at the switch"
                )
            time.sleep(0.1)

    def _states(self) -> int:
        page = self._get("/status")
        found = _STATE.search(page)
        if found is None:
            raise PowerSwitchError(
                f'{self.shown}: its /status page has no state">XX in it; is this a Digital'
                " Loggers switch with the classic web interface?"
            )
        return int(found.group(1), 16)

    def _get(self, path: str, redirect_is_fine: bool = False) -> str:
        request = urllib.request.Request(self._base + path, headers=self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                text: str = answer.read(_STATUS_BYTES).decode("latin-1")
                return text
        except urllib.error.HTTPError as error:
            with error:
                if redirect_is_fine and 300 <= error.code < 400:
                    return ""
            remedy = (
                f"; correct user and password in {self.name}.url of obs_config.json"
                if error.code in (401, 403)
                else ""
            )
            raise PowerSwitchError(
                f"{self.shown}: {path} was answered {error.code} {error.reason}{remedy}"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PowerSwitchError(
                f"{self.shown}: no answer to {path}: {reason}; check its address and cable"
            ) from None


def check_outlet(outlet: int) -> None:
    """Raise ValueError unless the switch has such an outlet."""
    if outlet not in OUTLETS:
        raise ValueError(f"outlet {outlet} is outside 1..8")
