"""When somebody last asked for "HV off": `<head data>/hv_off_asked.json`.

`config.py --hv_off` waits for nobody.  A bring-up that was begun before sees that this has changed,
and does not switch on again what was switched off in the meantime.
"""

from __future__ import annotations

from pathlib import Path

from panoseti.errors import ObsError
from panoseti.state_files import StateError, read_json, write_json

OFF_ASKED_FILE = "hv_off_asked.json"
VERSION = 1


def note_off_asked(data_dir: Path, now_unix: float) -> None:
    """Somebody asks for it now; ObsError when that cannot be written."""
    path = data_dir / OFF_ASKED_FILE
    try:
        write_json(path, {"version": VERSION, "asked_unix": now_unix})
    except OSError as error:
        raise ObsError(f"{path}: cannot be written: {error.strerror}") from error


def off_asked_unix(data_dir: Path) -> float:
    """When it was asked for last, 0 = never; ObsError when the file cannot be read."""
    path = data_dir / OFF_ASKED_FILE
    try:
        return float(read_json(path, VERSION)["asked_unix"])
    except FileNotFoundError:
        return 0.0
    except (StateError, ValueError, KeyError, TypeError) as error:
        raise ObsError(
            f"{path}: cannot be read ({error}): config.py --hv_off makes it anew"
        ) from error
