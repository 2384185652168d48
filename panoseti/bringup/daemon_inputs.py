"""What a daemon of the session works with.  It says so itself, in each heartbeat.

So whoever started it, `why_start` knows whether it works with the present configs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from panoseti.bringup import session
from panoseti.bringup.ledger import Inputs, Value, content_digest, why_differ
from panoseti.bringup.session import HV_UPDATER, TEMPERATURE_GUARD
from panoseti.configs.board_files import quabos_folder
from panoseti.configs.load_configs import DAQ_CONFIG, OBS_CONFIG, Site
from panoseti.daemon import WORKS_WITH

# How a daemon talks, not what it watches or sets: a run may go on until it is started anew.
MAY_WAIT = ("alarm_hook", "command_pacing", "command_source_port")
UNKNOWN = "does not say which configs it works with: it is of an older version"


def wanted_inputs(site: Site, name: str) -> Inputs:
    """What a daemon works with: of obs_config.json no more than it uses, since a new start of
    hv_updater costs the high voltage of all boards.
    """
    obs = site.obs
    modules = [(m.id, m.ip_addr, m.command_echo, m.wps) for m in obs.modules]
    fields: dict[str, Value] = {
        "modules": content_digest(modules),
        "redis": f"{obs.redis_host}:{obs.redis_port}",
        "alarm_hook": content_digest(obs.alarm_hook),
        "command_source_port": obs.command_source_port,
        "command_pacing": content_digest(dataclasses.asdict(obs.command_pacing)),
    }
    if name in (TEMPERATURE_GUARD, HV_UPDATER):
        fields["hk_max_age_s"] = obs.hk_max_age_s
    if name == TEMPERATURE_GUARD:
        outlets = [dataclasses.asdict(outlet) for outlet in obs.power_switches]
        how = (outlets, obs.power_credentials, obs.power_switch_api)
        fields["power switches"] = content_digest(how)
    inputs: dict[str, dict[str, Value]] = {
        OBS_CONFIG: fields,
        DAQ_CONFIG: {
            "head_node_ip_addr": site.daq.head_node_ip_addr,
            "head_node_data_dir": site.daq.head_node_data_dir,
        },
    }
    if name == HV_UPDATER:
        fields["detector_overvoltage"] = obs.detector_overvoltage_v
        odd = " ".join(str(serial) for serial in sorted(obs.odd_detectors))
        fields["odd_detectors"] = odd or None
        # What is in them it reads again when it changes.
        inputs[""] = {"board files": str(quabos_folder(site.command_dir).resolve())}
    return inputs


def why_start(site: Site, name: str, but_for: Collection[str] = ()) -> str | None:
    """Why a daemon must be started (again); None when it works with the present configs.

    but_for: fields of obs_config.json that do not matter.
    """
    found = session.state(name, site.head_data_dir)
    if not found.works or found.beat is None:
        return found.problem or UNKNOWN
    said, wanted = found.beat.details.get(WORKS_WITH), wanted_inputs(site, name)
    if not isinstance(said, dict) or not all(isinstance(values, dict) for values in said.values()):
        return UNKNOWN
    return why_differ(_without(said, but_for), _without(wanted, but_for))


def _without(inputs: Inputs, names: Collection[str]) -> Inputs:
    return {
        source: {
            name: value
            for name, value in values.items()
            if source != OBS_CONFIG or name not in names
        }
        for source, values in inputs.items()
    }
