"""run_name, run.json, markers, links, locks: made whole, refused when they are not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panoseti import software
from panoseti.errors import ObsError, RefusedError
from panoseti.flight import FlightRecorder, read_flight, user_name
from panoseti.runs import run_record, run_state
from panoseti.runs.collect_progress import Progress, write_progress
from panoseti.runs.run_state import ControlLock, Holder, Marker
from panoseti.runs.run_watcher import still_to_come
from panoseti.state_files import StateError, create_state, point_link, read_json, write_json
from tests.helpers import REPO, wait_for

RUN = "obs_Test.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"
OTHER = "obs_Test.start_2024-07-25T05:00:00Z.runtype_sci-data.pffd"


def holder(run: str = RUN, owner: str = "ann@head[17]") -> Holder:
    return Holder(run, owner, "abcd", 1721882046.5, "/obs")


# --- run_name ---


def test_the_first_line_is_the_name_and_the_second_says_who(tmp_path: Path) -> None:
    run_state.claim(tmp_path, holder())
    lines = (tmp_path / "run_name").read_text().splitlines()
    assert lines[0] == RUN and len(lines) == 2
    assert run_state.read_holder(tmp_path) == holder()
    assert [path.name for path in tmp_path.iterdir()] == ["run_name"], "temporary files are left"


def test_a_taken_observatory_is_refused_and_says_whose_it_is(tmp_path: Path) -> None:
    run_state.claim(tmp_path, holder())
    with pytest.raises(RefusedError) as refused:
        run_state.claim(tmp_path, holder(OTHER, "bob@head[18]"))
    text = str(refused.value)
    for part in (RUN, "ann@head[17]", "2024-07-25T04:34:06Z", "somebody else may be using"):
        assert part in text
    assert run_state.read_holder(tmp_path) == holder()
    assert [path.name for path in tmp_path.iterdir()] == ["run_name"]


def test_of_many_claims_at_once_exactly_one_wins(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom panoseti.runs import run_state\n"
        "from panoseti.errors import RefusedError\n"
        "who = run_state.Holder(sys.argv[2], sys.argv[3], sys.argv[3], 1.0, '')\n"
        "sys.stdin.readline()\n"
        "try:\n    run_state.claim(Path(sys.argv[1]), who)\n"
        "except RefusedError as error:\n    print(error); sys.exit(3)\n"
    )
    claims = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), RUN, f"user{number}"],
            cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(6)
    ]  # fmt: skip
    for claim in claims:
        assert claim.stdin is not None
        claim.stdin.write("\n")
        claim.stdin.flush()
    words = [claim.communicate(timeout=60)[0] for claim in claims]
    codes = [claim.returncode for claim in claims]
    assert sorted(codes) == [0, 3, 3, 3, 3, 3]
    winner = f"user{codes.index(0)}"
    found = run_state.read_holder(tmp_path)
    assert found is not None and found.owner == winner
    assert all(winner in text for text, code in zip(words, codes, strict=True) if code == 3)


def test_no_run_name_is_no_run(tmp_path: Path) -> None:
    assert run_state.read_holder(tmp_path) is None
    assert run_state.release(tmp_path, RUN) is False


def test_a_bare_name_is_a_run_of_somebody_unknown(tmp_path: Path) -> None:
    (tmp_path / "run_name").write_text(RUN + "\n")
    found = run_state.read_holder(tmp_path)
    assert found == Holder(RUN) and "somebody unknown" in str(found)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"   \n", b"\0" * 40, RUN[:-3].encode(), f" {RUN}\n".encode(),
        f"../{RUN}\n".encode(), b"..\n", b"obs_x;rm -rf ~.start_\n", f"{RUN}/..\n".encode(),
        f"{RUN}\r\n".encode(), b"\xff\xfe", f'{RUN}\n{{"version": 1\n'.encode(),
        f'{RUN}\n{{"version": 99}}\n'.encode(), f"{RUN}\ngarbage\n".encode(),
        f"{RUN}\n[]\n".encode(), f'{RUN}\n{{"version": 1}}\n'.encode(), b"x" * 5000,
        f"{RUN}\n{'[' * 100_000}\n".encode(),
        *(
            f'{RUN}\n{{"version": 1, "owner": "", "token": "", "command_dir": "",'
            f' "since_unix": {since}}}\n'.encode() for since in ("1e300", "NaN", '"soon"', "[]")
        ),
    ],
    ids=lambda content: repr(content[-40:]),
)  # fmt: skip
def test_anything_else_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run_name"
    path.write_bytes(content)
    for act in (
        lambda: run_state.read_holder(tmp_path),
        lambda: run_state.release(tmp_path, RUN),
        lambda: run_state.claim(tmp_path, holder(OTHER)),
    ):
        with pytest.raises(StateError, match="run_name") as refused:
            act()
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_release_removes_the_own_run_only(tmp_path: Path) -> None:
    run_state.claim(tmp_path, holder())
    assert run_state.release(tmp_path, OTHER) is False
    assert run_state.release(tmp_path, RUN) is True
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_file_is_set_aside_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "run_name"
    path.write_bytes(b"garbage")
    kept = run_state.set_aside(path, tmp_path)
    assert not path.exists() and kept.read_bytes() == b"garbage"
    assert kept.parent == tmp_path / "log"


@pytest.mark.parametrize("name", ["", ".", "..", "module_1", RUN + "/x", RUN + "\n", "a b"])
def test_no_path_is_made_of_what_is_no_run_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a run"):
        run_state.run_dir(tmp_path, name)


def test_runs_are_listed_by_time_and_nothing_else(tmp_path: Path) -> None:
    for name in (OTHER, RUN, "log", "module_1", RUN + ".bak"):
        (tmp_path / name).mkdir()
    (tmp_path / RUN.replace("Test", "Link")).symlink_to(OTHER)
    (tmp_path / RUN.replace("Test", "File")).write_text("")
    assert run_state.runs(tmp_path) == [RUN, OTHER]
    assert run_state.runs(tmp_path / "absent") == []


# --- markers and links ---


def test_markers_hold_local_time_and_are_never_rewritten(tmp_path: Path) -> None:
    run_state.write_marker(tmp_path, Marker.RECORDING_ENDED)
    text = (tmp_path / "recording_ended").read_bytes()
    assert len(text) == 19 and text[10:11] == b"T" and b"Z" not in text and b"\n" not in text
    (tmp_path / "recording_ended").write_text("2024-01-01T00:00:00")
    run_state.write_marker(tmp_path, Marker.RECORDING_ENDED)
    assert run_state.read_marker(tmp_path, Marker.RECORDING_ENDED) == "2024-01-01T00:00:00"
    assert run_state.read_marker(tmp_path, Marker.RUN_COMPLETE) is None


def test_links_show_the_run_and_its_first_files(tmp_path: Path) -> None:
    (tmp_path / "img").symlink_to("old/img.pff")
    run_state.link_run(tmp_path, RUN)
    links = {path.name: os.readlink(path) for path in tmp_path.iterdir()}
    assert links == {"run": RUN, "hk": f"{RUN}/hk.pff"}
    run_state.link_first_files(tmp_path, RUN, "i.pff", None)
    assert os.readlink(tmp_path / "img") == f"{RUN}/i.pff" and not (tmp_path / "ph").exists()
    run_state.link_first_files(tmp_path, OTHER, "x.pff", "x.pff")
    assert os.readlink(tmp_path / "img") == f"{RUN}/i.pff", "an older run took the link"
    run_state.unlink_run(tmp_path, OTHER)
    assert (tmp_path / "run").is_symlink()
    run_state.unlink_run(tmp_path, RUN)
    assert list(tmp_path.iterdir()) == []


def test_a_link_never_replaces_what_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError):
        point_link(tmp_path / "run", RUN)
    assert (tmp_path / "run").is_dir() and not (tmp_path / "run").is_symlink()


# --- locks ---


@pytest.fixture
def other_holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the control lock and the collection of `tmp_path`."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from panoseti.runs.run_state import ControlLock, collect_lock\n"
        "lock = ControlLock(Path(sys.argv[1]))\n"
        "assert lock.take('start.py')\n"
        "with collect_lock(Path(sys.argv[1])) as free:\n"
        "    print(free, flush=True)\n    sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    yield child
    child.kill()
    child.communicate()


def test_locks_name_their_holder_and_end_with_it(
    tmp_path: Path, other_holder: subprocess.Popen[str]
) -> None:
    lock = ControlLock(tmp_path)
    assert not lock.take("stop.py")
    at_work = lock.held_by()
    assert at_work.pid == other_holder.pid
    who = rf"start.py of {re.escape(user_name())}@\S+\[{other_holder.pid}\]"
    assert re.fullmatch(rf"{who} since 20\S+Z \(pid {other_holder.pid}\)", str(at_work))
    with run_state.collect_lock(tmp_path) as free:
        assert not free
    assert run_state.collector_pid(tmp_path) == other_holder.pid
    assert run_state.control_pid(tmp_path) == other_holder.pid
    other_holder.kill()
    other_holder.wait(20)
    assert wait_for(lambda: lock.take("stop.py"), "the lock of a dead process")
    with lock, run_state.collect_lock(tmp_path) as free:
        assert free and run_state.collector_pid(tmp_path) == os.getpid()
        assert lock.held_by().pid == os.getpid()
    assert run_state.collector_pid(tmp_path) is run_state.control_pid(tmp_path) is None


def test_the_holder_of_a_lock_is_found_where_files_have_another_device_than_their_mount(
    tmp_path: Path,
) -> None:
    """As on overlayfs and btrfs."""
    (tmp_path / "lower" / "data" / "log").mkdir(parents=True)
    (tmp_path / "lower" / "data" / "log" / run_state.CONTROL_LOCK).touch()
    mount = (
        "mkdir top disk && mount -t tmpfs tmpfs top && mkdir top/upper top/work && mount -t overlay"
        " -o xino=off,lowerdir=lower,upperdir=top/upper,workdir=top/work overlay disk"
        ' && exec "$0" -c "$1"'
    )
    script = (
        "from pathlib import Path\nfrom panoseti.runs import run_state\n"
        "place = Path('disk/data')\nlock = run_state.ControlLock(place)\n"
        "with lock, run_state.collect_lock(place) as free:\n"
        "    print(lock.take('a start'), free)\n"
        "    print(run_state.control_pid(place) == run_state.collector_pid(place) != None)\n"
        "print(run_state.control_pid(place), run_state.collector_pid(place))\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, script],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"an overlay cannot be mounted here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["True True", "True", "None None"], done.stderr


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path: Path) -> None:
    """Once taken it must be given back, and known to be ours: the words in it are for others."""
    path = tmp_path / "log" / run_state.CONTROL_LOCK
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    with ControlLock(tmp_path) as first:
        assert first.take("stop.py") and not ControlLock(tmp_path).take("stop.py")
        assert run_state.control_pid(tmp_path) == os.getpid()
    with ControlLock(tmp_path) as next_one:
        assert next_one.take("stop.py"), "it was not given back"


# --- run.json ---


def new_record(folder: Path, **options: bool) -> run_record.RunRecord:
    expected = run_record.Expected(("192.168.3.248",), {"daq1": (254,)})
    document = run_record.new_document(holder(), ["start.py"], {"commit": "c"}, expected)
    record = run_record.RunRecord(folder, document, flight=FlightRecorder(folder, "x"), **options)
    record.set()
    return record


def stored(folder: Path) -> dict[str, Any]:
    return read_json(folder / "run.json", run_record.VERSION)


def test_the_intent_is_on_disk_before_the_act_and_the_result_after(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    with record.act("start", "record", "daq1") as act:
        (step,) = stored(tmp_path)["steps"]
        assert step["what"] == "record" and step["intent_unix"] and step["result_unix"] is None
        assert run_record.unfinished(stored(tmp_path)) == [step]
        act.text = "pid 17"
    (step,) = stored(tmp_path)["steps"]
    assert step["ok"] is True and step["text"] == "pid 17" and step["result_unix"]
    assert run_record.unfinished(stored(tmp_path)) == []
    assert [line.what for line in read_flight(tmp_path)] == ["intent", "result"]


def test_a_failed_act_is_recorded_and_goes_on_up(tmp_path: Path) -> None:
    record = new_record(tmp_path)
    with pytest.raises(ObsError), record.act("start", "record"):
        raise ObsError("daq1: no route")
    with pytest.raises(KeyboardInterrupt), record.act("start", "wait"):
        raise KeyboardInterrupt
    steps = stored(tmp_path)["steps"]
    assert [(step["ok"], step["text"]) for step in steps] == [
        (False, "daq1: no route"), (False, "KeyboardInterrupt"),
    ]  # fmt: skip


def test_many_threads_record_without_losing_an_act(tmp_path: Path) -> None:
    record = new_record(tmp_path)

    def work(name: str) -> None:
        for _ in range(5):
            with record.act("stop", "drain", name):
                pass

    threads = [threading.Thread(target=work, args=(f"daq{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps = stored(tmp_path)["steps"]
    assert len(steps) == 20 and all(step["ok"] for step in steps)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    folder.mkdir()
    new_record(folder)
    assert run_record.read_record(folder).document == stored(folder)


def test_start_begins_nothing_it_cannot_record_but_stop_goes_on(tmp_path: Path) -> None:
    strict, tolerant = new_record(tmp_path), new_record(tmp_path, tolerant=True)
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").mkdir()
    done = []
    with pytest.raises(ObsError, match="nothing is begun"), strict.act("start", "x"):
        done.append("strict")
    with tolerant.act("stop", "x"):
        done.append("tolerant")
    assert done == ["tolerant"] and "run.json" in tolerant.problem


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": 1}',
                                     pytest.param("[" * 100_000, id="deep"),
                                     '{"version": 1, "steps": [3]}',
                                     '{"version": 1, "steps": [], "run": ".."}'])  # fmt: skip
def test_an_unusable_record_is_refused_with_its_path(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(StateError, match="run.json"):
        run_record.read_record(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expected", None), ("expected", {"quabos": []}), ("expected", {"quabos": [], "nodes": []}),
        ("recording_unix", None), ("recording_unix", "soon"), ("steps", [{"phase": "start"}]),
        ("planned_end_unix", 1e300), ("ended_unix", float("inf")),
        ("collection", [3]), ("collection", [{"nodes": [{}]}]),
    ],
)  # fmt: skip
def test_a_record_that_lacks_what_others_need_is_refused(
    tmp_path: Path, name: str, value: Any
) -> None:
    folder = tmp_path / RUN
    folder.mkdir()
    document = new_record(folder).document
    run_record.read_record(folder)
    document[name] = value
    if value is None:
        del document[name]
    write_json(folder / "run.json", document)
    with pytest.raises(StateError, match="run.json"):
        run_record.read_record(folder)


def test_what_others_recorded_meanwhile_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    folder.mkdir()
    one = new_record(folder, tolerant=True)
    other = run_record.read_record(folder)
    other.set(collection=[{"nodes": []}])
    one.refresh()
    one.set(ended_unix=1.0)
    assert stored(folder)["collection"] == [{"nodes": []}] and stored(folder)["ended_unix"] == 1
    (folder / "run.json").write_text("")
    one.refresh()
    assert one.document["ended_unix"] == 1, "what is here is better than nothing"


def test_state_files_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"version": 1, "a": [1, 2]})
    with pytest.raises(FileExistsError):
        create_state(path, b"other")
    assert json.loads(path.read_text()) == {"version": 1, "a": [1, 2]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


# --- versions ---


def test_the_software_is_named_by_its_commit(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=Ann", "-c", "user.email=a@b", "-C", str(tmp_path), *words],
            check=True, capture_output=True,
        )  # fmt: skip

    assert set(software.sw_info(tmp_path).values()) == {"unknown"}
    git("init", "-q", "-b", "night")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "x")
    info = software.sw_info(tmp_path)
    assert info["author"] == "Ann" and info["branch"] == "night" and len(info["commit"]) == 40
    assert len(info["commit_date"]) == 19 and info["commit_date"][10] == " "
    (tmp_path / "a").write_text("2")
    assert software.sw_info(tmp_path)["commit"] == info["commit"] + "+"


def test_what_is_still_to_come_is_that_of_collectors_at_work(tmp_path: Path) -> None:
    for run in (RUN, OTHER):
        (tmp_path / run).mkdir()
        write_progress(tmp_path / run, Progress(300, 1000, 1.0))
    assert still_to_come(tmp_path) == 0, "of collectors that are gone"
    with run_state.collect_lock(tmp_path / RUN) as free:
        assert free and still_to_come(tmp_path) == 700
