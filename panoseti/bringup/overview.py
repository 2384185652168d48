"""The boards of a site in one table: what they are, what they say, what they lack."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from panoseti.boards.addresses import redis_key
from panoseti.boards.board_work import Work
from panoseti.boards.packets import signed_detector_c
from panoseti.bringup import session_setup
from panoseti.bringup.ledger import SEEN, Step
from panoseti.configs.site import Quabo
from panoseti.errors import ConfigError, ObsError
from panoseti.high_voltage.hv_off import OFF_BELOW_V
from panoseti.housekeeping.hk_watch import HVMON
from panoseti.housekeeping.store import TIME_FIELD, Record, Store

COLUMNS = (
    "dome", "module", "quabo", "address", "BOARDLOC", "serial", "type", "silver",
    "HK age s", "detectors C", "FPGA C", "HV V", "state",
)  # fmt: skip

POWER_OFF, SHUT_DOWN, HAS_HV = "power is off", "shut down", "not shut down: HVMON shows"
FIELDS = (TIME_FIELD, "FWVER", "TEMP1", "TEMP2", *HVMON)


@dataclass(frozen=True)
class BoardRow:
    """One board; None = not known.  hv_v: magnitudes of the four detectors' bias.

    state: "ready", "power is off", "shut down", "absent", "absent, as obs_config.json says", "never
    scanned", the first step that is missing or stale, or what else is wrong with the board.
    """

    dome: str
    module: str
    module_id: int
    quabo: int
    ip: str
    boardloc: int
    uid: str
    serialno: str
    board_version: str
    firmware: str | None
    hk_age_s: float | None
    detectors_c: float | None
    fpga_c: float | None
    hv_v: tuple[float, ...] | None
    state: str


def board_rows(work: Work, dark: Collection[int] = ()) -> list[BoardRow]:
    """A row for each board at work; records only where Redis can be reached.

    dark: modules whose power is known to be off.
    """
    records = _records(work)
    names = {module.id: (module.dome, module.label) for module in work.site.obs.modules}
    chosen = {*work.boards, *work.known_absent}
    shown = [quabo for quabo in work.site.obs.quabos if quabo in chosen]
    off = session_setup.why_hv_off(work, shown)
    rows = [_row(work, quabo, names[quabo.module_id], records, off) for quabo in shown]
    return [replace(row, state=POWER_OFF) if row.module_id in dark else row for row in rows]


def shut_down_rows(
    rows: Sequence[BoardRow], failed: Mapping[str, str], begun_ago_s: float
) -> list[BoardRow]:
    """The rows after the end of a session: what a board lacks for a run is of no interest then.

    failed: what went wrong, by address; begun_ago_s: housekeeping that is older than that tells
    nothing of how a board is now, and is not shown beside "shut down".
    """
    return [
        row if row.state == POWER_OFF or not row.uid else _shut_down_row(row, failed, begun_ago_s)
        for row in rows
    ]


def _shut_down_row(row: BoardRow, failed: Mapping[str, str], begun_ago_s: float) -> BoardRow:
    if row.ip in failed:
        return replace(row, state=failed[row.ip])
    if row.hk_age_s is None or row.hk_age_s > begun_ago_s:
        row = replace(row, hk_age_s=None, detectors_c=None, fpga_c=None, hv_v=None)
    if row.hv_v is not None and max(row.hv_v) >= OFF_BELOW_V:
        return replace(row, state=f"{HAS_HV} {max(row.hv_v):.1f} V")
    return replace(row, state=SHUT_DOWN)


def _records(work: Work) -> dict[str, Record]:
    obs = work.site.obs
    try:
        with Store(obs.redis_host, obs.redis_port) as store:
            keys = [redis_key(quabo.boardloc) for quabo in work.boards]
            return store.get_records(keys, FIELDS)
    except ObsError as error:
        work.console.detail(str(error))
        return {}


def _row(
    work: Work,
    quabo: Quabo,
    names: tuple[str, str],
    records: Mapping[str, Record],
    off: Mapping[str, str],
) -> BoardRow:
    uid = work.uids.get(quabo.ip, "")
    board = work.settings.db.boards.get(uid)
    record = records.get(redis_key(quabo.boardloc), {})
    received = _number(record, TIME_FIELD)
    temp1 = _number(record, "TEMP1")
    volts = [_number(record, name) for name in HVMON]
    return BoardRow(
        dome=names[0],
        module=names[1],
        module_id=quabo.module_id,
        quabo=quabo.index,
        ip=quabo.ip,
        boardloc=quabo.boardloc,
        uid=uid,
        serialno=board.serialno if board else "",
        board_version=board.board_version if board else "",
        firmware=record.get("FWVER"),
        hk_age_s=None if received is None else round(time.time() - received, 1),
        detectors_c=None if temp1 is None else signed_detector_c(temp1),
        fpga_c=_rounded(_number(record, "TEMP2")),
        hv_v=None if None in volts else tuple(round(abs(v or 0.0), 2) for v in volts),
        state=_state(work, quabo, off.get(quabo.ip)),
    )


def _state(work: Work, quabo: Quabo, hv_off: str | None) -> str:
    if quabo in work.known_absent:
        return "absent, as obs_config.json says"
    uid = work.uids.get(quabo.ip)
    if uid is None:
        return "never scanned"
    if not uid:
        return "absent"
    now_unix = time.time()
    for step in Step:
        if step in SEEN or (step is Step.SHUTTER and quabo.index != 1):
            continue
        try:
            why = work.why(quabo, step, now_unix)
        except ConfigError as error:
            why = str(error.faults[0])
        if step is Step.HV:  # as it is now, rather than how the last try ended
            why = hv_off or why
        if why is not None:
            return f"{step.label}: {why}"
    wrong = [f"{one.step}: {one.text}" for one in work.problems if one.where == quabo.ip]
    return wrong[0] if wrong else "ready"


def _number(record: Record, name: str) -> float | None:
    try:
        return float(record[name])
    except (KeyError, ValueError):
        return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def as_table(rows: Sequence[BoardRow]) -> list[list[object]]:
    """The rows under COLUMNS."""
    return [
        [
            row.dome, row.module, row.quabo, row.ip, row.boardloc, row.serialno or row.uid,
            row.board_version, row.firmware, row.hk_age_s, row.detectors_c, row.fpga_c,
            None if row.hv_v is None else " ".join(f"{volt:.1f}" for volt in row.hv_v), row.state,
        ]
        for row in rows
    ]  # fmt: skip


def as_json(rows: Sequence[BoardRow]) -> list[dict[str, Any]]:
    """The rows as a JSON value."""
    return [asdict(row) for row in rows]
