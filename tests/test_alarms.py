"""Alarms: written whole, told once, given to the hook, and never in the way."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from panoseti.high_voltage.alarms import (
    ALARMS_FILE,
    HOOK_OUTPUT,
    Alarms,
    AlarmState,
    append_line,
    call_hook,
    read_alarms,
    standing_alarms,
)
from tests.helpers import wait_for


def hook(folder: Path, body: str) -> list[str]:
    """A hook: a Python program of these lines."""
    path = folder / "hook.py"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path), "--to", "ops"]


def test_events_and_states_are_lines_of_json(tmp_path: Path) -> None:
    alarms = Alarms(tmp_path, "guard")
    alarms.tell("hv_trip", "too hot", "module 254", degrees=70.5)
    for _ in range(3):
        alarms.hold("blind", "127.0.3.248", "HK is 16 s old")
    alarms.hold("blind", "127.0.3.249", "no HK")
    alarms.hold("blind", "127.0.3.250", "")
    alarms.hold("blind", "127.0.3.248", "")
    alarms.close()
    lines = (tmp_path / "log" / ALARMS_FILE).read_text().splitlines()
    first = json.loads(lines[0])
    assert first["version"] == 1 and first["utc"].endswith("Z") and len(lines) == 4
    assert first["facts"] == {"degrees": 70.5} and first["source"] == "guard"
    assert [(a.kind, a.subject, a.state) for a in read_alarms(tmp_path)] == [
        ("hv_trip", "module 254", AlarmState.EVENT),
        ("blind", "127.0.3.248", AlarmState.RAISED),
        ("blind", "127.0.3.249", AlarmState.RAISED),
        ("blind", "127.0.3.248", AlarmState.CLEARED),
    ]
    assert [a.subject for a in standing_alarms(tmp_path)] == ["127.0.3.249"]
    assert [a.subject for a in read_alarms(tmp_path, last=1)] == ["127.0.3.248"]


def test_all_of_a_kind_at_once(tmp_path: Path) -> None:
    alarms = Alarms(tmp_path, "guard")
    alarms.hold("other", "x", "stays")
    alarms.hold_only("blind", {"a": "old", "b": "older", "c": ""})
    alarms.hold_only("blind", {"b": "older still"})
    alarms.close()
    assert [(a.subject, a.state) for a in read_alarms(tmp_path)] == [
        ("x", AlarmState.RAISED),
        ("a", AlarmState.RAISED),
        ("b", AlarmState.RAISED),
        ("a", AlarmState.CLEARED),
    ]


def test_what_a_program_held_when_it_ended_is_cleared_by_its_successor(tmp_path: Path) -> None:
    for name in ("guard", "updater"):
        died = Alarms(tmp_path, name)
        died.hold("blind", "a", "old")
        died.close()
    assert [a.source for a in standing_alarms(tmp_path)] == ["guard", "updater"]
    with Alarms(tmp_path, "guard"):
        pass
    assert [a.source for a in standing_alarms(tmp_path)] == ["updater"]


def test_a_clean_end_holds_nothing_and_a_failure_leaves_it(tmp_path: Path) -> None:
    with Alarms(tmp_path, "guard") as alarms:
        alarms.hold("blind", "a", "old")
    assert standing_alarms(tmp_path) == []
    with pytest.raises(ValueError, match="bug"), Alarms(tmp_path, "guard") as alarms:
        alarms.hold("blind", "a", "old")
        raise ValueError("bug")
    assert len(standing_alarms(tmp_path)) == 1


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    with Alarms(tmp_path, "guard") as alarms:
        alarms.tell("first", "1")
    append_line(tmp_path / "log" / ALARMS_FILE, b'{"time_unix": 17\n')
    append_line(tmp_path / "log" / ALARMS_FILE, b"[]\n\n\xff\n")
    with Alarms(tmp_path, "guard") as alarms:
        alarms.tell("second", "2")
    assert [a.kind for a in read_alarms(tmp_path)] == ["first", "second"]
    assert read_alarms(tmp_path / "nowhere") == []


def test_passwords_and_long_texts_do_not_get_through(tmp_path: Path) -> None:
    with Alarms(tmp_path, "guard") as alarms:
        alarms.tell("power", "http://admin:s3cret@10.0.1.5 is silent", url="http://a:s3cret@h")
        alarms.tell("long", "line\n" * 10_000)
    text = (tmp_path / "log" / ALARMS_FILE).read_text()
    assert "s3cret" not in text and "http://***@10.0.1.5" in text
    assert len(text.splitlines()) == 2 and len(text) < 10_000


def test_the_hook_is_given_each_alarm(tmp_path: Path) -> None:
    command = hook(
        tmp_path,
        "alarm = json.load(sys.stdin)\n"
        "open(sys.argv[0] + '.got', 'a').write(f\"{sys.argv[2]} {alarm['text']}\\n\")",
    )
    with Alarms(tmp_path, "guard", command) as alarms:
        alarms.tell("a", "one")
        alarms.tell("b", "two")
        got = tmp_path / "hook.py.got"
        wait_for(lambda: got.exists() and got.read_text() == "ops one\nops two\n", "the hook", 10)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(3)", "exit code 3"),
        ("os.close(0); sys.exit(0)", ""),
        ("time.sleep(60)", "killed after 0.5 s"),
        ("os.fork() or time.sleep(60)", "killed after 0.5 s"),
    ],
)
def test_hooks_that_fail_end_in_time(tmp_path: Path, body: str, words: str) -> None:
    begin = time.monotonic()
    timeout_s = 5.0 if "exit" in body else 0.5
    problem = call_hook(hook(tmp_path, body), b"x" * 100_000, tmp_path / HOOK_OUTPUT, timeout_s)
    assert words in problem and bool(problem) is bool(words)
    assert time.monotonic() - begin < 5


def test_a_hook_that_is_not_there_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Alarms(tmp_path, "guard", ["/no/such/hook"]) as alarms:
        alarms.tell("a", "one")
        wait_for(lambda: "alarm_hook /no/such/hook: cannot be started" in caplog.text, "the log")


def test_a_hanging_hook_holds_up_neither_the_caller_nor_the_file(tmp_path: Path) -> None:
    command = hook(tmp_path, "time.sleep(60)")
    begin = time.monotonic()
    alarms = Alarms(tmp_path, "guard", command, hook_timeout_s=1)
    for number in range(200):
        alarms.tell("a", str(number))
    assert time.monotonic() - begin < 1
    wait_for(lambda: len(read_alarms(tmp_path)) == 200, "all lines", 5)
    alarms.close(wait_s=0.2)
    assert time.monotonic() - begin < 5
    wait_for(lambda: "alarm hook" not in thread_names(), "the calls that waited are left out", 5)


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_disk_that_is_full_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text("no folder")
    with Alarms(tmp_path, "guard") as alarms:
        alarms.tell("a", "one")
        alarms.tell("a", "two")
    assert caplog.text.count("cannot write") == 1
    assert caplog.text.count("ALARM a") == 2, "the program's own log has it"
    assert os.path.isfile(tmp_path / "log")
