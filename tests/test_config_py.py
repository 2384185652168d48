"""config.py as operators run it, against simulated boards, a real Redis and a real sshd."""

from __future__ import annotations

import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import config as script
from panoseti import config_tasks, console, settings
from panoseti.board_files import read_ph_baseline
from panoseti.board_link import open_link
from panoseti.data_flow import start_data_flow, stop_data_flow
from panoseti.flight import FlightRecorder
from panoseti.ledger import Step
from panoseti.ledger_file import LEDGER_FILE, LOCK_FILE, held_ledger, read_ledger
from panoseti.load_configs import load_site
from panoseti.readiness import load_settings, readiness
from panoseti.run_state import RUN_NAME_FILE
from panoseti.session import SESSION_DAEMONS, state
from simulator.flash import Firmware, firmware_image
from simulator.power_switch import PowerSwitchServer
from simulator.private_observatory import DATA, PrivateObservatory, private_observatory
from tests.config_calls import (
    Answer,
    boards,
    check_registers,
    config,
    files_of,
    steps_done,
    write_data,
)
from tests.helpers import wait_for

TIME_SCALE = 50.0
EVERY_DAEMON = set(SESSION_DAEMONS)


Look = Callable[..., Answer]


@pytest.fixture
def look(
    ready: PrivateObservatory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Look:
    """As config, in this process (much sooner): for what starts no daemon."""
    monkeypatch.chdir(ready.command_dir)
    monkeypatch.setattr(sys, "argv", ["config.py"])

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = console.call(script.main, words)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call


def restore(observatory: PrivateObservatory, look: Look) -> None:
    """Whatever a test did: faults ended, configs as they were, everything ready."""
    with observatory.client() as client:
        client.fault("all", "none")
    write_data(observatory)
    answer = look()
    assert answer.code == 0, answer


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateObservatory]:
    """Eight boards as after power-on; paths with blanks."""
    folder = tmp_path_factory.mktemp("config py")
    with private_observatory(
        folder,
        time_scale=TIME_SCALE,
        data_dir=folder / "head data",
        obs_fields={"hk_max_age_s": 4},
    ) as observatory:
        yield observatory


@pytest.fixture(scope="module")
def ready(fresh: PrivateObservatory) -> PrivateObservatory:
    """The same, brought up from power-on, in a command directory that cannot be written."""
    before = files_of(fresh.command_dir)
    fresh.command_dir.chmod(0o555)
    plan = config(fresh, "--dry-run", "--json")
    assert plan.code == 0, plan
    assert not (fresh.data_dir / LEDGER_FILE).exists(), "a dry run writes nothing"
    assert all(board["maroc"] is None for board in boards(fresh).values())
    answer = config(fresh, "--json")
    fresh.command_dir.chmod(0o755)
    assert answer.code == 0, answer
    assert steps_done(answer) == steps_done(plan), "what it said it would do"
    assert {step.label for step in Step} <= steps_done(answer)
    assert files_of(fresh.command_dir) == before, "no file is ever made there"
    return fresh


def test_from_power_on_to_ready(ready: PrivateObservatory) -> None:
    check_registers(ready)
    running = {name for name in SESSION_DAEMONS if state(name, ready.data_dir).works}
    assert running == EVERY_DAEMON
    again = config(ready, "--json")
    assert again.code == 0, again
    assert again.json["plan"] == []
    assert [board["state"] for board in again.json["boards"]] == ["ready"] * 8
    assert {board["firmware"] for board in again.json["boards"]} == {"0208", "0209"}
    verified = again.json["verified"]
    for what in ("UID", "QFP or BGA", "settings", "HV"):
        assert verified[what]["good"] == list(ready.site.quabos), what
    assert verified["shutter"]["good"] == [ready.site.quabos[1], ready.site.quabos[5]]
    assert "names no firmware for its kind" in next(iter(verified["firmware"]["unknown"].values()))
    shown = [max(board["hv"]["volts"]) for board in boards(ready).values()]
    most = float(verified["HV"]["shown"].partition(" to ")[2].partition(" V")[0])
    assert most == pytest.approx(max(shown), abs=0.5), "measured, not asked for"


