"""The benchmark leaves nothing behind, however it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPO, wait_for
from tests.node_dir import is_alive
from tools.bench import measure, programs


def descendants(pid: int) -> dict[int, str]:
    """All processes below one, with their names."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found[child] = Path(f"/proc/{child}/comm").read_text().strip()
            found |= descendants(child)
    return found


def running(pid: int) -> dict[int, str]:
    """The same, empty while they come and go."""
    try:
        return descendants(pid)
    except FileNotFoundError:
        return {}


@pytest.mark.parametrize(
    ("recorded", "missing", "drops", "said"),
    [
        (1000, 0, 0, None),
        (1200, 0, 0, None),  # 200 of them came after the signal
        (990, 10, 10, None),
        (980, 0, 10, "980 recorded and 10 dropped"),
        (1200, 50, 10, "50 packets are missing before others, only 10 were dropped"),
    ],
)
def test_backlog_is_checked(recorded: int, missing: int, drops: int, said: str | None) -> None:
    totals = {"recorded": recorded, "in_flight": 0, "kernel_drops": drops}
    checked = {"packets": recorded, "missing": missing}
    if said is None:
        measure.check_backlog(1000, totals, checked)
        return
    with pytest.raises(programs.BenchError, match=said):
        measure.check_backlog(1000, totals, checked)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_it(tmp_path: Path, number: int) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv of util-linux")
    programs.build()
    words = [sys.executable, "-m", "tools.bench", "--quick", "--loopback", "--dir", str(tmp_path)]
    with subprocess.Popen(words, cwd=REPO, stderr=subprocess.DEVNULL) as bench:
        wait_for(lambda: "send" in running(bench.pid).values(), "the sender", 60)
        below = running(bench.pid)
        bench.send_signal(number)
        code = bench.wait(30)
    assert code == (128 + number if number == signal.SIGTERM else -number)
    wait_for(lambda: not any(map(is_alive, below)), "all of it to end")
    assert bool(list(tmp_path.iterdir())) is (number == signal.SIGKILL)
