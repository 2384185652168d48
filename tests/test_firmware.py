"""Firmware: names and images, loads that are verified, interrupted and mended, versions."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pypff
import pytest

from panoseti.boards import board_tftp, firmware
from panoseti.boards.board_tftp import Patience
from panoseti.boards.board_work import Work
from panoseti.boards.firmware_images import (
    Area,
    Release,
    check_content,
    check_release,
    oddities,
    release_of,
)
from panoseti.boards.firmware_load import load_firmware, would_load
from panoseti.boards.firmware_marks import MARKS_FILE, read_marks
from panoseti.bringup import boot
from panoseti.bringup.ledger import Step
from panoseti.bringup.ledger_file import LedgerFile, read_ledger
from panoseti.configs.load_configs import Site, frozen_copies, load_site
from panoseti.configs.site import FirmwareFiles, Quabo
from panoseti.console import Console
from panoseti.errors import ConfigError, RefusedError
from panoseti.flight import FlightRecorder, read_flight
from panoseti.runs.run_state import RUN_NAME_FILE
from panoseti.state_files import StateError
from simulator.client import SimulatorClient
from simulator.flash import Firmware, firmware_image
from simulator.sites import uid_of
from tests.helpers import REPO, pypff_warnings, wait_for
from tests.simulated import Simulation, simulation
from tests.site_files import DATA, OBS, changed, write_site

IMAGE_BYTES = 0x18000  # one and a half flash sectors
QFP, BGA = Firmware("0210", 0x29000000), Firmware("0211", 0x29000001)
QFP_NAME, BGA_NAME = "quabo_0210_29000000.bin", "quabo_0211_29000001.bin"
HASTY = Patience(silence_s=0.3, tries=3, total_s=20.0)


# --- names, contents, oddities ---


@pytest.mark.parametrize(
    ("name", "version", "built"),
    [
        ("quabo_0208_28B4667A.bin", "0208", "0x28b4667a"),
        ("quabo_0209_0x28b4667a.bin", "0209", "0x28b4667a"),
        ("quabo_0104_1234.bin", "0104", "0x00001234"),
    ],
)
def test_a_name_says_what_housekeeping_will(name: str, version: str, built: str) -> None:
    assert release_of(name) == Release(version, built)


@pytest.mark.parametrize(
    "name",
    [
        "", "quabo_0208.bin", "quabo_020_28b4667a.bin", "quabo_02o8_28b4667a.bin",
        "quabo_0208_28b4667g.bin", "quabo_0208_28b4667a.bit", "quabo_0208_128b4667a.bin",
        "a/quabo_0208_28b4667a.bin", "quabo_0208_28b4667a.bin\n", "quabo_٠٢٠٨_28b4667a.bin",
    ],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"quabo_<4 digits>_<build time in hex>\.bin"):
        release_of(name)


def test_an_even_version_is_for_qfp_boards_an_odd_one_for_bga_boards() -> None:
    assert check_release(QFP_NAME, "qfp").build == "qfp"
    assert check_release(BGA_NAME, "bga").build == "bga"
    with pytest.raises(ValueError, match="is for QFP boards: .* for BGA boards ends in an odd"):
        check_release(QFP_NAME, "bga")
    with pytest.raises(ValueError, match="is for BGA boards: .* for QFP boards ends in an even"):
        check_release(BGA_NAME, "qfp")
    assert Release("020x", "0x0").build == ""


@pytest.mark.parametrize(
    ("data", "area", "said"),
    [
        (b"", Area.SILVER, "0 bytes are no silver firmware"),
        (b"x" * 0xFFFF, Area.SILVER, "65535 bytes"),
        (b"x" * 0x700001, Area.GOLDEN, "no golden firmware: 65536 to 7340032 are"),
        (b"x" * 0xFF0001, Area.SILVER, "65536 to 16711680 are"),
        (b"\xff" * 0x10000, Area.SILVER, "nothing but 0xff"),
        (bytes(0x10000), Area.SILVER, "nothing but 0x00"),
    ],
)
def test_content_that_cannot_be_an_image(data: bytes, area: Area, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_content(data, area)


def test_content_up_to_the_end_of_its_area() -> None:
    check_content(b"x" * 0x700000, Area.GOLDEN)
    check_content(b"x" * 0x700001, Area.SILVER)


OLD, NEW = Release("0208", "0x28b4667a"), Release("0210", "0x29000000")
OTHER = Release("0209", "0x28b4667a")
KINDS = {"a": "qfp", "b": "qfp", "c": "qfp", "d": "bga"}


@pytest.mark.parametrize(
    ("running", "wanted", "odd"),
    [
        ({"a": OLD, "b": OLD, "c": OLD, "d": OTHER}, {}, {}),
        ({"a": OLD, "b": NEW, "c": OLD, "d": OTHER}, {}, {"b": "most QFP boards run 0208 of "}),
        ({"a": OLD, "b": NEW, "d": OTHER}, {}, {}),  # one each: neither is usual
        ({"a": OLD, "b": NEW}, {"qfp": NEW}, {"a": "not 0210 of 2023-06-27 11:37, as obs_config"}),
        ({"a": OLD, "d": OLD}, {}, {"d": "firmware of QFP boards on a BGA board"}),
        ({"a": Release("????", "0x0"), "b": OLD}, {}, {"a": "firmware of unknown boards on a QFP"}),
        ({"a": None, "b": OLD}, {}, {"a": "no housekeeping"}),
        ({"x": OLD}, {"bga": OTHER}, {}),  # of a kind nobody knows
    ],
)
def test_oddities(
    running: dict[str, Release | None], wanted: dict[str, Release], odd: dict[str, str]
) -> None:
    found = oddities(running, KINDS, wanted)
    assert list(found) == list(running)
    for ip, text in found.items():
        assert text.startswith(odd[ip]) if ip in odd else text == "", (ip, text)


# --- configuration ---


def test_files_come_from_obs_config_and_the_analysis_accepts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = {"qfp": f"~/images/{QFP_NAME}", "bga": f"/images/{BGA_NAME}"}
    site = load_site(write_site(tmp_path / "site", changed(OBS, {("firmware",): images})))
    assert site.obs.firmware == FirmwareFiles(
        str(Path.home() / "images" / QFP_NAME), f"/images/{BGA_NAME}"
    )
    assert site.warnings == ()
    assert firmware.wanted_releases(site.obs.firmware) == {
        "qfp": Release("0210", "0x29000000"),
        "bga": Release("0211", "0x29000001"),
    }
    run = tmp_path / "run"
    run.mkdir()
    for name, text in frozen_copies(site).items():
        (run / name).write_text(text)
    caplog.set_level(logging.WARNING)
    assert "obs_config" in pypff.PanosetiRun(run).configs
    assert pypff_warnings(caplog) == []
    assert json.loads((run / "obs_config.json").read_text())["firmware"] == images
    nothing = load_site(write_site(tmp_path / "plain")).obs.firmware
    assert nothing == FirmwareFiles(None, None)
    assert firmware.wanted_releases(nothing) == {}


@pytest.mark.parametrize(
    ("images", "path", "said"),
    [
        ({"bga": f"/images/{QFP_NAME}"}, "$.firmware.bga", "is for QFP boards"),
        ({"qfp": "/images/silver.bin"}, "$.firmware.qfp", "no name of an image"),
        ({"qfp": QFP_NAME}, "$.firmware.qfp", "not an absolute path"),
        ({"qfp": 7}, "$.firmware.qfp", "must be path of the image for QFP boards"),
        ([], "$.firmware", "must be paths of firmware images"),
    ],
)
def test_wrong_files_are_faults_of_the_config(
    tmp_path: Path, images: Any, path: str, said: str
) -> None:
    folder = write_site(tmp_path, changed(OBS, {("firmware",): images}))
    with pytest.raises(ConfigError) as caught:
        load_site(folder)
    (fault,) = caught.value.faults
    assert (fault.file, fault.path) == ("obs_config.json", path)
    assert said in fault.remedy


# --- loads ---


@dataclass
class Bench:
    """Four boards (the last one BGA), their site, and images for both kinds."""

    simulation: Simulation
    sim: SimulatorClient
    site: Site
    folder: Path

    @property
    def boards(self) -> tuple[Quabo, ...]:
        return self.site.obs.quabos

    @property
    def ips(self) -> list[str]:
        return [quabo.ip for quabo in self.boards]

    @property
    def data_dir(self) -> Path:
        return self.site.head_data_dir

    def work(self, **uids: str) -> Work:
        """Work on all boards, their UIDs known."""
        known = {quabo.ip: uid_of(quabo.boardloc) for quabo in self.boards}
        book = LedgerFile(self.data_dir, read_ledger(self.data_dir))
        flight = FlightRecorder(self.data_dir, "test")
        return Work(self.site, self.boards, book, Console(), flight, known | uids)

    def image(self, build: str) -> bytes:
        file = self.site.obs.firmware.of(build)
        assert file is not None
        return Path(file).read_bytes()

    def holds(self, ip: str, build: str) -> bool:
        """Whether the flash of a board holds the image, asked in another way than by the loader."""
        wanted, port = self.image(build), self.site.obs.tftp_port
        return board_tftp.read_flash(ip, 0x1010000, len(wanted), port) == wanted

    def puts(self) -> list[str]:
        """The boards whose flash was written since the beginning, in order."""
        lines = [line.text for line in read_flight(self.data_dir) if line.what == "tftp_put"]
        return [line.split('board="')[1].split('"')[0] for line in lines]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    with simulation(tmp_path_factory.mktemp("boards"), options=("--silver",)) as found:
        yield found


@pytest.fixture
def bench(running: Simulation, tmp_path: Path) -> Iterator[Bench]:
    """The boards with the silver firmware they were born with, and a fresh data directory."""
    for name, build in ((QFP_NAME, QFP), (BGA_NAME, BGA)):
        (tmp_path / name).write_bytes(firmware_image(build, IMAGE_BYTES))
    site = load_site(write_site(tmp_path / "site", *_configs(running, tmp_path)))
    site.head_data_dir.mkdir()
    with running.client() as sim:
        bench = Bench(running, sim, site, tmp_path)
        for quabo in bench.boards:
            _restore(running, quabo.ip)
        yield bench
        sim.fault("all", "none")


def _configs(running: Simulation, folder: Path) -> tuple[Any, Any, Any]:
    raw = json.loads((running.config_dir / "obs_config.json").read_text())
    raw["firmware"] = {"qfp": str(folder / QFP_NAME), "bga": str(folder / BGA_NAME)}
    raw["golden_firmware"] = raw["firmware"]
    node = {"ip_addr": running.head, "username": "obs", "data_dir": str(folder / "data"),
            "module_ids": "0-255"}  # fmt: skip
    daq = {
        "head_node_ip_addr": running.head,
        "head_node_data_dir": str(folder / "data"),
        "daq_nodes": [node],
    }
    return raw, daq, DATA


def _restore(running: Simulation, ip: str) -> None:
    """The first two sectors as the simulator made them."""
    build = Firmware("0208", 0x28B4667A)
    board_tftp.write_flash(
        ip, 0x1010000, firmware_image(build, 0x20000)[:0x20000], running.tftp_port
    )


def test_each_kind_gets_its_image_and_a_second_load_writes_nothing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    work = bench.work()
    for ip in bench.ips:
        work.ledger.finish(ip, Step.REBOOT, 1.0, {})
    assert list(would_load(work, bench.boards)) == bench.ips
    assert bench.puts() == []
    done = load_firmware(work, bench.boards)
    assert work.problems == []
    assert list(done) == bench.ips
    assert [loaded.release.version for loaded in done.values()] == ["0210"] * 3 + ["0211"]
    assert all(loaded.written and loaded.took_s > 0 for loaded in done.values())
    assert [bench.holds(ip, "bga" if ip == bench.ips[3] else "qfp") for ip in bench.ips]
    assert not (bench.data_dir / MARKS_FILE).exists()
    said = capsys.readouterr().err
    for ip in bench.ips:
        for words in ("written 50 %", "written 100 %", "compared 100 %"):
            assert f"firmware: {ip} {words}" in said
    assert sorted(bench.puts()) == sorted(bench.ips)
    # The boards run something else now than what is in their flash.
    assert not any(read_ledger(bench.data_dir).done(ip, Step.REBOOT) for ip in bench.ips)
    for ip in bench.ips:
        work.ledger.finish(ip, Step.REBOOT, 2.0, {})
    again = load_firmware(work, bench.boards)
    assert [loaded.written for loaded in again.values()] == [False] * 4
    assert sorted(bench.puts()) == sorted(bench.ips)
    assert all(work.ledger.done(ip, Step.REBOOT) for ip in bench.ips)
    assert would_load(work, bench.boards) == {}


class Crowd:
    """Counts how many boards something is done to at once."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._lock = threading.Lock()

    def watched(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            try:
                return action(*args, **kwargs)
            finally:
                with self._lock:
                    self._now -= 1

        return watched


def test_no_more_boards_at_once_than_the_config_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.folder / "site" / "obs_config.json"
    raw = json.loads(path.read_text())
    path.write_text(
        json.dumps({**raw, "command_pacing": {"pings_at_once": 3, "transfers_at_once": 2}})
    )
    bench.site = load_site(path.parent)
    writes, uids = Crowd(), Crowd()
    monkeypatch.setattr(board_tftp, "write_flash", writes.watched(board_tftp.write_flash))
    monkeypatch.setattr(board_tftp, "get_uid", uids.watched(board_tftp.get_uid))
    bench.sim.fault("all", "slow", delay_s=0.05)
    assert boot.ping(bench.work(), bench.boards) == set(bench.ips)
    assert uids.most == 3
    assert set(boot.ask_uids(bench.work(), bench.ips)) == set(bench.ips)
    assert uids.most == 3
    bench.sim.fault("all", "none")
    assert load_firmware(bench.work(), bench.boards).keys() == set(bench.ips)
    assert writes.most == 2


def test_silent_boards_cost_one_time_out_together(bench: Bench) -> None:
    bench.sim.fault("all", "unreachable")
    begin_s = time.monotonic()
    assert boot.ping(bench.work(), bench.boards) == set()
    assert boot.PING_TIMEOUT_S <= time.monotonic() - begin_s < 2 * boot.PING_TIMEOUT_S


def test_what_was_loaded_boots_and_is_listed_with_the_odd_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firmware, "HK_WAIT_S", 1.5)
    work = bench.work()
    first, second, third, last = bench.boards
    assert load_firmware(work, [first, last]).keys() == {first.ip, last.ip}
    for quabo in (first, last):
        assert firmware.bootable(work, [quabo]) == [quabo]
        board_tftp.reboot(quabo.ip, bench.site.obs.tftp_port)
    bench.sim.fault(third.ip, "no_hk")

    def versions() -> list[str]:
        boards = bench.sim.state()["boards"]
        return [boards[ip]["firmware"]["version"] for ip in (first.ip, last.ip)]

    wait_for(lambda: versions() == ["0210", "0211"], "the new firmware to run")
    rows = {row.ip: row for row in firmware.versions(work, bench.boards)}
    assert list(rows) == bench.ips
    assert (rows[first.ip].release, rows[first.ip].odd) == (Release("0210", "0x29000000"), "")
    assert (rows[first.ip].serialno, rows[first.ip].build) == ("SN01016", "qfp")
    assert (rows[last.ip].build, rows[last.ip].odd) == ("bga", "")
    assert rows[second.ip].odd.startswith("not 0210 of 2023-06-27")
    assert rows[third.ip].release is None
    assert rows[third.ip].odd.startswith("no housekeeping")
    both = firmware.judged(work, dict.fromkeys((first.ip, last.ip), Release("0210", "0x29000000")))
    assert [board.odd for board in both] == ["", "firmware of QFP boards on a BGA board"]