def test_the_second_time_no_board_is_told_anything(ready: PrivateObservatory) -> None:
    heard = {ip: board["maroc"] for ip, board in boards(ready).items()}
    begin = read_ledger(ready.data_dir)
    answer = config(ready)
    assert (answer.code, "nothing was to be done" in answer.out) == (0, True), answer
    assert heard == {ip: board["maroc"] for ip, board in boards(ready).items()}
    assert read_ledger(ready.data_dir).boards == begin.boards


def test_a_new_gain_reloads_maroc_and_what_follows(ready: PrivateObservatory, look: Look) -> None:
    first = ready.site.quabos[0]
    before = read_ledger(ready.data_dir)
    write_data(ready, gain=62)
    plan = look("--dry-run")
    assert f"MAROC of {first}: gain 60 -> 62 in data_config.json\n" in plan.out
    answer = look("--json")
    assert answer.code == 0, answer
    assert steps_done(answer) == {"MAROC", "PH baseline"}
    check_registers(ready)
    after = read_ledger(ready.data_dir)
    for step in (Step.UID, Step.REBOOT, Step.HK_DEST, Step.MASKS):
        assert after.entry(first, step) == before.entry(first, step)
    restore(ready, look)
    check_registers(ready)


def test_integration_time_makes_nothing_stale(ready: PrivateObservatory, look: Look) -> None:
    image = {"integration_time_usec": 100, "pe_threshold": 2, "quabo_sample_size": 16}
    write_data(ready, image=image, run_type="dark", max_file_size_mb=5)
    answer = look("--dry-run")
    assert answer.out == "nothing is missing or stale\n", answer
    write_data(ready)


def test_boards_that_booted_behind_our_back_get_back_what_they_lost(
    ready: PrivateObservatory, look: Look
) -> None:
    """One rebooted by itself (it says so), one lost power (golden firmware says nothing)."""
    rebooted, cut = ready.site.quabos[6], ready.site.quabos[2]
    before = read_ledger(ready.data_dir).done_unix(rebooted, Step.REBOOT)
    with ready.client() as client:
        client.fault(rebooted, "rebooting")
        client.power(cut, on=False)
        client.power(cut, on=True)
    wait_for(lambda: boards(ready)[cut]["phase"] == "gold", "the golden firmware")
    wait_for(
        lambda: "no housekeeping any more" in look("--dry-run").out,
        "its HK to be old",
    )
    answer = look("--json")
    assert answer.code == 0, answer
    assert f"{rebooted} rebooted by itself" in answer.err
    done = {(item["step"], item["where"]): item["reason"] for item in answer.json["plan"]}
    for step in ("HK destination", "masks", "MAROC", "PH baseline"):
        assert done.pop((step, rebooted)).startswith("rebooted at 2")
    assert done.pop(("reboot", cut)) == "answers ping but sends no housekeeping any more"
    assert set(done) == {
        (step, cut) for step in ("HK destination", "masks", "MAROC", "PH baseline")
    }
    booted = read_ledger(ready.data_dir).done_unix(rebooted, Step.REBOOT)
    assert before is not None and booted is not None and booted > before
    check_registers(ready)


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


def test_an_exchanged_board_is_set_up_anew(ready: PrivateObservatory, look: Look) -> None:
    """Another UID answers at the same address; it is not in the board data base."""
    place = ready.site.quabos[6]
    with ready.client() as client:
        client.fault(place, "wrong_uid", uid="c0ffee")
    answer = look("--json")
    restore(ready, look)
    check_registers(ready)
    assert answer.code == 1, answer
    done = {(item["step"], item["where"]): item["reason"] for item in answer.json["plan"]}
    assert done["UID", place] == f"another board: UID {boards(ready)[place]['uid']} -> c0ffee"
    assert ("reboot", place) in done and {where for _, where in done} == {place}
    assert "c0ffee" in answer.err and "quabo_info.json" in answer.err


