"""The science port of the head node: image packets of boards that send to it for a measurement."""

from __future__ import annotations

from panoseti.boards.addresses import SCIENCE_PORT
from panoseti.boards.hk_socket import HkSocket


class ScienceSocket(HkSocket):
    """UDP port 60001 on one address of this machine, as HkSocket; ObsError when it is taken."""

    WHAT = "science port"
    HOLDER = "is a pipeline running?"

    def __init__(self, address: str) -> None:
        super().__init__((address,), SCIENCE_PORT)
