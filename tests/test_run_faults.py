"""Faults around a run, one by one, each typed through the scripts: ssh, state files, pipelines, and
several operators at once.

Each case asserts what runs in the end, what files there are and whether they are what was sent,
exit codes and words.  What needs several computers is in test_node_faults.py, a script that dies in
test_kill_points.py, rsync and files that change in test_collect.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGSTOP, Signals
from typing import Any

import pytest

from panoseti.runs import activities, run_start
from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import CONTROL_LOCK, Marker
from simulator.private_sshd import make_key, public_key
from tests import node_dir
from tests.faulty_site import FaultySite
from tests.typed_site import Done, frames_of

pytestmark = pytest.mark.long


def said(done: Done) -> str:
    """All that a script said, which is no traceback."""
    assert "Traceback" not in done.err, done
    return done.out + done.err


# --- state files that do not tell the truth ---

EVIL_NAMES = (
    "..",
    "../",
    "/",
    "obs_x.start_2024-07-25T04:34:06Z.runtype_../..pffd",
    "obs_two words.start_2024-07-25T04:34:06Z.runtype_x.pffd",
    "obs_x.start_2024-07-25T04:34:06Z.runtype_x;reboot.pffd",
    "obs_x.start_2024-07-25T04:34:06Z.runtype_x\n.pffd",
    "*",
)
DAMAGES: dict[str, Callable[[bytes, str], bytes]] = {
    "empty": lambda content, run: b"",
    "truncated": lambda content, run: content[: len(content) // 2],
    "garbage": lambda content, run: b"\x80\0{garbage\n" * 3,
    "other version": lambda content, run: content.replace(b'"version": 1', b'"version": 99'),
    **{
        f"run named {name!r}": lambda content, run, name=name: content.replace(  # type: ignore[misc]
            run.encode(), name.encode()
        )
        for name in EVIL_NAMES
    },
}
HEAD_FILES = ("run_name", "{run}/run.json", "run_watch.json", "quabo_uids.json", "bringup.json")
NODE_FILES = ("current_run_daq", "daq_pid", "last_run_over")
DAMAGED: dict[str, tuple[str, ...]] = {
    "run_name": ("run_name",),
    "run.json": ("{run}/run.json",),
    "current_run_daq": ("current_run_daq",),
    "all of them": (*HEAD_FILES, *NODE_FILES),
}


def damage_state(site: FaultySite, names: tuple[str, ...], damage: str) -> None:
    """A run goes on while its state files are damaged: stop puts it right all the same."""
    obs = site.obs
    keep = {path: path.read_bytes() for path in obs.head_dir.glob("*.json")}
    outside = obs.head_dir.parent / "notes.txt"
    outside.write_text("not ours")
    before = site.begin()
    run, changed = site.run, 0
    for name in names:
        path = (obs.head_dir if name in HEAD_FILES else obs.node_dir) / name.format(run=run)
        if path.exists():
            content = path.read_bytes()
            path.write_bytes(DAMAGES[damage](content, run))
            changed += path.read_bytes() != content
    assert changed
    site.look()
    try:
        status = obs.type("status.py")
        assert status.code in (0, 1) and "stop.py" in said(status), status
        done = obs.type("stop.py", "--json")
        assert done.code == 0, (said(status), said(done))
        assert done.json["run"] == run and done.json["finished"]["complete"], (said(done), done)
        if "{run}/run.json" in names:
            assert done.json["finished"]["verdict"] == "partial"
            assert any("record was lost" in text for text in done.json["finished"]["reasons"])
        site.check_over(done)
        site.check_all_sent_is_there(before)
        assert outside.read_text() == "not ours"
        assert set(keep) <= set(obs.head_dir.glob("*.json"))
    finally:
        for kept, text in keep.items():
            kept.write_bytes(text)
    site.forget()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", DAMAGED)
def test_every_damage_of_a_state_file(site: FaultySite, what: str) -> None:
    failed = []
    for damage in DAMAGES:
        try:
            damage_state(site, DAMAGED[what], damage)
        except AssertionError as error:
            failed.append(f"{what} {damage}: {error}")
            print(f"FAILED: {failed[-1]}", flush=True)
            site.obs.stop_here(force=True)
            site.forget()
    assert not failed, "\n\n".join(failed)


# --- ssh ---


@contextmanager
def refused(site: FaultySite) -> Iterator[None]:
    """Nobody listens."""
    site.obs.node_sshd.kill()
    try:
        yield
    finally:
        site.obs.node_sshd.start()


@contextmanager
def mute_server(site: FaultySite) -> Iterator[None]:
    """Somebody listens and never says a word."""
    sshd = site.obs.node_sshd
    sshd.kill()
    try:
        with socket.create_server((sshd.address, sshd.port)):
            yield
    finally:
        sshd.start()


@contextmanager
def changed_host_key(site: FaultySite) -> Iterator[None]:
    """Another key is pinned than the node has."""
    sshd = site.obs.node_sshd
    pinned, old = sshd.keys.known_hosts, sshd.keys.known_hosts.read_text()
    other = site.folder / "other_key"
    if not other.exists():
        make_key(other, "other")
    kind, data = public_key(other).split()[:2]
    lines = [line for line in old.splitlines() if sshd.address not in line]
    pinned.write_text("\n".join([*lines, f"[{sshd.address}]:{sshd.port} {kind} {data}", ""]))
    try:
        yield
    finally:
        pinned.write_text(old)


@contextmanager
def key_not_let_in(site: FaultySite) -> Iterator[None]:
    """The node does not know the operator's key any more and would ask for a password."""
    sshd = site.obs.node_sshd
    path = sshd.folder / "authorized_keys"
    old = path.read_text()
    path.write_text("")
    try:
        yield
    finally:
        path.write_text(old)


