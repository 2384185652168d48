"""A key that may only record: all that recording needs works through it, and nothing else does.

A real sshd with the forced command of daq/only_daq.py, real ssh, rsync and pipeline.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.errors import RemoteError
from panoseti.flight import FlightRecorder, read_flight
from panoseti.nodes import daq_nodes, node_init
from panoseti.nodes.daq_nodes import Order
from panoseti.nodes.remote import Shell
from panoseti.nodes.rsync_fetch import OPTIONS
from panoseti.nodes.ssh_argv import rsync_argv, ssh_command
from simulator.private_observatory import DATA, private_observatory
from simulator.private_sshd import OperatorKeys, PrivateSshd, private_sshd
from simulator.site_writer import head_address
from tests.helpers import REPO, wait_for
from tests.node_dir import RUN, end_hashpipes, hashpipe_pids, pipeline_built
from tests.nodes import daq_node, obs_config

SECRET = "the secret of somebody else"
DATA_NAME = "start_2024-07-25T04:34:46Z.dp_ph256.bpp_2.module_1.seqno_0.pff"
LINKED_RUN = RUN.replace("04:34:06", "01:00:00")
LINKS_INSIDE = RUN.replace("04:34:06", "02:00:00")
PARALLEL = 6
SAMPLE, SEED = 20, 4


def restrictions(root: Path, *words: str) -> str:
    """What stands before the key in authorized_keys, as docs/ssh.md has it."""
    command = shlex.join(["python3", "-B", str(root / "only_daq.py"), str(root), *words])
    assert '"' not in command
    return f'restrict,command="{command}"'


@dataclass
class Place:
    """A node with a restricted key; outside: a folder that is not its data directory."""

    sshd: PrivateSshd
    node: DaqNode
    obs: ObsConfig
    outside: Path
    control: str = "none"

    @property
    def root(self) -> Path:
        return Path(self.node.data_dir)

    @property
    def log(self) -> list[str]:
        path = self.root / "only_daq.log"
        return path.read_text().splitlines() if path.exists() else []

    def ask(self, request: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """ssh with a command line exactly so ("": none at all), through the connection below."""
        argv = self._ssh_through_one() + (["--", request] if request else [])
        return subprocess.run(argv, input=given, capture_output=True, timeout=60)

    @contextmanager
    def one_connection(self) -> Iterator[None]:
        """What is asked meanwhile goes through one connection, which is quicker."""
        with tempfile.TemporaryDirectory() as folder:  # short, as names of sockets must be
            self.control = f"{folder}/ssh"
            subprocess.run([*self._ssh_through_one(), "-fN"], check=True, timeout=60)
            try:
                yield
            finally:
                end = [*self._ssh_through_one(), "-O", "exit"]
                subprocess.run(end, check=True, capture_output=True, timeout=60)

    def _ssh_through_one(self) -> list[str]:
        ssh, *options = ssh_command(self.node, self.obs)
        control = ["-o", "ControlMaster=auto", "-o", f"ControlPath={self.control}"]
        return [ssh, *control, *options, f"{self.node.username}@{self.node.ip_addr}"]

    def files(self) -> dict[str, tuple[int, int, int]]:
        """All that is there, but for the log of refusals."""
        found = {}
        for top in (self.root, self.outside):
            for path in [top, *top.rglob("*")]:
                status = path.lstat()
                if path.name != "only_daq.log" and path != self.root:
                    found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if not pipeline_built():
        pytest.skip("the pipeline is not built: make build")
    folder = tmp_path_factory.mktemp("only daq")
    keys = OperatorKeys.make(folder / "keys")
    with private_sshd(folder / "sshd", keys) as sshd:
        found = Place(
            sshd, daq_node(sshd, folder / "my data"), obs_config(keys), folder / "elsewhere"
        )
        with Shell(found.node, found.obs) as shell:
            node_init.init_node(shell)
        shutil.copytree(found.root, found.outside)
        (found.outside / "secret").write_text(SECRET)
        for run in (RUN, LINKS_INSIDE):
            (found.root / run).mkdir()
            (found.root / run / "notes").write_text("notes")
        (found.root / LINKED_RUN).symlink_to(found.outside)
        (found.root / LINKS_INSIDE / "out").symlink_to(found.outside)
        (found.root / RUN / "file link").symlink_to(found.outside / "secret")
        (found.outside / "disk" / RUN).mkdir(parents=True)
        (found.outside / "disk" / RUN / DATA_NAME).write_bytes(b"data")
        (found.root / "module_1").symlink_to(found.outside / "disk")
        sshd.restrictions = restrictions(found.root)
        sshd.write_authorized_keys()
        yield found


@pytest.fixture
def shell(place: Place) -> Iterator[Shell]:
    with Shell(place.node, place.obs) as shell:
        yield shell
    end_hashpipes()


def refusals(place: Place) -> dict[str, tuple[str, bytes]]:
    """What is tried: request -> a word of the refusal, and what is on its stdin."""
    root, other = shlex.quote(str(place.root)), shlex.quote(str(place.outside))
    status = f"python3 -B {root}/status_daq.py"
    whole = f"{status} --data_dir {root}"
    start = (
        f"python3 -B {root}/start_daq.py --data_dir {root} --run {RUN} --owner t --daq_ip 127.0.0.1"
        " --obs Test --module_ids 1 --bindhost 127.0.0.1"
    )
    files = f"python3 -B {root}/run_files.py"
    send = "rsync --server --sender -tIRe.LsfxCIvu --timeout=60 --inplace --no-implied-dirs"
    good = f"{root}/./{RUN}/notes"
    secluded = b"rsync\0--inplace\0.\0"
    rows: dict[str, str] = {
        # programs
        "": "no shell",
        "id": "'id' is not a program",
        "sh -c id": "'sh'",
        "bash -i": "'bash'",
        "env python3": "'env'",
        "scp -f /etc/passwd": "'scp'",
        "internal-sftp": "'internal-sftp'",
        "/usr/lib/openssh/sftp-server": "sftp-server",
        "python3": "not a helper",
        "python3 -c 'import os; os.system(\"id\")'": "'-c' is not a helper",
        "python3 -B -c 1": "'-c' is not a helper",
        "python3 -m http.server": "'-m' is not a helper",
        "python3 -i": "not a helper",
        f"python3 -B {root}/daq_facts.py": "not a helper",
        f"python3 -B {root}/only_daq.py {other}": "not a helper",
        f"python3 -B {other}/status_daq.py --data_dir {other}": "not a helper",
        f"python3 -B {root}/../elsewhere/status_daq.py --data_dir {root}": "not a helper",
        f"/usr{status} --data_dir {root}": "not a program",
        "only_daq.py software; id": "'only_daq.py' is not a program",
        "only_daq.py software /etc": "'only_daq.py' is not a program",
        # the shell's signs
        f"{whole}; id": "data directory",
        f"{whole} ; id": "may not be given ';'",
        f"{whole} && id": "may not be given '&&'",
        f"{whole} | id": "may not be given '|'",
        f"{whole} > {other}/new": "may not be given '>'",
        f"{whole}\nid": "may not be given 'id'",
        f"{status} --data_dir $(echo {root})": "data directory",
        f"{status} --data_dir `echo {root}`": "data directory",
        f"{whole} --run $(id)": "not the name of a run",
        f"{whole} --growth_s $((1))": "not a value",
        f"{whole} '": "not whole",
        # other places and options of the helpers
        f"{status} --data_dir {other}": "not the data directory of this key",
        f"{status} --data_dir={root}": "may not be given '--data_dir=",
        f"{status} --data {root}": "may not be given '--data'",
        f"{whole} --data_dir {other}": "given twice",
        f"{status} --data_dir {root}/..": "data directory",
        f"{status} --data_dir {root}/../elsewhere": "data directory",
        f"{status} --data_dir": "has no value",
        status: "--data_dir is missing",
        f"{whole} --help": "may not be given '--help'",
        f"{start} --hashpipe_dir {other}": "not the HASHPIPE of this key",
        f"{start} --started_by --hashpipe_dir": "not a value",
        f"{start} --module_ids 1": "given twice",
        f"{start[:-9]}../x": "not an address",
        f"{files}": "run_files.py has no ''",
        f"{files} --data_dir {root}": "has no '--data_dir'",
        f"{files} shred --data_dir {root} --run {RUN}": "has no 'shred'",
        f"{files} delete --data_dir {root} --run ..": "not the name of a run",
        f"{files} delete --data_dir {root} --run {RUN}/../..": "not the name of a run",
        f"{files} put --data_dir {root} --run {RUN}": "has no 'put'",
        f"{files} place --data_dir {root} --marker /etc/passwd": "not a value",
        f"{root}/hashpipe -p {other}/hashpipe.so -l": "may only list",
        f"{root}/hashpipe -p {root}/hashpipe.so net_thread": "may only list",
        f"{other}/hashpipe -p {root}/hashpipe.so -l": "not a program",
        # rsync
        "rsync": "may only send",
        "rsync --daemon": "may only send",
        "rsync --server --daemon .": "may only send",
        f"rsync --server -tIRe.LsfxCIvu . {root}/{RUN}/": "may only send",
        f"rsync --sender --server -t . {good}": "may only send",
        f"rsync -a {root}/{RUN}/ {other}": "may only send",
        "rsync --server --sender": "may not be given ''",
        f"rsync --server --sender --daemon . {good}": "'--daemon'",
        f"rsync --server --sender -logDtpre.iLsfxC . {good}": "'-logDtpre.iLsfxC'",
        f"rsync --server --sender -LtRe.LsfxC . {good}": "'-LtRe.LsfxC'",
        f"rsync --server --sender -e sh . {good}": "'-e'",
        f"{send} --rsh=sh . {good}": "'--rsh=sh'",
        f"{send} -e sh . {good}": "'-e'",
        f"{send} --rsync-path=/bin/sh . {good}": "'--rsync-path=/bin/sh'",
        f"{send} --log-file={other}/log . {good}": "'--log-file=",
        f"{send} --copy-links . {good}": "'--copy-links'",
        f"{send} --copy-unsafe-links . {good}": "'--copy-unsafe-links'",
        f"{send} --remove-source-files . {good}": "'--remove-source-files'",
        f"{send} --files-from=/etc/passwd . {root}/": "'--files-from=/etc/passwd'",
        f"{send} --files-from=- . {root}/": "'--files-from=-'",
        f"{send} . /etc/passwd": "no file of a run",
        f"{send} . {good} /etc/passwd": "no file of a run",
        f"{send} . {root}/": "no file of a run",
        f"{send} . {root}/./": "no file of a run",
        f"{send} . {root}/./status_daq.py": "no file of a run",
        f"{send} . {root}/./only_daq.log": "no file of a run",
        f"{send} . {root}/./{RUN}": "no file of a run",
        f"{send} . {root}/./{RUN}/": "not the name of a file",
        f"{send} . {root}/./{RUN}/..": "not the name of a file",
        f"{send} . {root}/./{RUN}/*": "not the name of a file",
        f"{send} . {root}/./{RUN}/-x": "not the name of a file",
        f"{send} . {root}/./{RUN}/.hidden": "not the name of a file",
        f"{send} . {root}/./module_1/{RUN}": "not the name of a run",
        f"{send} . {root}/./../elsewhere/secret": "not a module's directory",
        f"{send} . {root}/./{RUN}/../../elsewhere/secret": "no file of a run",
        f"{send} . {root}/./../{RUN}/notes": "not a module's directory",
        f"{send} . {root}/./module_1/../secret": "not the name of a run",
        f"{send} . {root}/../elsewhere/./{RUN}/notes": "no file of a run",
        f"{send} . {other}/./{RUN}/notes": "no file of a run",
        f"{send} . {root}/./{LINKED_RUN}/secret": "is a link",
        f"{send} . {root}/./{LINKS_INSIDE}/out": "is a link",
        f"{send} . {root}/./{LINKS_INSIDE}/out/secret": "not a module's directory",
        f"{send} . {root}/./{RUN}/file\\ link": "is a link",
        f"{send} . {RUN}/notes": "no file of a run",
        f"{send} .": "must be given files",
        f"{send} ''": "may not be given ''",
        f"rsync --server --sender -stR . {good}": "may not be given '.'",
        "rsync --server --sender -st": "do not end",
    }
    inputs: dict[str, tuple[str, bytes]] = {request: (why, b"") for request, why in rows.items()}
    # The same, with rsync's words where a shell would not see them.
    hidden = {
        "/etc/passwd": "no file of a run",
        f"{place.root}/./{RUN}/../../elsewhere/secret": "no file of a run",
        f"{place.outside}/./{RUN}/notes": "no file of a run",
        f"{place.root}/./{LINKED_RUN}/secret": "is a link",
        f"{place.root}/./{RUN}/$(id)": "not the name of a file",
    }
    for number, (path, why) in enumerate(hidden.items()):
        words = secluded + os.fsencode(path) + b"\0\0"
        inputs[f"rsync --server --sender -stRe.{'L' * (number + 1)}"] = (why, words)
    whole_path = os.fsencode(place.root / "." / RUN / "notes") + b"\0\0"
    inputs["rsync --server --sender -tsRe.L"] = (
        "'--copy-links'",
        secluded.replace(b"--inplace", b"--copy-links") + whole_path,
    )
    inputs["rsync --server --sender -tsRe.LL"] = ("begin with 'sh'", b"sh\0-c\0id\0\0")
    inputs["rsync --server --sender -tsRe.LLL"] = ("do not end", b"rsync\0" + b"x" * 20_000)
    return inputs


@pytest.mark.parametrize("most", [SAMPLE, pytest.param(None, marks=pytest.mark.long)])
def test_what_is_refused(place: Place, most: int | None) -> None:
    """Each with exit code 3 and one line that says why, each logged, and nothing has changed."""
    before, table = place.files(), refusals(place)
    if most is not None:
        table = dict(random.Random(SEED).sample(sorted(table.items()), most))
    logged = len(place.log)
    with place.one_connection(), ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(lambda row: place.ask(row[0], row[1][1]), table.items()))
    wrong = []
    for (request, (why, _)), answer in zip(table.items(), answers, strict=True):
        said = answer.stderr.decode()
        good = (
            answer.returncode == 3
            and answer.stdout == b""
            and said.startswith("only_daq.py: refused: ")
            and said.count("\n") == 1
            and why in said
        )
        if not good:
            wrong.append(f"{request!r}: {answer.returncode} {answer.stdout!r} {said!r}")
    assert not wrong, "\n".join(wrong)
    assert place.files() == before
    lines = place.log[logged:]
    assert len(lines) == len(table)
    for request in table:
        shown = repr(request)[:200]
        assert any(f"refused to {place.node.ip_addr}: " in line and shown in line
                   for line in lines), request  # fmt: skip
    assert not hashpipe_pids()


def rsync(argv: list[str]) -> int:
    """Its exit code."""
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    ).returncode


def test_rsync_brings_a_runs_files_and_no_others(place: Place, tmp_path: Path) -> None:
    def bring(paths: list[str], *more: str) -> tuple[int, list[str]]:
        """Exit code of rsync, and what it brought."""
        target = tmp_path / str(len(list(tmp_path.iterdir())))
        target.mkdir()
        remotes = [f"./{path}" for path in paths]
        code = rsync(rsync_argv(place.node, place.obs, remotes, target, [*OPTIONS, *more]))
        found = [path for path in target.rglob("*") if path.is_symlink() or path.is_file()]
        return code, sorted(str(path.relative_to(target)) for path in found)

    notes, data = f"{RUN}/notes", f"module_1/{RUN}/{DATA_NAME}"
    assert bring([notes, data]) == (0, [data, notes])
    assert bring([notes, f"{RUN}/absent"]) == (23, [notes])
    for option in ("--copy-links", "--remove-source-files", "--rsync-path=sh"):
        code, found = bring([notes], option)
        assert code != 0, option
        assert found == []
    for path in ("../elsewhere/secret", f"{RUN}/file link", f"{LINKS_INSIDE}/out/secret"):
        assert bring([path]) == (12, []), path
    assert (place.root / RUN / "notes").exists()


def test_rsync_cannot_write(place: Place, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    before = place.files()
    for where in (f"{RUN}/", "", f"module_1/{RUN}/"):
        there = f"{place.node.username}@{place.node.ip_addr}:{place.root}/{where}"
        shell = shlex.join(ssh_command(place.node, place.obs))
        argv = ["rsync", "-s", "--rsh", shell, str(tmp_path / "new"), there]
        assert rsync(argv) == 12
    assert place.files() == before


def test_no_terminal_no_subsystem_no_forwarding(place: Place) -> None:
    there = f"{place.node.username}@{place.node.ip_addr}"
    ssh, logged = ssh_command(place.node, place.obs), len(place.log)
    port = str(place.node.ssh_port)
    for words, code in (
        (["-s", there, "sftp"], 3),
        (["-tt", there], 255),
        (["-W", f"{place.node.ip_addr}:{port}", there], 255),
    ):
        done = subprocess.run(
            [*ssh, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (code, b""), words
    # Nobody waits for the end of what a refused terminal was for.
    wait_for(lambda: len(place.log) == logged + 2, "both to be logged")


def test_a_recording_on_a_node(place: Place, shell: Shell) -> None:
    """All that is done on a node, as run control does it."""
    logged = len(place.log)
    assert node_init.init_node(shell).copied == ()
    run = RUN.replace("04:34:06", "03:00:00")
    order = Order(run, "token1", "obs@head[1]", (1, 254), "Test")
    started = daq_nodes.start_recording(shell, order, {"obs_config.json": b"{}"})
    assert hashpipe_pids() == {started.pid}
    assert daq_nodes.status(shell, growth_s=0.1).owner == "token1"
    assert daq_nodes.stop_recording(shell, run=run, owner="token1", over=run).was_running
    listed = daq_nodes.list_files(shell, run).files
    hashed = daq_nodes.hash_files(shell, run, [file.path for file in listed], 60)
    assert not daq_nodes.shares_data_dir(shell, place.outside)
    assert daq_nodes.delete_files(shell, run, hashed.files, run_dir=True).left == ()
    assert not (place.root / run).exists()
    assert len(place.log) == logged


def test_programs_are_not_replaced_through_it(place: Place, shell: Shell) -> None:
    old = (place.root / "stop_daq.py").read_bytes()
    (place.root / "stop_daq.py").write_bytes(old + b"# older\n")
    try:
        with pytest.raises(RemoteError) as raised:
            node_init.init_node(shell)
        assert (place.root / "stop_daq.py").read_bytes() == old + b"# older\n"
        text = str(raised.value)
        assert "its key may only record (only_daq.py), and stop_daq.py there differ" in text
        by_hand = shlex.split(text.partition("with another key: ")[2])
        place.sshd.restrictions = ""
        place.sshd.write_authorized_keys()
        by_hand[by_hand.index("-e") + 1] = shlex.join(ssh_command(place.node, place.obs))
        assert rsync(by_hand) == 0
        assert (place.root / "stop_daq.py").read_bytes() == old
    finally:
        (place.root / "stop_daq.py").write_bytes(old)
        place.sshd.restrictions = restrictions(place.root)
        place.sshd.write_authorized_keys()


def test_another_data_directory_is_told(place: Place) -> None:
    node = daq_node(place.sshd, place.outside)
    with Shell(node, place.obs) as shell, pytest.raises(
        RemoteError, match=r"status: only_daq\.py: refused: .*; correct its line in authorized_keys"
    ):  # fmt: skip
        daq_nodes.status(shell)


def test_an_installed_hashpipe_may_be_named(place: Place, tmp_path: Path) -> None:
    prefix = tmp_path / "hash pipe"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(place.root / "hashpipe", prefix / "bin")
    node = DaqNode(**{**vars(place.node), "hashpipe_dir": str(prefix)})
    run = RUN.replace("04:34:06", "05:00:00")
    order = Order(run, "token1", "obs@head[1]", (1,), "Test")
    try:
        with Shell(node, place.obs) as shell:
            with pytest.raises(RemoteError, match="is not the HASHPIPE of this key"):
                daq_nodes.start_recording(shell, order)
            place.sshd.restrictions = restrictions(place.root, "--hashpipe_dir", str(prefix))
            place.sshd.write_authorized_keys()
        with Shell(node, place.obs) as shell:
            assert node_init.init_node(shell).copied == ()
            pid = daq_nodes.start_recording(shell, order).pid
            assert os.readlink(f"/proc/{pid}/exe") == str(prefix / "bin" / "hashpipe")
            daq_nodes.stop_recording(shell)
    finally:
        end_hashpipes()
        place.sshd.restrictions = restrictions(place.root)
        place.sshd.write_authorized_keys()


def check_flight(data_dir: Path, quabos: Sequence[str], shown: str) -> None:
    """One line for each command, ssh step, packet to a board and change of state of that night."""
    lines = read_flight(data_dir)
    assert [line.text for line in lines] == shown.splitlines()
    whats: dict[str, set[str]] = {}
    for line in lines:
        whats.setdefault(line.program, set()).add(line.what)
    step = {"command", "ssh", "ssh_end", "send"}
    assert whats["config.py"] >= step | {"tftp_get", "tftp_put", "daemon_started", "signal"}
    assert whats["start.py"] >= step | {"run_name", "intent", "recording"}
    assert whats["stop.py"] >= step | {"stop", "rsync", "rsync_end", "recording_ended",
                                       "collect_complete", "run_complete", "finished",
                                       "run_name_removed"}  # fmt: skip
    assert whats["hv_updater"] >= {"send"}
    typed = [line.program for line in lines if line.what == "command"]
    assert typed == ["config.py"] * 2 + ["start.py", "status.py", "stop.py", "config.py"]
    for program in ("config.py", "start.py", "stop.py"):
        said = [line.what for line in lines if line.program == program]
        assert said.count("ssh") == said.count("ssh_end") > 0
        assert said.count("rsync") == said.count("rsync_end")
        for ip in quabos:
            sent = f'send board="{ip}" command='
            assert any(line.program == program and sent in line.text for line in lines)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_whole_night(tmp_path: Path) -> None:
    """The scripts: bring-up with a full key, then everything through the restricted one."""
    data = {**DATA, "image": {**DATA["image"], "integration_time_usec": 10000}}
    with private_observatory(tmp_path, data, data_dir=tmp_path / "head data") as private:
        address = head_address(private.site.prefix, 2)
        node_dir = tmp_path / "data of node"
        with private_sshd(tmp_path / "node", private.site.keys, address) as sshd:
            path = private.command_dir / "daq_config.json"
            content = json.loads(path.read_text())
            content["daq_nodes"][0].update(
                ip_addr=address, bindhost=address, data_dir=str(node_dir), ssh_port=sshd.port
            )
            path.write_text(json.dumps(content))

            def script(name: str, *words: str) -> str:
                done = subprocess.run(
                    [str(REPO / name), *words], cwd=private.command_dir,
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
                )  # fmt: skip
                assert done.returncode == 0, f"{name}: {done.stderr}"
                return done.stdout

            script("config.py")
            sshd.restrictions = restrictions(node_dir)
            sshd.write_authorized_keys()
            script("config.py", "--init_daq_nodes")
            script("start.py")
            assert json.loads(script("status.py", "--json"))["nodes"][0]["state"] == "recording"
            stopped = json.loads(script("stop.py", "--json"))
            assert stopped["finished"]["complete"]
            run_dir = private.data_dir / stopped["run"]
            assert json.loads((run_dir / "run.json").read_text())["verdict"]["word"] == "good"
            assert len(list(run_dir.glob("*.pff"))) > 1
            assert not list(node_dir.rglob("*.pffd"))
            assert not (node_dir / "only_daq.log").exists()  # nothing was refused
            script("config.py", "--shutdown")
        check_flight(private.data_dir, private.site.quabos, script("status.py", "--log", "100000"))


def test_flight_recorder_has_every_step(place: Place, tmp_path: Path) -> None:
    flight = FlightRecorder(tmp_path, "test")
    with Shell(place.node, place.obs, flight) as shell:
        daq_nodes.status(shell)
    (log,) = (tmp_path / "log").iterdir()
    assert [line.split(" ")[3] for line in log.read_text().splitlines()] == ["ssh", "ssh_end"]


def test_every_option_of_the_helpers_is_known(place: Place) -> None:
    """So that none of a new version is refused; the key's own are checked."""
    show = "import json, only_daq as o; print(json.dumps({k: [*v] for k, v in o.OPTIONS.items()}))"
    said = subprocess.run(
        [sys.executable, "-B", "-c", show], cwd=REPO / "daq", capture_output=True, check=True
    )
    known: dict[str, list[str]] = json.loads(said.stdout)
    for name, options in known.items():
        argv = [sys.executable, "-B", *name.split(" "), "--help"]
        text = subprocess.run(argv, cwd=REPO / "daq", capture_output=True, text=True).stdout
        usage = text.partition("\n\n")[0]
        assert set(re.findall(r"--[a-z_]+", usage)) == set(options), name
