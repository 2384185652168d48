"""For which boards somebody has asked for high voltage: `<head data>/hv_asked.json`.

hv_updater gives it to these alone: `config.py --module 1` concerns no other module, on which
somebody may be at work.  Bring-up and `--hv_on` add the boards that they are for; `--hv_off` and
`--shutdown` take all away, a board that is left out or whose power is switched off is taken out.

No file means none; one that cannot be read means none as well, and is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from panoseti.errors import ObsError
from panoseti.state_files import StateError, fsync_folder, read_json, write_json

ASKED_FILE = "hv_asked.json"
VERSION = 1
NOT_ASKED = "not asked for (config.py --hv_on)"
"""Why a board has no high voltage."""


def read_asked(data_dir: Path) -> frozenset[str]:
    """The addresses of the boards; ObsError when the file cannot be read."""
    path = data_dir / ASKED_FILE
    try:
        boards = read_json(path, VERSION)["boards"]
        if not isinstance(boards, list) or not all(isinstance(ip, str) for ip in boards):
            raise StateError(f"{path}: no list of boards; it is not used")
    except FileNotFoundError:
        return frozenset()
    except (StateError, KeyError) as error:
        text = f"{path}: no list of boards" if isinstance(error, KeyError) else str(error)
        remedy = "config.py --hv_on, with --module for a part, makes it anew"
        raise ObsError(f"{text}: no board may have HV; {remedy}") from error
    return frozenset(boards)


def ask(data_dir: Path, ips: Iterable[str], anew: bool = False) -> str:
    """Add boards; anew: those of before no longer count.  What was wrong with the file before, ""
    = nothing; ObsError when it cannot be written.
    """
    before, problem = frozenset[str](), ""
    if not anew:
        try:
            before = read_asked(data_dir)
        except ObsError as error:
            problem = str(error)
    _write(data_dir, before | set(ips))
    return problem


def take_back(data_dir: Path, ips: Iterable[str]) -> None:
    """Take boards out; ObsError when that cannot be written.

    A file that cannot be read gives none of them anything, and is left.
    """
    try:
        before = read_asked(data_dir)
    except ObsError:
        return
    if left := before - set(ips):
        if left != before:
            _write(data_dir, left)
    else:
        take_all_back(data_dir)


def take_all_back(data_dir: Path) -> None:
    """Nobody wants high voltage any more; that needs no room on the disk."""
    path = data_dir / ASKED_FILE
    try:
        path.unlink()
        fsync_folder(data_dir)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ObsError(f"{path}: cannot be removed: {error.strerror}") from error


def _write(data_dir: Path, ips: Iterable[str]) -> None:
    path = data_dir / ASKED_FILE
    try:
        write_json(path, {"version": VERSION, "boards": sorted(ips)})
    except OSError as error:
        raise ObsError(f"{path}: cannot be written: {error.strerror}") from error