def test_a_stalled_load_is_remembered_refused_and_mended_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = bench.boards[2]
    bench.sim.fault(stalled.ip, "tftp_stall", block=100)
    work = bench.work()
    done = load_firmware(work, bench.boards, patience=HASTY)
    assert done.keys() == set(bench.ips) - {stalled.ip}
    (problem,) = work.problems
    assert (problem.where, problem.step) == (stalled.ip, "firmware")
    assert problem.text.startswith("TFTP /flash.1010000: no answer")
    mark = read_marks(bench.data_dir)[uid_of(stalled.boardloc)]
    assert (mark.ip, mark.address, mark.bytes) == (stalled.ip, 0x1010000, IMAGE_BYTES)

    bench.sim.fault(stalled.ip, "none")
    assert not bench.holds(stalled.ip, "qfp")
    work = bench.work()
    assert firmware.bootable(work, bench.boards) == [q for q in bench.boards if q != stalled]
    (problem,) = work.problems
    assert (problem.where, problem.step) == (stalled.ip, "reboot")
    assert f"{QFP_NAME}, begun at " in problem.text
    assert problem.text.endswith("load it again: config.py --loads")
    assert firmware.judged(bench.work(), {stalled.ip: NEW})[0].odd == problem.text

    _restore(bench.simulation, bench.ips[0])
    before = len(bench.puts())
    work = bench.work()
    done = load_firmware(work, bench.boards)
    assert work.problems == []
    assert bench.puts()[before:] == [stalled.ip, bench.ips[0]]
    assert [done[ip].written for ip in bench.ips] == [True, False, True, False]
    assert bench.holds(stalled.ip, "qfp")
    assert firmware.unfinished(work) == {}


