"""What was done to each board, when and with which inputs; what is missing or stale, and why.

Pure.  A step of the bring-up is *missing* when the ledger does not know it as done, *stale* when
the inputs it was done with are not those it would be done with now, when the board was rebooted
since, or when it is too old.  The inputs are kept in full beside their digest, so that the reason
can be said in words: "MAROC of 192.168.3.250: gain 60 -> 62 in data_config.json".

Inputs are {source: {name: value}}; a source is a file as operators know it, "" where there is
none.  Values that are too long to be kept are digests (`content_digest`).  What all steps of a
board depend on, its UID and its last boot, is added here under the source `BOARD`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

VERSION = 1
HOUR_S = 3600.0
# The boot packet of our own reboot may be repeated by the network after the step was recorded.
BOOT_SLACK_S = 1.0


class Step(StrEnum):
    """The steps that are done to a board, in their order."""

    POWER = "power"
    PING = "ping"
    UID = "uid"
    FIRMWARE = "firmware"
    REBOOT = "reboot"
    HK_DEST = "hk_dest"
    MASKS = "masks"
    MAROC = "maroc"
    PH_BASELINE = "ph_baseline"
    SHUTTER = "shutter"
    HV = "hv"

    @property
    def label(self) -> str:
        """The step as an operator calls it."""
        return _LABELS[self]


_LABELS = {
    Step.POWER: "power",
    Step.PING: "ping",
    Step.UID: "UID",
    Step.FIRMWARE: "firmware",
    Step.REBOOT: "reboot",
    Step.HK_DEST: "HK destination",
    Step.MASKS: "masks",
    Step.MAROC: "MAROC",
    Step.PH_BASELINE: "PH baseline",
    Step.SHUTTER: "shutter",
    Step.HV: "HV",
}
UNDONE_BY_REBOOT = (
    Step.HK_DEST,
    Step.MASKS,
    Step.MAROC,
    Step.PH_BASELINE,
    Step.SHUTTER,
    Step.HV,
)

SEEN = (Step.POWER, Step.PING)
"""What is looked at each time; the ledger keeps since when it is so."""

Value = str | int | float | bool | None
Inputs = Mapping[str, Mapping[str, Value]]

BOARD = "board"
UID_NAME, BOOT_NAME = "UID", "boot"
NOTED = "noted_unix"
"""Fact of a reboot: the time in the note of capture_hk about the last boot, where it is known."""
UNDONE = "undone"
"""Fact of a step that was done, and that something else than a reboot has undone: why, in words."""
DIGEST = "sha256:"
REASONS_SHOWN = 4


class LedgerFormatError(ValueError):
    """A document that is no ledger."""


def content_digest(content: Any) -> str:
    """A short text that stands for a value too long to be kept (any JSON value)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return DIGEST + hashlib.sha256(text.encode()).hexdigest()[:32]


def utc_text(unix_s: float) -> str:
    """Unix time in the ledger and in reasons, to the millisecond."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s))
    return f"{stamp}.{int(unix_s % 1 * 1000):03d}Z"


@dataclass(frozen=True)
class Entry:
    """One step of one board (or node).

    begun_unix, done_unix: Unix times, s; done_unix None = begun, and never known to have ended:
    what the board holds is then unknown.  inputs: what it was done with; facts: what it found.
    """

    begun_unix: float
    done_unix: float | None = None
    inputs: Inputs = field(default_factory=dict)
    facts: Mapping[str, Value] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Digest of all inputs."""
        return content_digest(self.inputs)

    @cached_property
    def text(self) -> str:
        """The entry as JSON on one line; worked out once, though the ledger is saved often."""
        return json.dumps(_entry_document(self))


