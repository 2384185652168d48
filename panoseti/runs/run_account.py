"""What the pipelines of a run counted: the accounts they left beside the files, added up.

A pipeline leaves `hp_status_<node>.json`; one that was started again within the run keeps that of
the one before as `hp_status_<node>.part_<n>.json`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from daq.daq_facts import check_time
from panoseti.nodes.node_types import Pipeline
from panoseti.nodes.ph_silence import Habit, habit_of

_STATUS = re.compile(r"hp_status_(?P<node>.+?)(?:\.part_(?P<part>[0-9]+))?\.json")
PH_MODE = 1
IMAGE_MODE_BIT = 2


@dataclass(frozen=True)
class QuaboSums:
    """Packets of one board: received, recorded, lost on the way by the gaps in their numbers, and
    not written because of a failing disk; last_image_unix: when its last image came, 0 = none came
    or that is not known.
    """

    received: int = 0
    recorded: int = 0
    lost: int = 0
    unwritten: int = 0
    last_image_unix: float = 0.0


@dataclass
class Account:
    """The sums of all pipelines of a run.

    frames, partial: by module and product; lost_ph: packets, by module; quabos: by module and
    index; pulse_heights: the same, of boards that sent any; drops: packets dropped by the kernel,
    by node; restarts: by node; behind: modules whose account is behind the files, since a pipeline
    of theirs was killed; last_unix: when the last
    pipeline of a node wrote its last account, where that is known; seconds: how long pipelines
    worked, by module, where that is known; problems: in words.
    """

    frames: Counter[tuple[int, str]] = field(default_factory=Counter)
    partial: Counter[tuple[int, str]] = field(default_factory=Counter)
    lost_ph: Counter[int] = field(default_factory=Counter)
    quabos: dict[tuple[int, int], QuaboSums] = field(default_factory=dict)
    pulse_heights: dict[tuple[int, int], Habit] = field(default_factory=dict)
    drops: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    behind: set[int] = field(default_factory=set)
    last_unix: dict[str, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    found: int = 0


def read_account(directory: Path) -> Account:
    """From the status files of a run directory; unusable ones are problems."""
    account = Account()
    for path in sorted(directory.iterdir()):
        match = _STATUS.fullmatch(path.name)
        if match is None:
            continue
        restarted = match["part"] is not None
        account.restarts[match["node"]] += restarted
        try:
            status = json.loads(path.read_bytes())
            _add(account, match["node"], status)
            ended = status.get("state") in ("ended", None)
            if not ended:
                account.behind |= {int(entry["module"]) for entry in status["products"]}
            errors = [str(text) for text in status.get("errors", ())]
        except (
            OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError
        ) as error:  # fmt: skip
            account.problems.append(f"{path.name}: no account of a pipeline ({error})")
            continue
        if not ended and not restarted:
            account.problems.append(
                f"{path.name}: the pipeline did not end by itself (its last state:"
                f" {status['state']}); the account is behind the files"
            )
        account.problems += [f"{path.name}: {text}" for text in errors]
    return account


def account_of(pipelines: Mapping[str, Pipeline]) -> Account:
    """From the last words of the pipeline of each node, as it was stopped."""
    account = Account()
    for node, pipeline in pipelines.items():
        _add(account, node, asdict(pipeline))
        account.problems += [f"{node}: {text}" for text in pipeline.errors]
        if pipeline.state != "ended":
            account.problems.append(f"{node}: the pipeline did not end by itself")
    return account


def _add(account: Account, node: str, status: Mapping[str, Any]) -> None:
    for entry in status["products"]:
        key = int(entry["module"]), str(entry["product"])
        account.frames[key] += int(entry["frames"])
        account.partial[key] += int(entry["partial"])
    for entry in status["quabos"]:
        module, quabo = int(entry["module"]), int(entry["quabo"])
        names = ("received", "recorded", "lost", "unwritten")
        received, recorded, lost, unwritten = (int(entry[name]) for name in names)
        if int(entry["mode"]) == PH_MODE:
            account.lost_ph[module] += lost
            before = account.pulse_heights.get((module, quabo), Habit())
            account.pulse_heights[module, quabo] = before + habit_of(entry)
        old = account.quabos.get((module, quabo), QuaboSums())
        image_unix = 0.0
        if int(entry["mode"]) & IMAGE_MODE_BIT and recorded:
            image_unix = check_time(entry.get("last_packet_unix") or 0.0)
        account.quabos[module, quabo] = QuaboSums(
            old.received + received,
            old.recorded + recorded,
            old.lost + lost,
            old.unwritten + unwritten,
            max(old.last_image_unix, image_unix),
        )
    for name in ("received", "recorded", "rejected", "lost", "kernel_drops", "unwritten"):
        account.totals[name] += int(status["totals"][name])
    account.drops[node] += int(status["totals"]["kernel_drops"])
    if "updated_unix" in status:
        last = float(status["updated_unix"])
        account.last_unix[node] = max(account.last_unix.get(node, 0.0), last)
        worked_s = last - float(status.get("start_time_unix", last))
        for module in {int(entry["module"]) for entry in status["products"]}:
            account.seconds[module] = account.seconds.get(module, 0.0) + worked_s
    account.found += 1
