"""The simulated observatory of a command directory, kept up until Ctrl-C: `make sim`.

It brings up what the configs describe: the boards, and on the ports they name a private sshd for
each DAQ node and a private Redis.  Then the scripts can be typed by hand in another shell, in the
command directory.  Boards run 4 times faster than real ones, so that bring-up is some seconds of
waiting and still can be watched: a reboot is 2.5 s of silence, HK comes every 0.75 s.

Ctrl-C ends everything that belongs to it: a run in progress is stopped by stop.py, the daemons of
the session by config.py --shutdown, and what is left then is ended by its process id.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from panoseti import console
from panoseti.boards.addresses import is_loopback
from panoseti.configs.load_configs import Site, load_site
from panoseti.daemon import StopFlag
from panoseti.errors import EXIT_OK, ConfigError, Fault, ObsError
from panoseti.local_host import resolve
from panoseti.runs.run_state import run_name_path
from simulator import leftovers
from simulator.private_services import (
    Service,
    ServiceError,
    private_redis,
    simulated_boards,
    user_name,
)
from simulator.private_sshd import OperatorKeys, private_sshd

STATE_FOLDER = "panoseti-sim"  # in the home directory
TIME_SCALE = 4.0
LOOK_S = 0.5
STOP_S = 120.0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with code 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.standing",
        description=__doc__,
        epilog="examples:\n  make sim\n  python -m simulator.standing --config_dir ~/mysite",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config_dir", type=Path, default=Path("."), help="holds the configs (default: here)"
    )
    parser.add_argument(
        "--time_scale",
        type=float,
        default=TIME_SCALE,
        help="boards run so many times faster than real (default: %(default)g)",
    )
    return parser.parse_args(argv)


def check_simulable(site: Site) -> None:
    """Raise ConfigError naming what of a site cannot be simulated on this computer."""
    faults = []
    remedy = "only a site on loopback addresses (127.x.y.z) can be simulated; see docs/sites"
    for module in site.obs.modules:
        if not is_loopback(module.ip_addr):
            faults.append(Fault("obs_config.json", "$.domes", module.ip_addr, remedy))
    hosts = [("$.head_node_ip_addr", site.daq.head_node_ip_addr)]
    hosts += [(f"$.daq_nodes[{i}].ip_addr", node.ip_addr) for i, node in enumerate(site.daq.nodes)]
    for path, host in hosts:
        if not is_loopback(site.address_of(host)):
            faults.append(Fault("daq_config.json", path, host, remedy))
    redis_host = resolve([site.obs.redis_host]).get(site.obs.redis_host, "")
    if not (redis_host and is_loopback(redis_host)):
        faults.append(Fault("obs_config.json", "$.redis_host", site.obs.redis_host, remedy))
    for name in ("ssh_key", "ssh_known_hosts"):
        if getattr(site.obs, name) is None:
            own = f"a path is needed, such as ~/panoseti-sim/ssh/{name}: yours are left alone"
            faults.append(Fault("obs_config.json", f"$.{name}", "missing", own))
    for i, node in enumerate(site.daq.nodes):
        if node.username != user_name():
            own = f'the private sshd knows {user_name()} alone; write "$USER"'
            path = f"$.daq_nodes[{i}].username"
            faults.append(Fault("daq_config.json", path, node.username, own))
    if faults:
        raise ConfigError(faults)


def port_holder(address: str, port: int) -> str | None:
    """Who listens on a TCP port of an address, as far as we may see; None when nobody does."""
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        if connection.laddr.port == port and connection.laddr.ip in (address, "0.0.0.0", "::"):
            if connection.pid is None:
                return "another user's program"
            return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return None


def check_ports(site: Site) -> None:
    """Raise ServiceError in one line when a port of the site is taken."""
    wanted = [(site.obs.redis_host, site.obs.redis_port, "redis_port in obs_config.json")]
    wanted += [
        (site.address_of(node.ip_addr), node.ssh_port, f"ssh_port of {node.ip_addr}")
        for node in site.nodes_in_use()
    ]
    for address, port, where in wanted:
        holder = port_holder(address, port)
        if holder is not None:
            raise ServiceError(
                f"port {port} of {address} ({where}) is taken by {holder}:"
                " is another make sim running? End it, or change the port"
            )


def data_dirs(site: Site) -> list[Path]:
    """Data directories of the head node and of the DAQ nodes, each once."""
    nodes = [Path(node.data_dir) for node in site.nodes_in_use()]
    return list(dict.fromkeys([site.head_data_dir, *nodes]))


@contextmanager
def standing_site(site: Site, time_scale: float) -> Iterator[tuple[Path, list[Service]]]:
    """Everything a site needs, up and ready; gives the folder of its state, and the servers."""
    home = Path.home() / STATE_FOLDER
    keys = OperatorKeys(Path(str(site.obs.ssh_key)), Path(str(site.obs.ssh_known_hosts)))
    try:
        keys.made()
        for folder in (home, *data_dirs(site)):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ObsError(f"{error.filename}: cannot be made: {error.strerror}") from error
    with ExitStack() as stack:
        services: list[Service] = [
            stack.enter_context(
                private_redis(home / "redis", site.obs.redis_host, site.obs.redis_port)
            )
        ]
        for node in site.nodes_in_use():
            address = site.address_of(node.ip_addr)
            services.append(
                stack.enter_context(
                    private_sshd(home / f"sshd-{address}", keys, address, node.ssh_port)
                )
            )
        boards = simulated_boards(
            site.command_dir,
            home / "simulator",
            "--time_scale",
            f"{time_scale:g}",
            "--power_on_destination",
            site.address_of(site.daq.head_node_ip_addr),
        )
        services.append(stack.enter_context(boards))
        yield home, services


def welcome(site: Site, home: Path, time_scale: float) -> str:
    """What stands on the screen while it is up."""
    modules = ", ".join(f"{m.label} at {m.ip_addr}" for m in site.obs.modules)
    ssh = ", ".join(f"{node.ip_addr}:{node.ssh_port}" for node in site.nodes_in_use())
    return f"""
