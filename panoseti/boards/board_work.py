"""What all work on boards has in common: which boards, what went wrong, what the ledger says.

Every step is written to the ledger twice: that it was begun (what the boards held before no longer
counts) and, for the boards that confirmed it, that it is done and with which inputs.  Killed in
between, the step is simply done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from panoseti.boards.board_link import BoardLink, Outcome, open_link
from panoseti.bringup.board_settings import BoardSettings
from panoseti.bringup.ledger import Inputs, Ledger, Step, Value
from panoseti.bringup.ledger_file import LedgerFile
from panoseti.configs.board_files import QUABO_UIDS, known_uids, quabo_uids_text
from panoseti.configs.load_configs import Site
from panoseti.configs.site import Module, Quabo
from panoseti.console import Console
from panoseti.errors import ConfigError, Fault, ObsError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.hv_asked import take_back
from panoseti.high_voltage.hv_off_asked import off_asked_unix
from panoseti.state_files import write_state
from panoseti.words import joined


@dataclass(frozen=True)
class Problem:
    """Something that went wrong: where (board, node or daemon), in which step, what."""

    where: str
    step: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.step}: {self.text}"


@dataclass(frozen=True)
class Result:
    """What became of a step of one board.

    problem: "" = done; facts: what was found, for the ledger; unconfirmed: what was sent, but
    cannot be confirmed by this board.
    """

    problem: str = ""
    facts: Mapping[str, Value] = field(default_factory=dict)
    unconfirmed: Sequence[str] = ()


UNCONFIRMED = "unconfirmed"
"""Name of the fact that a step was done, but cannot be confirmed by the board."""

Results = Mapping[str, Result]
Action = Callable[[Sequence[Quabo], Callable[[str], None]], Results]
"""Does a step to boards, calls back with a board's address when it is through with it."""


def of_outcome(outcome: Outcome) -> Result:
    """The result in an outcome of the board link."""
    problem = (outcome.problem or "").removeprefix(f"{outcome.ip}: ")
    return Result(problem, unconfirmed=outcome.unconfirmed)


def result_of(answer: object) -> Result:
    """The result in what `board_tftp.on_boards` gives for a board."""
    if isinstance(answer, ObsError):
        return Result(str(answer))
    return Result()


