"""Lists and sizes as messages show them.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 4


def joined(words: Sequence[str], separator: str = "; ") -> str:
    """The first words of a list as one phrase, and how many more there are."""
    text = separator.join(words[:SHOWN])
    more = len(words) - SHOWN
    return f"{text} (and {more} more)" if more > 0 else text
