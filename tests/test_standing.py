"""`make sim`: up on the ports of the configs, one line when they are taken, gone after Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from panoseti.configs.load_configs import Site, load_site
from panoseti.errors import ConfigError
from panoseti.housekeeping.store import Store
from simulator import leftovers
from simulator.client import REQUESTS, SimulatorClient
from simulator.private_services import free_port
from simulator.site_writer import VERSIONS
from simulator.standing import check_ports, check_simulable
from tests.helpers import REPO
from tests.simulated import module_base, private_prefix
from tests.site_files import DAQ, OBS, REMOVE, changed, write_site


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def config_dir(home: Path) -> Path:
    """A command directory like that at the top of the repository, on ports of its own."""
    prefix = private_prefix()
    head = "127.0.0.1"
    obs = changed(OBS, {
        ("domes", 0, "modules", 0, "ip_addr"): module_base(prefix, 1),
        ("domes", 0, "modules", 1, "ip_addr"): module_base(prefix, 254),
        ("domes", 0, "modules", 0, "quabo_version"): list(VERSIONS),
        ("domes", 0, "modules", 1, "quabo_version"): list(VERSIONS),
        ("wps",): REMOVE,
        ("domes", 0, "modules", 0, "wps"): REMOVE,
        ("tftp_port",): 6969,
        ("redis_port",): free_port(),
        ("ssh_key",): str(home / "panoseti-sim" / "ssh" / "id_ed25519"),
        ("ssh_known_hosts",): str(home / "panoseti-sim" / "ssh" / "known_hosts"),
    })  # fmt: skip
    data_dir = str(home / "panoseti-sim" / "head")
    node = {
        "ip_addr": head, "username": "$USER", "data_dir": data_dir, "module_ids": "1,254",
        "ssh_port": free_port(),
    }  # fmt: skip
    daq = {"head_node_ip_addr": head, "head_node_data_dir": data_dir, "daq_nodes": [node]}
    return write_site(home.parent / "site", obs, daq)


@pytest.fixture
def site(config_dir: Path) -> Site:
    return load_site(config_dir)


@contextmanager
def standing(
    config_dir: Path, home: Path, *words: str
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`make sim` at work, and the lines it has printed until it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator.standing", "--config_dir", str(config_dir), *words],
        cwd=REPO, env={**os.environ, "HOME": str(home)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C here ends everything" in line:
                break
        try:
            yield process, lines
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(60)


def test_up_as_configured_and_gone_after_ctrl_c(config_dir: Path, home: Path, site: Site) -> None:
    with standing(config_dir, home) as (process, lines):
        text = "".join(lines)
        for command in ("./config.py", "./start.py", "./status.py", "./stop.py"):
            assert command in text
        with Store(port=site.obs.redis_port) as store:
            store.ping()
        port = site.daq.nodes[0].ssh_port
        with socket.create_connection(("127.0.0.1", port), timeout=5) as ssh:
            assert ssh.recv(8) == b"SSH-2.0-"
        with SimulatorClient(home / "panoseti-sim" / "simulator") as client:
            assert len(client.state()["boards"]) == 8
            shown = text.split("Boards can be told to misbehave:\n")[1].split("\n\n")[0]
            subprocess.run(shown, shell=True, cwd=config_dir, check=True, timeout=30)
            mute = client.state()["boards"][site.obs.quabos[0].ip]["faults"]
            assert mute == {"mute": {}}
            shown_requests = re.findall(r'\{"do": .*?\}', REQUESTS)
            assert len(shown_requests) >= 6
            for shown in shown_requests:
                if '"quit"' not in shown:
                    client.request(**{**json.loads(shown), "quabo": "all"})
        children = psutil.Process(process.pid).children(recursive=True)
        assert {"redis-server", "sshd", "packet_source"} <= {child.name() for child in children}
        again = subprocess.run(
            [sys.executable, "-m", "simulator.standing", "--config_dir", str(config_dir)],
            cwd=REPO, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True,
            timeout=30,
        )  # fmt: skip
        assert again.returncode == 1
        assert f"port {site.obs.redis_port} of 127.0.0.1" in again.stderr
        assert "is another make sim running?" in again.stderr and again.stderr.count("\n") == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert not psutil.wait_procs(children, 5)[1]


def typed_by_hand() -> list[str]:
    """The command lines under "The five scripts" of the README."""
    text = (REPO / "README.md").read_text().split("## The five scripts")[1].split("\n## ")[0]
    found = re.findall(r"^    \./(\S.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(found) >= 6
    return found


def test_the_session_of_the_readme_then_ctrl_c_while_a_run_is_in_progress(
    config_dir: Path, home: Path, site: Site
) -> None:
    def type_in(line: str) -> str:
        words = line.replace("127.0.3.248", site.obs.quabos[4].ip).split()
        done = subprocess.run(
            [str(REPO / words[0]), *words[1:]], cwd=config_dir, text=True,
            env={**os.environ, "HOME": str(home)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stdout}"
        return done.stdout

    data_dir = site.head_data_dir
    with standing(config_dir, home, "--time_scale", "20") as (process, _):
        *lines, last = typed_by_hand()
        for line in lines:
            type_in(line)
        assert len(list(data_dir.glob("*.pffd/run_complete"))) == 1
        type_in("start.py")
        assert [w for w in leftovers.workers(data_dir) if w.what == "hashpipe"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert f"$ ./{last}" in errors, "the last line was typed for us"
    assert not leftovers.workers(home)
    assert not (data_dir / "run_name").exists()
    assert len(list(data_dir.glob("*.pffd/run_complete"))) == 2, "stopped, not just killed"


def test_the_death_of_a_server_is_the_end_and_is_told(config_dir: Path, home: Path) -> None:
    with standing(config_dir, home) as (process, _):
        children = psutil.Process(process.pid).children(recursive=True)
        next(child for child in children if child.name() == "redis-server").kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "redis-server has ended by itself" in errors
        assert not psutil.wait_procs(children, 5)[1]


def test_ports_that_are_taken_are_named(site: Site) -> None:
    check_ports(site)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", site.daq.nodes[0].ssh_port))
        holder.listen()
        with pytest.raises(
            Exception, match=rf"ssh_port of 127.0.0.1\) is taken by .*{os.getpid()}"
        ):
            check_ports(site)


def test_a_real_site_is_not_simulated(tmp_path: Path) -> None:
    daq = changed(DAQ, {("daq_nodes", 0, "username"): "somebody"})
    with pytest.raises(ConfigError) as refused:
        check_simulable(load_site(write_site(tmp_path / "real", OBS, daq)))
    text = str(refused.value)
    for fault in (
        "$.domes: 192.168.0.4: only a site on loopback addresses",
        "$.head_node_ip_addr: 192.168.1.100: only a site",
        "$.daq_nodes[1].ip_addr: 192.168.1.102: only a site",
        "$.ssh_key: missing: a path is needed",
        "$.daq_nodes[0].username: somebody: the private sshd knows",
    ):
        assert fault in text, text


def test_the_configs_of_the_repository_can_be_simulated() -> None:
    check_simulable(load_site(REPO))
