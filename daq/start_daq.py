#!/usr/bin/env python3
"""Start recording on this DAQ node; prints one JSON document.

Success means that the pipeline runs with all its threads and has its socket open.  Otherwise
everything is undone and the document tells why, with the last lines of the pipeline's log.

Python >= 3.8, standard library, pgrep and the shell alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import daq_facts
from daq_files import HEAD_RUN_FILE, is_head_run_dir
from daq_launch import Attempt, Interruption, Launch
from daq_node import (
    A_START,
    DaqError,
    Document,
    Lock,
    Parser,
    RefusedError,
    RunState,
    StateError,
    UsageError,
    call,
    create_state,
    describe,
    is_directory,
    is_over,
    last_lines,
    open_data_dir,
    read_run_state,
    refuse_if_over,
    remove_state,
    run_argument,
    run_state_bytes,
    write_state,
)
from daq_process import (
    Identity,
    find_pipelines,
    is_alive,
    pid_file_bytes,
    read_pid_file,
)

EXAMPLE = """example:
  python3 start_daq.py --data_dir /data/panoseti --owner head1 --daq_ip 192.168.1.101 \\
      --run obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd --obs Lick --module_ids 1,254
"""
COPIES_MAX_BYTES = 16 << 20
CPU_OF_HASHPIPE_MAX = 31  # its launcher keeps them as bits of a word


class Order(NamedTuple):
    """What was asked for, checked."""

    run: str
    owner: str
    started_by: str
    daq_ip: str
    modules: List[int]
    launcher: str
    options: List[str]
    cpus: List[int]
    deadline_s: float
    again: bool


def main(argv: Sequence[str]) -> Document:
    """Start recording; the JSON document."""
    args = _parser().parse_args(argv)
    order = _order(args)
    copies = read_copies() if args.copies else {}
    here = daq_facts.helpers_digest(Path(__file__).resolve().parent)
    if args.helpers not in (None, here):
        raise RefusedError(
            "the helpers on this node are not those of this head node: config.py --init_daq_nodes"
        )
    open_data_dir(args.data_dir)
    begin = time.monotonic()
    about = (
        f"{A_START}{order.run} by {order.started_by or order.owner} since {daq_facts.utc_text()}"
    )
    refuse_if_over(order.run)  # nobody who starts another one is to wait for that
    with Lock(about):
        if order.again:
            _check_begun(order)
        replaced = _check_idle(order)
        attempt, launch = Attempt(), Launch(Interruption())
        try:
            identity = _start(order, copies, attempt, launch)
        except (DaqError, OSError) as error:
            raise _undone(order, attempt, launch, error)
    return {
        "run": order.run,
        "owner": order.owner,
        "pid": identity.pid,
        "ready_s": round(time.monotonic() - begin, 3),
        "replaced_run": replaced,
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="data directory of this node")
    add("--run", required=True, type=run_argument, help="name of the run")
    add("--owner", required=True, help="token of the head node the run belongs to")
    add("--started_by", default="", help="who started it, as shown to others")
    add("--daq_ip", required=True, help="address of this node as in daq_config.json")
    add("--module_ids", required=True, help="modules to record, for example 1,254")
    add("--obs", required=True, help="name of the observatory")
    add("--bindhost", default="0.0.0.0", help="interface or address (default: %(default)s)")
    add("--bindport", type=int, default=60001, help="UDP port (default: %(default)s)")
    add("--max_file_size_mb", type=int, default=0, help="size of a file, 0 = no limit")
    add("--group_ph_frames", type=int, choices=(0, 1), default=0, help="1: ph1024 frames")
    add("--capture", choices=("auto", "udp", "packet"), help="way of capturing (standard: auto)")
    add("--receive_buffer_mb", type=int, help="the kernel's buffer (standard: 64)")
    add("--busy_poll", type=int, choices=(0, 1), help="1: the net thread never sleeps")
    add("--cpus", help="CPUs of the net, compute and output thread, for example 4,5,6")
    add("--deadline_s", type=float, default=30.0, help="to be ready (default: %(default)g)")
    add("--helpers", help="refuse unless the set of helpers here has this digest")
    add("--again", action="store_true", help="the run was begun here: its folders must be there")
    add("--copies", action="store_true", help="small files for the run: {name: text} on stdin")
    add("--hashpipe_dir", help="prefix of an installed HASHPIPE whose launcher is to be used")
    return parser


def _order(args: argparse.Namespace) -> Order:
    """The arguments checked: nothing that the pipeline would cut or misread passes."""
    try:
        modules = sorted({int(word) for word in args.module_ids.split(",")})
        directories = [daq_facts.module_dir(module) for module in modules]
    except ValueError as error:
        raise UsageError(f"--module_ids {args.module_ids}: {error}")
    try:
        log = daq_facts.log_name(args.daq_ip)
    except ValueError as error:
        raise UsageError(f"--daq_ip: {error}")
    if not directories or not 0 < args.bindport < 65536 or args.max_file_size_mb < 0:
        raise UsageError("--bindport is 1 to 65535, --max_file_size_mb 0 or more")
    values = {
        "BINDHOST": args.bindhost,
        "BINDPORT": str(args.bindport),
        "RUNDIR": args.run,
        "CONFIG": f"./{daq_facts.MODULE_FILE}",
        "MAXFILESIZE": str(args.max_file_size_mb),
        "GROUPPHFRAMES": str(args.group_ph_frames),
        "OBS": args.obs,
        "LOGFILE": log,
        **_tuning(args),
    }
    for key, value in values.items():
        if len(value) > daq_facts.OPTION_MAX_LENGTH:
            raise UsageError(
                f"{key}={value}: {len(value)} characters, more than the"
                f" {daq_facts.OPTION_MAX_LENGTH} that reach the pipeline whole; use a shorter one"
            )
        if value != value.strip() or not value.isprintable() or "'" in value:
            raise UsageError(f"{key}={value!r}: blanks at its ends, quotes or control characters")
    if not args.owner.strip() or not (args.owner + args.started_by).isprintable():
        raise UsageError(f"--owner {args.owner!r}: give one line of text")
    launcher = f"./{daq_facts.LAUNCHER}"
    if args.hashpipe_dir:
        launcher = os.path.join(args.hashpipe_dir, "bin", daq_facts.LAUNCHER)
    return Order(
        run=args.run,
        owner=args.owner,
        started_by=args.started_by,
        daq_ip=args.daq_ip,
        modules=modules,
        launcher=launcher,
        options=[f"{key}={value}" for key, value in values.items()],
        cpus=_cpus(args.cpus, args.hashpipe_dir),
        deadline_s=args.deadline_s,
        again=args.again,
    )


def _tuning(args: argparse.Namespace) -> Dict[str, str]:
    """Options of the pipeline that are left to it unless they are given."""
    given = {
        "CAPTURE": args.capture,
        "RCVMB": args.receive_buffer_mb,
        "BUSYPOLL": args.busy_poll,
    }
    return {key: str(value) for key, value in given.items() if value is not None}


def _cpus(text: Optional[str], hashpipe_dir: Optional[str]) -> List[int]:
    """CPUs of the pipeline's threads, in their order; [] = any."""
    if text is None:
        return []
    threads = daq_facts.PIPELINE_THREADS
    words = text.split(",")
    if len(words) != len(threads) or not all(word.isdecimal() for word in words):
        raise UsageError(f"--cpus {text}: give {len(threads)} numbers, for {', '.join(threads)}")
    here = os.sched_getaffinity(0)
    for cpu in map(int, words):
        if cpu not in here:
            known = ",".join(map(str, sorted(here)))
            raise UsageError(f"--cpus {text}: no CPU {cpu} can be used here (there are {known})")
        if hashpipe_dir and cpu > CPU_OF_HASHPIPE_MAX:
            raise UsageError(
                f"--cpus {text}: the launcher in {hashpipe_dir} knows CPUs 0 to"
                f" {CPU_OF_HASHPIPE_MAX} only; give others, or no --hashpipe_dir"
            )
    return [int(word) for word in words]


