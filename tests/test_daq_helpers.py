"""start_daq, stop_daq, status_daq here: the real pipeline, and programs that misbehave."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daq import daq_facts
from panoseti.boards.science_packets import SciencePacket, build_science
from tests import node_dir
from tests.helpers import REPO, wait_for
from tests.node_dir import OTHER_RUN, RUN, Answer, NodeDir, end_hashpipes, hashpipe_pids, is_alive

FRAMES = 300
NOBODY = 65534


@pytest.fixture(autouse=True)
def no_pipeline_is_left() -> Iterator[None]:
    yield
    end_hashpipes()


@pytest.fixture
def node(tmp_path: Path) -> NodeDir:
    return NodeDir(tmp_path / "node data")


def faulty(tmp_path: Path, behaviour: str) -> NodeDir:
    return NodeDir(tmp_path / "node data", behaviour)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def send_images(port: int, module: int, frames: int = FRAMES, first: int = 0) -> None:
    """16-bit images of all four quabos of a module, 0.1 ms apart; quabo 3 loses 5 packets."""
    boardlocs = [4 * module + quabo for quabo in range(4)]
    socks = []
    try:
        for boardloc in boardlocs:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            socks.append(sock)
            sock.bind((f"127.0.{boardloc >> 8}.{boardloc & 255}", 0))
        for number in range(first, first + frames):
            for sock, boardloc in zip(socks, boardlocs, strict=True):
                if boardloc & 3 == 3 and 10 <= number < 15:
                    continue
                packet = SciencePacket(
                    2, 0, number, boardloc, 100, 100_000 * number, (number,) * 256
                )
                sock.sendto(build_science(packet), ("127.0.0.1", port))
            if number % 20 == 0:
                time.sleep(0.001)
    finally:
        for sock in socks:
            sock.close()


# --- the real pipeline ---


def test_a_recording(node: NodeDir) -> None:
    port = free_udp_port()
    started = node.start(bindport=port, max_file_size_mb=0, group_ph_frames=1)
    assert started.code == 0, started.error
    pid = started.document["pid"]
    assert hashpipe_pids() == {pid}
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    for fd in (1, 2):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == f"{node.path}/{RUN}/hp_stdout_127.0.0.1"
    assert (node.path / "module.config").read_text() == "1\n254\n"
    state = json.loads((node.path / "current_run_daq").read_text())
    assert (state["run"], state["owner"]) == (RUN, "token1")
    named = json.loads((node.path / "daq_pid").read_text())
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (named["pid"], named["boot_id"], named["name"]) == (pid, boot_id, "hashpipe")

    send_images(port, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"x" * 528, ("127.0.0.1", port))
    recorded = 4 * FRAMES - 5
    status = wait_for(
        lambda: (found := node.status())["packets"] == recorded + 1 and found, "all packets"
    )
    assert status["running"] is True
    assert (status["run"], status["owner"], status["started_by"]) == (RUN, "token1", "obs@head[1]")
    assert status["problems"] == []
    assert status["pid"] == pid
    assert [entry["pid"] for entry in status["processes"]] == [pid]
    lost = {entry["quabo"]: entry["lost"] for entry in status["quabos"]}
    assert lost == {0: 0, 1: 0, 2: 0, 3: 5}
    assert status["lost"] == 5
    assert [entry["source"] for entry in status["bad_sources"]] == ["127.0.0.1"]
    assert status["rejected"] == 1

    stopped = node.stop()
    assert stopped.code == 0
    assert not is_alive(pid)
    document = stopped.document
    assert (document["run"], document["owner"], document["was_running"]) == (RUN, "token1", True)
    assert [entry["signals"] for entry in document["ended"]] == [["SIGINT"]]
    assert document["final"]["state"] == "ended"
    assert document["final"]["totals"]["recorded"] == recorded
    assert document["notes"] == []
    assert node.names() == {RUN, "module_1", "module_254"}
    images = list((node.path / "module_1" / RUN).glob("*.dp_img16.*.pff"))
    assert [path.stat().st_size for path in images] == [FRAMES * 2540]

    again = node.stop()
    assert (again.code, again.document["was_running"], again.document["ended"]) == (0, False, [])
    status = node.status("--run", RUN)
    assert status["running"] is False
    assert [(f["module"], f["product"], f["bytes"], f["bytes_per_s"]) for f in status["files"]] == [
        (1, "img16", FRAMES * 2540, None)
    ]


def test_copies_for_the_run(node: NodeDir) -> None:
    """Small files of the head node, put there with the start; never into its own directory."""

    def start(copies: str, run: str = RUN) -> Answer:
        words = node.start_words(run, bindport=free_udp_port())
        return node.helper("start_daq.py", *words, "--copies", given=copies)

    for name in ("../x", ".x", "a/b", "run.json", "", "-x"):
        bad = start(json.dumps({name: "{}"}))
        assert bad.code == 2 and "cannot be the name" in bad.error, name
    for text in ("", "[]", '{"x": 1}'):
        assert start(text).code == 2, text
    assert node.names() == set()
    assert start(json.dumps({"obs_config.json": "{}\n"})).code == 0
    assert (node.path / RUN / "obs_config.json").read_text() == "{}\n"
    assert node.stop().code == 0
    shared = node.path / OTHER_RUN
    shared.mkdir()
    (shared / "run.json").write_text("{}")
    assert start(json.dumps({"obs_config.json": "other"}), OTHER_RUN).code == 0
    assert not (shared / "obs_config.json").exists()
    assert node.stop().code == 0


def test_a_start_that_fails_takes_its_copies_back(tmp_path: Path) -> None:
    node = faulty(tmp_path, "exit")
    done = node.helper("start_daq.py", *node.start_words(), "--copies", given='{"x.json": "{}"}')
    assert done.code == 1
    assert node.names() <= {"module_1", "module_254"}


def test_growth_is_seen(node: NodeDir) -> None:
    port = free_udp_port()
    assert node.start(bindport=port).code == 0
    watch = subprocess.Popen(
        node.words("status_daq.py", "--growth_s", "2"), stdout=subprocess.PIPE, text=True
    )
    first, deadline = 0, time.monotonic() + 1.5
    while time.monotonic() < deadline:
        send_images(port, 254, 50, first)
        first += 50
    status = json.loads(watch.communicate(timeout=30)[0])
    assert [f["product"] for f in status["files"]] == ["img16"]
    assert status["files"][0]["bytes_per_s"] > 0
    assert node.stop().code == 0


def test_the_launch_script_can_be_read_and_run_by_hand(node: NodeDir) -> None:
    assert node.start(obs="Palo Alto; rm -rf $HOME").code == 0
    assert node.stop().code == 0
    script = (node.path / "run_hashpipe.sh").read_text().splitlines()
    assert script[0] == "#!/bin/sh"
    assert f"    -o RUNDIR={RUN} \\" in script
    assert "    -o 'OBS=Palo Alto; rm -rf $HOME' \\" in script
    assert "    -o LOGFILE=hp_log_127.0.0.1 \\" in script
    assert script[-1] == "    net_thread compute_thread output_thread"
    command = [str(node.path / "run_hashpipe.sh")]
    time.sleep(1.01)  # files are named after the second they are opened in
    with subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL) as byhand:
        wait_for(lambda: node.status()["running"], "it to run")
        assert any("no current_run_daq says for whom" in p for p in node.status()["problems"])
        stopped = node.stop()
        assert stopped.code == 0
        assert stopped.document["run"] == RUN
        assert byhand.wait(10) == 0


def test_options_of_the_pipeline(node: NodeDir) -> None:
    cpu = max(os.sched_getaffinity(0))
    started = node.start(capture="udp", receive_buffer_mb=8, busy_poll=1, cpus=f"{cpu},{cpu},{cpu}")
    assert started.code == 0, started.error
    tasks = Path(f"/proc/{started.document['pid']}/task").glob("*/status")
    threads = [dict(line.split(":\t", 1) for line in task.read_text().splitlines()
                    if ":\t" in line) for task in tasks]  # fmt: skip
    pinned = {t["Name"] for t in threads if t["Cpus_allowed_list"] == str(cpu)}
    assert pinned >= {"net_thread", "compute_thread", "output_thread"}
    assert node.stop().code == 0
    script = (node.path / "run_hashpipe.sh").read_text().splitlines()
    for option in ("CAPTURE=udp", "RCVMB=8", "BUSYPOLL=1"):
        assert f"    -o {option} \\" in script
    assert script[-1] == f"    -c {cpu} net_thread -c {cpu} compute_thread -c {cpu} output_thread"


def test_installed_launcher_is_used(node: NodeDir, tmp_path: Path) -> None:
    prefix = tmp_path / "hash pipe"
    (prefix / "bin").mkdir(parents=True)
    shutil.move(node.path / "hashpipe", prefix / "bin" / "hashpipe")
    started = node.start(hashpipe_dir=prefix)
    assert started.code == 0, started.error
    assert os.readlink(f"/proc/{started.document['pid']}/exe") == f"{prefix}/bin/hashpipe"
    assert node.stop().code == 0


def test_launcher_with_privileges() -> None:
    """/proc hides most of a program with capabilities from the very user who runs it."""
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not shutil.which("setcap") or not _runs(python):
        pytest.skip("needs root, setcap and the system's python3")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        node = NodeDir(Path(folder) / "node data", python=python)
        launcher = str(node.path / "hashpipe")
        if subprocess.run(["setcap", "cap_net_raw+ep", launcher], capture_output=True).returncode:
            pytest.skip("no file capabilities here")
        os.chown(node.path, NOBODY, NOBODY)
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        node.prefix = user
        started = node.start()
        assert started.code == 0, started.error
        hidden = [*user, "readlink", f"/proc/{started.document['pid']}/cwd"]
        assert subprocess.run(hidden, capture_output=True).returncode == 1
        status = node.status()
        assert (status["running"], status["problems"]) == (True, [])
        assert status["processes"][0]["data_dir"] == str(node.path)
        assert node.start(OTHER_RUN).code == 3
        stopped = node.stop()
        assert (stopped.code, stopped.document["final"]["state"]) == (0, "ended")


def test_modules_on_other_disks(node: NodeDir, tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    (node.path / "module_254").symlink_to(tmp_path / "disk2")
    (node.path / "module_7").symlink_to(tmp_path / "gone")
    assert node.start().code == 0
    assert (tmp_path / "disk2" / RUN).is_dir()
    status = node.status()
    modules = sorted(id for volume in status["volumes"] for id in volume["modules"])
    assert modules == [1, 254]
    assert all(0 < volume["free_bytes"] <= volume["total_bytes"] for volume in status["volumes"])
    assert [volume["default"] for volume in status["volumes"]] == [True]
    assert any("module_7 (a link to" in problem for problem in status["problems"])
    assert node.stop().code == 0


def test_second_start_is_refused(node: NodeDir, tmp_path: Path) -> None:
    first = node.start()
    elsewhere = NodeDir(tmp_path / "elsewhere")
    for other in (node, elsewhere):
        second = other.start(OTHER_RUN, owner="token2")
        assert second.code == 3
        assert f"hashpipe (pid {first.document['pid']}, " in second.error
        assert f"run {RUN}" in second.error
        assert "of obs@head[1] since 20" in second.error
        assert OTHER_RUN not in other.names()
    assert elsewhere.names() == set()
    assert node.status()["run"] == RUN
    assert node.stop().code == 0


@pytest.mark.parametrize("places", [1, 3])
def test_of_many_starts_one_wins(tmp_path: Path, places: int) -> None:
    nodes = [NodeDir(tmp_path / f"node {k}") for k in range(places)]
    words = [
        nodes[k % places].words(
            "start_daq.py",
            *nodes[0].start_words(RUN.replace("04:34:06", f"04:34:{k:02}"), owner=f"token{k}"),
        )
        for k in range(6)
    ]
    running = [subprocess.Popen(w, stdout=subprocess.PIPE, text=True, cwd="/") for w in words]
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 3, 3, 3, 3, 3], [d["error"] for d in documents]
    winner = codes.index(0)
    assert hashpipe_pids() == {documents[winner]["pid"]}
    status = nodes[winner % places].status()
    assert (status["run"], status["owner"]) == (documents[winner]["run"], f"token{winner}")
    assert status["problems"] == []
    for k, node in enumerate(nodes):
        runs = [name for name in node.names() if name.startswith("obs_")]
        assert len(runs) == (k == winner % places)
    assert nodes[winner % places].stop().code == 0


def test_pipeline_that_was_killed(node: NodeDir) -> None:
    first = node.start()
    os.kill(first.document["pid"], signal.SIGKILL)
    wait_for(lambda: not hashpipe_pids(), "it to be gone")
    status = node.status()
    assert (status["running"], status["run"]) == (False, RUN)
    assert status["problems"] == [f"run {RUN} is not over, but its pipeline has died: stop.py"]
    # The same run goes on in new files, and the accounts of the first part are kept.
    second = node.start()
    assert (second.code, second.document["replaced_run"]) == (0, RUN)
    kept = node.path / RUN / "hp_status_127.0.0.1.part_1.json"
    assert json.loads(kept.read_text())["pid"] == first.document["pid"]
    stopped = node.stop()
    assert (stopped.code, stopped.document["final"]["state"]) == (0, "ended")


def test_a_run_that_goes_on_wants_its_folders(node: NodeDir) -> None:
    """An empty folder where a disk was mounted: nothing is recorded into it."""
    first = node.start()
    os.kill(first.document["pid"], signal.SIGKILL)
    wait_for(lambda: not hashpipe_pids(), "it to be gone")
    folder = node.path / "module_254" / RUN
    away = folder.rename(node.path / "away")
    words = node.start_words(RUN)
    refused = node.helper("start_daq.py", *words, "--again")
    assert refused.code == 1
    assert f"module_254/{RUN} is gone since the run began: mount its disk" in refused.error
    assert not folder.exists()
    away.rename(folder)
    again = node.helper("start_daq.py", *words, "--again")
    assert (again.code, again.document["replaced_run"]) == (0, RUN), again.error
    assert node.stop().code == 0


def test_a_restart_that_fails_keeps_the_node(node: NodeDir) -> None:
    """Nobody else may begin a run in the middle of this one; its end gives the node back."""
    first = node.start()
    os.kill(first.document["pid"], signal.SIGKILL)
    wait_for(lambda: not hashpipe_pids(), "it to be gone")
    words = node.start_words(RUN)
    for _ in range(2):
        failed = node.helper("start_daq.py", *words, "--again", "--bindhost", "192.0.2.1")
        assert failed.code == 1 and "192.0.2.1" in failed.error
        assert node.status()["run"] == RUN
    refused = node.start(OTHER_RUN, owner="head2-1-2")
    assert refused.code == 3 and f"this node is in run {RUN} of" in refused.error
    again = node.helper("start_daq.py", *words, "--again")
    assert (again.code, again.document["replaced_run"]) == (0, RUN), again.error
    assert node.stop().code == 0
    assert node.status()["run"] is None


def test_pipeline_that_was_frozen(node: NodeDir) -> None:
    pid = node.start().document["pid"]
    os.kill(pid, signal.SIGSTOP)
    stopped = node.stop()
    assert stopped.code == 0
    assert [entry["signals"] for entry in stopped.document["ended"]] == [["SIGINT"]]
    assert stopped.document["final"]["state"] == "ended"


def test_address_that_is_not_here(node: NodeDir) -> None:
    failed = node.start(bindhost="192.0.2.1")
    assert failed.code == 1
    assert "cannot bind UDP port 60001 of 192.0.2.1" in failed.error
    assert node.names() == set()


# --- starts that fail ---


def assert_undone(node: NodeDir) -> None:
    assert hashpipe_pids() == set()
    assert node.names() == set()


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (node_dir.EXITS_AT_ONCE, "ended with exit code 7.*: cannot go on"),
        (node_dir.HANGS_AT_START, "does not record in time: it has written no status"),
        (node_dir.NO_SOCKET, "does not record in time: its socket is not open"),
        (node_dir.THREAD_MISSING, "does not record in time: output_thread not running"),
        (node_dir.FAILS_LATER, "ended with exit code 1.*: disk on fire"),
        (node_dir.HANGS_DEAF, "does not record in time: it has written no status"),
    ],
)
def test_pipeline_that_does_not_come_up(tmp_path: Path, behaviour: str, words: str) -> None:
    node = faulty(tmp_path, behaviour)
    _shorten_patience(node)
    failed = node.start(deadline_s=0.5)
    assert failed.code == 1
    assert re.search(words, failed.error), failed.error
    assert failed.document["left"] == []
    assert_undone(node)


def _shorten_patience(node: NodeDir) -> None:
    """Tests need not wait as long as a night may."""
    for name, old, new in (
        ("daq_launch.py", "(signal.SIGINT, 5.0), (signal.SIGTERM, 3.0)",
         "(signal.SIGINT, 0.3), (signal.SIGTERM, 0.3)"),
        ("stop_daq.py", "TERM_WAIT_S = 10.0", "TERM_WAIT_S = 0.3"),
    ):  # fmt: skip
        text = (node.path / name).read_text()
        assert old in text
        (node.path / name).write_text(text.replace(old, new))


def test_start_does_not_undo_what_was_there(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.EXITS_AT_ONCE)
    (node.path / "module_1" / RUN).mkdir(parents=True)
    (node.path / RUN).mkdir()
    (node.path / RUN / "obs_config.json").write_text("{}")
    assert node.start().code == 1
    assert (node.path / RUN / "obs_config.json").read_text() == "{}"
    assert node.names() == {RUN, "module_1"}
    assert os.listdir(node.path / RUN) == ["obs_config.json"]


def test_start_without_program(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    for name in ("hashpipe.so", "hashpipe"):
        (node.path / name).unlink()
        failed = node.start()
        assert failed.code == 1
        assert f"{name} is missing: config.py --init_daq_nodes" in failed.error
        assert_undone(node)


def test_start_told_to_end(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.NO_SOCKET)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        words = node.words("start_daq.py", *node.start_words(deadline_s=60))
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as start:
            wait_for(lambda: (node.path / "daq_pid").exists(), "it to wait")
            start.send_signal(number)
            document = json.loads(start.communicate(timeout=30)[0])
        assert start.returncode == 1
        assert f"was ended by {number.name}" in document["error"]
        assert_undone(node)


def test_stop_overtakes_a_start(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.NO_SOCKET)
    words = node.words("start_daq.py", *node.start_words(deadline_s=60))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as start:
        wait_for(lambda: (node.path / "daq_pid").exists(), "it to wait")
        assert node.stop().code == 0
        document = json.loads(start.communicate(timeout=30)[0])
    assert (start.returncode, "before it recorded" in document["error"]) == (1, True)
    assert_undone(node)


@contextmanager
def hung_start(node: NodeDir, *more: str) -> Iterator[tuple[int, list[Answer]]]:
    """A start that is held up before it launches, as by its disk, and then goes on: its pid, and
    its answer once it has ended.  A stop there does not wait for it as long as usual.
    """
    answers: list[Answer] = []
    script = node.path / "stop_daq.py"
    script.write_text(script.read_text().replace("LOCK_WAIT_S = 10.0", "LOCK_WAIT_S = 0.5"))
    folder = node.path / "module_1" / RUN
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    for second in range(-1, 100):  # no name is left for a new file
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + second))
        (folder / f"start_{stamp}.dp_img16.bpp_2.module_1.seqno_0.pff").touch()
    words = node.words("start_daq.py", *node.start_words(), *more)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as start:
        try:
            wait_for((node.path / "run_hashpipe.sh").exists, "it to have come so far")
            start.send_signal(signal.SIGSTOP)
            yield start.pid, answers
            shutil.rmtree(folder)
            folder.mkdir()
        finally:
            start.send_signal(signal.SIGCONT)
        document = json.loads(start.communicate(timeout=30)[0])
    answers.append(Answer(start.returncode, document))


def test_a_start_that_hangs_until_its_run_is_over_launches_nothing(tmp_path: Path) -> None:
    """The stop does not wait for ever, and nothing may record afterwards."""
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    with hung_start(node) as (_, answers):
        busy = node.start(OTHER_RUN)
        stopped = node.stop("--over", RUN, "--owner", "token1")
        older = node.stop("--run", OTHER_RUN, "--over", OTHER_RUN, "--owner", "token1")
    assert busy.code == 3 and f"a start of {RUN} by obs@head[1] since 20" in busy.error, busy
    (note,) = stopped.document["notes"]
    assert stopped.code == 0 and f"a start of {RUN} by obs@head[1]" in note, stopped
    assert "still at work here; it will not record" in note
    assert older.code == 3 and f"not {OTHER_RUN}; nothing was stopped" in older.error, older
    assert answers[0].code == 3 and "is over on this node" in answers[0].error, answers
    assert not hashpipe_pids()
    assert not {"current_run_daq", "daq_pid"} & node.names()


def test_a_restart_that_hangs_until_its_run_is_over_gives_the_node_back(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    os.kill(node.start().document["pid"], signal.SIGKILL)
    wait_for(lambda: not hashpipe_pids(), "it to be gone")
    claim, script = node.path / "current_run_daq", node.path / "run_hashpipe.sh"
    before = claim.read_bytes()
    script.unlink()
    with hung_start(node, "--again") as (_, answers):
        assert node.stop("--over", RUN, "--owner", "token1").code == 0
        claim.write_bytes(before)  # a stop that came before the restart had claimed the node
    assert answers[0].code == 3 and "is over on this node" in answers[0].error, answers
    assert not hashpipe_pids() and not claim.exists()


def test_a_stop_that_cannot_tell_what_a_start_will_do_fails(tmp_path: Path) -> None:
    """Of a run it does not know: all is off now, and may not be in a moment."""
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    with hung_start(node) as (pid, answers):
        stops = [node.stop("--owner", "token1"), node.stop("--over", OTHER_RUN)]
        others = node.stop("--owner", "token of another")
    for stopped in stops:
        assert stopped.code == 1 and not stopped.document["was_running"], stopped
        assert "nothing records, but a start of " + RUN in stopped.error
        assert f"(pid {pid}) is still at work here and may yet begin" in stopped.error
    assert answers[0].code == 0 and hashpipe_pids() == {answers[0].document["pid"]}, answers
    state = json.loads((node.path / "current_run_daq").read_text())
    assert (state["run"], state["owner"]) == (RUN, "token1")  # which a stop must not take away
    assert others.code == 3
    assert node.stop().code == 0 and not hashpipe_pids()


def test_a_stop_beside_a_stop_that_hangs_is_told_of_it(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.IGNORES_SIGINT)
    assert node.start().code == 0
    script = node.path / "stop_daq.py"
    script.write_text(script.read_text().replace("LOCK_WAIT_S = 10.0", "LOCK_WAIT_S = 0.5"))
    words = node.words("stop_daq.py", "--deadline_s", "60")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        try:
            wait_for(
                lambda: f"a stop (pid {first.pid})" in (node.path / "daq.lock").read_text(),
                "it to be at work",
            )
            first.send_signal(signal.SIGSTOP)
            second = node.stop("--deadline_s", "0.1")
        finally:
            first.send_signal(signal.SIGCONT)
    assert second.code == 0 and not hashpipe_pids(), second
    assert f"a stop (pid {first.pid}) is still at work here" in second.document["notes"]
    assert first.returncode == 0 and "current_run_daq" not in node.names()


def test_status_file_of_another_process_does_not_count(tmp_path: Path) -> None:
    node = faulty(tmp_path, "os.getpid = lambda: 1; status('running'); wait_for_ever()")
    failed = node.start(deadline_s=0.5)
    assert (failed.code, "it has written no status" in failed.error) == (1, True)
    assert_undone(node)


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    (node.path / "module_254").symlink_to(tmp_path / "not mounted")
    failed = node.start()
    assert failed.code == 1
    assert f"module_254 is a link to {tmp_path}/not mounted, which is not there" in failed.error
    assert node.names() == {"module_254"}
    (node.path / "module_254").unlink()
    (node.path / "module_254").write_text("a file")
    failed = node.start()
    assert (failed.code, "module_254 is not a directory" in failed.error) == (1, True)
    assert node.names() == {"module_254"}
    absent = node.helper("status_daq.py", "--data_dir", str(tmp_path / "absent"))
    assert (absent.code, "absent: No such file" in absent.error) == (1, True)


BAD_RUNS = ["", "..", "../x", f"{RUN}/..", f"{RUN}\n", f"{RUN};id", f" {RUN}", "obs_a b.pffd",
            RUN.replace("Test", "T/t"), RUN.replace("sci-data", "x" * 60)]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"run": run} for run in BAD_RUNS]
    + [
        {"run": RUN.replace("Test", "T" * 15)},  # 68 - 66 characters too many
        {"bindhost": "i" * 67},
        {"obs": "o" * 67},
        {"obs": "it's"},
        {"obs": "new\nline"},
        {"daq_ip": "../etc"},
        {"daq_ip": ""},
        {"daq_ip": "a" * 60},
        {"module_ids": ""},
        {"module_ids": "1,256"},
        {"module_ids": "1-3"},
        {"bindport": 0},
        {"bindport": "x"},
        {"max_file_size_mb": -1},
        {"owner": ""},
        {"group_ph_frames": 2},
        {"capture": "raw"},
        {"busy_poll": 2},
        {"cpus": "0,0"},
        {"cpus": "0,0,net"},
        {"cpus": "0,0,4096"},
    ],
)
def test_bad_arguments(tmp_path: Path, changes: dict[str, str]) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    run = changes.pop("run", RUN)
    failed = node.start(run, **changes)
    assert failed.code == 2, failed.error
    assert_undone(node)
    assert not (node.path / "module.config").exists()


# --- stops that meet resistance ---


@pytest.mark.parametrize(
    ("behaviour", "signals"),
    [
        (node_dir.ENDS_AT_SIGINT, ["SIGINT"]),
        (node_dir.IGNORES_SIGINT, ["SIGINT", "SIGTERM"]),
        (node_dir.IGNORES_ALL, ["SIGINT", "SIGTERM", "SIGKILL"]),
        (node_dir.DRAINS_SLOWLY, ["SIGINT"]),
    ],
)
def test_stop(tmp_path: Path, behaviour: str, signals: list[str]) -> None:
    node = faulty(tmp_path, behaviour)
    _shorten_patience(node)
    started = node.start()
    assert started.code == 0, started.error
    stopped = node.stop("--deadline_s", "1")
    assert stopped.code == 0
    assert [entry["signals"] for entry in stopped.document["ended"]] == [signals]
    assert hashpipe_pids() == set()
    assert node.names() == {RUN, "module_1", "module_254"}


def test_patience_has_an_end(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.DRAINS_SLOWLY.replace("2.5", "60"))
    assert node.start().code == 0
    stopped = node.stop("--deadline_s", "1", "--drain_s", "1")
    assert [entry["signals"] for entry in stopped.document["ended"]] == [["SIGINT", "SIGTERM"]]


def test_stop_ends_strays_and_names_them(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    stray = tmp_path / "hashpipe"
    node_dir.write_fake(stray, node_dir.IGNORES_SIGINT.replace("status('running');", ""))
    with subprocess.Popen([str(stray), "-o", "X=1"], cwd=tmp_path) as process:
        wait_for(lambda: process.pid in hashpipe_pids(), "it to run")
        status = node.status()
        assert (status["running"], [p["pid"] for p in status["processes"]]) == (
            False,
            [process.pid],
        )
        stopped = node.stop("--deadline_s", "1")
        assert process.wait(10) in (-signal.SIGTERM, -signal.SIGINT)
    assert stopped.code == 0
    entry = stopped.document["ended"][0]
    assert (entry["pid"], entry["data_dir"], entry["run"]) == (process.pid, str(tmp_path), None)


def test_stop_only_what_is_meant(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    pid = node.start().document["pid"]
    for words, reason in (
        (["--run", OTHER_RUN], f"run {RUN}"),
        (["--owner", "token2"], "belongs to obs@head[1]"),
    ):
        refused = node.stop(*words)
        assert (refused.code, reason in refused.error) == (3, True), refused.error
        assert is_alive(pid)
        assert node.status()["problems"] == []
    assert node.stop("--run", "..").code == 2
    assert node.stop("--run", RUN, "--owner", "token1").code == 0
    pid = node.start().document["pid"]
    assert node.stop("--run", OTHER_RUN, "--owner", "token2", "--force").code == 0
    assert not is_alive(pid)


def test_a_run_of_the_same_second_is_not_ended_by_another_head_node(tmp_path: Path) -> None:
    """Two head nodes may give their runs the same name; what one is over of is the other's."""
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    pid = node.start().document["pid"]
    refused = node.stop("--run", RUN, "--owner", "token2", "--over", RUN)
    assert refused.code == 3 and "belongs to obs@head[1] since" in refused.error
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), "the pipeline to be gone")
    assert node.start().code == 0, "goes on after a crash, as it may"
    assert node.stop("--run", RUN, "--owner", "token1", "--over", RUN).code == 0
    assert "is over on this node" in node.start().error


