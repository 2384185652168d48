"""What qc.py did to boards beside the bring-up: notes in `<head data>/touched/`, one a file.

qc.py waits for nobody, and the ledger may be in another program's hands; so it does not change it,
but leaves a note.  Who reads the ledger takes the steps that are noted as undone; a note goes when
the ledger is saved that has learnt of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from panoseti.bringup.ledger import Step
from panoseti.errors import ObsError
from panoseti.state_files import StateError, read_json, write_json

TOUCHED_FOLDER = "touched"
VERSION = 1


@dataclass(frozen=True)
class Touched:
    """A note: which step of which board is undone, why in words; path: its file."""

    ip: str
    step: Step
    why: str
    path: Path


def note_touched(data_dir: Path, ip: str, step: Step, why: str) -> None:
    """A step of a board is undone; ObsError when that cannot be written.

    The note takes the place of those from before about the same step.
    """
    folder = data_dir / TOUCHED_FOLDER
    path = folder / f"{ip}_{step}_{time.time_ns()}_{os.getpid()}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = list(folder.glob(f"{ip}_{step}_[0-9]*.json"))
        write_json(path, {"version": VERSION, "ip": ip, "step": step.value, "why": why})
        _remove(before)
    except OSError as error:
        raise ObsError(f"{path}: cannot be written: {error.strerror}") from error


def read_touched(data_dir: Path) -> list[Touched]:
    """All notes; StateError naming one that is damaged."""
    found = []
    for path in sorted((data_dir / TOUCHED_FOLDER).glob("*.json")):
        try:
            raw = read_json(path, VERSION)
            found.append(Touched(str(raw["ip"]), Step(raw["step"]), str(raw["why"]), path))
        except FileNotFoundError:
            continue  # the ledger that has learnt of it was saved just now
        except (StateError, KeyError, ValueError) as error:
            remedy = "remove it, and tell config.py to do again what it names: config.py --redo"
            raise StateError(f"{path}: not a note of qc.py ({error}); {remedy} STEP") from error
    return found


def forget_touched(notes: Iterable[Touched]) -> None:
    """The ledger has learnt of them, on the disk; OSError when they cannot be removed."""
    _remove(note.path for note in notes)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
