"""Outlets of a Digital Loggers web power switch, by its REST interface or its classic URLs.

REST (outlet n is n-1 there):
    GET  <url>/restapi/relay/outlets/<n-1>/physical_state/      true or false
    PUT  <url>/restapi/relay/outlets/<n-1>/state/               value=true or value=false

Classic: `<url>/outlet?<n>=ON` and `=OFF` switch outlet n; `<url>/status` gives the state of all:
two hex digits after the text `state">`, bit n-1 = outlet n on.

Which of them a switch has is found out by the first request, unless obs_config.json says so
(`power_switch_api`).  User and password come from the credentials file (`power_credentials`), or
from the URL.  They are sent to that host alone, as basic or, where it asks for that, digest
authentication, and never shown.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from panoseti.configs.json_formats import CUT_PASSWORD, cut_password, masked_text
from panoseti.configs.power_credentials import Login, read_login
from panoseti.configs.site import ObsConfig
from panoseti.configs.site import PowerSwitch as Outlet
from panoseti.errors import ObsError

OUTLETS = range(1, 9)
AUTO, REST, CLASSIC = "auto", "rest", "classic"
_STATE = re.compile(r'state">\s*([0-9a-fA-F]{2})')
_STATUS_BYTES = 1 << 20
# The whole of an answer may take so much longer than the time-out of each part.
LATE_S = 0.5
# Requests to one switch that nobody waits for any longer, before no further one is begun.
HANGING_AT_MOST = 20
# What a switch without REST says to such a request.
_NO_SUCH_PAGE = (301, 302, 303, 307, 308, 400, 404, 405, 501)
_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_WORDS = {"true": True, "false": False}


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


class _AnsweredError(PowerSwitchError):
    """The switch answered with an HTTP error."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def masked_url(url: str) -> str:
    """The URL with user and password replaced by `***`; for every text that people see.

    Also where a `/` in the password makes it no URL at all.
    """
    return masked_text(url)


def open_switch(obs: ObsConfig, outlet: Outlet, timeout_s: float = 5.0) -> PowerSwitch:
    """The switch of an outlet as the configs want it.

    Raises CredentialsError when the credentials file cannot be used.
    """
    login = None
    if obs.power_credentials is not None:
        login = read_login(Path(obs.power_credentials), outlet.name)
    return PowerSwitch(outlet.name, outlet.url, timeout_s, login, obs.power_switch_api)


