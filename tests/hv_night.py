"""A simulated site with Redis, a power switch and the session's daemons, for tests of HV."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseti.boards.addresses import redis_key
from panoseti.configs.board_files import QUABO_UIDS, load_board_db, quabo_uids_text
from panoseti.configs.load_configs import load_site
from panoseti.configs.settings import hv_codes
from panoseti.high_voltage.hv import HV_OFF
from panoseti.high_voltage.hv_asked import ask
from panoseti.high_voltage.safety import PATIENCE_S, STUCK_S
from panoseti.housekeeping.store import Record, Store
from simulator.client import SimulatorClient
from simulator.make_boards import write_boards
from simulator.power_switch import PowerSwitchServer
from simulator.sites import uid_of
from tests.helpers import wait_for
from tests.redis_server import PrivateRedis, private_redis
from tests.running_daemon import RunningDaemon, running_daemon
from tests.simulated import Simulation, simulation
from tests.site_files import DAQ, OBS, changed, write_site

MODULES = (1, 254)
OUTLET = 3
Codes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pace:
    """How fast a night is: daemons' interval, HK period, age at which HK counts as absent, s.

    stuck_s, patience_s: of temperature_guard; time_scale: boards run so many times faster than
    real.
    """

    interval_s: float = 0.1
    hk_period_s: float = 0.1
    max_age_s: float = 4.0
    stuck_s: float = STUCK_S
    patience_s: float = PATIENCE_S
    time_scale: float = 20.0


REAL = Pace(interval_s=1.0, hk_period_s=3.0, max_age_s=15.0, time_scale=1.0)
HASTY = Pace(stuck_s=1.0, patience_s=2.0)


class HvNight:
    """The site, and its daemons, started as a test wants them."""

    def __init__(
        self, sim: Simulation, redis: PrivateRedis, switch: PowerSwitchServer, pace: Pace
    ) -> None:
        self.sim, self.redis, self.switch, self.pace = sim, redis, switch, pace
        self.config_dir = sim.config_dir
        self.data_dir = sim.config_dir.parent / "data"
        self.data_dir.mkdir()
        self.write_site()
        write_boards(self.config_dir / "quabos", MODULES)
        self.site = load_site(self.config_dir)
        self.stack = ExitStack()
        self.begin_s = 0.0
        self.daemons: dict[str, RunningDaemon] = {}
        self.control = self.stack.enter_context(sim.client())
        self.store = self.stack.enter_context(Store(port=redis.port))
        self.write_uids()

    def write_site(self, **fields: Any) -> None:
        """The configs; fields: further ones of obs_config.json."""
        first, second = self.sim.bases
        obs = changed(OBS, {
            ("wps",): {"url": self.switch.url, "quabo_socket": OUTLET},
            ("domes", 0, "modules", 0, "ip_addr"): first,
            ("domes", 0, "modules", 1, "ip_addr"): second,
            ("redis_port",): self.redis.port,
            ("hk_max_age_s",): self.pace.max_age_s,
        })  # fmt: skip
        daq = changed(DAQ, {
            ("head_node_ip_addr",): self.sim.head,
            ("head_node_data_dir",): str(self.data_dir),
        })  # fmt: skip
        write_site(self.config_dir, obs | fields, daq)

    def write_uids(self, absent: tuple[str, ...] = ()) -> None:
        """What the UID scan of config.py would leave."""
        uids = {q.ip: uid_of(q.boardloc) for q in self.site.obs.quabos if q.ip not in absent}
        temporary = self.data_dir / "uids.tmp"
        temporary.write_text(quabo_uids_text(self.site.obs, uids))
        temporary.replace(self.data_dir / QUABO_UIDS)
        ask(self.data_dir, [quabo.ip for quabo in self.site.obs.quabos])

    # --- daemons ---

    def start(self, name: str, *extra: str) -> RunningDaemon:
        """Start daemons/<name>.py; it ends with the test."""
        words = ["--follow_s", "0.5"] if name == "hv_updater" and self.pace != REAL else []
        daemon = self.stack.enter_context(
            running_daemon(
                name, self.config_dir, self.data_dir, *words, *extra,
                interval_s=self.pace.interval_s,
            )
        )  # fmt: skip
        self.daemons[name] = daemon
        return daemon

    def hv_on(
        self, *guard_words: str, updater_words: Iterable[str] = (), off: Iterable[str] = ()
    ) -> RunningDaemon:
        """All daemons at work, HV on by the formula, but for some boards."""
        self.start("capture_hk")
        limits = "--stuck_s", str(self.pace.stuck_s), "--patience_s", str(self.pace.patience_s)
        self.start("temperature_guard", *limits, *guard_words)
        updater = self.start("hv_updater", *updater_words)
        self.wait_on(off)
        return updater

    def wait_on(self, off: Iterable[str] = ()) -> None:
        """Wait until HV is on by the formula, but for some boards, and the updater says so."""
        expected = set(off)

        def on() -> bool:
            return self.codes() == self.formula() | dict.fromkeys(expected, HV_OFF)

        wait_for(on, "HV on", 60 if self.pace == REAL else 20)
        self.daemons["hv_updater"].wait_for(
            lambda beat: all(
                board["hv"] == "on" for ip, board in beat.details["boards"].items()
                if ip not in expected
            ),
            "HV on, seen",
        )  # fmt: skip

    # --- boards ---

    @property
    def ips(self) -> tuple[str, ...]:
        """Addresses of all boards, module 1 first."""
        return self.sim.quabos

    def boards(self) -> dict[str, Any]:
        """The simulated boards as they are."""
        boards: dict[str, Any] = self.control.request(do="state", tables=False)["boards"]
        return boards

    def codes(self) -> Codes:
        """The HV codes each board has."""
        return {ip: tuple(board["hv"]["codes"]) for ip, board in self.boards().items()}

    def volts(self) -> dict[str, float]:
        """The highest bias of each board, V."""
        return {ip: max(board["hv"]["volts"]) for ip, board in self.boards().items()}

    def formula(self) -> Codes:
        """The codes that follow from the boards' temperatures as they are."""
        db = load_board_db(self.config_dir)
        boards = self.boards()
        return {
            q.ip: hv_codes(
                db.nominal_v(uid_of(q.boardloc), 3), round(boards[q.ip]["temp1_c"] / 0.25) * 0.25
            )
            for q in self.site.obs.quabos
        }

    def wait_codes(self, wanted: Codes, what: str, timeout_s: float = 10) -> None:
        """Wait until every board has the wanted codes."""
        wait_for(lambda: self.codes() == wanted, what, timeout_s)

    def all_off(self) -> Codes:
        """The codes when everything is off."""
        return dict.fromkeys(self.ips, HV_OFF)

    def record(self, ip: str) -> Record:
        """The HK record of a board."""
        return self.store.get_record(redis_key(self.site.obs.quabo(ip).boardloc))

    def new_packet(self, ip: str) -> None:
        """Wait for the next HK packet but one of a board: it shows what is so now."""
        for _ in range(2):
            last = self.record(ip).get("Computer_UTC")
            wait_for(lambda last=last: self.record(ip).get("Computer_UTC") != last, "HK")  # type: ignore[misc]

    def cure(self) -> None:
        """End all faults, so that the end of the daemons need not wait for silent boards."""
        client: SimulatorClient = self.control
        client.fault("all", "none")

    def begin(self) -> None:
        """The cause is now: `time_off` counts from here."""
        self.begin_s = time.monotonic()

    def time_off(self, ips: Iterable[str], limit_s: float, what: str) -> float:
        """Wait until these boards are below 1 V; how long after the last `begin`, s."""
        wanted = set(ips)

        def off() -> bool:
            return max(volt for ip, volt in self.volts().items() if ip in wanted) < 1.0

        wait_for(off, f"HV off: {what}", limit_s)
        return time.monotonic() - self.begin_s


@contextmanager
def hv_night(folder: Path, pace: Pace = Pace()) -> Iterator[HvNight]:
    """A night that has just begun: boards answer, nothing else runs."""
    options = ("--silver", "--hk_period_s", str(pace.hk_period_s))
    with (
        private_redis(folder) as redis,
        PowerSwitchServer() as switch,
        simulation(folder, MODULES, options, pace.time_scale) as sim,
    ):
        night = HvNight(sim, redis, switch, pace)
        with night.stack:
            yield night
            night.cure()


def two_outlets(night: HvNight) -> None:
    """Each module has an outlet of its own."""
    obs = json.loads((night.config_dir / "obs_config.json").read_text())
    obs["domes"][0]["modules"][1]["wps"] = "wps_2"
    night.write_site(
        domes=obs["domes"], wps_2={"url": night.switch.url, "quabo_socket": OUTLET + 1}
    )


def feed_modules(night: HvNight) -> None:
    """From now on the outlets feed the boards."""

    def feed(outlet: int, on: bool) -> None:
        with night.sim.client() as client:
            client.power("module:1" if outlet == OUTLET else "module:254", on)

    night.switch.on_switch = feed
