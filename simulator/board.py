"""One simulated quabo as a pure state machine: datagrams and times in, answers and settings out.

No socket, clock or file: the server (server.py) brings the bytes, says what time it is, sends
the answers, and asks `streams()` what science packets the board would now produce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from panoseti.boards import commands, maroc, packets, pixel_maps
from simulator import monitor, response, sky
from simulator.faults import Faults
from simulator.flash import DEFAULT_FIRMWARE, SILVER_ADDRESS, Firmware, Flash
from simulator.sites import Identity

MAROC_CHIP_BYTES, MAROC_CHIP_SPACING, MAROC_FIRST_BYTE = 104, 128, 4
NEW_SHUTTER_SINCE = 112  # firmware 11.2: command 0x08 drives the shutter, 0x05 no longer
FLASHER_SINCE = 118
FOCUS_POSITION_SINCE = 200  # before, 0x05 has a number of steps, and 0 moves nothing
SHUTTER_QUABO = 1
NO_MAC = b"\xff" * 6
BASELINE_REPLY, PH_FRAME_REPLY = 0x07, 0x87
RESIDUAL_COUNTS = 10  # the baseline routine subtracts so much from what it measured


class Phase(Enum):
    """What a board is doing."""

    OFF = "off"
    BOOTING = "booting"
    GOLD = "gold"
    SILVER = "silver"


@dataclass(frozen=True)
class Times:
    """Durations in seconds as they are in this simulation (real ones / time scale)."""

    scale: float = 1.0
    reboot_s: float = 10.0
    reload_s: float = 1.0  # from /progdev to the silence
    power_on_s: float = 45.0
    baseline_s: float = 2.0
    hv_off_s: float = 1.0
    ph_frame_s: float = 0.2
    arp_s: float = 3.5
    priming_s: float = 0.5
    focus_s_per_step: float = 2e-4
    hk_period_s: float = 3.0

    @classmethod
    def scaled(cls, scale: float, boot_time_s: float, hk_period_s: float | None) -> Times:
        """Real durations divided by `scale`; HK no faster than twice a second by itself."""
        real = cls()
        return cls(
            scale=scale,
            reboot_s=boot_time_s / scale,
            reload_s=real.reload_s / scale,
            power_on_s=real.power_on_s / scale,
            baseline_s=real.baseline_s / scale,
            hv_off_s=real.hv_off_s / scale,
            ph_frame_s=real.ph_frame_s / scale,
            arp_s=real.arp_s / scale,
            priming_s=real.priming_s / scale,
            focus_s_per_step=real.focus_s_per_step / scale,
            hk_period_s=hk_period_s or max(0.5, real.hk_period_s / scale),
        )


@dataclass(frozen=True)
class Reply:
    """A datagram the board sends `delay_s` from now: to who asked, or to the HK destination."""

    data: bytes
    delay_s: float = 0.0
    to_hk: bool = False


@dataclass(frozen=True)
class ImageStream:
    """Image packets: destination, acq_mode byte, integration time, base values (sky.py)."""

    destination: str
    acq_mode: int
    period_us: int
    levels: tuple[int, ...]


@dataclass(frozen=True)
class PhStream:
    """Pulse-height packets: destination, acq_mode byte, event rates, tables (sky.py)."""

    destination: str
    acq_mode: int
    poisson_hz: float
    period_us: int
    external: bool
    pattern: tuple[int, ...]
    offset: tuple[int, ...]


@lru_cache(maxsize=4)
def wiring(version: str) -> tuple[tuple[int, int], ...]:
    """(chip, channel) of each packet pixel for a board type."""
    by_pixel = {}
    for chip in range(response.CHIPS):
        for channel in range(response.CHANNELS):
            x, y = pixel_maps.maroc_to_pixel(version, channel, chip)
            by_pixel[sky.SIDE * y + x] = (chip, channel)
    return tuple(by_pixel[pixel] for pixel in range(sky.PIXELS))


@lru_cache(maxsize=1024)
def _registers(setup: commands.MarocSetup) -> response.Registers:
    return maroc.registers(setup)


@lru_cache(maxsize=1024)
def views(boardloc: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What a board sees: count rates of the sky, and photoelectrons of a flash; packet order."""
    module, quabo = boardloc >> 2, boardloc & 3
    return (
        tuple(sky.board_view(sky.star_rates_hz(module), quabo)),
        tuple(sky.board_view(sky.flash_shape(module), quabo)),
    )


