"""DAQ nodes in the bring-up: helpers and pipeline put there, and the room on their disks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from panoseti.boards.board_work import Work
from panoseti.bringup.ledger import Inputs, Value, content_digest
from panoseti.configs.load_configs import DAQ_CONFIG, Site
from panoseti.configs.site import DaqNode, Module
from panoseti.errors import ObsError
from panoseti.nodes import daq_nodes, node_init
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.runs.recording_room import Room, rooms

NODES = "daq_nodes"


def ledger_name(node: DaqNode) -> str:
    """The node in the ledger."""
    return f"DAQ node {node.ip_addr}"


def nodes_of(site: Site, modules: Iterable[Module]) -> tuple[DaqNode, ...]:
    """The nodes that record these modules, in the order of the config."""
    chosen = {site.node_of(module.id) for module in modules}
    return tuple(node for node in site.daq.nodes if node in chosen)


def wanted_inputs(node: DaqNode) -> Inputs:
    """What a node is set up with; ObsError when the pipeline is not built here."""
    digests = {}
    for name, (path, _) in sorted(node_init.node_files(node).items()):
        try:
            digests[name] = content_digest(path.read_bytes().hex())
        except OSError as error:
            raise ObsError(f"{path}: {error.strerror}; build it: make build") from error
    place: dict[str, Value] = {
        "username": node.username,
        "data_dir": node.data_dir,
        "ssh_port": node.ssh_port,
        "hashpipe_dir": node.hashpipe_dir,
    }
    return {DAQ_CONFIG: place, "software": digests}


def why_set_up(work: Work, node: DaqNode) -> str | None:
    """Why a node must be set up (again); None when it need not."""
    return work.ledger.why_other(ledger_name(node), wanted_inputs(node))


class NodeSetup:
    """Brings helpers and pipeline on nodes up to date, all at once, while boards are worked on.

    Begins at once; `finish` waits for the nodes and makes each failure a fault.
    """

    def __init__(self, work: Work, nodes: Sequence[DaqNode]) -> None:
        self._work = work
        self._inputs = {node: wanted_inputs(node) for node in nodes}
        self._begin_unix = time.time()
        for node in nodes:
            work.ledger.begin_other(ledger_name(node), self._begin_unix)
        work.book.save()
        self._shells = NodeShells(nodes, work.site.obs, work.flight)
        self._pool = ThreadPoolExecutor(1, "nodes")
        self._outcomes = self._pool.submit(self._shells.each, node_init.init_node)

    def finish(self) -> None:
        """Wait for the nodes, and record how it went."""
        work = self._work
        try:
            with self._shells, work.console.progress("DAQ nodes", len(self._inputs)) as progress:
                outcomes = self._outcomes.result()
                for _ in outcomes:
                    progress.advance()
        finally:
            self._pool.shutdown(wait=True)
        good = 0
        for node, outcome in outcomes.items():
            name = ledger_name(node)
            if outcome.result is None:
                work.fault(name, "software", _words(node, outcome.problem))
                continue
            good += 1
            copied = len(outcome.result.copied)
            work.ledger.finish_other(name, time.time(), self._inputs[node], {"copied": copied})
            work.console.detail(f"{name}: {copied} files copied")
            for warning in outcome.result.warnings:
                work.console.warn(warning)
        work.book.save()
        which = f"{good} of {len(outcomes)}" if good < len(outcomes) else str(good)
        work.console.note(f"DAQ nodes: {which}, {time.time() - self._begin_unix:.1f} s")


def disk_room(work: Work) -> list[Room]:
    """Room on the head node and on every volume of the DAQ nodes of the modules at work."""
    nodes = nodes_of(work.site, work.modules)
    with NodeShells(nodes, work.site.obs, work.flight) as shells:
        outcomes = shells.each(daq_nodes.status)
    statuses = {}
    for node, outcome in outcomes.items():
        if outcome.result is None:
            work.fault(ledger_name(node), "disk space", _words(node, outcome.problem))
        else:
            statuses[node] = outcome.result
    try:
        return rooms(work.site, statuses)
    except OSError as error:
        work.fault("head node", "disk space", f"{work.site.head_data_dir}: {error.strerror}")
        return []


def _words(node: DaqNode, problem: ObsError | None) -> str:
    """A problem without the address it begins with."""
    return str(problem).removeprefix(f"{node.ip_addr}: ")
