"""A DAQ node's data directory for tests, its helpers run as the node runs them, and misbehaving
programs called hashpipe.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daq.daq_facts import HELPERS
from tests.helpers import REPO, wait_for

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
OTHER_RUN = "obs_Test.start_2024-07-25T05:00:00Z.runtype_sci-data.pffd"

# What a fake does: words that follow, run in the functions of the script below.
EXITS_AT_ONCE = "print('cannot go on'); sys.exit(7)"
HANGS_AT_START = "wait_for_ever()"
NO_SOCKET = "status('starting', socket_open=False); wait_for_ever()"
THREAD_MISSING = "threads['output_thread'] = 'starting'; status('running'); wait_for_ever()"
FAILS_LATER = "status('starting', socket_open=False); log('ERROR disk on fire'); sys.exit(1)"
ENDS_AT_SIGINT = "status('running'); wait_for_ever()"
IGNORES_SIGINT = "ignore(signal.SIGINT); status('running'); wait_for_ever()"
IGNORES_ALL = "ignore(signal.SIGINT, signal.SIGTERM); status('running'); wait_for_ever()"
HANGS_DEAF = "ignore(signal.SIGINT, signal.SIGTERM); wait_for_ever()"
DRAINS_SLOWLY = "status('running'); drain(2.5)"

_FAKE = """#!{python}
import json, os, signal, sys, time
options = dict(word.partition("=")[::2] for word in sys.argv if "=" in word)
run, name = options.get("RUNDIR", ""), options.get("LOGFILE", "")
begin = time.time()
threads = {{name: "running" for name in ("net_thread", "compute_thread", "output_thread")}}

def status(state, socket_open=True, recorded=0):
    path = os.path.join(run, name.replace("hp_log_", "hp_status_") + ".json")
    content = {{"version": 1, "pid": os.getpid(), "start_time_unix": begin,
               "updated_unix": time.time(), "state": state, "run": run,
               "socket_open": socket_open, "threads": threads, "totals": {{"recorded": recorded}},
               "rejected": [], "quabos": [], "products": [], "errors": []}}
    with open(path + ".tmp", "w") as file:
        json.dump(content, file)
    os.rename(path + ".tmp", path)

def log(text):
    with open(os.path.join(run, name), "a") as file:
        file.write("2026-01-01T00:00:00.000Z " + text + "\\n")

def ignore(*numbers):
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)

def wait_for_ever():
    while True:
        time.sleep(60)

def drain(seconds):
    # Ends only so long after SIGINT, showing all the time how it gets on.
    asked = []
    signal.signal(signal.SIGINT, lambda number, frame: asked.append(time.time()))
    while not asked:
        time.sleep(0.02)
    count = 0
    while time.time() < asked[0] + seconds:
        count += 1
        status("draining", False, count)
        time.sleep(0.1)
    status("ended", False, count)

signal.signal(signal.SIGINT, signal.SIG_DFL)
{behaviour}
"""


def write_fake(place: Path, behaviour: str) -> None:
    """A program called hashpipe that does what one of the words above says."""
    place.unlink(missing_ok=True)
    place.write_text(_FAKE.format(python=sys.executable, behaviour=behaviour))
    place.chmod(0o755)


def pipeline_built() -> bool:
    """Whether the real pipeline is there."""
    return all((REPO / "hashpipe" / name).is_file() for name in ("hashpipe", "hashpipe.so"))


@dataclass
class Answer:
    """What a helper gave back: exit code, document."""

    code: int
    document: dict[str, Any]

    @property
    def error(self) -> str:
        """Why it failed."""
        return str(self.document["error"])


class NodeDir:
    """The data directory of a node, with helpers and pipeline; what it started ends with it."""

    def __init__(self, path: Path, fake: str | None = None, python: str = sys.executable) -> None:
        self.path = path
        self.python = python
        self.prefix: list[str] = []  # goes before the command line of a helper
        path.mkdir(parents=True)
        for name in HELPERS:
            shutil.copy(REPO / "daq" / name, path / name)
        if fake is None:
            if not pipeline_built():
                pytest.skip("the pipeline is not built: make build")
            for name in ("hashpipe", "hashpipe.so"):
                shutil.copy(REPO / "hashpipe" / name, path / name)
        else:
            self.fake(fake)

    def fake(self, behaviour: str) -> None:
        """Put a misbehaving program in the pipeline's place."""
        write_fake(self.path / "hashpipe", behaviour)
        (self.path / "hashpipe.so").touch()

    def words(self, script: str, *words: str) -> list[str]:
        """The command line of a helper."""
        before = [words[0]] if script == "run_files.py" else []
        after = words[1:] if script == "run_files.py" else words
        python = [self.python, "-B", str(self.path / script)]
        return [*self.prefix, *python, *before, "--data_dir", str(self.path), *after]

    def helper(self, script: str, *words: str, given: str = "") -> Answer:
        """Run a helper from elsewhere, as ssh does."""
        done = subprocess.run(
            self.words(script, *words), input=given, capture_output=True, text=True, cwd="/",
            timeout=60,
        )  # fmt: skip
        assert done.stderr == "", done.stderr
        assert done.stdout.count("\n") == 1, "not one document on one line"
        document = json.loads(done.stdout)
        assert document["ok"] is (done.returncode == 0)
        assert (document["error"] is None) is document["ok"]
        return Answer(done.returncode, document)

    def start_words(self, run: str = RUN, **changes: Any) -> list[str]:
        """Arguments of start_daq.py."""
        options = {"run": run, "owner": "token1", "started_by": "obs@head[1]",
                   "daq_ip": "127.0.0.1", "obs": "Test", "module_ids": "1,254",
                   "bindhost": "127.0.0.1", "deadline_s": 10, **changes}  # fmt: skip
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def start(self, run: str = RUN, **changes: Any) -> Answer:
        """Run start_daq.py."""
        return self.helper("start_daq.py", *self.start_words(run, **changes))

    def stop(self, *words: str) -> Answer:
        """Run stop_daq.py."""
        return self.helper("stop_daq.py", *words)

    def status(self, *words: str) -> dict[str, Any]:
        """Run status_daq.py; the document."""
        return self.helper("status_daq.py", "--growth_s", "0", *words).document

    def files(
        self, verb: str, run: str = RUN, given: Any = None, words: Sequence[str] = ()
    ) -> Answer:
        """Run a verb of run_files.py; given: the list of files on its stdin."""
        text = "" if given is None else json.dumps({"files": given})
        return self.helper("run_files.py", verb, "--run", run, *words, given=text)

    def names(self) -> set[str]:
        """What is in the data directory besides what was put there at first."""
        first = {*HELPERS, "hashpipe", "hashpipe.so", "daq.lock", "module.config",
                 "run_hashpipe.sh"}  # fmt: skip
        return {entry.name for entry in self.path.iterdir()} - first


def hashpipe_pids() -> set[int]:
    """Processes called hashpipe that are alive."""
    found = subprocess.run(["pgrep", "-x", "hashpipe"], capture_output=True, text=True)
    return {int(word) for word in found.stdout.split() if is_alive(int(word))}


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not collected does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def end_hashpipes() -> None:
    """End all processes called hashpipe; they are those of the test before."""
    for pid in hashpipe_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not hashpipe_pids(), "all hashpipe processes to end")
