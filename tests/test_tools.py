"""The quick-look picture: right sums, right way up, plain words when there is nothing to see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from panoseti.runs.names import data_file_name
from panoseti.runs.pff import PRODUCTS, BoardHeader, Frame, build_frame
from simulator import sky
from tests.helpers import REPO
from tools import picture

HEADER = BoardHeader(pkt_num=1, pkt_tai=2, pkt_nsec=3, tv_sec=1_720_000_000, tv_usec=4)


def frame(product: str, pixels: list[int]) -> bytes:
    boards = (HEADER,) * 4 if product != "ph256" else (HEADER, None, None, None)
    return build_frame(product, Frame(boards, tuple(pixels)))


def write(run_dir: Path, product: str, module: int, *files: bytes) -> None:
    for seqno, data in enumerate(files):
        name = data_file_name(1_720_000_000, product, module, seqno)
        (run_dir / name).write_bytes(data)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "obs_Test.start_2024-07-03T09:46:40Z.runtype_test.pffd"
    folder.mkdir()
    return folder


def one_star(row: int, column: int, value: int = 60000) -> list[int]:
    pixels = [0] * 1024
    pixels[32 * row + column] = value
    return pixels


def test_sums_over_files_and_modules(run_dir: Path) -> None:
    bright, dark = frame("img16", one_star(3, 9)), frame("img16", [1] * 1024)
    write(run_dir, "img16", 254, bright * 3, dark + bright[:100])
    write(run_dir, "img16", 1, dark * 2)
    write(run_dir, "img8", 7, frame("img8", one_star(31, 0, 255)) * 2)
    write(run_dir, "img16", 9, b"")
    write(run_dir, "ph256", 254, frame("ph256", [5] * 256))
    sums = picture.summed_images(run_dir)
    assert {module: frames for module, (frames, _) in sums.items() if frames} == {
        254: 4, 1: 2, 7: 2,
    }  # fmt: skip
    total = sums[254][1]
    assert total.dtype == np.uint64 and total[3, 9] == 180001 and total.sum() == 180000 + 1024
    assert sums[1][1].sum() == 2048
    assert sums[7][1][31, 0] == 510, "the sum of 8-bit images does not wrap"


def brightest(path: Path) -> tuple[float, float]:
    """Where in the left three quarters of a picture its brightest spot is: from top, from left."""
    image = matplotlib.image.imread(path)[:, :, :3]
    height, width, _ = image.shape
    panel = image[:, : width * 3 // 4]
    top = np.array(matplotlib.colormaps["magma"](1.0)[:3])
    rows, columns = np.nonzero(np.abs(panel - top).max(axis=2) < 0.01)
    assert len(rows), "no bright spot"
    return rows.mean() / height, columns.mean() / width


@pytest.mark.parametrize(("row", "column"), [(2, 2), (2, 29), (29, 2), (29, 29)])
def test_row_0_is_at_the_top_and_column_0_at_the_left(run_dir: Path, row: int, column: int) -> None:
    write(run_dir, "img16", 254, frame("img16", one_star(row, column)))
    assert picture.draw(run_dir, run_dir / "picture.png") == [254]
    down, right = brightest(run_dir / "picture.png")
    assert (down > 0.5, right > 0.4) == (row > 16, column > 16)


def test_the_sky_of_the_simulator_is_recognised_in_a_sum(run_dir: Path) -> None:
    module = 254
    rates = sky.star_rates_hz(module)
    pixels = [round(rate * 1e-3) for line in rates for rate in line]
    write(run_dir, "img16", module, frame("img16", pixels) * 2)
    total = picture.summed_images(run_dir)[module][1]
    stars = sorted(sky.CONSTELLATIONS[sky.constellation(module)], key=lambda star: -star[2])
    row, column = np.unravel_index(total.argmax(), total.shape)
    assert (row, column) == stars[0][:2]


def test_a_dark_module_is_drawn_too(run_dir: Path) -> None:
    write(run_dir, "img16", 1, frame("img16", [0] * 1024))
    write(run_dir, "img16", 254, frame("img16", [7] * 1024))
    assert picture.draw(run_dir, run_dir / "picture.png") == [1, 254]


def test_the_command_line(run_dir: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.picture", *words],
            cwd=REPO, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    nothing = run(str(run_dir))
    assert nothing.returncode == 1
    assert nothing.stderr == f"picture: {run_dir}: no image frames recorded, nothing to draw\n"
    absent = run(str(tmp_path / "nowhere"))
    assert absent.returncode == 1 and absent.stderr.count("\n") == 1
    write(run_dir, "img16", 254, frame("img16", one_star(3, 9)))
    done = run(str(run_dir))
    assert (done.returncode, done.stdout) == (0, f"{run_dir / 'picture.png'}\n")
    assert (run_dir / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_every_image_product_is_known_to_the_picture() -> None:
    sides = {name: facts.side for name, facts in PRODUCTS.items() if name.startswith("img")}
    assert sides == dict.fromkeys(picture.IMAGE_PRODUCTS, 32)
