"""Checks between parts of the configs: what no field can be judged for alone.

Pure: host names come resolved, and every check returns its faults instead of raising, so that an
operator sees all of them at once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from panoseti.boards.addresses import is_loopback
from panoseti.configs.site import ANY_ADDRESS, DaqNode, DataConfig, Module
from panoseti.errors import Fault

T = TypeVar("T")

# The run name travels through a HASHPIPE status value that keeps 67 characters; one of just that
# length may have been cut, so 66 are used, 45 of which are fixed.
NAME_AND_TYPE_LENGTH = 21
# Burnt into the firmware of the boards.
BOARD_GATEWAY = "192.168.1.1"
BOARD_PREFIX_BITS = 22
ADVISED_IMAGE_PE, ADVISED_PH_PE = 1.0, 2.0


@dataclass(frozen=True)
class Placed(Generic[T]):
    """A part of a config with the file and the JSON path where it stands."""

    file: str
    path: str
    item: T

    def fault(self, field: str, value: str, remedy: str) -> Fault:
        """A fault of one of its fields."""
        return Fault(self.file, f"{self.path}.{field}", value, remedy)


@dataclass(frozen=True)
class Head:
    """The head node's fields of daq_config.json: address as written, data directory expanded."""

    ip_addr: str
    data_dir: str


def modules_are_distinct(modules: Sequence[Placed[Module]]) -> list[Fault]:
    """No module id twice: only the low 10 bits of an address count."""
    faults = []
    first: dict[int, Placed[Module]] = {}
    for placed in modules:
        other = first.setdefault(placed.item.id, placed)
        if other is not placed:
            remedy = (
                f"is module {placed.item.id} as is {other.path}.ip_addr ({other.item.ip_addr};"
                " the low 10 bits count); give each module its own address"
            )
            faults.append(placed.fault("ip_addr", placed.item.ip_addr, remedy))
    return faults


def switches_exist(modules: Sequence[Placed[Module]], names: Sequence[str]) -> list[Fault]:
    """Each module's wps is a power switch of the file."""
    faults = []
    for placed in modules:
        wps = placed.item.wps
        if wps is not None and wps not in names:
            known = ", ".join(names) or "none"
            remedy = f"no such power switch at the top level (there: {known}); correct the name"
            faults.append(placed.fault("wps", wps, remedy))
    return faults


def nodes_are_distinct(
    nodes: Sequence[Placed[DaqNode]], addresses: Mapping[str, str]
) -> list[Fault]:
    """No two nodes with one address; addresses: host as written -> IPv4 where it resolves."""
    faults = []
    first: dict[str, Placed[DaqNode]] = {}
    for placed in nodes:
        address = addresses.get(placed.item.ip_addr, placed.item.ip_addr)
        other = first.setdefault(address, placed)
        if other is not placed:
            remedy = f"is the same computer as {other.path}.ip_addr ({other.item.ip_addr}); merge"
            faults.append(placed.fault("ip_addr", placed.item.ip_addr, remedy))
    return faults


def nodes_are_disjoint(nodes: Sequence[Placed[DaqNode]]) -> list[Fault]:
    """No module id in the ranges of two nodes."""
    faults = []
    for index, placed in enumerate(nodes):
        for other in nodes[:index]:
            both = sorted(set(placed.item.module_ids) & set(other.item.module_ids))
            if both:
                remedy = (
                    f"has {_ids(both)} in common with {other.path}.module_ids"
                    f" ({ranges_text(other.item.module_ids)}); each module belongs to one node"
                )
                value = ranges_text(placed.item.module_ids)
                faults.append(placed.fault("module_ids", value, remedy))
    return faults


def modules_are_covered(
    modules: Sequence[Placed[Module]], nodes: Sequence[Placed[DaqNode]]
) -> list[Fault]:
    """Each module lies in the range of a node."""
    covered = {module_id for node in nodes for module_id in node.item.module_ids}
    faults = []
    for placed in modules:
        if placed.item.id not in covered:
            remedy = (
                f"module {placed.item.id} is in no daq_nodes[].module_ids of daq_config.json;"
                " add it to one"
            )
            faults.append(placed.fault("ip_addr", placed.item.ip_addr, remedy))
    return faults


def head_shares_its_directory(
    head: Head, nodes: Sequence[Placed[DaqNode]], addresses: Mapping[str, str]
) -> list[Fault]:
    """A node that is the head node records in the head node's data directory."""
    faults = []
    for placed in nodes:
        node = placed.item
        if same_host(head.ip_addr, node.ip_addr, addresses) and node.data_dir != head.data_dir:
            remedy = (
                f"{node.ip_addr} is the head node too, so this must equal head_node_data_dir"
                f" ({head.data_dir}); correct one of them"
            )
            faults.append(placed.fault("data_dir", node.data_dir, remedy))
    return faults


