"""Which boards an operator means: all, those of a dome or a module, or one.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from panoseti.configs.site import ObsConfig, Quabo
from panoseti.errors import ConfigError, Fault

DOME, MODULE, QUABO, ANY = "dome", "module", "quabo", "only"


@dataclass(frozen=True)
class Choice:
    """One choice on the command line: kind (DOME, MODULE, QUABO, ANY) and the word given."""

    kind: str
    word: str


def select(obs: ObsConfig, choices: Iterable[Choice]) -> tuple[Quabo, ...]:
    """The boards chosen, in the order of the config; all when nothing was chosen.

    A dome is chosen by name, a module by id, name, board label or base address, a quabo by its
    address.  ConfigError naming what there is when a word fits nothing.
    """
    chosen: set[str] = set()
    faults = []
    given = list(choices)
    for choice in given:
        found = _matching(obs, choice)
        chosen |= {quabo.ip for quabo in found}
        if not found:
            faults.append(Fault("command line", f"--{choice.kind}", choice.word, _there_is(obs)))
    if faults:
        raise ConfigError(faults)
    return tuple(quabo for quabo in obs.quabos if not given or quabo.ip in chosen)


def _matching(obs: ObsConfig, choice: Choice) -> list[Quabo]:
    word, kind = choice.word, choice.kind
    found: list[Quabo] = []
    if kind in (QUABO, ANY):
        found = [quabo for quabo in obs.quabos if quabo.ip == word]
    if not found and kind in (MODULE, ANY):
        found = [
            quabo
            for module in obs.modules
            if word in (str(module.id), module.name, module.mobo_serialno, module.ip_addr)
            for quabo in module.quabos
        ]
    if not found and kind in (DOME, ANY):
        found = [
            quabo
            for dome in obs.domes
            if dome.name == word
            for module in dome.modules
            for quabo in module.quabos
        ]
    return found


def _there_is(obs: ObsConfig) -> str:
    domes = ", ".join(dome.name for dome in obs.domes)
    modules = ", ".join(f"{module.id} ({module.ip_addr})" for module in obs.modules[:8])
    more = f" and {len(obs.modules) - 8} more" if len(obs.modules) > 8 else ""
    return f"not in obs_config.json; domes: {domes}; modules: {modules}{more}"
