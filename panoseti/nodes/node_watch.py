"""What is wrong with one DAQ node within a run, judged from one answer after the other.  Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from panoseti.configs.site import Quabo
from panoseti.nodes.node_types import NodeStatus, Pipeline
from panoseti.nodes.node_types import Volume as NodeVolume
from panoseti.nodes.ph_silence import BOARD_SILENT_S, IMAGE_MODE_BIT, PhSilence
from panoseti.runs.disk_room import Volume
from panoseti.runs.watch_facts import Finding, Kind, Look, NodeLook, Watched
from panoseti.words import joined

# A node is asked every 2 s; an answer takes a tenth of a second, on a busy node a second.
NODE_SILENT_S = 6.0
# A pipeline writes its status once a second.
HUNG_S = 5.0
# What lasts so long is acted on; a pipeline is ended only if its files do not grow, either.
FOR_GOOD_S = 20.0
# Drops and failed writes stand as an alarm until there were none for so long.
QUIET_S = 30.0
LOSS_WINDOW_S = 10.0
LOSS_MIN_PACKETS = 5
# Rates of disks are measured over so long; before, what is planned counts.
RATE_WINDOW_S = 30.0
RATE_MIN_S = 3.0
# So many looks in a row must agree before a run is ended for the sake of a disk.
DISK_LOOKS = 2
ENDING = ("draining", "ended", "failed")


class VolumeWatch:
    """How fast one disk fills."""

    def __init__(self, planned_bytes_s: float) -> None:
        self._planned_bytes_s = planned_bytes_s
        self._samples: deque[tuple[float, int, int]] = deque()
        self.low_samples = 0

    def add(
        self,
        now_s: float,
        free_bytes: int,
        written_bytes: int,
        where: str,
        min_left_s: float,
        beside: bool = False,
    ) -> Volume:
        """One more look; a sample that was there already is not counted again.

        written_bytes: in our own files.  Others may fill the disk as well: the faster one counts,
        unless what others do (beside) is known to end in time.
        """
        samples = self._samples
        is_new = not samples or samples[-1][0] < now_s
        if is_new:
            samples.append((now_s, free_bytes, written_bytes))
        while samples[-1][0] - samples[0][0] > RATE_WINDOW_S:
            samples.popleft()
        if beside:
            self._samples = deque((at_s, free_bytes, written) for at_s, _, written in samples)
        least_bytes_s = self._planned_bytes_s if beside else 0.0
        volume = Volume(where, free_bytes, max(self._rate(), least_bytes_s))
        if is_new:
            self.low_samples = self.low_samples + 1 if volume.time_left_s < min_left_s else 0
        return volume

    def _rate(self) -> float:
        (begin_s, free, written), (end_s, free_now, written_now) = (
            self._samples[0],
            self._samples[-1],
        )
        if end_s - begin_s < RATE_MIN_S:
            return self._planned_bytes_s
        return max(written_now - written, free - free_now, 0) / (end_s - begin_s)


class _Growth:
    """A sum that should not grow: how much it has within the last look, and lately."""

    def __init__(self) -> None:
        self._pipeline: object = None
        self._before = 0
        self._grew_s: float | None = None
        self.grown = 0

    def add(self, pipeline: object, total: int, now_s: float) -> bool:
        """Whether it has grown within QUIET_S; `grown` is how much since it was quiet last."""
        if pipeline != self._pipeline:
            self._pipeline, self._before = pipeline, 0
        if total > self._before:
            self.grown += total - self._before
            self._grew_s = now_s
        self._before = total
        standing = self._grew_s is not None and now_s - self._grew_s <= QUIET_S
        if not standing:
            self.grown = 0
        return standing


class _Losses:
    """The fraction of packets that were lost on the way, lately."""

    def __init__(self) -> None:
        self._pipeline: object = None
        self._samples: deque[tuple[float, int, int]] = deque()

    def add(self, pipeline: object, received: int, lost: int, now_s: float) -> tuple[int, float]:
        """Packets lost within the window, and the fraction they are."""
        samples = self._samples
        if pipeline != self._pipeline:
            self._pipeline = pipeline
            samples.clear()
            samples.append((now_s, 0, 0))
        samples.append((now_s, received, lost))
        while len(samples) > 2 and now_s - samples[1][0] >= LOSS_WINDOW_S:
            samples.popleft()
        _, received_before, lost_before = samples[0]
        gone = lost - lost_before
        sent = received - received_before + gone
        return gone, gone / sent if sent > 0 else 0.0


class NodeWatch:
    """Judges the answers of one node.

    volumes: its disks that are written to, at the last answer; low: those that do not last long
    enough; silent: whether it has not answered for long; dead, hung: whether its pipeline has
    ended, or has to be ended; written_bytes: in the files of the run.
    """

    def __init__(self, watched: Watched, node: str) -> None:
        self.volumes: tuple[Volume, ...] = ()
        self.low: tuple[Volume, ...] = ()
        self.silent = self.dead = self.hung = False
        self.written_bytes = 0
        self._watched = watched
        self._node = node
        self._disks: dict[str, VolumeWatch] = {}
        self._drops, self._writes, self._losses = _Growth(), _Growth(), _Losses()
        self._pulse_heights = PhSilence(watched.any_trigger)
        self._hung_since_s: float | None = None
        self._pid: int | None = None
        self._grew_s = 0.0

    def judge(self, found: NodeLook, look: Look) -> list[Finding]:
        """What is wrong with it."""
        self.dead = self.hung = False
        silent_s = look.now_s - found.answered_s
        self.silent = silent_s > FOR_GOOD_S
        if silent_s > NODE_SILENT_S:
            self.volumes = self.low = ()
            why = found.problem.removeprefix(f"{self._node}: ") or "it does not answer"
            text = f"{self._node}: no answer for {silent_s:.0f} s: {why}"
            return [self._finding(Kind.NODE, text, look.now_unix - silent_s)]
        if found.status is None:
            return []
        beside = look.collection_fits and self._node in self._watched.local
        self._look_at_disks(found.status, found.answered_s, beside)
        return self._judge_pipeline(found.status, look)

    def _finding(self, kind: Kind, text: str, since_unix: float | None = None) -> Finding:
        boards: tuple[str, ...] = ()
        if kind in (Kind.NODE, Kind.PIPELINE, Kind.HUNG):
            boards = tuple(board.ip for board in self._watched.boards_of(self._node))
        return Finding(kind, self._node, text, boards, since_unix)

    # --- disks ---

    def _look_at_disks(self, status: NodeStatus, now_s: float, beside: bool) -> None:
        written: Counter[int] = Counter()
        for file in status.files:
            written[file.module] += file.bytes
        total = sum(written.values())
        if total != self.written_bytes:
            self.written_bytes, self._grew_s = total, now_s
        volumes, low = [], []
        for volume in status.volumes:
            modules = self._modules_on(volume, status.volumes)
            if not modules:
                continue
            planned = self._watched.rate_bytes_s * len(modules)
            disk = self._disks.setdefault(volume.path, VolumeWatch(planned))
            own = sum(written[module] for module in modules)
            where = f"{self._node}:{volume.path}"
            limit_s = self._watched.min_left_s
            volumes.append(disk.add(now_s, volume.free_bytes, own, where, limit_s, beside))
            if disk.low_samples >= DISK_LOOKS:
                low.append(volumes[-1])
        self.volumes, self.low = tuple(volumes), tuple(low)

    def _modules_on(self, volume: NodeVolume, volumes: Iterable[NodeVolume]) -> list[int]:
        placed = {module for one in volumes for module in one.modules}
        return [
            module
            for module in self._watched.modules[self._node]
            if module in volume.modules or (volume.default and module not in placed)
        ]

    # --- the pipeline ---

    def _judge_pipeline(self, status: NodeStatus, look: Look) -> list[Finding]:
        node, pipeline = self._node, status.pipeline
        ours = status.owner in (None, "", self._watched.token)
        if not status.running:
            self.dead = ours
            since = pipeline.updated_unix if pipeline else None
            return [self._finding(Kind.PIPELINE, f"{node}: {_how_ended(status)}", since)]
        if not ours:
            who = status.started_by or "somebody else"
            return [self._finding(Kind.FOREIGN, f"{node} records another run, of {who}")]
        problem = self._why_hung(status, look.now_s)
        if problem:
            since = pipeline.updated_unix if pipeline else None
            return [self._finding(Kind.HUNG, f"{node}: the pipeline {problem}", since)]
        if pipeline is None or pipeline.state in ENDING:
            return []
        boards, what = self._watched.boards_of(node), "image"
        if self._watched.images:
            silent = self._without_images(pipeline, boards)
        else:
            silent, what = self._pulse_heights.look(pipeline, boards), "pulse-height"
        return [
            *self._accounts(pipeline, look.now_s),
            *silent_boards(Kind.BOARD, silent, boards, node, what),
        ]

    def _why_hung(self, status: NodeStatus, now_s: float) -> str:
        """Why a pipeline that runs does not work; "" = it does."""
        pipeline = status.pipeline
        if status.pid != self._pid:  # one that was started again has not hung as long
            self._pid, self._hung_since_s = status.pid, None
        if pipeline is None:
            problem = "has written no status"
        elif status.time_unix - pipeline.updated_unix > HUNG_S:
            problem = f"hangs: no new status for {status.time_unix - pipeline.updated_unix:.0f} s"
        else:
            problem = _ended_threads(status)
        if not problem:
            self._hung_since_s = None
            return ""
        if self._hung_since_s is None:
            self._hung_since_s = now_s
        long_s = now_s - max(self._hung_since_s, self._grew_s)
        self.hung = long_s > FOR_GOOD_S - HUNG_S
        # One that has only just begun has no status yet.
        return problem if pipeline is not None or long_s > HUNG_S else ""

    def _accounts(self, pipeline: Pipeline, now_s: float) -> list[Finding]:
        """Drops, losses and failed writes."""
        node, totals = self._node, pipeline.totals
        me = pipeline.pid, pipeline.start_time_unix
        findings = []
        if self._drops.add(me, totals.get("kernel_drops", 0), now_s):
            text = f"{node}: {self._drops.grown} packets dropped by the kernel"
            findings.append(self._finding(Kind.DROPS, text))
        failed = totals.get("unwritten", 0)
        failed += sum(product.write_errors for product in pipeline.products)
        if self._writes.add(me, failed, now_s):
            said = f" ({pipeline.errors[-1]})" if pipeline.errors else ""
            findings.append(self._finding(Kind.WRITES, f"{node}: writing fails{said}"))
        lost, fraction = self._losses.add(
            me, totals.get("received", 0), totals.get("lost", 0), now_s
        )
        if lost >= LOSS_MIN_PACKETS and fraction > self._watched.max_loss:
            text = f"{node}: {lost} packets lost on the way within {LOSS_WINDOW_S:.0f} s"
            findings.append(self._finding(Kind.LOSS, f"{text} ({fraction:.2%})"))
        return findings

    def _without_images(self, pipeline: Pipeline, boards: Sequence[Quabo]) -> dict[str, float]:
        """The expected boards whose images do not come, and since when (Unix time)."""
        last: dict[tuple[int, int], float] = {}
        for count in pipeline.quabos:
            if count.mode & IMAGE_MODE_BIT and count.received:
                key = count.module, count.quabo
                last[key] = max(last.get(key, 0.0), count.last_packet_unix)
        silent = {}
        for board in boards:
            since = last.get((board.module_id, board.index), pipeline.start_time_unix)
            if pipeline.updated_unix - since > BOARD_SILENT_S:
                silent[board.ip] = since
        return silent


def _how_ended(status: NodeStatus) -> str:
    """What became of a pipeline that runs no more, and its last words."""
    pipeline = status.pipeline
    if any("rebooted" in problem for problem in status.problems):
        how = "is gone: the node was rebooted"
    elif pipeline is None or pipeline.state not in ENDING:
        how = "has died"
    else:
        how = "has failed" if pipeline.state == "failed" else "was ended by somebody"
    said = f" ({pipeline.errors[-1]})" if pipeline is not None and pipeline.errors else ""
    return f"the pipeline {how}{said}"


def _ended_threads(status: NodeStatus) -> str:
    document = status.document.get("pipeline")
    threads = document.get("threads") if isinstance(document, dict) else None
    if not isinstance(threads, dict) or (status.pipeline and status.pipeline.state in ENDING):
        return ""
    ended = [str(name) for name, state in threads.items() if state == "ended"]
    return f"has lost its {joined(ended, ', ')}" if ended else ""


def silent_boards(
    kind: Kind,
    silent: dict[str, float],
    boards: Sequence[Quabo],
    whole: str,
    what: str,
) -> list[Finding]:
    """Findings about silent boards: one for all of `boards` (called `whole`), for all of a module,
    or for each.

    silent: address and since when.
    """

    def finding(subject: str, whose: str, ips: Sequence[str]) -> Finding:
        since = min(silent[ip] for ip in ips)
        return Finding(kind, subject, f"no {what} data of {whose}", tuple(ips), since)

    if len(silent) == len(boards) > 1:
        return [finding(whole, f"any of the {len(boards)} boards of {whole}", [*silent])]
    findings = []
    for module in sorted({board.module_id for board in boards}):
        members = [board for board in boards if board.module_id == module]
        ips = [board.ip for board in members if board.ip in silent]
        if len(ips) == len(members) > 1:
            findings.append(finding(f"module {module}", f"any board of module {module}", ips))
        else:
            findings += [
                finding(board.ip, f"{board.ip} (module {module}, quabo {board.index})", [board.ip])
                for board in members
                if board.ip in silent
            ]
    return findings
