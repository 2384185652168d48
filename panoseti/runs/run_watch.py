"""What is wrong with a run, judged from one look after the other.  Pure: `run_watcher` looks, and
acts.

What counts, and after how long (the sum of such a time, the time between two looks and the time
that a status takes to be written stays below 10 s):

- a node that does not answer; a pipeline that has died, hangs, or writes for somebody else
- an expected board whose images do not come, or whose pulse heights are long overdue
- housekeeping that does not come
- packets dropped by the kernel or lost on the way, frames that could not be written
- a disk that will soon be full
- a daemon that has died
"""

from __future__ import annotations

from panoseti.nodes.node_watch import DISK_LOOKS, NodeWatch, VolumeWatch, silent_boards
from panoseti.runs.disk_room import Volume, duration_text, size_text
from panoseti.runs.watch_facts import Finding, Judgement, Kind, Look, Watched

# A disk is told of when it lasts less than so many times what ends the run.
DISK_WARN_FACTOR = 3.0
HEAD = "head node"


class RunWatch:
    """Judges the looks at one run, which must come in the order of time."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._nodes = {node: NodeWatch(watched, node) for node in watched.modules}
        self._head = VolumeWatch(watched.hk_rate_bytes_s)
        self._begin_unix: float | None = None

    def judge(self, look: Look) -> Judgement:
        """One more look."""
        findings: list[Finding] = []
        volumes: list[Volume] = []
        low: list[Volume] = []
        for node, watch in self._nodes.items():
            found = look.nodes.get(node)
            if found is not None:
                findings += watch.judge(found, look)
                volumes += watch.volumes
                low += watch.low
        if look.head_free_bytes is not None:
            limit_s, fits = self._watched.min_left_s, look.collection_fits
            free = look.head_free_bytes - (look.coming_bytes if fits else 0)
            volumes.append(self._head.add(look.now_s, free, 0, HEAD, limit_s, beside=fits))
            if self._head.low_samples >= DISK_LOOKS:
                low.append(volumes[-1])
        findings += self._disks(volumes)
        findings += self._room(look)
        findings += self._housekeeping(look)
        findings += [
            Finding(Kind.DAEMON, n, problem) for n, problem in look.daemons.items() if problem
        ]
        return Judgement(
            tuple(findings),
            tuple(volumes),
            silent=tuple(node for node, watch in self._nodes.items() if watch.silent),
            dead=tuple(node for node, watch in self._nodes.items() if watch.dead),
            hung=tuple(node for node, watch in self._nodes.items() if watch.hung),
            end_because="; ".join(map(str, low)),
        )

    def _disks(self, volumes: list[Volume]) -> list[Finding]:
        limit_s = DISK_WARN_FACTOR * self._watched.min_left_s
        return [
            Finding(Kind.DISK, volume.where, str(volume))
            for volume in volumes
            if volume.time_left_s < limit_s
        ]

    def _room(self, look: Look) -> list[Finding]:
        """Whether what other computers have recorded can be collected."""
        elsewhere = sum(
            watch.written_bytes
            for node, watch in self._nodes.items()
            if node not in self._watched.local
        )
        free = look.head_free_bytes
        if free is None or elsewhere <= free:
            return []
        text = (
            f"{HEAD}: what was recorded elsewhere ({size_text(elsewhere)}) does not fit on its disk"
            f" ({size_text(free)} free): it stays on the nodes until there is room"
        )
        return [Finding(Kind.ROOM, HEAD, text)]

    def _housekeeping(self, look: Look) -> list[Finding]:
        if not self._watched.hk or not self._watched.boards:
            return []
        if look.hk_unix is None:
            return [Finding(Kind.HK, "redis", f"housekeeping: {look.hk_problem}")]
        begin = self._begin_unix = self._begin_unix or look.now_unix
        limit_s = self._watched.hk_max_age_s
        silent = {}
        for board in self._watched.boards:
            since = look.hk_unix.get(board.ip, begin)
            if look.now_unix - since > limit_s:
                silent[board.ip] = since
        after = f"housekeeping (for over {duration_text(limit_s)})"
        return silent_boards(Kind.HK, silent, self._watched.boards, "the observatory", after)
