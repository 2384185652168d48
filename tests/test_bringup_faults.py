"""The whole bring-up on bad links and with wrong boards: nothing is lost, nothing is claimed.

A sample, with 5 % of all packets lost: the bring-up that the tests of test_config_tasks.py share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panoseti.flight import read_flight
from simulator.flash import Firmware, firmware_image
from simulator.private_observatory import PrivateObservatory, private_observatory
from tests.config_calls import (
    REBOOT_TIMEOUT_S,
    config,
    lose,
    ready_in_the_end,
)

# The silver image that the boards hold and run, and the firmware that one of them says it runs.
IMAGE, IMAGE_NAME = Firmware("0208", 0x28B4667A), "quabo_0208_28b4667a.bin"


def commands_sent(observatory: PrivateObservatory) -> Counter[str]:
    """Command packets by name that config.py has sent."""
    lines = read_flight(observatory.data_dir)
    sent = [line for line in lines if line.what == "send" and line.program == "config.py"]
    return Counter(line.text.partition('command="')[2].partition('"')[0] for line in sent)


@pytest.fixture
def observatory(tmp_path: Path) -> Iterator[PrivateObservatory]:
    """Four boards as after power-on, whose QFP image the config names."""
    image = tmp_path / IMAGE_NAME
    image.write_bytes(firmware_image(IMAGE, 0x20000))
    fields: dict[str, Any] = {"firmware": {"qfp": str(image)}, "reboot_timeout_s": REBOOT_TIMEOUT_S}
    with private_observatory(
        tmp_path / "night", modules=(254,), time_scale=50, obs_fields=fields
    ) as found:
        yield found


@pytest.mark.long
def test_bad_links_and_a_board_with_other_firmware(observatory: PrivateObservatory) -> None:
    """Packets lost everywhere; answers doubled, late and out of order from some boards."""
    other, doubled, mixed, late = observatory.site.quabos
    lose(observatory, seed=7)
    with observatory.client() as client:
        client.fault(doubled, "duplicating")
        client.fault(mixed, "reordering")
        client.fault(late, "slow", delay_s=0.2)
        client.fault(other, "wrong_firmware", version="0104")
    answer = ready_in_the_end(observatory, but=[(other, "firmware")])
    count = len(observatory.site.quabos)
    sent = commands_sent(observatory)
    assert sum(sent.values()) > 12 * count, f"nothing was lost: {sent}"
    wrong = answer.json["verified"]["firmware"]["wrong"]
    assert wrong == {other: "not 0208 of 2023-05-01 03:22, as obs_config.json wants"}
    assert f"error: {other}: firmware: runs 0104 of" in answer.err
    assert "which obs_config.json names; load it: config.py --loads" in answer.err
    states = {board["ip"]: board["state"] for board in answer.json["boards"]}
    assert states.pop(other).startswith("firmware: ") and set(states.values()) == {"ready"}
    versions = config(observatory, "--firmware_versions", "--json")
    assert versions.code == 1
    assert [row["ip"] for row in versions.json["versions"] if row["odd"]] == [other]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_five_percent_of_all_packets_are_lost(tmp_path: Path, seed: int) -> None:
    """Of 64 boards, the commands, answers, TFTP and housekeeping."""
    fields = {"reboot_timeout_s": REBOOT_TIMEOUT_S}
    with private_observatory(
        tmp_path, modules=tuple(range(16)), time_scale=20, obs_fields=fields
    ) as observatory:
        lose(observatory, seed)
        ready_in_the_end(observatory)
        assert config(observatory, "--ping").code == 0
        with observatory.client() as client:
            client.fault("all", "none")
        again = config(observatory, "--json", timeout_s=110)
        assert (again.code, again.json["plan"]) == (0, []), again
