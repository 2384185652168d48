"""Reading obs_config.json, daq_config.json and data_config.json into checked, typed objects.

`load_site(Path.cwd())` raises ConfigError with every fault of all three files at once.  What is
unwise but no reason to stop (unknown or discouraged fields, names that do not resolve) is in
`site.warnings`: Fault objects, one line each when printed.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from panoseti.configs import cross_checks as checks
from panoseti.configs.cross_checks import Head, Placed
from panoseti.configs.json_document import Document, analysis_copy, read_document
from panoseti.configs.json_formats import MASK, is_address, is_secret, masked_text
from panoseti.configs.site import DaqConfig, DaqNode, DataConfig, Module, ObsConfig
from panoseti.configs.site_builder import (
    Person,
    build_daq,
    build_data,
    build_obs,
    placed_modules,
    power_switch_names,
    written_head,
    written_nodes,
)
from panoseti.errors import ConfigError, Fault
from panoseti.local_host import is_local, resolve

OBS_CONFIG, DAQ_CONFIG, DATA_CONFIG = "obs_config.json", "daq_config.json", "data_config.json"


@dataclass(frozen=True)
class Site:
    """The three configs of a command directory, checked one by one and against each other.

    warnings: what is unwise but no reason to stop; addresses: host as written -> IPv4 address,
    as far as names resolved; copies: file name -> text for run directories (`frozen_copies`).
    """

    command_dir: Path
    obs: ObsConfig
    daq: DaqConfig
    data_or_none: DataConfig | None
    warnings: tuple[Fault, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> DataConfig:
        """What to record; ConfigError when the site was loaded without data_config.json."""
        if self.data_or_none is None:
            raise ConfigError([Fault(DATA_CONFIG, "$", "not loaded", "needed for this command")])
        return self.data_or_none

    @property
    def head_data_dir(self) -> Path:
        """Data directory of the head node."""
        return Path(self.daq.head_node_data_dir)

    def node_of(self, module_id: int) -> DaqNode:
        """The one DAQ node that records the module; KeyError when there is none."""
        for node in self.daq.nodes:
            if module_id in node.module_ids:
                return node
        raise KeyError(module_id)

    def modules_of(self, node: DaqNode) -> tuple[Module, ...]:
        """The modules of obs_config that the node records."""
        return tuple(module for module in self.obs.modules if module.id in node.module_ids)

    def nodes_in_use(self) -> tuple[DaqNode, ...]:
        """The nodes that have at least one module of obs_config."""
        return tuple(node for node in self.daq.nodes if self.modules_of(node))

    def address_of(self, host: str) -> str:
        """IPv4 address of a host of daq_config.json.

        Raises ConfigError (path, name, remedy) when the name does not resolve here.
        """
        if host in self.addresses:
            return self.addresses[host]
        raise ConfigError([_unresolved(host, self._path_of(host))])

    def destination_of(self, host: str) -> str:
        """IPv4 address that boards shall send to, for a host of daq_config.json.

        Raises ConfigError when the name does not resolve, or means a loopback address that the
        boards cannot reach.
        """
        address = self.address_of(host)
        where = (DAQ_CONFIG, self._path_of(host))
        boards = [quabo.ip for quabo in self.obs.quabos]
        faults = checks.destination_is_reachable(host, address, boards, where)
        if faults:
            raise ConfigError(faults)
        return address

    def is_head_node_here(self) -> bool:
        """Whether head_node_ip_addr is an address of this machine (all 127/8 are).

        Raises ConfigError when it does not resolve.
        """
        return is_local(self.address_of(self.daq.head_node_ip_addr))

    def is_on_head_node(self, node: DaqNode) -> bool:
        """Whether the node has the head node's address."""
        return checks.same_host(self.daq.head_node_ip_addr, node.ip_addr, self.addresses)

    def _path_of(self, host: str) -> str:
        if host == self.daq.head_node_ip_addr:
            return "$.head_node_ip_addr"
        for index, node in enumerate(self.daq.nodes):
            if node.ip_addr == host:
                return f"$.daq_nodes[{index}].ip_addr"
        return "$"


