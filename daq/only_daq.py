#!/usr/bin/env python3
"""Let an ssh key do on this DAQ node what recording and collecting need, and nothing else.

One line of ~/.ssh/authorized_keys:

  restrict,command="python3 -B /data/panoseti/only_daq.py /data/panoseti" ssh-ed25519 AAAA... head

Whatever the key's owner asks for, sshd runs this, with the request in SSH_ORIGINAL_COMMAND.  It is
taken apart into words, and every word is checked; no shell ever sees it.  Allowed are, all of them
for the one data directory named above:

  python3 [-B] <data dir>/start_daq.py | stop_daq.py | status_daq.py | run_files.py <known options>
  <launcher> -p <data dir>/hashpipe.so -l
  rsync --server --sender, for files of runs
  only_daq.py software          which software is here

Anything else is refused with one line (exit code 3) and logged: syslog, and only_daq.log in the
data directory.  An installed HASHPIPE is allowed where the line above names it, too:
only_daq.py /data/panoseti --hashpipe_dir /usr/local.

Python >= 3.8, standard library alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import syslog
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence

from daq_facts import (
    EXIT_FAILED,
    EXIT_REFUSED,
    FILE_NAME,
    HELPERS,
    LAUNCHER,
    MODULE_DIR,
    PLUGIN,
    check_host_word,
    check_run_name,
    utc_text,
)

PROGRAM = "only_daq.py"
LOG_FILE = "only_daq.log"
LOG_MAX_BYTES = 10_000_000
SHOWN_LENGTH = 300
CAPABILITIES = "security.capability"
# What a user's programs need; nothing that makes Python, rsync or the loader do something else.
KEPT_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ")
COMMAND_NOT_FOUND = 127

# The letters and options that this software's rsync sends; e... says what the client can do.
RSYNC_LETTERS = re.compile(r"-(?P<letters>[stIR]+)(?P<client>e[0-9A-Za-z.]*)?")
RSYNC_OPTIONS = ("--inplace", "--no-implied-dirs")
RSYNC_TIMEOUT = re.compile(r"--timeout=[0-9]{1,5}")
RSYNC_WORDS_MAX_BYTES = 500_000


class NotAllowedError(Exception):
    """The request is not one of those that are allowed; the message says why."""


class Key(NamedTuple):
    """What the line in authorized_keys allows: a data directory, an installed HASHPIPE."""

    root: str
    hashpipe_dir: Optional[str]

    def path(self, name: str) -> str:
        """A file of the data directory."""
        return os.path.join(self.root, name)


class Permitted(NamedTuple):
    """What is run instead of the request: words, and the directory it is run in."""

    words: List[str]
    folder: str = "/"


# --- values of options ---


def _run(text: str, key: Key) -> None:
    check_run_name(text)


def _host(text: str, key: Key) -> None:
    check_host_word(text)


def _matching(pattern: str) -> Callable[[str, Key], None]:
    compiled = re.compile(pattern)

    def check(text: str, key: Key) -> None:
        if not compiled.fullmatch(text):
            raise ValueError(f"{text!r} is not a value of it")

    return check


def _root(text: str, key: Key) -> None:
    if os.path.normpath(text) != key.root:
        raise ValueError(f"{text!r} is not the data directory of this key")


def _hashpipe_dir(text: str, key: Key) -> None:
    if key.hashpipe_dir is None or os.path.normpath(text) != key.hashpipe_dir:
        raise ValueError(f"{text!r} is not the HASHPIPE of this key")


Check = Callable[[str, Key], None]
_NUMBER = _matching(r"[0-9][0-9.e+]{0,19}")
_TEXT = _matching(r"(?!-)[^\x00-\x1f\x7f]{0,200}")
_NAME = _matching(r"[A-Za-z0-9_.][A-Za-z0-9_.:+@=,~ -]{0,199}")
_DATA_DIR = {"--data_dir": _root}
_OF_RUN: Dict[str, Optional[Check]] = {**_DATA_DIR, "--run": _run}

# Options of the helpers, each at most once and in full; None: it has no value.
OPTIONS: Dict[str, Dict[str, Optional[Check]]] = {
    "start_daq.py": {
        **_OF_RUN,
        "--owner": _TEXT,
        "--started_by": _TEXT,
        "--daq_ip": _host,
        "--module_ids": _matching(r"[0-9,]{1,2000}"),
        "--obs": _TEXT,
        "--bindhost": _host,
        "--bindport": _NUMBER,
        "--max_file_size_mb": _NUMBER,
        "--group_ph_frames": _NUMBER,
        "--capture": _matching(r"[a-z]{1,20}"),
        "--receive_buffer_mb": _NUMBER,
        "--busy_poll": _NUMBER,
        "--cpus": _matching(r"[0-9,]{1,20}"),
        "--deadline_s": _NUMBER,
        "--helpers": _NAME,
        "--again": None,
        "--copies": None,
        "--hashpipe_dir": _hashpipe_dir,
    },
    "stop_daq.py": {
        **_OF_RUN,
        "--deadline_s": _NUMBER,
        "--drain_s": _NUMBER,
        "--owner": _TEXT,
        "--over": _run,
        "--force": None,
    },
    "status_daq.py": {**_OF_RUN, "--growth_s": _NUMBER},
    "run_files.py runs": {**_DATA_DIR},
    "run_files.py place": {**_DATA_DIR, "--marker": _NAME},
    "run_files.py list": _OF_RUN,
    "run_files.py hash": _OF_RUN,
    "run_files.py move": _OF_RUN,
    "run_files.py delete": {**_OF_RUN, "--run_dir": None},
}


def main(argv: Sequence[str]) -> int:
    """Carry out the request of SSH_ORIGINAL_COMMAND; returns only when that was refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", help="the only data directory the key may use")
    parser.add_argument("--hashpipe_dir", help="prefix of the installed HASHPIPE it may use")
    args = parser.parse_args(argv)
    installed = args.hashpipe_dir and os.path.normpath(args.hashpipe_dir)
    key = Key(os.path.normpath(args.data_dir), installed)
    request = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    try:
        if not os.path.isabs(key.root):
            raise NotAllowedError(f"{key.root} in authorized_keys is not an absolute path")
        if request == f"{PROGRAM} software":
            print(json.dumps(software(key.root)))
            return 0
        permitted = check(split(request), key)
    except NotAllowedError as refusal:
        log_refusal(key, str(refusal), request)
        print(f"{PROGRAM}: refused: {refusal}", file=sys.stderr)
        return EXIT_REFUSED
    _become(permitted)


