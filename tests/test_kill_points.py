"""The head node's process is killed, or interrupted, at every point of a start, a stop and the
collection.

After each: status.py says what was found and what to type, plain stop.py puts everything right,
every frame that reached a disk is on the head node exactly once, every packet that was sent is
recorded, and the next start works.  `tests/fault_point.py` says what a point is; the sample of the
quick tests is drawn with a seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from signal import SIGHUP, SIGINT, SIGKILL, Signals

import pytest

from panoseti.runs.run_record import read_record
from tests.faulty_site import FaultySite, faulty_site
from tests.typed_site import Done

SEED = 20240725
# Phase -> a script is to have no fewer points in it than this; the sample is taken among them.
AT_LEAST = {"start": 40, "stop": 14, "collect": 14}
MOST = 300
BRING_UP_POINTS = 12  # that many of some hundred are enough


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySite]:
    """The observatory after config.py."""
    with faulty_site(tmp_path_factory.mktemp("kill points")) as found:
        yield found


@pytest.fixture
def site(built: FaultySite) -> Iterator[FaultySite]:
    """The same, idle before and after each test."""
    with built.case():
        yield built


def at_point(site: FaultySite, number: Signals, phase: str, at: int) -> str:
    """One fault and its recovery; the point's name, "" when there are no more in this phase."""
    if phase == "start":
        before = site.obs.boards()
        done, point = site.hit(number, at, "", "start.py")
    else:
        before = site.begin()
        first = "collect" if phase == "collect" else ""
        done, point = site.hit(number, at, first, "stop.py", "--json")
    check_end(done, number, point)
    site.recover(before)
    return "" if phase == "stop" and point.startswith("collect") else point


def check_end(done: Done, number: Signals, point: str) -> None:
    """How a script ends that got a signal at this point; "" = it got none."""
    assert "Traceback" not in done.err, (point, done)
    if not point:
        assert done.code == 0, done
    elif number is SIGKILL:
        assert done.code == -SIGKILL, (point, done)
    else:  # held off where an act must come to its end
        assert done.code in (0, 128 + number), (point, done)


def sweep(site: FaultySite, number: Signals, phase: str) -> None:
    """Every point in turn; all that fail are told in the end."""
    failed: list[str] = []
    at = 0
    for at in range(1, MOST):
        try:
            point = at_point(site, number, phase, at)
            if not point:
                break
            print(f"{at} {point}", flush=True)
        except AssertionError as error:
            failed.append(f"{phase} {at}: {error}")
            print(f"FAILED: {failed[-1]}", flush=True)
            site.obs.stop_here(force=True)
            site.forget()
    else:
        pytest.fail(f"{phase} has no end")
    assert not failed, "\n\n".join(failed)
    assert at > AT_LEAST[phase], at


@pytest.mark.parametrize("phase", AT_LEAST)
def test_killed_at_some_point(site: FaultySite, phase: str) -> None:
    at = random.Random(f"{SEED} {phase}").randint(1, AT_LEAST[phase])
    assert at_point(site, SIGKILL, phase, at), f"{phase} has fewer than {at} points"


def test_interrupted_at_some_point(site: FaultySite) -> None:
    draw = random.Random(SEED)
    phase, number = draw.choice(list(AT_LEAST)), draw.choice([SIGINT, SIGHUP])
    at = draw.randint(1, AT_LEAST[phase])
    assert at_point(site, number, phase, at), f"{phase} has fewer than {at} points"


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("phase", AT_LEAST)
def test_killed_at_every_point(site: FaultySite, phase: str) -> None:
    sweep(site, SIGKILL, phase)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [SIGINT, SIGHUP], ids=["Ctrl-C", "SIGHUP"])
@pytest.mark.parametrize("phase", AT_LEAST)
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
        check_end(done, number, point)
        if not point:
            break
    assert at > 2, "a node is asked"
    assert site.obs.is_idle() and site.obs.runs() == []


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [SIGINT, SIGHUP, SIGKILL], ids=["Ctrl-C", "SIGHUP", "SIGKILL"])
def test_bring_up_interrupted(site: FaultySite, number: Signals) -> None:
    """Typed again it goes on, and a run can be recorded."""
    draw = random.Random(f"{SEED} {number}")
    for at in sorted(draw.sample(range(1, 120), BRING_UP_POINTS)):
        done, point = site.hit(number, at, "", "config.py")
        check_end(done, number, point)
        print(f"{at} {point}: {done.code}", flush=True)
    done = site.obs.type("config.py")
    assert done.code == 0, done
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
