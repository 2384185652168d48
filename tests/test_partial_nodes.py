"""A DAQ node that dies while a run begins: with --partial the run goes on with the others.

Head node, DAQ nodes and boards are test hosts.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import RUN_LINK, Marker
from tests.helpers import wait_for
from tests.hosted_site import HostedSite, NodePlan, hosted_site
from tests.recording_truth import check_run_is_complete

NODE1, NODE2 = NodePlan("node1", (1,)), NodePlan("node2", (254,))
POLICY = {"run_policy": {"may_be_missing": {"nodes": 1}}}


def is_recording(site: HostedSite, plan: NodePlan) -> bool:
    """Whether the start knows that this node records."""
    if not (site.head_data / RUN_LINK).is_symlink():
        return False
    steps = read_record(site.run_dir).document["steps"]
    ip = site.world[plan.host].ip
    return any((s["what"], s["subject"], s["ok"]) == ("record", ip, True) for s in steps)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("partial", [True, False])
def test_a_node_that_loses_its_power_as_the_run_begins(tmp_path: Path, partial: bool) -> None:
    with hosted_site(tmp_path, [NODE1, NODE2], obs_fields=POLICY) as site:
        site.bring_up()
        dead = site.world[NODE2.host]
        child = site.begin("start.py", "--json", *(["--partial"] if partial else []))
        wait_for(lambda: is_recording(site, NODE2), "the node to record", 60)
        dead.power_cut()
        said = site.finish(child)
        if not partial:
            assert said.code == 1 and dead.ip in said.err, said
            assert "start.py --partial records without it" in said.err
            return
        print(said)
        assert said.code == 0
        assert list(json.loads(said.out)["missing"]) == [dead.ip]
        run_dir = site.run_dir
        record = read_record(run_dir).document
        assert set(record["expected"]["nodes"]) == {site.world[NODE1.host].ip}
        # It was told to record: whether it has files is not known before it is back.
        stopped = json.loads(site.script("stop.py", "--json", code=1).out)
        assert stopped["finished"]["verdict"] == "partial"
        assert any(
            text.startswith(f"started without {dead.ip}: ")
            for text in stopped["finished"]["reasons"]
        )
        dead.power_on()
        again = json.loads(site.script("stop.py", "--json", "--run", run_dir.name).out)
        assert again["finished"]["complete"] and again["finished"]["verdict"] == "partial"
        assert (run_dir / Marker.RUN_COMPLETE).exists()
        check_run_is_complete(run_dir)
