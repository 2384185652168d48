"""Whether HVIMON, the currents of the four high voltages, fits HVMON, the voltages.  Pure.

Each high voltage feeds a bleeder resistor beside its detector.  So HVIMON of a good chip is the
bleeder's current (in the field within 2 uA), or more by what the detector draws.  A monitor that
is broken is no fault of what was asked for: boards in the field work with one.
"""

from __future__ import annotations

from collections.abc import Sequence

from panoseti.boards.packets import BLEEDER_OHM
from panoseti.high_voltage.hv_off import OFF_BELOW_V

SLACK_A = 10e-6


def odd_when_on(volts: Sequence[float], amperes: Sequence[float]) -> str:
    """The chips whose current is less than their bleeder alone takes, in words; "" = none.

    Magnitudes in V, currents in A, of chips 0 to 3.  Not of voltages that are on their way:
    the two are not measured in the same moment.
    """
    return "; ".join(
        f"HVIMON of chip {chip} shows {ampere * 1e6:.0f} uA, its bleeder alone takes"
        f" {volt / BLEEDER_OHM * 1e6:.0f} uA at {volt:.1f} V: the current monitor or the HV line of"
        " that chip is broken"
        for chip, (volt, ampere) in enumerate(zip(volts, amperes, strict=True))
        if ampere < volt / BLEEDER_OHM - SLACK_A
    )


def odd_when_off(volts: Sequence[float], amperes: Sequence[float]) -> str:
    """The chips that HVMON shows off while a current flows, in words; "" = none."""
    return "; ".join(
        f"HVIMON of chip {chip} shows {ampere * 1e6:.0f} uA, but HVMON {volt:.1f} V: one of the two"
        " monitors is broken; if it is HVMON, that chip may have HV"
        for chip, (volt, ampere) in enumerate(zip(volts, amperes, strict=True))
        if volt < OFF_BELOW_V and ampere > SLACK_A
    )
