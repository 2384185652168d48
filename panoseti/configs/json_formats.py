"""The value formats that the config schemas name, and the masking of secrets.  Pure."""

from __future__ import annotations

import datetime
import ipaddress
import re
from typing import Any

import jsonschema

from panoseti.boards.addresses import parse_ranges
from panoseti.boards.firmware_images import check_release

FORMATS = jsonschema.FormatChecker(formats=())
"""Checks each format; a ValueError says what is wrong with the value."""

MASK = "***"
CUT_PASSWORD = (
    "its password has a /, ? or # in it, where the host would end: write %2F, %3F or %23, or put it"
    " into the file of power_credentials"
)
SECRET_FIELDS = ("password", "passwd", "secret", "token", "community")
BIAS_V = (20.0, 75.0)
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9][\w-]{0,62}(\.[A-Za-z0-9][\w-]{0,62})*", re.ASCII)
_NUMBERS = re.compile(r"[0-9.]+")
# Linux: IFNAMSIZ 16 with the closing zero; no '/' and no blanks.
_INTERFACE = re.compile(r"[^\s/:]{1,15}")
_USER_PART = re.compile(r"(\w+://).*@|[^\s\"/@:]+:\S*@", re.DOTALL)


def masked_text(text: str) -> str:
    """The text with user and password of every URL in it (or of a bare user:password@) as ***."""
    return _USER_PART.sub(lambda found: f"{found[1] or ''}{MASK}@", text)


def is_secret(field: object) -> bool:
    """Whether the value of a field of that name must not be shown."""
    return isinstance(field, str) and any(word in field.lower() for word in SECRET_FIELDS)


def is_address(host: str) -> bool:
    """Whether the text is an IPv4 address (and not a host name)."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


@FORMATS.checks("host", raises=ValueError)
def _host(value: object) -> bool:
    text = _text(value)
    if text is None or is_address(text):
        return True
    if _NUMBERS.fullmatch(text) or not _HOST.fullmatch(text):
        raise ValueError("neither an IPv4 address nor a host name")
    return True


@FORMATS.checks("module-base", raises=ValueError)
def _module_base(value: object) -> bool:
    text = _text(value)
    if text is None:
        return True
    if not is_address(text):
        raise ValueError("not an IPv4 address")
    last = int(text.rpartition(".")[2])
    if last % 4:
        start = text.rpartition(".")[0]
        raise ValueError(f"not the base address of a module (nearest: {start}.{last & ~3})")
    return True


@FORMATS.checks("power-url", raises=ValueError)
def _power_url(value: object) -> bool:
    text = _text(value)
    if text is not None and cut_password(text):
        raise ValueError(CUT_PASSWORD)
    return True


def cut_password(url: str) -> bool:
    """Whether user and password of a URL are cut short by a character that ends them."""
    return "@" in re.sub(r"^\w+://[^/?#]*", "", url)


def _path(value: object) -> bool:
    text = _text(value)
    if text is None:
        return True
    if not text.startswith(("/", "~/")):
        raise ValueError("not an absolute path")
    if ".." in text.split("/"):
        raise ValueError('has ".." in it')
    if not text.isprintable():
        raise ValueError("has a control character in it")
    return True


@FORMATS.checks("path", raises=ValueError)
def _absolute_path(value: object) -> bool:
    return _path(value)


@FORMATS.checks("firmware-qfp", raises=ValueError)
def _firmware_qfp(value: object) -> bool:
    return _firmware(value, "qfp")


@FORMATS.checks("firmware-bga", raises=ValueError)
def _firmware_bga(value: object) -> bool:
    return _firmware(value, "bga")


def _firmware(value: object, build: str) -> bool:
    if isinstance(value, str) and _path(value):
        check_release(value.rpartition("/")[2], build)
    return True


@FORMATS.checks("data-dir", raises=ValueError)
def _data_dir(value: object) -> bool:
    # Programs write, collect and delete below it: never the root or a whole home directory.
    if isinstance(value, str) and not value.strip("/~"):
        raise ValueError("too wide for a data directory")
    return _path(value)


@FORMATS.checks("module-ranges", raises=ValueError)
def _module_ranges(value: object) -> bool:
    text = _text(value)
    if text is not None and not parse_ranges(text):
        raise ValueError("names no module")
    return True


@FORMATS.checks("bindhost", raises=ValueError)
def _bindhost(value: object) -> bool:
    text = _text(value)
    if text is None or is_address(text):
        return True
    if text in (".", "..") or _NUMBERS.fullmatch(text) or not _INTERFACE.fullmatch(text):
        raise ValueError("neither an interface name (at most 15 characters) nor an address")
    return True


@FORMATS.checks("divides-second", raises=ValueError)
def _divides_second(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        return True
    if 1_000_000 % value:
        around = _divisors_around(int(value))
        raise ValueError(f"does not divide 1000000 (near it: {' and '.join(map(str, around))})")
    return True


def _divisors_around(value: int) -> list[int]:
    divisors = [n for n in range(1, 65537) if 1_000_000 % n == 0]
    below = [n for n in divisors if n < value][-1:]
    above = [n for n in divisors if n > value][:1]
    return below + above


@FORMATS.checks("bias-voltage", raises=ValueError)
def _bias_voltage(value: object) -> bool:
    bias_v(value)
    return True


def bias_v(value: Any) -> float:
    """A voltage of detector_info.json in V; ValueError when it is no number of 20..75 V."""
    try:
        volts = float(value)
    except (TypeError, ValueError):
        raise ValueError("not a number") from None
    if not BIAS_V[0] <= volts <= BIAS_V[1]:
        raise ValueError(f"outside {BIAS_V[0]:g}..{BIAS_V[1]:g} V")
    return volts


@FORMATS.checks("utc-time", raises=ValueError)
def _utc_time(value: object) -> bool:
    text = _text(value)
    if text is not None:
        utc_time(text)
    return True


def utc_time(text: str) -> float:
    """Unix time of an ISO time (UTC where it names no zone); ValueError when it is none."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not an ISO time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()
