"""Bulk transfer from a DAQ node: the system's rsync over ssh."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.errors import RemoteError
from panoseti.flight import FlightRecorder
from panoseti.nodes.ssh_argv import rsync_argv

POLL_S = 0.1
END_S = 5.0
# In place: what has come when a transfer breaks off is used by the next one.  Not by size and
# time: a copy with wrong bytes may have both.
OPTIONS = ("--relative", "--inplace", "--no-implied-dirs", "--ignore-times")
NOT_FOUND = 127  # what the shell on the node says
SHELL_WITHOUT_IT = re.compile(r"rsync: (command )?not found")
# rsync takes less than 1000 words on a command line.
FETCH_MAX_FILES = 500


class Fetcher:
    """Fetches files of one node; `cancelled`: when it is set, transfers are broken off."""

    def __init__(
        self,
        node: DaqNode,
        obs: ObsConfig,
        flight: FlightRecorder,
        cancelled: threading.Event,
    ) -> None:
        self._node = node
        self._obs = obs
        self._flight = flight
        self._cancelled = cancelled

    def fetch(self, paths: Sequence[str], target: Path) -> None:
        """Bring files into a local folder; paths: relative to the node's data directory, and here.

        At most FETCH_MAX_FILES.  They are words of rsync's command line, where the node can check
        them (daq/only_daq.py).  RemoteError when rsync fails; some of the files may have come
        nevertheless.
        """
        if not 0 < len(paths) <= FETCH_MAX_FILES:
            raise ValueError(f"{len(paths)} files at once, not 1 to {FETCH_MAX_FILES}")
        remotes = [f"./{path}" for path in paths]  # what follows the dot is the path here
        argv = rsync_argv(self._node, self._obs, remotes, target, OPTIONS)
        step = f"fetch {len(paths)} file{'s' if len(paths) != 1 else ''}"
        self._flight.note("rsync", node=self._node.ip_addr, step=step, argv=argv)
        with tempfile.TemporaryFile() as words:
            code = self._run(argv, step, words)
            words.seek(0)
            lines = words.read().decode("utf-8", "replace").strip().splitlines()
        self._flight.note("rsync_end", node=self._node.ip_addr, step=step, code=code)
        if code:
            said = next((line for line in lines if line.strip()), "it said nothing")
            # The code is rsync's own when it notices the end of the stream first.
            if code == NOT_FOUND or any(SHELL_WITHOUT_IT.search(line) for line in lines):
                said += "; rsync is missing there: install it"
            how = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
            raise RemoteError(f"{self._node.ip_addr}: could not {step}: rsync: {how}: {said}")

    def _run(self, argv: Sequence[str], step: str, words: IO[bytes]) -> int:
        """Exit code of rsync."""
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        except OSError as error:
            raise RemoteError(
                f"{self._node.ip_addr}: could not {step}: rsync cannot be run here"
                f" ({error.strerror}); install it"
            ) from error
        try:
            while not self._cancelled.is_set():
                try:
                    return child.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(END_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        raise RemoteError(f"{self._node.ip_addr}: {step}: broken off")
