"""Thresholds, gains and hot pixels measured in the dark, on boards whose truth is known."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoseti.boards import commands, maroc
from panoseti.boards.board_link import Send
from panoseti.boards.board_work import Work
from panoseti.boards.pixel_maps import maroc_to_pixel
from panoseti.bringup.board_settings import CLOSED, OPEN, BoardSettings
from panoseti.bringup.board_setup import calibrate_ph, load_maroc, move_shutters, shutter_state
from panoseti.bringup.ledger import Step
from panoseti.bringup.ledger_file import LedgerFile, read_ledger
from panoseti.calibration import pixel_masks, threshold_fit
from panoseti.calibration.threshold_fit import Curve, QuadrantFit, fit_quadrant, steps
from panoseti.calibration.threshold_measure import BoardProposal, measure_thresholds
from panoseti.calibration.threshold_proposal import BoardFit, calibration_document
from panoseti.calibration.threshold_scan import ScanPlan
from panoseti.configs import settings
from panoseti.configs.board_files import SHIPPED, load_board_db, quabo_uids_text
from panoseti.configs.load_configs import Site, load_site
from panoseti.console import Console
from panoseti.errors import ConfigError, ObsError, RefusedError
from panoseti.flight import FlightRecorder
from panoseti.runs import pff
from panoseti.runs.names import data_file_name
from panoseti.runs.run_state import RUN_NAME_FILE
from simulator.client import SimulatorClient
from simulator.sites import Identity, read_site, uid_of
from tests.helpers import REPO, wait_for
from tests.simulated import Simulation, simulation, udp_socket
from tests.site_files import DATA, OBS, changed, write_site

# --- staircases, made here in another way than the simulator makes them ---


def staircase(
    a: float = 0.375,
    b: float = 156.0,
    gain: float = 60.0,
    correction: float = 0.0,
    crosstalk: float = 0.1,
    dark_hz: float = 60e3,
    noise_dac: float = 2.5,
    seed: int = 0,
    step: int = 2,
    frames: int = 8,
    frame_s: float = 0.02,
) -> Curve:
    """A pixel as real ones are: a peak of noise at the pedestal, and counts that fluctuate."""
    draw = random.Random(seed)
    size = a * gain / (1 + correction)
    dac = list(range(int(b) - 8, int(b) + 120, step))
    counts = []
    for value in dac:
        pe = (value - b) / size
        rate = dark_hz * sum(
            crosstalk ** (n - 1) * 0.5 * math.erfc((pe - n) / 0.12 / math.sqrt(2))
            for n in range(1, 9)
        )
        rate += 5e6 * math.exp(-0.5 * ((value - b) / noise_dac) ** 2)
        expected = rate * frame_s * frames
        counts.append(max(0.0, round(draw.gauss(expected, math.sqrt(expected)))) / frames)
    return Curve(dac, counts, frames)


@pytest.mark.parametrize("crosstalk", [0.04, 0.1, 0.25])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_line_of_a_quadrant_is_found(crosstalk: float, step: int) -> None:
    draw = random.Random(step)
    truth = {pixel: draw.uniform(-0.3, 0.3) for pixel in range(64)}
    curves = {
        pixel: staircase(correction=value, crosstalk=crosstalk, seed=pixel, step=step)
        for pixel, value in truth.items()
    }
    fit = fit_quadrant(curves, 60.0, sum(truth.values()) / 64)
    assert fit.b == pytest.approx(156.0, abs=0.15)
    assert fit.a == pytest.approx(0.375, rel=0.01)
    assert fit.misfit < 0.2
    assert len(fit.correction) >= 60 and len(fit.correction) + len(fit.problems) == 64
    errors = [abs(fit.correction[pixel] - truth[pixel]) for pixel in fit.correction]
    assert max(errors) < 0.03 and sum(errors) / len(errors) < 0.01


def test_a_mean_correction_that_is_kept_only_moves_the_scale() -> None:
    curves = {pixel: staircase(correction=pixel / 100, seed=pixel) for pixel in range(16)}
    plain, moved = fit_quadrant(curves, 60.0, 0.0), fit_quadrant(curves, 60.0, 0.1)
    assert moved.a == pytest.approx(1.1 * plain.a)
    for pixel in curves:
        # What the pixel does, a / (1 + pixel_gain), is measured; how it is shared is not.
        assert plain.a / (1 + plain.correction[pixel]) == pytest.approx(
            moved.a / (1 + moved.correction[pixel])
        )


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([0.0] * 40, "no counts at any threshold"),
        ([65535.0] * 40, "nothing but noise up to the end"),
        ([65535.0] * 4 + [0.0] * 36, "0 steps in its counts"),
        ([65535.0] * 4 + [1000.0] * 12 + [0.0] * 24, "1 steps in its counts"),
        ([65535.0] * 4 + [9e3] * 22 + [9e2] * 6 + [90.0] * 9, "first step is 3.8 photoelectrons"),
        ([65535.0] * 4 + [9e3] * 5 + [9e2] * 4 + [90.0] * 9, "4.0 points per photoelectron"),
    ],
)
def test_what_is_no_staircase_is_said(counts: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        steps(Curve(list(range(100, 100 + 2 * len(counts), 2)), counts, 8))


def test_odd_pixels_do_not_spoil_a_quadrant() -> None:
    curves = {pixel: staircase(seed=pixel) for pixel in range(64)}
    curves[3] = Curve(curves[3].dac, [0.0] * len(curves[3].dac), 8)
    curves[9] = staircase(b=170.0, seed=9)  # of a pedestal of its own
    curves[11] = staircase(dark_hz=2e6, seed=11)  # hot
    fit = fit_quadrant(curves, 60.0, 0.0)
    assert fit.problems[3] == "no counts at any threshold"
    assert "photoelectrons off the pedestal" in fit.problems[9]
    assert fit.correction[11] == pytest.approx(0.0, abs=0.03)
    assert (fit.a, fit.b) == (pytest.approx(0.375, rel=0.01), pytest.approx(156.0, abs=0.15))
    with pytest.raises(
        ValueError, match="7 pixels show a clean staircase, 8 are needed; is the hi"
    ):
        fit_quadrant({pixel: curves[pixel] for pixel in range(20, 27)}, 60.0, 0.0)


@given(
    b=st.floats(0, 500),
    sizes=st.lists(st.floats(5, 60), min_size=8, max_size=64),
    counts=st.lists(st.integers(2, 4), min_size=64, max_size=64),
)
def test_exact_steps_give_the_exact_line(b: float, sizes: list[float], counts: list[int]) -> None:
    places = {
        pixel: [b + n * size for n in range(1, counts[pixel] + 1)]
        for pixel, size in enumerate(sizes)
    }
    found, found_sizes = threshold_fit._line(places)
    assert found == pytest.approx(b, abs=1e-6)
    assert list(found_sizes.values()) == pytest.approx(sizes)


# --- what is proposed ---


LINE = QuadrantFit(0.4, 160.0, {17: 0.12346}, {5: "no counts at any threshold"}, 0.1)


def test_a_proposal_keeps_what_a_dark_scan_does_not_tell(tmp_path: Path) -> None:
    db = load_board_db(REPO)
    board = db.board(uid_of(1016))
    before = json.loads(db.calibration_path(board, 3, "ph").read_text())
    fit = BoardFit((LINE,) * 4, ("",) * 4, None)
    document = calibration_document(fit, board, before)
    assert document is not None
    for chip in range(4):
        old, new = before["quadrants"][chip], document["quadrants"][chip]
        assert (new["a"], new["b"]) == (0.4, 160.0)
        assert {**new, "a": 0, "b": 0} == {**old, "a": 0, "b": 0}
    assert document["pixel_gain"][1][1] == 0.1235  # pixel 17 is (1, 1)
    assert document["pixel_gain"][5][0] == before["pixel_gain"][5][0]
    fresh = calibration_document(fit, board, None)
    assert fresh is not None
    assert fresh["quadrants"][2] == {
        "detserial": board.detector_serialno[2], "a": 0.4, "b": 160.0, "ah": 0, "bh": 0, "m": 0,
        "n": 0,
    }  # fmt: skip
    assert sum(value != 0 for column in fresh["pixel_gain"] for value in column) == 1
    missing = BoardFit((LINE, None, LINE, LINE), ("", "no", "", ""), None)
    assert calibration_document(missing, board, before) is None


def test_hot_and_dead_pixels_by_their_counts() -> None:
    counts = [100.0 + pixel % 50 for pixel in range(256)]
    counts[7], counts[9], counts[200] = 5000.0, 0.0, 400.0
    odd = pixel_masks.odd_pixels(counts)
    assert (odd.hot, odd.dead) == ((7,), (9,))
    assert pixel_masks.odd_pixels(counts, hot_factor=3).hot == (7, 200)
    with pytest.raises(ValueError, match="nothing to compare with"):
        pixel_masks.odd_pixels([0.0] * 200 + [9.0] * 56)


@pytest.mark.parametrize("version", ["qfp", "bga"])
def test_mask_bits_are_those_of_the_channels_that_read_the_pixels(version: str) -> None:
    for chip in range(4):
        for channel in (0, 17, 63):
            x, y = maroc_to_pixel(version, channel, chip)
            pixel = pixel_masks.number(x, y)
            assert pixel_masks.place(pixel) == (x, y)
            values = tuple(int(c == chip) for c in range(4))
            assert pixel_masks.mask_bits(version, [pixel]) == {
                f"MASKOR1_{channel}": values, f"MASKOR2_{channel}": values,
            }  # fmt: skip
            words = pixel_masks.channel_words([pixel])
            assert [n for n in range(256) if words[n // 32] >> n % 32 & 1] == [pixel]
            words = pixel_masks.channel_words([pixel], version)
            bits = [n for n in range(256) if words[n // 32] >> n % 32 & 1]
            assert bits == [64 * chip + channel]
    everything = pixel_masks.channel_words(range(256), version)
    assert everything == (0xFFFFFFFF,) * 8
    with pytest.raises(ValueError, match="no pixel 256"):
        pixel_masks.mask_bits(version, [256])


# --- masked pixels in the settings ---


def masked_site(folder: Path, content: str) -> Site:
    shutil.copytree(SHIPPED, folder / "quabos")
    (folder / "quabos" / "masked_pixels.json").write_text(content)
    return load_site(write_site(folder))


def test_masked_pixels_reach_the_settings_of_their_board_alone(tmp_path: Path) -> None:
    plain = BoardSettings(load_site(write_site(tmp_path / "plain")))
    masked = BoardSettings(masked_site(tmp_path / "masked", '{"SN01019": [[3, 5], [0, 0]]}'))
    bga, other = uid_of(1019), uid_of(1018)
    wanted, priming = masked.registers("192.168.3.251", bga)
    assert priming is not None
    without, _ = plain.registers("192.168.3.251", bga)
    pixels = [pixel_masks.number(3, 5), pixel_masks.number(0, 0)]
    assert wanted == {**without, **pixel_masks.mask_bits("bga", pixels)} != without
    assert sum(sum(priming[f"MASKOR2_{k}"]) for k in range(64)) == 2
    maroc.setup(wanted)
    assert masked.registers("192.168.3.250", other) == plain.registers("192.168.3.250", other)
    # The ledger sees it too, and says it in words.
    assert masked.inputs(Step.MAROC, other) == plain.inputs(Step.MAROC, other)
    inputs = masked.inputs(Step.MAROC, bga)
    assert inputs["masked_pixels.json"] == {"pixels": "(0,0) (3,5)"}
    masks = {"masked_pixels.json": inputs["masked_pixels.json"]}
    assert inputs == {**plain.inputs(Step.MAROC, bga), **masks}


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ('{"SN01019": [[3, 16]]}', "$.SN01019[0][1]"),
        ('{"SN01019": [[3]]}', "$.SN01019[0]"),
        ('{"1019": [[3, 5]]}', "$"),
        ("[]", "$"),
        ("{", "$"),
    ],
)
def test_faults_of_masked_pixels(tmp_path: Path, content: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BoardSettings(masked_site(tmp_path, content)).registers("192.168.3.251", uid_of(1019))
    assert [(f.file, f.path) for f in caught.value.faults] == [("masked_pixels.json", path)]


# --- a scan of simulated boards ---

PLAN = ScanPlan(frames=3, dac_step=3)
HOT, DEAD = (37, 200), (90,)


@dataclasses.dataclass
class Bench:
    """A module of simulated boards under high voltage, and the site they belong to."""

    simulation: Simulation
    sim: SimulatorClient
    site: Site
    identities: dict[str, Identity]

    @property
    def data_dir(self) -> Path:
        return self.site.head_data_dir

    def work(self) -> Work:
        known = {quabo.ip: uid_of(quabo.boardloc) for quabo in self.site.obs.quabos}
        book = LedgerFile(self.data_dir, read_ledger(self.data_dir))
        flight = FlightRecorder(self.data_dir, "test")
        return Work(self.site, self.site.obs.quabos, book, Console(), flight, known)

    def high_voltage(self, volts: float) -> None:
        """Set the bias of all boards and wait until it is there."""
        code = settings.hv_codes((volts,) * 4, 25.0) if volts else (0, 0, 0, 0)
        with self.work().link() as link:
            link.run({q.ip: [Send(commands.SetHv(code))] for q in self.site.obs.quabos})
        wait_for(lambda: all(abs(v - volts) < 2 for v in self.volts()), f"{volts} V")

    def volts(self) -> list[float]:
        boards = self.sim.state()["boards"].values()
        return [volt for board in boards for volt in board["hv"]["volts"]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    with simulation(tmp_path_factory.mktemp("boards"), options=("--silver",)) as found:
        yield found


@pytest.fixture
def bench(running: Simulation, tmp_path: Path) -> Iterator[Bench]:
    raw = json.loads((running.config_dir / "obs_config.json").read_text())
    node = {"ip_addr": running.head, "username": "obs", "data_dir": str(tmp_path / "data"),
            "module_ids": "0-255"}  # fmt: skip
    daq = {
        "head_node_ip_addr": running.head,
        "head_node_data_dir": str(tmp_path / "data"),
        "daq_nodes": [node],
    }
    (tmp_path / "site").mkdir()
    shutil.copytree(SHIPPED, tmp_path / "site" / "quabos")
    site = load_site(write_site(tmp_path / "site", raw, daq, DATA))
    site.head_data_dir.mkdir()
    identities = {one.ip: one for one in read_site(running.config_dir).quabos}
    with running.client() as sim:
        bench = Bench(running, sim, site, identities)
        yield bench
        sim.fault("all", "none")
        bench.high_voltage(0.0)


def check_against_truth(bench: Bench, proposal: BoardProposal, odd: set[int]) -> None:
    """The proposed file says what the simulator made the board's counts from."""
    truth = bench.identities[proposal.ip].truth
    assert proposal.file is not None
    document = json.loads(Path(proposal.file).read_text())
    for chip, quadrant in enumerate(document["quadrants"]):
        assert quadrant["a"] == pytest.approx(truth.image_slope[chip], rel=0.01)
        assert quadrant["b"] == pytest.approx(truth.image_pedestal[chip], abs=0.2)
        assert quadrant["ah"] == truth.ph_slope[chip]
    errors = [
        abs(document["pixel_gain"][x][y] - truth.pixel_gain[x][y])
        for x in range(16)
        for y in range(16)
        if pixel_masks.number(x, y) not in odd
    ]
    assert max(errors) < 0.03 and sum(errors) / len(errors) < 0.006