def test_a_board_known_to_be_absent_is_no_problem(ready: PrivateObservatory, look: Look) -> None:
    gone = ready.site.quabos[7]
    path = ready.command_dir / "obs_config.json"
    text = path.read_text()
    obs = json.loads(text)
    obs["domes"][1]["modules"][0]["absent_quabos"] = [3]
    path.write_text(json.dumps(obs))
    with ready.client() as client:
        client.fault(gone, "unreachable")
    try:
        answer = config(ready, "--json")
        assert answer.code == 0, answer
        assert {item["where"] for item in answer.json["plan"]} <= set(SESSION_DAEMONS)
        states = {board["ip"]: board["state"] for board in answer.json["boards"]}
        assert states.pop(gone) == "absent, as obs_config.json says"
        assert set(states.values()) == {"ready"}
        check_registers(ready, absent=(gone,))
        answer = look("--mask_config", "--quabo", gone)
        assert (answer.code, "absent_quabos" in answer.err) == (2, True), answer
    finally:
        path.write_text(text)
    with ready.client() as client:
        client.fault(gone, "none")
    answer = config(ready, "--json")
    assert answer.code == 0, answer
    assert {item["where"] for item in answer.json["plan"]} <= {gone, *SESSION_DAEMONS}
    check_registers(ready)


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


def test_dead_board_named_left_out_and_taken_in_again(
    ready: PrivateObservatory, look: Look
) -> None:
    dead = ready.site.quabos[3]
    with ready.client() as client:
        client.fault(dead, "unreachable")
    answer = look("--get_uids", "--json")
    assert answer.code == 1, answer
    assert answer.json["uids"][dead] == ""
    answer = look("--redo", "masks", "--json")
    assert answer.code == 1, answer
    assert [problem["where"] for problem in answer.json["problems"]] == [dead]
    assert {item["where"] for item in answer.json["plan"]} == set(ready.site.quabos) - {dead}
    check_registers(ready, absent=(dead,))
    with ready.client() as client:
        client.power(dead, on=False)
        client.fault(dead, "none")
        client.power(dead, on=True)
    wait_for(lambda: boards(ready)[dead]["phase"] == "gold", "the board to be back")
    answer = look("--json")
    assert answer.code == 0, answer
    assert {item["where"] for item in answer.json["plan"]} == {dead}
    check_registers(ready)


def test_hv_off_ends_the_updater_and_needs_nothing(ready: PrivateObservatory, look: Look) -> None:
    """Not even the lock, whole state files or a data config."""
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
    finally:
        (ready.data_dir / LEDGER_FILE).write_bytes(ledger)
        write_data(ready)
    plan = look("--dry-run")
    assert plan.out == "start of hv_updater: does not run\n", plan
    answer = config(ready, "--hv_on")
    assert answer.code == 0, answer
    check_registers(ready)


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


def test_every_word_of_the_script_is_a_task_and_every_task_a_word() -> None:
    """None may fall back to the whole bring-up by a slip."""
    assert set(script.TASKS) == {task.name for task in config_tasks.TASKS}
    for name in script.TASKS:
        assert [t.name for t in config_tasks.chosen_tasks(config_tasks.Request([name]))] == [name]


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
        answer = look("--loads", "--reboot", "--quabo", target, "--json")
        assert answer.code == 0, answer
        assert answer.json["firmware"][target]["written"] is True
        assert answer.json["silver"][target]["version"] == "0210"
    finally:
        path.write_text(text)
    restore(ready, look)


