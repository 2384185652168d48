"""Tasks of config.py asked for alone, and what a start needs of the boards."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from panoseti import console
from panoseti.boards.addresses import redis_key
from panoseti.boards.board_link import open_link
from panoseti.boards.board_tftp import read_flash
from panoseti.boards.data_flow import start_data_flow, stop_data_flow
from panoseti.bringup import config_tasks, session
from panoseti.bringup.ledger import Step
from panoseti.bringup.ledger_file import LEDGER_FILE, LOCK_FILE, held_ledger, read_ledger
from panoseti.bringup.readiness import in_words, load_settings, readiness, shutter_warnings
from panoseti.bringup.session import HV_UPDATER, state
from panoseti.bringup.touched import forget_touched, note_touched, read_touched
from panoseti.calibration.threshold_measure import measure_thresholds
from panoseti.calibration.threshold_scan import ScanPlan
from panoseti.configs import settings
from panoseti.configs.board_files import QUABO_UIDS, read_ph_baseline
from panoseti.configs.load_configs import load_site
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import standing_alarms
from panoseti.high_voltage.hv_asked import ask
from panoseti.housekeeping.store import Store
from panoseti.runs.run_state import RUN_NAME_FILE
from qc import main as qc_main
from simulator.flash import Firmware, firmware_image
from simulator.power_switch import PowerSwitchServer
from simulator.private_observatory import DATA, PrivateObservatory
from tests.bringup_walk import sample
from tests.config_calls import (
    REBOOT_TIMEOUT_S,
    boards,
    check_registers,
    config,
    lose,
    ready_in_the_end,
    write_data,
)
from tests.helpers import REPO, wait_for
from tests.ready_observatory import Look, fresh_observatory, restore


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateObservatory]:
    """Brought up while 5 % of all packets were lost: a sample of test_bringup_faults.py."""
    with fresh_observatory(tmp_path_factory.mktemp("config tasks")) as observatory:
        path = observatory.command_dir / "obs_config.json"
        text = path.read_text()
        path.write_text(json.dumps({**json.loads(text), "reboot_timeout_s": REBOOT_TIMEOUT_S}))
        lose(observatory, seed=5)
        ready_in_the_end(observatory)
        assert all("lossy" in board["faults"] for board in boards(observatory).values())
        with observatory.client() as client:
            client.fault("all", "none")
        path.write_text(text)
        yield observatory


@pytest.mark.long
def test_reboot_of_one_module_shows_the_silver_versions(
    ready: PrivateObservatory, look: Look
) -> None:
    before = read_ledger(ready.data_dir)
    answer = look("--reboot", "--module", "254", "--json")
    assert answer.code == 0, answer
    rebooted = ready.site.quabos[4:]
    silver = answer.json["silver"]
    assert {ip: firmware["version"] for ip, firmware in silver.items()} == dict(
        zip(rebooted, ("0208", "0208", "0208", "0209"), strict=True)
    )
    after = read_ledger(ready.data_dir)
    times = [after.done_unix(ip, Step.REBOOT) or 0.0 for ip in rebooted]
    assert times == sorted(times), "0, 1, 2, 3: each back before the next one goes"
    assert times[0] > (before.done_unix(rebooted[0], Step.REBOOT) or 0.0)
    assert all(after.entry(ip, Step.MAROC) is None for ip in rebooted)
    other = ready.site.quabos[0]
    assert after.boards[other] == before.boards[other], "the other module is left alone"
    restore(ready, look)
    check_registers(ready)


def test_one_task_alone_for_one_board(ready: PrivateObservatory, look: Look) -> None:
    target, other = ready.site.quabos[4], ready.site.quabos[5]
    before = read_ledger(ready.data_dir)
    answer = look("--calibrate_ph", "--quabo", target)
    assert answer.code == 0, answer
    assert target in answer.out and "stddev" in answer.out and other not in answer.out
    after = read_ledger(ready.data_dir)
    assert after.entry(other, Step.PH_BASELINE) == before.entry(other, Step.PH_BASELINE)
    assert after.entry(target, Step.PH_BASELINE) != before.entry(target, Step.PH_BASELINE)
    # The file is as old as its oldest set; the shutter of the module was open, and is again.
    file = read_ph_baseline(ready.data_dir / "quabo_ph_baseline.json")
    oldest = min(after.done_unix(ip, Step.PH_BASELINE) or 0.0 for ip in ready.site.quabos)
    assert file.date_unix == pytest.approx(oldest, abs=0.01)
    check_registers(ready)
    shown = look("--show_ph_baselines", "--json").json["ph_baselines"]
    values = file.coefs[boards(ready)[other]["uid"]]
    assert shown[other]["min"] == min(values) and shown[other]["max"] == max(values)
    assert shown[other]["mean"] == pytest.approx(sum(values) / 256)


@pytest.mark.parametrize("words", [("--calibrate_ph",), ("--redo", "ph_baseline")])
def test_what_changed_in_the_ph_baselines_is_told_and_the_set_before_kept(
    ready: PrivateObservatory, look: Look, words: tuple[str, ...]
) -> None:
    """Asked for alone, and in the bring-up: a board with a drifted, a dead and a hot channel."""
    target, file = ready.site.quabos[5], ready.data_dir / "quabo_ph_baseline.json"
    kept = ready.data_dir / "calibration" / "ph_baselines"
    assert look("--calibrate_ph", "--quabo", target).code == 0
    before, known = file.read_bytes(), set(kept.iterdir())
    with ready.client() as client:
        for pixel, counts in ((17, 60), (33, -600), (16 * 9 + 4, 900)):
            client.fault(target, "odd_baseline", pixels=[pixel], counts=counts)
    try:
        answer = look(*words, "--quabo", target)
        again = look(*words, "--quabo", target, "--json")
    finally:
        with ready.client() as client:
            client.fault(target, "none")
        assert look("--calibrate_ph", "--quabo", target).code == 0
    assert answer.code == 0, answer
    assert "stddev" in answer.out
    said = [line for line in answer.out.splitlines() if line.startswith("SN01017: 1 channel ")]
    kinds = ("dead (1 of them new)", "hot (1 of them new)", "drifted")
    places = ((1, 2), (4, 9), (1, 1))
    assert len(said) == 3, answer.out
    for line, kind, place in zip(said, kinds, places, strict=True):
        assert line.startswith(f"SN01017: 1 channel {kind}: pixel {place} "), line
    assert len(again.json["ph_baseline_news"]) == 2, "drifted no more"
    assert list(again.json["ph_baselines"]) == [target]
    assert before in [path.read_bytes() for path in set(kept.iterdir()) - known]


@pytest.mark.long
def test_thresholds_measured_by_the_script(
    ready: PrivateObservatory, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table, lines and JSON, for one board with a hot pixel; few points."""
    target = ready.site.quabos[6]
    plan = ScanPlan(frames=3, dac_step=3)
    few = functools.partial(measure_thresholds, plan=plan)
    monkeypatch.setattr(config_tasks, "measure_thresholds", few)
    with ready.client() as client:
        client.fault(target, "hot_pixels", pixels=[37], factor=30)
    try:
        shown = look("--measure-thresholds", "--quabo", target)
        told = look("--measure-thresholds", "--quabo", target, "--json")
    finally:
        restore(ready, look)
    assert (shown.code, told.code) == (0, 0), shown
    assert "SN01018: 1 hot: (5, 2)" in shown.out and "proposed calibration: " in shown.out
    rows = [line for line in shown.out.splitlines() if line.startswith(target)]
    assert len(rows) == 4, "one for each quadrant"
    (found,) = told.json["thresholds"]
    assert (found["ip"], found["serialno"], found["hot"]) == (target, "SN01018", [[5, 2]])
    for quadrant in found["quadrants"]:
        assert quadrant["problem"] == ""
        assert quadrant["a"] == pytest.approx(quadrant["a_before"], rel=0.05)
    assert Path(found["file"]).is_file() and Path(found["scan"]).is_file()
    check_registers(ready)