def split(request: str) -> List[str]:
    """The words of a command line as a shell without any expansion would see them."""
    if not request:
        raise NotAllowedError("this key opens no shell")
    try:
        return shlex.split(request)
    except ValueError as error:
        raise NotAllowedError(f"the command line is not whole ({error})")


def check(words: Sequence[str], key: Key) -> Permitted:
    """What is run for these words; NotAllowedError when they are none of the allowed requests."""
    if words[:1] == ["python3"]:
        return Permitted(_helper(words[2:] if words[1:2] == ["-B"] else words[1:], key))
    if words[:1] == ["rsync"]:
        return _rsync(words, key)
    launcher = key.path(LAUNCHER)
    if key.hashpipe_dir is not None:
        launcher = os.path.join(key.hashpipe_dir, "bin", LAUNCHER)
    if words and os.path.normpath(words[0]) == launcher:
        if list(words[1:]) == ["-p", key.path(PLUGIN), "-l"]:
            return Permitted([launcher, *words[1:]])
        raise NotAllowedError("the launcher may only list the pipeline's threads")
    raise NotAllowedError(f"{_shown(words[0] if words else '')} is not a program of this key")


def _helper(words: Sequence[str], key: Key) -> List[str]:
    """A helper's command line, checked, with this key's own paths in it; words: after python3."""
    path = os.path.normpath(words[0]) if words else ""
    script = os.path.basename(path)
    rest = list(words[1:])
    known = {name.split(" ")[0] for name in OPTIONS}
    if script not in known or path != key.path(script):
        raise NotAllowedError(f"{_shown(path)} is not a helper in the data directory of this key")
    verb = [rest.pop(0)] if script == "run_files.py" and rest else []
    options = OPTIONS.get(" ".join([script, *verb]))
    if options is None:
        raise NotAllowedError(f"{script} has no {_shown(' '.join(verb))}")
    given = _given(script, rest, options, key)
    if "--data_dir" not in given:
        raise NotAllowedError(f"{script}: --data_dir is missing")
    given["--data_dir"] = key.root
    said = [word for name, value in given.items() for word in (name, value) if word is not None]
    return [sys.executable, "-B", "-s", key.path(script), *verb, *said]


def _given(
    script: str, rest: Sequence[str], options: Dict[str, Optional[Check]], key: Key
) -> Dict[str, Optional[str]]:
    """Options and their values, all of them known, each given once, each value right."""
    given: Dict[str, Optional[str]] = {}
    waiting = list(rest)
    while waiting:
        name = waiting.pop(0)
        if name not in options:
            raise NotAllowedError(f"{script} may not be given {_shown(name)}")
        if name in given:
            raise NotAllowedError(f"{script}: {name} is given twice")
        checked = options[name]
        given[name] = None
        if checked is None:
            continue
        if not waiting:
            raise NotAllowedError(f"{script}: {name} has no value")
        value = waiting.pop(0)
        try:
            checked(value, key)
        except ValueError as error:
            raise NotAllowedError(f"{script} {name}: {_shown(str(error), quoted=False)}")
        given[name] = value
    return given


# --- rsync ---


