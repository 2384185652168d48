"""Start, stop and collection with 1, 4 and 16 DAQ nodes of 4 modules each, every one a test host.

Measured times are printed (pytest -s) and written into the test's folder as times.json.  What they
are depends on this computer, which is all of those computers; that nodes are not waited for one
after the other does not.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hosted_site import DATA, HostedSite, NodePlan, hosted_site
from tests.recording_truth import check_run_is_complete

# 20 images a second of each board: many boards, not many packets.
SLOW_IMAGES = {
    **{name: value for name, value in DATA.items() if name != "pulse_height"},
    "image": {**DATA["image"], "integration_time_usec": 50000},
}
BEGUN, ENDED = "intent_unix", "result_unix"
# What a collection does once, whatever the number of nodes.
COLLECT_ALONE_S = 2.0
BRING_UP_TRIES = 6
# Housekeeping comes as many times more often; of 256 boards that is enough for a computer.
CALM_TIME_SCALE = 4


def timed(site: HostedSite, name: str, *words: str) -> tuple[float, Any]:
    """Seconds that a script takes, and the document it prints."""
    begin = time.monotonic()
    said = site.script(name, *words)
    return time.monotonic() - begin, json.loads(said.out) if "--json" in words else None


def show_steps(steps: list[dict[str, Any]]) -> None:
    """What each act took, those of several nodes together."""
    seconds: dict[str, list[float]] = {}
    for step in steps:
        took = step[ENDED] - step[BEGUN]
        seconds.setdefault(f"{step['phase']}: {step['what']}", []).append(took)
    print()
    for what, each in seconds.items():
        print(f"{what:45} {max(each):6.2f} s" + (f" ({len(each)} of them)" if each[1:] else ""))


def check_at_once(record: dict[str, Any], nodes: int) -> None:
    """Whatever is done on several nodes: begun on the last one before it has ended on the first."""
    for phase, what in (("start", "record"), ("stop", "stop recording")):
        acts = [s for s in record["steps"] if (s["phase"], s["what"]) == (phase, what)]
        assert len(acts) == nodes
        assert max(act[BEGUN] for act in acts) < min(act[ENDED] for act in acts), (phase, what)
    (collection,) = record["collection"]
    (act,) = (s for s in record["steps"] if s["what"] == "collect the files")
    each = [node["seconds"] for node in collection["nodes"]]
    assert sum(each) > nodes / 2 * (act[ENDED] - act[BEGUN] - COLLECT_ALONE_S)


def bring_up(site: HostedSite) -> float:
    """Type config.py until nothing is missing: 256 simulated boards in one process may be slow."""
    begin = time.monotonic()
    for _ in range(BRING_UP_TRIES):
        said = site.finish(site.begin("config.py"))
        if said.code == 0:
            return time.monotonic() - begin
    pytest.fail(f"config.py: {said}")


def measure(folder: Path, nodes: int, modules: int) -> dict[str, float]:
    """A night with so many nodes, of so many modules each; what each script took, in seconds."""
    plans = [
        NodePlan(f"node{k}", tuple(range(1 + k * modules, 1 + (k + 1) * modules)))
        for k in range(nodes)
    ]
    with hosted_site(folder, plans, data=SLOW_IMAGES) as site:
        times = {"config.py": bring_up(site)}
        times["start.py"], started = timed(site, "start.py", "--json")
        times["status.py"], status = timed(site, "status.py", "--json")
        assert [node["state"] for node in status["nodes"]] == ["recording"] * nodes
        assert len(status["boards"]) == 4 * modules * nodes
        times["stop.py"], stopped = timed(site, "stop.py", "--json")
        assert stopped["finished"]["complete"]
        run_dir = site.run_dir
        assert run_dir.name == Path(started["run_dir"]).name
        check_run_is_complete(run_dir)
        record = json.loads((run_dir / "run.json").read_text())
        assert record["verdict"]["word"] == "good", record["verdict"]
        (collection,) = record["collection"]
        assert len(collection["nodes"]) == nodes
        for module in site.modules:
            assert list(run_dir.glob(f"*.dp_img16.*.module_{module}.seqno_0.pff")), module
        for plan in plans:
            assert not list(site.node_data(plan).rglob("*.pffd"))
        check_at_once(record, nodes)
        show_steps(record["steps"])
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
    print(f"\n{nodes} nodes, {4 * modules * nodes} boards: {shown}")
    (folder / "times.json").write_text(json.dumps(times))
    return times


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_nodes(tmp_path: Path) -> None:
    measure(tmp_path, 2, 1)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("nodes", [1, 4, 16])
def test_nodes_of_four_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
    monkeypatch.setattr("tests.hosted_site.SCRIPT_S", 400.0)  # one computer is 18 of them
    if nodes > 4:
        monkeypatch.setattr("tests.hosted_site.TIME_SCALE", CALM_TIME_SCALE)
    measure(tmp_path, nodes, 4)
