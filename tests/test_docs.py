"""README and docs/: what can be checked of words."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from panoseti.high_voltage.alarms import Alarm, AlarmState
from panoseti.runs.watch_facts import Kind
from tests.helpers import REPO

PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_tables_are_whole(page: Path) -> None:
    """A table stands between empty lines, and each of its rows has the cells of its first."""
    for before, line in pairwise(["", *page.read_text().splitlines(), ""]):
        if before.startswith("|") and line.startswith("|"):
            assert line.count("|") == before.count("|"), line
        elif before.startswith("|") or line.startswith("|"):
            assert not before or not line, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    files = [link.partition("#")[0] for link in links if "://" not in link]
    assert not [file for file in files if file and not (page.parent / file).exists()]


def test_every_alarm_is_described() -> None:
    """Its kind, and each field of the line that a hook is given."""
    text = (REPO / "docs" / "safety.md").read_text()
    described = set(re.findall(r"`(\w+)`", text))
    kinds = {kind.value for kind in Kind}
    for folder in ("panoseti/high_voltage", "panoseti/runs"):
        for path in (REPO / folder).glob("*.py"):
            code = path.read_text()
            kinds |= set(re.findall(r'\b(?:tell|_tell|_tell_act|hold|hold_only)\(\s*"(\w+)"', code))
            kinds |= {
                kind
                for names in re.findall(r"^\w+_ALARM(?:, \w+_ALARM)* = (.*)$", code, re.MULTILINE)
                for kind in re.findall(r'"(\w+)"', names)
            }
    kinds -= {"run_stopped", "blind"}  # examples in a docstring
    assert {"hv_unkept", "hv_trip", "given_up", "acknowledged", "run_ended"} <= kinds
    assert not kinds - described
    shown = re.search(r"^    (\{\"version\".*?\})$", text, re.MULTILINE | re.DOTALL)
    assert shown is not None
    line = Alarm(0.0, "", "", "", AlarmState.EVENT, "").line()
    assert list(json.loads(shown[1])) == list(json.loads(line))
