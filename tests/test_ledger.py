"""The ledger: which change makes which step stale, in which words; what survives a kill."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.bringup.board_settings import CLOSED, OPEN, BoardSettings
from panoseti.bringup.ledger import (
    BOOT_SLACK_S,
    NOTED,
    SEEN,
    UID_NAME,
    UNDONE_BY_REBOOT,
    Ledger,
    LedgerFormatError,
    Step,
    content_digest,
    differences,
    document,
    from_document,
    utc_text,
)
from panoseti.bringup.ledger_file import LEDGER_FILE, held_ledger, read_ledger
from panoseti.bringup.touched import note_touched, read_touched
from panoseti.configs.board_files import SHIPPED
from panoseti.configs.load_configs import load_site
from panoseti.errors import ConfigError, RefusedError
from panoseti.state_files import StateError
from tests.site_files import DAQ, DATA, OBS, REMOVE, changed, write_site

IP, UID = "192.168.3.248", "6a50000000003f8"
NOW = 1_790_000_000.0
LATER = NOW + 3600
BASELINE_TOO = {Step.MAROC, Step.PH_BASELINE}
Change = dict[tuple[str | int, ...], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A command directory with board files of its own, for boards at 192.168.3.248."""
    shutil.copytree(SHIPPED, tmp_path / "site" / "quabos")
    return write_site(tmp_path / "site")


def settings(folder: Path) -> BoardSettings:
    return BoardSettings(load_site(folder))


def filled(folder: Path) -> Ledger:
    """A ledger in which everything was done under the present configs."""
    found, ledger = settings(folder), Ledger()
    for step in Step:
        facts = {UID_NAME: UID} if step is Step.UID else {}
        ledger.begin(IP, step, NOW)
        ledger.finish(IP, step, NOW + 1, found.inputs(step, UID), facts)
    return ledger


def reasons(folder: Path, ledger: Ledger, now: float = LATER) -> dict[Step, str]:
    """Which steps are due under the present configs, and why."""
    found = settings(folder)
    whys = {
        step: ledger.why(IP, step, found.inputs(step, UID), now, found.max_age_s(step))
        for step in Step
    }
    return {step: why for step, why in whys.items() if why is not None}


def test_with_nothing_done_everything_is_missing(folder: Path) -> None:
    assert reasons(folder, Ledger()) == dict.fromkeys(Step, "not done")


def test_with_everything_done_nothing_is_due(folder: Path) -> None:
    assert reasons(folder, filled(folder)) == {}


DATA_CHANGES: list[tuple[Change, set[Step], str]] = [
    ({("gain",): 62}, BASELINE_TOO, "gain 60 -> 62 in data_config.json"),
    (
        {("image", "pe_threshold"): 2.5},
        BASELINE_TOO,
        "image.pe_threshold 2 -> 2.5 in data_config.json",
    ),
    (
        {("pulse_height", "pe_threshold"): 13},
        BASELINE_TOO,
        "pulse_height.pe_threshold 12.5 -> 13 in data_config.json",
    ),
    (
        {("image",): REMOVE},
        BASELINE_TOO,
        "image.pe_threshold 2 -> absent in data_config.json",
    ),
    ({("pulse_height", "any_trigger"): {"group_ph_frames": 1}}, {Step.MASKS}, ""),
    (
        {("pulse_height", "two_pixel_trigger"): 1},
        {Step.MASKS, *BASELINE_TOO},
        "coincidence off -> on in data_config.json",
    ),
    ({("pulse_height", "three_pixel_trigger"): 1}, {Step.MASKS, *BASELINE_TOO}, ""),
    ({("pulse_height",): REMOVE}, {Step.MASKS, *BASELINE_TOO}, ""),
    ({("image", "integration_time_usec"): 100}, set(), ""),
    (
        {("image", "quabo_sample_size"): 8, ("image", "integration_time_usec"): 25},
        set(),
        "",
    ),
    ({("max_file_size_mb",): 17}, set(), ""),
    ({("run_type",): "dark"}, set(), ""),
    ({("flash_params",): {"rate": 1, "level": 2, "width": 3}}, set(), ""),
    ({("stim_params",): {"rate": 1, "level": 2, "mask": [True] * 4}}, set(), ""),
]


