"""Housekeeping on its way: boards -> (capture) -> Redis -> (HK recorder) -> hk.pff.

The two halves know nothing of each other; the record store lies between them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from panoseti.boards.addresses import boardloc, redis_key
from panoseti.boards.hk_socket import Datagram, HkSocket
from panoseti.boards.packets import (
    FOCUS_REPORT_TYPE,
    FocusReport,
    HkPacket,
    hk_record,
    parse_focus_report,
    parse_hk,
)
from panoseti.daemon import BoundedLog, Daemon
from panoseti.errors import ObsError, RefusedError
from panoseti.housekeeping.store import (
    BOOT_TIME_FIELD,
    TIME_FIELD,
    Record,
    StoreError,
    Value,
    boot_key,
    focus_key,
    focus_note,
)

logger = logging.getLogger(__name__)

RETRY_STORE_S = 1.0
HK_SEPARATOR = b"\n\n"
# Far more than a record ever has: how far back the end of the last whole record is looked for.
TAIL_BYTES = 1 << 20

Entry = tuple[str, dict[str, Value]]


@dataclass(frozen=True)
class Rejected:
    """A datagram that is not stored; kind: the word it is counted under."""

    kind: str
    text: str


def judge_datagram(datagram: Datagram, known: frozenset[int]) -> HkPacket | FocusReport | Rejected:
    """What a datagram of one of the boards `known` (BOARDLOCs) holds, or why it is of no use.

    The prefix of the source address is free: its low 10 bits must be the BOARDLOC.
    """
    source = boardloc(datagram.source_ip)
    if source not in known:
        return Rejected("unknown_source", f"{datagram.source_ip} is no board of this site")
    if datagram.data[:1] == bytes([FOCUS_REPORT_TYPE]):
        try:
            return parse_focus_report(datagram.data)
        except ValueError as error:
            return Rejected("malformed", f"{datagram.source_ip}: {error}")
    try:
        packet = parse_hk(datagram.data)
    except ValueError as error:
        return Rejected("malformed", f"{datagram.source_ip}: {error}")
    if packet.boardloc != source:
        return Rejected(
            "source_mismatch",
            f"{datagram.source_ip} sends BOARDLOC {packet.boardloc}, its address says {source}",
        )
    return packet


def entries(packet: HkPacket, utc_s: float) -> list[Entry]:
    """What a packet that arrived at Unix time `utc_s` leaves in the store."""
    record: dict[str, Value] = {TIME_FIELD: utc_s, **hk_record(packet)}
    found: list[Entry] = [(redis_key(packet.boardloc), record)]
    if packet.boot:
        note = {BOOT_TIME_FIELD: utc_s, "FWVER": record["FWVER"], "FWTIME": record["FWTIME"]}
        found.append((boot_key(packet.boardloc), note))
    return found


class HkCapture:
    """Takes datagrams, keeps what could not be stored yet, counts everything.

    put: stores entries in one round trip (raises StoreError).  heard: told of each good packet,
    with the address it came from and its Unix time.  counts: received, stored, boots, unstored
    (superseded by a newer packet of the same board while Redis was away) and one per kind of
    rejection.
    """

    def __init__(
        self,
        put: Callable[[Sequence[Entry]], None],
        known: Iterable[int],
        heard: Callable[[str, float, HkPacket], None] = lambda ip, utc_s, packet: None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.problem = ""
        self._put = put
        self._heard = heard
        self._known = frozenset(known)
        self._backlog: list[Entry] = []
        self._retry_at_s = 0.0
        self._log = BoundedLog()

    def take(self, datagrams: Iterable[Datagram]) -> None:
        """Judge what arrived; good packets wait for `store`."""
        for datagram in datagrams:
            self.counts["received"] += 1
            judged = judge_datagram(datagram, self._known)
            if isinstance(judged, HkPacket):
                if judged.boot:
                    self.counts["boots"] += 1
                    logger.info("%s: first packet after a boot", datagram.source_ip)
                self._backlog += entries(judged, datagram.utc_s)
                self._heard(datagram.source_ip, datagram.utc_s, judged)
            elif isinstance(judged, FocusReport):
                self.counts["focus_report"] += 1
                logger.info("focus stage of %s: %s", datagram.source_ip, judged)
                key = focus_key(boardloc(datagram.source_ip))
                self._backlog.append((key, focus_note(datagram.utc_s, judged)))
            else:
                self.counts[judged.kind] += 1
                kind = f"{judged.kind} {datagram.source_ip}"
                self._log.warning(kind, f"HK {judged.kind}: {judged.text}")

    def store(self, now_s: float) -> None:
        """Write what waits, in one round trip; after a failure again RETRY_STORE_S later.

        `now_s` is of a monotonic clock.
        """
        if not self._backlog or now_s < self._retry_at_s:
            self._compact()
            return
        try:
            self._put(self._backlog)
        except StoreError as error:
            if not self.problem:
                logger.error("%s; HK is kept, the latest of each board", error)
            self.problem = str(error)
            self._retry_at_s = now_s + RETRY_STORE_S
            self._compact()
            return
        if self.problem:
            logger.info("the store is back; %d packets were lost", self.counts["unstored"])
        self.problem = ""
        self.counts["stored"] += sum(1 for key, _ in self._backlog if not is_note(key))
        self._backlog = []

    def _compact(self) -> None:
        """Keep the latest entry of each key, so that an absent Redis costs bounded memory."""
        latest = dict(self._backlog)
        lost = [key for key, _ in self._backlog if not is_note(key)]
        self.counts["unstored"] += len(lost) - len(set(lost))
        self._backlog = list(latest.items())


def is_note(key: str) -> bool:
    """Whether the key is that of a note about a boot or a focus stage, not of a record."""
    return key.startswith((boot_key(0)[:-1], focus_key(0)[:-1]))


def hk_lines(key: str, record: Mapping[str, str]) -> bytes:
    """A record as it stands in hk.pff: one JSON object on one line, then an empty line."""
    return json.dumps({key: record}).encode() + HK_SEPARATOR


class HkFile:
    """hk.pff of a run: records are appended whole or not at all.

    A record that was cut short by a crash of an earlier recorder is removed on opening.
    Raises ObsError when the file cannot be opened, RefusedError when a recorder writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ObsError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._cut_torn_end()
        except BlockingIOError as error:
            os.close(self._fd)
            raise RefusedError(f"{path}: another HK recorder writes it; stop.py first") from error
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> HkFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, records: Sequence[bytes]) -> int:
        """How many of the records, from the first on, are in the file now.

        Fewer than all when the disk is full or fails; `problem` then says why.
        """
        start = os.fstat(self._fd).st_size
        written, self.problem = self._write(b"".join(records))
        whole = kept = 0
        for record in records:
            if kept + len(record) > written:
                break
            kept += len(record)
            whole += 1
        if kept < written:
            os.ftruncate(self._fd, start + kept)
        return whole

    def close(self) -> None:
        """Bring the file to the disk and close it."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            logger.error("%s: fsync: %s", self.path, error.strerror)
        os.close(self._fd)

    def _write(self, data: bytes) -> tuple[int, str]:
        done = 0
        while done < len(data):
            try:
                done += os.write(self._fd, data[done:])
            except OSError as error:
                return done, error.strerror or str(error)
        return done, ""

    def _cut_torn_end(self) -> None:
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, min(size, TAIL_BYTES), max(0, size - TAIL_BYTES))
        if not tail or tail.endswith(HK_SEPARATOR):
            return
        end = tail.rfind(HK_SEPARATOR)
        if end < 0 and size > TAIL_BYTES:
            raise ObsError(f"{self.path}: not a housekeeping file; move it away")
        keep = size - len(tail) + (end + len(HK_SEPARATOR) if end >= 0 else 0)
        logger.warning("%s: %d bytes of a torn record removed", self.path, size - keep)
        os.ftruncate(self._fd, keep)


class HkRecorder:
    """Copies every record that changed from the store to hk.pff; call `poll()` once a second.

    changed: `Store.changed_records`.  counts: written, unwritten (overwritten in the store by
    a newer one before the disk took it).
    """

    def __init__(
        self, file: HkFile, changed: Callable[[Mapping[str, str]], dict[str, Record]]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.problem = ""
        self._file = file
        self._changed = changed
        self._seen: dict[str, str] = {}
        self._waiting: dict[str, str] = {}

    def poll(self) -> None:
        """One look at the store; failures of store or disk are logged once and retried."""
        try:
            records = self._changed(self._seen)
        except StoreError as error:
            self._report(str(error))
            return
        # Computer_UTC leads, as in all recordings; Redis keeps the order of short hashes only.
        texts = {
            key: hk_lines(key, {TIME_FIELD: record[TIME_FIELD], **record})
            for key, record in records.items()
        }
        whole = self._file.append(list(texts.values()))
        for key in list(records)[:whole]:
            self._seen[key] = records[key][TIME_FIELD]
        self.counts["written"] += whole
        waiting = {key: records[key][TIME_FIELD] for key in list(records)[whole:]}
        self.counts["unwritten"] += sum(
            1 for key, time in self._waiting.items() if records.get(key, {}).get(TIME_FIELD) != time
        )
        self._waiting = waiting
        self._report(f"{self._file.path}: {self._file.problem}" if waiting else "")

    def _report(self, problem: str) -> None:
        if problem and not self.problem:
            logger.error("%s; no HK is recorded until that is mended", problem)
        elif self.problem and not problem:
            logger.info("HK is recorded again")
        self.problem = problem


def capture_loop(
    daemon: Daemon,
    opened: HkSocket,
    capture: HkCapture,
    look: Callable[[], list[str]] = lambda: [],
) -> None:
    """Capture until the daemon is asked to end; beats every `daemon.interval_s`.

    look: called before each beat; gives the boards that are switched off since nobody keeps them.
    """
    logger.info("listening on %s", " ".join(opened.addresses))
    beat_at_s = 0.0
    while True:
        now_s = time.monotonic()
        capture.store(now_s)
        if now_s >= beat_at_s:
            unkept = look()
            state = "store unreachable" if capture.problem else "ok"
            daemon.beat(state, problem=capture.problem, unkept_hv=unkept, **capture.counts)
            beat_at_s = now_s + daemon.interval_s
        if daemon.stop.is_set():
            return
        capture.take(opened.receive(beat_at_s - now_s, wake=daemon.stop))


def record_loop(daemon: Daemon, recorder: HkRecorder, run: str) -> None:
    """Record once per `daemon.interval_s`, and a last time when asked to end."""
    next_s = time.monotonic()
    while True:
        ending = daemon.stop.is_set()
        recorder.poll()
        state = "not recording" if recorder.problem else "ok"
        daemon.beat(state, run=run, problem=recorder.problem, **recorder.counts)
        if ending:
            return
        # From the planned time on, so that rounds do not drift; never two rounds in a rush.
        next_s = max(next_s + daemon.interval_s, time.monotonic())
        daemon.stop.wait(next_s - time.monotonic())
