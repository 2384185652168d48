"""As many boards as there can be: 256 modules, 1024 quabos, their id space full, on one computer.

Boards run 20 times faster than real ones.  One process simulates them all, so that their answers
come late; the limits of the traffic are those of every site.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from panoseti.flight import read_flight
from simulator.private_observatory import PrivateObservatory, private_observatory
from tests.config_calls import boards, check_registers, config
from tests.helpers import REPO

PREFIX_OF_ALL = "127.1.0"  # 127.1.0.0/22


def bring_up_twice(folder: Path, modules: int, prefix: str | None, hk_period_s: float) -> None:
    """From power-on to ready, everything as asked for; the second time nothing is done."""
    with private_observatory(
        folder,
        modules=tuple(range(modules)),
        time_scale=20,
        prefix=prefix,
        simulator_options=("--hk_period_s", f"{hk_period_s:g}"),
    ) as observatory:
        answer = config(observatory, "--ping", "--json", timeout_s=60)
        assert answer.code == 0, answer
        assert list(answer.json["ping"].values()) == [True] * (4 * modules)
        answer = config(observatory, "--json", timeout_s=900)
        assert answer.code == 0, (answer.code, answer.err[-3000:])
        check_registers(observatory)
        uids = {board["uid"] for board in boards(observatory).values()}
        assert len(uids) == 4 * modules
        verified = answer.json["verified"]
        for what in ("UID", "QFP or BGA", "PCB revision", "settings", "HV"):
            assert len(verified[what]["good"]) == 4 * modules, (what, verified[what])
        sent = commands_sent(observatory)
        again = config(observatory, "--json", timeout_s=300)
        assert again.code == 0, again
        assert again.json["plan"] == []
        # Each board is asked for one packet of housekeeping, and told where to send it.
        assert commands_sent(observatory) - sent == 2 * 4 * modules


def commands_sent(observatory: PrivateObservatory) -> int:
    """Packets that config.py has sent to boards."""
    lines = read_flight(observatory.data_dir)
    return sum(line.what == "send" and line.program == "config.py" for line in lines)


@pytest.mark.long
def test_sixty_four_boards(tmp_path: Path) -> None:
    bring_up_twice(tmp_path, 16, None, 0.5)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_every_board_there_can_be(tmp_path: Path) -> None:
    bring_up_twice(tmp_path, 256, PREFIX_OF_ALL, 3)


@pytest.mark.long
def test_the_measurement_measures(tmp_path: Path) -> None:
    """Four boards: the pause of each is what a plain loop adds up."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "simulator.bench_bringup", "--boards", "4", "--loop", "4",
            "--json", str(figures),
        ],
        cwd=REPO, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done
    found: list[dict[str, Any]] = json.loads(figures.read_text())
    (one,) = found
    assert one["boards"] == one["loop_boards"] == 4
    assert one["loop_s"] > 2 * one["together_s"], "boards are worked on side by side"
    assert one["packets_per_board"] > 10 and one["bytes_per_board"] > 4 * 492
    assert one["no_change_s"] < one["cold_s"]
