"""Remembers every frame that was ever seen on a disk, and judges what has become of them.

What must hold after any fault and its recovery: every frame that reached a disk is on the head
node exactly once, or still on its node, and nothing else was deleted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panoseti.runs.names import parse_data_file
from panoseti.runs.pff import PRODUCTS
from panoseti.runs.run_state import runs

OLD_RUN = "obs_Simulated.start_2020-01-02T03:04:05Z.runtype_hosts.pffd"
# Of somebody else, or of another run; none of the programs may touch them.
BYSTANDERS = (
    "notes.txt",
    f"{OLD_RUN}/start_2020-01-02T03:04:05Z.dp_img16.bpp_2.module_7.seqno_0.pff",
)


@dataclass(frozen=True)
class Seen:
    """One frame: its run, module and product, and a digest of its bytes (which are unique)."""

    run: str
    module: int
    product: str
    digest: bytes


def frames_in(folder: Path) -> Iterator[Seen]:
    """The whole frames of the data files in one folder of a run."""
    for path in folder.iterdir() if folder.is_dir() else ():
        file = parse_data_file(path.name)
        if file is None or path.is_symlink():
            continue
        data, size = path.read_bytes(), PRODUCTS[file.product].frame_bytes
        for at in range(0, len(data) - size + 1, size):
            digest = hashlib.blake2b(data[at : at + size], digest_size=16).digest()
            yield Seen(folder.name, file.module, file.product, digest)


class Witness:
    """What was seen on the disks of a site.

    head_data: the head node's data directory; nodes: for each node the folders where runs can
    have files, links followed, as the test sees them at the moment.
    """

    def __init__(self, head_data: Path, nodes: Callable[[], Sequence[Sequence[Path]]]) -> None:
        self._head_data = head_data
        self._nodes = nodes
        self._seen: set[Seen] = set()
        self._bystanders: dict[Path, bytes] = {}

    def place_bystanders(self) -> None:
        """Put files of others beside those of the runs."""
        for number, folders in enumerate(self._nodes()):
            for folder in folders:
                for name in BYSTANDERS:
                    place = folder / name
                    if folder == self._head_data and OLD_RUN in name:
                        continue  # there it would be an old run of ours
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(f"node {number}: {place.name}")
                    self._bystanders[place] = place.read_bytes()

    def look(self) -> int:
        """Remember all that is on the disks at this moment; how many frames that is.

        A helper on a node may still delete what had arrived: then once more.
        """
        while True:
            try:
                self._seen |= set(self._here()) | set(self._there())
            except FileNotFoundError:
                continue
            return len(self._seen)

    def forget(self, run: str) -> None:
        """A run is deleted on purpose."""
        self._seen = {frame for frame in self._seen if frame.run != run}

    def check(self, complete: bool = False) -> None:
        """Judge.  complete: everything has to be on the head node, and nothing on nodes."""
        here, there = Counter(self._here()), Counter(self._there())
        lost = [frame for frame in self._seen if not here[frame] + there[frame]]
        assert not lost, f"{len(lost)} frames are gone, such as {lost[0]}"
        for where, counted in (("the head node", here), ("a DAQ node", there)):
            twice = [frame for frame, count in counted.items() if count > 1]
            assert not twice, f"{len(twice)} frames are twice on {where}, such as {twice[0]}"
        if complete:
            assert not there, f"{len(there)} frames are still on nodes"
        for path, content in self._bystanders.items():
            assert path.read_bytes() == content, path

    def _here(self) -> Iterator[Seen]:
        """On the head node."""
        for run in runs(self._head_data):
            yield from frames_in(self._head_data / run)

    def _there(self) -> Iterator[Seen]:
        """On the nodes."""
        for folders in self._nodes():
            for folder in folders:
                for run in runs(folder):
                    if run != OLD_RUN and folder != self._head_data:
                        yield from frames_in(folder / run)
