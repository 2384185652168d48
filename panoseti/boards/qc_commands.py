"""The expert's commands to one board (qc.py): words to packets.

`parse` turns the operator's words into requests, `plan` a request into steps for the board link.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from panoseti.boards import maroc
from panoseti.boards.board_plans import Pause, Reply, Send, Step
from panoseti.boards.commands import (
    CHIPS,
    AcqMode,
    Acquisition,
    CalibratePhBaseline,
    ChannelMask,
    DataDestination,
    Flasher,
    Focus,
    GoeMask,
    HkDestination,
    Reset,
    SetHv,
    Shutter,
)
from panoseti.bringup.ledger import Step as BringUpStep
from panoseti.configs.board_files import read_quabo_config
from panoseti.configs.settings import set_point_v
from panoseti.errors import EXIT_BAD_CONFIG, ObsError

OLD_SHUTTER_S = 1.0
# Detectors break down at 51 to 52 V; 3 V over that, and the correction of a warm one, make 57 V.
MOST_HV_V = 58.0
HV_IS_MEANT = "--hv_is_meant"
WATCHED = (
    "a running hv_updater sets its own values again when the temperature changes, or three packets"
    " show over 2 V too much or 5 V too little; over 5 V too much it takes for a broken board: off"
    " until acknowledged; where it does not run, temperature_guard switches off again"
)
NOT_WATCHED = (
    "NOBODY WATCHES this voltage: no temperature_guard of the board's site works here; it stays on,"
    " whatever temperature and time, until VV, or until the power is cut"
)


@dataclass
class Bench:
    """What commands depend on beside their parameters.

    config_dir: where quabo_config.txt is looked for first; warn: gets what the operator must know
    before a command is sent; shutter_open_value: what opens the shutter; hv_codes: sent last;
    watched: whether a temperature_guard looks after the board; hv_is_meant: more than MOST_HV_V may
    be set.
    """

    config_dir: Path
    warn: Callable[[str], None]
    shutter_open_value: int = 0
    hv_codes: list[int] = field(default_factory=lambda: [0] * CHIPS)
    watched: Callable[[], bool] = lambda: False
    hv_is_meant: bool = False


class UsageError(ObsError):
    """The words of the operator make no command."""

    exit_code = EXIT_BAD_CONFIG


@dataclass(frozen=True)
class Word:
    """A command of qc.py.

    alias: the deployed short name; parameters: their names; text: what it does; make: the steps
    it takes, None for what is no packet (HK, UID, q); undoes: the step of the bring-up after which
    the board no longer is as config.py has left it.
    """

    name: str
    alias: str
    parameters: tuple[str, ...]
    text: str
    make: Callable[[Bench, Sequence[str]], list[Step]] | None = None
    undoes: BringUpStep | None = None


@dataclass(frozen=True)
class Request:
    """A command with its parameters, as the operator gave them."""

    word: Word
    values: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.word.alias or self.word.name, *self.values))


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number (decimal or 0x-hex)") from None


def _flag(text: str) -> int:
    value = _number(text)
    if value not in (0, 1):
        raise ValueError(f"{text!r} is not 0 or 1")
    return value


def _hv_words(code: int) -> str:
    return f"{set_point_v(code):.2f} V" if code else "off"


def _set_hv(bench: Bench, codes: Sequence[int]) -> list[Step]:
    """HV is told in words before it is sent; the codes are remembered for `v`."""
    step = Send(SetHv(tuple(codes)))
    most = max(codes)
    if set_point_v(most) > MOST_HV_V and not bench.hv_is_meant:
        raise ValueError(
            f"code {most} is {set_point_v(most):.1f} V, more than any detector may have"
            f" ({MOST_HV_V:g} V); if it is meant all the same: {HV_IS_MEANT}"
        )
    if any(codes):
        shown = ", ".join(str(code) for code in codes)
        volts = ", ".join(_hv_words(code) for code in codes)
        bench.warn(
            f"this switches HIGH VOLTAGE ON: codes {shown} for detectors 0..3, that is {volts}"
        )
        bench.warn(WATCHED if bench.watched() else NOT_WATCHED)
    else:
        bench.warn("this switches the high voltage of all four detectors off")
    bench.hv_codes = list(codes)
    return [step]


def _hv_from_file(bench: Bench, values: Sequence[str]) -> list[Step]:
    return _set_hv(bench, read_quabo_config(bench.config_dir).hv_codes)


def _hv_channel(bench: Bench, values: Sequence[str]) -> list[Step]:
    channel, code = (_number(value) for value in values)
    if not 0 <= channel <= 3:
        raise ValueError(f"channel {channel} is outside 0..3")
    codes = list(bench.hv_codes)
    codes[channel] = code
    steps = _set_hv(bench, codes)
    bench.warn("a HV command sets all four: the others as this qc.py has last set them, else 0")
    return steps


def _maroc(bench: Bench, values: Sequence[str]) -> list[Step]:
    config = read_quabo_config(bench.config_dir)
    return [Send(maroc.setup(config.registers))]


def _masks(bench: Bench, values: Sequence[str]) -> list[Step]:
    config = read_quabo_config(bench.config_dir)
    return [Send(ChannelMask(config.channel_mask)), Send(GoeMask(config.goe_mask))]


def _acquisition(bench: Bench, values: Sequence[str]) -> list[Step]:
    return [Send(read_quabo_config(bench.config_dir).acquisition)]


def _acquisition_mode(bench: Bench, values: Sequence[str]) -> list[Step]:
    image, eight_bit, ph, subtract = (_flag(values[index]) for index in (0, 2, 3, 4))
    mode = AcqMode(0)
    mode |= AcqMode.IMAGE if image else AcqMode(0)
    mode |= AcqMode.IMAGE_8BIT if image and eight_bit else AcqMode(0)
    mode |= AcqMode.PH if ph else AcqMode(0)
    mode |= AcqMode(0) if subtract else AcqMode.NO_BASELINE
    return [Send(Acquisition(mode, _number(values[1])))]


def _baseline(bench: Bench, values: Sequence[str]) -> list[Step]:
    bench.warn("the board switches its high voltage off for about a second, and on again")
    return [Send(CalibratePhBaseline())]


def _focus(bench: Bench, values: Sequence[str]) -> list[Step]:
    steps = _number(values[0])
    if steps == 0:
        bench.warn("0 steps: the focus stage looks for its zero again")
    bench.warn("the fan is set as well: off; with FAN_NEW it gets a speed")
    return [Send(Focus(steps))]


def _hazard(bench: Bench, what: str) -> None:
    bench.warn(
        f"{what} is a focus command to firmware from v20 on: a board with a focus stage will"
        " recalibrate it, with step times of zero"
    )


def _old_shutter(opened: bool) -> Callable[[Bench, Sequence[str]], list[Step]]:
    def make(bench: Bench, values: Sequence[str]) -> list[Step]:
        _hazard(bench, "the old shutter command")
        power_on, power_off = Focus.old_shutter(opened)
        return [Send(power_on), Pause(OLD_SHUTTER_S, "the shutter moves"), Send(power_off)]

    return make


def _fan(bench: Bench, values: Sequence[str]) -> list[Step]:
    _hazard(bench, "the fan command")
    return [Send(Focus.old_fan(_number(values[0])), Reply.ECHO)]


def _fan_and_focus(bench: Bench, values: Sequence[str]) -> list[Step]:
    speed, position = (_number(value) for value in values)
    if position == 0:
        bench.warn("0 steps: the focus stage looks for its zero again")
    return [Send(Focus(position, fan_speed=speed), Reply.ECHO)]


def _both_to(bench: Bench, values: Sequence[str]) -> list[Step]:
    return [Send(DataDestination(values[0], values[0]))]


HK = Word("hk", "HK", (), "wait for one housekeeping packet of the board and show it")
UID = Word("uid", "", (), "show the flash UID (TFTP)")
QUIT = Word("quit", "q", (), "end")
WORDS: tuple[Word, ...] = (
    Word("maroc", "M", (), "load the MAROC chips from quabo_config.txt, and read back", _maroc,
         BringUpStep.MAROC),
    Word("calibrate_ph", "B", (), "measure the PH baseline and show it", _baseline,
         BringUpStep.PH_BASELINE),
    Word("hv", "V", (), "switch HV ON: codes HV_0..3 of quabo_config.txt", _hv_from_file,
         BringUpStep.HV),
    Word("hv_channel", "v", ("chan", "code"), "set the HV code of one detector", _hv_channel,
         BringUpStep.HV),
    Word("hv_off", "VV", (), "switch HV OFF on all four detectors",
         lambda bench, values: _set_hv(bench, (0, 0, 0, 0)), BringUpStep.HV),
    Word("acquisition", "A", (), "acquisition as in quabo_config.txt", _acquisition),
    Word("acquisition_mode", "AM",
         ("do_image", "interval_field", "image_8bit", "do_ph", "bl_subtract"),
         "take data; the interval field (us minus one) is sent as given", _acquisition_mode),
    Word("masks", "T", (), "trigger masks from quabo_config.txt", _masks,
         BringUpStep.MASKS),
    Word("reset", "R", (), "reset state machines and packet numbers",
         lambda bench, values: [Send(Reset())]),
    Word("focus", "ST", ("steps",), "move the focus stage to 1..50000, 0 = find zero", _focus),
    Word("old_shutter_open", "SHO", (), "open the shutter (firmware to v11.1)",
         _old_shutter(True), BringUpStep.SHUTTER),
    Word("old_shutter_close", "SHC", (), "close the shutter (firmware to v11.1)",
         _old_shutter(False), BringUpStep.SHUTTER),
    Word("shutter_open", "SHO_NEW", (), "open the shutter (quabo 1 of a module)",
         lambda bench, values: [Send(Shutter(bench.shutter_open_value))], BringUpStep.SHUTTER),
    Word("shutter_close", "SHC_NEW", (), "close the shutter (quabo 1 of a module)",
         lambda bench, values: [Send(Shutter(1 - bench.shutter_open_value))],
         BringUpStep.SHUTTER),
    Word("fan", "FAN", ("speed",), "fan speed 0..15 (firmware before v20)", _fan),
    Word("fan_new", "FAN_NEW", ("speed", "steps"),
         "fan speed, and the focus stage to where it stays (v20 on)", _fan_and_focus),
    Word("old_flasher", "LF0", (), "drive the old LED flasher",
         lambda bench, values: [Send(Flasher(0))]),
    Word("new_flasher", "LF1", (), "drive the new LED flasher",
         lambda bench, values: [Send(Flasher(1))]),
    HK,
    Word("data_destination", "IM-PH-IP", ("ip",), "send images and PH there", _both_to),
    Word("hk_destination", "HK-IP", ("ip",), "send HK there",
         lambda bench, values: [Send(HkDestination(values[0]))], BringUpStep.HK_DEST),
    UID,
    QUIT,
)  # fmt: skip
_BY_ALIAS = {word.alias: word for word in WORDS if word.alias}
_BY_NAME = {word.name: word for word in WORDS}


def parse(words: Sequence[str]) -> list[Request]:
    """The requests of a line; UsageError at the first word that is none."""
    left = list(words)
    requests = []
    while left:
        text = left.pop(0)
        word = _BY_ALIAS.get(text) or _BY_NAME.get(text.lower().replace("-", "_"))
        if word is None:
            raise UsageError(f"no command {text!r}; see: qc.py --help (or ? at the prompt)")
        values, left = left[: len(word.parameters)], left[len(word.parameters) :]
        if len(values) < len(word.parameters):
            wanted = " ".join(word.parameters)
            raise UsageError(f"{text} needs {len(word.parameters)} values: {wanted}")
        requests.append(Request(word, tuple(values)))
    return requests


def plan(request: Request, bench: Bench) -> list[Step]:
    """The steps of a request; UsageError when a value is out of range."""
    if request.word.make is None:
        return []
    try:
        return request.word.make(bench, request.values)
    except ValueError as error:
        raise UsageError(f"{request}: {error}") from error


def help_table() -> str:
    """All commands, a line each: short name, name and parameters, what it does."""
    lines = []
    for word in WORDS:
        values = f"  {' '.join(word.parameters)}:" if word.parameters else ""
        lines.append(f"  {word.alias:<8} {word.name:<18}{values} {word.text}")
    return "\n".join(lines)
