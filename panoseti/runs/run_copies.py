"""Copies that a run keeps: configs, software, and what bring-up has learnt of the boards."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from panoseti.bringup.board_setup import quabo_config_file
from panoseti.configs.board_files import PH_BASELINE, QUABO_UIDS
from panoseti.configs.load_configs import Site, frozen_copies
from panoseti.software import sw_info
from panoseti.state_files import write_state

SW_INFO = "sw_info.json"


def write_copies(site: Site, run_dir: Path) -> None:
    """All of them, into a run directory."""
    for name, text in frozen_copies(site).items():
        write_state(run_dir / name, text.encode())
    write_state(run_dir / SW_INFO, (json.dumps(sw_info(), indent=4) + "\n").encode())
    copy_learnt(site, run_dir)


def copy_learnt(site: Site, run_dir: Path) -> None:
    """What bring-up has learnt until now."""
    data_dir = site.head_data_dir
    learnt = [data_dir / QUABO_UIDS, data_dir / PH_BASELINE]
    learnt += [quabo_config_file(data_dir, q.ip) for q in site.obs.quabos]
    for path in learnt:
        with suppress(FileNotFoundError):
            write_state(run_dir / path.name, path.read_bytes())
