"""What a run holds, the verdict on it, and how long the disks last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from panoseti.configs.load_configs import load_site
from panoseti.console import Console
from panoseti.errors import RefusedError
from panoseti.flight import FlightRecorder
from panoseti.runs import pff, run_finish, run_state, run_summary
from panoseti.runs.collect import NodeResult
from panoseti.runs.disk_room import Volume, duration_text, refuse_or_warn, size_text
from panoseti.runs.file_checks import check_files
from panoseti.runs.lost_record import rebuilt_document
from panoseti.runs.names import data_file_name
from panoseti.runs.pff import BoardHeader, Frame
from panoseti.runs.run_finish import Finished
from panoseti.runs.run_part import RECORD
from panoseti.runs.run_record import LOST, RunRecord, Verdict, read_record
from panoseti.runs.run_state import Marker
from panoseti.runs.run_summary import ProductRow, QuaboSums, RunSummary, summarize
from panoseti.runs.run_verdict import judge
from panoseti.runs.watch_log import Span
from tests.site_files import DAQ, DATA, OBS, write_site

START_S = 1721882050
HOUR_S = 3600.0


def frame(number: int, product: str = "img16", boards: Sequence[int] = (0, 1, 2, 3)) -> bytes:
    """Frame of 1 ms number `number`; PH frames are of one board."""
    second, ms = divmod(number, 1000)
    unix_s = START_S + second
    header = BoardHeader(number, (unix_s + 37) % 1024, ms * 1_000_000, unix_s, ms * 1000)
    facts = pff.PRODUCTS[product]
    pixels = (number % 100,) * facts.side**2
    return pff.build_frame(
        product, Frame(tuple(header if q in boards else None for q in range(4)), pixels)
    )


def write_file(
    folder: Path, module: int, frames: Sequence[bytes], product: str = "img16", seqno: int = 0
) -> Path:
    path = folder / data_file_name(START_S + seqno, product, module, seqno)
    path.write_bytes(b"".join(frames))
    return path


def account(products: Mapping[tuple[int, str], int], lost: int = 0, **fields: Any) -> str:
    totals = dict.fromkeys(("received", "recorded", "rejected", "lost", "kernel_drops",
                            "unwritten"), 0)  # fmt: skip
    return json.dumps(
        {
            "state": "ended",
            "totals": totals,
            "products": [
                {"module": module, "product": product, "frames": frames, "partial": 1}
                for (module, product), frames in products.items()
            ],
            "quabos": [
                {
                    "module": module,
                    "quabo": quabo,
                    "mode": 2,
                    "received": 9,
                    "recorded": 9,
                    "lost": lost,
                    "unwritten": 0,
                }
                for module in {module for module, _ in products}
                for quabo in range(4)
            ],  # fmt: skip
            "errors": [],
            **fields,
        }
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Module 1: ms 0..9 without 5, one frame partial, in two files; module 254: pulse heights."""
    folder = tmp_path / "obs_Test.start_2024-07-25T04:34:06Z.runtype_test.pffd"
    write_site(folder, data={**DATA, "image": {**DATA["image"], "integration_time_usec": 1000}})
    numbers = [number for number in range(10) if number != 5]
    frames = [frame(n, boards=(0, 1, 2) if n == 7 else (0, 1, 2, 3)) for n in numbers]
    write_file(folder, 1, frames[:4])
    write_file(folder, 1, frames[4:], seqno=1)
    write_file(folder, 254, [frame(3, "ph256", (2,)), frame(8, "ph256", (0,))], "ph256")
    write_file(folder, 254, [])
    hk = [("QUABO_4", 1), ("QUABO_1016", 2), ("WRSWITCH", 3), ("QUABO_4", 4)]
    lines = [json.dumps({key: {"Computer_UTC": str(START_S + at)}}) for key, at in hk]
    (folder / "hk.pff").write_text("".join(f"{line}\n\n" for line in lines))
    products = {(1, "img16"): 9, (254, "ph256"): 2}
    (folder / "hp_status_10.0.0.1.json").write_text(account(products))
    return folder


def write_record(run_dir: Path, **fields: Any) -> None:
    """A run.json with all that a record must have."""
    document: dict[str, Any] = {
        "version": 1, "run": run_dir.name, "steps": [], "recording_unix": None,
        "planned_end_unix": None, "ended_unix": None, "collection": None,
        "expected": {"quabos": [], "nodes": {}, "absent": []},
    }  # fmt: skip
    (run_dir / "run.json").write_text(json.dumps({**document, **fields}))


