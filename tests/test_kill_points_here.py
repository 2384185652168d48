"""As test_kill_points.py, where the DAQ node is the head node: its files are moved, or copied from
another disk.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from signal import SIGKILL

import pytest

from tests.faulty_site import FaultySite, faulty_site
from tests.test_kill_points import PHASES, SEED, WAYS, at_point, sweep
from tests.typed_site import Shape


@pytest.fixture(scope="module", params=[Shape.OTHER_DISK, Shape.SHARED], ids=lambda s: s.value)
def built_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultySite]:
    """Head node and DAQ node are one computer: files are moved, or copied from another disk."""
    with faulty_site(tmp_path_factory.mktemp("kill points"), request.param) as found:
        yield found


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("phase", PHASES)
def test_killed_at_every_point_in_one_computer(site: FaultySite, phase: str) -> None:
    sweep(site, SIGKILL, phase)


@pytest.mark.long
@pytest.mark.parametrize("phase", PHASES)
def test_killed_at_some_point_in_one_computer(site: FaultySite, phase: str) -> None:
    at = random.Random(f"{SEED} {phase}").randint(1, WAYS[phase].at_least)
    assert at_point(site, SIGKILL, phase, at), f"{phase} has fewer than {at} points"
