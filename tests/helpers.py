"""What many tests share: where things are, and waiting on conditions."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

REPO = Path(__file__).resolve().parent.parent
GOLDEN = REPO / "tests" / "golden"
T = TypeVar("T")


def golden(name: str) -> dict[str, Any]:
    """The golden vectors `name`.json."""
    data: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return data


def spec_data() -> Path:
    """Folder of real site and calibration data; skips the test where it is absent."""
    place = Path(os.environ.get("PANOSETI_SPEC_DATA", REPO.parent / "shared" / "spec" / "data"))
    if not place.is_dir():
        pytest.skip(f"real site data not found in {place} (set PANOSETI_SPEC_DATA)")
    return place


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """Poll `condition` until it is truthy, return its value; fail naming `what` at the time-out."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.02)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody holds at this moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pypff_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What pypff skipped with a logged warning, as it does with what it does not accept."""
    warnings = [record for record in caplog.records if record.name.startswith("pypff")]
    return [record.getMessage() for record in warnings]
