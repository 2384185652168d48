"""The threads under a launcher like HASHPIPE's own: memory that outlives the process, pauses at the
start, threads that are cancelled at the end.

All run under HASHPIPE itself where it is installed (HASHPIPE_PREFIX, or in the usual places), and
are skipped where it is not; and, everywhere, under the stand-in of hashpipe/tests/installed, built
with pauses of 0.1 instead of 3 s.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import REPO, wait_for
from tests.pipeline import (
    HASHPIPE,
    RUN,
    Boards,
    Recorder,
    boards,
    build,
    packet,
    recording,
)

STAND_IN = HASHPIPE / "tests" / "installed"
FEW = {"NETBLKS": 4, "OUTBLKS": 4}
LIMIT_BYTES = 1_000_000  # less than a ring

libc = ctypes.CDLL(None, use_errno=True)
libc.sem_open.restype = ctypes.c_void_p
libc.sem_wait.argtypes = libc.sem_post.argtypes = (ctypes.c_void_p,)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmdt.argtypes = (ctypes.c_void_p,)
IPC_CREAT, IPC_RMID, SHM_RDONLY = 0o1000, 0, 0o10000
STATUS_BYTES, CARD_BYTES = 2880 * 64, 80


def installed() -> Path | None:
    """Prefix of a HASHPIPE that is installed here: header, library and launcher."""
    prefixes = [os.environ.get("HASHPIPE_PREFIX", ""), "/usr/local", "/usr", "/opt/hashpipe"]
    launcher = shutil.which("hashpipe")
    if launcher:
        prefixes.append(str(Path(launcher).resolve().parent.parent))
    parts = ("include/hashpipe.h", "bin/hashpipe")
    found = (Path(prefix) for prefix in prefixes if prefix)
    return next((p for p in found if all((p / part).exists() for part in parts)), None)


def make_stand_in(prefix: Path) -> None:
    """Install the stand-in."""
    for name in ("include", "lib", "bin"):
        (prefix / name).mkdir(parents=True)
    shutil.copy(HASHPIPE / "engine" / "hashpipe.h", prefix / "include")
    gcc = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-pthread", f"-I{prefix}/include"]
    sources = [str(STAND_IN / "library.c"), str(HASHPIPE / "engine" / "cards.c")]
    library = f"{prefix}/lib/libhashpipe.so"
    subprocess.run([*gcc, "-shared", "-fPIC", "-o", library, *sources], check=True)
    subprocess.run(
        [*gcc, "-DPAUSE_MS=100", "-DPOLL_MS=100", "-o", f"{prefix}/bin/hashpipe",
         str(STAND_IN / "launcher.c"), f"-L{prefix}/lib", "-lhashpipe", f"-Wl,-rpath,{prefix}/lib",
         "-ldl"],
        check=True,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["HASHPIPE", "stand-in"])
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the launcher, and of the plugin built against its HASHPIPE."""
    folder = tmp_path_factory.mktemp("installed")
    prefix = folder / "prefix"
    if request.param == "stand-in":
        make_stand_in(prefix)
    else:
        found = installed()
        if found is None:
            pytest.skip(
                "no HASHPIPE is installed here: set HASHPIPE_PREFIX to where its"
                " include/hashpipe.h and bin/hashpipe are"
            )
        prefix = found
    ignored = shutil.ignore_patterns("build", "corpus", "hashpipe", "hashpipe.so")
    copy = shutil.copytree(HASHPIPE, folder / "hashpipe source", ignore=ignored)
    subprocess.run(
        ["make", "-s", "-j2", "-C", str(copy), f"HASHPIPE={prefix}", "CFLAGS=-O1 -g"], check=True
    )
    (copy / "hashpipe").symlink_to(prefix / "bin" / "hashpipe")
    return Path(copy)


