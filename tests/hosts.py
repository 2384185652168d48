"""Test hosts: computers of an observatory as Linux namespaces, each with its own sshd.

    with hosts(tmp_path, ["head", "node1"]) as world:
        world["node1"].run(["pgrep", "-x", "hashpipe"])
        world["node1"].power_cut()
        world["node1"].power_on()

A host has network, processes, shared memory, mounts and a name of its own, so that pgrep, /proc and
/dev/shm show nothing of the others.  The hosts hang on one switch (a bridge); neither has a way
out.  What a host keeps over a power cut is its disk, mounted on /srv; all other files (the
repository, pytest's folder) are the machine's and the same for all.  The folder of the world and
of the private keys must be visible to all hosts: a folder of pytest's.

Everything lives in the namespaces of one process, the first of the `world`; it ends when the test
does, even if that is killed, and all else with it.  Needs root; tests are skipped without.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from panoseti.configs.site import DaqNode, ObsConfig
from simulator.private_sshd import OperatorKeys, PrivateSshd
from tests.helpers import wait_for
from tests.nodes import obs_config

NETWORK = "10.77.0.0/16"
HOST_ADDRESS = "10.77.4.{}"
DISK = Path("/srv")
DISK_MB = 256
PROGRAMS = ("unshare", "nsenter", "ip", "mount")
INIT = Path(__file__).with_name("host_init.py")
UNSHARE = ["unshare", "--net", "--pid", "--ipc", "--mount", "--uts", "--fork", "--kill-child",
           "--mount-proc"]  # fmt: skip
ENTER = ["--mount", "--uts", "--ipc", "--net", "--pid"]


def reason_to_skip() -> str | None:
    """Why there can be no test hosts here; None when there can."""
    if os.geteuid() != 0:
        return "test hosts need root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"test hosts need {', '.join(missing)} (util-linux, iproute2)"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=20)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else None


class _Namespaces:
    """The namespaces of one `host_init.py`, its own disappearance included."""

    def __init__(self, prefix: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*prefix, *UNSHARE, sys.executable, "-I", "-S", str(INIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert self._process.stdout is not None and self._process.stderr is not None
            if self._process.stdout.readline() != b"up\n":
                why = self._process.stderr.read().decode()
                pytest.fail(f"a test host's first process did not come up: {why}")
            self.pid = wait_for(self._find_init, "a test host's first process")
        except BaseException:
            self.end()
            raise

    def _find_init(self) -> int:
        """Our pid of the process that is number 1 in there."""
        for child in psutil.Process(self._process.pid).children(recursive=True):
            status = Path(f"/proc/{child.pid}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            if numbers.split()[-1] == "1":
                return child.pid
        return 0

    @property
    def prefix(self) -> list[str]:
        """Goes before a command line to run it in there."""
        return ["nsenter", "--target", str(self.pid), *ENTER]

    def end(self) -> None:
        """Kill all in there at once."""
        process = self._process
        if process.poll() is None:
            if hasattr(self, "pid"):
                os.kill(self.pid, signal.SIGKILL)
            else:
                process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait(20)


class Host:
    """One computer.  name: also its host name; ip: its address on the switch."""

    def __init__(self, world: World, name: str, ip: str) -> None:
        self.world = world
        self.name = name
        self.ip = ip
        self._namespaces: _Namespaces | None = None
        self._sshd: PrivateSshd | None = None
        self._addresses: list[str] = []
        self._started: list[subprocess.Popen[str]] = []

    @property
    def _inside(self) -> _Namespaces:
        if self._namespaces is None:
            raise RuntimeError(f"host {self.name} is switched off")
        return self._namespaces

    @property
    def prefix(self) -> list[str]:
        """Goes before a command line to run it on this host."""
        return self._inside.prefix

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._namespaces is not None

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command on this host; it ends with the host."""
        options = {"stdin": subprocess.DEVNULL, "text": True, **options}
        started = subprocess.Popen([*self.prefix, "--", *argv], **options)
        self._started.append(started)
        return started

    def run(
        self, argv: Sequence[str], timeout_s: float = 60, cwd: str = "/", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this host, from directory `cwd`; both outputs as text."""
        options = {"stdin": subprocess.DEVNULL, **options}
        if "input" in options:
            del options["stdin"]
        command = [*self.prefix, f"--wd={cwd}", "--", *argv]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, **options
        )

    def check(self, argv: Sequence[str], **options: Any) -> str:
        """run(), which has to succeed; its stdout."""
        done = self.run(argv, **options)
        assert done.returncode == 0, f"{self.name}: {argv}: {done.returncode}: {done.stderr}"
        return done.stdout

    def outside(self, path: str | Path) -> Path:
        """A path of the running host as this process sees it."""
        return Path(f"/proc/{self._inside.pid}/root") / str(path).lstrip("/")

    def power_on(self) -> None:
        """Boot: namespaces, disk, network, sshd."""
        if self._namespaces is not None:
            raise RuntimeError(f"host {self.name} has power already")
        self._namespaces = _Namespaces(self.world.enter_files)
        script = (
            "mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd"
            ' && hostname "$1" && mount --rbind "$2" "$3" && ip link set lo up'
        )
        disk = str(self.world.disk(self.name))
        self.check(["sh", "-c", script, "boot", self.name, disk, str(DISK)])
        self.world.plug_in(self.name, self._namespaces.pid)
        self.check(["ip", "link", "set", "eth0", "up"])
        for address in [self.ip, *self._addresses]:
            self._set_address(address)
        folder = self.world.folder / "hosts" / self.name
        self._sshd = PrivateSshd(folder, self.world.keys, self.ip, 22, self.prefix)
        self._sshd.start()

    def power_cut(self) -> None:
        """Everything on it is gone this moment; its disk stays."""
        namespaces, self._namespaces = self._namespaces, None
        sshd, self._sshd = self._sshd, None
        if namespaces is not None:
            try:
                # First the cable, as the kernel would say good-bye for the processes it kills.
                self.world.switch("link", "delete", f"p-{self.name}")
            finally:
                namespaces.end()
        if sshd is not None:
            sshd.kill()
        for started in self._started:
            started.wait(20)
        self._started.clear()

    def cut_link(self) -> None:
        """Pull its cable out of the switch: packets vanish."""
        self.world.switch("link", "set", f"p-{self.name}", "nomaster")

    def mend_link(self) -> None:
        """Put the cable back."""
        self.world.switch("link", "set", f"p-{self.name}", "master", "switch")

    def add_address(self, ip: str) -> None:
        """One more address of this host on the switch, such as that of a simulated board."""
        self._addresses.append(ip)
        self._set_address(ip)

    def _set_address(self, ip: str) -> None:
        width = NETWORK.partition("/")[2]
        self.check(["ip", "address", "add", f"{ip}/{width}", "dev", "eth0"])

    def stop_sshd(self) -> None:
        """sshd ends; nobody listens any more."""
        if self._sshd is not None:
            self._sshd.end()

    def start_sshd(self) -> None:
        """sshd listens again, unless it does."""
        if self._sshd is not None and not self._sshd.alive():
            self._sshd.start()

    def daq_node(self, data_dir: Path = DISK / "data", modules: Sequence[int] = ()) -> DaqNode:
        """This host as a DAQ node."""
        return DaqNode(
            ip_addr=self.ip,
            username="root",
            data_dir=str(data_dir),
            module_ids=tuple(modules),
            bindhost=self.ip,
        )


class World:
    """The switch, the disks, and the hosts by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = OperatorKeys.make(folder / "ssh")
        self.hosts: dict[str, Host] = {}
        self._namespaces = _Namespaces([])
        try:
            self.switch("link", "set", "lo", "up")
            self.switch("link", "add", "switch", "type", "bridge")
            self.switch("link", "set", "switch", "up")
        except BaseException:
            self._namespaces.end()
            raise

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def obs(self) -> ObsConfig:
        """A site with the keys of this world."""
        return obs_config(self.keys)

    @property
    def enter_files(self) -> list[str]:
        """Goes before a command line: sees the disks, and is ended with the world."""
        return ["nsenter", "--target", str(self._namespaces.pid), "--mount", "--pid", "--"]

    def switch(self, *words: str) -> None:
        """Run `ip` where the switch is."""
        self._check(["nsenter", "--target", str(self._namespaces.pid), "--net", "ip", *words])

    def plug_in(self, name: str, pid: int) -> None:
        """A cable from the switch to the host whose first process is `pid`."""
        port = f"p-{name}"
        mac = f"02:00:0a:4d:04:{list(self.hosts).index(name):02x}"  # the same every boot
        self.switch(
            "link", "add", port, "master", "switch", "type", "veth",
            "peer", "name", "eth0", "address", mac, "netns", str(pid),
        )  # fmt: skip
        self.switch("link", "set", port, "up")

    def disk(self, name: str) -> Path:
        """Where the disk of a host is mounted in the world."""
        return self.folder / "disks" / name

    def disk_outside(self, name: str) -> Path:
        """The disk of a host as this process sees it, whether or not the host has power."""
        return Path(f"/proc/{self._namespaces.pid}/root{self.disk(name)}")

    def add_host(self, name: str, volumes: Mapping[str, int]) -> Host:
        """A host with power.  volumes: further disks, name below /srv -> size in MB."""
        host = Host(self, name, HOST_ADDRESS.format(10 + len(self.hosts)))
        self.hosts[name] = host
        self._add_disk(self.disk(name), DISK_MB)
        for volume, size_mb in volumes.items():
            self._add_disk(self.disk(name) / volume, size_mb)
        host.power_on()
        return host

    def _add_disk(self, place: Path, size_mb: int) -> None:
        script = 'mkdir -p "$1" && mount -t tmpfs -o size="$2"m tmpfs "$1"'
        self._check([*self.enter_files, "sh", "-c", script, "disk", str(place), str(size_mb)])

    def end(self) -> None:
        """Everything is gone."""
        try:
            for host in self.hosts.values():
                host.power_cut()
        finally:
            self._namespaces.end()

    @staticmethod
    def _check(argv: Sequence[str]) -> None:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"


@contextmanager
def hosts(
    folder: Path,
    names: Sequence[str],
    volumes: Mapping[str, Mapping[str, int]] | None = None,
) -> Iterator[World]:
    """Test hosts on one switch; skips the test where there can be none.

    volumes: host -> further disks below /srv with their size in MB.
    """
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder)
    try:
        for name in names:
            world.add_host(name, (volumes or {}).get(name, {}))
        yield world
    finally:
        world.end()
