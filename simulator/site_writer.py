"""Writes a whole command directory for a simulated observatory on loopback addresses of its own.

A *prefix* is the first three numbers of the addresses, such as 127.81.40: boards lie at
127.81.40.0 to 127.81.43.255 by the low 10 bits, computers beside them at 127.81.44.x.  So several
simulated observatories live on one machine and do not meet.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoseti.boards.addresses import COMMAND_PORT, QUABOS_PER_MODULE, SCIENCE_PORT
from simulator.private_sshd import OperatorKeys

TFTP_PORT = 6969  # ports below 1024 are for root
VERSIONS = ("qfp", "qfp", "qfp", "bga")  # as the shipped board files have it
PREFIX_TRIES = 50


def random_prefix() -> str:
    """Three numbers that begin the addresses of an observatory nobody else is likely to use."""
    return f"127.{random.randrange(2, 250)}.{4 * random.randrange(1, 62)}"


def free_prefix(modules: Sequence[int], science: bool = True) -> str:
    """A random prefix at which no simulated board and no pipeline listens at this moment."""
    for _ in range(PREFIX_TRIES):
        prefix = random_prefix()
        places = [(module_base(prefix, module), COMMAND_PORT) for module in modules]
        if all(_is_free(*place) for place in [*places, (head_address(prefix), SCIENCE_PORT)]):
            return prefix
    raise OSError(98, "all prefixes tried are in use", "127.x.y")


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def module_base(prefix: str, module: int) -> str:
    """Base address of a module under a prefix."""
    first, second, third = prefix.split(".")
    low = module * QUABOS_PER_MODULE
    return f"{first}.{second}.{int(third) + (low >> 8)}.{low & 255}"


def head_address(prefix: str, computer: int = 1) -> str:
    """Address of a computer (1 = the head node) beside the 1024 board addresses of a prefix."""
    first, second, third = prefix.split(".")
    return f"{first}.{second}.{int(third) + 4}.{computer}"


@dataclass(frozen=True)
class SimulatedSite:
    """What a command directory is made of.

    modules: ids; keys, ssh_port, user: of the private sshd; data: content of data_config.json;
    obs_fields: further fields of obs_config.json.  Head node and DAQ node are one computer.
    """

    prefix: str
    modules: tuple[int, ...]
    data_dir: Path
    keys: OperatorKeys
    ssh_port: int
    redis_port: int
    user: str
    data: Mapping[str, Any]
    tftp_port: int = TFTP_PORT
    obs_fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """Address of the one computer."""
        return head_address(self.prefix)

    @property
    def quabos(self) -> tuple[str, ...]:
        """Addresses of all boards, modules in order."""
        found = []
        for module in self.modules:
            base = module_base(self.prefix, module)
            start, _, last = base.rpartition(".")
            found += [f"{start}.{int(last) + quabo}" for quabo in range(QUABOS_PER_MODULE)]
        return tuple(found)

    def obs_config(self) -> dict[str, Any]:
        """Content of obs_config.json."""
        domes = [
            {
                "name": f"dome {number}",
                "obslat": 37.34,
                "obslon": -121.64,
                "obsalt": 1280,
                "modules": [
                    {
                        "name": f"telescope {number}",
                        "mobo_serialno": f"S{module:03d}",
                        "quabo_version": list(VERSIONS),
                        "ip_addr": module_base(self.prefix, module),
                        "azimuth": 90,
                        "elevation": 60,
                        "position_angle": 0,
                    }
                ],
            }
            for number, module in enumerate(self.modules, 1)
        ]
        return {
            "name": "Simulated",
            "comment": "8 simulated quabos on loopback addresses",
            "detector_overvoltage": 3,
            "domes": domes,
            "tftp_port": self.tftp_port,
            "redis_port": self.redis_port,
            "ssh_key": str(self.keys.key),
            "ssh_known_hosts": str(self.keys.known_hosts),
            **self.obs_fields,
        }

    def daq_config(self) -> dict[str, Any]:
        """Content of daq_config.json."""
        node = {
            "ip_addr": self.head,
            "username": self.user,
            "data_dir": str(self.data_dir),
            "module_ids": ",".join(str(module) for module in self.modules),
            "bindhost": self.head,
            "ssh_port": self.ssh_port,
        }
        return {
            "comment": "one computer as head node and DAQ node",
            "head_node_ip_addr": self.head,
            "head_node_data_dir": str(self.data_dir),
            "daq_nodes": [node],
        }

    def write(self, folder: Path) -> Path:
        """Write the three configs into a folder, which is returned."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = {
            "obs_config": self.obs_config(),
            "daq_config": self.daq_config(),
            "data_config": dict(self.data),
        }
        for name, content in contents.items():
            text = json.dumps(content, indent=4) + "\n"
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
        return folder