class Shared:
    """HASHPIPE's keys of a folder (HASHPIPE_KEYFILE): what lies under them, and its removal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"HASHPIPE_KEYFILE": str(folder)}

    def ring_key(self, ring: int, instance: int) -> int:
        """Its key, as the C library's ftok() makes it."""
        return int(libc.ftok(str(self.folder).encode(), 0x80 | instance)) + ring - 1

    def _status_key(self, instance: int) -> int:
        return int(libc.ftok(str(self.folder).encode(), 0x40 | instance))

    def _lock_name(self, instance: int) -> str:
        return "/" + f"{self.folder}_hashpipe_status_{instance}"[1:].replace("/", "_")

    def ring(self, ring: int, instance: int = 0) -> int:
        """Segment of a ring (they count from 1); -1: there is none."""
        return int(libc.shmget(self.ring_key(ring, instance), 0, 0))

    def semaphores(self, ring: int) -> int:
        """Those of a ring; -1: there are none."""
        return int(libc.semget(self.ring_key(ring, 0), 0, 0))

    def has_lock(self) -> bool:
        """Whether the status buffer's lock is there."""
        return Path(f"/dev/shm/sem.{self._lock_name(0)[1:]}").exists()

    def make_ring(self, ring: int, instance: int) -> int:
        """A segment of some size; its number."""
        key = self.ring_key(ring, instance)
        found = int(libc.shmget(key, 8192, IPC_CREAT | 0o600))
        assert found >= 0
        return found

    def lock(self, instance: int = 0) -> None:
        """Take the lock of the status buffer, and keep it."""
        lock = libc.sem_open(self._lock_name(instance).encode(), 0)
        assert lock and not libc.sem_wait(lock)

    @contextmanager
    def attached(self, segment: int) -> Iterator[None]:
        """We are somebody who uses a segment."""
        memory = libc.shmat(segment, None, 0)
        assert memory not in (None, ctypes.c_void_p(-1).value)
        try:
            yield
        finally:
            libc.shmdt(memory)

    def status(self, instance: int = 0) -> int:
        """Segment of the status buffer."""
        return int(libc.shmget(self._status_key(instance), 0, 0))

    def cards(self, instance: int = 0) -> dict[str, str]:
        """Values of the status buffer, as anybody who attaches to it reads them."""
        memory = libc.shmat(self.status(instance), None, SHM_RDONLY)
        assert memory not in (None, ctypes.c_void_p(-1).value)
        text = ctypes.string_at(memory, STATUS_BYTES).decode("ascii")
        libc.shmdt(memory)
        cards = [text[at : at + CARD_BYTES] for at in range(0, STATUS_BYTES, CARD_BYTES)]
        cards = cards[: next(k for k, card in enumerate(cards) if card.rstrip() == "END")]
        assert all(card[8:10] == "= " for card in cards)
        values = {card[:8].rstrip(): card[10:].partition("/")[0].strip() for card in cards}
        assert len(values) == len(cards)
        return {key: value.strip("'").rstrip() for key, value in values.items()}

    def clear(self) -> None:
        """Nothing of this stays."""
        for instance in (0, 1):
            for ring in (1, 2):
                libc.shmctl(self.ring(ring, instance), IPC_RMID, None)
                libc.semctl(libc.semget(self.ring_key(ring, instance), 0, 0), 0, IPC_RMID)
            libc.shmctl(self.status(instance), IPC_RMID, None)
            libc.sem_unlink(self._lock_name(instance).encode())


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    found = Shared(tmp_path)
    yield found
    found.clear()


@contextmanager
def run(programs: Path, shared: Shared, name: str = "one", **how: Any) -> Iterator[Recorder]:
    """A recording in a folder of its own, under the keys of `shared`."""
    how.setdefault("options", FEW)
    folder, environment = shared.folder / name, shared.environment
    with recording(folder, programs=programs, environment=environment, **how) as recorder:
        yield recorder


def send_frames(senders: Boards, n: int) -> None:
    """So many images of all four boards."""
    for number in range(n):
        for boardloc in range(1016, 1020):
            senders.send(packet(2, boardloc, number, 5, number * 10_000), boardloc)


def check_frames(recorder: Recorder, n: int) -> None:
    """They are all there."""
    numbers = [frame.numbers for frame in recorder.frames(254, "img16")]
    assert numbers == [dict.fromkeys(range(4), number) for number in range(n)]