def test_killed_anywhere_it_goes_on(ready: PrivateObservatory) -> None:
    """SIGKILL within steps; the last call brings everything to what the configs ask for."""
    path = ready.data_dir / LEDGER_FILE
    killed_within: set[str] = set()
    with ready.client() as client:
        client.fault("all", "slow", delay_s=0.3)  # so that each step can be met half done
    for step in (Step.REBOOT, Step.MAROC, Step.SHUTTER):
        redo = ["--redo", Step.REBOOT.value] if step is Step.REBOOT else []
        child = subprocess.Popen(
            ready.command("config.py", *redo),
            cwd=ready.command_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(partial(_begun_or_ended, child, path, step), f"{step} to begin", 60)
        finally:
            child.kill()
            child.wait(20)
        # On a busy computer it may have ended just before; what counts is what it left begun.
        killed_within.update(begun_steps(path) if child.returncode == -signal.SIGKILL else ())
        assert read_ledger(ready.data_dir).boards, "the ledger is whole"
    assert killed_within, "not once was it killed half way through a step"
    with ready.client() as client:
        client.fault("all", "none")
    answer = config(ready)
    assert answer.code == 0, answer
    check_registers(ready)


def _begun_or_ended(child: subprocess.Popen[bytes], path: Path, step: Step) -> bool:
    """Whether some board is in the middle of a step, or the child has ended."""
    if child.poll() is not None:
        return True
    return step.value in begun_steps(path)


def begun_steps(path: Path) -> set[str]:
    """The steps that some board is in the middle of, as the ledger has it."""
    found = json.loads(path.read_text())["boards"].values()
    return {name for steps in found for name, entry in steps.items() if entry["done"] is None}


def test_readiness_says_what_mends_it(
    ready: PrivateObservatory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(**needs: bool) -> list[str]:
        return readiness(load_site(ready.command_dir), **needs)

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
        assert len(found) == 1
        words = r".*: PH baseline: 25\.\d h old \(limit 24 h\); run: config\.py --calibrate_ph"
        assert re.fullmatch(words, found[0])
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
    (ready.data_dir / "quabo_uids.json").rename(ready.data_dir / "aside")
    assert "run: config.py" in lacks()[0]
    (ready.data_dir / "aside").rename(ready.data_dir / "quabo_uids.json")


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


def test_shutdown_and_back(ready: PrivateObservatory, look: Look) -> None:
    """With a power switch for module 1, and a Redis that is not there at first."""
    boards_1, boards_254 = ready.site.quabos[:4], ready.site.quabos[4:]

    def wire(outlet: int, on: bool) -> None:
        with ready.client() as client:
            client.power("module:1", on)

    with PowerSwitchServer(user="obs", password="secret", on_switch=wire) as switch:
        path = ready.command_dir / "obs_config.json"
        obs = json.loads(path.read_text())
        obs["wps"] = {"url": switch.url, "quabo_socket": 3}
        obs["domes"][0]["modules"][0]["wps"] = "wps"
        path.write_text(json.dumps(obs))
        answer = config(ready, "--shutdown")
        assert answer.code == 0, answer
        assert "secret" not in answer.out + answer.err
        assert 3 not in switch.outlets_on and len(switch.outlets_on) == 7
        now = boards(ready)
        assert {now[ip]["phase"] for ip in boards_1} == {"off"}
        assert not any(now[ip]["shutter_open"] for ip in boards_254)
        assert max(max(now[ip]["hv"]["volts"]) for ip in boards_254) < 1
        assert not any(state(name, ready.data_dir).pid for name in SESSION_DAEMONS)
        ready.redis.end()
        answer = config(ready)
        assert answer.code == 1, answer
        assert "redis-server --port" in answer.err, "how to start it"
        assert "power: outlet 3 of wps is on" in answer.err
        assert read_ledger(ready.data_dir).done(boards_1[0], Step.MAROC), "all else goes on"
        ready.redis.start()
        answer = config(ready, "--json")
        assert answer.code == 0, answer
        # Nobody had listened since the boards were set up: they may have rebooted.
        lost = {"HK destination", "masks", "MAROC", "PH baseline", "shutter"}
        assert steps_done(answer) == {"start"} | lost
        check_registers(ready)
        assert look("--shutdown").code == 0
        assert look("--shutdown").code == 0, "safe to repeat"
