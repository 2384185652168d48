"""The head node's process is killed, or interrupted, at every point of a start, a stop and the
collection.

After each: status.py says what was found and what to type, plain stop.py puts everything right,
every frame that reached a disk is on the head node exactly once, every packet that was sent is
recorded, and the next start works.  `tests/fault_point.py` says what a point is; the sample of the
quick tests is drawn with a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from signal import SIGHUP, SIGINT, SIGKILL, Signals

import pytest

from panoseti.runs.run_record import read_record
from tests import node_dir
from tests.faulty_site import FaultySite
from tests.typed_site import Done

SEED = 20240725


@dataclass(frozen=True)
class Way:
    """A script that gets a signal.

    phase: points are counted from the first one in it, "" = from the beginning; at_least: it has
    no fewer of them, the sample is taken among them; in_a_run: a run records when it begins;
    setting: what is wrong then.
    """

    words: tuple[str, ...]
    at_least: int
    phase: str = ""
    in_a_run: bool = False
    setting: Callable[[FaultySite], AbstractContextManager[None]] = lambda site: nullcontext()


@contextmanager
def pipeline_fails(site: FaultySite) -> Iterator[None]:
    """The start does not succeed, and is undone."""
    place, away = site.obs.node_dir / "hashpipe", site.obs.node_dir / "away"
    place.rename(away)
    try:
        node_dir.write_fake(place, node_dir.EXITS_AT_ONCE)
        yield
    finally:
        away.replace(place)


@contextmanager
def a_board_is_gone(site: FaultySite) -> Iterator[None]:
    """It may be missing."""
    path = site.obs.command_dir / "obs_config.json"
    text = path.read_text()
    policy = {"run_policy": {"may_be_missing": {"boards": 1}}}
    path.write_text(json.dumps({**json.loads(text), **policy}))
    with site.obs.private.client() as client:
        client.fault(site.obs.quabos[5], "unreachable")
    try:
        yield
    finally:
        with site.obs.private.client() as client:
            client.fault("all", "none")
        path.write_text(text)


WAYS = {
    "start": Way(("start.py",), 40),
    "stop": Way(("stop.py", "--json"), 14, in_a_run=True),
    "collect": Way(("stop.py", "--json"), 14, "collect", in_a_run=True),
    "undo": Way(("start.py",), 8, "undo", setting=pipeline_fails),
    "timed": Way(("start.py", "--nsecs", "2"), 20, "stop"),
    "background": Way(("stop.py", "--background"), 14, in_a_run=True),
    "partial": Way(("start.py", "--partial"), 40, setting=a_board_is_gone),
}
PLAIN = Way((), 0)
PHASES = ("start", "stop", "collect")
MOST = 300


def at_point(site: FaultySite, number: Signals, name: str, at: int) -> str:
    """One fault and its recovery; the point's name, "" when there are no more of these."""
    way = WAYS[name]
    before = site.begin() if way.in_a_run else site.obs.boards()
    with way.setting(site):
        done, point = site.hit(number, at, way.phase, *way.words)
    check_end(done, number, point, way)
    print(f"{at} {number.name} {point}: {done.code}", flush=True)
    site.recover(before)
    return "" if name == "stop" and point.startswith("collect") else point


def check_end(done: Done, number: Signals, point: str, way: Way) -> None:
    """How a script ends that got a signal at this point; "" = it got none."""
    assert "Traceback" not in done.err, (point, done)
    code = 1 if way.setting is pipeline_fails else 0
    if not point:
        assert done.code == code, done
    elif number is SIGKILL:
        assert done.code == -SIGKILL, (point, done)
    else:  # held off where an act must come to its end
        assert done.code in (code, 128 + number), (point, done)


def sweep(site: FaultySite, number: Signals, phase: str) -> None:
    """Every point in turn; all that fail are told in the end."""
    failed: list[str] = []
    at = 0
    for at in range(1, MOST):
        try:
            point = at_point(site, number, phase, at)
            if not point:
                break
        except AssertionError as error:
            failed.append(f"{phase} {at}: {error}")
            print(f"FAILED: {failed[-1]}", flush=True)
            site.obs.stop_here(force=True)
            site.forget()
    else:
        pytest.fail(f"{phase} has no end")
    assert not failed, "\n\n".join(failed)
    assert at > WAYS[phase].at_least, at


@pytest.mark.parametrize("phase", [*PHASES, "undo"])
def test_killed_at_some_point(site: FaultySite, phase: str) -> None:
    at = random.Random(f"{SEED} {phase}").randint(1, WAYS[phase].at_least)
    assert at_point(site, SIGKILL, phase, at), f"{phase} has fewer than {at} points"


