"""A run.json whose fields have other types than they should: set aside, never a traceback.

Every field in turn has each of some wrong values, and the run is then stopped, collected, judged
and looked at as stop.py and status.py do.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panoseti.configs.load_configs import Site, frozen_copies, load_site
from panoseti.console import Console
from panoseti.flight import FlightRecorder
from panoseti.nodes import node_documents
from panoseti.nodes.node_documents import parsed
from panoseti.runs import run_finish, run_stop, status_gathering
from panoseti.runs.end_recording import Ending
from panoseti.runs.run_part import left_out, never_asked
from panoseti.runs.run_record import RUN_JSON, VERSION
from panoseti.runs.run_state import Holder, Marker
from panoseti.runs.run_stop import StopOptions
from panoseti.runs.run_summary import summarize
from tests.site_files import DAQ, write_site
from tests.test_run_summary import account, frame, write_file

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
QUIET = FlightRecorder(None, "")
NODE = "192.168.1.101"
STEP = {"by": "x", "intent_unix": 1721882047.0, "result_unix": 1721882048.0, "ok": True, "text": ""}
DOCUMENT: dict[str, Any] = {
    "version": VERSION, "run": RUN, "owner": "a@b[1]", "token": "t-1", "command_dir": "/x",
    "argv": ["start.py"], "software": {"a": "b"}, "started_unix": 1721882046.0,
    "recording_unix": 1721882050.0, "planned_end_unix": None, "ended_unix": 1721882060.0,
    "expected": {
        "quabos": ["192.168.0.4"], "nodes": {NODE: [1]}, "absent": ["192.168.0.6"],
        "missing": {"192.168.0.5": "mute"},
    },
    "steps": [
        {**STEP, "phase": "start", "what": "record", "subject": NODE},
        {**STEP, "phase": "stop", "what": "stop recording", "subject": NODE},
    ],
    "collect_asked": {"unix": 1.0, "cleanup": True},
    "collection": [{
        "unix": 1.0, "by": "x", "cleanup": True, "cuts": [], "problems": ["a"],
        "nodes": [{"node": NODE, "failed": [["p", "why"]]}],
    }],
    "verdict": None,
}  # fmt: skip
GONE = "field is gone"
WRONG: tuple[Any, ...] = (
    None, True, 1, float("inf"), float("nan"), "x", [], {}, [1], [["x"]], {"a": 1}, GONE,
)  # fmt: skip


def places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where all its members are, at any depth."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for name, member in members:
        yield (*place, name)
        if isinstance(member, dict | list):
            yield from places(member, (*place, name))


CASES = [(place, wrong) for place in places(DOCUMENT) for wrong in WRONG]


def spoiled(place: tuple[str | int, ...], wrong: Any) -> dict[str, Any]:
    """The record with one wrong value."""
    document = copy.deepcopy(DOCUMENT)
    at: Any = document
    for name in place[:-1]:
        at = at[name]
    if wrong is GONE:
        del at[place[-1]]
    else:
        at[place[-1]] = wrong
    return document


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """With one run, which is collected; nothing here is to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    folder = tmp_path / "data" / RUN
    folder.mkdir(parents=True)
    daq = {**DAQ, "head_node_data_dir": str(tmp_path / "data"), "head_node_ip_addr": "127.0.0.1"}
    site = load_site(write_site(tmp_path / "configs", daq=daq))
    for name, text in frozen_copies(site).items():
        (folder / name).write_text(text)
    write_file(folder, 1, [frame(number) for number in range(3)])
    (folder / f"hp_status_{NODE}.json").write_text(account({(1, "img16"): 3}))
    return site


def stop_and_look(site: Site) -> None:
    """All that is done with a record, but for what needs a node."""
    status_gathering._open_runs(site.head_data_dir, None)
    status_gathering._run_status(site.head_data_dir, Holder(RUN))
    stopping = run_stop._Stop(site, StopOptions(run=RUN), Console(), QUIET)
    stopping._broken_off()
    record = stopping._record(RUN)
    assert record is not None
    ending = Ending(site, QUIET, record)
    ending.boards()
    ending.nodes_of_run()
    ending._left_out(left_out)
    ending._left_out(never_asked)
    run_finish.finish(site, record, [], True, True, [], Console(), QUIET)


def try_all(site: Site, cases: list[tuple[tuple[str | int, ...], Any]]) -> None:
    folder = site.head_data_dir / RUN
    for place, wrong in cases:
        (folder / RUN_JSON).write_text(json.dumps(spoiled(place, wrong)))
        for marker in Marker:
            (folder / marker).unlink(missing_ok=True)
        try:
            stop_and_look(site)
        except Exception as error:
            raise AssertionError(f"{place} = {wrong!r}: {error!r}") from error


KNOWN: tuple[tuple[tuple[str | int, ...], Any], ...] = (
    (("started_unix",), "x"),
    (("expected", "quabos", 0), "x"),
    (("expected", "nodes", NODE, 0), []),
    (("steps", 0, "subject"), []),
    (("steps", 1, "intent_unix"), None),
    (("collection", 0, "nodes", 0, "node"), {}),
    (("collection", 0, "nodes", 0, "failed"), None),
    (("collection", 0, "nodes", 0, "failed", 0, 1), GONE),
)
"""Each of these was a traceback once."""


def test_a_record_with_a_field_of_another_type(site: Site) -> None:
    try_all(site, [*KNOWN, *random.Random(5).sample(CASES, 10)])


@pytest.mark.parametrize("field", ["frames", "received", "last_packet_unix", "totals"])
def test_an_account_with_a_number_beyond_all_numbers(site: Site, field: str) -> None:
    """Python reads and writes Infinity as JSON, and cannot make a whole number of it."""
    path = site.head_data_dir / RUN / f"hp_status_{NODE}.json"
    document = json.loads(path.read_text())
    for group in ("products", "quabos"):
        for entry in document[group]:
            entry |= {field: float("inf")} if field in (*entry, "last_packet_unix") else {}
    if field == "totals":
        document["totals"] = dict.fromkeys(document["totals"], float("inf"))
    path.write_text(json.dumps(document))
    (problem, *_) = summarize(site.head_data_dir / RUN).problems
    assert problem.startswith(f"{path.name}: no account of a pipeline (")


def test_an_answer_of_a_node_with_a_number_beyond_all_numbers() -> None:
    """Which ended the thread that asks the node again and again."""
    with pytest.raises(ValueError, match="infinity"):
        parsed(
            node_documents.node_runs, {"runs": [{"run": RUN, "files": float("inf"), "bytes": 0}]}
        )


@pytest.mark.long
def test_a_record_with_any_field_of_any_other_type(site: Site) -> None:
    try_all(site, CASES)