class Work:
    """Work on some boards of a site, with the ledger in hand.

    boards: those that were asked for, in the order of the config, without those that it says are
    absent; uids: flash UID by address, "" = absent (None: as quabo_uids.json has it); problems:
    all that went wrong, in order; failed: boards that later steps leave out; hv_off_asked: what
    was noted about the last "HV off" when it was begun (None: it could not be read).
    """

    def __init__(
        self,
        site: Site,
        boards: Iterable[Quabo],
        book: LedgerFile,
        console: Console,
        flight: FlightRecorder,
        uids: Mapping[str, str] | None = None,
    ) -> None:
        self.site = site
        try:
            self.hv_off_asked: float | None = off_asked_unix(site.head_data_dir)
        except ObsError:
            self.hv_off_asked = None
        asked, gone = tuple(boards), site.obs.known_absent
        self.boards = tuple(quabo for quabo in asked if quabo.ip not in gone)
        self.known_absent = tuple(quabo for quabo in asked if quabo.ip in gone)
        self.book = book
        self.console = console
        self.flight = flight
        self.settings = BoardSettings(site)
        if uids is None:
            uids = known_uids(site.head_data_dir / QUABO_UIDS, site.obs)
        self.uids = dict(uids)
        self.news_of_absent = any(self.uids.get(q.ip) != "" for q in self.known_absent)
        for quabo in self.known_absent:
            self.absent(quabo)
        self.echo = site.obs.echo_by_ip
        self.problems: list[Problem] = []
        self.failed: set[str] = set()

    @property
    def ledger(self) -> Ledger:
        """The ledger, to be changed and then saved."""
        return self.book.ledger

    @property
    def modules(self) -> tuple[Module, ...]:
        """The modules that have at least one of the boards."""
        ids = {quabo.module_id for quabo in self.boards}
        return tuple(module for module in self.site.obs.modules if module.id in ids)

    def present(self) -> list[Quabo]:
        """The boards that are there, as far as is known, and have not failed so far.

        ConfigError when the boards were never scanned.
        """
        if not any(quabo.ip in self.uids for quabo in self.boards):
            remedy = "the boards were never scanned: run config.py, or config.py --get_uids"
            path = self.site.head_data_dir / QUABO_UIDS
            raise ConfigError([Fault(QUABO_UIDS, "$", str(path), remedy)])
        return [q for q in self.boards if self.uids.get(q.ip) and q.ip not in self.failed]

    def link(self) -> BoardLink:
        """The link to the boards."""
        return open_link(self.site, self.flight)

    # --- what goes wrong ---

    def fault(self, where: str, step: str, text: str) -> None:
        """Something failed that the exit code will tell; it is shown at once."""
        problem = Problem(where, step, text)
        self.problems.append(problem)
        self.flight.note("problem", where=where, step=step, text=text)
        self.console.error(problem)

    def board_fault(self, ip: str, step: Step | str, text: str) -> None:
        """A board failed: later steps leave it out."""
        self.failed.add(ip)
        self.fault(ip, step.label if isinstance(step, Step) else step, text)

    # --- steps ---

    def inputs(self, quabo: Quabo, step: Step) -> Inputs:
        """What a step would be done with now; ConfigError when the files do not tell."""
        return self.settings.inputs(step, self.uids.get(quabo.ip, ""))

    def why(self, quabo: Quabo, step: Step, now_unix: float) -> str | None:
        """Why a step of a board must be done; None when it need not.  ConfigError as above."""
        if step is Step.UID:
            known, recorded = self.uids.get(quabo.ip), self.ledger.uid_of(quabo.ip)
            if recorded and known != recorded:
                return f"{QUABO_UIDS} says {known or 'absent'!s}, the board said {recorded}"
        age_s = self.settings.max_age_s(step)
        return self.ledger.why(quabo.ip, step, self.inputs(quabo, step), now_unix, age_s)

    def carry_out(
        self,
        step: Step,
        boards: Sequence[Quabo],
        action: Action,
        inputs: Inputs | None = None,
        limit_s: float | None = None,
        keep: Callable[[Sequence[Quabo]], None] | None = None,
    ) -> list[Quabo]:
        """Do a step to boards; those it was done to.  The others are faults, and have failed.

        inputs: None = as the configs ask for now; limit_s: when boards are given up; keep: writes
        what is kept of the boards it was done to, before the ledger says so: whoever is killed in
        between does the step again.
        """
        wanted = self._wanted(step, boards, inputs)
        able = [quabo for quabo in boards if quabo.ip in wanted]
        if not able:
            return []
        begin_unix = time.time()
        for quabo in able:
            self.ledger.begin(quabo.ip, step, begin_unix)
        self.book.save()
        self.flight.note("step", step=step.value, boards=[quabo.ip for quabo in able])
        with self.console.progress(step.label, len(able), limit_s) as progress:
            results = action(able, lambda ip: progress.advance())
        good = [quabo for quabo in able if not results[quabo.ip].problem]
        if keep is not None and good:
            keep(good)
        now_unix = time.time()
        for quabo in good:
            facts = dict(results[quabo.ip].facts)
            if results[quabo.ip].unconfirmed:
                facts[UNCONFIRMED] = ", ".join(results[quabo.ip].unconfirmed)
            self.ledger.finish(quabo.ip, step, now_unix, wanted[quabo.ip], facts)
        self.book.save()
        for quabo in able:
            if results[quabo.ip].problem:
                self.board_fault(quabo.ip, step, results[quabo.ip].problem)
        self._tell(step, able, good, results, now_unix - begin_unix)
        return good

    def _wanted(
        self, step: Step, boards: Sequence[Quabo], inputs: Inputs | None
    ) -> dict[str, Inputs]:
        if inputs is not None:
            return {quabo.ip: inputs for quabo in boards}
        wanted: dict[str, Inputs] = {}
        for quabo in boards:
            try:
                wanted[quabo.ip] = self.inputs(quabo, step)
            except ConfigError as error:
                self.board_fault(quabo.ip, step, "; ".join(str(fault) for fault in error.faults))
        return wanted

    def _tell(
        self,
        step: Step,
        able: Sequence[Quabo],
        good: Sequence[Quabo],
        results: Results,
        took_s: float,
    ) -> None:
        if len(good) == len(able):
            which = f"{len(able)} board{'s' if len(able) != 1 else ''}"
        else:
            which = f"{len(good)} of {len(able)} boards"
        self.console.note(f"{step.label}: {which}, {took_s:.1f} s")
        blind = [quabo.ip for quabo in good if results[quabo.ip].unconfirmed]
        if blind:
            self.console.warn(f"{step.label}: {addresses(blind)} cannot confirm what was sent")

    # --- what is there ---

    def save_uids(self) -> None:
        """Bring quabo_uids.json up to date."""
        text = quabo_uids_text(self.site.obs, self.uids)
        path = self.site.head_data_dir / QUABO_UIDS
        try:
            write_state(path, text.encode())
        except OSError as error:
            raise ObsError(f"{path}: cannot be written: {error.strerror}") from error
        # One that comes back has high voltage when somebody asks for it again.
        take_back(self.site.head_data_dir, [ip for ip, uid in self.uids.items() if not uid])

    def absent(self, quabo: Quabo) -> None:
        """The board is not there: nothing is known of it any more."""
        self.uids[quabo.ip] = ""
        self.ledger.forget(quabo.ip)


def addresses(ips: Sequence[str]) -> str:
    """Some addresses as one phrase."""
    return joined(ips, ", ")
