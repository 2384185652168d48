"""A simulated observatory on loopback addresses whose scripts are typed as an operator types them.

    with typed_site(tmp_path) as obs, put_right(obs):
        assert obs.type("start.py").code == 0

Head node and DAQ node have addresses and data directories of their own (with blanks in them),
unless they are one computer that shares the directory (`Shape`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from panoseti.bringup import session
from panoseti.bringup.readiness import hv_lacks_of_start, present_boards
from panoseti.configs.load_configs import Site, load_site
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.runs import activities, names, pff, run_start, run_state, run_stop
from panoseti.runs.start_checks import StartOptions
from simulator.private_observatory import DATA, MODULES, PrivateObservatory, private_observatory
from simulator.private_sshd import PrivateSshd, private_sshd
from simulator.site_writer import head_address
from tests.helpers import REPO, wait_for

PIPES = subprocess.PIPE
OTHER_DISK = Path("/dev/shm")
QUIET = FlightRecorder(None, "test")
SCRIPT_S = 200.0  # less than the limit of a test, so that what was said is shown


class Shape(Enum):
    """Where the DAQ node records: in a directory of its own; in that of the head node, which is
    the same computer; there too, with one module on another disk.
    """

    APART = "apart"
    SHARED = "shared"
    OTHER_DISK = "another disk"


@dataclass
class Done:
    """A script that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The document it printed."""
        document: dict[str, Any] = json.loads(self.out)
        return document


@dataclass
class Obs:
    """The observatory, and the scripts that were started in it."""

    private: PrivateObservatory
    node_sshd: PrivateSshd
    node_dir: Path
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def head_dir(self) -> Path:
        """Data directory of the head node."""
        return self.private.data_dir

    @property
    def command_dir(self) -> Path:
        """Where the configs are."""
        return self.private.command_dir

    @property
    def quabos(self) -> tuple[str, ...]:
        """Addresses of the boards."""
        return self.private.site.quabos

    def begin(self, name: str, *words: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a script; before: what goes before it on the command line."""
        child = subprocess.Popen(
            [*before, str(REPO / name), *words],
            cwd=self.command_dir, stdin=subprocess.DEVNULL, stdout=PIPES, stderr=PIPES, text=True,
        )  # fmt: skip
        self.children.append(child)
        return child

    @staticmethod
    def finish(child: subprocess.Popen[str]) -> Done:
        """Wait until a script has ended."""
        out, err = child.communicate(timeout=SCRIPT_S)
        return Done(child.returncode, out, err)

    def type(self, name: str, *words: str) -> Done:
        """Run a script."""
        return self.finish(self.begin(name, *words))

    def start_here(self, **options: Any) -> run_start.Started:
        """A start in this process: quicker than the script."""
        site = load_site(self.command_dir)
        return run_start.start(site, StartOptions(**options), Console(), QUIET)

    def stop_here(self, **options: Any) -> run_stop.StopReport:
        """A stop in this process."""
        site = load_site(self.command_dir, data_config=False)
        return run_stop.stop(site, run_stop.StopOptions(**options), Console(), QUIET)

    def boards(self) -> dict[str, Any]:
        """The state of all boards."""
        with self.private.client() as client:
            boards: dict[str, Any] = client.state()["boards"]
            return boards

    def runs(self) -> list[str]:
        """Runs on the head node."""
        return run_state.runs(self.head_dir)

    def is_idle(self) -> bool:
        """Nothing records, no state of a run is left."""
        state = [self.head_dir / "run_name"]
        state += [self.node_dir / name for name in ("current_run_daq", "daq_pid")]
        active = activities.pipelines() + activities.hk_recorders(self.head_dir)
        return not active and not any(path.exists() for path in state)

    def left_on_node(self) -> list[str]:
        """Files and folders of runs on the DAQ node."""
        (folders,) = self.node_folders()
        places = [folder for folder in folders if folder != self.head_dir]
        found = [run for folder in places for run in folder.glob("*.pffd")]
        return [str(path) for run in found for path in (run, *run.iterdir())]

    def node_folders(self) -> list[list[Path]]:
        """Where the DAQ node can have files of runs (for a Witness)."""
        return [[self.node_dir, *(self.node_dir / f"module_{module}" for module in MODULES)]]


