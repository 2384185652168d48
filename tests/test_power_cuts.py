"""Power fails on the head node, or on a DAQ node in the middle of a transfer.

On the head node scripts, recorder, watcher and session daemons are gone at once; pipelines and
boards go on.  Then status.py says what it found and what to type, and stop.py puts it right.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from panoseti.runs.collect_batch import sha256
from panoseti.runs.run_state import runs
from tests.faulty_nodes import (
    BULK_BYTES,
    MIN_FRAMES,
    NODE1,
    NODE2,
    Faults,
    Run,
    arriving,
    bulk,
)  # fmt: skip
from tests.faulty_site import FAULT_POINT
from tests.helpers import REPO, wait_for
from tests.recording_truth import check_all_sent_is_there, check_run_is_complete

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

SEED = 20240725
# A script has no fewer points (tests/fault_point.py) than this.
AT_LEAST = {"start": 40, "run": 0, "stop": 14, "collect": 14}
CUTS = [(phase, draw) for phase in AT_LEAST for draw in range(1 if phase == "run" else 2)]


def begin_counted(faults: Faults, points: Path, phase: str, name: str) -> subprocess.Popen[str]:
    """Start a script on the head node that writes down the points of its work."""
    points.unlink(missing_ok=True)
    counted = ["env", f"FAULT_POINTS={points}", sys.executable, str(FAULT_POINT), "SIGKILL"]
    return faults.site.head.popen(
        ["sh", "-c", 'cd "$0" && exec "$@"', str(faults.site.command_dir), *counted, "10000",
         phase, str(REPO / name)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(("phase", "draw"), CUTS)
def test_power_of_the_head_node_fails(faults: Faults, phase: str, draw: int) -> None:
    site = faults.site
    before = site.boards()
    during = before
    if phase != "start":
        run = faults.begin()
        faults.wait_for_frames(run, NODE1, NODE2)
        during = run.during
        faults.witness.look()
    if phase != "run":
        at = random.Random(f"{SEED} {phase} {draw}").randint(1, AT_LEAST[phase])
        points = site.command_dir.parent / "points"
        first = "collect" if phase == "collect" else ""
        script = "start.py" if phase == "start" else "stop.py"
        child = begin_counted(faults, points, first, script)

        def reached() -> bool:
            assert child.poll() is None, f"{script} has fewer than {at} points"
            return points.exists() and len(points.read_text().splitlines()) >= at

        wait_for(reached, f"point {at}", timeout_s=100)
    site.head.power_cut()
    faults.witness.look()
    now = site.boards()
    during = {ip: now[ip] if now[ip]["streams"]["image"] else during[ip] for ip in now}
    site.boot_head()
    begun = (site.head_data / "run_name").exists()
    status = site.finish(site.begin("status.py", "--json"))
    assert "Traceback" not in status.err, status
    told = json.loads(status.out)
    assert (told["run"] is not None) is begun
    if phase == "run":
        said = "\n".join(told["advice"])
        assert "temperature_guard, hv_updater died" in said and "store_redis_data died" in said
    complete = [(site.head_data / name / "run_complete").exists() for name in runs(site.head_data)]
    if begun or not all(complete):
        # Where boards and pipelines go on, the run is worth to be watched again.
        remedy = "start.py --watch" if phase == "run" else "stop.py"
        assert any(remedy in text for text in told["advice"]), (told["advice"], status.err)
    stop = faults.stop()
    assert stop["ok"], stop
    faults.check_idle()
    faults.witness.check(complete=True)
    for name in runs(site.head_data):
        assert (site.head_data / name / "run_complete").exists()
    check_all_sent_is_there(site.head_data, before, during, site.boards(), site.modules)
    site.bring_up()  # its daemons are gone, too


def test_power_of_a_node_fails_in_the_middle_of_its_transfer(faults: Faults) -> None:
    """What has arrived is not fetched again in vain, and nothing is lost."""
    run: Run = faults.begin()
    faults.wait_for_frames(run, NODE1, NODE2)
    original = bulk(faults, NODE2, run)
    digest = sha256(original)
    faults.witness.look()
    stop = faults.site.begin("stop.py", "--json")
    copy = arriving(faults, run, stop)
    node = faults.site.world["node2"]
    node.power_cut()
    assert copy.stat().st_size < BULK_BYTES, "the power failed too late"
    said = faults.site.finish(stop)
    assert said.code == 1, str(said)
    done = faults.checked(said)
    assert not done["finished"]["complete"] and done["finished"]["verdict"] == "partial"
    assert any(node.ip in text for text in done["finished"]["problems"])
    assert original.exists() and faults.frames_on_node(NODE2, run) > MIN_FRAMES
    node.power_on()
    assert f"stop.py --run {run.name}" in str(faults.site.script("status.py"))
    assert faults.stop("--run", run.name)["finished"]["complete"]
    recording = faults.recording(run)
    assert sha256(recording.run_dir / "bulk.log") == digest
    check_run_is_complete(recording.run_dir)
    faults.check_whole(recording, NODE1, NODE2)
    faults.check_over(run)
