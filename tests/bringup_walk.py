"""What may happen to boards and configs, in any order; then one config.py puts all right."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from panoseti.bringup import session
from panoseti.bringup.ledger_file import LEDGER_FILE
from panoseti.configs.board_files import DETECTOR_INFO, SHIPPED
from simulator.private_observatory import DATA, PrivateObservatory
from tests.config_calls import CALLS, boards, check_registers, config
from tests.helpers import wait_for

BOARD = st.integers(0, 7)
PARTS = st.sampled_from(
    [
        "--module 1",
        "--module 254",
        "--only dome 1",
        "--only dome 2",
        *[f"--quabo {n}" for n in range(8)],
    ]
)
# What no bring-up of other boards changes; HV is hv_updater's, the shutter quabo 1's.
SET_UP = ("phase", "uid", "hk_destination", "channel_mask", "goe_mask", "maroc", "baseline")
TASKS = st.sampled_from(
    [
        "--maroc_config", "--mask_config", "--hk_dest", "--shutter_close", "--calibrate_ph",
        "--get_uids", "--stop_redis_daemons", "--hv_off",
    ]
)  # fmt: skip
BY_HAND = ["M", "T", "M T", "B", "SHC_NEW", "HK-IP 192.0.2.1"]
HV_BY_HAND = ["VV", "v 1 47000"]
TRIGGERS: list[dict[str, Any]] = [
    {}, {"two_pixel_trigger": 1}, {"three_pixel_trigger": 1},
    {"any_trigger": {"group_ph_frames": 1}},
]  # fmt: skip
LOSS = 0.05


class Walk(RuleBasedStateMachine):
    """What may happen; `teardown` is the proof."""

    observatory: ClassVar[PrivateObservatory]

    def __init__(self) -> None:
        super().__init__()
        self.lossy = self.killed_at_work = False
        self.data: dict[str, Any] = json.loads(json.dumps(DATA))
        self._write_data()

    def _write_data(self) -> None:
        path = self.observatory.command_dir / "data_config.json"
        path.write_text(json.dumps(self.data))

    def _phase(self, ip: str) -> str:
        return str(boards(self.observatory)[ip]["phase"])

    @rule(gain=st.integers(55, 65))
    def edit_gain(self, gain: int) -> None:
        self.data["gain"] = gain
        self._write_data()

    @rule(image=st.sampled_from([1.5, 2, 3]), height=st.sampled_from([10, 12.5, 20]))
    def edit_thresholds(self, image: float, height: float) -> None:
        self.data["image"]["pe_threshold"] = image
        self.data["pulse_height"]["pe_threshold"] = height
        self._write_data()

    @rule(trigger=st.sampled_from(TRIGGERS))
    def edit_triggers(self, trigger: dict[str, Any]) -> None:
        threshold = self.data["pulse_height"]["pe_threshold"]
        self.data["pulse_height"] = {"pe_threshold": threshold, **trigger}
        self._write_data()

    @rule(word=st.integers(0, 0xFFFF))
    def edit_masks(self, word: int) -> None:
        text = (SHIPPED / "quabo_config.txt").read_text()
        changed, count = re.subn(r"(?m)^(CHANMASK_0\s*=\s*)\S+", rf"\g<1>0x{word:x}", text)
        assert count == 1
        (self.observatory.command_dir / "quabo_config.txt").write_text(changed)

    @rule(overvoltage=st.sampled_from([2, 3]))
    def edit_overvoltage(self, overvoltage: int) -> None:
        path = self.observatory.command_dir / "obs_config.json"
        obs = json.loads(path.read_text())
        path.write_text(json.dumps({**obs, "detector_overvoltage": overvoltage}))

    @rule(index=BOARD, detector=st.integers(0, 3), volts=st.sampled_from([-0.4, 0.0, 0.4]))
    def edit_breakdown_voltage(self, index: int, detector: int, volts: float) -> None:
        """So much off what the shipped files say."""
        boards_known = json.loads((SHIPPED / "quabo_info.json").read_text())
        serialno = boards_known[index]["detector_serialno"][detector]
        usual = {one["serialno"]: one for one in json.loads((SHIPPED / DETECTOR_INFO).read_text())}
        path = self.observatory.command_dir / "quabos" / DETECTOR_INFO
        known = json.loads(path.read_text())
        for one in known:
            if one["serialno"] == serialno:
                one["breakdown_voltage"] = str(float(usual[serialno]["breakdown_voltage"]) + volts)
        path.write_text(json.dumps(known))

    @rule(index=BOARD, pixel=st.integers(0, 15), gain=st.sampled_from([-0.1, 0.0, 0.1]))
    def edit_calibration(self, index: int, pixel: int, gain: float) -> None:
        """A pixel's gain, and a threshold line, of all sets of a board; else as shipped."""
        boardloc = boards(self.observatory)[self.observatory.site.quabos[index]]["boardloc"]
        folder = self.observatory.command_dir / "quabos"
        paths = sorted(folder.glob(f"detovervol_*v/*/quabo_calib_{boardloc:04d}.json"))
        assert paths
        for path in paths:
            shipped = SHIPPED / "detovervol_3v" / path.parent.name / path.name
            calibration = json.loads(shipped.read_text())
            calibration["pixel_gain"][pixel][pixel] = gain
            calibration["quadrants"][pixel % 4]["b"] += gain * 10
            path.write_text(json.dumps(calibration))

    @rule(index=BOARD)
    def board_reboots(self, index: int) -> None:
        ip = self.observatory.site.quabos[index]
        with self.observatory.client() as client:
            client.fault(ip, "rebooting")
        wait_for(lambda: self._phase(ip) in ("silver", "gold"), "the board to be back")

    @rule(index=BOARD)
    def board_loses_power(self, index: int) -> None:
        ip = self.observatory.site.quabos[index]
        with self.observatory.client() as client:
            client.power(ip, on=False)
            client.power(ip, on=True)
        wait_for(lambda: self._phase(ip) == "gold", "the golden firmware")

    @rule(seed=st.integers(0, 9))
    def datagrams_are_lost(self, seed: int) -> None:
        """From now on; the bring-up at the end must do with it."""
        self.lossy = True
        with self.observatory.client() as client:
            client.fault("all", "lossy", fraction=LOSS, seed=seed)

    @rule(name=st.sampled_from(session.SESSION_DAEMONS))
    def daemon_dies(self, name: str) -> None:
        process = session.process(name, self.observatory.data_dir)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            wait_for(lambda: not process.is_running() or process.status() == "zombie", "its end")

    @rule(task=TASKS)
    def task_alone(self, task: str) -> None:
        answer = config(self.observatory, task)
        assert answer.code in (0, 1), answer  # a board without power cannot do it
        assert "Traceback" not in answer.err, answer

    @rule(index=BOARD, words=st.sampled_from(BY_HAND + HV_BY_HAND))
    def qc(self, index: int, words: str) -> None:
        ip = self.observatory.site.quabos[index]
        done = subprocess.run(
            self.observatory.command("qc.py", ip, *words.split()),
            cwd=self.observatory.command_dir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (0, 1), done  # a board without power does not answer
        assert "Traceback" not in done.stderr, done

    @rule(saves=st.integers(1, 12), redo=st.sampled_from(["reboot", "maroc", "masks"]))
    def killed(self, saves: int, redo: str) -> None:
        """SIGKILL when the ledger has been written so often."""
        path = self.observatory.data_dir / LEDGER_FILE
        child = subprocess.Popen(
            self.observatory.command("config.py", "--redo", redo),
            cwd=self.observatory.command_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seen, left = path.stat().st_ino, saves

        def reached() -> bool:
            nonlocal seen, left
            now = path.stat().st_ino
            if now != seen:
                seen, left = now, left - 1
            return left <= 0 or child.poll() is not None

        try:
            wait_for(reached, "config.py to get so far", 90)
        finally:
            child.kill()
            child.wait(20)
        self.killed_at_work = child.returncode == -signal.SIGKILL
        json.loads(path.read_text())

    @rule(part=PARTS)
    def part_is_brought_up(self, part: str) -> None:
        """These boards hold what the configs ask for; all others what they held before."""
        option, _, which = part.partition(" ")
        ips = self.observatory.site.quabos
        if option == "--quabo":
            chosen: tuple[str, ...] = (ips[int(which)],)
            which = chosen[0]
        else:
            chosen = ips[:4] if which in ("1", "dome 1") else ips[4:]
        before = self._set_up()
        self._call_config(option, which)
        check_registers(self.observatory, only=chosen)
        after = self._set_up()
        for ip in set(ips) - set(chosen):
            assert after[ip] == before[ip], ip

    def _set_up(self) -> dict[str, list[Any]]:
        return {
            ip: [board[name] for name in SET_UP] for ip, board in boards(self.observatory).items()
        }

    def _call_config(self, *words: str) -> None:
        """Once; on bad links, where a boot packet may be lost, until it is content."""
        for _ in range(CALLS if self.lossy else 1):
            answer = config(self.observatory, *words)
            if answer.code == 0:
                return
        raise AssertionError(answer)

    @rule()
    def bring_up(self) -> None:
        self._call_config()
        check_registers(self.observatory)

    def teardown(self) -> None:
        self.bring_up()
        with self.observatory.client() as client:
            client.fault("all", "none")


def sample(observatory: PrivateObservatory, seed: int) -> None:
    """A walk of a few steps drawn by a seed, each of another kind, in an order drawn, too.

    Not by hypothesis, whose first walk is always the plainest: bring-ups alone.
    """
    Walk.observatory, draw = observatory, random.Random(seed)
    here = Walk()
    steps = [
        partial(here.edit_gain, gain=draw.randint(55, 65)),
        partial(here.edit_triggers, trigger=draw.choice(TRIGGERS)),
        partial(here.board_reboots, index=draw.randrange(4)),
        partial(here.qc, index=draw.randrange(4), words=draw.choice(BY_HAND)),
        partial(here.killed, saves=draw.randint(1, 3), redo=draw.choice(["maroc", "masks"])),
    ]
    draw.shuffle(steps)
    for step in steps:
        step()
    assert here.killed_at_work, "config.py had ended before it was to be killed"
    here.teardown()


def _calibrate_for_both_overvoltages(folder: Path) -> None:
    """Board files of the site's own: the shipped ones know 3 V alone."""
    if not folder.exists():
        shutil.copytree(SHIPPED, folder)
    if not (folder / "detovervol_2v").exists():
        shutil.copytree(folder / "detovervol_3v", folder / "detovervol_2v")


def walk(observatory: PrivateObservatory, examples: int, steps: int) -> None:
    """So many walks of so many steps; the first that fails is shown as it is.

    The same every time, unless the profile says otherwise: pytest --hypothesis-profile=explore
    --hypothesis-seed=N.
    """
    Walk.observatory = observatory
    _calibrate_for_both_overvoltages(observatory.command_dir / "quabos")
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
