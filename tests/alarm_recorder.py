"""Alarms for unit tests: what was told and what stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AlarmRecorder:
    """In place of alarms.Alarms; told: (kind, text); standing: (kind, subject) -> text."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.standing: dict[tuple[str, str], str] = {}

    def tell(self, kind: str, text: str, subject: str = "", **facts: Any) -> None:
        self.told.append((kind, text))

    def hold(self, kind: str, subject: str, text: str, **facts: Any) -> None:
        if text:
            self.standing.setdefault((kind, subject), text)
        else:
            self.standing.pop((kind, subject), None)

    def hold_only(self, kind: str, texts: Mapping[str, str]) -> None:
        for known, subject in list(self.standing):
            if known == kind and not texts.get(subject):
                self.hold(kind, subject, "")
        for subject, text in texts.items():
            self.hold(kind, subject, text)

    def kinds(self) -> set[str]:
        """Kinds of alarms that stand."""
        return {kind for kind, _ in self.standing}
