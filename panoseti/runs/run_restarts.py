"""Pipelines that died within a run, started again into the next files of the run.

Each node for itself and in the background; after some attempts a node is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from panoseti.background import Background
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import Order
from panoseti.nodes.node_watch import NODE_SILENT_S
from panoseti.nodes.remote import Shell

# The first attempt is made at once, the others after such pauses.
PAUSES_S = (0.0, 5.0, 10.0, 20.0, 40.0, 60.0)
END_S, DRAIN_S = 5.0, 10.0
# Until then a node may still be judged by an answer from before the attempt.
LOOK_AGAIN_S = NODE_SILENT_S + 2.0


@dataclass
class _Node:
    attempts: int = 0
    next_s: float = 0.0
    told: bool = False


class Restarts:
    """The restarts of one run.

    tell: is told of every attempt, its result, and when a node is given up: kind, node, words.
    """

    def __init__(
        self,
        shells: Mapping[str, Shell],
        orders: Mapping[str, Order],
        at_most: int,
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._shells = shells
        self._orders = orders
        self._at_most = at_most
        self._tell = tell
        self._work = Background()
        self._nodes = {node: _Node() for node in orders}

    @property
    def counts(self) -> dict[str, int]:
        """Attempts by node, of those that had any."""
        return {name: node.attempts for name, node in self._nodes.items() if node.attempts}

    def given_up(self, node: str, now_s: float) -> bool:
        """Whether there are no more attempts for a node, and the last one has had its time."""
        state = self._nodes[node]
        waiting = self._work.busy(node) or now_s < state.next_s
        return state.attempts >= self._at_most and not waiting

    def look(self, now_s: float) -> None:
        """Notice the results of attempts."""
        for name, state in self._nodes.items():
            done = self._work.result(name)
            if done is None:
                continue
            state.next_s = max(state.next_s, now_s + LOOK_AGAIN_S)
            if done.problem:
                why = done.problem.removeprefix(f"{name}: ")
                self._tell("restart_failed", name, f"{name}: the pipeline was not restarted: {why}")
            else:
                self._tell("restarted", name, f"{name}: the pipeline was restarted")

    def want(self, node: str, hung: bool, now_s: float) -> None:
        """The pipeline of a node must be started again; hung: and has to be ended first."""
        state = self._nodes[node]
        if self._work.busy(node) or now_s < state.next_s:
            return
        if self.given_up(node, now_s):
            if not state.told:
                state.told = True
                text = f"{node}: no further restart of the pipeline, after {state.attempts}"
                self._tell("given_up", node, text)
            return
        state.attempts += 1
        state.next_s = now_s + PAUSES_S[min(state.attempts, len(PAUSES_S) - 1)]
        self._tell("restart", node, f"{node}: restarting the pipeline (attempt {state.attempts})")
        self._work.begin(node, lambda: self._restart(node, hung))

    def _restart(self, node: str, hung: bool) -> None:
        shell, order = self._shells[node], self._orders[node]
        if hung:
            daq_nodes.stop_recording(
                shell, order.run, order.owner, deadline_s=END_S, drain_s=DRAIN_S
            )
        daq_nodes.start_recording(shell, order, again=True)