def test_lines_gains_and_odd_pixels_are_those_of_the_simulator(bench: Bench) -> None:
    second, silent, last = (quabo.ip for quabo in bench.site.obs.quabos[1:])
    bench.sim.fault(second, "hot_pixels", pixels=list(HOT), factor=12)
    bench.sim.fault(last, "dead_pixels", pixels=list(DEAD))
    bench.sim.science(silent, loss=1.0)
    bench.high_voltage(55.0)
    work = bench.work()
    before = {path: path.read_bytes() for path in (bench.site.command_dir / "quabos").rglob("*.j*")}
    load_maroc(work, work.boards[:2])
    move_shutters(work, [work.boards[1]], OPEN)
    try:
        rows = measure_thresholds(work, work.boards, PLAN)
    finally:
        bench.sim.science(silent)
    # A board whose images do not come costs nobody else the scan.
    ((where, text),) = [(problem.where, problem.text) for problem in work.problems]
    assert where == silent
    assert text.startswith("confirms its settings but sends no images here")
    by_ip = {row.ip: row for row in rows}
    assert list(by_ip) == [quabo.ip for quabo in work.boards if quabo.ip != silent]
    for row in rows:
        check_against_truth(bench, row, {*HOT, *DEAD})
        assert row.hot == (tuple(map(pixel_masks.place, HOT)) if row.ip == second else ())
        assert row.dead == (tuple(map(pixel_masks.place, DEAD)) if row.ip == last else ())
        assert [q.problem for q in row.quadrants] == [""] * 4
    assert [q.unclear for q in by_ip[last].quadrants].count(1) == 1

    # The boards are as before: settings of data taking where there were some, no images, shutter.
    boards = bench.sim.state()["boards"]
    assert [work.ledger.done(q.ip, Step.MAROC) is not None for q in work.boards] == [
        True, True, False, False,
    ]  # fmt: skip
    for quabo in work.boards[:2]:
        wanted, _ = work.settings.registers(quabo.ip, work.uids[quabo.ip])
        chips = tuple(bytes.fromhex(chip) for chip in boards[quabo.ip]["maroc"])
        assert maroc.used_bits_equal(maroc.setup(wanted), commands.MarocSetup(chips))
    assert all(board["streams"]["image"] is None for board in boards.values())
    assert boards[second]["shutter_open"]
    assert shutter_state(work.ledger, work.boards[1]) == OPEN

    # Nothing that was there has changed; what is proposed can be taken as it is.
    assert {path: path.read_bytes() for path in before} == before
    folder = Path(rows[0].scan).parent
    assert folder.parent == bench.data_dir / "calibration"
    for row in rows:
        assert row.file is not None
        for mode in ("img", "ph"):
            target = bench.site.command_dir / "quabos" / "detovervol_3v" / mode
            shutil.copy(row.file, target / Path(row.file).name)
    shutil.copy(folder / "masked_pixels.json", bench.site.command_dir / "quabos")
    taken = BoardSettings(bench.site)
    assert taken.db.masked == {"SN01017": tuple(sorted(map(pixel_masks.place, HOT)))}
    for ip in by_ip:
        uid = work.uids[ip]
        new, _ = taken.registers(ip, uid)
        old, _ = work.settings.registers(ip, uid)
        assert all(abs(a - b) <= 1 for a, b in zip(new["DAC1"], old["DAC1"], strict=True))
    masks = json.loads((folder / "masks.json").read_text())
    assert masks["SN01017"]["MASKOR"] == {
        tag: ",".join(map(str, values)) for tag, values in pixel_masks.mask_bits("qfp", HOT).items()
    }
    _plots(folder)


