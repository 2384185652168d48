"""The test hosts themselves: apart from each other, connected, and gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from panoseti.nodes.remote import Shell, UnreachableError
from tests.helpers import REPO, wait_for
from tests.hosts import World, hosts
from tests.node_dir import RUN, pipeline_built


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with hosts(folder, ["head", "node1", "node2"], {"node1": {"small": 4}}) as world:
        yield world


def test_hosts_are_apart(world: World) -> None:
    head, node = world["head"], world["node1"]
    sleeper = node.popen(["sleep", "1000"])
    try:
        wait_for(lambda: node.run(["pgrep", "-x", "sleep"]).stdout, "sleep to be seen")
        assert head.run(["pgrep", "-x", "sleep"]).returncode == 1
        assert node.check(["hostname"]) == "node1\n"
        node.check(["sh", "-c", "echo mine > /dev/shm/x && echo kept > /srv/x"])
        assert head.run(["ls", "/dev/shm/x", "/srv/x"]).stdout == ""
        assert not Path("/srv/x").exists()
        assert not Path("/dev/shm/x").exists()
        assert node.outside("/srv/x").read_text() == "kept\n"
        node.check(["touch", "/srv/small/there"])
        full = node.run(["dd", "if=/dev/zero", "of=/srv/small/big", "bs=1M", "count=10"])
        assert "No space left" in full.stderr
    finally:
        node.check(["pkill", "-x", "sleep"])
        sleeper.wait(10)


def test_no_way_out(world: World) -> None:
    for host in world.hosts.values():
        assert host.check(["ip", "route", "show", "default"]) == ""


def test_ssh_between_hosts(world: World) -> None:
    """From head to node: the head's own process, as the scripts are."""
    script = (
        "import sys; from tests.nodes import *; from panoseti.nodes.remote import Shell;"
        "from panoseti.configs.site import DaqNode; from pathlib import Path;"
        "keys = OperatorKeys(Path(sys.argv[1]), Path(sys.argv[2]));"
        "node = DaqNode(sys.argv[3], 'root', '/srv/data', ());"
        "shell = Shell(node, obs_config(keys)); print(shell.run(['hostname'], 20).out, end='');"
        "shell.close()"
    )
    argv = [sys.executable, "-c", script, str(world.keys.key), str(world.keys.known_hosts)]
    for name in ("node1", "node2", "head"):
        assert world["head"].check([*argv, world[name].ip], cwd=str(REPO)) == f"{name}\n"


def test_power_cut_and_reboot(world: World) -> None:
    node = world["node2"]
    node.check(["sh", "-c", "echo kept > /srv/y; echo gone > /dev/shm/y"])
    left = node.popen(["sleep", "1000"])
    node.power_cut()
    assert left.wait(10) != 0
    assert not node.is_on
    assert (world.disk_outside("node2") / "y").read_text() == "kept\n"
    ping = ["ping", "-c", "1", "-W", "1", node.ip]
    assert world["head"].run(ping).returncode != 0
    node.power_on()
    assert node.check(["cat", "/srv/y"]) == "kept\n"
    assert node.run(["ls", "/dev/shm/y"]).returncode != 0
    assert node.run(["pgrep", "-x", "sleep"]).returncode == 1
    wait_for(lambda: world["head"].run(ping).returncode == 0, "the host to answer again")


def test_cut_link(world: World) -> None:
    head, node = world["head"], world["node1"]
    ping = ["ping", "-c", "1", "-W", "1", node.ip]
    head.check(ping)
    node.cut_link()
    try:
        assert head.run(ping).returncode != 0
    finally:
        node.mend_link()
    wait_for(lambda: head.run(ping).returncode == 0, "the link to work again")


def test_unreachable_from_outside(world: World) -> None:
    """This process is not on the switch: addresses of hosts lead nowhere."""
    with Shell(world["node1"].daq_node(), world.obs, None, 0.5) as shell:
        with pytest.raises(UnreachableError):
            shell.run(["true"], 5)


