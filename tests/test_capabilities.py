"""File capabilities of the launcher: read, told, and given back when it is copied anew."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from panoseti.configs.site import DaqNode
from panoseti.nodes import node_init
from panoseti.nodes.capabilities import CAP_NET_RAW, has_capability, setcap_words
from panoseti.nodes.remote import Result, Shell
from simulator.private_sshd import OperatorKeys
from tests.node_dir import pipeline_built
from tests.nodes import obs_config

NOBODY = 65534
NET_RAW_EP = "0100000200200000000000000000000000000000"


@pytest.mark.parametrize(
    ("text", "words", "net_raw"),
    [
        (NET_RAW_EP, "cap_net_raw+ep", True),
        ("0000000200200000000000000000000000000000", "cap_net_raw+p", False),
        ("0100000200300000000000000000000000000000", "cap_net_admin,cap_net_raw+ep", True),
        ("0100000300400000000080000000000000000000" + "00000000", "cap_ipc_lock+ep 23+i", False),
        ("", "", False),
    ],
)
def test_as_the_kernel_stores_them(text: str, words: str, net_raw: bool) -> None:
    words = words.replace("23", "cap_sys_nice")
    assert setcap_words(text) == words
    assert has_capability(text, CAP_NET_RAW) is net_raw


def set_capabilities(path: Path, words: str) -> None:
    if os.geteuid() != 0 or shutil.which("setcap") is None:
        pytest.skip("needs root and setcap")
    if subprocess.run(["setcap", words, str(path)], capture_output=True).returncode:
        pytest.skip("no file capabilities here")


class LocalShell(Shell):
    """A node that is this computer; user: number of who acts there."""

    user = 0

    def run(
        self, argv: Sequence[str], timeout_s: float, input: bytes = b"", step: str = ""
    ) -> Result:
        who = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        if shutil.which(argv[0]) is None:
            return Result(127, "", f"{argv[0]}: not found")
        words = [*who, "/usr/bin/python3" if argv[0] == "python3" else argv[0], *argv[1:]]
        done = subprocess.run(words, input=input, capture_output=True, timeout=timeout_s, cwd="/")
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[LocalShell]:
    if os.geteuid() != 0 or not pipeline_built() or not Path("/usr/bin/python3").exists():
        pytest.skip("needs root, the pipeline and the system's python3")
    keys = OperatorKeys.make(tmp_path / "keys")
    with tempfile.TemporaryDirectory() as folder:  # one that everybody may enter
        os.chmod(folder, 0o755)
        place = Path(folder) / "node data"
        place.mkdir()
        node = DaqNode("127.0.0.1", "nobody", str(place), (1,), bindhost="127.0.0.1")
        yield LocalShell(node, obs_config(keys))


def make_old(shell: Shell) -> Path:
    """A launcher of another version, with the capability to capture; its path."""
    launcher = Path(shell.node.data_dir) / "hashpipe"
    launcher.write_bytes(b"older")
    set_capabilities(launcher, "cap_net_raw+ep")
    return launcher


def test_given_back_where_the_user_may(shell: LocalShell) -> None:
    node_init.init_node(shell)
    launcher = make_old(shell)
    prepared = node_init.init_node(shell)
    assert (prepared.copied, prepared.warnings) == (("hashpipe",), ())
    assert os.getxattr(launcher, "security.capability").hex() == NET_RAW_EP


def test_told_where_the_user_may_not(shell: LocalShell) -> None:
    folder = Path(shell.node.data_dir)
    launcher = make_old(shell)
    os.chown(folder, NOBODY, NOBODY)
    shell.user = NOBODY
    (told,) = node_init.init_node(shell).warnings
    assert "has lost its file capability; type on that node: " in told
    subprocess.run(["sh", "-c", told.partition("node: sudo ")[2]], check=True)
    assert os.getxattr(launcher, "security.capability").hex() == NET_RAW_EP
    assert node_init.init_node(shell).warnings == ()


def test_told_where_an_interface_needs_it(shell: LocalShell) -> None:
    folder = Path(shell.node.data_dir)
    os.chown(folder, NOBODY, NOBODY)
    shell.user = NOBODY
    assert node_init.init_node(shell).warnings == ()
    shell.node = dataclasses.replace(shell.node, bindhost="eth1")
    for _ in range(2):
        (told,) = node_init.init_node(shell).warnings
        assert "may not capture packets at eth1; type on that node: sudo setcap" in told
    set_capabilities(folder / "hashpipe", "cap_net_raw+ep")
    assert node_init.init_node(shell).warnings == ()
    set_capabilities(folder / "hashpipe", "cap_net_raw=")
    shell.user = 0
    assert node_init.init_node(shell).warnings == ()
