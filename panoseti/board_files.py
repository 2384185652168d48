"""Board data base, calibration, and what bring-up learnt from the boards, as typed objects.

The folder `quabos/` is looked for in the command directory first, then beside this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from panoseti.errors import Fault
from panoseti.site import (
    BoardInfo,
    Calibration,
    Detector,
    ObsConfig,
    PhBaseline,
    QuaboUids,
)

QUABO_UIDS, PH_BASELINE = "quabo_uids.json", "quabo_ph_baseline.json"
QUABO_CONFIG = "quabo_config.txt"


def quabos_folder(command_dir: Path) -> Path:
    """The board files of the site: `<command dir>/quabos`, else those shipped with the program."""
    raise NotImplementedError


def quabo_config_path(command_dir: Path) -> Path:
    """Where the register defaults are: command directory, its quabos/, or the shipped ones."""
    raise NotImplementedError


class BoardDb:
    """Boards, detectors and calibration of a site; calibration files are read when asked for."""

    folder: Path
    boards: Mapping[str, BoardInfo]
    detectors: Mapping[int, Detector]
    warnings: tuple[Fault, ...]

    def board(self, uid: str) -> BoardInfo:
        """The board of that flash UID; ConfigError naming the file when it is not listed."""
        raise NotImplementedError

    def nominal_v(self, uid: str, overvoltage_v: int | None) -> tuple[float, float, float, float]:
        """Bias of the four detectors at 25 degC, V, quadrant 0 first.

        operating_voltage where given, else breakdown_voltage + overvoltage_v.  ConfigError names
        the detector that is missing, or that needs detector_overvoltage in obs_config.json.
        """
        raise NotImplementedError

    def calibration(self, uid: str, overvoltage_v: int, mode: str) -> Calibration:
        """Calibration of a board, mode "img" or "ph" (settings.calibration_mode(data)).

        Raises ConfigError naming board and file when it is missing or wrong.
        """
        raise NotImplementedError


def load_board_db(command_dir: Path) -> BoardDb:
    """Read quabo_info.json and detector_info.json; ConfigError with every fault of both."""
    raise NotImplementedError


def read_quabo_uids(path: Path, obs: ObsConfig) -> QuaboUids:
    """Read quabo_uids.json; ConfigError when it is missing, broken or not of these modules."""
    raise NotImplementedError


def quabo_uids_text(obs: ObsConfig, by_ip: Mapping[str, str]) -> str:
    """The text of quabo_uids.json for UIDs by board address ("" or absent = did not answer)."""
    raise NotImplementedError


def read_ph_baseline(path: Path) -> PhBaseline:
    """Read quabo_ph_baseline.json; ConfigError when it is missing or broken."""
    raise NotImplementedError


def ph_baseline_text(date_unix: float, coefs: Mapping[str, tuple[int, ...]]) -> str:
    """The text of quabo_ph_baseline.json: UTC ISO time, 256 counts for each UID."""
    raise NotImplementedError
