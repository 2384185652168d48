"""qc.py as an operator runs it: every command, its bytes, its effect on a board, its errors."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from panoseti.boards import qc_commands
from panoseti.boards.hk_socket import HkSocket
from panoseti.boards.qc_commands import HV_IS_MEANT, WORDS, UsageError
from panoseti.bringup.touched import TOUCHED_FOLDER
from panoseti.flight import read_flight
from panoseti.housekeeping.store import Store
from qc import main as qc_main
from simulator.client import SimulatorClient
from tests.helpers import REPO, golden, wait_for
from tests.redis_server import private_redis
from tests.simulated import Simulation, simulation, udp_socket
from tests.site_files import DAQ, OBS, changed, write_site

QC = REPO / "qc.py"
BOARD = "192.168.3.248"


def qc(
    *words: str, cwd: Path, stdin: str = "", ip: str = BOARD
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(QC), ip, *words], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=60
    )


def outgoing(text: str) -> list[str]:
    return [line[2:] for line in text.splitlines() if line.startswith("> ")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    with simulation(
        tmp_path_factory.mktemp("qc"), modules=(254,), options=("--silver",), time_scale=20
    ) as running:
        yield running


@pytest.fixture
def sim(site: Simulation) -> Iterator[SimulatorClient]:
    with site.client() as client:
        yield client
        client.fault("all", "none")


def board(sim: SimulatorClient, ip: str) -> dict[str, Any]:
    state: dict[str, Any] = sim.state(ip)["boards"][ip]
    return state


# --- bytes ---


def golden_requests() -> list[tuple[list[str], list[str]]]:
    """Words of qc.py and the packets that the deployed software sends for them."""
    found = []
    for case in golden("commands")["cases"]:
        args, op = case["args"], case["op"]
        words: list[str] | None = None
        if op == "set_acquisition" and not args.get("flash") and not args.get("stim"):
            flags = [args[name] for name in ("do_image", "image_8bit", "do_ph", "bl_subtract")]
            image, eight_bit, ph, subtract = (str(int(flag)) for flag in flags)
            words = ["AM", image, str(args["image_us"]), eight_bit, ph, subtract]
        elif op == "set_hv_one_channel":
            words = ["v", str(args["channel"]), str(args["value"])]
        elif op == "set_hv" and args["values"] == [0, 0, 0, 0]:
            words = ["VV"]
        elif op == "reset":
            words = ["R"]
        elif op == "focus":
            words = ["ST", str(args["steps"])]
        elif op == "shutter_old":
            words = ["SHC" if args["closed"] else "SHO"]
        elif op == "shutter_new":
            words = ["SHC_NEW" if args["closed"] else "SHO_NEW"]
        elif op == "fan":
            words = ["FAN", str(args["speed"])]
        elif op == "led_flasher_select":
            words = [f"LF{args['value']}"]
        elif op == "data_destination":
            words = ["IM-PH-IP", args["ip"]]
        elif op == "hk_destination":
            words = ["HK-IP", args["ip"]]
        elif op == "calibrate_ph_baseline":
            words = ["B"]
        if words is not None:
            found.append((words, [packet["hex"] for packet in case["packets"]]))
    return found


def test_each_command_sends_the_bytes_of_the_deployed_tool(tmp_path: Path) -> None:
    requests = golden_requests()
    covered = {words[0] for words, _ in requests}
    assert covered >= {"AM", "v", "VV", "R", "ST", "SHO", "SHO_NEW", "FAN", "LF0", "B", "HK-IP"}
    # `v` keeps the other channels of this session; the deployed cases begin each with zeros.
    runs = [(["--no_echo", HV_IS_MEANT], [pair]) for pair in requests if pair[0][0] == "v"]
    runs.append((["--no_echo"], [pair for pair in requests if pair[0][0] not in ("v", "FAN")]))
    runs.append(([], [pair for pair in requests if pair[0][0] == "FAN"]))  # the one with echo
    for options, run in runs:
        words = [word for pair in run for word in pair[0]]
        done = qc("--dry-run", *options, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert outgoing(done.stdout) == [packet for _, hexes in run for packet in hexes]


def test_with_echo_only_the_first_byte_differs(tmp_path: Path) -> None:
    words = ["R", "VV", "AM", "1", "999", "0", "0", "1", "B", "IM-PH-IP", "1.2.3.4", "ST", "7"]
    plain = outgoing(qc("--dry-run", "--no_echo", *words, cwd=tmp_path).stdout)
    echoed = outgoing(qc("--hex", "--dry-run", *words, cwd=tmp_path).stdout)
    assert [packet[2:] for packet in plain] == [packet[2:] for packet in echoed]
    assert [packet[:2] for packet in echoed] == ["84", "82", "83", "07", "0a", "05"]


def test_commands_from_the_file_of_the_command_directory(tmp_path: Path) -> None:
    text = (REPO / "quabos" / "quabo_config.txt").read_text()
    text += "\nHV_0=1\nHV_1=2\nHV_2=3\nHV_3=4\nACQINT=0x1234\nACQMODE=0x02\nGOEMASK=1\n"
    text += "CHANMASK_8=0x155\nDAC1=201,216,226,203\n"
    (tmp_path / "quabo_config.txt").write_text(text)
    done = qc("--json", "--dry-run", "--no_echo", "V", "A", "T", "M", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    hv, acquisition, masks, maroc = json.loads(done.stdout)["commands"]
    assert hv["sent"][0].startswith("0200" + "0100" + "0200" + "0300" + "0400")
    assert acquisition["sent"][0].startswith("030002003412")
    assert masks["sent"][0].startswith("06000000" + "ff" * 32 + "55010000")
    assert masks["sent"][1].startswith("0e00000001")
    assert len(maroc["sent"][0]) == 2 * 492
    (tmp_path / "quabo_config.txt").write_text(text + "HV_0=70000\n")
    done = qc("--dry-run", "V", cwd=tmp_path)
    assert done.returncode == 2
    assert "HV_0=70000" in done.stderr


# --- a session with a board ---


def test_every_command_does_what_it_says(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    ip = site.quabos[1]
    words = ["M", "T", "R", "v", "2", "300", "AM", "1", "999", "0", "0", "1", "LF0", "SHO_NEW"]
    done = qc(*words, "HK-IP", site.head, "IM-PH-IP", site.head, "--hex", cwd=tmp_path, ip=ip)
    assert done.returncode == 0, done.stderr
    state = board(sim, ip)
    assert state["maroc"] is not None
    assert state["channel_mask"] == [0xFFFFFFFF] * 8 + [0x155]
    assert state["hv"]["codes"] == [0, 0, 300, 0]
    assert state["acquisition"]["mode"] == 2
    assert state["acquisition"]["interval_field"] == 999
    assert not state["new_flasher"]
    assert state["shutter_open"]
    assert state["hk_destination"] == site.head
    assert state["image_destination"] == state["ph_destination"] == site.head
    assert "maroc: confirmed" in done.stdout
    assert f"{site.head} is at 02:53:" in done.stdout
    sent, received = done.stdout.count("\n> "), done.stdout.count("\n< ")
    assert sent + done.stdout.startswith("> ") == received == 11
    assert "HIGH VOLTAGE ON: codes 0, 0, 300, 0" in done.stderr
    assert "NOBODY WATCHES this voltage" in done.stderr
    assert "the others as this qc.py has last set them" in done.stderr
    assert list(tmp_path.iterdir()) == []

    done = qc("VV", "SHC_NEW", "LF1", "A", "AM", "0", "0", "0", "0", "0", cwd=tmp_path, ip=ip)
    assert done.returncode == 0, done.stderr
    state = board(sim, ip)
    assert state["hv"]["codes"] == [0, 0, 0, 0]
    assert not state["shutter_open"]
    assert state["new_flasher"]
    assert state["acquisition"]["mode"] == 0x10
    assert "switches the high voltage of all four detectors off" in done.stderr


def test_fan_focus_and_old_shutter_warn_of_the_focus_stage(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    ip = site.quabos[2]
    done = qc("FAN", "9", cwd=tmp_path, ip=ip)
    assert done.returncode == 0, done.stderr
    assert "the fan command is a focus command to firmware from v20 on" in done.stderr
    assert board(sim, ip)["fan_speed"] == 9
    done = qc("SHO", "focus", "300", cwd=tmp_path, ip=ip)
    assert done.returncode == 0, done.stderr
    assert "the old shutter command is a focus command" in done.stderr
    assert done.stdout == (
        "old_shutter_open: sent; nothing confirms it\nfocus: sent; nothing confirms it\n"
    )
    wait_for(lambda: board(sim, ip)["focus_steps"] == 300, "the stage to move")
    assert "the fan is set as well: off; with FAN_NEW" in done.stderr
    done = qc("FAN_NEW", "5", "300", cwd=tmp_path, ip=ip)
    assert (done.returncode, done.stdout) == (0, "fan_new: confirmed\n"), done
    assert (board(sim, ip)["fan_speed"], board(sim, ip)["focus_steps"]) == (5, 300)


def test_ph_baseline_and_uid_are_shown(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    ip = site.quabos[3]
    port = ("--tftp_port", str(site.tftp_port))
    done = qc("calibrate-ph", "uid", *port, cwd=tmp_path, ip=ip)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("PH baseline, ADC counts: mean ")
    assert [len(line.split()) for line in lines[1:17]] == [16] * 16
    assert lines[17] == f"uid: {board(sim, ip)['uid']}"
    assert "high voltage off for about a second" in done.stderr
    document = json.loads(qc("B", "--json", cwd=tmp_path, ip=ip).stdout)
    assert document["board"] == ip
    (command,) = document["commands"]
    assert command["ok"] and command["confirmed"] and command["error"] is None
    assert command["answer"]["baseline"] == board(sim, ip)["baseline"]
    assert command["sent"][0].startswith("07")


def test_one_hk_packet_is_shown(site: Simulation, sim: SimulatorClient, tmp_path: Path) -> None:
    ip = site.quabos[0]
    done = qc("HK-IP", site.head, "HK", "--hex", cwd=tmp_path, ip=ip)
    assert done.returncode == 0, done.stderr
    values = dict(line.split(None, 1) for line in done.stdout.splitlines() if line[:1].isupper())
    assert values["BOARDLOC"] == str(board(sim, ip)["boardloc"])
    assert 20 < float(values["TEMP1"]) < 40
    assert any(line.startswith("< 20") and len(line) == 130 for line in done.stdout.splitlines())
    sim.fault(ip, "no_hk")
    done = qc("HK", "--timeout_s", "0.3", cwd=tmp_path, ip=ip)
    assert done.returncode == 1
    assert f"{ip}: no HK packet at 0.0.0.0 port 60002 in 0.3 s" in done.stderr
    with HkSocket((site.head,)):
        done = qc("HK", "--hk_address", site.head, cwd=tmp_path, ip=ip)
    assert done.returncode == 1
    assert f"HK port {site.head}:60002: another program holds it" in done.stderr


def test_a_silent_board_is_an_error_and_the_rest_is_not_sent(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    ip = site.quabos[0]
    sim.fault(ip, "mute")
    done = qc("R", "v", "0", "5", "--timeout_s", "0.05", "--json", cwd=tmp_path, ip=ip)
    assert done.returncode == 1
    assert f"error: {ip}: no answer to reset (5 tries in 0.25 s)" in done.stderr
    assert "not sent: v 0 5" in done.stderr
    (command,) = json.loads(done.stdout)["commands"]
    assert not command["ok"]
    assert command["error"].startswith(f"{ip}: no answer to reset")
    done = qc("R", "--no_echo", cwd=tmp_path, ip=ip)
    assert (done.returncode, done.stdout) == (0, "reset: sent; nothing confirms it\n")


def test_a_destination_that_cannot_be_found_is_an_error(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    done = qc("IM-PH-IP", "192.0.2.7", cwd=tmp_path, ip=site.quabos[0])
    assert done.returncode == 1
    assert "nobody at 192.0.2.7 answers the board's ARP" in done.stderr


def test_a_held_source_port_is_refused(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    ip = site.quabos[0]
    # Without configs the port is bound to the address that faces the board.
    with udp_socket("127.0.0.1", 60000):
        done = qc("R", "--source_port", "60000", cwd=tmp_path, ip=ip)
    assert done.returncode == 3
    assert f"command port 127.0.0.1:60000: held by pid {os.getpid()}" in done.stderr
    done = qc("R", "--source_port", "60000", cwd=tmp_path, ip=ip)
    assert done.returncode == 0, done.stderr


# --- the prompt ---


def test_the_prompt_takes_lines_until_q(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    ip = site.quabos[0]
    lines = "# a comment\n\nv 0 100\nv 1 200\n?\nR VV q\nV\n"
    done = qc(cwd=tmp_path, ip=ip, stdin=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hv_channel: confirmed\n" * 2 + "reset: confirmed\nhv_off: confirmed\n"
    assert "codes 100, 200, 0, 0" in done.stderr
    assert "IM-PH-IP" in done.stderr
    assert board(sim, ip)["hv"]["codes"] == [0, 0, 0, 0]


def test_mistakes_at_the_prompt_are_told_and_it_goes_on(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    lines = "nonsense\nv 0\nR 'open\nR\n"
    done = qc(cwd=tmp_path, ip=site.quabos[0], stdin=lines)
    assert done.returncode == 2
    assert done.stdout == "reset: confirmed\n"
    assert done.stderr.count("error: ") == 3


# --- usage ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["X"], "no command 'X'"),
        (["v", "0"], "v needs 2 values: chan code"),
        (["R", "v", "4", "0"], "channel 4 is outside 0..3"),
        (["v", "0", "65536"], "65536"),
        (["v", "0", "many"], "'many' is no number"),
        (["R", "v", "0", "51600"], "58.0 V, more than any detector may have (58 V)"),
        (["AM", "1", "0", "2", "0", "0"], "'2' is not 0 or 1"),
        (["ST", "50001"], "target_steps is 50001"),
        (["FAN", "16"], "fan_speed is 16"),
        (["HK-IP", "300.1.1.1"], "300.1.1.1"),
        (["R", "--timeout_s", "0"], "--timeout_s"),
        (["R", "--source_port", "70000"], "--source_port"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_sent(
    tmp_path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = time.monotonic()
    try:
        qc_main(["127.255.255.254", "--hex", *words])
    except UsageError as error:
        code, text = error.exit_code, str(error)
    except SystemExit as ended:
        code, text = int(str(ended.code)), capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert said in text
    assert "\n" not in text
    assert capsys.readouterr().out == ""
    assert time.monotonic() - begin < 1.0, "something was sent to a board that is not there"


def test_an_address_that_is_none(tmp_path: Path) -> None:
    done = qc("R", cwd=tmp_path, ip="quabo")
    assert done.returncode == 2
    assert "'quabo'" in done.stderr
    done = qc("R", "X", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "qc.py: no command 'X'; see: qc.py --help (or ? at the prompt)\n"


def test_help_names_every_command(tmp_path: Path) -> None:
    done = subprocess.run([str(QC), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "examples:" in done.stdout
    for word in WORDS:
        assert word.text in done.stdout
    aliases = "M B V v VV A AM T R ST SHO SHC SHO_NEW SHC_NEW FAN LF0 LF1 HK IM-PH-IP HK-IP q"
    assert {word.alias for word in WORDS} >= set(aliases.split())


def test_names_and_aliases() -> None:
    def names(words: Sequence[str]) -> list[str]:
        return [request.word.name for request in qc_commands.parse(words)]

    assert names(["V", "v", "1", "2", "VV"]) == ["hv", "hv_channel", "hv_off"]
    assert names(["HK", "hk", "HV-OFF", "data-destination", "1.2.3.4"]) == [
        "hk", "hk", "hv_off", "data_destination",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no command 'm'"):
        names(["m"])


# --- with configs ---


def site_of_the_boards(site: Simulation, folder: Path, more: dict[str, Any]) -> Path:
    """A command directory whose boards are the simulated ones."""
    module = {"mobo_serialno": "S", "quabo_version": "qfp", "ip_addr": site.bases[0]}
    obs: dict[tuple[str | int, ...], Any] = {
        ("domes", 0, "modules"): [module | {"command_echo": False}]
    }
    daq = {
        ("head_node_ip_addr",): site.head,
        ("head_node_data_dir",): str(folder / "data"),
        ("daq_nodes", 1, "ip_addr"): site.head,
        ("daq_nodes", 1, "data_dir"): str(folder / "data"),
    }
    own = {(name,): value for name, value in more.items()}
    return write_site(folder / "site", changed(OBS, obs | own), changed(DAQ, daq))


def test_hk_comes_from_redis_while_capture_hk_has_the_port(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    ended = threading.Event()

    def capture(store: Store) -> None:
        while not ended.wait(0.05):
            store.put_record("QUABO_1016", {"Computer_UTC": time.time(), "TEMP1": 21.25})

    with private_redis(tmp_path) as redis, HkSocket((site.head,)):
        with Store(port=redis.port) as store:
            thread = threading.Thread(target=capture, args=(store,))
            command_dir = site_of_the_boards(site, tmp_path, {"redis_port": redis.port})
            store.put_record("QUABO_1016", {"Computer_UTC": 1, "TEMP1": -7})
            thread.start()
            try:
                done = qc("HK", cwd=command_dir, ip=site.quabos[0])
            finally:
                ended.set()
                thread.join()
            assert done.returncode == 0, done.stderr
            assert done.stdout.split()[2:] == ["TEMP1", "21.25"]
            done = qc("HK", "--timeout_s", "0.3", cwd=command_dir, ip=site.quabos[0])
    assert done.returncode == 1
    assert "no new HK record in 0.3 s" in done.stderr


def test_configs_of_the_command_directory_are_used_when_they_are_there(
    site: Simulation, sim: SimulatorClient, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    command_dir = site_of_the_boards(
        site, tmp_path, {"shutter_open_value": 1, "tftp_port": site.tftp_port}
    )
    ip = site.quabos[1]
    done = qc("SHO_NEW", "uid", "--hex", cwd=command_dir, ip=ip)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert outgoing(done.stdout)[0].startswith("0801")
    assert f"uid: {board(sim, ip)['uid']}" in done.stdout
    what = [(line.program, line.what) for line in read_flight(data_dir)]
    assert what == [("qc.py", "command"), ("qc.py", "send"), ("qc.py", "tftp_get")]
    (data_dir / TOUCHED_FOLDER).rename(tmp_path / "aside")
    (data_dir / TOUCHED_FOLDER).write_text("in the way")
    done = qc("SHO_NEW", cwd=command_dir, ip=ip)
    assert (done.returncode, done.stdout) == (0, "shutter_open: sent; nothing confirms it\n")
    assert done.stderr.count("warning") == 1
    assert "config.py and start.py are not told of this" in done.stderr
    assert f"config.py --redo shutter --quabo {ip}" in done.stderr
    (command_dir / "daq_config.json").write_text("{")
    done = qc("R", cwd=command_dir, ip=ip)
    assert done.returncode == 0, done.stderr
    assert "warning: the configs in . are not used: daq_config.json" in done.stderr
