"""config.py from power-on to ready and back: simulated boards, a real Redis and a real sshd.

Tasks that are asked for alone, and what a start needs: test_config_tasks.py.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from panoseti.boards.board_link import Send, open_link
from panoseti.boards.commands import HkDestination
from panoseti.bringup import bring_up, config_run, config_tasks, config_words
from panoseti.bringup.config_request import Request
from panoseti.bringup.ledger import SEEN, Step
from panoseti.bringup.ledger_file import LEDGER_FILE, read_ledger
from panoseti.bringup.readiness import in_words, readiness
from panoseti.bringup.session import SESSION_DAEMONS, state
from panoseti.configs.load_configs import load_site
from simulator.power_switch import PowerSwitchServer
from simulator.private_observatory import PrivateObservatory
from tests.config_calls import (
    boards,
    check_registers,
    config,
    files_of,
    steps_done,
    write_data,
)
from tests.helpers import wait_for
from tests.ready_observatory import Look, fresh_observatory, restore

EVERY_DAEMON = set(SESSION_DAEMONS)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateObservatory]:
    with fresh_observatory(tmp_path_factory.mktemp("config py")) as observatory:
        yield observatory


@pytest.fixture(scope="module")
def ready(fresh: PrivateObservatory) -> PrivateObservatory:
    """The same, brought up from power-on, in a command directory that cannot be written."""
    before, kept = files_of(fresh.command_dir), files_of(fresh.data_dir)
    fresh.command_dir.chmod(0o555)
    plan = config(fresh, "--dry-run", "--json")
    assert plan.code == 0, plan
    assert files_of(fresh.data_dir) == kept, "a dry run writes nothing"
    assert all(board["maroc"] is None for board in boards(fresh).values())
    answer = config(fresh, "--json")
    fresh.command_dir.chmod(0o755)
    assert answer.code == 0, answer
    assert steps_done(answer) == steps_done(plan), "what it said it would do"
    seen = {*SEEN, Step.FIRMWARE}
    assert {step.label for step in Step if step not in seen} <= steps_done(answer)
    ledger = read_ledger(fresh.data_dir)
    for ip in fresh.site.quabos:
        ping, loaded = ledger.done(ip, Step.PING), ledger.done(ip, Step.FIRMWARE)
        assert ping is not None and loaded is not None and loaded.facts["compared"] is False
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
    for what in ("UID", "QFP or BGA", "PCB revision", "settings", "HV"):
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


@pytest.mark.long
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
    for step in LOST_BY_REBOOT:
        assert done.pop((step, rebooted)).startswith("rebooted at 2")
    assert done.pop(("reboot", cut)) == "answers ping but sends no housekeeping any more"
    assert set(done) == {(step, cut) for step in LOST_BY_REBOOT}
    booted = read_ledger(ready.data_dir).done_unix(rebooted, Step.REBOOT)
    assert before is not None and booted is not None and booted > before
    check_registers(ready)


def test_a_board_that_loses_power_after_a_boot_of_its_own_is_rebooted(
    ready: PrivateObservatory, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its boot was noted, and explains nothing of its silence afterwards."""
    monkeypatch.setattr(bring_up, "LISTEN_S", 2.0)
    ip = ready.site.quabos[6]
    with ready.client() as client:
        client.fault(ip, "rebooting")
        wait_for(lambda: boards(ready)[ip]["phase"] == "silver", "the board to be back")
        rebooted = f"{ip}: HK destination: rebooted at"
        wait_for(
            lambda: rebooted in " ".join(in_words(readiness(load_site(ready.command_dir)))),
            "its boot to be noted",
        )
        client.power(ip, on=False)
        client.power(ip, on=True)
    wait_for(lambda: boards(ready)[ip]["phase"] == "gold", "the golden firmware")
    answer = look("--json")
    assert answer.code == 0, answer
    done = {(item["step"], item["where"]): item["reason"] for item in answer.json["plan"]}
    assert done["reboot", ip] == "answers ping but sends no housekeeping any more"
    check_registers(ready)


LOST_BY_REBOOT = {"HK destination", "masks", "MAROC", "PH baseline", "HV"}


def test_boots_whose_boot_packet_was_lost_are_found_out(
    ready: PrivateObservatory, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sends its housekeeping somewhere else afterwards, one still here, but without HV."""
    astray, heard = ready.site.quabos[2], ready.site.quabos[6]
    # All hear in 2 s of this clock what real boards send in 7 s.
    monkeypatch.setattr(bring_up, "LISTEN_S", 2.0)
    before = read_ledger(ready.data_dir)
    with ready.client() as client:
        for ip in (astray, heard):
            client.fault(ip, "no_hk")
            client.fault(ip, "rebooting")
        wait_for(
            lambda: {boards(ready)[ip]["phase"] for ip in (astray, heard)} == {"silver"},
            "the boards to be back",
        )
        with open_link(load_site(ready.command_dir)) as link:
            elsewhere = [Send(HkDestination("192.168.1.100"))]
            assert link.run({astray: elsewhere})[astray].ok
        client.fault("all", "none")

    def lacks() -> str:
        return " ".join(in_words(readiness(load_site(ready.command_dir))))

    wait_for(lambda: f"{heard}: HK destination: rebooted at" in lacks(), "the updater to see it")
    silent = f"{astray}: no housekeeping for over 4 s: it may have rebooted; run: config.py"
    wait_for(lambda: silent in lacks(), "its HK to be old")
    answer = look("--json")
    assert answer.code == 0, answer
    done = {(item["step"], item["where"]): item["reason"] for item in answer.json["plan"]}
    assert {where for _, where in done} == {astray, heard}
    for ip in (astray, heard):
        assert f"{ip} rebooted by itself" in answer.err
        assert {step for step, where in done if where == ip} == LOST_BY_REBOOT
        assert done["MAROC", ip].startswith("rebooted at 2")
        found = read_ledger(ready.data_dir).done(ip, Step.REBOOT)
        earlier = before.done(ip, Step.REBOOT)
        assert found is not None and earlier is not None
        assert found.facts["fwver"] == earlier.facts["fwver"]
    check_registers(ready)
    again = look("--json")
    assert (again.code, again.json["plan"]) == (0, []), again


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


@pytest.mark.long
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
        answer = look("--json")
        assert answer.code == 0, answer
        assert answer.json["plan"] == [], "nor does a daemon have to know"
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
    answer = look("--json")
    assert answer.code == 0, answer
    assert {item["where"] for item in answer.json["plan"]} <= {gone}
    check_registers(ready)


@pytest.mark.long
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


@pytest.mark.long
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


def test_every_word_of_the_script_is_a_task_and_every_task_a_word() -> None:
    """None may fall back to the whole bring-up by a slip."""
    assert set(config_words.TASKS) == {task.name for task in config_tasks.TASKS}
    for name in config_words.TASKS:
        assert [t.name for t in config_run.chosen_tasks(Request([name]))] == [name]


@pytest.mark.long
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
        shown = [line for line in answer.out.splitlines() if line.endswith("power is off")]
        assert len(shown) == 4 and "silver" in answer.out, "the boards as they were left"
        assert sum(line.endswith("  shut down") for line in answer.out.splitlines()) == 4
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
        lost = {"HK destination", "masks", "MAROC", "PH baseline", "shutter", "HV"}
        assert steps_done(answer) == {"start"} | lost
        check_registers(ready)
        assert look("--shutdown").code == 0
        assert look("--shutdown").code == 0, "safe to repeat"
