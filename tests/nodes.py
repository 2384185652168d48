"""DAQ nodes for tests: typed configs of nodes behind a private sshd."""

from __future__ import annotations

from pathlib import Path

from panoseti.configs.site import DaqNode, ObsConfig
from simulator.private_sshd import OperatorKeys, PrivateSshd


def obs_config(keys: OperatorKeys) -> ObsConfig:
    """A site with these keys and no boards."""
    return ObsConfig(
        name="Test",
        comment="",
        domes=(),
        power_switches=(),
        ssh_key=str(keys.key),
        ssh_known_hosts=str(keys.known_hosts),
    )


def daq_node(sshd: PrivateSshd, data_dir: Path, modules: tuple[int, ...] = (1, 254)) -> DaqNode:
    """The node behind a private sshd."""
    return DaqNode(
        ip_addr=sshd.address,
        username=sshd.user,
        data_dir=str(data_dir),
        module_ids=modules,
        bindhost=sshd.address,
        ssh_port=sshd.port,
    )
