"""Fans, focus stages, flashers, shutters of old firmware, and power, by config.py.

Simulated boards: from firmware 20 on they move the focus stage at every command 0x05, as real ones.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from panoseti.bringup import session
from panoseti.configs.board_files import read_quabo_uids
from panoseti.configs.load_configs import load_site
from panoseti.runs.run_state import RUN_NAME_FILE
from simulator.flash import FOCUS_AT_FIRST, Firmware, firmware_image
from simulator.power_switch import PowerSwitchServer
from simulator.private_observatory import PrivateObservatory
from tests.config_calls import boards, check_registers
from tests.helpers import free_port, wait_for
from tests.ready_observatory import Look, restore


@contextmanager
def changed_config(ready: PrivateObservatory, **fields: Any) -> Iterator[dict[str, Any]]:
    """obs_config.json as it is, to be changed in place; put back at the end."""
    path = ready.command_dir / "obs_config.json"
    text = path.read_text()
    obs = {**json.loads(text), **fields}
    try:
        yield obs
    finally:
        path.write_text(text)


def save(ready: PrivateObservatory, obs: dict[str, Any]) -> None:
    (ready.command_dir / "obs_config.json").write_text(json.dumps(obs))


def fans(ready: PrivateObservatory) -> list[int]:
    return [board["fan_speed"] for board in boards(ready).values()]


def test_a_fan_is_set_and_the_focus_stage_stays(ready: PrivateObservatory, look: Look) -> None:
    first, other = ready.site.quabos[0], ready.site.quabos[4]
    plan = look("--fan", "9", "--dry-run", "--quabo", first)
    said = f"firmware 20.8; speed 0 -> 9; the focus stage stays at {FOCUS_AT_FIRST}"
    assert plan.out == f"would: set the fan of {first}: {said}\n", plan
    assert fans(ready) == [0] * 8
    answer = look("--fan", "9", "--module", "1", "--json")
    assert answer.code == 0, answer
    assert fans(ready) == [9] * 4 + [0] * 4
    assert {ip: told["ok"] for ip, told in answer.json["fan"].items()} == dict.fromkeys(
        ready.site.quabos[:4], True
    )
    assert f"verified: focus stage of {first} at {FOCUS_AT_FIRST}" in answer.err
    now = boards(ready)
    assert now[first]["focus_steps"] == now[other]["focus_steps"] == FOCUS_AT_FIRST
    assert not any(board["focus_recalibrations"] for board in now.values())


def test_the_focus_stage_moves_and_the_fan_goes_on(ready: PrivateObservatory, look: Look) -> None:
    first, other = ready.site.quabos[0], ready.site.quabos[4]
    assert look("--fan", "5", "--module", "1").code == 0
    answer = look("--focus", "12000", "--only", "1", "--json")
    assert answer.code == 0, answer
    assert list(answer.json["focus"]) == [first], "quabo 0 has the stage"
    assert f"verified: focus stage of {first} at 12000, as it reports" in answer.err
    now = boards(ready)
    assert (now[first]["focus_steps"], now[first]["fan_speed"]) == (12000, 5)
    assert now[other]["focus_steps"] == FOCUS_AT_FIRST
    answer = look("--focus", "0", "--quabo", first)
    assert answer.code == 0, answer
    assert boards(ready)[first]["focus_recalibrations"] == 1
    answer = look("--fan", "6", "--module", "1")
    assert answer.code == 1, answer
    assert f"{first}: fan: its focus stage is at 0 as its flash says" in answer.err
    assert fans(ready)[:4] == [5, 6, 6, 6], "the others are told; it would have moved the stage"
    assert look("--focus", "10000", "--quabo", first).code == 0
    answer = look("--focus", "1", "--quabo", ready.site.quabos[1])
    assert (answer.code, "no quabo 0" in answer.err) == (1, True), answer


def test_the_flasher_and_what_no_value_may_be(ready: PrivateObservatory, look: Look) -> None:
    target = ready.site.quabos[6]
    assert look("--flasher", "old", "--quabo", target).code == 0
    assert [ip for ip, board in boards(ready).items() if not board["new_flasher"]] == [target]
    assert look("--flasher", "new").code == 0
    assert all(board["new_flasher"] for board in boards(ready).values())
    for words in (("--fan", "16"), ("--fan", "-1"), ("--focus", "50001"), ("--flasher", "on")):
        with pytest.raises(SystemExit, match="2"):
            look(*words)


@pytest.mark.long
def test_old_firmware_gets_the_old_forms(ready: PrivateObservatory, look: Look) -> None:
    """Up to 11.1 the shutter is driven by 0x05, a focus target is a number of steps to go."""
    zero, one = ready.site.quabos[4:6]
    image = ready.folder / "quabo_0110_10000000.bin"
    image.write_bytes(firmware_image(Firmware("0110", 0x10000000), 0x20000))
    with changed_config(ready, firmware={"qfp": str(image)}) as obs:
        save(ready, obs)
        answer = look("--loads", "--reboot", "--quabo", zero, "--quabo", one)
        assert answer.code == 0, answer
    assert look("--hk_dest", "--module", "254").code == 0
    wait_for(lambda: look("--fan", "3", "--quabo", zero, "--dry-run").code == 0, "its HK")
    assert look("--fan", "3", "--quabo", zero, "--quabo", one).code == 0
    for state in ("open", "close"):
        answer = look(f"--shutter_{state}", "--quabo", one)
        assert answer.code == 0, answer
        now = boards(ready)
        assert now[one]["shutter_open"] == (state == "open")
        assert now[one]["fan_speed"] == 3, "the old shutter command sets the fan as well"
    assert (now[zero]["fan_speed"], now[zero]["focus_steps"]) == (3, FOCUS_AT_FIRST)
    answer = look("--focus", "5", "--quabo", zero)
    assert (answer.code, "firmware 11.0 knows no positions" in answer.err) == (1, True), answer
    answer = look("--flasher", "old", "--quabo", zero)
    assert (answer.code, "firmware 11.0 has one flasher only" in answer.err) == (1, True), answer
    new = ready.folder / "quabo_0208_28b4667a.bin"
    new.write_bytes(firmware_image(Firmware("0208", 0x28B4667A), 0x20000))
    with changed_config(ready, firmware={"qfp": str(new)}) as obs:
        save(ready, obs)
        answer = look("--loads", "--reboot", "--quabo", zero, "--quabo", one)
        assert answer.code == 0, answer
        plan = look("--focus", "7", "--quabo", zero, "--dry-run")
        assert "the fan keeps speed 0" in plan.out, "a reboot has ended it"


@pytest.mark.long
def test_without_housekeeping_a_fan_is_left_alone(ready: PrivateObservatory, look: Look) -> None:
    """Whether the command would move the focus stage is then not known."""
    silent = ready.site.quabos[2]
    before = fans(ready)
    with ready.client() as client:
        client.fault(silent, "no_hk")
    wait_for(
        lambda: look("--fan", "2", "--quabo", silent, "--dry-run").code == 1,
        "its HK to be too old",
        timeout_s=30,
    )
    answer = look("--fan", "2", "--quabo", silent)
    assert (answer.code, "no housekeeping tells its firmware" in answer.err) == (1, True), answer
    assert fans(ready) == before


# --- power ---


@contextmanager
def with_power_switch(ready: PrivateObservatory) -> Iterator[PowerSwitchServer]:
    """Module 1 hangs on outlet 3 of a power switch, module 254 on none."""

    def wire(outlet: int, on: bool) -> None:
        if outlet == 3:
            with ready.client() as client:
                client.power("module:1", on)

    with PowerSwitchServer(user="obs", password="secret", on_switch=wire) as switch:
        with changed_config(ready, wps={"url": switch.url, "quabo_socket": 3}) as obs:
            obs["domes"][0]["modules"][0]["wps"] = "wps"
            save(ready, obs)
            yield switch


def test_a_power_switch_that_cannot_be_reached_is_named_and_all_else_goes_on(
    ready: PrivateObservatory, look: Look
) -> None:
    restore(ready, look)
    url = f"http://127.0.0.1:{free_port()}"
    with changed_config(ready, wps={"url": url, "quabo_socket": 3}) as obs:
        obs["domes"][0]["modules"][0]["wps"] = "wps"
        save(ready, obs)
        answer = look("--redo", "masks", "--json")
        assert answer.code == 1, answer
        (problem,) = answer.json["problems"]
        assert (problem["where"], problem["step"]) == ("outlet 3 of wps", "power")
        assert "no answer" in problem["text"] and "check its address and cable" in problem["text"]
        masks = {due["where"] for due in answer.json["plan"] if due["step"] == "masks"}
        assert masks == set(ready.site.quabos), "they have power, whoever switches it"
        assert [row["state"] for row in answer.json["boards"]] == ["ready"] * 8
        shown = look("--show", "--json")
        assert shown.code == 0, "a look tells what it can see"
        assert shown.json["power"][0]["on"] is None
        assert "no answer" in shown.json["power"][0]["problem"]
        assert look("--power").code == 1
        status = subprocess.run(
            ready.command("status.py", "--json"),
            cwd=ready.command_dir, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        document = json.loads(status.stdout)
        assert "no answer" in document["power"][0]["problem"]
        assert not any("wps" in problem for problem in document["problems"]), "shown, no error"
        assert "outlet  modules  state" in status.stderr


@pytest.mark.long
def test_power_of_one_module_while_the_other_keeps_its_high_voltage(
    ready: PrivateObservatory, look: Look
) -> None:
    mine, others = ready.site.quabos[:4], ready.site.quabos[4:]
    restore(ready, look)
    with with_power_switch(ready) as switch:
        answer = look("--power", "--json")
        assert answer.code == 0, answer
        (state,) = answer.json["power"]
        assert state == {"switch": "wps", "outlet": 3, "modules": [1], "on": True, "problem": ""}
        pid = session.state("hv_updater", ready.data_dir).pid
        told = []
        switch.on_switch, wire = None, switch.on_switch

        def watch(outlet: int, on: bool) -> None:
            now = boards(ready)
            told.append(max(max(now[ip]["hv"]["volts"]) for ip in mine))
            assert wire is not None
            wire(outlet, on)

        switch.on_switch = watch
        answer = look("--power_off", "--module", "1")
        assert answer.code == 0, answer
        assert "verified: HV off of 4 boards (HVMON at most 0." in answer.err
        assert told and told[0] < 1, "high voltage was off before the power"
        assert 3 not in switch.outlets_on and len(switch.outlets_on) == 7
        now = boards(ready)
        assert {now[ip]["phase"] for ip in mine} == {"off"}
        assert min(min(now[ip]["hv"]["volts"]) for ip in others) > 50
        assert session.state("hv_updater", ready.data_dir).pid == pid
        uids = read_quabo_uids(ready.data_dir / "quabo_uids.json", load_site(ready.command_dir).obs)
        assert [ip for ip in ready.site.quabos if uids.present(ip)] == list(others)
        shown = look("--show", "--json").json
        assert shown["power"][0]["on"] is False
        assert [row["state"] for row in shown["boards"][:4]] == ["power is off"] * 4
        assert look("--power_off", "--module", "1").code == 0, "safe to repeat"
        answer = look("--power_on", "--module", "1")
        assert answer.code == 0, answer
        assert {boards(ready)[ip]["phase"] for ip in mine} == {"gold"}
        assert "next: config.py" in answer.err
        assert look("--power_on").code == 0, "safe to repeat"
        answer = look("--power_off", "--module", "254")
        assert (answer.code, "no power switch is configured" in answer.err) == (2, True), answer
        answer = look("--power_off", "--quabo", mine[0])
        assert (answer.code, "nothing less can be switched: --module 1" in answer.err) == (2, True)
        run = "obs_Simulated.start_2026-11-25T00:36:33Z.runtype_night.pffd"
        (ready.data_dir / RUN_NAME_FILE).write_text(f"{run}\n")
        try:
            answer = look("--power_off", "--module", "1")
            assert (answer.code, run in answer.err) == (3, True), answer
            assert 3 in switch.outlets_on
        finally:
            (ready.data_dir / RUN_NAME_FILE).unlink()
    restore(ready, look)
    check_registers(ready)
