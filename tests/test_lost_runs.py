"""A run that is on a DAQ node and nowhere on the head node is named, and collected all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panoseti.configs.load_configs import Site, frozen_copies, load_site
from panoseti.console import Console
from panoseti.errors import RefusedError
from panoseti.flight import FlightRecorder
from panoseti.nodes.node_types import NodeRun
from panoseti.runs import lost_runs, names, pff, run_stop
from panoseti.runs.end_recording import STOP_RECORDING, Ending, Line
from panoseti.runs.pff import BoardHeader
from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import Marker
from panoseti.runs.run_stop import StopOptions, StopReport
from panoseti.runs.status_gathering import look
from simulator.private_sshd import OperatorKeys, PrivateSshd, private_sshd
from tests.helpers import REPO
from tests.site_files import OBS, REMOVE, changed, write_site

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
OTHER_RUN = "obs_Test.start_2024-07-25T05:00:00Z.runtype_sci-data.pffd"
QUIET = FlightRecorder(None, "")
START_S = 1721882050
FRAMES = 3


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    folder = tmp_path_factory.mktemp("sshd")
    with private_sshd(folder, OperatorKeys.make(folder / "keys"), "127.0.0.2") as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, sshd: PrivateSshd) -> Site:
    """One DAQ node with its helpers; head node and node have data directories of their own."""
    head = tmp_path / "head data"
    head.mkdir()
    node = tmp_path / "node data"
    node.mkdir()
    for helper in (REPO / "daq").glob("*.py"):
        shutil.copy(helper, node)
    entry = {"ip_addr": sshd.address, "username": sshd.user, "data_dir": str(node),
             "module_ids": "0-255", "ssh_port": sshd.port}  # fmt: skip
    daq = {"head_node_ip_addr": "127.0.0.1", "head_node_data_dir": str(head), "daq_nodes": [entry]}
    obs = {**OBS, "ssh_key": str(sshd.keys.key), "ssh_known_hosts": str(sshd.keys.known_hosts)}
    obs = changed(obs, {("domes", 0, "modules", 1): REMOVE})
    return load_site(write_site(tmp_path / "configs", obs, daq), data_config=False)


def frame(number: int) -> bytes:
    board = BoardHeader(number, (START_S + 37) % 1024, number * 1_000_000, START_S, number * 1000)
    return pff.build_frame("img16", pff.Frame((board,) * 4, (0,) * 1024))


def record(site: Site, run: str = RUN, **head: Any) -> Path:
    """What a run leaves on the node; head: fields of its copy of daq_config.json."""
    (node,) = site.daq.nodes
    folder = Path(node.data_dir) / f"module_1/{run}"
    folder.mkdir(parents=True)
    path = folder / names.data_file_name(START_S, "img16", 1, 0)
    path.write_bytes(b"".join(map(frame, range(FRAMES))))
    copies = Path(node.data_dir) / run
    copies.mkdir()
    (copies / f"hp_stdout_{node.ip_addr}").write_text("words\n")
    for name, text in frozen_copies(load_site(site.command_dir)).items():
        content = json.loads(text)
        if name == "daq_config.json":
            content.update(head)
        (copies / name).write_text(json.dumps(content))
    return path


def stop(site: Site, **options: Any) -> StopReport:
    return run_stop.stop(site, StopOptions(run=RUN, **options), Console(), QUIET)


def test_it_is_collected_with_what_the_node_knows_of_it(site: Site) -> None:
    path = record(site)
    content = path.read_bytes()
    report = stop(site)
    assert report.ok and report.finished is not None and report.finished.complete, report
    folder = site.head_data_dir / RUN
    assert (folder / path.name).read_bytes() == content and not path.exists()
    assert (folder / Marker.RUN_COMPLETE).exists()
    document = read_record(folder).document
    assert document["expected"]["nodes"] == {"127.0.0.2": [1]}, "by the copies of its configs"
    assert "no record of" in report.notes[0] and RUN in report.notes[0]


def test_status_and_a_stop_of_nothing_name_it(site: Site) -> None:
    record(site)
    record(site, OTHER_RUN, head_node_ip_addr="192.0.2.9")
    (node,) = site.daq.nodes
    told = look(site, QUIET)
    advice = [text for text in told.advice if "--run" in text]
    assert len(advice) == 1 and f"on DAQ node {node.ip_addr}" in advice[0], told.advice
    assert advice[0].endswith(f"no record of it here: stop.py --run {RUN}")
    assert [one["run"] for one in told.document()["lost_runs"]] == [RUN, OTHER_RUN]
    stopping = run_stop._Stop(site, StopOptions(), Console(), QUIET)
    for ok, notes in ((False, []), (True, advice)):  # only a node that answers is asked
        line = Line(f"DAQ node {node.ip_addr}", STOP_RECORDING, "nothing ran there", ok)
        stopping._tell_lost(Ending(site, QUIET, lines=[line]))
        assert stopping._report.notes == notes


def test_that_of_another_head_node_is_left_to_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(site, head_node_ip_addr="192.0.2.9", head_node_data_dir="/their data")
    for options, answer in (({}, True), ({"force": True}, False)):
        monkeypatch.setattr(Console, "ask", lambda self, question, answer=answer: answer)
        with pytest.raises(RefusedError, match=r"another head node, 192\.0\.2\.9 \(/their data\)"):
            stop(site, **options)
        assert path.exists() and list(site.head_data_dir.glob("*.pffd")) == []
    monkeypatch.undo()
    assert stop(site, force=True, collect=False).ok and path.exists()
    assert read_record(site.head_data_dir / RUN).document["expected"]["nodes"]


@pytest.mark.parametrize(
    ("address", "data_dir", "has_it", "others"),
    [
        ("", "", False, False),  # not known: no copy of its configs
        ("127.0.0.1", "{tmp}/former disk", False, False),
        ("127.0.0.1", "{tmp}/second head", True, True),
        ("192.0.2.9", "{head}", False, True),
    ],
)
def test_whose_it_is(
    site: Site, tmp_path: Path, address: str, data_dir: str, has_it: bool, others: bool
) -> None:
    data_dir = data_dir.format(tmp=tmp_path, head=site.head_data_dir)
    if has_it:
        (Path(data_dir) / RUN).mkdir(parents=True)
        (Path(data_dir) / RUN / "run.json").touch()
    told = {"a": [NodeRun(RUN, 1, 10, address, data_dir)], "b": [NodeRun(RUN, 2, 20)]}
    (lost,) = lost_runs.lost_among(site, told)
    assert (lost.nodes, lost.size_bytes, bool(lost.head)) == (("a", "b"), 30, others)
    assert bool(lost_runs.advice([lost])) is not others


def test_what_is_known_here_in_progress_or_empty_is_not_lost(site: Site) -> None:
    told = {"a": [NodeRun(RUN, 1, 10), NodeRun(OTHER_RUN, 0, 0)]}
    assert [one.run for one in lost_runs.lost_among(site, told)] == [RUN]
    assert lost_runs.lost_among(site, told, {RUN}) == ()
    (site.head_data_dir / RUN).mkdir()
    (site.head_data_dir / RUN / "run.json").touch()
    assert lost_runs.lost_among(site, told) == ()


def test_a_run_that_nobody_has_is_refused_and_says_who_could_not_be_asked(site: Site) -> None:
    record(site, OTHER_RUN)
    with pytest.raises(RefusedError, match=rf"no run {RUN} in .*, nor on the DAQ nodes; .*: none"):
        stop(site)
    (Path(site.daq.nodes[0].data_dir) / "run_files.py").unlink()
    with pytest.raises(
        RefusedError, match=r"nor on the DAQ nodes \(127\.0\.0\.2: .*init_daq_nodes"
    ):
        stop(site)
    assert list(site.head_data_dir.glob("*.pffd")) == []
