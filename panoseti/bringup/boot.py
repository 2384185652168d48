"""From power-on to running boards: ping, UIDs, silver firmware (power itself: power.py).

Golden firmware runs after power-on; `reboot` has the FPGA load the silver one.  Boards of a
module hang behind one another, so a module is rebooted in the order 0, 1, 2, 3, each board back
before the next one goes; all modules do the same index together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from panoseti.boards import board_tftp, commands, firmware, reach
from panoseti.boards.board_link import Send
from panoseti.boards.board_work import Result, Results, Work, addresses, of_outcome, result_of
from panoseti.boards.firmware_images import Release
from panoseti.bringup.ledger import NOTED, UID_NAME, Step, Value
from panoseti.configs.site import Quabo
from panoseti.errors import ObsError
from panoseti.housekeeping.hk_watch import (
    Boot,
    Firmware,
    HkWatch,
    PortWatch,
    open_watch,
    wait_heard,
)

PING_TIMEOUT_S = 2.0
# While a board is awaited it is pinged this often, and so long each time.
PING_EVERY_S, SHORT_PING_S = 1.0, 0.5
LOOK_S = 0.25
# Between a ping that comes back and the first HK packet.
BOOT_PACKET_S = 5.0
# An HK packet is sent every 3 s, and at once when the interval is set.
HK_WAIT_S = 7.0


# --- ping and UIDs ----------------------------------------------------------------------------


def ping(work: Work, boards: Sequence[Quabo]) -> set[str]:
    """The boards that answer."""
    with work.console.progress("ping", len(boards)) as progress:
        ips = [quabo.ip for quabo in boards]
        answers = reached(work, ips, PING_TIMEOUT_S, lambda ip: progress.advance())
    return {ip for ip, answered in answers.items() if answered}


def reached(
    work: Work,
    ips: Sequence[str],
    timeout_s: float,
    through: Callable[[str], None] | None = None,
) -> dict[str, bool]:
    """Which of the boards answer ping within that time."""
    obs = work.site.obs
    return reach.ping(ips, obs.tftp_port, timeout_s, through, obs.command_pacing.pings_at_once)


def ask_uids(
    work: Work, ips: Sequence[str], through: Callable[[str], None] | None = None
) -> dict[str, str | ObsError]:
    """The UIDs that boards say, or why not."""
    obs = work.site.obs
    return board_tftp.on_boards(
        ips,
        lambda ip: board_tftp.get_uid(ip, obs.tftp_port, flight=work.flight),
        through,
        obs.command_pacing.pings_at_once,
    )


def read_uids(work: Work, boards: Sequence[Quabo]) -> list[Quabo]:
    """Ask boards that answer ping for their UIDs and keep them in quabo_uids.json."""

    def action(able: Sequence[Quabo], through: Callable[[str], None]) -> Results:
        found = ask_uids(work, [quabo.ip for quabo in able], through)
        results = {}
        for ip, answer in found.items():
            uid = "" if isinstance(answer, ObsError) else answer
            work.uids[ip] = uid
            results[ip] = Result(result_of(answer).problem, {UID_NAME: uid})
        work.save_uids()
        return results

    good = work.carry_out(Step.UID, boards, action)
    _warn_of_strangers(work, good)
    return good


def _warn_of_strangers(work: Work, boards: Iterable[Quabo]) -> None:
    db = work.settings.db
    strangers = [f"{q.ip} ({work.uids[q.ip]})" for q in boards if work.uids[q.ip] not in db.boards]
    if strangers:
        work.console.warn(
            f"UID: {addresses(strangers)}: not in {db.folder / 'quabo_info.json'}; without an"
            " entry there is no MAROC setting and no high voltage for them"
        )


# --- reboot -----------------------------------------------------------------------------------


def reboot(work: Work, boards: Sequence[Quabo]) -> dict[str, Firmware]:
    """Boot the silver firmware of boards; what runs now, by address, of those that came back."""
    silver: dict[str, Firmware] = {}
    able = firmware.bootable(work, boards)
    limit_s = work.site.obs.reboot_timeout_s + BOOT_PACKET_S + HK_WAIT_S
    with open_watch(work.site, able) as watch:
        for index in range(4):
            batch = [q for q in able if q.index == index and q.ip not in work.failed]
            if not batch:
                continue
            work.console.note(f"reboot: quabo {index} of {len(batch)} modules")

            def action(able: Sequence[Quabo], through: Callable[[str], None]) -> Results:
                return _Reboot(work, watch, able, through).run()

            for quabo in work.carry_out(Step.REBOOT, batch, action, limit_s=limit_s):
                facts = work.ledger.boards[quabo.ip][Step.REBOOT].facts
                silver[quabo.ip] = Firmware(str(facts["fwver"]), str(facts["fwtime"]))
    _warn_of_oddities(work, silver)
    return silver


class _Reboot:
    """One index of all modules: order the reboot, then wait for each board to come back."""

    def __init__(
        self,
        work: Work,
        watch: HkWatch,
        boards: Sequence[Quabo],
        through: Callable[[str], None],
    ) -> None:
        self._work = work
        self._watch = watch
        self._port = work.site.obs.tftp_port
        self._ips = [quabo.ip for quabo in boards]
        self._through = through
        self._results: dict[str, Result] = {}
        self._gone: set[str] = set()
        self._back_s: dict[str, float] = {}

    def run(self) -> Results:
        """What became of each board."""
        answers = reached(self._work, self._ips, PING_TIMEOUT_S)
        for ip in self._ips:
            if not answers[ip]:
                self._end(ip, Result("does not answer ping; is it powered?"))
        self._watch.look(0)
        ordered_unix = time.time()
        orders = board_tftp.on_boards(
            self._pending(),
            lambda ip: board_tftp.reboot(ip, self._port, flight=self._work.flight),
            at_once=self._work.site.obs.command_pacing.pings_at_once,
        )
        for ip, answer in orders.items():
            if isinstance(answer, ObsError):
                self._end(ip, Result(str(answer).removeprefix(f"{ip}: ")))
        self._wait(ordered_unix)
        self._prove_silver()
        return self._results

    def _pending(self) -> list[str]:
        return [ip for ip in self._ips if ip not in self._results]

    def _end(self, ip: str, result: Result) -> None:
        self._results[ip] = result
        self._through(ip)

    def _wait(self, ordered_unix: float) -> None:
        """Until each board has sent its first HK packet, or answers ping again, or is given up."""
        timeout_s = self._work.site.obs.reboot_timeout_s
        deadline = time.monotonic() + timeout_s
        pinged_s = time.monotonic()
        while waiting := [ip for ip in self._pending() if not self._is_back(ip)]:
            self._watch.look(LOOK_S)
            for ip in waiting:
                boot = self._watch.boots.get(ip)
                if boot is not None and boot.utc_s >= ordered_unix:
                    self._end(ip, Result(facts=self._facts(ip, boot)))
            now_s = time.monotonic()
            if now_s - pinged_s >= PING_EVERY_S:
                self._ping(self._pending())
                pinged_s = time.monotonic()
            if now_s > deadline:
                for ip in self._pending():
                    if ip not in self._back_s:
                        self._end(ip, Result(self._time_out(ip, timeout_s)))

    def _is_back(self, ip: str) -> bool:
        """Whether its first HK packet need not be awaited any longer."""
        back_s = self._back_s.get(ip)
        return back_s is not None and time.monotonic() - back_s > BOOT_PACKET_S

    def _ping(self, ips: Sequence[str]) -> None:
        """A board counts as back only after it was seen to be gone."""
        for ip, answers in reached(self._work, ips, SHORT_PING_S).items():
            if not answers:
                self._gone.add(ip)
                self._back_s.pop(ip, None)
            elif ip in self._gone:
                self._back_s.setdefault(ip, time.monotonic())

    def _time_out(self, ip: str, timeout_s: float) -> str:
        if ip in self._gone:
            return (
                f"no sign of life {timeout_s:g} s after the reboot, neither housekeeping nor ping;"
                " power-cycle the module, and if that does not help load the firmware anew"
            )
        return (
            f"answers as before, {timeout_s:g} s after it was told to reboot, and sent no boot"
            " packet; try again, or power-cycle the module"
        )

    def _facts(self, ip: str, boot: Boot) -> dict[str, Value]:
        """What runs; and the note of capture_hk, if that listens: another one is another boot."""
        facts: dict[str, Value] = {"fwver": boot.firmware.version, "fwtime": boot.firmware.built}
        noted = self._watch.boots.get(ip)
        if noted is not None and not isinstance(self._watch, PortWatch):
            facts[NOTED] = noted.utc_s
        return facts

    def _prove_silver(self) -> None:
        """Boards that came back by ping alone: only the silver firmware sends housekeeping."""
        unproven = self._pending()
        if not unproven:
            return
        since_unix = time.time()
        head_ip = self._work.settings.head_ip()
        plan = [Send(commands.HkDestination(head_ip)), Send(commands.HkInterval(1))]
        with self._work.link() as link:
            outcomes = link.run(dict.fromkeys(unproven, plan), self._work.echo)
        silent = wait_heard(self._watch, unproven, since_unix, HK_WAIT_S)
        for ip in unproven:
            if ip not in silent:
                found = Boot(self._watch.heard[ip], self._watch.firmware[ip])
                self._end(ip, Result(facts=self._facts(ip, found)))
                continue
            problem = of_outcome(outcomes[ip]).problem
            self._end(
                ip,
                Result(
                    problem
                    or "answers ping again but sends no housekeeping: the golden firmware seems to"
                    " run; power-cycle the module, and if that does not help load the firmware anew"
                ),
            )


def _warn_of_oddities(work: Work, silver: dict[str, Firmware]) -> None:
    """Firmware that is not what these boards should run."""
    running: dict[str, Release | None] = {
        ip: Release(found.version, found.built) for ip, found in silver.items()
    }
    for version in firmware.judged(work, running):
        if version.odd:
            work.console.warn(f"{version.ip}: {version.odd}")
