"""The configs that a run was started with, for whoever acts within it later.

Those of the command directory may be edited for the next run at any time, or be broken just now.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from panoseti.configs.json_formats import MASK
from panoseti.configs.load_configs import Site, load_site
from panoseti.errors import ConfigError


def site_of_run(folder: Path, command_dir: Path) -> Site:
    """The frozen configs in the run directory `folder`; as they are now where there are none.

    Copies have no secrets: of all that is used within a run, only the command of `alarm_hook` can
    have some, and is taken as it is written now.  Its command directory is that of the operator.
    """
    try:
        frozen = load_site(folder)
    except ConfigError:
        return load_site(command_dir)
    try:
        hook = load_site(command_dir, data_config=False).obs.alarm_hook
    except ConfigError:
        hook = frozen.obs.alarm_hook
        if any(MASK in word for word in hook):
            hook = ()
    return replace(frozen, command_dir=command_dir, obs=replace(frozen.obs, alarm_hook=hook))
