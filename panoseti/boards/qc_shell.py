"""What qc.py shows and reads: requests in order, results as people read them, the prompt."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from panoseti.boards import qc_commands
from panoseti.boards.qc_commands import QUIT, Request, UsageError
from panoseti.boards.qc_session import Result, Session
from panoseti.console import Console
from panoseti.errors import EXIT_OK, ConfigError, ObsError


class Shell:
    """Carries out requests and shows the results.

    show_hex: with the bytes that went out and came in; dry_run: nothing is sent.
    """

    def __init__(self, session: Session, out: Console, show_hex: bool, dry_run: bool) -> None:
        self._session = session
        self._out = out
        self._show_hex = show_hex or dry_run
        self._dry_run = dry_run
        self._results: list[Result] = []

    def run(self, requests: Sequence[Request]) -> int:
        """One request after the other, up to the first that fails; the exit code.

        UsageError or ConfigError when one of them cannot be: nothing is sent then.
        """
        self._session.check(requests)
        for index, request in enumerate(requests):
            if request.word is QUIT:
                break
            result = self._session.run(request, self._dry_run)
            self._results.append(result)
            self._show(request, result)
            if result.error is not None:
                if rest := requests[index + 1 :]:
                    self._out.note(f"not sent: {', '.join(str(other) for other in rest)}")
                return result.exit_code
        return EXIT_OK

    def prompt(self) -> int:
        """Take lines until q or the end of input; the exit code tells of the last failure."""
        code = EXIT_OK
        terminal = sys.stdin.isatty()
        if terminal:
            import readline  # noqa: F401  # gives input() editing and history
        while True:
            try:
                line = input(f"{self._session.options.ip}> " if terminal else "")
            except EOFError:
                return code
            if line.strip() in ("?", "help"):
                self._out.note(qc_commands.help_table())
                continue
            try:
                requests = qc_commands.parse(_words(line))
                code = self.run(requests) or code
            except ObsError as error:
                for fault in error.faults if isinstance(error, ConfigError) else (error,):
                    self._out.error(fault)
                code = error.exit_code
                continue
            if any(request.word is QUIT for request in requests):
                return code

    def document(self) -> dict[str, Any]:
        """All results, for --json."""
        return {
            "version": 1,
            "board": self._session.options.ip,
            "dry_run": self._dry_run,
            "commands": [result.document() for result in self._results],
        }

    def _show(self, request: Request, result: Result) -> None:
        if self._show_hex:
            for mark, packets in ((">", result.sent), ("<", result.received)):
                for packet in packets:
                    self._out.out(f"{mark} {packet}")
        if len(result.lines) == 1:
            self._out.out(f"{request.word.name}: {result.lines[0]}")
        else:
            for line in result.lines:
                self._out.out(line)
        if result.error is not None:
            self._out.error(result.error)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"{line.strip()}: {error}") from error
