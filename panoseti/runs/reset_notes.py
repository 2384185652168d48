"""Boards whose packet numbers begin anew within a run: noted as booted, for the next bring-up.

The pipeline counts such resets by stream.  A board that reboots begins to count at 0; who resets
the counter by hand (qc.py R), or loses half of all numbers at once, looks the same, and is taken
for a boot as well: settings loaded once more cost seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from panoseti.boards.addresses import QUABOS_PER_MODULE
from panoseti.configs.site import ObsConfig
from panoseti.errors import ObsError
from panoseti.housekeeping.store import Store
from panoseti.nodes.node_types import Pipeline
from panoseti.runs.watch_facts import NodeLook

logger = logging.getLogger(__name__)

Stream = tuple[int, int, int]


class ResetNotes:
    """What the looks at one run show.

    note: takes BOARDLOC, a Unix time before and one after the boot (raises ObsError).
    """

    def __init__(self, note: Callable[[int, float, float], object]) -> None:
        self._note = note
        self._counts: dict[tuple[str, float], dict[Stream, int]] = {}
        self._seen_unix: dict[str, float] = {}
        self._waiting: dict[int, tuple[float, float]] = {}

    @classmethod
    def in_redis(cls, obs: ObsConfig) -> ResetNotes:
        """Notes where the bring-up looks for them."""

        def note(boardloc: int, before_unix: float, after_unix: float) -> None:
            with Store(obs.redis_host, obs.redis_port) as store:
                if store.infer_boot(boardloc, before_unix, after_unix):
                    logger.warning("QUABO_%d: its packet numbers began anew: booted", boardloc)

        return cls(note)

    def look(self, nodes: Mapping[str, NodeLook]) -> None:
        """Take in one look, and note what it shows; what cannot be noted is tried again."""
        for node, found in nodes.items():
            if found.status is not None and found.status.pipeline is not None:
                self._take(node, found.status.pipeline)
        for boardloc, (before_unix, after_unix) in list(self._waiting.items()):
            try:
                self._note(boardloc, before_unix, after_unix)
            except ObsError as error:
                logger.warning("that a board has booted is not noted yet: %s", error)
                return
            del self._waiting[boardloc]

    def _take(self, node: str, pipeline: Pipeline) -> None:
        """A pipeline that was started again counts anew."""
        counts = self._counts.setdefault((node, pipeline.start_time_unix), {})
        before_unix = self._seen_unix.get(node, pipeline.start_time_unix)
        for stream in pipeline.quabos:
            key = (stream.module, stream.quabo, stream.mode)
            if stream.resets > counts.get(key, 0):
                counts[key] = stream.resets
                boardloc = stream.module * QUABOS_PER_MODULE + stream.quabo
                self._waiting[boardloc] = (before_unix, pipeline.updated_unix)
        self._seen_unix[node] = pipeline.updated_unix
