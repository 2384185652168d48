"""A whole observatory in test hosts: head nodes, DAQ nodes, and the boards on a host of their own.

    with hosted_site(tmp_path, [NodePlan("node1", (1, 254))]) as site:
        site.bring_up()
        site.script("start.py")
        site.world["node1"].power_cut()

Boards are simulated on host "sky" and send over the switch.  The scripts run on the head node, in
a command directory there; data directories lie on the hosts' disks.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoseti.runs.run_state import RUN_LINK
from simulator.client import SimulatorClient
from simulator.make_boards import write_boards
from simulator.private_observatory import MODULES
from simulator.private_services import PrivateRedis, SimulatorService
from simulator.site_writer import SimulatedSite
from tests.helpers import REPO
from tests.hosts import DISK, NETWORK, Host, World, hosts
from tests.recording_truth import Recording

BOARD_PREFIX = "10.77.0"  # below it the low 10 bits count; hosts are beside them
DATA_DIR = DISK / "data"
HEAD, SKY = "head", "sky"
TIME_SCALE = 20
SCRIPT_S = 110.0  # less than the limit of a test, so that what was said is shown
DATA: Mapping[str, Any] = {
    "run_type": "hosts",
    "gain": 60,
    "image": {"integration_time_usec": 1000, "pe_threshold": 2, "quabo_sample_size": 16},
    "pulse_height": {"pe_threshold": 12.5},
    "max_file_size_mb": 4,
}
# The disks of test hosts are small.
ROOM = {"recording_min_h": 0.001, "recording_warn_h": 0.001}


@dataclass(frozen=True)
class NodePlan:
    """A DAQ node: its host, the modules it records, its data directory there."""

    host: str
    modules: tuple[int, ...]
    data_dir: Path = DATA_DIR

    def config(self, ip: str) -> dict[str, Any]:
        """Its entry in daq_config.json."""
        return {
            "ip_addr": ip,
            "username": "root",
            "data_dir": str(self.data_dir),
            "module_ids": ",".join(map(str, self.modules)),
            "bindhost": ip,
        }


@dataclass(frozen=True)
class Said:
    """What a script said, and its exit code."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


