"""Names of runs and of the files in them, as analysis software expects them.  Pure.

A name's pieces are separated by '.', key and value by the first '_'.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from daq.daq_facts import RUN_NAME, check_run_name, utc_text
from panoseti.runs.pff import PRODUCTS

__all__ = [
    "HK_FILE",
    "RUN_NAME",
    "DataFile",
    "RunName",
    "check_run_name",
    "data_file_name",
    "parse_data_file",
    "parse_run_name",
    "run_dir_name",
]

HK_FILE = "hk.pff"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_DATA_FILE = re.compile(
    r"start_(?P<start>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)"
    r"\.dp_(?P<product>[a-z0-9]+)\.bpp_(?P<bytes_per_pixel>[12])"
    r"\.module_(?P<module>0|[1-9][0-9]{0,2})\.seqno_(?P<seqno>0|[1-9][0-9]{0,8})\.pff"
)


@dataclass(frozen=True)
class RunName:
    """What the name of a run tells; start: Unix time, whole seconds."""

    obs: str
    start_unix: int
    run_type: str


@dataclass(frozen=True)
class DataFile:
    """What the name of a data file tells; start: Unix time when the file was opened."""

    start_unix: int
    product: str
    bytes_per_pixel: int
    module: int
    seqno: int


def _unix(text: str) -> int:
    moment = datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def run_dir_name(obs: str, run_type: str, unix_s: float) -> str:
    """Name of a run that starts at Unix time `unix_s` (the fraction is dropped).

    ValueError when the names of observatory and type do not fit into one.
    """
    return check_run_name(f"obs_{obs}.start_{utc_text(unix_s)}.runtype_{run_type}.pffd")


def parse_run_name(text: str) -> RunName:
    """What a run's name tells; ValueError when it is none."""
    match = RUN_NAME.fullmatch(check_run_name(text))
    if match is None:
        raise ValueError(f"{text!r} is not the name of a run")
    try:
        return RunName(match["obs"], _unix(match["start"]), match["run_type"])
    except ValueError:
        raise ValueError(f"{text!r}: {match['start']} is no time") from None


def data_file_name(start_unix: float, product: str, module: int, seqno: int) -> str:
    """Name of a data file opened at Unix time `start_unix` (the fraction is dropped)."""
    return (
        f"start_{utc_text(start_unix)}.dp_{product}.bpp_{PRODUCTS[product].bytes_per_pixel}"
        f".module_{module}.seqno_{seqno}.pff"
    )


def parse_data_file(name: str) -> DataFile | None:
    """What the name of a data file tells; None when it is not that of one."""
    match = _DATA_FILE.fullmatch(name)
    if match is None or match["product"] not in PRODUCTS:
        return None
    bytes_per_pixel, module = int(match["bytes_per_pixel"]), int(match["module"])
    if bytes_per_pixel != PRODUCTS[match["product"]].bytes_per_pixel or module > 255:
        return None
    try:
        start_unix = _unix(match["start"])
    except ValueError:
        return None
    return DataFile(start_unix, match["product"], bytes_per_pixel, module, int(match["seqno"]))
