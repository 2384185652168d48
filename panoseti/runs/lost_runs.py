"""Runs that have files on DAQ nodes and no record here: a disk of the head node was replaced, or a
run directory deleted.  They are named, and can be collected all the same.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from panoseti.configs.load_configs import DAQ_CONFIG, DATA_CONFIG, OBS_CONFIG, Site
from panoseti.configs.site import DaqNode
from panoseti.errors import ObsError
from panoseti.flight import FlightRecorder
from panoseti.local_host import is_local, resolve
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import NodeRun
from panoseti.runs.collect import Collection, fetch_ahead
from panoseti.runs.disk_room import size_text
from panoseti.runs.run_record import RUN_JSON
from panoseti.words import joined, shown_lines

COPIES = (OBS_CONFIG, DAQ_CONFIG, DATA_CONFIG)


@dataclass(frozen=True)
class LostRun:
    """nodes: addresses of those that have files of it; head: of another head node, in words, "" =
    this one's, as far as is known.
    """

    run: str
    nodes: tuple[str, ...]
    size_bytes: int
    head: str = ""

    def __str__(self) -> str:
        where = joined([f"DAQ node {node}" for node in self.nodes], ", ")
        return f"{self.run}: {size_text(self.size_bytes)} on {where}"


@dataclass(frozen=True)
class Asked:
    """What the nodes said; problems: of those that could not be asked."""

    lost: tuple[LostRun, ...]
    problems: tuple[str, ...]


def ask(site: Site, nodes: Iterable[DaqNode], flight: FlightRecorder) -> Asked:
    """Ask nodes for runs of which nothing is known here."""
    with NodeShells(nodes, site.obs, flight) as shells:
        outcomes = shells.each(daq_nodes.list_runs)
    told = {node.ip_addr: one.result for node, one in outcomes.items() if one.result is not None}
    return Asked(lost_among(site, told), tuple(daq_nodes.problems(outcomes)))


def lost_among(
    site: Site, told: Mapping[str, Iterable[NodeRun]], but: Container[str] = ()
) -> tuple[LostRun, ...]:
    """The runs of which nothing is known here; told: what nodes have, by address; but: runs that
    are in progress, whosever they are.
    """
    found: dict[str, LostRun] = {}
    unknown = [
        (node, one)
        for node, runs in told.items()
        for one in runs
        if one.files
        and one.run not in but
        and not (site.head_data_dir / one.run / RUN_JSON).exists()
    ]
    addresses = resolve({one.head_address for _, one in unknown if one.head_address})
    for node, one in unknown:
        known = found.get(one.run, LostRun(one.run, (), 0))
        found[one.run] = replace(
            known,
            nodes=(*known.nodes, node),
            size_bytes=known.size_bytes + one.bytes,
            head=known.head or _other_head(site, one, addresses),
        )
    return tuple(found[run] for run in sorted(found))


def _other_head(site: Site, run: NodeRun, addresses: Mapping[str, str]) -> str:
    """Another head node that a run belongs to; "" = none, or none that is known.

    A data directory of this computer that has not this run is a former one of this head node.
    """
    name = run.head_address
    if not name:
        return ""
    here = name == site.daq.head_node_ip_addr or is_local(addresses.get(name, ""))
    if here and not (Path(run.head_data_dir) / run.run / RUN_JSON).exists():
        return ""
    return f"{name} ({run.head_data_dir})"


def advice(lost: Iterable[LostRun]) -> list[str]:
    """What is the matter with runs of this head node, and what to type; a line each."""
    lines = [f"{one}, and no record of it here: stop.py --run {one.run}"
             for one in lost if not one.head]  # fmt: skip
    return shown_lines(lines, "status.py --json")


def bring_configs(site: Site, folder: Path, lost: LostRun, flight: FlightRecorder) -> str:
    """Bring the copies of the configs of a run from a node that has it into its directory, so that
    the record can be made anew; why that is in vain, or "".
    """
    nodes = [node for node in site.daq.nodes if node.ip_addr in lost.nodes]
    problems: list[str] = []
    with NodeShells(nodes, site.obs, flight) as shells:
        for node in shells.nodes:
            try:
                fetch_ahead(Collection(folder, site.obs, flight), shells[node], COPIES)
            except (ObsError, OSError) as error:
                problems.append(str(error))
            if all((folder / name).is_file() for name in COPIES):
                return ""
    return joined(problems) if problems else "no node has copies of its configs"
