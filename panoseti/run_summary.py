"""What a run holds: per module the frames that were to be expected, recorded, lost and partial.

Two witnesses are heard: the data files themselves, and the account that each pipeline left beside
them (`hp_status_<ip>.json`).  Where they disagree, that is a problem of its own.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from panoseti import pff
from panoseti.addresses import redis_key
from panoseti.errors import ConfigError
from panoseti.load_configs import Site, load_site
from panoseti.names import HK_FILE, DataFile, parse_data_file

_STATUS = re.compile(r"hp_status_.+\.json")
_HK_KEY = re.compile(rb'\{"([^"]+)":')
# Beyond this a look at every frame takes too long to wait for; the ends of the files must do.
CHECK_ALL_BYTES = 500_000_000
COLUMNS = ("module", "product", "expected", "recorded", "lost", "partial", "HK records")


@dataclass(frozen=True)
class ProductRow:
    """One product of one module.

    expected: frames between first and last, None where that cannot be told (pulse heights);
    lost: expected frames that are missing, for pulse heights packets by their numbers; partial:
    frames with a board missing; size_bytes, files: of what is not empty.
    """

    module: int
    product: str
    expected: int | None
    recorded: int
    lost: int
    partial: int
    size_bytes: int
    files: int


@dataclass(frozen=True)
class QuaboSums:
    """Packets of one board: recorded, and lost on the way by the gaps in their numbers."""

    recorded: int = 0
    lost: int = 0


@dataclass(frozen=True)
class RunSummary:
    """rows: by module and product; hk_records: by module; quabos: by module and index.

    problems: in words, none = all well; checked_all: whether every frame was looked at, not only
    the ends of the files.
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
            "rejected": self.rejected,
            "kernel_drops": self.kernel_drops,
            "unwritten": self.unwritten,
            "problems": list(self.problems),
            "checked_all": self.checked_all,
        }


def summarize(directory: Path, check_all_bytes: int = CHECK_ALL_BYTES) -> RunSummary:
    """Look through a collected run.

    check_all_bytes: with more data than this, only the ends of each file are read.
    """
    problems: list[str] = []
    try:
        site: Site | None = load_site(directory)
    except ConfigError as error:
        site = None
        problems.append(f"frozen configs: {error.faults[0]}")
    files = data_files(directory)
    checked_all = sum(path.stat().st_size for path, _ in files) <= check_all_bytes
    account = Account.read(directory, problems)
    groups: dict[tuple[int, str], list[tuple[Path, DataFile]]] = {}
    for path, file in files:
        groups.setdefault((file.module, file.product), []).append((path, file))
    rows = [
        _row(module, product, group, account, site, checked_all, problems)
        for (module, product), group in sorted(groups.items())
    ]
    for (module, product), frames in sorted(account.frames.items()):
        if frames and (module, product) not in groups:
            problems.append(f"module {module}: no {product} file for {frames} recorded frames")
    return RunSummary(
        run=directory.name,
        rows=tuple(rows),
        hk_records=_hk_records(directory, site),
        quabos=account.quabos,
        rejected=account.totals["rejected"],
        kernel_drops=account.totals["kernel_drops"],
        unwritten=account.totals["unwritten"],
        problems=tuple(problems),
        checked_all=checked_all,
    )


def data_files(directory: Path) -> list[tuple[Path, DataFile]]:
    """The data files of a run directory that are not empty, by module, product and number."""
    found = []
    for path in directory.iterdir():
        file = parse_data_file(path.name)
        if file is not None and path.is_file() and path.stat().st_size:
            found.append((path, file))
    return sorted(found, key=lambda pair: (pair[1].module, pair[1].product, pair[1].seqno))


def first_file(directory: Path, products: Sequence[str]) -> str | None:
    """Name of the first file of these products that is not empty."""
    files = [(file.start_unix, file.module, file.seqno, path.name)
             for path, file in data_files(directory) if file.product in products]  # fmt: skip
    return min(files)[-1] if files else None


