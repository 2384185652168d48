"""DAQ nodes through ssh, as run control sees them: a real sshd on loopback, the real pipeline."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from panoseti.configs.site import DaqNode, ObsConfig, PipelineTuning
from panoseti.errors import RefusedError, RemoteError
from panoseti.nodes import daq_nodes, node_documents, node_init
from panoseti.nodes.daq_nodes import NodeShells, Order
from panoseti.nodes.node_types import NodeStatus
from panoseti.nodes.remote import Shell, UnreachableError
from simulator.private_sshd import OperatorKeys, PrivateSshd, private_sshd
from tests.helpers import free_port, wait_for
from tests.node_dir import OTHER_RUN, RUN, end_hashpipes, hashpipe_pids, is_alive, pipeline_built
from tests.nodes import daq_node, obs_config

ORDER = Order(RUN, "token1", "obs@head[1]", (1, 254), "Test")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> OperatorKeys:
    return OperatorKeys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def sshd(keys: OperatorKeys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    with private_sshd(tmp_path_factory.mktemp("sshd"), keys) as server:
        yield server


@pytest.fixture
def obs(keys: OperatorKeys) -> ObsConfig:
    return obs_config(keys)


@pytest.fixture
def node(sshd: PrivateSshd, tmp_path: Path) -> DaqNode:
    if not pipeline_built():
        pytest.skip("the pipeline is not built: make build")
    return daq_node(sshd, tmp_path / "node data")


@pytest.fixture
def shell(node: DaqNode, obs: ObsConfig) -> Iterator[Shell]:
    with Shell(node, obs) as shell:
        yield shell
    end_hashpipes()


def test_init(shell: Shell) -> None:
    folder = Path(shell.node.data_dir)
    names = set(node_init.node_files(shell.node))
    first = node_init.init_node(shell)
    assert (set(first.copied), first.kept, first.made_data_dir) == (names, (), True)
    assert {path.name for path in folder.iterdir()} == names
    assert os.access(folder / "hashpipe", os.X_OK)
    assert daq_nodes.status(shell).helpers == daq_nodes.current_helpers()
    before = {path.name: path.stat().st_ctime_ns for path in folder.iterdir()}
    (folder / "stop_daq.py").write_text("broken")
    (folder / "hashpipe.so").unlink()
    second = node_init.init_node(shell)
    assert second.copied == ("hashpipe.so", "stop_daq.py")
    assert set(second.kept) == names - set(second.copied)
    same = {path.name for path in folder.iterdir() if path.stat().st_ctime_ns == before[path.name]}
    assert same == set(second.kept)
    assert node_init.init_node(shell).copied == ()


def test_init_that_cannot_be(shell: Shell, obs: ObsConfig, tmp_path: Path) -> None:
    deep = dataclasses.replace(shell.node, data_dir=str(tmp_path / "not" / "mounted"))
    with Shell(deep, obs) as other, pytest.raises(RemoteError, match=r"No such file.*data_dir in"):
        node_init.init_node(other)
    assert not (tmp_path / "not").exists()
    foreign = dataclasses.replace(shell.node, hashpipe_dir=str(tmp_path / "no hashpipe"))
    with Shell(foreign, obs) as other:
        with pytest.raises(RemoteError, match=r"no hashpipe/bin/hashpipe cannot load hashpipe\.so"):
            node_init.init_node(other)


def test_helpers_that_are_not_there(shell: Shell) -> None:
    Path(shell.node.data_dir).mkdir()
    with pytest.raises(RemoteError, match=r"could not read its status: .*status_daq\.py is not"
                                          r" there; config\.py --init_daq_nodes"):  # fmt: skip
        daq_nodes.status(shell)
    (Path(shell.node.data_dir) / "status_daq.py").write_text("raise ValueError('bug')\n")
    with pytest.raises(RemoteError, match=r"exit code 1: ValueError: bug.*init_daq_nodes"):
        daq_nodes.status(shell)
    (Path(shell.node.data_dir) / "status_daq.py").write_text("print('{\"ok\": true}')\n")
    with pytest.raises(RemoteError, match=r"its answer is not understood \(no 'time_unix'\)"):
        daq_nodes.status(shell)


def test_a_stop_where_nothing_was_ever_brought(shell: Shell) -> None:
    """There is nothing to stop, as long as no run is named and no pipeline runs all the same."""
    stopped = daq_nodes.stop_recording(shell, owner="token1")
    (note,) = stopped.notes
    assert not stopped.was_running and "no hashpipe runs there" in note
    assert "config.py --init_daq_nodes" in note and shell.node.data_dir in note
    missing = r"stop_daq\.py is not there; config\.py --init_daq_nodes"
    with pytest.raises(RemoteError, match=missing):
        daq_nodes.stop_recording(shell, owner="token1", over=RUN)
    folder = Path(shell.node.data_dir)
    folder.mkdir()
    shutil.copy(shutil.which("sleep") or "/bin/sleep", folder / "hashpipe")
    with subprocess.Popen([folder / "hashpipe", "60"]) as stray:
        try:
            wait_for(lambda: stray.pid in hashpipe_pids(), "it to run")
            with pytest.raises(RemoteError, match=missing):
                daq_nodes.stop_recording(shell, owner="token1")
        finally:
            stray.kill()


def test_a_run(shell: Shell) -> None:
    folder = Path(shell.node.data_dir)
    node_init.init_node(shell)
    idle = daq_nodes.status(shell)
    assert (idle.running, idle.run, idle.pipeline, idle.problems) == (False, None, None, ())
    started = daq_nodes.start_recording(shell, ORDER, {"obs_config.json": b"{}"})
    assert (folder / RUN / "obs_config.json").read_bytes() == b"{}"
    assert (started.run, started.replaced_run) == (RUN, None)
    assert hashpipe_pids() == {started.pid}
    status = daq_nodes.status(shell, growth_s=0.1)
    assert (status.running, status.run, status.owner) == (True, RUN, "token1")
    assert status.started_by == "obs@head[1]"
    assert status.clock_offset_s == 0
    assert status.volumes[0].default
    assert set(status.volumes[0].modules) == {1, 254}
    assert status.pipeline is not None
    assert (status.pipeline.state, status.pipeline.frames) == ("running", 0)
    with pytest.raises(RefusedError, match=rf"could not start recording: hashpipe .* run {RUN}"):
        daq_nodes.start_recording(shell, dataclasses.replace(ORDER, run=OTHER_RUN))
    with pytest.raises(RefusedError, match="nothing was stopped"):
        daq_nodes.stop_recording(shell, run=OTHER_RUN)
    with pytest.raises(RefusedError, match="somebody else is using"):
        daq_nodes.stop_recording(shell, owner="token2")
    stopped = daq_nodes.stop_recording(shell, run=RUN, owner="token1")
    assert (stopped.run, stopped.was_running) == (RUN, True)
    assert [ended.signals for ended in stopped.ended] == [("SIGINT",)]
    assert stopped.final is not None
    assert stopped.final.state == "ended"
    assert not is_alive(started.pid)
    assert not daq_nodes.stop_recording(shell).was_running

    files = daq_nodes.list_files(shell, RUN)
    assert len(files.files) == 8 + 4
    assert len([file for file in files.files if file.in_module_dir]) == 8
    assert [run.run for run in daq_nodes.list_runs(shell)] == [RUN]
    paths = [file.path for file in files.files]
    hashed = daq_nodes.hash_files(shell, RUN, [*paths, f"{RUN}/absent"], 60)
    assert [problem.path for problem in hashed.problems] == [f"{RUN}/absent"]
    for file in hashed.files:
        assert file.sha256 == hashlib.sha256((folder / file.path).read_bytes()).hexdigest()
    (folder / paths[0]).write_bytes(b"changed")
    done = daq_nodes.delete_files(shell, RUN, hashed.files, run_dir=True)
    assert [problem.path for problem in done.problems] == [paths[0]]
    assert {file.path for file in done.files} == set(paths[1:])
    assert done.removed == (f"module_254/{RUN}", RUN)
    assert done.left[0].startswith(f"module_1/{RUN}: start_")
    assert (folder / paths[0]).read_bytes() == b"changed"


def test_start_needs_the_helpers_of_this_head_node(shell: Shell) -> None:
    node_init.init_node(shell)
    with (Path(shell.node.data_dir) / "stop_daq.py").open("a") as file:
        file.write("# older\n")
    with pytest.raises(RefusedError, match="are not those of this head node"):
        daq_nodes.start_recording(shell, ORDER)
    assert daq_nodes.status(shell).helpers != daq_nodes.current_helpers()


def test_options_of_the_pipeline_reach_it(shell: Shell, obs: ObsConfig) -> None:
    node_init.init_node(shell)
    cpu = min(os.sched_getaffinity(0))
    tuning = PipelineTuning("udp", 8, busy_poll=True, cpus=(cpu, cpu, cpu))
    with Shell(dataclasses.replace(shell.node, tuning=tuning), obs) as other:
        daq_nodes.start_recording(other, ORDER)
        daq_nodes.stop_recording(other)
    script = (Path(shell.node.data_dir) / "run_hashpipe.sh").read_text()
    for words in ("-o CAPTURE=udp", "-o RCVMB=8", "-o BUSYPOLL=1", f"-c {cpu} output_thread"):
        assert f" {words}" in script


def test_start_that_fails_says_why(shell: Shell, obs: ObsConfig) -> None:
    node_init.init_node(shell)
    lost = dataclasses.replace(shell.node, bindhost="192.0.2.1")
    with Shell(lost, obs) as other:
        with pytest.raises(RemoteError, match=r"cannot bind UDP port 60001 of 192\.0\.2\.1"):
            daq_nodes.start_recording(other, ORDER)
    assert daq_nodes.status(shell).problems == ()
    assert daq_nodes.list_runs(shell) == ()


def test_shared_data_directory(shell: Shell, tmp_path: Path) -> None:
    node_init.init_node(shell)
    folder = Path(shell.node.data_dir)
    (tmp_path / "other name").symlink_to(folder)
    assert daq_nodes.shares_data_dir(shell, tmp_path / "other name")
    (tmp_path / "head").mkdir()
    assert not daq_nodes.shares_data_dir(shell, tmp_path / "head")
    assert not list(tmp_path.rglob(".same_*"))
    (folder / RUN).mkdir()
    (folder / "module_1" / RUN).mkdir(parents=True)
    path = f"module_1/{RUN}/start_2024-07-25T04:34:46Z.dp_ph256.bpp_2.module_1.seqno_0.pff"
    (folder / path).write_bytes(b"data")
    moved = daq_nodes.move_files(shell, RUN, [path], 30)
    assert [file.path for file in moved.files] == [f"{RUN}/{Path(path).name}"]
    assert moved.removed == (f"module_1/{RUN}",)


def test_many_nodes(shell: Shell, obs: ObsConfig, tmp_path: Path) -> None:
    good = [dataclasses.replace(shell.node, data_dir=str(tmp_path / f"node {k}")) for k in range(3)]
    dead = dataclasses.replace(shell.node, ssh_port=free_port())
    nodes = [good[0], dead, *good[1:]]
    seen = []
    with NodeShells(nodes, obs) as shells:
        assert shells.nodes == tuple(nodes)
        prepared = shells.each(node_init.init_node, done=lambda outcome: seen.append(outcome.node))
        assert seen == list(prepared) == nodes
        assert [outcome.ok for outcome in prepared.values()] == [True, False, True, True]
        assert len(daq_nodes.problems(prepared)) == 1
        assert "no ssh server" in daq_nodes.problems(prepared)[0]
        with pytest.raises(UnreachableError):
            _ = prepared[dead].value
        begin = time.monotonic()
        outcomes = shells.each(lambda s: daq_nodes.status(s, growth_s=0), good)
        assert time.monotonic() - begin < 10
        statuses = [outcome.value for outcome in outcomes.values()]
        assert all(isinstance(status, NodeStatus) for status in statuses)
    assert shells.each(daq_nodes.status, []) == {}


def test_a_fault_of_the_program_on_one_node_is_not_that_of_the_others(
    shell: Shell, obs: ObsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [dataclasses.replace(shell.node, data_dir=f"/{k}") for k in range(3)]
    with NodeShells(nodes, obs) as shells:
        outcomes = shells.each(lambda one: 6 // int(one.node.data_dir[1:]))
    assert [outcome.result for outcome in outcomes.values()] == [None, 6, 3]
    assert f"{nodes[0].ip_addr}: a fault of this program: ZeroDivision" in str(
        outcomes[nodes[0]].problem
    )
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("time_unix", "offset"), [(99.0, -1.0), (100.0, 0.0), (101.5, 0.0), (102.0, 0.0), (105.0, 3.0)]
)
def test_clock_offset(time_unix: float, offset: float) -> None:
    document = {"host": "h", "boot_id": "b", "running": False, "run": None, "owner": None,
                "started_by": None, "started_unix": None, "pid": None, "processes": [],
                "pipeline": None, "files": [], "volumes": [], "problems": [], "helpers": "x",
                "time_unix": time_unix}  # fmt: skip
    assert node_documents.node_status(document, 100.0, 102.0).clock_offset_s == offset
