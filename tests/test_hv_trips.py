"""What stays off until an operator has looked: the file, and who changes it."""

from __future__ import annotations

import fcntl
import json
import threading
from pathlib import Path

import pytest

from panoseti.errors import ObsError
from panoseti.high_voltage import hv_trips
from panoseti.high_voltage.hv_trips import (
    LOCK_FILE,
    REHEARSED_MODULE,
    TRIPS_FILE,
    Acknowledged,
    Trip,
    acknowledge,
    add_trips,
    read_trips,
    remove_trips,
)
from tests.hk_records import NOW

MODULE = Trip(254, 'too "hot"', NOW, by="temperature_guard")
BOARD = Trip(254, "HVMON shows 60 V", NOW + 0.5, "127.0.3.248", "hv_updater")
OTHER = Trip(1, "cold", NOW + 1)
REHEARSED = Trip(REHEARSED_MODULE, "made up", NOW)
BROKEN = [
    "", " ", '{"version": 1, "trips": [', "[]", '{"version": 9, "trips": []}', '{"version": 1}',
    '{"version": 1, "trips": [{"module_id": 254}]}', '{"version": 1, "trips": [3]}',
]  # fmt: skip


def test_read_as_written_and_kept_as_first_written(tmp_path: Path) -> None:
    assert read_trips(tmp_path) == ()
    add_trips(tmp_path, [MODULE, BOARD])
    assert read_trips(tmp_path) == (MODULE, BOARD)
    add_trips(tmp_path, [Trip(254, "later, and for another reason", NOW + 9), OTHER])
    assert read_trips(tmp_path) == (MODULE, BOARD, OTHER)
    assert str(MODULE) == 'module 254: too "hot" (since 2024-07-03T09:46:40Z)'
    assert str(BOARD).startswith("127.0.3.248: HVMON shows")


def test_acknowledged_for_all_or_for_some(tmp_path: Path) -> None:
    assert acknowledge(tmp_path) == Acknowledged(())
    assert not (tmp_path / TRIPS_FILE).exists()
    add_trips(tmp_path, [MODULE, BOARD, OTHER, REHEARSED])
    assert acknowledge(tmp_path, [254]) == Acknowledged((MODULE, BOARD))
    assert read_trips(tmp_path) == (OTHER, REHEARSED)
    assert acknowledge(tmp_path) == Acknowledged((OTHER,)), "a rehearsal is nobody's business"
    assert read_trips(tmp_path) == ()


def test_what_a_rehearsal_leaves_is_taken_away(tmp_path: Path) -> None:
    add_trips(tmp_path, [MODULE, REHEARSED])
    remove_trips(tmp_path, [REHEARSED.key])
    assert read_trips(tmp_path) == (MODULE,)


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_cannot_be_read_is_not_taken_for_no_trips(tmp_path: Path, text: str) -> None:
    (tmp_path / TRIPS_FILE).write_text(text)
    with pytest.raises(ObsError, match=f"{TRIPS_FILE}: .*no board may have HV.*--ack_hv"):
        read_trips(tmp_path)
    with pytest.raises(ObsError, match="config.py --ack_hv"):
        add_trips(tmp_path, [MODULE])
    assert (tmp_path / TRIPS_FILE).read_text() == text
    found = acknowledge(tmp_path)
    assert found.trips == () and TRIPS_FILE in found.problem
    assert read_trips(tmp_path) == ()


def test_many_who_write_at_once_lose_nothing(tmp_path: Path) -> None:
    def add(first: int) -> None:
        for number in range(first, first + 8):
            add_trips(tmp_path, [Trip(number, "hot", NOW)])

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {trip.module_id for trip in read_trips(tmp_path)} == {
        first + number for first in (0, 100, 200) for number in range(8)
    }


def test_who_holds_the_lock_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hv_trips, "LOCK_WAIT_S", 0.05)
    with (tmp_path / LOCK_FILE).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ObsError, match="held by another program"):
            add_trips(tmp_path, [MODULE])
    add_trips(tmp_path, [MODULE])


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ObsError, match="cannot be opened: No such file"):
        add_trips(tmp_path / "gone", [MODULE])
    (tmp_path / TRIPS_FILE).mkdir()
    with pytest.raises(ObsError):
        read_trips(tmp_path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    add_trips(tmp_path, [BOARD])
    document = json.loads((tmp_path / TRIPS_FILE).read_text())
    assert document["trips"] == [
        {
            "module_id": 254,
            "reason": "HVMON shows 60 V",
            "since_unix": NOW + 0.5,
            "board": "127.0.3.248",
            "by": "hv_updater",
        }
    ]
