"""Talk to a running simulator over its control socket (`<state_dir>/control.sock`).

Requests and answers are one JSON document per line.  Used by tests and tools:

    with SimulatorClient(state_dir) as simulator:
        simulator.fault("127.0.3.249", "mute")
        frames = simulator.state()["boards"]["127.0.3.248"]["science"]["image"]["sent"]
        simulator.quit()

By hand: python -m simulator.client STATE_DIR '{"do": "state"}'
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOCKET_NAME = "control.sock"
READY_NAME = "ready"


REQUESTS = """\
requests ("quabo" is an address, "module:<id>" or "all"):
  {"do": "state"}                                            everything, in numbers
  {"do": "fault", "quabo": "127.0.3.248", "fault": "mute"}   "none" ends them; all names:
                                                             python -m simulator --help
  {"do": "science", "quabo": "all", "loss": 0.01}            science packets are spoiled
  {"do": "set", "quabo": "all", "temp1_c": 30}               what is around a board
  {"do": "power", "quabo": "module:254", "on": false}
  {"do": "quit"}

example:
  python -m simulator.client ~/panoseti-sim/simulator '{"do": "state"}'
"""


class SimulatorError(Exception):
    """The simulator cannot be reached, or refused the request (its words are the message)."""


def short_socket_path(directory_fd: int) -> str:
    """A path of the control socket that fits the 107 bytes a unix address may have."""
    return f"/proc/self/fd/{directory_fd}/{SOCKET_NAME}"


class SimulatorClient:
    """One connection to the control socket; a context manager.

    Raises SimulatorError from every method when the simulator is not there, does not answer
    within `timeout_s`, or refuses.  `quabo` is a board address, "all", or "module:<id>".
    """

    def __init__(self, state_dir: Path | str, timeout_s: float = 20.0) -> None:
        self._place = Path(state_dir) / SOCKET_NAME
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._socket.connect(short_socket_path(directory))
            finally:
                os.close(directory)
        except OSError as error:
            self._socket.close()
            raise SimulatorError(f"no simulator answers at {self._place}: {error}") from error
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> SimulatorClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the simulator goes on."""
        self._lines.close()
        self._socket.close()

    def request(self, **fields: Any) -> dict[str, Any]:
        """Send one request and return its answer."""
        try:
            self._socket.sendall(json.dumps(fields).encode() + b"\n")
            line = self._lines.readline()
        except OSError as error:
            raise SimulatorError(f"simulator at {self._place}: {error}") from error
        if not line:
            raise SimulatorError(f"simulator at {self._place} closed the connection")
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            raise SimulatorError(str(answer.get("error", "refused")))
        return answer

    def state(self, quabo: str = "all") -> dict[str, Any]:
        """Registers, settings and exact counters: {"boards": {address: {...}}, ...}."""
        return self.request(do="state", quabo=quabo)

    def fault(self, quabo: str, fault: str, **parameters: Any) -> None:
        """Make boards misbehave; fault "none" ends every fault of theirs (simulator/faults.py)."""
        self.request(do="fault", quabo=quabo, fault=fault, **parameters)

    def science(self, quabo: str, **parameters: Any) -> None:
        """Spoil the science packets on purpose, counted exactly.

        Parameters: loss, duplicate, reorder, malformed (fractions 0..1), depth (packets a
        reordered one is late by, 1..64), kinds (list of "length", "acq_mode",
        "unknown_module", "source_mismatch"), seed, skew_ns (added to the image time stamps).
        """
        self.request(do="science", quabo=quabo, **parameters)

    def set(self, quabo: str, **values: Any) -> None:
        """Set what surrounds a board: temp1_c, temp2_c, light (0 or 1)."""
        self.request(do="set", quabo=quabo, **values)

    def power(self, quabo: str, on: bool) -> None:
        """Switch the supply of boards; after power-on they boot the golden firmware."""
        self.request(do="power", quabo=quabo, on=on)

    def quit(self) -> None:
        """End the simulator and everything it started."""
        self.request(do="quit")


def main(argv: Sequence[str] | None = None) -> int:
    """Send the requests given and print each answer."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.client",
        description="Send requests to a running simulator.",
        epilog=REQUESTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("state_dir", type=Path, help="state directory of the simulator")
    parser.add_argument("request", nargs="+", help="JSON object")
    args = parser.parse_args(argv)
    try:
        with SimulatorClient(args.state_dir) as simulator:
            for text in args.request:
                print(json.dumps(simulator.request(**json.loads(text))))
    except (SimulatorError, ValueError, TypeError) as error:
        print(f"simulator.client: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