@contextmanager
def typed_site(folder: Path, shape: Shape = Shape.APART) -> Iterator[Obs]:
    """Bring it up, from power-on to ready."""
    data = {**DATA, "image": {**DATA["image"], "integration_time_usec": 10000}}
    with ExitStack() as stack:
        head_dir = folder / "head data"
        private = stack.enter_context(private_observatory(folder, data, data_dir=head_dir))
        found = Obs(private, private.sshd, head_dir)
        if shape is Shape.APART:
            address = head_address(private.site.prefix, 2)
            sshd = private_sshd(folder / "node", private.site.keys, address)
            found.node_sshd = stack.enter_context(sshd)
            found.node_dir = folder / "data of node"
            path = private.command_dir / "daq_config.json"
            content = json.loads(path.read_text())
            content["daq_nodes"][0].update(
                ip_addr=address,
                bindhost=address,
                data_dir=str(found.node_dir),
                ssh_port=found.node_sshd.port,
            )
            path.write_text(json.dumps(content))
        if shape is Shape.OTHER_DISK:
            other = Path(stack.enter_context(TemporaryDirectory(dir=OTHER_DISK)))
            if other.stat().st_dev == head_dir.stat().st_dev:
                pytest.skip(f"{OTHER_DISK} is no disk of its own")
            (head_dir / f"module_{MODULES[1]}").symlink_to(other)
        done = found.type("config.py")
        assert done.code == 0, done.err
        yield found


def has_hv(site: Site) -> bool:
    """Whether every board has it: one that has lost it for a moment is soon on its way up again,
    and then a start is refused.
    """
    boards = present_boards(site)
    beat = session.state(session.HV_UPDATER, site.head_data_dir).beat
    states = beat.details.get("boards", {}) if beat is not None else {}
    on = all(states.get(board.ip, {}).get("hv") == "on" for board in boards)
    return on and not hv_lacks_of_start(site, boards)


@contextmanager
def put_right(obs: Obs) -> Iterator[None]:
    """Idle before and after what is done with it, with high voltage; runs are forgotten."""
    texts = {path: path.read_text() for path in obs.command_dir.glob("*.json")}
    assert obs.is_idle()
    site = load_site(obs.command_dir)
    # What was done before may have taken it away, such as a Redis that was killed.
    wait_for(lambda: has_hv(site), "high voltage of every board", 60)
    yield
    for child in obs.children:
        if child.poll() is None:
            child.kill()
        child.communicate()
    obs.children.clear()
    for path, text in texts.items():
        path.write_text(text)
    if not obs.node_sshd.alive():
        obs.node_sshd.start()
    with obs.private.client() as client:
        client.fault("all", "none")
    if not obs.is_idle():
        obs.stop_here(force=True)
    assert sorted(path.name for path in obs.command_dir.iterdir() if path.is_file()) == [
        "daq_config.json", "data_config.json", "obs_config.json",
    ]  # fmt: skip
    for run in obs.runs():
        shutil.rmtree(obs.head_dir / run)


@pytest.fixture(scope="module")
def built_obs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Obs]:
    """One for all tests of a file."""
    with typed_site(tmp_path_factory.mktemp("typed site")) as found:
        yield found


@pytest.fixture
def obs(built_obs: Obs) -> Iterator[Obs]:
    """The same, put right before and after each test."""
    with put_right(built_obs):
        yield built_obs


def frames_of(run_dir: Path) -> dict[tuple[int, str], int]:
    """Frames by module and product; every file must be whole and right."""
    found: dict[tuple[int, str], int] = {}
    for path in run_dir.glob("*.pff"):
        file = names.parse_data_file(path.name)
        if file is None:
            continue
        check = pff.check_file(file.product, path.read_bytes())
        assert check.ok, (path.name, check.problems)
        key = file.module, file.product
        found[key] = found.get(key, 0) + check.frames
    return found
