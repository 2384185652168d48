"""What all scripts share: exit codes, streams, JSON, the virtual environment."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from panoseti import console
from tests.helpers import REPO

SCRIPT = """\
import sys
sys.path.insert(0, {repo!r})
from panoseti import console
from panoseti.errors import BoardError, ConfigError, Fault, RefusedError
def main(argv):
{body}
sys.exit(console.call(main, sys.argv[1:]))
"""


def run(tmp_path: Path, body: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "script.py"
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    path.write_text(SCRIPT.format(repo=str(REPO), body=indented))
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, **kwargs
    )  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        ("return None", 0, ""),
        ("raise BoardError('127.0.0.4: mute')", 1, "script.py: 127.0.0.4: mute\n"),
        (
            "one, two = Fault('a.json', '$.x', '1', 'one'), Fault('b.json', '$', '', 'two')\n"
            "raise ConfigError([one, two])",
            2,
            "script.py: a.json: $.x: 1: one\nscript.py: b.json: $: : two\n",
        ),
        ("raise RefusedError('a run is in progress')", 3, "script.py: a run is in progress\n"),
        ("raise KeyboardInterrupt", 130, "script.py: interrupted (SIGINT)\n"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nsignal.pause()",
            128 + signal.SIGHUP,
            "script.py: interrupted (SIGHUP)\n",
        ),
    ],
)
def test_how_a_script_ends(tmp_path: Path, body: str, code: int, line: str) -> None:
    done = run(tmp_path, body)
    assert (done.returncode, done.stderr) == (code, line)


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "raise ValueError('bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_undo_runs_when_the_terminal_goes_away(tmp_path: Path) -> None:
    body = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\n"
    done = run(tmp_path, body + "finally:\n    print('undone')")
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "undone\n")


def test_a_reader_that_left_is_no_traceback(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    path = tmp_path / "script.py"
    body = "    print('x' * 1000000, flush=True)"
    path.write_text(SCRIPT.format(repo=str(REPO), body=body))
    done = subprocess.run(
        [sys.executable, str(path)], stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


PRINTER = """\
c = console.Console(json_output={json})
c.table(["name", "n"], [["a [b] " + "x" * 120, 1], ["", 20]])
c.warn("hot")
with c.progress("boards", 2) as p:
    p.advance("127.0.0.4 done")
    p.advance()
if c.json_output:
    c.result({{"n": 1}})
"""


def test_results_on_stdout_the_rest_on_stderr(tmp_path: Path) -> None:
    done = run(tmp_path, PRINTER.format(json=False))
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines] == [["name", "n"], ["a", "[b]", "x" * 120, "1"], ["20"]]
    assert done.stderr == "warning: hot\nboards: 127.0.0.4 done\n"


def test_json_is_alone_on_stdout(tmp_path: Path) -> None:
    done = run(tmp_path, PRINTER.format(json=True))
    assert json.loads(done.stdout) == {"n": 1}
    assert "warning: hot" in done.stderr


def test_scripts_find_the_environment_beside_them(tmp_path: Path) -> None:
    """With any Python: what runs in the end is the one of .venv."""
    root = tmp_path / "a place" / "observatory"
    (root / "panoseti").mkdir(parents=True)
    shutil.copy(REPO / "panoseti" / "venv.py", root / "panoseti")
    (root / "panoseti" / "__init__.py").touch()
    script = root / "script.py"
    script.write_text(
        "from panoseti.venv import use_venv\nuse_venv(__file__)\n"
        "import sys\nprint(sys.prefix, sys.argv[1:])\n"
    )
    bare = subprocess.run(
        ["/usr/bin/env", "-i", sys._base_executable, "-S", str(script)],  # type: ignore[attr-defined]
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert bare.returncode == 1
    assert bare.stderr.startswith("script.py: Python packages missing: paramiko")
    assert bare.stderr.endswith("run: make setup\n")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(root / ".venv")], check=True, timeout=60
    )
    done = subprocess.run(
        [sys._base_executable, str(script), "two words"],  # type: ignore[attr-defined]
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"{root / '.venv'} ['two words']\n"


PROGRESS = """\
import time
console.SAY_EVERY_S = 0.1
out = console.Console({json})
with out.progress("boards", 4, 60) as progress:
    progress.advance()
    time.sleep(0.5)
with out.progress("work", 4) as progress:
    for _ in range(4):
        time.sleep(0.3)
        progress.advance()
