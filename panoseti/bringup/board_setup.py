"""Setting boards up: HK destination, masks, MAROC, PH baseline, shutter, high voltage off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from panoseti.boards import command_forms, commands, maroc, packets, verified
from panoseti.boards.board_link import BoardLink, Outcome, Pause, Send, open_link
from panoseti.boards.board_link import Step as LinkStep
from panoseti.boards.board_work import Result, Results, Work, addresses, of_outcome
from panoseti.boards.commands import ChannelMask, GoeMask
from panoseti.bringup.board_settings import CLOSED, OPEN, BoardSettings
from panoseti.bringup.ledger import Ledger, Step
from panoseti.calibration import ph_baselines
from panoseti.configs import settings
from panoseti.configs.load_configs import Site
from panoseti.configs.quabo_config import quabo_config_json
from panoseti.configs.settings import Registers
from panoseti.configs.site import Quabo
from panoseti.errors import ConfigError, ObsError
from panoseti.flight import FlightRecorder
from panoseti.high_voltage import hv_service
from panoseti.high_voltage.hv import HV_OFF
from panoseti.state_files import write_states

QUABO_CONFIG_FOLDER = "quabo_config"
SHUTTER_QUABO = 1
# The shutter takes part of a second; nothing reports its end in time.
SHUTTER_S = 1.0
# Commands that the link does not repeat, such as a PH baseline, are tried so often again.
ONCE_MORE = 2
MAROC_FIRST = "config.py --maroc_config --calibrate_ph"

Plans = Mapping[str, Sequence[LinkStep]]


def quabo_config_file(data_dir: Path, ip: str) -> Path:
    """The record of what a board was last told (MAROC and masks)."""
    return data_dir / QUABO_CONFIG_FOLDER / f"quabo_config_{ip}.json"


def set_hk_destination(work: Work, boards: Sequence[Quabo]) -> list[Quabo]:
    """Have boards send housekeeping to the head node."""
    plan = [Send(commands.HkDestination(work.settings.head_ip()))]
    return work.carry_out(Step.HK_DEST, boards, partial(_tell, work, lambda quabo: plan))


def load_masks(work: Work, boards: Sequence[Quabo]) -> list[Quabo]:
    """Load the trigger masks."""
    masks = {quabo.ip: work.settings.masks(work.uids.get(quabo.ip, "")) for quabo in boards}

    def plan(quabo: Quabo) -> list[LinkStep]:
        return [Send(command) for command in masks[quabo.ip]]

    def keep(good: Sequence[Quabo]) -> None:
        _record(work, {quabo.ip: _Told(masks=masks[quabo.ip]) for quabo in good})

    return work.carry_out(Step.MASKS, boards, partial(_tell, work, plan), keep=keep)


def load_maroc(work: Work, boards: Sequence[Quabo]) -> list[Quabo]:
    """Load the MAROC registers and compare what the boards shift out.

    With pulse height the boards are primed first: a second of PH with a low threshold, without
    which PH events may never come.
    """
    registers: dict[str, Registers] = {}

    def action(able: Sequence[Quabo], through: Callable[[str], None]) -> Results:
        plans: dict[str, list[LinkStep]] = {}
        faults: dict[str, Result] = {}
        for quabo in able:
            try:
                wanted, steps = maroc_plan(work.settings, quabo.ip, work.uids[quabo.ip])
            except ConfigError as error:
                faults[quabo.ip] = Result("; ".join(str(fault) for fault in error.faults))
                continue
            registers[quabo.ip] = wanted
            plans[quabo.ip] = steps
        if registers:  # else the files cannot be read, and that is said
            for warning in work.settings.maroc_warnings(work.uids[ip] for ip in registers):
                work.console.warn(warning)
        return {**run_plans(work, plans, through), **faults}

    def keep(good: Sequence[Quabo]) -> None:
        _record(work, {quabo.ip: _Told(registers[quabo.ip]) for quabo in good})

    return work.carry_out(Step.MAROC, boards, action, keep=keep)


def maroc_plan(settings_now: BoardSettings, ip: str, uid: str) -> tuple[Registers, list[LinkStep]]:
    """The MAROC registers of a board, and what brings them there; ConfigError as usual."""
    wanted, priming = settings_now.registers(ip, uid)
    steps = [] if priming is None else _priming(settings_now.head_ip(), priming)
    return wanted, [*steps, Send(maroc.setup(wanted))]


def _priming(head_ip: str, priming: Registers) -> list[LinkStep]:
    return [
        Send(maroc.setup(priming)),
        Send(commands.DataDestination(head_ip, head_ip)),
        Send(settings.priming_acquisition()),
        Pause(settings.PRIMING_S, "priming"),
        Send(settings.stop_acquisition()),
    ]


def calibrate_ph(work: Work, boards: Sequence[Quabo]) -> dict[str, ph_baselines.Summary]:
    """Measure the PH baselines, with shutters closed; the summary of each board."""
    with dark(work, with_present_maroc(work, boards), Step.PH_BASELINE) as able:
        new = _measure_baselines(work, able)
    return {ip: ph_baselines.summary(values) for ip, values in new.items()}


def with_present_maroc(work: Work, boards: Sequence[Quabo]) -> list[Quabo]:
    """The boards that hold the MAROC settings of the present configs; the others are faults.

    A baseline belongs to the settings it was measured with, and is entered as that of the present
    ones.
    """
    now_unix = time.time()
    able = []
    for quabo in boards:
        try:
            why = work.why(quabo, Step.MAROC, now_unix)
        except ConfigError as error:
            why = "; ".join(str(fault) for fault in error.faults)
        if why is None:
            able.append(quabo)
        else:
            text = f"not measured, MAROC comes first ({why}): {MAROC_FIRST}"
            work.board_fault(quabo.ip, Step.PH_BASELINE, text)
    return able


@contextmanager
def dark(
    work: Work, boards: Sequence[Quabo], step: Step | str, with_hv: bool = False
) -> Iterator[list[Quabo]]:
    """With the shutters of these boards closed: the boards in the dark that have not failed.

    Where a shutter does not close, all boards of its module become faults of `step`.  So do they
    where nobody can close it, its driver being absent, if their detectors have HV; without HV that
    is a warning.  Shutters that the ledger knows as open are opened again.
    """
    drivers, absent = _drivers(work, boards)
    reopen = [q for q in drivers if shutter_state(work.ledger, q) == OPEN]
    close = [q for q in drivers if shutter_state(work.ledger, q) != CLOSED]
    if close:
        move_shutters(work, close, CLOSED)
        time.sleep(SHUTTER_S)
    shutter = "the shutter of its module, which"
    lit = {
        q.module_id: f"{shutter} {q.ip} drives, is not closed"
        for q in drivers
        if shutter_state(work.ledger, q) != CLOSED
    }
    if with_hv:
        lit |= {q.module_id: f"{shutter} {q.ip} drives, may be open: it is absent" for q in absent}
    else:
        for quabo in absent:
            work.console.warn(
                f"{work.site.obs.module(quabo.module_id).label}: {quabo.ip}, which drives its"
                " shutter, is absent: whether light falls on its detectors is not known"
            )
    for quabo in boards:
        reason = lit.get(quabo.module_id)
        if reason is not None and quabo.ip not in work.failed:
            work.board_fault(quabo.ip, step, f"left out: {reason}")
    try:
        yield [quabo for quabo in boards if quabo.ip not in work.failed]
    finally:
        move_shutters(work, [q for q in reopen if shutter_state(work.ledger, q) == CLOSED], OPEN)


def _measure_baselines(work: Work, boards: Sequence[Quabo]) -> dict[str, tuple[int, ...]]:
    """The values of each board that has measured them, which are kept."""
    new: dict[str, tuple[int, ...]] = {}
    plan = [Send(commands.CalibratePhBaseline())]

    def action(able: Sequence[Quabo], through: Callable[[str], None]) -> Results:
        outcomes = send_plans(work, {q.ip: plan for q in able}, through)
        for ip, outcome in outcomes.items():
            if outcome.ok and outcome.replies[-1] is not None:
                new[ip] = packets.parse_ph_baseline(outcome.replies[-1])
        return {ip: of_outcome(outcome) for ip, outcome in outcomes.items()}

    def keep(good: Sequence[Quabo]) -> None:
        _keep_baselines(work, {quabo.ip: new[quabo.ip] for quabo in good})

    good = work.carry_out(Step.PH_BASELINE, boards, action, keep=keep)
    return {quabo.ip: new[quabo.ip] for quabo in good}


def _keep_baselines(work: Work, new: Mapping[str, tuple[int, ...]]) -> None:
    data_dir = work.site.head_data_dir
    try:
        earlier = ph_baselines.earlier_baselines(data_dir)
    except ConfigError as error:
        work.console.warn(f"{error}; it is replaced")
        earlier = None
    present = {ip: uid for ip, uid in work.uids.items() if uid}
    by_uid = {work.uids[ip]: values for ip, values in new.items()}
    merged = ph_baselines.merged(earlier, by_uid, present, work.ledger, time.time())
    ph_baselines.write_baselines(data_dir, merged)


def move_shutters(work: Work, boards: Sequence[Quabo], state: str) -> list[Quabo]:
    """Open or close the shutters that these boards (quabo 1 of their modules) drive.

    Firmware up to 11.1 has another command for it.
    """
    value, found = work.site.obs.shutter_open_value, known_firmware(work, boards)
    plans = {
        ip: command_forms.shutter(number, state == OPEN, value, fan_speed(work, ip))
        for ip, number in found.items()
    }
    unknown = [ip for ip, number in found.items() if number is None]
    if unknown:
        work.console.detail(f"firmware of {addresses(unknown)} is not known: shutter command 0x08")

    def action(able: Sequence[Quabo], through: Callable[[str], None]) -> Results:
        results = run_plans(work, {quabo.ip: plans[quabo.ip] for quabo in able}, through)
        told = [ip for ip, result in results.items() if not result.problem]
        seen = verified.see_shutters(work, told, state, time.time())
        return {**results, **{ip: Result(text) for ip, text in seen.wrong.items()}}

    return work.carry_out(Step.SHUTTER, boards, action, work.settings.shutter_inputs(state))


def known_firmware(work: Work, boards: Sequence[Quabo]) -> dict[str, int | None]:
    """The firmware of boards by address (208 = 20.8), None = not known: what they last said."""
    heard = verified.heard_firmware(work, boards)
    found = {}
    for quabo in boards:
        reboot = work.ledger.done(quabo.ip, Step.REBOOT)
        booted = str(reboot.facts.get("fwver", "")) if reboot else ""
        found[quabo.ip] = command_forms.firmware_number(heard.get(quabo.ip) or booted)
    return found


def fan_name(ip: str) -> str:
    """The entry of the ledger that says how fast the fan of a board was told to be."""
    return f"fan of {ip}"


def fan_speed(work: Work, ip: str) -> int:
    """The speed that the fan of a board was told last; 0 when it never was, as after a boot."""
    entry = work.ledger.others.get(fan_name(ip))
    booted_unix = work.ledger.done_unix(ip, Step.REBOOT) or 0.0
    if entry is None or (entry.done_unix or 0.0) < booted_unix:
        return 0
    return int(entry.facts.get("speed") or 0)


def shutter_state(ledger: Ledger, quabo: Quabo) -> str:
    """OPEN or CLOSED as the ledger has it, "" when it is not known."""
    entry = ledger.done(quabo.ip, Step.SHUTTER)
    return str(entry.inputs.get("", {}).get("shutter", "")) if entry else ""


def shutter_drivers(boards: Sequence[Quabo]) -> list[Quabo]:
    """Those of the boards that drive a shutter."""
    return [quabo for quabo in boards if quabo.index == SHUTTER_QUABO]


def _drivers(work: Work, boards: Sequence[Quabo]) -> tuple[list[Quabo], list[Quabo]]:
    """The boards that drive the shutters in front of these boards: present ones, absent ones."""
    modules = [work.site.obs.module(i) for i in dict.fromkeys(q.module_id for q in boards)]
    drivers = [module.quabos[SHUTTER_QUABO] for module in modules]
    present = [driver for driver in drivers if work.uids.get(driver.ip)]
    return present, [driver for driver in drivers if driver not in present]


def hv_off(
    site: Site, boards: Sequence[Quabo], flight: FlightRecorder, in_passing: bool = False
) -> dict[str, str | None]:
    """Switch the high voltage of boards off, before all others who send; each board's problem.

    in_passing: it is done again, so that a board that is silent costs half a second.
    """
    codes = dict.fromkeys((quabo.ip for quabo in boards), HV_OFF)

    def link(priority: bool) -> BoardLink:
        return open_link(site, flight, priority)

    timeout_s = hv_service.SHORT_TIMEOUT_S if in_passing else None
    tries = hv_service.SHORT_TRIES if in_passing else None
    return hv_service.send_codes(link, site.obs.echo_by_ip, codes, timeout_s, tries)


# --- what the steps share ---------------------------------------------------------------------


def _tell(
    work: Work,
    plan: Callable[[Quabo], Sequence[LinkStep]],
    boards: Sequence[Quabo],
    through: Callable[[str], None],
) -> Results:
    return run_plans(work, {quabo.ip: plan(quabo) for quabo in boards}, through)


def run_plans(work: Work, plans: Plans, through: Callable[[str], None]) -> dict[str, Result]:
    """The results of plans, all of which may be carried out again from their beginning."""
    return {ip: of_outcome(outcome) for ip, outcome in send_plans(work, plans, through).items()}


def send_plans(work: Work, plans: Plans, through: Callable[[str], None]) -> dict[str, Outcome]:
    """What became of the plans, all of which may be carried out again from their beginning.

    That is done where the answer to a command was lost that the link sends only once.
    """
    with work.link() as link:
        outcomes = link.run(plans, work.echo, through)
        for _ in range(ONCE_MORE):
            again = {ip: plans[ip] for ip, outcome in outcomes.items() if outcome.once_lost}
            if not again:
                break
            work.console.note(f"lost answers: {addresses(list(again))}: once more")
            outcomes |= link.run(again, work.echo)
    return outcomes


@dataclass(frozen=True)
class _Told:
    """What a board was told and has confirmed; None = nothing of that kind."""

    registers: Registers | None = None
    masks: tuple[ChannelMask, GoeMask] | None = None


def _record(work: Work, told: Mapping[str, _Told]) -> None:
    """Keep what boards were told, by address, in their quabo_config_<ip>.json."""
    files: dict[Path, bytes] = {}
    try:
        for ip, one in told.items():
            path = quabo_config_file(work.site.head_data_dir, ip)
            path.parent.mkdir(parents=True, exist_ok=True)
            files[path] = _record_text(work, path, one).encode()
        write_states(files)
    except OSError as error:
        where = error.filename or work.site.head_data_dir / QUABO_CONFIG_FOLDER
        raise ObsError(f"{where}: cannot be written: {error.strerror}") from error


def _record_text(work: Work, path: Path, one: _Told) -> str:
    """The record of a board with what it was told now; a damaged one is begun anew."""
    words = tuple(one.masks[0].words) if one.masks else None
    goe = one.masks[1].value if one.masks else None
    record = partial(
        quabo_config_json,
        registers=one.registers,
        channel_mask=words,
        goe_mask=goe,
        name=path.name,
    )
    try:
        return record(path.read_text() if path.exists() else "")
    except (ConfigError, ValueError) as error:  # also what is no UTF-8
        work.console.warn(f"{path}: damaged ({error}); it is written anew")
        return record("")
