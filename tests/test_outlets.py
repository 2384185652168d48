"""The outlets of a site: which modules they feed, and a look that no silent switch can hold up."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from panoseti.boards import outlets
from panoseti.configs.load_configs import load_site
from panoseti.configs.site import ObsConfig
from simulator.power_switch import PowerSwitchServer
from tests.site_files import OBS, write_site


def obs_with(folder: Path, switches: dict[str, tuple[str, int]], feeds: list[str]) -> ObsConfig:
    """A site of as many modules as there are names in `feeds`, each of its switch."""
    obs: dict[str, Any] = json.loads(json.dumps(OBS))
    modules = [
        {"ip_addr": f"192.168.0.{4 * i + 4}", "mobo_serialno": f"m{i}", "quabo_version": "qfp",
         "wps": name}
        for i, name in enumerate(feeds)
    ]  # fmt: skip
    obs["domes"] = [{**obs["domes"][0], "modules": modules}]
    for name in [name for name in obs if name.startswith("wps")]:
        del obs[name]
    for name, (url, socket_no) in switches.items():
        obs[name] = {"url": url, "quabo_socket": socket_no}
    return load_site(write_site(folder, obs), data_config=False).obs


def test_an_outlet_is_fed_to_all_its_modules(tmp_path: Path) -> None:
    obs = obs_with(tmp_path, {"wps": ("http://10.0.0.1", 2)}, ["wps", "wps"])
    (feed,) = outlets.feeds(obs, obs.modules[:1])
    assert [module.id for module in feed.modules] == [1, 2], "not only the one asked for"
    assert feed.label == "outlet 2 of wps"


def test_a_silent_switch_costs_one_time_out_and_hides_no_other(tmp_path: Path) -> None:
    with PowerSwitchServer(on=[2]) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        switches = {"wps": (server.url, 2), "wps_2": (url, 1), "wps_3": (url, 4)}
        obs = obs_with(tmp_path, switches, ["wps", "wps_2", "wps_3"])
        begin_s = time.monotonic()
        found = outlets.look(obs, outlets.feeds(obs, obs.modules), timeout_s=1.0)
        took_s = time.monotonic() - begin_s
    assert [state.on for state in found] == [True, None, None]
    assert "timed out" in found[1].problem and "wps_2" in found[1].problem
    assert found[0].text == "on" and found[1].text.startswith("not known: ")
    assert took_s < 1.9, "at the same time, not one after the other"
    assert json.loads(json.dumps(outlets.as_json(found)))[0]["modules"] == [1]
