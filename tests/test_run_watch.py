"""What is wrong with a run, judged from looks that are made up; and the watcher's own log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from panoseti.boards.addresses import boardloc
from panoseti.configs.site import Quabo
from panoseti.errors import ObsError
from panoseti.nodes import daq_nodes
from panoseti.nodes.node_documents import node_status
from panoseti.nodes.node_types import NodeStatus
from panoseti.nodes.node_watch import NODE_SILENT_S
from panoseti.runs.reset_notes import ResetNotes
from panoseti.runs.run_restarts import Restarts
from panoseti.runs.run_watch import RunWatch
from panoseti.runs.watch_facts import Judgement, Kind, Look, NodeLook, Watched
from panoseti.runs.watch_log import Entry, Span, What, read_entries, spans, write_entry
from tests.helpers import wait_for

NODE, TOKEN, BEGIN = "10.0.0.1", "token", 1_700_000_000.0
IPS = ("192.168.0.4", "192.168.0.5", "192.168.0.8", "192.168.0.9")
BOARDS = tuple(Quabo(ip, boardloc(ip) % 4, boardloc(ip), boardloc(ip) // 4) for ip in IPS)
FREE, RATE = 10_000_000_000, 1_000_000


def watched(**fields: Any) -> Watched:
    values: dict[str, Any] = {"images": True, "rate_bytes_s": RATE, "hk": False, "min_left_s": 60.0}
    return Watched(BOARDS, {NODE: (1, 2)}, TOKEN, **{**values, **fields})


def status(
    at_s: float,
    last: Mapping[str, float] | None = None,
    totals: Mapping[str, int] | None = None,
    updated_s: float | None = None,
    written: int = 0,
    free: int = FREE,
    pipeline: bool = True,
    errors: Sequence[str] = (),
    state: str = "running",
    resets: Mapping[str, int] | None = None,
    **fields: Any,
) -> NodeStatus:
    """An answer at some second; last: of the last packet of each board, usually just now."""
    sums = dict.fromkeys(("received", "lost", "kernel_drops", "unwritten"), 0)
    times = dict.fromkeys(IPS, at_s) if last is None else last
    counts = dict.fromkeys(
        ("received", "recorded", "lost", "duplicate", "late", "unwritten", "reordered"), 1
    )
    told = {
        "pid": 7, "state": state, "run": "r", "start_time_unix": BEGIN, "socket_open": True,
        "updated_unix": BEGIN + (at_s if updated_s is None else updated_s),
        "totals": {**sums, **(totals or {})}, "rejected": [], "products": [], "errors": [*errors],
        "quabos": [
            {"module": board.module_id, "quabo": board.index, "mode": 2, **counts,
             "resets": (resets or {}).get(board.ip, 0),
             "last_packet_unix": BEGIN + times[board.ip]}
            for board in BOARDS if board.ip in times
        ],
    }  # fmt: skip
    document = {
        "host": "h", "boot_id": "b", "running": True, "run": "r", "owner": TOKEN,
        "started_by": "ann@head[1]", "started_unix": BEGIN, "pid": 7, "processes": [],
        "pipeline": told if pipeline else None, "problems": [], "helpers": "",
        "time_unix": BEGIN + at_s,
        "files": [{"module": 1, "name": "x", "product": "img16", "seqno": 0, "bytes": written,
                   "bytes_per_s": None}],
        "volumes": [{"path": "/data", "modules": [], "default": True, "free_bytes": free,
                     "total_bytes": FREE, "read_only": False}],
        **fields,
    }  # fmt: skip
    return node_status(document, BEGIN + at_s, BEGIN + at_s)


def look(
    at_s: float, found: NodeStatus | None, answered_s: float | None = None, **fields: Any
) -> Look:
    answered = at_s if answered_s is None else answered_s
    return Look(at_s, BEGIN + at_s, {NODE: NodeLook(found, answered, "")}, **fields)


def kinds(judgement: Judgement) -> list[Kind]:
    return [finding.kind for finding in judgement.findings]


def test_all_is_well() -> None:
    watch = RunWatch(watched())
    for at in range(0, 60, 2):
        judgement = watch.judge(look(at, status(at, written=at * RATE, free=FREE - at * RATE)))
        assert judgement.findings == () and not judgement.dead and not judgement.end_because
    (volume,) = judgement.volumes
    assert volume.rate_bytes_s == pytest.approx(RATE)


def test_a_node_that_does_not_answer() -> None:
    watch, answer = RunWatch(watched()), status(0)
    assert kinds(watch.judge(look(6, answer, 0))) == []
    judgement = watch.judge(look(8, answer, 0))
    assert kinds(judgement) == [Kind.NODE] and not judgement.dead and not judgement.silent
    assert judgement.findings[0].boards == IPS
    assert judgement.findings[0].since_unix == BEGIN
    assert watch.judge(look(22, answer, 0)).silent == (NODE,)
    assert kinds(watch.judge(look(24, status(24)))) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "has died"),
        ({"problems": ["run r is not over, but this node was rebooted: stop.py"]}, "rebooted"),
        ({"state": "ended"}, "was ended by somebody"),
        ({"state": "failed", "errors": ["no socket"]}, "has failed (no socket)"),
    ],
)
def test_a_pipeline_that_is_gone(fields: dict[str, Any], words: str) -> None:
    judgement = RunWatch(watched()).judge(look(2, status(2, running=False, **fields)))
    assert kinds(judgement) == [Kind.PIPELINE] and judgement.dead == (NODE,)
    assert words in judgement.findings[0].text


def test_the_run_of_somebody_else_is_told_and_left_alone() -> None:
    judgement = RunWatch(watched()).judge(look(2, status(2, owner="another")))
    assert kinds(judgement) == [Kind.FOREIGN] and not judgement.dead and not judgement.hung
    judgement = RunWatch(watched()).judge(look(2, status(2, owner="another", running=False)))
    assert not judgement.dead


@pytest.mark.parametrize("grows", [False, True])
def test_a_pipeline_that_hangs_is_ended_unless_its_files_grow(grows: bool) -> None:
    watch = RunWatch(watched())
    seen = {}
    for at in range(0, 40, 2):
        written = at * RATE if grows else 0
        seen[at] = watch.judge(look(at, status(at, updated_s=0, written=written)))
    assert kinds(seen[4]) == [] and kinds(seen[6]) == [Kind.HUNG]
    assert not seen[18].hung and bool(seen[38].hung) is not grows


def test_a_pipeline_that_was_started_again_has_not_hung_as_long_as_the_one_before() -> None:
    watch = RunWatch(watched())
    for at in range(0, 40, 2):
        judgement = watch.judge(look(at, status(at, updated_s=0)))
    assert judgement.hung
    assert not watch.judge(look(40, status(40, pid=8, pipeline=False))).hung, "no status yet"
    assert watch.judge(look(60, status(60, pid=8, pipeline=False))).hung


def test_nothing_is_done_on_the_strength_of_an_answer_from_before_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A restart lasts: what is known of the node as it ends is what it was before."""
    begun: list[object] = []

    def begin(shell: object, order: object, again: bool) -> None:
        begun.append(order)

    monkeypatch.setattr(daq_nodes, "start_recording", begin)
    told: list[str] = []
    order: Any = "order"
    shell: Any = "shell"
    restarts = Restarts({NODE: shell}, {NODE: order}, 1, lambda kind, *words: told.append(kind))

    def noticed() -> bool:
        restarts.look(120.0)
        return "restarted" in told

    restarts.want(NODE, False, 100.0)
    wait_for(noticed, "the restart", 10)
    for asked_s, given_up in ((120.0, False), (120.0 + NODE_SILENT_S, False), (130.0, True)):
        restarts.want(NODE, False, asked_s)
        assert restarts.given_up(NODE, asked_s) is ("given_up" in told) is given_up, asked_s
    assert len(begun) == 1


