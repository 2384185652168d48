"""Random walks of what happens to boards and configs; a short one is in test_config_tasks.py.

Configs and board files are edited, boards reboot and lose power, datagrams are lost, config.py is
killed, or typed for a part of the boards, tasks are asked for alone, daemons end and die.  Whatever
came before, after one more config.py every simulated board holds what the configs ask for.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulator.private_observatory import PrivateObservatory, private_observatory
from tests.bringup_walk import walk
from tests.config_calls import config

TIME_SCALE = 50.0


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateObservatory]:
    """Eight boards in two domes, brought up."""
    folder = tmp_path_factory.mktemp("walk")
    fields = {"hk_max_age_s": 4, "reboot_timeout_s": 20}
    with private_observatory(folder, time_scale=TIME_SCALE, obs_fields=fields) as observatory:
        answer = config(observatory)
        assert answer.code == 0, answer
        yield observatory


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_long_walks(ready: PrivateObservatory) -> None:
    walk(ready, 30, 12)