def _plots(folder: Path) -> None:
    """One plot is as good as four."""
    for number in (1016, 1017):
        (folder / f"scan_SN0{number}.json").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "tools.threshold_plots", str(folder)],
        cwd=REPO, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plots = sorted(folder.glob("*.png"))
    assert [plot.name for plot in plots] == ["scan_SN01019.png"]
    assert done.stdout.split() == list(map(str, plots))
    assert all(plot.stat().st_size > 50_000 for plot in plots)


@pytest.mark.long
@pytest.mark.parametrize("gain", [40, 85])
def test_the_usual_plan_at_other_gains(bench: Bench, gain: int) -> None:
    bench.site = load_site(
        write_site(
            bench.site.command_dir,
            (bench.site.command_dir / "obs_config.json").read_text(),
            (bench.site.command_dir / "daq_config.json").read_text(),
            {**DATA, "gain": gain},
        )
    )
    bench.high_voltage(55.0)
    work = bench.work()
    rows = measure_thresholds(work, work.boards)
    assert work.problems == [] and len(rows) == 4
    for row in rows:
        check_against_truth(bench, row, set())


def test_without_high_voltage_nothing_is_proposed(bench: Bench) -> None:
    work = bench.work()
    (row,) = measure_thresholds(work, work.boards[:1], dataclasses.replace(PLAN, dac_step=8))
    assert row.file is None
    (problem,) = work.problems
    assert problem.where == row.ip
    assert "0 pixels show a clean staircase, 8 are needed; is the high voltage on" in problem.text
    assert Path(row.scan).exists()
    assert not list(Path(row.scan).parent.glob("quabo_calib*"))


