"""Collection: real ssh, real rsync, real helpers; nothing is deleted that was not verified."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from panoseti.configs.site import DaqNode, ObsConfig
from panoseti.flight import FlightRecorder
from panoseti.nodes import daq_nodes
from panoseti.nodes.node_types import FilesDone, NodeFile
from panoseti.nodes.remote import Shell
from panoseti.nodes.rsync_fetch import Fetcher
from panoseti.runs import collect, collect_batch, names, pff
from panoseti.runs.collect import Collection, NodeResult
from simulator.private_sshd import OperatorKeys, PrivateSshd, private_sshd
from tests.helpers import REPO

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
IMAGE_BYTES = pff.PRODUCTS["img16"].frame_bytes


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    folder = tmp_path_factory.mktemp("ssh d")
    with private_sshd(folder, OperatorKeys.make(folder / "keys")) as server:
        yield server


@dataclass
class Place:
    """Head node and DAQ node of a test; one folder or two."""

    head: Path
    node: Path
    shell: Shell
    obs: ObsConfig

    @property
    def run_dir(self) -> Path:
        return self.head / RUN

    def collection(self, delete: bool = True) -> Collection:
        return Collection(self.run_dir, self.obs, FlightRecorder(None, ""), delete)

    def collect(self, delete: bool = True) -> NodeResult:
        collection = self.collection(delete)
        (result,) = collect.collect(collection, [self.shell])
        came, expected = collection.meter.read()
        assert not result.ok or came == expected
        return result

    def record(self, module: int, frames: int, product: str = "img16", torn: int = 0) -> Path:
        """A file of a module as a pipeline leaves it; its content is random."""
        folder = self.node / f"module_{module}" / RUN
        folder.mkdir(parents=True, exist_ok=True)
        seqno = len(list(folder.iterdir()))
        path = folder / names.data_file_name(1721882050 + seqno, product, module, seqno)
        path.write_bytes(os.urandom(frames * pff.PRODUCTS[product].frame_bytes + torn))
        return path

    def log(self, name: str, text: str = "words\n") -> Path:
        folder = self.node / RUN
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        return folder / name


def place(tmp_path: Path, sshd: PrivateSshd, shared: bool) -> Iterator[Place]:
    head = tmp_path / "head data"
    node = head if shared else tmp_path / "node's data"
    (head / RUN).mkdir(parents=True)
    (head / RUN / "run.json").write_text("{}")
    node.mkdir(exist_ok=True)
    for helper in (REPO / "daq").glob("*.py"):
        shutil.copy(helper, node)
    obs = ObsConfig(
        "Test", "", (), (),
        ssh_key=str(sshd.keys.key), ssh_known_hosts=str(sshd.keys.known_hosts),
    )  # fmt: skip
    config = DaqNode(sshd.address, sshd.user, str(node), (1, 254), ssh_port=sshd.port)
    with Shell(config, obs) as shell:
        yield Place(head, node, shell, obs)


@pytest.fixture
def apart(tmp_path: Path, sshd: PrivateSshd) -> Iterator[Place]:
    yield from place(tmp_path, sshd, shared=False)


@pytest.fixture
def shared(tmp_path: Path, sshd: PrivateSshd) -> Iterator[Place]:
    yield from place(tmp_path, sshd, shared=True)


def contents(folder: Path) -> dict[str, str]:
    """Name -> digest of all files below a folder, helpers and run.json left out."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "run.json"
    }


def run_folders(node: Path) -> list[str]:
    return sorted(str(path.relative_to(node)) for path in node.rglob(RUN))


# --- another computer ---


def test_files_are_fetched_verified_and_only_then_deleted(apart: Place) -> None:
    for module in (1, 254):
        apart.record(module, 3)
        apart.record(module, 0, "img8")
        apart.record(module, 5, "ph256")
    apart.log("hp_stdout_10.0.0.1")
    apart.log("obs_config.json", "{}")
    (apart.run_dir / "obs_config.json").write_text("{}")
    before = contents(apart.node)
    result = apart.collect()
    assert result.ok and result.how == "fetched" and result.left == [], result
    assert result.files == len(before) == 8
    assert contents(apart.head) == before
    assert run_folders(apart.node) == [] and contents(apart.node) == {}
    assert not (apart.run_dir / collect.INCOMING).exists()
    again = apart.collect()
    assert again.ok and again.files == 0 and contents(apart.head) == before