HEAD_SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
from panoseti.nodes import daq_nodes, node_init
from panoseti.nodes.daq_nodes import NodeShells, Order
from panoseti.configs.site import DaqNode
from simulator.private_sshd import OperatorKeys
from tests.nodes import obs_config
verbs, key, known_hosts, run, *ips = sys.argv[1:]
nodes = [DaqNode(ip, "root", "/srv/data", (1,), ip) for ip in ips]
order = Order(run, "token", "obs@head", (1,), "Test")
acts = {
    "init": node_init.init_node,
    "start": lambda shell: daq_nodes.start_recording(shell, order),
    "status": daq_nodes.status,
    "stop": daq_nodes.stop_recording,
}
with NodeShells(nodes, obs_config(OperatorKeys(Path(key), Path(known_hosts)))) as shells:
    done = [shells.each(acts[verb]).values() for verb in verbs.split(",")]
said = [[[o.result and dataclasses.asdict(o.result), str(o.problem)] for o in outcomes]
        for outcomes in done]
print(json.dumps(said))
"""


def test_recording_on_two_nodes_and_a_power_cut(world: World) -> None:
    """Each node sees its own pipeline alone; after a power cut stop puts its node right."""
    if not pipeline_built():
        pytest.skip("the pipeline is not built: make build")
    head, nodes = world["head"], (world["node1"], world["node2"])

    def act(*verbs: str) -> list[list[tuple[dict[str, Any], str]]]:
        """What came of each verb on each node: result, problem."""
        words = [str(world.keys.key), str(world.keys.known_hosts), RUN]
        words += [node.ip for node in nodes]
        script = [sys.executable, "-c", HEAD_SCRIPT, ",".join(verbs), *words]
        said = json.loads(head.check(script, cwd=str(REPO)))
        return [[(result, problem) for result, problem in outcomes] for outcomes in said]

    prepared, started, statuses = act("init", "start", "status")
    assert [problem for _, problem in (*prepared, *started, *statuses)] == ["None"] * 6
    assert [status["host"] for status, _ in statuses] == ["node1", "node2"]
    assert [len(status["processes"]) for status, _ in statuses] == [1, 1]
    assert head.run(["pgrep", "-x", "hashpipe"]).returncode == 1

    nodes[1].power_cut()
    (_, fine), (_, dead) = act("status")[0]
    assert fine == "None"
    assert f"{nodes[1].ip}: could not read its status: " in dead
    nodes[1].power_on()
    found, stopped, after = act("status", "stop", "status")
    (alive, _), (cut, _) = found
    assert (alive["running"], cut["running"], cut["run"]) == (True, False, RUN)
    assert "is not over" in cut["problems"][0]
    (first, _), (second, _) = stopped
    assert (first["was_running"], second["was_running"], second["run"]) == (True, False, RUN)
    assert [status["problems"] for status, _ in after] == [[], []]


def test_nothing_is_left(tmp_path: Path) -> None:
    before = set(psutil.pids())
    with pytest.raises(ZeroDivisionError), hosts(tmp_path, ["a", "b"]) as world:
        world["a"].popen(["sleep", "1000"])
        raise ZeroDivisionError
    wait_for(lambda: not _named("sleep") - before, "sleep to be gone")
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_world_ends_with_a_test_that_is_killed(world: World, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.hosts import hosts\n"
        "with hosts(Path(sys.argv[1]), ['a']) as world:\n"
        "    world['a'].popen(['sleep', '1000']); print(world['a'].prefix[2], flush=True)\n"
        "    time.sleep(100)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE) as test:
        assert test.stdout is not None
        init = int(test.stdout.readline())
        os.kill(test.pid, signal.SIGKILL)
    begin = time.monotonic()
    wait_for(lambda: not psutil.pid_exists(init), "the host to be gone")
    assert time.monotonic() - begin < 10


def _named(name: str) -> set[int]:
    found = psutil.process_iter(["name", "status"])
    return {p.pid for p in found if p.info["name"] == name and p.info["status"] != "zombie"}