The simulated observatory is up: {len(site.obs.quabos)} quabos, {modules}.
Boards run {time_scale:g} times faster than real ones: a reboot takes {10 / time_scale:g} s.
Ports: TFTP {site.obs.tftp_port}, Redis {site.obs.redis_port}, ssh {ssh}.  Files: {home}

In another shell, in {site.command_dir.resolve()}, type

    ./config.py                  # from power-on to ready (shutters open, high voltage on)
    ./start.py                   # start a run
    ./status.py                  # what is going on
    ./stop.py                    # end it, collect and verify its data
    ./qc.py {site.obs.quabos[0].ip} HK       # poke one board
    ./config.py --shutdown       # high voltage off, daemons ended

Boards can be told to misbehave:
    cd {shlex.quote(str(leftovers.REPO))} && {shlex.quote(sys.executable)} -m simulator.client \\
        {shlex.quote(str(home / "simulator"))} \\
        '{{"do": "fault", "quabo": "{site.obs.quabos[0].ip}", "fault": "mute"}}'

Ctrl-C here ends everything."""


def wait_for_end(services: Sequence[Service], asked: StopFlag) -> None:
    """Until it is asked to end; ServiceError when one of the servers has died."""
    while not asked.wait(LOOK_S):
        for service in services:
            if not service.alive():
                words = service.words().strip().splitlines()[-1:] or [""]
                raise ServiceError(f"{service.name} has ended by itself: {words[0]}")


def put_to_rest(site: Site, say: console.Console) -> None:
    """Stop the run in progress, end the session, and whoever of ours is left."""
    if run_name_path(site.head_data_dir).exists():
        _script(site, say, "stop.py")
    if any(worker.what.endswith(".py") for worker in leftovers.workers(site.head_data_dir)):
        _script(site, say, "config.py", "--shutdown")
    for folder in data_dirs(site):
        for line in leftovers.end_workers(folder):
            say.note(line)


def _script(site: Site, say: console.Console, name: str, *words: str) -> None:
    """Run a script in the command directory; what goes wrong is shown by the script itself."""
    say.note(f"$ ./{name} {' '.join(words)}".rstrip())
    try:
        subprocess.run(
            [sys.executable, str(leftovers.REPO / name), *words],
            cwd=site.command_dir,
            stdin=subprocess.DEVNULL,
            timeout=STOP_S,
            start_new_session=True,  # a second Ctrl-C is for us
        )
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        say.warn(f"{name} was not waited for any longer")


def main(argv: Sequence[str] | None = None) -> int:
    """Be up until told to end."""
    args = parse_args(argv)
    say = console.Console()
    site = load_site(args.config_dir, data_config=False)
    check_simulable(site)
    check_ports(site)
    asked = StopFlag()
    with standing_site(site, args.time_scale) as (home, services):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: asked.set())
        try:
            say.out(welcome(site, home, args.time_scale))
            sys.stdout.flush()
            wait_for_end(services, asked)
            say.note("ending")
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            put_to_rest(site, say)
    asked.close()
    say.note("everything has ended")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(console.call(main, sys.argv[1:]))