def homes_are_known(
    head: Head, nodes: Sequence[Placed[DaqNode]], addresses: Mapping[str, str]
) -> list[Fault]:
    """A "~" in a node's paths is replaced on the head node, so it may only stand for that one.

    The nodes are taken as written, "~" not yet replaced.
    """
    faults = []
    for placed in nodes:
        node = placed.item
        if same_host(head.ip_addr, node.ip_addr, addresses):
            continue
        for field, value in (("data_dir", node.data_dir), ("hashpipe_dir", node.hashpipe_dir)):
            if value is not None and value.startswith("~"):
                remedy = f"the home directory on {node.ip_addr} is not known here; write the path"
                faults.append(placed.fault(field, value, remedy))
    return faults


def capture_has_its_interface(nodes: Sequence[Placed[DaqNode]]) -> list[Fault]:
    """Packet capture is of an interface or an address, not of all that there are."""
    faults = []
    for placed in nodes:
        node = placed.item
        if node.tuning.capture == "packet" and node.bindhost == ANY_ADDRESS:
            remedy = (
                f"captures from one interface or address, but bindhost is {node.bindhost}:"
                ' write it there (see `ip address` on the node), or capture "udp"'
            )
            faults.append(placed.fault("capture", "packet", remedy))
    return faults


def same_host(one: str, other: str, addresses: Mapping[str, str]) -> bool:
    """Whether two hosts as written are one."""
    return one == other or addresses.get(one, one) == addresses.get(other, other)


def run_name_fits(name: str, run_type: Placed[str]) -> list[Fault]:
    """Observatory name and run type fit into a run name; run_type.path is the field itself."""
    length = len(name) + len(run_type.item)
    if length <= NAME_AND_TYPE_LENGTH:
        return []
    remedy = (
        f'together with name "{name}" of obs_config.json {length} characters;'
        f" at most {NAME_AND_TYPE_LENGTH} fit into a run name, shorten one"
    )
    return [Fault(run_type.file, run_type.path, run_type.item, remedy)]


def data_is_possible(data: Placed[DataConfig]) -> list[Fault]:
    """At most one coincidence trigger."""
    ph = data.item.pulse_height
    if ph is not None and ph.two_pixel_trigger and ph.three_pixel_trigger:
        remedy = "and two_pixel_trigger is 1 too; use at most one of them"
        return [data.fault("pulse_height.three_pixel_trigger", "1", remedy)]
    return []


def data_is_advised(data: Placed[DataConfig]) -> list[Fault]:
    """Warnings: a gain the analysis does not take, thresholds so low that noise fills the disks."""
    warnings = []
    if data.item.gain != int(data.item.gain):
        remedy = "no whole number: the analysis software skips the copy of this file in a run"
        warnings.append(data.fault("gain", f"{data.item.gain:g}", remedy))
    image, ph = data.item.image, data.item.pulse_height
    for part, threshold, advised in (
        ("image", image.pe_threshold if image else None, ADVISED_IMAGE_PE),
        ("pulse_height", ph.pe_threshold if ph else None, ADVISED_PH_PE),
    ):
        if threshold is not None and threshold < advised:
            remedy = f"lower than the advised {advised:g} photoelectrons; expect noise"
            warnings.append(data.fault(f"{part}.pe_threshold", f"{threshold:g}", remedy))
    return warnings


def boards_collide(
    modules: Sequence[Placed[Module]], others: Iterable[tuple[str, str]]
) -> list[Fault]:
    """Warnings: board addresses that something else has; others: (IPv4 address, what it is)."""
    taken: dict[str, str] = {}
    for address, what in others:
        taken.setdefault(address, what)
    warnings = []
    for placed in modules:
        for quabo in placed.item.quabos:
            what = taken.get(quabo.ip) or _special(quabo.ip)
            if what:
                remedy = f"quabo {quabo.index} would have the address of {what}; change one"
                warnings.append(placed.fault("ip_addr", quabo.ip, remedy))
    return warnings


def _special(ip: str) -> str:
    """What an address means to the boards' network besides naming a board, "" = nothing."""
    address = ipaddress.IPv4Address(ip)
    # The whole 127/8 belongs to one loopback interface; on real sites the firmware has a /22.
    bits = 8 if address.is_loopback else BOARD_PREFIX_BITS
    network = ipaddress.IPv4Network((ip, bits), strict=False)
    if address == network.network_address:
        return f"the network {network}"
    if address == network.broadcast_address:
        return f"the broadcast of {network}"
    return "the boards' gateway" if ip == BOARD_GATEWAY else ""


def destination_is_reachable(
    host: str, address: str, boards: Iterable[str], where: tuple[str, str]
) -> list[Fault]:
    """Warning: a receiver whose name means loopback, while boards are elsewhere.

    where: file and JSON path of the host.
    """
    if not is_loopback(address):
        return []
    outside = next((ip for ip in boards if not is_loopback(ip)), None)
    if outside is None:
        return []
    remedy = (
        f"means {address} on this computer, where {outside} cannot send;"
        " write the address of the interface towards the boards"
    )
    return [Fault(*where, host, remedy)]


def ranges_text(ids: Sequence[int]) -> str:
    """Module ids in a form that every reader of daq_config.json understands: "a-b" or "a,b,c"."""
    ordered = sorted(ids)
    if len(ordered) > 1 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(str(one) for one in ordered)


def _ids(ids: Sequence[int]) -> str:
    return f"module {ids[0]}" if len(ids) == 1 else f"modules {ranges_text(ids)}"