class Account:
    """The sums of what the pipelines of a run counted."""

    def __init__(self) -> None:
        self.frames: Counter[tuple[int, str]] = Counter()
        self.partial: Counter[tuple[int, str]] = Counter()
        self.lost_packets: Counter[tuple[int, int]] = Counter()
        self.quabos: dict[tuple[int, int], QuaboSums] = {}
        self.totals: Counter[str] = Counter()
        self.found = 0

    @classmethod
    def read(cls, directory: Path, problems: list[str]) -> Account:
        """From the status files of a run directory; unusable ones are problems."""
        account = cls()
        for path in sorted(directory.iterdir()):
            if not _STATUS.fullmatch(path.name):
                continue
            try:
                status = json.loads(path.read_bytes())
                account._add(status)
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{path.name}: no account of a pipeline ({error})")
                continue
            if status.get("state") not in ("ended", None):
                problems.append(
                    f"{path.name}: the pipeline did not end by itself (its last state:"
                    f" {status['state']}); the account is behind the files"
                )
            problems += [f"{path.name}: {text}" for text in status.get("errors", ())]
        return account

    def _add(self, status: Mapping[str, Any]) -> None:
        for entry in status["products"]:
            key = int(entry["module"]), str(entry["product"])
            self.frames[key] += int(entry["frames"])
            self.partial[key] += int(entry["partial"])
        for entry in status["quabos"]:
            module, quabo = int(entry["module"]), int(entry["quabo"])
            recorded, lost = int(entry["recorded"]), int(entry["lost"])
            self.lost_packets[module, int(entry["mode"])] += lost
            before = self.quabos.get((module, quabo), QuaboSums())
            self.quabos[module, quabo] = QuaboSums(before.recorded + recorded, before.lost + lost)
        for name in ("received", "recorded", "rejected", "lost", "kernel_drops", "unwritten"):
            self.totals[name] += int(status["totals"][name])
        self.found += 1


def _row(
    module: int,
    product: str,
    files: Sequence[tuple[Path, DataFile]],
    account: Account,
    site: Site | None,
    check_all: bool,
    problems: list[str],
) -> ProductRow:
    recorded = partial = size_bytes = 0
    times_ns: list[int] = []
    for path, _ in files:
        checks = list(_looked_at(path, product, check_all))
        for check in checks:
            times_ns += [ns for ns in (check.first_unix_ns, check.last_unix_ns) if ns is not None]
            partial += check.partial_frames
            problems += [f"{path.name}: {text}" for text in check.problems]
        size = path.stat().st_size
        size_bytes += size
        recorded += size // pff.PRODUCTS[product].frame_bytes
        if not check_all and size % pff.PRODUCTS[product].frame_bytes:
            problems.append(f"{path.name}: not a whole number of frames")
    key = module, product
    counted = account.frames[key]
    if account.found and counted != recorded:
        problems.append(
            f"module {module}: {recorded} {product} frames in the files, {counted} in the"
            " pipeline's account"
        )
    expected = _expected(product, times_ns, site)
    if expected is not None:
        lost = max(0, expected - recorded)
    else:
        lost = account.lost_packets[module, 1]
    return ProductRow(
        module=module,
        product=product,
        expected=expected,
        recorded=recorded,
        lost=lost,
        partial=partial if check_all else account.partial[key],
        size_bytes=size_bytes,
        files=len(files),
    )


def _looked_at(path: Path, product: str, check_all: bool) -> Iterator[pff.FileCheck]:
    """What is found in the file, or in its first and last whole frame."""
    frame_bytes = pff.PRODUCTS[product].frame_bytes
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if check_all:
            yield pff.check_file(product, data)
            return
        whole = len(data) - len(data) % frame_bytes
        for start in {0, whole - frame_bytes} if whole else ():
            yield pff.check_file(product, data[start : start + frame_bytes])


def _expected(product: str, times_ns: Sequence[int], site: Site | None) -> int | None:
    if product not in pff.IMAGE_PRODUCTS or not times_ns or site is None:
        return None
    if site.data.image is None:
        return None
    span_us = (max(times_ns) - min(times_ns)) / 1000
    return round(span_us / site.data.image.integration_time_us) + 1


def _hk_records(directory: Path, site: Site | None) -> dict[int, int]:
    """Number of HK records of the boards of each module."""
    modules = () if site is None else site.obs.modules
    of_key = {
        redis_key(quabo.boardloc).encode(): quabo.module_id
        for module in modules
        for quabo in module.quabos
    }
    counts = {module.id: 0 for module in modules}
    try:
        with (directory / HK_FILE).open("rb") as file:
            for line in file:
                match = _HK_KEY.match(line)
                if match and match[1] in of_key:
                    counts[of_key[match[1]]] += 1
    except FileNotFoundError:
        pass
    return counts
