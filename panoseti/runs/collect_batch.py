"""One batch of files on their way from a node into the run directory, verified.

rsync into a folder below `<run>/.incoming/`, SHA-256 on the node and here compared, fsync, rename
into `<run>/`.  A file that differs is fetched again, alone.  What is there already is compared and
not fetched again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from panoseti.errors import RemoteError
from panoseti.nodes import daq_nodes
from panoseti.nodes.node_types import NodeFile
from panoseti.nodes.remote import Shell
from panoseti.nodes.rsync_fetch import Fetcher
from panoseti.runs.collect_progress import Meter
from panoseti.state_files import fsync_file, fsync_folder

CHUNK = 4 << 20
FETCH_TRIES = 3
RETRY_PAUSE_S = 1.0
SHORT_S = 60.0
# A node that records leaves little of its processor to hashing.
HASH_BYTES_S = 5_000_000
_KEPT = "both are kept"


def files_timeout_s(size_bytes: int) -> float:
    """Patience with a node that hashes or moves so many bytes."""
    return SHORT_S + size_bytes / HASH_BYTES_S


class Batch:
    """Files of a node on their way, by way of the folder `target`, into the run directory."""

    def __init__(
        self,
        shell: Shell,
        fetcher: Fetcher,
        files: list[NodeFile],
        target: Path,
        run_dir: Path,
        meter: Meter,
    ) -> None:
        self._shell = shell
        self._fetcher = fetcher
        self._files = files
        self._target = target
        self._run_dir = run_dir
        self._meter = meter
        self._verified: list[NodeFile] = []
        self._failed: dict[str, str] = {}

    def fetch(self) -> tuple[list[NodeFile], list[tuple[str, str]]]:
        """The files that are in the run directory now (as hashed), and those that are not."""
        known = [file for file in self._files if (self._run_dir / file.name).exists()]
        wanted = [file for file in self._files if file not in known]
        wanted += self._compare(known)
        for again in range(FETCH_TRIES):
            if not wanted or (again and self._meter.cancelled.wait(RETRY_PAUSE_S * again)):
                break
            # After a failure each file for itself: one bad file does not hold up others.
            groups = [[file] for file in wanted] if again else [wanted]
            wanted = [file for group in groups for file in self._attempt(group)]
        return self._verified, list(self._failed.items())

    def _compare(self, known: list[NodeFile]) -> list[NodeFile]:
        """Take what is here already and equal; those that must be fetched after all."""
        hashed = self._hashed(known)
        differing, same = [], []
        for file in known:
            here, there = self._run_dir / file.name, hashed.get(file.path)
            if (
                there is not None
                and here.stat().st_size == there.bytes
                and sha256(here) == there.sha256
            ):
                # Whoever brought it may have died before it, or its name, was on the disk.
                fsync_file(here)
                same.append(there)
            else:
                differing.append(file)
        if same:
            fsync_folder(self._run_dir)
        for file in same:
            self._take(file)
        return differing

    def _attempt(self, files: list[NodeFile]) -> list[NodeFile]:
        """Fetch and verify files; those that shall be tried again."""
        self._target.mkdir(parents=True, exist_ok=True)
        problem = ""
        try:
            self._fetcher.fetch([file.path for file in files], self._target)
        except RemoteError as error:
            problem = str(error)
        hashed = self._hashed(files)
        wanted = []
        for file in files:
            there = hashed.get(file.path)
            unhashed = self._failed.get(file.path, "the node told no hash of it")
            why = unhashed if there is None else self._arrived(there)
            if why:
                self._failed[file.path] = f"{why}; {problem}" if problem else why
                wanted.append(file)
        return [file for file in wanted if file.path not in self._hopeless]

    @property
    def _hopeless(self) -> set[str]:
        return {path for path, why in self._failed.items() if _KEPT in why}

    def _hashed(self, files: list[NodeFile]) -> dict[str, NodeFile]:
        """The files as they are on the node, with their hashes; failures are noted."""
        if not files:
            return {}
        size = sum(file.bytes for file in files)
        paths = [file.path for file in files]
        done = daq_nodes.hash_files(self._shell, self._run_dir.name, paths, files_timeout_s(size))
        for problem in done.problems:
            self._failed[problem.path] = problem.error
        return {file.path: file for file in done.files}

    def _arrived(self, there: NodeFile) -> str:
        """Put a copy that equals the original into its place; else why not."""
        copy, place = self._target / there.path, self._run_dir / there.name
        if not copy.is_file():
            return "did not arrive"
        if copy.stat().st_size < there.bytes:
            return f"only {copy.stat().st_size} of {there.bytes} bytes arrived"
        if sha256(copy) != there.sha256:
            copy.unlink()
            return "arrived differing from the original"
        if place.exists() and not _continues(copy, place):
            copy.unlink()
            return f"differs from {place}, which was collected before; {_KEPT}: compare them"
        fsync_file(copy)
        copy.replace(place)
        fsync_folder(self._run_dir)
        self._take(there)
        return ""

    def _take(self, file: NodeFile) -> None:
        self._failed.pop(file.path, None)
        self._verified.append(file)
        self._meter.done(file.bytes)


def _continues(longer: Path, shorter: Path) -> bool:
    """Whether a file begins with all of another: one that grew, or was cut to whole frames."""
    length = shorter.stat().st_size
    return longer.stat().st_size >= length and sha256(longer, length) == sha256(shorter)


def sha256(path: Path, length: int | None = None) -> str:
    """SHA-256 of a file, or of its first bytes, in hexadecimal."""
    digest = hashlib.sha256()
    left = length
    with path.open("rb", buffering=0) as file:
        while left is None or left > 0:
            data = file.read(CHUNK if left is None else min(CHUNK, left))
            if not data:
                break
            digest.update(data)
            left = None if left is None else left - len(data)
    return digest.hexdigest()
