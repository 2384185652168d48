"""Lists and sizes as messages show them.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 4
SHOWN_LINES = 20


def joined(words: Sequence[str], separator: str = "; ") -> str:
    """The first words of a list as one phrase, and how many more there are."""
    text = separator.join(words[:SHOWN])
    more = len(words) - SHOWN
    return f"{text} (and {more} more)" if more > 0 else text


def shown_lines(lines: Sequence[str], whole: str) -> list[str]:
    """A list with a line each, cut where it would fill screens; `whole`: where all of it stands."""
    if len(lines) <= SHOWN_LINES:
        return list(lines)
    return [*lines[:SHOWN_LINES], f"and {len(lines) - SHOWN_LINES} more, all of them in {whole}"]