def test_a_run_of_another_head_node_is_not_ended_while_its_pipeline_is_dead(
    tmp_path: Path,
) -> None:
    """It may be restarted there; a head node is what stands before the "-" of a token."""
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    os.kill(node.start(owner="ann-1").document["pid"], signal.SIGKILL)
    wait_for(lambda: not hashpipe_pids(), "it to be gone")
    for refused in (
        node.start(OTHER_RUN, owner="bob-1"),
        node.stop("--owner", "bob-1"),
    ):
        assert refused.code == 3 and RUN in refused.error, refused
        assert " of obs@head[1] since 20" in refused.error and "--force" in refused.error
    assert json.loads((node.path / "current_run_daq").read_text())["owner"] == "ann-1"
    assert node.start(OTHER_RUN, owner="ann-2").document["replaced_run"] == RUN
    process = node.status()["processes"][0]
    assert process["owner"] == "ann-2" and process["whose"].startswith("obs@head[1] since 20")
    assert node.stop("--owner", "bob-1").code == 3
    assert node.stop("--owner", "ann-3").document["was_running"]
    assert node.start(owner="ann-1").code == 0
    assert node.stop("--owner", "bob-1", "--force").document["was_running"]
    restarted = node.start(owner="ann-1")  # by the watcher of the run that was ended by force
    assert restarted.code == 3 and f"run {RUN} is over on this node" in restarted.error, restarted