@pytest.mark.parametrize(("change", "steps", "reason"), DATA_CHANGES)
def test_data_config_makes_stale_what_it_changes(
    folder: Path, change: Change, steps: set[Step], reason: str
) -> None:
    ledger = filled(folder)
    write_site(folder, data=changed(DATA, change))
    found = reasons(folder, ledger)
    assert set(found) == steps
    if reason:
        assert found[Step.MAROC] == reason
    write_site(folder)
    assert reasons(folder, ledger) == {}, "and back again nothing is stale"


def test_new_triggers_are_said_in_words(folder: Path) -> None:
    ledger = filled(folder)
    write_site(
        folder, data=changed(DATA, {("pulse_height", "any_trigger"): {"group_ph_frames": 0}})
    )
    assert reasons(folder, ledger) == {
        Step.MASKS: "pulse_height.any_trigger off -> on in data_config.json"
    }


def test_baseline_follows_from_the_maroc_settings(folder: Path) -> None:
    ledger = filled(folder)
    write_site(folder, data=changed(DATA, {("gain",): 62}))
    assert reasons(folder, ledger)[Step.PH_BASELINE] == "settings changed in MAROC"
    ledger.finish(IP, Step.MAROC, LATER, settings(folder).inputs(Step.MAROC, UID))
    assert set(reasons(folder, ledger)) == {Step.PH_BASELINE}


SITE_CHANGES: list[tuple[Change, Change, set[Step], str]] = [
    (
        {("detector_overvoltage",): 2},
        {},
        {*BASELINE_TOO, Step.HV},
        "detector_overvoltage 3 -> 2 in obs",
    ),
    ({("shutter_open_value",): 1}, {}, {Step.SHUTTER}, "shutter_open_value 0 -> 1 in obs_config"),
    ({}, {("head_node_ip_addr",): "192.168.1.103"}, {Step.HK_DEST}, "head_node_ip_addr 192.168"),
    ({("comment",): "new"}, {("comment",): "new"}, set(), ""),
    ({("domes", 0, "modules", 0, "azimuth"): 10}, {}, set(), ""),
]


@pytest.mark.parametrize(("obs", "daq", "steps", "reason"), SITE_CHANGES)
def test_site_configs_make_stale_what_they_change(
    folder: Path, obs: Change, daq: Change, steps: set[Step], reason: str
) -> None:
    quabos = folder / "quabos"
    shutil.copytree(quabos / "detovervol_3v", quabos / "detovervol_2v")
    ledger = filled(folder)
    write_site(folder, obs=changed(OBS, obs), daq=changed(DAQ, daq))
    found = reasons(folder, ledger)
    assert set(found) == steps
    if steps:
        assert any(text.startswith(reason) for text in found.values()), found


def test_masked_pixels_take_no_part_in_coincidences(folder: Path) -> None:
    """Bit n is packet pixel n, as in all firmware that knows coincidences; each board its own."""
    text = (folder / "quabos" / "quabo_config.txt").read_text()
    assert text.count("=0xffffffff") == 8
    (folder / "quabo_config.txt").write_text(text.replace("=0xffffffff", "=0"))
    mask_pixel(folder)
    found = settings(folder)
    channels, goe = found.masks(UID)
    assert channels.words[:8] == (0, 1 << 1, 0, 0, 0, 0, 0, 0), "pixel 16 * 2 + 1"
    assert found.masks("6a50000000003f9")[0].words[:8] == (0, 0, 1 << 3, 0, 0, 0, 0, 0)
    assert found.masks("a board nobody knows")[0].words[:8] == (0,) * 8
    assert channels.words[8] == 0x155 and goe.value == found.base.goe_mask


def test_another_firmware_image_makes_the_firmware_stale_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    """Another name, another content under the same name, none any more, none to be found."""
    first, second = tmp_path / "quabo_0208_28b4667a.bin", tmp_path / "quabo_0210_29000000.bin"
    first.write_bytes(b"one" * 100)
    second.write_bytes(b"two" * 100)

    def site_with(image: Path) -> None:
        write_site(folder, obs=changed(OBS, {("firmware",): {"qfp": str(image)}}))

    before = filled(folder)
    site_with(first)
    assert reasons(folder, before) == {
        Step.FIRMWARE: f"obs_config.json now used, {first.name} now used"
    }
    ledger = filled(folder)
    site_with(second)
    (reason,) = reasons(folder, ledger).items()
    assert reason[0] is Step.FIRMWARE
    assert reason[1].startswith(f"firmware {first.name} -> {second.name} in obs_config.json")
    site_with(first)
    assert reasons(folder, ledger) == {}
    first.write_bytes(b"new" * 100)
    assert reasons(folder, ledger) == {Step.FIRMWARE: f"content changed in {first.name}"}
    first.unlink()
    with pytest.raises(ConfigError, match=r"\$\.firmware\.qfp.*cannot be read"):
        reasons(folder, ledger)


