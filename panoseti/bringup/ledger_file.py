"""bringup.json: the ledger on the disk, and the lock that lets one program change it at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from panoseti.bringup.ledger import VERSION, Ledger, LedgerFormatError, document_text, from_document
from panoseti.bringup.touched import Touched, forget_touched, read_touched
from panoseti.errors import ObsError, RefusedError
from panoseti.flight import owner
from panoseti.launch import log_dir
from panoseti.state_files import StateError, read_json, write_state

LEDGER_FILE = "bringup.json"
LOCK_FILE = "bringup.lock"
REMEDY = "move it away and run config.py: it then does every step again"


def read_ledger(data_dir: Path) -> Ledger:
    """The ledger of a head node's data directory, empty when there is none.

    Without the steps that qc.py has undone.  StateError with the path when a file is broken or of
    another version.
    """
    # First the notes: they go when a ledger is on the disk that knows them.
    notes = read_touched(data_dir)
    return _with_notes(_read(data_dir), notes)


def _with_notes(ledger: Ledger, notes: Sequence[Touched]) -> Ledger:
    for note in notes:
        ledger.undo(note.ip, note.step, note.why)
    return ledger


def _read(data_dir: Path) -> Ledger:
    path = data_dir / LEDGER_FILE
    try:
        return from_document(read_json(path, VERSION))
    except FileNotFoundError:
        return Ledger()
    except LedgerFormatError as error:
        raise StateError(f"{path}: {error}; {REMEDY}") from error
    except StateError as error:
        raise StateError(f"{error}; {REMEDY}") from error


class LedgerFile:
    """The ledger while it is ours: change `ledger`, then `save`.

    keep: False = changes are only tried out (--dry-run), the file stays as it is.  notes: those of
    qc.py that the ledger has learnt.
    """

    def __init__(
        self, data_dir: Path, ledger: Ledger, keep: bool = True, notes: Sequence[Touched] = ()
    ) -> None:
        self.data_dir = data_dir
        self.ledger = ledger
        self.keep = keep
        self._notes = notes

    def save(self) -> None:
        """Bring it to the disk; it survives a power cut whole."""
        if not self.keep:
            return
        path = self.data_dir / LEDGER_FILE
        try:
            write_state(path, document_text(self.ledger).encode())
            forget_touched(self._notes)
            self._notes = ()
        except OSError as error:
            raise ObsError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def held_ledger(data_dir: Path, what: str) -> Iterator[LedgerFile]:
    """The ledger for the one program that may change it, `what` ("config.py --reboot").

    RefusedError naming who is at work when that is another one.
    """
    path = log_dir(data_dir) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ObsError(
            f"{path}: {error.strerror}; correct head_node_data_dir in daq_config.json or the"
            " directory's owner"
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(fd, 400, 0).decode("utf-8", "replace").strip() or "another program"
            raise RefusedError(
                f"the boards are being set up by {who}; wait until it has ended, or end it"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{what} of {owner()}\n".encode(), 0)
        notes = read_touched(data_dir)
        yield LedgerFile(data_dir, _with_notes(_read(data_dir), notes), notes=notes)
    finally:
        os.close(fd)
