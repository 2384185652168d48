"""Command line of the simulated observatory: `python -m simulator --config_dir DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from simulator.options import parse_args
from simulator.server import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop; 0 when it was, 1 when something it needs was not there."""
    return run(parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
