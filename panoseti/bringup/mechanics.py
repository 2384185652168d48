"""Fans, focus stages and LED flashers of boards, each told in the form its firmware understands.

From firmware 20.0 on every command to a fan moves the focus stage as well, so that its position
must be known and is sent along; it is read from the flash memory of the board, where the firmware
keeps it.  A focus command sets the fan, whose speed is that of the last `--fan` of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from panoseti.boards import board_tftp, command_forms, firmware
from panoseti.boards.addresses import FOCUS_QUABO
from panoseti.boards.board_plans import Step
from panoseti.boards.board_work import Result, Work, addresses
from panoseti.boards.command_forms import (
    FLASHER_SINCE,
    FOCUS_POSITION_SINCE,
    FOCUS_POSITIONS,
    FOCUS_S,
    firmware_number,
    firmware_text,
)
from panoseti.bringup.board_setup import fan_name, fan_speed, run_plans
from panoseti.configs.site import Quabo
from panoseti.errors import ObsError
from panoseti.housekeeping.hk_watch import HkWatch, open_watch, wait_focus

FAN, FOCUS, FLASHER = "fan", "focus", "flasher"
# The first four bytes of the MicroBlaze file in flash memory, little-endian.
POSITION_ADDRESS, POSITION_BYTES = 0x00F10000, 4
# How soon a stage that stays where it is reports.
REPORT_S = 3.0
# There is no stage to be moved on the other boards; any position will do.
NO_STAGE = 1


@dataclass(frozen=True)
class Move:
    """What a board is to be told: in words what changes; the steps; facts for the ledger.

    problem: why it cannot be told; target: where its focus stage must be afterwards, if it has one.
    """

    reason: str = ""
    steps: Sequence[Step] = ()
    problem: str = ""
    target: int | None = None
    facts: Mapping[str, int] = field(default_factory=dict)


Moves = Mapping[str, Move]


def focus_drivers(boards: Sequence[Quabo]) -> list[Quabo]:
    """Those of the boards that have a focus stage."""
    return [quabo for quabo in boards if quabo.index == FOCUS_QUABO]


# --- what would be told -----------------------------------------------------------------------


def fan_moves(work: Work, boards: Sequence[Quabo], speed: int) -> Moves:
    """Fan speed 0..15 for boards.  Reads firmware and positions; nothing is changed."""
    numbers = running_firmware(work, boards)
    new = [q for q in boards if (numbers[q.ip] or 0) >= FOCUS_POSITION_SINCE]
    positions = stage_positions(work, new)

    def move(quabo: Quabo) -> Move:
        number, facts = numbers[quabo.ip], {"speed": speed}
        if number is None:
            return _unknown("a fan command may move the focus stage")
        said = f"{firmware_text(number)}; speed {fan_speed(work, quabo.ip)} -> {speed}"
        if number < FOCUS_POSITION_SINCE:
            return Move(said, command_forms.fan(number, speed, 0), facts=facts)
        position = positions[quabo.ip]
        if isinstance(position, ObsError):
            return Move(problem=f"where its focus stage is cannot be read: {position}")
        has_stage = quabo.index == FOCUS_QUABO
        if position not in FOCUS_POSITIONS and has_stage:
            return Move(
                problem=f"its focus stage is at {position} as its flash says, not at 1..50000, and"
                f" a fan command would move it: config.py --focus N --quabo {quabo.ip} first"
            )
        stays = position if position in FOCUS_POSITIONS else NO_STAGE
        if has_stage:
            said += f"; the focus stage stays at {stays}"
        target = stays if has_stage else None
        return Move(said, command_forms.fan(number, speed, stays), target=target, facts=facts)

    return {quabo.ip: move(quabo) for quabo in boards}


def focus_moves(work: Work, boards: Sequence[Quabo], position: int) -> Moves:
    """Focus stages to 1..50000, 0 = look for the zero.  Reads; nothing is changed."""
    drivers = focus_drivers(boards)
    numbers = running_firmware(work, drivers)
    positions = stage_positions(work, drivers)

    def move(quabo: Quabo) -> Move:
        number, now = numbers[quabo.ip], positions[quabo.ip]
        if number is None:
            return _unknown("it decides whether a position or a number of steps is meant")
        if number < FOCUS_POSITION_SINCE:
            return Move(
                problem=f"{firmware_text(number)} knows no positions, only steps from where it is:"
                f" qc.py {quabo.ip} focus STEPS"
            )
        fan = fan_speed(work, quabo.ip)
        goal = f"position {position}" if position else "recalibrated to its zero"
        said = f"{firmware_text(number)}; from {now} to {goal}; the fan keeps speed {fan}"
        return Move(said, command_forms.focus(position, fan), target=position)

    return {quabo.ip: move(quabo) for quabo in drivers}


def flasher_moves(work: Work, boards: Sequence[Quabo], which: str) -> Moves:
    """Which LED flasher is driven.  A board that does not know the command leaves it alone."""
    numbers = running_firmware(work, boards)

    def move(number: int | None) -> Move:
        if number is not None and number < FLASHER_SINCE:
            text = firmware_text(number)
            return Move(problem=f"{text} has one flasher only; there is a choice from 11.8 on")
        return Move(f"{firmware_text(number)}; the {which} one", command_forms.flasher(which))

    return {ip: move(number) for ip, number in numbers.items()}


def _unknown(why: str) -> Move:
    return Move(
        problem=f"no housekeeping tells its firmware, and {why}; have it sent here:"
        " config.py --hk_dest"
    )


def running_firmware(work: Work, boards: Sequence[Quabo]) -> dict[str, int | None]:
    """The firmware of boards by housekeeping (208 = 20.8), None = not known; up to 7 s."""
    if not boards:
        return {}
    try:
        found = firmware.versions(work, boards)
    except ObsError as error:
        work.console.warn(f"which firmware runs cannot be seen: {error}")
        return dict.fromkeys((quabo.ip for quabo in boards), None)
    return {v.ip: firmware_number(v.release.version) if v.release else None for v in found}


def stage_positions(work: Work, boards: Sequence[Quabo]) -> dict[str, int | ObsError]:
    """Where the focus stages of boards are, as their flash memory says, or why not."""
    obs = work.site.obs

    def ask(ip: str) -> int:
        data = board_tftp.read_flash(
            ip, POSITION_ADDRESS, POSITION_BYTES, obs.tftp_port, flight=work.flight,
            patience=board_tftp.QUICK,
        )  # fmt: skip
        return int.from_bytes(data, "little", signed=True)

    at_once = obs.command_pacing.transfers_at_once
    return board_tftp.on_boards([quabo.ip for quabo in boards], ask, at_once=at_once)


# --- doing it ---------------------------------------------------------------------------------


def tell(work: Work, name: str, moves: Moves) -> list[str]:
    """Tell boards, and see what they show of it; those that confirmed.  The others are faults."""
    for ip, move in moves.items():
        if move.problem:
            work.board_fault(ip, name, move.problem)
    able = {ip: move for ip, move in moves.items() if not move.problem}
    if not able:
        return []
    targets = {ip: move.target for ip, move in able.items() if move.target is not None}
    work.flight.note("step", step=name, boards=list(able))
    with work.console.progress(name, len(able), FOCUS_S) as progress:
        told = partial(run_plans, work, {ip: move.steps for ip, move in able.items()})
        report_s = FOCUS_S if name == FOCUS else REPORT_S
        results = _with_reports(work, targets, report_s, told, lambda ip: progress.advance())
    good = [ip for ip in able if not results[ip].problem]
    for ip, result in results.items():
        if result.problem:
            work.board_fault(ip, name, result.problem)
        elif able[ip].facts:
            work.ledger.finish_other(fan_name(ip), time.time(), {}, able[ip].facts)
    work.book.save()
    blind = [ip for ip in good if results[ip].unconfirmed]
    if blind:
        work.console.warn(f"{name}: {addresses(blind)} cannot confirm what was sent")
    return good


Tell = Callable[[Callable[[str], None]], dict[str, Result]]


def _with_reports(
    work: Work,
    targets: Mapping[str, int],
    report_s: float,
    told: Tell,
    through: Callable[[str], None],
) -> dict[str, Result]:
    """Tell boards while listening for the reports of the focus stages that are to move, or stay."""
    if not targets:
        return told(through)
    moving = [quabo for quabo in work.site.obs.quabos if quabo.ip in targets]
    try:
        watch = open_watch(work.site, moving)
    except ObsError as error:
        work.console.note(f"not verified: focus stage of {addresses(list(targets))}: {error}")
        return told(through)
    with watch:
        return _compared(work, targets, report_s, told, through, watch)


def _compared(
    work: Work,
    targets: Mapping[str, int],
    report_s: float,
    told: Tell,
    through: Callable[[str], None],
    watch: HkWatch,
) -> dict[str, Result]:
    since_unix = time.time()
    results = told(through)
    heard = [ip for ip in targets if not results[ip].problem]
    try:
        reports = wait_focus(watch, heard, since_unix, report_s if heard else 0.0)
    except ObsError as error:
        work.console.note(f"not verified: focus stage of {addresses(heard)}: {error}")
        return results
    for ip, report in reports.items():
        if report.final != targets[ip]:
            results[ip] = Result(
                f"its focus stage was to be at {targets[ip]} and reports {report.final} (status"
                f" {report.status}); look at it, then --focus again"
            )
    right = [ip for ip in reports if not results[ip].problem]
    if right:
        where = ", ".join(f"{ip} at {targets[ip]}" for ip in right)
        work.console.note(f"verified: focus stage of {where}, as it reports")
    silent = [ip for ip in heard if ip not in reports]
    if silent:
        work.console.note(f"not verified: focus stage of {addresses(silent)}: no report has come")
    return results