SILENT = {
    "one": (IPS[:1], [IPS[0]]),
    "a module": (IPS[:2], ["module 1"]),
    "all": (IPS, [NODE]),
    "two of two modules": ((IPS[0], IPS[2]), [IPS[0], IPS[2]]),
}


@pytest.mark.parametrize("case", SILENT)
@pytest.mark.parametrize("ever", [True, False])
def test_boards_that_fall_silent_or_never_send(case: str, ever: bool) -> None:
    silent, subjects = SILENT[case]
    times = {ip: 10.0 if ip not in silent else 2.0 for ip in IPS if ever or ip not in silent}
    judgement = RunWatch(watched()).judge(look(10, status(10, last=times)))
    assert [finding.subject for finding in judgement.findings] == subjects
    assert {finding.kind for finding in judgement.findings} == {Kind.BOARD}
    assert {ip for finding in judgement.findings for ip in finding.boards} == set(silent)
    assert judgement.findings[0].since_unix == BEGIN + (2 if ever else 0)
    without_images = RunWatch(watched(images=False)).judge(look(10, status(10, last=times)))
    assert without_images.findings == ()


def test_drops_and_failed_writes_stand_for_a_while() -> None:
    watch = RunWatch(watched())
    assert kinds(watch.judge(look(0, status(0)))) == []
    totals = {"kernel_drops": 5, "unwritten": 3}
    assert kinds(watch.judge(look(2, status(2, totals=totals)))) == [Kind.DROPS, Kind.WRITES]
    assert kinds(watch.judge(look(20, status(20, totals=totals)))) == [Kind.DROPS, Kind.WRITES]
    assert kinds(watch.judge(look(40, status(40, totals=totals)))) == []


@pytest.mark.parametrize(("lost", "told"), [(0, False), (4, False), (9, False), (100, True)])
def test_losses_beyond_the_policy_are_told(lost: int, told: bool) -> None:
    watch = RunWatch(watched(max_loss=0.001))
    watch.judge(look(0, status(0)))
    totals = {"received": 10_000, "lost": lost}
    assert kinds(watch.judge(look(2, status(2, totals=totals)))) == [Kind.LOSS] * told


