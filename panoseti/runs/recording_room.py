"""Where a run writes to, how fast, and how much room there is: head node and DAQ nodes.

A module's data go to the volume its directory lies on, and in the end to the head node, which
collects them; there its housekeeping goes too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from panoseti.configs import settings
from panoseti.configs.load_configs import Site
from panoseti.configs.site import DaqNode
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs.disk_room import Volume, duration_text, size_text


@dataclass(frozen=True)
class Room:
    """One file system: where it is, modules that are recorded there, free space, and what a run
    writes to it in a second; node: whose it is, None for the head node's.
    """

    where: str
    modules: tuple[int, ...]
    free_bytes: int
    rate_bytes_s: float
    node: DaqNode | None = None

    @property
    def volume(self) -> Volume:
        """As `disk_room` judges it, with its modules in its name."""
        names = ", ".join(map(str, self.modules))
        where = f"{self.where} (module {names})" if names else self.where
        return Volume(where, self.free_bytes, self.rate_bytes_s)

    @property
    def left(self) -> str:
        """How long it lasts, in words."""
        return duration_text(self.volume.time_left_s)

    @property
    def free(self) -> str:
        """Free space in words."""
        return size_text(self.free_bytes)


def rooms(site: Site, statuses: Mapping[DaqNode, NodeStatus]) -> list[Room]:
    """The head node's file system, then those of these nodes, used or not.

    A node's that is the head node's is named once, as the head node's.  OSError when that one
    cannot be asked.
    """
    module_rate = settings.data_rate_bytes_s(site.data)
    head_dir = site.head_data_dir
    free_bytes = shutil.disk_usage(head_dir).free
    head_rate = settings.HK_BYTES_S * len(site.obs.modules)
    head_modules: list[int] = []
    found = []
    for node, status in statuses.items():
        used = [module.id for module in site.modules_of(node)]
        placed = {module for volume in status.volumes for module in volume.modules}
        placed |= set(status.unusable)  # not on the disk of the others, but nowhere
        local = site.is_on_head_node(node)
        head_rate += module_rate * len(used)  # recorded there, or collected from elsewhere
        for volume in status.volumes:
            own = [module for module in used if module in volume.modules]
            if volume.default:
                own += [module for module in used if module not in placed]
            if local and _same_disk(volume.path, str(head_dir)):
                head_modules += own
                continue
            where = f"{node.ip_addr}:{volume.path}"
            found.append(Room(where, tuple(own), volume.free_bytes, module_rate * len(own), node))
    head = Room(f"head node:{head_dir}", tuple(head_modules), free_bytes, head_rate)
    return [head, *found]


def _same_disk(one: str, other: str) -> bool:
    try:
        return os.stat(one).st_dev == os.stat(other).st_dev
    except OSError:
        return False