def test_what_is_looked_at_each_time_is_kept_since_when() -> None:
    ledger = Ledger()
    ledger.saw(IP, Step.POWER, NOW, {"outlet": "outlet 3 of wps"})
    ledger.saw(IP, Step.POWER, LATER, {"outlet": "outlet 3 of wps"})
    assert ledger.done_unix(IP, Step.POWER) == NOW
    ledger.saw(IP, Step.POWER, LATER, {"outlet": "outlet 4 of wps"})
    assert ledger.done_unix(IP, Step.POWER) == LATER
    ledger.begin(IP, Step.REBOOT, LATER)
    assert ledger.done(IP, Step.POWER), "a reboot takes no power away"


def edit_calibration(folder: Path) -> None:
    path = folder / "quabos" / "detovervol_3v" / "ph" / "quabo_calib_1016.json"
    content = json.loads(path.read_text())
    content["pixel_gain"][3][4] += 0.01
    path.write_text(json.dumps(content))


def edit_line(folder: Path, start: str, line: str) -> None:
    """Replace the line of the register defaults that begins with `start`."""
    source = folder / "quabos" / "quabo_config.txt"
    text = (source if source.exists() else SHIPPED / "quabo_config.txt").read_text()
    lines = [line if old.startswith(start) else old for old in text.splitlines()]
    assert "\n".join(lines) != text.rstrip("\n")
    (folder / "quabo_config.txt").write_text("\n".join(lines) + "\n")


def edit_info(folder: Path) -> None:
    path = folder / "quabos" / "quabo_info.json"
    boards = json.loads(path.read_text())
    next(board for board in boards if board["uid"] == UID)["board_version"] = "bga"
    path.write_text(json.dumps(boards))


def edit_detector(folder: Path) -> None:
    path = folder / "quabos" / "detector_info.json"
    detectors = json.loads(path.read_text())
    boards = json.loads((folder / "quabos" / "quabo_info.json").read_text())
    serials = next(board for board in boards if board["uid"] == UID)["detector_serialno"]
    detector = next(d for d in detectors if d["serialno"] == serials[0])
    name = "operating_voltage" if "operating_voltage" in detector else "breakdown_voltage"
    detector[name] = str(float(detector[name]) + 0.25)
    path.write_text(json.dumps(detectors))


def mask_pixel(folder: Path) -> None:
    path = folder / "quabos" / "masked_pixels.json"
    path.write_text(json.dumps({"SN01016": [[1, 2]], "SN01017": [[3, 4]]}))


def mask_pixel_in_coincidences(folder: Path) -> None:
    """Word 1 lets the pixels of rows 2 and 3 through."""
    edit_line(folder, "CHANMASK_1", "CHANMASK_1 = 0")
    mask_pixel(folder)


FILE_CHANGES: list[tuple[Callable[[Path], None], set[Step], str]] = [
    (
        edit_calibration,
        BASELINE_TOO,
        "content changed in detovervol_3v/ph/quabo_calib_1016.json",
    ),
    (edit_detector, {Step.HV}, ""),
    (edit_info, BASELINE_TOO, "board_version qfp -> bga in quabo_info.json"),
    (
        lambda folder: edit_line(folder, "RAMP8B", "RAMP8B = 1,1,1,0"),
        BASELINE_TOO,
        "MAROC tags changed in quabo_config.txt",
    ),
    (lambda folder: edit_line(folder, "CHANMASK_8", "CHANMASK_8 = 0x154"), {Step.MASKS}, ""),
    (mask_pixel, BASELINE_TOO, "masked_pixels.json now used"),
    (mask_pixel_in_coincidences, {*BASELINE_TOO, Step.MASKS}, "masked_pixels.json now used"),
    (lambda folder: edit_line(folder, "HV_0", "HV_0 = 17"), set(), ""),
    (lambda folder: edit_line(folder, "ACQINT", "ACQINT = 17   * not used here"), set(), ""),
]


@pytest.mark.parametrize(("edit", "steps", "reason"), FILE_CHANGES)
def test_board_files_make_stale_what_they_change(
    folder: Path, edit: Callable[[Path], None], steps: set[Step], reason: str
) -> None:
    ledger = filled(folder)
    edit(folder)
    found = reasons(folder, ledger)
    assert set(found) == steps
    if reason:
        assert found[Step.MAROC] == reason


