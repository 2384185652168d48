"""When data of a board count as recorded: its packets, growing files, threads that are alive."""

from __future__ import annotations

import re
from typing import Any

import pytest

from panoseti.configs.site import DaqNode, Quabo
from panoseti.nodes.daq_nodes import NodeOutcome
from panoseti.nodes.node_documents import node_status
from panoseti.nodes.node_types import NodeStatus
from panoseti.runs.data_arrival import Arrival, why_not_recording

NODE = DaqNode("127.0.0.1", "obs", "/data", (1,))
BOARD = Quabo("192.168.0.5", 1, 5, 1)
THREADS = dict.fromkeys(("net_thread", "compute_thread", "output_thread"), "running")


def status(size: int, mode: int = 2, product: str = "img16", **pipeline: Any) -> NodeStatus:
    """A node that records module 1, whose file has this size."""
    names = ("received", "recorded", "lost", "duplicate", "late", "unwritten", "reordered",
             "resets", "last_packet_unix")  # fmt: skip
    counts = {"module": 1, "quabo": 1, "mode": mode, **dict.fromkeys(names, 5)}
    said = {"pid": 7, "state": "running", "run": "r", "start_time_unix": 0.0, "updated_unix": 0.0,
            "socket_open": True, "totals": {}, "quabos": [counts], "rejected": [], "products": [],
            "errors": [], "threads": THREADS, **pipeline}  # fmt: skip
    file = {"module": 1, "name": "f", "product": product, "seqno": 0, "bytes": size,
            "bytes_per_s": 0.0}  # fmt: skip
    return node_status(
        {"host": "h", "boot_id": "b", "running": True, "run": "r", "owner": "t", "helpers": "",
         "started_by": "ann@head[1]", "started_unix": 0.0, "pid": 7, "processes": [],
         "pipeline": said, "files": [file] if size else [], "volumes": [], "problems": [],
         "time_unix": 0.0}, 0.0, 0.0,
    )  # fmt: skip


def test_images_count_when_the_file_was_seen_to_grow() -> None:
    arrival = Arrival(images=True)
    for size in (0, 4096, 4096):
        arrival.see(status(size))
        assert not arrival.has(BOARD), "what is not empty need not grow"
    arrival.see(status(8192, product="ph256"))
    assert not arrival.has(BOARD), "pulse heights are no images"
    arrival.see(status(8192))
    assert arrival.has(BOARD) and not arrival.has(Quabo("192.168.0.6", 2, 6, 1))


def test_pulse_heights_count_when_the_file_is_not_empty_any_more() -> None:
    arrival = Arrival(images=False)
    arrival.see(status(0, mode=1))
    assert not arrival.has(BOARD)
    arrival.see(status(1040, mode=1, product="ph256"))
    assert arrival.has(BOARD)


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ({"threads": {**THREADS, "output_thread": "ended"}, "errors": ["disk on fire"]},
         r"^127.0.0.1: .*output_thread not at work \(disk on fire\)$"),
        ({"threads": {}}, "net_thread; compute_thread; output_thread"),
        ({"socket_open": False}, "its socket not at work"),
    ],
)  # fmt: skip
def test_all_threads_must_be_alive(pipeline: dict[str, Any], words: str) -> None:
    assert why_not_recording(NodeOutcome(NODE, status(1), None), "t") == ""
    why = why_not_recording(NodeOutcome(NODE, status(1, **pipeline), None), "t")
    assert re.search(words, why), why
