"""A whole simulated observatory in one folder: boards, sshd, Redis, command and data directory.

    with private_observatory(folder) as observatory:
        observatory.script("config.py")
        observatory.script("start.py")

Addresses and ports are its own.  At the end, whatever happened, nobody works in the folder any
more; what was recorded stays there.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoseti.console import Interrupted
from panoseti.errors import ObsError
from simulator import leftovers
from simulator.client import SimulatorClient
from simulator.make_boards import write_boards
from simulator.private_services import PrivateRedis, private_redis, simulated_boards
from simulator.private_sshd import OperatorKeys, PrivateSshd, private_sshd
from simulator.site_writer import SimulatedSite, free_prefix, head_address

MODULES = (1, 254)  # those the shipped board files describe
TIME_SCALE = 20.0
DATA: Mapping[str, Any] = {
    "run_type": "night",
    "gain": 60,
    "image": {"integration_time_usec": 1000, "pe_threshold": 2, "quabo_sample_size": 16},
    "pulse_height": {"pe_threshold": 12.5},
    "max_file_size_mb": 1000,
}
SERVERS = ("redis-server", "sshd", "packet_source")
INTERRUPTED_S = 60.0


@dataclass
class PrivateObservatory:
    """A running simulated observatory; everything lies below `folder`."""

    folder: Path
    site: SimulatedSite
    command_dir: Path
    state_dir: Path
    redis: PrivateRedis
    sshd: PrivateSshd

    @property
    def data_dir(self) -> Path:
        """Data directory of head node and DAQ node."""
        return self.site.data_dir

    def client(self) -> SimulatorClient:
        """A new connection to the simulated boards' control socket."""
        return SimulatorClient(self.state_dir)

    def command(self, name: str, *words: str) -> list[str]:
        """The command line of a script, as an operator types it."""
        return [str(leftovers.REPO / name), *words]

    def script(self, name: str, *words: str) -> int:
        """Run a script in the command directory, its words going where ours go; exit code.

        When we are interrupted it is too, once, and may undo what it began.
        """
        child = subprocess.Popen(
            self.command(name, *words),
            cwd=self.command_dir,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            return child.wait()
        except KeyboardInterrupt as error:
            child.send_signal(error.number if isinstance(error, Interrupted) else signal.SIGINT)
            try:
                child.wait(INTERRUPTED_S)
            except subprocess.TimeoutExpired:
                pass  # it is ended below
            raise
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()


@contextmanager
def private_observatory(
    folder: Path,
    data: Mapping[str, Any] = DATA,
    modules: Sequence[int] = MODULES,
    time_scale: float = TIME_SCALE,
    simulator_options: Sequence[str] = (),
    obs_fields: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
    prefix: str | None = None,
) -> Iterator[PrivateObservatory]:
    """Bring one up in a folder, boards as after power-on; raises ObsError when that fails.

    data: of data_config.json; obs_fields: more fields of obs_config.json; data_dir: default
    `<folder>/data`; prefix: of the addresses, default a free one.  Modules that the shipped board
    files do not describe get files of their own.
    """
    folder = folder.resolve()
    data_dir = data_dir or folder / "data"
    data_dir.mkdir(parents=True, exist_ok=True)
    keys = OperatorKeys.make(folder / "ssh")
    prefix = prefix or free_prefix(modules)
    with ExitStack() as stack:
        stack.callback(_check_nobody_is_left, folder)
        redis = stack.enter_context(private_redis(folder / "redis"))
        head = head_address(prefix)
        sshd = stack.enter_context(private_sshd(folder / "sshd", keys, head))
        site = SimulatedSite(
            prefix=prefix,
            modules=tuple(modules),
            data_dir=data_dir,
            keys=keys,
            ssh_port=sshd.port,
            redis_port=redis.port,
            user=sshd.user,
            data=data,
            obs_fields=obs_fields or {},
        )
        command_dir = site.write(folder / "site")
        if not set(modules) <= set(MODULES):
            write_boards(command_dir / "quabos", modules)
        state_dir = folder / "simulator"
        options = ["--time_scale", f"{time_scale:g}", "--power_on_destination", site.head]
        stack.enter_context(simulated_boards(command_dir, state_dir, *options, *simulator_options))
        stack.callback(_end_clients, folder)
        yield PrivateObservatory(folder, site, command_dir, state_dir, redis, sshd)


def _end_clients(folder: Path) -> None:
    """End scripts, daemons and pipelines; the boards are still there to be switched off."""
    found = [one for one in leftovers.workers(folder) if one.what not in SERVERS]
    # hv_updater goes when housekeeping shows that high voltage is off: capture_hk is the last.
    leftovers.end([one for one in found if one.what != "capture_hk.py"])
    leftovers.end([one for one in found if one.what == "capture_hk.py"])


def _check_nobody_is_left(folder: Path) -> None:
    """Raise ObsError naming who did not end."""
    leftovers.end_workers(folder)
    left = leftovers.workers(folder)
    if left:
        raise ObsError(f"still running in {folder}: {', '.join(str(one) for one in left)}")