def test_it_is_refused_where_it_would_disturb(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench.work()
    name = "obs_Test.start_2026-11-25T00:00:00Z.runtype_test.pffd"
    (bench.data_dir / RUN_NAME_FILE).write_text(f"{name}\n")
    with pytest.raises(RefusedError, match="a run is in progress"):
        measure_thresholds(work, work.boards, PLAN)
    (bench.data_dir / RUN_NAME_FILE).unlink()
    with udp_socket(bench.simulation.head, 60001):
        with pytest.raises(ObsError, match=r"science port 127\S+:60001: another program holds it"):
            measure_thresholds(work, work.boards, PLAN)
    states = bench.sim.state()["boards"].values()
    assert all(board["streams"]["image"] is None for board in states)


def test_a_module_whose_shutter_does_not_close_is_left_out(bench: Bench) -> None:
    """Nobody measures its boards in the light: neither thresholds nor PH baselines."""
    work = bench.work()
    driver = work.boards[1]
    load_maroc(work, work.boards)
    assert move_shutters(work, [driver], OPEN) and not work.problems
    before = bench.sim.state()["boards"]
    bench.sim.fault(driver.ip, "mute")
    for measure in (calibrate_ph, measure_thresholds):
        work = bench.work()
        assert not measure(work, work.boards)
        assert {problem.where for problem in work.problems} == {q.ip for q in work.boards}
        texts = {problem.where: problem.text for problem in work.problems}
        assert "the shutter of its module, which" in texts[work.boards[0].ip]
    bench.sim.fault(driver.ip, "none")
    after = bench.sim.state()["boards"]
    for ip, board in after.items():
        assert (board["maroc"], board["baseline"]) == (before[ip]["maroc"], None)
    work = bench.work()
    assert len(calibrate_ph(work, work.boards)) == 4 and not work.problems
    # It was to be closed and nobody knows whether it obeyed: it stays closed.
    assert shutter_state(work.ledger, driver) == CLOSED


def test_masks_quieten_a_hot_pixel(bench: Bench) -> None:
    """PH events of a board with a hot pixel, before and after its mask is loaded."""
    bench.high_voltage(55.0)
    work = bench.work()
    quabo = work.boards[3]

    def rate() -> float:
        stream = bench.sim.state(quabo.ip)["boards"][quabo.ip]["streams"]["ph"]
        return float(stream["poisson_hz"])

    load_maroc(work, [quabo])
    start = [
        Send(commands.ChannelMask((0xFFFFFFFF,) * 8 + (0x155,))),
        Send(commands.GoeMask(3)),
        Send(commands.DataDestination(bench.simulation.head, bench.simulation.head)),
        Send(commands.Acquisition(commands.AcqMode.PH, 0)),
    ]
    with work.link() as link:
        assert link.run({quabo.ip: start})[quabo.ip].ok
    usual = rate()
    bench.sim.fault(quabo.ip, "hot_pixels", pixels=[37], factor=20000)
    assert rate() > 10 * usual > 0
    path = bench.site.command_dir / "quabos" / "masked_pixels.json"
    path.write_text(json.dumps({"SN01019": [pixel_masks.place(37)]}))
    work = bench.work()
    assert load_maroc(work, [quabo]) == [quabo]
    with work.link() as link:
        link.run({quabo.ip: start[3:]})
    assert rate() == pytest.approx(usual, rel=0.05)
    with work.link() as link:
        link.run({quabo.ip: [Send(settings.stop_acquisition())]})


def test_what_the_board_files_contradict_each_other_in_is_said(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    quabos = bench.site.command_dir / "quabos"
    path = quabos / "detovervol_3v" / "ph" / "quabo_calib_1017.json"
    document = json.loads(path.read_text())
    document["quadrants"][2]["detserial"] = 7
    path.write_text(json.dumps(document))
    info = json.loads((quabos / "quabo_info.json").read_text())
    (quabos / "quabo_info.json").write_text(json.dumps([*info, info[0]]))
    with (quabos / "quabo_config.txt").open("a") as file:
        file.write("GIAN5 = 1,1,1,1\n")
    work = bench.work()
    assert load_maroc(work, work.boards[:2]) == list(work.boards[:2])
    errors = capsys.readouterr().err
    for said in (
        f"warning: {path}: $.quadrants[*].detserial: 14068, 14069, 7, 14071: quabo_info.json has"
        " detectors 14068, 14069, 14070, 14071 for board SN01017; correct one\n",
        "warning: quabo_info.json: $[8].serialno: SN00004: is listed before;",
        'GIAN5 = 1,1,1,1: unknown tag, not used; did you mean "GAIN5"?\n',
    ):
        assert errors.count(said) == 1, errors


# --- a dark run on the disk ---


def dark_run(folder: Path, pixels: Callable[[int], list[int]]) -> Path:
    """A run of module 254 whose board q has the packet pixels pixels(q) in each of ten frames."""
    obs = changed(OBS, {("domes", 0, "modules", 0): OBS["domes"][0]["modules"][1]})
    obs["domes"][0]["modules"] = obs["domes"][0]["modules"][:1]
    run = write_site(folder / "obs_Test.start_2024-07-03T09:46:40Z.runtype_dark.pffd", obs)
    uids = {f"192.168.3.{248 + q}": uid_of(1016 + q) for q in range(4)}
    (run / "quabo_uids.json").write_text(quabo_uids_text(load_site(run).obs, uids))
    header = pff.BoardHeader(pkt_num=1, pkt_tai=2, pkt_nsec=3, tv_sec=1_720_000_000, tv_usec=4)
    values = pff.frame_pixels("img16", [pixels(q) for q in range(4)])
    frame = pff.build_frame("img16", pff.Frame((header,) * 4, values))
    (run / data_file_name(1_720_000_000, "img16", 254, 0)).write_bytes(frame * 10)
    return run


def hot_pixels(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.hot_pixels", *words],
        cwd=REPO, capture_output=True, text=True, timeout=110,
    )  # fmt: skip


def test_hot_pixels_of_a_dark_run(tmp_path: Path) -> None:
    def pixels(quabo: int) -> list[int]:
        values = [10 + pixel % 3 for pixel in range(256)] if quabo != 2 else [0] * 256
        if quabo == 3:
            values[pixel_masks.number(6, 1)] = 900
            values[pixel_masks.number(0, 15)] = 0
        return values

    run, site = dark_run(tmp_path, pixels), tmp_path / "site"
    shutil.copytree(REPO / "quabos", site / "quabos")
    info = site / "quabos" / "quabo_info.json"
    info.write_text(info.read_text().replace("SN01016", "SN09016"))
    done = hot_pixels(str(run), "--config_dir", str(site))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "192.168.3.248 (SN09016): no hot pixel; no dead pixel (usual: 11.00 counts per frame)",
        "192.168.3.249 (SN01017): no hot pixel; no dead pixel (usual: 11.00 counts per frame)",
        "192.168.3.250 (SN01018): most pixels have no counts, nothing can be said",
        "192.168.3.251 (SN01019): hot (6, 1); dead (0, 15) (usual: 11.00 counts per frame)",
        str(run / "masked_pixels.json"),
    ]
    assert json.loads((run / "masked_pixels.json").read_text()) == {"SN01019": [[6, 1]]}
    masks = json.loads((run / "masks.json").read_text())
    assert sorted(masks) == ["SN01017", "SN01019", "SN09016"]
    bits = pixel_masks.mask_bits("bga", [pixel_masks.number(6, 1)])
    assert masks["SN01019"]["MASKOR"].keys() == bits.keys()
    again = hot_pixels(str(run))
    assert (again.returncode, "exists; move it away" in again.stderr) == (1, True)
    nothing = hot_pixels(str(tmp_path))
    assert nothing.returncode == 1
    assert "Traceback" not in nothing.stderr