def check_refused(recorder: Recorder, *named: str) -> None:
    """It ends soon, with exit code 1 and a line that says why."""
    assert recorder.process.wait(timeout=20) == 1
    for words in named:
        assert words in recorder.output, recorder.output


def test_threads_are_known(programs: Path) -> None:
    listed = subprocess.run(
        [str(programs / "hashpipe"), "-p", "./hashpipe.so", "-l"],
        cwd=programs, capture_output=True, text=True,
    )  # fmt: skip
    for thread in ("net_thread", "compute_thread", "output_thread"):
        assert thread in listed.stdout + listed.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_that_was_received_is_recorded(programs: Path, shared: Shared, number: int) -> None:
    """A backlog when the signal comes, threads that are about to be cancelled."""
    with run(programs, shared) as recorder, boards(recorder) as senders:
        recorder.process.send_signal(signal.SIGSTOP)
        send_frames(senders, 20)
        recorder.process.send_signal(number)
        recorder.process.send_signal(signal.SIGCONT)
        assert recorder.stop(number)["totals"]["recorded"] == 80
        check_frames(recorder, 20)


@pytest.mark.parametrize("pause_ms", [500, pytest.param(9500, marks=pytest.mark.long)])
def test_told_to_end_before_all_threads_have_begun(
    programs: Path, shared: Shared, pause_ms: int
) -> None:
    """Nothing is received any more, even where the first threads no longer wait for the last."""
    environment = shared.environment | {"PAUSE_MS": str(pause_ms)}
    folder = shared.folder / "one"
    with recording(
        folder, options=FEW, programs=programs, environment=environment, ready=False
    ) as recorder:
        wait_for(recorder.status_path.exists, "the first thread")
        assert recorder.stop()["totals"]["received"] == 0
    assert recorder.log.count(" packets received, ") == 1
    assert "listening" not in recorder.log


def count_keys(status: dict[str, Any], last_board: tuple[int, int]) -> dict[str, int]:
    """What the standard keys say, given the status file: those that depend on the packets alone."""
    totals = status["totals"]
    lost = {
        stream["mode"]: stream["lost"]
        for stream in status["quabos"]
        if (stream["module"], stream["quabo"]) == last_board
    }
    partial = {product["product"]: product["partial"] for product in status["products"]}
    return {
        "NPACKETS": totals["received"],
        "NETRECV": totals["received"],
        "NETDROPS": totals["kernel_drops"],
        "TPKTLST": totals["lost"],
        **{f"M{mode}PKTLST": lost.get(mode, -1) for mode in (1, 2, 3, 6, 7)},
        "PTRLPH10": partial["ph1024"],
        "PTRLMODI": partial["img16"] + partial["img8"],
    }


def test_status_buffer(programs: Path, shared: Shared) -> None:
    """Its standard keys, while the pipeline runs and afterwards."""
    options = FEW | {"GROUPPHFRAMES": 1}
    with run(programs, shared, options=options) as recorder, boards(recorder) as senders:
        for mode in (1, 2, 3, 6):  # so many of each mode are missing, of the board that is last
            for number in (0, mode + 1):
                data = packet(mode, 1019, number, 5 + mode, number * 1_000_000)
                senders.send(data, 1019)
        for number in (0, 30):
            senders.send(packet(7, 1016, number, 20, number * 1_000_000), 1016)
        senders.send(b"nothing", 1018)
        senders.send(packet(1, 1019, 3, 6, 3_000_000), 1019)
        wait_for(
            lambda: (
                recorder.status()["totals"]["recorded"] == 11
                and int(shared.cards()["PTRLMODI"]) == 8
            ),
            "all to be told",
        )
        cards, status = shared.cards(), recorder.status()
        wanted = count_keys(status, (254, 3))
        assert wanted["NPACKETS"] == 12 and wanted["TPKTLST"] == 12 + 29
        assert [wanted[f"M{mode}PKTLST"] for mode in (1, 2, 3, 6, 7)] == [1, 2, 3, 6, -1]
        assert {key: int(cards[key]) for key in wanted} == wanted
        assert (cards["BINDHOST"], int(cards["BINDPORT"])) == (recorder.host, recorder.port)
        assert cards["NETSTAT"] in ("waiting", "receiving")
        assert cards["COMPUTES"] in ("waiting", "processing")
        assert cards["OUTSTAT"] in ("waiting", "processing")
        senders.send(packet(1, 1019, 4, 6, 4_000_000), 1019)
        status = recorder.stop()
        cards = shared.cards()
    wanted = count_keys(status, (254, 3))
    assert wanted["NPACKETS"] == 13
    assert {key: int(cards[key]) for key in wanted} == wanted
    # What one thread gave out last, the next one took last, and as often.
    assert cards["NETBKOUT"] == cards["COMBLKIN"] and cards["COMBKOUT"] == cards["OUTBLKIN"]
    assert int(cards["NETMCNT"]) == int(cards["COMMCNT"]) >= 2 and int(cards["OUTMCNT"]) >= 2


