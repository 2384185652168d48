"""config.py as operators call it, and what the boards must hold after it."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseti.boards import maroc
from panoseti.boards.commands import MarocSetup
from panoseti.bringup.board_settings import BoardSettings
from panoseti.bringup.ledger import Step
from panoseti.bringup.ledger_file import read_ledger
from panoseti.configs import settings
from panoseti.configs.board_files import read_ph_baseline, read_quabo_uids
from panoseti.configs.load_configs import load_site
from simulator.private_observatory import DATA, PrivateObservatory

LOSS, CALLS = 0.05, 4
# A fast board is silent too shortly for a ping to see it: one whose boot packet was lost is waited
# for as long as this, and rebooted again by the next call.
REBOOT_TIMEOUT_S = 5


@dataclass
class Answer:
    """What a call of config.py said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


def config(observatory: PrivateObservatory, *words: str, timeout_s: float = 100.0) -> Answer:
    """Run config.py in the command directory."""
    done = subprocess.run(
        observatory.command("config.py", *words),
        cwd=observatory.command_dir,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def steps_done(answer: Answer) -> set[str]:
    """The steps of a bring-up with --json that had something to do."""
    return {item["step"] for item in answer.json["plan"]}


def write_data(observatory: PrivateObservatory, **changes: Any) -> None:
    text = json.dumps({**DATA, **changes})
    (observatory.command_dir / "data_config.json").write_text(text)


def boards(observatory: PrivateObservatory) -> dict[str, dict[str, Any]]:
    with observatory.client() as client:
        found: dict[str, dict[str, Any]] = client.state()["boards"]
        return found


def check_registers(
    observatory: PrivateObservatory,
    absent: tuple[str, ...] = (),
    only: Collection[str] | None = None,
) -> None:
    """The boards (None = all) hold what the configs ask for, and the files say so."""
    site = load_site(observatory.command_dir)
    data_dir = site.head_data_dir
    uids = read_quabo_uids(data_dir / "quabo_uids.json", site.obs)
    baselines = read_ph_baseline(data_dir / "quabo_ph_baseline.json")
    wanted = BoardSettings(site)
    for ip, board in boards(observatory).items():
        if only is not None and ip not in only:
            continue
        if ip in absent:
            assert uids.by_ip[ip] == ""
            continue
        assert uids.by_ip[ip] == board["uid"]
        assert board["phase"] == "silver"
        assert board["hk_destination"] == observatory.site.head
        channel_mask, goe_mask = wanted.masks(board["uid"])
        assert board["channel_mask"] == list(channel_mask.words)
        assert board["goe_mask"] == goe_mask.value
        registers, _ = wanted.registers(ip, board["uid"])
        chips = [bytes.fromhex(chip) for chip in board["maroc"]]
        held = MarocSetup((chips[0], chips[1], chips[2], chips[3]))
        assert maroc.differing_tags(maroc.setup(registers), held) == ()
        assert board["acquisition"]["mode"] == settings.stop_acquisition().mode
        assert tuple(board["baseline"]) == baselines.coefs[board["uid"]]
        assert board["shutter_open"] == (board["boardloc"] & 3 == 1)
        nominal_v = wanted.db.nominal_v(board["uid"], site.obs.detector_overvoltage_v)
        seen_c = round(board["temp1_c"] / 0.25) * 0.25
        assert tuple(board["hv"]["codes"]) == settings.hv_codes(nominal_v, seen_c)
        assert min(board["hv"]["volts"]) > 50
        record = json.loads((data_dir / "quabo_config" / f"quabo_config_{ip}.json").read_text())
        assert record["GAIN17"] == ",".join(map(str, registers["GAIN17"]))
        assert record["CHANMASK_8"] == f"0x{channel_mask.words[8]:x}"


def ready_in_the_end(
    observatory: PrivateObservatory, but: Collection[tuple[str, str]] = ()
) -> Answer:
    """Call config.py until all is well; before that it may only claim what is true.

    but: (address, step) of what it cannot mend, and must name.
    """
    for _ in range(CALLS):
        answer = config(observatory, "--json", timeout_s=110)
        problems = [(one["where"], one["step"]) for one in answer.json["problems"]]
        assert answer.code == (1 if problems else 0), answer
        if problems == list(but):
            check_registers(observatory)
            return answer
        check_claims(observatory)
    raise AssertionError((answer.code, answer.err[-3000:]))


def check_claims(observatory: PrivateObservatory) -> None:
    """What the ledger says is done, boards have done."""
    ledger = read_ledger(observatory.data_dir)
    for ip, board in boards(observatory).items():
        done = {step for step in Step if ledger.done(ip, step)}
        assert (board["phase"] == "silver") or Step.REBOOT not in done, ip
        for step, name in ((Step.MAROC, "maroc"), (Step.PH_BASELINE, "baseline")):
            assert board[name] is not None or step not in done, (ip, step)
        if Step.HK_DEST in done:
            assert board["hk_destination"] == observatory.site.head


def lose(observatory: PrivateObservatory, seed: int) -> None:
    """Each packet from and to any board may be lost, from now on."""
    dice = random.Random(seed)
    with observatory.client() as client:
        for ip in boards(observatory):
            client.fault(ip, "lossy", fraction=LOSS, seed=dice.randrange(1 << 30))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file in it or below, by its place there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
