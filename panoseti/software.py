"""Which version of this software runs: from git where it is a checkout with git at hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
GIT_TIMEOUT_S = 5.0
UNKNOWN = "unknown"
_FORMAT = "%H%n%an%n%cd"


def sw_info(repo: Path = REPO) -> dict[str, str]:
    """commit, author, branch, commit_date ("YYYY-MM-DD hh:mm:ss") as in sw_info.json.

    commit ends in "+" when files differ from it; all are "unknown" without git.
    """
    log = _git(repo, "log", "-1", f"--format={_FORMAT}", "--date=format:%Y-%m-%d %H:%M:%S")
    lines = log.splitlines()
    if len(lines) != 3:
        return dict.fromkeys(("commit", "author", "branch", "commit_date"), UNKNOWN)
    changed = _git(repo, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": lines[0] + ("+" if changed else ""),
        "author": lines[1],
        "branch": _git(repo, "rev-parse", "--abbrev-ref", "HEAD") or UNKNOWN,
        "commit_date": lines[2],
    }


def _git(repo: Path, *words: str) -> str:
    """Output of a git command; empty when it fails, git is missing or does not answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(repo), *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