def test_the_plugin_that_nodes_have_works_too(programs: Path, shared: Shared) -> None:
    """start_daq.py takes the launcher of hashpipe_dir, and the plugin built with our engine."""
    folder = shared.folder / "data directory"
    folder.mkdir()
    (folder / "hashpipe").symlink_to(programs / "hashpipe")
    shutil.copy(build() / "hashpipe.so", folder)
    with run(folder, shared) as recorder, boards(recorder) as senders:
        send_frames(senders, 10)
        assert recorder.stop()["totals"]["recorded"] == 40
        check_frames(recorder, 10)
    assert shared.ring(1) >= 0


def test_one_run_after_another(programs: Path, shared: Shared) -> None:
    """Rings and status of the first are there when the second begins."""
    for name in ("one", "two"):
        with run(programs, shared, name) as recorder, boards(recorder) as senders:
            send_frames(senders, 10)
            recorder.stop()
            check_frames(recorder, 10)
        assert shared.ring(1) >= 0 and shared.status() >= 0
    # What the first was told in its options does not hold for the next.
    with run(programs, shared, "three", options=FEW | {"RUNDIR": ""}, ready=False) as recorder:
        check_refused(recorder, "RUNDIR=")


def test_rings_of_a_dead_pipeline_are_replaced(programs: Path, shared: Shared) -> None:
    """Of other sizes than ours, and nobody uses them; those of another instance stay."""
    other = shared.make_ring(1, instance=1)
    with run(programs, shared) as recorder:
        recorder.end(signal.SIGKILL)
    old = {ring: shared.ring(ring) for ring in (1, 2)}
    assert all(segment >= 0 for segment in old.values())
    more = {"NETBLKS": 6, "OUTBLKS": 5}
    with (
        run(programs, shared, "two", options=more) as recorder,
        boards(recorder) as senders,
    ):
        send_frames(senders, 10)
        recorder.stop()
        check_frames(recorder, 10)
        assert recorder.log.count("removed a ring of another size") == 2
    assert all(shared.ring(ring) not in (-1, segment) for ring, segment in old.items())
    assert shared.ring(1, instance=1) == other


def test_a_ring_in_use_is_told_with_what_removes_it(programs: Path, shared: Shared) -> None:
    with run(programs, shared) as recorder:
        recorder.end(signal.SIGKILL)
    segment = shared.ring(1)
    with (
        shared.attached(segment),
        run(programs, shared, "two", options=FEW | {"NETBLKS": 6}, ready=False) as recorder,
    ):
        check_refused(recorder, "NETBLKS=6", "`hashpipe_clean_shmem -d -I 0` removes it")
    assert shared.ring(1) == segment


def test_a_second_start_leaves_a_recording_alone(programs: Path, shared: Shared) -> None:
    """Of the same instance and with rings of the same sizes, while the first has a backlog."""
    with run(programs, shared) as first, boards(first) as senders:
        first.process.send_signal(signal.SIGSTOP)
        send_frames(senders, 20)
        with run(programs, shared, "two", ready=False) as second:
            check_refused(second, "NETBLKS=4", "somebody uses that of instance 0", "pgrep -ax")
        first.process.send_signal(signal.SIGCONT)
        assert first.stop()["totals"]["recorded"] == 80
        check_frames(first, 20)


