"""What the configs ask of each board, step by step: the inputs, and the values that follow.

The inputs of a step are all that its commands depend on, and nothing else: a change of the
integration time makes no MAROC setting stale.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from panoseti.boards.commands import ChannelMask, GoeMask
from panoseti.bringup.ledger import DIGEST, HOUR_S, Inputs, Step, Value, content_digest
from panoseti.calibration import pixel_masks
from panoseti.configs import settings
from panoseti.configs.board_files import (
    DETECTOR_INFO,
    MASKED_PIXELS,
    QUABO_CONFIG,
    QUABO_INFO,
    BoardDb,
    load_board_db,
    read_quabo_config,
)
from panoseti.configs.load_configs import DAQ_CONFIG, DATA_CONFIG, OBS_CONFIG, Site
from panoseti.configs.quabo_config import QuaboConfig
from panoseti.configs.settings import Registers
from panoseti.configs.site import Calibration
from panoseti.errors import ConfigError, Fault

OPEN, CLOSED = "open", "closed"


def firmware_inputs(file: str, sha256: str) -> Inputs:
    """The inputs of loading an image."""
    name = Path(file).name
    return {OBS_CONFIG: {"firmware": name}, name: {"content": DIGEST + sha256}}


class BoardSettings:
    """Settings of the boards of a site under its present configs.

    The files are read when first asked for: ConfigError when they are wrong, or say nothing
    about a board.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._inputs: dict[tuple[Step, str], Inputs] = {}
        self._image_digests: dict[str, str] = {}

    @cached_property
    def db(self) -> BoardDb:
        """The board data base."""
        return load_board_db(self._site.command_dir)

    @cached_property
    def base(self) -> QuaboConfig:
        """The register defaults."""
        return read_quabo_config(self._site.command_dir)

    @cached_property
    def _base_digest(self) -> str:
        return content_digest(dict(self.base.registers))

    def max_age_s(self, step: Step) -> float | None:
        """How old a step may become, None = any age."""
        return self._site.obs.ph_baseline_max_age_h * HOUR_S if step is Step.PH_BASELINE else None

    def inputs(self, step: Step, uid: str) -> Inputs:
        """What a step would be done with now, for the board of that UID."""
        key = (step, uid)
        if key not in self._inputs:  # asked for again and again, of up to 1024 boards
            self._inputs[key] = self._work_out(step, uid)
        return self._inputs[key]

    def _work_out(self, step: Step, uid: str) -> Inputs:
        match step:
            case Step.FIRMWARE:
                return self._firmware_inputs(uid)
            case Step.HK_DEST:
                return {DAQ_CONFIG: {"head_node_ip_addr": self.head_ip()}}
            case Step.MASKS:
                return self._mask_inputs(uid)
            case Step.MAROC:
                return self._maroc_inputs(uid)
            case Step.PH_BASELINE:
                return {"MAROC": {"settings": content_digest(self.inputs(Step.MAROC, uid))}}
            case Step.SHUTTER:
                return self.shutter_inputs(OPEN)
            case Step.HV:
                return self._hv_inputs(uid)
            case _:
                return {}

    def head_ip(self) -> str:
        """Where boards send housekeeping to."""
        return self._head_ip

    @cached_property
    def _head_ip(self) -> str:
        return self._site.destination_of(self._site.daq.head_node_ip_addr)

    def shutter_inputs(self, state: str) -> Inputs:
        """The inputs of moving the shutter to OPEN or CLOSED."""
        value = self._site.obs.shutter_open_value
        return {"": {"shutter": state}, OBS_CONFIG: {"shutter_open_value": value}}

    def _firmware_inputs(self, uid: str) -> Inputs:
        """The image for a board's kind; nothing where none is named."""
        board = self.db.boards.get(uid)
        file = self._site.obs.firmware.of(board.board_version) if board else None
        if board is None or file is None:
            return {}
        if file not in self._image_digests:
            try:
                self._image_digests[file] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            except OSError as error:
                place = f"$.firmware.{board.board_version}"
                remedy = f"cannot be read: {error.strerror}; copy the image there, or correct it"
                raise ConfigError([Fault(OBS_CONFIG, place, file, remedy)]) from error
        return firmware_inputs(file, self._image_digests[file])

    def _hv_inputs(self, uid: str) -> Inputs:
        """What the set points follow from, beside the temperature."""
        return {
            OBS_CONFIG: {"detector_overvoltage": self._site.obs.detector_overvoltage_v},
            DETECTOR_INFO: {"nominal V": " ".join(f"{volt:g}" for volt in self.nominal_v(uid))},
        }

    def _mask_inputs(self, uid: str) -> Inputs:
        ph = self._site.data.pulse_height
        names = ("any_trigger", "two_pixel_trigger", "three_pixel_trigger")
        triggers: dict[str, Value] = {
            f"pulse_height.{name}": getattr(ph, name) if ph else None for name in names
        }
        words = " ".join(f"{word:x}" for word in self.base.channel_mask)
        return {
            DATA_CONFIG: {"pulse_height": ph is not None, **triggers},
            QUABO_CONFIG: {"CHANMASK": words, "GOEMASK": self.base.goe_mask},
            **self._own_mask_inputs(uid),
        }

    def _own_mask_inputs(self, uid: str) -> Inputs:
        """The masked pixels of a board, where its channel mask does not have them anyway."""
        own, _ = self.masks(uid)
        if own.words[:8] == tuple(self.base.channel_mask[:8]):
            return {}
        return {MASKED_PIXELS: {"pixels": self._masked_text(uid)}}

    def _maroc_inputs(self, uid: str) -> Inputs:
        obs, data = self._site.obs, self._site.data
        image, ph = data.image, data.pulse_height
        board = self.db.board(uid)
        calibration = self._calibration(uid)
        path = self.db.calibration_path(
            board, obs.calibration_overvoltage_v, settings.calibration_mode(data)
        )
        masked = self._masked_text(uid)
        return {
            DATA_CONFIG: {
                "gain": data.gain,
                "image.pe_threshold": image.pe_threshold if image else None,
                "pulse_height.pe_threshold": ph.pe_threshold if ph else None,
                "coincidence": ph.coincidence if ph else None,
            },
            OBS_CONFIG: {"detector_overvoltage": obs.calibration_overvoltage_v},
            QUABO_INFO: {"serialno": board.serialno, "board_version": board.board_version},
            QUABO_CONFIG: {"MAROC tags": self._base_digest},
            str(path.relative_to(self.db.folder)): {"content": _content(calibration)},
            **({MASKED_PIXELS: {"pixels": masked}} if masked else {}),
        }

    # --- what the boards are told ---

    def masks(self, uid: str) -> tuple[ChannelMask, GoeMask]:
        """Trigger masks of a board: its masked pixels take no part in coincidences either."""
        channels, goe = settings.masks(self.base, self._site.data)
        pixels = [pixel_masks.number(x, y) for x, y in self._masked(uid)]
        own = pixel_masks.channel_words(pixels)
        words = [word | more for word, more in zip(channels.words[:8], own, strict=True)]
        return ChannelMask((*words, channels.words[8])), goe

    def registers(self, ip: str, uid: str) -> tuple[Registers, Registers | None]:
        """MAROC registers of a board, and those that prime it first (None = not needed)."""
        version = self.db.board(uid).board_version
        calibration, data = self._calibration(uid), self._site.data
        wanted = settings.maroc_registers(self.base, calibration, version, data, ip)
        priming = settings.priming_registers(self.base, calibration, version, data, ip)
        masked = [pixel_masks.number(x, y) for x, y in self._masked(uid)]
        return (
            pixel_masks.masked_registers(wanted, version, masked),
            None if priming is None else pixel_masks.masked_registers(priming, version, masked),
        )

    def maroc_warnings(self, uids: Iterable[str]) -> list[Fault]:
        """What the files behind the MAROC registers of these boards contradict each other in."""
        own = [self.db.calibration_warnings(self.db.board(u), self._calibration(u)) for u in uids]
        return [*self.base.warnings, *self.db.warnings, *(fault for some in own for fault in some)]

    def _masked(self, uid: str) -> tuple[tuple[int, int], ...]:
        """Pixels of a board that must not trigger."""
        board = self.db.boards.get(uid)
        return self.db.masked.get(board.serialno, ()) if board else ()

    def _masked_text(self, uid: str) -> str:
        return " ".join(f"({x},{y})" for x, y in self._masked(uid))

    def _calibration(self, uid: str) -> Calibration:
        obs, data = self._site.obs, self._site.data
        mode = settings.calibration_mode(data)
        return self.db.calibration(uid, obs.calibration_overvoltage_v, mode)

    def nominal_v(self, uid: str) -> tuple[float, float, float, float]:
        """Bias of the four detectors of a board at 25 degC, V."""
        obs = self._site.obs
        return self.db.nominal_v(uid, obs.detector_overvoltage_v, obs.odd_detectors)

    def serialno(self, uid: str) -> str:
        """Serial number of a board, "" when it is not in the data base."""
        try:
            return self.db.board(uid).serialno
        except ConfigError:
            return ""


def _content(calibration: Calibration) -> str:
    quadrants = [dataclasses.astuple(quadrant) for quadrant in calibration.quadrants]
    return content_digest([calibration.pixel_gain, quadrants])
