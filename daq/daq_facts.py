"""Facts that the head node and the helpers on a DAQ node share.

Copied to the nodes as it is: Python >= 3.8, standard library alone.
"""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import Any, Optional, Tuple

RUN_NAME = re.compile(
    r"obs_(?P<obs>[A-Za-z0-9][A-Za-z0-9_-]*)"
    r"\.start_(?P<start>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)"
    r"\.runtype_(?P<run_type>[A-Za-z0-9][A-Za-z0-9-]*)"
    r"\.pffd"
)
"""The whole name of a run and of its directory; to be used with fullmatch."""

# The name travels through a HASHPIPE status value, which keeps no more.
RUN_NAME_MAX_LENGTH = 67

VERSION = 1
"""Of the state files and of the helpers' JSON documents."""

# What is copied to a node, into its data directory.
HELPERS = (
    "daq_facts.py",
    "daq_files.py",
    "daq_launch.py",
    "daq_leftovers.py",
    "daq_node.py",
    "daq_process.py",
    "only_daq.py",
    "run_files.py",
    "start_daq.py",
    "status_daq.py",
    "stop_daq.py",
)
LAUNCHER = "hashpipe"
PLUGIN = "hashpipe.so"

# Files in a node's data directory.
RUN_FILE = "current_run_daq"
OVER_FILE = "last_run_over"
PID_FILE = "daq_pid"
LAUNCH_FILE = "run_hashpipe.sh"
MODULE_FILE = "module.config"
LOCK_FILE = "daq.lock"

# HASHPIPE cuts option values to 67 characters; one of just that length may have been cut.
OPTION_MAX_LENGTH = 66
PIPELINE_THREADS = ("net_thread", "compute_thread", "output_thread")

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED = 0, 1, 2, 3

MODULES = 256
MODULE_DIR = re.compile(r"module_(?P<id>0|[1-9][0-9]{0,2})")
DATA_FILE = re.compile(
    r"start_[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
    r"\.dp_(?P<product>[a-z0-9]+)\.bpp_(?P<bytes_per_pixel>[0-9]+)"
    r"\.module_(?P<module>[0-9]+)\.seqno_(?P<seqno>[0-9]+)\.pff"
)
# A file of a run: one plain word, neither hidden nor an option nor a path.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=,~ -]{0,199}")
HOST_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_run_name(text: str) -> str:
    """The text itself if it is the name of a run, else ValueError.

    Paths that are deleted are made of it, so nothing but the full pattern passes.
    """
    if not RUN_NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is not the name of a run (obs_<name>.start_<UTC>Z.runtype_<type>.pffd)"
        )
    if len(text) > RUN_NAME_MAX_LENGTH:
        raise ValueError(
            f"run name {text!r} has {len(text)} characters; more than {RUN_NAME_MAX_LENGTH}"
            " do not reach the pipeline: shorten the observatory's name or run_type"
        )
    return text


def module_dir(module: int) -> str:
    """Directory of a module in a node's data directory; it may be a link to another disk."""
    if not 0 <= module < MODULES:
        raise ValueError(f"module id {module} is outside 0..255")
    return f"module_{module}"


def module_run_dir(module: int, run: str) -> str:
    """Where a node records the data of a module, relative to its data directory."""
    return f"{module_dir(module)}/{check_run_name(run)}"


def split_path(text: Any, run: str) -> Tuple[Optional[int], str]:
    """Module (None: of the run directory itself) and name of a file of this run, whose path is
    <run>/<name> or module_<id>/<run>/<name>; ValueError for any other: nothing else is touched.
    """
    words = text.split("/") if isinstance(text, str) else []
    module: Optional[int] = None
    if len(words) == 3:
        found = MODULE_DIR.fullmatch(words.pop(0))
        module = int(found["id"]) if found else MODULES
    good = len(words) == 2 and words[0] == run and FILE_NAME.fullmatch(words[1])
    if not good or (module is not None and module >= MODULES):
        raise ValueError(f"{text!r} is not the path of a file of run {run}")
    return module, words[1]


def check_host_word(text: str) -> str:
    """The text itself if it is an address or host name that may be part of a file name."""
    if not HOST_WORD.fullmatch(text):
        raise ValueError(f"{text!r} is not an address or host name")
    return text


def check_time(value: Any) -> float:
    """A Unix time (s) out of a file, if a calendar can show it, else ValueError."""
    try:
        time.gmtime(float(value))
    except (TypeError, OverflowError, OSError):
        raise ValueError(f"{value!r} is no time")
    return float(value)


def utc_text(unix_s: Optional[float] = None) -> str:
    """Unix time, or now, as operators read it; also in names of runs and files."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def head_of(token: str) -> str:
    """The head node a token belongs to, which is before its first "-"."""
    return token.partition("-")[0]


def stdout_name(daq_ip: str) -> str:
    """What the pipeline prints, in the run directory."""
    return f"hp_stdout_{check_host_word(daq_ip)}"


def log_name(daq_ip: str) -> str:
    """The pipeline's log, in the run directory."""
    return f"hp_log_{check_host_word(daq_ip)}"


def status_name(daq_ip: str) -> str:
    """The pipeline's status, in the run directory."""
    return f"hp_status_{check_host_word(daq_ip)}.json"


def helpers_digest(folder: Path) -> str:
    """SHA-256 over the whole set of helpers; "incomplete" when one of them is missing."""
    digest = hashlib.sha256()
    for name in HELPERS:
        try:
            data = (folder / name).read_bytes()
        except OSError:
            return "incomplete"
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()
