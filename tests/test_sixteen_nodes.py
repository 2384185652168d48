"""A dome of 45 modules on 16 nodes, as docs/many_nodes.md lays it out: the configs map it whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from panoseti.configs.load_configs import load_site
from tests.site_files import DAQ, OBS, changed, write_site

MODULES, NODES, PER_NODE = 45, 16, 3


def module_address(n: int) -> str:
    """Modules 1 to 45 in the boards' network 10.1.0.0/22."""
    return f"10.1.0.{4 * (n + 1)}"


def test_sixteen_nodes(tmp_path: Path) -> None:
    modules = [
        {"mobo_serialno": f"M{n + 1}", "quabo_version": "qfp", "ip_addr": module_address(n)}
        for n in range(MODULES)
    ]
    nodes = [
        {
            "ip_addr": f"10.1.3.{n + 1}",
            "username": "observer",
            "data_dir": "/data",
            "module_ids": f"{n * PER_NODE + 1}-{(n + 1) * PER_NODE}",
            "bindhost": "ens1f0",
        }
        for n in range(NODES)
    ]
    obs = changed(OBS, {("domes", 0, "modules"): modules})
    obs.pop("wps")
    daq = changed(DAQ, {("daq_nodes",): nodes, ("head_node_ip_addr",): "10.1.3.250"})
    site = load_site(write_site(tmp_path / "site", obs, daq))
    assert site.warnings == ()

    recorded = Counter(m.id for node in site.daq.nodes for m in site.modules_of(node))
    assert recorded == Counter(range(1, MODULES + 1))  # each on one node, none on two
    assert max(len(site.modules_of(node)) for node in site.daq.nodes) == PER_NODE
    assert len(site.nodes_in_use()) == NODES - 1  # the last is a spare
    assert not any(site.is_on_head_node(node) for node in site.daq.nodes)
    for module in site.obs.modules:
        node = site.node_of(module.id)
        assert site.destination_of(node.ip_addr) == node.ip_addr
        assert module.id in node.module_ids