class Ledger:
    """The entries of all boards by address, and what else belongs to a site by its name.

    others: "DAQ node 192.168.1.101", "fan of 192.168.3.248", ...
    """

    def __init__(
        self,
        boards: Mapping[str, Mapping[Step, Entry]] | None = None,
        others: Mapping[str, Entry] | None = None,
    ) -> None:
        self.boards: dict[str, dict[Step, Entry]] = {
            ip: dict(steps) for ip, steps in (boards or {}).items()
        }
        self.others: dict[str, Entry] = dict(others or {})

    def copy(self) -> Ledger:
        """An independent copy (entries themselves never change)."""
        return Ledger(self.boards, self.others)

    def entry(self, ip: str, step: Step) -> Entry | None:
        """What is known of a step of a board."""
        return self.boards.get(ip, {}).get(step)

    def done(self, ip: str, step: Step) -> Entry | None:
        """As entry, but None unless it was finished."""
        entry = self.entry(ip, step)
        return entry if entry is not None and entry.done_unix is not None else None

    def done_unix(self, ip: str, step: Step) -> float | None:
        """When a step was finished, Unix time in s; None when it is not."""
        entry = self.entry(ip, step)
        return None if entry is None else entry.done_unix

    def boot_of(self, ip: str) -> str | None:
        """What tells the boards' boots apart: when the last one was seen; None = unknown."""
        booted_unix = self.done_unix(ip, Step.REBOOT)
        return None if booted_unix is None else utc_text(booted_unix)

    def uid_of(self, ip: str) -> str:
        """The UID the board said, "" when it is not known."""
        found = self.done(ip, Step.UID)
        return str(found.facts.get(UID_NAME, "")) if found else ""

    # --- changes ---

    def begin(self, ip: str, step: Step, now_unix: float) -> None:
        """A step is about to be done: what it was before, and what it undoes, no longer holds."""
        steps = self.boards.setdefault(ip, {})
        if step is Step.REBOOT:
            for undone in UNDONE_BY_REBOOT:
                steps.pop(undone, None)
        steps[step] = Entry(begun_unix=now_unix)

    def finish(
        self,
        ip: str,
        step: Step,
        now_unix: float,
        inputs: Inputs,
        facts: Mapping[str, Value] | None = None,
    ) -> None:
        """A step is done; `inputs` without the part under BOARD, which is added."""
        steps = self.boards.setdefault(ip, {})
        begun = steps.get(step)
        steps[step] = Entry(
            begun_unix=begun.begun_unix if begun else now_unix,
            done_unix=now_unix,
            inputs=self.complete(ip, step, inputs),
            facts=dict(facts or {}),
        )

    def forget(self, ip: str, steps: Iterable[Step] = tuple(Step)) -> None:
        """These steps are not done (any more)."""
        for step in steps:
            self.boards.get(ip, {}).pop(step, None)

    def undo(self, ip: str, step: Step, why: str) -> None:
        """A step that was done, or begun, does not hold any more: why, in words."""
        known = self.entry(ip, step)
        if known is not None:
            self.boards[ip][step] = Entry(known.begun_unix, None, known.inputs, {UNDONE: why})

    def undone(self, ip: str, step: Step) -> str | None:
        """Why a step does not hold any more, as `undo` was told; None when it was not."""
        entry = self.entry(ip, step)
        return str(entry.facts[UNDONE]) if entry is not None and UNDONE in entry.facts else None

    def saw(self, ip: str, step: Step, now_unix: float, facts: Mapping[str, Value]) -> None:
        """One of SEEN is so; the entry keeps since when."""
        known = self.done(ip, step)
        if known is None or known.facts != facts:
            self.boards.setdefault(ip, {})[step] = Entry(now_unix, now_unix, {}, dict(facts))

    def begin_other(self, name: str, now_unix: float) -> None:
        """Something that is no board is about to be set up."""
        self.others[name] = Entry(begun_unix=now_unix)

    def finish_other(
        self,
        name: str,
        now_unix: float,
        inputs: Inputs,
        facts: Mapping[str, Value] | None = None,
    ) -> None:
        """Something that is no board is set up."""
        begun = self.others.get(name)
        self.others[name] = Entry(
            begun_unix=begun.begun_unix if begun else now_unix,
            done_unix=now_unix,
            inputs=inputs,
            facts=dict(facts or {}),
        )

    def saw_reboot(
        self, ip: str, when_unix: float, facts: Mapping[str, Value], is_note: bool = False
    ) -> bool:
        """A board announced a boot that nobody asked for; whether that is news.

        is_note: by the note that capture_hk keeps of the last boot.  One from before the note that
        is known already is news, too: the clock was set back in between.  The steps that a reboot
        undoes become stale by it.
        """
        reboot = self.done(ip, Step.REBOOT)
        if reboot is None:
            return False
        noted = reboot.facts.get(NOTED)
        set_back = is_note and isinstance(noted, float) and when_unix < noted
        if not set_back and when_unix <= (reboot.done_unix or 0.0) + BOOT_SLACK_S:
            return False
        if is_note:
            noted = when_unix
        known = {} if noted is None else {NOTED: noted}
        self.boards[ip][Step.REBOOT] = Entry(
            reboot.begun_unix, when_unix, reboot.inputs, {**facts, "by": "itself", **known}
        )
        return True

    def complete(self, ip: str, step: Step, inputs: Inputs) -> dict[str, dict[str, Value]]:
        """The inputs with what every step depends on."""
        whole = {source: dict(values) for source, values in inputs.items()}
        if step not in (*SEEN, Step.UID):
            whole[BOARD] = {UID_NAME: self.uid_of(ip)}
            if step in UNDONE_BY_REBOOT:
                whole[BOARD][BOOT_NAME] = self.boot_of(ip)
        return whole

    # --- judgement ---

    def why(
        self,
        ip: str,
        step: Step,
        inputs: Inputs,
        now_unix: float,
        max_age_s: float | None = None,
    ) -> str | None:
        """Why a step must be done (again) with these inputs; None when it need not."""
        complete = self.complete(ip, step, inputs)
        return _why(self.entry(ip, step), complete, now_unix, max_age_s)

    def why_other(self, name: str, inputs: Inputs) -> str | None:
        """As why, for what is no board."""
        return _why(self.others.get(name), inputs, 0.0, None)

    def lost_by_boot(self, ip: str, step: Step) -> bool:
        """Whether the step is missing or undone, so that new inputs alone do not explain it."""
        entry = self.done(ip, step)
        if entry is None and self.undone(ip, step):
            entry = self.entry(ip, step)
        return entry is None or entry.inputs.get(BOARD) != self.complete(ip, step, {}).get(BOARD)


