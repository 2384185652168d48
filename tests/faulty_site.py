"""An observatory on loopback addresses to which something happens, and what must be true then.

with faulty_site(tmp_path) as site, site.case():
    before = site.begin()
    ...                     # something happens
    site.recover(before)
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from panoseti.runs import activities, run_state
from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import Marker
from tests.frame_witness import OLD_RUN, Witness
from tests.helpers import REPO, wait_for
from tests.recording_truth import check_all_sent_is_there
from tests.typed_site import Done, Obs, Shape, frames_of, put_right, typed_site

FAULT_POINT = REPO / "tests" / "fault_point.py"
MODULES = (1, 254)
MIN_IMAGES_BYTES = 15_000
IDLE_STREAMS = {"image": None, "ph": None}


@dataclass
class FaultySite:
    """The observatory under test, and who watches its disks."""

    obs: Obs
    witness: Witness
    folder: Path
    during: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def case(self) -> Iterator[None]:
        """Idle before and after."""
        self.during = {}
        with put_right(self.obs):
            yield
            for run in self.obs.runs():
                self.witness.forget(run)

    def begin(self) -> dict[str, Any]:
        """A run that has recorded a little; the boards as they were before.

        What is on the disks now is remembered: whatever happens afterwards, it must not be lost.
        """
        before = self.obs.boards()
        started = self.obs.start_here()
        wait_for(lambda: self.records(started.holder.run), "some images on the node")
        self.look()
        return before

    def look(self) -> None:
        """Remember what is on the disks, and what the boards send that send at this moment."""
        self.witness.look()
        for ip, board in self.obs.boards().items():
            if ip not in self.during or board["streams"]["image"]:
                self.during[ip] = board

    def records(self, run: str) -> bool:
        """Whether images of all modules have been written."""
        folders = [self.obs.node_dir / f"module_{module}" / run for module in MODULES]
        return all(
            any(path.stat().st_size > MIN_IMAGES_BYTES for path in folder.glob("*dp_img16*"))
            for folder in folders
        )

    @property
    def run(self) -> str:
        """The run in progress."""
        holder = run_state.read_holder(self.obs.head_dir)
        assert holder is not None
        return holder.run

    @property
    def node(self) -> str:
        """Address of the DAQ node."""
        return self.obs.node_sshd.address

    def hit(
        self, number: signal.Signals, at: int, phase: str, name: str, *words: str
    ) -> tuple[Done, str]:
        """Run a script that gets a signal at a point; how it ended, and the point's name.

        The name is "" when there are not so many points.
        """
        points = self.folder / "points"
        points.unlink(missing_ok=True)
        before = ["env", f"FAULT_POINTS={points}", sys.executable, str(FAULT_POINT)]
        child = self.obs.begin(name, *words, before=[*before, number.name, str(at), phase])
        done = self.obs.finish(child)
        reached = points.read_text().splitlines() if points.exists() else []
        return done, reached[at - 1] if len(reached) >= at else ""

    # --- afterwards ---

    def recover(self, before: dict[str, Any], whole: bool = True) -> Done:
        """What an operator does who finds it so, and what must be true then; what stop.py said.

        whole: every packet that was sent has to be in the files.
        """
        self.look()
        self.check_status()
        done = self.obs.type("stop.py")
        assert done.code == 0, done
        assert "Traceback" not in done.err, done
        self.check_over(done)
        if whole:
            self.check_all_sent_is_there(before)
        self.forget()
        return done

    def check_all_sent_is_there(self, before: dict[str, Any]) -> None:
        """Every packet that was sent is in the files of the only run; without a run, none was."""
        after = self.obs.boards()
        check_all_sent_is_there(self.obs.head_dir, before, self.during, after, MODULES)

    def check_over(self, done: Done) -> None:
        """Nothing runs; every run is complete on the head node, and nothing is anywhere else."""
        obs = self.obs
        assert obs.is_idle() and not activities.watchers(obs.head_dir), done
        assert not [left for left in obs.left_on_node() if OLD_RUN not in left], done
        self.witness.check(complete=True)
        assert all(board["streams"] == IDLE_STREAMS for board in obs.boards().values())
        for run in obs.runs():
            run_dir = obs.head_dir / run
            assert (run_dir / Marker.RUN_COMPLETE).exists(), done
            assert read_record(run_dir).document["verdict"] is not None
            assert not list(run_dir.glob(".*"))
            frames_of(run_dir)

    def check_status(self) -> None:
        """status.py names the run, and what to type where something is half done."""
        obs = self.obs
        done = obs.type("status.py", "--json")
        assert done.code == 0, done
        told, advice = done.json, " ".join(done.json["advice"])
        holder = run_state.read_holder(obs.head_dir)
        if holder is None:
            assert told["run"] is None
            for run in obs.runs():
                complete = (obs.head_dir / run / Marker.RUN_COMPLETE).exists()
                at_work = f"{run} is being collected by pid" in advice  # in the background
                assert complete or at_work or f"stop.py --run {run}" in advice, advice
            return
        assert told["run"]["run"] == holder.run
        if not recording_undisturbed(obs.head_dir / holder.run):
            assert "stop.py" in advice, (told["run"], advice)

    def forget(self) -> None:
        """Delete the runs."""
        for run in self.obs.runs():
            self.witness.forget(run)
            shutil.rmtree(self.obs.head_dir / run)

    def pipeline(self) -> int:
        """Pid of the pipeline."""
        (pipeline,) = activities.pipelines()
        return pipeline.pid

    def signal_pipeline(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pipeline(), number)


def recording_undisturbed(run_dir: Path) -> bool:
    """Whether a run's start succeeded, and no stop has begun."""
    try:
        document = read_record(run_dir).document
    except FileNotFoundError:
        return False
    phases = {step["phase"] for step in document["steps"]}
    return document["recording_unix"] is not None and phases == {"start"}


@contextmanager
def faulty_site(folder: Path, shape: Shape = Shape.APART) -> Iterator[FaultySite]:
    """The observatory after config.py, with files of others on its disks."""
    with typed_site(folder, shape) as obs:
        witness = Witness(obs.head_dir, obs.node_folders)
        witness.place_bystanders()
        yield FaultySite(obs, witness, folder)


@pytest.fixture(scope="module")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySite]:
    """One for all tests of a file."""
    with faulty_site(tmp_path_factory.mktemp("faulty site")) as found:
        yield found


@pytest.fixture
def site(built_site: FaultySite) -> Iterator[FaultySite]:
    """The same, idle before and after each test."""
    with built_site.case():
        yield built_site
