"""What an operator sees of trips and alarms, and what acknowledging says and does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panoseti.configs.load_configs import Site, load_site
from panoseti.console import Console
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder, read_flight
from panoseti.high_voltage.alarms import Alarms, read_alarms
from panoseti.high_voltage.hv_trips import REHEARSED_MODULE, TRIPS_FILE, Trip, add_trips, read_trips
from panoseti.high_voltage.safety_status import acknowledge_hv, safety_status, why_no_power
from tests.hk_records import NOW
from tests.site_files import DAQ, changed, write_site

TRIPS = [
    Trip(254, "127.0.3.248: hot", NOW, by="temperature_guard"),
    Trip(1, "HVMON shows 60 V", NOW, "127.0.0.4", "hv_updater"),
    Trip(REHEARSED_MODULE, "rehearsal: hot", NOW),
]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    daq = changed(DAQ, {("head_node_data_dir",): str(tmp_path)})
    return load_site(write_site(tmp_path / "site", daq=daq))


def test_all_quiet(site: Site) -> None:
    found = safety_status(site.head_data_dir)
    assert found.lines() == [] and found.problem == "" and why_no_power(site.head_data_dir) == {}


def test_trips_and_alarms_that_stand(site: Site) -> None:
    add_trips(site.head_data_dir, TRIPS)
    alarms = Alarms(site.head_data_dir, "hv_updater")
    alarms.hold("interlock", "", "HV is off: temperature_guard has died")
    alarms.tell("hv_trip", "module 254 is tripped")
    alarms.close()
    lines = safety_status(site.head_data_dir).lines()
    assert [line.split(" (")[0] for line in lines] == [
        "TRIPPED module 254: 127.0.3.248: hot",
        "TRIPPED 127.0.0.4: HVMON shows 60 V",
        "ALARM interlock: HV is off: temperature_guard has died",
    ]
    assert lines[0].endswith("then: config.py --ack_hv")
    assert why_no_power(site.head_data_dir).keys() == {254}


def test_acknowledging_says_what_it_takes_away(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    add_trips(site.head_data_dir, TRIPS)
    flight = FlightRecorder(site.head_data_dir, "config.py")
    acknowledge_hv(site, [254], Console(), flight)
    assert "acknowledged: module 254: 127.0.3.248: hot" in capsys.readouterr().out
    assert [trip.module_id for trip in read_trips(site.head_data_dir)] == [1, REHEARSED_MODULE]
    acknowledge_hv(site, None, Console(), flight)
    acknowledge_hv(site, None, Console(), flight)
    assert "no trip stands" in capsys.readouterr().out
    noted = [line.what for line in read_flight(site.head_data_dir)]
    assert noted.count("acknowledged") == 2
    assert [(a.source, a.kind) for a in read_alarms(site.head_data_dir)] == [
        ("config.py", "acknowledged")
    ] * 2


def test_a_broken_list_is_told_and_made_anew(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.head_data_dir / TRIPS_FILE).write_text("{")
    assert TRIPS_FILE in safety_status(site.head_data_dir).problem
    with pytest.raises(ObsError, match="no board may have HV"):
        why_no_power(site.head_data_dir)
    acknowledge_hv(site, None, Console(), FlightRecorder(None, "config.py"))
    assert "made anew: look at every board" in capsys.readouterr().err
    assert json.loads((site.head_data_dir / TRIPS_FILE).read_text())["trips"] == []
