"""The record store: Redis on the head node, one hash per record.  The only user of redis.

A record is one hash of database 0.  Its fields are those of `packets.hk_record` and others
like it; every value is kept as text.  Two kinds of hash exist:

- records: they have the field `Computer_UTC` (Unix time, seconds, when the computer received
  them) and the HK recorder copies them to hk.pff whenever that field changes:
  `QUABO_<BOARDLOC>`, `WRSWITCH`, `GPSPRIM`, `WPS_<X>`, ...
- notes, without `Computer_UTC`, which the HK recorder leaves alone.  There are two:
  `BOOT_<BOARDLOC>` with the fields `BootUTC` (Unix time, seconds, at which the last HK packet
  with the boot byte arrived), `FWVER` and `FWTIME` (what that packet said).  It is there
  because `StartUp` of `QUABO_<BOARDLOC>` is 1 only until the next HK packet, seconds later.
  Who finds out in another way that a board has booted, its boot packet lost, notes it as well.
  `FOCUS_<BOARDLOC>` with the last report of a focus stage: `FocusUTC`, `start`, `moved`,
  `final`, `status`.

To see a reboot while capture_hk holds the HK port: remember the time before the reboot
command, then poll `boot_note(boardloc)` until `utc_s` is later than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from panoseti.boards.addresses import redis_key
from panoseti.boards.packets import TIME_FIELD, FocusReport
from panoseti.errors import ObsError

Value = str | int | float
Record = dict[str, str]

BOOT_TIME_FIELD = "BootUTC"
FOCUS_TIME_FIELD = "FocusUTC"
_SCAN_COUNT = 2000
# Who infers a boot may go by the clock of a DAQ node; the note is by that of the head node.
_CLOCKS_DIFFER_S = 30.0


class StoreError(ObsError):
    """Redis is not reachable, does not answer in time, or refuses a request."""


@dataclass(frozen=True)
class BootNote:
    """The last boot a quabo announced by its HK packet (`utc_s`: Unix time of its arrival)."""

    utc_s: float
    firmware_version: str
    firmware_time: str


def boot_key(boardloc: int) -> str:
    """Key of the note about a quabo's last boot."""
    return f"BOOT_{boardloc}"


@dataclass(frozen=True)
class FocusNote:
    """The last report of a focus stage (`utc_s`: Unix time of its arrival)."""

    utc_s: float
    report: FocusReport


def focus_key(boardloc: int) -> str:
    """Key of the note about what a quabo's focus stage did last."""
    return f"FOCUS_{boardloc}"


def focus_note(utc_s: float, report: FocusReport) -> dict[str, Value]:
    """The fields of such a note."""
    return {FOCUS_TIME_FIELD: utc_s, **asdict(report)}


