"""What boards show, against what they were told: housekeeping as it comes, one packet at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from panoseti.boards import verified
from panoseti.boards.board_work import Work
from panoseti.bringup import session
from panoseti.bringup.ledger import UID_NAME, Ledger, Step
from panoseti.bringup.ledger_file import LedgerFile
from panoseti.bringup.session import HV_UPDATER, DaemonState
from panoseti.configs.load_configs import load_site
from panoseti.configs.site import FirmwareFiles, Quabo
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.housekeeping.hk_watch import Firmware, Shown
from panoseti.launch import Heartbeat
from simulator.sites import uid_of
from tests.site_files import DAQ, OBS, changed, write_site

CODES = (47468, 47468, 47468, 47468)
ON_V, OFF_V, RISING_V = (54.1,) * 4, (0.0,) * 4, (11.9,) * 4
Volts = tuple[float, ...]


class FakeWatch:
    """Shows one packet of each board after the other; the last one stays."""

    def __init__(self, packets: dict[str, list[Shown]], firmware: dict[str, Firmware]) -> None:
        self._packets = packets
        self.firmware = firmware
        self.shown: dict[str, Shown] = {}
        self.looks = 0

    def __enter__(self) -> FakeWatch:
        self.look(0)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def look(self, timeout_s: float) -> None:
        self.looks += 1
        for ip, packets in self._packets.items():
            self.shown[ip] = packets.pop(0) if len(packets) > 1 else packets[0]


class Scene:
    """A module, its last board BGA; tests change what is said of boards and what they show."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        daq = changed(DAQ, {("head_node_data_dir",): str(folder / "data")})
        obs = changed(OBS, {("domes", 0, "modules", 1, "quabo_version"): ["qfp"] * 3 + ["bga"]})
        site = load_site(write_site(folder / "site", obs, daq))
        site.head_data_dir.mkdir()
        self.boards: Sequence[Quabo] = site.obs.modules[1].quabos
        self.ips = [quabo.ip for quabo in self.boards]
        book = LedgerFile(site.head_data_dir, Ledger(), keep=False)
        uids = {quabo.ip: uid_of(quabo.boardloc) for quabo in self.boards}
        flight = FlightRecorder(site.head_data_dir, "test")
        self.work = Work(site, self.boards, book, Console(), flight, uids)
        for ip, uid in uids.items():
            self.work.ledger.finish(ip, Step.UID, 1.0, {}, {UID_NAME: uid})
        settings = self.work.settings
        self.states: dict[str, dict[str, Any]] = {
            ip: {
                "hv": "on",
                "codes": list(CODES),
                "reason": "",
                "nominal_v": [*settings.nominal_v(uid)],
            }
            for ip, uid in uids.items()
        }
        self.firmware = {ip: Firmware("0208", "0x28b4667a") for ip in uids}
        self.firmware[self.ips[3]] = Firmware("0209", "0x28b4667a")
        self.pcbrev = dict.fromkeys(uids, 0)
        self.amperes: tuple[float, ...] = (1.1e-4,) * 4
        self.watch = FakeWatch({}, {})
        self.updater_works = True
        monkeypatch.setattr(verified, "_watch", lambda work, boards: self.watch)
        monkeypatch.setattr(session, "state", self._state)

    def _state(self, name: str, data_dir: Path) -> DaemonState:
        now_unix = time.time()
        beat = Heartbeat(name, 1, now_unix, now_unix, 1.0, "ok", {"boards": self.states})
        works = self.updater_works or name != HV_UPDATER
        return DaemonState(name, 1, beat) if works else DaemonState(name, None, None, "is off")

    def look(self, *volts: Volts) -> dict[str, verified.Check]:
        """The first board shows these voltages in turn, the others are well."""
        packets = {}
        for ip in self.ips:
            packets[ip] = [
                Shown(time.time() + n, these, self.amperes, 0, self.pcbrev[ip])
                for n, these in enumerate(volts if ip == self.ips[0] else (ON_V,))
            ]
        self.watch = FakeWatch(packets, self.firmware)
        return {check.what: check for check in verified.look_at(self.work, self.boards)}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_high_voltage_is_what_the_updater_has_set_or_it_is_wrong(scene: Scene) -> None:
    assert scene.look(ON_V)["HV"].good == scene.ips
    for volts in (RISING_V, OFF_V, (54.1, 54.1, 0.0, 54.1)):
        check = scene.look(volts)["HV"]
        assert check.good == scene.ips[1:]
        assert check.wrong[scene.ips[0]].startswith(f"HVMON shows {volts[0]:.1f} ")
        assert scene.watch.looks == 1, "no time is lost where nothing was measured"