def test_a_disk_that_fills_ends_the_run_in_time() -> None:
    watch, ends = RunWatch(watched()), None
    for at in range(0, 200, 2):
        free = 200 * RATE - at * RATE
        judgement = watch.judge(look(at, status(at, written=at * RATE, free=free)))
        if judgement.end_because:
            ends = free / RATE
            break
    assert ends is not None and 50 <= ends < 60
    assert Kind.DISK in kinds(judgement) and NODE in judgement.end_because


COLLECTED_S, MANY = 20, 50 * RATE  # how fast an older run is collected beside this one


@pytest.mark.parametrize("fits", [True, False])
def test_a_collection_beside_it_ends_a_run_only_when_it_does_not_fit(fits: bool) -> None:
    """Head node and DAQ node are one computer with one disk, which fills fast for a moment."""
    watch = RunWatch(watched(local=frozenset({NODE}), hk_rate_bytes_s=1000.0))
    coming = COLLECTED_S * MANY if fits else 10_000 * RATE
    reasons = []
    for at in range(0, 100, 2):
        came = min(coming, max(0, at - 10) * MANY)
        free = 3000 * RATE - at * RATE - came
        judgement = watch.judge(look(
            at, status(at, written=at * RATE, free=max(0, free)), head_free_bytes=max(0, free),
            coming_bytes=coming - came if at >= 10 else 0,
        ))  # fmt: skip
        reasons.append(judgement.end_because)
    assert any(reasons) is not fits, reasons


def test_the_head_nodes_disk_and_room_to_collect() -> None:
    watch = RunWatch(watched(hk_rate_bytes_s=1000.0))
    written = 5 * RATE
    judgement = watch.judge(look(0, status(0, written=written), head_free_bytes=4 * RATE))
    assert Kind.ROOM in kinds(judgement) and not judgement.end_because
    here = RunWatch(watched(local=frozenset({NODE})))
    judgement = here.judge(look(0, status(0, written=written), head_free_bytes=4 * RATE))
    assert Kind.ROOM not in kinds(judgement)


def test_housekeeping_and_daemons() -> None:
    watch = RunWatch(watched(hk=True))
    fresh = dict.fromkeys(IPS, BEGIN)
    assert watch.judge(look(10, status(10), hk_unix=fresh)).findings == ()
    late = watch.judge(
        look(20, status(20), hk_unix={**fresh, IPS[1]: BEGIN + 19, IPS[2]: BEGIN + 19})
    )
    assert [finding.subject for finding in late.findings] == [IPS[0], IPS[3]]
    assert kinds(watch.judge(look(30, status(30), hk_unix=None, hk_problem="gone"))) == [Kind.HK]
    dead = RunWatch(watched()).judge(look(2, status(2), daemons={"hv_updater": "has died"}))
    assert kinds(dead) == [Kind.DAEMON]


# --- the log ---


def entry(at: float, what: What, kind: str, subject: str, **fields: Any) -> Entry:
    return Entry(at, what, kind, subject, "text", **fields)


def test_log_is_read_back_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    written = [
        entry(1, What.BEGIN, "watch", "r"),
        entry(9, What.RAISED, "board_silent", "a", boards=("a",), since_unix=4),
        entry(20, What.CLEARED, "board_silent", "a", boards=("a",)),
    ]
    for one in written:
        write_entry(tmp_path, one)
    with (tmp_path / "watcher.jsonl").open("a") as file:
        file.write('{"version": 1, "un')
    assert read_entries(tmp_path) == written
    assert spans(written, ("board_silent",), True, 99) == {"a": [Span(4, 20)]}
    assert read_entries(tmp_path / "absent") == []


def test_spans_that_meet_are_one_and_open_ones_last() -> None:
    log = [
        entry(9, What.RAISED, "s", "a", boards=("a",), since_unix=4),
        entry(20, What.CLEARED, "s", "a", boards=("a",)),
        entry(20, What.RAISED, "s", "module 1", boards=("a", "b"), since_unix=15),
    ]
    found = spans(log, ("s",), True, 50)
    assert found == {"a": [Span(4, 50, True)], "b": [Span(15, 50, True)]}
    assert spans(log, ("other",), True, 50) == {}


def test_resets_are_noted_once_and_again_when_they_could_not_be() -> None:
    noted: list[tuple[int, float, float]] = []
    away = False

    def note(boardloc: int, before_unix: float, after_unix: float) -> None:
        if away:
            raise ObsError("Redis is away")
        noted.append((boardloc, before_unix, after_unix))

    def see(at_s: float, **resets: int) -> None:
        notes.look(look(at_s, status(at_s, resets=resets)).nodes)

    notes = ResetNotes(note)
    see(2)
    see(4, **{IPS[1]: 1})
    see(6, **{IPS[1]: 1})
    assert noted == [(BOARDS[1].boardloc, BEGIN + 2, BEGIN + 4)]
    away = True
    see(8, **{IPS[1]: 2})
    away = False
    notes.look({NODE: NodeLook(None, 9, "no answer")})
    assert noted[1:] == [(BOARDS[1].boardloc, BEGIN + 6, BEGIN + 8)]