LOADER = """
import signal
import sys
from pathlib import Path
from panoseti import console
from panoseti.boards.board_work import Work
from panoseti.boards.firmware_load import load_firmware
from panoseti.flight import FlightRecorder
from panoseti.bringup.ledger_file import held_ledger
from panoseti.configs.load_configs import load_site
from simulator.sites import uid_of

def main(argv):
    site = load_site(Path(argv[0]))
    uids = {q.ip: uid_of(q.boardloc) for q in site.obs.quabos}
    with held_ledger(site.head_data_dir, "loader") as book:
        flight = FlightRecorder(site.head_data_dir, "loader")
        work = Work(site, site.obs.quabos, book, console.Console(), flight, uids)
        load_firmware(work, site.obs.quabos)

# As in a terminal, also where the tests themselves run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(console.call(main, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_load_that_is_ended_is_mended(bench: Bench, number: signal.Signals) -> None:
    """Whatever ended it: the boards under way are known, and the next load makes them whole."""
    bench.sim.fault("all", "slow", delay_s=0.02)
    child = subprocess.Popen(
        [sys.executable, "-c", LOADER, str(bench.folder / "site")],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: len(bench.puts()) == 4, "all loads to begin")
        assert len(read_marks(bench.data_dir)) == 4
        child.send_signal(number)
        _, said = child.communicate(timeout=15)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    assert child.returncode == (-9 if number == signal.SIGKILL else 130), said
    assert "Traceback" not in said
    assert len(read_marks(bench.data_dir)) == 4
    bench.sim.fault("all", "none")
    work = bench.work()
    assert firmware.bootable(work, bench.boards) == []
    work = bench.work()
    done = load_firmware(work, bench.boards)
    assert work.problems == []
    assert all(loaded.written for loaded in done.values())
    assert all(bench.holds(ip, "bga" if ip == bench.ips[3] else "qfp") for ip in bench.ips)
    assert read_marks(bench.data_dir) == {}


def test_flash_that_does_not_keep_what_was_written_is_seen(bench: Bench) -> None:
    board = bench.boards[1]
    bench.sim.fault(board.ip, "bad_flash", address=0x1010000 + 0x9001)
    work = bench.work()
    assert load_firmware(work, [board]) == {}
    assert bench.puts() == [board.ip] * 2
    assert "reads back wrong at 0x1019001 after 2 loads" in work.problems[0].text
    assert firmware.bootable(bench.work(), [board]) == []


def stall_and_mend(bench: Bench, blocks: Sequence[int]) -> None:
    """Boards that stall at these blocks of a load, one each; the next load makes them whole."""
    chosen = bench.boards[: len(blocks)]
    for quabo, block in zip(chosen, blocks, strict=True):
        # Of the image no part is there yet.
        board_tftp.write_flash(quabo.ip, 0x1010000, b"\x5a" * 0x20000, bench.simulation.tftp_port)
        bench.sim.fault(quabo.ip, "tftp_stall", block=block)
    work = bench.work()
    assert load_firmware(work, chosen, patience=HASTY) == {}
    assert {problem.where for problem in work.problems} == {quabo.ip for quabo in chosen}
    marked = {mark.ip for mark in read_marks(bench.data_dir).values()}
    for quabo, block in zip(chosen, blocks, strict=True):
        # Up to the first 64 blocks it stalls where the flash is compared, and nothing is written.
        assert (quabo.ip in marked) == (block > READ_BLOCKS), (quabo.ip, block)
        bench.sim.fault(quabo.ip, "none")
        assert not bench.holds(quabo.ip, "bga" if quabo is bench.boards[3] else "qfp")
    work = bench.work()
    assert load_firmware(work, chosen).keys() == {quabo.ip for quabo in chosen}
    assert (work.problems, read_marks(bench.data_dir)) == ([], {})
    for quabo in chosen:
        assert bench.holds(quabo.ip, "bga" if quabo is bench.boards[3] else "qfp")


IMAGE_BLOCKS, READ_BLOCKS = IMAGE_BYTES // 512, 64


def test_a_load_that_stalls_at_a_block_is_mended(bench: Bench) -> None:
    stall_and_mend(bench, random.Random(5).sample(range(2, IMAGE_BLOCKS + 1), 4))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_load_that_stalls_at_any_block_is_mended(bench: Bench) -> None:
    blocks = range(2, IMAGE_BLOCKS + 1)
    for begin in range(0, len(blocks), 4):
        stall_and_mend(bench, blocks[begin : begin + 4])


def test_losses_on_the_way_change_nothing(bench: Bench) -> None:
    bench.sim.fault("all", "lossy", fraction=0.01, seed=3)
    work = bench.work()
    patience = Patience(silence_s=0.05, tries=20, total_s=60.0)
    load_firmware(work, bench.boards[:1], patience=patience)
    failed = {problem.where for problem in work.problems}
    bench.sim.fault("all", "none")
    for ip in bench.ips[:1]:
        # Either it is whole and done with, or it failed and is remembered; never in between.
        assert bench.holds(ip, "qfp") or ip in failed
        assert (ip in failed) == (ip in firmware.unfinished(bench.work()))


def test_another_board_is_not_written(bench: Bench) -> None:
    board = bench.boards[0]
    bench.sim.fault(board.ip, "wrong_uid", uid="badbadbad")
    work = bench.work()
    assert load_firmware(work, [board]) == {}
    assert f"another board: UID {uid_of(board.boardloc)} -> badbadbad" in work.problems[0].text
    assert bench.puts() == []
    assert not (bench.data_dir / MARKS_FILE).exists()


def test_the_golden_firmware_is_written_only_when_told_twice(bench: Bench) -> None:
    board, port = bench.boards[3], bench.site.obs.tftp_port
    before = board_tftp.read_flash(board.ip, 0, 0x1000, port)
    with pytest.raises(RefusedError, match=rf"said twice \(add --golden_.* to {board.ip}\)"):
        load_firmware(bench.work(), [board], area=Area.GOLDEN)
    assert bench.puts() == []
    assert board_tftp.read_flash(board.ip, 0, 0x1000, port) == before
    bench.sim.fault(board.ip, "tftp_stall", block=100)
    work = bench.work()
    assert not load_firmware(work, [board], area=Area.GOLDEN, told_twice=True, patience=HASTY)
    bench.sim.fault(board.ip, "none")
    # What was begun there is finished before anything else goes to the board.
    work = bench.work()
    assert load_firmware(work, [board]) == {}
    assert "at 0x0 was not finished; repeat that first: config.py --load_golden" in str(
        work.problems[0]
    )
    assert firmware.unfinished(work)[board.ip].endswith("config.py --load_golden")
    work = bench.work()
    load_firmware(work, [board], area=Area.GOLDEN, told_twice=True)
    assert (work.problems, firmware.unfinished(work)) == ([], {})
    assert board_tftp.read_flash(board.ip, 0, IMAGE_BYTES, port) == bench.image("bga")


def test_what_is_missing_is_said_before_anything_is_written(bench: Bench) -> None:
    work = bench.work()
    with pytest.raises(ConfigError) as caught:
        load_firmware(work, bench.boards, FirmwareFiles(qfp="/nowhere/" + QFP_NAME))
    faults = [(fault.path, fault.value) for fault in caught.value.faults]
    assert faults == [
        ("$.firmware.qfp", "/nowhere/" + QFP_NAME),
        ("$.firmware.bga", "missing"),
    ]
    short = bench.folder / "short" / QFP_NAME
    short.parent.mkdir()
    short.write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="100 bytes are no silver firmware"):
        load_firmware(work, bench.boards[:1], FirmwareFiles(qfp=str(short)))
    # A kind that no board is of needs no image.
    assert load_firmware(work, bench.boards[:1], FirmwareFiles(qfp=bench.site.obs.firmware.qfp))
    stranger = bench.boards[1].ip
    work = bench.work(**{stranger: "123"})
    assert load_firmware(work, bench.boards[1:2]) == {}
    assert "add UID 123 to quabo_info.json" in work.problems[0].text


def test_not_during_a_run_and_not_with_a_broken_memory(bench: Bench) -> None:
    name = "obs_Test.start_2026-11-25T00:00:00Z.runtype_test.pffd"
    (bench.data_dir / RUN_NAME_FILE).write_text(f"{name}\n")
    with pytest.raises(RefusedError, match="a run is in progress"):
        load_firmware(bench.work(), bench.boards)
    (bench.data_dir / RUN_NAME_FILE).unlink()
    for content in ("", "{}", '{"version": 1, "boards": {"1": {"ip": "x"}}}'):
        (bench.data_dir / MARKS_FILE).write_text(content)
        for action in (
            lambda: firmware.bootable(bench.work(), bench.boards),
            lambda: load_firmware(bench.work(), bench.boards),
        ):
            with pytest.raises(StateError, match=f"{MARKS_FILE}: .*config.py --loads"):
                action()
    assert bench.puts() == []