SSH_TROUBLES: dict[str, tuple[Callable[[FaultySite], Any], str]] = {
    "refused": (refused, "no ssh server"),
    "says nothing": (mute_server, "ssh"),
    "host key changed": (changed_host_key, "host key has changed"),
    "asks for a password": (key_not_let_in, "key"),
}


@pytest.mark.parametrize("trouble", SSH_TROUBLES)
def test_a_node_that_cannot_be_logged_in_to(site: FaultySite, trouble: str) -> None:
    """Boards are told, and what can be seen from here is ended; the files come later."""
    cut_off, words = SSH_TROUBLES[trouble]
    before = site.begin()
    run = site.run
    with cut_off(site):
        site.witness.look()
        done = site.obs.type("stop.py", "--json")
        assert done.code == 1, said(done)
        (line,) = [one for one in done.json["lines"] if one["what"] == f"DAQ node {site.node}"]
        assert not line["ok"] and words in line["now"], line
        assert done.json["finished"]["verdict"] in ("partial", "failed")
        assert not activities.pipelines(), "ended here, as the node is this computer"
        assert not (site.obs.head_dir / "run_name").exists()
        boards = site.obs.boards().values()
        assert all(board["streams"] == {"image": None, "ph": None} for board in boards)
        again = site.obs.type("start.py")
        assert again.code == 3 and words in said(again), again
        assert site.obs.runs() == [run], "nothing is begun"
        site.witness.check()
        status = site.obs.type("status.py")
        assert status.code == 1 and f"stop.py --run {run}" in said(status)
    done = site.obs.type("stop.py", "--run", run)
    assert done.code == 0, done
    site.check_over(done)
    site.check_all_sent_is_there(before)


def test_ssh_that_is_slow(site: FaultySite) -> None:
    """Every step takes a second more; nothing fails for that."""
    sshd = site.obs.node_sshd
    sshd.restrictions = 'command="sleep 1; eval \\"$SSH_ORIGINAL_COMMAND\\""'
    sshd.write_authorized_keys()
    try:
        before = site.begin()
        site.recover(before)
    finally:
        sshd.restrictions = ""
        sshd.write_authorized_keys()


# --- pipelines ---


@contextmanager
def fake_pipeline(site: FaultySite, behaviour: str) -> Iterator[None]:
    """A program that misbehaves is in its place on the node."""
    place, away = site.obs.node_dir / "hashpipe", site.obs.node_dir / "away"
    place.rename(away)
    try:
        node_dir.write_fake(place, behaviour)
        yield
    finally:
        away.replace(place)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (node_dir.EXITS_AT_ONCE, "cannot go on"),
        (node_dir.HANGS_AT_START, "hashpipe"),
        (node_dir.HANGS_DEAF, "hashpipe"),
        (node_dir.IGNORES_SIGINT, "no data"),
    ],
    ids=["exits at once", "hangs at start", "hangs and is deaf", "ignores SIGINT"],
)
def test_a_pipeline_that_does_not_record(site: FaultySite, behaviour: str, words: str) -> None:
    """The start says so in a bounded time, and everything is undone."""
    with fake_pipeline(site, behaviour):
        done = site.obs.type("start.py")
    assert done.code == 1 and words in said(done) and site.node in done.err, done
    assert site.obs.is_idle(), done
    site.recover(site.begin())


@pytest.mark.parametrize("number", [SIGKILL, SIGSTOP], ids=["killed", "frozen"])
def test_a_pipeline_that_is_killed_or_frozen(site: FaultySite, number: Signals) -> None:
    """It is not to be restarted: what reached the disk is kept; a frozen one loses nothing."""
    path = site.obs.command_dir / "obs_config.json"
    policy = {"run_policy": {"on_dead_pipeline": "go_on"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **policy}))
    before = site.begin()
    site.signal_pipeline(number)
    done = site.recover(before, whole=number is SIGSTOP)
    words = "ended by SIG" if number is SIGSTOP else "nothing ran there"
    assert words in done.out, done