def test_interrupted_at_some_point(site: FaultySite) -> None:
    draw = random.Random(SEED)
    phase, number = draw.choice(PHASES), draw.choice([SIGINT, SIGHUP])
    at = draw.randint(1, WAYS[phase].at_least)
    assert at_point(site, number, phase, at), f"{phase} has fewer than {at} points"


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("phase", WAYS)
def test_killed_at_every_point(site: FaultySite, phase: str) -> None:
    sweep(site, SIGKILL, phase)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [SIGINT, SIGHUP], ids=["Ctrl-C", "SIGHUP"])
@pytest.mark.parametrize("phase", WAYS)
def test_interrupted_at_every_point(site: FaultySite, phase: str, number: Signals) -> None:
    sweep(site, number, phase)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [SIGINT, SIGHUP], ids=["Ctrl-C", "SIGHUP"])
def test_status_interrupted_at_every_point(site: FaultySite, number: Signals) -> None:
    """Nothing has changed."""
    at = 0
    for at in range(1, MOST):
        done, point = site.hit(number, at, "", "status.py")
        check_end(done, number, point, PLAIN)
        if not point:
            break
    assert at > 2, "a node is asked"
    assert site.obs.is_idle() and site.obs.runs() == []


SIGNALS = (SIGINT, SIGHUP, SIGKILL)


def bring_up_interrupted(site: FaultySite, number: Signals, at: int) -> str:
    """Reboot and all that follows; the point's name, "" when there are not so many."""
    done, point = site.hit(number, at, "", "config.py", "--redo", "reboot")
    check_end(done, number, point, PLAIN)
    print(f"{at} {number.name} {point}: {done.code}", flush=True)
    return point


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shift", range(len(SIGNALS)))
def test_bring_up_interrupted_at_every_point(site: FaultySite, shift: int) -> None:
    """Signals by turns.  Typed again it goes on, and a run can be recorded."""
    for at in range(1, MOST):
        if not bring_up_interrupted(site, SIGNALS[(at + shift) % len(SIGNALS)], at):
            break
    else:
        pytest.fail("config.py has no end")
    assert at > 30, at
    done = site.obs.type("config.py")
    assert done.code == 0, done
    site.recover(site.begin())


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [SIGINT, SIGHUP], ids=["Ctrl-C", "SIGHUP"])
def test_qc_interrupted_at_every_packet(
    site: FaultySite, number: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board obeys as before, and nothing is locked."""
    monkeypatch.setenv("FAULT_SENDS", "")
    words = (site.obs.quabos[0], "AM", "0", "999", "0", "0", "1", "UID", "HK", "UID")
    reached = []
    for at in range(1, MOST):
        done, point = site.hit(number, at, "", "qc.py", *words)
        check_end(done, number, point, PLAIN)
        if not point:
            break
        reached.append(point)
    assert any("send" in point for point in reached) and len(reached) >= 3, reached
    monkeypatch.delenv("FAULT_SENDS")
    site.recover(site.begin())


@pytest.mark.long
def test_the_points_are_those_of_the_record(site: FaultySite) -> None:
    """What is swept is every act's intent and result: none is left out."""
    before = site.obs.boards()
    done, _ = site.hit(SIGKILL, MOST, "", "start.py")
    assert done.code == 0, done
    reached = (site.folder / "points").read_text().splitlines()
    steps = read_record(site.obs.head_dir / site.run).document["steps"]
    assert len(steps) > 8
    for step in steps:
        assert any(f"last {step['what']}" in line for line in reached), step["what"]
    stores = [line for line in reached if "run.json" in line]
    assert len(stores) >= 2 * len(steps), "an intent and a result each"
    site.recover(before)


@pytest.mark.long
def test_a_file_that_is_lost_is_noticed(site: FaultySite) -> None:
    """The sweep's own eyes, of what a stop or a collection would delete before the signal."""
    before = site.begin()
    run_dir = site.obs.head_dir / site.run
    assert site.obs.type("stop.py").code == 0
    site.check_all_sent_is_there(before)
    images = run_dir.glob("*.dp_img16.*.module_1.*")
    max(images, key=lambda path: path.stat().st_size).unlink()
    with pytest.raises(AssertionError, match="frames are gone"):
        site.witness.check()
    with pytest.raises(AssertionError):
        site.check_all_sent_is_there(before)
    site.forget()