def _rsync(words: Sequence[str], key: Key) -> Permitted:
    """The sending end of rsync, in the folder of a run."""
    if list(words[1:3]) != ["--server", "--sender"]:
        raise NotAllowedError("rsync may only send files")
    found = RSYNC_LETTERS.fullmatch(words[3]) if len(words) > 3 else None
    if found is None:
        raise NotAllowedError(f"rsync may not be given {_shown(' '.join(words[3:4]))}")
    rest = list(words[4:])
    letters = found["letters"]
    if "s" in letters:
        # The other words come first thing in its input, so that no shell can misread them.
        if rest:
            raise NotAllowedError(f"rsync may not be given {_shown(rest[0])}")
        rest = _words_from_input()
        letters = letters.replace("s", "")
    options: List[str] = []
    while rest and rest[0] != ".":
        option = rest.pop(0)
        if option not in RSYNC_OPTIONS and not RSYNC_TIMEOUT.fullmatch(option):
            raise NotAllowedError(f"rsync may not be given {_shown(option)}")
        options.append(option)
    if len(rest) < 2:
        raise NotAllowedError("rsync must be given files")
    paths = [_file_of_run(word, key) for word in rest[1:]]
    short = f"-{letters}{found['client'] or ''}"
    return Permitted(["rsync", "--server", "--sender", short, *options, ".", *paths], key.root)


def _words_from_input() -> List[str]:
    """The words that rsync --protect-args sends, each ended by a zero byte, an empty one last.

    Byte by byte: what follows is for rsync itself.
    """
    data = bytearray()
    while not data.endswith(b"\0\0"):
        byte = os.read(0, 1)
        if not byte or len(data) > RSYNC_WORDS_MAX_BYTES:
            raise NotAllowedError("rsync's words in its input do not end")
        data += byte
    words = [os.fsdecode(bytes(word)) for word in data[:-2].split(b"\0")]
    if words[0] != "rsync":
        raise NotAllowedError(f"rsync's words in its input begin with {_shown(words[0])}")
    return words[1:]


def _file_of_run(text: str, key: Key) -> str:
    """The file's path in the data directory: <run>/<name> or module_<id>/<run>/<name>.

    The module's directory may be a link to another disk; neither the run's nor the file may be one.
    """
    root, mark, path = text.partition("/./")
    words = path.split("/")
    module = words[0] if len(words) == 3 else ""
    if not mark or os.path.normpath(root) != key.root or len(words) not in (2, 3):
        raise NotAllowedError(
            f"{_shown(text)} is no file of a run in the data directory of this key"
        )
    if module and not MODULE_DIR.fullmatch(module):
        raise NotAllowedError(f"{_shown(text)}: {_shown(module)} is not a module's directory")
    try:
        check_run_name(words[-2])
    except ValueError as error:
        raise NotAllowedError(str(error))
    if not FILE_NAME.fullmatch(words[-1]):
        raise NotAllowedError(f"{_shown(words[-1])} is not the name of a file of a run")
    for place in (key.path(os.path.dirname(path)), key.path(path)):
        if os.path.islink(place):
            raise NotAllowedError(f"{_shown(place)} is a link")
    return path


# --- which software is here ---


def software(root: str) -> Dict[str, object]:
    """What `config.py --init_daq_nodes` compares with what it would put here."""
    digests = {}
    for name in (*HELPERS, LAUNCHER, PLUGIN):
        try:
            digests[name] = hashlib.sha256(Path(root, name).read_bytes()).hexdigest()
        except OSError:
            digests[name] = ""
    return {
        "python": list(sys.version_info[:3]),
        "pgrep": shutil.which("pgrep"),
        "writable": os.access(root, os.W_OK),
        "made": False,
        "digests": digests,
        "root": os.geteuid() == 0,
        "capabilities": capabilities(os.path.join(root, LAUNCHER)),
    }


def capabilities(path: str) -> str:
    """The capabilities of a file as the kernel stores them, in hexadecimal."""
    try:
        return os.getxattr(path, CAPABILITIES).hex()
    except OSError:
        return ""


# --- running, refusing ---


def _become(permitted: Permitted) -> NoReturn:
    """Run the words in place of this program."""
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    try:
        os.chdir(permitted.folder)
        os.execvpe(permitted.words[0], permitted.words, environment)
    except FileNotFoundError:
        print(f"{permitted.words[0]}: not found", file=sys.stderr)
        sys.exit(COMMAND_NOT_FOUND)
    except OSError as error:
        print(f"{permitted.words[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def log_refusal(key: Key, why: str, request: str) -> None:
    """One line to syslog and into the data directory; a full disk keeps nothing from happening."""
    client = os.environ.get("SSH_CONNECTION", "").split(" ")[0] or "?"
    line = f"refused to {_shown(client, quoted=False)}: {why}: {_shown(request)}"
    syslog.openlog(PROGRAM, syslog.LOG_PID, syslog.LOG_AUTH)
    syslog.syslog(syslog.LOG_WARNING, line)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(key.path(LOG_FILE), flags, 0o600)
    except OSError:
        return
    try:
        if os.fstat(fd).st_size < LOG_MAX_BYTES:
            os.write(fd, f"{utc_text()} {line}\n".encode("utf-8", "replace"))
    except OSError:
        pass
    finally:
        os.close(fd)


def _shown(text: str, quoted: bool = True) -> str:
    """Somebody else's text as part of one line, cut where it is long."""
    shown = repr(text) if quoted or not text.isprintable() else text
    return shown if len(shown) <= SHOWN_LENGTH else f"{shown[:SHOWN_LENGTH]}..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
