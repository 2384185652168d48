"""README and docs/: what can be checked of words."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

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