def _why(
    entry: Entry | None, inputs: Inputs, now_unix: float, max_age_s: float | None
) -> str | None:
    if entry is None:
        return "not done"
    if UNDONE in entry.facts:
        return str(entry.facts[UNDONE])
    if entry.done_unix is None:
        return f"begun at {utc_text(entry.begun_unix)} and not finished"
    reasons = differences(entry.inputs, inputs)
    if not reasons and max_age_s is not None and now_unix - entry.done_unix > max_age_s:
        age_h = (now_unix - entry.done_unix) / HOUR_S
        reasons = [f"{age_h:.1f} h old (limit {max_age_s / HOUR_S:g} h)"]
    return _joined(reasons) if reasons else None


def why_differ(old: Inputs, new: Inputs) -> str | None:
    """`differences` as one phrase; None = there are none."""
    return _joined(found) if (found := differences(old, new)) else None


def differences(old: Inputs, new: Inputs) -> list[str]:
    """What changed between two sets of inputs, in words.

    Another board or a reboot explains everything else; it then stands alone.
    """
    if old.get(BOARD) != new.get(BOARD):
        return _board_differences(old.get(BOARD, {}), new.get(BOARD, {}))
    reasons = []
    for source in [*new, *(source for source in old if source not in new)]:
        before, after = old.get(source), new.get(source)
        if before is None or after is None:
            reasons.append(f"{source} {'now' if before is None else 'no longer'} used")
            continue
        for name in [*after, *(name for name in before if name not in after)]:
            if before.get(name) != after.get(name):
                reasons.append(_changed(source, name, before.get(name), after.get(name)))
    return reasons


def _board_differences(old: Mapping[str, Value], new: Mapping[str, Value]) -> list[str]:
    if old.get(UID_NAME) != new.get(UID_NAME):
        now = new.get(UID_NAME) or "unknown"
        return [f"another board: UID {old.get(UID_NAME) or 'unknown'} -> {now}"]
    boot = new.get(BOOT_NAME)
    return [f"rebooted at {boot}" if boot else "a reboot is needed before"]


def _changed(source: str, name: str, old: Value, new: Value) -> str:
    where = f" in {source}" if source else ""
    if any(isinstance(value, str) and value.startswith(DIGEST) for value in (old, new)):
        return f"{name} changed{where}"
    return f"{name} {_shown(old)} -> {_shown(new)}{where}"


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "absent" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _joined(reasons: list[str]) -> str:
    shown = ", ".join(reasons[:REASONS_SHOWN])
    more = len(reasons) - REASONS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


# --- the document ---


def document(ledger: Ledger) -> dict[str, Any]:
    """The ledger as JSON."""
    return {
        "version": VERSION,
        "boards": {
            ip: {step.value: _entry_document(steps[step]) for step in Step if step in steps}
            for ip, steps in ledger.boards.items()
            if steps
        },
        "others": {name: _entry_document(entry) for name, entry in ledger.others.items()},
    }


def document_text(ledger: Ledger) -> str:
    """`document` as text, an entry on each line."""
    boards = [
        (ip, _members([(step.value, steps[step].text) for step in Step if step in steps], 2))
        for ip, steps in ledger.boards.items()
        if steps
    ]
    others = [(name, entry.text) for name, entry in ledger.others.items()]
    parts = [
        ("version", str(VERSION)),
        ("boards", _members(boards, 1)),
        ("others", _members(others, 1)),
    ]
    return _members(parts, 0) + "\n"


def _members(members: Iterable[tuple[str, str]], depth: int) -> str:
    """A JSON object from names and the texts of their values, each on its line."""
    lines = ",\n".join(f"{' ' * (depth + 1)}{json.dumps(name)}: {text}" for name, text in members)
    return f"{{\n{lines}\n{' ' * depth}}}" if lines else "{}"


def _entry_document(entry: Entry) -> dict[str, Any]:
    done = entry.done_unix
    return {
        "done": None if done is None else utc_text(done),
        "begun_unix": entry.begun_unix,
        "done_unix": done,
        "digest": entry.digest,
        "inputs": entry.inputs,
        "facts": entry.facts,
    }


def from_document(raw: Mapping[str, Any]) -> Ledger:
    """The ledger in a JSON document of this version; LedgerFormatError when it is none."""
    try:
        boards = {
            str(ip): {Step(step): _entry(entry) for step, entry in steps.items()}
            for ip, steps in raw["boards"].items()
        }
        return Ledger(boards, {str(name): _entry(e) for name, e in raw["others"].items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerFormatError(f"not a ledger of the bring-up ({error})") from error


def _entry(raw: Mapping[str, Any]) -> Entry:
    done = raw["done_unix"]
    entry = Entry(
        begun_unix=float(raw["begun_unix"]),
        done_unix=None if done is None else float(done),
        inputs={source: dict(values) for source, values in raw["inputs"].items()},
        facts=dict(raw["facts"]),
    )
    if entry.digest != raw["digest"]:
        raise ValueError("digest and inputs of an entry do not fit together")
    return entry