def test_high_voltage_of_other_files_is_wrong_though_hvmon_agrees(scene: Scene) -> None:
    first = scene.ips[0]
    scene.states[first]["nominal_v"] = [56.0] * 4
    check = scene.look(ON_V)["HV"]
    assert check.good == scene.ips[1:]
    assert check.wrong[first].startswith("set for 56 56 56 56 V at 25 degC, but the files ask for")


@pytest.mark.parametrize(
    ("ampere", "odd"), [(1.1e-4, ""), (9.9e-5, ""), (9.7e-5, "97"), (5e-6, "5")]
)
def test_a_current_below_that_of_the_bleeder_is_odd(scene: Scene, ampere: float, odd: str) -> None:
    """54.1 V at the bleeder are 108.4 uA; a detector may draw something beside it."""
    scene.amperes = (1.1e-4, 1.5e-4, ampere, 1.1e-4)
    check = scene.look(ON_V)["HV"]
    assert (check.good, check.wrong) == (scene.ips, {}), "a warning, no fault"
    said = (
        f"HVIMON of chip 2 shows {odd} uA, its bleeder alone takes 108 uA at 54.1 V: the current"
        " monitor or the HV line of that chip is broken"
    )
    assert check.odd == (dict.fromkeys(scene.ips, said) if odd else {})


def test_a_current_without_a_voltage_is_odd(scene: Scene) -> None:
    first = scene.ips[0]
    scene.states[first] = {"hv": "off", "codes": [0] * 4, "reason": "too hot"}
    assert scene.look((20.0,) * 4)["HV"].odd == {}, "on its way down"
    assert scene.look(OFF_V)["HV"].odd == {
        first: "; ".join(
            f"HVIMON of chip {chip} shows 110 uA, but HVMON 0.0 V: one of the two monitors is"
            " broken; if it is HVMON, that chip may have HV"
            for chip in range(4)
        )
    }
    off = verified.see_hv_off(scene.work, [first], 0.0)
    assert (off.good, set(off.odd)) == ([first], {first})
    scene.amperes = (0.0, 9e-6, 0.0, 0.0)
    assert first not in scene.look(OFF_V)["HV"].odd


def test_high_voltage_that_nobody_keeps_is_not_verified(scene: Scene) -> None:
    first = scene.ips[0]
    scene.states[first] = {"hv": "falling", "codes": [0] * 4, "reason": "too hot"}
    del scene.states[scene.ips[1]]
    check = scene.look(OFF_V)["HV"]
    assert check.good == scene.ips[2:]
    assert check.unknown[first] == "off: too hot; HVMON shows 0.0 V"
    assert check.unknown[scene.ips[1]] == "hv_updater does not keep it; HVMON shows 54.1 V"
    scene.updater_works = False
    assert set(scene.look(ON_V)["HV"].unknown) == set(scene.ips)


def test_after_baselines_the_voltage_is_awaited_but_not_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(ago_s: float) -> None:
        scene.work.ledger.finish(scene.ips[0], Step.PH_BASELINE, time.time() - ago_s, {})

    measured(0.1)
    assert scene.look(OFF_V, RISING_V, ON_V)["HV"].good == scene.ips
    assert scene.watch.looks == 3
    monkeypatch.setattr(verified, "HV_BACK_S", 0.3)
    measured(0.0)
    assert scene.ips[0] in scene.look(OFF_V)["HV"].wrong
    measured(0.4)
    assert scene.ips[0] in scene.look(OFF_V, ON_V)["HV"].wrong
    assert scene.watch.looks == 1


