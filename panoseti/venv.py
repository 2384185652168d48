"""Lets `./start.py` work without activating anything: finds the `.venv` beside the scripts.

Only the standard library, and only syntax that old Pythons read, so that they can be told apart.
"""

import importlib.util
import os
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 11)
PACKAGES = ("paramiko", "redis", "psutil", "jsonschema", "tftpy", "rich")
ROOT = Path(__file__).resolve().parent.parent


def use_venv(script: str) -> None:
    """Go on in `.venv` where there is one; without one, end with the line that helps.

    Call it before anything that needs a package is imported.  script: `__file__` of the caller.
    """
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists():
        if not os.path.samefile(sys.prefix, str(ROOT / ".venv")):
            os.execv(str(python), [str(python), os.path.abspath(script), *sys.argv[1:]])
        return
    name = os.path.basename(script)
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(str(number) for number in OLDEST_PYTHON)
        have = ".".join(str(number) for number in sys.version_info[:3])
        sys.exit(f"{name}: Python {wanted} or newer is needed, this is {have}; run: make setup")
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        sys.exit(
            f"{name}: Python packages missing: {', '.join(missing)}; in {ROOT} run: make setup"
        )
