"""A simulated observatory for tests: private loopback addresses, started and surely ended.

    with simulation(tmp_path, modules=(254,)) as site:
        site.quabos[0]            # address of quabo 0
        site.client().state()

Every simulation has a random prefix 127.a.b, so tests that run side by side do not meet.  HK and
science go to `site.head` (ports 60002 and 60001 there).
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from simulator.client import SimulatorClient
from simulator.site_writer import TFTP_PORT, head_address, module_base
from simulator.site_writer import random_prefix as private_prefix
from tests.helpers import REPO, wait_for

COMMAND_PORT, SCIENCE_PORT, HK_PORT = 60000, 60001, 60002


@dataclass
class Simulation:
    """A running simulator: where it is, and its boards' addresses (module by module)."""

    process: subprocess.Popen[str]
    config_dir: Path
    state_dir: Path
    head: str
    bases: tuple[str, ...]
    quabos: tuple[str, ...]
    tftp_port: int = TFTP_PORT

    def client(self) -> SimulatorClient:
        """A new connection to its control socket."""
        return SimulatorClient(self.state_dir)


def write_obs_config(folder: Path, bases: Sequence[str], tftp_port: int = TFTP_PORT) -> None:
    """The smallest obs_config.json the simulator needs."""
    modules = [{"ip_addr": base, "mobo_serialno": "sim", "quabo_version": "qfp"} for base in bases]
    folder.mkdir(parents=True, exist_ok=True)
    config = {"name": "sim", "tftp_port": tftp_port, "domes": [{"name": "d", "modules": modules}]}
    (folder / "obs_config.json").write_text(json.dumps(config))


@contextmanager
def simulation(
    folder: Path,
    modules: Sequence[int] = (254,),
    options: Sequence[str] = (),
    time_scale: float = 20,
) -> Iterator[Simulation]:
    """Run a simulator with its files under `folder`; ends it and fails if it does not end well."""
    prefix = private_prefix()
    head = head_address(prefix)
    bases = tuple(module_base(prefix, module) for module in modules)
    config_dir, state_dir = folder / "site", folder / "simulator"
    write_obs_config(config_dir, bases)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "simulator", "--config_dir", str(config_dir),
            "--state_dir", str(state_dir), "--time_scale", str(time_scale),
            "--power_on_destination", head, *options,
        ],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(
            lambda: (state_dir / "ready").exists() or process.poll() is not None,
            "the simulator to be ready",
            timeout_s=60,
        )
        if process.poll() is not None:
            raise AssertionError(f"the simulator ended: {process.communicate()[1]}")
        quabos = tuple(
            f"{base.rsplit('.', 1)[0]}.{int(base.rsplit('.', 1)[1]) + index}"
            for base in bases
            for index in range(4)
        )
        yield Simulation(process, config_dir, state_dir, head, bases, quabos)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            errors += "(did not end at SIGTERM)"
    assert process.returncode == 0, f"simulator: exit {process.returncode}: {errors}"
    assert "Traceback" not in errors, errors


def udp_socket(address: str, port: int = 0, timeout_s: float = 5.0) -> socket.socket:
    """A bound UDP socket with a large buffer; the caller closes it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.settimeout(timeout_s)
    sock.bind((address, port))
    return sock


def table(values: Sequence[int], code: str) -> str:
    """A table of the packet source: hex of little-endian numbers (struct code H or h)."""
    return struct.pack(f"<{len(values)}{code}", *values).hex()
