"""What boards are told: golden sequences from real calibration, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.boards import maroc, pixel_maps
from panoseti.boards.commands import Command
from panoseti.configs import settings
from panoseti.configs.board_files import SHIPPED, read_quabo_config
from panoseti.configs.load_configs import load_site
from panoseti.configs.quabo_config import QuaboConfig
from panoseti.configs.site import Calibration, DataConfig, ImageConfig, PulseHeightConfig, Quadrant
from panoseti.configs.site_builder import build_data
from panoseti.errors import ConfigError, Fault
from tests.helpers import golden, spec_data
from tests.site_files import write_site

BASE = read_quabo_config(SHIPPED)
BOARD = "192.168.3.248 (SN020)"
FILE = "quabos/detovervol_3v/ph/quabo_calib_20.json"
LINES = Quadrant(1076, a=0.375, b=156.0, ah=0.125, bh=189.0)
IMAGE = ImageConfig(1000, 2.0, 16)
DUAL = DataConfig("test", 60, IMAGE, PulseHeightConfig(12.5))


def calibration(
    *quadrants: Quadrant, gains: dict[tuple[int, int], float] | None = None
) -> Calibration:
    """Invented calibration; quadrants not given are like LINES, gains not given 0."""
    four = (*quadrants, LINES, LINES, LINES, LINES)
    columns = tuple(tuple((gains or {}).get((x, y), 0.0) for y in range(16)) for x in range(16))
    return Calibration(FILE, "SN020", columns, (four[0], four[1], four[2], four[3]))


def real_calibration(name: str) -> Calibration:
    """A calibration file of real boards, read without the code under test."""
    raw = json.loads((spec_data() / "quabos" / name).read_text())
    names = ("detserial", "a", "b", "ah", "bh")
    four = [Quadrant(*(quadrant[name] for name in names)) for quadrant in raw["quadrants"]]
    columns = tuple(map(tuple, raw["pixel_gain"]))
    return Calibration(name, "SN000", columns, (four[0], four[1], four[2], four[3]))


def registers(
    of: Calibration, data: DataConfig = DUAL, version: str = "qfp", base: QuaboConfig = BASE
) -> settings.Registers:
    return settings.maroc_registers(base, of, version, data, BOARD)


def faults(of: Calibration, data: DataConfig = DUAL) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        registers(of, data)
    assert caught.value.exit_code == 2
    assert all(fault.file == FILE and BOARD in fault.value for fault in caught.value.faults)
    return list(caught.value.faults)


# --- golden ---


@pytest.mark.parametrize(
    "case", golden("maroc_from_calibration")["cases"], ids=lambda case: case["name"]
)
def test_golden_maroc_sequence(case: dict[str, Any]) -> None:
    data = build_data(case["data_config"])
    assert f"/{settings.calibration_mode(data)}/" in case["calib_file"]
    of, version = real_calibration(case["calib_file"]), case["board_version"]
    commands: list[Command] = []
    priming = settings.priming_registers(BASE, of, version, data, BOARD)
    if priming is not None:
        commands.append(maroc.setup(priming))
        commands += [settings.priming_acquisition(), settings.stop_acquisition()]
    final = registers(of, data, version)
    commands.append(maroc.setup(final))
    steps = [step for step in case["sequence"] if step["step"] != "data_destination"]
    expected = [step.get("command_hex") or step["hex"] for step in steps]
    assert [bytes(command).hex() for command in commands] == expected
    for k, text in enumerate(steps[-1].get("GAIN", ())):
        assert final[f"GAIN{k}"] == tuple(map(int, text.split(",")))


@pytest.mark.parametrize("case", golden("mask_config")["cases"])
def test_golden_masks(case: dict[str, Any]) -> None:
    channels, goe = settings.masks(BASE, build_data(case["data_config"]))
    assert (channels.words[8], goe.value) == (case["CHANMASK_8"], case["GOEMASK"])
    assert bytes(channels).hex() == case["channel_mask_hex"]
    assert bytes(goe).hex() == case["goe_mask_hex"]


@pytest.mark.parametrize("case", golden("acquisition_from_data_config")["cases"])
def test_golden_acquisition(case: dict[str, Any], tmp_path: Path) -> None:
    raw = case["data_config"]
    # The board's longest integration is no divisor of a second: fine to send, not to record.
    loads = raw.get("image", {}).get("integration_time_usec") != 65536
    if case.get("error") or loads:
        write_site(tmp_path, data=raw)
    if case.get("error"):
        with pytest.raises(ConfigError, match="data_config.json"):
            load_site(tmp_path)
        return
    data = load_site(tmp_path).data if loads else build_data(raw)
    assert bytes(settings.acquisition(data)).hex() == case["command_hex"]
    assert data.group_ph_frames == case["group_ph_frames"]
    assert (data.pulse_height is not None and data.pulse_height.any_trigger) == case["any_trigger"]


@pytest.mark.parametrize("case", golden("hv")["updater"])
def test_golden_hv(case: dict[str, Any]) -> None:
    assert settings.hv_codes(tuple(case["nominal_V"]), case["temp_C"]) == tuple(case["dac"])


# --- thresholds and gains ---


@pytest.mark.parametrize(("pe", "dac1", "dac2"), [(2, 201, 204), (5.5, 279, 230), (12.5, 437, 282)])
def test_worked_example(pe: float, dac1: int, dac2: int) -> None:
    data = DataConfig("test", 60, replace(IMAGE, pe_threshold=pe), PulseHeightConfig(pe))
    found = registers(calibration(), data)
    assert (found["DAC1"], found["DAC2"]) == ((dac1,) * 4, (dac2,) * 4)


def test_a_product_that_is_off_keeps_the_threshold_of_the_file() -> None:
    image_only = replace(DUAL, pulse_height=None)
    found = registers(calibration(), image_only)
    assert (found["DAC1"], found["DAC2"]) == ((201,) * 4, (1023,) * 4)
    args = (BASE, calibration(), "qfp", image_only, BOARD)
    assert settings.priming_registers(*args) is None
    found = registers(calibration(), replace(DUAL, image=None))
    assert (found["DAC1"], found["DAC2"]) == ((510,) * 4, (282,) * 4)


def test_priming_differs_from_the_load_in_dac2_alone() -> None:
    primed = settings.priming_registers(BASE, calibration(), "qfp", DUAL, BOARD)
    assert primed == registers(calibration()) | {"DAC2": (230, 230, 230, 230)}


@pytest.mark.parametrize("which", ["two_pixel_trigger", "three_pixel_trigger"])
def test_coincidence_sets_d1_d2_everywhere(which: str) -> None:
    ph = replace(PulseHeightConfig(12.5), **{which: True})
    assert registers(calibration(), replace(DUAL, pulse_height=ph))["D1_D2"] == (1, 1, 1, 1)


def test_everything_else_comes_from_the_file() -> None:
    base = replace(
        BASE, registers={**BASE.registers, "MASKOR1_7": (0, 1, 0, 1), "D1_D2": (0, 1, 0, 1)}
    )
    found = registers(calibration(), base=base)
    touched = {"DAC1", "DAC2", *(f"GAIN{k}" for k in range(64))}
    assert {t: v for t, v in found.items() if t not in touched} == {
        t: v for t, v in base.registers.items() if t not in touched
    }
    assert base.registers["DAC1"] == (510,) * 4, "the defaults are not written to"


@pytest.mark.parametrize("version", pixel_maps.VERSIONS)
@given(x=st.integers(0, 15), y=st.integers(0, 15), gain=st.floats(-1, 3))
def test_the_gain_of_a_pixel_goes_to_its_channel(version: str, x: int, y: int, gain: float) -> None:
    found = registers(calibration(gains={(x, y): gain}), version=version)
    channel, chip = pixel_maps.pixel_to_maroc(version, x, y)
    expected = {f"GAIN{k}": [60] * 4 for k in range(64)}
    expected[f"GAIN{channel}"][chip] = round(60 * (1 + gain))
    assert {tag: list(found[tag]) for tag in expected} == expected


def test_gains_round_half_to_even() -> None:
    data = replace(DUAL, gain=45.5)
    found = registers(calibration(gains={(8, 0): -1.0}), data)
    assert found["GAIN0"] == (46, 46, 46, 46)
    assert found["GAIN1"] == (0, 46, 46, 46)
    assert registers(calibration(), replace(DUAL, gain=44.5))["GAIN0"] == (44,) * 4


def test_a_gain_that_does_not_fit_is_named() -> None:
    (fault,) = faults(calibration(gains={(9, 3): 3.26}))
    assert fault.path == "$.pixel_gain[9][3]"
    assert fault.value == f"{BOARD}, quadrant 0: gain = 256"
    assert fault.remedy == "outside 0..255 at gain 60 of data_config.json; lower it"
    (fault,) = faults(calibration(gains={(0, 15): 4, (9, 3): 4, (12, 12): 4}))
    assert fault.value == f"{BOARD}, quadrant 2: gain = 300 (and 2 pixels more)"
    assert fault.path == "$.pixel_gain[0][15]"


def test_a_board_without_calibration_is_refused() -> None:
    bare = replace(LINES, ah=0.0, bh=0.0)
    found = faults(calibration(LINES, bare, LINES, bare))
    assert [fault.path for fault in found] == ["$.quadrants[1].ah", "$.quadrants[3].ah"]
    assert found[0].value == f"{BOARD}, quadrant 1: ah = bh = 0"
    assert "DAC2 would be 0 and trigger on everything" in found[0].remedy
    with pytest.raises(ConfigError, match="quadrant 1: ah = bh = 0"):
        settings.priming_registers(BASE, calibration(LINES, bare), "qfp", DUAL, BOARD)
    image_only = replace(DUAL, pulse_height=None)
    assert registers(calibration(bare), image_only)["DAC1"] == (201,) * 4
    (fault,) = faults(calibration(replace(LINES, a=0.0, b=0.0)), image_only)
    assert (fault.path, "DAC1 would be 0" in fault.remedy) == ("$.quadrants[0].a", True)


def test_all_that_is_wrong_with_a_board_is_told_at_once() -> None:
    found = faults(
        calibration(replace(LINES, b=1e4), replace(LINES, ah=0.0, bh=0.0), gains={(0, 0): 9.0})
    )
    assert [fault.path for fault in found] == [
        "$.quadrants[0]",
        "$.quadrants[1].ah",
        "$.pixel_gain[0][0]",
    ]
    assert found[0].value == f"{BOARD}, quadrant 0: DAC1 = 10045"
    assert "outside 0..1023 at 2 photoelectrons and gain 60; change" in found[0].remedy


FINITE = st.floats(-5000, 5000)


@given(FINITE, FINITE, st.floats(0, 255), st.floats(0.01, 100))
def test_a_threshold_is_the_line_cut_off_or_refused(
    slope: float, pedestal: float, gain: float, pe: float
) -> None:
    of = calibration(*[replace(LINES, ah=slope, bh=pedestal)] * 4)
    data = DataConfig("test", gain, None, PulseHeightConfig(pe))
    counts = slope * gain * pe + pedestal
    if 0 <= counts < 1024 and (slope, pedestal) != (0, 0):
        found = registers(of, data)
        assert found["DAC2"] == (math.floor(counts),) * 4
        maroc.setup(found)
    else:
        assert [fault.path[:14] for fault in faults(of, data)] == [
            f"$.quadrants[{q}]" for q in range(4)
        ]


@pytest.mark.parametrize("overvoltage_v", [2, 3])
@pytest.mark.parametrize("mode", ["img", "ph"])
def test_every_real_calibration_fits_or_is_not_calibrated(overvoltage_v: int, mode: str) -> None:
    folder = spec_data() / "quabos" / f"detovervol_{overvoltage_v}v" / mode
    refused = set()
    for path in sorted(folder.glob("*.json")):
        of = real_calibration(f"{folder.parent.name}/{mode}/{path.name}")
        try:
            maroc.setup(registers(of, DUAL if mode == "ph" else replace(DUAL, pulse_height=None)))
        except ConfigError as error:
            assert all("not calibrated" in fault.remedy for fault in error.faults)
            assert len(error.faults) == 4
            refused.add(path.stem[-2:])
    expected = {
        (2, "ph"): "02 09 31 32 34 35 36",
        (3, "ph"): "02 09 16 21 30 31 32 33 34 35 36",
    }
    assert refused == set(expected.get((overvoltage_v, mode), "").split())


# --- masks, acquisition, HV, rate ---


@given(
    st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 9),
    st.integers(0, 3),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_masks_change_what_the_triggers_ask_for_alone(
    words: tuple[int, ...], goe_mask: int, any_trigger: bool, two: bool, three: bool
) -> None:
    base = replace(BASE, channel_mask=words, goe_mask=goe_mask)
    ph = PulseHeightConfig(12.5, any_trigger, False, two, three)
    channels, goe = settings.masks(base, replace(DUAL, pulse_height=ph))
    assert channels.words[:8] == words[:8]
    assert bool(channels.words[8] & 0x100) is not any_trigger
    assert channels.words[8] & 0xFF == (0xFF if two or three else words[8] & 0xFF)
    assert channels.words[8] >> 9 == words[8] >> 9
    assert goe.value == goe_mask & (2 if two else 3) & (1 if three else 3)
    unchanged = settings.masks(base, replace(DUAL, pulse_height=None))
    assert (unchanged[0].words, unchanged[1].value) == (words, goe_mask)


def test_priming_and_stop() -> None:
    assert bytes(settings.priming_acquisition())[:6].hex() == "030001008713"
    assert bytes(settings.stop_acquisition())[:14].hex() == "0300100000000000000000004500"


@given(st.tuples(*[st.floats(20, 70)] * 4), st.floats(-20, 60))
def test_hv_codes_are_the_formula_cut_off(
    nominal_v: tuple[float, float, float, float], temp_c: float
) -> None:
    codes = settings.hv_codes(nominal_v, temp_c)
    for volts, code in zip(nominal_v, codes, strict=True):
        exact = Fraction(volts) + Fraction("0.054") * (Fraction(temp_c) - 25) + Fraction("1.073")
        exact /= Fraction("0.0011453")
        assert code - Fraction("1e-6") <= exact < code + 1 + Fraction("1e-6")
    warmer = settings.hv_codes(nominal_v, temp_c + 1)
    assert all(
        b - a in (47, 48) for a, b in zip(settings.hv_codes(nominal_v, temp_c), warmer, strict=True)
    )


@pytest.mark.parametrize(
    ("volts", "temp_c", "detector"),
    [(75.0, 25, 2), (-1.2, 25, 2), (math.nan, 25, 2), (54.0, math.inf, 0), (54.0, 400, 0)],
)
def test_hv_out_of_range_is_refused(volts: float, temp_c: float, detector: int) -> None:
    with pytest.raises(ValueError, match=f"of detector {detector} is outside 0..65535"):
        settings.hv_codes((54.0, 54.0, volts, 54.0), temp_c)


def test_data_rate() -> None:
    assert settings.data_rate_bytes_s(DUAL) == 5200 + 1000 * (2048 + 600) + 2648
    image8 = DataConfig("test", 60, ImageConfig(20, 2.0, 8), None)
    assert settings.data_rate_bytes_s(image8) == 5200 + 50000 * 1624
    assert settings.data_rate_bytes_s(replace(DUAL, image=None)) == 7848