@pytest.mark.parametrize("check_all", [True, False])
def test_frames_are_counted_and_the_missing_one_is_seen(run_dir: Path, check_all: bool) -> None:
    summary = summarize(run_dir, HOUR_S if check_all else 0.0)
    assert summary.checked_all is check_all and summary.problems == ()
    image, ph = summary.rows
    size = 9 * pff.PRODUCTS["img16"].frame_bytes
    words = "all 11 frames" if check_all else "6 of 11 frames"
    assert summary.checked.startswith(words) and summary.document()["checked"] == summary.checked
    looked_at = 9 if check_all else 4  # the first and the last of each file
    assert image == ProductRow(1, "img16", 10, 9, 1, 1, size, 2, looked_at)
    assert (ph.module, ph.product, ph.expected, ph.recorded, ph.lost) == (254, "ph256", None, 2, 0)
    assert summary.hk_records == {1: 2, 254: 1}
    assert summary.quabos[1, 3] == QuaboSums(received=9, recorded=9, lost=0)
    assert summary.table()[0] == [1, "img16", 10, 9, 1, 1, 2]
    assert len(summary.table()[0]) == len(run_summary.COLUMNS)
    assert json.loads(json.dumps(summary.document()))["run"] == run_dir.name
    first = run_summary.first_file(run_dir, pff.IMAGE_PRODUCTS)
    assert first is not None and first.endswith("module_1.seqno_0.pff")
    assert run_summary.first_file(run_dir, ("ph1024",)) is None


def test_every_frame_of_a_large_run_is_looked_at(tmp_path: Path) -> None:
    """One digit of one frame among many is wrong."""
    size = pff.PRODUCTS["ph256"].frame_bytes
    content = bytearray(b"".join(frame(n, "ph256", (0,)) for n in range(12_000)))
    content[7_777 * size + 30] = ord("x")
    path = write_file(tmp_path, 1, [bytes(content)], "ph256")
    (check,) = check_files(tmp_path, None, None, HOUR_S)
    assert check.checked_all and check.looked_at == 12_000
    (problem,) = check.problems
    assert problem.startswith(f"{path.name}: 1 of 12000 frames damaged: frame 7777 at byte ")
    (check,) = check_files(tmp_path, None, None, 0.0)
    assert 0 < check.looked_at < 100 and check.problems == []
    assert (check.first_unix_ns, check.last_unix_ns) == (
        START_S * 10**9,
        (START_S + 12) * 10**9 - 10**6,
    )


def test_what_is_wrong_is_told(run_dir: Path) -> None:
    path = sorted(run_dir.glob("*module_1.seqno_1.pff"))[0]
    content = bytearray(path.read_bytes())
    content[30] = ord("x")
    path.write_bytes(content + b"torn")
    (run_dir / "hp_status_10.0.0.2.json").write_text("{")
    products = {(1, "img16"): 10, (254, "ph256"): 2, (7, "img8"): 3}
    text = account(products, state="running", errors=["disk full"])
    (run_dir / "hp_status_10.0.0.1.json").write_text(text)
    (run_dir / "data_config.json").write_text("{")
    problems = "\n".join(summarize(run_dir).problems)
    for part in (
        "data_config.json", "hp_status_10.0.0.2.json: no account", "did not end by itself",
        "disk full", "4 bytes after the last whole frame", "1 of 5 frames damaged",
        "9 img16 frames in the files, 10 in the", "module 7: no img8 file for 3",
    ):  # fmt: skip
        assert part in problems, problems


def test_a_killed_pipeline_has_written_more_than_it_told(run_dir: Path) -> None:
    products = {(1, "img16"): 6, (254, "ph256"): 2}
    status = run_dir / "hp_status_10.0.0.1.json"
    status.write_text(account(products))
    assert any("9 img16 frames in the files, 6" in text for text in summarize(run_dir).problems)
    part = run_dir / "hp_status_10.0.0.1.part_1.json"
    part.write_text(account({(1, "img16"): 4, (254, "ph256"): 1}, state="running"))
    status.write_text(account({(1, "img16"): 3, (254, "ph256"): 1}))
    summary = summarize(run_dir)
    assert summary.problems == () and summary.restarts == {"10.0.0.1": 1}


