"""The site for `stop.py`, which must work when configs are broken: from frozen copies, if need be.

The data directory is where `run_name` and the runs are.  It is taken from daq_config.json, or, when
that is broken, from what can still be read in it, or from the command line of a running daemon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from panoseti.configs.load_configs import DAQ_CONFIG, Site, load_site
from panoseti.errors import ConfigError, Fault, RefusedError
from panoseti.runs import activities
from panoseti.runs.run_owner import head_token
from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import StateError, read_holder, run_dir, runs

DAEMONS = ("store_redis_data", "capture_hk", "hv_updater", "temperature_guard", "run_watcher")
_DATA_DIR = re.compile(r'"head_node_data_dir"\s*:\s*"((?:[^"\\]|\\["\\/])+)"')
RUNS_TRIED = 20


@dataclass(frozen=True)
class FoundSite:
    """A site, and in words what was wrong and what was used instead (empty: nothing)."""

    site: Site
    notes: tuple[str, ...]


def find_site(command_dir: Path, data_dir: Path | None = None) -> FoundSite:
    """The site of a command directory without its data config.

    data_dir: where the operator, or who watches a run, says the data directory is; configs that
    name another one are of another night.  Raises ConfigError with the faults of the configs when
    no frozen copies can stand in for them.
    """
    faults: tuple[Fault, ...] = ()
    try:
        site = load_site(command_dir, data_config=False)
        if data_dir is None or _same(site.head_data_dir, data_dir):
            return FoundSite(site, ())
        notes = [f"head_node_data_dir is {site.head_data_dir} now, not {data_dir}"]
    except ConfigError as error:
        faults = error.faults
        notes = [f"broken config: {fault}" for fault in faults]
    for folder, how in _data_dirs(command_dir, data_dir):
        for copy in _frozen(folder):
            try:
                site = load_site(copy, data_config=False)
            except ConfigError:
                continue
            if not _same(site.head_data_dir, folder):
                continue
            notes.append(f"using the frozen configs in {copy} instead ({how})")
            return FoundSite(site, tuple(notes))
    remedy = (
        "repair the configs; frozen copies of a run, which could stand in for them, are not found:"
        " say where the data directory is (--data_dir)"
    )
    raise ConfigError([*faults, Fault(str(command_dir), "$", "not usable", remedy)])


def not_the_head_node(site: Site) -> str:
    """Why the configs say that this computer is not the head node, or cannot tell; "" = it is."""
    name = site.daq.head_node_ip_addr
    if name not in site.addresses:
        return f"{name} (head_node_ip_addr in {DAQ_CONFIG}) does not resolve"
    if site.is_head_node_here():
        return ""
    return f"no interface here has the head node's address ({name}, {DAQ_CONFIG})"


def check_head_node(site: Site) -> list[str]:
    """Refuse elsewhere: the run's state and the daemons are on the head node.  What to warn of.

    A config that was edited for another night, an interface that has lost its address or a dead
    name server is no reason not to stop: the head node is where the runs were begun, or where a
    name does not resolve, where its data directory is.
    """
    why, data_dir = not_the_head_node(site), site.head_data_dir
    if not why:
        return []
    here = _begun_here(data_dir)
    if not here and site.daq.head_node_ip_addr not in site.addresses and data_dir.is_dir():
        here = f"{data_dir} is here"
    if not here:
        raise RefusedError(f"{why}: type it on the head node, or correct {DAQ_CONFIG}")
    return [f"{why}; {here}, so this is the head node"]


def _begun_here(data_dir: Path) -> str:
    """What shows that the run in progress, or else the last one, was begun on this computer, for
    this data directory; "" = nothing does.
    """
    ours = head_token(data_dir)
    try:
        holder = read_holder(data_dir)
    except StateError:
        holder = None
    if holder is not None and holder.token.startswith(ours):
        return f"{holder.run} is in progress here"
    last = [holder.run] if holder is not None else runs(data_dir)[-1:]
    for run in last:
        folder = run_dir(data_dir, run)
        with suppress(OSError, StateError):
            if str(read_record(folder).document.get("token")).startswith(ours):
                return f"{run} was begun here"
        with suppress(ConfigError):
            frozen = load_site(folder, data_config=False)
            if _same(frozen.head_data_dir, data_dir) and frozen.is_head_node_here():
                return f"{run} was begun here"
    return ""


def _data_dirs(command_dir: Path, said: Path | None) -> list[tuple[Path, str]]:
    """Data directories that may be meant, the likeliest first, and how they were found."""
    found: list[tuple[Path, str]] = []
    if said is not None:
        return [(said.absolute(), "data directory: --data_dir")]
    try:
        text = (command_dir / DAQ_CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for match in _DATA_DIR.findall(text):
        folder = Path(re.sub(r"\\(.)", r"\1", match)).expanduser()
        if folder.is_absolute():
            found.append((folder, f"data directory as written in {DAQ_CONFIG}"))
    running = activities.data_dir_of_daemons(command_dir, DAEMONS)
    if running is not None:
        found.append((running, "data directory of a daemon that runs"))
    return found


def _frozen(data_dir: Path) -> Sequence[Path]:
    """Run directories whose copies may be used: the run in progress, then the latest ones."""
    folders = [data_dir / name for name in reversed(runs(data_dir))][:RUNS_TRIED]
    try:
        holder = read_holder(data_dir)
    except StateError:
        holder = None
    if holder is not None:
        folders.insert(0, run_dir(data_dir, holder.run))
    return folders


def _same(one: Path, other: Path) -> bool:
    try:
        return one == other.absolute() or one.samefile(other)
    except OSError:
        return False
