"""What a run holds: per module the frames that were to be expected, recorded, lost and partial, per
board its packets, silences and housekeeping.

Three witnesses are heard: the data files themselves, the account that each pipeline left beside
them (`hp_status_<ip>.json`), and the watcher's log.  Where they disagree, that is a problem of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from panoseti.boards.addresses import redis_key
from panoseti.configs.load_configs import Site, load_site
from panoseti.errors import ConfigError
from panoseti.housekeeping.hk_coverage import Coverage, coverage
from panoseti.nodes.node_types import Pipeline
from panoseti.runs import file_checks, pff
from panoseti.runs.file_checks import ProductCheck, data_files
from panoseti.runs.run_account import Account, QuaboSums, account_of, read_account
from panoseti.runs.run_gaps import outages, silences
from panoseti.runs.run_record import read_record
from panoseti.runs.run_state import StateError
from panoseti.runs.watch_log import Span, read_entries

COLUMNS = ("module", "product", "expected", "recorded", "lost", "partial", "HK records")
__all__ = ["COLUMNS", "ProductRow", "QuaboSums", "RunSummary", "data_files", "first_file",
           "summarize"]  # fmt: skip


@dataclass(frozen=True)
class ProductRow:
    """One product of one module.

    expected: frames between first and last, None where that cannot be told (pulse heights);
    lost: expected frames that are missing, for pulse heights packets by their numbers; partial:
    frames with a board missing; size_bytes, files: of what is not empty; looked_at: frames that
    were looked at for the verdict.
    """

    module: int
    product: str
    expected: int | None
    recorded: int
    lost: int
    partial: int
    size_bytes: int
    files: int
    looked_at: int = 0


@dataclass(frozen=True)
class RunSummary:
    """rows: by module and product; quabos: by module and index; hk: by board address; silent: when
    a board was silent, by address; outages: when a pipeline did not work, by node; drops,
    restarts: by node, where there were any.

    problems: in words, none = all well; missing: those of them that say what pipelines wrote and
    is not here; checked_all: whether every frame was looked at, and all of the housekeeping;
    files_left: no file was looked at, they were left on the nodes; quiet: that nothing was recorded
    was to be expected (see `_is_quiet`).
    """

    run: str
    rows: tuple[ProductRow, ...]
    hk_records: Mapping[int, int]
    quabos: Mapping[tuple[int, int], QuaboSums]
    rejected: int
    kernel_drops: int
    unwritten: int
    problems: tuple[str, ...]
    checked_all: bool
    hk: Mapping[str, Coverage] = field(default_factory=dict)
    silent: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    outages: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    files_left: bool = False
    missing: tuple[str, ...] = ()
    quiet: bool = False

    @property
    def checked(self) -> str:
        """What the verdict rests upon, in words."""
        if self.files_left:
            return "by the pipelines' accounts; the files were left on the nodes"
        looked_at = sum(row.looked_at for row in self.rows)
        frames = sum(row.recorded for row in self.rows)
        if looked_at == frames:
            return f"all {frames} frames checked"
        return f"{looked_at} of {frames} frames checked, the first and last of each file among them"

    def table(self) -> list[list[object]]:
        """Rows under COLUMNS; the HK records stand in the first row of a module."""
        seen: set[int] = set()
        rows: list[list[object]] = []
        for row in self.rows:
            hk = self.hk_records.get(row.module, 0) if row.module not in seen else None
            seen.add(row.module)
            rows.append(
                [row.module, row.product, row.expected, row.recorded, row.lost, row.partial, hk]
            )
        for module, hk in self.hk_records.items():
            if module not in seen:
                rows.append([module, None, None, None, None, None, hk])
        return rows

    def document(self) -> dict[str, Any]:
        """For --json and run.json."""
        return {
            "run": self.run,
            "modules": [asdict(row) for row in self.rows],
            "quabos": [
                {"module": module, "quabo": quabo, **asdict(sums)}
                for (module, quabo), sums in sorted(self.quabos.items())
            ],
            "hk_records": {str(module): count for module, count in self.hk_records.items()},
            "hk": {ip: asdict(one) for ip, one in self.hk.items()},
            "silent": _spans_document(self.silent),
            "outages": _spans_document(self.outages),
            "restarts": dict(self.restarts),
            "rejected": self.rejected,
            "kernel_drops": self.kernel_drops,
            "kernel_drops_by_node": dict(self.drops),
            "unwritten": self.unwritten,
            "problems": list(self.problems),
            "checked_all": self.checked_all,
            "checked": self.checked,
            "quiet": self.quiet,
        }


def _spans_document(found: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    return {name: [asdict(span) for span in group] for name, group in found.items()}


def summarize(
    directory: Path,
    budget_s: float = file_checks.BUDGET_S,
    ended_unix: float | None = None,
    left: Mapping[str, Pipeline] | None = None,
    progress: Callable[[float], object] | None = None,
) -> RunSummary:
    """Look through a collected run.

    budget_s: how long the frames may be looked at, about; ended_unix: when it ended, where run.json
    does not say so yet; left: where the files were left on the nodes, the last words of the
    pipeline of each node; progress: is told what fraction of the frames was passed.
    """
    problems: list[str] = []
    try:
        site: Site | None = load_site(directory)
    except ConfigError as error:
        site = None
        problems.append(f"frozen configs: {error.faults[0]}")
    document = _document(directory)
    begin, end = _time(document, "started_unix"), _time(document, "ended_unix")
    end = ended_unix if end is None else end
    account = read_account(directory) if left is None else account_of(left)
    problems += account.problems
    missing: list[str] = []
    if left is None:
        checks = file_checks.check_files(directory, begin, end, budget_s, progress)
        rows = tuple(_row(check, account, site, problems) for check in checks)
        missing = _missing(account, checks)
        problems += missing
    else:
        checks, rows = [], _rows_of(left)
    hk, hk_whole = _housekeeping(directory, site, begin, end)
    entries = read_entries(directory)
    last = end if end is not None else max((entry.unix for entry in entries), default=0.0)
    last = min(last, _told_to_end_unix(document))
    expected = document.get("expected", {}).get("quabos", ())
    return RunSummary(
        run=directory.name,
        rows=rows,
        hk_records=_hk_records(site, hk),
        quabos=account.quabos,
        rejected=account.totals["rejected"],
        kernel_drops=account.totals["kernel_drops"],
        unwritten=account.totals["unwritten"],
        problems=tuple(problems),
        checked_all=hk_whole and left is None and all(check.checked_all for check in checks),
        hk=hk,
        silent=silences(entries, account, site, expected, last),
        outages=outages(entries, account, last),
        drops={node: count for node, count in account.drops.items() if count},
        restarts={node: count for node, count in account.restarts.items() if count},
        files_left=left is not None,
        missing=tuple(missing),
        quiet=_is_quiet(site, account, len(document.get("expected", {}).get("nodes", ()))),
    )


def _is_quiet(site: Site | None, account: Account, nodes: int) -> bool:
    """Whether nothing came though the pipelines of all nodes listened until the end, of boards that
    the policy lets be quiet: there are pulse heights alone.
    """
    if site is None or site.data.image is not None or not site.obs.run_policy.ph_may_be_quiet:
        return False
    listened = account.found >= nodes > 0 and not account.problems
    return listened and account.totals["received"] == 0


def _missing(account: Account, checks: Sequence[ProductCheck]) -> list[str]:
    """What pipelines say they wrote, and the files do not have."""
    found = {(check.module, check.product): check.frames for check in checks}
    return [
        _disagreement(module, product, found[module, product], counted)
        if (module, product) in found
        else f"module {module}: no {product} file for {counted} recorded frames"
        for (module, product), counted in sorted(account.frames.items())
        if counted > found.get((module, product), 0)
    ]


def _disagreement(module: int, product: str, frames: int, counted: int) -> str:
    return (
        f"module {module}: {frames} {product} frames in the files, {counted} in the pipeline's"
        " account"
    )


def _rows_of(left: Mapping[str, Pipeline]) -> tuple[ProductRow, ...]:
    """What pipelines say they have written; packets that were lost are told by board."""
    return tuple(
        ProductRow(
            module=one.module,
            product=one.product,
            expected=None,
            recorded=one.frames,
            lost=0,
            partial=one.partial,
            size_bytes=one.bytes,
            files=one.files,
        )
        for pipeline in left.values()
        for one in pipeline.products
        if one.frames
    )


def _document(directory: Path) -> dict[str, Any]:
    """run.json, as far as it can be read."""
    try:
        return read_record(directory).document
    except (OSError, StateError):
        return {}


def _time(document: Mapping[str, Any], name: str) -> float | None:
    """When the first board may have begun, or when recording had ended."""
    found = document.get(name)
    return None if found is None else float(found)


def _told_to_end_unix(document: Mapping[str, Any]) -> float:
    """When the first stop began; nodes that are dead make its end late."""
    begun = [s["intent_unix"] for s in document.get("steps", ()) if s.get("phase") == "stop"]
    return min(map(float, begun), default=float("inf"))


def first_file(directory: Path, products: Sequence[str]) -> str | None:
    """Name of the first file of these products that is not empty."""
    files = [(file.start_unix, file.module, file.seqno, path.name)
             for path, file in data_files(directory) if file.product in products]  # fmt: skip
    return min(files)[-1] if files else None


def _row(
    check: ProductCheck, account: Account, site: Site | None, problems: list[str]
) -> ProductRow:
    module, product = check.module, check.product
    problems += check.problems
    counted = account.frames[module, product]
    # What a killed pipeline had written after its last account is in the files alone.
    if account.found and check.frames > counted and module not in account.behind:
        problems.append(_disagreement(module, product, check.frames, counted))
    expected = _expected(check, site)
    lost = account.lost_ph[module] if expected is None else max(0, expected - check.frames)
    return ProductRow(
        module=module,
        product=product,
        expected=expected,
        recorded=check.frames,
        lost=lost,
        partial=check.partial if check.checked_all else account.partial[module, product],
        size_bytes=check.size_bytes,
        files=check.files,
        looked_at=check.looked_at,
    )


def _expected(check: ProductCheck, site: Site | None) -> int | None:
    if check.product not in pff.IMAGE_PRODUCTS or site is None or site.data.image is None:
        return None
    if check.first_unix_ns is None or check.last_unix_ns is None:
        return None
    span_us = (check.last_unix_ns - check.first_unix_ns) / 1000
    return round(span_us / site.data.image.integration_time_us) + 1


def _housekeeping(
    directory: Path, site: Site | None, begin: float | None, end: float | None
) -> tuple[dict[str, Coverage], bool]:
    """By board address."""
    if site is None:
        return {}, True
    keys = {redis_key(quabo.boardloc): quabo.ip for quabo in site.obs.quabos}
    return coverage(directory, keys, begin, end, site.obs.hk_max_age_s)


def _hk_records(site: Site | None, hk: Mapping[str, Coverage]) -> dict[int, int]:
    """Number of HK records of the boards of each module."""
    modules = () if site is None else site.obs.modules
    return {
        module.id: sum(hk[quabo.ip].records for quabo in module.quabos if quabo.ip in hk)
        for module in modules
    }
