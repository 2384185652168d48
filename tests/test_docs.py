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
FOLDERS = (
    "daemons",
    "daq",
    "docs",
    "hashpipe",
    "panoseti",
    "quabos",
    "simulator",
    "tests",
    "tools",
)


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


def sources() -> list[Path]:
    """Python and C of the scripts and all folders."""
    found = list(REPO.glob("*.py"))
    for folder in FOLDERS:
        found += [path for kind in ("*.py", "*.[ch]") for path in (REPO / folder).rglob(kind)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_places_that_are_named_exist(page: Path) -> None:
    """Folders and files of the program, such as panoseti/runs (quabos/ can be a site's own)."""
    folders = "|".join(sorted(set(FOLDERS) - {"quabos"}))
    named = re.findall(rf"(?<![\w/.<>~-])(?:{folders})/[\w/.]*", page.read_text())
    assert not [place for place in named if not (REPO / place.rstrip(".")).exists()]


def test_files_that_are_named_exist() -> None:
    """In pages, comments and docstrings; tests make names up."""
    there = {path.name for path in sources()}
    product = [path for path in sources() if REPO / "tests" not in path.parents]
    missing = [
        f"{path.relative_to(REPO)}: {name}"
        for path in [*PAGES, *product]
        for name in re.findall(r"(?<![\w*])\w+\.(?:py|c)\b", path.read_text())
        if name not in there
    ]
    assert not missing


def test_the_map_of_folders_is_whole() -> None:
    """Each package of panoseti/ and each other folder has its line in README.md."""
    text = (REPO / "README.md").read_text()
    packages = {
        f"panoseti/{path.parent.name}" for path in (REPO / "panoseti").glob("*/__init__.py")
    }
    wanted = packages | {f"{folder}/" for folder in FOLDERS}
    assert len(packages) > 5
    assert not [place for place in wanted if f"\n| `{place}` |" not in text]


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