def _check_idle(order: Order) -> Optional[str]:
    """Refuse while anything records; the run whose stale state is replaced, if any."""
    refuse_if_over(order.run)
    for pipeline in find_pipelines():
        whose = pipeline.whose()
        of = f", of {whose}" if whose else ""
        raise RefusedError(
            f"{pipeline} is recording{of}; somebody else may be using the observatory:"
            " check, then stop.py"
        )
    state = read_run_state(Path())
    if state is not None and daq_facts.head_of(state.owner) != daq_facts.head_of(order.owner):
        raise RefusedError(
            f"this node is in run {state.run} of {state.whose()}, of another head node, though"
            " nothing records; somebody else may be using the observatory: check there; if that"
            " run is gone, stop.py --force"
        )
    try:
        identity = read_pid_file(Path())
    except StateError:
        if state is None:
            raise
        identity = None  # replaced together with the state of that dead run
    if identity is not None and is_alive(identity):
        raise RefusedError(
            f"daq_pid names {identity.name} (pid {identity.pid}), which runs; stop.py"
        )
    remove_state(Path(daq_facts.PID_FILE))
    if not order.again:
        remove_state(Path(daq_facts.RUN_FILE))
    return None if state is None else state.run


def _start(order: Order, copies: Dict[str, str], attempt: Attempt, launch: Launch) -> Identity:
    """Make what the pipeline needs, launch it, wait until it records."""
    _claim(order, attempt)
    _make_directories(order, attempt)
    lines = "".join(f"{module}\n" for module in order.modules)
    write_state(Path(daq_facts.MODULE_FILE), lines.encode())
    write_state(Path(daq_facts.LAUNCH_FILE), launch_script(order).encode(), 0o755)
    _keep_older_status(order)
    _await_new_names(order, launch)
    refuse_if_over(order.run)  # a stop does not wait for ever until we have come so far
    _launch(order, attempt, launch)
    deadline = time.monotonic() + order.deadline_s
    _put_copies(order.run, copies, attempt)
    identity = launch.wait_found(deadline)
    write_state(Path(daq_facts.PID_FILE), pid_file_bytes(identity, order.run))
    attempt.on_failure(lambda: remove_state(Path(daq_facts.PID_FILE)))
    _check_alone(identity)
    refuse_if_over(order.run)  # a stop may have looked in between; from now on it sees the pipeline
    launch.wait_recording(identity, _logs(order)[2], deadline)
    return identity