class PowerSwitch:
    """One switch.  `name` is its key in obs_config.json, `url` as given there.

    login: instead of what the URL may hold; api: "rest", "classic" or "auto".  Every method
    raises PowerSwitchError (one line: name, masked URL, what, remedy) after at most `timeout_s`
    and LATE_S per request, also where the answer only drips or a name server does not answer.
    """

    def __init__(
        self,
        name: str,
        url: str,
        timeout_s: float = 5.0,
        login: Login | None = None,
        api: str = AUTO,
    ) -> None:
        self.name = name
        self.shown = f"power switch {name} ({masked_url(url)})"
        self._timeout_s = timeout_s
        self._api = api
        if cut_password(url):
            raise PowerSwitchError(f"{self.shown}: {CUT_PASSWORD}")
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("not http://HOST")
        except ValueError:
            raise PowerSwitchError(
                f"{self.shown}: not a URL of the form http://HOST;"
                f" correct {name}.url in obs_config.json"
            ) from None
        host = parts.netloc.rpartition("@")[2]
        self._base = urlunsplit(parts._replace(netloc=host, query="", fragment="")).rstrip("/")
        if login is None and parts.username is not None:
            login = Login(unquote(parts.username), unquote(parts.password or ""))
        self._login = login
        # The environment's web proxy must not stand between us and a device in the dome.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def is_on(self, outlet: int) -> bool:
        """Whether the outlet (1..8) is on."""
        check_outlet(outlet)
        if self._has_rest():
            return self._rest_state(outlet)
        return bool(self._classic_states() >> (outlet - 1) & 1)

    def states(self) -> dict[int, bool]:
        """Outlet (1..8) -> whether it is on."""
        if self._has_rest():
            return {outlet: self._rest_state(outlet) for outlet in OUTLETS}
        bits = self._classic_states()
        return {outlet: bool(bits >> (outlet - 1) & 1) for outlet in OUTLETS}

    def switch(self, outlet: int, on: bool, settle_s: float = 3.0) -> None:
        """Switch an outlet and return when the switch itself says that it is so.

        Raises PowerSwitchError when its state is not the wanted one within `settle_s`.
        """
        check_outlet(outlet)
        word = "ON" if on else "OFF"
        if self._has_rest():
            body = b"value=true" if on else b"value=false"
            self._ask(f"/restapi/relay/outlets/{outlet - 1}/state/", "PUT", body, {"X-CSRF": "x"})
        else:
            self._ask(f"/outlet?{outlet}={word}", redirect_is_fine=True)
        deadline = time.monotonic() + settle_s
        while self.is_on(outlet) != on:
            if time.monotonic() > deadline:
                raise PowerSwitchError(
                    f"{self.shown}: outlet {outlet} was told {word} but is still"
                    f" {'OFF' if on else 'ON'}; is the outlet locked? Look at the switch"
                )
            time.sleep(0.1)

    # --- the two ways ---

    def _has_rest(self) -> bool:
        """Whether to use REST; the first time it is asked for where that is not known."""
        if self._api == AUTO:
            try:
                self._rest_state(1)
                self._api = REST
            except _AnsweredError as error:
                if error.code not in _NO_SUCH_PAGE:
                    raise
                self._api = CLASSIC
            except _NotRestError:
                self._api = CLASSIC
        return self._api == REST

    def _rest_state(self, outlet: int) -> bool:
        path = f"/restapi/relay/outlets/{outlet - 1}/physical_state/"
        text = self._ask(path, headers={"Accept": "application/json"})
        state = _WORDS.get(text.strip())
        if state is None:
            raise _NotRestError(
                f"{self.shown}: {path} is neither true nor false; is this a Digital Loggers switch"
                ' with a REST interface? If not: "power_switch_api": "classic" in obs_config.json'
            )
        return state

    def _classic_states(self) -> int:
        page = self._ask("/status")
        found = _STATE.search(page)
        if found is None:
            raise PowerSwitchError(
                f'{self.shown}: its /status page has no state">XX in it; is this a Digital'
                " Loggers switch?"
            )
        return int(found.group(1), 16)

    def _ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        redirect_is_fine: bool = False,
    ) -> str:
        login = basic_authorization(self._login)
        while True:
            try:
                return self._request(path, method, body, {**(headers or {}), **login})
            except urllib.error.HTTPError as error:
                with error:
                    challenge = error.headers.get("WWW-Authenticate", "")
                if redirect_is_fine and 300 <= error.code < 400:
                    return ""
                digest = digest_authorization(challenge, self._login, method, self._uri(path))
                if error.code != 401 or not digest or "Digest" in login.get("Authorization", ""):
                    raise self._answered(path, error) from None
                login = digest
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self._silent(path, error) from None

    def _uri(self, path: str) -> str:
        return urlsplit(self._base).path + path

    def _request(
        self, path: str, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> str:
        """The answer; in a thread of its own, since the time-out of urllib is that of one read."""
        name = f"request to {self.name}"
        if sum(thread.name == name for thread in threading.enumerate()) >= HANGING_AT_MOST:
            raise TimeoutError(f"{HANGING_AT_MOST} earlier requests have not ended yet")
        answers: SimpleQueue[str | Exception] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._whole_answer(path, method, body, headers))
            except Exception as error:  # it is raised where it is waited for
                answers.put(error)

        threading.Thread(target=ask, name=name, daemon=True).start()
        try:
            answer = answers.get(timeout=self._timeout_s + LATE_S)
        except Empty:
            raise TimeoutError(f"not complete after {self._timeout_s + LATE_S:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _whole_answer(
        self, path: str, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> str:
        request = urllib.request.Request(self._base + path, body, dict(headers), method=method)
        with self._opener.open(request, timeout=self._timeout_s) as answer:
            text: str = answer.read(_STATUS_BYTES).decode("latin-1")
            return text

    def _answered(self, path: str, error: urllib.error.HTTPError) -> _AnsweredError:
        remedy = (
            f"; correct its user and password (power_credentials, or {self.name}.url of"
            " obs_config.json)"
            if error.code in (401, 403)
            else ""
        )
        text = f"{self.shown}: {path} was answered {error.code} {error.reason}{remedy}"
        return _AnsweredError(text, error.code)

    def _silent(self, path: str, error: Exception) -> PowerSwitchError:
        if isinstance(error, http.client.InvalidURL):  # it would show a part of the URL
            return PowerSwitchError(f"{self.shown}: not a URL; correct it in obs_config.json")
        reason = getattr(error, "reason", error)
        return PowerSwitchError(
            f"{self.shown}: no answer to {path}: {reason}; check its address and cable"
        )


class _NotRestError(PowerSwitchError):
    """What came is not an answer of a REST interface."""


def basic_authorization(login: Login | None) -> dict[str, str]:
    """The header that tells who we are; none without a login."""
    if login is None:
        return {}
    pair = base64.b64encode(f"{login.user}:{login.password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def digest_authorization(
    challenge: str, login: Login | None, method: str, uri: str
) -> dict[str, str]:
    """The header that answers a digest challenge (RFC 7616); none where it is no such thing."""
    scheme, _, rest = challenge.partition(" ")
    if login is None or scheme.lower() != "digest":
        return {}
    asked = urllib.request.parse_keqv_list(urllib.request.parse_http_list(rest))
    name = asked.get("algorithm", "MD5")
    if name.upper() not in _HASHES or not {"realm", "nonce"} <= asked.keys():
        return {}

    def hashed(*words: str) -> str:
        data = ":".join(words).encode()
        return hashlib.new(_HASHES[name.upper()], data, usedforsecurity=False).hexdigest()

    who, what = hashed(login.user, asked["realm"], login.password), hashed(method, uri)
    fields = {
        "username": login.user,
        "realm": asked["realm"],
        "nonce": asked["nonce"],
        "uri": uri,
    }
    bare = {"algorithm": name}
    if "auth" in [word.strip() for word in asked.get("qop", "").split(",")]:
        count, own = "00000001", secrets.token_hex(8)
        fields |= {
            "response": hashed(who, asked["nonce"], count, own, "auth", what),
            "cnonce": own,
        }
        bare |= {"qop": "auth", "nc": count}
    else:
        fields["response"] = hashed(who, asked["nonce"], what)
    if "opaque" in asked:
        fields["opaque"] = asked["opaque"]
    words = [f'{key}="{value}"' for key, value in fields.items()]
    words += [f"{key}={value}" for key, value in bare.items()]
    return {"Authorization": "Digest " + ", ".join(words)}


def check_outlet(outlet: int) -> None:
    """Raise ValueError unless the switch has such an outlet."""
    if outlet not in OUTLETS:
        raise ValueError(f"outlet {outlet} is outside 1..8")
