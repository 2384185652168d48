"""A second head node on this computer: boards and DAQ nodes of a typed site, own directories.

other = second_head(obs, tmp_path)
another_start_in_between(monkeypatch, obs.start_here)
other.start()  # its checks find nothing, and then the nodes are taken
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from panoseti.configs.load_configs import load_site
from panoseti.console import Console
from panoseti.runs import run_start, run_stop
from panoseti.runs.start_checks import Checked, StartOptions
from tests.typed_site import QUIET, Obs

QUICK: dict[str, Any] = {"hv": False, "redis": False}
"""Options of a start without the daemons."""
LEARNT = ("quabo_uids.json", "quabo_ph_baseline.json", "bringup.json")


@dataclass
class SecondHead:
    """Its command directory and data directory."""

    command_dir: Path
    data_dir: Path

    def change(self, config: str, **fields: Any) -> None:
        """Fields of a config at the top level; None takes one away."""
        path = self.command_dir / f"{config}_config.json"
        content = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    def start(self, **options: Any) -> run_start.Started:
        """A start in this process."""
        site = load_site(self.command_dir)
        return run_start.start(site, StartOptions(**{**QUICK, **options}), Console(), QUIET)

    def stop(self, **options: Any) -> run_stop.StopReport:
        """A stop in this process."""
        site = load_site(self.command_dir, data_config=False)
        return run_stop.stop(site, run_stop.StopOptions(**options), Console(), QUIET)


def second_head(obs: Obs, folder: Path) -> SecondHead:
    """As ready to start as the first one."""
    data_dir = folder / "data of the other"
    data_dir.mkdir()
    for name in LEARNT:
        shutil.copy(obs.head_dir / name, data_dir)
    shutil.copytree(obs.command_dir, folder / "other site")
    found = SecondHead(folder / "other site", data_dir)
    found.change("daq", head_node_data_dir=str(data_dir))
    return found


def another_start_in_between(monkeypatch: pytest.MonkeyPatch, start: Callable[[], object]) -> None:
    """The next start finds everything free; then somebody else starts, before its first act."""
    check = run_start.check_rest

    def check_and_wait(*words: Any) -> Checked:
        checked = check(*words)
        monkeypatch.setattr(run_start, "check_rest", check)
        start()
        return checked

    monkeypatch.setattr(run_start, "check_rest", check_and_wait)
