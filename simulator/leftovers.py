"""Who works in a folder, and how to end them: so that a simulated observatory leaves nobody behind.

A process is *of a folder* when it is one of our programs and works there: by its working
directory, or by a path in its command line.  Nobody else is ever touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil

from panoseti.errors import RefusedError
from panoseti.flight import FlightRecorder
from panoseti.runs import activities
from panoseti.runs.activities import Activity

REPO = Path(__file__).resolve().parent.parent
PROGRAMS = ("hashpipe", "redis-server", "sshd", "packet_source", "rsync")
PATIENCE_S = 15.0


def our_scripts() -> frozenset[str]:
    """File names of the scripts, daemons and node helpers."""
    found = [*REPO.glob("*.py"), *REPO.glob("daemons/*.py"), *REPO.glob("daq/*.py")]
    return frozenset(path.name for path in found)


def workers(folder: Path) -> list[Activity]:
    """Our programs that work in a folder at this moment, this process left out."""
    scripts, place, me = our_scripts(), folder.resolve(), psutil.Process().pid
    found = []
    for process in psutil.process_iter(["name", "cmdline", "cwd", "status"]):
        words = process.info["cmdline"] or []
        if process.pid == me or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        script = next((Path(w).name for w in words[:4] if Path(w).name in scripts), None)
        what = process.info["name"] if process.info["name"] in PROGRAMS else script
        if what and (_inside(process.info["cwd"], place) or _names(words, place)):
            found.append(Activity(what, process.pid, " ".join(words), process))
    return found


def _inside(directory: str | None, folder: Path) -> bool:
    return directory is not None and Path(directory).is_relative_to(folder)


def _names(words: Sequence[str], folder: Path) -> bool:
    """Whether a path below the folder stands in a command line (also after `--option=`)."""
    return any(_inside(word.rpartition("=")[2], folder) for word in words)


def end_workers(folder: Path, patience_s: float = PATIENCE_S) -> list[str]:
    """End our programs that work in a folder; what was found, and how each one went."""
    return end(workers(folder), patience_s)


def end(found: Sequence[Activity], patience_s: float = PATIENCE_S) -> list[str]:
    """SIGTERM, and SIGKILL for those that do not go; how each one went."""
    silent = FlightRecorder(None, "simulator")
    return [f"{one} {how}" for one, how in activities.end(found, silent, patience_s)]


def refuse_beside_others(folder: Path) -> None:
    """Raise RefusedError naming a pipeline or HK recorder that does not work in the folder."""
    ours = {worker.pid for worker in workers(folder)}
    recorders = [
        Activity("HK recorder", process.pid, "", process)
        for process in activities.daemon_processes(activities.HK_RECORDER)
    ]
    strangers = [one for one in activities.pipelines() + recorders if one.pid not in ours]
    if strangers:
        names = ", ".join(str(one) for one in strangers)
        raise RefusedError(
            f"somebody records on this computer: {names}; stop.py would end that too,"
            " so nothing is begun: end it first, or wait"
        )
