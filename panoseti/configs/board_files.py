"""Board data base, calibration, and what bring-up learnt from the boards, as typed objects.

The folder `quabos/` is looked for in the command directory first, then beside this package.
"""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from panoseti.configs.json_document import Document, read_document
from panoseti.configs.json_formats import bias_v, utc_time
from panoseti.configs.quabo_config import QuaboConfig, parse_quabo_config
from panoseti.configs.site import (
    BoardInfo,
    Calibration,
    Detector,
    ObsConfig,
    PhBaseline,
    QuaboUids,
    Quadrant,
)
from panoseti.errors import ConfigError, Fault

QUABO_UIDS, PH_BASELINE = "quabo_uids.json", "quabo_ph_baseline.json"
QUABO_INFO, DETECTOR_INFO = "quabo_info.json", "detector_info.json"
QUABO_CONFIG = "quabo_config.txt"
MASKED_PIXELS = "masked_pixels.json"
# Detectors of a kind are within 1 V of each other: what is so far off was mistyped, and may be too
# high for the detector.
DETECTOR_SPREAD_V = 3.0
SHIPPED = Path(__file__).resolve().parents[2] / "quabos"


def quabos_folder(command_dir: Path) -> Path:
    """The board files of the site: `<command dir>/quabos`, else those shipped with the program."""
    own = command_dir / "quabos"
    return own if own.is_dir() else SHIPPED


def quabo_config_path(command_dir: Path) -> Path:
    """Where the register defaults are: command directory, its quabos/, or the shipped ones."""
    for folder in (command_dir, command_dir / "quabos"):
        if (folder / QUABO_CONFIG).is_file():
            return folder / QUABO_CONFIG
    return SHIPPED / QUABO_CONFIG


def read_quabo_config(command_dir: Path) -> QuaboConfig:
    """The register defaults of a site; ConfigError with every fault of the file."""
    path = quabo_config_path(command_dir)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        remedy = f"cannot be read: {error.strerror}"
        raise ConfigError([Fault(path.name, "$", str(path), remedy)]) from error
    except UnicodeDecodeError:
        remedy = "not UTF-8 text; save the file as UTF-8"
        raise ConfigError([Fault(path.name, "$", str(path), remedy)]) from None
    return parse_quabo_config(text, path.name)