class Store:
    """One connection to the record store, opened when first used and again after a failure.

    Every method raises StoreError (an ObsError, one line with host:port and what to do) when
    Redis cannot be reached or does not answer within `timeout_s`; the object stays usable and
    the next call tries again.  Not for several threads at once.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 6379, timeout_s: float = 1.0) -> None:
        self.host = host
        self.port = port
        # One retry without a pause: it only mends the stale connection after a restart of Redis.
        self._redis: Any = redis.Redis(
            host=host,
            port=port,
            db=0,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),
            protocol=2,
            decode_responses=True,
            encoding_errors="backslashreplace",
        )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def ping(self) -> None:
        """Raise StoreError unless Redis answers."""
        self._guarded(self._redis.ping)

    def put_record(self, key: str, fields: Mapping[str, Value]) -> None:
        """Write all fields of one record in one round trip; other readers see all or none.

        Raises TypeError for a value that is neither text nor number (bool and None included).
        """
        self.put_records([(key, fields)])

    def put_records(self, records: Iterable[tuple[str, Mapping[str, Value]]]) -> None:
        """Write many records, in their order, in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for key, fields in records:
            pipe.hset(key, mapping={name: _text(name, value) for name, value in fields.items()})
        self._guarded(pipe.execute)

    def get_record(self, key: str) -> Record:
        """The fields of one record as text; empty when there is no such record."""
        record: Record = self._guarded(lambda: self._redis.hgetall(key))
        return record

    def get_records(
        self, keys: Iterable[str], fields: Iterable[str] | None = None
    ) -> dict[str, Record]:
        """Those of the records that exist, in one round trip.

        fields: only these (a quarter of the time for the few that matter); None = all.
        """
        wanted, names = list(keys), None if fields is None else list(fields)
        pipe = self._redis.pipeline(transaction=False)
        for key in wanted:
            if names is None:
                pipe.hgetall(key)
            else:
                pipe.hmget(key, names)
        found = self._guarded(pipe.execute)
        if names is not None:
            rows = [zip(names, values, strict=True) for values in found]
            found = [{name: text for name, text in row if text is not None} for row in rows]
        return {key: record for key, record in zip(wanted, found, strict=True) if record}

    def records(self) -> dict[str, Record]:
        """Every hash of the store, sorted by key, in a few round trips."""
        return self.get_records(self._keys())

    def changed_records(self, seen: Mapping[str, str]) -> dict[str, Record]:
        """The records whose Computer_UTC is not the one in `seen` (key -> Computer_UTC as text).

        Sorted by key; hashes without Computer_UTC are left out.  A few round trips, and only
        what changed is transferred.
        """
        keys = self._keys()
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.hget(key, TIME_FIELD)
        times = self._guarded(pipe.execute)
        changed = [
            key
            for key, time in zip(keys, times, strict=True)
            if time is not None and seen.get(key) != time
        ]
        return {k: r for k, r in self.get_records(changed).items() if TIME_FIELD in r}

    def delete(self, *keys: str) -> None:
        """Remove records; absent ones are no error."""
        if keys:
            self._guarded(lambda: self._redis.delete(*keys))

    def boot_note(self, boardloc: int) -> BootNote | None:
        """When the quabo last announced a boot; None when it never did since Redis was emptied."""
        return self.boot_notes([boardloc]).get(boardloc)

    def boot_notes(self, boardlocs: Iterable[int]) -> dict[int, BootNote]:
        """The boot notes of those quabos that have one, in one round trip."""
        by_key = {boot_key(boardloc): boardloc for boardloc in boardlocs}
        found = self.get_records(by_key)
        return {by_key[key]: self._boot_note(key, fields) for key, fields in found.items()}

    def infer_boot(self, boardloc: int, after_utc_s: float, utc_s: float) -> bool:
        """Note a boot that something else than a boot packet has shown; whether it is news.

        It happened after `after_utc_s` and was seen at `utc_s` (Unix times): a boot that is noted
        since then is that one.  One noted for later is from before the clock was set back.
        """
        known = self.boot_note(boardloc)
        if known is not None and after_utc_s <= known.utc_s <= utc_s + _CLOCKS_DIFFER_S:
            return False
        record = self.get_record(redis_key(boardloc))
        said = {name: record.get(name, "") for name in ("FWVER", "FWTIME")}
        self.put_record(boot_key(boardloc), {BOOT_TIME_FIELD: utc_s, **said})
        return True

    def _boot_note(self, key: str, note: Record) -> BootNote:
        try:
            utc_s = float(note[BOOT_TIME_FIELD])
        except (KeyError, ValueError) as error:
            raise StoreError(
                f"redis {self.host}:{self.port}: {key} holds {note}, which is no"
                f" boot note; remove it: redis-cli -p {self.port} DEL {key}"
            ) from error
        return BootNote(utc_s, note.get("FWVER", ""), note.get("FWTIME", ""))

    def focus_notes(self, boardlocs: Iterable[int]) -> dict[int, FocusNote]:
        """What the focus stages of those quabos have last reported, in one round trip."""
        by_key = {focus_key(boardloc): boardloc for boardloc in boardlocs}
        names = list(FocusReport.__dataclass_fields__)
        found = {}
        for key, note in self.get_records(by_key).items():
            try:
                report = FocusReport(*(int(note[name]) for name in names))
                found[by_key[key]] = FocusNote(float(note[FOCUS_TIME_FIELD]), report)
            except (KeyError, ValueError):
                continue  # it says nothing, as if there were none
        return found

    def _keys(self) -> list[str]:
        scan = self._redis.scan_iter
        # A scan may give a key twice while the table grows.
        return self._guarded(lambda: sorted(set(scan(count=_SCAN_COUNT, _type="HASH"))))

    def _guarded(self, request: Any) -> Any:
        """The answer to `request()`, the library's failures as StoreError."""
        try:
            return request()
        except redis.TimeoutError as error:
            raise StoreError(
                f"redis {self.host}:{self.port} does not answer in time; is it overloaded or"
                f" stopped? Look with: redis-cli -h {self.host} -p {self.port} ping"
            ) from error
        except redis.ConnectionError as error:
            raise StoreError(
                f"redis {self.host}:{self.port} is not reachable ({error}); start it, or correct"
                " redis_host and redis_port in obs_config.json"
            ) from error
        except redis.RedisError as error:
            raise StoreError(f"redis {self.host}:{self.port} refused a request: {error}") from error


def _text(name: str, value: Value) -> str:
    """The text form a value is stored in: shortest decimals that give back the same float."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"field {name}: {value!r} is neither text nor number")
    return str(value)