def load_site(command_dir: Path, data_config: bool = True) -> Site:
    """Read and check the configs of a command directory (or the copies in a run directory).

    data_config=False: data_config.json is neither needed nor looked at (stop, status, daemons).
    Raises ConfigError carrying every fault found in all files.
    """
    return _Loader(command_dir, data_config).load()


def frozen_copies(site: Site) -> dict[str, str]:
    """File name -> text of the copies that go into a run directory.

    They say the same as the originals as they were read, with secrets masked, "~" and "$USER"
    replaced, and without what makes the analysis software skip a file: fields unknown to it,
    `max_file_size_mb: 0`, and ranges like "0-2, 5-6".
    """
    return dict(site.copies)


class _Loader:
    """One loading of a site: documents, the parts built from them, the checks between them."""

    def __init__(self, command_dir: Path, data_config: bool) -> None:
        self._dir = command_dir
        self._person = _person()
        self._obs = read_document(command_dir / OBS_CONFIG, "obs_config")
        self._daq = read_document(command_dir / DAQ_CONFIG, "daq_config")
        self._data = (
            read_document(command_dir / DATA_CONFIG, "data_config") if data_config else None
        )
        self._faults: list[Fault] = []
        self._warnings: list[Fault] = []
        self._modules = placed_modules(self._obs)
        self._written_head = written_head(self._daq)
        self._written_nodes = written_nodes(self._daq)
        self._addresses = self._resolve()

    def load(self) -> Site:
        nodes = [self._expanded(placed) for placed in self._written_nodes]
        head = self._written_head
        if head is not None:
            head = replace(head, data_dir=self._person.path(head.data_dir))
        self._check_obs()
        self._check_daq(head, nodes)
        data = self._check_data()
        documents = [doc for doc in (self._obs, self._daq, self._data) if doc is not None]
        faults = [fault for document in documents for fault in document.faults] + self._faults
        if faults or head is None:
            raise ConfigError(faults)
        obs = build_obs(self._obs, self._person)
        daq = build_daq(head, nodes, self._daq.content.get("comment", ""))
        warnings = [warning for document in documents for warning in document.warnings]
        return Site(
            command_dir=self._dir,
            obs=obs,
            daq=daq,
            data_or_none=data,
            warnings=(*warnings, *self._warnings),
            addresses=self._addresses,
            copies=_copies(self._obs, self._daq, self._data, daq),
        )

    def _expanded(self, placed: Placed[DaqNode]) -> Placed[DaqNode]:
        node, person = placed.item, self._person
        hashpipe_dir = None if node.hashpipe_dir is None else person.path(node.hashpipe_dir)
        username = person.user if node.username == "$USER" else node.username
        return replace(
            placed,
            item=replace(
                node,
                data_dir=person.path(node.data_dir),
                hashpipe_dir=hashpipe_dir,
                username=username,
            ),
        )

    def _hosts(self) -> list[tuple[str, str]]:
        """Hosts of daq_config.json that boards or this program must reach, with their paths."""
        hosts = []
        if self._written_head is not None:
            hosts.append((self._written_head.ip_addr, "$.head_node_ip_addr"))
        hosts += [(placed.item.ip_addr, f"{placed.path}.ip_addr") for placed in self._written_nodes]
        return hosts

    def _resolve(self) -> dict[str, str]:
        hosts = self._hosts()
        addresses = resolve([host for host, _ in hosts])
        for host, path in hosts:
            if host not in addresses:
                self._warnings.append(_unresolved(host, path))
        return addresses

    def _check_obs(self) -> None:
        document, modules = self._obs, self._modules
        self._faults += checks.modules_are_distinct(modules)
        self._faults += checks.switches_exist(modules, power_switch_names(document))
        content = document.content if isinstance(document.content, dict) else {}
        if document.clean("domes") and not modules and content.get("domes"):
            remedy = "has no module in any dome; add at least one"
            self._faults.append(Fault(OBS_CONFIG, "$.domes", "no modules", remedy))
        name = content.get("name")
        if isinstance(name, str) and "_" in name:
            remedy = 'programs that read run names cut it at "_"; use "-"'
            document.warn(("name",), name, remedy)
        for switch in power_switch_names(document):
            value = content[switch]
            url = value.get("url") if isinstance(value, dict) else None
            if isinstance(url, str) and "@" in url and f"{MASK}@" not in url:
                remedy = (
                    "holds a password that anyone who reads this file can see (copies mask it);"
                    " better: power_credentials, a file with mode 0600"
                )
                document.warn((switch, "url"), masked_text(url), remedy)
        self._warnings += checks.boards_collide(modules, self._other_addresses(content))

    def _other_addresses(self, content: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        for index, (host, _) in enumerate(self._hosts()):
            if host in self._addresses:
                what = "the head node" if index == 0 else f"the DAQ node {host}"
                yield self._addresses[host], what
        switch = content.get("wr_ip_addr", ObsConfig.wr_ip_addr)
        if isinstance(switch, str) and is_address(switch):
            yield switch, "the White Rabbit switch"

    def _check_daq(self, head: Head | None, nodes: list[Placed[DaqNode]]) -> None:
        addresses = self._addresses
        self._faults += checks.nodes_are_distinct(nodes, addresses)
        self._faults += checks.nodes_are_disjoint(nodes)
        self._faults += checks.capture_has_its_interface(nodes)
        if head is not None and self._written_head is not None:
            self._faults += checks.head_shares_its_directory(head, nodes, addresses)
            self._faults += checks.homes_are_known(
                self._written_head, self._written_nodes, addresses
            )
        if self._daq.clean("daq_nodes"):
            self._faults += checks.modules_are_covered(self._modules, nodes)
        boards = [quabo.ip for placed in self._modules for quabo in placed.item.quabos]
        for host, path in self._hosts():
            if host in addresses:
                self._warnings += checks.destination_is_reachable(
                    host, addresses[host], boards, (DAQ_CONFIG, path)
                )

    def _check_data(self) -> DataConfig | None:
        document = self._data
        if document is None:
            return None
        obs_name = self._obs.content.get("name") if self._obs.clean("name") else None
        if document.clean("run_type") and isinstance(obs_name, str):
            run_type = Placed(document.name, "$.run_type", document.content["run_type"])
            self._faults += checks.run_name_fits(obs_name, run_type)
        if not document.clean():
            return None
        data = build_data(document.content)
        placed = Placed(document.name, "$", data)
        self._faults += checks.data_is_possible(placed)
        self._warnings += checks.data_is_advised(placed)
        return data


def _person() -> Person:
    """Who runs this, from the account itself: USER is not set in a cron job."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = os.environ.get("USER", "")
    return Person(str(Path.home()), user)


def _unresolved(host: str, path: str) -> Fault:
    remedy = "does not resolve here; write the address, or add the name to /etc/hosts"
    return Fault(DAQ_CONFIG, path, host, remedy)


def _copies(
    obs: Document, daq: Document, data: Document | None, expanded: DaqConfig
) -> dict[str, str]:
    daq_content = {**daq.content, "head_node_data_dir": expanded.head_node_data_dir}
    daq_content["daq_nodes"] = [
        {
            **raw,
            "username": node.username,
            "data_dir": node.data_dir,
            "module_ids": checks.ranges_text(node.module_ids),
        }
        for raw, node in zip(daq.content["daq_nodes"], expanded.nodes, strict=True)
    ]
    contents = {"obs_config": obs.content, "daq_config": daq_content}
    if data is not None:
        data_content = dict(data.content)
        if data_content.get("max_file_size_mb") == 0:
            del data_content["max_file_size_mb"]
        contents["data_config"] = data_content
    return {
        f"{name}.json": json.dumps(_masked(analysis_copy(content, name)), indent=4) + "\n"
        for name, content in contents.items()
    }


def _masked(value: Any) -> Any:
    """A JSON value without secrets."""
    if isinstance(value, str):
        return masked_text(value)
    if isinstance(value, list):
        return [_masked(member) for member in value]
    if isinstance(value, dict):
        return {
            name: MASK if is_secret(name) else _masked(member) for name, member in value.items()
        }
    return value
