"""Housekeeping records for tests, as the record store has them."""

from __future__ import annotations

from panoseti.housekeeping.store import Record

NOW = 1_720_000_000.0
BOARDLOC = 1016


def hk(
    utc_s: float = NOW, boardloc: int = BOARDLOC, volts: float = 0.0, **fields: object
) -> Record:
    """A record of 25 degC that arrived at a Unix time; `fields` replace what it says."""
    values: dict[str, object] = {
        "Computer_UTC": utc_s,
        "BOARDLOC": boardloc,
        **{f"HVMON{chip}": -volts for chip in range(4)},
        "TEMP1": 25.0,
        "TEMP2": 40.0,
        "StartUp": 0,
    }
    return {name: str(value) for name, value in {**values, **fields}.items()}


def without(name: str) -> Record:
    """A record without one of its fields."""
    record = hk()
    del record[name]
    return record