class BoardDb:
    """Boards, detectors and calibration of a site; calibration files are read when asked for.

    boards by flash UID, detectors by serial number; warnings: what the files contradict each
    other in (the first entry counts); masked: pixels (x, y) that must not trigger, by serial
    number of the board.
    """

    def __init__(
        self,
        folder: Path,
        boards: Mapping[str, BoardInfo],
        detectors: Mapping[int, Detector],
        warnings: tuple[Fault, ...] = (),
        masked: Mapping[str, tuple[tuple[int, int], ...]] | None = None,
    ) -> None:
        self.folder = folder
        self.masked = dict(masked or {})
        self.boards = boards
        self.detectors = detectors
        self.warnings = warnings
        self._calibrations: dict[Path, Calibration] = {}
        self._usual: dict[int | None, float] = {}

    def board(self, uid: str) -> BoardInfo:
        """The board of that flash UID; ConfigError naming the file when it is not listed."""
        try:
            return self.boards[uid]
        except KeyError:
            remedy = f"no such board in {self.folder / QUABO_INFO}; add it"
            raise ConfigError([Fault(QUABO_INFO, "$", f"uid {uid}", remedy)]) from None

    def nominal_v(
        self, uid: str, overvoltage_v: int | None, odd_detectors: Collection[int] = ()
    ) -> tuple[float, float, float, float]:
        """Bias of the four detectors at 25 degC, V, quadrant 0 first.

        operating_voltage where given, else breakdown_voltage + overvoltage_v.  ConfigError names
        the detectors that are missing, need detector_overvoltage in obs_config.json, or are far
        from all others of the site and not among odd_detectors.
        """
        board = self.board(uid)
        faults: list[Fault] = []
        volts = [self._volts(board, q, overvoltage_v, faults) for q in range(4)]
        for serial, volt in zip(board.detector_serialno, volts, strict=True):
            if volt and serial not in odd_detectors:
                self._compare(board, serial, volt, self._usual_v(overvoltage_v), faults)
        if faults:
            raise ConfigError(faults)
        return volts[0], volts[1], volts[2], volts[3]

    def _volts(
        self, board: BoardInfo, quadrant: int, overvoltage_v: int | None, faults: list[Fault]
    ) -> float:
        serial = board.detector_serialno[quadrant]
        what = f"detector {serial} (quadrant {quadrant} of board {board.serialno})"
        detector = self.detectors.get(serial)
        volts = _bias(detector, overvoltage_v) if detector else None
        if detector is None:
            remedy = f"not listed in {self.folder / DETECTOR_INFO}; add it"
            faults.append(Fault(DETECTOR_INFO, "$", what, remedy))
            return 0.0
        if volts is None:
            remedy = f"2 or 3 (V) is needed for {what}; add it"
            faults.append(Fault("obs_config.json", "$.detector_overvoltage", "missing", remedy))
            return 0.0
        return volts

    def _compare(
        self, board: BoardInfo, serial: int, volt: float, usual_v: float, faults: list[Fault]
    ) -> None:
        """A fault where the voltage of a detector is far from that of the others."""
        if abs(volt - usual_v) > DETECTOR_SPREAD_V:
            what = f"detector {serial} of board {board.serialno} at {volt:g} V"
            remedy = (
                f"over {DETECTOR_SPREAD_V:g} V from the {usual_v:.2f} V of the site's detectors;"
                f" correct it in {self.folder / DETECTOR_INFO}, or, if it is right, enter {serial}"
                " in odd_detectors of obs_config.json"
            )
            faults.append(Fault(DETECTOR_INFO, "$", what, remedy))

    def _usual_v(self, overvoltage_v: int | None) -> float:
        """The median of the nominal voltages of all detectors."""
        if overvoltage_v not in self._usual:
            volts = (_bias(detector, overvoltage_v) for detector in self.detectors.values())
            known = [volt for volt in volts if volt is not None]
            self._usual[overvoltage_v] = statistics.median(known) if known else 0.0
        return self._usual[overvoltage_v]

    def calibration_path(self, board: BoardInfo, overvoltage_v: int, mode: str) -> Path:
        """The calibration file of a board: nn = its serial number without "SN" and a digit."""
        name = f"quabo_calib_{board.serialno[3:]}.json"
        return self.folder / f"detovervol_{overvoltage_v}v" / mode / name

    def calibration(self, uid: str, overvoltage_v: int, mode: str) -> Calibration:
        """Calibration of a board, mode "img" or "ph" (settings.calibration_mode(data)).

        Raises ConfigError naming board and file when it is missing or wrong.
        """
        board = self.board(uid)
        path = self.calibration_path(board, overvoltage_v, mode)
        if path not in self._calibrations:
            if not path.is_file():
                remedy = f"has no calibration file {path}; add it"
                raise ConfigError([Fault(path.name, "$", f"board {board.serialno}", remedy)])
            document = read_document(path, "quabo_calib")
            document.raise_faults()
            self._calibrations[path] = _calibration(path, board.serialno, document.content)
        return self._calibrations[path]

    def calibration_warnings(self, board: BoardInfo, calibration: Calibration) -> list[Fault]:
        """Whether quabo_info.json and the calibration name different detectors."""
        found = tuple(quadrant.detserial for quadrant in calibration.quadrants)
        if found == board.detector_serialno:
            return []
        value, listed = (", ".join(map(str, four)) for four in (found, board.detector_serialno))
        remedy = f"{QUABO_INFO} has detectors {listed} for board {board.serialno}; correct one"
        return [Fault(calibration.file, "$.quadrants[*].detserial", value, remedy)]


def _calibration(path: Path, serialno: str, raw: dict[str, Any]) -> Calibration:
    quadrants = tuple(
        Quadrant(
            detserial=q["detserial"],
            a=float(q["a"]),
            b=float(q["b"]),
            ah=float(q["ah"]),
            bh=float(q["bh"]),
        )
        for q in raw["quadrants"]
    )
    return Calibration(
        file=str(path),
        serialno=serialno,
        pixel_gain=tuple(tuple(float(v) for v in column) for column in raw["pixel_gain"]),
        quadrants=(quadrants[0], quadrants[1], quadrants[2], quadrants[3]),
    )


def load_board_db(command_dir: Path) -> BoardDb:
    """Read quabo_info.json, detector_info.json and, where there is one, masked_pixels.json.

    ConfigError with every fault of all.
    """
    folder = quabos_folder(command_dir)
    info = read_document(folder / QUABO_INFO, "quabo_info")
    detector_info = read_document(folder / DETECTOR_INFO, "detector_info")
    masked_path = folder / MASKED_PIXELS
    masked = read_document(masked_path, "masked_pixels") if masked_path.exists() else None
    faults = info.faults + detector_info.faults + (masked.faults if masked else [])
    if faults:
        raise ConfigError(faults)
    warnings = info.warnings + detector_info.warnings
    boards = _boards(info, warnings)
    detectors = _detectors(detector_info, warnings)
    pixels = {
        serialno: tuple(sorted({(x, y) for x, y in places}))
        for serialno, places in (masked.content if masked else {}).items()
    }
    return BoardDb(folder, boards, detectors, tuple(warnings), pixels)