@dataclass
class HostedSite:
    """A running observatory; head_data_dir as the head node sees it."""

    world: World
    plans: tuple[NodePlan, ...]
    command_dir: Path
    state_dir: Path
    head_data_dir: Path
    quabos: tuple[str, ...]
    redis: dict[str, PrivateRedis] = field(default_factory=dict)

    @property
    def head(self) -> Host:
        return self.world[HEAD]

    @property
    def modules(self) -> tuple[int, ...]:
        """Ids of all modules."""
        return tuple(module for plan in self.plans for module in plan.modules)

    def client(self) -> SimulatorClient:
        """A new connection to the simulated boards."""
        return SimulatorClient(self.state_dir)

    def boards(self) -> dict[str, Any]:
        """The state of all boards."""
        with self.client() as client:
            boards: dict[str, Any] = client.state()["boards"]
            return boards

    # --- scripts ---

    def begin(
        self, name: str, *words: str, head: str = HEAD, command_dir: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a script on a head node; `finish` waits for it."""
        where = command_dir or self.command_dir
        return self.world[head].popen(
            ["sh", "-c", 'cd "$0" && exec "$@"', str(where), str(REPO / name), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, script: subprocess.Popen[str]) -> Said:
        """Wait until a script has ended."""
        out, err = script.communicate(timeout=SCRIPT_S)
        return Said(script.returncode, out, err)

    def script(self, name: str, *words: str, code: int = 0) -> Said:
        """Run a script on the head node; it must end with this exit code."""
        said = self.finish(self.begin(name, *words))
        assert said.code == code, f"{name} {' '.join(words)}: {said}"
        return said

    def boot_head(self) -> None:
        """After a power cut of the head node: its disk is as it was, its Redis is empty."""
        self.head.power_on()
        self.redis[HEAD].kill()
        self.redis[HEAD] = self._redis_of(HEAD)
        self.redis[HEAD].start()

    def _redis_of(self, head: str) -> PrivateRedis:
        folder = self.state_dir.parent / f"redis-{head}"
        return PrivateRedis(folder, port=6379, prefix=self.world[head].prefix)

    def kill_redis(self) -> None:
        """On all head nodes."""
        for redis in self.redis.values():
            redis.kill()

    def bring_up(self) -> None:
        """From power-on to ready."""
        self.script("config.py")

    # --- files ---

    def outside(self, host: str, path: Path) -> Path:
        """A path of a host as the test sees it, whether or not the host has power."""
        return self.world.disk_outside(host) / path.relative_to(DISK)

    @property
    def head_data(self) -> Path:
        """The head node's data directory as the test sees it."""
        return self.outside(HEAD, self.head_data_dir)

    @property
    def run_dir(self) -> Path:
        """The latest run's directory, as the test sees it."""
        return self.head_data / (self.head_data / RUN_LINK).readlink()

    def node_data(self, plan: NodePlan) -> Path:
        """A node's data directory as the test sees it."""
        return self.outside(plan.host, plan.data_dir)

    def module_dir(self, plan: NodePlan, module: int) -> Path:
        """Where the data of a module are, as the test sees it; a link is followed on its host."""
        place = self.node_data(plan) / f"module_{module}"
        if place.is_symlink():
            place = self.outside(plan.host, place.readlink())
        return place

    def folders(self, plan: NodePlan) -> list[Path]:
        """Where runs can have files on a node."""
        return [self.node_data(plan), *(self.module_dir(plan, m) for m in plan.modules)]

    # --- a run ---

    def record(self, while_recording: Sequence[Sequence[str]] = ()) -> Recording:
        """A whole run; scripts are run while it records."""
        before = self.boards()
        self.script("start.py")
        for name, *words in while_recording:
            self.script(name, *words)
        during = self.boards()
        self.script("stop.py")
        return Recording(self.run_dir, before, during, self.boards())


@contextmanager
def hosted_site(
    folder: Path,
    plans: Sequence[NodePlan],
    volumes: Mapping[str, Mapping[str, int]] | None = None,
    head_data_dir: Path = DATA_DIR,
    data: Mapping[str, Any] = DATA,
    obs_fields: Mapping[str, Any] | None = None,
    more_hosts: Sequence[str] = (),
) -> Iterator[HostedSite]:
    """Bring an observatory up, boards as after power-on; skips the test where that cannot be.

    volumes: as of `hosts`; obs_fields: more of obs_config.json; more_hosts: further head nodes,
    with a Redis each.
    """
    heads = [HEAD, *more_hosts]
    names = dict.fromkeys([*heads, *(plan.host for plan in plans), SKY])
    # Servers are waited for after their host has ended, which ends them.
    with ExitStack() as servers, ExitStack() as stack:
        world = stack.enter_context(hosts(folder, list(names), volumes))
        for plan in plans:
            world[plan.host].check(["mkdir", "-p", str(plan.data_dir)])
        described = SimulatedSite(
            prefix=BOARD_PREFIX,
            modules=tuple(module for plan in plans for module in plan.modules),
            data_dir=head_data_dir,
            keys=world.keys,
            ssh_port=22,
            redis_port=6379,
            user="root",
            data=data,
            tftp_port=69,
            obs_fields={**ROOM, **(obs_fields or {})},
        )
        command_dir = described.write(folder / "site")
        if not set(described.modules) <= set(MODULES):
            write_boards(command_dir / "quabos", described.modules)
        write_daq_config(command_dir, world, plans, world[HEAD].ip, head_data_dir)
        site = HostedSite(
            world, tuple(plans), command_dir, folder / "simulator", head_data_dir, described.quabos
        )
        servers.callback(site.kill_redis)
        for name in heads:
            world[name].check(["mkdir", "-p", str(head_data_dir)])
            site.redis[name] = site._redis_of(name)
            site.redis[name].start()
        sky = world[SKY]
        for ip in described.quabos:
            sky.add_address(ip)
        prefix = [*sky.prefix, f"--wd={REPO}"]
        boards = SimulatorService(command_dir, site.state_dir, prefix)
        servers.callback(boards.kill)
        boards.start(
            *("--time_scale", str(TIME_SCALE), "--test_network", NETWORK),
            *("--power_on_destination", world[HEAD].ip),
        )
        yield site
        with site.client() as client:
            assert client.state()["source_errors"] == []


def write_daq_config(
    command_dir: Path, world: World, plans: Sequence[NodePlan], head_ip: str, data_dir: Path
) -> None:
    """Write daq_config.json."""
    content = {
        "head_node_ip_addr": head_ip,
        "head_node_data_dir": str(data_dir),
        "daq_nodes": [plan.config(world[plan.host].ip) for plan in plans],
    }
    (command_dir / "daq_config.json").write_text(json.dumps(content, indent=4) + "\n")
