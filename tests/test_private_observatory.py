"""A simulated observatory in a folder: complete, apart from others, and nobody is left behind."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from panoseti.configs.load_configs import load_site
from panoseti.errors import RefusedError
from panoseti.launch import launch
from simulator import leftovers
from simulator.private_observatory import private_observatory
from simulator.site_writer import free_prefix, head_address, module_base
from simulator.standing import check_simulable
from tests.helpers import wait_for


@contextmanager
def program(folder: Path, name: str, *words: str, cwd: Path) -> Iterator[psutil.Process]:
    """A process of that name that does nothing."""
    copy = shutil.copy(shutil.which("sleep") or "/bin/sleep", folder / name)
    with subprocess.Popen([copy, "60", *words], cwd=cwd) as child:
        process = psutil.Process(child.pid)
        wait_for(lambda: process.name() == name, f"{name} to run")
        try:
            yield process
        finally:
            child.kill()


def test_only_our_programs_that_work_in_the_folder_are_its_workers(tmp_path: Path) -> None:
    mine, other, bin_dir = (tmp_path / name for name in ("mine", "other", "bin"))
    for folder in (mine, other, bin_dir):
        folder.mkdir()
    with (
        program(bin_dir, "hashpipe", cwd=mine) as ours,
        program(bin_dir, "vi", cwd=mine) as editor,
        program(other, "hashpipe", cwd=other) as strange,
    ):
        assert [one.pid for one in leftovers.workers(mine)] == [ours.pid]
        assert [one.pid for one in leftovers.workers(other)] == [strange.pid]
        with pytest.raises(RefusedError, match=rf"hashpipe \(pid {strange.pid}\)"):
            leftovers.refuse_beside_others(mine)
        assert leftovers.end_workers(mine) == [f"hashpipe (pid {ours.pid}) ended"]
        assert editor.is_running() and strange.status() != psutil.STATUS_ZOMBIE
        assert leftovers.workers(mine) == []
    leftovers.refuse_beside_others(mine)


def test_complete_and_gone_even_when_something_fails(tmp_path: Path) -> None:
    folder = tmp_path / "an observatory"
    with pytest.raises(RuntimeError, match="as it happens"):
        with private_observatory(folder, simulator_options=("--silver",)) as observatory:
            site = load_site(observatory.command_dir)
            check_simulable(site)
            assert not site.warnings
            assert [m.id for m in site.obs.modules] == [1, 254]
            assert site.head_data_dir == folder / "data"
            pid = launch("capture_hk", observatory.command_dir, observatory.data_dir)
            assert pid in [one.pid for one in leftovers.workers(folder)]
            with observatory.client() as client:
                assert set(client.state()["boards"]) == set(observatory.site.quabos)
            raise RuntimeError("as it happens")
    assert leftovers.workers(folder) == []
    heartbeat = (folder / "data" / "log" / "capture_hk.heartbeat.json").read_text()
    assert '"state": "ended"' in heartbeat


def test_two_of_them_at_once(tmp_path: Path) -> None:
    with (
        private_observatory(tmp_path / "1", modules=(254,)) as one,
        private_observatory(tmp_path / "2", modules=(254,)) as two,
    ):
        assert one.site.head != two.site.head
        assert one.redis.port != two.redis.port or one.redis.host != two.redis.host
        for observatory in (one, two):
            with observatory.client() as client:
                assert len(client.state()["boards"]) == 4


def test_addresses_keep_the_low_bits() -> None:
    prefix = free_prefix((0, 1, 255))
    assert module_base("127.81.40", 254) == "127.81.43.248"
    assert module_base("127.81.40", 0) == "127.81.40.0"
    assert head_address("127.81.40", 2) == "127.81.44.2"
    assert int(prefix.split(".")[2]) % 4 == 0