def _boards(info: Document, warnings: list[Fault]) -> dict[str, BoardInfo]:
    boards: dict[str, BoardInfo] = {}
    owners: dict[int, str] = {}
    serials: set[str] = set()
    for index, raw in enumerate(info.content):
        serials_of_four = raw["detector_serialno"]
        board = BoardInfo(
            uid=raw["uid"],
            serialno=raw["serialno"],
            board_version=raw["board_version"],
            detector_serialno=(
                serials_of_four[0],
                serials_of_four[1],
                serials_of_four[2],
                serials_of_four[3],
            ),
        )
        for name, value, seen in (
            ("uid", board.uid, board.uid in boards),
            ("serialno", board.serialno, board.serialno in serials),
        ):
            if seen:
                remedy = "is listed before; remove or correct one of them"
                warnings.append(Fault(info.name, f"$[{index}].{name}", value, remedy))
        for q, serial in enumerate(board.detector_serialno):
            owner = owners.setdefault(serial, board.serialno)
            if owner != board.serialno:
                path = f"$[{index}].detector_serialno[{q}]"
                remedy = f"detector is listed for board {owner} too; correct one of them"
                warnings.append(Fault(info.name, path, str(serial), remedy))
        boards.setdefault(board.uid, board)
        serials.add(board.serialno)
    return boards


def _bias(detector: Detector, overvoltage_v: int | None) -> float | None:
    """Bias of a detector at 25 degC, V; None where the files do not tell."""
    if detector.operating_v is not None:
        return detector.operating_v
    if detector.breakdown_v is None or overvoltage_v is None:
        return None
    return detector.breakdown_v + overvoltage_v


def _detectors(info: Document, warnings: list[Fault]) -> dict[int, Detector]:
    detectors: dict[int, Detector] = {}
    for index, raw in enumerate(info.content):
        breakdown, operating = raw.get("breakdown_voltage"), raw.get("operating_voltage")
        detector = Detector(
            serialno=raw["serialno"],
            breakdown_v=None if breakdown is None else bias_v(breakdown),
            operating_v=None if operating is None else bias_v(operating),
        )
        if detectors.setdefault(detector.serialno, detector) != detector:
            remedy = "is listed before with another voltage; remove one of them"
            path = f"$[{index}].serialno"
            warnings.append(Fault(info.name, path, str(detector.serialno), remedy))
    return detectors


def read_quabo_uids(path: Path, obs: ObsConfig) -> QuaboUids:
    """Read quabo_uids.json; ConfigError when it is missing, broken or lacks a module of `obs`.

    Boards of modules that obs_config.json no longer has are left out.
    """
    if not path.exists():
        remedy = "missing: scan the boards with config.py --get_uids"
        raise ConfigError([Fault(path.name, "$", str(path), remedy)])
    document = _uids_document(path)
    found = _uids_by_ip(document, obs)
    for module in obs.modules:
        if module.ip_addr not in found:
            remedy = f"{module.label} is not in it; scan again with config.py --get_uids"
            document.fault(("domes",), module.ip_addr, remedy)
    document.raise_faults()
    return QuaboUids(found)


def known_uids(path: Path, obs: ObsConfig) -> dict[str, str]:
    """As read_quabo_uids, but boards that were never scanned are left out, and that is no error.

    ConfigError when the file is broken.
    """
    return _uids_by_ip(_uids_document(path), obs) if path.exists() else {}


def _uids_document(path: Path) -> Document:
    document = read_document(path, "quabo_uids")
    document.raise_faults()
    return document


def _uids_by_ip(document: Document, obs: ObsConfig) -> dict[str, str]:
    found = {
        module["ip_addr"]: [quabo["uid"] for quabo in module["quabos"]]
        for dome in document.content["domes"]
        for module in dome["modules"]
    }
    return {
        quabo.ip: found[module.ip_addr][quabo.index]
        for module in obs.modules
        if module.ip_addr in found
        for quabo in module.quabos
    }


def quabo_uids_text(obs: ObsConfig, by_ip: Mapping[str, str]) -> str:
    """The text of quabo_uids.json for UIDs by board address ("" or absent = did not answer)."""
    domes = [
        {
            "modules": [
                {
                    "ip_addr": module.ip_addr,
                    "quabos": [{"uid": by_ip.get(quabo.ip, "")} for quabo in module.quabos],
                }
                for module in dome.modules
            ]
        }
        for dome in obs.domes
    ]
    return json.dumps({"domes": domes}, indent=4) + "\n"


def read_ph_baseline(path: Path) -> PhBaseline:
    """Read quabo_ph_baseline.json; ConfigError when it is missing or broken."""
    if not path.exists():
        remedy = "missing: calibrate with config.py --calibrate_ph"
        raise ConfigError([Fault(path.name, "$", str(path), remedy)])
    document = read_document(path, "quabo_ph_baseline")
    document.raise_faults()
    raw = document.content
    coefs = {quabo["uid"]: tuple(quabo["coefs"]) for quabo in raw["quabos"]}
    return PhBaseline(utc_time(raw["date"]), coefs)


def ph_baseline_text(date_unix: float, coefs: Mapping[str, tuple[int, ...]]) -> str:
    """The text of quabo_ph_baseline.json: UTC ISO time, 256 counts for each UID."""
    moment = datetime.datetime.fromtimestamp(date_unix, datetime.UTC).replace(tzinfo=None)
    quabos = [{"uid": uid, "coefs": list(values)} for uid, values in coefs.items()]
    return json.dumps({"date": moment.isoformat(), "quabos": quabos}, indent=4) + "\n"
