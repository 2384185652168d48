"""Command directories for tests: small valid configs, changed as a test wants them."""

from __future__ import annotations

import copy
import enum
import json
from pathlib import Path
from typing import Any

OBS: dict[str, Any] = {
    "name": "Test",
    "wps": {"url": "http://192.168.0.100", "quabo_socket": 1},
    "detector_overvoltage": 3,
    "domes": [
        {
            "name": "dome",
            "obslat": 10.0,
            "obslon": 20.0,
            "obsalt": 100,
            "modules": [
                {
                    "mobo_serialno": "M1",
                    "quabo_version": "qfp",
                    "ip_addr": "192.168.0.4",
                    "wps": "wps",
                },
                {"mobo_serialno": "M2", "quabo_version": "qfp", "ip_addr": "192.168.3.248"},
            ],
        }
    ],
}
DAQ: dict[str, Any] = {
    "head_node_ip_addr": "192.168.1.100",
    "head_node_data_dir": "/data",
    "daq_nodes": [
        {
            "ip_addr": "192.168.1.101",
            "username": "observer",
            "data_dir": "/data",
            "module_ids": "0-127",
        },
        {
            "ip_addr": "192.168.1.102",
            "username": "observer",
            "data_dir": "/data",
            "module_ids": "128-255",
        },
    ],
}
DATA: dict[str, Any] = {
    "run_type": "test",
    "gain": 60,
    "image": {"integration_time_usec": 1000, "pe_threshold": 2, "quabo_sample_size": 16},
    "pulse_height": {"pe_threshold": 12.5},
}


class Removal(enum.Enum):
    """Shown by the same name in the id of a test in every process."""

    REMOVE = enum.auto()


REMOVE = Removal.REMOVE
"""As a value of `changed`: take the field away."""


def changed(base: Any, changes: dict[tuple[str | int, ...], Any]) -> Any:
    """A copy of a JSON value with other values at some places (a tuple of steps each)."""
    result = copy.deepcopy(base)
    for place, value in changes.items():
        target = result
        for step in place[:-1]:
            target = target[step]
        if value is REMOVE:
            del target[place[-1]]
        elif isinstance(target, list) and place[-1] == len(target):
            target.append(value)
        else:
            target[place[-1]] = value
    return result


def write_site(folder: Path, obs: Any = OBS, daq: Any = DAQ, data: Any = DATA) -> Path:
    """Write the three configs (JSON values, or text as it is) into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("obs", obs), ("daq", daq), ("data", data)):
        text = content if isinstance(content, str) else json.dumps(content, indent=2)
        (folder / f"{name}_config.json").write_text(text, encoding="utf-8")
    return folder
