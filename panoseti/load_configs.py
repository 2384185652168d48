"""Reading obs_config.json, daq_config.json and data_config.json into checked, typed objects.

    site = load_site(Path.cwd())        # raises ConfigError with every fault of all three files
    for warning in site.warnings: ...   # Fault objects: unknown or discouraged fields, names that
                                        # do not resolve; one line each when printed
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from panoseti.errors import Fault
from panoseti.site import DaqConfig, DaqNode, DataConfig, Module, ObsConfig

OBS_CONFIG, DAQ_CONFIG, DATA_CONFIG = "obs_config.json", "daq_config.json", "data_config.json"


@dataclass(frozen=True)
class Site:
    """The three configs of a command directory, checked one by one and against each other.

    data raises ConfigError when the site was loaded without data_config.json.
    """

    command_dir: Path
    obs: ObsConfig
    daq: DaqConfig
    data_or_none: DataConfig | None
    warnings: tuple[Fault, ...]

    @property
    def data(self) -> DataConfig:
        """What to record."""
        raise NotImplementedError

    @property
    def head_data_dir(self) -> Path:
        """Data directory of the head node."""
        return Path(self.daq.head_node_data_dir)

    def node_of(self, module_id: int) -> DaqNode:
        """The one DAQ node that records the module; KeyError when there is no such module."""
        raise NotImplementedError

    def modules_of(self, node: DaqNode) -> tuple[Module, ...]:
        """The modules of obs_config that the node records."""
        raise NotImplementedError

    def nodes_in_use(self) -> tuple[DaqNode, ...]:
        """The nodes that have at least one module of obs_config."""
        raise NotImplementedError

    def address_of(self, host: str) -> str:
        """IPv4 address of a host name or address of the configs.

        Raises ConfigError (file, path, remedy) when the name does not resolve.
        """
        raise NotImplementedError

    def is_head_node_here(self) -> bool:
        """Whether head_node_ip_addr is an address of this machine (all 127/8 are)."""
        raise NotImplementedError

    def is_on_head_node(self, node: DaqNode) -> bool:
        """Whether the node has the head node's address."""
        raise NotImplementedError


def load_site(command_dir: Path, data_config: bool = True) -> Site:
    """Read and check the configs of a command directory.

    data_config=False: data_config.json is neither needed nor looked at (stop, status, daemons).
    Raises ConfigError carrying every fault found in all files.
    """
    raise NotImplementedError


def frozen_copies(site: Site) -> dict[str, str]:
    """File name -> text of the copies that go into a run directory.

    They say the same as the originals, with passwords masked, and written so that the analysis
    software accepts them (see docs/sites/README.md).
    """
    raise NotImplementedError