# --- several at once ---


def test_clean_up_asked_twice_at_once(site: FaultySite) -> None:
    """One collects, the other waits for it and finds it done."""
    site.begin()
    run = site.run
    site.witness.look()
    assert site.obs.type("stop.py", "--no_collect").code == 0
    stops = [site.obs.begin("stop.py", "--run", run) for _ in range(2)]
    for done in map(site.obs.finish, stops):
        assert done.code == 0, said(done)
    site.check_over(done)
    frames = frames_of(site.obs.head_dir / run)
    record = read_record(site.obs.head_dir / run).document
    assert [attempt["problems"] for attempt in record["collection"]] == [[], []]
    assert all(step["result_unix"] for step in record["steps"])
    again = site.obs.type("stop.py", "--run", run)
    assert again.code == 0 and frames_of(site.obs.head_dir / run) == frames
    site.check_over(again)


def test_an_old_run_is_collected_while_the_next_one_records(site: FaultySite) -> None:
    """Nothing of the run that is recording is touched, not even when its clean-up is asked for."""
    obs = site.obs
    site.begin()
    old = site.run
    site.witness.look()
    assert obs.type("stop.py", "--no_collect").code == 0
    before = site.begin()
    run, pid = site.run, site.pipeline()
    done = obs.type("stop.py", "--run", old, "--force")
    assert done.code == 0, said(done)
    assert (obs.head_dir / old / Marker.RUN_COMPLETE).exists()
    assert (site.run, site.pipeline()) == (run, pid)
    assert not list((obs.node_dir / "module_1" / old).glob("*"))
    files = subprocess.run(
        ["python3", str(obs.node_dir / "run_files.py"), "delete", "--data_dir", str(obs.node_dir),
         "--run", run], input='{"files": []}', capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert files.returncode == 3 and run in json.loads(files.stdout)["error"], files
    site.witness.look()
    done = obs.type("stop.py", "--run", run)
    assert done.code == 0, "of the run in progress it is a stop"
    site.check_over(done)
    assert not activities.pipelines() and all(b["streams"]["image"] for b in before.values()) is (
        False
    )


@pytest.mark.timeout(400)
def test_ten_starts_at_the_same_moment(site: FaultySite) -> None:
    """One wins; nine are told who that is, and leave nothing behind."""
    before = site.obs.boards()
    starts = [site.obs.begin("start.py") for _ in range(10)]
    ended = [(start.communicate(timeout=300), start.returncode) for start in starts]
    codes = [code for _, code in ended]
    assert sorted(codes) == [0] + [3] * 9, ended
    for (_, err), code in ended:
        if code == 3:
            assert "somebody else may be using the observatory" in err
            assert f"[{starts[codes.index(0)].pid}]" in err and " since 20" in err, err
    assert site.obs.runs() == [site.run]
    site.recover(before)


def test_two_runs_in_the_same_second(site: FaultySite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits for the next second: no directory is used twice."""
    site.begin()
    first = site.run
    assert site.obs.type("stop.py").code == 0
    frames = frames_of(site.obs.head_dir / first)
    names = [first]
    make = run_start.run_dir_name

    def same_at_first(*words: Any) -> str:
        return names.pop() if names else make(*words)

    monkeypatch.setattr(run_start, "run_dir_name", same_at_first)
    site.begin()
    assert names == [] and site.run != first
    done = site.obs.type("stop.py")
    assert done.code == 0
    site.check_over(done)
    assert frames_of(site.obs.head_dir / first) == frames and len(site.obs.runs()) == 2


def test_a_pid_that_another_program_has_now(site: FaultySite, tmp_path: Path) -> None:
    """Nothing is signalled that is not what the state files mean."""
    before = site.begin()
    script = tmp_path / "daemons" / "store_redis_data.py"
    script.parent.mkdir()
    script.touch()
    # It looks at a script of ours, too.
    with subprocess.Popen(["tail", "-f", str(script)], stdout=subprocess.DEVNULL) as innocent:
        try:
            pid_file = site.obs.node_dir / "daq_pid"
            named = json.loads(pid_file.read_text())
            pid_file.write_text(json.dumps({**named, "pid": innocent.pid}))
            lock = site.obs.head_dir / "log" / CONTROL_LOCK
            assert lock.exists()
            lock.write_text(f"{innocent.pid} start.py of obs@head[{innocent.pid}]\n1\n")
            run_name = site.obs.head_dir / "run_name"
            run_name.write_text(run_name.read_text().replace(f"[{os.getpid()}]", "[1]"))
            site.recover(before)
            assert innocent.poll() is None
        finally:
            innocent.kill()