def mac_for(address: str) -> bytes:
    """The Ethernet address a destination answers ARP with in the simulated network."""
    return b"\x02\x53" + bytes(int(part) for part in address.split("."))


class Board:
    """One quabo.  `now_s` is any clock that only goes forward, the same in every call."""

    def __init__(
        self,
        identity: Identity,
        times: Times,
        may_send: Callable[[str], bool],
        power_on_destination: str = "127.0.0.1",
    ) -> None:
        self.identity = identity
        self.times = times
        self.faults = Faults()
        self.flash = Flash(DEFAULT_FIRMWARE[identity.version])
        self.temp1_c = 26.0 + identity.boardloc % 8 * 0.5
        self.temp2_c = self.temp1_c + 24.0
        self.light = False
        self.shutter_open = False
        self.recalibrations = 0
        self.resets = 0
        self.ignored = 0
        self.obeyed = 0
        self._may_send = may_send
        self._power_on_destination = power_on_destination
        self.phase = Phase.GOLD
        self.phase_until_s = 0.0
        self._firmware: Firmware | None = None
        self._forget()

    def _forget(self) -> None:
        """Registers as they are when the CPU starts."""
        self.supply = monitor.HvSupply(self.times.scale)
        self.chips: tuple[bytes, ...] = (b"\xa5" * MAROC_CHIP_BYTES,) * response.CHIPS
        self._maroc: commands.MarocSetup | None = None
        self.acquisition: commands.Acquisition | None = None
        self.channel_mask: tuple[int, ...] = (0,) * 9
        self.goe_mask = 0
        self.ph_destination = self.image_destination = self._power_on_destination
        self.latched = (self._power_on_destination, self._power_on_destination)
        self.hk_destination = self._power_on_destination
        self.hk_interval = 1
        self.hk_count = 0
        self.baseline: tuple[int, ...] | None = None
        self.baselines_done = 0
        self.new_flasher = True
        self.fan_speed = 0
        self.primed = False
        self._ph_since_s: float | None = None
        self.busy_until_s = self.deaf_until_s = 0.0
        self.resets += 1

    # --- power and boot ---

    def start_in_silver(self) -> None:
        """As if it had been rebooted long ago (its next HK packet is not the first)."""
        self._firmware = self.flash.firmware_at(SILVER_ADDRESS)
        self.phase = Phase.SILVER
        self.hk_count = 1

    def power(self, on: bool, now_s: float) -> None:
        """Switch the supply: off loses everything; on boots the gold firmware."""
        self._forget()
        self._firmware = None
        self.phase = Phase.BOOTING if on else Phase.OFF
        self.phase_until_s = now_s + self.times.power_on_s

    def reboot(self, flash_address: int, now_s: float) -> None:
        """What /progdev starts: silence, then the firmware at that flash address.

        Where nothing runs the board falls back to the gold firmware.
        """
        self._forget()
        self._firmware = self.flash.firmware_at(flash_address)
        self.phase = Phase.BOOTING
        self.phase_until_s = now_s + self.times.reboot_s

    def reboot_by_itself(self, now_s: float) -> None:
        """A reboot nobody asked for, into what ran before."""
        self.reboot(SILVER_ADDRESS if self.phase is Phase.SILVER else 0, now_s)

    def advance(self, now_s: float) -> bool:
        """Finish a boot whose time has come; True when that happened now."""
        if self.phase is not Phase.BOOTING or now_s < self.phase_until_s:
            return False
        self.phase = Phase.SILVER if self._firmware else Phase.GOLD
        return True

    def running(self) -> bool:
        """Whether the CPU answers at all."""
        return self.phase in (Phase.GOLD, Phase.SILVER)

    def listens(self, now_s: float) -> bool:
        """Whether a datagram that arrives now is heard (not booting, focus stage at rest)."""
        return self.running() and now_s >= self.deaf_until_s

    @property
    def firmware(self) -> Firmware:
        """The version the board claims to run."""
        return self.faults.firmware or self._firmware or Firmware("0000", 0)

    @property
    def uid(self) -> bytes:
        """Eight bytes of /flashuid."""
        return packets.uid_bytes(self.faults.uid or self.identity.uid)

    # --- commands ---

    def handle(self, data: bytes, now_s: float) -> list[Reply]:
        """Obey one datagram of port 60000; unknown and malformed ones are ignored, counted."""
        try:
            command, echo = commands.decode(data)
        except ValueError:
            self.ignored += 1
            return []
        self.obeyed += 1
        if isinstance(command, commands.MarocSetup):
            shifted_out = self._load_maroc(command, data)
            return [Reply(shifted_out)] if echo else []
        replies = [Reply(data)] if echo else []
        return replies + self._obey(command, now_s)

    def _obey(self, command: commands.Command, now_s: float) -> list[Reply]:
        match command:
            case commands.SetHv():
                if not self.faults.hv_stuck:
                    self.supply.set_codes(command.codes, now_s)
            case commands.Acquisition():
                self._acquire(command, now_s)
            case commands.Reset():
                self.resets += 1
            case commands.ChannelMask():
                self.channel_mask = tuple(command.words)
            case commands.GoeMask():
                self.goe_mask = command.value
            case commands.Shutter():
                if self._is_since(NEW_SHUTTER_SINCE):
                    self._move_shutter(command.value == 0)
            case commands.Flasher():
                if self._is_since(FLASHER_SINCE):
                    self.new_flasher = bool(command.new)
            case commands.HkDestination():
                self.hk_destination = command.ip
            case commands.WritePhBaseline():
                self.baseline = tuple(command.values)
            case _:
                return self._obey_with_answer(command, now_s)
        return []

    def _obey_with_answer(self, command: commands.Command, now_s: float) -> list[Reply]:
        match command:
            case commands.Focus():
                return self._move_focus(command, now_s)
            case commands.CalibratePhBaseline():
                return self._calibrate_baseline(now_s)
            case commands.ReadPhFrame():
                self._interrupt_hv(now_s, self.times.ph_frame_s)
                frame = [value + self.obeyed % 5 - 2 for value in self.true_baseline()]
                reply = _counts(PH_FRAME_REPLY, self._as_read_out(frame))
                return [Reply(reply, self.times.ph_frame_s)]
            case commands.DataDestination():
                return self._set_destinations(command, now_s)
            case commands.HkInterval():
                self.hk_interval = command.n
                hk = self.hk(now_s)
                return [Reply(hk, to_hk=True)] if hk else []
        return []

    @property
    def registers(self) -> response.Registers | None:
        """What the chips were loaded with, None = nothing yet; worked out when it matters."""
        return None if self._maroc is None else _registers(self._maroc)

    def _load_maroc(self, command: commands.MarocSetup, data: bytes) -> bytes:
        """Shift a load in; what comes out is the load before, spare bits undefined."""
        shifted_out = bytearray(data)
        for chip, old in enumerate(self.chips):
            place = MAROC_FIRST_BYTE + MAROC_CHIP_SPACING * chip
            shifted_out[place : place + MAROC_CHIP_BYTES] = old[:-1] + bytes((old[-1] | 0xE0,))
        self.chips = tuple(command.chips)
        self._maroc = command
        return bytes(shifted_out)

    def _acquire(self, command: commands.Acquisition, now_s: float) -> None:
        """Firmware looks at the destinations when this command comes, not later."""
        if command.mode & commands.AcqMode.PH:
            self._ph_since_s = now_s if self._ph_since_s is None else self._ph_since_s
        elif self._ph_since_s is not None:
            self.primed |= now_s - self._ph_since_s >= self.times.priming_s
            self._ph_since_s = None
        self.acquisition = command
        self.latched = (self.image_destination, self.ph_destination)

    def _is_since(self, number: int) -> bool:
        """Whether the firmware is of that version (208 = 20.8) or later; odd ones are new."""
        version = self._firmware.version if self._firmware else "0000"
        return not version.isdecimal() or int(version) >= number or not int(version)

    def _move_shutter(self, to_open: bool) -> None:
        if self.identity.quabo == SHUTTER_QUABO:
            self.shutter_open = to_open

    def _move_focus(self, command: commands.Focus, now_s: float) -> list[Reply]:
        """Every 0x05 moves the stage; the board is deaf meanwhile, then reports."""
        self.fan_speed = command.fan_speed
        if not self._is_since(NEW_SHUTTER_SINCE) and command.shutter_bits & 2:
            self._move_shutter(bool(command.shutter_bits & 1))
        start, final = self.flash.focus_steps, command.target_steps
        recalibrate = final == 0 and self._is_since(FOCUS_POSITION_SINCE)
        if not self._is_since(FOCUS_POSITION_SINCE):
            final += start
        self.recalibrations += recalibrate
        self.flash.focus_steps = final
        duration_s = min(10.0, abs(final - start) * self.times.focus_s_per_step)
        self.deaf_until_s = now_s + duration_s
        report = packets.build_focus_report(
            packets.FocusReport(
                start=start, moved=final - start, final=final, status=int(recalibrate)
            )
        )
        return [Reply(report, duration_s, to_hk=True)]

    def true_baseline(self) -> list[int]:
        """What the PH chain gives without light, ADC counts."""
        level = response.baseline_of(
            self.identity.boardloc, self.registers, wiring(self.identity.version)
        )
        for pixel, counts in self.faults.baseline_shift.items():
            level[pixel] += counts
        return level

    def _as_read_out(self, values: Sequence[int]) -> tuple[int, ...]:
        """Values of pixels in the order in which the chips give them."""
        ordered = [0] * sky.PIXELS
        for pixel, (chip, channel) in enumerate(wiring(self.identity.version)):
            ordered[response.CHIPS * channel + chip] = values[pixel]
        return tuple(ordered)

    def _stored_baseline(self) -> list[int] | None:
        """What is subtracted from each pixel."""
        if self.baseline is None:
            return None
        places = wiring(self.identity.version)
        return [self.baseline[response.CHIPS * channel + chip] for chip, channel in places]

    def _interrupt_hv(self, now_s: float, busy_s: float) -> None:
        self.supply.interrupt(now_s, now_s + min(busy_s, self.times.hv_off_s))
        self.busy_until_s = now_s + busy_s

    def _calibrate_baseline(self, now_s: float) -> list[Reply]:
        self._interrupt_hv(now_s, self.times.baseline_s)
        self.baselines_done += 1
        turn = self.identity.boardloc * 64 + self.baselines_done
        measured = [
            value - RESIDUAL_COUNTS + (sky.NOISE[(turn * 256 + pixel) & 0xFFFF] % 3 - 1)
            for pixel, value in enumerate(self.true_baseline())
        ]
        self.baseline = self._as_read_out(measured)
        return [Reply(_counts(BASELINE_REPLY, self.baseline), self.times.baseline_s)]

    def _set_destinations(self, command: commands.DataDestination, now_s: float) -> list[Reply]:
        self.ph_destination, self.image_destination = command.ph_ip, command.image_ip
        both = (command.ph_ip, command.image_ip)
        macs = [mac_for(ip) if self._may_send(ip) else NO_MAC for ip in both]
        delay_s = macs.count(NO_MAC) * self.times.arp_s
        self.busy_until_s = now_s + delay_s
        return [Reply(packets.build_destination_reply(macs[0], macs[1]), delay_s)]

    # --- what leaves by itself ---

    def hk(self, now_s: float) -> bytes | None:
        """The housekeeping packet of this moment; None while no silver firmware runs."""
        if self.phase is not Phase.SILVER:
            return None
        hot = self.faults.hot_c
        readings = monitor.Readings(
            boardloc=self.identity.boardloc,
            volts=self.supply.volts(now_s),
            supply_on=self.supply.enabled,
            hv_on=self.hv_on(now_s),
            temp1_c=self.temp1_c if hot is None else hot,
            temp2_c=self.temp2_c if hot is None else hot + 30.0,
            shutter_open=self.shutter_open,
            light=self.light,
            # As QFP boards in the field show it, against the interface description.
            pcbrev_n=int(self.identity.version == "bga"),
            firmware=self.firmware,
            first_after_boot=self.hk_count == 0,
            count=self.hk_count,
        )
        self.hk_count += 1
        odd = self.faults.odd_hk
        return monitor.hk_packet(odd.spoil(readings) if odd else readings)

    def hv_on(self, now_s: float) -> tuple[bool, ...]:
        """Which detectors are above their breakdown voltage."""
        breakdown = self.identity.truth.breakdown_v
        return tuple(
            volt > limit for volt, limit in zip(self.supply.volts(now_s), breakdown, strict=True)
        )

    def next_change_s(self, now_s: float) -> float | None:
        """When the streams must be looked at again though no command came."""
        times = [self.supply.next_change_s(now_s)]
        if self.phase is Phase.BOOTING:
            times.append(self.phase_until_s)
        return min((time for time in times if time is not None), default=None)

    def _conditions(self, now_s: float, module_shutter_open: bool) -> response.Conditions:
        acquisition = self.acquisition
        return response.Conditions(
            registers=self.registers,
            hv_on=self.hv_on(now_s),
            shutter_open=module_shutter_open,
            channel_mask=self.channel_mask,
            goe_mask=self.goe_mask,
            wiring=wiring(self.identity.version),
            truth=self.identity.truth,
            stim_on=bool(acquisition and acquisition.stim_on),
            stim_level=acquisition.stim_level if acquisition else 0,
            stim_rate=acquisition.stim_rate if acquisition else 0,
            flash_level=acquisition.flash_level if acquisition else 0,
            flash_rate=acquisition.flash_rate if acquisition else 0,
            hot=self.faults.hot_pixels,
            hot_factor=self.faults.hot_factor,
            dead=self.faults.dead_pixels,
        )

    def streams(
        self, now_s: float, module_shutter_open: bool
    ) -> tuple[ImageStream | None, PhStream | None]:
        """The science packets the board produces under its present settings."""
        mode = self.acquisition.mode if self.acquisition and self.running() else 0
        if not mode & (commands.AcqMode.IMAGE | commands.AcqMode.PH):
            return None, None
        conditions = self._conditions(now_s, module_shutter_open)
        image_ip, ph_ip = self.latched
        image = ph = None
        if mode & commands.AcqMode.IMAGE and self._may_send(image_ip):
            image = self._image_stream(conditions, image_ip, mode)
        if mode & commands.AcqMode.PH and self._may_send(ph_ip):
            ph = self._ph_stream(conditions, ph_ip, mode)
        return image, ph

    def _image_stream(self, conditions: response.Conditions, ip: str, mode: int) -> ImageStream:
        if self.acquisition is None:
            raise RuntimeError("no acquisition settings")
        eight_bit = bool(mode & commands.AcqMode.IMAGE_8BIT)
        period_us = self.acquisition.interval_field + 1
        light, _ = views(self.identity.boardloc)
        levels = response.image_levels(conditions, light, period_us, 8 if eight_bit else 16)
        # Image packets tell that PH runs too (mode 3 or 7); they do not show the baseline bit.
        own = mode & ~commands.AcqMode.NO_BASELINE
        return ImageStream(ip, int(own), period_us, tuple(levels))

    def _ph_stream(self, conditions: response.Conditions, ip: str, mode: int) -> PhStream | None:
        if self.faults.needs_priming and not self.primed:
            return None
        raw = mode & commands.AcqMode.NO_BASELINE
        _, flash = views(self.identity.boardloc)
        result = response.ph_response(
            conditions, flash, self.true_baseline(), None if raw else self._stored_baseline()
        )
        external = not self.channel_mask[8] >> 8 & 1
        return PhStream(
            ip, int(commands.AcqMode.PH), result.poisson_hz, result.period_us, external,
            result.pattern, result.offset,
        )  # fmt: skip

    def describe(self, now_s: float) -> dict[str, Any]:
        """Registers and settings for the state request (JSON types)."""
        acquisition = self.acquisition
        return {
            "boardloc": self.identity.boardloc,
            "uid": self.identity.uid,
            "version": self.identity.version,
            "phase": self.phase.value,
            "firmware": {"version": self.firmware.version, "time": self.firmware.time},
            "faults": self.faults.active,
            "maroc": None if self._maroc is None else [chip.hex() for chip in self.chips],
            "channel_mask": list(self.channel_mask),
            "goe_mask": self.goe_mask,
            "acquisition": None if acquisition is None else dict(vars(acquisition)),
            "ph_destination": self.ph_destination,
            "image_destination": self.image_destination,
            "hk_destination": self.hk_destination,
            "hk_interval": self.hk_interval,
            "hk_sent": self.hk_count,
            "hv": {
                "enabled": self.supply.enabled,
                "codes": list(self.supply.codes),
                "volts": [round(volt, 4) for volt in self.supply.volts(now_s)],
            },
            "baseline": None if self.baseline is None else list(self.baseline),
            "shutter_open": self.shutter_open,
            "focus_steps": self.flash.focus_steps,
            "focus_recalibrations": self.recalibrations,
            "fan_speed": self.fan_speed,
            "new_flasher": self.new_flasher,
            "temp1_c": self.temp1_c,
            "temp2_c": self.temp2_c,
            "commands": {"obeyed": self.obeyed, "ignored": self.ignored},
        }


def _counts(first_byte: int, values: list[int] | tuple[int, ...]) -> bytes:
    """The 516-byte reply of 0x07 or 0x0c."""
    return bytes((first_byte,)) + packets.build_ph_baseline(values)[1:]
