"""No test run beside a recording, and nothing left running after the tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

# Fixtures that several files share, each defined beside what it yields.  A file's own goes first.
from tests.faulty_nodes import built_nodes as built_nodes
from tests.faulty_nodes import faults as faults
from tests.faulty_site import built_site as built_site
from tests.faulty_site import site as site
from tests.ready_observatory import look as look
from tests.ready_observatory import ready as ready
from tests.typed_site import built_obs as built_obs
from tests.typed_site import obs as obs

PROGRAMS = ("hashpipe", "redis-server", "packet_source")
SCRIPTS = (
    "store_redis_data.py",
    "capture_hk.py",
    "hv_updater.py",
    "temperature_guard.py",
    "run_watcher.py",
)

# The files that take longest, longest first.  Workers side by side take file after file: one
# that begins such a file last keeps the others waiting.  (pytest --durations=0 tells the times.)
LONGEST = (
    "test_start_stop",
    "test_start_faults",
    "test_topologies",
    "test_pipeline",
    "test_daq_helpers",
    "test_kill_points",
    "test_night",
    "test_run_watcher",
    "test_config_tasks",
    "test_collect",
    "test_threshold_scan",
    "test_start_owner",
    "test_run_files",
    "test_config_py",
    "test_qc",
    "test_standing",
    "test_module_devices",
)

# The same examples every time and no clock, so that a busy computer fails nothing.  To look
# further: pytest --hypothesis-profile=explore
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _ours_to_see(names: tuple[str, ...], scripts: tuple[str, ...]) -> list[psutil.Process]:
    """Processes of these names in our own pid namespace (not those of test hosts)."""
    here = _namespace(os.getpid())
    found = []
    for process in psutil.process_iter(["name", "cmdline", "create_time", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue  # ended; only nobody has asked how
        words = [Path(word).name for word in process.info["cmdline"] or ()]
        known = process.info["name"] in names or any(script in words for script in scripts)
        if known and _namespace(process.pid) == here:
            found.append(process)
    return found


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to begin while something records here: tests start and stop such programs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it puts in the background so; programs under test would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # So does nohup.  The tests themselves still take no notice of it.
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    for process in _ours_to_see(("hashpipe",), SCRIPTS[:1]):
        pytest.exit(
            f"{process.info['name']} (pid {process.pid}) is running; the tests would disturb it,"
            " or it them: end it first (stop.py)",
            returncode=3,
        )


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail when a program that a test started outlives the tests."""
    begin = time.time()
    yield
    left = [
        f"{process.info['name']} (pid {process.pid}): {' '.join(process.info['cmdline'] or ())}"
        for process in _ours_to_see(PROGRAMS, SCRIPTS)
        if process.info["create_time"] >= begin - 1
    ]
    assert not left, "left running by a test:\n" + "\n".join(left)
