"""Work on boards that nobody speaks to, as far as ledger and configs go."""

from __future__ import annotations

from pathlib import Path

from panoseti.boards.board_work import Work
from panoseti.bringup.ledger import Ledger
from panoseti.bringup.ledger_file import LedgerFile
from panoseti.configs.load_configs import load_site
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from simulator.sites import uid_of
from tests.site_files import DAQ, DATA, OBS, changed, write_site


def site_work(
    folder: Path, ledger: Ledger | None = None, gain: int = 60, echo: bool = True
) -> Work:
    """Work on module 254, whose boards are those of the shipped board data base."""
    daq = changed(DAQ, {("head_node_data_dir",): str(folder)})
    data = changed(DATA, {("gain",): gain})
    obs = changed(OBS, {("domes", 0, "modules", 1, "command_echo"): echo})
    site = load_site(write_site(folder / "site", obs, daq, data))
    boards = site.obs.module(254).quabos
    book = LedgerFile(folder, ledger or Ledger(), keep=False)
    flight = FlightRecorder(None, "test")
    return Work(site, boards, book, Console(), flight, {q.ip: uid_of(q.boardloc) for q in boards})
