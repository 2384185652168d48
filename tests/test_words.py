"""Lists as messages show them."""

from __future__ import annotations

import pytest

from panoseti.words import SHOWN_LINES, shown_lines


@pytest.mark.parametrize("count", [0, 1, SHOWN_LINES])
def test_a_short_list_is_shown_whole(count: int) -> None:
    lines = [f"file {n}" for n in range(count)]
    assert shown_lines(lines, "run.json") == lines


def test_a_long_list_is_cut_and_says_where_the_rest_is() -> None:
    lines = [f"file {n}" for n in range(SHOWN_LINES + 3)]
    assert shown_lines(lines, "run.json") == [
        *lines[:SHOWN_LINES],
        "and 3 more, all of them in run.json",
    ]
