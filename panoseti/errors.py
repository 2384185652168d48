"""Failures an operator can do something about, and the exit code each one leads to.

Anything else that is raised (ValueError, KeyError, ...) is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2
EXIT_REFUSED = 3


class ObsError(Exception):
    """Something that was asked for did not happen; the message is one line for the operator."""

    exit_code = EXIT_FAILED


class BoardError(ObsError):
    """A quabo did not answer, or answered something else than it should."""


class RemoteError(ObsError):
    """A DAQ node could not be reached, or a command on it failed."""


class RefusedError(ObsError):
    """The state of the observatory forbids it: run in progress, not the head node, not ready."""

    exit_code = EXIT_REFUSED


@dataclass(frozen=True)
class Fault:
    """One mistake in a config file.

    Attributes: file (name as the operator knows it), path (JSON path, "$" = the whole
    document), value (what stands there, as text), remedy (what to write instead).
    """

    file: str
    path: str
    value: str
    remedy: str

    def __str__(self) -> str:
        """One line: what would break it, or confuse a terminal, is written as an escape."""
        text = f"{self.file}: {self.path}: {self.value}: {self.remedy}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class ConfigError(ObsError):
    """One or more config files are wrong; carries every fault found, not only the first."""

    exit_code = EXIT_BAD_CONFIG

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))