def _claim(order: Order, attempt: Attempt) -> None:
    """Make this node the run's.

    A run that goes on has it already, and keeps it when this attempt fails: to its end, nobody
    else begins anything here.
    """
    path = Path(daq_facts.RUN_FILE)
    state = RunState(order.run, order.owner, order.started_by, order.daq_ip, time.time())
    if order.again:
        attempt.on_failure(lambda: remove_state(path) if is_over(order.run) else None)
        write_state(path, run_state_bytes(state))
    else:
        create_state(path, run_state_bytes(state))
        attempt.on_failure(lambda: remove_state(path))


def _check_begun(order: Order) -> None:
    """After a reboot an empty folder may be where a disk was: nothing is recorded into it."""
    for module in order.modules:
        folder = Path(daq_facts.module_run_dir(module, order.run))
        if not folder.is_dir():
            raise DaqError(f"{folder.absolute()} is gone since the run began: mount its disk")


def _check_alone(identity: Identity) -> None:
    """Of two started at the same moment, from two data directories, the later one gives way."""
    for other in find_pipelines():
        first = (other.identity.start_ticks, other.pid) < (identity.start_ticks, identity.pid)
        if other.identity != identity and first:
            whose = other.whose()
            of = f" of {whose}" if whose else ""
            raise RefusedError(f"{other}{of} was started at the same moment and came first")


def _make_directories(order: Order, attempt: Attempt) -> None:
    for module in order.modules:
        _make_directory(_module_directory(module), attempt)
        _make_directory(Path(daq_facts.module_run_dir(module, order.run)), attempt)
        _forget_empty_files(Path(daq_facts.module_run_dir(module, order.run)), attempt)
    _make_directory(Path(order.run), attempt)
    logs = _logs(order)
    for path in (*logs, *(logs[2].with_suffix(suffix) for suffix in (".json.tmp", ".json.new"))):
        if not path.exists():
            attempt.on_failure(functools.partial(remove_state, path))


def _module_directory(module: int) -> Path:
    """The module's directory, which may be a link to another disk."""
    path = Path(daq_facts.module_dir(module))
    if path.is_symlink() and not path.exists():
        raise DaqError(
            f"{path.absolute()} is a link to {os.readlink(path)}, which is not there:"
            " mount that disk or correct the link"
        )
    if path.exists() and not path.is_dir():
        raise DaqError(f"{path.absolute()} is not a directory: move it away")
    return path


def _make_directory(path: Path, attempt: Attempt) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise DaqError(f"{path.absolute()} is not a directory: move it away")
        if not os.access(path, os.W_OK | os.X_OK):
            raise DaqError(f"{path.absolute()} cannot be written by this user: correct its owner")
        return
    attempt.on_failure(lambda: _remove_empty(path))


def _remove_empty(path: Path) -> None:
    try:
        os.rmdir(path)
    except OSError:
        if is_directory(path):
            raise DaqError(f"{path.absolute()} is not empty and was kept")


def _forget_empty_files(folder: Path, attempt: Attempt) -> None:
    """On failure, remove the empty files that the pipeline makes at its start."""
    before = set(os.listdir(folder))

    def remove() -> None:
        for name in os.listdir(folder):
            path = folder / name
            ours = name not in before and daq_facts.DATA_FILE.fullmatch(name)
            if ours and os.lstat(path).st_size == 0:
                os.unlink(path)

    attempt.on_failure(remove)