@pytest.mark.long
def test_hot_and_dead_pixels_of_simulated_boards_are_found_in_a_dark_run(
    ready: PrivateObservatory, look: Look, tmp_path: Path
) -> None:
    """What is proposed is what the boards were told to be."""
    quabos = ready.site.quabos
    write_data(ready, image={**DATA["image"], "pe_threshold": 0.5})
    assert look("--maroc_config", "--calibrate_ph").code == 0
    assert look("--shutter_close").code == 0
    with ready.client() as client:
        client.fault(quabos[1], "hot_pixels", pixels=[37, 200], factor=40)
        client.fault(quabos[6], "dead_pixels", pixels=[90])
        client.fault(quabos[7], "hot_pixels", pixels=[5], factor=40)
    try:
        done = subprocess.run(
            ready.command("start.py", "--nsecs", "4"), cwd=ready.command_dir,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(ready.command("stop.py"), cwd=ready.command_dir, timeout=120, check=False)
        restore(ready, look)
    (run,) = ready.data_dir.glob("*.pffd")
    found = subprocess.run(
        [sys.executable, "-m", "tools.hot_pixels", str(run), "-o", str(tmp_path / "found")],
        cwd=REPO, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    serials = boards_by_serial(found.stdout)
    assert serials.pop("SN00005") == "hot (5, 2), (8, 12); no dead pixel"
    assert serials.pop("SN01018") == "no hot pixel; dead (10, 5)"
    assert serials.pop("SN01019") == "hot (5, 0); no dead pixel"
    assert set(serials.values()) == {"no hot pixel; no dead pixel"} and len(serials) == 5
    proposed = json.loads((tmp_path / "found" / "masked_pixels.json").read_text())
    assert proposed == {"SN00005": [[5, 2], [8, 12]], "SN01019": [[5, 0]]}


def boards_by_serial(said: str) -> dict[str, str]:
    """What tools.hot_pixels says of each board."""
    return dict(re.findall(r"^\S+ \((\S+)\): (.*) \(usual: ", said, re.MULTILINE))


def test_shutters_move_and_are_remembered(ready: PrivateObservatory, look: Look) -> None:
    drivers = [ready.site.quabos[1], ready.site.quabos[5]]
    assert look("--shutter_close", "--module", "1").code == 0
    now = boards(ready)
    assert [now[ip]["shutter_open"] for ip in drivers] == [False, True]
    plan = look("--dry-run")
    assert plan.out == f"shutter of {drivers[0]}: shutter closed -> open\n", plan
    assert look("--shutter_open").code == 0
    assert [boards(ready)[ip]["shutter_open"] for ip in drivers] == [True, True]


def test_a_shutter_that_does_not_move_is_believed(ready: PrivateObservatory, look: Look) -> None:
    """What housekeeping shows counts, not the echo."""
    path = ready.command_dir / "obs_config.json"
    text = path.read_text()
    driver = ready.site.quabos[5]
    path.write_text(json.dumps({**json.loads(text), "shutter_status_open": 0}))
    try:
        answer = look("--shutter_open", "--module", "254")
    finally:
        path.write_text(text)
    assert answer.code == 1, answer
    assert f"{driver}: shutter: was told to be open, but SHUTTER_STATUS is 1" in answer.err
    entry = read_ledger(ready.data_dir).entry(driver, Step.SHUTTER)
    assert entry is not None and entry.done_unix is None
    assert look("--shutter_open", "--module", "254").code == 0


def test_a_shutter_that_housekeeping_contradicts_is_told_again(
    ready: PrivateObservatory, look: Look, tmp_path: Path
) -> None:
    """It was closed by somebody who knows nothing of the configs."""
    site, driver, other = load_site(ready.command_dir), ready.site.quabos[5], ready.site.quabos[1]
    assert shutter_warnings(site, site.obs.quabos, look=True) == []
    assert qc_main([driver, "SHC_NEW", "--config_dir", str(tmp_path)]) == 0
    shut = "was told to be open, but SHUTTER_STATUS is 0"
    label = site.obs.module(254).label
    warning = f"{label}: shutter: {shut}; if it is to be open: config.py --redo shutter"
    wait_for(
        lambda: shutter_warnings(site, site.obs.quabos, look=True) == [warning], "housekeeping"
    )
    assert shutter_warnings(site, site.obs.quabos, look=False) == []
    answer = look()
    assert answer.code == 1 and not boards(ready)[driver]["shutter_open"], answer
    assert f"{driver}: shutter: {shut}; config.py --redo shutter tells it again" in answer.err
    assert look("--dry-run").out == f"shutter of {driver}: {shut}\n"
    assert shutter_warnings(site, site.obs.quabos, look=False) == [warning]
    assert look("--shutter_close", "--module", "1").code == 0
    label = site.obs.module(1).label
    closed = f"{label}: shutter: closed; if it is to be open: config.py --redo shutter"
    assert shutter_warnings(site, site.obs.quabos, look=True) == [closed, warning]
    assert shutter_warnings(site, [q for q in site.obs.quabos if q.ip == other], True) == [closed]
    assert look().code == 0
    assert boards(ready)[driver]["shutter_open"] and boards(ready)[other]["shutter_open"]


def test_what_qc_has_set_is_stale_until_it_is_done_again(
    ready: PrivateObservatory, look: Look
) -> None:
    site, ip = load_site(ready.command_dir), ready.site.quabos[5]
    assert qc_main([ip, "M", "T", "SHC_NEW", "HK-IP", ready.site.head]) == 0
    plan = look("--dry-run").out.splitlines()
    asked = {"HK destination": f"HK-IP {ready.site.head}", "masks": "T", "MAROC": "M"}
    asked["shutter"] = "SHC_NEW"
    assert [line.split(" at ")[0] for line in plan] == [
        f"{step} of {ip}: set by qc.py ({words})" for step, words in asked.items()
    ]
    assert look("--dry-run").out.splitlines() == plan, "a dry run changes nothing"
    assert [line.split(" at ")[0] for line in in_words(readiness(site))] == [
        f"{ip}: HK destination: set by qc.py (HK-IP {ready.site.head})"
    ]
    assert look("--hk_dest", "--quabo", ip).code == 0
    assert readiness(site) == [], "a start loads masks and MAROC itself"
    loaded = load_settings(site, console.Console(), FlightRecorder(None, "test"))
    assert loaded.boards == {Step.MASKS: (ip,), Step.MAROC: (ip,)}
    answer = look()
    assert answer.code == 0, answer
    check_registers(ready)
    assert look("--dry-run").out == "nothing is missing or stale\n"
    assert qc_main([ip, "B"]) == 0
    assert "PH baseline: set by qc.py (B)" in in_words(readiness(site))[0]
    assert look("--calibrate_ph", "--quabo", ip).code == 0
    assert readiness(site) == []
    note_touched(ready.data_dir, ip, Step.HV, "set by qc.py")
    plan = look("--dry-run").out.splitlines()
    assert plan == [f"start of hv_updater: HV of {ip} set by qc.py", f"HV of {ip}: set by qc.py"]
    forget_touched(read_touched(ready.data_dir))


def test_qc_says_whether_anybody_watches_high_voltage(
    ready: PrivateObservatory, look: Look, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [ready.site.quabos[5], "--dry-run", "v", "0", "48000"]
    assert qc_main(words) == 0
    said = capsys.readouterr().err
    assert "a running hv_updater sets its own values again" in said and "NOBODY" not in said
    assert qc_main([*words, "--config_dir", str(tmp_path)]) == 0
    assert "NOBODY WATCHES this voltage" in capsys.readouterr().err


@pytest.mark.long
def test_high_voltage_that_qc_has_set_is_set_again(ready: PrivateObservatory, look: Look) -> None:
    ip = ready.site.quabos[5]
    before = session.state(HV_UPDATER, ready.data_dir)
    codes = [code - 1000 for code in boards(ready)[ip]["hv"]["codes"]]  # 1.1 V: none of the limits
    assert qc_main([ip, *(w for n in range(4) for w in ("v", str(n), str(codes[n])))]) == 0
    assert boards(ready)[ip]["hv"]["codes"] == codes
    answer = look("--dry-run")
    assert f"start of hv_updater: HV of {ip} set by qc.py (v 3 {codes[3]}) at " in answer.out
    answer = look()
    assert answer.code == 0, answer
    assert session.state(HV_UPDATER, ready.data_dir).pid != before.pid
    check_registers(ready)
    assert look("--dry-run").out == "nothing is missing or stale\n"


def test_a_board_that_does_not_obey_hides_no_other(ready: PrivateObservatory, look: Look) -> None:
    deaf = ready.site.quabos[7]
    with ready.client() as client:
        client.fault(deaf, "mute")
    answer = look("--mask_config", "--json")
    assert answer.code == 1, answer
    assert [(p["where"], p["step"]) for p in answer.json["problems"]] == [(deaf, "masks")]
    assert "7 of 8 boards" in answer.err
    entry = read_ledger(ready.data_dir).entry(deaf, Step.MASKS)
    assert entry is not None and entry.done_unix is None, "what it holds is not known"
    restore(ready, look)


def test_a_step_is_done_once_what_is_kept_of_it_is_on_the_disk(
    ready: PrivateObservatory, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one who is killed in between leaves a file for good that is not what the board holds."""

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for task, step, where in (
        ("--calibrate_ph", Step.PH_BASELINE, "panoseti.calibration.ph_baselines.write_state"),
        ("--maroc_config", Step.MAROC, "panoseti.bringup.board_setup.write_states"),
        ("--mask_config", Step.MASKS, "panoseti.bringup.board_setup.write_states"),
    ):
        with monkeypatch.context() as disk:
            disk.setattr(where, full)
            answer = look(task)
        assert answer.code == 1 and "No space left" in answer.err, answer
        ledger = read_ledger(ready.data_dir)
        assert not any(ledger.done(ip, step) for ip in ready.site.quabos), task
    restore(ready, look)


def test_boards_that_the_last_scan_did_not_find(ready: PrivateObservatory, look: Look) -> None:
    """Asked for alone, nothing is done, and that is no success.  HV off is told to them all the
    same; that nobody has heard it is none either.
    """
    path = ready.data_dir / QUABO_UIDS
    text = path.read_text()
    lost = ready.site.quabos[:4]
    absent = json.loads(text)
    for quabo in absent["domes"][0]["modules"][0]["quabos"]:
        quabo["uid"] = ""
    path.write_text(json.dumps(absent))
    answer = look("--mask_config", "--module", "1")
    assert answer.code == 1, answer
    assert f"nothing is done: the last scan did not find {', '.join(lost)}; is there" in answer.err
    for quabo in absent["domes"][1]["modules"][0]["quabos"]:
        quabo["uid"] = ""
    path.write_text(json.dumps(absent))
    assert look("--hv_off").code == 0
    with ready.client() as client:
        client.fault(lost[0], "unreachable")
        answer = look("--hv_off")
        assert answer.code == 0, answer
        assert "confirmed by 7 boards, 1 do not answer, nor did they at the last" in answer.err
        client.fault("all", "unreachable")
        answer = look("--hv_off")
        assert answer.code == 1, answer
        assert "HV off: no board has heard it; if one may have high voltage, cut" in answer.err
    path.write_text(text)
    restore(ready, look)


def test_hv_off_ends_the_updater_and_needs_nothing(ready: PrivateObservatory, look: Look) -> None:
    """Not even the lock, whole state files or configs."""
    path = ready.command_dir / "obs_config.json"
    text = path.read_text()
    run = ready.data_dir / "obs_Simulated.start_2026-11-25T00:36:33Z.runtype_night.pffd"
    ledger = (ready.data_dir / LEDGER_FILE).read_bytes()
    (ready.data_dir / LEDGER_FILE).write_text("broken")
    write_data(ready, gain="much")
    try:
        with open(ready.data_dir / "log" / LOCK_FILE, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            answer = config(ready, "--hv_off")
        assert answer.code == 0, answer
        assert "confirmed by 8 boards" in answer.err
        assert "verified: HV off of 8 boards (HVMON at most 0." in answer.err
        wait_for(
            lambda: max(max(b["hv"]["volts"]) for b in boards(ready).values()) < 1,
            "HV to be off",
        )
        assert not state("hv_updater", ready.data_dir).works
        path.write_text(text[:-20])
        answer = config(ready, "--hv_off")
        assert answer.code == 2 and "no hv_updater is found: if in doubt cut" in answer.err, answer
        run.mkdir()
        (run / path.name).write_text(text)
        shutil.copy(ready.command_dir / "daq_config.json", run)
        answer = config(ready, "--hv_off")
        assert answer.code == 0 and "verified: HV off of 8 boards" in answer.err, answer
        assert f"using the frozen configs in {run} instead" in answer.err
    finally:
        (ready.data_dir / LEDGER_FILE).write_bytes(ledger)
        path.write_text(text)
        shutil.rmtree(run, ignore_errors=True)
        write_data(ready)
    plan = look("--dry-run")
    lines = [f"HV of {ip}: hv_updater does not run" for ip in ready.site.quabos]
    assert plan.out.splitlines() == ["start of hv_updater: does not run", *lines], plan
    site = load_site(ready.command_dir)
    ask(ready.data_dir, ready.site.quabos)
    assert session.start(site, "hv_updater", FlightRecorder(None, "test"))
    assert all(" HV " in line for line in in_words(readiness(site))), "a start is refused"
    coming = "HV on its way up; run: config.py, which waits for it"
    wait_for(lambda: any(coming in line for line in in_words(readiness(site))), "it to come")
    answer = config(ready, "--hv_on")
    assert answer.code == 0, answer
    assert readiness(site) == []
    check_registers(ready)


@pytest.mark.long
def test_hv_off_works_with_broken_configs(ready: PrivateObservatory, look: Look) -> None:
    """By the copies in a run; without any, as far as the running updater knows the boards.  And
    with another head node's address.
    """
    path, daq = (ready.command_dir / f"{name}_config.json" for name in ("obs", "daq"))
    text, daq_text = path.read_text(), daq.read_text()
    for old in ready.data_dir.glob("obs_*"):  # of tests before this one
        shutil.rmtree(old)
    run = ready.data_dir / "obs_Simulated.start_2036-11-25T00:36:33Z.runtype_night.pffd"
    run.mkdir()
    try:
        for name in ("obs_config.json", "daq_config.json"):
            shutil.copy(ready.command_dir / name, run)
        path.write_text(text[:-20])
        answer = config(ready, "--hv_off")
        assert answer.code == 0 and "verified: HV off of 8 boards" in answer.err, answer
        assert f"using the frozen configs in {run} instead" in answer.err
        path.write_text(text)
        assert config(ready, "--hv_on").code == 0
        path.write_text(text[:-20])
        shutil.rmtree(run)
        answer = config(ready, "--hv_off", "--json")
        assert answer.code == 2, answer
        assert re.search(r"hv_updater \(pid \d+\) ended: it switches HV off as it ends", answer.err)
        assert max(max(board["hv"]["volts"]) for board in boards(ready).values()) < 1
        answer = config(ready, "--hv_off")
        assert answer.code == 2 and "no hv_updater is found: if in doubt cut" in answer.err, answer
        path.write_text(text)
        daq.write_text(daq_text.replace(f'_addr": "{ready.site.head}"', '_addr": "192.0.2.7"'))
        answer = config(ready, "--hv_off")
        assert answer.code == 0 and "verified: HV off of 8 boards" in answer.err, answer
        assert "192.0.2.7" in answer.err
    finally:
        path.write_text(text)
        daq.write_text(daq_text)
        shutil.rmtree(run, ignore_errors=True)
    restore(ready, look)


@pytest.mark.long
def test_hv_off_is_not_undone_by_a_bring_up_that_was_begun_before(
    ready: PrivateObservatory, look: Look
) -> None:
    path = ready.data_dir / LEDGER_FILE
    before = path.stat().st_ino
    words = ready.command("config.py", "--redo", "reboot")
    with subprocess.Popen(
        words, cwd=ready.command_dir, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as bring_up:
        try:
            wait_for(lambda: path.stat().st_ino != before, "the bring-up to have begun", 60)
            bring_up.send_signal(signal.SIGSTOP)
            answer = config(ready, "--hv_off")
            assert answer.code == 0, answer
        finally:
            bring_up.send_signal(signal.SIGCONT)
        said = bring_up.communicate(timeout=100)[1]
    assert bring_up.returncode == 1, said
    assert re.search(r"hv_updater: daemons: not started: HV off was asked for at \S+Z, after", said)
    assert not state("hv_updater", ready.data_dir).works
    assert max(max(board["hv"]["volts"]) for board in boards(ready).values()) < 1
    restore(ready, look)
    check_registers(ready)


@pytest.mark.long
@pytest.mark.parametrize("word", ["--stop_redis_daemons", "--shutdown"])
def test_who_watches_a_board_that_may_have_hv_is_not_ended(
    ready: PrivateObservatory, look: Look, word: str
) -> None:
    stuck = ready.site.quabos[2]
    with ready.client() as client:
        client.fault(stuck, "hv_stuck")
    answer = config(ready, word)
    assert answer.code == 1, answer
    assert f"{stuck}: HV off: HVMON shows 5" in answer.err
    left = f"temperature_guard and capture_hk are not ended, since HV off of {stuck} is not proven"
    assert left in answer.err
    works = {name: state(name, ready.data_dir).works for name in session.SESSION_DAEMONS}
    assert works == {"capture_hk": True, "temperature_guard": True, "hv_updater": False}
    with ready.client() as client:
        client.fault(stuck, "none")
    answer = config(ready, word)
    assert answer.code == 0, answer
    assert not any(state(name, ready.data_dir).pid for name in session.SESSION_DAEMONS)
    assert max(max(board["hv"]["volts"]) for board in boards(ready).values()) < 1
    assert look("--ack_hv").code == 0, "the guard had time to trip the module"
    restore(ready, look)


@pytest.mark.long
def test_a_dead_guard_is_seen_within_seconds(ready: PrivateObservatory, look: Look) -> None:
    process = session.process("temperature_guard", ready.data_dir)
    assert process is not None
    process.kill()
    begin_s = time.monotonic()
    wait_for(
        lambda: [a for a in standing_alarms(ready.data_dir) if a.kind == "interlock"], "the alarm"
    )
    assert time.monotonic() - begin_s < 10
    done = subprocess.run(
        ready.command("status.py"),
        cwd=ready.command_dir,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"temperature_guard (pid {process.pid}) has died" in done.stdout, done
    assert re.search(r"temperature_guard .*does not run", done.stdout), done.stdout
    restore(ready, look)
    assert [a for a in standing_alarms(ready.data_dir) if a.kind == "interlock"] == []


@pytest.mark.long
def test_a_power_switch_that_is_silent_is_a_fault_and_no_more(
    ready: PrivateObservatory, look: Look
) -> None:
    path = ready.command_dir / "obs_config.json"
    text = path.read_text()
    obs = json.loads(text)
    with PowerSwitchServer() as switch:
        switch.fault = "silent"
        obs["wps"] = {"url": switch.url, "quabo_socket": 3}
        obs["domes"][0]["modules"][0]["wps"] = "wps"
        path.write_text(json.dumps(obs))
        try:
            for words in ((), ("--shutdown",)):
                answer = config(ready, *words, "--json")
                assert answer.code == 1, answer
                found = {(p["where"], p["step"]) for p in answer.json["problems"]}
                assert found == {("outlet 3 of wps", "power")}
                if not words:
                    check_registers(ready)
            assert not any(state(name, ready.data_dir).pid for name in session.SESSION_DAEMONS)
            assert max(max(board["hv"]["volts"]) for board in boards(ready).values()) < 1
        finally:
            path.write_text(text)
    restore(ready, look)


def test_refusals(ready: PrivateObservatory, look: Look) -> None:
    with held_ledger(ready.data_dir, "config.py --reboot"):
        answer = config(ready, "--mask_config")
        assert answer.code == 3, answer
        assert "config.py --reboot of " in answer.err
        assert look("--show").code == 0, "looking is no work"
    run = "obs_Simulated.start_2026-11-25T00:36:33Z.runtype_night.pffd"
    (ready.data_dir / RUN_NAME_FILE).write_text(f"{run}\n")
    try:
        for words in ((), ("--reboot",), ("--shutdown",), ("--calibrate_ph",), ("--get_uids",)):
            answer = look(*words)
            assert answer.code == 3, answer
            assert run in answer.err and "stop.py" in answer.err
        assert look("--shutter_open").code == 0, "allowed during a run"
        assert look("--dry-run").code == 0
    finally:
        (ready.data_dir / RUN_NAME_FILE).unlink()
    answer = look("--reboot", "--module", "77")
    assert answer.code == 2, answer
    assert "--module: 77: not in obs_config.json; domes: dome 1, dome 2" in answer.err
    with pytest.raises(SystemExit, match="2"):
        look("--hv_on", "--hv_off")


def test_not_on_the_head_node(ready: PrivateObservatory, look: Look) -> None:
    path = ready.command_dir / "daq_config.json"
    text = path.read_text()
    path.write_text(text.replace(f'_addr": "{ready.site.head}"', '_addr": "192.0.2.7"'))
    try:
        answer = look("--reboot")
        assert (answer.code, "not the head node (192.0.2.7" in answer.err) == (3, True), answer
        assert look("--show").code == 0
    finally:
        path.write_text(text)


def test_disk_space_and_show_tell_every_board_and_volume(
    ready: PrivateObservatory, look: Look
) -> None:
    rooms = look("--disk_space", "--json").json["disk_space"]
    assert [room["modules"] for room in rooms] == [[1, 254]], "one file system is shown once"
    assert all(room["free_bytes"] > 0 for room in rooms)
    shown = look("--show", "--only", "dome 2")
    assert shown.code == 0 and "SN01016" in shown.out and "SN00004" not in shown.out


def test_helpers_on_the_daq_node_are_kept_up_to_date(ready: PrivateObservatory, look: Look) -> None:
    helper = ready.data_dir / "status_daq.py"
    wanted = helper.read_bytes()
    helper.write_text("old")
    answer = look("--init_daq_nodes")
    assert answer.code == 0, answer
    assert helper.read_bytes() == wanted


def test_new_firmware_is_loaded_compared_and_booted(ready: PrivateObservatory, look: Look) -> None:
    target = ready.site.quabos[5]
    image = ready.folder / "quabo_0210_29000000.bin"
    image.write_bytes(firmware_image(Firmware("0210", 0x29000000), 0x20000))
    path = ready.command_dir / "obs_config.json"
    text = path.read_text()
    try:
        answer = look("--loads", "--quabo", target)
        assert (answer.code, "$.firmware.qfp: missing" in answer.err) == (2, True), answer
        path.write_text(json.dumps({**json.loads(text), "firmware": {"qfp": str(image)}}))
        named = "which obs_config.json names; load it: config.py --loads"
        plan = look("--dry-run", "--module", "254").out
        for ip in ready.site.quabos[4:7]:  # the last one is BGA
            assert f"firmware of {ip}: runs 0208 of 2023-05-01 03:22, not 0210 of" in plan
        assert plan.count(named) == len(plan.splitlines()) == 3, plan
        answer = look("--loads", "--dry-run", "--quabo", target, "--json")
        assert answer.code == 0, answer
        (due,) = answer.json["plan"]
        assert (due["step"], due["where"]) == ("loads", target)
        assert due["reason"].startswith(f"its flash differs from {image.name} at 0x1010")
        answer = look("--loads", "--reboot", "--quabo", target, "--json")
        assert answer.code == 0, answer
        assert answer.json["firmware"][target]["written"] is True
        assert answer.json["silver"][target]["version"] == "0210"
        entry = read_ledger(ready.data_dir).done(target, Step.FIRMWARE)
        assert entry is not None and entry.inputs[image.name]["content"] == (
            f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"
        )
        assert f"firmware of {target}" not in look("--dry-run", "--quabo", target).out
        other = ready.site.quabos[6]
        answer = look("--json", "--quabo", other)
        assert answer.code == 1, answer
        assert [(p["where"], p["step"]) for p in answer.json["problems"]] == [(other, "firmware")]
        assert [due["step"] for due in answer.json["plan"]] == ["firmware"], "and nothing is loaded"
        answer = look("--loads", "--dry-run", "--quabo", target)
        assert answer.code == 0 and "would not load the silver firmware" in answer.out, answer
    finally:
        path.write_text(text)
    restore(ready, look)


def test_the_golden_firmware_must_be_meant(ready: PrivateObservatory, look: Look) -> None:
    target, port = ready.site.quabos[5], load_site(ready.command_dir).obs.tftp_port
    image = ready.folder / "quabo_0212_29000002.bin"
    image.write_bytes(firmware_image(Firmware("0212", 0x29000002), 0x20000))
    path = ready.command_dir / "obs_config.json"
    text = path.read_text()
    before = read_flash(target, 0, 0x20000, port)
    try:
        answer = look("--load_golden", "--golden_is_meant", "--quabo", target)
        assert (answer.code, "$.golden_firmware.qfp: missing" in answer.err) == (2, True), answer
        with pytest.raises(SystemExit) as refused:
            look("--loads", "--golden_is_meant", "--quabo", target)
        assert refused.value.code == 2
        path.write_text(json.dumps({**json.loads(text), "golden_firmware": {"qfp": str(image)}}))
        answer = look("--load_golden", "--dry-run", "--quabo", target)
        assert (answer.code, f"firmware of {target}: its flash" in answer.out) == (0, True), answer
        answer = look("--load_golden", "--quabo", target)
        assert (answer.code, "(add --golden_is_meant; it would go to" in answer.err) == (3, True)
        assert read_flash(target, 0, 0x20000, port) == before
        answer = look("--load_golden", "--golden_is_meant", "--quabo", target, "--json")
        assert answer.code == 0, answer
        assert answer.json["golden_firmware"][target]["written"] is True
        assert read_flash(target, 0, 0x20000, port) == image.read_bytes()
    finally:
        path.write_text(text)


def test_readiness_says_what_mends_it(
    ready: PrivateObservatory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(need_hv: bool = True, need_redis: bool = True) -> list[str]:
        return in_words(readiness(load_site(ready.command_dir), need_hv, need_redis))

    assert lacks() == []
    write_data(ready, gain=62)
    assert lacks() == [
        "all 8 boards: PH baseline: settings changed in MAROC;"
        " run: config.py --maroc_config --calibrate_ph"
    ]
    old = time.time() + 25 * 3600
    write_data(ready)
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: old)
        found = lacks(need_hv=False, need_redis=False)
        words = r".*: PH baseline: 25\.\d h old \(limit 24 h\); run: config\.py --calibrate_ph"
        assert found and all(re.fullmatch(words, line) for line in found), found
    path = ready.data_dir / LEDGER_FILE
    text = path.read_bytes()
    with held_ledger(ready.data_dir, "test") as book:
        book.ledger.saw_reboot(ready.site.quabos[2], time.time(), {})
        book.ledger.forget(ready.site.quabos[3], [Step.HK_DEST])
        book.save()
    found = lacks()
    assert len(found) == 2 and all(line.endswith("; run: config.py") for line in found)
    assert found[0].startswith(f"{ready.site.quabos[2]}: HK destination: rebooted at 2")
    assert found[1].startswith(f"{ready.site.quabos[3]}: HK destination: not done")
    path.write_bytes(text)
    configs = ready.command_dir / "obs_config.json"
    as_it_was = configs.read_text()
    configs.write_text(json.dumps({**json.loads(as_it_was), "detector_overvoltage": 2}))
    other = (
        "hv_updater works with other configs: detector_overvoltage 3 -> 2 in obs_config.json;"
        " run: config.py"
    )
    assert other in lacks() and other not in lacks(need_hv=False)
    configs.write_text(as_it_was)
    (ready.data_dir / "quabo_uids.json").rename(ready.data_dir / "aside")
    assert "run: config.py" in lacks()[0]
    (ready.data_dir / "aside").rename(ready.data_dir / "quabo_uids.json")


def test_a_broken_current_monitor_is_warned_of(ready: PrivateObservatory, look: Look) -> None:
    odd = ready.site.quabos[2]
    with ready.client() as client:
        client.fault(odd, "odd_hk", hvimon_a=5e-6)
    boardloc = load_site(ready.command_dir).obs.quabo(odd).boardloc

    def microamperes() -> float:
        with Store(port=ready.site.redis_port) as store:
            return float(store.get_record(redis_key(boardloc))["HVIMON3"]) * 1e6

    wait_for(lambda: microamperes() < 6, "its housekeeping")
    answer = look()
    assert answer.code == 0, answer
    told = [line for line in answer.err.splitlines() if "its bleeder alone takes" in line]
    assert len(told) == 1 and f"warning: {odd}: HV: HVIMON of chip 0 shows 5 uA" in told[0], answer
    restore(ready, look)


def test_a_short_walk(ready: PrivateObservatory, look: Look) -> None:
    """A sample of test_bringup_walk.py."""
    sample(ready, seed=9)
    restore(ready, look)


def test_a_start_loads_what_the_data_config_changed(ready: PrivateObservatory, look: Look) -> None:
    image_only = {name: value for name, value in DATA.items() if name != "pulse_height"}
    text = json.dumps({**image_only, "gain": 61})
    (ready.command_dir / "data_config.json").write_text(text)
    site, flight = load_site(ready.command_dir), FlightRecorder(None, "test")
    assert readiness(site) == [], "no PH is recorded: its baseline does not matter"
    loaded = load_settings(site, console.Console(), flight)
    assert loaded.ok
    assert loaded.boards == dict.fromkeys((Step.MASKS, Step.MAROC), ready.site.quabos)
    check_registers(ready)
    assert load_settings(site, console.Console(), flight).boards == {}
    restore(ready, look)


def test_data_flow_starts_and_stops(ready: PrivateObservatory) -> None:
    site = load_site(ready.command_dir)
    dead = ready.site.quabos[4]
    with ready.client() as client:
        client.fault(dead, "unreachable")
    stop = settings.stop_acquisition().mode
    with open_link(site) as link:
        outcomes = start_data_flow(site, link, site.obs.quabos)
        assert [ip for ip, outcome in outcomes.items() if not outcome.ok] == [dead]
        now = boards(ready)
        assert {board["acquisition"]["mode"] for board in now.values()} == {stop}
        alive = [quabo for quabo in site.obs.quabos if quabo.ip != dead]
        outcomes = start_data_flow(site, link, alive)
        assert all(outcome.ok for outcome in outcomes.values())
        now = boards(ready)
        for ip in outcomes:
            assert now[ip]["acquisition"]["mode"] == 3
            assert now[ip]["acquisition"]["interval_field"] == 999
            assert now[ip]["image_destination"] == now[ip]["ph_destination"] == ready.site.head
        outcomes = stop_data_flow(site, link, site.obs.quabos)
        assert [ip for ip, outcome in outcomes.items() if not outcome.ok] == [dead]
    with ready.client() as client:
        client.fault(dead, "none")
    assert {board["acquisition"]["mode"] for board in boards(ready).values()} == {stop}


def test_a_destination_without_arp_answer_is_a_problem(ready: PrivateObservatory) -> None:
    path = ready.command_dir / "daq_config.json"
    text = path.read_text()
    daq = json.loads(text)
    daq["daq_nodes"][0]["ip_addr"] = "192.0.2.7"
    path.write_text(json.dumps(daq))
    try:
        site = load_site(ready.command_dir)
        with open_link(site) as link:
            board = site.obs.quabos[0]
            outcome = start_data_flow(site, link, [board])[board.ip]
            assert stop_data_flow(site, link, [board])[board.ip].ok
        assert outcome.problem is not None
        assert "192.0.2.7 does not answer its ARP requests" in outcome.problem
    finally:
        path.write_text(text)
