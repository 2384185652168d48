"""A private ssh server and a private Redis server: real programs, on ports and files of their own.

    keys = OperatorKeys.make(folder / "ssh")
    with private_sshd(folder / "sshd", keys) as sshd, private_redis(folder / "redis") as redis:
        ...  # obs_config.json: ssh_key = keys.key, ssh_known_hosts = keys.known_hosts,
        ...  # redis_port = redis.port; daq_nodes[]: ssh_port = sshd.port, username = sshd.user

They listen on one loopback address (or one of a test host), know nobody but the operator's key,
and end with the context, whatever happened in it; when this program is killed, they end too.
Every wait is for a condition, and notices the death of what it waits for.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from panoseti.errors import ObsError
from panoseti.runs.activities import Activity
from simulator import leftovers

LOOPBACK = "127.0.0.1"
READY_S = 20.0
END_S = 5.0
PORT_TRIES = 5
PRIVILEGE_SEPARATION_DIR = Path("/run/sshd")  # compiled into sshd; its package does not make it
SYSTEM_PATHS = "/usr/sbin:/sbin:/usr/local/sbin"
# From this version on sshd locks addresses out for a while that failed to log in.
PENALTIES_SINCE = (9, 8)


class ServiceError(ObsError):
    """A private service is missing or does not come up; the message names it and its log."""


class _PortTakenError(ServiceError):
    """Somebody holds the port."""


def program(name: str, package: str) -> str:
    """Absolute path of an installed program; ServiceError names the package that brings it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATHS}")
    if found is None:
        raise ServiceError(f"{name} is not installed: make setup (Debian package {package})")
    return os.path.abspath(found)