# --- state files that do not tell the truth ---


def test_pid_of_somebody_else_is_never_signalled(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    pid = node.start().document["pid"]
    named = json.loads((node.path / "daq_pid").read_text())
    os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        for changes in ({"pid": innocent.pid}, {"pid": innocent.pid, "name": "sleep"}, {"pid": 1}):
            (node.path / "daq_pid").write_text(json.dumps({**named, **changes}))
            stopped = node.stop()
            assert (stopped.code, stopped.document["ended"]) == (0, [])
            assert "which had ended" in stopped.document["notes"][0]
            assert innocent.poll() is None
            assert node.names() == {RUN, "module_1", "module_254"}
        innocent.kill()


def test_after_a_reboot(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    pid = node.start().document["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not hashpipe_pids(), "it to be gone")
    named = json.loads((node.path / "daq_pid").read_text())
    (node.path / "daq_pid").write_text(json.dumps({**named, "boot_id": "another"}))
    assert node.status()["problems"] == [
        f"run {RUN} is not over, but this node was rebooted: stop.py"
    ]
    assert node.start(OTHER_RUN).document["replaced_run"] == RUN
    assert node.stop().code == 0


CONTENTS = [b"", b"\0" * 100, b"obs_Test", b"{", b"[]", b"{}", b'{"version": 2}',
            b'{"version": 1, "run": "..", "owner": "x"}', b"\xff\xfe", b"x" * 100_000,
            b'{"version": 1, "run": "%s", "owner": "x", "started_by": "x", "daq_ip": "x",'
            b' "started_unix": 1e300}' % RUN.encode()]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [("current_run_daq", content) for content in CONTENTS]
    + [("daq_pid", content) for content in CONTENTS[::3]],
)
def test_unreadable_state(tmp_path: Path, name: str, content: bytes) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    (node.path / name).write_bytes(content)
    refused = node.start()
    assert (refused.code, str(node.path / name) in refused.error) == (3, True)
    assert (node.path / name).read_bytes() == content
    assert any(str(node.path / name) in problem for problem in node.status()["problems"])
    stopped = node.stop()
    assert stopped.code == 0
    assert any(str(node.path / name) in note for note in stopped.document["notes"])
    assert node.names() == set()


def test_a_damaged_status_keeps_no_pipeline_from_being_ended(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    pid = node.start().document["pid"]
    (node.path / RUN / "hp_status_127.0.0.1.json").write_text("[" * 100_000)
    stopped = node.stop()
    assert stopped.code == 0 and stopped.document["final"] is None
    assert not is_alive(pid)


def test_lost_pid_file(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    pid = node.start().document["pid"]
    for name in ("daq_pid", "current_run_daq"):
        (node.path / name).write_text("")
    assert node.status()["running"] is True
    assert node.stop().code == 0
    assert not is_alive(pid)
    assert node.names() == {RUN, "module_1", "module_254"}


# --- the helpers as a set ---


def test_other_helpers_are_noticed(tmp_path: Path) -> None:
    node = faulty(tmp_path, node_dir.ENDS_AT_SIGINT)
    right = daq_facts.helpers_digest(REPO / "daq")
    assert node.status()["helpers"] == right
    assert node.start(helpers=right).code == 0
    assert node.stop().code == 0
    with (node.path / "status_daq.py").open("a") as file:
        file.write("# changed\n")
    refused = node.start(helpers=right)
    assert (refused.code, "--init_daq_nodes" in refused.error) == (3, True)
    (node.path / "status_daq.py").unlink()
    assert node.stop().document["helpers"] == "incomplete"


def test_helpers_are_all_listed() -> None:
    assert sorted(path.name for path in (REPO / "daq").glob("*.py")) == sorted(daq_facts.HELPERS)


@pytest.mark.parametrize("name", daq_facts.HELPERS)
def test_helpers_need_nothing_but_python_3_8(name: str) -> None:
    tree = ast.parse((REPO / "daq" / name).read_text(), feature_version=(3, 8))
    modules = set()
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            modules.add(str(part.module).partition(".")[0])
    ours = {name.partition(".")[0] for name in daq_facts.HELPERS}
    assert modules <= set(sys.stdlib_module_names) | ours


def test_oldest_python(tmp_path: Path) -> None:
    found = [p for p in (shutil.which("python3.8"), *_pyenv("3.8")) if p and _runs(p)]
    if not found:
        pytest.skip("no Python 3.8 here")
    node = NodeDir(tmp_path / "node data", node_dir.ENDS_AT_SIGINT, python=found[0])
    assert node.start().code == 0
    assert node.status()["running"] is True
    assert node.stop().code == 0
    assert node.files("list").code == 0


def _pyenv(version: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    return [str(path) for path in root.glob(f"versions/{version}*/bin/python3")]


def _runs(python: str) -> bool:
    done = subprocess.run([python, "-c", "import json"], capture_output=True)
    return done.returncode == 0
