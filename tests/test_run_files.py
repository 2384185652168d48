"""run_files.py: nothing is deleted or replaced but what was named and is what it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import node_dir
from tests.helpers import wait_for
from tests.node_dir import OTHER_RUN, RUN, NodeDir, end_hashpipes

NAME = "start_2024-07-25T04:34:46Z.dp_img16.bpp_2.module_1.seqno_0.pff"
PATH = f"module_1/{RUN}/{NAME}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeDir]:
    yield NodeDir(tmp_path / "node data", node_dir.ENDS_AT_SIGINT)
    end_hashpipes()


def put(node: NodeDir, path: str, content: bytes = b"data") -> Path:
    place = node.path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def listed(node: NodeDir, run: str = RUN) -> list[dict[str, Any]]:
    answer = node.files("list", run)
    assert answer.code == 0
    files: list[dict[str, Any]] = answer.document["files"]
    return files


def test_list(node: NodeDir, tmp_path: Path) -> None:
    place = put(node, PATH, b"12345")
    put(node, f"{RUN}/hp_log_127.0.0.1")
    put(node, f"module_2/{OTHER_RUN}/{NAME}")
    (node.path / f"module_1/{RUN}/link").symlink_to("/etc/passwd")
    (node.path / f"module_1/{RUN}/folder").mkdir()
    put(node, f"module_1/{RUN}/.hidden")
    document = node.files("list").document
    status = place.stat()
    assert document["files"] == [
        {
            "path": PATH,
            "bytes": 5,
            "mtime_ns": status.st_mtime_ns,
            "inode": status.st_ino,
            "device": status.st_dev,
        },
        {**document["files"][1], "path": f"{RUN}/hp_log_127.0.0.1"},
    ]
    assert document["others"] == [
        f"module_1/{RUN}/{name}" for name in (".hidden", "folder", "link")
    ]
    assert document["head_run_dir"] is False
    runs = node.helper("run_files.py", "runs").document["runs"]
    assert runs == [
        {"run": RUN, "files": 2, "bytes": 9, "head": None},
        {"run": OTHER_RUN, "files": 1, "bytes": 4, "head": None},
    ]


def test_the_head_node_of_a_run_is_told_by_the_copy_of_its_configs(node: NodeDir) -> None:
    put(node, PATH)
    config = put(node, f"{RUN}/daq_config.json")
    head = {"address": "10.0.1.1", "data_dir": "/data/a"}
    names = {"head_node_ip_addr": head["address"], "head_node_data_dir": head["data_dir"]}
    texts = {json.dumps({**names, "daq_nodes": []}): head, "[1]": None, "{}": None, "": None}
    for text, told in texts.items():
        config.write_text(text)
        (run,) = node.helper("run_files.py", "runs").document["runs"]
        assert run["head"] == told, text
    config.unlink()
    os.mkfifo(config)
    (run,) = node.helper("run_files.py", "runs").document["runs"]
    assert run["head"] is None


def test_a_name_that_vanishes_hides_no_other(node: NodeDir) -> None:
    """Between the listing of a folder and the look at each file of it."""
    put(node, PATH)
    script = (
        "import os, daq_files; real = os.listdir\n"
        "os.listdir = lambda folder: ['a_file_of_before', *real(folder)]\n"
        f"print([file['path'] for file in daq_files.list_folder(1, {RUN!r})[0]])"
    )
    words = [sys.executable, "-B", "-c", script]
    told = subprocess.run(words, cwd=node.path, text=True, capture_output=True)
    assert told.stdout == f"{[PATH]}\n", told


def test_hash(node: NodeDir) -> None:
    content = os.urandom(9_000_000)
    put(node, PATH, content)
    answer = node.files("hash", given=[PATH, f"module_1/{RUN}/absent.pff"])
    assert answer.code == 1
    first, second = answer.document["files"]
    assert {**listed(node)[0], "sha256": hashlib.sha256(content).hexdigest()} == first
    assert second == {"path": f"module_1/{RUN}/absent.pff", "error": second["error"]}
    assert "No such file" in second["error"]
    assert "absent.pff" in answer.error


@pytest.mark.parametrize("recording", [False, True])
def test_hashing_leaves_processor_and_disk_to_others(node: NodeDir, recording: bool) -> None:
    """To a recording altogether: class idle of both schedulers (the disk's follows)."""
    if recording:
        assert node.start(OTHER_RUN).code == 0
    path = put(node, PATH)
    os.truncate(path, 1 << 40)  # takes as long as we need, and no space
    words = node.words("run_files.py", "hash", "--run", RUN)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps({"files": [PATH]}).encode())
            child.stdin.close()
            hashing = psutil.Process(child.pid)
            wait_for(
                lambda: str(path) in [file.path for file in hashing.open_files()], "it to hash"
            )
            assert hashing.nice() == 19
            assert (os.sched_getscheduler(child.pid) == os.SCHED_IDLE) is recording
            assert child.poll() is None
        finally:
            child.kill()