def user_name() -> str:
    """Who runs this, from the account itself; ServiceError for an account without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ServiceError(
            f"user {os.geteuid()} has no name in /etc/passwd; sshd needs one"
        ) from None


def free_port(address: str = LOOPBACK) -> int:
    """A TCP port of an address that nobody holds at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until the condition holds; whether it did within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Service:
    """A server program in the foreground, its words in a log file.

    `prefix` goes before its command line (such as nsenter into a test host).  It ends when the
    *thread* that started it ends, so that no way of dying leaves it behind.
    """

    end_s = END_S  # how long its own end may take

    def __init__(self, name: str, log: Path, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.log = log
        self._prefix = list(prefix)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def words(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def launch(self, command: Sequence[str], ready: str, cwd: Path | None = None) -> None:
        """Start it and wait until its log matches the pattern `ready`; raises ServiceError."""
        if self.alive():
            raise RuntimeError(f"{self.name} runs already")
        setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
        die_with_us = [setpriv, "--pdeathsig", "TERM"] if setpriv and not self._prefix else []
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [*self._prefix, *die_with_us, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is for who started it, who then ends it
            )
        try:
            wait_until(lambda: self._says(ready) or not self.alive(), READY_S)
            if not self._says(ready) or not self.alive():
                self._complain()
        except BaseException:
            self.end()
            raise

    def _says(self, pattern: str) -> bool:
        return re.search(pattern, self.words(), re.MULTILINE) is not None

    def _complain(self) -> None:
        words = self.words()
        last = words.strip().splitlines()[-1:] or ["it said nothing"]
        how = "is not ready" if self.alive() else "ended at once"
        kind = _PortTakenError if "Address already in use" in words else ServiceError
        raise kind(f"{self.name} {how}: {last[0]} (log: {self.log})")

    def end(self) -> None:
        """End it, then the processes it made for its clients; fine when it has ended already."""
        process, self._process = self._process, None
        if process is None:
            return
        children: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(self.end_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_S)
        left = [child for child in children if self.is_mine(child)]
        leftovers.end([Activity(self.name, child.pid, "", child) for child in left], END_S)

    def is_mine(self, child: psutil.Process) -> bool:
        """Whether a descendant is to end with the server."""
        return True

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(END_S)


def _launch_on_port(address: str, port: int, launch: Callable[[int], None]) -> int:
    """Launch on the port wanted, or (0) on a free one; returns which it is."""
    if port:
        try:
            launch(port)
        except _PortTakenError as error:
            raise ServiceError(f"port {port} of {address} is taken: {error}") from error
        return port
    for trial in range(PORT_TRIES):
        chosen = free_port(address)
        try:
            launch(chosen)
            return chosen
        except _PortTakenError:
            if trial == PORT_TRIES - 1:
                raise
    raise AssertionError("unreachable")


# --- Redis ---


class PrivateRedis(Service):
    """A redis-server that keeps nothing on disk; can be killed, frozen and started again."""

    def __init__(
        self, folder: Path, address: str = LOOPBACK, port: int = 0, prefix: Sequence[str] = ()
    ) -> None:
        super().__init__("redis-server", folder / "redis.log", prefix)
        self.host = address
        self.port = port
        self._folder = folder

    def start(self) -> None:
        """Start it, empty, and wait until it answers; again on the same port after `kill`."""
        self.port = _launch_on_port(self.host, self.port, self._launch)

    def _launch(self, port: int) -> None:
        command = [program("redis-server", "redis-server"), "--bind", self.host]
        command += ["--port", str(port), "--save", "", "--appendonly", "no"]
        command += ["--daemonize", "no", "--dir", str(self._folder)]
        self.launch(command, "Ready to accept connections")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections but answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextmanager
def private_redis(
    folder: Path, address: str = LOOPBACK, port: int = 0, prefix: Sequence[str] = ()
) -> Iterator[PrivateRedis]:
    """A running redis-server on a free port, or on `port`; raises ServiceError."""
    server = PrivateRedis(folder, address, port, prefix)
    try:
        server.start()
        yield server
    finally:
        server.end()


# --- the boards ---


class SimulatorService(Service):
    """`python -m simulator` for a command directory; its requests go to `state_dir`."""

    end_s = 20.0

    def __init__(self, config_dir: Path, state_dir: Path, prefix: Sequence[str] = ()) -> None:
        super().__init__("simulator", state_dir / "simulator.log", prefix)
        self.state_dir = state_dir
        self._config_dir = config_dir

    def start(self, *options: str) -> None:
        """Start it and wait until every board has its addresses; raises ServiceError."""
        command = [sys.executable, "-m", "simulator", "--config_dir", str(self._config_dir)]
        command += ["--state_dir", str(self.state_dir), *options]
        self.launch(command, "^ready$", cwd=leftovers.REPO)


@contextmanager
def simulated_boards(
    config_dir: Path, state_dir: Path, *options: str
) -> Iterator[SimulatorService]:
    """The simulated boards of a command directory; `options` as of `python -m simulator`."""
    service = SimulatorService(config_dir.resolve(), state_dir.resolve())
    try:
        service.start(*options)
        yield service
    finally:
        service.end()


# --- ssh ---


@dataclass(frozen=True)
class OperatorKeys:
    """The operator's private key, and the file of the host keys that are trusted."""

    key: Path
    known_hosts: Path

    @classmethod
    def make(cls, folder: Path) -> OperatorKeys:
        """Make them in a folder; those that are there already are kept."""
        return cls(folder / "id_ed25519", folder / "known_hosts").made()

    def made(self) -> OperatorKeys:
        """These keys, made where they are not there yet, for nobody but us to read."""
        for path in (self.key, self.known_hosts):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_key(self.key, "simulated observatory")
        self.known_hosts.touch(mode=0o600)
        return self

    @property
    def public_line(self) -> str:
        """The public key as it stands in an authorized_keys file."""
        return public_key(self.key)

    def trust(self, address: str, port: int, host_key: str) -> None:
        """Make a host key the only one that is trusted for an address and port."""
        name = address if port == 22 else f"[{address}]:{port}"
        old = self.known_hosts.read_text().splitlines()
        lines = [line for line in old if line.split(" ")[0] != name]
        kind, data = host_key.split()[:2]
        temporary = self.known_hosts.with_suffix(".tmp")
        temporary.write_text("\n".join([*lines, f"{name} {kind} {data}"]) + "\n")
        temporary.replace(self.known_hosts)


def make_key(path: Path, comment: str) -> None:
    """Make an ed25519 key pair without a passphrase unless there is one."""
    if path.exists() and path.with_suffix(".pub").exists():
        return
    path.unlink(missing_ok=True)
    command = [program("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", ""]
    done = subprocess.run(
        [*command, "-C", comment, "-f", str(path)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_S,
    )  # fmt: skip
    if done.returncode:
        raise ServiceError(f"ssh-keygen {path}: {done.stderr.strip() or done.stdout.strip()}")


def public_key(path: Path) -> str:
    """The public half of a key pair of `make_key`."""
    return path.with_suffix(".pub").read_text().strip()


class PrivateSshd(Service):
    """An sshd for one user, the one who runs this, with the operator's key and nothing else.

    restrictions: stand before the key in authorized_keys, such as a forced command.
    """

    def __init__(
        self,
        folder: Path,
        keys: OperatorKeys,
        address: str = LOOPBACK,
        port: int = 0,
        prefix: Sequence[str] = (),
    ) -> None:
        super().__init__("sshd", folder / "sshd.log", prefix)
        self.folder = folder.resolve()
        self.keys = keys
        self.address = address
        self.port = port
        self.user = user_name()
        self.restrictions = ""

    def start(self) -> None:
        """Start it and wait until it listens; its host key is then in known_hosts."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        host_key = self.folder / "host_key"
        make_key(host_key, "simulated node")
        self.write_authorized_keys()
        self.port = _launch_on_port(self.address, self.port, self._launch)
        self.keys.trust(self.address, self.port, public_key(host_key))

    def write_authorized_keys(self) -> None:
        """Let the operator's key in, with the present restrictions; also while it runs."""
        authorized = self.folder / "authorized_keys"
        authorized.write_text(f"{self.restrictions} {self.keys.public_line}".strip() + "\n")
        authorized.chmod(0o600)

    def _launch(self, port: int) -> None:
        sshd = program("sshd", "openssh-server")
        config = self.folder / "sshd_config"
        config.write_text("\n".join(self._settings(sshd, port)) + "\n")
        command = [sshd, "-D", "-e", "-f", str(config)]
        self.launch(command, rf"Server listening on {re.escape(self.address)} port {port}\.")

    def _settings(self, sshd: str, port: int) -> list[str]:
        settings = [
            f"Port {port}",
            f"ListenAddress {self.address}",
            f"HostKey {_quoted(self.folder / 'host_key')}",
            f"AuthorizedKeysFile {_quoted(self.folder / 'authorized_keys', percent=True)}",
            "PidFile none",
            f"AllowUsers {self.user}",
            "AuthenticationMethods publickey",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            # The folder is ours alone, but it may lie below /tmp, which everybody may write to.
            "StrictModes no",
            f"UsePAM {'yes' if _root_is_locked() else 'no'}",
            "AllowAgentForwarding no",
            "AllowTcpForwarding no",
            "X11Forwarding no",
            "PermitTunnel no",
            "PermitUserRC no",
            "PrintMotd no",
            "PrintLastLog no",
            "UseDNS no",
            "MaxStartups 200",
            "MaxSessions 100",
            # Commands find the Python that runs us, and bash, at this depth, leaves alone the
            # ~/.bashrc of the account that plays the node (which may take long, and print).
            f"SetEnv SHLVL=1 {_quoted(f'PATH={self._path()}')}",
            "Subsystem sftp internal-sftp",
        ]
        if _sshd_version(sshd) >= PENALTIES_SINCE:
            settings.append("PerSourcePenalties no")  # all of ours come from one address
        return settings

    @staticmethod
    def _path() -> str:
        places = [str(Path(sys.base_prefix) / "bin"), os.environ.get("PATH", os.defpath)]
        return os.pathsep.join(places)

    def is_mine(self, child: psutil.Process) -> bool:
        """The connections; what they started in sessions of its own is not sshd's to end."""
        with suppress(psutil.NoSuchProcess):
            return child.name().startswith("sshd")
        return False


@contextmanager
def private_sshd(
    folder: Path,
    keys: OperatorKeys,
    address: str = LOOPBACK,
    port: int = 0,
    prefix: Sequence[str] = (),
) -> Iterator[PrivateSshd]:
    """A running sshd on a free port, or on `port`; raises ServiceError."""
    server = PrivateSshd(folder, keys, address, port, prefix)
    try:
        server.start()
        yield server
    finally:
        server.end()


def _quoted(path: Path | str, percent: bool = False) -> str:
    """A path as a word of sshd_config; percent: where % begins a token."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + (text.replace("%", "%%") if percent else text) + '"'


def _root_is_locked() -> bool:
    """Whether we are root and root has a locked password, as on Ubuntu.

    sshd refuses such an account even with a key, unless PAM has the say.  As an ordinary user it
    does not see the password, and PAM would not work.
    """
    if os.geteuid() != 0:
        return False
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{user_name()}:!") for line in lines)


def _sshd_version(sshd: str) -> tuple[int, int]:
    """Version of OpenSSH; (0, 0) when it cannot be told."""
    done = subprocess.run(
        [sshd, "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_S
    )
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", done.stderr + done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)
