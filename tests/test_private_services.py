"""The private sshd and redis-server of the simulated site: ready when they say so, surely gone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from panoseti.housekeeping.store import Store
from simulator.private_services import ServiceError, free_port, private_redis
from simulator.private_sshd import OperatorKeys, PrivateSshd, private_sshd
from tests.helpers import REPO


def ssh(sshd: PrivateSshd, *words: str, key: Path | None = None) -> list[str]:
    """Command line of the system's ssh client for a command on the node."""
    # Words of ssh_config: blanks and quotes need care there, and % begins a token.
    known_hosts, identity = (
        str(path).replace('"', '\\"').replace("%", "%%")
        for path in (sshd.keys.known_hosts, key or sshd.keys.key)
    )
    return [
        "ssh", "-F", "none", "-o", f'IdentityFile="{identity}"', "-p", str(sshd.port),
        "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
        "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
        "-o", f'UserKnownHostsFile="{known_hosts}"',
        f"{sshd.user}@{sshd.address}", *words,
    ]  # fmt: skip


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )


def test_ssh_with_the_key_works_and_with_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / 'a 100% "private" place'
    keys = OperatorKeys.make(folder / "ssh")
    with private_sshd(folder / "node", keys) as sshd:
        done = run(ssh(sshd, "echo", "$((6*7))"))
        assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr + sshd.words()
        stranger = OperatorKeys.make(folder / "stranger")
        refused = run(ssh(sshd, "true", key=stranger.key))
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr
        sitting = subprocess.Popen(
            ssh(sshd, "echo here; cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert sitting.stdout is not None and sitting.stdout.readline() == b"here\n"
        server = psutil.Process(sshd.pid)
        processes = [server, *server.children(recursive=True)]
        assert len(processes) >= 3
    sitting.communicate(timeout=10)
    assert sitting.returncode == 255, "the connection is closed at the end"
    assert not psutil.wait_procs(processes, 5)[1]


def test_two_nodes_share_the_keys_and_keep_theirs_when_started_again(tmp_path: Path) -> None:
    keys = OperatorKeys.make(tmp_path)
    with (
        private_sshd(tmp_path / "1", keys, "127.0.0.1") as one,
        private_sshd(tmp_path / "2", keys, "127.0.0.2") as two,
    ):
        assert [run(ssh(node, "true")).returncode for node in (one, two)] == [0, 0]
        known = keys.known_hosts.read_text()
        assert known.count("\n") == 2
    assert OperatorKeys.make(tmp_path) == keys
    with private_sshd(tmp_path / "1", keys, "127.0.0.1", one.port) as again:
        assert run(ssh(again, "true")).returncode == 0
    assert sorted(keys.known_hosts.read_text().split()) == sorted(known.split())


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    keys = OperatorKeys.make(tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port} of 127.0.0.1 is taken: sshd ended"):
            with private_sshd(tmp_path / "node", keys, port=port):
                pass
        with pytest.raises(ServiceError, match=f"port {port} of 127.0.0.1 is taken: redis"):
            with private_redis(tmp_path / "redis", port=port):
                pass


def test_redis_answers_freezes_and_comes_back_on_its_port(tmp_path: Path) -> None:
    with private_redis(tmp_path / "re dis") as server:
        with Store(server.host, server.port, timeout_s=0.3) as store:
            store.put_record("A", {"x": 1})
            with server.frozen(), pytest.raises(Exception, match="does not answer"):
                store.ping()
            port = server.port
            server.kill()
            assert not server.alive()
            server.start()
            assert server.port == port
            assert store.records() == {}
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_a_program_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("simulator.private_services.SYSTEM_PATHS", "/nowhere")
    with pytest.raises(ServiceError, match="redis-server is not installed: make setup"):
        with private_redis(tmp_path):
            pass


def test_they_end_even_when_who_started_them_is_killed(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from simulator.private_services import private_redis
from simulator.private_sshd import OperatorKeys, private_sshd
folder = Path({str(tmp_path)!r})
with private_redis(folder) as redis, private_sshd(folder, OperatorKeys.make(folder)) as sshd:
    print(redis.pid, sshd.pid, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        servers = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        assert not psutil.wait_procs(servers, 10)[1]


def test_free_port_is_free() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))