def test_pcb_revision_tells_something_where_the_kinds_differ(scene: Scene) -> None:
    check = scene.look(ON_V)["PCB revision"]
    assert (check.good, set(check.unknown)) == ([], set(scene.ips))
    assert "tells nothing" in check.unknown[scene.ips[0]]
    scene.pcbrev[scene.ips[3]] = 1
    check = scene.look(ON_V)["PCB revision"]
    assert check.text == "PCB revision of 4 boards (PCBREV_N 0 on QFP, PCBREV_N 1 on BGA)"
    scene.pcbrev[scene.ips[1]] = 1
    check = scene.look(ON_V)["PCB revision"]
    assert check.good == [scene.ips[0], *scene.ips[2:]]
    assert check.wrong[scene.ips[1]].startswith("PCBREV_N is 1, not 0 as on most QFP boards")


def test_kind_and_firmware_against_both_records(scene: Scene) -> None:
    found = scene.look(ON_V)
    assert found["QFP or BGA"].good == scene.ips
    scene.firmware[scene.ips[1]] = Firmware("0209", "0x28b4667a")
    found = scene.look(ON_V)
    assert found["QFP or BGA"].wrong[scene.ips[1]].endswith("and firmware of BGA boards")
    assert found["firmware"].odd[scene.ips[1]] == "firmware of BGA boards on a QFP board"


def test_what_is_wrong_is_a_fault_and_what_is_odd_a_warning(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with such a board would not be what the configs ask for."""
    scene.work.console = Console()  # one that is captured
    first, second, third, bga = scene.ips
    scene.pcbrev[bga] = scene.pcbrev[second] = 1
    scene.firmware[third] = Firmware("0206", "0x20000000")
    found = scene.look(RISING_V)
    checks = list(found.values())
    verified.tell(scene.work, checks)
    assert [(one.where, one.step) for one in scene.work.problems] == [
        (second, "PCB revision"), (first, "HV"),
    ]  # fmt: skip
    assert scene.work.failed == {first, second}
    assert found["firmware"].odd == {third: "most QFP boards run 0208 of 2023-05-01 03:22"}
    assert f"warning: {third}: firmware: most QFP boards run" in capsys.readouterr().err
    verified.tell(scene.work, checks)
    assert len(scene.work.problems) == 2, "told once"


def test_firmware_that_obs_config_names_must_run(scene: Scene) -> None:
    image = "/site/quabo_0208_28b4667a.bin"
    obs = dataclasses.replace(scene.work.site.obs, firmware=FirmwareFiles(qfp=image, bga=None))
    scene.work.site = dataclasses.replace(scene.work.site, obs=obs)
    scene.firmware[scene.ips[1]] = Firmware("0206", "0x20000000")
    check = scene.look(ON_V)["firmware"]
    assert (list(check.wrong), check.odd) == ([scene.ips[1]], {})
    assert "as obs_config.json wants" in check.wrong[scene.ips[1]]


def test_a_half_of_the_boards_does_not_outvote_the_other(scene: Scene) -> None:
    scene.boards, scene.ips = scene.boards[:2], scene.ips[:2]
    scene.pcbrev[scene.ips[1]] = 1
    check = scene.look(ON_V)["PCB revision"]
    assert not check.wrong and "show both values" in check.unknown[scene.ips[1]]


def test_a_uid_that_two_boards_say_is_wrong(scene: Scene) -> None:
    first, second = scene.ips[:2]
    uid = scene.work.uids[first]
    scene.work.uids[second] = uid
    scene.work.ledger.finish(second, Step.UID, 2.0, {}, {UID_NAME: uid})
    check = scene.look(ON_V)["UID"]
    assert check.good == scene.ips[2:]
    assert check.wrong[second] == f"{uid} is said by {first}, {second} alike"


def test_without_housekeeping_nothing_is_claimed(scene: Scene) -> None:
    scene.work.site = dataclasses.replace(
        scene.work.site, obs=dataclasses.replace(scene.work.site.obs, hk_max_age_s=-60.0)
    )
    found = scene.look(ON_V)
    for what in ("HV", "firmware", "PCB revision", "QFP or BGA"):
        assert set(found[what].unknown) == set(scene.ips), what
        assert set(found[what].unknown.values()) == {verified.NO_HK}