def test_frames_outside_the_run_and_out_of_order(run_dir: Path) -> None:
    first, second = sorted(run_dir.glob("*dp_img16*.module_1.*"))
    first_content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_content)
    write_record(run_dir, started_unix=START_S + 60, ended_unix=START_S + 90)
    problems = "\n".join(summarize(run_dir).problems)
    assert "begins earlier than the file before it ends" in problems
    assert "module 1: img16 frames of 60 s before the run began" in problems


def test_a_node_that_died_and_a_board_that_fell_silent_are_told_without_a_watcher(
    run_dir: Path,
) -> None:
    """From the accounts alone; what comes after the stop was begun does not count."""
    ips = [f"192.168.0.{last}" for last in (4, 5, 6, 7)]
    stop = {
        "phase": "stop", "what": "stop", "subject": "", "intent_unix": START_S + 60.0,
        "result_unix": START_S + 90.0, "ok": True,
    }  # fmt: skip
    write_record(
        run_dir, steps=[stop], started_unix=START_S, recording_unix=START_S,
        ended_unix=START_S + 90.0, expected={"quabos": ips, "nodes": {}, "absent": []},
    )  # fmt: skip
    node = run_dir / "hp_status_192.168.1.101.json"
    (run_dir / "hp_status_10.0.0.1.json").unlink()
    products = {(1, "img16"): 9}

    def written(updated: float, silent_since: float) -> RunSummary:
        content = json.loads(account(products, updated_unix=START_S + updated))
        for entry in content["quabos"]:
            quiet = entry["quabo"] == 2
            entry["last_packet_unix"] = START_S + (silent_since if quiet else updated)
        node.write_text(json.dumps(content))
        return summarize(run_dir)

    found = written(55, 50)
    assert found.outages == {} and found.silent == {}
    found = written(61, 20)
    (span,) = found.silent[ips[2]]
    assert span == Span(START_S + 20, START_S + 60, lasting=True) and found.outages == {}
    found = written(30, 29)
    assert found.outages == {"192.168.1.101": [Span(START_S + 30, START_S + 60, lasting=True)]}
    assert found.silent == {}
    verdict, reasons = judge(json.loads((run_dir / "run.json").read_text()), found, [])
    assert verdict is Verdict.PARTIAL
    assert reasons[0] == "192.168.1.101: its pipeline did not work for 30 s, until the end"


@pytest.mark.parametrize(
    ("longest_gap_s", "ended_unix", "silent"), [(0.5, 60, True), (30, 60, False), (0.5, 48, False)]
)
def test_pulse_heights_that_ceased_are_told_without_a_watcher(
    run_dir: Path, longest_gap_s: float, ended_unix: float, silent: bool
) -> None:
    """By what the account says of the pauses that the board made before."""
    write_site(run_dir, data={name: of for name, of in DATA.items() if name != "image"})
    write_record(
        run_dir, started_unix=START_S, recording_unix=START_S, ended_unix=START_S + ended_unix,
        expected={"quabos": ["192.168.0.6"], "nodes": {}, "absent": []},
    )  # fmt: skip
    (run_dir / "hp_status_10.0.0.1.json").unlink()
    content = json.loads(account({(1, "ph256"): 9}, updated_unix=START_S + 60.0))
    for entry in content["quabos"]:
        entry |= {
            "mode": 1, "last_packet_unix": START_S + 40.0, "first_packet_age_s": 60.0,
            "last_packet_age_s": 20.0, "longest_gap_s": longest_gap_s,
        }  # fmt: skip
    (run_dir / "hp_status_192.168.1.101.json").write_text(json.dumps(content))
    span = Span(START_S + 40, START_S + ended_unix, lasting=True)
    assert summarize(run_dir).silent == ({"192.168.0.6": [span]} if silent else {})


# --- the verdict ---

EXPECTED = ("192.168.0.4", "192.168.0.5")


def document(**fields: Any) -> dict[str, Any]:
    return {
        "expected": {"quabos": list(EXPECTED), "nodes": {}, "absent": []},
        "steps": [{"phase": "start"}],
        "recording_unix": 1.0,
        **fields,
    }


def summary_of(**fields: Any) -> RunSummary:
    values: dict[str, Any] = {
        "run": "r",
        "rows": (ProductRow(1, "img16", 10, 10, 0, 3, 1, 1),),
        "hk_records": {},
        "quabos": {(1, 0): QuaboSums(5, 5), (1, 1): QuaboSums(5, 5)},
        "rejected": 4,
        "kernel_drops": 0,
        "unwritten": 0,
        "problems": (),
        "checked_all": True,
    }
    return RunSummary(**{**values, **fields})


