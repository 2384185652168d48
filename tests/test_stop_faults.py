"""Stops (and the undoing of starts) that something gets in the way of, typed through the scripts.

Damage around a run is in test_run_faults.py, what nodes do in test_node_faults.py.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from panoseti.runs.run_state import Marker
from tests.faulty_site import FaultySite
from tests.frame_witness import OLD_RUN
from tests.helpers import REPO, wait_for
from tests.typed_site import frames_of

pytestmark = pytest.mark.long


# --- nobody can be told ---


def test_a_start_whose_terminal_is_closed_is_undone(site: FaultySite) -> None:
    obs = site.obs
    keyboard, terminal = os.openpty()
    try:
        start = subprocess.Popen(
            ["setsid", "--ctty", str(REPO / "start.py")],
            cwd=obs.command_dir, stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
    finally:
        os.close(terminal)
    obs.children.append(start)  # type: ignore[arg-type]
    wait_for(lambda: "start recording" in written(site), "the start to be under way", 60)
    os.close(keyboard)  # the terminal's programs get SIGHUP, and can write to it no more
    start.wait(60)
    assert obs.is_idle() and obs.runs() == [], start.returncode
    assert not [left for left in obs.left_on_node() if OLD_RUN not in left]
    assert len(list((obs.head_dir / "log").glob("failed_start_*.json"))) == 1


def written(site: FaultySite) -> str:
    """What run.json of the only run says; empty where there is none yet."""
    folders = [site.obs.head_dir / run for run in site.obs.runs()]
    return "".join(path.read_text() for folder in folders for path in folder.glob("run.json"))


def test_a_stop_whose_words_do_not_fit_on_the_disk(site: FaultySite) -> None:
    """As the watcher and the guard start it: its words go to the disk of the data."""
    site.begin()
    run = site.run
    site.witness.look()
    with open("/dev/full", "wb") as full:
        stop = subprocess.run(
            [str(REPO / "stop.py")], cwd=site.obs.command_dir, stdin=subprocess.DEVNULL,
            stdout=full, stderr=full, timeout=100,
        )  # fmt: skip
    assert stop.returncode == 1
    assert site.obs.runs() == [run] and (site.obs.head_dir / run / Marker.RUN_COMPLETE).exists()
    assert site.obs.is_idle() and frames_of(site.obs.head_dir / run)[1, "img16"] > 0
    site.witness.check(complete=True)
