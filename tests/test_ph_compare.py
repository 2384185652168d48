"""PH baselines compared: every drift, dead and hot channel by board and pixel, and the picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.board_files import ph_baseline_text, read_ph_baseline
from panoseti.ph_compare import Kind, Limits, compare, lines, not_measured
from panoseti.site import PhBaseline
from simulator.response import baseline_of
from simulator.sites import uid_of
from tests.helpers import REPO, spec_data
from tools import ph_picture

UID = uid_of(1016)
WIRING = tuple((pixel // 64, pixel % 64) for pixel in range(256))
USUAL = tuple(baseline_of(1016, None, WIRING))


def moved(*changes: tuple[int, int], by: int = 0) -> tuple[int, ...]:
    """The usual values moved by some counts, pixels n set to values of their own."""
    values = [value + by for value in USUAL]
    for pixel, value in changes:
        values[pixel] = value
    return tuple(values)


def test_a_set_like_the_one_before_is_sound() -> None:
    (board,) = compare({UID: USUAL}, {UID: USUAL}, {UID: "SN01016"})
    assert (board.name, board.shift, board.drift_rms, board.sound) == ("SN01016", 0, 0, True)
    assert lines(board) == []


def test_each_kind_is_named_by_board_and_pixel() -> None:
    now = moved((16 * 3 + 5, 12), (255, 4095), (17, USUAL[17] + 21), (18, USUAL[18] + 20))
    (board,) = compare({UID: USUAL}, {UID: now}, {UID: "SN01016"})
    assert {(f.kind, f.x, f.y, f.new) for f in board.findings} == {
        (Kind.DEAD, 5, 3, True), (Kind.HOT, 15, 15, True), (Kind.DRIFTED, 1, 1, True),
    }  # fmt: skip
    assert lines(board) == [
        f"SN01016: 1 channel dead (1 of them new): pixel (5, 3) {USUAL[53]} -> 12",
        f"SN01016: 1 channel hot (1 of them new): pixel (15, 15) {USUAL[255]} -> 4095",
        f"SN01016: 1 channel drifted: pixel (1, 1) {USUAL[17]} -> {USUAL[17] + 21}",
    ]
    # Dead and hot channels do not count for the drift of the others.
    assert board.drift_rms == pytest.approx(((21**2 + 20**2) / 254) ** 0.5)


def test_what_was_dead_before_is_not_new() -> None:
    now = moved((3, 0), (4, 0))
    (board,) = compare({UID: moved((3, 0))}, {UID: now})
    assert [(f.pixel, f.new) for f in board.of(Kind.DEAD)] == [(3, False), (4, True)]
    assert lines(board)[0].startswith(f"{UID}: 2 channels dead (1 of them new): pixel (3, 0) 0 -> ")
    (same,) = compare({UID: now}, {UID: now})
    assert "(as before)" in lines(same)[0]


def test_a_board_that_moves_as_a_whole_is_one_line() -> None:
    """A new gain moves all channels: that is one fact, not 256."""
    (board,) = compare({UID: USUAL}, {UID: moved(by=-31)})
    assert (board.shift, board.shifted, board.findings) == (-31, True, ())
    assert lines(board) == [f"{UID}: the whole board moved by -31 counts"]
    (within,) = compare({UID: USUAL}, {UID: moved(by=30)})
    assert within.sound


def test_without_an_earlier_set_there_is_no_drift() -> None:
    other = uid_of(1017)
    for before in (None, {}, {other: USUAL}):
        (board,) = compare(before, {UID: moved((0, 499), (1, 500), (2, 1300), (3, 1301))})
        assert (board.shift, board.drift_rms, board.shifted) == (None, None, False)
        assert [(f.kind, f.pixel) for f in board.findings] == [(Kind.DEAD, 0), (Kind.HOT, 3)]
        assert lines(board)[0] == f"{UID}: 1 channel dead: pixel (0, 0) 499"
    assert not_measured({other: USUAL}, {UID: USUAL}) == [other]
    assert not_measured(None, {UID: USUAL}) == []


def test_many_channels_are_counted_not_listed() -> None:
    (board,) = compare(None, {UID: (0,) * 256})
    (line,) = lines(board)
    assert line.startswith(f"{UID}: 256 channels dead: pixel (0, 0) 0, pixel (1, 0) 0")
    assert line.endswith("pixel (5, 0) 0 and 250 more")


@given(
    st.lists(st.integers(0, 65535), min_size=256, max_size=256),
    st.lists(st.integers(0, 65535), min_size=256, max_size=256),
)
def test_every_finding_and_no_other(before: list[int], now: list[int]) -> None:
    limits = Limits()
    (board,) = compare({UID: before}, {UID: now})
    assert board.shift is not None
    by_pixel = {finding.pixel: finding for finding in board.findings}
    for pixel in range(256):
        kind = by_pixel[pixel].kind if pixel in by_pixel else None
        if now[pixel] < limits.dead_below:
            assert kind is Kind.DEAD
        elif now[pixel] > limits.hot_above:
            assert kind is Kind.HOT
        else:
            drifted = abs(now[pixel] - before[pixel] - board.shift) > limits.channel_drift
            assert kind is (Kind.DRIFTED if drifted else None)


def test_limits_must_make_sense() -> None:
    for wrong in ({"dead_below": 2000}, {"dead_below": -1}, {"channel_drift": 0}):
        with pytest.raises(ValueError):
            Limits(**wrong)


def test_real_baselines_are_sound() -> None:
    place = spec_data() / "field_samples" / "quabo_ph_baseline.json"
    baseline = read_ph_baseline(place)
    assert all(board.sound for board in compare(baseline.coefs, baseline.coefs))


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
    found = ph_picture.draw(odd, marked, sound, {UID: "SN01016"})
    assert [board.name for board in found] == ["SN01016", uid_of(1017)]
    small, large = matplotlib.image.imread(plain).shape, matplotlib.image.imread(marked).shape
    assert large[0] > 1.5 * small[0] and large[1] == small[1]  # a second row: the change
    assert (colours(plain, CYAN), colours(plain, RED)) == (0, 0)
    assert colours(marked, CYAN) > 30 and colours(marked, RED) > 30
    with pytest.raises(ValueError, match="nothing to draw"):
        ph_picture.draw(PhBaseline(0.0, {}), plain)
    assert ph_picture.grid(range(256))[3, 5] == 16 * 3 + 5


def test_the_picture_by_hand(tmp_path: Path) -> None:
    now, before = tmp_path / "now.json", tmp_path / "before.json"
    now.write_text(ph_baseline_text(1.79e9, {UID: moved((40, 0))}))
    before.write_text(ph_baseline_text(1.78e9, {UID: USUAL}))

    def tool(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.ph_picture", *words],
            cwd=REPO, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    output = tmp_path / "look.png"
    done = tool(str(now), "--before", str(before), "-o", str(output))
    assert (done.returncode, done.stdout) == (0, f"{output}\n")
    assert "SN01016: 1 channel dead (1 of them new): pixel (8, 2)" in done.stderr
    assert output.stat().st_size > 5000
    done = tool(str(tmp_path / "none.json"))
    assert done.returncode == 1
    assert done.stderr.startswith("ph_picture: none.json: ") and "Traceback" not in done.stderr
