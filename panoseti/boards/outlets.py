"""The outlets of power switches that feed modules: which they are, whether they are on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from panoseti.boards.power_switch import PowerSwitch, open_switch
from panoseti.configs.site import Module, ObsConfig
from panoseti.configs.site import PowerSwitch as Outlet
from panoseti.errors import ObsError

SWITCHES_AT_ONCE = 32
# So many time-outs of a request may all outlets of a switch take together.
WHOLE_SWITCH = 2
# For a look in passing: a switch that is well answers within a fraction of a second.
LOOK_TIMEOUT_S = 2.0
COLUMNS = ("power switch", "outlet", "modules", "state")


@dataclass(frozen=True)
class Feed:
    """An outlet of a power switch and all modules of the site that it feeds."""

    outlet: Outlet
    modules: tuple[Module, ...]

    @property
    def label(self) -> str:
        """As an operator knows it."""
        return f"outlet {self.outlet.socket} of {self.outlet.name}"

    @property
    def names(self) -> str:
        """The modules as one phrase."""
        return ", ".join(module.label for module in self.modules)

    def switch(self, obs: ObsConfig, timeout_s: float = 5.0) -> PowerSwitch:
        """The switch itself; CredentialsError when its login cannot be read."""
        return open_switch(obs, self.outlet, timeout_s)


@dataclass(frozen=True)
class OutletState:
    """What an outlet is; on None = the switch could not be asked, problem says why."""

    switch: str
    outlet: int
    modules: tuple[int, ...]
    on: bool | None
    problem: str = ""

    @property
    def text(self) -> str:
        """In words."""
        if self.on is None:
            return f"not known: {self.problem}"
        return "on" if self.on else "OFF"


def feeds(obs: ObsConfig, modules: Iterable[Module]) -> list[Feed]:
    """The outlets that feed these modules; modules without a power switch have none."""
    wanted = {module.id for module in modules}
    found: dict[tuple[str, int], list[Module]] = {}
    outlets: dict[tuple[str, int], Outlet] = {}
    for module in obs.modules:
        outlet = obs.power_switch(module)
        if outlet is not None:
            key = (outlet.name, outlet.socket)
            outlets[key] = outlet
            found.setdefault(key, []).append(module)
    return [
        Feed(outlets[key], tuple(fed))
        for key, fed in found.items()
        if any(module.id in wanted for module in fed)
    ]


def look(
    obs: ObsConfig, wanted: Sequence[Feed], timeout_s: float = LOOK_TIMEOUT_S
) -> list[OutletState]:
    """The state of outlets, all switches at the same time; nothing is raised.

    A switch that is silent costs one time-out, however many outlets it has.
    """
    by_switch: dict[str, list[Feed]] = {}
    for feed in wanted:
        by_switch.setdefault(feed.outlet.name, []).append(feed)
    if not by_switch:
        return []
    with ThreadPoolExecutor(min(SWITCHES_AT_ONCE, len(by_switch))) as pool:
        answers = pool.map(lambda same: _ask(obs, same, timeout_s), by_switch.values())
        known = {key: state for some in answers for key, state in some.items()}
    return [known[feed.label] for feed in wanted]


def _ask(obs: ObsConfig, same: Sequence[Feed], timeout_s: float) -> dict[str, OutletState]:
    """The outlets of one switch."""
    found: dict[str, OutletState] = {}
    problem, switch = "", None
    deadline = time.monotonic() + WHOLE_SWITCH * timeout_s
    for feed in same:
        on = None
        if not problem and time.monotonic() > deadline:
            problem = f"power switch {feed.outlet.name} answers too slowly"
        try:
            if not problem:
                switch = switch or feed.switch(obs, timeout_s)
                on = switch.is_on(feed.outlet.socket)
        except ObsError as error:
            problem = str(error)
        modules = tuple(module.id for module in feed.modules)
        found[feed.label] = OutletState(
            feed.outlet.name, feed.outlet.socket, modules, on, "" if on is not None else problem
        )
    return found


def as_table(states: Sequence[OutletState]) -> list[list[object]]:
    """The states under COLUMNS."""
    return [[s.switch, s.outlet, ",".join(map(str, s.modules)), s.text] for s in states]


def as_json(states: Sequence[OutletState]) -> list[dict[str, Any]]:
    """The states as a JSON value."""
    return [asdict(state) for state in states]