def test_limit_of_locked_memory_is_told(programs: Path, shared: Shared) -> None:
    wrapper = ["prlimit", f"--memlock={LIMIT_BYTES}:{LIMIT_BYTES}"]
    if not os.geteuid():
        wrapper += ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    with run(programs, shared, wrapper=wrapper, ready=False) as recorder:
        check_refused(recorder, f"the limit is {LIMIT_BYTES // 1024} kB", "`ulimit -l`")


def test_a_lock_of_a_dead_process_is_freed(programs: Path, shared: Shared) -> None:
    with run(programs, shared) as recorder:
        recorder.stop()
    shared.lock()
    with run(programs, shared, "two") as recorder, boards(recorder) as senders:
        send_frames(senders, 10)
        assert recorder.end() == 0
        check_frames(recorder, 10)
        assert "a process that is gone had left the status buffer locked" in recorder.output


def test_a_lock_that_somebody_may_hold_is_told(programs: Path, shared: Shared) -> None:
    with run(programs, shared) as recorder:
        recorder.stop()
    shared.lock()
    with (
        shared.attached(shared.status()),
        run(programs, shared, "two", ready=False) as recorder,
    ):
        check_refused(recorder, "keeps it locked", "`hashpipe_clean_shmem -d -I 0`")


def test_a_lock_that_is_never_given_back_holds_nothing_up(programs: Path, shared: Shared) -> None:
    """Somebody looks at the status buffer and dies while a pipeline records."""
    with run(programs, shared) as recorder, boards(recorder) as senders:
        shared.lock()
        send_frames(senders, 10)
        wait_for(lambda: recorder.status()["totals"]["recorded"] == 40, "the status file")
        begin = time.monotonic()
        recorder.stop()
        assert time.monotonic() - begin < 10
        check_frames(recorder, 10)
        assert (recorder.folder / RUN).is_dir()


def stop(shared: Shared, recorder: Recorder) -> str:
    """What the helper that stops this node says."""
    done = subprocess.run(
        [sys.executable, str(REPO / "daq" / "stop_daq.py"), "--data_dir", str(recorder.folder)],
        env=os.environ | shared.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return " ".join(json.loads(done.stdout)["notes"])


def test_a_stop_removes_what_a_dead_pipeline_has_left(programs: Path, shared: Shared) -> None:
    """What is another instance's stays."""
    with run(programs, shared) as recorder:
        recorder.end(signal.SIGKILL)
    other = shared.make_ring(1, instance=1)
    assert shared.ring(2) >= 0 and shared.semaphores(2) >= 0 and shared.has_lock()
    said = stop(shared, recorder)
    assert "removed shared memory that a dead pipeline had left: ring 1 (" in said
    for ring in (1, 2):
        assert shared.ring(ring) == shared.semaphores(ring) == -1
    assert shared.status() == -1 and not shared.has_lock()
    assert shared.ring(1, instance=1) == other
    assert stop(shared, recorder) == ""
    with run(programs, shared, "two") as recorder, boards(recorder) as senders:
        send_frames(senders, 10)
        recorder.stop()
        check_frames(recorder, 10)


def test_a_stop_leaves_what_may_be_in_use(programs: Path, shared: Shared) -> None:
    """Somebody is attached; the maker lives; or it is nothing that a pipeline makes."""
    with run(programs, shared) as recorder:
        recorder.end(signal.SIGKILL)
    segment, status = shared.ring(1), shared.status()
    with shared.attached(segment), shared.attached(status):
        assert "ring 1" not in (said := stop(shared, recorder)) and "ring 2" in said
    assert (shared.ring(1), shared.status()) == (segment, status)
    assert shared.semaphores(1) >= 0 and shared.has_lock()
    alive = shared.make_ring(2, instance=0)
    stop(shared, recorder)
    assert shared.ring(1) == shared.status() == -1 and shared.ring(2) == alive
    libc.shmctl(alive, IPC_RMID, None)
    make = f"import ctypes; ctypes.CDLL(None).shmget({shared.ring_key(1, 0)}, 8192, 0o1600)"
    subprocess.run([sys.executable, "-c", make], check=True)
    strange = shared.ring(1)
    assert strange >= 0 and stop(shared, recorder) == "" and shared.ring(1) == strange