def read_copies() -> Dict[str, str]:
    """The JSON object on stdin: names of files, and their texts."""
    data = sys.stdin.buffer.read(COPIES_MAX_BYTES + 1)
    try:
        if len(data) > COPIES_MAX_BYTES:
            raise ValueError(f"more than {COPIES_MAX_BYTES} bytes")
        copies = json.loads(data)
        if not isinstance(copies, dict) or not all(type(v) is str for v in copies.values()):
            raise ValueError("not an object of texts")
    except ValueError as error:
        raise UsageError(f"--copies: stdin: {error}")
    for name in copies:
        if not daq_facts.FILE_NAME.fullmatch(name) or name == HEAD_RUN_FILE:
            raise UsageError(f"--copies: {name!r} cannot be the name of a file of a run")
    return copies


def _put_copies(run: str, copies: Dict[str, str], attempt: Attempt) -> None:
    """The head node's small files, unless <run>/ is its own and has them already."""
    if is_head_run_dir(run):
        return
    for name, text in copies.items():
        path = Path(run) / name
        if not path.exists():
            attempt.on_failure(functools.partial(remove_state, path))
        write_state(path, text.encode())


def _logs(order: Order) -> List[Path]:
    names = (
        daq_facts.stdout_name(order.daq_ip),
        daq_facts.log_name(order.daq_ip),
        daq_facts.status_name(order.daq_ip),
    )
    return [Path(order.run) / name for name in names]


def _keep_older_status(order: Order) -> None:
    """A pipeline restarted within a run must not cost the accounts of the one before."""
    path = _logs(order)[2]
    part = 1
    while path.exists():
        older = path.with_name(f"{path.stem}.part_{part}.json")
        if not older.exists():
            os.rename(path, older)
        part += 1


def _await_new_names(order: Order, launch: Launch) -> None:
    """Files are named after the second they are opened in: not the same one twice in a run."""
    folders = [daq_facts.module_run_dir(module, order.run) for module in order.modules]

    def taken() -> bool:
        stamp = f"start_{daq_facts.utc_text()}"
        return any(name.startswith(stamp) for folder in folders for name in os.listdir(folder))

    while taken():
        launch.pause()


def launch_script(order: Order) -> str:
    """run_hashpipe.sh: the command line, one option a line, to be read and to be run by hand."""
    plugin = os.path.join(os.getcwd(), daq_facts.PLUGIN)
    lines = [f"exec {shlex.quote(order.launcher)} -p {shlex.quote(plugin)} -I 0"]
    lines += [f"    -o {shlex.quote(option)}" for option in order.options]
    threads = list(daq_facts.PIPELINE_THREADS)
    if order.cpus:
        threads = [f"-c {order.cpus[k]} {thread}" for k, thread in enumerate(threads)]
    lines += ["    " + " ".join(threads)]
    return (
        "#!/bin/sh\n"
        "# Written by start_daq.py for each run; starts the recording pipeline.\n"
        f"cd {shlex.quote(os.getcwd())} || exit 1\n" + " \\\n".join(lines) + "\n"
    )


def _launch(order: Order, attempt: Attempt, launch: Launch) -> None:
    """Start the script, its output in the run directory."""
    for name in (order.launcher, daq_facts.PLUGIN):
        if not os.path.exists(name):
            raise DaqError(
                f"{os.path.abspath(name)} is missing: config.py --init_daq_nodes"
                + (" (or correct hashpipe_dir)" if name != daq_facts.PLUGIN else "")
            )
    attempt.on_failure(launch.end)
    launch.begin(daq_facts.LAUNCH_FILE, _logs(order)[0])


def _undone(order: Order, attempt: Attempt, launch: Launch, error: Exception) -> DaqError:
    """Undo; the error to raise, with what the pipeline said last."""
    said = last_lines(_logs(order)[0]) if launch.begun else []
    logged = last_lines(_logs(order)[1]) if launch.begun else []
    left = attempt.undo()
    text = describe(error) if isinstance(error, OSError) else str(error)
    errors = [line.partition(" ERROR ")[2] for line in logged if " ERROR " in line]
    text += "".join(f": {word}" for word in (errors or said or logged)[-1:])
    text += "".join(f"; could not be undone: {what}" for what in left)
    result = type(error) if isinstance(error, DaqError) else DaqError
    others = [] if isinstance(error, RefusedError) else find_pipelines()
    if others:  # the other one of two starts at the same moment took what we needed
        whose = others[0].whose()
        of = f" of {whose}" if whose else ""
        result, text = RefusedError, f"{others[0]}{of} came first ({text})"
    return result(text, stdout_tail=said, log_tail=logged, left=left)


if __name__ == "__main__":
    sys.exit(call(main, sys.argv[1:]))
