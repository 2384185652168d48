"""What config.py is asked for: the request, one call of it, and a task that can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from panoseti.boards.board_work import Work, addresses
from panoseti.configs.selection import Choice
from panoseti.configs.site import Quabo
from panoseti.console import Console


@dataclass(frozen=True)
class Request:
    """What was asked for: tasks by name (none = the whole bring-up), boards, and how.

    golden_is_meant: that the golden firmware shall be overwritten was said a second time; values:
    of the tasks that have one.
    """

    tasks: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    redo: Collection[str] = ()
    dry_run: bool = False
    words: str = "config.py"
    golden_is_meant: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Job:
    """One call of config.py: the work and what it shows; document: the answer of --json."""

    work: Work
    request: Request
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def console(self) -> Console:
        """Where words go."""
        return self.work.console

    def boards(self) -> list[Quabo]:
        """The boards a task is for: chosen and present.  None at all is a fault."""
        found = self.work.present()
        if not found and not self.work.problems:
            asked = addresses([quabo.ip for quabo in self.work.boards])
            text = f"the last scan did not find {asked}; is there power? config.py looks again"
            self.work.fault("boards", "nothing is done", text)
        return found


@dataclass(frozen=True)
class Task:
    """One thing that can be asked for.

    changes: boards, ledger or daemons are changed (one config.py at a time); in_run: may be asked
    for while a run is in progress; anywhere: not only on the head node; needs_data: depends on
    data_config.json; plan: what it would do to which board, and why, where that can be told.
    """

    name: str
    do: Callable[[Job], None]
    what: str
    changes: bool = True
    in_run: bool = False
    anywhere: bool = False
    needs_data: bool = False
    plan: Callable[[Job], Mapping[str, str]] | None = None
