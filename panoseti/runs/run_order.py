"""What a node is told to record: the same at the start of a run and when it is restarted in it."""

from __future__ import annotations

from collections.abc import Iterable

from panoseti.configs.load_configs import Site
from panoseti.nodes.daq_nodes import Order
from panoseti.runs.run_state import Holder


def order_of(site: Site, holder: Holder, modules: Iterable[int]) -> Order:
    """The order for one node; modules: ids that it is to record."""
    data = site.data
    return Order(
        run=holder.run,
        owner=holder.token,
        started_by=holder.owner,
        modules=tuple(modules),
        obs_name=site.obs.name,
        max_file_size_mb=data.max_file_size_mb,
        group_ph_frames=data.group_ph_frames,
    )
