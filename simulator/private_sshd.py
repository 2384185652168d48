"""A private ssh server, which knows nobody but the operator's key, and that key.

keys = OperatorKeys.make(folder / "ssh")
with private_sshd(folder / "sshd", keys) as sshd, private_redis(folder / "redis") as redis:
...  # obs_config.json: ssh_key = keys.key, ssh_known_hosts = keys.known_hosts,
...  # redis_port = redis.port; daq_nodes[]: ssh_port = sshd.port, username = sshd.user
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from simulator.private_services import (
    LOOPBACK,
    READY_S,
    Service,
    ServiceError,
    launch_on_port,
    program,
    user_name,
)

PRIVILEGE_SEPARATION_DIR = Path("/run/sshd")  # compiled into sshd; its package does not make it
# From this version on sshd locks addresses out for a while that failed to log in.
PENALTIES_SINCE = (9, 8)


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
        self.port = launch_on_port(self.address, self.port, self._launch)
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
