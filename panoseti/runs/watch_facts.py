"""What the watcher of a run looks at and what it may find.  Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from panoseti.configs.site import Quabo
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs.disk_room import Volume


class Kind(StrEnum):
    """What may be wrong within a run."""

    NODE = "node_silent"
    PIPELINE = "pipeline_ended"
    HUNG = "pipeline_hangs"
    FOREIGN = "other_run"
    BOARD = "board_silent"
    HK = "hk_silent"
    DROPS = "kernel_drops"
    LOSS = "packets_lost"
    WRITES = "write_errors"
    DISK = "disk"
    ROOM = "no_room_to_collect"
    DAEMON = "daemon"


@dataclass(frozen=True)
class Watched:
    """What a run is to record.

    boards: the expected ones; modules: ids by node address; token: the run's; images: whether
    every board must send all the time; any_trigger: whether the boards of a module are read out
    together; rate_bytes_s: what a module is expected to write;
    hk_rate_bytes_s: the same of housekeeping on the head node; local: nodes with the head node's
    data directory; hk: whether housekeeping is expected; max_loss: fraction of lost packets that
    is told; min_left_s: the run is ended when a disk lasts less.
    """

    boards: tuple[Quabo, ...]
    modules: Mapping[str, tuple[int, ...]]
    token: str
    images: bool
    rate_bytes_s: float
    any_trigger: bool = False
    hk_rate_bytes_s: float = 0.0
    local: frozenset[str] = frozenset()
    hk: bool = True
    hk_max_age_s: float = 15.0
    max_loss: float = 0.001
    min_left_s: float = 180.0

    def boards_of(self, node: str) -> tuple[Quabo, ...]:
        """The expected boards that a node records."""
        modules = self.modules[node]
        return tuple(board for board in self.boards if board.module_id in modules)


@dataclass(frozen=True)
class NodeLook:
    """What is known of a node.

    status: its last answer, None = none yet; answered_s: when that came (or the watch began),
    monotonic; problem: why the last question was not answered, "" = it was.
    """

    status: NodeStatus | None
    answered_s: float
    problem: str = ""


@dataclass(frozen=True)
class Look:
    """All that is looked at, at one moment.

    now_s: monotonic; head_free_bytes: None = not known; coming_bytes: what collections of other
    runs are still to bring there; hk_unix: when the last housekeeping of
    each board came, None = that cannot be asked (hk_problem says why); daemons: what is wrong with
    each, "" = nothing.
    """

    now_s: float
    now_unix: float
    nodes: Mapping[str, NodeLook] = field(default_factory=dict)
    head_free_bytes: int | None = None
    coming_bytes: int = 0
    hk_unix: Mapping[str, float] | None = field(default_factory=dict)
    hk_problem: str = ""
    daemons: Mapping[str, str] = field(default_factory=dict)

    @property
    def collection_fits(self) -> bool:
        """Whether a collection fills the head node's disk, and ends before it is full."""
        return self.head_free_bytes is not None and 0 < self.coming_bytes < self.head_free_bytes


@dataclass(frozen=True)
class Finding:
    """Something that is wrong at this moment.

    subject: node, module, board, disk or daemon; boards: addresses of those that are silent;
    since_unix: since when, where that is known.
    """

    kind: Kind
    subject: str
    text: str
    boards: tuple[str, ...] = ()
    since_unix: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What a look says.

    volumes: with measured rates; silent: nodes that do not answer, for long; dead: nodes (that
    answer) whose pipeline has ended; hung: those whose pipeline has to be ended first;
    end_because: why the run should be ended before a disk is full, "" = it need not.
    """

    findings: tuple[Finding, ...] = ()
    volumes: tuple[Volume, ...] = ()
    silent: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    hung: tuple[str, ...] = ()
    end_because: str = ""