def test_a_board_that_rebooted_loses_what_a_reboot_undoes(folder: Path) -> None:
    ledger = filled(folder)
    assert not ledger.saw_reboot(IP, NOW + 1 + BOOT_SLACK_S, {}), "our own reboot"
    assert ledger.saw_reboot(IP, NOW + 100, {"fwver": "0208"})
    found = reasons(folder, ledger)
    assert set(found) == set(UNDONE_BY_REBOOT)
    assert set(found.values()) == {"rebooted at 2026-09-21T14:15:00.000Z"}
    assert ledger.boards[IP][Step.REBOOT].facts == {"fwver": "0208", "by": "itself"}
    assert not ledger.saw_reboot(IP, NOW + 100, {}), "no news any more"


NOTED_S = 0.5  # after the reboot was asked for


@pytest.mark.parametrize(
    ("noted", "when_s", "is_note", "news"),
    [
        (NOTED_S, NOTED_S, True, False),  # our own reboot
        (NOTED_S, NOTED_S + 0.2, True, False),  # its packet, which the network has repeated
        (NOTED_S, 100.0, True, True),
        (NOTED_S, -3600.0, True, True),  # the clock was set back
        (NOTED_S, -3600.0, False, False),  # it is no note that was seen
        (None, -3600.0, True, False),  # came back by ping: an old note may be there still
        (None, 100.0, True, True),
    ],
)
def test_which_note_of_a_boot_is_news(
    folder: Path, noted: float | None, when_s: float, is_note: bool, news: bool
) -> None:
    ledger = filled(folder)
    done = ledger.done_unix(IP, Step.REBOOT) or 0.0
    facts = {} if noted is None else {NOTED: done + noted}
    ledger.begin(IP, Step.REBOOT, done)
    ledger.finish(IP, Step.REBOOT, done, {}, facts)
    assert ledger.saw_reboot(IP, done + when_s, {}, is_note) is news
    if news:
        assert not ledger.saw_reboot(IP, done + when_s, {}, is_note), "no news any more"
        assert ledger.boot_of(IP) == utc_text(done + when_s)


def test_a_boot_that_was_found_out_keeps_the_note_that_is_known(folder: Path) -> None:
    """By a silence, or other firmware: the note of the boot before is none of a new one."""
    ledger = filled(folder)
    assert ledger.saw_reboot(IP, NOW + 100, {}, is_note=True)
    assert ledger.saw_reboot(IP, NOW + 200, {"fwver": "0209"})
    assert not ledger.saw_reboot(IP, NOW + 100, {}, is_note=True)


def test_a_reboot_asked_for_undoes_the_same(folder: Path) -> None:
    ledger = filled(folder)
    ledger.begin(IP, Step.REBOOT, LATER)
    assert set(reasons(folder, ledger)) == {Step.REBOOT, *UNDONE_BY_REBOOT}
    ledger.finish(IP, Step.REBOOT, LATER + 10, {})
    assert set(reasons(folder, ledger)) == set(UNDONE_BY_REBOOT)


def test_another_board_at_the_place_needs_everything(folder: Path) -> None:
    ledger = filled(folder)
    other = "6a50000000003f9"
    ledger.finish(IP, Step.UID, LATER, {}, {UID_NAME: other})
    found = reasons(folder, ledger)
    assert set(found) == set(Step) - {*SEEN, Step.UID}
    assert set(found.values()) == {f"another board: UID {UID} -> {other}"}


def test_an_old_baseline_is_stale_by_the_hour(folder: Path) -> None:
    ledger = filled(folder)
    assert reasons(folder, ledger, NOW + 1 + 24 * 3600) == {}
    assert reasons(folder, ledger, NOW + 1 + 24 * 3600 + 360) == {
        Step.PH_BASELINE: "24.1 h old (limit 24 h)"
    }


def test_a_shutter_that_was_closed_is_to_be_opened(folder: Path) -> None:
    ledger = filled(folder)
    found = settings(folder)
    ledger.finish(IP, Step.SHUTTER, LATER, found.shutter_inputs(CLOSED))
    assert reasons(folder, ledger) == {Step.SHUTTER: "shutter closed -> open"}
    ledger.finish(IP, Step.SHUTTER, LATER, found.shutter_inputs(OPEN))
    assert reasons(folder, ledger) == {}


