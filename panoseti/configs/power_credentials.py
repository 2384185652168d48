"""Users and passwords of power switches, from a file outside the configs that nobody else may read.

    {"wps": {"user": "admin", "password": "..."}, "wps_west": {...}}

Its path is `power_credentials` of obs_config.json.  A file that others may read or write is
refused: who has the password can switch the observatory off.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from panoseti.errors import ObsError

MAX_BYTES = 1 << 20


class CredentialsError(ObsError):
    """The credentials file is missing, unsafe or not understood; never shows what is in it."""


@dataclass(frozen=True)
class Login:
    """Who we are for a switch."""

    user: str
    password: str = field(repr=False)


def read_login(path: Path, switch: str) -> Login | None:
    """The login for a power switch by its name in obs_config.json; None when it has none."""
    content = _read_private(path)
    try:
        document = json.loads(content)
    except ValueError:
        raise CredentialsError(f"{path}: not JSON; write {_form(switch)}") from None
    entry = document.get(switch) if isinstance(document, dict) else document
    if entry is None:
        return None
    fields = entry if isinstance(entry, dict) else {}
    user, password = fields.get("user"), fields.get("password")
    if not (isinstance(user, str) and isinstance(password, str) and user):
        raise CredentialsError(f"{path}: {switch} has no user and password; write {_form(switch)}")
    return Login(user, password)


def _form(switch: str) -> str:
    return f'{{"{switch}": {{"user": ..., "password": ...}}}}'


def _read_private(path: Path) -> bytes:
    """The content of a regular file that is ours alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise CredentialsError(
            f"{path}: not found; make it (mode 0600), or correct power_credentials in"
            " obs_config.json"
        ) from None
    except OSError as error:
        raise CredentialsError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CredentialsError(f"{path}: not a file; correct power_credentials")
        if status.st_uid not in (os.geteuid(), 0):
            raise CredentialsError(f"{path}: belongs to another user; chown it to yourself")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise CredentialsError(
                f"{path}: mode {mode:04o} lets others at it; type: chmod 600 {path}"
            )
        return os.read(fd, MAX_BYTES)
    finally:
        os.close(fd)
