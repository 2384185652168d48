"""Board data base, calibration, UIDs and baselines: real files, and what is wrong named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pypff
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.configs import board_files
from panoseti.configs.board_files import (
    BoardDb,
    load_board_db,
    ph_baseline_text,
    quabo_uids_text,
    read_ph_baseline,
    read_quabo_config,
    read_quabo_uids,
)
from panoseti.configs.load_configs import load_site
from panoseti.configs.site import BoardInfo, ObsConfig
from panoseti.errors import ConfigError
from tests.helpers import REPO, golden, pypff_warnings, spec_data
from tests.site_files import OBS, changed, write_site

BOARD = {
    "uid": "6ae1",
    "serialno": "SN020",
    "board_version": "qfp",
    "detector_serialno": [1, 2, 3, 4],
}
DETECTORS = [{"serialno": n, "breakdown_voltage": f"51.{n}"} for n in (1, 2, 3, 4)]
QUADRANT = {"a": 0.375, "b": 156, "ah": 0.125, "bh": 189}
CALIBRATION = {
    "pixel_gain": [[0.0] * 16 for _ in range(16)],
    "quadrants": [{"detserial": n, **QUADRANT} for n in (1, 2, 3, 4)],
}


def command_dir(
    folder: Path, info: Any = (BOARD,), detectors: Any = DETECTORS, calibration: Any = CALIBRATION
) -> Path:
    """A command directory with its own quabos/ and one calibration, SN020 at 3 V, ph."""
    place = folder / "quabos" / "detovervol_3v" / "ph"
    place.mkdir(parents=True)
    (folder / "quabos" / "quabo_info.json").write_text(json.dumps(info))
    (folder / "quabos" / "detector_info.json").write_text(json.dumps(detectors))
    (place / "quabo_calib_20.json").write_text(json.dumps(calibration))
    return folder


def real_db(folder: Path) -> BoardDb:
    (folder / "quabos").symlink_to(spec_data() / "quabos")
    return load_board_db(folder)


def faults(error: ConfigError) -> list[tuple[str, str]]:
    return [(fault.file, fault.path) for fault in error.faults]


@pytest.fixture
def obs(tmp_path: Path) -> ObsConfig:
    """Modules 1 (192.168.0.4) and 254 (192.168.3.248)."""
    return load_site(write_site(tmp_path / "site")).obs


# --- real files ---


def test_real_boards_and_detectors(tmp_path: Path) -> None:
    db = real_db(tmp_path)
    assert (len(db.boards), len(db.detectors)) == (12, 83)
    board = db.board("6ae310480d06c23")
    assert board == BoardInfo("6ae310480d06c23", "SN020", "qfp", (1076, 1075, 1074, 1077))
    shared = {(w.path, w.value) for w in db.warnings}
    assert len(shared) == len(db.warnings) == 5
    assert {value for _, value in shared} == {"1271", "1272", "1273", "1274"}
    for case in golden("hv")["switch_on"]:
        assert db.nominal_v(case["uid"], 3) == pytest.approx(case["nominal_V"], abs=1e-9)


@pytest.mark.parametrize("overvoltage_v", [2, 3])
@pytest.mark.parametrize("mode", ["img", "ph"])
def test_real_calibrations_load(tmp_path: Path, overvoltage_v: int, mode: str) -> None:
    db = real_db(tmp_path)
    disagreeing = set()
    for board in db.boards.values():
        calibration = db.calibration(board.uid, overvoltage_v, mode)
        path = Path(calibration.file)
        raw = json.loads(path.read_text())
        assert path.parts[-4:-1] == ("quabos", f"detovervol_{overvoltage_v}v", mode)
        assert [list(column) for column in calibration.pixel_gain] == raw["pixel_gain"]
        assert [[q.detserial, q.a, q.b, q.ah, q.bh] for q in calibration.quadrants] == [
            [q["detserial"], q["a"], q["b"], q["ah"], q["bh"]] for q in raw["quadrants"]
        ]
        if db.calibration_warnings(board, calibration):
            disagreeing.add(board.serialno)
    assert disagreeing == {"SN005", "SN008", "SN011", "SN017", "SN019"}


def test_every_real_calibration_file_is_one(tmp_path: Path) -> None:
    db = real_db(tmp_path)
    paths = sorted((spec_data() / "quabos").glob("detovervol_*/*/quabo_calib_*.json"))
    assert len(paths) > 40
    for path in paths:
        number, volts, mode = path.stem[-2:], path.parts[-3][11], path.parts[-2]
        board = BoardInfo(path.stem, f"SN0{number}", "qfp", (1, 2, 3, 4))
        one = BoardDb(db.folder, {board.uid: board}, {})
        assert one.calibration(board.uid, int(volts), mode).serialno == board.serialno


def test_real_uids_and_baselines_load(tmp_path: Path) -> None:
    examples = spec_data() / "example_configs"
    samples = spec_data() / "field_samples"
    one_module = changed(OBS, {("domes", 0, "modules", 0): OBS["domes"][0]["modules"][1]})
    del one_module["domes"][0]["modules"][1]
    site = load_site(write_site(tmp_path / "site", one_module))
    uids = read_quabo_uids(samples / "quabo_uids.json", site.obs)
    assert uids.by_ip == {"192.168.3.248": "6b2110380604803", "192.168.3.249": "",
                          "192.168.3.250": "", "192.168.3.251": ""}  # fmt: skip
    assert uids.present("192.168.3.248") and not uids.present("192.168.3.249")
    assert not uids.present("192.168.0.4")
    all_four = read_quabo_uids(examples / "quabo_uids_example.json", site.obs)
    assert all_four.by_ip["192.168.3.251"] == "6a6412082b0a41c"
    baseline = read_ph_baseline(samples / "quabo_ph_baseline.json")
    assert baseline.date_unix == pytest.approx(1690931151.125137)
    assert len(baseline.coefs["6b2110380604803"]) == 256


# --- shipped files ---


def test_shipped_boards_are_those_of_the_simulated_site() -> None:
    db = load_board_db(REPO)
    assert db.folder == board_files.SHIPPED and db.warnings == ()
    assert len(db.boards) == 8
    for board in db.boards.values():
        for mode in ("img", "ph"):
            assert db.calibration_warnings(board, db.calibration(board.uid, 3, mode)) == []
        assert all(53 < volts < 56 for volts in db.nominal_v(board.uid, 3))


def test_the_sites_own_files_go_before_the_shipped_ones(tmp_path: Path) -> None:
    assert load_board_db(tmp_path).folder == board_files.SHIPPED
    assert list(load_board_db(command_dir(tmp_path)).boards) == ["6ae1"]
    shipped = (board_files.SHIPPED / "quabo_config.txt").read_text()
    assert read_quabo_config(tmp_path).goe_mask == 3
    for folder, goe in ((tmp_path / "quabos", 2), (tmp_path, 1)):
        (folder / "quabo_config.txt").write_text(f"{shipped}\nGOEMASK={goe}")
        assert read_quabo_config(tmp_path).goe_mask == goe
    (tmp_path / "quabo_config.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="quabo_config.txt: .*: not UTF-8 text"):
        read_quabo_config(tmp_path)


# --- what is wrong with board files ---


def test_all_faults_of_both_files_at_once(tmp_path: Path) -> None:
    info = [
        changed(BOARD, {("serialno",): "020"}),
        changed(BOARD, {("board_version",): "QFP"}),
        changed(BOARD, {("uid",): "0x12", ("detector_serialno", 3): "4"}),
    ]
    detectors = [{"serialno": 1}, {"serialno": 2, "breakdown_voltage": "5.1"}]
    with pytest.raises(ConfigError) as caught:
        load_board_db(command_dir(tmp_path, info, detectors))
    assert faults(caught.value) == [
        ("quabo_info.json", "$[0].serialno"),
        ("quabo_info.json", "$[1].board_version"),
        ("quabo_info.json", "$[2].detector_serialno[3]"),
        ("quabo_info.json", "$[2].uid"),
        ("detector_info.json", "$[0]"),
        ("detector_info.json", "$[1].breakdown_voltage"),
    ]
    assert "outside 20..75 V" in caught.value.faults[-1].remedy
    assert caught.value.exit_code == 2


def test_double_entries_are_warned_of_and_the_first_counts(tmp_path: Path) -> None:
    info = [BOARD, changed(BOARD, {("board_version",): "bga"})]
    detectors = [*DETECTORS, {"serialno": 2, "breakdown_voltage": "52"}]
    db = load_board_db(command_dir(tmp_path, info, detectors))
    assert [(w.file, w.path) for w in db.warnings] == [
        ("quabo_info.json", "$[1].uid"),
        ("quabo_info.json", "$[1].serialno"),
        ("detector_info.json", "$[4].serialno"),
    ]
    assert db.board("6ae1").board_version == "qfp"
    assert db.nominal_v("6ae1", 3)[1] == pytest.approx(54.2)


def test_what_a_board_lacks_is_named(tmp_path: Path) -> None:
    detectors = [
        {"serialno": 1, "operating_voltage": "54.5", "breakdown_voltage": "51"},
        {"serialno": 2, "breakdown_voltage": 51.5},
    ]
    db = load_board_db(command_dir(tmp_path, detectors=detectors))
    with pytest.raises(ConfigError, match=r"uid 77: no such board in .*quabo_info.json; add it"):
        db.board("77")
    with pytest.raises(ConfigError) as caught:
        db.nominal_v("6ae1", None)
    assert [(fault.path, fault.value) for fault in caught.value.faults] == [
        ("$.detector_overvoltage", "missing"),
        ("$", "detector 3 (quadrant 2 of board SN020)"),
        ("$", "detector 4 (quadrant 3 of board SN020)"),
    ]
    with pytest.raises(ConfigError, match=r"board SN020: has no calibration file .*_2v/ph/quabo"):
        db.calibration("6ae1", 2, "ph")


def test_operating_voltage_needs_no_overvoltage(tmp_path: Path) -> None:
    detectors = [{"serialno": n, "operating_voltage": 54 + n / 8} for n in (1, 2, 3, 4)]
    db = load_board_db(command_dir(tmp_path, detectors=detectors))
    assert db.nominal_v("6ae1", None) == db.nominal_v("6ae1", 3) == (54.125, 54.25, 54.375, 54.5)


@pytest.mark.parametrize("typed", ["61.5", "41.5"])
def test_a_voltage_far_from_all_others_is_mistyped(tmp_path: Path, typed: str) -> None:
    """Those of a kind are within 1 V; a detector does not stand 10 V more."""
    detectors = changed(DETECTORS, {(2, "breakdown_voltage"): typed})
    db = load_board_db(command_dir(tmp_path, detectors=detectors))
    with pytest.raises(ConfigError) as caught:
        db.nominal_v("6ae1", 3)
    (fault,) = caught.value.faults
    assert fault.value == f"detector 3 of board SN020 at {float(typed) + 3:g} V"
    assert "enter 3 in odd_detectors of obs_config.json" in fault.remedy
    assert db.nominal_v("6ae1", 3, odd_detectors=[3])[2] == float(typed) + 3
    with pytest.raises(ConfigError):
        db.nominal_v("6ae1", 3, odd_detectors=[2])


def test_a_detector_of_another_kind_with_the_same_bias_is_not_far_off(tmp_path: Path) -> None:
    """One whose operating voltage is given is compared with the sum of the others."""
    detectors = [*DETECTORS[:3], {"serialno": 4, "operating_voltage": "56.5"}]
    assert load_board_db(command_dir(tmp_path, detectors=detectors)).nominal_v("6ae1", 3)[3] == 56.5


def test_faults_of_a_calibration_file(tmp_path: Path) -> None:
    broken = changed(
        CALIBRATION, {("pixel_gain", 3, 4): -1.5, ("quadrants", 2, "ah"): "0.125",
                      ("pixel_gain", 5): [0.0] * 15}
    )  # fmt: skip
    db = load_board_db(command_dir(tmp_path, calibration=broken))
    with pytest.raises(ConfigError) as caught:
        db.calibration("6ae1", 3, "ph")
    assert faults(caught.value) == [
        ("quabo_calib_20.json", "$.pixel_gain[3][4]"),
        ("quabo_calib_20.json", "$.pixel_gain[5]"),
        ("quabo_calib_20.json", "$.quadrants[2].ah"),
    ]


# --- quabo_uids.json and quabo_ph_baseline.json ---

UIDS = st.from_regex(r"(-?[0-9a-f]{1,16})?", fullmatch=True)


def test_uids_are_read_as_written(tmp_path: Path, obs: ObsConfig) -> None:
    path = tmp_path / "quabo_uids.json"

    @given(st.dictionaries(st.sampled_from([quabo.ip for quabo in obs.quabos]), UIDS))
    def check(by_ip: dict[str, str]) -> None:
        path.write_text(quabo_uids_text(obs, by_ip))
        expected = {quabo.ip: by_ip.get(quabo.ip, "") for quabo in obs.quabos}
        assert read_quabo_uids(path, obs).by_ip == expected

    check()


def test_uids_of_another_site_are_refused(tmp_path: Path, obs: ObsConfig) -> None:
    path = tmp_path / "quabo_uids.json"
    with pytest.raises(ConfigError, match="missing: scan the boards with config.py --get_uids"):
        read_quabo_uids(path, obs)
    moved = changed(OBS, {("domes", 0, "modules", 0, "ip_addr"): "192.168.0.8"})
    other = load_site(write_site(tmp_path / "other", moved)).obs
    path.write_text(quabo_uids_text(other, {"192.168.0.8": "1", "192.168.3.248": "2"}))
    with pytest.raises(ConfigError, match=r"192.168.0.4: module 1 \(M1\) is not in it; scan again"):
        read_quabo_uids(path, obs)
    path.write_text(quabo_uids_text(obs, {"192.168.0.4": "0x12"}))
    with pytest.raises(ConfigError) as caught:
        read_quabo_uids(path, obs)
    place = "$.domes[0].modules[0].quabos[0].uid"
    assert faults(caught.value) == [("quabo_uids.json", place)]


@pytest.mark.parametrize("name", ["quabo_uids.json", "quabo_ph_baseline.json"])
@pytest.mark.parametrize("text", ["", "{", "null", '{"domes": ["x"], "date": 1, "quabos": {}}'])
def test_broken_state_files_are_refused_never_guessed(
    tmp_path: Path, obs: ObsConfig, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{name}: "):
        read_quabo_uids(path, obs) if name == "quabo_uids.json" else read_ph_baseline(path)


def test_baseline_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "quabo_ph_baseline.json"
    coefs = {"6ae1": tuple(range(600, 856)), "-1f": (65535,) * 256}
    path.write_text(ph_baseline_text(1_720_000_000.25, coefs))
    assert json.loads(path.read_text())["date"] == "2024-07-03T09:46:40.250000"
    baseline = read_ph_baseline(path)
    assert (baseline.date_unix, baseline.coefs) == (1_720_000_000.25, coefs)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("date",), "yesterday"),
        (("quabos", 0, "coefs", 7), -1),
        (("quabos", 0, "coefs", 7), 65536),
        (("quabos", 0, "coefs", 7), 1.5),
        (("quabos", 0, "coefs", 256), 700),
        (("quabos", 0, "uid"), ""),
    ],
)
def test_wrong_baselines_are_refused(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    good = json.loads(ph_baseline_text(0, {"6ae1": (700,) * 256}))
    path = tmp_path / "quabo_ph_baseline.json"
    path.write_text(json.dumps(changed(good, {place: value})))
    with pytest.raises(ConfigError) as caught:
        read_ph_baseline(path)
    (fault,) = caught.value.faults
    assert fault.file == path.name and fault.path.startswith(f"$.{place[0]}")


def test_a_baseline_is_missed_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing: calibrate with config.py --calibrate_ph"):
        read_ph_baseline(tmp_path / "quabo_ph_baseline.json")


def test_analysis_accepts_what_is_written(
    tmp_path: Path, obs: ObsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "quabo_uids.json").write_text(quabo_uids_text(obs, {"192.168.0.4": "6ae1"}))
    text = ph_baseline_text(1_720_000_000, {"6ae1": (700,) * 256})
    (run / "quabo_ph_baseline.json").write_text(text)
    caplog.set_level(logging.WARNING)
    configs = pypff.PanosetiRun(run).configs
    assert pypff_warnings(caplog) == []
    assert sorted(configs) == ["quabo_ph_baseline", "quabo_uids"]
