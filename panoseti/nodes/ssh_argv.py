"""Command lines of the system's ssh and rsync that use what `remote` uses: key, pinned host keys,
time-outs.  Pure: nothing is run here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.nodes.remote import CONNECT_TIMEOUT_S, DEAD_AFTER_S, KEEPALIVE_S

RSYNC_TIMEOUT_S = 60


def ssh_command(node: DaqNode, obs: ObsConfig) -> list[str]:
    """The system's ssh with the same key, host keys and time-outs, never asking anything."""
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "PasswordAuthentication=no",
        "KbdInteractiveAuthentication=no",
        "IdentityAgent=none",
        "ControlMaster=no",
        "ControlPath=none",
        "ClearAllForwardings=yes",
        "LogLevel=ERROR",
        # With the CPU's instructions about twice as fast as what comes first else.
        "Ciphers=^aes128-gcm@openssh.com",
        f"ConnectTimeout={CONNECT_TIMEOUT_S:.0f}",
        f"ServerAliveInterval={KEEPALIVE_S}",
        f"ServerAliveCountMax={DEAD_AFTER_S // KEEPALIVE_S}",
    ]
    if obs.ssh_known_hosts is not None:
        options += [
            f"UserKnownHostsFile={_ssh_word(obs.ssh_known_hosts)}",
            "GlobalKnownHostsFile=/dev/null",
        ]
    words = ["ssh", "-F", "none", "-T", "-x", "-p", str(node.ssh_port)]
    for option in options:
        words += ["-o", option]
    if obs.ssh_key is not None:
        words += ["-o", "IdentitiesOnly=yes", "-o", f"IdentityFile={_ssh_word(obs.ssh_key)}"]
    return words


def rsync_argv(
    node: DaqNode, obs: ObsConfig, remotes: Sequence[str], local: Path, options: Sequence[str] = ()
) -> list[str]:
    """The system's rsync from a node; remotes: paths there, relative to its data directory.

    options: further words for rsync, such as --inplace.  Paths may hold blanks.  rsync ends by
    itself when nothing has come for RSYNC_TIMEOUT_S.
    """
    there = f"{node.username}@{node.ip_addr}"
    paths = [os.path.join(node.data_dir, remote) for remote in remotes]
    return [
        "rsync",
        "--protect-args",
        "--times",
        f"--timeout={RSYNC_TIMEOUT_S}",
        "--rsh",
        " ".join(_rsync_word(word) for word in ssh_command(node, obs)),
        *options,
        "--",
        *(f"{'' if k else there}:{path}" for k, path in enumerate(paths)),
        os.path.abspath(local) + ("/" if local.is_dir() else ""),
    ]


def _ssh_word(text: str) -> str:
    """A file name as ssh's options take it: in quotes, % doubled."""
    return '"' + text.replace("%", "%%") + '"'


def _rsync_word(text: str) -> str:
    """A word of a command line as rsync takes it apart: in quotes, the quote itself doubled."""
    if not any(letter in text for letter in " '\""):
        return text
    return "'" + text.replace("'", "''") + "'"