RECORD_LOST = {"recording_unix": None, "steps": [{"phase": "stop"}]}
FRAME_LOST = ProductRow(1, "img16", 10, 9, 1, 0, 1, 1)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...], Verdict, str]] = {
    "good": ({}, {}, (), Verdict.GOOD, ""),
    "a frame lost": ({}, {"rows": (FRAME_LOST,)}, (), Verdict.LOSSY, "1 of 10 img16 frames lost"),
    "a packet lost": (
        {}, {"quabos": {(1, 0): QuaboSums(5, 5, 2), (1, 1): QuaboSums(5, 5)}}, (), Verdict.LOSSY,
        "2 packets lost on the way"),
    "the kernel dropped": (
        {}, {"kernel_drops": 3, "drops": {"daq1": 3}}, (), Verdict.LOSSY,
        "daq1: 3 packets dropped by the kernel"),
    "not written": ({}, {"unwritten": 3}, (), Verdict.LOSSY, "3 packets not written"),
    "a damaged file": ({}, {"problems": ("x: torn",)}, (), Verdict.LOSSY, "x: torn"),
    "frames that were written and are not there": (
        {}, {"problems": ("6 in the files, 9 in the account",),
             "missing": ("6 in the files, 9 in the account",)}, (), Verdict.PARTIAL,
        "6 in the files, 9 in the account"),
    "no account": ({}, {"quabos": {}}, (), Verdict.LOSSY, "no pipeline left an account"),
    "a silent board": (
        {}, {"quabos": {(1, 0): QuaboSums(5, 5)}}, (), Verdict.PARTIAL, "no data of 192.168.0.5"),
    "a dead node": ({}, {}, ("daq2: dead",), Verdict.PARTIAL, "daq2: dead"),
    "nothing": ({}, {"rows": ()}, (), Verdict.FAILED, "no frame was recorded"),
    "nothing, and that was to be expected": (
        {}, {"rows": (), "quabos": {}, "quiet": True}, (), Verdict.PARTIAL,
        "no data of 192.168.0.4, 192.168.0.5"),
    "nothing in a start that failed": (
        {"recording_unix": None}, {"rows": (), "quabos": {}, "quiet": True}, (), Verdict.FAILED,
        "the start failed, or was broken off"),
    "nothing, and a lost record": (
        {**RECORD_LOST, LOST: "x"}, {"rows": (), "quiet": True}, (), Verdict.FAILED,
        "no frame was recorded"),
    "a failed start": (
        {"recording_unix": None}, {}, (), Verdict.FAILED, "the start failed, or was broken off"),
    "housekeeping alone": (
        {"expected": {"quabos": [], "nodes": {}, "absent": []}},
        {"rows": (), "quabos": {}}, (), Verdict.GOOD, ""),
    "a lost record": (
        {**RECORD_LOST, LOST: "run.json was missing"}, {}, (), Verdict.PARTIAL,
        "the record was lost (run.json was missing)"),
    "a lost record, and a silent board": (
        {**RECORD_LOST, LOST: "x"}, {"quabos": {(1, 0): QuaboSums(5, 5)}}, (), Verdict.PARTIAL,
        "no data of 192.168.0.5"),
    "a lost record, and no configs": (
        {**RECORD_LOST, LOST: "x", "expected": {"quabos": [], "nodes": {}, "absent": []}}, {}, (),
        Verdict.PARTIAL, "and with it what was expected"),
    "a lost record, and no frame": (
        {**RECORD_LOST, LOST: "x"}, {"rows": ()}, (), Verdict.FAILED, "no frame was recorded"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case: str) -> None:
    fields, found, missing, verdict, reason = CASES[case]
    judged, reasons = judge(document(**fields), summary_of(**found), missing)
    assert judged is verdict
    assert any(reason in text for text in reasons) if reason else reasons == []


@pytest.mark.parametrize(
    ("changes", "quiet"),
    [
        ({}, True),
        ({"policy": False}, False),
        ({"image": {"integration_time_usec": 1000, "quabo_sample_size": 16}}, False),
        ({"received": 1}, False),
        ({"state": "running"}, False),
        ({"nodes": 2}, False),
    ],
)
def test_silence_is_expected_where_the_policy_says_so_and_all_have_listened(
    tmp_path: Path, changes: dict[str, Any], quiet: bool
) -> None:
    data = {**DATA, "image": changes.get("image")}
    write_site(
        tmp_path,
        obs={**OBS, "run_policy": {"ph_may_be_quiet": changes.get("policy", True)}},
        data={key: value for key, value in data.items() if value is not None},
    )
    nodes = [f"10.0.0.{last}" for last in range(1, 1 + changes.get("nodes", 1))]
    write_record(tmp_path, expected={"quabos": ["192.168.0.4"], "nodes": dict.fromkeys(nodes, [1])})
    told = json.loads(account({}, state=changes.get("state", "ended")))
    told["totals"]["received"] = changes.get("received", 0)
    (tmp_path / "hp_status_10.0.0.1.json").write_text(json.dumps(told))
    assert summarize(tmp_path).quiet is quiet


# --- a run whose run.json was lost ---


def test_what_was_expected_is_told_from_the_frozen_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert rebuilt_document(folder, "x")["expected"]["quabos"] == (), "no configs: not known"
    write_site(folder, daq={**DAQ, "head_node_data_dir": str(tmp_path)})
    found = rebuilt_document(folder, "run.json was missing")
    assert found["run"] == "run" and found[LOST] == "run.json was missing"
    boards = [f"192.168.0.{last}" for last in (4, 5, 6, 7)]
    boards += [f"192.168.3.{last}" for last in (248, 249, 250, 251)]
    assert list(found["expected"]["quabos"]) == boards
    assert found["expected"]["nodes"] == {"192.168.1.101": (1,), "192.168.1.102": (254,)}
    domes = [{"modules": [
        {"ip_addr": ip, "quabos": [{"uid": uid if ip == "192.168.0.4" else ""} for uid in "abcd"]}
        for ip in ("192.168.0.4", "192.168.3.248")
    ]}]  # fmt: skip
    (folder / "quabo_uids.json").write_text(json.dumps({"domes": domes}))
    found = rebuilt_document(folder, "x")["expected"]
    assert list(found["quabos"]) == boards[:4] and list(found["absent"]) == boards[4:]
    assert found["nodes"] == {"192.168.1.101": (1,)}


def test_a_disk_that_is_not_there_is_seen_without_the_record_too(tmp_path: Path) -> None:
    """What a pipeline said tells that it recorded; then each of its modules has a file."""
    folder = write_site(tmp_path / "run")
    record = RunRecord(folder, rebuilt_document(folder, "x"))
    nodes = [NodeResult(f"192.168.1.{last}") for last in (101, 102)]
    done = Finished(folder, nodes=nodes)
    assert run_finish._unseen(record, done) == [], "a run of housekeeping alone"
    for node in nodes:
        (folder / f"hp_stdout_{node.node}").touch()
    write_file(folder, 1, [])
    (problem,) = run_finish._unseen(record, done)
    assert "192.168.1.102: no data file of module 254" in problem


def test_a_node_that_was_not_asked_is_missed(run_dir: Path) -> None:
    """The configs do not name it any more, and the copies in the run cannot be read."""
    begun = {"phase": "start", "what": RECORD, "subject": "gone", "intent_unix": 1.0,
             "result_unix": 2.0, "ok": True}  # fmt: skip
    expected: dict[str, Any] = {"quabos": [], "absent": []}
    write_record(run_dir, steps=[begun], expected={**expected, "nodes": {"gone": [7]}})
    (problem,) = run_finish._unseen(read_record(run_dir), Finished(run_dir))
    assert problem.startswith("gone: no data file of module 7 is here, and the configs do not name")
    write_record(run_dir, steps=[begun], expected={**expected, "nodes": {"gone": [254]}})
    assert run_finish._unseen(read_record(run_dir), Finished(run_dir)) == [], "it came before"


@pytest.mark.parametrize(
    ("counted", "worked_s", "unseen"),
    [(9, 1000.0, False), (10, 90.0, False), (18, 100.0, False), (18, 1000.0, True)],
    ids=["all there", "the last second", "of a minute", "of minutes"],
)
def test_frames_on_a_disk_that_is_not_mounted_again_are_missed(
    run_dir: Path, counted: int, worked_s: float, unseen: bool
) -> None:
    """Not those that a power cut may have cost, which no disk has: the verdict tells of them."""
    write_record(run_dir, expected={"quabos": [], "nodes": {"daq": [1]}, "absent": []})
    status = {"start_time_unix": START_S - worked_s, "updated_unix": START_S}
    products = {(1, "img16"): counted - 2}
    text = account(products)
    (run_dir / "hp_status_daq.json").write_text(json.dumps({**json.loads(text), **status}))
    (run_dir / "hp_status_daq.part_1.json").write_text(account({(1, "img16"): 2}))
    (run_dir / "hp_status_10.0.0.1.json").unlink()
    problems = run_finish._unseen(
        read_record(run_dir), Finished(run_dir, nodes=[NodeResult("daq")])
    )
    words = "daq: 9 of 18 img16 frames of module 1 were not found there (8 min of them)"
    assert [problem.split(":", 1)[1] for problem in problems] == (
        [f"{words.partition(':')[2]}: is the disk of module_1 mounted?"] if unseen else []
    )
    assert bool(summarize(run_dir).missing) is (counted > 9)
    (run_dir / Marker.RUN_COMPLETE).touch()
    assert run_finish._unseen(read_record(run_dir), Finished(run_dir)) == [], "given up by hand"


LEFTOVERS: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, True),
    "an empty folder": ({"left": ["module_1: Permission denied"]}, True),
    "no file of a run": ({"strange": ["module_1/run/notes"]}, False),
    "a file that was not deleted": ({"undeleted": ["module_1/run/x: has changed; kept"]}, False),
    "a file that did not come": ({"failed": [("module_1/run/x", "did not arrive")]}, False),
}