def test_without_clean_up_all_stays_until_it_is_asked_for(apart: Place) -> None:
    apart.record(1, 2)
    before = contents(apart.node)
    assert apart.collect(delete=False).ok
    assert contents(apart.node) == contents(apart.head) == before
    inodes = {path.name: path.stat().st_ino for path in apart.run_dir.iterdir()}
    assert apart.collect().ok
    assert contents(apart.node) == {} and contents(apart.head) == before
    assert {path.name: path.stat().st_ino for path in apart.run_dir.iterdir()} == inodes


def test_what_is_here_already_is_on_the_disk_before_it_is_deleted_there(
    apart: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector may have died, and the computer after it, before its files were safe."""
    paths = [apart.record(1, 2), apart.record(254, 2)]
    assert apart.collect(delete=False).ok
    synced: list[Path] = []
    monkeypatch.setattr(collect_batch, "fsync_file", synced.append)
    monkeypatch.setattr(collect_batch, "fsync_folder", synced.append)
    delete = daq_nodes.delete_files
    deleted: list[str] = []

    def delete_what_is_safe(
        shell: Shell, run: str, files: list[NodeFile], **options: Any
    ) -> FilesDone:
        names = [file.name for file in files]
        assert {apart.run_dir / name for name in names} <= set(synced), names
        assert not names or synced[-1] == apart.run_dir or apart.run_dir in synced
        deleted.extend(names)
        return delete(shell, run, files, **options)

    monkeypatch.setattr(daq_nodes, "delete_files", delete_what_is_safe)
    result = apart.collect()
    assert result.ok and sorted(deleted) == sorted(path.name for path in paths), result


def test_torn_files_are_cut_here_and_a_second_try_does_not_mind(apart: Place) -> None:
    torn, whole = apart.record(1, 3, torn=17), apart.record(1, 2)
    content = torn.read_bytes()
    assert apart.collect(delete=False).ok
    noted: list[collect.Cut] = []
    cuts = collect.cut_torn_files(apart.run_dir, noted.append)
    assert [(cut.name, cut.size_bytes) for cut in cuts] == [(torn.name, 17)] and noted == cuts
    assert (apart.run_dir / torn.name).read_bytes() == content[: 3 * IMAGE_BYTES]
    assert (apart.run_dir / whole.name).stat().st_size == 2 * IMAGE_BYTES
    assert apart.collect().ok and contents(apart.node) == {}
    collect.cut_torn_files(apart.run_dir)
    assert (apart.run_dir / torn.name).read_bytes() == content[: 3 * IMAGE_BYTES]
    assert collect.cut_torn_files(apart.run_dir) == []


def test_a_file_that_grew_is_fetched_again(apart: Place) -> None:
    path = apart.record(1, 2)
    shutil.copy(path, apart.run_dir)
    with path.open("ab") as file:
        file.write(b"z" * IMAGE_BYTES)
    whole = path.read_bytes()
    assert apart.collect().ok
    assert (apart.run_dir / path.name).read_bytes() == whole and not path.exists()


def test_what_differs_from_what_was_collected_is_kept_on_both_sides(apart: Place) -> None:
    odd, good = apart.record(1, 2), apart.record(1, 2)
    ours = b"x" * (2 * IMAGE_BYTES)
    (apart.run_dir / odd.name).write_bytes(ours)
    theirs = odd.read_bytes()
    result = apart.collect()
    assert [path for path, _ in result.failed] == [f"module_1/{RUN}/{odd.name}"]
    assert "differs" in result.failed[0][1] and "both are kept" in result.failed[0][1]
    assert (apart.run_dir / odd.name).read_bytes() == ours and odd.read_bytes() == theirs
    assert not good.exists() and (apart.run_dir / good.name).exists()


def test_a_broken_off_transfer_is_taken_up_and_wrong_bytes_are_seen(apart: Place) -> None:
    half, wrong = apart.record(1, 4), apart.record(1, 4)
    before = contents(apart.node)
    incoming = apart.run_dir / collect.INCOMING / apart.shell.node.ip_addr / "module_1" / RUN
    incoming.mkdir(parents=True)
    (incoming / half.name).write_bytes(half.read_bytes()[:5000])
    (incoming / wrong.name).write_bytes(b"w" * wrong.stat().st_size)
    os.utime(incoming / wrong.name, ns=(0, wrong.stat().st_mtime_ns))
    assert apart.collect().ok and contents(apart.head) == before


def test_two_modules_with_a_file_of_one_name(apart: Place) -> None:
    path = apart.record(1, 2)
    other = apart.node / "module_254" / RUN / path.name
    other.parent.mkdir(parents=True)
    other.write_bytes(b"other")
    result = apart.collect()
    assert result.failed == [(f"module_254/{RUN}/{path.name}",
                              "another folder has a file of that name")]  # fmt: skip
    assert other.read_bytes() == b"other" and not path.exists()


def test_strange_things_stay_and_are_told(apart: Place) -> None:
    path = apart.record(1, 1)
    (path.parent / "notes").mkdir()
    (path.parent / "link.pff").symlink_to("/etc/passwd")
    (path.parent / ".x.json.1.tmp").write_text("of a write that was cut short")
    result = apart.collect()
    assert result.ok and not path.exists()
    assert result.strange == [f"module_1/{RUN}/{name}" for name in ("link.pff", "notes")]
    assert any("notes" in text for text in result.left) and "link.pff" in str(result.left)
    assert (path.parent / "link.pff").is_symlink() and not (apart.run_dir / "link.pff").exists()


def test_a_file_that_comes_late_is_not_forgotten(
    apart: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was not emptied is looked at again before the run is taken for complete."""
    apart.record(1, 1)
    late: list[Path] = []
    delete = daq_nodes.delete_files

    def delete_as_one_comes(*args: Any, **options: Any) -> FilesDone:
        late.append(apart.record(1, 1)) if not late else None
        return delete(*args, **options)

    monkeypatch.setattr(daq_nodes, "delete_files", delete_as_one_comes)
    result = apart.collect()
    assert [path for path, _ in result.failed] == [f"module_1/{RUN}/{late[0].name}"], result
    assert late[0].exists()


def test_a_run_that_records_is_not_deleted(apart: Place) -> None:
    path = apart.record(1, 2)
    (apart.node / "current_run_daq").write_text("garbage")
    shutil.copy(shutil.which("sleep") or "/bin/sleep", apart.node / "hashpipe")
    fake = os.posix_spawn(str(apart.node / "hashpipe"), ["hashpipe", "60"], dict(os.environ))
    try:
        result = apart.collect()
    finally:
        os.kill(fake, 9)
        os.waitpid(fake, 0)
    assert not result.ok and "hashpipe" in str(result.failed)
    assert path.exists()
    (apart.node / "current_run_daq").unlink()
    assert apart.collect().ok and not path.exists()


# A node that names files as it likes; its hash is right for a file it knows the content of.
LYING_HELPER = """import json, sys
FILE = {"path": %r, "bytes": 5, "mtime_ns": 1, "inode": 1, "sha256": %r}
ANSWERS = {
    "list": {"files": [FILE], "others": [], "head_run_dir": False},
    "place": {"device": 0, "inode": 0, "marker": None},
    "hash": {"files": [FILE]},
    "delete": {"files": [], "removed": [], "left": []},
}
print(json.dumps({"ok": True, "error": None, **ANSWERS[sys.argv[1]]}))
"""


@pytest.mark.parametrize("told", ["{head}/precious.pff", "../../../precious.pff"])
@pytest.mark.parametrize("known", [False, True], ids=["unknown content", "known content"])
def test_a_node_cannot_name_a_file_of_the_head_node(
    apart: Place, monkeypatch: pytest.MonkeyPatch, told: str, known: bool
) -> None:
    """Such a file would be taken for a copy that has come: deleted where it differs, else moved."""
    precious = apart.head / "precious.pff"
    precious.write_bytes(b"bytes")
    sha256 = hashlib.sha256(b"bytes" if known else b"other").hexdigest()
    told = told.format(head=apart.head)
    (apart.node / "run_files.py").write_text(LYING_HELPER % (told, sha256))
    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    result = apart.collect()
    assert precious.read_bytes() == b"bytes", result
    ((_, why),) = result.failed
    assert f"{told!r} is not the path of a file of run {RUN}" in why
    assert {path.name for path in apart.run_dir.iterdir()} == {"run.json"}


def test_a_node_that_tells_no_hash_is_named(apart: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = apart.record(1, 2)
    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(daq_nodes, "hash_files", lambda *words: FilesDone((), ()))
    result = apart.collect()
    assert path.exists()
    assert result.failed == [(f"module_1/{RUN}/{path.name}", "the node told no hash of it")]


def rsync_that(folder: Path, script: str) -> str:
    """A PATH whose rsync runs `script`, with $REAL the real one."""
    folder.mkdir()
    real = shutil.which("rsync")
    (folder / "rsync").write_text(f"#!/bin/bash\nREAL={real}\nMARK={folder}/mark\n{script}\n")
    (folder / "rsync").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    "code",
    [12, 255, pytest.param(23, marks=pytest.mark.long), pytest.param(30, marks=pytest.mark.long)],
)
def test_a_failed_rsync_is_tried_again_and_named(
    apart: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = apart.record(1, 2)
    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    script = f"""if [ ! -e $MARK ]; then touch $MARK; echo "trouble $*" >&2; exit {code}; fi
exec $REAL "$@" """
    monkeypatch.setenv("PATH", rsync_that(tmp_path / "once", script))
    assert apart.collect().ok and not path.exists()
    path = apart.record(1, 2)
    monkeypatch.setenv("PATH", rsync_that(tmp_path / "always", f"echo trouble >&2; exit {code}"))
    result = apart.collect()
    assert path.exists() and f"exit code {code}: trouble" in str(result.failed)


@pytest.mark.parametrize(
    "damage", ["truncate -s -1 $f", "printf X | dd of=$f bs=1 seek=700 conv=notrunc"]
)
def test_a_copy_that_differs_is_never_taken_for_the_file(
    apart: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = apart.record(1, 2)
    content = path.read_bytes()
    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    damage = damage.replace("$f", '"$f"')
    script = f'$REAL "$@" && for f in "${{@: -1}}"/*/*/*.pff; do {damage} 2>/dev/null; done'
    monkeypatch.setenv("PATH", rsync_that(tmp_path / "bin", script))
    result = apart.collect()
    assert not result.ok and path.read_bytes() == content
    assert not (apart.run_dir / path.name).exists()
    monkeypatch.undo()
    assert apart.collect().ok and (apart.run_dir / path.name).read_bytes() == content


def test_an_rsync_that_is_killed_is_tried_again_and_named(
    apart: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = apart.record(1, 2)
    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    once = 'if [ ! -e $MARK ]; then touch $MARK; kill -KILL $$; fi; exec $REAL "$@"'
    monkeypatch.setenv("PATH", rsync_that(tmp_path / "once", once))
    assert apart.collect().ok and not path.exists()
    path = apart.record(254, 2)
    monkeypatch.setenv("PATH", rsync_that(tmp_path / "always", "kill -KILL $$"))
    result = apart.collect()
    assert path.exists() and "rsync: ended by signal 9" in str(result.failed)
    assert not (apart.run_dir / path.name).exists()


# What can happen to a file on the node while it is being collected.
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-IMAGE_BYTES],
    "bit-flipped": lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:],
    "grown": lambda data: data + b"g" * IMAGE_BYTES,
}


def changes_once(path: Path, change: str) -> Callable[[], None]:
    """What changes a file when it is called for the first time."""
    left = [CHANGES[change]]

    def once() -> None:
        if left:
            path.write_bytes(left.pop()(path.read_bytes()))

    return once


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_copy_and_hash_is_fetched_again(
    apart: Place, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path, other = apart.record(1, 3), apart.record(1, 3)
    meant = {path.name: CHANGES[change](path.read_bytes()), other.name: other.read_bytes()}
    act, fetch = changes_once(path, change), Fetcher.fetch
    fetched: list[list[str]] = []

    def fetch_and_change(self: Fetcher, paths: Sequence[str], target: Path) -> None:
        fetch(self, paths, target)
        fetched.append([Path(one).name for one in paths])
        act()

    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(Fetcher, "fetch", fetch_and_change)
    (result,) = collect.collect(apart.collection(), [apart.shell])
    assert result.ok and fetched[1:] == [[path.name]], "again, alone"
    assert {name: (apart.run_dir / name).read_bytes() for name in meant} == meant
    assert contents(apart.node) == {}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_hash_and_deletion_is_not_deleted(
    apart: Place, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path, other = apart.record(1, 3), apart.record(1, 3)
    before, act, hash_files = path.read_bytes(), changes_once(path, change), daq_nodes.hash_files
    after = CHANGES[change](before)

    def hash_and_change(*words: Any) -> FilesDone:
        done = hash_files(*words)
        act()
        return done

    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(daq_nodes, "hash_files", hash_and_change)
    result = apart.collect()
    assert path.read_bytes() == after and "kept" in str(result.undeleted), result
    assert (apart.run_dir / path.name).read_bytes() == before
    assert not other.exists() and (apart.run_dir / other.name).exists()
    again = apart.collect()
    here = (apart.run_dir / path.name).read_bytes()
    if change == "grown":  # begins with all that came before
        assert again.ok and here == after and contents(apart.node) == {}
    else:
        assert "both are kept" in str(again.failed)
        assert here == before and path.read_bytes() == after


def test_a_missing_rsync_is_named(
    apart: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = apart.record(1, 1)
    monkeypatch.setattr(collect_batch, "FETCH_TRIES", 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = apart.collect()
    assert "rsync cannot be run here" in str(result.failed) and path.exists()


def test_an_rsync_missing_on_the_node_is_named(
    apart: Place, sshd: PrivateSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = apart.record(1, 1)
    monkeypatch.setattr(collect_batch, "RETRY_PAUSE_S", 0.01)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").symlink_to(Path(sys.executable).resolve())
    (programs / "pgrep").symlink_to(shutil.which("pgrep") or "")
    before = sshd.restrictions
    sshd.restrictions = f'command="PATH={programs}; eval \\"$SSH_ORIGINAL_COMMAND\\""'
    sshd.write_authorized_keys()
    try:
        result = apart.collect()
    finally:
        sshd.restrictions = before
        sshd.write_authorized_keys()
    assert path.exists() and not (apart.run_dir / path.name).exists()
    (failed,) = [why for _, why in result.failed]
    assert "rsync is missing there: install it" in failed and apart.shell.node.ip_addr in failed


def test_files_come_in_streams_beside_each_other_for_each_disk(
    apart: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rsync waits until all four have begun: two for each of the two disks."""
    monkeypatch.setattr(collect, "BATCH_FILES", 1)
    monkeypatch.setattr(collect_batch, "FETCH_TRIES", 1)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disk:
        (apart.node / "module_254").symlink_to(disk)
        for module in (1, 254, 1, 254):
            apart.record(module, 2)
        script = """touch $MARK.$$
for again in {1..600}; do
    marks=($MARK.*)
    [ ${#marks[@]} -ge 4 ] && exec $REAL "$@"
    sleep 0.05
done
exit 30"""
        monkeypatch.setenv("PATH", rsync_that(tmp_path / "bin", script))
        result = apart.collect()
        assert result.ok and result.files == 4, result


def test_what_has_come_is_not_sent_again(
    apart: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = apart.record(1, 3000)
    size = path.stat().st_size
    begun = apart.run_dir / ".incoming" / apart.shell.node.ip_addr / path.relative_to(apart.node)
    begun.parent.mkdir(parents=True)
    begun.write_bytes(path.read_bytes()[: size * 9 // 10])
    monkeypatch.setenv("PATH", rsync_that(tmp_path / "bin", '$REAL --stats "$@" >$MARK'))
    assert apart.collect().ok
    words = (tmp_path / "bin" / "mark").read_text().partition("Literal data: ")[2]
    assert 0 < int(words.split()[0].replace(",", "")) < size // 5, words


def test_an_unreachable_node_does_not_hold_up_the_others(apart: Place) -> None:
    path = apart.record(1, 1)
    dead = DaqNode("127.0.0.1", apart.shell.node.username, str(apart.node), (2,), ssh_port=1)
    with Shell(dead, apart.obs) as shell:
        first, second = collect.collect(apart.collection(), [shell, apart.shell])
    assert not first.ok and "no ssh server" in str(first.failed)
    assert second.ok and not path.exists()


# --- the head node's own files ---


def test_a_shared_directory_is_moved_and_keeps_its_run_directory(shared: Place) -> None:
    inodes = {}
    for module in (1, 254):
        for product in ("img16", "ph256"):
            path = shared.record(module, 2, product)
            inodes[path.name] = path.stat().st_ino
    log = shared.log("hp_log_10.0.0.1")
    before = contents(shared.head)
    result = shared.collect()
    assert result.ok and result.how == "moved" and result.files == 4, result
    assert {name: (shared.run_dir / name).stat().st_ino for name in inodes} == inodes
    assert contents(shared.run_dir) == before and log.exists()
    assert run_folders(shared.head) == [RUN]
    assert shared.collect().ok and contents(shared.run_dir) == before


def test_a_module_on_another_disk_is_copied(shared: Place) -> None:
    disk = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        if disk.stat().st_dev == shared.head.stat().st_dev:
            pytest.skip("no second file system here")
        (shared.head / "module_1").symlink_to(disk)
        path = shared.record(1, 3, torn=5)
        content = path.read_bytes()
        result = shared.collect()
        assert result.ok, result
        assert (shared.run_dir / path.name).read_bytes() == content
        assert list(disk.iterdir()) == [] and (shared.head / "module_1").is_symlink()
    finally:
        shutil.rmtree(disk)


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")
def test_a_full_disk_keeps_no_file_from_being_moved(tmp_path: Path, sshd: PrivateSshd) -> None:
    """To tell that the directory is the very one here takes a marker, which finds no room."""
    disk = tmp_path / "head data"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        for shared in place(tmp_path, sshd, shared=True):
            path = shared.record(1, 3)
            content = path.read_bytes()
            before = contents(disk)
            with (disk / "ballast").open("wb", 0) as ballast, pytest.raises(OSError, match="space"):
                while True:
                    ballast.write(bytes(4096))
            result = shared.collect()
            assert result.ok and result.how == "moved", result
            assert (shared.run_dir / path.name).read_bytes() == content
            (disk / "ballast").unlink()
            assert contents(disk) == before and list(disk.glob(".same_*")) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_another_head_nodes_run_directory_is_not_touched(apart: Place) -> None:
    path = apart.record(1, 1)
    (apart.node / RUN).mkdir()
    (apart.node / RUN / "run.json").write_text("{}")
    result = apart.collect()
    assert not result.ok and "nothing is touched" in str(result.failed) and path.exists()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder nobody can write to; root, whom no mode keeps out, gets a mount instead."""
    if os.geteuid() != 0:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        yield
        folder.chmod(0o755)
        return
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_head_directory_that_cannot_be_written_is_named(apart: Place) -> None:
    path = apart.record(1, 1)
    with read_only(apart.head):
        result = apart.collect()
    assert not result.ok and str(apart.head) in str(result.failed) and path.exists()
    assert apart.collect().ok


# --- parts ---


def test_batches_are_bounded_by_size_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "BATCH_BYTES", 100)
    monkeypatch.setattr(collect, "BATCH_FILES", 3)
    files = [NodeFile(f"a/{n}", size, 0, n) for n, size in enumerate([60, 60, 1, 1, 1, 1, 500])]
    sizes = [[file.bytes for file in batch] for batch in collect._batches(files)]
    assert sizes == [[60], [60, 1, 1], [1, 1], [500]]


def test_the_hash_of_a_beginning(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abcdef")
    assert collect_batch.sha256(tmp_path / "f") == hashlib.sha256(b"abcdef").hexdigest()
    assert collect_batch.sha256(tmp_path / "f", 3) == hashlib.sha256(b"abc").hexdigest()
