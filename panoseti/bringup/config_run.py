"""One call of config.py: which tasks it asks for, whether they may be done now, and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from panoseti.boards.board_work import Problem, Work, addresses
from panoseti.bringup import session
from panoseti.bringup.config_request import Job, Request, Task
from panoseti.bringup.config_tasks import BRING_UP, HV_OFF, TASKS
from panoseti.bringup.ledger_file import LedgerFile, held_ledger, read_ledger
from panoseti.configs.load_configs import OBS_CONFIG, Site
from panoseti.configs.selection import select
from panoseti.configs.site import Quabo
from panoseti.console import Console
from panoseti.errors import EXIT_FAILED, EXIT_OK, ConfigError, Fault, RefusedError
from panoseti.flight import FlightRecorder
from panoseti.runs.run_state import read_holder

# What may be asked for while daemons of this session work for another data directory.
ENDING = ("hv_off", "stop_redis_daemons", "shutdown")


def run(
    site: Site,
    request: Request,
    console: Console,
    flight: FlightRecorder,
    earlier: Sequence[Problem] = (),
) -> int:
    """Do what was asked for; the exit code.  RefusedError when it may not be done now.

    earlier: what went wrong before, with `off_first`.
    """
    for warning in site.warnings:
        console.detail(f"warning: {warning}") if request.tasks else console.warn(warning)
    tasks = chosen_tasks(request)
    _refuse(site, tasks, request.dry_run, console)
    document: dict[str, Any] = {}
    problems = list(earlier)
    boards = select(site.obs, request.choices)
    _some_are_there(site, boards)
    if not request.dry_run:
        tasks = [task for task in tasks if task is not HV_OFF]  # that is done
    with ExitStack() as held:
        if tasks:
            work = Work(site, boards, _book(held, site, tasks, request), console, flight)
            job = Job(work, request, document)
            for task in tasks:
                if request.dry_run and task.changes and task is not BRING_UP:
                    _say_only(job, task)
                else:
                    task.do(job)
            problems += work.problems
    return finish(console, problems, document)


def finish(console: Console, problems: Sequence[Problem], document: Mapping[str, Any]) -> int:
    """The answer of --json, and the exit code."""
    if console.json_output:
        told = [asdict(problem) for problem in problems]
        console.result({"ok": not problems, "problems": told, **document})
    return EXIT_FAILED if problems else EXIT_OK


def chosen_tasks(request: Request) -> list[Task]:
    """The tasks of a request in the order in which they are done."""
    return [task for task in TASKS if task.name in request.tasks] or [BRING_UP]


def needs_data(request: Request) -> bool:
    """Whether data_config.json is to be read."""
    return any(task.needs_data for task in chosen_tasks(request))


def _some_are_there(site: Site, boards: Sequence[Quabo]) -> None:
    """ConfigError when obs_config.json says that all these boards are absent."""
    if all(quabo.ip in site.obs.known_absent for quabo in boards):
        where = addresses([quabo.ip for quabo in boards])
        remedy = "absent, as this file says; take what is back out of absent_quabos"
        raise ConfigError([Fault(OBS_CONFIG, "$.domes", where, remedy)])


def _refuse(site: Site, tasks: Sequence[Task], dry_run: bool, console: Console) -> None:
    if not all(task.anywhere for task in tasks) and not site.is_head_node_here():
        raise RefusedError(
            f"this is not the head node ({site.daq.head_node_ip_addr} in daq_config.json);"
            " run config.py there"
        )
    strays = session.elsewhere(site)
    if dry_run or all(task.name in ENDING or not task.changes for task in tasks):
        for text in [session.elsewhere_text(strays)] if strays else []:
            console.warn(text)
    else:
        session.refuse_elsewhere(strays)
    disturbing = [task for task in tasks if not task.in_run]
    if not disturbing or dry_run:
        return
    holder = read_holder(site.head_data_dir)
    if holder is not None:
        what = disturbing[0].what
        raise RefusedError(
            f"{what} would disturb the run in progress, {holder}; stop.py first (is it yours?)"
        )


def _book(held: ExitStack, site: Site, tasks: Sequence[Task], request: Request) -> LedgerFile:
    if request.dry_run or not any(task.changes for task in tasks):
        return LedgerFile(site.head_data_dir, read_ledger(site.head_data_dir), keep=False)
    return held.enter_context(held_ledger(site.head_data_dir, request.words))


def _say_only(job: Job, task: Task) -> None:
    """What a task would do: to which boards at least, and why where it can be told."""
    plan = job.document.setdefault("plan", [])
    if task.plan is None:
        where = addresses([quabo.ip for quabo in job.work.boards])
        job.console.out(f"would: {task.what} ({where})")
        plan.append({"step": task.name, "where": where, "reason": ""})
        return
    reasons = task.plan(job)
    for ip, reason in reasons.items():
        job.console.out(f"would: {task.what} of {ip}: {reason}")
        plan.append({"step": task.name, "where": ip, "reason": reason})
    if not reasons:
        job.console.out(f"would not {task.what}: nothing is missing")
