"""PH baselines compared: every drift, dead and hot channel by board and pixel, and the picture."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.boards.pixel_maps import pixel_to_maroc
from panoseti.calibration.ph_compare import Board, Kind, Limits, compare, lines
from panoseti.configs.board_files import ph_baseline_text, read_ph_baseline
from panoseti.configs.site import PhBaseline
from simulator.response import baseline_of
from simulator.sites import uid_of
from tests.helpers import REPO, spec_data
from tools import ph_picture

UID = uid_of(1016)
BOARDS = {UID: Board("SN01016", "qfp")}
WIRING = tuple((pixel // 64, pixel % 64) for pixel in range(256))
USUAL = tuple(baseline_of(1016, None, WIRING))


def value_of(x: int, y: int, version: str = "qfp") -> int:
    """Where the value of a pixel stands."""
    channel, chip = pixel_to_maroc(version, x, y)
    return 4 * channel + chip


def moved(*changes: tuple[int, int], by: int = 0) -> tuple[int, ...]:
    """The usual values moved by some counts, pixels n set to values of their own."""
    values = [value + by for value in USUAL]
    for pixel, value in changes:
        values[pixel] = value
    return tuple(values)


def test_a_set_like_the_one_before_is_sound() -> None:
    (board,) = compare({UID: USUAL}, {UID: USUAL}, BOARDS)
    assert (board.board.name, board.shifts, board.drift_rms, board.sound) == (
        "SN01016", (0, 0, 0, 0), 0, True,
    )  # fmt: skip
    assert lines(board) == []


@pytest.mark.parametrize("version", ["qfp", "bga"])
def test_each_kind_is_named_by_board_and_pixel(version: str) -> None:
    dead, hot, drift, within = (
        value_of(x, y, version) for x, y in ((5, 3), (15, 15), (1, 1), (2, 1))
    )
    now = moved((dead, 12), (hot, 4095), (drift, USUAL[drift] + 21), (within, USUAL[within] + 20))
    (board,) = compare({UID: USUAL}, {UID: now}, {UID: Board("SN01016", version)})
    assert {(f.kind, f.pixel, f.new) for f in board.findings} == {
        (Kind.DEAD, (5, 3), True), (Kind.HOT, (15, 15), True), (Kind.DRIFTED, (1, 1), True),
    }  # fmt: skip
    assert lines(board) == [
        f"SN01016: 1 channel dead (1 of them new): pixel (5, 3) {USUAL[dead]} -> 12",
        f"SN01016: 1 channel hot (1 of them new): pixel (15, 15) {USUAL[hot]} -> 4095",
        f"SN01016: 1 channel drifted: pixel (1, 1) {USUAL[drift]} -> {USUAL[drift] + 21}",
    ]
    # Dead and hot channels do not count for the drift of the others.
    assert board.drift_rms == pytest.approx(((21**2 + 20**2) / 254) ** 0.5)


def test_of_a_board_of_unknown_wiring_the_channel_is_named() -> None:
    (board,) = compare(None, {UID: moved((53, 12))})
    assert lines(board) == [f"{UID}: 1 channel dead: channel 13 of chip 1 12"]


def test_what_was_dead_before_is_not_new() -> None:
    now = moved((3, 0), (4, 0))
    (board,) = compare({UID: moved((3, 0))}, {UID: now})
    assert [(f.value, f.new) for f in board.of(Kind.DEAD)] == [(3, False), (4, True)]
    assert lines(board)[0].startswith(
        f"{UID}: 2 channels dead (1 of them new): channel 0 of chip 3"
    )
    (same,) = compare({UID: now}, {UID: now})
    assert "(as before)" in lines(same)[0]


def test_a_chip_or_a_board_that_moves_as_a_whole_is_one_line() -> None:
    """A new gain moves all channels: that is one fact, not 256."""
    (board,) = compare({UID: USUAL}, {UID: moved(by=-31)})
    assert (board.shifts, board.shifted, board.findings) == ((-31,) * 4, (0, 1, 2, 3), ())
    chips = ", ".join(f"chip {chip} by -31" for chip in range(4))
    assert lines(board) == [f"{UID}: moved as a whole: {chips} counts"]
    (within,) = compare({UID: USUAL}, {UID: moved(by=30)})
    assert within.sound
    one = moved(*((value, USUAL[value] + 40) for value in range(2, 256, 4)))
    (chip,) = compare({UID: USUAL}, {UID: one}, BOARDS)
    assert lines(chip) == ["SN01016: moved as a whole: chip 2 by +40 counts"]


def test_without_an_earlier_set_there_is_no_drift() -> None:
    other = uid_of(1017)
    for before in (None, {}, {other: USUAL}):
        (board,) = compare(before, {UID: moved((0, 499), (1, 500), (2, 1300), (3, 1301))})
        assert (board.shifts, board.drift_rms, board.shifted) == (None, None, ())
        assert [(f.kind, f.value) for f in board.findings] == [(Kind.DEAD, 0), (Kind.HOT, 3)]
        assert lines(board)[0] == f"{UID}: 1 channel dead: channel 0 of chip 0 499"


def test_many_channels_are_counted_not_listed() -> None:
    (board,) = compare(None, {UID: (0,) * 256})
    (line,) = lines(board)
    assert line.startswith(f"{UID}: 256 channels dead: channel 0 of chip 0 0, channel 0 of chip 1")
    assert line.endswith("channel 1 of chip 1 0 and 250 more")


@given(
    st.lists(st.integers(0, 65535), min_size=256, max_size=256),
    st.lists(st.integers(0, 65535), min_size=256, max_size=256),
)
def test_every_finding_and_no_other(before: list[int], now: list[int]) -> None:
    limits = Limits()
    (board,) = compare({UID: before}, {UID: now})
    assert board.shifts is not None
    found = {finding.value: finding.kind for finding in board.findings}
    for value in range(256):
        kind = found.get(value)
        if now[value] < limits.dead_below:
            assert kind is Kind.DEAD
        elif now[value] > limits.hot_above:
            assert kind is Kind.HOT
        else:
            shift = board.shifts[value % 4]
            drifted = abs(now[value] - before[value] - shift) > limits.channel_drift
            assert kind is (Kind.DRIFTED if drifted else None)


def test_limits_must_make_sense() -> None:
    for wrong in ({"dead_below": 2000}, {"dead_below": -1}, {"channel_drift": 0}):
        with pytest.raises(ValueError):
            Limits(**wrong)


def test_real_baselines_are_sound() -> None:
    place = spec_data() / "field_samples" / "quabo_ph_baseline.json"
    baseline = read_ph_baseline(place)
    assert all(board.sound for board in compare(baseline.coefs, baseline.coefs))


def test_real_baselines_come_as_the_chips_are_read_out() -> None:
    """Values go by n % 4: within a chip they are alike, between chips they are not."""
    place = spec_data() / "field_samples" / "quabo_ph_baseline.json"
    for values in read_ph_baseline(place).coefs.values():
        chips = [values[chip::4] for chip in range(4)]
        assert max(statistics.pstdev(chip) for chip in chips) < 13
        assert statistics.pstdev(statistics.fmean(chip) for chip in chips) > 30


# --- the picture ---


def colours(path: Path, colour: tuple[float, float, float]) -> int:
    """How many dots of the picture have that colour."""
    image = matplotlib.image.imread(path)[:, :, :3]
    return int((abs(image - colour).max(axis=2) < 0.02).sum())


CYAN, RED = (0.0, 1.0, 1.0), (1.0, 0.0, 0.0)


def test_the_picture_shows_each_board_and_frames_what_is_odd(tmp_path: Path) -> None:
    sound = PhBaseline(1.79e9, {UID: USUAL, uid_of(1017): USUAL})
    odd = PhBaseline(1.79e9 + 3600, {UID: moved((40, 0)), uid_of(1017): moved((50, 4000))})
    plain, marked = tmp_path / "plain.png", tmp_path / "marked.png"
    assert all(board.sound for board in ph_picture.draw(sound, plain))
    found = ph_picture.draw(odd, marked, sound, BOARDS)
    assert [one.board.name for one in found] == ["SN01016", uid_of(1017)]
    small, large = matplotlib.image.imread(plain).shape, matplotlib.image.imread(marked).shape
    assert large[0] > 1.5 * small[0] and large[1] == small[1]  # a second row: the change
    assert (colours(plain, CYAN), colours(plain, RED)) == (0, 0)
    assert colours(marked, CYAN) > 30 and colours(marked, RED) > 30
    with pytest.raises(ValueError, match="nothing to draw"):
        ph_picture.draw(PhBaseline(0.0, {}), plain)
    assert ph_picture.grid(Board("unknown"), range(256))[3, 5] == 16 * 3 + 5
    for version in ("qfp", "bga"):
        drawn = ph_picture.grid(Board("known", version), range(256))
        assert drawn[3, 5] == value_of(5, 3, version)


def test_the_picture_by_hand(tmp_path: Path) -> None:
    now, before = tmp_path / "now.json", tmp_path / "before.json"
    now.write_text(ph_baseline_text(1.79e9, {UID: moved((value_of(8, 2), 0))}))
    before.write_text(ph_baseline_text(1.78e9, {UID: USUAL}))

    def tool(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.ph_picture", *words],
            cwd=REPO, capture_output=True, text=True, timeout=110,
        )  # fmt: skip

    site = tmp_path / "site"
    shutil.copytree(REPO / "quabos", site / "quabos")
    info = site / "quabos" / "quabo_info.json"
    info.write_text(info.read_text().replace("SN01016", "SN09016"))
    output = tmp_path / "ph_baseline.png"
    done = tool(str(now), "--before", str(before), "--config_dir", str(site))
    assert (done.returncode, done.stdout) == (0, f"{output}\n")
    assert "SN09016: 1 channel dead (1 of them new): pixel (8, 2)" in done.stderr
    assert output.stat().st_size > 5000
    done = tool(str(tmp_path / "none.json"))
    assert done.returncode == 1
    assert done.stderr.startswith("ph_picture: none.json: ") and "Traceback" not in done.stderr
