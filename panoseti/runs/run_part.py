"""What takes part in a run: all of it, or with `start.py --partial` the healthy part.

`run_policy.may_be_missing` of obs_config.json says how much may be left out: boards of modules
that record otherwise, modules of nodes that record otherwise, and nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from panoseti.configs.load_configs import Site
from panoseti.configs.site import DaqNode, MayBeMissing, Quabo
from panoseti.errors import ObsError
from panoseti.runs.run_record import Expected
from panoseti.words import joined

RECORD = "record"
"""What the step is called in run.json by which a node is told to record."""
ALLOWED_IN = "run_policy.may_be_missing in obs_config.json"


class Part:
    """The boards and nodes that take part in a run, and what was left out of it and why.

    boards: those that are to send; nodes: those that are to record (none for a run without
    science data); partial: whether the operator wants the healthy part.
    """

    def __init__(
        self, site: Site, boards: Iterable[Quabo], nodes: Iterable[DaqNode], partial: bool
    ) -> None:
        self._site = site
        self._all = tuple(boards)
        self._nodes = tuple(nodes)
        self._partial = partial
        self._bad_boards: dict[str, str] = {}
        self._bad_nodes: dict[DaqNode, str] = {}

    @property
    def boards(self) -> tuple[Quabo, ...]:
        """The boards that take part."""
        return self._taking_part(self._bad_boards, self._bad_nodes)

    @property
    def nodes(self) -> tuple[DaqNode, ...]:
        """The nodes that take part: those that have a board left."""
        left = {self._site.node_of(board.module_id) for board in self.boards}
        return tuple(node for node in self._nodes if node in left)

    def modules_of(self, node: DaqNode) -> tuple[int, ...]:
        """Ids of the modules that the node is to record: those that have a board left."""
        left = {board.module_id for board in self.boards}
        return tuple(module.id for module in self._site.modules_of(node) if module.id in left)

    @property
    def missing(self) -> dict[str, str]:
        """What is left out and why: nodes, whole modules ("module 3"), single boards."""
        return _named(self._site, self._all, self._bad_boards, self._bad_nodes)

    def expected(self, science: bool) -> Expected:
        """For run.json; science: whether science data are recorded."""
        there = {board.ip for board in self._all}
        return Expected(
            quabos=tuple(board.ip for board in self.boards) if science else (),
            nodes={node.ip_addr: self.modules_of(node) for node in self.nodes},
            absent=tuple(quabo.ip for quabo in self._site.obs.quabos if quabo.ip not in there),
            missing=self.missing,
        )

    def leave_out(
        self,
        boards: Mapping[str, str] | None = None,
        nodes: Mapping[DaqNode, str] | None = None,
        error: type[ObsError] = ObsError,
        problem: str = "",
    ) -> tuple[Quabo, ...]:
        """Go on without some boards (by address) or nodes, and why; the boards that drop out.

        Raises `error` with `problem` (else all that is wrong) and what helps, unless the operator
        wants the healthy part and the policy allows it.
        """
        bad_boards = {**self._bad_boards, **(boards or {})}
        bad_nodes = {**self._bad_nodes, **(nodes or {})}
        if bad_boards == self._bad_boards and bad_nodes == self._bad_nodes:
            return ()
        hint = self._why_not(bad_boards, bad_nodes)
        if hint or not self._partial:
            text = problem or joined([*(nodes or {}).values(), *(boards or {}).values()])
            if not self._partial:
                hint = "" if hint else "start.py --partial records without it"
            raise error(f"{text}; {hint}" if hint else text)
        before = self.boards
        self._bad_boards, self._bad_nodes = bad_boards, bad_nodes
        left = set(self.boards)
        return tuple(board for board in before if board not in left)

    def _taking_part(
        self, bad_boards: Mapping[str, str], bad_nodes: Mapping[DaqNode, str]
    ) -> tuple[Quabo, ...]:
        return tuple(
            board
            for board in self._all
            if board.ip not in bad_boards and self._site.node_of(board.module_id) not in bad_nodes
        )

    def _why_not(self, bad_boards: Mapping[str, str], bad_nodes: Mapping[DaqNode, str]) -> str:
        """Why so much may not be missing; "" = it may."""
        names = _named(self._site, self._all, bad_boards, bad_nodes)
        count = MayBeMissing(
            nodes=len(bad_nodes),
            modules=sum(name.startswith("module ") for name in names),
            boards=sum(name in bad_boards for name in names),
        )
        allowed = self._site.obs.run_policy.may_be_missing
        if not self._taking_part(bad_boards, bad_nodes):
            return "nothing would be left to record"
        if (
            count.nodes <= allowed.nodes
            and count.modules <= allowed.modules
            and count.boards <= allowed.boards
        ):
            return ""
        return f"{ALLOWED_IN} allows {_counted(allowed)} to be missing; now {_counted(count)} would"


def _named(
    site: Site,
    all_boards: Iterable[Quabo],
    bad_boards: Mapping[str, str],
    bad_nodes: Mapping[DaqNode, str],
) -> dict[str, str]:
    """What is missing, and why: nodes, modules of other nodes, boards of other modules."""
    named = {node.ip_addr: why.removeprefix(f"{node.ip_addr}: ") for node, why in bad_nodes.items()}
    modules: dict[int, list[str]] = {}
    for board in all_boards:
        modules.setdefault(board.module_id, []).append(board.ip)
    for module, ips in modules.items():
        bad = {ip: bad_boards[ip] for ip in ips if ip in bad_boards}
        if not bad or site.node_of(module) in bad_nodes:
            continue
        reasons = {ip: why.removeprefix(f"{ip}: ") for ip, why in bad.items()}
        if len(bad) == len(ips) > 1:
            named[f"module {module}"] = joined(list(dict.fromkeys(reasons.values())))
        else:
            named |= reasons
    return named


def _counted(count: MayBeMissing) -> str:
    words = [
        f"{number} {name if number == 1 else name + 's'}"
        for number, name in (
            (count.boards, "board"), (count.modules, "module"), (count.nodes, "node")
        )
        if number
    ]  # fmt: skip
    return " and ".join(words) or "nothing"


def boards_left_out(site: Site, missing: Iterable[str]) -> set[str]:
    """Addresses of the boards that a run goes without, by the names that run.json has of them."""
    names = set(missing)
    nodes = {node.ip_addr: node for node in site.daq.nodes}
    modules = {f"module {module.id}": module for module in site.obs.modules}
    chosen = [module for name, module in modules.items() if name in names]
    chosen += [m for name in names if name in nodes for m in site.modules_of(nodes[name])]
    boards = {quabo.ip for module in chosen for quabo in module.quabos}
    return boards | {quabo.ip for quabo in site.obs.quabos if quabo.ip in names}


def left_out(document: Mapping[str, Any]) -> dict[str, str]:
    """What a run goes without, and why, as its run.json says."""
    missing = document.get("expected", {}).get("missing") or {}
    return {str(name): str(why) for name, why in missing.items()}


def never_asked(document: Mapping[str, Any]) -> dict[str, str]:
    """Of what was left out: those of which the run has nothing, since no node was told to record
    under that name.
    """
    told = {s.get("subject") for s in document["steps"] if s.get("what") == RECORD}
    return {name: why for name, why in left_out(document).items() if name not in told}
