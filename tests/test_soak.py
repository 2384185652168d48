"""The soak: closed files are checked and removed as they come, and what is wrong is seen."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.bench import place, programs, soak
from tools.bench.measure import Case

CASE = Case("img16", 1, 20_000, "udp")
FRAME = 2540
FRAMES_IN_A_FILE = 394  # of 1 MB


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    programs.build()


def options(folder: Path, **changes: object) -> argparse.Namespace:
    """A soak of a moment."""
    given = {"minutes": 0.02, "max_file_size_mb": 1, "one_in": 1, "dir": folder}
    return argparse.Namespace(**given | changes)


@pytest.mark.parametrize("one_in", [1, 3])
def test_a_soak(tmp_path: Path, one_in: int) -> None:
    words = options(tmp_path, one_in=one_in)
    with place.loopback() as where:
        done = soak.soak(where, CASE, words)
    found = done.found
    assert found["files"] >= 4
    assert (found["skimmed"] > 0) == (one_in > 1)
    if one_in == 1:
        totals = done.status["totals"]
        assert found["packets"] == totals["recorded"]
        assert found["packets"] + totals["kernel_drops"] + totals["late"] == done.told["sent"]
    text = soak.text(where.label, CASE, words, done)
    assert f"{done.told['sent']} sent" in text
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """Three full files and a rest, of one module."""
    folder = tmp_path_factory.mktemp("recorded")
    product = programs.PRODUCTS["img16"]
    with (
        place.loopback() as where,
        programs.recording(where, folder / "run", product, 1, "udp", MAXFILESIZE=1) as pipeline,
    ):
        pipeline.wait_until_it_records()
        with programs.sending(where, folder, product, 1, CASE.rate, CASE.period_ns) as sender:
            while sender.sent < 4 * 3.5 * FRAMES_IN_A_FILE:
                time.sleep(0.01)
            sender.end()
        pipeline.end()
        files = [path.read_bytes() for path in pipeline.files("img16")[1]]
    assert [len(file) // FRAME for file in files[:3]] == [FRAMES_IN_A_FILE] * 3
    yield files


def check(folder: Path, files: list[bytes], one_in: int = 1) -> tuple[int, dict[str, int], str]:
    """Exit code, last counts, and complaints of the checker that follows these files."""
    for k, file in enumerate(files):
        (folder / f"file{k}").write_bytes(file)
    done = subprocess.run(
        [str(programs.PROGRAMS / "check"), "img16", "0", str(CASE.period_ns), str(one_in), "-"],
        input="".join(f"{folder}/file{k}\n" for k in range(len(files))),
        capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    return done.returncode, json.loads(lines[-1]), done.stderr


@pytest.mark.parametrize("one_in", [1, 10])
def test_checked_from_file_to_file(tmp_path: Path, recorded: list[bytes], one_in: int) -> None:
    code, counts, said = check(tmp_path, recorded, one_in)
    assert (code, said, counts["wrong"]) == (0, "", 0)
    assert counts["missing"] == counts["missing_frames"] == counts["partial"] == 0
    assert counts["frames"] == sum(map(len, recorded)) // FRAME
    # A frame is missing just before the second file begins.
    cut = [recorded[0][:-FRAME], *recorded[1:]]
    _, counts, _ = check(tmp_path, cut, one_in)
    assert (counts["missing"], counts["missing_frames"]) == (4, 0)
    # And one in the middle of the third.
    middle = 100 * FRAME
    cut = [*recorded[:2], recorded[2][:middle] + recorded[2][middle + FRAME :], *recorded[3:]]
    _, counts, _ = check(tmp_path, cut, one_in)
    assert (counts["missing"], counts["missing_frames"]) == ((4, 0) if one_in == 1 else (0, 1))


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (600, "pixels differ"),
        (30, "the header is not as it should be"),
        (38, "does not go with time"),
        (490, "the header is not as it should be"),
    ],
)
def test_wrong_bytes_are_seen(tmp_path: Path, recorded: list[bytes], at: int, said: str) -> None:
    file = bytearray(recorded[1])
    at += 50 * FRAME
    file[at] = ord("7") if file[at] != ord("7") else ord("8")
    code, counts, complaints = check(tmp_path, [recorded[0], bytes(file)])
    assert code == 1 and counts["wrong"] >= 1
    assert said in complaints and f"file1 at byte {50 * FRAME}" in complaints


def test_a_torn_or_repeated_file_is_seen(tmp_path: Path, recorded: list[bytes]) -> None:
    code, _, complaints = check(tmp_path, [recorded[0][:-7], recorded[1]])
    assert code == 1 and "not a whole number of frames" in complaints
    code, _, complaints = check(tmp_path, [recorded[0], recorded[0]])
    assert code == 1 and "after" in complaints
