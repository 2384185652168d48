"""Housekeeping on its whole way: UDP packets -> capture_hk.py -> Redis -> store_redis_data.py."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from panoseti.boards.hk_socket import Datagram
from panoseti.boards.packets import FocusReport, HkPacket
from panoseti.daemon import Daemon
from panoseti.errors import ObsError, RefusedError
from panoseti.housekeeping.housekeeping import (
    HkCapture,
    HkFile,
    HkRecorder,
    capture_loop,
    judge_datagram,
)
from panoseti.housekeeping.store import Store, StoreError
from tests.helpers import free_port, golden
from tests.redis_server import PrivateRedis, private_redis
from tests.running_daemon import RunningDaemon, running_daemon
from tests.simulated import head_address, module_base, private_prefix
from tests.site_files import DAQ, OBS, changed, write_site

RUN = "obs_Test.start_2024-07-03T09:46:40Z.runtype_test.pffd"
HK_CASES = golden("hk_packets")["cases"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: PrivateRedis) -> Iterator[Store]:
    with redis.Redis(port=server.port) as plain:
        plain.flushall()
    with Store(server.host, server.port, timeout_s=0.5) as opened:
        yield opened


class Place:
    """A site on loopback addresses of its own, and the boards' end of the HK traffic."""

    def __init__(self, folder: Path, redis_port: int) -> None:
        self.prefix = private_prefix()
        self.head = head_address(self.prefix)
        self.hk_port = free_port(socket.SOCK_DGRAM)
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        obs = changed(OBS, {
            ("domes", 0, "modules", 0, "ip_addr"): module_base(self.prefix, 1),
            ("domes", 0, "modules", 1, "ip_addr"): module_base(self.prefix, 254),
            ("redis_port",): redis_port,
        })  # fmt: skip
        daq = changed(DAQ, {
            ("head_node_ip_addr",): self.head,
            ("head_node_data_dir",): str(self.data_dir),
        })  # fmt: skip
        self.config_dir = write_site(folder / "site", obs, daq)

    def board(self, boardloc: int) -> str:
        """Address of the board of that BOARDLOC."""
        first, second, third = self.prefix.split(".")
        return f"{first}.{second}.{int(third) + (boardloc >> 8)}.{boardloc & 255}"

    def send(self, data: bytes, source: str) -> None:
        """One datagram to the HK port."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            sock.sendto(data, (self.head, self.hk_port))

    def capture(self) -> AbstractContextManager[RunningDaemon]:
        """capture_hk.py at work (a context)."""
        return running_daemon(
            "capture_hk", self.config_dir, self.data_dir, "--hk_port", str(self.hk_port)
        )

    def recorder(self, run: str = RUN) -> AbstractContextManager[RunningDaemon]:
        """store_redis_data.py at work (a context)."""
        return running_daemon(
            "store_redis_data", self.config_dir, self.data_dir, "--run", run, interval_s=0.1
        )


@pytest.fixture
def place(tmp_path: Path, server: PrivateRedis) -> Place:
    return Place(tmp_path, server.port)


def packet(boardloc: int, count: int = 0, boot: bool = False) -> bytes:
    """A plausible HK packet; `count` shows in HVMON0."""
    case = next(case for case in HK_CASES if case["name"] == "nominal_3V")
    data = bytearray.fromhex(case["packet_hex"])
    data[1] = 0xAA if boot else 0
    data[2:4] = boardloc.to_bytes(2, "little")
    data[4:6] = count.to_bytes(2, "little")
    return bytes(data)


def count_of(record: dict[str, str]) -> int:
    return round(float(record["HVMON0"]) / -1.22e-3)


def records_of(path: Path) -> list[dict[str, dict[str, str]]]:
    """The records of an hk.pff, which must be whole."""
    text = path.read_text()
    assert text == "" or text.endswith("\n\n")
    return [json.loads(line) for line in text.split("\n\n")[:-1]]


def refused(attempt: AbstractContextManager[RunningDaemon]) -> str:
    """The words of a daemon that does not come up."""
    with pytest.raises(ObsError) as failed, attempt:
        pass
    return str(failed.value)


# --- capture ---


@pytest.mark.parametrize("case", HK_CASES, ids=lambda case: case["name"])
def test_golden_packets_are_stored_or_refused(case: dict[str, Any], store: Store) -> None:
    data = bytes.fromhex(case["packet_hex"])
    wanted = case["key"]
    boardloc = int(wanted.removeprefix("QUABO_")) if wanted else 1016
    source = f"127.0.{boardloc >> 8}.{boardloc & 255}"
    capture = HkCapture(store.put_records, [boardloc])
    capture.take([Datagram(data, source, 1_720_000_000.25)])
    capture.store(0.0)
    found = store.get_record(f"QUABO_{boardloc}")
    if wanted is None:
        assert found == {} and capture.counts["stored"] == 0
        return
    assert list(found) == ["Computer_UTC", *case["fields"]]
    assert found.pop("Computer_UTC") == "1720000000.25"
    for name, value in case["fields"].items():
        if isinstance(value, float):
            assert float(found[name]) == pytest.approx(value, rel=1e-12), name
        else:
            assert found[name] == str(value), name


def test_packets_of_all_boards_arrive_and_boots_are_noted(place: Place, store: Store) -> None:
    with place.capture() as daemon:
        for boardloc in (4, 5, 1016, 1019):
            place.send(packet(boardloc, count=boardloc), place.board(boardloc))
        place.send(packet(1017, boot=True), place.board(1017))
        daemon.wait_for(lambda beat: beat.details.get("stored", 0) == 5, "5 records")
        records = store.records()
        assert sorted(records) == sorted(
            ["BOOT_1017", *(f"QUABO_{n}" for n in (4, 5, 1016, 1017, 1019))]
        )
        assert count_of(records["QUABO_1016"]) == 1016
        assert records["QUABO_1017"]["StartUp"] == "1"
        note = store.boot_note(1017)
        assert note is not None and str(note.utc_s) == records["QUABO_1017"]["Computer_UTC"]
        place.send(packet(1017), place.board(1017))
        daemon.wait_for(lambda beat: beat.details["stored"] == 6, "the next record")
        assert store.get_record("QUABO_1017")["StartUp"] == "0"
        assert store.boot_note(1017) == note, "the boot can still be seen"
        assert daemon.stop() == 0
    assert daemon.beat().state == "ended"


def test_what_is_no_hk_of_our_boards_is_counted_and_never_stored(
    place: Place, store: Store
) -> None:
    other = place.board(1016)
    with place.capture() as daemon:
        for length in (0, 1, 63, 65, 516):
            place.send(b" " * length, other)
        place.send(b"\x21" + packet(1016)[1:], other)
        place.send(packet(1017), other)
        place.send(packet(1016), place.board(8))
        place.send(packet(1016), "127.0.0.1")
        place.send(b"\x05" + bytes(63), other)
        beat = daemon.wait_for(lambda beat: beat.details.get("received") == 10, "10 datagrams")
        kinds = {
            name: beat.details[name]
            for name in beat.details
            if name not in ("problem", "unkept_hv", "stored", "works_with")
        }
        assert kinds == {
            "received": 10, "malformed": 6, "source_mismatch": 1, "unknown_source": 2,
            "focus_report": 1, "unstored": 0,
        }  # fmt: skip
        place.send(packet(1016), other)
        daemon.wait_for(lambda beat: beat.details.get("stored") == 1, "a good one")
        assert set(store.records()) == {"QUABO_1016", "FOCUS_1016"}
        assert store.focus_notes([1016])[1016].report == FocusReport(0, 0, 0, 0)
    assert "HK malformed: " in daemon.log()
    assert daemon.log().count("HK malformed") == 1, "one line of a kind in a minute"


def test_any_bytes_are_judged_without_failing() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        data = draw.randbytes(draw.choice([0, 1, 12, 63, 64, 64, 64, 65, 2048]))
        judged = judge_datagram(Datagram(data, "127.0.3.248", 1.0), frozenset([1016]))
        assert isinstance(judged, HkPacket | FocusReport) or judged.kind in (
            "malformed", "source_mismatch",
        )  # fmt: skip


def test_while_redis_is_away_the_latest_of_each_board_is_kept(
    place: Place, server: PrivateRedis
) -> None:
    with place.capture() as daemon:
        place.send(packet(4, count=1), place.board(4))
        daemon.wait_for(lambda beat: beat.details.get("stored") == 1, "one record")
        server.kill()
        try:
            for count in range(2, 7):
                place.send(packet(4, count=count), place.board(4))
                place.send(packet(1016, count=count, boot=count == 2), place.board(1016))
            beat = daemon.wait_for(
                lambda beat: beat.details["received"] == 11 and bool(beat.details["problem"]),
                "the trouble to be told",
            )
            assert beat.state == "store unreachable"
            assert f":{server.port} is not reachable" in beat.details["problem"]
        finally:
            server.start()
        beat = daemon.wait_for(lambda beat: beat.state == "ok", "Redis to be used again")
        assert (beat.details["stored"], beat.details["unstored"]) == (1 + 2, 8)
        with Store(server.host, server.port) as store:
            assert count_of(store.get_record("QUABO_4")) == 6
            assert count_of(store.get_record("QUABO_1016")) == 6
            assert store.boot_note(1016) is not None, "a boot is not forgotten"
            assert store.get_record("QUABO_1016")["StartUp"] == "0"


def test_one_round_trip_stores_everything_that_has_arrived(tmp_path: Path) -> None:
    calls: list[int] = []
    capture = HkCapture(lambda entries: calls.append(len(entries)), range(1024))
    datagrams = [Datagram(packet(n), f"127.0.{n >> 8}.{n & 255}", 1.0) for n in range(1024)]
    with Daemon("capture_hk", tmp_path, 1.0) as daemon:

        class Port:
            """Delivers everything at once, then asks for the end."""

            addresses = ("127.0.0.1",)

            def receive(self, timeout_s: float, wake: object) -> list[Datagram]:
                daemon.stop.set()
                return datagrams

        capture_loop(daemon, Port(), capture)  # type: ignore[arg-type]
        capture.store(0.0)
    assert calls == [1024]
    assert capture.counts["stored"] == 1024


def test_a_second_capture_names_the_port_and_a_remedy(place: Place) -> None:
    with place.capture():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, pytest.raises(OSError):
            probe.bind((place.head, place.hk_port))
        again = refused(place.capture())
        assert "already running for " in again and "config.py --stop_redis_daemons" in again
        other = running_daemon(
            "capture_hk", place.config_dir, place.data_dir / "other", "--hk_port",
            str(place.hk_port),
        )  # fmt: skip
        assert f":{place.hk_port}: another program holds it" in refused(other)


# --- recorder ---


@pytest.mark.parametrize("case", golden("hk_pff")["cases"], ids=lambda case: case["name"])
def test_golden_text_of_hk_pff(case: dict[str, Any], store: Store, tmp_path: Path) -> None:
    path = tmp_path / "hk.pff"
    with HkFile(path) as file:
        recorder = HkRecorder(file, store.changed_records)
        for poll in case["polls"]:
            before = path.stat().st_size
            for key, fields in poll["updates"].items():
                store.put_record(key, fields)
            recorder.poll()
            assert path.read_text()[before:] == poll["appended"]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_leaves_whole_records_and_is_made_good(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "hk.pff"
    for number in range(3):
        store.put_record(f"QUABO_{number}", {"Computer_UTC": 1.5, "n": number})
    with HkFile(path) as file:
        recorder = HkRecorder(file, store.changed_records)
        with file_size_limit(120):
            recorder.poll()
            assert len(records_of(path)) == 2
            assert "hk.pff: File too large" in recorder.problem
            store.put_record("QUABO_2", {"Computer_UTC": 2.5, "n": 4})
            recorder.poll()
            assert (recorder.counts["written"], recorder.counts["unwritten"]) == (2, 1)
        recorder.poll()
        assert recorder.problem == ""
    assert [list(record) for record in records_of(path)] == [["QUABO_0"], ["QUABO_1"], ["QUABO_2"]]
    assert records_of(path)[2]["QUABO_2"] == {"Computer_UTC": "2.5", "n": "4"}


@pytest.mark.parametrize("torn", ['{"QUABO_1": {"Comp', '{"QUABO_1": {"Computer_UTC": "1"}}\n'])
def test_a_record_torn_by_a_crash_is_removed(torn: str, tmp_path: Path) -> None:
    whole = '{"QUABO_4": {"Computer_UTC": "1.0"}}\n\n'
    path = tmp_path / "hk.pff"
    path.write_text(whole + torn)
    HkFile(path).close()
    assert path.read_text() == whole
    path.write_text(torn)
    HkFile(path).close()
    assert path.read_text() == ""


def test_one_recorder_for_a_run(place: Place) -> None:
    (place.data_dir / RUN).mkdir()
    with place.recorder():
        with pytest.raises(RefusedError, match="another HK recorder writes it; stop.py first"):
            HkFile(place.data_dir / RUN / "hk.pff")
    assert "No such file or directory" in refused(place.recorder(RUN.replace("2024", "2025")))
    assert "--run: " in refused(place.recorder("../elsewhere"))


def waits(daemon: RunningDaemon, path: Path) -> Callable[[int], None]:
    """Waits until the file has so many records."""
    return lambda count: (
        daemon.wait_for(lambda beat: len(records_of(path)) >= count, f"{count} records"),
        None,
    )[1]


def test_from_the_packet_to_the_file(place: Place, store: Store) -> None:
    (place.data_dir / RUN).mkdir()
    path = place.data_dir / RUN / "hk.pff"
    with place.capture(), place.recorder() as recorder:
        wait = waits(recorder, path)
        place.send(packet(1016, count=7), place.board(1016))
        wait(1)
        store.put_record("NOTE", {"text": "has no Computer_UTC"})
        place.send(packet(1016, count=8), place.board(1016))
        wait(2)
        recorder.stop()
        assert [count_of(record["QUABO_1016"]) for record in records_of(path)] == [7, 8]
        assert all(list(r["QUABO_1016"])[0] == "Computer_UTC" for r in records_of(path))
    with place.recorder() as recorder:
        waits(recorder, path)(3)
    assert len(records_of(path)) == 3, "a recorder started again goes on with what is newest"


def test_the_last_moment_of_a_run_is_recorded(place: Place, store: Store) -> None:
    (place.data_dir / RUN).mkdir()
    path = place.data_dir / RUN / "hk.pff"
    with running_daemon(
        "store_redis_data", place.config_dir, place.data_dir, "--run", RUN, interval_s=30
    ) as recorder:
        store.put_record("WPS", {"Computer_UTC": 5.0, "POWER": "ON"})
        assert recorder.stop() == 0
    assert records_of(path) == [{"WPS": {"Computer_UTC": "5.0", "POWER": "ON"}}]


def test_the_recorder_goes_on_when_redis_is_back(place: Place, server: PrivateRedis) -> None:
    (place.data_dir / RUN).mkdir()
    path = place.data_dir / RUN / "hk.pff"
    with place.recorder() as recorder:
        server.kill()
        try:
            recorder.wait_for(lambda beat: beat.state == "not recording", "the trouble to be told")
        finally:
            server.start()
        with Store(server.host, server.port) as store:
            store.put_record("QUABO_4", {"Computer_UTC": 1.0})
        waits(recorder, path)(1)
        recorder.wait_for(lambda beat: beat.state == "ok", "all to be well")
    log = recorder.log()
    assert log.count("no HK is recorded until that is mended") == 1
    assert log.count("HK is recorded again") == 1


def test_a_disk_that_takes_nothing_is_told(store: Store) -> None:
    store.put_record("WPS", {"Computer_UTC": 5.0})
    with HkFile(Path("/dev/full")) as file:
        recorder = HkRecorder(file, store.changed_records)
        recorder.poll()
        assert recorder.problem == "/dev/full: No space left on device"
        assert recorder.counts["written"] == 0


def test_a_store_that_fails_is_no_crash(tmp_path: Path) -> None:
    def fail(seen: object) -> dict[str, dict[str, str]]:
        raise StoreError("gone")

    with HkFile(tmp_path / "hk.pff") as file:
        recorder = HkRecorder(file, fail)
        recorder.poll()
        assert recorder.problem == "gone"
    assert os.stat(tmp_path / "hk.pff").st_size == 0