def test_moving_leaves_processor_and_disk_to_others(node: NodeDir) -> None:
    """It may be a copy to another disk."""
    put(node, PATH)
    node.start(OTHER_RUN)
    (node.path / RUN).mkdir()
    (node.path / RUN / "run.json").write_text("{}")
    script = (
        "import os, sys, run_files\n"
        "done = run_files.main(sys.argv[1:])\n"
        "print(done['files'][0]['how'], os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE)"
    )
    words = ["move", "--data_dir", str(node.path), "--run", RUN]
    said = subprocess.run(
        [sys.executable, "-B", "-c", script, *words], input=json.dumps({"files": [PATH]}),
        cwd=node.path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said.stdout == "renamed 19 True\n", said


def test_delete(node: NodeDir) -> None:
    put(node, PATH)
    put(node, f"module_254/{RUN}/{NAME}")
    put(node, f"{RUN}/obs_config.json")
    files = listed(node)
    answer = node.files("delete", given=files)
    assert answer.code == 0
    assert answer.document["files"] == [{"path": f["path"], "deleted": True} for f in files]
    assert answer.document["removed"] == [f"module_1/{RUN}", f"module_254/{RUN}"]
    assert node.names() == {RUN, "module_1", "module_254"}
    # Once more, as after a connection that was lost: nothing to do is no failure.
    answer = node.files("delete", given=files, words=["--run_dir"])
    assert answer.code == 0
    assert [f["deleted"] for f in answer.document["files"]] == [False] * 3
    assert answer.document["removed"] == [RUN]
    assert node.names() == {"module_1", "module_254"}


@pytest.mark.parametrize("change", ["grown", "touched", "replaced", "link", "folder"])
def test_file_that_changed_is_kept(node: NodeDir, tmp_path: Path, change: str) -> None:
    place = put(node, PATH)
    files = listed(node)
    if change == "grown":
        place.write_bytes(b"data+")
        os.utime(place, ns=(0, files[0]["mtime_ns"]))
    elif change == "touched":
        os.utime(place, ns=(0, files[0]["mtime_ns"] + 1))
    else:
        place.rename(tmp_path / "away")
        if change == "replaced":
            place.write_bytes(b"DATA")
            os.utime(place, ns=(0, files[0]["mtime_ns"]))
        elif change == "link":
            place.symlink_to(tmp_path / "away")
        else:
            place.mkdir()
    answer = node.files("delete", given=files)
    assert answer.code == 1
    assert "kept" in answer.error
    assert os.path.lexists(place)
    assert answer.document["left"] == [f"module_1/{RUN}: {NAME}"]


EVIL = [
    NAME,
    f"module_1/{NAME}",
    f"/module_1/{RUN}/{NAME}",
    f"module_1/{RUN}/../{RUN}/{NAME}",
    f"../node data/module_1/{RUN}/{NAME}",
    f"module_1/{OTHER_RUN}/{NAME}",
    f"module_256/{RUN}/{NAME}",
    f"module_01/{RUN}/{NAME}",
    f"module_1/{RUN}/..",
    f"module_1/{RUN}/.",
    f"module_1/{RUN}/",
    f"module_1/{RUN}/.hidden",
    f"module_1/{RUN}/{NAME}\n",
    f"{RUN}/../start_daq.py",
    f"./module_1/{RUN}/{NAME}",
    "",
    None,
    7,
    ["module_1", RUN, NAME],
]


@pytest.mark.parametrize("verb", ["delete", "hash", "move"])
def test_only_paths_of_the_run(node: NodeDir, verb: str) -> None:
    place = put(node, PATH)
    other = put(node, f"module_1/{OTHER_RUN}/{NAME}")
    good = listed(node)[0]
    (node.path / RUN).mkdir()
    for path in EVIL if verb == "delete" else EVIL[::4]:
        given = [good, {**good, "path": path}] if verb == "delete" else [PATH, path]
        answer = node.files(verb, given=given)
        assert answer.code == 2, path
        assert "is not the path of a file of run" in answer.error
    for text in ("", "[]", '{"files": 1}', '{"files": [{}]}'):
        answer = node.helper("run_files.py", verb, "--run", RUN, given=text)
        assert answer.code == 2, text
    for run in ("", "..", f"../{RUN}", f"{RUN}\n"):
        assert node.files(verb, run, given=[]).code == 2, run
    assert place.exists()
    assert other.exists()


@pytest.mark.parametrize("verb", ["delete", "move"])
def test_run_directory_that_is_a_link(node: NodeDir, tmp_path: Path, verb: str) -> None:
    precious = tmp_path / "elsewhere"
    precious.mkdir()
    (precious / NAME).write_bytes(b"data")
    status = (precious / NAME).stat()
    (node.path / RUN).mkdir()
    (node.path / "module_1").mkdir()
    (node.path / "module_1" / RUN).symlink_to(precious)
    entry = {"path": PATH, "bytes": 4, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    answer = node.files(verb, given=[entry if verb == "delete" else PATH])
    assert answer.code == 1
    assert (precious / NAME).read_bytes() == b"data"


@pytest.mark.parametrize("verb", ["delete", "move"])
def test_nothing_while_it_records(node: NodeDir, verb: str) -> None:
    place = put(node, PATH)
    given = listed(node) if verb == "delete" else [PATH]
    assert node.start().code == 0
    refused = node.files(verb, given=given)
    assert (refused.code, f"run {RUN} is in progress" in refused.error) == (3, True)
    # Without its state files it is still seen to record.
    for name in ("current_run_daq", "daq_pid"):
        (node.path / name).unlink()
    refused = node.files(verb, given=given)
    assert (refused.code, "is recording: stop.py" in refused.error) == (3, True)
    (node.path / "current_run_daq").write_text("")
    refused = node.files(verb, given=given)
    assert (refused.code, "it may record" in refused.error) == (3, True)
    assert place.exists()
    # Another run can be taken care of meanwhile.
    old = put(node, f"module_1/{OTHER_RUN}/{NAME}")
    (node.path / "current_run_daq").unlink()
    answer = node.files("delete", OTHER_RUN, given=listed(node, OTHER_RUN))
    assert (answer.code, old.exists()) == (0, False)
    assert node.stop().code == 0
    (node.path / RUN).mkdir(exist_ok=True)
    assert node.files(verb, given=given).code == 0
    assert not place.exists()


def test_head_nodes_run_directory(node: NodeDir) -> None:
    """Where head node and node share the data directory."""
    precious = put(node, f"{RUN}/hk.pff")
    files = listed(node)
    put(node, f"{RUN}/run.json")
    put(node, PATH)
    document = node.files("list").document
    assert [f["path"] for f in document["files"]] == [PATH]
    assert document["head_run_dir"] is True
    refused = node.files("delete", given=files)
    assert (refused.code, "head node's run directory" in refused.error) == (3, True)
    moved = node.files("move", given=[PATH])
    assert moved.code == 0
    assert node.files("delete", given=[], words=["--run_dir"]).code == 0
    assert precious.exists()
    assert (node.path / RUN / NAME).read_bytes() == b"data"
    assert not (node.path / "module_1" / RUN).exists()
    assert node.helper("run_files.py", "runs").document["runs"] == []


def test_move(node: NodeDir) -> None:
    place = put(node, PATH)
    inode = place.stat().st_ino
    (node.path / RUN).mkdir()
    answer = node.files("move", given=[PATH])
    assert answer.code == 0
    target = node.path / RUN / NAME
    assert target.stat().st_ino == inode
    entry = answer.document["files"][0]
    assert (entry["path"], entry["from"], entry["how"]) == (f"{RUN}/{NAME}", PATH, "renamed")
    assert answer.document["removed"] == [f"module_1/{RUN}"]
    again = node.files("move", given=[PATH])
    assert again.code == 1  # its directory is gone: the caller lists first
    # Cut short between link and unlink.
    place.parent.mkdir()
    os.link(target, place)
    assert node.files("move", given=[PATH]).code == 0
    assert not place.exists()
    # A different file of that name is never replaced.
    put(node, PATH, b"other")
    kept = node.files("move", given=[PATH])
    assert (kept.code, "another file" in kept.error) == (1, True)
    assert (target.read_bytes(), place.read_bytes()) == (b"data", b"other")
    # Nor does the rest suffer.
    put(node, f"module_1/{RUN}/good.pff", b"good")
    both = node.files("move", given=[PATH, f"module_1/{RUN}/good.pff"])
    assert both.code == 1
    assert (node.path / RUN / "good.pff").read_bytes() == b"good"


@pytest.mark.parametrize("links", [True, False], ids=["links", "no hard links"])
def test_a_moved_file_is_on_the_disk_before_it_has_its_new_name(node: NodeDir, links: bool) -> None:
    """The head node calls the run complete when all names are there."""
    inode = put(node, PATH).stat().st_ino
    (node.path / RUN).mkdir()
    script = f"""import os, daq_files
acts = []
def noted(name, act):
    def call(*words, **options):
        acts.append((name, os.fstat(words[0]).st_ino if name == "fsync" else words[0]))
        return act(*words, **options)
    return call
def link(*words, **options):
    raise PermissionError(1, "no hard links")
if not {links}:
    os.link = link
for name in ("fsync", "link", "rename"):
    setattr(os, name, noted(name, getattr(os, name)))
daq_files.move_file(daq_files.parse_path({PATH!r}, {RUN!r}))
print([act[0] for act in acts], acts[0][1])"""
    words = [sys.executable, "-B", "-c", script]
    told = subprocess.run(words, cwd=node.path, text=True, capture_output=True)
    acts = ["fsync", "link"] if links else ["fsync", "link", "rename"]
    assert told.stdout == f"{acts} {inode}\n", told


def test_move_from_another_disk(node: NodeDir, tmp_path: Path) -> None:
    disk = Path(f"/dev/shm/panoseti-test-{os.getpid()}")
    if os.stat("/dev/shm").st_dev == node.path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system here")
    disk.mkdir()
    try:
        (node.path / "module_1").symlink_to(disk)
        (node.path / RUN).mkdir()
        content = os.urandom(5_000_000)
        digest = hashlib.sha256(content).hexdigest()
        place = put(node, PATH, content)
        mtime_ns = place.stat().st_mtime_ns
        answer = node.files("move", given=[PATH])
        assert answer.code == 0, answer.error
        entry = answer.document["files"][0]
        assert (entry["how"], entry["sha256"], entry["mtime_ns"]) == ("copied", digest, mtime_ns)
        target = node.path / RUN / NAME
        assert target.read_bytes() == content
        assert os.listdir(node.path / RUN) == [NAME]
        assert os.listdir(disk) == []
        # Cut short before the source was removed, and a part left by an earlier attempt.
        put(node, PATH, content)
        put(node, f"{RUN}/.{NAME}.part", b"half")
        assert node.files("move", given=[PATH]).code == 0
        assert not place.exists()
        # So cut short, and its torn end cut off on the head node since.
        put(node, PATH, content)
        os.truncate(target, len(content) - 1000)
        assert node.files("move", given=[PATH]).code == 0
        assert target.read_bytes() == content and not place.exists()
        for shorter in (content[:1000], b""):  # what is there has more: nothing is lost of it
            put(node, PATH, shorter)
            assert node.files("move", given=[PATH]).code == 1
            assert target.read_bytes() == content and place.read_bytes() == shorter
        put(node, PATH, b"other")
        kept = node.files("move", given=[PATH])
        assert (kept.code, "differs from that of the same name" in kept.error) == (1, True)
        assert (target.read_bytes(), place.read_bytes()) == (content, b"other")
        modules = {tuple(v["modules"]): v["default"] for v in node.status()["volumes"]}
        assert modules == {(): True, (1,): False}
    finally:
        for path in sorted(disk.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        disk.rmdir()


def test_place(node: NodeDir) -> None:
    marker = f".same_{'a' * 32}"
    answer = node.helper("run_files.py", "place", "--marker", marker)
    status = node.path.stat()
    assert (answer.document["device"], answer.document["inode"]) == (status.st_dev, status.st_ino)
    assert answer.document["marker"] is None
    (node.path / marker).write_text("secret")
    assert node.helper("run_files.py", "place", "--marker", marker).document["marker"] == "secret"
    assert node.helper("run_files.py", "place", "--marker", "../x").code == 2