def test_a_board_nobody_knows_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="uid abc: no such board in .*quabo_info.json"):
        settings(folder).inputs(Step.MAROC, "abc")


def test_many_reasons_are_cut_short() -> None:
    old = {"f": dict.fromkeys("abcdef", 1)}
    new = {"f": dict.fromkeys("abcdef", 2)}
    ledger = Ledger()
    ledger.finish_other("x", NOW, old)
    assert ledger.why_other("x", new) == (
        "a 1 -> 2 in f, b 1 -> 2 in f, c 1 -> 2 in f, d 1 -> 2 in f and 2 more"
    )
    assert len(differences(old, new)) == 6


# --- killed at any point ---


@pytest.mark.parametrize("killed_in", list(Step))
@pytest.mark.parametrize("before_the_end", [True, False])
def test_killed_anywhere_it_goes_on_from_there(
    folder: Path, tmp_path: Path, killed_in: Step, before_the_end: bool
) -> None:
    """The process dies within a step, or just after it: the next one does the rest, no more."""
    found = settings(folder)
    with held_ledger(tmp_path, "first") as book:
        for step in Step:
            book.ledger.begin(IP, step, NOW)
            book.save()
            if step is killed_in and before_the_end:
                break
            facts = {UID_NAME: UID} if step is Step.UID else {}
            book.ledger.finish(IP, step, NOW + 1, found.inputs(step, UID), facts)
            book.save()
            if step is killed_in:
                break
    ledger = read_ledger(tmp_path)
    steps = list(Step)
    at = steps.index(killed_in)
    due = reasons(folder, ledger)
    assert list(due) == steps[at if before_the_end else at + 1 :]
    if before_the_end:
        assert due[killed_in] == "begun at 2026-09-21T14:13:20.000Z and not finished"


def test_a_step_begun_again_under_old_settings_does_not_count_as_done(folder: Path) -> None:
    """Killed while it loaded gain 62: going back to 60 must load, the board may hold either."""
    ledger = filled(folder)
    write_site(folder, data=changed(DATA, {("gain",): 62}))
    ledger.begin(IP, Step.MAROC, LATER)
    write_site(folder)
    assert set(reasons(folder, ledger)) == {Step.MAROC}


# --- undone by something else than a reboot ---


def test_an_undone_step_says_why_until_it_is_done_again(folder: Path) -> None:
    ledger = filled(folder)
    ledger.undo(IP, Step.MAROC, "set by qc.py (M) at noon")
    ledger.undo("192.168.3.249", Step.MAROC, "nothing was done to that board")
    assert reasons(folder, ledger) == {Step.MAROC: "set by qc.py (M) at noon"}
    assert ledger.undone(IP, Step.MAROC) and not ledger.done(IP, Step.MAROC)
    assert not ledger.lost_by_boot(IP, Step.MAROC), "its inputs are known: a start may load it"
    ledger = from_document(document(ledger))
    assert reasons(folder, ledger) == {Step.MAROC: "set by qc.py (M) at noon"}
    ledger.begin(IP, Step.MAROC, LATER)
    assert "not finished" in reasons(folder, ledger)[Step.MAROC]
    ledger.finish(IP, Step.MAROC, LATER, settings(folder).inputs(Step.MAROC, UID))
    assert ledger.undone(IP, Step.MAROC) is None
    assert reasons(folder, ledger) == {}


def test_a_note_of_qc_stays_until_the_ledger_on_the_disk_knows_it(
    folder: Path, tmp_path: Path
) -> None:
    with held_ledger(tmp_path, "test") as book:
        book.ledger.boards = filled(folder).boards
        book.save()
        note_touched(tmp_path, IP, Step.MASKS, "before")
        note_touched(tmp_path, IP, Step.MASKS, "first")
        book.save()
    assert [note.why for note in read_touched(tmp_path)] == ["first"]
    assert reasons(folder, read_ledger(tmp_path)) == {Step.MASKS: "first"}
    with held_ledger(tmp_path, "test") as book:
        note_touched(tmp_path, IP, Step.SHUTTER, "while it was at work")
        assert book.ledger.undone(IP, Step.MASKS) == "first"
        book.ledger.begin(IP, Step.MASKS, NOW - 3600)  # the clock was set back
        book.ledger.finish(IP, Step.MASKS, NOW - 3600, settings(folder).inputs(Step.MASKS, UID))
        book.save()
    assert reasons(folder, read_ledger(tmp_path)) == {Step.SHUTTER: "while it was at work"}
    with held_ledger(tmp_path, "test") as book:
        book.save()
    assert read_touched(tmp_path) == []
    assert reasons(folder, read_ledger(tmp_path)) == {Step.SHUTTER: "while it was at work"}


