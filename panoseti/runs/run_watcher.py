"""The watcher of a run: looks every two seconds, tells what is wrong, and acts by the policy.

What it finds and does goes to `<run>/watcher.jsonl`, to the alarms, and into the snapshot that
status.py reads.  `run_watch` judges; here is what is looked at, and what is done:

- a pipeline that died is restarted into the next files of the run, or the run is stopped, or goes
  on without (`run_policy` in obs_config.json)
- the run is ended, by stop.py, before a disk is full, and at its planned end when the start.py that
  should do it is gone
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from panoseti.boards.addresses import redis_key
from panoseti.bringup import session
from panoseti.configs import settings
from panoseti.configs.load_configs import Site
from panoseti.configs.site import DaqNode, OnDeadPipeline
from panoseti.daemon import Daemon
from panoseti.flight import FlightRecorder
from panoseti.high_voltage.alarms import Alarms
from panoseti.high_voltage.supervision import Partner
from panoseti.housekeeping.store import TIME_FIELD, Store
from panoseti.nodes import daq_nodes
from panoseti.nodes.daq_nodes import NodeShells
from panoseti.nodes.node_types import NodeStatus
from panoseti.nodes.remote import Shell
from panoseti.poller import Poller
from panoseti.runs import activities, run_state
from panoseti.runs.collect_progress import read_progress
from panoseti.runs.reset_notes import ResetNotes
from panoseti.runs.run_order import order_of
from panoseti.runs.run_record import read_record
from panoseti.runs.run_restarts import Restarts
from panoseti.runs.run_snapshot import node_document, snapshot_path, write_snapshot
from panoseti.runs.run_state import Holder, StateError, read_holder, run_dir
from panoseti.runs.run_watch import RunWatch
from panoseti.runs.stop_in_background import StopInBackground
from panoseti.runs.watch_facts import Finding, Judgement, Kind, Look, NodeLook, Watched
from panoseti.runs.watch_log import Entry, What, write_entry

logger = logging.getLogger(__name__)

NAME = activities.RUN_WATCHER
INTERVAL_S = 2.0
ASK_TIMEOUT_S = 5.0
HK_INTERVAL_S = 2.0
# Older runs are not being collected any more.
RUNS_LOOKED_AT = 200
# A start.py that lives ends its run itself; one that hangs does not.
HANGS_S = 60.0
_OWNER_PID = re.compile(r"\[(\d+)\]$")


@dataclass(frozen=True)
class NodeAnswer:
    """An answer of a node, and when it was asked and answered."""

    status: NodeStatus
    asked_unix: float
    answered_unix: float


class RunWatcher:
    """Watches one run, from the moment it records until it is over; close it in the end."""

    def __init__(
        self,
        site: Site,
        data_dir: Path,
        holder: Holder,
        alarms: Alarms,
        flight: FlightRecorder,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._site = site
        self._data_dir = data_dir
        self._holder = holder
        self._run_dir = run_dir(data_dir, holder.run)
        self._alarms = alarms
        self._flight = flight
        self._interval_s = interval_s
        self._document: dict[str, Any] = {}
        self._end_s: float | None = None
        self._asking: NodeShells | None = None
        self._acting: NodeShells | None = None
        self._pollers: dict[str, Poller[NodeAnswer]] = {}
        self._hk: Poller[dict[str, float]] | None = None
        self._daemons: list[Partner] = []
        self._watch: RunWatch | None = None
        self._restarts: Restarts | None = None
        self._resets = ResetNotes.in_redis(site.obs)
        self._stop_run = StopInBackground(
            site.command_dir.resolve(), data_dir, holder.run, NAME, flight
        )
        self._standing: dict[tuple[Kind, str], Finding] = {}
        self._nothing_records = 0
        self._ending = False
        self._log_failed = self._snapshot_failed = False

    # --- the life of a watch ---

    def watch(self, daemon: Daemon) -> None:
        """Look until the run is over or the daemon is asked to end."""
        next_s = time.monotonic()
        why = "told to end"
        while not daemon.stop.is_set():
            if not self._in_progress():
                why = "the run is over"
                break
            findings = self.step()
            daemon.beat("ok", run=self._holder.run, findings=findings)
            next_s = max(next_s + self._interval_s, time.monotonic())
            daemon.stop.wait(next_s - time.monotonic())
        self.close(why)

    def close(self, why: str) -> None:
        """End the watch: what stood as an alarm does no longer, but was never mended."""
        for kind in (*Kind, "stop_failed"):
            self._alarms.hold_only(kind, {})
        if self._watch is not None:
            self._note(What.END, "watch", self._holder.run, why)
        for poller in (*self._pollers.values(), self._hk):
            if poller is not None:
                poller.close()
        for shells in (self._asking, self._acting):
            if shells is not None:
                shells.close()
        snapshot_path(self._data_dir).unlink(missing_ok=True)

    def _in_progress(self) -> bool:
        try:
            holder = read_holder(self._data_dir)
        except StateError:
            return True  # whatever happened to the file: the run goes on
        return holder is not None and holder.token == self._holder.token

    def step(self) -> list[str]:
        """One look, and what follows from it; what is wrong, in words."""
        if self._watch is None or self._restarts is None:
            self._begin_when_recording()
            self._snapshot("waiting", Judgement())
            return []
        look = self._look()
        judgement = self._watch.judge(look)
        if self._hk is not None:
            self._resets.look(look.nodes)
        self._report(judgement.findings)
        self._restarts.look(time.monotonic())
        failure = self._failed_stop()
        self._act(judgement, self._restarts)
        self._snapshot("alarm" if judgement.findings else "ok", judgement)
        return [*(finding.text for finding in judgement.findings), *([failure] if failure else [])]

    def _begin_when_recording(self) -> None:
        """Begin when the start has succeeded: only then all that is missing is wrong."""
        try:
            document = read_record(self._run_dir).document
        except (OSError, StateError):
            return
        if document.get("recording_unix") is None:
            return
        self._document = document
        end_unix = document.get("planned_end_unix")
        if end_unix is not None:  # from now on whatever becomes of the clock
            self._end_s = time.monotonic() + end_unix - time.time()
        expected: Mapping[str, list[int]] = document["expected"]["nodes"]
        nodes = {node.ip_addr: node for node in self._site.nodes_in_use()}
        known = {ip: nodes[ip] for ip in expected if ip in nodes}
        # The questions, two lines a second and node, would fill the flight recorder.
        self._asking = asking = NodeShells(known.values(), self._site.obs)
        self._acting = acting = NodeShells(known.values(), self._site.obs, self._flight)
        self._pollers = {ip: self._node_poller(asking[node]) for ip, node in known.items()}
        modules = {ip: tuple(expected[ip]) for ip in known}
        self._expect_daemons()
        self._watch = RunWatch(self._watched(modules, known))
        self._restarts = Restarts(
            {ip: acting[node] for ip, node in known.items()},
            {ip: order_of(self._site, self._holder, modules[ip]) for ip in known},
            self._site.obs.run_policy.restarts_at_most,
            self._tell_act,
        )
        self._note(What.BEGIN, "watch", self._holder.run, f"every {self._interval_s:g} s")

    def _watched(
        self, modules: Mapping[str, tuple[int, ...]], nodes: Mapping[str, DaqNode]
    ) -> Watched:
        obs, data = self._site.obs, self._site.data
        known = {quabo.ip: quabo for quabo in obs.quabos}
        boards = self._document["expected"]["quabos"]
        return Watched(
            boards=tuple(known[ip] for ip in boards if ip in known),
            modules=modules,
            token=self._holder.token,
            images=data.image is not None,
            any_trigger=data.pulse_height is not None and data.pulse_height.any_trigger,
            rate_bytes_s=settings.data_rate_bytes_s(data),
            hk_rate_bytes_s=settings.HK_BYTES_S * len(obs.modules),
            local=frozenset(ip for ip, node in nodes.items() if self._site.is_on_head_node(node)),
            hk=self._hk is not None,
            hk_max_age_s=obs.hk_max_age_s,
            max_loss=obs.run_policy.max_loss,
            min_left_s=obs.min_hours_left * 3600,
        )

    # --- looking ---

    def _node_poller(self, shell: Shell) -> Poller[NodeAnswer]:
        def ask() -> NodeAnswer:
            asked_unix = time.time()
            status = daq_nodes.status(shell, timeout_s=ASK_TIMEOUT_S)
            return NodeAnswer(status, asked_unix, time.time())

        return Poller(f"ask {shell.node.ip_addr}", ask, self._interval_s)

    def _expect_daemons(self) -> None:
        """Those that work now are to go on; with an HK recorder there is housekeeping."""
        names = [activities.HK_RECORDER, *session.SESSION_DAEMONS]
        works = [name for name in names if session.state(name, self._data_dir).works]
        self._daemons = [Partner(name, self._data_dir) for name in works]
        if activities.HK_RECORDER in works:
            self._hk = Poller("ask Redis", self._hk_times, HK_INTERVAL_S)

    def _hk_times(self) -> dict[str, float]:
        """When the last housekeeping of each board came."""
        keys = {redis_key(quabo.boardloc): quabo.ip for quabo in self._site.obs.quabos}
        with Store(self._site.obs.redis_host, self._site.obs.redis_port) as store:
            records = store.get_records(keys)
        found = {}
        for key, record in records.items():
            try:
                found[keys[key]] = float(record[TIME_FIELD])
            except (KeyError, ValueError):
                continue
        return found

    def _look(self) -> Look:
        now_s = time.monotonic()
        nodes = {}
        for ip, poller in self._pollers.items():
            last = poller.last
            status = last.value.status if last.value else None
            nodes[ip] = NodeLook(status, last.answered_s, last.problem)
        lives = [(partner.name, partner.look(now_s)) for partner in self._daemons]
        hk_unix: Mapping[str, float] | None = {}
        problem = ""
        if self._hk is not None:
            last_hk = self._hk.last
            problem = last_hk.problem
            waiting = last_hk.value is None and not problem
            hk_unix = {} if waiting else None if problem else last_hk.value
        return Look(
            now_s=now_s,
            now_unix=time.time(),
            nodes=nodes,
            head_free_bytes=self._head_free(),
            coming_bytes=still_to_come(self._data_dir),
            hk_unix=hk_unix,
            hk_problem=problem,
            daemons={name: life.why for name, life in lives if life.alive is False},
        )

    def _head_free(self) -> int | None:
        try:
            return shutil.disk_usage(self._data_dir).free
        except OSError:
            return None

    # --- telling ---

    def _note(
        self,
        what: What,
        kind: str,
        subject: str,
        text: str,
        boards: tuple[str, ...] = (),
        since_unix: float | None = None,
    ) -> None:
        """Into the run's own log; a disk that is full keeps nothing from being done."""
        try:
            entry = Entry(time.time(), what, kind, subject, text, boards, since_unix)
            write_entry(self._run_dir, entry)
            self._log_failed = False
        except OSError as error:
            if not self._log_failed:
                logger.error("cannot write the watcher's log: %s", error.strerror)
            self._log_failed = True

    def _report(self, findings: tuple[Finding, ...]) -> None:
        now = {(finding.kind, finding.subject): finding for finding in findings}
        for kind in Kind:
            held = {subject: one.text for (of, subject), one in now.items() if of is kind}
            self._alarms.hold_only(kind, held)
        for key, old in self._standing.items():
            if key not in now or now[key].boards != old.boards:
                self._note(What.CLEARED, old.kind, old.subject, old.text, old.boards)
        for key, new in now.items():
            old_one = self._standing.get(key)
            if old_one is None or old_one.boards != new.boards:
                since = new.since_unix
                self._note(What.RAISED, new.kind, new.subject, new.text, new.boards, since)
        self._standing = now

    def _tell_act(self, kind: str, subject: str, text: str) -> None:
        self._alarms.tell(kind, text, subject)
        self._flight.note("watcher", kind=kind, subject=subject, text=text)
        self._note(What.ACT, kind, subject, text)

    def _snapshot(self, state: str, judgement: Judgement) -> None:
        silent = {one.subject: one.text for one in judgement.findings if one.kind is Kind.NODE}
        nodes = {}
        for ip, poller in self._pollers.items():
            answer = poller.last.value
            problem = silent.get(ip, "").removeprefix(f"{ip}: ")
            if answer is None:
                if problem:
                    nodes[ip] = node_document(None, 0.0, 0.0, problem)
                continue
            status = None if problem else answer.status
            nodes[ip] = node_document(status, answer.asked_unix, answer.answered_unix, problem)
        document = {
            "run": self._holder.run,
            "time_unix": time.time(),
            "state": state,
            "findings": [finding.text for finding in judgement.findings],
            "volumes": [str(volume) for volume in judgement.volumes],
            "restarts": {} if self._restarts is None else self._restarts.counts,
            "nodes": nodes,
        }
        try:
            write_snapshot(self._data_dir, document)
            self._snapshot_failed = False
        except OSError as error:
            if not self._snapshot_failed:
                logger.error("cannot write the snapshot: %s", error.strerror)
            self._snapshot_failed = True

    # --- acting ---

    def _act(self, judgement: Judgement, restarts: Restarts) -> None:
        if judgement.end_because:
            self._end_run(f"before a disk is full: {judgement.end_because}")
        elif end := self._past_its_end():
            self._end_run(end)
        else:
            self._act_on_pipelines(judgement, restarts)

    def _act_on_pipelines(self, judgement: Judgement, restarts: Restarts) -> None:
        policy = self._site.obs.run_policy.on_dead_pipeline
        broken = (*judgement.dead, *judgement.hung)
        lost = broken
        if policy is OnDeadPipeline.RESTART:
            now_s = time.monotonic()
            for node in broken:
                restarts.want(node, node in judgement.hung, now_s)
            lost = tuple(node for node in broken if restarts.given_up(node, now_s))
        elif policy is OnDeadPipeline.STOP and (broken or judgement.silent):
            texts = [one.text for one in judgement.findings
                     if one.kind in (Kind.PIPELINE, Kind.HUNG, Kind.NODE)]  # fmt: skip
            self._end_run("; ".join(texts))
            return
        # With nobody left that records there is nothing to go on with.
        all_lost = bool(self._pollers) and set(lost) == set(self._pollers)
        self._nothing_records = self._nothing_records + 1 if all_lost else 0
        if self._nothing_records > 1:
            self._end_run("nothing records any more")

    def _past_its_end(self) -> str:
        """Why a run with a planned end should be ended by us; "" = it should not."""
        late_s = 0.0 if self._end_s is None else time.monotonic() - self._end_s
        if late_s <= 0:
            return ""
        if not start_lives(self._holder):
            return "its time is over, and the start.py that should stop it is gone"
        return "its time is over, and start.py does not stop it" if late_s > HANGS_S else ""

    def _end_run(self, why: str) -> None:
        if self._stop_run(why) and not self._ending:
            self._ending = True  # another try is nothing new
            self._tell_act("run_ended", self._holder.run, f"the run is being ended: {why}")

    def _failed_stop(self) -> str:
        """Tell, once, that the run goes on though it should end; why, "" = it does not."""
        self._stop_run.look()
        failure = self._stop_run.failure
        text = f"the run goes on, to end it is tried again every minute: {failure}"
        self._alarms.hold("stop_failed", self._holder.run, text if failure else "")
        return text if failure else ""


def still_to_come(data_dir: Path) -> int:
    """Bytes that the collections at work at this moment are still to bring."""
    coming = 0
    for run in run_state.runs(data_dir)[-RUNS_LOOKED_AT:]:
        folder = run_dir(data_dir, run)
        progress = read_progress(folder)
        with suppress(OSError):  # the folder may go at any time
            if progress is not None and run_state.collector_pid(folder) is not None:
                coming += progress.total_bytes - progress.come_bytes
    return coming


def start_lives(holder: Holder) -> bool:
    """Whether the start.py that began the run, as user@host[pid], still runs."""
    match = _OWNER_PID.search(holder.owner)
    if match is None or holder.since_unix is None:
        return False
    try:
        process = psutil.Process(int(match[1]))
        older = process.create_time() <= holder.since_unix + 1
        return bool(older and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def holder_of(data_dir: Path, run: str) -> Holder:
    """Whose the run in progress is; StateError when that is another run, or none."""
    holder = read_holder(data_dir)
    if holder is None or holder.run != run:
        raise StateError(f"{run} is not the run in progress: nothing to watch")
    return holder