@pytest.mark.parametrize("case", LEFTOVERS)
def test_a_run_is_complete_when_nothing_of_it_is_left(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    fields, complete = LEFTOVERS[case]
    found = [NodeResult("192.168.1.101", **fields)]
    monkeypatch.setattr(run_finish, "_shown", lambda *args: found)
    write_record(run_dir)
    run_state.write_marker(run_dir, Marker.RECORDING_ENDED)
    done = run_finish.finish(
        load_site(run_dir), read_record(run_dir), (), collect=True, cleanup=True, trouble=(),
        console=Console(), flight=FlightRecorder(None, ""),
    )  # fmt: skip
    assert (done.complete, done.ok) == (complete, complete), done.problems
    assert (run_dir / Marker.RUN_COMPLETE).exists() is complete


@pytest.mark.parametrize("marker", Marker)
def test_a_run_whose_marker_cannot_be_read_is_collected_and_judged_all_the_same(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, marker: Marker
) -> None:
    monkeypatch.setattr(run_finish, "_shown", lambda *args: [NodeResult("192.168.1.101")])
    write_record(run_dir)
    for one in Marker:
        run_state.write_marker(run_dir, one)
    (run_dir / marker).unlink()
    (run_dir / marker).mkdir()
    done = run_finish.finish(
        load_site(run_dir), read_record(run_dir), (), collect=True, cleanup=True, trouble=(),
        console=Console(), flight=FlightRecorder(None, ""),
    )  # fmt: skip
    assert done.problems == [f"{run_dir / marker}: cannot be read: Is a directory"]
    assert not done.complete and done.verdict is not None


# --- room on the disks ---


def test_disks_that_are_too_small_are_refused_others_warned_of() -> None:
    volumes = [
        Volume("a", 1_000_000_000, 1_000_000),
        Volume("b", 50_000_000_000, 1_000_000),
        Volume("idle", 0, 0.0),
    ]
    assert refuse_or_warn(volumes, 100, 200, None) == []
    (warning,) = refuse_or_warn(volumes, 100, 4 * HOUR_S, None)
    assert warning == "a: 17 min of recording left (1 GB free, 1 MB/s)"
    with pytest.raises(RefusedError, match=r"a: 17 min .*; the minimum is 60 min"):
        refuse_or_warn(volumes, HOUR_S, HOUR_S, None)
    with pytest.raises(RefusedError, match="the run needs 50 min"):
        refuse_or_warn(volumes, 100, 100, 3000)
    assert refuse_or_warn(volumes, 100, 100, 900) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"),
     (float("inf"), "any time")],
)  # fmt: skip
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2 MB"), (3.21e9, "3.21 GB"),
     (1.5e12, "1.5 TB"), (4e15, "4000 TB")],
)  # fmt: skip
def test_sizes_in_words(size: float, text: str) -> None:
    assert size_text(size) == text