@pytest.mark.parametrize("text", ["", "{", '{"version": 1, "ip": "1.2.3.4", "step": "dance"}'])
def test_a_damaged_note_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    note_touched(tmp_path, IP, Step.MASKS, "so")
    (note,) = read_touched(tmp_path)
    note.path.write_text(text)
    with pytest.raises(StateError) as caught:
        read_ledger(tmp_path)
    assert str(note.path) in str(caught.value) and "--redo" in str(caught.value)


# --- the file ---


def test_the_file_tells_inputs_in_full(folder: Path, tmp_path: Path) -> None:
    with held_ledger(tmp_path, "test") as book:
        book.ledger.boards = filled(folder).boards
        book.save()
    written = json.loads((tmp_path / LEDGER_FILE).read_text())
    entry = written["boards"][IP]["maroc"]
    assert entry["inputs"]["data_config.json"]["gain"] == 60
    assert entry["done"] == "2026-09-21T14:13:21.000Z"
    assert entry["digest"] == content_digest(entry["inputs"])
    assert reasons(folder, read_ledger(tmp_path)) == {}


BROKEN = [
    "",
    "{",
    "[]",
    '{"version": 2, "boards": {}, "others": {}}',
    '{"version": 1}',
    '{"version": 1, "boards": {"192.168.3.248": {"dance": {}}}, "others": {}}',
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / LEDGER_FILE
    path.write_text(text)
    with pytest.raises(StateError, match="bringup.json") as caught:
        read_ledger(tmp_path)
    assert str(path) in str(caught.value)
    assert "move it away" in str(caught.value)
    assert caught.value.exit_code == 3
    assert path.read_text() == text, "never touched"


def test_inputs_that_were_edited_are_refused(folder: Path) -> None:
    raw = document(filled(folder))
    raw = json.loads(json.dumps(raw))
    raw["boards"][IP]["maroc"]["inputs"]["data_config.json"]["gain"] = 61
    with pytest.raises(LedgerFormatError, match="digest"):
        from_document(raw)


def _hold(place: Path, taken: Any, release: Any) -> None:
    with held_ledger(place, "config.py --reboot"):
        taken.set()
        release.wait(20)


def test_one_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, taken, release))
    other.start()
    try:
        assert taken.wait(20)
        with pytest.raises(RefusedError, match=r"config.py --reboot of \S+@\S+\[\d+\]"):
            with held_ledger(tmp_path, "config.py"):
                pass
        other.kill()
        other.join(20)
        with held_ledger(tmp_path, "config.py") as book:
            assert book.ledger.boards == {}, "a killed holder keeps nobody out"
    finally:
        other.kill()  # an Event set for a killed waiter would wait for it for ever
        other.join(20)
        other.close()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-1000, 1000), st.text(max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
INPUTS = st.dictionaries(
    st.text(max_size=4), st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=3
)
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "finish", "forget", "reboot", "other"]),
        st.sampled_from(["192.168.0.4", "192.168.0.5"]),
        st.sampled_from(list(Step)),
        INPUTS,
    ),
    max_size=12,
)


@given(ACTS, st.sampled_from(list(Step)), INPUTS)
def test_whatever_happened_the_file_keeps_it(
    acts: list[tuple[str, str, Step, dict[str, dict[str, Any]]]],
    step: Step,
    inputs: dict[str, dict[str, Any]],
) -> None:
    ledger = Ledger()
    for turn, (act, ip, of, values) in enumerate(acts):
        now = NOW + 10 * turn
        match act:
            case "begin":
                ledger.begin(ip, of, now)
            case "finish":
                ledger.finish(ip, of, now, values, {"found": turn})
            case "forget":
                ledger.forget(ip, [of])
            case "reboot":
                ledger.saw_reboot(ip, now, {})
            case _:
                ledger.finish_other(ip, now, values)
    again = from_document(json.loads(json.dumps(document(ledger))))
    assert document(again) == document(ledger)
    ip = "192.168.0.4"
    assert again.why(ip, step, inputs, NOW) == ledger.why(ip, step, inputs, NOW)
    again.finish(ip, step, NOW, inputs)
    assert again.why(ip, step, inputs, NOW) is None
