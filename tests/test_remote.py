"""ssh to DAQ nodes, against a real sshd on loopback: what works, and every way it does not."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.errors import RemoteError
from panoseti.flight import FlightRecorder, read_flight
from panoseti.nodes.known_hosts import PinnedKey, fingerprint, pinned_keys
from panoseti.nodes.remote import Shell, UnreachableError
from panoseti.nodes.ssh_argv import rsync_argv
from simulator.private_sshd import OperatorKeys, PrivateSshd, make_key, private_sshd, public_key
from tests.helpers import free_port, wait_for
from tests.nodes import daq_node, obs_config


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> OperatorKeys:
    return OperatorKeys.make(tmp_path_factory.mktemp("operator keys") / "ssh")


@pytest.fixture(scope="module")
def sshd(keys: OperatorKeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    with private_sshd(tmp_path_factory.mktemp("sshd"), keys) as server:
        yield server


@pytest.fixture
def node(sshd: PrivateSshd, tmp_path: Path) -> DaqNode:
    data = tmp_path / "node data"
    data.mkdir()
    return daq_node(sshd, data)


@pytest.fixture
def obs(keys: OperatorKeys) -> ObsConfig:
    return obs_config(keys)


EVIL = [
    "",
    "two words",
    "quote ' double \" back \\ slash",
    "$HOME `id` $(id) ${PATH}",
    "; rm -rf /nowhere && false || true & |",
    "* ? [a-z] ~ {a,b} !x #y",
    "line\nbreak\ttab",
    "-n --help",
    "ümläut ☄",
]


def test_words_arrive_as_they_are(node: DaqNode, obs: ObsConfig) -> None:
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    with Shell(node, obs) as shell:
        result = shell.run(["python3", "-c", script, *EVIL], 20)
        assert (result.code, result.err) == (0, "")
        assert json.loads(result.out) == EVIL


def test_result_and_one_connection(node: DaqNode, obs: ObsConfig, tmp_path: Path) -> None:
    flight = FlightRecorder(tmp_path, "test.py")
    with Shell(node, obs, flight) as shell:
        script = "cat; echo wrong >&2; echo $SSH_CONNECTION; exit 7"
        first = shell.run(["sh", "-c", script], 20, b"given\n")
        second = shell.run(["sh", "-c", script], 20)
    assert (first.code, first.err, first.last_words) == (7, "wrong\n", "wrong")
    assert first.out.startswith("given\n127.0.0.1 ")
    assert first.out == "given\n" + second.out, "a second connection was made"
    lines = read_flight(tmp_path)
    assert [line.what for line in lines] == ["ssh", "ssh_end"] * 2
    assert '"run sh"' in lines[0].text
    assert "code=7" in lines[1].text


def test_works_again_after_the_connection_was_lost(node: DaqNode, obs: ObsConfig) -> None:
    with Shell(node, obs) as shell:
        first = int(shell.run(["sh", "-c", "echo $PPID"], 20).out)
        psutil.Process(first).kill()
        with contextlib.suppress(RemoteError):
            shell.run(["true"], 20)  # it may be this one that notices, but no later one
        assert int(shell.run(["sh", "-c", "echo $PPID"], 20).out) != first


def test_much_output_and_input_at_once(node: DaqNode, obs: ObsConfig) -> None:
    data = os.urandom(1 << 20).hex().encode()
    script = (
        "import sys\n"
        "for _ in range(64):\n"
        "    sys.stderr.write('e' * 65536); sys.stdout.write('o' * 65536)\n"
        "sys.stdout.write(sys.stdin.read())\n"
    )
    with Shell(node, obs) as shell:
        result = shell.run(["python3", "-c", script], 60, data)
    assert result.code == 0
    assert result.err == "e" * (64 << 16)
    assert result.out == "o" * (64 << 16) + data.decode()


def test_input_that_nobody_reads(node: DaqNode, obs: ObsConfig) -> None:
    with Shell(node, obs) as shell:
        assert shell.run(["true"], 20, b"x" * (8 << 20)).code == 0


def test_child_that_stays_does_not_hold_the_command(node: DaqNode, obs: ObsConfig) -> None:
    with Shell(node, obs) as shell:
        begin = time.monotonic()
        result = shell.run(["sh", "-c", "sleep 30 & echo $!"], 20)
        assert time.monotonic() - begin < 10
        os.kill(int(result.out), signal.SIGKILL)


def test_command_without_end(node: DaqNode, obs: ObsConfig) -> None:
    with Shell(node, obs) as shell:
        begin = time.monotonic()
        with pytest.raises(RemoteError, match=r"could not wait: no end within 0\.5 s"):
            shell.run(["sh", "-c", "exec sleep 20"], 0.5, step="wait")
        assert time.monotonic() - begin < 5
        assert shell.run(["true"], 20).code == 0, "the connection goes on"


def test_command_ended_by_a_signal(node: DaqNode, obs: ObsConfig) -> None:
    with Shell(node, obs) as shell, pytest.raises(RemoteError, match="ended by a signal"):
        shell.run(["sh", "-c", "kill -9 $$"], 20)


def test_server_that_hangs(obs: ObsConfig, keys: OperatorKeys, tmp_path: Path) -> None:
    with private_sshd(tmp_path / "sshd", keys) as server:
        shell = Shell(daq_node(server, tmp_path), obs, handshake_timeout_s=1)
        with shell:
            session = int(shell.run(["sh", "-c", "echo $PPID"], 20).out)
            processes = [psutil.Process(session), *psutil.Process(session).parents()]
            frozen = [process for process in processes if process.name().startswith("sshd")]
            for process in frozen:
                process.suspend()
            try:
                begin = time.monotonic()
                with pytest.raises(RemoteError, match="could not look"):
                    shell.run(["true"], 1, step="look")
                other = Shell(daq_node(server, tmp_path), obs, None, 1, 1)
                with other, pytest.raises(UnreachableError, match="does not speak ssh in time"):
                    other.run(["true"], 5)
                assert time.monotonic() - begin < 8
            finally:
                for process in frozen:
                    process.resume()


def test_nobody_listens(node: DaqNode, obs: ObsConfig) -> None:
    nowhere = dataclasses.replace(node, ssh_port=free_port())
    wanted = rf"127.0.0.1: could not look: no ssh server at .* {nowhere.ssh_port}; start sshd"
    with Shell(nowhere, obs) as shell, pytest.raises(UnreachableError, match=wanted):
        shell.run(["true"], 5, step="look")


def test_packets_vanish(node: DaqNode, obs: ObsConfig) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        held = []  # a queue that is full makes the kernel drop what comes
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            held.append(sock)
        hole = dataclasses.replace(node, ssh_port=full.getsockname()[1])
        try:
            with Shell(hole, obs, None, 0.5) as shell:
                with pytest.raises(
                    UnreachableError, match=r"does not answer within 0\.5 s; is the"
                ):
                    shell.run(["true"], 5)
        finally:
            for sock in held:
                sock.close()


def test_server_that_says_nothing_or_nonsense(node: DaqNode, obs: ObsConfig) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        mute = dataclasses.replace(node, ssh_port=server.getsockname()[1])
        with Shell(mute, obs, None, 1, 0.5) as shell:
            with pytest.raises(UnreachableError, match="does not speak ssh in time"):
                shell.run(["true"], 5)
        accepted = server.accept()[0]
        accepted.close()
        with Shell(mute, obs, None, 5, 5) as shell:

            def answer() -> None:
                sock = server.accept()[0]
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.close()

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(UnreachableError, match="no ssh connection"):
                shell.run(["true"], 5)
            thread.join()


def test_name_without_address(node: DaqNode, obs: ObsConfig) -> None:
    with Shell(dataclasses.replace(node, ip_addr="no such host"), obs) as shell:
        with pytest.raises(UnreachableError, match="has no address .* correct ip_addr"):
            shell.run(["true"], 5)


def test_unknown_host_key(node: DaqNode, obs: ObsConfig, sshd: PrivateSshd, tmp_path: Path) -> None:
    empty = tmp_path / "known hosts"
    empty.write_text("# nobody\n")
    with Shell(node, dataclasses.replace(obs, ssh_known_hosts=str(empty))) as shell:
        with pytest.raises(UnreachableError) as caught:
            shell.run(["true"], 5, step="look")
    shown = _fingerprint_of(sshd.folder / "host_key.pub")
    assert f"its host key is not known (ssh-ed25519 {shown}, not in {empty})" in str(caught.value)
    assert f"ssh-keyscan -p {node.ssh_port} 127.0.0.1 >> '{empty}'" in str(caught.value)
    with Shell(node, dataclasses.replace(obs, ssh_known_hosts=str(tmp_path / "none"))) as shell:
        with pytest.raises(UnreachableError, match="not known"):
            shell.run(["true"], 5)


def test_changed_host_key(node: DaqNode, obs: ObsConfig, sshd: PrivateSshd, tmp_path: Path) -> None:
    make_key(tmp_path / "other", "other")
    kind, data = public_key(tmp_path / "other").split()[:2]
    pinned = tmp_path / "known_hosts"
    pinned.write_text(f"[127.0.0.1]:{node.ssh_port} {kind} {data}\n")
    with Shell(node, dataclasses.replace(obs, ssh_known_hosts=str(pinned))) as shell:
        with pytest.raises(UnreachableError) as caught:
            shell.run(["true"], 5)
    text = str(caught.value)
    assert "its host key has changed (now ssh-ed25519 " in text
    assert _fingerprint_of(sshd.folder / "host_key.pub") in text
    assert _fingerprint_of(tmp_path / "other.pub") in text
    assert f"ssh-keygen -R '[127.0.0.1]:{node.ssh_port}' -f {pinned}" in text
    # Its remedy works.
    entry = f"[127.0.0.1]:{node.ssh_port}"
    subprocess.run(["ssh-keygen", "-R", entry, "-f", pinned], check=True, capture_output=True)
    scan = ["ssh-keyscan", "-p", str(node.ssh_port), "127.0.0.1"]
    found = subprocess.run(scan, check=True, capture_output=True, text=True, timeout=20)
    with pinned.open("a") as file:
        file.write(found.stdout)
    with Shell(node, dataclasses.replace(obs, ssh_known_hosts=str(pinned))) as shell:
        assert shell.run(["true"], 20).code == 0


def test_revoked_host_key(node: DaqNode, obs: ObsConfig, sshd: PrivateSshd, tmp_path: Path) -> None:
    kind, data = public_key(sshd.folder / "host_key").split()[:2]
    pinned = tmp_path / "known_hosts"
    line = f"[127.0.0.1]:{node.ssh_port} {kind} {data}\n"
    pinned.write_text(f"{line}@revoked {line}")
    with Shell(node, dataclasses.replace(obs, ssh_known_hosts=str(pinned))) as shell:
        with pytest.raises(UnreachableError, match="marked as revoked"):
            shell.run(["true"], 5)


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_keys(kind: str, keys: OperatorKeys, tmp_path: Path) -> None:
    """A server with several host keys, of which one is pinned; and a client key of that kind."""
    key = tmp_path / f"id_{kind}"
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    class Server(PrivateSshd):
        def _settings(self, sshd: str, port: int) -> list[str]:
            return [*super()._settings(sshd, port), f"HostKey {key}"]

    mine = OperatorKeys(key, tmp_path / "known_hosts")
    mine.known_hosts.touch()
    server = Server(tmp_path / "sshd", mine)
    try:
        server.start()
        mine.trust(server.address, server.port, public_key(key))  # instead of its ed25519 key
        with Shell(daq_node(server, tmp_path), obs_config(mine)) as shell:
            assert shell.run(["true"], 20).code == 0
    finally:
        server.end()


def test_key_that_is_not_let_in(node: DaqNode, obs: ObsConfig, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger", "stranger")
    with Shell(node, dataclasses.replace(obs, ssh_key=str(tmp_path / "stranger"))) as shell:
        with pytest.raises(UnreachableError) as caught:
            shell.run(["true"], 20)
    assert f"does not let user {node.username} in with key {tmp_path}/stranger" in str(caught.value)
    assert f"add {tmp_path}/stranger.pub to ~{node.username}/.ssh/authorized_keys" in str(
        caught.value
    )


def test_server_that_asks_for_a_password(
    keys: OperatorKeys, obs: ObsConfig, tmp_path: Path
) -> None:
    class Server(PrivateSshd):
        def _settings(self, sshd: str, port: int) -> list[str]:
            lines = super()._settings(sshd, port)
            lines = [line for line in lines if not line.startswith(("Auth", "Password"))]
            return ["PasswordAuthentication yes", "PubkeyAuthentication no", *lines]

    server = Server(tmp_path / "sshd", keys)
    try:
        server.start()
        with Shell(daq_node(server, tmp_path), obs) as shell:
            with pytest.raises(UnreachableError, match=r"does not let user .* \(it wants password"):
                shell.run(["true"], 20)
    finally:
        server.end()


def key_of_security_token() -> str:
    """As much of an "sk" key, in the format of OpenSSH, as is read before it is known for one."""
    words = [b"none", b"none", b"", b"sk-ssh-ed25519@openssh.com"]
    sized = [struct.pack(">I", len(word)) + word for word in words]
    public = struct.pack(">I", len(sized[3])) + sized[3]
    data = b"openssh-key-v1\0" + b"".join(sized[:3]) + struct.pack(">I", 1) + public
    lines = base64.encodebytes(data).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}-----END OPENSSH PRIVATE KEY-----\n"


def test_keys_that_cannot_be_used(node: DaqNode, obs: ObsConfig, tmp_path: Path) -> None:
    locked, junk = tmp_path / "locked", tmp_path / "junk"
    ed448, token = tmp_path / "ed448", tmp_path / "of a security token"
    ed448.write_bytes(
        Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    token.write_text(key_of_security_token())
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(locked)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    junk.write_text("not a key\n")
    for path, why in (
        (locked, "is protected by a passphrase"),
        (junk, "is not a private key"),
        (ed448, "is not a private key that can be used"),
        (token, "is not a private key that can be used"),
        (tmp_path / "absent", "cannot be read"),
    ):
        with Shell(node, dataclasses.replace(obs, ssh_key=str(path))) as shell:
            with pytest.raises(UnreachableError, match=rf"{path.name}.*{why}.*; make one without"):
                shell.run(["true"], 20)


def test_no_agent_is_asked(
    node: DaqNode, obs: ObsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        agent.setblocking(False)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        with Shell(node, obs) as shell:
            assert shell.run(["true"], 20).code == 0
        with pytest.raises(BlockingIOError):
            agent.accept()


def test_users_own_keys_and_known_hosts(
    node: DaqNode, keys: OperatorKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "home" / ".ssh"
    own.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    obs = ObsConfig(name="Test", comment="", domes=(), power_switches=())
    with Shell(node, obs) as shell, pytest.raises(UnreachableError, match="no key in ~/.ssh"):
        shell.run(["true"], 20)
    (own / "id_ed25519").write_bytes(keys.key.read_bytes())
    (own / "known_hosts").write_bytes(keys.known_hosts.read_bytes())
    with Shell(node, obs) as shell:
        assert shell.run(["true"], 20).code == 0


def test_put(node: DaqNode, obs: ObsConfig) -> None:
    place = Path(node.data_dir) / "it's a file"
    data = os.urandom(300_000)
    with Shell(node, obs) as shell:
        shell.put(b"old", str(place))
        shell.put(data, str(place), 0o755)
        with pytest.raises(RemoteError, match="could not copy x: .*absent/x"):
            shell.put(data, f"{node.data_dir}/absent/x")
    assert place.read_bytes() == data
    assert place.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_rsync_uses_the_same_key_and_host_keys(
    node: DaqNode, obs: ObsConfig, keys: OperatorKeys, tmp_path: Path
) -> None:
    (Path(node.data_dir) / "a b").mkdir()
    (Path(node.data_dir) / "a b" / "it's $HOME").write_text("data")
    target = tmp_path / "to here"
    target.mkdir()
    odd = tmp_path / "it's 100% odd"
    odd.mkdir()
    for path in (keys.key, keys.known_hosts):
        (odd / path.name).write_bytes(path.read_bytes())
        (odd / path.name).chmod(0o600)
    site = dataclasses.replace(
        obs, ssh_key=str(odd / keys.key.name), ssh_known_hosts=str(odd / keys.known_hosts.name)
    )
    done = _run(rsync_argv(node, site, ["a b/it's $HOME"], target))
    assert done.returncode == 0, done.stderr
    assert (target / "it's $HOME").read_text() == "data"
    (odd / keys.known_hosts.name).write_text("")
    done = _run(rsync_argv(node, site, ["a b/it's $HOME"], target))
    assert done.returncode in (12, 255)  # rsync says 12 when it sees the closed pipe first
    assert "Host key verification failed" in done.stderr


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )


def _fingerprint_of(path: Path) -> str:
    done = _run(["ssh-keygen", "-l", "-f", str(path)])
    return done.stdout.split()[1]


KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIA=="


@pytest.mark.parametrize(
    ("names", "host", "port", "known"),
    [
        ("node", "node", 22, True),
        ("node", "NODE", 22, True),
        ("node", "node", 6022, False),
        ("a,node,b", "node", 22, True),
        ("[node]:6022", "node", 6022, True),
        ("[node]:6022", "node", 22, False),
        ("192.168.1.*", "192.168.1.77", 22, True),
        ("192.168.1.*,!192.168.1.77", "192.168.1.77", 22, False),
        ("nod", "node", 22, False),
        ("|1|bad", "node", 22, False),
        ("|1|!!|??", "node", 22, False),
    ],
)
def test_names_in_known_hosts(names: str, host: str, port: int, known: bool) -> None:
    lines = ["# comment", "", "short line", f"{names} ssh-ed25519 {KEY} comment"]
    wanted = (PinnedKey("ssh-ed25519", KEY),) if known else ()
    assert pinned_keys(lines, host, port) == wanted


def test_hashed_names_and_markers(tmp_path: Path) -> None:
    make_key(tmp_path / "key", "test")
    kind, data = public_key(tmp_path / "key").split()[:2]
    file = tmp_path / "known_hosts"
    file.write_text(f"node,other {kind} {data}\n[node]:6022 {kind} {data}\n")
    _run(["ssh-keygen", "-H", "-f", str(file)])
    lines = file.read_text().splitlines()
    assert "node" not in file.read_text()
    assert len(pinned_keys(lines, "node", 22)) == 1
    assert len(pinned_keys(lines, "other", 22)) == 1
    assert len(pinned_keys(lines, "node", 6022)) == 1
    assert not pinned_keys(lines, "stranger", 22)
    assert fingerprint(base64.b64decode(data)) == _fingerprint_of(tmp_path / "key.pub")
    marked = [f"@revoked node {kind} {data}", f"@cert-authority node {kind} {data}", "node x y!"]
    assert pinned_keys(marked, "node", 22) == (PinnedKey(kind, data, revoked=True),)


def test_threads_and_sockets_end(node: DaqNode, obs: ObsConfig) -> None:
    before = psutil.Process().num_fds()
    for _ in range(2):
        with Shell(node, obs) as shell:
            for _ in range(3):
                shell.run(["true"], 20)
    wait_for(lambda: psutil.Process().num_fds() <= before, "descriptors to be closed")
