"""What config.py can be asked to do to the devices of a module: power, fans, focus, flashers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from panoseti.boards import outlets
from panoseti.boards.outlets import OutletState
from panoseti.bringup import mechanics, power
from panoseti.bringup.config_request import Job, Task
from panoseti.bringup.mechanics import FAN, FLASHER, FOCUS, Moves


def show_power(job: Job, needed: bool = False) -> list[OutletState]:
    """The outlets of the modules at work; a switch that does not answer is shown as such.

    needed: that there are none is a ConfigError.
    """
    found = power.states(job.work, needed)
    job.document["power"] = outlets.as_json(found)
    if found and not job.console.json_output:
        job.console.table(outlets.COLUMNS, outlets.as_table(found))
    return found


def _query(job: Job) -> None:
    for state in show_power(job, needed=True):
        if state.on is None:
            job.work.fault(f"outlet {state.outlet} of {state.switch}", power.STEP, state.problem)


def _on(job: Job) -> None:
    found = power.whole_feeds(job.work)
    off = power.unpowered(job.work, [module for feed in found for module in feed.modules])
    limit_s = job.work.site.obs.power_on_timeout_s
    for ip in power.power_on(job.work, off):
        text = f"no answer {limit_s:g} s after its outlet was switched on; look at its cables"
        job.work.board_fault(ip, power.STEP, text)
    show_power(job)
    if off and not job.work.problems:
        job.console.note("next: config.py, which boots these boards and sets them up")


def _off(job: Job) -> None:
    power.hv_and_power_off(job.work, power.whole_feeds(job.work))
    show_power(job)


def _would_switch(on: bool) -> Callable[[Job], Mapping[str, str]]:
    def plan(job: Job) -> dict[str, str]:
        found = power.whole_feeds(job.work)
        asked = outlets.look(job.work.site.obs, found)
        return {
            feed.label: f"{feed.names}; it is {state.text}"
            for feed, state in zip(found, asked, strict=True)
            if state.on is not on
        }

    return plan


# --- fan, focus, flasher ----------------------------------------------------------------------


def _moves(job: Job, name: str) -> Moves:
    work, value = job.work, job.request.values[name]
    if name == FAN:
        return mechanics.fan_moves(work, job.boards(), value)
    if name == FLASHER:
        return mechanics.flasher_moves(work, job.boards(), value)
    if not mechanics.focus_drivers(job.boards()):
        work.fault(FOCUS, str(value), "no quabo 0, which has the stage, among these boards")
    return mechanics.focus_moves(work, job.boards(), value)


def _tell(name: str) -> Callable[[Job], None]:
    def do(job: Job) -> None:
        moves = _moves(job, name)
        good = mechanics.tell(job.work, name, moves)
        job.document[name] = {
            ip: {"ok": ip in good, "what": move.reason, "problem": move.problem}
            for ip, move in moves.items()
        }
        for ip in good:
            job.console.out(f"{name} of {ip}: {moves[ip].reason}")

    return do


def _plan(name: str) -> Callable[[Job], Mapping[str, str]]:
    def plan(job: Job) -> dict[str, str]:
        moves = _moves(job, name)
        for ip, move in moves.items():
            if move.problem:
                job.work.board_fault(ip, name, move.problem)
        return {ip: move.reason for ip, move in moves.items() if not move.problem}

    return plan


DEVICE_TASKS = (
    Task("power", _query, "ask the power switches", False, True),
    Task("power_on", _on, "switch power on", plan=_would_switch(True)),
    Task("power_off", _off, "switch power off", plan=_would_switch(False)),
    Task(FAN, _tell(FAN), "set the fan", in_run=True, plan=_plan(FAN)),
    Task(FOCUS, _tell(FOCUS), "move the focus stage", in_run=True, plan=_plan(FOCUS)),
    Task(FLASHER, _tell(FLASHER), "choose the flasher", in_run=True, plan=_plan(FLASHER)),
)
