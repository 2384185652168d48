"""stdout and stderr that may go away: no work is left undone because its words cannot be written.

The terminal is closed (EIO), the reader has gone (EPIPE), the disk of the log is full (ENOSPC),
the stream was closed before the program began: what is said is then lost, and nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class WordStream:
    """A text stream that swallows what it cannot write; `lost` tells that it did."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        """Write, if that can be done."""
        if self._stream is None:
            self.lost = True
            return len(text)
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as error:
            known = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            return self.write(known)
        except (OSError, ValueError, RuntimeError):
            # ValueError: closed; RuntimeError: a signal's words within a write.
            self.lost = True
            return len(text)

    def flush(self) -> None:
        """Bring it to its place, if that can be done."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError, RuntimeError):
            self.lost = True

    def isatty(self) -> bool:
        """Whether somebody may be looking."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def end(self) -> None:
        """Flush for the last time: the interpreter must not fail at it, too."""
        self.flush()
        if self.lost and self._stream is not None:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            except (OSError, ValueError):
                pass  # not a file of this system

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)


def word_stream(stream: TextIO | WordStream | None) -> WordStream:
    """A stream whose loss does no harm."""
    return stream if isinstance(stream, WordStream) else WordStream(stream)


@contextmanager
def word_streams() -> Iterator[WordStream]:
    """What is printed within, plainly or otherwise, goes through such streams; yields stdout's."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file opened gets the number, and the words of whoever knows no better.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    out, err = word_stream(sys.stdout), word_stream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.end()
        err.end()
        sys.stdout, sys.stderr = before