"""


def test_a_bar_on_a_terminal_tells_the_time_left(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = run_to(theirs, tmp_path, PROGRESS.format(json="False"))
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        text = all_of(terminal.fileno())
    assert done.returncode == 0
    assert re.search(r"boards .* 1/4 .* at most (60|59) s left", text), text
    assert re.search(r"work .* [23]/4 .* about [01] s left", text), text


def run_to(stderr: int, tmp_path: Path, body: str) -> subprocess.CompletedProcess[bytes]:
    """As run, stderr being a terminal 100 characters wide."""
    path = tmp_path / "script.py"
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    path.write_text(SCRIPT.format(repo=str(REPO), body=indented))
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, str(path)], stderr=stderr, timeout=60, env=env)


def all_of(terminal: int) -> str:
    """What was written to a terminal that nobody has open any more at the other end."""
    text = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # that is how its end is told
            data = b""
        if not data:
            return text.decode()
        text += data


def test_elsewhere_a_line_now_and_then_tells_it(tmp_path: Path) -> None:
    done = run(tmp_path, PROGRESS.format(json="False"))
    assert "boards: 1 of 4, at most 60 s left\n" in done.stderr, done.stderr
    assert re.search(r"work: [23] of 4, about [01] s left\n", done.stderr), done.stderr
    assert done.stdout == ""
    quiet = run(tmp_path, PROGRESS.format(json="True"))
    assert (quiet.returncode, quiet.stderr) == (0, "")


def test_bad_usage_is_one_line(tmp_path: Path) -> None:
    body = """\
parser = console.parser("x", "y")
parser.add_argument("--ping", action="store_true")
parser.add_argument("--log", type=int)
parser.parse_args({argv})"""
    done = run(tmp_path, body.format(argv=["--pnig"]))
    line = (
        "script.py: unrecognized arguments: --pnig (did you mean --ping?); see script.py --help\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    done = run(tmp_path, body.format(argv=["--log", "x"]))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "argument --log: invalid int value: 'x'" in done.stderr


def test_long_options_may_be_spelled_with_either_sign() -> None:
    parser = console.parser("What it does.", "  none")
    parser.add_argument("--measure_thresholds", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--run_name")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args(["--measure-thresholds", "--dry-run", "--run-name=a-b", "x-y"])
    assert (args.measure_thresholds, args.dry_run, args.run_name) == (True, True, "a-b")
    assert args.words == ["x-y"]
    args = parser.parse_intermixed_args(["x", "--dry_run", "a_b", "--run_name", "a_b"])
    assert (args.dry_run, args.run_name, args.words) == (True, "a_b", ["x", "a_b"])
    assert parser.parse_args(["--run_name", "a-b"]).run_name == "a-b"
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--measure-nothing"])


# --- words that cannot be written ---

# What a script says in every way there is, then what it was to do.
TALKER = """\
import logging, pathlib
c = console.Console(verbose=True, json_output={json})
def say():
    c.note("note"); c.warn("warn"); c.error("error"); c.detail("detail"); c.out("out")
    c.table(["name"], [["x" * 5000]])
    logging.getLogger("some").warning("logged")
    with c.progress("boards", 2) as p:
        p.advance("one")
    c.result({{"n": 1}})
    print("plain", flush=True)
for again in range(5):
    say()
try:
    raise RefusedError("refused")
finally:
    say()
    pathlib.Path("undone").touch()
"""


def lost_stream(kind: str) -> int:
    """A file descriptor nobody can write to."""
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.openpty() if kind == "pty" else os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    ("kind", "json_output"), [("pty", False), ("full", True), ("pipe", False), ("closed", True)]
)
def test_words_that_cannot_be_written_keep_nothing_from_being_done(
    tmp_path: Path, kind: str, json_output: bool
) -> None:
    code, told = talk(tmp_path, TALKER.format(json=json_output), kind, "12")
    assert (tmp_path / "undone").exists()
    assert (code, told) == (3, "")


@pytest.mark.parametrize("kind", ["full", "closed"])
def test_results_that_cannot_be_written_are_a_failure_and_notes_are_none(
    tmp_path: Path, kind: str
) -> None:
    body = "c = console.Console()\nc.note('note')\nc.out('result')"
    assert talk(tmp_path, body, kind, "1") == (1, "note\n")
    assert talk(tmp_path, body, kind, "2") == (0, "result\n")


def talk(tmp_path: Path, body: str, kind: str, lost: str) -> tuple[int, str]:
    """Run a script that cannot write to stdout (1), stderr (2); exit code, what else it said."""
    path = tmp_path / "script.py"
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    path.write_text(SCRIPT.format(repo=str(REPO), body=indented))
    closed = kind == "closed"
    redirections = "".join(f" {number}>&{'-' if closed else 9}" for number in lost)
    said = tmp_path / "said"
    fd = lost_stream("pipe" if closed else kind)
    try:
        with said.open("w") as file:
            done = subprocess.run(
                ["bash", "-c", f'exec 9>&{fd}; exec "$0" "$1"{redirections}',
                 sys.executable, str(path)],
                cwd=tmp_path, stdout=file, stderr=file, pass_fds=[fd], timeout=60,
            )  # fmt: skip
    finally:
        os.close(fd)
    return done.returncode, said.read_text()


def test_what_the_terminal_does_not_know_is_escaped(tmp_path: Path) -> None:
    done = run(tmp_path, "console.Console().out('\\u2192 here')",
               env={**os.environ, "PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "\\u2192 here\n")
